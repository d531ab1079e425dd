//! Opening what a killed process left behind, from the page cache.
//!
//! A child process fills a log and kills itself without closing. Opening recovers, which changes
//! files; so there is a copy, and what the last open changed is put back first.

#[cfg(feature = "tidelog")]
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, SEGMENT_BYTES, read};
use crate::bare;
use crate::contestant::{Contestant, Game, Job, Setup, Tally};
use crate::fill::Fill;
#[cfg(feature = "tidelog")]
use crate::machine::quiesce;
use crate::machine::{Place, die, restore, warm};
use crate::measure::{Figures, Metric};
use crate::payload::Payloads;
use crate::peers::TIDELOG;

const ROW: &str = "open/1GiB-after-kill";
const TAIL_ROW: &str = "open/active-tail";
#[cfg(feature = "tidelog")]
const SEGMENT_ROW: &str = "open/sealed-segment";

const RECORD_BYTES: usize = 1024;
/// Records per append of the child.
const BATCH: u64 = 100;
const LOG_BYTES: u64 = 1 << 30;
/// Of a segment, so that none is sealed.
const TAIL_BYTES: u64 = 60 << 20;
const FOOTPRINT_BYTES: u64 = 256 << 20;

pub(super) fn run(bench: &Bench) -> Result<()> {
    after_a_kill(bench)?;
    active_tail(bench)?;
    #[cfg(feature = "tidelog")]
    sealed_segments(bench)?;
    Ok(())
}

/// A killed log, and a copy of it to put back what an open changed. Opened is the original: a
/// careful engine does not write to a copy.
struct Killed<'a> {
    contestant: &'a dyn Contestant,
    log: Place,
    copy: Place,
}

fn after_a_kill(bench: &Bench) -> Result<()> {
    let payloads = Payloads::new(RECORD_BYTES);
    let records = records(bench, LOG_BYTES);
    // Everyone takes a turn beside tidelog: the disk does not hold all logs and copies at once.
    let (tidelog, others): (Vec<_>, Vec<_>) =
        bench.playing(Game::Open).into_iter().partition(|contestant| contestant.name() == TIDELOG);
    let mut tidelog = kill_all(bench, &tidelog, records)?;
    let turns = if others.is_empty() { vec![&others[..]] } else { others.chunks(1).collect() };
    for other in turns {
        let mut other = kill_all(bench, other, records)?;
        let mut entrants: Vec<_> = tidelog.iter_mut().chain(&mut other).collect();
        bench.interleave(
            ROW,
            &mut entrants,
            |entrant| entrant.contestant.name(),
            |entrant, round| open(entrant, records, (round == 0).then_some(payloads)),
        )?;
    }
    bench.report.borrow_mut().end_row(ROW, Metric::OpenMs)
}

fn kill_all<'a>(
    bench: &Bench,
    contestants: &[&'a dyn Contestant],
    records: u64,
) -> Result<Vec<Killed<'a>>> {
    let mut all = Vec::new();
    for contestant in contestants.iter().copied() {
        let log = bench.workplace.place(contestant.name())?;
        let copy = bench.workplace.place(contestant.name())?;
        if let Err(error) = fill_in_child(contestant, &log, records) {
            bench.report.borrow_mut().failed(ROW, contestant.name(), &error)?;
            continue;
        }
        // The bare loops change nothing.
        if contestant.name() != bare::NAME {
            restore(log.path(), copy.path())?;
        }
        all.push(Killed { contestant, log, copy });
    }
    Ok(all)
}

/// Runs a child that fills a log in `place` and is killed.
fn fill_in_child(contestant: &dyn Contestant, place: &Place, records: u64) -> Result<()> {
    use std::os::unix::process::ExitStatusExt;
    let status = Command::new(std::env::current_exe()?)
        .arg("fill-and-die")
        .arg(contestant.name())
        .arg(place.path())
        .arg(records.to_string())
        .status()
        .context("start the child that is to be killed")?;
    ensure!(status.signal() == Some(9), "the child ended on its own: {status}");
    Ok(())
}

/// What the child does.
pub fn fill_and_die(contestant: &dyn Contestant, fill: &Fill) -> Result<()> {
    let setup = Setup { dir: &fill.dir, job: Job::Fill, segment_bytes: SEGMENT_BYTES };
    let mut log = contestant.open(&setup)?;
    read::append(&mut *log, &Payloads::new(RECORD_BYTES), fill.records, BATCH)?;
    if contestant.name() == TIDELOG {
        // Its buffered records live in the process.
        log.settle()?;
    }
    die()
}

fn open(killed: &Killed<'_>, records: u64, expected: Option<Payloads>) -> Result<Figures> {
    let dir = killed.log.path();
    if killed.contestant.name() != bare::NAME {
        restore(killed.copy.path(), dir)?;
    }
    warm(FOOTPRINT_BYTES);
    let setup = Setup { dir, job: Job::Recover, segment_bytes: SEGMENT_BYTES };
    let start = Instant::now();
    let log = killed.contestant.open(&setup)?;
    let open_ms = Some(start.elapsed().as_secs_f64() * 1e3);
    if expected.is_some() {
        let mut tally = Tally::new(expected);
        log.reader()?.scan(&mut tally)?;
        tally.check(records)?;
    }
    Ok(Figures { open_ms, ..Figures::default() })
}

fn records(bench: &Bench, bytes: u64) -> u64 {
    (bench.scaled(bytes) / RECORD_BYTES as u64).next_multiple_of(BATCH).max(BATCH)
}

/// How fast the unsealed end is checked: a read-only open of a log that is nothing else, beside
/// `mmap` and crc32c.
fn active_tail(bench: &Bench) -> Result<()> {
    let records = records(bench, TAIL_BYTES);
    let contestants: Vec<_> = bench
        .playing(Game::Open)
        .into_iter()
        .filter(|contestant| [TIDELOG, bare::NAME].contains(&contestant.name()))
        .collect();
    let mut entrants = kill_all(bench, &contestants, records)?;
    bench.interleave(
        TAIL_ROW,
        &mut entrants,
        |entrant| entrant.contestant.name(),
        |entrant, _| {
            let dir = entrant.log.path();
            let start = Instant::now();
            let found = match entrant.contestant.name() {
                bare::NAME => bare::verify_last_file(dir)?,
                #[cfg(feature = "tidelog")]
                TIDELOG => crate::peers::tidelog::open_read_only(dir)?.end().0,
                name => bail!("{name} does not tell its tail apart"),
            };
            let seconds = start.elapsed().as_secs_f64();
            ensure!(found == records, "expected {records} records, found {found}");
            let records_per_s = Some(found as f64 / seconds);
            Ok(Figures { records_per_s, open_ms: Some(seconds * 1e3), ..Figures::default() })
        },
    )?;
    bench.report.borrow_mut().end_row(TAIL_ROW, Metric::RecordsPerS)
}

/// What each sealed segment adds to an open: a cleanly closed log of many small segments, less
/// one of a single segment.
#[cfg(feature = "tidelog")]
fn sealed_segments(bench: &Bench) -> Result<()> {
    const SMALL_BYTES: u64 = 4 << 20;
    let Some(tidelog) = bench.playing(Game::Open).into_iter().find(|c| c.name() == TIDELOG) else {
        return Ok(());
    };
    let close = |bytes| -> Result<Place> {
        let place = bench.workplace.place(TIDELOG)?;
        let setup = Setup { dir: place.path(), job: Job::Load, segment_bytes: SMALL_BYTES };
        let mut log = tidelog.open(&setup)?;
        read::append(&mut *log, &Payloads::new(RECORD_BYTES), bytes / RECORD_BYTES as u64, BATCH)?;
        log.settle()?;
        drop(log);
        quiesce(place.path())?;
        Ok(place)
    };
    let many = close(bench.scaled(LOG_BYTES))?;
    let one = close(1 << 20)?;
    let open = |dir: &Path| -> Result<(f64, usize)> {
        let start = Instant::now();
        let log = crate::peers::tidelog::open_to_write(dir)?;
        Ok((start.elapsed().as_secs_f64() * 1e6, log.segments().len()))
    };
    bench.interleave(
        SEGMENT_ROW,
        &mut vec![()],
        |()| TIDELOG,
        |(), _| {
            let (long_us, segments) = open(many.path())?;
            let (short_us, least) = open(one.path())?;
            ensure!(segments > least, "expected more than {least} segments, found {segments}");
            let segment_us = Some((long_us - short_us) / (segments - least) as f64);
            Ok(Figures { segment_us, open_ms: Some(long_us / 1e3), ..Figures::default() })
        },
    )?;
    bench.report.borrow_mut().end_row(SEGMENT_ROW, Metric::SegmentUs)
}
