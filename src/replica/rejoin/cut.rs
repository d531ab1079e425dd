//! The cut: what goes is kept, CONTROL says so, and then it goes.
//!
//! Called by `rejoin` once it is decided where. The order, so that a crash anywhere loses nothing:
//!
//! 1. the frames that go are copied to `diverged/…`, durable, the note last (`diverged`);
//! 2. CONTROL gets `cut_to` and the nonces of the epochs that have frames above it, and loses its clean
//!    end;
//! 3. `log::cut` does the rest, or does it at the next opening.
//!
//! Invariants:
//! - the cut is behind a whole frame of this copy, or nothing is changed;
//! - before 2 is durable nothing of the log has changed; after it nothing above the cut counts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::frame::{EpochStart, GaveUp};
use crate::fs::{File, Open};
use crate::log::cut;
use crate::position::{Epoch, LogByte, Offset};
use crate::replica::copy::Copy;
use crate::segment::{Footer, HEADER_BYTES, SegmentHeader, SegmentName, Tally, Window, walk};

use super::diverged::{self, Note, Part};
use super::fork::Parting;

/// What a rejoin took away.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejoined {
    /// The newest epoch that this copy and its source have in common.
    pub common: Epoch,
    /// Where this copy was cut.
    pub from: LogByte,
    /// The offset there.
    pub from_offset: Offset,
    /// Where it ended before.
    pub to: LogByte,
    /// The offset there.
    pub to_offset: Offset,
    /// Records that were cut.
    pub records: u64,
    /// Bytes of frames that were cut.
    pub bytes: u64,
    /// The time between the oldest and the newest record that were cut.
    pub span: Duration,
    /// Where they are kept; `None` when there was no frame among what was cut.
    pub kept: Option<PathBuf>,
}

/// A segment that holds something above the cut.
pub(super) struct Piece {
    pub(super) header: SegmentHeader,
    pub(super) page: Vec<u8>,
    pub(super) file: Arc<dyn File>,
    /// The first byte above the cut, and the byte behind its last frame.
    pub(super) from: u64,
    pub(super) to: u64,
    /// Records in it before that.
    pub(super) before: u32,
    pub(super) end_offset: Offset,
}

impl Piece {
    /// The first log byte above the cut.
    pub(super) fn start(&self) -> LogByte {
        LogByte(self.header.log_byte(self.from))
    }
}

/// What lies above a cut.
pub(super) struct Tail {
    pub(super) at: LogByte,
    pub(super) offset: Offset,
    pub(super) pieces: Vec<Piece>,
    /// Behind what stays: the cut, or the SEAL behind it.
    pub(super) stays: LogByte,
}

/// Finds what lies above the cut, and holds the cut against the frames.
pub(super) fn above(copy: &Copy, parting: &Parting) -> Result<Tail> {
    let segments = copy.layout.segments();
    let at = parting.at.max(copy.control.floor);
    let names = copy.fs.list(&segments).map_err(|e| Error::io("list", &segments, e))?;
    let mut tail = Tail { at, offset: copy.control.floor_offset, pieces: Vec::new(), stays: at };
    let mut found = at == copy.control.floor;
    for name in names.iter().filter_map(|name| SegmentName::parse(name)) {
        let path = name.path(&segments);
        let io = |e| Error::io("read", &path, e);
        let file = copy.fs.open(&path, Open::Read).map_err(io)?;
        let mut page = vec![0; 4096];
        file.read_exact_at(&mut page, 0).map_err(io)?;
        let header = SegmentHeader::decode(&page).map_err(|e| e.in_file(&path))?;
        let footer = Footer::read(&*file).map_err(|e| e.in_file(&path))?;
        let (to, end_offset) = match (&footer, &copy.active) {
            (Some(footer), _) => (footer.frames_end(), footer.end_offset),
            (None, Some(active)) if active.header.base == name.0 => {
                (active.tally.end, active.tally.end_offset(&active.header))
            }
            _ => continue,
        };
        if header.log_byte(to) < at.0 {
            continue;
        }
        let (mut from, mut before) = (HEADER_BYTES, 0);
        if header.base < at {
            from = header.file_byte(at.0);
            let records = end_offset.0 - header.base_offset.0;
            before = match from == to {
                true => u32::try_from(records).map_err(|_| no_frame_ends(copy, at))?,
                false => records_before(copy, &file, &header, from)?,
            };
            (tail.offset, found) = (header.base_offset.plus(u64::from(before)), true);
            if let Some(footer) = footer.filter(|_| from == to) {
                tail.stays = footer.end();
            }
        } else if header.base == at {
            (tail.offset, found) = (header.base_offset, true);
        }
        if from < to {
            tail.pieces.push(Piece { header, page, file, from, to, before, end_offset });
        }
    }
    let agreed = parting.offset.is_none_or(|offset| offset == tail.offset) || at > parting.at;
    match found && agreed {
        true => Ok(tail),
        false => Err(no_frame_ends(copy, at)),
    }
}

/// Records of a segment before `from`, which must be where a frame ends.
fn records_before(
    copy: &Copy,
    file: &Arc<dyn File>,
    header: &SegmentHeader,
    from: u64,
) -> Result<u32> {
    let path = SegmentName(header.base).path(&copy.layout.segments());
    let mut tally = Tally::default();
    let mut window = Window::file(Arc::clone(file));
    let end = walk(&mut window, header, from, &mut tally, |_, _| {})
        .map_err(|e| Error::io("read", &path, e))?;
    match end.fault {
        None if tally.end == from => Ok(tally.records),
        // A frame that reaches over the limit is cut off by it.
        _ => Err(no_frame_ends(copy, LogByte(header.log_byte(from)))
            .in_file(&path)
            .at_byte(end.byte)),
    }
}

fn no_frame_ends(copy: &Copy, at: LogByte) -> Error {
    Error::new(
        Kind::Corrupt,
        format!(
            "expected a frame of this copy to end at log byte {at}, where its source says that the two \
             histories part; found none"
        ),
    )
    .in_file(&copy.layout.root)
    .help(
        "nothing was changed; run `tidelog verify` on both directories, and rejoin from one that is whole",
    )
}

impl Tail {
    /// The records in it.
    pub(super) fn records(&self) -> u64 {
        let of = |piece: &Piece| {
            piece.end_offset.0 - piece.header.base_offset.0 - u64::from(piece.before)
        };
        self.pieces.iter().map(of).sum()
    }
}

/// Keeps what lies above the cut; what became of it. Nothing of the log changes.
pub(super) fn keep(copy: &Copy, parting: &Parting, tail: &Tail, why: &str) -> Result<Rejoined> {
    let end = copy.end();
    let mut rejoined = Rejoined {
        common: parting.common.epoch,
        from: tail.at,
        from_offset: tail.offset,
        to: end.log_byte,
        to_offset: end.offset,
        records: tail.records(),
        bytes: tail.pieces.iter().map(|piece| piece.to - piece.from).sum(),
        span: Duration::ZERO,
        kept: None,
    };
    let Some(first) = tail.pieces.first() else { return Ok(rejoined) };
    let mut epochs: Vec<(Epoch, LogByte)> = Vec::new();
    for piece in &tail.pieces {
        if epochs.last().is_none_or(|(epoch, _)| *epoch != piece.header.epoch) {
            epochs.push((piece.header.epoch, LogByte(piece.header.log_byte(piece.from))));
        }
    }
    let part = |piece: &Piece| Part {
        base: piece.header.base,
        from: piece.from,
        to: piece.to,
        before: piece.before,
    };
    let mut note = Note {
        log: copy.log,
        node: copy.node,
        epochs,
        from: LogByte(first.header.log_byte(first.from)),
        from_offset: tail.offset,
        to: end.log_byte,
        to_offset: end.offset,
        records: rejoined.records,
        bytes: rejoined.bytes,
        oldest: None,
        newest: None,
        time: copy.fs.now(),
        why: why.to_owned(),
        parts: tail.pieces.iter().map(part).collect(),
    };
    let dir = diverged::keep(&copy.fs, &copy.layout, &mut note, &tail.pieces)?;
    if let (Some(oldest), Some(newest)) = (note.oldest, note.newest) {
        let nanos = u64::try_from(newest.saturating_sub(oldest)).unwrap_or(0);
        rejoined.span = Duration::from_nanos(nanos);
    }
    rejoined.kept = Some(dir);
    Ok(rejoined)
}

/// Cuts; the caller has kept what goes.
pub(super) fn cut(copy: &mut Copy, tail: &Tail) -> Result<()> {
    let mut nonces: Vec<u64> = Vec::new();
    let newest = copy.end().epoch.nonce;
    for nonce in tail.pieces.iter().map(|piece| piece.header.epoch.nonce).chain([newest]) {
        if !nonces.contains(&nonce) {
            nonces.push(nonce);
        }
    }
    // The active segment is read anew by whoever opens the copy next.
    copy.active = None;
    let mut control = copy.control.clone();
    control.gave_up = given_up(copy, tail);
    (control.cut, control.clean) = (Some((tail.at, nonces)), None);
    control.write(&*copy.fs, &copy.layout)?;
    cut::finish(&*copy.fs, &copy.layout, &mut control)?;
    copy.control = control;
    Ok(())
}

/// What this node will have given up of epochs that it led once the tail is gone, the newest ones.
pub(super) fn given_up(copy: &Copy, tail: &Tail) -> Vec<GaveUp> {
    let mut all = copy.control.gave_up.clone();
    let mut now: Vec<GaveUp> = Vec::new();
    for piece in &tail.pieces {
        let epoch = piece.header.epoch;
        let led = copy.epochs.leader(epoch.nonce) == Some(copy.node);
        if led && now.last().is_none_or(|gone| gone.epoch != epoch) {
            now.push(GaveUp { epoch, from: piece.start().0 });
        }
    }
    // What lay below was here again until now, whatever went before.
    all.retain(|gone| now.iter().all(|newer| newer.epoch != gone.epoch));
    all.extend(now);
    all.split_off(all.len().saturating_sub(EpochStart::GAVE_UP))
}
