//! redb: a copy-on-write B-tree in one file; keys are record numbers, a commit per append.
//!
//! Reads are not checked against its checksums; those serve recovery.

use anyhow::{Context, Result};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use crate::contestant::{Contestant, Engine, Game, Job, Reader, Setup, Tally, Writer};
use crate::payload::Payloads;

use super::next_number;

pub(super) struct Redb;

const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const CACHE_BYTES: usize = 3 << 30;

impl Contestant for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn plays(&self, _game: Game) -> bool {
        true
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
        let db =
            Database::builder().set_cache_size(CACHE_BYTES).create(setup.dir.join("log.redb"))?;
        // Without a sync a commit would not survive the killed process at all.
        let durability = match setup.job {
            Job::Durable | Job::Fill => Durability::Immediate,
            _ => Durability::None,
        };
        Ok(Box::new(Open { db, durability, next: 0 }))
    }
}

struct Open {
    db: Database,
    durability: Durability,
    next: u64,
}

impl Engine for Open {
    fn writers(&mut self, producers: usize) -> Result<Vec<Box<dyn Writer + '_>>> {
        let numbers = next_number(&mut self.next, producers);
        let (db, durability) = (&self.db, self.durability);
        Ok(numbers
            .map(|next| Box::new(Append { db, durability, next }) as Box<dyn Writer>)
            .collect())
    }

    fn settle(&mut self) -> Result<()> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        Ok(write.commit()?)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read(self.db.begin_read()?.open_table(ROWS)?)))
    }
}

struct Append<'a> {
    db: &'a Database,
    durability: Durability,
    next: u64,
}

impl Append<'_> {
    fn insert(&mut self, payloads: impl Iterator<Item = &'static [u8]>) -> Result<()> {
        let mut write = self.db.begin_write()?;
        write.set_durability(self.durability)?;
        let mut rows = write.open_table(ROWS)?;
        for payload in payloads {
            rows.insert(self.next, payload)?;
            self.next += 1;
        }
        drop(rows);
        Ok(write.commit()?)
    }
}

impl Writer for Append<'_> {
    fn append(&mut self, payload: &'static [u8]) -> Result<()> {
        self.insert(std::iter::once(payload))
    }

    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        self.insert((from..from + count).map(|n| payloads.get(n)))
    }

    fn fill(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        self.append_batch(payloads, from, count)
    }
}

struct Read(ReadOnlyTable<u64, &'static [u8]>);

impl Reader for Read {
    fn scan(&mut self, tally: &mut Tally) -> Result<()> {
        for row in self.0.iter()? {
            let (n, payload) = row?;
            tally.visit(n.value(), payload.value());
        }
        Ok(())
    }

    fn get(&mut self, n: u64, tally: &mut Tally) -> Result<()> {
        tally.visit(n, self.0.get(n)?.context("no such record")?.value());
        Ok(())
    }
}
