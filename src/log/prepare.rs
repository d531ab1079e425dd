//! Making segment files ready for frames: created, filled ahead, headed, named.
//!
//! Called by the writer at a roll, and by the worker ahead of one. Zeros cost the disk as much as
//! frames do: they are written while the appends leave it time, that is behind small groups and in
//! quiet moments; docs/decisions/0003-zeros-ahead.md has the figures.
//!
//! Invariant: a file gets its segment's name only after its header is durable.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::fs::{File, Open};
use crate::mutant::{self, Mutant};
use crate::position::LogByte;
use crate::segment::{HEADER_BYTES, SegmentHeader, SegmentName};

use super::Shared;
use super::options::Preallocate;

/// Zeros written and synced at a time, ahead of their use: at least,
const FILL_BYTES: u64 = 2 << 20;
/// and at most, when the appends are fast.
const MOST_FILL_BYTES: u64 = 16 << 20;
/// Zeros written before the appends have come any further,
const FILL_LEAD_BYTES: u64 = 8 << 20;
/// and bytes of zeros per byte appended since.
const FILL_PACE: u64 = 2;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The next segment's file, under a temporary name.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) file: Arc<dyn File>,
    pub(crate) path: PathBuf,
    /// It holds blocks up to here.
    filled_to: u64,
    /// Zeros are still being written; what the log's written end was when that began.
    filling: Option<LogByte>,
}

impl Prepared {
    /// Makes the file. `ahead` of its use, there is time to fill it with zeros, if that is wanted.
    pub(crate) fn new(shared: &Shared, ahead: bool) -> Result<Self> {
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

    /// Writes and syncs the next piece of zeros: in step with small groups, because all at once
    /// they would stand between the appends and the disk; while it is `quiet`, piece after piece.
    /// `false` if there is nothing to do now.
    pub(crate) fn fill_on(&mut self, shared: &Shared, quiet: bool) -> std::io::Result<bool> {
        let Some(from) = self.filling else { return Ok(false) };
        let appended = shared.ends.written().0.0.saturating_sub(from.0);
        let in_step = shared.options.preallocate == Preallocate::Zero || shared.has_small_groups();
        let behind = match in_step {
            true => (FILL_LEAD_BYTES + FILL_PACE * appended).saturating_sub(self.filled_to),
            false => 0,
        };
        let behind = if quiet { behind.max(FILL_BYTES) } else { behind };
        if behind == 0 {
            return Ok(false);
        }
        let piece = behind.next_multiple_of(FILL_BYTES).min(MOST_FILL_BYTES);
        let to = (self.filled_to + piece).min(shared.options.segment_bytes);
        self.filled_to = fill(&*self.file, self.filled_to, to);
        self.file.sync_data()?;
        if self.filled_to < to || to == shared.options.segment_bytes {
            self.filling = None;
        }
        Ok(true)
    }
}

/// Makes a segment file that is ready for frames: header durable, named.
pub(crate) fn create_segment(
    shared: &Shared,
    header: &SegmentHeader,
) -> Result<(Arc<dyn File>, PathBuf, u64)> {
    let path = SegmentName(header.base).path(&shared.layout.segments());
    let mut slot = shared.worker.prepared();
    let prepared = match slot.take() {
        Some(prepared) => prepared,
        None => Prepared::new(shared, false)?,
    };
    let Prepared { file, path: temporary, mut filled_to, filling } = prepared;
    if filling.is_some() && shared.options.preallocate == Preallocate::Zero {
        filled_to = fill(&*file, filled_to, shared.options.segment_bytes);
    }
    let filled_to = filled_to.max(HEADER_BYTES);
    let io = |what: &'static str| {
        let path = path.clone();
        move |e| Error::io(what, &path, e)
    };
    let made = (|| {
        file.write_all_at(&header.encode(), 0).map_err(io("write the header of"))?;
        // Closes the crash that leaves a named segment without a valid header.
        if !mutant::on(Mutant::SkipHeaderSync) {
            file.sync_data().map_err(|e| Error::io("sync", &path, e).with_kind(Kind::Io))?;
        }
        shared.fs.rename(&temporary, &path).map_err(io("rename into place"))
    })();
    match made {
        Ok(()) => Ok((file, path, filled_to)),
        Err(error) => {
            let _ = shared.fs.unlink(&temporary);
            Err(error)
        }
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
