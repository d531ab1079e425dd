//! The footer: the last 256 bytes of a sealed segment, which vouch for everything before.
//!
//! ```text
//!   0 magic "TIDEFOOT"      8 u32 version          12 u32 flags (0)        16 log id (16 bytes)
//!  32 u64 log byte         40 u64 base offset      48 u64 epoch number     56 u64 epoch nonce
//!  64 u64 salt             72 u64 data end         80 u64 end offset       88 u64 frames
//!  96 i64 min timestamp   104 i64 max timestamp   112 u32 head_crc, 116 u32 body_crc of the last frame
//! 120 u64 index byte      128 u32 index entries   132 u32 index crc
//! 136 u64 producers byte  144 u32 producers count 148 u32 producers crc
//! 152 previous seal hash (32 bytes)               184 hash of [0, data end) (32 bytes)
//! 216 zeros               252 u32 crc32c of bytes 0..252
//! ```
//!
//! Invariant: a valid footer is written only after everything it vouches for is durable.

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::fs::File;
use crate::position::{Epoch, Fingerprint, Id, LogByte, Offset};

use super::index::ENTRY_BYTES;
use super::producers::PRODUCER_ENTRY_BYTES;
use super::{FORMAT_VERSION, HEADER_BYTES, SEAL_BYTES, SegmentHeader};

/// Bytes of a footer.
pub const FOOTER_BYTES: usize = 256;
const MAGIC: &[u8; 8] = b"TIDEFOOT";

/// What a sealed segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The log it belongs to.
    pub log: Id,
    /// Log byte of its first frame.
    pub base: LogByte,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// The epoch of all its frames.
    pub epoch: Epoch,
    /// The header's salt.
    pub salt: u64,
    /// The byte behind the SEAL frame.
    pub data_end: u64,
    /// The offset behind its last record.
    pub end_offset: Offset,
    /// Frames, SEAL not counted.
    pub frames: u64,
    /// The oldest timestamp of a frame; `i64::MAX` without records.
    pub min_timestamp: i64,
    /// The newest; `i64::MIN` without records.
    pub max_timestamp: i64,
    /// Of the last frame before SEAL.
    pub fingerprint: Fingerprint,
    /// Where the index block starts.
    pub index_byte: u64,
    /// Entries in it.
    pub index_entries: u32,
    /// Its checksum.
    pub index_crc: u32,
    /// Where the producers block starts.
    pub producers_byte: u64,
    /// Producers in it.
    pub producers_count: u32,
    /// Its checksum.
    pub producers_crc: u32,
    /// The hash in the footer of the segment before; zeros for the first.
    pub previous_hash: [u8; 32],
    /// blake3 of the file's bytes [0, data end).
    pub hash: [u8; 32],
}

impl Footer {
    /// The footer's bytes.
    pub fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut b = [0; FOOTER_BYTES];
        b[..8].copy_from_slice(MAGIC);
        LE::write_u32(&mut b[8..], FORMAT_VERSION);
        b[16..32].copy_from_slice(&self.log.0);
        for (at, n) in [
            (32, self.base.0),
            (40, self.base_offset.0),
            (48, self.epoch.number),
            (56, self.epoch.nonce),
            (64, self.salt),
            (72, self.data_end),
            (80, self.end_offset.0),
            (88, self.frames),
            (120, self.index_byte),
            (136, self.producers_byte),
        ] {
            LE::write_u64(&mut b[at..], n);
        }
        LE::write_i64(&mut b[96..], self.min_timestamp);
        LE::write_i64(&mut b[104..], self.max_timestamp);
        for (at, n) in [
            (112, self.fingerprint.head_crc),
            (116, self.fingerprint.body_crc),
            (128, self.index_entries),
            (132, self.index_crc),
            (144, self.producers_count),
            (148, self.producers_crc),
        ] {
            LE::write_u32(&mut b[at..], n);
        }
        b[152..184].copy_from_slice(&self.previous_hash);
        b[184..216].copy_from_slice(&self.hash);
        let crc = crc::crc32c(&b[..252]);
        LE::write_u32(&mut b[252..], crc);
        b
    }

    /// Reads a footer of a file of `file_bytes`; `Ok(None)` when there is none, an error when
    /// there is one that contradicts itself or the file.
    pub fn decode(b: &[u8; FOOTER_BYTES], file_bytes: u64) -> Result<Option<Self>> {
        if &b[..8] != MAGIC || crc::crc32c(&b[..252]) != LE::read_u32(&b[252..]) {
            return Ok(None);
        }
        let version = LE::read_u32(&b[8..]);
        if version != FORMAT_VERSION || LE::read_u32(&b[12..]) != 0 {
            return Err(Error::new(
                Kind::NewerVersion,
                format!("expected segment format {FORMAT_VERSION}, found {version}"),
            )
            .help("use a tidelog that knows this format"));
        }
        let mut footer = Footer {
            log: Id::default(),
            base: LogByte(LE::read_u64(&b[32..])),
            base_offset: Offset(LE::read_u64(&b[40..])),
            epoch: Epoch { number: LE::read_u64(&b[48..]), nonce: LE::read_u64(&b[56..]) },
            salt: LE::read_u64(&b[64..]),
            data_end: LE::read_u64(&b[72..]),
            end_offset: Offset(LE::read_u64(&b[80..])),
            frames: LE::read_u64(&b[88..]),
            min_timestamp: LE::read_i64(&b[96..]),
            max_timestamp: LE::read_i64(&b[104..]),
            fingerprint: Fingerprint {
                head_crc: LE::read_u32(&b[112..]),
                body_crc: LE::read_u32(&b[116..]),
            },
            index_byte: LE::read_u64(&b[120..]),
            index_entries: LE::read_u32(&b[128..]),
            index_crc: LE::read_u32(&b[132..]),
            producers_byte: LE::read_u64(&b[136..]),
            producers_count: LE::read_u32(&b[144..]),
            producers_crc: LE::read_u32(&b[148..]),
            previous_hash: [0; 32],
            hash: [0; 32],
        };
        footer.log.0.copy_from_slice(&b[16..32]);
        footer.previous_hash.copy_from_slice(&b[152..184]);
        footer.hash.copy_from_slice(&b[184..216]);
        // A checksum proves who wrote it, not that it fits this file: a footer of hostile origin
        // or of a truncated file must not send anybody out of bounds.
        let index_end =
            footer.index_byte.checked_add(u64::from(footer.index_entries) * ENTRY_BYTES);
        let producers_end = footer
            .producers_byte
            .checked_add(u64::from(footer.producers_count) * PRODUCER_ENTRY_BYTES);
        let fits = footer.data_end >= HEADER_BYTES + SEAL_BYTES
            && footer.data_end.is_multiple_of(8)
            && footer.producers_byte >= footer.data_end
            && producers_end.is_some_and(|end| end <= footer.index_byte)
            && index_end.and_then(|end| end.checked_add(FOOTER_BYTES as u64)) == Some(file_bytes)
            && footer.end_offset >= footer.base_offset
            && footer.base.0.checked_add(footer.data_end).is_some();
        if !fits {
            return Err(Error::new(
                Kind::Corrupt,
                "expected a footer that fits its file, found one whose bounds contradict it",
            ));
        }
        Ok(Some(footer))
    }

    /// Reads the footer of `file`; `Ok(None)` when it has no valid one.
    pub fn read(file: &dyn File) -> Result<Option<Self>> {
        let path = std::path::Path::new("");
        let len = file.len().map_err(|e| Error::io("read the length", path, e))?;
        if len < HEADER_BYTES + SEAL_BYTES + FOOTER_BYTES as u64 {
            return Ok(None);
        }
        let mut b = [0; FOOTER_BYTES];
        let read = file
            .read_full_at(&mut b, len - FOOTER_BYTES as u64)
            .map_err(|e| Error::io("read the footer", path, e))?;
        if read < FOOTER_BYTES {
            // Sealing may shorten the file while somebody else looks: not sealed yet.
            return Ok(None);
        }
        Footer::decode(&b, len)
    }

    /// Where the frames end, SEAL not included.
    pub fn frames_end(&self) -> u64 {
        self.data_end - SEAL_BYTES
    }

    /// Length of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.index_byte + u64::from(self.index_entries) * ENTRY_BYTES + FOOTER_BYTES as u64
    }

    /// The log byte behind the SEAL frame: where the next segment starts.
    pub fn end(&self) -> LogByte {
        LogByte(self.base.0 + self.data_end - HEADER_BYTES)
    }

    /// The header fields that a footer repeats; enough to check and read frames.
    pub fn header(&self) -> SegmentHeader {
        SegmentHeader {
            log: self.log,
            base: self.base,
            base_offset: self.base_offset,
            epoch: self.epoch,
            salt: self.salt,
            created: 0,
            previous: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> (Footer, u64) {
        let footer = Footer {
            log: Id([7; 16]),
            base: LogByte(64),
            base_offset: Offset(5),
            epoch: Epoch { number: 3, nonce: 4 },
            salt: 9,
            data_end: 5000,
            end_offset: Offset(11),
            frames: 6,
            min_timestamp: 1,
            max_timestamp: 2,
            fingerprint: Fingerprint { head_crc: 1, body_crc: 2 },
            index_byte: 8192,
            index_entries: 2,
            index_crc: 3,
            producers_byte: 8192,
            producers_count: 0,
            producers_crc: 0,
            previous_hash: [1; 32],
            hash: [2; 32],
        };
        (footer, 8192 + 2 * ENTRY_BYTES + FOOTER_BYTES as u64)
    }

    #[test]
    fn a_footer_reads_back_and_every_flipped_bit_is_found() {
        let (footer, len) = sample();
        let good = footer.encode();
        assert_eq!(Footer::decode(&good, len).unwrap(), Some(footer));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Footer::decode(&bad, len), Ok(None)), "bit {bit}");
        }
    }

    #[test]
    fn a_footer_that_points_outside_its_file_is_refused() {
        let (footer, len) = sample();
        for bad in [
            Footer { index_byte: u64::MAX, ..footer },
            Footer { index_entries: 3, ..footer },
            Footer { producers_byte: 0, ..footer },
            Footer { producers_count: u32::MAX, ..footer },
            Footer { data_end: 8, ..footer },
            Footer { end_offset: Offset(0), ..footer },
        ] {
            assert_eq!(Footer::decode(&bad.encode(), len).unwrap_err().kind(), Kind::Corrupt);
        }
        assert!(Footer::decode(&footer.encode(), len + 1).is_err());
    }
}
