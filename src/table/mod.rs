//! The table: for every key, the latest record at or below the applied offset.
//!
//! Driven by followers and leaders through [`Applier`]; read by everyone else while apply goes on.
//! Uses `log` alone. `put` sets a key, `delete` removes it; events and keyless records leave the
//! table alone and stay readable in the log.
//!
//! Invariants:
//! - the table shows whole batches, and at any time one applied offset: a [`View`] never sees
//!   part of what an apply brings;
//! - it is derived: dropping it and reading the log again gives the same rows;
//! - records are applied in offset order, each once.
//!
//! **Limit**: rows live in memory and are rebuilt from the log when it is opened. A log whose
//! front was dropped by retention cannot rebuild its table, and [`Table::from_log`] says so.

mod apply;
mod digest;
#[allow(dead_code, reason = "the table does not use runs yet")]
mod row;
mod rows;
#[allow(dead_code, unused_imports, reason = "the table does not use runs yet")]
mod run;
#[cfg(test)]
mod tests;

pub use apply::{Applied, Applier, Apply, Frames};
pub use digest::Digest;
pub use rows::{Row, Scan, View};
#[cfg(feature = "fuzz")]
pub(crate) use run::fuzz as fuzz_run;
pub use run::{RunLine, dump_run, is_run};

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::error::{Error, Kind, Result};
use crate::log::{Entries, Log};
use crate::position::{Offset, Position};
use crate::record::Op;
use rows::Rows;

/// Key → latest record, in memory. A clone is another handle to the same table.
///
/// ```
/// use tidelog::{Log, Record, Table};
/// # fn main() -> tidelog::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("log");
/// let log = Log::options().create(true).open(path)?;
/// log.append(&Record::put(b"gate", b"open"))?;
/// let table = Table::from_log(&log)?;
/// assert_eq!(&*table.get(b"gate").unwrap().value, b"open");
/// log.append(&Record::delete(b"gate"))?;
/// table.catch_up(&log)?;
/// assert!(table.get(b"gate").is_none());
/// # log.close()
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Table {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Held by whoever applies, so that two never interleave.
    applying: Mutex<()>,
    /// Guards the rows with the position they stand at. Written once per apply.
    rows: RwLock<Rows>,
}

/// What one apply changes, decoded and copied before any reader is kept waiting.
type Change = (Box<[u8]>, Option<Row>);

impl Table {
    /// An empty table, at the start of its log.
    pub fn new() -> Self {
        Table::default()
    }

    /// The table of everything visible in `log`. [`Kind::Gone`] when retention has dropped the
    /// front of the log: a table built from the rest would lack rows and not say so.
    pub fn from_log(log: &Log) -> Result<Self> {
        let table = Table::new();
        table.catch_up(log)?;
        Ok(table)
    }

    /// Applies everything that is visible in `log` and not applied yet.
    ///
    /// Offsets that a repair recorded as lost are skipped; they are in the result and, from then
    /// on, in [`Table::lost`].
    pub fn catch_up(&self, log: &Log) -> Result<Applied> {
        let mut handle = self.clone();
        Applier::new(log, &handle)?.run(&mut handle)
    }

    /// The latest record of `key`, unless there is none or it is a delete.
    pub fn get(&self, key: &[u8]) -> Option<Row> {
        self.view().get(key)
    }

    /// The rows that `scan` asks for, in key order, all at one applied offset.
    pub fn scan(&self, scan: &Scan) -> Vec<(Vec<u8>, Row)> {
        let view = self.view();
        view.scan(scan).map(|(key, row)| (key.to_vec(), row.clone())).collect()
    }

    /// How many keys have a row.
    pub fn len(&self) -> usize {
        self.view().len()
    }

    /// Whether no key has a row.
    pub fn is_empty(&self) -> bool {
        self.view().is_empty()
    }

    /// What tells two tables apart, whatever order their rows came in; see [`Digest`].
    pub fn digest(&self) -> Digest {
        self.view().digest()
    }

    /// Behind the last record applied; `None` before the first.
    pub fn applied(&self) -> Option<Position> {
        self.view().applied()
    }

    /// Ranges of offsets that were lost to damage in the log: the table may lack what they set
    /// or show what they removed.
    pub fn lost(&self) -> Vec<Range<Offset>> {
        self.view().lost().to_vec()
    }

    /// A consistent view at one applied offset. Apply waits while one is held, so let go of it
    /// soon; use [`Scan::limit`] and go on behind the last key for long walks.
    pub fn view(&self) -> View<'_> {
        View::new(self.inner.rows.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn applying(&self) -> MutexGuard<'_, ()> {
        self.inner.applying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Apply for Table {
    fn applied(&self) -> Option<Position> {
        Table::applied(self)
    }

    fn apply(&mut self, frames: &mut Frames<'_>) -> Result<()> {
        let _one = self.applying();
        let at = Table::applied(self).map_or(Offset(0), |position| position.offset);
        if frames.from() != at {
            return Err(Error::new(
                Kind::InvalidInput,
                format!("expected records from offset {at} on, found some from {}", frames.from()),
            )
            .help("apply from where the table stands: another thread may have applied meanwhile"));
        }
        let mut changes: Vec<Change> = Vec::new();
        let mut reached = None;
        // What came whole before a failure is applied all the same: it is true, and the next
        // try goes on behind it.
        let outcome = loop {
            let whole = changes.len();
            match frames.next() {
                Ok(None) => break Ok(()),
                Ok(Some(entries)) => {
                    if let Err(error) = stage(&entries, &mut changes) {
                        changes.truncate(whole);
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
            reached = frames.position();
        };
        if outcome.is_ok() {
            reached = frames.position();
        }
        let mut rows = self.inner.rows.write().unwrap_or_else(PoisonError::into_inner);
        rows.change(changes, reached, frames.lost());
        outcome
    }
}

/// Decodes a batch into the changes it makes.
fn stage(entries: &Entries<'_>, changes: &mut Vec<Change>) -> Result<()> {
    for entry in entries.iter() {
        let entry = entry?;
        let Some(key) = entry.record.key else { continue };
        let row = match entry.record.op {
            Op::Event => continue,
            Op::Delete => None,
            Op::Put => Some(Row {
                value: entry.record.value.into(),
                offset: entry.offset,
                timestamp: entry.timestamp,
            }),
        };
        changes.push((key.into(), row));
    }
    Ok(())
}
