//! Group commit: what a round writes and syncs, who waits for it, and what poisons.
//!
//! Called by appends that wait, by `sync`, and by tickets; uses the writer, and `rounds`, which
//! knows whose turn it is.
//!
//! Invariants:
//! - `durable` moves only after a sync of everything below it succeeded;
//! - after a failed sync nothing is ever synced again, and every outcome in doubt is `Poisoned`.

use std::sync::atomic::Ordering::*;
use std::sync::{MutexGuard, PoisonError};

use crate::error::{Error, Kind, Result};
use crate::mutant::{self, Mutant};
use crate::position::{LogByte, Offset};

use super::Shared;
use super::files::State;
use super::options::{Preallocate, Visibility};
use super::prepare::Naming;
use super::rounds::Part;
use super::writer::{Writer, unknown};

/// STATE is rewritten at most this often.
const STATE_EVERY_NS: u64 = 5_000_000;
/// After a pause of so long between rounds, STATE is rewritten at once: nothing else may come soon, and who
/// pauses so long does not notice.
const PAUSE_NS: i64 = 100_000;
/// Behind durable appends, what is written is at most this far ahead of what is durable.
const SMALL_LAG_BYTES: u64 = 4 << 20;
/// A sync that finds this many segments rolled since the last one comes after unsynced bulk.
const BULK_SEGMENTS: usize = 2;
/// Up to this size the sync of a group costs far more when it grows the file than the zeros ahead
/// that prevent it; from four times as much on it costs less.
const SMALL_GROUP_BYTES: u64 = 16 << 10;

impl Shared {
    /// The writer, alone.
    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the first failure that nothing can be trusted after; returns what callers get.
    pub(crate) fn poisoned(&self, cause: Error) -> Error {
        if cause.kind() == Kind::Poisoned {
            return cause;
        }
        let error = Error::new(
            Kind::Poisoned,
            format!("the log takes no more appends after a failure: {}", cause.message()),
        );
        let error = match cause.file() {
            Some(file) => error.in_file(file),
            None => error,
        }
        .help("whether the last records survive is unknown; reopen the log to find out");
        let error = self.poison.get_or_init(|| error).clone();
        self.rounds.wake_everyone();
        self.freed.all();
        self.visible_wake.all();
        error
    }

    /// Whether what was written lately was synced at once: then the next segment is worth
    /// filling with zeros ahead.
    pub(crate) fn recently_durable(&self) -> bool {
        let (written, durable) = (self.ends.written().0, self.ends.durable().0);
        durable.0 > 0 && written.0 - durable.0.min(written.0) < SMALL_LAG_BYTES
    }

    /// Whether zeros ahead of durable groups are worth the disk's time while appends go on.
    pub(crate) fn has_small_groups(&self) -> bool {
        self.group_bytes.load(Relaxed) <= SMALL_GROUP_BYTES
    }

    /// Publishes the written end; called under the writer's lock.
    pub(crate) fn publish_written(&self, byte: LogByte, offset: Offset) {
        self.ends.set_written(byte, offset);
        if self.options.visibility == Visibility::Written {
            self.visible_wake.all();
        }
    }

    /// Publishes what recovery has made durable, before anything is appended.
    pub(crate) fn publish_recovered(&self, byte: LogByte, offset: Offset) {
        self.ends.set_written(byte, offset);
        self.ends.set_durable(byte, offset);
        self.grew();
    }

    /// Tells everybody that more may be durable or visible.
    pub(crate) fn grew(&self) {
        self.ear.tell(|| (self.ends.durable(), self.visible()));
        self.visible_wake.all();
    }

    /// Log byte and offset that reads see.
    pub(crate) fn visible(&self) -> (LogByte, Offset) {
        match self.options.visibility {
            Visibility::Written if !self.ends.is_held() => self.ends.written(),
            _ => self.ends.committed(),
        }
    }

    /// The log byte that reads see.
    #[inline]
    pub(crate) fn visible_byte(&self) -> u64 {
        match self.options.visibility {
            Visibility::Written if !self.ends.is_held() => self.ends.written_byte.load(Acquire),
            _ => self.ends.committed_byte(),
        }
    }

    /// Whether everything below `end` is in the page cache, in files that the next open finds.
    fn is_written(&self, end: LogByte) -> bool {
        // In this order: a segment without a name is known before its frames are.
        self.ends.written_byte.load(Acquire) >= end.0 && self.unnamed_from.load(Acquire) >= end.0
    }

    /// Waits until everything below `end` is in the page cache.
    pub(crate) fn wait_written(&self, end: LogByte, first: Offset) -> Result<()> {
        if self.is_written(end) {
            return Ok(());
        }
        let mut writer = self.writer();
        if self.is_written(end) {
            return Ok(());
        }
        if let Some(error) = self.poison.get() {
            return Err(error.clone());
        }
        if self.ends.written().0 < end {
            writer.flush(self, false).map_err(|e| unknown(e, first))?;
        }
        let named = self.worker.next_file().name(self, Naming::Now);
        named.map_err(|e| match e.kind() {
            Kind::DiskFull => unknown(e, first),
            _ => self.poisoned(e),
        })
    }

    /// Waits until everything below `end` is durable. `first` names the records in errors.
    pub(crate) fn wait_durable(&self, end: LogByte, first: Offset) -> Result<()> {
        loop {
            if self.ends.durable_byte.load(Acquire) >= end.0 {
                return Ok(());
            }
            if let Some(error) = self.poison.get() {
                return Err(error.clone());
            }
            match self.rounds.join() {
                // Everything published before the round began is durable now. The end itself
                // may never be reached: behind a roll it counts a SEAL not yet written.
                Part::Lead(round) => {
                    let led = self.rounds.lead(round, || self.worker.beside(|| self.commit()));
                    return led.map_err(|e| unknown(e, first));
                }
                Part::Follow(round) => self.rounds.follow(round, || {
                    self.ends.durable_byte.load(Acquire) >= end.0 || self.poison.get().is_some()
                }),
            }
            if self.stalled.load(Acquire) && self.ends.written_byte.load(Acquire) < end.0 {
                let full = Error::new(Kind::DiskFull, "the disk is full");
                return Err(unknown(full, first));
            }
        }
    }

    /// One flush and one sync. A full disk still lets what was written before become durable.
    fn commit(&self) -> Result<()> {
        let paused = self.fs.now().saturating_sub(self.round_ended.load(Relaxed)) > PAUSE_NS;
        let (set, flushed) = {
            let mut writer = self.writer();
            if let Some(error) = self.poison.get() {
                return Err(error.clone());
            }
            let flushed = writer.flush(self, true);
            if self.poison.get().is_some() {
                return flushed;
            }
            let (durable, _) = self.ends.durable();
            if self.ends.written().0 <= durable {
                return flushed;
            }
            (writer.sync_set(self), flushed)
        };
        let Some(mut set) = set else { return flushed };
        if set.rolled() >= BULK_SEGMENTS {
            // These need a sync now in any case. Sealed with it, they are not there to be
            // walked by an open after a crash.
            match self.worker.seal_waiting(self) {
                Ok(()) => set.forget_rolled(),
                Err(e) if e.kind() == Kind::DiskFull => {}
                Err(e) => return Err(e),
            }
        }
        if mutant::on(Mutant::StateAhead) {
            self.ends.set_durable(set.end, set.end_offset);
            self.hint_state(true);
        }
        if mutant::on(Mutant::AckBeforeSync) {
            self.ends.set_durable(set.end, set.end_offset);
            let _ = set.sync(self);
            return flushed;
        }
        let synced = set.sync(self);
        let synced = match mutant::on(Mutant::RetryFailedSync) {
            true => synced.or_else(|_| set.sync(self)),
            false => synced,
        };
        synced.map_err(|e| match e.kind() {
            // A name did not fit any more. It and what it stands for are tried again.
            Kind::DiskFull => e,
            _ => self.poisoned(e),
        })?;
        self.ends.set_durable(set.end, set.end_offset);
        self.grew();
        self.hint_state(paused);
        self.round_ended.store(self.fs.now(), Relaxed);
        if !self.options.worker {
            self.worker.work(self).or_else(|e| match e.kind() {
                Kind::DiskFull => Ok(()),
                _ => Err(e),
            })?;
        }
        flushed
    }

    /// Rewrites STATE, unsynced, unless that was done a moment ago and need not be done `now`; then the
    /// worker does it soon.
    pub(crate) fn hint_state(&self, now: bool) {
        let elapsed = self.fs.elapsed();
        let last = self.state_written.load(Relaxed);
        if !now && last != 0 && elapsed.saturating_sub(last) < STATE_EVERY_NS {
            self.state_pending.store(true, Release);
            if self.options.worker {
                self.worker.arm();
            }
            return;
        }
        self.state_written.store(elapsed.max(1), Relaxed);
        self.state_pending.store(false, Release);
        // Committed comes first: it is never ahead of what is durable by then.
        let (committed, committed_offset) = self.ends.committed();
        let (durable, durable_offset) = self.ends.durable();
        let epoch = self.epoch();
        let mut file = self.state_file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            *file = State::file(&*self.fs, &self.layout).ok();
        }
        if let Some(file) = &*file {
            let state = State {
                seq: self.state_seq.fetch_add(1, Relaxed) + 1,
                epoch,
                durable,
                durable_offset,
                committed,
                committed_offset,
                time: self.fs.now(),
            };
            // A hint that cannot be written is a hint that is missing: the log goes on.
            let _ = state.write(&**file);
        }
    }

    /// Rewrites STATE for what was found at open; the first sync does it again at once.
    pub(crate) fn hint_recovered(&self) {
        self.hint_state(true);
        self.state_written.store(0, Relaxed);
    }

    /// Writes the buffer that a producer closed and left to the worker.
    pub(crate) fn write_closed(&self) {
        let mut writer = self.writer();
        if self.poison.get().is_none() {
            // A full disk keeps it in memory, and appends are told.
            let _ = writer.drain(self);
        }
    }

    /// Fills the active segment a piece further with zeros, at most `ahead` of its frames, and
    /// syncs them; `false` if there is nothing to fill.
    pub(crate) fn fill_active(&self, ahead: u64) -> bool {
        if self.options.preallocate == Preallocate::Grow || !self.recently_durable() {
            return false;
        }
        let filled = {
            let mut writer = self.writer();
            if self.poison.get().is_some() {
                return false;
            }
            writer.fill_on(self, ahead)
        };
        let Some((file, path)) = filled else { return false };
        match file.sync_data() {
            Ok(()) => true,
            Err(e) => {
                // The file holds frames, too: which of them it lost, nobody can tell any more.
                self.poisoned(Error::io("sync", &path, e));
                false
            }
        }
    }

    /// The worker's tick: buffered records and STATE do not stay behind.
    pub(crate) fn flush_old(&self) {
        {
            let mut writer = self.writer();
            if self.poison.get().is_none() {
                // A full disk keeps them in memory; whoever waits is told.
                let _ = writer.flush(self, false);
            }
        }
        if self.state_pending.load(Acquire) {
            self.hint_state(true);
        }
    }
}
