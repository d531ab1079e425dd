//! The worker: one named thread that flushes old buffered records, prepares and seals segments.
//!
//! Without it (`Options::worker(false)`) the same jobs run inside appends, syncs and `close`.
//! Invariant: segments are sealed in the order in which they were rolled, each with the hash of
//! the one before.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Error, Kind, Result};
use crate::fs::File;
use crate::segment::{Tally, seal};

use super::Shared;
use super::catalog::Segment;
use super::wake::Wake;
use super::writer::prepare_segment;

/// A segment to be sealed.
#[derive(Debug)]
pub(crate) struct SealJob {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn File>,
    pub(crate) tally: Tally,
}

type Prepared = (Arc<dyn File>, PathBuf, u64);

/// The worker's desk.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    wake: Wake,
    /// Guards the jobs and the hash of the segment sealed last; held while sealing, so that
    /// sealing keeps its order.
    sealing: Mutex<Sealing>,
    queue: Mutex<VecDeque<SealJob>>,
    /// Guards the next segment's file; held while it is made.
    prepared: Mutex<Option<Prepared>>,
    /// Somebody wants the next segment's file made.
    prepare: AtomicBool,
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
        self.prepare.store(true, Release);
        self.wake.all();
    }

    /// Asks for a look within the flush bound; costs an atomic exchange when it was asked before.
    #[inline]
    pub(crate) fn arm(&self) {
        if !self.tick.load(Relaxed) && !self.tick.swap(true, AcqRel) {
            self.wake.all();
        }
    }

    /// The next segment's file, if it was made ahead.
    pub(crate) fn take_prepared(&self) -> Option<Prepared> {
        lock(&self.prepared).take()
    }

    pub(crate) fn set_previous_hash(&self, hash: [u8; 32]) {
        lock(&self.sealing).previous_hash = hash;
    }

    /// Seals everything that waits for it, in order.
    pub(crate) fn seal_all(&self, shared: &Shared) -> Result<()> {
        let mut sealing = lock(&self.sealing);
        loop {
            let Some(job) = lock(&self.queue).pop_front() else { return Ok(()) };
            let segment = &job.segment;
            let sealed =
                seal(&job.file, &segment.path, &segment.header, &job.tally, sealing.previous_hash);
            match sealed {
                Ok(sealed) => {
                    segment.seal(sealed.footer);
                    sealing.previous_hash = sealed.footer.hash;
                }
                // A full disk leaves the segment as it is: readable, sealed later or at the
                // next open. Nothing durable is in doubt.
                Err(e) if e.kind() == Kind::DiskFull => {
                    lock(&self.queue).push_front(job);
                    return Err(e);
                }
                Err(e) => return Err(shared.poisoned(e)),
            }
        }
    }

    /// Does what has been asked for; returns whether something was.
    pub(crate) fn work(&self, shared: &Shared) -> Result<()> {
        self.seal_all(shared)?;
        if self.prepare.swap(false, AcqRel) {
            let mut prepared = lock(&self.prepared);
            if prepared.is_none() {
                // Only a head start: the roll makes the file itself if this fails.
                *prepared = prepare_segment(shared).ok();
            }
        }
        Ok(())
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

fn run(shared: &Shared) {
    let worker = &shared.worker;
    loop {
        if worker.stop.load(Acquire) {
            return;
        }
        let ticking = worker.tick.load(Acquire);
        if ticking {
            let sleeper = worker.wake.register();
            if !worker.stop.load(Acquire) {
                sleeper.sleep(Some(shared.options.flush_after));
            }
            worker.tick.store(false, Release);
            shared.flush_old();
        } else {
            let sleeper = worker.wake.register();
            let idle = !worker.tick.load(Acquire)
                && !worker.stop.load(Acquire)
                && !worker.prepare.load(Acquire)
                && lock(&worker.queue).is_empty();
            if idle {
                sleeper.sleep(None);
            }
        }
        let failed = worker.work(shared).is_err();
        if failed {
            // A full disk: no use in trying at once.
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
