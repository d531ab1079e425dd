//! Time, processor time and latencies, and what to say of several rounds.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What one measurement found; what does not apply is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Records, by the time they took.
    pub records_per_s: Option<f64>,
    /// Median latency.
    pub p50_us: Option<f64>,
    /// 99th percentile.
    pub p99_us: Option<f64>,
    /// 99.9th percentile.
    pub p999_us: Option<f64>,
    /// Processor time of all the process's threads.
    pub cpu_us_per_record: Option<f64>,
    /// What a word took from one processor to another, right before or right behind: the slower.
    pub hand_over_ns: Option<f64>,
    /// How long an open took.
    pub open_ms: Option<f64>,
    /// How long an open took for each sealed segment.
    pub segment_us: Option<f64>,
    /// The same, until nothing was left to be done in the background.
    pub settled_per_s: Option<f64>,
    /// The longest single batch.
    pub longest_ms: Option<f64>,
    /// Median latency of a read that finds nothing.
    pub absent_p50_us: Option<f64>,
    /// How long a snapshot took.
    pub snapshot_ms: Option<f64>,
    /// How long the next one took, to the same place, after some more upserts.
    pub next_snapshot_ms: Option<f64>,
    /// What that added there; 10⁶ bytes.
    pub next_snapshot_mb: Option<f64>,
    /// Time per record in the first tenth of the batches.
    pub first_tenth_us: Option<f64>,
    /// Time per record in the last tenth.
    pub last_tenth_us: Option<f64>,
    /// The most memory at a time, without pages of files; 10⁶ bytes.
    pub peak_mb: Option<f64>,
    /// What was written to files, each time it was; 10⁶ bytes.
    pub written_mb: Option<f64>,
    /// What files take at the end; 10⁶ bytes.
    pub disk_mb: Option<f64>,
    /// Bytes written, by bytes of keys and values.
    pub write_amplification: Option<f64>,
    /// What the disk takes, written in order and synced, right afterwards; 10⁶ bytes.
    pub sequential_mb_per_s: Option<f64>,
    /// Settled records, by as many as the disk takes of the bytes written for each; a snapshot's
    /// bytes per second, by the disk's.
    pub of_disk: Option<f64>,
    /// The same of what is waited for on the leader alone.
    pub alone_p50_us: Option<f64>,
    /// The same, without what the row adds.
    pub alone_p999_us: Option<f64>,
    /// What waiting for the copy adds at the median, by the median alone.
    pub added_of_alone: Option<f64>,
    /// What the row adds at the 99.9th percentile.
    pub added_p999_us: Option<f64>,
    /// Processor time while nothing happens; percent of a core.
    pub idle_cpu_percent: Option<f64>,
    /// Records that the furthest behind lacks at the end.
    pub lag_records: Option<f64>,
    /// Processor time of this process, and not of those it runs.
    pub server_cpu_us_per_record: Option<f64>,
    /// Bytes of files that were copied; 10⁶ bytes per second.
    pub copied_mb_per_s: Option<f64>,
}

/// One of the [`Figures`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    RecordsPerS,
    P50Us,
    P99Us,
    P999Us,
    CpuUs,
    HandOverNs,
    OpenMs,
    SegmentUs,
    SettledPerS,
    LongestMs,
    AbsentP50Us,
    SnapshotMs,
    NextSnapshotMs,
    NextSnapshotMb,
    FirstTenthUs,
    LastTenthUs,
    PeakMb,
    WrittenMb,
    DiskMb,
    WriteAmplification,
    SequentialMbPerS,
    OfDisk,
    AloneP50Us,
    AloneP999Us,
    AddedOfAlone,
    AddedP999Us,
    IdlePercent,
    LagRecords,
    ServerUs,
    CopiedMbPerS,
}

impl Metric {
    /// All of them, in the order of the tables.
    pub const ALL: [Metric; 30] = [
        Metric::RecordsPerS,
        Metric::P50Us,
        Metric::P99Us,
        Metric::P999Us,
        Metric::CpuUs,
        Metric::HandOverNs,
        Metric::OpenMs,
        Metric::SegmentUs,
        Metric::SettledPerS,
        Metric::LongestMs,
        Metric::AbsentP50Us,
        Metric::SnapshotMs,
        Metric::NextSnapshotMs,
        Metric::NextSnapshotMb,
        Metric::FirstTenthUs,
        Metric::LastTenthUs,
        Metric::PeakMb,
        Metric::WrittenMb,
        Metric::DiskMb,
        Metric::WriteAmplification,
        Metric::SequentialMbPerS,
        Metric::OfDisk,
        Metric::AloneP50Us,
        Metric::AloneP999Us,
        Metric::AddedOfAlone,
        Metric::AddedP999Us,
        Metric::IdlePercent,
        Metric::LagRecords,
        Metric::ServerUs,
        Metric::CopiedMbPerS,
    ];

    /// Its name in the output file.
    pub fn key(self) -> &'static str {
        match self {
            Metric::RecordsPerS => "records_per_s",
            Metric::P50Us => "p50_us",
            Metric::P99Us => "p99_us",
            Metric::P999Us => "p999_us",
            Metric::CpuUs => "cpu_us_per_record",
            Metric::HandOverNs => "hand_over_ns",
            Metric::OpenMs => "open_ms",
            Metric::SegmentUs => "segment_us",
            Metric::SettledPerS => "settled_per_s",
            Metric::LongestMs => "longest_ms",
            Metric::AbsentP50Us => "absent_p50_us",
            Metric::SnapshotMs => "snapshot_ms",
            Metric::NextSnapshotMs => "next_snapshot_ms",
            Metric::NextSnapshotMb => "next_snapshot_mb",
            Metric::FirstTenthUs => "first_tenth_us",
            Metric::LastTenthUs => "last_tenth_us",
            Metric::PeakMb => "peak_mb",
            Metric::WrittenMb => "written_mb",
            Metric::DiskMb => "disk_mb",
            Metric::WriteAmplification => "write_amplification",
            Metric::SequentialMbPerS => "sequential_mb_per_s",
            Metric::OfDisk => "of_disk",
            Metric::AloneP50Us => "alone_p50_us",
            Metric::AloneP999Us => "alone_p999_us",
            Metric::AddedOfAlone => "added_of_alone",
            Metric::AddedP999Us => "added_p999_us",
            Metric::IdlePercent => "idle_cpu_percent",
            Metric::LagRecords => "lag_records",
            Metric::ServerUs => "server_cpu_us_per_record",
            Metric::CopiedMbPerS => "copied_mb_per_s",
        }
    }

    /// Its value.
    pub fn of(self, figures: &Figures) -> Option<f64> {
        match self {
            Metric::RecordsPerS => figures.records_per_s,
            Metric::P50Us => figures.p50_us,
            Metric::P99Us => figures.p99_us,
            Metric::P999Us => figures.p999_us,
            Metric::CpuUs => figures.cpu_us_per_record,
            Metric::HandOverNs => figures.hand_over_ns,
            Metric::OpenMs => figures.open_ms,
            Metric::SegmentUs => figures.segment_us,
            Metric::SettledPerS => figures.settled_per_s,
            Metric::LongestMs => figures.longest_ms,
            Metric::AbsentP50Us => figures.absent_p50_us,
            Metric::SnapshotMs => figures.snapshot_ms,
            Metric::NextSnapshotMs => figures.next_snapshot_ms,
            Metric::NextSnapshotMb => figures.next_snapshot_mb,
            Metric::FirstTenthUs => figures.first_tenth_us,
            Metric::LastTenthUs => figures.last_tenth_us,
            Metric::PeakMb => figures.peak_mb,
            Metric::WrittenMb => figures.written_mb,
            Metric::DiskMb => figures.disk_mb,
            Metric::WriteAmplification => figures.write_amplification,
            Metric::SequentialMbPerS => figures.sequential_mb_per_s,
            Metric::OfDisk => figures.of_disk,
            Metric::AloneP50Us => figures.alone_p50_us,
            Metric::AloneP999Us => figures.alone_p999_us,
            Metric::AddedOfAlone => figures.added_of_alone,
            Metric::AddedP999Us => figures.added_p999_us,
            Metric::IdlePercent => figures.idle_cpu_percent,
            Metric::LagRecords => figures.lag_records,
            Metric::ServerUs => figures.server_cpu_us_per_record,
            Metric::CopiedMbPerS => figures.copied_mb_per_s,
        }
    }

    /// Whether more is better.
    pub fn rises(self) -> bool {
        matches!(
            self,
            Metric::RecordsPerS
                | Metric::SettledPerS
                | Metric::SequentialMbPerS
                | Metric::OfDisk
                | Metric::CopiedMbPerS
        )
    }
}

/// Runs from its making on.
pub struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// Starts.
    pub fn start() -> Self {
        Stopwatch { cpu: cpu_time(), wall: Instant::now() }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.wall.elapsed()
    }

    /// Stops; `records` were handled meanwhile.
    pub fn stop(self, records: u64) -> Figures {
        let wall = self.wall.elapsed();
        let cpu = cpu_time() - self.cpu;
        Figures {
            records_per_s: Some(records as f64 / wall.as_secs_f64()),
            cpu_us_per_record: Some(cpu.as_secs_f64() * 1e6 / records.max(1) as f64),
            ..Figures::default()
        }
    }
}

/// User and system time of all threads of this process so far.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Latencies of single operations, in nanoseconds.
#[derive(Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    /// Room for `count` without allocating while measuring, its memory touched.
    pub fn with_room(count: usize) -> Self {
        let mut room = vec![1; count];
        room.clear();
        Latencies(room)
    }

    /// Notes one.
    #[inline]
    pub fn note(&mut self, latency: Duration) {
        self.0.push(u32::try_from(latency.as_nanos()).unwrap_or(u32::MAX));
    }

    /// How many were noted.
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// The mean of those numbered `range`, in microseconds.
    pub fn mean_us(&self, range: std::ops::Range<usize>) -> Option<f64> {
        let some = self.0.get(range).filter(|some| !some.is_empty())?;
        Some(some.iter().map(|nanos| f64::from(*nanos)).sum::<f64>() / some.len() as f64 / 1e3)
    }

    /// Adds another thread's.
    pub fn join(&mut self, other: Latencies) {
        self.0.extend(other.0);
    }

    /// Puts the percentiles into `figures`.
    pub fn into_figures(mut self, figures: &mut Figures) {
        if self.0.is_empty() {
            return;
        }
        self.0.sort_unstable();
        let at = |q: f64| {
            let last = self.0.len() - 1;
            Some(f64::from(self.0[(q * last as f64).round() as usize]) / 1e3)
        };
        figures.p50_us = at(0.5);
        figures.p99_us = at(0.99);
        figures.p999_us = at(0.999);
    }
}

/// Median, smallest and largest of several rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of `values`; `None` if there are none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Some(Spread { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.5, 4.0));
        assert!(Spread::of(Vec::new()).is_none());
    }

    #[test]
    fn percentiles_are_of_the_sorted_latencies() {
        let mut latencies = Latencies::with_room(0);
        for us in (0..=1000).rev() {
            latencies.note(Duration::from_micros(us));
        }
        let mut figures = Figures::default();
        latencies.into_figures(&mut figures);
        assert_eq!((figures.p50_us, figures.p99_us), (Some(500.0), Some(990.0)));
        assert_eq!(figures.p999_us, Some(999.0));
    }
}
