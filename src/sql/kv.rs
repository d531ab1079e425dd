//! `kv(key, value, offset, ts)`: the rows of a view.
//!
//! Called by `vtab`; reads through [`View`]. SQLite wants text keys first and other keys behind
//! them, a view has all in the order of bytes. So a read has up to two legs, one for each:
//!
//! ```text
//! view:  a1  a\xff  b2  \xfe  …          ascending: text leg a1 b2 …, then the other leg a\xff \xfe
//! ```
//!
//! A leg passes over the keys of the other kind and notes where they are, so that the second leg
//! looks there alone: where all keys are text, as in most logs, it costs nothing.

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};

use rusqlite::types::ValueRef;

use crate::error::Result;
use crate::table::{Rows, Scan, View};

use super::bounds::{Keys, Span, behind};
use super::plan::{Column, Offered, Plan, Term, Test};
use super::vtab::{Source, Walk};
use super::{State, integer, text_or_blob};

const KEY: i32 = 0;
const VALUE: i32 = 1;
const OFFSET: i32 = 2;

/// Rows between two looks at whether to stop.
const STOP_EVERY: u32 = 256;

/// The table.
#[derive(Clone)]
pub(super) struct Kv {
    view: View,
    state: Arc<State>,
    /// Learned by reading: every key is text. A view does not change.
    all_text: Arc<AtomicBool>,
}

impl Kv {
    pub(super) fn new(view: View, state: Arc<State>) -> Self {
        Kv { view, state, all_text: Arc::default() }
    }
}

impl Source for Kv {
    const SCHEMA: &'static CStr =
        c"CREATE TABLE kv(key TEXT, value TEXT, offset INTEGER, ts INTEGER)";
    type Walk = KvWalk;

    fn plan(&self, offered: &[Offered], order: &[(i32, bool)]) -> Plan {
        let mut plan = Plan::default();
        // Patterns first: from some SQLite derives bounds, which are named behind them.
        for patterns in [true, false] {
            for constraint in offered.iter().filter(|constraint| constraint.column == KEY) {
                if constraint.test.is_pattern() == patterns {
                    plan.take(Column::Key, constraint);
                }
            }
        }
        plan.unique = plan.has(Column::Key, &[Test::Eq]);
        // A key has one row: what comes behind it in the order never matters.
        if let Some((KEY, down)) = order.first() {
            plan.ordered = true;
            plan.reverse = *down && !plan.unique;
        }
        #[expect(clippy::cast_precision_loss, reason = "a guess")]
        let all = self.view.len_estimate() as f64;
        plan.rows = if plan.unique { 1.0 } else { (all * plan.share(Column::Key)).max(2.0) };
        plan.cost = plan.rows;
        plan
    }

    fn walk(&self) -> KvWalk {
        KvWalk {
            table: self.clone(),
            leg: None,
            then: None,
            reverse: false,
            done: true,
            row: Standing::default(),
        }
    }
}

/// The row a walk stands on.
#[derive(Default)]
struct Standing {
    key: Vec<u8>,
    value: Vec<u8>,
    offset: u64,
    timestamp: i64,
}

/// Reads keys of one kind.
struct Leg {
    rows: Rows,
    span: Span,
    text: bool,
    /// Keys of the other kind among them: the lowest, and behind the highest.
    passed: Option<Span>,
}

/// Reads rows.
pub(super) struct KvWalk {
    table: Kv,
    leg: Option<Leg>,
    /// What the second leg is to read, and whether that is text.
    then: Option<(Span, bool)>,
    reverse: bool,
    done: bool,
    row: Standing,
}

impl Leg {
    fn new(view: &View, span: Span, text: bool, reverse: bool) -> Result<Self> {
        let mut scan = Scan::all().start(&span.start).reverse(reverse);
        if let Some(end) = &span.end {
            scan = scan.end(end);
        }
        Ok(Leg { rows: view.scan(&scan)?, span, text, passed: None })
    }

    /// Goes to the next row of its kind; `false` behind the last.
    fn next(&mut self, state: &State, to: &mut Standing) -> Result<bool> {
        let mut seen = 0_u32;
        while let Some(row) = self.rows.next()? {
            seen = seen.wrapping_add(1);
            if seen.is_multiple_of(STOP_EVERY) {
                state.check_stop()?;
            }
            if std::str::from_utf8(row.key).is_ok() == self.text {
                to.key.clear();
                to.key.extend_from_slice(row.key);
                to.value.clear();
                to.value.extend_from_slice(row.value);
                (to.offset, to.timestamp) = (row.offset.0, row.timestamp);
                return Ok(true);
            }
            let passed = self.passed.get_or_insert_with(|| Span {
                start: row.key.to_vec(),
                end: Some(behind(row.key)),
            });
            if *row.key < *passed.start {
                passed.start = row.key.to_vec();
            }
            if passed.end.as_ref().is_some_and(|end| *row.key >= **end) {
                passed.end = Some(behind(row.key));
            }
        }
        Ok(false)
    }
}

impl KvWalk {
    /// The next leg, from what the last one saw.
    fn change_leg(&mut self) -> Result<()> {
        let last = self.leg.take();
        let Some((mut span, text)) = self.then.take() else {
            self.done = true;
            return Ok(());
        };
        if let Some(last) = last {
            if last.span.is_everything() && last.text && last.passed.is_none() {
                self.table.all_text.store(true, Release);
            }
            if last.span.covers(&span) {
                span = last.passed.unwrap_or(Span { start: Vec::new(), end: Some(Vec::new()) });
            }
        }
        self.begin_leg(span, text)
    }

    fn begin_leg(&mut self, span: Span, text: bool) -> Result<()> {
        if !span.is_empty() && (text || !self.table.all_text.load(Acquire)) {
            self.leg = Some(Leg::new(&self.table.view, span, text, self.reverse)?);
        }
        Ok(())
    }
}

impl Walk for KvWalk {
    fn start(&mut self, terms: &[(Term, ValueRef<'_>)], reverse: bool) -> Result<()> {
        self.table.state.check_stop()?;
        let pattern = terms.iter().any(|(term, _)| term.test.is_pattern());
        let mut keys = Keys::default();
        for (term, value) in terms {
            keys.narrow(term.test, *value, pattern);
        }
        (self.leg, self.then, self.reverse, self.done) = (None, None, reverse, false);
        // One key alone is looked up.
        let one = match (keys.text.is_empty(), keys.blob.is_empty()) {
            (false, true) => keys.text.only(),
            (true, false) => keys.blob.only(),
            _ => None,
        };
        if let Some(key) = one {
            match self.table.view.get(key)? {
                Some(found) => {
                    self.row = Standing {
                        key: key.to_vec(),
                        value: found.value,
                        offset: found.offset.0,
                        timestamp: found.timestamp,
                    };
                }
                None => self.done = true,
            }
            return Ok(());
        }
        if reverse {
            self.then = Some((keys.text, true));
            self.begin_leg(keys.blob, false)?;
        } else {
            self.then = Some((keys.blob, false));
            self.begin_leg(keys.text, true)?;
        }
        self.advance()
    }

    fn advance(&mut self) -> Result<()> {
        loop {
            if let Some(leg) = &mut self.leg
                && leg.next(&self.table.state, &mut self.row)?
            {
                return Ok(());
            }
            // The last leg, which saw nothing of the other kind, may have been all there is.
            self.change_leg()?;
            if self.done {
                return Ok(());
            }
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn column(&self, number: i32) -> ValueRef<'_> {
        match number {
            KEY => text_or_blob(&self.row.key),
            VALUE => text_or_blob(&self.row.value),
            OFFSET => ValueRef::Integer(integer(self.row.offset)),
            _ => ValueRef::Integer(self.row.timestamp),
        }
    }

    fn row_number(&self) -> i64 {
        // No two rows of a table were set by one record.
        integer(self.row.offset)
    }
}
