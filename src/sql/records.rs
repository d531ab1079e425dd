//! `log(offset, epoch, ts, op, key, value)`: the records of the log, from its start to where the
//! view stands.
//!
//! Called by `vtab`; reads through [`Cursor`]. Offsets bound where reading starts and ends, the
//! lower bound of a time where it starts; times do not rise with offsets, so the upper one, like
//! keys, is only held against each record before its bytes are copied. Records that a repair has
//! recorded as lost are passed over: [`Database::lost`](super::Database::lost) tells them.

use std::ffi::CStr;
use std::sync::Arc;

use rusqlite::types::ValueRef;

use crate::error::{Kind, Result};
use crate::log::{Cursor, Log};
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
        plan.ordered = matches!(order.first(), Some((ROW_NUMBER | OFFSET, false)));
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
            keys: None,
            times: Integers::default(),
            row: Standing::default(),
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

/// Reads records.
pub(super) struct RecordsWalk {
    table: Records,
    /// `None` behind the last record.
    cursor: Option<Cursor>,
    /// Keys asked for; `None` when records without one are, too.
    keys: Option<Keys>,
    times: Integers,
    row: Standing,
}

impl Walk for RecordsWalk {
    fn start(&mut self, terms: &[(Term, ValueRef<'_>)], _reverse: bool) -> Result<()> {
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
        self.cursor = None;
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
        self.cursor = Some(log.read_range(Offset(from)..Offset(stop))?);
        (self.keys, self.times) = (keys, times);
        self.advance()
    }

    fn advance(&mut self) -> Result<()> {
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        let (row, times) = (&mut self.row, self.times.range());
        let mut seen = 0_u32;
        loop {
            seen = seen.wrapping_add(1);
            if seen.is_multiple_of(STOP_EVERY) {
                self.table.state.check_stop()?;
            }
            let entry = match cursor.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                // The cursor stands behind what was lost.
                Err(e) if e.kind() == Kind::Lost => continue,
                Err(e) => return Err(e),
            };
            let record = &entry.record;
            let wanted = match (&self.keys, record.key) {
                (Some(keys), Some(key)) => keys.holds(key),
                (Some(_), None) => false,
                (None, _) => true,
            };
            if !wanted || !times.contains(&entry.timestamp) {
                continue;
            }
            row.key.clear();
            row.value.clear();
            row.has_key = record.key.is_some();
            row.key.extend_from_slice(record.key.unwrap_or_default());
            row.value.extend_from_slice(record.value);
            (row.offset, row.epoch) = (entry.offset.0, entry.epoch);
            (row.timestamp, row.op) = (entry.timestamp, Some(record.op));
            return Ok(());
        }
        self.cursor = None;
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.cursor.is_none()
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
