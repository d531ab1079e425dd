//! A limit on bytes per second: who takes bytes waits until they have been paid for, or is told to
//! stop.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often who waits looks whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Paces what is read. Without a limit it costs nothing.
#[derive(Default)]
pub(super) struct Throttle {
    bytes_per_s: Option<u64>,
    /// When everything taken so far is paid for.
    paid: Option<Instant>,
    stop: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl Throttle {
    /// Sets the limit.
    pub(super) fn limit(&mut self, bytes_per_s: Option<u64>) {
        self.bytes_per_s = bytes_per_s.filter(|rate| *rate > 0);
    }

    /// Once this says so, nobody waits any more.
    pub(super) fn stop_when(&mut self, stop: impl Fn() -> bool + Send + Sync + 'static) {
        self.stop = Some(Arc::new(stop));
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

    /// Waits as long as `bytes` cost; an error once it is told to stop.
    pub(super) fn take(&mut self, bytes: usize) -> io::Result<()> {
        let wait = self.cost(bytes, Instant::now()).unwrap_or_default();
        match self.wait(wait) {
            true => Ok(()),
            false => Err(io::Error::other("told to stop")),
        }
    }

    /// Waits so long; `false` as soon as it is told to stop.
    pub(super) fn wait(&self, mut left: Duration) -> bool {
        loop {
            if self.stop.as_ref().is_some_and(|stop| stop()) {
                return false;
            }
            let nap = match self.stop {
                Some(_) => left.min(LOOK),
                None => left,
            };
            if nap.is_zero() {
                return true;
            }
            std::thread::sleep(nap);
            left -= nap;
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

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle").field("bytes_per_s", &self.bytes_per_s).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(bytes_per_s: Option<u64>) -> Throttle {
        let mut throttle = Throttle::default();
        throttle.limit(bytes_per_s);
        throttle
    }

    #[test]
    fn who_waits_for_an_hour_stops_when_told() {
        let mut throttle = limited(Some(1));
        let asked = std::sync::atomic::AtomicU32::new(0);
        throttle.stop_when(move || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 1);
        assert_eq!(throttle.take(3600).unwrap_err().to_string(), "told to stop");
        assert!(!throttle.wait(Duration::ZERO), "and takes nothing more");
    }

    #[test]
    fn bytes_cost_their_share_of_a_second_and_idle_time_is_not_saved_up() {
        let mut throttle = limited(Some(1_000_000));
        let start = Instant::now();
        let cost = |throttle: &mut Throttle, bytes, at| throttle.cost(bytes, start + at);
        let second = Duration::from_secs(1);
        assert_eq!(cost(&mut throttle, 500_000, Duration::ZERO), Some(second / 2));
        assert_eq!(cost(&mut throttle, 500_000, Duration::ZERO), Some(second));
        assert_eq!(cost(&mut throttle, 100_000, 10 * second), Some(second / 10));
        assert_eq!(limited(None).cost(usize::MAX, start), None);
        assert_eq!(limited(Some(0)).cost(1, start), None);
        assert_eq!(throttle.step(), 64 << 10);
    }

    #[test]
    fn no_more_is_asked_for_than_is_paid_for_soon() {
        let block = |rate| limited(rate).block(64 << 10, 4 << 20);
        assert_eq!(block(None), 4 << 20);
        assert_eq!(block(Some(1)), 64 << 10);
        assert_eq!(block(Some(1_000_000)), 2_000_000);
        assert_eq!(block(Some(u64::MAX)), 4 << 20);
    }
}
