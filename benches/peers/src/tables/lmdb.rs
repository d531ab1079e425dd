//! LMDB, through heed: a copy-on-write B-tree in a mapped file, no write-ahead log. Commits are
//! not synced, so it survives a killed process, and a power cut only where the file system keeps
//! the order of writes.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use heed::types::Bytes;
use heed::{
    CommitOrAbort, CompactionOption, Database, Env, EnvFlags, EnvOpenOptions, RoTxn, WithoutTls,
};

use super::{APPLIED, Contestant, Key, Load, Reader, Setup, Store, Tally, by_batch, stamp};

pub(super) struct Lmdb {
    /// Whether it writes through the map instead of copying pages.
    pub(super) write_map: bool,
}

const MAP_BYTES: usize = 64 << 30;

impl Contestant for Lmdb {
    fn name(&self) -> &'static str {
        if self.write_map { "lmdb-writemap" } else { "lmdb" }
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Store>> {
        let mut flags = EnvFlags::NO_SYNC;
        if self.write_map {
            flags |= EnvFlags::WRITE_MAP;
        }
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_BYTES).max_dbs(1);
        // SAFETY: the directory is this process's own and is opened once at a time; what an
        // unsynced commit may lose is lost with the machine, and then so is this process.
        let env = unsafe { options.flags(flags).open(setup.dir)? };
        let write = env.write_txn()?;
        let rows = env
            .create_databases_and_commit(write, |opener, write| {
                let rows = opener.create_database::<Bytes, Bytes>(write, Some("rows"))?;
                Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(rows))
            })?
            .unwrap_commit();
        Ok(Box::new(Open { env, rows }))
    }
}

struct Open {
    env: Env<WithoutTls>,
    rows: Database<'static, Bytes, Bytes>,
}

impl Store for Open {
    fn upserts(&self, load: &Load, each: &mut dyn FnMut(Duration)) -> Result<()> {
        by_batch(load, each, |numbers| {
            let mut write = self.env.write_txn()?;
            self.rows.put(&mut write, APPLIED, &numbers.end.to_le_bytes())?;
            for n in numbers {
                let (key, value) = load.upsert(n);
                self.rows.put(&mut write, &key, &value)?;
            }
            Ok(write.commit()?)
        })
    }

    fn snapshot(&self, to: &Path) -> Result<()> {
        self.env.copy_to_path(to.join("data.mdb"), CompactionOption::Disabled)?;
        Ok(())
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read { rows: self.rows, read: self.env.read_txn()? }))
    }
}

struct Read<'a> {
    rows: Database<'static, Bytes, Bytes>,
    read: RoTxn<'a, WithoutTls>,
}

impl Reader for Read<'_> {
    fn get(&mut self, key: &Key) -> Result<Option<u64>> {
        Ok(self.rows.get(&self.read, key)?.map(stamp))
    }

    fn scan(&mut self, tally: &mut Tally<'_>) -> Result<()> {
        for row in self.rows.iter(&self.read)? {
            let (key, value) = row?;
            tally.visit(key, value);
        }
        Ok(())
    }
}
