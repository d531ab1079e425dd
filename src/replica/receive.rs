//! The receiving side of a follower: looks at the source, copies some of what is new, makes it durable.
//!
//! Driven by `follower` in one thread with the applying side, or by `pipeline` in a thread of its own; uses
//! the [`Source`], `pull` and the [`Copy`]. It never applies: what it reads of the table is how far that is,
//! for the source to know.
//!
//! Invariants:
//! - what is acknowledged is synced: `durable` moves behind a sync, and only `durable` is reported. It is
//!   where the copy ends, but while much comes beside apply: then a piece is synced while the next is copied;
//! - what the source has committed counts only once the two histories were found to be one, and only as
//!   far as it is durable here.

use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::log::files::State;
use crate::mutant::{self, Mutant};
use crate::position::LogByte;
use crate::ship::{Offer, Report, Source};
use crate::table::Table;

use super::copy::{Copy, Mark};
use super::follower::{Lag, may_pass};
use super::gauge::Gauge;
use super::pull::{self, Moved};
use super::rejoin;
use super::trail::Trail;

/// Looks at a source that has rolled a segment and not sealed it yet.
const PATIENCE: u32 = 200;

/// What pulls.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) source: Box<dyn Source>,
    pub(super) copy: Copy,
    /// What is synced here, and so acknowledged.
    pub(super) durable: Mark,
    /// Whether the end of a round that is followed by another may be synced beside that one.
    pub(super) may_lag: bool,
    pub(super) offered: Option<Offer>,
    /// What it pulls was promised to the same candidate: it may be of an older epoch than that.
    pub(super) inherits: bool,
    /// To see how far it is.
    table: Table,
    gauge: Gauge,
    /// Whether what an operator gave up may be cut.
    accept_loss: bool,
    trail: Trail,
    leader_time: Option<Clock>,
}

/// The leader's clock, as the last look told it.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// Nanoseconds that it is ahead of this machine's.
    ahead: i64,
}

impl Clock {
    fn at(self, now: i64) -> i64 {
        now.saturating_add(self.ahead)
    }
}

/// What a round has brought, durably.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Received {
    pub(super) moved: Moved,
    /// Whether more may be shown than before.
    pub(super) shown: bool,
    /// What STATE says since, if anything came.
    pub(super) state: Option<State>,
}

impl Received {
    /// Whether anything came, or may be shown.
    pub(super) fn is_some(&self) -> bool {
        self.moved.bytes > 0 || self.moved.segments > 0 || self.state.is_some()
    }
}

impl Receiver {
    pub(super) fn new(
        source: Box<dyn Source>,
        copy: Copy,
        table: Table,
        gauge: Gauge,
        accept_loss: bool,
    ) -> Self {
        Receiver {
            source,
            durable: Mark { end: copy.end(), last: copy.last_frame() },
            may_lag: false,
            copy,
            offered: None,
            inherits: false,
            table,
            gauge,
            accept_loss,
            trail: Trail::default(),
            leader_time: None,
        }
    }

    /// Looks, copies some, syncs. What came before an error came whole: it counts, and stands in
    /// `received` all the same.
    pub(super) fn round(&mut self, received: &mut Received) -> Result<()> {
        let outcome = self.try_round(received);
        if outcome.is_err() {
            // The next round may be long in coming. What fails here has poisoned this copy, and is told then.
            let _ = self.settle(received);
        }
        let now = self.copy.fs.now();
        let end = self.copy.end().offset;
        let behind = self.trail.behind(end, self.leader_time.map_or(now, |time| time.at(now)));
        #[cfg(feature = "wire")]
        self.gauge.rule(&self.copy.control.sets);
        self.gauge.at(self.report(), &*self.source);
        self.gauge.lags(self.lag(), behind, received.moved.bytes);
        self.gauge.trouble(outcome.as_ref().err().map(Error::to_string));
        outcome
    }

    fn try_round(&mut self, received: &mut Received) -> Result<()> {
        let before = self.copy.fs.elapsed();
        let report = self.report();
        let looked = self.source.look(&report);
        let offer = looked.map_err(|e| self.judged(e))?;
        if let Some(stale) = offer.stale.filter(|_| offer.log == self.copy.log) {
            let nanos = |age: Duration| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            let answered = offer
                .answered
                .map_or(before, |at| self.copy.fs.elapsed().saturating_sub(nanos(at.elapsed())));
            self.gauge.told(answered.saturating_sub(nanos(stale)), offer.committed_offset);
        }
        let now = self.copy.fs.now();
        self.leader_time = offer.time.map(|time| Clock { ahead: time.saturating_sub(now) });
        self.trail.note(offer.time.unwrap_or(now), offer.durable_offset);
        self.gauge.offered(&offer, now);
        let moved = &mut received.moved;
        let pulled = pull::round(&mut self.copy, &mut *self.source, &offer, self.inherits, moved);
        let pulled = pulled.map_err(|e| match e.kind() {
            Kind::Corrupt if self.source.is_remote() => e.with_kind(Kind::Io),
            _ => self.judged(e),
        });
        let came = moved.bytes > 0 || moved.segments > 0;
        let goes_on = moved.bytes >= pull::ROUND_BYTES && self.copy.end().log_byte < offer.durable;
        self.offered = Some(offer);
        if self.may_lag && goes_on && pulled.is_ok() {
            self.copy.settle_behind()?;
        } else if came || self.durable.end != self.copy.end() {
            self.copy.settle()?;
        }
        self.conclude(came, pulled.is_ok() || came, received)?;
        pulled
    }

    /// Makes durable what a round has left for the next one.
    pub(super) fn settle(&mut self, received: &mut Received) -> Result<()> {
        if self.durable.end == self.copy.end() {
            return Ok(());
        }
        self.copy.settle()?;
        self.conclude(true, true, received)?;
        // Who is asked for a promise answers by the gauge: it must not say less than the next report will.
        self.gauge.at(self.report(), &*self.source);
        Ok(())
    }

    /// Says in STATE what is synced by now and may be shown, when that is more than before. What the source
    /// has committed says something about this copy only once the two histories were found to be one: `matched`.
    fn conclude(&mut self, came: bool, matched: bool, received: &mut Received) -> Result<()> {
        let synced = self.copy.synced();
        let told = self.offered.as_ref().map(|o| (o.committed, o.committed_offset));
        received.shown |= matched && told.is_some_and(|told| self.copy.learn_committed(told));
        if came || received.shown || self.durable.end != synced.end {
            received.state = Some(self.copy.hint());
            self.durable = synced;
            self.copy.mend()?;
        }
        Ok(())
    }

    /// Of a source whose history is another: whether this copy may rejoin, or what stands against it.
    fn judged(&mut self, error: Error) -> Error {
        match error.kind() {
            Kind::Diverged => rejoin::judge(&self.copy, &mut *self.source, self.accept_loss, error),
            _ => error,
        }
    }

    /// Takes `step` after `step`, each with a round, until this copy holds what the source had durable
    /// at the first.
    pub(super) fn catch_up(
        &mut self,
        poll_every: Duration,
        mut step: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let (mut target, mut ended) = (None, None);
        let (mut failures, mut waited) = (0, 0);
        loop {
            let before = self.copy.end().log_byte;
            let stepped = step(self);
            let end = self.copy.end().log_byte;
            let until = *target.get_or_insert(self.offered.as_ref().map_or(end, |o| o.durable));
            match stepped {
                Ok(()) => failures = 0,
                // Of several sources, another may help: each is given one chance.
                Err(e) if may_pass(e.kind()) && failures + 1 < self.source.links().len() => {
                    failures += 1;
                    continue;
                }
                Err(e) => return Err(e),
            }
            if end >= until {
                // Of several sources, a preferred one may go on where this one ends.
                let place = Some(self.source.place());
                if self.source.turn_back() && ended != place {
                    (target, ended) = (None, place);
                    continue;
                }
                return Ok(());
            }
            if end == before {
                // The source is about to seal what this copy cannot seal by itself.
                if !self.copy.lacks_link() || waited == PATIENCE {
                    return Err(self.stuck(until));
                }
                waited += 1;
                self.wait(poll_every);
            }
        }
    }

    /// What is here, for the source to know: only what is synced.
    pub(super) fn report(&self) -> Report {
        Report {
            log: Some(self.copy.log),
            node: Some(self.copy.node),
            promise: self.copy.promises.get().map(|promise| promise.epoch),
            received: self.copy.end(),
            durable: match mutant::on(Mutant::CountReceived) {
                true => self.copy.end(),
                false => self.durable.end,
            },
            applied: self.table.applied().unwrap_or_default(),
            committed: Some(self.copy.committed.0),
            last: self.durable.last,
            unclean: self.copy.is_unclean(self.durable.end.log_byte),
        }
    }

    /// Waits until there may be more at the source, which hears how far this is by now.
    pub(super) fn wait(&mut self, poll_every: Duration) {
        let report = self.report();
        self.source.wait(&report, poll_every);
    }

    /// Tells the source how far this is, before it is left alone.
    pub(super) fn acknowledge(&mut self) {
        let report = self.report();
        self.source.acknowledge(&report);
    }

    /// How far the copy was behind at the last look; nothing before the first.
    pub(super) fn lag(&self) -> Lag {
        let Some(offer) = &self.offered else { return Lag::default() };
        let end = self.copy.end();
        Lag {
            records: offer.durable_offset.0.saturating_sub(end.offset.0),
            bytes: offer.durable.0.saturating_sub(end.log_byte.0),
        }
    }

    fn stuck(&self, target: LogByte) -> Error {
        Error::new(
            Kind::NotFound,
            format!(
                "expected durable frames up to log byte {target} at {}, found none behind {}",
                self.source.place(),
                self.copy.end().log_byte
            ),
        )
        .in_file(Path::new(&self.source.place()))
        .help("if a copier fills that directory they may still be coming")
    }
}
