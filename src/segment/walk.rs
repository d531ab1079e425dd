//! Walking a segment's frames: the same tally whether they are being written, recovered or sealed.
//!
//! Called by the append path (frame by frame), recovery, sealing, verification and dumps.
//! Invariant: [`Tally`] depends on the frames alone, so that SEAL, index and footer made from it
//! come out the same on every node.

use std::io;
use std::sync::Arc;

use crate::frame::{self, Fault, Frame, FrameKind, HEADER_BYTES as FRAME_HEADER, Header, Lost};
use crate::fs::File;
use crate::position::{Fingerprint, Offset};

use super::{HEADER_BYTES, Index, ProducerState, Producers, SEAL_BYTES, SegmentHeader, Window};

/// What a segment's frames add up to.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The byte behind the last frame.
    pub end: u64,
    /// Frames.
    pub frames: u64,
    /// Offsets taken: records, lost ones included.
    pub records: u32,
    /// The oldest of the frames' timestamps; `i64::MAX` without records.
    pub min_timestamp: i64,
    /// The newest; `i64::MIN` without records.
    pub max_timestamp: i64,
    /// Of the last frame.
    pub fingerprint: Fingerprint,
    /// The sparse index.
    pub index: Index,
    /// The producers seen.
    pub producers: Producers,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            end: HEADER_BYTES,
            frames: 0,
            records: 0,
            min_timestamp: i64::MAX,
            max_timestamp: i64::MIN,
            fingerprint: Fingerprint::default(),
            index: Index::default(),
            producers: Producers::default(),
        }
    }
}

impl Tally {
    /// Takes note of the next frame, which starts at `self.end`.
    #[inline(always)]
    pub fn note(&mut self, frame: &Frame<'_>, base_offset: Offset) -> Result<(), Fault> {
        let header = &frame.header;
        if header.rel_offset != self.records {
            return Err(Fault::Body);
        }
        self.index.add(header.rel_offset, self.end, self.max_timestamp);
        let taken = match header.kind {
            FrameKind::Lost => Lost::decode(frame.body).ok_or(Fault::Body)?.count,
            _ => u32::from(header.count),
        };
        if taken > 0 {
            self.min_timestamp = self.min_timestamp.min(header.max_timestamp);
            self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        }
        if let Some(producer) = frame.producer() {
            let first = base_offset.plus(u64::from(header.rel_offset));
            self.producers.note(
                producer.id,
                ProducerState {
                    sequence: producer.sequence,
                    first,
                    last: first.plus(u64::from(taken).saturating_sub(1)),
                    timestamp: header.max_timestamp,
                },
            );
        }
        self.records = self.records.checked_add(taken).ok_or(Fault::Body)?;
        self.frames += 1;
        self.fingerprint = header.fingerprint();
        self.end += header.stride() as u64;
        Ok(())
    }

    /// The offset behind the last record.
    pub fn end_offset(&self, header: &SegmentHeader) -> Offset {
        header.base_offset.plus(u64::from(self.records))
    }

    /// The log byte behind the SEAL frame that these frames will get.
    pub fn sealed_end(&self, header: &SegmentHeader) -> u64 {
        header.log_byte(self.end) + SEAL_BYTES
    }
}

/// Where a walk ended and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The byte of the first thing that is not a further frame.
    pub byte: u64,
    /// What was found there; `None` when a SEAL frame or `limit` was reached.
    pub fault: Option<Fault>,
}

/// Walks the frames of a segment up to `limit`, SEAL, or the first fault; hands each valid frame
/// to `visit` before it is tallied.
pub fn walk(
    window: &mut Window,
    header: &SegmentHeader,
    limit: u64,
    tally: &mut Tally,
    mut visit: impl FnMut(&Frame<'_>, u64),
) -> io::Result<End> {
    let seed = header.seed();
    loop {
        let byte = tally.end;
        if byte >= limit {
            return Ok(End { byte, fault: None });
        }
        let bytes = window.bytes(byte, FRAME_HEADER, limit)?;
        let decoded = Header::decode(bytes, byte, limit, seed);
        let frame = match decoded {
            Err(fault) => return Ok(End { byte, fault: Some(fault) }),
            Ok(head) if head.kind == FrameKind::Seal => return Ok(End { byte, fault: None }),
            Ok(head) => {
                let bytes = if bytes.len() >= head.stride() {
                    bytes
                } else {
                    window.bytes(byte, head.stride(), limit)?
                };
                Frame::verified(bytes, head)
            }
        };
        let noted = frame.and_then(|frame| {
            visit(&frame, byte);
            tally.note(&frame, header.base_offset)
        });
        if let Err(fault) = noted {
            return Ok(End { byte, fault: Some(fault) });
        }
    }
}

/// The next frame at or after `from` whose two checksums hold; for evidence behind damage.
pub fn search(
    file: &Arc<dyn File>,
    header: &SegmentHeader,
    from: u64,
    limit: u64,
) -> io::Result<Option<(u64, Header)>> {
    let seed = header.seed();
    let mut window = Window::file(Arc::clone(file));
    let mut byte = frame::align(from);
    while byte + FRAME_HEADER as u64 <= limit {
        let bytes = window.bytes(byte, FRAME_HEADER, limit)?;
        if bytes.len() < FRAME_HEADER {
            break;
        }
        // Preallocated zeros make up most of what is searched: skip them in strides, compared a
        // line at a time.
        let lines = bytes.chunks(64).take_while(|line| line.iter().fold(0, |a, b| a | b) == 0);
        let skip = bytes.len().min(64 * lines.count());
        let zeros = skip + bytes[skip..].iter().take(64).take_while(|&&b| b == 0).count();
        if zeros >= frame::ALIGN {
            byte += (zeros - zeros % frame::ALIGN) as u64;
            continue;
        }
        if let Ok(head) = Header::decode(bytes, byte, limit, seed) {
            let bytes = window.bytes(byte, head.stride(), limit)?;
            if Frame::verified(bytes, head).is_ok() {
                return Ok(Some((byte, head)));
            }
        }
        byte += frame::ALIGN as u64;
    }
    Ok(None)
}
