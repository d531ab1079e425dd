//! What a follower shows of itself while it runs, to threads that serve it or watch it.
//!
//! Written by the follower once a round; a clone of the handle reads it at any time.

use std::sync::{Arc, Mutex, PoisonError};

use crate::position::{Epoch, Id, LogByte, Offset};
use crate::ship::{LinkState, Offer, Report, Source};

use super::follower::Lag;

/// A handle on what a follower shows.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<Mutex<Shown>>);

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
    /// What went wrong in the last round, if anything did.
    pub trouble: Option<String>,
    /// Bytes of frames copied since it was opened.
    pub bytes: u64,
}

impl Gauge {
    /// What the follower showed last.
    pub fn read(&self) -> Shown {
        self.lock().clone()
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
