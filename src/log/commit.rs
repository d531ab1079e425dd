//! What replication does to a log: holding commits back, control frames, synchronous sets.
//!
//! Called by `replica`, by opening, and by readers that follow another process. While commits are
//! held, readers are shown the committed end; the leader raises it as its members report, a
//! follower as its source says.
//!
//! Invariants:
//! - `CONTROL` knows of a synchronous set before its frame can be durable: who opens the log walks
//!   at most what lies behind the place it was appended at;
//! - a log whose newest set, or the one before, asks for copies opens with commits held, at an end
//!   that is known to have been committed.

use std::sync::{MutexGuard, PoisonError};

use crate::error::{Error, Kind, Result};
use crate::frame::{Draft, Fault, Frame, FrameKind, HEADER_BYTES as FRAME_HEADER, Header, SyncSet};
use crate::position::{Epoch, LogByte, Offset};
use crate::segment::{HEADER_BYTES, Index};

use super::files::{Control, SetLine};
#[cfg(feature = "wire")]
use super::promises::Promises;
use super::scan::{Known, Scan};
use super::writer::Staged;
use super::{Home, Shared};

/// Log byte and offset behind a frame.
pub(crate) type End = (LogByte, Offset);

impl Known<'_> {
    /// Behind what is known to have been committed: STATE says it, and whoever applied a record had
    /// it committed.
    pub(crate) fn committed(&self, scan: &Scan) -> End {
        let mut best = (self.control.floor, self.control.floor_offset);
        let mut raise = |epoch, end: End| {
            let here = end.0 <= scan.end && end.1 <= scan.end_offset;
            if here && end.0 > best.0 && self.is_ours(scan, epoch, end.0) {
                best = end;
            }
        };
        if let Some(state) = self.state {
            raise(state.epoch, (state.committed, state.committed_offset));
        }
        for applied in &scan.applied {
            raise(applied.epoch, (applied.end, applied.offset));
        }
        best
    }
}

/// How a log is led.
impl Home {
    /// Brings the log to where frames can be appended, as the first append would.
    pub(crate) fn begin(&self) -> Result<()> {
        self.shared().writer().ready(self.shared())
    }

    /// What this node has promised.
    #[cfg(feature = "wire")]
    pub(crate) fn promises(&self) -> &Promises {
        &self.shared().promises
    }

    /// The epoch that appends.
    pub(crate) fn epoch(&self) -> Epoch {
        self.shared().epoch()
    }

    /// Where the first frame of an epoch is, or would be.
    pub(crate) fn epoch_start(&self, epoch: Epoch) -> LogByte {
        let list = self.segments();
        let first = list.iter().find(|segment| segment.header.epoch == epoch);
        first.map_or_else(|| self.durable().0, |segment| segment.header.base)
    }

    /// The durable end.
    pub(crate) fn durable(&self) -> End {
        self.shared().ends.durable()
    }

    /// The committed end: the durable one, unless commits are held.
    pub(crate) fn committed(&self) -> End {
        self.shared().ends.committed()
    }

    /// Behind everything appended.
    pub(crate) fn appended(&self) -> End {
        self.shared().intake().end()
    }

    /// From here on, only what is committed is shown. Returns the committed end.
    pub(crate) fn hold_commits(&self) -> End {
        self.shared().ends.hold();
        self.committed()
    }

    /// Durable is enough to be shown.
    pub(crate) fn release_commits(&self) {
        self.shared().ends.release();
        self.shared().grew();
    }

    /// Raises the committed end.
    pub(crate) fn commit(&self, end: End) {
        if self.shared().ends.commit(end.0, end.1) {
            self.shared().grew();
            self.shared().hint_state(false);
        }
    }

    /// Appends a control frame, not synced yet; returns the log byte behind it.
    pub(crate) fn append_control(&self, kind: FrameKind, body: &[u8]) -> Result<LogByte> {
        let shared = self.shared();
        let len = FRAME_HEADER + body.len();
        let mut staged = Staged {
            draft: Draft {
                len: u32::try_from(len).expect("bodies of control frames are small"),
                max_timestamp: shared.fs.now(),
                body_crc: 0,
                count: 0,
                kind,
                flags: 0,
            },
            word: None,
            pieces: [body, &[], &[]],
        };
        staged.draft.body_crc = staged.body_crc();
        let placed = shared.writer().append_alone(shared, &staged, false, |_| Ok(()));
        placed.map(|(_, end)| end)
    }

    /// Retention keeps what lies behind `end`: the log's archive holds what is before it.
    pub(crate) fn keep_unarchived(&self, end: End) {
        let mut archived = self.shared().archived();
        *archived = (*archived).max(Some(end));
    }

    /// Waits until everything below `end` is durable.
    pub(crate) fn sync_to(&self, end: LogByte) -> Result<()> {
        self.shared().wait_durable(end, self.durable().1)
    }

    /// What CONTROL says of synchronous sets and degraded spells.
    pub(crate) fn sets(&self) -> (Vec<SetLine>, Option<LogByte>) {
        let control = self.shared().control();
        (control.sets.clone(), control.degraded)
    }

    /// Puts it there, durably.
    pub(crate) fn note_sets(&self, sets: &[SetLine], degraded: Option<LogByte>) -> Result<()> {
        let shared = self.shared();
        let mut control = shared.control();
        if control.sets == sets && control.degraded == degraded {
            return Ok(());
        }
        let mut changed = Control { degraded, ..control.clone() };
        changed.rule_by(sets.to_vec());
        changed.write(&*shared.fs, &shared.layout)?;
        *control = changed;
        Ok(())
    }

    /// The synchronous sets whose frames start at or behind `from`, oldest first, each with the
    /// log byte behind its frame.
    pub(crate) fn sets_behind(&self, from: LogByte) -> Result<Vec<(LogByte, SyncSet)>> {
        let shared = self.shared();
        let written = shared.ends.written().0;
        let list = self.segments();
        let mut found = Vec::new();
        let first = list.partition_point(|segment| segment.header.base <= from).saturating_sub(1);
        for segment in &list[first.min(list.len())..] {
            let header = &segment.header;
            let io = |e| Error::io("read", &segment.path, e);
            // A crash may have put other frames about where CONTROL says that a set's would be.
            let from = header.file_byte(from.0.max(header.base.0));
            let mut window = shared.catalog.window(segment)?;
            let find = |block: &[u8]| Index::find_byte(block, from);
            let entry = shared.catalog.find(segment, &window, find)?;
            let mut byte = entry.map_or(HEADER_BYTES, |entry| entry.byte);
            let written = header.file_byte(written.0.max(header.base.0));
            let limit = segment.end.get().map_or(written, |end| end.0);
            while byte + FRAME_HEADER as u64 <= limit {
                let bytes = window.bytes(byte, FRAME_HEADER, limit).map_err(io)?;
                let bad = |fault: Fault| {
                    Error::new(Kind::Corrupt, format!("expected a frame, found {}", fault.as_str()))
                        .in_file(&segment.path)
                        .at_byte(byte)
                        .help("run `tidelog verify` to see all damage")
                };
                let head = Header::decode(bytes, byte, limit, segment.seed).map_err(bad)?;
                let end = byte + head.stride() as u64;
                if head.kind == FrameKind::SyncSet && byte >= from {
                    let bytes = window.bytes(byte, head.stride(), limit).map_err(io)?;
                    let frame = Frame::verified(bytes, head).map_err(bad)?;
                    let set = SyncSet::decode(frame.body);
                    let set = set.ok_or_else(|| bad(Fault::Body))?;
                    found.push((LogByte(header.log_byte(end)), set));
                }
                byte = end;
            }
        }
        Ok(found)
    }
}

impl Shared {
    /// How far the log's archive holds it, if it has one.
    pub(super) fn archived(&self) -> MutexGuard<'_, Option<End>> {
        self.archived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a follower or a reader beside a writer learns of the committed end.
    pub(crate) fn learn_committed(&self, holds: bool, durable: LogByte, committed: End) {
        if holds || committed.0 < durable || self.ends.is_held() {
            if !self.ends.is_held() {
                // What was shown before stays.
                self.ends.hold();
            }
            self.ends.commit(committed.0, committed.1);
        }
    }
}
