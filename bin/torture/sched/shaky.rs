//! A seam that dawdles: the simulated disk, with yields, spins and sleeps around its calls.
//!
//! Everything else of a call goes through unchanged. Syncs dawdle more than the rest, as they do
//! on a real disk: groups gather meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tidelog::fs::{File, Fs, Lock, Map, Open};

use crate::dice::Dice;

/// The file system that dawdles.
#[derive(Debug)]
pub struct Shaky {
    inner: Arc<dyn Fs>,
    whim: Arc<Whim>,
}

/// When to dawdle.
#[derive(Debug)]
struct Whim {
    /// Throws so far; each call throws dice of its own.
    throws: AtomicU64,
    /// Of 256 calls.
    often: u64,
}

impl Whim {
    fn dawdle(&self, long: u64) {
        let mut dice = Dice::new(self.throws.fetch_add(1, Relaxed));
        if !dice.chance(self.often * long, 256) {
            return;
        }
        match dice.below(16) {
            0 => std::thread::sleep(Duration::from_micros(20 + dice.below(200 * long))),
            1..6 => (0..dice.below(3000)).for_each(|_| std::hint::spin_loop()),
            _ => (0..1 + dice.below(3)).for_each(|_| std::thread::yield_now()),
        }
    }

    fn around<T>(&self, call: impl FnOnce() -> T) -> T {
        self.dawdle(1);
        let result = call();
        self.dawdle(1);
        result
    }
}

impl Shaky {
    /// `often` of 256 calls dawdle.
    pub fn over(inner: Arc<dyn Fs>, seed: u64, often: u64) -> Arc<dyn Fs> {
        let whim = Whim { throws: AtomicU64::new(seed << 32), often };
        Arc::new(Shaky { inner, whim: Arc::new(whim) })
    }
}

impl Fs for Shaky {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let inner = self.whim.around(|| self.inner.open(path, how))?;
        Ok(Arc::new(ShakyFile { inner, whim: Arc::clone(&self.whim) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.whim.around(|| self.inner.rename(from, to))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.whim.around(|| self.inner.rename_new(from, to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.whim.around(|| self.inner.unlink(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.inner.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.whim.dawdle(4);
        self.whim.around(|| self.inner.sync_dir(path))
    }

    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn Lock>>> {
        self.inner.lock(path, exclusive)
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        self.inner.canonical(path)
    }

    fn capacity(&self, path: &Path) -> io::Result<Option<u64>> {
        self.inner.capacity(path)
    }
    fn machine(&self) -> io::Result<String> {
        self.inner.machine()
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.random(bytes)
    }

    fn now(&self) -> i64 {
        self.inner.now()
    }

    fn now_coarse(&self) -> i64 {
        self.inner.now_coarse()
    }

    fn elapsed(&self) -> u64 {
        self.inner.elapsed()
    }
}

#[derive(Debug)]
struct ShakyFile {
    inner: Arc<dyn File>,
    whim: Arc<Whim>,
}

impl File for ShakyFile {
    fn read_at(&self, buf: &mut [u8], byte: u64) -> io::Result<usize> {
        self.whim.dawdle(1);
        self.inner.read_at(buf, byte)
    }

    fn write_at(&self, buf: &[u8], byte: u64) -> io::Result<usize> {
        self.whim.around(|| self.inner.write_at(buf, byte))
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.whim.around(|| self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.whim.dawdle(4);
        self.whim.around(|| self.inner.sync_data())
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        self.whim.around(|| self.inner.map(len))
    }
}
