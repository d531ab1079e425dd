//! Where apply stops until somebody lets it go on: what arrives is kept and acknowledged meanwhile.
//!
//! A [`Pause`] is the switch, shared by the follower and whoever serves or watches it; [`Brake`] is what
//! the follower does about it, once a round. Invariants:
//! - nothing at or behind the point is applied: apply stops before the first batch that reaches over it,
//!   so that batches stay whole;
//! - a point that apply has passed already holds nothing up: it is taken away and told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Kind, Result};
use crate::log::Log;
use crate::position::Offset;
use crate::table::PauseAt;

/// A handle on where a follower stops applying. Changes count from its next round on.
#[derive(Clone, Debug, Default)]
pub struct Pause(Arc<Mutex<Option<PauseAt>>>);

impl Pause {
    /// Stops there.
    pub fn set(&self, at: PauseAt) {
        *self.lock() = Some(at);
    }

    /// Goes on, to the end.
    pub fn resume(&self) {
        *self.lock() = None;
    }

    /// Where it is to stop, if anywhere.
    pub fn at(&self) -> Option<PauseAt> {
        *self.lock()
    }

    /// Takes a point away, unless it was exchanged for another one meanwhile.
    fn take(&self, passed: PauseAt) {
        let mut at = self.lock();
        if *at == Some(passed) {
            *at = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<PauseAt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a pause means for a log.
#[derive(Debug, Default)]
pub(super) struct Brake {
    pub(super) pause: Pause,
    /// The start of the batch that a point lies in, once that is here.
    found: Option<(PauseAt, Offset)>,
    /// Whether something has been held up since apply last ran freely.
    held: bool,
}

/// How far apply may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// Wherever it likes; whether something was held up before.
    None { resumed: bool },
    /// No further than this.
    Before(Offset),
    /// It is further already: the point is gone.
    Passed(Offset),
}

impl Brake {
    pub(super) fn new(at: Option<PauseAt>) -> Self {
        Brake { pause: Pause(Arc::new(Mutex::new(at))), ..Brake::default() }
    }

    /// How far a table that holds everything before `applied` may be taken.
    pub(super) fn limit(&mut self, log: &Log, applied: Offset) -> Result<Limit> {
        let Some(at) = self.pause.at() else {
            return Ok(Limit::None { resumed: std::mem::take(&mut self.held) });
        };
        self.held = true;
        let end = log.end();
        let found = match self.found.filter(|(known, _)| *known == at) {
            Some((_, found)) => Some(found),
            None => find(log, at, end)?,
        };
        self.found = found.map(|found| (at, found));
        Ok(match found {
            Some(found) if found < applied => {
                self.pause.take(at);
                Limit::Passed(found)
            }
            Some(found) => Limit::Before(found),
            // Everything that is here lies before it; what comes next is looked at first.
            None => Limit::Before(end.max(applied)),
        })
    }

    /// Whether apply stands at the point.
    pub(super) fn stands(&self, applied: Offset) -> bool {
        let at = self.pause.at();
        self.found.is_some_and(|(known, found)| at == Some(known) && found == applied)
            || at == Some(PauseAt::Offset(applied))
    }
}

/// The start of the batch that a point lies in; `None` while it is not here.
fn find(log: &Log, at: PauseAt, end: Offset) -> Result<Option<Offset>> {
    let offset = match at {
        PauseAt::Offset(offset) => offset,
        PauseAt::Time(time) => log.seek_time(time)?,
    };
    if offset >= end {
        return Ok(None);
    }
    let mut cursor = match log.read_range(offset..end) {
        // Dropped long ago, and applied before that.
        Err(e) if e.kind() == Kind::Gone => return Ok(Some(offset)),
        cursor => cursor?,
    };
    match cursor.is_ready() {
        Ok(_) => Ok(Some(cursor.batch_start().unwrap_or(offset).min(offset))),
        Err(e) if e.kind() == Kind::Lost => Ok(Some(offset)),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Batch, Record};

    #[test]
    fn apply_stops_before_the_batch_that_a_point_lies_in_and_goes_on_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::options().create(true).open(dir.path().join("log")).unwrap();
        let append = |times: &[i64]| {
            let mut batch = Batch::new();
            for time in times {
                batch.push(&Record::put(b"k", b"v").at(*time)).unwrap();
            }
            log.append_batch(&batch).unwrap();
        };
        let mut brake = Brake::new(Some(PauseAt::Offset(Offset(4))));
        assert_eq!(brake.limit(&log, Offset(0)).unwrap(), Limit::Before(Offset(0)));
        append(&[10, 10, 10]);
        assert_eq!(brake.limit(&log, Offset(0)).unwrap(), Limit::Before(Offset(3)));
        assert!(!brake.stands(Offset(3)), "what comes next may lie before it");
        append(&[20, 30, 40]);
        assert_eq!(brake.limit(&log, Offset(3)).unwrap(), Limit::Before(Offset(3)));
        assert!(brake.stands(Offset(3)));
        append(&[50]);
        assert_eq!(brake.limit(&log, Offset(3)).unwrap(), Limit::Before(Offset(3)));
        // Further on, by time; then freely, once with a remark.
        brake.pause.set(PauseAt::Time(45));
        assert!(!brake.stands(Offset(3)));
        assert_eq!(brake.limit(&log, Offset(3)).unwrap(), Limit::Before(Offset(6)));
        brake.pause.set(PauseAt::Time(51));
        assert_eq!(brake.limit(&log, Offset(6)).unwrap(), Limit::Before(Offset(7)));
        brake.pause.resume();
        assert_eq!(brake.limit(&log, Offset(6)).unwrap(), Limit::None { resumed: true });
        assert_eq!(brake.limit(&log, Offset(7)).unwrap(), Limit::None { resumed: false });
        // What has been passed is taken away.
        brake.pause.set(PauseAt::Time(15));
        assert_eq!(brake.limit(&log, Offset(7)).unwrap(), Limit::Passed(Offset(3)));
        assert_eq!(brake.pause.at(), None);
        // At the very end of what is here nothing more is applied.
        brake.pause.set(PauseAt::Offset(Offset(7)));
        assert_eq!(brake.limit(&log, Offset(7)).unwrap(), Limit::Before(Offset(7)));
        assert!(brake.stands(Offset(7)));
        append(&[60, 70]);
        assert_eq!(brake.limit(&log, Offset(7)).unwrap(), Limit::Before(Offset(7)));
    }
}
