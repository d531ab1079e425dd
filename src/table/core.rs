//! The table's engine: apply into the active delta, freeze it, write it as a run, merge runs,
//! make checkpoints.
//!
//! ```text
//! apply ─► active delta ─ freeze ─► frozen delta ─ flush ─► run ─┬─► merge ─► run
//!            (pointer swap)                                      └─► checkpoint: sync, manifest
//! ```
//!
//! `Table` is a handle to it; three threads write runs, merge them, and make checkpoints, or
//! apply does, when there are none. Invariants:
//! - runs hold exactly the rows at or below `installed`; the frozen delta those up to its mark; the
//!   active delta everything behind. A mark is always the end of a batch;
//! - there is at most one frozen delta when runs are written: memory stays below two deltas;
//! - what a failure interrupts is done again from what is in memory or in the log: a run appears
//!   under its name only when it is whole, and counts only once a manifest names it;
//! - a failed sync is never tried again: this process makes no checkpoint any more.
//!
//! Locks, in the order in which they are taken: `applying`, `merging`, `upkeep`, `flow`, `shown`.
//! Only `merging` and `upkeep` are held during I/O; readers never take them, nor does apply when
//! there are threads.

mod upkeep;

use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fs::Os;
use crate::log::wake::Wake;
use crate::log::{Entries, Home};
use crate::mutant::{self, Mutant};
use crate::position::{LogByte, Offset, Position};
use crate::record::Op;

use super::apply::Frames;
use super::delta::{Change, Delta, Pool, Writer};
use super::layers::{Layers, Part, Shown};
use super::manifest::Mark;
use super::options::TableOptions;
use super::pace::Pace;
use super::row::Version;
use super::store::{Store, Taken};
use super::view::View;

/// How full a delta is when the next one's memory is got ready.
const WARM_FROM: f32 = 0.25;
/// How full a delta is when it is frozen if the one before is written: then there is room for twice
/// as many records while it is being written, and apply seldom has to wait for that.
const EARLY_FROM: f32 = 0.5;
/// How often a failed flush is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Everything that a table's handles and threads share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) options: TableOptions,
    pool: Arc<Pool>,
    /// Held by whoever applies, so that two never interleave.
    applying: Mutex<Applying>,
    /// Guards which layers there are, with the position they are seen at. Written once an apply.
    shown: RwLock<Shown>,
    /// Tells who waits for an offset that more is shown.
    pub(super) shown_wake: Wake,
    /// Guards what passes between apply and the writing of runs.
    flow: Mutex<Flow>,
    /// Tells those who wait for `flow` to change.
    changed: Condvar,
    /// Held by whoever merges: runs that are being merged stay side by side.
    merging: Mutex<()>,
    /// Guards the directory; `None` when nothing is written.
    upkeep: Option<Mutex<Upkeep>>,
    home: Option<Home>,
    threads: bool,
    pub(super) pace: Pace,
    /// Bytes of runs that were written, merges included.
    written: AtomicU64,
    /// Runs that were begun: names their temporary files.
    begun: AtomicU64,
}

/// The one who applies.
#[derive(Debug)]
struct Applying {
    writer: Writer,
    applied: Option<Position>,
    mark: Mark,
}

/// From apply to the writing of runs.
#[derive(Debug, Default)]
struct Flow {
    /// A frozen delta that is to be written, and where it ends. Without the delta: it is written,
    /// and its memory is about to be free for the next one.
    frozen: Option<(Option<Arc<Delta>>, Mark)>,
    /// Where the runs end; `None` while there are none and nothing was ever applied.
    installed: Option<Mark>,
    /// Where the newest checkpoint ends.
    checkpointed: Option<Position>,
    /// Why the last flush failed; it is tried again.
    stalled: Option<Error>,
    /// Why the last merge or checkpoint failed; likewise.
    delayed: Option<Error>,
    /// Whether it is time for a checkpoint.
    due: bool,
    /// Whether the next delta's memory is ready, or a thread is to see to that.
    warm: bool,
    /// How often a run was added.
    added: u64,
    /// `added` when there was last nothing to merge.
    settled: u64,
    /// Why there will be no more checkpoints.
    poisoned: Option<Error>,
    stopping: bool,
}

/// The directory, and runs that are to go.
#[derive(Debug)]
struct Upkeep {
    store: Store,
    retired: Vec<Arc<Part>>,
}

/// Sizes and counters of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableStats {
    /// Runs.
    pub runs: usize,
    /// Their bytes.
    pub run_bytes: u64,
    /// Rows in runs and deltas: keys that several hold count in each.
    pub rows: u64,
    /// Memory in deltas.
    pub delta_bytes: u64,
    /// Bytes of runs written since it was opened, merges included.
    pub written_bytes: u64,
    /// Behind the last record in the newest checkpoint.
    pub checkpoint: Option<Offset>,
    /// The same as a byte of the log; 0 without a checkpoint.
    pub checkpoint_byte: LogByte,
    /// Whether runs cannot be written just now (a full disk, for example): what is applied stays
    /// in memory up to its bound.
    pub stalled: bool,
}

impl Core {
    pub(super) fn new(
        options: TableOptions,
        home: Option<Home>,
        store: Option<Store>,
        taken: Option<Taken>,
    ) -> Result<Arc<Self>> {
        let mut seed = [0; 8];
        let fs = home.as_ref().map_or_else(Os::shared, |home| Arc::clone(home.fs()));
        fs.random(&mut seed).map_err(|e| {
            Error::new(Kind::Io, format!("cannot read randomness for the table's memory: {e}"))
        })?;
        let pool = Pool::new(options.delta_bytes, u64::from_le_bytes(seed));
        if options.warm {
            pool.warm();
        }
        let (writer, active) = Delta::new(&pool, 0, 0);
        if options.warm {
            pool.warm();
        }
        let (mark, runs) = match taken {
            Some(Taken { mark, runs }) => (Some(mark), runs),
            None => (None, Vec::new()),
        };
        let applied = mark.as_ref().map(|mark| mark.position);
        let lost = mark.as_ref().map_or_else(Vec::new, |mark| mark.lost.clone()).into();
        Ok(Arc::new(Core {
            options,
            pool,
            shown: RwLock::new(Shown {
                layers: Arc::new(Layers { active, frozen: Vec::new(), runs }),
                applied,
                lost,
            }),
            flow: Mutex::new(Flow {
                installed: mark.clone(),
                checkpointed: applied,
                ..Flow::default()
            }),
            shown_wake: Wake::default(),
            changed: Condvar::new(),
            merging: Mutex::new(()),
            applying: Mutex::new(Applying { writer, applied, mark: mark.unwrap_or_default() }),
            upkeep: store.map(|store| Mutex::new(Upkeep { store, retired: Vec::new() })),
            threads: home.as_ref().is_some_and(Home::has_threads),
            home,
            pace: Pace::new(options.fan_in),
            written: AtomicU64::new(0),
            begun: AtomicU64::new(0),
        }))
    }

    /// Whether runs are written, and by threads.
    pub(super) fn has_threads(&self) -> bool {
        self.upkeep.is_some() && self.threads
    }

    pub(super) fn view(&self) -> View {
        View { shown: self.shown.read().unwrap_or_else(PoisonError::into_inner).clone() }
    }

    /// The runs there are, newest first. Takes no share in the layers, as [`fill`](Core::fill)
    /// does not: a delta's memory must be back when its run is there.
    fn runs(&self) -> Vec<Arc<Part>> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).layers.runs.clone()
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn applying(&self) -> MutexGuard<'_, Applying> {
        self.applying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest timestamp of everything applied, of events and of what was overwritten, too.
    pub(super) fn newest(&self) -> i64 {
        self.applying().mark.newest
    }

    /// Changes which layers there are.
    fn change_layers(&self, change: impl FnOnce(&Layers) -> Layers) {
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        shown.layers = Arc::new(change(&shown.layers));
    }

    /// Applies whole batches and makes them visible at once; when they do not fit the delta that
    /// is being filled, in as few steps as they need.
    pub(super) fn apply(&self, frames: &mut Frames<'_>) -> Result<()> {
        let mut applying = self.applying();
        let at = applying.applied.map_or(Offset(0), |position| position.offset);
        if frames.from() != at {
            return Err(Error::new(
                Kind::InvalidInput,
                format!("expected records from offset {at} on, found some from {}", frames.from()),
            )
            .help("apply from where the table stands: another thread may have applied meanwhile"));
        }
        // What came whole before a failure is shown all the same: it is true, and the next try
        // goes on behind it.
        let outcome = self.take_batches(&mut applying, frames);
        if outcome.is_ok()
            && let Some(reached) = frames.position()
        {
            applying.reach(reached);
        }
        applying.note_lost(frames);
        self.show(&applying);
        let pace = if self.upkeep.is_some() { self.keep_pace(&mut applying) } else { Ok(None) };
        drop(applying);
        self.shown_wake.all();
        if let Some(delay) = pace? {
            std::thread::sleep(delay);
        }
        outcome
    }

    /// Freezes the delta if it is time, has memory for the next one got ready, and says how long
    /// apply is to wait for who writes runs.
    fn keep_pace(&self, applying: &mut Applying) -> Result<Option<Duration>> {
        let (fill, runs) = self.fill();
        let mut flow = self.flow();
        let behind = flow.frozen.is_some();
        if !behind && fill > WARM_FROM && !flow.warm {
            flow.warm = true;
            self.changed.notify_all();
        }
        drop(flow);
        if !behind && fill > EARLY_FROM && self.threads && self.pool.is_ready() {
            self.freeze(applying, 0, 0)?;
            return Ok(None);
        }
        Ok(self.pace.delay(behind, fill, runs))
    }

    /// How full the active delta is, and how many runs there are. Takes no share in them: whoever
    /// drops the last one gives a delta's memory back, and that takes milliseconds.
    fn fill(&self) -> (f32, usize) {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        (shown.layers.active.fill(), shown.layers.runs.len())
    }

    fn take_batches(&self, applying: &mut Applying, frames: &mut Frames<'_>) -> Result<()> {
        while let Some(entries) = frames.next()? {
            // A batch that makes no sense is found out before any of it is in the delta.
            let (bytes, rows) = weigh(&entries)?;
            if !applying.writer.fits(bytes, rows) {
                self.show(applying);
                if mutant::on(Mutant::MarkAhead) {
                    applying.mark.position = entries.end();
                }
                self.freeze(applying, bytes, rows)?;
            }
            applying.writer.insert_all(changes(&entries));
            applying.reach(entries.end());
            applying.mark.fingerprint = Some(entries.fingerprint());
            applying.mark.newest = applying.mark.newest.max(entries.newest());
            if let Some((id, state)) = entries.producer() {
                applying.mark.producers.note(id, state);
            }
            applying.note_lost(frames);
        }
        Ok(())
    }

    /// Shows readers what was applied.
    fn show(&self, applying: &Applying) {
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        shown.applied = applying.applied;
        if shown.lost.len() != applying.mark.lost.len() {
            shown.lost = applying.mark.lost.as_slice().into();
        }
    }

    /// Puts a new delta in place of the active one, at least as large as told, and has the old
    /// one written. Waits while the one before is still being written.
    fn freeze(&self, applying: &mut Applying, bytes: usize, rows: usize) -> Result<()> {
        self.wait_flushed()?;
        let (writer, active) = Delta::new(&self.pool, bytes, rows);
        applying.writer = writer;
        let mut flow = self.flow();
        let old = {
            let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
            let old = Arc::clone(&shown.layers.active);
            let mut frozen = vec![Arc::clone(&old)];
            frozen.extend(shown.layers.frozen.iter().cloned());
            let runs = shown.layers.runs.clone();
            shown.layers = Arc::new(Layers { active, frozen, runs });
            old
        };
        if self.upkeep.is_none() {
            return Ok(());
        }
        self.pace.froze(old.keys() as u64);
        flow.frozen = Some((Some(old), applying.mark.clone()));
        flow.warm = false;
        drop(flow);
        self.changed.notify_all();
        if self.threads { Ok(()) } else { self.wait_flushed() }
    }

    /// Returns once no frozen delta waits to be written, or with the reason why it still does.
    fn wait_flushed(&self) -> Result<()> {
        let mut flow = self.flow();
        while flow.frozen.is_some() {
            if !self.threads {
                drop(flow);
                self.flush()?;
                while self.merge().is_ok_and(|merged| merged) {}
                flow = self.flow();
                continue;
            }
            if let Some(error) = &flow.stalled {
                return Err(error.clone());
            }
            flow = self.changed.wait(flow).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// A thread has panicked: whoever would wait for its work learns so.
    pub(super) fn fell(&self, thread: &str) {
        let error = Error::new(Kind::Poisoned, format!("the thread {thread} has panicked"))
            .help("open the table again: what it lacks is in the log");
        let mut flow = self.flow();
        flow.stalled = Some(error.clone());
        flow.delayed = Some(error);
        drop(flow);
        self.changed.notify_all();
    }

    /// Has the threads stop after what they are doing.
    pub(super) fn stop(&self) {
        self.flow().stopping = true;
        self.changed.notify_all();
    }

    pub(super) fn stats(&self) -> TableStats {
        let shown = self.view().shown;
        let flow = self.flow();
        let layers = &*shown.layers;
        let deltas = std::iter::once(&layers.active).chain(&layers.frozen);
        TableStats {
            runs: layers.runs.len(),
            run_bytes: layers.runs.iter().map(|part| part.run.entry().bytes).sum(),
            rows: shown.rows_at_most(),
            delta_bytes: deltas.map(|delta| delta.bytes() as u64).sum(),
            written_bytes: self.written.load(Relaxed),
            checkpoint: flow.checkpointed.map(|position| position.offset),
            checkpoint_byte: flow.checkpointed.unwrap_or_default().log_byte,
            stalled: flow.stalled.is_some() || flow.delayed.is_some(),
        }
    }
}

impl Applying {
    fn reach(&mut self, position: Position) {
        self.applied = Some(position);
        self.mark.position = position;
    }

    /// Takes note of lost offsets below the position, once each.
    fn note_lost(&mut self, frames: &Frames<'_>) {
        let end = self.mark.position.offset;
        for range in frames.lost() {
            let is_new = self.mark.lost.last().is_none_or(|last| last.end <= range.start);
            if range.end <= end && is_new {
                self.mark.lost.push(range.clone());
            }
        }
    }
}

/// Bytes of keys and values, and rows, that a batch puts into a delta; an error if it makes no
/// sense.
fn weigh(entries: &Entries<'_>) -> Result<(usize, usize)> {
    let (mut bytes, mut rows) = (0, 0);
    for entry in entries.iter() {
        let record = entry?.record;
        if let (Some(key), Op::Put | Op::Delete) = (record.key, record.op) {
            bytes += key.len() + record.value.len();
            rows += 1;
        }
    }
    Ok((bytes, rows))
}

/// What a batch does to rows; it was weighed before, so every entry makes sense.
fn changes<'a>(entries: &Entries<'a>) -> impl Iterator<Item = Change<'a>> + use<'a> {
    entries.iter().flatten().filter_map(|entry| {
        let value = match entry.record.op {
            Op::Event => return None,
            Op::Delete => None,
            Op::Put => Some(entry.record.value),
        };
        let key = entry.record.key?;
        let version = Version { value, offset: entry.offset, timestamp: entry.timestamp };
        Some(Change { key, version })
    })
}
