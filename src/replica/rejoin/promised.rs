//! Up to where what is committed here was promised to outlive the node that committed it.
//!
//! Called by `rejoin` before it cuts. Each set rules what lies between its frame and the next one's, that included;
//! what was committed where none rules that asks for copies was promised by nobody.
//!
//! Under `semi` a leader whose members do not answer commits alone; before it acknowledges anything so, its CONTROL has
//! a mark, and its log a `degraded` frame that names the same log byte, durably. Who leads knows by the mark, who
//! copied from it by the frame:
//!
//! ```text
//!                  mark                            committed
//! |== replicated ====|== appended ==|degraded|== alone ==|        promised: up to the mark
//! |== replicated ====|== appended ==|  …                          unknown: all that is committed counts
//! ```
//!
//! Invariants:
//! - only a spell of the epoch by which the last committed frame was committed counts: an epoch's start is committed
//!   under its own rule, with all that lies before it;
//! - one that has ended counts no more: its end is said once members hold all of it;
//! - what cannot be read, or found out, was promised.

use std::io;

use crate::frame::{Degraded, FrameKind, Mode};
use crate::fs::Open;
use crate::log::files::SetLine;
use crate::position::{Epoch, LogByte};
use crate::replica::copy::Copy;
use crate::segment::{Footer, SegmentHeader, SegmentName, Tally, Window, walk};

/// Nothing committed below it may go without a word from an operator.
pub(super) fn promised(copy: &Copy) -> LogByte {
    let mut end = copy.committed.0;
    let lines = copy.control.past.iter().chain(&copy.control.sets);
    // One that is not known to be committed rules together with the one before it, and promises nothing more.
    let known: Vec<&SetLine> = lines.filter(|line| line.there && line.end <= end).collect();
    for line in known.into_iter().rev() {
        let until = match line.set.mode {
            Mode::Semi { .. } => replicated(copy, end),
            mode if mode.holds_commits() => end,
            _ => LogByte(0),
        };
        // Its own frame was committed under it, too, with all that lies before.
        if until >= line.end {
            return until;
        }
        end = line.end;
    }
    LogByte(0)
}

/// Up to where it is more than one disk that has what was committed below `end` under `semi`.
fn replicated(copy: &Copy, end: LogByte) -> LogByte {
    // By whom it was committed: the newest epoch that has something below.
    let Some(by) = copy.epochs.0.iter().rev().find(|entry| entry.start < copy.committed.0) else {
        return end;
    };
    let own = copy.control.degraded.filter(|_| by.node == copy.node);
    let told = spell(copy, by.epoch).ok().flatten();
    own.into_iter().chain(told).fold(end, LogByte::min)
}

/// From where on the spell lasts that an epoch's frames here speak of last.
fn spell(copy: &Copy, epoch: Epoch) -> io::Result<Option<LogByte>> {
    let segments = copy.layout.segments();
    let names = copy.fs.list(&segments)?;
    for name in names.iter().filter_map(|name| SegmentName::parse(name)).rev() {
        let file = copy.fs.open(&name.path(&segments), Open::Read)?;
        let mut page = vec![0; 4096];
        file.read_exact_at(&mut page, 0)?;
        let header = SegmentHeader::decode(&page).map_err(io::Error::other)?;
        if header.epoch.number < epoch.number {
            break;
        }
        if header.epoch != epoch {
            continue;
        }
        let footer = Footer::read(&*file).map_err(io::Error::other)?;
        let Some(end) = footer
            .map(|footer| footer.frames_end())
            .or_else(|| copy.active.as_ref().map(|active| active.tally.end))
        else {
            break;
        };
        let mut newest = None;
        let walked =
            walk(&mut Window::file(file), &header, end, &mut Tally::default(), |frame, _| {
                if frame.header.kind == FrameKind::Degraded {
                    newest = Degraded::decode(frame.body);
                }
            })?;
        if walked.fault.is_some() {
            break;
        }
        if let Some(newest) = newest {
            return Ok(newest.begins.then_some(newest.at));
        }
    }
    Ok(None)
}
