//! RocksDB: batches go to its write-ahead log, and from there to the page cache before they
//! return; memtables of 256 MiB, no compression.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, WaitForCompactOptions,
    WriteBatch,
};

use super::{
    APPLIED, Contestant, Job, Key, Load, Reader, Setup, Shape, Store, Tally, by_batch, stamp,
};

pub(super) struct RocksDb;

const MIB: usize = 1 << 20;

impl Contestant for RocksDb {
    fn name(&self) -> &'static str {
        "rocksdb"
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Store>> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_compression_type(DBCompressionType::None);
        options.set_max_background_jobs(2);
        options.set_write_buffer_size(256 * MIB);
        options.set_max_write_buffer_number(4);
        let mut table = BlockBasedOptions::default();
        table.set_bloom_filter(10.0, false);
        let cache_bytes = if matches!(setup.job, Job::Read(_)) { 2048 * MIB } else { 256 * MIB };
        table.set_block_cache(&Cache::new_lru_cache(cache_bytes));
        options.set_block_based_table_factory(&table);
        Ok(Box::new(Open(DB::open(&options, setup.dir)?)))
    }
}

struct Open(DB);

impl Store for Open {
    fn upserts(&self, load: &Load, each: &mut dyn FnMut(Duration)) -> Result<()> {
        by_batch(load, each, |numbers| {
            let mut batch = WriteBatch::default();
            batch.put(APPLIED, numbers.end.to_le_bytes());
            for n in numbers {
                let (key, value) = load.upsert(n);
                batch.put(key, value);
            }
            Ok(self.0.write(batch)?)
        })
    }

    fn settle(&self) -> Result<()> {
        self.0.flush()?;
        Ok(self.0.wait_for_compact(&WaitForCompactOptions::default())?)
    }

    fn fill(&self, load: &Load, _shape: Shape) -> Result<()> {
        self.upserts(load, &mut |_| ())?;
        self.settle()?;
        self.0.compact_range(None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    /// Links its files; what is in memory is flushed first.
    fn snapshot(&self, to: &Path) -> Result<()> {
        Ok(Checkpoint::new(&self.0)?.create_checkpoint(to.join("checkpoint"))?)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read(&self.0)))
    }
}

struct Read<'a>(&'a DB);

impl Reader for Read<'_> {
    fn get(&mut self, key: &Key) -> Result<Option<u64>> {
        Ok(self.0.get_pinned(key)?.map(|value| stamp(&value)))
    }

    fn scan(&mut self, tally: &mut Tally<'_>) -> Result<()> {
        let mut read = ReadOptions::default();
        read.set_readahead_size(2 * MIB);
        let mut rows = self.0.raw_iterator_opt(read);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            tally.visit(key, value);
            rows.next();
        }
        Ok(rows.status()?)
    }
}
