//! A leader's archive: how far it may hold the log, how far it does, and who waits for that.
//!
//! Called by whoever publishes the log (the thread of a node), and by `append`. Publishing itself is
//! `ship::archive`; here nothing knows a store. Invariants:
//! - [`Leader::archived`] is told only what the archive holds of this leader's own history, behind
//!   its fence;
//! - while there is an archive, retention keeps what it does not hold.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::*;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind};
use crate::frame::Mode;
use crate::position::{LogByte, Offset};

use super::{Leader, State};

/// Whether there is an archive, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    set: bool,
    /// Appends that are acknowledged once the archive holds them.
    wanted: usize,
}

/// Why the log should be published now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Somebody waits for it, or the mode promises it.
    Wanted,
    /// There is something new, and the time has come.
    Time,
    /// There is nothing to do yet.
    NotYet,
}

/// An append that waits for the archive; dropping it ends that.
pub(super) struct Wanted<'a>(&'a Leader);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.state().shelf.wanted -= 1;
    }
}

impl Leader {
    /// The log has an archive from here on: somebody publishes to it, and says so with
    /// [`archived`](Leader::archived). Nothing is dropped by retention that it does not hold.
    pub fn use_archive(&self) {
        self.state().shelf.set = true;
        self.home.keep_unarchived((LogByte(0), Offset(0)));
    }

    /// Whether somebody publishes the log.
    pub fn has_archive(&self) -> bool {
        self.state().shelf.set
    }

    /// Up to where the archive may hold the log: never more than is committed, but for what is
    /// committed by the archive alone.
    pub fn publishable(&self) -> (LogByte, Offset) {
        self.state().rule.publishable()
    }

    /// The archive holds this leader's history up to here, behind this leader's fence.
    pub fn archived(&self, end: (LogByte, Offset)) {
        self.update(|rule| rule.archived = rule.archived.max(Some(end)));
        self.home.keep_unarchived(end);
    }

    /// Waits, at most so long, until more than `held` may be published and it is due: when somebody
    /// waits for it, or `at` has come.
    pub fn wait_due(&self, held: LogByte, at: Instant, most: Duration) -> Due {
        let until = Instant::now() + most;
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let new = state.rule.publishable().0 > held;
            let wanted = state.shelf.wanted > 0 || state.rule.waits_for_archive();
            if new && wanted {
                return Due::Wanted;
            }
            if new && now >= at {
                return Due::Time;
            }
            let wake = if new { until.min(at) } else { until };
            let left = wake.saturating_duration_since(now);
            if left.is_zero() || self.stopping.load(Acquire) {
                return Due::NotYet;
            }
            let waited = self.moved.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Counts an append as waiting, so that it is published at once.
    pub(super) fn want_archived(&self) -> Wanted<'_> {
        self.state().shelf.wanted += 1;
        self.moved.notify_all();
        Wanted(self)
    }

    /// Whether the archive is still to be closed to the leader before. Under `async` nobody else takes part in what
    /// that one acknowledges, and it may publish until then. Who leads without having been elected may go on.
    pub(super) fn lacks_fence(&self, state: &State) -> bool {
        let asks = state.shelf.set && state.rule.mode() == Mode::Async && self.home.was_won();
        asks && state.rule.archived.is_none()
    }

    /// Why no append is taken in the mode `archive`, and under `async` by who was elected.
    pub(super) fn archive_not_fenced(&self, state: &State) -> Error {
        if !state.shelf.set {
            return none();
        }
        Error::new(
            Kind::Rejected,
            format!(
                "expected the start of epoch {} in the archive, found it is not there yet",
                state.rule.epoch
            ),
        )
        .help("nothing was appended; the status says how the archive is, try again when it answers")
    }
}

/// What the archive holds, in words.
pub(super) fn reached(state: &State) -> String {
    match state.rule.archived {
        Some((_, offset)) => format!("the archive ends at offset {offset}"),
        None => "nothing of this epoch in the archive yet".to_owned(),
    }
}

/// There is no archive to wait for.
pub(super) fn none() -> Error {
    Error::new(Kind::Rejected, "expected an archive to wait for, found none").help(
        "nothing was appended; run the node with an archive: `tidelog serve DIR --archive URL`",
    )
}
