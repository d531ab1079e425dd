//! tidelog itself, through its public interface and with its defaults wherever they fit.

use anyhow::{Context, Result};
use tidelog::{Batch, Durability, Log, Offset, Record, Verification, Visibility};

use crate::contestant::{Contestant, Engine, Game, Job, Reader, Setup, Tally, Writer};
use crate::payload::Payloads;

/// tidelog.
pub struct Tidelog;

impl Contestant for Tidelog {
    fn name(&self) -> &'static str {
        super::TIDELOG
    }

    fn plays(&self, _game: Game) -> bool {
        true
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
        let durability = match setup.job {
            Job::Durable => Durability::Durable,
            _ => Durability::Buffered,
        };
        let mut options =
            Log::options().create(true).segment_bytes(setup.segment_bytes).durability(durability);
        if matches!(setup.job, Job::Scan | Job::Random) {
            // Every read is checked, as the reference's is.
            options = options.verification(Verification::Always).visibility(Visibility::Written);
        }
        Ok(Box::new(Open(options.open(setup.dir)?)))
    }
}

/// Opens what a killed process left in `dir` without writing to it: finds and checks the end.
pub fn open_read_only(dir: &std::path::Path) -> Result<Log> {
    Ok(Log::options().read_only(true).open(dir)?)
}

/// Opens `dir` as any user would.
pub fn open_to_write(dir: &std::path::Path) -> Result<Log> {
    Ok(Log::options().open(dir)?)
}

struct Open(Log);

impl Engine for Open {
    fn writers(&mut self, producers: usize) -> Result<Vec<Box<dyn Writer + '_>>> {
        let log = &self.0;
        let writer = || Box::new(Append { log, batch: Batch::new() }) as Box<dyn Writer>;
        Ok((0..producers).map(|_| writer()).collect())
    }

    fn settle(&mut self) -> Result<()> {
        self.0.sync()?;
        Ok(())
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read(&self.0)))
    }
}

struct Append<'a> {
    log: &'a Log,
    batch: Batch,
}

impl Writer for Append<'_> {
    #[inline]
    fn append(&mut self, payload: &'static [u8]) -> Result<()> {
        self.log.append(&Record::event(payload))?;
        Ok(())
    }

    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        self.batch.clear();
        for n in from..from + count {
            self.batch.push(&Record::event(payloads.get(n)))?;
        }
        self.log.append_batch(&self.batch)?;
        Ok(())
    }
}

struct Read<'a>(&'a Log);

impl Reader for Read<'_> {
    fn scan(&mut self, tally: &mut Tally) -> Result<()> {
        let mut cursor = self.0.read(Offset(0))?;
        while let Some(entry) = cursor.next()? {
            tally.visit(entry.offset.0, entry.record.value);
        }
        Ok(())
    }

    fn get(&mut self, n: u64, tally: &mut Tally) -> Result<()> {
        let entry = self.0.get(Offset(n))?.context("no such record")?;
        tally.visit(n, entry.record().value);
        Ok(())
    }
}
