//! A file system in memory that keeps what was written apart from what is durable, so that tests
//! can take any disk a power cut may leave.
//!
//! Tests and `bin/torture` make a [`Sim`], give it to the engine as its [`Fs`], and then cut the
//! power ([`Sim::crash`]), fail calls ([`Sim::fail`]), stop everything after an operation
//! ([`Sim::stop_after`]) or damage files (`inspect.rs`). It never asks the operating system, so
//! that one thread with one seed gives one run.
//!
//! ```text
//! calls ──► world: power, faults, count, trace ──► disk: now │ pending │ durable ──► crash: a new disk
//! ```
//!
//! # The model
//! 1. A file has content that reads see and content that is durable, and so has a directory. Every
//!    change is *pending* from its call until a sync: **data** (the sectors of a write), a
//!    **length** (a write past the end makes one of each), or a **name** (create, mkdir, unlink,
//!    rename).
//! 2. `sync_data` makes the pending data and lengths of that file durable and no name, not even
//!    its own. `sync_dir` makes the pending names of that directory durable and nothing in the
//!    files. Nothing else ever becomes durable.
//! 3. A power cut keeps any of the pending changes and loses the others, whatever their order
//!    ([`Crash`]); those that are kept apply in their order, so the later of two has the last word.
//! 4. A sector (512 bytes, aligned) is wholly old or new: a write that covers part of one brings
//!    the whole sector as reads saw it after that write, with earlier writes to it. Sectors of one
//!    write may be kept apart ([`Fate::Torn`]).
//! 5. The durable length is the last one kept. Data beyond it is lost; what was not written below
//!    it reads as zeros. A kept cut loses what lay beyond it, a kept longer length does not bring
//!    it back. If the cut is lost and a later, longer length kept, the old bytes in between show.
//! 6. Names are atomic, a rename too: lost or kept as one. A file has at most one name: a kept
//!    rename gives the new name and takes any other, even where the create or an earlier rename
//!    was lost. What was kept in a directory whose own name was lost is lost.
//! 7. A rename between directories is durable once both are synced. A sync never makes a change of
//!    a name durable without the earlier ones of the same name or file.
//! 8. A failed sync marks clean, as Linux does: what was pending then never becomes durable, while
//!    reads go on seeing it. Only writing the same sectors, length or name again makes them pending
//!    again. A fault may also fail a call that took effect
//!    ([`Fault::landed`]).
//! 9. An unlinked file lives while it is open. Directories hold only what is made: no links.
//!
//! # Invariants
//! - [`Crash::KeepAll`] leaves what reads saw, unless a sync failed; [`Crash::DropAll`] exactly
//!   what is durable; the disk a crash leaves has nothing pending.
//! - An **operation** is a call that changed the disk, synced, or failed by a fault; it has a number
//!   from 0. Calls that only look, or that fail by themselves, are none.
//! - A file that was mapped is never written, shortened or extended again: the call panics, because
//!   it is an error of the engine. Mapping more than there is panics too.
//! - Copies share content until one changes it: a crash state costs the pages it changes.

mod calls;
mod content;
mod crash;
mod cut;
mod disk;
mod fault;
mod inspect;
mod nodes;
mod op;
#[cfg(test)]
mod tests;
mod world;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use crash::{Crash, Fate, PendingChange, PendingOp};
pub use cut::PowerCut;
pub use fault::{Errno, Fault};
pub use inspect::Seen;
pub use op::{Op, OpKind};

use super::Fs;
use disk::Disk;
use world::{Clock, SplitMix, World};

/// A process on a simulated machine. Clones are the same process; [`Sim::process`] is another one.
#[derive(Clone)]
pub struct Sim {
    /// Guards everything; the calls are short and none waits inside.
    world: Arc<Mutex<World>>,
    process: u32,
}

impl Sim {
    /// A machine with an empty disk (only `/` is there); the seed is for [`Fs::random`].
    pub fn new(seed: u64) -> Self {
        Sim::of(World::new(Disk::new(), Clock::default(), SplitMix(seed)))
    }

    fn of(world: World) -> Self {
        Sim { world: Arc::new(Mutex::new(world)), process: 0 }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A panic about a mapped file leaves everything whole: tests look at it afterwards.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready to be given to the engine.
    pub fn shared(&self) -> Arc<dyn Fs> {
        Arc::new(self.clone())
    }

    /// Another process on the same machine: the same disk, the same locks.
    pub fn process(&self) -> Sim {
        let mut world = self.world();
        let process = world.processes;
        world.processes += 1;
        Sim { world: Arc::clone(&self.world), process }
    }

    /// Kills this process, as `kill -9` does: its calls fail from now on, its locks and maps are
    /// gone, and the page cache keeps what it wrote.
    pub fn kill(&self) {
        let mut world = self.world();
        world.dead.insert(self.process);
        world.locks.release_all(self.process);
        world.maps.retain(|_, processes| {
            processes.remove(&self.process);
            !processes.is_empty()
        });
    }

    /// Another machine with the same disk, page cache, capacity, clock and generator, and no
    /// process, lock, map or fault. It has power, and counts and records operations anew.
    pub fn deep_copy(&self) -> Sim {
        let world = self.world();
        Sim::of(world.with(world.disk.clone()))
    }

    // Power cuts.

    /// The machine after a power cut now: one of the disks it may leave. This one goes on.
    pub fn crash(&self, choice: &Crash) -> Sim {
        let world = self.world();
        let fates = choice.fates(world.disk.pending.len());
        Sim::of(world.with(cut::after(&world.disk, &fates, cut::left)))
    }

    /// A power cut now, to look at many of the disks it may leave.
    pub fn power_cut(&self) -> PowerCut {
        let world = self.world();
        PowerCut::of(world.with(world.disk.clone()))
    }

    /// What is not durable, in the order of the operations.
    pub fn pending(&self) -> Vec<PendingOp> {
        self.world().disk.pending.iter().map(PendingOp::of).collect()
    }

    /// Turns the power off after operation `n - 1`: from then on every call fails, and nothing
    /// takes effect. `usize::MAX` turns it on again.
    pub fn stop_after(&self, n: usize) {
        self.world().stop = (n != usize::MAX).then_some(n);
    }

    /// How many operations there were.
    pub fn operations(&self) -> usize {
        self.world().operations
    }

    /// Begins recording operations, or ends it and forgets them. Recorded from the beginning,
    /// operation `n` is `trace()[n]`.
    pub fn record(&self, on: bool) {
        self.world().trace = on.then(Vec::new);
    }

    /// The operations recorded so far.
    pub fn trace(&self) -> Vec<Op> {
        self.world().trace.clone().unwrap_or_default()
    }

    // Faults.

    /// Makes a call fail that is still to come. Several faults count separately; where two are due
    /// at once the older one is taken.
    pub fn fail(&self, fault: Fault) {
        self.world().fail(fault);
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        self.world().heal();
    }

    /// How often a fault struck.
    pub fn fired(&self) -> u64 {
        self.world().fired()
    }

    /// How many calls of this kind there were, those that failed included.
    pub fn calls(&self, kind: OpKind) -> u64 {
        self.world().calls(kind)
    }

    /// Limits the bytes of all files that have a name or are open, by their lengths: writes beyond
    /// it are short, then fail with ENOSPC. Names take no room. `None` takes the limit away.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world().capacity = bytes;
    }

    /// The bytes that count against the capacity.
    pub fn used(&self) -> u64 {
        let world = self.world();
        world.disk.used(|id| world.handles.contains_key(&id))
    }

    // Time.

    /// Lets time pass. Otherwise each look at a clock takes a microsecond, nothing else any.
    pub fn advance(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.world().clock.advance(nanos);
    }

    /// Sets the wall clock forward or back; [`Fs::elapsed`] does not notice.
    pub fn jump(&self, nanos: i64) {
        self.world().clock.jump(nanos);
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sim(process {})", self.process)
    }
}
