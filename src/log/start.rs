//! What a log opened for writing does before its first write.
//!
//! Planned by `open`, run by the writer: at once after an unclean end, otherwise with the first
//! append, so that opening and closing a log changes nothing on disk. A full disk leaves the plan
//! as it is, to be run again. Every path ends with one active segment and an open buffer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::frame::{self, EpochStart, FrameKind, GaveUp, NO_CLAIM};
use crate::fs::{File, Fs, Open};
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, LogByte, Offset};
use crate::segment::{HEADER_BYTES, Link, PAGE_BYTES, SegmentHeader, Tally, seal};

use super::Shared;
use super::catalog::Segment;
use super::files::{EpochEntry, Epochs, Layout};
use super::meta::Meta;
use super::scan::{Beyond, chunk};
use super::writer::Writer;

/// A plan for the first write.
#[derive(Debug)]
pub(crate) enum Start {
    /// Go on in the active segment that a clean close left.
    Resume { segment: Arc<Segment>, tally: Tally },
    /// Begin a new epoch in a new segment, after bringing what is there in order.
    Epoch(NewEpoch),
}

/// Everything that stands between an unclean end (or an empty log) and a new epoch.
#[derive(Debug)]
pub(crate) struct NewEpoch {
    /// Segments without a footer, oldest first.
    pub(crate) unsealed: Vec<ToSeal>,
    /// The torn tail.
    pub(crate) beyond: Vec<Beyond>,
    /// The last sealed segment's hash; zeros if none.
    pub(crate) previous_hash: [u8; 32],
    /// The segment that will precede the new one.
    pub(crate) previous: Option<Link>,
    /// Everything below is proven durable.
    pub(crate) durable: LogByte,
    /// Where the parent epoch's frames end.
    pub(crate) fork: LogByte,
    pub(crate) end_offset: Offset,
    pub(crate) parent: Epoch,
    /// The highest epoch number seen anywhere.
    pub(crate) seen: u64,
    /// What this node gave up as it rejoined.
    pub(crate) gave_up: Vec<GaveUp>,
    pub(crate) reason: &'static str,
}

/// A segment to be sealed at its last frame.
#[derive(Debug)]
pub(crate) struct ToSeal {
    pub(crate) segment: Arc<Segment>,
    pub(crate) tally: Tally,
    /// Seal hash of the segment before it, once that is sealed. It is not always the last sealed
    /// one: a footer whose sync failed may be lost below a segment that was sealed later.
    pub(crate) previous_hash: Option<[u8; 32]>,
}

impl Start {
    /// Runs the plan. On an error the plan comes back if it can be run again.
    pub(crate) fn run(
        self,
        writer: &mut Writer,
        shared: &Shared,
    ) -> Result<(), (Option<Box<Start>>, Error)> {
        match self {
            Start::Resume { segment, tally } => resume(writer, shared, &segment, &tally)
                .map_err(|e| (Some(Box::new(Start::Resume { segment, tally })), e)),
            Start::Epoch(mut plan) => {
                plan.run(writer, shared).map_err(|e| (Some(Box::new(Start::Epoch(plan))), e))
            }
        }
    }
}

fn resume(
    writer: &mut Writer,
    shared: &Shared,
    segment: &Arc<Segment>,
    tally: &Tally,
) -> Result<()> {
    let file = shared
        .fs
        .open(&segment.path, Open::Write)
        .map_err(|e| Error::io("open", &segment.path, e))?;
    // The clean mark proves what is durable, and STATE may not have survived: it must say so
    // before the mark goes, to recovery and to readers beside this process.
    shared.hint_recovered();
    shared.clear_clean()?;
    writer.resume_segment(shared, Arc::clone(segment), file, tally.clone())
}

impl NewEpoch {
    fn run(&mut self, writer: &mut Writer, shared: &Shared) -> Result<()> {
        let fs = &*shared.fs;
        self.settle(fs)?;
        shared.publish_recovered(self.fork, self.end_offset);
        shared.unsettled.store(false, std::sync::atomic::Ordering::Release);
        let reason = "torn tail: never acknowledged, set aside when the log was reopened";
        set_aside(fs, &shared.layout, &mut self.beyond, reason)?;
        while let Some(first) = self.unsealed.first() {
            let header = first.segment.header;
            let path = first.segment.path.clone();
            let file = fs.open(&path, Open::Write).map_err(|e| Error::io("open", &path, e))?;
            let before = first.previous_hash.expect("the one before was sealed");
            let sealed = seal(&file, &path, &header, &first.tally, before)?;
            first.segment.seal(sealed.footer);
            if self.previous.is_none_or(|link| link.base < header.base) {
                self.previous = Some(Link {
                    base: header.base,
                    end: sealed.footer.end(),
                    fingerprint: sealed.footer.fingerprint,
                });
                self.previous_hash = sealed.footer.hash;
            }
            self.unsealed.remove(0);
            if let Some(next) = self.unsealed.first_mut() {
                next.previous_hash.get_or_insert(sealed.footer.hash);
            }
        }
        shared.worker.set_previous_hash(self.previous_hash);
        self.begin(writer, shared)
    }

    /// Makes durable what was read back: the page cache may hold bytes that never landed, or
    /// that a failed sync has marked clean. Writing them again, in place, settles it.
    fn settle(&self, fs: &dyn Fs) -> Result<()> {
        if mutant::on(Mutant::SkipSettle) {
            return Ok(());
        }
        for ToSeal { segment, tally, .. } in &self.unsealed {
            settle(fs, &segment.path, &segment.header, tally.end, self.durable)?;
        }
        if let Some(last) = self.unsealed.last() {
            let directory = last.segment.path.parent().expect("segments have a directory");
            // Closes the crash that forgets the names of segments whose frames are now durable.
            fs.sync_dir(directory).map_err(|e| Error::io("sync", directory, e))?;
        }
        Ok(())
    }

    /// Wins the next epoch number and writes its first frame's segment.
    fn begin(&self, writer: &mut Writer, shared: &Shared) -> Result<()> {
        let fs = &*shared.fs;
        let layout = &shared.layout;
        let epoch = match mutant::on(Mutant::KeepEpoch) && self.parent.number > 0 {
            true => self.parent,
            false => {
                let (won, nonce) = (shared.options.lead, shared.random_u64()?);
                shared.promises.next(shared.node, won, self.seen, nonce)?
            }
        };
        let base = self.previous.map_or(self.fork, |link| link.end);
        let mut epochs = Epochs::read(fs, layout)?;
        epochs.push(EpochEntry {
            epoch,
            start: base,
            start_offset: self.end_offset,
            node: shared.node,
        });
        epochs.write(fs, layout)?;
        shared.clear_clean()?;
        let header = SegmentHeader {
            log: shared.log.id,
            base,
            base_offset: self.end_offset,
            epoch,
            salt: shared.random_u64()?,
            created: fs.now(),
            previous: self.previous,
        };
        let start = EpochStart {
            epoch,
            parent: self.parent,
            fork: self.fork.0,
            fork_offset: self.end_offset.0,
            node: shared.node,
            reason: self.reason.to_owned(),
            // Nobody's history parts from this one within an older epoch than its parent.
            gave_up: (self.gave_up.iter().copied())
                .filter(|gone| gone.epoch.number >= self.parent.number)
                .collect(),
        };
        let bytes = frame::encode(
            FrameKind::EpochStart,
            0,
            NO_CLAIM,
            header.created,
            &start.encode(),
            (header.seed(), HEADER_BYTES),
        );
        writer.begin_segment(shared, header, &bytes)
    }
}

/// Makes a segment's frames up to `end` durable, given that those below `durable` are: writes the
/// same bytes over the same pages, and syncs.
pub(crate) fn settle(
    fs: &dyn Fs,
    path: &Path,
    header: &SegmentHeader,
    end: u64,
    durable: LogByte,
) -> Result<()> {
    let from = match durable.0.checked_sub(header.base.0) {
        Some(bytes) => (HEADER_BYTES + bytes).min(end) / PAGE_BYTES * PAGE_BYTES,
        None => 0,
    };
    let file = fs.open(path, Open::Write).map_err(|e| Error::io("open", path, e))?;
    let rewritten = rewrite(&*file, &*file, from, end).and_then(|()| file.sync_data());
    let Err(e) = rewritten else { return Ok(()) };
    let error = Error::io("write", path, e);
    if error.kind() == Kind::DiskFull {
        return Err(error);
    }
    // The blocks refuse: give the bytes new ones; the torn tail's too, for it is set aside later.
    let len = file.len().map_err(|e| Error::io("read the length of", path, e))?;
    copy_over(fs, &*file, path, len)
}

/// Moves what lies behind the history's end to quarantine, newest first, and cuts it off.
pub(crate) fn set_aside(
    fs: &dyn Fs,
    layout: &Layout,
    beyond: &mut Vec<Beyond>,
    reason: &str,
) -> Result<()> {
    while let Some(last) = beyond.last() {
        if last.bytes > 0 {
            quarantine(fs, layout, &last.path, last.from, last.bytes, reason)?;
        }
        let io = |what: &'static str| {
            let path = last.path.clone();
            move |e| Error::io(what, &path, e)
        };
        if last.from == 0 {
            fs.unlink(&last.path).map_err(io("remove"))?;
            let segments = layout.segments();
            fs.sync_dir(&segments).map_err(|e| Error::io("sync", &segments, e))?;
        } else {
            let file = fs.open(&last.path, Open::Write).map_err(io("open"))?;
            file.set_len(last.from).map_err(io("cut"))?;
            file.sync_data().map_err(io("sync"))?;
        }
        beyond.pop();
    }
    Ok(())
}

pub(crate) fn rewrite(
    from_file: &dyn File,
    to_file: &dyn File,
    from: u64,
    to: u64,
) -> std::io::Result<()> {
    let mut buffer = vec![0; chunk(from, to, 256 << 10)];
    let mut at = from;
    while at < to {
        let len = buffer.len().min(usize::try_from(to - at).unwrap_or(usize::MAX));
        from_file.read_exact_at(&mut buffer[..len], at)?;
        to_file.write_all_at(&buffer[..len], at)?;
        at += len as u64;
    }
    Ok(())
}

/// Replaces the file at `path` by a copy of its first `end` bytes on fresh blocks, which are durable;
/// the name is once the directory is synced.
pub(crate) fn copy_over(fs: &dyn Fs, file: &dyn File, path: &Path, end: u64) -> Result<()> {
    copy_prefix(fs, file, path, end, end)
}

/// The same, with zeros behind it up to `len`.
pub(crate) fn copy_prefix(
    fs: &dyn Fs,
    file: &dyn File,
    path: &Path,
    end: u64,
    len: u64,
) -> Result<()> {
    let io = |what: &'static str| move |e| Error::io(what, path, e);
    let temporary = path.with_extension("seg.tmp");
    let _ = fs.unlink(&temporary);
    let copy = fs.open(&temporary, Open::Create).map_err(io("create a copy of"))?;
    rewrite(file, &*copy, 0, end).map_err(io("copy"))?;
    if len > end {
        copy.set_len(len).map_err(io("copy"))?;
    }
    copy.sync_data().map_err(io("sync a copy of"))?;
    fs.rename(&temporary, path).map_err(io("rename a copy over"))
}

/// Copies `bytes` bytes from `from` of the file at `path` to quarantine, with a note that says
/// what they are; durable before it returns. Returns the copy's path.
pub(crate) fn quarantine(
    fs: &dyn Fs,
    layout: &Layout,
    path: &Path,
    from: u64,
    bytes: u64,
    reason: &str,
) -> Result<PathBuf> {
    let io = |what: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |e| Error::io(what, &path, e)
    };
    let target = quarantine_place(fs, layout, path, from)?;
    let source = fs.open(path, Open::Read).map_err(io("open", path))?;
    let copy = fs.open(&target, Open::Create).map_err(io("create", &target))?;
    rewrite(&*source, &*copy, from, from + bytes).map_err(io("copy to", &target))?;
    if !mutant::on(Mutant::QuarantineUnsynced) {
        copy.sync_data().map_err(io("sync", &target))?;
    }
    quarantine_note(fs, &target, path, (from, bytes), reason)?;
    Ok(target)
}

/// A free name in quarantine for what was at `from` of the file at `path`.
fn quarantine_place(fs: &dyn Fs, layout: &Layout, path: &Path, from: u64) -> Result<PathBuf> {
    let directory = layout.quarantine();
    let io = |what: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |e| Error::io(what, &path, e)
    };
    fs.create_dir(&directory).map_err(io("create", &directory))?;
    fs.sync_dir(&layout.root).map_err(io("sync", &layout.root))?;
    let taken = fs.list(&directory).map_err(io("list", &directory))?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    let copy_name = (0..)
        .map(|n| format!("{n:04}-{name}-{from}"))
        .find(|candidate| !taken.iter().any(|taken| taken.starts_with(&candidate[..5])))
        .expect("there are more numbers than files");
    Ok(directory.join(copy_name))
}

/// Says beside `target` what it is: bytes of the file at `path`.
fn quarantine_note(
    fs: &dyn Fs,
    target: &Path,
    path: &Path,
    (from, bytes): (u64, u64),
    reason: &str,
) -> Result<()> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut note = Meta::new("quarantine");
    note.set("file", name(path))
        .set("byte", from)
        .set("bytes", bytes)
        .set("time", fs.now())
        .set("reason", reason.replace('\n', " "));
    note.replace(fs, &target.with_file_name(format!("{}.note", name(target))))
}

/// Moves a whole file that nothing reads any more to quarantine, with a note that says why. The
/// note is durable first; the caller syncs the directory that the file leaves.
pub(crate) fn quarantine_whole(
    fs: &dyn Fs,
    layout: &Layout,
    path: &Path,
    reason: &str,
) -> Result<PathBuf> {
    let file = fs.open(path, Open::Read).map_err(|e| Error::io("open", path, e))?;
    let bytes = file.len().map_err(|e| Error::io("read the length of", path, e))?;
    let target = quarantine_place(fs, layout, path, 0)?;
    quarantine_note(fs, &target, path, (0, bytes), reason)?;
    fs.rename(path, &target).map_err(|e| Error::io("move to quarantine", path, e))?;
    let directory = layout.quarantine();
    fs.sync_dir(&directory).map_err(|e| Error::io("sync", &directory, e))?;
    Ok(target)
}
