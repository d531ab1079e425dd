//! Upserts to distinct keys, far more than stay in memory: what merging, evicting and syncing
//! leave of the rate, beside what the disk takes in order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Bench, Entrant, ms, per_s};
use crate::gauge::{Gauge, disk_bytes, sequential_rate};
use crate::machine::quiesce;
use crate::measure::{Figures, Latencies, Metric, Stopwatch};
use crate::tables::{Job, Keys, Load, key};

const ROW: &str = "table/sustained";
const UPSERTS: u64 = 50_000_000;
/// Rounds that count, at most: each takes many minutes.
const ROUNDS: u32 = 2;
/// The file that the disk is held against is not larger than this.
const SEQUENTIAL_BYTES: u64 = 8 << 30;

pub(in crate::rows) fn run(bench: &Bench) -> Result<()> {
    let load = Load::new(bench.scaled(UPSERTS).max(1), Keys::Distinct);
    let mut entrants = bench.prepared(ROW, &load, |table| table.persists())?;
    bench.interleave_rounds(
        bench.rounds.min(ROUNDS),
        ROW,
        &mut entrants,
        |entrant| entrant.name(),
        |entrant, _| measure(bench, entrant, &load),
    )?;
    bench.report.borrow_mut().end_row(ROW, Metric::SettledPerS)
}

fn measure(bench: &Bench, entrant: &Entrant<'_>, load: &Load) -> Result<Figures> {
    let place = bench.workplace.place(entrant.name())?;
    bench.clear_the_way(&place, load)?;
    let setup = entrant.setup(&place, true, Job::Write);
    let batches = load.batches().len();
    let mut latencies = Latencies::with_room(batches);
    let mut longest = Duration::ZERO;
    let gauge = Gauge::start()?;
    let store = entrant.contestant.open(&setup)?;
    let (watch, start) = (Stopwatch::start(), Instant::now());
    store.upserts(load, &mut |took| {
        latencies.note(took);
        longest = longest.max(took);
    })?;
    let records_per_s = per_s(load.upserts, start);
    store.settle()?;
    // The disk it is held against is synced, too.
    quiesce(place.path())?;
    let settled = watch.stop(load.upserts);
    let peak_mb = Some(gauge.peak_bytes() as f64 / 1e6);
    let disk = disk_bytes(&entrant.contestant.files(&setup));
    drop(store);
    let counted = gauge.written_bytes();
    drop(gauge);
    // Where the kernel does not count, at least what is left was written.
    let written = if counted > 0 { counted } else { disk };

    let start = Instant::now();
    let store = entrant.contestant.open(&entrant.setup(&place, false, Job::Write))?;
    let found = store.reader()?.get(&key(load.upserts / 2))?;
    let open_ms = ms(start);
    let expected = Some(load.upserts / 2);
    ensure!(found == expected, "expected {expected:?} after opening again, found {found:?}");
    drop(store);

    let sequential = sequential_rate(place.path(), written.clamp(1, SEQUENTIAL_BYTES))?;
    let settled_per_s = settled.records_per_s.context("no time passed")?;
    let written_per_record = written as f64 / load.upserts as f64;
    let per_record = load.upserts as f64 / batches as f64;
    let tenth = batches.div_ceil(10);
    let mean_us = |range| latencies.mean_us(range).map(|us| us / per_record);
    let (first_tenth_us, last_tenth_us) = (mean_us(0..tenth), mean_us(batches - tenth..batches));
    let mut figures = Figures {
        records_per_s,
        settled_per_s: Some(settled_per_s),
        cpu_us_per_record: settled.cpu_us_per_record,
        longest_ms: Some(longest.as_secs_f64() * 1e3),
        first_tenth_us,
        last_tenth_us,
        open_ms,
        peak_mb,
        written_mb: Some(written as f64 / 1e6),
        disk_mb: Some(disk as f64 / 1e6),
        write_amplification: Some(written as f64 / load.bytes() as f64),
        sequential_mb_per_s: Some(sequential / 1e6),
        of_disk: (written > 0).then_some(settled_per_s * written_per_record / sequential),
        ..Figures::default()
    };
    latencies.into_figures(&mut figures);
    Ok(figures)
}
