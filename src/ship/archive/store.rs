//! The seam to where an archive lies: a few operations on named objects, all synchronous.
//!
//! Called by everything else in the archive. Behind it: [`LocalStore`](super::LocalStore), a
//! directory; `RemoteStore` (feature `object-store`), S3 and its like; and a fake for tests.
//!
//! What is asked of a store, and no more:
//! - a create succeeds for one of several at once, and what exists stays;
//! - what was written is seen by the next read of that name;
//! - lists may be late and in any order: nothing is decided by them.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Kind, Result};

use super::name::{ObjectName, Prefix};

/// Gives the bytes of an object at a place in it, exactly as many as asked for.
pub type ReadPart<'a> = dyn FnMut(u64, &mut [u8]) -> Result<()> + 'a;

/// Where an archive's objects lie.
pub trait Store: Send + Sync + Debug {
    /// What it is called, by people and in errors.
    fn place(&self) -> String;

    /// Up to `len` bytes at `from`; fewer mean the object's end. `None` when there is no such
    /// object.
    fn get_range(&self, name: &ObjectName, from: u64, len: usize) -> Result<Option<Vec<u8>>>;

    /// Writes an object whole, whatever was there; durable when it returns.
    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<()>;

    /// Writes an object of `len` bytes that `read` gives part by part: it takes a byte, and fills what
    /// it is given. Nothing has the name before all of it is there.
    fn put_from(&self, name: &ObjectName, len: u64, read: &mut ReadPart<'_>) -> Result<()> {
        let too_large = || Error::new(Kind::Io, format!("{len} bytes do not fit this store"));
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| too_large())?];
        read(0, &mut bytes)?;
        self.put(name, &bytes)
    }

    /// Writes an object whole if there is none of that name; durable when it returns.
    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create;

    /// Names and sizes under a prefix, in any order, perhaps without the newest. What is not a
    /// name of the grammar is left out.
    fn list(&self, prefix: Prefix) -> Result<Vec<(ObjectName, u64)>>;

    /// Removes an object; fine if there is none.
    fn delete(&self, name: &ObjectName) -> Result<()>;

    /// How many requests at a time it answers about as fast as one.
    fn width(&self) -> usize {
        1
    }

    /// Waits before the same is tried again for the `attempt`th time.
    fn back_off(&self, attempt: u32) {
        let wait = Duration::from_millis(20u64.saturating_mul(1 << attempt.min(7)));
        std::thread::park_timeout(wait);
    }
}

/// What became of a create.
#[derive(Clone, Debug)]
pub enum Create {
    /// It is there now, and this call put it there.
    Created,
    /// There was something, perhaps put there by this very call, tried twice on its way.
    Exists,
    /// It may be there or not, or may yet come: a time-out, a conflict, a failing server.
    Unknown(Error),
}

impl dyn Store + '_ {
    /// A whole object of at most `limit` bytes.
    pub fn get(&self, name: &ObjectName, limit: usize) -> Result<Option<Vec<u8>>> {
        let bytes = self.get_range(name, 0, limit + 1)?;
        if bytes.as_ref().is_some_and(|bytes| bytes.len() > limit) {
            return Err(Error::new(
                Kind::Corrupt,
                format!("expected an object of at most {limit} bytes, found a larger one"),
            )
            .in_file(&self.file(name)));
        }
        Ok(bytes)
    }

    /// An object's name here, for errors.
    pub fn file(&self, name: &ObjectName) -> PathBuf {
        PathBuf::from(format!("{}/{name}", self.place().trim_end_matches('/')))
    }
}
