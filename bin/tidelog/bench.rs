//! `bench`: rates and percentiles on this machine.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::Map;
use tidelog::table::{Applier, Frames};
use tidelog::{Apply, Batch, Durability, Log, Offset, Position, Record, Table};

use crate::config::{Config, DurabilityArg};
use crate::exit::{Failure, Outcome};
use crate::output::{Format, print_rows};

/// Bytes of a key that is applied.
const KEY_BYTES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Append,
    Read,
    Apply,
}

/// Measure appends, reads or a table being built on this machine
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog bench append --seconds 1
  tidelog bench append --durability buffered --batch 100 --size 100 --seconds 1
  tidelog bench read --seconds 1
  tidelog bench apply --size 100 --seconds 1")]
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
    /// Records to a batch [default: 1; to apply: 10000, or what 8 MiB hold]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Keys that applied records are spread over
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    keys: u64,
    /// What appends wait for; those of a log to be applied wait for nothing
    #[arg(long, value_enum, default_value = "durable")]
    durability: DurabilityArg,
    /// How long to measure
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How to print: a table on a terminal, NDJSON when piped
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

impl Bench {
    pub(crate) fn run(self) -> Outcome {
        let none = self.producers == 0 || self.batch() == 0 || self.keys == 0;
        if !(self.seconds > 0.0 && self.seconds < 3600.0) || none {
            return Err(Failure::usage("expected positive seconds, producers, batch and keys"));
        }
        let dir = self.dir.join(format!("tidelog-bench-{}", std::process::id()));
        let result = self.measure(&dir);
        let _ = std::fs::remove_dir_all(&dir);
        print_rows(Config::load(None)?.format(self.output)?, &[result?])
    }

    fn batch(&self) -> usize {
        /// Far from the limit of a frame.
        const APPLY_BYTES: usize = 8 << 20;
        let usual = match self.what {
            What::Append | What::Read => 1,
            What::Apply => (APPLY_BYTES / (self.size + KEY_BYTES).max(1)).clamp(1, 10_000),
        };
        self.batch.unwrap_or(usual)
    }

    fn measure(&self, dir: &std::path::Path) -> Result<Map<String, serde_json::Value>, Failure> {
        let durability = match self.what {
            What::Append | What::Read => self.durability.into(),
            What::Apply => Durability::Buffered,
        };
        let log = Log::options().create(true).durability(durability).open(dir)?;
        let limit = Duration::from_secs_f64(self.seconds);
        let mut bytes_written = None;
        let (records, seconds, mut micros) = match self.what {
            What::Append => self.append(&log, limit)?,
            What::Read => {
                let fill = Duration::from_secs_f64(self.seconds.min(2.0));
                let written = self.fill(&log, fill)?;
                self.read(&log, written, limit)?
            }
            What::Apply => {
                self.fill_with_keys(&log, limit)?;
                let before = device_bytes();
                let applied = apply(&log)?;
                bytes_written = device_bytes().zip(before).map(|(now, before)| now - before);
                applied
            }
        };
        log.close()?;
        micros.sort_unstable_by(f64::total_cmp);
        let at = |p: f64| -> serde_json::Value {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
            let i = (micros.len().saturating_sub(1) as f64 * p) as usize;
            micros.get(i).map(|us| (us * 1000.0).round() / 1000.0).into()
        };
        let mut row = Map::new();
        row.insert("what".into(), format!("{:?}", self.what).to_lowercase().into());
        row.insert("durability".into(), format!("{durability:?}").to_lowercase().into());
        row.insert("value_bytes".into(), self.size.into());
        row.insert("producers".into(), self.producers.into());
        row.insert("batch".into(), self.batch().into());
        row.insert("records".into(), records.into());
        row.insert("records_per_s".into(), whole(records as f64 / seconds));
        let rate = records as f64 * self.size as f64 / seconds;
        row.insert("bytes_per_s".into(), whole(rate));
        row.insert("p50_us".into(), at(0.5));
        row.insert("p99_us".into(), at(0.99));
        row.insert("p999_us".into(), at(0.999));
        if self.what == What::Apply {
            row.insert("longest_us".into(), at(1.0));
            row.insert("bytes_written".into(), bytes_written.into());
        }
        Ok(row)
    }

    fn append(&self, log: &Log, limit: Duration) -> Result<(u64, f64, Vec<f64>), Failure> {
        let value = vec![b'x'; self.size];
        let started = Instant::now();
        let results: Vec<Result<(u64, Vec<f64>), tidelog::Error>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.producers)
                .map(|_| {
                    scope.spawn(|| {
                        let (mut records, mut micros) = (0, Vec::new());
                        let mut batch = Batch::new();
                        while started.elapsed() < limit {
                            let from = Instant::now();
                            if self.batch() == 1 {
                                log.append(&Record::event(&value))?;
                            } else {
                                batch.clear();
                                for _ in 0..self.batch() {
                                    batch.push(&Record::event(&value))?;
                                }
                                log.append_batch(&batch)?;
                            }
                            micros.push(from.elapsed().as_secs_f64() * 1e6);
                            records += self.batch() as u64;
                        }
                        Ok((records, micros))
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let seconds = started.elapsed().as_secs_f64();
        let (mut records, mut micros) = (0, Vec::new());
        for result in results {
            let (count, some) = result?;
            records += count;
            micros.extend(some);
        }
        Ok((records, seconds, micros))
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
    fn fill_with_keys(&self, log: &Log, limit: Duration) -> Result<(), Failure> {
        const LARGE_BYTES: usize = 1 << 30;
        let value = vec![b'x'; self.size];
        let (mut batch, mut state) = (Batch::new(), 1u64);
        let (started, mut bytes) = (Instant::now(), 0);
        while started.elapsed() < limit && bytes < LARGE_BYTES {
            batch.clear();
            for _ in 0..self.batch() {
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
    fn read(
        &self,
        log: &Log,
        written: u64,
        limit: Duration,
    ) -> Result<(u64, f64, Vec<f64>), Failure> {
        let started = Instant::now();
        let mut cursor = log.read(Offset(0))?;
        let mut records = 0;
        while cursor.next()?.is_some() {
            records += 1;
        }
        let seconds = started.elapsed().as_secs_f64();
        let (mut micros, mut state) = (Vec::new(), 1u64);
        let started = Instant::now();
        while started.elapsed() < limit {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let from = Instant::now();
            log.get(Offset((state >> 33) % written.max(1)))?;
            micros.push(from.elapsed().as_secs_f64() * 1e6);
        }
        Ok((records, seconds, micros))
    }
}

/// Builds the table of everything in `log`: records, seconds until nothing was left to be done,
/// and how long each step took.
fn apply(log: &Log) -> Result<(u64, f64, Vec<f64>), Failure> {
    let started = Instant::now();
    let mut timed = Timed { table: Table::new(), micros: Vec::new() };
    let applied = Applier::new(log, &timed)?.run(&mut timed)?;
    Ok((applied.records, started.elapsed().as_secs_f64(), timed.micros))
}

/// A table, and how long each apply to it took: of a batch, or of several small ones together.
struct Timed {
    table: Table,
    micros: Vec<f64>,
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
            self.micros.push(from.elapsed().as_secs_f64() * 1e6);
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
fn whole(rate: f64) -> serde_json::Value {
    format!("{rate:.0}").parse::<u64>().map_or(serde_json::Value::Null, Into::into)
}
