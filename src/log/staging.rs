//! Staging: a ring of buffers in memory that producers fill side by side while others are written.
//!
//! One of the few files with `unsafe`: producers write to disjoint parts of a buffer without a
//! lock. Called by `append` (reserve, copy, publish), by `intake` (close, open) and by the writer
//! (stamp, write).
//!
//! ```text
//! state:  | records: 24 | generation: 7 | closed: 1 | bytes / 8: 32 |
//! buffer: | unused | carried tail of the last page | frame | frame | … | room | slack |
//!                  ^ origin, a whole page                                 ^ ROOM_BYTES
//! ```
//!
//! One addition to `state` gives a producer its bytes and its offsets. Additions are never taken
//! back, so one that does not fit leaves `state` behind the room, where every later one fails
//! too, until the buffer is closed and the next opened. Invariants:
//! - the buffer of generation g is `buffers[g % BUFFERS]`; frames end at [`ROOM_BYTES`] at the
//!   latest, and a buffer with less room starts further in, so that whether an addition fits can
//!   be told from `state` alone;
//! - additions that fail never spill over the field of bytes: whoever sees it half full sets it
//!   back behind the room;
//! - the first addition that does not fit knows where the frames end, and says so in `sealed`
//!   before anything else;
//! - only the [`Gate`], of which there is one, closes and opens. It opens a buffer only after what
//!   was in it is written: its [`Taken`] has been dropped;
//! - a frame belongs to its producer until it is published, then to the holder of the buffer's
//!   `Taken`, as do the carried tail before all frames and the slack behind them;
//! - between reserve and publish there is no user code, no allocation and no lock, so the writer
//!   waits for a copy at most (or for the scheduler to bring a producer back).

#![allow(unsafe_code)]

use std::alloc::{Layout, handle_alloc_error};
#[cfg(feature = "sim")]
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use memmap2::MmapMut;

use crate::frame::HEADER_BYTES;
use crate::segment::PAGE_BYTES;

use super::primitives::{AtomicBool, AtomicU8, AtomicU64, Traced, pause};

/// Buffers of the ring: one is filled while the others wait for the writer.
pub(crate) const BUFFERS: usize = if MODEL { 2 } else { 4 };
/// Bytes of one buffer.
pub(crate) const BUFFER_BYTES: usize = if MODEL { 4 * PAGE } else { 1 << 20 };
/// Where frames end at the latest; the rest lets the writer pad and round up to pages.
pub(crate) const ROOM_BYTES: usize = BUFFER_BYTES - 2 * PAGE;
/// A page, in memory.
pub(crate) const PAGE: usize = if MODEL { 32 } else { 4096 };
const _: () = assert!(MODEL || PAGE as u64 == PAGE_BYTES);
/// A model tries every order of steps: it has room for a few frames only.
const MODEL: bool = cfg!(all(test, loom));

const UNIT: u64 = 8;
const CLOSED: u64 = 1 << 32;
const GENERATION_SHIFT: u32 = 33;
const GENERATIONS: u64 = 1 << 7;
const RECORDS_SHIFT: u32 = 40;
/// Half of the bytes' field: as many additions of a whole room as fit the other half, some 16,000,
/// would have to come between two steps of the thread that reins them in.
const FAR: u64 = 1 << 31;

/// The ring, as producers see it.
#[derive(Debug)]
pub(crate) struct Staging {
    state: Line,
    buffers: [Buffer; BUFFERS],
}

/// A counter on a cache line of its own (two: processors fetch pairs), so that who changes it does
/// not take away what others only read.
#[derive(Debug)]
#[repr(align(128))]
struct Line(AtomicU64);

#[derive(Debug)]
#[repr(align(128))]
struct Buffer {
    memory: Memory,
    /// One for each [`HEADER_BYTES`], which at most one frame starts in: set when it is
    /// published (release), reset by the writer (acquire).
    published: Box<[AtomicU8]>,
    /// Log byte of the buffer's first byte, modulo 2^64. Written before the generation is opened.
    log_byte: AtomicU64,
    /// Offset of the first record of this generation; likewise.
    offset: AtomicU64,
    /// `state` where its frames end, from the first addition that did not fit; or [`UNKNOWN`].
    sealed: AtomicU64,
    /// Whether a [`Taken`] of it exists.
    taken: AtomicBool,
}

/// Nothing a state can be: it would be closed.
const UNKNOWN: u64 = u64::MAX;

/// The right to close and open buffers; one per [`Staging`].
#[derive(Debug)]
pub(crate) struct Gate {
    staging: Arc<Staging>,
    /// While closed: where the frames end.
    end: u64,
    /// Where the open generation starts.
    origin: usize,
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
}

/// The frames of a closed generation, to be stamped and written; the buffer is used again
/// after it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    staging: Arc<Staging>,
    which: usize,
    /// Where the carried tail starts.
    pub(crate) origin: usize,
    /// Where the frames end.
    pub(crate) end: usize,
}

/// What a newly opened buffer starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base {
    /// Log byte of the first carried byte.
    pub(crate) log_byte: u64,
    /// The next record's offset.
    pub(crate) offset: u64,
    /// Bytes of the last page's tail, which the writer puts there.
    pub(crate) carried: usize,
    /// Bytes that may be used, the carried ones included: whole pages, at most [`ROOM_BYTES`].
    /// Less than is carried when a large frame has filled the segment.
    pub(crate) room: usize,
}

impl Staging {
    /// Empty buffers, closed.
    pub(crate) fn new() -> (Arc<Self>, Gate) {
        let buffer = |memory| Buffer {
            memory,
            published: (0..BUFFER_BYTES / HEADER_BYTES).map(|_| AtomicU8::new(0)).collect(),
            log_byte: AtomicU64::new(0),
            offset: AtomicU64::new(0),
            sealed: AtomicU64::new(UNKNOWN),
            taken: AtomicBool::new(false),
        };
        let staging = Arc::new(Staging {
            state: Line(AtomicU64::new(CLOSED)),
            buffers: Memory::ring().map(buffer),
        });
        (Arc::clone(&staging), Gate { staging, end: 0, origin: 0 })
    }

    /// Reserves `len` bytes (a multiple of 8, at most [`ROOM_BYTES`]) and `records` offsets.
    #[inline]
    pub(crate) fn reserve(&self, len: usize, records: u16) -> Result<Reservation<'_>, NoRoom> {
        debug_assert!((len as u64).is_multiple_of(UNIT) && len <= ROOM_BYTES);
        let more = (u64::from(records) << RECORDS_SHIFT) | (len as u64 / UNIT);
        let state = self.state.0.fetch_add(more, AcqRel);
        if state & CLOSED != 0 {
            self.rein_in(state);
            return Err(NoRoom::Closed);
        }
        let start = position(state);
        let buffer = &self.buffers[which(state)];
        if start + len > ROOM_BYTES {
            if start <= ROOM_BYTES {
                // Whoever closes waits for this, so the generation is still this one.
                buffer.sealed.store(state, Release);
            }
            self.rein_in(state);
            return Err(NoRoom::Full);
        }
        prefetch_to_write(buffer.memory.0.as_ptr().wrapping_add(start), len);
        // The buffer cannot be used again before this is published, so the bases belong to it.
        Ok(Reservation {
            buffer,
            start,
            len,
            offset: buffer.offset.load(Relaxed) + records_in(state),
            end: buffer.log_byte.load(Relaxed).wrapping_add((start + len) as u64),
        })
    }

    /// Brings the bytes back to just behind the room when additions that failed have carried them
    /// far: on a disk that is full, or does not answer, callers may go on trying for hours, and the
    /// field would spill over into the flag and the generation. Closed, nobody reads it; open,
    /// every place behind the room says the same.
    #[inline]
    fn rein_in(&self, state: u64) {
        if state & (CLOSED - 1) >= FAR {
            self.rein_in_now();
        }
    }

    #[cold]
    fn rein_in_now(&self) {
        let behind = (ROOM_BYTES as u64 + UNIT) / UNIT;
        let mut state = self.state.0.load(Acquire);
        while state & (CLOSED - 1) >= FAR {
            let near = state & (CLOSED | (GENERATIONS - 1) << GENERATION_SHIFT) | behind;
            match self.state.0.compare_exchange(state, near, AcqRel, Acquire) {
                Ok(_) => return,
                Err(now) => state = now,
            }
        }
    }

    /// Whether `len` bytes could be reserved.
    pub(crate) fn fits(&self, len: usize) -> bool {
        let state = self.state.0.load(Acquire);
        state & CLOSED == 0 && position(state) + len <= ROOM_BYTES
    }

    /// A number that grows with every reservation in the open buffer, by its bytes.
    pub(crate) fn progress(&self) -> u64 {
        position(self.state.0.load(Acquire)) as u64
    }

    /// Whether reservations are refused just now.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.state.0.load(Acquire) & CLOSED != 0
    }
}

impl Reservation<'_> {
    /// The reserved bytes, to be filled.
    #[inline]
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        self.buffer.memory.1.touch(self.start, self.start + self.len);
        // SAFETY: the addition gave [start, start + len) to this reservation alone, within the
        // buffer, and nobody else touches them until `publish`.
        unsafe {
            std::slice::from_raw_parts_mut(self.buffer.memory.0.as_ptr().add(self.start), self.len)
        }
    }

    /// Hands the bytes over to the writer.
    #[inline]
    pub(crate) fn publish(self) {
        self.buffer.published[self.start / HEADER_BYTES].store(1, Release);
    }
}

impl Gate {
    /// Stops reservations; everything reserved so far stays.
    pub(crate) fn close(&mut self) {
        let state = self.staging.state.0.fetch_or(CLOSED, AcqRel);
        if state & CLOSED == 0 {
            self.end = self.exact(state);
        }
    }

    /// Lets reservations go on where they stopped.
    pub(crate) fn reopen(&mut self) {
        if self.staging.is_closed() {
            self.open(0);
        }
    }

    /// Log byte and offset behind everything reserved so far.
    pub(crate) fn end(&self) -> (u64, u64) {
        let state = self.state();
        let buffer = self.buffer(state);
        (
            buffer.log_byte.load(Relaxed).wrapping_add(position(state) as u64),
            buffer.offset.load(Relaxed) + records_in(state),
        )
    }

    /// Bytes of the open generation, the carried ones included.
    pub(crate) fn len(&self) -> usize {
        position(self.state()) - self.origin
    }

    /// Records reserved in the open generation.
    pub(crate) fn records(&self) -> u64 {
        records_in(self.state())
    }

    /// Takes the closed generation and readies the next; it stays closed.
    pub(crate) fn advance(&mut self, base: Base) -> Taken {
        let taken = Taken {
            staging: Arc::clone(&self.staging),
            which: which(self.end),
            origin: self.origin,
            end: position(self.end),
        };
        self.buffer(self.end).taken.store(true, Relaxed);
        self.start(base);
        taken
    }

    /// Readies the next generation; it stays closed.
    pub(crate) fn start(&mut self, base: Base) {
        assert!(self.staging.is_closed(), "only a closed buffer is followed by another");
        assert!(base.room <= ROOM_BYTES && base.carried < PAGE);
        let generation = (self.end >> GENERATION_SHIFT).wrapping_add(1) % GENERATIONS;
        let origin = ROOM_BYTES - base.room;
        self.origin = origin;
        self.end = (generation << GENERATION_SHIFT) | ((origin + base.carried) as u64 / UNIT);
        let buffer = self.buffer(self.end);
        assert!(!buffer.taken.load(Acquire), "a buffer is used again only after it was written");
        buffer.log_byte.store(base.log_byte.wrapping_sub(origin as u64), Relaxed);
        buffer.offset.store(base.offset, Relaxed);
        self.open(CLOSED);
    }

    /// Sets the state anew: what failed while it was closed has added to it.
    fn open(&self, flag: u64) {
        // What is carried may leave no room at all; then no addition will tell where frames end.
        let full = position(self.end) > ROOM_BYTES;
        let sealed = if full { self.end } else { UNKNOWN };
        self.buffer(self.end).sealed.store(sealed, Relaxed);
        // Release: a producer that reserves in this generation sees its bases.
        self.staging.state.0.store(self.end | flag, Release);
    }

    /// Puts a frame behind everything reserved, while closed. The caller has seen that it fits.
    pub(crate) fn place(&mut self, len: usize, records: u64, fill: impl FnOnce(&mut [u8])) {
        assert!(self.staging.is_closed());
        let start = position(self.end);
        assert!(len.is_multiple_of(8) && start + len <= BUFFER_BYTES);
        let buffer = self.buffer(self.end);
        let mut room = Reservation { buffer, start, len, offset: 0, end: 0 };
        fill(room.bytes());
        room.publish();
        self.end += (records << RECORDS_SHIFT) | (len as u64 / UNIT);
    }

    fn state(&self) -> u64 {
        let state = self.staging.state.0.load(Acquire);
        if state & CLOSED == 0 { self.exact(state) } else { self.end }
    }

    /// `state`, or where its generation's frames end if additions went on behind the room.
    fn exact(&self, state: u64) -> u64 {
        if position(state) <= ROOM_BYTES {
            return state;
        }
        let sealed = &self.buffer(state).sealed;
        let mut spins = 0;
        loop {
            match sealed.load(Acquire) {
                UNKNOWN => pause(&mut spins),
                end => return end,
            }
        }
    }

    fn buffer(&self, state: u64) -> &Buffer {
        &self.staging.buffers[which(state)]
    }
}

impl Taken {
    /// The frame at `at`, as soon as it is published. To be asked for once.
    #[inline]
    pub(crate) fn frame(&mut self, at: usize) -> &mut [u8] {
        assert!(at + HEADER_BYTES <= self.end);
        let buffer = &self.staging.buffers[self.which];
        let published = &buffer.published[at / HEADER_BYTES];
        let mut spins = 0;
        while published.load(Acquire) == 0 {
            pause(&mut spins);
        }
        published.store(0, Relaxed);
        buffer.memory.1.touch(at, at + HEADER_BYTES);
        // SAFETY: published (acquire), so its producer is done with it, and the caller's frames
        // follow one another. A frame starts with its length, which `end` bounds.
        unsafe {
            let start = buffer.memory.0.as_ptr().add(at);
            prefetch(start);
            let len = usize_of(u64::from(u32::from_le_bytes(*start.cast::<[u8; 4]>())));
            let len = len.next_multiple_of(8);
            assert!(at + len <= self.end);
            buffer.memory.1.touch(at, at + len);
            std::slice::from_raw_parts_mut(start, len)
        }
    }

    /// Puts the carried tail where it belongs.
    pub(crate) fn carry(&mut self, tail: &[u8]) {
        assert!(self.origin + tail.len() <= self.end);
        self.traced().touch(self.origin, self.origin + tail.len());
        // SAFETY: within the buffer; reservations lie behind the carried bytes, which are the
        // holder's.
        let to =
            unsafe { std::slice::from_raw_parts_mut(self.memory().add(self.origin), tail.len()) };
        to.copy_from_slice(tail);
    }

    /// Zeros from the end of the frames to the next whole page. For when all are published.
    pub(crate) fn pad(&mut self) {
        let padded = self.end.next_multiple_of(PAGE);
        self.traced().touch(self.end, padded);
        // SAFETY: behind all frames, within the buffer's slack; nobody else's.
        unsafe {
            let end = self.memory().add(self.end);
            std::ptr::write_bytes(end, 0, padded - self.end);
        }
    }

    /// Whole pages from the origin to the end. For when all frames are published and padded.
    pub(crate) fn pages(&self) -> &[u8] {
        let padded = self.end.next_multiple_of(PAGE);
        self.traced().look(self.origin, padded);
        // SAFETY: every frame was published and handed out by `frame` before, the carried tail was
        // put there, and nobody else touches a closed generation.
        unsafe { std::slice::from_raw_parts(self.memory().add(self.origin), padded - self.origin) }
    }

    fn memory(&self) -> *mut u8 {
        self.staging.buffers[self.which].memory.0.as_ptr()
    }

    fn traced(&self) -> &Traced {
        &self.staging.buffers[self.which].memory.1
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.staging.buffers[self.which].taken.store(false, Release);
    }
}

/// Asks for what follows soon. The frames come from other processors' caches, and where the next
/// one starts is known only when this one is here.
#[inline]
fn prefetch(frame: *const u8) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..3 {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is harmless; this one is not even dereferenced.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(frame.wrapping_add(1024 + line * 64).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = frame;
}

/// Asks for the lines that the next reservations will write. They are in the writer's cache, and
/// the next reservation, an atomic operation, waits until all that was stored before it has them.
#[inline]
fn prefetch_to_write(frame: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..len.min(256).div_ceil(64) {
        // SAFETY: a prefetch of any address is harmless; this one is not even dereferenced.
        unsafe {
            std::arch::asm!(
                "prefetchw [{}]",
                in(reg) frame.wrapping_add(1024 + line * 64),
                options(nostack, readonly, preserves_flags)
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (frame, len);
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
    usize_of(state >> GENERATION_SHIFT) % BUFFERS
}

fn position(state: u64) -> usize {
    usize_of((state & (CLOSED - 1)) * UNIT)
}

fn records_in(state: u64) -> u64 {
    state >> RECORDS_SHIFT
}

fn usize_of(n: u64) -> usize {
    usize::try_from(n).expect("bounded by the buffer")
}

const _: () = assert!(GENERATIONS.is_multiple_of(BUFFERS as u64));

/// Page-aligned memory of [`BUFFER_BYTES`]: zeros, taken from the system as they are touched. A log
/// that is opened to be read, or for a few records, costs the few pages it uses. The ring is one
/// map, for the same reason: each map costs two calls to the system.
#[derive(Debug)]
struct Memory(
    NonNull<u8>,
    Traced,
    #[expect(dead_code, reason = "owns what the pointer points to")] Arc<Ring>,
);

// SAFETY: plain memory; who may touch which part is the rule of the module.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// The memory of all buffers.
    fn ring() -> [Self; BUFFERS] {
        let mut ring = Ring::new();
        let start = ring.start();
        let ring = Arc::new(ring);
        std::array::from_fn(|i| {
            // SAFETY: within the map, which is that many buffers long.
            let start = unsafe { start.add(i * BUFFER_BYTES) };
            Memory(start, Traced::new(BUFFER_BYTES), Arc::clone(&ring))
        })
    }
}

/// The map of all buffers.
#[derive(Debug)]
struct Ring(Option<MmapMut>);

impl Ring {
    fn new() -> Self {
        #[cfg(feature = "sim")]
        if let Some(spare) = SPARE.with_borrow_mut(Vec::pop) {
            return Ring(Some(spare));
        }
        let map = MmapMut::map_anon(BUFFERS * BUFFER_BYTES)
            .unwrap_or_else(|_| handle_alloc_error(Layout::new::<[u8; BUFFERS * BUFFER_BYTES]>()));
        Ring(Some(map))
    }

    fn start(&mut self) -> NonNull<u8> {
        let map = self.0.as_mut().expect("only dropping takes it");
        NonNull::new(map.as_mut_ptr()).expect("a map has an address")
    }
}

// Tests on simulated disks open logs by the thousand, and a map costs as much as the rest of opening one: the next log
// of a thread gets one that an earlier log left, as dirty as a buffer is that was written before.
#[cfg(feature = "sim")]
thread_local! {
    static SPARE: RefCell<Vec<MmapMut>> = const { RefCell::new(Vec::new()) };
}

#[cfg(feature = "sim")]
impl Drop for Ring {
    fn drop(&mut self) {
        // A thread that ends gives it to nobody.
        let _ = SPARE.try_with(|spare| spare.borrow_mut().extend(self.0.take()));
    }
}

#[cfg(test)]
#[path = "staging_tests.rs"]
mod tests;
