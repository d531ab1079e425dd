//! Each scope explored whole, then each rule switched off.

use super::guards::{Guards, Scope};
use super::*;
use crate::log::SyncSet;
use crate::{breaks, holds};

const ANY_OF_3: SyncSet = SyncSet::sync(0b0111, 1);
const EACH_OF_3: SyncSet = SyncSet::sync(0b0111, 2);
const NONE_OF_3: SyncSet = SyncSet::alone(0b0111, 0);
const BOUNDED: SyncSet = SyncSet::alone(0b0111, 2);
const ONE: SyncSet = SyncSet::alone(0b0001, 0);
const NOBODY: SyncSet = SyncSet::alone(0, 0);
const PAIR: SyncSet = SyncSet::sync(0b0011, 1);

const MANUAL: Scope = Scope {
    name: "failover, 3 nodes, two operators",
    sets: &[ANY_OF_3],
    max_epoch: 2,
    max_frames: 5,
    coordinated: false,
    cascades: false,
    replies: false,
    forgets: 0,
    restores: 0,
};
const SMALL: Scope = Scope { max_frames: 4, ..MANUAL };
const ELECTED: Scope = Scope {
    name: "failover, 3 nodes, a coordinator that forgets",
    coordinated: true,
    forgets: 1,
    max_epoch: 3,
    ..SMALL
};
const TWO: Scope = Scope { name: "failover, 2 nodes", sets: &[PAIR], max_epoch: 3, ..MANUAL };
const CASCADES: Scope =
    Scope { name: "failover, followers serve followers", cascades: true, ..SMALL };
const PAUSED: Scope = Scope { name: "failover, a leader pauses", replies: true, ..SMALL };
const CHANGES: Scope =
    Scope { name: "failover, sets change", sets: &[ANY_OF_3, PAIR, EACH_OF_3], ..SMALL };
const ASYNC: Scope = Scope { name: "failover, k = 0", sets: &[NONE_OF_3], ..MANUAL };
const FROM_NONE: Scope =
    Scope { name: "failover, leaving k = 0", sets: &[NONE_OF_3, ANY_OF_3], ..SMALL };
const TO_NONE: Scope =
    Scope { name: "failover, beginning k = 0", sets: &[ANY_OF_3, NONE_OF_3], ..SMALL };
/// With these k it asks for what leaving k = 0 asks for: one epoch shows it.
const FROM_BOUNDED: Scope =
    Scope { name: "failover, leaving bounded", sets: &[BOUNDED, ANY_OF_3], max_epoch: 1, ..SMALL };
const BY_NONE: Scope = Scope {
    name: "failover, leaving bounded by way of k = 0",
    sets: &[BOUNDED, ONE, PAIR],
    max_epoch: 1,
    ..SMALL
};
const FIRST: Scope = Scope { name: "failover, a first set", sets: &[NOBODY, ANY_OF_3], ..SMALL };
/// With numbers of a coordinator: under no set nobody is asked, and two operators could lead by one number.
const ADDED: Scope = Scope {
    name: "failover, a member is added",
    sets: &[NOBODY, PAIR, ANY_OF_3],
    coordinated: true,
    ..SMALL
};
const RESTORED: Scope =
    Scope { name: "failover, an old copy returns", restores: 1, max_epoch: 1, ..SMALL };

fn whole<const N: usize>(scope: Scope) {
    holds(scope.name, Failover::<N> { scope, guards: Guards::ALL });
}

#[test]
fn two_operators_or_a_coordinator_that_forgets_lose_nothing() {
    whole::<3>(MANUAL);
    whole::<3>(ELECTED);
    whole::<2>(TWO);
}

#[test]
fn followers_that_serve_followers_lose_nothing() {
    whole::<3>(CASCADES);
}

#[test]
fn a_leader_that_paused_before_its_reply_acknowledges_nothing_once_it_is_deposed() {
    whole::<3>(PAUSED);
    whole::<3>(Scope { name: "failover, k = 0, a leader pauses", sets: &[NONE_OF_3], ..PAUSED });
}

#[test]
fn sets_change_during_failovers() {
    whole::<3>(CHANGES);
}

#[test]
fn under_k_0_whoever_led_gets_the_latest_leaders_log() {
    whole::<3>(ASYNC);
}

#[test]
fn sets_that_promise_nothing_come_and_go() {
    whole::<3>(FROM_NONE);
    whole::<3>(TO_NONE);
    whole::<3>(FROM_BOUNDED);
    whole::<3>(BY_NONE);
}

#[test]
fn who_knows_no_set_is_a_member_of_none_that_others_rely_on() {
    whole::<3>(FIRST);
    whole::<3>(ADDED);
}

#[test]
fn an_old_copy_of_a_node_is_told_and_cuts_nothing_known() {
    whole::<3>(RESTORED);
}

/// That peers are asked keeps these two from being needed.
fn ahead_unasked(guards: &mut Guards) {
    (guards.ahead_halts, guards.peers_not_ahead) = (false, false);
}

fn unlike_unasked(guards: &mut Guards) {
    (guards.fingerprint, guards.peers_not_ahead) = (false, false);
}

/// A rule's name, the change that switches it off, the scope, and what must break.
type Row = (&'static str, fn(&mut Guards), Scope, &'static str);

const NEEDED: &[Row] = &[
    ("numbers above what was seen", |g| g.above_seen = false, ELECTED, OLD_NUMBER),
    ("nonces", |g| g.nonce = false, MANUAL, LOST),
    ("nonces", |g| g.nonce = false, MANUAL, TWO_LEADERS),
    ("rising promises", |g| g.rising = false, MANUAL, PROMISE_FELL),
    ("nonces drawn anew", |g| g.fresh_nonce = false, RESTORED, IDENTITY),
    ("rising promises", |g| g.rising = false, MANUAL, LOST),
    ("N - k promises", |g| g.enough = false, MANUAL, LOST),
    ("positions with promises", |g| g.positions_after = false, MANUAL, LOST),
    ("reaching the best position", |g| g.fetch_best = false, MANUAL, LOST),
    ("tails of promisers alone", |g| g.tail_of_promiser = false, MANUAL, RISING),
    ("cascades that are ahead", |g| g.serve_ahead = false, CASCADES, LOST),
    ("own epoch", |g| g.own_epoch = false, ELECTED, LOST),
    ("opening after the start", |g| g.open_after_start = false, MANUAL, STALE_READ),
    ("the gate", |g| g.gate = false, PAUSED, LATE_REPLY),
    ("confirming the epoch", |g| g.confirm = false, MANUAL, STALE_READ),
    ("all leaving k = 0", |g| g.all_leave_zero = false, FROM_NONE, LOST),
    ("k + 1 leaving bounded", |g| g.leave_by_k = false, FROM_BOUNDED, LOST),
    ("asking whatever comes next", |g| g.leave_always = false, BY_NONE, LOST),
    ("all members of a first set", |g| g.all_leave_none = false, FIRST, LOST),
    ("members that know a set", |g| g.known_members = false, ADDED, LOST),
    ("keeping until answered", |g| g.cut_at_end = false, MANUAL, LOST),
    ("comparing epochs", |g| g.compare_epochs = false, SMALL, HEALS),
    ("asking again", |g| g.ask_again = false, ELECTED, HEALS),
    ("halting below a commit", |g| g.halt_below_commit = false, RESTORED, KNOWN_CUT),
    ("halting when ahead, of peers not asked", ahead_unasked, RESTORED, TAKEN_BACK),
    ("fingerprints, of peers not asked", unlike_unasked, RESTORED, COPIES),
    ("no peer ahead", |g| g.peers_not_ahead = false, RESTORED, IDENTITY),
];

#[test]
fn without_any_one_rule_of_failover_something_breaks() {
    for (off, switch, scope, property) in NEEDED {
        let mut guards = Guards::ALL;
        switch(&mut guards);
        breaks(scope.name, off, Failover::<3> { scope: *scope, guards }, property);
    }
}
