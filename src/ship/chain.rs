//! Several sources in order: the first that can help is pulled from, and the ones before it are
//! tried again.
//!
//! ```text
//! look ──► leader: no answer ──► peer: starts too late ──► archive: has it ──► pull from there
//!             ▲                                                                    │
//!             └──────────────── after a moment, at every look ─────────────────────┘
//! ```
//!
//! Called by `replica` like any source; each link is a source of its own, opened when it is first
//! needed. A link that fails, or that cannot help this follower as far as it is, is passed over; it
//! decides nothing about histories: a link that says that they differ ends the search with that
//! error, because another that knows less must not cover it up.
//!
//! Invariants:
//! - between two looks everything comes from one link;
//! - a link that holds less than the follower has acknowledged and is of no later epoch, starts behind
//!   what it needs, or is of an older epoch than it has promised is never pulled from;
//! - a link that fails is tried again ever more rarely, at most [`MOST_PAUSE`] apart.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::segment::SegmentName;
use crate::table::RunId;

use super::{Offer, Report, Shared, Shipped, SnapshotOffer, Source};

/// A link that failed is passed over for so long, then twice that, and so on.
const PAUSE: Duration = Duration::from_millis(100);
/// No link is passed over for longer.
const MOST_PAUSE: Duration = Duration::from_secs(5);

/// Opens a link's source.
type Opener = Box<dyn FnMut() -> Result<Box<dyn Source>> + Send>;

/// Several sources, in the order in which they are preferred.
///
/// ```
/// use tidelog::{Follower, Log, Record, ship};
/// # fn main() -> tidelog::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let (leader, copy) = (directory.path().join("leader"), directory.path().join("copy"));
/// # let log = Log::options().create(true).open(&leader)?;
/// # log.append(&Record::put(b"gate", b"open"))?;
/// # log.close()?;
/// let (first, second) = (directory.path().join("away"), leader.clone());
/// let open = |path: std::path::PathBuf| {
///     move || Ok(Box::new(ship::Directory::open(&path)?) as Box<dyn ship::Source>)
/// };
/// let chain = ship::Chain::default()
///     .link(first.display().to_string(), open(first))
///     .link(second.display().to_string(), open(second));
/// let mut follower = Follower::open(Log::options(), &copy, chain)?;
/// follower.catch_up()?;
/// assert_eq!(follower.source(), leader.display().to_string());
/// # follower.close()
/// # }
/// ```
#[derive(Default)]
pub struct Chain {
    links: Vec<Link>,
    /// The one that is pulled from.
    current: usize,
}

/// One source of a chain, as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkState {
    /// Where it is.
    pub place: String,
    /// Whether it is pulled from.
    pub in_use: bool,
    /// Why it was passed over the last time it was looked at.
    pub trouble: Option<String>,
}

struct Link {
    place: String,
    open: Opener,
    source: Option<Box<dyn Source>>,
    trouble: Option<String>,
    /// How long it is passed over after its next failure, and until when it is now.
    pause: Duration,
    until: Option<Instant>,
}

impl Chain {
    /// The same chain with one more source at its end. `place` is what it is called as long as it
    /// is not open.
    #[must_use]
    pub fn link(
        mut self,
        place: impl Into<String>,
        open: impl FnMut() -> Result<Box<dyn Source>> + Send + 'static,
    ) -> Self {
        self.links.push(Link {
            place: place.into(),
            open: Box::new(open),
            source: None,
            trouble: None,
            pause: PAUSE,
            until: None,
        });
        self
    }

    /// The source that is pulled from.
    fn source(&mut self) -> Result<&mut dyn Source> {
        match self.links.get_mut(self.current) {
            None => Err(Error::new(Kind::InvalidInput, "expected at least one source, found none")),
            Some(link) => link.source(),
        }
    }

    /// Takes note of what came of asking the source that is pulled from.
    fn noted<T>(&mut self, outcome: Result<T>) -> Result<T> {
        if let (Err(e), Some(link)) = (&outcome, self.links.get_mut(self.current))
            && passes(e.kind())
        {
            link.fail(e.to_string());
        }
        outcome
    }
}

impl Link {
    fn source(&mut self) -> Result<&mut dyn Source> {
        if self.source.is_none() {
            self.source = Some((self.open)()?);
        }
        Ok(&mut **self.source.as_mut().expect("opened above"))
    }

    fn place(&self) -> String {
        self.source.as_ref().map_or_else(|| self.place.clone(), |source| source.place())
    }

    /// Passed over for a while.
    fn fail(&mut self, why: String) {
        self.until = Instant::now().checked_add(self.pause);
        self.pause = (self.pause * 2).min(MOST_PAUSE);
        self.trouble = Some(why);
    }

    /// What it has, or why it cannot help now.
    fn look(&mut self, report: &Report) -> Result<Result<Offer, (Offer, Unfit)>> {
        let offer = self.source()?.look(report)?;
        Ok(match Unfit::of(&offer, report) {
            None => {
                (self.trouble, self.pause, self.until) = (None, PAUSE, None);
                Ok(offer)
            }
            Some(unfit) => {
                self.fail(unfit.to_string());
                // It answers: looking again costs little.
                self.pause = PAUSE;
                Err((offer, unfit))
            }
        })
    }
}

/// Why an offer is of no use to a follower that is as far as its report says.
#[derive(Debug)]
enum Unfit {
    StartsTooLate(crate::position::Offset),
    IsBehind(crate::position::Offset),
    IsOlder(u64),
}

impl Unfit {
    fn of(offer: &Offer, report: &Report) -> Option<Self> {
        if report.log.is_some_and(|log| log != offer.log) {
            // Another log: that is said by who pulls, and no link makes it better.
            return None;
        }
        let promised = report.promise.map_or(0, |promise| promise.number);
        if offer.floor > report.received.log_byte {
            Some(Unfit::StartsTooLate(offer.floor_offset))
        } else if offer.durable < report.durable.log_byte
            && offer.epoch.number <= report.durable.epoch.number
        {
            // Of a later epoch it is not behind: it went another way.
            Some(Unfit::IsBehind(offer.durable_offset))
        } else if offer.epoch.number < promised {
            Some(Unfit::IsOlder(offer.epoch.number))
        } else {
            None
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::StartsTooLate(offset) => {
                write!(f, "starts at offset {offset}: what this copy needs was dropped there")
            }
            Unfit::IsBehind(offset) => write!(f, "ends at offset {offset}, before this copy does"),
            Unfit::IsOlder(epoch) => {
                write!(f, "is in epoch {epoch}, which the leader of this copy has replaced")
            }
        }
    }
}

/// Whether another link may make up for an error.
fn passes(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NotFound
            | Kind::Io
            | Kind::ReadOnly
            | Kind::NotALog
            | Kind::NotLeader
            | Kind::Gone
            | Kind::Corrupt
            | Kind::NewerVersion
    )
}

impl Chain {
    /// What all of its links have, as far as they answer.
    fn ask_snapshots(
        &mut self,
        ask: impl Fn(&mut dyn Source) -> Result<Vec<SnapshotOffer>>,
    ) -> Result<Vec<SnapshotOffer>> {
        let (mut found, mut failed) = (Vec::new(), None);
        for (at, link) in self.links.iter_mut().enumerate() {
            match link.source().and_then(&ask) {
                Ok(offers) => {
                    found.extend(offers.into_iter().map(|o| SnapshotOffer { link: at, ..o }));
                }
                Err(e) if passes(e.kind()) => {
                    link.fail(e.to_string());
                    failed = Some(e);
                }
                Err(e) => return Err(e),
            }
        }
        match failed {
            Some(e) if found.is_empty() => Err(e),
            _ => Ok(found),
        }
    }
}

impl Source for Chain {
    fn place(&self) -> String {
        self.links.get(self.current).map_or_else(String::new, Link::place)
    }

    fn file(&self, segment: SegmentName) -> PathBuf {
        let source = self.links.get(self.current).and_then(|link| link.source.as_ref());
        source.map_or_else(|| self.place().into(), |source| source.file(segment))
    }

    fn look(&mut self, report: &Report) -> Result<Offer> {
        let mut late = None;
        let now = Instant::now();
        // Those that rest are asked all the same when nobody else can help.
        let resting = |link: &Link| link.until.is_some_and(|until| now < until);
        let (due, rest): (Vec<usize>, Vec<usize>) =
            (0..self.links.len()).partition(|at| !resting(&self.links[*at]));
        let before = self.current;
        for at in due.into_iter().chain(rest) {
            self.current = at;
            let link = &mut self.links[at];
            match link.look(report) {
                Ok(Ok(offer)) => return Ok(offer),
                Ok(Err((offer, Unfit::StartsTooLate(_)))) => {
                    late.get_or_insert((at, offer));
                }
                Ok(Err(_)) => {}
                Err(e) if passes(e.kind()) => link.fail(e.to_string()),
                Err(e) => return Err(e),
            }
        }
        // None of them reaches back far enough: who pulls says so, of the one preferred.
        if let Some((at, offer)) = late {
            self.current = at;
            return Ok(offer);
        }
        self.current = before;
        let why = self.links.iter().map(|link| {
            format!("{}: {}", link.place(), link.trouble.as_deref().unwrap_or("no answer"))
        });
        let why: Vec<String> = why.collect();
        Err(Error::new(
            Kind::Io,
            format!(
                "expected one of {} sources to help, found none: {}",
                why.len(),
                why.join("; ")
            ),
        )
        .help("they are tried again as long as this follows"))
    }

    /// Of the link that is pulled from.
    fn shared(&mut self, report: &Report) -> Result<Shared> {
        let outcome = self.source().and_then(|source| source.shared(report));
        self.noted(outcome)
    }

    fn segment(&mut self, segment: SegmentName) -> Result<Shipped> {
        let outcome = self.source().and_then(|source| source.segment(segment));
        self.noted(outcome)
    }

    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
        let outcome = self.source().and_then(|source| source.read(segment, byte, buf));
        self.noted(outcome)
    }

    fn snapshots(&mut self) -> Result<Vec<SnapshotOffer>> {
        self.ask_snapshots(|source| source.snapshots())
    }

    fn snapshots_within(&mut self, bytes: u64) -> Result<Vec<SnapshotOffer>> {
        self.ask_snapshots(|source| source.snapshots_within(bytes))
    }

    fn manifest(&mut self, offer: &SnapshotOffer) -> Result<Vec<u8>> {
        let place = self.place();
        let link = self.links.get_mut(offer.link).ok_or_else(|| offer.gone(&place))?;
        link.source()?.manifest(offer)
    }

    fn read_run(
        &mut self,
        offer: &SnapshotOffer,
        run: RunId,
        byte: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let place = self.place();
        let link = self.links.get_mut(offer.link).ok_or_else(|| offer.gone(&place))?;
        link.source()?.read_run(offer, run, byte, buf)
    }

    /// The link that has the snapshot, and the one that the log comes from, may be two.
    fn hold(&mut self, offer: &SnapshotOffer, fs: &dyn Fs) {
        for source in self.links.iter_mut().filter_map(|link| link.source.as_mut()) {
            source.hold(offer, fs);
        }
    }

    fn release(&mut self) {
        for source in self.links.iter_mut().filter_map(|link| link.source.as_mut()) {
            source.release();
        }
    }

    fn wait(&mut self, report: &Report, timeout: Duration) {
        if let Ok(source) = self.source() {
            source.wait(report, timeout);
        }
    }

    fn acknowledge(&mut self, report: &Report) {
        if let Ok(source) = self.source() {
            source.acknowledge(report);
        }
    }

    fn is_remote(&self) -> bool {
        let source = self.links.get(self.current).and_then(|link| link.source.as_ref());
        source.is_some_and(|source| source.is_remote())
    }

    fn follows_leader(&self) -> bool {
        let source = self.links.get(self.current).and_then(|link| link.source.as_ref());
        source.is_some_and(|source| source.follows_leader())
    }

    fn turn_back(&mut self) -> bool {
        for link in &mut self.links[..self.current] {
            link.until = None;
        }
        self.current > 0
    }

    fn links(&self) -> Vec<LinkState> {
        let shown = |(at, link): (usize, &Link)| LinkState {
            place: link.place(),
            in_use: at == self.current,
            trouble: link.trouble.clone(),
        };
        self.links.iter().enumerate().map(shown).collect()
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("links", &self.links()).finish()
    }
}
