//! The ends of the log: how far it is written, and how far it is durable.
//!
//! Written by the writer and by the leader of a round (`sync`), read by everyone.

use std::sync::atomic::Ordering::*;

use crate::position::{LogByte, Offset};

use super::primitives::AtomicU64;

/// The ends of the log, each as log byte and offset.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// In the page cache. Written under the writer's lock.
    pub(crate) written_byte: AtomicU64,
    written_offset: AtomicU64,
    /// Synced. Written by the leader of a round; release, so that who sees it may read the frames.
    pub(crate) durable_byte: AtomicU64,
    durable_offset: AtomicU64,
}

impl Ends {
    /// Exact under the writer's lock.
    pub(crate) fn written(&self) -> (LogByte, Offset) {
        (LogByte(self.written_byte.load(Acquire)), Offset(self.written_offset.load(Acquire)))
    }

    pub(crate) fn durable(&self) -> (LogByte, Offset) {
        pair(&self.durable_byte, &self.durable_offset)
    }

    pub(crate) fn set_written(&self, byte: LogByte, offset: Offset) {
        self.written_offset.store(offset.0, Release);
        self.written_byte.store(byte.0, Release);
    }

    pub(crate) fn set_durable(&self, byte: LogByte, offset: Offset) {
        self.durable_offset.store(offset.0, Release);
        self.durable_byte.store(byte.0, Release);
    }
}

/// Reads byte and offset of the same moment.
fn pair(byte: &AtomicU64, offset: &AtomicU64) -> (LogByte, Offset) {
    loop {
        let seen = byte.load(Acquire);
        let at = offset.load(Acquire);
        // The offset is stored first: a newer one beside an older byte shows as a change of the
        // byte soon after, an unchanged pair of offsets is of the same moment.
        if byte.load(Acquire) == seen && offset.load(Acquire) == at {
            return (LogByte(seen), Offset(at));
        }
    }
}
