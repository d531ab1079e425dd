//! The reading verbs answer alike, byte for byte, whether they are given a directory or the address
//! of the node that serves it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tidelog::log::MIN_SEGMENT_BYTES;
use tidelog::{Batch, Log, Record};

use crate::cli::Place;

/// Ends the node with its test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A log with everything that a record can be, and a node that serves it.
fn served(records: impl Fn(&mut Batch)) -> (Place, Node, String) {
    let place = Place::new();
    let log = Log::options().create(true).segment_bytes(MIN_SEGMENT_BYTES);
    let log = log.open(place.path("mylog")).unwrap();
    let mut batch = Batch::new();
    records(&mut batch);
    log.append_batch(&batch).unwrap();
    log.close().unwrap();
    let (child, url) = place.node();
    (place, Node(child), url)
}

fn every_kind(batch: &mut Batch) {
    let second = 1_000_000_000;
    let day = 1_577_836_800 * second;
    for (i, record) in [
        Record::put(b"k", b"{\"x\":1,\"y\":\"p, q\"}"),
        Record::put(b"", b"of the empty key"),
        Record::put(b"\xff\x00", b"\xfe\n"),
        Record::put(b"a/b c?&+%#", b"odd"),
        Record::put("\u{1F600}\"".as_bytes(), b""),
        Record::put(b"gone", b"soon"),
        Record::put(b"k", b"{\"x\":2.5,\"z\":null}"),
        Record::delete(b"gone"),
        Record::event(b"free\ntext"),
        Record::keyed_event(b"", b"\x00"),
        Record::keyed_event(b"k", b"rung"),
        Record::put(b"..", b"dots"),
        Record::put(b"p/1", b"one"),
        Record::put(b"p/2", b"two"),
        Record::put(b"p\xff", b"late"),
    ]
    .into_iter()
    .enumerate()
    {
        batch.push(&record.at(day + i64::try_from(i).unwrap() * second + 7)).unwrap();
    }
}

/// Runs a verb on both; `{}` stands for the place. Returns what both print.
fn alike(place: &Place, url: &str, code: i32, args: &[&str]) -> Vec<u8> {
    let run = |origin: &str| {
        let args: Vec<String> = args.iter().map(|arg| arg.replace("{}", origin)).collect();
        let mut command = place.command("");
        let out = command.args(&args).stdin(Stdio::null()).output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {err}");
        assert!(code == 0 || !err.trim().is_empty(), "{args:?} says nothing");
        out.stdout
    };
    let (here, there) = (run("mylog"), run(url));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(here == there, "{args:?}\n{}\n{}", text(&here), text(&there));
    here
}

#[test]
fn every_verb_answers_alike_in_every_format() {
    let (place, _node, url) = served(every_kind);
    let alike =
        |code: i32, args: &str| alike(&place, &url, code, &args.split(' ').collect::<Vec<&str>>());
    for format in ["ndjson", "json", "csv", "raw", "table"] {
        for verb in [
            "tail {}",
            "tail {} -n 4",
            "tail {} -n 0",
            "tail {} -n 2 --key k",
            "tail {} --range 3:9",
            "tail {} --range -5",
            "tail {} --range 20:30",
            "tail {} --range @2020-01-01T00:00:03Z:@2020-01-01T00:00:08Z",
            "tail {} --range @-1h:",
            "tail {} --key k",
            "tail {} --key gone -n 1",
            "tail {} --prefix p",
            "get {} k",
            "get {} ..",
            "get {} a/b\u{a0}c",
            "scan {}",
            "scan {} -n 3",
            "scan {} -n 0",
            "scan {} --prefix p/",
            "scan {} --start k --end p/2",
            "history {} k",
            "history {} gone",
            "history {} k -n 2",
            "history {} k --range 1:10",
            "history {} k --range -9 -n 1",
        ] {
            let code = if verb.contains('\u{a0}') { 1 } else { 0 };
            alike(code, &format!("{verb} -o {format}"));
        }
        for (code, query) in [
            (0, "SELECT * FROM kv ORDER BY key"),
            (0, "SELECT * FROM log ORDER BY offset"),
            (0, "SELECT key, key, 1, 1.0, 0.1, 1e300, -9e999, 9e999, NULL, x'00ff', x'61' FROM kv"),
            (0, "SELECT 5e-324, 1.7976931348623157e308, 9223372036854775807, 'a''b', ''"),
            (0, "SELECT offset FROM log WHERE 1 = 0"),
            (2, "SELECT nothing FROM kv"),
            (2, "DELETE FROM kv"),
            (2, "SELECT json_extract(value, '$.x') FROM log ORDER BY offset"),
        ] {
            self::alike(&place, &url, code, &["sql", "{}", query, "-o", format]);
        }
    }
    for verb in ["count {}", "hash {}", "hash {} --at 5", "hash {} --at @2020-01-01T00:00:07Z"] {
        assert!(!alike(0, verb).is_empty());
    }
    // Arguments that no shell word of the list above can be.
    for key in ["", "a/b c?&+%#", "\u{1F600}\""] {
        self::alike(&place, &url, 0, &["get", "{}", key, "-o", "raw"]);
        self::alike(&place, &url, 0, &["history", "{}", key]);
    }
    for with in ["offset,epoch,ts,op,key", "key"] {
        alike(0, &format!("tail {{}} --with {with} -o csv"));
        alike(0, &format!("scan {{}} --with {with} -o csv"));
    }
    alike(0, "tail {} -o raw --delimiter |");
}

#[test]
fn what_is_not_there_exits_alike() {
    let (place, node, url) = served(every_kind);
    let token = {
        let log = Log::options().read_only(true).open(place.path("mylog")).unwrap();
        let out = place.ok("tail mylog -n 1 -o ndjson");
        assert!(out.contains("\"offset\":14"));
        let mut token =
            tidelog::Token { log: log.id(), epoch: log.stats().epoch, offset: 14.into() };
        let has = token.to_string();
        token.offset = 99.into();
        let later = token.to_string();
        token.epoch.nonce = !token.epoch.nonce;
        token.offset = 3.into();
        let lost = token.to_string();
        token.log = tidelog::Id([7; 16]);
        [has, later, lost, token.to_string()]
    };
    let get = |code, token: &str| {
        let args = ["get", "{}", "k", "--at-least", token, "--timeout", "50ms"];
        alike(&place, &url, code, &args)
    };
    assert!(!get(0, &token[0]).is_empty());
    assert!(get(1, &token[1]).is_empty(), "it is not there in time");
    assert!(get(1, &token[2]).is_empty(), "it was lost");
    assert!(get(2, &token[3]).is_empty(), "another log's");
    for (code, args) in [
        (1, "get {} nokey"),
        (1, "history {} nokey"),
        (1, "history {} k -n 0"),
        (1, "hash {} --at 99"),
        (2, "tail {} --range 9:3"),
        (2, "tail {} --range nonsense"),
        (2, "get {} k --at-least nonsense"),
        (2, "scan {} -o pdf"),
    ] {
        alike(&place, &url, code, &args.split(' ').collect::<Vec<&str>>());
    }
    drop(node);
    for verb in ["tail", "scan", "count", "hash"] {
        place.expect(3, &format!("{verb} {url}"));
    }
    for verb in ["get", "history", "sql"] {
        place.expect(3, &format!("{verb} {url} k"));
    }
    place.expect(2, "tail ftp://127.0.0.1/log");
    place.expect(2, &format!("tail {url}/v1/records"));
}

#[test]
fn what_retention_dropped_is_gone_alike() {
    let place = Place::new();
    place.ok("init mylog --segment-bytes 64KiB");
    place.write("lines", "a line of some length to fill segments with\n".repeat(5000));
    place.ok("ingest mylog lines --input lines --batch 100");
    place.ok("append mylog gate open");
    place.ok("snapshot create mylog --to snapshots");
    place.ok("retain mylog --keep-bytes 64KiB --table-is-only-copy --yes");
    let (child, url) = place.node();
    let _node = Node(child);
    let alike =
        |code, args: &str| alike(&place, &url, code, &args.split(' ').collect::<Vec<&str>>());
    assert!(!alike(0, "tail {}").is_empty());
    assert!(alike(1, "tail {} --range 0:10").is_empty());
    assert!(alike(1, "history {} gate --range 0:").is_empty());
    assert!(!alike(0, "history {} gate").is_empty());
}

#[test]
fn long_answers_come_page_by_page_and_whole() {
    let rows = 210_000;
    let place = Place::new();
    let mut text = String::from("id,x\n");
    for i in 0..rows {
        text += &format!("{i},{}\n", i % 7);
    }
    place.write("rows.csv", text);
    place.ok("ingest mylog rows.csv --input csv --key-field id --create");
    let (child, url) = place.node();
    let _node = Node(child);
    for args in
        ["tail {}", "tail {} --range 99999:200001", "scan {}", "scan {} -n 100000", "count {}"]
    {
        let out = alike(&place, &url, 0, &args.split(' ').collect::<Vec<&str>>());
        assert!(!out.is_empty());
    }
}

#[test]
fn a_tail_of_a_node_shows_what_is_appended() {
    let (place, _node, url) = served(every_kind);
    let mut tail = place
        .command(&format!("tail {url} --follow -n 1 -o ndjson"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("\"offset\":14"), "{line}");
    let client = tidelog::ship::Client::new(&url, tidelog::ship::Credentials::default()).unwrap();
    let body = b"{\"op\":\"put\",\"key\":\"new\",\"value\":\"here\"}\n";
    client.post("/v1/records", &[], body, Duration::ZERO).unwrap().ok().unwrap();
    line.clear();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("\"offset\":15") && line.contains("\"key\":\"new\""), "{line}");
    tail.kill().unwrap();
    tail.wait().unwrap();
    // With an end it ends by itself.
    let started = Instant::now();
    let out = place.ok(&format!("tail {url} --follow --range 3:16"));
    assert_eq!(out.lines().count(), 13);
    assert!(started.elapsed() < Duration::from_secs(20));
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}
