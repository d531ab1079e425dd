//! The seal hash of the segment that grows: computed where the bytes are, or in a thread beside when many
//! come.
//!
//! ```text
//! append, few bytes    ── add ──► here
//! append, many bytes   ── the buffer ──► tidelog-hash ── emptied ──► the next fetch
//! seal                 ── waits for what is under way ──► the hash
//! ```
//!
//! Called by `copy`. Invariants:
//! - bytes are added in the order in which they stand in the file, each once;
//! - at most [`WAITING`] buffers wait to be hashed, so memory stays bounded.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::segment::Hashing;

use super::copy::Fetched;

/// Fewer bytes are hashed at once: waking the thread would cost more.
const WORTH_A_WAKE: usize = 128 << 10;
/// Buffers that wait for the thread.
const WAITING: usize = 4;

/// The hash so far, wherever it is computed.
#[derive(Debug)]
pub(super) enum SoFar {
    Here(Box<Hashing>),
    /// In the thread.
    Beside,
    /// Nobody has it: the segment's beginning was not written by this process.
    Unknown,
}

/// The thread, which is started when it is first worth while.
#[derive(Debug, Default)]
pub(super) struct HashBeside {
    thread: Option<Thread>,
    /// Whether there may be one.
    pub(super) allowed: bool,
}

#[derive(Debug)]
struct Thread {
    jobs: Option<SyncSender<Job>>,
    emptied: Receiver<Vec<u8>>,
    done: Receiver<Box<Hashing>>,
    handle: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Job {
    Begin(Box<Hashing>),
    Add(Vec<u8>, usize),
    End,
}

impl HashBeside {
    /// Adds the frames, which are written, to the hash; returns a buffer for the next ones.
    pub(super) fn add(&mut self, so_far: &mut SoFar, frames: Fetched) -> Vec<u8> {
        if frames.len >= WORTH_A_WAKE && !matches!(so_far, SoFar::Unknown) && self.begin(so_far) {
            let thread = self.thread.as_ref().expect("begun above");
            return match thread.send(Job::Add(frames.buffer, frames.len)) {
                true => thread.emptied.try_recv().unwrap_or_default(),
                false => {
                    *so_far = SoFar::Unknown;
                    Vec::new()
                }
            };
        }
        self.fetch(so_far);
        if let SoFar::Here(hashing) = so_far {
            hashing.add(frames.bytes());
        }
        frames.buffer
    }

    /// Everything that was added, hashed; `None` when the file must be read for it.
    pub(super) fn end(&mut self, mut so_far: SoFar) -> Option<Hashing> {
        self.fetch(&mut so_far);
        match so_far {
            SoFar::Here(hashing) => Some(*hashing),
            _ => None,
        }
    }

    /// Has the thread go on with it; `false` when there is none.
    fn begin(&mut self, so_far: &mut SoFar) -> bool {
        if self.thread.is_none() && self.allowed {
            // Without it the hash is computed here.
            self.thread = Thread::start().ok();
        }
        let Some(thread) = &self.thread else { return false };
        match std::mem::replace(so_far, SoFar::Beside) {
            SoFar::Here(hashing) => thread.send(Job::Begin(hashing)),
            SoFar::Beside => true,
            SoFar::Unknown => false,
        }
    }

    /// Takes it back from the thread.
    fn fetch(&mut self, so_far: &mut SoFar) {
        if let (SoFar::Beside, Some(thread)) = (&*so_far, &self.thread) {
            let hashing = thread.send(Job::End).then(|| thread.done.recv().ok()).flatten();
            // A thread that has panicked takes it along; the file still has the bytes.
            *so_far = hashing.map_or(SoFar::Unknown, SoFar::Here);
        }
    }
}

impl Thread {
    fn start() -> std::io::Result<Self> {
        let (jobs, taken) = sync_channel(WAITING);
        // One more fits than can ever be empty at a time: giving one back never waits.
        let (empty, emptied) = sync_channel(WAITING + 2);
        let (tell, done) = sync_channel(1);
        let run = move || {
            let mut hashing = None;
            for job in taken {
                match job {
                    Job::Begin(begun) => hashing = Some(begun),
                    Job::Add(bytes, len) => {
                        if let Some(hashing) = &mut hashing {
                            hashing.add(&bytes[..len]);
                        }
                        // One too many is dropped.
                        let _ = empty.try_send(bytes);
                    }
                    Job::End => {
                        let Some(hashing) = hashing.take() else { return };
                        if tell.send(hashing).is_err() {
                            return;
                        }
                    }
                }
            }
        };
        let handle = std::thread::Builder::new().name("tidelog-hash".into()).spawn(run)?;
        Ok(Thread { jobs: Some(jobs), emptied, done, handle: Some(handle) })
    }

    fn send(&self, job: Job) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok())
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(handle) = self.handle.take() {
            // Its panic was reported when it happened.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_bytes_in_any_order_have_the_hash_of_the_whole() {
        let page = vec![7; 4096];
        let mut all = Hashing::begin(&page);
        let mut beside = HashBeside { allowed: true, ..HashBeside::default() };
        let mut so_far = SoFar::Here(Box::new(Hashing::begin(&page)));
        for (round, len) in [10, 300_000, 200_000, 5, 7, 131_072, 1].into_iter().enumerate() {
            let mut buffer: Vec<u8> = (0..len).map(|at| (at * 31 + round) as u8).collect();
            all.add(&buffer);
            buffer.extend_from_slice(b"behind the frames");
            beside.add(&mut so_far, Fetched { buffer, len, ..Fetched::default() });
        }
        let hashed = beside.end(so_far).unwrap();
        assert_eq!(hashed.finish(), all.finish());
        assert!(beside.end(SoFar::Unknown).is_none());
    }
}
