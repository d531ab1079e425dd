//! What somebody new to it is promised: nodes started by the same command each, a leader that dies or stands still
//! under load, writes that go on, an old leader that is just started again, and not a record less or more.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use rustix::process::Signal;
use tidelog::client::{AppendOptions, Cluster, Outcome};
use tidelog::ship::Credentials;
use tidelog::{Batch, Offset, Record, Token};

use super::{Nodes, by_store, ids, tidelog, waits_for};
use crate::archive::s3::Weed;
use crate::coordinator::etcd::{Etcd, is_here};

const WRITERS: usize = 3;

/// What clients did and were told.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    /// Appends that each client began.
    begun: [AtomicU64; WRITERS],
    acked: Mutex<BTreeMap<String, Token>>,
    /// The newest epoch that acknowledged.
    newest: AtomicU64,
}

impl Load {
    /// Appends through any node, each record until it is acknowledged.
    fn write(&self, id: u64, nodes: &[String]) {
        let addresses = nodes.iter().map(String::as_str);
        let mut cluster = Cluster::new(addresses, Credentials::default()).unwrap();
        for count in 1.. {
            if self.stop.load(SeqCst) {
                return;
            }
            let key = format!("{id}-{count}");
            self.begun[usize::try_from(id).unwrap()].store(count, SeqCst);
            let mut batch = Batch::new();
            batch.push(&Record::put(key.as_bytes(), key.as_bytes())).unwrap();
            let how = AppendOptions::default().timeout(Duration::from_secs(5)).key(key.as_str());
            let began = std::time::Instant::now();
            let acked = loop {
                match cluster.append(&batch, &how) {
                    Outcome::Acked(acked) => break acked,
                    other => assert!(began.elapsed() < Duration::from_secs(60), "{other:?}"),
                }
            };
            self.newest.fetch_max(acked.token.epoch.number, SeqCst);
            self.acked.lock().unwrap().insert(key, acked.token);
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    fn acks(&self) -> usize {
        self.acked.lock().unwrap().len()
    }

    fn waits_for_more(&self, what: &str) {
        let before = self.acks();
        waits_for(what, || self.acks() >= before + 60);
    }
}

/// Whatever ends or stops the leader: writes go on, it comes back by itself, nothing is lost, invented or twice.
fn keeps_its_promise(
    mut nodes: Nodes,
    mode: &str,
    away: impl Fn(&mut Nodes, usize),
    back: impl Fn(&mut Nodes, usize),
) {
    for node in 0..3 {
        nodes.start(node, &["--create"]);
    }
    let leader = nodes.until_led();
    waits_for("all serve", || (0..3).all(|node| nodes.status(node).is_some()));
    let (url, ids) = (nodes.url(leader), ids(&nodes));
    let mut args = vec!["members", "add", &url, "--mode", mode, "--timeout", "20s"];
    args.extend(ids.iter().map(String::as_str));
    let output = tidelog(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let urls: Vec<String> = (0..3).map(|node| nodes.url(node)).collect();
    let load = Load::default();
    std::thread::scope(|scope| {
        let (load, urls) = (&load, &urls);
        let writers: Vec<_> =
            (0..WRITERS as u64).map(|id| scope.spawn(move || load.write(id, urls))).collect();
        load.waits_for_more("appends are acknowledged");
        let before = load.newest.load(SeqCst);
        away(&mut nodes, leader);
        waits_for("another leader acknowledges", || load.newest.load(SeqCst) > before);
        load.waits_for_more("writes go on");
        back(&mut nodes, leader);
        waits_for("the old leader follows", || {
            nodes.status(leader).is_some_and(|status| {
                status["role"] == "follower" && status["epoch"].as_u64() > Some(before)
            })
        });
        load.waits_for_more("writes go on with it");
        load.stop.store(true, SeqCst);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    nodes.same();
    let log = nodes.log(leader);
    let mut cursor = log.read(log.start()).unwrap();
    let mut there: BTreeMap<String, Vec<(Offset, u64)>> = BTreeMap::new();
    while cursor.offset() < log.end() {
        let entry = cursor.next().unwrap().unwrap();
        let key = String::from_utf8(entry.record.value.to_vec()).unwrap();
        there.entry(key).or_default().push((entry.offset, entry.epoch));
    }
    let wrote = |key: &str| {
        let (id, count) = key.split_once('-').unwrap();
        let (id, count): (usize, u64) = (id.parse().unwrap(), count.parse().unwrap());
        (1..=load.begun[id].load(SeqCst)).contains(&count)
    };
    let acked = load.acked.into_inner().unwrap();
    let lost = acked.iter().filter(|(key, token)| {
        let place = (token.offset, token.epoch.number);
        there.get(*key).is_none_or(|places| !places.contains(&place))
    });
    let lost: Vec<_> = lost.collect();
    let invented: Vec<_> = there.keys().filter(|key| !wrote(key)).collect();
    let twice: Vec<_> = there.iter().filter(|(_, places)| places.len() > 1).collect();
    eprintln!(
        "{} lost of {} acknowledged, {} invented and {} twice of {} records",
        lost.len(),
        acked.len(),
        invented.len(),
        twice.len(),
        log.end().0
    );
    assert!(
        lost.is_empty() && invented.is_empty() && twice.is_empty(),
        "{lost:?} {invented:?} {twice:?}"
    );
}

fn killed(nodes: &mut Nodes, leader: usize) {
    nodes.kill(leader);
}

fn started_again(nodes: &mut Nodes, leader: usize) {
    nodes.start(leader, &["--create"]);
}

#[test]
fn three_nodes_and_an_etcd_lose_nothing_when_the_leader_is_killed_under_load() {
    if !is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&dir.path().join("etcd"));
    let url = format!("etcd://127.0.0.1:{}/cluster", etcd.port);
    let args = ["--coordinator", &url, "--lease", "3s", "--coordinator-timeout", "500ms"];
    keeps_its_promise(Nodes::new(3, &args), "sync:k=1", killed, started_again);
}

/// A bucket and nothing else: it says who leads, and holds what is acknowledged.
#[test]
fn three_nodes_and_an_s3_bucket_lose_nothing_when_the_leader_is_killed_under_load() {
    let Some(weed) = Weed::find() else { return };
    let url = "s3://tide/promise";
    let args =
        ["--coordinator", url, "--archive", url, "--lease", "4s", "--coordinator-timeout", "1s"];
    let mut nodes = Nodes::new(3, &args);
    nodes.env = weed.settings();
    keeps_its_promise(nodes, "archive", killed, started_again);
}

/// Scenario 8. A process that stands still takes connections and answers none: asking it must not keep the others
/// from electing, and when it goes on it acknowledges nothing.
#[test]
fn a_leader_that_stands_still_is_replaced_and_follows_when_it_goes_on() {
    if !is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&dir.path().join("etcd"));
    let url = format!("etcd://127.0.0.1:{}/cluster", etcd.port);
    let args = [
        "--coordinator",
        &url,
        "--lease",
        "2s",
        "--coordinator-timeout",
        "500ms",
        "--failover-gap",
        "0s",
    ];
    let signals = |signal| move |nodes: &mut Nodes, leader: usize| nodes.signal(leader, signal);
    let (stops, goes_on) = (signals(Signal::STOP), signals(Signal::CONT));
    keeps_its_promise(Nodes::new(3, &args), "sync:k=1", stops, goes_on);
}

/// What was acknowledged because the archive has it may be in no follower: whoever leads next fetches it from there.
#[test]
fn who_is_elected_has_what_only_the_archive_had() {
    the_archive_alone_has_it(false);
}

/// An operator who accepts that something may be lost got a leader without what the archive had, and which that took
/// nothing of: now only what cannot be had is given up.
#[test]
fn a_promotion_that_accepts_loss_gives_up_nothing_that_can_be_had() {
    the_archive_alone_has_it(true);
}

fn the_archive_alone_has_it(an_operator_accepts_loss: bool) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().join("shelf").display());
    let mut nodes = Nodes::new(2, &by_store(&url));
    for node in 0..2 {
        nodes.start(node, &["--create"]);
    }
    let leader = nodes.until_led();
    let other = 1 - leader;
    waits_for("all serve", || (0..2).all(|node| nodes.status(node).is_some()));
    let url = nodes.url(leader);
    let output = tidelog(&["members", "add", &url, "--mode", "archive", "--timeout", "20s"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    nodes.append_somewhere("first");
    waits_for("the follower has it", || nodes.status(other).unwrap()["applied"] == 1);
    nodes.signal(other, Signal::STOP);
    let keys: Vec<String> = (0..5).map(|i| format!("in the archive {i}")).collect();
    for key in &keys {
        assert!(nodes.append(leader, key, "5s").is_some());
    }
    nodes.kill(leader);
    nodes.signal(other, Signal::CONT);
    if an_operator_accepts_loss {
        let url = nodes.url(other);
        let args = ["promote", &url, "--yes", "--accept-loss", "--timeout", "40s"];
        let output = tidelog(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(nodes.append_somewhere("after")["first_offset"], 6);
    nodes.start(leader, &[]);
    waits_for("the old leader follows", || {
        nodes
            .status(leader)
            .is_some_and(|status| status["role"] == "follower" && status["end"] == 7)
    });
    nodes.same();
    super::nothing_is_lost_or_twice(&nodes.log(leader), &keys);
}
