//! What a contestant must offer to take part: open, append, read.
//!
//! One adapter per engine implements these traits (`peers/`, `bare/`); the rows call them. Where
//! a call through `dyn` would weigh on what is measured, the loop is inside the call:
//! [`Writer::append_each`] and [`Reader::scan`] are compiled once per adapter, so the appends and
//! the visits within them are direct calls.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::payload::Payloads;

/// What a row asks of a contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Game {
    /// Appends that need not survive anything, from `producers` threads.
    Append { batches: bool, producers: usize },
    /// Appends that survive a power cut when they return, from `producers` threads.
    Durable { batches: bool, producers: usize },
    /// Reading everything, in order.
    Scan,
    /// Reading single records by number.
    Random,
    /// Opening what a killed process left behind.
    Open,
}

/// How a log is opened.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// An own directory: empty, or with what the same contestant wrote.
    pub dir: &'a Path,
    /// What happens next.
    pub job: Job,
    /// Target size of a segment, for those who have segments that size.
    pub segment_bytes: u64,
}

/// What a log is opened for; each contestant takes its best honest settings for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// To be filled for a row about reading; speed does not count.
    Load,
    /// To be filled and then killed, with the settings a user would run.
    Fill,
    /// For [`Game::Append`].
    Append,
    /// For [`Game::Durable`].
    Durable,
    /// For [`Game::Scan`].
    Scan,
    /// For [`Game::Random`].
    Random,
    /// For [`Game::Open`]: the open itself is measured.
    Recover,
}

impl Job {
    /// Whether every append must be synced before it returns.
    pub fn durable(self) -> bool {
        self == Job::Durable
    }
}

/// An engine that can take part.
pub trait Contestant: Sync {
    /// Its name in tables and on the command line.
    fn name(&self) -> &'static str;

    /// Whether it can play. What it cannot do as meant, it does not do at all.
    fn plays(&self, game: Game) -> bool;

    /// Opens or creates its log in `setup.dir`, ready for `setup.job`.
    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Engine>>;
}

/// An open log. Dropping it closes it.
pub trait Engine {
    /// One writer per producer thread.
    fn writers(&mut self, producers: usize) -> Result<Vec<Box<dyn Writer + '_>>>;

    /// Hands everything to the page cache and waits for background work, so that it neither
    /// runs into the next measurement nor is missing from what is read.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// A reader of everything that was appended.
    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        anyhow::bail!("this contestant is not read")
    }
}

/// Appends to a log from one thread.
pub trait Writer: Send {
    /// Appends one record.
    fn append(&mut self, payload: &'static [u8]) -> Result<()>;

    /// Appends records `from..from + count` one by one.
    fn append_each(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        for n in from..from + count {
            self.append(payloads.get(n))?;
        }
        Ok(())
    }

    /// Appends records `from..from + count` together: all or none.
    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()>;

    /// Appends records `from..from + count` so that each can be read by itself: one by one, or
    /// faster where what is stored comes out the same.
    fn fill(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        self.append_each(payloads, from, count)
    }

    /// Hands what is still in the process's memory to the page cache, where that can be asked
    /// for; part of the measured time.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Reads a log from one thread.
pub trait Reader {
    /// Visits every record in order.
    fn scan(&mut self, tally: &mut Tally) -> Result<()>;

    /// Visits record `n`.
    fn get(&mut self, n: u64, tally: &mut Tally) -> Result<()>;
}

/// What a reader shows its records to: counts them and touches them, so that no read can be
/// optimised away, and compares them with what was appended when asked to.
pub struct Tally {
    /// Records visited.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Something that depends on every record.
    pub touched: u64,
    expected: Option<Payloads>,
    different: u64,
}

impl Tally {
    /// Counts; with `expected`, compares as well.
    pub fn new(expected: Option<Payloads>) -> Self {
        Tally { records: 0, bytes: 0, touched: 0, expected, different: 0 }
    }

    /// Takes record `n`.
    #[inline]
    pub fn visit(&mut self, n: u64, payload: &[u8]) {
        self.records += 1;
        self.bytes += payload.len() as u64;
        if let (Some(first), Some(last)) = (payload.first(), payload.last()) {
            self.touched = self.touched.wrapping_add(u64::from(*first) ^ u64::from(*last));
        }
        if let Some(expected) = &self.expected
            && expected.get(n) != payload
        {
            self.different += 1;
        }
    }

    /// Fails unless `records` records were seen, all of them as appended.
    pub fn check(&self, records: u64) -> Result<()> {
        std::hint::black_box(self.touched);
        ensure!(self.records == records, "expected {records} records, found {}", self.records);
        ensure!(self.different == 0, "{} records differ from what was appended", self.different);
        Ok(())
    }
}
