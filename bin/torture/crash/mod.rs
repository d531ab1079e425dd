//! `crash`: the power goes off after every operation of every listed workload.
//!
//! `workloads` lists what is done; `stage` does it and remembers what clients were told (`told`);
//! `choices` says what a cut may leave; `explore` goes through all of it; `check`, `repair`,
//! `damage`, `follow` and `table` hold what is left against the promises; `shrink` makes a violation short.

mod check;
mod choices;
mod damage;
mod explore;
mod follow;
mod repair;
mod shrink;
mod slots;
mod stage;
mod table;
mod told;
mod workloads;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use serde_json::json;

use crate::line::{Line, Reproduction};
use explore::{Ask, Seen, Tried, explore, hush_panics};
use workloads::{ALL, Workload};

/// Distinct states for each workload, however small the budget in all.
const LEAST_STATES: u64 = 10_000;

/// Cuts the power after every operation, and recovers every disk that may leave.
#[derive(Args, Clone, Debug)]
pub struct Crash {
    /// Distinct disks to recover, in all.
    #[arg(long, default_value_t = 500_000)]
    states: u64,
    /// Where chance begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this workload.
    #[arg(long)]
    workload: Option<String>,
    /// 1 cuts workloads, 2 also cuts their recovery, 3 also the recovery from that.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4))]
    depth: u32,
    /// All subsets of up to this many pending changes.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(0..=20))]
    subsets: u32,
    /// Only this variant of the workload.
    #[arg(long)]
    variant: Option<u64>,
    /// Stops a workload at its first violation.
    #[arg(long)]
    first: bool,
    /// Threads; all there are unless told otherwise.
    #[arg(long)]
    threads: Option<usize>,
    /// Lets a workload have fewer distinct states than the least it is owed.
    #[arg(long, hide = true)]
    small: bool,
}

impl Crash {
    /// Whether it is to go on until there are as many distinct disks as asked for.
    fn is_whole(&self) -> bool {
        self.variant.is_none() && !self.first
    }

    /// Runs it.
    pub fn run(&self) -> Result<Line, String> {
        let chosen: Vec<&Workload> = ALL
            .iter()
            .filter(|workload| self.workload.as_ref().is_none_or(|name| name == workload.name))
            .collect();
        if chosen.is_empty() {
            let names: Vec<&str> = ALL.iter().map(|workload| workload.name).collect();
            return Err(format!("no such workload; there are {}", names.join(", ")));
        }
        let threads = match self.threads {
            Some(threads) => threads.max(1),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        hush_panics();
        let mut line = Line::new("crash", self.seed);
        let images = Seen::new();
        let shares: u64 = chosen.iter().map(|workload| u64::from(workload.share)).sum();
        let (mut sums, mut each) = ([0; 5], serde_json::Map::new());
        let (mut struck, mut few) = (0, Vec::new());
        for workload in chosen {
            let part = self.states * u64::from(workload.share) / shares;
            let ask = Ask {
                seed: self.seed,
                states: if self.small { part } else { part.max(LEAST_STATES) },
                depth: self.depth,
                subsets: self.subsets,
                variant: self.variant,
                first: self.first,
            };
            let started = std::time::Instant::now();
            let tried = explore(workload, ask, &images, threads);
            let counted = [
                &tried.cuts,
                &tried.states,
                &tried.distinct,
                &tried.distinct_deeper,
                &tried.recoveries,
            ]
            .map(|count| count.load(Relaxed));
            for (sum, count) in sums.iter_mut().zip(counted) {
                *sum += count;
            }
            eprintln!(
                "crash: {:12} {:>9} distinct of {:>9} states, {} violations, {:.1} s",
                workload.name,
                counted[2],
                counted[1],
                tried.found.load(Relaxed),
                started.elapsed().as_secs_f64()
            );
            each.insert(workload.name.to_owned(), summary(&tried, counted));
            report(&mut line, &tried);
            struck += tried.struck.load(Relaxed);
            if line.violations() == 0 && self.is_whole() && counted[2] < ask.states {
                few.push(format!("{} gave {} of {}", workload.name, counted[2], ask.states));
            }
            if self.first && line.violations() > 0 {
                break;
            }
        }
        for (name, sum) in
            ["cuts", "states", "distinct_states", "distinct_states_in_recovery", "recoveries"]
                .into_iter()
                .zip(sums)
        {
            line.count(name, sum);
        }
        line.count("damaged_beside_the_cut", struck);
        line.count("workloads", serde_json::Value::Object(each));
        line.distinct(sums[2]);
        // A run that saw less than it was asked for proves less, and must not pass for the whole.
        if !few.is_empty() {
            line.violation(Reproduction {
                seed: self.seed,
                steps: vec![format!("tidelog-torture crash --states {}", self.states)],
                found: format!("fewer distinct disks than asked for: {}", few.join("; ")),
            });
        }
        Ok(line)
    }
}

fn summary(
    tried: &Tried,
    [cuts, states, distinct, deeper, recoveries]: [u64; 5],
) -> serde_json::Value {
    json!({
        "variants": tried.variants.load(Relaxed),
        "cuts": cuts,
        "states": states,
        "distinct_states": distinct,
        "distinct_states_in_recovery": deeper,
        "recoveries": recoveries,
        "violations": tried.found.load(Relaxed),
        "recoveries_to_first_violation": tried.first_violation.load(Relaxed),
    })
}

fn report(line: &mut Line, tried: &Tried) {
    let found: &Mutex<_> = &tried.violations;
    let kept = found.lock().unwrap_or_else(PoisonError::into_inner);
    for reproduction in kept.iter() {
        line.violation(reproduction.clone());
    }
    line.more_violations(tried.found.load(Relaxed) - kept.len() as u64);
}
