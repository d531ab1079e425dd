//! `bitflip`: bits of a log's files flipped, files cut, zeroed, lost, doubled and swapped; of the smallest log every bit
//! and every length, of the others as many as are asked for, evenly.
//!
//! Proves the promise that damage is noticed, always, and never read as a record; and that repair
//! keeps everything that is whole. `fixture` builds the logs, `damage` what is done to them,
//! `check` and `table` look at the result, `harmless` lists what may go unreported. Invariants:
//! - the oracle knows only what was appended and acknowledged;
//! - whatever is counted as harmless was read back whole.

mod check;
mod damage;
mod fixture;
mod harmless;
mod table;

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use clap::Args;
use rayon::prelude::*;

use crate::line::{Line, Reproduction};

use check::{Baseline, Outcome, check};
use damage::{Damage, bits, coarse};
use fixture::{Fixture, NAMES, TINY};

/// Flips bits of small logs, every one of the smallest, and damages their files in every other way.
#[derive(Args)]
pub struct Bitflip {
    /// Chooses what the logs hold.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many bits to flip; with more than the logs have, further seeds follow.
    #[arg(long, default_value_t = 524_288)]
    flips: u64,
    /// Only this kind of log.
    #[arg(long)]
    fixture: Option<String>,
    /// Cut files only at every n-th length.
    #[arg(long, default_value_t = 1)]
    every: u64,
    /// Repair, append and reopen behind one damage in so many: that each is noticed is looked at always.
    #[arg(long, default_value_t = 1)]
    mend_every: u64,
    /// Only damages whose text contains this: to see a violation again.
    #[arg(long)]
    only: Option<String>,
    /// Print every violation, not only the first ones.
    #[arg(long)]
    verbose: bool,
    /// Stops at the first violation.
    #[arg(long)]
    first: bool,
}

/// Damages done between two looks at whether that is enough.
const ROUND: usize = 256;

impl Bitflip {
    fn is_over(&self, line: &Line) -> bool {
        self.first && line.violations() > 0
    }
}

/// Runs it.
pub fn run(args: &Bitflip) -> Result<Line, String> {
    let mut sum = Sum::default();
    let mut line = Line::new("bitflip", args.seed);
    let names: Vec<&'static str> = NAMES
        .into_iter()
        .filter(|name| args.fixture.as_ref().is_none_or(|wanted| wanted == name))
        .collect();
    if names.is_empty() {
        return Err(format!("expected one of {NAMES:?}"));
    }
    // A panic is a violation like any other: it is caught, counted and reproduced.
    std::panic::set_hook(Box::new(|_| {}));
    let mut seed = args.seed;
    while sum.flips < args.flips && !args.is_over(&line) {
        let fixtures: Vec<Fixture> =
            names.par_iter().map(|name| Fixture::new(name, seed)).collect::<Result<_, _>>()?;
        let before = sum.flips;
        let left = args.flips - sum.flips;
        let bits_there: u64 = fixtures.iter().map(bits_of).sum();
        sum.bits_there += bits_there;
        // A small budget thins out the truncations as it thins out the flips.
        let thin = args.every.max((bits_there / left.max(1)).min(bits_there));
        let mut fixtures_left = fixtures.len() as u64;
        let mut order: Vec<&Fixture> = fixtures.iter().collect();
        order.sort_by_key(|fixture| (fixture.name != TINY, bits_of(fixture)));
        for fixture in order {
            if args.is_over(&line) {
                break;
            }
            let left = args.flips - sum.flips;
            let whole = fixture.name == TINY && bits_of(fixture) <= left / 2;
            let (share, thin) = match whole {
                true => (bits_of(fixture), args.every),
                false => (left / fixtures_left.max(1), thin),
            };
            fixtures_left -= 1;
            batter(fixture, share, thin, args, &mut sum, &mut line)?;
            sum.whole += u64::from(whole && args.only.is_none() && args.every == 1);
        }
        sum.fixtures += fixtures.len() as u64;
        eprintln!("seed {seed}: {} flips, {} violations", sum.flips, line.violations());
        seed += 1;
        if sum.flips == before {
            line.skip("what --only leaves has no bits to flip");
            break;
        }
    }
    let _ = std::panic::take_hook();
    sum.count(&mut line);
    Ok(line)
}

fn bits_of(fixture: &Fixture) -> u64 {
    fixture.files.iter().map(|(_, len)| len * 8).sum()
}

/// Does everything to one fixture.
fn batter(
    fixture: &Fixture,
    flips: u64,
    every: u64,
    args: &Bitflip,
    sum: &mut Sum,
    line: &mut Line,
) -> Result<(), String> {
    let base = match table::is_about(fixture) {
        true => None,
        false => Some(Baseline::of(fixture)?),
    };
    if fixture.name == table::KEPT && args.only.is_none() {
        let caught = catch_unwind(|| table::branches(fixture.seed));
        let caught = caught.unwrap_or_else(|p| Err(format!("panic: {}", crate::told::said(&*p))));
        sum.file_operations += 1;
        if let Err(found) = caught {
            let steps = vec!["the table of another branch of the log's history".to_owned()];
            line.violation(Reproduction { seed: fixture.seed, steps, found });
        }
    }
    let mut damages = coarse(fixture, every);
    for (file, bits) in bits(fixture, flips) {
        let file = &fixture.files[file].0;
        damages.extend(bits.into_iter().map(|bit| Damage::Flip { file: file.clone(), bit }));
    }
    if let Some(only) = &args.only {
        damages.retain(|damage| damage.to_string().contains(only));
    }
    let round = if args.first { ROUND } else { damages.len().max(1) };
    for damages in damages.chunks(round) {
        if args.is_over(line) {
            break;
        }
        let results: Vec<Result<Outcome, String>> = damages
            .par_iter()
            .map(|damage| {
                let caught = catch_unwind(AssertUnwindSafe(|| match &base {
                    Some(base) => check(fixture, base, damage, args.mend_every),
                    None => table::check(fixture, damage),
                }));
                caught.unwrap_or_else(|panic| Err(format!("panic: {}", crate::told::said(&*panic))))
            })
            .collect();
        for (damage, result) in damages.iter().zip(results) {
            sum.add(damage, result.as_ref().ok());
            if let Err(found) = result {
                if args.verbose {
                    eprintln!("{} {}: {damage}: {found}", fixture.name, fixture.seed);
                }
                line.violation(Reproduction {
                    seed: fixture.seed,
                    steps: vec![
                        format!("fixture {} of seed {}", fixture.name, fixture.seed),
                        damage.to_string(),
                    ],
                    found,
                });
            }
        }
    }
    Ok(())
}

/// The denominators, as they add up.
#[derive(Default)]
struct Sum {
    fixtures: u64,
    /// Those of which every bit was flipped, and every length tried.
    whole: u64,
    bits_there: u64,
    /// Damaged disks, by what is on them.
    disks: HashSet<u64>,
    flips: u64,
    truncations: u64,
    zeroed_sectors: u64,
    file_operations: u64,
    by_open: u64,
    by_read: u64,
    by_verify: u64,
    residual: u64,
    with_evidence: u64,
    repairs: u64,
    records_read: u64,
    records_kept: u64,
    records_lost: u64,
    harmless: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn add(&mut self, damage: &Damage, outcome: Option<&Outcome>) {
        match damage {
            Damage::Flip { .. } => self.flips += 1,
            Damage::Truncate { .. } => self.truncations += 1,
            Damage::Zero { .. } => self.zeroed_sectors += 1,
            _ => self.file_operations += 1,
        }
        let Some(outcome) = outcome else { return };
        self.disks.insert(outcome.disk);
        self.by_open += u64::from(outcome.by_open);
        self.by_read += u64::from(outcome.by_read);
        self.by_verify += u64::from(outcome.by_verify);
        self.residual += u64::from(outcome.residual);
        self.with_evidence += u64::from(outcome.with_evidence);
        self.repairs += u64::from(outcome.repaired);
        self.records_read += outcome.records_read;
        self.records_kept += outcome.records_kept;
        self.records_lost += outcome.records_lost;
        if let Some(reason) = outcome.harmless {
            *self.harmless.entry(reason).or_default() += 1;
        }
    }

    fn count(&self, line: &mut Line) {
        for (name, value) in [
            ("fixtures", self.fixtures),
            ("fixtures_damaged_whole", self.whole),
            ("bits_there", self.bits_there),
            ("flips", self.flips),
            ("truncations", self.truncations),
            ("zeroed_sectors", self.zeroed_sectors),
            ("file_operations", self.file_operations),
            ("reported_by_open", self.by_open),
            ("reported_by_read", self.by_read),
            ("reported_by_verify", self.by_verify),
            ("residual_cut", self.residual),
            ("lost_with_evidence", self.with_evidence),
            ("harmless", self.harmless.values().sum()),
            ("repairs", self.repairs),
            ("records_read", self.records_read),
            ("records_kept", self.records_kept),
            ("records_lost", self.records_lost),
        ] {
            line.count(name, value);
        }
        line.distinct(self.disks.len() as u64);
        for (reason, count) in &self.harmless {
            line.count(&format!("harmless_{reason}"), *count);
        }
    }
}
