//! Linearizable reads of real nodes: given where nobody else can lead, refused where that cannot be known.

use rustix::process::Signal;
use tidelog::client::{Cluster, Consistency};

use super::*;

fn read(nodes: &Nodes, node: usize) -> (u16, Value) {
    let path = "/v1/table/k?consistency=linearizable&timeout=3s";
    match nodes.client(node).get(path, &[], Duration::from_secs(8)) {
        Ok(reply) => (reply.status, reply.json().unwrap_or_default()),
        Err(_) => (0, Value::Null),
    }
}

fn put(nodes: &Nodes, node: usize, value: &str) {
    let body = format!("{{\"op\":\"put\",\"key\":\"k\",\"value\":\"{value}\"}}");
    let headers = [("content-type", "application/json"), ("idempotency-key", value)];
    waits_for("it is acknowledged", || {
        let client = nodes.client(node);
        let wait = Duration::from_secs(3);
        let path = "/v1/records?timeout=2s";
        client.post(path, &headers, body.as_bytes(), wait).is_ok_and(|reply| reply.status == 200)
    });
}

/// Scenarios 7 and 8, read: a leader whose members cannot be asked answers no such read, and one that was replaced
/// while it was stopped does not show what it had.
#[test]
fn a_leader_that_cannot_ask_its_members_or_was_replaced_answers_no_linearizable_read() {
    let mut nodes = three();
    let leader = nodes.url(0);
    // Under async nobody can say that nobody else leads.
    let (status, why) = read(&nodes, 0);
    assert_eq!((status, &why["error"]["kind"]), (400, &Value::from("invalid_input")), "{why}");
    nodes.set(0, "sync:k=1");
    put(&nodes, 0, "old");
    let (status, row) = read(&nodes, 0);
    assert_eq!((status, &row["value"]), (200, &Value::from("old")), "{row}");
    // A follower sends it on; programs and the command line find the leader.
    let (status, why) = read(&nodes, 1);
    assert_eq!((status, &why["error"]["leader"]), (307, &Value::from(&*leader)), "{why}");
    let (one, two) = (nodes.url(1), nodes.url(2));
    let mut cluster = Cluster::new([one.as_str()], Credentials::default()).unwrap();
    cluster.consistency(Consistency::Linearizable);
    assert_eq!(cluster.get(b"k").unwrap().unwrap().record().value, b"old");
    assert_eq!(cluster.leader(), Some(&*leader));
    let all = format!("{one},{leader},{two}");
    let which = ["--consistency", "linearizable"];
    let output = tidelog(&["get", &all, "k", "-o", "raw", which[0], which[1]]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "old\n");
    for verb in ["scan", "count"] {
        assert!(tidelog(&[verb, &leader, which[0], which[1]]).status.success(), "{verb}");
    }
    assert!(tidelog(&["history", &leader, "k", which[0], which[1]]).status.success());
    assert!(
        tidelog(&["sql", &leader, "SELECT count(*) FROM kv", which[0], which[1]]).status.success()
    );
    let output = tidelog(&["get", &one, "k", which[0], which[1]]);
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&*leader));
    let dir = nodes.path(1);
    let output = tidelog(&["get", dir.to_str().unwrap(), "k", which[0], which[1]]);
    assert_eq!(output.status.code(), Some(2), "nobody answers for a directory");

    // One member is enough, and none is too few.
    nodes.signal(2, Signal::STOP);
    waits_for("the other member answers", || read(&nodes, 0).0 == 200);
    nodes.signal(1, Signal::STOP);
    let (status, why) = read(&nodes, 0);
    assert_eq!((status, &why["error"]["kind"]), (503, &Value::from("not_leader")), "{why}");
    assert!(why["error"]["help"].is_string(), "{why}");
    let plain = nodes.client(0).get("/v1/table/k", &[], Duration::ZERO).unwrap();
    assert_eq!(plain.status, 200, "what it has it shows to who asks for no more");

    // Stopped, replaced, and on again: its first answer is not what it had.
    nodes.signal(0, Signal::STOP);
    nodes.signal(1, Signal::CONT);
    nodes.signal(2, Signal::CONT);
    waits_for("they are on again", || nodes.status(1).is_some() && nodes.status(2).is_some());
    // What its follower asked of a leader that stands still is given up after twenty seconds.
    let promote = ["promote", &one, "--yes", "--old-leader-is-stopped", "--timeout", "90s"];
    let output = tidelog(&promote);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    put(&nodes, 1, "new");
    nodes.signal(0, Signal::CONT);
    for _ in 0..20 {
        let (status, row) = read(&nodes, 0);
        assert!(status != 200 || row["value"] == "new", "a stale read: {row}");
    }
    waits_for("the new leader answers", || read(&nodes, 1).0 == 200);
    assert_eq!(read(&nodes, 1).1["value"], "new");
    waits_for("the old one follows", || {
        nodes.status(0).is_some_and(|status| status["role"] == "follower" && status["end"] == 2)
    });
    nodes.same();
}

/// Under modes that ask nobody it is the lease that says so.
#[test]
fn with_a_coordinator_the_lease_stands_for_the_members_that_promise_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().join("shelf").display());
    let lease = ["--coordinator", &url, "--lease", "3s", "--coordinator-timeout", "500ms"];
    let mut nodes = Nodes::new(1, &lease);
    nodes.start(0, &["--create"]);
    nodes.until_led();
    put(&nodes, 0, "v");
    let (status, row) = read(&nodes, 0);
    assert_eq!((status, &row["value"]), (200, &Value::from("v")), "{row}");
    waits_for("it has renewed its lease once, and tells what that took", || {
        nodes.stands(0)["smallest_lease_seconds"].is_u64()
    });
    assert_eq!(nodes.stands(0)["lease_seconds"], 3);
    // Stopped for longer than its lease: the first thing that it does is no such read.
    nodes.signal(0, Signal::STOP);
    std::thread::sleep(Duration::from_secs(4));
    nodes.signal(0, Signal::CONT);
    let (status, why) = read(&nodes, 0);
    // It may have renewed it before it answers: nobody else has taken it.
    assert!(status == 200 || why["error"]["kind"] == "not_leader", "{status} {why}");
    waits_for("it answers again", || read(&nodes, 0).0 == 200);
}
