//! A filter for absent keys: a blocked bloom filter.
//!
//! Built by the key filters of segments (`keys`) and by the sections of runs (`run::section`).
//! Pure: hashes in, bytes out, and back. A key costs 10 bits, an answer one cache line:
//!
//! ```text
//! hash  = xxh3_64(key), seed 0
//! lines = ⌈10 · keys / 512⌉ of 64 bytes; none without keys
//! line  = ⌊hash · lines / 2^64⌋
//! mix   = hash · 0x9e3779b97f4a7c15 mod 2^64
//! probe i of 6 = bits 64-9(i+1) to 64-9i of mix: a bit of the line; bit b is bit b mod 8 of byte ⌊b/8⌋
//! ```
//!
//! Invariant: a filter built of a hash holds it; of others it holds about one in sixty
//! (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007).

use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a line: one cache line.
const LINE_BYTES: usize = 64;
const LINE_BITS: u64 = 512;
const BITS_PER_KEY: u64 = 10;
const PROBES: u32 = 6;
/// Bits of a probe: enough for a place in a line.
const PROBE_BITS: u32 = 9;
/// Spreads every bit of a hash into the high ones, which the choice of a line has used up.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a filter knows of a key.
pub(super) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Says of a hash that it is surely absent, or may be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    lines: Vec<u8>,
}

impl Filter {
    /// The filter of distinct hashes. Repeated ones only make it larger.
    pub(super) fn build(hashes: &[u64]) -> Self {
        let bytes = Filter::bytes_for(hashes.len() as u64).and_then(|n| usize::try_from(n).ok());
        let mut lines = vec![0; bytes.expect("no larger than the hashes, which fit memory")];
        for &hash in hashes {
            let start = LINE_BYTES * line(hash, lines.len() / LINE_BYTES);
            for (byte, bit) in probes(hash) {
                lines[start + byte] |= bit;
            }
        }
        Filter { lines }
    }

    /// The filter of bytes that are known to be whole; `None` when they are no lines.
    pub(super) fn decode(bytes: Vec<u8>) -> Option<Self> {
        bytes.len().is_multiple_of(LINE_BYTES).then_some(Filter { lines: bytes })
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.lines
    }

    /// Bytes of a filter of so many keys; `None` when no file could hold it.
    pub(super) fn bytes_for(keys: u64) -> Option<u64> {
        let lines = keys.checked_mul(BITS_PER_KEY)?.div_ceil(LINE_BITS);
        lines.checked_mul(LINE_BYTES as u64)
    }

    /// `false` only of hashes that it was not built of.
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        may_hold(&self.lines, hash)
    }
}

/// The same, of a filter's bytes where they lie.
#[inline]
pub(super) fn may_hold(lines: &[u8], hash: u64) -> bool {
    let count = lines.len() / LINE_BYTES;
    if count == 0 {
        return false;
    }
    let line = &lines[LINE_BYTES * line(hash, count)..][..LINE_BYTES];
    probes(hash).all(|(byte, bit)| line[byte] & bit != 0)
}

/// Which of `lines` holds a hash.
#[inline]
fn line(hash: u64, lines: usize) -> usize {
    let place = (u128::from(hash) * lines as u128) >> 64;
    usize::try_from(place).expect("less than the lines")
}

/// Bytes and bits in its line.
#[inline]
fn probes(hash: u64) -> impl Iterator<Item = (usize, u8)> {
    let mix = hash.wrapping_mul(MIX);
    (1..=PROBES).map(move |i| {
        let bit = (mix >> (u64::BITS - PROBE_BITS * i)) & (LINE_BITS - 1);
        (usize::try_from(bit / 8).expect("less than a line"), 1 << (bit % 8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(range: std::ops::Range<u32>) -> Vec<u64> {
        range.map(|i| hash(&i.to_le_bytes())).collect()
    }

    #[test]
    fn what_was_built_in_is_held_and_few_others_are() {
        for keys in [1, 2, 51, 52, 1000, 100_000] {
            let filter = Filter::build(&hashes(0..keys));
            assert!(hashes(0..keys).iter().all(|&hash| filter.may_hold(hash)), "{keys} keys");
            let absent = hashes(1_000_000..1_100_000);
            let held = absent.iter().filter(|&&hash| filter.may_hold(hash)).count();
            // A small filter's one line is fuller or emptier than the mean.
            assert!(held < if keys < 1000 { 4000 } else { 2000 }, "{keys} keys: {held} of 100,000");
        }
    }

    #[test]
    fn a_filter_of_nothing_holds_nothing() {
        let filter = Filter::build(&[]);
        assert!(filter.bytes().is_empty());
        assert!(hashes(0..100).iter().all(|&hash| !filter.may_hold(hash)));
    }

    #[test]
    fn bytes_read_back_and_sizes_that_are_none_are_refused() {
        let filter = Filter::build(&hashes(0..500));
        assert_eq!(filter.bytes().len() as u64, Filter::bytes_for(500).unwrap());
        assert_eq!(Filter::decode(filter.bytes().to_vec()), Some(filter.clone()));
        assert_eq!(Filter::decode(filter.bytes()[1..].to_vec()), None);
        assert_eq!(Filter::bytes_for(u64::MAX), None);
        assert_eq!(Filter::bytes_for(51), Some(64));
        assert_eq!(Filter::bytes_for(52), Some(128));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // xxh3_64 of nothing, seed 0, as its authors' tests have it.
        assert_eq!(hash(b""), 0x2d06_8005_38d3_94c2);
    }
}
