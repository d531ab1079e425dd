//! Writing a run: rows in, blocks and indexes out, hashed on the way.
//!
//! Called by the flushing of deltas and by merging. Memory: one block, one section's index, and a
//! buffer, whatever the run's size. The caller makes the file durable and gives it its name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::crc;
use crate::error::{Error, Result};
use crate::frame::{Draft, FrameKind, HEADER_BYTES, NO_CLAIM, Seed, align, stamp};
use crate::fs::{File, Fs, Open};
use crate::position::{Id, Offset};

use super::RunId;
use super::block::{MOST_BYTES, ROW_BYTES, tag};
use super::footer::{Footer, SectionEntry, Top, head};
use super::section::Builder;
use crate::table::row::Version;

/// Rows of a block, in bytes, from which on it is closed.
const BLOCK_BYTES: usize = 16 << 10;
/// A section has at most so many rows, and bytes of blocks.
const SECTION: (usize, u64) = (1 << 20, 192 << 20);
/// Bytes collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A run being written.
#[derive(Debug)]
pub(in crate::table) struct Writer {
    file: Arc<dyn File>,
    path: PathBuf,
    seed: Seed,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    /// Byte of the file that the buffer starts at.
    at: u64,
    section: (usize, u64),
    builder: Builder,
    /// Where the section's blocks start.
    start: u64,
    top: Top,
    block: Filling,
    footer: Footer,
    /// Ordinal of the block's first row.
    ordinal: u64,
}

/// The block that is being filled.
#[derive(Debug, Default)]
struct Filling {
    tags: Vec<u8>,
    ends: Vec<u8>,
    rows: Vec<u8>,
    newest: i64,
}

/// A run that was written; not durable yet, and without its name.
#[derive(Debug)]
pub(in crate::table) struct Finished {
    pub(in crate::table) id: RunId,
    pub(in crate::table) file: Arc<dyn File>,
}

impl Writer {
    /// Begins a run in a new file.
    pub(in crate::table) fn create(fs: &dyn Fs, path: &Path, log: Id) -> Result<Self> {
        Writer::with_sections(fs, path, log, SECTION)
    }

    /// The same, with sections of at most so many rows and bytes.
    pub(super) fn with_sections(
        fs: &dyn Fs,
        path: &Path,
        log: Id,
        section: (usize, u64),
    ) -> Result<Self> {
        let file = fs.open(path, Open::Create).map_err(|e| Error::io("create", path, e))?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES + (BUFFER_BYTES >> 2));
        buffer.extend_from_slice(&head(log));
        let footer = Footer {
            log,
            sections: 0,
            rows: 0,
            deletes: 0,
            offsets: (Offset(u64::MAX), Offset(0)),
            newest: i64::MIN,
            bytes: 0,
            blocks: 0,
            top: 0,
            top_len: 0,
            top_crc: 0,
            id: RunId([0; 32]),
        };
        Ok(Writer {
            file,
            path: path.to_path_buf(),
            seed: Seed::new(log, 0),
            hasher: blake3::Hasher::new(),
            start: buffer.len() as u64,
            buffer,
            at: 0,
            section,
            builder: Builder::default(),
            top: Top::default(),
            block: Filling::default(),
            footer,
            ordinal: 0,
        })
    }

    /// Appends a row; keys rise.
    pub(in crate::table) fn push(&mut self, key: &[u8], version: Version<'_>) -> Result<()> {
        let value = version.value.unwrap_or_default();
        let row = ROW_BYTES + key.len() + value.len();
        let full = self.block.rows.len() + row > BLOCK_BYTES && !self.block.tags.is_empty();
        if full {
            self.close_block()?;
        }
        let filling = &mut self.block;
        if filling.tags.is_empty() {
            let rows = self.builder.rows();
            let bytes = self.at + self.buffer.len() as u64 - self.start;
            if rows > 0 && (rows >= self.section.0 || bytes >= self.section.1) {
                self.close_section()?;
            }
            if self.builder.rows() == 0 {
                self.top.sections.push(SectionEntry {
                    start: self.start,
                    frames_end: 0,
                    rows: 0,
                    index: 0,
                    index_len: 0,
                    index_crc: 0,
                    first_key: key.to_vec(),
                });
            }
            self.builder.block(self.at + self.buffer.len() as u64 - self.start, key);
            self.block.newest = i64::MIN;
        }
        debug_assert!(self.footer.rows == 0 || *self.top.last_key < *key, "keys rise");
        let hash = super::hash(key);
        self.builder.key(hash);
        let filling = &mut self.block;
        filling.tags.push(tag(hash));
        let op = u32::from(version.value.is_none());
        let word = op | u32::try_from(key.len()).expect("a key's length") << 2;
        filling.rows.extend_from_slice(&word.to_le_bytes());
        filling.rows.extend_from_slice(&version.offset.0.to_le_bytes());
        filling.rows.extend_from_slice(&version.timestamp.to_le_bytes());
        filling.rows.extend_from_slice(key);
        filling.rows.extend_from_slice(value);
        let end = u16::try_from(filling.rows.len()).unwrap_or(u16::MAX);
        filling.ends.extend_from_slice(&end.to_le_bytes());
        filling.newest = filling.newest.max(version.timestamp);
        let footer = &mut self.footer;
        footer.rows += 1;
        footer.deletes += u64::from(version.value.is_none());
        footer.bytes += (key.len() + value.len()) as u64;
        footer.newest = footer.newest.max(version.timestamp);
        footer.offsets.0 = footer.offsets.0.min(version.offset);
        footer.offsets.1 = footer.offsets.1.max(version.offset);
        self.top.last_key.clear();
        self.top.last_key.extend_from_slice(key);
        Ok(())
    }

    /// Writes the block's frame into the buffer.
    fn close_block(&mut self) -> Result<()> {
        let Filling { tags, ends, rows, newest } = &mut self.block;
        let count = tags.len();
        debug_assert!(count == 1 || rows.len() <= MOST_BYTES, "ends are short");
        let byte = self.at + self.buffer.len() as u64;
        let from = self.buffer.len();
        self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
        self.buffer.extend_from_slice(tags);
        self.buffer.resize(from + HEADER_BYTES + count.next_multiple_of(2), 0);
        if count > 1 {
            self.buffer.extend_from_slice(ends);
        }
        self.buffer.extend_from_slice(rows);
        let len = self.buffer.len() - from;
        self.buffer.resize(from + len.next_multiple_of(8), 0);
        let draft = Draft {
            len: u32::try_from(len).expect("a record's size is bounded"),
            max_timestamp: *newest,
            body_crc: crc::crc32c(&self.buffer[from + HEADER_BYTES..]),
            count: u16::try_from(count).expect("rows of 20 bytes and more"),
            kind: FrameKind::Run,
            flags: 0,
        };
        let (header, _) = self.buffer[from..].split_first_chunk_mut().expect("a header's length");
        *header = draft.header();
        let ordinal = u32::try_from(self.ordinal).unwrap_or(u32::MAX);
        stamp(header, self.seed, byte, ordinal, NO_CLAIM);
        self.ordinal += count as u64;
        self.footer.blocks += 1;
        tags.clear();
        ends.clear();
        rows.clear();
        if self.buffer.len() >= BUFFER_BYTES {
            self.write()?;
        }
        Ok(())
    }

    fn close_section(&mut self) -> Result<()> {
        let frames_end = self.at + self.buffer.len() as u64;
        let index = frames_end.next_multiple_of(64);
        self.buffer
            .resize(self.buffer.len() + usize::try_from(index - frames_end).expect("below 64"), 0);
        let rows = self.builder.rows() as u64;
        let bytes = self.builder.finish();
        let section = self.top.sections.last_mut().expect("it has rows");
        *section = SectionEntry {
            start: section.start,
            frames_end,
            rows,
            index,
            index_len: bytes.len() as u64,
            index_crc: crc::crc32c(&bytes),
            first_key: std::mem::take(&mut section.first_key),
        };
        self.buffer.extend_from_slice(&bytes);
        self.start = align(self.at + self.buffer.len() as u64);
        let end = usize::try_from(self.start - self.at).expect("a buffer's length");
        self.buffer.resize(end, 0);
        self.write()
    }

    /// Hashes the buffer and writes it.
    fn write(&mut self) -> Result<()> {
        self.hasher.update(&self.buffer);
        self.file
            .write_all_at(&self.buffer, self.at)
            .map_err(|e| Error::io("write", &self.path, e))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left. At least one row was pushed.
    pub(in crate::table) fn finish(mut self) -> Result<Finished> {
        self.close_block()?;
        self.close_section()?;
        let top = self.top.encode();
        self.footer.sections =
            u32::try_from(self.top.sections.len()).expect("sections of a million rows");
        self.footer.top = self.at;
        self.footer.top_len = top.len() as u64;
        self.footer.top_crc = crc::crc32c(&top);
        self.buffer.extend_from_slice(&top);
        self.write()?;
        self.footer.id = RunId(*self.hasher.finalize().as_bytes());
        self.file
            .write_all_at(&self.footer.encode(), self.at)
            .map_err(|e| Error::io("write", &self.path, e))?;
        Ok(Finished { id: self.footer.id, file: self.file })
    }
}

#[cfg(feature = "fuzz")]
impl Writer {
    /// A run of small sections.
    pub(in crate::table) fn small(fs: &dyn Fs, path: &Path, log: Id) -> Result<Self> {
        Writer::with_sections(fs, path, log, (50, 1 << 20))
    }
}
