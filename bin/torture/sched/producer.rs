//! A producer: appends in every way there is, and keeps what it was told.

use tidelog::frame::Producer;
use tidelog::{
    Append, Appended, Batch, Durability, Error, Expect, Id, Kind, Log, Offset, Record, Ticket,
};

use crate::dice::Dice;

use super::Counts;
use super::ledger::{Call, Outcome, value};
use super::plan::{Plan, Trouble};
use super::watch::Sign;

const EVERY: [Durability; 3] = [Durability::Buffered, Durability::Written, Durability::Durable];
/// A full disk has space again long before so many tries.
const MOST_TRIES: u32 = 200_000;

/// What a producer is about.
pub struct Producing<'a> {
    pub log: &'a Log,
    pub plan: &'a Plan,
    pub counts: &'a Counts,
    pub sign: &'a Sign,
    pub number: u16,
    dice: Dice,
    next: u64,
    sequence: u64,
    /// Offset of its last record, if that is certain: the condition of its key.
    last: Option<Option<Offset>>,
    calls: Vec<Call>,
    tickets: Vec<(usize, Ticket)>,
    found: Vec<String>,
}

/// What a producer leaves behind.
pub struct Left {
    pub calls: Vec<Call>,
    pub found: Vec<String>,
}

impl<'a> Producing<'a> {
    pub fn new(
        log: &'a Log,
        plan: &'a Plan,
        counts: &'a Counts,
        sign: &'a Sign,
        number: u16,
    ) -> Self {
        let dice = Dice::new(plan.seed ^ (u64::from(number) + 1) << 40);
        Producing {
            log,
            plan,
            counts,
            sign,
            number,
            dice,
            next: 0,
            sequence: 0,
            last: Some(None),
            calls: Vec::new(),
            tickets: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Appends until the plan is done or the log is poisoned.
    pub fn run(mut self) -> Left {
        for _ in 0..self.plan.calls {
            if self.dice.chance(1, 16) {
                std::thread::yield_now();
            }
            let on = match self.dice.below(16) {
                0..6 => self.single(),
                6..9 => self.batch(Append::default()),
                9..12 => self.submit(),
                12..14 => self.as_producer(),
                14 => self.at_end(),
                _ => self.on_key(),
            };
            if !on || self.found.len() > 3 {
                break;
            }
            if self.tickets.len() > 8 || self.dice.chance(1, 16) {
                self.wait_for_tickets();
            }
        }
        self.wait_for_tickets();
        if self.log.stats().poisoned {
            self.sign.doing("appending to a poisoned log");
            let after = self.log.append(&Record::put(b"after", b""));
            if after.as_ref().err().map(Error::kind) != Some(Kind::Poisoned) {
                self.found.push(format!("an append to a poisoned log gave {after:?}"));
            }
        }
        Left { calls: self.calls, found: self.found }
    }

    fn key(&self) -> [u8; 2] {
        self.number.to_le_bytes()
    }

    /// Mostly small; now and then larger than staging takes in such a segment.
    fn len(&mut self) -> usize {
        let below = match self.dice.below(128) {
            0 => 100_000,
            1..8 => 6000,
            _ => 250,
        };
        usize::try_from(self.dice.below(below)).expect("small")
    }

    fn fill(&mut self, count: u64) -> Batch {
        let mut batch = Batch::new();
        for i in 0..count {
            let value = value(self.number, self.next + i, self.len());
            batch.push(&Record::put(&self.key(), &value)).expect("within all limits");
        }
        self.next += count;
        batch
    }

    fn single(&mut self) -> bool {
        self.sign.doing("appending one record");
        let value = value(self.number, self.next, self.len());
        self.next += 1;
        let (log, key) = (self.log, self.key());
        let durability = self.plan.durability;
        self.until_there_is_space(1, durability, |_| log.append(&Record::put(&key, &value)))
    }

    fn batch(&mut self, how: Append) -> bool {
        self.sign.doing("appending a batch");
        let durability = self.dice.pick(&EVERY);
        let how = Append { durability: Some(durability), ..how };
        let count = 1 + self.dice.below(20);
        let batch = self.fill(count);
        let log = self.log;
        self.until_there_is_space(count, durability, |_| log.append_with(&batch, &how))
    }

    fn submit(&mut self) -> bool {
        self.sign.doing("submitting a batch");
        let count = 1 + self.dice.below(5);
        let batch = self.fill(count);
        let (log, mut ticket) = (self.log, None);
        let on = self.until_there_is_space(count, Durability::Buffered, |_| {
            let submitted = log.submit(&batch, &Append::default())?;
            let appended = submitted.appended;
            ticket = Some(submitted);
            Ok(appended)
        });
        if let Some(ticket) = ticket {
            self.tickets.push((self.calls.len() - 1, ticket));
        }
        on
    }

    /// With a sequence: whatever came out, and sometimes for no reason, it is tried again.
    fn as_producer(&mut self) -> bool {
        self.sign.doing("appending with a sequence");
        self.sequence += 1;
        let mut id = [7; 16];
        id[..2].copy_from_slice(&self.key());
        let durability = self.dice.pick(&EVERY);
        let producer = Producer { id: Id(id), sequence: self.sequence };
        let how =
            Append { durability: Some(durability), producer: Some(producer), ..Append::default() };
        let count = 1 + self.dice.below(4);
        let batch = self.fill(count);
        let log = self.log;
        if !self.until_there_is_space(count, durability, |_| log.append_with(&batch, &how)) {
            return false;
        }
        let call = *self.calls.last().expect("just made");
        let known = matches!(call.outcome, Outcome::Told(_));
        if call.outcome == Outcome::Absent || known && !self.dice.chance(1, 4) {
            return true;
        }
        self.sign.doing("retrying with a sequence");
        match log.append_with(&batch, &how) {
            Ok(again) => {
                Counts::add(&self.counts.duplicates, 1);
                if !again.duplicate || call.first.is_some_and(|first| first != again.first) {
                    self.found.push(format!("{call:?}: a retry gave {again:?}"));
                }
                true
            }
            Err(e) => self.goes_on(&e),
        }
    }

    fn at_end(&mut self) -> bool {
        self.sign.doing("appending at an expected end");
        let expected = self.log.end();
        let how = Append { expect: Some(Expect::End(expected)), ..Append::default() };
        let on = self.batch(how);
        if let Some(Call { first: Some(first), outcome: Outcome::Told(_), .. }) = self.calls.last()
            && *first != expected
        {
            self.found.push(format!("expected the end {expected}, appended at {first}"));
        }
        on
    }

    /// The condition on its own key, which nobody else writes, holds exactly when it should.
    fn on_key(&mut self) -> bool {
        let Some(last) = self.last.filter(|_| !self.plan.retaining) else { return true };
        self.sign.doing("appending on a key's condition");
        let wrong = self.dice.chance(1, 3);
        let last = if wrong { Some(Offset(u64::MAX - 1)) } else { last };
        let expect = Expect::Key { key: self.key().to_vec(), last };
        let on = self.batch(Append { expect: Some(expect), ..Append::default() });
        let outcome = self.calls.last().expect("just made").outcome;
        let refused = outcome == Outcome::Absent;
        if on && refused != wrong && matches!(outcome, Outcome::Absent | Outcome::Told(_)) {
            self.found.push(format!("expected the key at {last:?}, which gave {outcome:?}"));
        }
        on
    }

    /// Makes a call until it is not refused by a full disk; `false` when the log is poisoned.
    fn until_there_is_space(
        &mut self,
        count: u64,
        durability: Durability,
        mut call: impl FnMut(u32) -> Result<Appended, Error>,
    ) -> bool {
        Counts::add(&self.counts.appends, 1);
        let number = self.next - count;
        for tries in 0..MOST_TRIES {
            let error = match call(tries) {
                Ok(appended) => {
                    Counts::add(&self.counts.records, count);
                    if durability == Durability::Durable {
                        Counts::add(&self.counts.durable_waits, 1);
                    }
                    if appended.last.0 - appended.first.0 + 1 != count || appended.duplicate {
                        self.found.push(format!("{count} new records became {appended:?}"));
                    }
                    self.note(number, count, Some(appended.first), Outcome::Told(durability));
                    return true;
                }
                Err(error) => error,
            };
            if error.kind() != Kind::DiskFull {
                let outcome = match error.kind() {
                    Kind::Rejected => Outcome::Absent,
                    _ => Outcome::Unknown,
                };
                let first = match error.kind() {
                    Kind::Unknown => error.offset().map(Offset),
                    _ => None,
                };
                self.note(number, count, first, outcome);
                return self.goes_on(&error);
            }
            Counts::add(&self.counts.refused_full, 1);
            if tries == 0 {
                self.sign.doing("trying again on a full disk");
            }
            std::thread::yield_now();
        }
        self.note(number, count, None, Outcome::Absent);
        self.found.push("appends did not go on after the disk had space again".into());
        false
    }

    fn note(&mut self, number: u64, count: u64, first: Option<Offset>, outcome: Outcome) {
        self.calls.push(Call { number, count, first, outcome });
        match (outcome, first) {
            (Outcome::Absent, _) => {}
            (_, Some(first)) => self.last = Some(Some(first.plus(count - 1))),
            (_, None) => self.last = None,
        }
    }

    /// Whether the error is one that may be, and lets a producer go on.
    fn goes_on(&mut self, error: &Error) -> bool {
        let full = matches!(self.plan.trouble, Trouble::Full { .. });
        match error.kind() {
            Kind::Poisoned => return false,
            Kind::Rejected => {
                Counts::add(&self.counts.rejected, 1);
                return true;
            }
            Kind::Unknown | Kind::DiskFull if full => {
                Counts::add(&self.counts.unknown, 1);
                return true;
            }
            _ => self.found.push(format!("an append gave {error}")),
        }
        false
    }

    fn wait_for_tickets(&mut self) {
        for (at, ticket) in std::mem::take(&mut self.tickets) {
            let durability = self.dice.pick(&EVERY);
            if self.dice.chance(1, 4) {
                continue;
            }
            self.sign.doing("waiting for a ticket");
            match ticket.wait(durability) {
                Ok(_) => {
                    if durability == Durability::Durable {
                        Counts::add(&self.counts.durable_waits, 1);
                    }
                    self.calls[at].outcome = Outcome::Told(durability);
                }
                Err(e) => {
                    self.goes_on(&e);
                }
            }
        }
    }
}
