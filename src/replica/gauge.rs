//! What a follower shows of itself while it runs, to threads that serve it or watch it.
//!
//! Written by the follower's two sides, each once a round; a clone of the handle reads it at any time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
#[cfg(feature = "wire")]
use crate::log::files::SetLine;
use crate::position::{Epoch, Id, LogByte, Offset, Position};
use crate::ship::{LinkState, Offer, Report, Source};
use crate::table::PauseAt;

use super::follower::Lag;
use super::fresh::Fresh;

/// A handle on what a follower shows.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fs: Arc<dyn Fs>,
    shown: Mutex<Shown>,
    /// Both sides know of freshness: what the source had when, and what of it is applied.
    fresh: Mutex<Fresh>,
}

/// One moment of a follower.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Shown {
    /// How far it is.
    pub report: Report,
    /// Where it pulls from.
    pub source: String,
    /// Of several sources each, in order.
    pub sources: Vec<LinkState>,
    /// The node there, if it says.
    pub source_node: Option<Id>,
    /// The nodes that one pulls from, directly or not.
    pub upstream: Vec<Id>,
    /// The leader's address, if the source says.
    pub leader: Option<String>,
    /// The epoch of the source.
    pub epoch: Epoch,
    /// What the source had durable at the last look.
    pub durable: LogByte,
    /// The same as an offset.
    pub durable_offset: Offset,
    /// How far the copy was behind that.
    pub lag: Lag,
    /// The same in seconds, by the leader's clock.
    pub lag_seconds: f64,
    /// The most records it was behind since it was opened.
    pub max_lag_records: u64,
    /// The most bytes.
    pub max_lag_bytes: u64,
    /// The most seconds.
    pub max_lag_seconds: f64,
    /// When the source last answered, by this machine's clock, in nanoseconds since 1970.
    pub contact: Option<i64>,
    /// When the leader was last alive, as far as the source knows, on the clock that never jumps.
    pub(crate) heard: Option<u64>,
    /// The synchronous sets of its log.
    #[cfg(feature = "wire")]
    pub(crate) sets: Vec<SetLine>,
    /// What went wrong in the last round of either side, if anything did.
    pub trouble: Option<String>,
    /// Bytes of frames copied since it was opened.
    pub bytes: u64,
    /// Where apply is to stop, if anywhere.
    pub pause_at: Option<PauseAt>,
    /// Whether it stands there.
    pub paused: bool,
    /// What went wrong with apply.
    trouble_applying: Option<String>,
    /// Whether the source knows how old what it shows may be.
    pub(super) tells_age: bool,
}

impl Gauge {
    /// What the follower showed last.
    pub fn read(&self) -> Shown {
        let mut shown = self.lock().clone();
        shown.trouble = shown.trouble.or(shown.trouble_applying.take());
        shown
    }

    /// How old what reads show may be, at most: how long ago the leader had committed all of it and
    /// nothing more, as far as this node knows. It grows while the source does not answer, and while
    /// apply is behind. `None` when nobody knows: no answer yet, or a source that does not
    /// know it itself, such as an archive.
    pub fn staleness(&self) -> Option<Duration> {
        let since = self.fresh().since()?;
        Some(Duration::from_nanos(self.0.fs.elapsed().saturating_sub(since)))
    }

    /// An error of [`Kind::Stale`] when what reads show may be older than `most`.
    pub fn check_staleness(&self, most: Duration) -> Result<()> {
        let staleness = self.staleness();
        if staleness.is_some_and(|age| age <= most) {
            return Ok(());
        }
        let found = match staleness {
            Some(age) => format!("data that may be {:.3} s old", age.as_secs_f64()),
            None => "data of unknown age".to_owned(),
        };
        let shown = self.read();
        let why = match (&shown.trouble, staleness) {
            (Some(trouble), _) => format!(": {trouble}"),
            (None, Some(_)) => String::new(),
            (None, None) if shown.contact.is_none() => {
                format!(": {} has not answered yet", shown.source)
            }
            (None, None) if !shown.tells_age => {
                format!(": {} does not say how old it is itself", shown.source)
            }
            (None, None) => ": what there was then is not applied yet".to_owned(),
        };
        Err(Error::new(
            Kind::Stale,
            format!("expected data at most {most:?} old, found {found}{why}"),
        )
        .help("ask again later, ask the leader, or allow more"))
    }

    /// When the leader was last alive, as far as the source knows, in milliseconds before now.
    #[cfg(feature = "wire")]
    pub(super) fn heard_ms(&self) -> Option<u64> {
        let heard = self.lock().heard?;
        Some(self.0.fs.elapsed().saturating_sub(heard) / 1_000_000)
    }

    pub(super) fn new(fs: Arc<dyn Fs>) -> Self {
        Gauge(Arc::new(Inner { fs, shown: Mutex::default(), fresh: Mutex::default() }))
    }

    pub(super) fn pause(&self, at: Option<PauseAt>, stands: bool) {
        let mut shown = self.lock();
        (shown.pause_at, shown.paused) = (at, stands);
    }

    /// Everything before `end` was committed at the source at `at`, and nothing more.
    pub(super) fn told(&self, at: u64, end: Offset) {
        self.fresh().told(at, end);
    }

    /// Everything before `end` is applied.
    pub(super) fn applied(&self, end: Position) {
        self.lock().report.applied = end;
        self.fresh().applied(end.offset);
    }

    /// The nodes above, the source's own first: what is said to those who pull from this one.
    pub fn chain(&self) -> Vec<Id> {
        let shown = self.lock();
        shown.source_node.into_iter().chain(shown.upstream.iter().copied()).collect()
    }

    pub(super) fn at(&self, report: Report, source: &dyn Source) {
        let (place, links) = (source.place(), source.links());
        let mut shown = self.lock();
        shown.report = report;
        shown.source = place;
        shown.sources = links;
    }

    /// Takes note of an offer, and of the lag that it shows.
    pub(super) fn offered(&self, offer: &Offer, now: i64) {
        let mut shown = self.lock();
        shown.source_node = offer.node;
        shown.upstream.clone_from(&offer.upstream);
        shown.leader.clone_from(&offer.leader);
        shown.epoch = offer.epoch;
        shown.durable = offer.durable;
        shown.durable_offset = offer.durable_offset;
        shown.contact = Some(now);
        // Of a follower's answer: when that one heard the leader. Two that follow each other hear nobody.
        let now = self.0.fs.elapsed();
        let age = |age: Duration| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let alive = offer.stale.map(|stale| now.saturating_sub(age(stale)));
        shown.heard = shown.heard.max(alive);
        shown.tells_age = offer.stale.is_some();
    }

    #[cfg(feature = "wire")]
    pub(super) fn rule(&self, sets: &[SetLine]) {
        let mut shown = self.lock();
        if shown.sets != sets {
            shown.sets = sets.to_vec();
        }
    }

    pub(super) fn lags(&self, lag: Lag, seconds: f64, bytes: u64) {
        let mut shown = self.lock();
        shown.lag = lag;
        shown.lag_seconds = seconds;
        shown.max_lag_records = shown.max_lag_records.max(lag.records);
        shown.max_lag_bytes = shown.max_lag_bytes.max(lag.bytes);
        shown.max_lag_seconds = shown.max_lag_seconds.max(seconds);
        shown.bytes += bytes;
    }

    pub(super) fn trouble(&self, trouble: Option<String>) {
        self.lock().trouble = trouble;
    }

    pub(super) fn trouble_applying(&self, trouble: Option<String>) {
        self.lock().trouble_applying = trouble;
    }

    fn fresh(&self) -> std::sync::MutexGuard<'_, Fresh> {
        self.0.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.0.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
