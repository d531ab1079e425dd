//! Promotions of nodes that have an archive: what an old leader publishes meanwhile, or afterwards, must not close it to
//! the new one.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::error::{Error, Kind, Result};
use crate::frame::{FrameKind, Mode, SyncSet};
use crate::fs::sim::Sim;
use crate::log::files::SetLine;
use crate::log::{Log, MIN_SEGMENT_BYTES, Options};
use crate::position::{Epoch, Id, LogByte, Offset};
use crate::record::Record;
use crate::replica::Follower;
use crate::ship::archive::fake::Fake;
use crate::ship::archive::{
    Create, ObjectName, Prefix, PublishOptions, Publisher, Pushed, Store, load,
};
use crate::ship::{Directory, Source};
use crate::table::Table;

const NODE: &str = "/node";
const BOUNDED: Mode = Mode::Bounded { k: 1, bytes: 1 << 20, within: Duration::from_secs(5) };
const SEMI: Mode = Mode::Semi { k: 1, timeout: Duration::from_secs(1) };

fn options(sim: &Sim) -> Options {
    Log::options().fs(sim.shared()).worker(false).segment_bytes(MIN_SEGMENT_BYTES)
}

fn source(sim: &Sim) -> Box<dyn Source> {
    Box::new(Directory::open_in(sim.shared(), NODE).unwrap())
}

fn append(sim: &Sim, log: &Log, what: &str) {
    for i in 0..5 {
        sim.advance(Duration::from_millis(6));
        log.append(&Record::put(format!("{what} {i}").as_bytes(), b"value")).unwrap();
    }
}

/// The old leader has `alone` besides what the candidate copied; as yet it published all that it had before that, or
/// nothing.
struct Cluster {
    old: Sim,
    end: (LogByte, Offset),
    candidate: Follower,
    new: Sim,
    fake: Fake,
}

fn cluster(mode: Mode, published: bool) -> Cluster {
    let (old, new, fake) = (Sim::new(1), Sim::new(2), Fake::new());
    let log = options(&old).create(true).open(NODE).unwrap();
    let candidate = options(&new);
    let follower = |options| {
        let rows = Table::options().persist(false);
        Follower::open_from(options, rows, Path::new(NODE), source(&old)).unwrap()
    };
    append(&old, &log, "before");
    let copied = follower(candidate.clone());
    let members = [log.node(), copied.node()];
    copied.close().unwrap();
    if mode != Mode::Async {
        let (set, home) = (SyncSet::new(mode, members).unwrap(), log.home());
        let end = home.append_control(FrameKind::SyncSet, &set.encode()).unwrap();
        home.sync_to(end).unwrap();
        home.note_sets(&[SetLine { end, there: true, set }], None).unwrap();
    }
    append(&old, &log, "shared");
    log.close().unwrap();
    let mut candidate = follower(candidate);
    candidate.catch_up().unwrap();
    let mut cluster = Cluster { old, end: (LogByte(0), Offset(0)), candidate, new, fake };
    cluster.measure();
    if published {
        cluster.old_publishes().unwrap();
    }
    let log = options(&cluster.old).open(NODE).unwrap();
    append(&cluster.old, &log, "alone");
    log.close().unwrap();
    cluster.measure();
    cluster
}

fn publisher(sim: &Sim, fake: &Fake) -> Result<Publisher> {
    let options = PublishOptions { probe: false, ..PublishOptions::default() };
    Publisher::open(Arc::new(fake.client()), Directory::open_in(sim.shared(), NODE)?, options)
}

impl Cluster {
    fn measure(&mut self) {
        let log = options(&self.old).read_only(true).open(NODE).unwrap();
        let at = log.durable_position();
        self.end = (at.log_byte, at.offset);
    }

    fn old_publishes(&self) -> Result<Pushed> {
        publisher(&self.old, &self.fake)?.push_to(self.end)
    }

    /// The candidate wins the next epoch, leads by it, and publishes what it has; where that ends.
    fn promoted(mut self, store: Arc<dyn Store>) -> Self {
        let epoch = Epoch { number: 2, nonce: 22 };
        let mut alone = Alone(Some(store));
        let (log, node) = (self.candidate.log().id(), self.candidate.node());
        let ask = Ask { log, node, name: String::new(), address: None, epoch: None };
        let mut promotion = Promotion::begin(&self.candidate, epoch, &ask).unwrap();
        loop {
            match promotion.step(&mut self.candidate, &mut alone).unwrap() {
                Stage::Going => {}
                Stage::Ready => break,
                Stage::Short(why) => panic!("{why}"),
            }
        }
        self
    }

    /// Leads by the epoch that was won; where its log ends then, and what becomes of publishing it.
    fn leads(self) -> ((LogByte, Offset), Result<Pushed>, Fake) {
        self.candidate.close().unwrap();
        let log = options(&self.new).lead(Epoch { number: 2, nonce: 22 }).open(NODE).unwrap();
        append(&self.new, &log, "later");
        let at = log.durable_position();
        let end = (at.log_byte, at.offset);
        let pushed = publisher(&self.new, &self.fake).and_then(|mut new| new.push_to(end));
        log.close().unwrap();
        (end, pushed, self.fake)
    }
}

/// A candidate that reaches nobody, and perhaps an archive.
struct Alone(Option<Arc<dyn Store>>);

impl Peers for Alone {
    fn known(&self) -> Vec<Peer> {
        Vec::new()
    }
    fn ask(&mut self, peer: &Peer, _: &Ask) -> Result<Standing> {
        Err(Error::new(Kind::Io, format!("{} is away", peer.address)))
    }
    fn source(&mut self, peer: &Peer) -> Result<Box<dyn Source>> {
        Err(Error::new(Kind::Io, format!("{} is away", peer.address)))
    }
    fn archive(&mut self) -> Option<Arc<dyn Store>> {
        self.0.clone()
    }
}

/// Nothing was fenced where nothing was published yet, and under `bounded` and `semi` nowhere: an old leader that
/// published before the new one did closed the archive to it, and under `async` kept it from taking appends.
#[test]
fn an_old_leader_that_publishes_after_a_promotion_does_not_close_the_archive_to_the_new_one() {
    for mode in [Mode::Async, BOUNDED, SEMI] {
        for published in [false, true] {
            let what = format!("{mode}, published before: {published}");
            let cluster = cluster(mode, published);
            let store = Arc::new(cluster.fake.client());
            let cluster = cluster.promoted(store);
            let zombie = cluster.old_publishes().unwrap_err();
            assert_eq!(zombie.kind(), Kind::Fenced, "{what}: {zombie}");
            let (end, pushed, fake) = cluster.leads();
            pushed.unwrap_or_else(|e| panic!("{what}: {e}"));
            let state = load(&fake.client()).unwrap();
            assert_eq!((state.end, state.end_offset), end, "{what}");
            assert_eq!(end.1, Offset(15), "{what}: what it alone had is gone");
        }
    }
}

/// A store in which the old leader is quicker, once.
#[derive(Debug)]
struct Quicker {
    store: crate::ship::archive::fake::FakeStore,
    old: Mutex<Option<(Publisher, (LogByte, Offset))>>,
}

impl Store for Quicker {
    fn place(&self) -> String {
        self.store.place()
    }
    fn get_range(&self, name: &ObjectName, from: u64, len: usize) -> Result<Option<Vec<u8>>> {
        self.store.get_range(name, from, len)
    }
    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.store.put(name, bytes)
    }
    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create {
        if let ObjectName::Log(_) = name
            && let Some((mut old, end)) = self.old.lock().unwrap().take()
        {
            old.push_to(end).unwrap();
        }
        self.store.create(name, bytes)
    }
    fn list(&self, prefix: Prefix) -> Result<Vec<(ObjectName, u64)>> {
        self.store.list(prefix)
    }
    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.store.delete(name)
    }
}

#[test]
fn what_an_old_leader_publishes_just_before_the_fence_is_taken_over() {
    for mode in [Mode::Async, BOUNDED, SEMI] {
        for published in [false, true] {
            let what = format!("{mode}, published before: {published}");
            let cluster = cluster(mode, published);
            let old = publisher(&cluster.old, &cluster.fake).unwrap();
            let old = Mutex::new(Some((old, cluster.end)));
            let store = Arc::new(Quicker { store: cluster.fake.client(), old });
            let (end, pushed, fake) = cluster.promoted(store).leads();
            pushed.unwrap_or_else(|e| panic!("{what}: {e}"));
            let state = load(&fake.client()).unwrap();
            assert_eq!((state.end, state.end_offset), end, "{what}");
            assert_eq!(end.1, Offset(20), "{what}: what was published is lost");
        }
    }
}

/// Where the archive does not decide what was acknowledged it keeps nobody from leading.
#[test]
fn an_archive_that_does_not_answer_holds_up_async_alone() {
    for mode in [BOUNDED, SEMI] {
        for published in [false, true] {
            let cluster = cluster(mode, published);
            let away =
                cluster.fake.failing(1, crate::ship::archive::fake::StoreFault::KilledBefore);
            cluster.promoted(Arc::new(away));
        }
    }
    let mut cluster = cluster(Mode::Async, true);
    let away = cluster.fake.failing(1, crate::ship::archive::fake::StoreFault::KilledBefore);
    let (log, node) = (cluster.candidate.log().id(), cluster.candidate.node());
    let ask = Ask { log, node, name: String::new(), address: None, epoch: None };
    let epoch = Epoch { number: 2, nonce: 22 };
    let mut promotion = Promotion::begin(&cluster.candidate, epoch, &ask).unwrap();
    let step = promotion.step(&mut cluster.candidate, &mut Alone(Some(Arc::new(away)))).unwrap();
    assert!(matches!(step, Stage::Short(_)), "{step:?}");
}

/// Somebody leads by a later epoch: whatever the mode, whoever finds that in the archive does not.
#[test]
fn a_candidate_whose_archive_knows_a_later_epoch_does_not_lead() {
    for mode in [Mode::Async, BOUNDED, SEMI] {
        let mut cluster = cluster(mode, true);
        let fs = cluster.new.shared();
        let (log, node) = (cluster.candidate.log().id(), cluster.candidate.node());
        let later = crate::ship::archive::Owner {
            log,
            epoch: Epoch { number: 3, nonce: 33 },
            node: Id([9; 16]),
        };
        let store: Arc<dyn Store> = Arc::new(cluster.fake.client());
        crate::ship::archive::take_over(&*store, &later, &fs, (LogByte(0), Offset(0))).unwrap();
        let ask = Ask { log, node, name: String::new(), address: None, epoch: None };
        let epoch = Epoch { number: 2, nonce: 22 };
        let mut promotion = Promotion::begin(&cluster.candidate, epoch, &ask).unwrap();
        let error = promotion.step(&mut cluster.candidate, &mut Alone(Some(store))).unwrap_err();
        assert_eq!(error.kind(), Kind::Fenced, "{mode}: {error}");
    }
}
