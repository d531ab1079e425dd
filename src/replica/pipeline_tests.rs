//! The two sides in two threads: either fails, either waits, the power goes off between them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::tests::{COPY, LEADER, Stage, complete, last, stages};
use super::*;
use crate::error::{Error, Kind, Result};
use crate::fs::sim::{Crash, Fault, OpKind, Sim};
use crate::log::Log;
use crate::position::Offset;
use crate::record::Record;
use crate::segment::SegmentName;
use crate::ship::{Directory, Offer, Report, Shipped, Source};
use crate::table::{Table, TableOptions};

/// A directory that remembers what it was told, and does as `hook` says at each look.
struct Ear<F> {
    inner: Directory,
    told: Told,
    hook: F,
}

impl<F> std::fmt::Debug for Ear<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl<F: FnMut(&Report) -> Result<()> + Send> Source for Ear<F> {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn file(&self, segment: SegmentName) -> PathBuf {
        self.inner.file(segment)
    }
    fn look(&mut self, report: &Report) -> Result<Offer> {
        self.told.lock().unwrap().looking = report.clone();
        (self.hook)(report)?;
        self.inner.look(report)
    }
    fn segment(&mut self, segment: SegmentName) -> Result<Shipped> {
        self.inner.segment(segment)
    }
    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
        self.inner.read(segment, byte, buf)
    }
    fn wait(&mut self, report: &Report, _timeout: Duration) {
        self.told.lock().unwrap().waiting = report.clone();
        std::thread::yield_now();
    }
}

/// What the source was told last, at a look and when it was waited for.
#[derive(Default)]
struct Reports {
    looking: Report,
    waiting: Report,
}

type Told = Arc<Mutex<Reports>>;

fn open(
    disk: &Sim,
    stage: &Stage,
    table: TableOptions,
    hook: impl FnMut(&Report) -> Result<()> + Send + 'static,
) -> (Follower, Told) {
    let told = Told::default();
    let inner = Directory::open_in(stage.disk.shared(), LEADER).unwrap();
    let source = Ear { inner, told: Arc::clone(&told), hook };
    let options = Log::options().fs(disk.shared()).poll_every(Duration::from_millis(1));
    (Follower::open_with(options, table, COPY, source).unwrap(), told)
}

/// Apply fails here and nowhere else: the log looks for segments when it grows.
fn apply_fails() -> Fault {
    Fault::on(OpKind::List).at(format!("{COPY}/segments")).sticky()
}

/// A test that would hang ends here.
fn patient(since: Instant) {
    assert!(since.elapsed() < Duration::from_secs(30), "nothing comes of it");
    std::thread::yield_now();
}

#[test]
fn what_is_acknowledged_does_not_wait_for_apply_and_trouble_there_is_told_once_and_passes() {
    let stages = stages();
    let (disk, stage, since) = (Sim::new(1), last(&stages), Instant::now());
    let (mut follower, told) = open(&disk, stage, Table::options(), |_| Ok(()));
    disk.fail(apply_fails());
    let stop = AtomicBool::new(false);
    let (gauge, table) = (follower.gauge(), follower.table().clone());
    let mut heard = Vec::new();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            follower.run(&stop, |result| heard.push(result.as_ref().err().map(Error::kind)))
        });
        while told.lock().unwrap().looking.durable.offset < stage.end
            || gauge.read().trouble.is_none()
        {
            patient(since);
        }
        assert_eq!(table.applied(), None, "acknowledged, and not applied");
        disk.heal();
        while table.applied().is_none_or(|position| position.offset < stage.end)
            || gauge.read().trouble.is_some()
        {
            patient(since);
        }
        // The source hears how far apply is with the question for more: nothing else may come.
        while told.lock().unwrap().waiting.applied.offset < stage.end {
            patient(since);
        }
        stop.store(true, Relaxed);
        running.join().unwrap().unwrap();
    });
    assert_eq!(heard.iter().filter(|kind| kind.is_some()).count(), 1, "{heard:?}");
    assert_eq!(heard.last(), Some(&None), "{heard:?}");
    assert_eq!(follower.table().digest().unwrap(), stage.digest);
}

#[test]
fn it_stops_while_apply_is_held_or_in_trouble() {
    let stages = stages();
    let stage = last(&stages);
    for held in [true, false] {
        let (disk, since) = (Sim::new(1), Instant::now());
        let delay = if held { Duration::from_secs(3600) } else { Duration::ZERO };
        let (mut follower, told) =
            open(&disk, stage, Table::options().apply_delay(delay), |_| Ok(()));
        if !held {
            disk.fail(apply_fails());
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let running = scope.spawn(|| follower.run(&stop, |_| {}));
            while told.lock().unwrap().looking.durable.offset < stage.end {
                patient(since);
            }
            stop.store(true, Relaxed);
            running.join().unwrap().unwrap();
        });
        assert_eq!((follower.end(), follower.table().applied()), (stage.end, None));
        disk.heal();
        let applied = follower.catch_up().unwrap().applied;
        assert_eq!(applied, if held { Offset(0) } else { stage.end }, "nothing new has come");
        patient(since);
    }
}

#[test]
fn an_error_of_either_side_ends_both_and_what_came_before_is_applied() {
    let stages = stages();
    let stage = last(&stages);
    // The source turns out to be wrong once everything is here.
    let end = stage.end;
    let wrong = move |report: &Report| match report.durable.offset >= end {
        true => Err(Error::new(Kind::WrongLog, "another one")),
        false => Ok(()),
    };
    let disk = Sim::new(1);
    let (mut follower, _) = open(&disk, stage, Table::options(), wrong);
    let error = follower.run(&AtomicBool::new(false), |_| {}).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongLog);
    assert_eq!(follower.table().digest().unwrap(), stage.digest);
    // Apply ends the other side of a catch-up.
    let disk = Sim::new(1);
    let (mut follower, _) = open(&disk, stage, Table::options(), |_| Ok(()));
    disk.fail(apply_fails());
    assert_eq!(follower.catch_up().unwrap_err().kind(), Kind::Io);
    disk.heal();
    assert_eq!(follower.catch_up().unwrap().applied, stage.end);
    assert_eq!(follower.table().digest().unwrap(), stage.digest);
}

#[test]
fn a_panic_of_either_side_ends_both() {
    let stages = stages();
    let stage = last(&stages);
    let quiet = |work: &mut dyn FnMut()| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_err()
    };
    let (disk, mut looks) = (Sim::new(1), 0);
    let falls = move |_: &Report| {
        looks += 1;
        // The first looks are those of opening.
        assert!(looks < 8, "the source falls over");
        Ok(())
    };
    let (mut follower, _) = open(&disk, stage, Table::options(), falls);
    quiet(&mut || drop(follower.run(&AtomicBool::new(false), |_| {})));
    let disk = Sim::new(1);
    let (mut follower, _) = open(&disk, stage, Table::options(), |_| Ok(()));
    quiet(&mut || drop(follower.run(&AtomicBool::new(false), |_| panic!("who listens"))));
}

/// Between the acknowledgement and apply there is a moment now, in which the power may go off.
#[test]
fn a_power_cut_between_acknowledgement_and_apply_loses_nothing_and_applies_nothing_twice() {
    let stages = stages();
    let stage = last(&stages);
    for seed in 0..20 {
        let (disk, since) = (Sim::new(1000 + seed), Instant::now());
        let small = Table::options().delta_bytes(32 << 10).checkpoint_bytes(64 << 10);
        let (mut follower, told) = open(&disk, stage, small, |_| Ok(()));
        // Apply gets some way, or nowhere.
        disk.fail(apply_fails().nth(seed % 4));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let running = scope.spawn(|| follower.run(&stop, |_| {}));
            while told.lock().unwrap().looking.durable.offset < stage.end {
                patient(since);
            }
            let acknowledged = told.lock().unwrap().looking.durable.offset;
            for crash in [Crash::DropAll, Crash::KeepAll, Crash::Torn { seed }] {
                let what = format!("seed {seed}, {crash:?}");
                complete(&disk.crash(&crash), stage, acknowledged, &what);
            }
            stop.store(true, Relaxed);
            running.join().unwrap().unwrap();
        });
    }
}

/// Threads do not come in the same order twice: any order is a good one.
#[test]
fn a_power_cut_at_any_moment_of_two_threads_leaves_a_copy_that_completes() {
    let stages = stages();
    let stage = last(&stages);
    for n in 0..120 {
        let disk = Sim::new(1000 + n as u64);
        let (mut follower, told) = open(&disk, stage, Table::options(), |_| Ok(()));
        disk.stop_after(disk.operations() + n);
        let done = follower.catch_up().map_or(Offset(0), |progress| progress.to);
        let told = done.max(told.lock().unwrap().looking.durable.offset);
        drop(follower);
        for crash in [Crash::DropAll, Crash::Torn { seed: n as u64 }] {
            complete(&disk.crash(&crash), stage, told, &format!("operation {n}, {crash:?}"));
        }
    }
}

/// A failed sync is told once. The one that is under way beside the copying may be the one that fails.
#[test]
fn a_failed_early_sync_poisons_and_what_it_lost_is_fetched_again() {
    let sim = Sim::new(7);
    let options = Log::options().fs(sim.shared()).create(true).worker(false);
    let log = options.open(LEADER).unwrap();
    for n in 0..12_u8 {
        log.append(&Record::put(&[n], &vec![n; 1 << 20])).unwrap();
    }
    let (end, digest) = (log.durable_end(), Table::from_log(&log).unwrap().digest().unwrap());
    log.close().unwrap();
    let stage = Stage { disk: sim, end, digest };
    // The first is that of the segment's beginning, the last the round's own.
    for nth in 1..4 {
        let disk = Sim::new(1000 + nth);
        let (mut follower, told) = open(&disk, &stage, Table::options(), |_| Ok(()));
        disk.fail(Fault::on(OpKind::Sync).at(format!("{COPY}/segments")).nth(nth));
        let error = follower.catch_up().unwrap_err();
        assert_eq!((disk.fired(), error.kind()), (1, Kind::Poisoned), "{error}");
        let acknowledged = told.lock().unwrap().looking.durable.offset;
        drop(follower);
        disk.heal();
        let left = disk.crash(&Crash::DropAll);
        complete(&left, &stage, acknowledged, &format!("sync {nth}"));
    }
}

/// A log of several rounds.
fn long() -> Stage {
    let sim = Sim::new(8);
    let options = Log::options().fs(sim.shared()).create(true).worker(false);
    let log = options.open(LEADER).unwrap();
    for n in 0..40_u8 {
        log.append(&Record::put(&[n], &vec![n; 1 << 20])).unwrap();
    }
    let (end, digest) = (log.durable_end(), Table::from_log(&log).unwrap().digest().unwrap());
    log.close().unwrap();
    Stage { disk: sim, end, digest }
}

/// A copy that was halted in the middle had synced more than it said of itself: its next report could be counted by the
/// leader while a candidate that asked for its promise was told of less.
#[test]
fn what_a_halt_makes_durable_is_said_to_who_asks_before_the_next_report_is() {
    let (stage, disk) = (long(), Sim::new(1008));
    let stop = Arc::new(AtomicBool::new(false));
    let halt = Arc::clone(&stop);
    let hook = move |report: &Report| {
        halt.store(report.received.offset > Offset(0), Relaxed);
        Ok(())
    };
    let (mut follower, _) = open(&disk, &stage, Table::options(), hook);
    follower.run(&stop, |_| {}).unwrap();
    let next = follower.report_now();
    assert!(next.durable.offset > Offset(0) && next.durable.offset < stage.end, "{next:?}");
    assert_eq!(follower.gauge().read().report.durable, next.durable);
}

/// While much comes, the end of a round is synced beside the next one: what is said to be durable meanwhile is,
/// and nothing is left over.
#[test]
fn a_round_that_another_follows_acknowledges_what_is_synced_and_no_more() {
    let stage = long();
    let end = stage.end;
    let disk = Sim::new(1008);
    let looks: Arc<Mutex<Vec<_>>> = Arc::default();
    let (seen, of) = (Arc::clone(&looks), disk.clone());
    let hook = move |report: &Report| {
        let left = of.crash(&Crash::DropAll);
        seen.lock().unwrap().push((
            report.received.offset,
            report.durable.offset,
            report.last,
            left,
        ));
        Ok(())
    };
    let (mut follower, _) = open(&disk, &stage, Table::options(), hook);
    assert_eq!(follower.catch_up().unwrap().to, end);
    assert_eq!(follower.receiver.report().durable.offset, end);
    drop(follower);
    let looks = std::mem::take(&mut *looks.lock().unwrap());
    assert!(looks.iter().any(|look| look.1 > Offset(0) && look.1 < look.0), "none went on");
    for (received, durable, last, left) in &looks {
        assert_eq!(last.is_some(), *durable > Offset(0));
        complete(left, &stage, *durable, &format!("{durable} of {received}"));
    }
    complete(&disk.crash(&Crash::DropAll), &stage, end, "caught up");
}
