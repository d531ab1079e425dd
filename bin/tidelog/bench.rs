//! `bench`: rates and percentiles on this machine, as rows and as a page with plots.
//!
//! Each measurement has a log of its own in a directory that is removed again. What is told of one stands in a
//! [`Measured`]: the row that is printed, and every operation with its time, which `report` draws.

mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use tidelog::ship::Directory;
use tidelog::table::{Applier, Frames};
use tidelog::{Apply, Batch, Durability, Follower, Log, Offset, Position, Record, Table};

use crate::config::{Config, DurabilityArg};
use crate::exit::{Failure, Outcome};
use crate::output::{Format, print_rows, say};
use crate::progress;

/// Bytes of a key that is applied.
const KEY_BYTES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Records appended to a log, and how long each append took
    Append,
    /// A scan of a log from one end to the other, and random reads by offset
    Read,
    /// A table made of a log, and how long each step took
    Apply,
    /// A log followed from its directory: copied, verified, synced, applied
    Ship,
    /// Each of them in turn
    All,
}

impl What {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// Measure appends, reads, a table being built or a log being followed on this machine
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog bench append --seconds 1
  tidelog bench append --durability buffered --batch 100 --size 100 --seconds 1
  tidelog bench read --seconds 1
  tidelog bench apply --size 100 --seconds 1
  tidelog bench ship --size 100 --seconds 1
  tidelog bench all --size 100 --seconds 0.5 --report bench.html

Rates are of records, and of the bytes of their values. Percentiles are of an append, of a random read by offset, of an apply, \
of a follower's step. To apply and to ship, a log is filled first, for --seconds or up to 1 GiB. The report is one file \
that asks nobody for anything.")]
pub(crate) struct Bench {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// Where to put the log that is measured; it is removed again
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Bytes of a value
    #[arg(long, default_value_t = 1024, value_name = "BYTES")]
    size: usize,
    /// Threads that append
    #[arg(long, default_value_t = 1, value_name = "N")]
    producers: usize,
    /// Records to a batch [default: 1; to apply and to ship: 10000, or what 8 MiB hold]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Keys that records which are applied are spread over
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    keys: u64,
    /// What appends wait for; those of a log to be applied or shipped wait for nothing
    #[arg(long, value_enum, default_value = "durable")]
    durability: DurabilityArg,
    /// How long to measure each
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Write a page with plots, too
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// How to print: a table on a terminal, NDJSON when piped
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// An operation: when it was done, in seconds since the first began, and how many microseconds it took.
type Sample = (f64, f64);

/// What a measurement found.
struct Found {
    records: u64,
    seconds: f64,
    samples: Vec<Sample>,
}

/// A measurement that can be told.
struct Measured {
    what: What,
    row: Map<String, Value>,
    samples: Vec<Sample>,
}

impl Bench {
    pub(crate) fn run(self) -> Outcome {
        let config = Config::load(None)?;
        let all = [What::Append, What::Read, What::Apply, What::Ship];
        let list = match &self.what {
            What::All => &all[..],
            one => std::slice::from_ref(one),
        };
        let none =
            self.producers == 0 || list.iter().any(|what| self.batch(*what) == 0) || self.keys == 0;
        if !(self.seconds > 0.0 && self.seconds < 3600.0) || none {
            return Err(Failure::usage("expected positive seconds, producers, batch and keys"));
        }
        let dir = self.dir.join(format!("tidelog-bench-{}", std::process::id()));
        let mut measured = Vec::new();
        for what in list {
            let spinner = progress::spinner("measuring");
            let result = self.measure(*what, &dir);
            spinner.finish_and_clear();
            let _ = std::fs::remove_dir_all(&dir);
            measured.push(result?);
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
        }
        let rows: Vec<_> = measured.iter().map(|measured| measured.row.clone()).collect();
        print_rows(config.format(self.output)?, &rows)?;
        if let Some(path) = &self.report {
            std::fs::write(path, report::page(&measured))
                .map_err(|e| Failure::io(&format!("write {}", path.display()), &e))?;
            say(format_args!("the page is in {}", path.display()));
        }
        Ok(())
    }

    fn batch(&self, what: What) -> usize {
        /// Far from the limit of a frame.
        const APPLY_BYTES: usize = 8 << 20;
        let usual = match what {
            What::Append | What::Read | What::All => 1,
            What::Apply | What::Ship => {
                (APPLY_BYTES / (self.size + KEY_BYTES).max(1)).clamp(1, 10_000)
            }
        };
        self.batch.unwrap_or(usual)
    }

    fn measure(&self, what: What, dir: &Path) -> Result<Measured, Failure> {
        let durability = match what {
            What::Append | What::Read | What::All => self.durability.into(),
            What::Apply | What::Ship => Durability::Buffered,
        };
        std::fs::create_dir_all(dir)
            .map_err(|e| Failure::io(&format!("make {}", dir.display()), &e))?;
        let home = dir.join("log");
        let log = Log::options().create(true).durability(durability).open(&home)?;
        let limit = Duration::from_secs_f64(self.seconds);
        let mut bytes_written = None;
        let found = match what {
            What::Append | What::All => self.append(&log, limit)?,
            What::Read => {
                let fill = Duration::from_secs_f64(self.seconds.min(2.0));
                let written = self.fill(&log, fill)?;
                self.read(&log, written, limit)?
            }
            What::Apply => {
                self.fill_with_keys(&log, self.batch(what), limit)?;
                let before = device_bytes();
                let applied = apply(&log)?;
                bytes_written = device_bytes().zip(before).map(|(now, before)| now - before);
                applied
            }
            What::Ship => {
                self.fill_with_keys(&log, self.batch(what), limit)?;
                let before = device_bytes();
                let shipped = ship(&home, &dir.join("copy"))?;
                bytes_written = device_bytes().zip(before).map(|(now, before)| now - before);
                shipped
            }
        };
        log.close()?;
        let Found { records, seconds, samples } = found;
        let mut micros: Vec<f64> = samples.iter().map(|(_, micros)| *micros).collect();
        micros.sort_unstable_by(f64::total_cmp);
        let at = |p: f64| -> Value {
            percentile(&micros, p).map(|us| (us * 1000.0).round() / 1000.0).into()
        };
        let mut row = Map::new();
        row.insert("what".into(), what.name().into());
        row.insert("durability".into(), format!("{durability:?}").to_lowercase().into());
        row.insert("value_bytes".into(), self.size.into());
        row.insert("producers".into(), self.producers.into());
        row.insert("batch".into(), self.batch(what).into());
        row.insert("records".into(), records.into());
        row.insert("records_per_s".into(), whole(records as f64 / seconds));
        let rate = records as f64 * self.size as f64 / seconds;
        row.insert("bytes_per_s".into(), whole(rate));
        row.insert("p50_us".into(), at(0.5));
        row.insert("p99_us".into(), at(0.99));
        row.insert("p999_us".into(), at(0.999));
        row.insert("longest_us".into(), at(1.0));
        row.insert("bytes_written".into(), bytes_written.into());
        Ok(Measured { what, row, samples })
    }

    fn append(&self, log: &Log, limit: Duration) -> Result<Found, Failure> {
        let value = vec![b'x'; self.size];
        let in_batch = self.batch(What::Append);
        let started = Instant::now();
        let results: Vec<Result<(u64, Vec<Sample>), tidelog::Error>> =
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..self.producers)
                    .map(|_| {
                        scope.spawn(|| {
                            let (mut records, mut samples) = (0, Vec::new());
                            let mut batch = Batch::new();
                            while started.elapsed() < limit {
                                let from = Instant::now();
                                if in_batch == 1 {
                                    log.append(&Record::event(&value))?;
                                } else {
                                    batch.clear();
                                    for _ in 0..in_batch {
                                        batch.push(&Record::event(&value))?;
                                    }
                                    log.append_batch(&batch)?;
                                }
                                samples.push(sample(started, from));
                                records += in_batch as u64;
                            }
                            Ok((records, samples))
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
            });
        let seconds = started.elapsed().as_secs_f64();
        let (mut records, mut samples) = (0, Vec::new());
        for result in results {
            let (count, some) = result?;
            records += count;
            samples.extend(some);
        }
        Ok(Found { records, seconds, samples })
    }

    fn fill(&self, log: &Log, limit: Duration) -> Result<u64, Failure> {
        let value = vec![b'x'; self.size];
        let mut batch = Batch::new();
        let started = Instant::now();
        while started.elapsed() < limit {
            batch.clear();
            for _ in 0..100 {
                batch.push(&Record::event(&value))?;
            }
            log.append_batch(&batch)?;
        }
        Ok(log.sync()?.0)
    }

    /// Puts to keys in no order, for `limit` or until the log is large.
    fn fill_with_keys(&self, log: &Log, in_batch: usize, limit: Duration) -> Result<(), Failure> {
        const LARGE_BYTES: usize = 1 << 30;
        let value = vec![b'x'; self.size];
        let (mut batch, mut state) = (Batch::new(), 1u64);
        let (started, mut bytes) = (Instant::now(), 0);
        while started.elapsed() < limit && bytes < LARGE_BYTES {
            batch.clear();
            for _ in 0..in_batch {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let key = format!("{:0KEY_BYTES$}", (state >> 16) % self.keys);
                batch.push(&Record::put(key.as_bytes(), &value))?;
            }
            log.append_batch(&batch)?;
            bytes += batch.bytes();
        }
        log.sync()?;
        Ok(())
    }

    /// A scan of everything, then random reads.
    fn read(&self, log: &Log, written: u64, limit: Duration) -> Result<Found, Failure> {
        let started = Instant::now();
        let mut cursor = log.read(Offset(0))?;
        let mut records = 0;
        while cursor.next()?.is_some() {
            records += 1;
        }
        let seconds = started.elapsed().as_secs_f64();
        let (mut samples, mut state) = (Vec::new(), 1u64);
        let started = Instant::now();
        while started.elapsed() < limit {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let from = Instant::now();
            log.get(Offset((state >> 33) % written.max(1)))?;
            samples.push(sample(started, from));
        }
        Ok(Found { records, seconds, samples })
    }
}

fn sample(started: Instant, from: Instant) -> Sample {
    let now = Instant::now();
    ((now - started).as_secs_f64(), (now - from).as_secs_f64() * 1e6)
}

/// Of values in their order, the one that a share `p` of them does not exceed.
fn percentile(sorted: &[f64], p: f64) -> Option<f64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let i = (sorted.len().saturating_sub(1) as f64 * p) as usize;
    sorted.get(i).copied()
}

/// A new copy of the log in `home`, until it has everything: copied, synced and applied.
fn ship(home: &Path, copy: &Path) -> Result<Found, Failure> {
    let started = Instant::now();
    let mut follower = Follower::open(Log::options(), copy, Directory::open(home)?)?;
    let (mut records, mut samples) = (0, Vec::new());
    loop {
        let from = Instant::now();
        let step = follower.step()?;
        samples.push(sample(started, from));
        records += step.to.0 - step.from.0;
        if step.lag.records == 0 && step.applied == step.to {
            break;
        }
    }
    Ok(Found { records, seconds: started.elapsed().as_secs_f64(), samples })
}

/// Builds the table of everything in `log`: records, seconds until nothing was left to be done,
/// and how long each step took.
fn apply(log: &Log) -> Result<Found, Failure> {
    let started = Instant::now();
    let mut timed = Timed { table: Table::new(), started, samples: Vec::new() };
    let applied = Applier::new(log, &timed)?.run(&mut timed)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Found { records: applied.records, seconds, samples: timed.samples })
}

/// A table, and how long each apply to it took: of a batch, or of several small ones together.
struct Timed {
    table: Table,
    started: Instant,
    samples: Vec<Sample>,
}

impl Apply for Timed {
    fn applied(&self) -> Option<Position> {
        self.table.applied()
    }

    fn apply(&mut self, frames: &mut Frames<'_>) -> tidelog::Result<()> {
        let from = Instant::now();
        self.table.apply(frames)?;
        // The last one finds nothing more.
        if frames.position().is_some() {
            self.samples.push(sample(self.started, from));
        }
        Ok(())
    }
}

/// Bytes of files that this process made dirty so far, where the system counts them.
fn device_bytes() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

/// A rate as JSON, without decimals that mean nothing.
fn whole(rate: f64) -> Value {
    format!("{rate:.0}").parse::<u64>().map_or(Value::Null, Into::into)
}
