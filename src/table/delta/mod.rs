//! The delta: the part of the table that is in memory, with every version of its keys.
//!
//! The table's apply writes to the newest delta through its [`Writer`]; when that is full it is
//! frozen, which means that the writer is dropped and another delta begun, and its rows go to a
//! run by a [`Cursor`]. Views look into deltas from any thread, without a lock.
//!
//! ```text
//! key ── hash ──► slot ──► newest record ── prev ──► older record ── prev ──► none
//! ```
//!
//! Invariants:
//! - one writer, offsets rise: along `prev` they fall;
//! - a record is never changed or moved, and all versions are kept until the delta is dropped, so
//!   a reader that looks only below an offset sees the same for ever;
//! - at most half of the slots are taken: a search ends;
//! - keys are put in order when somebody asks for it, by who asks (see [`order`]), never by the
//!   writer;
//! - memory goes back to its [`Pool`] when the last `Arc` of a delta is dropped, cleared by who
//!   drops it.

mod arena;
mod cursor;
mod order;
#[cfg(test)]
mod tests;

pub(super) use cursor::Cursor;

use std::array;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::row::Version;
use crate::position::Offset;
use arena::{Address, Arena, Draft, MAX_ROOM, Pen, RECORD_BYTES, Record};
#[cfg(test)]
use order::Order;
use order::Orders;

/// Memories that a pool keeps for later: beside it there are the one that is filled and the one that
/// is being written.
const KEPT: usize = 1;
/// Fewest slots of a delta.
const MIN_SLOTS: usize = 64;
/// How far ahead of an insert its key's slot is fetched, and its newest record.
const SLOT_AHEAD: usize = 16;
const RECORD_AHEAD: usize = 8;

/// Recent records by key. Shared; see the module.
#[derive(Debug)]
pub(super) struct Delta {
    arena: Arena,
    pool: Arc<Pool>,
    /// Distinct keys. Relaxed: a count to pace by, which orders nothing.
    keys: AtomicUsize,
    orders: Orders,
}

/// The one right to write to a delta.
#[derive(Debug)]
pub(super) struct Writer {
    delta: Arc<Delta>,
    pen: Pen,
    keys: usize,
    /// The lowest offset that may come next.
    next: Offset,
}

/// One row to insert: what a record does to its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    pub(super) key: &'a [u8],
    pub(super) version: Version<'a>,
}

/// Memory for deltas of one size: kept when it is given back, because memory that was never
/// touched is slow.
#[derive(Debug)]
pub(super) struct Pool {
    /// Keeps hashes from being foreseen by who chooses keys.
    seed: u64,
    slots: usize,
    room: usize,
    /// Held while a memory is got ready: whoever needs one waits for that, and takes no third.
    warming: Mutex<()>,
    /// Guards the memories there are.
    kept: Mutex<Kept>,
}

/// Memories of the pool's size.
#[derive(Debug, Default)]
struct Kept {
    /// Cleared.
    free: Vec<Arena>,
    /// How many are in deltas.
    out: usize,
}

impl Pool {
    /// For deltas of `delta_bytes`, slots included. `seed` is random.
    pub(super) fn new(delta_bytes: usize, seed: u64) -> Arc<Self> {
        let slots = (delta_bytes / 4 / 8 + 1).next_power_of_two() / 2;
        let slots = slots.clamp(MIN_SLOTS, 1 << 31);
        let room = delta_bytes.saturating_sub(slots * 8).clamp(4096, MAX_ROOM);
        Arc::new(Pool { seed, slots, room, warming: Mutex::default(), kept: Mutex::default() })
    }

    /// Gets the next delta's memory ready if there is only one: for a thread in the background,
    /// because the first touch of memory may be slow, and apply would wait for it.
    pub(super) fn warm(&self) {
        let _held = self.warming.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.kept();
        // With two out, one of them is about to come back, or views keep it.
        if kept.free.is_empty() && kept.out <= KEPT {
            drop(kept);
            let mut arena = Arena::new(self.slots, self.room);
            arena.warm();
            self.kept().free.push(arena);
        }
    }

    /// Whether the next delta's memory is at hand.
    pub(super) fn is_ready(&self) -> bool {
        !self.kept().free.is_empty()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, need_bytes: usize, need_rows: usize) -> Arena {
        let room = Arena::FIRST + need_bytes + need_rows * RECORD_BYTES;
        let slots = (need_rows * 2).next_power_of_two();
        if room > self.room || slots > self.slots {
            return Arena::new(slots.max(self.slots), room.max(self.room));
        }
        let mut kept = self.kept();
        if kept.free.is_empty() {
            drop(kept);
            let _held = self.warming.lock().unwrap_or_else(PoisonError::into_inner);
            kept = self.kept();
        }
        kept.out += 1;
        kept.free.pop().unwrap_or_else(|| Arena::new(self.slots, self.room))
    }

    fn give_back(&self, mut arena: Arena) {
        if arena.is_none() || arena.room() != self.room || arena.slot_count() != self.slots {
            return;
        }
        arena.clear();
        let mut kept = self.kept();
        kept.out -= 1;
        if kept.free.len() < KEPT {
            kept.free.push(arena);
        }
    }
}

impl Delta {
    /// An empty delta of the pool's size, or a larger one when `need_rows` rows with keys and
    /// values of `need_bytes` in all would not fit that.
    pub(super) fn new(
        pool: &Arc<Pool>,
        need_bytes: usize,
        need_rows: usize,
    ) -> (Writer, Arc<Delta>) {
        let mut arena = pool.take(need_bytes, need_rows);
        let pen = arena.pen();
        let keys = AtomicUsize::new(0);
        let delta =
            Arc::new(Delta { arena, pool: Arc::clone(pool), keys, orders: Orders::default() });
        (Writer { delta: Arc::clone(&delta), pen, keys: 0, next: Offset(0) }, delta)
    }

    /// A delta without rows, for who shows runs alone.
    pub(super) fn empty() -> Arc<Delta> {
        Delta::new(&Pool::new(0, 0), 0, 0).1
    }

    /// Has the place where [`get`](Delta::get) will look brought near, for who has something to do
    /// meanwhile.
    #[inline]
    pub(super) fn prefetch(&self, key: &[u8]) {
        self.arena.prefetch_home(self.hash(key));
    }

    /// What the newest record below `below` did to `key`; `None` if none of them is about it.
    pub(super) fn get(&self, key: &[u8], below: Offset) -> Option<Version<'_>> {
        let newest = self.arena.find_to_read(self.hash(key), key)?;
        self.version(newest, below).map(|(_, record)| record.version)
    }

    /// Answers for many keys, in their order: [`get`](Delta::get), with the waits for memory
    /// side by side.
    pub(super) fn get_many<'a>(
        &'a self,
        keys: &[&[u8]],
        below: Offset,
        mut each: impl FnMut(usize, Option<Version<'a>>),
    ) {
        for (i, keys) in keys.chunks(SLOT_AHEAD).enumerate() {
            let mut hashes = [0; SLOT_AHEAD];
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = self.hash(key);
                self.arena.prefetch_home(*hash);
            }
            for &hash in &hashes[..keys.len()] {
                if let Some(record) = self.arena.guess(hash) {
                    self.arena.prefetch_record(record);
                }
            }
            for (j, (&hash, key)) in hashes.iter().zip(keys).enumerate() {
                let newest = self.arena.find_to_read(hash, key);
                let found = newest.and_then(|newest| self.version(newest, below));
                each(i * SLOT_AHEAD + j, found.map(|(_, record)| record.version));
            }
        }
    }

    /// Walks the keys that have a version below `below`, in order, from the first on or, with
    /// `reverse`, from the last. Puts keys in order if they are not yet: up to some 100 ms for
    /// a million.
    pub(super) fn cursor(self: &Arc<Self>, below: Offset, reverse: bool) -> Cursor {
        let order = self.orders.covering(&self.arena, below);
        Cursor::new(Arc::clone(self), order, below, reverse)
    }

    #[cfg(test)]
    /// The order of all keys there are now.
    pub(super) fn order(&self) -> Arc<Order> {
        self.orders.covering(&self.arena, Offset(u64::MAX))
    }

    /// How much of it is used, 0.0 to 1.0: of the records' room or of the slots, whichever is more.
    pub(super) fn fill(&self) -> f32 {
        let bytes = self.bytes() as f32 / self.arena.room() as f32;
        bytes.max(self.keys() as f32 * 2.0 / self.arena.slot_count() as f32)
    }

    /// Bytes of all records.
    pub(super) fn bytes(&self) -> usize {
        self.arena.published() - Arena::FIRST
    }

    /// Distinct keys.
    pub(super) fn keys(&self) -> usize {
        self.keys.load(Relaxed)
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.pool.seed)
    }

    #[inline]
    fn version(&self, newest: Address, below: Offset) -> Option<(Address, Record<'_>)> {
        let mut at = newest;
        loop {
            let record = self.arena.record(at);
            if record.version.offset < below {
                return Some((at, record));
            }
            at = record.prev?;
        }
    }
}

impl Drop for Delta {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::replace(&mut self.arena, Arena::none()));
    }
}

impl Writer {
    /// Whether `rows` rows with keys and values of `bytes` in all fit, even if every key is new.
    pub(super) fn fits(&self, bytes: usize, rows: usize) -> bool {
        let arena = &self.delta.arena;
        let keys = self.keys.saturating_add(rows);
        let end = rows
            .checked_mul(RECORD_BYTES)
            .and_then(|heads| heads.checked_add(bytes)?.checked_add(self.pen.len()));
        end.is_some_and(|end| end <= arena.room()) && keys <= arena.slot_count() / 2
    }

    #[cfg(test)]
    /// Puts a record's change in front of what its key had. Panics when it does not fit, or when
    /// `offset` is not above all before it.
    pub(super) fn insert(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        offset: Offset,
        timestamp: i64,
    ) {
        let hash = self.delta.hash(key);
        self.put(hash, &Change { key, version: Version { value, offset, timestamp } });
    }

    /// [`insert`](Writer::insert) for many: looks ahead, so that waits for memory overlap.
    pub(super) fn insert_all<'a>(&mut self, changes: impl IntoIterator<Item = Change<'a>>) {
        const NOTHING: Change<'_> =
            Change { key: &[], version: Version { value: None, offset: Offset(0), timestamp: 0 } };
        // A ring: change i is at i % SLOT_AHEAD from when it is seen until it is inserted.
        let mut ring: [(u64, Change<'a>); SLOT_AHEAD] = array::from_fn(|_| (0, NOTHING));
        let (mut seen, mut near, mut done) = (0, 0, 0);
        let mut changes = changes.into_iter().fuse();
        loop {
            let next = changes.next();
            if let Some(change) = next {
                let hash = self.delta.hash(change.key);
                self.delta.arena.prefetch_home(hash);
                ring[seen % SLOT_AHEAD] = (hash, change);
                seen += 1;
            }
            if near < seen && (next.is_none() || seen - near > SLOT_AHEAD - RECORD_AHEAD) {
                let arena = &self.delta.arena;
                if let Some(record) = arena.guess(ring[near % SLOT_AHEAD].0) {
                    arena.prefetch_key(record);
                }
                near += 1;
            }
            if done < seen && (next.is_none() || seen - done == SLOT_AHEAD) {
                let (hash, change) = ring[done % SLOT_AHEAD];
                self.put(hash, &change);
                done += 1;
            } else if next.is_none() {
                return;
            }
        }
    }

    #[inline]
    fn put(&mut self, hash: u64, change: &Change<'_>) {
        let Change { key, version } = *change;
        assert!(version.offset >= self.next, "expected offset {} or more", self.next);
        let delta = &*self.delta;
        let (slot, prev) = delta.arena.find(hash, key);
        if prev.is_none() {
            assert!(self.keys < delta.arena.slot_count() / 2, "half of the slots stay empty");
            self.keys += 1;
            delta.keys.store(self.keys, Relaxed);
        }
        delta.arena.append(&mut self.pen, hash, &Draft { prev, slot, key, version });
        self.next = version.offset.plus(1);
    }
}
