//! The rules themselves: what a leader may count as committed, and when a candidate may lead.

use super::{Commit, Health, Node, Report, Role, State};
use crate::log::{Epoch, Log};

impl<const N: usize> Commit<N> {
    /// Are two epochs the same leadership?
    pub fn same(&self, one: Epoch, other: Epoch) -> bool {
        if self.guards.nonce { one == other } else { one.number() == other.number() }
    }

    /// May a node with this promise give it to `wanted`?
    pub fn may_promise(&self, held: Epoch, wanted: Epoch) -> bool {
        let again = !self.guards.nonce && wanted.number() == held.number() && wanted != held;
        wanted.number() > held.number() || again || !self.guards.rising
    }

    pub fn is_clean(&self, node: &Node<N>) -> bool {
        !self.guards.unclean || node.health == Health::Clean
    }

    /// Would this leader learn something from this report?
    pub fn counts(&self, state: &State<N>, from: u8, report: &Report, leader: u8) -> bool {
        let node = &state.nodes[usize::from(leader)];
        let Role::Leader { epoch, acked } = node.role else { return false };
        from != leader
            && report.clean
            && (!self.guards.report_promise || self.same(report.promise, epoch))
            && (!self.guards.own_epoch || self.same(report.last.epoch(), epoch))
            && node.log.frame(report.end - 1) == Some(report.last)
            && report.end > acked[usize::from(from)].max(node.committed)
    }

    /// Which sets' rules hold for a log committed up to `committed`: the newest, and the one before
    /// while the newest may still be lost.
    fn ruling(&self, log: Log, committed: u8, both: bool) -> (u8, Option<u8>) {
        let ((newest, at), before) = log.sets();
        (newest, before.filter(|_| both && committed <= at))
    }

    /// Raises what the leader holds committed as far as the rule allows.
    pub fn settle(&self, state: &mut State<N>, leader: u8) {
        let node = &mut state.nodes[usize::from(leader)];
        let Role::Leader { epoch, acked } = node.role else { return };
        let own = if self.guards.leader_durable { node.durable } else { node.log.len() };
        let before = node.committed;
        // Once a new set is committed, its rule alone goes on: hence one frame after the other.
        while node.committed < own {
            let end = node.committed + 1;
            // Frames are committed together: some end at or above this one has all the copies.
            let highest = (end..=own).rev().find(|end| {
                let (newest, previous) =
                    self.ruling(node.log, node.committed, self.guards.both_rules);
                std::iter::once(newest).chain(previous).all(|set| {
                    let set = self.scope.sets[usize::from(set)];
                    let holds = |member: &u8| {
                        (set.has(*member) || !self.guards.members_only)
                            && if *member == leader {
                                own >= *end
                            } else {
                                acked[usize::from(*member)] >= *end
                            }
                    };
                    let wanted = if self.guards.k_others { set.k + 1 } else { set.k };
                    self.count(holds) >= wanted
                })
            });
            match highest {
                Some(end) => node.committed = end,
                None => break,
            }
        }
        if node.committed > before {
            let committed = node.log.cut(node.committed);
            state.record_commit(epoch, committed);
        }
    }

    /// How many nodes are so.
    fn count(&self, is: impl Fn(&u8) -> bool) -> u8 {
        self.nodes().map(|node| u8::from(is(&node))).sum()
    }

    /// The sets that must promise to a candidate with this log.
    pub fn basis(&self, node: &Node<N>) -> (u8, Option<u8>) {
        self.ruling(node.log, node.committed, self.guards.previous_set)
    }

    /// More up to date, as a number to compare.
    pub fn up_to_date(&self, log: Log) -> (u8, u8) {
        let epoch = log.last().map_or(0, |frame| frame.epoch().number());
        (if self.guards.epoch_first { epoch } else { 0 }, log.len())
    }

    pub fn ahead_of(&self, state: &State<N>, candidate: u8) -> u8 {
        let own = self.up_to_date(state.nodes[usize::from(candidate)].log);
        self.nodes()
            .filter(|node| self.up_to_date(state.nodes[usize::from(*node)].log) > own)
            .map(|node| 1 << node)
            .sum()
    }

    /// May this candidate lead now?
    pub fn may_lead(&self, state: &State<N>, candidate: u8) -> bool {
        let node = &state.nodes[usize::from(candidate)];
        let Role::Candidate { epoch, promised, basis, ahead } = node.role else { return false };
        let (newest, previous) =
            if self.guards.look_again { self.basis(node) } else { basis.expect("set at Stand") };
        let held = |node: u8| {
            let voter = &state.nodes[usize::from(node)];
            promised >> node & 1 == 1
                && (!self.guards.promise_held
                    || self.same(voter.promise, epoch) && self.is_clean(voter))
        };
        let enough = std::iter::once(newest).chain(previous).all(|set| {
            let set = self.scope.sets[usize::from(set)];
            let wanted = set.size() - set.k - u8::from(!self.guards.enough_promises);
            self.count(|node| held(*node) && (set.has(*node) || !self.guards.members_only))
                >= wanted
        });
        let ahead =
            if self.guards.positions_after { self.ahead_of(state, candidate) } else { ahead };
        let first =
            !self.guards.fetch_tail || self.nodes().all(|m| !held(m) || ahead >> m & 1 == 0);
        enough && first && self.scope.sets[usize::from(newest)].has(candidate)
    }
}
