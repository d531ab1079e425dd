//! `log(offset, epoch, ts, op, key, value)`: the records of the log, from its start to where the
//! view stands.
//!
//! Called by `vtab`; reads through [`Cursor`]. Offsets bound where reading starts and ends, the
//! lower bound of a time where it starts; times do not rise with offsets, so the upper one, like
//! keys, is only held against each record before its bytes are copied. A log is read forward; the
//! last records first means a piece at a time from the end. Records that a repair has recorded as lost are passed over: [`Database::lost`](super::Database::lost) tells them.

use std::ffi::CStr;
use std::ops::Range;
use std::sync::Arc;

use rusqlite::types::ValueRef;

use crate::error::{Kind, Result};
use crate::log::{Cursor, Entry, Log, OwnedEntry};
use crate::position::Offset;
use crate::record::Op;

use super::bounds::{Integers, Keys};
use super::plan::{Column, Offered, Plan, Term, Test};
use super::vtab::{Source, Walk};
use super::{State, integer, text_or_blob};

const ROW_NUMBER: i32 = -1;
const OFFSET: i32 = 0;
const EPOCH: i32 = 1;
const TS: i32 = 2;
const OP: i32 = 3;
const KEY: i32 = 4;

/// Records between two looks at whether to stop.
const STOP_EVERY: u32 = 256;
/// Records in a piece when reading backwards: the first piece, and at most.
const FIRST_PIECE: u64 = 16;
const MOST_PIECE: u64 = 4096;
/// A piece with more bytes makes the next one smaller.
const PIECE_BYTES: usize = 1 << 20;

/// The table.
#[derive(Clone)]
pub(super) struct Records {
    log: Arc<Log>,
    start: u64,
    end: u64,
    state: Arc<State>,
}

impl Records {
    pub(super) fn new(log: Arc<Log>, end: Offset, state: Arc<State>) -> Self {
        let start = log.start().0.min(end.0);
        Records { log, start, end: end.0, state }
    }
}

impl Source for Records {
    const SCHEMA: &'static CStr = c"CREATE TABLE log(offset INTEGER, epoch INTEGER, ts INTEGER, op TEXT, key TEXT, value TEXT)";
    type Walk = RecordsWalk;

    fn plan(&self, offered: &[Offered], order: &[(i32, bool)]) -> Plan {
        let mut plan = Plan::default();
        for constraint in offered {
            let pattern = constraint.test.is_pattern();
            match constraint.column {
                ROW_NUMBER | OFFSET if !pattern => plan.take(Column::Offset, constraint),
                TS if !pattern => plan.take(Column::Ts, constraint),
                KEY => plan.take(Column::Key, constraint),
                _ => {}
            }
        }
        plan.unique = plan.has(Column::Offset, &[Test::Eq]);
        if let Some((ROW_NUMBER | OFFSET, down)) = order.first() {
            plan.ordered = true;
            plan.reverse = *down && !plan.unique;
        }
        #[expect(clippy::cast_precision_loss, reason = "a guess")]
        let all = (self.end - self.start) as f64;
        let looked_at = match plan.unique {
            true => 1.0,
            false if plan.has(Column::Ts, &[Test::Eq, Test::Gt, Test::Ge]) => {
                all * plan.share(Column::Offset) * 0.4
            }
            false => all * plan.share(Column::Offset),
        };
        let by_key = match plan.has(Column::Key, &[Test::Eq]) {
            true => 0.01,
            false => plan.share(Column::Key),
        };
        plan.rows = (looked_at * by_key * plan.share(Column::Ts).max(0.3)).max(1.0);
        // A record that is passed over costs less than one that SQLite looks at.
        plan.cost = plan.rows + looked_at * 0.25 + 1.0;
        plan
    }

    fn walk(&self) -> RecordsWalk {
        RecordsWalk {
            table: self.clone(),
            cursor: None,
            back: None,
            wanted: Wanted::default(),
            row: Standing::default(),
            done: true,
        }
    }
}

/// What is held against each record before it is copied.
#[derive(Default)]
struct Wanted {
    /// Keys asked for; `None` when records without one are, too.
    keys: Option<Keys>,
    times: Integers,
}

impl Wanted {
    fn holds(&self, entry: &Entry<'_>) -> bool {
        let key = match (&self.keys, entry.record.key) {
            (Some(keys), Some(key)) => keys.holds(key),
            (Some(_), None) => false,
            (None, _) => true,
        };
        key && self.times.range().contains(&entry.timestamp)
    }

    /// Hands the next record that is wanted to `take`; `false` behind the last.
    fn next(
        &self,
        cursor: &mut Cursor,
        state: &State,
        take: impl FnOnce(&Entry<'_>),
    ) -> Result<bool> {
        let mut seen = 0_u32;
        loop {
            seen = seen.wrapping_add(1);
            if seen.is_multiple_of(STOP_EVERY) {
                state.check_stop()?;
            }
            match cursor.next() {
                Ok(Some(entry)) if self.holds(&entry) => {
                    take(&entry);
                    return Ok(true);
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(false),
                // The cursor stands behind what was lost.
                Err(e) if e.kind() == Kind::Lost => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// The record a walk stands on.
#[derive(Default)]
struct Standing {
    offset: u64,
    epoch: u64,
    timestamp: i64,
    op: Option<Op>,
    has_key: bool,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Standing {
    fn stand_on(&mut self, entry: &Entry<'_>) {
        let record = &entry.record;
        self.key.clear();
        self.value.clear();
        self.has_key = record.key.is_some();
        self.key.extend_from_slice(record.key.unwrap_or_default());
        self.value.extend_from_slice(record.value);
        (self.offset, self.epoch) = (entry.offset.0, entry.epoch);
        (self.timestamp, self.op) = (entry.timestamp, Some(record.op));
    }
}

/// Reading from the last record to the first.
struct Back {
    /// What is still to be read.
    left: Range<u64>,
    /// The piece that is being handed out, its last record first.
    piece: Vec<OwnedEntry>,
    piece_records: u64,
}

impl Back {
    /// The record before; `None` before the first.
    fn next(&mut self, table: &Records, wanted: &Wanted) -> Result<Option<OwnedEntry>> {
        while self.piece.is_empty() && !self.left.is_empty() {
            table.state.check_stop()?;
            let from = self.left.end.saturating_sub(self.piece_records).max(self.left.start);
            let mut cursor = table.log.read_range(Offset(from)..Offset(self.left.end))?;
            let mut bytes = 0;
            let piece = &mut self.piece;
            while wanted.next(&mut cursor, &table.state, |entry| {
                bytes += entry.record.value.len();
                piece.push(entry.to_owned());
            })? {}
            self.left.end = from;
            self.piece_records = match bytes > PIECE_BYTES {
                true => (self.piece_records / 2).max(1),
                false => (self.piece_records * 2).min(MOST_PIECE),
            };
        }
        Ok(self.piece.pop())
    }
}

/// Reads records.
pub(super) struct RecordsWalk {
    table: Records,
    /// One of these reads.
    cursor: Option<Cursor>,
    back: Option<Back>,
    wanted: Wanted,
    row: Standing,
    done: bool,
}

impl Walk for RecordsWalk {
    fn start(&mut self, terms: &[(Term, ValueRef<'_>)], reverse: bool) -> Result<()> {
        let Records { log, start, end, state } = &self.table;
        state.check_stop()?;
        let pattern = terms.iter().any(|(term, _)| term.test.is_pattern());
        let (mut offsets, mut times) = (Integers::default(), Integers::default());
        let mut keys: Option<Keys> = None;
        for (term, value) in terms {
            match term.column {
                Column::Offset => offsets.narrow(term.test, *value),
                Column::Ts => times.narrow(term.test, *value),
                Column::Key => keys.get_or_insert_default().narrow(term.test, *value, pattern),
            }
        }
        (self.cursor, self.back, self.done) = (None, None, true);
        let nothing =
            offsets.is_empty() || times.is_empty() || keys.as_ref().is_some_and(Keys::is_empty);
        let (Ok(high), false) = (u64::try_from(offsets.high), nothing) else { return Ok(()) };
        let mut from = u64::try_from(offsets.low).unwrap_or(0).max(*start);
        let stop = high.saturating_add(1).min(*end);
        if times.low > i64::MIN && from < stop {
            from = from.max(log.seek_time(times.low)?.0);
        }
        if from >= stop {
            return Ok(());
        }
        if reverse {
            let left = from..stop;
            self.back = Some(Back { left, piece: Vec::new(), piece_records: FIRST_PIECE });
        } else {
            self.cursor = Some(log.read_range(Offset(from)..Offset(stop))?);
        }
        self.wanted = Wanted { keys, times };
        self.done = false;
        self.advance()
    }

    fn advance(&mut self) -> Result<()> {
        let RecordsWalk { table, cursor, back, wanted, row, done } = self;
        if let Some(back) = back {
            match back.next(table, wanted)? {
                Some(entry) => row.stand_on(&entry.as_entry()),
                None => *done = true,
            }
        } else if let Some(cursor) = cursor {
            *done = !wanted.next(cursor, &table.state, |entry| row.stand_on(entry))?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn column(&self, number: i32) -> ValueRef<'_> {
        let row = &self.row;
        match number {
            OFFSET => ValueRef::Integer(integer(row.offset)),
            EPOCH => ValueRef::Integer(integer(row.epoch)),
            TS => ValueRef::Integer(row.timestamp),
            OP => row.op.map_or(ValueRef::Null, |op| ValueRef::Text(op.as_str().as_bytes())),
            KEY if !row.has_key => ValueRef::Null,
            KEY => text_or_blob(&row.key),
            // A delete has no value; an empty one is a value.
            _ if row.op == Some(Op::Delete) => ValueRef::Null,
            _ => text_or_blob(&row.value),
        }
    }

    fn row_number(&self) -> i64 {
        integer(self.row.offset)
    }
}
