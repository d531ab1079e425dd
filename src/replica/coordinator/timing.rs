//! Time-outs that fit together, and the smallest ttl that what was measured allows. Pure.
//!
//! ```text
//! renewal sent ── renew ──► next one sent ── request, request ──► answered ── margin ──► ttl over
//! ```
//!
//! Invariant: with times that [`Timing::check`] passes, one renewal may fail, and the next one's answer
//! still comes before the holder has to stop.

use std::collections::VecDeque;
use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// Renewals that an advice is made of.
const WINDOW: usize = 256;
/// No ttl is shorter: leases are counted in seconds, and a pause of a second is nothing unusual.
pub const MIN_TTL: Duration = Duration::from_secs(2);
/// No ttl is longer: whoever waits for one to end waits at most so long.
pub const MAX_TTL: Duration = Duration::from_secs(3600);

/// The times of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a seat is held without being renewed.
    pub ttl: Duration,
    /// From one renewal to the next.
    pub renew: Duration,
    /// A request is given up after so long.
    pub request: Duration,
    /// A holder stops so long before its seat is over: clocks do not run alike.
    pub margin: Duration,
}

impl Timing {
    /// The times that belong to a ttl: renewed each third of it, with a tenth of it as margin.
    pub fn of(ttl: Duration, request: Duration) -> Self {
        Timing { ttl, renew: ttl / 3, request, margin: ttl / 10 }
    }

    /// Refuses times of which one failed renewal would end the leadership.
    pub fn check(&self) -> Result<()> {
        if self.ttl < MIN_TTL || self.ttl > MAX_TTL {
            return Err(Error::new(
                Kind::InvalidInput,
                format!(
                    "expected a ttl of {} to {} seconds, found {:?}",
                    MIN_TTL.as_secs(),
                    MAX_TTL.as_secs(),
                    self.ttl
                ),
            ));
        }
        let needs = self.request.saturating_mul(2).saturating_add(self.renew);
        if self.request.is_zero() || self.renew.is_zero() || needs > self.until_margin() {
            return Err(Error::new(
                Kind::InvalidInput,
                format!(
                    "expected renew + 2 * request <= ttl - margin, found {:?} + 2 * {:?} > {:?} - {:?}",
                    self.renew, self.request, self.ttl, self.margin
                ),
            )
            .help("a longer ttl, or requests that are given up sooner"));
        }
        Ok(())
    }

    /// How long after a renewal was sent its holder stops.
    pub fn until_margin(&self) -> Duration {
        self.ttl.saturating_sub(self.margin)
    }
}

/// What renewals took, and the ttl that follows from it.
#[derive(Clone, Debug, Default)]
pub struct Advice {
    took: VecDeque<Duration>,
}

impl Advice {
    /// Takes note of a renewal, answered or given up.
    pub fn note(&mut self, took: Duration) {
        if self.took.len() == WINDOW {
            self.took.pop_front();
        }
        self.took.push_back(took);
    }

    /// The slowest of the last ones.
    pub fn slowest(&self) -> Option<Duration> {
        self.took.iter().max().copied()
    }

    /// The smallest ttl, in whole seconds, that [`Timing::check`] passes with requests as slow as the
    /// slowest; `None` before anything was measured, and where no ttl is long enough.
    pub fn smallest_ttl(&self) -> Option<Duration> {
        let request = self.slowest()?.max(Duration::from_millis(1));
        (MIN_TTL.as_secs()..=MAX_TTL.as_secs())
            .map(Duration::from_secs)
            .find(|ttl| Timing::of(*ttl, request).check().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_renewal_may_fail_and_the_next_one_still_comes_in_time() {
        let millis = Duration::from_millis;
        let ten = Timing::of(millis(10_000), millis(2_833));
        ten.check().unwrap();
        assert_eq!(ten.until_margin(), millis(9_000));
        let error = Timing { request: millis(2_834), ..ten }.check().unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidInput);
        assert!(error.to_string().contains("renew + 2 * request <= ttl - margin"), "{error}");
        for bad in [
            Timing { ttl: millis(1_999), ..ten },
            Timing { ttl: millis(3_600_001), ..ten },
            Timing { request: Duration::ZERO, ..ten },
            Timing { renew: Duration::ZERO, ..ten },
            Timing { margin: millis(20_000), ..ten },
            Timing { request: Duration::MAX, ..ten },
        ] {
            bad.check().unwrap_err();
        }
    }

    #[test]
    fn the_advised_ttl_is_the_smallest_that_passes() {
        let mut advice = Advice::default();
        assert_eq!(advice.smallest_ttl(), None);
        for (millis, seconds) in [(0, 2), (5, 2), (600, 3), (2_833, 10), (2_834, 11)] {
            advice.note(Duration::from_millis(millis));
            let ttl = advice.smallest_ttl().unwrap();
            assert_eq!(ttl, Duration::from_secs(seconds), "{millis} ms");
        }
        advice.note(Duration::from_secs(5000));
        assert_eq!(advice.smallest_ttl(), None);
        for _ in 0..WINDOW {
            advice.note(Duration::from_millis(600));
        }
        assert_eq!(advice.smallest_ttl(), Some(Duration::from_secs(3)), "old ones are forgotten");
    }
}
