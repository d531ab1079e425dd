//! What producers were told, held against what the log holds.
//!
//! A record's value says who made it and its number; the rest of the value follows from these.
//! Invariants held: offsets are dense, each record is there at most once and in its producer's
//! order, what was told is where it was told, and what was refused is nowhere.

use std::collections::HashMap;

use tidelog::{Durability, Log, Offset};

/// Who and which: the head of every value.
pub const HEAD_BYTES: usize = 10;
/// The producer of the last record of a round.
pub const LAST: u16 = u16::MAX;

/// The value of a producer's record.
pub fn value(producer: u16, number: u64, len: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_BYTES + len);
    value.extend_from_slice(&producer.to_le_bytes());
    value.extend_from_slice(&number.to_le_bytes());
    value.resize(HEAD_BYTES + len, filler(producer, number));
    value
}

fn filler(producer: u16, number: u64) -> u8 {
    number.wrapping_mul(31).wrapping_add(u64::from(producer)).to_le_bytes()[0]
}

/// Producer and number of a value, if it is whole.
pub fn read_value(value: &[u8]) -> Result<(u16, u64), String> {
    let Some((head, rest)) = value.split_first_chunk::<HEAD_BYTES>() else {
        return Err(format!("a value of {} bytes, which nobody appended", value.len()));
    };
    let producer = u16::from_le_bytes([head[0], head[1]]);
    let number = u64::from_le_bytes(head[2..].try_into().expect("eight bytes"));
    match rest.iter().find(|&&byte| byte != filler(producer, number)) {
        None => Ok((producer, number)),
        Some(_) => Err(format!("record {number} of producer {producer} with other bytes")),
    }
}

/// What a producer knows of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged so.
    Told(Durability),
    /// Refused: nothing was appended.
    Absent,
    /// The outcome is unknown; if an offset was named, it is there once the disk has space.
    Unknown,
}

/// One call of a producer.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Number of its first record, and how many.
    pub number: u64,
    pub count: u64,
    pub first: Option<Offset>,
    pub outcome: Outcome,
}

/// What one reader of the log has seen so far, each producer's records in order.
#[derive(Debug, Default)]
pub struct Order {
    last: HashMap<u16, u64>,
}

impl Order {
    /// Takes in the next record; an error says what is wrong with it.
    pub fn see(&mut self, offset: Offset, bytes: &[u8]) -> Result<(u16, u64), String> {
        let (producer, number) =
            read_value(bytes).map_err(|found| format!("offset {offset}: {found}"))?;
        match self.last.insert(producer, number) {
            Some(before) if before >= number => Err(format!(
                "offset {offset}: record {number} of producer {producer} behind its record {before}"
            )),
            _ => Ok((producer, number)),
        }
    }
}

/// How much of what was told must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Must {
    /// Everything that has an offset: the log was synced to its end and never failed.
    Everything,
    /// What was acknowledged at least so.
    AtLeast(Durability),
}

/// Reads the whole log and holds it against what producers were told.
pub fn check(log: &Log, told: &[(u16, Vec<Call>)], must: Must) -> Vec<String> {
    match read(log) {
        Err(found) => vec![found],
        Ok((start, held)) => told
            .iter()
            .zip(std::iter::repeat(&held))
            .flat_map(|((producer, calls), held)| {
                calls.iter().filter_map(move |call| {
                    hold(*producer, call, start, held, must)
                        .map(|found| format!("producer {producer}, {call:?}: {found}"))
                })
            })
            .collect(),
    }
}

/// Where each record is.
type Held = HashMap<(u16, u64), Offset>;

fn read(log: &Log) -> Result<(Offset, Held), String> {
    let start = log.start();
    let end = log.end();
    let mut cursor = log.read(start).map_err(|e| format!("reading from {start}: {e}"))?;
    let (mut next, mut order, mut held) = (start, Order::default(), Held::new());
    while let Some(entry) = cursor.next().map_err(|e| format!("reading offset {next}: {e}"))? {
        if entry.offset != next {
            return Err(format!("expected offset {next}, found {}", entry.offset));
        }
        held.insert(order.see(next, entry.record.value)?, next);
        next = next.plus(1);
    }
    if next < end {
        return Err(format!("the log ends at {end}, reading ended at {next}"));
    }
    Ok((start, held))
}

fn hold(producer: u16, call: &Call, start: Offset, held: &Held, must: Must) -> Option<String> {
    for i in 0..call.count {
        let number = call.number + i;
        let found = held.get(&(producer, number));
        let Some(first) = call.first else {
            match found {
                Some(at) if call.outcome == Outcome::Absent => {
                    return Some(format!("record {number} was refused and is at offset {at}"));
                }
                _ => continue,
            }
        };
        let at = first.plus(i);
        let needed = match (must, call.outcome) {
            (Must::Everything, _) => true,
            (Must::AtLeast(least), Outcome::Told(how)) => how >= least,
            (Must::AtLeast(_), _) => false,
        };
        match found {
            Some(&found) if found != at => {
                return Some(format!("record {number} is at offset {found}, told was {at}"));
            }
            None if needed && at >= start => {
                return Some(format!("record {number}, told to be at offset {at}, is missing"));
            }
            _ => {}
        }
    }
    None
}
