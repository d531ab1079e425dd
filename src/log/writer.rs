//! The writer: one at a time behind a lock, it writes what was taken in and stamped.
//!
//! Called by group commit (`sync`), by appends that find no room, and by the worker. Uses
//! `intake`, `stamp`, `segment` and `fs`.
//!
//! ```text
//! flush:  line up what is staged → drain
//! drain:  per buffer: stamp, unless that was done ahead → pwrite pages → roll, if the segment ends
//! roll:   the next segment's header → sync → rename
//! ```
//!
//! Invariants:
//! - whole 4 KiB pages are written; the last partial page is carried over and written again with
//!   its bytes unchanged;
//! - a new segment gets its first frame only after its header is durable and its name is there;
//! - what a full disk refused stays in memory and is tried again, the same bytes at the same place;
//! - any other failed write, and any failed sync, poisons the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::frame::{self, FrameKind, HEADER_BYTES as FRAME_HEADER};
use crate::fs::File;
use crate::mutant::{self, Mutant};
use crate::position::{LogByte, Offset};
use crate::segment::{HEADER_BYTES, PAGE_BYTES, Producers, SegmentHeader, Tally};

use super::Shared;
use super::catalog::Segment;
use super::options::Visibility;
use super::prepare::{Naming, Ready, fill};
use super::staging;
use super::stamp::{Roll, Stamped};
use super::start::Start;
use super::worker::SealJob;

/// Zeros written ahead of small durable groups, so that their syncs overwrite written blocks; and
/// at a time in quiet moments.
const STEP_BYTES: u64 = 256 << 10;

/// Everything the writer's lock guards.
#[derive(Debug)]
pub(crate) struct Writer {
    /// What must happen before the first write.
    pub(crate) start: Option<Start>,
    active: Option<Active>,
    /// Refused by a full disk, to be tried again before anything else.
    unwritten: Option<Stamped>,
    /// A roll that is not finished.
    rolling: Option<Roll>,
    /// The last batch of every producer, staged ones included.
    pub(crate) producers: Producers,
    /// Rolled files whose frames may not be synced yet, with the log byte behind them.
    unsynced: Vec<(Arc<dyn File>, PathBuf, LogByte)>,
    /// A sync follows what is being written.
    syncing: bool,
    pub(crate) closed: bool,
}

/// The segment being written.
#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    /// The file holds blocks up to here, written or zeroed.
    filled_to: u64,
}

/// What a sync must cover, taken under the lock and synced outside it.
#[derive(Debug)]
pub(crate) struct SyncSet {
    files: Vec<(Arc<dyn File>, PathBuf)>,
    pub(crate) end: LogByte,
    pub(crate) end_offset: Offset,
}

impl SyncSet {
    /// Segments that were rolled since the last sync.
    pub(crate) fn rolled(&self) -> usize {
        self.files.len() - 1
    }

    /// Leaves those out: they were synced otherwise.
    pub(crate) fn forget_rolled(&mut self) {
        self.files.drain(..self.rolled());
    }

    /// Makes everything durable: older segments, then names, then the active segment, so that
    /// no frame is durable before all that precede it. A name that waited for this comes last.
    pub(crate) fn sync(&self, shared: &Shared) -> Result<()> {
        let (active, rolled) = self.files.split_last().expect("the active file is always there");
        let rolled = if mutant::on(Mutant::SkipRolledSync) { &[] } else { rolled };
        for (file, path) in rolled {
            file.sync_data().map_err(|e| unsynced(path, e))?;
        }
        sync_names(shared)?;
        if !mutant::on(Mutant::SkipDataSync) {
            active.0.sync_data().map_err(|e| unsynced(&active.1, e))?;
        }
        if shared.unnamed_from.load(Acquire) != u64::MAX {
            shared.worker.next_file().name(shared, Naming::WhenSynced)?;
        }
        sync_names(shared)
    }
}

/// Closes the crash that forgets a new segment's name.
fn sync_names(shared: &Shared) -> Result<()> {
    if !shared.names_unsynced.swap(false, AcqRel) || mutant::on(Mutant::SkipDirectorySync) {
        return Ok(());
    }
    let segments = shared.layout.segments();
    shared.fs.sync_dir(&segments).map_err(|e| unsynced(&segments, e))
}

/// A failed sync, for whatever reason, leaves in doubt what the disk holds: a full one, too.
fn unsynced(path: &Path, error: std::io::Error) -> Error {
    Error::io("sync", path, error).with_kind(Kind::Io)
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
    #[inline(always)]
    pub(crate) fn fill(&self, to: &mut [u8]) {
        // The padding first: the pieces then overwrite what of it is theirs.
        if let Some(last) = to.last_chunk_mut::<8>() {
            *last = [0; 8];
        }
        let (header, mut rest) = to.split_at_mut(FRAME_HEADER);
        header.copy_from_slice(&self.draft.header());
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
    #[inline(always)]
    pub(crate) fn body_crc(&self) -> u32 {
        let padding = &[0; 8][..self.stride() - self.draft.len as usize];
        let word = self.word.as_ref().map_or(&[][..], |word| word);
        let [a, b, c] = self.pieces;
        crc::joined(&[word, a, b, c, padding])
    }
}

impl Writer {
    pub(crate) fn new(start: Start, producers: Producers) -> Self {
        Writer {
            start: Some(start),
            active: None,
            unwritten: None,
            rolling: None,
            producers,
            unsynced: Vec::new(),
            syncing: false,
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

    /// Writes everything taken in so far. `durable` says that a sync follows.
    pub(crate) fn flush(&mut self, shared: &Shared, durable: bool) -> Result<()> {
        if self.active.is_none() {
            return Ok(());
        }
        let now = shared.fs.now_coarse();
        let isolate = durable && shared.options.isolate_groups;
        self.syncing = durable;
        let flushed = loop {
            if let Err(e) = self.drain(shared) {
                break Err(e);
            }
            let pad = isolate.then_some(|bytes: &mut [u8]| pad(bytes, now));
            if shared.intake().line_up(durable, pad) {
                break self.drain(shared);
            }
        };
        self.syncing = false;
        flushed
    }

    /// Appends one frame by the writer's own hand, behind everything taken in: control frames,
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
        let next = shared.intake().hold();
        let placed = self.place(shared, staged, settle, next, check);
        if !shared.stalled.load(Acquire) {
            shared.intake().resume();
        }
        if shared.options.worker {
            shared.worker.arm();
        }
        placed
    }

    /// The same, while the intake is held.
    fn place(
        &mut self,
        shared: &Shared,
        staged: &Staged<'_>,
        settle: bool,
        next: Offset,
        check: impl FnOnce(Offset) -> Result<()>,
    ) -> Result<(Offset, LogByte)> {
        if settle {
            self.flush(shared, false)?;
        }
        check(next)?;
        let len = staged.stride();
        let records = u64::from(staged.draft.count);
        let stageable = shared.intake().is_stageable(len);
        if !stageable || !shared.intake().fits_here(len) {
            // Nothing has been given an offset yet: a full disk leaves the log as it was.
            self.drain(shared)?;
            shared.intake().advance(len);
        }
        if stageable {
            let mut intake = shared.intake();
            intake.place(len, records, |bytes| staged.fill(bytes));
            return Ok((next, intake.end().0));
        }
        // What is before it, a roll among it, goes first.
        self.drain(shared)?;
        let mut own = vec![0; len];
        staged.fill(&mut own);
        let end = shared.intake().line_up_own(own, records);
        self.drain(shared).map_err(|e| unknown(e, next))?;
        Ok((next, end))
    }

    /// Writes what is lined up, and rolls where a segment ends. Safe to call again after a full
    /// disk.
    pub(crate) fn drain(&mut self, shared: &Shared) -> Result<()> {
        match self.write_all(shared) {
            Ok(()) => {
                if shared.stalled.swap(false, AcqRel) {
                    shared.intake().resume();
                }
                Ok(())
            }
            Err(error) if error.kind() == Kind::DiskFull => {
                // No further offset is given out until space returns.
                shared.intake().hold();
                shared.stalled.store(true, Release);
                shared.rounds.wake_everyone();
                shared.freed.all();
                Err(error)
            }
            Err(error) => Err(shared.poisoned(error)),
        }
    }

    fn write_all(&mut self, shared: &Shared) -> Result<()> {
        loop {
            self.write_pending(shared)?;
            self.finish_roll(shared)?;
            self.unwritten = shared.stamper().next(shared)?;
            if self.unwritten.is_none() {
                return Ok(());
            }
        }
    }

    fn write_pending(&mut self, shared: &Shared) -> Result<()> {
        let Some(unwritten) = &mut self.unwritten else { return Ok(()) };
        let active = self.active.as_mut().expect("something was taken in for it");
        let path = &active.segment.path;
        let bytes = unwritten.bytes.pages();
        while unwritten.done < bytes.len() {
            let at = unwritten.at + unwritten.done as u64;
            match active.file.write_at(&bytes[unwritten.done..], at) {
                Ok(0) => return Err(full(path)),
                Ok(n) => unwritten.done += n,
                Err(e) => return Err(Error::io("write", path, e).at_byte(at)),
            }
        }
        let end = unwritten.at + bytes.len() as u64;
        if unwritten.zeros_ahead && end > active.filled_to {
            let to = (end + STEP_BYTES).min(shared.options.segment_bytes);
            active.filled_to = fill(&*active.file, end, to);
        }
        active.filled_to = active.filled_to.max(end);
        active.segment.add_to_index(&unwritten.index);
        shared.publish_written(unwritten.end, unwritten.end_offset);
        self.rolling = unwritten.roll.take();
        self.unwritten = None;
        shared.buffer_written();
        Ok(())
    }

    /// Writes the next piece of zeros, at most `ahead` of the frames, for a quiet moment; returns
    /// the file, to be synced, or none when there is nothing to fill.
    pub(crate) fn fill_on(
        &mut self,
        shared: &Shared,
        ahead: u64,
    ) -> Option<(Arc<dyn File>, PathBuf)> {
        if self.unwritten.is_some() || self.rolling.is_some() || self.closed {
            return None;
        }
        let active = self.active.as_mut()?;
        let end = shared.ends.written().0.0.saturating_sub(active.segment.header.base.0);
        let from = active.filled_to;
        let to = (from + STEP_BYTES).min(end + ahead).min(shared.options.segment_bytes);
        active.filled_to = fill(&*active.file, from, to);
        (active.filled_to > from).then(|| (Arc::clone(&active.file), active.segment.path.clone()))
    }

    /// Makes the new segment's file ready and lets the old one be sealed.
    fn finish_roll(&mut self, shared: &Shared) -> Result<()> {
        let Some(Roll { header, .. }) = self.rolling else { return Ok(()) };
        // What was shown, or called written, survives a kill: then the name cannot wait.
        let naming = match self.syncing && shared.options.visibility == Visibility::Durable {
            true => Naming::WhenSynced,
            false => Naming::Now,
        };
        let ready = shared.worker.next_file().create(shared, &header, naming)?;
        let Ready { file, path, filled_to } = ready;
        let segment = Arc::new(Segment::unsealed(header, path, Arc::clone(&file)));
        shared.catalog.update(|segments| segments.push(Arc::clone(&segment)));
        let old = self.active.replace(Active { segment, file, filled_to });
        let tally = self.rolling.take().and_then(|roll| roll.old);
        if let Some((Active { segment, file, .. }, tally)) = old.zip(tally) {
            let _ = segment.end.set((tally.end, tally.end_offset(&segment.header)));
            let end = LogByte(segment.header.log_byte(tally.end));
            self.unsynced.push((Arc::clone(&file), segment.path.clone(), end));
            shared.worker.seal(SealJob { segment, file, tally });
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
        self.rolling = Some(Roll { header, old: None });
        if let Err(error) = self.finish_roll(shared) {
            self.rolling = None;
            return Err(error);
        }
        shared.set_epoch(header.epoch);
        shared.stamper().begin(header, Tally::default(), Vec::new());
        let mut intake = shared.intake();
        intake.begin(header.base, HEADER_BYTES, header.base_offset, false);
        intake.place(epoch_start.len(), 0, |bytes| bytes.copy_from_slice(epoch_start));
        intake.resume();
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
        let header = segment.header;
        let (end, end_offset) = (tally.end, tally.end_offset(&header));
        let records = tally.records > 0;
        let filled_to = end.next_multiple_of(PAGE_BYTES);
        self.active = Some(Active { segment, file, filled_to });
        shared.stamper().begin(header, tally, tail);
        let mut intake = shared.intake();
        intake.begin(header.base, end, end_offset, records);
        intake.resume();
        Ok(())
    }

    /// What the next sync must cover. Everything staged was flushed before.
    pub(crate) fn sync_set(&mut self, shared: &Shared) -> Option<SyncSet> {
        let (end, end_offset) = shared.ends.written();
        let active = self.active.as_ref()?;
        let (durable, _) = shared.ends.durable();
        let unsynced = std::mem::take(&mut self.unsynced);
        // Behind durable appends a segment is often durable to its last frame when it is rolled.
        let lacking = unsynced.into_iter().filter(|(_, _, end)| *end > durable);
        let mut files: Vec<_> = lacking.map(|(file, path, _)| (file, path)).collect();
        files.push((Arc::clone(&active.file), active.segment.path.clone()));
        Some(SyncSet { files, end, end_offset })
    }

    /// The segment being written and its file, for a clean close.
    pub(crate) fn current(&self) -> Option<(&Arc<Segment>, &Arc<dyn File>)> {
        self.active.as_ref().map(|active| (&active.segment, &active.file))
    }
}

/// Makes a pad frame of `bytes`.
fn pad(bytes: &mut [u8], now: i64) {
    bytes.fill(0);
    let draft = frame::Draft {
        len: u32::try_from(bytes.len()).expect("at most two pages"),
        max_timestamp: now,
        body_crc: crc::crc32c(&bytes[FRAME_HEADER..]),
        count: 0,
        kind: FrameKind::Pad,
        flags: 0,
    };
    bytes[..FRAME_HEADER].copy_from_slice(&draft.header());
}

fn full(path: &Path) -> Error {
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
