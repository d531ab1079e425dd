//! What clients know: what they sent, and what they were told of it. All that the oracle may use.
//!
//! Each record says which batch it is of, in its timestamp, so that a log that is read says what
//! became of every batch. Invariants held at the end: a batch is there whole or not at all, at most
//! once, and where its acknowledgement says.

use std::collections::BTreeMap;

use tidelog::frame::Producer;
use tidelog::replica::Level;
use tidelog::{Append, Batch, Entry, Id, Offset, Op};

use crate::dice::Dice;
use crate::told::Told;

/// Records of a batch at most, as its timestamps count them.
pub const MOST: i64 = 16;

/// A batch that a client sent.
#[derive(Debug)]
pub struct Sent {
    pub records: Vec<Told>,
    pub producer: Producer,
    /// Where it was said to be safe, and how safe.
    pub acked: Option<(u64, Level)>,
    /// Whether its client waits, or will try again.
    pub open: bool,
    /// Whether no failover may take it back.
    pub kept: bool,
}

impl Sent {
    /// What is given to an append.
    pub fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        for told in &self.records {
            batch.push(&told.record()).expect("a small record");
        }
        batch
    }

    /// Behind its last record, once it was acknowledged.
    pub fn end(&self) -> Option<u64> {
        self.acked.map(|(first, _)| first + self.records.len() as u64)
    }

    /// How it is appended.
    pub fn how(&self) -> Append {
        Append { producer: Some(self.producer), ..Append::default() }
    }
}

/// Everything that was sent.
#[derive(Debug, Default)]
pub struct Book {
    pub sent: Vec<Sent>,
    /// Everything below was acknowledged as durable, or more.
    pub durable: u64,
    sequences: BTreeMap<u64, u64>,
    /// The last batch of each client.
    last: BTreeMap<u64, usize>,
}

impl Book {
    /// A new batch of a client; its number.
    pub fn send(&mut self, client: u64, dice: &mut Dice, most: u64) -> usize {
        let number = self.sent.len();
        let first = i64::try_from(number).expect("few") * MOST;
        let count = 1 + dice.below(4);
        let records = (0..count).map(|i| {
            let op = dice.pick(&[Op::Put, Op::Put, Op::Put, Op::Delete, Op::Event]);
            let key = (op != Op::Event).then(|| format!("row/{:02}", dice.below(24)).into_bytes());
            let len = if op == Op::Delete { 0 } else { dice.below(most) };
            let value = vec![dice.next().to_le_bytes()[0]; usize::try_from(len).expect("short")];
            Told { op, key, value, timestamp: Some(first + i64::try_from(i).expect("few")) }
        });
        let records = records.collect();
        let sequence = self.sequences.entry(client).or_default();
        *sequence += 1;
        let producer =
            Producer { id: Id([u8::try_from(client + 1).expect("few"); 16]), sequence: *sequence };
        self.sent.push(Sent { records, producer, acked: None, open: true, kept: false });
        self.last.insert(client, number);
        number
    }

    /// The batch that a client waits for, or will send again. It has one at a time.
    pub fn open(&self, client: u64) -> Option<usize> {
        self.last.get(&client).copied().filter(|number| self.sent[*number].open)
    }

    /// Takes an acknowledgement in.
    pub fn acked(&mut self, number: usize, first: Offset, level: Level) {
        let sent = &mut self.sent[number];
        sent.open = false;
        sent.acked = Some((first.0, level));
        if level >= Level::Durable {
            self.durable = self.durable.max(first.0 + sent.records.len() as u64);
        }
    }
}

/// A log as it is read, held against the book from its first record on.
#[derive(Debug, Default)]
pub struct Reading {
    /// Where each batch begins.
    found: BTreeMap<usize, u64>,
    /// The batch that is being read, and how many of its records there were.
    current: Option<(usize, usize)>,
    start: Option<u64>,
    end: u64,
}

impl Reading {
    /// A log whose beginning was dropped: of its batches it is known where they began.
    pub fn behind(dropped: impl Iterator<Item = (usize, u64)>) -> Self {
        Reading { found: dropped.collect(), ..Reading::default() }
    }

    /// Where each batch begins.
    pub fn places(&self) -> &BTreeMap<usize, u64> {
        &self.found
    }

    /// Where a batch begins, if it is there.
    pub fn place(&self, number: usize) -> Option<u64> {
        self.found.get(&number).copied()
    }

    /// Takes the next record.
    pub fn take(&mut self, book: &Book, entry: &Entry<'_>) -> Result<(), String> {
        let offset = entry.offset.0;
        let number = usize::try_from(entry.timestamp / MOST).unwrap_or(usize::MAX);
        let at = usize::try_from(entry.timestamp % MOST).unwrap_or(usize::MAX);
        let sent = book.sent.get(number);
        let told = sent.and_then(|sent| sent.records.get(at));
        if !told.is_some_and(|told| told.is(entry)) {
            return Err(format!("offset {offset} holds a record that nobody sent so"));
        }
        let start = *self.start.get_or_insert(offset);
        self.end = offset + 1;
        let expected = match self.current {
            Some((batch, done)) if done < book.sent[batch].records.len() => Some((batch, done)),
            _ => None,
        };
        match expected {
            Some(expected) if expected != (number, at) => {
                return Err(format!("offset {offset}: batch {} is there in part", expected.0));
            }
            // Retention drops segments, and so whole batches.
            None if at > 0 => {
                return Err(format!(
                    "offset {offset}: batch {number} lacks its begin (log from {start})"
                ));
            }
            _ => {}
        }
        if at == 0 && self.found.insert(number, offset).is_some() {
            return Err(format!("offset {offset}: batch {number} is there twice"));
        }
        self.current = Some((number, at + 1));
        Ok(())
    }

    /// Holds what is there, read up to `end`, against what was acknowledged for good; how many batches
    /// that were acknowledged otherwise are not there.
    pub fn kept(&self, book: &Book, end: u64) -> Result<u64, String> {
        let mut lost = 0;
        for (number, sent) in book.sent.iter().enumerate() {
            let Some((first, level)) = sent.acked.filter(|(first, _)| *first < end) else {
                continue;
            };
            let found = self.found.get(&number);
            if sent.kept && found != Some(&first) {
                return Err(format!(
                    "batch {number} was acknowledged for good ({level}) at offset {first}, it is at {found:?}"
                ));
            }
            lost += u64::from(found.is_none());
        }
        Ok(lost)
    }

    /// Holds what is there against what was acknowledged as durable or more.
    pub fn finish(&self, book: &Book, start: u64, end: u64) -> Result<(), String> {
        for (number, sent) in book.sent.iter().enumerate() {
            let Some((first, level)) = sent.acked else { continue };
            if level < Level::Durable || first < start {
                continue;
            }
            match self.found.get(&number) {
                Some(at) if *at == first => {}
                Some(at) => {
                    return Err(format!(
                        "batch {number} was acknowledged ({level}) at offset {first}, it is at {at}"
                    ));
                }
                None => {
                    return Err(format!(
                        "batch {number}, acknowledged ({level}) at offset {first}, is not there; the log ends at {end}"
                    ));
                }
            }
        }
        Ok(())
    }
}
