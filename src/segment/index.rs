//! The sparse index of one segment: offset or time → byte, one entry per 32 KiB.
//!
//! ```text
//! entry:  u32 rel_offset | u32 byte / 8 | i64 running maximum of timestamps before the entry's frame
//! ```
//!
//! Offsets, bytes and running maxima all rise, so one binary search serves them all; then frames
//! are hopped over, and the one that this leads to is checked. Built while frames are written or walked, stored at seal, read
//! from the map. An index is only ever a hint: whoever uses it checks the frame it leads to, so
//! a wrong one costs time, never a wrong record.

use byteorder::{ByteOrder, LittleEndian as LE};

/// Bytes of file per entry.
pub const STEP_BYTES: u64 = 32 << 10;
/// Bytes of an entry.
pub(super) const ENTRY_BYTES: u64 = 16;

/// A frame's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// First record's offset minus the base offset.
    pub rel_offset: u32,
    /// The frame's byte in the file.
    pub byte: u64,
    /// The newest timestamp before this frame; `i64::MIN` when none.
    pub max_before: i64,
}

/// An index in memory, ready to be stored as it is.
#[derive(Clone, Debug, Default)]
pub struct Index {
    bytes: Vec<u8>,
    next_byte: u64,
}

impl Index {
    /// Considers the frame at `byte`; adds an entry when it is the first in its 32 KiB.
    #[inline]
    pub fn add(&mut self, rel_offset: u32, byte: u64, max_before: i64) {
        if byte < self.next_byte {
            return;
        }
        self.next_byte = (byte / STEP_BYTES + 1) * STEP_BYTES;
        let mut entry = [0; 16];
        LE::write_u32(&mut entry[0..], rel_offset);
        let eighth = u32::try_from(byte / 8).expect("segments are far below 32 GiB");
        LE::write_u32(&mut entry[4..], eighth);
        LE::write_i64(&mut entry[8..], max_before);
        self.bytes.extend_from_slice(&entry);
    }

    /// The block as it is stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Entries in a stored block.
    pub fn entries(block: &[u8]) -> usize {
        block.len() / 16
    }

    /// Entry `i` of a stored block.
    pub fn entry(block: &[u8], i: usize) -> Option<IndexEntry> {
        let b = block.get(16 * i..16 * i + 16)?;
        Some(IndexEntry {
            rel_offset: LE::read_u32(b),
            byte: 8 * u64::from(LE::read_u32(&b[4..])),
            max_before: LE::read_i64(&b[8..]),
        })
    }

    /// The last entry of `block` whose frame starts at or before `rel_offset`.
    pub fn find_offset(block: &[u8], rel_offset: u32) -> Option<IndexEntry> {
        Self::last_where(block, |entry| entry.rel_offset <= rel_offset)
    }

    /// The last entry of `block` whose frame starts at or before `byte`.
    pub fn find_byte(block: &[u8], byte: u64) -> Option<IndexEntry> {
        Self::last_where(block, |entry| entry.byte <= byte)
    }

    /// The last entry of `block` before whose frame every timestamp is below `timestamp`.
    pub fn find_time(block: &[u8], timestamp: i64) -> Option<IndexEntry> {
        Self::last_where(block, |entry| entry.max_before < timestamp)
    }

    fn last_where(block: &[u8], holds: impl Fn(&IndexEntry) -> bool) -> Option<IndexEntry> {
        let (mut low, mut high) = (0, Self::entries(block));
        while low < high {
            let middle = low.midpoint(high);
            if holds(&Self::entry(block, middle)?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Self::entry(block, low.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_entry_per_step_finds_the_last_frame_at_or_before() {
        let mut index = Index::default();
        for i in 0..1000u32 {
            index.add(i, 4096 + u64::from(i) * 136, i64::from(i) * 10 - 1);
        }
        let block = index.as_bytes();
        assert_eq!(Index::entries(block), 5);
        assert_eq!(Index::find_offset(block, 0).unwrap().byte, 4096);
        for wanted in [1, 210, 211, 300, 999, 5000] {
            let found = Index::find_offset(block, wanted).unwrap();
            assert!(found.rel_offset <= wanted);
            let by_time = Index::find_time(block, i64::from(wanted) * 10 - 1).unwrap();
            assert!(by_time.rel_offset <= wanted);
        }
        assert_eq!(Index::find_time(block, -5), None);
        assert_eq!(Index::find_offset(&[], 3), None);
        assert_eq!(Index::find_offset(&block[..15], 3), None);
    }
}
