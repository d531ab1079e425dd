//! The memory of a delta: slots and an arena of records, in one anonymous map.
//!
//! One of the few files with `unsafe`: one thread appends records while others read them, without
//! a lock. Called by `delta` alone.
//!
//! ```text
//! | slots: AtomicU64 … | arena: record | record | … | room |
//!                                                  ^ end
//! ```
//!
//! Contract: bytes below `end` are written and never change again, those at or behind it belong to
//! the one [`Appender`]. It raises `end` (release) after it has written; readers look at `end`
//! (acquire) before they look at bytes. Memory is used again only by whoever owns the [`Memory`]
//! alone. Pages stay mapped as long as the table lives: fresh ones are slow.

#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};

use memmap2::MmapMut;

/// Slots and room for records.
pub(super) struct Memory {
    map: MmapMut,
    /// Slots at the front.
    slots: usize,
}

impl Memory {
    /// Zeros: `slots` of them and `bytes` for records. The operating system gives pages as they
    /// are touched. Without memory the process ends, as with any allocation.
    pub(super) fn new(slots: usize, bytes: usize) -> Self {
        let len = slots * 8 + bytes;
        let map = MmapMut::map_anon(len).unwrap_or_else(|_| {
            std::alloc::handle_alloc_error(
                std::alloc::Layout::from_size_align(len, 8).expect("a size that can be mapped"),
            )
        });
        Memory { map, slots }
    }

    /// How many slots it has.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Bytes for records.
    pub(super) fn room(&self) -> usize {
        self.map.len() - self.slots * 8
    }

    /// Empties the first `slots`; records need no emptying.
    pub(super) fn clear(&mut self, slots: usize) {
        self.map[..slots * 8].fill(0);
    }
}

/// Memory that is being filled, or was.
pub(super) struct Arena {
    /// `None` once it was taken back.
    memory: Option<Memory>,
    base: NonNull<u8>,
    slots: usize,
    room: usize,
    /// Behind the last record; counted from the arena's start.
    end: AtomicUsize,
}

// SAFETY: `base` points into `memory`, which the arena owns and which does not move; what is
// shared through it follows the module's contract.
unsafe impl Send for Arena {}
// SAFETY: as above; slots are atomics, records are read only below `end`.
unsafe impl Sync for Arena {}

/// The right to append, of which there is one.
#[derive(Debug)]
pub(super) struct Appender(Arc<Arena>);

impl Arena {
    /// Uses memory whose slots are all empty. Address 0 is never used.
    pub(super) fn new(mut memory: Memory) -> (Appender, Arc<Arena>) {
        let base = NonNull::new(memory.map.as_mut_ptr()).expect("a map is somewhere");
        let (slots, room) = (memory.slots(), memory.room());
        let end = AtomicUsize::new(8);
        let arena = Arc::new(Arena { memory: Some(memory), base, slots, room, end });
        (Appender(Arc::clone(&arena)), arena)
    }

    /// All slots.
    #[inline]
    pub(super) fn slots(&self) -> &[AtomicU64] {
        // SAFETY: the front of the map is `slots` words, aligned to a page, initialised with zeros
        // and touched as atomics alone while the arena lives.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.slots) }
    }

    /// Behind the last record.
    #[inline]
    pub(super) fn end(&self) -> usize {
        self.end.load(Acquire)
    }

    /// Bytes for records.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// `len` bytes at `at`, which were appended.
    #[inline]
    pub(super) fn bytes(&self, at: usize, len: usize) -> &[u8] {
        assert!(at <= self.end() && len <= self.end() - at, "only what was appended is read");
        // SAFETY: within the map; below `end` bytes are initialised and never change while the
        // arena lives.
        unsafe { std::slice::from_raw_parts(self.start().add(at), len) }
    }

    /// Has the CPU fetch what lies at `at`.
    #[inline]
    pub(super) fn prefetch(&self, at: usize) {
        prefetch(self.start().wrapping_add(at));
    }

    /// Has the CPU fetch a slot.
    #[inline]
    pub(super) fn prefetch_slot(&self, slot: usize) {
        prefetch(self.base.as_ptr().wrapping_add(slot * 8));
    }

    #[inline]
    fn start(&self) -> *mut u8 {
        self.base.as_ptr().wrapping_add(self.slots * 8)
    }

    /// Takes the memory back; nobody else has the arena.
    pub(super) fn take(&mut self) -> Option<Memory> {
        self.memory.take()
    }
}

impl Appender {
    /// Appends `pieces` one after another, and zeros up to the next multiple of 8; returns where.
    /// The caller has seen to it that there is room.
    #[inline]
    pub(super) fn append(&mut self, pieces: [&[u8]; 3]) -> usize {
        let arena = &*self.0;
        let at = arena.end.load(Relaxed);
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let end = at + len.next_multiple_of(8);
        assert!(end <= arena.room, "room was asked for before");
        let mut to = arena.start().wrapping_add(at);
        for piece in pieces {
            // SAFETY: [at, end) lies in the map behind `end`: nobody reads it, and this is the one
            // who writes. A piece is borrowed from elsewhere, so the two do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), to, piece.len()) };
            to = to.wrapping_add(piece.len());
        }
        arena.end.store(end, Release);
        at
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} of {} bytes)", self.end(), self.room)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} slots, {} bytes)", self.slots, self.room())
    }
}

#[inline]
fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing: any address will do.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
