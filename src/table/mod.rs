//! The table: for every key, the latest record at or below the applied offset.
//!
//! Driven by followers and leaders through [`Applier`]; read by everyone else while apply goes on.
//! Uses `log`. `put` sets a key, `delete` removes it; events and keyless records leave the table
//! alone and stay readable in the log, where [`history()`] finds every record of a key.
//!
//! ```text
//! Frames ─► apply ─► delta (memory) ─► run files ─► merged run files
//!                      └────────────── a view reads all of them ──────┘
//! ```
//!
//! Invariants:
//! - the table shows whole batches, and at any time one applied offset: a [`View`] never sees
//!   part of what an apply brings, and never changes;
//! - it is derived: the log is its only write-ahead log. A restart takes the newest checkpoint
//!   that is whole and of this history, and applies the log from its position;
//! - records are applied in offset order, each once, at any crash point.

mod apply;
mod arrive;
mod core;
mod delta;
mod digest;
mod dump;
mod filter;
mod fork;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod history;
#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod kept_tests;
mod keys;
mod layers;
mod manifest;
mod merge;
mod opened;
mod options;
mod pace;
mod problem;
mod repair;
mod restore;
mod row;
mod run;
mod scan;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod verify;
mod view;
mod wait;

pub use apply::{Applied, Applier, Apply, Frames};
pub(crate) use arrive::{check as check_run, fetch as fetch_run};
pub use core::TableStats;
pub use digest::Digest;
pub use dump::{ManifestLines, Stored, dump_manifest, stored};
pub use fork::{fork, fork_on};
pub use history::{History, HistoryQuery, Walked, history};
pub(crate) use manifest::{Manifest, checkpoint_name};
pub use opened::OpenSnapshot;
pub use options::{
    Beginning, DEFAULT_CHECKPOINT_BYTES, DEFAULT_DELTA_BYTES, DEFAULT_FAN_IN,
    DEFAULT_KEEP_CHECKPOINTS, PauseAt, TableOptions,
};
pub use problem::RunProblem;
pub use repair::{TableRepair, repair, repair_on};
pub use restore::{RestoreAt, Restored, restore, restore_on};
pub(crate) use restore::{finished, prepare, unmake};
pub use row::{Row, RowRef};
#[cfg(feature = "fuzz")]
pub(crate) use run::fuzz as fuzz_run;
pub use run::{RunId, RunLine, dump_run, is_run};
pub use scan::Scan;
pub(crate) use snapshot::SNAPSHOT;
pub use snapshot::{Published, Snapshot, SnapshotName, Snapshots};
pub use store::TableReport;
pub(crate) use store::run_path;
pub use verify::{TableVerify, verify, verify_on};
pub use view::{Rows, View};
pub use wait::AtLeast;

use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;

use self::core::Core;
use crate::error::{Error, Kind, Result};
use crate::log::Log;
use crate::mutant::{self, Mutant};
use crate::position::{Offset, Position};
use store::Store;

/// Key → latest record. A clone is another handle to the same table.
///
/// ```
/// use tidelog::{Log, Record, Table};
/// # fn main() -> tidelog::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("log");
/// let log = Log::options().create(true).open(path)?;
/// log.append(&Record::put(b"gate", b"open"))?;
/// let table = Table::options().open(&log)?;
/// assert_eq!(table.get(b"gate")?.unwrap().value, b"open");
/// log.append(&Record::delete(b"gate"))?;
/// table.catch_up(&log)?;
/// assert!(table.get(b"gate")?.is_none());
/// table.checkpoint()?; // the next open goes on from here
/// # log.close()
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Table {
    handle: Arc<Handle>,
}

/// The engine and its threads; the last handle to go stops them.
#[derive(Debug)]
struct Handle {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
    report: TableReport,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.stop();
        for thread in self.threads.drain(..) {
            // What it was writing is written again from the log.
            let _ = thread.join();
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        Table::new()
    }
}

impl Table {
    /// How to open a table that is kept on disk, in its log's directory.
    pub fn options() -> TableOptions {
        TableOptions::default()
    }

    /// An empty table in memory, at the start of its log.
    pub fn new() -> Self {
        let core = Core::new(TableOptions::default(), None, None, None)
            .expect("the operating system has randomness");
        let report = TableReport::default();
        Table { handle: Arc::new(Handle { core, threads: Vec::new(), report }) }
    }

    /// The table of everything visible in `log`, in memory alone. [`Kind::Gone`] when retention
    /// has dropped the front of the log: a table built from the rest would lack rows and not say
    /// so.
    pub fn from_log(log: &Log) -> Result<Self> {
        Table::options().persist(false).open(log)
    }

    fn open_with(options: TableOptions, log: &Log) -> Result<Self> {
        let mut report = TableReport::default();
        let (store, taken) = match options.persist {
            true => {
                let (store, taken) = Store::open(log, &mut report)?;
                (Some(store).filter(Store::writes), taken)
            }
            false => (None, None),
        };
        let mut taken = taken;
        if let Some(taken) = &mut taken
            && mutant::on(Mutant::ReplayPastCheckpoint)
            && taken.mark.position.offset < log.end()
        {
            taken.mark.position.offset.0 += 1;
        }
        let core = Core::new(options, Some(log.home()), store, taken)?;
        let mut threads = Vec::new();
        if core.has_threads() {
            threads.push(spawn(&core, "tidelog-flush", Core::flush_on));
            threads.push(spawn(&core, "tidelog-merge", Core::merge_on));
            threads.push(spawn(&core, "tidelog-checkpoint", Core::checkpoint_on));
        }
        let failed = threads.iter().find_map(|thread| thread.as_ref().err()).cloned();
        let threads = threads.into_iter().flatten().collect();
        let table = Table { handle: Arc::new(Handle { core, threads, report }) };
        // Dropping the table stops the thread that did start.
        failed.map_or(Ok(()), Err)?;
        Ok(table)
    }

    /// Applies everything that is visible in `log` and not applied yet.
    ///
    /// Offsets that a repair recorded as lost are skipped; they are in the result and, from then
    /// on, in [`View::lost`].
    pub fn catch_up(&self, log: &Log) -> Result<Applied> {
        let mut handle = self.clone();
        Applier::new(log, &handle)?.run(&mut handle)
    }

    /// The same up to `end`: a batch that reaches over it is applied as far as that.
    pub fn catch_up_to(&self, log: &Log, end: Offset) -> Result<Applied> {
        let mut handle = self.clone();
        Applier::until(log, &handle, end)?.run(&mut handle)
    }

    /// The latest record of `key`, unless there is none or it is a delete.
    pub fn get(&self, key: &[u8]) -> Result<Option<Row>> {
        self.view().get(key)
    }

    /// A consistent view at one applied offset. It never holds up apply, and apply never changes
    /// it; what it shows stays in memory or on disk as long as it lives.
    pub fn view(&self) -> View {
        self.handle.core.view()
    }

    /// What tells two tables apart, whatever order their rows came in; see [`Digest`].
    pub fn digest(&self) -> Result<Digest> {
        self.view().digest()
    }

    /// Behind the last record applied; `None` before the first.
    pub fn applied(&self) -> Option<Position> {
        self.view().applied()
    }

    /// Ranges of offsets that were lost to damage in the log.
    pub fn lost(&self) -> Vec<Range<Offset>> {
        self.view().lost().to_vec()
    }

    /// Makes everything applied so far durable, so that the next open goes on from there. Apply
    /// and readers go on meanwhile.
    ///
    /// `false` when there is nothing to be made durable here: a table in memory, one that another
    /// process keeps, or records that are not proven durable in a log that is open for reading.
    pub fn checkpoint(&self) -> Result<bool> {
        self.handle.core.checkpoint()
    }

    /// Waits until every delta that was frozen is written and no runs wait to be merged.
    pub fn settle(&self) -> Result<()> {
        self.handle.core.settle()
    }

    /// Makes a checkpoint and merges all runs into one, without deletes: reads are fastest then,
    /// and the disk holds each row once as soon as older checkpoints are gone. It writes the whole
    /// table. `false` where [`checkpoint`](Table::checkpoint) says so.
    pub fn compact(&self) -> Result<bool> {
        self.handle.core.compact()
    }

    /// What opening found.
    pub fn report(&self) -> &TableReport {
        &self.handle.report
    }

    /// Sizes and counters.
    pub fn stats(&self) -> TableStats {
        self.handle.core.stats()
    }
}

/// Tells the engine when one of its threads panics: apply would wait for it for ever.
struct Fall<'a> {
    core: &'a Core,
    thread: &'static str,
}

impl Drop for Fall<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.core.fell(self.thread);
        }
    }
}

/// Starts a thread of the engine.
fn spawn(core: &Arc<Core>, name: &'static str, work: fn(&Core)) -> Result<JoinHandle<()>> {
    let core = Arc::clone(core);
    let watched = move || {
        let fall = Fall { core: &core, thread: name };
        work(fall.core);
    };
    let thread = std::thread::Builder::new().name(name.into()).spawn(watched);
    thread.map_err(|e| Error::new(Kind::Io, format!("cannot start the thread {name}: {e}")))
}

impl Apply for Table {
    fn applied(&self) -> Option<Position> {
        Table::applied(self)
    }

    fn apply(&mut self, frames: &mut Frames<'_>) -> Result<()> {
        self.handle.core.apply(frames)
    }

    fn checkpoint(&mut self) -> Result<()> {
        Table::checkpoint(self).map(drop)
    }
}
