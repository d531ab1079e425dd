//! okaywal: a write-ahead log that always syncs, with group commit and recycled segments.
//!
//! Its segments are thrown away at checkpoints, so it takes no part in reading or in opening a
//! large log, and it has no append without a sync.

use anyhow::Result;
use okaywal::{Configuration, LogVoid, WriteAheadLog};

use crate::contestant::{Contestant, Engine, Game, Setup, Writer};
use crate::payload::Payloads;

pub(super) struct OkayWal;

/// Per segment file; the default of 1 MiB rolls all the time.
const SEGMENT_BYTES: u32 = 256 << 20;

impl Contestant for OkayWal {
    fn name(&self) -> &'static str {
        "okaywal"
    }

    fn plays(&self, game: Game) -> bool {
        matches!(game, Game::Durable { .. })
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
        let configuration = Configuration::default_for(setup.dir)
            .preallocate_bytes(SEGMENT_BYTES)
            .checkpoint_after_bytes(u64::from(SEGMENT_BYTES) / 8 * 7)
            .buffer_bytes(1 << 20);
        let log = configuration.open(LogVoid)?;
        // Two segments, zero-filled and synced before anything is measured: from then on it
        // overwrites recycled blocks only.
        for _ in 0..2 {
            let mut entry = log.begin_entry()?;
            entry.write_chunk(&[0])?;
            entry.commit()?;
            log.checkpoint_active()?;
        }
        Ok(Box::new(Open(log)))
    }
}

struct Open(WriteAheadLog);

impl Engine for Open {
    fn writers(&mut self, producers: usize) -> Result<Vec<Box<dyn Writer + '_>>> {
        Ok((0..producers).map(|_| Box::new(Append(&self.0)) as Box<dyn Writer>).collect())
    }
}

struct Append<'a>(&'a WriteAheadLog);

impl Writer for Append<'_> {
    fn append(&mut self, payload: &'static [u8]) -> Result<()> {
        let mut entry = self.0.begin_entry()?;
        entry.write_chunk(payload)?;
        entry.commit()?;
        Ok(())
    }

    /// An entry is what is atomic; each record is a chunk of it, with its own checksum.
    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        let mut entry = self.0.begin_entry()?;
        for n in from..from + count {
            entry.write_chunk(payloads.get(n))?;
        }
        entry.commit()?;
        Ok(())
    }
}
