//! A round: opens the log, lets everybody loose, makes trouble, and checks in the end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::thread::JoinHandle;
use std::time::Duration;

use tidelog::fs::Fs;
use tidelog::fs::sim::Sim;
use tidelog::{Append, Batch, Durability, Kind, Log, Offset, Options, Record};

use crate::dice::Dice;

use super::Counts;
use super::actors::Around;
use super::ledger::{Call, LAST, Must, check, value};
use super::plan::{Plan, Trouble};
use super::producer::{Left, Producing};
use super::shaky::Shaky;
use super::watch::{Sign, Watch, Watched};

const AT: &str = "/log";
/// A full disk that has space again lets an append pass long before so many tries.
const MOST_TRIES: u32 = 200_000;

/// Everything the threads of a round hold.
struct Stage {
    log: Log,
    plan: Plan,
    counts: Arc<Counts>,
    stop: AtomicBool,
    producing: AtomicUsize,
}

/// Runs it; returns what is wrong.
pub fn run(plan: &Plan, counts: &Arc<Counts>, watch: &Arc<Watch>, main: &Watched) -> Vec<String> {
    let sign = &*main.0;
    let sim = Sim::new(plan.seed);
    let fs = Shaky::over(sim.shared(), plan.seed, plan.shaky);
    sign.doing("opening");
    let log = match options(plan, fs).open(Path::new(AT)) {
        Ok(log) => log,
        Err(e) => return vec![format!("opening gave {e}")],
    };
    if let Trouble::Fault(fault) = &plan.trouble {
        sim.fail(fault.clone());
    }
    let stage = Arc::new(Stage {
        log,
        plan: plan.clone(),
        counts: Arc::clone(counts),
        stop: AtomicBool::new(false),
        producing: AtomicUsize::new(usize::from(plan.producers)),
    });
    let tails = around(&stage, watch, plan.tails, "tail", |it: Around<'_>| it.tail());
    let readers = around(&stage, watch, plan.readers, "side: reader", |it: Around<'_>| it.read());
    let syncing =
        around(&stage, watch, u16::from(plan.syncing), "side: syncing", |it: Around<'_>| it.sync());
    let retaining =
        around(&stage, watch, u16::from(plan.retaining), "side: retaining", |it: Around<'_>| {
            it.retain()
        });
    let producers: Vec<_> = (0..plan.producers).map(|n| produce(&stage, watch, n)).collect();
    Counts::add(
        &counts.threads,
        (tails.len() + readers.len() + syncing.len() + retaining.len() + producers.len()) as u64,
    );
    make_trouble(&stage, &sim, sign);
    let mut found = Vec::new();
    let mut told: Vec<(u16, Vec<Call>)> = Vec::new();
    for (number, producer) in (0..).zip(producers) {
        sign.doing("joining producers");
        match producer.join() {
            Ok(left) => {
                found.extend(left.found);
                told.push((number, left.calls));
            }
            Err(_) => found.push(format!("producer {number} panicked")),
        }
    }
    sim.heal();
    told.push((LAST, append_last(&stage, sign, &mut found)));
    stage.stop.store(true, Release);
    for thread in tails.into_iter().chain(readers).chain(syncing).chain(retaining) {
        sign.doing("joining tails and others");
        found.extend(thread.join().unwrap_or_else(|_| vec!["a thread panicked".into()]));
    }
    let Ok(stage) = Arc::try_unwrap(stage).map_err(drop) else {
        return vec!["a thread that is over still holds the log".into()];
    };
    finish(stage, &sim, &told, sign, &mut found);
    found
}

fn options(plan: &Plan, fs: Arc<dyn Fs>) -> Options {
    Log::options()
        .create(true)
        .worker(plan.worker)
        .isolate_groups(plan.isolate_groups)
        .visibility(plan.visibility)
        .durability(plan.durability)
        .preallocate(plan.preallocate)
        .segment_bytes(plan.segment_bytes)
        .flush_after(Duration::from_millis(2))
        // It knows nothing: every condition on a key reads the log.
        .key_lookup(Arc::new(|_| (Offset(0), None)))
        .fs(fs)
}

fn produce(stage: &Arc<Stage>, watch: &Arc<Watch>, number: u16) -> JoinHandle<Left> {
    let stage = Arc::clone(stage);
    spawn(watch, format!("producer {number}"), move |sign| {
        let producing = Producing::new(&stage.log, &stage.plan, &stage.counts, sign, number);
        let left = producing.run();
        stage.producing.fetch_sub(1, Release);
        left
    })
}

fn around(
    stage: &Arc<Stage>,
    watch: &Arc<Watch>,
    many: u16,
    name: &str,
    what: impl Fn(Around<'_>) -> Vec<String> + Copy + Send + 'static,
) -> Vec<JoinHandle<Vec<String>>> {
    (0..many)
        .map(|n| {
            let stage = Arc::clone(stage);
            spawn(watch, format!("{name} {n}"), move |sign| {
                what(Around {
                    log: &stage.log,
                    plan: &stage.plan,
                    counts: &stage.counts,
                    sign,
                    stop: &stage.stop,
                    dice: Dice::new(stage.plan.seed ^ (u64::from(n) + 77) << 32),
                })
            })
        })
        .collect()
}

fn spawn<T: Send + 'static>(
    watch: &Arc<Watch>,
    name: String,
    body: impl FnOnce(&Sign) -> T + Send + 'static,
) -> JoinHandle<T> {
    let watched = watch.sign(name.clone());
    std::thread::Builder::new()
        .name(name)
        .spawn(move || {
            let watched = watched;
            body(&watched.0)
        })
        .expect("a thread")
}

/// Fills the disk up and makes space again, while producers are at work.
fn make_trouble(stage: &Stage, sim: &Sim, sign: &Sign) {
    let Trouble::Full { percent, left_bytes, micros, times } = stage.plan.trouble else { return };
    let all = stage.plan.calls * u64::from(stage.plan.producers);
    let before = stage.counts.appends.load(Relaxed);
    let reached = |wanted| stage.counts.appends.load(Relaxed) - before >= wanted;
    for _ in 0..times {
        while !reached(all * percent / 100) && stage.producing.load(Acquire) > 0 {
            sign.doing("waiting to fill the disk");
            std::thread::sleep(Duration::from_micros(200));
        }
        sim.set_capacity(Some(sim.used() + left_bytes));
        std::thread::sleep(Duration::from_micros(micros));
        let mut patience = 200;
        while !stage.log.stats().disk_full && patience > 0 && stage.producing.load(Acquire) > 0 {
            patience -= 1;
            std::thread::sleep(Duration::from_micros(100));
        }
        if stage.log.stats().disk_full {
            Counts::add(&stage.counts.full_disks, 1);
            std::thread::sleep(Duration::from_micros(micros));
        }
        sim.set_capacity(None);
    }
}

/// The record that ends the tails: durable, so everything before it is. Unless the log is
/// poisoned, it must go in.
fn append_last(stage: &Stage, sign: &Sign, found: &mut Vec<String>) -> Vec<Call> {
    sign.doing("appending the last record");
    let mut batch = Batch::new();
    batch.push(&Record::put(b"last", &value(LAST, 0, 0))).expect("small");
    let how = Append { durability: Some(Durability::Durable), ..Append::default() };
    for _ in 0..MOST_TRIES {
        match stage.log.append_with(&batch, &how) {
            Ok(appended) => {
                let outcome = super::ledger::Outcome::Told(Durability::Durable);
                return vec![Call { number: 0, count: 1, first: Some(appended.first), outcome }];
            }
            Err(e) if e.kind() == Kind::Poisoned => return Vec::new(),
            Err(e) if e.kind() == Kind::DiskFull => std::thread::yield_now(),
            Err(e) => {
                found.push(format!("the last append gave {e}"));
                return Vec::new();
            }
        }
    }
    found.push("appends did not go on after the disk had space again".into());
    Vec::new()
}

/// Checks the open log, closes it, opens it again and checks once more.
fn finish(
    stage: Stage,
    sim: &Sim,
    told: &[(u16, Vec<Call>)],
    sign: &Sign,
    found: &mut Vec<String>,
) {
    let Stage { log, plan, counts, .. } = stage;
    Counts::add(&counts.faults, sim.fired());
    let stats = log.stats();
    Counts::add(&counts.rolls, (stats.segments as u64).saturating_sub(1));
    sign.doing("checking");
    if stats.poisoned {
        Counts::add(&counts.poisons, 1);
        match log.sync() {
            Err(e) if e.kind() == Kind::Poisoned => {}
            other => found.push(format!("a sync of a poisoned log gave {other:?}")),
        }
        found.extend(check(&log, told, Must::AtLeast(Durability::Durable)));
        drop(log);
    } else {
        found.extend(check(&log, told, Must::Everything));
        sign.doing("closing");
        if let Err(e) = log.close() {
            found.push(format!("closing gave {e}"));
        }
    }
    sign.doing("opening again");
    let again = match options(&plan, sim.shared()).create(false).open(Path::new(AT)) {
        Ok(again) => again,
        Err(e) => return found.push(format!("opening again gave {e}")),
    };
    sign.doing("checking again");
    // The process went on, so what was written is there, synced or not.
    let must = if stats.poisoned { Must::AtLeast(Durability::Written) } else { Must::Everything };
    found.extend(check(&again, told, must).into_iter().map(|what| format!("reopened: {what}")));
    sign.doing("closing again");
    if let Err(e) = again.close() {
        found.push(format!("closing again gave {e}"));
    }
}
