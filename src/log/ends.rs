//! The ends of the log: how far it is written, durable, and committed.
//!
//! Written by the writer and by the leader of a round (`sync`), one at a time; the committed end by
//! who leads or follows with a synchronous set. Read by everyone, without a lock.
//!
//! ```text
//! publish: coming = offset → byte → offset        read: offset → byte → coming; equal? a pair
//! ```
//!
//! Invariants:
//! - who sees a byte may read every frame below it;
//! - byte and offset read together were published together. Two words alone cannot promise that: a
//!   publisher that rests between its two stores shows a pair that never was, for as long as it
//!   rests. The third word tells that it is on its way;
//! - who has seen a byte sees its offset, or a later one;
//! - while commits are held, readers are shown the committed end and nothing behind it. What they
//!   were shown before is committed when the holding begins.

use std::sync::atomic::Ordering::*;

use crate::position::{LogByte, Offset};

use super::primitives::{AtomicBool, AtomicU64, pause};

/// The ends of the log, each as log byte and offset.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// In the page cache. Written under the writer's lock.
    pub(crate) written_byte: AtomicU64,
    written_offset: AtomicU64,
    written_coming: AtomicU64,
    /// Synced. Written by the leader of a round; release, so that who sees it may read the frames.
    pub(crate) durable_byte: AtomicU64,
    durable_offset: AtomicU64,
    durable_coming: AtomicU64,
    /// Promised under the replication mode; says something only while `held`.
    committed_byte: AtomicU64,
    committed_offset: AtomicU64,
    committed_coming: AtomicU64,
    /// Durable is not enough to be shown.
    held: AtomicBool,
}

impl Ends {
    pub(crate) fn written(&self) -> (LogByte, Offset) {
        pair(&self.written_coming, &self.written_byte, &self.written_offset)
    }

    pub(crate) fn durable(&self) -> (LogByte, Offset) {
        pair(&self.durable_coming, &self.durable_byte, &self.durable_offset)
    }

    /// Whether durable is not enough to be shown.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(SeqCst)
    }

    /// The committed end: the durable one, unless commits are held.
    ///
    /// Held or not is asked again behind the durable end: what was durable while nothing was held is
    /// committed, because [`hold`](Ends::hold) looks at the durable end once more afterwards.
    pub(crate) fn committed(&self) -> (LogByte, Offset) {
        if !self.is_held() {
            let durable = self.durable();
            if !self.is_held() {
                return durable;
            }
        }
        pair(&self.committed_coming, &self.committed_byte, &self.committed_offset)
    }

    /// The same, the byte alone.
    #[inline]
    pub(crate) fn committed_byte(&self) -> u64 {
        if !self.is_held() {
            let durable = self.durable_byte.load(Acquire);
            if !self.is_held() {
                return durable;
            }
        }
        self.committed_byte.load(Acquire)
    }

    /// From here on only what is committed is shown; what is durable now counts as committed.
    pub(crate) fn hold(&self) {
        if self.is_held() {
            return;
        }
        let (byte, offset) = self.durable();
        self.set_committed(byte, offset);
        self.held.store(true, SeqCst);
        // Somebody may have been shown what became durable in between.
        let (byte, offset) = self.durable();
        self.set_committed(byte, offset);
    }

    /// The same with a committed end that is known, before anybody reads.
    pub(crate) fn hold_at(&self, byte: LogByte, offset: Offset) {
        self.set_committed(byte, offset);
        self.held.store(true, SeqCst);
    }

    /// Raises the committed end; whether it rose. One at a time.
    pub(crate) fn commit(&self, byte: LogByte, offset: Offset) -> bool {
        let rises = byte.0 > self.committed_byte.load(Acquire);
        if rises {
            self.set_committed(byte, offset);
        }
        rises
    }

    /// Durable is enough again.
    pub(crate) fn release(&self) {
        self.held.store(false, SeqCst);
    }

    fn set_committed(&self, byte: LogByte, offset: Offset) {
        self.committed_coming.store(offset.0, Relaxed);
        self.committed_byte.store(byte.0, Release);
        self.committed_offset.store(offset.0, Release);
    }

    pub(crate) fn set_written(&self, byte: LogByte, offset: Offset) {
        self.written_coming.store(offset.0, Relaxed);
        self.written_byte.store(byte.0, Release);
        self.written_offset.store(offset.0, Release);
    }

    pub(crate) fn set_durable(&self, byte: LogByte, offset: Offset) {
        self.durable_coming.store(offset.0, Relaxed);
        self.durable_byte.store(byte.0, Release);
        self.durable_offset.store(offset.0, Release);
    }
}

/// Reads byte and offset of the same moment.
fn pair(coming: &AtomicU64, byte: &AtomicU64, offset: &AtomicU64) -> (LogByte, Offset) {
    let mut spins = 0;
    loop {
        // An offset says that its byte is there, and a byte that what comes with it was told: the
        // loads go the way of the stores backwards.
        let at = offset.load(Acquire);
        let seen = byte.load(Acquire);
        if coming.load(Relaxed) == at {
            return (LogByte(seen), Offset(at));
        }
        pause(&mut spins);
    }
}
