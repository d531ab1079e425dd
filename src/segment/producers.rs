//! What each producer appended last: makes retries safe, also after a restart.
//!
//! ```text
//! entry:  id (16 bytes) | u64 sequence | u64 first offset | u64 last offset | i64 timestamp
//! ```
//!
//! Stored in each sealed segment for the producers seen in it, ordered by id; the log keeps the
//! union. Bounds and expiry follow frame order and frame timestamps alone, so that every node
//! that reads the same frames keeps the same producers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::position::{Id, Offset};

/// Bytes of a stored entry.
pub(super) const PRODUCER_ENTRY_BYTES: u64 = 48;
/// The most producers remembered; the one that appended longest ago goes first.
const MAX_PRODUCERS: usize = 10_000;
/// A producer that appended nothing for this long, by the log's own timestamps, is forgotten.
const EXPIRY_NS: i64 = 7 * 24 * 3600 * 1_000_000_000;

/// A producer's last batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// Its sequence.
    pub sequence: u64,
    /// Offset of its first record.
    pub first: Offset,
    /// Offset of its last record.
    pub last: Offset,
    /// The frame's timestamp.
    pub timestamp: i64,
}

/// A producer as a line of text: `id sequence first last timestamp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProducerLine(pub(crate) Id, pub(crate) ProducerState);

impl fmt::Display for ProducerLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProducerLine(id, ProducerState { sequence, first, last, timestamp }) = self;
        write!(f, "{id} {sequence} {first} {last} {timestamp}")
    }
}

impl FromStr for ProducerLine {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        let [id, sequence, first, last, timestamp] = words[..] else { return Err(()) };
        let number = |word: &str| word.parse::<u64>().map_err(drop);
        let state = ProducerState {
            sequence: number(sequence)?,
            first: Offset(number(first)?),
            last: Offset(number(last)?),
            timestamp: timestamp.parse().map_err(drop)?,
        };
        Ok(ProducerLine(id.parse()?, state))
    }
}

/// The last batch of each producer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    states: BTreeMap<Id, ProducerState>,
    newest: i64,
}

impl Producers {
    /// The last batch of `id`.
    pub fn get(&self, id: Id) -> Option<&ProducerState> {
        self.states.get(&id)
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Every producer, as lines of text.
    pub(crate) fn lines(&self) -> impl Iterator<Item = ProducerLine> {
        self.states.iter().map(|(id, state)| ProducerLine(*id, *state))
    }

    /// What such lines say.
    pub(crate) fn from_lines(mut lines: Vec<ProducerLine>) -> Self {
        lines.sort_by_key(|ProducerLine(_, state)| state.last);
        let mut producers = Producers::default();
        for ProducerLine(id, state) in lines {
            producers.note(id, state);
        }
        producers
    }

    /// Takes note of a batch, in frame order.
    pub fn note(&mut self, id: Id, state: ProducerState) {
        self.newest = self.newest.max(state.timestamp);
        self.states.insert(id, state);
        if self.states.len() > MAX_PRODUCERS {
            let horizon = self.newest.saturating_sub(EXPIRY_NS);
            self.states.retain(|_, state| state.timestamp >= horizon);
        }
        while self.states.len() > MAX_PRODUCERS {
            let oldest = self.states.iter().min_by_key(|(_, state)| state.last);
            let id = *oldest.expect("more than the bound, so not empty").0;
            self.states.remove(&id);
        }
    }

    /// Takes note of everything a later segment holds.
    pub fn merge(&mut self, later: &Producers) {
        let mut in_order: Vec<_> = later.states.iter().collect();
        in_order.sort_unstable_by_key(|(_, state)| state.last);
        for (id, state) in in_order {
            self.note(*id, *state);
        }
    }

    /// The block as it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(self.states.len() * 48);
        for (id, state) in &self.states {
            block.extend_from_slice(&id.0);
            for n in [state.sequence, state.first.0, state.last.0] {
                block.extend_from_slice(&n.to_le_bytes());
            }
            block.extend_from_slice(&state.timestamp.to_le_bytes());
        }
        block
    }

    /// Reads a stored block.
    pub fn decode(block: &[u8]) -> Self {
        let mut producers = Producers::default();
        for b in block.chunks_exact(48) {
            let mut id = [0; 16];
            id.copy_from_slice(&b[..16]);
            let state = ProducerState {
                sequence: LE::read_u64(&b[16..]),
                first: Offset(LE::read_u64(&b[24..])),
                last: Offset(LE::read_u64(&b[32..])),
                timestamp: LE::read_i64(&b[40..]),
            };
            producers.newest = producers.newest.max(state.timestamp);
            producers.states.insert(Id(id), state);
        }
        producers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> Id {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        Id(id)
    }

    fn state(n: u64) -> ProducerState {
        ProducerState { sequence: n, first: Offset(n), last: Offset(n), timestamp: 3 }
    }

    #[test]
    fn a_block_reads_back() {
        let mut producers = Producers::default();
        producers.note(id(1), state(4));
        producers.note(id(2), state(5));
        producers.note(id(1), state(6));
        assert_eq!(producers.get(id(1)).unwrap().sequence, 6);
        assert_eq!(Producers::decode(&producers.encode()), producers);
    }

    #[test]
    fn the_bound_forgets_who_appended_longest_ago() {
        let mut producers = Producers::default();
        for n in 0..=MAX_PRODUCERS as u32 {
            producers.note(id(n), state(u64::from(n)));
        }
        assert_eq!(producers.len(), MAX_PRODUCERS);
        assert_eq!(producers.get(id(0)), None);
        assert!(producers.get(id(1)).is_some());
    }
}
