//! Each scope explored whole, then each rule switched off.

use super::guards::{Guards, Scope};
use super::{Commit, LOST, PROMISE_FELL, TWO_LEADERS, WRONG_READ};
use crate::log::SyncSet;
use crate::{breaks, holds};

const ANY_OF_3: SyncSet = SyncSet::sync(0b0111, 1);
const EACH_OF_3: SyncSet = SyncSet::sync(0b0111, 2);
const PAIR: SyncSet = SyncSet::sync(0b0011, 1);
/// Node 1 goes and node 3 comes; then node 2 goes and node 1 comes.
const WITH_3: SyncSet = SyncSet::sync(0b1101, 1);
const WITH_3_AND_1: SyncSet = SyncSet::sync(0b1011, 1);

const FIXED: Scope = Scope {
    name: "commit, 3 nodes, k = 1",
    sets: &[ANY_OF_3],
    max_epoch: 2,
    max_frames: 5,
    followers_learn: false,
    losses: 0,
    forgets: 0,
};
const SMALL: Scope = Scope { max_frames: 4, ..FIXED };
const LATER: Scope = Scope { name: "commit, 3 nodes, k = 1, 4 epochs", max_epoch: 3, ..SMALL };
const EACH: Scope = Scope { name: "commit, 3 nodes, k = 2", sets: &[EACH_OF_3], ..FIXED };
const LEARNING: Scope =
    Scope { name: "commit, 3 nodes, followers show", followers_learn: true, ..SMALL };
const LOSSES: Scope = Scope { name: "commit, 3 nodes, a frame is lost", losses: 1, ..SMALL };
const FORGETS: Scope = Scope { name: "commit, 3 nodes, a promise is lost", forgets: 1, ..SMALL };
const CHANGES: Scope =
    Scope { name: "commit, 3 nodes, sets change", sets: &[ANY_OF_3, PAIR, EACH_OF_3], ..LEARNING };
const REPLACED: Scope = Scope {
    name: "commit, 4 nodes, members replaced",
    sets: &[ANY_OF_3, WITH_3, WITH_3_AND_1],
    max_epoch: 1,
    ..SMALL
};

fn whole<const N: usize>(scope: Scope) {
    holds(scope.name, Commit::<N> { scope, guards: Guards::ALL });
}

#[test]
fn a_fixed_set_keeps_what_it_committed() {
    whole::<3>(FIXED);
    whole::<3>(LATER);
    whole::<3>(EACH);
    whole::<3>(LEARNING);
}

#[test]
fn a_node_that_lost_something_it_had_acked_costs_no_committed_record() {
    whole::<3>(LOSSES);
    whole::<3>(FORGETS);
}

#[test]
fn sets_change_and_members_are_replaced_without_loss() {
    whole::<3>(CHANGES);
    whole::<4>(REPLACED);
}

/// A rule's name, the change that switches it off, the scope, and what must break.
type Row = (&'static str, fn(&mut Guards), Scope, &'static str);

const NEEDED: &[Row] = &[
    ("k others", |g| g.k_others = false, SMALL, LOST),
    ("a last frame of this epoch", |g| g.own_epoch = false, LATER, LOST),
    ("refusing other epochs' replies", |g| g.refuse_other_epoch = false, SMALL, LOST),
    ("stepping down", |g| g.step_down = false, SMALL, LOST),
    ("the leader's durable end", |g| g.leader_durable = false, SMALL, LOST),
    ("the members' durable ends", |g| g.member_durable = false, SMALL, LOST),
    ("rising promises", |g| g.rising = false, SMALL, PROMISE_FELL),
    ("rising promises", |g| g.rising = false, SMALL, LOST),
    ("nonces", |g| g.nonce = false, SMALL, TWO_LEADERS),
    ("nonces", |g| g.nonce = false, SMALL, LOST),
    ("N - k promises", |g| g.enough_promises = false, SMALL, LOST),
    ("positions after promises", |g| g.positions_after = false, SMALL, LOST),
    ("epochs before log bytes", |g| g.epoch_first = false, SMALL, LOST),
    ("fetching the tail first", |g| g.fetch_tail = false, SMALL, LOST),
    ("promises still held", |g| g.promise_held = false, LOSSES, LOST),
    ("unclean nodes kept out", |g| g.unclean = false, LOSSES, LOST),
    ("readmission after a lost promise", |g| g.readmit = false, FORGETS, LOST),
    ("a matched end", |g| g.matched_end = false, LEARNING, WRONG_READ),
    ("reads at committed", |g| g.reads_committed = false, LEARNING, WRONG_READ),
    ("members only", |g| g.members_only = false, CHANGES, LOST),
    ("the set before, promising", |g| g.previous_set = false, CHANGES, LOST),
    ("the set before, holding", |g| g.both_rules = false, CHANGES, LOST),
];

/// These take a fourth node to show.
const NEEDED_BY_FOUR: &[Row] = &[
    ("looking again", |g| g.look_again = false, REPLACED, LOST),
    ("one change at a time", |g| g.one_at_a_time = false, REPLACED, LOST),
];

/// Implied by the other rules as far as these scopes reach; kept as a second line.
const IMPLIED: &[Row] = &[
    ("the report's promise", |g| g.report_promise = false, FIXED, LOST),
    ("changes after epoch_start", |g| g.after_start = false, CHANGES, LOST),
];

#[test]
fn without_any_one_rule_something_breaks() {
    for (off, switch, scope, property) in NEEDED {
        let mut guards = Guards::ALL;
        switch(&mut guards);
        breaks(scope.name, off, Commit::<3> { scope: *scope, guards }, property);
    }
    for (off, switch, scope, property) in NEEDED_BY_FOUR {
        let mut guards = Guards::ALL;
        switch(&mut guards);
        breaks(scope.name, off, Commit::<4> { scope: *scope, guards }, property);
    }
}

#[test]
fn two_rules_are_implied_by_the_others() {
    for (off, switch, scope, _) in IMPLIED {
        let mut guards = Guards::ALL;
        switch(&mut guards);
        holds(&format!("{} without {off}", scope.name), Commit::<3> { scope: *scope, guards });
    }
}
