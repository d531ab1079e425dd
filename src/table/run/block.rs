//! A block: the body of one `run` frame, rows in key order behind a byte of each key's hash.
//!
//! Made by `writer`, read by `get`, cursors and `verify`. Pure; any bytes may come in.
//!
//! ```text
//! body:  u8 tag[count], one 0 when count is odd  [u16 end[count] when count > 1]  rows
//! row:   u32 word = key length << 2 | operation   u64 offset   i64 timestamp   key   value
//! ```
//!
//! Invariants:
//! - a lone row reaches to the end of the body; of several, `end` counts from the first row's byte
//!   and the last one is the body's end, so a block of several holds at most 65,535 bytes of rows;
//! - keys rise strictly; a tag is the top byte of its key's hash; a delete has no value.
//!
//! A get compares tags, 8 at a time, before it touches a row: at 125 rows a block that is two
//! cache lines instead of the seven rows of a binary search.

use std::ops::Range;

use crate::frame::{Fault, HEADER_BYTES};
use crate::position::Offset;
use crate::record::{MAX_KEY_BYTES, Op};
use crate::table::row::Version;

use super::fetch;

/// Bytes of a row beside its key and value.
pub(super) const ROW_BYTES: usize = 20;

/// As much of a row is fetched at once; the processor goes on by itself where a row is longer.
const ROW_NEAR_BYTES: usize = 4 * 64;

/// Bytes of tags and ends in front of `count` rows.
pub(super) const fn table_bytes(count: usize) -> usize {
    count.next_multiple_of(2) + if count > 1 { 2 * count } else { 0 }
}

/// The byte of a key's [`hash`](crate::table::filter::hash) that stands in its block.
#[inline]
pub(super) fn tag(hash: u64) -> u8 {
    hash.to_be_bytes()[0]
}

/// Appends a row's bytes.
#[inline]
pub(super) fn encode_row(rows: &mut Vec<u8>, key: &[u8], version: Version<'_>) {
    let op = if version.value.is_some() { Op::Put } else { Op::Delete };
    assert!(key.len() <= MAX_KEY_BYTES, "the log takes no longer keys");
    #[expect(clippy::cast_possible_truncation, reason = "at most 64 KiB")]
    let word = (key.len() as u32) << 2 | op.bits();
    let mut fixed = [0; ROW_BYTES];
    fixed[..4].copy_from_slice(&word.to_le_bytes());
    fixed[4..12].copy_from_slice(&version.offset.0.to_le_bytes());
    fixed[12..].copy_from_slice(&version.timestamp.to_le_bytes());
    rows.extend_from_slice(&fixed);
    rows.extend_from_slice(key);
    rows.extend_from_slice(version.value.unwrap_or_default());
}

/// Where a row's parts lie, in its body or in what that lies in.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
    pub(super) delete: bool,
    pub(super) offset: Offset,
    pub(super) timestamp: i64,
}

impl Place {
    /// Of the row that fills `span`.
    #[inline]
    pub(super) fn of(bytes: &[u8], span: Range<usize>) -> Result<Self, Fault> {
        let row = bytes.get(span.clone()).ok_or(Fault::Body)?;
        let fixed = row.first_chunk::<ROW_BYTES>().ok_or(Fault::Body)?;
        let [word, offset, timestamp] = [
            u64::from(u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]])),
            u64_at(fixed, 4),
            u64_at(fixed, 12),
        ];
        // 30 bits: fits any usize.
        let key_bytes = usize::try_from(word >> 2).map_err(|_| Fault::Body)?;
        let key = span.start + ROW_BYTES..span.start + ROW_BYTES + key_bytes;
        let delete = match word & 0b11 {
            0 => false,
            1 => true,
            _ => return Err(Fault::Body),
        };
        if key.end > span.end || (delete && key.end != span.end) {
            return Err(Fault::Body);
        }
        let value = key.end..span.end;
        let timestamp = timestamp.cast_signed();
        Ok(Place { key, value, delete, offset: Offset(offset), timestamp })
    }

    /// The same, in what the body lies in, from `byte` on.
    pub(super) fn moved(self, byte: usize) -> Self {
        let moved = |range: Range<usize>| range.start + byte..range.end + byte;
        Place { key: moved(self.key.clone()), value: moved(self.value.clone()), ..self }
    }

    /// The row there; `bytes` is what it was found in.
    #[inline]
    pub(super) fn row<'a>(&self, bytes: &'a [u8]) -> Option<(&'a [u8], Version<'a>)> {
        let key = bytes.get(self.key.clone())?;
        let value = bytes.get(self.value.clone())?;
        let value = (!self.delete).then_some(value);
        Some((key, Version { value, offset: self.offset, timestamp: self.timestamp }))
    }
}

/// A block's parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    body: &'a [u8],
    tags: &'a [u8],
    ends: &'a [[u8; 2]],
    /// Where the rows start in the body.
    rows: usize,
}

impl<'a> Block<'a> {
    /// Splits a body of `count` rows; in constant time, so rows are checked as they are read.
    #[inline]
    pub(super) fn decode(body: &'a [u8], count: u16) -> Result<Self, Fault> {
        let count = usize::from(count);
        let rows = table_bytes(count);
        let table = body.get(..rows).ok_or(Fault::Body)?;
        let (tags, ends) = table.split_at(count.next_multiple_of(2));
        let (ends, _) = ends.as_chunks::<2>();
        let block = Block { body, tags: &tags[..count], ends, rows };
        if count == 0 || ends.last().is_some_and(|end| block.rows + word(*end) != body.len()) {
            return Err(Fault::Body);
        }
        Ok(block)
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.tags.len()
    }

    /// Bytes of the body.
    pub(super) fn bytes(&self) -> usize {
        self.body.len()
    }

    /// The place in the body where each row ends, and where the first begins.
    pub(super) fn ends_and_rows(&self) -> (usize, usize) {
        (self.len().next_multiple_of(2), self.rows)
    }

    /// Their tags, one a row.
    pub(super) fn tags(&self) -> &'a [u8] {
        self.tags
    }

    /// Row `i`'s bytes in the body.
    #[inline]
    fn span(&self, i: usize) -> Result<Range<usize>, Fault> {
        if self.ends.is_empty() {
            return if i == 0 { Ok(self.rows..self.body.len()) } else { Err(Fault::Body) };
        }
        let end = word(*self.ends.get(i).ok_or(Fault::Body)?);
        let start = if i == 0 { 0 } else { word(self.ends[i - 1]) };
        Ok(self.rows + start..self.rows + end)
    }

    /// Where row `i` lies.
    #[inline]
    pub(super) fn place(&self, i: usize) -> Result<Place, Fault> {
        Place::of(self.body, self.span(i)?)
    }

    /// Row `i`.
    #[inline]
    pub(super) fn row(&self, i: usize) -> Result<(&'a [u8], Version<'a>), Fault> {
        self.place(i)?.row(self.body).ok_or(Fault::Body)
    }

    /// The row of `key`, whose hash has this tag.
    #[inline]
    pub(super) fn find(&self, tag: u8, key: &[u8]) -> Result<Option<Version<'a>>, Fault> {
        let wanted = u64::from_le_bytes([tag; 8]);
        let (words, rest) = self.tags.as_chunks::<8>();
        for (w, tags) in words.iter().enumerate() {
            let mut hits = zero_bytes(u64::from_le_bytes(*tags) ^ wanted);
            while hits != 0 {
                let i = 8 * w + hits.trailing_zeros() as usize / 8;
                if let Some(version) = self.row_of(i, key)? {
                    return Ok(Some(version));
                }
                hits &= hits - 1;
            }
        }
        for (r, _) in rest.iter().enumerate().filter(|(_, t)| **t == tag) {
            if let Some(version) = self.row_of(8 * words.len() + r, key)? {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    /// Row `i`, if it is that of `key`, which its tag says.
    #[inline]
    fn row_of(&self, i: usize, key: &[u8]) -> Result<Option<Version<'a>>, Fault> {
        // Of a row, the first line is waited for; its value comes at the same time.
        let bytes = self.body.get(self.span(i)?).ok_or(Fault::Body)?;
        fetch(&bytes[..bytes.len().min(ROW_NEAR_BYTES)]);
        let (found, version) = self.row(i)?;
        Ok((found == key).then_some(version))
    }

    /// The first row whose key is at or behind `key`; the count when there is none.
    pub(super) fn lower_bound(&self, key: &[u8]) -> Result<usize, Fault> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.row(middle)?.0 < key { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }
}

#[inline]
fn word(bytes: [u8; 2]) -> usize {
    usize::from(u16::from_le_bytes(bytes))
}

#[inline]
fn u64_at(fixed: &[u8; ROW_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| fixed[at + i]))
}

/// The top bit of every byte of `x` that is 0, and no other bit.
#[inline]
fn zero_bytes(x: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    !(((x & LOW) + LOW) | x | LOW)
}

/// The most a lone row's frame adds to its key and value. The log's own frames add 72 to the
/// largest record they take (header, producer, alignment, end and word), so every record fits.
pub(super) const LONE_OVERHEAD: usize = HEADER_BYTES + table_bytes(1) + ROW_BYTES;

const _: () = assert!(LONE_OVERHEAD <= crate::frame::OVERHEAD_BYTES + 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_bytes_are_found_and_no_others() {
        for x in [0, 1, 0x80, 0x0100, u64::MAX, 0x00ff_0180_7f00_0100, 0x8080_0000_0101_7f80] {
            let expected = (0..8).filter(|i| x >> (8 * i) & 0xff == 0).map(|i| 0x80 << (8 * i));
            assert_eq!(zero_bytes(x), expected.sum::<u64>(), "{x:016x}");
        }
    }

    #[test]
    fn a_body_of_any_bytes_is_refused_or_read_without_a_panic() {
        let body: Vec<u8> = (0..200u32).map(|i| (i * 7 % 13) as u8).collect();
        for len in 0..body.len() {
            for count in [0, 1, 2, 3, 9, 50, u16::MAX] {
                let Ok(block) = Block::decode(&body[..len], count) else { continue };
                let _ = block.find(3, b"key");
                let _ = block.lower_bound(b"key");
                assert!((0..block.len() + 1).any(|i| block.row(i).is_err()));
            }
        }
    }
}
