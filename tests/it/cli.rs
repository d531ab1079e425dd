//! The command line from outside: outputs, exit codes, bad input, kills, closed pipes.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidelog"));
        command.args(args.split_whitespace()).current_dir(self.dir.path());
        command.env("XDG_CONFIG_HOME", self.path("config")).env_remove("TIDELOG_OUTPUT");
        command
    }

    pub(crate) fn run(&self, args: &str) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs and holds the exit code; returns stdout.
    pub(crate) fn expect(&self, code: i32, args: &str) -> String {
        let out = self.run(args);
        let err = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "tidelog {args}: {err}");
        if code != 0 {
            assert!(
                !err.trim().is_empty() || !out.stdout.is_empty(),
                "tidelog {args} said nothing"
            );
        }
        String::from_utf8(out.stdout).unwrap()
    }

    pub(crate) fn ok(&self, args: &str) -> String {
        self.expect(0, args)
    }

    /// A node that serves the small log, and its address.
    pub(crate) fn node(&self) -> (Child, String) {
        self.serve("serve mylog --listen 127.0.0.1:0")
    }

    pub(crate) fn serve(&self, args: &str) -> (Child, String) {
        let mut node = self.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(node.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        (node, json(&line)["listening"].as_str().unwrap().to_owned())
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn pipe(&self, from: &str, to: &str) -> String {
        let mut left = self.command(from).stdout(Stdio::piped()).spawn().unwrap();
        let right = self.command(to).stdin(left.stdout.take().unwrap()).output().unwrap();
        assert!(left.wait().unwrap().success());
        assert!(right.status.success(), "{}", String::from_utf8_lossy(&right.stderr));
        String::from_utf8(right.stdout).unwrap()
    }

    fn segments(&self, log: &str) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = std::fs::read_dir(self.path(log).join("segments"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|e| {
                (e.file_name().to_string_lossy().into_owned(), std::fs::read(e.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Rows as an airline would have them, some quoted.
fn rows(count: usize) -> String {
    let mut text = String::from("carrier,tail,time,note\n");
    for i in 0..count {
        let note = match i % 3 {
            0 => String::new(),
            1 => format!("\"late, by {i}\""),
            _ => format!("\"said \"\"{i}\"\"\""),
        };
        text += &format!("C{},N{},2013-01-01T10:{:02}:00Z,{note}\n", i % 5, i % 97, i % 60);
    }
    text
}

const CSV: &str = "--input csv --key-field tail --ts-field time";

#[test]
fn csv_comes_back_unchanged_and_the_last_row_of_a_key_is_found() {
    let place = Place::new();
    let text = rows(5000);
    place.write("rows.csv", &text);
    let summary = json(&place.ok(&format!("ingest log rows.csv {CSV} --create --batch 100")));
    assert_eq!((&summary["records"], &summary["first_offset"]), (&5000.into(), &0.into()));
    assert_eq!(summary["last_offset"], 4999);
    assert!(summary["token"].as_str().unwrap().starts_with("v1."));
    assert_eq!(place.ok("tail log -o csv"), text);
    let last = (0..5000).rev().find(|i| i % 97 == 7).unwrap();
    let row = json(&place.ok("get log N7"));
    assert_eq!((&row["offset"], &row["op"]), (&last.into(), &"put".into()));
    assert_eq!(json(row["value"].as_str().unwrap())["carrier"], format!("C{}", last % 5));
    assert_eq!(place.ok("count log").trim(), "97");
    assert_eq!(place.ok("tail log --range 10:13").lines().count(), 3);
    assert_eq!(place.ok("tail log --range -7").lines().count(), 7);
    assert_eq!(place.ok("tail log -n 2").lines().count(), 2);
    let early = place.ok("tail log --range @2013-01-01T10:59:00Z:");
    assert_eq!(json(early.lines().next().unwrap())["offset"], 59);
    let keyed = place.ok("tail log --key N7 --range 0:1000");
    assert!(keyed.lines().all(|line| json(line)["key"] == "N7") && keyed.lines().count() > 5);
    let scan = place.ok("scan log --prefix N1 -n 3");
    let keys: Vec<String> =
        scan.lines().map(|line| json(line)["key"].as_str().unwrap().to_owned()).collect();
    assert_eq!(keys, ["N1", "N10", "N11"]);
}

#[test]
fn compressed_inputs_are_told_by_their_first_bytes() {
    let place = Place::new();
    let text = rows(100);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    place.write("a", gz.finish().unwrap());
    place.write("b", zstd::encode_all(text.as_bytes(), 1).unwrap());
    let summary = json(&place.ok(&format!("ingest log a b {CSV} --create")));
    assert_eq!(summary["records"], 200);
}

#[test]
fn a_tail_piped_into_an_ingest_loses_nothing() {
    let place = Place::new();
    let lines = [
        r#"{"op":"put","key":"k","value":"v","ts":"2020-01-01T00:00:00.000000001Z"}"#,
        r#"{"op":"put","key_b64":"/wA=","value_b64":"/v8=","ts":"2020-01-01T00:00:00Z"}"#,
        r#"{"op":"delete","key":"k","ts":"2021-01-01T00:00:00Z"}"#,
        r#"{"op":"event","value":"","ts":"1969-12-31T23:59:59.999999999Z"}"#,
        r#"{"op":"event","key":"","value":"\u0000\n\"","ts":"2020-01-01T00:00:00Z"}"#,
    ];
    place.write("in", lines.join("\n"));
    let ingested = place.ok("ingest one in --input envelope --create");
    assert_eq!(ingested.lines().count(), 1);
    place.pipe("tail one -o ndjson", "ingest two - --input envelope --create");
    let (one, two) = (place.ok("tail one -o ndjson"), place.ok("tail two -o ndjson"));
    assert_eq!(one, two);
    assert_eq!(one.lines().count(), 5);
    assert!(one.contains(r#""key_b64":"/wA=","value_b64":"/v8=""#), "{one}");
    assert_eq!(json(&place.ok("tail one -o json"))[2]["op"], "delete");
    let raw = place.run("tail one -n 5 -o raw --delimiter |").stdout;
    assert_eq!(raw, b"v|\xfe\xff|||\0\n\"|");
}

#[test]
fn a_bad_line_stops_with_its_place_and_keeps_what_came_before() {
    let place = Place::new();
    place.write("in", "{\"id\":\"a\"}\n{\"id\":\"b\"}\nnonsense\n{\"id\":\"c\"}\n");
    let out = place.run("ingest log in --input ndjson --key-field id --create");
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{err}");
    assert!(err.contains("in, line 3"), "{err}");
    assert_eq!(json(&String::from_utf8(out.stdout).unwrap())["records"], 2);
    assert_eq!(place.ok("tail log").lines().count(), 2);
    let out =
        place.expect(1, "ingest log2 in --input ndjson --key-field id --create --skip-bad bad");
    assert_eq!(json(&out)["records"], 3);
    assert_eq!(std::fs::read_to_string(place.path("bad")).unwrap(), "nonsense\n");
}

#[test]
fn wrong_calls_exit_2_and_change_nothing() {
    let place = Place::new();
    place.write("rows.csv", rows(3));
    place.ok(&format!("ingest log rows.csv {CSV} --create"));
    let before = place.segments("log");
    for args in [
        "",
        "shout",
        "ingest log rows.csv",
        "ingest log rows.csv --input csv --key-field nope",
        "ingest log rows.csv --input lines --key-field x",
        "ingest log rows.csv --input csv --batch 0",
        "tail log --range 9:3",
        "tail log --range nonsense",
        "tail log -o pdf",
        "get log k --at-least nonsense",
        "append log k",
        "init log",
        "retain log",
        "retain log --keep-bytes many",
        "serve log --slot-disk 101",
        "serve log --slot-bytes many",
        "serve copy --follow log --keep-bytes 1MiB",
        "slots drop log",
        "bench append --seconds 0",
        "bench apply --keys 0",
        "follow copy --from ftp://leader --once",
    ] {
        place.expect(2, args);
    }
    assert!(place.segments("log") == before);
    let err = place.run("ingest log rows.csv --input csv --key-field nope").stderr;
    assert!(String::from_utf8_lossy(&err).contains("carrier, tail, time, note"));
}

#[test]
fn every_kind_of_failure_has_its_exit_code() {
    let place = Place::new();
    place.write("rows.csv", rows(2000));
    place.expect(3, "info missing");
    place.expect(3, "ingest missing rows.csv --input csv");
    assert!(!place.path("missing").exists(), "only --create makes a log");
    place.expect(3, "ingest log nofile --input csv --create");
    place.ok("init log --segment-bytes 64KiB");
    place.ok(&format!("ingest log rows.csv {CSV}"));
    place.expect(1, "get log nokey");
    place.expect(1, "append log k v --expect-offset 7");
    let appended = json(&place.ok("append log k v --expect-offset 2000"));
    assert_eq!(appended["offset"], 2000);
    let token = appended["token"].as_str().unwrap().to_owned();
    assert_eq!(json(&place.ok(&format!("get log k --at-least {token}")))["offset"], 2000);
    let later = token.replace(".2000", ".2001");
    place.expect(1, &format!("get log k --at-least {later} --timeout 50ms"));

    // Somebody writes: a tail that follows does not, a second ingest does.
    let mut writer = place
        .command("ingest log - --input lines")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let waiting = std::time::Instant::now();
    loop {
        let out = place.run("append log x y --event");
        match out.status.code() {
            Some(5) => break,
            _ => assert!(waiting.elapsed().as_secs() < 20, "{out:?}"),
        }
    }
    place.ok("verify log --quick");
    drop(writer.stdin.take());
    assert!(writer.wait().unwrap().success());

    // A follower takes no appends; a copied directory neither.
    place.ok("follow copy --from log --once");
    place.expect(6, "append copy k v");
    let copied =
        Command::new("cp").args(["-r", "log", "twin"]).current_dir(place.dir.path()).status();
    assert!(copied.unwrap().success());
    place.expect(6, "append twin k v");
    place.ok("tail twin -n 1");

    // Damage.
    let file = place.path("log/segments/00000000000000000000.seg");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[9000] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let report = place.expect(1, "verify log");
    let line = json(report.lines().next().unwrap());
    assert!(line["file"].as_str().unwrap().ends_with(".seg") && line["byte"].is_u64(), "{report}");
    place.expect(4, "tail log");
    let dump = place.expect(1, "dump log/segments/00000000000000000000.seg");
    assert!(dump.contains("\"what\":\"damage\""));
    place.expect(1, "repair log");
    place.expect(1, "verify log");
    let repaired = json(&place.ok("repair log --yes"));
    assert!(repaired["lost_records"].as_u64().unwrap() > 0, "{repaired}");
    place.ok("verify log");
    let out = place.run("tail log");
    assert_eq!(out.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&out.stderr).contains("were lost"));
    std::fs::remove_file(place.path("log/LOG")).unwrap();
    place.expect(3, "info log");
}

#[test]
fn a_killed_ingest_is_resumed_without_loss_or_duplicate() {
    let place = Place::new();
    let text = rows(60_000);
    place.write("rows.csv", &text);
    for (log, millis) in [("a", 0), ("b", 15), ("c", 40), ("d", 90)] {
        let mut child = place
            .command(&format!("ingest {log} rows.csv {CSV} --create --batch 50"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
        let partial = place.run(&format!("tail {log} -o csv")).stdout;
        assert!(text.as_bytes().starts_with(&partial), "what is there is a beginning");
        place.ok(&format!("ingest {log} rows.csv {CSV} --create --batch 50 --resume"));
        assert!(place.ok(&format!("tail {log} -o csv")) == text, "killed after {millis} ms");
        let again = json(&place.ok(&format!("ingest {log} rows.csv {CSV} --resume")));
        assert_eq!(again["records"], 0);
    }
}

#[test]
fn going_on_refuses_an_input_that_has_changed() {
    // A path alone once decided where to go on: of a rotated file the beginning was skipped.
    let place = Place::new();
    let text = rows(300);
    place.write("rows.csv", &text);
    place.ok(&format!("ingest log rows.csv {CSV} --create"));
    let resume = format!("ingest log rows.csv {CSV} --resume");
    place.write("rows.csv", format!("{text}C9,N9,2014-01-01T00:00:00Z,new\n"));
    assert_eq!(json(&place.ok(&resume))["records"], 1, "a file that has grown");
    place.expect(2, "ingest log rows.csv --input csv --key-field carrier --resume");
    place.write("rows.csv", format!("{text}C8,N9,2014-01-01T00:00:00Z,new\nC,N,x,y\n"));
    place.expect(2, &resume);
    place.write("rows.csv", rows(299));
    place.expect(2, &resume);
    assert_eq!(place.ok("tail log").lines().count(), 301);
    assert_eq!(json(&place.ok(&format!("ingest log rows.csv {CSV}")))["records"], 299);
    assert_eq!(json(&place.ok(&resume))["records"], 0, "the newest run is the one to go on with");
}

#[test]
fn a_mended_file_is_gone_on_with_behind_the_bad_line() {
    let place = Place::new();
    let lines = |third: &str| format!("{{\"id\":1}}\n{{\"id\":2}}\n{third}\n{{\"id\":4}}\n");
    place.write("in", lines("{\"id\":"));
    place.expect(1, "ingest log in --input ndjson --key-field id --create");
    place.write("in", lines("{\"id\":3}"));
    place.ok("ingest log in --input ndjson --key-field id --resume");
    assert_eq!(place.ok("tail log -o raw"), lines("{\"id\":3}"));
}

#[test]
fn lines_of_a_pipe_are_appended_as_they_come() {
    let place = Place::new();
    let mut child = place
        .command("ingest log --input lines --create")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"a\nb\nunfini").unwrap();
    let read = || String::from_utf8(place.run("tail log -o raw").stdout).unwrap();
    let waiting = std::time::Instant::now();
    while read() != "a\nb\n" {
        assert!(waiting.elapsed().as_secs() < 20, "{:?}", read());
    }
    input.write_all(b"shed\n").unwrap();
    drop(input);
    let out = child.wait_with_output().unwrap();
    assert_eq!(json(&String::from_utf8(out.stdout).unwrap())["records"], 3);
    assert_eq!(read(), "a\nb\nunfinished\n");
}

#[test]
fn csv_takes_records_of_every_kind_and_tables_hold_one_line_each() {
    let place = Place::new();
    let lines = [
        r#"{"op":"put","key":"a","value":"{\"x\":1,\"y\":\"p, q\"}","ts":"2020-01-01T00:00:00.5Z"}"#,
        r#"{"op":"delete","key":"a","ts":"2020-01-01T00:00:00Z"}"#,
        r#"{"op":"put","key":"b","value":"{\"y\":null,\"z\":[1]}","ts":"2020-01-01T00:00:00Z"}"#,
        r#"{"op":"event","value":"free\ntext","ts":"2020-01-01T00:00:00Z"}"#,
    ];
    place.write("in", lines.join("\n"));
    place.ok("ingest log in --input envelope --create");
    assert_eq!(
        place.ok("tail log -o csv --with offset,op,key"),
        "offset,op,key,x,y,z,value\n0,put,a,1,\"p, q\",,\n1,delete,a,,,,\n2,put,b,,,[1],\n\
         3,event,,,,,\"free\ntext\"\n"
    );
    let table = place.ok("tail log -o table");
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(table.contains(" 2020-01-01T00:00:00.5Z ") && table.contains("free\u{fffd}text"));
    let history = place.ok("history log a");
    assert_eq!(
        history.lines().map(|line| json(line)["offset"].clone()).collect::<Vec<_>>(),
        [0, 1]
    );
    place.write("log/tidelog.toml", "output = \"raw\"\n");
    assert_eq!(place.ok("get log b"), "{\"y\":null,\"z\":[1]}\n");
    assert_eq!(json(&place.ok("get log b -o json"))[0]["key"], "b");
}

#[test]
fn a_history_shows_every_record_of_its_key_and_passes_over_what_cannot_hold_it() {
    let place = Place::new();
    place.write("rows.csv", rows(5000));
    place.ok("init log --segment-bytes 64KiB");
    place.ok("append log gate open");
    place.ok(&format!("ingest log rows.csv {CSV} --batch 100"));
    for args in ["append log gate shut", "append log gate --delete", "append log gate rung --event"]
    {
        place.ok(args);
    }
    let all = place.ok("tail log --key gate -o ndjson");
    assert_eq!(all.lines().count(), 4);
    let run = |args: &str| {
        let out = place.run(args);
        assert_eq!(out.status.code(), Some(0), "{args}");
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    // Filters are kept where a table is; who only reads makes no directory.
    place.ok("snapshot create log --to snapshots");
    let (first, summary) = run("history log gate");
    assert_eq!(first, all);
    assert!(summary.contains("4 records of key \"gate\"; read "), "{summary}");
    assert!(summary.contains("passed over 0"), "{summary}");
    let (again, summary) = run("history log gate");
    assert_eq!(again, all);
    assert!(!summary.contains("passed over 0"), "{summary}");
    let lines: Vec<&str> = all.lines().collect();
    let history = |args: &str| place.ok(&format!("history log gate {args}"));
    assert_eq!(history("-n 2"), format!("{}\n{}\n", lines[2], lines[3]));
    assert_eq!(history("--range 0:5001"), format!("{}\n", lines[0]));
    assert_eq!(history("--range -3 -n 1 -o raw"), "rung\n");
    assert_eq!(history("-o csv --with op -n 3"), "op,value\nput,shut\ndelete,\nevent,rung\n");
    assert_eq!(place.expect(1, "history log gate --range 10:20"), "");
    assert_eq!(place.expect(1, "history log gate -n 0"), "");
    assert_eq!(place.expect(1, "history log nobody -o json"), "[]\n");
    place.expect(2, "history log gate --range 20");
    place.expect(3, "history elsewhere gate");
    place.ok("verify log");
    place.ok("retain log --keep-bytes 64KiB --table-is-only-copy --yes");
    assert_eq!(history("-o raw"), "shut\n\nrung\n");
    place.expect(1, "history log gate --range 0:");
}

#[test]
fn a_follower_is_byte_identical_and_answers_the_same() {
    let place = Place::new();
    place.write("rows.csv", rows(5000));
    place.ok("init log --segment-bytes 64KiB");
    place.ok(&format!("ingest log rows.csv {CSV} --batch 100"));
    place.ok("follow copy --from log --once");
    let (leader, copy) = (place.segments("log"), place.segments("copy"));
    assert!(leader.len() > 5);
    for ((name, a), (other, b)) in leader.iter().zip(&copy) {
        assert_eq!(name, other);
        let sealed = a.len().min(b.len());
        assert!(a[..sealed] == b[..sealed], "{name} differs");
    }
    assert_eq!(place.ok("get log N3"), place.ok("get copy N3"));
    assert_eq!(place.ok("count log"), place.ok("count copy"));
    place.ok("append log N3 changed");
    let step = place.ok("follow copy --from log --once");
    assert_eq!(json(&step)["records"], 1);
    place.ok("follow copy --from log --until 5001");
    assert_eq!(place.ok("tail copy -n 1"), place.ok("tail log -n 1"));
    place.ok("verify copy");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let place = Place::new();
    place.write("rows.csv", rows(20_000));
    place.ok(&format!("ingest log rows.csv {CSV} --create"));
    for args in
        ["tail log", "scan log", "tail log -o csv", "dump log/segments/00000000000000000000.seg"]
    {
        let mut child =
            place.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.stderr.is_empty(), "{args}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.status.code(), Some(0), "{args}");
    }
}

#[test]
fn settings_come_from_flag_then_environment_then_files() {
    let place = Place::new();
    let value = |extra: Option<&str>| {
        let mut command = place.command("config show log --origin");
        if let Some(value) = extra {
            command.env("TIDELOG_BATCH", value);
        }
        let out = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let line = out.lines().map(json).find(|line| line["setting"] == "batch").unwrap();
        (line["value"].as_str().unwrap().to_owned(), line["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(value(None), ("1000".into(), "default".into()));
    std::fs::create_dir_all(place.path("config/tidelog")).unwrap();
    place.write("config/tidelog/config.toml", "batch = 10\n");
    assert_eq!(value(None).0, "10");
    place.ok("init log");
    place.write("log/tidelog.toml", "batch = 20\n");
    assert_eq!(value(None).0, "20");
    assert_eq!(value(Some("30")), ("30".into(), "TIDELOG_BATCH".into()));
    place.write("log/tidelog.toml", "bach = 20\n");
    place.expect(2, "config show log");
}

#[test]
fn every_example_in_the_help_runs() {
    let place = Place::new();
    let verbs = "init ingest append tail pause resume info segments dump verify repair get scan history count hash \
                 sql diverged serve members promote switchover demote failover status check wait \
                 follow demo retain slots bench config completions man version";
    place.write("flights.csv.gz", rows(50).replace("tail", "tailnum"));
    place.write("app.ndjson", "{\"id\":\"a\"}\n");
    place.write("tokens", "read 0123456789abcdef\n");
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    place.write("c.pem", certified.cert.pem());
    place.write("k.pem", certified.signing_key.serialize_pem());
    let (mut examples, mut seen) = (Vec::new(), 0);
    for verb in verbs.split_whitespace() {
        let help = match verb {
            "config" => place.ok("config show --help"),
            "members" => place.ok("members list --help"),
            "slots" => place.ok("slots list --help"),
            "failover" => place.ok("failover status --help"),
            "diverged" => place.ok("diverged list --help"),
            _ => place.ok(&format!("{verb} --help")),
        };
        let found: Vec<String> = help
            .lines()
            .skip_while(|line| *line != "Examples:")
            .skip(1)
            .take_while(|line| line.starts_with("  "))
            .map(|line| line.trim().to_owned())
            .collect();
        assert!(!found.is_empty(), "{verb} shows no example");
        examples.extend(found);
    }
    for example in examples {
        // Every example starts from a small log of its own.
        for name in ["mylog", "copy", "demo", "elsewhere"] {
            let _ = std::fs::remove_dir_all(place.path(name));
        }
        if !example.contains("init ") && !example.contains("--create") {
            place.ok("init mylog --segment-bytes 64KiB");
            place.ok("append mylog gate open");
            place.ok("append mylog gate closed");
        }
        if example.contains("tail mylog | ") {
            place.ok("init mylog");
            place.ok("append mylog gate open");
        }
        let token =
            || json(&place.ok("append mylog gate ajar"))["token"].as_str().unwrap().to_owned();
        let line = match example.contains("TOKEN") {
            true => example.replace("TOKEN", &token()),
            false => example.clone(),
        };
        let serves = line.starts_with("tidelog serve");
        let pauses = line.contains("tidelog pause") || line.contains("tidelog resume");
        // A node that names others is the node itself.
        let asks = line.contains("http://") && !line.contains("--peer");
        if line.contains("etcd://") {
            // That takes an etcd: tests/it/failover.rs has one.
            seen += 1;
            continue;
        }
        let node = asks.then(|| match pauses {
            true => place.serve("serve copy --follow mylog --listen 127.0.0.1:0"),
            false => place.node(),
        });
        let waits = serves
            || line.contains("--follow")
            || line.contains("--watch")
            || line.contains("--limit-bytes-per-s")
            || line.ends_with("--from mylog");
        let program = env!("CARGO_BIN_EXE_tidelog");
        let line = if waits { format!("timeout -s INT 1 {line}") } else { line };
        let line = match &node {
            Some((_, url)) => {
                let line = line.replace("http://127.0.0.1:7400", url);
                line.replace("http://127.0.0.1:7401", url)
            }
            None => line,
        };
        // Whatever else is running here may have the port that it listens on.
        let line = match serves && !line.contains("--listen") {
            true => format!("{line} --listen 127.0.0.1:0"),
            false => line.replace(":7400 ", ":0 ").replace(":7401", ":0"),
        };
        let path = format!(
            "{}:{}",
            Path::new(program).parent().unwrap().display(),
            std::env::var("PATH").unwrap()
        );
        let out = Command::new("sh")
            .args(["-c", &line])
            .env("PATH", path)
            .current_dir(place.dir.path())
            .output()
            .unwrap();
        let code = out.status.code();
        let fine = match (waits, line.contains("--dry-run")) {
            (true, _) => matches!(code, Some(124 | 130)),
            // A plan that would change something.
            (false, true) => code == Some(1),
            (false, false) => code == Some(0),
        };
        assert!(fine, "{example}: {code:?} {}", String::from_utf8_lossy(&out.stderr));
        if let Some((mut node, _)) = node {
            node.kill().unwrap();
            node.wait().unwrap();
        }
        seen += 1;
    }
    assert!(seen >= 59, "{seen} examples");
}

#[test]
fn a_named_cursor_goes_on_where_it_stopped_and_holds_what_it_has_not_read() {
    let place = Place::new();
    place.write("lines", "a line of some length to fill segments with\n".repeat(5000));
    place.ok("init log --segment-bytes 64KiB");
    place.ok("ingest log lines --input lines --batch 100");
    let offsets = |out: String| -> Vec<u64> {
        out.lines().map(|line| json(line)["offset"].as_u64().unwrap()).collect()
    };
    assert_eq!(offsets(place.ok("tail log --cursor mailer -n 3")), [0, 1, 2]);
    assert_eq!(offsets(place.ok("tail log --cursor mailer -n 2")), [3, 4]);
    let held = json(&place.expect(0, "retain log --keep-bytes 64KiB --yes"));
    assert_eq!(held["held_by"], serde_json::json!({ "cursor": "mailer", "offset": 5 }));
    assert_eq!(held["start_offset"], 0);
    assert_eq!(place.ok("tail log --cursor mailer -o raw").lines().count(), 4995);
    assert_eq!(place.ok("tail log --cursor mailer"), "");
    place.ok("append log gate open");
    place.ok("append log gate shut");
    // Records that are not wanted were read all the same.
    assert_eq!(place.ok("tail log --cursor mailer --key door"), "");
    place.ok("append log door shut");
    assert_eq!(offsets(place.ok("tail log --cursor mailer -o ndjson")), [5002]);
    let dropped = json(&place.ok("retain log --keep-bytes 64KiB --yes"));
    assert!(dropped["start_offset"].as_u64().unwrap() > 1000, "{dropped}");

    // A second reader of the same name has to wait; other names do not.
    let mut first =
        place.command("tail log --cursor mailer --follow").stdout(Stdio::piped()).spawn().unwrap();
    place.ok("append log gate open");
    let mut line = String::new();
    BufReader::new(first.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(json(&line)["offset"], 5003);
    place.expect(5, "tail log --cursor mailer");
    assert!(place.ok("tail log --cursor other").lines().count() > 1000);
    first.kill().unwrap();
    first.wait().unwrap();

    place.expect(2, "tail log --cursor ../x");
    place.expect(2, "tail log --cursor mailer --range 1:2");
    place.expect(2, "tail http://127.0.0.1:1 --cursor mailer");
    place.ok("verify log");
    // A cursor that cannot be read stops retention; it is not passed over.
    place.write("log/cursors/other.cursor", "nonsense");
    place.expect(4, "tail log --cursor other");
    place.expect(4, "retain log --keep-bytes 64KiB --yes");
    std::fs::remove_file(place.path("log/cursors/other.cursor")).unwrap();
    // Of another log's directory it is refused.
    place.ok("init strange");
    std::fs::create_dir(place.path("strange/cursors")).unwrap();
    let file = "cursors/mailer.cursor";
    std::fs::copy(place.path("log").join(file), place.path("strange").join(file)).unwrap();
    place.expect(4, "tail strange --cursor mailer");
}

#[test]
fn an_interrupted_follow_ends_with_130() {
    let place = Place::new();
    place.ok("init log");
    place.ok("append log k v");
    let out = Command::new("timeout")
        .args([
            "-s",
            "INT",
            "0.5",
            env!("CARGO_BIN_EXE_tidelog"),
            "follow",
            "copy",
            "--from",
            "log",
        ])
        .current_dir(place.dir.path())
        .output()
        .unwrap();
    // `timeout` says 124 itself; the line shows that it had copied by then.
    assert!(String::from_utf8_lossy(&out.stdout).contains("\"to_offset\":1"), "{out:?}");
    assert_eq!(place.ok("tail copy").lines().count(), 1);
}
