//! What clients were told, and the oracle that holds a log against it.
//!
//! The oracle knows nothing of the engine's files: only what was sent, which calls returned, and
//! what they returned. Invariants it checks on every log that opens:
//! - what was acknowledged as durable, or was ever read, is there;
//! - what is there is what was sent, in order, without gaps, batches whole;
//! - no pair of epoch and offset is ever given to two records.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelog::{Epoch, Kind, Log, Offset, Op, Record};

use crate::slots::Slots;

/// How a verdict begins when the engine itself said that it cannot read on.
pub const READING: &str = "reading";

/// One record that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Names its content; never used twice.
    pub id: u32,
    pub len: u32,
    /// A batch ends with it.
    pub last: bool,
    /// The epoch that the engine said appended it, once it said so.
    pub issued: Option<Epoch>,
    /// Producer and sequence.
    pub producer: Option<(u8, u64)>,
}

/// A producer's newest batch.
#[derive(Clone, Copy, Debug)]
pub struct Newest {
    pub sequence: u64,
    pub first_id: u32,
    pub count: u32,
    pub len: u32,
    /// Where it was acknowledged to be.
    pub acknowledged: Option<u64>,
}

/// Everything clients know.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// By offset, from 0.
    pub line: Vec<Sent>,
    /// Records that survive the machine.
    pub durable: u64,
    /// Records that survive the process, as long as the machine runs.
    pub written: u64,
    /// The first offset lies between these two: retention asked for, and retention done.
    pub floor: (u64, u64),
    /// The log was closed, and not opened since.
    pub closed: bool,
    /// Records a follower said it holds.
    pub copied: u64,
    /// Offsets that damage took before the first operation, half-open.
    pub lost: Vec<(u64, u64)>,
    /// What an uncut recovery of this disk put into quarantine: a cut one must keep it, too.
    pub kept: Arc<Vec<Vec<u8>>>,
    pub producers: BTreeMap<u8, Newest>,
    pub next_id: u32,
    pub table: TableTold,
    /// What followers claimed.
    pub slots: Slots,
    /// Offsets that were given out and lost again, with their epochs.
    spent: Vec<(u64, Epoch)>,
}

/// What clients know of a table.
#[derive(Clone, Debug, Default)]
pub struct TableTold {
    /// Records delete and tell events, too, and have more keys: the log is there for its table.
    pub rows: bool,
    /// Everything below this is in a checkpoint.
    pub checkpoint: u64,
    /// Where snapshots stand that were published.
    pub published: Vec<u64>,
    /// Where a restore is to end, and where another one may be asked to.
    pub target: (u64, u64),
    /// A restore said that it was done.
    pub restored: bool,
}

impl Told {
    /// What still holds when the power has been off.
    pub fn after_cut(&self) -> Told {
        Told { written: 0, ..self.clone() }
    }

    /// Equal for equal obligations: states are checked once for each.
    pub fn digest(&self) -> u64 {
        let mut digest = mix(self.durable ^ (self.line.len() as u64) << 32);
        for part in [self.floor.0, self.floor.1, self.copied, u64::from(self.closed)] {
            digest = mix(digest ^ part);
        }
        digest = mix(digest ^ self.slots.digest());
        let TableTold { checkpoint, published, restored, .. } = &self.table;
        if self.table.rows {
            for part in [*checkpoint, published.len() as u64, u64::from(*restored)] {
                digest = mix(digest ^ part);
            }
        }
        mix(digest ^ self.producers.values().filter_map(|p| p.acknowledged).sum::<u64>())
    }

    /// Takes note that records are about to be sent; returns the first one's offset.
    pub fn send(&mut self, count: u32, len: u32, producer: Option<(u8, u64)>) -> u64 {
        let first = self.line.len() as u64;
        for i in 0..count {
            let id = self.next_id;
            self.next_id += 1;
            let len = if self.op(id) == Op::Delete { 0 } else { len };
            self.line.push(Sent { id, len, last: i + 1 == count, issued: None, producer });
        }
        first
    }

    /// Nothing was appended of what was sent from `first` on.
    pub fn refused(&mut self, first: u64) {
        self.line.truncate(index(first));
    }

    /// The engine gave these offsets out.
    pub fn issue(&mut self, first: u64, last: u64, epoch: Epoch) -> Result<(), String> {
        for offset in first..=last {
            let sent = self
                .line
                .get_mut(index(offset))
                .ok_or_else(|| format!("offset {offset} was given out, but nothing was sent"))?;
            sent.issued = Some(epoch);
        }
        match self.spent.iter().find(|spent| (first..=last).contains(&spent.0) && spent.1 == epoch)
        {
            Some((offset, epoch)) => {
                Err(format!("offset {offset} of epoch {epoch} was given out twice"))
            }
            None => Ok(()),
        }
    }

    /// The log opened and ends here: what lies behind is lost for good.
    pub fn settle(&mut self, end: u64) {
        for (offset, sent) in self.line.iter().enumerate().skip(index(end)) {
            if let Some(epoch) = sent.issued {
                self.spent.push((offset as u64, epoch));
            }
        }
        self.line.truncate(index(end));
        self.durable = end;
        self.written = end;
        self.closed = false;
    }

    /// Where a producer's newest batch is, if it is in the log.
    pub fn find(&self, producer: (u8, u64)) -> Option<u64> {
        self.line.iter().position(|sent| sent.producer == Some(producer)).map(|i| i as u64)
    }

    /// Reads all of a log and holds it against what is known; returns its end.
    pub fn verify(&self, log: &Log) -> Result<u64, String> {
        let start = log.start().0;
        if start < self.floor.0 || start > self.floor.1 {
            return Err(format!(
                "the log starts at {start}, between {} and {} were kept",
                self.floor.0, self.floor.1
            ));
        }
        let mut cursor =
            log.read(log.start()).map_err(|e| format!("{READING} from {start}: {e}"))?;
        let mut next = start;
        loop {
            match cursor.next() {
                Ok(None) => break,
                Ok(Some(entry)) => {
                    if entry.offset.0 != next {
                        let gap = (next..entry.offset.0).any(|offset| !self.is_lost(offset));
                        if gap || entry.offset.0 < next {
                            return Err(format!(
                                "offset {} follows {}",
                                entry.offset.0,
                                next.wrapping_sub(1)
                            ));
                        }
                        next = entry.offset.0;
                    }
                    self.is_sent(next, &entry.record)?;
                    next += 1;
                }
                Err(e) if e.kind() == Kind::Lost && !self.lost.is_empty() => {}
                Err(e) => return Err(format!("{READING} at offset {next}: {e}")),
            }
        }
        while self.is_lost(next) {
            next += 1;
        }
        let (end, sent) = (log.end().0, self.line.len() as u64);
        if next != end {
            return Err(format!("the log ends at {end}, reading ended at {next}"));
        }
        let promised = self.durable.max(self.written);
        if end < promised {
            return Err(format!("{end} records are left of {promised} acknowledged ones"));
        }
        if end > sent {
            return Err(format!("the log ends at {end}, only {sent} were sent"));
        }
        if end > 0 && !self.line[index(end - 1)].last {
            return Err(format!("the log ends at {end}, in the middle of a batch"));
        }
        Ok(end)
    }

    /// Gets one record by its offset; an error is an answer, a wrong record is not.
    pub fn verify_one(&self, log: &Log, offset: u64) -> Result<(), String> {
        match log.get(Offset(offset)) {
            Ok(Some(entry)) if entry.offset.0 != offset => {
                Err(format!("offset {offset} was asked for, {} was given", entry.offset))
            }
            Ok(Some(entry)) => self.is_sent(offset, &entry.record()),
            Ok(None) if offset < self.durable => Err(format!("there is no offset {offset}")),
            _ => Ok(()),
        }
    }

    /// Holds one record against what was sent at its offset.
    pub fn is_sent(&self, offset: u64, record: &Record<'_>) -> Result<(), String> {
        let Some(sent) = self.line.get(index(offset)) else {
            return Err(format!("offset {offset} holds a record that was never sent"));
        };
        let pattern = sent.id.to_le_bytes();
        let (parts, rest) = record.value.as_chunks::<4>();
        let same = record.value.len() == sent.len as usize
            && parts.chunks(16).all(|line| line.iter().fold(true, |all, p| all & (*p == pattern)))
            && *rest == pattern[..rest.len()];
        if same && record.op == self.op(sent.id) && record.key == Some(&self.key(sent.id)[..]) {
            return Ok(());
        }
        Err(format!("offset {offset} holds another record than the one sent (number {})", sent.id))
    }

    /// What the record of this number does.
    pub fn op(&self, id: u32) -> Op {
        match mix(u64::from(id)) % 9 {
            0 | 1 if self.table.rows => Op::Delete,
            2 if self.table.rows => Op::Event,
            _ => Op::Put,
        }
    }

    /// Its key: few records share each.
    pub fn key(&self, id: u32) -> Vec<u8> {
        match self.table.rows {
            // Some keys begin others.
            true => {
                let number = mix(u64::from(id)) >> 32;
                format!("row/{:0width$}", number % 29, width = 1 + index(number % 5)).into_bytes()
            }
            false => key(id).to_vec(),
        }
    }

    /// Where the last whole batch at or below this offset ends.
    pub fn batch_end(&self, target: u64) -> u64 {
        let line = &self.line[..index(target)];
        line.iter().rposition(|sent| sent.last).map_or(0, |last| last as u64 + 1)
    }

    fn is_lost(&self, offset: u64) -> bool {
        self.lost.iter().any(|&(first, end)| (first..end).contains(&offset))
    }
}

/// A record's key: a few records share each.
pub fn key(id: u32) -> [u8; 2] {
    [b'k', u8::try_from(id % 7).expect("below 7")]
}

/// A record's value: its number over and over, so that no two are alike anywhere.
pub fn value(id: u32, len: u32) -> Vec<u8> {
    let mut value = id.to_le_bytes().repeat(len.div_ceil(4) as usize);
    value.truncate(len as usize);
    value
}

/// Offsets index the line.
pub fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a workload sends few records")
}

/// The finaliser of SplitMix64: every bit of the input moves every bit of the output.
pub fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// A sequence of numbers from a seed.
#[derive(Clone, Copy, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The dice of one part of a run.
    pub fn of(seed: u64, name: &str, number: u64) -> Self {
        let name = name.bytes().fold(seed, |hash, byte| mix(hash ^ u64::from(byte)));
        Dice(mix(name ^ mix(number)))
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        u32::try_from(self.roll() % u64::from(n)).expect("below n")
    }

    /// One of `n` places.
    pub fn pick(&mut self, n: usize) -> usize {
        index(self.roll() % n as u64)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high - low + 1)
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}
