//! Runs: immutable files of rows in key order, named by their content.
//!
//! Made by [`Writer`] from a frozen delta or by a merge; read by views through [`Run::get`] and
//! [`Cursor`]; held against themselves by [`Run::verify`].
//!
//! ```text
//! | head | frames of section 0 | index 0 | frames of section 1 | index 1 | ... | top | footer |
//! 0      64                    ^ multiple of 64                                  ^ last 256 bytes
//! ```
//!
//! A get finds the section by its first key (there are few), asks the section's filter, finds the
//! block by its first key's prefix, the row by a byte of its hash. Invariants:
//! - a run never changes once it has its name, so it may be mapped and read without locks;
//! - nothing is believed before its checksum was seen to hold: head, footer and top index when the
//!   run is opened, a section's index at its first use, a block at the first get that enters it
//!   and each time a cursor does;
//! - damage is an error that names file, byte and keys, never a wrong or a missing row.

mod block;
mod cursor;
mod dump;
mod footer;
#[cfg(feature = "fuzz")]
mod fuzz;
mod section;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

#[cfg(feature = "fuzz")]
pub(crate) use fuzz::fuzz;

pub(super) use cursor::Cursor;
pub use dump::{RunLine, dump_run, is_run};
pub use footer::RunId;
pub(super) use footer::{FOOTER_BYTES, check_footer};
#[cfg(test)]
use writer::Finished;
pub(super) use writer::Writer;

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::frame::{Fault, FrameKind, HEADER_BYTES, Header, Seed};
use crate::fs::{File, Fs, Map, prefetch};
use crate::mutant::{self, Mutant};
use crate::position::{Id, Offset};

use super::filter::{self, LINE_BYTES, Line};
use super::manifest::RunEntry;
use super::row::Version;
use block::Block;
use footer::{Footer, HEAD_BYTES, Span, Top, check_head};
use section::Section;

/// As much of a block is fetched before anything in it is known: its header, the tags and ends of
/// some 125 rows, which otherwise would be waited for one after another.
const NEAR_BYTES: usize = 7 * 64;

/// What to do about a damaged run.
const HELP: &str = "run `tidelog repair`: the table is made again from the log";

/// An open run. Shared by views and cursors through an `Arc`.
#[derive(Debug)]
pub(super) struct Run {
    path: PathBuf,
    file: Arc<dyn File>,
    file_bytes: u64,
    /// The whole file; without it every block is read when it is needed.
    map: Option<Map>,
    log: Id,
    seed: Seed,
    footer: Footer,
    top: Top,
    /// One a section, filled when its index was found whole.
    sections: Box<[OnceLock<Loaded>]>,
}

/// A section whose index was found whole.
#[derive(Debug)]
struct Loaded {
    /// The index's bytes, when they are not mapped.
    index: Option<Vec<u8>>,
    /// A bit for each block whose checksums were seen to hold. Relaxed: the bits order nothing,
    /// since the bytes they speak of never change.
    verified: Box<[AtomicU64]>,
    /// See [`Section::samples`].
    samples: Box<[u64]>,
}

/// What a run's filter has to say of a key, before it is read: several runs are asked first, so
/// that the waits for memory lie side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    section: usize,
    line: &'a Line,
}

impl Ask<'_> {
    /// No section has such a key.
    pub(super) const NOWHERE: Ask<'static> = Ask { section: 0, line: &[0; LINE_BYTES] };
}

/// Stands for a filter that could not be read.
const ALL: Line = [u8::MAX; LINE_BYTES];

/// A row that was found; borrows from the map where there is one.
#[derive(Debug)]
pub(super) struct Found<'a> {
    value: Option<Cow<'a, [u8]>>,
    offset: Offset,
    timestamp: i64,
}

impl Found<'_> {
    /// What the row says.
    #[inline]
    pub(super) fn version(&self) -> Version<'_> {
        Version { value: self.value.as_deref(), offset: self.offset, timestamp: self.timestamp }
    }
}

impl Run {
    /// Opens a run of `log`; reads its head, footer and top index and nothing else. With `map`,
    /// rows are read through a map where the system gives one. A file with a run's name must have
    /// the hash that its name says.
    pub(super) fn open(fs: &dyn Fs, path: &Path, log: Id, map: bool) -> Result<Self> {
        let io = |e| Error::io("read the run", path, e);
        let file = fs.open_plain(path).map_err(io)?;
        let file_bytes = file.len().map_err(io)?;
        if file_bytes < (HEAD_BYTES + FOOTER_BYTES) as u64 {
            let least = HEAD_BYTES + FOOTER_BYTES;
            let what = format!("expected a run of at least {least} bytes, found {file_bytes}");
            return Err(Error::new(Kind::Corrupt, what).in_file(path).at_byte(0).help(HELP));
        }
        let mut head = [0; HEAD_BYTES];
        file.read_exact_at(&mut head, 0).map_err(io)?;
        check_head(&head, Some(log)).map_err(|e| e.in_file(path))?;
        let mut end = [0; FOOTER_BYTES];
        file.read_exact_at(&mut end, file_bytes - FOOTER_BYTES as u64).map_err(io)?;
        let footer = Footer::decode(&end, file_bytes, Some(log)).map_err(|e| e.in_file(path))?;
        let named = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".run"));
        if let Some(named) = named.and_then(|name| name.parse::<RunId>().ok())
            && named != footer.id
        {
            let what = format!("expected the run its name says, found run {}", footer.id);
            let error = Error::new(Kind::Corrupt, what).in_file(path);
            return Err(error.at_byte(file_bytes - FOOTER_BYTES as u64).help(HELP));
        }
        // Bounded by the file's length, which the footer was held against.
        let too_large = |_| io(std::io::ErrorKind::FileTooLarge.into());
        let mut top = vec![0; usize::try_from(footer.top_bytes).map_err(too_large)?];
        file.read_exact_at(&mut top, footer.top_byte).map_err(io)?;
        let top = Top::decode(&top, &footer).map_err(|e| e.in_file(path))?;
        Ok(Run {
            // A system that gives no map still reads.
            map: if map { file.map(file_bytes).ok() } else { None },
            sections: top.spans.iter().map(|_| OnceLock::new()).collect(),
            path: path.to_path_buf(),
            file,
            file_bytes,
            log,
            seed: Seed::new(log, 0),
            footer,
            top,
        })
    }

    #[cfg(any(test, feature = "fuzz"))]
    /// The row of `key`, deletes included.
    #[inline]
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Found<'_>>> {
        let hash = filter::hash(key);
        self.get_asked(self.ask(key, hash), key, hash)
    }

    /// Where to look for a key of this hash; has what its filter knows brought near.
    #[inline]
    pub(super) fn ask(&self, key: &[u8], hash: u64) -> Ask<'_> {
        let Some(s) = self.top.sections_before(key, true).checked_sub(1) else {
            return Ask::NOWHERE;
        };
        let index = self.index(s).ok().and_then(|(bytes, _)| Section::filter(bytes));
        match index.and_then(|lines| filter::line(lines, hash)) {
            Some(line) => {
                prefetch(line.as_ptr());
                Ask { section: s, line }
            }
            // Whatever is wrong is told by who looks there.
            None => Ask { section: s, line: &ALL },
        }
    }

    /// The row of `key`, whose [`hash`](filter::hash) was asked for.
    #[inline]
    pub(super) fn get_asked(
        &self,
        ask: Ask<'_>,
        key: &[u8],
        hash: u64,
    ) -> Result<Option<Found<'_>>> {
        let hidden = mutant::on(Mutant::FilterSaysNo) && hash.is_multiple_of(7);
        if !filter::holds(ask.line, hash) || hidden {
            return Ok(None);
        }
        let s = ask.section;
        let (section, loaded) = self.section(s)?;
        let Some(b) = section.blocks_before(key, true).checked_sub(1) else { return Ok(None) };
        let fault = |fault| self.damaged_block(s, &section, b, fault);
        let tag = block::tag(hash);
        let found = match self.mapped(s, &section, loaded, b)? {
            Some(frame) => block_of(frame)
                .and_then(|block| block.find(tag, key))
                .map_err(fault)?
                .map(|version| Found {
                    value: version.value.map(Cow::Borrowed),
                    offset: version.offset,
                    timestamp: version.timestamp,
                }),
            None => {
                let mut frame = Vec::new();
                self.read_block(s, &section, b, &mut frame)?;
                block_of(&frame).and_then(|block| block.find(tag, key)).map_err(fault)?.map(
                    |version| Found {
                        value: version.value.map(|value| Cow::Owned(value.to_vec())),
                        offset: version.offset,
                        timestamp: version.timestamp,
                    },
                )
            }
        };
        Ok(found)
    }

    #[cfg(any(test, feature = "fuzz"))]
    /// Whether the run may have a row of `key`, whose hash is given: no when its filter says
    /// so, without a look at any block.
    pub(super) fn may_hold(&self, key: &[u8], hash: u64) -> Result<bool> {
        let Some(s) = self.top.sections_before(key, true).checked_sub(1) else { return Ok(false) };
        Ok(filter::may_hold(self.section(s)?.0.filter, hash))
    }

    /// A cursor that stands nowhere until it seeks; in reverse it walks from the last key down.
    pub(super) fn cursor(self: &Arc<Self>, reverse: bool) -> Cursor {
        Cursor::new(Arc::clone(self), reverse)
    }

    /// What a manifest says of it.
    pub(super) fn entry(&self) -> RunEntry {
        RunEntry {
            id: self.id(),
            bytes: self.bytes(),
            rows: self.rows(),
            deletes: self.footer.deletes,
        }
    }

    /// The first key of each section.
    pub(super) fn section_keys(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.top.spans.len()).map(|section| self.top.first_key(section))
    }

    /// Rows with a value.
    pub(super) fn rows(&self) -> u64 {
        self.footer.rows
    }

    #[cfg(any(test, feature = "fuzz"))]
    /// Rows that are deletes.
    pub(super) fn deletes(&self) -> u64 {
        self.footer.deletes
    }

    #[cfg(test)]
    /// The smallest key; `None` without rows.
    pub(super) fn first_key(&self) -> Option<&[u8]> {
        (!self.sections.is_empty()).then(|| self.top.first_key(0))
    }

    #[cfg(test)]
    /// The largest key; `None` without rows.
    pub(super) fn last_key(&self) -> Option<&[u8]> {
        (!self.sections.is_empty()).then(|| &self.top.last_key[..])
    }

    #[cfg(test)]
    /// The oldest and the newest offset of its rows; `None` without rows.
    pub(super) fn offsets(&self) -> Option<(Offset, Offset)> {
        (!self.sections.is_empty()).then_some((self.footer.min_offset, self.footer.max_offset))
    }

    #[cfg(test)]
    /// The newest timestamp of its rows; `None` without rows.
    pub(super) fn max_timestamp(&self) -> Option<i64> {
        (!self.sections.is_empty()).then_some(self.footer.max_timestamp)
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.file_bytes
    }

    #[cfg(test)]
    /// Bytes of its keys and values.
    pub(super) fn content_bytes(&self) -> u64 {
        self.footer.bytes
    }

    /// The hash that names it.
    pub(super) fn id(&self) -> RunId {
        self.footer.id
    }

    /// Where it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Section `s`, its index held against its checksum at first use.
    #[inline]
    fn section(&self, s: usize) -> Result<(Section<'_>, &Loaded)> {
        let (bytes, loaded) = self.index(s)?;
        match Section::decode(bytes) {
            Some(section) => Ok((section.sampled(&loaded.samples), loaded)),
            None => Err(self.damaged_index(s)),
        }
    }

    /// The bytes of its index.
    #[inline]
    fn index(&self, s: usize) -> Result<(&[u8], &Loaded)> {
        let loaded = match self.sections[s].get() {
            Some(loaded) => loaded,
            None => {
                let loaded = self.load(s)?;
                self.sections[s].get_or_init(|| loaded)
            }
        };
        let bytes = match &loaded.index {
            Some(index) => index,
            None => self.map_of(index_range(&self.top.spans[s])).unwrap_or_default(),
        };
        Ok((bytes, loaded))
    }

    /// Reads a section's index for the first time. Out of line: it happens once.
    #[cold]
    fn load(&self, s: usize) -> Result<Loaded> {
        let span = &self.top.spans[s];
        let mut index = None;
        let bytes = match self.map_of(index_range(span)) {
            Some(bytes) => bytes,
            None => index.insert(self.read(index_range(span))?),
        };
        let section = checked_section(bytes, span).ok_or_else(|| self.damaged_index(s))?;
        let words = section.blocks().div_ceil(64);
        let samples = section.samples();
        let verified = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(Loaded { index, verified, samples })
    }

    /// Block `b` of section `s` in the map, its checksums held at first touch; `None` without map.
    #[inline]
    fn mapped(
        &self,
        s: usize,
        section: &Section<'_>,
        loaded: &Loaded,
        b: usize,
    ) -> Result<Option<&[u8]>> {
        let range = block_range(&self.top.spans[s], section, b);
        let Some(frame) = self.map_of(range.clone()) else { return Ok(None) };
        fetch(&frame[..frame.len().min(NEAR_BYTES)]);
        let (word, bit) = (&loaded.verified[b / 64], 1 << (b % 64));
        if word.load(Ordering::Relaxed) & bit == 0 {
            check_frame(frame, &range, self.seed)
                .map_err(|fault| self.damaged_block(s, section, b, fault))?;
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(Some(frame))
    }

    /// Block `b` of section `s`, read into `frame` and checked.
    fn read_block(
        &self,
        s: usize,
        section: &Section<'_>,
        b: usize,
        frame: &mut Vec<u8>,
    ) -> Result<()> {
        let range = block_range(&self.top.spans[s], section, b);
        self.read_into(range.clone(), frame)?;
        check_frame(frame, &range, self.seed)
            .map(|_| ())
            .map_err(|fault| self.damaged_block(s, section, b, fault))
    }

    #[inline]
    fn map_of(&self, range: Range<u64>) -> Option<&[u8]> {
        let map = self.map.as_ref()?;
        map.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    }

    fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_into(range, &mut bytes)?;
        Ok(bytes)
    }

    fn read_into(&self, range: Range<u64>, bytes: &mut Vec<u8>) -> Result<()> {
        let io = |e| Error::io("read the run", &self.path, e).at_byte(range.start);
        // Bounded by the file's length, which the top index was held against.
        let len = range.end.saturating_sub(range.start).min(self.file_bytes);
        let len = usize::try_from(len).map_err(|_| io(std::io::ErrorKind::FileTooLarge.into()))?;
        bytes.resize(len, 0);
        match self.file.read_full_at(bytes, range.start).map_err(io)? {
            read if read == len => Ok(()),
            read => Err(self.damage(
                &format!("expected {len} bytes, found {read}"),
                range.start,
                (None, None),
            )),
        }
    }

    /// Where block `b`'s rows begin, and where the next block's do.
    fn keys_of(&self, s: usize, section: &Section<'_>, b: usize) -> (Vec<u8>, Option<Vec<u8>>) {
        let next = match b + 1 < section.blocks() {
            true => Some(section.first_key(b + 1)),
            false => self.keys_behind(s),
        };
        (section.first_key(b), next)
    }

    /// The first key behind section `s`.
    fn keys_behind(&self, s: usize) -> Option<Vec<u8>> {
        (s + 1 < self.top.spans.len()).then(|| self.top.first_key(s + 1).to_vec())
    }

    #[cold]
    fn damaged_block(&self, s: usize, section: &Section<'_>, b: usize, fault: Fault) -> Error {
        let byte = block_range(&self.top.spans[s], section, b).start;
        let (first, next) = self.keys_of(s, section, b);
        let what = format!("expected a block of rows, found {}", fault.as_str());
        self.damage(&what, byte, (Some(&first), next.as_deref()))
    }

    #[cold]
    fn damaged_index(&self, s: usize) -> Error {
        let keys = (Some(self.top.first_key(s)), self.keys_behind(s));
        let what = "the checksum of a section's index does not hold";
        self.damage(what, self.top.spans[s].index_byte, (keys.0, keys.1.as_deref()))
    }

    fn damage(&self, what: &str, byte: u64, keys: (Option<&[u8]>, Option<&[u8]>)) -> Error {
        let what = match keys {
            (None, _) => what.to_owned(),
            (Some(first), None) => format!("{what}; its keys start at {}", show(first)),
            (Some(first), Some(next)) => {
                format!("{what}; its keys start at {} and end before {}", show(first), show(next))
            }
        };
        Error::new(Kind::Corrupt, what).in_file(&self.path).at_byte(byte).help(HELP)
    }
}

/// A key as error texts show it.
fn show(key: &[u8]) -> String {
    const SHOWN: usize = 64;
    match key.get(..SHOWN) {
        Some(start) if key.len() > SHOWN => {
            format!("\"{}\"... ({} bytes)", start.escape_ascii(), key.len())
        }
        _ => format!("\"{}\"", key.escape_ascii()),
    }
}

/// Has these bytes brought near, without waiting for them.
#[inline]
fn fetch(bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        prefetch(bytes.as_ptr().wrapping_add(at));
        at += 64;
    }
}

fn index_range(span: &Span) -> Range<u64> {
    span.index_byte..span.index_byte + u64::from(span.index_bytes)
}

/// The bytes of block `b`'s frame.
#[inline]
fn block_range(span: &Span, section: &Section<'_>, b: usize) -> Range<u64> {
    let start = |b| section.at(b).map_or(span.frames.end, |at| span.frames.start + at);
    start(b)..start(b + 1)
}

/// A section's index, when its checksum holds and its parts make sense.
fn checked_section<'a>(bytes: &'a [u8], span: &Span) -> Option<Section<'a>> {
    if crc::crc32c(bytes) != span.index_crc {
        return None;
    }
    let section = Section::decode(bytes)?;
    (section.rows == span.rows && section.check(span.frames.end - span.frames.start))
        .then_some(section)
}

/// Both checksums of the frame that must fill `range`.
fn check_frame(frame: &[u8], range: &Range<u64>, seed: Seed) -> Result<Header, Fault> {
    if mutant::on(Mutant::SkipBlockCheck) {
        return frame.first_chunk().map(Header::staged).ok_or(Fault::Short);
    }
    let header = Header::decode(frame, range.start, range.end, seed)?;
    header.check_body(frame)?;
    if header.stride() != frame.len() || header.kind != FrameKind::Run || header.flags != 0 {
        return Err(Fault::Unknown);
    }
    Ok(header)
}

/// The rows of a frame that was checked before.
#[inline]
fn block_of(frame: &[u8]) -> Result<Block<'_>, Fault> {
    let head = frame.first_chunk::<HEADER_BYTES>().ok_or(Fault::Short)?;
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let body = frame.get(HEADER_BYTES..len).ok_or(Fault::Short)?;
    Block::decode(body, u16::from_le_bytes([head[28], head[29]]))
}
