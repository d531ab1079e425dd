//! `soak`: a mixed load for as long as one likes, on a real file system, with everything that is
//! read held against what was appended.
//!
//! Producers of every durability, readers that start anywhere, tails that see everything,
//! retention, small segments. Invariants:
//! - a tail reads every offset once, in order, and each producer's records in theirs;
//! - every value hashes to what its record says it was made of;
//! - memory of the process's own, descriptors and threads do not grow: the highest of the last
//!   quarter is held against the highest of the second.

mod gauge;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidelog::log::Retention;
use tidelog::{Append, Batch, Durability, Entry, Kind, Log, Offset, Record};

use crate::dice::Dice;
use crate::line::{Line, Reproduction};
use gauge::Gauge;

/// Retention keeps about this much.
const KEEP_BYTES: u64 = 64 << 20;
const SEGMENT_BYTES: u64 = 4 << 20;
/// Producers stay this far below the slowest tail, so that retention does not take what it needs.
const MOST_LAG_BYTES: u64 = 24 << 20;
/// Memory may be this much higher at the end than in the second quarter,
const MEMORY_SLACK_KIB: u64 = 24 << 10;
/// and descriptors, which caches open and close.
const DESCRIPTOR_SLACK: u64 = 32;

/// Run a mixed load and watch for anything that grows
#[derive(clap::Args)]
pub struct Args {
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of the load
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the log is made [default: the system's temporary directory]
    #[arg(long)]
    dir: Option<PathBuf>,
}

struct Soak {
    log: Log,
    seed: u64,
    over: AtomicBool,
    appended: AtomicU64,
    bytes: AtomicU64,
    read: AtomicU64,
    /// Bytes of values that the slowest tail has seen.
    tailed: [AtomicU64; 2],
    retained: AtomicU64,
    found: Mutex<Vec<String>>,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Line, String> {
    let mut line = Line::new("soak", args.seed);
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let path = parent.join(format!("tidelog-soak-{}", std::process::id()));
    let log = Log::options().create(true).segment_bytes(SEGMENT_BYTES).open(&path);
    let soak = Soak {
        log: log.map_err(|e| e.to_string())?,
        seed: args.seed,
        over: AtomicBool::new(false),
        appended: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        read: AtomicU64::new(0),
        tailed: [AtomicU64::new(0), AtomicU64::new(0)],
        retained: AtomicU64::new(0),
        found: Mutex::default(),
    };
    let gauges = soak.run(args.seconds);
    soak.judge(&gauges);
    let at = |i: usize| serde_json::to_value(gauges.get(i)).unwrap_or_default();
    line.count("records_appended", soak.appended.load(Relaxed));
    line.count("bytes_appended", soak.bytes.load(Relaxed));
    line.count("records_read_and_verified", soak.read.load(Relaxed));
    line.count("retentions", soak.retained.load(Relaxed));
    line.count("looks", gauges.len());
    line.count("start", at(0));
    line.count("middle", at(gauges.len() / 2));
    line.count("end", at(gauges.len().saturating_sub(1)));
    for found in soak.found.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let steps = vec![format!("tidelog-torture soak --seed {}", args.seed)];
        line.violation(Reproduction { seed: args.seed, steps, found });
    }
    let closed = soak.log.close();
    let verified = tidelog::log::verify(&path, tidelog::log::Level::Full);
    let _ = std::fs::remove_dir_all(&path);
    closed.map_err(|e| e.to_string())?;
    let verified = verified.map_err(|e| e.to_string())?;
    line.count("records_verified_at_the_end", verified.records);
    if let Some(problem) = verified.problems.first() {
        let steps = vec!["verify at the end".to_owned()];
        line.violation(Reproduction { seed: args.seed, steps, found: format!("{problem:?}") });
    }
    Ok(line)
}

impl Soak {
    /// Runs the load; looks at the process all the while.
    fn run(&self, seconds: u64) -> Vec<Gauge> {
        let started = Instant::now();
        let mut gauges = Vec::new();
        std::thread::scope(|scope| {
            for lane in 0..5 {
                scope.spawn(move || self.produce(lane));
            }
            for which in 0..2 {
                scope.spawn(move || self.tail(which));
            }
            scope.spawn(|| self.read());
            scope.spawn(|| self.upkeep());
            let step = Duration::from_millis((seconds * 1000 / 60).clamp(100, 10_000));
            while started.elapsed().as_secs() < seconds && !self.over.load(Relaxed) {
                std::thread::sleep(step);
                gauges.push(Gauge::read(started.elapsed().as_secs()));
            }
            self.over.store(true, Relaxed);
        });
        gauges
    }

    fn fail(&self, found: String) {
        self.over.store(true, Relaxed);
        self.found.lock().unwrap_or_else(PoisonError::into_inner).push(found);
    }

    /// One producer: batches of its own numbered records, with a durability of its own.
    fn produce(&self, lane: u64) {
        let mut dice = Dice::new(self.seed ^ lane << 32);
        let durability = match lane {
            0 => Durability::Buffered,
            1 | 2 => Durability::Written,
            _ => Durability::Durable,
        };
        let how = Append { durability: Some(durability), ..Append::default() };
        let (mut number, mut batch) = (0, Batch::new());
        while !self.over.load(Relaxed) {
            let tailed = self.tailed.iter().map(|t| t.load(Relaxed)).min().unwrap_or_default();
            if self.bytes.load(Relaxed).saturating_sub(tailed) > MOST_LAG_BYTES {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            batch.clear();
            let mut bytes = 0;
            for _ in 0..1 + dice.below(20) {
                let value = made(lane, number, dice.below(2_000), dice.next());
                bytes += value.len() as u64;
                number += 1;
                if let Err(error) = batch.push(&Record::put(&lane.to_le_bytes(), &value)) {
                    return self.fail(format!("a batch refuses a record: {error}"));
                }
            }
            match self.log.append_with(&batch, &how) {
                Ok(_) => {
                    self.appended.fetch_add(batch.len() as u64, Relaxed);
                    self.bytes.fetch_add(bytes, Relaxed);
                }
                Err(error) => return self.fail(format!("lane {lane} cannot append: {error}")),
            }
        }
    }

    /// A tail from the beginning: no gap, nothing twice, every lane in order.
    fn tail(&self, which: usize) {
        let mut tail = match self.log.tail(Offset(0)) {
            Ok(tail) => tail,
            Err(error) => return self.fail(format!("no tail: {error}")),
        };
        let (mut next, mut lanes) = (0, [0; 5]);
        while !self.over.load(Relaxed) {
            let entry = match tail.next_timeout(Duration::from_millis(50)) {
                Ok(Some(entry)) => entry,
                Ok(None) => continue,
                Err(error) => return self.fail(format!("a tail fails at offset {next}: {error}")),
            };
            if entry.offset != Offset(next) {
                return self.fail(format!("a tail expects offset {next}, reads {}", entry.offset));
            }
            next += 1;
            match said(&entry) {
                Some((lane, number)) if lanes.get(lane) == Some(&number) => lanes[lane] += 1,
                other => {
                    let what = format!("offset {}: expected {lanes:?}, found {other:?}", next - 1);
                    return self.fail(what);
                }
            }
            self.read.fetch_add(1, Relaxed);
            self.tailed[which].fetch_add(entry.record.value.len() as u64, Relaxed);
        }
    }

    /// A reader that starts anywhere and reads a while.
    fn read(&self) {
        let mut dice = Dice::new(self.seed ^ 0xFEED);
        while !self.over.load(Relaxed) {
            let (start, end) = (self.log.start().0, self.log.end().0);
            if start >= end {
                std::thread::yield_now();
                continue;
            }
            let from = start + dice.below(end - start);
            let to = (from + 1 + dice.below(3_000)).min(end);
            let mut next = from;
            let read = self.log.read_range(Offset(from)..Offset(to)).and_then(|mut cursor| {
                while let Some(entry) = cursor.next()? {
                    if entry.offset != Offset(next) || said(&entry).is_none() {
                        self.fail(format!(
                            "a reader expects offset {next}, reads {}",
                            entry.offset
                        ));
                        return Ok(());
                    }
                    next += 1;
                }
                Ok(())
            });
            self.read.fetch_add(next - from, Relaxed);
            match read {
                // Retention may overtake a reader, and says so.
                Err(error) if error.kind() == Kind::Gone => {}
                Err(error) => return self.fail(format!("a reader fails at {next}: {error}")),
                Ok(()) if next != to && !self.over.load(Relaxed) => {
                    return self.fail(format!("a reader of {from}..{to} ends at {next}"));
                }
                Ok(()) => {}
            }
        }
    }

    /// Retention, and a sync now and then.
    fn upkeep(&self) {
        while !self.over.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(200));
            let policy = Retention { keep_bytes: Some(KEEP_BYTES), ..Retention::default() };
            match self.log.retain(&policy) {
                Ok(retained) => {
                    self.retained.fetch_add(u64::from(!retained.files.is_empty()), Relaxed);
                }
                Err(error) => return self.fail(format!("retention fails: {error}")),
            }
            if let Err(error) = self.log.sync() {
                return self.fail(format!("a sync fails: {error}"));
            }
        }
    }

    /// Whether anything grew between the second quarter and the last.
    fn judge(&self, gauges: &[Gauge]) {
        let quarter = gauges.len() / 4;
        if quarter == 0 {
            return self.fail(format!(
                "{} looks are too few to tell whether anything grows",
                gauges.len()
            ));
        }
        let most = |of: &[Gauge], what: fn(&Gauge) -> u64| of.iter().map(what).max().unwrap_or(0);
        let (before, after) = (&gauges[quarter..2 * quarter], &gauges[3 * quarter..]);
        type Bound = (&'static str, fn(&Gauge) -> u64, u64);
        let bounds: [Bound; 3] = [
            ("KiB of anonymous memory", |gauge| gauge.anonymous_kib, MEMORY_SLACK_KIB),
            ("descriptors", |gauge| gauge.descriptors, DESCRIPTOR_SLACK),
            ("threads", |gauge| gauge.threads, 0),
        ];
        for (name, what, slack) in bounds {
            let (was, is) = (most(before, what), most(after, what));
            if is > was + slack {
                self.fail(format!("{name} grew from {was} to {is}, more than {slack}"));
            }
        }
    }
}

/// A value that says whose and which it is, with a hash over all of it.
fn made(lane: u64, number: u64, len: u64, filling: u64) -> Vec<u8> {
    let mut value = vec![0; 16];
    value[..8].copy_from_slice(&lane.to_le_bytes());
    value[8..].copy_from_slice(&number.to_le_bytes());
    let words = (0..len / 8).flat_map(|i| (filling ^ i.wrapping_mul(number | 1)).to_le_bytes());
    value.extend(words);
    let hash = blake3::hash(&value);
    value.extend_from_slice(&hash.as_bytes()[..16]);
    value
}

/// Whose and which it is, if the hash holds.
fn said(entry: &Entry<'_>) -> Option<(usize, u64)> {
    let value = entry.record.value;
    let (body, hash) = value.split_at_checked(value.len().checked_sub(16)?)?;
    if blake3::hash(body).as_bytes()[..16] != *hash {
        return None;
    }
    let word = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
    Some((usize::try_from(word(0)?).ok()?, word(8)?))
}
