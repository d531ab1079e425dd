//! SQLite in WAL mode: a table without row numbers, prepared statements, a transaction per
//! batch. Only checkpoints sync.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rusqlite::Connection;

use super::{APPLIED, Contestant, Key, Load, Reader, Setup, Store, Tally, by_batch, stamp};

pub(super) struct Sqlite;

const UPSERT: &str = "INSERT OR REPLACE INTO rows (key, value) VALUES (?1, ?2)";
/// Pages of 4 KiB that the WAL holds before a checkpoint.
const WAL_PAGES: u32 = 64 << 10;

impl Contestant for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Store>> {
        let path = setup.dir.join("rows.sqlite");
        let db = connect(&path)?;
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB NOT NULL)
             WITHOUT ROWID",
        )?;
        Ok(Box::new(Open { db: Mutex::new(db), path }))
    }
}

fn connect(path: &Path) -> Result<Connection> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    db.pragma_update(None, "cache_size", -(512 << 10))?;
    db.pragma_update(None, "mmap_size", 64_i64 << 30)?;
    db.busy_timeout(Duration::from_secs(60))?;
    Ok(db)
}

struct Open {
    db: Mutex<Connection>,
    path: PathBuf,
}

impl Open {
    fn db(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Open {
    fn upserts(&self, load: &Load, each: &mut dyn FnMut(Duration)) -> Result<()> {
        let mut db = self.db();
        by_batch(load, each, |numbers| {
            let transaction = db.transaction()?;
            let mut upsert = transaction.prepare_cached(UPSERT)?;
            upsert.execute((APPLIED, &numbers.end.to_le_bytes()))?;
            for n in numbers {
                let (key, value) = load.upsert(n);
                upsert.execute((&key, &value[..]))?;
            }
            drop(upsert);
            Ok(transaction.commit()?)
        })
    }

    fn settle(&self) -> Result<()> {
        Ok(self.db().query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?)
    }

    /// Over a connection of its own: a read transaction that holds nobody up.
    fn snapshot(&self, to: &Path) -> Result<()> {
        let to = to.join("rows.sqlite");
        let to = to.to_str().context("expected a path that is text")?;
        connect(&self.path)?.execute("VACUUM INTO ?1", [to])?;
        Ok(())
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read(self.db())))
    }
}

struct Read<'a>(MutexGuard<'a, Connection>);

impl Reader for Read<'_> {
    fn get(&mut self, key: &Key) -> Result<Option<u64>> {
        let mut select = self.0.prepare_cached("SELECT value FROM rows WHERE key = ?1")?;
        let mut rows = select.query([key])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(stamp(row.get_ref(0)?.as_blob()?)))
    }

    fn scan(&mut self, tally: &mut Tally<'_>) -> Result<()> {
        let mut select = self.0.prepare_cached("SELECT key, value FROM rows ORDER BY key")?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            tally.visit(row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
        }
        Ok(())
    }
}
