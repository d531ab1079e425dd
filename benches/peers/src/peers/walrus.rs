//! walrus: topics in 10 MiB blocks of preset 1 GB files.
//!
//! Reading consumes a topic and there is no access by number, so it takes no part in reading. A
//! batch is always synced, so there is no row of batches that are not. Instances leave threads
//! and open files behind; [`wipe`](crate::machine) gives their blocks back.

use std::path::Path;

use anyhow::{Context, Result};
use walrus_rust::{FsyncSchedule, ReadConsistency};

use crate::contestant::{Contestant, Engine, Game, Job, Setup, Writer};
use crate::payload::Payloads;

pub(super) struct Walrus;

const TOPIC: &str = "log";
const CONSISTENCY: ReadConsistency = ReadConsistency::AtLeastOnce { persist_every: 1 << 20 };

/// Where it puts files and that it keeps quiet are environment variables; how it syncs files is
/// decided once per process, by the first instance. That one is told not to, so that a synced
/// append is synced once, by itself, and not by `O_SYNC` too.
pub(super) fn prepare_process(root: &Path) -> Result<()> {
    // SAFETY: called before any other thread exists.
    unsafe {
        std::env::set_var("WALRUS_QUIET", "1");
        std::env::set_var("WALRUS_DATA_DIR", root);
    }
    // Its mapped files are about three times as fast to append to as its `pwrite`s, and no slower
    // to sync.
    walrus_rust::disable_fd_backend();
    let first = "walrus-first";
    walrus_rust::Walrus::with_consistency_and_schedule_for_key(
        first,
        CONSISTENCY,
        FsyncSchedule::NoFsync,
    )?;
    Ok(std::fs::remove_dir_all(root.join(first))?)
}

impl Contestant for Walrus {
    fn name(&self) -> &'static str {
        "walrus"
    }

    fn plays(&self, game: Game) -> bool {
        matches!(game, Game::Append { batches: false, .. } | Game::Durable { .. })
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
        let schedule = if setup.job == Job::Durable {
            FsyncSchedule::SyncEach
        } else {
            FsyncSchedule::NoFsync
        };
        let key = setup.dir.file_name().and_then(|name| name.to_str()).context("no directory")?;
        let log =
            walrus_rust::Walrus::with_consistency_and_schedule_for_key(key, CONSISTENCY, schedule)?;
        Ok(Box::new(Open(log)))
    }
}

struct Open(walrus_rust::Walrus);

impl Engine for Open {
    fn writers(&mut self, producers: usize) -> Result<Vec<Box<dyn Writer + '_>>> {
        let writer = || Box::new(Append { log: &self.0, batch: Vec::new() }) as Box<dyn Writer>;
        Ok((0..producers).map(|_| writer()).collect())
    }
}

struct Append<'a> {
    log: &'a walrus_rust::Walrus,
    batch: Vec<&'static [u8]>,
}

impl Writer for Append<'_> {
    fn append(&mut self, payload: &'static [u8]) -> Result<()> {
        Ok(self.log.append_for_topic(TOPIC, payload)?)
    }

    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        self.batch.clear();
        self.batch.extend((from..from + count).map(|n| payloads.get(n)));
        Ok(self.log.batch_append_for_topic(TOPIC, &self.batch)?)
    }
}
