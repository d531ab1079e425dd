//! What a measurement takes from the machine: memory, writes to the device, files.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Watches this process, from its making on.
pub struct Gauge {
    watching: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    watcher: Option<JoinHandle<()>>,
    before: u64,
    written: u64,
}

impl Gauge {
    /// Starts. What the allocator holds from before goes back first, so that it is not used
    /// unseen.
    pub fn start() -> Result<Self> {
        give_back();
        let before = anonymous_bytes();
        let (watching, peak) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(before)));
        let watcher = std::thread::Builder::new().name("gauge".into()).spawn({
            let (watching, peak) = (watching.clone(), peak.clone());
            move || {
                while watching.load(Relaxed) {
                    peak.fetch_max(anonymous_bytes(), Relaxed);
                    std::thread::park_timeout(LOOK_EVERY);
                }
            }
        })?;
        Ok(Gauge { watching, peak, watcher: Some(watcher), before, written: written_bytes() })
    }

    /// The most memory so far beyond what was there at the start, without pages of files.
    pub fn peak_bytes(&self) -> u64 {
        self.peak.fetch_max(anonymous_bytes(), Relaxed).max(anonymous_bytes()) - self.before
    }

    /// Bytes that this process made dirty in files since the start, as the kernel counts them:
    /// 0 where it does not, as on tmpfs.
    pub fn written_bytes(&self) -> u64 {
        written_bytes().saturating_sub(self.written)
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.watching.store(false, Relaxed);
        if let Some(watcher) = self.watcher.take() {
            watcher.thread().unpark();
            // It has nothing to say; a panic in it was printed.
            let _ = watcher.join();
        }
    }
}

fn anonymous_bytes() -> u64 {
    field("/proc/self/status", "RssAnon:") << 10
}

fn written_bytes() -> u64 {
    field("/proc/self/io", "write_bytes:")
}

/// The number behind `name` in a file of the kernel's; 0 without it.
fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines.next().and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Gives memory that the allocator holds free back to the kernel.
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: glibc's; it takes its locks and touches only memory that nobody owns.
        unsafe { malloc_trim(0) };
    }
}

/// Bytes that the files below `dir` take on disk; those that disappear meanwhile take none.
pub fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => disk_bytes(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Writes a new file of `bytes` in `dir` in order and syncs it: bytes per second.
pub fn sequential_rate(dir: &Path, bytes: u64) -> Result<f64> {
    let path = dir.join("sequential");
    let piece = vec![0x5A; 1 << 20];
    let pieces = bytes.div_ceil(piece.len() as u64).max(1);
    let start = Instant::now();
    let mut file = File::create(&path).context("create a file to write in order")?;
    for _ in 0..pieces {
        file.write_all(&piece).context("write in order")?;
    }
    file.sync_data()?;
    let seconds = start.elapsed().as_secs_f64();
    fs::remove_file(&path)?;
    Ok((pieces * piece.len() as u64) as f64 / seconds)
}
