//! `model`: random operations against a plain list of what was sent.
//!
//! Proves that what the log returns is what the model says, after any order of appends, reads,
//! rolls, retention, closes, kills and power cuts that chance comes to. `op` makes a sequence from
//! its seed, `run`, `fall` and `table` do its steps, `book` is the model, `shrink` makes a failing sequence
//! short. Invariant: a sequence's seed alone says all that happens in it.

mod book;
mod fall;
mod op;
mod run;
pub mod shrink;
mod table;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use clap::Args;
use rayon::prelude::*;

use crate::dice::Dice;
use crate::line::{Line, Reproduction};

use op::{Setup, Step, steps};
use run::{Failure, Stats, run as run_steps};

/// Sequences run between two lines of progress.
const ROUND: u64 = 20_000;
/// Runs that shrinking a sequence may take.
const MOST_TRIES: u32 = 2_000;

/// Random operations against a plain model.
#[derive(Args)]
pub struct Model {
    /// The first sequence's seed; the others follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many sequences.
    #[arg(long, default_value_t = 100_000)]
    sequences: u64,
    /// Steps of a sequence, at most.
    #[arg(long, default_value_t = 30)]
    steps: usize,
    /// Runs the one sequence of this seed, and prints its steps.
    #[arg(long)]
    replay: Option<u64>,
}

/// Runs it.
pub fn run(args: &Model) -> Result<Line, String> {
    let (first, count) = match args.replay {
        Some(seed) => (seed, 1),
        None => (args.seed, args.sequences),
    };
    let mut line = Line::new("model", first);
    let mut sum = Sum::default();
    if args.replay.is_none() {
        // A panic is a violation like any other: it is caught, shrunk and reproduced.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let mut done = 0;
    while done < count {
        let round = ROUND.min(count - done);
        let results: Vec<(u64, Result<Stats, Failure>)> = (first + done..first + done + round)
            .into_par_iter()
            .map(|seed| {
                let sequence = Sequence::new(seed, args.steps);
                (seed, sequence.run(&sequence.steps, args.replay.is_some()))
            })
            .collect();
        for (seed, result) in results {
            match result {
                Ok(stats) => sum.add(&stats),
                Err(failure) => line.violation(reproduce(seed, args.steps, &failure, &line)),
            }
        }
        done += round;
        if done < count {
            eprintln!("{done} sequences, {} violations", line.violations());
        }
    }
    let _ = std::panic::take_hook();
    sum.count(done, &mut line);
    Ok(line)
}

/// A seed, and what it says.
struct Sequence {
    seed: u64,
    setup: Setup,
    steps: Vec<Step>,
}

impl Sequence {
    fn new(seed: u64, most: usize) -> Self {
        let mut dice = Dice::new(seed);
        let setup = Setup::new(&mut dice);
        let count = 1 + usize::try_from(dice.below(most.max(1) as u64)).expect("few");
        Sequence { seed, setup, steps: steps(&mut dice, count) }
    }

    fn run(&self, steps: &[Step], aloud: bool) -> Result<Stats, Failure> {
        if aloud {
            eprintln!("{:?}", self.setup);
        }
        let tell = |number: usize, step: &Step| {
            if aloud {
                eprintln!("{number}: {:?}", step.op);
            }
        };
        let caught =
            catch_unwind(AssertUnwindSafe(|| run_steps(self.setup, self.seed, steps, tell)));
        caught.unwrap_or_else(|panic| {
            let found = format!("panic: {}", crate::told::said(&*panic));
            Err(Failure { step: steps.len(), found })
        })
    }
}

/// How to see a failure again, with as few steps as could be.
fn reproduce(seed: u64, most: usize, failure: &Failure, line: &Line) -> Reproduction {
    let sequence = Sequence::new(seed, most);
    let fails = |steps: &[Step]| sequence.run(steps, false).is_err();
    // Shrinking takes time: the first ones are what anybody looks at.
    let left = match line.violations() < 5 {
        true => shrink::shrink(&sequence.steps, MOST_TRIES, fails),
        false => sequence.steps.clone(),
    };
    let found = match sequence.run(&left, false) {
        Err(short) => format!("step {}: {}", short.step, short.found),
        Ok(_) => format!("{} (not again)", failure.found),
    };
    let mut steps = vec![format!("{:?}", sequence.setup)];
    steps.extend(left.iter().map(|step| format!("{:?}, seed {}", step.op, step.seed)));
    Reproduction { seed, steps, found }
}

/// The denominators, as they add up.
#[derive(Default)]
struct Sum {
    operations: BTreeMap<&'static str, u64>,
    crashes: u64,
    kills: u64,
    reopens: u64,
    records_checked: u64,
    segments: u64,
    states: Vec<u128>,
}

impl Sum {
    fn add(&mut self, stats: &Stats) {
        for (name, count) in &stats.operations {
            *self.operations.entry(name).or_default() += count;
        }
        self.crashes += stats.crashes;
        self.kills += stats.kills;
        self.reopens += stats.reopens;
        self.records_checked += stats.records_checked;
        self.segments += stats.rolled;
        self.states.push(stats.state);
    }

    fn count(mut self, sequences: u64, line: &mut Line) {
        line.count("sequences", sequences);
        line.count("operations", self.operations.values().sum::<u64>());
        for (name, count) in &self.operations {
            line.count(&format!("op_{name}"), *count);
        }
        line.count("power_cuts", self.crashes);
        line.count("kills", self.kills);
        line.count("reopens", self.reopens);
        line.count("segments_at_end", self.segments);
        line.count("records_checked", self.records_checked);
        self.states.sort_unstable();
        self.states.dedup();
        line.distinct(self.states.len() as u64);
    }
}
