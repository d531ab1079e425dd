//! What an append asks for, and what it comes to.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::position::{Offset, Token};

use super::DEFAULT_TIMEOUT;

/// How safe an append is to be before it is acknowledged. Copies count the leader's own; without a number
/// as many are meant as the mode says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// In the leader's memory.
    Buffered,
    /// In the leader's page cache.
    Written,
    /// On the leader's disk.
    Durable,
    /// On the disks of so many nodes.
    Replicated(Option<usize>),
    /// In the tables of so many nodes.
    Applied(Option<usize>),
    /// In the archive.
    Archived,
}

impl Level {
    pub(super) fn query(self) -> String {
        let (name, copies) = match self {
            Level::Buffered => ("buffered", None),
            Level::Written => ("written", None),
            Level::Durable => ("durable", None),
            Level::Replicated(copies) => ("replicated", copies),
            Level::Applied(copies) => ("applied", copies),
            Level::Archived => ("archived", None),
        };
        let copies = copies.map(|copies| format!("&copies={copies}")).unwrap_or_default();
        format!("&level={name}{copies}")
    }
}

/// What an append asks for.
#[derive(Clone, Debug)]
pub struct AppendOptions {
    pub(super) level: Option<Level>,
    pub(super) timeout: Duration,
    pub(super) key: Option<String>,
    pub(super) sequence: u64,
    pub(super) expect_end: Option<Offset>,
}

impl Default for AppendOptions {
    fn default() -> Self {
        AppendOptions {
            level: None,
            timeout: DEFAULT_TIMEOUT,
            key: None,
            sequence: 1,
            expect_end: None,
        }
    }
}

impl AppendOptions {
    /// How safe it is to be. Default: what the cluster's mode means.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// How long it is tried. Default: 10 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What makes it the same append when it is tried again, also by another process: 1 to 255 visible ASCII
    /// characters. The nodes remember the last 10,000 keys, for 7 days. Default: one drawn for the batch.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The batch's number among those of its key, which must rise: a stream of batches takes one key.
    /// Default: 1.
    #[must_use]
    pub fn sequence(mut self, sequence: u64) -> Self {
        self.sequence = sequence;
        self
    }

    /// Append only if this is the next offset.
    #[must_use]
    pub fn expect_end(mut self, offset: Offset) -> Self {
        self.expect_end = Some(offset);
        self
    }
}

/// What an append came to.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is as safe as its level says.
    Acked(Acked),
    /// It may be in the log, now or later: no node has acknowledged it in time. Sent again with the same key
    /// it is not there twice.
    Unknown {
        /// What was known last.
        why: Error,
        /// The key that it had.
        key: String,
        /// Where it is, if it is there: a node gave it this place.
        token: Option<Token>,
    },
    /// Nothing was appended.
    Rejected {
        /// Why.
        why: Error,
    },
}

impl Outcome {
    /// The acknowledgement; an error otherwise, of the kind [`Kind::Unknown`](crate::Kind::Unknown) when that is what it is.
    pub fn acked(self) -> Result<Acked> {
        match self {
            Outcome::Acked(acked) => Ok(acked),
            Outcome::Unknown { why, .. } | Outcome::Rejected { why } => Err(why),
        }
    }
}

/// An acknowledged append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acked {
    /// Its first record.
    pub first: Offset,
    /// Its last record.
    pub last: Offset,
    /// Stands for it in reads.
    pub token: Token,
    /// How safe it is; under a degraded semi-synchronous set that may be less than was asked for.
    pub level: String,
    /// Nodes that have it durable, the leader among them.
    pub copies: u64,
    /// It was there already: an earlier attempt, or a use of the same key.
    pub duplicate: bool,
}
