//! The ends of a run file: its head, its top index, and the footer that leads to everything.
//!
//! Made by `writer`; read when a run is opened. Pure; any bytes may come in.
//!
//! ```text
//! head:    0 magic "TLOGRUN\0"   8 u32 version  12 u32 flags (0)  16 log id (16 bytes)
//!         32 zeros              60 u32 crc32c of bytes 0..60
//! top:     per section: u64 first frame's byte, u64 frames' end, u64 index byte, u32 index bytes,
//!          u32 index crc, u32 rows, u32 end of its first key; then the first keys, the last key
//! footer:  0 magic "TLOGRUNF"    8 u32 version  12 u32 flags (0)  16 log id (16 bytes)
//!         32 u64 live rows      40 u64 deletes  48 u64 min offset 56 u64 max offset
//!         64 i64 max timestamp  72 u64 bytes of keys and values   80 u64 blocks
//!         88 u32 sections       92 u32 top crc  96 u64 top byte  104 u64 top bytes
//!        112 blake3 of everything before the footer (32 bytes)   144 zeros
//!        252 u32 crc32c of bytes 0..252
//! ```
//!
//! Invariant: nothing here depends on a time or a node, so equal rows of a log give equal files.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::frame::{ALIGN, HEADER_BYTES};
use crate::mutant::{self, Mutant};
use crate::position::{Id, Offset};

use crate::table::filter::LINE_BYTES;
use crate::table::manifest::RunEntry;

/// The version of run files that this code writes, and the only one it reads.
pub(super) const VERSION: u32 = 1;
/// Bytes of the head.
pub(super) const HEAD_BYTES: usize = 64;
/// Bytes of a footer.
pub(in crate::table) const FOOTER_BYTES: usize = 256;
pub(super) const HEAD_MAGIC: &[u8; 8] = b"TLOGRUN\0";
const FOOTER_MAGIC: &[u8; 8] = b"TLOGRUNF";
/// Bytes of a section's entry in the top index.
const ENTRY_BYTES: usize = 40;

/// The name of a run: BLAKE3 of its bytes up to its footer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub [u8; 32]);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::log::scan::hex(&self.0))
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RunId {
    type Err = ();
    /// 64 lowercase hexadecimal digits and nothing else: one file, one name.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(());
        }
        let digit = |d: u8| match d {
            b'0'..=b'9' => Ok(d - b'0'),
            b'a'..=b'f' => Ok(d - b'a' + 10),
            _ => Err(()),
        };
        let mut id = [0; 32];
        for (byte, [high, low]) in id.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(RunId(id))
    }
}

fn corrupt(what: impl Into<String>, byte: u64) -> Error {
    Error::new(Kind::Corrupt, what).at_byte(byte).help(super::HELP)
}

/// The log that head or footer name; with `log`, only that one.
fn check_version(b: &[u8], log: Option<Id>) -> Result<Id> {
    let version = LE::read_u32(&b[8..]);
    if version != VERSION || LE::read_u32(&b[12..]) != 0 {
        return Err(Error::new(
            Kind::NewerVersion,
            format!("expected run format {VERSION}, found {version}"),
        )
        .help("use a tidelog that knows this format"));
    }
    let mut found = [0; 16];
    found.copy_from_slice(&b[16..32]);
    match log {
        Some(log) if found != log.0 => Err(Error::new(
            Kind::WrongLog,
            format!("expected a run of log {log}, found one of log {}", Id(found)),
        )
        .help("take the file away: it is not this table's")),
        _ => Ok(Id(found)),
    }
}

/// The head's bytes.
pub(super) fn encode_head(log: Id) -> [u8; HEAD_BYTES] {
    let mut b = [0; HEAD_BYTES];
    b[..8].copy_from_slice(HEAD_MAGIC);
    LE::write_u32(&mut b[8..], VERSION);
    b[16..32].copy_from_slice(&log.0);
    let crc = crc::crc32c(&b[..60]);
    LE::write_u32(&mut b[60..], crc);
    b
}

/// Checks a head and says whose it is; with `log`, only that log's will do.
pub(super) fn check_head(b: &[u8], log: Option<Id>) -> Result<Id> {
    let Some(b) = b.first_chunk::<HEAD_BYTES>() else {
        let found = b.len();
        return Err(corrupt(
            format!("expected a run's head of {HEAD_BYTES} bytes, found {found}"),
            0,
        ));
    };
    if &b[..8] != HEAD_MAGIC {
        return Err(corrupt("expected a run's head, found something else", 0));
    }
    if crc::crc32c(&b[..60]) != LE::read_u32(&b[60..]) {
        return Err(corrupt("the checksum of the run's head does not hold", 0));
    }
    check_version(b, log)
}

/// What a run says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) log: Id,
    /// Rows with a value.
    pub(super) rows: u64,
    pub(super) deletes: u64,
    /// Of its rows; all ones and 0 without any.
    pub(super) min_offset: Offset,
    pub(super) max_offset: Offset,
    /// The smallest i64 without rows.
    pub(super) max_timestamp: i64,
    /// Of keys and values.
    pub(super) bytes: u64,
    pub(super) blocks: u64,
    pub(super) sections: u32,
    pub(super) top_crc: u32,
    pub(super) top_byte: u64,
    pub(super) top_bytes: u64,
    pub(super) id: RunId,
}

impl Footer {
    /// The footer's bytes.
    pub(super) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut b = [0; FOOTER_BYTES];
        b[..8].copy_from_slice(FOOTER_MAGIC);
        LE::write_u32(&mut b[8..], VERSION);
        b[16..32].copy_from_slice(&self.log.0);
        for (at, n) in [
            (32, self.rows),
            (40, self.deletes),
            (48, self.min_offset.0),
            (56, self.max_offset.0),
            (64, self.max_timestamp.cast_unsigned()),
            (72, self.bytes),
            (80, self.blocks),
            (96, self.top_byte),
            (104, self.top_bytes),
        ] {
            LE::write_u64(&mut b[at..], n);
        }
        LE::write_u32(&mut b[88..], self.sections);
        LE::write_u32(&mut b[92..], self.top_crc);
        b[112..144].copy_from_slice(&self.id.0);
        let crc = crc::crc32c(&b[..252]);
        LE::write_u32(&mut b[252..], crc);
        b
    }

    /// Reads the footer of a file of `file_bytes`; with `log`, only that log's.
    pub(super) fn decode(b: &[u8; FOOTER_BYTES], file_bytes: u64, log: Option<Id>) -> Result<Self> {
        let byte = file_bytes.saturating_sub(FOOTER_BYTES as u64);
        if &b[..8] != FOOTER_MAGIC {
            return Err(corrupt("expected a run's footer, found something else", byte));
        }
        let whole = crc::crc32c(&b[..252]) == LE::read_u32(&b[252..]);
        if !whole && !mutant::on(Mutant::RunFooterByLength) {
            return Err(corrupt("the checksum of the run's footer does not hold", byte));
        }
        let mut footer = Footer {
            log: check_version(b, log)?,
            rows: LE::read_u64(&b[32..]),
            deletes: LE::read_u64(&b[40..]),
            min_offset: Offset(LE::read_u64(&b[48..])),
            max_offset: Offset(LE::read_u64(&b[56..])),
            max_timestamp: LE::read_i64(&b[64..]),
            bytes: LE::read_u64(&b[72..]),
            blocks: LE::read_u64(&b[80..]),
            sections: LE::read_u32(&b[88..]),
            top_crc: LE::read_u32(&b[92..]),
            top_byte: LE::read_u64(&b[96..]),
            top_bytes: LE::read_u64(&b[104..]),
            id: RunId([0; 32]),
        };
        footer.id.0.copy_from_slice(&b[112..144]);
        // A checksum proves who wrote it, not that it fits this file.
        let end = footer.top_byte.checked_add(footer.top_bytes);
        let fits = end.and_then(|end| end.checked_add(FOOTER_BYTES as u64)) == Some(file_bytes)
            && footer.top_byte >= HEAD_BYTES as u64
            && u64::from(footer.sections) * ENTRY_BYTES as u64 <= footer.top_bytes
            && u64::from(footer.sections) <= footer.blocks
            && footer.rows.checked_add(footer.deletes).is_some_and(|all| all >= footer.blocks)
            && (footer.sections == 0) == (footer.top_bytes == 0)
            && (footer.sections == 0) == (footer.rows + footer.deletes == 0);
        if !fits {
            return Err(corrupt("the run's footer does not fit its file", byte));
        }
        Ok(footer)
    }
}

/// Whether a footer is that of the run that a manifest names.
pub(in crate::table) fn check_footer(
    b: &[u8; FOOTER_BYTES],
    log: Id,
    entry: &RunEntry,
) -> Result<()> {
    let footer = Footer::decode(b, entry.bytes, Some(log))?;
    if (footer.id, footer.rows, footer.deletes) != (entry.id, entry.rows, entry.deletes) {
        let what = format!(
            "expected run {} with {} rows, found run {} with {}",
            entry.id, entry.rows, footer.id, footer.rows
        );
        return Err(corrupt(what, entry.bytes - FOOTER_BYTES as u64));
    }
    Ok(())
}

/// Where a section lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Its frames.
    pub(super) frames: Range<u64>,
    pub(super) index_byte: u64,
    pub(super) index_bytes: u32,
    pub(super) index_crc: u32,
    pub(super) rows: u32,
}

/// The top index: the sections, their first keys, and the run's last key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Top {
    pub(super) spans: Vec<Span>,
    /// First keys, one after another.
    keys: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    /// The run's last key; empty without rows.
    pub(super) last_key: Vec<u8>,
}

impl Top {
    pub(super) fn push(&mut self, span: Span, first_key: &[u8]) {
        self.spans.push(span);
        self.keys.extend_from_slice(first_key);
        self.ends.push(self.keys.len());
    }

    /// The index's bytes; nothing without sections.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut b = Vec::new();
        for (span, &end) in self.spans.iter().zip(&self.ends) {
            for n in [span.frames.start, span.frames.end, span.index_byte] {
                b.extend_from_slice(&n.to_le_bytes());
            }
            let end = u32::try_from(end).expect("a key a section, far from 4 GiB");
            for n in [span.index_bytes, span.index_crc, span.rows, end] {
                b.extend_from_slice(&n.to_le_bytes());
            }
        }
        b.extend_from_slice(&self.keys);
        b.extend_from_slice(&self.last_key);
        b
    }

    /// Reads the index that `footer` leads to. The sections must fill the file from its head to
    /// the index without a gap: whoever follows them stays inside the file.
    pub(super) fn decode(bytes: &[u8], footer: &Footer) -> Result<Self> {
        let bad = |what: &str| corrupt(what, footer.top_byte);
        let unfit = || bad("the run's top index does not fit its file");
        if bytes.len() as u64 != footer.top_bytes || crc::crc32c(bytes) != footer.top_crc {
            return Err(bad("the checksum of the run's top index does not hold"));
        }
        let sections = usize::try_from(footer.sections).map_err(|_| unfit())?;
        let (entries, keys) = bytes.split_at_checked(sections * ENTRY_BYTES).ok_or_else(unfit)?;
        let mut top = Top::default();
        let (mut byte, mut rows) = (HEAD_BYTES as u64, 0);
        for e in entries.as_chunks::<ENTRY_BYTES>().0 {
            let span = Span {
                frames: LE::read_u64(&e[0..])..LE::read_u64(&e[8..]),
                index_byte: LE::read_u64(&e[16..]),
                index_bytes: LE::read_u32(&e[24..]),
                index_crc: LE::read_u32(&e[28..]),
                rows: LE::read_u32(&e[32..]),
            };
            let end = LE::read_u32(&e[36..]) as usize;
            let fits = span.frames.start == byte
                && span.frames.end <= footer.top_byte
                && span.frames.end - byte.min(span.frames.end) >= HEADER_BYTES as u64
                && span.frames.end.is_multiple_of(ALIGN as u64)
                && span.index_byte == index_byte(span.frames.end)
                && span.index_bytes.is_multiple_of(8)
                && end <= keys.len()
                && top.ends.last().is_none_or(|&last| last <= end);
            if !fits {
                return Err(unfit());
            }
            byte = span.index_byte + u64::from(span.index_bytes);
            rows += u64::from(span.rows);
            top.spans.push(span);
            top.ends.push(end);
        }
        let (first, last) = keys.split_at(top.ends.last().copied().unwrap_or(0));
        (top.keys, top.last_key) = (first.to_vec(), last.to_vec());
        let rise = (1..sections).all(|i| top.first_key(i - 1) < top.first_key(i));
        let last = sections == 0 || top.first_key(sections - 1) <= top.last_key.as_slice();
        if byte != footer.top_byte || rows != footer.rows + footer.deletes || !rise || !last {
            return Err(unfit());
        }
        Ok(top)
    }

    /// Section `i`'s first key.
    #[inline]
    pub(super) fn first_key(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.keys[start..self.ends[i]]
    }

    /// How many sections' first keys are at or before `key` (`or_equal`) or before it.
    #[inline]
    pub(super) fn sections_before(&self, key: &[u8], or_equal: bool) -> usize {
        let (mut low, mut high) = (0, self.spans.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let first = self.first_key(middle);
            if first < key || (or_equal && first == key) { low = middle + 1 } else { high = middle }
        }
        low
    }
}

/// Where the index of a section starts whose frames end at `byte`: lines of a filter must not
/// straddle lines of the cache.
pub(super) fn index_byte(byte: u64) -> u64 {
    byte.next_multiple_of(LINE_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = RunId(std::array::from_fn(|i| (i * 9) as u8));
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        for bad in [&text[1..], &text.to_uppercase(), &format!("{text}0"), &text.replace('0', "+")]
        {
            assert_eq!(bad.parse::<RunId>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn every_flipped_bit_of_head_and_footer_is_found() {
        let log = Id([7; 16]);
        let head = encode_head(log);
        check_head(&head, Some(log)).unwrap();
        for bit in 0..head.len() * 8 {
            let mut bad = head;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(check_head(&bad, Some(log)).unwrap_err().kind(), Kind::Corrupt, "bit {bit}");
        }
        let footer = Footer {
            log,
            rows: 0,
            deletes: 0,
            min_offset: Offset(u64::MAX),
            max_offset: Offset(0),
            max_timestamp: i64::MIN,
            bytes: 0,
            blocks: 0,
            sections: 0,
            top_crc: 0,
            top_byte: 64,
            top_bytes: 0,
            id: RunId([9; 32]),
        };
        let good = footer.encode();
        assert_eq!(Footer::decode(&good, 320, Some(log)).unwrap(), footer);
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = Footer::decode(&bad, 320, Some(log)).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "bit {bit}");
        }
        for bad in [
            Footer { top_byte: u64::MAX, top_bytes: 65, ..footer },
            Footer { top_byte: 63, top_bytes: 1, ..footer },
            Footer { sections: u32::MAX, ..footer },
            Footer { rows: u64::MAX, deletes: 1, ..footer },
        ] {
            assert!(Footer::decode(&bad.encode(), 320, None).is_err());
        }
    }
}
