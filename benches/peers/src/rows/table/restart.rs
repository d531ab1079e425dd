//! A process that starts: a large table, whose newest checkpoint is behind the end of its log, is
//! opened until it answers for a record at that end.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::{Bench, Entrant, ms};
use crate::gauge::{Gauge, disk_bytes};
use crate::machine::{Place, evict, quiesce};
use crate::measure::{Figures, Metric};
use crate::peers::TIDELOG;
use crate::tables::{Job, Keys, Load, Shape};

/// With the files in the page cache, as after a killed process.
const WARM: &str = "table/restart";
/// With none of them there, as after a reboot.
const COLD: &str = "table/restart/cold";
/// 5 GiB of runs.
const ROWS: u64 = 39_000_000;
/// 256 MiB of log.
const TAIL: u64 = 2_100_000;

pub(in crate::rows) fn run(bench: &Bench) -> Result<()> {
    let load = Load::new(bench.scaled(ROWS).max(1), Keys::Distinct);
    let tail = Load::new(bench.scaled(TAIL).max(1), Keys::Uniform(load.upserts));
    let place = bench.workplace.place("restart")?;
    // The others have no log apart from their files: their `open_ms` is in `sustained`.
    let mut entrants = bench.prepared(WARM, &load, |table| table.name() == TIDELOG)?;
    for entrant in &entrants {
        let setup = entrant.setup(&place, true, Job::Write);
        let store = entrant.contestant.open(&setup)?;
        store.fill(&load, Shape::Applied)?;
        store.settle()?;
        drop(store);
        entrant.contestant.prepare(entrant.source.path(), &tail)?;
    }
    for (row, cold) in [(WARM, false), (COLD, true)] {
        bench.interleave(
            row,
            &mut entrants,
            |entrant| entrant.name(),
            |entrant, _| measure(entrant, &place, &tail, cold),
        )?;
        bench.report.borrow_mut().end_row(row, Metric::OpenMs)?;
    }
    Ok(())
}

fn measure(entrant: &Entrant<'_>, place: &Place, tail: &Load, cold: bool) -> Result<Figures> {
    let setup = entrant.setup(place, false, Job::Restart);
    let disk = disk_bytes(&entrant.contestant.files(&setup));
    quiesce(place.path())?;
    if cold {
        evict(entrant.source.path())?;
    }
    let gauge = Gauge::start()?;
    let start = Instant::now();
    let store = entrant.contestant.open(&setup)?;
    let last = tail.upserts - 1;
    let found = store.reader()?.get(&tail.upsert(last).0)?;
    let open_ms = ms(start);
    ensure!(found == Some(last), "expected the last upsert, {last}, found {found:?}");
    Ok(Figures {
        open_ms,
        peak_mb: Some(gauge.peak_bytes() as f64 / 1e6),
        disk_mb: Some(disk as f64 / 1e6),
        ..Figures::default()
    })
}
