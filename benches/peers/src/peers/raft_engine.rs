//! raft-engine: TiKV's log of many raft groups, with a write group led by a producer.

use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use raft_engine::{Config, Engine as RaftLog, LogBatch, MessageExt, ReadableSize};
use raft_proto::eraftpb::Entry;

use crate::contestant::{Contestant, Engine, Game, Reader, Setup, Tally, Writer};
use crate::payload::Payloads;

pub(super) struct RaftEngine;

/// Entries fetched at a time in a scan.
const SCAN_ENTRIES: u64 = 1024;

#[derive(Clone)]
struct Raft;

impl MessageExt for Raft {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

impl Contestant for RaftEngine {
    fn name(&self) -> &'static str {
        "raft-engine"
    }

    fn plays(&self, _game: Game) -> bool {
        true
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
        let mut config = Config {
            dir: setup.dir.to_str().context("the directory's name is no text")?.to_owned(),
            // Random payloads do not get smaller; trying to only costs.
            batch_compression_threshold: ReadableSize(0),
            ..Config::default()
        };
        if setup.job.durable() {
            // Its own way to overwrite instead of growing: files filled ahead.
            config.target_file_size = ReadableSize::mb(128);
            config.purge_threshold = ReadableSize::mb(512);
            config.prefill_for_recycle = true;
            config.prefill_limit = Some(ReadableSize::mb(384));
        }
        let log = RaftLog::open(config)?;
        crate::machine::quiesce(setup.dir)?;
        Ok(Box::new(Open { log, sync: setup.job.durable(), next: Mutex::new(Vec::new()) }))
    }
}

type Log = RaftLog;

struct Open {
    log: Log,
    sync: bool,
    /// The next index of each group: engines stay open over several rounds.
    next: Mutex<Vec<u64>>,
}

impl Engine for Open {
    /// A raft group per producer, as indexes within a group must be consecutive.
    fn writers(&mut self, producers: usize) -> Result<Vec<Box<dyn Writer + '_>>> {
        let next = self.next.get_mut().expect("no thread panicked");
        next.resize(producers.max(next.len()), 1);
        let (log, sync) = (&self.log, self.sync);
        let writers = next.iter_mut().take(producers).zip(1..).map(|(next, group)| {
            let batch = LogBatch::with_capacity(4);
            Box::new(Append { log, sync, group, next, batch, entries: Vec::new() })
                as Box<dyn Writer>
        });
        Ok(writers.collect())
    }

    fn settle(&mut self) -> Result<()> {
        Ok(self.log.sync()?)
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Read { log: &self.log, entries: Vec::new() }))
    }
}

struct Append<'a> {
    log: &'a Log,
    sync: bool,
    group: u64,
    next: &'a mut u64,
    batch: LogBatch,
    entries: Vec<Entry>,
}

impl Append<'_> {
    fn take(&mut self, payload: &'static [u8]) {
        let mut entry = Entry::default();
        entry.set_index(*self.next);
        entry.set_data(payload.into());
        *self.next += 1;
        self.entries.push(entry);
    }

    fn write(&mut self) -> Result<()> {
        self.batch.add_entries::<Raft>(self.group, &self.entries)?;
        self.entries.clear();
        self.log.write(&mut self.batch, self.sync)?;
        Ok(())
    }
}

impl Writer for Append<'_> {
    fn append(&mut self, payload: &'static [u8]) -> Result<()> {
        self.take(payload);
        self.write()
    }

    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        (from..from + count).for_each(|n| self.take(payloads.get(n)));
        self.write()
    }
}

struct Read<'a> {
    log: &'a Log,
    entries: Vec<Entry>,
}

impl Reader for Read<'_> {
    fn scan(&mut self, tally: &mut Tally) -> Result<()> {
        let end = self.log.last_index(1).context("the log is empty")? + 1;
        let mut next = 1;
        while next < end {
            let stop = (next + SCAN_ENTRIES).min(end);
            self.entries.clear();
            // Every block it reads is checked.
            self.log.fetch_entries_to::<Raft>(1, next, stop, None, &mut self.entries)?;
            ensure!(self.entries.len() as u64 == stop - next, "entries are missing from {next}");
            for entry in &self.entries {
                tally.visit(entry.index - 1, &entry.data);
            }
            next = stop;
        }
        Ok(())
    }

    fn get(&mut self, n: u64, tally: &mut Tally) -> Result<()> {
        let entry = self.log.get_entry::<Raft>(1, n + 1)?.context("no such entry")?;
        tally.visit(n, &entry.data);
        Ok(())
    }
}
