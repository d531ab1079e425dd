//! An append under the mode's promise: admitted, appended, waited for.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

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

/// An append that has its place, is durable here as far as it is to be, and waits for others.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Behind its frame.
    end: LogByte,
    /// Where it is.
    pub appended: Appended,
    /// How safe it is to be.
    pub level: Level,
    /// Since when it waits, by the clock that does not jump.
    since: u64,
}

impl Waiting {
    /// Since when it waits for members: those that hold it already are not what the archive's
    /// slowness is about.
    fn members_since(&self, state: &State, now: u64) -> u64 {
        match self.level == Level::Archived && state.rule.committed.0 >= self.end {
            true => now,
            false => self.since,
        }
    }
}

/// A time too long to be counted is more than anybody waits.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

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
        let deadline = self.now().saturating_add(nanos(timeout));
        if level == Level::Archived && !self.has_archive() {
            return Ok(Outcome::Rejected { why: archive::none() });
        }
        if let Err(why) = self.wait_started(deadline) {
            return Ok(Outcome::Rejected { why });
        }
        let waiting = match self.place(batch, how, level, staged)? {
            Ok(waiting) => waiting,
            Err(over) => return Ok(over),
        };
        let _wanted = (level == Level::Archived).then(|| self.want_archived());
        self.wait(&waiting, deadline)
    }

    /// Appends a batch and makes it as safe as this node alone can; what is then still to come, or
    /// what it came to. Waits for no other node: for who asks again, with [`look`](Self::look),
    /// and has no thread to wait in.
    pub fn begin(
        &self,
        batch: &Batch,
        how: &Append,
        level: Option<Level>,
    ) -> Result<Result<Waiting, Outcome>> {
        let level = level.unwrap_or_else(|| self.level());
        if level == Level::Archived && !self.has_archive() {
            return Ok(Err(Outcome::Rejected { why: archive::none() }));
        }
        let not_started = self.not_started(&self.state());
        match not_started {
            Some(why) => Ok(Err(Outcome::Rejected { why })),
            None => self.place(batch, how, level, |_| {}),
        }
    }

    /// What an append came to; `None` while that is open. When the time of a semi-synchronous set is
    /// over, this begins its degraded spell.
    pub fn look(&self, waiting: &Waiting) -> Option<Outcome> {
        let state = self.state();
        if let Some(outcome) = self.outcome(&state, waiting) {
            return Some(outcome);
        }
        if !self.members_left(&state, waiting.members_since(&state, self.now())).is_zero() {
            return None;
        }
        drop(state);
        // What fails is tried again at the next look: without the mark nothing lesser is said.
        self.degrade().ok()?;
        self.outcome(&self.state(), waiting)
    }

    /// Gives a batch its place, and waits for this node's own disk.
    fn place(
        &self,
        batch: &Batch,
        how: &Append,
        level: Level,
        staged: impl FnOnce(Appended),
    ) -> Result<Result<Waiting, Outcome>> {
        let ticket = match self.submit(batch, how)? {
            Ok(ticket) => ticket,
            Err(why) => return Ok(Err(Outcome::Rejected { why })),
        };
        let appended = ticket.appended;
        staged(appended);
        if let Err(why) = ticket.wait(level.durability()) {
            return Ok(Err(Outcome::Unknown { appended, why }));
        }
        let shut = self.shut(&self.state());
        if let Some(why) = shut {
            return Ok(Err(Outcome::Unknown { appended, why }));
        }
        if level < Level::Durable {
            return Ok(Err(Outcome::Acked { appended, level, copies: 1 }));
        }
        self.grew();
        // Behind a roll a retry's end counts a SEAL that is not written yet.
        let end = ticket.end().min(self.home.durable().0);
        Ok(Ok(Waiting { end, appended, level, since: self.now() }))
    }

    /// Waits until a frame of this epoch is committed: until then nothing is appended.
    fn wait_started(&self, deadline: u64) -> Result<()> {
        let since = self.now();
        let mut state = self.state();
        while let Some(why) = self.not_started(&state) {
            if state.fenced.is_some() {
                return Err(why);
            }
            let Some(again) = self.patience(&state, since, deadline) else { return Err(why) };
            state = self.pause(state, again);
        }
        Ok(())
    }

    /// Why nothing is appended yet, unless a frame of this epoch is committed.
    fn not_started(&self, state: &State) -> Option<Error> {
        if let Some(why) = self.shut(state) {
            return Some(why);
        }
        if state.holding > 0 {
            return Some(
                Error::new(
                    Kind::Rejected,
                    "expected to append at once, found that this leader hands over",
                )
                .help("nothing was appended; try again: another node leads in a moment"),
            );
        }
        let lacks_fence = self.lacks_fence(state);
        if state.rule.has_started() && !lacks_fence {
            return None;
        }
        if state.rule.waits_for_archive() || lacks_fence {
            return Some(self.archive_not_fenced(state));
        }
        Some(
            Error::new(
                Kind::Rejected,
                format!(
                    "expected the start of epoch {} on the disks of {} members, found it is not \
                     there yet: the synchronous set is unavailable",
                    state.rule.epoch,
                    state.rule.mode().k()
                ),
            )
            .help("nothing was appended; try again when its members pull from this node"),
        )
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

    fn wait(&self, waiting: &Waiting, deadline: u64) -> Result<Outcome> {
        let Waiting { end, appended, level, .. } = *waiting;
        let mut state = self.state();
        loop {
            if let Some(outcome) = self.outcome(&state, waiting) {
                return Ok(outcome);
            }
            let since = waiting.members_since(&state, self.now());
            let Some(again) = self.patience(&state, since, deadline) else {
                let found = match level {
                    Level::Archived => archive::reached(&state),
                    _ => format!("{} copies", state.rule.copies(end)),
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

    /// The acknowledgement, once there is one.
    fn outcome(&self, state: &State, waiting: &Waiting) -> Option<Outcome> {
        let Waiting { end, appended, level, .. } = *waiting;
        if let Some(why) = self.shut(state) {
            return Some(Outcome::Unknown { appended, why });
        }
        let copies = state.rule.copies(end) + 1;
        if self.reached(state, end, appended, level) {
            return Some(Outcome::Acked { appended, level, copies });
        }
        let semi = matches!(state.rule.mode(), Mode::Semi { .. });
        let apart = level == Level::Archived;
        // The mark is registered: the acknowledgement says itself that it is a lesser one.
        (semi && state.spell == Spell::Degraded && level > Level::Durable && !apart)
            .then_some(Outcome::Acked { appended, level: Level::Durable, copies })
    }

    fn reached(&self, state: &State, end: LogByte, appended: Appended, level: Level) -> bool {
        let rule = &state.rule;
        let committed = !rule.holds() || rule.committed.0 >= end;
        // What was committed alone, during a spell, is no more than durable before members have it: copies of others
        // are asked for no promise.
        let copied = committed && (state.spell == Spell::None || rule.is_held(end));
        match level {
            Level::Buffered | Level::Written => true,
            Level::Durable => self.within(state, end).is_ok(),
            Level::Replicated(k) => {
                copied && rule.copies(end) >= k && self.within(state, end).is_ok()
            }
            Level::Archived => {
                let archived = rule.archived.is_some_and(|archived| archived.0 >= end);
                committed && archived && self.within(state, end).is_ok()
            }
            Level::Applied(k) => {
                let applied = rule.applied(end, appended.last.plus(1));
                copied && applied >= k && self.within(state, end).is_ok()
            }
        }
    }

    /// How long to wait for the members at most before something else is to be done: `None` when
    /// time is over. A duration of zero: a semi-synchronous set's time is over.
    fn patience(&self, state: &State, since: u64, deadline: u64) -> Option<Duration> {
        let left = Duration::from_nanos(deadline.saturating_sub(self.now()));
        if left.is_zero() || self.stopping.load(Acquire) {
            return None;
        }
        Some(left.min(LOOK).min(self.members_left(state, since)))
    }

    /// How long the members of a semi-synchronous set still have, of those who wait since then.
    fn members_left(&self, state: &State, since: u64) -> Duration {
        match state.rule.mode() {
            Mode::Semi { timeout, .. } if state.spell != Spell::Degraded => {
                timeout.saturating_sub(Duration::from_nanos(self.now().saturating_sub(since)))
            }
            _ => Duration::MAX,
        }
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
