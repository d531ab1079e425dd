//! fjall: batches go to its journal, and from there to the page cache before they return.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use fjall::config::CompressionPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::{
    APPLIED, Contestant, Job, Key, Load, Reader, RowFile, Setup, Shape, Store, Tally, by_batch,
    stamp,
};

pub(super) struct Fjall;

const MIB: u64 = 1 << 20;

impl Contestant for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Store>> {
        let cache_bytes = if matches!(setup.job, Job::Read(_)) { 2048 * MIB } else { 256 * MIB };
        let db = Database::builder(setup.dir)
            .cache_size(cache_bytes)
            .max_journaling_size(2048 * MIB)
            .open()?;
        let rows = db.keyspace("rows", || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(256 * MIB)
                .data_block_compression_policy(CompressionPolicy::disabled())
        })?;
        Ok(Box::new(Open { db, rows }))
    }
}

struct Open {
    db: Database,
    rows: Keyspace,
}

impl Store for Open {
    fn upserts(&self, load: &Load, each: &mut dyn FnMut(Duration)) -> Result<()> {
        by_batch(load, each, |numbers| {
            let mut batch = self.db.batch().durability(Some(PersistMode::Buffer));
            batch.insert(&self.rows, APPLIED, numbers.end.to_le_bytes());
            for n in numbers {
                let (key, value) = load.upsert(n);
                batch.insert(&self.rows, key, value);
            }
            Ok(batch.commit()?)
        })
    }

    fn settle(&self) -> Result<()> {
        self.rows.rotate_memtable_and_wait()?;
        // It has nothing to wait for: compactions that follow a flush begin a little later.
        let mut idle = 0;
        while idle < 3 {
            let busy = self.db.outstanding_flushes() + self.db.active_compactions() > 0;
            idle = if busy { 0 } else { idle + 1 };
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn fill(&self, load: &Load, _shape: Shape) -> Result<()> {
        self.upserts(load, &mut |_| ())?;
        self.settle()?;
        Ok(self.rows.major_compact()?)
    }

    fn snapshot(&self, to: &Path) -> Result<()> {
        let snapshot = self.db.snapshot();
        let mut file = RowFile::create(to)?;
        for row in snapshot.iter(&self.rows) {
            let (key, value) = row.into_inner()?;
            file.push(&key, &value)?;
        }
        file.finish()
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read(&self.rows)))
    }
}

struct Read<'a>(&'a Keyspace);

impl Reader for Read<'_> {
    fn get(&mut self, key: &Key) -> Result<Option<u64>> {
        Ok(self.0.get(key)?.map(|value| stamp(&value)))
    }

    fn scan(&mut self, tally: &mut Tally<'_>) -> Result<()> {
        for row in self.0.iter() {
            let (key, value) = row.into_inner()?;
            tally.visit(&key, &value);
        }
        Ok(())
    }
}
