//! Every path of the interface, with good and bad input, slow clients and retries.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

/// Sends a request as it is, and returns everything that comes back.
fn raw(leader: &Leader, request: &str) -> String {
    let mut stream = TcpStream::connect(leader.server().address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn put(key: &str, value: &str) -> String {
    format!("{{\"op\":\"put\",\"key\":\"{key}\",\"value\":\"{value}\"}}\n")
}

#[test]
fn records_go_in_and_come_out_by_log_table_and_sql() {
    let leader = Leader::new();
    let client = leader.client();
    let (status, appended) = post(&client, "/v1/records", &(put("a/b", "1") + &put("c", "2")));
    assert_eq!(status, 200, "{appended}");
    assert_eq!((&appended["first_offset"], &appended["last_offset"]), (&0.into(), &1.into()));
    assert_eq!((&appended["level"], &appended["copies"]), (&"durable".into(), &1.into()));
    let token = appended["token"].as_str().unwrap();

    let row = client.get(&format!("/v1/table/a/b?at_least={token}&timeout=10s"), &[], NOW).unwrap();
    assert!(row.header("x-tidelog-token").unwrap().ends_with(".1"));
    assert_eq!(answer(row).1["value"], "1");
    assert_eq!(get(&client, "/v1/table/a%2Fb").1["offset"], 0);
    assert_eq!(get(&client, "/v1/table/none").0, 404);
    let rows = get(&client, "/v1/table?prefix=a&limit=5").1;
    assert_eq!(rows["key"], "a/b");
    assert_eq!(get(&client, "/v1/table?start=b").1["key"], "c");
    assert_eq!(get(&client, "/v1/table?end=b").1["key"], "a/b");
    assert_eq!(get(&client, "/v1/table?reverse=true&limit=1").1["key"], "c");
    assert_eq!(get(&client, "/v1/count").1["count"], 2);
    assert_eq!(get(&client, "/v1/hash?at=1").1["offset"], 1);
    assert_eq!(get(&client, "/v1/hash?at=99").0, 404, "what is not there yet has no digest");
    assert_eq!(post(&client, "/v1/sql", "SELECT count(*) AS n FROM kv").1["n"], 2);
    let json = r#"{"sql":"SELECT value, 1.5 AS real, NULL AS none FROM log WHERE key = 'c'"}"#;
    let (_, row) = post(&client, "/v1/sql", json);
    assert_eq!(row, serde_json::json!({"value": "2", "real": 1.5, "none": null}));

    // One envelope may stand on several lines.
    let (status, one) = post(&client, "/v1/records", "{\n\"op\":\"delete\",\n\"key\":\"c\"\n}");
    assert_eq!((status, &one["first_offset"]), (200, &2.into()));
    let token = one["token"].as_str().unwrap();
    assert_eq!(get(&client, &format!("/v1/table/c?at_least={token}")).0, 404);
    let (_, log) = get(&client, "/v1/records?from=1&limit=1");
    assert_eq!((&log["offset"], &log["key"]), (&1.into(), &"c".into()));
    assert_eq!(get(&client, "/v1/records").1.as_array().unwrap().len(), 3);
    assert_eq!(get(&client, "/v1/records?from=99").1, Value::Array(vec![]));
    // The server's own reading of what it wrote.
    assert_eq!(leader.server().log().end().0, 3);
}

#[test]
fn bad_input_is_refused_in_words_and_changes_nothing() {
    let leader = Leader::new();
    let client = leader.client();
    let whole = put("k", "v");
    let mixed = format!("{whole}{{\"op\":\"shout\"}}\n{whole}");
    for (path, body, status, kind) in [
        ("/v1/records", "", 400, "invalid_input"),
        ("/v1/records", "\n\n", 400, "invalid_input"),
        ("/v1/records", "no json", 400, "invalid_input"),
        ("/v1/records", mixed.as_str(), 400, "invalid_input"),
        ("/v1/records?level=soon", whole.as_str(), 400, "invalid_input"),
        ("/v1/records?levle=durable", whole.as_str(), 400, "invalid_input"),
        ("/v1/records?timeout=5", whole.as_str(), 400, "invalid_input"),
        ("/v1/records?level=archived", whole.as_str(), 501, "not_supported"),
        ("/v1/records?expect_offset=7", whole.as_str(), 412, "rejected"),
        ("/v1/records?expect_offset=x", whole.as_str(), 400, "invalid_input"),
        ("/v1/sql", "DELETE FROM kv", 400, "invalid_input"),
        ("/v1/sql", "SELECT", 400, "invalid_input"),
        ("/v1/sql", "{\"query\":1}", 400, "invalid_input"),
        ("/v1/fetch", "{}", 400, "invalid_input"),
        ("/v1/fetch", "{\"version\":7}", 400, "newer_version"),
        ("/v1/nothing", "", 404, "not_found"),
        ("/v1/status", "", 405, "method"),
    ] {
        let (found, answer) = post(&client, path, body);
        assert_eq!((found, &answer["error"]["kind"]), (status, &kind.into()), "{path}: {answer}");
        assert!(!answer["error"]["message"].as_str().unwrap().is_empty(), "{path}");
    }
    assert_eq!(post(&client, "/v1/records", &mixed).1["error"]["line"], 2);
    for (path, status) in [
        ("/v1/records?from=-1", 400),
        ("/v1/records?limit=many", 400),
        ("/v1/records?from=1&from=2", 400),
        ("/v1/table/%zz", 400),
        ("/v1/table?at_least=v1.x", 400),
        ("/v1/table?reverse=maybe", 400),
        ("/v1/wait", 400),
        ("/v1/wait?offset=1&token=t", 400),
        ("/v1/wait?offset=99&timeout=10ms", 504),
        ("/v1/segments/../LOG", 404),
        ("/v1/segments/..%2FLOG", 400),
        ("/v1/segments/+1", 400),
        ("/v1/segments/123456", 404),
        ("/v1/segments/99999999999999999999999", 400),
        ("/readyz?max_lag=soon", 400),
    ] {
        assert_eq!(get(&client, path).0, status, "{path}");
    }
    assert_eq!(leader.server().log().end().0, 0);
}

#[test]
fn what_breaks_the_protocol_ends_a_connection_and_no_more() {
    let mut leader = Leader::new();
    leader.append(1, 10);
    let huge = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let many: String = (0..200).map(|i| format!("x{i}: y\r\n")).collect();
    for request in [
        "hello\r\n\r\n".to_owned(),
        huge,
        format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
        "POST /v1/records HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n".into(),
        "POST /v1/records HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\nconnection: close\r\n\r\n".into(),
        "POST /v1/fetch HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\nconnection: close\r\n\r\n".into(),
    ] {
        let answer = raw(&leader, &request);
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{}: {answer}", &request[..30.min(request.len())]);
    }
    assert_eq!(get(&leader.client(), "/healthz").0, 200);
}

#[test]
fn a_retry_with_its_key_is_there_once_also_after_a_restart() {
    let mut leader = Leader::new();
    let body = put("k", "1") + &put("k", "2");
    let send = |leader: &Leader, key: &str, body: &str| {
        let headers = [("idempotency-key", key)];
        answer(leader.client().post("/v1/records", &headers, body.as_bytes(), NOW).unwrap())
    };
    let (_, first) = send(&leader, "order 7", &body);
    let (_, again) = send(&leader, "order 7", &body);
    assert_eq!(
        (first["duplicate"].clone(), again["duplicate"].clone()),
        (false.into(), true.into())
    );
    assert_eq!(first["token"], again["token"]);
    leader.stop();
    leader.start(options());
    let (_, later) = send(&leader, "order 7", &body);
    assert_eq!((&later["first_offset"], &later["last_offset"]), (&0.into(), &1.into()));
    let (_, other) = send(&leader, "order 8", &body);
    assert_eq!(other["first_offset"], 2);
    let (status, wrong) = send(&leader, "order 7", &put("k", "3"));
    assert_eq!((status, &wrong["error"]["kind"]), (422, &"rejected".into()));
    assert_eq!(send(&leader, "", &body).0, 400);
    assert_eq!(leader.server().log().end().0, 4);
    // A condition holds or nothing happens.
    let (status, _) = post(&leader.client(), "/v1/records?expect_offset=4", &body);
    assert_eq!(status, 200);
    let (status, _) = post(&leader.client(), "/v1/records?expect_offset=4", &body);
    assert_eq!((status, leader.server().log().end().0), (412, 6));
}

#[test]
fn long_polls_wait_for_what_comes_and_end_in_time() {
    let mut leader = Leader::new();
    let client = leader.client();
    let started = Instant::now();
    assert_eq!(get(&client, "/v1/records?from=0&wait=200ms").1, Value::Array(vec![]));
    assert!(started.elapsed() >= Duration::from_millis(200));
    let url = leader.server().url().to_owned();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let started = Instant::now();
            let client = super::client(&url);
            let records = get(&client, "/v1/records?from=0&wait=20s").1;
            let applied = get(&client, "/v1/wait?offset=0&timeout=20s");
            (records["offset"].clone(), applied, started.elapsed())
        });
        leader.append(1, 10);
        let (offset, applied, took) = waiting.join().unwrap();
        assert_eq!((offset, applied.0), (0.into(), 200));
        assert!(took < Duration::from_secs(10), "{took:?}");
    });
}

#[test]
fn tokens_of_lost_writes_and_of_other_logs_are_told_from_those_to_come() {
    let mut leader = Leader::new();
    leader.append(3, 10);
    let client = leader.client();
    let log = leader.server().log();
    let epoch = log.durable_position().epoch;
    let of_epoch = |number: u64, log: &str, nonce: u64, offset: u64| {
        format!("v1.{log}.{number}.{nonce:016x}.{offset}")
    };
    let token = |log: &str, nonce: u64, offset: u64| of_epoch(epoch.number, log, nonce, offset);
    let id = log.id().to_string();
    let ask = |token: String| {
        let (status, answer) = get(&client, &format!("/v1/table/k?at_least={token}&timeout=50ms"));
        (status, answer["error"]["kind"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask(token(&id, epoch.nonce, 1)), (404, "not_found".into()));
    assert_eq!(ask(token(&id, epoch.nonce ^ 1, 1)), (409, "not_in_history".into()));
    assert_eq!(ask(token(&id, epoch.nonce, 1000)), (504, "timed_out".into()));
    // A node that has not met an epoch does not say that what it appended was lost.
    let unmet = of_epoch(epoch.number + 1, &id, epoch.nonce ^ 1, 1);
    assert_eq!(ask(unmet.clone()), (504, "timed_out".into()));
    let records = format!("/v1/records?from=0&at_least={unmet}&timeout=50ms");
    assert_eq!(get(&client, &records).0, 504);
    let other = "00000000-0000-0000-0000-000000000001";
    assert_eq!(ask(token(other, epoch.nonce, 1)), (409, "wrong_log".into()));
}

#[test]
fn segments_are_served_by_ranges_with_their_hash() {
    let mut leader = Leader::new();
    leader.append(60, 6000);
    let client = leader.client();
    // Afterwards nothing changes while the list is walked.
    until("all but the last are sealed", || {
        let (_, list) = get(&client, "/v1/segments");
        let (_, rolled) = list["segments"].as_array().unwrap().split_last().unwrap();
        rolled.iter().all(|segment| segment["sealed"] == true)
    });
    let (_, list) = get(&client, "/v1/segments");
    let segments = list["segments"].as_array().unwrap();
    assert!(segments.len() > 2, "{list}");
    for segment in segments {
        let base = segment["log_byte"].as_u64().unwrap();
        let file = std::fs::read(leader.path("leader").join(format!("segments/{base:020}.seg")));
        let file = file.unwrap();
        let path = format!("/v1/segments/{base}");
        let whole = client.get(&path, &[], NOW).unwrap();
        assert_eq!(whole.status, 200);
        let sealed = segment["sealed"] == true;
        let etag = whole.header("etag").map(str::to_owned);
        assert_eq!(etag.is_some(), sealed);
        let bytes = whole.bytes(64 << 20).unwrap();
        assert!(if sealed { bytes == file } else { file.starts_with(&bytes) }, "{base}");
        for (range, from, to) in [
            ("bytes=0-0", 0, 1),
            ("bytes=4096-5000", 4096, 5001),
            ("bytes=-256", bytes.len() - 256, bytes.len()),
            ("bytes=100-99999999999", 100, bytes.len()),
        ] {
            let part = client.get(&path, &[("range", range)], NOW).unwrap();
            assert_eq!(part.status, 206, "{range}");
            let said = format!("bytes {from}-{}/{}", to - 1, bytes.len());
            assert_eq!(part.header("content-range"), Some(said.as_str()));
            assert!(part.header("x-tidelog-crc32c").is_some());
            assert_eq!(part.bytes(64 << 20).unwrap(), bytes[from..to], "{range}");
        }
        let outside = [("range", "bytes=99999999999-")];
        assert_eq!(client.get(&path, &outside, NOW).unwrap().status, 416);
        let packed = format!("{path}?from=100&bytes=1000&packed=zstd");
        let packed = client.get(&packed, &[], NOW).unwrap().bytes(1 << 20).unwrap();
        assert_eq!(zstd::decode_all(&packed[..]).unwrap(), bytes[100..1100]);
        if let Some(etag) = etag {
            let known = [("if-none-match", etag.as_str())];
            assert_eq!(client.get(&path, &known, NOW).unwrap().status, 304);
            let stale = [("range", "bytes=0-0"), ("if-range", "\"other\"")];
            assert_eq!(client.get(&path, &stale, NOW).unwrap().status, 200);
        }
    }
}

#[test]
fn nothing_above_the_durable_end_is_handed_out() {
    let mut leader = Leader::new();
    leader.append(2, 10);
    let (durable, client) = (leader.server().log().durable_position(), leader.client());
    let base = get(&client, "/v1/segments").1["segments"][0].clone();
    let end = base["bytes"].as_u64().unwrap();
    assert_eq!(end, 4096 + durable.log_byte.0);
    let beyond = format!("bytes={end}-");
    assert_eq!(client.get("/v1/segments/0", &[("range", &beyond)], NOW).unwrap().status, 416);
    let packed = format!("/v1/segments/0?from={}&bytes=9999&packed=zstd", end - 1);
    let last = client.get(&packed, &[], NOW).unwrap().bytes(1 << 20).unwrap();
    assert_eq!(zstd::decode_all(&last[..]).unwrap().len(), 1);
}

#[test]
fn clients_that_do_not_read_hold_up_nobody_else() {
    let mut leader = Leader::new();
    leader.append(300, 20_000);
    let slow: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(leader.server().address()).unwrap();
            stream.write_all(b"GET /v1/records?limit=100000 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let client = leader.client();
    for i in 0..50 {
        let started = Instant::now();
        let (status, answer) = post(&client, "/v1/records", &put("k", "v"));
        assert_eq!(status, 200, "{answer}");
        let token = answer["token"].as_str().unwrap();
        assert_eq!(get(&client, &format!("/v1/table/k?at_least={token}")).0, 200, "append {i}");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    drop(slow);
    let copy = leader.path("copy");
    let source = tidelog::ship::Http::open(leader.server().url(), Credentials::default()).unwrap();
    let mut follower = tidelog::Follower::open(Log::options(), &copy, source).unwrap();
    follower.catch_up().unwrap();
    follower.close().unwrap();
    same(&leader, &copy);
}

#[test]
fn roles_health_metrics_and_the_page_are_there() {
    let mut leader = Leader::new();
    leader.append(3, 10);
    let client = leader.client();
    assert_eq!(get(&client, "/healthz").0, 200);
    until("it is applied", || get(&client, "/readyz?max_lag=10s,0").0 == 200);
    assert_eq!((get(&client, "/leader").0, get(&client, "/replica").0), (200, 503));
    let metrics = client.get("/metrics", &[], NOW).unwrap().bytes(1 << 20).unwrap();
    let metrics = String::from_utf8(metrics).unwrap();
    let end = leader.server().log().end();
    for line in [
        format!("tidelog_durable_offset {end}"),
        "tidelog_role{role=\"leader\"} 1".into(),
        "tidelog_poisoned 0".into(),
        "# TYPE tidelog_append_seconds histogram".into(),
        "tidelog_http_requests_total{method=\"GET\",status=\"200\"}".into(),
    ] {
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));
    let page = client.get("/", &[], NOW).unwrap();
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    let page = String::from_utf8(page.bytes(1 << 20).unwrap()).unwrap();
    for outside in ["src=", "@import", "url(", "<link", "//cdn"] {
        assert!(!page.contains(outside), "the page asks elsewhere: {outside}");
    }
    let hosts: Vec<&str> = page.matches("http://").collect();
    // The name of SVG, which is never fetched.
    assert_eq!(hosts.len(), page.matches("http://www.w3.org/2000/svg").count());
}

#[test]
fn the_verbs_serve_status_check_and_wait_do_what_they_say() {
    use std::io::BufRead;
    use std::process::{Command, Stdio};
    let place = tempfile::tempdir().unwrap();
    let tidelog = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidelog"));
        command.args(args).current_dir(place.path());
        command.env("XDG_CONFIG_HOME", place.path()).env_remove("TIDELOG_TOKEN");
        command
    };
    let run = |args: &[&str]| {
        let out = tidelog(args).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        (out.status.code().unwrap(), text, String::from_utf8(out.stderr).unwrap())
    };
    let serve = |args: &[&str]| {
        let mut child = tidelog(&[&["serve"], args, &["--listen", "127.0.0.1:0"]].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let url = said["listening"].as_str().unwrap().to_owned();
        (child, said, url)
    };
    assert_eq!(run(&["init", "a"]).0, 0);
    let (mut leader, said, url) = serve(&["a"]);
    assert_eq!(said["role"], "leader");
    let (mut follower, said, copy) = serve(&["b", "--follow", &url, "--name", "edge"]);
    assert_eq!(said["role"], "follower");
    let (_, appended) = post(&client(&url), "/v1/records", &put("gate", "open"));
    let token = appended["token"].as_str().unwrap();
    let (code, out, err) = run(&["wait", &copy, "--token", token, "--timeout", "20s"]);
    assert_eq!((code, out.trim()), (0, "{\"applied\":1}"), "{err}");
    assert_eq!(run(&["wait", &copy, "--offset", "0"]).0, 0);
    let (code, _, err) = run(&["wait", &copy, "--offset", "9", "--timeout", "50ms"]);
    assert!(code == 1 && err.contains("timed out"), "{err}");
    assert_eq!(run(&["wait", "a", "--offset", "0"]).0, 0);
    assert_eq!(run(&["wait", "a", "--offset", "9", "--timeout", "50ms"]).0, 1);
    // Of an epoch that is still to come here nothing can be said but that it is not there; of one that never was, all.
    let [v, log, number, nonce, at] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!("{token}")
    };
    let later = number.parse::<u64>().unwrap() + 1;
    for place in ["a", &copy] {
        let ask = |token: String| run(&["wait", place, "--token", &token, "--timeout", "50ms"]);
        let (code, _, err) = ask(format!("{v}.{log}.{later}.{nonce}.{at}"));
        assert!(code == 1 && err.contains("timed out"), "{place}: {code} {err}");
        let (code, _, err) = ask(format!("{v}.{log}.{number}.{:016x}.{at}", 1));
        assert!(code == 1 && err.contains("not in this history"), "{place}: {code} {err}");
    }
    let edge = || {
        let (code, out, err) = run(&["status", &url, "-o", "ndjson"]);
        assert_eq!(code, 0, "{err}");
        let rows: Vec<Value> = out.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
        rows.into_iter().find(|row| row["name"] == "edge")
    };
    until("the leader knows what the follower has", || {
        edge().is_some_and(|row| row["durable"] == 1 && row["applied"] == 1)
    });
    let row = edge().unwrap();
    assert_eq!((&row["role"], &row["state"]), (&"follower".into(), &"following".into()));
    assert_eq!((&row["lag_records"], &row["address"]), (&0.into(), &copy.as_str().into()));
    assert_eq!(run(&["check", &url, "--max-lag", "10s,0"]).0, 0);
    assert_eq!(run(&["check", &url, "--max-lag", "soon"]).0, 2);
    assert_eq!(run(&["status", "a"]).0, 0);
    // A second writer, a second leader of the copy, nobody there.
    assert_eq!(run(&["serve", "a", "--listen", "127.0.0.1:0"]).0, 5);
    assert_eq!(run(&["status", "http://127.0.0.1:1"]).0, 3);
    assert_eq!(run(&["serve", "a", "--listen", "0.0.0.0:0"]).0, 2);
    // Ctrl-C and a polite kill end it cleanly; then the lag is over what is allowed.
    stop(&mut follower);
    let (_, _) = post(&client(&url), "/v1/records", &put("gate", "shut"));
    let (code, _, err) = run(&["check", &url, "--max-lag", "0"]);
    assert!(code == 1 && err.contains("edge"), "{err}");
    stop(&mut leader);
    assert_eq!(run(&["serve", "b", "--listen", "127.0.0.1:0"]).0, 6);
    let (_, out, _) = run(&["get", "b", "gate", "-o", "raw"]);
    assert_eq!(out, "open\n");
    assert_eq!(run(&["follow", "b", "--from", "a", "--once"]).0, 0);
    assert_eq!(run(&["check", "b", "--max-lag", "0"]).0, 0);
    let (_, out, _) = run(&["get", "b", "gate", "-o", "raw"]);
    assert_eq!(out, "shut\n");

    fn stop(child: &mut std::process::Child) {
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(child.wait().unwrap().success());
    }
}
