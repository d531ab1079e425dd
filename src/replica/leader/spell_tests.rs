//! Degraded spells with a coordinator: nothing is acknowledged with less before the mark stands there.

use std::path::Path;

use super::tests::*;
use super::*;
use crate::fs::Os;
use crate::log::Append;
use crate::record::{Batch, Record};
use crate::replica::coordinator::fake::{FakeCluster, FakeCoordinator, FakeFault};
use crate::replica::coordinator::{Claim, Coordinator, Take};

const TTL: Duration = Duration::from_secs(10);

/// The seat's holder, by the next number.
fn seated(cluster: &FakeCluster, leader: &Leader) -> FakeCoordinator {
    let node = leader.log.node();
    let mut coordinator = cluster.connect(node, Os::shared(), TTL);
    let claim = Claim {
        log: leader.log.id(),
        node,
        name: String::new(),
        address: String::new(),
        nonce: 7,
        seen: 0,
    };
    assert!(matches!(coordinator.take(&claim), Ok(Take::Won(_))));
    coordinator
}

/// A leader of a semi-synchronous set whose member holds it, and who holds the seat.
fn semi(dir: &Path, cluster: &FakeCluster) -> (Leader, FakeCoordinator) {
    let leader = Leader::lead_elected(open(dir)).unwrap();
    let coordinator = seated(cluster, &leader);
    leader.change(&set(&leader, "semi:k=1,timeout=20ms", &[A]), Duration::ZERO).unwrap();
    hears(&leader, A);
    (leader, coordinator)
}

fn begin(leader: &Leader) -> Waiting {
    let mut batch = Batch::new();
    batch.push(&Record::put(b"k", b"v")).unwrap();
    leader.begin(&batch, &Append::default(), None).unwrap().unwrap()
}

/// Looks until well behind the members' time.
fn looks_late(leader: &Leader, waiting: &Waiting) -> Option<Outcome> {
    let until = std::time::Instant::now() + Duration::from_millis(80);
    loop {
        let outcome = leader.look(waiting);
        if outcome.is_some() || std::time::Instant::now() >= until {
            return outcome;
        }
        std::thread::yield_now();
    }
}

fn is_lesser(outcome: Option<Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Acked { level: Level::Durable, copies: 1, .. }))
}

#[test]
fn a_lesser_ack_waits_for_the_mark_at_the_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = FakeCluster::new();
    let (leader, mut coordinator) = semi(dir.path(), &cluster);
    // Whatever an earlier leader left goes first; then there is nothing to say.
    assert_eq!(leader.register(&mut coordinator).unwrap(), Some(None));
    assert_eq!(leader.register(&mut coordinator).unwrap(), None);
    let waiting = begin(&leader);
    let shown = leader.log.end();
    assert!(looks_late(&leader, &waiting).is_none(), "nobody has carried the mark there");
    // Cut off, and an answer that is lost: it may stand there, and counts for nothing.
    cluster.cut(leader.log.node(), true);
    assert_eq!(leader.register(&mut coordinator).unwrap_err().kind(), Kind::Io);
    assert!(looks_late(&leader, &waiting).is_none());
    cluster.heal();
    cluster.fail(leader.log.node(), 0, FakeFault::AnswerLost);
    assert!(leader.register(&mut coordinator).is_err());
    assert!(looks_late(&leader, &waiting).is_none());
    assert_eq!((leader.log.end(), control(dir.path()).degraded), (shown, None));
    let mark = leader.register(&mut coordinator).unwrap().unwrap();
    assert_eq!(cluster.seat().degraded.map(|spell| spell.from), mark);
    assert!(is_lesser(looks_late(&leader, &waiting)));
    assert_eq!(control(dir.path()).degraded, mark);
    // The member is back and holds everything: both marks go, this one last.
    hears(&leader, A);
    hears(&leader, A);
    assert_eq!((leader.standing().degraded, control(dir.path()).degraded), (None, None));
    assert!(cluster.seat().degraded.is_some());
    assert_eq!(leader.register(&mut coordinator).unwrap(), Some(None));
    assert_eq!(cluster.seat().degraded, None);
}

#[test]
fn a_mark_that_is_being_taken_away_is_no_mark() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = FakeCluster::new();
    let (leader, mut coordinator) = semi(dir.path(), &cluster);
    let waiting = begin(&leader);
    assert!(looks_late(&leader, &waiting).is_none());
    leader.register(&mut coordinator).unwrap();
    assert!(is_lesser(looks_late(&leader, &waiting)));
    hears(&leader, A);
    hears(&leader, A);
    // It is gone there, and this node does not know.
    cluster.fail(leader.log.node(), 0, FakeFault::AnswerLost);
    assert!(leader.register(&mut coordinator).is_err());
    assert_eq!(cluster.seat().degraded, None);
    let waiting = begin(&leader);
    assert!(looks_late(&leader, &waiting).is_none());
    leader.register(&mut coordinator).unwrap();
    assert!(cluster.seat().degraded.is_some());
    assert!(is_lesser(looks_late(&leader, &waiting)));
}

#[test]
fn members_in_time_need_no_mark_and_a_lost_seat_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = FakeCluster::new();
    let (leader, mut coordinator) = semi(dir.path(), &cluster);
    leader.register(&mut coordinator).unwrap();
    let waiting = begin(&leader);
    assert!(looks_late(&leader, &waiting).is_none());
    // The member answers before the mark is there: it is not needed any more.
    hears(&leader, A);
    let outcome = leader.look(&waiting);
    assert!(matches!(outcome, Some(Outcome::Acked { level: Level::Replicated(1), .. })));
    assert_eq!(leader.register(&mut coordinator).unwrap(), None);
    // Scenario 32: somebody else has the seat. What is refused there is not acknowledged here.
    let waiting = begin(&leader);
    assert!(looks_late(&leader, &waiting).is_none());
    cluster.advance(TTL);
    let claim = Claim {
        log: leader.log.id(),
        node: B,
        name: String::new(),
        address: String::new(),
        nonce: 8,
        seen: 0,
    };
    assert!(matches!(cluster.connect(B, Os::shared(), TTL).take(&claim), Ok(Take::Won(_))));
    assert_eq!(leader.register(&mut coordinator).unwrap_err().kind(), Kind::Fenced);
    assert_eq!(cluster.seat().degraded, None);
    assert!(looks_late(&leader, &waiting).is_none());
}

/// What an earlier leader registered stands until this one's start is committed; a spell that CONTROL has goes on
/// once it is registered again.
#[test]
fn a_mark_outlives_its_leader_until_the_next_ones_start_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = FakeCluster::new();
    let (leader, mut coordinator) = semi(dir.path(), &cluster);
    let waiting = begin(&leader);
    assert!(looks_late(&leader, &waiting).is_none());
    leader.register(&mut coordinator).unwrap();
    assert!(is_lesser(looks_late(&leader, &waiting)));
    for in_control in [true, false] {
        let copy = tempfile::tempdir().unwrap();
        copy_log(dir.path(), copy.path());
        if !in_control {
            let layout = crate::log::files::Layout::new(copy.path());
            let mut control = control(copy.path());
            control.degraded = None;
            control.write(&Os, &layout).unwrap();
        }
        let log = Log::options().identity(crate::Identity::SameNode).open(copy.path()).unwrap();
        let again = Leader::lead_elected(Arc::new(log)).unwrap();
        if !in_control {
            assert_eq!(again.register(&mut coordinator).unwrap(), None);
            assert!(cluster.seat().degraded.is_some(), "what there was may be all that is");
        }
        let begun = append(&again, None, SOON);
        assert!(matches!(begun, Outcome::Rejected { .. }), "its start is not committed: {begun:?}");
        match in_control {
            true => {
                assert!(again.register(&mut coordinator).unwrap().unwrap().is_some());
                assert!(matches!(
                    append(&again, None, LONG),
                    Outcome::Acked { level: Level::Durable, .. }
                ));
            }
            false => {
                // It waits for its members long enough to ask for a spell of its own.
                hears(&again, A);
                assert!(again.standing().started);
                assert_eq!(again.register(&mut coordinator).unwrap(), Some(None));
                assert_eq!(cluster.seat().degraded, None);
            }
        }
    }
}
