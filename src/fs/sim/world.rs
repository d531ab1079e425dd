//! Everything the processes on one simulated machine share: the disk, and what is done to it.
//!
//! Guarded by the one mutex of [`Sim`](super::Sim). Every call passes [`World::enter`], which says
//! whether there is power and whether a fault is due; every operation that happened passes
//! [`World::act`], which counts and records it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::disk::{Disk, Id};
use super::fault::{Errno, Fault};
use super::op::{Op, OpKind};

/// Nanoseconds that every look at a clock takes.
const TICK_NANOS: u64 = 1_000;
/// 2023-11-14T22:13:20Z.
const START_NANOS: i64 = 1_700_000_000_000_000_000;

#[derive(Debug)]
pub(super) struct World {
    pub(super) disk: Disk,
    pub(super) capacity: Option<u64>,
    pub(super) clock: Clock,
    pub(super) random: SplitMix,
    pub(super) locks: Locks,
    /// Open handles of every file: an unlinked file lives until the last is closed.
    pub(super) handles: BTreeMap<Id, usize>,
    /// Which processes ever mapped a file.
    pub(super) maps: BTreeMap<Id, BTreeSet<u32>>,
    pub(super) processes: u32,
    pub(super) dead: BTreeSet<u32>,
    pub(super) operations: usize,
    pub(super) stop: Option<usize>,
    pub(super) trace: Option<Vec<Op>>,
    /// In the order of their kinds.
    calls: [u64; OpKind::ALL.len()],
    faults: Vec<Armed>,
    fired: u64,
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    seen: u64,
}

/// What `act` is about, borrowed: the trace may be off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) kind: OpKind,
    pub(super) path: &'a Path,
    pub(super) to: Option<&'a Path>,
    pub(super) byte: u64,
    pub(super) len: u64,
}

impl<'a> Asked<'a> {
    pub(super) fn new(kind: OpKind, path: &'a Path) -> Self {
        Asked { kind, path, to: None, byte: 0, len: 0 }
    }
}

impl World {
    pub(super) fn new(disk: Disk, clock: Clock, random: SplitMix) -> Self {
        World {
            disk,
            capacity: None,
            clock,
            random,
            locks: Locks::default(),
            handles: BTreeMap::new(),
            maps: BTreeMap::new(),
            processes: 1,
            dead: BTreeSet::new(),
            operations: 0,
            stop: None,
            trace: None,
            calls: [0; OpKind::ALL.len()],
            faults: Vec::new(),
            fired: 0,
        }
    }

    /// The same machine with another disk, nothing running and nothing going to fail.
    pub(super) fn with(&self, disk: Disk) -> Self {
        let mut world = World::new(disk, self.clock, self.random);
        world.capacity = self.capacity;
        world
    }

    /// An error if the process is dead or the power is off.
    pub(super) fn alive(&self, process: u32) -> io::Result<()> {
        if self.stop.is_some_and(|stop| self.operations >= stop) {
            return Err(io::Error::other("power is off"));
        }
        if self.dead.contains(&process) {
            return Err(io::Error::other("the process was killed"));
        }
        Ok(())
    }

    /// At the door of every call: counts it and picks the fault that is due.
    pub(super) fn enter(&mut self, process: u32, asked: Asked<'_>) -> io::Result<Option<Fault>> {
        self.alive(process)?;
        self.calls[asked.kind as usize] += 1;
        let mut due = None;
        for (number, armed) in self.faults.iter_mut().enumerate() {
            if armed.fault.matches(asked.kind, asked.path, asked.to) {
                armed.seen += 1;
                if due.is_none() && armed.seen > armed.fault.nth {
                    due = Some(number);
                }
            }
        }
        let Some(number) = due else { return Ok(None) };
        self.fired += 1;
        let fault = match self.faults[number].fault.sticky {
            true => self.faults[number].fault.clone(),
            false => self.faults.remove(number).fault,
        };
        Ok(Some(fault))
    }

    /// Carries an operation out unless the fault forbids it, then counts and records it. What
    /// fails by itself, without effect, is no operation.
    pub(super) fn act<T>(
        &mut self,
        asked: Asked<'_>,
        fault: Option<Fault>,
        effect: impl FnOnce(&mut World) -> io::Result<T>,
    ) -> io::Result<T> {
        let result = match fault {
            Some(fault) => {
                if fault.landed {
                    effect(self)?;
                }
                Err(fault.error.into())
            }
            None => Ok(effect(self)?),
        };
        self.operations += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(Op {
                kind: asked.kind,
                path: asked.path.to_path_buf(),
                to: asked.to.map(Path::to_path_buf),
                byte: asked.byte,
                len: asked.len,
                failed: result.is_err(),
            });
        }
        result
    }

    /// How much of `len` bytes at `byte` the disk has room for; an error if none of it.
    pub(super) fn room(&self, id: Id, byte: u64, len: u64) -> io::Result<u64> {
        let Some(capacity) = self.capacity else { return Ok(len) };
        let has = self.disk.file(id)?.now.len();
        if byte.saturating_add(len) <= has {
            return Ok(len);
        }
        let used = self.disk.used(|id| self.handles.contains_key(&id));
        let end = has + capacity.saturating_sub(used);
        match end.saturating_sub(byte).min(len) {
            0 if len > 0 => Err(Errno::NoSpace.into()),
            room => Ok(room),
        }
    }

    pub(super) fn fail(&mut self, fault: Fault) {
        self.faults.push(Armed { fault, seen: 0 });
    }

    pub(super) fn heal(&mut self) {
        self.faults.clear();
    }

    pub(super) fn fired(&self) -> u64 {
        self.fired
    }

    pub(super) fn calls(&self, kind: OpKind) -> u64 {
        self.calls[kind as usize]
    }

    pub(super) fn sweep(&mut self) {
        let handles = &self.handles;
        for gone in self.disk.sweep(|id| handles.contains_key(&id)) {
            self.maps.remove(&gone);
        }
    }
}

/// Advisory locks, of inodes as `flock` has them: two of one process exclude each other too.
#[derive(Debug, Default)]
pub(super) struct Locks {
    held: BTreeMap<u64, Held>,
    next: u64,
}

#[derive(Debug)]
struct Held {
    node: Id,
    exclusive: bool,
    process: u32,
}

impl Locks {
    pub(super) fn take(&mut self, node: Id, exclusive: bool, process: u32) -> Option<u64> {
        let excludes = |held: &Held| held.node == node && (exclusive || held.exclusive);
        if self.held.values().any(excludes) {
            return None;
        }
        self.next += 1;
        self.held.insert(self.next, Held { node, exclusive, process });
        Some(self.next)
    }

    pub(super) fn release(&mut self, lock: u64) {
        self.held.remove(&lock);
    }

    pub(super) fn release_all(&mut self, process: u32) {
        self.held.retain(|_, held| held.process != process);
    }
}

/// Two clocks that move a fixed step at every look, and otherwise only when told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    elapsed: u64,
    /// How far the wall clock was set from the steady one.
    jumped: i64,
}

impl Clock {
    pub(super) fn elapsed(&mut self) -> u64 {
        self.advance(TICK_NANOS);
        self.elapsed
    }

    pub(super) fn now(&mut self) -> i64 {
        START_NANOS.saturating_add_unsigned(self.elapsed()).saturating_add(self.jumped)
    }

    pub(super) fn advance(&mut self, nanos: u64) {
        self.elapsed = self.elapsed.saturating_add(nanos);
    }

    pub(super) fn jump(&mut self, nanos: i64) {
        self.jumped = self.jumped.saturating_add(nanos);
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitMix(pub(super) u64);

impl SplitMix {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
}
