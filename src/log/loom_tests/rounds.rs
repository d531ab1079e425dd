//! Rounds: every waiter is covered by a sync, one thread syncs at a time, nobody is left waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use super::super::primitives::{AtomicBool, AtomicU64, Traced};
use super::super::rounds::{Part, Rounds};
use super::{bounded, exhaust};

/// A log of eight bytes per frame, as `sync` sees it.
struct Log {
    rounds: Rounds,
    /// Frames that were published; an addition, as in staging.
    published: AtomicU64,
    durable: AtomicU64,
    poison: AtomicBool,
    /// Touched by whoever syncs: loom fails if two do.
    sync: Traced,
    /// This sync, counted from 0, fails.
    broken: Option<u64>,
    /// The first commit finds the disk full: it fails, and nothing is lost by that.
    full: AtomicBool,
    syncs: AtomicU64,
}

impl Log {
    fn new(broken: Option<u64>) -> Arc<Self> {
        Arc::new(Log {
            rounds: Rounds::default(),
            published: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            poison: AtomicBool::new(false),
            sync: Traced::new(8),
            broken,
            full: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
        })
    }

    /// Publishes a frame; returns the end behind it.
    fn append(&self) -> u64 {
        self.published.fetch_add(1, AcqRel) + 1
    }

    /// What `Shared::wait_durable` does; `Err` is poison.
    fn wait(&self, end: u64) -> Result<(), ()> {
        loop {
            if self.durable.load(Acquire) >= end {
                return Ok(());
            }
            if self.poison.load(Acquire) {
                return Err(());
            }
            match self.rounds.join() {
                Part::Lead(round) => {
                    let led = self.rounds.lead(round, || self.commit());
                    if led.is_ok() {
                        assert!(self.durable.load(Acquire) >= end, "led, and still not covered");
                    }
                    return led;
                }
                Part::Follow(round) => self.rounds.follow(round, || {
                    self.durable.load(Acquire) >= end || self.poison.load(Acquire)
                }),
            }
        }
    }

    fn commit(&self) -> Result<(), ()> {
        if self.poison.load(Acquire) {
            return Err(());
        }
        // Closing the buffer reads what was published by an exchange.
        let end = self.published.fetch_or(0, AcqRel);
        if self.durable.load(Acquire) >= end {
            return Ok(());
        }
        if self.full.swap(false, AcqRel) {
            return Err(());
        }
        self.sync.touch(0, 8);
        if Some(self.syncs.fetch_add(1, Relaxed)) == self.broken {
            self.poison();
            return Err(());
        }
        self.durable.store(end, Release);
        Ok(())
    }

    /// What `Shared::poisoned` does.
    fn poison(&self) {
        self.poison.store(true, Release);
        self.rounds.wake_everyone();
    }
}

fn spawn_appends(log: &Arc<Log>, each: u64) -> loom::thread::JoinHandle<Result<(), ()>> {
    let log = Arc::clone(log);
    loom::thread::spawn(move || (0..each).try_for_each(|_| log.wait(log.append())))
}

#[test]
fn two_appends_are_covered() {
    exhaust("rounds, 2 threads", || {
        let log = Log::new(None);
        let other = spawn_appends(&log, 1);
        log.wait(log.append()).unwrap();
        other.join().unwrap().unwrap();
        assert_eq!(log.durable.load(Acquire), 2);
    });
}

#[test]
fn two_threads_append_twice_and_pass_the_baton() {
    bounded("rounds, 2 threads twice", Some(3), || {
        let log = Log::new(None);
        let other = spawn_appends(&log, 2);
        for _ in 0..2 {
            log.wait(log.append()).unwrap();
        }
        other.join().unwrap().unwrap();
        assert_eq!(log.durable.load(Acquire), 4);
    });
}

#[test]
fn three_appends_are_covered() {
    bounded("rounds, 3 threads", Some(3), || {
        let log = Log::new(None);
        let others = [(); 2].map(|()| spawn_appends(&log, 1));
        log.wait(log.append()).unwrap();
        for other in others {
            other.join().unwrap().unwrap();
        }
        assert_eq!(log.durable.load(Acquire), 3);
    });
}

#[test]
fn a_failed_sync_reaches_every_waiter() {
    for broken in [0, 1] {
        bounded("rounds, 3 threads, poison", Some(3), move || {
            let log = Log::new(Some(broken));
            let others = [(); 2].map(|()| spawn_appends(&log, 1));
            let mine = log.wait(log.append());
            let all = others.map(|other| other.join().unwrap());
            let durable = log.durable.load(Acquire);
            let acknowledged = all.iter().chain([&mine]).filter(|one| one.is_ok()).count();
            assert!(acknowledged as u64 <= durable, "acknowledged without a sync");
            assert!(log.poison.load(Acquire) || durable == 3);
        });
    }
}

#[test]
fn poison_from_elsewhere_reaches_who_waits() {
    // The worker's sealing may fail while one leads and one sleeps.
    bounded("rounds, poison from a third", Some(3), || {
        let log = Log::new(None);
        let other = spawn_appends(&log, 1);
        let worker = {
            let log = Arc::clone(&log);
            loom::thread::spawn(move || log.poison())
        };
        let _ = log.wait(log.append());
        let _ = other.join().unwrap();
        worker.join().unwrap();
    });
}

#[test]
fn a_round_that_fails_on_a_full_disk_leaves_nobody_asleep() {
    // The leader is told; who followed looks again, and leads the next round itself.
    bounded("rounds, full disk", Some(4), || {
        let log = Log::new(None);
        log.full.store(true, Relaxed);
        let other = spawn_appends(&log, 1);
        let mine = log.wait(log.append());
        let its = other.join().unwrap();
        assert!(mine.is_ok() || its.is_ok(), "one round failed, so one at most is told");
    });
}

/// The worker's syncs; each has the disk to itself.
fn spawn_worker(log: &Arc<Log>, syncs: u64) -> loom::thread::JoinHandle<()> {
    let log = Arc::clone(log);
    loom::thread::spawn(move || {
        for _ in 0..syncs {
            log.rounds.between(|| log.sync.touch(0, 8));
        }
    })
}

#[test]
fn the_worker_and_a_leader_take_turns() {
    bounded("rounds, the worker's two syncs", Some(4), || {
        let log = Log::new(None);
        let worker = spawn_worker(&log, 2);
        for _ in 0..2 {
            log.wait(log.append()).unwrap();
        }
        worker.join().unwrap();
        assert_eq!(log.durable.load(Acquire), 2);
    });
}

#[test]
fn the_worker_syncs_beside_two_who_wait() {
    bounded("rounds, 2 threads and the worker", Some(3), || {
        let log = Log::new(None);
        let worker = spawn_worker(&log, 1);
        let other = spawn_appends(&log, 1);
        log.wait(log.append()).unwrap();
        other.join().unwrap().unwrap();
        worker.join().unwrap();
        assert_eq!(log.durable.load(Acquire), 2);
    });
}
