//! `mutants`: the tests of the tests. Each planted bug must be found by some part of this programme.
//!
//! Runs this executable as child processes, one for each planted bug and part, with small budgets:
//! the likeliest first, then `crash` and the other parts of this build, until one finds a violation.
//! A bug that none finds is itself the violation. Before that every part must find nothing where
//! nothing is planted. Children are processes because a planted bug is planted for the whole process.

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};

use crate::line::{Line, Reproduction};

/// The parts, and their budgets: about as much as finds everything, and little more.
const PARTS: &[(&str, &[&str])] = &[
    ("crash", &["--small", "--first", "--threads", "1"]),
    ("iofault", &[]),
    ("bitflip", &["--flips", "20000", "--first"]),
    ("model", &["--sequences", "2000"]),
    ("sim", &["--seeds", "64", "--steps", "1000", "--first"]),
    ("fence", &["--rounds", "40", "--leaders", "6", "--local"]),
];
/// The workload of `crash` that is most likely to meet a planted bug: it is tried first.
const LIKELY: &[(&str, &[&str])] = &[
    ("sync-fails", &["retry-failed-sync"]),
    ("roll", &["skip-rolled-sync"]),
    ("state", &["state-ahead"]),
    ("reopen", &["keep-clean-mark", "skip-rename-sync"]),
    ("bulk", &["footer-before-data", "skip-first-seal-sync", "seal-claims-durability"]),
    ("bulk", &["seal-before-names"]),
    ("damage", &["zero-is-end", "cut-on-any-crc", "ignore-state", "no-salt"]),
    ("damage", &["index-by-length", "skip-body-check"]),
    ("kill", &["skip-settle", "keep-epoch", "watermark-too-high"]),
    ("producer", &["forget-producers"]),
    ("retain", &["unlink-before-floor"]),
    ("repair", &["repair-noted-late", "move-unsynced"]),
    ("follow", &["ship-unproven"]),
    ("table", &["skip-run-sync", "skip-run-names", "unlink-named-run", "mark-ahead"]),
    ("table", &["revive-deletes", "merge-keeps-older", "filter-says-no"]),
    ("table", &["replay-past-checkpoint", "skip-table-name"]),
    ("snapshot", &["manifest-before-runs", "trust-resumed-copy"]),
    ("append", &["skip-data-sync", "refuse-frame-behind", "quarantine-unsynced"]),
];
/// Planted bugs that only damage to files shows, of which kind of log: power cuts would look for long.
const BY_DAMAGE: &[(&str, &[&str])] = &[
    ("table", &["trust-any-checkpoint", "run-footer-by-length", "skip-block-check"]),
    ("active", &["trust-any-state"]),
];
/// Planted bugs that take more than one node to show.
const BY_NODES: &[&str] = &[
    "count-received",
    "show-uncommitted",
    "ack-uncounted",
    "skip-fence-check",
    "publish-uncommitted",
    "skip-follower-sync",
];
/// Planted bugs that take nodes which change roles: by how much, and where that finds nothing, the rest.
const BY_ROLES: &[&str] = &[
    "forget-promise",
    "promise-twice",
    "promise-in-memory",
    "too-few-promises",
    "count-answers",
    "skip-tail",
    "furthest-by-bytes",
    "zombie-acks",
    "follow-older",
    "skip-replay",
    "skip-archive",
    "ignore-lease",
    "ignore-max-loss",
    "ignore-veto",
    "ignore-pause",
    "ignore-gap",
    "forget-seen",
    "hide-spell",
    "throw-tail-away",
];
const ROLES: &[&str] = &["--only", "roles", "--seeds", "1000", "--steps", "2000", "--first"];
/// Planted bugs of the contested sequence.
const BY_RACES: &[&str] =
    &["create-overwrites", "forget-put-id", "unknown-is-mine", "ignore-fence"];
/// A child that takes longer has hung.
const LONGEST: Duration = Duration::from_secs(900);

/// Plants bugs in the engine, one at a time, and sees that each is found.
#[derive(Args, Clone, Debug)]
pub struct Mutants {
    /// Where chance begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this planted bug.
    #[arg(long)]
    only: Option<String>,
    /// Distinct disks that `crash` recovers at most, for each.
    #[arg(long, default_value_t = 40_000)]
    states: u64,
    /// Does not first show every part sound with nothing planted: for those who ran the parts.
    #[arg(long)]
    planted_only: bool,
    /// Planted bugs tried at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// What became of one planted bug.
struct Outcome {
    name: &'static str,
    /// The part that found it, after how many states, and what it said.
    caught: Option<(&'static str, u64, String)>,
    tried: Vec<String>,
    seconds: f64,
}

impl Mutants {
    /// Runs it; `has` says which parts this build has.
    pub fn run(&self, has: impl Fn(&str) -> bool) -> Result<Line, String> {
        let names: Vec<&str> = names()?
            .iter()
            .copied()
            .filter(|name| self.only.as_ref().is_none_or(|only| only == name))
            .collect();
        if names.is_empty() {
            return Err(format!("no such planted bug; there are {}", self::names()?.join(", ")));
        }
        let parts: Vec<_> = PARTS.iter().filter(|(part, _)| has(part)).collect();
        let mut line = Line::new("mutants", self.seed);
        let missing: Vec<_> =
            PARTS.iter().map(|(part, _)| *part).filter(|part| !has(part)).collect();
        if !missing.is_empty() {
            line.skip(format!("parts that this build lacks: {}", missing.join(", ")));
        }
        let sound: Vec<_> = std::thread::scope(|scope| {
            let mut running = Vec::new();
            for (part, budget) in parts.iter().copied().filter(|_| !self.planted_only) {
                running.push(scope.spawn(move || (*part, self.child(None, part, budget))));
            }
            running.into_iter().map(|thread| thread.join()).collect()
        });
        for outcome in sound {
            let (part, said) = outcome.map_err(|_| "a thread panicked".to_owned())?;
            let (code, said) = said?;
            if code != 0 {
                line.violation(Reproduction {
                    seed: self.seed,
                    steps: vec![format!("{part} with nothing planted")],
                    found: format!("it ended with {code}: {said}"),
                });
            }
        }
        let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while let Some(name) = names.get(next.fetch_add(1, Relaxed)) {
                        let outcome = self.hunt(name, &parts);
                        tell(&outcome);
                        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                    }
                });
            }
        });
        let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcomes.sort_by_key(|outcome| names.iter().position(|name| *name == outcome.name));
        self.sum_up(&mut line, &outcomes);
        Ok(line)
    }

    fn hunt(&self, name: &'static str, parts: &[&(&'static str, &[&str])]) -> Outcome {
        let started = Instant::now();
        let mut outcome = Outcome { name, caught: None, tried: Vec::new(), seconds: 0.0 };
        let likely = LIKELY.iter().find(|(_, names)| names.contains(&name));
        let likely = likely.map(|(workload, _)| {
            let mut budget = PARTS[0].1.to_vec();
            budget.extend(["--workload", workload]);
            (PARTS[0].0, budget)
        });
        let damage = BY_DAMAGE.iter().find(|(_, names)| names.contains(&name));
        let damage = damage.map(|(fixture, _)| {
            let mut budget = parts_of("bitflip");
            budget.extend(["--fixture", fixture]);
            ("bitflip", budget)
        });
        let nodes = BY_NODES.contains(&name).then(|| ("sim", parts_of("sim")));
        let roles = BY_ROLES.contains(&name).then(|| ("sim", ROLES.to_vec()));
        let races = BY_RACES.contains(&name).then(|| ("fence", parts_of("fence")));
        let parts = parts.iter().map(|(part, budget)| (*part, budget.to_vec()));
        for (part, budget) in
            damage.into_iter().chain(roles).chain(races).chain(nodes).chain(likely).chain(parts)
        {
            match self.child(Some(name), part, &budget) {
                Ok((0, _)) => outcome.tried.push(format!("{part} found nothing")),
                Ok((1, said)) => {
                    let (states, found) = read(&said);
                    outcome.caught = Some((part, states, found));
                    break;
                }
                Ok((code, said)) => outcome.tried.push(format!("{part} ended with {code}: {said}")),
                Err(error) => outcome.tried.push(format!("{part}: {error}")),
            }
        }
        outcome.seconds = started.elapsed().as_secs_f64();
        outcome
    }

    /// Runs one part; its exit code and what it printed.
    fn child(
        &self,
        mutant: Option<&str>,
        part: &str,
        budget: &[&str],
    ) -> Result<(i32, String), String> {
        let this = std::env::current_exe().map_err(|e| format!("finding this programme: {e}"))?;
        let mut command = Command::new(this);
        if let Some(name) = mutant {
            command.args(["--mutant", name]);
        }
        command.arg(part).args(budget).args(["--seed", &self.seed.to_string()]);
        if part == "crash" {
            // One workload gets its part of what all would.
            let states = if budget.contains(&"--workload") { self.states / 8 } else { self.states };
            command.args(["--states", &states.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("starting {part}: {e}"))?;
        let started = Instant::now();
        let mut stdout = child.stdout.take().expect("piped above");
        // Read meanwhile: a child must not wait for its pipe.
        let reader = std::thread::spawn(move || {
            let mut said = String::new();
            stdout.read_to_string(&mut said).map(|_| said)
        });
        let status = loop {
            match child.try_wait().map_err(|e| format!("waiting for {part}: {e}"))? {
                Some(status) => break status,
                None if started.elapsed() > LONGEST => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("no end after {} s", LONGEST.as_secs()));
                }
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        let said = reader.join().map_err(|_| format!("reading {part} failed"))?;
        let said = said.map_err(|e| format!("reading {part}: {e}"))?;
        Ok((status.code().unwrap_or(-1), said))
    }

    fn sum_up(&self, line: &mut Line, outcomes: &[Outcome]) {
        let (mut table, mut by_part) = (Map::new(), Map::new());
        let mut caught = 0;
        for outcome in outcomes {
            let seconds = (outcome.seconds * 10.0).round() / 10.0;
            match &outcome.caught {
                Some((part, states, found)) => {
                    caught += 1;
                    let sum = by_part.get(*part).and_then(Value::as_u64).unwrap_or(0);
                    by_part.insert((*part).to_owned(), json!(sum + 1));
                    let row = json!({
                        "caught_by": part, "after": states, "seconds": seconds, "found": found
                    });
                    table.insert(outcome.name.to_owned(), row);
                }
                None => {
                    table.insert(outcome.name.to_owned(), json!({ "caught_by": null }));
                    line.violation(Reproduction {
                        seed: self.seed,
                        steps: outcome.tried.clone(),
                        found: format!("the planted bug {} was not found", outcome.name),
                    });
                }
            }
        }
        line.count("planted", outcomes.len());
        line.count("caught", caught);
        line.count("caught_by", Value::Object(by_part));
        line.count("mutants", Value::Object(table));
    }
}

/// The budget of a part.
fn parts_of(name: &str) -> Vec<&'static str> {
    let part = PARTS.iter().find(|(part, _)| *part == name);
    part.map_or_else(Vec::new, |(_, budget)| budget.to_vec())
}

fn tell(outcome: &Outcome) {
    match &outcome.caught {
        Some((part, states, _)) => {
            eprintln!("mutants: {:24} caught by {part} after {states}", outcome.name);
        }
        None => eprintln!("mutants: {:24} NOT CAUGHT: {}", outcome.name, outcome.tried.join("; ")),
    }
}

/// How much a child had tried when it found something, and what it found.
fn read(said: &str) -> (u64, String) {
    let line: Value = serde_json::from_str(said.trim()).unwrap_or(Value::Null);
    let counts = &line["counts"];
    let count = |name: &str| counts[name].as_u64();
    let damages = count("flips").map(|flips| flips + count("truncations").unwrap_or(0));
    let tried = ["recoveries", "sequences", "calls", "seeds", "local_rounds"];
    let states = damages.or_else(|| tried.into_iter().find_map(count)).unwrap_or(0);
    let found =
        line["reproductions"][0]["found"].as_str().unwrap_or("").chars().take(160).collect();
    (states, found)
}

/// The planted bugs of this build.
#[cfg(feature = "mutants")]
fn names() -> Result<&'static [&'static str], String> {
    Ok(tidelog::mutant::NAMES)
}

#[cfg(not(feature = "mutants"))]
fn names() -> Result<&'static [&'static str], String> {
    Err(WITHOUT.to_owned())
}

#[cfg(not(feature = "mutants"))]
const WITHOUT: &str = "this build has no planted bugs; build it with the feature `mutants`";

/// Whether a bug is planted in this process.
static PLANTED: AtomicBool = AtomicBool::new(false);

/// Whether what is found may be a planted bug: whoever planted it need not be shown how it comes about.
pub fn is_planted() -> bool {
    PLANTED.load(Relaxed)
}

/// Plants the bug of this name, or says why not.
pub fn plant(name: &str) -> Result<(), ExitCode> {
    PLANTED.store(true, Relaxed);
    #[cfg(feature = "mutants")]
    let planted = match tidelog::mutant::plant(name) {
        true => Ok(()),
        false => Err(format!("no planted bug is called {name}")),
    };
    #[cfg(not(feature = "mutants"))]
    let planted = Err(format!("{name} cannot be planted: {WITHOUT}"));
    planted.map_err(|error: String| {
        eprintln!("tidelog-torture: {error}");
        ExitCode::from(2)
    })
}
