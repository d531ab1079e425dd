//! What the table does behind apply's back: deltas become runs, runs are merged, checkpoints made.
//!
//! Called from the three threads, or by apply and `checkpoint` when there are none. No lock is held
//! while rows are written, but for `merging`; see `core` for the order of locks.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Core, Flow, RETRY, Upkeep};
use crate::error::{Error, Kind, Result};
use crate::fs::Open;
use crate::log::Home;
use crate::mutant::{self, Mutant};
use crate::table::delta::Delta;
use crate::table::layers::{Layers, Part, Shown};
use crate::table::manifest::{Manifest, Mark};
use crate::table::merge::{Merge, Source};
use crate::table::pace;
use crate::table::run::{self, Run, RunId};
use crate::table::store::run_path;
use crate::table::view::View;

impl Core {
    /// Writes the frozen delta as a run, if there is one, and makes a checkpoint when it is time.
    pub(in crate::table) fn flush(&self) -> Result<()> {
        let Some((Some(delta), mark)) = self.flow().frozen.clone() else { return Ok(()) };
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
                flow.frozen = Some((None, mark.clone()));
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
        // Its memory is the next delta's: whoever waits to freeze gets it, and no fresh one.
        drop(delta);
        self.pace.wrote();
        self.flow().frozen = None;
        self.changed.notify_all();
        if since >= self.options.checkpoint_bytes {
            if self.threads {
                // It waits for the disk, and the next delta is not to wait for it.
                self.flow().due = true;
                self.changed.notify_all();
            } else {
                // Apply does not depend on it: the log has everything.
                self.note_upkeep(&self.make_checkpoint());
            }
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
        let oldest = self.runs().is_empty();
        let expected = delta.keys() as u64;
        self.write_run(&mut merge, expected, oldest, |done| self.pace.flushed(done, expected))
    }

    /// Writes what `merge` yields as a run; `None` if that is nothing. Deletes are left out of the
    /// oldest run: there is nothing left that they hide.
    fn write_run(
        &self,
        merge: &mut Merge,
        rows_at_most: u64,
        oldest: bool,
        mut progress: impl FnMut(u64),
    ) -> Result<Option<Arc<Part>>> {
        const STEP: u64 = 1 << 14;
        let (dir, home) = self.place();
        let tmp = dir.join(format!("{:016x}.tmp", self.begun.fetch_add(1, Relaxed)));
        let written = (|| {
            let mut writer = run::Writer::create(&**home.fs(), &tmp, home.log(), rows_at_most)?;
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
            debug_assert_eq!(finished.rows + finished.deletes, rows);
            self.written.fetch_add(finished.file_bytes, Relaxed);
            let path = run_path(&dir, finished.id);
            if home.fs().open(&path, Open::Read).is_ok()
                && let Some(part) = self.revive(finished.id, &tmp)?
            {
                return Ok(Some(part));
            }
            home.fs().rename(&tmp, &path).map_err(|e| Error::io("name", &path, e))?;
            let run = Run::open(&**home.fs(), &path, home.log(), home.maps())?;
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
        if let Some(part) = self.runs().into_iter().find(|part| part.run.id() == id) {
            let _ = home.fs().unlink(tmp);
            return Ok(Some(part));
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
    pub(in crate::table) fn place(&self) -> (PathBuf, &Home) {
        let home = self.home.as_ref().expect("a table that writes has a log");
        (home.table(), home)
    }

    /// Merges runs, if some should be; whether it did.
    pub(in crate::table) fn merge(&self) -> Result<bool> {
        let _one = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = self.runs();
        let sizes: Vec<u64> = runs.iter().map(|part| part.run.entry().bytes).collect();
        let Some(window) = pace::window(&sizes, self.options.fan_in) else {
            return Ok(false);
        };
        let oldest = window.end == runs.len();
        let old = runs[window].to_vec();
        // Whoever holds runs keeps them from being removed.
        drop(runs);
        let merged = self.merge_parts(old, oldest);
        self.note_upkeep(&merged);
        merged.map(|()| true)
    }

    /// Merges all runs into one.
    pub(in crate::table) fn compact(&self) -> Result<bool> {
        if !self.checkpoint()? {
            return Ok(false);
        }
        let merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = self.runs();
        let deletes = runs.last().is_some_and(|oldest| oldest.run.entry().deletes > 0);
        if runs.len() > 1 || deletes {
            self.merge_parts(runs, true)?;
        }
        drop(merging);
        Ok(true)
    }

    /// Returns once every frozen delta is written and nothing waits to be merged.
    pub(in crate::table) fn settle(&self) -> Result<()> {
        self.wait_flushed()?;
        if self.upkeep.is_none() {
            return Ok(());
        }
        if !self.threads {
            while self.merge()? {}
            return Ok(());
        }
        let mut flow = self.flow();
        while flow.settled != flow.added || flow.frozen.is_some() {
            if let Some(error) = flow.stalled.as_ref().or(flow.delayed.as_ref()) {
                return Err(error.clone());
            }
            flow = self.changed.wait(flow).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn merge_parts(&self, old: Vec<Arc<Part>>, oldest: bool) -> Result<()> {
        let rows = old.iter().map(|part| part.run.entry().rows + part.run.entry().deletes).sum();
        let cursors = old.iter().map(|part| Source::Run(part.run.cursor(false))).collect();
        let mut merge = Merge::new(cursors, false);
        merge.seek(None)?;
        let part = self.write_run(&mut merge, rows, oldest, |_| {})?;
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
    pub(in crate::table) fn checkpoint(&self) -> Result<bool> {
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
        // Not the layers: with them, a delta's memory would be held until the disk is done.
        let (mark, runs) = {
            let flow = self.flow();
            if let Some(error) = &flow.poisoned {
                return Err(error.clone());
            }
            let Some(mark) = flow.installed.clone() else { return Ok(true) };
            if flow.checkpointed == Some(mark.position) {
                return Ok(true);
            }
            (mark, self.runs())
        };
        let (_, home) = self.place();
        if !home.confirm(mark.position)? {
            return Ok(false);
        }
        let Upkeep { store, retired } = &mut *upkeep;
        match store.checkpoint(&mark, &runs, self.options.keep_checkpoints) {
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
        drop(runs);
        store.remove_unused(retired)?;
        Ok(true)
    }

    /// A manifest of the runs there are, durable in the log, and a view of just their rows.
    pub(in crate::table) fn published(&self) -> Result<(Manifest, View)> {
        if !self.checkpoint()? {
            let (kind, found) = match (self.upkeep.is_none(), self.options.persist) {
                (true, true) => (
                    Kind::Locked,
                    "found that another process keeps it, or that it takes no writes",
                ),
                (true, false) => (Kind::InvalidInput, "found one in memory"),
                (false, _) => (Kind::InvalidInput, "found records that nobody knows to be durable"),
            };
            let message = format!("expected a table that this process keeps on disk, {found}");
            return Err(Error::new(kind, message)
                .help("ask the process that keeps it, or a copy of the log"));
        }
        let (mark, runs, lost) = {
            let flow = self.flow();
            let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
            (flow.installed.clone(), shown.layers.runs.clone(), Arc::clone(&shown.lost))
        };
        let Some(mark) = mark else {
            return Err(Error::new(Kind::InvalidInput, "expected records, found an empty table"));
        };
        let (_, home) = self.place();
        home.confirm(mark.position)?;
        let manifest = Manifest {
            log: home.log(),
            seq: 0,
            place: home.place(mark.position.log_byte),
            history: home.history(mark.position.log_byte)?,
            runs: runs.iter().map(|part| part.run.entry()).collect(),
            sets: home.sets_below(mark.position.log_byte)?,
            mark,
            state: None,
        };
        // Deltas hold only what came later, and their memory is not to wait for who copies runs.
        let layers = Layers { active: Delta::empty(), frozen: Vec::new(), runs };
        let applied = Some(manifest.mark.position);
        Ok((manifest, View { shown: Shown { layers: Arc::new(layers), applied, lost } }))
    }

    /// What the third does: makes checkpoints when it is time, until told to stop.
    pub(in crate::table) fn checkpoint_on(&self) {
        let mut flow = self.flow();
        while !flow.stopping {
            if std::mem::take(&mut flow.due) {
                drop(flow);
                // Apply does not depend on it: the log has everything.
                self.note_upkeep(&self.make_checkpoint());
                flow = self.flow();
            } else {
                flow = self.changed.wait(flow).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// What one thread does: writes what is frozen, until told to stop.
    pub(in crate::table) fn flush_on(&self) {
        let mut flow = self.flow();
        let mut warmed = false;
        while !flow.stopping {
            if flow.frozen.is_none() {
                if flow.warm && !warmed {
                    drop(flow);
                    self.pool.warm();
                    warmed = true;
                    flow = self.flow();
                    continue;
                }
                flow = self.changed.wait(flow).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            warmed = false;
            drop(flow);
            let failed = self.flush().is_err();
            flow = self.flow();
            if failed {
                flow = self.wait_a_little(flow);
            }
        }
    }

    /// What the other does: merges, until told to stop.
    pub(in crate::table) fn merge_on(&self) {
        let mut flow = self.flow();
        while !flow.stopping {
            let added = flow.added;
            drop(flow);
            let outcome = self.merge();
            flow = self.flow();
            match outcome {
                Ok(true) => {}
                Ok(false) => {
                    flow.settled = added;
                    self.changed.notify_all();
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
}
