//! Writing out early: a thread that syncs the segment that grows while more of it is being copied.
//!
//! Called by `copy` every few MiB, or less where that takes long. The sync that makes a round durable then finds little left to do, and a
//! disk that others sync to has no more than those few MiB before it at a time. Invariants:
//! - a piece that has ended without an error proves what was written before it began, and no more:
//!   [`Copy::synced`](super::copy::Copy::synced) knows how far that was;
//! - an error here is that of the sync after it: the system tells it once, to whoever asks first;
//! - one sync is under way at most.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::fs::{File, Fs};

/// Bytes from one such sync to the next, at most and at least.
pub(super) const MOST_BYTES: u64 = 4 << 20;
const LEAST_BYTES: u64 = 512 << 10;
/// A piece is to take about so long: who else syncs to that disk waits behind it.
const PIECE_NS: u64 = 2_000_000;

/// The thread, and what is under way.
#[derive(Debug)]
pub(super) struct WriteOut {
    files: Option<SyncSender<Arc<dyn File>>>,
    done: Receiver<(io::Result<()>, u64)>,
    /// Bytes from one to the next, as long as they take lately.
    every_bytes: u64,
    under_way: bool,
    thread: Option<JoinHandle<()>>,
}

impl WriteOut {
    /// Starts the thread.
    pub(super) fn start(fs: Arc<dyn Fs>) -> io::Result<Self> {
        let (files, taken) = sync_channel::<Arc<dyn File>>(1);
        let (tell, done) = sync_channel(1);
        let run = move || {
            for file in taken {
                let begun = fs.elapsed();
                let synced = file.sync_data();
                if tell.send((synced, fs.elapsed().saturating_sub(begun))).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("tidelog-writeout".into()).spawn(run)?;
        Ok(WriteOut {
            files: Some(files),
            done,
            every_bytes: MOST_BYTES,
            under_way: false,
            thread: Some(thread),
        })
    }

    /// Has what `file` holds now written out; waits for the piece before.
    pub(super) fn begin(&mut self, file: &Arc<dyn File>) -> io::Result<()> {
        self.finish()?;
        if let Some(files) = &self.files {
            files.send(Arc::clone(file)).map_err(|_| gone())?;
            self.under_way = true;
        }
        Ok(())
    }

    /// Waits for what is under way.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.under_way) {
            true => {
                let (synced, took) = self.done.recv().map_err(|_| gone())?;
                self.every_bytes = next_piece(self.every_bytes, took);
                synced
            }
            false => Ok(()),
        }
    }

    /// Bytes that are worth a piece.
    pub(super) fn every_bytes(&self) -> u64 {
        self.every_bytes
    }
}

impl Drop for WriteOut {
    fn drop(&mut self) {
        self.files = None;
        if let Some(thread) = self.thread.take() {
            // Its panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Smaller pieces while they take long, because the disk is slow or others use it; larger ones otherwise.
fn next_piece(bytes: u64, took_ns: u64) -> u64 {
    let next = match took_ns {
        _ if took_ns > PIECE_NS => bytes / 2,
        _ if took_ns < PIECE_NS / 2 => bytes * 2,
        _ => bytes,
    };
    next.clamp(LEAST_BYTES, MOST_BYTES)
}

/// The thread has panicked: what it was to sync may not be.
fn gone() -> io::Error {
    io::Error::other("the thread tidelog-writeout has ended")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Open;
    use crate::fs::sim::{Errno, Fault, OpKind, Sim};

    #[test]
    fn pieces_get_smaller_while_they_take_long() {
        let (slow, fast) = (9_000_000, 300_000);
        let down: Vec<u64> = (0..5)
            .scan(MOST_BYTES, |bytes, _| {
                *bytes = next_piece(*bytes, slow);
                Some(*bytes >> 10)
            })
            .collect();
        assert_eq!(down, [2048, 1024, 512, 512, 512]);
        assert_eq!(next_piece(LEAST_BYTES, fast), 2 * LEAST_BYTES);
        assert_eq!(next_piece(MOST_BYTES, fast), MOST_BYTES);
        assert_eq!(next_piece(LEAST_BYTES, PIECE_NS), LEAST_BYTES);
    }

    #[test]
    fn an_early_sync_that_failed_is_told_to_who_syncs_next() {
        let sim = Sim::new(1);
        let file = sim.shared().open(std::path::Path::new("/f"), Open::Create).unwrap();
        let mut early = WriteOut::start(sim.shared()).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        early.begin(&file).unwrap();
        early.finish().unwrap();
        sim.fail(Fault::on(OpKind::Sync).error(Errno::Io));
        early.begin(&file).unwrap();
        assert!(early.finish().is_err());
        // Nothing is under way any more.
        early.finish().unwrap();
    }
}
