//! How many seconds a follower is behind: when the source had what the follower lacks.
//!
//! A [`Trail`] remembers when the durable end passed which offset, by one clock, the leader's. A
//! follower at an offset is behind since the first mark above it; with nothing above it is not
//! behind, so an idle log shows zero and nothing is written for it. Pure, used by followers of
//! themselves and by servers of those who pull from them.
//!
//! Invariants: times and offsets rise; at most [`MARKS`] are kept, thinned out where they are
//! oldest, so that a long lag is told coarsely and never as none.

use std::collections::VecDeque;

use crate::position::Offset;

const MARKS: usize = 4096;

/// When the durable end passed which offset.
#[derive(Debug, Default)]
pub struct Trail(VecDeque<(i64, Offset)>);

impl Trail {
    /// Notes that everything before `end` was durable at `time` (nanoseconds since 1970).
    pub fn note(&mut self, time: i64, end: Offset) {
        let last = self.0.back().copied();
        if last.is_some_and(|(_, known)| known > end) {
            // The source was changed for one that has less: what was noted is of another.
            self.0.clear();
        } else if last.is_some_and(|(_, known)| known == end) {
            return;
        }
        let time = last.map_or(time, |(then, _)| then.max(time));
        if self.0.len() == MARKS {
            let mut odd = false;
            self.0.retain(|_| {
                odd = !odd;
                odd
            });
        }
        self.0.push_back((time, end));
    }

    /// How long a copy that ends at `at` is behind, `now` by the same clock.
    pub fn behind(&self, at: Offset, now: i64) -> f64 {
        let first = self.0.partition_point(|(_, end)| *end <= at);
        match self.0.get(first) {
            Some((since, _)) => seconds(now.saturating_sub(*since).max(0)),
            None => 0.0,
        }
    }
}

/// Nanoseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "a lag is told to the microsecond at best")]
fn seconds(nanos: i64) -> f64 {
    (nanos / 1000) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_copy_is_behind_since_the_first_record_it_lacks_was_durable() {
        let mut trail = Trail::default();
        trail.note(10 * SECOND, Offset(100));
        trail.note(12 * SECOND, Offset(200));
        trail.note(20 * SECOND, Offset(200));
        let now = 30 * SECOND;
        for (at, behind) in [(0, 20.0), (99, 20.0), (100, 18.0), (199, 18.0), (200, 0.0)] {
            assert!((trail.behind(Offset(at), now) - behind).abs() < 1e-9, "{at}");
        }
    }

    #[test]
    fn a_long_trail_is_thinned_and_still_tells_a_lag() {
        let mut trail = Trail::default();
        for i in 0..100_000 {
            trail.note(i * SECOND, Offset(i as u64 + 1));
        }
        assert!(trail.0.len() <= MARKS);
        let behind = trail.behind(Offset(0), 100_000 * SECOND);
        assert!(behind > 90_000.0, "{behind}");
        assert_eq!(trail.behind(Offset(100_000), i64::MAX), 0.0);
    }

    #[test]
    fn a_source_that_has_less_begins_a_new_trail() {
        let mut trail = Trail::default();
        trail.note(SECOND, Offset(100));
        trail.note(2 * SECOND, Offset(50));
        assert_eq!(trail.behind(Offset(50), 9 * SECOND), 0.0);
        assert!((trail.behind(Offset(10), 9 * SECOND) - 7.0).abs() < 1e-9);
    }
}
