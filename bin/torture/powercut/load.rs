//! The load: a process of its own that appends until its file system is gone, and says what it was
//! told.
//!
//! ```text
//! s SERIAL COUNT LANE        about to be sent
//! a SERIAL LEVEL OFFSET      acknowledged: w written, d durable
//! p OFFSET                   retention is about to drop what lies below
//! r OFFSET                   it said that it did
//! e TEXT                     an error that a lost file system does not explain
//! ```
//! A line is written before the call it announces, and after the call it reports; the pipe keeps
//! them whatever becomes of this process.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tidelog::log::Retention;
use tidelog::{Append, Batch, Durability, Kind, Log, Record};

use crate::dice::Dice;
use crate::oracle::value;

/// Threads that append.
const LANES: u64 = 3;
/// Retention keeps about this much.
const KEEP_BYTES: u64 = 1 << 20;
/// Small segments, so that they roll and are sealed all the time.
pub const SEGMENT_BYTES: u64 = 128 << 10;

/// Run by `powercut`, in a process of its own
#[derive(clap::Args)]
pub struct Args {
    /// The log
    #[arg(long)]
    log: PathBuf,
    /// Seed of sizes and durabilities
    #[arg(long)]
    seed: u64,
    /// The first serial
    #[arg(long)]
    serial: u64,
}

struct Load {
    log: Log,
    /// The next serial; held while a report is written, so that reports come in their order.
    next: Mutex<u64>,
    over: AtomicBool,
}

/// Appends until the file system is gone, or nobody listens.
pub fn run(args: &Args) {
    let options = Log::options().create(true).segment_bytes(SEGMENT_BYTES);
    let log = match options.open(&args.log) {
        Ok(log) => log,
        // It may be gone already.
        Err(error) => return unexpected(&error),
    };
    let load = Load { log, next: Mutex::new(args.serial), over: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let load = &load;
            scope.spawn(move || load.lane(lane, Dice::new(args.seed ^ lane << 56)));
        }
    });
}

impl Load {
    fn lane(&self, lane: u64, mut dice: Dice) {
        while !self.over.load(Relaxed) {
            let count = 1 + dice.below(4);
            let durability = match dice.below(3) {
                0 => Durability::Written,
                _ => Durability::Durable,
            };
            let len = dice.below(6_000);
            let Some(serial) = self.announce(count, lane) else { break };
            let mut batch = Batch::new();
            for n in 0..count {
                let value = value(serial + n, usize::try_from(len).unwrap_or_default());
                batch.push(&Record::put(b"key", &value)).expect("far below every limit");
            }
            let how = Append { durability: Some(durability), ..Append::default() };
            match self.log.append_with(&batch, &how) {
                Ok(appended) => {
                    let level = if durability == Durability::Durable { 'd' } else { 'w' };
                    self.say(&format!("a {serial} {level} {}\n", appended.first));
                }
                Err(error) => {
                    unexpected(&error);
                    break;
                }
            }
            if dice.below(40) == 0 && !self.retain() {
                break;
            }
        }
        self.over.store(true, Relaxed);
    }

    fn retain(&self) -> bool {
        let by_bytes =
            Retention { keep_bytes: Some(KEEP_BYTES), dry_run: true, ..Retention::default() };
        let Ok(plan) = self.log.retain(&by_bytes) else { return false };
        if plan.files.is_empty() {
            return true;
        }
        self.say(&format!("p {}\n", plan.start));
        let exactly = Retention { keep_from: Some(plan.start), ..Retention::default() };
        match self.log.retain(&exactly) {
            Ok(done) => self.say(&format!("r {}\n", done.start)),
            Err(error) => {
                unexpected(&error);
                false
            }
        }
    }

    fn announce(&self, count: u64, lane: u64) -> Option<u64> {
        let mut next = self.next.lock().ok()?;
        let serial = *next;
        *next += count;
        report(&format!("s {serial} {count} {lane}\n")).then_some(serial)
    }

    fn say(&self, line: &str) -> bool {
        let _order = self.next.lock();
        report(line)
    }
}

/// Reports an error, unless it is what a lost file system gives.
fn unexpected(error: &tidelog::Error) {
    if !matches!(error.kind(), Kind::Io | Kind::Poisoned | Kind::NotFound | Kind::ReadOnly) {
        report(&format!("e {}\n", error.to_string().replace('\n', " ")));
    }
}

/// Writes a line to the pipe at once; `false` when nobody listens.
fn report(line: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok()
}
