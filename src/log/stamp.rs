//! Stamping: gives the frames of a closed buffer their place, their claim and their checksum.
//!
//! Called by the writer, and ahead of it by producers while it is behind: the frames that they
//! have just filled are in their own processor's cache. Uses `intake`, `frame` and `segment`.
//! All arithmetic, no I/O.
//!
//! Invariants:
//! - buffers are stamped in the order in which they were lined up, each once, and written in it;
//! - a frame claims what was durable when it was stamped, which is never more than what is when
//!   it is written;
//! - behind a roll, frames belong to the next segment: its header is made here, its file later,
//!   by the writer.
//!
//! Lock order: the writer's lock, then this one, then the intake's.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::*;
use std::sync::{MutexGuard, PoisonError, TryLockError};

use crate::error::{Error, Kind, Result};
use crate::frame::{self, HEADER_BYTES as FRAME_HEADER, Seed};
use crate::mutant::{self, Mutant};
use crate::position::{LogByte, Offset};
use crate::segment::{Link, PAGE_BYTES, SegmentHeader, Tally};

use super::Shared;
use super::intake::{Bytes, Filled};
use super::options::Preallocate;
use super::staging::PAGE;

/// Everything the stamper's lock guards.
#[derive(Debug, Default)]
pub(crate) struct Stamper {
    current: Option<Current>,
    /// For the writer, in order.
    stamped: VecDeque<Stamped>,
}

/// The segment that the next frames belong to.
#[derive(Debug)]
struct Current {
    header: SegmentHeader,
    seed: Seed,
    tally: Tally,
    /// Bytes of the last, partial page, to be written again.
    tail: Vec<u8>,
    /// Bytes of the index that went with the buffers before.
    indexed: usize,
}

/// Stamped bytes that are on their way to a file.
#[derive(Debug)]
pub(crate) struct Stamped {
    pub(crate) bytes: Bytes,
    /// Byte of the segment file they go to.
    pub(crate) at: u64,
    /// How many of them are there already.
    pub(crate) done: usize,
    /// Index entries of these frames.
    pub(crate) index: Vec<u8>,
    /// Published as written once they are.
    pub(crate) end: LogByte,
    pub(crate) end_offset: Offset,
    /// Zeros are worth writing ahead of the group that follows.
    pub(crate) zeros_ahead: bool,
    /// The segment ends here.
    pub(crate) roll: Option<Roll>,
}

/// From one segment to the next.
#[derive(Debug)]
pub(crate) struct Roll {
    /// Of the new segment.
    pub(crate) header: SegmentHeader,
    /// What the old segment's frames add up to; none before the first frame of an epoch.
    pub(crate) old: Option<Tally>,
}

impl Stamper {
    /// From now on frames belong to this segment: behind those of `tally`, whose index is
    /// published and whose last partial page is `tail`.
    pub(crate) fn begin(&mut self, header: SegmentHeader, tally: Tally, tail: Vec<u8>) {
        assert!(self.stamped.is_empty(), "what was stamped belongs to the segment before");
        let indexed = tally.index.as_bytes().len();
        self.current = Some(Current { seed: header.seed(), header, tally, tail, indexed });
    }

    /// What the frames of the current segment add up to.
    pub(crate) fn tally(&self) -> Option<Tally> {
        self.current.as_ref().map(|current| current.tally.clone())
    }

    /// What is to be written next.
    pub(crate) fn next(&mut self, shared: &Shared) -> Result<Option<Stamped>> {
        if self.stamped.is_empty() {
            self.stamp_next(shared)?;
        }
        Ok(self.stamped.pop_front())
    }

    /// Stamps the buffer that was lined up first; `false` if none is.
    fn stamp_next(&mut self, shared: &Shared) -> Result<bool> {
        let Some(filled) = shared.intake().take() else { return Ok(false) };
        let current = self.current.as_mut().expect("something was taken in for it");
        let (roll, end_offset) = (filled.roll, filled.end_offset);
        let mut stamped = current.stamp(shared, filled)?;
        if let Some(base) = roll {
            let header = current.next_header(shared, base, end_offset)?;
            let next = Current {
                seed: header.seed(),
                header,
                tally: Tally::default(),
                tail: Vec::new(),
                indexed: 0,
            };
            let old = std::mem::replace(current, next).tally;
            stamped.roll = Some(Roll { header, old: Some(old) });
        }
        self.stamped.push_back(stamped);
        Ok(true)
    }
}

impl Current {
    /// Stamps a buffer's frames, in place, and keeps what the next one writes again.
    fn stamp(&mut self, shared: &Shared, filled: Filled) -> Result<Stamped> {
        let durable = shared.ends.durable_byte.load(Acquire);
        let Filled { mut bytes, at, carried, end_offset, .. } = filled;
        let from = self.tally.end;
        assert!(self.tail.len() == carried && from == at + carried as u64);
        match &mut bytes {
            Bytes::Staged(taken) => {
                taken.carry(&self.tail);
                let mut next = taken.origin + carried;
                while next < taken.end {
                    let frame = taken.frame(next);
                    self.stamp_frame(frame, durable)?;
                    next += frame.len();
                }
                taken.pad();
            }
            Bytes::Own(frame) => {
                self.stamp_frame(frame, durable)?;
                frame.splice(..0, self.tail.iter().copied());
                frame.resize(frame.len().next_multiple_of(PAGE), 0);
            }
        }
        let end = self.tally.end;
        let pages = bytes.pages();
        // A roll may find nothing new in the buffer: then its page is there already.
        let done = if end > from { 0 } else { pages.len() };
        let tail = usize::try_from(end % PAGE_BYTES).expect("within a page");
        self.tail.clear();
        if tail > 0 {
            self.tail.extend_from_slice(&pages[pages.len() - PAGE..][..tail]);
        }
        let index = self.tally.index.as_bytes()[self.indexed..].to_vec();
        self.indexed += index.len();
        if filled.durable {
            let before = shared.group_bytes.load(Relaxed);
            shared.group_bytes.store(before - before / 8 + (end - from) / 8, Relaxed);
        }
        let grow = shared.options.preallocate == Preallocate::Grow;
        Ok(Stamped {
            bytes,
            at,
            done,
            index,
            end: LogByte(self.header.log_byte(end)),
            end_offset,
            zeros_ahead: filled.durable && shared.has_small_groups() && !grow,
            roll: None,
        })
    }

    /// Gives the next frame its place and its durable claim, and tallies it.
    #[inline(always)]
    fn stamp_frame(&mut self, frame: &mut [u8], durable: u64) -> Result<()> {
        let byte = self.tally.end;
        let (head, body) =
            frame.split_first_chunk_mut::<FRAME_HEADER>().expect("staging holds whole frames");
        let high = mutant::on(Mutant::WatermarkTooHigh);
        let durable = if high { self.header.log_byte(byte) } else { durable };
        let back = frame::durable_back(self.header.log_byte(byte), durable);
        let head = frame::stamp(head, self.seed, byte, self.tally.records, back);
        let frame = frame::Frame { header: head, body: &body[..head.len as usize - FRAME_HEADER] };
        self.tally
            .note(&frame, self.header.base_offset)
            .map_err(|fault| Error::new(Kind::InvalidInput, fault.as_str()))
    }

    /// The header of the segment that follows this one at `base`.
    fn next_header(
        &self,
        shared: &Shared,
        base: LogByte,
        base_offset: Offset,
    ) -> Result<SegmentHeader> {
        let old = &self.header;
        debug_assert_eq!(base.0, self.tally.sealed_end(old));
        Ok(SegmentHeader {
            log: shared.log.id,
            base,
            base_offset,
            epoch: old.epoch,
            salt: shared.random_u64()?,
            created: shared.fs.now(),
            previous: Some(Link { base: old.base, end: base, fingerprint: self.tally.fingerprint }),
        })
    }
}

impl Shared {
    /// The stamper, alone.
    pub(crate) fn stamper(&self) -> MutexGuard<'_, Stamper> {
        self.stamper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stamps the next buffer in the writer's place, unless somebody is at it; `false` if nothing
    /// was done.
    pub(crate) fn stamp_ahead(&self) -> Result<bool> {
        let mut stamper = match self.stamper.try_lock() {
            Ok(stamper) => stamper,
            Err(TryLockError::Poisoned(broken)) => broken.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        stamper.stamp_next(self).map_err(|e| self.poisoned(e))
    }
}
