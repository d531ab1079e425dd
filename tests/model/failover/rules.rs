//! What counts as committed, when a candidate may lead, and when a leader may be read.

use super::{Failover, Node, Role, State};
use crate::log::{Log, SyncSet};

impl<const N: usize> Failover<N> {
    fn set(&self, number: u8) -> SyncSet {
        self.scope.sets[usize::from(number)]
    }

    /// The newest set, and the one before while the newest may still be lost.
    pub fn ruling(&self, log: Log, committed: u8) -> (u8, Option<u8>) {
        let ((newest, at), before) = log.sets();
        (newest, before.filter(|_| committed <= at))
    }

    fn all_of(&self, ruling: (u8, Option<u8>), enough: impl Fn(SyncSet) -> bool) -> bool {
        std::iter::once(ruling.0).chain(ruling.1).all(|set| enough(self.set(set)))
    }

    pub fn is_member(&self, node: &Node, number: u8) -> bool {
        self.knows_no_set(node.log) || self.set(node.log.sets().0.0).has(number)
    }

    /// A set without members stands for none.
    pub fn knows_no_set(&self, log: Log) -> bool {
        self.set(log.sets().0.0).size() == 0
    }

    /// Whoever knows no set must be promoted by an operator, who knows the members of any set that there is, and
    /// that nobody leads any more: no rule sees that.
    pub fn is_wanted(&self, state: &State<N>, node: u8) -> bool {
        let leads = |other| matches!(state.node(other).role, Role::Leader { .. });
        let foreign = |log: Log| !self.knows_no_set(log) && !self.set(log.sets().0.0).has(node);
        !self.nodes().any(|other| other != node && (leads(other) || foreign(state.node(other).log)))
    }

    /// Do the members that a set adds hold the one before it?
    pub fn knows_members(&self, state: &State<N>, leader: u8, set: u8) -> bool {
        let (set, (newest, at)) = (self.set(set), state.node(leader).log.sets().0);
        let before = self.set(newest);
        let known = |node: u8| {
            !set.has(node)
                || before.has(node)
                || node == leader
                || self.holds(state, node, leader, at + 1)
        };
        !self.guards.known_members || set.k == 0 || before.size() == 0 || self.nodes().all(known)
    }

    /// How many members of a set are so.
    fn count(&self, set: SyncSet, is: impl Fn(u8) -> bool) -> u8 {
        self.nodes().map(|node| u8::from(set.has(node) && is(node))).sum()
    }

    /// How many promises a candidate, or a leader that is read, needs of a set. With k = 0 nothing
    /// was promised, and nobody is asked.
    fn wanted(&self, set: SyncSet) -> u8 {
        let all = set.size() - set.k - u8::from(!self.guards.enough);
        if set.k == 0 { 0 } else { all }
    }

    /// How many members of a set must hold the next one before that is committed: so many that
    /// whoever gathers enough promises under the old one hears of it. Where nobody is asked, all.
    fn wanted_to_leave(&self, set: SyncSet, next: SyncSet) -> u8 {
        if next.k == 0 && !self.guards.leave_always {
            return set.waits + 1;
        }
        match set.k {
            0 if self.guards.all_leave_zero => set.size(),
            k if self.guards.leave_by_k => k + 1,
            _ => set.waits + 1,
        }
    }

    /// Does this member's report count for `end`? Only its last frame is compared.
    fn holds(&self, state: &State<N>, member: u8, leader: u8, end: u8) -> bool {
        let (other, own) = (state.node(member), state.node(leader));
        let Role::Leader { epoch } = own.role else { return false };
        let last = other.log.last().expect("every log begins with a frame");
        let at = other.log.len();
        self.same(other.promise, epoch)
            && (!self.guards.own_epoch || self.same(last.epoch(), epoch))
            && !other.halted
            && at >= end
            && own.log.frame(at - 1).is_some_and(|frame| {
                if self.guards.fingerprint {
                    frame == last
                } else {
                    self.same(frame.epoch(), last.epoch())
                }
            })
    }

    /// Raises what this leader holds committed as far as its followers' reports allow.
    pub fn settle(&self, state: &mut State<N>, leader: u8) {
        let Role::Leader { epoch } = state.node(leader).role else { return };
        loop {
            let own = *state.node(leader);
            let ruling = self.ruling(own.log, own.committed);
            let held = |end: u8| {
                let holds = |node: u8| node == leader || self.holds(state, node, leader, end);
                let held =
                    |set: SyncSet, wanted| set.size() == 0 || self.count(set, holds) >= wanted;
                self.all_of(ruling, |set| held(set, set.waits + 1))
                    && ruling.1.is_none_or(|left| {
                        let (left, next) = (self.set(left), self.set(ruling.0));
                        match left.size() == 0 && next.k > 0 && self.guards.all_leave_none {
                            true => held(next, next.size()),
                            false => held(left, self.wanted_to_leave(left, next)),
                        }
                    })
            };
            let Some(end) = (own.committed + 1..=own.log.len()).rev().find(|end| held(*end)) else {
                return;
            };
            let node = state.at(leader);
            (node.committed, node.owes) = (end, self.scope.replies);
            for node in self.nodes().filter(|node| *node != leader) {
                let counted = self.holds(state, node, leader, end);
                state.miscounted |= counted && !own.log.starts_with(state.node(node).log);
            }
            state.record_commit(epoch, own.log.cut(self.promised_end(own.log, end)));
        }
    }

    /// Up to where a history that is committed until `committed` is so under a set that waits for copies. The
    /// frame that leaves such a set is, too.
    pub fn promised_end(&self, log: Log, committed: u8) -> u8 {
        (1..=committed)
            .rev()
            .find(|end| {
                let ((newest, at), before) = log.cut(*end).sets();
                let leaves =
                    before.is_some_and(|before| at + 1 == *end && self.set(before).waits > 0);
                self.set(newest).waits > 0 || leaves
            })
            .unwrap_or(0)
    }

    /// More up to date is the later epoch, then the later place.
    pub fn position(&self, log: Log) -> (u8, u8) {
        (log.last().map_or(0, |frame| frame.epoch().number()), log.len())
    }

    pub fn may_lead(&self, state: &State<N>, candidate: u8) -> bool {
        let own = state.node(candidate);
        let Role::Candidate { promised, best, .. } = own.role else { return false };
        // Of the log as it is now: a tail that was fetched may hold a newer set.
        let ruling = self.ruling(own.log, own.committed);
        let enough = |set| self.count(set, |node| promised >> node & 1 == 1) >= self.wanted(set);
        self.is_member(own, candidate)
            && (!self.knows_no_set(own.log) || self.is_wanted(state, candidate))
            && self.all_of(ruling, enough)
            && (!self.guards.fetch_best || self.position(own.log) >= best)
    }

    /// Has this leader committed its `epoch_start`? The first epoch began before the model does.
    pub fn open(&self, node: &Node) -> bool {
        let Role::Leader { epoch } = node.role else { return false };
        let own = |at| node.log.frame(at).is_some_and(|frame| frame.epoch() == epoch);
        !self.guards.open_after_start || epoch.number() == 0 || (0..node.committed).any(own)
    }

    /// May this leader answer a linearizable read now?
    pub fn may_be_read(&self, state: &State<N>, leader: u8) -> bool {
        let own = state.node(leader);
        let Role::Leader { epoch } = own.role else { return false };
        let confirms = |set: SyncSet| {
            let promised = |node| self.same(state.node(node).promise, epoch);
            set.k == 0 || self.count(set, promised) >= self.wanted(set)
        };
        self.open(own)
            && (!self.guards.confirm || self.all_of(self.ruling(own.log, own.committed), confirms))
    }
}
