//! What a directory that somebody else writes proves to be durable in it.
//!
//! The highest of: STATE; CONTROL after a clean close; the end of the newest sealed segment; and,
//! when no writer is alive, the watermarks in frames that the directory's own node wrote as
//! leader. (While a writer lives, STATE is never far behind, and walking what it has not synced
//! again and again would cost more than it tells.) A follower's directory has no watermarks of
//! its own: its frames carry its leader's.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::frame::{EpochStart, FrameKind};
use crate::fs::{File, Fs};
use crate::log::files::{Control, Epochs, Layout, State};
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, LogByte, Offset};
use crate::segment::{HEADER_BYTES, SegmentName, Tally, Window, walk};

use super::directory::{read_footer, read_header};

/// Everything a look has read beside the segments.
pub(super) struct Evidence<'a> {
    pub(super) fs: &'a dyn Fs,
    pub(super) layout: &'a Layout,
    pub(super) log: Id,
    pub(super) node: Option<Id>,
    pub(super) control: &'a Control,
    pub(super) epochs: &'a Epochs,
    pub(super) state: Option<State>,
    pub(super) segments: &'a [SegmentName],
}

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proven {
    pub(super) durable: LogByte,
    pub(super) offset: Offset,
    pub(super) epoch: Epoch,
}

impl Proven {
    fn raise(&mut self, durable: LogByte, offset: Offset) {
        if durable > self.durable {
            (self.durable, self.offset) = (durable, offset);
        }
    }
}

/// What the last walk over watermarks found, so that an unchanged directory is walked once.
#[derive(Debug, Default)]
pub(super) struct Memory {
    walked: Option<((Proven, SegmentName, u64), Proven)>,
}

impl Evidence<'_> {
    /// Weighs it.
    pub(super) fn weigh(&self, memory: &mut Memory) -> Result<Proven> {
        let mut proven = Proven {
            durable: self.control.floor,
            offset: self.control.floor_offset,
            epoch: self.epochs.0.iter().map(|entry| entry.epoch).max().unwrap_or_default(),
        };
        if let Some(clean) = &self.control.clean {
            proven.raise(clean.end, clean.offset);
        }
        let newest = self.sealed_end(&mut proven)?;
        proven.epoch = proven.epoch.max(newest);
        if let Some(state) = self.state {
            let cut = self.control.cut.as_ref().is_some_and(|(byte, nonces)| {
                state.durable > *byte && nonces.contains(&state.epoch.nonce)
            });
            let known = self.epochs.0.iter().any(|entry| entry.epoch == state.epoch);
            if (known || newest == state.epoch) && !cut {
                proven.raise(state.durable, state.durable_offset);
            }
        }
        let alive = !matches!(self.fs.lock(&self.layout.lock(), false), Ok(Some(_)));
        if alive { Ok(proven) } else { self.watermarks(proven, memory) }
    }

    /// Takes note of the newest footer; returns the newest segment's epoch.
    fn sealed_end(&self, proven: &mut Proven) -> Result<Epoch> {
        let mut newest = Epoch::default();
        for name in self.segments.iter().rev() {
            let path = name.path(&self.layout.segments());
            let Some(file) = self.open(*name)? else { continue };
            let (header, _) = read_header(&*file, *name, &path)?;
            if header.log != self.log {
                // Whoever copies it will say so.
                continue;
            }
            newest = newest.max(header.epoch);
            if let Some(footer) = read_footer(&*file, &header, &path)? {
                proven.raise(footer.end(), footer.end_offset);
                break;
            }
        }
        Ok(newest)
    }

    /// `None` when retention was quicker.
    fn open(&self, name: SegmentName) -> Result<Option<Arc<dyn File>>> {
        let path = name.path(&self.layout.segments());
        match self.fs.open_plain(&path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("open", &path, e)),
        }
    }

    /// Raises the durable end to what frames behind it claim. A frame claims at most its own
    /// place, so those below have nothing to add.
    fn watermarks(&self, mut proven: Proven, memory: &mut Memory) -> Result<Proven> {
        let Some(last) = self.segments.last() else { return Ok(proven) };
        let io = |e| Error::io("read", &last.path(&self.layout.segments()), e);
        let Some(file) = self.open(*last)? else { return Ok(proven) };
        let key = (proven, *last, file.len().map_err(io)?);
        if let Some((known, found)) = &memory.walked
            && *known == key
        {
            return Ok(*found);
        }
        let mut at = (proven.durable, proven.offset);
        // Where frames end, to find the offset that belongs to a claim.
        let mut ends = vec![at];
        let mut claimed = None;
        let first = self.segments.partition_point(|name| name.0 <= at.0).saturating_sub(1);
        for name in &self.segments[first..] {
            let Some((reached, claim)) = self.walk(*name, at, &mut ends)? else { break };
            (at, claimed) = (reached, claimed.max(claim));
        }
        let claimed = match mutant::on(Mutant::ShipUnproven) {
            true => ends.last().map(|end| end.0.0),
            false => claimed,
        };
        if let Some(claim) = claimed
            && let Ok(i) = ends.binary_search_by_key(&claim, |end| end.0.0)
        {
            proven.raise(ends[i].0, ends[i].1);
        }
        memory.walked = Some((key, proven));
        Ok(proven)
    }

    /// Walks a segment from `at`; returns where the next one starts, and the highest claim.
    /// `None` when the claims of this segment, and so of all behind it, prove nothing.
    #[expect(clippy::type_complexity, reason = "a place, and a claim")]
    fn walk(
        &self,
        name: SegmentName,
        at: (LogByte, Offset),
        ends: &mut Vec<(LogByte, Offset)>,
    ) -> Result<Option<((LogByte, Offset), Option<u64>)>> {
        let path = name.path(&self.layout.segments());
        let io = |e| Error::io("read", &path, e);
        let Some(file) = self.open(name)? else { return Ok(None) };
        let (header, _) = read_header(&*file, name, &path)?;
        if at.0 < header.base || at.1 < header.base_offset || header.log != self.log {
            return Ok(None);
        }
        let Ok(records) = u32::try_from(at.1.0 - header.base_offset.0) else { return Ok(None) };
        let len = file.len().map_err(io)?;
        if read_footer(&*file, &header, &path)?.is_some() {
            // Counted already; only its end can be where we stand.
            return Ok(Some((at, None)));
        }
        let mut leader = self.epochs.leader(header.epoch.nonce);
        let mut claimed = None;
        let mut tally =
            Tally { end: header.file_byte(at.0.0).max(HEADER_BYTES), records, ..Tally::default() };
        walk(&mut Window::file(file), &header, len, &mut tally, |frame, byte| {
            if frame.header.kind == FrameKind::EpochStart {
                leader = EpochStart::decode(frame.body).map(|start| start.node).or(leader);
            }
            let log_byte = header.log_byte(byte);
            let offset = header.base_offset.plus(u64::from(frame.header.rel_offset));
            ends.push((LogByte(log_byte), offset));
            claimed = claimed.max(frame.header.claim(log_byte));
        })
        .map_err(io)?;
        let ours = match leader {
            Some(leader) => Some(leader) == self.node,
            None => self.control.follows.is_none(),
        };
        let end = tally.end_offset(&header);
        ends.push((LogByte(header.log_byte(tally.end)), end));
        Ok(ours.then_some(((LogByte(tally.sealed_end(&header)), end), claimed)))
    }
}
