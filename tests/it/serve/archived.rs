//! A leader that publishes its log all the while: a directory as the archive, and a store that fails,
//! stalls and lies as it is told.

use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::json;
use tidelog::log::Identity;
use tidelog::server::ArchiveOptions;
use tidelog::ship::Directory;
use tidelog::ship::archive::{
    Archive, Create, LocalStore, ObjectName, Prefix, PublishOptions, Publisher, Store, load,
};
use tidelog::{Follower, Offset};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(20);

/// A directory as a store, behind a gate; it counts, and may be slow.
#[derive(Debug)]
struct Gate {
    store: LocalStore,
    open: Mutex<bool>,
    moved: Condvar,
    calls: AtomicU64,
    creates: AtomicU64,
    slow_ms: AtomicU64,
}

impl Gate {
    fn at(path: &Path) -> Arc<Self> {
        Arc::new(Gate {
            store: LocalStore::at(path),
            open: Mutex::new(true),
            moved: Condvar::new(),
            calls: AtomicU64::new(0),
            creates: AtomicU64::new(0),
            slow_ms: AtomicU64::new(0),
        })
    }

    /// While it is shut, nothing is answered.
    fn set(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.moved.notify_all();
    }

    fn pass(&self) -> &LocalStore {
        self.calls.fetch_add(1, Relaxed);
        let open = self.open.lock().unwrap();
        // No test waits so long.
        let _ = self.moved.wait_timeout_while(open, HOUR, |open| !*open).unwrap();
        let slow = Duration::from_millis(self.slow_ms.load(Relaxed));
        if !slow.is_zero() {
            std::thread::park_timeout(slow);
        }
        &self.store
    }
}

impl Store for Gate {
    fn place(&self) -> String {
        self.store.place()
    }
    fn get_range(
        &self,
        name: &ObjectName,
        from: u64,
        len: usize,
    ) -> tidelog::Result<Option<Vec<u8>>> {
        self.pass().get_range(name, from, len)
    }
    fn put(&self, name: &ObjectName, bytes: &[u8]) -> tidelog::Result<()> {
        self.pass().put(name, bytes)
    }
    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create {
        self.creates.fetch_add(1, Relaxed);
        self.pass().create(name, bytes)
    }
    fn list(&self, prefix: Prefix) -> tidelog::Result<Vec<(ObjectName, u64)>> {
        self.pass().list(prefix)
    }
    fn delete(&self, name: &ObjectName) -> tidelog::Result<()> {
        self.pass().delete(name)
    }
}

impl Leader {
    fn archiving(store: Arc<dyn Store>, interval: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut leader = Leader { dir, server: None, appended: 0 };
        leader.archive_to(store, interval);
        leader
    }

    fn archive_to(&mut self, store: Arc<dyn Store>, interval: Duration) {
        self.start(options().archive(Some(ArchiveOptions::new(store).interval(interval))));
    }

    fn put(&self, query: &str, value: &str) -> (u16, Value) {
        let body = json!({ "op": "put", "key": "k", "value": value }).to_string();
        let path = format!("/v1/records?{query}");
        answer(self.client().post(&path, &[], body.as_bytes(), Duration::from_secs(30)).unwrap())
    }

    fn archive(&self) -> Value {
        get(&self.client(), "/v1/status").1["archive"].clone()
    }

    fn until_state(&self, state: &str) -> Value {
        until(state, || self.archive()["state"] == state);
        self.archive()
    }

    /// Waits until the archive holds everything.
    fn until_archived(&self) {
        let end = self.server().log().durable_end();
        until("everything is archived", || self.archive()["archived"] == end.0);
    }

    fn metric(&self, name: &str) -> Option<String> {
        let reply = self.client().get("/metrics", &[], NOW).unwrap();
        let text = String::from_utf8(reply.bytes(1 << 20).unwrap()).unwrap();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
        line.split(' ').nth(1).map(str::to_owned)
    }

    fn set_mode(&self, mode: &str) -> (u16, Value) {
        let body = json!({ "mode": mode }).to_string();
        post(&self.client(), "/v1/members?timeout=10s", &body)
    }
}

fn gate(dir: &tempfile::TempDir) -> (Arc<Gate>, Arc<dyn Store>) {
    let gate = Gate::at(&dir.path().join("archive"));
    (Arc::clone(&gate), gate)
}

#[test]
fn a_leader_publishes_what_is_new_and_an_idle_one_asks_the_store_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, store) = gate(&dir);
    let mut leader = Leader::archiving(Arc::clone(&store), SOON);
    leader.append(60, 3000);
    leader.until_archived();
    let shown = leader.until_state("publishing");
    assert_eq!((&shown["lag_records"], &shown["lag_seconds"]), (&json!(0), &json!(0.0)), "{shown}");
    let calls = gate.calls.load(Relaxed);
    assert_eq!(shown["requests"], calls, "{shown}");
    assert_eq!(leader.metric("tidelog_archive_up").as_deref(), Some("1"));
    let end = leader.server().log().durable_end().to_string();
    assert_eq!(leader.metric("tidelog_archived_offset"), Some(end));
    // Many intervals later.
    let later = Instant::now() + 20 * SOON;
    until("the intervals are over", || Instant::now() > later);
    assert_eq!(gate.calls.load(Relaxed), calls, "idle costs nothing");
    // A follower of the archive has the leader's files.
    let copy = leader.path("copy");
    let archive = Archive::open(Arc::clone(&store)).unwrap();
    let mut follower = Follower::open(Log::options(), &copy, archive).unwrap();
    follower.catch_up().unwrap();
    assert_eq!(follower.log().end(), leader.server().log().end());
    follower.close().unwrap();
    // What comes last before a clean stop is published, too; a restart goes on.
    leader.append(1, 100);
    leader.stop();
    let state = load(&*store).unwrap();
    assert_eq!(state.end_offset.0, leader.appended);
    leader.archive_to(store, SOON);
    leader.append(1, 100);
    leader.until_archived();
    assert_eq!(leader.metric("tidelog_archive_fenced").as_deref(), Some("0"));
}

#[test]
fn archived_is_acked_once_the_archive_holds_it_and_does_not_wait_for_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    let (_, store) = gate(&dir);
    let leader = Leader::archiving(Arc::clone(&store), HOUR);
    leader.until_archived();
    for i in 0..10 {
        let (status, reply) = leader.put("level=archived&timeout=20s", &format!("value {i}"));
        assert_eq!((status, &reply["level"]), (200, &json!("archived")), "{reply}");
        let offset = reply["last_offset"].as_u64().unwrap();
        let held = load(&*store).unwrap().end_offset;
        assert!(held.0 > offset, "acked at {offset}, and the archive ends at {held}");
    }
    // Who does not ask for it does not make it.
    assert_eq!(leader.put("", "durable").0, 200);
    assert_eq!(load(&*store).unwrap().end_offset, Offset(10));
}

#[test]
fn without_an_archive_nobody_is_promised_one() {
    let leader = Leader::new();
    let (status, reply) = leader.put("level=archived", "refused");
    assert_eq!((status, &reply["error"]["kind"]), (501, &json!("not_supported")), "{reply}");
    let (status, reply) = leader.set_mode("archive");
    assert_eq!(status, 412, "{reply}");
    assert_eq!(leader.server().log().end(), Offset(0));
    assert_eq!(get(&leader.client(), "/v1/status").1["archive"], Value::Null);
}

#[test]
fn what_the_archive_has_not_accepted_in_time_is_unknown_and_in_mode_archive_nobody_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, store) = gate(&dir);
    let mut leader = Leader::archiving(Arc::clone(&store), HOUR);
    let (status, set) = leader.set_mode("archive");
    assert_eq!((status, &set["mode"]), (200, &json!("archive")), "{set}");
    let (status, reply) = leader.put("timeout=20s", "held");
    assert_eq!((status, &reply["level"]), (200, &json!("archived")), "{reply}");
    gate.set(false);
    let key = [("Idempotency-Key", "once")];
    let body = br#"{"op":"put","key":"k","value":"not held"}"#;
    let send = |timeout: &str| {
        let path = format!("/v1/records?timeout={timeout}");
        answer(leader.client().post(&path, &key, body, HOUR).unwrap())
    };
    let (status, reply) = send("300ms");
    assert_eq!((status, &reply["error"]["kind"]), (503, &json!("unknown")), "{reply}");
    assert!(reply["error"]["message"].as_str().unwrap().contains("archive"), "{reply}");
    let at = |reply: &Value| reply["error"]["first_offset"].as_u64();
    assert_eq!(at(&reply), Some(1), "{reply}");
    let shown = || get(&leader.client(), "/v1/table/k").1["value"].clone();
    assert_eq!((shown(), leader.server().log().end()), (json!("held"), Offset(1)));
    assert_eq!(leader.server().log().durable_end(), Offset(2), "it is on the leader's disk");
    gate.set(true);
    let (status, reply) = send("20s");
    assert_eq!(
        (status, &reply["first_offset"], &reply["duplicate"]),
        (200, &json!(1), &json!(true))
    );
    until("it is shown", || shown() == "not held");
    // The mode stands in the log: without its archive the leader takes nothing.
    leader.stop();
    leader.start(options());
    let (status, reply) = leader.put("timeout=300ms", "refused");
    assert_eq!(status, 503, "{reply}");
    assert!(reply["error"]["help"].as_str().unwrap().contains("--archive"), "{reply}");
    assert_eq!(leader.server().log().durable_end(), Offset(2));
    leader.stop();
    leader.archive_to(store, HOUR);
    assert_eq!(leader.put("timeout=20s", "goes on").0, 200);
}

#[test]
fn in_mode_archive_many_appends_share_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, store) = gate(&dir);
    let leader = Leader::archiving(store, HOUR);
    assert_eq!(leader.set_mode("archive").0, 200);
    leader.until_archived();
    gate.slow_ms.store(20, Relaxed);
    let before = gate.creates.load(Relaxed);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let leader = &leader;
            scope.spawn(move || {
                for i in 0..8 {
                    let (status, reply) = leader.put("timeout=20s", &format!("{thread} {i}"));
                    assert_eq!((status, &reply["level"]), (200, &json!("archived")), "{reply}");
                }
            });
        }
    });
    let entries = gate.creates.load(Relaxed) - before;
    assert!((8..40).contains(&entries), "{entries} entries for 64 appends, 8 at a time");
}

#[test]
fn a_stalled_store_stops_neither_appends_nor_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, store) = gate(&dir);
    let mut leader = Leader::archiving(store, SOON);
    leader.until_archived();
    gate.set(false);
    for i in 0..50 {
        assert_eq!(leader.put("", &format!("{i}")).0, 200);
    }
    let shown = leader.archive();
    assert!(shown["lag_records"].as_u64().unwrap() >= 40, "{shown}");
    until("the lag grows", || leader.archive()["lag_seconds"].as_f64() > Some(0.05));
    let started = Instant::now();
    leader.stop();
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    // Nothing of the log is kept open by the request that is still under way.
    leader.start(options());
    assert_eq!(leader.server().log().durable_end(), Offset(50));
    gate.set(true);
}

#[test]
fn a_newer_leader_fences_and_appends_go_on_while_nothing_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let (_, store) = gate(&dir);
    let leader = Leader::archiving(Arc::clone(&store), SOON);
    assert_eq!(leader.put("level=archived&timeout=20s", "both").0, 200);
    let other = leader.path("other");
    crate::follow::leader::copy_tree(&leader.path("leader"), &other);
    let log = Log::options().identity(Identity::NewNode).open(&other).unwrap();
    log.append(&Record::put(b"k", b"the new leader's")).unwrap();
    log.close().unwrap();
    let from = Directory::open(&other).unwrap();
    let mut new = Publisher::open(Arc::clone(&store), from, PublishOptions::default()).unwrap();
    let end = new.push().unwrap().end;
    let (status, reply) = leader.put("level=archived&timeout=2s", "too late");
    assert_eq!((status, &reply["error"]["kind"]), (503, &json!("unknown")), "{reply}");
    let shown = leader.until_state("fenced");
    assert!(shown["trouble"].as_str().unwrap().contains("taken over"), "{shown}");
    let (_, status) = get(&leader.client(), "/v1/status");
    assert_eq!(status["state"], "fenced", "{status}");
    assert!(status["events"].to_string().contains("fenced"), "{status}");
    assert_eq!(leader.metric("tidelog_archive_fenced").as_deref(), Some("1"));
    assert_eq!(leader.put("", "on its own disk").0, 200);
    assert_eq!(load(&*store).unwrap().end_offset, end, "nothing behind the new leader's fence");
}

#[cfg(feature = "sim")]
mod fake {
    use tidelog::ship::archive::fake::{Fake, StoreFault};

    use super::*;

    #[test]
    fn an_outage_is_told_backed_off_from_and_over_by_itself() {
        let fake = Fake::new();
        let store = Arc::new(fake.client());
        let leader = Leader::archiving(Arc::clone(&store) as Arc<dyn Store>, SOON);
        assert_eq!(leader.put("level=archived&timeout=20s", "before").0, 200);
        let now = store.calls();
        // A look at what is there, then the entry, which arrives in the midst of the outage; nothing
        // that asks for it is answered: five pushes, and more than a second between some of them.
        store.fail_at(now + 2, StoreFault::Late(20));
        for call in 3..=40 {
            let fault = match call % 3 {
                0 => StoreFault::TimeoutAfter,
                1 => StoreFault::TimeoutBefore,
                _ => StoreFault::ServerError,
            };
            store.fail_at(now + call, fault);
        }
        assert_eq!(leader.put("", "during").0, 200);
        let shown = leader.until_state("unreachable");
        assert!(shown["trouble"].as_str().unwrap().contains("told to fail"), "{shown}");
        assert_eq!(leader.metric("tidelog_archive_up").as_deref(), Some("0"));
        assert_eq!(leader.put("level=durable", "during, too").0, 200);
        assert_eq!(leader.put("level=archived&timeout=30s", "after").0, 200);
        let shown = leader.until_state("publishing");
        assert_eq!(shown["trouble"], Value::Null);
        // Told a moment after it is shown.
        until("both are told", || {
            let events = get(&leader.client(), "/v1/status").1["events"].to_string();
            events.contains("unreachable") && events.contains("takes entries again")
        });
        let state = load(&fake.client()).unwrap();
        assert_eq!(state.end_offset, Offset(4));
        let names = fake.created().into_iter().map(|(name, _)| name);
        let entries = names.filter(|name| matches!(name, ObjectName::Log(_))).count() as u64;
        assert_eq!(entries, state.n, "nothing was written twice");
    }

    #[test]
    fn a_store_that_lets_two_win_is_refused_and_appends_go_on() {
        let fake = Fake::new();
        fake.let_both_win();
        let leader = Leader::archiving(Arc::new(fake.client()), SOON);
        let shown = leader.until_state("refused");
        assert!(shown["trouble"].as_str().unwrap().contains("racing"), "{shown}");
        assert_eq!((&shown["archived"], &shown["lag_records"]), (&Value::Null, &Value::Null));
        assert_eq!(leader.put("", "goes on").0, 200);
        let (status, reply) = leader.put("level=archived&timeout=200ms", "waits");
        assert_eq!((status, &reply["error"]["kind"]), (503, &json!("unknown")), "{reply}");
        let entries = fake.names().into_iter().any(|name| matches!(name, ObjectName::Log(_)));
        assert!(!entries, "nothing was written there");
    }

    #[test]
    fn whatever_single_calls_do_what_is_acked_as_archived_is_there() {
        for seed in 1..=6 {
            let fake = Fake::new();
            let store = Arc::new(fake.client());
            let leader = Leader::archiving(Arc::clone(&store) as Arc<dyn Store>, HOUR);
            leader.until_archived();
            let now = store.calls();
            let kills = [StoreFault::KilledBefore, StoreFault::KilledAfter];
            let faults: Vec<_> =
                StoreFault::ALL.into_iter().filter(|fault| !kills.contains(fault)).collect();
            for call in (1..200).step_by(3 + seed) {
                store.fail_at(now + call as u64, faults[call * seed % faults.len()]);
            }
            for i in 0..12 {
                let (status, reply) = leader.put("level=archived&timeout=20s", &format!("{i}"));
                assert_eq!(status, 200, "seed {seed}: {reply}");
                let held = load(&fake.client()).unwrap().end_offset;
                assert!(held.0 > reply["last_offset"].as_u64().unwrap(), "seed {seed}");
            }
        }
    }
}

#[test]
fn a_new_copy_of_the_archive_alone_begins_with_the_snapshot_that_its_leader_published() {
    const EVERY: u64 = 32 << 10;
    let dir = tempfile::tempdir().unwrap();
    let (_, store) = gate(&dir);
    let mut leader = Leader { dir: tempfile::tempdir().unwrap(), server: None, appended: 0 };
    let archive = ArchiveOptions::new(Arc::clone(&store)).interval(SOON).snapshots(Some(EVERY));
    leader.start(options().archive(Some(archive)));
    let published = |than: usize| {
        let store = Arc::clone(&store);
        move || load(&*store).unwrap().snapshots.len() > than
    };
    for round in 0..3 {
        leader.append(120, 1000);
        until("another snapshot is in the archive", published(round));
    }
    leader.append(5, 1000);
    leader.until_archived();
    until("it is told", || {
        let (_, status) = get(&leader.client(), "/v1/status");
        status["events"].to_string().contains("the archive has a snapshot before offset")
    });
    // One more may have been on its way.
    until("nothing is on its way", || tidelog::ship::archive::pins(&*store).unwrap().is_empty());
    let state = load(&*store).unwrap();
    // They cost no more than the log.
    let most = state.end.0 / EVERY;
    assert!(state.snapshots.len() as u64 <= most, "{} of at most {most}", state.snapshots.len());
    let report = tidelog::ship::archive::verify_archive(&*store).unwrap();
    assert_eq!(report.problems, []);

    let table = Table::options().begin(tidelog::table::Beginning::Snapshot);
    let source = Archive::open(Arc::clone(&store)).unwrap();
    let mut follower =
        Follower::open_with(Log::options(), table, leader.path("copy"), source).unwrap();
    let newest = |state: &tidelog::ship::archive::State| state.snapshots.last().unwrap().1.name;
    let begun = follower.report().snapshot.expect("it began with a snapshot");
    // Or with one that was published since.
    assert!((newest(&state)..=newest(&load(&*store).unwrap())).contains(&begun), "{begun}");
    assert!(follower.log().start() > Offset(0));
    follower.catch_up().unwrap();
    let end = leader.server().log().durable_end();
    assert_eq!(follower.end(), end);
    until("the leader has applied it", || {
        leader.server().table().applied().is_some_and(|position| position.offset >= end)
    });
    assert_eq!(follower.table().digest().unwrap(), leader.server().table().digest().unwrap());
    // An idle node publishes none.
    until("an idle node publishes none", || {
        let n = load(&*store).unwrap().n;
        std::thread::park_timeout(Duration::from_millis(1500));
        load(&*store).unwrap().n == n
    });
}

#[test]
fn a_node_that_sends_a_snapshot_to_a_store_that_does_not_answer_publishes_on_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let shut = Arc::new(Mutex::new(true));
    let store = Arc::new(StuckRuns { store: LocalStore::at(dir.path().join("archive")), shut });
    let mut leader = Leader { dir: tempfile::tempdir().unwrap(), server: None, appended: 0 };
    let archive = ArchiveOptions::new(Arc::clone(&store) as Arc<dyn Store>);
    leader.start(options().archive(Some(archive.interval(SOON).snapshots(Some(1)))));
    leader.append(30, 1000);
    until("a run is on its way", || store.asked());
    // The log does not wait for it.
    leader.append(30, 1000);
    leader.until_archived();
    leader.append(30, 1000);
    leader.until_archived();
    assert_eq!(load(&*store).unwrap().snapshots, []);
    // With a held-up request a node is given a moment, as for the log itself; then it goes.
    let started = Instant::now();
    leader.stop();
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    *store.shut.lock().unwrap() = false;
}

/// A directory as a store that takes no runs while it is shut.
#[derive(Debug)]
struct StuckRuns {
    store: LocalStore,
    shut: Arc<Mutex<bool>>,
}

impl StuckRuns {
    fn asked(&self) -> bool {
        !tidelog::ship::archive::pins(&self.store).unwrap().is_empty()
    }
}

impl Store for StuckRuns {
    fn place(&self) -> String {
        self.store.place()
    }
    fn get_range(
        &self,
        name: &ObjectName,
        from: u64,
        len: usize,
    ) -> tidelog::Result<Option<Vec<u8>>> {
        while matches!(name, ObjectName::Run(_)) && *self.shut.lock().unwrap() {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        self.store.get_range(name, from, len)
    }
    fn put(&self, name: &ObjectName, bytes: &[u8]) -> tidelog::Result<()> {
        self.store.put(name, bytes)
    }
    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create {
        self.store.create(name, bytes)
    }
    fn list(&self, prefix: Prefix) -> tidelog::Result<Vec<(ObjectName, u64)>> {
        self.store.list(prefix)
    }
    fn delete(&self, name: &ObjectName) -> tidelog::Result<()> {
        self.store.delete(name)
    }
}

#[cfg(feature = "cli")]
#[test]
fn a_snapshot_is_published_beside_a_node_that_publishes_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let (_, store) = gate(&dir);
    let mut leader = Leader::archiving(store, SOON);
    leader.append(60, 1000);
    let end = leader.server().log().durable_end();
    until("all is applied", || {
        leader.server().table().applied().is_some_and(|position| position.offset >= end)
    });
    leader.server().table().checkpoint().unwrap();
    leader.until_archived();
    let place = crate::cli::Place::new();
    let (log, shelf) = (leader.path("leader"), dir.path().join("archive"));
    let (log, shelf) = (log.display(), shelf.display());
    let made = place.ok(&format!("snapshot create {log} --to {shelf}"));
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["offset"], end.0, "{made}");
    // The node finds the entry that it did not write, and goes on.
    leader.append(60, 1000);
    leader.until_archived();
    place.ok(&format!("snapshot verify {shelf}"));
    place.ok(&format!("archive verify {shelf}"));
    place.ok(&format!("restore back --from {shelf}"));
}
