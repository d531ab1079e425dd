//! `sched`: many threads on one log, shaken by yields, sleeps, failing calls and full disks.
//!
//! Each round has a seed that decides the log's options, the threads, what they do and what goes
//! wrong (`plan`); the operating system still decides who runs when, so that a seed brings back
//! the mixture and not the interleaving. A round (`round`) starts producers, tails, readers, a
//! syncing and a retaining thread (`actors`) on the simulated disk behind a seam that dawdles
//! (`shaky`), and holds the log against what its producers were told (`ledger`). Whoever makes no
//! step for too long is reported by name (`watch`); the run ends there, as a thread cannot be
//! stopped from outside.

mod actors;
mod ledger;
mod plan;
mod producer;
mod round;
mod shaky;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Args;

use super::line::{Line, Reproduction};
use plan::Plan;
use watch::Watch;

/// Many threads on one log: stress with faults, full disks and a watchdog.
#[derive(Args)]
pub struct Sched {
    /// Seed of the first round; each further round takes the next number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many rounds.
    #[arg(long, default_value_t = 200, conflicts_with = "seconds")]
    rounds: u64,
    /// How long, instead of how many rounds.
    #[arg(long)]
    seconds: Option<u64>,
    /// A thread that makes no step for so many seconds hangs.
    #[arg(long, default_value_t = 30)]
    hang_seconds: u64,
}

/// What all rounds add up to.
#[derive(Debug, Default)]
pub struct Counts {
    threads: AtomicU64,
    appends: AtomicU64,
    records: AtomicU64,
    durable_waits: AtomicU64,
    duplicates: AtomicU64,
    rejected: AtomicU64,
    refused_full: AtomicU64,
    unknown: AtomicU64,
    tailed: AtomicU64,
    tail_sleeps: AtomicU64,
    reads: AtomicU64,
    syncs: AtomicU64,
    segments_dropped: AtomicU64,
    faults: AtomicU64,
    poisons: AtomicU64,
    full_disks: AtomicU64,
    rolls: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    fn say(&self, line: &mut Line) {
        for (name, counter) in [
            ("threads", &self.threads),
            ("appends", &self.appends),
            ("records", &self.records),
            ("durable_waits", &self.durable_waits),
            ("duplicates", &self.duplicates),
            ("rejected", &self.rejected),
            ("refused_full", &self.refused_full),
            ("unknown", &self.unknown),
            ("tailed", &self.tailed),
            ("tail_sleeps", &self.tail_sleeps),
            ("reads", &self.reads),
            ("syncs", &self.syncs),
            ("segments_dropped", &self.segments_dropped),
            ("faults", &self.faults),
            ("poisons", &self.poisons),
            ("full_disks", &self.full_disks),
            ("rolls", &self.rolls),
        ] {
            line.count(name, counter.load(Relaxed));
        }
    }
}

/// Runs the rounds.
pub fn run(args: &Sched) -> Line {
    let mut line = Line::new("sched", args.seed);
    let counts = Arc::new(Counts::default());
    let until = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut rounds = 0;
    for seed in args.seed.. {
        if until.map_or(rounds >= args.rounds, |until| Instant::now() >= until) {
            break;
        }
        rounds += 1;
        let plan = Plan::of(seed);
        let steps =
            vec![format!("tidelog-torture sched --seed {seed} --rounds 1"), format!("{plan:?}")];
        let watch = Watch::new(Duration::from_secs(args.hang_seconds));
        let (found, hangs) = watch.over(&plan, &counts);
        for found in found {
            eprintln!("sched: seed {seed}: {found}");
            line.violation(Reproduction { seed, steps: steps.clone(), found });
        }
        if hangs {
            break;
        }
        if rounds.is_multiple_of(100) {
            eprintln!("sched: {rounds} rounds, {} violations", line.violations());
        }
    }
    line.count("rounds", rounds);
    counts.say(&mut line);
    line
}
