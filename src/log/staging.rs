//! Staging: two buffers in memory that producers fill side by side while the other is written.
//!
//! One of the few files with `unsafe`: producers write to disjoint parts of a buffer without a
//! lock. Called by `append` (reserve, copy, publish) and by the writer (close, take, open).
//!
//! ```text
//! state:  | generation: 15 | closed: 1 | records: 24 | bytes / 8: 24 |
//! buffer: | carried tail of the last page | frame | frame | … | room |
//! ```
//!
//! One compare-and-swap on `state` gives a producer its bytes and its offsets. Invariants:
//! - the buffer of generation g is `buffers[g & 1]`; bytes below `state`'s are reserved, each by
//!   exactly one [`Reservation`] or carried over by the writer;
//! - only the [`Owner`], of which there is one, behind the writer's lock, closes and opens; it
//!   touches a buffer only after closing it and seeing `done` reach what was reserved;
//! - between reserve and publish there is no user code, no allocation and no lock, so closing
//!   waits for a copy at most (or for the scheduler to bring a producer back).
//!
//! A generation that wraps while a producer is stalled before its compare-and-swap is harmless:
//! the swap succeeds only on the state it read, and everything else is read after it.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};

/// Bytes of one buffer.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;
/// A buffer's room for frames; the rest lets the writer pad and round up to pages.
pub(crate) const ROOM_BYTES: usize = BUFFER_BYTES - 2 * 4096;

const UNIT: u64 = 8;
const COUNT_SHIFT: u32 = 24;
const CLOSED: u64 = 1 << 48;
const GENERATION_SHIFT: u32 = 49;
const FIELD: u64 = (1 << 24) - 1;

/// The two buffers, as producers see them.
#[derive(Debug)]
pub(crate) struct Staging {
    state: Line,
    buffers: [Buffer; 2],
}

/// A counter on a cache line of its own (two: processors fetch pairs), so that who changes it does
/// not take away what others only read.
#[derive(Debug)]
#[repr(align(128))]
struct Line(AtomicU64);

impl std::ops::Deref for Line {
    type Target = AtomicU64;
    fn deref(&self) -> &AtomicU64 {
        &self.0
    }
}

#[derive(Debug)]
struct Buffer {
    memory: Memory,
    /// Bytes published, the carried tail included. Release by producers, acquire by the owner:
    /// orders their copies before its reads.
    done: Line,
    /// Bytes that may be reserved. Written before the generation is opened, like the bases.
    room: AtomicU64,
    /// Log byte of the buffer's first byte.
    log_byte: AtomicU64,
    /// Offset of the first record of this generation.
    offset: AtomicU64,
}

/// The right to close and open buffers; one per [`Staging`].
#[derive(Debug)]
pub(crate) struct Owner {
    staging: Arc<Staging>,
}

/// Why nothing could be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// The buffer is closed just now.
    Closed,
    /// The frame does not fit what is left.
    Full,
}

/// A producer's part of a buffer, until it is published.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    buffer: &'a Buffer,
    start: usize,
    len: usize,
    /// Offset of the frame's first record.
    pub(crate) offset: u64,
    /// Log byte behind the frame: durable once everything below it is.
    pub(crate) end: u64,
    /// Whether it is the first of its generation.
    pub(crate) first: bool,
}

/// A closed buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    which: usize,
    /// Bytes in it, the carried tail included.
    pub(crate) len: usize,
    /// Records in it.
    pub(crate) records: u64,
}

/// What a newly opened buffer starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base {
    /// Log byte of the buffer's first byte.
    pub(crate) log_byte: u64,
    /// The next record's offset.
    pub(crate) offset: u64,
    /// Bytes that may be used, at most [`ROOM_BYTES`].
    pub(crate) room: usize,
}

impl Staging {
    /// Two closed, empty buffers.
    pub(crate) fn new() -> (Arc<Self>, Owner) {
        let buffer = || Buffer {
            memory: Memory::new(),
            done: Line(AtomicU64::new(0)),
            room: AtomicU64::new(0),
            log_byte: AtomicU64::new(0),
            offset: AtomicU64::new(0),
        };
        let staging = Arc::new(Staging {
            state: Line(AtomicU64::new(CLOSED)),
            buffers: [buffer(), buffer()],
        });
        (Arc::clone(&staging), Owner { staging })
    }

    /// Reserves `len` bytes (a multiple of 8) and `records` offsets.
    #[inline]
    pub(crate) fn reserve(&self, len: usize, records: u16) -> Result<Reservation<'_>, NoRoom> {
        debug_assert!((len as u64).is_multiple_of(UNIT));
        let mut state = self.state.load(Acquire);
        loop {
            if state & CLOSED != 0 {
                return Err(NoRoom::Closed);
            }
            let buffer = &self.buffers[which(state)];
            let start = position(state);
            if start + len > usize_of(buffer.room.load(Relaxed)) {
                return Err(NoRoom::Full);
            }
            let next = state + (u64::from(records) << COUNT_SHIFT) + len as u64 / UNIT;
            match self.state.compare_exchange_weak(state, next, AcqRel, Acquire) {
                Ok(_) => {
                    // The generation cannot be closed and reused before this reservation is
                    // published, so the bases belong to it.
                    return Ok(Reservation {
                        buffer,
                        start,
                        len,
                        offset: buffer.offset.load(Relaxed) + records_in(state),
                        end: buffer.log_byte.load(Relaxed) + (start + len) as u64,
                        first: records_in(state) == 0,
                    });
                }
                Err(now) => state = now,
            }
        }
    }

    /// Whether `len` bytes could be reserved.
    pub(crate) fn fits(&self, len: usize) -> bool {
        let state = self.state.load(Acquire);
        let room = usize_of(self.buffers[which(state)].room.load(Relaxed));
        state & CLOSED == 0 && position(state) + len <= room
    }

    /// Whether reservations are refused just now.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.load(Acquire) & CLOSED != 0
    }

    /// Log byte and offset behind everything reserved; exact only while the owner stands still.
    pub(crate) fn end(&self) -> (u64, u64) {
        loop {
            let state = self.state.load(Acquire);
            let buffer = &self.buffers[which(state)];
            let end = buffer.log_byte.load(Acquire) + position(state) as u64;
            let offset = buffer.offset.load(Acquire) + records_in(state);
            if self.state.load(Acquire) >> GENERATION_SHIFT == state >> GENERATION_SHIFT {
                return (end, offset);
            }
        }
    }
}

impl Reservation<'_> {
    /// The reserved bytes, to be filled.
    #[inline]
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the compare-and-swap gave [start, start + len) to this reservation alone, and
        // the owner leaves the buffer alone until `publish` has counted it as done.
        unsafe {
            std::slice::from_raw_parts_mut(self.buffer.memory.0.as_ptr().add(self.start), self.len)
        }
    }

    /// Hands the bytes over to the writer.
    #[inline]
    pub(crate) fn publish(self) {
        self.buffer.done.fetch_add(self.len as u64, Release);
    }
}

impl Owner {
    /// Stops reservations and waits for copies under way.
    pub(crate) fn close(&mut self) -> Closed {
        let state = self.staging.state.fetch_or(CLOSED, AcqRel);
        let closed =
            Closed { which: which(state), len: position(state), records: records_in(state) };
        let done = &self.staging.buffers[closed.which].done;
        let mut spins = 0u32;
        while usize_of(done.load(Acquire)) != closed.len {
            spins += 1;
            if spins < 200 {
                std::hint::spin_loop();
            } else {
                // A producer lost its processor between reserve and publish: let it run.
                std::thread::yield_now();
            }
        }
        closed
    }

    /// Lets reservations go on in the buffer that was closed.
    pub(crate) fn reopen(&mut self) {
        self.staging.state.fetch_and(!CLOSED, Release);
    }

    /// A closed buffer's bytes with the slack behind them.
    pub(crate) fn bytes(&mut self, closed: Closed) -> &mut [u8] {
        assert!(
            self.staging.is_closed() || which(self.staging.state.load(Acquire)) != closed.which
        );
        let buffer = &self.staging.buffers[closed.which];
        // SAFETY: `close` saw every reservation published (acquire), none can be made in a
        // closed or older generation, and `&mut self` keeps other uses by the owner out.
        unsafe { std::slice::from_raw_parts_mut(buffer.memory.0.as_ptr(), BUFFER_BYTES) }
    }

    /// The same bytes, to be written out.
    pub(crate) fn written_bytes(&self, closed: Closed) -> &[u8] {
        let buffer = &self.staging.buffers[closed.which];
        // SAFETY: as in `bytes`; a shared view of a buffer that nobody writes to.
        unsafe { std::slice::from_raw_parts(buffer.memory.0.as_ptr(), BUFFER_BYTES) }
    }

    /// Opens the other buffer, for the next generation: `head` are its first bytes (the carried
    /// tail, and frames placed by the writer itself, which took `records` offsets). It stays
    /// closed if `closed` says so.
    pub(crate) fn open(
        &mut self,
        base: Base,
        head: &[&[u8]],
        records: u64,
        closed: bool,
    ) -> Closed {
        let state = self.staging.state.load(Acquire);
        assert!(state & CLOSED != 0, "only a closed buffer is followed by another");
        let generation = ((state >> GENERATION_SHIFT) + 1) & 0x7fff;
        let next = usize_of(generation & 1);
        let buffer = &self.staging.buffers[next];
        let mut len = 0;
        for bytes in head {
            assert!(len + bytes.len() <= ROOM_BYTES);
            // SAFETY: the other buffer's generation was closed and written before its successor
            // was closed, no reservation on it is left, and the bounds were just checked.
            unsafe {
                let to =
                    std::slice::from_raw_parts_mut(buffer.memory.0.as_ptr().add(len), bytes.len());
                copy(to, bytes);
            }
            len += bytes.len();
        }
        assert!((len as u64).is_multiple_of(UNIT) && base.room <= ROOM_BYTES);
        buffer.done.store(len as u64, Relaxed);
        buffer.room.store(base.room as u64, Relaxed);
        buffer.log_byte.store(base.log_byte, Relaxed);
        buffer.offset.store(base.offset, Relaxed);
        let flag = if closed { CLOSED } else { 0 };
        let state =
            generation << GENERATION_SHIFT | flag | records << COUNT_SHIFT | (len as u64 / UNIT);
        // Release: a producer that reserves in this generation sees its bases and `done`.
        self.staging.state.store(state, Release);
        Closed { which: next, len, records }
    }
}

/// Copies in pieces of 2 KiB: larger copies fall to a fraction of the bandwidth when source and
/// destination lie at an unlucky distance within their pages.
#[inline]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    if from.len() <= 2048 {
        return to.copy_from_slice(from);
    }
    assert_eq!(to.len(), from.len());
    for (to, from) in to.chunks_mut(2048).zip(from.chunks(2048)) {
        to.copy_from_slice(from);
    }
}

fn which(state: u64) -> usize {
    usize_of(state >> GENERATION_SHIFT & 1)
}

fn position(state: u64) -> usize {
    usize_of((state & FIELD) * UNIT)
}

fn records_in(state: u64) -> u64 {
    state >> COUNT_SHIFT & FIELD
}

fn usize_of(n: u64) -> usize {
    usize::try_from(n).expect("bounded by the buffer")
}

/// Page-aligned memory of [`BUFFER_BYTES`].
#[derive(Debug)]
struct Memory(NonNull<u8>);

// SAFETY: plain memory; who may touch which part is the rule of the module.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    const LAYOUT: Layout = match Layout::from_size_align(BUFFER_BYTES, 4096) {
        Ok(layout) => layout,
        Err(_) => panic!("a constant layout"),
    };

    fn new() -> Self {
        // SAFETY: the layout has a size.
        let memory = unsafe { alloc_zeroed(Self::LAYOUT) };
        Memory(NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(Self::LAYOUT)))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, once.
        unsafe { dealloc(self.0.as_ptr(), Self::LAYOUT) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(room: usize) -> Base {
        Base { log_byte: 1000, offset: 50, room }
    }

    #[test]
    fn reservations_are_disjoint_and_dense() {
        let (staging, mut owner) = Staging::new();
        assert_eq!(staging.reserve(8, 1).unwrap_err(), NoRoom::Closed);
        owner.open(base(64), &[&[7; 8]], 0, false);
        let mut a = staging.reserve(16, 2).unwrap();
        let mut b = staging.reserve(8, 1).unwrap();
        assert_eq!((a.offset, a.end, a.first), (50, 1024, true));
        assert_eq!((b.offset, b.end, b.first), (52, 1032, false));
        a.bytes().fill(1);
        b.bytes().fill(2);
        a.publish();
        b.publish();
        assert_eq!(staging.reserve(40, 1).unwrap_err(), NoRoom::Full);
        let closed = owner.close();
        assert_eq!((closed.len, closed.records), (32, 3));
        assert_eq!(owner.bytes(closed)[..32], [[7; 8], [1; 8], [1; 8], [2; 8]].concat());
        assert_eq!(staging.reserve(8, 1).unwrap_err(), NoRoom::Closed);
        owner.reopen();
        staging.reserve(8, 1).unwrap().publish();
    }

    #[test]
    fn many_producers_lose_no_byte_and_no_offset() {
        let (staging, mut owner) = Staging::new();
        owner.open(Base { log_byte: 0, offset: 0, room: ROOM_BYTES }, &[], 0, false);
        let (producers, each) = (4, 20_000);
        let mut taken: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..producers)
                .map(|_| {
                    scope.spawn(|| {
                        let mut offsets = Vec::new();
                        while offsets.len() < each {
                            match staging.reserve(16, 1) {
                                Ok(mut room) => {
                                    let offset = room.offset;
                                    room.bytes()[..8].copy_from_slice(&offset.to_le_bytes());
                                    room.publish();
                                    offsets.push(offset);
                                }
                                Err(_) => std::thread::yield_now(),
                            }
                        }
                        offsets
                    })
                })
                .collect();
            // The writer's part: close, check, open the other, until everybody is through.
            let (mut offset, mut log_byte) = (0, 0);
            while offset < (producers * each) as u64 {
                let closed = owner.close();
                for (i, frame) in owner.bytes(closed)[..closed.len].chunks(16).enumerate() {
                    let found = u64::from_le_bytes(frame[..8].try_into().unwrap());
                    assert_eq!(found, offset + i as u64);
                }
                offset += closed.records;
                log_byte += closed.len as u64;
                owner.open(Base { log_byte, offset, room: ROOM_BYTES }, &[], 0, false);
                std::thread::yield_now();
            }
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        taken.sort_unstable();
        assert!(taken.iter().enumerate().all(|(i, &offset)| i as u64 == offset));
        assert_eq!(taken.len(), producers * each);
    }
}
