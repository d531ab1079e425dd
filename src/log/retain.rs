//! Retention: dropping whole segments from the front.
//!
//! The new floor is durable in CONTROL before the first file goes, so that a crash in between
//! leaves files that the next open removes, never a log that starts with a gap. Files are
//! unlinked, never shortened: a reader that has one mapped keeps it.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::mutant::{self, Mutant};
use crate::position::Offset;

use super::Shared;

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
}

impl Shared {
    pub(super) fn retain(&self, policy: &Retention) -> Result<Retained> {
        if let Some(error) = &self.refuses {
            return Err(error.clone());
        }
        let mut control = self.control();
        let list = self.catalog.list();
        let total: u64 =
            list.iter().filter_map(|s| s.footer.get()).map(|footer| footer.data_end).sum();
        let mut retained = Retained { start: self.start(), ..Retained::default() };
        let nothing_asked = policy.keep_bytes.is_none()
            && policy.keep_after.is_none()
            && policy.keep_from.is_none();
        let mut floor = None;
        for segment in list.iter().take(list.len().saturating_sub(1)) {
            let Some(footer) = segment.footer.get().filter(|_| !nothing_asked) else { break };
            let bytes_left = total - retained.bytes - footer.data_end;
            let allowed = policy.keep_bytes.is_none_or(|keep| bytes_left >= keep)
                && policy.keep_after.is_none_or(|after| footer.max_timestamp < after)
                && policy.keep_from.is_none_or(|from| footer.end_offset <= from)
                && footer.end() <= self.ends.durable().0;
            if !allowed {
                break;
            }
            retained.files.push(segment.path.clone());
            retained.bytes += footer.data_end;
            retained.start = footer.end_offset;
            floor = Some((footer.end(), footer.end_offset));
        }
        let Some((floor, floor_offset)) = floor.filter(|_| !policy.dry_run) else {
            return Ok(retained);
        };
        if mutant::on(Mutant::UnlinkBeforeFloor) {
            for path in &retained.files {
                let _ = self.fs.unlink(path);
            }
            retained.files.clear();
        }
        let mut changed = control.clone();
        (changed.floor, changed.floor_offset) = (floor, floor_offset);
        changed.write(&*self.fs, &self.layout)?;
        *control = changed;
        self.catalog.update(|segments| segments.retain(|s| s.header.base >= floor));
        for path in &retained.files {
            self.fs.unlink(path).map_err(|e| Error::io("remove", path, e))?;
        }
        Ok(retained)
    }
}
