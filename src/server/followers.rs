//! Who pulls from this node, and how far they are: what their fetches said.
//!
//! Written by each fetch, read by the status, the metrics and the page. Bounded: of more nodes
//! than [`MOST`] the one that was silent longest is forgotten. In memory: what a restart leaves of
//! them are their slots.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::position::{Id, Offset, Position};
use crate::replica::Trail;
use crate::ship::Report;

const MOST: usize = 1000;

/// The followers of a node.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    trail: Trail,
    followers: BTreeMap<Id, Seen>,
}

/// One follower, as its last fetch said.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) address: Option<String>,
    pub(super) report: Report,
    /// What the answer was: `following`, `diverged`, `gone`, `not_leader`.
    pub(super) state: &'static str,
    /// By this node's clock.
    pub(super) contact: i64,
    pub(super) most: Lags,
}

/// How far a follower is behind, durably.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lags {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

impl Followers {
    /// Where those serve that said so.
    pub(super) fn addresses(&self) -> Vec<(Id, String)> {
        let known = self.lock();
        known.followers.iter().filter_map(|(id, seen)| Some((*id, seen.address.clone()?))).collect()
    }

    /// Notes that everything before `end` was durable at `time`.
    pub(super) fn passed(&self, time: i64, end: Offset) {
        self.lock().trail.note(time, end);
    }

    /// How many seconds a copy that ends at `at` is behind at `now`.
    pub(super) fn behind(&self, at: Offset, now: i64) -> f64 {
        self.lock().trail.behind(at, now)
    }

    /// Takes note of a fetch, answered at `time` with `durable` (log byte and offset).
    pub(super) fn fetched(
        &self,
        (name, address): (String, Option<String>),
        report: &Report,
        state: &'static str,
        time: i64,
        durable: (u64, u64),
    ) -> bool {
        let Some(node) = report.node else { return false };
        let mut known = self.lock();
        known.trail.note(time, Offset(durable.1));
        let lags = lags(&known.trail, report.durable, time, durable);
        let before = known.followers.get(&node).map(|seen| seen.most).unwrap_or_default();
        let is_new = !known.followers.contains_key(&node);
        if is_new
            && known.followers.len() == MOST
            && let Some(silent) = known.followers.iter().min_by_key(|(_, seen)| seen.contact)
        {
            let silent = *silent.0;
            known.followers.remove(&silent);
        }
        let most = Lags {
            records: before.records.max(lags.records),
            bytes: before.bytes.max(lags.bytes),
            seconds: before.seconds.max(lags.seconds),
        };
        let report = report.clone();
        known.followers.insert(node, Seen { name, address, report, state, contact: time, most });
        is_new
    }

    /// Everyone, with the lag at `now`.
    pub(super) fn list(&self, now: i64, durable: (u64, u64)) -> Vec<(Id, Seen, Lags)> {
        let mut known = self.lock();
        let Known { trail, followers } = &mut *known;
        let list = followers.iter_mut().map(|(node, seen)| {
            let lags = lags(trail, seen.report.durable, now, durable);
            seen.most.records = seen.most.records.max(lags.records);
            seen.most.bytes = seen.most.bytes.max(lags.bytes);
            seen.most.seconds = seen.most.seconds.max(lags.seconds);
            (*node, seen.clone(), lags)
        });
        list.collect()
    }

    /// How far a copy that ends at `at` is behind at `now`.
    pub(super) fn lags(&self, at: Position, now: i64, durable: (u64, u64)) -> Lags {
        lags(&self.lock().trail, at, now, durable)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lags(trail: &Trail, at: Position, now: i64, durable: (u64, u64)) -> Lags {
    Lags {
        records: durable.1.saturating_sub(at.offset.0),
        bytes: durable.0.saturating_sub(at.log_byte.0),
        seconds: trail.behind(at.offset, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{LogByte, Position};

    const SECOND: i64 = 1_000_000_000;

    fn report(node: u8, offset: u64) -> Report {
        let durable = Position {
            log_byte: LogByte(offset * 10),
            offset: Offset(offset),
            ..Position::default()
        };
        Report { node: Some(Id([node; 16])), durable, ..Report::default() }
    }

    #[test]
    fn a_silent_followers_lag_grows_and_the_most_is_kept() {
        let followers = Followers::default();
        let name = || ("edge".to_owned(), None);
        assert!(followers.fetched(name(), &report(1, 5), "following", SECOND, (50, 5)));
        followers.passed(3 * SECOND, Offset(9));
        let lag = |now, durable| followers.list(now, durable)[0].2;
        let behind = lag(10 * SECOND, (90, 9));
        assert_eq!((behind.records, behind.bytes), (4, 40));
        assert!((behind.seconds - 7.0).abs() < 1e-9);
        assert!(!followers.fetched(name(), &report(1, 9), "following", 11 * SECOND, (90, 9)));
        assert_eq!(lag(12 * SECOND, (90, 9)).seconds, 0.0);
        let most = followers.list(12 * SECOND, (90, 9))[0].1.most;
        assert_eq!(most.records, 4);
        assert!(most.seconds >= 7.0);
    }

    #[test]
    fn no_more_nodes_are_kept_than_the_limit() {
        let followers = Followers::default();
        for i in 0..MOST + 10 {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(i as u64).to_be_bytes());
            let report = Report { node: Some(Id(id)), ..Report::default() };
            followers.fetched((String::new(), None), &report, "following", i as i64, (0, 0));
        }
        let kept = followers.list(0, (0, 0));
        assert_eq!(kept.len(), MOST);
        assert_eq!(kept.iter().map(|(_, seen, _)| seen.contact).min(), Some(10));
    }
}
