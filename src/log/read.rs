//! Reading: a cursor that walks frames in order and hands out records without copying.
//!
//! Called by users, tails, the table and verification of conditions; uses the catalog and the
//! window. A cursor takes no lock while it reads and sees at most the visible end, which only
//! grows: it looks it up again where what it knew of it ends. Invariants:
//! - a frame's header is checked at every read, its body as [`Verification`] says;
//! - an index only says where to start looking: the frame found is held against the offset;
//! - damage is an error that names file and byte; the cursor stays where it is.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use crate::error::{Error, Kind, Result};
use crate::frame::{
    COMPRESSION_MASK, FLAG_PRODUCER, Fault, Frame, FrameKind, HEADER_BYTES as FRAME_HEADER, Header,
    Lost, Producer, Records, Seed,
};
use crate::mutant::{self, Mutant};
use crate::position::{Fingerprint, Id, LogByte, Offset, Position};
use crate::record::Record;
use crate::segment::{HEADER_BYTES, Index, ProducerState, SEAL_BYTES, Window};

use super::catalog::Segment;
use super::options::Verification;
use super::{Shared, compress};

/// A record with its place; borrows from the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Number of the epoch that appended it.
    pub epoch: u64,
    /// Nanoseconds since the Unix epoch.
    pub timestamp: i64,
    /// The record.
    pub record: Record<'a>,
}

/// A record with its place, owning its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedEntry {
    /// Its offset.
    pub offset: Offset,
    /// Number of the epoch that appended it.
    pub epoch: u64,
    /// Nanoseconds since the Unix epoch.
    pub timestamp: i64,
    op: crate::record::Op,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
}

impl OwnedEntry {
    /// The entry, borrowed.
    pub fn as_entry(&self) -> Entry<'_> {
        Entry {
            offset: self.offset,
            epoch: self.epoch,
            timestamp: self.timestamp,
            record: self.record(),
        }
    }

    /// The record.
    pub fn record(&self) -> Record<'_> {
        Record {
            op: self.op,
            key: self.key.as_deref(),
            value: &self.value,
            timestamp: Some(self.timestamp),
        }
    }
}

impl Entry<'_> {
    /// A copy that outlives the cursor.
    pub fn to_owned(&self) -> OwnedEntry {
        OwnedEntry {
            offset: self.offset,
            epoch: self.epoch,
            timestamp: self.timestamp,
            op: self.record.op,
            key: self.record.key.map(<[u8]>::to_vec),
            value: self.record.value.to_vec(),
        }
    }
}

/// Walks the log in offset order. Made by [`Log::read`](super::Log::read).
#[derive(Debug)]
pub struct Cursor {
    shared: Arc<Shared>,
    at: Option<Place>,
    /// The next record's offset.
    next: u64,
    /// Where to stop; `u64::MAX` for the visible end.
    stop: u64,
    frame: Option<Open>,
    /// The unpacked payload of a compressed frame.
    scratch: Vec<u8>,
    /// Whether to read what is written, whatever the log shows to others.
    unsynced: bool,
}

/// Where in the files a cursor stands.
#[derive(Debug)]
struct Place {
    segment: Arc<Segment>,
    window: Window,
    /// Byte of the next frame's header.
    byte: u64,
    /// What lies before this byte is visible.
    known: u64,
    seed: Seed,
    /// Whether bodies are to be checked, and whether everything before was.
    check: bool,
    from_start: bool,
}

/// The frame whose records are being handed out.
#[derive(Debug)]
struct Open {
    header: Header,
    /// Its byte in the window.
    byte: u64,
    /// Offset of its first record, and behind its last.
    first: u64,
    end: u64,
    compressed: bool,
    producer: Option<Producer>,
}

impl Place {
    /// The frame that stands next, if that is as plain as most are: of record `next`, in bytes that
    /// are here and known to be visible, whole, neither packed nor a producer's. Of all others, and
    /// of damage, [`Cursor::advance`] knows what to do.
    #[inline]
    fn follow(&mut self, next: u64) -> Option<Open> {
        let (byte, limit) = (self.byte, self.known);
        let bytes = self.window.here(byte, limit)?;
        let header = Header::decode(bytes, byte, limit, self.seed).ok()?;
        let first = self.segment.header.base_offset.0 + u64::from(header.rel_offset);
        let special = header.flags & (COMPRESSION_MASK | FLAG_PRODUCER) != 0;
        if special || header.kind != FrameKind::Data || first != next {
            return None;
        }
        if self.check {
            header.check_body(bytes).ok()?;
        }
        self.byte = byte + header.stride() as u64;
        let end = first + u64::from(header.count);
        Some(Open { header, byte, first, end, compressed: false, producer: None })
    }
}

/// The records of one batch, borrowing from the cursor. Made by [`Cursor::next_batch`].
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    records: Records<'a>,
    /// Offset of the frame's first record.
    first: u64,
    range: Range<u64>,
    position: Position,
    bytes: usize,
    newest: i64,
    fingerprint: Fingerprint,
    producer: Option<(Id, ProducerState)>,
}

impl<'a> Entries<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        usize::try_from(self.range.end - self.range.start).expect("at most a batch")
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Bytes of their frame.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The offset of the first.
    pub fn first(&self) -> Offset {
        Offset(self.range.start)
    }

    /// The position behind them.
    pub fn end(&self) -> Position {
        self.position
    }

    /// Whether all records of their frame are among them.
    pub fn is_whole(&self) -> bool {
        self.records.len() == self.len()
    }

    /// The newest timestamp in their frame.
    pub fn newest(&self) -> i64 {
        self.newest
    }

    /// The checksums of their frame.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Who appended them and with which sequence, if they were appended so.
    pub fn producer(&self) -> Option<(Id, ProducerState)> {
        self.producer
    }

    /// The entries in order. An error means that a batch whose checksums hold makes no sense.
    pub fn iter(&self) -> impl Iterator<Item = Result<Entry<'a>>> + use<'a> {
        let (records, first, epoch) = (self.records, self.first, self.position.epoch.number);
        self.range.clone().map(move |offset| {
            let index = usize::try_from(offset - first).expect("at most a batch");
            let record = records.get(index).map_err(|fault| {
                Error::new(Kind::Corrupt, format!("expected a record, found {}", fault.as_str()))
                    .at_offset(offset)
            })?;
            let timestamp = record.timestamp.expect("decoded records carry one");
            Ok(Entry { offset: Offset(offset), epoch, timestamp, record })
        })
    }
}

/// The records of the open frame, out of the window or unpacked in `scratch`.
#[inline]
fn records<'a>(
    window: &'a mut Window,
    segment: &Segment,
    open: &Open,
    scratch: &'a [u8],
) -> Result<Result<Records<'a>, Fault>> {
    if open.compressed {
        return Ok(Records::new(&open.header, scratch));
    }
    let end = open.byte + u64::from(open.header.len);
    let bytes = window
        .bytes(open.byte, open.header.len as usize, end)
        .map_err(|e| Error::io("read", &segment.path, e))?;
    Ok(Frame::trusted(bytes, open.header).and_then(|frame| frame.records()))
}

impl Cursor {
    pub(crate) fn new(shared: Arc<Shared>, from: Offset, stop: Offset) -> Result<Self> {
        let mut cursor = Cursor {
            shared,
            at: None,
            next: from.0,
            stop: stop.0,
            frame: None,
            scratch: Vec::new(),
            unsynced: false,
        };
        cursor.seek(from)?;
        Ok(cursor)
    }

    /// A cursor that sees everything written; for conditions, under the writer's lock.
    pub(crate) fn unsynced(shared: Arc<Shared>, from: Offset, stop: Offset) -> Result<Self> {
        Ok(Cursor { unsynced: true, ..Cursor::new(shared, from, stop)? })
    }

    /// The offset of the record that comes next.
    pub fn offset(&self) -> Offset {
        Offset(self.next)
    }

    /// The next record, or `None` at the end of what is visible. Calling again later goes on.
    #[expect(clippy::should_implement_trait, reason = "entries borrow from the cursor")]
    #[inline]
    pub fn next(&mut self) -> Result<Option<Entry<'_>>> {
        if self.next >= self.stop {
            return Ok(None);
        }
        if !self.is_ready()? {
            return Ok(None);
        }
        let (place, open) = self.at.as_mut().zip(self.frame.as_ref()).expect("a frame is open");
        let Place { segment, window, .. } = place;
        let records = records(window, segment, open, &self.scratch)?;
        let index = usize::try_from(self.next - open.first).expect("at most a batch");
        let record = match records.and_then(|records| records.get(index)) {
            Ok(record) => record,
            Err(fault) => return Err(damaged(segment, open.byte, self.next, fault)),
        };
        let offset = Offset(self.next);
        self.next += 1;
        Ok(Some(Entry {
            offset,
            epoch: segment.header.epoch.number,
            timestamp: record.timestamp.unwrap_or(open.header.max_timestamp),
            record,
        }))
    }

    /// The rest of the current batch, or the next batch; `None` at the end of what is visible.
    pub fn next_batch(&mut self) -> Result<Option<Entries<'_>>> {
        if self.next >= self.stop {
            return Ok(None);
        }
        if !self.is_ready()? {
            return Ok(None);
        }
        let from = self.next;
        let end = self.frame.as_ref().expect("a frame is open").end.min(self.stop);
        self.next = end;
        let position = self.position().expect("a frame is open");
        let (place, open) = self.at.as_mut().zip(self.frame.as_ref()).expect("a frame is open");
        let Place { segment, window, .. } = place;
        let records = match records(window, segment, open, &self.scratch)? {
            Ok(records) => records,
            Err(fault) => return Err(damaged(segment, open.byte, from, fault)),
        };
        let producer = open.producer.map(|Producer { id, sequence }| {
            let (first, last) = (Offset(open.first), Offset(open.end - 1));
            let timestamp = open.header.max_timestamp;
            (id, ProducerState { sequence, first, last, timestamp })
        });
        Ok(Some(Entries {
            records,
            first: open.first,
            range: from..end,
            position,
            bytes: open.header.len as usize,
            newest: open.header.max_timestamp,
            fingerprint: open.header.fingerprint(),
            producer,
        }))
    }

    /// Behind the last record that was handed out; `None` before a segment was entered.
    pub fn position(&self) -> Option<Position> {
        let place = self.at.as_ref()?;
        Some(Position {
            epoch: place.segment.header.epoch,
            log_byte: LogByte(place.segment.header.log_byte(place.byte)),
            offset: self.offset(),
        })
    }

    /// Goes to `offset`; the next record is the first at or behind it.
    pub fn seek(&mut self, offset: Offset) -> Result<()> {
        self.next = offset.0;
        self.frame = None;
        self.at = None;
        let list = self.shared.catalog.list();
        let start = match list.first() {
            Some(first) => first.header.base_offset,
            None => self.shared.start(),
        };
        if offset < start {
            return Err(gone(offset, start));
        }
        // The last segment that starts at or before the offset and has records, or lost ones.
        let after = list.partition_point(|segment| segment.header.base_offset <= offset);
        let Some(segment) = after.checked_sub(1).map(|i| &list[i]) else { return Ok(()) };
        let rel = u32::try_from(offset.0 - segment.header.base_offset.0).unwrap_or(u32::MAX);
        let catalog = &self.shared.catalog;
        let window = catalog.window(segment).map_err(|e| self.or_gone(e))?;
        let found = catalog.find(segment, &window, |block| Index::find_offset(block, rel));
        let entry = found.map_err(|e| self.or_gone(e))?;
        let byte = entry.map_or(HEADER_BYTES, |entry| entry.byte);
        self.stand(Arc::clone(segment), window, byte);
        Ok(())
    }

    /// Stands at `byte` of `segment`.
    pub(super) fn enter(&mut self, segment: Arc<Segment>, byte: u64) -> Result<()> {
        let window = self.shared.catalog.window(&segment).map_err(|e| self.or_gone(e))?;
        self.stand(segment, window, byte);
        Ok(())
    }

    fn stand(&mut self, segment: Arc<Segment>, window: Window, byte: u64) {
        let check = match self.shared.options.verification {
            _ if mutant::on(Mutant::SkipBodyCheck) => false,
            Verification::Always => true,
            Verification::OncePerSegment => !segment.verified.load(Relaxed),
            Verification::Never => false,
        };
        self.frame = None;
        let (seed, from_start) = (segment.seed, byte == HEADER_BYTES);
        self.at = Some(Place { segment, window, byte, known: 0, seed, check, from_start });
    }

    /// A file that is missing because retention dropped its segment after it was looked up.
    fn or_gone(&self, error: Error) -> Error {
        let start = self.shared.start();
        match error.kind() {
            Kind::NotFound if self.next < start.0 => gone(Offset(self.next), start),
            _ => error,
        }
    }

    /// Opens the next frame that holds records at or behind `next`; `false` at the visible end.
    fn advance(&mut self) -> Result<bool> {
        let mut hopping = false;
        // Where to go on with care if a guess was wrong.
        let mut guessed = None;
        loop {
            if self.at.is_none() && !self.enter_first()? {
                return Ok(false);
            }
            let visible = match self.unsynced {
                true => self.shared.ends.written().0.0,
                false => self.shared.visible_byte(),
            };
            let place = self.at.as_mut().expect("entered above");
            let segment = &place.segment;
            let log_byte = segment.header.log_byte(place.byte);
            let frames_end = segment.end.get().map_or(u64::MAX, |end| end.0);
            if place.byte >= frames_end {
                if place.check && place.from_start {
                    segment.verified.store(true, Relaxed);
                }
                if !self.enter_next()? {
                    return Ok(false);
                }
                continue;
            }
            if log_byte >= visible {
                return Ok(false);
            }
            let limit = frames_end.min(segment.header.file_byte(visible));
            place.known = limit;
            let io = |e| Error::io("read", &segment.path, e);
            let byte = place.byte;
            let bytes = place.window.bytes(byte, FRAME_HEADER, limit).map_err(io)?;
            let decoded = Header::decode(bytes, byte, limit, place.seed);
            let base = segment.header.base_offset.0;
            let is_wanted = |header: &Header| {
                let first = base + u64::from(header.rel_offset);
                (first..first + u64::from(header.count)).contains(&self.next)
            };
            if let Some(from) = guessed.take()
                && !decoded.as_ref().is_ok_and(is_wanted)
            {
                place.byte = from;
                continue;
            }
            let header = decoded.map_err(|fault| damaged(segment, byte, self.next, fault))?;
            let stride = header.stride();
            let first = base + u64::from(header.rel_offset);
            let count = u64::from(header.count);
            if header.kind == FrameKind::Lost {
                place.byte += stride as u64;
                return self.lost(byte, header, first);
            }
            if count == 0 || first + count <= self.next {
                if count == 1 && !hopping {
                    touch(bytes, stride, self.next - first);
                }
                place.from_start &= count == 0;
                place.byte += stride as u64;
                if !hopping && let Some(skipped) = skip(bytes, stride, self.next - base) {
                    guessed = Some(place.byte);
                    place.byte = byte + skipped as u64;
                }
                hopping = true;
                continue;
            }
            if first > self.next && mutant::on(Mutant::IndexByLength) {
                self.next = first;
            }
            if first > self.next {
                return Err(damaged(segment, byte, self.next, Fault::Body));
            }
            let compressed = header.flags & COMPRESSION_MASK != 0;
            let mut producer = None;
            if place.check || header.flags & (COMPRESSION_MASK | FLAG_PRODUCER) != 0 {
                let bytes = place.window.bytes(byte, stride, limit).map_err(io)?;
                let checked = if place.check { header.check_body(bytes) } else { Ok(()) };
                let frame = checked.and_then(|()| Frame::trusted(bytes, header));
                let frame = frame.map_err(|fault| damaged(segment, byte, self.next, fault))?;
                producer = frame.producer();
                if compressed {
                    compress::unpack(&frame, &mut self.scratch)
                        .map_err(|e| e.in_file(&segment.path).at_byte(byte).at_offset(first))?;
                }
            }
            place.byte += stride as u64;
            self.frame =
                Some(Open { header, byte, first, end: first + count, compressed, producer });
            return Ok(true);
        }
    }

    /// A `lost` frame: reported once, then the cursor goes on behind it.
    fn lost(&mut self, byte: u64, header: Header, first: u64) -> Result<bool> {
        let place = self.at.as_mut().expect("a frame was read there");
        let limit = byte + header.stride() as u64;
        let bytes = place
            .window
            .bytes(byte, header.stride(), limit)
            .map_err(|e| Error::io("read", &place.segment.path, e))?;
        let lost = Frame::trusted(bytes, header).ok().and_then(|frame| Lost::decode(frame.body));
        let Some(lost) = lost else {
            return Err(damaged(&place.segment, byte, self.next, Fault::Body));
        };
        let end = first + u64::from(lost.count);
        if end <= self.next {
            return self.advance();
        }
        let from = self.next.max(first);
        self.next = end;
        Err(Error::new(
            Kind::Lost,
            format!("offsets {from} to {} were lost to damage that a repair has recorded", end - 1),
        )
        .in_file(&place.segment.path)
        .at_byte(byte)
        .at_offset(from)
        .help("reading on continues behind them; the damaged bytes are in quarantine"))
    }

    /// Enters the first segment, when there was none before.
    fn enter_first(&mut self) -> Result<bool> {
        if self.shared.catalog.list().is_empty() {
            return Ok(false);
        }
        self.seek(Offset(self.next))?;
        Ok(self.at.is_some())
    }

    /// Enters the segment behind the current one, if it is there yet.
    fn enter_next(&mut self) -> Result<bool> {
        let place = self.at.as_ref().expect("stands at a segment's end");
        let base = place.segment.header.base;
        let end = place.segment.header.log_byte(place.byte) + SEAL_BYTES;
        let list = self.shared.catalog.list();
        let after = list.partition_point(|segment| segment.header.base <= base);
        let Some(next) = list.get(after) else { return Ok(false) };
        if next.header.base.0 != end {
            let start = self.shared.start();
            return Err(gone(Offset(self.next), start));
        }
        self.enter(Arc::clone(next), HEADER_BYTES)?;
        Ok(true)
    }

    /// Where the batch begins that comes next, once [`is_ready`](Self::is_ready) has found it.
    pub(crate) fn batch_start(&self) -> Option<Offset> {
        self.frame.as_ref().map(|open| Offset(open.first))
    }

    /// Whether [`next`](Self::next) has something to say: a record, or an error.
    #[inline]
    pub(crate) fn is_ready(&mut self) -> Result<bool> {
        match &self.frame {
            Some(open) if self.next < open.end => Ok(true),
            _ => match self.at.as_mut().and_then(|place| place.follow(self.next)) {
                Some(open) => {
                    self.frame = Some(open);
                    Ok(true)
                }
                None => self.advance(),
            },
        }
    }

    /// The offset of the first record at or behind `target`, a byte of `segment`, looked for
    /// from `byte` on.
    pub(crate) fn offset_at(
        segment: &Segment,
        mut window: Window,
        byte: u64,
        target: u64,
    ) -> Result<Offset> {
        let (mut byte, mut offset) = (byte, segment.header.base_offset);
        loop {
            let bytes = window
                .bytes(byte, FRAME_HEADER, u64::MAX)
                .map_err(|e| Error::io("read", &segment.path, e))?;
            let Ok(header) = Header::decode(bytes, byte, u64::MAX, segment.seed) else {
                return Ok(offset);
            };
            offset = segment.header.base_offset.plus(u64::from(header.rel_offset));
            if byte >= target {
                return Ok(offset);
            }
            offset = offset.plus(u64::from(header.count));
            byte += header.stride() as u64;
        }
    }

    /// The first offset at or behind which a timestamp of at least `timestamp` appears.
    pub(crate) fn seek_time(shared: Arc<Shared>, timestamp: i64) -> Result<Offset> {
        let (_, visible) = shared.visible();
        let list = shared.catalog.list();
        // Running maxima rise over segments, too: sealed ones say theirs.
        let mut running = i64::MIN;
        for segment in list.iter() {
            let newest = match segment.footer.get() {
                Some(footer) => footer.max_timestamp,
                None => i64::MAX,
            };
            running = running.max(newest);
            if running < timestamp {
                continue;
            }
            let find = |block: &[u8]| Index::find_time(block, timestamp);
            let entry = shared.catalog.find(segment, &shared.catalog.window(segment)?, find)?;
            let from = entry.map_or(segment.header.base_offset, |entry| {
                segment.header.base_offset.plus(u64::from(entry.rel_offset))
            });
            let mut cursor = Cursor::new(Arc::clone(&shared), from, visible)?;
            loop {
                match cursor.next() {
                    Ok(Some(entry)) if entry.timestamp >= timestamp => return Ok(entry.offset),
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(visible),
                    Err(e) if e.kind() == Kind::Lost => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(visible)
    }
}

/// Reads a byte of each of the next `frames` headers, guessing that they are as far apart as the
/// first two. From frame to frame each would wait for memory; this way they wait together.
fn touch(bytes: &[u8], stride: usize, frames: u64) {
    /// As many as lie between two entries of the index, if they are worth a cache line each.
    const MOST: usize = 64;
    let frames = usize::try_from(frames).map_or(MOST, |frames| frames.min(MOST));
    for header in bytes.iter().step_by(stride).skip(1).take(frames) {
        std::hint::black_box(*header);
    }
}

/// How far behind `from` the frame of record `wanted` is, by headers that nobody has checked: a guess,
/// which holds if the header that it leads to does. `None` if it lies beyond `bytes`.
fn skip(bytes: &[u8], from: usize, wanted: u64) -> Option<usize> {
    let mut at = from;
    loop {
        let (stride, first, count) = Header::peek(bytes.get(at..)?)?;
        if u64::from(first) > wanted {
            return None;
        }
        if wanted < u64::from(first) + u64::from(count) {
            return Some(at);
        }
        at += stride;
    }
}

fn damaged(segment: &Segment, byte: u64, offset: u64, fault: Fault) -> Error {
    Error::new(
        Kind::Corrupt,
        format!("expected the frame of offset {offset}, found {}", fault.as_str()),
    )
    .in_file(&segment.path)
    .at_byte(byte)
    .at_offset(offset)
    .help("run `tidelog verify` to see all damage, `tidelog repair` to save what is whole")
}

pub(crate) fn gone(offset: Offset, start: Offset) -> Error {
    Error::new(
        Kind::Gone,
        format!("expected offset {offset}, but the log starts at {start}: retention dropped it"),
    )
    .at_offset(offset.0)
    .help(format!("start at offset {start}"))
}
