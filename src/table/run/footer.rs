//! A run's first and last bytes: what it is, and where everything in it lies.
//!
//! ```text
//! head:   | "TLOGRUN\0" | u32 version | u32 0 | log id | zeros | u32 crc |                 64 bytes
//! top:    section: | u64 start | u64 frames end | u64 rows | u64 index byte | u64 index len |
//!                  | u32 index crc | u32 key len | first key |   …   | u32 key len | last key |
//! footer: | "TLRUNEND" | u32 version | u32 sections | log id | u64 rows | u64 deletes |
//!         | u64 first offset | u64 last offset | i64 newest timestamp | u64 key and value bytes |
//!         | u64 blocks | u64 top byte | u64 top len | u32 top crc | zeros | hash (at 192) |
//!         | zeros | u32 crc |                                                            256 bytes
//! ```
//!
//! The hash is blake3 of everything before the footer, and the run's name. Decoders take hostile
//! bytes.

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::mutant::{self, Mutant};
use crate::position::{Id, Offset};

use super::RunId;

/// Bytes of the head: blocks start behind it.
pub(super) const HEAD_BYTES: u64 = 64;
/// Bytes of the footer.
pub(in crate::table) const FOOTER_BYTES: u64 = 256;
const MAGIC: &[u8; 8] = b"TLOGRUN\0";
const END_MAGIC: &[u8; 8] = b"TLRUNEND";
const VERSION: u32 = 1;
/// Bytes of a section's entry before its key.
const ENTRY_BYTES: usize = 48;

/// The first bytes of a run.
pub(super) fn head(log: Id) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..8].copy_from_slice(MAGIC);
    LE::write_u32(&mut bytes[8..], VERSION);
    bytes[16..32].copy_from_slice(&log.0);
    let crc = crc::crc32c(&bytes[..60]);
    LE::write_u32(&mut bytes[60..], crc);
    bytes
}

/// Where a section lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SectionEntry {
    /// Its blocks, in bytes of the file.
    pub(super) start: u64,
    pub(super) frames_end: u64,
    pub(super) rows: u64,
    pub(super) index: u64,
    pub(super) index_len: u64,
    pub(super) index_crc: u32,
    pub(super) first_key: Vec<u8>,
}

/// The sections of a run, and its last key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Top {
    pub(super) sections: Vec<SectionEntry>,
    pub(super) last_key: Vec<u8>,
}

impl Top {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let len = |key: &[u8]| u32::try_from(key.len()).expect("a key's length").to_le_bytes();
        for s in &self.sections {
            for n in [s.start, s.frames_end, s.rows, s.index, s.index_len] {
                bytes.extend_from_slice(&n.to_le_bytes());
            }
            bytes.extend_from_slice(&s.index_crc.to_le_bytes());
            bytes.extend_from_slice(&len(&s.first_key));
            bytes.extend_from_slice(&s.first_key);
        }
        bytes.extend_from_slice(&len(&self.last_key));
        bytes.extend_from_slice(&self.last_key);
        bytes
    }

    /// Reads `sections` of them; `None` when they do not fit each other and the `limit` that
    /// everything ends below.
    pub(super) fn decode(mut bytes: &[u8], sections: u32, limit: u64) -> Option<Self> {
        let mut top = Top::default();
        let mut end = HEAD_BYTES;
        for _ in 0..sections {
            let (entry, rest) = bytes.split_first_chunk::<ENTRY_BYTES>()?;
            let n = |i: usize| LE::read_u64(&entry[8 * i..]);
            let (key, rest) = rest.split_at_checked(LE::read_u32(&entry[44..]) as usize)?;
            let section = SectionEntry {
                start: n(0),
                frames_end: n(1),
                rows: n(2),
                index: n(3),
                index_len: n(4),
                index_crc: LE::read_u32(&entry[40..]),
                first_key: key.to_vec(),
            };
            let rises =
                top.sections.last().is_none_or(|before| before.first_key < section.first_key);
            let index_end = section.index.checked_add(section.index_len)?;
            if section.start < end
                || section.frames_end <= section.start
                || section.index < section.frames_end
                || index_end > limit
                || !rises
            {
                return None;
            }
            end = index_end;
            top.sections.push(section);
            bytes = rest;
        }
        let (len, key) = bytes.split_first_chunk::<4>()?;
        if LE::read_u32(&len[..]) as usize != key.len() || top.sections.is_empty() {
            return None;
        }
        top.last_key = key.to_vec();
        Some(top)
    }
}

/// What a run says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) log: Id,
    pub(super) sections: u32,
    /// Deletes included.
    pub(super) rows: u64,
    pub(super) deletes: u64,
    /// Of the oldest and the newest record in it.
    pub(super) offsets: (Offset, Offset),
    pub(super) newest: i64,
    /// Of keys and values.
    pub(super) bytes: u64,
    pub(super) blocks: u64,
    pub(super) top: u64,
    pub(super) top_len: u64,
    pub(super) top_crc: u32,
    pub(super) id: RunId,
}

impl Footer {
    pub(super) fn encode(&self) -> [u8; 256] {
        let mut b = [0; 256];
        b[..8].copy_from_slice(END_MAGIC);
        LE::write_u32(&mut b[8..], VERSION);
        LE::write_u32(&mut b[12..], self.sections);
        b[16..32].copy_from_slice(&self.log.0);
        let newest = self.newest.cast_unsigned();
        let (first, last) = self.offsets;
        let numbers =
            [self.rows, self.deletes, first.0, last.0, newest, self.bytes, self.blocks, self.top];
        for (i, n) in numbers.into_iter().chain([self.top_len]).enumerate() {
            LE::write_u64(&mut b[32 + 8 * i..], n);
        }
        LE::write_u32(&mut b[104..], self.top_crc);
        b[192..224].copy_from_slice(&self.id.0);
        let crc = crc::crc32c(&b[..252]);
        LE::write_u32(&mut b[252..], crc);
        b
    }

    /// Reads the last bytes of a file of `file_bytes`.
    pub(super) fn decode(b: &[u8], file_bytes: u64) -> Result<Self> {
        let corrupt = |what: &str| Error::new(Kind::Corrupt, what.to_owned());
        let Some(b) = b.first_chunk::<256>() else {
            return Err(corrupt("expected a run's footer of 256 bytes, found fewer"));
        };
        if &b[..8] != END_MAGIC {
            return Err(corrupt("expected a run's footer, found something else"));
        }
        let whole = crc::crc32c(&b[..252]) == LE::read_u32(&b[252..]);
        if !whole && !mutant::on(Mutant::RunFooterByLength) {
            return Err(corrupt("the checksum of the run's footer does not hold"));
        }
        let version = LE::read_u32(&b[8..]);
        if version != VERSION {
            return Err(Error::new(
                Kind::NewerVersion,
                format!("expected run format {VERSION}, found {version}"),
            )
            .help("use a tidelog that knows this format"));
        }
        let n = |i: usize| LE::read_u64(&b[32 + 8 * i..]);
        let (mut log, mut hash) = ([0; 16], [0; 32]);
        log.copy_from_slice(&b[16..32]);
        hash.copy_from_slice(&b[192..224]);
        let footer = Footer {
            log: Id(log),
            sections: LE::read_u32(&b[12..]),
            rows: n(0),
            deletes: n(1),
            offsets: (Offset(n(2)), Offset(n(3))),
            newest: n(4).cast_signed(),
            bytes: n(5),
            blocks: n(6),
            top: n(7),
            top_len: n(8),
            top_crc: LE::read_u32(&b[104..]),
            id: RunId(hash),
        };
        if footer.top.checked_add(footer.top_len) != Some(file_bytes - FOOTER_BYTES) {
            return Err(corrupt("expected a run's index before its footer, found it elsewhere"));
        }
        Ok(footer)
    }

    /// Whether these are the first bytes of such a run.
    pub(super) fn fits_head(&self, bytes: &[u8]) -> bool {
        bytes == head(self.log)
    }
}
