//! `sim`: a leader, its followers and an archive in one thread, with everything that can go wrong.
//!
//! It drives the engine's own leader, followers, protocol, publisher and archive reader; simulated are
//! the disks, the clocks, the network and the store. `op` makes a sequence of steps from a seed,
//! `world` is the cluster, `act` does the steps, `net` is the network, `book` what clients know,
//! `check` holds it all against that, `heal` ends a run: whatever happened, everybody must get on.
//! Invariant: a seed alone says all that happens, which its trace hash shows.

mod act;
mod book;
mod check;
mod heal;
mod net;
mod op;
mod roles;
mod walk;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use clap::Args;
use rayon::prelude::*;

use crate::dice::Dice;
use crate::line::{Line, Reproduction};
use crate::model::shrink;
use crate::mutants;

use op::{Setup, Step, steps};
use world::{Failure, Stats};

/// The count of what was simulated.
const SIMULATED: &str = "simulated_seconds";
/// Seeds run between two lines of progress.
const ROUND: u64 = 200;

/// A leader, followers and an archive under one seeded scheduler.
#[derive(Args)]
pub struct Sim {
    /// The first seed; the others follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// Steps of each.
    #[arg(long, default_value_t = 2_000)]
    steps: usize,
    /// Only clusters with one leader, or only those whose nodes change roles; otherwise seeds take turns.
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Lets files of followers rot, too. Not clean yet: docs/TESTING.md.
    #[arg(long)]
    rot: bool,
    /// Stops at the first violation.
    #[arg(long)]
    first: bool,
    /// Runs the one sequence of this seed, and tells of its steps.
    #[arg(long)]
    replay: Option<u64>,
}

/// A kind of cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Only {
    /// One leader for good, an archive, retention.
    Fixed,
    /// Nodes that are all alike, promotions and switchovers.
    Roles,
}

/// Runs it.
pub fn run(args: &Sim) -> Result<Line, String> {
    let (first, count) = match args.replay {
        Some(seed) => (seed, 1),
        None => (args.seed, args.seeds),
    };
    let mut line = Line::new("sim", first);
    let mut sum = Sum::default();
    if args.replay.is_none() {
        // A panic is a violation like any other: it is caught, shrunk and reproduced.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let mut done = 0;
    while done < count && !(args.first && line.violations() > 0) {
        let round = if args.first { 8 } else { ROUND }.min(count - done);
        let results: Vec<(u64, Duration, Result<Stats, Failure>)> = (first + done
            ..first + done + round)
            .into_par_iter()
            .map(|seed| {
                let (sequence, began) = (Sequence::new(seed, args), Instant::now());
                let result = sequence.run(sequence.len(), None, args.replay.is_some());
                (seed, began.elapsed(), result)
            })
            .collect();
        for (seed, took, result) in results {
            match result {
                Ok(stats) => sum.add(&stats, took),
                Err(failure) => line.violation(reproduce(seed, args, &failure, &line)),
            }
        }
        done += round;
        if done < count {
            eprintln!("{done} seeds, {} violations", line.violations());
        }
    }
    let _ = std::panic::take_hook();
    sum.count(done, args.steps, &mut line);
    Ok(line)
}

/// A seed, and what it says.
struct Sequence {
    seed: u64,
    kind: Cluster,
}

enum Cluster {
    Fixed(Setup, Vec<Step>),
    Roles(roles::Setup, Vec<roles::Step>),
}

impl Sequence {
    fn new(seed: u64, args: &Sim) -> Self {
        let mut dice = Dice::new(seed);
        let only = args.only.unwrap_or(match seed % 2 {
            0 => Only::Roles,
            _ => Only::Fixed,
        });
        let kind = match only {
            Only::Fixed => {
                let mut setup = Setup::new(&mut dice);
                setup.rots = args.rot && !setup.retains;
                Cluster::Fixed(setup, steps(&mut dice, args.steps))
            }
            Only::Roles => {
                let setup = roles::Setup::new(&mut dice);
                Cluster::Roles(setup, roles::steps(&setup, &mut dice, args.steps))
            }
        };
        Sequence { seed, kind }
    }

    fn len(&self) -> usize {
        match &self.kind {
            Cluster::Fixed(_, steps) => steps.len(),
            Cluster::Roles(_, steps) => steps.len(),
        }
    }

    fn setup(&self) -> String {
        match &self.kind {
            Cluster::Fixed(setup, _) => format!("{setup:?}"),
            Cluster::Roles(setup, _) => format!("{setup:?}"),
        }
    }

    /// Runs the steps below `until`, or of those only the ones that are named.
    fn run(&self, until: usize, of: Option<&[usize]>, aloud: bool) -> Result<Stats, Failure> {
        if aloud {
            eprintln!("{}", self.setup());
        }
        let all: Vec<usize> = (0..until).collect();
        let chosen = of.unwrap_or(&all);
        let run = || match &self.kind {
            Cluster::Fixed(setup, steps) => {
                let steps: Vec<Step> = chosen.iter().map(|at| steps[*at]).collect();
                world::run(*setup, self.seed, &steps, aloud)
            }
            Cluster::Roles(setup, steps) => {
                let steps: Vec<roles::Step> = chosen.iter().map(|at| steps[*at]).collect();
                roles::run(*setup, self.seed, &steps, aloud)
            }
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let found = format!("panic: {}", crate::told::said(&*panic));
            Err(Failure { step: chosen.len(), found })
        })
    }

    /// A step, in words.
    fn told(&self, at: usize) -> String {
        match &self.kind {
            Cluster::Fixed(_, steps) => format!("{:?}, seed {}", steps[at].op, steps[at].seed),
            Cluster::Roles(_, steps) => format!("{:?}, seed {}", steps[at].op, steps[at].seed),
        }
    }
}

/// How to see a failure again, with as few steps as could be.
fn reproduce(seed: u64, args: &Sim, failure: &Failure, line: &Line) -> Reproduction {
    let count = args.steps;
    let sequence = Sequence::new(seed, args);
    let fails = |steps: &[usize]| sequence.run(count, Some(steps), false).is_err();
    let until = (failure.step + 1).min(sequence.len());
    let all: Vec<usize> = (0..until).collect();
    // Shrinking takes time: the first ones are what anybody looks at.
    let wanted = line.violations() < 2 && (args.replay.is_some() || !mutants::is_planted());
    let left = match wanted && fails(&all) {
        true => shrink::shrink(&all, SHRINK_TRIES, fails),
        false => all,
    };
    // Whoever looks at one seed sees the short run, too.
    let aloud = args.replay.is_some() && left.len() < until;
    if aloud {
        eprintln!("the same with {} steps:", left.len());
    }
    let found = match sequence.run(count, Some(&left), aloud) {
        Err(short) => format!("step {}: {}", short.step, short.found),
        Ok(_) => format!("step {}: {} (not again with fewer)", failure.step, failure.found),
    };
    let mut steps = vec![sequence.setup()];
    match left.len() < 100 {
        true => steps.extend(left.iter().map(|at| sequence.told(*at))),
        false => steps.push(format!("sim --replay {seed} --steps {count}, step {}", failure.step)),
    }
    Reproduction { seed, steps, found }
}

/// Runs that shrinking a sequence may take.
const SHRINK_TRIES: u32 = 400;

/// The denominators, as they add up.
#[derive(Default)]
struct Sum {
    counts: BTreeMap<&'static str, u64>,
    trace: u64,
    states: Vec<u128>,
    /// What runs took that say how much time they simulated.
    took: Duration,
}

impl Sum {
    fn add(&mut self, stats: &Stats, took: Duration) {
        if stats.counts.contains_key(SIMULATED) {
            self.took += took;
        }
        for (name, count) in &stats.counts {
            *self.counts.entry(name).or_default() += count;
        }
        self.trace = self.trace.rotate_left(5) ^ stats.trace;
        self.states.push(stats.state);
    }

    fn count(mut self, seeds: u64, steps: usize, line: &mut Line) {
        line.count("seeds", seeds);
        line.count("steps", seeds * steps as u64);
        for (name, count) in &self.counts {
            line.count(name, *count);
        }
        if let Some(simulated) = self.counts.get(SIMULATED) {
            let most = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX).max(1);
            // Of one core, while nobody else wants it.
            line.count("times_real_time", simulated * 1000 / most);
        }
        line.count("trace", format!("{:016x}", self.trace));
        self.states.sort_unstable();
        self.states.dedup();
        line.distinct(self.states.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_run_to_the_last_bit() {
        let args = Sim {
            seed: 1,
            seeds: 1,
            steps: 400,
            only: None,
            rot: false,
            first: false,
            replay: None,
        };
        for seed in 1..=8 {
            let run = || {
                let sequence = Sequence::new(seed, &args);
                let stats = sequence.run(sequence.len(), None, false).map_err(|f| f.found);
                let stats = stats.unwrap_or_else(|found| panic!("seed {seed}: {found}"));
                (stats.trace, stats.state, stats.counts)
            };
            let first = run();
            // On a pool of one thread and of several: nothing that a run asks for may matter.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            assert_eq!(first, pool.install(run), "seed {seed}");
        }
    }
}
