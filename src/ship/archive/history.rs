//! Where a leader's history and the archive's part.
//!
//! Called by the publisher before its first entry of an epoch. An epoch (number and nonce) has one
//! writer, so two histories with the same epoch are the same up to where the shorter of the two
//! ends it: before the SEAL there, unless both have it. What the archive ends with is held against
//! the leader's frames as well.

use crate::error::{Error, Kind, Result};
use crate::log::files::EpochEntry;
use crate::position::{LogByte, Offset};
use crate::segment::{HEADER_BYTES, SEAL_BYTES, SegmentHeader, SegmentName};
use crate::ship::{Offer, Source};

use super::entry::Sealed;
use super::frames::frames;
use super::state::{Piece, State};

/// Read at a time when frames are only looked at.
const LOOK_BYTES: u64 = 4 << 20;

/// What there is of a log at its leader, or at who is about to lead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History<'a> {
    /// Its epochs, oldest first.
    pub(crate) epochs: &'a [EpochEntry],
    /// Its segments in order; those that retention dropped are missing.
    pub(crate) segments: &'a [SegmentName],
    /// Behind its last durable frame.
    pub(crate) durable: LogByte,
}

impl History<'_> {
    /// Whether its own copy of a segment that the archive has sealed ends there, too. One epoch's
    /// writer may have gone on where somebody who lacked that ended the epoch, and with it the segment.
    fn ends_with(&self, sealed: &Sealed) -> bool {
        match self.segments.binary_search(&SegmentName(sealed.base)) {
            Ok(i) => match self.segments.get(i + 1) {
                Some(next) => next.0 == sealed.end,
                None => self.durable <= sealed.end,
            },
            // Dropped here, and epochs are all that is known of it.
            Err(_) => true,
        }
    }
}

/// Up to where the archive holds what this history holds, too.
pub(super) fn common(state: &State, history: &History<'_>) -> (LogByte, Offset) {
    let mut at = (state.floor, state.floor_offset);
    for (base, piece) in &state.pieces {
        let epochs = history.epochs;
        let Some(i) = epochs.iter().position(|entry| entry.epoch == piece.epoch()) else {
            return at;
        };
        let (end, end_offset) = piece.end();
        let next = epochs.get(i + 1);
        // An unsealed piece ends before its SEAL, which the next epoch's start lies behind.
        let mut frames_end = next.map(|next| before_seal(next.start));
        let other_seal = piece.sealed().filter(|sealed| !history.ends_with(sealed));
        let fits = match (next, piece.sealed()) {
            (Some(next), Some(_)) => end <= next.start,
            (Some(_), None) => Some(end) <= frames_end,
            (None, _) => end <= history.durable,
        };
        if fits && other_seal.is_none() {
            at = (end, end_offset);
            continue;
        }
        if let Some(sealed) = other_seal {
            let before = before_seal(sealed.end);
            frames_end = Some(frames_end.map_or(before, |end| end.min(before)));
        }
        if let Some(frames_end) = frames_end.filter(|end| end > base) {
            let offset = next.map_or(end_offset, |next| next.start_offset.min(end_offset));
            at = (frames_end.min(end), offset);
        }
        return at;
    }
    at
}

fn before_seal(end: LogByte) -> LogByte {
    LogByte(end.0.saturating_sub(SEAL_BYTES))
}

/// Holds the last thing in the archive against the leader's own.
pub(super) fn check_end(state: &State, source: &mut dyn Source, offer: &Offer) -> Result<()> {
    let Some((base, piece)) = state.pieces.last_key_value() else { return Ok(()) };
    let name = SegmentName(*base);
    if offer.segments.binary_search(&name).is_err() {
        return match offer.floor > *base {
            true => Ok(()),
            false => Err(diverged(source, *base, "has no segment that starts there")),
        };
    }
    let shipped = source.segment(name)?;
    let header = shipped.header;
    if header.epoch != piece.epoch() || header.base_offset != piece.base_offset() {
        return Err(diverged(source, *base, "has another segment there"));
    }
    match piece {
        Piece::Sealed(held) if held.whole() => {
            let seal = shipped.footer.map(|footer| footer.hash);
            let old = crate::log::scan::hex(&held.sealed.seal.0);
            // What the archive holds is then what was there before the damage.
            let repaired = offer.repairs.iter().any(|repair| repair.old == old);
            if seal != Some(held.sealed.seal.0) && !repaired {
                return Err(diverged(source, *base, "has sealed it with other content"));
            }
        }
        Piece::Tails(tails) => {
            if let Some(last) = tails.last().filter(|last| last.to == last.tail.to) {
                let found = fingerprint_at(source, &header, last.to)?;
                if found != Some(last.tail.fingerprint) {
                    return Err(diverged(source, *base, "has another last frame there"));
                }
            }
        }
        // Cut by a fence: its last frame is in nobody's entry.
        Piece::Sealed(_) => {}
    }
    Ok(())
}

/// The fingerprint of the frame that ends at `to`.
fn fingerprint_at(
    source: &mut dyn Source,
    header: &SegmentHeader,
    to: LogByte,
) -> Result<Option<crate::position::Fingerprint>> {
    let limit = header.file_byte(to.0);
    let (mut at, mut records, mut last) = (HEADER_BYTES, 0, None);
    while at < limit {
        let found = frames(source, header, at, limit, records, LOOK_BYTES)?;
        at += found.bytes.len() as u64;
        records = found.records;
        last = Some(found.fingerprint);
    }
    Ok(last)
}

fn diverged(source: &dyn Source, base: LogByte, what: &str) -> Error {
    Error::new(
        Kind::NotInHistory,
        format!(
            "the archive ends in the segment at log byte {base}, and {} {what}",
            source.place()
        ),
    )
    .in_file(&source.file(SegmentName(base)))
    .help(
        "nothing was published. If this directory was restored from an older copy, the archive \
         holds what it lost: follow the archive, or publish to another one",
    )
}
