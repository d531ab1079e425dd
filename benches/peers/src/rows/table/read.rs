//! Reads of single rows, present and absent, and scans; all from memory.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::{Bench, Entrant, check};
use crate::machine::Place;
use crate::measure::{Figures, Latencies, Metric};
use crate::payload::Random;
use crate::peers::TIDELOG;
use crate::tables::{Contestant, Expected, HASH, Job, Keys, Load, Shape, Store, Tally, key};

/// Reads in one measurement, as many of absent keys, and before it.
const READS: u64 = 200_000;
const UNTIMED_READS: u64 = 200_000;

struct Stock {
    rows: u64,
    shape: Shape,
    get: &'static str,
    scan: Option<&'static str>,
    /// Without peers: where rows lie makes no difference to them.
    alone: bool,
}

const STOCKS: [Stock; 5] = [
    Stock {
        rows: 1_000_000,
        shape: Shape::Delta,
        get: "table/get/1M/delta",
        scan: Some("table/scan/1M/delta"),
        alone: true,
    },
    Stock {
        rows: 1_000_000,
        shape: Shape::Applied,
        get: "table/get/1M/as-applied",
        scan: None,
        alone: true,
    },
    Stock {
        rows: 1_000_000,
        shape: Shape::OneRun,
        get: "table/get/1M",
        scan: Some("table/scan/1M"),
        alone: false,
    },
    Stock {
        rows: 1_000_000,
        shape: Shape::SeveralRuns,
        get: "table/get/1M/4-runs",
        scan: Some("table/scan/1M/4-runs"),
        alone: true,
    },
    Stock {
        rows: 10_000_000,
        shape: Shape::OneRun,
        get: "table/get/10M",
        scan: Some("table/scan/10M"),
        alone: false,
    },
];

/// A table with its rows.
struct Filled<'a> {
    // Closed before its files go.
    store: Box<dyn Store>,
    name: &'static str,
    _place: Place,
    _entrant: Entrant<'a>,
}

pub(in crate::rows) fn run(bench: &Bench) -> Result<()> {
    for stock in &STOCKS {
        let load = Load::new(bench.scaled(stock.rows).max(1), Keys::Distinct);
        let expected = Expected::of(&load);
        let plays =
            |table: &dyn Contestant| !stock.alone || [TIDELOG, HASH].contains(&table.name());
        let mut filled = Vec::new();
        for entrant in bench.prepared(stock.get, &load, plays)? {
            let name = entrant.name();
            match fill(bench, entrant, stock, &load, &expected) {
                Ok(table) => filled.push(table),
                Err(error) => bench.report.borrow_mut().failed(stock.get, name, &error)?,
            }
        }
        let name = |filled: &Filled<'_>| filled.name;
        bench.interleave(stock.get, &mut filled, name, |filled, round| {
            get(bench, &*filled.store, load.upserts, u64::from(round))
        })?;
        bench.report.borrow_mut().end_row(stock.get, Metric::P50Us)?;
        let Some(row) = stock.scan else { continue };
        bench.interleave(row, &mut filled, name, |filled, _| scan(&*filled.store, load.upserts))?;
        bench.report.borrow_mut().end_row(row, Metric::RecordsPerS)?;
    }
    Ok(())
}

/// Fills a table and compares every row with what was upserted.
fn fill<'a>(
    bench: &Bench,
    entrant: Entrant<'a>,
    stock: &Stock,
    load: &Load,
    expected: &Expected,
) -> Result<Filled<'a>> {
    let place = bench.workplace.place(entrant.name())?;
    let store = entrant.contestant.open(&entrant.setup(&place, true, Job::Read(stock.shape)))?;
    store.fill(load, stock.shape)?;
    check(&*store, expected)?;
    Ok(Filled { store, name: entrant.name(), _place: place, _entrant: entrant })
}

fn get(bench: &Bench, store: &dyn Store, rows: u64, seed: u64) -> Result<Figures> {
    let mut reader = store.reader()?;
    let mut random = Random::new(seed + 1);
    for _ in 0..bench.scaled(UNTIMED_READS) {
        let id = random.below(rows);
        let found = reader.get(&key(id))?;
        ensure!(found == Some(id), "expected key {id} with the value of {id}, found {found:?}");
    }
    let reads = bench.scaled(READS).max(1000);
    let mut of = |first: u64, present: bool| -> Result<Figures> {
        let mut latencies = Latencies::with_room(reads as usize);
        let mut found = 0;
        for _ in 0..reads {
            let key = key(first + random.below(rows));
            let start = Instant::now();
            let row = reader.get(&key)?;
            latencies.note(start.elapsed());
            found += u64::from(row.is_some());
        }
        let expected = if present { reads } else { 0 };
        ensure!(found == expected, "expected {expected} of {reads} keys, found {found}");
        let mut figures = Figures::default();
        latencies.into_figures(&mut figures);
        Ok(figures)
    };
    let present = of(0, true)?;
    // Keys behind all that were upserted look no different.
    let absent = of(rows, false)?;
    Ok(Figures { absent_p50_us: absent.p50_us, ..present })
}

fn scan(store: &dyn Store, rows: u64) -> Result<Figures> {
    let mut tally = Tally::new(None);
    let watch = crate::measure::Stopwatch::start();
    store.reader()?.scan(&mut tally)?;
    let figures = watch.stop(rows);
    tally.check(rows)?;
    Ok(figures)
}
