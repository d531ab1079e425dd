//! Read-only maps of files that never change again.
//!
//! One of the few files with `unsafe`: mapping a file is sound only while nobody changes or
//! shortens it. The engine maps sealed segments of its own directory alone: they are written
//! under a temporary life as the active segment, which is never mapped, and afterwards only
//! unlinked. Someone else who truncates such a file can still kill the process (SIGBUS); the
//! contract is passed up in `docs/DURABILITY.md`, and maps can be switched off.

#![allow(unsafe_code)]

use std::ops::Deref;
use std::sync::Arc;
use std::{fmt, fs, io};

/// The bytes of a file that never changes again; cheap to clone.
#[derive(Clone)]
pub struct Map(Inner);

#[derive(Clone)]
enum Inner {
    Mapped(Arc<memmap2::Mmap>),
    Memory(Arc<[u8]>),
}

impl Map {
    pub(super) fn file(file: &fs::File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // SAFETY: callers map only sealed files, which tidelog never writes or shortens again;
        // the module's contract passes the rest to the owner of the directory.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
        Ok(Map(Inner::Mapped(Arc::new(map))))
    }

    /// A map that is plain memory.
    pub fn memory(bytes: impl Into<Arc<[u8]>>) -> Self {
        Map(Inner::Memory(bytes.into()))
    }
}

impl Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Mapped(map) => map,
            Inner::Memory(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({} bytes)", self.len())
    }
}
