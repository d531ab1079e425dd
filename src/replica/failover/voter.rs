//! The node that a candidate asks: how it stands, and what it promises. The other end of
//! [`Peers`](super::Peers), whatever carries the questions.
//!
//! Called by `server`, and by the simulation. Invariants:
//! - the promise is durable, and a leader's gate shut, before the answer is made;
//! - positions in an answer are read after its promise, so that they count from then on.

use crate::error::{Error, Kind, Result};
use crate::log::files::Promise;
use crate::log::promises::Promises;
use crate::position::{Epoch, Id};
use crate::replica::{Gauge, Leader};

use super::ask::{Ask, Standing};

/// An epoch that is further above all that a node knows is a mistake, or malice.
const MOST_AHEAD: u64 = 1 << 32;

/// A node that can be asked, in its role.
#[derive(Clone, Copy, Debug)]
pub enum Voter<'a> {
    /// It leads, or was replaced and does not follow yet.
    Leads(&'a Leader),
    /// It follows: what it shows, and what it has promised.
    Follows(&'a Gauge, &'a Promises),
}

impl Voter<'_> {
    /// The epoch that it has promised, and to whom.
    pub fn promised(&self) -> Option<(Epoch, Id)> {
        match self {
            Voter::Leads(leader) => leader.promises().promised(),
            Voter::Follows(_, promises) => promises.promised(),
        }
    }

    /// How it stands, as far as its log says; names, addresses and what its operator allows are its host's
    /// to add, and how far a leader's table is.
    pub fn standing(&self) -> Standing {
        // Before the positions: those that come with a promise count from then on.
        let promised = self.promised();
        let (mut report, sets, heard_ms) = match self {
            Voter::Leads(leader) => (leader.report(), leader.sets(), None),
            Voter::Follows(gauge, _) => {
                let shown = gauge.read();
                (shown.report, shown.sets, gauge.heard_ms())
            }
        };
        report.promise = promised.map(|(epoch, _)| epoch);
        Standing {
            report,
            owner: promised.map(|(_, owner)| owner),
            leads: matches!(self, Voter::Leads(leader) if leader.fenced().is_none()),
            sets,
            heard_ms,
            may_lead: true,
            ..Standing::default()
        }
    }

    /// Promises, durably, what is asked for unless something later is promised; how it stands then, and
    /// whether that is a new promise.
    pub fn answer(&self, ask: &Ask) -> Result<(Standing, bool)> {
        let standing = self.standing();
        if standing.report.log != Some(ask.log) {
            let own = standing.report.log.unwrap_or_default();
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected a question about log {own}, found one about {}", ask.log),
            ));
        }
        let Some(epoch) = ask.epoch else { return Ok((standing, false)) };
        if ask.node == standing.node() {
            return Err(Error::new(Kind::InvalidInput, "a node promises itself by itself"));
        }
        let wanted = Promise { epoch, owner: ask.node };
        let before = self.promised();
        let known =
            before.map_or(0, |(epoch, _)| epoch.number).max(standing.report.durable.epoch.number);
        if epoch.number.saturating_sub(known) > MOST_AHEAD {
            return Err(Error::new(
                Kind::Rejected,
                format!(
                    "expected an epoch at most {MOST_AHEAD} above {known}, the last one that this node knows, found \
                     {}",
                    epoch.number
                ),
            )
            .help("nothing was promised: above the highest number nobody could ever lead"));
        }
        let promised = match self {
            Voter::Leads(leader) => leader.promise(wanted)?,
            Voter::Follows(_, promises) => promises.raise(wanted)?,
        };
        let new = promised == wanted && before != Some((epoch, ask.node));
        Ok((self.standing(), new))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fs::sim::Sim;
    use crate::log::Log;
    use crate::replica::Follower;
    use crate::ship::Directory;
    use crate::table::Table;

    /// One question could have it promise the highest number there is, and nobody could lead any more.
    #[test]
    fn an_epoch_far_above_all_that_is_known_is_not_promised() {
        let sim = Sim::new(1);
        let options = || Log::options().fs(sim.shared()).create(true).worker(false);
        let log = options().open("/log").unwrap();
        log.append(&crate::record::Record::event(b"first")).unwrap();
        let source = Directory::open_in(sim.shared(), "/log").unwrap();
        let mut follower =
            Follower::open_with(options(), Table::options(), Path::new("/copy"), source).unwrap();
        follower.catch_up().unwrap();
        let (gauge, promises) = (follower.gauge(), follower.promises());
        let voter = Voter::Follows(&gauge, &promises);
        let known = log.durable_position().epoch.number;
        let ask = |number| {
            let epoch = Some(Epoch { number, nonce: 1 });
            let (log, node) = (log.id(), Id([7; 16]));
            voter.answer(&Ask { log, node, name: String::new(), address: None, epoch })
        };
        assert_eq!(ask(known + MOST_AHEAD + 1).unwrap_err().kind(), Kind::Rejected);
        assert_eq!(ask(u64::MAX).unwrap_err().kind(), Kind::Rejected);
        assert_eq!(promises.get().map(|promise| promise.epoch.number), Some(known));
        assert!(ask(known + MOST_AHEAD).unwrap().1);
    }
}
