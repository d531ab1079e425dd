//! Cuts the power after every operation of a script, and holds every disk that may be left
//! against what clients were told; then does the same inside the recovery of those disks.
//!
//! ```text
//! base ─ script, stopped after n ─► pending changes ─ each choice ─► image, if new ─► check
//!                                                                     └─ recovery, stopped … ─►
//! ```
//!
//! Invariants:
//! - everything follows from seed, workload, variant and the path of (operation, choice) pairs, so
//!   a path is a reproduction;
//! - an image is checked once for each set of promises: the same image after one more
//!   acknowledgement is checked again, and counted once;
//! - the engine's panic is a violation, not the end of the run.

use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tidelog::fs::sim::{Fate, PendingOp, PowerCut, Sim};

use super::choices::{Limits, choices};
use super::shrink::shrink;
use super::stage::{Plan, Stage, Step, Stop, quarantined};
use super::told::{Dice, Told, mix};
use super::workloads::Workload;
use crate::line::Reproduction;

/// One image in so many has its recovery cut, too.
const DEEPER_ONE_IN: u64 = 12;
/// Variants that find nothing new before a workload is given up.
const MOST_IDLE_VARIANTS: u64 = 40;

/// What a run asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub seed: u64,
    /// Distinct images for this workload.
    pub states: u64,
    pub depth: u32,
    pub subsets: u32,
    /// Only this variant.
    pub variant: Option<u64>,
    /// Stop at the first violation.
    pub first: bool,
}

/// What was tried, and what was found.
#[derive(Debug, Default)]
pub struct Tried {
    pub variants: AtomicU64,
    pub cuts: AtomicU64,
    /// Choices tried, those included that leave an image already known.
    pub states: AtomicU64,
    pub distinct: AtomicU64,
    /// Those of them that a cut inside recovery left.
    pub distinct_deeper: AtomicU64,
    /// Images that were recovered and checked.
    pub recoveries: AtomicU64,
    /// Images that were damaged on top of the cut.
    pub struck: AtomicU64,
    /// The first violation's place among them.
    pub first_violation: AtomicU64,
    pub violations: Mutex<Vec<Reproduction>>,
    pub found: AtomicU64,
    stopped: AtomicBool,
}

/// Hashes of images; they are spread well already.
#[derive(Default)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash << 8 | u64::from(*byte));
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A set of hashes, eight bytes each, in parts that threads seldom share.
pub struct Seen(Vec<Mutex<HashSet<u64, BuildHasherDefault<AsItIs>>>>);

impl Seen {
    pub fn new() -> Self {
        Seen((0..64).map(|_| Mutex::default()).collect())
    }

    /// Whether it is new.
    fn add(&self, hash: u64) -> bool {
        let part = &self.0[(hash >> 58) as usize];
        part.lock().unwrap_or_else(PoisonError::into_inner).insert(hash)
    }
}

/// One variant of a workload, ready to be run any number of times.
pub struct Variant<'a> {
    pub workload: &'a Workload,
    pub number: u64,
    pub seed: u64,
    pub plan: Plan,
    pub base: Sim,
    pub told: Told,
    pub dice: Dice,
}

/// A cut, and what it kept.
pub type Cut = (usize, Vec<Fate>);

/// A disk that was reached, and how.
pub struct Image {
    pub disk: Sim,
    pub told: Told,
    pub path: Vec<Cut>,
}

impl<'a> Variant<'a> {
    pub fn new(workload: &'a Workload, seed: u64, number: u64) -> Self {
        let mut dice = Dice::of(seed, workload.name, number);
        let plan = (workload.plan)(&mut dice);
        let (base, told) = (workload.base)(plan, &mut dice);
        Variant { workload, number, seed, plan, base, told, dice }
    }

    /// The disk before anything was cut.
    pub fn start(&self) -> Image {
        Image { disk: self.base.clone(), told: self.told.clone(), path: Vec::new() }
    }

    /// What runs on an image: the script, and after the first cut the recovery.
    fn script(&self, image: &Image) -> fn(&mut Stage) -> Step {
        if image.path.is_empty() { self.workload.script } else { self.workload.recovery }
    }

    /// Runs on a copy of the image and stops after `stop` operations.
    pub fn run(&self, image: &Image, stop: usize) -> (Sim, Told, Result<(), String>) {
        let machine = image.disk.deep_copy();
        let dice = Dice(mix(self.dice.0 ^ image.path.len() as u64));
        let mut stage = Stage::on(machine.clone(), image.told.clone(), self.plan, dice, stop);
        let ended = guarded(|| self.script(image)(&mut stage));
        let told = stage.told.after_cut();
        // The stage may have gone on to another machine only where nothing stops it.
        let machine = stage.machine.clone();
        let _ = guarded(|| {
            drop(stage);
            Ok(())
        });
        (machine, told, ended)
    }

    /// Recovers an image and holds it against what clients were told; whether it was damaged, too.
    pub fn check(&self, image: &Image, vary: u64) -> (Result<(), String>, bool) {
        let machine = image.disk.deep_copy();
        let dice = Dice(vary);
        let mut stage = Stage::powered(machine, image.told.clone(), self.plan, dice);
        let checked = guarded(|| (self.workload.check)(&mut stage, vary));
        let struck = stage.struck;
        let _ = guarded(|| {
            drop(stage);
            Ok(())
        });
        (checked, struck)
    }
}

/// Explores a workload until its budget is met.
pub fn explore(workload: &Workload, ask: Ask, images: &Seen, threads: usize) -> Tried {
    let tried = Tried::default();
    let checked = Seen::new();
    let (mut number, mut idle) = (ask.variant.unwrap_or(0), 0);
    loop {
        let before = tried.distinct.load(Relaxed);
        let variant = Variant::new(workload, ask.seed, number);
        let explorer = Explorer { variant, ask, images, checked: &checked, tried: &tried };
        explorer.all(threads);
        tried.variants.fetch_add(1, Relaxed);
        number += 1;
        let distinct = tried.distinct.load(Relaxed);
        idle = if distinct == before { idle + 1 } else { 0 };
        if distinct >= ask.states
            || idle >= MOST_IDLE_VARIANTS
            || ask.variant.is_some()
            || tried.stopped.load(Relaxed)
        {
            return tried;
        }
    }
}

struct Explorer<'a> {
    variant: Variant<'a>,
    ask: Ask,
    images: &'a Seen,
    checked: &'a Seen,
    tried: &'a Tried,
}

impl Explorer<'_> {
    /// Every cut of the script.
    fn all(&self, threads: usize) {
        let start = self.variant.start();
        let (machine, _, ended) = self.variant.run(&start, usize::MAX);
        if let Err(found) = ended {
            self.violation(&start, 0, None, found);
            return;
        }
        let (total, next) = (machine.operations(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let _alone = alone();
                    while let n = next.fetch_add(1, Relaxed)
                        && n <= total
                    {
                        self.cut(&start, n);
                    }
                });
            }
        });
    }

    /// One cut, after operation `n - 1`, and every image it may leave.
    fn cut(&self, from: &Image, n: usize) {
        if self.tried.stopped.load(Relaxed) {
            return;
        }
        let (machine, told, ended) = self.variant.run(from, n);
        self.tried.cuts.fetch_add(1, Relaxed);
        if let Err(found) = ended {
            self.violation(from, n as u64, None, found);
            return;
        }
        let deeper = !from.path.is_empty();
        let pending = machine.pending();
        let limits = match deeper {
            false => Limits { subsets: self.ask.subsets, chance: 3 },
            true => Limits { subsets: self.ask.subsets.min(3), chance: 1 },
        };
        let mut dice = Dice(mix(self.variant.dice.0 ^ mix(n as u64)));
        let mut power = machine.power_cut();
        for fates in choices(&pending, limits, &mut dice) {
            if self.tried.stopped.load(Relaxed) {
                return;
            }
            self.image(from, &mut power, &told, (n, fates), &pending);
        }
    }

    fn image(
        &self,
        from: &Image,
        power: &mut PowerCut,
        told: &Told,
        cut: Cut,
        pending: &[PendingOp],
    ) {
        self.tried.states.fetch_add(1, Relaxed);
        let hash = first_half(power.hash(&cut.1));
        if !self.checked.add(mix(hash ^ told.digest())) {
            return;
        }
        if self.images.add(hash) {
            self.tried.distinct.fetch_add(1, Relaxed);
            if !from.path.is_empty() {
                self.tried.distinct_deeper.fetch_add(1, Relaxed);
            }
        }
        let disk = power.leave(&cut.1);
        let mut path = from.path.clone();
        path.push(cut);
        let image = Image { disk, told: told.clone(), path };
        self.tried.recoveries.fetch_add(1, Relaxed);
        let (checked, struck) = self.variant.check(&image, hash);
        self.tried.struck.fetch_add(u64::from(struck), Relaxed);
        if let Err(found) = checked {
            self.violation(&image, hash, Some(pending), found);
            return;
        }
        let may = image.path.len() < self.ask.depth as usize
            && mix(hash ^ self.ask.seed).is_multiple_of(DEEPER_ONE_IN)
            && self.tried.distinct_deeper.load(Relaxed) < self.ask.states / 2;
        if may {
            self.deeper(&image);
        }
    }

    /// Cuts inside the recovery of an image.
    fn deeper(&self, image: &Image) {
        let (machine, _, ended) = self.variant.run(image, usize::MAX);
        if let Err(found) = ended {
            self.violation(image, 0, None, found);
            return;
        }
        let mut told = image.told.clone();
        told.kept = quarantined(&machine).into();
        let image = Image { disk: image.disk.clone(), told, path: image.path.clone() };
        for n in 0..=machine.operations() {
            self.cut(&image, n);
        }
    }

    fn violation(&self, at: &Image, vary: u64, pending: Option<&[PendingOp]>, found: String) {
        let tried = self.tried;
        if tried.found.fetch_add(1, Relaxed) == 0 {
            tried.first_violation.store(tried.recoveries.load(Relaxed), Relaxed);
        }
        if self.ask.first {
            tried.stopped.store(true, Relaxed);
        }
        let mut violations = tried.violations.lock().unwrap_or_else(PoisonError::into_inner);
        // Shrinking takes long, and the tenth of a kind teaches nothing.
        if violations.len() < 3 {
            violations.push(match pending {
                Some(_) => shrink(&self.variant, at, vary, found),
                None => Reproduction {
                    seed: self.variant.seed,
                    steps: super::shrink::steps(&self.variant, at),
                    found: format!("{found} (power cut after {vary} operations)"),
                },
            });
        } else {
            tried.stopped.store(true, Relaxed);
        }
    }
}

/// Has this thread do by itself what the engine would share out: the other processors have images
/// of their own, and waking a pool costs more than these small logs are worth.
fn alone() -> Option<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().ok()
}

fn first_half(hash: u128) -> u64 {
    (hash >> 64) as u64
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics are kept for whoever catches them, instead of being printed.
pub fn hush_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANIC.with(|panic| *panic.borrow_mut() = Some(info.to_string()));
    }));
}

/// Runs something of the engine; its panic is a violation.
fn guarded(run: impl FnOnce() -> Step) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(()) | Err(Stop::Power)) => Ok(()),
        Ok(Err(Stop::Violation(found))) => Err(found),
        Err(_) => {
            let told = PANIC.with(|panic| panic.borrow_mut().take());
            Err(told.unwrap_or_else(|| "a panic without words".to_owned()))
        }
    }
}
