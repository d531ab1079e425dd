//! Followers that begin with a snapshot of a node that runs: over HTTP, through a bad link, when the
//! leader dies, when it has dropped what they need.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tidelog::log::Retention;
use tidelog::ship::{Http, Source};
use tidelog::table::Beginning;
use tidelog::{Follower, Kind, Log, Offset};

use super::*;
use crate::proxy::{Faults, Proxy};

/// Drops all but the newest segment.
fn drop_old(leader: &Leader) {
    leader.server().table().checkpoint().unwrap();
    let policy =
        Retention { keep_bytes: Some(1), table_is_only_copy: true, ..Retention::default() };
    // The worker seals what was rolled in its own time.
    until("a segment is dropped", || {
        leader.server().log().retain(&policy).unwrap().start > Offset(0)
    });
}

fn applied(leader: &Leader) {
    let end = leader.server().log().durable_end();
    until("the leader has applied it", || {
        leader.server().table().applied().is_some_and(|position| position.offset >= end)
    });
}

fn pull(url: &str, copy: &Path, begin: Beginning) -> tidelog::Result<Follower> {
    let source = Http::open(url, Credentials::default()).unwrap();
    Follower::open_with(Log::options(), Table::options().begin(begin), copy, source)
}

/// The same rows at the same offset.
fn agree(leader: &Leader, follower: &mut Follower) {
    follower.catch_up().unwrap();
    applied(leader);
    assert_eq!(follower.end(), leader.server().log().durable_end());
    let theirs = leader.server().table().digest().unwrap();
    assert_eq!(follower.table().digest().unwrap(), theirs);
}

#[test]
fn a_follower_begins_with_a_snapshot_of_a_running_leader_and_follows_on() {
    let mut leader = Leader::new();
    leader.append(120, 2000);
    applied(&leader);
    drop_old(&leader);
    let copy = leader.path("copy");
    let url = leader.server().url().to_owned();
    let error = pull(&url, &copy, Beginning::Log).unwrap_err();
    assert_eq!(error.kind(), Kind::Gone, "{error}");
    let mut follower = pull(&url, &copy, Beginning::Cheaper).unwrap();
    assert!(follower.report().snapshot.is_some());
    assert!(follower.log().start() > Offset(0));
    agree(&leader, &mut follower);
    for _ in 0..3 {
        leader.append(60, 2000);
        agree(&leader, &mut follower);
    }
    let node = follower.node();
    // While it was on its way the leader kept the log for it.
    assert!(leader.server().log().slots().unwrap().iter().any(|slot| slot.claim.node == node));
    follower.close().unwrap();
    let mut follower = pull(&url, &copy, Beginning::Cheaper).unwrap();
    assert_eq!((follower.node(), follower.report().snapshot), (node, None));
    agree(&leader, &mut follower);
    follower.close().unwrap();

    // Another one begins with what this follower's directory holds.
    let source = tidelog::ship::Directory::open(&copy).unwrap();
    let mut third = Follower::open(Log::options(), leader.path("third"), source).unwrap();
    assert!(third.report().snapshot.is_some());
    agree(&leader, &mut third);
}

/// A node as a source at which something happens before each run is read.
struct Meanwhile<F> {
    node: Http,
    work: F,
}

impl<F> std::fmt::Debug for Meanwhile<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.node.fmt(f)
    }
}

impl<F: FnMut() + Send> Source for Meanwhile<F> {
    fn place(&self) -> String {
        self.node.place()
    }
    fn inner(&self) -> Option<&dyn Source> {
        Some(&self.node)
    }
    fn inner_mut(&mut self) -> Option<&mut dyn Source> {
        Some(&mut self.node)
    }
    fn file(&self, segment: tidelog::segment::SegmentName) -> std::path::PathBuf {
        self.node.file(segment)
    }
    fn look(&mut self, report: &tidelog::ship::Report) -> tidelog::Result<tidelog::ship::Offer> {
        self.node.look(report)
    }
    fn segment(
        &mut self,
        segment: tidelog::segment::SegmentName,
    ) -> tidelog::Result<tidelog::ship::Shipped> {
        self.node.segment(segment)
    }
    fn read(
        &mut self,
        segment: tidelog::segment::SegmentName,
        byte: u64,
        buf: &mut [u8],
    ) -> tidelog::Result<usize> {
        self.node.read(segment, byte, buf)
    }
    fn read_run(
        &mut self,
        offer: &tidelog::ship::SnapshotOffer,
        run: tidelog::table::RunId,
        byte: u64,
        buf: &mut [u8],
    ) -> tidelog::Result<()> {
        (self.work)();
        self.node.read_run(offer, run, byte, buf)
    }
    fn wait(&mut self, report: &tidelog::ship::Report, timeout: Duration) {
        self.node.wait(report, timeout);
    }
}

#[test]
fn a_snapshot_under_full_load_is_begun_with_while_the_leaders_slot_keeps_the_log_behind_it() {
    // Scenarios 35 and 36: the writer goes on and retention is run while the snapshot is on its way.
    let mut leader = Leader::new();
    leader.append(120, 2000);
    applied(&leader);
    drop_old(&leader);
    let (stop, asked, done) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (asked, done) = (Arc::new(asked), Arc::new(done));
    let server = leader.server();
    let wrote = std::thread::scope(|scope| {
        let (orders, kept) = (Arc::clone(&asked), Arc::clone(&done));
        let stop = &stop;
        let writer = scope.spawn(move || {
            let mut batches = 0u64;
            while !stop.load(Relaxed) {
                let value = batches.to_le_bytes().repeat(200);
                server.log().append(&Record::put(&(batches % 50).to_le_bytes(), &value)).unwrap();
                batches += 1;
                if batches.is_multiple_of(400) && orders.load(Relaxed) > kept.load(Relaxed) {
                    // Several segments later all that retention may take goes.
                    server.table().checkpoint().unwrap();
                    let policy = Retention {
                        keep_bytes: Some(1),
                        table_is_only_copy: true,
                        ..Retention::default()
                    };
                    server.log().retain(&policy).unwrap();
                    kept.fetch_add(1, Relaxed);
                }
            }
            batches
        });
        let url = server.url().to_owned();
        let node = Http::open(&url, Credentials::default()).unwrap();
        let (orders, kept) = (Arc::clone(&asked), Arc::clone(&done));
        let work = move || {
            let mine = orders.fetch_add(1, Relaxed);
            while kept.load(Relaxed) <= mine {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        };
        let source = Meanwhile { node, work };
        let table = Table::options().begin(Beginning::Needed);
        let mut follower =
            Follower::open_with(Log::options(), table, leader.path("copy"), source).unwrap();
        let with = follower.report().snapshot.unwrap().offset;
        // It was begun with once: the log behind it was there when all had arrived.
        assert!(follower.log().start() <= with);
        assert_eq!(follower.position().offset, with);
        assert!(done.load(Relaxed) > 0, "retention was never run");
        follower.catch_up().unwrap();
        stop.store(true, Relaxed);
        let wrote = writer.join().unwrap();
        agree(&leader, &mut follower);
        wrote
    });
    assert!(wrote > 400, "{wrote}");
}

#[test]
fn a_leader_out_of_reach_midway_is_made_up_for_by_the_archive() {
    // Scenario 37, over HTTP: every answer is cut off while runs are read.
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn tidelog::ship::archive::Store> =
        Arc::new(tidelog::ship::archive::LocalStore::at(dir.path().join("archive")));
    let mut leader = Leader { dir: tempfile::tempdir().unwrap(), server: None, appended: 0 };
    let archive = tidelog::server::ArchiveOptions::new(Arc::clone(&store))
        .interval(Duration::from_millis(20))
        .snapshots(Some(1 << 20));
    leader.start(options().archive(Some(archive)));
    leader.append(400, 4000);
    applied(&leader);
    until("a snapshot is in the archive", || {
        !tidelog::ship::archive::load(&*store).unwrap().snapshots.is_empty()
    });
    let proxy = Proxy::new(leader.server().address());
    let node = Http::open(&proxy.url(), Credentials::default()).unwrap();
    let faults = Arc::new(proxy);
    let cutting = Arc::clone(&faults);
    let mut source = Some(Meanwhile {
        node,
        work: move || cutting.set(Faults { cut_after: Some(300), ..Faults::default() }),
    });
    let shelf = Arc::clone(&store);
    let away = || tidelog::Error::new(Kind::Io, "it is away");
    let chain = tidelog::ship::Chain::default()
        .link("leader", move || Ok(Box::new(source.take().ok_or_else(away)?) as Box<dyn Source>))
        .link("archive", move || {
            Ok(Box::new(tidelog::ship::archive::Archive::open(Arc::clone(&shelf))?) as _)
        });
    let table = Table::options().begin(Beginning::Snapshot);
    let mut follower =
        Follower::open_with(Log::options(), table, leader.path("copy"), chain).unwrap();
    let named = tidelog::ship::archive::load(&*store).unwrap().snapshots;
    let with = follower.report().snapshot.unwrap();
    assert!(named.iter().any(|(_, of)| of.name == with), "{with} of {named:?}");
    faults.set(Faults::default());
    agree(&leader, &mut follower);
}

#[test]
fn snapshots_are_listed_and_served_by_ranges_and_strange_names_are_refused() {
    let mut leader = Leader::new();
    let client = leader.client();
    assert_eq!(get(&client, "/v1/snapshots").1["snapshots"], serde_json::json!([]));
    assert_eq!(get(&client, "/v1/snapshots?fresh=true").1["snapshots"], serde_json::json!([]));
    leader.append(60, 2000);
    applied(&leader);
    // None is made for who has no use for one of that size.
    let (_, small) = get(&client, "/v1/snapshots?fresh=true&within=20000");
    assert_eq!(small["snapshots"], serde_json::json!([]));
    let (_, listed) = get(&client, "/v1/snapshots?fresh=true&within=1000000");
    let listed = listed["snapshots"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["offset"], leader.server().log().durable_end().0);
    let name = listed[0]["name"].as_str().unwrap();
    // A minute long the same one does for everybody.
    leader.append(5, 200);
    applied(&leader);
    let (_, again) = get(&client, "/v1/snapshots?fresh=true");
    assert_eq!(again["snapshots"].as_array().unwrap(), &listed);

    let manifest = client.get(&format!("/v1/snapshots/{name}"), &[], NOW).unwrap();
    assert_eq!(manifest.status, 200);
    let manifest = String::from_utf8(manifest.bytes(1 << 20).unwrap()).unwrap();
    let run = manifest.lines().find_map(|line| line.strip_prefix("run ")).unwrap();
    let mut words = run.split(' ');
    let (id, bytes) = (words.next().unwrap(), words.next().unwrap().parse::<usize>().unwrap());
    let path = format!("/v1/snapshots/{name}/{id}");
    let whole = client.get(&path, &[], NOW).unwrap();
    assert_eq!(whole.status, 200);
    let whole = whole.bytes(1 << 26).unwrap();
    assert_eq!(whole.len(), bytes);
    let part = client.get(&path, &[("range", "bytes=10-99")], NOW).unwrap();
    assert_eq!((part.status, part.bytes(1000).unwrap()), (206, whole[10..100].to_vec()));
    let beyond = client.get(&path, &[("range", "bytes=999999999-")], NOW).unwrap();
    assert_eq!(beyond.status, 416);
    let known = client.get(&path, &[("if-none-match", &format!("\"{id}\""))], NOW).unwrap();
    assert_eq!(known.status, 304);

    let zeros = "0".repeat(64);
    let gone = "00000000000000000001-1-0000000000000000";
    for (path, status) in [
        (format!("/v1/snapshots/{gone}"), 404),
        (format!("/v1/snapshots/{gone}/{zeros}"), 404),
        (format!("/v1/snapshots/{name}/{zeros}"), 404),
        (format!("/v1/snapshots/{name}/x"), 400),
        ("/v1/snapshots/..%2f..%2fLOG".into(), 400),
        (format!("/v1/snapshots/{name}/..%2f..%2f..%2fLOG"), 400),
        ("/v1/snapshots?fresh=perhaps".into(), 400),
    ] {
        assert_eq!(get(&client, &path).0, status, "{path}");
    }
}

#[test]
fn a_snapshot_over_a_bad_link_arrives_whole_or_is_gone_on_with() {
    let mut leader = Leader::new();
    leader.append(400, 4000);
    applied(&leader);
    drop_old(&leader);
    let proxy = Proxy::new(leader.server().address());
    let url = proxy.url();
    let copy = leader.path("copy");
    let (mut failed, mut seed) = (0, 2u64);
    let mut follower = loop {
        // Each try meets another fault; what came before it is kept.
        proxy.set(match seed % 3 {
            0 => Faults { cut_after: Some(20_000 * seed), ..Faults::default() },
            1 => Faults { flip_at: Some(9000 * seed), ..Faults::default() },
            _ => Faults { cut_after: Some(3000), ..Faults::default() },
        });
        if seed > 5 {
            proxy.set(Faults::default());
        }
        match pull(&url, &copy, Beginning::Cheaper) {
            Ok(follower) => break follower,
            Err(e) => assert!(matches!(e.kind(), Kind::Io | Kind::Gone), "{e}"),
        }
        failed += 1;
        seed += 1;
    };
    proxy.set(Faults::default());
    assert!(failed > 0, "no fault was met");
    agree(&leader, &mut follower);
}

#[test]
fn a_leader_that_dies_while_it_lends_is_gone_on_with_when_it_is_back() {
    let mut leader = Leader::new();
    leader.append(400, 4000);
    applied(&leader);
    drop_old(&leader);
    let address = leader.server().address();
    let mut source = Http::open(leader.server().url(), Credentials::default()).unwrap();
    let offers = source.snapshots().unwrap();
    assert_eq!(offers.len(), 1);
    source.manifest(&offers[0]).unwrap();
    leader.stop();
    leader.start(options().listen(address));
    // Another process: what was lent ended with the one before.
    let error = source.manifest(&offers[0]).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let url = leader.server().url().to_owned();
    let mut follower = pull(&url, &leader.path("copy"), Beginning::Cheaper).unwrap();
    agree(&leader, &mut follower);
}
