//! This node's copy: the segment files of a follower, and how they grow.
//!
//! Called by `pull` with frames that it has checked. Every step closes a crash:
//! - a segment begins as a temporary file with header and first frames, synced, then renamed, and
//!   the directory synced: a named segment has a valid header and at least one frame;
//! - PROMISE and EPOCHS know an epoch before the first segment of it has its name;
//! - frames are appended whole and synced; then STATE says how far, unsynced: a hint that is
//!   never ahead of what is durable;
//! - sealing is `segment::seal`, which gives the leader's bytes because it depends on header and
//!   frames alone.
//!
//! After a failed write (but for a full disk) or a failed sync nothing is written any more:
//! opening again finds out what is there.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::frame::{
    EpochStart, Frame, FrameKind, GaveUp, HEADER_BYTES as FRAME_HEADER, Header, SyncSet,
};
use crate::fs::{File, Fs, Open};
use crate::log::commit::End;
use crate::log::files::{Control, EpochEntry, Epochs, Layout, Promise, Repaired, SetLine, State};
use crate::log::promises::Promises;
use crate::log::scan::Footers;
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, LogByte, Position};
use crate::segment::{
    Footer, HEADER_BYTES, Hashing, PAGE_BYTES, SEAL_BYTES, SegmentHeader, SegmentName, Tally,
    seal_with,
};
use crate::ship::LastFrame;

use super::hashing::{HashBeside, SoFar};
use super::writeout::{self, WriteOut};

/// The copied segments.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) layout: Layout,
    pub(super) log: Id,
    pub(super) node: Id,
    pub(super) control: Control,
    pub(super) epochs: Epochs,
    pub(super) promises: Promises,
    /// The newest sealed segment.
    pub(super) sealed: Option<Footer>,
    /// Of the segments that were sealed when it was opened.
    pub(super) footers: Arc<Footers>,
    /// The segment that grows, behind the sealed ones.
    pub(super) active: Option<Active>,
    /// What may be shown of it: at most what is here, and at most what the leader has committed.
    pub(super) committed: End,
    /// The first failure after which nothing can be trusted to be durable.
    pub(super) failed: Option<Error>,
    pub(super) state_seq: u64,
    pub(super) state_file: Option<Arc<dyn File>>,
    /// Whether it may have threads,
    pub(super) threads: bool,
    /// and the one that writes out early,
    pub(super) early: Option<WriteOut>,
    /// with what is durable once the piece under way is.
    pub(super) under_way: Option<Mark>,
    pub(super) hasher: HashBeside,
    /// What the next piece is fetched into,
    pub(super) buffer: Vec<u8>,
    /// and those behind it.
    pub(super) spare: Vec<Vec<u8>>,
}

/// The segment that grows.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) header: SegmentHeader,
    /// The header page as the leader wrote it.
    pub(super) page: Vec<u8>,
    pub(super) tally: Tally,
    /// Where the last frame starts.
    pub(super) last_frame: u64,
    /// The seal hash so far.
    pub(super) hash: SoFar,
    pub(super) unsynced: bool,
    /// What is synced of a copy that has more.
    pub(super) synced: Mark,
    /// Bytes written since the last sync, early ones included.
    pub(super) dirty: u64,
}

/// A place in the copy: everything before it, and the last frame there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    pub(super) end: Position,
    pub(super) last: Option<LastFrame>,
}

/// Whole frames that were checked against the segment they come from.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// The frames, and room behind them.
    pub(super) buffer: Vec<u8>,
    /// Bytes of frames.
    pub(super) len: usize,
    /// Where the last one starts, relative to the first.
    pub(super) last_frame: u64,
    /// The offset behind them, relative to the segment's first.
    pub(super) rel_end: u32,
    /// Whether a synchronous set is among them.
    pub(super) sets: bool,
}

impl Fetched {
    /// The frames.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// The same, with zeros to the end of the last page, when the first one stands at `at`: see
    /// [`write_pages`].
    fn pages(&mut self, at: u64) -> &[u8] {
        let end = self.len + padding(at + self.len as u64);
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.buffer[self.len..end].fill(0);
        &self.buffer[..end]
    }
}

impl Copy {
    /// Behind the last frame that is here.
    pub(super) fn end(&self) -> Position {
        match (&self.active, &self.sealed) {
            (Some(active), _) => Position {
                epoch: active.header.epoch,
                log_byte: LogByte(active.header.log_byte(active.tally.end)),
                offset: active.tally.end_offset(&active.header),
            },
            (None, Some(footer)) => {
                Position { epoch: footer.epoch, log_byte: footer.end(), offset: footer.end_offset }
            }
            // It begins where a snapshot stands, or at the log's beginning.
            (None, None) => Position {
                epoch: self.epochs.0.last().map_or_else(Epoch::default, |entry| entry.epoch),
                log_byte: self.control.floor,
                offset: self.control.floor_offset,
            },
        }
    }

    /// The last frame that is here.
    pub(super) fn last_frame(&self) -> Option<LastFrame> {
        match (&self.active, &self.sealed) {
            (Some(active), _) => Some(LastFrame {
                growing: Some(active.header.base),
                start: LogByte(active.header.log_byte(active.last_frame)),
                fingerprint: active.tally.fingerprint,
            }),
            (None, Some(footer)) => Some(LastFrame {
                growing: None,
                start: footer.base,
                fingerprint: footer.fingerprint,
            }),
            (None, None) => None,
        }
    }

    fn mark(&self) -> Mark {
        Mark { end: self.end(), last: self.last_frame() }
    }

    /// How far it is synced.
    pub(super) fn synced(&self) -> Mark {
        match &self.active {
            Some(active) if active.unsynced => active.synced,
            _ => self.mark(),
        }
    }

    /// Begins a segment with its first frames; `starts` when it is the first of an epoch.
    pub(super) fn begin(
        &mut self,
        header: SegmentHeader,
        page: Vec<u8>,
        frames: &Fetched,
        starts: Option<&EpochStart>,
    ) -> Result<()> {
        assert!(self.active.is_none(), "the segment before is sealed first");
        assert!(!frames.bytes().is_empty(), "a segment begins with a frame");
        if let Some(start) = starts {
            self.enter_epoch(start, &header)?;
        }
        self.adopt_sets(&header, frames, HEADER_BYTES)?;
        self.take_back(LogByte(header.log_byte(HEADER_BYTES + frames.bytes().len() as u64)))?;
        let segments = self.layout.segments();
        let path = SegmentName(header.base).path(&segments);
        let temporary = path.with_extension("seg.tmp");
        let io = |what: &'static str| {
            let path = path.clone();
            move |e| Error::io(what, &path, e)
        };
        match self.fs.unlink(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("clear")(e)),
            _ => {}
        }
        let file = self.fs.open(&temporary, Open::Create).map_err(io("create"))?;
        let mut tally = Tally::default();
        let made = file
            .write_all_at(&page, 0)
            .and_then(|()| write_pages(&*file, frames.bytes(), HEADER_BYTES))
            .map_err(io("write"))
            // Closes the crash that leaves a named segment without header or frames.
            .and_then(|()| file.sync_data().map_err(|e| io("sync")(e).with_kind(Kind::Io)))
            .and_then(|()| {
                self.fs.rename(&temporary, &path).map_err(|e| {
                    // It may have its name all the same. Readers must not open what the next try makes anew.
                    let _ = self.fs.unlink(&path);
                    io("rename into place")(e)
                })
            });
        if let Err(error) = made {
            let _ = self.fs.unlink(&temporary);
            return Err(error);
        }
        // Closes the crash that forgets the name of what STATE will call durable.
        let named = self.fs.sync_dir(&segments).map_err(|e| Error::io("sync", &segments, e));
        self.trust(named)?;
        note(&mut tally, &header, frames.bytes());
        let last_frame = HEADER_BYTES + frames.last_frame;
        let mut hashing = Hashing::begin(&page);
        hashing.add(frames.bytes());
        self.active = Some(Active {
            path,
            file,
            header,
            page,
            tally,
            last_frame,
            hash: SoFar::Here(Box::new(hashing)),
            unsynced: false,
            synced: Mark::default(),
            dirty: 0,
        });
        Ok(())
    }

    /// Binds this node to an epoch and adds it to the history.
    fn enter_epoch(&mut self, start: &EpochStart, header: &SegmentHeader) -> Result<()> {
        // One that is higher by now stays: what is copied is then of an epoch before it.
        self.promises.raise(Promise { epoch: start.epoch, owner: start.node })?;
        let mut epochs = self.epochs.clone();
        epochs.push(EpochEntry {
            epoch: start.epoch,
            start: header.base,
            start_offset: header.base_offset,
            node: start.node,
        });
        if epochs != self.epochs {
            epochs.write(&*self.fs, &self.layout)?;
            self.epochs = epochs;
        }
        Ok(())
    }

    /// Appends frames behind the last one.
    pub(super) fn append(&mut self, mut frames: Fetched) -> Result<()> {
        let active = self.active.as_ref().expect("a segment is open");
        let (header, at) = (active.header, active.tally.end);
        self.adopt_sets(&header, &frames, at)?;
        self.take_back(LogByte(header.log_byte(at + frames.bytes().len() as u64)))?;
        let synced = self.synced();
        let active = self.active.as_mut().expect("a segment is open");
        // A full disk leaves part of it behind the end; the next try writes over that.
        let written = active.file.write_all_at(frames.pages(at), at);
        let written = written.map_err(|e| Error::io("write", &active.path, e).at_byte(at));
        if written.is_ok() {
            note(&mut active.tally, &active.header, frames.bytes());
            active.last_frame = at + frames.last_frame;
            (active.unsynced, active.synced) = (true, synced);
            active.dirty += frames.len as u64;
            self.buffer = self.hasher.add(&mut active.hash, frames);
        }
        self.trust(written)?;
        self.write_out()
    }

    /// Has what was written lately written out, beside the copying.
    fn write_out(&mut self) -> Result<()> {
        let every = self.early.as_ref().map_or(writeout::MOST_BYTES, WriteOut::every_bytes);
        match self.active.as_ref().is_some_and(|active| active.dirty >= every) {
            true => self.begin_early().map(drop),
            false => Ok(()),
        }
    }

    /// Has everything here written out, beside what comes next; `false` if there is no thread for that.
    fn begin_early(&mut self) -> Result<bool> {
        if self.early.is_none() && self.threads {
            // Without the thread everything is left to the sync.
            self.early = WriteOut::start(Arc::clone(&self.fs)).ok();
        }
        self.finish_early()?;
        let mark = self.mark();
        let (Some(early), Some(active)) = (&mut self.early, &mut self.active) else {
            return Ok(false);
        };
        active.dirty = 0;
        let begun = early.begin(&active.file).map_err(|e| Error::io("sync", &active.path, e));
        self.trust(begun.map_err(|e| e.with_kind(Kind::Io)))?;
        self.under_way = Some(mark);
        Ok(true)
    }

    /// Waits for what is being written out early: an error there is this segment's.
    fn finish_early(&mut self) -> Result<()> {
        let mark = self.under_way.take();
        let end = self.end();
        let (Some(early), Some(active)) = (&mut self.early, &mut self.active) else {
            return Ok(());
        };
        let finished = early.finish().map_err(|e| Error::io("sync", &active.path, e));
        if let (Ok(()), Some(mark)) = (&finished, mark) {
            active.synced = mark;
            active.unsynced = mark.end != end;
        }
        self.trust(finished.map_err(|e| e.with_kind(Kind::Io)))
    }

    /// CONTROL knows of a synchronous set before its frame is here: from then on this node shows
    /// only what is committed, also when it opens without its source.
    fn adopt_sets(&mut self, header: &SegmentHeader, frames: &Fetched, from: u64) -> Result<()> {
        if !frames.sets {
            return Ok(());
        }
        let mut control = self.control.clone();
        // Those of an earlier try whose frames did not come as far as the disk.
        control.cut_sets(LogByte(header.log_byte(from)));
        let mut at = 0;
        while at < frames.bytes().len() {
            let head = frames.bytes()[at..].first_chunk::<FRAME_HEADER>().expect("whole frames");
            let head = Header::staged(head);
            let end = at + head.stride();
            if head.kind == FrameKind::SyncSet {
                let frame = Frame::trusted(&frames.bytes()[at..], head).expect("whole frames");
                let set = SyncSet::decode(frame.body).expect("checked when it was fetched");
                let end = LogByte(header.log_byte(from + end as u64));
                // The one before counts, too, while the newest may be lost.
                control.add_set(SetLine { end, there: true, set });
            }
            at = end;
        }
        control.write(&*self.fs, &self.layout)?;
        self.control = control;
        Ok(())
    }

    /// Raises the committed end to what the source says, as far as it is durable here; whether it
    /// rose.
    pub(super) fn learn_committed(&mut self, told: End) -> bool {
        let end = self.synced().end;
        let here = if told.0 < end.log_byte { told } else { (end.log_byte, end.offset) };
        let rises = here.0 > self.committed.0 && here.1 >= self.committed.1;
        if rises {
            self.committed = here;
        }
        rises
    }

    /// Whether what was lost here has not all been fetched again.
    pub(super) fn is_unclean(&self, durable: LogByte) -> bool {
        self.failed.is_some() && !mutant::on(Mutant::CountReceived)
            || self.control.lost_below.is_some_and(|lost| durable < lost)
    }

    /// Forgets that frames were given up once they are here again, up to `end`: a disk that loses them now has lost them.
    pub(super) fn take_back(&mut self, end: LogByte) -> Result<()> {
        let here = |gone: &GaveUp| {
            let epochs = &self.epochs.0;
            let Some(at) = epochs.iter().position(|entry| entry.epoch == gone.epoch) else {
                return false;
            };
            let ends = match (epochs.get(at + 1), &self.active) {
                (Some(next), _) => before_seal(next.start.min(end)),
                (None, Some(_)) => end,
                (None, None) => before_seal(end),
            };
            ends.0 > gone.from
        };
        if !self.control.gave_up.iter().any(here) {
            return Ok(());
        }
        let mut control = self.control.clone();
        control.gave_up.retain(|gone| !here(gone));
        control.write(&*self.fs, &self.layout)?;
        self.control = control;
        Ok(())
    }

    /// Forgets what was lost once it is here again, durably.
    pub(super) fn mend(&mut self) -> Result<()> {
        if self.control.lost_below.is_none_or(|lost| self.synced().end.log_byte < lost) {
            return Ok(());
        }
        let mut control = Control { lost_below: None, ..self.control.clone() };
        control.write(&*self.fs, &self.layout)?;
        self.control = control;
        Ok(())
    }

    /// The seal hash of the newest sealed segment, or of the one that ended at the floor; zeros if there is none, or
    /// nobody told.
    pub(super) fn previous_hash(&self) -> [u8; 32] {
        let before = self.sealed.map(|footer| footer.hash).or(self.control.floor_seal);
        before.unwrap_or_default()
    }

    /// Whether the segment that grows follows one that was never here, so that only a source knows the
    /// hash that its seal is to name.
    pub(super) fn lacks_link(&self) -> bool {
        self.sealed.is_none()
            && self.control.floor_seal.is_none()
            && self.active.as_ref().is_some_and(|active| active.header.previous.is_some())
    }

    /// Takes note of segments that the source has repaired, so that opening finds the links
    /// between their neighbours in order.
    pub(super) fn adopt_repairs(&mut self, repairs: &[Repaired]) -> Result<()> {
        let mut control = self.control.clone();
        for repair in repairs {
            if !control.repairs.contains(repair) {
                control.repairs.push(repair.clone());
            }
        }
        if control != self.control {
            control.write(&*self.fs, &self.layout)?;
            self.control = control;
        }
        Ok(())
    }

    /// Seals the active segment, whose frames are all here.
    pub(super) fn seal(&mut self, previous: [u8; 32]) -> Result<Footer> {
        self.finish_early()?;
        let active = self.active.as_mut().expect("a segment is open");
        let hash = std::mem::replace(&mut active.hash, SoFar::Unknown);
        let hashing = self.hasher.end(hash);
        let Active { file, path, header, tally, .. } = active;
        let sync = |file: &dyn File| file.sync_data();
        let sealed = seal_with(file, path, header, tally, previous, hashing, sync);
        let footer = sealed.as_ref().map(|sealed| sealed.footer).ok();
        self.trust(sealed.map(drop))?;
        self.active = None;
        self.sealed = footer;
        Ok(footer.expect("sealed just now"))
    }

    /// Makes everything here durable, then says so in STATE; returns what it says.
    pub(super) fn sync(&mut self) -> Result<State> {
        self.settle()?;
        Ok(self.hint())
    }

    /// Makes durable what was here a while ago, and goes on with the rest beside what comes next: for who
    /// has more to copy at once. [`synced`](Self::synced) says how far that is.
    pub(super) fn settle_behind(&mut self) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        // All of it may be under way already.
        let begun = self.under_way.is_some_and(|mark| mark.end == self.end());
        match begun || self.begin_early()? {
            true => Ok(()),
            false => self.settle(),
        }
    }

    /// Makes everything here durable.
    pub(super) fn settle(&mut self) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.finish_early()?;
        if let Some(active) = self.active.as_mut().filter(|active| active.unsynced) {
            // Closes the crash that loses frames which STATE, just below, calls durable.
            let synced = match mutant::on(Mutant::SkipFollowerSync) {
                true => Ok(()),
                false => active.file.sync_data().map_err(|e| Error::io("sync", &active.path, e)),
            };
            (active.unsynced, active.dirty) = (false, 0);
            self.trust(synced.map_err(|e| e.with_kind(Kind::Io)))?;
        }
        Ok(())
    }

    /// What STATE says of this copy, next.
    fn state(&mut self) -> State {
        let end = self.synced().end;
        self.state_seq += 1;
        State {
            seq: self.state_seq,
            epoch: end.epoch,
            durable: end.log_byte,
            durable_offset: end.offset,
            committed: self.committed.0,
            committed_offset: self.committed.1,
            time: self.fs.now(),
        }
    }

    /// Rewrites STATE, unsynced.
    pub(super) fn hint(&mut self) -> State {
        if self.state_file.is_none() {
            self.state_file = State::file(&*self.fs, &self.layout).ok();
        }
        let state = self.state();
        if let Some(file) = &self.state_file {
            // A hint that cannot be written is a hint that is missing: readers in other
            // processes see less.
            let _ = state.write(&**file);
        }
        state
    }

    /// Makes STATE itself durable, so that a reader after a power cut sees all there is.
    pub(super) fn settle_hint(&mut self) -> State {
        let state = self.hint();
        if let Some(file) = &self.state_file {
            // Only evidence: without it, what lies behind is called unconfirmed.
            let _ = file.sync_data();
        }
        let _ = self.fs.sync_dir(&self.layout.root);
        state
    }

    /// Passes a result on; remembers a failure that leaves in doubt what is durable.
    fn trust(&mut self, result: Result<()>) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        if error.kind() == Kind::DiskFull {
            return Err(error);
        }
        let poisoned = Error::new(
            Kind::Poisoned,
            format!("this follower copies no further after a failure: {}", error.message()),
        );
        let poisoned = match error.file() {
            Some(file) => poisoned.in_file(file),
            None => poisoned,
        }
        .help("open it again: it finds out what is durable and fetches the rest");
        self.failed = Some(poisoned.clone());
        Err(poisoned)
    }

    /// The epoch that the segments so far end in.
    pub(super) fn epoch(&self) -> Epoch {
        self.end().epoch
    }
}

/// Writes frames and zeros to the end of their last page, as the leader does: the files are to be
/// the same, length included.
pub(super) fn write_pages(file: &dyn File, frames: &[u8], at: u64) -> std::io::Result<()> {
    file.write_all_at(frames, at)?;
    let end = at + frames.len() as u64;
    file.write_all_at(&[0; 4096][..padding(end)], end)
}

/// From `end` to the end of its page.
fn padding(end: u64) -> usize {
    usize::try_from(end.next_multiple_of(PAGE_BYTES) - end).expect("less than a page")
}

/// Tallies frames that were checked and written.
pub(super) fn note(tally: &mut Tally, header: &SegmentHeader, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let head = bytes[at..].first_chunk::<FRAME_HEADER>().expect("whole frames");
        let head = Header::staged(head);
        let frame = Frame::trusted(&bytes[at..], head).expect("whole frames");
        tally.note(&frame, header.base_offset).expect("checked when they were fetched");
        at += head.stride();
    }
}

/// Where the frames before a SEAL end.
pub(super) fn before_seal(end: LogByte) -> LogByte {
    LogByte(end.0.saturating_sub(SEAL_BYTES))
}
