//! Tables that are kept on disk: freezing, merging, checkpoints, restarts, damage, full disks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;
use crate::fs::sim::{Crash, Errno, Fault, OpKind, Sim};
use crate::fs::{Open, Os};
use crate::log::{Append, Durability, Holder, MIN_SEGMENT_BYTES, Options, Retention, Visibility};
use crate::record::{Batch, Op, Record};

const LOG: &str = "/log";

/// Deltas so small that a few batches fill one.
fn small() -> TableOptions {
    Table::options().delta_bytes(16 << 10).fan_in(3).checkpoint_bytes(48 << 10)
}

fn options(sim: &Sim) -> Options {
    Log::options().fs(sim.shared()).create(true).worker(false).segment_bytes(MIN_SEGMENT_BYTES)
}

/// Numbers by chance.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// A batch by chance, over few keys.
fn batch(dice: &mut Dice, keys: u64) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..1 + dice.below(12) {
        let n = dice.below(keys);
        let key = format!("key/{n:0width$}", width = 1 + (n % 7) as usize);
        let value = vec![n as u8; dice.below(700) as usize];
        let record = match dice.below(6) {
            0 => Record::delete(key.as_bytes()),
            1 => Record::keyed_event(key.as_bytes(), &value),
            _ => Record::put(key.as_bytes(), &value),
        };
        batch.push(&record).unwrap();
    }
    batch
}

/// What a table must hold, from the log alone.
fn rows_of(log: &Log, end: Offset) -> BTreeMap<Vec<u8>, Row> {
    let mut rows = BTreeMap::new();
    let mut cursor = log.read_range(Offset(0)..end).unwrap();
    while let Some(entry) = cursor.next().unwrap() {
        let Some(key) = entry.record.key else { continue };
        match entry.record.op {
            Op::Event => {}
            Op::Delete => drop(rows.remove(key)),
            Op::Put => {
                let value = entry.record.value.to_vec();
                let row = Row { value, offset: entry.offset, timestamp: entry.timestamp };
                rows.insert(key.to_vec(), row);
            }
        }
    }
    rows
}

/// Holds every way to read a view against the rows it must show.
fn check(view: &View, rows: &BTreeMap<Vec<u8>, Row>, what: &str) {
    let all: Vec<_> = rows.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
    assert_eq!(view.collect(&Scan::all()).unwrap(), all, "{what}");
    let mut backward = view.collect(&Scan::all().reverse(true)).unwrap();
    backward.reverse();
    assert_eq!(backward, all, "{what}");
    assert_eq!(view.len().unwrap(), all.len() as u64, "{what}");
    assert!(view.len_estimate() >= all.len() as u64, "{what}");
    let keys: Vec<&[u8]> = all.iter().map(|(key, _)| key.as_slice()).collect();
    let many = view.get_many(&keys).unwrap().into_iter().flatten();
    assert!(many.eq(all.iter().map(|(_, row)| row.clone())), "{what}");
    for (key, row) in &all {
        assert_eq!(view.get(key).unwrap().as_ref(), Some(row), "{what}");
        let absent = [key.as_slice(), b"\0"].concat();
        assert_eq!(view.get(&absent).unwrap().as_ref(), rows.get(&absent), "{what}");
    }
    for (start, end) in [("key/3", "key/6"), ("key/", "key/0"), ("a", "z"), ("z", "a")] {
        let scan = Scan::all().start(start.as_bytes()).end(end.as_bytes()).limit(7);
        let inside = |key: &&(Vec<u8>, Row)| {
            key.0.as_slice() >= start.as_bytes() && key.0.as_slice() < end.as_bytes()
        };
        let expected: Vec<_> = all.iter().filter(inside).take(7).cloned().collect();
        assert_eq!(view.collect(&scan).unwrap(), expected, "{what}");
        let expected: Vec<_> = all.iter().rev().filter(inside).take(7).cloned().collect();
        assert_eq!(view.collect(&scan.reverse(true)).unwrap(), expected, "{what}");
    }
}

#[test]
fn a_kept_table_agrees_with_the_log_through_freezes_merges_and_restarts() {
    for seed in 0..6u64 {
        let sim = Sim::new(seed);
        let mut dice = Dice(seed);
        let log = options(&sim).open(LOG).unwrap();
        let mut table = small().open(&log).unwrap();
        assert!(table.report().writes);
        let mut held: Vec<(View, BTreeMap<Vec<u8>, Row>)> = Vec::new();
        for step in 0..120 {
            for _ in 0..1 + dice.below(4) {
                log.append_batch(&batch(&mut dice, 60)).unwrap();
            }
            match dice.below(8) {
                0 => assert!(table.checkpoint().unwrap()),
                1 => {
                    drop(table);
                    table = small().open(&log).unwrap();
                }
                2 => held.push((
                    table.view(),
                    rows_of(&log, table.applied().unwrap_or_default().offset),
                )),
                _ => {}
            }
            table.catch_up(&log).unwrap();
            if step % 10 == 9 {
                check(
                    &table.view(),
                    &rows_of(&log, log.end()),
                    &format!("seed {seed} step {step}"),
                );
            }
            if held.len() > 5 {
                held.remove(0);
            }
        }
        for (view, rows) in &held {
            check(view, rows, &format!("seed {seed}: a view that was held"));
        }
        assert!(table.stats().runs > 0 && table.stats().runs < 12, "{:?}", table.stats());
        assert_eq!(table.digest().unwrap(), Table::from_log(&log).unwrap().digest().unwrap());
    }
}

#[test]
fn rows_are_found_in_more_runs_than_are_asked_at_once() {
    let sim = Sim::new(1);
    let log = options(&sim).open(LOG).unwrap();
    let table = small().fan_in(100).open(&log).unwrap();
    let mut dice = Dice(1);
    for _ in 0..30 {
        log.append_batch(&batch(&mut dice, 60)).unwrap();
        table.catch_up(&log).unwrap();
        assert!(table.checkpoint().unwrap());
    }
    assert!(table.stats().runs > 20, "{:?}", table.stats());
    check(&table.view(), &rows_of(&log, log.end()), "runs alone");
    log.append_batch(&batch(&mut dice, 60)).unwrap();
    table.catch_up(&log).unwrap();
    check(&table.view(), &rows_of(&log, log.end()), "runs and a delta");
}

#[test]
fn a_restart_applies_only_what_came_after_the_checkpoint() {
    let sim = Sim::new(1);
    let log = options(&sim).open(LOG).unwrap();
    let mut dice = Dice(1);
    for _ in 0..50 {
        log.append_batch(&batch(&mut dice, 40)).unwrap();
    }
    let table = small().open(&log).unwrap();
    assert!(table.checkpoint().unwrap());
    let at = table.applied().unwrap().offset;
    drop(table);
    log.append_batch(&batch(&mut dice, 40)).unwrap();
    let table = small().persist(true).open(&log).unwrap();
    let (_, offset) = table.report().checkpoint.unwrap();
    assert_eq!((offset, &table.report().findings), (at, &vec![]));
    assert_eq!(table.applied().unwrap().offset, log.end());
    check(&table.view(), &rows_of(&log, log.end()), "after a restart");
}

/// Two checkpoints of a log, the directory of their table, and the newest one's number.
fn two_checkpoints(sim: &Sim) -> (Log, PathBuf, u64) {
    let log = options(sim).open(LOG).unwrap();
    let mut dice = Dice(3);
    for _ in 0..2 {
        for _ in 0..30 {
            log.append_batch(&batch(&mut dice, 40)).unwrap();
        }
        let table = small().open(&log).unwrap();
        assert!(table.checkpoint().unwrap());
    }
    let dir = Path::new(LOG).join("table");
    let names = sim.shared().list(&dir).unwrap();
    let newest = names.iter().filter_map(|name| manifest::parse_name(name, "checkpoint")).max();
    (log, dir, newest.unwrap())
}

fn overwrite(sim: &Sim, path: &Path, byte: u64, with: &[u8]) {
    let file = sim.shared().open(path, Open::Write).unwrap();
    file.write_all_at(with, byte).unwrap();
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let sim = Sim::new(2);
    let (log, dir, newest) = two_checkpoints(&sim);
    overwrite(&sim, &dir.join(manifest::checkpoint_name(newest)), 40, b"xx");
    let table = small().open(&log).unwrap();
    assert!(table.report().checkpoint.unwrap().0 < newest, "{:?}", table.report());
    assert_eq!(table.report().findings.len(), 1);
    check(&table.view(), &rows_of(&log, log.end()), "from the older checkpoint");
    // And the next one counts again.
    log.append(&Record::put(b"more", b"")).unwrap();
    table.catch_up(&log).unwrap();
    assert!(table.checkpoint().unwrap());
    drop(table);
    let table = small().open(&log).unwrap();
    assert_eq!(table.report().checkpoint.unwrap().0, newest + 1);
    assert_eq!(table.report().findings, [""; 0]);
}

#[test]
fn a_checkpoint_that_lacks_a_run_falls_back_and_in_the_end_the_log_is_enough() {
    let sim = Sim::new(3);
    let (log, dir, _) = two_checkpoints(&sim);
    for name in sim.shared().list(&dir).unwrap() {
        if name.ends_with(".run") {
            sim.shared().unlink(&dir.join(name)).unwrap();
        }
    }
    let table = small().open(&log).unwrap();
    assert_eq!(table.report().checkpoint, None);
    assert_eq!(table.report().findings.len(), 2, "{:?}", table.report());
    check(&table.view(), &rows_of(&log, log.end()), "from the log alone");
}

#[test]
fn a_checkpoint_of_another_history_is_set_aside_with_its_runs() {
    let sim = Sim::new(4);
    let (log, dir, _) = two_checkpoints(&sim);
    log.close().unwrap();
    // Another log of the same length in its place, with this table.
    let other = Sim::new(99);
    let log = options(&other).open(LOG).unwrap();
    let mut dice = Dice(3);
    for _ in 0..60 {
        log.append_batch(&batch(&mut dice, 40)).unwrap();
    }
    other.shared().create_dir(&dir).unwrap();
    for name in sim.shared().list(&dir).unwrap() {
        let (from, to) = (sim.shared(), other.shared());
        let file = from.open_plain(&dir.join(&name)).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        to.open(&dir.join(&name), Open::Create).unwrap().write_all_at(&bytes, 0).unwrap();
    }
    let table = small().open(&log).unwrap();
    assert_eq!(table.report().checkpoint, None);
    assert!(
        table.report().findings.iter().all(|f| f.contains("set aside")),
        "{:?}",
        table.report()
    );
    check(&table.view(), &rows_of(&log, log.end()), "from the log alone");
    let names = other.shared().list(&dir).unwrap();
    assert!(names.iter().any(|name| name.ends_with(".aside")), "{names:?}");
    assert!(names.iter().any(|name| name.ends_with(".run")), "{names:?}");
}

#[test]
fn one_process_keeps_the_table_and_others_read_its_checkpoints() {
    let sim = Sim::new(5);
    let (log, _, newest) = two_checkpoints(&sim);
    let keeper = small().open(&log).unwrap();
    log.append(&Record::put(b"more", b"1")).unwrap();
    log.sync().unwrap();
    let beside = sim.process();
    let read_only = options(&beside).create(false).read_only(true).open(LOG).unwrap();
    let reader = small().open(&read_only).unwrap();
    assert!(keeper.report().writes && !reader.report().writes);
    assert_eq!(reader.report().checkpoint.unwrap().0, newest);
    assert_eq!(reader.get(b"more").unwrap().unwrap().value, b"1");
    assert!(!reader.checkpoint().unwrap());
    check(&reader.view(), &rows_of(&log, log.end()), "beside the keeper");
}

#[test]
fn a_full_disk_stops_runs_and_checkpoints_and_loses_nothing() {
    let sim = Sim::new(6);
    let log = options(&sim).open(LOG).unwrap();
    let mut dice = Dice(6);
    for _ in 0..200 {
        log.append_batch(&batch(&mut dice, 40)).unwrap();
    }
    // Room for the directory and its lock file.
    sim.set_capacity(Some(sim.used() + 8192));
    let error = small().open(&log).expect_err("runs cannot be written");
    assert_eq!(error.kind(), Kind::DiskFull);
    sim.set_capacity(None);
    let table = small().open(&log).unwrap();
    check(&table.view(), &rows_of(&log, log.end()), "once there is space again");
}

#[test]
fn retention_keeps_what_the_oldest_checkpoint_needs_and_asks_before_the_table_is_alone() {
    let sim = Sim::new(7);
    let (log, _, _) = two_checkpoints(&sim);
    let mut dice = Dice(8);
    for _ in 0..100 {
        log.append_batch(&batch(&mut dice, 40)).unwrap();
    }
    log.close().unwrap();
    let log = options(&sim).open(LOG).unwrap();
    let all = Retention { keep_bytes: Some(0), ..Retention::default() };
    let error = log.retain(&all).unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected);
    assert!(error.to_string().contains("--table-is-only-copy"), "{error}");
    assert_eq!(log.start(), Offset(0));
    let rows = rows_of(&log, log.end());
    let retained = log.retain(&Retention { table_is_only_copy: true, ..all }).unwrap();
    let held = retained.held_by.as_ref().expect("the oldest checkpoint");
    assert!(held.checkpoint.is_some(), "{retained:?}");
    assert!(log.start() > Offset(0) && log.start() <= held.offset, "{retained:?}");
    let table = small().open(&log).unwrap();
    check(&table.view(), &rows, "from a checkpoint, the log's front gone");
    // What stays is enough for the older checkpoint, too.
    drop(table);
    let copied = Retention { copied_below: Some(log.end()), ..all };
    log.retain(&copied).unwrap();
    let table = small().open(&log).unwrap();
    check(&table.view(), &rows, "from a checkpoint, more of the log gone");
}

/// Found by `model`: a table was open and had applied nothing yet; retention, which only asked what
/// checkpoints need, dropped the records that it was about to apply.
#[test]
fn retention_keeps_all_that_a_table_without_a_checkpoint_needs() {
    let sim = Sim::new(14);
    let log = options(&sim).open(LOG).unwrap();
    let table = small().checkpoint_bytes(u64::MAX).open(&log).unwrap();
    let mut dice = Dice(14);
    while log.segments().iter().filter(|segment| segment.sealed).count() < 2 {
        log.append_batch(&batch(&mut dice, 40)).unwrap();
    }
    let all = Retention { keep_bytes: Some(0), table_is_only_copy: true, ..Retention::default() };
    let retained = log.retain(&all).unwrap();
    let holder =
        Holder { cursor: None, slot: None, archive: false, checkpoint: None, offset: Offset(0) };
    assert_eq!((retained.files.len(), retained.held_by), (0, Some(holder)));
    table.catch_up(&log).unwrap();
    check(&table.view(), &rows_of(&log, log.end()), "after retention");

    // With a checkpoint it needs what is behind that alone.
    assert!(table.checkpoint().unwrap());
    assert!(!log.retain(&all).unwrap().files.is_empty());
}

#[test]
fn a_power_cut_after_any_operation_leaves_a_table_that_agrees_with_its_log() {
    let life = |sim: &Sim| -> Result<()> {
        let mut dice = Dice(11);
        let log = options(sim).durability(Durability::Durable).open(LOG)?;
        let table = small().delta_bytes(6 << 10).checkpoint_bytes(16 << 10).open(&log)?;
        for step in 0..14 {
            log.append_with(&batch(&mut dice, 20), &Append::default())?;
            table.catch_up(&log)?;
            if step % 6 == 5 {
                table.checkpoint()?;
            }
        }
        drop(table);
        log.close()
    };
    let whole = Sim::new(9);
    life(&whole).unwrap();
    let (mut cuts, mut kept) = (0, 0);
    for n in 0..whole.operations() {
        let sim = Sim::new(9);
        sim.stop_after(n);
        let _ = life(&sim);
        sim.stop_after(usize::MAX);
        let seed = n as u64;
        for crash in [Crash::DropAll, Crash::KeepAll, Crash::Torn { seed }] {
            let left = sim.crash(&crash);
            let what = format!("power cut after operation {n}, {crash:?}");
            let log = match options(&left).open(LOG) {
                Ok(log) => log,
                Err(e) => panic!("{what}: {e}"),
            };
            let table = small().open(&log).unwrap_or_else(|e| panic!("{what}: {e}"));
            kept += u32::from(table.report().checkpoint.is_some());
            check(&table.view(), &rows_of(&log, log.end()), &what);
            log.append(&Record::put(b"more", b"1")).unwrap();
            table.catch_up(&log).unwrap();
            assert!(table.checkpoint().unwrap(), "{what}");
            drop(table);
            log.close().unwrap();
            let log = options(&left).open(LOG).unwrap();
            let table = small().open(&log).unwrap();
            assert!(table.report().checkpoint.is_some(), "{what}: {:?}", table.report());
            check(&table.view(), &rows_of(&log, log.end()), &what);
            cuts += 1;
        }
    }
    assert!(cuts > 300 && kept > 100, "{cuts} cuts, {kept} with a checkpoint");
}

#[test]
fn a_failed_sync_ends_checkpoints_and_not_the_table() {
    let sim = Sim::new(12);
    let log = options(&sim).open(LOG).unwrap();
    let table = small().open(&log).unwrap();
    log.append(&Record::put(b"a", b"1")).unwrap();
    table.catch_up(&log).unwrap();
    sim.fail(Fault::on(OpKind::Sync).at("table").error(Errno::Io));
    assert!(table.checkpoint().is_err());
    let error = table.checkpoint().unwrap_err();
    assert!(error.to_string().contains("sync"), "{error}");
    log.append(&Record::put(b"a", b"2")).unwrap();
    table.catch_up(&log).unwrap();
    assert_eq!(table.get(b"a").unwrap().unwrap().value, b"2");
    drop(table);
    let table = small().open(&log).unwrap();
    assert!(table.checkpoint().unwrap());
}

#[test]
fn threads_write_and_merge_runs_while_apply_and_readers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = Log::options().create(true).fs(Os::shared()).open(&path).unwrap();
    let options = Table::options().delta_bytes(256 << 10).fan_in(3).checkpoint_bytes(1 << 20);
    let table = options.open(&log).unwrap();
    let append = Append { durability: Some(Durability::Buffered), ..Append::default() };
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while table.get(b"last").unwrap().is_none() {
                let view = table.view();
                let mut rows = view.scan(&Scan::all().limit(500)).unwrap();
                let mut before: Option<Vec<u8>> = None;
                while let Some(row) = rows.next().unwrap() {
                    assert!(before.as_deref().is_none_or(|before| before < row.key));
                    assert!(row.offset < view.applied().unwrap().offset);
                    before = Some(row.key.to_vec());
                }
            }
        });
        let mut dice = Dice(13);
        for round in 0..40 {
            for _ in 0..40 {
                log.append_with(&batch(&mut dice, 3000), &append).unwrap();
            }
            log.sync().unwrap();
            table.catch_up(&log).unwrap();
            if round % 10 == 5 {
                assert!(table.checkpoint().unwrap());
            }
        }
        log.append(&Record::put(b"last", b"")).unwrap();
        table.catch_up(&log).unwrap();
        reader.join().unwrap();
    });
    check(&table.view(), &rows_of(&log, log.end()), "at the end");
    assert!(table.checkpoint().unwrap());
    drop(table);
    let table = options.open(&log).unwrap();
    assert_eq!(table.report().checkpoint.unwrap().1, log.end());
    check(&table.view(), &rows_of(&log, log.end()), "opened again");
}

#[test]
fn the_directories_of_checkpoints_and_snapshots_outlive_a_power_cut() {
    let sim = Sim::new(13);
    let log = options(&sim).open(LOG).unwrap();
    log.append(&Record::put(b"a", b"1")).unwrap();
    // Another process made the directory, and died before it made that durable.
    sim.shared().create_dir(&Path::new(LOG).join("table")).unwrap();
    let table = small().open(&log).unwrap();
    assert!(table.checkpoint().unwrap());
    let snapshots = Snapshots::at_on(sim.shared(), Path::new("/snapshots"));
    let published = snapshots.publish(&table, true).unwrap().snapshot;
    let left = sim.crash(&Crash::DropAll);
    let log = options(&left).open(LOG).unwrap();
    let table = small().open(&log).unwrap();
    assert_eq!(table.report().checkpoint.unwrap().1, Offset(1), "{:?}", table.report());
    let snapshots = Snapshots::at_on(left.shared(), Path::new("/snapshots"));
    assert_eq!(snapshots.list().unwrap(), [published]);
}

#[test]
fn a_copy_that_was_cut_before_its_footer_is_made_again() {
    let sim = Sim::new(14);
    let (log, _, _) = two_checkpoints(&sim);
    let table = small().open(&log).unwrap();
    let dir = Path::new("/snapshots");
    let snapshots = Snapshots::at_on(sim.shared(), dir);
    let snapshot = snapshots.publish(&table, false).unwrap().snapshot;
    for name in sim.shared().list(dir).unwrap() {
        // The sectors of the footer never came, the length did; and no name is there.
        let path = dir.join(&name);
        if name.ends_with(".run") {
            let footer = (sim.read(&path).len() - run::FOOTER_BYTES) as u64;
            overwrite(&sim, &path, footer, &[0; 256]);
            sim.shared().rename(&path, &path.with_extension("part")).unwrap();
        } else {
            sim.shared().unlink(&path).unwrap();
        }
    }
    assert_eq!(snapshots.publish(&table, false).unwrap().snapshot, snapshot);
    assert_eq!(snapshots.verify(&snapshot).unwrap(), [""; 0]);
}

#[test]
fn a_checkpoint_of_records_that_are_only_written_makes_them_durable_first() {
    let sim = Sim::new(15);
    let written = |sim: &Sim| options(sim).visibility(Visibility::Written);
    let log = written(&sim).open(LOG).unwrap();
    let how = Append { durability: Some(Durability::Written), ..Append::default() };
    log.append_with(&batch(&mut Dice(15), 40), &how).unwrap();
    assert_eq!((log.durable_end(), log.confirmed_end()), (Offset(0), Offset(0)));
    let table = small().open(&log).unwrap();
    assert!(table.checkpoint().unwrap());
    assert_eq!((log.durable_end(), log.confirmed_end()), (log.end(), log.end()));
    let left = sim.crash(&Crash::DropAll);
    let again = written(&left).open(LOG).unwrap();
    let table = small().open(&again).unwrap();
    assert_eq!(table.report().checkpoint.unwrap().1, log.end(), "{:?}", table.report());
}

/// A log with a table of one checkpoint, and rows behind it.
fn one_checkpoint(sim: &Sim) -> (Log, Table) {
    let log = options(sim).open(LOG).unwrap();
    log.append(&Record::put(b"a", b"1")).unwrap();
    let table = small().open(&log).unwrap();
    assert!(table.checkpoint().unwrap());
    log.append(&Record::put(b"b", b"2")).unwrap();
    table.catch_up(&log).unwrap();
    (log, table)
}

#[test]
fn a_run_that_got_its_name_and_could_not_be_opened_is_written_again_and_synced() {
    let sim = Sim::new(16);
    let (log, table) = one_checkpoint(&sim);
    sim.fail(Fault::on(OpKind::Read).at(".run").error(Errno::Io));
    assert_eq!(table.checkpoint().unwrap_err().kind(), Kind::Io);
    assert!(table.checkpoint().unwrap());
    let left = sim.crash(&Crash::DropAll);
    let again = options(&left).open(LOG).unwrap();
    let table = small().open(&again).unwrap();
    assert_eq!(table.report().checkpoint.unwrap().1, log.end(), "{:?}", table.report());
}

#[test]
fn a_sync_of_a_run_that_finds_no_room_is_not_tried_again_either() {
    let sim = Sim::new(17);
    let (log, table) = one_checkpoint(&sim);
    sim.fail(Fault::on(OpKind::Sync).at("table").error(Errno::NoSpace));
    assert!(table.checkpoint().is_err());
    assert!(table.checkpoint().is_err(), "the second sync would prove nothing");
    drop(table);
    let table = small().open(&log).unwrap();
    assert!(table.checkpoint().unwrap());
    let left = sim.crash(&Crash::DropAll);
    let again = options(&left).open(LOG).unwrap();
    let table = small().open(&again).unwrap();
    assert_eq!(table.report().checkpoint.unwrap().1, log.end(), "{:?}", table.report());
}

#[test]
fn a_snapshot_whose_sync_failed_is_copied_again() {
    let sim = Sim::new(18);
    let (_log, table) = one_checkpoint(&sim);
    let dir = Path::new("/snapshots");
    let snapshots = Snapshots::at_on(sim.shared(), dir);
    sim.fail(Fault::on(OpKind::Sync).at("snapshots").error(Errno::Io));
    assert_eq!(snapshots.publish(&table, false).unwrap_err().kind(), Kind::Io);
    let snapshot = snapshots.publish(&table, false).unwrap().snapshot;
    let left = sim.crash(&Crash::DropAll);
    let snapshots = Snapshots::at_on(left.shared(), dir);
    assert_eq!(snapshots.verify(&snapshot).unwrap(), [""; 0]);
}

#[test]
fn a_thread_that_panicked_is_told_to_who_would_wait_for_it() {
    let sim = Sim::new(19);
    let log = options(&sim).worker(true).open(LOG).unwrap();
    let (store, taken) = Store::open(&log, &mut TableReport::default()).unwrap();
    let core = Core::new(small(), Some(log.home()), Some(store), taken).unwrap();
    assert!(core.has_threads());
    // In place of the one that writes runs.
    let thread = spawn(&core, "tidelog-flush", |_| panic!("a bug")).unwrap();
    thread.join().unwrap_err();
    let handle = Handle { core, threads: Vec::new(), report: TableReport::default() };
    let table = Table { handle: Arc::new(handle) };
    log.append(&Record::put(b"a", b"1")).unwrap();
    table.catch_up(&log).unwrap();
    let error = table.checkpoint().unwrap_err();
    assert_eq!(error.kind(), Kind::Poisoned, "{error}");
    assert_eq!(table.get(b"a").unwrap().unwrap().value, b"1");
}

#[test]
fn half_a_delta_is_written_while_apply_goes_on_and_a_small_part_is_not() {
    let sim = Sim::new(1);
    let log = options(&sim).worker(true).open(LOG).unwrap();
    // Warm: otherwise it depends on a thread when the next delta's memory is ready.
    let mut table = small().warm(true).open(&log).unwrap();
    let mut fill = |records: u64| {
        for n in 0..records {
            log.append(&Record::put(format!("key/{n}").as_bytes(), &[7; 100])).unwrap();
        }
        log.sync().unwrap();
        Applier::new(&log, &table).unwrap().run(&mut table).unwrap();
        table.settle().unwrap();
        table.stats().runs
    };
    // Some 140 bytes each, of 14 KiB.
    assert_eq!(fill(20), 0);
    assert_eq!(fill(45), 1);
}

#[test]
fn a_snapshot_in_the_making_holds_runs_and_no_delta() {
    let sim = Sim::new(1);
    let log = options(&sim).open(LOG).unwrap();
    log.append(&Record::put(b"key", b"value")).unwrap();
    log.sync().unwrap();
    let table = small().open(&log).unwrap();
    let (_, view) = table.handle.core.published().unwrap();
    assert_eq!(view.get(b"key").unwrap().unwrap().value, b"value");
    let of_table = &table.view().shown.layers;
    // Its memory is what apply would miss until the disk has everything.
    assert!(!Arc::ptr_eq(&view.shown.layers.active, &of_table.active));
    assert!(view.shown.layers.frozen.is_empty());
}
