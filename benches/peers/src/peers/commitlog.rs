//! commitlog: `write` per append, an index entry per record in a mapped file. Its `flush` leaves
//! data in the page cache, so it takes no part where appends must be durable.

use anyhow::{Context, Result, anyhow, ensure};
use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{LogOptions, ReadLimit};

use crate::contestant::{Contestant, Engine, Game, Job, Reader, Setup, Tally, Writer};
use crate::payload::Payloads;

pub(super) struct CommitLog;

/// Bytes per read of a scan: large enough to make calls rare, small enough for the cache.
const SCAN_BYTES: usize = 128 << 10;
/// Longer than any record here.
const RECORD_BYTES: usize = 2 << 10;

impl Contestant for CommitLog {
    fn name(&self) -> &'static str {
        "commitlog"
    }

    fn plays(&self, game: Game) -> bool {
        match game {
            // Appending takes `&mut self`.
            Game::Append { producers, .. } => producers == 1,
            Game::Durable { .. } => false,
            Game::Scan | Game::Random | Game::Open => true,
        }
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
        let mut options = LogOptions::new(setup.dir);
        // Room for the index of a whole segment: growing it means mapping it again.
        options.index_max_items(match setup.job {
            Job::Append | Job::Load => 12 << 20,
            _ => 2 << 20,
        });
        options.segment_max_bytes(1 << 30).message_max_bytes(16 << 20);
        Ok(Box::new(Open(commitlog::CommitLog::new(options)?)))
    }
}

struct Open(commitlog::CommitLog);

impl Engine for Open {
    fn writers(&mut self, producers: usize) -> Result<Vec<Box<dyn Writer + '_>>> {
        ensure!(producers == 1, "commitlog has one writer");
        Ok(vec![Box::new(Append { log: &mut self.0, buffer: MessageBuf::default() })])
    }

    fn settle(&mut self) -> Result<()> {
        Ok(self.0.flush()?)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read(&self.0)))
    }
}

struct Append<'a> {
    log: &'a mut commitlog::CommitLog,
    /// Reused: `append_msg` would allocate one per record.
    buffer: MessageBuf,
}

fn push(buffer: &mut MessageBuf, payload: &[u8]) -> Result<()> {
    buffer.push(payload).map_err(|error| anyhow!("{error:?}"))
}

impl Writer for Append<'_> {
    fn append(&mut self, payload: &'static [u8]) -> Result<()> {
        self.buffer.clear();
        push(&mut self.buffer, payload)?;
        self.log.append(&mut self.buffer)?;
        Ok(())
    }

    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        self.buffer.clear();
        for n in from..from + count {
            push(&mut self.buffer, payloads.get(n))?;
        }
        self.log.append(&mut self.buffer)?;
        Ok(())
    }
}

struct Read<'a>(&'a commitlog::CommitLog);

impl Reader for Read<'_> {
    fn scan(&mut self, tally: &mut Tally) -> Result<()> {
        let mut next = 0;
        loop {
            // Reading checks every message's crc32c.
            let messages = self.0.read(next, ReadLimit::max_bytes(SCAN_BYTES))?;
            if messages.is_empty() {
                return Ok(());
            }
            for message in messages.iter() {
                tally.visit(message.offset(), message.payload());
                next = message.offset() + 1;
            }
        }
    }

    fn get(&mut self, n: u64, tally: &mut Tally) -> Result<()> {
        let messages = self.0.read(n, ReadLimit::max_bytes(RECORD_BYTES))?;
        let message = messages.iter().next().context("no such record")?;
        ensure!(message.offset() == n, "expected record {n}, found {}", message.offset());
        tally.visit(n, message.payload());
        Ok(())
    }
}
