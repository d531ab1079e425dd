//! Writing out early: a thread that syncs the segment that grows while more of it is being copied.
//!
//! Called by `copy` every few MiB. The sync that makes a round durable then finds little left to do, and a
//! disk that others sync to has no more than those few MiB before it at a time. Invariants:
//! - it proves nothing: durable is what [`Copy::sync`](super::copy::Copy::sync) syncs after it;
//! - an error here is that sync's error: the system tells it once, to whoever asks first;
//! - one sync is under way at most.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::fs::File;

/// Bytes from one such sync to the next.
pub(super) const EVERY_BYTES: u64 = 4 << 20;

/// The thread, and what is under way.
#[derive(Debug)]
pub(super) struct WriteOut {
    files: Option<SyncSender<Arc<dyn File>>>,
    done: Receiver<io::Result<()>>,
    under_way: bool,
    thread: Option<JoinHandle<()>>,
}

impl WriteOut {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let (files, taken) = sync_channel::<Arc<dyn File>>(1);
        let (tell, done) = sync_channel(1);
        let run = move || {
            for file in taken {
                if tell.send(file.sync_data()).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("tidelog-writeout".into()).spawn(run)?;
        Ok(WriteOut { files: Some(files), done, under_way: false, thread: Some(thread) })
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
            true => self.done.recv().map_err(|_| gone())?,
            false => Ok(()),
        }
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
    fn an_early_sync_that_failed_is_told_to_who_syncs_next() {
        let sim = Sim::new(1);
        let file = sim.shared().open(std::path::Path::new("/f"), Open::Create).unwrap();
        let mut early = WriteOut::start().unwrap();
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
