//! A section's index: which block may hold a key, and whether any does.
//!
//! ```text
//! | u32 blocks | u32 shared | u64 filter lines | zeros to 64 | filter: lines of 64 bytes |
//! | u64 prefix × blocks | u32 start × blocks | u32 key end × blocks | first keys |
//! ```
//!
//! Rows come in order, so a run is cut into sections of bounded size, each with an index of its
//! own: writing one needs no more memory, whatever the run's size. The filter is that of
//! `table::filter`. A prefix is the eight bytes of a block's first key behind what all first keys share; a start counts from the section's
//! first byte, in units of 8. Invariant: a section whose bytes make no sense is an error, never a
//! panic; a wrong answer of the filter costs time when it says yes and is excluded by the checksum
//! when it says no.

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::table::filter::{self, Filter};

const HEAD_BYTES: usize = 64;
const LINE_BYTES: usize = 64;

/// A section's index, borrowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    filter: &'a [u8],
    prefixes: &'a [u8],
    starts: &'a [u8],
    ends: &'a [u8],
    keys: &'a [u8],
    shared: usize,
    blocks: usize,
}

/// The bytes of `key` behind the first `shared`, as a number that orders like them.
#[inline]
pub(super) fn prefix(key: &[u8], shared: usize) -> u64 {
    let rest = key.get(shared..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let mut bytes = [0; 8];
            bytes[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(bytes)
        }
    }
}

/// How many bytes two keys share at their front.
fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl<'a> Section<'a> {
    /// Reads an index whose checksum holds; `None` if it makes no sense all the same.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let blocks = LE::read_u32(&head[..]) as usize;
        let shared = LE::read_u32(&head[4..]) as usize;
        let lines = usize::try_from(LE::read_u64(&head[8..])).ok()?;
        let (filter, rest) = rest.split_at_checked(lines.checked_mul(LINE_BYTES)?)?;
        let (prefixes, rest) = rest.split_at_checked(blocks.checked_mul(8)?)?;
        let (starts, rest) = rest.split_at_checked(blocks * 4)?;
        let (ends, keys) = rest.split_at_checked(blocks * 4)?;
        (blocks > 0 && lines > 0).then_some(Section {
            filter,
            prefixes,
            starts,
            ends,
            keys,
            shared,
            blocks,
        })
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Whether a key with this hash may be here.
    #[inline]
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        filter::may_hold(self.filter, hash)
    }

    /// Where block `i` starts, counted from the section's first byte.
    #[inline]
    pub(super) fn start(&self, i: usize) -> u64 {
        u64::from(LE::read_u32(&self.starts[4 * i..])) * 8
    }

    /// The first key of block `i`; `None` when the index makes no sense.
    #[inline]
    pub(super) fn first_key(&self, i: usize) -> Option<&'a [u8]> {
        let start = if i == 0 { 0 } else { LE::read_u32(&self.ends[4 * (i - 1)..]) };
        let end = LE::read_u32(self.ends.get(4 * i..4 * i + 4)?);
        self.keys.get(start as usize..end as usize)
    }

    #[inline]
    fn prefix(&self, i: usize) -> u64 {
        LE::read_u64(&self.prefixes[8 * i..])
    }

    /// The block that holds `key`, if any does: the last one that starts at or before it.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        let first = self.first_key(0)?;
        let same = shared_bytes(key, first).min(self.shared);
        if same < self.shared {
            // It differs within what all first keys share.
            return (key > first).then_some(self.blocks - 1);
        }
        let wanted = prefix(key, self.shared);
        let (mut low, mut high) = (0, self.blocks);
        while low < high {
            let middle = usize::midpoint(low, high);
            let before = match self.prefix(middle).cmp(&wanted) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal => self.first_key(middle)? <= key,
                std::cmp::Ordering::Greater => false,
            };
            if before {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }
}

/// A section's index in the making.
#[derive(Debug, Default)]
pub(super) struct Builder {
    hashes: Vec<u64>,
    starts: Vec<u32>,
    ends: Vec<u32>,
    keys: Vec<u8>,
}

impl Builder {
    /// A block starts at `start`, with `key`.
    pub(super) fn block(&mut self, start: u64, key: &[u8]) {
        let start = start / 8;
        self.starts.push(u32::try_from(start).expect("a section is below 32 GiB"));
        self.keys.extend_from_slice(key);
        self.ends.push(u32::try_from(self.keys.len()).expect("a section's keys are below 4 GiB"));
    }

    pub(super) fn key(&mut self, hash: u64) {
        self.hashes.push(hash);
    }

    /// Keys so far.
    pub(super) fn rows(&self) -> usize {
        self.hashes.len()
    }

    /// The index; this goes on empty.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let blocks = self.starts.len();
        let key = |i: usize| {
            let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
            &self.keys[start..self.ends[i] as usize]
        };
        let shared = shared_bytes(key(0), key(blocks - 1));
        let filter = Filter::build(&self.hashes);
        let mut bytes = vec![0; HEAD_BYTES];
        LE::write_u32(&mut bytes[..], u32::try_from(blocks).expect("blocks start below 32 GiB"));
        LE::write_u32(&mut bytes[4..], u32::try_from(shared).expect("a key's length"));
        LE::write_u64(&mut bytes[8..], filter.bytes().len() as u64 / LINE_BYTES as u64);
        bytes.extend_from_slice(filter.bytes());
        for i in 0..blocks {
            bytes.extend_from_slice(&prefix(key(i), shared).to_le_bytes());
        }
        for start in &self.starts {
            bytes.extend_from_slice(&start.to_le_bytes());
        }
        for end in &self.ends {
            bytes.extend_from_slice(&end.to_le_bytes());
        }
        bytes.extend_from_slice(&self.keys);
        self.hashes.clear();
        self.starts.clear();
        self.ends.clear();
        self.keys.clear();
        bytes
    }
}
