//! Degraded spells of a semi-synchronous set: members that did not answer in time are not waited
//! for until they have caught up.
//!
//! ```text
//! none ── time-out: CONTROL, frame ──► degraded ── k lag little ──► recovering ── k hold it ──► none
//!                                         ◄────────── time-out ──────────┘        CONTROL, frame
//! ```
//!
//! With the manual coordinator the mark stands in this node's CONTROL; whoever promotes another
//! node cannot see it, and must say so.

use std::sync::PoisonError;

use crate::error::Result;
use crate::frame::{Degraded, FrameKind, Mode};
use crate::position::LogByte;

use super::{Leader, Spell, State};

impl Leader {
    /// Begins a spell: the mark first, durably, then lesser acknowledgements.
    pub(super) fn degrade(&self) -> Result<()> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        if !matches!(state.rule.mode(), Mode::Semi { .. }) || state.spell == Spell::Degraded {
            return Ok(());
        }
        if let Some(why) = self.shut(&state) {
            return Err(why);
        }
        if state.marked.is_none() {
            let (lines, at) = (state.lines.clone(), state.rule.committed.0);
            drop(state);
            self.home.note_sets(&lines, Some(at))?;
            self.state().marked = Some(at);
            self.say(true, at)?;
            state = self.state();
        }
        state.spell = Spell::Degraded;
        state.rule.degraded = true;
        state.rule.durable = self.home.durable();
        state.rule.settle();
        self.show(&mut state);
        self.moved.notify_all();
        Ok(())
    }

    /// Puts a spell's begin or end into the log.
    fn say(&self, begins: bool, at: LogByte) -> Result<()> {
        let body = Degraded { begins, at }.encode();
        self.home.append_control(FrameKind::Degraded, &body).map(drop)
    }

    /// Waits for members again, once k of them are so close that it does not take long.
    pub(super) fn recover(&self, state: &mut State) {
        let Mode::Semi { timeout, .. } = state.rule.mode() else { return };
        if state.spell != Spell::Degraded {
            return;
        }
        if self.kth(state).is_some_and(|(_, behind)| behind <= timeout / 2) {
            state.rule.degraded = false;
            self.hold(state);
            state.spell = Spell::Recovering(state.rule.committed.0);
        }
    }

    /// Whether a spell is over: k members hold everything that was acknowledged during it, or the
    /// set that it was a spell of rules no more.
    pub(super) fn is_over(state: &State) -> bool {
        let semi = matches!(state.rule.mode(), Mode::Semi { .. });
        match state.spell {
            Spell::None => false,
            _ if !semi => state.rule.before.is_none(),
            Spell::Degraded => false,
            Spell::Recovering(barrier) => {
                state.rule.kth_of_newest().is_some_and(|held| held.0 >= barrier)
            }
        }
    }

    /// Takes the mark away. `changing` is held.
    pub(super) fn end_spell(&self) -> Result<()> {
        let (lines, at) = {
            let state = self.state();
            (state.lines.clone(), state.rule.committed.0)
        };
        // The frame first: a mark too long says too little, one too short would say too much.
        self.say(false, at)?;
        self.home.note_sets(&lines, None)?;
        let mut state = self.state();
        state.marked = None;
        state.rule.degraded = false;
        state.spell = Spell::None;
        Ok(())
    }
}
