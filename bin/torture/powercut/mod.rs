//! `powercut`: a real ext4 loses power under load, again and again, and the log goes on.
//!
//! ```text
//! load in a child ──► shutdown by ioctl ──► child ends ──► umount, mount: journal replay
//!        ▲                                                          │
//!        └── the same log ◄── close ◄── read all, hold ◄── append ◄── open
//! ```
//! What the loop device was given stays, flushed or not: it proves what is lost of the page cache
//! and the journal, not of a drive's own cache. `crash` proves that on the simulated disk.
//!
//! Invariants: the oracle knows only the child's reports; mount, loop device and image are gone
//! afterwards, however the run ends.

mod load;
mod rig;
mod shutdown;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tidelog::log::{Level, verify};
use tidelog::{Append, Batch, Durability, Log, Record};

use crate::dice::Dice;
use crate::iofault::{Broke, read};
use crate::line::{Line, Reproduction};
use crate::oracle::{Told, value};
use rig::Rig;
use shutdown::{Flush, shut_down};

pub use load::{Args as LoadArgs, run as load};

/// After so many cycles a new log is begun: each cycle is an epoch, and a log remembers them all.
const CYCLES_PER_LOG: u64 = 250;
/// The lane of this process's own appends.
const OWN_LANE: u64 = 99;
/// The load is not let run longer than this.
const MOST_LOAD_MS: u64 = 90;

/// Cut the power of a real ext4 under load
#[derive(clap::Args)]
pub struct Args {
    /// Power cuts
    #[arg(long, default_value_t = 500)]
    cycles: u64,
    /// Seed of the load and of the moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the image is made [default: the system's temporary directory]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What has been seen.
#[derive(Default)]
struct Tally {
    cycles: u64,
    sent: u64,
    acknowledged: u64,
    durable: u64,
    found: u64,
    rolls: u64,
    retentions: u64,
    torn: u64,
    bytes_cut: u64,
    unheard: u64,
    unclean: u64,
}

/// Runs it all.
pub fn run(args: &Args) -> Result<Line, String> {
    let mut line = Line::new("powercut", args.seed);
    let mut tally = Tally::default();
    if let Some(reason) = Rig::missing() {
        line.count("cycles", 0);
        line.skip(reason);
        return Ok(line);
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Relaxed)).map_err(|e| e.to_string())?;
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut rig = match Rig::new(&parent) {
        Ok(rig) => rig,
        Err(reason) => {
            // A container may show loop devices and refuse them.
            line.count("cycles", 0);
            line.skip(reason);
            return Ok(line);
        }
    };
    let mut dice = Dice::new(args.seed);
    let mut log = String::new();
    let mut told = Told::default();
    for cycle in 0..args.cycles {
        if interrupted.load(Relaxed) {
            line.skip(format!("interrupted after {cycle} of {} cycles", args.cycles));
            break;
        }
        if cycle % CYCLES_PER_LOG == 0 {
            if !log.is_empty() {
                let _ = std::fs::remove_dir_all(rig.root().join(&log));
            }
            log = format!("log{}", cycle / CYCLES_PER_LOG);
            told = Told::default();
        }
        let flush = if cycle % 2 == 0 { Flush::Journal } else { Flush::Nothing };
        let seed = dice.next();
        if let Err(found) = one(&mut rig, &log, &mut told, &mut tally, (seed, flush)) {
            line.violation(Reproduction {
                seed: args.seed,
                steps: vec![
                    format!("tidelog-torture powercut --seed {}", args.seed),
                    format!("cycle {cycle}, {flush:?} flushed; threads and disk set the moment"),
                ],
                found,
            });
            // The log is not what it should be: what follows would prove nothing.
            break;
        }
        if cycle % 500 == 499 {
            eprintln!("powercut: {} cycles, {} records found", cycle + 1, tally.found);
        }
    }
    if line.violations() > 0 {
        eprintln!("powercut: it ended early");
    }
    tally.say(&mut line);
    Ok(line)
}

/// One cycle.
fn one(
    rig: &mut Rig,
    log: &str,
    told: &mut Told,
    tally: &mut Tally,
    (seed, flush): (u64, Flush),
) -> Result<(), String> {
    let path = rig.root().join(log);
    let mut dice = Dice::new(seed);
    let wait = Duration::from_micros(dice.below(MOST_LOAD_MS * 1000));
    let reports = under_load(&path, told.next(), seed, wait, || {
        shut_down(&rig.root(), flush).map_err(|e| format!("cannot shut down: {e}"))
    })?;
    rig.unmount()?;
    rig.mount()?;
    hear(&reports, told, tally)?;
    told.cut();
    tally.cycles += 1;
    revive(&path, told, tally, dice.below(2) == 0, dice.below(20) == 0)
}

/// Runs the load until `cut` has returned and the child has ended; returns its reports.
fn under_load(
    log: &Path,
    serial: u64,
    seed: u64,
    wait: Duration,
    cut: impl FnOnce() -> Result<(), String>,
) -> Result<Reports, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new(me)
        .args(["powercut-load", "--log"])
        .arg(log)
        .args(["--seed", &seed.to_string(), "--serial", &serial.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start the load: {e}"))?;
    let out = BufReader::new(child.stdout.take().ok_or("the load has no stdout")?);
    let begun = AtomicU64::new(0);
    let (cut, lines) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut lines = Vec::new();
            for line in out.lines().map_while(Result::ok) {
                lines.push(line);
                begun.fetch_add(1, Relaxed);
            }
            lines
        });
        let started = Instant::now();
        // The moment counts from the first report: before it the log is being opened. Now and
        // then that is when the power goes.
        while !seed.is_multiple_of(8)
            && begun.load(Relaxed) == 0
            && started.elapsed().as_millis() < 2000
        {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(wait);
        let heard = begun.load(Relaxed);
        let cut = cut();
        end(&mut child);
        (cut.map(|()| heard), reader.join())
    });
    let heard = usize::try_from(cut?).map_err(|e| e.to_string())?;
    let lines = lines.map_err(|_| "reading the load's reports panicked".to_owned())?;
    Ok(Reports { lines, heard })
}

/// The load's reports. An acknowledgement that came after the power had begun to fail was heard by
/// nobody: the machine was off. (While ext4 shuts down, it lets some calls succeed and then drops
/// what they wrote.) What had been sent may be in the log all the same.
struct Reports {
    lines: Vec<String>,
    heard: usize,
}

/// Waits for the child; one that does not notice that its disk is gone is killed.
fn end(child: &mut Child) {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Takes the reports over into what clients were told.
fn hear(reports: &Reports, told: &mut Told, tally: &mut Tally) -> Result<(), String> {
    for (i, report) in reports.lines.iter().enumerate() {
        let unheard = i >= reports.heard;
        let mut words = report.split_whitespace();
        let kind = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let number = |i: usize| -> Result<u64, String> {
            let word = rest.get(i).copied().unwrap_or_default();
            word.parse().map_err(|_| format!("the load reports {report:?}"))
        };
        match kind {
            "s" => {
                let first = told.send(number(1)?, number(2)?);
                if first != number(0)? {
                    return Err(format!("the load sends serial {report:?}, expected {first}"));
                }
                tally.sent += number(1)?;
            }
            "a" | "r" if unheard => tally.unheard += 1,
            "a" => {
                let durable = rest.get(1) == Some(&"d");
                let level = if durable { Durability::Durable } else { Durability::Written };
                let count = told.acknowledge(number(0)?, level, number(2)?);
                tally.acknowledged += count;
                tally.durable += if durable { count } else { 0 };
            }
            "p" => told.may_start = told.may_start.max(number(0)?),
            "r" => {
                told.must_start = told.must_start.max(number(0)?);
                tally.retentions += 1;
            }
            _ => return Err(format!("the load reports {report:?}")),
        }
    }
    Ok(())
}

/// Opens what the cut left, appends, reads all of it, and closes or lets go.
fn revive(
    path: &Path,
    told: &mut Told,
    tally: &mut Tally,
    close: bool,
    full: bool,
) -> Result<(), String> {
    let options = Log::options().create(true).segment_bytes(load::SEGMENT_BYTES);
    let log = options.open(path).map_err(|e| format!("opening: {e}"))?;
    let report = log.report();
    tally.unclean += u64::from(!report.clean);
    tally.torn += u64::from(report.bytes_cut > 0);
    tally.bytes_cut += report.bytes_cut;
    let serial = told.send(1, OWN_LANE);
    let mut batch = Batch::new();
    batch.push(&Record::put(b"key", &value(serial, 300))).map_err(|e| e.to_string())?;
    let appended =
        log.append_with(&batch, &Append::default()).map_err(|e| format!("appending: {e}"))?;
    told.acknowledge(serial, Durability::Durable, appended.first.0);
    match read(&log) {
        Ok((start, found)) => {
            tally.found += found.len() as u64;
            told.hold(start, &found, true)?;
        }
        Err(Broke::Error(error)) => return Err(format!("reading: {error}")),
        Err(Broke::Oracle(what)) => return Err(what),
    }
    let segments = log.stats().segments as u64;
    tally.rolls += segments.saturating_sub(1);
    if full {
        let problems = verify(path, Level::Full).map_err(|e| format!("verify: {e}"))?.problems;
        if let Some(problem) = problems.first() {
            return Err(format!("verify finds {problem:?}"));
        }
    }
    if close {
        log.close().map_err(|e| format!("closing: {e}"))?;
        told.closed();
    } else {
        drop(log);
        told.killed();
    }
    told.forget();
    // Torn tails are kept for ever; here they would fill the disk.
    let _ = std::fs::remove_dir_all(path.join("quarantine"));
    Ok(())
}

impl Tally {
    fn say(&self, line: &mut Line) {
        line.count("cycles", self.cycles);
        line.count("records_sent", self.sent);
        line.count("records_acknowledged", self.acknowledged);
        line.count("records_acknowledged_durable", self.durable);
        line.count("records_found", self.found);
        line.count("segments_rolled_seen", self.rolls);
        line.count("retentions", self.retentions);
        line.count("acknowledgements_after_the_cut", self.unheard);
        line.count("unclean_opens", self.unclean);
        line.count("torn_tails_cut", self.torn);
        line.count("bytes_cut", self.bytes_cut);
    }
}
