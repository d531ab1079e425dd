//! RocksDB: a write-ahead log before an LSM tree; keys are record numbers.

use anyhow::{Context, Result};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::contestant::{Contestant, Engine, Game, Job, Reader, Setup, Tally, Writer};
use crate::payload::Payloads;

use super::next_number;

pub(super) struct RocksDb;

const MIB: usize = 1 << 20;

impl Contestant for RocksDb {
    fn name(&self) -> &'static str {
        "rocksdb"
    }

    fn plays(&self, _game: Game) -> bool {
        true
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
        let db = DB::open(&options(setup.job), setup.dir)?;
        let mut write = WriteOptions::default();
        write.set_sync(setup.job.durable());
        let mut open = Open { db, write, manual: setup.job == Job::Append, next: 0 };
        if setup.job.durable() {
            open.recycle_a_log()?;
        }
        Ok(Box::new(open))
    }
}

fn options(job: Job) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_max_background_jobs(2);
    let mut table = BlockBasedOptions::default();
    match job {
        // As a user would run it: what lies in the memtable is replayed from the log.
        Job::Fill | Job::Recover => {}
        Job::Append => {
            // Nothing is written to a table while appends are measured, and the log is
            // buffered in the process, as it is for the others.
            options.set_write_buffer_size(1024 * MIB);
            options.set_max_write_buffer_number(4);
            options.set_manual_wal_flush(true);
        }
        Job::Durable => {
            options.set_write_buffer_size(256 * MIB);
            options.set_max_write_buffer_number(4);
            options.set_recycle_log_file_num(4);
        }
        Job::Load => {
            options.set_write_buffer_size(256 * MIB);
            options.set_disable_auto_compactions(true);
        }
        Job::Scan => options.set_disable_auto_compactions(true),
        Job::Random => {
            options.set_disable_auto_compactions(true);
            table.set_block_cache(&Cache::new_lru_cache(2048 * MIB));
        }
    }
    options.set_block_based_table_factory(&table);
    options
}

struct Open {
    db: DB,
    write: WriteOptions,
    /// The log is handed to the page cache only when asked to.
    manual: bool,
    next: u64,
}

impl Open {
    /// Leaves a written log file behind that the next one overwrites.
    fn recycle_a_log(&mut self) -> Result<()> {
        let zeros = vec![0; MIB];
        let mut write = WriteOptions::default();
        write.set_sync(false);
        for n in 0..96_u64 {
            self.db.put_opt((u64::MAX - n).to_be_bytes(), &zeros, &write)?;
        }
        for n in 0..96_u64 {
            self.db.delete_opt((u64::MAX - n).to_be_bytes(), &write)?;
        }
        self.db.flush_wal(true)?;
        self.db.flush()?;
        // The file written so far is free once another one is in use.
        self.db.put_opt(u64::MAX.to_be_bytes(), [0], &self.write)?;
        Ok(self.db.flush()?)
    }
}

impl Engine for Open {
    fn writers(&mut self, producers: usize) -> Result<Vec<Box<dyn Writer + '_>>> {
        let (db, write, manual) = (&self.db, &self.write, self.manual);
        let numbers = next_number(&mut self.next, producers);
        let writer = |next| Box::new(Append { db, write, manual, next }) as Box<dyn Writer>;
        Ok(numbers.map(writer).collect())
    }

    fn settle(&mut self) -> Result<()> {
        self.db.flush_wal(false)?;
        self.db.flush()?;
        self.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        let mut read = ReadOptions::default();
        read.set_verify_checksums(true);
        Ok(Box::new(Read { db: &self.db, read }))
    }
}

struct Append<'a> {
    db: &'a DB,
    write: &'a WriteOptions,
    manual: bool,
    next: u64,
}

impl Writer for Append<'_> {
    fn append(&mut self, payload: &'static [u8]) -> Result<()> {
        self.db.put_opt(self.next.to_be_bytes(), payload, self.write)?;
        self.next += 1;
        Ok(())
    }

    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        let mut batch = WriteBatch::with_capacity_bytes((payloads.len() + 32) * count as usize);
        for n in from..from + count {
            batch.put(self.next.to_be_bytes(), payloads.get(n));
            self.next += 1;
        }
        Ok(self.db.write_opt(batch, self.write)?)
    }

    fn flush(&mut self) -> Result<()> {
        if self.manual {
            self.db.flush_wal(false)?;
        }
        Ok(())
    }

    fn fill(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        self.append_batch(payloads, from, count)
    }
}

struct Read<'a> {
    db: &'a DB,
    read: ReadOptions,
}

impl Reader for Read<'_> {
    fn scan(&mut self, tally: &mut Tally) -> Result<()> {
        // Blocks come from files, checked, not from a cache of checked ones.
        let mut read = ReadOptions::default();
        read.set_verify_checksums(true);
        read.fill_cache(false);
        read.set_readahead_size(2 * MIB);
        let mut rows = self.db.raw_iterator_opt(read);
        rows.seek_to_first();
        let mut n = 0;
        while let Some(value) = rows.value() {
            tally.visit(n, value);
            n += 1;
            rows.next();
        }
        Ok(rows.status()?)
    }

    fn get(&mut self, n: u64, tally: &mut Tally) -> Result<()> {
        let value = self.db.get_pinned_opt(n.to_be_bytes(), &self.read)?;
        tally.visit(n, &value.context("no such record")?);
        Ok(())
    }
}
