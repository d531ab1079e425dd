//! The peers, one adapter a file, and the list of all contestants.
//!
//! Each is set up in its most favourable honest way; README.md says how and why. Engines that
//! store keys get the record's number, big-endian where order is by bytes.

mod commitlog;
mod fjall;
mod okaywal;
mod raft_engine;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sqlite;
#[cfg(feature = "tidelog")]
pub mod tidelog;
mod walrus;

use std::path::Path;

use crate::bare::Bare;
use crate::contestant::Contestant;

/// tidelog's name in tables, whether or not it is compiled in.
pub const TIDELOG: &str = "tidelog";

/// All contestants, tidelog and the bare loops first.
pub fn all() -> Vec<Box<dyn Contestant>> {
    vec![
        #[cfg(feature = "tidelog")]
        Box::new(tidelog::Tidelog),
        Box::new(Bare),
        Box::new(commitlog::CommitLog),
        Box::new(okaywal::OkayWal),
        Box::new(walrus::Walrus),
        Box::new(raft_engine::RaftEngine),
        #[cfg(feature = "rocksdb")]
        Box::new(rocksdb::RocksDb),
        Box::new(fjall::Fjall::Tuned),
        Box::new(fjall::Fjall::AsItComes),
        Box::new(redb::Redb),
        Box::new(sqlite::Sqlite),
    ]
}

/// What ends the name of a peer that is there a second time, with its own defaults.
pub const AS_IT_COMES: &str = "-as-it-comes";

/// Settings that engines take per process. Call it before any thread is started.
pub fn prepare_process(root: &Path) -> anyhow::Result<()> {
    walrus::prepare_process(root)
}

/// The numbers at which `producers` writers start: far apart, and above all that earlier writers
/// of the same log used. A single writer goes on from 0.
fn next_number(next: &mut u64, producers: usize) -> impl Iterator<Item = u64> {
    const APART: u64 = 1 << 32;
    let first = *next;
    *next += APART * producers as u64;
    (0..producers as u64).map(move |producer| first + producer * APART)
}
