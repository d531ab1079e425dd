//! Restore from what a follower pulls from: an archive, a node, another directory.
//!
//! ```text
//! source       |== segment ==|== segment ==|== segment ==| …
//! snapshot          ▲ position           ▲ target
//! restored     |== segment ==|== frames =|                     no longer a follower
//! ```
//!
//! Called by users. A restore is a follower that is shown a source which ends at the target, catches up,
//! and then lets go. So everything that a follower checks is checked, and what was interrupted goes on
//! where it stopped. Invariants:
//! - a batch is in it whole or not at all;
//! - until it is complete the directory is a follower's, and takes no writes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::frame::{Frame, HEADER_BYTES as FRAME_HEADER, Header};
use crate::fs::Fs;
use crate::log::files::{Control, Layout, LogFile};
use crate::log::{Options, open};
use crate::position::{LogByte, Offset};
use crate::segment::{Footer, SegmentHeader, SegmentName, Tally};
use crate::ship::{Offer, Report, Shared, Shipped, Source};
use crate::table::{Beginning, RestoreAt, Restored, Table, unmake};

use super::Follower;
use super::fetch::fetch;

/// Before the place of the source, in the CONTROL of a directory that is being restored.
const RESTORES: &str = "restore of ";

/// Makes `to` a copy of the log at `source` as it was at `at`: the newest snapshot at or below that,
/// and the log from there. It is the same log, cut there; whoever writes to it begins a new epoch.
/// Interrupted, it goes on when it is called again.
///
/// [`Kind::Gone`] when no snapshot and no log reaches there.
pub fn restore_from(
    options: Options,
    source: Box<dyn Source>,
    to: &Path,
    at: RestoreAt,
) -> Result<Restored> {
    let mut source = Until { inner: source, end: None };
    let fs = std::sync::Arc::clone(&options.fs);
    let layout = Layout::new(to);
    check_target(&*fs, &layout)?;
    source.end = end(&mut *source.inner, at)?;
    let table = Table::options().begin(Beginning::Snapshot);
    let end = source.end;
    let mut follower = Follower::open_at(options.clone(), table, to, Box::new(source), at)?;
    if end.is_some_and(|(end, _)| follower.position().log_byte > end) {
        // An earlier try was on its way to a later point: it is begun anew, with the runs it has.
        let source = follower.into_source();
        let lock = open::take_lock(&*fs, &layout)?;
        unmake(&*fs, &layout, None)?;
        drop(lock);
        follower = Follower::open_at(options, table, to, source, at)?;
    }
    let snapshot = follower.report().snapshot.map(|name| name.to_string());
    follower.catch_up()?;
    let log = follower.log();
    let restored = Restored::new(
        log.id(),
        snapshot,
        follower.end(),
        log.segments().len(),
        log.segments().iter().map(|segment| segment.data_bytes.unwrap_or(0)).sum(),
    );
    drop(log);
    follower.close()?;
    let _lock = open::take_lock(&*fs, &layout)?;
    let mut control = Control::need(&*fs, &layout)?;
    control.follows = None;
    control.write(&*fs, &layout)?;
    Ok(restored)
}

/// Refuses a directory that is a log of somebody's; one that an earlier try made will do.
fn check_target(fs: &dyn Fs, layout: &Layout) -> Result<()> {
    match LogFile::read(fs, layout) {
        Ok(_) => {}
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::NotALog) => return Ok(()),
        Err(e) => return Err(e),
    }
    let control = Control::read(fs, layout)?.unwrap_or_default();
    match control.follows.is_some_and(|whom| whom.starts_with(RESTORES)) {
        true => Ok(()),
        false => Err(Error::new(Kind::AlreadyExists, "expected no log there yet, found one")
            .in_file(&layout.root)
            .help("name a new or empty directory")),
    }
}

/// Where a source is to end; `None` for where it does.
fn end(source: &mut dyn Source, at: RestoreAt) -> Result<Option<(LogByte, Offset)>> {
    if at == RestoreAt::End {
        return Ok(None);
    }
    // As far back as the source goes: what is looked at are footers, and the frames of one segment.
    let offer = source.look(&Report::default())?;
    if let RestoreAt::Offset(offset) = at
        && offset > offer.committed_offset
    {
        return Err(Error::new(
            Kind::InvalidInput,
            format!("expected an offset up to {}, found {offset}", offer.committed_offset),
        ));
    }
    let mut end = (offer.floor, offer.floor_offset);
    for (i, name) in offer.segments.iter().enumerate() {
        let shipped = source.segment(*name)?;
        if let Some(footer) = shipped.footer.as_ref().filter(|footer| is_below(footer, at)) {
            end = (footer.end(), footer.end_offset);
            continue;
        }
        let next = offer.segments.get(i + 1);
        if next.is_none() && shipped.header.base >= offer.durable {
            break;
        }
        return cut(source, &offer, *name, &shipped, at).map(Some);
    }
    if let RestoreAt::Offset(offset) = at
        && offset < end.1
    {
        return Err(Error::new(
            Kind::Gone,
            format!("expected the log at offset {offset}, found that it starts at {}", end.1),
        )
        .in_file(Path::new(&source.place()))
        .help("name a source that holds the log from there, or another point"));
    }
    Ok(Some(end))
}

fn is_below(footer: &Footer, at: RestoreAt) -> bool {
    match at {
        RestoreAt::End => true,
        RestoreAt::Offset(offset) => footer.end_offset <= offset,
        RestoreAt::Time(time) => footer.max_timestamp < time,
    }
}

/// The end of the last batch of a segment that lies before `at` whole.
fn cut(
    source: &mut dyn Source,
    offer: &Offer,
    name: SegmentName,
    shipped: &Shipped,
    at: RestoreAt,
) -> Result<(LogByte, Offset)> {
    let header: SegmentHeader = shipped.header;
    let after = offer.segments.partition_point(|other| *other <= name);
    let roll = offer
        .segments
        .get(after)
        .map_or(u64::MAX, |next| next.0.0.saturating_sub(crate::segment::SEAL_BYTES));
    let limit = match &shipped.footer {
        Some(footer) => footer.frames_end(),
        None => header.file_byte(offer.durable.0.min(roll)),
    };
    let mut tally = Tally::default();
    let mut buffer = Vec::new();
    let mut end = (header.base, header.base_offset);
    while tally.end < limit {
        let frames = fetch(source, &header, tally.end, limit, tally.records, buffer)?;
        let mut byte = 0;
        while byte < frames.len {
            let head = frames.bytes()[byte..].first_chunk::<FRAME_HEADER>().expect("whole frames");
            let head = Header::staged(head);
            let frame = Frame::trusted(&frames.bytes()[byte..], head).expect("whole frames");
            tally.note(&frame, header.base_offset).expect("checked when they were fetched");
            byte += head.stride();
            let beyond = match at {
                RestoreAt::End => false,
                RestoreAt::Offset(offset) => tally.end_offset(&header) > offset,
                RestoreAt::Time(time) => tally.max_timestamp >= time,
            };
            if beyond {
                return Ok(end);
            }
            end = (LogByte(header.log_byte(tally.end)), tally.end_offset(&header));
        }
        buffer = frames.buffer;
    }
    Ok(end)
}

/// A source that ends before it does.
#[derive(Debug)]
struct Until {
    inner: Box<dyn Source>,
    end: Option<(LogByte, Offset)>,
}

impl Source for Until {
    fn place(&self) -> String {
        format!("{RESTORES}{}", self.inner.place())
    }

    fn inner(&self) -> Option<&dyn Source> {
        Some(&*self.inner)
    }

    fn inner_mut(&mut self) -> Option<&mut dyn Source> {
        Some(&mut *self.inner)
    }

    fn file(&self, segment: SegmentName) -> PathBuf {
        self.inner.file(segment)
    }

    fn look(&mut self, report: &Report) -> Result<Offer> {
        let mut offer = self.inner.look(report)?;
        if let Some((end, offset)) = self.end
            && end < offer.durable
        {
            (offer.durable, offer.durable_offset) = (end, offset);
            if end < offer.committed {
                (offer.committed, offer.committed_offset) = (end, offset);
            }
            offer.segments.retain(|name| name.0 < end);
        }
        Ok(offer)
    }

    /// Not what the other one says: it ends behind this one's end.
    fn shared(&mut self, report: &Report) -> Result<Shared> {
        let offer = self.look(&Report { node: report.node, ..Report::default() })?;
        Shared::of(&offer, report.durable.epoch.number, |name| Ok(self.segment(name)?.header))
    }

    fn segment(&mut self, segment: SegmentName) -> Result<Shipped> {
        let shipped = self.inner.segment(segment)?;
        let whole = |footer: &Footer| self.end.is_none_or(|(end, _)| footer.end() <= end);
        Ok(Shipped { footer: shipped.footer.filter(whole), ..shipped })
    }

    /// What lies behind the end is never asked for: `look` says where that is.
    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
        self.inner.read(segment, byte, buf)
    }

    fn wait(&mut self, report: &Report, timeout: Duration) {
        self.inner.wait(report, timeout);
    }
}
