//! The engine on the simulated disk: power cuts after every operation, failing calls.
//!
//! The oracle knows only what clients were told: what was acknowledged as durable must be there,
//! what is there must be what was sent, in order, without gaps; and the log must go on.

use std::path::Path;
use std::sync::Arc;

use tidelog::fs::Fs;
use tidelog::fs::sim::{Crash, Errno, Fault, OpKind, Sim};
use tidelog::{Batch, Durability, Kind, Log, Offset, Options, Preallocate, Record};

const DIR: &str = "/log";

fn options(sim: &Sim) -> Options {
    let fs: Arc<dyn Fs> = sim.shared();
    Log::options().fs(fs).create(true).worker(false).segment_bytes(64 << 10)
}

fn value(i: u64) -> Vec<u8> {
    i.to_le_bytes().repeat(100 + usize::try_from(i % 50).unwrap())
}

/// What clients were told.
#[derive(Clone, Debug, Default)]
struct Told {
    /// Records that were sent, acknowledged or not.
    sent: u64,
    /// Records acknowledged as durable.
    durable: u64,
}

/// Appends with every durability, rolls, closes, reopens; stops at the first error.
fn workload(sim: &Sim, preallocate: Preallocate, told: &mut Told) -> tidelog::Result<()> {
    let open = || options(sim).preallocate(preallocate);
    for round in 0..3 {
        let log = open().open(DIR)?;
        for i in 0..30u64 {
            let mut batch = Batch::new();
            let count = 1 + i % 7;
            for n in 0..count {
                batch.push(&Record::put(b"key", &value(told.sent + n)))?;
            }
            let durability = match (i + round) % 3 {
                0 => Durability::Buffered,
                1 => Durability::Written,
                _ => Durability::Durable,
            };
            told.sent += count;
            let how = tidelog::Append { durability: Some(durability), ..Default::default() };
            let appended = log.append_with(&batch, &how)?;
            assert_eq!(appended.last.0 + 1, told.sent);
            if durability == Durability::Durable {
                told.durable = told.sent;
            }
        }
        if round != 1 {
            log.close()?;
            told.durable = told.sent;
        } else {
            // The process dies here, the machine does not.
            sim.kill();
            drop(log);
            return Ok(());
        }
    }
    Ok(())
}

/// Opens what a power cut left, holds it against what clients were told, appends, reopens.
fn check(disk: &Sim, told: &Told, what: &dyn Fn() -> String) -> u64 {
    let read = |log: &Log| {
        let mut cursor = log.read(log.start()).unwrap();
        let mut found = 0;
        while let Some(entry) = cursor.next().unwrap_or_else(|e| panic!("{}: {e}", what())) {
            assert_eq!(entry.offset, Offset(found), "{}", what());
            if entry.record.value != b"again" {
                assert_eq!(entry.record.value, value(found), "{}", what());
            }
            found += 1;
        }
        found
    };
    let first = {
        let log = options(disk).open(DIR).unwrap_or_else(|e| panic!("{}: {e}", what()));
        let found = read(&log);
        assert!(found >= told.durable, "{}: {found} of {} durable", what(), told.durable);
        assert!(found <= told.sent, "{}: {found} of {} sent", what(), told.sent);
        let appended =
            log.append(&Record::event(b"again")).unwrap_or_else(|e| panic!("{}: {e}", what()));
        assert_eq!(appended.first, Offset(found), "{}", what());
        disk.kill();
        drop(log);
        found
    };
    // Another power cut, right after: the append was acknowledged.
    let again = disk.crash(&Crash::DropAll);
    let log = options(&again).open(DIR).unwrap_or_else(|e| panic!("{}, again: {e}", what()));
    assert_eq!(read(&log), first + 1, "{}, again", what());
    log.close().unwrap();
    first
}

#[test]
fn nothing_acknowledged_is_lost_whatever_operation_the_power_fails_at() {
    let (mut states, mut operations) = (std::collections::HashSet::new(), 0);
    for preallocate in [Preallocate::Auto, Preallocate::Grow] {
        let sim = Sim::new(1);
        workload(&sim, preallocate, &mut Told::default()).unwrap();
        let total = sim.operations();
        for n in 0..total {
            let sim = Sim::new(1);
            sim.stop_after(n);
            let mut told = Told::default();
            let stopped = workload(&sim, preallocate, &mut told);
            operations += 1;
            let mut choices = vec![Crash::DropAll, Crash::KeepAll];
            choices.extend((0..3).map(|seed| Crash::Torn { seed: seed + n as u64 * 7 }));
            for choice in choices {
                let disk = sim.crash(&choice);
                if !states.insert(disk.durable_hash()) {
                    continue;
                }
                let what =
                    || format!("{preallocate:?}, power off after {n} ({stopped:?}), {choice:?}");
                check(&disk, &told, &what);
            }
        }
    }
    println!("{} distinct disks after {operations} power cuts, 0 violations", states.len());
    assert!(states.len() > 500, "{} distinct disks", states.len());
}

#[test]
fn a_power_cut_during_recovery_loses_nothing_either() {
    let sim = Sim::new(3);
    let mut told = Told::default();
    workload(&sim, Preallocate::Auto, &mut told).unwrap();
    let mut checked = 0;
    for seed in 0..6 {
        let torn = sim.crash(&Crash::Torn { seed });
        let total = {
            let disk = torn.deep_copy();
            drop(options(&disk).open(DIR).unwrap());
            disk.operations()
        };
        for n in 0..total {
            let disk = torn.deep_copy();
            disk.stop_after(n);
            let opened = options(&disk).open(DIR);
            drop(opened);
            for choice in [Crash::DropAll, Crash::KeepAll, Crash::Torn { seed: n as u64 }] {
                let what = || format!("seed {seed}, recovery cut after {n}, {choice:?}");
                check(&disk.crash(&choice), &told, &what);
                checked += 1;
            }
        }
    }
    println!("{checked} crashes inside recovery, 0 violations");
    assert!(checked > 100);
}

#[test]
fn a_failed_sync_poisons_and_is_never_called_success() {
    for nth in 0..12 {
        let sim = Sim::new(5);
        let log = options(&sim).open(DIR).unwrap();
        log.append(&Record::event(&value(0))).unwrap();
        // It fails once; a second sync would succeed and prove nothing.
        sim.fail(Fault::on(OpKind::Sync).nth(nth));
        let mut durable = 1;
        let poisoned = loop {
            match log.append(&Record::event(&value(durable))) {
                Ok(_) => durable += 1,
                Err(e) => break e,
            }
        };
        assert_eq!(poisoned.kind(), Kind::Poisoned, "{poisoned}");
        let late = log.append(&Record::event(b"late")).unwrap_err();
        assert_eq!(late.kind(), Kind::Poisoned);
        assert_eq!(log.sync().unwrap_err().kind(), Kind::Poisoned);
        assert!(log.stats().poisoned);
        assert_eq!(log.durable_end(), Offset(durable), "reads go on, to what was durable");
        assert!(log.get(Offset(durable - 1)).unwrap().is_some());
        assert_eq!(log.close().unwrap_err().kind(), Kind::Poisoned);
        for choice in [Crash::DropAll, Crash::KeepAll] {
            let told = Told { sent: durable + 1, durable };
            check(&sim.crash(&choice), &told, &|| format!("sync {nth} failed, {choice:?}"));
        }
    }
}

#[test]
fn every_failing_call_leaves_a_log_that_opens_again() {
    let kinds = [
        OpKind::Open,
        OpKind::Create,
        OpKind::Write,
        OpKind::SetLen,
        OpKind::Sync,
        OpKind::SyncDir,
        OpKind::Rename,
        OpKind::Unlink,
        OpKind::List,
        OpKind::Read,
    ];
    let mut struck = 0;
    for kind in kinds {
        for error in [Errno::Io, Errno::NoSpace] {
            for nth in 0.. {
                let sim = Sim::new(9);
                sim.fail(Fault::on(kind).nth(nth).error(error));
                let mut told = Told::default();
                let outcome = workload(&sim, Preallocate::Auto, &mut told);
                if sim.fired() == 0 {
                    break;
                }
                struck += 1;
                sim.heal();
                for choice in [Crash::DropAll, Crash::KeepAll] {
                    let what = || {
                        format!("{kind:?} {nth} failed with {error:?} ({outcome:?}), {choice:?}")
                    };
                    check(&sim.crash(&choice), &told, &what);
                }
            }
        }
    }
    println!("{struck} calls failed, 0 violations");
    assert!(struck > 300, "{struck}");
}

#[test]
fn a_full_simulated_disk_is_survived() {
    let sim = Sim::new(11);
    let log = options(&sim).preallocate(Preallocate::Grow).open(DIR).unwrap();
    sim.set_capacity(Some(200_000));
    let mut durable = 0;
    let full = loop {
        match log.append(&Record::event(&value(durable))) {
            Ok(_) => durable += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(full.kind(), Kind::Unknown | Kind::DiskFull), "{full}");
    let sent = durable + u64::from(full.kind() == Kind::Unknown);
    assert_eq!(log.append(&Record::event(b"")).unwrap_err().kind(), Kind::DiskFull);
    let disk = sim.crash(&Crash::DropAll);
    disk.set_capacity(None);
    check(&disk, &Told { sent, durable }, &|| "disk full".into());
    sim.set_capacity(None);
    let appended = log.append(&Record::event(&value(sent))).unwrap();
    assert_eq!(appended.first, Offset(sent), "nothing that has an offset was dropped");
    log.close().unwrap();
    let log = options(&sim).open(DIR).unwrap();
    assert_eq!(log.end(), Offset(sent + 1));
    assert!(Path::new(DIR).is_absolute());
}

/// Behind unsynced bulk, rolled segments were sealed before the directory was synced. A power cut
/// could keep the name of a later one, with a valid footer, and forget an earlier one's: the footer
/// proved that what lay before was durable, and a log in which nothing had been acknowledged did
/// not open.
#[test]
fn a_footer_never_speaks_for_a_segment_whose_name_may_be_lost() {
    let bulk = |sim: &Sim| -> tidelog::Result<()> {
        let log = options(sim).preallocate(Preallocate::Grow).open(DIR)?;
        for i in 0..16 {
            let mut batch = Batch::new();
            batch.push(&Record::put(b"key", &value(i).repeat(12)))?;
            let how = tidelog::Append {
                durability: Some(Durability::Written),
                ..tidelog::Append::default()
            };
            log.append_with(&batch, &how)?;
        }
        log.sync().map(drop)
    };
    let sim = Sim::new(1);
    bulk(&sim).unwrap();
    let (total, mut checked) = (sim.operations(), 0);
    for n in 0..total {
        let sim = Sim::new(1);
        sim.stop_after(n);
        if bulk(&sim).is_ok() {
            continue;
        }
        for kept in 0..sim.pending().len().min(63) {
            let disk = sim.crash(&Crash::mask(1 << kept));
            if disk.exists("/log/LOG") {
                options(&disk).open(DIR).unwrap_or_else(|e| panic!("{n}, {kept}: {e}"));
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "{checked}");
}

/// A new epoch's segment begins as a header alone. When the process died before the first append,
/// the next open called that header a torn tail of 4096 bytes and kept a copy in quarantine; with
/// segments filled ahead, a copy of 64 MiB of zeros, at every restart.
#[test]
fn a_segment_without_a_frame_is_no_torn_tail() {
    for preallocate in [Preallocate::Grow, Preallocate::Zero] {
        let sim = Sim::new(1);
        let open = |sim: &Sim| options(sim).preallocate(preallocate).open(DIR).unwrap();
        let log = open(&sim);
        log.append(&Record::event(b"one")).unwrap();
        sim.kill();
        drop(log);
        for _ in 0..3 {
            let process = sim.process();
            let log = open(&process);
            assert_eq!(log.report().bytes_cut, 0);
            assert_eq!(log.end(), Offset(1));
            process.kill();
        }
        assert!(!sim.exists("/log/quarantine"));
    }
}
