//! Lost requests and answers, backups put back, clocks that stand still, stores that break their word.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidelog::fs::sim::Sim;
use tidelog::replica::coordinator::fake::{FakeCluster, FakeFault};
use tidelog::replica::coordinator::{Coordinator, Lease, StoreCoordinator, Take};
use tidelog::ship::archive::fake::{Fake, FakeStore, StoreFault, Turns};
use tidelog::ship::archive::{Create, ObjectName, Owner, Prefix, Store};
use tidelog::{Epoch, Id, Kind, LogByte, Result};

use super::{TTL, claim, held, is_lost, won};

fn on(store: FakeStore, clock: &Sim) -> StoreCoordinator {
    StoreCoordinator::new(Arc::new(store), clock.shared(), TTL)
}

/// Looks until everything was looked at.
fn look(coordinator: &mut dyn Coordinator) {
    for _ in 0..8 {
        let _ = coordinator.look();
    }
}

#[test]
fn a_lost_request_or_answer_of_the_fake_coordinator_is_found_out_by_asking_again() {
    for fault in [FakeFault::Lost, FakeFault::AnswerLost] {
        let (fake, sim) = (FakeCluster::new(), Sim::new(1));
        let mut a = fake.connect(Id([1; 16]), sim.shared(), TTL);
        let lose = |times| fake.fail(Id([1; 16]), times, fault);
        let mine = claim(1, 10, 0);
        lose(0);
        assert_eq!(a.take(&mine).unwrap_err().kind(), Kind::Io);
        assert_eq!(fake.seat().holder.is_some(), fault == FakeFault::AnswerLost);
        assert_eq!(won(a.take(&mine).unwrap()), Epoch { number: 1, nonce: 10 });
        lose(0);
        assert_eq!(a.renew().unwrap_err().kind(), Kind::Io);
        assert!(!is_lost(&a.renew().unwrap()));
        lose(0);
        assert_eq!(a.degrade(Some(LogByte(3))).unwrap_err().kind(), Kind::Io);
        a.degrade(Some(LogByte(3))).unwrap();
        assert_eq!(fake.seat().degraded.unwrap().from, LogByte(3));
        lose(0);
        assert_eq!(a.hand_over(&claim(2, 20, 0)).unwrap_err().kind(), Kind::Io);
        assert_eq!(won(a.hand_over(&claim(2, 20, 0)).unwrap()).number, 2);
        let mut b = fake.connect(Id([2; 16]), sim.shared(), TTL);
        won(b.take(&claim(2, 20, 0)).unwrap());
        fake.fail(Id([2; 16]), 0, fault);
        assert_eq!(b.resign().unwrap_err().kind(), Kind::Io);
        b.resign().unwrap();
        assert_eq!(fake.seat().holder, None);
    }
}

#[test]
fn a_node_that_is_cut_off_reaches_nothing_and_a_revoked_lease_is_lost() {
    let (fake, sim) = (FakeCluster::new(), Sim::new(1));
    let mut a = fake.connect(Id([1; 16]), sim.shared(), TTL);
    let mut b = fake.connect(Id([2; 16]), sim.shared(), TTL);
    won(a.take(&claim(1, 10, 0)).unwrap());
    fake.cut(Id([1; 16]), true);
    assert_eq!(a.renew().unwrap_err().kind(), Kind::Io);
    fake.advance(TTL);
    assert_eq!(won(b.take(&claim(2, 20, 0)).unwrap()).number, 2);
    fake.heal();
    assert!(is_lost(&a.renew().unwrap()));
    fake.revoke();
    assert!(is_lost(&b.renew().unwrap()));
    assert_eq!(b.degrade(Some(LogByte(1))).unwrap_err().kind(), Kind::Fenced);
}

#[test]
fn what_was_restored_from_yesterday_hands_out_nothing_old() {
    let (fake, sim) = (FakeCluster::new(), Sim::new(1));
    let mut a = fake.connect(Id([1; 16]), sim.shared(), TTL);
    won(a.take(&claim(1, 10, 0)).unwrap());
    let yesterday = fake.back_up();
    for nonce in 11..20 {
        a.resign().unwrap();
        won(a.take(&claim(1, nonce, 0)).unwrap());
    }
    fake.restore(&yesterday, TTL);
    assert!(is_lost(&a.renew().unwrap()), "the lease that stands there is an old one");
    fake.advance(TTL);
    let mut b = fake.connect(Id([2; 16]), sim.shared(), TTL);
    assert_eq!(won(b.take(&claim(2, 20, 10)).unwrap()).number, 11);

    let (store, sim) = (Fake::new(), Sim::new(1));
    let mut a = on(store.client(), &sim);
    won(a.take(&claim(1, 10, 0)).unwrap());
    let yesterday = store.deep_copy();
    for nonce in 11..20 {
        a.resign().unwrap();
        won(a.take(&claim(1, nonce, 0)).unwrap());
    }
    let mut b = on(yesterday.client(), &sim);
    look(&mut b);
    sim.advance(TTL);
    look(&mut b);
    assert_eq!(won(b.take(&claim(2, 20, 10)).unwrap()).number, 11);
}

#[test]
fn a_clock_that_stands_still_ends_no_lease() {
    let store = Fake::new();
    let (here, stuck) = (Sim::new(1), Sim::new(2));
    let (mut a, mut b) = (on(store.client(), &here), on(store.client(), &stuck));
    won(a.take(&claim(1, 10, 0)).unwrap());
    for round in 0..50 {
        look(&mut b);
        here.advance(TTL);
        held(b.take(&claim(2, round, 0)).unwrap());
    }
    // Its wall clock jumps, which says nothing either.
    stuck.jump(3_600_000_000_000);
    look(&mut b);
    held(b.take(&claim(2, 99, 0)).unwrap());
    stuck.advance(TTL);
    look(&mut b);
    assert_eq!(won(b.take(&claim(2, 100, 0)).unwrap()).number, 2);
}

/// A challenger whose ttl is set shorter than the holder's waits for the holder's.
#[test]
fn the_holders_ttl_counts() {
    let (store, sim) = (Fake::new(), Sim::new(1));
    let mut a = on(store.client(), &sim);
    won(a.take(&claim(1, 10, 0)).unwrap());
    let short = Duration::from_secs(3);
    let mut b = StoreCoordinator::new(Arc::new(store.client()), sim.shared(), short);
    look(&mut b);
    sim.advance(Duration::from_secs(9));
    look(&mut b);
    held(b.take(&claim(2, 20, 0)).unwrap());
    sim.advance(Duration::from_secs(2));
    look(&mut b);
    won(b.take(&claim(2, 20, 0)).unwrap());
}

#[test]
fn at_rest_a_look_is_one_request_and_a_renewal_two() {
    let (store, sim) = (Fake::new(), Sim::new(1));
    let (one, two) = (Arc::new(store.client()), Arc::new(store.client()));
    let mut a = StoreCoordinator::new(one.clone(), sim.shared(), TTL);
    let mut b = StoreCoordinator::new(two.clone(), sim.shared(), TTL);
    won(a.take(&claim(1, 10, 0)).unwrap());
    b.look().unwrap();
    let before = (one.calls(), two.calls());
    for _ in 0..9 {
        a.renew().unwrap();
        b.look().unwrap();
    }
    assert_eq!((one.calls() - before.0, two.calls() - before.1), (18, 9));
    a.resign().unwrap();
    look(&mut b);
    let before = two.calls();
    for _ in 0..8 {
        assert_eq!(b.look().unwrap().holder, None);
    }
    assert_eq!(two.calls() - before, 8, "a seat that stays free costs no more");
}

/// The store fails at each call of a take in turn, in each way; another node tries meanwhile.
#[test]
fn a_take_over_a_failing_store_is_found_out_and_never_won_twice() {
    let mut failed = 0;
    for fault in StoreFault::ALL {
        for call in 1..60 {
            let (store, here, there) = (Fake::new(), Sim::new(1), Sim::new(2));
            let mut first = on(store.client(), &there);
            won(first.take(&claim(3, 5, 0)).unwrap());
            first.degrade(Some(LogByte(77))).unwrap();
            first.resign().unwrap();
            let (mut a, mut b) =
                (on(store.failing(call, fault), &here), on(store.client(), &there));
            let mine = claim(1, 10, 2);
            let mut take = a.take(&mine);
            if take.is_err() {
                failed += 1;
                // Somebody else comes first, half of the time.
                look(&mut b);
                there.advance(TTL * 2);
                look(&mut b);
                if call % 2 == 0 {
                    let _ = b.take(&claim(2, 20, 2)).unwrap();
                }
                let killed = matches!(fault, StoreFault::KilledBefore | StoreFault::KilledAfter);
                if killed {
                    a = on(store.client(), &here);
                }
                store.settle();
                take = a.take(&mine);
            }
            let outcome = take.unwrap_or_else(|e| panic!("{fault:?} at call {call}: {e}"));
            let theirs = b.renew().unwrap();
            // The fault may be due only now.
            let renewed = a.renew().or_else(|_| a.renew()).or_else(|_| {
                a = on(store.client(), &here);
                a.take(&mine).and_then(|_| a.renew())
            });
            let lost = is_lost(&renewed.unwrap());
            match outcome {
                Take::Won(epoch) => {
                    assert!(epoch.number > 2, "{epoch}");
                    assert!(is_lost(&theirs), "{fault:?} at call {call}: won by two");
                    assert!(!lost, "{fault:?} at call {call}");
                }
                Take::Held(seat) => {
                    assert!(!is_lost(&theirs), "{fault:?} at call {call}: won by nobody: {seat:?}");
                    assert!(lost);
                }
            }
            let seat = on(store.client(), &here).look().unwrap();
            let spell =
                seat.degraded.unwrap_or_else(|| panic!("{fault:?} at call {call}: forgotten"));
            assert_eq!((spell.epoch.nonce, spell.from), (5, LogByte(77)));
            // Each number has one owner, once.
            let created = store.created();
            let mut epochs: Vec<_> =
                created.iter().filter(|(name, _)| matches!(name, ObjectName::Epoch(_))).collect();
            let all = epochs.len();
            epochs.sort();
            epochs.dedup_by_key(|(name, _)| *name);
            assert_eq!(epochs.len(), all, "{fault:?} at call {call}");
        }
    }
    assert!(failed > 50, "only {failed} takes failed: the faults miss");
}

/// A client whose calls take turns with another's from some moment on.
#[derive(Debug)]
struct Turning {
    before: FakeStore,
    then: OnceLock<FakeStore>,
}

impl Turning {
    fn new(store: &Fake) -> Arc<Self> {
        Arc::new(Turning { before: store.client(), then: OnceLock::new() })
    }

    fn now(&self) -> &FakeStore {
        self.then.get().unwrap_or(&self.before)
    }
}

impl Store for Turning {
    fn place(&self) -> String {
        self.now().place()
    }

    fn get_range(&self, name: &ObjectName, from: u64, len: usize) -> Result<Option<Vec<u8>>> {
        self.now().get_range(name, from, len)
    }

    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.now().put(name, bytes)
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create {
        self.now().create(name, bytes)
    }

    fn list(&self, prefix: Prefix) -> Result<Vec<(ObjectName, u64)>> {
        self.now().list(prefix)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.now().delete(name)
    }
}

/// A mark and a takeover at once: whichever comes first, nobody is told that a spell is registered
/// that the next leader does not see.
#[test]
fn a_spell_that_is_registered_is_seen_by_whoever_takes_over_meanwhile() {
    let (mut both, mut refused, mut kept) = (0, 0, 0);
    for seed in 0..1000 {
        let (store, here, there) = (Fake::new(), Sim::new(1), Sim::new(2));
        let (one, two) = (Turning::new(&store), Turning::new(&store));
        let mut a = StoreCoordinator::new(one.clone(), here.shared(), TTL);
        let mut b = StoreCoordinator::new(two.clone(), there.shared(), TTL);
        // The store is tried at the first take, before the race.
        won(a.take(&claim(1, 10, 0)).unwrap());
        held(b.take(&claim(2, 20, 0)).unwrap());
        look(&mut b);
        there.advance(TTL);
        let turns = Turns::new(seed, 2);
        one.then.set(store.client().in_turn(&turns)).unwrap();
        two.then.set(store.client().in_turn(&turns)).unwrap();
        let (marked, take) = std::thread::scope(|scope| {
            let marks = scope.spawn(move || {
                // Somewhere in the other's steps, and then it is over with its turns.
                for _ in 0..seed % 5 {
                    let _ = a.look();
                }
                let marked = a.degrade(Some(LogByte(5)));
                drop((a, one));
                marked
            });
            let takes = scope.spawn(move || {
                let take = b.take(&claim(2, 21, 0)).unwrap();
                drop((b, two));
                take
            });
            (marks.join().unwrap(), takes.join().unwrap())
        });
        match (marked, take) {
            (Ok(()), Take::Won(_)) => {
                both += 1;
                let seat = on(store.client(), &here).look().unwrap();
                let seen = seat.degraded.map(|spell| spell.from);
                assert_eq!(seen, Some(LogByte(5)), "seed {seed}: registered, and not seen");
            }
            (Ok(()), Take::Held(_)) => kept += 1,
            (Err(error), _) => {
                refused += 1;
                assert_eq!(error.kind(), Kind::Fenced, "{error}");
            }
        }
    }
    assert!(
        both > 20 && refused > 20 && kept > 20,
        "{both} both, {refused} refused, {kept} kept: the race is none"
    );
}

#[test]
fn a_store_that_lets_both_win_elects_nobody() {
    let (store, sim) = (Fake::new(), Sim::new(1));
    store.let_both_win();
    let error = on(store.client(), &sim).take(&claim(1, 10, 0)).unwrap_err();
    assert_eq!(error.kind(), Kind::StoreNotAtomic, "{error}");
}

/// A node that leads without a coordinator claims its epoch when it publishes.
#[test]
fn a_number_that_was_published_without_a_coordinator_counts() {
    let (store, sim) = (Fake::new(), Sim::new(1));
    let mut a = on(store.client(), &sim);
    won(a.take(&claim(1, 10, 0)).unwrap());
    let publishes = |number, node: u8| {
        let epoch = Epoch { number, nonce: 77 };
        let owner = Owner { log: Id([9; 16]), epoch, node: Id([node; 16]) };
        owner.claim(&store.client()).unwrap();
    };
    publishes(2, 7);
    let Lease::Lost(seat) = a.renew().unwrap() else { panic!("held by two") };
    let holder = seat.holder.unwrap();
    assert_eq!((holder.node, holder.epoch.number, &*holder.name), (Id([7; 16]), 2, ""));
    // Far ahead of what anybody took: found before the seat is called free.
    publishes(9, 7);
    let mut b = on(store.client(), &sim);
    held(b.take(&claim(2, 20, 0)).unwrap());
    look(&mut b);
    sim.advance(TTL);
    look(&mut b);
    assert_eq!(won(b.take(&claim(2, 20, 0)).unwrap()).number, 10);
    // And what cannot be filled in is said, not waited for.
    b.resign().unwrap();
    let error = b.take(&claim(2, 21, 1 << 40)).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput);
    assert!(error.to_string().contains("archive push"), "{error}");
}

#[test]
fn damage_is_named_with_its_place() {
    let (store, sim) = (Fake::new(), Sim::new(1));
    won(on(store.client(), &sim).take(&claim(1, 10, 0)).unwrap());
    for name in [ObjectName::Lease(1), ObjectName::Epoch(1), ObjectName::Paused] {
        let good = store.object(&name);
        for bad in [b"".to_vec(), b"tidelog lease 1\ncrc 00000000\n".to_vec(), vec![b'x'; 9000]] {
            store.plant(name, Some(bad));
            let error = on(store.client(), &sim).look().unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{error}");
            assert!(error.to_string().contains(&name.to_string()), "{error}");
        }
        store.plant(name, good);
    }
    on(store.client(), &sim).look().unwrap();
    let other: &dyn Store = &store.client();
    let moved = other.get(&ObjectName::Lease(1), 4096).unwrap().unwrap();
    store.plant(ObjectName::Lease(1), None);
    store.plant(ObjectName::Lease(2), Some(moved));
    let owner = Owner { log: Id([9; 16]), epoch: Epoch { number: 2, nonce: 1 }, node: Id([1; 16]) };
    owner.claim(other).unwrap();
    let error = on(store.client(), &sim).look().unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "a lease under another number's name: {error}");
}
