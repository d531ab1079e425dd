//! A leader that was outbid: others have promised a later epoch, to a candidate that may have come to nothing.
//!
//! They take no frames of this leader and are counted no more, and nobody tells it: its own node has promised
//! nothing. With a coordinator the seat says who leads. Without one the leader looks for itself, when reports speak
//! of a later epoch or members are silent:
//!
//! ```text
//! somebody leads a later epoch ──► it leads no more, and follows
//! nobody does, and the candidate itself says so, and enough would promise ── for longer than a candidate
//!   tries ──► it takes a later epoch, as any candidate does: promises first
//! otherwise ──► the status says what stands in the way; an operator decides
//! ```
//!
//! Invariants:
//! - nothing here is about safety: an epoch is won by promises alone;
//! - whoever leads and does not answer is not outbid in turn: its own word is waited for.

use std::time::{Duration, Instant};

use crate::error::{Error, Kind};
use crate::replica::Leader;
use crate::replica::failover::{Standing, lacks};

use super::super::Server;
use super::super::helm::Order;
use super::candidate::PATIENCE;
use super::follow::Survey;
use super::{Next, Role, Run};

/// How often others are asked; members that are silent for so long are missed.
const EVERY: Duration = Duration::from_secs(2);

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Outbid {
    asked: Option<Instant>,
    /// Since when nobody leads the later epoch.
    since: Option<Instant>,
}

/// What there is to do about it.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// Nobody knows a later epoch.
    No,
    /// That one leads, there.
    Replaced(u64, Option<String>),
    /// Nobody leads it, and this node may take a later one.
    Free(u64),
    /// Nobody who answers leads it. Why this node cannot take a later one.
    Stuck(u64, String),
}

impl Run<'_> {
    /// What comes next, if this leader was outbid.
    pub(super) fn look_if_outbid(&mut self, server: &Server, leader: &Leader) -> Option<Next> {
        let due = self.outbid.asked.is_none_or(|at| at.elapsed() >= EVERY);
        if self.coordinator.is_some() || !due {
            return None;
        }
        let told = leader.outbid().map(|epoch| epoch.number);
        if told.is_none() && !leader.lacks_members(EVERY) {
            self.is_not_outbid();
            return None;
        }
        let found = self.survey(server);
        self.outbid.asked = Some(Instant::now());
        match judge(&server.node.standing(), &found, told) {
            Finding::No => self.is_not_outbid(),
            Finding::Replaced(epoch, address) => {
                leader.fence(
                    Error::new(
                        Kind::Fenced,
                        format!(
                            "expected this node to lead, found that another leads epoch {epoch}"
                        ),
                    )
                    .help("ask the others who leads"),
                );
                self.helm.leader.set(address);
                self.tell(format!("another node leads epoch {epoch}: this one leads no more"));
                return Some(self.give_way());
            }
            Finding::Free(epoch) => {
                let why = format!("epoch {epoch} is promised to a candidate that does not lead");
                if self.outbid.since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE + EVERY
                {
                    self.tell(format!("{why}: this node takes a later one"));
                    let message =
                        "expected this epoch to go on, found that members are bound to a later one";
                    leader.fence(Error::new(Kind::Fenced, message).help("a later one begins here"));
                    self.helm.leader.set(None);
                    // Should it come to nothing, the others are asked again and again.
                    self.undecided = true;
                    self.helm.order(Order::Promote { accept_loss: false, handed_over: true });
                    return Some(self.give_way());
                }
                self.is_outbid(format!("{why}: this node takes a later one soon"));
            }
            Finding::Stuck(epoch, why) => {
                self.outbid.since = None;
                self.is_outbid(format!(
                    "epoch {epoch} is promised to another node, which is not known to lead, and {why}; \
                     `tidelog promote` of a member decides it"
                ));
            }
        }
        None
    }

    fn give_way(&mut self) -> Next {
        self.is_not_outbid();
        Next::Role(Role::Follow)
    }

    fn is_outbid(&mut self, why: String) {
        self.helm.show(|shown| (shown.state, shown.why) = (Some("outbid"), Some(why.clone())));
        self.tell(format!("outbid: {why}"));
    }

    fn is_not_outbid(&mut self) {
        self.outbid.since = None;
        self.helm.show(|shown| {
            if shown.state == Some("outbid") {
                (shown.state, shown.why) = (None, None);
            }
        });
    }
}

/// What the others' answers come to; `told` is a later epoch that a report spoke of.
fn judge(own: &Standing, found: &Survey, told: Option<u64>) -> Finding {
    let mine = own.report.durable.epoch.number;
    let later = |other: &&Standing| other.seen() > mine;
    let leads = found.others.iter().filter(later).filter(|other| other.leads);
    if let Some(leads) = leads.max_by_key(|other| other.seen()) {
        return Finding::Replaced(leads.seen(), leads.address.clone());
    }
    let Some(bound) = found.others.iter().filter(later).max_by_key(|other| other.seen()) else {
        return match told {
            Some(epoch) => Finding::Stuck(epoch, "nobody who is bound to it answers".into()),
            None => Finding::No,
        };
    };
    let epoch = bound.seen();
    let here = |owner| found.others.iter().any(|other| other.node() == owner);
    if !bound.owner.is_some_and(here) {
        return Finding::Stuck(epoch, "that node does not answer".into());
    }
    match lacks(own, &found.others) {
        Some(lacking) => Finding::Stuck(epoch, format!("there would be {lacking}")),
        None => Finding::Free(epoch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Id, LogByte, Position};
    use crate::ship::Report;

    fn node(n: u8, epoch: u64, promise: Option<(u64, u8)>) -> Standing {
        let number = |number| Epoch { number, nonce: 1 };
        let durable =
            Position { epoch: number(epoch), log_byte: LogByte(9), ..Position::default() };
        let report = Report {
            node: Some(Id([n; 16])),
            durable,
            promise: promise.map(|(epoch, _)| number(epoch)),
            ..Report::default()
        };
        let owner = promise.map(|(_, owner)| Id([owner; 16]));
        Standing { report, owner, address: Some(format!("at {n}")), ..Standing::default() }
    }

    #[test]
    fn a_leader_takes_a_later_epoch_only_when_the_candidate_itself_says_that_it_does_not_lead() {
        let own = node(1, 4, Some((4, 1)));
        let judge = |others: &[Standing], told| {
            let others = others.to_vec();
            judge(&own, &Survey { at: Instant::now(), now: 0, others, silent: 0 }, told)
        };
        let (bound, candidate) = (node(2, 4, Some((5, 3))), node(3, 4, Some((5, 3))));
        assert_eq!(judge(&[node(2, 4, Some((4, 1)))], None), Finding::No);
        assert_eq!(judge(&[bound.clone(), candidate.clone()], None), Finding::Free(5));
        assert!(matches!(judge(std::slice::from_ref(&bound), None), Finding::Stuck(5, _)));
        assert!(matches!(judge(&[], Some(5)), Finding::Stuck(5, _)));
        let leads = Standing { leads: true, ..candidate };
        assert_eq!(judge(&[bound, leads], None), Finding::Replaced(5, Some("at 3".into())));
    }
}
