//! A section's index: a filter for keys it lacks, and where each of its blocks starts.
//!
//! Made by `writer` behind about a million rows, so that its memory has a bound; read by gets,
//! cursors and `verify`. Pure; any bytes may come in.
//!
//! ```text
//!  0 u32 blocks   4 u32 filter lines   8 u32 common, bytes   12 u32 keys, bytes   16 u32 rows
//! 20 zeros       64 filter, lines of 64 bytes
//!    u64 prefix[blocks]   u32 at[blocks]   u32 end[blocks]   common   keys   zeros to 8
//! ```
//!
//! Invariants:
//! - `common` is what all keys of the section begin with; `keys` holds the rest of each block's
//!   first key, `end` where each ends; `prefix` is the first 8 bytes of each rest, zeros behind a
//!   shorter one, as a number whose order is that of the bytes;
//! - `at` is a block's distance from the section's first, in units of 8 bytes;
//! - first keys rise strictly, so `prefix` and `at` rise, `prefix` with ties.

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::table::filter::{self, LINE_BYTES, Line};

/// Bytes of the fields in front of the filter.
const HEAD_BYTES: usize = 64;
/// A sample of the prefixes is taken every so many.
const SAMPLE_STEP: usize = 64;

/// A section's index, split into its parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    pub(super) rows: u32,
    pub(super) filter: &'a [Line],
    prefixes: &'a [[u8; 8]],
    at: &'a [[u8; 4]],
    ends: &'a [[u8; 4]],
    common: &'a [u8],
    keys: &'a [u8],
    /// Every 64th prefix, or none.
    samples: &'a [u64],
}

impl<'a> Section<'a> {
    /// Splits the bytes of an index, in constant time; [`check`](Section::check) does the rest.
    #[inline]
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let n = |i: usize| usize::try_from(LE::read_u32(&head[4 * i..])).ok();
        let (blocks, lines, common, keys) = (n(0)?, n(1)?, n(2)?, n(3)?);
        let (filter, rest) = rest.split_at_checked(lines.checked_mul(LINE_BYTES)?)?;
        let (prefixes, rest) = rest.split_at_checked(blocks.checked_mul(8)?)?;
        let (at, rest) = rest.split_at_checked(blocks.checked_mul(4)?)?;
        let (ends, rest) = rest.split_at_checked(blocks.checked_mul(4)?)?;
        let (common, rest) = rest.split_at_checked(common)?;
        let keys = rest.get(..keys)?;
        let filter = filter.as_chunks::<LINE_BYTES>().0;
        Some(Section {
            rows: LE::read_u32(&head[16..]),
            filter,
            prefixes: prefixes.as_chunks::<8>().0,
            at: at.as_chunks::<4>().0,
            ends: ends.as_chunks::<4>().0,
            common,
            keys,
            samples: &[],
        })
    }

    /// The filter of an index's bytes alone: most gets of a key that is not there need no more.
    #[inline]
    pub(super) fn filter(bytes: &[u8]) -> Option<&[Line]> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let lines = usize::try_from(LE::read_u32(&head[4..])).ok()?;
        Some(rest.get(..lines.checked_mul(LINE_BYTES)?)?.as_chunks::<LINE_BYTES>().0)
    }

    /// Every 64th prefix: the few that nearly every search looks at first, side by side, so that
    /// they stay in the cache.
    pub(super) fn samples(&self) -> Box<[u64]> {
        self.prefixes.iter().step_by(SAMPLE_STEP).map(|p| u64::from_le_bytes(*p)).collect()
    }

    /// The same section, searched by its samples first.
    #[inline]
    pub(super) fn sampled(self, samples: &'a [u64]) -> Self {
        Section { samples, ..self }
    }

    /// Whether its parts make sense for frames of `frame_bytes`: said once, when its checksum was
    /// found to hold.
    pub(super) fn check(&self, frame_bytes: u64) -> bool {
        let blocks = self.blocks();
        let at_rises = self.at.windows(2).all(|w| word(w[0]) < word(w[1]));
        let ends_rise = self.ends.windows(2).all(|w| word(w[0]) <= word(w[1]));
        blocks > 0
            && self.rows as usize >= blocks
            && !self.filter.is_empty()
            && word(self.at[0]) == 0
            && at_rises
            && 8 * u64::from(word(self.at[blocks - 1])) < frame_bytes
            && ends_rise
            && word(self.ends[blocks - 1]) as usize == self.keys.len()
            && (0..blocks).all(|i| prefix(self.rest(i)) == u64::from_le_bytes(self.prefixes[i]))
            && (1..blocks).all(|i| self.rest(i - 1) < self.rest(i))
    }

    #[inline]
    pub(super) fn blocks(&self) -> usize {
        self.prefixes.len()
    }

    /// Where block `i` starts, in bytes behind the section's first.
    #[inline]
    pub(super) fn at(&self, i: usize) -> Option<u64> {
        self.at.get(i).map(|at| 8 * u64::from(word(*at)))
    }

    /// Block `i`'s first key.
    pub(super) fn first_key(&self, i: usize) -> Vec<u8> {
        [self.common, self.rest(i)].concat()
    }

    /// The part of block `i`'s first key that the section's keys do not have in common.
    #[inline]
    fn rest(&self, i: usize) -> &'a [u8] {
        let end = |i: usize| self.ends.get(i).map_or(0, |end| word(*end) as usize);
        let start = if i == 0 { 0 } else { end(i - 1) };
        self.keys.get(start..end(i)).unwrap_or_default()
    }

    /// How many blocks' first keys are at or before `key` (`or_equal`) or before it.
    #[inline]
    pub(super) fn blocks_before(&self, key: &[u8], or_equal: bool) -> usize {
        let Some(rest) = key.strip_prefix(self.common) else {
            // Before all of the section's keys or behind them all.
            return if key < self.common { 0 } else { self.blocks() };
        };
        let wanted = prefix(rest);
        let sample = self.samples.partition_point(|&sample| sample < wanted) * SAMPLE_STEP;
        let mut low = match self.samples {
            [] => 0,
            _ => sample.saturating_sub(SAMPLE_STEP),
        };
        let high = match self.samples {
            [] => self.blocks(),
            _ => sample.min(self.blocks()),
        };
        let near = self.prefixes.get(low..high).unwrap_or_default();
        low += near.partition_point(|p| u64::from_le_bytes(*p) < wanted);
        // Nearly always there is no tie, and looking for its end would cost as much again.
        let tie = |p: &[u8; 8]| u64::from_le_bytes(*p) == wanted;
        if !self.prefixes.get(low).is_some_and(tie) {
            return low;
        }
        let high = low + self.prefixes[low..].partition_point(tie);
        let (mut low, mut high) = (low, high);
        while low < high {
            let middle = low + (high - low) / 2;
            let first = self.rest(middle);
            let before = first < rest || (or_equal && first == rest);
            if before { low = middle + 1 } else { high = middle }
        }
        low
    }
}

/// The first 8 bytes as a number of the same order.
#[inline]
fn prefix(rest: &[u8]) -> u64 {
    match rest.first_chunk::<8>() {
        Some(eight) => u64::from_be_bytes(*eight),
        None => {
            let mut eight = [0; 8];
            eight[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(eight)
        }
    }
}

#[inline]
fn word(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes)
}

/// Gathers a section's index while its blocks are written.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) hashes: Vec<u64>,
    at: Vec<u32>,
    /// First keys, whole, one after another.
    keys: Vec<u8>,
    ends: Vec<usize>,
}

impl Draft {
    pub(super) fn reserve(&mut self, rows: usize) {
        self.hashes.reserve(rows);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// A block starts `at` bytes behind the section's first, with this key.
    pub(super) fn block(&mut self, at: u64, first_key: &[u8]) {
        self.at.push(u32::try_from(at / 8).expect("a section's frames end long before 32 GiB"));
        self.keys.extend_from_slice(first_key);
        self.ends.push(self.keys.len());
    }

    /// The first key of the section.
    pub(super) fn first_key(&self) -> &[u8] {
        self.ends.first().map_or(&[], |&end| &self.keys[..end])
    }

    /// The index's bytes, and an empty draft; `last_key` is the section's.
    pub(super) fn finish(&mut self, last_key: &[u8]) -> Vec<u8> {
        let first = self.first_key();
        let common = first.iter().zip(last_key).take_while(|(a, b)| a == b).count();
        let u32_of = |n: usize| u32::try_from(n).expect("a section is bounded").to_le_bytes();
        let filter = filter::build(&self.hashes);
        let starts = || std::iter::once(0).chain(self.ends.iter().copied());
        let keys = self.keys.len() - common * self.at.len();
        let mut b = Vec::with_capacity(
            HEAD_BYTES + filter.len() * LINE_BYTES + 16 * self.at.len() + common + keys + 8,
        );
        for n in [self.at.len(), filter.len(), common, keys, self.hashes.len()] {
            b.extend_from_slice(&u32_of(n));
        }
        b.resize(HEAD_BYTES, 0);
        b.extend_from_slice(filter.as_flattened());
        for (start, &end) in starts().zip(&self.ends) {
            b.extend_from_slice(&prefix(&self.keys[start + common..end]).to_le_bytes());
        }
        b.extend(self.at.iter().flat_map(|at| at.to_le_bytes()));
        for (i, &end) in self.ends.iter().enumerate() {
            b.extend_from_slice(&u32_of(end - common * (i + 1)));
        }
        b.extend_from_slice(&first[..common]);
        for (start, &end) in starts().zip(&self.ends) {
            b.extend_from_slice(&self.keys[start + common..end]);
        }
        b.resize(b.len().next_multiple_of(8), 0);
        self.hashes.clear();
        self.at.clear();
        self.keys.clear();
        self.ends.clear();
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_among_keys_with_long_common_prefixes_and_ties() {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for middle in ["", "a", "a\0", "a\0\0", "abcdefgh", "abcdefghi", "abcdefghj", "z"] {
            keys.push([b"common/prefix/", middle.as_bytes()].concat());
        }
        // More than one sample, the second among ties.
        for i in 0..200u8 {
            keys.push([&b"common/prefix/tietieti"[..], &[i]].concat());
        }
        keys.sort();
        let mut draft = Draft::default();
        for (i, key) in keys.iter().enumerate() {
            draft.hashes.push(i as u64);
            draft.block(8 * i as u64, key);
        }
        let bytes = draft.finish(b"common/prefix/zz");
        let section = Section::decode(&bytes).unwrap();
        assert!(section.check(8 * keys.len() as u64));
        let mut probes: Vec<Vec<u8>> = keys.clone();
        for key in &keys {
            probes.push([&key[..], b"\0"].concat());
            probes.push(key[..key.len() - 1].to_vec());
        }
        probes.extend([&b""[..], b"commom", b"comz", b"z"].map(<[u8]>::to_vec));
        let samples = section.samples();
        let sampled = section.sampled(&samples);
        for key in probes {
            let before = keys.iter().filter(|k| **k < key).count();
            let until = keys.iter().filter(|k| **k <= key).count();
            assert_eq!(section.blocks_before(&key, false), before, "{key:?}");
            assert_eq!(section.blocks_before(&key, true), until, "{key:?}");
            assert_eq!(sampled.blocks_before(&key, false), before, "{key:?}");
            assert_eq!(sampled.blocks_before(&key, true), until, "{key:?}");
        }
        assert_eq!(section.first_key(4), keys[4]);
        for len in 0..bytes.len() {
            let _ = Section::decode(&bytes[..len]).map(|section| section.check(64));
        }
    }
}
