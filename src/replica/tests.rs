//! Followers on simulated disks: power cuts after every operation, failing calls, full disks.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::error::{Kind, Result};
use crate::fs::sim::{Crash, Errno, Fault, OpKind, Sim};
use crate::fs::{Fs, Open};
use crate::log::{Append, Durability, Log, MIN_SEGMENT_BYTES, Options};
use crate::position::Offset;
use crate::record::{Batch, Record};
use crate::ship::Directory;
use crate::table::{Digest, Table, TableOptions};

pub(super) const LEADER: &str = "/leader";
pub(super) const COPY: &str = "/copy";

/// A leader's disk at a moment, and what a follower must come to there.
pub(super) struct Stage {
    pub(super) disk: Sim,
    pub(super) end: Offset,
    pub(super) digest: Digest,
}

/// A short life: small appends, rolls, a clean reopen, a crash, a new epoch, a clean close.
pub(super) fn stages() -> Vec<Stage> {
    let sim = Sim::new(7);
    let options = |sim: &Sim| {
        Log::options().fs(sim.shared()).create(true).worker(false).segment_bytes(MIN_SEGMENT_BYTES)
    };
    let mut stages = Vec::new();
    let mut sent = 0u64;
    let mut append = |sim: &Sim, log: &Log, batches: u64, size: usize| {
        for _ in 0..batches {
            // STATE is rewritten at most every 5 ms, and here no worker does it later.
            sim.advance(Duration::from_millis(6));
            let mut batch = Batch::new();
            for _ in 0..3 {
                let key = (sent % 17).to_le_bytes();
                batch.push(&Record::put(&key, &sent.to_le_bytes().repeat(size / 8))).unwrap();
                sent += 1;
            }
            log.append_batch(&batch).unwrap();
        }
    };
    let mut keep = |sim: &Sim, log: &Log| {
        stages.push(Stage {
            disk: sim.deep_copy(),
            end: log.durable_end(),
            digest: Table::from_log(log).unwrap().digest().unwrap(),
        });
    };
    let log = options(&sim).open(LEADER).unwrap();
    keep(&sim, &log);
    append(&sim, &log, 3, 100);
    keep(&sim, &log);
    append(&sim, &log, 12, 8000);
    keep(&sim, &log);
    log.close().unwrap();
    let log = options(&sim).open(LEADER).unwrap();
    append(&sim, &log, 2, 500);
    keep(&sim, &log);
    sim.kill();
    std::mem::forget(log);
    let sim = sim.process();
    let log = options(&sim).open(LEADER).unwrap();
    append(&sim, &log, 6, 8000);
    keep(&sim, &log);
    log.close().unwrap();
    let log = options(&sim).read_only(true).create(false).open(LEADER).unwrap();
    keep(&sim, &log);
    stages
}

fn open(disk: &Sim, stage: &Stage) -> Result<Follower> {
    open_with(disk, stage, Table::options().delta_bytes(32 << 10).checkpoint_bytes(64 << 10))
}

fn open_with(disk: &Sim, stage: &Stage, table: TableOptions) -> Result<Follower> {
    let options: Options = Log::options().fs(disk.shared()).worker(false);
    let source = Directory::open_in(stage.disk.shared(), LEADER).unwrap();
    Follower::open_with(options, table, COPY, source)
}

/// Goes through the stages; `told` is the end that the follower last called durable.
fn follow(disk: &Sim, stages: &[Stage], told: &mut Offset) -> Result<()> {
    for (i, stage) in stages.iter().enumerate() {
        let mut follower = open(disk, stage)?;
        assert!(follower.end() >= *told);
        *told = follower.catch_up()?.to;
        assert_eq!(*told, stage.end);
        assert_eq!(follower.table().digest().unwrap(), stage.digest);
        match i % 2 {
            0 => follower.close()?,
            _ => drop(follower),
        }
    }
    Ok(())
}

fn bytes(fs: &dyn Fs, directory: &str, name: &str) -> Vec<u8> {
    let path = Path::new(directory).join("segments").join(name);
    let file = fs.open_plain(&path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Opens what is left, completes it, holds it against the leader.
pub(super) fn complete(disk: &Sim, stage: &Stage, told: Offset, what: &str) {
    let mut follower = open(disk, stage).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(!follower.report().unclean, "{what}: {:?}", follower.report());
    assert!(follower.end() >= told, "{what}: lost what was durable");
    let progress = follower.catch_up().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(progress.to, stage.end, "{what}");
    assert_eq!(follower.table().digest().unwrap(), stage.digest, "{what}");
    assert_eq!(Table::from_log(&follower.log()).unwrap().digest().unwrap(), stage.digest, "{what}");
    let (leader, copy) = (stage.disk.shared(), disk.shared());
    let names = copy.list(&Path::new(COPY).join("segments")).unwrap();
    assert!(names.iter().all(|name| name.ends_with(".seg")), "{what}: {names:?}");
    assert_eq!(names, leader.list(&Path::new(LEADER).join("segments")).unwrap(), "{what}");
    for name in &names {
        let (theirs, mine) = (bytes(&*leader, LEADER, name), bytes(&*copy, COPY, name));
        // Sealed ones are equal; behind the frames of the active one are zeros.
        assert!(theirs.starts_with(&mine), "{what}: {name} differs");
        assert!(theirs[mine.len()..].iter().all(|&b| b == 0), "{what}: {name} lacks bytes");
    }
    follower.close().unwrap();
}

/// Opens what is left and loses power at once: what opening called durable must be so.
fn reopen_and_lose_power(left: &Sim, stage: &Stage, told: Offset, what: &str) {
    let follower = open(left, stage).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(follower.end() >= told, "{what}");
    let (told, durable) = (follower.end(), follower.receiver.durable.end.log_byte);
    drop(follower);
    let cut = left.crash(&Crash::DropAll);
    let kept = open(&cut.deep_copy(), stage).unwrap_or_else(|e| panic!("{what}: {e}"));
    // A seal has no offset: only bytes tell whether one that was called durable is gone.
    let found = kept.receiver.durable.end.log_byte;
    assert!(found >= durable, "{what}: durable to log byte {durable}, then to {found}");
    drop(kept);
    complete(&cut, stage, told, &format!("{what}, then power"));
}

/// The last stage, which everything is completed against.
pub(super) fn last(stages: &[Stage]) -> &Stage {
    stages.last().unwrap()
}

fn crashes(seed: usize) -> [(&'static str, Crash); 5] {
    let torn = |n: u64| Crash::Torn { seed: seed as u64 * 5 + n };
    [
        ("drop all", Crash::DropAll),
        ("keep all", Crash::KeepAll),
        ("torn a", torn(1)),
        ("torn b", torn(2)),
        ("torn c", torn(3)),
    ]
}

#[test]
fn a_power_cut_after_any_operation_leaves_a_copy_that_completes() {
    let stages = stages();
    let disk = Sim::new(1);
    follow(&disk, &stages, &mut Offset(0)).unwrap();
    let operations = disk.operations();
    assert!(operations > 60, "only {operations} operations");
    for n in 0..operations {
        let disk = Sim::new(1);
        disk.stop_after(n);
        let mut told = Offset(0);
        assert!(follow(&disk, &stages, &mut told).is_err(), "after operation {n}");
        for (name, crash) in crashes(n) {
            let left = disk.crash(&crash);
            complete(&left, last(&stages), told, &format!("operation {n}, {name}"));
        }
    }
}

#[test]
fn a_second_power_cut_while_completing_changes_nothing() {
    let stages = stages();
    let disk = Sim::new(1);
    follow(&disk, &stages, &mut Offset(0)).unwrap();
    for n in (0..disk.operations()).step_by(15) {
        let disk = Sim::new(1);
        disk.stop_after(n);
        let mut told = Offset(0);
        let _ = follow(&disk, &stages, &mut told);
        for m in (0..60).step_by(7) {
            let left = disk.crash(&Crash::Torn { seed: (n * 100 + m) as u64 });
            left.stop_after(m);
            let again = open(&left, last(&stages)).and_then(|mut follower| follower.catch_up());
            let told = again.map_or(told, |progress| progress.to);
            for (name, crash) in crashes(n + m).into_iter().skip(m % 2).step_by(2) {
                let what = format!("operation {n}, then {m}, {name}");
                complete(&left.crash(&crash), last(&stages), told, &what);
            }
        }
    }
}

/// A follower died between writing a seal and syncing it. Opened again it acknowledged the seal, which
/// a power cut then took: every operation is such a moment here.
#[test]
fn a_killed_process_leaves_a_copy_that_completes() {
    let stages = stages();
    let disk = Sim::new(1);
    follow(&disk, &stages, &mut Offset(0)).unwrap();
    for n in 0..disk.operations() {
        let disk = Sim::new(1);
        disk.stop_after(n);
        let mut told = Offset(0);
        let _ = follow(&disk, &stages, &mut told);
        let what = format!("operation {n}");
        reopen_and_lose_power(&disk.deep_copy(), last(&stages), told, &what);
        complete(&disk.deep_copy(), last(&stages), told, &what);
    }
}

#[test]
fn a_failed_call_never_leaves_a_copy_that_says_too_much() {
    let stages = stages();
    for kind in [OpKind::Sync, OpKind::SyncDir, OpKind::Write, OpKind::Rename, OpKind::Create] {
        let disk = Sim::new(1);
        follow(&disk, &stages, &mut Offset(0)).unwrap();
        for n in 0..disk.calls(kind) {
            let disk = Sim::new(1);
            disk.fail(Fault::on(kind).nth(n).error(Errno::Io));
            let mut told = Offset(0);
            let _ = follow(&disk, &stages, &mut told);
            disk.heal();
            for (name, crash) in crashes(usize::try_from(n).unwrap()).into_iter().take(2) {
                let left = disk.crash(&crash);
                complete(&left, last(&stages), told, &format!("{kind:?} {n}, {name}"));
            }
            let what = format!("{kind:?} {n}, no crash");
            complete(&disk.deep_copy(), last(&stages), told, &what);
            // A name whose directory's sync failed can be lost for good, with what is in the
            // file: a real file system is read-only by then.
            if kind != OpKind::SyncDir {
                reopen_and_lose_power(&disk.deep_copy(), last(&stages), told, &what);
            }
        }
    }
}

/// A rename that failed and took effect left the segment where readers looked next: they opened it, the
/// next try put another file in its place, and what was copied from then on was not there for them.
#[test]
fn a_segment_whose_rename_failed_and_took_effect_is_not_what_readers_open() {
    let stages = stages();
    let (first, all) = (&stages[1], last(&stages));
    let disk = Sim::new(3);
    let mut follower = open(&disk, first).unwrap();
    follower.catch_up().unwrap();
    drop(follower);
    let mut follower = open(&disk, all).unwrap();
    disk.fail(Fault::on(OpKind::Rename).at(".seg").landed());
    let mut failures = 0;
    while follower.end() < all.end {
        failures += u32::from(follower.step().is_err());
        // Whoever looks between finds no file of which nothing is known to be here.
        let end = follower.end();
        let log = follower.log();
        let mut cursor = log.read_range(Offset(0)..end).unwrap();
        while cursor.next().unwrap().is_some() {}
    }
    assert_eq!(failures, 1, "the rename was to fail once");
    assert_eq!(follower.table().digest().unwrap(), all.digest);
}

#[test]
fn a_full_disk_stops_copying_and_space_lets_it_go_on() {
    let stages = stages();
    let whole = Sim::new(1);
    let memory = Table::options().persist(false);
    open_with(&whole, last(&stages), memory).unwrap().catch_up().unwrap();
    for share in 1..10 {
        let disk = Sim::new(1);
        open(&disk, &stages[0]).unwrap().close().unwrap();
        disk.set_capacity(Some(disk.used() + whole.used() * share / 10));
        // With a table on disk, or in memory: then it is the log's files that find no room.
        let kept = Table::options().delta_bytes(32 << 10).persist(share % 2 == 0);
        let mut follower = open_with(&disk, last(&stages), kept).unwrap();
        let error = follower.catch_up().unwrap_err();
        assert_eq!(error.kind(), Kind::DiskFull, "{error}");
        assert_eq!(follower.catch_up().unwrap_err().kind(), Kind::DiskFull);
        disk.set_capacity(None);
        follower.catch_up().unwrap();
        assert_eq!(follower.table().digest().unwrap(), last(&stages).digest);
        let told = follower.end();
        drop(follower);
        complete(&disk.crash(&Crash::DropAll), last(&stages), told, &format!("share {share}"));
    }
}

#[test]
fn a_leader_that_loses_power_never_leaves_its_follower_in_another_history() {
    for seed in 0..30u64 {
        let mut random = seed;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % below
        };
        let mut sim = Sim::new(seed);
        let disk = Sim::new(seed + 1);
        let mut last_digest = None;
        for life in 0..6 {
            let options = Log::options().fs(sim.shared()).create(true).worker(false);
            let log = options.segment_bytes(MIN_SEGMENT_BYTES).open(LEADER).unwrap();
            for _ in 0..next(40) {
                let mut batch = Batch::new();
                let value = vec![life; usize::try_from(next(9000)).unwrap()];
                batch.push(&Record::put(&next(9).to_le_bytes(), &value)).unwrap();
                let durability = match next(4) {
                    0 => Durability::Durable,
                    1 => Durability::Buffered,
                    _ => Durability::Written,
                };
                let how = Append { durability: Some(durability), ..Append::default() };
                log.append_with(&batch, &how).unwrap();
                sim.advance(Duration::from_millis(next(8)));
                if next(5) == 0 {
                    let source = Directory::open_in(sim.shared(), LEADER).unwrap();
                    let options = Log::options().fs(disk.shared());
                    let mut follower = Follower::open(options, COPY, source).unwrap();
                    follower.catch_up().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                    assert!(follower.end() <= log.durable_end(), "seed {seed}");
                }
            }
            if next(3) == 0 {
                log.close().unwrap();
            } else {
                sim.kill();
                std::mem::forget(log);
                sim = match next(3) {
                    0 => sim.process(),
                    1 => sim.crash(&Crash::DropAll),
                    _ => sim.crash(&Crash::Torn { seed: next(1000) }),
                };
            }
            let options = Log::options().fs(sim.shared()).worker(false);
            let log = options.segment_bytes(MIN_SEGMENT_BYTES).open(LEADER).unwrap();
            log.append(&Record::put(b"life", &[life])).unwrap();
            let digest = Table::from_log(&log).unwrap().digest().unwrap();
            log.close().unwrap();
            let source = Directory::open_in(sim.shared(), LEADER).unwrap();
            let options = Log::options().fs(disk.shared());
            let mut follower = Follower::open(options, COPY, source).unwrap();
            follower.catch_up().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            assert_eq!(follower.table().digest().unwrap(), digest, "seed {seed}");
            assert_ne!(last_digest, Some(digest));
            last_digest = Some(digest);
        }
    }
}

/// Opens without copying anything; what the copy says of itself then.
fn is_unclean(disk: &Sim, stage: &Stage) -> bool {
    let follower = open(disk, stage).unwrap();
    let told = follower.gauge().read().report.unclean;
    assert_eq!(told, follower.report().unclean, "{:?}", follower.report());
    told
}

/// A node that lost what it had acknowledged counted again after a second start: STATE had been
/// rewritten by the first, and nothing else knew.
/// A node that lost what it had acknowledged does not become leader, and says what to do.
#[cfg(feature = "wire")]
fn does_not_lead(follower: &Follower) {
    use crate::replica::failover::{Ask, Promotion};
    let ask = Ask {
        log: follower.log().id(),
        node: follower.node(),
        name: String::new(),
        address: None,
        epoch: None,
    };
    let epoch = crate::position::Epoch { number: 1000, nonce: 1 };
    let error = Promotion::begin(follower, epoch, &ask).unwrap_err();
    assert_eq!(error.kind(), Kind::Unclean, "{error}");
    assert!(error.advice().is_some(), "{error}");
    assert!(follower.promises().get().is_none_or(|promise| promise.epoch < epoch), "promised");
}

#[test]
fn a_loss_is_remembered_over_restarts_and_power_cuts_until_it_is_fetched_again() {
    let stages = stages();
    let whole = Sim::new(1);
    follow(&whole, &stages, &mut Offset(0)).unwrap();
    let names = whole.shared().list(&Path::new(COPY).join("segments")).unwrap();
    let newest = Path::new(COPY).join("segments").join(names.last().unwrap());
    // The end of the newest segment is gone, or nobody can tell what segment it is and STATE says
    // nothing.
    for damage in ["cut", "header"] {
        let lost = whole.deep_copy();
        let file = lost.shared().open(&newest, Open::Write).unwrap();
        match damage {
            "cut" => file.set_len(4096 + 700).unwrap(),
            _ => {
                file.write_all_at(&[0xaa; 64], 0).unwrap();
                lost.shared().unlink(&Path::new(COPY).join("STATE")).unwrap();
                lost.shared().sync_dir(Path::new(COPY)).unwrap();
            }
        }
        file.sync_data().unwrap();
        for n in 0.. {
            let disk = lost.deep_copy();
            disk.stop_after(n);
            let opened = open(&disk, last(&stages)).is_ok();
            for (name, crash) in crashes(n) {
                let what = format!("{damage}, operation {n}, {name}");
                let left = disk.crash(&crash);
                assert!(is_unclean(&left, last(&stages)), "{what}");
                assert!(is_unclean(&left, last(&stages)), "{what}, once more");
                let mut follower = open(&left, last(&stages)).unwrap();
                #[cfg(feature = "wire")]
                does_not_lead(&follower);
                follower.catch_up().unwrap();
                assert!(!follower.gauge().read().report.unclean, "{what}");
                // What it said then holds, too.
                drop(follower);
                let left = left.crash(&Crash::DropAll);
                assert!(!is_unclean(&left, last(&stages)), "{what}, mended");
            }
            if opened {
                assert!(n > 10, "{n}");
                break;
            }
        }
    }
}

/// The simulation found it (`sim --seed 1035 --steps 10000`): a leader that had dropped a segment, and was opened
/// again before the one behind it was sealed, no longer knew that segment's hash and sealed without it. Whoever
/// still had the segment could not go on.
#[test]
fn a_segment_that_was_dropped_is_named_by_the_seal_behind_it_after_a_restart_too() {
    let (sim, disk) = (Sim::new(17), Sim::new(18));
    let options = || {
        Log::options().fs(sim.shared()).create(true).worker(false).segment_bytes(MIN_SEGMENT_BYTES)
    };
    let append = |log: &Log, records: u8| {
        for n in 0..records {
            sim.advance(Duration::from_millis(6));
            log.append(&Record::put(&[n], &[n; 6000])).unwrap();
        }
        log.sync().unwrap();
    };
    let follow = |end: Offset| {
        let source = Directory::open_in(sim.shared(), LEADER).unwrap();
        let copy = Log::options().fs(disk.shared()).worker(false);
        let table = Table::options().persist(false);
        let mut follower = Follower::open_with(copy, table, COPY, source).unwrap();
        assert_eq!(follower.catch_up().unwrap().to, end);
        follower.close().unwrap();
    };
    let log = options().open(LEADER).unwrap();
    append(&log, 14);
    log.close().unwrap();
    let log = options().open(LEADER).unwrap();
    assert_eq!(log.stats().segments, 2);
    follow(log.durable_end());
    let policy = crate::log::Retention {
        keep_from: Some(log.durable_end()),
        copied_below: Some(log.durable_end()),
        ..Default::default()
    };
    assert_eq!(log.retain(&policy).unwrap().files.len(), 1);
    log.close().unwrap();
    let log = options().open(LEADER).unwrap();
    append(&log, 14);
    assert!(log.stats().segments > 1, "the segment behind the dropped one is sealed");
    log.close().unwrap();
    follow(options().read_only(true).create(false).open(LEADER).unwrap().durable_end());
}
