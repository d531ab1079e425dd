//! The seam to the operating system: one narrow, `dyn` trait that everything below the log uses.
//!
//! [`Os`] is the real one; `sim` (feature `sim`) keeps what was written apart from what is
//! durable, so that crash tests can take every disk state a power cut may leave. Invariants:
//! - nothing in tidelog's engine touches a file, the clock or randomness except through [`Fs`];
//! - [`File::sync_data`] makes data and length durable, [`Fs::sync_dir`] names; nothing else does;
//! - a [`Map`] is read-only and taken of files that never change again.

mod mmap;
mod os;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use mmap::Map;
pub(crate) use mmap::prefetch;
pub use os::Os;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// A new file (mode 0600), to read and write; an error if the name is taken.
    Create,
}

/// What tidelog asks of the operating system.
pub trait Fs: Send + Sync + Debug {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// Opens an existing plain file to read, never through a link: for names that others chose.
    fn open_plain(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open(path, Open::Read)
    }
    /// Renames a file, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file to a name that nothing has; an error, with nothing changed, if something has
    /// it. Of several at once, one succeeds.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory (mode 0700); fine if it is there already.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the advisory lock of an existing file; `None` when somebody holds it.
    fn lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<Box<dyn Lock>>>;
    /// The absolute path without links.
    fn canonical(&self, path: &Path) -> io::Result<PathBuf>;
    /// The bytes of the file system that a path is on; `None` where there is no such thing.
    fn capacity(&self, path: &Path) -> io::Result<Option<u64>>;
    /// What tells this machine from others; the same word for all that have no name.
    fn machine(&self) -> io::Result<String>;
    /// Fills `bytes` with randomness.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;
    /// Nanoseconds since the Unix epoch.
    fn now(&self) -> i64;
    /// The same at the kernel's tick (milliseconds), several times cheaper to read.
    fn now_coarse(&self) -> i64;
    /// Nanoseconds since the machine's start, on a clock that nobody sets and that goes on while the
    /// machine sleeps.
    fn elapsed(&self) -> u64;
}

/// An open file. Positions are explicit: there is no cursor to share.
pub trait File: Send + Sync + Debug {
    /// Reads at `byte`; fewer bytes than asked for mean the end of the file.
    fn read_at(&self, buf: &mut [u8], byte: u64) -> io::Result<usize>;
    /// Reads so many `bytes` at `byte`, into memory that need not be filled with zeros before; fewer mean
    /// the end of the file.
    fn read_new(&self, bytes: usize, byte: u64) -> io::Result<Vec<u8>> {
        let mut read = vec![0; bytes];
        let mut len = 0;
        while len < bytes {
            match self.read_at(&mut read[len..], byte + len as u64)? {
                0 => break,
                n => len += n,
            }
        }
        read.truncate(len);
        Ok(read)
    }
    /// Writes at `byte`; may write less than asked for.
    fn write_at(&self, buf: &[u8], byte: u64) -> io::Result<usize>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends (with zeros).
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes data and length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Maps the first `len` bytes for reading. Only for files that never change again.
    fn map(&self, len: u64) -> io::Result<Map>;
}

/// A held lock; dropping it lets go.
pub trait Lock: Send + Sync + Debug {}

impl dyn File + '_ {
    /// Reads exactly `buf`, or says how much there was.
    pub fn read_exact_at(&self, buf: &mut [u8], byte: u64) -> io::Result<()> {
        let read = self.read_full_at(buf, byte)?;
        if read < buf.len() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("expected {} bytes at byte {byte}, found {read}", buf.len()),
            ));
        }
        Ok(())
    }

    /// Reads until `buf` is full or the file ends; returns how much there was.
    pub fn read_full_at(&self, buf: &mut [u8], byte: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buf.len() {
            match self.read_at(&mut buf[read..], byte + read as u64)? {
                0 => break,
                n => read += n,
            }
        }
        Ok(read)
    }

    /// Writes all of `buf`. A disk that takes nothing, and gives no reason, is full.
    pub fn write_all_at(&self, buf: &[u8], byte: u64) -> io::Result<()> {
        let mut written = 0;
        while written < buf.len() {
            match self.write_at(&buf[written..], byte + written as u64)? {
                0 => return Err(io::ErrorKind::StorageFull.into()),
                n => written += n,
            }
        }
        Ok(())
    }
}
