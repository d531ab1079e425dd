//! Writing a run: rows in key order become blocks, sections, and a file named by its content.
//!
//! ```text
//! push ─► rows of a block ─► frame ─► 1 MiB of output ─► blake3, file
//!     └─► a section's hashes and first keys ─► its index, behind its frames
//! ```
//!
//! Called by whoever freezes a delta or merges runs. Invariants:
//! - content depends on the rows, their order and the log's id alone;
//! - memory has a bound whatever the run's size: one section's hashes, one block, the output;
//! - nothing here is durable or named: the caller syncs, renames and syncs the directory, in the
//!   order that its crash cases need, and removes the file when a write failed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::frame::{self, Draft as FrameDraft, FrameKind, HEADER_BYTES, NO_CLAIM, Seed};
use crate::fs::{File, Fs, Open};
use crate::position::{Id, Offset};
use crate::record::{MAX_FRAME_BYTES, MAX_KEY_BYTES};
use crate::table::filter;
use crate::table::row::Version;

use super::block::{self, LONE_OVERHEAD, ROW_BYTES};
use super::footer::{Footer, HEAD_BYTES, RunId, Span, Top, encode_head, index_byte};
use super::section;

/// Output is gathered to this size.
const OUTPUT_BYTES: usize = 1 << 20;

/// How a run is cut; part of the format, since it decides the content and so the name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// A block takes no row more that would take its frame beyond this.
    pub(super) block_bytes: usize,
    /// A section ends with the block that reaches this many rows,
    pub(super) section_rows: usize,
    /// or this many bytes of frames.
    pub(super) section_bytes: u64,
}

impl Shape {
    pub(super) const RUN: Shape =
        Shape { block_bytes: 16 << 10, section_rows: 1 << 20, section_bytes: 192 << 20 };
}

/// A run that was written, not yet synced nor named.
#[derive(Debug)]
pub(in crate::table) struct Finished {
    pub(in crate::table) id: RunId,
    pub(in crate::table) file: Arc<dyn File>,
    /// Rows with a value.
    pub(in crate::table) rows: u64,
    pub(in crate::table) deletes: u64,
    /// Bytes of the file.
    pub(in crate::table) file_bytes: u64,
}

/// A run being written.
#[derive(Debug)]
pub(in crate::table) struct Writer {
    shape: Shape,
    path: PathBuf,
    file: Arc<dyn File>,
    seed: Seed,
    hasher: blake3::Hasher,
    output: Vec<u8>,
    /// Bytes hashed and written.
    written: u64,
    rows: Vec<u8>,
    ends: Vec<usize>,
    tags: Vec<u8>,
    first_key: Vec<u8>,
    last_key: Vec<u8>,
    /// The newest timestamp of the block.
    timestamp: i64,
    /// Rows in the blocks before.
    ordinal: u64,
    section: section::Draft,
    section_byte: u64,
    top: Top,
    totals: Footer,
}

impl Writer {
    /// A new file at `tmp` for rows of `log`. `rows_at_most` sizes memory and nothing else.
    pub(in crate::table) fn create(
        fs: &dyn Fs,
        tmp: &Path,
        log: Id,
        rows_at_most: u64,
    ) -> Result<Self> {
        Writer::shaped(fs, tmp, log, rows_at_most, Shape::RUN)
    }

    pub(super) fn shaped(
        fs: &dyn Fs,
        tmp: &Path,
        log: Id,
        rows_at_most: u64,
        shape: Shape,
    ) -> Result<Self> {
        let file = fs.open(tmp, Open::Create).map_err(|e| Error::io("create the run", tmp, e))?;
        let mut output = Vec::with_capacity(OUTPUT_BYTES + 2 * shape.block_bytes);
        output.extend_from_slice(&encode_head(log));
        let mut section = section::Draft::default();
        // A section may run over by the rows of one block.
        let most = shape.section_rows + shape.block_bytes / ROW_BYTES;
        section.reserve(usize::try_from(rows_at_most).unwrap_or(most).min(most));
        Ok(Writer {
            shape,
            path: tmp.to_path_buf(),
            file,
            seed: Seed::new(log, 0),
            hasher: blake3::Hasher::new(),
            output,
            written: 0,
            rows: Vec::with_capacity(shape.block_bytes),
            ends: Vec::with_capacity(shape.block_bytes / ROW_BYTES),
            tags: Vec::with_capacity(shape.block_bytes / ROW_BYTES),
            first_key: Vec::new(),
            last_key: Vec::new(),
            timestamp: i64::MIN,
            ordinal: 0,
            section,
            section_byte: HEAD_BYTES as u64,
            top: Top::default(),
            totals: Footer {
                log,
                rows: 0,
                deletes: 0,
                min_offset: Offset(u64::MAX),
                max_offset: Offset(0),
                max_timestamp: i64::MIN,
                bytes: 0,
                blocks: 0,
                sections: 0,
                top_crc: 0,
                top_byte: 0,
                top_bytes: 0,
                id: RunId([0; 32]),
            },
        })
    }

    /// Adds a row. Keys rise strictly: the caller's promise, asserted.
    pub(in crate::table) fn push(&mut self, key: &[u8], version: Version<'_>) -> Result<()> {
        let empty = self.ordinal == 0 && self.tags.is_empty();
        assert!(empty || *self.last_key < *key, "keys of a run rise strictly");
        let value_bytes = version.value.map_or(0, <[u8]>::len);
        if key.len() > MAX_KEY_BYTES
            || key.len().saturating_add(value_bytes) > MAX_FRAME_BYTES - LONE_OVERHEAD
        {
            return Err(Error::new(
                Kind::InvalidInput,
                format!(
                    "expected a row that fits a frame of {MAX_FRAME_BYTES} bytes, found a key of \
                     {} and a value of {value_bytes} bytes",
                    key.len()
                ),
            )
            .at_offset(version.offset.0));
        }
        let count = self.tags.len() + 1;
        let body =
            block::table_bytes(count) + self.rows.len() + ROW_BYTES + key.len() + value_bytes;
        if count > 1 && HEADER_BYTES + body > self.shape.block_bytes {
            self.end_block()?;
        }
        if self.tags.is_empty() {
            self.first_key.clear();
            self.first_key.extend_from_slice(key);
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        let hash = filter::hash(key);
        self.section.hashes.push(hash);
        self.tags.push(block::tag(hash));
        block::encode_row(&mut self.rows, key, version);
        self.ends.push(self.rows.len());
        self.timestamp = self.timestamp.max(version.timestamp);
        let totals = &mut self.totals;
        match version.value {
            Some(_) => totals.rows += 1,
            None => totals.deletes += 1,
        }
        totals.bytes += (key.len() + value_bytes) as u64;
        totals.min_offset = totals.min_offset.min(version.offset);
        totals.max_offset = totals.max_offset.max(version.offset);
        Ok(())
    }

    /// The byte of the file that comes next.
    fn byte(&self) -> u64 {
        self.written + self.output.len() as u64
    }

    /// Closes the open block: its frame goes to the output.
    fn end_block(&mut self) -> Result<()> {
        let count = self.tags.len();
        if count == 0 {
            return Ok(());
        }
        let byte = self.byte();
        self.section.block(byte - self.section_byte, &self.first_key);
        let start = self.output.len();
        self.output.resize(start + HEADER_BYTES, 0);
        self.output.extend_from_slice(&self.tags);
        if !count.is_multiple_of(2) {
            self.output.push(0);
        }
        if count > 1 {
            for &end in &self.ends {
                let end = u16::try_from(end).expect("several rows end within a small block");
                self.output.extend_from_slice(&end.to_le_bytes());
            }
        }
        self.output.extend_from_slice(&self.rows);
        let len = self.output.len() - start;
        self.output.resize(start + len.next_multiple_of(frame::ALIGN), 0);
        let draft = FrameDraft {
            len: u32::try_from(len).expect("checked: at most 16 MiB"),
            max_timestamp: self.timestamp,
            body_crc: crc::crc32c(&self.output[start + HEADER_BYTES..]),
            count: u16::try_from(count).expect("several rows fit a small block"),
            kind: FrameKind::Run,
            flags: 0,
        };
        let header = self.output[start..].first_chunk_mut::<HEADER_BYTES>().expect("just resized");
        *header = draft.header();
        #[expect(clippy::cast_possible_truncation, reason = "the format keeps the low 32 bits")]
        let ordinal = self.ordinal as u32;
        frame::stamp(header, self.seed, byte, ordinal, NO_CLAIM);
        self.ordinal += count as u64;
        self.totals.blocks += 1;
        self.totals.max_timestamp = self.totals.max_timestamp.max(self.timestamp);
        self.timestamp = i64::MIN;
        self.rows.clear();
        // One large row must not keep its memory for the rest of the run.
        self.rows.shrink_to(2 * self.shape.block_bytes);
        self.ends.clear();
        self.tags.clear();
        if self.section.hashes.len() >= self.shape.section_rows
            || self.byte() - self.section_byte >= self.shape.section_bytes
        {
            self.end_section()?;
        }
        if self.output.len() >= OUTPUT_BYTES { self.flush() } else { Ok(()) }
    }

    /// Closes the section: its index goes to the output, its place to the top index.
    fn end_section(&mut self) -> Result<()> {
        if self.section.is_empty() {
            return Ok(());
        }
        let frames = self.section_byte..self.byte();
        let byte = index_byte(frames.end);
        let gap = usize::try_from(byte - frames.end).expect("less than a line");
        self.output.resize(self.output.len() + gap, 0);
        let rows = u32::try_from(self.section.hashes.len()).expect("a section is bounded");
        let first_key = self.section.first_key().to_vec();
        let index = self.section.finish(&self.last_key);
        let span = Span {
            frames,
            index_byte: byte,
            index_bytes: u32::try_from(index.len()).expect("a section is bounded"),
            index_crc: crc::crc32c(&index),
            rows,
        };
        self.top.push(span, &first_key);
        self.output.extend_from_slice(&index);
        self.section_byte = self.byte();
        Ok(())
    }

    /// Hashes and writes the output.
    fn flush(&mut self) -> Result<()> {
        self.hasher.update(&self.output);
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        self.file
            .write_all_at(&self.output, self.written)
            .map_err(|e| Error::io("write the run", &self.path, e).at_byte(self.written))?;
        self.written += self.output.len() as u64;
        self.output.clear();
        self.output.shrink_to(2 * OUTPUT_BYTES);
        Ok(())
    }

    /// Writes what is left. The file is whole then, but neither synced nor renamed.
    pub(in crate::table) fn finish(mut self) -> Result<Finished> {
        self.end_block()?;
        self.end_section()?;
        self.top.last_key = std::mem::take(&mut self.last_key);
        let top = self.top.encode();
        let footer = &mut self.totals;
        footer.sections = u32::try_from(self.top.spans.len()).expect("few sections");
        footer.top_byte = self.written + self.output.len() as u64;
        footer.top_bytes = top.len() as u64;
        footer.top_crc = crc::crc32c(&top);
        self.output.extend_from_slice(&top);
        self.flush()?;
        self.totals.id = RunId(*self.hasher.finalize().as_bytes());
        self.output.extend_from_slice(&self.totals.encode());
        self.write()?;
        Ok(Finished {
            id: self.totals.id,
            file: self.file,
            rows: self.totals.rows,
            deletes: self.totals.deletes,
            file_bytes: self.written,
        })
    }
}
