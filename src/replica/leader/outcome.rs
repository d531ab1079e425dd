//! What an append comes to, and how safe it is asked to be.

use std::fmt;

use crate::error::Error;
use crate::log::{Appended, Durability};

/// How safe an append is to be before it is acknowledged, each level with those before it
/// (`Archived` is apart).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// In the leader's memory.
    Buffered,
    /// In the leader's page cache.
    Written,
    /// On the leader's disk.
    Durable,
    /// On the disks of so many other nodes, too; and committed, where the mode asks for copies.
    Replicated(usize),
    /// In the tables of so many other nodes, too.
    Applied(usize),
    /// On the leader's disk and in the archive: apart from the levels that count nodes.
    Archived,
}

impl Level {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Buffered => "buffered",
            Level::Written => "written",
            Level::Durable => "durable",
            Level::Replicated(_) => "replicated",
            Level::Applied(_) => "applied",
            Level::Archived => "archived",
        }
    }

    /// What of it this node does alone.
    pub(super) fn durability(self) -> Durability {
        match self {
            Level::Buffered => Durability::Buffered,
            Level::Written => Durability::Written,
            _ => Durability::Durable,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Level::Replicated(k) | Level::Applied(k) => write!(f, "{} by {k}", self.as_str()),
            _ => f.write_str(self.as_str()),
        }
    }
}

/// What an append came to.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is as safe as `level` says; under a degraded semi-synchronous set that may be less than
    /// was asked for.
    Acked {
        /// Where it is.
        appended: Appended,
        /// How safe it is.
        level: Level,
        /// Nodes that have it durable, the leader among them.
        copies: usize,
    },
    /// It has its place and may yet be committed: neither acknowledged nor rejected.
    Unknown {
        /// Where it is, if it is there.
        appended: Appended,
        /// What it waited for.
        why: Error,
    },
    /// Nothing was appended.
    Rejected {
        /// What the mode asks for.
        why: Error,
    },
}
