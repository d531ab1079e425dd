//! Appends that survive a power cut when they return.
//!
//! Logs stay open over all rounds of a row, so that files prepared ahead or recycled are what is
//! written, as in a process that runs for long. Dirty pages are written before each turn: one
//! contestant's must not be paid for by another's sync.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Bench, SEGMENT_BYTES};
use crate::contestant::{Contestant, Engine, Game, Job, Setup, Writer};
use crate::machine::{Place, quiesce, warm, warm_cache};
use crate::measure::{Figures, Latencies, Metric, Stopwatch};
use crate::payload::Payloads;

const SECONDS: f64 = 0.8;
/// Payload bytes per turn at most, so that long runs of batches fit the disk.
const LIMIT_BYTES: u64 = 96 << 20;
const FOOTPRINT_BYTES: u64 = 256 << 20;

struct Row {
    id: &'static str,
    record_bytes: usize,
    batch: u64,
    producers: usize,
}

const ROWS: [Row; 4] = [
    Row { id: "durable/1KiB/1-producer", record_bytes: 1024, batch: 1, producers: 1 },
    Row { id: "durable/1KiB/8-producers", record_bytes: 1024, batch: 1, producers: 8 },
    Row { id: "durable/1KiB/64-producers", record_bytes: 1024, batch: 1, producers: 64 },
    Row { id: "durable/100B/batch-1000", record_bytes: 100, batch: 1000, producers: 1 },
];

/// A contestant with its log open. Fields drop in this order: the log closes, then goes.
pub(super) struct Entrant {
    pub(super) name: &'static str,
    log: Box<dyn Engine>,
    place: Place,
}

impl Entrant {
    pub(super) fn open(
        bench: &Bench,
        contestant: &dyn Contestant,
        name: &'static str,
        segment_bytes: u64,
    ) -> Result<Self> {
        let place = bench.workplace.place(contestant.name())?;
        let setup = Setup { dir: place.path(), job: Job::Durable, segment_bytes };
        let log = contestant.open(&setup).with_context(|| format!("open {name}"))?;
        Ok(Entrant { name, log, place })
    }
}

/// What every producer does.
pub(super) struct Work {
    pub(super) batch: u64,
    pub(super) producers: usize,
    pub(super) time: Duration,
    pub(super) limit_bytes: u64,
}

pub(super) fn run(bench: &Bench) -> Result<()> {
    for row in &ROWS {
        let payloads = Payloads::new(row.record_bytes);
        let game = Game::Durable { batches: row.batch > 1, producers: row.producers };
        let mut entrants = Vec::new();
        for contestant in bench.playing(game) {
            let name = contestant.name();
            match Entrant::open(bench, contestant, name, SEGMENT_BYTES) {
                Ok(entrant) => entrants.push(entrant),
                Err(error) => bench.report.borrow_mut().failed(row.id, name, &error)?,
            }
        }
        let work = Work {
            batch: row.batch,
            producers: row.producers,
            time: bench.seconds(SECONDS),
            limit_bytes: bench.scaled(LIMIT_BYTES),
        };
        bench.interleave(
            row.id,
            &mut entrants,
            |entrant| entrant.name,
            |entrant, _| measure(entrant, &work, &payloads),
        )?;
        bench.report.borrow_mut().end_row(row.id, Metric::RecordsPerS)?;
    }
    Ok(())
}

pub(super) fn measure(entrant: &mut Entrant, work: &Work, payloads: &Payloads) -> Result<Figures> {
    let writers = entrant.log.writers(work.producers)?;
    warm(FOOTPRINT_BYTES);
    warm_cache(entrant.place.path(), FOOTPRINT_BYTES)?;
    quiesce(entrant.place.path())?;
    let barrier = Barrier::new(writers.len() + 1);
    let run = &|mut writer: Box<dyn Writer + '_>| {
        let latencies = Latencies::with_room(1 << 16);
        barrier.wait();
        work.run(&mut *writer, payloads, latencies)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            writers.into_iter().map(|writer| scope.spawn(move || run(writer))).collect();
        barrier.wait();
        let watch = Stopwatch::start();
        let mut latencies = Latencies::default();
        for thread in threads {
            latencies.join(thread.join().expect("a producer does not panic")?);
        }
        let mut figures = watch.stop(latencies.len() * work.batch);
        latencies.into_figures(&mut figures);
        Ok(figures)
    })
}

impl Work {
    fn run(
        &self,
        writer: &mut dyn Writer,
        payloads: &Payloads,
        mut latencies: Latencies,
    ) -> Result<Latencies> {
        let limit = self.limit_bytes / payloads.len() as u64 / self.producers as u64;
        let start = Instant::now();
        let (mut before, mut done) = (start, 0);
        while done < limit && before - start < self.time {
            if self.batch == 1 {
                writer.append(payloads.get(done))?;
            } else {
                writer.append_batch(payloads, done, self.batch)?;
            }
            done += self.batch;
            let now = Instant::now();
            latencies.note(now - before);
            before = now;
        }
        Ok(latencies)
    }
}
