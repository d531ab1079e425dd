//! Changing the synchronous set: one change at a time, each a frame in the log that is committed
//! under the old rule and the new one.
//!
//! The order that closes each crash: CONTROL says that the set is coming, and from which log byte on;
//! the frame is appended, and ruled by from then on; it is committed; CONTROL says where it is. A
//! crash in between finds the frame behind that log byte, or not at all.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::frame::{FrameKind, Mode, SyncSet};
use crate::log::files::SetLine;
use crate::position::Id;

use super::{Leader, State, archive, check_member};

impl Leader {
    /// Rules by another set. Returns whether that is committed within `timeout`; if not, both sets
    /// rule until it is.
    pub fn change(&self, set: &SyncSet, timeout: Duration) -> Result<bool> {
        check_member(self.log.node(), set)?;
        if set.mode == Mode::Archive && !self.has_archive() {
            return Err(archive::none());
        }
        let deadline = Instant::now() + timeout.min(Duration::from_secs(24 * 3600));
        if self.state().rule.newest.as_ref().map(|(_, set)| set).unwrap_or(&SyncSet::default())
            == set
        {
            return Ok(self.wait_settled(deadline));
        }
        let settled = self.wait_settled(deadline);
        let alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state();
        if let Some(why) = self.shut(&state) {
            return Err(why);
        }
        if !settled || state.rule.before.is_some() || !state.rule.has_started() {
            return Err(Error::new(
                Kind::Rejected,
                "expected the set before this one, and the start of this epoch, to be committed; \
                 found that they wait for members",
            )
            .help("nothing was changed; try again when the members of the set pull from here"));
        }
        let before = state.lines.last().cloned();
        self.check_known(&state, set)?;
        let end = self.home.appended().0;
        let coming = SetLine { end, there: false, set: set.clone() };
        let marked = state.marked;
        drop(state);
        let mut lines = vec![before.unwrap_or_else(SetLine::nobody), coming];
        self.home.note_sets(&lines, marked)?;
        let mut state = self.state();
        if set.mode.holds_commits() {
            self.hold(&mut state);
        }
        // Under the lock: whoever reports this frame is counted by both rules.
        let appended = self.home.append_control(FrameKind::SyncSet, &set.encode());
        if let Ok(end) = appended {
            lines[1] = SetLine { end, there: true, set: set.clone() };
            state.rule.change(end, set.clone());
        } else {
            // It may be there all the same: until this log is opened again nobody knows.
            lines.pop();
        }
        state.lines = lines;
        self.show(&mut state);
        drop(state);
        drop(alone);
        self.home.sync_to(appended?)?;
        self.grew();
        Ok(self.wait_settled(deadline))
    }

    /// Members that a set adds know of one already: who knows none asks nobody when it is promoted. Those of a first
    /// set are waited for instead.
    fn check_known(&self, state: &State, set: &SyncSet) -> Result<()> {
        let Some((end, before)) = &state.rule.newest else { return Ok(()) };
        let known = |member: &Id| before.has(*member) || state.rule.holds_all(*member, *end);
        let strange = set.members.iter().find(|member| !known(member));
        match strange.filter(|_| set.mode.k() > 0 && !before.members.is_empty()) {
            None => Ok(()),
            Some(member) => Err(Error::new(
                Kind::Rejected,
                format!(
                    "expected node {member} to have come as far as the set there is (log byte {end}) before it \
                     becomes a member, found that it has not said so"
                ),
            )
            .help("nothing was changed; let it follow this node, and try again when it has caught up")),
        }
    }

    /// Waits until one set rules alone and a frame of this epoch is committed.
    fn wait_settled(&self, deadline: Instant) -> bool {
        let mut state = self.state();
        while state.rule.before.is_some() || !state.rule.has_started() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stopping.load(std::sync::atomic::Ordering::Acquire) {
                return false;
            }
            let waited = self.moved.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        // Told before it is answered: who kills this process now finds one set that rules.
        self.tell(&self.changing.lock().unwrap_or_else(PoisonError::into_inner));
        true
    }

    /// Tells CONTROL what has been committed, and ends a spell that is over. What fails, or finds a
    /// change under way, is done with a later report.
    pub(super) fn follow_up(&self) {
        if Leader::has_news(&self.state())
            && let Ok(alone) = self.changing.try_lock()
        {
            self.tell(&alone);
        }
    }

    /// Whether CONTROL is behind: a set is committed that it does not know to be, or a spell is over.
    fn has_news(state: &State) -> bool {
        let alone = state.rule.before.is_none() && state.rule.newest.is_some();
        let told = matches!(&state.lines[..], [line] if line.there);
        alone && !told || Leader::is_over(state)
    }

    fn tell(&self, _alone: &MutexGuard<'_, ()>) {
        let (newest, marked, over) = {
            let state = self.state();
            if !Leader::has_news(&state) {
                return;
            }
            let newest = state.lines.last().filter(|_| state.rule.before.is_none());
            (newest.cloned(), state.marked, Leader::is_over(&state))
        };
        if let Some(newest) = newest {
            let told = vec![newest];
            if self.home.note_sets(&told, marked).is_ok() {
                // Nobody else changes them while `changing` is held.
                self.state().lines = told;
            }
        }
        if over {
            // The next report tries again.
            let _ = self.end_spell();
        }
    }
}
