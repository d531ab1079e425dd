//! What clients were told, and what may therefore be found in the log.
//!
//! The oracle of `iofault` and `powercut`. It knows only what was sent and what came back, never
//! the engine's state. Every record carries its serial number; serials of one lane (one thread)
//! rise in the order of its appends. Invariants, held against every complete reading of the log:
//! - what was acknowledged is found at the offset that was acknowledged, as long as the crashes
//!   since then allow;
//! - what was refused, or was once missing after a recovery, is never found;
//! - nothing is found twice, in part, changed, or in another order than it was sent;
//! - a record that was read was durable: from then on it must be found.

use std::collections::BTreeMap;

use tidelog::Durability;

/// Bytes of a record in front of its filling: serial and length.
const HEAD: usize = 12;

/// What became of one batch, as far as clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Acknowledged with this durability, from this offset on.
    Acknowledged(Durability, u64),
    /// An error that says neither yes nor no, or an acknowledgement that a crash may undo.
    Unknown,
    /// Refused, or missing after a recovery: it never comes back.
    Never,
    /// Dropped by retention, which was asked for.
    Dropped,
}

#[derive(Clone, Debug)]
struct Sent {
    first: u64,
    count: u64,
    lane: u64,
    fate: Fate,
    life: u32,
}

/// The memory of all clients.
#[derive(Clone, Debug, Default)]
pub struct Told {
    sent: Vec<Sent>,
    /// The next serial.
    next: u64,
    /// How often the log was opened for writing.
    life: u32,
    /// Retention was asked to drop what lies below this offset.
    pub may_start: u64,
    /// It said that it did.
    pub must_start: u64,
    /// Offsets that a repair reported as lost.
    pub lost: Vec<(u64, u64)>,
}

/// A record as it was read: its offset and its value.
pub type Found = (u64, Vec<u8>);

impl Told {
    /// Takes note of a batch about to be sent; returns its serial numbers' first.
    pub fn send(&mut self, count: u64, lane: u64) -> u64 {
        let first = self.next;
        self.next += count;
        self.sent.push(Sent { first, count, lane, fate: Fate::Unknown, life: self.life });
        first
    }

    /// The batch that begins with this serial was acknowledged.
    /// Returns how many records it has.
    pub fn acknowledge(&mut self, serial: u64, durability: Durability, offset: u64) -> u64 {
        let batch = self.batch(serial);
        batch.fate = Fate::Acknowledged(durability, offset);
        let count = batch.count;
        if durability == Durability::Durable {
            // Everything before it in the log is durable with it.
            for sent in &mut self.sent {
                if let Fate::Acknowledged(level, first) = &mut sent.fate
                    && *first < offset
                {
                    *level = Durability::Durable;
                }
            }
        }
        count
    }

    /// The serial that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// A later sync made everything below this offset durable.
    pub fn synced(&mut self, end: u64) {
        for sent in &mut self.sent {
            if let Fate::Acknowledged(level, first) = &mut sent.fate
                && *first + sent.count <= end
            {
                *level = Durability::Durable;
            }
        }
    }

    /// The batch was refused: nothing was appended.
    pub fn refuse(&mut self, serial: u64) {
        self.batch(serial).fate = Fate::Never;
    }

    fn batch(&mut self, serial: u64) -> &mut Sent {
        let at = self.sent.partition_point(|sent| sent.first <= serial) - 1;
        &mut self.sent[at]
    }

    /// The log was closed cleanly: everything acknowledged is durable.
    pub fn closed(&mut self) {
        self.weaken(|_| true);
        self.synced(u64::MAX);
    }

    /// The process ended without a clean close.
    pub fn killed(&mut self) {
        self.weaken(|level| level >= Durability::Written);
    }

    /// The power failed.
    pub fn cut(&mut self) {
        self.weaken(|level| level >= Durability::Durable);
    }

    fn weaken(&mut self, survives: impl Fn(Durability) -> bool) {
        self.life += 1;
        for sent in &mut self.sent {
            if matches!(sent.fate, Fate::Acknowledged(level, _) if !survives(level)) {
                sent.fate = Fate::Unknown;
            }
        }
    }

    /// Forgets the oldest batches whose story is over; a record of theirs that came back would
    /// be one that nobody sent.
    pub fn forget(&mut self) {
        let over = |sent: &Sent| matches!(sent.fate, Fate::Never | Fate::Dropped);
        let keep = self.sent.iter().position(|sent| !over(sent)).unwrap_or(self.sent.len());
        self.sent.drain(..keep);
    }

    /// Records acknowledged so far that must be found whatever happens.
    pub fn durable(&self) -> u64 {
        let durable = |s: &&Sent| matches!(s.fate, Fate::Acknowledged(Durability::Durable, _));
        self.sent.iter().filter(durable).map(|sent| sent.count).sum()
    }

    /// Holds a complete reading of the log, from its `start` to its end, against what was told.
    ///
    /// `settled`: an append of this life was acknowledged as durable, so what earlier lives left
    /// behind is there now or never comes. What was read becomes durable.
    pub fn hold(&mut self, start: u64, found: &[Found], settled: bool) -> Result<(), String> {
        self.hold_up_to(start, found, settled, true)
    }

    /// The same for a reading that may end early: by a reader beside the writer, who sees no
    /// further than what he can prove durable.
    pub fn hold_prefix(&mut self, start: u64, found: &[Found]) -> Result<(), String> {
        self.hold_up_to(start, found, false, false)
    }

    fn hold_up_to(
        &mut self,
        start: u64,
        found: &[Found],
        settled: bool,
        whole: bool,
    ) -> Result<(), String> {
        let end = found.last().map_or(start, |(offset, _)| offset + 1);
        if start > self.may_start || start < self.must_start {
            return Err(format!(
                "the log starts at offset {start}; retention was told {} and said {}",
                self.may_start, self.must_start
            ));
        }
        let places = self.places(start, found)?;
        let (life, lost) = (self.life, self.lost.clone());
        for sent in &mut self.sent {
            let serials = sent.first..sent.first + sent.count;
            let here: Vec<(u64, u64)> =
                places.range(serials.clone()).map(|(serial, offset)| (*serial, *offset)).collect();
            if here.is_empty() && !whole && !sent.is_below(end) {
                continue;
            }
            if here.is_empty() {
                sent.absent((start, end), &lost, settled && sent.life < life)?;
                continue;
            }
            let first = here[0].1;
            let whole = here.len() as u64 == sent.count
                && here.iter().enumerate().all(|(i, (_, at))| *at == first + i as u64);
            if !whole {
                return Err(format!("batch {serials:?} is found in part: {here:?}"));
            }
            match sent.fate {
                Fate::Acknowledged(_, told) if told != first => {
                    return Err(format!("batch {serials:?} was told offset {told}, is at {first}"));
                }
                Fate::Never => {
                    return Err(format!(
                        "batch {serials:?} is at offset {first}, but was refused or missing before"
                    ));
                }
                _ => sent.fate = Fate::Acknowledged(Durability::Durable, first),
            }
        }
        Ok(())
    }

    /// Serial → offset of everything found; checks bytes, density, order and that all of it was
    /// sent.
    fn places(&self, start: u64, found: &[Found]) -> Result<BTreeMap<u64, u64>, String> {
        let mut places = BTreeMap::new();
        let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
        let mut next = start;
        for (offset, value) in found {
            while self.lost.iter().any(|(from, to)| (*from..*to).contains(&next)) {
                next += 1;
            }
            if *offset != next {
                return Err(format!("expected offset {next}, read {offset}"));
            }
            next += 1;
            let serial = serial_of(value)
                .ok_or_else(|| format!("offset {offset} holds bytes that nobody sent"))?;
            let at = self.sent.partition_point(|sent| sent.first <= serial);
            let sent = at.checked_sub(1).map(|at| &self.sent[at]);
            let Some(sent) = sent.filter(|sent| serial < sent.first + sent.count) else {
                return Err(format!("offset {offset} holds serial {serial}, which was never sent"));
            };
            if let Some(newer) = newest.insert(sent.lane, serial)
                && newer >= serial
            {
                return Err(format!("serial {serial} at offset {offset} comes behind {newer}"));
            }
            places.insert(serial, *offset);
        }
        Ok(places)
    }
}

impl Sent {
    /// Whether it was told an offset below this one.
    fn is_below(&self, end: u64) -> bool {
        matches!(self.fate, Fate::Acknowledged(_, first) if first < end)
    }

    /// Whether a batch may be missing from a log of these offsets.
    fn absent(
        &mut self,
        (start, end): (u64, u64),
        lost: &[(u64, u64)],
        settled: bool,
    ) -> Result<(), String> {
        match self.fate {
            Fate::Acknowledged(_, first) if first + self.count <= start => {
                self.fate = Fate::Dropped;
            }
            Fate::Acknowledged(_, first) if lost.contains(&(first, first + self.count)) => {}
            Fate::Acknowledged(level, first)
                if first < end || level == Durability::Durable || settled =>
            {
                return Err(format!(
                    "batch {}.. of {} records, told {level:?} at offset {first}, is missing from \
                     {start}..{end}",
                    self.first, self.count
                ));
            }
            Fate::Unknown if settled => self.fate = Fate::Never,
            _ => {}
        }
        Ok(())
    }
}

/// The value of the record with this serial.
pub fn value(serial: u64, len: usize) -> Vec<u8> {
    let len = len.max(HEAD);
    let mut value = Vec::with_capacity(len + 8);
    value.extend_from_slice(&serial.to_le_bytes());
    value.extend_from_slice(&u32::try_from(len).expect("at most 16 MiB").to_le_bytes());
    let mut state = serial.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while value.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend_from_slice(&state.to_le_bytes());
    }
    value.truncate(len);
    value
}

/// The serial in a value, if all of it is as it was sent.
pub fn serial_of(bytes: &[u8]) -> Option<u64> {
    let serial = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (value(serial, bytes.len()) == bytes).then_some(serial)
}
