//! Runs a sequence: every step on the log and in the book, and the two held against each other.
//!
//! The steps that end a process or a machine are in `fall`. Invariants:
//! - a step that cannot be done (a retry before anything was produced) does nothing;
//! - after every step the log's ends lie between what was acknowledged and what was sent.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidelog::frame::Producer;
use tidelog::fs::sim::Sim;
use tidelog::log::{Level, Retention, verify_on};
use tidelog::{
    Append, Batch, Durability, Expect, Id, Kind, Log, Offset, Op as RecordOp, Options, Ticket,
    Visibility,
};

use crate::dice::Dice;
use crate::told::Told;

use super::book::{Book, Produced};
use super::op::{Op, Setup, Step};
use super::table::Kept;

/// Where the log lies.
pub const DIR: &str = "/log";
/// Records read at most where a step reads from some place on.
const MOST_READ: u64 = 100;

/// A violation: in which step, and what was found.
#[derive(Debug)]
pub struct Failure {
    /// Its number; one more than the last for the end of the sequence.
    pub step: usize,
    pub found: String,
}

/// What a run adds to the denominators.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub operations: BTreeMap<&'static str, u64>,
    pub crashes: u64,
    pub kills: u64,
    pub reopens: u64,
    pub records_checked: u64,
    pub rolled: u64,
    pub state: u128,
}

/// A log, its machine, and what its clients know.
pub struct Run {
    pub(super) sim: Sim,
    pub(super) log: Option<Log>,
    pub(super) setup: Setup,
    pub(super) book: Book,
    pub(super) tickets: Vec<Ticket>,
    pub(super) stats: Stats,
    pub(super) rows: Kept,
    sequence: u64,
    time: i64,
}

/// Runs the steps, each with its number; `tell` is called before each.
pub fn run(
    setup: Setup,
    seed: u64,
    steps: &[Step],
    tell: impl Fn(usize, &Step),
) -> Result<Stats, Failure> {
    let mut run = Run {
        sim: Sim::new(seed),
        log: None,
        setup,
        book: Book::default(),
        tickets: Vec::new(),
        stats: Stats::default(),
        rows: Kept::default(),
        sequence: 0,
        time: 1_000_000,
    };
    run.open().map_err(|found| Failure { step: 0, found })?;
    for (step, what) in steps.iter().enumerate() {
        tell(step, what);
        let done = run.step(what).and_then(|()| run.ends());
        done.map_err(|found| Failure { step, found })?;
        *run.stats.operations.entry(what.op.name()).or_default() += 1;
    }
    let last = |found| Failure { step: steps.len(), found };
    run.finish().map_err(last)?;
    Ok(run.stats)
}

impl Run {
    pub(super) fn options(&self) -> Options {
        let setup = self.setup;
        Log::options()
            .fs(self.sim.shared())
            .worker(false)
            .segment_bytes(setup.segment_bytes)
            .preallocate(setup.preallocate)
            .compression(setup.compression)
            .visibility(setup.visibility)
            .isolate_groups(setup.isolate)
            .map(setup.map)
            // It speaks for nothing: every record is read.
            .key_lookup(Arc::new(|_: &[u8]| (Offset(0), None)))
    }

    pub(super) fn log(&self) -> &Log {
        self.log.as_ref().expect("open between steps")
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let mut dice = Dice::new(step.seed);
        // Sometimes long enough for the log to look at its clock.
        self.sim.advance(Duration::from_micros(dice.below(8_000)));
        let dice = &mut dice;
        match step.op {
            Op::AppendOne => self.append_one(dice),
            Op::AppendBatch { durability, timed } => {
                let how = Append { durability: Some(durability), ..Append::default() };
                self.append(dice, timed, durability, &how).map(drop)
            }
            Op::Submit { wait } => self.submit(dice, wait),
            Op::WaitAll => self.wait_all(),
            Op::Sync => {
                let end = self.log().sync().map_err(|e| format!("sync: {e}"))?;
                self.book.is_durable(self.book.sent());
                same("sync", end.0, self.book.sent())
            }
            Op::Produce { durability } => self.produce(dice, durability),
            Op::Retry => self.retry(dice),
            Op::Stale => self.stale(dice),
            Op::ExpectEnd { right } => self.expect_end(dice, right),
            Op::ExpectKey { right } => self.expect_key(dice, right),
            Op::Read => self.read(dice, false),
            Op::ReadRange => self.read(dice, true),
            Op::Get => self.get(dice),
            Op::SeekTime => self.seek_time(dice),
            Op::Tail => self.tail(dice),
            Op::RetainBytes { .. } | Op::RetainAfter { .. } | Op::RetainFrom { .. } => {
                self.retain(dice, step.op)
            }
            Op::Verify => self.verify(),
            Op::OtherProcess { sync } => self.other_process(sync),
            Op::Table
            | Op::Checkpoint
            | Op::TableReopen
            | Op::HoldView
            | Op::CompareViews
            | Op::Publish { .. }
            | Op::RestoreAt => self.on_table(dice, step.op),
            _ => self.fall(dice, step.op),
        }
    }

    /// The log's ends against the book's.
    fn ends(&mut self) -> Result<(), String> {
        let log = self.log.as_ref().expect("open between steps");
        let (durable, stats, sent) = (log.durable_end().0, log.stats(), self.book.sent());
        let book = &self.book;
        if durable < book.durable || durable > sent || stats.written.0 < book.written {
            return Err(format!(
                "durable {durable}, written {}; acknowledged as durable {}, as written {}, sent {}",
                stats.written, book.durable, book.written, sent
            ));
        }
        let visible = match self.setup.visibility {
            Visibility::Durable => durable,
            Visibility::Written => stats.written.0,
        };
        same("end", log.end().0, visible)?;
        same("start", log.start().0, book.start)?;
        // What the log shows as durable is as good as acknowledged.
        self.book.is_durable(durable);
        self.book.is_written(stats.written.0);
        Ok(())
    }

    // Appending.

    fn records(&mut self, dice: &mut Dice, timed: bool, count: u64) -> Vec<Told> {
        (0..count)
            .map(|_| {
                self.time += i64::try_from(dice.below(60)).expect("small") - 20;
                let op =
                    dice.pick(&[RecordOp::Put, RecordOp::Put, RecordOp::Delete, RecordOp::Event]);
                let key = (op != RecordOp::Event || dice.chance(1, 3)).then(|| key(dice));
                let bytes = match op {
                    RecordOp::Delete => 0,
                    _ => dice.below(self.setup.value_bytes),
                };
                let value = match dice.chance(1, 3) {
                    true => b"tide".repeat(usize::try_from(bytes / 4).expect("small")),
                    false => dice.bytes(bytes),
                };
                Told { op, key, value, timestamp: timed.then_some(self.time) }
            })
            .collect()
    }

    fn append_one(&mut self, dice: &mut Dice) -> Result<(), String> {
        let timed = dice.chance(1, 2);
        let told = self.records(dice, timed, 1);
        let first = self.book.send(told.clone());
        let appended = self.log().append(&told[0].record()).map_err(|e| format!("append: {e}"))?;
        self.book.is_durable(self.book.sent());
        self.book.placed(&appended)?;
        same("append", appended.first.0, first)?;
        same("append", appended.last.0, first)
    }

    /// Appends a batch; returns its first offset.
    pub(super) fn append(
        &mut self,
        dice: &mut Dice,
        timed: bool,
        durability: Durability,
        how: &Append,
    ) -> Result<u64, String> {
        let count = 1 + dice.below(5);
        let told = self.records(dice, timed, count);
        let batch = batch(&told);
        let first = self.book.send(told);
        let appended = self.log().append_with(&batch, how).map_err(|e| format!("append: {e}"))?;
        self.acknowledged(durability);
        self.book.placed(&appended)?;
        same("append", appended.first.0, first)?;
        same("append", appended.last.0, first + count - 1)?;
        same("append, duplicate", u64::from(appended.duplicate), 0)?;
        Ok(first)
    }

    fn acknowledged(&mut self, durability: Durability) {
        let sent = self.book.sent();
        match durability {
            Durability::Buffered => {}
            Durability::Written => self.book.is_written(sent),
            Durability::Durable => self.book.is_durable(sent),
        }
    }

    fn submit(&mut self, dice: &mut Dice, wait: Option<Durability>) -> Result<(), String> {
        let count = 1 + dice.below(3);
        let timed = dice.chance(1, 2);
        let told = self.records(dice, timed, count);
        let batch = batch(&told);
        let first = self.book.send(told);
        let ticket =
            self.log().submit(&batch, &Append::default()).map_err(|e| format!("submit: {e}"))?;
        same("submit", ticket.appended.first.0, first)?;
        self.book.placed(&ticket.appended)?;
        match wait {
            None => self.tickets.push(ticket),
            Some(durability) => {
                let appended = ticket.wait(durability).map_err(|e| format!("wait: {e}"))?;
                same("wait", appended.last.0 + 1, self.book.sent())?;
                self.acknowledged(durability);
            }
        }
        Ok(())
    }

    fn wait_all(&mut self) -> Result<(), String> {
        for ticket in std::mem::take(&mut self.tickets) {
            let appended = ticket.wait(Durability::Durable).map_err(|e| format!("wait: {e}"))?;
            self.book.is_durable(appended.last.0 + 1);
        }
        Ok(())
    }

    fn produce(&mut self, dice: &mut Dice, durability: Durability) -> Result<(), String> {
        let who = u8::try_from(dice.below(3)).expect("small") + 1;
        self.sequence += 1 + dice.below(3);
        let producer = Producer { id: Id([who; 16]), sequence: self.sequence };
        let how =
            Append { durability: Some(durability), producer: Some(producer), ..Append::default() };
        let timed = dice.chance(1, 2);
        let first = self.append(dice, timed, durability, &how)?;
        let last = self.book.sent() - 1;
        self.book.produced.entry(who).or_default().push(Produced { producer, first, last });
        Ok(())
    }

    /// A producer's last batch, if the log must still know it.
    fn last_produced(&self, dice: &mut Dice) -> Option<Produced> {
        let who = u8::try_from(dice.below(3)).expect("small") + 1;
        let last = self.book.produced.get(&who)?.last()?;
        // Retention may have made the log forget it.
        (last.first >= self.book.start).then(|| last.clone())
    }

    fn retry(&mut self, dice: &mut Dice) -> Result<(), String> {
        let Some(last) = self.last_produced(dice) else { return Ok(()) };
        let mut told: Vec<Told> = (last.first..=last.last)
            .map(|offset| self.book.at(offset).expect("sent").clone())
            .collect();
        if told.iter().any(|told| told.timestamp.is_none()) {
            // Some of those that the log gave have been read: a batch has all of them, or none.
            told.iter_mut().for_each(|told| told.timestamp = None);
        }
        let batch = batch(&told);
        let how = Append {
            durability: Some(Durability::Durable),
            producer: Some(last.producer),
            ..Append::default()
        };
        let appended = self.log().append_with(&batch, &how).map_err(|e| format!("retry: {e}"))?;
        same("retry, duplicate", u64::from(appended.duplicate), 1)?;
        same("retry", appended.first.0, last.first)?;
        same("retry", appended.last.0, last.last)?;
        self.book.is_durable(last.last + 1);
        Ok(())
    }

    fn stale(&mut self, dice: &mut Dice) -> Result<(), String> {
        let Some(last) = self.last_produced(dice) else { return Ok(()) };
        let producer = Producer { sequence: last.producer.sequence - 1, ..last.producer };
        let how = Append { producer: Some(producer), ..Append::default() };
        self.refused(dice, &how, "a stale sequence")
    }

    fn expect_end(&mut self, dice: &mut Dice, right: bool) -> Result<(), String> {
        let end = self.book.sent();
        let expect = Expect::End(Offset(if right { end } else { end + 1 + dice.below(3) }));
        self.expect(dice, right, expect)
    }

    fn expect_key(&mut self, dice: &mut Dice, right: bool) -> Result<(), String> {
        let key = key(dice);
        let mut last = self.book.last_of(&key).map(Offset);
        if !right {
            last = match last {
                Some(_) if dice.chance(1, 2) => None,
                Some(last) => Some(last.plus(1)),
                None => Some(Offset(dice.below(self.book.sent() + 1))),
            };
        }
        self.expect(dice, right, Expect::Key { key, last })
    }

    fn expect(&mut self, dice: &mut Dice, right: bool, expect: Expect) -> Result<(), String> {
        let durability = dice.pick(&[Durability::Buffered, Durability::Durable]);
        let how =
            Append { durability: Some(durability), expect: Some(expect), ..Append::default() };
        match right {
            true => self.append(dice, false, durability, &how).map(drop),
            false => self.refused(dice, &how, "a wrong expectation"),
        }
    }

    /// An append that must be rejected, and leave the log as it was.
    fn refused(&mut self, dice: &mut Dice, how: &Append, what: &str) -> Result<(), String> {
        let told = self.records(dice, false, 1);
        match self.log().append_with(&batch(&told), how) {
            Err(e) if e.kind() == Kind::Rejected => Ok(()),
            other => Err(format!("{what} must be rejected, found {other:?}")),
        }
    }

    // Reading.

    fn read(&mut self, dice: &mut Dice, ranged: bool) -> Result<(), String> {
        let log = self.log.as_ref().expect("open between steps");
        let end = log.end().0;
        let from = dice.below(end + 2);
        let to = if ranged { from + dice.below(MOST_READ) } else { u64::MAX };
        let cursor = match ranged {
            true => log.read_range(Offset(from)..Offset(to)),
            false => log.read(Offset(from)),
        };
        let mut cursor = match cursor {
            Err(e) if from < self.book.start && e.kind() == Kind::Gone => return Ok(()),
            Err(e) => return Err(format!("read from {from}: {e}")),
            Ok(_) if from < self.book.start => {
                return Err(format!("read from {from}, below the start {}", self.book.start));
            }
            Ok(cursor) => cursor,
        };
        let stop = end.min(to).min(from.saturating_add(MOST_READ));
        for offset in from..stop {
            match cursor.next() {
                Ok(Some(entry)) if entry.offset.0 == offset => {
                    let told = self.book.at_mut(offset).expect("below the end");
                    if !told.is(&entry) {
                        return Err(format!("offset {offset}: sent {told:?}, read {entry:?}"));
                    }
                    told.timestamp = Some(entry.timestamp);
                    self.stats.records_checked += 1;
                }
                other => return Err(format!("expected offset {offset}, read {other:?}")),
            }
        }
        if stop == end.min(to).max(from) {
            let more = cursor.next().map_err(|e| format!("read at the end: {e}"))?;
            same("read at the end", u64::from(more.is_some()), 0)?;
        }
        Ok(())
    }

    fn get(&mut self, dice: &mut Dice) -> Result<(), String> {
        let end = self.log().end().0;
        let offset = dice.below(end + 2);
        match self.log().get(Offset(offset)) {
            Err(e) if offset < self.book.start && e.kind() == Kind::Gone => Ok(()),
            Ok(None) if offset >= end => Ok(()),
            Ok(Some(entry)) if (self.book.start..end).contains(&offset) => {
                let told = self.book.at_mut(offset).expect("below the end");
                if entry.offset.0 != offset || !told.is(&entry.as_entry()) {
                    return Err(format!("get({offset}): sent {told:?}, got {entry:?}"));
                }
                told.timestamp = Some(entry.timestamp);
                self.stats.records_checked += 1;
                Ok(())
            }
            other => Err(format!("get({offset}), start {}, end {end}: {other:?}", self.book.start)),
        }
    }

    fn seek_time(&mut self, dice: &mut Dice) -> Result<(), String> {
        self.read_all()?;
        let end = self.log().end().0;
        let near = self.book.start + dice.below(end.saturating_sub(self.book.start) + 1);
        let time = self.book.at(near).and_then(|told| told.timestamp).unwrap_or(self.time)
            + i64::try_from(dice.below(5)).expect("small")
            - 2;
        let found = self.log().seek_time(time).map_err(|e| format!("seek_time({time}): {e}"))?;
        same(&format!("seek_time({time})"), found.0, self.book.first_since(time, end))
    }

    fn tail(&mut self, dice: &mut Dice) -> Result<(), String> {
        let log = self.log.as_ref().expect("open between steps");
        let end = log.end().0;
        let width = end - self.book.start;
        let from = end - dice.below(width.min(MOST_READ) + 1);
        let mut tail = log.tail(Offset(from)).map_err(|e| format!("tail from {from}: {e}"))?;
        for offset in from..end {
            let entry = tail.next_timeout(Duration::ZERO).map_err(|e| format!("tail: {e}"))?;
            let told = self.book.at(offset).expect("below the end");
            if !entry.as_ref().is_some_and(|e| e.offset.0 == offset && told.is(e)) {
                return Err(format!("tail at {offset}: {entry:?}"));
            }
            self.stats.records_checked += 1;
        }
        let more = tail.wait_timeout(Duration::ZERO).map_err(|e| format!("tail: {e}"))?;
        same("tail at the end", u64::from(more), 0)
    }

    /// Reads everything, from the start to the visible end.
    pub(super) fn read_all(&mut self) -> Result<(), String> {
        let log = self.log.as_ref().expect("open between steps");
        self.stats.records_checked += read_all(log, &mut self.book)?;
        Ok(())
    }

    // Upkeep.

    fn retain(&mut self, dice: &mut Dice, op: Op) -> Result<(), String> {
        self.read_all()?;
        let mut policy = Retention::default();
        match op {
            Op::RetainBytes { dry } => {
                policy.keep_bytes = Some(dice.below(200_000));
                policy.dry_run = dry;
            }
            Op::RetainAfter { dry } => {
                let near = self.book.start + dice.below(self.book.durable - self.book.start + 1);
                let at = self.book.at(near).and_then(|told| told.timestamp);
                policy.keep_after = Some(at.unwrap_or(self.time));
                policy.dry_run = dry;
            }
            Op::RetainFrom { dry } => {
                policy.keep_from = Some(Offset(dice.below(self.book.sent() + 2)));
                policy.dry_run = dry;
            }
            _ => unreachable!("one of the three"),
        }
        let before = self.log().segments();
        let kept = match self.log().retain(&policy) {
            // It would leave the table alone with what only its checkpoint holds.
            Err(e) if e.kind() == Kind::Rejected && self.has_table() => return Ok(()),
            kept => kept.map_err(|e| format!("retain: {e}"))?,
        };
        let start = kept.start.0;
        if start < self.book.start || start > self.book.durable {
            return Err(format!("{policy:?}: a start at {start}, before {}", self.book.start));
        }
        let bytes: u64 = before
            .iter()
            .filter(|s| s.end_offset.is_some_and(|end| end.0 > start) || s.base_offset.0 >= start)
            .filter_map(|segment| segment.data_bytes)
            .sum();
        let dropped = self.book.start..start;
        let newer = |offset: u64| {
            let at = self.book.at(offset).and_then(|told| told.timestamp);
            policy.keep_after.is_some_and(|after| at >= Some(after))
        };
        let broken = policy.keep_from.is_some_and(|from| start > from.0.max(self.book.start))
            || policy.keep_bytes.is_some_and(|keep| !dropped.is_empty() && bytes < keep)
            || dropped.clone().any(newer);
        if broken {
            return Err(format!("{policy:?} dropped offsets {dropped:?}, {bytes} bytes are left"));
        }
        if !policy.dry_run {
            self.book.start = start;
        }
        Ok(())
    }

    fn verify(&mut self) -> Result<(), String> {
        let report = verify_on(&self.sim.shared(), Path::new(DIR), Level::Full)
            .map_err(|e| format!("verify: {e}"))?;
        match report.problems.first() {
            Some(problem) => Err(format!("verify finds {problem:?}")),
            None => same("verify, lost", report.lost.len() as u64, 0),
        }
    }

    /// Reads beside the writer.
    fn other_process(&mut self, sync: bool) -> Result<(), String> {
        if sync {
            self.log().sync().map_err(|e| format!("sync: {e}"))?;
            self.book.is_durable(self.book.sent());
        }
        let durable = self.log().durable_end().0;
        let reader = self.options().read_only(true).fs(self.sim.process().shared());
        let log = reader.open(DIR).map_err(|e| format!("reader: {e}"))?;
        let end = log.end().0;
        // It may be behind, never ahead of what is durable; after a sync it is up to date.
        if end > durable || sync && end < durable {
            return Err(format!("a reader sees {end} of {durable} durable records, sync {sync}"));
        }
        self.stats.records_checked +=
            read_all(&log, &mut self.book).map_err(|e| format!("reader: {e}"))?;
        Ok(())
    }
}

/// Reads a log from its start to its end, and holds every record against the book.
pub(super) fn read_all(log: &Log, book: &mut Book) -> Result<u64, String> {
    let end = log.end().0;
    let mut cursor = log.read(log.start()).map_err(|e| format!("read: {e}"))?;
    let mut next = log.start().0;
    while let Some(entry) = cursor.next().map_err(|e| format!("read at {next}: {e}"))? {
        let told = book.at_mut(next).ok_or_else(|| format!("invented: {entry:?}"))?;
        if entry.offset.0 != next || !told.is(&entry) {
            return Err(format!("offset {next}: sent {told:?}, read {entry:?}"));
        }
        told.timestamp = Some(entry.timestamp);
        next += 1;
    }
    same("read to the end", next, end)?;
    Ok(end - log.start().0)
}

fn batch(told: &[Told]) -> Batch {
    let mut batch = Batch::new();
    for told in told {
        batch.push(&told.record()).expect("within the limits");
    }
    batch
}

fn key(dice: &mut Dice) -> Vec<u8> {
    dice.pick(&[&b"a"[..], b"bb", b"ccc", b""]).to_vec()
}

pub(super) fn same(what: &str, found: u64, expected: u64) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: expected {expected}, found {found}")),
    }
}
