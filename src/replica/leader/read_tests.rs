//! Linearizable reads: whose word they need under which mode.

use std::collections::BTreeSet;

use super::tests::*;
use super::*;

fn ids(ids: &[Id]) -> BTreeSet<Id> {
    ids.iter().copied().collect()
}

#[test]
fn as_many_members_are_asked_as_leave_nobody_who_could_have_committed_without_them() {
    for (mode, others, wanted, enough) in [
        // N - k, the leader counted.
        ("sync:k=1", &[A][..], &[][..], &[][..]),
        ("sync:k=1", &[A, B], &[A, B], &[A]),
        ("sync:k=2", &[A, B], &[], &[]),
        // k + 1: the next leader may commit alone.
        ("semi:k=1,timeout=1s", &[A], &[A], &[A]),
        ("semi:k=2,timeout=1s", &[A, B], &[A, B], &[A, B]),
        ("bounded:k=1,bytes=1MiB,secs=9", &[A, B], &[A, B], &[B]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let leader = lead(dir.path());
        leader.change(&set(&leader, mode, others), Duration::ZERO).unwrap();
        others.iter().for_each(|node| hears(&leader, *node));
        let reading = leader.begin_read().unwrap();
        let own = leader.log.node();
        assert_eq!(reading.wanted(own, &ids(&[])), ids(wanted), "{mode}");
        assert!(reading.wanted(own, &ids(enough)).is_empty(), "{mode}");
        assert_eq!(leader.end_read(&reading, &ids(enough)).unwrap(), leader.log.end(), "{mode}");
        if let Some((_, fewer)) = enough.split_first() {
            let error = leader.end_read(&reading, &ids(fewer)).unwrap_err();
            assert_eq!(error.kind(), Kind::NotLeader, "{mode}: {error}");
            assert!(error.advice().is_some());
        }
        // Who has promised another one meanwhile.
        leader.fence(Error::new(Kind::Fenced, "replaced"));
        assert_eq!(leader.end_read(&reading, &ids(others)).unwrap_err().kind(), Kind::Fenced);
        assert_eq!(leader.begin_read().unwrap_err().kind(), Kind::Fenced);
    }
}

#[test]
fn where_members_promise_nothing_the_lease_must_last_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    append(&leader, None, LONG);
    let error = leader.begin_read().unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{error}");
    assert!(error.advice().is_some_and(|help| help.contains("--coordinator")), "{error}");
    let in_a_minute = leader.now() + 60_000_000_000;
    leader.lease(Some(in_a_minute));
    let reading = leader.begin_read().unwrap();
    assert_eq!(leader.end_read(&reading, &ids(&[])).unwrap().0, 1);
    leader.lease(Some(leader.now()));
    assert_eq!(leader.end_read(&reading, &ids(&[])).unwrap_err().kind(), Kind::NotLeader);
    assert_eq!(leader.begin_read().unwrap_err().kind(), Kind::NotLeader);
    // On the way to a set that promises, the old rule holds, too.
    leader.lease(None);
    leader.change(&set(&leader, "sync:k=1", &[A]), Duration::ZERO).unwrap();
    assert_eq!(leader.begin_read().unwrap_err().kind(), Kind::NotLeader);
    hears(&leader, A);
    let reading = leader.begin_read().unwrap();
    assert_eq!(leader.end_read(&reading, &ids(&[])).unwrap().0, 1);
}

/// Members that are asked: what they say they promise, and whether they are clean.
#[cfg(feature = "wire")]
struct Told(Vec<(Id, u64, bool)>, usize);

#[cfg(feature = "wire")]
impl crate::replica::failover::Peers for Told {
    fn known(&self) -> Vec<crate::replica::failover::Peer> {
        let peer = |(node, ..): &(Id, u64, bool)| crate::replica::failover::Peer {
            node: Some(*node),
            address: format!("http://{node}"),
        };
        self.0.iter().map(peer).collect()
    }

    fn ask(
        &mut self,
        peer: &crate::replica::failover::Peer,
        ask: &crate::replica::failover::Ask,
    ) -> Result<crate::replica::failover::Standing> {
        assert_eq!(ask.epoch, None, "a read asks for no promise");
        self.1 += 1;
        let found = self.0.iter().find(|(node, ..)| Some(*node) == peer.node);
        let Some(&(node, nonce, unclean)) = found else {
            return Err(Error::new(Kind::Io, "nobody there"));
        };
        let promise = Some(Epoch { number: 1, nonce });
        let report = Report { node: Some(node), promise, unclean, ..Report::default() };
        Ok(crate::replica::failover::Standing { report, ..Default::default() })
    }

    fn source(
        &mut self,
        _: &crate::replica::failover::Peer,
    ) -> Result<Box<dyn crate::ship::Source>> {
        Err(Error::new(Kind::Io, "nobody there"))
    }
}

#[cfg(feature = "wire")]
#[test]
fn what_counts_is_the_epoch_with_its_nonce_at_a_clean_node_and_no_more_are_asked_than_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let leader = lead(dir.path());
    leader.change(&set(&leader, "sync:k=1", &[A, B]), Duration::ZERO).unwrap();
    // A first set waits for all of its members.
    hears(&leader, A);
    hears(&leader, B);
    let epoch = leader.epoch();
    assert_eq!(epoch.number, 1);
    let ask = crate::replica::failover::Ask {
        log: leader.log.id(),
        node: leader.log.node(),
        name: String::new(),
        address: None,
        epoch: None,
    };
    let other = epoch.nonce ^ 1;
    for (told, asked, confirmed) in [
        (vec![(A, epoch.nonce, false), (B, epoch.nonce, false)], 1, true),
        (vec![(A, other, false), (B, epoch.nonce, false)], 2, true),
        (vec![(A, other, false), (B, other, false)], 2, false),
        (vec![(A, epoch.nonce, true), (B, other, false)], 2, false),
        (vec![(Id([9; 16]), epoch.nonce, false)], 0, false),
    ] {
        let reading = leader.begin_read().unwrap();
        let mut peers = Told(told, 0);
        let found = crate::replica::failover::confirm(&leader, &reading, &ask, &mut peers);
        assert_eq!((peers.1, found.is_ok()), (asked, confirmed), "{:?} {found:?}", peers.0);
        if let Err(e) = found {
            assert_eq!(e.kind(), Kind::NotLeader);
            assert!(e.advice().is_some(), "{e}");
        }
    }
}
