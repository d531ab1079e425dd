//! Intake: closes a full buffer, opens the next, and lines up what is to be written.
//!
//! Called by producers that find no room, and by the writer. All arithmetic, no I/O: where the
//! next buffer's frames will lie follows from what was reserved, also across a roll, so producers
//! go on while the frames before theirs are stamped and written.
//!
//! Invariants:
//! - buffers are lined up, and written, in the order of their frames;
//! - behind a roll the next segment starts where the old one's SEAL will end;
//! - while the writer holds the intake still, nothing is reserved and nobody else opens it.
//!
//! Lock order: the writer's lock, the stamper's, then this one.

use std::collections::VecDeque;
use std::sync::{MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use crate::error::Result;
use crate::position::{LogByte, Offset};
use crate::segment::{HEADER_BYTES, PAGE_BYTES, SEAL_BYTES};

use super::Shared;
use super::options::Durability;
use super::staging::{BUFFERS, Base, Gate, PAGE, ROOM_BYTES, Taken};

/// Whoever waits for a free buffer looks again after this long, come what may.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Everything the intake's lock guards.
#[derive(Debug)]
pub(crate) struct Intake {
    gate: Gate,
    /// The log takes frames: there is a segment for them.
    running: bool,
    /// The writer stands here: see [`Intake::hold`].
    held: bool,
    /// Where the open buffer lies.
    place: Place,
    segment_bytes: u64,
    lined_up: VecDeque<Filled>,
    /// Buffers that were closed and are not written yet, those being written included.
    in_flight: usize,
}

/// Where a buffer's frames lie.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Log byte of the segment's first frame.
    segment: LogByte,
    /// Byte of its file at which the buffer starts; a whole page.
    page_byte: u64,
    /// Bytes before the buffer's first frame that were written with the buffer before.
    carried: usize,
    /// Whether earlier buffers hold records of this segment.
    records: bool,
}

/// A closed buffer, lined up to be written.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) bytes: Bytes,
    /// Byte of the segment file it goes to; a whole page.
    pub(crate) at: u64,
    /// Bytes at its start that were written before.
    pub(crate) carried: usize,
    /// Behind its last record.
    pub(crate) end_offset: Offset,
    /// Whether a sync follows.
    pub(crate) durable: bool,
    /// The segment ends here; the next starts at this log byte.
    pub(crate) roll: Option<LogByte>,
}

/// Where the frames are.
#[derive(Debug)]
pub(crate) enum Bytes {
    Staged(Taken),
    /// A frame too large for staging; until it is stamped without what is carried.
    Own(Vec<u8>),
}

impl Bytes {
    /// The stamped pages.
    pub(crate) fn pages(&self) -> &[u8] {
        match self {
            Bytes::Staged(taken) => taken.pages(),
            Bytes::Own(pages) => pages,
        }
    }
}

impl Intake {
    pub(crate) fn new(gate: Gate, segment_bytes: u64) -> Self {
        Intake {
            gate,
            running: false,
            held: false,
            place: Place::default(),
            segment_bytes,
            lined_up: VecDeque::new(),
            in_flight: 0,
        }
    }

    /// Starts taking frames for a segment: behind `end` of its file, where `records` says whether
    /// it has any. The intake stays held.
    pub(crate) fn begin(&mut self, segment: LogByte, end: u64, offset: Offset, records: bool) {
        let page_byte = end / PAGE_BYTES * PAGE_BYTES;
        let carried = usize::try_from(end - page_byte).expect("within a page");
        self.place = Place { segment, page_byte, carried, records };
        self.gate.start(self.base(offset));
        self.running = true;
        self.held = true;
    }

    /// Holds the intake still: nothing is reserved, and nobody else opens it, until
    /// [`resume`](Intake::resume). Returns the next record's offset.
    pub(crate) fn hold(&mut self) -> Offset {
        if self.running {
            self.gate.close();
        }
        self.held = true;
        Offset(self.gate.end().1)
    }

    /// Lets frames in again.
    pub(crate) fn resume(&mut self) {
        self.held = false;
        if self.running {
            self.gate.reopen();
        }
    }

    /// Log byte and offset behind everything taken in.
    pub(crate) fn end(&self) -> (LogByte, Offset) {
        let (log_byte, offset) = self.gate.end();
        (LogByte(log_byte), Offset(offset))
    }

    fn has_free_buffer(&self) -> bool {
        self.in_flight < BUFFERS - 1
    }

    /// Whether a frame of `len` bytes fits the open buffer, and with it the segment.
    pub(crate) fn fits_here(&self, len: usize) -> bool {
        self.gate.len() + len <= self.room()
    }

    /// Whether the segment has room for `len` bytes more, or holds nothing that could end it.
    fn segment_fits(&self, len: usize) -> bool {
        let end = self.place.page_byte + self.gate.len() as u64;
        let left = self.segment_bytes.saturating_sub(end);
        len as u64 <= left || !(self.place.records || self.gate.records() > 0)
    }

    /// Closes the open buffer, lines it up, and opens the next: for a frame of `len` bytes in
    /// a new segment if this one has no room for it. Needs a free buffer.
    pub(crate) fn advance(&mut self, len: usize) {
        let roll = !self.segment_fits(len);
        self.next(roll, false);
    }

    /// Lines up what was taken in since, if anything; `false` if no buffer is free for it.
    /// `pad` is called when the buffer ends within a page, to fill it up.
    pub(crate) fn line_up(&mut self, durable: bool, pad: Option<impl Fn(&mut [u8])>) -> bool {
        if !self.running {
            return true;
        }
        self.gate.close();
        let len = self.gate.len();
        let something = len > self.place.carried;
        if something && self.has_free_buffer() {
            if let Some(pad) = pad {
                let padding = padding(len);
                if padding > 0 {
                    self.gate.place(padding, 0, pad);
                }
            }
            self.next(false, durable);
            return true;
        }
        if !self.held {
            self.gate.reopen();
        }
        !something
    }

    /// Places a frame by the writer's own hand, while held. It fits.
    pub(crate) fn place(&mut self, len: usize, records: u64, fill: impl FnOnce(&mut [u8])) {
        assert!(self.held && self.fits_here(len));
        self.gate.place(len, records, fill);
    }

    /// Lines up a frame that is too large for staging, while held and drained.
    pub(crate) fn line_up_own(&mut self, own: Vec<u8>, records: u64) -> LogByte {
        assert!(self.held && self.gate.len() == self.place.carried);
        let place = self.place;
        let end = place.page_byte + place.carried as u64 + own.len() as u64;
        let end_offset = Offset(self.gate.end().1 + records);
        self.lined_up.push_back(Filled {
            bytes: Bytes::Own(own),
            at: place.page_byte,
            carried: place.carried,
            end_offset,
            durable: false,
            roll: None,
        });
        self.in_flight += 1;
        self.begin(place.segment, end, end_offset, true);
        self.end().0
    }

    /// Whether a frame of `len` bytes fits a buffer of its own in a new segment.
    pub(crate) fn is_stageable(&self, len: usize) -> bool {
        len + PAGE <= room(HEADER_BYTES, self.segment_bytes)
    }

    /// What is to be stamped next.
    pub(crate) fn take(&mut self) -> Option<Filled> {
        self.lined_up.pop_front()
    }

    /// What was taken has been written.
    pub(crate) fn written(&mut self) {
        self.in_flight -= 1;
    }

    fn next(&mut self, roll: bool, durable: bool) {
        assert!(self.has_free_buffer());
        self.gate.close();
        let (len, records) = (self.gate.len(), self.gate.records());
        let (_, offset) = self.gate.end();
        let old = self.place;
        let end = old.page_byte + len as u64;
        let sealed = LogByte(old.segment.0 + end - HEADER_BYTES + SEAL_BYTES);
        self.place = if roll {
            Place { segment: sealed, page_byte: HEADER_BYTES, carried: 0, records: false }
        } else {
            let page_byte = end / PAGE_BYTES * PAGE_BYTES;
            let carried = usize::try_from(end - page_byte).expect("within a page");
            let records = old.records || records > 0;
            Place { segment: old.segment, page_byte, carried, records }
        };
        let taken = self.gate.advance(self.base(Offset(offset)));
        self.lined_up.push_back(Filled {
            bytes: Bytes::Staged(taken),
            at: old.page_byte,
            carried: old.carried,
            end_offset: Offset(offset),
            durable,
            roll: roll.then_some(sealed),
        });
        self.in_flight += 1;
        if !self.held {
            self.gate.reopen();
        }
    }

    fn base(&self, offset: Offset) -> Base {
        let Place { segment, page_byte, carried, .. } = self.place;
        Base {
            log_byte: segment.0 + page_byte - HEADER_BYTES,
            offset: offset.0,
            carried,
            room: self.room(),
        }
    }

    fn room(&self) -> usize {
        room(self.place.page_byte, self.segment_bytes)
    }
}

/// Room for frames in a buffer that starts at `page_byte` of a segment.
fn room(page_byte: u64, segment_bytes: u64) -> usize {
    usize::try_from(segment_bytes.saturating_sub(page_byte)).unwrap_or(usize::MAX).min(ROOM_BYTES)
}

/// Bytes of the pad frame that fills the page behind `len` bytes; 0 if it is full already.
fn padding(len: usize) -> usize {
    match len.next_multiple_of(PAGE) - len {
        left if left > 0 && left < crate::frame::HEADER_BYTES => left + PAGE,
        left => left,
    }
}

impl Shared {
    /// The intake, alone.
    pub(crate) fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a frame of `len` bytes, or waits until there may be some. Who waits for a sync
    /// writes what was closed with it, sooner than the worker wakes up.
    #[cold]
    pub(crate) fn make_room(&self, len: usize, durability: Durability) -> Result<()> {
        let taking = {
            let mut intake = self.intake();
            if self.staging.fits(len) {
                return Ok(());
            }
            let taking = intake.running && !intake.held;
            if taking && intake.has_free_buffer() {
                intake.advance(len);
                let behind = intake.in_flight > 1;
                drop(intake);
                if self.options.worker && durability != Durability::Durable {
                    self.worker.write_soon();
                }
                if behind {
                    self.stamp_ahead()?;
                }
                return Ok(());
            }
            taking
        };
        match self.writer.try_lock() {
            Ok(mut writer) => return writer.ready(self),
            Err(TryLockError::Poisoned(broken)) => return broken.into_inner().ready(self),
            Err(TryLockError::WouldBlock) => {}
        }
        if !taking {
            return self.writer().ready(self);
        }
        if self.stamp_ahead()? {
            return Ok(());
        }
        // Somebody is writing and will free a buffer.
        let sleeper = self.freed.register();
        if !self.intake().has_free_buffer() && self.poison.get().is_none() {
            sleeper.sleep(Some(LOOK_AGAIN));
        }
        Ok(())
    }

    /// A buffer is free again.
    pub(crate) fn buffer_written(&self) {
        self.intake().written();
        self.freed.all();
    }
}
