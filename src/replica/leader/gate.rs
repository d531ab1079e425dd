//! The leader's own gate: whether it may still answer. Looked at after the copies are counted and before
//! anything is said, under the lock under which the gate is shut: once [`fence`](Leader::fence) has
//! returned, nothing more is acknowledged or committed.
//!
//! A lease closes it, too, under the modes whose acknowledgements nobody else takes part in: another node
//! may be told to lead once the lease is over. Members of a synchronous set are asked every time, and the
//! archive decides for itself; there the lease is only a reason to stop trying.

use crate::error::{Error, Kind};
use crate::frame::Mode;
use crate::mutant::{self, Mutant};

use super::{Leader, Spell, State};

impl Leader {
    /// Shuts the gate for good: another epoch has begun, or is about to.
    pub fn fence(&self, why: Error) {
        self.state().fenced.get_or_insert(why);
        self.moved.notify_all();
    }

    /// Why it leads no more, if so.
    pub fn fenced(&self) -> Option<Error> {
        self.state().fenced.clone()
    }

    /// Lets appends wait before they begin.
    pub fn hold_appends(&self) -> HeldAppends<'_> {
        self.state().holding += 1;
        HeldAppends(self)
    }

    /// Until when it may answer under the modes that a lease decides, by the clock that does not jump;
    /// `None` without a lease.
    pub fn lease(&self, until: Option<u64>) {
        self.state().lease = until;
        self.moved.notify_all();
    }

    /// Why nothing may be acknowledged now, if so.
    pub(super) fn shut(&self, state: &State) -> Option<Error> {
        if let Some(why) = &state.fenced
            && !mutant::on(Mutant::ZombieAcks)
        {
            return Some(why.clone());
        }
        let over = state.lease.is_some_and(|until| self.now() >= until)
            && !mutant::on(Mutant::IgnoreLease);
        let decides = match state.rule.mode() {
            Mode::Async | Mode::Bounded { .. } => true,
            Mode::Semi { .. } => state.spell != Spell::None,
            Mode::Sync { .. } | Mode::Archive => false,
        };
        (over && decides).then(|| {
            let message =
                "expected this node's lease to last, found that it is over: another node may lead";
            Error::new(Kind::Fenced, message)
                .help("the coordinator does not answer this node; ask the others who leads")
        })
    }
}

/// While it lives, appends wait before they begin: a planned switchover lets the next leader catch up.
pub struct HeldAppends<'a>(&'a Leader);

impl Drop for HeldAppends<'_> {
    fn drop(&mut self) {
        self.0.state().holding -= 1;
        self.0.moved.notify_all();
    }
}
