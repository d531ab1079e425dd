//! Degraded spells of a semi-synchronous set: members that did not answer in time are not waited
//! for until they have caught up.
//!
//! ```text
//! none ── time-out: CONTROL, frame ──► degraded ── k lag little ──► recovering ── k hold it ──► none
//!                                         ◄────────── time-out ──────────┘        CONTROL, frame
//! ```
//!
//! The mark of a spell stands in this node's CONTROL, and at the coordinator where there is one: whoever
//! runs the node carries it there with [`register`](Leader::register), one request at a time. Without a
//! coordinator whoever promotes another node cannot see the mark, and is told so.
//!
//! Invariants:
//! - nothing is acknowledged with less before the mark stands wherever it is to stand;
//! - what a coordinator was asked for and did not answer counts as not standing there;
//! - a mark may stand for longer than its spell, never shorter: one that an earlier leader left goes once this
//!   epoch's start is committed.

use std::sync::PoisonError;

use crate::error::{Error, Kind, Result};
use crate::frame::{Degraded, FrameKind, Mode};
use crate::log::Home;
use crate::mutant::{self, Mutant};
use crate::position::LogByte;

use crate::replica::coordinator::Coordinator;

use super::{Leader, Spell, State};

/// What is known of the mark at a coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Registry {
    /// There is no coordinator.
    Nowhere,
    /// Nobody knows: another leader may have left one, or an answer is missing.
    Unknown,
    Blank,
    Marked,
}

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
        let awaited = matches!(state.registry, Registry::Unknown | Registry::Blank);
        if awaited && !mutant::on(Mutant::HideSpell) {
            let at = state.rule.committed.0;
            state.wanted.get_or_insert(at);
            return Err(not_registered());
        }
        if state.marked.is_none() || !state.said {
            let at = state.marked.unwrap_or(state.rule.committed.0);
            let lines = state.lines.clone();
            drop(state);
            self.home.note_sets(&lines, Some(at))?;
            self.state().marked = Some(at);
            begins(&self.home, at)?;
            state = self.state();
            state.said = true;
        }
        state.wanted = None;
        state.spell = Spell::Degraded;
        state.rule.degraded = true;
        state.rule.durable = self.home.durable();
        state.rule.settle();
        self.show(&mut state);
        self.moved.notify_all();
        Ok(())
    }

    /// Carries the mark to the coordinator, or takes it away there, if that is to be done: for whoever holds
    /// the seat, again and again. What was registered, if anything was; after an error the next call tries again.
    pub fn register(&self, coordinator: &mut dyn Coordinator) -> Result<Option<Option<LogByte>>> {
        let mark = {
            let mut state = self.state();
            let Some(mark) = Leader::to_register(&state) else { return Ok(None) };
            // From here on until it has answered, nobody relies on what stands there.
            state.registry = Registry::Unknown;
            mark
        };
        coordinator.degrade(mark)?;
        let stands = if mark.is_some() { Registry::Marked } else { Registry::Blank };
        self.state().registry = stands;
        self.moved.notify_all();
        Ok(Some(mark))
    }

    /// What is to stand at the coordinator and is not known to.
    fn to_register(state: &State) -> Option<Option<LogByte>> {
        let mark = state.marked.or(state.wanted);
        match (state.registry, mark) {
            (Registry::Nowhere, _) | (Registry::Marked, Some(_)) | (Registry::Blank, None) => None,
            // Until then another one may be promoted by what there was before.
            (_, None) if !state.rule.has_started() => None,
            _ => Some(mark),
        }
    }

    /// Waits for members again, once k of them are so close that it does not take long.
    pub(super) fn recover(&self, state: &mut State) {
        let Mode::Semi { timeout, .. } = state.rule.mode() else { return };
        if state.spell != Spell::Degraded && state.wanted.is_none() {
            return;
        }
        if self.kth(state).is_none_or(|(_, behind)| behind > timeout / 2) {
            return;
        }
        // One that was about to begin is not needed.
        state.wanted = None;
        if state.spell == Spell::Degraded {
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
        say(&self.home, false, at)?;
        self.state().said = false;
        self.home.note_sets(&lines, None)?;
        let mut state = self.state();
        state.marked = None;
        state.rule.degraded = false;
        state.spell = Spell::None;
        Ok(())
    }
}

/// Puts a spell's begin into the log, in each epoch that it lasts: who copies what is acknowledged from here on finds
/// there that it was promised to be durable at this node, and no more.
pub(super) fn begins(home: &Home, at: LogByte) -> Result<()> {
    say(home, true, at)
}

/// Puts a spell's begin or end into the log, durably: nothing may follow for long, and followers are to have it, too.
fn say(home: &Home, begins: bool, at: LogByte) -> Result<()> {
    let end = home.append_control(FrameKind::Degraded, &Degraded { begins, at }.encode())?;
    home.sync_to(end)
}

fn not_registered() -> Error {
    Error::new(
        Kind::Rejected,
        "expected the degraded spell to be registered at the coordinator, found that it is not yet",
    )
    .help("it goes on once the coordinator answers, or the members do")
}
