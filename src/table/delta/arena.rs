//! A delta's memory: an index of slots, and records that are only ever appended.
//!
//! One of the few files with `unsafe`: readers look at published bytes without a lock while the
//! writer appends behind them. Called by the delta alone.
//!
//! ```text
//! memory: | slots, 8 bytes each, a power of two | unused 8 | record | record | … | room |
//! slot:   | tag 32: upper half of the key's hash | address 32 of its newest record |    0: empty
//! record: | prev 4 | key len 4 | value len 4 | slot 4 | offset 8 | timestamp 8 | key | value | pad to 8
//!           ^ address of the key's older record, 0: none
//! ```
//!
//! An address counts units of 8 bytes from the end of the slots; 0 is never one. The top bit of
//! the key's length says that the record is a delete. Invariants:
//! - there is one [`Pen`] to an arena, and only its holder appends and publishes;
//! - an [`Address`] leaves this file only for a record whose bytes are all written: to the holder
//!   of the pen at once, to others through a slot or through `published`, which are stored with
//!   Release behind the bytes and loaded with Acquire; or through the `prev` of such a record;
//! - published bytes are not written again until [`Arena::clear`], which needs `&mut`: nobody
//!   holds a record then;
//! - a slot, once taken, stays its key's, and its address only rises;
//! - clearing touches only the pages of slots that were used, so that a small delta stays small.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::num::NonZeroU32;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use memmap2::MmapMut;

use super::super::row::Version;
use crate::fs::prefetch;
use crate::position::Offset;

/// What a record costs beside its key and value: its head, and at most 7 bytes of padding.
pub(super) const RECORD_BYTES: usize = size_of::<Head>() + 8;
/// Slots to a page that is cleared as one.
const PAGE_SLOTS: usize = 4096 / 8;
const HUGE_BYTES: usize = 2 << 20;
/// Below so many bytes it is not worth a map: two calls to the system, and two faults for each page.
const MAPPED_BYTES: usize = 128 << 10;
/// Up to so many bytes, slots lie in small pages.
const SMALL_PAGES_BYTES: usize = 64 << 20;
const UNIT: usize = 8;
/// As much of a record is fetched at once; the processor goes on by itself where one is longer.
const RECORD_NEAR_LINES: usize = 4;
const DELETE: u32 = 1 << 31;
/// The farthest an address reaches.
pub(super) const MAX_ROOM: usize =
    if usize::BITS > 35 { UNIT.wrapping_shl(32) } else { isize::MAX as usize };

/// A record's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(NonZeroU32);

impl Address {
    fn byte(self) -> usize {
        self.0.get() as usize * UNIT
    }
}

/// The first bytes of a record, as they lie in memory.
#[repr(C)]
struct Head {
    prev: u32,
    key_len: u32,
    value_len: u32,
    slot: u32,
    offset: u64,
    timestamp: i64,
}
const _: () = assert!(size_of::<Head>() == 32 && align_of::<Head>() == UNIT);

/// A record as it is read.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    /// The key's older record.
    pub(super) prev: Option<Address>,
    /// The key's slot.
    pub(super) slot: u32,
    pub(super) key: &'a [u8],
    pub(super) version: Version<'a>,
}

/// What an append takes; `key` and the value of `version` are copied.
pub(super) type Draft<'a> = Record<'a>;

/// The one right to append to an arena.
#[derive(Debug)]
pub(super) struct Pen {
    /// Address of the records it writes to.
    arena: usize,
    /// Bytes of records, the unused unit in front included.
    len: usize,
}

impl Pen {
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

pub(super) struct Arena {
    slots: NonNull<AtomicU64>,
    /// How many; a power of two.
    slot_count: usize,
    /// One less.
    mask: u32,
    records: NonNull<u8>,
    /// Bytes at `records`.
    room: usize,
    /// Bytes of records that may be read. Release: what lies before is written.
    published: AtomicU64,
    /// A bit for each page of slots: something was put there. Relaxed: read by who clears, who
    /// has the arena to itself.
    touched: Box<[AtomicU64]>,
    /// None for [`Arena::none`].
    memory: Option<Memory>,
}

/// Owns the bytes of an arena: zeros at first, aligned to 8.
enum Memory {
    /// From the system, as they are touched.
    Map(MmapMut),
    Heap(NonNull<u8>, Layout),
}

impl Memory {
    fn new(bytes: usize) -> Self {
        let layout =
            Layout::from_size_align(bytes, align_of::<AtomicU64>()).expect("at most the room");
        if bytes >= MAPPED_BYTES {
            return Memory::Map(
                MmapMut::map_anon(bytes).unwrap_or_else(|_| handle_alloc_error(layout)),
            );
        }
        // SAFETY: there are slots, so that it is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        Memory::Heap(NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout)), layout)
    }

    fn start(&mut self) -> *mut u8 {
        match self {
            Memory::Map(map) => map.as_mut_ptr(),
            Memory::Heap(start, _) => start.as_ptr(),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Memory::Heap(start, layout) = *self {
            // SAFETY: allocated with this layout, and its owner goes.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
    }
}

// SAFETY: plain memory; who may touch which part, and when, is the rule of the module.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Memory for `slot_count` slots, a power of two, and `room` bytes of records. Unless there is little of it, it is
    /// taken from the system as it is touched.
    pub(super) fn new(slot_count: usize, room: usize) -> Self {
        assert!(slot_count.is_power_of_two() && slot_count <= 1 << 31 && room <= MAX_ROOM);
        let bytes = slot_count * 8 + room;
        // Small ones are not worth the alignment.
        let slack = if bytes >= 2 * HUGE_BYTES { HUGE_BYTES } else { 0 };
        let mut memory = Memory::new(bytes + slack);
        let skip = if slack > 0 { memory.start().align_offset(HUGE_BYTES) } else { 0 };
        assert!(skip <= slack);
        // Only a wish: without huge pages everything works, more slowly. Records fill theirs. Slots
        // are hit at random, so that a few keys would touch all pages there are: small ones, unless
        // there are so many that walking the page tables costs more than that.
        #[cfg(target_os = "linux")]
        if let Memory::Map(map) = &memory
            && slack > 0
        {
            let small = if slot_count * 8 <= SMALL_PAGES_BYTES { slot_count * 8 } else { 0 };
            let _ = map.advise_range(memmap2::Advice::HugePage, skip + small, bytes - small);
        }
        let start = memory.start();
        // SAFETY: `skip + bytes` lie in the memory; `skip` is at most the slack.
        let slots = unsafe { start.add(skip) };
        // SAFETY: as above.
        let records = unsafe { slots.add(slot_count * 8) };
        assert!(slots.cast::<AtomicU64>().is_aligned());
        Arena {
            slots: NonNull::new(slots.cast()).expect("memory has an address"),
            slot_count,
            mask: u32::try_from(slot_count - 1).expect("at most 2^31 slots"),
            records: NonNull::new(records).expect("memory has an address"),
            room,
            published: AtomicU64::new(UNIT as u64),
            touched: (0..slot_count.div_ceil(PAGE_SLOTS * 64)).map(|_| AtomicU64::new(0)).collect(),
            memory: Some(memory),
        }
    }

    /// Stands where an arena was taken away.
    pub(super) fn none() -> Self {
        Arena {
            slots: NonNull::dangling(),
            slot_count: 0,
            mask: 0,
            records: NonNull::<Head>::dangling().cast(),
            room: 0,
            published: AtomicU64::new(0),
            touched: Box::default(),
            memory: None,
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.memory.is_none()
    }

    pub(super) fn slot_count(&self) -> usize {
        self.slot_count
    }

    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Bytes of records that may be read.
    pub(super) fn published(&self) -> usize {
        usize::try_from(self.published.load(Acquire)).expect("at most the room")
    }

    /// Makes it empty again: zeros in the slots that were used. The bytes of records stay.
    pub(super) fn clear(&mut self) {
        for (i, word) in self.touched.iter_mut().enumerate() {
            let mut bits = std::mem::take(word.get_mut());
            while bits != 0 {
                let page = i * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let from = page * PAGE_SLOTS;
                let len = PAGE_SLOTS.min(self.slot_count - from);
                // SAFETY: inside the slots, and `&mut self` says that nobody else looks.
                unsafe { ptr::write_bytes(self.slots.as_ptr().add(from), 0, len) };
            }
        }
        *self.published.get_mut() = UNIT as u64;
    }

    /// Touches every page: the system may take long to bring one, and whoever appends later would
    /// wait for it. Slots get huge pages, too, since they are all touched now.
    pub(super) fn warm(&mut self) {
        assert!(*self.published.get_mut() == UNIT as u64, "expected an arena without records");
        let bytes = self.slot_count * 8 + self.room;
        #[cfg(target_os = "linux")]
        if let Some(Memory::Map(map)) = &self.memory {
            let skip = self.slots.addr().get() - map.as_ptr().addr();
            let _ = map.advise_range(memmap2::Advice::HugePage, skip, self.slot_count * 8);
        }
        for at in (0..bytes).step_by(4096) {
            // SAFETY: inside the memory, and `&mut self` says that nobody else looks. The byte is zero,
            // or belongs to a record that nobody can reach any more: no slot is taken.
            unsafe { self.slots.as_ptr().cast::<u8>().add(at).write_volatile(0) };
        }
    }

    /// The pen of an arena that is new or cleared.
    pub(super) fn pen(&mut self) -> Pen {
        assert!(*self.published.get_mut() == UNIT as u64, "expected an arena without records");
        Pen { arena: self.records.addr().get(), len: UNIT }
    }

    fn slots(&self) -> &[AtomicU64] {
        // SAFETY: they lie in the memory, aligned, zeros from the start on; only `clear` writes them
        // other than through atomics, with `&mut self`.
        unsafe { std::slice::from_raw_parts(self.slots.as_ptr(), self.slot_count) }
    }

    /// The slot of the key that hashes to `hash`, and the address of its newest record; or the
    /// empty slot where it belongs.
    #[inline]
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> (u32, Option<Address>) {
        self.search(hash, key, |_| ())
    }

    /// The newest record of the key that hashes to `hash`, for who will read it all.
    #[inline]
    pub(super) fn find_to_read(&self, hash: u64, key: &[u8]) -> Option<Address> {
        // Of a record, the first line is waited for; the others come at the same time.
        self.search(hash, key, |found| self.prefetch_record(found)).1
    }

    /// Ends because half of the slots are empty. `near` is told which record is looked at next.
    #[inline]
    fn search(&self, hash: u64, key: &[u8], near: impl Fn(Address)) -> (u32, Option<Address>) {
        let slots = self.slots();
        let mut index = self.home(hash);
        loop {
            let word = slots[index as usize].load(Acquire);
            let Some(address) = address(word) else { return (index, None) };
            if word >> 32 == hash >> 32 {
                near(address);
                if self.record(address).key == key {
                    return (index, Some(address));
                }
            }
            index = self.behind(index);
        }
    }

    /// The newest record in the slot a key's search starts at, whosever it is.
    #[inline]
    pub(super) fn guess(&self, hash: u64) -> Option<Address> {
        self.newest(self.home(hash))
    }

    /// The newest record of the key whose slot this is.
    #[inline]
    pub(super) fn newest(&self, slot: u32) -> Option<Address> {
        address(self.slots()[slot as usize].load(Acquire))
    }

    #[inline]
    fn home(&self, hash: u64) -> u32 {
        (hash & 0xffff_ffff) as u32 & self.mask
    }

    #[inline]
    fn behind(&self, slot: u32) -> u32 {
        (slot + 1) & self.mask
    }

    /// Reads a record of this arena.
    #[inline]
    pub(super) fn record(&self, at: Address) -> Record<'_> {
        let start = at.byte();
        // Our own addresses never fail these, but they are what keeps a mistake from reading on.
        assert!(start + size_of::<Head>() <= self.room);
        // SAFETY: in bounds, aligned as every record is, and published: written before, and not
        // written again while `self` is shared.
        let head = unsafe { self.records.add(start).cast::<Head>().as_ref() };
        let (key_len, value_len) = ((head.key_len & !DELETE) as usize, head.value_len as usize);
        let bytes = start + size_of::<Head>();
        assert!(bytes + key_len + value_len <= self.room);
        // SAFETY: as above.
        let (key, value) = unsafe {
            let key = self.records.as_ptr().add(bytes);
            (
                std::slice::from_raw_parts(key, key_len),
                std::slice::from_raw_parts(key.add(key_len), value_len),
            )
        };
        let version = Version {
            value: (head.key_len & DELETE == 0).then_some(value),
            offset: Offset(head.offset),
            timestamp: head.timestamp,
        };
        Record { prev: NonZeroU32::new(head.prev).map(Address), slot: head.slot, key, version }
    }

    /// The record at byte `at` of the records, and where the next one starts; `None` from `end` on,
    /// which [`published`](Arena::published) has told.
    #[inline]
    pub(super) fn walk(&self, at: usize, end: usize) -> Option<(Address, Record<'_>, usize)> {
        if at >= end {
            return None;
        }
        let address = unit(at);
        let record = self.record(address);
        let bytes = record.key.len() + record.version.value.map_or(0, <[u8]>::len);
        let bytes = (size_of::<Head>() + bytes).next_multiple_of(UNIT);
        // Records of one size are common. Where they are not, a line in vain.
        prefetch(self.records.as_ptr().wrapping_add(at + 16 * bytes));
        Some((address, record, at + bytes))
    }

    /// Where [`walk`](Arena::walk) starts.
    pub(super) const FIRST: usize = UNIT;

    /// Appends a record and publishes it as the newest of its key, whose hash is `hash`. The
    /// caller has found out the slot, and that there is room.
    #[inline]
    pub(super) fn append(&self, pen: &mut Pen, hash: u64, draft: &Draft<'_>) {
        let Draft { prev, slot, key, version } = *draft;
        let value = version.value.unwrap_or_default();
        let start = pen.len;
        let end = (start + size_of::<Head>() + key.len() + value.len()).next_multiple_of(UNIT);
        assert!(pen.arena == self.records.addr().get(), "a pen writes to its own arena");
        assert!(
            end <= self.room,
            "expected room for {} bytes at {start} of {}",
            end - start,
            self.room
        );
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).ok().filter(|len| len & DELETE == 0);
        let delete = if version.value.is_none() { DELETE } else { 0 };
        let head = Head {
            prev: prev.map_or(0, |Address(unit)| unit.get()),
            key_len: len(key).expect("a key is shorter than 2 GiB") | delete,
            value_len: len(value).expect("a value is shorter than 2 GiB"),
            slot,
            offset: version.offset.0,
            timestamp: version.timestamp,
        };
        // SAFETY: in bounds, aligned, and behind everything published: nobody else looks there, and
        // the pen, which is borrowed uniquely, is the only one.
        unsafe {
            let at = self.records.as_ptr().add(start);
            at.cast::<Head>().write(head);
            let at = at.add(size_of::<Head>());
            ptr::copy_nonoverlapping(key.as_ptr(), at, key.len());
            ptr::copy_nonoverlapping(value.as_ptr(), at.add(key.len()), value.len());
        }
        pen.len = end;
        let word = (hash >> 32 << 32) | u64::from(unit(start).0.get());
        self.slots()[slot as usize].store(word, Release);
        // Behind the slot: whoever comes upon the record by walking finds its key's slot taken.
        self.published.store(end as u64, Release);
        if prev.is_none() {
            let page = slot as usize / PAGE_SLOTS;
            let (word, bit) = (&self.touched[page / 64], 1 << (page % 64));
            let bits = word.load(Relaxed);
            if bits & bit == 0 {
                word.store(bits | bit, Relaxed);
            }
        }
    }

    /// Has the slot where the search for `hash` starts brought near.
    #[inline]
    pub(super) fn prefetch_home(&self, hash: u64) {
        self.prefetch_slot(self.home(hash));
    }

    #[inline]
    pub(super) fn prefetch_slot(&self, slot: u32) {
        prefetch(self.slots.as_ptr().wrapping_add(slot as usize).cast());
    }

    /// Has a record's head and its key brought near.
    #[inline]
    pub(super) fn prefetch_key(&self, at: Address) {
        let at = self.records.as_ptr().wrapping_add(at.byte());
        prefetch(at);
        prefetch(at.wrapping_add(size_of::<Head>() + 15));
    }

    /// The same, and the beginning of its value.
    #[inline]
    pub(super) fn prefetch_record(&self, at: Address) {
        let at = self.records.as_ptr().wrapping_add(at.byte());
        for line in 0..RECORD_NEAR_LINES {
            prefetch(at.wrapping_add(64 * line));
        }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("slots", &self.slot_count)
            .field("room", &self.room)
            .field("published", &self.published())
            .finish_non_exhaustive()
    }
}

#[inline]
fn address(word: u64) -> Option<Address> {
    NonZeroU32::new((word & 0xffff_ffff) as u32).map(Address)
}

#[inline]
fn unit(byte: usize) -> Address {
    let unit = u32::try_from(byte / UNIT).ok().and_then(NonZeroU32::new);
    Address(unit.expect("records start behind the first unit and below the farthest"))
}
