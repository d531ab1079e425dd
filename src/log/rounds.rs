//! Rounds: who leads group commit next, who waits for whom, and how the baton goes on.
//!
//! Used by `sync` alone, which says what a round does. One thread at a time leads a round; the
//! next round gathers meanwhile, and its leader waits for the baton.
//!
//! ```text
//! waiter: next = started + 1 → first to claim `next`? lead it : sleep on its group
//! leader: wait for the baton → started = next → flush → sync → durable → wake group → baton on
//! worker: ask for the baton → sync → baton on
//! ```
//!
//! Invariants:
//! - a frame published before `started` reached r is covered by round r or an earlier one;
//! - every round that somebody sleeps on has exactly one claimant, who leads it;
//! - at most one thread leads, and at most one waits for the baton;
//! - a leader that waits and the worker take turns, and the worker does not wait for ever.

use std::sync::atomic::Ordering::*;
use std::time::Duration;

use super::primitives::{AtomicBool, AtomicU32, pause, yield_now};
use super::wake::Wake;

/// From this many waiters on, a round's waiters yield a few times before they sleep: with many
/// runnable threads that is cheaper than parking them all.
const CROWD: u32 = 16;
const YIELDS: u32 = 10;

/// So often, and each time at most so long, the worker waits for the end of a round.
const TRIES: u32 = 4;
const PATIENCE: Duration = Duration::from_millis(5);

/// The rounds of group commit.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// Whether somebody leads just now.
    busy: AtomicBool,
    baton: Wake,
    /// A leader waits for the baton.
    queued: AtomicBool,
    /// The worker wants the baton, and sleeps here.
    aside: AtomicBool,
    turn: Wake,
    /// It had the baton last.
    had: AtomicBool,
    /// The newest round that has begun; a frame published before it did is covered.
    started: AtomicU32,
    /// The newest round that is over.
    finished: AtomicU32,
    /// The newest round that somebody has undertaken to lead.
    claimed: AtomicU32,
    groups: [Wake; 4],
    /// How many waited for the round before.
    crowd: AtomicU32,
}

/// What a thread that waits for durability has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It has undertaken to lead this round.
    Lead(u32),
    /// Somebody else leads this round, which covers what was published before.
    Follow(u32),
}

impl Rounds {
    /// Joins the next round.
    pub(crate) fn join(&self) -> Part {
        let mut spins = 0;
        loop {
            let next = self.started.load(SeqCst).wrapping_add(1);
            let claimed = self.claimed.load(SeqCst);
            if claimed == next {
                return Part::Follow(next);
            }
            let newer = next.wrapping_sub(claimed).cast_signed() > 0;
            if newer && self.claimed.compare_exchange(claimed, next, SeqCst, SeqCst).is_ok() {
                return Part::Lead(next);
            }
            // The rounds went on in between.
            pause(&mut spins);
        }
    }

    /// Sleeps until round `round` is over, or `over` says that there is no need; may return early.
    pub(crate) fn follow(&self, round: u32, over: impl Fn() -> bool) {
        let over = || self.finished.load(SeqCst).wrapping_sub(round).cast_signed() >= 0 || over();
        if self.crowd.load(Relaxed) >= CROWD {
            for _ in 0..YIELDS {
                if over() {
                    return;
                }
                yield_now();
            }
        }
        let sleeper = self.group(round).register();
        if !over() {
            sleeper.sleep(None);
        }
    }

    /// Leads the round that was joined so: waits for the baton, commits, wakes, passes it on.
    pub(crate) fn lead<T>(&self, round: u32, commit: impl FnOnce() -> T) -> T {
        let gives_way = || self.aside.load(SeqCst) && !self.had.load(SeqCst);
        while gives_way() || self.busy.swap(true, SeqCst) {
            self.queued.store(true, SeqCst);
            let sleeper = self.baton.register();
            if gives_way() || self.busy.load(SeqCst) {
                sleeper.sleep(None);
            }
        }
        self.queued.store(false, SeqCst);
        self.had.store(false, SeqCst);
        self.started.store(round, SeqCst);
        let result = commit();
        let group = self.group(round);
        self.crowd.store(group.sleepers() + 1, Relaxed);
        self.finished.store(round, SeqCst);
        group.all();
        self.busy.store(false, SeqCst);
        match self.aside.load(SeqCst) {
            true => self.turn.all(),
            false => self.baton.one(),
        }
        result
    }

    /// A sync of the worker's, between two rounds: of two syncs at once each takes longer than
    /// both one after the other, where a journal is committed for one of them. Goes on without
    /// the baton if that does not come: its holder may be waiting for the worker.
    pub(crate) fn between<T>(&self, sync: impl FnOnce() -> T) -> T {
        self.aside.store(true, SeqCst);
        let gives_way = || self.had.load(SeqCst) && self.queued.load(SeqCst);
        let take = || !gives_way() && !self.busy.swap(true, SeqCst);
        let mut mine = take();
        for _ in 0..TRIES {
            if mine {
                break;
            }
            let sleeper = self.turn.register();
            if gives_way() || self.busy.load(SeqCst) {
                sleeper.sleep(Some(PATIENCE));
            }
            mine = take();
        }
        self.aside.store(false, SeqCst);
        if !mine {
            self.baton.one();
            return sync();
        }
        let result = sync();
        self.had.store(true, SeqCst);
        self.busy.store(false, SeqCst);
        self.baton.one();
        result
    }

    /// Wakes every waiter, to look at poison and full disks.
    pub(crate) fn wake_everyone(&self) {
        for group in &self.groups {
            group.all();
        }
        self.baton.all();
        self.turn.all();
    }

    fn group(&self, round: u32) -> &Wake {
        &self.groups[round as usize % 4]
    }
}
