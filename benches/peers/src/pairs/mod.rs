//! Who takes part in the rows about replication: a leader and whoever copies it, on this machine.
//!
//! Each is two servers or more, as their users run them, in directories and on ports of their own.
//! Who is not installed is left out, and that is said.

mod nats;
mod postgres;
mod process;
mod redis;
mod tidelog;

use std::ops::Range;
use std::path::Path;

use anyhow::Result;

pub use process::Server;
pub use tidelog::{Binary, Lead, lead, tell_applied};

use crate::tables::{Key, Load, VALUE_BYTES};

/// Records that are sent together in a stream.
pub const BATCH: u64 = 10_000;

/// How far one append is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// On the leader's disk.
    Alone,
    /// On the copy's disk as well.
    Copied,
    /// And whoever reads the copy sees it.
    Shown,
}

/// A leader with its copy, as an engine that can take part.
pub trait Contestant: Sync {
    /// Its name in tables and on the command line.
    fn name(&self) -> &'static str;

    /// Why it cannot take part here, if it cannot.
    fn missing(&self) -> Option<String>;

    /// Starts leader and copy in `dir`, which is empty, and waits until the one follows the other.
    fn start(&self, dir: &Path) -> Result<Box<dyn Pair>>;
}

/// A leader and its copy. Dropping it ends both.
pub trait Pair {
    /// Sends the batches that `next` names, each whole, as many under way as it likes; returns
    /// when the copy has all of them on its disk and shows them.
    fn stream(&mut self, load: &Load, next: &mut dyn FnMut() -> Option<Range<u64>>) -> Result<()>;

    /// Appends one record and waits for it.
    fn append(&mut self, key: &Key, value: &[u8; VALUE_BYTES], level: Level) -> Result<()>;
}

/// All contestants, tidelog first; nodes of tidelog are run with `binary`.
pub fn all(binary: &Path) -> Vec<Box<dyn Contestant>> {
    let node = |lead| Box::new(tidelog::Tidelog { lead, binary: Binary(binary.to_path_buf()) });
    vec![
        node(Lead::Embedded),
        node(Lead::Served),
        node(Lead::Files),
        Box::new(postgres::Postgres { primary_key: true }),
        Box::new(postgres::Postgres { primary_key: false }),
        Box::new(redis::Redis),
        Box::new(nats::Nats),
    ]
}
