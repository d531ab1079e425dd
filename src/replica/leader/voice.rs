//! What a leader says to candidates: how far it is, and its promise, which ends its own leadership (feature
//! `wire`). Invariant: the gate is shut before the promise is durable, and the promise is durable before it is
//! said.

use crate::error::{Error, Kind, Result};
use crate::log::files::{Promise, SetLine};
use crate::log::promises::Promises;
use crate::position::Epoch;
use crate::ship::Report;

use super::Leader;

impl Leader {
    /// Binds this node to another one's epoch, if that is a later one than its own: it acknowledges nothing
    /// from then on. What it is bound to then.
    pub(crate) fn promise(&self, promise: Promise) -> Result<Promise> {
        let own = self.home.epoch();
        if promise.epoch.number <= own.number {
            let node = self.log.node();
            return Ok(self.home.promises().get().unwrap_or(Promise { epoch: own, owner: node }));
        }
        self.fence(replaced(promise.epoch));
        self.home.promises().raise(promise)
    }

    /// A later epoch that a follower has promised to another node, as its reports say.
    #[cfg(feature = "server")]
    pub(crate) fn outbid(&self) -> Option<Epoch> {
        self.state().rule.outbid()
    }

    /// Whether so many members are silent for so long that nothing can be committed.
    #[cfg(feature = "server")]
    pub(crate) fn lacks_members(&self, silence: std::time::Duration) -> bool {
        let silence = u64::try_from(silence.as_nanos()).unwrap_or(u64::MAX);
        self.state().rule.lacks_members(self.now().saturating_sub(silence))
    }

    /// What this node has promised.
    pub(crate) fn promises(&self) -> &Promises {
        self.home.promises()
    }

    /// How far it is, as it says to candidates: what is durable here.
    pub(crate) fn report(&self) -> Report {
        let durable = self.log.durable_position();
        Report {
            log: Some(self.log.id()),
            node: Some(self.log.node()),
            received: durable,
            durable,
            committed: Some(self.home.committed().0),
            ..Report::default()
        }
    }

    /// The synchronous sets of its log, the newest behind the one before.
    pub(crate) fn sets(&self) -> Vec<SetLine> {
        self.state().lines.clone()
    }
}

/// Another node leads, or is about to.
fn replaced(by: Epoch) -> Error {
    Error::new(
        Kind::Fenced,
        format!("expected this node to lead, found that it was replaced by epoch {by}"),
    )
    .help("ask the others who leads")
}
