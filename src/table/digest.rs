//! The state digest: the same for two tables if and only if they hold the same rows.
//!
//! ```text
//! row   = blake3::derive_key mode, context below, of
//!         u64 key length ‖ key ‖ u64 offset ‖ i64 timestamp ‖ value       (little-endian)
//! table = sum of the rows' hashes, as 256-bit little-endian numbers, modulo 2^256
//! ```
//!
//! A sum does not depend on order, so tables that keep their rows in different shapes agree, and
//! it can be kept up to date row by row. A key has one row, so no hash is added twice; an XOR
//! would let equal rows cancel each other. It finds divergence by accident and by bugs with odds
//! of 2^-256; somebody who may choose rows freely can forge a sum with less effort than a hash,
//! so it is no signature.

use std::fmt;

use super::row::RowRef;

/// Sets these hashes apart from every other use of the same bytes.
const CONTEXT: &str = "tidelog 2026 table state digest v1";

/// The digest of a table's rows; shown as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Adds a row.
    pub(super) fn add(&mut self, row: &RowRef<'_>) {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher
            .update(&(row.key.len() as u64).to_le_bytes())
            .update(row.key)
            .update(&row.offset.0.to_le_bytes())
            .update(&row.timestamp.to_le_bytes())
            .update(row.value);
        self.join(&Digest(*hasher.finalize().as_bytes()));
    }

    /// Adds the rows of a digest over other keys.
    pub(super) fn join(&mut self, other: &Digest) {
        let mut carry = false;
        let (words, _) = self.0.as_chunks_mut::<8>();
        for (word, add) in words.iter_mut().zip(other.0.as_chunks::<8>().0) {
            let (sum, over) = u64::from_le_bytes(*word).overflowing_add(u64::from_le_bytes(*add));
            let (sum, again) = sum.overflowing_add(u64::from(carry));
            carry = over || again;
            *word = sum.to_le_bytes();
        }
    }
}

impl std::str::FromStr for Digest {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut digest = Digest::default();
        let digits: Vec<u8> =
            text.chars().filter_map(|c| c.to_digit(16)).map(|d| d.to_le_bytes()[0]).collect();
        if text.len() != 64 || digits.len() != 64 {
            return Err(());
        }
        for (byte, pair) in digest.0.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::log::scan::hex(&self.0))
    }
}
