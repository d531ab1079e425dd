//! Pace: which runs are merged, and how much apply is slowed so that it never has to stop.
//!
//! Arithmetic, and a look at the clock; called by `core`.
//!
//! Runs fall into tiers by size: tier n holds those of `fan_in`^n bytes and more. When `fan_in`
//! runs of one tier lie side by side, with smaller ones in between, they become one. So a row is
//! written once for each tier, their number grows with the logarithm of the table, and there are fewer
//! than `fan_in` runs a tier. (Size-tiered compaction, as in Cassandra and RocksDB's universal
//! style; only age-adjacent runs, because among them the newer version wins.)

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest single sleep: with the batch itself, apply stays below 5 ms.
const MOST: Duration = Duration::from_micros(1500);
/// How much longer than it seems the writing of a run may take: a disk has its moments. More would be
/// slept for nothing, most of the time: half a delta is room enough for those.
const CAUTION: f32 = 1.1;
/// What writing a row takes, until one run was written.
const FIRST_ROW_TIME: Duration = Duration::from_nanos(250);
/// From how much of a run on what it took so far tells how long the rest will take; the start is
/// spent on putting keys in order.
const TELLING: f32 = 0.3;

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
    /// How much of the frozen delta is written, as the bits of an `f32`. Relaxed: a hint.
    flushed: AtomicU32,
    /// Guards how fast both are.
    race: Mutex<Race>,
}

/// Between a freeze and the end of the writing of what was frozen.
#[derive(Debug)]
struct Race {
    began: Instant,
    /// Rows that are being written.
    rows: u64,
    /// Batches since then, and how long apply slept between them.
    batches: u32,
    slept: Duration,
    /// What a row took lately.
    row_time: Duration,
}

impl Pace {
    pub(super) fn new(fan_in: usize) -> Self {
        let race = Race {
            began: Instant::now(),
            rows: 0,
            batches: 0,
            slept: Duration::ZERO,
            row_time: FIRST_ROW_TIME,
        };
        Pace { runs: 4 * fan_in, flushed: AtomicU32::new(0), race: Mutex::new(race) }
    }

    /// A delta with so many keys was frozen.
    pub(super) fn froze(&self, rows: u64) {
        self.flushed.store(0, Relaxed);
        let mut race = self.race();
        let row_time = race.row_time;
        *race = Race { began: Instant::now(), rows, batches: 0, slept: Duration::ZERO, row_time };
    }

    /// All of it is written, and its memory free.
    pub(super) fn wrote(&self) {
        let mut race = self.race();
        if race.rows > 0 {
            race.row_time = race.began.elapsed().div_f64(race.rows as f64);
        }
    }

    fn race(&self) -> MutexGuard<'_, Race> {
        self.race.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `done` of `all` rows of the frozen delta are written.
    #[expect(clippy::cast_precision_loss, reason = "a fraction, to pace by")]
    pub(super) fn flushed(&self, done: u64, all: u64) {
        let part = done as f32 / all.max(1) as f32;
        self.flushed.store(part.to_bits(), Relaxed);
    }

    /// How long apply is to sleep behind a batch, if it is to wait for others: `behind` says
    /// whether a frozen delta is being written, `fill` how full the active one is.
    #[expect(clippy::cast_precision_loss, reason = "a few runs")]
    pub(super) fn delay(&self, behind: bool, fill: f32, runs: usize) -> Option<Duration> {
        let mut race = self.race();
        let flushed = f32::from_bits(self.flushed.load(Relaxed));
        let took = race.began.elapsed();
        let ahead = race.delay(behind, fill, flushed, took);
        let unmerged = runs.saturating_sub(self.runs) as f32 / self.runs as f32;
        let delay = ahead.max(MOST.mul_f32(unmerged.min(1.0)));
        race.slept += delay;
        Some(delay).filter(|delay| !delay.is_zero())
    }
}

impl Race {
    /// What each batch is to wait so that the frozen delta is written, `took` behind the freeze
    /// and with `flushed` of it done, before the active one is full: the time that is missing,
    /// shared out among the batches that still fit.
    fn delay(&mut self, behind: bool, fill: f32, flushed: f32, took: Duration) -> Duration {
        if !behind {
            return Duration::ZERO;
        }
        self.batches += 1;
        let left = if flushed > TELLING {
            took.mul_f32((1.0 - flushed) / flushed)
        } else {
            self.row_time.mul_f64(self.rows as f64).saturating_sub(took)
        };
        // What one more of everything would take, without sleeping.
        let each = fill / self.batches as f32;
        let batches_left = ((1.0 - fill) / each.max(f32::MIN_POSITIVE) - 1.0).max(1.0);
        let work = took.saturating_sub(self.slept) / self.batches;
        let missing = left.mul_f32(CAUTION).saturating_sub(work.mul_f32(batches_left.min(1e6)));
        missing.div_f32(batches_left).min(MOST)
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
    fn apply_is_slowed_as_much_as_is_missing_and_no_more() {
        let ms = Duration::from_millis;
        let race = |batches| Race {
            began: Instant::now(),
            rows: 1000,
            batches,
            slept: Duration::ZERO,
            row_time: Duration::from_micros(100),
        };
        // 200 ms to write, as it was the last time; 9 batches in 9 ms filled 9 of 100 parts.
        let slow = Race { rows: 2000, ..race(8) }.delay(true, 0.09, 0.0, ms(9));
        // 191 ms with caution are 210; 90 batches more take 90.
        assert!((ms(1)..MOST).contains(&slow), "{slow:?}");
        // Half is written: the rest takes as long as that did, and there is time.
        assert_eq!(race(19).delay(true, 0.2, 0.5, ms(20)), Duration::ZERO);
        // It hangs: the sleep has a bound.
        assert_eq!(race(89).delay(true, 0.9, 0.31, ms(900)), MOST);
        // Nothing to wait for.
        assert_eq!(race(89).delay(false, 0.9, 0.0, ms(50)), Duration::ZERO);
    }

    #[test]
    fn apply_is_slowed_when_merging_is_far_behind() {
        let pace = Pace::new(4);
        assert_eq!(pace.delay(false, 0.1, 16), None);
        assert_eq!(pace.delay(false, 0.1, 40), Some(MOST));
    }
}
