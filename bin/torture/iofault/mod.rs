//! `iofault`: every call to the file system fails once, in every way it can.
//!
//! For each workload, kind of call and N: the N-th such call fails, once or from then on, until a
//! run has no N-th call any more. Clients go on as careful services do; what they are told and
//! what they find is judged by [`told`](crate::told) and [`client`]. Then the same on the real
//! binary, under strace. Invariants:
//! - one seed, workload, kind, N and variant is one run, the same every time: `--only` repeats it;
//! - a panic anywhere, and a run that does not end, is a violation.

mod client;
mod follow;
mod strace;
mod table;
mod variants;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use tidelog::fs::sim::{Fault, OpKind};

use crate::line::{Line, Reproduction};
use workloads::Workload;

pub use client::{Broke, read};

/// A run that takes longer than this is stuck: they take milliseconds.
const STUCK_AFTER: Duration = Duration::from_secs(120);
/// So many N are tried at a time.
const AT_A_TIME: u64 = 16;

/// Fail every call to the file system, in every way
#[derive(clap::Args)]
pub struct Args {
    /// Seed of the simulated machines and their power cuts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this workload; `strace` for the real binary
    #[arg(long)]
    workload: Option<String>,
    /// Only this one: kind of call, N, number of the variant, as in Write:17:3
    #[arg(long, value_name = "KIND:N:VARIANT", requires = "workload")]
    only: Option<String>,
    /// The tidelog to run under strace; the one beside this programme unless given
    #[arg(long, value_name = "PATH")]
    strace: Option<PathBuf>,
}

/// What has been tried, by all threads.
#[derive(Default)]
struct Tally {
    seed: u64,
    /// By kind of call.
    sites: Mutex<BTreeMap<String, u64>>,
    injected: AtomicU64,
    struck: AtomicU64,
    strikes: AtomicU64,
    opens: AtomicU64,
    disks: Mutex<BTreeSet<u128>>,
    outcomes: Mutex<BTreeMap<String, u64>>,
    violations: Mutex<Vec<Reproduction>>,
    /// What runs just now, since when.
    running: Mutex<BTreeMap<String, Instant>>,
    panics: Mutex<Vec<String>>,
}

/// Runs it all.
pub fn run(args: &Args) -> Result<Line, String> {
    let mut line = Line::new("iofault", args.seed);
    let tally = Arc::new(Tally { seed: args.seed, ..Tally::default() });
    let wanted = |name: &str| args.workload.as_deref().is_none_or(|only| only == name);
    let chosen: Vec<&Workload> = workloads::ALL.iter().filter(|w| wanted(w.name)).collect();
    if chosen.is_empty() && !wanted("strace") {
        let names: Vec<&str> = workloads::ALL.iter().map(|w| w.name).collect();
        return Err(format!("expected a workload, one of {}, strace", names.join(", ")));
    }
    tally.hear_panics();
    tally.watch();
    match &args.only {
        Some(only) => tally.only(args.seed, &chosen, only)?,
        None => {
            chosen.par_iter().try_for_each(|workload| tally.all(args.seed, workload))?;
        }
    }
    drop(std::panic::take_hook());
    let count = |value: &AtomicU64| value.load(Relaxed);
    if !chosen.is_empty() {
        line.count("workloads", chosen.len());
        let sites = lock(&tally.sites).clone();
        line.count("call_sites", sites.values().sum::<u64>());
        line.count("call_sites_by_kind", serde_json::to_value(sites).map_err(|e| e.to_string())?);
        line.count("faults_injected", count(&tally.injected));
        line.count("faults_that_struck", count(&tally.struck));
        line.count("failed_calls", count(&tally.strikes));
        line.count("opens", count(&tally.opens));
        line.distinct(lock(&tally.disks).len() as u64);
        let outcomes = lock(&tally.outcomes).clone();
        line.count("outcomes", serde_json::to_value(outcomes).map_err(|e| e.to_string())?);
    }
    for violation in lock(&tally.violations).drain(..) {
        line.violation(violation);
    }
    if wanted("strace") && args.only.is_none() {
        strace::run(args.strace.as_deref(), args.seed, &mut line)?;
    }
    Ok(line)
}

impl Tally {
    /// Every site of one workload.
    fn all(&self, seed: u64, workload: &Workload) -> Result<(), String> {
        // A workload that fails by itself would make everything else meaningless.
        (workload.run)(seed, &client::none())
            .map_err(|what| format!("workload {} without faults: {what}", workload.name))?;
        workloads::kinds().par_bridge().for_each(|kind| {
            let mut from = 0;
            loop {
                let ended = (from..from + AT_A_TIME)
                    .into_par_iter()
                    .map(|nth| !self.site(seed, workload, kind, nth))
                    .reduce(|| false, |a, b| a || b);
                if ended {
                    break;
                }
                from += AT_A_TIME;
            }
        });
        eprintln!(
            "iofault: {} is done, {} faults so far",
            workload.name,
            self.injected.load(Relaxed)
        );
        Ok(())
    }

    /// The faults of one call; `false` if there is no such call.
    fn site(&self, seed: u64, workload: &Workload, kind: OpKind, nth: u64) -> bool {
        let mut is_there = false;
        for (variant, fault) in variants::of(kind, nth).into_iter().enumerate() {
            let name = format!("{kind:?}:{nth}:{variant}");
            let strikes = self.case(seed, workload, &name, &fault);
            if strikes == 0 {
                // No variant can strike a call that is not made.
                return is_there;
            }
            if !is_there {
                *lock(&self.sites).entry(format!("{kind:?}")).or_default() += 1;
            }
            is_there = true;
            self.injected.fetch_add(1, Relaxed);
            self.struck.fetch_add(1, Relaxed);
            self.strikes.fetch_add(strikes, Relaxed);
        }
        is_there
    }

    /// One run; returns how many calls failed.
    fn case(&self, seed: u64, workload: &Workload, name: &str, fault: &Fault) -> u64 {
        let key = format!("{} {name}", workload.name);
        lock(&self.running).insert(key.clone(), Instant::now());
        let ran = catch_unwind(AssertUnwindSafe(|| (workload.run)(seed, fault)));
        lock(&self.running).remove(&key);
        let (strikes, found) = match ran {
            Ok(Ok(client)) => {
                self.opens.fetch_add(client.opens, Relaxed);
                lock(&self.disks).extend(&client.disks);
                let mut outcomes = lock(&self.outcomes);
                for (outcome, count) in &client.outcomes {
                    *outcomes.entry(outcome.clone()).or_default() += count;
                }
                (client.sim.fired(), None)
            }
            Ok(Err(what)) => (1, Some(what)),
            Err(_) => (1, Some("it panicked".to_owned())),
        };
        let panics = std::mem::take(&mut *lock(&self.panics));
        if found.is_some() || !panics.is_empty() {
            let found = found.into_iter().chain(panics).collect::<Vec<_>>().join("; ");
            eprintln!("iofault: {key}: {found}");
            lock(&self.violations).push(reproduction(seed, workload.name, name, fault, found));
        }
        strikes
    }

    fn only(&self, seed: u64, chosen: &[&Workload], only: &str) -> Result<(), String> {
        let usage = || format!("expected KIND:N:VARIANT, found {only}");
        let mut parts = only.split(':');
        let kind =
            parts.next().and_then(|name| workloads::kinds().find(|k| format!("{k:?}") == name));
        let nth = parts.next().and_then(|n| n.parse().ok());
        let variant: Option<usize> = parts.next().and_then(|n| n.parse().ok());
        let (Some(kind), Some(nth), Some(variant)) = (kind, nth, variant) else {
            return Err(usage());
        };
        let faults = variants::of(kind, nth);
        let fault = faults.get(variant).ok_or_else(usage)?;
        for workload in chosen {
            self.injected.fetch_add(1, Relaxed);
            let strikes = self.case(seed, workload, only, fault);
            self.struck.fetch_add(u64::from(strikes > 0), Relaxed);
            self.strikes.fetch_add(strikes, Relaxed);
        }
        Ok(())
    }

    /// Notes every panic, of any thread, instead of printing it.
    fn hear_panics(self: &Arc<Self>) {
        let tally = Arc::clone(self);
        std::panic::set_hook(Box::new(move |info| lock(&tally.panics).push(info.to_string())));
    }

    /// Ends the programme when a run is stuck: its threads cannot be stopped from outside.
    fn watch(self: &Arc<Self>) {
        let tally = Arc::downgrade(self);
        std::thread::spawn(move || {
            while let Some(tally) = tally.upgrade() {
                let stuck = lock(&tally.running)
                    .iter()
                    .find(|(_, since)| since.elapsed() > STUCK_AFTER)
                    .map(|(name, _)| name.clone());
                if let Some(name) = stuck {
                    let mut line = Line::new("iofault", tally.seed);
                    line.violation(Reproduction {
                        seed: tally.seed,
                        steps: vec![name],
                        found: format!("it did not end within {STUCK_AFTER:?}"),
                    });
                    let _: ExitCode = line.print();
                    std::process::exit(1);
                }
                drop(tally);
                std::thread::sleep(Duration::from_secs(1));
            }
        });
    }
}

fn reproduction(
    seed: u64,
    workload: &str,
    name: &str,
    fault: &Fault,
    found: String,
) -> Reproduction {
    Reproduction {
        seed,
        steps: vec![
            format!("tidelog-torture iofault --seed {seed} --workload {workload} --only {name}"),
            format!("{fault:?}"),
        ],
        found,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
