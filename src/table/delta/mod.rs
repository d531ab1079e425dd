//! The delta: recent keys in memory, with every version since it was begun.
//!
//! Filled by apply through the one [`Writer`]; read by views and by the writing of runs, from other
//! threads, without a lock.
//!
//! ```text
//! slot:    | tag: the upper half of the key's hash | address of its newest record / 8 |
//! record:  | u32 older version / 8 | u32 key length, delete | u32 value length | u32 tag |
//!          | u64 offset | i64 timestamp | key | value | zeros to 8 |
//! ```
//!
//! A slot is found by the tag's upper bits and linear probing; so a larger table can be filled from
//! a smaller one without looking at keys. Invariants:
//! - slots are at most half full, and only ever change to a newer record of the same key;
//! - a record is whole before a slot names it, and never changes afterwards; a reader that sees
//!   a slot sees the record and all older ones;
//! - versions of a key are linked from new to old, their offsets fall: a reader takes the first one
//!   below its own offset.

mod arena;
mod cursor;
mod order;
#[cfg(test)]
mod tests;

pub(super) use cursor::Cursor;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::position::Offset;

use super::row::Version;
use arena::{Appender, Arena, Memory};
use order::Ordering;

/// Bytes of a record before its key.
const HEAD_BYTES: usize = 32;
/// The bit of the key's length that says delete.
const DELETE: u32 = 1 << 31;
/// The fewest slots.
const MIN_SLOTS: usize = 1 << 10;
/// A table of slots is followed by one this many times as large.
const GROWTH: usize = 4;
/// Memories kept for later.
const SPARE: usize = 2;

/// Memory that deltas take and give back.
#[derive(Debug)]
pub(super) struct Pool {
    bytes: usize,
    /// Chosen by chance: nobody can choose keys that collide.
    seed: u64,
    spare: Mutex<Vec<Memory>>,
    /// How many slots the last delta came to use.
    slots: AtomicUsize,
}

impl Pool {
    /// For deltas of `bytes` each, slots included.
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), bytes);
        Arc::new(Pool { bytes, seed, spare: Mutex::default(), slots: AtomicUsize::new(MIN_SLOTS) })
    }

    /// Memory for at least `bytes` of records and `keys`; of the usual size if that is enough.
    fn take(&self, bytes: usize, keys: usize) -> Memory {
        let usual = (self.bytes / 4 / 8).max(MIN_SLOTS);
        let most = largest(usual).max(largest_for(keys));
        let room = (self.bytes - self.bytes / 4).max(bytes + 8).next_multiple_of(4096);
        let slots = all_tables(most);
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |memory: &Memory| memory.slots() >= slots && memory.room() >= room;
        match spare.iter().position(fits) {
            Some(i) => spare.swap_remove(i),
            None => Memory::new(slots, room),
        }
    }

    fn give(&self, mut memory: Memory, slots: usize) {
        let usual = all_tables(largest((self.bytes / 4 / 8).max(MIN_SLOTS)));
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE && memory.slots() == usual {
            drop(spare);
            // Not under the lock: this may take milliseconds.
            memory.clear(slots);
            spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            spare.push(memory);
        }
    }
}

/// The largest table that fits `slots`, with all smaller ones before it.
fn largest(slots: usize) -> usize {
    let mut table = MIN_SLOTS;
    while all_tables(table * GROWTH) <= slots {
        table *= GROWTH;
    }
    table
}

/// The table that `keys` need.
fn largest_for(keys: usize) -> usize {
    let mut table = MIN_SLOTS;
    while table < keys.saturating_mul(2) {
        table *= GROWTH;
    }
    table
}

/// Slots of a table and of all smaller ones, which lie before it.
fn all_tables(table: usize) -> usize {
    let mut sum = 0;
    let mut size = MIN_SLOTS;
    while size <= table {
        sum += size;
        size *= GROWTH;
    }
    sum
}

/// Recent keys. Shared; read without a lock.
#[derive(Debug)]
pub(super) struct Delta {
    arena: Arc<Arena>,
    pool: Arc<Pool>,
    /// Slots of the table in use, a power of two; it lies behind all smaller ones.
    table: AtomicUsize,
    keys: AtomicU64,
    /// Guards the order of keys, which readers make when they need it.
    ordering: Mutex<Ordering>,
}

impl Drop for Delta {
    fn drop(&mut self) {
        let table = self.table.load(Relaxed);
        self.pool.slots.store(table, Relaxed);
        // Whoever appends has let go before: it holds the delta, too.
        if let Some(memory) = Arc::get_mut(&mut self.arena).and_then(Arena::take) {
            self.pool.give(memory, all_tables(table));
        }
    }
}

/// The right to fill a delta.
#[derive(Debug)]
pub(super) struct Writer {
    // Before the delta: its memory is given back when nobody appends any more.
    appender: Appender,
    delta: Arc<Delta>,
    /// The largest table there is room for.
    most: usize,
}

/// A change of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    pub(super) key: &'a [u8],
    /// `None` for a delete.
    pub(super) value: Option<&'a [u8]>,
    pub(super) offset: Offset,
    pub(super) timestamp: i64,
}

/// A record, decoded.
#[derive(Clone, Copy, Debug)]
struct Record<'a> {
    /// The version before; 0 if there is none.
    older: u32,
    tag: u32,
    key: &'a [u8],
    version: Version<'a>,
    /// Where the next one starts.
    end: usize,
}

impl Delta {
    /// An empty one, of the pool's size, or larger if a batch of `bytes` (keys and values) and
    /// `rows` needs it.
    pub(super) fn new(pool: &Arc<Pool>, bytes: usize, rows: usize) -> (Writer, Arc<Delta>) {
        let memory = pool.take(bytes + rows * (HEAD_BYTES + 8), rows);
        let mut most = MIN_SLOTS;
        while all_tables(most * GROWTH) <= memory.slots() {
            most *= GROWTH;
        }
        let (appender, arena) = Arena::new(memory);
        let table = pool.slots.load(Relaxed).min(most);
        let delta = Arc::new(Delta {
            arena,
            pool: Arc::clone(pool),
            table: AtomicUsize::new(table),
            keys: AtomicU64::new(0),
            ordering: Mutex::default(),
        });
        (Writer { appender, delta: Arc::clone(&delta), most }, delta)
    }

    /// The newest version of `key` below an offset.
    #[inline]
    pub(super) fn get(&self, key: &[u8], below: Offset) -> Option<Version<'_>> {
        let found = self.find(key, self.tag(key))?;
        self.version(found, below)
    }

    /// Keys that have a version.
    pub(super) fn keys(&self) -> u64 {
        self.keys.load(Relaxed)
    }

    /// Bytes of records.
    pub(super) fn bytes(&self) -> u64 {
        self.arena.end() as u64
    }

    /// How full it is, from 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a fraction, to pace by")]
    pub(super) fn fill(&self) -> f32 {
        self.arena.end() as f32 / self.arena.room() as f32
    }

    #[inline]
    fn tag(&self, key: &[u8]) -> u32 {
        split(xxh3_64_with_seed(key, self.pool.seed)).0
    }

    /// The table in use: its slots, and where to look first for a tag.
    #[inline]
    fn slots(&self, table: usize) -> &[AtomicU64] {
        let first = all_tables_before(table);
        &self.arena.slots()[first..first + table]
    }

    /// The address, in units of 8, of the newest record of `key`.
    #[inline]
    fn find(&self, key: &[u8], tag: u32) -> Option<u32> {
        let table = self.table.load(Acquire);
        let slots = self.slots(table);
        let mut at = home(tag, table);
        loop {
            let slot = slots[at].load(Acquire);
            if slot == 0 {
                return None;
            }
            let (found, address) = split(slot);
            if found == tag && self.key(address) == key {
                return Some(address);
            }
            at = (at + 1) & (table - 1);
        }
    }

    /// The newest version at or before `address` that is below an offset.
    #[inline]
    fn version(&self, address: u32, below: Offset) -> Option<Version<'_>> {
        let mut address = address;
        while address != 0 {
            let record = self.record(address);
            if record.version.offset < below {
                return Some(record.version);
            }
            address = record.older;
        }
        None
    }

    #[inline]
    fn key(&self, address: u32) -> &[u8] {
        self.record(address).key
    }

    #[inline]
    fn record(&self, address: u32) -> Record<'_> {
        let at = address as usize * 8;
        let head = self.arena.bytes(at, HEAD_BYTES);
        let word = |i: usize| {
            u32::from_le_bytes(*head[4 * i..].first_chunk().expect("the head is long enough"))
        };
        let long = |i: usize| {
            u64::from_le_bytes(*head[8 * i..].first_chunk().expect("the head is long enough"))
        };
        let key_len = (word(1) & !DELETE) as usize;
        let value_len = word(2) as usize;
        let bytes = self.arena.bytes(at + HEAD_BYTES, key_len + value_len);
        let (key, value) = bytes.split_at(key_len);
        Record {
            older: word(0),
            tag: word(3),
            key,
            version: Version {
                value: (word(1) & DELETE == 0).then_some(value),
                offset: Offset(long(2)),
                timestamp: long(3).cast_signed(),
            },
            end: at + (HEAD_BYTES + key_len + value_len).next_multiple_of(8),
        }
    }
}

/// Slots of all tables smaller than `table`.
#[inline]
fn all_tables_before(table: usize) -> usize {
    // A geometric series.
    (table - MIN_SLOTS) / (GROWTH - 1)
}

/// Where to look first for a tag: its upper bits.
#[inline]
fn home(tag: u32, table: usize) -> usize {
    (tag >> (32 - table.trailing_zeros())) as usize
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "both halves")]
fn split(slot: u64) -> (u32, u32) {
    ((slot >> 32) as u32, slot as u32)
}

#[inline]
fn join(tag: u32, address: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(address)
}

impl Writer {
    /// Whether a batch of `bytes` (keys and values) and `rows` fits for certain.
    pub(super) fn fits(&self, bytes: usize, rows: usize) -> bool {
        let arena = &self.delta.arena;
        let need = bytes + rows * (HEAD_BYTES + 8);
        let keys = usize::try_from(self.delta.keys()).unwrap_or(usize::MAX).saturating_add(rows);
        need <= arena.room() - arena.end() && keys <= self.most / 2
    }

    /// Inserts changes, whose offsets rise. Each is prepared some steps ahead, so that memory is
    /// there when it is needed.
    pub(super) fn insert<'a>(&mut self, mut changes: impl Iterator<Item = Change<'a>>) {
        const AHEAD: usize = 16;
        const HALF: usize = AHEAD / 2;
        let mut ring: [Option<(Change<'a>, u32)>; AHEAD] = [None; AHEAD];
        let mut pulled = 0_usize;
        let mut inserted = 0_usize;
        loop {
            match changes.next() {
                Some(change) => {
                    let tag = self.delta.tag(change.key);
                    let table = self.delta.table.load(Relaxed);
                    let slot = all_tables_before(table) + home(tag, table);
                    self.delta.arena.prefetch_slot(slot);
                    ring[pulled % AHEAD] = Some((change, tag));
                    pulled += 1;
                    if pulled - inserted > HALF
                        && let Some((_, tag)) = ring[(pulled - 1 - HALF) % AHEAD]
                    {
                        let slot = self.delta.slots(table)[home(tag, table)].load(Relaxed);
                        if slot != 0 {
                            self.delta.arena.prefetch(split(slot).1 as usize * 8);
                        }
                    }
                    if pulled - inserted < AHEAD {
                        continue;
                    }
                }
                None if inserted == pulled => return,
                None => {}
            }
            if let Some((change, tag)) = ring[inserted % AHEAD].take() {
                self.insert_one(&change, tag);
            }
            inserted += 1;
        }
    }

    fn insert_one(&mut self, change: &Change<'_>, tag: u32) {
        let delta = &*self.delta;
        let mut table = delta.table.load(Relaxed);
        if delta.keys.load(Relaxed) >= table as u64 / 2 && table < self.most {
            self.grow(table);
            table *= GROWTH;
        }
        let delta = &*self.delta;
        let slots = delta.slots(table);
        let mut at = home(tag, table);
        let older = loop {
            let slot = slots[at].load(Relaxed);
            if slot == 0 {
                break 0;
            }
            let (found, address) = split(slot);
            if found == tag && delta.key(address) == change.key {
                break address;
            }
            at = (at + 1) & (table - 1);
        };
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("within a frame's limit");
        let value = change.value.unwrap_or_default();
        let delete = if change.value.is_none() { DELETE } else { 0 };
        let mut head = [0; HEAD_BYTES];
        for (i, word) in [older, len(change.key) | delete, len(value), tag].into_iter().enumerate()
        {
            head[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
        }
        head[16..24].copy_from_slice(&change.offset.0.to_le_bytes());
        head[24..].copy_from_slice(&change.timestamp.to_le_bytes());
        let address = self.appender.append([&head, change.key, value]);
        let address = u32::try_from(address / 8).expect("a delta is below 32 GiB");
        let delta = &*self.delta;
        // Whoever sees the slot sees the record.
        delta.slots(table)[at].store(join(tag, address), Release);
        if older == 0 {
            delta.keys.store(delta.keys.load(Relaxed) + 1, Relaxed);
        }
    }

    /// Fills the next larger table from the one in use; the tags are enough for that.
    fn grow(&self, table: usize) {
        let delta = &*self.delta;
        let larger = table * GROWTH;
        let slots = delta.slots(larger);
        for slot in delta.slots(table) {
            let slot = slot.load(Relaxed);
            if slot == 0 {
                continue;
            }
            let mut at = home(split(slot).0, larger);
            while slots[at].load(Relaxed) != 0 {
                at = (at + 1) & (larger - 1);
            }
            slots[at].store(slot, Relaxed);
        }
        // Whoever looks into the larger table sees what is in it. Those who still look into the
        // smaller one find all that was there when they began.
        delta.table.store(larger, Release);
    }
}
