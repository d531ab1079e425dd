//! Copies that begin with a snapshot while something happens to where it comes from: the source dies,
//! retention or a prune is quicker, a pin holds. On simulated disks, from several sources.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};

use super::bootstrap_tests::{Leader, archive, follow, publish, runs};
use crate::error::{Error, Kind, Result};
use crate::fs::sim::Sim;
use crate::position::{LogByte, Offset};
use crate::segment::SegmentName;
use crate::ship::archive::fake::{Fake, FakeStore};
use crate::ship::archive::{
    Archive, Create, ObjectName, Prefix, Store, load, pins, plan_prune, prune, set_pin, snapshots,
    verify_archive,
};
use crate::ship::{Chain, Offer, Report, Shipped, SnapshotOffer, Source};
use crate::table::{Beginning, RunId};

/// Any time will do: pins that are set in a simulation are young.
const NOW: i64 = 1_700_000_000_000_000_000;

/// A source at which something happens before each run is read.
struct Hooked<F> {
    inner: Box<dyn Source>,
    hook: F,
}

impl<F> std::fmt::Debug for Hooked<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl<F: FnMut() -> Result<()> + Send> Source for Hooked<F> {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn inner(&self) -> Option<&dyn Source> {
        Some(&*self.inner)
    }
    fn inner_mut(&mut self) -> Option<&mut dyn Source> {
        Some(&mut *self.inner)
    }
    fn file(&self, segment: SegmentName) -> std::path::PathBuf {
        self.inner.file(segment)
    }
    fn look(&mut self, report: &Report) -> Result<Offer> {
        self.inner.look(report)
    }
    fn segment(&mut self, segment: SegmentName) -> Result<Shipped> {
        self.inner.segment(segment)
    }
    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
        self.inner.read(segment, byte, buf)
    }
    fn read_run(
        &mut self,
        offer: &SnapshotOffer,
        run: RunId,
        byte: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        (self.hook)()?;
        self.inner.read_run(offer, run, byte, buf)
    }
    fn wait(&mut self, report: &Report, timeout: std::time::Duration) {
        self.inner.wait(report, timeout);
    }
}

fn hooked(
    inner: Box<dyn Source>,
    hook: impl FnMut() -> Result<()> + Send + 'static,
) -> Box<dyn Source> {
    Box::new(Hooked { inner, hook })
}

/// A source that is gone once it is told to be.
#[derive(Debug)]
struct Mortal(Box<dyn Source>, Arc<AtomicBool>);

impl Mortal {
    fn alive(&mut self) -> Result<&mut dyn Source> {
        match self.1.load(Relaxed) {
            true => Err(Error::new(Kind::Io, "expected an answer, found none")),
            false => Ok(&mut *self.0),
        }
    }
}

impl Source for Mortal {
    fn place(&self) -> String {
        self.0.place()
    }
    fn file(&self, segment: SegmentName) -> std::path::PathBuf {
        self.0.file(segment)
    }
    fn look(&mut self, report: &Report) -> Result<Offer> {
        self.alive()?.look(report)
    }
    fn segment(&mut self, segment: SegmentName) -> Result<Shipped> {
        self.alive()?.segment(segment)
    }
    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
        self.alive()?.read(segment, byte, buf)
    }
    fn snapshots(&mut self) -> Result<Vec<SnapshotOffer>> {
        self.alive()?.snapshots()
    }
    fn manifest(&mut self, offer: &SnapshotOffer) -> Result<Vec<u8>> {
        self.alive()?.manifest(offer)
    }
    fn read_run(
        &mut self,
        offer: &SnapshotOffer,
        run: RunId,
        byte: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        self.alive()?.read_run(offer, run, byte, buf)
    }
    fn wait(&mut self, report: &Report, timeout: std::time::Duration) {
        self.0.wait(report, timeout);
    }
}

#[test]
fn a_source_that_dies_midway_is_made_up_for_by_the_next_and_runs_that_are_here_stay() {
    // Scenario 37.
    let leader = Leader::new(1);
    let fake = Fake::new();
    publish(&leader, Arc::new(fake.client())).unwrap();
    let all = runs(&fake);
    assert!(all > 1, "one run alone shows little");
    leader.retain();
    for survived in 0..all {
        let dead = Arc::new(AtomicBool::new(false));
        let read = Arc::new(AtomicUsize::new(0));
        let (first, second) = (Arc::clone(&dead), Arc::clone(&read));
        let mut calls = 0;
        let mortal = Box::new(Mortal(leader.source(), Arc::clone(&dead)));
        let mut mortal = Some(hooked(mortal, move || {
            first.store(calls == survived, Relaxed);
            calls += 1;
            Ok(())
        }));
        let away = || Error::new(Kind::Io, "expected an answer, found none");
        let shelf = fake.clone();
        let chain = Chain::default().link("leader", move || mortal.take().ok_or_else(away)).link(
            "archive",
            move || {
                let read = Arc::clone(&second);
                Ok(hooked(archive(&shelf), move || {
                    read.fetch_add(1, Relaxed);
                    Ok(())
                }))
            },
        );
        let begun = follow(&leader, &Sim::new(3), Box::new(chain), Beginning::Snapshot).unwrap();
        assert!(dead.load(Relaxed), "it was never asked");
        assert_eq!(begun.snapshot, Some(leader.log.durable_end()));
        assert!(begun.start > Offset(0));
        assert_eq!(read.load(Relaxed), all - survived, "what was here is not fetched again");
    }
}

#[test]
fn retention_that_is_quicker_than_the_download_leaves_a_younger_snapshot_to_begin_with() {
    // Scenario 36, without a pin: a directory that is read knows of nobody.
    let leader = Arc::new(Mutex::new(Leader::new(1)));
    leader.lock().unwrap().retain();
    let (source, inner) = (leader.lock().unwrap().source(), Arc::clone(&leader));
    let mut rounds = 0;
    let source = hooked(source, move || {
        if rounds < 3 {
            let mut leader = inner.lock().unwrap();
            leader.grow(60 + 20 * rounds);
            leader.retain();
            rounds += 1;
        }
        Ok(())
    });
    let first = leader.lock().unwrap().log.durable_end();
    let disk = Sim::new(3);
    // What it began with first has no log behind it any more, and is begun with again.
    let options = crate::log::Log::options().fs(disk.shared()).worker(false);
    let table = super::bootstrap_tests::table().begin(Beginning::Needed);
    let mut follower =
        super::Follower::open_from(options, table, Path::new(super::bootstrap_tests::COPY), source)
            .unwrap();
    follower.catch_up().unwrap();
    let leader = leader.lock().unwrap();
    assert!(follower.report().snapshot.is_some_and(|name| name.offset > first));
    assert_eq!(follower.end(), leader.log.durable_end());
    assert_eq!(follower.table().digest().unwrap(), leader.digest());
}

#[test]
fn a_pin_keeps_a_prune_from_what_a_copy_begins_with_and_goes_when_it_has_begun() {
    // Scenario 36, with a pin.
    let mut leader = Leader::new(1);
    let fake = Fake::new();
    publish(&leader, Arc::new(fake.client())).unwrap();
    for part in 3..6 {
        leader.grow(20 * part);
        publish(&leader, Arc::new(fake.client())).unwrap();
    }
    let old = load(&fake.client()).unwrap().snapshots.len();
    assert!(!plan_prune(&fake.client(), NOW, Some(1)).unwrap().snapshots.is_empty());
    let tried = Arc::new(AtomicUsize::new(0));
    let (shelf, seen) = (fake.clone(), Arc::clone(&tried));
    let source = hooked(archive(&fake), move || {
        let store = shelf.client();
        let before = shelf.names();
        let plan = plan_prune(&store, NOW, Some(1)).unwrap();
        assert_eq!((plan.pins, plan.is_empty()), (1, true), "{plan:?}");
        prune(&store, &plan, NOW).unwrap();
        assert_eq!(shelf.names(), before);
        seen.fetch_add(1, Relaxed);
        Ok(())
    });
    let begun = follow(&leader, &Sim::new(3), source, Beginning::Snapshot).unwrap();
    assert_eq!(begun.snapshot, Some(leader.log.durable_end()));
    assert!(tried.load(Relaxed) > 0);
    let store = fake.client();
    assert_eq!(pins(&store).unwrap(), [], "nobody begins any more");
    let plan = plan_prune(&store, NOW, Some(1)).unwrap();
    assert!(!plan.snapshots.is_empty() && plan.snapshots.len() < old, "{plan:?}");
    // One that is set between the plan and what it says counts, too.
    let (pin, _) = set_pin(&store, &Sim::new(4), "late", crate::ship::archive::GRACE).unwrap();
    let before = fake.names();
    assert_eq!(prune(&store, &plan, NOW).unwrap_err().kind(), Kind::Locked);
    assert_eq!(fake.names(), before);
    assert!(crate::ship::archive::drop_pin(&store, pin).unwrap());
}

#[test]
fn what_a_node_had_acknowledged_and_lost_stays_lost_when_it_begins_anew() {
    use crate::log::files::{Control, Layout};
    let layout = Layout::new(Path::new(super::bootstrap_tests::COPY));
    for (lost, stays) in [(1 << 40, true), (1, false)] {
        let mut leader = Leader::new(1);
        let disk = Sim::new(3);
        follow(&leader, &disk, leader.source(), Beginning::Needed).unwrap();
        leader.grow(60);
        leader.grow(80);
        leader.retain();
        let fs = disk.shared();
        let mut control = Control::read(&*fs, &layout).unwrap().unwrap();
        control.lost_below = Some(LogByte(lost));
        control.write(&*fs, &layout).unwrap();
        let begun = follow(&leader, &disk, leader.source(), Beginning::Needed).unwrap();
        assert!(begun.snapshot.is_some(), "{begun:?}");
        let after = Control::read(&*fs, &layout).unwrap().unwrap();
        assert_eq!(after.lost_below, stays.then_some(LogByte(lost)));
    }
}

#[test]
fn a_snapshot_of_a_cloned_directory_that_went_on_in_the_same_epoch_is_refused() {
    // Scenario 38 where names, epochs and lengths agree: only the last frame's checksums differ.
    use super::bootstrap_tests::{LEADER, append, options, table};
    let Leader { sim, log, table: rows } = Leader::new(1);
    drop(rows);
    log.close().unwrap();
    let clone = sim.deep_copy();
    let go_on = |sim: &Sim, from| {
        let log = options(sim).identity(crate::log::Identity::SameNode).open(LEADER).unwrap();
        let rows = table().open(&log).unwrap();
        append(sim, &log, from, 20, 2000);
        rows.catch_up(&log).unwrap();
        (log, rows)
    };
    let (log, rows) = go_on(&sim, 60);
    let (other, stray) = go_on(&clone, 500);
    assert_eq!(log.durable_position(), other.durable_position());
    let leader = Leader { sim, log, table: rows };
    clone.shared().create_dir(Path::new("/elsewhere")).unwrap();
    let elsewhere = Path::new("/elsewhere/snapshots");
    crate::table::Snapshots::at_on(clone.shared(), elsewhere).publish(&stray, false).unwrap();
    append(&leader.sim, &leader.log, 80, 2, 2000);
    leader.table.catch_up(&leader.log).unwrap();
    assert!(leader.table.checkpoint().unwrap());
    leader.retain();
    for path in leader.sim.paths() {
        if path.to_string_lossy().ends_with(".checkpoint") {
            leader.sim.remove(&path);
        }
    }
    let mine = Path::new(LEADER).join("snapshots");
    leader.sim.shared().create_dir(&mine).unwrap();
    for name in clone.shared().list(elsewhere).unwrap() {
        leader.sim.write(mine.join(&name), &clone.read(elsewhere.join(&name)));
    }
    let disk = Sim::new(5);
    let error = follow(&leader, &disk, leader.source(), Beginning::Needed).unwrap_err();
    assert_eq!(error.kind(), Kind::NotInHistory, "{error}");
    assert!(!disk.exists(Path::new(super::bootstrap_tests::COPY).join("LOG")));
}

/// A store for one who may only read.
#[derive(Debug)]
struct ReadOnly(FakeStore);

impl Store for ReadOnly {
    fn place(&self) -> String {
        self.0.place()
    }
    fn get_range(&self, name: &ObjectName, from: u64, len: usize) -> Result<Option<Vec<u8>>> {
        self.0.get_range(name, from, len)
    }
    fn put(&self, _: &ObjectName, _: &[u8]) -> Result<()> {
        Err(Error::new(Kind::ReadOnly, "expected leave to write, found none"))
    }
    fn create(&self, _: &ObjectName, _: &[u8]) -> Create {
        Create::Unknown(Error::new(Kind::ReadOnly, "expected leave to write, found none"))
    }
    fn list(&self, prefix: Prefix) -> Result<Vec<(ObjectName, u64)>> {
        self.0.list(prefix)
    }
    fn delete(&self, _: &ObjectName) -> Result<()> {
        Err(Error::new(Kind::ReadOnly, "expected leave to write, found none"))
    }
}

#[test]
fn a_reader_whose_snapshot_is_pruned_under_it_begins_with_a_younger_one() {
    let leader = Leader::new(1);
    let fake = Fake::new();
    publish(&leader, Arc::new(fake.client())).unwrap();
    let first = leader.log.durable_end();
    let leader = Arc::new(Mutex::new(leader));
    let source = Archive::open(Arc::new(ReadOnly(fake.client()))).unwrap();
    let (shelf, inner) = (fake.clone(), Arc::clone(&leader));
    let mut done = false;
    let source = hooked(Box::new(source), move || {
        if !std::mem::replace(&mut done, true) {
            let mut leader = inner.lock().unwrap();
            for part in 3..7 {
                leader.grow(20 * part);
                publish(&leader, Arc::new(shelf.client())).unwrap();
            }
            let store = shelf.client();
            let plan = plan_prune(&store, NOW, Some(1)).unwrap();
            assert!(!plan.snapshots.is_empty() && plan.pins == 0, "{plan:?}");
            prune(&store, &plan, NOW).unwrap();
        }
        Ok(())
    });
    let disk = Sim::new(3);
    let options = crate::log::Log::options().fs(disk.shared()).worker(false);
    let table = super::bootstrap_tests::table().begin(Beginning::Snapshot);
    let copy = Path::new(super::bootstrap_tests::COPY);
    let mut follower = super::Follower::open_from(options, table, copy, source).unwrap();
    follower.catch_up().unwrap();
    let leader = leader.lock().unwrap();
    assert_eq!(follower.table().digest().unwrap(), leader.digest());
    assert!(follower.report().snapshot.is_some_and(|name| name.offset > first));
}

#[test]
fn pruning_leaves_the_newest_snapshots_whole_and_takes_what_only_older_ones_had() {
    let mut leader = Leader::new(1);
    let fake = Fake::new();
    publish(&leader, Arc::new(fake.client())).unwrap();
    for part in 3..8 {
        leader.grow(20 * part);
        publish(&leader, Arc::new(fake.client())).unwrap();
    }
    let store = fake.client();
    let state = load(&store).unwrap();
    let (all, spare) = (state.snapshots.len(), state.snapshots.len() - 2);
    let old = state.snapshots[..spare].iter().filter(|(n, _)| *n < state.rollup).count();
    assert!(old > 1, "{:?} of {}", state.snapshots, state.rollup);
    // A run that a sender who died has left.
    let orphan = ObjectName::Run(crate::ship::archive::Hash([7; 32]));
    fake.plant(orphan, Some(vec![0; 50]));
    assert_eq!(plan_prune(&store, NOW, None).unwrap().pieces, [(orphan, 50)]);
    let plan = plan_prune(&store, NOW, Some(2)).unwrap();
    assert_eq!(plan.snapshots.len(), old);
    let before = runs(&fake);
    prune(&store, &plan, NOW).unwrap();
    assert!(fake.object(&orphan).is_none() && runs(&fake) < before);
    assert!(plan_prune(&store, NOW, Some(2)).unwrap().is_empty());
    let listed = snapshots(&store, true).unwrap();
    assert_eq!(listed.len(), all - old);
    assert!(listed.iter().all(|(_, problems)| problems.is_empty()), "{listed:?}");
    let report = verify_archive(&store).unwrap();
    assert_eq!((report.problems.as_slice(), report.snapshots), (&[][..], (all - old) as u64));
    let begun = follow(&leader, &Sim::new(3), archive(&fake), Beginning::Snapshot).unwrap();
    assert_eq!(begun.snapshot, Some(leader.log.durable_end()));
    // The next rollups do not carry them on.
    for part in 8..11 {
        leader.grow(20 * part);
        publish(&leader, Arc::new(fake.client())).unwrap();
    }
    let after = load(&store).unwrap();
    assert_eq!(after.snapshots.len(), all - old + 3);
    assert_eq!(verify_archive(&store).unwrap().problems, []);
    // With a manifest that nobody can read no run goes.
    let manifest = fake.names().into_iter().rfind(|name| matches!(name, ObjectName::Manifest(..)));
    fake.plant(manifest.unwrap(), Some(vec![1; 10]));
    fake.plant(orphan, Some(vec![0; 50]));
    let plan = plan_prune(&store, NOW, None).unwrap();
    assert_eq!(plan.pieces, []);
}
