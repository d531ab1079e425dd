//! Appends that are not synced: how fast records reach the page cache.
//!
//! Each measurement has a log of its own, from empty, and ends when everything that the process
//! still held has been handed over, or as near to that as the engine lets one come.

use std::sync::Barrier;

use anyhow::Result;

use super::{Bench, SEGMENT_BYTES};
use crate::contestant::{Contestant, Game, Job, Setup, Writer};
use crate::machine::{hand_over, warm, warm_cache};
use crate::measure::{Figures, Metric, Stopwatch};
use crate::payload::Payloads;

/// Payload bytes appended at most, well below what makes the kernel write back.
const LIMIT_BYTES: u64 = 512 << 20;
const LIMIT_SECONDS: f64 = 1.0;
/// Bytes that may be touched per byte of payload: page cache, memtables, trees.
const FOOTPRINT: u64 = 2;
/// Records between looks at the clock.
const STEP: u64 = 1000;

struct Row {
    id: &'static str,
    record_bytes: usize,
    /// Records per append; 1 is an append of a single record, not a batch of one.
    batch: u64,
    producers: usize,
}

const ROWS: [Row; 5] = [
    Row { id: "append/100B", record_bytes: 100, batch: 1, producers: 1 },
    Row { id: "append/100B/2-producers", record_bytes: 100, batch: 1, producers: 2 },
    Row { id: "append/100B/batch-100", record_bytes: 100, batch: 100, producers: 1 },
    Row { id: "append/1KiB", record_bytes: 1024, batch: 1, producers: 1 },
    Row { id: "append/1KiB/batch-100", record_bytes: 1024, batch: 100, producers: 1 },
];

pub(super) fn run(bench: &Bench) -> Result<()> {
    for row in &ROWS {
        let payloads = Payloads::new(row.record_bytes);
        let game = Game::Append { batches: row.batch > 1, producers: row.producers };
        let mut entrants = bench.playing(game);
        bench.interleave(
            row.id,
            &mut entrants,
            |entrant| entrant.name(),
            |entrant, _| measure(bench, row, *entrant, &payloads),
        )?;
        bench.report.borrow_mut().end_row(row.id, Metric::RecordsPerS)?;
    }
    Ok(())
}

fn measure(
    bench: &Bench,
    row: &Row,
    contestant: &dyn Contestant,
    payloads: &Payloads,
) -> Result<Figures> {
    let place = bench.workplace.place(contestant.name())?;
    let setup = Setup { dir: place.path(), job: Job::Append, segment_bytes: SEGMENT_BYTES };
    let mut log = contestant.open(&setup)?;
    let mut writers = log.writers(row.producers)?;
    let limit_bytes = bench.scaled(LIMIT_BYTES);
    warm(limit_bytes * FOOTPRINT);
    warm_cache(bench.workplace.root(), limit_bytes * FOOTPRINT)?;
    let before = hand_over();

    // A contestant may take part with fewer threads than asked for.
    let threads = writers.len();
    let work = Work {
        batch: row.batch,
        records: limit_bytes / payloads.len() as u64 / threads as u64,
        time: bench.seconds(LIMIT_SECONDS),
    };
    if let [writer] = &mut writers[..] {
        let watch = Stopwatch::start();
        let records = work.run(&mut **writer, payloads, &watch)?;
        let figures = watch.stop(records);
        return Ok(Figures { hand_over_ns: Some(before.max(hand_over())), ..figures });
    }
    let barrier = Barrier::new(threads + 1);
    let run = &|mut writer: Box<dyn Writer + '_>| {
        barrier.wait();
        work.run(&mut *writer, payloads, &Stopwatch::start())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            writers.into_iter().map(|writer| scope.spawn(move || run(writer))).collect();
        barrier.wait();
        let watch = Stopwatch::start();
        let mut records = 0;
        for thread in threads {
            records += thread.join().expect("a producer does not panic")?;
        }
        let figures = watch.stop(records);
        Ok(Figures { hand_over_ns: Some(before.max(hand_over())), ..figures })
    })
}

/// What one producer does.
struct Work {
    batch: u64,
    records: u64,
    time: std::time::Duration,
}

impl Work {
    fn run(&self, writer: &mut dyn Writer, payloads: &Payloads, watch: &Stopwatch) -> Result<u64> {
        let mut done = 0;
        while done < self.records && watch.elapsed() < self.time {
            if self.batch == 1 {
                writer.append_each(payloads, done, STEP)?;
            } else {
                for from in (done..done + STEP).step_by(self.batch as usize) {
                    writer.append_batch(payloads, from, self.batch)?;
                }
            }
            done += STEP;
        }
        writer.flush()?;
        Ok(done)
    }
}
