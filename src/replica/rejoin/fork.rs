//! Where this copy's history and its source's part.
//!
//! Called by `rejoin` when the two were found to differ. An epoch, number and nonce, has one writer: two
//! histories that have it are the same up to where the shorter of the two ends it. So the newest epoch that
//! both have is looked for, by asking for ever lower numbers, and the end is compared, never this node's
//! own high watermark or what it knows to be committed.
//!
//! ```text
//! here    |== e1 ==|== e2 ======================|== e4 ==|
//! source  |== e1 ==|== e2 ===========|== e5 ====|             fork: where e2 ends there, before its SEAL
//! ```

use crate::error::{Error, Kind, Result};
use crate::frame::{EpochStart, Frame, FrameKind};
use crate::log::files::EpochEntry;
use crate::position::{Epoch, LogByte, Offset, Position};
use crate::replica::bootstrap::standing;
use crate::replica::copy::{Copy, before_seal};
use crate::segment::{HEADER_BYTES, SegmentName};
use crate::ship::{Report, Shared, Source};

/// An `epoch_start` frame is at most about so large.
const START_BYTES: usize = 64 << 10;

/// How two histories differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fork {
    /// Frames here go on, behind the newest epoch that both have, where the source's do not.
    Parts(Parting),
    /// The source ends earlier in an epoch that goes on here, and knows no later one.
    Shorter {
        common: EpochEntry,
        at: LogByte,
        offset: Offset,
        /// Whether it is, or says that it is, a leader.
        leads: bool,
    },
    /// The same epoch up to here: with other bytes, somebody's are damaged.
    Same,
}

/// The end of what both have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parting {
    /// The newest epoch that both have, and who led it.
    pub(super) common: EpochEntry,
    /// Behind its last frame that both have.
    pub(super) at: LogByte,
    /// The offset there, if the source said it.
    pub(super) offset: Option<Offset>,
    /// What the epoch that follows there says of itself, if that can still be read.
    pub(super) next: Option<EpochStart>,
}

/// Looks for it.
pub(super) fn find(copy: &Copy, source: &mut dyn Source) -> Result<Fork> {
    let fork = compare(copy, source)?;
    let Fork::Shorter { .. } = &fork else { return Ok(fork) };
    let offer = source.look(&Report { node: Some(copy.node), ..Report::default() })?;
    // Who leads says how old its word may be. Who led and follows again may be behind.
    if offer.stale.is_none() || !offer.upstream.is_empty() {
        return Ok(fork);
    }
    // It may lead since it was asked: then it has begun an epoch, and says where this one ends.
    Ok(match compare(copy, source)? {
        Fork::Shorter { common, at, offset, .. } => {
            Fork::Shorter { common, at, offset, leads: true }
        }
        other => other,
    })
}

/// Where they part, by what the source says of their epochs alone: not whether it leads.
fn compare(copy: &Copy, source: &mut dyn Source) -> Result<Fork> {
    let end = copy.end();
    let ours: Vec<EpochEntry> =
        copy.epochs.0.iter().filter(|entry| entry.start < end.log_byte).copied().collect();
    let newest = ours.last().map_or(end.epoch.number, |entry| entry.epoch.number);
    let (i, shared) = common(copy, source, &ours, newest)?;
    let next = ours.get(i + 1);
    // Behind its last frame, before the SEAL.
    let here = match (next, &copy.active, copy.sealed) {
        (Some(next), ..) => before_seal(next.start),
        (None, None, Some(_)) => before_seal(end.log_byte),
        (None, ..) => end.log_byte,
    };
    let there = match shared.ended {
        true => before_seal(shared.end),
        false => shared.end,
    };
    let common = ours[i];
    if there < here && !shared.ended {
        return Ok(Fork::Shorter { common, at: there, offset: shared.end_offset, leads: false });
    }
    if there >= here && next.is_none() {
        return Ok(Fork::Same);
    }
    let next = shared.ended.then(|| epoch_start(source, shared.end)).flatten();
    let offset = (there <= here).then_some(shared.end_offset);
    Ok(Fork::Parts(Parting { common, at: there.min(here), offset, next }))
}

/// The newest of `ours` that the source has, too, and how it says that it ends there.
fn common(
    copy: &Copy,
    source: &mut dyn Source,
    ours: &[EpochEntry],
    newest: u64,
) -> Result<(usize, Shared)> {
    let mut number = newest;
    loop {
        let mut report = standing(copy);
        report.durable =
            Position { epoch: Epoch { number, ..report.durable.epoch }, ..report.durable };
        let shared = source.shared(&report)?;
        if let Some(i) = ours.iter().position(|entry| entry.epoch == shared.epoch) {
            return Ok((i, shared));
        }
        // Of the same number with another nonce it is another epoch.
        let lower = ours.iter().map(|entry| entry.epoch.number);
        match lower.filter(|n| *n < shared.epoch.number.min(number)).max() {
            Some(lower) => number = lower,
            None => return Err(nothing_in_common(copy, &source.place())),
        }
    }
}

fn nothing_in_common(copy: &Copy, place: &str) -> Error {
    let end = copy.end();
    Error::new(
        Kind::NotInHistory,
        format!(
            "this copy ends in epoch {}, and {place} knows none of the epochs that are here: the two \
             histories have nothing in common",
            end.epoch
        ),
    )
    .in_file(&copy.layout.root)
    .at_offset(end.offset.0)
    .help("nothing was changed; follow that source in a directory of its own, or name another one")
}

/// What the epoch says of itself whose first segment starts at `base`.
fn epoch_start(source: &mut dyn Source, base: LogByte) -> Option<EpochStart> {
    let name = SegmentName(base);
    let header = source.segment(name).ok()?.header;
    let mut bytes = vec![0; START_BYTES];
    let read = source.read(name, HEADER_BYTES, &mut bytes).ok()?;
    let limit = HEADER_BYTES + read as u64;
    let frame = Frame::decode(&bytes[..read], HEADER_BYTES, limit, header.seed()).ok()?;
    let start = match frame.header.kind {
        FrameKind::EpochStart => EpochStart::decode(frame.body)?,
        _ => return None,
    };
    (start.epoch == header.epoch).then_some(start)
}
