//! Fetching frames: bytes from a source become whole frames that were checked.
//!
//! Called by `pull` for every chunk. What it returns holds both checksums, stands where its
//! segment says, and continues the offsets without a gap; what does not is an error that names
//! the source's file and byte.

use crate::error::{Error, Kind, Result};
use crate::frame::{Fault, Frame, FrameKind, HEADER_BYTES as FRAME_HEADER, Header, Lost, SyncSet};
use crate::segment::{SegmentHeader, SegmentName};
use crate::ship::Source;

use super::copy::Fetched;

/// Bytes read from the source at a time: what is checked and written then is still in the processor's
/// cache.
const CHUNK_BYTES: u64 = 512 << 10;

/// Whole frames from `at` to at most `limit`, which is a frame's end; at least one. They come in `buffer`,
/// whatever that held.
pub(super) fn fetch(
    source: &mut dyn Source,
    header: &SegmentHeader,
    at: u64,
    limit: u64,
    mut rel_offset: u32,
    mut buffer: Vec<u8>,
) -> Result<Fetched> {
    let name = SegmentName(header.base);
    let seed = header.seed();
    let mut want = index(CHUNK_BYTES.min(limit - at));
    let (mut have, mut done, mut last_frame) = (0, 0, 0);
    let mut sets = false;
    loop {
        if buffer.len() < want {
            buffer.resize(want, 0);
        }
        let read = source.read(name, at + have as u64, &mut buffer[have..want])?;
        have += read;
        let fault = loop {
            let byte = at + done as u64;
            if byte == limit {
                break None;
            }
            let rest = &buffer[done..have];
            want = done + FRAME_HEADER;
            if rest.len() < FRAME_HEADER && byte + FRAME_HEADER as u64 <= limit {
                break None;
            }
            let head = match Header::decode(rest, byte, limit, seed) {
                Ok(head) => head,
                Err(fault) => break Some(fault),
            };
            want = done + head.stride();
            if rest.len() < head.stride() {
                break None;
            }
            match check(rest, byte, limit, header, rel_offset) {
                Ok(taken) => rel_offset += taken,
                Err(fault) => break Some(fault),
            }
            sets |= head.kind == FrameKind::SyncSet;
            last_frame = done as u64;
            done += head.stride();
        };
        // The rest of a frame that has begun comes along: read again, it would cost twice.
        let cut_off = fault.is_none() && read > 0 && done < have && want > done + FRAME_HEADER;
        if done > 0 && !(cut_off && want < index(2 * CHUNK_BYTES)) {
            // What follows these, good or bad, is for the next fetch.
            return Ok(Fetched { buffer, len: done, last_frame, rel_end: rel_offset, sets });
        }
        if let Some(fault) = fault.filter(|fault| *fault != Fault::End) {
            return Err(damaged(source, header, (at, rel_offset), fault));
        }
        if read == 0 || fault.is_some() {
            return Err(cut_short(source, header, at, limit));
        }
    }
}

/// Checks one whole frame; returns the offsets it takes.
fn check(
    bytes: &[u8],
    byte: u64,
    limit: u64,
    header: &SegmentHeader,
    rel_offset: u32,
) -> Result<u32, Fault> {
    let frame = Frame::decode(bytes, byte, limit, header.seed())?;
    if frame.header.rel_offset != rel_offset {
        return Err(Fault::Body);
    }
    let taken = match frame.header.kind {
        FrameKind::Seal | FrameKind::Run => return Err(Fault::Unknown),
        FrameKind::SyncSet if SyncSet::decode(frame.body).is_none() => return Err(Fault::Body),
        FrameKind::Lost => Lost::decode(frame.body).ok_or(Fault::Body)?.count,
        _ => u32::from(frame.header.count),
    };
    rel_offset.checked_add(taken).ok_or(Fault::Body)?;
    Ok(taken)
}

fn damaged(
    source: &dyn Source,
    header: &SegmentHeader,
    (byte, rel_offset): (u64, u32),
    fault: Fault,
) -> Error {
    Error::new(
        Kind::Corrupt,
        format!("expected a frame that the source calls durable, found {}", fault.as_str()),
    )
    .in_file(&source.file(SegmentName(header.base)))
    .at_byte(byte)
    .at_offset(header.base_offset.plus(u64::from(rel_offset)).0)
    .help("nothing of it was copied; run `tidelog verify` on the source")
}

fn cut_short(source: &dyn Source, header: &SegmentHeader, at: u64, limit: u64) -> Error {
    Error::new(
        Kind::NotFound,
        format!("expected durable frames from byte {at} to {limit}, found zeros or the file's end"),
    )
    .in_file(&source.file(SegmentName(header.base)))
    .at_byte(at)
    .help(
        "if a copier fills that directory they may still be coming; otherwise run \
         `tidelog verify` on the source",
    )
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("segment files are far below the address space")
}
