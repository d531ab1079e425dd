//! Repair: what is damaged goes to quarantine, what is whole stays, what is lost is put on record.
//!
//! For a log that no verified copy can heal. Each damaged range of frames is replaced by `lost`
//! frames of exactly its length, so that no position changes and every later frame stays valid;
//! everything derived (SEAL, index, producers, footer) is made again from the frames. A segment
//! whose frames are whole comes out byte for byte as it was sealed.
//!
//! Called by users with the log closed, and by `Recovery::Salvage`. Invariants:
//! - the plan that a dry run prints is the plan that is followed;
//! - damaged bytes are durable in quarantine before the file that holds them is replaced;
//! - a replacement is durable before it takes the old one's name, so a crash at any point leaves
//!   a directory that repairing again completes.

pub(super) mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::frame::{self, FrameKind, Lost, MAX_FRAME_BYTES, NO_CLAIM};
use crate::fs::{File, Fs, Open, Os};
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, LogByte, Offset};
use crate::segment::{
    Footer, HEADER_BYTES, Link, SEAL_BYTES, SegmentHeader, SegmentName, Tally, Window, seal, walk,
};

use super::cut;
use super::files::{Control, Layout, Repaired, State, no_directory, not_a_log};
use super::open::take_lock;
use super::restore::readable;
use super::scan::hex;
use super::start::quarantine;
use super::survey::{Gap, Reseal, bytes, copy, derived_holds, link, stand_in, survey, sync_names};

/// The smallest frame: what a `lost` frame needs.
const MIN_FRAME_BYTES: u64 = 40;

/// What repair did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Each step, in words, in order.
    pub actions: Vec<String>,
    /// Offsets lost to damage, half-open.
    pub lost: Vec<(u64, u64)>,
    /// Where damaged bytes went.
    pub quarantined: Vec<PathBuf>,
    /// Whether this was only the plan.
    pub dry_run: bool,
}

/// Repairs the log in the directory `path`; with `dry_run` only says what it would do.
pub fn repair(path: impl AsRef<Path>, dry_run: bool) -> Result<RepairReport> {
    repair_on(&Os::shared(), path.as_ref(), dry_run)
}

/// The same on any file system.
pub fn repair_on(fs: &Arc<dyn Fs>, path: &Path, dry_run: bool) -> Result<RepairReport> {
    let layout = Layout::new(path);
    let names = fs.list(&layout.root).map_err(|e| no_directory(&layout.root, e))?;
    // Either of the two is enough to make something of.
    if !names.iter().any(|name| name == "LOG" || name == "segments") {
        return Err(not_a_log(&**fs, &layout.root));
    }
    let _lock = take_lock(&**fs, &layout)?;
    repair_locked(fs, &layout, dry_run)
}

/// The same for who holds the lock.
pub(super) fn repair_locked(
    fs: &Arc<dyn Fs>,
    layout: &Layout,
    dry_run: bool,
) -> Result<RepairReport> {
    let mut repair = Repair {
        fs,
        layout,
        report: RepairReport { dry_run, ..RepairReport::default() },
        control: Control::default(),
        log: Id::default(),
        state: State::read(&**fs, layout),
        epoch: Epoch::default(),
        control_changed: false,
    };
    repair.finish_cut()?;
    repair.small_files()?;
    let files = repair.files()?;
    repair.segments(files)?;
    if !dry_run {
        sync_names(fs, layout)?;
    }
    if repair.control_changed {
        // The end is another, or was never clean.
        repair.control.clean = None;
        repair.act("write CONTROL".into());
        if !dry_run {
            repair.control.write(&**fs, layout)?;
        }
    }
    Ok(repair.report)
}

pub(super) struct Repair<'a> {
    pub(super) fs: &'a Arc<dyn Fs>,
    pub(super) layout: &'a Layout,
    pub(super) report: RepairReport,
    pub(super) control: Control,
    pub(super) log: Id,
    pub(super) state: Option<State>,
    /// The newest epoch of the history.
    pub(super) epoch: Epoch,
    pub(super) control_changed: bool,
}

/// A segment file as it was found.
pub(super) struct Candidate {
    path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) len: u64,
    pub(super) header: SegmentHeader,
    header_whole: bool,
    pub(super) footer: Option<Footer>,
}

/// Where a readable segment starts, and the predecessor's hash its footer names.
type Start = (SegmentName, Offset, Option<[u8; 32]>);

/// What stands at one place of the log.
struct Slot {
    name: SegmentName,
    candidate: Option<Candidate>,
}

impl Repair<'_> {
    /// A cut that was cut short comes first: what lies above it is no damage.
    fn finish_cut(&mut self) -> Result<()> {
        let read = readable(Control::read(&**self.fs, self.layout))?;
        let Some(mut control) = read else { return Ok(()) };
        let Some((at, _)) = &control.cut else { return Ok(()) };
        self.act(format!("finish the cut to log byte {at} that was cut short"));
        if !self.dry() {
            cut::finish(&**self.fs, self.layout, &mut control)?;
            self.state = State::read(&**self.fs, self.layout);
        }
        Ok(())
    }

    pub(super) fn act(&mut self, what: String) {
        self.report.actions.push(what);
    }

    pub(super) fn dry(&self) -> bool {
        self.report.dry_run
    }

    /// Goes through the places of the log in order and mends what is not whole.
    fn segments(&mut self, slots: Vec<Slot>) -> Result<()> {
        let mut end = self.control.floor;
        let mut offset = self.control.floor_offset;
        let mut previous: Option<Link> = None;
        let mut previous_hash = self.control.floor_seal.unwrap_or_default();
        let mut unreadable_end = false;
        let mut epoch = slots
            .iter()
            .find_map(|slot| slot.candidate.as_ref())
            .map_or(self.epoch, |candidate| candidate.header.epoch);
        let count = slots.len();
        let starts: Vec<Option<Start>> = slots
            .iter()
            .map(|slot| {
                slot.candidate.as_ref().map(|candidate| {
                    let hash = candidate.footer.map(|footer| footer.previous_hash);
                    (slot.name, candidate.header.base_offset, hash)
                })
            })
            .collect();
        for (i, slot) in slots.into_iter().enumerate() {
            // The next segment that can be read says where this place ends.
            let next = starts[i + 1..].iter().flatten().next().copied();
            if slot.name.0 > end {
                let header = self.replacement(end, offset, epoch, previous)?;
                let until = (slot.name.0, starts[i].map_or(offset, |start| start.1));
                let linked = starts[i].and_then(|start| start.2);
                let footer = self.missing(&header, until, previous_hash, linked)?;
                (previous, previous_hash) = (Some(link(&footer)), footer.hash);
                (end, offset) = (footer.end(), footer.end_offset);
            }
            let Some(candidate) = slot.candidate else {
                let header = self.replacement(slot.name.0, offset, epoch, previous)?;
                match next {
                    Some((name, to, linked)) => {
                        let footer = self.missing(&header, (name.0, to), previous_hash, linked)?;
                        (previous, previous_hash) = (Some(link(&footer)), footer.hash);
                        (end, offset) = (footer.end(), footer.end_offset);
                    }
                    None => match self.proven_end(&header) {
                        Some((byte, to)) => {
                            let until = LogByte(header.log_byte(byte) + SEAL_BYTES);
                            let footer = self.missing(&header, (until, to), previous_hash, None)?;
                            (previous, previous_hash) = (Some(link(&footer)), footer.hash);
                            (end, offset) = (footer.end(), footer.end_offset);
                        }
                        None => self.aside(
                            &slot.name.path(&self.layout.segments()),
                            "the last segment, without a readable header",
                        )?,
                    },
                }
                unreadable_end = next.is_none();
                continue;
            };
            let mut candidate = candidate;
            if !candidate.header_whole && candidate.footer.is_none() {
                candidate.header.base_offset = offset;
                if candidate.header.epoch.number < epoch.number
                    || candidate.header.epoch.number > epoch.number + 1
                {
                    candidate.header.epoch = epoch;
                }
            }
            epoch = candidate.header.epoch;
            let last = i + 1 == count;
            let mended = self.mend(candidate, next, previous, previous_hash, last)?;
            // An active segment is the last.
            let Some((link, hash, to)) = mended else { return Ok(()) };
            (end, offset) = (link.end, to);
            (previous, previous_hash) = (Some(link), hash);
        }
        if unreadable_end {
            return Ok(());
        }
        // What is proven to have been there behind the last file is gone with its file.
        let header = self.replacement(end, offset, epoch, previous)?;
        if let Some((byte, to)) = self.proven_end(&header).filter(|(_, to)| *to >= offset) {
            let until = LogByte(header.log_byte(byte) + SEAL_BYTES);
            self.missing(&header, (until, to), previous_hash, None)?;
        }
        Ok(())
    }

    fn replacement(
        &self,
        base: LogByte,
        base_offset: Offset,
        epoch: Epoch,
        previous: Option<Link>,
    ) -> Result<SegmentHeader> {
        let mut salt = [0; 8];
        let root = &self.layout.root;
        self.fs.random(&mut salt).map_err(|e| Error::io("read randomness for", root, e))?;
        Ok(SegmentHeader {
            log: self.log,
            base,
            base_offset,
            epoch,
            salt: u64::from_le_bytes(salt),
            created: self.fs.now(),
            previous,
        })
    }

    /// A segment that is not there: one of `lost` frames takes its place.
    fn missing(
        &mut self,
        header: &SegmentHeader,
        (until, to): (LogByte, Offset),
        previous_hash: [u8; 32],
        linked: Option<[u8; 32]>,
    ) -> Result<Footer> {
        let name = SegmentName(header.base);
        let path = name.path(&self.layout.segments());
        let frames_end = header.file_byte(until.0).checked_sub(SEAL_BYTES);
        let Some(frames_end) = frames_end.filter(|end| end - HEADER_BYTES >= MIN_FRAME_BYTES)
        else {
            return Err(Error::new(
                Kind::Corrupt,
                format!("no segment fits between log bytes {} and {until}", header.base),
            )
            .in_file(&path)
            .help("move the file behind it out of the segments directory"));
        };
        self.lose(header.base_offset.0, to.0);
        self.act(format!(
            "put a segment of lost frames in place of {name}, offsets {} to {to}",
            header.base_offset
        ));
        let gap = Gap {
            from: HEADER_BYTES,
            to: frames_end,
            count: to.0 - header.base_offset.0,
            fingerprint: 0,
        };
        let seal = Some(Reseal { previous_hash, replaces: linked });
        self.rebuild(&path, header, None, &[gap], (frames_end, to), seal)
    }

    /// Mends one segment; returns the link, hash and offset that the next one goes on from.
    fn mend(
        &mut self,
        mut candidate: Candidate,
        next: Option<Start>,
        previous: Option<Link>,
        previous_hash: [u8; 32],
        last: bool,
    ) -> Result<Option<(Link, [u8; 32], Offset)>> {
        let path = candidate.path.clone();
        let header = &mut candidate.header;
        if !candidate.header_whole {
            header.previous = previous;
        }
        let header = *header;
        // Where the frames must end, and at which offset, as far as anybody knows.
        let known_end = match (&candidate.footer, next) {
            (Some(footer), _) => Some((footer.frames_end(), footer.end_offset)),
            (None, Some((name, offset, _))) => header
                .file_byte(name.0.0)
                .checked_sub(SEAL_BYTES)
                .filter(|&end| end >= HEADER_BYTES)
                .map(|end| (end, offset)),
            (None, None) => self.proven_end(&header),
        };
        let survey =
            survey(&candidate, &header, known_end).map_err(|e| Error::io("read", &path, e))?;
        let sealed_before = candidate.footer.is_some() || !last;
        let whole = survey.gaps.is_empty() && candidate.header_whole;
        let stored = candidate.footer;
        if whole && !sealed_before {
            // An active segment without damage: recovery's business, not ours.
            return Ok(None);
        }
        let seal_hash = stored.map(|footer| footer.hash);
        if whole && stored.is_some_and(|footer| derived_holds(&candidate, &footer, &survey.tally)) {
            let footer = stored.expect("checked just now");
            return Ok(Some((link(&footer), footer.hash, footer.end_offset)));
        }
        for gap in &survey.gaps {
            let first = header.base_offset.0 + gap.first;
            self.act(format!(
                "replace bytes {} to {} of {} by lost frames, offsets {first} to {}",
                gap.gap.from,
                gap.gap.to,
                path.display(),
                first + gap.gap.count
            ));
            self.lose(first, first + gap.gap.count);
            self.keep_copy(&path, gap.gap.from, gap.gap.to, "damaged frames")?;
        }
        if !candidate.header_whole {
            self.act(format!("write the header of {} again", path.display()));
            self.keep_copy(&path, 0, HEADER_BYTES, "a damaged header")?;
        }
        let gaps: Vec<Gap> = survey.gaps.iter().map(|gap| gap.gap).collect();
        let hash = stored.map_or(previous_hash, |footer| footer.previous_hash);
        let replaces = seal_hash.or(next.and_then(|next| next.2));
        let reseal = sealed_before.then_some(Reseal { previous_hash: hash, replaces });
        if sealed_before {
            self.act(format!("make SEAL, index and footer of {} again", path.display()));
        }
        let from = Some((&candidate.file, candidate.header_whole));
        let footer = self.rebuild(
            &path,
            &header,
            from,
            &gaps,
            (survey.end, survey.tally.end_offset(&header)),
            reseal,
        )?;
        if !sealed_before {
            self.control_changed = true;
            return Ok(None);
        }
        Ok(Some((link(&footer), footer.hash, footer.end_offset)))
    }

    /// Where an unsealed last segment must at least reach, and at which offset.
    fn proven_end(&self, header: &SegmentHeader) -> Option<(u64, Offset)> {
        let clean = self.control.clean.map(|clean| (clean.end, clean.offset));
        let state = self
            .state
            .filter(|state| state.durable > header.base)
            .map(|state| (state.durable, state.durable_offset));
        let (end, offset) = clean.max(state)?;
        (end > header.base).then(|| (header.file_byte(end.0), offset))
    }

    /// Notes that a segment's seal hash is another one now, durably before the segment is put in
    /// place: the next one's link to the old hash must lead somewhere after a crash, too.
    fn replaced(&mut self, old: Option<[u8; 32]>, footer: &Footer) -> Result<()> {
        self.control_changed = true;
        if old != Some(footer.hash) {
            let old = old.map_or("-".to_owned(), |old| hex(&old));
            // A repair that was cut short may have noted another replacement that never came.
            self.control.repairs.retain(|repaired| repaired.old != old || old == "-");
            self.control.repairs.push(Repaired { old, new: hex(&footer.hash) });
            if !self.dry() && !mutant::on(Mutant::RepairNotedLate) {
                self.control.write(&**self.fs, self.layout)?;
            }
        }
        Ok(())
    }

    fn lose(&mut self, first: u64, end: u64) {
        if first < end {
            self.report.lost.push((first, end));
        }
    }

    /// Copies bytes to quarantine.
    pub(super) fn keep_copy(&mut self, path: &Path, from: u64, to: u64, why: &str) -> Result<()> {
        self.act(format!("copy {why} of {} to quarantine", path.display()));
        if self.dry() {
            return Ok(());
        }
        let file = self.fs.open(path, Open::Read).map_err(|e| Error::io("open", path, e))?;
        let len = file.len().map_err(|e| Error::io("read the length of", path, e))?;
        let bytes = to.min(len).saturating_sub(from);
        let copy = quarantine(&**self.fs, self.layout, path, from, bytes, why)?;
        self.report.quarantined.push(copy);
        Ok(())
    }

    /// Moves a whole file to quarantine.
    pub(super) fn aside(&mut self, path: &Path, why: &str) -> Result<()> {
        self.keep_copy(path, 0, u64::MAX, why)?;
        self.act(format!("remove {}", path.display()));
        if self.dry() {
            return Ok(());
        }
        self.fs.unlink(path).map_err(|e| Error::io("remove", path, e))?;
        sync_names(self.fs, self.layout)
    }

    /// Writes a segment file anew: header, frames from `source` with `gaps` filled, and with
    /// `reseal` the seal; then puts it in place of the old one.
    fn rebuild(
        &mut self,
        path: &Path,
        header: &SegmentHeader,
        source: Option<(&Arc<dyn File>, bool)>,
        gaps: &[Gap],
        (end, to): (u64, Offset),
        reseal: Option<Reseal>,
    ) -> Result<Footer> {
        let io = |what: &'static str| move |e| Error::io(what, path, e);
        if self.dry() {
            let mut tally = Tally { end, ..Tally::default() };
            tally.records = u32::try_from(to.0 - header.base_offset.0).unwrap_or(u32::MAX);
            let footer = stand_in(header, &tally);
            if let Some(reseal) = reseal {
                self.replaced(reseal.replaces, &footer)?;
            }
            return Ok(footer);
        }
        let temporary = path.with_extension("repair.tmp");
        let _ = self.fs.unlink(&temporary);
        let file = self.fs.open(&temporary, Open::Create).map_err(io("create a copy of"))?;
        let result = (|| {
            match source {
                // The stored page, to keep what this version does not know of.
                Some((source, true)) => copy(source, &file, 0, HEADER_BYTES),
                _ => file.write_all_at(&header.encode(), 0),
            }
            .map_err(io("copy"))?;
            let mut tally = Tally::default();
            let mut at = HEADER_BYTES;
            for gap in
                gaps.iter().copied().chain([Gap { from: end, to: end, count: 0, fingerprint: 0 }])
            {
                if let Some((source, _)) = source {
                    copy(source, &file, at, gap.from).map_err(io("copy"))?;
                }
                let mut window = Window::file(Arc::clone(&file));
                walk(&mut window, header, gap.from, &mut tally, |_, _| {}).map_err(io("read"))?;
                if gap.to > gap.from {
                    self.fill(&file, header, &tally, gap).map_err(io("write"))?;
                    let mut window = Window::file(Arc::clone(&file));
                    walk(&mut window, header, gap.to, &mut tally, |_, _| {}).map_err(io("read"))?;
                }
                at = gap.to;
            }
            if tally.end != end {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("expected frames up to byte {end}, found them up to {}", tally.end),
                )
                .in_file(path)
                .help("copy the directory and ask for help: this damage is not understood"));
            }
            let footer = match reseal {
                Some(Reseal { previous_hash, replaces }) => {
                    let footer = seal(&file, path, header, &tally, previous_hash)?.footer;
                    self.replaced(replaces, &footer)?;
                    footer
                }
                None => {
                    file.sync_data().map_err(io("sync"))?;
                    stand_in(header, &tally)
                }
            };
            self.fs.rename(&temporary, path).map_err(io("rename into place"))?;
            sync_names(self.fs, self.layout).map(|()| footer)
        })();
        if result.is_err() {
            let _ = self.fs.unlink(&temporary);
        }
        result
    }

    /// Fills a gap with `lost` frames; the first one takes the offsets.
    fn fill(
        &self,
        file: &Arc<dyn File>,
        header: &SegmentHeader,
        tally: &Tally,
        gap: Gap,
    ) -> std::io::Result<()> {
        let (mut at, mut rel, mut left) = (gap.from, tally.records, gap.count);
        while at < gap.to {
            let most = MAX_FRAME_BYTES as u64;
            let mut len = (gap.to - at).min(most);
            if gap.to - at - len > 0 && gap.to - at - len < MIN_FRAME_BYTES {
                len -= MIN_FRAME_BYTES;
            }
            let count = u32::try_from(left).unwrap_or(u32::MAX);
            let mut body = vec![0; bytes(len) - frame::HEADER_BYTES];
            body[..8].copy_from_slice(&Lost { count, fingerprint: gap.fingerprint }.encode());
            let timestamp = if tally.records > 0 { tally.max_timestamp } else { 0 };
            let place = (header.seed(), at);
            let lost = frame::encode(FrameKind::Lost, rel, NO_CLAIM, timestamp, &body, place);
            file.write_all_at(&lost, at)?;
            at += len;
            rel += count;
            left -= u64::from(count);
        }
        Ok(())
    }
}
