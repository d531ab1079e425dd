//! Read-only maps of files that never change again.
//!
//! One of the few files with `unsafe`: mapping a file is sound only while nobody changes or
//! shortens it. The engine maps sealed segments of its own directory alone: they are written
//! under a temporary life as the active segment, which is never mapped, and afterwards only
//! unlinked. Someone else who truncates such a file can still kill the process (SIGBUS); the
//! contract is passed up in `docs/DURABILITY.md`, and maps can be switched off.

#![allow(unsafe_code)]

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::{fmt, fs, io};

/// The bytes of a file that never changes again; cheap to clone.
#[derive(Clone)]
pub struct Map {
    /// Where they are: kept beside their owner, because readers look at every row anew and would
    /// go through two pointers each time.
    bytes: NonNull<[u8]>,
    _owner: Owner,
}

#[derive(Clone)]
enum Owner {
    Mapped(#[expect(dead_code, reason = "keeps it mapped")] Arc<memmap2::Mmap>),
    Memory(#[expect(dead_code, reason = "keeps it allocated")] Arc<[u8]>),
}

// SAFETY: bytes that are only read, kept by an owner that may itself go to other threads.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    pub(super) fn file(file: &fs::File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // SAFETY: callers map only sealed files, which tidelog never writes or shortens again;
        // the module's contract passes the rest to the owner of the directory.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
        let map = Arc::new(map);
        Ok(Map { bytes: NonNull::from(&map[..]), _owner: Owner::Mapped(map) })
    }

    /// A map that is plain memory.
    pub fn memory(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Map { bytes: NonNull::from(&bytes[..]), _owner: Owner::Memory(bytes) }
    }
}

/// Has the cache line at an address brought near, without waiting for it. A hint: any address will
/// do, and nothing but time depends on it.
#[inline]
pub(crate) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint to the processor; the address need not even be mapped.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

impl Deref for Map {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the owner keeps them, where they are and as they are, as long as `self` lives.
        unsafe { self.bytes.as_ref() }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({} bytes)", self.len())
    }
}
