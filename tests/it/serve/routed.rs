//! Clients of a cluster: whichever node leads, and whatever happens to it meanwhile.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use tidelog::client::{Acked, AppendOptions, Cluster, Level, Outcome};
use tidelog::table::Scan;
use tidelog::{Kind, Offset};

use super::*;
use crate::cli::Place;

/// Ends its process with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Three nodes of one log, each of which may lead; copies are on two of them before anything is acknowledged.
struct Three {
    place: Place,
    urls: Vec<String>,
    nodes: Vec<Option<Process>>,
}

impl Three {
    fn start() -> Self {
        let place = Place::new();
        place.ok("init a --segment-bytes 64KiB");
        place.ok("append a made here");
        place.ok("follow b --from a --once");
        place.ok("follow c --from a --once");
        let held: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let urls: Vec<String> =
            held.iter().map(|port| format!("http://{}", port.local_addr().unwrap())).collect();
        drop(held);
        let mut three = Three { place, urls, nodes: Vec::new() };
        let ids: Vec<String> = (0..3).map(|i| three.serve(i)).collect();
        let leader = three.leader();
        let others: Vec<&str> = ids
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != leader)
            .map(|(_, id)| id.as_str())
            .collect();
        let add =
            format!("members add {} {} --mode sync:k=1", three.urls[leader], others.join(" "));
        until("the set is committed", || three.place.run(&add).status.success());
        three
    }

    /// Starts a node; its id.
    fn serve(&mut self, i: usize) -> String {
        let name = ["a", "b", "c"][i];
        let listen = self.urls[i].strip_prefix("http://").unwrap();
        let mut args = format!("serve {name} --listen {listen}");
        for peer in self.urls.iter().filter(|url| **url != self.urls[i]) {
            args += &format!(" --peer {peer}");
        }
        let mut command = self.place.command(&args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        use std::io::BufRead;
        std::io::BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        self.nodes.push(Some(Process(child)));
        line["node"].as_str().unwrap().to_owned()
    }

    fn leader(&self) -> usize {
        let mut found = None;
        until("somebody leads", || {
            // One that was replaced may not know it yet.
            found = (0..3).filter_map(|i| Some((self.leads(i)?, i))).max();
            found.is_some()
        });
        found.unwrap().1
    }

    /// The epoch that a node leads by.
    fn leads(&self, i: usize) -> Option<u64> {
        let reply = client(&self.urls[i]).get("/v1/status", &[], NOW).ok()?;
        let status = reply.json::<Value>().ok()?;
        (status["role"] == "leader").then(|| status["epoch"].as_u64()).flatten()
    }

    fn list(&self, order: &[usize]) -> String {
        order.iter().map(|i| self.urls[*i].as_str()).collect::<Vec<_>>().join(",")
    }

    fn cluster(&self, of: &[usize]) -> Cluster {
        let urls = of.iter().map(|i| self.urls[*i].as_str());
        Cluster::new(urls, Credentials::default()).unwrap()
    }
}

fn one(key: &str, value: &str) -> Batch {
    let mut batch = Batch::new();
    batch.push(&Record::put(key.as_bytes(), value.as_bytes())).unwrap();
    batch.push(&Record::event(value.as_bytes())).unwrap();
    batch
}

/// Everything in the log, through a client.
fn all(cluster: &mut Cluster) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    loop {
        let next = Offset(found.len() as u64);
        let records = cluster.records(next, 1000, NOW).unwrap();
        if records.is_empty() {
            return found;
        }
        for entry in records {
            let value = String::from_utf8(entry.record().value.to_vec()).unwrap();
            assert!(found.insert(entry.offset.0, value).is_none());
        }
    }
}

#[test]
fn a_writer_goes_on_over_switchovers_and_a_kill_and_nothing_is_lost_or_there_twice() {
    let mut three = Three::start();
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writer = {
        // It is told of one node, which need not lead: the others it learns.
        let mut cluster = three.cluster(&[2]);
        let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
        std::thread::spawn(move || {
            let (mut acks, mut unknown) = (Vec::<(u64, Acked)>::new(), 0);
            let mut n = 0;
            while !stop.load(SeqCst) {
                let batch = one("writer", &format!("value {n}"));
                let mut how = AppendOptions::default().timeout(Duration::from_secs(20));
                let acked = loop {
                    match cluster.append(&batch, &how) {
                        Outcome::Acked(acked) => break acked,
                        Outcome::Unknown { key, .. } => {
                            unknown += 1;
                            how = how.key(key);
                        }
                        Outcome::Rejected { why } => panic!("{why}"),
                    }
                };
                let read = cluster.get(b"writer").unwrap().expect("what was written is read");
                assert!(read.offset >= acked.first, "{read:?} behind {acked:?}");
                acks.push((n, acked));
                n += 1;
                written.store(n, SeqCst);
            }
            (acks, unknown, cluster)
        })
    };
    let goes_on = |what: &str| {
        let from = written.load(SeqCst);
        until(what, || written.load(SeqCst) >= from + 20);
    };
    goes_on("the first appends are acknowledged");
    for _ in 0..5 {
        let hand_over = || {
            let leader = &three.urls[three.leader()];
            three.place.run(&format!("switchover {leader} --yes")).status.success()
        };
        until("the leader has handed over", hand_over);
        goes_on("appends go on behind a switchover");
    }
    let dead = three.leader();
    drop(three.nodes[dead].take());
    let next = (0..3).find(|i| *i != dead).unwrap();
    let promote = format!("promote {} --old-leader-is-stopped --yes", three.urls[next]);
    let promoted = three.place.run(&promote);
    let standing = three.place.run(&format!("failover status {}", three.urls[next]));
    assert!(promoted.status.success(), "{promoted:?} {standing:?}");
    goes_on("appends go on behind a promotion");
    stop.store(true, SeqCst);
    let (acks, unknown, mut cluster) = writer.join().unwrap();

    let found = all(&mut cluster);
    let mut last = 0;
    for (n, acked) in &acks {
        assert!(acked.first.0 > last, "{n} is out of order: {acked:?}");
        last = acked.last.0;
        for offset in acked.first.0..=last {
            assert_eq!(found.get(&offset), Some(&format!("value {n}")), "{acked:?}");
        }
        assert!(acked.copies >= 2, "{acked:?}");
    }
    let values = found.values().filter(|value| value.starts_with("value ")).count();
    assert_eq!(values, 2 * acks.len(), "each batch once; {unknown} outcomes were unknown");

    // The same key again, after all that, finds what it appended.
    let batch = one("again", "and again");
    let how = AppendOptions::default().key("the-same").timeout(Duration::from_secs(20));
    let first = cluster.append(&batch, &how).acked().unwrap();
    let again = three.cluster(&[next]).append(&batch, &how).acked().unwrap();
    assert_eq!((again.first, again.duplicate), (first.first, true));
}

#[test]
fn the_command_line_writes_to_whichever_node_leads() {
    let mut three = Three::start();
    let leader = three.leader();
    let (near, far) = ((leader + 1) % 3, (leader + 2) % 3);
    let list = three.list(&[near, far]);
    let json = |text: String| serde_json::from_str::<Value>(&text).unwrap();

    let done = json(three.place.ok(&format!("append {list} gate open --level replicated")));
    assert_eq!((&done["level"], &done["duplicate"]), (&"replicated".into(), &false.into()));
    assert!(done["copies"].as_u64().unwrap() >= 2, "{done}");
    let (offset, token) = (done["offset"].as_u64().unwrap(), done["token"].as_str().unwrap());
    let shut = format!("append {list} gate shut --idempotency-key once");
    let first = json(three.place.ok(&shut));
    assert_eq!(first["offset"], offset + 1);
    let again = json(three.place.ok(&shut));
    assert_eq!((&again["offset"], &again["duplicate"]), (&first["offset"], &true.into()));
    three.place.expect(1, &format!("append {list} gate ajar --expect-offset 0"));
    three.place.ok(&format!("append {list} gate ajar --expect-offset {}", offset + 2));
    for wrong in [
        format!("append {list},mylog gate open"),
        format!("append {list} gate open --copies 2 --level durable"),
        format!("append {list} gate open --new-node"),
        format!("append {list} gate open --level archived"),
        "append d gate open --level durable".to_owned(),
        "append d gate open --idempotency-key k".to_owned(),
        format!("ingest {list} - --input lines --create"),
    ] {
        let code = three.place.run(&wrong).status.code();
        assert!(
            matches!(code, Some(2)) || wrong.contains("archived") && code == Some(3),
            "{wrong}"
        );
    }

    // Reads: the first that answers, as fresh as asked for.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let reads = format!("http://{dead},{list}");
    for verb in [
        format!("get {reads} gate --at-least {token} -o raw"),
        format!("wait {reads} --token {token}"),
        format!("scan {reads}"),
        format!("history {reads} gate"),
        format!("tail {reads}"),
        format!("count {reads}"),
        format!("hash {reads}"),
        format!("status {reads}"),
    ] {
        assert!(!three.place.ok(&verb).is_empty(), "{verb}");
    }
    let mut sql = three.place.command(&format!("sql {reads}"));
    assert!(sql.arg("SELECT key FROM kv").output().unwrap().status.success());
    three.place.expect(3, &format!("get http://{dead},http://{dead} gate"));
    three.place.expect(3, &format!("append http://{dead},http://{dead} gate open --timeout 300ms"));

    // An ingest that is killed, and a leader that changes before it goes on.
    let lines: String = (0..900).map(|i| format!("line {i}\n")).collect();
    three.place.write("lines", &lines);
    let from =
        json(three.place.ok(&format!("append {list} mark here")))["offset"].as_u64().unwrap();
    let ingest = format!("ingest {list} lines --input lines --batch 1");
    let mut child = three.place.command(&ingest).stdout(Stdio::null()).spawn().unwrap();
    let end = |three: &Three| {
        let status = client(&three.urls[three.leader()]).get("/v1/status", &[], NOW);
        status.and_then(|reply| reply.json::<Value>()).unwrap()["end"].as_u64().unwrap()
    };
    until("some lines are there", || end(&three) > from + 100);
    child.kill().unwrap();
    child.wait().unwrap();
    until("the leader has handed over", || {
        let leader = &three.urls[three.leader()];
        three.place.run(&format!("switchover {leader} --yes")).status.success()
    });
    let rest = json(three.place.ok(&format!("{ingest} --resume")));
    assert!(rest["records"].as_u64().unwrap() < 900, "{rest}");
    let again = json(three.place.ok(&format!("{ingest} --resume")));
    assert_eq!(again["records"], 0);
    let token = rest["token"].as_str().unwrap();
    let wait = format!("wait {} --token {token}", three.urls[near]);
    until("the follower has the last line", || three.place.run(&wait).status.success());
    let there = three.place.ok(&format!("tail {} -o raw --range {}:", three.urls[near], from + 1));
    assert!(there == lines, "every line once, in order");

    // Nobody leads.
    let leads = three.leader();
    drop(three.nodes[leads].take());
    let others: Vec<usize> = (0..3).filter(|i| *i != leads).collect();
    let list = three.list(&others);
    three.place.expect(6, &format!("append {list} gate open --timeout 1s"));
}

#[test]
fn one_node_alone_is_a_cluster_too() {
    let leader = Leader::new();
    let url = leader.server().url().to_owned();
    let mut cluster = Cluster::new([url.as_str()], Credentials::default()).unwrap();
    let how = AppendOptions::default();
    assert!(cluster.get(b"k").unwrap().is_none());
    assert!(cluster.scan(&Scan::all()).unwrap().is_empty());
    let mut batch = Batch::new();
    for record in [
        Record::put(b"k", b"v"),
        Record::put(b"", b"of the empty key"),
        Record::put(b"\xff\x00", b"\xfe\n"),
        Record::delete(b"gone"),
        Record::event(b"free\ntext"),
        Record::keyed_event(b"", b"\x00"),
    ] {
        batch.push(&record.at(1_577_836_800_000_000_007)).unwrap();
    }
    let acked = cluster.append(&batch, &how.clone().level(Level::Durable)).acked().unwrap();
    assert_eq!((acked.first, acked.last, acked.level.as_str()), (Offset(0), Offset(5), "durable"));
    let back = cluster.records(Offset(0), 10, NOW).unwrap();
    assert!(back.iter().map(|entry| entry.record()).eq(batch.iter()), "{back:?}");
    assert_eq!(cluster.get(b"\xff\x00").unwrap().unwrap().offset, Offset(2));
    assert_eq!(cluster.get(b"").unwrap().unwrap().offset, Offset(1));
    let rows = cluster.scan(&Scan::all().start(b"k").reverse(true).limit(1)).unwrap();
    assert_eq!(rows[0].offset, Offset(2));
    assert!(cluster.scan(&Scan::all().prefix(b"k").end(b"k")).unwrap().is_empty());

    let twice = cluster.append(&batch, &how.clone().expect_end(Offset(2)));
    let Outcome::Rejected { why } = twice else { panic!() };
    assert_eq!(why.kind(), Kind::Rejected, "{why}");
    assert!(cluster.append(&batch, &how.clone().expect_end(Offset(6))).acked().is_ok());

    // A stream of batches takes one key.
    assert_eq!(cluster.producer("stream").unwrap(), None);
    let stream = |n| how.clone().key("stream").sequence(n);
    let first = cluster.append(&batch, &stream(40)).acked().unwrap();
    let second = cluster.append(&batch, &stream(80)).acked().unwrap();
    let again = cluster.append(&batch, &stream(80)).acked().unwrap();
    assert_eq!((again.first, again.duplicate), (second.first, true));
    assert!(second.first > first.last);
    let Outcome::Rejected { .. } = cluster.append(&batch, &stream(40)) else { panic!() };
    let known = cluster.producer("stream").unwrap().unwrap();
    assert_eq!((known.sequence, known.last, known.shown), (80, second.last, true));

    // Another log at that address is not taken for this one.
    let other = Leader::new();
    let urls = [url.as_str(), other.server().url()];
    let mut both = Cluster::new(urls, Credentials::default()).unwrap();
    both.append(&batch, &how).acked().unwrap();
    drop(leader);
    let outcome = both.append(&batch, &how.timeout(Duration::from_millis(300)));
    // A connection that was open may have carried it before it broke.
    let why = match outcome {
        Outcome::Rejected { why } | Outcome::Unknown { why, .. } => why,
        Outcome::Acked(_) => panic!("{outcome:?}"),
    };
    assert!(why.to_string().contains("expected to append to log"), "{why}");
    assert_eq!(other.server().log().end(), Offset(0));

    // A leader that was replaced and does not know it appends nothing for who does.
    let (log, epoch) = (other.server().log().id(), other.server().log().stats().epoch);
    let body = b"{\"op\":\"event\",\"value\":\"v\"}\n";
    let ask = |number: u64, nonce: u64| {
        let seen = format!("{log}.{number}.{nonce:016x}");
        let reply = other.client().post("/v1/records", &[("x-tidelog-seen", &seen)], body, NOW);
        let (status, said) = answer(reply.unwrap());
        (status, said["error"]["kind"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask(epoch.number + 1, 7), (503, "fenced".into()));
    assert_eq!(ask(epoch.number, !epoch.nonce), (503, "fenced".into()));
    assert_eq!(other.server().log().end(), Offset(0));
    assert_eq!(ask(epoch.number, epoch.nonce), (200, String::new()));
    let strange = other.client().post("/v1/records", &[("x-tidelog-seen", "soon")], body, NOW);
    assert_eq!(strange.unwrap().status, 400);
}
