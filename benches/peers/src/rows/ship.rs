//! Files as they travel: catching up, beside applying alone; sealed segments, beside `cp`; what
//! followers cost their leader, and what one costs that joins.
//!
//! The leader is this process, which appends through the library and serves. Everything is on one
//! machine, so followers that stand for other machines run at idle priority, with copies in memory.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tidelog::log::Append;
use tidelog::replica::{Level, Outcome};
use tidelog::server::{ArchiveOptions, Server as Node, ServerOptions};
use tidelog::ship::Directory;
use tidelog::ship::archive::{LocalStore, PublishOptions, Publisher};
use tidelog::table::{Applier, Beginning};
use tidelog::{Batch, Durability, Follower, Identity, Log, Record, Table, Verification};

use super::Bench;
use crate::flock::How;
use crate::gauge::sequential_rate;
use crate::machine::{Workplace, quiesce, restore, warm_cache};
use crate::measure::{Figures, Latencies, Metric, cpu_time};
use crate::pairs::{Binary, Server, lead, tell_applied};
use crate::payload::Payloads;
use crate::peers::TIDELOG;
use crate::tables::{Keys, Load};

const CATCH_UP_ROW: &str = "ship/catch-up/100B";
const SEALED_ROW: &str = "ship/sealed/100B";
const FOLLOWERS_ROW: &str = "ship/followers/100B";
const JOIN_ROW: &str = "ship/join/100B";

/// Names of who is not tidelog's usual self.
const APPLY: &str = "apply alone";
const CP: &str = "cp, synced";
const HUNDRED: &str = "100 by archive";

const CATCH_UP_RECORDS: u64 = 10_000_000;
const CATCH_UP_KEYS: u64 = 1_000_000;
const SEALED_BYTES: u64 = 1 << 30;
/// Records in a frame of the log that is only shipped.
const SEALED_BATCH: u64 = 1000;
const DISK_BYTES: u64 = 512 << 20;
const FOLLOWERS_SECONDS: f64 = 3.0;
const ARCHIVE_INTERVAL: Duration = Duration::from_secs(1);
/// What a follower that joins has to fetch.
const JOIN_RECORDS: u64 = 2_000_000;
const JOIN_SECONDS: f64 = 3.0;
const JOIN_PRODUCERS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);

/// A new follower, until its table holds all of a log that is there.
pub(super) fn catch_up(bench: &Bench) -> Result<()> {
    let load = Load::new(bench.scaled(CATCH_UP_RECORDS), Keys::Uniform(CATCH_UP_KEYS));
    let place = bench.workplace.place("leader")?;
    let (leader, shelf, own) =
        (place.path().join("log"), place.path().join("shelf"), place.path().join("own"));
    {
        let options = Log::options().create(true).durability(Durability::Buffered);
        let log = options.open(&leader)?;
        let mut batch = Batch::new();
        for numbers in load.batches() {
            batch.clear();
            for n in numbers {
                let (key, value) = load.upsert(n);
                batch.push(&Record::put(&key, &value))?;
            }
            log.append_batch(&batch)?;
        }
        log.close()?;
    }
    fs::create_dir_all(&own)?;
    restore(&leader, &own)?;
    fs::create_dir_all(&shelf)?;
    let store = Arc::new(LocalStore::at(&shelf));
    Publisher::open(store, Directory::open(&leader)?, PublishOptions::default())?.push()?;
    let node = lead(&leader, ServerOptions::default())?;
    let bytes = files_bytes(&leader.join("segments"))?;
    let url = node.url().to_owned();

    let mut entrants = vec![
        (APPLY, None),
        (TIDELOG, Some((How::Directory, text(&leader)))),
        ("tidelog, http", Some((How::Http, url))),
        ("tidelog, archive", Some((How::Archive, text(&shelf)))),
    ];
    bench.interleave(
        CATCH_UP_ROW,
        &mut entrants,
        |(name, _)| name,
        |(_, how), _| {
            let copy = bench.workplace.place("copy")?;
            let _ = fs::remove_dir_all(own.join("table"));
            warm_cache(copy.path(), 2 * bytes)?;
            quiesce(copy.path())?;
            let cpu = cpu_time();
            let start = Instant::now();
            let applied = match how {
                None => apply(&own)?,
                Some((how, source)) => {
                    let source = how.open(source, "copy")?;
                    // The log is what is measured: a snapshot would spare it.
                    let table = Table::options().begin(Beginning::Log);
                    let to = copy.path().join("log");
                    let mut follower = Follower::open_from(Log::options(), table, &to, source)?;
                    let applied = follower.catch_up()?.applied.0;
                    ensure!(follower.lag().records == 0, "expected no lag");
                    applied
                }
            };
            let seconds = start.elapsed().as_secs_f64();
            let cpu = (cpu_time() - cpu).as_secs_f64();
            ensure!(applied >= load.upserts, "expected {} applied, found {applied}", load.upserts);
            let disk = sequential_rate(copy.path(), DISK_BYTES)?;
            let rate = bytes as f64 / seconds;
            Ok(Figures {
                records_per_s: Some(load.upserts as f64 / seconds),
                cpu_us_per_record: Some(cpu * 1e6 / load.upserts as f64),
                sequential_mb_per_s: Some(disk / 1e6),
                of_disk: how.is_some().then_some(rate / disk),
                ..Figures::default()
            })
        },
    )?;
    drop(node);
    bench.report.borrow_mut().end_row(CATCH_UP_ROW, Metric::RecordsPerS)
}

/// The table of a log that is all there, from nothing; every checksum is computed.
fn apply(dir: &Path) -> Result<u64> {
    let log =
        Log::options().verification(Verification::Always).identity(Identity::NewNode).open(dir)?;
    let mut table = Table::options().open_at_checkpoint(&log)?;
    Ok(Applier::new(&log, &table)?.run(&mut table)?.to.0)
}

/// Sealed segments, as a follower copies them, and as `cp` does.
pub(super) fn sealed(bench: &Bench) -> Result<()> {
    let payloads = Payloads::new(100);
    let place = bench.workplace.place("leader")?;
    let leader = place.path().join("log");
    let records = bench.scaled(SEALED_BYTES / 100).next_multiple_of(SEALED_BATCH);
    {
        let options = Log::options().create(true).durability(Durability::Buffered);
        let log = options.open(&leader)?;
        let mut batch = Batch::new();
        for from in (0..records).step_by(SEALED_BATCH as usize) {
            batch.clear();
            for n in from..from + SEALED_BATCH {
                batch.push(&Record::event(payloads.get(n)))?;
            }
            log.append_batch(&batch)?;
        }
        log.close()?;
    }
    quiesce(&leader)?;
    let bytes = files_bytes(&leader.join("segments"))?;
    let mut entrants = vec![TIDELOG, CP, "cp, not synced"];
    bench.interleave(
        SEALED_ROW,
        &mut entrants,
        |name| name,
        |name, _| {
            let copy = bench.workplace.place("copy")?;
            warm_cache(copy.path(), bytes)?;
            quiesce(copy.path())?;
            let to = copy.path().join("log");
            let cpu = cpu_time();
            let start = Instant::now();
            if *name == TIDELOG {
                let source = Directory::open(&leader)?;
                let mut follower = Follower::open(Log::options(), &to, source)?;
                let end = follower.catch_up()?.to.0;
                ensure!(end == records, "expected {records} records, found {end}");
            } else {
                let status =
                    Command::new("cp").arg("-r").arg(leader.join("segments")).arg(&to).status()?;
                ensure!(status.success(), "cp ended with {status}");
                if *name == CP {
                    quiesce(&to)?;
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            let cpu = (cpu_time() - cpu).as_secs_f64();
            Ok(Figures {
                records_per_s: Some(records as f64 / seconds),
                cpu_us_per_record: (*name == TIDELOG).then_some(cpu * 1e6 / records as f64),
                copied_mb_per_s: Some(bytes as f64 / seconds / 1e6),
                ..Figures::default()
            })
        },
    )?;
    bench.report.borrow_mut().end_row(SEALED_ROW, Metric::RecordsPerS)
}

/// Durable appends, one after the other, while others follow.
pub(super) fn followers(bench: &Bench) -> Result<()> {
    let mut entrants = vec![
        (TIDELOG, None),
        ("1 by archive", Some((How::Archive, 1))),
        ("8 by archive", Some((How::Archive, 8))),
        (HUNDRED, Some((How::Archive, 100))),
        ("1 by http", Some((How::Http, 1))),
        ("8 by http", Some((How::Http, 8))),
        ("100 by http", Some((How::Http, 100))),
    ];
    bench.interleave(
        FOLLOWERS_ROW,
        &mut entrants,
        |(name, _)| name,
        |(_, flock), _| {
            let memory = Workplace::new(Some(Path::new("/dev/shm")).filter(|path| path.is_dir()))?;
            let place = bench.workplace.place("leader")?;
            let shelf = place.path().join("shelf");
            fs::create_dir_all(&shelf)?;
            let store = Arc::new(LocalStore::at(&shelf));
            let archive = ArchiveOptions::new(store).interval(ARCHIVE_INTERVAL);
            let node =
                lead(&place.path().join("log"), ServerOptions::default().archive(Some(archive)))?;
            let mut load = Producer::new();
            load.append(&node, Level::Archived)?;
            let flock = match flock {
                None => None,
                Some((how, count)) => {
                    let source = if *how == How::Http { node.url().into() } else { text(&shelf) };
                    let count = count.to_string();
                    let program = text(&std::env::current_exe()?);
                    let copies = text(memory.root());
                    let command = [
                        "chrt",
                        "--idle",
                        "0",
                        &*program,
                        "flock",
                        how.word(),
                        &source,
                        &count,
                        &copies,
                    ];
                    let mut server =
                        Server::start(place.path(), "flock", &command, Signal::KILL, true)?;
                    let applied = tell_applied(&mut server)?;
                    while applied.recv_timeout(PATIENCE).context("wait for followers")?
                        < node.log().end()
                    {}
                    Some((server, applied))
                }
            };
            quiesce(place.path())?;
            let mut latencies = Latencies::with_room(1 << 16);
            let cpu = cpu_time();
            let start = Instant::now();
            while start.elapsed() < bench.seconds(FOLLOWERS_SECONDS) {
                let begun = Instant::now();
                load.append(&node, Level::Durable)?;
                latencies.note(begun.elapsed());
            }
            let (seconds, records) = (start.elapsed().as_secs_f64(), latencies.len() as f64);
            let cpu = (cpu_time() - cpu).as_secs_f64();
            let mut figures = Figures {
                records_per_s: Some(records / seconds),
                server_cpu_us_per_record: Some(cpu * 1e6 / records),
                ..Figures::default()
            };
            if let Some((_, applied)) = &flock {
                let last = applied.try_iter().last().map_or(0, |offset| offset.0);
                figures.lag_records = Some(node.log().end().0.saturating_sub(last) as f64);
            }
            latencies.into_figures(&mut figures);
            drop(flock);
            node.stop()?;
            Ok(figures)
        },
    )?;
    bench.report.borrow_mut().end_row(FOLLOWERS_ROW, Metric::RecordsPerS)
}

/// Durable appends of several producers, without a follower and while one joins and fetches what is
/// there.
pub(super) fn join(bench: &Bench) -> Result<()> {
    bench.interleave(
        JOIN_ROW,
        &mut vec![()],
        |()| TIDELOG,
        |(), _| {
            let place = bench.workplace.place("leader")?;
            let node = lead(&place.path().join("log"), ServerOptions::default())?;
            let load = Load::new(bench.scaled(JOIN_RECORDS), Keys::Distinct);
            let mut producer = Producer::new();
            for numbers in load.batches() {
                producer.append_batch(&node, &load, numbers, Level::Durable)?;
            }
            quiesce(place.path())?;
            let time = bench.seconds(JOIN_SECONDS);
            let mut alone = Figures::default();
            produce(&node, time)?.into_figures(&mut alone);
            let binary = Binary(bench.tidelog.clone());
            let (latencies, follower) = std::thread::scope(|scope| {
                // What a thread starts ends with it: the follower is started from this one.
                let producing = scope.spawn(|| produce(&node, time));
                let follower = binary.follow(place.path(), &place.path().join("copy"), node.url());
                (producing.join().expect("producing does not panic"), follower)
            });
            let follower = follower?;
            let mut figures = Figures::default();
            latencies?.into_figures(&mut figures);
            figures.alone_p50_us = alone.p50_us;
            figures.alone_p999_us = alone.p999_us;
            if let (Some(with), Some(alone)) = (figures.p999_us, alone.p999_us) {
                figures.added_p999_us = Some(with - alone);
            }
            // It did join: an append is acknowledged by it.
            producer.append(&node, Level::Applied(1))?;
            drop(follower);
            node.stop()?;
            Ok(figures)
        },
    )?;
    bench.report.borrow_mut().end_row(JOIN_ROW, Metric::P999Us)
}

fn produce(node: &Node, time: Duration) -> Result<Latencies> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let one = || -> Result<Latencies> {
            let mut latencies = Latencies::with_room(1 << 16);
            let mut producer = Producer::new();
            while !stop.load(Relaxed) {
                let begun = Instant::now();
                producer.append(node, Level::Durable)?;
                latencies.note(begun.elapsed());
            }
            Ok(latencies)
        };
        let producers: Vec<_> = (0..JOIN_PRODUCERS).map(|_| scope.spawn(one)).collect();
        std::thread::sleep(time);
        stop.store(true, Relaxed);
        let mut all = Latencies::default();
        for producer in producers {
            all.join(producer.join().expect("a producer does not panic")?);
        }
        Ok(all)
    })
}

/// Appends to a leader in this process.
struct Producer {
    load: Load,
    next: u64,
    batch: Batch,
}

impl Producer {
    fn new() -> Self {
        Producer {
            load: Load::new(u64::MAX, Keys::Uniform(CATCH_UP_KEYS)),
            next: 0,
            batch: Batch::new(),
        }
    }

    fn append(&mut self, node: &Node, level: Level) -> Result<()> {
        let load = self.load;
        self.next += 1;
        self.append_batch(node, &load, self.next - 1..self.next, level)
    }

    fn append_batch(
        &mut self,
        node: &Node,
        load: &Load,
        numbers: std::ops::Range<u64>,
        level: Level,
    ) -> Result<()> {
        self.batch.clear();
        for n in numbers {
            let (key, value) = load.upsert(n);
            self.batch.push(&Record::put(&key, &value))?;
        }
        let leader = node.leader().context("a leader")?;
        match leader.append(&self.batch, &Append::default(), Some(level), PATIENCE, |_| {})? {
            Outcome::Acked { .. } => Ok(()),
            other => bail!("expected an acknowledgement, found {other:?}"),
        }
    }
}

fn files_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
