//! SQLite in WAL mode: a row per record, prepared statements, a transaction per append.
//!
//! Producers share one connection behind a lock: connections of their own would wait for each
//! other with sleeps. Pages read are not checked.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use rusqlite::Connection;

use crate::contestant::{Contestant, Engine, Game, Job, Reader, Setup, Tally, Writer};
use crate::payload::Payloads;

pub(super) struct Sqlite;

const INSERT: &str = "INSERT INTO log (payload) VALUES (?1)";
/// Pages of 4 KiB that the WAL holds before a measured append runs a checkpoint.
const WAL_PAGES: u32 = 64 << 10;

impl Contestant for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn plays(&self, _game: Game) -> bool {
        true
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
        let db = Connection::open(setup.dir.join("log.sqlite"))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        let synchronous = if setup.job.durable() { "FULL" } else { "OFF" };
        db.pragma_update(None, "synchronous", synchronous)?;
        match setup.job {
            Job::Fill | Job::Recover => {}
            Job::Scan | Job::Random => {
                db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
                db.pragma_update(None, "mmap_size", 4_i64 << 30)?;
            }
            Job::Append | Job::Durable | Job::Load => {
                // No other process: no locks in shared memory.
                db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
                db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
                db.pragma_update(None, "cache_size", -(512 << 10))?;
            }
        }
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)",
        )?;
        if setup.job.durable() {
            recycle_the_wal(&db)?;
        }
        // The first statement replays what a killed process left.
        db.query_row("SELECT max(id) FROM log", (), |_| Ok(()))?;
        Ok(Box::new(Open(Mutex::new(db))))
    }
}

/// Fills the WAL and checkpoints it, so that measured appends overwrite it.
fn recycle_the_wal(db: &Connection) -> Result<()> {
    db.execute_batch("CREATE TABLE filling (bytes BLOB)")?;
    let block = vec![0_u8; 1 << 20];
    for _ in 0..64 {
        db.execute("INSERT INTO filling VALUES (?1)", [&block])?;
    }
    db.query_row("PRAGMA wal_checkpoint(RESTART)", (), |_| Ok(()))?;
    Ok(db.execute_batch("DELETE FROM filling")?)
}

struct Open(Mutex<Connection>);

impl Engine for Open {
    fn writers(&mut self, producers: usize) -> Result<Vec<Box<dyn Writer + '_>>> {
        Ok((0..producers).map(|_| Box::new(Append(&self.0)) as Box<dyn Writer>).collect())
    }

    fn settle(&mut self) -> Result<()> {
        let db = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        Ok(db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read(&self.0)))
    }
}

struct Append<'a>(&'a Mutex<Connection>);

impl Writer for Append<'_> {
    fn append(&mut self, payload: &'static [u8]) -> Result<()> {
        let db = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        db.prepare_cached(INSERT)?.execute([payload])?;
        Ok(())
    }

    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        let mut db = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = db.transaction()?;
        let mut insert = transaction.prepare_cached(INSERT)?;
        for n in from..from + count {
            insert.execute([payloads.get(n)])?;
        }
        drop(insert);
        Ok(transaction.commit()?)
    }

    fn fill(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        self.append_batch(payloads, from, count)
    }
}

struct Read<'a>(&'a Mutex<Connection>);

impl Reader for Read<'_> {
    fn scan(&mut self, tally: &mut Tally) -> Result<()> {
        let db = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut select = db.prepare_cached("SELECT payload FROM log ORDER BY id")?;
        let mut rows = select.query(())?;
        let mut n = 0;
        while let Some(row) = rows.next()? {
            tally.visit(n, row.get_ref(0)?.as_blob()?);
            n += 1;
        }
        Ok(())
    }

    fn get(&mut self, n: u64, tally: &mut Tally) -> Result<()> {
        let db = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut select = db.prepare_cached("SELECT payload FROM log WHERE id = ?1")?;
        let mut rows = select.query([i64::try_from(n)? + 1])?;
        let row = rows.next()?.context("no such record")?;
        tally.visit(n, row.get_ref(0)?.as_blob()?);
        Ok(())
    }
}
