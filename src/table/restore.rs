//! Restore: a directory made from a snapshot and the log behind it, up to a point of choice.
//!
//! ```text
//! source log   |== sealed ==|== sealed ==|== the one with the end ==|
//! snapshot          ▲ position                  ▲ target
//! restored          table + |== sealed ==|== frames up to target
//! ```
//!
//! Called by users; uses snapshots and the log's files. The result keeps the log's id: it is the
//! same log, ending at the target; opened for writing it begins a new epoch there. Invariants:
//! - a batch is in it whole or not at all;
//! - every run and every segment is held against its hash on the way, or its frames against their
//!   checksums;
//! - `LOG` comes last: until then the directory is no log, and a restore that was interrupted is
//!   simply done again, to another point too: what it left is taken away first;
//! - segments that no restore has left are somebody's, and are never touched.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::fs::{Fs, Open, Os};
use crate::log::files::{CHECKPOINT, Epochs, Layout, State};
use crate::log::{Log, SegmentInfo, open};
use crate::position::{Id, LogByte, Offset, Position};
use crate::segment::SEAL_BYTES;

use super::arrive::fetch_file;
use super::manifest::{Manifest, checkpoint_name};
use super::snapshot::{SNAPSHOT, Snapshots};
use super::store::run_path;

/// Where a restored log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestoreAt {
    /// Where the source ends.
    #[default]
    End,
    /// Before this offset.
    Offset(Offset),
    /// Before the first record at or behind which a timestamp is at least this (nanoseconds since
    /// the Unix epoch).
    Time(i64),
}

/// What a restore made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// The log it is.
    pub log: Id,
    /// The snapshot it was made from, by name; `None` if the log alone was enough.
    pub snapshot: Option<String>,
    /// Behind the last record; a batch that reaches over the target is left out.
    pub end: Offset,
    /// Runs and segments that were copied, in bytes.
    pub bytes: u64,
    /// Segments.
    pub segments: usize,
}

impl Restored {
    pub(crate) fn new(
        log: Id,
        snapshot: Option<String>,
        end: Offset,
        segments: usize,
        bytes: u64,
    ) -> Self {
        Restored { log, snapshot, end, bytes, segments }
    }
}

/// Makes `to` a copy of the log at `from`, a log's directory or a directory of snapshots, as it
/// was at `at`: the newest snapshot at or below that, and the log from there. Snapshots are looked
/// for in `from` and in `from/snapshots`.
///
/// [`Kind::Gone`] when no snapshot and no log reaches there.
pub fn restore(from: &Path, to: &Path, at: RestoreAt) -> Result<Restored> {
    restore_on(&Os::shared(), from, to, at)
}

/// The same, on another file system.
pub fn restore_on(fs: &Arc<dyn Fs>, from: &Path, to: &Path, at: RestoreAt) -> Result<Restored> {
    let source = Source::open(fs, from)?;
    let target = source.target(at)?;
    let snapshot = source.snapshot(target)?;
    let start = snapshot.as_ref().map(|(_, manifest)| manifest.mark.position);
    let pieces = source.pieces(start, target)?;

    let layout = Layout::new(to);
    prepare(&**fs, &layout)?;
    let mut restored = Restored { end: pieces.end.offset, ..Restored::default() };
    if let Some((name, manifest)) = &snapshot {
        restored.snapshot = Some(name.clone());
        for entry in &manifest.runs {
            let there = run_path(&layout.table(), entry.id);
            if fs.open(&there, Open::Read).is_err() {
                let run = run_path(&source.snapshots.dir, entry.id);
                fetch_file(&**fs, &run, fs, &layout.table(), manifest.log, entry)?;
            }
            restored.bytes += entry.bytes;
        }
    }
    for (segment, bytes) in &pieces.segments {
        copy_segment(&**fs, segment, *bytes, &layout)?;
        restored.bytes += bytes;
        restored.segments += 1;
    }
    for dir in [layout.segments(), layout.table()] {
        fs.sync_dir(&dir).map_err(|e| Error::io("sync", &dir, e))?;
    }
    if let Some((_, manifest)) = &snapshot {
        let checkpoint = Manifest { seq: 1, ..manifest.clone() };
        let path = layout.table().join(checkpoint_name(1));
        checkpoint.meta(CHECKPOINT).replace(&**fs, &path)?;
    }
    restored.log = source.log_id(&snapshot)?;
    let mut epochs = source.epochs(&snapshot)?;
    epochs.retain(|entry| entry.start <= pieces.end.log_byte);
    let birth = open::Birth {
        id: Some(restored.log),
        floor: pieces.floor,
        floor_offset: pieces.floor_offset,
        floor_seal: pieces.floor_seal,
        epochs: Epochs(epochs),
        ..open::Birth::default()
    };
    open::create(&**fs, &layout, birth)?;
    finished(&**fs, &layout);
    tell_durable(&**fs, &layout, pieces.end);
    Ok(restored)
}

/// Hints to readers that all of a new log is durable, as a writer would: otherwise they take it for
/// one whose writer died.
fn tell_durable(fs: &dyn Fs, layout: &Layout, end: Position) {
    let state = State {
        seq: 1,
        epoch: end.epoch,
        durable: end.log_byte,
        durable_offset: end.offset,
        committed: end.log_byte,
        committed_offset: end.offset,
        time: fs.now(),
    };
    // A hint that cannot be written is one that is missing.
    let _ = State::file(fs, layout)
        .and_then(|file| state.write(&*file).map_err(|e| Error::io("write", &layout.state(), e)));
}

/// Stands in a directory while a log is restored or forked there, so that what an interrupted one
/// left is told from segments that somebody still needs.
pub(crate) const BEGUN: &str = crate::log::files::BEGUN;

/// Makes the directories of a log that is not there yet, and takes away what an earlier restore or
/// fork left when it was interrupted, but for runs, whose names say what is in them: it may have
/// been on its way to another point, and its segments and checkpoint would be read as this one's.
pub(crate) fn prepare(fs: &dyn Fs, layout: &Layout) -> Result<()> {
    if fs.open(&layout.log(), Open::Read).is_ok() {
        return Err(Error::new(Kind::AlreadyExists, "expected no log there yet, found one")
            .in_file(&layout.root)
            .help("name a new or empty directory"));
    }
    for dir in [layout.root.clone(), layout.segments(), layout.table()] {
        fs.create_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
    }
    let segments = layout.segments();
    let list = |dir: &Path| fs.list(dir).map_err(|e| Error::io("list", dir, e));
    let begun = layout.root.join(BEGUN);
    if fs.open(&begun, Open::Read).is_err() {
        if let Some(name) = list(&segments)?.first() {
            return Err(Error::new(
                Kind::AlreadyExists,
                format!("expected no segments there yet, found {name}"),
            )
            .in_file(&segments)
            .help(
                "name a new or empty directory; if this one was a log, `tidelog repair` makes it \
                 one again",
            ));
        }
        fs.open(&begun, Open::Create).map_err(|e| Error::io("create", &begun, e))?;
        // Closes the crash that keeps a segment of this restore and forgets that it is one.
        return fs.sync_dir(&layout.root).map_err(|e| Error::io("sync", &layout.root, e));
    }
    for dir in [segments, layout.table()] {
        for name in list(&dir)?.iter().filter(|name| !is_run(name)) {
            let path = dir.join(name);
            fs.unlink(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    Ok(())
}

/// Makes a directory with a log one that a restore has begun in, so that it becomes the log that
/// `prepare` would make room for: first the mark, then `LOG` goes, then what is not to stay. Runs stay,
/// and `keep`, a file among the segments.
pub(crate) fn unmake(fs: &dyn Fs, layout: &Layout, keep: Option<&Path>) -> Result<()> {
    let begun = layout.root.join(BEGUN);
    match fs.open(&begun, Open::Create) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io("create", &begun, e));
        }
        _ => {}
    }
    let sync = || fs.sync_dir(&layout.root).map_err(|e| Error::io("sync", &layout.root, e));
    // Closes the crash that forgets the mark and leaves segments that look like somebody's.
    sync()?;
    let log = layout.log();
    match fs.unlink(&log) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &log, e));
        }
        _ => {}
    }
    // Closes the crash that keeps `LOG` when the segments are gone.
    sync()?;
    for dir in [layout.segments(), layout.table()] {
        for name in fs.list(&dir).map_err(|e| Error::io("list", &dir, e))? {
            let path = dir.join(&name);
            if !is_run(&name) && keep != Some(&path) {
                fs.unlink(&path).map_err(|e| Error::io("remove", &path, e))?;
            }
        }
    }
    Ok(())
}

/// Whether a file is a run, or a part of one: its name says what is in it, whoever left it.
fn is_run(name: &str) -> bool {
    [".run", ".part"].iter().any(|ending| name.ends_with(ending))
}

/// Says that what `prepare` began is done: the log is there. If this is forgotten, LOG says it.
pub(crate) fn finished(fs: &dyn Fs, layout: &Layout) {
    let _ = fs.unlink(&layout.root.join(BEGUN));
}

/// Where things come from.
pub(super) struct Source {
    pub(super) log: Option<Log>,
    pub(super) layout: Layout,
    pub(super) snapshots: Snapshots,
    pub(super) fs: Arc<dyn Fs>,
}

/// What of the log is copied.
pub(super) struct Pieces {
    pub(super) floor: LogByte,
    pub(super) floor_offset: Offset,
    /// The hash in the footer of the segment before, if it is known.
    pub(super) floor_seal: Option<[u8; 32]>,
    /// With the bytes of each that count.
    pub(super) segments: Vec<(SegmentInfo, u64)>,
    pub(super) end: Position,
}

impl Source {
    pub(super) fn open(fs: &Arc<dyn Fs>, from: &Path) -> Result<Self> {
        let options = Log::options().read_only(true).fs(Arc::clone(fs));
        let log = match options.open(from) {
            Ok(log) => Some(log),
            Err(e) if e.kind() == Kind::NotALog => None,
            Err(e) => return Err(e),
        };
        let dir = if log.is_some() { from.join("snapshots") } else { from.to_path_buf() };
        let snapshots = Snapshots::at_on(Arc::clone(fs), &dir);
        Ok(Source { log, layout: Layout::new(from), snapshots, fs: Arc::clone(fs) })
    }

    /// The offset to end before; `u64::MAX` for whatever there is.
    pub(super) fn target(&self, at: RestoreAt) -> Result<Offset> {
        let end = match &self.log {
            Some(log) => log.confirmed_end(),
            None => Offset(u64::MAX),
        };
        match (at, &self.log) {
            (RestoreAt::End, _) => Ok(end),
            (RestoreAt::Offset(offset), _) if offset <= end => Ok(offset),
            (RestoreAt::Offset(offset), _) => Err(Error::new(
                Kind::InvalidInput,
                format!("expected an offset up to {end}, found {offset}"),
            )),
            (RestoreAt::Time(time), Some(log)) => Ok(log.seek_time(time)?.min(end)),
            (RestoreAt::Time(_), None) => Err(Error::new(
                Kind::InvalidInput,
                "expected a log to look a time up in, found snapshots alone",
            )
            .help("name the log's directory, or an offset")),
        }
    }

    /// The newest snapshot at or below `target`.
    pub(super) fn snapshot(&self, target: Offset) -> Result<Option<(String, Manifest)>> {
        let id = self.log.as_ref().map(Log::id);
        let fits = |snapshot: &super::Snapshot| {
            snapshot.position.offset <= target && id.is_none_or(|id| id == snapshot.log)
        };
        let Some(newest) = self.snapshots.list()?.into_iter().rfind(fits) else { return Ok(None) };
        let manifest = self.snapshots.manifest(&newest.name)?;
        Ok(manifest.map(|manifest| (newest.name, manifest)))
    }

    /// The part of the log between a snapshot's position and the target.
    pub(super) fn pieces(&self, start: Option<Position>, target: Offset) -> Result<Pieces> {
        let nothing = |position: Position| Pieces {
            floor: position.log_byte,
            floor_offset: position.offset,
            floor_seal: None,
            segments: Vec::new(),
            end: position,
        };
        let Some(log) = &self.log else {
            // Snapshots alone: one is taken as it is.
            return match start {
                Some(at) if at.offset == target || target == Offset(u64::MAX) => Ok(nothing(at)),
                Some(at) => {
                    Err(gone(target, format!("the newest snapshot below ends at {}", at.offset)))
                }
                None => Err(gone(target, "there is no snapshot at or below it".into())),
            };
        };
        let from = start.map_or(Offset(0), |at| at.offset);
        if from < log.start() {
            return Err(gone(target, format!("the log starts at {}", log.start())));
        }
        let begin = start.map_or(LogByte(0), |at| at.log_byte);
        let mut pieces = nothing(start.unwrap_or_default());
        let list = log.segments();
        for (i, segment) in list.iter().enumerate() {
            let ends_before = segment.data_bytes.is_some_and(|data| {
                segment.base.0 + data.saturating_sub(crate::segment::HEADER_BYTES) <= begin.0
            });
            if ends_before || segment.base_offset >= target && !pieces.segments.is_empty() {
                continue;
            }
            if pieces.segments.is_empty() {
                (pieces.floor, pieces.floor_offset) = (segment.base, segment.base_offset);
                pieces.floor_seal = match i.checked_sub(1) {
                    Some(before) => list[before].hash,
                    None => log.home().control()?.floor_seal,
                };
            }
            // Rolled and not sealed yet: its frames end where the SEAL before the next will begin.
            let next = list.get(i + 1).filter(|next| next.base_offset <= target);
            let bytes = if segment.sealed && segment.end_offset.is_some_and(|end| end <= target) {
                file_bytes(&*self.fs, &segment.path)?
            } else if let Some(next) = next.filter(|_| !segment.sealed) {
                // Every checksum in it was looked at when the log was opened.
                let log_byte = LogByte(next.base.0.saturating_sub(SEAL_BYTES));
                pieces.end = Position { epoch: segment.epoch, log_byte, offset: next.base_offset };
                crate::segment::HEADER_BYTES + log_byte.0.saturating_sub(segment.base.0)
            } else {
                self.cut(log, segment, target, &mut pieces.end)?
            };
            if let Some((end, data)) = segment.end_offset.zip(segment.data_bytes)
                && end <= target
            {
                let log_byte = LogByte(segment.base.0 + data - crate::segment::HEADER_BYTES);
                pieces.end = Position { epoch: segment.epoch, log_byte, offset: end };
            }
            pieces.segments.push((segment.clone(), bytes));
        }
        Ok(pieces)
    }

    /// How many bytes of a segment hold the batches below `target`; moves `end` behind them.
    fn cut(
        &self,
        log: &Log,
        segment: &SegmentInfo,
        target: Offset,
        end: &mut Position,
    ) -> Result<u64> {
        let mut cursor = log.read_range(segment.base_offset..target)?;
        let mut bytes = crate::segment::HEADER_BYTES;
        loop {
            // A range cuts a batch short; one that reaches over the target does not count.
            match cursor.next_batch() {
                Ok(Some(batch)) if batch.is_whole() => {
                    *end = batch.end();
                    bytes = crate::segment::HEADER_BYTES + (end.log_byte.0 - segment.base.0);
                }
                Ok(_) => return Ok(bytes),
                Err(e) if e.kind() == Kind::Lost => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn log_id(&self, snapshot: &Option<(String, Manifest)>) -> Result<Id> {
        let named = snapshot.as_ref().map(|(_, manifest)| manifest.log);
        self.log.as_ref().map(Log::id).or(named).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("expected a log or a file *.{SNAPSHOT}, found none"))
                .in_file(&self.snapshots.dir)
        })
    }

    pub(super) fn epochs(
        &self,
        snapshot: &Option<(String, Manifest)>,
    ) -> Result<Vec<crate::log::files::EpochEntry>> {
        if self.log.is_some() {
            return Ok(Epochs::read(&*self.fs, &self.layout)?.0);
        }
        Ok(snapshot.as_ref().map_or_else(Vec::new, |(_, manifest)| manifest.history.clone()))
    }
}

fn gone(target: Offset, why: String) -> Error {
    let target =
        if target.0 == u64::MAX { "the end".to_owned() } else { format!("offset {target}") };
    Error::new(Kind::Gone, format!("expected what leads to {target}, but {why}"))
        .help("name a source that holds the log from there, or another point")
}

fn file_bytes(fs: &dyn Fs, path: &Path) -> Result<u64> {
    let file = fs.open(path, Open::Read).map_err(|e| Error::io("open", path, e))?;
    file.len().map_err(|e| Error::io("read", path, e))
}

/// Copies the first `bytes` of a segment, durably.
fn copy_segment(fs: &dyn Fs, segment: &SegmentInfo, bytes: u64, layout: &Layout) -> Result<()> {
    let name = segment.path.file_name().unwrap_or_default();
    let to = layout.segments().join(name);
    let tmp = to.with_extension("tmp");
    let source =
        fs.open(&segment.path, Open::Read).map_err(|e| Error::io("open", &segment.path, e))?;
    let _ = fs.unlink(&tmp);
    let target = fs.open(&tmp, Open::Create).map_err(|e| Error::io("create", &tmp, e))?;
    let mut block = vec![0; usize::try_from(bytes).map_or(1 << 20, |bytes| bytes.min(1 << 20))];
    let mut hasher = blake3::Hasher::new();
    let data = segment.data_bytes.unwrap_or(0);
    let mut byte = 0;
    while byte < bytes {
        let want = usize::try_from((bytes - byte).min(1 << 20)).expect("at most a block");
        let block = &mut block[..want];
        source.read_exact_at(block, byte).map_err(|e| Error::io("read", &segment.path, e))?;
        target.write_all_at(block, byte).map_err(|e| Error::io("write", &tmp, e))?;
        let hashed = usize::try_from(data.saturating_sub(byte)).unwrap_or(want).min(want);
        hasher.update(&block[..hashed]);
        byte += want as u64;
    }
    // A part of a segment ends at a frame whose checksums were looked at; a whole one has a hash.
    if bytes > data && segment.hash.is_some_and(|hash| hash != *hasher.finalize().as_bytes()) {
        return Err(Error::new(
            Kind::Corrupt,
            "expected the content that the seal says, found another",
        )
        .in_file(&segment.path)
        .help("run `tidelog verify` on the source, and repair it or take another copy"));
    }
    target.sync_data().map_err(|e| Error::io("sync", &tmp, e))?;
    fs.rename(&tmp, &to).map_err(|e| Error::io("name", &to, e))
}
