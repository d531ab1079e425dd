//! Rejoining on simulated disks: longer tails, double failovers, refusals, power cuts and failing calls.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::frame::{Mode, SyncSet};
use crate::fs::sim::{Crash, Fault, OpKind, Sim};
use crate::log::files::{Layout, SetLine};
use crate::log::{Log, MIN_SEGMENT_BYTES, Options, Retention};
use crate::position::{Id, Offset};
use crate::record::{Batch, Record};
use crate::replica::Follower;
use crate::ship::Directory;
use crate::table::{Beginning, Digest, Table, TableOptions};

mod again;
mod behind;
mod demote;
mod dropped;
mod repaired;
mod spells;

const NODE: &str = "/node";

fn options(sim: &Sim) -> Options {
    Log::options().fs(sim.shared()).create(true).worker(false).segment_bytes(MIN_SEGMENT_BYTES)
}

fn rows() -> TableOptions {
    Table::options().delta_bytes(32 << 10).checkpoint_bytes(64 << 10)
}

fn layout() -> Layout {
    Layout::new(Path::new(NODE))
}

/// What a label's records hold, in order.
fn values(label: &str, batches: u64, size: usize) -> Vec<Vec<u8>> {
    let value = |n: u64| format!("{label} {n:06} ").into_bytes().repeat(size / 16 + 1);
    (0..batches * 3).map(value).collect()
}

fn append(sim: &Sim, log: &Log, label: &str, batches: u64, size: usize) {
    for three in values(label, batches, size).chunks(3) {
        sim.advance(Duration::from_millis(6));
        let mut batch = Batch::new();
        for (i, value) in three.iter().enumerate() {
            batch.push(&Record::put(format!("{label} {i}").as_bytes(), value)).unwrap();
        }
        log.append_batch(&batch).unwrap();
    }
}

/// Leads for a while, and is closed, or dies.
fn lead(sim: &Sim, label: &str, batches: u64, size: usize, clean: bool) -> Sim {
    let log = options(sim).open(NODE).unwrap();
    append(sim, &log, label, batches, size);
    if clean {
        log.close().unwrap();
        return sim.clone();
    }
    sim.kill();
    std::mem::forget(log);
    sim.process()
}

fn source(sim: &Sim) -> Box<dyn Source> {
    Box::new(Directory::open_in(sim.shared(), NODE).unwrap())
}

fn open_with(disk: &Sim, from: &Sim, how: impl Fn(Options) -> Options) -> Result<Follower> {
    let options = how(Log::options().fs(disk.shared()).worker(false).rejoin(true));
    Follower::open_from(options, rows(), Path::new(NODE), source(from))
}

fn open(disk: &Sim, from: &Sim) -> Result<Follower> {
    open_with(disk, from, |options| options)
}

/// Follows to the end, and closes.
fn follow(disk: &Sim, from: &Sim) -> Result<FollowerReport> {
    let mut follower = open(disk, from)?;
    follower.catch_up()?;
    let report = follower.report().clone();
    follower.close()?;
    Ok(report)
}

/// What failover will do: the directory leads from now on.
fn promote(sim: &Sim) {
    let fs = sim.shared();
    let mut control = Control::need(&*fs, &layout()).unwrap();
    control.follows = None;
    control.write(&*fs, &layout()).unwrap();
}

/// Leads what was a follower's directory, in an epoch that is later than any that the other may have begun.
fn take_over(sim: &Sim, label: &str, batches: u64, size: usize) -> Sim {
    promote(sim);
    let mut sim = sim.clone();
    for _ in 0..3 {
        sim = lead(&sim, "", 0, 0, false);
    }
    lead(&sim, label, batches, size, true)
}

fn digest(sim: &Sim) -> Digest {
    let log = options(sim).create(false).read_only(true).open(NODE).unwrap();
    let digest = rows().open(&log).unwrap().digest().unwrap();
    assert_eq!(digest, Table::from_log(&log).unwrap().digest().unwrap());
    digest
}

fn read(sim: &Sim, path: &Path) -> Vec<u8> {
    let file = sim.shared().open_plain(path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The same segments, byte for byte, in what both have of the last; the same rows.
fn same(mine: &Sim, theirs: &Sim, what: &str) {
    let segments = layout().segments();
    let names = |sim: &Sim| sim.shared().list(&segments).unwrap();
    let (here, there) = (names(mine), names(theirs));
    assert_eq!(here, there, "{what}");
    for name in here {
        let (a, b) = (read(mine, &segments.join(&name)), read(theirs, &segments.join(&name)));
        let both = a.len().min(b.len());
        assert!(a[..both] == b[..both], "{what}: {name}");
    }
    assert_eq!(digest(mine), digest(theirs), "{what}");
    let epochs = |sim: &Sim| crate::log::files::Epochs::read(&*sim.shared(), &layout()).unwrap();
    assert_eq!(epochs(mine), epochs(theirs), "{what}");
    assert_eq!(Control::need(&*mine.shared(), &layout()).unwrap().cut, None, "{what}");
}

/// Everything in `diverged/`, in order of names.
fn kept(sim: &Sim) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for kept in diverged::list_on(&sim.shared(), Path::new(NODE)).unwrap() {
        let kept = kept.unwrap();
        let (before, mut batches) = (found.len(), kept.batches());
        let mut offset = kept.from().1;
        while let Some(batch) = batches.next().unwrap() {
            for entry in batch {
                assert_eq!(entry.offset, offset);
                offset = offset.plus(1);
                found.push(entry.record().value.to_vec());
            }
        }
        assert_eq!(found.len() - before, usize::try_from(kept.records()).unwrap());
        assert_eq!(offset, kept.to().1);
    }
    found
}

/// A led, B has all of `shared`, and A went on alone; then B was promoted and went on. Both as they were
/// left, and what A alone had.
fn parted(shared: u64, alone: u64, later: u64, size: usize, clean: bool) -> (Sim, Sim) {
    let (a, b) = (Sim::new(1), Sim::new(2));
    let a = lead(&a, "shared", shared, size, clean);
    follow(&b, &a).unwrap();
    let a = lead(&a, "alone", alone, size, clean);
    let b = take_over(&b, "later", later, size);
    (a, b)
}

#[test]
fn an_old_leader_with_a_longer_tail_follows_and_keeps_what_it_alone_had() {
    for (shared, alone, later, size) in
        [(4, 3, 2, 100), (4, 3, 40, 100), (9, 12, 1, 8000), (9, 12, 30, 8000), (1, 30, 1, 8000)]
    {
        for clean in [true, false] {
            let what = format!("{shared} shared, {alone} alone, {later} later, {size}, {clean}");
            let (a, b) = parted(shared, alone, later, size, clean);
            let report = follow(&a, &b).unwrap_or_else(|e| panic!("{what}: {e}"));
            let rejoined = report.rejoined.clone().unwrap_or_else(|| panic!("{what}: {report:?}"));
            assert_eq!(rejoined.records, alone * 3, "{what}");
            assert_eq!(rejoined.from_offset, Offset(shared * 3), "{what}");
            assert!(!report.unclean, "{what}: {report:?}");
            assert!(rejoined.bytes > alone * 3 * size as u64 / 2 && !rejoined.span.is_zero());
            assert!(report.findings.iter().any(|f| f.contains("rejoined: cut")), "{report:?}");
            same(&a, &b, &what);
            assert_eq!(kept(&a), values("alone", alone, size), "{what}");
            // It is a follower like any other from here on, and nothing is cut again.
            let b = lead(&b, "more", 5, size, true);
            assert_eq!(follow(&a, &b).unwrap().rejoined, None, "{what}");
            same(&a, &b, &what);
        }
    }
}

#[test]
fn a_leader_that_has_nothing_alone_loses_nothing() {
    let (a, b) = (Sim::new(1), Sim::new(2));
    lead(&a, "shared", 9, 8000, true);
    follow(&b, &a).unwrap();
    promote(&b);
    lead(&b, "later", 2, 100, true);
    let report = follow(&a, &b).unwrap();
    assert_eq!((report.rejoined, report.unclean), (None, false));
    same(&a, &b, "nothing alone");
    assert!(diverged::list_on(&a.shared(), Path::new(NODE)).unwrap().is_empty());
}

#[test]
fn a_follower_with_a_longer_tail_than_the_new_leader_rejoins_too() {
    let (a, b, c) = (Sim::new(1), Sim::new(2), Sim::new(3));
    lead(&a, "shared", 5, 8000, true);
    follow(&b, &a).unwrap();
    lead(&a, "ahead", 10, 8000, true);
    follow(&c, &a).unwrap();
    promote(&b);
    lead(&b, "later", 1, 100, true);
    // While it runs it says what is to be done, and changes nothing.
    let mut running = open_with(&c, &a, |options| options).unwrap();
    running.catch_up().unwrap();
    drop(running);
    let report = follow(&c, &b).unwrap();
    assert_eq!(report.rejoined.unwrap().records, 30);
    same(&c, &b, "the longer follower");
    assert_eq!(kept(&c), values("ahead", 10, 8000));
}

#[test]
fn a_follower_that_meets_another_history_while_it_runs_says_that_it_can_rejoin() {
    meets_another_history(false);
}

fn meets_another_history(dropped: bool) {
    // Long, so that there is a checkpoint behind what is dropped.
    let (alone, later, size) = if dropped { (1, 25, 2000) } else { (3, 2, 100) };
    let (a, b) = parted(4, alone, later, size, true);
    if dropped {
        assert_eq!(dropped::forget_below(&b, Offset(12)), Offset(12), "where its epoch begins");
    }
    turn(&*a.shared(), &layout(), &mut Control::need(&*a.shared(), &layout()).unwrap(), "x")
        .unwrap();
    // Open before the source is there.
    #[derive(Debug)]
    struct Late(Option<Sim>, Directory, bool);
    impl Source for Late {
        fn place(&self) -> String {
            self.1.place()
        }
        fn file(&self, segment: SegmentName) -> std::path::PathBuf {
            self.1.file(segment)
        }
        fn look(&mut self, report: &crate::ship::Report) -> Result<crate::ship::Offer> {
            if !self.2 {
                if report.log.is_some() {
                    self.0.take();
                }
                self.2 = self.0.is_none();
                return Err(Error::new(Kind::Io, "away"));
            }
            self.1.look(report)
        }
        fn shared(&mut self, report: &crate::ship::Report) -> Result<crate::ship::Shared> {
            self.1.shared(report)
        }
        fn segment(&mut self, segment: SegmentName) -> Result<crate::ship::Shipped> {
            self.1.segment(segment)
        }
        fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
            self.1.read(segment, byte, buf)
        }
        fn wait(&mut self, _: &crate::ship::Report, _: Duration) {}
    }
    let late = Late(Some(b.clone()), Directory::open_in(b.shared(), NODE).unwrap(), false);
    let options = Log::options().fs(a.shared()).worker(false);
    let table = rows().begin(Beginning::Log);
    let mut follower =
        Follower::open_from(options, table, Path::new(NODE), Box::new(late)).unwrap();
    let error = follower.catch_up().unwrap_err();
    assert_eq!(error.kind(), Kind::Diverged, "{error}");
    assert!(error.to_string().contains("opened again"), "{error}");
    assert_eq!(follower.end(), Offset(12 + 3 * alone));
    drop(follower);
    let report = follow(&a, &b).unwrap();
    assert_eq!((report.rejoined.unwrap().records, report.snapshot), (3 * alone, None));
    if !dropped {
        same(&a, &b, "opened again");
    }
}

#[test]
fn two_failovers_with_unequal_tails_end_in_one_history_and_lose_no_record() {
    for size in [100, 8000] {
        for clean in [true, false] {
            let (a, b) = parted(6, 7, 5, size, clean);
            let what = format!("{size} {clean}");
            assert_eq!(follow(&a, &b).unwrap().rejoined.unwrap().records, 21, "{what}");
            let b = lead(&b, "b alone", 8, size, clean);
            let a = take_over(&a, "a again", 4, size);
            let rejoined = follow(&b, &a).unwrap().rejoined.unwrap();
            assert_eq!(rejoined.records, 24, "{what}");
            same(&b, &a, &what);
            assert_eq!(kept(&a), values("alone", 7, size), "{what}");
            assert_eq!(kept(&b), values("b alone", 8, size), "{what}");
            // And back once more, the other's tail longer.
            let a = lead(&a, "a alone", 2, size, clean);
            let b = take_over(&b, "last", 1, size);
            assert_eq!(follow(&a, &b).unwrap().rejoined.unwrap().records, 6, "{what}");
            same(&a, &b, &what);
            let mut all = values("alone", 7, size);
            all.extend(values("a alone", 2, size));
            assert_eq!(kept(&a), all, "{what}");
        }
    }
}

#[test]
fn epochs_that_only_this_node_had_are_cut_and_the_end_of_what_both_have_is_the_shorter_one() {
    // A restarts twice alone, so that its tail is of three epochs; B goes on in A's first one.
    let (a, b) = (Sim::new(1), Sim::new(2));
    let a = lead(&a, "shared", 5, 8000, true);
    follow(&b, &a).unwrap();
    let mut a = a;
    for label in ["one", "two", "three"] {
        a = lead(&a, label, 2, 8000, false);
    }
    promote(&b);
    for _ in 0..3 {
        lead(&b, "later", 2, 8000, true);
    }
    // A is bound to its own third epoch: B's is to be a later one.
    let error = follow(&a.deep_copy(), &b).unwrap_err();
    assert_eq!(error.kind(), Kind::NotLeader, "{error}");
    let mut b = b;
    for label in ["x", "y", "z", "w"] {
        b = lead(&b, label, 1, 100, false);
    }
    let report = follow(&a, &b).unwrap();
    assert_eq!(report.rejoined.unwrap().records, 18);
    same(&a, &b, "three epochs");
    let all = ["one", "two", "three"].into_iter().flat_map(|label| values(label, 2, 8000));
    assert_eq!(kept(&a), all.collect::<Vec<_>>());
}

/// Found by the simulation: a candidate that had sealed the tail it inherited, and failed before its epoch
/// began, waited for ever for a segment behind its SEAL, while the others had more frames in its place.
#[test]
fn a_candidate_that_sealed_and_never_began_goes_on_with_the_others() {
    for (taken_over, more) in [(false, 1), (false, 9), (true, 1), (true, 9)] {
        let (a, b) = (Sim::new(1), Sim::new(2));
        let a = lead(&a, "shared", 2, 3000, true);
        follow(&b, &a).unwrap();
        promote(&b);
        b.fail(Fault::on(OpKind::Create).at("/PROMISE.tmp"));
        options(&b).open(NODE).unwrap_err();
        b.heal();
        let what = format!("{more} batches, taken over: {taken_over}");
        let mut a = lead(&a, "more", more, 3000, !taken_over);
        if taken_over {
            a = lead(&a, "later", 1, 3000, true);
        }
        let report = follow(&b, &a).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(!report.unclean && report.rejoined.is_none(), "{what}: {report:?}");
        same(&b, &a, &what);
    }
}

/// Everything below a directory, by path.
fn image(sim: &Sim, below: &str) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let below = Path::new(NODE).join(below);
    let paths = sim.paths().into_iter().filter(|path| path.starts_with(&below));
    paths.map(|path| (path.clone(), sim.read(&path))).collect()
}

#[test]
fn a_leader_that_ends_earlier_in_the_same_epoch_is_refused_whatever_is_said() {
    let (a, b) = (Sim::new(1), Sim::new(2));
    lead(&a, "shared", 5, 1000, true);
    let yesterday = a.deep_copy();
    lead(&a, "more", 5, 1000, true);
    follow(&b, &a).unwrap();
    let before = image(&b, "segments");
    for accept in [false, true] {
        let error = open_with(&b, &yesterday, |o| o.accept_loss(accept)).unwrap_err();
        assert_eq!(error.kind(), Kind::CommittedDataLoss, "{error}");
        assert!(error.to_string().contains("nothing was changed"), "{error}");
    }
    // One that is only behind, and leads nobody, is waited for.
    let c = Sim::new(3);
    follow(&c, &yesterday).unwrap();
    let mut follower = open(&b, &c).unwrap();
    let error = follower.catch_up().unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(error.to_string().contains("it is behind"), "{error}");
    drop(follower);
    assert!(image(&b, "segments") == before && image(&b, "diverged").is_empty());
}

#[test]
fn a_leader_that_lost_what_it_had_shipped_is_refused_until_an_operator_says_so() {
    let (a, b) = (Sim::new(1), Sim::new(2));
    let a = lead(&a, "shared", 5, 1000, false);
    let yesterday = a.deep_copy();
    // So that its epochs get nonces of their own.
    yesterday.shared().random(&mut [0; 8]).unwrap();
    let a = lead(&a, "more", 5, 1000, true);
    follow(&b, &a).unwrap();
    // Restored, it comes back in another epoch of the same node.
    let mut a = yesterday;
    for _ in 0..3 {
        a = lead(&a, "new", 2, 100, false);
    }
    let before = image(&b, "segments");
    let error = open(&b, &a).unwrap_err();
    assert_eq!(error.kind(), Kind::CommittedDataLoss, "{error}");
    assert!(error.to_string().contains("--accept-loss"), "{error}");
    assert!(image(&b, "segments") == before && image(&b, "diverged").is_empty());
    let mut follower = open_with(&b, &a, |options| options.accept_loss(true)).unwrap();
    follower.catch_up().unwrap();
    let report = follower.report().clone();
    assert_eq!(report.rejoined.as_ref().map(|r| r.records), Some(15), "{report:?} {error}");
    follower.close().unwrap();
    same(&b, &a, "accepted");
    assert_eq!(kept(&b), values("more", 5, 1000));
}

#[test]
fn one_that_even_went_on_in_the_same_epoch_is_refused_and_then_fetched_again() {
    for size in [1000, 8000] {
        let (a, b) = (Sim::new(1), Sim::new(2));
        lead(&a, "shared", 5, size, true);
        let yesterday = a.deep_copy();
        lead(&a, "more", 5, size, true);
        follow(&b, &a).unwrap();
        let a = lead(&yesterday, "new", 2, 100, false);
        let a = lead(&a, "new", 2, 100, true);
        let before = image(&b, "segments");
        let error = open(&b, &a).unwrap_err();
        assert_eq!(error.kind(), Kind::CommittedDataLoss, "{error}");
        assert!(image(&b, "segments") == before);
        let mut follower = open_with(&b, &a, |options| options.accept_loss(true)).unwrap();
        assert!(follower.report().unclean);
        follower.catch_up().unwrap();
        follower.close().unwrap();
        same(&b, &a, "accepted");
        assert!(!image(&b, "quarantine").is_empty());
    }
}

#[test]
fn a_cut_below_what_was_committed_under_a_mode_with_copies_halts() {
    let sync = Mode::Sync { k: 1 };
    for (committed, halts) in [(Offset(15), false), (Offset(18), true), (Offset(30), true)] {
        cuts_below(sync, None, committed, halts);
        // A mark of a spell that is long over says nothing about other modes.
        cuts_below(sync, Some(Offset(15)), committed, halts);
    }
}

/// An old leader that had acknowledged alone, in a degraded spell that was registered, and was given up, halted when it
/// came back, as if that had been promised.
#[test]
fn what_a_degraded_spell_acknowledged_alone_is_kept_aside_and_what_came_before_halts() {
    let semi = Mode::Semi { k: 1, timeout: Duration::from_secs(1) };
    cuts_below(semi, None, Offset(30), true);
    cuts_below(semi, Some(Offset(15)), Offset(30), false);
    cuts_below(semi, Some(Offset(12)), Offset(30), false);
    cuts_below(semi, Some(Offset(18)), Offset(30), true);
    cuts_below(semi, Some(Offset(18)), Offset(15), false);
}

/// An old leader under `mode`, perhaps with the mark of a degraded spell, comes back to a history that lacks what follows
/// offset 15.
fn cuts_below(mode: Mode, marked: Option<Offset>, committed: Offset, halts: bool) {
    let what = format!("{mode}, {marked:?}, {committed}");
    let (a, b) = parted(5, 5, 2, 1000, true);
    let fs = a.shared();
    let log = options(&a).create(false).read_only(true).open(NODE).unwrap();
    let behind = |offset: Offset| {
        let mut cursor = log.read(Offset(offset.0 - 1)).unwrap();
        cursor.next_batch().unwrap().unwrap().end()
    };
    let (at, mark) = (behind(committed), marked.map(|offset| behind(offset).log_byte));
    drop(log);
    let mut control = Control::need(&*fs, &layout()).unwrap();
    let set = SyncSet::new(mode, [Id([1; 16]), Id([2; 16])]).unwrap();
    control.sets = vec![SetLine { end: LogByte(100), there: true, set }];
    control.degraded = mark;
    control.write(&*fs, &layout()).unwrap();
    let state = crate::log::files::State::read(&*fs, &layout()).unwrap();
    let told =
        crate::log::files::State { committed: at.log_byte, committed_offset: at.offset, ..state };
    let file = crate::log::files::State::file(&*fs, &layout()).unwrap();
    told.write(&*file).unwrap();
    for path in a.paths() {
        if path.to_string_lossy().ends_with(".checkpoint") {
            a.remove(&path);
        }
    }
    let before = image(&a, "segments");
    match open(&a, &b) {
        Ok(follower) => {
            assert!(!halts, "{what}");
            assert_eq!(follower.report().rejoined.as_ref().unwrap().records, 15, "{what}");
            return;
        }
        Err(e) => {
            assert!(halts, "{what}: {e}");
            assert_eq!(e.kind(), Kind::CommittedDataLoss, "{what}: {e}");
            assert!(e.to_string().contains("--accept-loss"), "{e}");
        }
    }
    let names = |image: &[(std::path::PathBuf, Vec<u8>)]| {
        image.iter().map(|i| i.0.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&image(&a, "segments")), names(&before), "nothing was cut");
    assert!(image(&a, "diverged").is_empty());
    let follower = open_with(&a, &b, |options| options.accept_loss(true)).unwrap();
    assert_eq!(follower.report().rejoined.as_ref().unwrap().records, 15, "{what}");
}

#[test]
fn the_same_place_with_other_bytes_is_set_aside_fetched_again_and_unclean_meanwhile() {
    for size in [100, 8000] {
        // Two copies of one leader that both went on, in the same epoch.
        let a = Sim::new(1);
        lead(&a, "shared", 9, size, true);
        let clone = a.deep_copy();
        lead(&clone, "other", 6, size, true);
        let b = Sim::new(2);
        follow(&b, &clone).unwrap();
        lead(&a, "right", 9, size, true);
        let end = open_with(&b, &clone, |o| o).unwrap().position().log_byte;
        let follower = open(&b, &a).unwrap();
        let report = follower.report().clone();
        assert!(report.unclean && report.rejoined.is_none(), "{report:?}");
        assert!(report.findings.iter().any(|f| f.contains("other bytes")), "{report:?}");
        let control = Control::need(&*b.shared(), &layout()).unwrap();
        assert_eq!(control.lost_below, Some(end));
        drop(follower);
        assert!(!image(&b, "quarantine").is_empty());
        let report = follow(&b, &a).unwrap();
        assert!(report.unclean);
        same(&b, &a, "fetched again");
        assert!(!follow(&b, &a).unwrap().unclean);
    }
}

#[test]
fn a_copy_of_another_history_altogether_is_refused() {
    let (a, b) = (Sim::new(1), Sim::new(2));
    lead(&a, "shared", 3, 100, true);
    follow(&b, &a).unwrap();
    let fs = b.shared();
    let mut epochs = crate::log::files::Epochs::read(&*fs, &layout()).unwrap();
    epochs.0[0].epoch.nonce ^= 1;
    promote(&b);
    let b = lead(&b, "later", 3, 100, true);
    let mut known = crate::log::files::Epochs::read(&*fs, &layout()).unwrap();
    known.0.remove(0);
    known.write(&*fs, &layout()).unwrap();
    lead(&a, "alone", 3, 100, true);
    let before = image(&a, "segments");
    let error = open(&a, &b).unwrap_err();
    assert_eq!(error.kind(), Kind::NotInHistory, "{error}");
    assert!(error.to_string().contains("nothing in common"), "{error}");
    assert!(image(&a, "segments") == before);
}

/// Cuts the power after every operation of a rejoin: whatever is left, the next try completes it.
fn cut_anywhere(start: &Sim, from: &Sim, alone: &[Vec<u8>], what: &str) {
    let disk = start.deep_copy();
    follow(&disk, from).unwrap();
    same(&disk, from, what);
    let operations = disk.operations();
    assert!(operations > 40, "{operations}");
    for n in 0..operations {
        let disk = start.deep_copy();
        disk.stop_after(n);
        let _ = follow(&disk, from);
        for choice in [Crash::DropAll, Crash::KeepAll, Crash::mask(0x5555_5555)] {
            let left = disk.crash(&choice);
            let what = format!("{what}, cut after {n}, {choice:?}");
            // What is left reads, whatever was cut: everything that both had is there.
            let log = options(&left).create(false).read_only(true).open(NODE);
            assert!(log.unwrap_or_else(|e| panic!("{what}: {e}")).end() >= Offset(18), "{what}");
            let report = follow(&left, from).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(!report.unclean, "{what}: {report:?}");
            same(&left, from, &what);
            assert_eq!(kept(&left), alone, "{what}");
        }
    }
}

#[test]
fn a_rejoin_cut_anywhere_is_completed_by_the_next() {
    for (size, clean) in [(100, true), (8000, true), (8000, false)] {
        let (a, b) = parted(6, 7, 4, size, clean);
        cut_anywhere(&a, &b, &values("alone", 7, size), &format!("{size} {clean}"));
    }
}

#[test]
fn a_cut_that_was_cut_short_is_finished_by_a_leader_and_by_repair() {
    let (start, b) = parted(6, 7, 4, 8000, true);
    let operations = {
        let disk = start.deep_copy();
        follow(&disk, &b).unwrap();
        disk.operations()
    };
    let mut finished = 0;
    for n in 0..operations {
        let disk = start.deep_copy();
        disk.stop_after(n);
        let _ = follow(&disk, &b);
        let left = disk.crash(&Crash::DropAll);
        if Control::need(&*left.shared(), &layout()).unwrap().cut.is_none() {
            continue;
        }
        finished += 1;
        let what = format!("cut after {n}");
        let found = options(&left).create(false).read_only(true).open(NODE).unwrap();
        assert_eq!(found.end(), Offset(18), "{what}");
        assert!(found.report().findings.iter().any(|f| f.contains("cut short")), "{what}");
        drop(found);
        // Nobody copies from what is half cut.
        let c = Sim::new(9);
        assert_eq!(open(&c, &left).unwrap_err().kind(), Kind::NotFound, "{what}");
        let repaired = left.deep_copy();
        let plan = crate::log::repair_on(&repaired.shared(), Path::new(NODE), true).unwrap();
        assert!(plan.actions[0].contains("finish the cut"), "{what}: {plan:?}");
        crate::log::repair_on(&repaired.shared(), Path::new(NODE), false).unwrap();
        for disk in [left, repaired] {
            promote(&disk);
            let log = options(&disk).create(false).open(NODE).unwrap();
            assert_eq!(log.durable_end(), Offset(18), "{what}");
            append(&disk, &log, "led", 1, 100);
            log.close().unwrap();
            assert_eq!(Control::need(&*disk.shared(), &layout()).unwrap().cut, None);
        }
    }
    assert!(finished > 5, "{finished}");
}

#[test]
fn a_rejoin_with_any_call_failing_leaves_what_the_next_completes() {
    let (start, b) = parted(6, 7, 4, 8000, true);
    let mut failed = 0;
    for nth in 1.. {
        let disk = start.deep_copy();
        disk.fail(Fault::any().nth(nth));
        let outcome = follow(&disk, &b);
        if disk.fired() == 0 {
            break;
        }
        failed += u64::from(outcome.is_err());
        disk.heal();
        let disk = disk.process();
        follow(&disk, &b).unwrap_or_else(|e| panic!("call {nth}: {e}"));
        same(&disk, &b, &format!("call {nth}"));
        assert_eq!(kept(&disk), values("alone", 7, 8000), "call {nth}");
    }
    assert!(failed > 40, "{failed}");
}
