//! Upserts over few keys, each set several times.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Bench, Entrant, check, per_s};
use crate::gauge::{Gauge, disk_bytes};
use crate::measure::{Figures, Latencies, Metric, Stopwatch};
use crate::tables::{Expected, Job, Keys, Load};

const ROW: &str = "table/upserts";
const UPSERTS: u64 = 5_000_000;
const KEYS: u64 = 1_000_000;

pub(in crate::rows) fn run(bench: &Bench) -> Result<()> {
    let load = Load::new(bench.scaled(UPSERTS).max(1), Keys::Uniform(bench.scaled(KEYS).max(1)));
    let expected = Expected::of(&load);
    let mut entrants = bench.prepared(ROW, &load, |_| true)?;
    bench.interleave(
        ROW,
        &mut entrants,
        |entrant| entrant.name(),
        |entrant, round| measure(bench, entrant, &load, (round == 0).then_some(&expected)),
    )?;
    bench.report.borrow_mut().end_row(ROW, Metric::SettledPerS)
}

fn measure(
    bench: &Bench,
    entrant: &Entrant<'_>,
    load: &Load,
    expected: Option<&Expected>,
) -> Result<Figures> {
    let place = bench.workplace.place(entrant.name())?;
    bench.clear_the_way(&place, load)?;
    let setup = entrant.setup(&place, true, Job::Write);
    let mut latencies = Latencies::with_room(load.batches().len());
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
    let settled = watch.stop(load.upserts);
    let mut figures = Figures {
        records_per_s,
        settled_per_s: settled.records_per_s,
        cpu_us_per_record: settled.cpu_us_per_record,
        longest_ms: Some(longest.as_secs_f64() * 1e3),
        peak_mb: Some(gauge.peak_bytes() as f64 / 1e6),
        ..Figures::default()
    };
    if entrant.contestant.persists() {
        figures.written_mb = Some(gauge.written_bytes() as f64 / 1e6);
        figures.disk_mb = Some(disk_bytes(&entrant.contestant.files(&setup)) as f64 / 1e6);
    }
    latencies.into_figures(&mut figures);
    if let Some(expected) = expected {
        check(&*store, expected)?;
    }
    Ok(figures)
}
