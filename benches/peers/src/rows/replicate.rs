//! Replication end to end: appended on a leader, on its copy's disk, seen by whoever reads the copy.
//!
//! Everyone is a leader and a copy on this machine, on one disk, started anew for each measurement, so
//! that nobody else's servers run meanwhile. Keys are distinct, so that a plain insert is enough. Processor time is that of all
//! processes that take part, the clients' in this one among them.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Bench;
use crate::family;
use crate::machine::{Place, quiesce};
use crate::measure::{Figures, Latencies, Metric};
use crate::pairs::{BATCH, Level, Pair};
use crate::tables::{Keys, Load};

const STREAM_ROW: &str = "replicate/stream/100B";
const LATENCY_ROW: &str = "replicate/latency/100B";
const SYNC_ROW: &str = "replicate/sync/100B";
const IDLE_ROW: &str = "replicate/idle";

/// A stream ends after so many records, or when it was sent for so long.
const STREAM_RECORDS: u64 = 4_000_000;
const STREAM_SECONDS: f64 = 3.0;
/// One at a time, so many or for so long.
const SINGLES: u64 = 4000;
const SINGLE_SECONDS: f64 = 2.0;
/// Before they count.
const WARM_UP: u64 = 100;
const IDLE_SECONDS: f64 = 10.0;
/// What was there to do is done by then.
const SETTLE: Duration = Duration::from_secs(2);

struct Entrant {
    /// Dropped before the directory it runs in.
    pair: Box<dyn Pair>,
    place: Place,
    load: Load,
    next: u64,
}

pub(super) fn stream(bench: &Bench) -> Result<()> {
    run(bench, STREAM_ROW, Metric::RecordsPerS, |entrant| {
        let (from, most) = (entrant.next, bench.scaled(STREAM_RECORDS));
        let time = bench.seconds(STREAM_SECONDS);
        let cpu = family::cpu_time();
        let start = Instant::now();
        let next = &mut entrant.next;
        entrant.pair.stream(&entrant.load, &mut || {
            (*next < from + most && start.elapsed() < time).then(|| take(next, BATCH))
        })?;
        let (wall, records) = (start.elapsed().as_secs_f64(), (entrant.next - from) as f64);
        let cpu = family::cpu_time().saturating_sub(cpu).as_secs_f64();
        Ok(Figures {
            records_per_s: Some(records / wall),
            cpu_us_per_record: Some(cpu * 1e6 / records),
            ..Figures::default()
        })
    })
}

pub(super) fn latency(bench: &Bench) -> Result<()> {
    run(bench, LATENCY_ROW, Metric::P50Us, |entrant| {
        let mut figures = Figures::default();
        singles(bench, entrant, Level::Shown)?.into_figures(&mut figures);
        Ok(figures)
    })
}

pub(super) fn sync(bench: &Bench) -> Result<()> {
    run(bench, SYNC_ROW, Metric::P50Us, |entrant| {
        let (mut alone, mut figures) = (Figures::default(), Figures::default());
        singles(bench, entrant, Level::Alone)?.into_figures(&mut alone);
        singles(bench, entrant, Level::Copied)?.into_figures(&mut figures);
        figures.alone_p50_us = alone.p50_us;
        if let (Some(both), Some(alone)) = (figures.p50_us, alone.p50_us) {
            figures.added_of_alone = Some((both - alone) / alone);
        }
        Ok(figures)
    })
}

pub(super) fn idle(bench: &Bench) -> Result<()> {
    run(bench, IDLE_ROW, Metric::IdlePercent, |entrant| {
        // Something is there to be kept.
        singles(bench, entrant, Level::Shown)?;
        std::thread::sleep(SETTLE);
        let (cpu, start) = (family::cpu_time(), Instant::now());
        std::thread::sleep(bench.seconds(IDLE_SECONDS));
        let used = family::cpu_time().saturating_sub(cpu).as_secs_f64();
        let idle_cpu_percent = Some(100.0 * used / start.elapsed().as_secs_f64());
        Ok(Figures { idle_cpu_percent, ..Figures::default() })
    })
}

/// Everyone in turn.
fn run(
    bench: &Bench,
    row: &'static str,
    metric: Metric,
    mut measure: impl FnMut(&mut Entrant) -> Result<Figures>,
) -> Result<()> {
    let mut contestants = Vec::new();
    for contestant in &bench.pairs {
        match contestant.missing() {
            None => contestants.push(&**contestant),
            Some(why) => {
                let why = anyhow::anyhow!(why);
                bench.report.borrow_mut().failed(row, contestant.name(), &why)?;
            }
        }
    }
    bench.interleave(
        row,
        &mut contestants,
        |contestant| contestant.name(),
        |contestant, _| {
            let place = bench.workplace.place(contestant.name())?;
            let mut entrant = Entrant {
                pair: contestant.start(place.path())?,
                place,
                load: Load::new(u64::MAX, Keys::Distinct),
                next: 0,
            };
            quiesce(entrant.place.path())?;
            measure(&mut entrant)
        },
    )?;
    bench.report.borrow_mut().end_row(row, metric)
}

fn singles(bench: &Bench, entrant: &mut Entrant, level: Level) -> Result<Latencies> {
    let mut latencies = Latencies::with_room(SINGLES as usize);
    let mut warm = WARM_UP;
    let mut start = Instant::now();
    while latencies.len() < SINGLES && start.elapsed() < bench.seconds(SINGLE_SECONDS) {
        let (key, value) = entrant.load.upsert(take(&mut entrant.next, 1).start);
        let begun = Instant::now();
        entrant.pair.append(&key, &value, level)?;
        if warm == 0 {
            latencies.note(begun.elapsed());
        } else {
            warm -= 1;
            start = Instant::now();
        }
    }
    Ok(latencies)
}

fn take(next: &mut u64, count: u64) -> Range<u64> {
    *next += count;
    *next - count..*next
}
