//! What is upserted: computed from its number, so that nothing needs to be kept to check it.

use std::ops::Range;

use anyhow::{Result, ensure};

use crate::payload::Payloads;

pub const KEY_BYTES: usize = 16;
pub const VALUE_BYTES: usize = 100;
/// Upserts that become visible together.
const BATCH: u64 = 10_000;

pub type Key = [u8; KEY_BYTES];

/// Which keys upserts go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Uniformly to this many.
    Uniform(u64),
    /// Each to its own.
    Distinct,
}

/// A number of upserts.
#[derive(Clone, Copy)]
pub struct Load {
    pub upserts: u64,
    pub keys: Keys,
    values: Payloads,
}

impl Load {
    pub fn new(upserts: u64, keys: Keys) -> Self {
        Load { upserts, keys, values: Payloads::new(VALUE_BYTES) }
    }

    /// The number of the key that upsert `n` sets.
    #[inline]
    fn id(&self, n: u64) -> u64 {
        match self.keys {
            Keys::Uniform(keys) => ((u128::from(mix(!n)) * u128::from(keys)) >> 64) as u64,
            Keys::Distinct => n,
        }
    }

    /// Key and value of upsert `n`. The value begins with `n`; what follows is random.
    #[inline]
    pub fn upsert(&self, n: u64) -> (Key, [u8; VALUE_BYTES]) {
        let mut value = [0; VALUE_BYTES];
        value.copy_from_slice(self.values.get(n));
        value[..8].copy_from_slice(&n.to_le_bytes());
        (key(self.id(n)), value)
    }

    /// The batches, as ranges of upserts.
    pub fn batches(&self) -> impl ExactSizeIterator<Item = Range<u64>> + use<> {
        let upserts = self.upserts;
        let batches = u32::try_from(upserts.div_ceil(BATCH)).unwrap_or(u32::MAX);
        (0..batches).map(move |batch| {
            let from = u64::from(batch) * BATCH;
            from..(from + BATCH).min(upserts)
        })
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> u64 {
        self.upserts * (KEY_BYTES + VALUE_BYTES) as u64
    }
}

/// The key numbered `id`: 16 bytes that look random, another for every id.
#[inline]
pub fn key(id: u64) -> Key {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&mix(id).to_be_bytes());
    key[8..].copy_from_slice(&mix(id ^ 0xA5A5_A5A5_5A5A_5A5A).to_be_bytes());
    key
}

/// Which upsert set `value`; touches its other end, too.
#[inline]
pub fn stamp(value: &[u8]) -> u64 {
    std::hint::black_box(value.last());
    value.first_chunk().map_or(u64::MAX, |first| u64::from_le_bytes(*first))
}

/// A bijection whose values look random (the finaliser of splitmix64).
#[inline]
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// What a reader shows its rows to: counts and touches them, and checks them when asked to.
pub struct Tally<'a> {
    rows: u64,
    touched: u64,
    different: u64,
    expected: Option<&'a Expected>,
}

/// The rows that a load leaves.
pub struct Expected {
    load: Load,
    rows: u64,
    /// The upsert that came last, by key; empty where keys are distinct.
    last: Vec<u64>,
}

impl Expected {
    /// What `load` leaves.
    pub fn of(load: &Load) -> Self {
        let mut last = Vec::new();
        let mut rows = load.upserts;
        if let Keys::Uniform(keys) = load.keys {
            last = vec![u64::MAX; keys as usize];
            (0..load.upserts).for_each(|n| last[load.id(n) as usize] = n);
            rows = last.iter().filter(|n| **n != u64::MAX).count() as u64;
        }
        Expected { load: *load, rows, last }
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn holds(&self, key_found: &[u8], value: &[u8]) -> bool {
        let n = stamp(value);
        let id = self.load.id(n);
        n < self.load.upserts
            && key_found == key(id)
            && self.last.get(id as usize).is_none_or(|last| *last == n)
            && value == self.load.upsert(n).1
    }
}

impl<'a> Tally<'a> {
    /// Counts; with `expected`, checks as well.
    pub fn new(expected: Option<&'a Expected>) -> Self {
        Tally { rows: 0, touched: 0, different: 0, expected }
    }

    /// Takes a row; one with a key of another length is not counted.
    #[inline]
    pub fn visit(&mut self, key: &[u8], value: &[u8]) {
        if key.len() != KEY_BYTES {
            return;
        }
        self.rows += 1;
        self.touched = self.touched.wrapping_add(u64::from(key[0]) ^ stamp(value));
        if let Some(expected) = self.expected
            && !expected.holds(key, value)
        {
            self.different += 1;
        }
    }

    /// Fails unless `rows` rows were seen, all of them as expected; returns their number.
    pub fn check(&self, rows: u64) -> Result<()> {
        std::hint::black_box(self.touched);
        ensure!(self.rows == rows, "expected {rows} rows, found {}", self.rows);
        ensure!(self.different == 0, "{} rows are not what was upserted last", self.different);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_counts_as_expected_only_with_the_value_set_last() {
        let load = Load::new(1000, Keys::Uniform(10));
        let expected = Expected::of(&load);
        assert_eq!(expected.rows(), 10);
        let mut tally = Tally::new(Some(&expected));
        expected.last.iter().for_each(|n| {
            let (key, value) = load.upsert(*n);
            tally.visit(&key, &value);
        });
        assert!(tally.check(10).is_ok());
        let (key, value) = load.upsert(0);
        tally.visit(&key, &value);
        assert!(tally.check(11).is_err());
    }

    #[test]
    fn batches_cover_every_upsert_once() {
        let load = Load::new(25_001, Keys::Distinct);
        let batches: Vec<_> = load.batches().collect();
        assert_eq!(batches, [0..10_000, 10_000..20_000, 20_000..25_001]);
    }
}
