//! Each guard of the rule: what must not count does not.

use std::time::Duration;

use super::*;
use crate::position::Position;

const LEADER: Id = Id([1; 16]);
const A: Id = Id([2; 16]);
const B: Id = Id([3; 16]);
const STRANGER: Id = Id([9; 16]);
const EPOCH: Epoch = Epoch { number: 2, nonce: 7 };
const OLD: Epoch = Epoch { number: 1, nonce: 5 };
/// Where this epoch's first frame is.
const START: u64 = 100;

fn at(byte: u64) -> End {
    (LogByte(byte), Offset(byte / 10))
}

fn set(mode: Mode, others: &[Id]) -> SyncSet {
    SyncSet::new(mode, others.iter().copied().chain([LEADER])).unwrap()
}

fn sync(k: u32, others: &[Id]) -> SyncSet {
    set(Mode::Sync { k }, others)
}

/// A leader with an inherited tail up to [`START`], that has 1000 bytes durable.
fn rule(set: SyncSet) -> Rule {
    let mut rule = Rule::new(LEADER, EPOCH, LogByte(START), at(40));
    rule.newest = Some((LogByte(0), set));
    rule.durable = at(1000);
    rule
}

fn report(node: Id, byte: u64) -> Report {
    let (log_byte, offset) = at(byte);
    let durable = Position { epoch: EPOCH, log_byte, offset };
    Report {
        node: Some(node),
        promise: Some(EPOCH),
        durable,
        applied: durable,
        ..Report::default()
    }
}

fn matched(byte: u64, epoch: Epoch) -> Option<Matched> {
    Some(Matched { end: at(byte), epoch })
}

/// A report that counts.
fn hears(rule: &mut Rule, node: Id, byte: u64) {
    assert!(rule.heard(&report(node, byte), matched(byte, EPOCH), 0));
    rule.settle();
}

#[test]
fn committed_is_what_the_leader_and_k_others_hold() {
    let mut rule = rule(sync(2, &[A, B]));
    hears(&mut rule, A, 500);
    assert_eq!(rule.committed, at(40), "the leader and one more are not three");
    hears(&mut rule, B, 300);
    assert_eq!(rule.committed, at(300));
    hears(&mut rule, B, 900);
    assert_eq!(rule.committed, at(500));
    assert_eq!((rule.copies(LogByte(500)), rule.copies(LogByte(501))), (2, 1));
}

#[test]
fn nothing_is_committed_that_the_leader_does_not_hold() {
    let mut rule = rule(sync(1, &[A]));
    rule.durable = at(400);
    hears(&mut rule, A, 900);
    assert_eq!(rule.committed, at(400));
}

#[test]
fn only_members_count_for_the_rule() {
    let mut rule = rule(sync(1, &[A]));
    hears(&mut rule, STRANGER, 900);
    assert_eq!(rule.committed, at(40));
    assert_eq!(rule.copies(LogByte(900)), 1, "it is a copy all the same");
    // Nor does the leader count for another member.
    assert!(!rule.heard(&report(LEADER, 900), matched(900, EPOCH), 0));
    rule.settle();
    assert_eq!(rule.committed, at(40));
}

#[test]
fn an_unclean_node_does_not_count() {
    let mut rule = rule(sync(1, &[A]));
    let unclean = Report { unclean: true, ..report(A, 900) };
    assert!(!rule.heard(&unclean, matched(900, EPOCH), 0));
    rule.settle();
    assert_eq!((rule.committed, rule.copies(LogByte(1))), (at(40), 0));
}

#[test]
fn a_node_that_promised_to_another_leader_does_not_count() {
    let same_number = Epoch { nonce: 8, ..EPOCH };
    for promise in [None, Some(OLD), Some(same_number), Some(Epoch { number: 3, nonce: 1 })] {
        let mut rule = rule(sync(1, &[A]));
        let report = Report { promise, ..report(A, 900) };
        assert!(!rule.heard(&report, matched(900, EPOCH), 0), "{promise:?}");
        rule.settle();
        assert_eq!(rule.committed, at(40));
    }
}

#[test]
fn another_last_frame_does_not_count() {
    let mut rule = rule(sync(1, &[A]));
    assert!(!rule.heard(&report(A, 900), None, 0));
    rule.settle();
    assert_eq!(rule.committed, at(40));
}

#[test]
fn an_inherited_tail_is_committed_only_through_this_epochs_first_frame() {
    let mut rule = rule(sync(1, &[A]));
    // It holds the whole tail of the epoch before: that does not commit it.
    assert!(!rule.heard(&report(A, START), matched(START, OLD), 0));
    rule.settle();
    assert_eq!(rule.committed, at(40));
    assert!(!rule.has_started());
    hears(&mut rule, A, 150);
    assert_eq!(rule.committed, at(150));
    assert!(rule.has_started());
    // The same without copies: the leader's own tail waits for its first frame.
    let mut alone = Rule::new(LEADER, EPOCH, LogByte(START), at(40));
    alone.durable = at(START);
    alone.settle();
    assert_eq!(alone.committed, at(40));
    alone.durable = at(START + 10);
    alone.settle();
    assert_eq!(alone.committed, at(START + 10));
}

#[test]
fn a_node_that_says_less_than_before_counts_again_once_it_has_refetched() {
    let mut rule = rule(sync(1, &[A]));
    hears(&mut rule, A, 500);
    assert!(!rule.heard(&report(A, 400), matched(400, EPOCH), 0));
    rule.settle();
    assert_eq!((rule.committed, rule.copies(LogByte(300))), (at(500), 0));
    hears(&mut rule, A, 500);
    hears(&mut rule, A, 600);
    assert_eq!(rule.committed, at(600));
}

#[test]
fn until_a_new_set_is_committed_both_must_hold() {
    let mut rule = rule(sync(1, &[A]));
    hears(&mut rule, A, 200);
    // A goes, B comes; the set's frame ends at 300.
    rule.change(LogByte(300), sync(1, &[B]));
    hears(&mut rule, B, 900);
    assert_eq!(rule.committed, at(200), "the old set has not got it");
    hears(&mut rule, A, 250);
    assert_eq!(rule.committed, at(250));
    assert!(rule.before.is_some());
    hears(&mut rule, A, 300);
    assert!(rule.before.is_none(), "the new set is committed");
    assert_eq!(rule.committed, at(900), "and rules alone");
}

#[test]
fn a_set_that_asks_for_copies_waits_for_them_behind_one_that_did_not() {
    let mut rule = rule(SyncSet::default());
    rule.settle();
    assert_eq!(rule.committed, at(1000), "async: the leader's disk");
    assert!(!rule.holds());
    rule.durable = at(1200);
    rule.change(LogByte(1200), sync(1, &[A]));
    assert!(rule.holds());
    rule.settle();
    assert_eq!(rule.committed, at(1000));
    hears(&mut rule, A, 1200);
    assert_eq!(rule.committed, at(1200));
    // And back: the old set has its say until the new one is committed.
    rule.durable = at(1400);
    rule.change(LogByte(1300), SyncSet::default());
    rule.settle();
    assert_eq!(rule.committed, at(1200));
    hears(&mut rule, A, 1300);
    assert_eq!((rule.committed, rule.holds()), (at(1400), false));
}

#[test]
fn while_degraded_a_semi_synchronous_set_does_not_wait_and_a_synchronous_one_does() {
    let semi = Mode::Semi { k: 1, timeout: Duration::from_secs(1) };
    for (set, committed) in [(set(semi, &[A]), at(1000)), (sync(1, &[A]), at(40))] {
        let mut rule = rule(set);
        rule.degraded = true;
        rule.settle();
        assert_eq!(rule.committed, committed);
    }
}

#[test]
fn committed_never_falls() {
    let mut rule = rule(sync(1, &[A, B]));
    hears(&mut rule, A, 700);
    rule.change(LogByte(800), sync(2, &[A, B]));
    hears(&mut rule, B, 150);
    assert_eq!(rule.committed, at(700));
}

#[test]
fn members_are_not_forgotten_for_strangers() {
    let mut rule = rule(sync(1, &[A]));
    hears(&mut rule, A, 700);
    for i in 0..MOST_NODES + 10 {
        let mut id = [4; 16];
        id[..8].copy_from_slice(&(i as u64).to_be_bytes());
        rule.heard(&report(Id(id), 300), matched(300, EPOCH), 1 + i as u64);
    }
    assert_eq!(rule.nodes.len(), MOST_NODES);
    assert_eq!(rule.copies(LogByte(700)), 1);
}

#[test]
fn under_archive_nothing_is_committed_that_the_archive_does_not_hold() {
    let mut rule = rule(set(Mode::Archive, &[]));
    assert!(rule.holds() && !rule.settle() && !rule.has_started());
    assert_eq!(rule.publishable(), at(1000), "what only the archive is waited for goes out");
    // An inherited tail is committed only through a frame of this epoch.
    rule.archived = Some(at(START));
    assert!(!rule.settle());
    rule.archived = Some(at(500));
    assert!(rule.settle() && rule.has_started());
    assert_eq!(rule.committed, at(500));
}

#[test]
fn what_members_are_waited_for_is_not_published_before_they_hold_it() {
    let mut rule = rule(sync(1, &[A, B]));
    assert_eq!(rule.publishable(), at(40));
    hears(&mut rule, A, 300);
    assert_eq!(rule.publishable(), at(300));
    // While the set changes both must hold it: the member, and the archive.
    rule.change(LogByte(900), set(Mode::Archive, &[]));
    hears(&mut rule, A, 950);
    assert_eq!((rule.publishable(), rule.committed), (at(950), at(300)));
    rule.archived = Some(at(950));
    rule.settle();
    assert_eq!((rule.committed, rule.before.is_none()), (at(950), true));
    assert_eq!(rule.publishable(), at(1000), "the archive alone rules now");
}

/// Found by the model: a node that knows only the set before, and may be promoted by it alone, must hold the
/// new one before anything is acknowledged under that.
#[test]
fn a_set_is_left_only_when_nobody_can_be_promoted_by_it_alone() {
    let bounded = Mode::Bounded { k: 1, bytes: 9999, within: Duration::from_secs(9) };
    for (mode, needed) in [(Mode::Async, 2), (bounded, 1)] {
        let mut rule = rule(set(mode, &[A, B]));
        rule.settle();
        rule.change(LogByte(1050), sync(1, &[A, B]));
        rule.durable = at(1100);
        for (held, node) in [A, B].into_iter().enumerate() {
            assert_eq!(rule.before.is_some(), held < needed, "{mode}: {held} hold it");
            hears(&mut rule, node, 1100);
        }
        assert!(rule.before.is_none(), "{mode}");
    }
}

/// The same however little the next set promises: the one after that may promise more, and asks only for the set
/// just before it.
#[test]
fn a_set_is_left_like_that_for_one_that_promises_nothing_too() {
    let bounded = Mode::Bounded { k: 1, bytes: 9999, within: Duration::from_secs(9) };
    for (mode, needed) in [(Mode::Async, 2), (bounded, 1)] {
        let mut rule = rule(set(mode, &[A, B]));
        rule.settle();
        rule.change(LogByte(1050), set(Mode::Async, &[]));
        rule.durable = at(1100);
        for (held, node) in [A, B].into_iter().enumerate() {
            assert_eq!(rule.before.is_some(), held < needed, "{mode}: {held} hold it");
            hears(&mut rule, node, 1100);
        }
        assert!(rule.before.is_none(), "{mode}");
    }
}

/// A node that knows no set is promoted by its own word.
#[test]
fn a_first_set_is_committed_once_all_of_its_members_know_it() {
    for mode in [Mode::Sync { k: 1 }, Mode::Bounded { k: 1, bytes: 9, within: Duration::ZERO }] {
        let mut rule = rule(SyncSet::default());
        rule.settle();
        rule.change(LogByte(1050), set(mode, &[A, B]));
        rule.durable = at(1100);
        hears(&mut rule, A, 1100);
        assert!(rule.before.is_some(), "{mode}");
        hears(&mut rule, B, 1060);
        assert!(rule.before.is_none(), "{mode}");
        assert_eq!(rule.committed, at(1100), "from there on one of them is enough");
    }
}

/// A node that is new in the set that comes knows the one before, which asks nobody: it could be promoted by that, while
/// others acknowledge under the new one.
#[test]
fn a_set_behind_one_that_asks_nobody_is_committed_once_all_of_both_know_it() {
    for before in [Mode::Async, Mode::Archive] {
        let mut rule = rule(set(before, &[A]));
        rule.archived = Some(at(1100));
        rule.settle();
        rule.change(LogByte(1050), sync(1, &[A, B]));
        rule.durable = at(1100);
        hears(&mut rule, A, 1100);
        assert!(rule.before.is_some(), "{before}");
        hears(&mut rule, B, 1060);
        assert!(rule.before.is_none(), "{before}");
        assert_eq!(rule.committed, at(1100), "from there on one of them is enough");
    }
}

/// Found by the simulation: who was promoted by a set that was coming, and is no member of the one before, committed with
/// one member of that as if it were another; the next candidate had that one's promise not, and none of what was committed.
#[test]
fn a_leader_that_is_no_member_of_the_set_before_is_no_copy_in_it() {
    for mode in [Mode::Sync { k: 1 }, Mode::Bounded { k: 1, bytes: 9, within: Duration::ZERO }] {
        let mut rule = rule(sync(1, &[A, B]));
        rule.before = Some(SyncSet::new(mode, [A, B]).unwrap());
        rule.newest = Some((LogByte(80), sync(1, &[A, B])));
        hears(&mut rule, A, 1000);
        assert_eq!(rule.committed, at(40), "{mode}: B alone may promote somebody");
        assert!(!rule.is_held(LogByte(1000)) || mode.commit_k() == 0);
        hears(&mut rule, B, 90);
        assert_eq!(rule.committed, at(40), "{mode}: nothing of this epoch yet");
        hears(&mut rule, B, 900);
        assert!(rule.before.is_none(), "{mode}");
        assert_eq!(rule.committed, at(1000), "the new set is committed and rules alone");
    }
}
