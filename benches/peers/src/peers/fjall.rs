//! fjall: a journal before an LSM tree; keys are record numbers. Twice for appends that are not
//! synced: set up for that very row, and as it comes, which hands every insert to the page cache.

use anyhow::{Context, Result};
use fjall::config::CompressionPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::contestant::{Contestant, Engine, Game, Job, Reader, Setup, Tally, Writer};
use crate::payload::Payloads;

use super::next_number;

pub(super) enum Fjall {
    Tuned,
    AsItComes,
}

const MIB: u64 = 1 << 20;

impl Contestant for Fjall {
    fn name(&self) -> &'static str {
        match self {
            Fjall::Tuned => "fjall",
            Fjall::AsItComes => "fjall-as-it-comes",
        }
    }

    fn plays(&self, game: Game) -> bool {
        matches!(self, Fjall::Tuned) || matches!(game, Game::Append { .. })
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
        let tuned = matches!(self, Fjall::Tuned);
        let mut builder = Database::builder(setup.dir).manual_journal_persist(tuned);
        let mut memtable_bytes = 64 * MIB;
        match setup.job {
            Job::Append | Job::Durable | Job::Load => {
                // No table is written while appends are measured.
                memtable_bytes = 1024 * MIB;
                builder = builder.max_journaling_size(8192 * MIB);
            }
            Job::Random => builder = builder.cache_size(2048 * MIB),
            // A block in the cache is not checked again.
            Job::Scan => builder = builder.cache_size(0),
            Job::Fill | Job::Recover => {}
        }
        let db = builder.open()?;
        let rows = db.keyspace("log", || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(memtable_bytes)
                .manual_journal_persist(tuned)
                .data_block_compression_policy(CompressionPolicy::disabled())
        })?;
        let persist = setup.job.durable().then_some(PersistMode::SyncData);
        Ok(Box::new(Open { db, rows, persist, next: 0 }))
    }
}

struct Open {
    db: Database,
    rows: Keyspace,
    persist: Option<PersistMode>,
    next: u64,
}

impl Engine for Open {
    fn writers(&mut self, producers: usize) -> Result<Vec<Box<dyn Writer + '_>>> {
        let numbers = next_number(&mut self.next, producers);
        let (db, rows, persist) = (&self.db, &self.rows, self.persist);
        let writer = |next| Box::new(Append { db, rows, persist, next }) as Box<dyn Writer>;
        Ok(numbers.map(writer).collect())
    }

    fn settle(&mut self) -> Result<()> {
        self.db.persist(PersistMode::Buffer)?;
        self.rows.rotate_memtable_and_wait()?;
        Ok(self.rows.major_compact()?)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read(&self.rows)))
    }
}

struct Append<'a> {
    db: &'a Database,
    rows: &'a Keyspace,
    persist: Option<PersistMode>,
    next: u64,
}

impl Writer for Append<'_> {
    fn append(&mut self, payload: &'static [u8]) -> Result<()> {
        self.rows.insert(self.next.to_be_bytes(), payload)?;
        self.next += 1;
        if let Some(mode) = self.persist {
            self.db.persist(mode)?;
        }
        Ok(())
    }

    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        let mut batch = self.db.batch().durability(self.persist);
        for n in from..from + count {
            batch.insert(self.rows, self.next.to_be_bytes(), payloads.get(n));
            self.next += 1;
        }
        Ok(batch.commit()?)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(self.db.persist(PersistMode::Buffer)?)
    }

    fn fill(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        self.append_batch(payloads, from, count)
    }
}

struct Read<'a>(&'a Keyspace);

impl Reader for Read<'_> {
    fn scan(&mut self, tally: &mut Tally) -> Result<()> {
        for (row, n) in self.0.iter().zip(0..) {
            tally.visit(n, &row.value()?);
        }
        Ok(())
    }

    fn get(&mut self, n: u64, tally: &mut Tally) -> Result<()> {
        let value = self.0.get(n.to_be_bytes())?.context("no such record")?;
        tally.visit(n, &value);
        Ok(())
    }
}
