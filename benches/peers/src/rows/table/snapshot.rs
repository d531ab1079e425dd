//! Snapshots of a table that stands still: how fast one is published beside what the disk takes in
//! order, and what the next one costs when little has changed.

use std::time::Instant;

use anyhow::Result;

use super::{Bench, Entrant, ms};
use crate::gauge::{Gauge, disk_bytes, sequential_rate};
use crate::machine::{Place, quiesce, warm_cache};
use crate::measure::{Figures, Metric};
use crate::peers::TIDELOG;
use crate::tables::{Job, Keys, Load};

const ROW: &str = "table/snapshot";
const ROWS: u64 = 10_000_000;
/// Upserted before each snapshot.
const CHANGED: u64 = 100_000;

pub(in crate::rows) fn run(bench: &Bench) -> Result<()> {
    let load = Load::new(bench.scaled(ROWS).max(1), Keys::Distinct);
    let changed = Load::new(bench.scaled(CHANGED).max(1), Keys::Uniform(load.upserts));
    let place = bench.workplace.place("snapshot")?;
    // Peers are handed their upserts; what changes between two openings comes out of a log.
    let mut entrants = bench.prepared(ROW, &load, |table| table.name() == TIDELOG)?;
    for entrant in &entrants {
        let store = entrant.contestant.open(&entrant.setup(&place, true, Job::Write))?;
        store.upserts(&load, &mut |_| ())?;
        store.settle()?;
    }
    bench.interleave(
        ROW,
        &mut entrants,
        |entrant| entrant.name(),
        |entrant, _| measure(bench, entrant, &place, &changed),
    )?;
    bench.report.borrow_mut().end_row(ROW, Metric::OfDisk)
}

fn measure(bench: &Bench, entrant: &Entrant<'_>, place: &Place, changed: &Load) -> Result<Figures> {
    let to = bench.workplace.place("snapshots")?;
    let gauge = Gauge::start()?;
    // What one snapshot after some changes takes, and what it adds.
    let take = || -> Result<(Option<f64>, u64)> {
        entrant.contestant.prepare(entrant.source.path(), changed)?;
        let store = entrant.contestant.open(&entrant.setup(place, false, Job::Restart))?;
        let before = disk_bytes(to.path());
        quiesce(to.path())?;
        let start = Instant::now();
        store.snapshot(to.path())?;
        let took = ms(start);
        Ok((took, disk_bytes(to.path()) - before))
    };
    let files = entrant.contestant.files(&entrant.setup(place, false, Job::Restart));
    warm_cache(to.path(), disk_bytes(&files))?;
    let (snapshot_ms, bytes) = take()?;
    let sequential = sequential_rate(to.path(), bytes.max(1))?;
    let (next_snapshot_ms, next_bytes) = take()?;
    Ok(Figures {
        snapshot_ms,
        next_snapshot_ms,
        next_snapshot_mb: Some(next_bytes as f64 / 1e6),
        written_mb: Some(bytes as f64 / 1e6),
        peak_mb: Some(gauge.peak_bytes() as f64 / 1e6),
        sequential_mb_per_s: Some(sequential / 1e6),
        of_disk: snapshot_ms.map(|ms| bytes as f64 / (ms / 1e3) / sequential),
        ..Figures::default()
    })
}
