//! Power cuts while a table is repaired, and while a fork is made.

use std::path::{Path, PathBuf};

use tidelog::fs::sim::{Crash, Sim};
use tidelog::log::Level;
use tidelog::table::{self, Digest, RestoreAt};
use tidelog::{Batch, Kind, Log, Offset, Options, Record, Table};

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
