//! What the machine does to figures, and what is done against it.
//!
//! - Memory freed for seconds goes back to the host of a virtual machine, and touching it again
//!   is slow: [`warm`] and [`warm_cache`] touch as much as a measurement may need just before it.
//! - Dirty pages of one contestant would be written while another is synced: [`quiesce`] writes
//!   them first.
//! - Files held open by an engine's leftovers keep their blocks when removed: [`wipe`] cuts them
//!   to nothing first.
//! - Its processors may lie near each other or far apart, and not the same from one second to the
//!   next: [`hand_over`] tells, for whoever uses two threads.
//! - Other processes take processors and wake-ups: [`Elsewhere`] tells, so that a row can say so.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::family;
use crate::measure::Spread;

/// The directory that everything of one run lies in; removed at the end.
pub struct Workplace {
    root: TempDir,
    serial: AtomicU64,
}

impl Workplace {
    /// A new directory in `parent`, or where temporary files go.
    pub fn new(parent: Option<&Path>) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("tidelog-peers-");
        let root = match parent {
            Some(parent) => {
                fs::create_dir_all(parent)
                    .with_context(|| format!("create {}", parent.display()))?;
                builder.tempdir_in(parent)?
            }
            None => builder.tempdir()?,
        };
        Ok(Workplace { root, serial: AtomicU64::new(0) })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A new, empty directory in it; wiped when dropped.
    pub fn place(&self, name: &str) -> Result<Place> {
        let serial = self.serial.fetch_add(1, Relaxed);
        let path = self.root().join(format!("{serial}-{name}"));
        fs::create_dir(&path)?;
        Ok(Place { path })
    }

    /// The kind of file system, as far as it matters here.
    pub fn file_system(&self) -> String {
        match rustix::fs::statfs(self.root()).map(|found| found.f_type) {
            Ok(0xEF53) => "ext4".into(),
            Ok(0x0102_1994) => "tmpfs".into(),
            Ok(0x5846_5342) => "xfs".into(),
            Ok(magic) => format!("{magic:#x}"),
            Err(_) => "unknown".into(),
        }
    }
}

/// A contestant's directory.
pub struct Place {
    path: PathBuf,
}

impl Place {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        wipe(&self.path);
    }
}

/// Removes `path` and gives its blocks back at once, even of files that are still open.
fn wipe(path: &Path) {
    for file in files(path).unwrap_or_default() {
        // Best effort: what is left goes with the whole directory at the end of the run.
        let _ = File::options().write(true).open(&file).and_then(|file| file.set_len(0));
    }
    let _ = fs::remove_dir_all(path);
}

/// All files below `path`.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => found.extend(files(&entry.path())?),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    Ok(found)
}

/// Makes `live` equal to `template`, on disk too: only files that differ in length or time of
/// change are copied, so that putting back what an open changed costs little.
pub fn restore(template: &Path, live: &Path) -> Result<()> {
    for path in files(live)? {
        if !template.join(path.strip_prefix(live)?).exists() {
            fs::remove_file(&path)?;
        }
    }
    for path in files(template)? {
        let target = live.join(path.strip_prefix(template)?);
        let (from, to) = (fs::metadata(&path)?, fs::metadata(&target).ok());
        let modified = from.modified()?;
        if to.is_some_and(|to| to.len() == from.len() && to.modified().ok() == Some(modified)) {
            continue;
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&path, &target)?;
        File::options().write(true).open(&target)?.set_modified(modified)?;
    }
    quiesce(live)
}

/// Who else uses the processors, from its making on.
pub struct Elsewhere {
    start: Instant,
    before: Duration,
}

impl Elsewhere {
    /// Starts looking.
    pub fn watch() -> Self {
        Elsewhere { start: Instant::now(), before: busy_elsewhere() }
    }

    /// Cores that other processes, or other virtual machines, used on average; 0 when the time
    /// was too short to tell.
    pub fn cores(&self) -> f64 {
        let seconds = self.start.elapsed().as_secs_f64();
        let busy = busy_elsewhere().saturating_sub(self.before);
        if seconds < 0.5 { 0.0 } else { busy.as_secs_f64() / seconds }
    }
}

/// Processor time that was neither this process's nor of those it runs, since the machine started.
fn busy_elsewhere() -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    // cpu user nice system idle iowait irq softirq steal
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let ticks: Vec<u32> = fields.map(|field| field.parse().unwrap_or(0)).collect();
    let busy: u32 = [0, 1, 2, 5, 6, 7].iter().filter_map(|&i| ticks.get(i)).sum();
    (TICK * busy).saturating_sub(family::cpu_time())
}

/// Nanoseconds that a word takes from one processor to another, as far apart as they are just now: the
/// median of short games, so that who is preempted in one of them does not count.
pub fn hand_over() -> f64 {
    const GAMES: usize = 41;
    const TURNS: u64 = 1000;
    let word = AtomicU64::new(0);
    let all = GAMES as u64 * TURNS;
    // Who waits for an even number passes on the odd one behind it, and the other way round.
    let play = |turn: u64| {
        while word.load(Acquire) != turn {
            std::hint::spin_loop();
        }
        word.store(turn + 1, Release);
    };
    let games = std::thread::scope(|scope| {
        scope.spawn(|| (1..2 * all).step_by(2).for_each(play));
        let game = |first: u64| {
            let start = Instant::now();
            (first..first + 2 * TURNS).step_by(2).for_each(play);
            start.elapsed().as_nanos() as f64 / (2 * TURNS) as f64
        };
        (0..GAMES as u64).map(|i| game(i * 2 * TURNS)).collect()
    });
    Spread::of(games).expect("more than none").median
}

/// Touches `bytes` of memory and frees them, so that what follows finds warm memory.
pub fn warm(bytes: u64) {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    std::hint::black_box(vec![1_u8; bytes]);
}

/// The same for what becomes page cache of files in `dir`: the kernel takes that memory from
/// elsewhere.
pub fn warm_cache(dir: &Path, bytes: u64) -> Result<()> {
    let path = dir.join("warm");
    let mut file = File::create(&path).context("create a file to warm memory")?;
    // In pieces as large as the contestants', for pages as large.
    let piece = vec![1; 1 << 20];
    for _ in 0..bytes.div_ceil(piece.len() as u64) {
        file.write_all(&piece).context("warm memory")?;
    }
    fs::remove_file(&path).context("remove the file that warmed memory")
}

/// Writes all dirty pages of the file system below `path` to its device.
pub fn quiesce(path: &Path) -> Result<()> {
    rustix::fs::syncfs(File::open(path)?).context("sync the file system")
}

/// Has the page cache forget the files below `dir`, which are on the device and which nobody maps.
pub fn evict(dir: &Path) -> Result<()> {
    quiesce(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            evict(&entry.path())?;
        } else {
            let file = File::open(entry.path())?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Ends this process at once, like a crash: nothing is flushed, nothing is closed.
pub fn die() -> ! {
    let me = rustix::process::getpid();
    let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
    unreachable!("a killed process does not go on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restore_puts_back_what_changed_and_removes_what_came() -> Result<()> {
        let workplace = Workplace::new(None)?;
        let (template, live) = (workplace.place("template")?, workplace.place("live")?);
        fs::create_dir(template.path().join("below"))?;
        fs::write(template.path().join("below/kept"), "kept")?;
        fs::write(template.path().join("changed"), "before")?;
        restore(template.path(), live.path())?;
        fs::write(live.path().join("changed"), "longer than before")?;
        fs::write(live.path().join("new"), "new")?;
        restore(template.path(), live.path())?;
        assert_eq!(fs::read_to_string(live.path().join("changed"))?, "before");
        assert_eq!(fs::read_to_string(live.path().join("below/kept"))?, "kept");
        assert!(!live.path().join("new").exists());
        Ok(())
    }
}
