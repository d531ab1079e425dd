//! The header page of a segment file: 4096 bytes, checksummed, written before any frame.
//!
//! ```text
//!   0 magic "TIDELOGS"      8 u32 version          12 u32 flags (0)        16 log id (16 bytes)
//!  32 u64 log byte         40 u64 base offset      48 u64 epoch number     56 u64 epoch nonce
//!  64 u64 salt             72 i64 created          80 u64 previous log byte (all ones: none)
//!  88 u64 previous end     96 u32 head_crc, 100 u32 body_crc of its last frame
//! 104 zeros              4092 u32 crc32c of bytes 0..4092
//! ```

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::frame::Seed;
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Fingerprint, Id, LogByte, Offset};

use super::{FORMAT_VERSION, PAGE_BYTES};

/// Bytes of a segment's header; the first frame starts here.
pub const HEADER_BYTES: u64 = PAGE_BYTES;
const MAGIC: &[u8; 8] = b"TIDELOGS";
const NO_PREVIOUS: u64 = u64::MAX;

/// The segment before: where it starts, where it ends, what its last frame was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Log byte of its first frame.
    pub base: LogByte,
    /// Log byte behind its SEAL frame, which is where this segment starts.
    pub end: LogByte,
    /// Fingerprint of its last frame before SEAL.
    pub fingerprint: Fingerprint,
}

/// What a segment says of itself before its first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log it belongs to.
    pub log: Id,
    /// Log byte of its first frame.
    pub base: LogByte,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// The epoch of all its frames.
    pub epoch: Epoch,
    /// Random; makes stale frames of earlier files invalid.
    pub salt: u64,
    /// When it was made, nanoseconds since the Unix epoch.
    pub created: i64,
    /// The segment before; `None` for the first of a log.
    pub previous: Option<Link>,
}

impl SegmentHeader {
    /// The page's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = vec![0; 4096];
        b[..8].copy_from_slice(MAGIC);
        LE::write_u32(&mut b[8..], FORMAT_VERSION);
        b[16..32].copy_from_slice(&self.log.0);
        LE::write_u64(&mut b[32..], self.base.0);
        LE::write_u64(&mut b[40..], self.base_offset.0);
        LE::write_u64(&mut b[48..], self.epoch.number);
        LE::write_u64(&mut b[56..], self.epoch.nonce);
        LE::write_u64(&mut b[64..], self.salt);
        LE::write_i64(&mut b[72..], self.created);
        LE::write_u64(&mut b[80..], self.previous.map_or(NO_PREVIOUS, |link| link.base.0));
        if let Some(link) = &self.previous {
            LE::write_u64(&mut b[88..], link.end.0);
            LE::write_u32(&mut b[96..], link.fingerprint.head_crc);
            LE::write_u32(&mut b[100..], link.fingerprint.body_crc);
        }
        let crc = crc::crc32c(&b[..4092]);
        LE::write_u32(&mut b[4092..], crc);
        b
    }

    /// Reads a page back. Errors say what was expected; the caller adds the file.
    pub fn decode(b: &[u8]) -> Result<Self> {
        let corrupt = |what: &str| Error::new(Kind::Corrupt, what).at_byte(0);
        if b.len() < 4096 {
            return Err(corrupt(&format!(
                "expected a segment header of 4096 bytes, found {}",
                b.len()
            )));
        }
        if &b[..8] != MAGIC {
            return Err(corrupt("expected a segment header, found something else"));
        }
        if crc::crc32c(&b[..4092]) != LE::read_u32(&b[4092..]) {
            return Err(corrupt("the checksum of the segment header does not hold"));
        }
        let version = LE::read_u32(&b[8..]);
        if version != FORMAT_VERSION || LE::read_u32(&b[12..]) != 0 {
            return Err(Error::new(
                Kind::NewerVersion,
                format!("expected segment format {FORMAT_VERSION}, found {version}"),
            )
            .help("use a tidelog that knows this format"));
        }
        Ok(Self::fields(b))
    }

    /// The fields of a page whose checksum does not hold; for salvage, which proves them by the
    /// frames that hold with them.
    pub(crate) fn decode_unchecked(b: &[u8]) -> Option<Self> {
        (b.len() >= 4096).then(|| Self::fields(b))
    }

    fn fields(b: &[u8]) -> Self {
        let mut log = [0; 16];
        log.copy_from_slice(&b[16..32]);
        let previous = match LE::read_u64(&b[80..]) {
            NO_PREVIOUS => None,
            base => Some(Link {
                base: LogByte(base),
                end: LogByte(LE::read_u64(&b[88..])),
                fingerprint: Fingerprint {
                    head_crc: LE::read_u32(&b[96..]),
                    body_crc: LE::read_u32(&b[100..]),
                },
            }),
        };
        SegmentHeader {
            log: Id(log),
            base: LogByte(LE::read_u64(&b[32..])),
            base_offset: Offset(LE::read_u64(&b[40..])),
            epoch: Epoch { number: LE::read_u64(&b[48..]), nonce: LE::read_u64(&b[56..]) },
            salt: LE::read_u64(&b[64..]),
            created: LE::read_i64(&b[72..]),
            previous,
        }
    }

    /// The checksum state of its frames.
    pub fn seed(&self) -> Seed {
        Seed::new(self.log, if mutant::on(Mutant::NoSalt) { 0 } else { self.salt })
    }

    /// The log byte of the frame at `byte` of the file.
    pub fn log_byte(&self, byte: u64) -> u64 {
        self.base.0 + byte - HEADER_BYTES
    }

    /// The byte of the file that holds `log_byte`.
    pub fn file_byte(&self, log_byte: u64) -> u64 {
        log_byte - self.base.0 + HEADER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SegmentHeader {
        SegmentHeader {
            log: Id([7; 16]),
            base: LogByte(1 << 33),
            base_offset: Offset(5),
            epoch: Epoch { number: 3, nonce: 4 },
            salt: 9,
            created: -1,
            previous: Some(Link {
                base: LogByte(8),
                end: LogByte(1 << 33),
                fingerprint: Fingerprint { head_crc: 1, body_crc: 2 },
            }),
        }
    }

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_found() {
        let good = sample().encode();
        assert_eq!(SegmentHeader::decode(&good).unwrap(), sample());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad).unwrap_err().kind(), Kind::Corrupt);
        }
        assert!(SegmentHeader::decode(&good[..4095]).is_err());
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let mut newer = sample().encode();
        newer[8] = 2;
        let crc = crc::crc32c(&newer[..4092]);
        LE::write_u32(&mut newer[4092..], crc);
        assert_eq!(SegmentHeader::decode(&newer).unwrap_err().kind(), Kind::NewerVersion);
    }
}
