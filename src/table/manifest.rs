//! A checkpoint's manifest: the runs that hold the table's rows, and the position they stand at.
//!
//! ```text
//! tidelog checkpoint 1
//! log, seq, epoch, nonce, log_byte, offset       whose, which, and behind which record
//! newest                                         timestamp below it
//! fingerprint, segment, byte                     of the frame before it; where a copy of the log begins
//! history <number nonce start offset node>       every epoch so far
//! producer <id sequence first last timestamp>    what retries are held against
//! lost <start end>                               offsets that damage took
//! sync_set <log byte, at, set>                   the newest synchronous sets below it
//! run <hash bytes rows deletes>                  newest first
//! digest, rows                                   of the whole state, when asked for
//! crc
//! ```
//!
//! Written by `store` like the log's other small files, after everything it names is durable. The
//! same text, under the name `snapshot`, is what is published for others. Invariants:
//! - it is complete: the rows of its runs, newest first, are the table at `position`;
//! - names in it are parsed into numbers and hashes and never used as paths.

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::log::files::{CHECKPOINT, EpochEntry, SetLine};
use crate::log::meta::Meta;
use crate::position::{Epoch, Fingerprint, Id, LogByte, Offset, Position};
use crate::segment::Producers;

use super::digest::Digest;
use super::run::RunId;
use super::snapshot::SnapshotName;

/// A run, as a manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunEntry {
    pub(crate) id: RunId,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    pub(crate) deletes: u64,
}

/// Behind which record a table stands, and what is known there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) position: Position,
    /// Of the frame before it, unless damage took that.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// The newest timestamp below it.
    pub(crate) newest: i64,
    pub(crate) producers: Producers,
    pub(crate) lost: Vec<std::ops::Range<Offset>>,
}

/// Everything a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) log: Id,
    pub(crate) seq: u64,
    pub(crate) mark: Mark,
    /// The segment with the frame before the position, and the byte of its file behind that.
    pub(crate) place: Option<(LogByte, u64)>,
    pub(crate) history: Vec<EpochEntry>,
    /// The newest synchronous sets below it: who begins here is to show no more than they let him.
    pub(crate) sets: Vec<SetLine>,
    /// Newest first.
    pub(crate) runs: Vec<RunEntry>,
    /// The state digest and the number of rows, if somebody asked for them.
    pub(crate) state: Option<(Digest, u64)>,
}

impl FromStr for RunEntry {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let [id, bytes, rows, deletes] = words(text)?;
        Ok(RunEntry {
            id: id.parse().map_err(drop)?,
            bytes: number(bytes)?,
            rows: number(rows)?,
            deletes: number(deletes)?,
        })
    }
}

/// A line of lost offsets.
struct LostLine(std::ops::Range<Offset>);

impl FromStr for LostLine {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let [start, end] = words(text)?;
        Ok(LostLine(Offset(number(start)?)..Offset(number(end)?)))
    }
}

fn words<const N: usize>(text: &str) -> Result<[&str; N], ()> {
    let words: Vec<&str> = text.split(' ').collect();
    words.try_into().map_err(drop)
}

fn number(word: &str) -> Result<u64, ()> {
    word.parse().map_err(drop)
}

impl Manifest {
    /// Reads the one at `path`, a file of the kind `name`; `None` if there is none.
    pub(super) fn read(fs: &dyn Fs, path: &Path, name: &'static str) -> Result<Option<Self>> {
        let Some(meta) = Meta::read(fs, path, name)? else { return Ok(None) };
        Manifest::decode(&meta).map(Some).map_err(|e| e.in_file(path))
    }

    /// Reads bytes, of the kind `name`.
    pub(crate) fn parse(bytes: &[u8], name: &'static str) -> Result<Self> {
        Manifest::decode(&Meta::decode(name, bytes)?)
    }

    fn decode(meta: &Meta) -> Result<Self> {
        let epoch = Epoch { number: meta.need("epoch")?, nonce: meta.need("nonce")? };
        let log_byte = LogByte(meta.need("log_byte")?);
        let position = Position { epoch, log_byte, offset: Offset(meta.need("offset")?) };
        let mark = Mark {
            position,
            fingerprint: meta.get("fingerprint"),
            newest: meta.need("newest")?,
            producers: Producers::from_lines(every(meta, "producer")?),
            lost: every::<LostLine>(meta, "lost")?
                .into_iter()
                .map(|LostLine(range)| range)
                .collect(),
        };
        let place = meta.get("segment").map(LogByte).zip(meta.get("byte"));
        Ok(Manifest {
            log: meta.need("log")?,
            seq: meta.need("seq")?,
            mark,
            place,
            history: every(meta, "history")?,
            sets: every(meta, "sync_set")?,
            runs: every(meta, "run")?,
            state: meta.get("digest").zip(meta.get("rows")),
        })
    }

    /// Where it stands.
    pub(crate) fn name(&self) -> SnapshotName {
        let Position { epoch, offset, .. } = self.mark.position;
        SnapshotName { offset, epoch }
    }

    /// Bytes of its runs.
    pub(crate) fn bytes(&self) -> u64 {
        self.runs.iter().fold(0, |sum, run| sum.saturating_add(run.bytes))
    }

    /// The file, of the kind `name`.
    pub(crate) fn meta(&self, name: &'static str) -> Meta {
        let mut meta = Meta::new(name);
        let Position { epoch, log_byte, offset } = self.mark.position;
        meta.set("log", self.log)
            .set("seq", self.seq)
            .set("epoch", epoch.number)
            .set("nonce", epoch.nonce)
            .set("log_byte", log_byte)
            .set("offset", offset)
            .set("newest", self.mark.newest);
        if let Some(fingerprint) = self.mark.fingerprint {
            meta.set("fingerprint", fingerprint);
        }
        if let Some((segment, byte)) = self.place {
            meta.set("segment", segment).set("byte", byte);
        }
        for e in &self.history {
            meta.set("history", e);
        }
        for line in self.mark.producers.lines() {
            meta.set("producer", line);
        }
        for lost in &self.mark.lost {
            meta.set("lost", format_args!("{} {}", lost.start, lost.end));
        }
        for set in &self.sets {
            meta.set("sync_set", set);
        }
        for RunEntry { id, bytes, rows, deletes } in &self.runs {
            meta.set("run", format_args!("{id} {bytes} {rows} {deletes}"));
        }
        if let Some((digest, rows)) = &self.state {
            meta.set("digest", digest).set("rows", rows);
        }
        meta
    }
}

/// Every value of `key`; one that makes no sense is an error, for a list must be complete.
fn every<T: FromStr>(meta: &Meta, key: &str) -> Result<Vec<T>> {
    let there = meta.values(key).count();
    let read: Vec<T> = meta.all(key).collect();
    if read.len() < there {
        return Err(Error::new(
            Kind::Corrupt,
            format!("expected {there} valid lines `{key}`, found {}", read.len()),
        ));
    }
    Ok(read)
}

/// `<number>.<ending>`, twenty digits, so that names sort by number.
pub(super) fn file_name(number: u64, ending: impl Display) -> String {
    format!("{number:020}.{ending}")
}

/// The number of a file with this ending.
pub(super) fn parse_name(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?.strip_suffix('.')?;
    let number = digits.parse().ok()?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then_some(number)
}

/// The file of checkpoint `seq`.
pub(crate) fn checkpoint_name(seq: u64) -> String {
    file_name(seq, CHECKPOINT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::ProducerState;

    /// A set whose members have ids of one byte each.
    fn set(what: &str, members: &[u8]) -> SetLine {
        let members: Vec<String> = members.iter().map(|byte| Id([*byte; 16]).to_string()).collect();
        format!("{what} {}", members.join(",")).parse().unwrap()
    }

    #[test]
    fn a_manifest_reads_back_and_every_flipped_bit_is_found() {
        let mut producers = Producers::default();
        let state = ProducerState { sequence: 3, first: Offset(1), last: Offset(2), timestamp: -5 };
        producers.note(Id([9; 16]), state);
        let epoch = Epoch { number: 2, nonce: 77 };
        let entry =
            EpochEntry { epoch, start: LogByte(0), start_offset: Offset(0), node: Id([3; 16]) };
        let manifest = Manifest {
            log: Id([7; 16]),
            seq: 4,
            mark: Mark {
                position: Position { epoch, log_byte: LogByte(800), offset: Offset(12) },
                fingerprint: Some(Fingerprint { head_crc: 1, body_crc: 2 }),
                newest: 6,
                producers,
                lost: vec![Offset(3)..Offset(5)],
            },
            place: Some((LogByte(0), 4896)),
            history: vec![entry],
            sets: vec![set("300 at sync:k=1", &[3, 4])],
            runs: vec![
                RunEntry { id: RunId([1; 32]), bytes: 5, rows: 6, deletes: 7 },
                RunEntry { id: RunId([2; 32]), bytes: 8, rows: 9, deletes: 0 },
            ],
            state: Some((Digest([4; 32]), 15)),
        };
        let good = manifest.meta(CHECKPOINT).encode();
        assert_eq!(Manifest::parse(&good, CHECKPOINT).unwrap(), manifest);
        assert!(Manifest::parse(&good, "snapshot").is_err());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Manifest::parse(&bad, CHECKPOINT) {
                assert_eq!(read, manifest, "bit {bit}");
            }
        }
    }

    #[test]
    fn the_documented_checkpoint_and_snapshot_are_what_the_code_writes() {
        let document = include_str!("../../docs/FORMAT.md");
        let example = |first: &str| {
            let start = document.find(first).expect("an example in docs/FORMAT.md");
            document[start..].split_once("```").unwrap().0
        };
        let epoch = |number, nonce| Epoch { number, nonce };
        let entry = |epoch, start, offset| EpochEntry {
            epoch,
            start: LogByte(start),
            start_offset: Offset(offset),
            node: Id(*b"an example, node"),
        };
        let mut producers = Producers::default();
        let state =
            ProducerState { sequence: 7, first: Offset(8), last: Offset(11), timestamp: 1_700 };
        producers.note(Id(*b"an example, prod"), state);
        let mut manifest = Manifest {
            log: Id(*b"an example's log"),
            seq: 4,
            mark: Mark {
                position: Position {
                    epoch: epoch(2, 0x1122_3344_5566_7788),
                    log_byte: LogByte(800),
                    offset: Offset(12),
                },
                fingerprint: Some(Fingerprint { head_crc: 0x9a96_55e6, body_crc: 0x5bfc_2a85 }),
                newest: 1_700_000_000_000_000_000,
                producers,
                lost: vec![Offset(3)..Offset(5)],
            },
            place: Some((LogByte(512), 4384)),
            history: vec![
                entry(epoch(1, 99), 0, 0),
                entry(epoch(2, 0x1122_3344_5566_7788), 512, 9),
            ],
            sets: vec![set("620 at sync:k=1", b"no")],
            runs: vec![
                RunEntry { id: RunId([0xab; 32]), bytes: 650, rows: 2, deletes: 1 },
                RunEntry { id: RunId([0xcd; 32]), bytes: 4_202_648, rows: 51_200, deletes: 0 },
            ],
            state: None,
        };
        let written = String::from_utf8(manifest.meta(CHECKPOINT).encode()).unwrap();
        assert_eq!(example("tidelog checkpoint 1\n"), written);
        manifest.seq = 0;
        manifest.state = Some((Digest([0x5a; 32]), 51_201));
        let written = String::from_utf8(manifest.meta("snapshot").encode()).unwrap();
        assert_eq!(example("tidelog snapshot 1\n"), written);
    }

    #[test]
    fn names_are_numbers_of_twenty_digits_and_nothing_else() {
        assert_eq!(parse_name(&checkpoint_name(7), CHECKPOINT), Some(7));
        for name in [
            "7.checkpoint",
            "+0000000000000000007.checkpoint",
            "00000000000000000007.run",
            "../0000000000000000007.checkpoint",
            "99999999999999999999.checkpoint",
        ] {
            assert_eq!(parse_name(name, CHECKPOINT), None, "{name}");
        }
    }
}
