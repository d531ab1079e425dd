//! Rejoin: an old leader, or a follower with a longer tail, goes on with the new leader by itself.
//!
//! Called by the follower when it opens, before anything is read or applied; uses the copy, its source
//! and `log::cut`. `fork` finds where the histories part, `promised` what must not go, `diverged` keeps what
//! goes, `cut` takes it away, `demote` makes a leader's directory a follower's.
//!
//! ```text
//! here    |== shared ====|== tail ==|      ──► diverged/…, then cut
//! source  |== shared ====|== new epoch ==► ──► fetched like any other log
//! ```
//!
//! Invariants:
//! - nothing goes that was not kept first, and reported;
//! - what was committed under a mode with copies, and what a leader lost that it had shipped, is never cut
//!   unless an operator says so;
//! - a source that is merely behind is waited for; one that lacks what it had is refused;
//! - of the same epoch and place with other bytes, this copy's are set aside and fetched again, and the
//!   node counts for nothing meanwhile.

mod cut;
mod demote;
pub mod diverged;
mod fork;
mod promised;
#[cfg(test)]
mod tests;

use crate::error::{Error, Kind, Result};
use crate::frame::{EpochStart, GaveUp};
use crate::fs::Open;
use crate::log::files::Control;
use crate::log::scan::Beyond;
use crate::log::start::set_aside;
use crate::position::{Id, LogByte, Offset};
use crate::segment::{Footer, HEADER_BYTES, SegmentName};
use crate::ship::Source;

use super::bootstrap::{another_may_do, standing};
use super::copy::Copy;
use super::pull;
use super::recover::{FollowerReport, recover};

pub use cut::Rejoined;
pub use demote::demote;
pub(super) use demote::turn;

use cut::{Piece, Tail};
use fork::{Fork, Parting};
use promised::promised;

/// A cut may uncover damage, and that what parts before it; more rounds than this are somebody's play.
const ROUNDS: usize = 4;

/// What the copy comes to.
pub(super) struct Met {
    pub(super) copy: Copy,
    pub(super) report: FollowerReport,
    /// All of it went: it is to begin with a snapshot.
    pub(super) anew: bool,
}

/// Brings the copy to where its source's history and its own are one. Nothing is done when the source is
/// away.
pub(super) fn meet(
    copy: Copy,
    report: FollowerReport,
    source: &mut dyn Source,
    accept_loss: bool,
) -> Result<Met> {
    let mut met = Met { copy, report, anew: false };
    for _ in 0..ROUNDS {
        let copy = &mut met.copy;
        if !parts(copy, source)? {
            break;
        }
        match fork::find(copy, source) {
            Ok(Fork::Parts(parting)) => {
                let tail = match check(copy, source, &parting, accept_loss) {
                    Err(e) if e.kind() == Kind::Corrupt => match refetch(copy, source)? {
                        Some(finding) => {
                            met.report.findings.push(finding);
                            met = again(met)?;
                            continue;
                        }
                        None => return Err(e),
                    },
                    tail => tail?,
                };
                let why = why(copy, source, &parting);
                let rejoined = cut::keep(copy, &parting, &tail, &why)?;
                // All of it is another history, and this copy does not reach back to where they part.
                met.anew = copy.control.floor > parting.at;
                match met.anew {
                    // Nothing has gone yet: whoever takes it away writes that down.
                    true => copy.control.gave_up = cut::given_up(copy, &tail),
                    false => cut::cut(copy, &tail)?,
                }
                met.report.findings.push(told(&rejoined, &why));
                met.report.rejoined = Some(rejoined);
                if met.anew {
                    break;
                }
            }
            // It may catch up; pulling says so.
            Ok(Fork::Shorter { leads: false, .. }) => break,
            Ok(Fork::Shorter { .. }) => return Err(shorter(copy, source)),
            Ok(Fork::Same) => match refetch(copy, source)? {
                Some(finding) => met.report.findings.push(finding),
                None => match sealed_early(copy, source)? {
                    Some(tail) => {
                        let finding = format!(
                            "{} goes on in the segment that was sealed here at log byte {}: it grows again",
                            source.place(),
                            tail.at
                        );
                        cut::cut(copy, &tail)?;
                        met.report.findings.push(finding);
                    }
                    None => break,
                },
            },
            Err(e) if e.kind() == Kind::Io || e.kind() == Kind::NotLeader => break,
            Err(e) => return Err(e),
        }
        met = again(met)?;
    }
    Ok(met)
}

/// Reads the directory again after it was changed.
fn again(met: Met) -> Result<Met> {
    let Met { copy, report, anew } = met;
    let Copy { fs, layout, node, .. } = copy;
    let control = Control::need(&*fs, &layout)?;
    let (copy, mut found) = recover(fs, layout, node, control)?;
    found.findings.splice(0..0, report.findings);
    found.bytes_cut += report.bytes_cut;
    found.rejoined = report.rejoined;
    Ok(Met { copy, report: found, anew })
}

/// Whether the source says that this copy's last frame is another one there, or shows it.
fn parts(copy: &mut Copy, source: &mut dyn Source) -> Result<bool> {
    let compared = match source.look(&standing(copy)) {
        Ok(offer) => pull::compare(copy, source, &offer),
        Err(e) => Err(e),
    };
    match compared {
        Err(e) if e.kind() == Kind::Diverged => Ok(true),
        // It has dropped the bytes; its epochs say it.
        Ok(false) => Ok(matches!(fork::find(copy, source), Ok(Fork::Parts(_)))),
        // Copying says it, if it is still so.
        _ => Ok(false),
    }
}

/// What a follower that runs says of a source whose history is another: nothing is changed.
pub(super) fn judge(
    copy: &Copy,
    source: &mut dyn Source,
    accept_loss: bool,
    diverged: Error,
) -> Error {
    match fork::find(copy, source) {
        Ok(Fork::Parts(parting)) => match check(copy, source, &parting, accept_loss) {
            Err(e) if e.kind() == Kind::CommittedDataLoss => e,
            _ => diverged,
        },
        Ok(Fork::Shorter { leads: true, .. }) => shorter(copy, source),
        Ok(Fork::Shorter { at, offset, .. }) => behind(copy, source, at, offset.0),
        Err(e) if e.kind() == Kind::NotInHistory => e,
        Ok(Fork::Same) | Err(_) => diverged,
    }
}

/// Refuses a cut that an operator must decide on; what would go.
fn check(
    copy: &Copy,
    source: &mut dyn Source,
    parting: &Parting,
    accept_loss: bool,
) -> Result<Tail> {
    let place = source.place();
    let halt = |at: Offset, what: String| {
        Err(Error::new(Kind::CommittedDataLoss, what)
            .in_file(&copy.layout.root)
            .at_offset(at.0)
            .help(
                "nothing was changed. Bring back the leader that has them, or promote this copy; only if they \
                 are to be given up, say so (`--accept-loss`): they are kept aside",
            ))
    };
    let lost = |node: Id, goes: String| {
        format!(
            "expected {place} to hold what node {node} had durable and shipped, found that it began the next \
             epoch without {goes}: it was restored from an older copy, or its disk lost them"
        )
    };
    let tail = match cut::above(copy, parting) {
        // It wrote something else in their place, in the same epoch even.
        Err(e)
            if e.kind() == Kind::Corrupt
                && begun_by(parting) == Some(parting.common.node)
                && !accept_loss =>
        {
            let goes = format!("what follows log byte {} here ({})", parting.at, e.message());
            return halt(copy.end().offset, lost(parting.common.node, goes));
        }
        tail => tail?,
    };
    if accept_loss {
        return Ok(tail);
    }
    let (records, at) = (tail.records(), tail.offset);
    let goes = format!("{records} records behind offset {at} (log byte {})", tail.at);
    let committed = copy.committed;
    if promised(copy) > tail.stays {
        let what = format!(
            "expected {place} to hold everything up to offset {}, which was committed under the mode of \
             its set, found a history that lacks {goes}",
            committed.1
        );
        return halt(at, what);
    }
    // Who gave them up as it rejoined, and then led again, has lost nothing.
    let lacks = |start: &EpochStart| {
        let wrote =
            |piece: &Piece| copy.epochs.leader(piece.header.epoch.nonce) == Some(start.node);
        let gave_up = |piece: &Piece| {
            let its = |gone: &GaveUp| gone.epoch == piece.header.epoch;
            start.gave_up.iter().any(|gone| its(gone) && gone.from <= piece.start().0)
        };
        tail.pieces.iter().any(|piece| wrote(piece) && !gave_up(piece))
    };
    match &parting.next {
        Some(start) if records > 0 && lacks(start) => halt(at, lost(start.node, goes)),
        _ => Ok(tail),
    }
}

fn begun_by(parting: &Parting) -> Option<Id> {
    parting.next.as_ref().map(|start| start.node)
}

fn why(copy: &Copy, source: &dyn Source, parting: &Parting) -> String {
    let end = copy.end();
    let by = begun_by(parting).map_or_else(String::new, |node| format!(", begun by node {node}"));
    format!(
        "epoch {} ends at log byte {} at {}{by}; this copy went on to log byte {} of epoch {}",
        parting.common.epoch,
        parting.at,
        source.place(),
        end.log_byte,
        end.epoch
    )
}

fn told(rejoined: &Rejoined, why: &str) -> String {
    let kept = match &rejoined.kept {
        Some(dir) => format!("kept in {}", dir.display()),
        None => "no frame was among them".to_owned(),
    };
    format!(
        "rejoined: cut {} records ({} bytes, {:.3} s of them) behind offset {}; {kept}. {why}",
        rejoined.records,
        rejoined.bytes,
        rejoined.span.as_secs_f64(),
        rejoined.from_offset
    )
}

/// A leader that ends earlier in the same epoch: what it appends next would take places that are taken.
fn shorter(copy: &Copy, source: &dyn Source) -> Error {
    let end = copy.end();
    Error::new(
        Kind::CommittedDataLoss,
        format!(
            "expected {} to hold everything up to offset {} of epoch {}, which it had shipped, found that it \
             ends earlier in the same epoch: it was restored from an older copy, or its disk lost it",
            source.place(),
            end.offset,
            end.epoch
        ),
    )
    .in_file(&copy.layout.root)
    .at_offset(end.offset.0)
    .help(
        "nothing was changed: this directory holds what it lost. Let this copy lead instead, or restore the \
         leader from it; a leader that is to go on without must begin a new epoch first",
    )
}

fn behind(copy: &Copy, source: &dyn Source, at: LogByte, offset: u64) -> Error {
    Error::new(
        Kind::NotFound,
        format!(
            "expected {} to reach log byte {}, where this copy ends, found that it ends at log byte {at} \
             (offset {offset}): it is behind",
            source.place(),
            copy.end().log_byte
        ),
    )
    .in_file(&copy.layout.root)
    .help("it is waited for; follow the leader, or one that is as far")
}

/// A candidate that had sealed what it inherited, and never began its epoch, has a SEAL where the others have
/// more frames: where it is to be cut then, with nothing above that.
fn sealed_early(copy: &Copy, source: &mut dyn Source) -> Result<Option<Tail>> {
    let (Some(mine), None, Some(newest)) = (copy.sealed, &copy.active, copy.epochs.0.last()) else {
        return Ok(None);
    };
    let theirs = source.segment(SegmentName(mine.base))?;
    if theirs.footer.is_some_and(|footer| footer.frames_end() <= mine.frames_end()) {
        return Ok(None);
    }
    let at = LogByte(mine.header().log_byte(mine.frames_end()));
    let parting = Parting { common: *newest, at, offset: None, next: None };
    cut::above(copy, &parting).map(Some)
}

const OTHER_BYTES: &str =
    "the same epoch and place as at the source, with other bytes: fetched again";

/// Sets aside the first segment that differs from the source's and all behind it; says so. `None` when no
/// difference is found.
fn refetch(copy: &mut Copy, source: &mut dyn Source) -> Result<Option<String>> {
    let segments = copy.layout.segments();
    let names = copy.fs.list(&segments).map_err(|e| Error::io("list", &segments, e))?;
    let names: Vec<SegmentName> = names.iter().filter_map(|n| SegmentName::parse(n)).collect();
    let mut first = None;
    // The seals form a chain: below one that is the same everything is.
    for (i, name) in names.iter().enumerate().rev() {
        match same(copy, source, *name) {
            Ok(true) => break,
            Ok(false) => first = Some(i),
            // The source need not have one that begins there.
            Err(e) if another_may_do(e.kind()) => {}
            Err(e) => return Err(e),
        }
    }
    let Some(first) = first else { return Ok(None) };
    let end = copy.end();
    let mut beyond = Vec::new();
    for name in &names[first..] {
        let path = name.path(&segments);
        let io = |e| Error::io("read", &path, e);
        let bytes = copy.fs.open(&path, Open::Read).map_err(io)?.len().map_err(io)?;
        beyond.push(Beyond { path, from: 0, bytes });
    }
    let mut control = copy.control.clone();
    control.lost_below = control.lost_below.max(Some(end.log_byte));
    control.clean = None;
    control.write(&*copy.fs, &copy.layout)?;
    copy.control = control;
    copy.active = None;
    set_aside(&*copy.fs, &copy.layout, &mut beyond, OTHER_BYTES)?;
    let from = names[first].0;
    Ok(Some(format!(
        "log bytes {from} to {} of epoch {} are other bytes at {}: somebody's are damaged. This copy's are \
         in quarantine, and it acknowledges nothing until they are here again",
        end.log_byte,
        end.epoch,
        source.place()
    )))
}

/// Whether a segment is the same at the source, as far as it goes here; the source's frames are held
/// against their checksums, so that damage there is not taken for damage here.
fn same(copy: &Copy, source: &mut dyn Source, name: SegmentName) -> Result<bool> {
    let path = name.path(&copy.layout.segments());
    let io = |e| Error::io("read", &path, e);
    let theirs = source.segment(name)?;
    let file = copy.fs.open(&path, Open::Read).map_err(io)?;
    let mine = Footer::read(&*file).map_err(|e| e.in_file(&path))?;
    if let (Some(mine), Some(theirs)) = (&mine, &theirs.footer)
        && mine.hash == theirs.hash
    {
        return Ok(true);
    }
    let end = match (&mine, &copy.active) {
        (Some(footer), _) => footer.frames_end(),
        (None, Some(active)) => active.tally.end,
        (None, None) => return Ok(true),
    };
    let end = theirs.footer.map_or(end, |footer| footer.frames_end().min(end));
    let (mut at, mut records) = (HEADER_BYTES, 0);
    while at < end {
        let frames = match super::fetch::fetch(source, &theirs.header, at, end, records, Vec::new())
        {
            // It goes no further; so far it is the same.
            Err(e) if e.kind() == Kind::NotFound => break,
            frames => frames?,
        };
        let mut bytes = vec![0; frames.bytes().len()];
        file.read_exact_at(&mut bytes, at).map_err(io)?;
        if bytes != frames.bytes() {
            return Ok(false);
        }
        let mut tally = crate::segment::Tally { end: at, records, ..Default::default() };
        super::copy::note(&mut tally, &theirs.header, frames.bytes());
        (at, records) = (tally.end, tally.records);
    }
    Ok(true)
}

/// Whether the table can be made of what a cut has left: from the log's beginning, or from a checkpoint.
pub(super) fn table_is_lost(copy: &Copy) -> bool {
    let end = copy.end();
    copy.control.floor > LogByte(0)
        && !crate::log::files::Applied::read_all(&*copy.fs, &copy.layout, copy.log).iter().any(
            |applied| applied.end <= end.log_byte && applied.offset >= copy.control.floor_offset,
        )
}
