//! The table's engine: apply into the active delta, freeze it, write it as a run, merge runs,
//! make checkpoints.
//!
//! ```text
//! apply ─► active delta ─ freeze ─► frozen delta ─ flush ─► run ─┬─► merge ─► run
//!            (pointer swap)                                      └─► checkpoint: sync, manifest
//! ```
//!
//! `Table` is a handle to it; `threads` calls [`Core::flush`] and [`Core::merge`] from two threads,
//! or apply does, when there are none. Invariants:
//! - runs hold exactly the rows at or below `installed`; the frozen delta those up to its mark; the
//!   active delta everything behind. A mark is always the end of a batch;
//! - there is at most one frozen delta when runs are written: memory stays below two deltas;
//! - what a failure interrupts is done again from what is in memory or in the log: a run appears
//!   under its name only when it is whole, and counts only once a manifest names it;
//! - a failed sync is never tried again: this process makes no checkpoint any more.
//!
//! Locks, in the order in which they are taken: `applying`, `upkeep`, `flow`, `shown`. None but
//! `upkeep` is held during I/O, and neither apply nor readers ever take that.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use crate::error::{Error, Kind, Result};
use crate::fs::Open;
use crate::log::wake::Wake;
use crate::log::{Entries, Home};
use crate::mutant::{self, Mutant};
use crate::position::{LogByte, Offset, Position};
use crate::record::Op;

use super::apply::Frames;
use super::delta::{Change, Delta, Pool, Writer};
use super::layers::{Layers, Part, Shown};
use super::manifest::{Manifest, Mark};
use super::merge::{Merge, Source};
use super::options::TableOptions;
use super::pace::Pace;
use super::run::{self, Run, RunId};
use super::store::{Store, Taken, run_path};
use super::view::View;

/// How often a failed flush is tried again.
const RETRY: std::time::Duration = std::time::Duration::from_millis(200);

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
    /// Guards the directory; `None` when nothing is written.
    upkeep: Option<Mutex<Upkeep>>,
    home: Option<Home>,
    threads: bool,
    pub(super) pace: Pace,
    /// Bytes of runs that were written, merges included.
    written: AtomicU64,
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
    /// A frozen delta that is to be written, and where it ends.
    frozen: Option<(Arc<Delta>, Mark)>,
    /// Where the runs end; `None` while there are none and nothing was ever applied.
    installed: Option<Mark>,
    /// Where the newest checkpoint ends.
    checkpointed: Option<Position>,
    /// Why the last flush failed; it is tried again.
    stalled: Option<Error>,
    /// Why the last merge or checkpoint failed; likewise.
    delayed: Option<Error>,
    /// How often a run was added.
    added: u64,
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
    ) -> Arc<Self> {
        let pool = Pool::new(options.delta_bytes);
        let (writer, active) = Delta::new(&pool, 0, 0);
        let (mark, runs) = match taken {
            Some(Taken { mark, runs }) => (Some(mark), runs),
            None => (None, Vec::new()),
        };
        let applied = mark.as_ref().map(|mark| mark.position);
        let lost = mark.as_ref().map_or_else(Vec::new, |mark| mark.lost.clone()).into();
        Arc::new(Core {
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
            applying: Mutex::new(Applying { writer, applied, mark: mark.unwrap_or_default() }),
            upkeep: store.map(|store| Mutex::new(Upkeep { store, retired: Vec::new() })),
            threads: home.as_ref().is_some_and(Home::has_threads),
            home,
            pace: Pace::new(options.fan_in),
            written: AtomicU64::new(0),
        })
    }

    /// Whether runs are written, and by threads.
    pub(super) fn has_threads(&self) -> bool {
        self.upkeep.is_some() && self.threads
    }

    pub(super) fn view(&self) -> View {
        View { shown: self.shown.read().unwrap_or_else(PoisonError::into_inner).clone() }
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn applying(&self) -> MutexGuard<'_, Applying> {
        self.applying.lock().unwrap_or_else(PoisonError::into_inner)
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
        drop(applying);
        self.shown_wake.all();
        if self.upkeep.is_some() {
            let behind = self.flow().frozen.is_some();
            let shown = self.view().shown;
            self.pace.wait(behind, shown.layers.active.fill(), shown.layers.runs.len());
        }
        outcome
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
            applying.writer.insert(changes(&entries));
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
        self.pace.froze();
        flow.frozen = Some((old, applying.mark.clone()));
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

    /// Writes the frozen delta as a run, if there is one, and makes a checkpoint when it is time.
    pub(super) fn flush(&self) -> Result<()> {
        let Some((delta, mark)) = self.flow().frozen.clone() else { return Ok(()) };
        let flushed = self.write_delta(&delta, &mark);
        let mut flow = self.flow();
        match flushed {
            Ok(part) => {
                self.change_layers(|layers| Layers {
                    active: Arc::clone(&layers.active),
                    frozen: layers
                        .frozen
                        .iter()
                        .filter(|d| !Arc::ptr_eq(d, &delta))
                        .cloned()
                        .collect(),
                    runs: part.into_iter().chain(layers.runs.iter().cloned()).collect(),
                });
                flow.frozen = None;
                flow.stalled = None;
                flow.installed = Some(mark);
                flow.added += 1;
            }
            Err(error) => {
                flow.stalled = Some(error.clone());
                drop(flow);
                self.changed.notify_all();
                return Err(error);
            }
        }
        let since = flow.installed.as_ref().map_or(0, |mark| mark.position.log_byte.0)
            - flow.checkpointed.map_or(0, |position| position.log_byte.0);
        drop(flow);
        self.changed.notify_all();
        if since >= self.options.checkpoint_bytes {
            // Apply does not depend on it: the log has everything.
            self.note_upkeep(&self.make_checkpoint());
        }
        Ok(())
    }

    /// Remembers how the last work that apply does not wait for went.
    fn note_upkeep<T>(&self, outcome: &Result<T>) {
        self.flow().delayed = outcome.as_ref().err().cloned();
    }

    fn write_delta(&self, delta: &Arc<Delta>, mark: &Mark) -> Result<Option<Arc<Part>>> {
        let cursor = delta.cursor(mark.position.offset, false);
        let mut merge = Merge::new(vec![Source::Delta(cursor)], false);
        merge.seek(None)?;
        let oldest = self.view().shown.layers.runs.is_empty();
        let expected = delta.keys();
        self.write_run(&mut merge, oldest, |done| self.pace.flushed(done, expected))
    }

    /// Writes what `merge` yields as a run; `None` if that is nothing. Deletes are left out of the
    /// oldest run: there is nothing left that they hide.
    fn write_run(
        &self,
        merge: &mut Merge,
        oldest: bool,
        mut progress: impl FnMut(u64),
    ) -> Result<Option<Arc<Part>>> {
        const STEP: u64 = 1 << 14;
        let (dir, home) = self.place();
        let tmp = dir.join(format!("{:016x}.tmp", self.written.fetch_add(1, Relaxed)));
        let written = (|| {
            let mut writer = run::Writer::create(&**home.fs(), &tmp, home.log())?;
            let mut rows = 0_u64;
            while let Some((key, version)) = merge.current() {
                if version.value.is_some() || !oldest && !mutant::on(Mutant::ReviveDeletes) {
                    writer.push(key, version)?;
                    rows += 1;
                    if rows.is_multiple_of(STEP) {
                        progress(rows);
                    }
                }
                merge.advance()?;
            }
            if rows == 0 {
                return Ok(None);
            }
            let finished = writer.finish()?;
            let path = run_path(&dir, finished.id);
            if home.fs().open(&path, Open::Read).is_ok()
                && let Some(part) = self.revive(finished.id, &tmp)?
            {
                return Ok(Some(part));
            }
            home.fs().rename(&tmp, &path).map_err(|e| Error::io("name", &path, e))?;
            let run = Run::open(&**home.fs(), &path, home.log(), home.maps())?;
            self.written.fetch_add(run.entry().bytes, Relaxed);
            Ok(Some(Arc::new(Part {
                run: Arc::new(run),
                unsynced: Mutex::new(Some(finished.file)),
            })))
        })();
        if !matches!(written, Ok(Some(_))) {
            // Left behind, it would be swept at the next open.
            let _ = home.fs().unlink(&tmp);
        }
        written
    }

    /// The run of this content that is there already: deletes that are dropped from a merge may
    /// leave just what an earlier run held. A checkpoint may name that file, so a new one, not
    /// synced yet, never takes its place. `None` when nobody answers for that file: it was named and
    /// then could not be opened, say, so nobody can sync it any more.
    fn revive(&self, id: RunId, tmp: &Path) -> Result<Option<Arc<Part>>> {
        let (_, home) = self.place();
        let mut upkeep = self.upkeep();
        let layers = self.view().shown.layers;
        if let Some(part) = layers.runs.iter().find(|part| part.run.id() == id) {
            let _ = home.fs().unlink(tmp);
            return Ok(Some(Arc::clone(part)));
        }
        if let Some(i) = upkeep.retired.iter().position(|part| part.run.id() == id) {
            let _ = home.fs().unlink(tmp);
            return Ok(Some(upkeep.retired.swap_remove(i)));
        }
        if !upkeep.store.is_named(id) {
            return Ok(None);
        }
        // A checkpoint names it, so it is durable.
        let _ = home.fs().unlink(tmp);
        let path = upkeep.store.run_path(id);
        let run = Run::open(&**home.fs(), &path, home.log(), home.maps())?;
        Ok(Some(Arc::new(Part { run: Arc::new(run), unsynced: Mutex::new(None) })))
    }

    /// The directory and the log; only of a table that writes.
    fn place(&self) -> (std::path::PathBuf, &Home) {
        let home = self.home.as_ref().expect("a table that writes has a log");
        (home.table(), home)
    }

    /// Merges runs, if some should be; whether it did.
    pub(super) fn merge(&self) -> Result<bool> {
        let layers = self.view().shown.layers;
        let sizes: Vec<u64> = layers.runs.iter().map(|part| part.run.entry().bytes).collect();
        let Some(window) = super::pace::window(&sizes, self.options.fan_in) else {
            return Ok(false);
        };
        let oldest = window.end == layers.runs.len();
        let old = layers.runs[window].to_vec();
        // Whoever holds layers keeps their runs from being removed.
        drop(layers);
        let merged = self.merge_parts(old, oldest);
        self.note_upkeep(&merged);
        merged.map(|()| true)
    }

    fn merge_parts(&self, old: Vec<Arc<Part>>, oldest: bool) -> Result<()> {
        let cursors = old.iter().map(|part| Source::Run(part.run.cursor(false))).collect();
        let mut merge = Merge::new(cursors, false);
        merge.seek(None)?;
        let part = self.write_run(&mut merge, oldest, |_| {})?;
        drop(merge);
        // Only deletes were dropped: one of the old runs stays.
        let stays = part.clone();
        let flow = self.flow();
        self.change_layers(|layers| {
            // Newer runs may have come; these are still side by side.
            let is_old = |part: &Arc<Part>| old.iter().any(|o| Arc::ptr_eq(o, part));
            let at = layers.runs.iter().position(is_old).expect("merged once");
            let mut runs: Vec<_> = layers.runs.iter().filter(|p| !is_old(p)).cloned().collect();
            runs.splice(at..at, part.clone());
            Layers { active: Arc::clone(&layers.active), frozen: layers.frozen.clone(), runs }
        });
        drop(flow);
        self.changed.notify_all();
        drop(part);
        let stays = stays.map(|part| part.run.id());
        self.retire(old.into_iter().filter(|old| Some(old.run.id()) != stays).collect())
    }

    /// Removes runs once nobody needs them.
    fn retire(&self, old: Vec<Arc<Part>>) -> Result<()> {
        let mut upkeep = self.upkeep();
        let Upkeep { store, retired } = &mut *upkeep;
        retired.extend(old);
        store.remove_unused(retired)
    }

    fn upkeep(&self) -> MutexGuard<'_, Upkeep> {
        let upkeep = self.upkeep.as_ref().expect("only of a table that writes");
        upkeep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everything applied so far part of a durable checkpoint. Apply and readers go on.
    /// `false` when this process does not keep the table's files, or may not wait until the log
    /// is durable that far.
    pub(super) fn checkpoint(&self) -> Result<bool> {
        if self.upkeep.is_none() {
            return Ok(false);
        }
        loop {
            self.wait_flushed()?;
            let mut applying = self.applying();
            if self.flow().frozen.is_some() {
                // Apply was faster: what it froze comes first.
                continue;
            }
            let installed = self.flow().installed.as_ref().map(|mark| mark.position);
            if applying.applied != installed {
                self.freeze(&mut applying, 0, 0)?;
            }
            break;
        }
        self.wait_flushed()?;
        self.make_checkpoint()
    }

    /// Makes a checkpoint of the runs there are.
    fn make_checkpoint(&self) -> Result<bool> {
        let mut upkeep = self.upkeep();
        let (mark, layers) = {
            let flow = self.flow();
            if let Some(error) = &flow.poisoned {
                return Err(error.clone());
            }
            let Some(mark) = flow.installed.clone() else { return Ok(true) };
            if flow.checkpointed == Some(mark.position) {
                return Ok(true);
            }
            (mark, self.view().shown.layers)
        };
        let (_, home) = self.place();
        if !home.confirm(mark.position)? {
            return Ok(false);
        }
        let Upkeep { store, retired } = &mut *upkeep;
        match store.checkpoint(&mark, &layers.runs, self.options.keep_checkpoints) {
            Ok(_) => {}
            Err(error) => {
                // What a failed sync left in doubt, the next one would not report again.
                if error.kind() != Kind::DiskFull || store.sync_failed {
                    self.flow().poisoned = Some(error.clone());
                }
                return Err(error);
            }
        }
        self.flow().checkpointed = Some(mark.position);
        drop(layers);
        store.remove_unused(retired)?;
        Ok(true)
    }

    /// A manifest of the runs there are, durable in the log, and a view of just their rows.
    pub(super) fn published(&self) -> Result<(Manifest, View)> {
        if !self.checkpoint()? {
            return Err(Error::new(
                Kind::InvalidInput,
                "expected a table that this process keeps on disk, of records that are durable",
            )
            .help("ask the process that keeps it, or a copy of the log"));
        }
        let (mark, mut shown) = {
            let flow = self.flow();
            (flow.installed.clone(), self.view().shown)
        };
        let Some(mark) = mark else {
            return Err(Error::new(Kind::InvalidInput, "expected records, found an empty table"));
        };
        let (_, home) = self.place();
        home.confirm(mark.position)?;
        // Deltas hold only what came later.
        shown.applied = Some(mark.position);
        let manifest = Manifest {
            log: home.log(),
            seq: 0,
            place: home.place(mark.position.log_byte),
            history: home.history(mark.position.log_byte)?,
            runs: shown.layers.runs.iter().map(|part| part.run.entry()).collect(),
            mark,
            state: None,
        };
        Ok((manifest, View { shown }))
    }

    /// What one thread does: writes what is frozen, until told to stop.
    pub(super) fn flush_on(&self) {
        let mut flow = self.flow();
        while !flow.stopping {
            if flow.frozen.is_none() {
                flow = self.changed.wait(flow).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(flow);
            let failed = self.flush().is_err();
            flow = self.flow();
            if failed {
                flow = self.wait_a_little(flow);
            }
        }
    }

    /// What the other does: merges, until told to stop.
    pub(super) fn merge_on(&self) {
        let mut flow = self.flow();
        while !flow.stopping {
            let added = flow.added;
            drop(flow);
            let outcome = self.merge();
            flow = self.flow();
            match outcome {
                Ok(true) => {}
                Ok(false) => {
                    while flow.added == added && !flow.stopping {
                        flow = self.changed.wait(flow).unwrap_or_else(PoisonError::into_inner);
                    }
                }
                Err(_) => flow = self.wait_a_little(flow),
            }
        }
    }

    /// Until something changes, or it is time to try again what failed.
    fn wait_a_little<'a>(&self, flow: MutexGuard<'a, Flow>) -> MutexGuard<'a, Flow> {
        if flow.stopping {
            return flow;
        }
        self.changed.wait_timeout(flow, RETRY).unwrap_or_else(PoisonError::into_inner).0
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
            delta_bytes: deltas.map(|delta| delta.bytes()).sum(),
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
        Some(Change { key, value, offset: entry.offset, timestamp: entry.timestamp })
    })
}
