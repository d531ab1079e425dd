//! Verify: everything in a run held against everything else, the name's hash included.
//!
//! Called by `tidelog verify` through the table. Reads the file, not the map: a bad sector is a
//! problem to report then, not a signal. Invariant: a run without problems gives the rows that
//! were pushed, under the name it has.

use std::ops::Range;

use rayon::prelude::*;

use crate::frame::{Fault, HEADER_BYTES, Header};
use crate::position::Offset;
use crate::table::filter;

use super::block::{Block, tag};
use super::footer::{FOOTER_BYTES, encode_head};
use super::{Run, block_range, check_frame, checked_section, index_range};

/// The file is hashed in pieces of this size.
const PIECE_BYTES: u64 = 1 << 20;

/// Something in a run that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::table) struct Problem {
    /// Where in the file.
    pub(in crate::table) byte: u64,
    /// The keys it may concern: from the first, up to and without the second; `None` where the
    /// run itself begins or ends.
    pub(in crate::table) keys: (Option<Vec<u8>>, Option<Vec<u8>>),
    /// What was found.
    pub(in crate::table) what: String,
}

/// What a section's rows add up to.
#[derive(Debug)]
struct Sum {
    problems: Vec<Problem>,
    rows: u64,
    deletes: u64,
    bytes: u64,
    blocks: u64,
    min_offset: Offset,
    max_offset: Offset,
    max_timestamp: i64,
}

impl Run {
    /// Everything that does not hold, in the order of the file; sections side by side.
    pub(in crate::table) fn verify(&self) -> Vec<Problem> {
        let whole = |byte, what: String| Problem { byte, keys: (None, None), what };
        let mut ordinals = vec![0];
        for span in &self.top.spans {
            ordinals.push(ordinals.last().copied().unwrap_or(0) + u64::from(span.rows));
        }
        let (hashed, sums) = rayon::join(
            || self.hash_file(),
            || -> Vec<Sum> {
                let sections = 0..self.top.spans.len();
                sections.into_par_iter().map(|s| self.verify_section(s, ordinals[s])).collect()
            },
        );
        let mut problems = self.verify_ends();
        let footer_byte = self.file_bytes - FOOTER_BYTES as u64;
        let sum = |part: fn(&Sum) -> u64| sums.iter().map(part).sum::<u64>();
        let f = &self.footer;
        let adds_up = sum(|s| s.rows) == f.rows
            && sum(|s| s.deletes) == f.deletes
            && sum(|s| s.bytes) == f.bytes
            && sum(|s| s.blocks) == f.blocks
            && sums.iter().map(|s| s.min_offset).min().unwrap_or(Offset(u64::MAX)) == f.min_offset
            && sums.iter().map(|s| s.max_offset).max().unwrap_or(Offset(0)) == f.max_offset
            && sums.iter().map(|s| s.max_timestamp).max().unwrap_or(i64::MIN) == f.max_timestamp;
        problems.extend(sums.into_iter().flat_map(|sum| sum.problems));
        if problems.is_empty() && !adds_up {
            problems
                .push(whole(footer_byte, "the footer sums up other rows than the run has".into()));
        }
        match hashed {
            Err(error) => problems.push(whole(0, error.to_string())),
            // Damage that was found above explains a wrong hash; it would hide the keys.
            Ok(hash) if problems.is_empty() && hash != self.footer.id.0 => {
                problems.push(whole(0, "the file has another hash than its footer says".into()));
            }
            Ok(_) => {}
        }
        problems.sort_by_key(|problem| problem.byte);
        problems
    }

    /// blake3 of everything before the footer.
    fn hash_file(&self) -> crate::Result<[u8; 32]> {
        let end = self.file_bytes - FOOTER_BYTES as u64;
        let (mut hasher, mut piece) = (blake3::Hasher::new(), Vec::new());
        let mut byte = 0;
        while byte < end {
            let next = end.min(byte + PIECE_BYTES);
            self.read_into(byte..next, &mut piece)?;
            hasher.update(&piece);
            byte = next;
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// Head, top index and footer, as they are now.
    fn verify_ends(&self) -> Vec<Problem> {
        let top = self.footer.top_byte;
        let footer = self.file_bytes - FOOTER_BYTES as u64;
        let parts = [
            (0, encode_head(self.log).to_vec(), "head"),
            (top, self.top.encode(), "top index"),
            (footer, self.footer.encode().to_vec(), "footer"),
        ];
        let mut problems = Vec::new();
        for (byte, expected, name) in parts {
            let what = match self.read(byte..byte + expected.len() as u64) {
                Ok(found) if found == expected => continue,
                Ok(_) => format!("the run's {name} is not the one it was opened with"),
                Err(error) => error.to_string(),
            };
            problems.push(Problem { byte, keys: (None, None), what });
        }
        problems
    }

    fn verify_section(&self, s: usize, ordinal: u64) -> Sum {
        let mut sum = Sum {
            problems: Vec::new(),
            rows: 0,
            deletes: 0,
            bytes: 0,
            blocks: 0,
            min_offset: Offset(u64::MAX),
            max_offset: Offset(0),
            max_timestamp: i64::MIN,
        };
        let span = &self.top.spans[s];
        let keys = (Some(self.top.first_key(s).to_vec()), self.keys_behind(s));
        let problem = |byte, what: String| Problem { byte, keys: keys.clone(), what };
        let index = self.read(index_range(span));
        let section = match &index {
            Ok(bytes) => checked_section(bytes, span),
            Err(_) => None,
        };
        if section.is_none() {
            let what = "the checksum of a section's index does not hold".to_owned();
            let what = index.as_ref().err().map_or(what, ToString::to_string);
            sum.problems.push(problem(span.index_byte, what));
        }
        match self.read(span.frames.end..span.index_byte) {
            Ok(gap) if gap.iter().all(|&b| b == 0) => {}
            Ok(_) => sum.problems.push(problem(
                span.frames.end,
                "expected zeros between frames and index, found something else".into(),
            )),
            Err(error) => sum.problems.push(problem(span.frames.end, error.to_string())),
        }
        let (mut hashes, mut last_key) = (Vec::new(), Vec::new());
        let (mut frame, mut ordinal) = (Vec::new(), Some(ordinal));
        let mut byte = span.frames.start;
        let mut b = 0;
        while byte < span.frames.end {
            let range = match &section {
                Some(section) => block_range(span, section, b),
                // The frames say themselves how long they are.
                None => self.frame_at(byte, span.frames.end),
            };
            let block_keys = match &section {
                Some(section) => {
                    let (first, next) = self.keys_of(s, section, b);
                    (Some(first), next)
                }
                None => keys.clone(),
            };
            let whole = hashes.len();
            let found = match self.read_into(range.clone(), &mut frame) {
                Err(error) => Err(error.to_string()),
                Ok(()) => check_block(&frame, &range, self, ordinal).and_then(|block| {
                    if section.is_some()
                        && block.row(0).ok().map(|row| row.0) != block_keys.0.as_deref()
                    {
                        return Err("a block does not start with the key its index has".into());
                    }
                    check_rows(&block, &mut hashes, &mut last_key, &mut sum)?;
                    Ok(block.len() as u64)
                }),
            };
            match found {
                Ok(rows) => ordinal = ordinal.map(|ordinal| ordinal + rows),
                Err(what) => {
                    hashes.truncate(whole);
                    sum.problems.push(Problem { byte: range.start, keys: block_keys, what });
                    // How many rows it had is unknown.
                    ordinal = None;
                }
            }
            sum.blocks += 1;
            b += 1;
            byte = range.end;
        }
        if let Some(section) = section.filter(|_| sum.problems.is_empty()) {
            let last = self.keys_behind(s).is_some() || last_key == self.top.last_key;
            if section.first_key(0) != self.top.first_key(s) || !last {
                let what = "the top index has other keys than the section".into();
                sum.problems.push(problem(self.footer.top_byte, what));
            } else if self.keys_behind(s).is_some_and(|next| last_key >= next) {
                let what = "expected keys that rise strictly over the sections".into();
                sum.problems.push(problem(span.frames.start, what));
            } else if hashes.len() as u64 != u64::from(span.rows)
                || filter::build(&hashes) != section.filter
            {
                let what = "a section's index has other rows than its blocks".into();
                sum.problems.push(problem(span.index_byte, what));
            }
        }
        sum
    }

    /// The frame that a header at `byte` promises; the rest up to `end` when it promises none.
    fn frame_at(&self, byte: u64, end: u64) -> Range<u64> {
        let header = self.read(byte..end.min(byte + HEADER_BYTES as u64));
        match header.ok().and_then(|h| Header::decode(&h, byte, end, self.seed).ok()) {
            Some(header) => byte..byte + header.stride() as u64,
            None => byte..end,
        }
    }
}

/// Both checksums, the kind, and the place among the rows.
fn check_block<'a>(
    frame: &'a [u8],
    range: &Range<u64>,
    run: &Run,
    ordinal: Option<u64>,
) -> Result<Block<'a>, String> {
    let text = |fault: Fault| format!("expected a block of rows, found {}", fault.as_str());
    let header = check_frame(frame, range, run.seed).map_err(text)?;
    if ordinal.is_some_and(|ordinal| ordinal & u64::from(u32::MAX) != u64::from(header.rel_offset))
    {
        return Err("a block that counts its rows from another place".into());
    }
    let block = super::block_of(frame).map_err(text)?;
    let newest = (0..block.len()).filter_map(|i| block.row(i).ok()).map(|(_, v)| v.timestamp).max();
    if newest.is_some_and(|newest| newest != header.max_timestamp) {
        return Err("a block whose newest timestamp is not that of its header".into());
    }
    Ok(block)
}

/// Every row: readable, behind the one before, under its own tag.
fn check_rows(
    block: &Block<'_>,
    hashes: &mut Vec<u64>,
    last_key: &mut Vec<u8>,
    sum: &mut Sum,
) -> Result<(), String> {
    for i in 0..block.len() {
        let (key, version) = block.row(i).map_err(|fault| fault.as_str().to_owned())?;
        if !hashes.is_empty() && **last_key >= *key {
            return Err("expected keys that rise strictly".into());
        }
        let hash = filter::hash(key);
        if block.tags()[i] != tag(hash) {
            return Err("a row under another key's tag".into());
        }
        hashes.push(hash);
        last_key.clear();
        last_key.extend_from_slice(key);
        match version.value {
            Some(_) => sum.rows += 1,
            None => sum.deletes += 1,
        }
        sum.bytes += (key.len() + version.value.map_or(0, <[u8]>::len)) as u64;
        sum.min_offset = sum.min_offset.min(version.offset);
        sum.max_offset = sum.max_offset.max(version.offset);
        sum.max_timestamp = sum.max_timestamp.max(version.timestamp);
    }
    Ok(())
}
