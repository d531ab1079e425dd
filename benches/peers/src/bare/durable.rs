//! Whole pages over a recycled file, then `fdatasync`.
//!
//! The file was filled with zeros and synced before, so a sync writes data and no metadata. The
//! last, partial page stays in memory and is written again with what follows. At the end of the
//! file writing goes on at its start.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::{Result, anyhow};

use super::frame;
use crate::contestant::{Engine, Writer};
use crate::payload::Payloads;

const FILE_BYTES: u64 = 256 << 20;
const PAGE_BYTES: usize = 4096;
/// Bytes kept free at the end of the file: more than a group can hold.
const MARGIN_BYTES: u64 = 8 << 20;

/// The recycled file and the group that is filling.
pub(super) struct Recycled {
    file: File,
    /// Guards the group that is filling and who commits.
    group: Mutex<Group>,
    /// Wakes those who wait for a commit.
    committed: Condvar,
}

struct Group {
    filling: Pages,
    spare: Vec<u8>,
    joined: u64,
    done: u64,
    committing: bool,
    failed: bool,
}

/// Bytes not yet on disk, from the start of a page on.
struct Pages {
    bytes: Vec<u8>,
    at: u64,
}

impl Pages {
    /// Pads to whole pages; the caller writes them. Returns what comes next: the last partial
    /// page, in `spare`'s memory.
    fn close(&mut self, mut spare: Vec<u8>) -> Pages {
        let whole = self.bytes.len() / PAGE_BYTES * PAGE_BYTES;
        spare.clear();
        let mut at = self.at + whole as u64;
        if at < FILE_BYTES - MARGIN_BYTES {
            spare.extend_from_slice(&self.bytes[whole..]);
        } else {
            at = 0;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(PAGE_BYTES), 0);
        Pages { bytes: spare, at }
    }

    fn write(&self, file: &File) -> Result<()> {
        file.write_all_at(&self.bytes, self.at)?;
        Ok(file.sync_data()?)
    }
}

impl Recycled {
    pub(super) fn create(dir: &Path) -> Result<Self> {
        let file = File::create_new(dir.join("recycled.log"))?;
        let zeros = vec![0; 1 << 20];
        for at in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        let room = || {
            let mut room = vec![0; 1 << 20];
            room.clear();
            room
        };
        let group = Group {
            filling: Pages { bytes: room(), at: 0 },
            spare: room(),
            joined: 0,
            done: 0,
            committing: false,
            failed: false,
        };
        Ok(Recycled { file, group: Mutex::new(group), committed: Condvar::new() })
    }

    /// Adds to the group that is filling and waits until it is on disk; the first who finds
    /// nobody committing commits for all.
    fn commit(&self, add: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut group.filling.bytes);
        group.joined += 1;
        let mine = group.joined;
        loop {
            if group.failed {
                return Err(anyhow!("another producer's commit failed"));
            }
            if group.done >= mine {
                return Ok(());
            }
            if group.committing {
                group = self.committed.wait(group).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            group.committing = true;
            let last = group.joined;
            let spare = std::mem::take(&mut group.spare);
            let next = group.filling.close(spare);
            let full = std::mem::replace(&mut group.filling, next);
            drop(group);
            let written = full.write(&self.file);
            group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
            group.spare = full.bytes;
            group.committing = false;
            group.done = last;
            group.failed |= written.is_err();
            self.committed.notify_all();
            return written;
        }
    }
}

impl Engine for Recycled {
    fn writers(&mut self, producers: usize) -> Result<Vec<Box<dyn Writer + '_>>> {
        if producers == 1 {
            let group = self.group.get_mut().unwrap_or_else(PoisonError::into_inner);
            return Ok(vec![Box::new(Alone { file: &self.file, group })]);
        }
        let shared = &*self;
        Ok((0..producers).map(|_| Box::new(Grouped(shared)) as Box<dyn Writer>).collect())
    }
}

/// The only producer: no lock, no other thread.
struct Alone<'a> {
    file: &'a File,
    group: &'a mut Group,
}

impl Alone<'_> {
    fn commit(&mut self) -> Result<()> {
        let spare = std::mem::take(&mut self.group.spare);
        let next = self.group.filling.close(spare);
        let full = std::mem::replace(&mut self.group.filling, next);
        full.write(self.file)?;
        self.group.spare = full.bytes;
        Ok(())
    }
}

impl Writer for Alone<'_> {
    fn append(&mut self, payload: &'static [u8]) -> Result<()> {
        frame(&mut self.group.filling.bytes, payload);
        self.commit()
    }

    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        for n in from..from + count {
            frame(&mut self.group.filling.bytes, payloads.get(n));
        }
        self.commit()
    }
}

/// One of several producers.
struct Grouped<'a>(&'a Recycled);

impl Writer for Grouped<'_> {
    fn append(&mut self, payload: &'static [u8]) -> Result<()> {
        self.0.commit(|bytes| frame(bytes, payload))
    }

    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        self.0.commit(|bytes| (from..from + count).for_each(|n| frame(bytes, payloads.get(n))))
    }
}
