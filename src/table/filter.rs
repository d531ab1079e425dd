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
//! Invariant: a filter built of a hash holds it; of others it holds about one in a hundred
//! (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007).

use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a line: one cache line.
pub(super) const LINE_BYTES: usize = 64;
const LINE_BITS: u64 = 512;
const BITS_PER_KEY: u64 = 10;
const PROBES: u32 = 6;
/// Bits of a probe: enough for a place in a line.
const PROBE_BITS: u32 = 9;
/// Spreads every bit of a hash into the high ones, which the choice of a line has used up.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The part of a filter that answers for a key; a filter is a slice of them.
pub(super) type Line = [u8; LINE_BYTES];

/// What a filter knows of a key.
#[inline]
pub(super) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The filter of distinct hashes. Repeated ones only make it larger.
pub(super) fn build(hashes: &[u64]) -> Vec<Line> {
    let count = lines_for(hashes.len() as u64).and_then(|lines| usize::try_from(lines).ok());
    let count = count.expect("no more bytes than the hashes, which fit memory");
    let mut lines = vec![[0; LINE_BYTES]; count];
    for &hash in hashes {
        let words = lines[place(hash, count)].as_chunks_mut::<8>().0;
        for (word, bit) in probes(hash) {
            words[word] = (u64::from_le_bytes(words[word]) | 1 << bit).to_le_bytes();
        }
    }
    lines
}

/// Lines of a filter of so many keys; `None` when they are too many to count.
pub(super) fn lines_for(keys: u64) -> Option<u64> {
    Some(keys.checked_mul(BITS_PER_KEY)?.div_ceil(LINE_BITS))
}

/// `false` only of hashes that the filter was not built of.
#[inline]
pub(super) fn may_hold(lines: &[Line], hash: u64) -> bool {
    line(lines, hash).is_some_and(|line| holds(line, hash))
}

/// The line that answers for a hash; `None` of a filter of nothing.
#[inline]
pub(super) fn line(lines: &[Line], hash: u64) -> Option<&Line> {
    lines.get(place(hash, lines.len()))
}

/// What its line says of a hash. Looks at all bits: to stop at the first that is not set would
/// save nothing, since they lie in one line, and would be a jump that nobody can foresee.
#[inline]
pub(super) fn holds(line: &Line, hash: u64) -> bool {
    let (words, _) = line.as_chunks::<8>();
    let mut all = 1;
    for (word, bit) in probes(hash) {
        all &= u64::from_le_bytes(words[word]) >> bit;
    }
    all & 1 == 1
}

/// Which of `lines` holds a hash.
#[inline]
fn place(hash: u64, lines: usize) -> usize {
    let place = (u128::from(hash) * lines as u128) >> 64;
    usize::try_from(place).expect("less than the lines")
}

/// Words of its line, each with a bit.
#[inline]
fn probes(hash: u64) -> impl Iterator<Item = (usize, u32)> {
    let mix = hash.wrapping_mul(MIX);
    (1..=PROBES).map(move |i| {
        let bit = mix >> (u64::BITS - PROBE_BITS * i);
        (((bit >> 6) & 7) as usize, (bit & 63) as u32)
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
            let filter = build(&hashes(0..keys));
            assert!(hashes(0..keys).iter().all(|&hash| may_hold(&filter, hash)), "{keys} keys");
            let absent = hashes(1_000_000..1_100_000);
            let held = absent.iter().filter(|&&hash| may_hold(&filter, hash)).count();
            // A small filter's one line is fuller or emptier than the mean.
            assert!(held < if keys < 1000 { 4000 } else { 1500 }, "{keys} keys: {held} of 100,000");
        }
    }

    #[test]
    fn a_filter_of_nothing_holds_nothing() {
        let filter = build(&[]);
        assert!(filter.is_empty());
        assert!(hashes(0..100).iter().all(|&hash| !may_hold(&filter, hash)));
    }

    #[test]
    fn sizes_are_those_of_the_keys() {
        assert_eq!(build(&hashes(0..500)).len() as u64, lines_for(500).unwrap());
        assert_eq!(lines_for(u64::MAX), None);
        assert_eq!(lines_for(51), Some(1));
        assert_eq!(lines_for(52), Some(2));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // xxh3_64 of nothing, seed 0, as its authors' tests have it.
        assert_eq!(hash(b""), 0x2d06_8005_38d3_94c2);
    }
}
