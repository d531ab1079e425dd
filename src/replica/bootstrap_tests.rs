//! Copies that begin with a snapshot, on simulated disks: cut and failing anywhere, of another branch,
//! damaged, from a directory and from an archive.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::fs::sim::{Crash, Fault, Sim};
use crate::log::files::{Control, Layout};
use crate::log::{Identity, Log, MIN_SEGMENT_BYTES, Options, Retention};
use crate::position::Offset;
use crate::record::{Batch, Record};
use crate::ship::archive::fake::{Fake, StoreFault};
use crate::ship::archive::{
    Archive, ObjectName, PublishOptions, Publisher, Store, load, snapshots, verify_archive,
};
use crate::ship::{Directory, Source};
use crate::table::{Beginning, Digest, OpenSnapshot, RestoreAt, Snapshots, Table, TableOptions};

pub(super) const LEADER: &str = "/leader";
pub(super) const COPY: &str = "/copy";

pub(super) fn options(sim: &Sim) -> Options {
    Log::options().fs(sim.shared()).create(true).worker(false).segment_bytes(MIN_SEGMENT_BYTES)
}

pub(super) fn table() -> TableOptions {
    Table::options().delta_bytes(32 << 10).checkpoint_bytes(64 << 10)
}

pub(super) fn append(sim: &Sim, log: &Log, from: u64, batches: u64, size: usize) {
    for i in from..from + batches {
        sim.advance(Duration::from_millis(6));
        let mut batch = Batch::new();
        for j in 0..3 {
            let value = (i * 3 + j).to_le_bytes().repeat(size / 8);
            batch.push(&Record::put(&((i * 7 + j) % 40).to_le_bytes(), &value)).unwrap();
        }
        log.append_batch(&batch).unwrap();
    }
}

/// A leader that still has its log: 60 batches over several segments, with a checkpoint at each twenty.
pub(super) struct Leader {
    pub(super) sim: Sim,
    pub(super) log: Log,
    pub(super) table: Table,
}

impl Leader {
    pub(super) fn new(seed: u64) -> Self {
        let sim = Sim::new(seed);
        let log = options(&sim).open(LEADER).unwrap();
        let table = table().open(&log).unwrap();
        let mut leader = Leader { sim, log, table };
        for part in 0..3 {
            leader.grow(part * 20);
        }
        leader
    }

    pub(super) fn grow(&mut self, from: u64) {
        append(&self.sim, &self.log, from, 20, 2000);
        self.table.catch_up(&self.log).unwrap();
        assert!(self.table.checkpoint().unwrap());
    }

    pub(super) fn retain(&self) {
        let mut policy = Retention::default();
        (policy.keep_bytes, policy.table_is_only_copy) = (Some(1), true);
        let start = self.log.retain(&policy).unwrap().start;
        assert!(start > Offset(0), "nothing was dropped");
    }

    pub(super) fn source(&self) -> Box<dyn Source> {
        Box::new(Directory::open_in(self.sim.shared(), LEADER).unwrap())
    }

    pub(super) fn digest(&self) -> Digest {
        self.table.digest().unwrap()
    }
}

pub(super) fn open(disk: &Sim, source: Box<dyn Source>, begin: Beginning) -> Result<Follower> {
    let options = Log::options().fs(disk.shared()).worker(false);
    Follower::open_from(options, table().begin(begin), Path::new(COPY), source)
}

/// Follows to the end; the table must be the leader's, and so must every segment that is here.
pub(super) fn follow(
    leader: &Leader,
    disk: &Sim,
    source: Box<dyn Source>,
    begin: Beginning,
) -> Result<Begun> {
    let mut follower = open(disk, source, begin)?;
    follower.catch_up()?;
    assert_eq!(follower.end(), leader.log.durable_end());
    assert_eq!(follower.table().digest().unwrap(), leader.digest());
    let begun = Begun {
        start: follower.log().start(),
        snapshot: follower.report().snapshot.map(|name| name.offset),
    };
    follower.close()?;
    let (mine, theirs) = (disk.shared(), leader.sim.shared());
    for name in mine.list(&Path::new(COPY).join("segments")).unwrap() {
        let read = |fs: &dyn Fs, dir: &str| {
            let file = fs.open_plain(&Path::new(dir).join("segments").join(&name)).unwrap();
            let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        let (mine, theirs) = (read(&*mine, COPY), read(&*theirs, LEADER));
        let same = mine.len().min(theirs.len());
        assert_eq!(mine[..same], theirs[..same], "{name}");
    }
    // What was written opens by itself, checkpoint and all.
    let log = options(disk).create(false).read_only(true).open(COPY).unwrap();
    assert_eq!(table().open(&log).unwrap().digest().unwrap(), leader.digest());
    Ok(begun)
}

#[derive(Debug)]
pub(super) struct Begun {
    pub(super) start: Offset,
    pub(super) snapshot: Option<Offset>,
}

#[test]
fn a_new_copy_begins_with_a_checkpoint_of_a_leader_that_has_dropped_its_log() {
    let mut leader = Leader::new(1);
    let begun = follow(&leader, &Sim::new(2), leader.source(), Beginning::Cheaper).unwrap();
    assert_eq!((begun.start, begun.snapshot), (Offset(0), None), "a short log costs little");
    leader.retain();
    let disk = Sim::new(2);
    let begun = follow(&leader, &disk, leader.source(), Beginning::Cheaper).unwrap();
    assert!(begun.start > Offset(0) && begun.snapshot.is_some(), "{begun:?}");
    // It goes on, over seals, and after being opened again.
    leader.grow(60);
    let begun = follow(&leader, &disk, leader.source(), Beginning::Cheaper).unwrap();
    assert_eq!(begun.snapshot, None);
    leader.grow(80);
    follow(&leader, &disk, leader.source(), Beginning::Cheaper).unwrap();
    // Where it may not, it says so.
    let error = follow(&leader, &Sim::new(3), leader.source(), Beginning::Log).unwrap_err();
    assert_eq!(error.kind(), Kind::Gone, "{error}");
}

#[test]
fn an_old_copy_whose_log_is_gone_begins_anew_in_its_place_and_stays_the_same_node() {
    let mut leader = Leader::new(1);
    let disk = Sim::new(2);
    follow(&leader, &disk, leader.source(), Beginning::Cheaper).unwrap();
    let node = open(&disk, leader.source(), Beginning::Cheaper).unwrap().node();
    for part in 3..6 {
        leader.grow(part * 20);
    }
    leader.retain();
    let error = follow(&leader, &disk.deep_copy(), leader.source(), Beginning::Log).unwrap_err();
    assert_eq!(error.kind(), Kind::Gone, "{error}");
    let begun = follow(&leader, &disk, leader.source(), Beginning::Cheaper).unwrap();
    assert!(begun.start > Offset(0) && begun.snapshot.is_some(), "{begun:?}");
    assert_eq!(open(&disk, leader.source(), Beginning::Cheaper).unwrap().node(), node);
}

/// Cuts the power after every operation of a bootstrap: whatever is left, the next try completes it.
fn cut_anywhere(leader: &Leader, start: &Sim, what: &str) {
    let disk = start.deep_copy();
    follow(leader, &disk, leader.source(), Beginning::Snapshot).unwrap();
    let operations = disk.operations();
    assert!(operations > 20, "{operations}");
    for n in 0..operations {
        let disk = start.deep_copy();
        disk.stop_after(n);
        let _ = follow_quietly(leader, &disk);
        for choice in [Crash::DropAll, Crash::KeepAll, Crash::mask(0x5555_5555)] {
            let left = disk.crash(&choice);
            let what = format!("{what}, cut after {n}, {choice:?}");
            follow(leader, &left, leader.source(), Beginning::Snapshot)
                .unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }
}

fn follow_quietly(leader: &Leader, disk: &Sim) -> Result<()> {
    let mut follower = open(disk, leader.source(), Beginning::Snapshot)?;
    follower.catch_up()?;
    follower.close()
}

#[test]
fn a_bootstrap_cut_anywhere_is_completed_by_the_next() {
    let leader = Leader::new(1);
    leader.retain();
    cut_anywhere(&leader, &Sim::new(2), "a new copy");
}

#[test]
fn beginning_anew_cut_anywhere_is_completed_by_the_next() {
    let mut leader = Leader::new(1);
    let disk = Sim::new(2);
    follow(&leader, &disk, leader.source(), Beginning::Log).unwrap();
    for part in 3..6 {
        leader.grow(part * 20);
    }
    leader.retain();
    cut_anywhere(&leader, &disk, "an old copy");
}

#[test]
fn a_bootstrap_with_any_call_failing_leaves_what_the_next_completes() {
    let leader = Leader::new(1);
    leader.retain();
    let mut failed = 0;
    for nth in (1..).step_by(3) {
        let disk = Sim::new(2);
        disk.fail(Fault::any().nth(nth));
        let outcome = follow_quietly(&leader, &disk);
        if disk.fired() == 0 {
            break;
        }
        failed += u64::from(outcome.is_err());
        disk.heal();
        let what = format!("call {nth}");
        let disk = disk.process();
        follow(&leader, &disk, leader.source(), Beginning::Snapshot)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    assert!(failed > 20, "{failed}");
}

#[test]
fn a_snapshot_of_another_branch_is_refused_and_one_of_the_logs_own_taken() {
    let mut leader = Leader::new(1);
    // The same log, gone another way from here on.
    let branch = leader.sim.deep_copy();
    let stray = options(&branch).identity(Identity::NewNode).open(LEADER).unwrap();
    append(&branch, &stray, 500, 20, 2000);
    let strays = table().open(&stray).unwrap();
    branch.shared().create_dir(Path::new("/elsewhere")).unwrap();
    let elsewhere = Path::new("/elsewhere/snapshots");
    let published = Snapshots::at_on(branch.shared(), elsewhere).publish(&strays, false).unwrap();
    leader.grow(60);
    let own = leader.log.durable_end();
    append(&leader.sim, &leader.log, 80, 2, 2000);
    leader.table.catch_up(&leader.log).unwrap();
    leader.retain();
    let mine = Path::new(LEADER).join("snapshots");
    leader.sim.shared().create_dir(&mine).unwrap();
    for name in branch.shared().list(elsewhere).unwrap() {
        leader.sim.write(mine.join(&name), &branch.read(elsewhere.join(&name)));
    }
    // It is the first to be tried: as far as the log goes, in a later epoch.
    let offers = leader.source().snapshots().unwrap();
    assert_eq!(offers.last().unwrap().name.to_string(), published.snapshot.name);
    let begun = follow(&leader, &Sim::new(4), leader.source(), Beginning::Cheaper).unwrap();
    assert_eq!(begun.snapshot, Some(own));
    // With none of the log's own there is a reason, and nothing that looks like a log.
    for path in leader.sim.paths() {
        if path.to_string_lossy().ends_with(".checkpoint") {
            leader.sim.remove(&path);
        }
    }
    let disk = Sim::new(5);
    let error = follow(&leader, &disk, leader.source(), Beginning::Cheaper).unwrap_err();
    assert_eq!(error.kind(), Kind::NotInHistory, "{error}");
    assert!(!disk.exists(Path::new(COPY).join("LOG")));
}

#[test]
fn a_damaged_run_is_never_taken() {
    let leader = Leader::new(1);
    leader.retain();
    for path in leader.sim.paths() {
        let name = path.to_string_lossy().into_owned();
        if name.contains("/table/") && name.ends_with(".run") {
            leader.sim.flip(&path, 8 * 200);
        }
    }
    let disk = Sim::new(5);
    let error = follow(&leader, &disk, leader.source(), Beginning::Cheaper).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(!disk.exists(Path::new(COPY).join("LOG")));
}

/// Publishes the leader's log and table to the store.
pub(super) fn publish(leader: &Leader, store: Arc<dyn Store>) -> Result<()> {
    let from = Directory::open_in(leader.sim.shared(), LEADER)?;
    let publishing = PublishOptions { probe: false, rollup_every: 6, ..PublishOptions::default() };
    let mut publisher = Publisher::open(store, from, publishing)?;
    publisher.push()?;
    publisher.snapshot(&OpenSnapshot::take(&leader.table, true)?).map(drop)
}

pub(super) fn archive(fake: &Fake) -> Box<dyn Source> {
    Box::new(Archive::open(Arc::new(fake.client())).unwrap())
}

pub(super) fn runs(fake: &Fake) -> usize {
    fake.names().iter().filter(|name| matches!(name, ObjectName::Run(_))).count()
}

#[test]
fn an_archive_holds_snapshots_sends_what_is_new_and_restores_to_any_point() {
    let fake = Fake::new();
    let sim = Sim::new(1);
    let log = options(&sim).open(LEADER).unwrap();
    let mut leader = Leader { table: table().open(&log).unwrap(), sim, log };
    let mut points = Vec::new();
    for part in 0..4 {
        leader.grow(part * 20);
        points.push((leader.log.durable_end(), leader.digest()));
        let before = runs(&fake);
        publish(&leader, Arc::new(fake.client())).unwrap();
        let there = load(&fake.client()).unwrap();
        assert_eq!(there.snapshots.len(), part as usize + 1);
        assert!(runs(&fake) > before);
        // Again: nothing is sent, nothing is said twice.
        let (objects, n) = (fake.names().len(), there.n);
        publish(&leader, Arc::new(fake.client())).unwrap();
        assert_eq!((fake.names().len(), load(&fake.client()).unwrap().n), (objects, n));
    }
    let report = verify_archive(&fake.client()).unwrap();
    assert_eq!((report.problems.as_slice(), report.snapshots), (&[][..], 4));
    assert!(load(&fake.client()).unwrap().rollup > 0, "the walk begins at a rollup");
    let named: usize = {
        let manifests = fake.names().into_iter().filter(|n| matches!(n, ObjectName::Manifest(..)));
        let text = |name| String::from_utf8(fake.object(&name).unwrap()).unwrap();
        manifests.map(|name| text(name).lines().filter(|l| l.starts_with("run ")).count()).sum()
    };
    assert!(runs(&fake) < named, "{} runs, named {named} times: some are shared", runs(&fake));

    for (i, (end, digest)) in points.iter().enumerate() {
        for before in [0, 1] {
            let disk = Sim::new(9);
            let at = RestoreAt::Offset(Offset(end.0 - before));
            let restoring = Log::options().fs(disk.shared()).worker(false);
            let restored = restore_from(restoring, archive(&fake), Path::new(COPY), at).unwrap();
            // A batch that reaches over the point is left out whole.
            assert_eq!(restored.end, Offset(end.0 - 3 * before));
            assert_eq!(restored.snapshot.is_some(), i > 0 || before == 0);
            let log = options(&disk).create(false).open(COPY).unwrap();
            let table = table().open(&log).unwrap();
            assert_eq!(table.digest().unwrap() == *digest, before == 0);
            // It is a log that takes writes, in an epoch of its own.
            append(&disk, &log, 900, 1, 100);
            assert!(log.durable_end() > restored.end);
        }
    }
    // A copy begins in the archive, and goes on there.
    let disk = Sim::new(10);
    let begun = follow(&leader, &disk, archive(&fake), Beginning::Snapshot).unwrap();
    assert_eq!(begun.snapshot, Some(points[3].0));
    leader.grow(80);
    publish(&leader, Arc::new(fake.client())).unwrap();
    follow(&leader, &disk, archive(&fake), Beginning::Snapshot).unwrap();
}

#[test]
fn a_snapshot_whose_publishing_fails_or_dies_anywhere_is_there_whole_or_not_at_all() {
    let leader = Leader::new(1);
    let calls = {
        let store = Arc::new(Fake::new().client());
        publish(&leader, store.clone()).unwrap();
        store.calls()
    };
    let mut told = 0;
    for fault in StoreFault::ALL {
        for call in 1..=calls {
            let what = format!("{fault:?} at call {call}");
            let fake = Fake::new();
            told += u64::from(publish(&leader, Arc::new(fake.failing(call, fault))).is_err());
            fake.settle();
            let named = load(&fake.client()).map_or(0, |state| state.snapshots.len());
            let whole = snapshots(&fake.client(), true).unwrap_or_default();
            assert_eq!(whole.len(), named, "{what}");
            assert!(whole.iter().all(|(_, problems)| problems.is_empty()), "{what}: {whole:?}");
            publish(&leader, Arc::new(fake.client())).unwrap_or_else(|e| panic!("{what}: {e}"));
            let report = verify_archive(&fake.client()).unwrap();
            assert_eq!((report.problems.as_slice(), report.snapshots), (&[][..], 1), "{what}");
        }
    }
    assert!(told >= calls, "{told} of {calls} calls were told of");
}

#[test]
fn damage_to_a_snapshot_in_the_archive_is_found_and_an_older_one_is_taken() {
    let fake = Fake::new();
    let mut leader = Leader::new(1);
    publish(&leader, Arc::new(fake.client())).unwrap();
    let first = leader.log.durable_end();
    let old: Vec<ObjectName> = fake.names();
    leader.grow(60);
    publish(&leader, Arc::new(fake.client())).unwrap();
    let new = |name: &ObjectName| !old.contains(name);
    let of = |what: fn(&ObjectName) -> bool| {
        fake.names().into_iter().find(|name| new(name) && what(name)).unwrap()
    };
    let run = of(|name| matches!(name, ObjectName::Run(_)));
    let manifest = of(|name| matches!(name, ObjectName::Manifest(..)));
    for (name, byte) in [(run, 100), (run, usize::MAX), (manifest, 30)] {
        let good = fake.object(&name).unwrap();
        let mut bad = good.clone();
        let at = byte.min(good.len() - 20);
        bad[at] ^= 4;
        for planted in [Some(bad), Some(good[..good.len() / 2].to_vec()), None] {
            fake.plant(name, planted);
            let report = verify_archive(&fake.client()).unwrap();
            assert!(report.problems.iter().any(|p| p.object == name.to_string()), "{report:?}");
            let begun = follow(&leader, &Sim::new(3), archive(&fake), Beginning::Snapshot);
            assert_eq!(begun.unwrap().snapshot, Some(first));
            // Another log of the right name is no better.
            fake.plant(name, Some(good.clone()));
        }
    }
    let mut told: Vec<Error> = Vec::new();
    let other = Leader::new(77);
    let from = Directory::open_in(leader.sim.shared(), LEADER).unwrap();
    let publishing = PublishOptions { probe: false, ..PublishOptions::default() };
    let mut publisher = Publisher::open(Arc::new(fake.client()), from, publishing).unwrap();
    publisher.push().unwrap();
    told.extend(publisher.snapshot(&OpenSnapshot::take(&other.table, false).unwrap()).err());
    assert_eq!(told[0].kind(), Kind::WrongLog, "{}", told[0]);
}

#[test]
fn a_snapshot_ahead_of_the_archive_is_refused_until_the_log_is_there() {
    let fake = Fake::new();
    let mut leader = Leader::new(1);
    publish(&leader, Arc::new(fake.client())).unwrap();
    let from = Directory::open_in(leader.sim.shared(), LEADER).unwrap();
    let publishing = PublishOptions { probe: false, ..PublishOptions::default() };
    let mut publisher = Publisher::open(Arc::new(fake.client()), from, publishing).unwrap();
    publisher.push().unwrap();
    leader.grow(60);
    let ahead = OpenSnapshot::take(&leader.table, false).unwrap();
    let error = publisher.snapshot(&ahead).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    publisher.push().unwrap();
    publisher.snapshot(&ahead).unwrap();
}

#[test]
fn an_interrupted_restore_goes_on_and_one_to_an_earlier_point_begins_anew() {
    let fake = Fake::new();
    let leader = Leader::new(1);
    publish(&leader, Arc::new(fake.client())).unwrap();
    let restore = |disk: &Sim, at: RestoreAt| {
        let restoring = Log::options().fs(disk.shared()).worker(false);
        restore_from(restoring, archive(&fake), Path::new(COPY), at)
    };
    let disk = Sim::new(3);
    let all = restore(&disk, RestoreAt::End).unwrap();
    assert_eq!(all.end, leader.log.durable_end());
    let operations = disk.operations();
    for n in (0..operations).step_by(3) {
        let disk = Sim::new(3);
        disk.stop_after(n);
        let _ = restore(&disk, RestoreAt::End);
        let left = disk.crash(&Crash::KeepAll);
        let at = if n % 2 == 0 { RestoreAt::End } else { RestoreAt::Offset(Offset(90)) };
        let expected = if n % 2 == 0 { all.end } else { Offset(90) };
        match restore(&left, at) {
            Ok(restored) => assert_eq!(restored.end, expected, "cut after {n}"),
            // It was complete.
            Err(e) => assert_eq!(e.kind(), Kind::AlreadyExists, "cut after {n}: {e}"),
        }
        let log = options(&left).create(false).open(COPY).unwrap();
        table().open(&log).unwrap();
    }
    // Somebody's log is never touched.
    let error = restore(&disk, RestoreAt::End).unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists, "{error}");
}

/// A copy that had begun so and came to lead sealed its first segment without the hash of the one before, which a
/// follower that had that one could not go on with.
#[test]
fn a_copy_that_begins_with_a_snapshot_and_leads_seals_its_first_segment_like_who_has_the_one_before()
 {
    for dropped in [false, true] {
        let mut leader = Leader::new(1);
        let whole = Sim::new(3);
        follow(&leader, &whole, leader.source(), Beginning::Log).unwrap();
        if dropped {
            leader.retain();
        }
        let disk = Sim::new(2);
        let begun = follow(&leader, &disk, leader.source(), Beginning::Snapshot).unwrap();
        assert!(begun.start > Offset(0), "{begun:?}");
        let segments = Path::new(COPY).join("segments");
        assert_eq!(disk.shared().list(&segments).unwrap().len(), 1, "it has none but the last");
        // It takes over, and goes on.
        let layout = Layout::new(Path::new(COPY));
        let mut control = Control::need(&*disk.shared(), &layout).unwrap();
        control.follows = None;
        control.write(&*disk.shared(), &layout).unwrap();
        leader.log = options(&disk).open(COPY).unwrap();
        leader.table = table().open(&leader.log).unwrap();
        leader.sim = disk.clone();
        leader.grow(60);
        let source = Box::new(Directory::open_in(disk.shared(), COPY).unwrap());
        let mut follower = open(&whole, source, Beginning::Log).unwrap();
        let progress = follower.catch_up().unwrap_or_else(|e| panic!("dropped: {dropped}: {e}"));
        assert_eq!(progress.to, leader.log.durable_end());
        assert_eq!(follower.table().digest().unwrap(), leader.digest());
    }
}
