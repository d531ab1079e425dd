//! Bugs that `tidelog-torture iofault` found, each with its story.

use std::path::Path;
use std::sync::Arc;

use tidelog::fs::Fs;
use tidelog::fs::sim::{Crash, Errno, Fault, OpKind, Sim};
use tidelog::log::{Level, repair_on, verify_on};
use tidelog::{Append, Batch, Durability, Kind, Log, Offset, Options, Record};

const DIR: &str = "/log";

fn options(sim: &Sim) -> Options {
    Log::options().fs(sim.shared()).create(true).worker(false).segment_bytes(64 << 10)
}

fn append(log: &Log, i: u64, durability: Durability) -> tidelog::Result<()> {
    let mut batch = Batch::new();
    let value = i.to_le_bytes().repeat(1500);
    batch.push(&Record::put(b"key", &value)).unwrap();
    let how = Append { durability: Some(durability), ..Append::default() };
    log.append_with(&batch, &how).map(drop)
}

/// How many records a log holds; each must be the one that was appended there.
fn count(log: &Log) -> u64 {
    let mut cursor = log.read(Offset(0)).unwrap();
    let mut found = 0;
    while let Some(entry) = cursor.next().unwrap() {
        assert_eq!(entry.record.value[..8], u64::to_le_bytes(found));
        found += 1;
    }
    found
}

/// A sync of unsynced bulk over several segments sealed them first, and only then synced their
/// directory. A power cut in between could keep the last one's name and lose an earlier one's: its
/// footer then proved that acknowledged bytes were missing, and the log refused to open, though
/// nothing had been acknowledged.
#[test]
fn segments_sealed_before_their_first_sync_keep_their_names() {
    let fill = |sim: &Sim| {
        let log = options(sim).open(DIR).unwrap();
        for i in 0..30 {
            append(&log, i, Durability::Written).unwrap();
        }
        log
    };
    let sim = Sim::new(1);
    let log = fill(&sim);
    let from = sim.operations();
    log.sync().unwrap();
    let to = sim.operations();
    drop(log);
    for n in from..to {
        let sim = Sim::new(1);
        let log = fill(&sim);
        sim.stop_after(n);
        let _ = log.sync();
        for seed in 0..8 {
            let disk = sim.crash(&Crash::Torn { seed });
            let log = options(&disk).open(DIR);
            let log = log.unwrap_or_else(|e| panic!("cut after {n}, seed {seed}: {e}"));
            assert!(count(&log) <= 30);
        }
    }
}

/// Opening after a crash on a full disk put recovery off, as it should, but showed an empty log
/// meanwhile; where several segments were unsealed, a reader ran past the end of the first and
/// called the zeros there corrupt.
#[test]
fn a_log_recovered_on_a_full_disk_shows_what_is_proven() {
    let sim = Sim::new(2);
    let log = options(&sim).open(DIR).unwrap();
    for i in 0..7 {
        append(&log, i, Durability::Durable).unwrap();
    }
    for i in 7..12 {
        append(&log, i, Durability::Written).unwrap();
    }
    let left = sim.crash(&Crash::KeepAll);
    drop(log);
    for kind in [OpKind::Write, OpKind::Create, OpKind::Rename] {
        for nth in 0..8 {
            let disk = left.deep_copy();
            disk.fail(Fault::on(kind).nth(nth).error(Errno::NoSpace).sticky());
            let Ok(log) = options(&disk).open(DIR) else { continue };
            let shown = count(&log);
            assert!((6..=12).contains(&shown), "{kind:?} {nth}: {shown} of 7 to 12 are shown");
            disk.heal();
            append(&log, 12, Durability::Durable).unwrap();
            assert_eq!(count(&log), 13, "{kind:?} {nth}");
        }
    }
}

/// A footer whose write or sync failed can still be read from the page cache. Reopened, the log
/// took that segment for sealed and went on behind it; a power cut then lost the footer, and the
/// next recovery sealed the segment with the hash of a later one as its predecessor's: from then
/// on the log was called corrupt.
#[test]
fn a_footer_that_a_power_cut_takes_below_a_sealed_segment_is_made_again() {
    let mut struck = 0;
    for (kind, landed) in [(OpKind::Write, true), (OpKind::Sync, false)] {
        for nth in 0.. {
            let sim = Sim::new(3);
            let mut fault = Fault::on(kind).at("segments/").nth(nth);
            fault.landed = landed;
            sim.fail(fault);
            let mut durable = 0;
            for _ in 0..3 {
                let Ok(log) = options(&sim).open(DIR) else { continue };
                durable = count(&log);
                while durable < 24 && append(&log, durable, Durability::Durable).is_ok() {
                    durable += 1;
                }
            }
            if sim.fired() == 0 {
                break;
            }
            struck += 1;
            let disk = sim.crash(&Crash::DropAll);
            for opening in 0..3 {
                let log = options(&disk).open(DIR);
                let log = log.unwrap_or_else(|e| panic!("{kind:?} {nth}, opening {opening}: {e}"));
                assert!(count(&log) >= durable, "{kind:?} {nth}");
                let end = log.end().0;
                append(&log, end, Durability::Durable).unwrap();
            }
        }
    }
    assert!(struck > 30, "{struck}");
}

/// A closed log of which the second record has rotted.
fn rotten() -> Sim {
    let sim = Sim::new(4);
    let log = options(&sim).open(DIR).unwrap();
    for i in 0..14 {
        append(&log, i, Durability::Durable).unwrap();
    }
    log.close().unwrap();
    let first = Path::new(DIR).join("segments/00000000000000000000.seg");
    sim.flip(first, (4096 + 12_000 + 6_000) * 8);
    sim
}

/// Repair noted only at its very end that a mended segment stands for the old one. Interrupted
/// after the first segment was replaced, it left a log whose chain of seal hashes was broken, and
/// a second repair saw nothing to do.
#[test]
fn a_repair_that_was_interrupted_can_be_made_again() {
    let mut struck = 0;
    for kind in [OpKind::Create, OpKind::Write, OpKind::Rename, OpKind::Sync, OpKind::Read] {
        for nth in 0.. {
            let sim = rotten();
            sim.fail(Fault::on(kind).nth(nth));
            let fs: Arc<dyn Fs> = sim.shared();
            let first = repair_on(&fs, Path::new(DIR), false);
            if sim.fired() == 0 {
                break;
            }
            struck += 1;
            sim.heal();
            repair_on(&fs, Path::new(DIR), false).unwrap();
            let log = options(&sim).open(DIR);
            let log = log.unwrap_or_else(|e| panic!("{kind:?} {nth} ({first:?}): {e}"));
            assert_eq!(log.end(), Offset(14), "{kind:?} {nth}");
            assert!(log.get(Offset(0)).unwrap().is_some() && log.get(Offset(2)).unwrap().is_some());
        }
    }
    assert!(struck > 30, "{struck}");
}

/// Repair wrote NODE, CONTROL, EPOCHS and PROMISE anew when it could not read them, whatever the
/// reason: one EIO or EMFILE, and the retention floor, earlier repairs and the node's identity
/// were gone. Verify listed such a file as damaged.
#[test]
fn a_small_file_that_cannot_be_read_just_now_is_not_called_damaged_nor_overwritten() {
    for name in ["CONTROL", "NODE", "EPOCHS", "PROMISE"] {
        for error in [Errno::Io, Errno::TooManyFiles] {
            let sim = rotten();
            let path = Path::new(DIR).join(name);
            let before = sim.read(&path);
            let fs: Arc<dyn Fs> = sim.shared();
            let fault = || Fault::on(OpKind::Open).at(format!("/{name}")).error(error);
            sim.fail(fault());
            assert_eq!(verify_on(&fs, Path::new(DIR), Level::Full).unwrap_err().kind(), Kind::Io);
            sim.fail(fault());
            assert_eq!(repair_on(&fs, Path::new(DIR), false).unwrap_err().kind(), Kind::Io);
            assert!(sim.read(&path) == before, "{name} was written");
        }
    }
}

/// A write that takes no byte and gives no error was called an I/O error, and poisoned, in every
/// file but the active segment, where it was a full disk.
#[test]
fn a_write_that_takes_nothing_is_a_full_disk_everywhere() {
    for nth in 0..12 {
        let sim = Sim::new(5);
        sim.fail(Fault::on(OpKind::Write).nth(nth).short(0));
        let mut failed = 0;
        for i in 0..12 {
            let outcome = options(&sim).open(DIR).and_then(|log| {
                append(&log, i, Durability::Durable)?;
                log.close()
            });
            if let Err(error) = outcome {
                assert!(matches!(error.kind(), Kind::DiskFull | Kind::Unknown), "{nth}: {error}");
                failed += 1;
            }
        }
        assert!(failed <= 1, "{nth}: {failed} failures");
    }
}
