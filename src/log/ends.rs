//! The ends of the log: how far it is written, and how far it is durable.
//!
//! Written by the writer and by the leader of a round (`sync`), one at a time; read by everyone,
//! without a lock.
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
//! - who has seen a byte sees its offset, or a later one.

use std::sync::atomic::Ordering::*;

use crate::position::{LogByte, Offset};

use super::primitives::{AtomicU64, pause};

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
}

impl Ends {
    pub(crate) fn written(&self) -> (LogByte, Offset) {
        pair(&self.written_coming, &self.written_byte, &self.written_offset)
    }

    pub(crate) fn durable(&self) -> (LogByte, Offset) {
        pair(&self.durable_coming, &self.durable_byte, &self.durable_offset)
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
