//! Key filters of sealed segments: `<log>/table/<segment's log byte, 20 digits>.keys`.
//!
//! Made and used by `history`, to pass over the segments that cannot hold a key.
//!
//! ```text
//!   0 magic "TIDEKEYS"   8 u32 version   12 u32 flags (0)   16 log id (16 bytes)
//!  32 u64 log byte of the segment        40 seal hash of the segment (32 bytes)
//!  72 u64 distinct keys  80 zeros       124 u32 crc32c of bytes 0..124
//! 128 filter (lines of 64 bytes; see `filter`)   then u32 crc32c of everything before
//! ```
//!
//! Invariants:
//! - derived, and never trusted: one that is torn, damaged, another segment's, or of a segment
//!   that has been replaced since (another seal hash) is no filter; the segment is then read;
//! - keeping one may fail, and changes nothing: no answer depends on it;
//! - written beside and renamed: who reads sees all of one or none. Without a sync, since after a
//!   power cut a torn one fails its checksum; two who write the same write the same bytes.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian as LE};

use super::filter::{self, LINE_BYTES, Line};
use crate::crc;
use crate::fs::{Fs, Open};
use crate::position::{Id, LogByte};

const SUFFIX: &str = ".keys";
const MAGIC: &[u8; 8] = b"TIDEKEYS";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 128;
const CRC_BYTES: usize = 4;
/// Hashes gathered before repeated ones are first looked for.
const SETTLE_AT: usize = 1 << 16;

/// The sealed segment that a filter is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    /// Log byte of its first frame.
    pub(super) base: LogByte,
    /// Its seal hash.
    pub(super) hash: [u8; 32],
    /// Its records: no filter is of more keys.
    pub(super) records: u64,
}

/// The file of a filter built of `hashes`, which are distinct.
pub(super) fn encode(log: Id, segment: &Sealed, hashes: &[u64]) -> Vec<u8> {
    let filter = filter::build(hashes);
    let mut b = vec![0; HEAD_BYTES];
    b[..8].copy_from_slice(MAGIC);
    LE::write_u32(&mut b[8..], VERSION);
    b[16..32].copy_from_slice(&log.0);
    LE::write_u64(&mut b[32..], segment.base.0);
    b[40..72].copy_from_slice(&segment.hash);
    LE::write_u64(&mut b[72..], hashes.len() as u64);
    let head_crc = crc::crc32c(&b[..HEAD_BYTES - CRC_BYTES]);
    LE::write_u32(&mut b[HEAD_BYTES - CRC_BYTES..], head_crc);
    b.extend_from_slice(filter.as_flattened());
    let crc = crc::crc32c(&b);
    b.extend_from_slice(&crc.to_le_bytes());
    b
}

/// Bytes of the file whose head this is; `None` when it is not of `segment`.
fn expected_bytes(head: &[u8], log: Id, segment: &Sealed) -> Option<u64> {
    let b: &[u8; HEAD_BYTES] = head.first_chunk()?;
    let keys = LE::read_u64(&b[72..]);
    let ours = &b[..8] == MAGIC
        && LE::read_u32(&b[8..]) == VERSION
        && LE::read_u32(&b[12..]) == 0
        && b[16..32] == log.0
        && LE::read_u64(&b[32..]) == segment.base.0
        && b[40..72] == segment.hash
        && keys <= segment.records
        && LE::read_u32(&b[HEAD_BYTES - CRC_BYTES..]) == crc::crc32c(&b[..HEAD_BYTES - CRC_BYTES]);
    if !ours {
        return None;
    }
    let lines = filter::lines_for(keys)?.checked_mul(LINE_BYTES as u64)?;
    lines.checked_add((HEAD_BYTES + CRC_BYTES) as u64)
}

/// The filter that a file holds; `None` when it holds none of `segment`.
pub(super) fn decode(bytes: &[u8], log: Id, segment: &Sealed) -> Option<Vec<Line>> {
    if expected_bytes(bytes, log, segment)? != bytes.len() as u64 {
        return None;
    }
    let (before, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
    if crc::crc32c(before) != u32::from_le_bytes(*crc) {
        return None;
    }
    Some(before.get(HEAD_BYTES..)?.as_chunks::<LINE_BYTES>().0.to_vec())
}

/// The hashes of a segment's keys while it is read.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    all: Vec<u64>,
    /// As many of the first are distinct.
    settled: usize,
}

impl Hashes {
    pub(super) fn add(&mut self, key: &[u8]) {
        let hash = filter::hash(key);
        if self.all.last() == Some(&hash) {
            return;
        }
        self.all.push(hash);
        // A segment has many records of few keys, as a rule: memory follows the keys.
        if self.all.len() >= 2 * self.settled + SETTLE_AT {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.all.sort_unstable();
        self.all.dedup();
        self.settled = self.all.len();
    }

    /// The distinct ones.
    pub(super) fn distinct(mut self) -> Vec<u64> {
        self.settle();
        self.all
    }
}

/// The filters of a log, in its directory.
#[derive(Debug)]
pub(super) struct Filters {
    fs: Arc<dyn Fs>,
    directory: PathBuf,
    log: Id,
    /// Whether keeping one has not failed yet.
    keeps: bool,
}

impl Filters {
    pub(super) fn new(fs: Arc<dyn Fs>, directory: PathBuf, log: Id, keeps: bool) -> Self {
        Filters { fs, directory, log, keeps }
    }

    /// Whether it is worth gathering hashes.
    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    fn path(&self, base: LogByte) -> PathBuf {
        self.directory.join(format!("{:020}{SUFFIX}", base.0))
    }

    /// The filter of `segment`, if there is one to be trusted.
    pub(super) fn load(&self, segment: &Sealed) -> Option<Vec<Line>> {
        let file = self.fs.open_plain(&self.path(segment.base)).ok()?;
        let mut head = [0; HEAD_BYTES];
        file.read_exact_at(&mut head, 0).ok()?;
        // Held against the file before memory is taken for it.
        let expected = expected_bytes(&head, self.log, segment)?;
        if file.len().ok()? != expected {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(expected).ok()?];
        file.read_exact_at(&mut bytes, 0).ok()?;
        decode(&bytes, self.log, segment)
    }

    /// Keeps the filter of `segment`; says whether that went well.
    pub(super) fn keep(&mut self, segment: &Sealed, hashes: &[u64]) -> bool {
        let bytes = encode(self.log, segment, hashes);
        let kept = self.write(&self.path(segment.base), &bytes).is_ok();
        // A medium that took one not will hardly take the next.
        self.keeps = kept;
        kept
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.fs.create_dir(&self.directory)?;
        let mut random = [0; 8];
        self.fs.random(&mut random)?;
        // A name of its own: another process may be about the same.
        let unique = u64::from_le_bytes(random);
        let temporary = path.with_extension(format!("keys.{unique:016x}.tmp"));
        let file = self.fs.open(&temporary, Open::Create)?;
        let outcome = file.write_all_at(bytes, 0).and_then(|()| self.fs.rename(&temporary, path));
        if outcome.is_err() {
            let _ = self.fs.unlink(&temporary);
        }
        outcome
    }

    /// Removes the filters of segments that are gone, and what was left unfinished. `there` are
    /// the log bytes of those that are; what is newer than all of them is left alone: somebody
    /// else may have seen more of the log.
    pub(super) fn sweep(&self, there: &BTreeSet<LogByte>) {
        let (Some(newest), Ok(names)) = (there.last(), self.fs.list(&self.directory)) else {
            return;
        };
        for name in names {
            let Some((digits, rest)) = name.split_at_checked(20) else { continue };
            let Some(base) = digits.parse().ok().map(LogByte) else { continue };
            let Some(rest) = rest.strip_prefix(SUFFIX) else { continue };
            let unfinished = rest.ends_with(".tmp");
            let gone = rest.is_empty() && base < *newest && !there.contains(&base);
            if unfinished || gone {
                // Whoever was writing it loses a filter, never an answer.
                let _ = self.fs.unlink(&self.directory.join(name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::Sim;

    const LOG: Id = Id([7; 16]);

    fn segment() -> Sealed {
        Sealed { base: LogByte(4096), hash: [9; 32], records: 100 }
    }

    fn hashes() -> Vec<u64> {
        let mut hashes = Hashes::default();
        for key in ["gate", "door", "gate", "", "lock"] {
            hashes.add(key.as_bytes());
        }
        hashes.distinct()
    }

    #[test]
    fn a_filter_reads_back_and_every_flipped_bit_and_every_cut_is_found() {
        let good = encode(LOG, &segment(), &hashes());
        assert_eq!(decode(&good, LOG, &segment()), Some(filter::build(&hashes())));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad, LOG, &segment()), None, "bit {bit}");
        }
        for len in 0..good.len() {
            assert_eq!(decode(&good[..len], LOG, &segment()), None, "{len} bytes");
        }
        assert_eq!(decode(&[&good[..], &[0]].concat(), LOG, &segment()), None);
    }

    #[test]
    fn a_filter_of_another_log_segment_or_seal_is_none() {
        let good = encode(LOG, &segment(), &hashes());
        assert_eq!(decode(&good, Id([8; 16]), &segment()), None);
        for other in [
            Sealed { base: LogByte(0), ..segment() },
            Sealed { hash: [8; 32], ..segment() },
            Sealed { records: 3, ..segment() },
        ] {
            assert_eq!(decode(&good, LOG, &other), None, "{other:?}");
        }
    }

    #[test]
    fn repeated_keys_are_counted_once() {
        let mut hashes = Hashes::default();
        for i in 0..3 * SETTLE_AT {
            hashes.add(&[u8::try_from(i % 10).unwrap()]);
        }
        assert!(hashes.all.len() < SETTLE_AT + 20, "memory follows the keys");
        assert_eq!(hashes.distinct().len(), 10);
    }

    #[test]
    fn the_filter_in_the_format_document_is_what_the_code_writes() {
        let bytes = encode(LOG, &segment(), &hashes());
        let mut dump = String::new();
        for (i, line) in bytes.chunks(16).enumerate() {
            if line.iter().any(|&b| b != 0) {
                let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
                dump += &format!("{:06} {}\n", 16 * i, hex.join(" "));
            }
        }
        let document = include_str!("../../docs/FORMAT.md");
        let shown = document
            .split("```hexdump\n")
            .nth(2)
            .and_then(|rest| rest.split("```").next())
            .expect("the document has a dump");
        assert_eq!(shown, dump, "docs/FORMAT.md shows other bytes; the code writes\n{dump}");
    }

    #[test]
    fn filters_of_segments_that_are_gone_go_and_newer_ones_stay() {
        let sim = Sim::new(1);
        let directory = PathBuf::from("/table");
        let mut filters = Filters::new(sim.shared(), directory, LOG, true);
        for base in [0, 64, 128, 192] {
            assert!(filters.keep(&Sealed { base: LogByte(base), ..segment() }, &hashes()));
        }
        let others = ["short", "x.keys", "00000000000000000064.keys.note"];
        for name in others {
            sim.write(filters.directory.join(name), b"not ours");
        }
        sim.write(filters.directory.join("00000000000000000128.keys.0f.tmp"), b"torn");
        filters.sweep(&[LogByte(64), LogByte(128)].into());
        let mut expected: Vec<_> =
            [64, 128, 192].iter().map(|base| format!("{base:020}.keys")).collect();
        expected.extend(others.map(str::to_owned));
        expected.sort();
        assert_eq!(sim.shared().list(&filters.directory).unwrap(), expected);
        filters.sweep(&BTreeSet::new());
        assert_eq!(sim.shared().list(&filters.directory).unwrap(), expected);
    }
}
