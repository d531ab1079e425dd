//! Power cuts while a table is repaired, and while a log is restored or forked.

use std::path::{Path, PathBuf};

use tidelog::fs::sim::{Crash, Sim};
use tidelog::log::{Append, Level};
use tidelog::table::{self, Digest, RestoreAt, Snapshots};
use tidelog::{Batch, Durability, Kind, Log, Offset, Options, Record, Table};

const DIR: &str = "/log";
const FORK: &str = "/fork";

fn options(sim: &Sim) -> Options {
    Log::options().fs(sim.shared()).create(true).worker(false).segment_bytes(64 << 10)
}

/// A closed log whose table has two checkpoints, of one run and of two; what it holds.
fn filled() -> (Sim, Digest) {
    let sim = Sim::new(5);
    let log = options(&sim).open(DIR).unwrap();
    let table = Table::options().open(&log).unwrap();
    for part in 0..2_u64 {
        let mut batch = Batch::new();
        for i in 0..200_u64 {
            let key = (part * 100 + i).to_be_bytes();
            batch.push(&Record::put(&key, &[part as u8; 100])).unwrap();
        }
        log.append_batch(&batch).unwrap();
        table.catch_up(&log).unwrap();
        assert!(table.checkpoint().unwrap());
    }
    let digest = table.digest().unwrap();
    drop(table);
    log.close().unwrap();
    (sim.crash(&Crash::KeepAll), digest)
}

fn digest(sim: &Sim, dir: &str, what: &str) -> Digest {
    let log = options(sim).create(false).open(dir).unwrap_or_else(|e| panic!("{what}: {e}"));
    let table = Table::options().open(&log).unwrap_or_else(|e| panic!("{what}: {e}"));
    table.digest().unwrap_or_else(|e| panic!("{what}: {e}"))
}

/// Every disk that a power cut after `n` operations of `work` may leave: all of the pending
/// changes, none, and each one alone.
fn cut(start: &Sim, n: usize, work: impl Fn(&Sim)) -> Vec<(String, Sim)> {
    let disk = start.deep_copy();
    disk.stop_after(n);
    work(&disk);
    let pending = disk.pending().len();
    let alone = (0..pending.min(63)).map(|i| Crash::mask(1 << i));
    let choices = [Crash::DropAll, Crash::KeepAll].into_iter().chain(alone);
    choices.map(|c| (format!("cut after {n}, {c:?}"), disk.crash(&c))).collect()
}

#[test]
fn a_repair_of_a_table_cut_anywhere_is_completed_by_the_next() {
    let (sim, expected) = filled();
    let runs = |sim: &Sim| -> Vec<PathBuf> {
        let all = sim.paths().into_iter();
        all.filter(|path| path.extension().is_some_and(|e| e == "run")).collect()
    };
    let damaged = runs(&sim)[0].clone();
    sim.flip(&damaged, (64 + 32 + 300) * 8);
    let bytes = sim.read(&damaged);
    let repair = |sim: &Sim| table::repair_on(&sim.shared(), Path::new(DIR), false);
    let whole = sim.deep_copy();
    assert!(repair(&whole).unwrap().quarantined.len() >= 2);
    let mut checked = 0;
    for n in 0..whole.operations() {
        for (what, left) in cut(&sim, n, |disk| drop(repair(disk))) {
            let kept = left.paths().iter().any(|path| left.read(path) == bytes);
            assert!(kept, "{what}: the damaged run is gone");
            repair(&left).unwrap_or_else(|e| panic!("{what}: {e}"));
            let found = table::verify_on(&left.shared(), Path::new(DIR), Level::Full).unwrap();
            assert_eq!(found.problems, [], "{what}");
            assert_eq!(digest(&left, DIR, &what), expected, "{what}");
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked}");
}

#[test]
fn a_fork_cut_anywhere_is_no_log_or_the_whole_one() {
    let (sim, expected) = filled();
    let at = RestoreAt::Offset(Offset(400));
    let fork = |sim: &Sim| table::fork_on(&sim.shared(), Path::new(DIR), Path::new(FORK), at);
    let whole = sim.deep_copy();
    fork(&whole).unwrap();
    let (mut none, mut made) = (0, 0);
    for n in 0..whole.operations() {
        for (what, left) in cut(&sim, n, |disk| drop(fork(disk))) {
            match fork(&left) {
                Ok(_) => none += 1,
                Err(e) if e.kind() == Kind::AlreadyExists => made += 1,
                Err(e) => panic!("{what}: {e}"),
            }
            assert_eq!(digest(&left, FORK, &what), expected, "{what}");
            let found = table::verify_on(&left.shared(), Path::new(FORK), Level::Full).unwrap();
            assert_eq!(found.problems, [], "{what}");
        }
    }
    assert!(none > 50 && made > 0, "{none} {made}");
}

/// A restore was cut after it had copied a segment; its user then chose an earlier point, which
/// a snapshot alone reaches. The segment was still there, and the log went on where it had begun.
#[test]
fn a_restore_after_one_to_another_point_that_was_cut_ends_where_it_was_told() {
    let sim = Sim::new(9);
    let log = options(&sim).open(DIR).unwrap();
    let table = Table::options().open(&log).unwrap();
    let snapshots = Snapshots::at_on(sim.shared(), &Path::new(DIR).join("snapshots"));
    let mut expected = Vec::new();
    for part in 0..3_u64 {
        for i in 0..30_u64 {
            let value = [part as u8; 3000];
            log.append(&Record::put(&(part * 10 + i).to_be_bytes(), &value)).unwrap();
        }
        table.catch_up(&log).unwrap();
        if part < 2 {
            snapshots.publish(&table, false).unwrap();
        }
        expected.push((table.applied().unwrap().offset, table.digest().unwrap()));
    }
    drop(table);
    log.close().unwrap();
    let sim = sim.crash(&Crash::KeepAll);
    let to = Path::new("/restored");
    let restore = |sim: &Sim, end: Offset| {
        table::restore_on(&sim.shared(), Path::new(DIR), to, RestoreAt::Offset(end))
    };
    let whole = sim.deep_copy();
    restore(&whole, expected[2].0).unwrap();
    let (mut again, mut done) = (0, 0);
    for n in 0..whole.operations() {
        for (what, left) in cut(&sim, n, |disk| drop(restore(disk, expected[2].0))) {
            let (end, rows) = expected[n % 2];
            match restore(&left, end) {
                Ok(restored) => assert_eq!(restored.end, end, "{what}"),
                Err(e) if e.kind() == Kind::AlreadyExists => {
                    done += 1;
                    continue;
                }
                Err(e) => panic!("{what}: {e}"),
            }
            again += 1;
            let restored = options(&left).create(false).open(to).unwrap();
            assert_eq!(restored.end(), end, "{what}");
            drop(restored);
            assert_eq!(digest(&left, "/restored", &what), rows, "{what}");
        }
    }
    assert!(again > 100 && done > 0, "{again} {done}");
}

#[test]
fn segments_without_a_log_are_somebodys_and_no_restore_takes_them_away() {
    let (sim, _) = filled();
    let broken = Path::new("/broken");
    let at = RestoreAt::End;
    table::restore_on(&sim.shared(), Path::new(DIR), broken, at).unwrap();
    let segment = sim.paths().into_iter().find(|path| path.starts_with("/broken/segments"));
    let segment = segment.expect("a restored log has a segment");
    sim.shared().unlink(&broken.join("LOG")).unwrap();
    for refused in [
        table::restore_on(&sim.shared(), Path::new(DIR), broken, at).unwrap_err(),
        table::fork_on(&sim.shared(), Path::new(DIR), broken, at).unwrap_err(),
    ] {
        assert_eq!(refused.kind(), Kind::AlreadyExists, "{refused}");
    }
    assert!(sim.paths().contains(&segment));
}

/// A segment that was rolled and not sealed yet was read on into the next one: a restore asked its
/// file for more bytes than it has.
#[test]
fn a_restore_goes_through_segments_that_are_rolled_and_not_sealed_yet() {
    let sim = Sim::new(17);
    let log = options(&sim).isolate_groups(true).open(DIR).unwrap();
    let append = |durability| {
        let mut batch = Batch::new();
        batch.push(&Record::put(b"k", &[7; 3000])).unwrap();
        let how = Append { durability: Some(durability), ..Append::default() };
        log.append_with(&batch, &how).unwrap().last
    };
    // The first segment is sealed by the sync that rolls it; then two are rolled with one sync, the
    // earlier of them durable already.
    while log.segments().len() < 2 {
        append(Durability::Durable);
    }
    let per_segment = log.segments()[1].base_offset.0;
    while log.end().0 < 2 * per_segment {
        append(Durability::Durable);
    }
    while log.segments().len() < 4 {
        append(Durability::Written);
    }
    log.sync().unwrap();
    let list = log.segments();
    let waiting = list.iter().position(|segment| !segment.sealed).unwrap();
    assert!(waiting < list.len() - 1, "{list:?}");
    let disk = sim.crash(&Crash::KeepAll);
    let next = list[waiting + 1].base_offset;
    for at in [Offset(next.0 - 1), next, next.plus(1)] {
        let to = format!("/restored-{at}");
        let to = Path::new(&to);
        let at_offset = RestoreAt::Offset(at);
        let restored = table::restore_on(&disk.shared(), Path::new(DIR), to, at_offset);
        assert_eq!(restored.unwrap().end, at);
        let restored = options(&disk).create(false).open(to).unwrap();
        assert_eq!(restored.end(), at);
        assert_eq!(restored.get(Offset(at.0 - 1)).unwrap().unwrap().record().value, [7; 3000]);
    }
    // No hash stands for such a segment yet; what its checksums refuse is not restored.
    let fs = disk.shared();
    let file = fs.open(&list[waiting].path, tidelog::fs::Open::Write).unwrap();
    file.write_all_at(b"x", 4096 + 1000).unwrap();
    let damaged = Path::new("/restored-damaged");
    table::restore_on(&fs, Path::new(DIR), damaged, RestoreAt::Offset(next)).unwrap_err();
}
