//! A follower's last frame, held against this log: only what is the same frame here counts.
//!
//! Called by the leader for every report; reads one frame's header. Invariant: what it returns comes
//! from this log alone; a report only says where to look.

use crate::error::{Error, Result};
use crate::frame::{FrameKind, HEADER_BYTES as FRAME_HEADER, Header, Lost};
use crate::log::Home;
use crate::position::{LogByte, Offset};
use crate::segment::HEADER_BYTES;
use crate::ship::Report;

use super::rule::Matched;

/// The frame of this log that is the report's last one; `None` when there is none, or another.
pub(super) fn matched(home: &Home, report: &Report) -> Result<Option<Matched>> {
    if report.log != Some(home.log()) {
        return Ok(None);
    }
    let Some(last) = report.last else { return Ok(None) };
    let list = home.segments();
    let find = |base: LogByte| {
        let found = list.binary_search_by_key(&base, |segment| segment.header.base);
        found.ok().map(|at| &list[at])
    };
    let Some(base) = last.growing else {
        // A whole segment: its footer names the last frame.
        let Some(segment) = find(last.start) else { return Ok(None) };
        let Some(footer) = segment.footer.get() else { return Ok(None) };
        let same = footer.fingerprint == last.fingerprint
            && footer.end() == report.durable.log_byte
            && footer.end() <= home.durable().0;
        let end = (footer.end(), footer.end_offset);
        return Ok(same.then_some(Matched { end, epoch: footer.epoch }));
    };
    let Some(segment) = find(base) else { return Ok(None) };
    let header = &segment.header;
    if last.start < base || last.start >= report.durable.log_byte {
        return Ok(None);
    }
    let byte = header.file_byte(last.start.0);
    let end = report.durable.log_byte;
    let frames_end = segment.end.get().map_or(u64::MAX, |end| end.0);
    if end > home.durable().0 || header.file_byte(end.0) > frames_end || byte < HEADER_BYTES {
        return Ok(None);
    }
    let io = |e| Error::io("read", &segment.path, e).at_byte(byte);
    let file = home.fs().open_plain(&segment.path).map_err(io)?;
    let mut bytes = [0; FRAME_HEADER + 8];
    let read = file.read_full_at(&mut bytes, byte).map_err(io)?;
    let limit = header.file_byte(end.0);
    // Not a frame there, in this log: then the report is of another.
    let Ok(head) = Header::decode(&bytes[..read], byte, limit, header.seed()) else {
        return Ok(None);
    };
    if head.fingerprint() != last.fingerprint || byte + head.stride() as u64 != limit {
        return Ok(None);
    }
    let taken = match head.kind {
        FrameKind::Lost => Lost::decode(&bytes[FRAME_HEADER..read]).map_or(0, |lost| lost.count),
        _ => u32::from(head.count),
    };
    let offset = header.base_offset.0 + u64::from(head.rel_offset) + u64::from(taken);
    Ok(Some(Matched { end: (end, Offset(offset)), epoch: header.epoch }))
}
