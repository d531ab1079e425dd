//! Runs: immutable files of rows in key order.
//!
//! ```text
//! | head | block | block | … | section's index | block | … | section's index | top index | footer |
//! ```
//!
//! Written by the flushing of deltas and by merging ([`Writer`]); read by views, point by point and
//! in order; published in snapshots as they are. `docs/FORMAT.md` has the bytes. Invariants:
//! - a run is a function of its rows and its log's id alone, and its name is the hash of it;
//! - every block is checked, both checksums, before a row of it is shown: once for point reads,
//!   at every entry for scans; every index before its first use;
//! - a wrong index can cost time or an error, never a wrong row: keys are compared.

mod block;
mod cursor;
mod footer;
#[cfg(feature = "fuzz")]
mod mend;
mod section;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub(super) use super::filter::hash;
pub(super) use cursor::Cursor;
pub(super) use footer::FOOTER_BYTES;
#[cfg(feature = "fuzz")]
pub(super) use mend::mend;
pub use verify::RunProblem;
pub(super) use writer::Writer;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, OnceLock};

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::frame::{Fault, Frame, FrameKind, Header, Seed};
use crate::fs::{File, Fs, Map};
use crate::mutant::{self, Mutant};
use crate::position::Id;

use super::manifest::RunEntry;
use super::row::Version;
use block::{Block, RowAt};
use footer::{Footer, HEAD_BYTES, Top};
use section::Section;

/// No index of a section is larger: more is damage.
const MOST_INDEX_BYTES: u64 = 1 << 30;
const REPAIR: &str =
    "run `tidelog repair`: the table is made again, from an older checkpoint or from the log";

/// A run's name: the blake3 hash of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RunId(pub(super) [u8; 32]);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for RunId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Ok(b - b'0'),
            b'a'..=b'f' => Ok(b - b'a' + 10),
            _ => Err(()),
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(());
        }
        let mut id = [0; 32];
        for (byte, [high, low]) in id.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(RunId(id))
    }
}

/// An open run.
#[derive(Debug)]
pub(super) struct Run {
    path: PathBuf,
    data: Data,
    seed: Seed,
    footer: Footer,
    top: Top,
    file_bytes: u64,
    sections: Vec<Checked>,
}

/// Where bytes come from.
#[derive(Debug)]
enum Data {
    Mapped(Map),
    Read(Arc<dyn File>),
}

/// What was checked of a section.
#[derive(Debug, Default)]
struct Checked {
    /// The index, or nothing when it lies in the map; set once its checksum was seen to hold.
    index: OnceLock<Option<Vec<u8>>>,
    /// A bit for each block whose checksums were seen to hold.
    blocks: OnceLock<Box<[AtomicU64]>>,
}

/// A row that was found; borrows from the run, or owns its block.
#[derive(Debug)]
pub(super) struct Found<'a> {
    body: Cow<'a, [u8]>,
    row: RowAt,
}

impl Found<'_> {
    pub(super) fn version(&self) -> Version<'_> {
        self.row.version(&self.body)
    }
}

impl Run {
    /// Opens a run of this log: reads its footer and its top index.
    pub(super) fn open(fs: &dyn Fs, path: &Path, log: Id, map: bool) -> Result<Self> {
        let io = |e| Error::io("read", path, e);
        let file = fs.open_plain(path).map_err(|e| Error::io("open", path, e))?;
        let file_bytes = file.len().map_err(io)?;
        let corrupt = |what: &str, byte: u64| {
            Error::new(Kind::Corrupt, what.to_owned()).in_file(path).at_byte(byte).help(REPAIR)
        };
        let Some(footer_byte) = file_bytes.checked_sub(FOOTER_BYTES).filter(|&b| b >= HEAD_BYTES)
        else {
            return Err(corrupt("expected a run, found a file too short for one", 0));
        };
        let mut bytes = [0; 256];
        file.read_exact_at(&mut bytes, footer_byte).map_err(io)?;
        let footer =
            Footer::decode(&bytes, file_bytes).map_err(|e| e.in_file(path).at_byte(footer_byte))?;
        if footer.log != log {
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected a run of log {log}, found one of log {}", footer.log),
            )
            .in_file(path)
            .help("move this file out of the table's directory"));
        }
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0).map_err(io)?;
        if !footer.fits_head(&head) {
            return Err(corrupt("expected the head of this run, found something else", 0));
        }
        // The footer's checksum vouches for the length, which the file has room for.
        let mut top = vec![0; usize::try_from(footer.top_len).unwrap_or(usize::MAX).min(1 << 31)];
        file.read_exact_at(&mut top, footer.top).map_err(io)?;
        if crc::crc32c(&top) != footer.top_crc {
            return Err(corrupt("the checksum of the run's index does not hold", footer.top));
        }
        let top = Top::decode(&top, footer.sections, footer.top)
            .ok_or_else(|| corrupt("expected sections in order, found others", footer.top))?;
        let data = match map {
            true => Data::Mapped(file.map(file_bytes).map_err(|e| Error::io("map", path, e))?),
            false => Data::Read(file),
        };
        let sections = top.sections.iter().map(|_| Checked::default()).collect();
        let seed = Seed::new(log, 0);
        Ok(Run { path: path.to_path_buf(), data, seed, footer, top, file_bytes, sections })
    }

    /// What a manifest says of it.
    pub(super) fn entry(&self) -> RunEntry {
        RunEntry {
            id: self.footer.id,
            bytes: self.file_bytes,
            rows: self.footer.rows,
            deletes: self.footer.deletes,
        }
    }

    pub(super) fn id(&self) -> RunId {
        self.footer.id
    }

    /// Rows, deletes included.
    pub(super) fn rows(&self) -> u64 {
        self.footer.rows
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The first key of each section.
    pub(super) fn section_keys(&self) -> impl Iterator<Item = &[u8]> {
        self.top.sections.iter().map(|section| &*section.first_key)
    }

    /// What the run has of `key`, whose [`hash`] is given.
    #[inline]
    pub(super) fn get(&self, key: &[u8], hash: u64) -> Result<Option<Found<'_>>> {
        let Some(s) = self.section(key) else { return Ok(None) };
        let index = self.index(s)?;
        let hidden = mutant::on(Mutant::FilterSaysNo) && hash.is_multiple_of(7);
        if !index.may_hold(hash) || hidden {
            return Ok(None);
        }
        let Some(b) = index.find(key) else { return Ok(None) };
        let body = self.block(s, &index, b, false)?;
        let found = Block::decode(&body.0, body.1).and_then(|block| block.find(key, hash));
        match found {
            Ok(row) => Ok(row.map(|row| Found { body: body.0, row })),
            Err(fault) => Err(self.damaged(s, &index, b, fault)),
        }
    }

    /// The section that holds `key`, if any does.
    #[inline]
    fn section(&self, key: &[u8]) -> Option<usize> {
        let sections = &self.top.sections;
        let after = match sections.len() {
            1 => usize::from(sections[0].first_key.as_slice() <= key),
            _ => sections.partition_point(|section| section.first_key.as_slice() <= key),
        };
        after.checked_sub(1)
    }

    /// The index of section `s`, checked.
    #[inline]
    fn index(&self, s: usize) -> Result<Section<'_>> {
        let owned = match self.sections[s].index.get() {
            Some(owned) => owned,
            None => self.check_index(s)?,
        };
        let entry = &self.top.sections[s];
        let bytes = match (owned, &self.data) {
            (Some(bytes), _) => bytes.as_slice(),
            (None, Data::Mapped(map)) => range(map, entry.index, entry.index_len),
            (None, Data::Read(_)) => &[],
        };
        Section::decode(bytes).ok_or_else(|| {
            Error::new(Kind::Corrupt, "expected a section's index, found what is none")
                .in_file(&self.path)
                .at_byte(entry.index)
                .help(REPAIR)
        })
    }

    #[cold]
    fn check_index(&self, s: usize) -> Result<&Option<Vec<u8>>> {
        let entry = &self.top.sections[s];
        let (bytes, owned) = match &self.data {
            Data::Mapped(map) => (Cow::Borrowed(range(map, entry.index, entry.index_len)), false),
            Data::Read(file) => {
                let len = entry.index_len.min(MOST_INDEX_BYTES);
                let mut bytes = vec![0; usize::try_from(len).expect("bounded above")];
                file.read_exact_at(&mut bytes, entry.index)
                    .map_err(|e| Error::io("read", &self.path, e))?;
                (Cow::Owned(bytes), true)
            }
        };
        let blocks = Section::decode(&bytes).map(|section| section.blocks());
        let (Some(blocks), true) = (blocks, crc::crc32c(&bytes) == entry.index_crc) else {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "the checksum of the index of the keys from {} on does not hold",
                    show(&entry.first_key)
                ),
            )
            .in_file(&self.path)
            .at_byte(entry.index)
            .help(REPAIR));
        };
        let checked = &self.sections[s];
        let bits = (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let _ = checked.blocks.set(bits);
        let kept = if owned { Some(bytes.into_owned()) } else { None };
        Ok(checked.index.get_or_init(|| kept))
    }

    /// The body of block `b` and its number of rows. Its checksums are held against it `always`, or
    /// the first time.
    #[inline]
    fn block(
        &self,
        s: usize,
        index: &Section<'_>,
        b: usize,
        always: bool,
    ) -> Result<(Cow<'_, [u8]>, u16)> {
        let entry = &self.top.sections[s];
        let start = entry.start + index.start(b);
        let end = match b + 1 < index.blocks() {
            true => entry.start + index.start(b + 1),
            false => entry.frames_end,
        };
        if end > entry.frames_end || start >= end {
            return Err(self.damaged(s, index, b, Fault::Short));
        }
        let bytes = match &self.data {
            Data::Mapped(map) => Cow::Borrowed(range(map, start, end - start)),
            Data::Read(file) => {
                let len = usize::try_from(end - start).unwrap_or(usize::MAX);
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, start)
                    .map_err(|e| Error::io("read", &self.path, e))?;
                Cow::Owned(bytes)
            }
        };
        let bits = self.sections[s].blocks.get();
        let known = !always
            && matches!(bytes, Cow::Borrowed(_))
            && bits.is_some_and(|bits| bits[b / 64].load(Relaxed) >> (b % 64) & 1 == 1);
        let header = if known || mutant::on(Mutant::SkipBlockCheck) {
            // Its checksums held before, and the file never changes.
            match bytes.first_chunk() {
                Some(head) => Ok(Header::staged(head)),
                None => Err(Fault::Short),
            }
        } else {
            self.check_block(&bytes, start, end)
        };
        let header = match header {
            Ok(header) => header,
            Err(fault) => return Err(self.damaged(s, index, b, fault)),
        };
        if !known && let Some(bits) = bits {
            bits[b / 64].fetch_or(1 << (b % 64), Relaxed);
        }
        let body = crate::frame::HEADER_BYTES..header.len as usize;
        let body = match bytes {
            Cow::Borrowed(bytes) => bytes.get(body).map(Cow::Borrowed),
            Cow::Owned(mut bytes) => {
                bytes.truncate(header.len as usize);
                Some(Cow::Owned(bytes.split_off(crate::frame::HEADER_BYTES)))
            }
        };
        match body {
            Some(body) => Ok((body, header.count)),
            None => Err(self.damaged(s, index, b, Fault::Short)),
        }
    }

    fn check_block(&self, bytes: &[u8], start: u64, end: u64) -> Result<Header, Fault> {
        let frame = Frame::decode(bytes, start, end, self.seed)?;
        if frame.header.kind != FrameKind::Run || frame.header.flags != 0 {
            return Err(Fault::Unknown);
        }
        Ok(frame.header)
    }

    /// The error of a block that is damaged: it names the keys that may be lost.
    #[cold]
    fn damaged(&self, s: usize, index: &Section<'_>, b: usize, fault: Fault) -> Error {
        let entry = &self.top.sections[s];
        let first = index.first_key(b).unwrap_or(&entry.first_key);
        let end = match index.first_key(b + 1) {
            Some(key) if b + 1 < index.blocks() => format!("before {}", show(key)),
            _ => match self.top.sections.get(s + 1) {
                Some(next) => format!("before {}", show(&next.first_key)),
                None => format!("up to {}", show(&self.top.last_key)),
            },
        };
        Error::new(
            Kind::Corrupt,
            format!(
                "expected the rows with keys from {} on, {end}, found {}",
                show(first),
                fault.as_str()
            ),
        )
        .in_file(&self.path)
        .at_byte(entry.start + index.start(b.min(index.blocks() - 1)))
        .help(REPAIR)
    }
}

/// A part of a map, as far as there is one.
#[inline]
fn range(map: &Map, at: u64, len: u64) -> &[u8] {
    let part = usize::try_from(at).ok().zip(usize::try_from(len).ok());
    part.and_then(|(at, len)| map.get(at..)?.get(..len)).unwrap_or_default()
}

/// A key, for people: not too long, in quotes.
fn show(key: &[u8]) -> String {
    let mut text: String = String::from_utf8_lossy(key).chars().take(40).collect();
    if text.len() < key.len() {
        text.push('…');
    }
    format!("{text:?}")
}
