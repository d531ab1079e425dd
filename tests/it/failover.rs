//! Another leader: nodes as the real binary, killed, stopped, promoted, elected, rejoining.

mod degraded;
mod demoted;
mod linearizable;
mod orders;
mod promise;
mod race;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::Value;
use tidelog::ship::{Client, Credentials};
use tidelog::{Log, Table};

use crate::coordinator::etcd::{Etcd, is_here};
use crate::follow::leader::same_segments;

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn tidelog(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidelog"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn told(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_default()
}

fn waits_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Whether every thread of a process is stopped.
fn stands_still(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.map_while(Result::ok).all(|thread| {
        // `number (name) state …`, and the name may hold anything.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}

/// Nodes that know each other, each in a process of its own.
struct Nodes {
    dir: tempfile::TempDir,
    ports: Vec<u16>,
    running: Vec<Option<Child>>,
    /// What each is started with, beside where it listens.
    args: Vec<String>,
    /// What stands in their environment.
    env: Vec<(String, String)>,
}

impl Nodes {
    fn new(count: usize, args: &[&str]) -> Self {
        Nodes {
            dir: tempfile::tempdir().unwrap(),
            ports: (0..count).map(|_| port()).collect(),
            running: (0..count).map(|_| None).collect(),
            args: args.iter().map(ToString::to_string).collect(),
            env: Vec::new(),
        }
    }

    fn path(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node{node}"))
    }

    fn url(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[node])
    }

    fn client(&self, node: usize) -> Client {
        let client = Client::new(&self.url(node), Credentials::default()).unwrap();
        client.silence(Duration::from_secs(3))
    }

    fn start(&mut self, node: usize, more: &[&str]) {
        let path = self.dir.path().join(format!("{node}.err"));
        let log = File::options().create(true).append(true).open(path).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidelog"));
        command.arg("serve").arg(self.path(node));
        command.args(["--listen", &format!("127.0.0.1:{}", self.ports[node])]);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.args(&self.args).args(more).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.running[node] = Some(command.spawn().unwrap());
    }

    /// Each knows the others by address.
    fn start_with_peers(&mut self, node: usize, more: &[&str]) {
        let others = (0..self.ports.len()).filter(|other| *other != node);
        let peers: Vec<String> =
            others.flat_map(|other| ["--peer".to_owned(), self.url(other)]).collect();
        let all: Vec<&str> = peers.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.start(node, &all);
    }

    fn kill(&mut self, node: usize) {
        let mut child = self.running[node].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn signal(&self, node: usize, signal: rustix::process::Signal) {
        let child = self.running[node].as_ref().unwrap();
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).unwrap();
        if signal == rustix::process::Signal::STOP {
            // The signal is sent, and its threads answer on until one of them has taken it.
            waits_for("it stands still", || stands_still(child.id()));
        }
    }

    fn status(&self, node: usize) -> Option<Value> {
        self.client(node).get("/v1/status", &[], Duration::ZERO).ok()?.ok().ok()?.json().ok()
    }

    /// How a node stands in its cluster.
    fn stands(&self, node: usize) -> Value {
        let get = || self.client(node).get("/v1/failover", &[], Duration::ZERO)?.ok()?.json();
        get().unwrap_or_default()
    }

    /// Rules by this mode, with all of them as members.
    fn set(&self, leader: usize, mode: &str) {
        let (url, ids) = (self.url(leader), ids(self));
        let mut args = vec!["members", "add", &url, "--mode", mode, "--timeout", "20s"];
        args.extend(ids.iter().map(String::as_str));
        let output = tidelog(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn leader(&self) -> Option<usize> {
        (0..self.ports.len())
            .filter(|node| self.running[*node].is_some())
            .find(|node| self.status(*node).is_some_and(|status| status["role"] == "leader"))
    }

    fn until_led(&self) -> usize {
        let mut found = None;
        waits_for("somebody leads", || {
            found = self.leader();
            found.is_some()
        });
        found.unwrap()
    }

    /// Appends at a node, by a key that makes a retry safe; what was answered.
    fn append(&self, node: usize, key: &str, timeout: &str) -> Option<Value> {
        let body = format!("{{\"op\":\"put\",\"key\":\"{key}\",\"value\":\"v\"}}");
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let path = format!("/v1/records?timeout={timeout}");
        let wait = Duration::from_secs(5);
        let reply = self.client(node).post(&path, &headers, body.as_bytes(), wait).ok()?;
        if reply.status == 200 { reply.json().ok() } else { None }
    }

    /// Appends at whoever leads, until somebody acknowledges it.
    fn append_somewhere(&self, key: &str) -> Value {
        let mut answer = None;
        waits_for("an append is acknowledged", || {
            let nodes = (0..self.ports.len()).filter(|node| self.running[*node].is_some());
            answer = nodes.filter_map(|node| self.append(node, key, "500ms")).next();
            answer.is_some()
        });
        answer.unwrap()
    }

    /// All that run hold the same, in their tables and in their files.
    fn same(&mut self) {
        let leader = self.until_led();
        let end = self.status(leader).unwrap()["end"].as_u64().unwrap();
        let running: Vec<usize> =
            (0..self.ports.len()).filter(|node| self.running[*node].is_some()).collect();
        let hash = |nodes: &Nodes, node: usize| {
            let reply = nodes.client(node).get("/v1/hash", &[], Duration::ZERO).ok()?;
            reply.ok().ok()?.json::<Value>().ok()
        };
        waits_for("all are at the end", || {
            running.iter().all(|node| {
                hash(self, *node).is_some_and(|hash| hash["offset"].as_u64() >= Some(end))
            })
        });
        let all: Vec<Value> = running.iter().map(|node| hash(self, *node).unwrap()).collect();
        assert!(all.iter().all(|one| one["digest"] == all[0]["digest"]), "{all:?}");
        // The leader last: somebody else would be elected as soon as it lets go.
        let followers: Vec<usize> =
            running.iter().copied().filter(|node| *node != leader).collect();
        for node in &followers {
            self.signal(*node, rustix::process::Signal::INT);
        }
        for node in followers.iter().chain([&leader]) {
            if *node == leader {
                self.signal(leader, rustix::process::Signal::INT);
            }
            assert!(self.running[*node].take().unwrap().wait().unwrap().success());
        }
        for node in &followers {
            same_segments(&self.path(leader), &self.path(*node));
        }
    }

    fn log(&self, node: usize) -> Log {
        Log::options().read_only(true).open(self.path(node)).unwrap()
    }

    /// What the processes said, for a test that failed.
    fn said(&self) -> String {
        let of = |node| std::fs::read_to_string(self.dir.path().join(format!("{node}.err")));
        (0..self.ports.len()).map(|node| of(node).unwrap_or_default() + "\n").collect()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}

fn ids(nodes: &Nodes) -> Vec<String> {
    let id = |node| nodes.status(node).unwrap()["node"].as_str().unwrap().to_owned();
    (0..nodes.ports.len()).map(id).collect()
}

/// The records of a log by key, with how often each stands there.
fn keys(log: &Log) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut cursor = log.read(log.start()).unwrap();
    while cursor.offset() < log.end() {
        let entry = cursor.next().unwrap().unwrap();
        let key = String::from_utf8_lossy(entry.record.key.unwrap_or_default()).into_owned();
        *found.entry(key).or_default() += 1;
    }
    found
}

/// Every key that was acknowledged stands there once.
fn nothing_is_lost_or_twice(log: &Log, acked: &[String]) {
    let found = keys(log);
    for key in acked {
        assert_eq!(found.get(key), Some(&1), "{key} was acknowledged");
    }
    assert!(found.values().all(|count| *count == 1), "a retry was appended twice: {found:?}");
}

fn two() -> Nodes {
    let mut nodes = Nodes::new(2, &[]);
    nodes.start(0, &["--create"]);
    nodes.until_led();
    let leader = nodes.url(0);
    nodes.start_with_peers(1, &["--follow", &leader]);
    waits_for("the follower serves", || nodes.status(1).is_some());
    nodes
}

/// A leader with two followers that know each other.
fn three() -> Nodes {
    let mut nodes = Nodes::new(3, &[]);
    nodes.start_with_peers(0, &["--create"]);
    nodes.until_led();
    let leader = nodes.url(0);
    for node in [1, 2] {
        nodes.start_with_peers(node, &["--follow", &leader]);
    }
    waits_for("they serve", || (0..3).all(|node| nodes.status(node).is_some()));
    nodes
}

/// Scenario 47, a few times, while somebody writes: nothing is lost, nothing stands twice, and whoever led
/// follows.
#[test]
fn the_leadership_is_handed_over_and_back_under_load_without_loss() {
    let mut nodes = two();
    nodes.append_somewhere("first");
    let stop = AtomicBool::new(false);
    let (mut slowest, mut acked) = (Duration::ZERO, Vec::new());
    std::thread::scope(|scope| {
        let (nodes, stop) = (&nodes, &stop);
        let writer = scope.spawn(move || {
            let (mut acked, mut slowest) = (Vec::new(), Duration::ZERO);
            while !stop.load(Relaxed) {
                let key = format!("key {}", acked.len());
                let began = Instant::now();
                nodes.append_somewhere(&key);
                slowest = slowest.max(began.elapsed());
                acked.push(key);
            }
            (acked, slowest)
        });
        for _ in 0..4 {
            std::thread::park_timeout(Duration::from_millis(200));
            let leader = nodes.until_led();
            let output = tidelog(&["switchover", &nodes.url(leader), "--yes"]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let said = told(&output);
            assert_eq!(said["done"], true);
            assert_eq!(said["switchover"]["leader"], nodes.url(1 - leader));
        }
        stop.store(true, Relaxed);
        (acked, slowest) = writer.join().unwrap();
    });
    eprintln!("{} appends over 4 switchovers, the slowest took {slowest:?}", acked.len());
    assert!(nodes.status(0).unwrap()["epoch"].as_u64() >= Some(5));
    nodes.same();
    nothing_is_lost_or_twice(&nodes.log(0), &acked);
}

/// Scenarios 2 and 27: an operator promotes the follower of a dead leader; the old leader comes back, and
/// what it alone had is kept aside and named.
#[test]
fn a_dead_leader_is_replaced_and_rejoins_with_its_own_tail_kept() {
    let mut nodes = two();
    for key in ["a", "b", "c"] {
        nodes.append_somewhere(key);
    }
    waits_for("the follower has it", || nodes.status(1).unwrap()["applied"] == 3);
    nodes.signal(1, rustix::process::Signal::STOP);
    for i in 0..5 {
        assert!(nodes.append(0, &format!("lost {i}"), "5s").is_some());
    }
    // The leader knows what would be lost with it.
    let known = nodes.status(0).unwrap()["failover"]["loss_records"].as_u64().unwrap();
    assert!((1..=5).contains(&known), "{known}");
    nodes.kill(0);
    nodes.signal(1, rustix::process::Signal::CONT);
    // Nobody is asked by mistake: it has to be said that the leader is stopped, and that it is meant.
    let url = nodes.url(1);
    let output = tidelog(&["promote", &url]);
    assert_eq!((output.status.code(), &told(&output)["done"]), (Some(1), &Value::from(false)));
    let output = tidelog(&["promote", &url, "--yes"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--old-leader-is-stopped"));
    let output = tidelog(&["promote", &url, "--yes", "--old-leader-is-stopped"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // An answer may have been on its way to the follower before it was stopped.
    let after = nodes.append_somewhere("after")["first_offset"].as_u64().unwrap();
    assert!((3..8).contains(&after), "{after}");

    nodes.start_with_peers(0, &[]);
    waits_for("the old leader follows", || {
        nodes
            .status(0)
            .is_some_and(|status| status["role"] == "follower" && status["end"] == after + 1)
    });
    // It sends writes to the new one.
    let reply = nodes.client(0).post("/v1/records", &[], b"{}", Duration::ZERO).unwrap();
    assert_eq!(
        (reply.status, reply.header("location")),
        (307, Some(&*format!("{url}/v1/records")))
    );
    let old = nodes.path(0);
    nodes.same();
    let listed = tidelog(&["diverged", "list", old.to_str().unwrap(), "-o", "ndjson"]);
    let kept = 8 - after;
    assert_eq!(told(&listed)["records"], kept, "{}", String::from_utf8_lossy(&listed.stdout));
    let name = told(&listed)["name"].as_str().unwrap().to_owned();
    let dumped = tidelog(&["diverged", "dump", old.to_str().unwrap(), &name]);
    let text = String::from_utf8(dumped.stdout).unwrap();
    let lost: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lost.len() as u64, kept);
    assert_eq!(lost.last().unwrap()["key"], "lost 4");
}

/// A node that has promised another one does not lead again by being opened: what it would append nobody
/// would ever have.
#[test]
fn who_was_replaced_takes_no_appends_from_the_command_line_either() {
    let mut nodes = two();
    nodes.append_somewhere("a");
    let output = tidelog(&["switchover", &nodes.url(0), "--yes"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // At once: it may not have seen anything of the new epoch yet.
    nodes.kill(0);
    nodes.kill(1);
    let output = tidelog(&["append", nodes.path(0).to_str().unwrap(), "k", "v"]);
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A directory that leads is not given up by a slip: to follow somebody it must be told so.
#[test]
fn a_directory_that_leads_follows_only_when_it_is_told_to() {
    let mut nodes = two();
    nodes.append_somewhere("a");
    waits_for("the follower has it", || nodes.status(1).unwrap()["applied"] == 1);
    let other = nodes.dir.path().join("other");
    let other = other.to_str().unwrap();
    assert!(tidelog(&["init", other]).status.success());
    let url = nodes.url(0);
    let output = tidelog(&["serve", other, "--follow", &url, "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--rejoin"));
    assert!(tidelog(&["append", other, "k", "v"]).status.success(), "it leads as before");
    nodes.same();
}

/// Under a synchronous set too few promises stop a promotion, with the reason; the missing member makes it
/// possible.
#[test]
fn a_promotion_without_enough_promises_says_who_is_missing() {
    let mut nodes = three();
    let leader = nodes.url(0);
    nodes.set(0, "sync:k=1");
    assert_eq!(nodes.append_somewhere("a")["level"], "replicated");
    waits_for("both have it", || (1..3).all(|node| nodes.status(node).unwrap()["applied"] == 1));
    nodes.kill(0);
    nodes.kill(2);
    let url = nodes.url(1);
    let promote = ["promote", &url, "--yes", "--old-leader-is-stopped", "--timeout", "8s"];
    let output = tidelog(&promote);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    nodes.start_with_peers(2, &["--follow", &leader]);
    waits_for("the member is back", || nodes.status(2).is_some());
    let output = tidelog(&promote);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(nodes.append_somewhere("b")["first_offset"], 1);
    nodes.start_with_peers(0, &[]);
    waits_for("the old leader follows", || {
        nodes.status(0).is_some_and(|status| status["role"] == "follower" && status["end"] == 2)
    });
    nodes.same();
}

/// Kills leaders while somebody writes; whoever is left elects another. Every acknowledged record is there
/// once, in all of them.
fn elects(mut nodes: Nodes, mode: Option<&str>, rounds: usize) {
    for node in 0..nodes.ports.len() {
        nodes.start(node, &["--create"]);
    }
    let leader = nodes.until_led();
    waits_for("all serve", || (0..nodes.ports.len()).all(|node| nodes.status(node).is_some()));
    if let Some(mode) = mode {
        nodes.set(leader, mode);
    }
    let mut acked = Vec::new();
    for round in 0..rounds {
        for i in 0..20 {
            let key = format!("round {round} key {i}");
            nodes.append_somewhere(&key);
            acked.push(key);
        }
        let leader = nodes.until_led();
        nodes.kill(leader);
        let began = Instant::now();
        let key = format!("round {round} after");
        nodes.append_somewhere(&key);
        eprintln!("round {round}: writes went on after {:?}", began.elapsed());
        acked.push(key);
        nodes.start(leader, &[]);
        waits_for("the old leader follows", || {
            let end =
                nodes.leader().and_then(|at| nodes.status(at)).map(|status| status["end"].clone());
            nodes.status(leader).is_some_and(|status| {
                status["role"] == "follower" && end.is_some_and(|end| status["end"] == end)
            })
        });
    }
    nodes.same();
    eprintln!("{rounds} failovers, {} acknowledged, 0 lost, 0 twice", acked.len());
    nothing_is_lost_or_twice(&nodes.log(0), &acked);
    let table = Table::from_log(&nodes.log(1)).unwrap();
    assert_eq!(table.view().len().unwrap(), acked.len() as u64);
}

/// Scenario 1 with real processes and a real etcd.
#[test]
fn three_nodes_with_etcd_elect_another_leader_by_themselves() {
    if !is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&dir.path().join("etcd"));
    let url = format!("etcd://127.0.0.1:{}/cluster", etcd.port);
    let lease = ["--coordinator", &url, "--lease", "3s", "--coordinator-timeout", "500ms"];
    elects(Nodes::new(3, &lease), Some("sync:k=1"), 2);
}

/// A store alone, as coordinator and as archive.
fn by_store(url: &str) -> [&str; 8] {
    ["--coordinator", url, "--archive", url, "--lease", "3s", "--coordinator-timeout", "500ms"]
}

/// The same with a store alone, as coordinator and as archive: what it has taken is what is promised.
#[test]
fn two_nodes_with_a_store_alone_elect_another_leader_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| format!("file://{}", Path::join(dir.path(), name).display());
    let url = place("shelf");
    elects(Nodes::new(2, &by_store(&url)), Some("archive"), 1);
}

/// A member was bound to a candidate that came to nothing: it took no more frames of the leader, which waited for it
/// for ever. Without a coordinator the leader finds that out, and takes a later epoch.
#[test]
fn a_leader_whose_members_are_bound_to_a_candidate_that_does_not_lead_takes_a_later_epoch() {
    let mut nodes = three();
    let leader = nodes.url(0);
    let ids = ids(&nodes);
    let output =
        tidelog(&["members", "add", &leader, &ids[1], "--mode", "sync:k=1", "--timeout", "20s"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(nodes.append_somewhere("a")["level"], "replicated");
    let log = nodes.status(0).unwrap()["log"].clone();
    let ask = serde_json::json!({
        "version": 1, "log": log, "node": ids[2], "name": "late", "address": nodes.url(2),
        "epoch": { "number": 40, "nonce": "0000000000000009" },
    });
    let headers = [("content-type", "application/json")];
    let asked =
        nodes.client(1).post("/v1/promise", &headers, ask.to_string().as_bytes(), Duration::ZERO);
    let said: Value = asked.unwrap().ok().unwrap().json().unwrap();
    assert_eq!(said["owner"], ids[2], "{said}");
    waits_for("the leader says it", || {
        nodes.status(0).is_some_and(|status| {
            status["failover"]["state"] == "outbid" || status["epoch"].as_u64() > Some(40)
        })
    });
    nodes.append_somewhere("b");
    waits_for("the leader leads again", || nodes.leader() == Some(0));
    assert_eq!(nodes.append_somewhere("c")["level"], "replicated");
    nodes.same();
    nothing_is_lost_or_twice(&nodes.log(0), &["a".into(), "b".into(), "c".into()]);
}

/// What the archive has accepted under its mode is acknowledged, and the node that is elected may have none of it.
#[test]
fn who_is_elected_takes_over_what_the_archive_alone_holds() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().join("shelf").display());
    let mut nodes = Nodes::new(2, &by_store(&url));
    for node in 0..2 {
        nodes.start(node, &["--create"]);
    }
    let leader = nodes.until_led();
    waits_for("all serve", || (0..2).all(|node| nodes.status(node).is_some()));
    let (url, other) = (nodes.url(leader), 1 - leader);
    let ids = ids(&nodes);
    let output =
        tidelog(&["members", "add", &url, &ids[other], "--mode", "archive", "--timeout", "20s"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut acked = vec!["a".to_owned()];
    nodes.append_somewhere("a");
    waits_for("it has that", || nodes.status(other).is_some_and(|status| status["end"] == 1));
    nodes.signal(other, rustix::process::Signal::STOP);
    for i in 0..5 {
        let key = format!("alone {i}");
        waits_for("the archive has it", || nodes.append(leader, &key, "5s").is_some());
        acked.push(key);
    }
    nodes.kill(leader);
    nodes.signal(other, rustix::process::Signal::CONT);
    nodes.append_somewhere("after");
    acked.push("after".into());
    assert_eq!(nodes.leader(), Some(other));
    nodes.start(leader, &[]);
    waits_for("the old leader follows", || {
        nodes
            .status(leader)
            .is_some_and(|status| status["role"] == "follower" && status["end"] == 7)
    });
    nodes.same();
    nothing_is_lost_or_twice(&nodes.log(other), &acked);
}
