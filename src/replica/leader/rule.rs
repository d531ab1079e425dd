//! The commit rule: what a leader may call committed, from its own durable end and its followers'
//! reports. A state machine without I/O, driven by the leader; `tests/model` holds the same rule as
//! a model, explored whole.
//!
//! ```text
//! report + what this log has there ── heard ──► held, per node ── settle ──► committed
//! ```
//!
//! Invariants:
//! - committed is the highest end that the leader and k other members hold durable; it only rises;
//! - a report counts only if its node is clean, its promise is this leader's epoch, its last frame
//!   is one that this log has, of this epoch, and it does not say less than its node said before;
//! - an inherited tail is committed only through a frame of this epoch;
//! - until a new set is committed, the set before must hold the same, and so many of its members that none
//!   who knows the old set alone can be promoted by it: one more of them where the leader is none; behind none, or one that asks nobody, all of its own, too;
//! - under the mode `archive` nothing is committed that the archive does not hold.

use std::collections::BTreeMap;

use crate::frame::{Mode, SyncSet};
use crate::log::commit::End;
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, LogByte, Offset};
use crate::ship::Report;

/// Nodes that are remembered: those that are no members go first.
const MOST_NODES: usize = 1000;

/// Everything the rule knows.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) leader: Id,
    pub(super) epoch: Epoch,
    /// Where this epoch's first frame is.
    pub(super) start: LogByte,
    /// The newest set, with the log byte behind its frame; async without one.
    pub(super) newest: Option<(LogByte, SyncSet)>,
    /// The set before, until the newest is committed.
    pub(super) before: Option<SyncSet>,
    /// Semi-synchronous members are not waited for.
    pub(super) degraded: bool,
    pub(super) durable: End,
    /// What the archive holds of this leader's history; `None` before it has said so.
    pub(super) archived: Option<End>,
    pub(super) committed: End,
    /// A later epoch that a node of this log has promised.
    outbid: Option<Epoch>,
    nodes: BTreeMap<Id, Held>,
}

/// What a node holds.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// As far as its reports count.
    end: Option<End>,
    /// The most it has ever said.
    most: LogByte,
    applied: Offset,
    /// When it was last heard, by the leader's clock.
    contact: u64,
}

/// The frame that this log has where a report says that its node's last frame is: only given when
/// both checksums are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matched {
    /// Behind it.
    pub(super) end: End,
    /// The epoch of its segment.
    pub(super) epoch: Epoch,
}

impl Rule {
    /// The rule of a leader that knows `committed` and of no node yet.
    pub(super) fn new(leader: Id, epoch: Epoch, start: LogByte, committed: End) -> Self {
        Rule {
            leader,
            epoch,
            start,
            newest: None,
            before: None,
            degraded: false,
            durable: committed,
            archived: None,
            committed,
            outbid: None,
            nodes: BTreeMap::new(),
        }
    }

    /// Takes a report in; whether it counts.
    pub(super) fn heard(&mut self, report: &Report, matched: Option<Matched>, now: u64) -> bool {
        let Some(node) = report.node.filter(|node| *node != self.leader) else { return false };
        if !self.nodes.contains_key(&node) && self.nodes.len() >= MOST_NODES {
            let silent = self.nodes.iter().filter(|(id, _)| !self.is_member(**id));
            let silent = silent.min_by_key(|(_, held)| held.contact).map(|(id, _)| *id);
            silent.and_then(|id| self.nodes.remove(&id));
        }
        let held = self.nodes.entry(node).or_default();
        held.contact = now;
        held.end = None;
        held.applied = Offset(0);
        let Some(Matched { end, epoch }) = matched else { return false };
        let counts = !report.unclean
            && (report.promise == Some(self.epoch) || mutant::on(Mutant::FollowOlder))
            && epoch == self.epoch
            && end.0 >= held.most;
        if counts {
            held.most = end.0;
            held.end = Some(end);
            held.applied = report.applied.offset.min(end.1);
        }
        counts
    }

    /// A node of this log has promised an epoch: a later one than this leader's binds it to somebody else.
    pub(super) fn bound(&mut self, promise: Epoch) {
        if promise.number > self.epoch.number {
            self.outbid = self.outbid.max(Some(promise));
        }
    }

    /// The latest of those.
    #[cfg(feature = "server")]
    pub(super) fn outbid(&self) -> Option<Epoch> {
        self.outbid.filter(|epoch| epoch.number > self.epoch.number)
    }

    /// Whether fewer members than a set asks for were heard after `since`, as such that count.
    #[cfg(feature = "server")]
    pub(super) fn lacks_members(&self, since: u64) -> bool {
        let heard = |member: &&Id| {
            self.nodes.get(member).is_some_and(|held| held.end.is_some() && held.contact >= since)
        };
        self.ruling()
            .any(|set| set.members.iter().filter(heard).count() < self.beside(set, set.mode.k()))
    }

    /// Raises the committed end as far as the rule allows; whether it rose.
    pub(super) fn settle(&mut self) -> bool {
        let from = self.committed;
        while let Some(reach) = self.reach()
            && reach.0 > self.committed.0
            && reach.0 > self.start
        {
            self.committed = reach;
            // Once a new set is committed, it rules alone: perhaps further.
            if !self.forget_before() {
                break;
            }
        }
        self.forget_before();
        self.committed.0 > from.0
    }

    fn forget_before(&mut self) -> bool {
        let done = self.newest.as_ref().is_none_or(|(end, _)| *end <= self.committed.0);
        done && self.before.take().is_some()
    }

    /// Up to where every set that rules is satisfied.
    fn reach(&self) -> Option<End> {
        let copied = self.copied()?;
        match self.ruling().any(|set| set.mode == Mode::Archive) {
            true if mutant::on(Mutant::SkipArchive) => Some(copied),
            true => self.archived.map(|archived| archived.min(copied)),
            false => Some(copied),
        }
    }

    /// Up to where the archive may hold it: what is committed, but for what only the archive itself
    /// is waited for.
    pub(super) fn publishable(&self) -> End {
        if mutant::on(Mutant::PublishUncommitted) {
            return self.durable;
        }
        let copied = self.copied().filter(|end| !self.holds() || end.0 > self.start);
        copied.unwrap_or(self.committed).max(self.committed)
    }

    /// Up to where the members that every set asks for hold it.
    fn copied(&self) -> Option<End> {
        let mut reach = self.durable;
        let newest = self.newest.iter().map(|(_, set)| (set, self.commit_k(set)));
        let left = self.before.iter().map(|set| (set, self.commit_k(set).max(self.leaving_k(set))));
        // Who knows no set, or one that asks nobody, asks nobody: each member of the next one is to know that.
        let asked_nobody = self.before.as_ref().is_some_and(|set| set.mode.k() == 0);
        let coming = self.newest.iter().filter(|(_, set)| asked_nobody && set.mode.k() > 0);
        let coming = coming.map(|(_, set)| (set, self.others(set)));
        for (set, k) in newest.chain(left).chain(coming) {
            if k > 0 {
                let held = self.kth(set, k)?;
                reach = if held.0 < reach.0 { held } else { reach };
            }
        }
        Some(reach)
    }

    /// The sets that rule: the newest, and the one before while the newest may be lost.
    pub(super) fn ruling(&self) -> impl Iterator<Item = &SyncSet> {
        self.newest.iter().map(|(_, set)| set).chain(&self.before)
    }

    /// How many members beside the leader a set asks for just now.
    fn commit_k(&self, set: &SyncSet) -> usize {
        match set.mode {
            Mode::Semi { .. } if self.degraded => 0,
            mode => self.beside(set, mode.commit_k()),
        }
    }

    /// How many members beside the leader make k + 1 copies on members. A leader that is none, by a set that is
    /// coming, is no copy that whoever is promoted by this set would ask.
    fn beside(&self, set: &SyncSet, k: usize) -> usize {
        k + usize::from(k > 0 && !set.has(self.leader))
    }

    /// How many members beside the leader of a set that is being left must hold the new one: as many as leave
    /// nobody who may be promoted by the old set alone. Under modes that ask nobody that is everybody.
    fn leaving_k(&self, set: &SyncSet) -> usize {
        match set.mode.k() {
            0 => self.others(set),
            k => self.beside(set, k),
        }
    }

    /// Members beside the leader.
    fn others(&self, set: &SyncSet) -> usize {
        set.members.iter().filter(|member| **member != self.leader).count()
    }

    /// Whether a node's reports say that it holds everything below `end`.
    pub(super) fn holds_all(&self, node: Id, end: LogByte) -> bool {
        let held = self.nodes.get(&node).and_then(|held| held.end);
        node == self.leader || held.is_some_and(|held| held.0 >= end)
    }

    /// What the k-th best member of a set holds, the leader left out.
    fn kth(&self, set: &SyncSet, k: usize) -> Option<End> {
        let others = set.members.iter().filter(|member| **member != self.leader);
        let mut held: Vec<End> =
            others.filter_map(|member| self.nodes.get(member).and_then(|held| held.end)).collect();
        if mutant::on(Mutant::AckUncounted) {
            // One member is taken for as good as any number.
            return held.into_iter().max();
        }
        held.sort_unstable_by(|a, b| b.cmp(a));
        k.checked_sub(1).and_then(|at| held.get(at).copied())
    }

    /// Whether the members that the sets that rule ask for hold everything below `end`, also those that are not
    /// waited for just now.
    pub(super) fn is_held(&self, end: LogByte) -> bool {
        self.ruling().all(|set| match self.beside(set, set.mode.commit_k()) {
            0 => true,
            k => self.kth(set, k).is_some_and(|held| held.0 >= end),
        })
    }

    /// What the k-th best member of the newest set holds, for the k of its mode.
    pub(super) fn kth_of_newest(&self) -> Option<End> {
        let (_, set) = self.newest.as_ref()?;
        self.kth(set, set.mode.k())
    }

    /// Whether more than this leader's disk is needed before anything is committed.
    pub(super) fn holds(&self) -> bool {
        self.ruling().any(|set| self.commit_k(set) > 0 || set.mode == Mode::Archive)
    }

    /// Whether a frame of this epoch is committed: before that, nothing is to be appended.
    pub(super) fn has_started(&self) -> bool {
        !self.holds() || self.committed.0 > self.start
    }

    /// Whether it is the archive alone that commits are waited for.
    pub(super) fn waits_for_archive(&self) -> bool {
        let archive = self.ruling().any(|set| set.mode == Mode::Archive);
        archive && self.copied().is_some_and(|end| end.0 > self.start)
    }

    /// The newest set's mode.
    pub(super) fn mode(&self) -> Mode {
        self.newest.as_ref().map(|(_, set)| set.mode).unwrap_or_default()
    }

    /// Begins to rule by another set, whose frame ends at `end`.
    pub(super) fn change(&mut self, end: LogByte, set: SyncSet) {
        self.before = Some(self.newest.take().map(|(_, set)| set).unwrap_or_default());
        self.newest = Some((end, set));
    }

    /// Nodes beside the leader that hold everything below `end`, members or not.
    pub(super) fn copies(&self, end: LogByte) -> usize {
        let holds = |held: &&Held| held.end.is_some_and(|its| its.0 >= end);
        self.nodes.values().filter(holds).count()
    }

    /// The same that have applied everything before `offset`.
    pub(super) fn applied(&self, end: LogByte, offset: Offset) -> usize {
        let holds = |held: &&Held| held.end.is_some_and(|its| its.0 >= end);
        self.nodes.values().filter(holds).filter(|held| held.applied >= offset).count()
    }

    fn is_member(&self, node: Id) -> bool {
        self.ruling().any(|set| set.has(node))
    }
}

#[cfg(test)]
#[path = "rule_tests.rs"]
mod tests;
