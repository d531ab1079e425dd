//! `diverged/`: what a copy held and its leader's history does not, kept so that it can be read back.
//!
//! ```text
//! diverged/<epoch number>-<from log byte>-<to log byte>[-<n>]/
//!     <log byte of the segment>.seg   its header page, and its frames from the cut on, each at its own byte
//!     note                            what they are; the last to come
//! ```
//!
//! Written by `cut` before anything goes; read by the command line, which lists, prints and replays it.
//! Never deleted by tidelog. Invariants:
//! - a directory without a note is one that was never finished, and nothing was cut for it;
//! - everything that a note tells of was durable before the note;
//! - a directory with the same frames is used again, so that a cut that was cut short keeps them once.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::frame::{Frame, FrameKind, HEADER_BYTES as FRAME_HEADER, Header, Records};
use crate::fs::{File, Fs, Open, Os};
use crate::log::compress;
use crate::log::files::{Layout, LogFile};
use crate::log::meta::Meta;
use crate::log::start::rewrite;
use crate::log::{Entry, OwnedEntry};
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, LogByte, Offset};
use crate::segment::{HEADER_BYTES, SegmentHeader, SegmentName, Tally, Window, walk};

use super::cut::Piece;

const NOTE: &str = "note";

/// One segment's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) base: LogByte,
    /// The first byte of frames in the file, and the byte behind the last.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Records of the segment before them.
    pub(crate) before: u32,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {}", self.base, self.from, self.to, self.before)
    }
}

impl FromStr for Part {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        let [base, from, to, before] = words[..] else { return Err(()) };
        let n = |word: &str| word.parse::<u64>().map_err(drop);
        let (base, from, to) = (LogByte(n(base)?), n(from)?, n(to)?);
        let before = before.parse().map_err(drop)?;
        let fits = HEADER_BYTES <= from && from < to && base.0.checked_add(to).is_some();
        fits.then_some(Part { base, from, to, before }).ok_or(())
    }
}

/// What the note beside the frames says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) log: Id,
    pub(crate) node: Id,
    /// The epochs that the frames are of, each with the log byte of the first one here.
    pub(crate) epochs: Vec<(Epoch, LogByte)>,
    pub(crate) from: LogByte,
    pub(crate) from_offset: Offset,
    pub(crate) to: LogByte,
    pub(crate) to_offset: Offset,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest: Option<i64>,
    pub(crate) newest: Option<i64>,
    pub(crate) time: i64,
    pub(crate) why: String,
    pub(crate) parts: Vec<Part>,
}

impl Note {
    fn meta(&self) -> Meta {
        let mut meta = Meta::new("diverged");
        meta.set("log", self.log).set("node", self.node);
        for (epoch, from) in &self.epochs {
            meta.set("epoch", format_args!("{} {} {from}", epoch.number, epoch.nonce));
        }
        meta.set("from", self.from)
            .set("from_offset", self.from_offset)
            .set("to", self.to)
            .set("to_offset", self.to_offset)
            .set("records", self.records)
            .set("bytes", self.bytes);
        for (key, time) in [("oldest", self.oldest), ("newest", self.newest)] {
            if let Some(time) = time {
                meta.set(key, time);
            }
        }
        meta.set("time", self.time).set("why", self.why.replace('\n', " "));
        for part in &self.parts {
            meta.set("segment", part);
        }
        meta
    }

    fn read(fs: &dyn Fs, dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(NOTE);
        let Some(meta) = Meta::read(fs, &path, "diverged")? else { return Ok(None) };
        Note::of(&meta).map(Some).map_err(|e| e.in_file(&path))
    }

    fn of(meta: &Meta) -> Result<Self> {
        let epoch = |text: String| {
            let mut words = text.split(' ').map(|word| word.parse::<u64>().ok());
            let mut next = || words.next().flatten();
            let epoch = Epoch { number: next()?, nonce: next()? };
            Some((epoch, LogByte(next()?)))
        };
        let epochs: Vec<_> = meta.all("epoch").filter_map(epoch).collect();
        let note = Note {
            log: meta.need("log")?,
            node: meta.need("node")?,
            epochs,
            from: LogByte(meta.need("from")?),
            from_offset: Offset(meta.need("from_offset")?),
            to: LogByte(meta.need("to")?),
            to_offset: Offset(meta.need("to_offset")?),
            records: meta.need("records")?,
            bytes: meta.need("bytes")?,
            oldest: meta.get("oldest"),
            newest: meta.get("newest"),
            time: meta.need("time")?,
            why: meta.get("why").unwrap_or_default(),
            parts: meta.all("segment").collect(),
        };
        let rising = note.parts.is_sorted_by(|a, b| a.base < b.base);
        match rising && !note.parts.is_empty() && !note.epochs.is_empty() {
            true => Ok(note),
            false => Err(Error::new(
                Kind::Corrupt,
                "expected a note with epochs and rising segments, found one without",
            )),
        }
    }
}

/// Copies the pieces into a directory of their own, durably; fills in what is read on the way. The
/// directory.
pub(super) fn keep(
    fs: &Arc<dyn Fs>,
    layout: &Layout,
    note: &mut Note,
    pieces: &[Piece],
) -> Result<PathBuf> {
    let root = layout.diverged();
    make(&**fs, &root, &layout.root)?;
    let epoch = note.epochs.first().map_or(0, |(epoch, _)| epoch.number);
    let stem = format!("{epoch}-{}-{}", note.from, note.to);
    let mut n = 1;
    let dir = loop {
        let dir = match n {
            1 => root.join(&stem),
            n => root.join(format!("{stem}-{n}")),
        };
        match Note::read(&**fs, &dir) {
            Ok(None) => break dir,
            // It was kept, and the cut was not begun.
            Ok(Some(there)) if (&there.epochs, &there.parts) == (&note.epochs, &note.parts) => {
                (note.oldest, note.newest) = (there.oldest, there.newest);
                return Ok(dir);
            }
            Ok(Some(_)) => {}
            Err(e) if e.kind() == Kind::Corrupt => {}
            Err(e) => return Err(e),
        }
        n += 1;
    };
    if mutant::on(Mutant::ThrowTailAway) {
        return Ok(dir);
    }
    make(&**fs, &dir, &root)?;
    for piece in pieces {
        let tally = copy(fs, &dir, piece)?;
        if tally.min_timestamp <= tally.max_timestamp {
            note.oldest =
                Some(note.oldest.map_or(tally.min_timestamp, |t| t.min(tally.min_timestamp)));
            note.newest = note.newest.max(Some(tally.max_timestamp));
        }
    }
    // Closes the crash that keeps the note and forgets the names of what it tells of.
    fs.sync_dir(&dir).map_err(|e| Error::io("sync", &dir, e))?;
    note.meta().replace(&**fs, &dir.join(NOTE))?;
    Ok(dir)
}

fn make(fs: &dyn Fs, dir: &Path, parent: &Path) -> Result<()> {
    fs.create_dir(dir).map_err(|e| Error::io("create", dir, e))?;
    // Closes the crash that forgets the directory whose content was synced.
    fs.sync_dir(parent).map_err(|e| Error::io("sync", parent, e))
}

/// Copies one piece and walks the copy: what cannot be read back is kept all the same, as it is.
fn copy(fs: &Arc<dyn Fs>, dir: &Path, piece: &Piece) -> Result<Tally> {
    let path = SegmentName(piece.header.base).path(dir);
    let io = |what: &'static str| {
        let path = path.clone();
        move |e| Error::io(what, &path, e)
    };
    match fs.unlink(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("clear")(e)),
        _ => {}
    }
    let file = fs.open(&path, Open::Create).map_err(io("create"))?;
    file.write_all_at(&piece.page, 0)
        .and_then(|()| rewrite(&*piece.file, &*file, piece.from, piece.to))
        .map_err(io("copy to"))?;
    file.sync_data().map_err(io("sync"))?;
    let mut tally = Tally { end: piece.from, records: piece.before, ..Tally::default() };
    walk(&mut Window::file(file), &piece.header, piece.to, &mut tally, |_, _| {})
        .map_err(io("read back"))?;
    Ok(tally)
}

/// Reads a note from bytes, checksum or no checksum; what reads must be written the same again.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) -> Result<()> {
    let mut summed = bytes.to_vec();
    let crc = crate::crc::crc32c(bytes);
    summed.extend_from_slice(format!("crc {crc:08x}\n").as_bytes());
    for bytes in [bytes, &summed] {
        let Ok(meta) = Meta::decode("diverged", bytes) else { continue };
        let note = Note::of(&meta)?;
        let again = Note::of(&Meta::decode("diverged", &note.meta().encode())?)?;
        assert_eq!(again, note);
    }
    Ok(())
}

/// What one rejoin kept.
#[derive(Clone, Debug)]
pub struct Diverged {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    name: String,
    note: Note,
}

/// What the rejoins of the log in the directory `path` kept, by name. An error in place of one whose note
/// cannot be read.
pub fn list(path: impl AsRef<Path>) -> Result<Vec<Result<Diverged>>> {
    list_on(&Os::shared(), path.as_ref())
}

/// The same on any file system.
pub fn list_on(fs: &Arc<dyn Fs>, path: &Path) -> Result<Vec<Result<Diverged>>> {
    let layout = Layout::new(path);
    LogFile::read(&**fs, &layout)?;
    let root = layout.diverged();
    let names = match fs.list(&root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        names => names.map_err(|e| Error::io("list", &root, e))?,
    };
    let read = |name: String| {
        let dir = root.join(&name);
        let note = match Note::read(&**fs, &dir) {
            // Never finished: nothing was cut for it.
            Ok(None) => return None,
            Ok(Some(note)) => note,
            Err(e) => return Some(Err(e)),
        };
        Some(Ok(Diverged { fs: Arc::clone(fs), dir, name, note }))
    };
    Ok(names.into_iter().filter_map(read).collect())
}

/// The one of that name.
pub fn open(path: impl AsRef<Path>, name: &str) -> Result<Diverged> {
    let path = path.as_ref();
    let mut failed = None;
    for kept in list(path)? {
        match kept {
            Ok(kept) if kept.name == name => return Ok(kept),
            Ok(_) => {}
            Err(e) if e.file().is_some_and(|f| f.parent().is_some_and(|d| d.ends_with(name))) => {
                failed = Some(e);
            }
            Err(_) => {}
        }
    }
    Err(failed.unwrap_or_else(|| {
        Error::new(Kind::NotFound, format!("expected {name:?} among what was kept, found none"))
            .in_file(&Layout::new(path).diverged())
            .help("`tidelog diverged list` shows what there is")
    }))
}

impl Diverged {
    /// Its name: epoch, first and last log byte.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// The log that it was cut from.
    pub fn log(&self) -> Id {
        self.note.log
    }
    /// The node that it was cut from.
    pub fn node(&self) -> Id {
        self.note.node
    }
    /// The epochs that it is of, oldest first.
    pub fn epochs(&self) -> Vec<Epoch> {
        self.note.epochs.iter().map(|(epoch, _)| *epoch).collect()
    }
    /// Where it begins.
    pub fn from(&self) -> (LogByte, Offset) {
        (self.note.from, self.note.from_offset)
    }
    /// Where it ends.
    pub fn to(&self) -> (LogByte, Offset) {
        (self.note.to, self.note.to_offset)
    }
    /// Records in it.
    pub fn records(&self) -> u64 {
        self.note.records
    }
    /// Bytes of their frames.
    pub fn bytes(&self) -> u64 {
        self.note.bytes
    }
    /// Timestamps of the oldest and the newest record, if there is any.
    pub fn times(&self) -> Option<(i64, i64)> {
        self.note.oldest.zip(self.note.newest)
    }
    /// When it was cut, in nanoseconds since the Unix epoch.
    pub fn time(&self) -> i64 {
        self.note.time
    }
    /// Why it was cut.
    pub fn why(&self) -> &str {
        &self.note.why
    }

    /// Its batches, in order.
    pub fn batches(&self) -> Batches<'_> {
        Batches { of: self, part: 0, open: None }
    }
}

/// The batches of what was kept, each with its records as they were appended.
#[derive(Debug)]
pub struct Batches<'a> {
    of: &'a Diverged,
    part: usize,
    open: Option<Place>,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    header: SegmentHeader,
    window: Window,
    at: u64,
    to: u64,
    rel: u32,
}

impl Batches<'_> {
    /// The next one; `None` at the end. Damage is an error that names file and byte.
    #[expect(clippy::should_implement_trait, reason = "an error does not end a list")]
    pub fn next(&mut self) -> Result<Option<Vec<OwnedEntry>>> {
        loop {
            if self.open.is_none() {
                let Some(part) = self.of.note.parts.get(self.part) else { return Ok(None) };
                self.open = Some(self.enter(*part)?);
                self.part += 1;
            }
            let open = self.open.as_mut().expect("opened above");
            if open.at >= open.to {
                self.open = None;
                continue;
            }
            if let Some(entries) = open.batch()? {
                return Ok(Some(entries));
            }
        }
    }

    fn enter(&self, part: Part) -> Result<Place> {
        let path = SegmentName(part.base).path(&self.of.dir);
        let io = |e| Error::io("read", &path, e);
        let file: Arc<dyn File> = self.of.fs.open_plain(&path).map_err(io)?;
        let mut page = vec![0; 4096];
        let read = file.read_full_at(&mut page, 0).map_err(io)?;
        let header = SegmentHeader::decode(&page[..read]).map_err(|e| e.in_file(&path))?;
        if header.base != part.base || header.log != self.of.note.log {
            return Err(Error::new(
                Kind::Corrupt,
                "expected the segment that the note tells of, found another one",
            )
            .in_file(&path));
        }
        let window = Window::file(file);
        Ok(Place { path, header, window, at: part.from, to: part.to, rel: part.before })
    }
}

impl Place {
    /// The next frame's records; `None` of a control frame.
    fn batch(&mut self) -> Result<Option<Vec<OwnedEntry>>> {
        let (at, to) = (self.at, self.to);
        let io = |e| Error::io("read", &self.path, e);
        let bad = |what: &str| {
            Error::new(Kind::Corrupt, format!("expected a frame that was kept, found {what}"))
                .in_file(&self.path)
                .at_byte(at)
                .help("the others can be read; `tidelog dump` shows what is in the file")
        };
        let bytes = self.window.bytes(at, FRAME_HEADER, to).map_err(io)?;
        let head = Header::decode(bytes, at, to, self.header.seed());
        let head = head.map_err(|fault| bad(fault.as_str()))?;
        let bytes = self.window.bytes(at, head.stride(), to).map_err(io)?;
        let frame = Frame::verified(bytes, head).map_err(|fault| bad(fault.as_str()))?;
        if head.rel_offset != self.rel {
            return Err(bad("one of another place"));
        }
        let mut unpacked = Vec::new();
        let entries = match head.kind {
            FrameKind::Data => {
                let records = match frame.is_compressed() {
                    true => {
                        compress::unpack(&frame, &mut unpacked)
                            .map_err(|e| e.in_file(&self.path).at_byte(at))?;
                        Records::new(&head, &unpacked)
                    }
                    false => frame.records(),
                };
                let records = records.map_err(|fault| bad(fault.as_str()))?;
                let first = self.header.base_offset.plus(u64::from(self.rel));
                let entry = |i: usize| {
                    let record = records.get(i).map_err(|fault| bad(fault.as_str()))?;
                    let entry = Entry {
                        offset: first.plus(i as u64),
                        epoch: self.header.epoch.number,
                        timestamp: record.timestamp.unwrap_or(head.max_timestamp),
                        record,
                    };
                    Ok(entry.to_owned())
                };
                Some((0..records.len()).map(entry).collect::<Result<Vec<_>>>()?)
            }
            _ => None,
        };
        let taken = match head.kind {
            FrameKind::Lost => {
                crate::frame::Lost::decode(frame.body)
                    .ok_or_else(|| bad("lost records without their count"))?
                    .count
            }
            _ => u32::from(head.count),
        };
        self.rel = self.rel.checked_add(taken).ok_or_else(|| bad("too many records"))?;
        self.at = at + head.stride() as u64;
        Ok(entries)
    }
}
