//! Reading what was appended, from the page cache: everything in order, and single records.
//!
//! The disk does not hold every peer's copy at once, so peers take turns: the bare loops and
//! tidelog keep theirs and are measured beside each peer in turn. The round that warms up also
//! compares every record with what was appended.

use anyhow::{Result, ensure};

use super::{Bench, SEGMENT_BYTES};
use crate::bare;
use crate::contestant::{Contestant, Engine, Game, Job, Setup, Tally};
use crate::machine::{Place, warm};
use crate::measure::{Figures, Latencies, Metric, Stopwatch};
use crate::payload::{Payloads, Random};
use crate::peers::TIDELOG;

/// Records between looks at how much was filled, and per transaction of stores of rows.
const STEP: u64 = 1000;
/// Reads by number in one measurement, and before it.
const READS: u64 = 200_000;
const UNTIMED_READS: u64 = 5_000;
const FOOTPRINT_BYTES: u64 = 64 << 20;

struct Stock {
    record_bytes: usize,
    bytes: u64,
    /// Records per append; 1 is an append of a single record. What was appended together may
    /// be checked together, which helps a scan and hurts a read by number.
    batch: u64,
    scan: &'static str,
    random: Option<&'static str>,
}

const STOCKS: [Stock; 3] = [
    Stock { record_bytes: 100, bytes: 512 << 20, batch: 100, scan: "read/scan/100B", random: None },
    Stock {
        record_bytes: 100,
        bytes: 512 << 20,
        batch: 1,
        scan: "read/scan/100B/appended-singly",
        random: None,
    },
    Stock {
        record_bytes: 1024,
        bytes: 1 << 30,
        batch: 1,
        scan: "read/scan/1KiB",
        random: Some("read/random/1KiB"),
    },
];

/// A contestant with what it is to read.
struct Filled<'a> {
    contestant: &'a dyn Contestant,
    place: Place,
}

struct Entrant {
    name: &'static str,
    log: Box<dyn Engine>,
}

pub(super) fn run(bench: &Bench) -> Result<()> {
    for stock in &STOCKS {
        let payloads = Payloads::new(stock.record_bytes);
        let records = (bench.scaled(stock.bytes) / stock.record_bytes as u64)
            .next_multiple_of(STEP)
            .max(STEP);
        let (references, peers): (Vec<_>, Vec<_>) = bench
            .playing(Game::Scan)
            .into_iter()
            .partition(|contestant| [TIDELOG, bare::NAME].contains(&contestant.name()));
        let references = fill_all(bench, stock, &references, records)?;
        // Without a peer the references are measured alone.
        let turns = if peers.is_empty() { vec![&peers[..]] } else { peers.chunks(1).collect() };
        for peer in turns {
            let peer = fill_all(bench, stock, peer, records)?;
            let group: Vec<_> = references.iter().chain(&peer).collect();
            let mut entrants = open_all(bench, stock.scan, &group, Job::Scan)?;
            let name = |entrant: &Entrant| entrant.name;
            bench.interleave(stock.scan, &mut entrants, name, |entrant, round| {
                scan(&*entrant.log, records, (round == 0).then_some(payloads))
            })?;
            drop(entrants);
            let Some(random) = stock.random else { continue };
            let mut group = group;
            group.retain(|filled| filled.contestant.plays(Game::Random));
            let mut entrants = open_all(bench, random, &group, Job::Random)?;
            bench.interleave(random, &mut entrants, name, |entrant, round| {
                get(bench, &*entrant.log, records, u64::from(round), payloads)
            })?;
        }
        bench.report.borrow_mut().end_row(stock.scan, Metric::RecordsPerS)?;
        if let Some(random) = stock.random {
            bench.report.borrow_mut().end_row(random, Metric::P50Us)?;
        }
    }
    Ok(())
}

fn fill_all<'a>(
    bench: &Bench,
    stock: &Stock,
    contestants: &[&'a dyn Contestant],
    records: u64,
) -> Result<Vec<Filled<'a>>> {
    let payloads = Payloads::new(stock.record_bytes);
    let mut filled = Vec::new();
    for contestant in contestants.iter().copied() {
        let place = bench.workplace.place(contestant.name())?;
        let setup = Setup { dir: place.path(), job: Job::Load, segment_bytes: SEGMENT_BYTES };
        let fill = || -> Result<()> {
            let mut log = contestant.open(&setup)?;
            append(&mut *log, &payloads, records, stock.batch)?;
            log.settle()
        };
        match fill() {
            Ok(()) => filled.push(Filled { contestant, place }),
            Err(error) => {
                bench.report.borrow_mut().failed(stock.scan, contestant.name(), &error)?
            }
        }
    }
    Ok(filled)
}

/// Appends `records` records in batches of `batch` and hands them to the page cache.
pub(super) fn append(
    log: &mut dyn Engine,
    payloads: &Payloads,
    records: u64,
    batch: u64,
) -> Result<()> {
    let mut writers = log.writers(1)?;
    let writer = &mut writers[0];
    let step = if batch == 1 { STEP } else { batch };
    for from in (0..records).step_by(step as usize) {
        let count = step.min(records - from);
        if batch == 1 {
            writer.fill(payloads, from, count)?;
        } else {
            writer.append_batch(payloads, from, count)?;
        }
    }
    writer.flush()
}

fn open_all(bench: &Bench, row: &str, group: &[&Filled<'_>], job: Job) -> Result<Vec<Entrant>> {
    let mut entrants = Vec::new();
    for filled in group {
        let setup = Setup { dir: filled.place.path(), job, segment_bytes: SEGMENT_BYTES };
        let name = filled.contestant.name();
        match filled.contestant.open(&setup) {
            Ok(log) => entrants.push(Entrant { name, log }),
            Err(error) => bench.report.borrow_mut().failed(row, name, &error)?,
        }
    }
    Ok(entrants)
}

fn scan(log: &dyn Engine, records: u64, expected: Option<Payloads>) -> Result<Figures> {
    let mut tally = Tally::new(expected);
    warm(FOOTPRINT_BYTES);
    let watch = Stopwatch::start();
    log.reader()?.scan(&mut tally)?;
    let figures = watch.stop(records);
    tally.check(records)?;
    Ok(figures)
}

fn get(
    bench: &Bench,
    log: &dyn Engine,
    records: u64,
    seed: u64,
    payloads: Payloads,
) -> Result<Figures> {
    let mut reader = log.reader()?;
    let mut random = Random::new(seed + 1);
    let mut tally = Tally::new(Some(payloads));
    for _ in 0..UNTIMED_READS {
        reader.get(random.below(records), &mut tally)?;
    }
    tally.check(UNTIMED_READS)?;
    let mut tally = Tally::new(None);
    let reads = bench.scaled(READS).max(1000);
    let mut latencies = Latencies::with_room(reads as usize);
    let watch = Stopwatch::start();
    for _ in 0..reads {
        let n = random.below(records);
        let before = watch.elapsed();
        reader.get(n, &mut tally)?;
        latencies.note(watch.elapsed() - before);
    }
    let mut figures = watch.stop(reads);
    ensure!(tally.records == reads, "a read by number visits one record");
    latencies.into_figures(&mut figures);
    Ok(figures)
}
