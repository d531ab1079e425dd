//! Making segment files ready for frames: created, filled ahead, headed, named.
//!
//! Called by the writer at a roll, and by the worker ahead of one. Invariant: a file gets its
//! segment's name only after its header is durable.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::fs::{File, Open};
use crate::segment::{HEADER_BYTES, SegmentHeader, SegmentName};

use super::Shared;
use super::options::Preallocate;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Makes a segment file that is ready for frames: header durable, named.
pub(crate) fn create_segment(
    shared: &Shared,
    header: &SegmentHeader,
) -> Result<(Arc<dyn File>, PathBuf, u64)> {
    let path = SegmentName(header.base).path(&shared.layout.segments());
    let mut slot = shared.worker.prepared();
    let (file, temporary, filled_to) = match slot.take() {
        Some(prepared) => prepared,
        None => prepare_segment(shared, false)?,
    };
    let io = |what: &'static str| {
        let path = path.clone();
        move |e| Error::io(what, &path, e)
    };
    let made = (|| {
        file.write_all_at(&header.encode(), 0).map_err(io("write the header of"))?;
        // Closes the crash that leaves a named segment without a valid header.
        file.sync_data().map_err(|e| Error::io("sync", &path, e).with_kind(Kind::Io))?;
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

/// Makes the next segment's file under a temporary name, filled with zeros if that is wanted;
/// `ahead` of its use, when there is time for that.
pub(crate) fn prepare_segment(
    shared: &Shared,
    ahead: bool,
) -> Result<(Arc<dyn File>, PathBuf, u64)> {
    let path = shared.layout.segments().join("next.tmp");
    match shared.fs.unlink(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &path, e));
        }
        _ => {}
    }
    let file = shared.fs.open(&path, Open::Create).map_err(|e| Error::io("create", &path, e))?;
    let mut filled_to = HEADER_BYTES;
    let wanted = match shared.options.preallocate {
        Preallocate::Zero => true,
        Preallocate::Auto => ahead && shared.recently_durable(),
        Preallocate::Grow => false,
    };
    if wanted {
        filled_to = fill(&*file, 0, shared.options.segment_bytes);
        file.sync_data().map_err(|e| Error::io("sync", &path, e).with_kind(Kind::Io))?;
    }
    Ok((file, path, filled_to))
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
