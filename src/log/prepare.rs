//! Making segment files ready for frames: created, filled ahead, headed, named.
//!
//! Called by the writer at a roll, and by the worker ahead of one. Zeros cost the disk as much as
//! frames do: they are written while the appends leave it time, that is behind small groups and in
//! quiet moments; docs/decisions/0003-zeros-ahead.md has the figures.
//!
//! Invariants:
//! - a file gets its segment's name only after its header is durable;
//! - a frame counts as written, or as durable, only when its segment has its name: whatever ends the
//!   process, the next open sweeps files under a temporary one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use crate::error::{Error, Kind, Result};
use crate::fs::{File, Open};
use crate::mutant::{self, Mutant};
use crate::position::LogByte;
use crate::segment::{HEADER_BYTES, SegmentHeader, SegmentName};

use super::Shared;
use super::options::Preallocate;

/// Zeros written and synced at a time in quiet moments.
const FILL_BYTES: u64 = 2 << 20;
/// Beside appends, whose syncs wait meanwhile: this share of what is lacking,
const FILL_SHARE: u64 = 16;
/// at least,
const LEAST_FILL_BYTES: u64 = 64 << 10;
/// and at most, when the appends are fast.
const MOST_FILL_BYTES: u64 = 16 << 20;
/// Zeros written before the appends have come any further,
const FILL_LEAD_BYTES: u64 = 8 << 20;
/// and bytes of zeros per byte appended since.
const FILL_PACE: u64 = 2;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The files about a roll; at most one of them has the temporary name.
#[derive(Debug, Default)]
pub(crate) struct NextFile {
    /// Made ahead of the next roll.
    prepared: Option<Prepared>,
    /// The newest segment's, which is written and synced before it gets its name.
    unnamed: Option<Unnamed>,
}

/// A segment's file under the temporary name, with its header and perhaps frames.
#[derive(Debug)]
struct Unnamed {
    file: Arc<dyn File>,
    temporary: PathBuf,
    path: PathBuf,
}

/// When a new segment's file gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// At once, and a sync of the header before it.
    Now,
    /// After the sync of its first frames, which is then the header's, too.
    WhenSynced,
}

/// A segment's file that frames can be written to.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) file: Arc<dyn File>,
    pub(crate) path: PathBuf,
    /// It holds blocks up to here.
    pub(crate) filled_to: u64,
}

impl NextFile {
    /// Makes the next segment's file ahead of its use, unless it is there.
    pub(crate) fn prepare(&mut self, shared: &Shared) {
        // The temporary name may be taken. Who gives that file its own asks again.
        if self.prepared.is_none() && self.unnamed.is_none() {
            // Only a head start: the roll makes the file itself if this fails.
            self.prepared = Prepared::new(shared, true).ok();
        }
    }

    /// Fills it a piece further. Returns the file, to be synced; none if there is nothing to do.
    pub(crate) fn fill_on(&mut self, shared: &Shared, quiet: bool) -> Option<Arc<dyn File>> {
        let prepared = self.prepared.as_mut()?;
        prepared.fill_on(shared, quiet).then(|| Arc::clone(&prepared.file))
    }

    /// A sync of this file failed. Ahead of its use it was only a head start, and the roll makes
    /// another; `false` if it holds frames meanwhile.
    pub(crate) fn give_up(&mut self, file: &Arc<dyn File>) -> bool {
        let ahead = self.prepared.take_if(|prepared| Arc::ptr_eq(&prepared.file, file));
        ahead.is_some()
    }

    /// Removes what was made ahead: left behind, it would be swept at the next open.
    pub(crate) fn discard(&mut self, shared: &Shared) {
        if let Some(prepared) = self.prepared.take() {
            let _ = shared.fs.unlink(&prepared.path);
        }
    }

    /// Makes a segment's file ready for frames: with its header and, unless that waits, its name.
    pub(crate) fn create(
        &mut self,
        shared: &Shared,
        header: &SegmentHeader,
        naming: Naming,
    ) -> Result<Ready> {
        self.name(shared, Naming::Now)?;
        let prepared = match self.prepared.take() {
            Some(prepared) => prepared,
            None => Prepared::new(shared, false)?,
        };
        let Prepared { file, path: temporary, mut filled_to, filling } = prepared;
        if filling.is_some() && shared.options.preallocate == Preallocate::Zero {
            filled_to = fill(&*file, filled_to, shared.options.segment_bytes);
        }
        let filled_to = filled_to.max(HEADER_BYTES);
        let path = SegmentName(header.base).path(&shared.layout.segments());
        let headed = file.write_all_at(&header.encode(), 0);
        if let Err(e) = headed {
            let _ = shared.fs.unlink(&temporary);
            return Err(Error::io("write the header of", &path, e));
        }
        self.unnamed = Some(Unnamed { file: Arc::clone(&file), temporary, path: path.clone() });
        if naming == Naming::WhenSynced && !mutant::on(Mutant::SkipHeaderSync) {
            shared.unnamed_from.store(header.base.0, Release);
        } else if let Err(error) = self.name(shared, Naming::Now) {
            if let Some(unnamed) = self.unnamed.take() {
                let _ = shared.fs.unlink(&unnamed.temporary);
            }
            return Err(error);
        }
        Ok(Ready { file, path, filled_to })
    }

    /// Gives the newest segment's file its name, if it still lacks it.
    pub(crate) fn name(&mut self, shared: &Shared, naming: Naming) -> Result<()> {
        let Some(Unnamed { file, temporary, path }) = &self.unnamed else { return Ok(()) };
        // Closes the crash that leaves a named segment without a valid header.
        if naming == Naming::Now && !mutant::on(Mutant::SkipHeaderSync) {
            file.sync_data().map_err(|e| Error::io("sync", path, e).with_kind(Kind::Io))?;
        }
        shared.fs.rename(temporary, path).map_err(|e| Error::io("rename into place", path, e))?;
        self.unnamed = None;
        shared.names_unsynced.store(true, Release);
        shared.unnamed_from.store(u64::MAX, Release);
        if naming == Naming::WhenSynced {
            shared.worker.prepare_soon();
        }
        Ok(())
    }
}

/// A file made ahead of its use, under the temporary name.
#[derive(Debug)]
struct Prepared {
    file: Arc<dyn File>,
    path: PathBuf,
    /// It holds blocks up to here.
    filled_to: u64,
    /// Zeros are still being written; what the log's written end was when that began.
    filling: Option<LogByte>,
}

impl Prepared {
    /// Makes the file. `ahead` of its use, there is time to fill it with zeros, if that is wanted.
    fn new(shared: &Shared, ahead: bool) -> Result<Self> {
        let path = shared.layout.segments().join("next.tmp");
        match shared.fs.unlink(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &path, e));
            }
            _ => {}
        }
        let file =
            shared.fs.open(&path, Open::Create).map_err(|e| Error::io("create", &path, e))?;
        let wanted = match shared.options.preallocate {
            Preallocate::Zero => true,
            Preallocate::Auto => ahead && shared.recently_durable(),
            Preallocate::Grow => false,
        };
        let filling = wanted.then(|| shared.ends.written().0);
        Ok(Prepared { file, path, filled_to: if wanted { 0 } else { HEADER_BYTES }, filling })
    }

    /// Writes the next piece of zeros, to be synced: in step with small groups, because all at once
    /// they would stand between the appends and the disk; while it is `quiet`, piece after piece.
    /// `false` if there is nothing to do now.
    fn fill_on(&mut self, shared: &Shared, quiet: bool) -> bool {
        let Some(from) = self.filling else { return false };
        let appended = shared.ends.written().0.0.saturating_sub(from.0);
        let in_step = shared.options.preallocate == Preallocate::Zero || shared.has_small_groups();
        let target = FILL_LEAD_BYTES.min(shared.options.segment_bytes);
        let behind = match in_step {
            true => (target + FILL_PACE * appended).saturating_sub(self.filled_to),
            false => 0,
        };
        let piece = match (quiet, behind) {
            (true, _) => FILL_BYTES,
            (false, 0) => return false,
            (false, _) => (behind / FILL_SHARE).max(1).next_multiple_of(LEAST_FILL_BYTES),
        };
        let to = (self.filled_to + piece.min(MOST_FILL_BYTES)).min(shared.options.segment_bytes);
        self.filled_to = fill(&*self.file, self.filled_to, to);
        if self.filled_to < to || to == shared.options.segment_bytes {
            self.filling = None;
        }
        true
    }
}

/// Writes zeros from `from` to `to`; returns how far it came. Only a head start: a full disk is
/// met again, and reported, by the frames themselves.
pub(crate) fn fill(file: &dyn File, from: u64, to: u64) -> u64 {
    let mut at = from;
    while at < to {
        let len = usize::try_from(to - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        match file.write_at(&ZEROS[..len], at) {
            Ok(n) if n > 0 => at += n as u64,
            _ => break,
        }
    }
    at
}
