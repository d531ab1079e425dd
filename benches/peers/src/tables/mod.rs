//! Who takes part in the rows about tables: key → latest value, with the offset applied last
//! stored in the same batch.
//!
//! Unlike logs, tables differ in where their upserts come from: tidelog's pulls them out of a log
//! that [`Contestant::prepare`] wrote, the others are handed them. So the loop over the batches
//! is inside [`Store::upserts`], and what a row times is each batch of it.

mod fjall;
mod hash;
mod lmdb;
mod load;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sqlite;
#[cfg(feature = "tidelog")]
mod tidelog;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use hash::NAME as HASH;
pub use load::{Expected, Key, Keys, Load, Tally, VALUE_BYTES, key, stamp};

/// Where the others keep the offset applied last, beside their rows: a key of another length.
const APPLIED: &[u8] = b"applied!";

/// How a table is opened.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// An own directory: empty, or with what the same contestant wrote.
    pub dir: &'a Path,
    /// What [`Contestant::prepare`] was given.
    pub source: &'a Path,
    /// Whether what is there already goes first.
    pub fresh: bool,
    /// What happens next.
    pub job: Job,
}

/// What a table is opened for; each contestant takes its best honest settings for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Upserts, snapshots beside them, and what comes after.
    Write,
    /// Reads from memory, of rows that lie so.
    Read(Shape),
    /// Opened again, as a process does that starts: nothing is got ready for what may come.
    Restart,
}

/// Where rows lie when they are read; only tidelog tells these apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// In memory, all of them.
    Delta,
    /// As upserts left them: in memory, the older ones on disk.
    Applied,
    /// On disk, all merged.
    OneRun,
    /// On disk, in four parts.
    SeveralRuns,
}

/// An engine that can take part.
pub trait Contestant: Sync {
    /// Its name in tables and on the command line.
    fn name(&self) -> &'static str;

    /// Whether its rows outlive the process.
    fn persists(&self) -> bool {
        true
    }

    /// What is there before a measurement begins, in a directory that stays over the rounds.
    fn prepare(&self, _source: &Path, _load: &Load) -> Result<()> {
        Ok(())
    }

    /// Opens or creates its table.
    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Store>>;

    /// Where the files of its table lie.
    fn files(&self, setup: &Setup<'_>) -> PathBuf {
        setup.dir.to_path_buf()
    }
}

/// An open table. Dropping it closes it.
pub trait Store: Send + Sync {
    /// Upserts all of `load`, in order, and tells `each` how long each batch took.
    fn upserts(&self, load: &Load, each: &mut dyn FnMut(Duration)) -> Result<()>;

    /// Waits until nothing is left to be done in the background: runs written, merges merged.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Fills it for reading; speed does not count. `shape` is what it was opened for.
    fn fill(&self, load: &Load, _shape: Shape) -> Result<()> {
        self.upserts(load, &mut |_| ())?;
        self.settle()
    }

    /// A consistent snapshot as files in `to`, an empty directory, while upserts go on.
    fn snapshot(&self, to: &Path) -> Result<()>;

    /// A reader of what is there now.
    fn reader(&self) -> Result<Box<dyn Reader + '_>>;
}

/// Reads a table from one thread.
pub trait Reader {
    /// The [`stamp`] of the value of `key`.
    fn get(&mut self, key: &Key) -> Result<Option<u64>>;

    /// Visits every row.
    fn scan(&mut self, tally: &mut Tally<'_>) -> Result<()>;
}

/// All contestants, tidelog and the ceiling first.
pub fn all() -> Vec<Box<dyn Contestant>> {
    vec![
        #[cfg(feature = "tidelog")]
        Box::new(tidelog::Tidelog),
        Box::new(hash::Hash),
        Box::new(fjall::Fjall),
        Box::new(lmdb::Lmdb { write_map: false }),
        Box::new(lmdb::Lmdb { write_map: true }),
        Box::new(redb::Redb),
        #[cfg(feature = "rocksdb")]
        Box::new(rocksdb::RocksDb),
        Box::new(sqlite::Sqlite),
    ]
}

/// Times `upsert` on each batch of `load`.
fn by_batch(
    load: &Load,
    each: &mut dyn FnMut(Duration),
    mut upsert: impl FnMut(Range<u64>) -> Result<()>,
) -> Result<()> {
    for batch in load.batches() {
        let start = Instant::now();
        upsert(batch)?;
        each(start.elapsed());
    }
    Ok(())
}

/// A snapshot as plain rows, one after another, for those who have no backup of their own.
struct RowFile(BufWriter<File>);

impl RowFile {
    fn create(dir: &Path) -> Result<Self> {
        let file = File::create(dir.join("rows")).context("create the file of a snapshot")?;
        Ok(RowFile(BufWriter::with_capacity(1 << 20, file)))
    }

    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.0.write_all(key)?;
        Ok(self.0.write_all(value)?)
    }

    fn finish(self) -> Result<()> {
        match self.0.into_inner() {
            Ok(_) => Ok(()),
            Err(error) => bail!("write the file of a snapshot: {}", error.error()),
        }
    }
}
