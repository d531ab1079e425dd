//! The threads beside the producers: tails, readers, one that syncs, one that drops segments.

use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::time::Duration;

use tidelog::log::Retention;
use tidelog::{Kind, Log, Offset};

use crate::dice::Dice;

use super::Counts;
use super::ledger::{LAST, Order};
use super::plan::{Plan, Trouble};
use super::watch::Sign;

/// What these threads share.
pub struct Around<'a> {
    pub log: &'a Log,
    pub plan: &'a Plan,
    pub counts: &'a Counts,
    pub sign: &'a Sign,
    /// The producers are through.
    pub stop: &'a AtomicBool,
    pub dice: Dice,
}

impl Around<'_> {
    /// Follows the log from its start to the last record of the round, or to its poison.
    pub fn tail(mut self) -> Vec<String> {
        let patient = self.dice.chance(1, 2);
        'anew: loop {
            let start = self.log.start();
            let mut tail = match self.log.tail(start) {
                Ok(tail) => tail,
                Err(e) if e.kind() == Kind::Gone => continue,
                Err(e) => return vec![format!("a tail from {start}: {e}")],
            };
            let (mut next, mut order) = (start, Order::default());
            loop {
                self.sign.doing("tailing");
                let entry = if patient {
                    tail.next().map(Some)
                } else {
                    tail.next_timeout(Duration::from_micros(self.dice.below(3000)))
                };
                match entry {
                    Ok(Some(entry)) => {
                        Counts::add(&self.counts.tailed, 1);
                        if entry.offset != next {
                            return vec![format!("a tail met {} for {next}", entry.offset)];
                        }
                        match order.see(next, entry.record.value) {
                            Ok((LAST, _)) => return Vec::new(),
                            Ok(_) => next = next.plus(1),
                            Err(found) => return vec![format!("a tail met {found}")],
                        }
                    }
                    Ok(None) => Counts::add(&self.counts.tail_sleeps, 1),
                    Err(e) if e.kind() == Kind::Poisoned => return Vec::new(),
                    Err(e) if e.kind() == Kind::Gone && self.plan.retaining => continue 'anew,
                    Err(e) => return vec![format!("a tail at {next}: {e}")],
                }
            }
        }
    }

    /// Reads here and there.
    pub fn read(mut self) -> Vec<String> {
        while !self.stop.load(Acquire) {
            self.sign.doing("reading");
            let (start, end) = (self.log.start(), self.log.end());
            if end <= start {
                std::thread::yield_now();
                continue;
            }
            let at = start.plus(self.dice.below(end.0 - start.0));
            let most = self.dice.below(50) + 1;
            if let Err(found) = self.read_some(at, Offset(end.0.min(at.0 + most))) {
                return vec![found];
            }
        }
        Vec::new()
    }

    fn read_some(&self, at: Offset, stop: Offset) -> Result<(), String> {
        let gone = |e: &tidelog::Error| self.plan.retaining && e.kind() == Kind::Gone;
        let mut cursor = match self.log.read_range(at..stop) {
            Ok(cursor) => cursor,
            Err(e) if gone(&e) => return Ok(()),
            Err(e) => return Err(format!("reading from {at}: {e}")),
        };
        let (mut next, mut order) = (at, Order::default());
        loop {
            match cursor.next() {
                Ok(Some(entry)) if entry.offset == next => {
                    order.see(next, entry.record.value)?;
                    next = next.plus(1);
                }
                Ok(Some(entry)) => return Err(format!("a reader met {} for {next}", entry.offset)),
                Ok(None) if next < stop => {
                    return Err(format!("reading ended at {next}, told was an end from {stop} on"));
                }
                Ok(None) => break,
                Err(e) if gone(&e) => return Ok(()),
                Err(e) => return Err(format!("reading {next}: {e}")),
            }
        }
        Counts::add(&self.counts.reads, next.0 - at.0);
        Ok(())
    }

    /// Syncs again and again; the end it is told never goes back, and never stands before a
    /// position that the log names.
    pub fn sync(mut self) -> Vec<String> {
        let mut before = Offset(0);
        while !self.stop.load(Acquire) {
            self.sign.doing("syncing");
            match self.log.sync() {
                Ok(end) if end < before => {
                    return vec![format!("a sync ended at {before}, the next one at {end}")];
                }
                Ok(end) => before = end,
                Err(e) => match e.kind() {
                    Kind::Poisoned => return Vec::new(),
                    Kind::DiskFull | Kind::Unknown
                        if matches!(self.plan.trouble, Trouble::Full { .. }) => {}
                    _ => return vec![format!("a sync gave {e}")],
                },
            }
            Counts::add(&self.counts.syncs, 1);
            if self.dice.chance(1, 2) {
                std::thread::sleep(Duration::from_micros(self.dice.below(500)));
            }
        }
        Vec::new()
    }

    /// Drops old segments.
    pub fn retain(mut self) -> Vec<String> {
        while !self.stop.load(Acquire) {
            self.sign.doing("dropping segments");
            let policy =
                Retention { keep_bytes: Some(self.dice.below(256 << 10)), ..Retention::default() };
            match self.log.retain(&policy) {
                Ok(retained) => {
                    Counts::add(&self.counts.segments_dropped, retained.files.len() as u64);
                }
                // CONTROL needs space, and may meet the fault.
                Err(_) if !matches!(self.plan.trouble, Trouble::Nothing) => {}
                Err(e) => return vec![format!("retention gave {e}")],
            }
            std::thread::sleep(Duration::from_micros(200 + self.dice.below(2000)));
        }
        Vec::new()
    }
}
