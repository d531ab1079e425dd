//! What all verbs have alike: `-o`, `--dry-run`, words for what is not there; ranges of times; what copies,
//! snapshots and restored logs are, whatever was asked of the log before.

use std::collections::BTreeSet;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidelog::{Batch, Log, Record};

use crate::cli::Place;

/// Ends a node with its test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn stderr(place: &Place, args: &str) -> String {
    String::from_utf8(place.run(args).stderr).unwrap()
}

/// All verbs, those of groups as two words, and their help.
fn verbs(place: &Place, of: &str) -> Vec<(String, String)> {
    let help = place.ok(&format!("{of} --help"));
    let Some((_, listed)) = help.split_once("\nCommands:\n") else {
        return vec![(of.to_owned(), help)];
    };
    let listed = listed.lines().take_while(|line| !line.is_empty());
    let name = |line: &str| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned);
    let names = listed.filter_map(name).filter(|name| !name.is_empty() && name != "help");
    names.flat_map(|name| verbs(place, format!("{of} {name}").trim())).collect()
}

#[test]
fn every_verb_that_prints_takes_an_output_and_every_plan_a_dry_run() {
    let place = Place::new();
    let all = verbs(&place, "");
    assert!(all.len() > 50, "{all:?}");
    for (verb, help) in &all {
        let prints = !["serve", "demo", "dump", "completions", "man"].contains(&verb.as_str());
        assert_eq!(help.contains("-o, --output"), prints, "{verb}");
        assert!(!help.contains("--yes") || help.contains("--dry-run"), "{verb}");
        place.ok(&format!("man {verb}"));
    }
    assert!(place.ok("man members add").contains("\\fBtidelog members add\\fR"));
}

#[test]
fn examples_that_go_on_from_each_other_run_in_their_order() {
    for verb in ["snapshot", "restore"] {
        let place = Place::new();
        place.ok("init mylog");
        for value in ["open", "closed", "ajar"] {
            place.ok(&format!("append mylog gate {value}"));
        }
        let help = place.ok(&format!("{verb} --help"));
        let (_, examples) = help.split_once("\nExamples:\n").unwrap();
        let examples: Vec<&str> =
            examples.lines().map_while(|line| line.strip_prefix("  tidelog ")).collect();
        assert!(examples.len() > 5, "{help}");
        for example in examples {
            place.ok(example);
        }
    }
}

#[test]
fn single_objects_are_printed_in_every_format() {
    let place = Place::new();
    place.ok("init log");
    let appended = place.ok("append log k v -o table");
    assert!(appended.starts_with("offset  0\ntoken   v1."), "{appended}");
    let one: Value = serde_json::from_str(&place.ok("hash log -o json")).unwrap();
    assert_eq!((&one[0]["offset"], one.as_array().unwrap().len()), (&1.into(), 1));
    assert!(place.ok("hash log -o csv").starts_with("offset,epoch,rows,digest\n1,1,1,"));
    assert_eq!(place.ok("count log"), "1\n");
    assert_eq!(place.ok("count log -o json"), "[1]\n");
    let lines = objects(&place.ok("verify log"));
    let array: Value = serde_json::from_str(&place.ok("verify log -o json")).unwrap();
    assert_eq!(lines[0]["records"], array[0]["records"]);
}

#[test]
fn a_delimiter_may_be_written_as_shells_hand_it_on() {
    let place = Place::new();
    place.ok("init log");
    place.ok("append log a x");
    place.ok("append log b y");
    for (written, meant) in
        [("\\0", "x\0y\0"), ("\\t", "x\ty\t"), ("\\n", "x\ny\n"), ("|\\r", "x|\ry|\r")]
    {
        assert_eq!(place.ok(&format!("tail log -o raw --delimiter {written}")), meant);
    }
}

#[test]
fn one_record_for_eyes_is_shown_whole() {
    // A get on a terminal once cut the value that was asked for after 120 characters.
    let place = Place::new();
    place.ok("init log");
    let long = "x".repeat(500);
    place.ok(&format!("append log gate {long}"));
    let shown = place.ok("get log gate -o table");
    assert!(shown.starts_with("offset  0\n") && shown.ends_with(&format!("value   {long}\n")));
    place.ok(&format!("append log door {long}"));
    assert!(place.ok("tail log -o table").contains("xxx…"), "of several, each on its line");
}

#[test]
fn what_is_not_there_is_said_in_words() {
    let place = Place::new();
    place.write("file", "text");
    for (args, words) in [
        ("repair nodir", "expected a log's directory, found nothing (file nodir)"),
        (
            "follow copy --from nodir --once",
            "expected a log's directory, found nothing (file nodir)",
        ),
        ("archive push nodir --to shelf", "expected a log's directory, found nothing (file nodir)"),
        ("snapshot list nodir", "found nothing (file nodir)"),
        ("tail file", "expected a log's directory, found a file (file file)"),
        ("repair file", "expected a log's directory, found a file (file file)"),
    ] {
        place.expect(3, args);
        let err = stderr(&place, args);
        assert!(err.contains(words), "{args}: {err}");
    }
    assert!(!place.path("nodir").exists());
    place.expect(2, "wait file");
    let err = stderr(&place, "wait file");
    assert!(err.contains("--offset") && err.contains("--token"), "{err}");
    place.ok("init log");
    for args in ["slots list log", "diverged list log", "snapshot list log"] {
        assert_eq!(place.ok(args), "");
        assert!(!stderr(&place, args).is_empty(), "{args} left a person with nothing");
    }
}

/// Records whose times are in no order, one a second of 1,000 that are shuffled; of ten keys.
fn shuffled(place: &Place) -> Vec<(u64, u64)> {
    const START: i64 = 1_700_000_000;
    let log =
        Log::options().create(true).segment_bytes(64 << 10).open(place.path("mylog")).unwrap();
    let mut seconds = Vec::new();
    for batch in 0..20u64 {
        let mut records = Batch::new();
        for i in batch * 50..batch * 50 + 50 {
            let second = i * 617 % 1000;
            let (key, value) = (format!("k{}", i % 10), "v".repeat(200));
            let time = (START + i64::try_from(second).unwrap()) * 1_000_000_000;
            records.push(&Record::put(key.as_bytes(), value.as_bytes()).at(time)).unwrap();
            seconds.push((i, second));
        }
        log.append_batch(&records).unwrap();
    }
    log.close().unwrap();
    seconds
}

#[test]
fn a_range_of_times_is_of_the_records_of_these_times() {
    // Of a log in no order of time, it once began at the first record new enough and ended before the
    // first one too new: of the flights of a day a twentieth, and a day's of others.
    let place = Place::new();
    let all = shuffled(&place);
    let (child, url) = place.node();
    let _node = Node(child);
    let range = "@2023-11-14T22:15:00Z:@2023-11-14T22:16:40Z";
    let within = |(offset, second): &(u64, u64)| (100..200).contains(second).then_some(*offset);
    let wanted: Vec<u64> = all.iter().filter_map(within).collect();
    let of_key: Vec<u64> = wanted.iter().copied().filter(|offset| offset % 10 == 7).collect();
    let offsets = |text: String| -> Vec<u64> {
        objects(&text).iter().map(|line| line["offset"].as_u64().unwrap()).collect()
    };
    for at in ["mylog", &url] {
        assert_eq!(offsets(place.ok(&format!("tail {at} --range {range}"))), wanted);
        assert_eq!(offsets(place.ok(&format!("tail {at} --range {range} -n 3"))), wanted[..3]);
        assert_eq!(offsets(place.ok(&format!("history {at} k7 --range {range}"))), of_key);
        let last = place.ok(&format!("history {at} k7 --range {range} -n 2"));
        assert_eq!(offsets(last), of_key[of_key.len() - 2..]);
        let early = offsets(place.ok(&format!("tail {at} --range :@2023-11-14T22:15:00Z")));
        assert_eq!(early.len(), 100, "{early:?}");
        assert_eq!(
            offsets(place.ok(&format!("tail {at} --range @2023-11-14:2023-11-15"))).len(),
            1000
        );
    }
}

/// A log of few keys and 66 MiB, so large that its table is kept on disk.
fn large(place: &Place, name: &str) {
    let log = Log::options().create(true).open(place.path(name)).unwrap();
    for _ in 0..66 {
        let mut batch = Batch::new();
        for i in 0..16 {
            batch.push(&Record::put(format!("k{}", i % 4).as_bytes(), &[b'v'; 64 << 10])).unwrap();
        }
        log.append_batch(&batch).unwrap();
    }
    log.close().unwrap();
}

fn names(place: &Place, dir: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(place.path(dir)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_copy_has_the_log_whoever_asked_the_table_before() {
    // A get leaves a checkpoint beside a large log. A copy once began there, and had no record.
    let place = Place::new();
    large(&place, "log");
    place.ok("get log k1");
    assert!(names(&place, "log/table").iter().any(|name| name.ends_with(".checkpoint")));
    place.ok("follow copy --from log --once");
    assert_eq!(names(&place, "copy/segments"), names(&place, "log/segments"));
    for name in names(&place, "log/segments") {
        let read =
            |dir: &str| std::fs::read(place.path(&format!("{dir}/segments/{name}"))).unwrap();
        assert!(read("log") == read("copy"), "{name}");
    }
    assert_eq!(place.ok("tail copy --range 0:1"), place.ok("tail log --range 0:1"));
    place.ok("follow short --from log --once --begin cheaper");
    assert_ne!(objects(&place.ok("info short"))[0]["start_offset"], 0);
    assert_eq!(place.ok("hash short"), place.ok("hash copy"));
}

#[test]
fn a_snapshot_is_taken_beside_a_node_that_keeps_the_table() {
    let place = Place::new();
    place.ok("init mylog");
    place.ok("append mylog gate open");
    let (child, url) = place.node();
    let _node = Node(child);
    // It has none on disk yet, and nobody else may make one.
    place.expect(5, "snapshot create mylog --to snaps");
    place.ok(&format!("follow copy --from {url} --begin snapshot --once"));
    place.ok(&format!("append {url} gate closed"));
    let line = objects(&place.ok("snapshot create mylog --to snaps")).remove(0);
    assert_eq!(line["offset"], 1);
    assert!(stderr(&place, "snapshot create mylog --to snaps").contains("1 record behind"));
    place.ok("snapshot verify snaps");
    place.ok("restore back --from snaps");
    assert_eq!(place.ok("get back gate -o raw"), "open\n");
    place.expect(5, "snapshot create mylog --to snaps --digest");
}

#[test]
fn a_restored_log_is_known_to_be_durable() {
    let place = Place::new();
    place.ok("init log");
    place.ok("append log gate open");
    place.ok("append log gate closed");
    place.ok("restore back --from log --at 1");
    assert_eq!(stderr(&place, "tail back"), "");
    assert_eq!(objects(&place.ok("info back"))[0]["confirmed_offset"], 1);
    place.ok("append back gate ajar");
    place.ok("verify back");
    assert_eq!(place.ok("get back gate -o raw"), "ajar\n");
}

#[test]
fn status_says_what_a_failover_would_lose_and_take() {
    let place = Place::new();
    let (child, url) = place.serve(
        "serve mylog --create --listen 127.0.0.1:0 --coordinator file:///DIR --lease 3s --coordinator-timeout 300ms"
            .replace("DIR", place.path("seat").to_str().unwrap().trim_start_matches('/'))
            .as_str(),
    );
    let _node = Node(child);
    let begun = Instant::now();
    let row = loop {
        let row = objects(&place.ok(&format!("status {url}"))).remove(0);
        if row["role"] == "leader" || begun.elapsed() > Duration::from_secs(30) {
            break row;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(row["recovery_seconds"].as_u64().is_some_and(|seconds| seconds >= 3), "{row}");
    assert!(row.get("loss_records").is_some(), "{row}");
}

#[test]
fn a_bench_measures_all_and_draws_it() {
    let place = Place::new();
    let rows = objects(&place.ok("bench all --seconds 0.1 --size 100 --report page.html"));
    let what: Vec<&str> = rows.iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["append", "read", "apply", "ship"]);
    for row in &rows {
        assert!(row["records_per_s"].as_u64().unwrap() > 0 && row["p99_us"].is_number(), "{row}");
    }
    let page = std::fs::read_to_string(place.path("page.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 8);
    assert!(!page.contains("http://") && !page.contains("https://"), "it asks nobody");
    place.expect(3, "bench append --seconds 0.1 --report nodir/page.html");
    assert_eq!(
        names(&place, ".").iter().filter(|name| name.starts_with("tidelog-bench")).count(),
        0
    );
}
