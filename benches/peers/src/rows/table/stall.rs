//! What a snapshot does to upserts: one after another is taken while they go on, and the batches
//! that met one are looked at.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Bench, Entrant, ms};
use crate::machine::Place;
use crate::measure::{Figures, Latencies, Metric};
use crate::tables::{Job, Keys, Load, Store};

const ROW: &str = "table/snapshot-stall";
/// Two thousand batches, so that one in a thousand is not just the longest.
const UPSERTS: u64 = 20_000_000;
const KEYS: u64 = 1_000_000;

pub(in crate::rows) fn run(bench: &Bench) -> Result<()> {
    let load = Load::new(bench.scaled(UPSERTS).max(1), Keys::Uniform(bench.scaled(KEYS).max(1)));
    let mut entrants = bench.prepared(ROW, &load, |_| true)?;
    bench.interleave(
        ROW,
        &mut entrants,
        |entrant| entrant.name(),
        |entrant, _| measure(bench, entrant, &load),
    )?;
    bench.report.borrow_mut().end_row(ROW, Metric::LongestMs)
}

/// What the thread that upserts and the one that takes snapshots tell each other.
#[derive(Default)]
struct Told {
    /// Enough rows are there for a snapshot to be worth the name.
    begin: AtomicBool,
    /// No upserts any more.
    end: AtomicBool,
    /// Snapshots begun and finished: odd while one is taken.
    turns: AtomicU64,
}

fn measure(bench: &Bench, entrant: &Entrant<'_>, load: &Load) -> Result<Figures> {
    let place = bench.workplace.place(entrant.name())?;
    let snapshots = bench.workplace.place("snapshots")?;
    bench.clear_the_way(&place, load)?;
    let store = entrant.contestant.open(&entrant.setup(&place, true, Job::Write))?;
    let batches = load.batches().len();
    let mut latencies = Latencies::with_room(batches);
    let mut longest = Duration::ZERO;
    let told = Told::default();
    let snapshot_ms = std::thread::scope(|scope| -> Result<_> {
        let taking = scope.spawn(|| take(&*store, &snapshots, &told));
        let (mut done, mut turns) = (0, 0);
        let upserted = store.upserts(load, &mut |took| {
            done += 1;
            // A snapshot overlapped the batch: one was there before or behind it, or within.
            let now = told.turns.load(SeqCst);
            if now != turns || now % 2 == 1 {
                latencies.note(took);
                longest = longest.max(took);
            }
            turns = now;
            if done * 5 >= batches {
                told.begin.store(true, SeqCst);
                taking.thread().unpark();
            }
        });
        told.end.store(true, SeqCst);
        told.begin.store(true, SeqCst);
        taking.thread().unpark();
        let taken = taking.join();
        upserted?;
        match taken {
            Ok(taken) => taken,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    ensure!(latencies.len() > 0, "expected batches that met a snapshot, found none");
    let longest_ms = Some(longest.as_secs_f64() * 1e3);
    let mut figures = Figures { longest_ms, snapshot_ms, ..Figures::default() };
    latencies.into_figures(&mut figures);
    Ok(figures)
}

/// Takes snapshots until the upserts end, at least one; how long the first took.
fn take(store: &dyn Store, to: &Place, told: &Told) -> Result<Option<f64>> {
    while !told.begin.load(SeqCst) {
        std::thread::park();
    }
    let mut first = None;
    for number in 0_u32.. {
        if told.end.load(SeqCst) && number > 0 {
            break;
        }
        let to = to.path().join(number.to_string());
        std::fs::create_dir(&to)?;
        told.turns.fetch_add(1, SeqCst);
        let start = Instant::now();
        let taken = store.snapshot(&to);
        first = first.or(ms(start));
        told.turns.fetch_add(1, SeqCst);
        taken?;
        std::fs::remove_dir_all(to)?;
    }
    Ok(first)
}
