//! An append under the mode's promise: admitted, appended, waited for.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::*;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::frame::{HEADER_BYTES, Mode, PRODUCER_BYTES};
use crate::log::{Append, Appended, Ticket};
use crate::position::LogByte;
use crate::record::Batch;

use super::{Leader, Level, Outcome, Spell, State, archive};

/// A registration that failed is tried again after this.
const AGAIN: Duration = Duration::from_millis(200);
/// Whoever waits looks again after this long, come what may: bounds in seconds pass by themselves.
const LOOK: Duration = Duration::from_millis(100);

impl Leader {
    /// The level that is meant when none is named.
    pub fn level(&self) -> Level {
        match self.state().rule.mode() {
            Mode::Archive => Level::Archived,
            mode => match mode.commit_k() {
                0 => Level::Durable,
                k => Level::Replicated(k),
            },
        }
    }

    /// How many nodes beside the leader are meant when no number is named.
    pub fn copies(&self) -> usize {
        self.state().rule.mode().k().max(1)
    }

    /// Appends a batch and waits until it is as safe as `level` says, at most `timeout`. `staged`
    /// hears where it is as soon as that is known. An error means that the append itself is wrong,
    /// or that the log takes none: nothing was appended.
    pub fn append(
        &self,
        batch: &Batch,
        how: &Append,
        level: Option<Level>,
        timeout: Duration,
        staged: impl FnOnce(Appended),
    ) -> Result<Outcome> {
        let level = level.unwrap_or_else(|| self.level());
        // A time too far away to be told is a year.
        let deadline = Instant::now() + timeout.min(Duration::from_secs(365 * 24 * 3600));
        if level == Level::Archived && !self.has_archive() {
            return Ok(Outcome::Rejected { why: archive::none() });
        }
        if let Err(why) = self.wait_started(deadline) {
            return Ok(Outcome::Rejected { why });
        }
        let ticket = match self.submit(batch, how)? {
            Ok(ticket) => ticket,
            Err(why) => return Ok(Outcome::Rejected { why }),
        };
        let appended = ticket.appended;
        staged(appended);
        if let Err(why) = ticket.wait(level.durability()) {
            return Ok(Outcome::Unknown { appended, why });
        }
        if level < Level::Durable {
            return Ok(Outcome::Acked { appended, level, copies: 1 });
        }
        self.grew();
        // Behind a roll a retry's end counts a SEAL that is not written yet.
        let end = ticket.end().min(self.home.durable().0);
        let _wanted = (level == Level::Archived).then(|| self.want_archived());
        self.wait(end, appended, level, deadline)
    }

    /// Waits until a frame of this epoch is committed: until then nothing is appended.
    fn wait_started(&self, deadline: Instant) -> Result<()> {
        let since = Instant::now();
        let mut state = self.state();
        loop {
            if state.rule.has_started() {
                return Ok(());
            }
            let Some(again) = self.patience(&state, since, deadline) else {
                if state.rule.waits_for_archive() {
                    return Err(self.archive_not_fenced(&state));
                }
                return Err(Error::new(
                    Kind::Rejected,
                    format!(
                        "expected the start of epoch {} on the disks of {} members, found it is not \
                         there yet: the synchronous set is unavailable",
                        state.rule.epoch,
                        state.rule.mode().k()
                    ),
                )
                .help("nothing was appended; try again when its members pull from this node"));
            };
            state = self.pause(state, again);
        }
    }

    /// Appends, if the bounds of the mode leave room; `Ok(Err(…))` if not.
    fn submit(&self, batch: &Batch, how: &Append) -> Result<Result<Ticket, Error>> {
        if !matches!(self.state().rule.mode(), Mode::Bounded { .. }) {
            return self.log.submit(batch, how).map(Ok);
        }
        // One at a time: what several see free together may be less than they take together.
        let _alone = self.admitting.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = HEADER_BYTES + PRODUCER_BYTES + 4 * batch.len() + batch.records().len() + 8;
        let end = self.home.appended().0.plus(frame as u64);
        if let Err(why) = self.within(&self.state(), end) {
            return Ok(Err(why));
        }
        self.log.submit(batch, how).map(Ok)
    }

    /// Whether the k-th best member lacks no more than the mode allows of what is below `end`.
    fn within(&self, state: &State, end: LogByte) -> Result<()> {
        let Mode::Bounded { k, bytes, within } = state.rule.mode() else { return Ok(()) };
        let found = match self.kth(state) {
            None => format!("fewer than {k} that say how far they are"),
            Some((held, behind)) => {
                let lacks = end.0.saturating_sub(held.0.0);
                if lacks <= bytes && behind <= within {
                    return Ok(());
                }
                format!("{lacks} bytes and {behind:?}")
            }
        };
        Err(Error::new(
            Kind::Rejected,
            format!(
                "expected {k} members to lack at most {bytes} bytes and {within:?}, found {found}"
            ),
        )
        .help("nothing was appended; try again when they have caught up"))
    }

    fn wait(
        &self,
        end: LogByte,
        appended: Appended,
        level: Level,
        deadline: Instant,
    ) -> Result<Outcome> {
        let since = Instant::now();
        let mut state = self.state();
        loop {
            let copies = state.rule.copies(end);
            let semi = matches!(state.rule.mode(), Mode::Semi { .. });
            if self.reached(&state, end, appended, level) {
                return Ok(Outcome::Acked { appended, level, copies: copies + 1 });
            }
            let apart = level == Level::Archived;
            if semi && state.spell == Spell::Degraded && level > Level::Durable && !apart {
                // The mark is registered: the acknowledgement says itself that it is a lesser one.
                let level = Level::Durable;
                return Ok(Outcome::Acked { appended, level, copies: copies + 1 });
            }
            // Members that hold it already are not what the archive's slowness is about.
            let since = match apart && state.rule.committed.0 >= end {
                true => Instant::now(),
                false => since,
            };
            let Some(again) = self.patience(&state, since, deadline) else {
                let found = match apart {
                    true => archive::reached(&state),
                    false => format!("{copies} copies"),
                };
                let why = Error::new(
                    Kind::Unknown,
                    format!("expected the append to be {level} in time, found {found}"),
                )
                .at_offset(appended.first.0)
                .help("it is on the leader's disk and may yet be committed; a retry must be a safe one");
                return Ok(Outcome::Unknown { appended, why });
            };
            state = self.pause(state, again);
        }
    }

    fn reached(&self, state: &State, end: LogByte, appended: Appended, level: Level) -> bool {
        let rule = &state.rule;
        let committed = !rule.holds() || rule.committed.0 >= end;
        match level {
            Level::Buffered | Level::Written => true,
            Level::Durable => self.within(state, end).is_ok(),
            Level::Replicated(k) => {
                committed && rule.copies(end) >= k && self.within(state, end).is_ok()
            }
            Level::Archived => {
                let archived = rule.archived.is_some_and(|archived| archived.0 >= end);
                committed && archived && self.within(state, end).is_ok()
            }
            Level::Applied(k) => {
                let applied = rule.applied(end, appended.last.plus(1));
                committed && applied >= k && self.within(state, end).is_ok()
            }
        }
    }

    /// How long to wait for the members at most before something else is to be done: `None` when
    /// time is over. A duration of zero: a semi-synchronous set's time is over.
    fn patience(&self, state: &State, since: Instant, deadline: Instant) -> Option<Duration> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || self.stopping.load(Acquire) {
            return None;
        }
        let left = left.min(LOOK);
        Some(match state.rule.mode() {
            Mode::Semi { timeout, .. } if state.spell != Spell::Degraded => {
                left.min(timeout.saturating_sub(since.elapsed()))
            }
            _ => left,
        })
    }

    /// Waits until something moves; or, when the time of a semi-synchronous set is over, begins a
    /// degraded spell.
    fn pause<'a>(
        &'a self,
        state: std::sync::MutexGuard<'a, State>,
        most: Duration,
    ) -> std::sync::MutexGuard<'a, State> {
        let mut most = most;
        let mut state = state;
        if most.is_zero() {
            drop(state);
            let begun = self.degrade();
            state = self.state();
            if begun.is_ok() {
                return state;
            }
            // It blocks: without the mark there is no lesser acknowledgement.
            most = AGAIN;
        }
        let waited = self.moved.wait_timeout(state, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
