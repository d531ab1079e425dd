//! A block: rows of a run, in key order, as the body of a frame of kind `run`.
//!
//! ```text
//! | u8 tag × count, padded to 2 | u16 end × count, unless count is 1 | row | row | …
//! row: | u32 operation (2 bits), key length (30 bits) | u64 offset | i64 timestamp | key | value |
//! ```
//!
//! A tag is the upper byte of the key's hash: a search looks at one byte a row, eight at a time,
//! and at the key itself where the byte is right. Ends count from the first row. Invariant: what a
//! [`Block`] hands out lies inside its body, whatever the body says.

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::frame::Fault;
use crate::position::Offset;
use crate::record::Op;

use crate::table::row::Version;

/// Bytes of a row before its key.
pub(super) const ROW_BYTES: usize = 20;
/// Rows of one block end below this, unless there is only one.
pub(super) const MOST_BYTES: usize = u16::MAX as usize;

/// The tag of a key with this hash.
#[inline]
pub(super) fn tag(hash: u64) -> u8 {
    hash.to_be_bytes()[0]
}

/// Where a row's parts are, counted from the block's first byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowAt {
    key: (u32, u32),
    value: (u32, u32),
    delete: bool,
    offset: u64,
    timestamp: i64,
}

impl RowAt {
    #[inline]
    pub(super) fn key<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        &body[self.key.0 as usize..self.key.1 as usize]
    }

    #[inline]
    pub(super) fn version<'a>(&self, body: &'a [u8]) -> Version<'a> {
        let value = &body[self.value.0 as usize..self.value.1 as usize];
        Version {
            value: (!self.delete).then_some(value),
            offset: Offset(self.offset),
            timestamp: self.timestamp,
        }
    }
}

/// The rows of a block, borrowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    body: &'a [u8],
    count: usize,
    /// Where the first row starts.
    rows: usize,
}

impl<'a> Block<'a> {
    /// Reads the body of a frame of `count` rows.
    #[inline]
    pub(super) fn decode(body: &'a [u8], count: u16) -> Result<Self, Fault> {
        let count = usize::from(count);
        let ends = count.next_multiple_of(2);
        let rows = if count > 1 { ends + 2 * count } else { ends };
        if count == 0 || body.len() < rows || u32::try_from(body.len()).is_err() {
            return Err(Fault::Body);
        }
        Ok(Block { body, count, rows })
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    #[inline]
    fn end(&self, i: usize) -> usize {
        if self.count == 1 {
            return self.body.len();
        }
        let at = self.count.next_multiple_of(2) + 2 * i;
        self.rows + usize::from(LE::read_u16(&self.body[at..]))
    }

    /// Row `i`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a body is below 4 GiB")]
    pub(super) fn row(&self, i: usize) -> Result<RowAt, Fault> {
        if i >= self.count {
            return Err(Fault::Body);
        }
        let start = if i == 0 { self.rows } else { self.end(i - 1) };
        let end = self.end(i);
        let row = self.body.get(start..end).ok_or(Fault::Body)?;
        let head = row.first_chunk::<ROW_BYTES>().ok_or(Fault::Body)?;
        let word = LE::read_u32(&head[..]);
        let key = start + ROW_BYTES;
        let value = key + (word >> 2) as usize;
        let delete = match Op::from_bits(word & 0b11) {
            Some(Op::Put) => false,
            Some(Op::Delete) => true,
            _ => return Err(Fault::Body),
        };
        if value > end {
            return Err(Fault::Body);
        }
        Ok(RowAt {
            key: (key as u32, value as u32),
            value: (value as u32, end as u32),
            delete,
            offset: LE::read_u64(&head[4..]),
            timestamp: LE::read_i64(&head[12..]),
        })
    }

    /// The row of `key`, whose hash is given.
    #[inline]
    pub(super) fn find(&self, key: &[u8], hash: u64) -> Result<Option<RowAt>, Fault> {
        const LOW: u64 = 0x0101_0101_0101_0101;
        let wanted = LOW * u64::from(tag(hash));
        let (words, rest) = self.body[..self.count].as_chunks::<8>();
        for (w, word) in words.iter().enumerate() {
            let differs = u64::from_le_bytes(*word) ^ wanted;
            // A byte that is zero gets its highest bit; one above such a byte may get it, too.
            let mut zeros = differs.wrapping_sub(LOW) & !differs & (LOW << 7);
            while zeros != 0 {
                let i = 8 * w + (zeros.trailing_zeros() / 8) as usize;
                let row = self.row(i)?;
                if row.key(self.body) == key {
                    return Ok(Some(row));
                }
                zeros &= zeros - 1;
            }
        }
        for (i, &found) in rest.iter().enumerate() {
            if found == tag(hash) {
                let row = self.row(8 * words.len() + i)?;
                if row.key(self.body) == key {
                    return Ok(Some(row));
                }
            }
        }
        Ok(None)
    }

    /// The first row with a key at or behind `key`.
    pub(super) fn lower_bound(&self, key: &[u8]) -> Result<usize, Fault> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.row(middle)?.key(self.body) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
