//! Retention: dropping whole segments from the front.
//!
//! The new floor is durable in CONTROL before the first file goes, so that a crash in between
//! leaves files that the next open removes, never a log that starts with a gap. Files are
//! unlinked, never shortened: a reader that has one mapped keeps it.
//!
//! A table in the directory is made from the log. So nothing goes that its oldest checkpoint still
//! needs (all of the log, while it has none), and nothing goes at all, without being told so, if
//! that would leave the table as the only copy of what its rows came from. Nor does anything go that a
//! named cursor has not read, that a live slot needs, or, while whoever leads this open log publishes it to
//! an archive, that the archive does not hold; a cursor or slots that cannot be read stop retention with an
//! error.

use std::path::PathBuf;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::mutant::{self, Mutant};
use crate::position::{Id, LogByte, Offset};
use crate::segment::Footer;

use super::Shared;
use super::claims::Kept;
use super::cursors;
use super::files::{Applied, Layout};

/// What to keep. A segment goes only when every limit that is set allows it; the segment being
/// written always stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Keep at least this many bytes of the newest segments.
    pub keep_bytes: Option<u64>,
    /// Keep segments that hold a timestamp at or after this (nanoseconds since the Unix epoch).
    pub keep_after: Option<i64>,
    /// Keep everything from this offset on.
    pub keep_from: Option<Offset>,
    /// Everything below this offset is kept elsewhere: a verified snapshot, a peer, an archive.
    pub copied_below: Option<Offset>,
    /// Whether records may go that nothing holds but this directory's table, as rows: if that is
    /// damaged, it cannot be made again. Counts only where there is a table with checkpoints.
    pub table_is_only_copy: bool,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What retention dropped, or would drop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// The files, oldest first.
    pub files: Vec<PathBuf>,
    /// Their bytes of frames.
    pub bytes: u64,
    /// The earliest offset afterwards.
    pub start: Offset,
    /// What kept more than was asked for.
    pub held_by: Option<Holder>,
}

/// What needs the log from some offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The name of the cursor that stands furthest back, if it is that.
    pub cursor: Option<String>,
    /// Whether it is the archive, which does not hold the rest yet.
    pub archive: bool,
    /// The node whose slot needs the most, if it is that.
    pub slot: Option<Id>,
    /// The number of the table's oldest checkpoint; none when the table has no checkpoint yet, and
    /// can be made from the log alone.
    pub checkpoint: Option<u64>,
    /// The first offset that it needs.
    pub offset: Offset,
}

impl Holder {
    /// Everything from the first record on, and on whose behalf is yet to be said.
    fn nothing() -> Self {
        Holder { cursor: None, slot: None, archive: false, checkpoint: None, offset: Offset(0) }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.cursor, self.slot, self.checkpoint) {
            _ if self.archive => f.write_str("the archive"),
            (Some(name), ..) => write!(f, "the cursor {name}"),
            (None, Some(node), _) => write!(f, "the slot of node {node}"),
            (None, None, Some(seq)) => write!(f, "checkpoint {seq} of the table"),
            (None, None, None) => f.write_str("the table, which has no checkpoint yet,"),
        }?;
        write!(f, " needs the log from offset {} on", self.offset)
    }
}

/// What the table in this directory needs: everything from the log byte on. `None` when there is
/// no table, or none that could be made from what the log still has.
fn needed(fs: &dyn Fs, layout: &Layout, log: Id, start: Offset) -> Option<(LogByte, Holder)> {
    let checkpoints = Applied::read_all(fs, layout, log);
    if let Some(oldest) = checkpoints.iter().min_by_key(|applied| applied.end) {
        let (checkpoint, offset) = (Some(oldest.seq), oldest.offset);
        let holder = Holder { checkpoint, offset, ..Holder::nothing() };
        return Some((oldest.end, holder));
    }
    let kept = fs.list(&layout.table()).is_ok_and(|names| names.iter().any(|name| name == "LOCK"));
    let buildable = kept && start == Offset(0);
    let holder = Holder::nothing();
    buildable.then_some((LogByte(0), holder))
}

impl Shared {
    pub(super) fn retain(&self, policy: &Retention) -> Result<Retained> {
        if let Some(error) = &self.refuses {
            return Err(error.clone());
        }
        // Held until the files are gone: no slot is promised what goes meanwhile.
        self.with_slots(|kept| self.retain_beside(policy, kept))
    }

    fn retain_beside(&self, policy: &Retention, kept: &mut Kept) -> Result<Retained> {
        let mut control = self.control();
        let list = self.catalog.list();
        let total: u64 =
            list.iter().filter_map(|s| s.footer.get()).map(|footer| footer.data_end).sum();
        let mut retained = Retained { start: self.start(), ..Retained::default() };
        let nothing_asked = policy.keep_bytes.is_none()
            && policy.keep_after.is_none()
            && policy.keep_from.is_none();
        let archived = *self.archived();
        let mut floor = None;
        let needed = needed(&*self.fs, &self.layout, self.log.id, self.start());
        let cursors = cursors::list(&*self.fs, &self.layout)?;
        let cursor = cursors.into_iter().min_by_key(|cursor| cursor.offset);
        let slot = kept.slots.lowest(&self.reach()).map(|claim| (claim.needs, claim.node));
        let holder = |footer: &Footer| {
            if let Some((_, holder)) = needed.as_ref().filter(|(from, _)| footer.end() > *from) {
                return Some(holder.clone());
            }
            let none = Holder::nothing();
            if let Some(cursor) = cursor.as_ref().filter(|at| footer.end_offset > at.offset) {
                let (cursor, offset) = (Some(cursor.name.clone()), cursor.offset);
                return Some(Holder { cursor, offset, ..none });
            }
            if let Some((_, node)) = slot.filter(|(needs, _)| footer.end() > *needs) {
                return Some(Holder { slot: Some(node), offset: footer.base_offset, ..none });
            }
            let (_, offset) = archived.filter(|(end, _)| footer.end() > *end)?;
            Some(Holder { archive: true, offset, ..none })
        };
        // What the limits alone let go.
        let (mut passed, mut past) = (0, None);
        for segment in list.iter().take(list.len().saturating_sub(1)) {
            let Some(footer) = segment.footer.get().filter(|_| !nothing_asked) else { break };
            let bytes_left = total - passed - footer.data_end;
            let allowed = policy.keep_bytes.is_none_or(|keep| bytes_left >= keep)
                && policy.keep_after.is_none_or(|after| footer.max_timestamp < after)
                && policy.keep_from.is_none_or(|from| footer.end_offset <= from)
                && footer.end() <= self.ends.durable().0;
            if !allowed {
                break;
            }
            passed += footer.data_end;
            past = Some(footer.end());
            if retained.held_by.is_none() {
                retained.held_by = holder(footer);
            }
            if retained.held_by.is_some() {
                continue;
            }
            retained.files.push(segment.path.clone());
            retained.bytes += footer.data_end;
            retained.start = footer.end_offset;
            floor = Some((footer.end(), footer.end_offset, footer.hash));
        }
        if !policy.dry_run && !nothing_asked {
            kept.passed(past.unwrap_or(LogByte(0)));
        }
        let Some((floor, floor_offset, seal)) = floor else { return Ok(retained) };
        let copied = policy.copied_below.is_some_and(|below| floor_offset <= below);
        if needed.is_some() && !copied && !policy.table_is_only_copy {
            return Err(Error::new(
                Kind::Rejected,
                format!(
                    "expected a copy of what lies below offset {floor_offset} elsewhere, found \
                     none: the table would be the only one"
                ),
            )
            .in_file(&self.layout.root)
            .at_offset(floor_offset.0)
            .help(
                "publish a snapshot and name it (`--snapshots`), or accept it with \
                 `--table-is-only-copy`: a damaged table could not be made again",
            ));
        }
        if policy.dry_run {
            return Ok(retained);
        }
        // Closes the crash after which an older claim lies below the floor, so that its slot counts as
        // lost and what its follower needs next is dropped.
        self.settle_slots(kept)?;
        if mutant::on(Mutant::UnlinkBeforeFloor) {
            for path in &retained.files {
                let _ = self.fs.unlink(path);
            }
            retained.files.clear();
        }
        let mut changed = control.clone();
        (changed.floor, changed.floor_offset) = (floor, floor_offset);
        changed.floor_seal = Some(seal);
        changed.write(&*self.fs, &self.layout)?;
        *control = changed;
        self.catalog.update(|segments| segments.retain(|s| s.header.base >= floor));
        for path in &retained.files {
            self.fs.unlink(path).map_err(|e| Error::io("remove", path, e))?;
        }
        Ok(retained)
    }
}
