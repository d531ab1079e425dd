//! Every coordinator keeps the same promises: a fake one, object stores, etcd itself.

pub(crate) mod etcd;
mod faults;

use std::sync::{Barrier, Mutex};
use std::time::Duration;

use tidelog::fs::sim::Sim;
use tidelog::replica::coordinator::fake::FakeCluster;
use tidelog::replica::coordinator::{
    Claim, Coordinator, Degraded, Lease, Member, Seat, StoreCoordinator, Take,
};
use tidelog::ship::archive::{LocalStore, Store};
use tidelog::{Epoch, Id, Kind, LogByte};

/// A place where clusters are made, each untouched by the others.
pub(crate) trait World {
    fn cluster(&self) -> Box<dyn Cluster>;
}

pub(crate) trait Cluster: Sync {
    /// A node's connection, with a clock of its own where clocks are simulated.
    fn node(&self, node: u8) -> Box<dyn Coordinator>;
    /// Lets time go by, a little more than that.
    fn pass(&self, time: Duration);
}

pub(crate) fn claim(node: u8, nonce: u64, seen: u64) -> Claim {
    Claim {
        log: Id([9; 16]),
        node: Id([node; 16]),
        name: format!("node {node}"),
        address: format!("http://10.0.0.{node}:7400"),
        nonce,
        seen,
    }
}

pub(crate) fn won(take: Take) -> Epoch {
    match take {
        Take::Won(epoch) => epoch,
        Take::Held(seat) => panic!("expected to win, found {seat:?}"),
    }
}

pub(crate) fn held(take: Take) -> Seat {
    match take {
        Take::Held(seat) => seat,
        Take::Won(epoch) => panic!("expected the seat to be held, won {epoch}"),
    }
}

pub(crate) fn is_lost(lease: &Lease) -> bool {
    matches!(lease, Lease::Lost(_))
}

/// Lets a lease go by that nobody renews, while a node watches it.
pub(crate) fn wait_out(cluster: &dyn Cluster, watching: &mut dyn Coordinator) -> Seat {
    let look =
        |watching: &mut dyn Coordinator| (0..6).map(|_| watching.look().unwrap()).last().unwrap();
    look(watching);
    cluster.pass(watching.ttl());
    look(watching)
}

/// Everything that is promised of a coordinator.
pub(crate) fn conforms(world: &dyn World) {
    one_of_sixteen_wins_and_numbers_only_rise(&*world.cluster());
    a_seat_is_held_while_it_is_renewed_and_free_when_its_time_is_over(&*world.cluster());
    what_was_seen_is_passed_by_and_the_same_claim_wins_once(&*world.cluster());
    a_seat_is_handed_over_at_once(&*world.cluster());
    a_degraded_spell_outlives_its_leader(&*world.cluster());
    pauses_members_and_the_log_are_seen_by_all(&*world.cluster());
}

fn one_of_sixteen_wins_and_numbers_only_rise(cluster: &dyn Cluster) {
    let mut nodes: Vec<_> = (0..16).map(|node| cluster.node(node)).collect();
    let mut last = 0;
    for round in 0..4 {
        let barrier = Barrier::new(nodes.len());
        let takes: Vec<Take> = std::thread::scope(|scope| {
            let racers = nodes.iter_mut().zip(0u8..).map(|(coordinator, node)| {
                let (barrier, nonce) = (&barrier, round * 100 + u64::from(node));
                scope.spawn(move || {
                    barrier.wait();
                    coordinator.take(&claim(node, nonce, 0)).unwrap()
                })
            });
            let racers: Vec<_> = racers.collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let winners: Vec<usize> =
            (0..16).filter(|node| matches!(takes[*node], Take::Won(_))).collect();
        assert_eq!(winners.len(), 1, "{takes:?}");
        let winner = winners[0];
        let epoch = won(takes[winner].clone());
        assert!(epoch.number > last, "{epoch} after {last}");
        last = epoch.number;
        for (node, take) in takes.into_iter().enumerate().filter(|(node, _)| *node != winner) {
            let seat = held(take);
            assert_eq!(
                seat.holder.as_ref().map(|holder| holder.epoch),
                Some(epoch),
                "{node}: {seat:?}"
            );
            assert_eq!(seat.number, last);
        }
        let seat = nodes[winner].look().unwrap();
        let holder = seat.holder.clone().unwrap();
        let expected = claim(winner as u8, epoch.nonce, 0);
        assert_eq!(
            (holder.node, holder.name, holder.address),
            (expected.node, expected.name, expected.address)
        );
        assert!(seat.taken.is_some());
        nodes[winner].resign().unwrap();
        let after = cluster.node(99).look().unwrap();
        assert_eq!((after.holder, after.last.map(|last| last.epoch)), (None, Some(epoch)));
        assert_eq!(after.number, last);
    }
}

fn a_seat_is_held_while_it_is_renewed_and_free_when_its_time_is_over(cluster: &dyn Cluster) {
    let (mut a, mut b) = (cluster.node(1), cluster.node(2));
    assert_eq!(a.look().unwrap(), Seat::default());
    assert!(is_lost(&a.renew().unwrap()), "nothing was taken");
    assert_eq!(a.degrade(Some(LogByte(5))).unwrap_err().kind(), Kind::Fenced);
    a.resign().unwrap();
    let first = won(a.take(&claim(1, 10, 0)).unwrap());
    assert_eq!(first, Epoch { number: 1, nonce: 10 });
    let mut until = 0;
    for _ in 0..4 {
        for _ in 0..4 {
            assert!(b.look().unwrap().holder.is_some(), "held while it is renewed");
        }
        assert_eq!(held(b.take(&claim(2, 20, 0)).unwrap()).number, 1);
        let Lease::Held { until: later } = a.renew().unwrap() else { panic!("lost") };
        assert!(later > until, "{later} after {until}");
        until = later;
        cluster.pass(a.ttl() / 5);
    }
    // However often one looks: as long as no time goes by, nothing is over.
    a.renew().unwrap();
    for _ in 0..12 {
        assert!(b.look().unwrap().holder.is_some());
    }
    held(b.take(&claim(2, 21, 0)).unwrap());

    let seat = wait_out(cluster, &mut *b);
    assert_eq!((seat.holder, seat.last.map(|last| last.epoch)), (None, Some(first)));
    let second = won(b.take(&claim(2, 22, 0)).unwrap());
    assert_eq!(second, Epoch { number: 2, nonce: 22 });
    // The first one wakes up.
    let error = a.degrade(Some(LogByte(7))).unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced, "{error}");
    assert_eq!(held(a.hand_over(&claim(3, 30, 0)).unwrap()).holder.unwrap().epoch, second);
    let Lease::Lost(seat) = a.renew().unwrap() else { panic!("held by two") };
    assert_eq!(seat.holder.unwrap().epoch, second);
    a.resign().unwrap();
    assert!(!is_lost(&b.renew().unwrap()), "what is not one's own is not given up");
    assert_eq!(b.look().unwrap().degraded, None, "what was refused was not registered");
}

fn what_was_seen_is_passed_by_and_the_same_claim_wins_once(cluster: &dyn Cluster) {
    let (mut a, mut b) = (cluster.node(1), cluster.node(2));
    let mine = claim(1, 10, 40);
    let epoch = won(a.take(&mine).unwrap());
    assert_eq!(epoch, Epoch { number: 41, nonce: 10 });
    // As after an answer that was lost, by another connection of a process that began anew.
    assert_eq!(won(a.take(&mine).unwrap()), epoch);
    let mut again = cluster.node(1);
    assert_eq!(won(again.take(&mine).unwrap()), epoch);
    assert!(!is_lost(&again.renew().unwrap()));
    assert_eq!(
        held(again.take(&claim(1, 11, 0)).unwrap()).number,
        41,
        "another try of the same node"
    );
    again.resign().unwrap();
    assert_eq!(won(b.take(&claim(2, 20, 7)).unwrap()).number, 42);
    b.resign().unwrap();
    let error = a.take(&Claim { log: Id([8; 16]), ..mine.clone() }).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongLog, "{error}");
    let error = a.take(&claim(1, 12, u64::MAX)).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{error}");
    let error = a.take(&Claim { name: "two\nlines".into(), ..mine }).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidInput, "{error}");
}

fn a_seat_is_handed_over_at_once(cluster: &dyn Cluster) {
    let (mut a, mut b, mut c) = (cluster.node(1), cluster.node(2), cluster.node(3));
    won(a.take(&claim(1, 10, 0)).unwrap());
    a.degrade(Some(LogByte(5))).unwrap();
    let to = claim(2, 20, 0);
    let epoch = won(a.hand_over(&to).unwrap());
    assert_eq!(epoch, Epoch { number: 2, nonce: 20 });
    assert!(is_lost(&a.renew().unwrap()));
    assert_eq!(a.degrade(None).unwrap_err().kind(), Kind::Fenced);
    assert_eq!(won(a.hand_over(&to).unwrap()), epoch, "asked again: it is done");
    let seat = held(c.take(&claim(3, 30, 0)).unwrap());
    let holder = seat.holder.unwrap();
    assert_eq!((holder.node, holder.name, holder.epoch), (to.node, to.name.clone(), epoch));
    assert_eq!(won(b.take(&to).unwrap()), epoch);
    assert!(!is_lost(&b.renew().unwrap()));
    assert_eq!(b.look().unwrap().degraded.unwrap().epoch.number, 1, "the spell went along");
    // To one who has seen more.
    assert_eq!(won(b.hand_over(&claim(3, 31, 9)).unwrap()).number, 10);
    // Who never comes: its seat ends as any other does.
    assert_eq!(wait_out(cluster, &mut *b).holder, None);
    assert_eq!(won(b.take(&claim(2, 21, 0)).unwrap()).number, 11);
}

fn a_degraded_spell_outlives_its_leader(cluster: &dyn Cluster) {
    let (mut a, mut b) = (cluster.node(1), cluster.node(2));
    let epoch = won(a.take(&claim(1, 10, 0)).unwrap());
    a.degrade(Some(LogByte(4096))).unwrap();
    let spell = Some(Degraded { epoch, from: LogByte(4096) });
    a.renew().unwrap();
    assert_eq!(b.look().unwrap().degraded, spell);
    a.degrade(None).unwrap();
    assert_eq!(cluster.node(3).look().unwrap().degraded, None);
    a.degrade(Some(LogByte(4096))).unwrap();
    drop(a);
    assert_eq!(wait_out(cluster, &mut *b).degraded, spell);
    won(b.take(&claim(2, 20, 0)).unwrap());
    assert_eq!(b.look().unwrap().degraded, spell);
    b.renew().unwrap();
    b.resign().unwrap();
    let mut c = cluster.node(3);
    assert_eq!(c.look().unwrap().degraded, spell, "until a leader says that it is over");
    won(c.take(&claim(3, 30, 0)).unwrap());
    c.degrade(None).unwrap();
    assert_eq!(cluster.node(4).look().unwrap().degraded, None);
}

fn pauses_members_and_the_log_are_seen_by_all(cluster: &dyn Cluster) {
    let (mut a, mut b) = (cluster.node(1), cluster.node(2));
    assert!(a.elects());
    assert_eq!(a.claim_log(Id([9; 16])).unwrap(), Id([9; 16]));
    assert_eq!(b.claim_log(Id([8; 16])).unwrap(), Id([9; 16]), "the first name stays");
    assert_eq!(b.look().unwrap().log, Some(Id([9; 16])));
    assert_eq!(b.look().unwrap().number, 0, "no number is used up by it");
    let error = b.take(&Claim { log: Id([8; 16]), ..claim(2, 1, 0) }).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongLog);
    a.pause(true).unwrap();
    assert!(cluster.node(3).look().unwrap().paused);
    assert!((0..4).any(|_| b.look().unwrap().paused), "seen within a few looks");
    won(b.take(&claim(2, 20, 0)).unwrap());
    assert_eq!(a.claim_log(Id([8; 16])).unwrap(), Id([9; 16]));
    b.pause(false).unwrap();
    assert!(!cluster.node(3).look().unwrap().paused);
    assert_eq!(a.members().unwrap(), []);
    let member = |node: u8, address: &str| Member {
        node: Id([node; 16]),
        name: format!("node {node}"),
        address: address.into(),
    };
    b.join(&member(2, "http://b:1")).unwrap();
    a.join(&member(1, "http://a:1")).unwrap();
    a.join(&member(1, "http://a:2")).unwrap();
    let all = [member(1, "http://a:2"), member(2, "http://b:1")];
    assert_eq!(b.members().unwrap(), all);
    assert_eq!(b.join(&member(1, "a\nb")).unwrap_err().kind(), Kind::InvalidInput);
}

pub(crate) const TTL: Duration = Duration::from_secs(10);

struct Fake;
struct FakeOne(FakeCluster, Sim);

impl World for Fake {
    fn cluster(&self) -> Box<dyn Cluster> {
        Box::new(FakeOne(FakeCluster::new(), Sim::new(1)))
    }
}

impl Cluster for FakeOne {
    fn node(&self, node: u8) -> Box<dyn Coordinator> {
        Box::new(self.0.connect(Id([node; 16]), self.1.shared(), TTL))
    }

    fn pass(&self, time: Duration) {
        let time = time + Duration::from_millis(100);
        self.0.advance(time);
        self.1.advance(time);
    }
}

/// Clusters in stores; every node has a clock of its own, begun at another time.
pub(crate) struct Stores<F>(pub(crate) F);

struct StoreOne {
    open: Box<dyn Fn() -> std::sync::Arc<dyn Store> + Sync>,
    clocks: Mutex<Vec<Sim>>,
}

impl<F, O> World for Stores<F>
where
    F: Fn() -> O,
    O: Fn() -> std::sync::Arc<dyn Store> + Sync + 'static,
{
    fn cluster(&self) -> Box<dyn Cluster> {
        Box::new(StoreOne { open: Box::new((self.0)()), clocks: Mutex::default() })
    }
}

impl Cluster for StoreOne {
    fn node(&self, node: u8) -> Box<dyn Coordinator> {
        let mut clocks = self.clocks.lock().unwrap();
        let clock = Sim::new(1000 * u64::from(node) + clocks.len() as u64);
        clock.advance(Duration::from_secs(u64::from(node) * 777));
        clock.jump(i64::from(node) * 3_600_000_000_000);
        clocks.push(clock.clone());
        Box::new(StoreCoordinator::new((self.open)(), clock.shared(), TTL))
    }

    fn pass(&self, time: Duration) {
        for clock in &*self.clocks.lock().unwrap() {
            clock.advance(time + Duration::from_millis(100));
        }
    }
}

#[test]
fn the_fake_coordinator_conforms() {
    conforms(&Fake);
}

#[test]
fn a_store_in_memory_conforms() {
    conforms(&Stores(|| {
        let fake = tidelog::ship::archive::fake::Fake::new();
        move || std::sync::Arc::new(fake.client()) as _
    }));
}

#[test]
fn a_store_in_a_directory_conforms() {
    let root = tempfile::tempdir().unwrap();
    let next = std::cell::Cell::new(0);
    conforms(&Stores(|| {
        next.set(next.get() + 1);
        let at = root.path().join(format!("archive{}", next.get()));
        move || std::sync::Arc::new(LocalStore::at(&at)) as _
    }));
}

#[test]
fn a_real_s3_server_conforms() {
    let Some(weed) = crate::archive::s3::Weed::find() else { return };
    let settings = weed.settings();
    let next = std::cell::Cell::new(0);
    conforms(&Stores(|| {
        next.set(next.get() + 1);
        let (url, settings) = (format!("s3://tide/seat{}", next.get()), settings.clone());
        move || tidelog::ship::archive::open_store(&url, &settings).unwrap()
    }));
}
