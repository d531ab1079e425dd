//! Whole frames out of a segment that grows, checked before they are published.
//!
//! Called by the publisher for tails. What it returns holds both checksums, continues the offsets,
//! and ends with a whole frame: damage at the leader does not spread into the archive.

use crate::error::{Error, Kind, Result};
use crate::frame::{Fault, Frame, FrameKind, HEADER_BYTES as FRAME_HEADER, Header, Lost};
use crate::position::Fingerprint;
use crate::segment::{SegmentHeader, SegmentName};
use crate::ship::Source;

/// Frames one behind the other.
#[derive(Debug, Default)]
pub(super) struct Frames {
    pub(super) bytes: Vec<u8>,
    /// Records of the segment up to their end.
    pub(super) records: u32,
    /// Of the last one.
    pub(super) fingerprint: Fingerprint,
}

/// Frames from `at` to at most `limit`, which is a frame's end: about `want` bytes of them, at
/// least one.
pub(super) fn frames(
    source: &mut dyn Source,
    header: &SegmentHeader,
    at: u64,
    limit: u64,
    records: u32,
    want: u64,
) -> Result<Frames> {
    let name = SegmentName(header.base);
    let mut found = Frames { records, ..Frames::default() };
    let mut bytes = read(source, name, at, want.min(limit - at))?;
    let mut done = 0;
    loop {
        let byte = at + done as u64;
        let rest = &bytes[done..];
        if byte == limit || done > 0 && rest.len() < FRAME_HEADER {
            break;
        }
        let taken = Header::decode(rest, byte, limit, header.seed()).and_then(|head| {
            if rest.len() < head.stride() {
                return Ok(None);
            }
            check(rest, byte, limit, header, found.records).map(|taken| Some((head, taken)))
        });
        match taken {
            Ok(Some((head, taken))) => {
                found.records += taken;
                found.fingerprint = head.fingerprint();
                done += head.stride();
            }
            Ok(None) if done > 0 => break,
            Ok(None) => {
                // The first one is larger than what was asked for.
                let head = Header::decode(rest, byte, limit, header.seed());
                let stride = head.map_or(0, |head| head.stride() as u64);
                bytes = read(source, name, at, stride)?;
                if (bytes.len() as u64) < stride {
                    return Err(damaged(source, name, byte, Fault::Short));
                }
            }
            Err(fault) => return Err(damaged(source, name, byte, fault)),
        }
    }
    bytes.truncate(done);
    found.bytes = bytes;
    Ok(found)
}

fn read(source: &mut dyn Source, name: SegmentName, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).expect("segment files fit the address space")];
    let read = source.read(name, at, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn check(
    bytes: &[u8],
    byte: u64,
    limit: u64,
    header: &SegmentHeader,
    records: u32,
) -> Result<u32, Fault> {
    let frame = Frame::decode(bytes, byte, limit, header.seed())?;
    if frame.header.rel_offset != records {
        return Err(Fault::Body);
    }
    let taken = match frame.header.kind {
        FrameKind::Seal | FrameKind::Run => return Err(Fault::Unknown),
        FrameKind::Lost => Lost::decode(frame.body).ok_or(Fault::Body)?.count,
        _ => u32::from(frame.header.count),
    };
    records.checked_add(taken).ok_or(Fault::Body)?;
    Ok(taken)
}

fn damaged(source: &dyn Source, name: SegmentName, byte: u64, fault: Fault) -> Error {
    Error::new(
        Kind::Corrupt,
        format!("expected a durable frame to publish, found {}", fault.as_str()),
    )
    .in_file(&source.file(name))
    .at_byte(byte)
    .help("nothing of it was published; run `tidelog verify` on the log")
}
