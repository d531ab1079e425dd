//! What a run file holds, line by line: for people who look.
//!
//! Called by `tidelog dump`. Trusts nothing: damage is shown where it stands, and the walk goes on
//! with the next block that an index knows.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::frame::{Fault, HEADER_BYTES, Header, Seed};
use crate::fs::{File, Fs, Open};
use crate::position::{Id, Offset};

use super::footer::{FOOTER_BYTES, Footer, HEAD_BYTES, HEAD_MAGIC, Top, check_head};
use super::section::Section;
use super::{block_of, check_frame, checked_section, index_range};

/// One thing found in a run file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RunLine {
    /// The head.
    Head {
        /// The log whose rows these are.
        log: Id,
    },
    /// A valid frame.
    Frame {
        /// Its byte in the file.
        byte: u64,
        /// Its header.
        header: Header,
        /// Its smallest key.
        first_key: Vec<u8>,
        /// Its largest key.
        last_key: Vec<u8>,
    },
    /// A section's index.
    Index {
        /// Its byte in the file.
        byte: u64,
        /// Its bytes.
        bytes: u32,
        /// Frames of the section.
        blocks: u64,
        /// Rows of the section, deletes included.
        rows: u32,
        /// Lines of its filter.
        filter_lines: u64,
    },
    /// Bytes that are not what stands there in a whole run.
    Damage {
        /// Where they start.
        byte: u64,
        /// Where something whole may follow.
        end: u64,
        /// What was found.
        what: String,
    },
    /// The footer.
    Footer {
        /// Rows with a value.
        rows: u64,
        /// Rows that are deletes.
        deletes: u64,
        /// The smallest and the largest offset of a row; `None` without rows.
        offsets: Option<(Offset, Offset)>,
        /// Frames.
        blocks: u64,
        /// Sections.
        sections: u32,
        /// The top index' byte.
        top_byte: u64,
        /// blake3 of everything before the footer.
        hash: [u8; 32],
    },
}

/// Whether the file at `path` starts as a run does.
pub fn is_run(fs: &dyn Fs, path: &Path) -> Result<bool> {
    let io = |e| Error::io("read", path, e);
    let file: Arc<dyn File> = fs.open(path, Open::Read).map_err(io)?;
    let mut magic = [0; HEAD_MAGIC.len()];
    let read = file.read_full_at(&mut magic, 0).map_err(io)?;
    Ok(read == magic.len() && magic == *HEAD_MAGIC)
}

/// Hands everything in the run file at `path` to `visit`, in order.
pub fn dump_run(
    fs: &dyn Fs,
    path: &Path,
    visit: &mut dyn FnMut(RunLine) -> Result<()>,
) -> Result<()> {
    let io = |e| Error::io("read", path, e);
    let file: Arc<dyn File> = fs.open(path, Open::Read).map_err(io)?;
    let len = file.len().map_err(io)?;
    let source = Source { file, path, len };
    let footer = source.read(len.saturating_sub(FOOTER_BYTES as u64)..len)?;
    let footer = match footer.first_chunk() {
        Some(bytes) => Footer::decode(bytes, len, None),
        None => Err(Error::new(Kind::Corrupt, "the file is too short for a footer").at_byte(0)),
    };
    let head = check_head(&source.read(0..len.min(HEAD_BYTES as u64))?, None);
    let log = match (head, &footer) {
        (Ok(log), _) => {
            visit(RunLine::Head { log })?;
            log
        }
        (Err(e), _) if e.kind() == Kind::NewerVersion => return Err(e.in_file(path)),
        // The footer repeats whose it is.
        (Err(e), Ok(footer)) => {
            visit(damage(0..HEAD_BYTES as u64, e.message()))?;
            footer.log
        }
        (Err(e), Err(_)) => {
            return Err(e.with_kind(Kind::NotALog).in_file(path).help("name a run file"));
        }
    };
    let seed = Seed::new(log, 0);
    let top = match &footer {
        Ok(footer) => {
            let bytes = source.read(footer.top_byte..footer.top_byte + footer.top_bytes)?;
            Top::decode(&bytes, footer)
        }
        Err(e) => Err(e.clone()),
    };
    match &top {
        Ok(top) => {
            for span in &top.spans {
                let bytes = source.read(index_range(span))?;
                let section = checked_section(&bytes, span);
                source.frames(span.frames.clone(), section.as_ref(), seed, visit)?;
                visit(match &section {
                    None => damage(index_range(span), "an index whose checksum does not hold"),
                    Some(section) => RunLine::Index {
                        byte: span.index_byte,
                        bytes: span.index_bytes,
                        blocks: section.blocks() as u64,
                        rows: section.rows,
                        filter_lines: section.filter.len() as u64,
                    },
                })?;
            }
        }
        // Without an index: frame by frame, as far as they lead.
        Err(_) => source.frames(HEAD_BYTES as u64..len / 8 * 8, None, seed, visit)?,
    }
    match (footer, top) {
        (Err(e), _) => visit(damage(len.saturating_sub(FOOTER_BYTES as u64)..len, e.message())),
        (Ok(footer), top) => {
            if let Err(e) = top {
                let end = footer.top_byte + footer.top_bytes;
                visit(damage(footer.top_byte..end, e.message()))?;
            }
            visit(RunLine::Footer {
                rows: footer.rows,
                deletes: footer.deletes,
                offsets: (footer.blocks > 0).then_some((footer.min_offset, footer.max_offset)),
                blocks: footer.blocks,
                sections: footer.sections,
                top_byte: footer.top_byte,
                hash: footer.id.0,
            })
        }
    }
}

fn damage(range: Range<u64>, what: &str) -> RunLine {
    RunLine::Damage { byte: range.start, end: range.end, what: what.to_owned() }
}

struct Source<'a> {
    file: Arc<dyn File>,
    path: &'a Path,
    len: u64,
}

impl Source<'_> {
    /// The bytes of a range, less where the file ends.
    fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let io = |e| Error::io("read", self.path, e).at_byte(range.start);
        let len = range.end.min(self.len).saturating_sub(range.start);
        let len = usize::try_from(len).map_err(|_| io(std::io::ErrorKind::FileTooLarge.into()))?;
        let mut bytes = vec![0; len];
        let read = self.file.read_full_at(&mut bytes, range.start).map_err(io)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Every frame of a section, and what stands between them.
    fn frames(
        &self,
        frames: Range<u64>,
        section: Option<&Section<'_>>,
        seed: Seed,
        visit: &mut dyn FnMut(RunLine) -> Result<()>,
    ) -> Result<()> {
        let mut byte = frames.start;
        while byte < frames.end {
            match self.frame(byte, frames.end, seed)? {
                Ok(frame) => {
                    if let RunLine::Frame { header, .. } = &frame {
                        byte += header.stride() as u64;
                    }
                    visit(frame)?;
                }
                Err(fault) => {
                    let starts = (0..section.map_or(0, Section::blocks))
                        .filter_map(|b| Some(frames.start + section?.at(b)?));
                    let next = starts.filter(|&start| start > byte).min().unwrap_or(frames.end);
                    visit(damage(byte..next, fault.as_str()))?;
                    byte = next;
                }
            }
        }
        Ok(())
    }

    fn frame(&self, byte: u64, end: u64, seed: Seed) -> Result<Result<RunLine, Fault>> {
        let header = self.read(byte..end.min(byte + HEADER_BYTES as u64))?;
        let header = match Header::decode(&header, byte, end, seed) {
            Ok(header) => header,
            Err(fault) => return Ok(Err(fault)),
        };
        let range = byte..byte + header.stride() as u64;
        let frame = self.read(range.clone())?;
        let keys = check_frame(&frame, &range, seed)
            .and_then(|_| block_of(&frame))
            .and_then(|b| Ok((b.row(0)?.0.to_vec(), b.row(b.len().saturating_sub(1))?.0.to_vec())));
        Ok(keys.map(|(first_key, last_key)| RunLine::Frame { byte, header, first_key, last_key }))
    }
}
