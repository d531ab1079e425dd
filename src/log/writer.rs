//! The writer: one at a time behind a lock, it takes what producers staged and writes it.
//!
//! Called by group commit (`sync`), by appends that find no room, and by the worker. Uses
//! `staging`, `segment` and `fs`.
//!
//! ```text
//! flush:  close buffer → wait for copies → stamp headers → open the other buffer → pwrite pages
//! roll:   the same, the other buffer starting a new segment; then header → sync → rename
//! ```
//!
//! Invariants:
//! - whole 4 KiB pages are written; the last partial page is carried over and written again with
//!   its bytes unchanged;
//! - a new segment gets its first frame only after its header is durable and its name is there;
//! - what a full disk refused stays in memory and is tried again, the same bytes at the same place;
//! - any other failed write, and any failed sync, poisons the log.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::frame::{self, FrameKind, HEADER_BYTES as FRAME_HEADER};
use crate::fs::File;
use crate::position::{LogByte, Offset};
use crate::segment::{HEADER_BYTES, Link, PAGE_BYTES, Producers, SEAL_BYTES, SegmentHeader, Tally};

use super::Shared;
use super::catalog::Segment;
use super::options::Preallocate;
use super::prepare::{create_segment, fill};
use super::staging::{self, Base, Closed, ROOM_BYTES};
use super::start::Start;
use super::worker::SealJob;

/// A page, in memory.
const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_BYTES);
/// Zeros written ahead of small durable groups, so that their syncs overwrite written blocks.
const STEP_BYTES: u64 = 1 << 20;
/// A group up to this size is small.
const SMALL_GROUP_BYTES: u64 = 16 << 10;

/// Everything the writer's lock guards.
#[derive(Debug)]
pub(crate) struct Writer {
    owner: staging::Owner,
    /// What must happen before the first write.
    pub(crate) start: Option<Start>,
    active: Option<Active>,
    /// Refused by a full disk, to be tried again before anything else.
    unwritten: Option<Unwritten>,
    /// A roll that is not finished.
    rolling: Option<SegmentHeader>,
    /// The last batch of every producer, staged ones included.
    pub(crate) producers: Producers,
    /// Rolled files whose frames are not synced yet.
    unsynced: Vec<(Arc<dyn File>, PathBuf)>,
    names_unsynced: bool,
    pub(crate) closed: bool,
}

/// The segment being written.
#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    tally: Tally,
    /// Byte of the file at which the open buffer starts; a whole page.
    page_byte: u64,
    /// The file holds blocks up to here, written or zeroed.
    filled_to: u64,
}

/// Bytes that are on their way to a file.
#[derive(Debug)]
struct Unwritten {
    bytes: Pending,
    at: u64,
    len: usize,
    done: usize,
    /// Published as written once they are.
    end: LogByte,
    end_offset: Offset,
    zeros_ahead: bool,
}

#[derive(Debug)]
enum Pending {
    Staged(Closed),
    /// A frame too large for staging, with the tail page before it.
    Own(Vec<u8>),
}

/// What a sync must cover, taken under the lock and synced outside it.
#[derive(Debug)]
pub(crate) struct SyncSet {
    files: Vec<(Arc<dyn File>, PathBuf)>,
    names: bool,
    pub(crate) end: LogByte,
    pub(crate) end_offset: Offset,
}

impl SyncSet {
    /// Makes everything durable: older segments, then names, then the active segment, so that
    /// no frame is durable before all that precede it.
    pub(crate) fn sync(&self, shared: &Shared) -> Result<()> {
        let (active, rolled) = self.files.split_last().expect("the active file is always there");
        for (file, path) in rolled {
            file.sync_data().map_err(|e| Error::io("sync", path, e))?;
        }
        if self.names {
            // Closes the crash that forgets a new segment's name.
            let segments = shared.layout.segments();
            shared.fs.sync_dir(&segments).map_err(|e| Error::io("sync", &segments, e))?;
        }
        active.0.sync_data().map_err(|e| Error::io("sync", &active.1, e))
    }
}

/// A frame as its producer made it: header draft and the body's pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Staged<'a> {
    pub(crate) draft: frame::Draft,
    /// A lone record's word.
    pub(crate) word: Option<[u8; 4]>,
    pub(crate) pieces: [&'a [u8]; 3],
}

impl Staged<'_> {
    /// Bytes with padding.
    #[inline]
    pub(crate) fn stride(&self) -> usize {
        (self.draft.len as usize).next_multiple_of(frame::ALIGN)
    }

    /// Lays the frame out; place and header checksum come later, from the writer.
    #[inline]
    pub(crate) fn fill(&self, to: &mut [u8]) {
        // The padding first: the pieces then overwrite what of it is theirs.
        if let Some(last) = to.last_chunk_mut::<8>() {
            *last = [0; 8];
        }
        let (header, mut rest) = to.split_at_mut(FRAME_HEADER);
        header.copy_from_slice(&self.draft.header(0));
        if let Some(word) = self.word {
            let (now, after) = rest.split_at_mut(4);
            now.copy_from_slice(&word);
            rest = after;
        }
        for piece in self.pieces {
            if !piece.is_empty() {
                let (now, after) = rest.split_at_mut(piece.len());
                staging::copy(now, piece);
                rest = after;
            }
        }
    }

    /// The checksum of the body with its padding.
    pub(crate) fn body_crc(&self) -> u32 {
        let padding = &[0; 8][..self.stride() - self.draft.len as usize];
        let word = self.word.as_ref().map_or(&[][..], |word| word);
        let crc = crc::append(0, word);
        let crc = self.pieces.iter().fold(crc, |crc, piece| crc::append(crc, piece));
        crc::append(crc, padding)
    }
}

impl Writer {
    pub(crate) fn new(owner: staging::Owner, start: Start, producers: Producers) -> Self {
        Writer {
            owner,
            start: Some(start),
            active: None,
            unwritten: None,
            rolling: None,
            producers,
            unsynced: Vec::new(),
            names_unsynced: false,
            closed: false,
        }
    }

    /// Brings the log to where frames can be written; what a full disk stopped is tried again.
    pub(crate) fn ready(&mut self, shared: &Shared) -> Result<()> {
        if let Some(error) = shared.poison.get() {
            return Err(error.clone());
        }
        if self.closed {
            return Err(Error::new(Kind::Closed, "the log was closed"));
        }
        if let Some(error) = &shared.refuses {
            return Err(error.clone());
        }
        if let Some(start) = self.start.take()
            && let Err((start, error)) = start.run(self, shared)
        {
            self.start = start.map(|start| *start);
            // Nothing was appended, and the plan can be followed another time.
            let again = matches!(error.kind(), Kind::DiskFull | Kind::ReadOnly);
            return Err(if self.start.is_some() && again { error } else { shared.poisoned(error) });
        }
        self.drain(shared)
    }

    /// Writes everything staged. `durable` says that a sync follows.
    pub(crate) fn flush(&mut self, shared: &Shared, durable: bool) -> Result<()> {
        if self.active.is_none() {
            return Ok(());
        }
        self.drain(shared)?;
        let closed = self.owner.close();
        if closed.len == self.active().carried() {
            self.owner.reopen();
            return Ok(());
        }
        self.write_closed(shared, closed, &[], 0, false, durable)?;
        Ok(())
    }

    /// Makes room for a frame of `len` bytes, by writing what is staged and rolling if need be.
    pub(crate) fn make_room(&mut self, shared: &Shared, len: usize) -> Result<()> {
        self.ready(shared)?;
        if shared.staging.fits(len) {
            return Ok(());
        }
        let closed = self.owner.close();
        let active = self.active();
        let left =
            shared.options.segment_bytes.saturating_sub(active.page_byte + closed.len as u64);
        if len as u64 > left && (active.tally.records > 0 || closed.records > 0) {
            self.roll(shared, closed, &[], 0, false, Who::Worker)?;
            return Ok(());
        }
        if closed.len == active.carried() {
            self.owner.reopen();
            return Ok(());
        }
        let Prepared { tail, offset } = self.prepare(shared, closed, false)?;
        let base = self.active().base(offset, shared);
        self.owner.open(base, &[&tail], 0, false);
        self.finish(shared, Who::Worker)
    }

    /// Appends one frame by the writer's own hand, behind everything staged: control frames,
    /// frames larger than staging, conditional and producer appends. `check` runs when nothing
    /// can be appended before it any more, and with `settle` when everything before is written;
    /// its error leaves the log as it was.
    pub(crate) fn append_alone(
        &mut self,
        shared: &Shared,
        staged: &Staged<'_>,
        settle: bool,
        check: impl FnOnce(Offset) -> Result<()>,
    ) -> Result<(Offset, LogByte)> {
        self.ready(shared)?;
        let mut closed = self.owner.close();
        if settle && closed.len != self.active().carried() {
            closed = self.write_closed(shared, closed, &[], 0, true, false)?;
        }
        let (_, next) = shared.staging.end();
        if let Err(error) = check(Offset(next)) {
            self.owner.reopen();
            return Err(error);
        }
        let len = staged.stride();
        let mut own = vec![0; len];
        staged.fill(&mut own);
        let active = self.active();
        let at = active.page_byte + closed.len as u64;
        let roll = at + len as u64 > shared.options.segment_bytes
            && (active.tally.records > 0 || closed.records > 0);
        let records = u64::from(staged.draft.count);
        let fresh = room(HEADER_BYTES, shared.options.segment_bytes);
        if len + PAGE > fresh {
            return self.append_large(shared, closed, own, records, roll);
        }
        let log_byte = if roll {
            active.header().log_byte(at) + SEAL_BYTES + len as u64
        } else {
            active.header().log_byte(at) + len as u64
        };
        let offset = Offset(next);
        if roll {
            self.roll(shared, closed, &own, records, false, Who::Caller)
                .map_err(|e| unknown(e, offset))?;
        } else if closed.len == active.carried() {
            // Nothing else is staged: put the frame behind the carried tail.
            let carried = closed.len;
            let head = self.owner.bytes(closed)[..carried].to_vec();
            let base = self.active().base(Offset(next), shared);
            self.owner.open(base, &[&head, &own], records, false);
        } else {
            self.write_closed(shared, closed, &own, records, false, false)
                .map_err(|e| unknown(e, offset))?;
        }
        Ok((offset, LogByte(log_byte)))
    }

    /// A frame that does not fit staging: written at once from memory of its own.
    fn append_large(
        &mut self,
        shared: &Shared,
        closed: Closed,
        own: Vec<u8>,
        records: u64,
        roll: bool,
    ) -> Result<(Offset, LogByte)> {
        let (_, next) = shared.staging.end();
        // Everything staged goes first; the buffer that follows stays closed.
        let mut carried = closed;
        if roll {
            carried = self.roll(shared, closed, &[], 0, true, Who::Caller)?;
        } else if closed.len != self.active().carried() {
            carried = self.write_closed(shared, closed, &[], 0, true, false)?;
        }
        let head = self.owner.bytes(carried)[..carried.len].to_vec();
        let active = self.active.as_mut().expect("ready() made it");
        let at = active.page_byte;
        let mut bytes = head;
        let from = bytes.len();
        bytes.extend_from_slice(&own);
        let durable = shared.ends.durable_byte.load(Acquire);
        active.stamp(&mut bytes, from, durable)?;
        let len = bytes.len();
        let padded = (len as u64).next_multiple_of(PAGE_BYTES);
        bytes.resize(usize::try_from(padded).expect("a frame's size"), 0);
        let tail = len as u64 / PAGE_BYTES * PAGE_BYTES;
        let carry = bytes[usize::try_from(tail).expect("a frame's size")..len].to_vec();
        let end = LogByte(active.header().log_byte(active.tally.end));
        let end_offset = Offset(next + records);
        active.page_byte = at + tail;
        self.unwritten = Some(Unwritten {
            len: bytes.len(),
            bytes: Pending::Own(bytes),
            at,
            done: 0,
            end,
            end_offset,
            zeros_ahead: false,
        });
        let base = self.active().base(end_offset, shared);
        self.owner.open(base, &[&carry], 0, false);
        self.drain(shared).map_err(|e| unknown(e, Offset(next)))?;
        Ok((Offset(next), end))
    }

    /// Stamps a closed buffer, opens the other one behind it, and writes the closed one.
    fn write_closed(
        &mut self,
        shared: &Shared,
        closed: Closed,
        own: &[u8],
        records: u64,
        stay_closed: bool,
        durable: bool,
    ) -> Result<Closed> {
        let Prepared { tail, offset } = self.prepare(shared, closed, durable)?;
        let base = self.active().base(offset, shared);
        let opened = self.owner.open(base, &[&tail, own], records, stay_closed);
        self.drain(shared)?;
        Ok(opened)
    }

    /// The same, the other buffer starting a new segment.
    fn roll(
        &mut self,
        shared: &Shared,
        closed: Closed,
        own: &[u8],
        records: u64,
        stay_closed: bool,
        who: Who,
    ) -> Result<Closed> {
        let mut offset = Offset(shared.staging.end().1);
        if closed.len != self.active().carried() {
            offset = self.prepare(shared, closed, false)?.offset;
        }
        let active = self.active();
        let header = SegmentHeader {
            log: shared.log.id,
            base: LogByte(active.tally.sealed_end(active.header())),
            base_offset: offset,
            epoch: active.header().epoch,
            salt: shared.random_u64()?,
            created: shared.fs.now(),
            previous: Some(Link {
                base: active.header().base,
                end: LogByte(active.tally.sealed_end(active.header())),
                fingerprint: active.tally.fingerprint,
            }),
        };
        // The next buffer is for the new segment and fills while its file is made ready.
        let base = Base {
            log_byte: header.base.0,
            offset: offset.0,
            room: room(HEADER_BYTES, shared.options.segment_bytes),
        };
        let opened = self.owner.open(base, &[own], records, stay_closed);
        self.rolling = Some(header);
        self.finish(shared, who)?;
        Ok(opened)
    }

    /// Writes what was closed, or leaves that to the worker, so that a producer of bulk goes on
    /// filling the other buffer meanwhile. Whoever takes the lock next finishes it if the worker
    /// has not.
    fn finish(&mut self, shared: &Shared, who: Who) -> Result<()> {
        if who == Who::Worker && shared.options.worker && !shared.stalled.load(Relaxed) {
            shared.worker.write_soon();
            return Ok(());
        }
        self.drain(shared)
    }

    /// Stamps a closed buffer and queues it for writing.
    fn prepare(&mut self, shared: &Shared, closed: Closed, durable: bool) -> Result<Prepared> {
        let (_, offset) = shared.staging.end();
        let isolate = shared.options.isolate_groups && durable;
        let active = self.active.as_mut().expect("ready() made it");
        let from = active.carried();
        let bytes = self.owner.bytes(closed);
        let mut len = closed.len;
        let durable_byte = shared.ends.durable_byte.load(Acquire);
        if isolate && !(len as u64).is_multiple_of(PAGE_BYTES) {
            len = pad_to_page(bytes, len, shared.fs.now_coarse());
        }
        active.stamp(&mut bytes[..len], from, durable_byte)?;
        let padded = len.next_multiple_of(PAGE);
        bytes[len..padded].fill(0);
        let tail_from = len - len % PAGE;
        let tail = bytes[tail_from..len].to_vec();
        let small = (len - from) as u64 <= SMALL_GROUP_BYTES;
        self.unwritten = Some(Unwritten {
            bytes: Pending::Staged(closed),
            at: active.page_byte,
            len: padded,
            done: 0,
            end: LogByte(active.header().log_byte(active.tally.end)),
            end_offset: Offset(offset),
            zeros_ahead: durable && small && shared.options.preallocate != Preallocate::Grow,
        });
        active.page_byte += tail_from as u64;
        Ok(Prepared { tail, offset: Offset(offset) })
    }

    /// Finishes what was begun: the write, then the roll. Safe to call again after a full disk.
    pub(crate) fn drain(&mut self, shared: &Shared) -> Result<()> {
        let result = self.write_pending(shared).and_then(|()| self.finish_roll(shared));
        match result {
            Ok(()) => {
                if shared.stalled.swap(false, AcqRel) {
                    self.owner.reopen();
                }
                Ok(())
            }
            Err(error) if error.kind() == Kind::DiskFull => {
                // No further offset is given out until space returns.
                self.owner.close();
                shared.stalled.store(true, Release);
                shared.rounds.wake_everyone();
                Err(error)
            }
            Err(error) => Err(shared.poisoned(error)),
        }
    }

    fn write_pending(&mut self, shared: &Shared) -> Result<()> {
        let Some(unwritten) = &mut self.unwritten else { return Ok(()) };
        let active = self.active.as_mut().expect("something was staged for it");
        let path = &active.segment.path;
        let bytes = match &unwritten.bytes {
            Pending::Staged(closed) => &self.owner.written_bytes(*closed)[..unwritten.len],
            Pending::Own(bytes) => bytes,
        };
        while unwritten.done < unwritten.len {
            let at = unwritten.at + unwritten.done as u64;
            match active.file.write_at(&bytes[unwritten.done..], at) {
                Ok(0) => return Err(full(path)),
                Ok(n) => unwritten.done += n,
                Err(e) => return Err(Error::io("write", path, e).at_byte(at)),
            }
        }
        let end = unwritten.at + unwritten.len as u64;
        if unwritten.zeros_ahead && end > active.filled_to {
            let to = (end + STEP_BYTES).min(shared.options.segment_bytes);
            active.filled_to = fill(&*active.file, end, to);
        }
        active.filled_to = active.filled_to.max(end);
        active.segment.publish_index(active.tally.index.as_bytes());
        shared.publish_written(unwritten.end, unwritten.end_offset);
        self.unwritten = None;
        Ok(())
    }

    /// Makes the new segment's file ready and lets the old one be sealed.
    fn finish_roll(&mut self, shared: &Shared) -> Result<()> {
        let Some(header) = self.rolling else { return Ok(()) };
        let (file, path, filled_to) = create_segment(shared, &header)?;
        self.rolling = None;
        self.names_unsynced = true;
        let segment = Arc::new(Segment::unsealed(header, path, Arc::clone(&file)));
        shared.catalog.update(|segments| segments.push(Arc::clone(&segment)));
        let new =
            Active { segment, file, tally: Tally::default(), page_byte: HEADER_BYTES, filled_to };
        if let Some(old) = self.active.replace(new) {
            let end = (old.tally.end, old.tally.end_offset(old.header()));
            let _ = old.segment.end.set(end);
            self.unsynced.push((Arc::clone(&old.file), old.segment.path.clone()));
            shared.worker.seal(SealJob { segment: old.segment, file: old.file, tally: old.tally });
        }
        Ok(())
    }

    /// Starts a segment with nothing before it to be written; used when an epoch begins.
    pub(crate) fn begin_segment(
        &mut self,
        shared: &Shared,
        header: SegmentHeader,
        epoch_start: &[u8],
    ) -> Result<()> {
        self.rolling = Some(header);
        if let Err(error) = self.finish_roll(shared) {
            self.rolling = None;
            return Err(error);
        }
        shared.set_epoch(header.epoch);
        let base = self.active().base(header.base_offset, shared);
        self.owner.open(base, &[epoch_start], 0, false);
        Ok(())
    }

    /// Goes on in the segment that a clean close left.
    pub(crate) fn resume_segment(
        &mut self,
        shared: &Shared,
        segment: Arc<Segment>,
        file: Arc<dyn File>,
        tally: Tally,
    ) -> Result<()> {
        let page_byte = tally.end / PAGE_BYTES * PAGE_BYTES;
        let mut tail = vec![0; usize::try_from(tally.end - page_byte).expect("within a page")];
        file.read_exact_at(&mut tail, page_byte)
            .map_err(|e| Error::io("read", &segment.path, e))?;
        let offset = tally.end_offset(&segment.header);
        segment.publish_index(tally.index.as_bytes());
        let active = Active { segment, file, tally, page_byte, filled_to: page_byte };
        let base = active.base(offset, shared);
        self.active = Some(active);
        self.owner.open(base, &[&tail], 0, false);
        Ok(())
    }

    /// What the next sync must cover. Everything staged was flushed before.
    pub(crate) fn sync_set(&mut self, shared: &Shared) -> Option<SyncSet> {
        let (end, end_offset) = shared.ends.written();
        let active = self.active.as_ref()?;
        let mut files = std::mem::take(&mut self.unsynced);
        let names = std::mem::take(&mut self.names_unsynced);
        files.push((Arc::clone(&active.file), active.segment.path.clone()));
        Some(SyncSet { files, names, end, end_offset })
    }

    /// The segment being written, for a clean close: its file, path and frames.
    pub(crate) fn current(&self) -> Option<(&Arc<Segment>, &Arc<dyn File>, &Tally)> {
        self.active.as_ref().map(|active| (&active.segment, &active.file, &active.tally))
    }

    fn active(&self) -> &Active {
        self.active.as_ref().expect("ready() made it")
    }
}

/// Who writes a closed buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Caller,
    Worker,
}

struct Prepared {
    /// Bytes of the last, partial page.
    tail: Vec<u8>,
    /// The next record's offset.
    offset: Offset,
}

impl Active {
    fn header(&self) -> &SegmentHeader {
        &self.segment.header
    }

    /// Bytes at the start of the open buffer that belong to frames written before.
    fn carried(&self) -> usize {
        usize::try_from(self.tally.end - self.page_byte).expect("within a buffer")
    }

    fn base(&self, offset: Offset, shared: &Shared) -> Base {
        Base {
            log_byte: self.header().log_byte(self.page_byte),
            offset: offset.0,
            room: room(self.page_byte, shared.options.segment_bytes),
        }
    }

    /// Gives every frame in `bytes[from..]` its place and its durable claim, and tallies it.
    fn stamp(&mut self, bytes: &mut [u8], from: usize, durable: u64) -> Result<()> {
        let header = self.segment.header;
        let seed = header.seed();
        let mut at = from;
        while at < bytes.len() {
            let byte = self.page_byte + at as u64;
            let (head, body) = bytes[at..]
                .split_first_chunk_mut::<FRAME_HEADER>()
                .expect("staging holds whole frames");
            let back = frame::durable_back(header.log_byte(byte), durable);
            frame::place(head, self.tally.records);
            frame::stamp(head, seed, byte, back);
            let head = frame::Header::staged(head);
            let frame =
                frame::Frame { header: head, body: &body[..head.len as usize - FRAME_HEADER] };
            self.tally
                .note(&frame, header.base_offset)
                .map_err(|fault| Error::new(Kind::InvalidInput, fault.as_str()))?;
            at += head.stride();
        }
        Ok(())
    }
}

/// Room for frames in a buffer that starts at `page_byte` of a segment.
fn room(page_byte: u64, segment_bytes: u64) -> usize {
    usize::try_from(segment_bytes.saturating_sub(page_byte)).unwrap_or(usize::MAX).min(ROOM_BYTES)
}

/// Writes a pad frame from `len` to the end of the page; returns the new length.
fn pad_to_page(bytes: &mut [u8], len: usize, now: i64) -> usize {
    let page = PAGE;
    let mut end = len.next_multiple_of(page);
    if end - len < FRAME_HEADER {
        end += page;
    }
    let body = &mut bytes[len + FRAME_HEADER..end];
    body.fill(0);
    let draft = frame::Draft {
        len: u32::try_from(end - len).expect("at most two pages"),
        max_timestamp: now,
        body_crc: crc::crc32c(body),
        count: 0,
        kind: FrameKind::Pad,
        flags: 0,
    };
    bytes[len..len + FRAME_HEADER].copy_from_slice(&draft.header(0));
    end
}

fn full(path: &std::path::Path) -> Error {
    Error::io("write", path, std::io::ErrorKind::StorageFull.into())
}

/// The same error, for records that have an offset already and may yet be written.
pub(crate) fn unknown(error: Error, offset: Offset) -> Error {
    match error.kind() {
        Kind::DiskFull => Error::new(
            Kind::Unknown,
            format!(
                "{}; the record is held in memory and is written when there is space again",
                error.message()
            ),
        )
        .at_offset(offset.0)
        .help("free space; a later sync says whether it became durable"),
        _ => error,
    }
}
