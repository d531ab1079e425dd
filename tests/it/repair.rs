//! Damage anywhere: noticed by opening or verifying, never read as a record, and repaired so that
//! everything whole is kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidelog::frame::Producer;
use tidelog::fs::Fs;
use tidelog::fs::sim::{Crash, Sim};
use tidelog::log::{Level, repair_on, verify_on};
use tidelog::{Append, Batch, Durability, Id, Kind, Log, Offset, Options, Record};

const DIR: &str = "/log";

fn options(sim: &Sim) -> Options {
    Log::options().fs(sim.shared()).create(true).worker(false).segment_bytes(64 << 10)
}

fn value(i: u64) -> Vec<u8> {
    i.to_le_bytes().repeat(20 + usize::try_from(i % 30).unwrap())
}

/// A closed log with three sealed segments and an active one, producers and timestamps.
fn filled() -> (Sim, u64) {
    let sim = Sim::new(1);
    let log = options(&sim).open(DIR).unwrap();
    let (mut batch, mut next) = (Batch::new(), 0);
    while log.segments().len() < 4 || next % 64 != 0 {
        for _ in 0..4 {
            let record = Record::put(b"key", b"");
            let bytes = value(next);
            let record = Record { value: &bytes, ..record };
            batch.push(&record.at(next as i64)).unwrap();
            next += 1;
        }
        let how = Append {
            durability: Some(Durability::Written),
            producer: Some(Producer { id: Id([(next % 3) as u8; 16]), sequence: next }),
            ..Append::default()
        };
        log.append_with(&batch, &how).unwrap();
        batch.clear();
    }
    log.close().unwrap();
    (sim.crash(&Crash::KeepAll), next)
}

fn fs(sim: &Sim) -> Arc<dyn Fs> {
    sim.shared()
}

fn segments(sim: &Sim) -> Vec<PathBuf> {
    sim.paths().into_iter().filter(|path| path.extension().is_some_and(|e| e == "seg")).collect()
}

/// Reads everything that can be read; a record that comes back must be the one that was written.
fn read(log: &Log, what: &str) -> Vec<u64> {
    let mut cursor = log.read(log.start()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut found = Vec::new();
    loop {
        match cursor.next() {
            Ok(Some(entry)) => {
                assert_eq!(entry.record.value, value(entry.offset.0), "{what}: a wrong record");
                found.push(entry.offset.0);
            }
            Ok(None) => return found,
            Err(e) if e.kind() == Kind::Lost => {}
            Err(_) => return found,
        }
    }
}

/// Notices, repairs, and holds the result against what was there before.
fn check(damaged: &Sim, records: u64, what: &str) -> u64 {
    if let Ok(log) = options(damaged).create(false).read_only(true).open(DIR) {
        read(&log, what);
    }
    let report = verify_on(&fs(damaged), Path::new(DIR), Level::Full);
    let noticed = report.as_ref().map_or(true, |report| !report.problems.is_empty());
    assert!(noticed, "{what}: not noticed: {report:?}");

    let before = damaged.durable_hash();
    let plan =
        repair_on(&fs(damaged), Path::new(DIR), true).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(damaged.durable_hash(), before, "{what}: a dry run changed something");
    let done =
        repair_on(&fs(damaged), Path::new(DIR), false).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(plan.actions, done.actions, "{what}");
    assert_eq!(plan.lost, done.lost, "{what}");
    let again = repair_on(&fs(damaged), Path::new(DIR), false).unwrap();
    assert_eq!(again.actions, Vec::<String>::new(), "{what}: {done:?}");

    let healed = verify_on(&fs(damaged), Path::new(DIR), Level::Full).unwrap();
    assert_eq!(healed.problems, [], "{what}: {done:?}");
    let log = options(damaged).open(DIR).unwrap_or_else(|e| panic!("{what}: {e} {done:?}"));
    let lost: u64 = done.lost.iter().map(|(a, b)| b - a).sum();
    let is_lost = |i: u64| done.lost.iter().any(|&(a, b)| (a..b).contains(&i));
    let expected: Vec<u64> = (0..records).filter(|&i| !is_lost(i)).collect();
    assert_eq!(read(&log, what), expected, "{what}: {done:?}");
    let appended = log.append(&Record::event(&value(records))).unwrap();
    assert_eq!(appended.first, Offset(records), "{what}");
    log.close().unwrap();
    lost
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_and_costs_at_most_its_own_batch() {
    let (sim, records) = filled();
    let files = segments(&sim);
    assert!(files.len() >= 4);
    let mut flips = 0;
    for (i, file) in files.iter().enumerate() {
        let bytes = sim.read(file);
        let last = i + 1 == files.len();
        // Frames of the active segment end before the page does; zeros there are nobody's.
        let end = bytes.iter().rposition(|&b| b != 0).unwrap() as u64 + 1;
        let bits = (0..end * 8).step_by(if last { 4099 } else { 9973 });
        for bit in bits.chain([32 * 8, 64 * 8, 4092 * 8, 4096 * 8, 4100 * 8, end * 8 - 1]) {
            let disk = sim.deep_copy();
            disk.flip(file, bit);
            let lost = check(&disk, records, &format!("bit {bit} of {}", file.display()));
            assert!(lost <= 4, "bit {bit} of {} cost {lost} records", file.display());
            flips += 1;
        }
    }
    println!("{flips} flips, 0 missed, 0 wrong records");
    assert!(flips > 150, "{flips}");
}

#[test]
fn whole_files_that_are_missing_doubled_swapped_or_cut_are_mended() {
    let (sim, records) = filled();
    let files = segments(&sim);
    type Damage = Box<dyn Fn(&Sim)>;
    let f = |i: usize| files[i].clone();
    let mut cases: Vec<(String, Damage)> = Vec::new();
    for i in 0..3 {
        let file = f(i);
        cases.push((format!("missing {i}"), Box::new(move |sim| sim.remove(&file))));
        for len in [0, 100, 4096, 5000, 20_000, 60_000] {
            let file = f(i);
            cases
                .push((format!("{i} cut to {len}"), Box::new(move |sim| sim.truncate(&file, len))));
        }
    }
    let (a, b) = (f(0), f(1));
    cases.push((
        "doubled".into(),
        Box::new(move |sim| {
            let bytes = sim.read(&a);
            sim.write(&b, &bytes);
        }),
    ));
    let (a, b) = (f(0), f(2));
    cases.push((
        "swapped".into(),
        Box::new(move |sim| {
            let (x, y) = (sim.read(&a), sim.read(&b));
            sim.write(&a, &y);
            sim.write(&b, &x);
        }),
    ));
    for name in ["LOG", "NODE", "CONTROL", "EPOCHS", "PROMISE"] {
        cases.push((
            format!("{name} damaged"),
            Box::new(move |sim| sim.write(Path::new(DIR).join(name), b"nonsense")),
        ));
    }
    for (what, damage) in cases {
        let disk = sim.deep_copy();
        damage(&disk);
        check(&disk, records, &what);
    }
}

#[test]
fn an_undamaged_log_has_nothing_to_repair() {
    let (sim, _) = filled();
    let report = verify_on(&fs(&sim), Path::new(DIR), Level::Full).unwrap();
    assert_eq!(report.problems, []);
    assert!(report.frames > 100 && report.records > 400, "{report:?}");
    let before = sim.durable_hash();
    assert_eq!(repair_on(&fs(&sim), Path::new(DIR), false).unwrap().actions, Vec::<String>::new());
    assert_eq!(sim.durable_hash(), before);
}

#[test]
fn a_damaged_log_can_be_salvaged_as_it_is_opened() {
    let (sim, records) = filled();
    let file = &segments(&sim)[1];
    sim.flip(file, 8 * 20_000);
    let options = || options(&sim).create(false);
    assert!(options().open(DIR).is_ok(), "sealed payload is not read at open");
    let log = options().recovery(tidelog::Recovery::Salvage).open(DIR).unwrap();
    let found = read(&log, "salvaged");
    assert!(found.len() as u64 + 4 >= records && (found.len() as u64) < records);
}

/// Cuts the power after each operation of a repair and repairs again; what the damage did not take
/// must be there. Of the pending changes it keeps all, none, and each one alone.
fn cut_repairs(damaged: &Sim, records: u64) -> usize {
    let whole = damaged.deep_copy();
    let lost = repair_on(&fs(&whole), Path::new(DIR), false).unwrap().lost;
    let mut checked = 0;
    for n in 0..whole.operations() {
        let disk = damaged.deep_copy();
        disk.stop_after(n);
        let _ = repair_on(&fs(&disk), Path::new(DIR), false);
        let pending = disk.pending().len();
        let alone = (0..pending.min(63)).map(|i| Crash::mask(1 << i));
        for choice in [Crash::DropAll, Crash::KeepAll].into_iter().chain(alone) {
            let what = format!("repair cut after {n}, {choice:?}");
            let left = disk.crash(&choice);
            let again = repair_on(&fs(&left), Path::new(DIR), false).unwrap();
            for range in &again.lost {
                assert!(lost.contains(range), "{what}: {range:?} of {lost:?}");
            }
            let log = options(&left).open(DIR).unwrap_or_else(|e| panic!("{what}: {e}"));
            let there = |i: &u64| !lost.iter().any(|&(a, b)| (a..b).contains(i));
            assert_eq!(read(&log, &what), (0..records).filter(there).collect::<Vec<_>>(), "{what}");
            checked += 1;
        }
    }
    checked
}

/// A repaired segment has another seal hash, and only CONTROL leads from the one that the next
/// segment knows to the new one. It was written last, so a crash behind the rename left two
/// segments that nothing connected: repairing again found both whole, and no open took them.
#[test]
fn a_repair_cut_anywhere_is_completed_by_the_next() {
    let (sim, records) = filled();
    let first = &segments(&sim)[0];
    sim.flip(first, 5000 * 8);
    assert!(cut_repairs(&sim, records) > 50);
}

/// Two files had each other's names. Repair gave them back by way of temporary names that a second
/// repair did not know, and the first name was taken before its file was durably out of the way:
/// a power cut lost a whole segment.
#[test]
fn swapped_segments_survive_a_power_cut_while_they_move_home() {
    let (sim, records) = filled();
    let files = segments(&sim);
    let (a, b) = (sim.read(&files[0]), sim.read(&files[1]));
    sim.write(&files[0], &b);
    sim.write(&files[1], &a);
    assert!(cut_repairs(&sim, records) > 10);
    // Nor does an open in between take the log for a shorter one.
    let disk = sim.deep_copy();
    disk.stop_after(2);
    let _ = repair_on(&fs(&disk), Path::new(DIR), false);
    let disk = disk.crash(&Crash::KeepAll);
    assert_eq!(options(&disk).open(DIR).unwrap_err().kind(), Kind::Corrupt);
}

/// The last segment file was gone, and CONTROL or STATE knew that it had been there. Repair found
/// nothing to do, and opening went on to refuse.
#[test]
fn a_last_segment_that_is_gone_is_put_on_record_as_lost() {
    let (sim, records) = filled();
    let files = segments(&sim);
    sim.remove(files.last().unwrap());
    assert_eq!(options(&sim).open(DIR).unwrap_err().kind(), Kind::Corrupt);
    assert!(check(&sim, records, "the last segment is gone") > 0);
}

/// Two files had each other's names, and one of them a bit turned over in its header. Frames do not
/// say which segment they are of, only where in its file; repair went by the name, made the last
/// segment's frames the first one's, and records were read at offsets that were not theirs.
#[test]
fn a_misnamed_segment_with_a_damaged_header_is_never_read_at_wrong_offsets() {
    for bit in [72 * 8, 40 * 8 + 3, 90 * 8] {
        let (sim, records) = filled();
        let files = segments(&sim);
        let (first, last) = (&files[0], files.last().unwrap());
        let (a, b) = (sim.read(first), sim.read(last));
        sim.write(first, &b);
        sim.write(last, &a);
        sim.flip(first, bit);
        check(&sim, records, &format!("swapped, header bit {bit}"));
    }
}

/// One segment was cut short, and the next one's file was gone. Repair put one range of lost frames
/// in the place of both, because nothing says where one ended; the segment behind them names the
/// one that is gone, and opening refused it.
#[test]
fn two_segments_lost_as_one_leave_a_log_that_opens() {
    let (sim, records) = filled();
    let files = segments(&sim);
    let before_last = files.len() - 2;
    sim.truncate(&files[before_last - 1], 9000);
    sim.remove(&files[before_last]);
    assert!(check(&sim, records, "one cut, the next gone") > 0);
}
