//! The worker: one named thread that flushes old buffered records, prepares and seals segments.
//!
//! Without it (`Options::worker(false)`) the same jobs run inside appends, syncs and `close`.
//! Sealing needs a sync. It follows at once when appends are durable anyway; behind a stream of
//! unsynced bulk it waits for a quiet moment, within bounds.
//!
//! Invariants:
//! - segments are sealed in the order in which they were rolled, each with the hash of the one
//!   before;
//! - nothing is sealed after poison;
//! - what a roll inside a durable round asks for begins when that round is over: syncs beside each
//!   other only make each other slow, and somebody waits for the round's.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fs::File;
use crate::mutant::{self, Mutant};
use crate::segment::{Tally, seal_with};

use super::Shared;
use super::catalog::Segment;
use super::prepare::NextFile;
use super::wake::Wake;

/// While unsynced bulk streams in, sealing would only force it to disk early, and filling ahead
/// would take its bandwidth. They wait until the log has been quiet for this long,
const QUIET: Duration = Duration::from_millis(50);
/// sealing at most until this many segments wait: an open after a crash has to walk them.
const MOST_UNSEALED: usize = 16;

/// On a full disk there is no use in trying at once.
const FULL: Duration = Duration::from_millis(100);

/// A segment to be sealed.
#[derive(Debug)]
pub(crate) struct SealJob {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn File>,
    pub(crate) tally: Tally,
}

/// The worker's desk.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    wake: Wake,
    /// Guards the jobs and the hash of the segment sealed last; held while sealing, so that
    /// sealing keeps its order.
    sealing: Mutex<Sealing>,
    queue: Mutex<VecDeque<SealJob>>,
    /// Guards the next segment's file; held while it is made, filled and named.
    next_file: Mutex<NextFile>,
    /// Somebody wants the next segment's file made.
    prepare: AtomicBool,
    /// A durable round is being written and synced,
    committing: AtomicBool,
    /// and what it has rolled waits until that is over.
    deferred: AtomicBool,
    /// A closed buffer waits to be written.
    write: AtomicBool,
    /// There are buffered records, or a STATE, that nobody waits for.
    pub(crate) tick: AtomicBool,
    stop: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Sealing {
    previous_hash: [u8; 32],
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn spawn(shared: &Arc<Shared>) -> Result<()> {
        let its = Arc::clone(shared);
        let thread = std::thread::Builder::new()
            .name("tidelog-worker".into())
            .spawn(move || run(&its))
            .map_err(|e| Error::io("start the worker for", &shared.layout.root, e))?;
        *lock(&shared.worker.thread) = Some(thread);
        Ok(())
    }

    /// Queues a rolled segment, and the preparation of the next.
    pub(crate) fn seal(&self, job: SealJob) {
        lock(&self.queue).push_back(job);
        self.prepare_soon();
        self.deferred.store(true, SeqCst);
        if !self.committing.load(SeqCst) {
            self.begin_deferred();
        }
    }

    /// Runs a durable round.
    pub(crate) fn beside<T>(&self, round: impl FnOnce() -> T) -> T {
        self.committing.store(true, SeqCst);
        let result = round();
        self.committing.store(false, SeqCst);
        self.begin_deferred();
        result
    }

    /// Wakes the worker, unless it looks within the flush bound anyway: waking costs whoever
    /// appends, and a roll is soon followed by another only in a stream of appends.
    fn begin_deferred(&self) {
        if self.deferred.load(SeqCst)
            && self.deferred.swap(false, SeqCst)
            && !self.tick.load(SeqCst)
        {
            self.wake.all();
        }
    }

    /// Asks for the next segment's file, when there is time.
    pub(crate) fn prepare_soon(&self) {
        self.prepare.store(true, Release);
    }

    /// Asks for the closed buffer to be written.
    pub(crate) fn write_soon(&self) {
        self.write.store(true, Release);
        self.wake.all();
    }

    /// Asks for a look within the flush bound; costs an atomic exchange when it was asked before.
    #[inline]
    pub(crate) fn arm(&self) {
        if !self.tick.load(Relaxed) && !self.tick.swap(true, AcqRel) {
            self.wake.all();
        }
    }

    /// The next segment's file. While the guard is held, nobody makes another under the same
    /// temporary name.
    pub(crate) fn next_file(&self) -> MutexGuard<'_, NextFile> {
        lock(&self.next_file)
    }

    pub(crate) fn set_previous_hash(&self, hash: [u8; 32]) {
        lock(&self.sealing).previous_hash = hash;
    }

    /// Seals everything that waits for it, in order.
    pub(crate) fn seal_all(&self, shared: &Shared) -> Result<()> {
        while self.seal_next(shared, false)? {}
        Ok(())
    }

    /// Seals what waits for it now, in order, as part of a round; what is rolled meanwhile may wait.
    pub(crate) fn seal_waiting(&self, shared: &Shared) -> Result<()> {
        let waiting = lock(&self.queue).len();
        // One more than that: it waits for the one that the worker may just be sealing.
        for _ in 0..=waiting {
            self.seal_next(shared, true)?;
        }
        Ok(())
    }

    /// Seals the oldest segment that waits; `false` when none does. Who is `in_round` has the baton.
    fn seal_next(&self, shared: &Shared, in_round: bool) -> Result<bool> {
        let mut sealing = lock(&self.sealing);
        // A failed seal is poison. The next one would be linked to the one before it, and the log
        // could not be opened again.
        if let Some(error) = shared.poison.get() {
            return Err(error.clone());
        }
        let Some(job) = lock(&self.queue).pop_front() else { return Ok(false) };
        let SealJob { segment, file, tally } = &job;
        let durable = is_durable(&job, shared);
        if !durable && !mutant::on(Mutant::SealUnnamed) {
            // Closes the crash that keeps this segment's name and forgets an earlier one's: the
            // footer is proof that everything before it is there.
            let segments = shared.layout.segments();
            let named = shared.fs.sync_dir(&segments);
            named.map_err(|e| shared.poisoned(Error::io("sync", &segments, e)))?;
        }
        // What is durable to its last frame syncs a few pages: that fits between two rounds.
        let sync = |file: &dyn File| match durable && !in_round {
            true => shared.rounds.between(|| file.sync_data()),
            false => file.sync_data(),
        };
        let hash = sealing.previous_hash;
        match seal_with(file, &segment.path, &segment.header, tally, hash, None, sync) {
            Ok(sealed) => {
                segment.seal(sealed.footer);
                sealing.previous_hash = sealed.footer.hash;
                Ok(true)
            }
            // A full disk leaves the segment as it is: readable, sealed later or at the next
            // open. Nothing durable is in doubt.
            Err(e) if e.kind() == Kind::DiskFull => {
                lock(&self.queue).push_front(job);
                Err(e)
            }
            Err(e) => Err(shared.poisoned(e)),
        }
    }

    /// Does what has been asked for: the thread, or without one a round.
    pub(crate) fn work(&self, shared: &Shared) -> Result<()> {
        self.prepare(shared);
        self.seal_next(shared, !shared.options.worker).map(drop)
    }

    /// Whether the oldest segment that waits is durable already, so that sealing it syncs only
    /// its few last pages.
    fn sealing_is_cheap(&self, shared: &Shared) -> bool {
        lock(&self.queue).front().is_some_and(|job| is_durable(job, shared))
    }

    fn is_idle(&self) -> bool {
        !self.prepare.load(Acquire) && lock(&self.queue).is_empty()
    }

    /// Makes the next segment's file, if that was asked for.
    fn prepare(&self, shared: &Shared) {
        if self.prepare.swap(false, AcqRel) {
            self.next_file().prepare(shared);
        }
    }

    /// Fills the next segment's file a piece further, and when it is quiet the active one's first,
    /// by `ahead` bytes at most; `false` if there is nothing to do now.
    fn fill(&self, shared: &Shared, quiet: bool, ahead: u64) -> bool {
        if quiet && shared.fill_active(ahead) {
            return true;
        }
        let filled = self.next_file().fill_on(shared, quiet);
        let Some(file) = filled else { return false };
        // Not with the file's lock: who rolls holds the baton, and wants that.
        let synced = match quiet {
            true => file.sync_data(),
            false => shared.rounds.between(|| file.sync_data()),
        };
        if let Err(e) = synced
            && !self.next_file().give_up(&file)
        {
            let segments = shared.layout.segments();
            shared.poisoned(Error::io("sync the newest segment in", &segments, e));
        }
        true
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Release);
        self.wake.all();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // The worker's panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Whether a commit has made all of a rolled segment durable, its name included.
fn is_durable(job: &SealJob, shared: &Shared) -> bool {
    shared.ends.durable_byte.load(Acquire) >= job.segment.header.log_byte(job.tally.end)
}

fn run(shared: &Shared) {
    let worker = &shared.worker;
    let opened_at = shared.ends.written().0;
    // Where the log ended when the last rest began.
    let mut rested_at = None;
    loop {
        if worker.write.swap(false, AcqRel) {
            shared.write_closed();
            worker.prepare(shared);
            continue;
        }
        if worker.stop.load(Acquire) {
            return;
        }
        if worker.deferred.load(Acquire) {
            let sleeper = worker.wake.register();
            if worker.deferred.load(SeqCst) && !worker.write.load(Acquire) {
                sleeper.sleep(Some(shared.options.flush_after));
            }
            continue;
        }
        // Appends that need more zeros set the tick.
        let end = shared.ends.written().0;
        let quiet = rested_at == Some(end) && !worker.tick.load(Acquire);
        // A log gets no more zeros than it got frames: a small one stays small.
        let filled = worker.fill(shared, quiet, end.0.saturating_sub(opened_at.0));
        rested_at = quiet.then_some(end);
        let waiting = lock(&worker.queue).len();
        let ticking = worker.tick.load(Acquire);
        if ticking && waiting > 1 && worker.sealing_is_cheap(shared) {
            // Durable rolls come faster than the flush bound: sealing keeps up with them. Behind
            // unsynced bulk it waits, as ever.
            if worker.work(shared).is_err() {
                std::thread::sleep(FULL);
            }
            continue;
        }
        let sleeper = worker.wake.register();
        if !filled && !worker.write.load(Acquire) && !worker.stop.load(Acquire) {
            if ticking {
                sleeper.sleep(Some(shared.options.flush_after));
            } else if waiting > 0 && waiting < MOST_UNSEALED && !worker.sealing_is_cheap(shared) {
                sleeper.sleep(Some(QUIET));
            } else if waiting == 0 && !worker.tick.load(Acquire) && worker.is_idle() {
                // Rested, and nothing left to fill: there is nothing to do until somebody says so.
                sleeper.sleep((!quiet).then_some(QUIET));
                rested_at = Some(end);
            }
            if !ticking && worker.tick.load(Acquire) {
                // Just armed: what is buffered, and STATE, have the whole flush bound before them.
                continue;
            }
        }
        if worker.write.load(Acquire) {
            // Bulk is under way: nothing gets old, and sealing can wait.
            if lock(&worker.queue).len() < MOST_UNSEALED {
                continue;
            }
        } else if worker.tick.swap(false, AcqRel) {
            shared.flush_old();
        }
        if worker.work(shared).is_err() {
            std::thread::sleep(FULL);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
