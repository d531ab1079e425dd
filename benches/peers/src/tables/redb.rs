//! redb: a copy-on-write B-tree in one file, no write-ahead log. Commits are not synced except
//! for one in fifty, which is what survives a crash.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    APPLIED, Contestant, Key, Load, Reader, RowFile, Setup, Store, Tally, by_batch, stamp,
};

pub(super) struct Redb;

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
const CACHE_BYTES: usize = 3 << 30;
/// Without a synced commit now and then the pages of the others are never free again.
const SYNC_EVERY: u64 = 50;

impl Contestant for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Store>> {
        let db =
            Database::builder().set_cache_size(CACHE_BYTES).create(setup.dir.join("rows.redb"))?;
        Ok(Box::new(Open(db)))
    }
}

struct Open(Database);

impl Store for Open {
    fn upserts(&self, load: &Load, each: &mut dyn FnMut(Duration)) -> Result<()> {
        let mut batches = 0;
        by_batch(load, each, |numbers| {
            batches += 1;
            let mut write = self.0.begin_write()?;
            let sync = batches % SYNC_EVERY == 0;
            write.set_durability(if sync { Durability::Immediate } else { Durability::None })?;
            let mut rows = write.open_table(ROWS)?;
            rows.insert(APPLIED, &numbers.end.to_le_bytes()[..])?;
            for n in numbers {
                let (key, value) = load.upsert(n);
                rows.insert(&key[..], &value[..])?;
            }
            drop(rows);
            Ok(write.commit()?)
        })
    }

    fn settle(&self) -> Result<()> {
        let mut write = self.0.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        Ok(write.commit()?)
    }

    fn snapshot(&self, to: &Path) -> Result<()> {
        let rows = self.0.begin_read()?.open_table(ROWS)?;
        let mut file = RowFile::create(to)?;
        for row in rows.iter()? {
            let (key, value) = row?;
            file.push(key.value(), value.value())?;
        }
        file.finish()
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read(self.0.begin_read()?.open_table(ROWS)?)))
    }
}

struct Read(ReadOnlyTable<&'static [u8], &'static [u8]>);

impl Reader for Read {
    fn get(&mut self, key: &Key) -> Result<Option<u64>> {
        Ok(self.0.get(&key[..])?.map(|value| stamp(value.value())))
    }

    fn scan(&mut self, tally: &mut Tally<'_>) -> Result<()> {
        for row in self.0.iter()? {
            let (key, value) = row?;
            tally.visit(key.value(), value.value());
        }
        Ok(())
    }
}
