//! How segment files travel: where a follower pulls them from.
//!
//! A [`Source`] says what there is and hands out bytes; it decides nothing. Called by `replica`,
//! which checks every byte that arrives: frame checksums, contiguity, links between segments,
//! epochs, and the seal hash of whole files. Uses `segment` for names and headers.
//!
//! Invariants:
//! - nothing above [`Offer::durable`] is ever copied: what the leader may still lose is not spread;
//! - a source that stands before another one passes on all that it does not do itself ([`Source::inner`]);
//! - a source is only read, but for the notice that a follower with a name leaves in a directory
//!   (`notice`); what it says may be wrong, out of date or hostile.

pub mod archive;
mod chain;
mod directory;
mod evidence;
#[cfg(feature = "client")]
mod http;
#[cfg(feature = "wire")]
mod led;
#[cfg(feature = "wire")]
mod notice;
#[cfg(feature = "wire")]
pub mod protocol;
#[cfg(feature = "wire")]
pub mod range;
#[cfg(feature = "wire")]
mod remote;
mod report;
#[cfg(feature = "wire")]
pub mod shelf;
#[cfg(test)]
mod tests;

pub use chain::{Chain, LinkState};
pub use directory::Directory;
#[cfg(feature = "client")]
pub use http::{Client, Credentials, Http, HttpWire, Reply};
#[cfg(feature = "client")]
pub(crate) use http::{Unanswered, answered};
#[cfg(feature = "wire")]
pub use led::{LeaderAt, Led};
#[cfg(feature = "wire")]
pub use notice::Notice;
#[cfg(feature = "wire")]
pub use remote::{Range, Remote, Wire};
pub use report::{LastFrame, Report};

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::log::files::Repaired;
use crate::position::{Epoch, Id, LogByte, Offset};
use crate::segment::{Footer, SegmentHeader, SegmentName};
use crate::table::{OpenSnapshot, RunId, SnapshotName};

/// What to do about two histories that part.
pub(crate) const DIVERGED: &str = "nothing was changed; opened again, this copy keeps what differs \
                                   aside, in diverged/, and goes on with the source";

/// Where segment files are pulled from: a leader, or whoever has a copy.
pub trait Source: Debug + Send {
    /// What it is called: by people, in errors, and in the follower's CONTROL.
    fn place(&self) -> String;

    /// The source that this one stands before, if it does: what it does not do itself is done by that one.
    fn inner(&self) -> Option<&dyn Source> {
        None
    }

    /// The same, to be asked.
    fn inner_mut(&mut self) -> Option<&mut dyn Source> {
        None
    }

    /// A segment's name there, for errors.
    fn file(&self, segment: SegmentName) -> PathBuf;

    /// What there is now, as asked by a follower that is as far as `report` says.
    fn look(&mut self, report: &Report) -> Result<Offer>;

    /// The newest epoch in its history that is numbered at or below the one of `report`'s durable
    /// position, and where it ends there: how two histories that have parted find where. What was dropped
    /// there need not be known any more.
    fn shared(&mut self, report: &Report) -> Result<Shared> {
        match self.inner_mut() {
            Some(inner) => inner.shared(report),
            None => {
                let offer = self.look(&Report { node: report.node, ..Report::default() })?;
                Shared::of(&offer, report.durable.epoch.number, |name| {
                    Ok(self.segment(name)?.header)
                })
            }
        }
    }

    /// What one segment says of itself. Not found, when retention was quicker.
    fn segment(&mut self, segment: SegmentName) -> Result<Shipped>;

    /// Reads a segment's file at `byte`; fewer bytes than asked for mean the file's end.
    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize>;

    /// Snapshots of the table that can be had there, oldest first. Asking may make one.
    fn snapshots(&mut self) -> Result<Vec<SnapshotOffer>> {
        self.inner_mut().map_or_else(|| Ok(Vec::new()), |inner| inner.snapshots())
    }

    /// The same, for one who has no use for a snapshot of more than about so many bytes: a larger one is
    /// not made for it.
    fn snapshots_within(&mut self, bytes: u64) -> Result<Vec<SnapshotOffer>> {
        match self.inner_mut() {
            Some(inner) => inner.snapshots_within(bytes),
            None => self.snapshots(),
        }
    }

    /// The manifest of a snapshot that was offered.
    fn manifest(&mut self, offer: &SnapshotOffer) -> Result<Vec<u8>> {
        match self.inner_mut() {
            Some(inner) => inner.manifest(offer),
            None => Err(offer.gone(&self.place())),
        }
    }

    /// Reads exactly `buf` of a run that a manifest names, at `byte`.
    fn read_run(
        &mut self,
        offer: &SnapshotOffer,
        run: RunId,
        byte: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        match self.inner_mut() {
            Some(inner) => inner.read_run(offer, run, byte, buf),
            None => Err(offer.gone(&self.place())),
        }
    }

    /// Asks the other end to keep what a snapshot and the log behind it need, while somebody begins with
    /// it, until [`release`](Self::release) or an hour. A courtesy: without it what is read may go, and
    /// another snapshot is the way on. A leader learns of it from the reports of [`look`](Self::look).
    fn hold(&mut self, offer: &SnapshotOffer, fs: &dyn Fs) {
        if let Some(inner) = self.inner_mut() {
            inner.hold(offer, fs);
        }
    }

    /// Says that nothing need be kept any more.
    fn release(&mut self) {
        if let Some(inner) = self.inner_mut() {
            inner.release();
        }
    }

    /// Waits until there may be more than a follower has that is as far as `report` says, about
    /// `timeout`; a source whose other end tells it may take a second. A hint: looking is the truth.
    fn wait(&mut self, report: &Report, timeout: Duration);

    /// Tells the other end how far the follower is, without asking for anything: before a follower
    /// goes away. A source that nobody runs has no use for it.
    fn acknowledge(&mut self, report: &Report) {
        if let Some(inner) = self.inner_mut() {
            inner.acknowledge(report);
        }
    }

    /// Of several sources: whether there are others that are preferred to the one that is pulled
    /// from. They are looked at again the next time.
    fn turn_back(&mut self) -> bool {
        self.inner_mut().is_some_and(|inner| inner.turn_back())
    }

    /// Of several sources: each of them, in order.
    fn links(&self) -> Vec<LinkState> {
        self.inner().map_or_else(Vec::new, |inner| inner.links())
    }

    /// Whether it is another node once somebody else leads: what does not fit now may fit soon.
    fn follows_leader(&self) -> bool {
        self.inner().is_some_and(|inner| inner.follows_leader())
    }

    /// Whether what came damaged may come whole the next time: from a network, not from a disk.
    fn is_remote(&self) -> bool {
        self.inner().is_some_and(|inner| inner.is_remote())
    }
}

/// What a source has, at one look.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Offer {
    /// The log.
    pub log: Id,
    /// The node that the source is, if it says.
    pub node: Option<Id>,
    /// The nodes that node pulls from, directly or not: a follower among them would go in circles.
    pub upstream: Vec<Id>,
    /// The address of the leader, if somebody said so.
    pub leader: Option<String>,
    /// The leader's time in nanoseconds since the Unix epoch, if it is known now.
    pub time: Option<i64>,
    /// When the source said this; at this moment, if it does not say.
    pub answered: Option<Instant>,
    /// How old what it shows may itself be: nothing at a leader; `None` when nobody knows.
    pub stale: Option<Duration>,
    /// The newest epoch in its history; zeros before the first.
    pub epoch: Epoch,
    /// Everything below was dropped by retention.
    pub floor: LogByte,
    /// Offset of the first record at the floor.
    pub floor_offset: Offset,
    /// The hash in the footer of the segment that ended at the floor, if the source knows it.
    pub floor_seal: Option<[u8; 32]>,
    /// Everything below is durable at the source.
    pub durable: LogByte,
    /// Offset of the first record behind that.
    pub durable_offset: Offset,
    /// Everything below is committed there: may be shown.
    pub committed: LogByte,
    /// Offset of the first record behind that.
    pub committed_offset: Offset,
    /// The segments at and above the floor, oldest first.
    pub segments: Vec<SegmentName>,
    /// Segments that a repair replaced.
    pub(crate) repairs: Vec<Repaired>,
}

/// Where an epoch ends at a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// The epoch; zeros when none that is numbered so low is known.
    pub epoch: Epoch,
    /// Where it ends: behind the SEAL of its last segment, where the next epoch begins; of the newest
    /// one, where the source's durable frames end.
    pub end: LogByte,
    /// Offset of the first record behind that.
    pub end_offset: Offset,
    /// Whether another epoch begins there.
    pub ended: bool,
}

impl Shared {
    /// What the headers of the segments that are offered say.
    pub(crate) fn of(
        offer: &Offer,
        number: u64,
        mut header: impl FnMut(SegmentName) -> Result<SegmentHeader>,
    ) -> Result<Self> {
        let (mut low, mut high) = (0, offer.segments.len());
        let (mut before, mut after) = (None, None);
        while low < high {
            let middle = (low + high) / 2;
            let its = header(offer.segments[middle])?;
            if its.epoch.number <= number {
                (low, before) = (middle + 1, Some(its));
            } else {
                (high, after) = (middle, Some(its));
            }
        }
        Ok(Shared {
            epoch: before.map_or_else(Epoch::default, |its| its.epoch),
            end: after.map_or(offer.durable, |its| its.base),
            end_offset: after.map_or(offer.durable_offset, |its| its.base_offset),
            ended: after.is_some(),
        })
    }
}

/// A snapshot of the table, as a source offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotOffer {
    /// Its name: behind which record it stands.
    pub name: SnapshotName,
    /// The log that it is of.
    pub log: Id,
    /// The log byte that it stands behind.
    pub log_byte: LogByte,
    /// Bytes of its runs.
    pub bytes: u64,
    /// Of several sources: which one has it.
    pub(crate) link: usize,
}

impl SnapshotOffer {
    /// What an open snapshot is offered as.
    pub(crate) fn of(snapshot: &OpenSnapshot) -> Self {
        SnapshotOffer {
            name: snapshot.name(),
            log: snapshot.log(),
            log_byte: snapshot.position().log_byte,
            bytes: snapshot.bytes(),
            link: 0,
        }
    }

    pub(crate) fn gone(&self, place: &str) -> Error {
        Error::new(
            Kind::NotFound,
            format!("expected snapshot {} at {place}, found none", self.name),
        )
        .help("ask again which there are")
    }
}

/// What a segment at a source says of itself.
#[derive(Clone, Debug)]
pub struct Shipped {
    /// The header, decoded.
    pub header: SegmentHeader,
    /// The header page as it stands there, to be copied as it is.
    pub page: Vec<u8>,
    /// Of a sealed one.
    pub footer: Option<Footer>,
}
