//! Surveying a damaged segment: which ranges hold no frame, and whether the rest still fits.
//!
//! Called by `repair`; reads, changes nothing.

use std::sync::Arc;

use crate::crc;
use crate::error::{Error, Result};
use crate::frame::FrameKind;
use crate::fs::{File, Fs};
use crate::position::Offset;
use crate::segment::{Footer, Link, SEAL_BYTES, SegmentHeader, Tally, Window, search, walk};

use super::files::Layout;
use super::repair::Candidate;

/// A range of a file to be filled with `lost` frames.
#[derive(Clone, Copy)]
pub(super) struct Gap {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) count: u64,
    pub(super) fingerprint: u32,
}

/// A damaged range of a segment.
pub(super) struct Found {
    pub(super) gap: Gap,
    /// Offset of the first lost record, relative to the segment's base.
    pub(super) first: u64,
}

/// What of a segment is whole.
pub(super) struct Survey {
    pub(super) gaps: Vec<Found>,
    /// Where the frames end.
    pub(super) end: u64,
    /// Of the frames, if there are no gaps.
    pub(super) tally: Tally,
}

/// Finds the ranges of a segment that hold no valid frame.
pub(super) fn survey(
    candidate: &Candidate,
    header: &SegmentHeader,
    known_end: Option<(u64, Offset)>,
) -> std::io::Result<Survey> {
    let limit = known_end.map_or(candidate.len, |(end, _)| match candidate.footer {
        // Behind a proven end there may be whole frames that nothing vouches for yet.
        None if end < candidate.len => candidate.len,
        _ => end,
    });
    let limit = match (known_end, candidate.footer.is_some()) {
        (Some((end, _)), true) => end,
        _ => limit,
    };
    let mut gaps = Vec::new();
    let mut tally = Tally::default();
    let mut window = Window::file(Arc::clone(&candidate.file));
    loop {
        walk(&mut window, header, limit, &mut tally, |_, _| {})?;
        let from = tally.end;
        let enough = known_end.is_none_or(|(end, _)| from >= end);
        let next = match from < limit {
            true => search(&candidate.file, header, from + 8, limit)?
                .filter(|(_, frame)| frame.kind != FrameKind::Seal)
                .filter(|(_, frame)| frame.rel_offset >= tally.records),
            false => None,
        };
        let (to, records) = match (next, known_end) {
            // Frames behind the proven end are a torn tail's: no gap leads to them.
            (Some((byte, frame)), Some((end, _))) if byte < end || !enough => {
                (byte, frame.rel_offset)
            }
            (_, Some((end, offset))) if !enough => {
                let records = offset.0.saturating_sub(header.base_offset.0);
                (end, u32::try_from(records).unwrap_or(tally.records))
            }
            (Some((byte, frame)), None) => (byte, frame.rel_offset),
            _ => return Ok(Survey { gaps, end: from, tally }),
        };
        let mut damaged = vec![0; bytes(to - from)];
        let read = candidate.file.read_full_at(&mut damaged, from)?;
        let gap = Gap {
            from,
            to,
            count: u64::from(records.saturating_sub(tally.records)),
            fingerprint: crc::crc32c(&damaged[..read]),
        };
        gaps.push(Found { gap, first: u64::from(tally.records) });
        tally.end = to;
        tally.records = records.max(tally.records);
    }
}

/// Whether everything behind the frames is what the frames make.
pub(super) fn derived_holds(candidate: &Candidate, footer: &Footer, tally: &Tally) -> bool {
    let header = &candidate.header;
    let mut expected = crate::segment::seal_frame(header, tally);
    let to = footer.data_end.next_multiple_of(crate::segment::PAGE_BYTES);
    expected.resize(bytes(to - footer.frames_end()), 0);
    expected.extend_from_slice(&tally.producers.encode());
    expected.extend_from_slice(tally.index.as_bytes());
    let mut stored = vec![0; expected.len()];
    candidate.file.read_full_at(&mut stored, footer.frames_end()).is_ok_and(|n| n == stored.len())
        && stored == expected
        && footer.end_offset == tally.end_offset(header)
        && footer.frames == tally.frames
        && crate::segment::hash_of(&*candidate.file, footer.data_end)
            .is_ok_and(|hash| hash == footer.hash)
}

pub(super) fn link(footer: &Footer) -> Link {
    Link { base: footer.base, end: footer.end(), fingerprint: footer.fingerprint }
}

/// What the footer of an unsealed segment would say; only its places are looked at.
pub(super) fn stand_in(header: &SegmentHeader, tally: &Tally) -> Footer {
    Footer {
        log: header.log,
        base: header.base,
        base_offset: header.base_offset,
        epoch: header.epoch,
        salt: header.salt,
        data_end: tally.end + SEAL_BYTES,
        end_offset: tally.end_offset(header),
        frames: tally.frames,
        min_timestamp: tally.min_timestamp,
        max_timestamp: tally.max_timestamp,
        fingerprint: tally.fingerprint,
        index_byte: 0,
        index_entries: 0,
        index_crc: 0,
        producers_byte: 0,
        producers_count: 0,
        producers_crc: 0,
        previous_hash: [0; 32],
        hash: [0; 32],
    }
}

pub(super) fn copy(
    from: &Arc<dyn File>,
    to: &Arc<dyn File>,
    start: u64,
    end: u64,
) -> std::io::Result<()> {
    let mut buffer = vec![0; super::scan::chunk(start, end, 256 << 10)];
    let mut at = start;
    while at < end {
        let len = buffer.len().min(bytes(end - at));
        from.read_exact_at(&mut buffer[..len], at)?;
        to.write_all_at(&buffer[..len], at)?;
        at += len as u64;
    }
    Ok(())
}

pub(super) fn bytes(n: u64) -> usize {
    usize::try_from(n).expect("segment files are far below the address space")
}

/// How a segment written anew is sealed.
#[derive(Clone, Copy)]
pub(super) struct Reseal {
    pub(super) previous_hash: [u8; 32],
    /// The seal hash that the segment behind it knows it by.
    pub(super) replaces: Option<[u8; 32]>,
}

/// Makes the names of segments durable: also those that a repair before this one renamed into
/// place and no more.
pub(super) fn sync_names(fs: &Arc<dyn Fs>, layout: &Layout) -> Result<()> {
    let segments = layout.segments();
    fs.sync_dir(&segments).map_err(|e| Error::io("sync", &segments, e))
}
