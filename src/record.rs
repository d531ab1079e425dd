//! Records as callers see them, and batches as they are encoded for a frame's body.
//!
//! A [`Record`] borrows its bytes, whether it comes from a caller or out of a mapped segment. A
//! [`Batch`] gathers records in the very bytes that a frame's body will hold (`docs/FORMAT.md`),
//! so that an append copies once. Called by users and by `log::append`; uses only the limits.
//!
//! ```text
//! record:  u32 word = key length << 2 | operation (key length all ones: no key)
//!          [i64 timestamp]  key  value
//! body:    [producer u128, sequence u64]  [u32 end[count] when count > 1]  records
//! ```

use crate::error::{Error, Kind, Result};

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 64 << 10;
/// The most records in one batch.
pub const MAX_BATCH_RECORDS: usize = 65_535;
/// The longest frame, header included, in bytes; also before compression.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

/// The 30 bits of key length that say "no key".
pub(crate) const NO_KEY: u32 = (1 << 30) - 1;

/// What a record does to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Sets its key.
    Put,
    /// Removes its key.
    Delete,
    /// Leaves the table alone; stays readable in the log.
    Event,
}

impl Op {
    /// The two bits in a record's word.
    pub(crate) fn bits(self) -> u32 {
        match self {
            Op::Put => 0,
            Op::Delete => 1,
            Op::Event => 2,
        }
    }

    pub(crate) fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            0 => Some(Op::Put),
            1 => Some(Op::Delete),
            2 => Some(Op::Event),
            _ => None,
        }
    }

    /// `put`, `delete` or `event`.
    pub fn as_str(self) -> &'static str {
        match self {
            Op::Put => "put",
            Op::Delete => "delete",
            Op::Event => "event",
        }
    }
}

/// One item of the log, borrowing its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it does to the table.
    pub op: Op,
    /// Up to [`MAX_KEY_BYTES`]; an event may have none. An empty key is a key.
    pub key: Option<&'a [u8]>,
    /// A delete has an empty one.
    pub value: &'a [u8],
    /// Nanoseconds since the Unix epoch; `None` on append lets the log stamp it.
    pub timestamp: Option<i64>,
}

impl<'a> Record<'a> {
    /// Sets `key` to `value`.
    pub fn put(key: &'a [u8], value: &'a [u8]) -> Self {
        Record { op: Op::Put, key: Some(key), value, timestamp: None }
    }

    /// Removes `key`.
    pub fn delete(key: &'a [u8]) -> Self {
        Record { op: Op::Delete, key: Some(key), value: &[], timestamp: None }
    }

    /// An event without a key.
    pub fn event(value: &'a [u8]) -> Self {
        Record { op: Op::Event, key: None, value, timestamp: None }
    }

    /// An event with a key.
    pub fn keyed_event(key: &'a [u8], value: &'a [u8]) -> Self {
        Record { op: Op::Event, key: Some(key), value, timestamp: None }
    }

    /// The same record at `timestamp`, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn at(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Bytes this record takes in a body; `timed` when the batch carries timestamps.
    #[inline]
    pub(crate) fn encoded_len(&self, timed: bool) -> usize {
        4 + if timed { 8 } else { 0 } + self.key.map_or(0, <[u8]>::len) + self.value.len()
    }

    #[inline]
    pub(crate) fn word(&self) -> u32 {
        // `check` holds the key below 64 KiB, so it never reads as NO_KEY.
        #[expect(clippy::cast_possible_truncation, reason = "checked: at most 64 KiB")]
        let key_len = self.key.map_or(NO_KEY, |k| k.len() as u32);
        key_len << 2 | self.op.bits()
    }

    /// Holds the record against the limits; an error says which one.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |message: String| Err(Error::new(Kind::InvalidInput, message));
        match (self.op, self.key) {
            (Op::Put | Op::Delete, None) => {
                return invalid(format!("a {} needs a key", self.op.as_str()));
            }
            (Op::Delete, _) if !self.value.is_empty() => {
                return invalid(format!(
                    "a delete has no value, found one of {} bytes",
                    self.value.len()
                ));
            }
            (_, Some(key)) if key.len() > MAX_KEY_BYTES => {
                return invalid(format!(
                    "expected a key of at most {MAX_KEY_BYTES} bytes, found {}",
                    key.len()
                ));
            }
            _ => {}
        }
        if self.value.len() > MAX_FRAME_BYTES {
            return invalid(format!(
                "expected a record that fits a frame of {MAX_FRAME_BYTES} bytes, found a value of {}",
                self.value.len()
            ));
        }
        Ok(())
    }
}

/// Records appended together: all or none survive.
///
/// Either every record of a batch carries a timestamp or none does. Reuse one with
/// [`clear`](Batch::clear): it keeps its memory.
///
/// ```
/// use tidelog::{Batch, Record};
/// let mut batch = Batch::new();
/// batch.push(&Record::put(b"gate", b"open"))?;
/// batch.push(&Record::delete(b"alarm"))?;
/// assert_eq!(batch.len(), 2);
/// # Ok::<(), tidelog::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    ends: Vec<u32>,
    records: Vec<u8>,
    timed: bool,
    min_timestamp: i64,
    max_timestamp: i64,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Batch::default()
    }

    /// Adds a record; on an error (a limit) the batch stays as it was.
    pub fn push(&mut self, record: &Record<'_>) -> Result<()> {
        record.check()?;
        let invalid = |message: String| Err(Error::new(Kind::InvalidInput, message));
        if self.ends.len() == MAX_BATCH_RECORDS {
            return invalid(format!("expected at most {MAX_BATCH_RECORDS} records in a batch"));
        }
        if !self.ends.is_empty() && self.timed != record.timestamp.is_some() {
            return invalid(
                "in one batch either every record carries a timestamp or none does".into(),
            );
        }
        let timed = record.timestamp.is_some();
        let end = self.records.len() + record.encoded_len(timed);
        if end + 4 * (self.ends.len() + 1) > MAX_FRAME_BYTES - crate::frame::OVERHEAD_BYTES {
            return invalid(format!(
                "expected a batch that fits a frame of {MAX_FRAME_BYTES} bytes; \
                 this record would be number {} and end at byte {end}",
                self.ends.len() + 1
            ));
        }
        self.records.extend_from_slice(&record.word().to_le_bytes());
        if let Some(timestamp) = record.timestamp {
            self.records.extend_from_slice(&timestamp.to_le_bytes());
            if self.ends.is_empty() {
                (self.min_timestamp, self.max_timestamp) = (timestamp, timestamp);
            }
            self.min_timestamp = self.min_timestamp.min(timestamp);
            self.max_timestamp = self.max_timestamp.max(timestamp);
        }
        self.records.extend_from_slice(record.key.unwrap_or_default());
        self.records.extend_from_slice(record.value);
        self.timed = timed;
        #[expect(clippy::cast_possible_truncation, reason = "checked: at most 16 MiB")]
        self.ends.push(end as u32);
        Ok(())
    }

    /// Records in it.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether its records carry timestamps.
    pub fn is_timed(&self) -> bool {
        self.timed
    }

    /// Bytes its records take so far.
    pub fn bytes(&self) -> usize {
        self.records.len()
    }

    /// Its records, in order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let bytes = &self.records[start..*end as usize];
            start = *end as usize;
            let read = crate::frame::record(bytes, self.timed);
            let (record, timestamp) = read.expect("a batch holds what was pushed");
            Record { timestamp, ..record }
        })
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.records.clear();
        self.timed = false;
    }

    pub(crate) fn ends(&self) -> &[u32] {
        &self.ends
    }

    pub(crate) fn records(&self) -> &[u8] {
        &self.records
    }

    /// The newest timestamp, if the records carry them.
    pub(crate) fn max_timestamp(&self) -> Option<i64> {
        self.timed.then_some(self.max_timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_held_and_leave_the_batch_as_it_was() {
        let mut batch = Batch::new();
        batch.push(&Record::put(b"k", b"v")).unwrap();
        let long = vec![0; MAX_KEY_BYTES + 1];
        for bad in [
            Record::put(&long, b""),
            Record { op: Op::Put, key: None, value: b"", timestamp: None },
            Record { op: Op::Delete, key: Some(b"k"), value: b"v", timestamp: None },
            Record::put(b"k", &vec![0; MAX_FRAME_BYTES]),
            Record::put(b"k", b"v").at(7),
        ] {
            assert_eq!(batch.push(&bad).unwrap_err().kind(), Kind::InvalidInput);
            assert_eq!((batch.len(), batch.bytes()), (1, 6));
        }
    }

    #[test]
    fn a_batch_gives_back_what_was_pushed() {
        for time in [None, Some(7)] {
            let records = [
                Record::put(b"", b"v"),
                Record::delete(b"k"),
                Record::event(b""),
                Record::keyed_event(b"", b"x"),
            ]
            .map(|record| Record { timestamp: time, ..record });
            let mut batch = Batch::new();
            assert_eq!(batch.iter().count(), 0);
            records.iter().for_each(|record| batch.push(record).unwrap());
            assert!(batch.iter().eq(records));
        }
    }

    #[test]
    fn a_batch_holds_at_most_65535_records() {
        let mut batch = Batch::new();
        for _ in 0..MAX_BATCH_RECORDS {
            batch.push(&Record::event(b"")).unwrap();
        }
        assert_eq!(batch.push(&Record::event(b"")).unwrap_err().kind(), Kind::InvalidInput);
        assert_eq!(batch.len(), MAX_BATCH_RECORDS);
    }
}
