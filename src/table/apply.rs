//! Applying: how records get from a log into whatever keeps their latest state.
//!
//! ```text
//! Applier ── Frames (whole batches, in order) ──► Apply::apply ── visible, or committed, at once
//!    └─ a cursor that stays where it is between runs
//! ```
//!
//! [`Apply`] is implemented by the table and by users who bring their own store: one that keeps
//! its position beside its rows, in one transaction, is never told a record twice.

use std::ops::Range;

use crate::error::{Kind, Result};
use crate::log::{Cursor, Entries, Log};
use crate::position::{Offset, Position};

/// One apply takes about this many bytes of records. Large enough that a transaction around it
/// costs little, small enough that readers see the table move.
const APPLY_BYTES: usize = 1 << 20;

/// Something that records are applied to.
pub trait Apply {
    /// Behind the last record applied; `None` before the first. Records from here on come next.
    fn applied(&self) -> Option<Position>;

    /// Takes everything that `frames` yields, whole batches in offset order, and makes it visible
    /// at once, together with [`Frames::position`]. When it fails it may have kept some whole
    /// batches from the front: [`applied`](Apply::applied) says how many.
    fn apply(&mut self, frames: &mut Frames<'_>) -> Result<()>;

    /// Makes what was applied durable, for those who do not do so with every apply.
    fn checkpoint(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Whole batches from a log, in order: what one apply takes.
#[derive(Debug)]
pub struct Frames<'a> {
    cursor: &'a mut Cursor,
    from: Offset,
    left: usize,
    records: u64,
    position: Option<Position>,
    lost: Vec<Range<Offset>>,
}

impl Frames<'_> {
    /// The next batch; `None` when this apply is full or nothing more is visible.
    #[expect(clippy::should_implement_trait, reason = "batches borrow from the cursor")]
    pub fn next(&mut self) -> Result<Option<Entries<'_>>> {
        if self.left == 0 {
            return Ok(None);
        }
        loop {
            let from = self.cursor.offset();
            match self.cursor.is_ready() {
                Ok(true) => break,
                Ok(false) => return Ok(None),
                // Said by a repair: nothing there to apply, and the cursor stands behind it.
                Err(e) if e.kind() == Kind::Lost => {
                    self.lost.push(from..self.cursor.offset());
                    self.position = self.cursor.position();
                }
                Err(e) => return Err(e),
            }
        }
        let batch = self.cursor.next_batch()?;
        if let Some(entries) = &batch {
            self.left = self.left.saturating_sub(entries.bytes());
            self.records += entries.len() as u64;
            self.position = Some(entries.end());
        }
        Ok(batch)
    }

    /// The offset these frames start at.
    pub fn from(&self) -> Offset {
        self.from
    }

    /// Behind the last batch that was yielded; `None` before the first.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Offsets among these that a repair recorded as lost.
    pub fn lost(&self) -> &[Range<Offset>] {
        &self.lost
    }
}

/// What was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Where it began.
    pub from: Offset,
    /// Behind the last record.
    pub to: Offset,
    /// How many records, those that change no row included.
    pub records: u64,
    /// Offsets that were skipped because a repair recorded them as lost.
    pub lost: Vec<Range<Offset>>,
}

/// Reads a log on and applies what it reads.
#[derive(Debug)]
pub struct Applier {
    cursor: Cursor,
}

impl Applier {
    /// Goes on in `log` where `to` stands.
    pub fn new(log: &Log, to: &dyn Apply) -> Result<Self> {
        Applier::until(log, to, Offset(u64::MAX))
    }

    /// The same, no further than `end`.
    pub fn until(log: &Log, to: &dyn Apply, end: Offset) -> Result<Self> {
        let from = to.applied().map_or(Offset(0), |position| position.offset);
        let cursor = log.read_range(from..end).map_err(|e| match e.kind() {
            Kind::Gone => e.help(
                "the table lacks the records that retention dropped; start from a snapshot, or \
                 from a copy that still holds them",
            ),
            _ => e,
        })?;
        Ok(Applier { cursor })
    }

    /// Applies everything visible. `to` is what this applier was made for.
    pub fn run(&mut self, to: &mut dyn Apply) -> Result<Applied> {
        Ok(self.run_some(to, usize::MAX)?.0)
    }

    /// The same, about `most` bytes of it; and whether there may be more.
    pub(crate) fn run_some(&mut self, to: &mut dyn Apply, most: usize) -> Result<(Applied, bool)> {
        let from = to.applied().map_or(Offset(0), |position| position.offset);
        if self.cursor.offset() != from {
            // An apply that failed left the cursor ahead.
            self.cursor.seek(from)?;
        }
        let mut applied = Applied { from, to: from, ..Applied::default() };
        let mut taken = 0;
        while taken < most {
            let mut frames = Frames {
                from: self.cursor.offset(),
                cursor: &mut self.cursor,
                left: APPLY_BYTES,
                records: 0,
                position: None,
                lost: Vec::new(),
            };
            to.apply(&mut frames)?;
            let Some(reached) = frames.position else { return Ok((applied, false)) };
            applied.to = reached.offset;
            applied.records += frames.records;
            applied.lost.append(&mut frames.lost);
            taken += APPLY_BYTES;
        }
        Ok((applied, true))
    }
}
