//! A cursor over a run: one row after another, up or down.
//!
//! Made by `Run::cursor`; used by scans and merges. Invariants:
//! - every block is held against both of its checksums each time the cursor enters it;
//! - a cursor that met damage stays failed until it seeks again, so that nobody takes the place
//!   for the end.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::frame::{Fault, HEADER_BYTES};
use crate::fs::{Map, prefetch};
use crate::table::filter::LINE_BYTES;
use crate::table::row::Version;

use super::block::{Block, Place, ROW_BYTES};
use super::{Run, block_of, block_range, check_frame};

/// How far ahead of a row's place the map is fetched: about a block.
const AHEAD_BYTES: usize = 16 << 10;

/// A place in a run. Owns what it reads.
#[derive(Debug)]
pub(in crate::table) struct Cursor {
    run: Arc<Run>,
    reverse: bool,
    at: Option<At>,
    failed: Option<Error>,
    /// The run's map, at hand.
    map: Option<Map>,
    /// The frame it stands in, when the run is not mapped.
    frame: Vec<u8>,
}

/// The row it stands on.
#[derive(Debug)]
struct At {
    section: usize,
    block: usize,
    row: usize,
    rows: usize,
    /// Where the rows of its block lie in the map, or in the frame that was read; before them, the
    /// place of each one's end.
    span: Range<usize>,
    ends: usize,
    place: Place,
}

impl Cursor {
    pub(super) fn new(run: Arc<Run>, reverse: bool) -> Self {
        let map = run.map.clone();
        Cursor { run, reverse, at: None, failed: None, map, frame: Vec::new() }
    }

    /// Forward: stands on the first key at or behind `key` (`None`: the first key). Reverse: on
    /// the last key before `key` (`None`: the last key).
    pub(in crate::table) fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.at = None;
        self.failed = None;
        let outcome = if self.reverse { self.seek_down(key) } else { self.seek_up(key) };
        self.remember(outcome)
    }

    /// Whether it stands on a row, and if so, whether that is a delete.
    #[inline]
    pub(in crate::table) fn delete(&self) -> Option<bool> {
        self.at.as_ref().map(|at| at.place.delete)
    }

    /// The row it stands on; `None` behind the end.
    #[inline]
    pub(in crate::table) fn current(&self) -> Option<(&[u8], Version<'_>)> {
        let at = self.at.as_ref()?;
        at.place.row(self.bytes())
    }

    /// Goes on by one key in its direction.
    #[inline]
    pub(in crate::table) fn advance(&mut self) -> Result<()> {
        let bytes = match &self.map {
            Some(map) => map,
            None => &self.frame[..],
        };
        if let Some(at) = &mut self.at
            && let Some((row, place)) = at.next(bytes, self.reverse)
        {
            (at.row, at.place) = (row, place);
            if self.map.is_some() {
                at.fetch_ahead(bytes, self.reverse);
            }
            return Ok(());
        }
        self.leave()
    }

    /// Advances beyond the block, and names what was wrong with a row.
    fn leave(&mut self) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let Some(at) = self.at.take() else { return Ok(()) };
        let outcome = if self.reverse {
            match at.row.checked_sub(1) {
                Some(_) => Err(self.fault(at.section, at.block, Fault::Body)),
                None => self.enter_before(at.section, at.block),
            }
        } else if at.row + 1 < at.rows {
            Err(self.fault(at.section, at.block, Fault::Body))
        } else {
            self.enter(at.section, at.block + 1, |_| 0)
        };
        self.remember(outcome)
    }

    fn remember(&mut self, outcome: Result<()>) -> Result<()> {
        if let Err(error) = &outcome {
            self.at = None;
            self.failed = Some(error.clone());
        }
        outcome
    }

    fn seek_up(&mut self, key: Option<&[u8]>) -> Result<()> {
        let Some(key) = key else { return self.enter(0, 0, |_| 0) };
        let Some(s) = self.run.top.sections_before(key, true).checked_sub(1) else {
            return self.enter(0, 0, |_| 0);
        };
        let run = Arc::clone(&self.run);
        let (section, _) = run.section(s)?;
        let b = section.blocks_before(key, true).saturating_sub(1);
        let row = self.load(s, b, |block| block.lower_bound(key))?;
        match row {
            Some(()) => Ok(()),
            None => self.enter(s, b + 1, |_| 0),
        }
    }

    fn seek_down(&mut self, key: Option<&[u8]>) -> Result<()> {
        let run = Arc::clone(&self.run);
        let sections = match key {
            Some(key) => run.top.sections_before(key, false),
            None => run.top.spans.len(),
        };
        let Some(s) = sections.checked_sub(1) else { return Ok(()) };
        let (section, _) = run.section(s)?;
        let blocks = key.map_or(section.blocks(), |key| section.blocks_before(key, false));
        let Some(b) = blocks.checked_sub(1) else { return self.enter_before(s, 0) };
        let row = self.load(s, b, |block| match key {
            // No row before the key wraps to a row that is not there.
            Some(key) => Ok(block.lower_bound(key)?.wrapping_sub(1)),
            None => Ok(block.len() - 1),
        })?;
        match row {
            Some(()) => Ok(()),
            None => self.enter_before(s, b),
        }
    }

    /// Stands on a row of block `b` of section `s`, or of the first block behind it.
    fn enter(&mut self, s: usize, b: usize, row: fn(usize) -> usize) -> Result<()> {
        let run = Arc::clone(&self.run);
        let (mut s, mut b) = (s, b);
        if s < run.top.spans.len() && b >= run.section(s)?.0.blocks() {
            (s, b) = (s + 1, 0);
        }
        if s >= run.top.spans.len() {
            return Ok(());
        }
        self.load(s, b, |block| Ok(row(block.len()))).map(|_| ())
    }

    /// Stands on the last row before block `b` of section `s`.
    fn enter_before(&mut self, s: usize, b: usize) -> Result<()> {
        let last = |rows| rows - 1;
        if let Some(b) = b.checked_sub(1) {
            return self.enter(s, b, last);
        }
        let Some(s) = s.checked_sub(1) else { return Ok(()) };
        let blocks = self.run.section(s)?.0.blocks();
        self.enter(s, blocks - 1, last)
    }

    /// Enters block `b` of section `s`, checks it, and stands on the row that `choose` names;
    /// `None` when it has no such row.
    fn load(
        &mut self,
        s: usize,
        b: usize,
        choose: impl FnOnce(&Block<'_>) -> Result<usize, Fault>,
    ) -> Result<Option<()>> {
        let run = Arc::clone(&self.run);
        let (section, _) = run.section(s)?;
        let range = block_range(&run.top.spans[s], &section, b);
        let fault = |fault| run.damaged_block(s, &section, b, fault);
        let mut start = 0;
        let frame = match run.map_of(range.clone()) {
            Some(frame) => {
                check_frame(frame, &range, run.seed).map_err(fault)?;
                start = usize::try_from(range.start).expect("it is mapped");
                frame
            }
            None => {
                run.read_block(s, &section, b, &mut self.frame)?;
                &self.frame
            }
        };
        let block = block_of(frame).map_err(fault)?;
        let (row, rows) = (choose(&block).map_err(fault)?, block.len());
        if row >= rows {
            return Ok(None);
        }
        let place = block.place(row).map_err(fault)?;
        let body = start + HEADER_BYTES;
        let (ends, first) = block.ends_and_rows();
        let span = body + first..body + block.bytes();
        let place = place.moved(body);
        self.at = Some(At { section: s, block: b, row, rows, span, ends: body + ends, place });
        Ok(Some(()))
    }

    /// What its places lie in.
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&self.frame)
    }

    #[cold]
    fn fault(&self, s: usize, b: usize, fault: Fault) -> Error {
        match self.run.section(s) {
            Ok((section, _)) => self.run.damaged_block(s, &section, b, fault),
            Err(error) => error,
        }
    }
}

impl At {
    /// The next row of its block; `None` where there is none, or none that makes sense. Rows lie
    /// side by side, so one of its bounds is known.
    #[inline]
    fn next(&self, bytes: &[u8], reverse: bool) -> Option<(usize, Place)> {
        let end = |row: usize| {
            let end = bytes.get(self.ends + 2 * row..)?.first_chunk()?;
            Some(self.span.start + usize::from(u16::from_le_bytes(*end)))
        };
        let (row, span) = if reverse {
            let row = self.row.checked_sub(1)?;
            let start = if row == 0 { self.span.start } else { end(row - 1)? };
            (row, start..self.place.key.start - ROW_BYTES)
        } else {
            let row = Some(self.row + 1).filter(|&row| row < self.rows)?;
            (row, self.place.value.end..end(row)?)
        };
        let inside = span.start >= self.span.start && span.end <= self.span.end;
        Some((row, Place::of(bytes, span).ok().filter(|_| inside)?))
    }

    /// Has what lies a block further brought near, a row's bytes for each row: the block will be
    /// summed up whole when it is entered, faster than memory would bring it then.
    #[inline]
    fn fetch_ahead(&self, bytes: &[u8], reverse: bool) {
        let Range { start, end } = self.place.key.start..self.place.value.end;
        let end = end.min(start + AHEAD_BYTES);
        // Any address will do; from the start of a line, so that each is asked for once.
        let mut at = start & !(LINE_BYTES - 1);
        while at < end {
            let near = if reverse { at.wrapping_sub(AHEAD_BYTES) } else { at + AHEAD_BYTES };
            prefetch(bytes.as_ptr().wrapping_add(near));
            at += LINE_BYTES;
        }
    }
}
