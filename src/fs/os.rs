//! The real file system: `pread`, `pwrite`, `fdatasync`, `flock`, and read-only maps.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::{File, Fs, Lock, Map, Open};

/// The operating system itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

impl Os {
    /// The real file system, ready to be shared.
    pub fn shared() -> Arc<dyn Fs> {
        Arc::new(Os)
    }
}

impl Fs for Os {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match how {
            Open::Read => {}
            Open::Write => {
                options.write(true);
            }
            Open::Create => {
                options.write(true).create_new(true).mode(0o600);
            }
        }
        Ok(Arc::new(options.open(path)?))
    }

    fn open_plain(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        // Without NONBLOCK, opening a pipe that somebody put there would wait for ever.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .map_err(|e| match rustix::io::Errno::from_io_error(&e) {
                Some(rustix::io::Errno::LOOP) => {
                    io::Error::new(io::ErrorKind::InvalidInput, "a link is not followed here")
                }
                _ => e,
            })?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"));
        }
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        // A second name, then one less: the one way that network mounts know, too. A crash in
        // between leaves the old name, which is as good as gone: its content has the new one.
        fs::hard_link(from, to)?;
        let _ = fs::remove_file(from);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            // A name that is not UTF-8 is none of ours; it is shown, never opened.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn Lock>>> {
        let file = fs::File::open(path)?;
        let how = match exclusive {
            true => FlockOperation::NonBlockingLockExclusive,
            false => FlockOperation::NonBlockingLockShared,
        };
        match rustix::fs::flock(&file, how) {
            Ok(()) => Ok(Some(Box::new(HeldLock(file)))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize()
    }

    fn capacity(&self, path: &Path) -> io::Result<Option<u64>> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Some(stat.f_blocks.saturating_mul(stat.f_frsize)))
    }

    fn machine(&self) -> io::Result<String> {
        let id = match fs::read_to_string("/etc/machine-id") {
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            // Calling it nameless now would make its own directories look copied later.
            other => other?.trim().to_owned(),
        };
        let named = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric());
        Ok(if named { id } else { "unknown".to_owned() })
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(
                &mut bytes[filled..],
                rustix::rand::GetRandomFlags::empty(),
            )?;
        }
        Ok(())
    }

    fn now(&self) -> i64 {
        nanos(clock_gettime(ClockId::Realtime))
    }

    fn now_coarse(&self) -> i64 {
        nanos(clock_gettime(ClockId::RealtimeCoarse))
    }

    fn elapsed(&self) -> u64 {
        // Leases end while a machine sleeps, too: the monotonic clock would stand still then.
        nanos(clock_gettime(ClockId::Boottime)).unsigned_abs()
    }
}

fn nanos(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[derive(Debug)]
struct HeldLock(#[expect(dead_code, reason = "closing it lets go of the lock")] fs::File);

impl Lock for HeldLock {}

impl File for fs::File {
    fn read_at(&self, buf: &mut [u8], byte: u64) -> io::Result<usize> {
        loop {
            match FileExt::read_at(self, buf, byte) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn read_new(&self, bytes: usize, byte: u64) -> io::Result<Vec<u8>> {
        let mut read = Vec::with_capacity(bytes);
        while read.len() < bytes {
            let at = byte + read.len() as u64;
            match rustix::io::pread(self, rustix::buffer::spare_capacity(&mut read), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // There may be more room than was asked for.
        read.truncate(bytes);
        Ok(read)
    }

    fn write_at(&self, buf: &[u8], byte: u64) -> io::Result<usize> {
        loop {
            match FileExt::write_at(self, buf, byte) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        fs::File::set_len(self, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        // On macOS the standard library's sync_data is F_FULLFSYNC.
        fs::File::sync_data(self)
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        Map::file(self, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A machine that slept is made by a time namespace, where the boot-time clock is a day ahead of the
    /// monotonic one. Where that is not allowed, the kernel's tick tells a coarse clock apart.
    #[test]
    fn elapsed_is_the_boot_time_clock() {
        let boot = || nanos(clock_gettime(ClockId::Boottime)).unsigned_abs();
        for _ in 0..1000 {
            let before = boot();
            let elapsed = Os.elapsed();
            assert!(before <= elapsed && elapsed <= boot(), "{elapsed} is another clock's time");
        }
        if std::env::var_os("TIDELOG_TEST_SLEPT").is_some() {
            let monotonic = nanos(clock_gettime(ClockId::Monotonic)).unsigned_abs();
            assert!(boot() > monotonic + 86_000_000_000_000, "this is no time namespace");
            return;
        }
        let allowed =
            Command::new("unshare").args(["--time", "--boottime", "86400", "true"]).output();
        if !allowed.is_ok_and(|tried| tried.status.success()) {
            eprintln!("skipped in part: a time namespace cannot be made here");
            return;
        }
        let slept = Command::new("unshare")
            .args(["--time", "--boottime", "86400"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "fs::os::tests::elapsed_is_the_boot_time_clock"])
            .env("TIDELOG_TEST_SLEPT", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&slept.stdout);
        assert!(slept.status.success() && said.contains("1 passed"), "{said}");
    }
}
