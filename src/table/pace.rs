//! Pace: which runs are merged, and how much apply is slowed so that it never has to stop.
//!
//! Pure arithmetic and one short sleep; called by `core`.
//!
//! Runs fall into tiers by size: tier n holds those of `fan_in`^n bytes and more. When `fan_in`
//! runs of one tier lie side by side, with smaller ones in between, they become one. So a row is
//! written once for each tier, their number grows with the logarithm of the table, and there are fewer
//! than `fan_in` runs a tier. (Size-tiered compaction, as in Cassandra and RocksDB's universal
//! style; only age-adjacent runs, because among them the newer version wins.)

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// The longest single sleep.
const MOST: Duration = Duration::from_millis(4);
/// From how full on, while the delta before is being written, apply goes slower.
const FROM: f32 = 0.7;

/// The runs to merge next, given their sizes, newest first.
pub(super) fn window(sizes: &[u64], fan_in: usize) -> Option<Range<usize>> {
    let factor = fan_in as u64;
    let tier = |size: u64| size.max(1).ilog(factor);
    let tiers: Vec<u32> = sizes.iter().map(|&size| tier(size)).collect();
    for t in 0..=*tiers.iter().max()? {
        // Smaller ones in between come along.
        let mut start = 0;
        for group in tiers.split(|&tier| tier > t) {
            if group.iter().filter(|&&tier| tier == t).count() >= fan_in {
                return Some(start..start + group.len());
            }
            start += group.len() + 1;
        }
    }
    None
}

/// How far apply and the writing of runs are apart.
#[derive(Debug)]
pub(super) struct Pace {
    /// Runs that merging may be behind before apply goes slower.
    runs: usize,
    /// How much of the frozen delta is written, as the bits of an `f32`.
    flushed: AtomicU32,
}

impl Pace {
    pub(super) fn new(fan_in: usize) -> Self {
        Pace { runs: 4 * fan_in, flushed: AtomicU32::new(0) }
    }

    /// A delta was frozen.
    pub(super) fn froze(&self) {
        self.flushed.store(0, Relaxed);
    }

    /// `done` of `all` rows of the frozen delta are written.
    #[expect(clippy::cast_precision_loss, reason = "a fraction, to pace by")]
    pub(super) fn flushed(&self, done: u64, all: u64) {
        let part = done as f32 / all.max(1) as f32;
        self.flushed.store(part.to_bits(), Relaxed);
    }

    /// Sleeps a little, if apply is to wait for others: `behind` says whether a frozen delta is
    /// being written, `fill` how full the active one is.
    pub(super) fn wait(&self, behind: bool, fill: f32, runs: usize) {
        let delay = self.delay(behind, fill, runs);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a few runs")]
    fn delay(&self, behind: bool, fill: f32, runs: usize) -> Duration {
        let flushed = f32::from_bits(self.flushed.load(Relaxed));
        let ahead = if behind { (fill - FROM.max(flushed)).max(0.0) / (1.0 - FROM) } else { 0.0 };
        let unmerged = runs.saturating_sub(self.runs) as f32 / self.runs as f32;
        MOST.mul_f32(ahead.max(unmerged).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_like_size_side_by_side_are_merged() {
        assert_eq!(window(&[], 4), None);
        assert_eq!(window(&[20, 20, 20], 4), None);
        assert_eq!(window(&[20, 20, 20, 20], 4), Some(0..4));
        assert_eq!(window(&[20, 2, 63, 16, 16, 300], 4), Some(0..5));
        assert_eq!(window(&[2, 2, 2, 20, 20, 20], 4), None);
        assert_eq!(window(&[20, 300, 70, 70, 70, 70], 4), Some(2..6));
        assert_eq!(window(&[20, 20, 300, 20, 20, 300], 4), None);
    }

    #[test]
    fn there_are_few_runs_and_each_row_is_written_once_a_tier() {
        let (mut sizes, mut written) = (Vec::new(), 0);
        let flushes = 400;
        for _ in 0..flushes {
            sizes.insert(0, 100_u64);
            written += 100;
            while let Some(window) = window(&sizes, 6) {
                let merged = sizes[window.clone()].iter().sum();
                written += merged;
                sizes.splice(window, [merged]);
            }
            assert!(sizes.len() <= 3 * 6, "{sizes:?}");
        }
        assert!(written <= 4 * 100 * flushes, "{written}");
    }

    #[test]
    fn apply_is_slowed_before_it_would_have_to_stop() {
        let pace = Pace::new(4);
        assert_eq!(pace.delay(false, 0.99, 3), Duration::ZERO);
        assert_eq!(pace.delay(true, 0.2, 3), Duration::ZERO);
        assert!(pace.delay(true, 0.8, 3) > Duration::ZERO);
        assert_eq!(pace.delay(true, 1.0, 3), MOST);
        pace.flushed(9, 10);
        assert_eq!(pace.delay(true, 0.8, 3), Duration::ZERO);
        assert_eq!(pace.delay(false, 0.1, 40), MOST);
    }
}
