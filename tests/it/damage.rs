//! Damage that the torture programme found unreported, unreadable or badly repaired; each test
//! opens with its story.

use std::path::{Path, PathBuf};

use tidelog::fs::sim::{Crash, Fault, OpKind, Sim};
use tidelog::log::{Level, Retention, VerifyReport, repair_on, verify_on};
use tidelog::{Durability, Kind, Log, Offset, Options, Record};

const DIR: &str = "/log";

fn options(sim: &Sim) -> Options {
    Log::options().fs(sim.shared()).worker(false).segment_bytes(64 << 10)
}

fn value(i: u64) -> Vec<u8> {
    i.to_le_bytes().repeat(300)
}

/// An open log of so many segments, nothing of it synced, and its records.
fn written(sim: &Sim, segments: usize) -> (Log, u64) {
    let log = options(sim).create(true).durability(Durability::Written).open(DIR).unwrap();
    let mut next = 0;
    while log.segments().len() < segments || next < 3 {
        log.append(&Record::event(&value(next))).unwrap();
        next += 1;
    }
    (log, next)
}

/// The same, cleanly closed.
fn closed(seed: u64, segments: usize) -> (Sim, u64) {
    let sim = Sim::new(seed);
    let (log, records) = written(&sim, segments);
    log.close().unwrap();
    (sim.crash(&Crash::KeepAll), records)
}

fn verify(sim: &Sim) -> VerifyReport {
    verify_on(&sim.shared(), Path::new(DIR), Level::Full).unwrap()
}

fn repair(sim: &Sim) -> Vec<String> {
    let done = repair_on(&sim.shared(), Path::new(DIR), false).unwrap();
    let healed = verify(sim);
    assert_eq!(healed.problems, [], "{done:?}");
    done.actions
}

/// Offsets that can be read, each with the record that was appended there.
fn read(log: &Log) -> Vec<u64> {
    let mut cursor = log.read(log.start()).unwrap();
    let mut found = Vec::new();
    loop {
        match cursor.next() {
            Ok(Some(entry)) => {
                assert_eq!(entry.record.value, value(entry.offset.0));
                found.push(entry.offset.0);
            }
            Ok(None) => return found,
            Err(e) => assert_eq!(e.kind(), Kind::Lost, "{e}"),
        }
    }
}

fn at(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn last_segment(sim: &Sim) -> PathBuf {
    sim.paths().into_iter().rfind(|path| path.extension().is_some_and(|e| e == "seg")).unwrap()
}

/// The process died after a roll and before the seal. A log opened for reading then took the end
/// of the rolled segment for damage: only opening for writing noted where it ends.
#[test]
fn a_reader_goes_on_behind_a_segment_that_was_rolled_and_not_sealed() {
    let sim = Sim::new(1);
    let (log, records) = written(&sim, 3);
    sim.kill();
    drop(log);
    let log = options(&sim.process()).read_only(true).open(DIR).unwrap();
    assert!(log.segments().iter().all(|segment| !segment.sealed));
    assert_eq!(read(&log), (0..records).collect::<Vec<_>>());
}

/// A log without CONTROL opened as if it had no floor and followed nobody, and one without EPOCHS
/// or PROMISE opened as if it had no history. Nobody said so.
#[test]
fn a_small_file_that_is_gone_is_reported_and_made_again() {
    let (sim, records) = closed(2, 2);
    for name in ["CONTROL", "EPOCHS", "PROMISE"] {
        let disk = sim.deep_copy();
        disk.remove(at(name));
        let report = verify(&disk);
        assert!(report.problems.iter().any(|p| p.file == at(name)), "{name}: {report:?}");
        if name == "CONTROL" {
            let refused = options(&disk).open(DIR).unwrap_err();
            assert_eq!(refused.kind(), Kind::Corrupt, "{refused}");
        }
        repair(&disk);
        let log = options(&disk).open(DIR).unwrap();
        assert_eq!(read(&log).len() as u64, records, "{name}");
    }
}

/// The last file of a cleanly closed log was gone. CONTROL proved that it had been there, so the
/// log refused to open; repair saw no gap between files, did nothing, and it still refused.
#[test]
fn a_lost_last_segment_is_put_on_record() {
    for segments in [1, 3] {
        let (sim, records) = closed(3, segments);
        sim.remove(last_segment(&sim));
        assert_eq!(options(&sim).open(DIR).unwrap_err().kind(), Kind::Corrupt);
        let reader = options(&sim).read_only(true).open(DIR).unwrap();
        assert!(!reader.report().findings.is_empty(), "a reader is told that this is not all");
        repair(&sim);
        let log = options(&sim).open(DIR).unwrap();
        assert_eq!(log.end(), Offset(records), "no offset is given twice");
        assert!((read(&log).len() as u64) < records);
        assert_eq!(log.append(&Record::event(&value(records))).unwrap().first, Offset(records));
    }
}

/// A CONTROL of another log was taken at its word: the segments below its floor were swept away.
#[test]
fn another_logs_control_takes_nothing_away() {
    let (sim, records) = closed(4, 4);
    let (other, _) = closed(5, 4);
    let log = options(&other).open(DIR).unwrap();
    let keep = Retention { keep_from: Some(log.segments()[2].base_offset), ..Retention::default() };
    log.retain(&keep).unwrap();
    log.close().unwrap();
    sim.write(at("CONTROL"), &other.read(at("CONTROL")));
    assert_eq!(options(&sim).open(DIR).unwrap_err().kind(), Kind::WrongLog);
    assert!(!verify(&sim).problems.is_empty());
    repair(&sim);
    assert_eq!(read(&options(&sim).open(DIR).unwrap()).len() as u64, records);
}

/// With a LOG of another log repair found that every segment was a stranger, and set all of them
/// aside.
#[test]
fn another_logs_log_file_has_no_segment_set_aside() {
    let (sim, records) = closed(6, 3);
    let (other, _) = closed(7, 2);
    sim.write(at("LOG"), &other.read(at("LOG")));
    assert_eq!(options(&sim).open(DIR).unwrap_err().kind(), Kind::WrongLog);
    repair(&sim);
    assert_eq!(read(&options(&sim).open(DIR).unwrap()).len() as u64, records);
}

/// A sealed segment that lost its footer looked like one that was not sealed yet, and an unreadable
/// STATE like none. Both are made again; neither was reported.
#[test]
fn a_lost_footer_and_an_unreadable_hint_are_reported() {
    let (sim, _) = closed(8, 4);
    let first = at("segments/00000000000000000000.seg");
    let whole = sim.read(&first);
    let disk = sim.deep_copy();
    disk.truncate(&first, whole.len() as u64 - 256);
    assert!(verify(&disk).problems.iter().any(|p| p.file == first));
    repair(&disk);
    assert!(disk.read(&first) == whole, "it comes out byte for byte as it was sealed");

    sim.flip(at("STATE"), 100);
    let report = verify(&sim);
    assert_eq!(report.problems, []);
    assert!(report.notes.iter().any(|note| note.contains("STATE")), "{report:?}");
}

/// After a clean close a power cut took STATE, which is never synced. The next append took the
/// clean mark away, the last proof of what was durable: readers in other processes saw an empty
/// log, and damage to the last group would have passed for a torn tail.
#[test]
fn the_clean_mark_goes_only_when_the_hint_says_what_it_said() {
    let (sim, records) = closed(9, 1);
    sim.remove(at("STATE"));
    let log = options(&sim).open(DIR).unwrap();
    let mut batch = tidelog::Batch::new();
    batch.push(&Record::event(b"refused")).unwrap();
    let expect = Some(tidelog::Expect::End(Offset(records + 1)));
    let how = tidelog::Append { expect, ..Default::default() };
    assert_eq!(log.append_with(&batch, &how).unwrap_err().kind(), Kind::Rejected);
    log.sync().unwrap();
    let reader = options(&sim.process()).read_only(true).open(DIR).unwrap();
    assert_eq!(reader.end(), Offset(records));
}

/// One listing that failed was taken for a directory without a log, and the operator was told to create one.
#[test]
fn repair_takes_a_directory_that_cannot_be_listed_for_nothing_else() {
    let (sim, _) = closed(5, 1);
    sim.fail(Fault::on(OpKind::List));
    let error = repair_on(&sim.shared(), Path::new(DIR), false).unwrap_err();
    assert_eq!(error.kind(), Kind::Io, "{error}");
    assert!(error.to_string().contains(DIR), "{error}");
    sim.heal();
    assert_eq!(repair(&sim), Vec::<String>::new());
}

/// A place without a log was told about by the first thing that was missing in it.
#[test]
fn repair_of_a_place_without_a_log_says_so() {
    let sim = Sim::new(6);
    let error = |at: &str| repair_on(&sim.shared(), Path::new(at), false).unwrap_err();
    assert_eq!(error("/nowhere").kind(), Kind::NotFound);
    sim.shared().create_dir(Path::new("/empty")).unwrap();
    assert_eq!(error("/empty").kind(), Kind::NotALog);
}
