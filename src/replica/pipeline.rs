//! A follower's two sides beside each other: one thread receives, the caller's applies.
//!
//! ```text
//! tidelog-receive   look │ copy │ sync ├─ look, which acknowledges │ copy │ sync ├─ …
//!                                      └► Handover ─┐
//! caller                                            └► log grows │ apply │ tell │ …
//! ```
//!
//! Called by `follower` for `run` and `catch_up`, unless it is to do without threads; `step` goes the same
//! two ways one after the other. Invariants:
//! - what is acknowledged is synced, and does not wait for apply;
//! - the receiving side is at most [`AHEAD_BYTES`] in front of an applying side that is at work: what is
//!   applied is still in the page cache, and there is an end to it when both are to stop. One that stands,
//!   because it is held back or cannot go on, holds nothing up;
//! - both end when either fails, panics included, and what had become durable before is applied, unless
//!   apply is what failed;
//! - the caller alone is told of progress and trouble, in the order in which it came.

use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::log::files::State;
use crate::position::{LogByte, Offset};

use super::apply::Applying;
use super::follower::{Lag, Progress, may_pass};
use super::receive::{Received, Receiver};

/// How far received bytes may be in front of applied ones.
const AHEAD_BYTES: u64 = 128 << 20;
/// About as much is applied before the caller is told.
const PIECE_BYTES: usize = 32 << 20;
/// Looks so often whether it is to pause: nothing else wakes who waits for records.
const LOOK: Duration = Duration::from_secs(1);

/// What passes between the two threads.
#[derive(Default)]
struct Handover {
    passed: Mutex<Passed>,
    changed: Condvar,
}

#[derive(Default)]
struct Passed {
    news: News,
    /// Whether there are any.
    is_new: bool,
    /// The receiving side is over.
    ended: bool,
    /// The applying side takes no more.
    halted: bool,
    /// It is at work.
    busy: bool,
    applied: LogByte,
}

/// What has been received since the applying side last asked.
#[derive(Default)]
struct News {
    state: Option<State>,
    end: Offset,
    bytes: u64,
    segments: u64,
    shown: bool,
    lag: Lag,
    /// What may pass, told once.
    trouble: Option<Error>,
}

/// Halts the receiving side, or says that it is over, whatever way the other one ends.
struct Leaves<'a>(&'a Handover, fn(&mut Passed));

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        (self.1)(&mut self.0.lock());
        self.0.changed.notify_all();
    }
}

impl Handover {
    fn lock(&self) -> MutexGuard<'_, Passed> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the receiving side: what a round has brought.
    fn give(&self, receiver: &Receiver, received: &Received, trouble: Option<Error>) {
        let news = News {
            state: received.state,
            end: receiver.durable.end.offset,
            bytes: received.moved.bytes,
            segments: received.moved.segments,
            shown: received.shown,
            lag: receiver.lag(),
            trouble,
        };
        let mut passed = self.lock();
        passed.is_new = true;
        passed.news.add(news);
        drop(passed);
        self.changed.notify_all();
    }

    fn is_halted(&self) -> bool {
        self.lock().halted
    }

    /// Waits until the applying side is near enough to `end`, or stands.
    fn wait_near(&self, end: LogByte) {
        let far = |passed: &mut Passed| {
            let at_work = passed.busy || passed.is_new;
            at_work && !passed.halted && end.0 > passed.applied.0.saturating_add(AHEAD_BYTES)
        };
        drop(self.changed.wait_while(self.lock(), far).unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until the applying side stands, at most so long; whether it does.
    fn wait_idle(&self, most: Duration) -> bool {
        let at_work = |passed: &mut Passed| (passed.busy || passed.is_new) && !passed.halted;
        let waited = self.changed.wait_timeout_while(self.lock(), most, at_work);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// From the applying side: it has nothing to do and waits for news, at most so long. `None` when
    /// there will be no more.
    fn take(&self, applied: LogByte, most: Duration) -> Option<Option<News>> {
        let mut passed = self.lock();
        (passed.busy, passed.applied) = (false, applied);
        self.changed.notify_all();
        let nothing = |passed: &mut Passed| !passed.is_new && !passed.ended;
        let waited = self.changed.wait_timeout_while(passed, most, nothing);
        passed = waited.unwrap_or_else(PoisonError::into_inner).0;
        self.next(&mut passed)
    }

    /// The same without waiting: there is still something to do.
    fn take_more(&self, applied: LogByte) -> Option<Option<News>> {
        let mut passed = self.lock();
        passed.applied = applied;
        self.changed.notify_all();
        match self.next(&mut passed) {
            None => Some(None),
            some => some,
        }
    }

    fn next(&self, passed: &mut Passed) -> Option<Option<News>> {
        passed.busy = true;
        match std::mem::take(&mut passed.is_new) {
            true => Some(Some(std::mem::take(&mut passed.news))),
            false if passed.ended => None,
            false => Some(None),
        }
    }
}

/// Runs both sides until the source has been caught up with, and applies everything.
pub(super) fn catch_up(
    receiver: &mut Receiver,
    applying: &mut Applying,
    poll_every: Duration,
    progress: &mut Progress,
) -> Result<()> {
    let receive = |receiver: &mut Receiver, handover: &Handover| {
        let caught = receiver.catch_up(poll_every, |receiver| {
            if handover.is_halted() {
                return Err(halted());
            }
            let mut received = Received::default();
            let outcome = receiver.round(&mut received);
            handover.give(receiver, &received, None);
            handover.wait_near(receiver.copy.end().log_byte);
            outcome
        });
        caught.and(settle(receiver, handover))
    };
    let apply = |applying: &mut Applying, handover: &Handover| {
        let mut more = false;
        loop {
            let applied = applying.applied_byte();
            let taken = match more {
                true => handover.take_more(applied),
                false => handover.take(applied, LOOK),
            };
            let Some(news) = taken else { return Ok(()) };
            if let Some(news) = news {
                news.add_to(progress);
                applying.hear(news.state);
            }
            more = applying.go_on(PIECE_BYTES)?;
            progress.applied = applying.applied();
        }
    };
    beside(receiver, applying, receive, apply)
}

/// Runs both sides until `stop` is set.
pub(super) fn run(
    receiver: &mut Receiver,
    applying: &mut Applying,
    poll_every: Duration,
    stop: &AtomicBool,
    on_progress: &mut dyn FnMut(&Result<Progress>),
) -> Result<()> {
    let receive = |receiver: &mut Receiver, handover: &Handover| {
        let followed = follow(receiver, handover, poll_every, stop);
        followed.and(settle(receiver, handover))
    };
    let (mut from, mut lag) = (receiver.copy.end().offset, receiver.lag());
    let apply = |applying: &mut Applying, handover: &Handover| {
        let mut more = false;
        let mut troubled: Option<String> = None;
        loop {
            let applied = applying.applied_byte();
            let taken = match (more, applying.is_held() || troubled.is_some()) {
                (true, _) => handover.take_more(applied),
                (false, true) => handover.take(applied, poll_every),
                (false, false) => handover.take(applied, LOOK),
            };
            let Some(news) = taken else { return Ok(()) };
            let is_new = news.is_some();
            let before = applying.applied();
            let mut progress = Progress { from, to: from, lag, ..Progress::default() };
            let mut trouble = None;
            if let Some(mut news) = news {
                trouble = news.trouble.take();
                news.add_to(&mut progress);
                applying.hear(news.state);
            }
            (from, lag) = (progress.to, progress.lag);
            let outcome = applying.go_on(PIECE_BYTES);
            progress.applied = applying.applied();
            let moved = progress.bytes > 0 || progress.segments > 0 || progress.shown;
            if let Some(error) = trouble.take() {
                // What came whole before it is told first.
                if moved || progress.applied > before {
                    on_progress(&Ok(progress));
                }
                on_progress(&Err(error));
            } else if outcome.is_ok() && (is_new || progress.applied > before || troubled.is_some())
            {
                on_progress(&Ok(progress));
            }
            more = match outcome {
                Ok(more) => {
                    troubled = None;
                    more
                }
                // Whoever stops it need not hear why apply got no further.
                Err(e) if may_pass(e.kind()) && stop.load(Relaxed) => return Ok(()),
                Err(e) if may_pass(e.kind()) => {
                    let text = e.to_string();
                    if troubled.as_ref() != Some(&text) {
                        troubled = Some(text);
                        on_progress(&Err(e));
                    }
                    false
                }
                Err(e) => return Err(e),
            };
        }
    };
    beside(receiver, applying, receive, apply)
}

/// What the receiving side does while it follows.
fn follow(
    receiver: &mut Receiver,
    handover: &Handover,
    poll_every: Duration,
    stop: &AtomicBool,
) -> Result<()> {
    let (mut first, mut troubled) = (true, None);
    while !stop.load(Relaxed) && !handover.is_halted() {
        let mut received = Received::default();
        let outcome = receiver.round(&mut received);
        let trouble = match outcome {
            Ok(()) => {
                let recovered = troubled.take().is_some();
                if received.is_some() || first || recovered {
                    handover.give(receiver, &received, None);
                }
                false
            }
            // Whoever stops it may break off what it is reading.
            Err(e) if may_pass(e.kind()) && stop.load(Relaxed) => {
                handover.give(receiver, &received, None);
                return Ok(());
            }
            Err(e) if may_pass(e.kind()) => {
                // The same trouble is told once, not twenty times a second.
                let text = e.to_string();
                let is_new = troubled.as_ref() != Some(&text);
                troubled = Some(text);
                if received.is_some() || is_new {
                    handover.give(receiver, &received, Some(e).filter(|_| is_new));
                }
                true
            }
            Err(e) => {
                handover.give(receiver, &received, None);
                return Err(e);
            }
        };
        first = false;
        if received.is_some() {
            handover.wait_near(receiver.copy.end().log_byte);
        } else if trouble || handover.wait_idle(poll_every) {
            receiver.wait(poll_every);
        }
        // Otherwise it looks again: the source hears how far apply is, and something may have come.
    }
    Ok(())
}

/// Leaves nothing behind that is not synced.
fn settle(receiver: &mut Receiver, handover: &Handover) -> Result<()> {
    let mut received = Received::default();
    let settled = receiver.settle(&mut received);
    if received.is_some() {
        handover.give(receiver, &received, None);
    }
    settled
}

/// Runs the two sides until both are over. What went wrong with apply comes first: it ends the other.
fn beside(
    receiver: &mut Receiver,
    applying: &mut Applying,
    receive: impl FnOnce(&mut Receiver, &Handover) -> Result<()> + Send,
    apply: impl FnOnce(&mut Applying, &Handover) -> Result<()>,
) -> Result<()> {
    let handover = Handover::default();
    handover.lock().applied = applying.applied_byte();
    let outcome = std::thread::scope(|scope| {
        let side = || {
            let _over = Leaves(&handover, |passed| passed.ended = true);
            receiver.may_lag = true;
            let received = receive(receiver, &handover);
            receiver.may_lag = false;
            received
        };
        let thread = std::thread::Builder::new().name("tidelog-receive".into());
        let thread = thread.spawn_scoped(scope, side).map_err(|e| {
            Error::new(Kind::Io, format!("cannot start the thread tidelog-receive: {e}"))
                .help("a follower opened with `worker(false)` does without")
        })?;
        let applied = {
            let _halts = Leaves(&handover, |passed| passed.halted = true);
            apply(applying, &handover)
        };
        let received = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        applied.and(received)
    });
    // What apply did not get to hear is durable all the same: it goes on with that the next time.
    applying.hear(handover.lock().news.state.take());
    outcome
}

/// What ends the receiving side when apply has failed; apply's own error is what is told.
fn halted() -> Error {
    Error::new(Kind::Interrupted, "what is received is applied no more")
}

impl News {
    /// Nothing of what was not asked for yet gets lost.
    fn add(&mut self, newer: News) {
        *self = News {
            state: newer.state.or(self.state.take()),
            bytes: self.bytes + newer.bytes,
            segments: self.segments + newer.segments,
            shown: self.shown || newer.shown,
            trouble: newer.trouble.or(self.trouble.take()),
            ..newer
        };
    }

    fn add_to(&self, progress: &mut Progress) {
        progress.to = self.end;
        progress.bytes += self.bytes;
        progress.segments += self.segments;
        progress.shown |= self.shown;
        progress.lag = self.lag;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_that_nobody_asked_for_yet_are_kept_when_more_come() {
        let state = State { durable_offset: Offset(7), ..State::default() };
        let trouble = Error::new(Kind::Io, "away");
        let mut news = News::default();
        news.add(News { state: Some(state), bytes: 5, shown: true, ..News::default() });
        news.add(News { trouble: Some(trouble), ..News::default() });
        news.add(News { end: Offset(7), bytes: 2, segments: 1, ..News::default() });
        assert_eq!(news.state.map(|state| state.durable_offset), Some(Offset(7)));
        assert_eq!((news.end, news.bytes, news.segments, news.shown), (Offset(7), 7, 1, true));
        assert!(news.trouble.is_some());
    }
}
