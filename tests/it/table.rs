//! The table's directory: damage that is found, repaired and healed; forks; what the command line
//! shows of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tidelog::log::{Level, Retention};
use tidelog::table::{self, RestoreAt, Snapshots, fork};
use tidelog::{Batch, Kind, Log, Offset, Record, Table};

fn run(dir: &Path, args: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidelog"));
    command.args(args.split_whitespace()).current_dir(dir).stdin(Stdio::null());
    command.env("XDG_CONFIG_HOME", dir.join("config")).env_remove("TIDELOG_OUTPUT");
    command.output().unwrap()
}

/// Runs and holds the exit code; returns stdout, and stderr.
fn expect(dir: &Path, code: i32, args: &str) -> (String, String) {
    let out = run(dir, args);
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "tidelog {args}: {err}");
    (String::from_utf8(out.stdout).unwrap(), err)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn key(i: u64) -> String {
    format!("key/{i:05}")
}

/// Appends rows, some deleted again.
fn fill(log: &Log, rows: std::ops::Range<u64>) {
    for start in rows.clone().step_by(100) {
        let mut batch = Batch::new();
        for i in start..rows.end.min(start + 100) {
            batch.push(&Record::put(key(i).as_bytes(), &[b'v'; 300])).unwrap();
        }
        batch.push(&Record::delete(key(start).as_bytes())).unwrap();
        log.append_batch(&batch).unwrap();
    }
}

/// A log of many small segments, with a table that has one checkpoint for each part.
fn made(dir: &Path, parts: u64) -> PathBuf {
    let path = dir.join("log");
    let log = Log::options().create(true).segment_bytes(64 << 10).open(&path).unwrap();
    let table = Table::options().open(&log).unwrap();
    for part in 0..parts {
        fill(&log, part * 1000..part * 1000 + 1000);
        table.catch_up(&log).unwrap();
        table.checkpoint().unwrap();
    }
    drop(table);
    log.close().unwrap();
    path
}

fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == ending))
        .collect();
    found.sort();
    found
}

fn flip(path: &Path, byte: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

/// The run that holds the newest part: the one that only the newest checkpoint names.
fn newest_run(log: &Path) -> PathBuf {
    let newest = files(&log.join("table"), "checkpoint").pop().unwrap();
    let text = std::fs::read_to_string(newest).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("run ")).unwrap();
    log.join("table").join(format!("{}.run", line.split(' ').next().unwrap()))
}

#[test]
fn a_flipped_byte_of_a_run_is_found_named_set_aside_and_healed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let log = made(dir, 2);
    let damaged = newest_run(&log);
    let digest = expect(dir, 0, "hash log").0;
    let (out, _) = expect(dir, 0, "verify log");
    let last = lines(&out).pop().unwrap();
    assert_eq!((&last["checkpoints"], &last["runs"]), (&2.into(), &2.into()), "{last}");

    // Inside the first block, behind the frame's header.
    flip(&damaged, 64 + 32 + 40);
    let (out, _) = expect(dir, 1, "verify log");
    let found = lines(&out);
    let name = damaged.file_name().unwrap().to_str().unwrap();
    assert!(found[0]["file"].as_str().unwrap().ends_with(name), "{}", found[0]);
    assert_eq!((&found[0]["byte"], &found[0]["offsets"]), (&64.into(), &Value::Null));
    assert!(found[0]["problem"].as_str().unwrap().contains("key/01000"), "{}", found[0]);
    let quick = expect(dir, 0, "verify log --quick").0;
    assert_eq!(lines(&quick).pop().unwrap()["runs"], 2);

    let (_, err) = expect(dir, 4, "get log key/01002");
    assert!(err.contains(name) && err.contains("tidelog repair"), "{err}");
    expect(dir, 0, "get log key/00007");

    let (out, err) = expect(dir, 1, "repair log");
    assert_eq!(lines(&out)[0]["actions"], 2, "the run, and the checkpoint that names it: {err}");
    assert!(err.contains("checkpoint 1") && damaged.exists(), "{err}");
    let (out, _) = expect(dir, 0, "repair log --yes");
    assert_eq!(lines(&out)[0]["quarantined"].as_array().unwrap().len(), 2);
    assert!(!damaged.exists());
    let notes = files(&log.join("quarantine"), "note");
    assert!(std::fs::read_to_string(&notes[0]).unwrap().contains("reason byte 64: expected"));

    expect(dir, 0, "verify log");
    expect(dir, 0, "get log key/01002");
    assert_eq!(expect(dir, 0, "hash log").0, digest);
    let (_, err) = expect(dir, 0, "repair log");
    assert!(err.contains("nothing to repair"), "{err}");
}

#[test]
fn damaged_checkpoints_and_lost_runs_leave_a_table_that_comes_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = made(dir.path(), 2);
    let digest = expect(dir.path(), 0, "hash log").0;
    for manifest in files(&log.join("table"), "checkpoint") {
        flip(&manifest, 30);
    }
    let found = table::verify(&log, Level::Quick).unwrap();
    assert_eq!((found.checkpoints, found.runs, found.problems.len()), (2, 0, 2));
    let plan = table::repair(&log, true).unwrap();
    assert_eq!((plan.actions.len(), plan.next), (2, None));
    assert!(plan.quarantined.is_empty() && plan.dry_run);
    assert_eq!(table::repair(&log, false).unwrap().quarantined.len(), 2);
    assert_eq!(expect(dir.path(), 0, "hash log").0, digest);

    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let log = made(&other, 2);
    let [first, second] = files(&log.join("table"), "checkpoint").try_into().unwrap();
    let text = std::fs::read(&second).unwrap();
    std::fs::copy(&first, &second).unwrap();
    let found = table::verify(&log, Level::Quick).unwrap();
    assert!(found.problems[0].problem.contains("expected checkpoint 2, found 1"), "{found:?}");
    assert_eq!(table::repair(&log, true).unwrap().next.map(|(seq, _)| seq), Some(1));
    std::fs::write(&second, text).unwrap();
    std::fs::remove_file(newest_run(&log)).unwrap();
    let found = table::verify(&log, Level::Quick).unwrap();
    assert!(found.problems[0].problem.contains("found none"), "{found:?}");
    let done = table::repair(&log, false).unwrap();
    assert_eq!((done.actions.len(), done.next.map(|(seq, _)| seq)), (1, Some(1)));
    assert!(table::verify(&log, Level::Full).unwrap().problems.is_empty());
}

#[test]
fn a_table_that_is_the_only_copy_of_its_rows_is_never_moved() {
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path(), 3);
    let log = Log::options().open(&path).unwrap();
    let table = Table::options().open(&log).unwrap();
    let shelf = Snapshots::at(path.join("snapshots"));
    shelf.publish(&table, false).unwrap();
    drop(table);
    let policy =
        Retention { keep_bytes: Some(1), table_is_only_copy: true, ..Retention::default() };
    log.retain(&policy).unwrap();
    assert!(log.start() > Offset(0));
    log.close().unwrap();
    // The oldest run: both checkpoints name it.
    let text = std::fs::read_to_string(files(&path.join("table"), "checkpoint").pop().unwrap());
    let last = text.unwrap().lines().rfind(|l| l.starts_with("run ")).unwrap().to_owned();
    let name = format!("{}.run", last.split(' ').nth(1).unwrap());
    flip(&path.join("table").join(&name), 64 + 32 + 40);

    let (out, err) = expect(dir.path(), 1, "repair log --yes");
    let report = &lines(&out)[0];
    assert_eq!((&report["actions"], &report["repaired"]), (&0.into(), &false.into()));
    assert!(report["lost_keys"][0].as_str().unwrap().contains("key/00001"), "{report}");
    assert!(err.contains("tidelog restore"), "{err}");
    expect(dir.path(), 4, "get log key/00002");
    expect(dir.path(), 0, "get log key/02002");

    expect(dir.path(), 0, "restore whole --from log");
    expect(dir.path(), 0, "get whole key/00002");
    expect(dir.path(), 0, "verify whole");
}

#[test]
fn a_table_in_use_is_not_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path(), 1);
    let log = Log::options().read_only(true).open(&path).unwrap();
    let table = Table::options().open(&log).unwrap();
    assert!(table.report().writes);
    assert_eq!(table::repair(&path, true).unwrap_err().kind(), Kind::Locked);
    assert!(table::verify(&path, Level::Full).unwrap().problems.is_empty());
    drop(table);
    assert!(table::repair(&path, true).unwrap().actions.is_empty());
}

#[test]
fn a_fork_has_the_same_rows_under_a_new_id_and_goes_on_at_the_same_offset() {
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path(), 2);
    let log = Log::options().open(&path).unwrap();
    let table = Table::options().open(&log).unwrap();
    Snapshots::at(path.join("snapshots")).publish(&table, false).unwrap();
    fill(&log, 2000..2300);
    log.append(&Record::put(b"last", b"word")).unwrap();
    table.catch_up(&log).unwrap();
    let (digest, end) = (table.digest().unwrap(), log.end());
    let after = log.append(&Record::event(b"after the fork")).unwrap();
    let token = log.token(&after);

    let to = dir.path().join("forked");
    let forked = fork(&path, &to, RestoreAt::Offset(end)).unwrap();
    assert!(forked.snapshot.is_some() && forked.log != log.id());
    assert_eq!((forked.end, forked.segments), (end, 0));
    assert!(table::verify(&to, Level::Full).unwrap().problems.is_empty());
    let new = Log::options().open(&to).unwrap();
    assert_eq!((new.id(), new.start(), new.end()), (forked.log, end, end));
    let rows = Table::options().open(&new).unwrap();
    assert_eq!(rows.report().findings, Vec::<String>::new());
    assert_eq!((rows.digest().unwrap(), rows.stats().runs), (digest, 1));
    assert_eq!(new.check_token(&token).unwrap_err().kind(), Kind::WrongLog);

    let appended = new.append(&Record::put(b"new", b"row")).unwrap();
    assert_eq!(appended.first, end);
    rows.catch_up(&new).unwrap();
    assert_eq!(rows.get(b"new").unwrap().unwrap().offset, end);
    assert!(new.epoch_at(end) > log.epoch_at(Offset(end.0 - 1)));
    drop(rows);
    new.close().unwrap();
    let again = Log::options().open(&to).unwrap();
    assert_eq!(Table::options().open(&again).unwrap().get(b"new").unwrap().unwrap().value, b"row");

    // From the log alone, and before its first record.
    std::fs::remove_dir_all(path.join("snapshots")).unwrap();
    fork(&path, &dir.path().join("second"), RestoreAt::Offset(Offset(0))).unwrap();
    let third = dir.path().join("third");
    fork(&path, &third, RestoreAt::Offset(end)).unwrap();
    let third = Log::options().read_only(true).open(third).unwrap();
    assert_eq!(Table::options().open(&third).unwrap().digest().unwrap(), digest);
    let err = fork(&path, &to, RestoreAt::End).unwrap_err();
    assert_eq!(err.kind(), Kind::AlreadyExists);
}

#[test]
fn the_command_line_shows_what_the_table_has() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let path = made(dir, 2);
    let log = Log::options().open(&path).unwrap();
    log.append(&Record::put(b"behind", b"the checkpoint")).unwrap();
    log.close().unwrap();
    let info = &lines(&expect(dir, 0, "info log -o json").0.replace('\n', " "))[0];
    let info = if info.is_array() { &info[0] } else { info };
    assert_eq!((&info["table_runs"], &info["checkpoint_behind"]), (&2.into(), &1.into()), "{info}");
    assert_eq!(info["table_rows"], 2000 - 20, "{info}");

    let (out, _) = expect(dir, 0, "dump log/table/00000000000000000002.checkpoint");
    let manifest = &lines(&out)[0];
    assert_eq!((&manifest["what"], &manifest["seq"]), (&"checkpoint".into(), &2.into()));
    assert_eq!(manifest["run"].as_array().unwrap().len(), 2);
    expect(dir, 0, "snapshot create log --digest");
    let snapshot = files(&path.join("snapshots"), "snapshot").pop().unwrap();
    let (out, _) = expect(dir, 0, &format!("dump {}", snapshot.display()));
    assert_eq!(lines(&out)[0]["offset"], info["end_offset"]);
    assert_eq!(lines(&out)[0]["digest"].as_str().unwrap().len(), 64);

    let (out, _) = expect(dir, 0, "restore new --from log --fork");
    assert_ne!(lines(&out)[0]["log"], info["log"]);
    let digest = |text: String| lines(&text)[0]["digest"].clone();
    assert_eq!(digest(expect(dir, 0, "hash new").0), digest(expect(dir, 0, "hash log").0));
    let appended = &lines(&expect(dir, 0, "append new k v").0)[0];
    assert_eq!(appended["offset"], info["end_offset"]);
    let token = appended["token"].as_str().unwrap();
    let out = run(dir, &format!("get log k --at-least {token} --timeout 10ms"));
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
}
