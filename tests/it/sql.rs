//! SQL from outside: queries over a small data set, formats, exit codes, Ctrl-C, closed pipes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidelog"));
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command.env("XDG_CONFIG_HOME", dir.join("config")).env_remove("TIDELOG_OUTPUT");
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let out = run(dir, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn sql(dir: &Path, query: &str) -> Vec<Value> {
    ok(dir, &["sql", "log", query]).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Flights: what the log is made of, and what answers are computed from without SQL.
struct Flight {
    carrier: String,
    tail: String,
    delay: i64,
}

fn flights() -> Vec<Flight> {
    (0..3000_i64)
        .map(|i| Flight {
            carrier: format!("C{}", i * i % 7),
            tail: format!("N{}", i * 31 % 211),
            delay: i * 37 % 120 - 20,
        })
        .collect()
}

fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    for Flight { carrier, tail, delay } in flights() {
        lines += &json!({"carrier": carrier, "tail": tail, "delay": delay}).to_string();
        lines.push('\n');
    }
    std::fs::write(dir.path().join("flights.ndjson"), lines).unwrap();
    let ingest = "ingest log flights.ndjson --input ndjson --key-field tail --create";
    ok(dir.path(), &ingest.split(' ').collect::<Vec<_>>());
    dir
}

#[test]
fn aggregates_and_last_rows_are_those_computed_without_sql() {
    let dir = place();
    let (mut by_carrier, mut last) = (BTreeMap::new(), BTreeMap::new());
    for (offset, flight) in flights().iter().enumerate() {
        let (count, sum) = by_carrier.entry(flight.carrier.clone()).or_insert((0, 0));
        *count += 1;
        *sum += flight.delay;
        last.insert(flight.tail.clone(), (offset, flight.delay));
    }
    let expected: Vec<Value> = by_carrier
        .iter()
        .map(|(carrier, (n, sum))| json!({"carrier": carrier, "n": n, "total": sum}))
        .collect();
    let query = "SELECT value ->> 'carrier' AS carrier, count(*) AS n, \
                 sum(json_extract(value, '$.delay')) AS total FROM log GROUP BY 1 ORDER BY 1";
    assert_eq!(sql(dir.path(), query), expected);
    let expected: Vec<Value> = last
        .iter()
        .map(|(key, (offset, delay))| json!({"key": key, "offset": offset, "delay": delay}))
        .collect();
    let query = "SELECT key, offset, value ->> 'delay' AS delay FROM kv ORDER BY key";
    assert_eq!(sql(dir.path(), query), expected);
    let query = "SELECT kv.key, kv.offset, log.value ->> 'delay' AS delay FROM kv \
                 JOIN log ON log.offset = kv.offset ORDER BY kv.key";
    assert_eq!(sql(dir.path(), query), expected);
    let counts = "SELECT (SELECT count(*) FROM kv WHERE key GLOB 'N1*') AS some, \
                  (SELECT count(*) FROM log WHERE offset BETWEEN 100 AND 199) AS hundred, \
                  (SELECT count(*) FROM log WHERE ts > ns('2200-01-01')) AS future";
    let some = last.keys().filter(|key| key.starts_with("N1")).count();
    assert_eq!(sql(dir.path(), counts), [json!({"some": some, "hundred": 100, "future": 0})]);
    let plan = sql(dir.path(), "EXPLAIN QUERY PLAN SELECT * FROM kv WHERE key GLOB 'N1*'");
    assert!(plan[0]["detail"].as_str().unwrap().contains("key prefix=?"), "{plan:?}");
}

#[test]
fn every_format_shows_every_kind_of_value() {
    let dir = tempfile::tempdir().unwrap();
    let lines = [
        r#"{"op":"put","key":"k","value":"a\tb, \"c\"","ts":"2020-01-01T00:00:00Z"}"#,
        r#"{"op":"put","key_b64":"/wA=","value_b64":"/v8=","ts":"2020-01-01T00:00:00Z"}"#,
        r#"{"op":"delete","key":"k2","ts":"2020-01-01T00:00:00Z"}"#,
        r#"{"op":"event","value":"","ts":"2020-01-01T00:00:00Z"}"#,
    ];
    std::fs::write(dir.path().join("in"), lines.join("\n")).unwrap();
    ok(dir.path(), &["ingest", "log", "in", "--input", "envelope", "--create"]);
    let query = "SELECT offset, key, value, 0.5 AS half, key FROM log ORDER BY offset";
    let formatted = |format: &str| run(dir.path(), &["sql", "log", query, "-o", format]).stdout;
    let text = |format: &str| String::from_utf8(formatted(format)).unwrap();
    let lines = [
        r#"{"offset":0,"key":"k","value":"a\tb, \"c\"","half":0.5,"key:1":"k"}"#,
        r#"{"offset":1,"key_b64":"/wA=","value_b64":"/v8=","half":0.5,"key:1_b64":"/wA="}"#,
        r#"{"offset":2,"key":"k2","value":null,"half":0.5,"key:1":"k2"}"#,
        r#"{"offset":3,"key":null,"value":"","half":0.5,"key:1":null}"#,
    ];
    assert_eq!(text("ndjson"), lines.join("\n") + "\n");
    assert_eq!(text("json"), format!("[{}]\n", lines.join(",\n")));
    assert_eq!(
        text("csv"),
        "offset,key,value,half,key:1\n0,k,\"a\tb, \"\"c\"\"\",0.5,k\n\
         1,x'ff00',x'feff',0.5,x'ff00'\n2,k2,,0.5,k2\n3,,,0.5,\n"
    );
    assert_eq!(
        formatted("raw"),
        b"0\tk\ta\tb, \"c\"\t0.5\tk\n1\t\xff\0\t\xfe\xff\t0.5\t\xff\0\n2\tk2\t\t0.5\tk2\n3\t\t\t0.5\t\n"
    );
    let table = text("table");
    assert!(table.contains("key:1") && table.contains("x'ff00'"), "{table}");
    assert_eq!(table.lines().count(), 6, "{table}");
    for (format, nothing) in [("csv", "key,ts\n"), ("json", "[]\n"), ("ndjson", ""), ("table", "")]
    {
        let args = ["sql", "log", "SELECT key, ts FROM kv WHERE 0", "-o", format];
        assert_eq!(ok(dir.path(), &args), nothing, "{format}");
    }
    let mut child = command(dir.path(), &["sql", "log", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"SELECT count(*) AS n\nFROM kv;\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"{\"n\":2}\n");
}

#[test]
fn sql_that_is_wrong_or_writes_exits_2_with_the_reason() {
    let dir = place();
    for (query, reason) in [
        ("SELEC 1", "syntax error at line 1, column 1"),
        ("SELECT nope FROM kv", "no such column: nope at line 1, column 8"),
        ("SELECT * FROM nope", "no such table: nope"),
        ("SELECT 1; SELECT 2", "found several"),
        ("", "found none"),
        ("DELETE FROM kv", "expected a statement that reads"),
        ("CREATE TABLE t(x)", "expected a statement that reads"),
        ("ATTACH 'other.db' AS other", "found ATTACH"),
        ("PRAGMA user_version = 3", "found PRAGMA user_version"),
        ("SELECT json_extract('{', '$')", "malformed JSON"),
    ] {
        let out = run(dir.path(), &["sql", "log", query]);
        let error = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{query}: {error}");
        assert!(error.contains(reason), "{query}: {error}");
        assert!(out.stdout.is_empty(), "{query}");
    }
    assert!(!dir.path().join("other.db").exists());
    assert_eq!(run(dir.path(), &["sql", "missing", "SELECT 1"]).status.code(), Some(3));
}

const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";

#[test]
fn an_interrupted_query_ends_with_130() {
    let dir = place();
    // Its first rows show that it runs.
    let mut child =
        command(dir.path(), &["sql", "log", ENDLESS]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 100]).unwrap();
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(rest.ends_with(b"\n"));
}

#[test]
fn a_closed_pipe_ends_a_query_quietly() {
    let dir = place();
    let mut child = command(dir.path(), &["sql", "log", ENDLESS])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 100]).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(0));
}
