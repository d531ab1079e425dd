//! A limit on bytes per second: who takes bytes waits until they have been paid for.

use std::time::{Duration, Instant};

/// Paces what is read. Without a limit it costs nothing.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    bytes_per_s: Option<u64>,
    /// When everything taken so far is paid for.
    paid: Option<Instant>,
}

impl Throttle {
    pub(super) fn new(bytes_per_s: Option<u64>) -> Self {
        Throttle { bytes_per_s: bytes_per_s.filter(|rate| *rate > 0), paid: None }
    }

    /// How much may be read at once: a tenth of a second's worth, a page at least.
    pub(super) fn step(&self) -> usize {
        let step = self.bytes_per_s.map_or(64 << 10, |rate| (rate / 10).clamp(4096, 64 << 10));
        usize::try_from(step).unwrap_or(4096)
    }

    /// The most bytes to ask for at a time: what is paid for in two seconds. What comes is synced and
    /// said after each answer, so a slow copy is seen to move, and stops soon.
    pub(super) fn block(&self, least: u64, most: u64) -> u64 {
        self.bytes_per_s.map_or(most, |rate| rate.saturating_mul(2).clamp(least, most))
    }

    /// Waits as long as `bytes` cost.
    pub(super) fn take(&mut self, bytes: usize) {
        if let Some(wait) = self.cost(bytes, Instant::now()) {
            std::thread::sleep(wait);
        }
    }

    /// Notes that `bytes` were taken; how long to wait for that.
    fn cost(&mut self, bytes: usize, now: Instant) -> Option<Duration> {
        let rate = self.bytes_per_s?;
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // What was not used before is not saved up.
        let from = self.paid.map_or(now, |paid| paid.max(now));
        let paid = from + cost;
        self.paid = Some(paid);
        Some(paid - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_cost_their_share_of_a_second_and_idle_time_is_not_saved_up() {
        let mut throttle = Throttle::new(Some(1_000_000));
        let start = Instant::now();
        let cost = |throttle: &mut Throttle, bytes, at| throttle.cost(bytes, start + at);
        let second = Duration::from_secs(1);
        assert_eq!(cost(&mut throttle, 500_000, Duration::ZERO), Some(second / 2));
        assert_eq!(cost(&mut throttle, 500_000, Duration::ZERO), Some(second));
        assert_eq!(cost(&mut throttle, 100_000, 10 * second), Some(second / 10));
        assert_eq!(Throttle::new(None).cost(usize::MAX, start), None);
        assert_eq!(Throttle::new(Some(0)).cost(1, start), None);
        assert_eq!(throttle.step(), 64 << 10);
    }

    #[test]
    fn no_more_is_asked_for_than_is_paid_for_soon() {
        let block = |rate| Throttle::new(rate).block(64 << 10, 4 << 20);
        assert_eq!(block(None), 4 << 20);
        assert_eq!(block(Some(1)), 64 << 10);
        assert_eq!(block(Some(1_000_000)), 2_000_000);
        assert_eq!(block(Some(u64::MAX)), 4 << 20);
    }
}
