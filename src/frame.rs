//! Frames: a batch as bytes on disk, and back. Pure; no I/O.
//!
//! Called by `segment` and `log`; uses `record`'s limits and the checksum.
//!
//! ```text
//!  0        4         8            12             16              24        28     30    31  32
//!  | u32    | u32     | u32        | u32          | i64           | u32     | u16  | u8  | u8 |
//!  | len    | head    | rel_offset | durable_back | max_timestamp | body    | count|kind |flags| body, padding
//!  |        | crc     |            |              |               | crc     |      |     |    |
//! ```
//!
//! A frame at byte `b` of a segment file is valid if and only if
//! 1. `b` is a multiple of 8, and `len` is at least 32, at most [`MAX_FRAME_BYTES`] (in
//!    runs [`RUN_EXTRA_BYTES`] more) and ends within the file;
//! 2. `head_crc` is the CRC-32C of log id, salt, `b`, and the header without `head_crc`: a stale
//!    byte, a misplaced frame, and a frame of another log or segment all fail it;
//! 3. `body_crc` is the CRC-32C of the body and its padding to the next multiple of 8;
//! 4. `kind` and `flags` are known, `count` is 0 exactly for control frames, and the body's
//!    table of ends and records fits the body.
//!
//! 8-byte alignment means that a length never straddles a sector: it is wholly old or wholly new.

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::crc;
use crate::position::{Epoch, Fingerprint, Id};
pub use crate::record::MAX_FRAME_BYTES;
use crate::record::{MAX_BATCH_RECORDS, NO_KEY, Op, Record};

mod control;
pub use control::{Degraded, MAX_MEMBERS, Mode, SyncSet};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 32;
/// Frames start at multiples of this.
pub const ALIGN: usize = 8;
/// A producer's id and sequence in front of a body.
pub const PRODUCER_BYTES: usize = 24;
/// The most a frame adds to its records beside the table of ends.
pub(crate) const OVERHEAD_BYTES: usize = HEADER_BYTES + PRODUCER_BYTES + ALIGN;
/// `durable_back` that claims nothing.
pub const NO_CLAIM: u32 = u32::MAX;
/// A frame of a table's run may be this much longer than one of a log.
pub const RUN_EXTRA_BYTES: usize = 32;
/// Flag: every record carries a timestamp.
pub const FLAG_TIMED: u8 = 1 << 2;
/// Flag: the body starts with a producer's id and sequence.
pub const FLAG_PRODUCER: u8 = 1 << 3;
/// The flag bits that name the compression: 0 none, 1 lz4, 2 zstd.
pub const COMPRESSION_MASK: u8 = 0b11;

/// The next place a frame may start at or after `byte`.
#[inline]
pub fn align(byte: u64) -> u64 {
    byte.next_multiple_of(ALIGN as u64)
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A batch of records.
    Data = 0,
    /// The end of a sealed segment's frames.
    Seal = 1,
    /// The first frame of an epoch.
    EpochStart = 2,
    /// A synchronous set.
    SyncSet = 3,
    /// Replication degraded.
    Degraded = 4,
    /// Records that a repair found lost.
    Lost = 5,
    /// Rows of a table's run.
    Run = 6,
    /// Nothing: fills a page so that the next durable group starts on its own.
    Pad = 7,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => FrameKind::Data,
            1 => FrameKind::Seal,
            2 => FrameKind::EpochStart,
            3 => FrameKind::SyncSet,
            4 => FrameKind::Degraded,
            5 => FrameKind::Lost,
            6 => FrameKind::Run,
            7 => FrameKind::Pad,
            _ => return None,
        })
    }

    /// The name used in dumps.
    pub fn as_str(self) -> &'static str {
        match self {
            FrameKind::Data => "data",
            FrameKind::Seal => "seal",
            FrameKind::EpochStart => "epoch_start",
            FrameKind::SyncSet => "sync_set",
            FrameKind::Degraded => "degraded",
            FrameKind::Lost => "lost",
            FrameKind::Run => "run",
            FrameKind::Pad => "pad",
        }
    }
}

/// The checksum state of one segment: log id and salt, hashed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    /// The seed of the segment with this salt in this log.
    pub fn new(log: Id, salt: u64) -> Self {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&log.0);
        LE::write_u64(&mut bytes[16..], salt);
        Seed(crc::crc32c(&bytes))
    }

    /// The header checksum of a frame at `byte` of its file.
    #[inline]
    pub fn head_crc(self, byte: u64, header: &[u8; HEADER_BYTES]) -> u32 {
        crc::frame_head(self.0, byte, &words(header))
    }
}

/// A frame's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Header and body, without padding.
    pub len: u32,
    /// Checksum of the header.
    pub head_crc: u32,
    /// First record's offset minus the segment's base offset.
    pub rel_offset: u32,
    /// (This frame's log byte − the durable log byte when written) / 8, or [`NO_CLAIM`].
    pub durable_back: u32,
    /// The newest timestamp in it; the only one unless [`FLAG_TIMED`] is set.
    pub max_timestamp: i64,
    /// Checksum of the body and its padding.
    pub body_crc: u32,
    /// Records in it; 0 in control frames.
    pub count: u16,
    /// What it holds.
    pub kind: FrameKind,
    /// Compression, timestamps, producer.
    pub flags: u8,
}

impl Header {
    /// The header's bytes, as they are.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0; HEADER_BYTES];
        LE::write_u32(&mut b[0..], self.len);
        LE::write_u32(&mut b[4..], self.head_crc);
        LE::write_u32(&mut b[8..], self.rel_offset);
        LE::write_u32(&mut b[12..], self.durable_back);
        LE::write_i64(&mut b[16..], self.max_timestamp);
        LE::write_u32(&mut b[24..], self.body_crc);
        LE::write_u16(&mut b[28..], self.count);
        b[30] = self.kind as u8;
        b[31] = self.flags;
        b
    }

    /// Bytes with padding, first record and records, as they stand there: nothing is checked but
    /// that the frame has a length.
    #[inline]
    pub(crate) fn peek(bytes: &[u8]) -> Option<(usize, u32, u16)> {
        let b = bytes.first_chunk::<HEADER_BYTES>()?;
        let len = LE::read_u32(b) as usize;
        let stride = len.checked_next_multiple_of(ALIGN).filter(|_| len >= HEADER_BYTES)?;
        Some((stride, LE::read_u32(&b[8..]), LE::read_u16(&b[28..])))
    }

    /// Checks rules (1), (2) and (4) of the module for the header of a frame at `byte`; `limit`
    /// is the end of what can hold it.
    #[inline(always)]
    pub fn decode(bytes: &[u8], byte: u64, limit: u64, seed: Seed) -> Result<Self, Fault> {
        let Some(b) = bytes.first_chunk::<HEADER_BYTES>() else {
            // Less than a header, and nothing but zeros: the end.
            return Err(if bytes.iter().all(|&x| x == 0) { Fault::End } else { Fault::Short });
        };
        let len = LE::read_u32(&b[0..]);
        if len == 0 {
            return Err(Fault::End);
        }
        let head_crc = LE::read_u32(&b[4..]);
        // A record of the largest frame has a longer head among a run's rows.
        let run = b[30] == FrameKind::Run as u8;
        let most = if run { MAX_FRAME_BYTES + RUN_EXTRA_BYTES } else { MAX_FRAME_BYTES };
        if (len as usize) < HEADER_BYTES || len as usize > most {
            return Err(Fault::Length(len));
        }
        if byte + align(u64::from(len)) > limit {
            return Err(Fault::Short);
        }
        let words = words(b);
        if crc::frame_head(seed.0, byte, &words) != head_crc {
            return Err(Fault::HeadCrc);
        }
        let kind = FrameKind::from_byte(b[30]).ok_or(Fault::Unknown)?;
        let header = Header::new(&words, kind);
        let carries_records = matches!(header.kind, FrameKind::Data | FrameKind::Run);
        if carries_records != (header.count > 0)
            || header.flags & !(COMPRESSION_MASK | FLAG_TIMED | FLAG_PRODUCER) != 0
        {
            return Err(Fault::Unknown);
        }
        Ok(header)
    }

    /// Checks rule (3) of the module; `bytes` start with the header.
    #[inline]
    pub(crate) fn check_body(&self, bytes: &[u8]) -> Result<(), Fault> {
        let body = bytes.get(HEADER_BYTES..self.stride()).ok_or(Fault::Short)?;
        if crc::joined(&[body]) == self.body_crc { Ok(()) } else { Err(Fault::BodyCrc) }
    }

    /// Header and body with the padding: where the next frame starts, relative to this one.
    #[inline]
    pub fn stride(&self) -> usize {
        (self.len as usize).next_multiple_of(ALIGN)
    }

    /// The two checksums that identify this frame.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { head_crc: self.head_crc, body_crc: self.body_crc }
    }

    /// The durable log byte this frame, at `log_byte`, claims.
    pub fn claim(&self, log_byte: u64) -> Option<u64> {
        if self.durable_back == NO_CLAIM {
            return None;
        }
        log_byte.checked_sub(u64::from(self.durable_back) * ALIGN as u64)
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `len` is 0: perhaps the end.
    End,
    /// The bytes end before the frame does.
    Short,
    /// `len` is impossible.
    Length(u32),
    /// The header's checksum does not hold.
    HeadCrc,
    /// The body's checksum does not hold.
    BodyCrc,
    /// An unknown kind or flag, or a count that contradicts the kind.
    Unknown,
    /// The checksums hold and the body still makes no sense.
    Body,
}

impl Fault {
    /// What was found, in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::End => "zeros where a frame should start",
            Fault::Short => "a frame that is cut off",
            Fault::Length(_) => "an impossible frame length",
            Fault::HeadCrc => "a frame header whose checksum does not hold",
            Fault::BodyCrc => "a frame body whose checksum does not hold",
            Fault::Unknown => "an unknown frame kind or flag",
            Fault::Body => "a frame body that does not hold its records",
        }
    }
}

/// A producer's mark on a batch: makes retries safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Producer {
    /// Who appends; random, kept by the producer.
    pub id: Id,
    /// Rises with every batch of that producer.
    pub sequence: u64,
}

/// A valid frame, borrowing its body.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// Its body without padding, as stored.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks rules (1) to (3) for the frame at `byte`; `bytes` start there.
    #[inline]
    pub fn decode(bytes: &'a [u8], byte: u64, limit: u64, seed: Seed) -> Result<Self, Fault> {
        let header = Header::decode(bytes, byte, limit, seed)?;
        Frame::verified(bytes, header)
    }

    /// The frame of a header that was decoded already; checks rule (3).
    #[inline]
    pub(crate) fn verified(bytes: &'a [u8], header: Header) -> Result<Self, Fault> {
        header.check_body(bytes)?;
        Frame::trusted(bytes, header)
    }

    /// The same without the body's checksum; for bytes that were verified before.
    #[inline]
    pub fn trusted(bytes: &'a [u8], header: Header) -> Result<Self, Fault> {
        match bytes.get(HEADER_BYTES..header.len as usize) {
            Some(body) => Ok(Frame { header, body }),
            None => Err(Fault::Short),
        }
    }

    /// The producer's mark, if it has one.
    pub fn producer(&self) -> Option<Producer> {
        if self.header.flags & FLAG_PRODUCER == 0 {
            return None;
        }
        let mark = self.body.first_chunk::<PRODUCER_BYTES>()?;
        let mut id = [0; 16];
        id.copy_from_slice(&mark[..16]);
        Some(Producer { id: Id(id), sequence: LE::read_u64(&mark[16..]) })
    }

    /// Table and records as stored: the body behind the producer's mark.
    pub fn payload(&self) -> Result<&'a [u8], Fault> {
        if self.header.flags & FLAG_PRODUCER == 0 {
            Ok(self.body)
        } else {
            self.body.get(PRODUCER_BYTES..).ok_or(Fault::Body)
        }
    }

    /// Whether the payload is compressed.
    pub fn is_compressed(&self) -> bool {
        self.header.flags & COMPRESSION_MASK != 0
    }

    /// The records of an uncompressed payload.
    #[inline]
    pub fn records(&self) -> Result<Records<'a>, Fault> {
        Records::new(&self.header, self.payload()?)
    }
}

/// The records of a frame, each found in constant time.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    ends: &'a [u8],
    records: &'a [u8],
    count: usize,
    timed: bool,
    timestamp: i64,
}

impl<'a> Records<'a> {
    /// Splits an uncompressed payload into its table and records.
    #[inline]
    pub fn new(header: &Header, payload: &'a [u8]) -> Result<Self, Fault> {
        let count = usize::from(header.count);
        let table = if count > 1 { 4 * count } else { 0 };
        let (ends, records) = payload.split_at_checked(table).ok_or(Fault::Body)?;
        Ok(Records {
            ends,
            records,
            count,
            timed: header.flags & FLAG_TIMED != 0,
            timestamp: header.max_timestamp,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn end(&self, i: usize) -> usize {
        if self.count == 1 {
            self.records.len()
        } else {
            LE::read_u32(&self.ends[4 * i..]) as usize
        }
    }

    /// Record `i`, with its timestamp.
    #[inline]
    pub fn get(&self, i: usize) -> Result<Record<'a>, Fault> {
        if i >= self.count {
            return Err(Fault::Body);
        }
        let start = if i == 0 { 0 } else { self.end(i - 1) };
        let bytes = self.records.get(start..self.end(i)).ok_or(Fault::Body)?;
        let (record, own) = record(bytes, self.timed)?;
        Ok(record.at(own.unwrap_or(self.timestamp)))
    }
}

/// Reads one record's bytes, and its own timestamp if it has one.
#[inline]
pub(crate) fn record(bytes: &[u8], timed: bool) -> Result<(Record<'_>, Option<i64>), Fault> {
    let (word, mut rest) = bytes.split_first_chunk::<4>().ok_or(Fault::Body)?;
    let word = u32::from_le_bytes(*word);
    let mut timestamp = None;
    if timed {
        let (own, after) = rest.split_first_chunk::<8>().ok_or(Fault::Body)?;
        (timestamp, rest) = (Some(i64::from_le_bytes(*own)), after);
    }
    let op = Op::from_bits(word & 0b11).ok_or(Fault::Body)?;
    let (key, value) = match word >> 2 {
        NO_KEY => (None, rest),
        len => {
            let (key, value) = rest.split_at_checked(len as usize).ok_or(Fault::Body)?;
            (Some(key), value)
        }
    };
    Ok((Record { op, key, value, timestamp: None }, timestamp))
}

/// Everything a frame's header says before the log has stamped its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft {
    pub(crate) len: u32,
    pub(crate) max_timestamp: i64,
    pub(crate) body_crc: u32,
    pub(crate) count: u16,
    pub(crate) kind: FrameKind,
    pub(crate) flags: u8,
}

impl Draft {
    /// The header with its place still blank.
    #[inline]
    pub(crate) fn header(&self) -> [u8; HEADER_BYTES] {
        Header {
            len: self.len,
            head_crc: 0,
            rel_offset: 0,
            durable_back: NO_CLAIM,
            max_timestamp: self.max_timestamp,
            body_crc: self.body_crc,
            count: self.count,
            kind: self.kind,
            flags: self.flags,
        }
        .encode()
    }
}

/// A header as four little-endian words.
#[inline]
fn words(header: &[u8; HEADER_BYTES]) -> [u64; 4] {
    let (words, _) = header.as_chunks::<8>();
    std::array::from_fn(|i| u64::from_le_bytes(words[i]))
}

/// Gives a drafted frame its place among its segment's offsets and its durable claim, and closes
/// it with the header checksum; returns the header.
///
/// Works on words: the processor cannot forward two short stores to one long load, and the
/// checksum's loads would wait for them to reach the cache.
#[inline(always)]
pub(crate) fn stamp(
    header: &mut [u8; HEADER_BYTES],
    seed: Seed,
    byte: u64,
    rel_offset: u32,
    durable_back: u32,
) -> Header {
    let mut words = words(header);
    words[1] = u64::from(rel_offset) | u64::from(durable_back) << 32;
    let head_crc = crc::frame_head(seed.0, byte, &words);
    words[0] = words[0] & u64::from(u32::MAX) | u64::from(head_crc) << 32;
    header[..8].copy_from_slice(&words[0].to_le_bytes());
    header[8..16].copy_from_slice(&words[1].to_le_bytes());
    let kind = FrameKind::from_byte(header[30]).expect("composed from a kind");
    Header::new(&words, kind)
}

impl Header {
    /// Reads a header that was composed or checked before.
    #[inline]
    pub(crate) fn staged(header: &[u8; HEADER_BYTES]) -> Self {
        let kind = FrameKind::from_byte(header[30]).expect("composed from a kind");
        Header::new(&words(header), kind)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "fields are parts of words")]
    fn new(words: &[u64; 4], kind: FrameKind) -> Self {
        Header {
            len: words[0] as u32,
            head_crc: (words[0] >> 32) as u32,
            rel_offset: words[1] as u32,
            durable_back: (words[1] >> 32) as u32,
            max_timestamp: words[2].cast_signed(),
            body_crc: words[3] as u32,
            count: (words[3] >> 32) as u16,
            kind,
            flags: (words[3] >> 56) as u8,
        }
    }
}

/// `durable_back` of a frame at `log_byte` when everything below `durable` is durable.
#[inline]
pub(crate) fn durable_back(log_byte: u64, durable: u64) -> u32 {
    u32::try_from((log_byte - durable) / ALIGN as u64).unwrap_or(NO_CLAIM)
}

/// A whole frame, sealed with its checksums: for control frames and tests.
pub fn encode(
    kind: FrameKind,
    rel_offset: u32,
    durable_back: u32,
    timestamp: i64,
    body: &[u8],
    (seed, byte): (Seed, u64),
) -> Vec<u8> {
    let len = HEADER_BYTES + body.len();
    assert!(len <= MAX_FRAME_BYTES, "a control frame fits a frame");
    let mut bytes = vec![0; len.next_multiple_of(ALIGN)];
    bytes[HEADER_BYTES..len].copy_from_slice(body);
    let draft = Draft {
        #[expect(clippy::cast_possible_truncation, reason = "at most 16 MiB")]
        len: len as u32,
        max_timestamp: timestamp,
        body_crc: crc::crc32c(&bytes[HEADER_BYTES..]),
        count: 0,
        kind,
        flags: 0,
    };
    let (header, _) = bytes.split_first_chunk_mut::<HEADER_BYTES>().expect("a header's length");
    *header = draft.header();
    stamp(header, seed, byte, rel_offset, durable_back);
    bytes
}

/// Body of an `epoch_start` frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch that begins.
    pub epoch: Epoch,
    /// The epoch before, in this history; zeros for the first.
    pub parent: Epoch,
    /// The log byte at which this epoch leaves its parent.
    pub fork: u64,
    /// The offset there.
    pub fork_offset: u64,
    /// The node that leads.
    pub node: Id,
    /// Why: `created`, `reopened after a crash`, …; at most 255 bytes.
    pub reason: String,
    /// What this node, as it rejoined, gave up of epochs that it led, and others may still hold: that this epoch lacks
    /// it is no loss. At most [`GAVE_UP`](EpochStart::GAVE_UP).
    pub gave_up: Vec<GaveUp>,
}

/// Frames that a node took away from its own log on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaveUp {
    /// The epoch that they are of.
    pub epoch: Epoch,
    /// The log byte of the first of them: what lies below stayed.
    pub from: u64,
}

impl EpochStart {
    /// The most epochs that `gave_up` names.
    pub const GAVE_UP: usize = 16;

    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(72 + self.reason.len() + 24 * self.gave_up.len());
        for n in [
            self.epoch.number,
            self.epoch.nonce,
            self.parent.number,
            self.parent.nonce,
            self.fork,
            self.fork_offset,
        ] {
            b.extend_from_slice(&n.to_le_bytes());
        }
        b.extend_from_slice(&self.node.0);
        b.extend_from_slice(&(self.reason.len() as u64).to_le_bytes());
        b.extend_from_slice(self.reason.as_bytes());
        for GaveUp { epoch: Epoch { number, nonce }, from } in &self.gave_up {
            for n in [number, nonce, from] {
                b.extend_from_slice(&n.to_le_bytes());
            }
        }
        b
    }

    /// Reads a body back; `None` when it is none.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (fixed, rest) = body.split_first_chunk::<72>()?;
        let n = |i: usize| LE::read_u64(&fixed[8 * i..]);
        let mut node = [0; 16];
        node.copy_from_slice(&fixed[48..64]);
        let reason_bytes = usize::try_from(n(8)).ok().filter(|bytes| *bytes <= 255)?;
        let (reason, gave_up) = rest.split_at_checked(reason_bytes)?;
        let (gave_up, part) = gave_up.as_chunks::<24>();
        if !part.is_empty() || gave_up.len() > Self::GAVE_UP {
            return None;
        }
        Some(EpochStart {
            epoch: Epoch { number: n(0), nonce: n(1) },
            parent: Epoch { number: n(2), nonce: n(3) },
            fork: n(4),
            fork_offset: n(5),
            node: Id(node),
            reason: std::str::from_utf8(reason).ok()?.to_owned(),
            gave_up: (gave_up.iter())
                .map(|b| [0, 8, 16].map(|at| LE::read_u64(&b[at..])))
                .map(|[number, nonce, from]| GaveUp { epoch: Epoch { number, nonce }, from })
                .collect(),
        })
    }
}

/// Body of a `lost` frame: how many records the damage took, and what stood there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Records lost; the first one's offset is in the header's `rel_offset`.
    pub count: u32,
    /// CRC-32C of the damaged bytes.
    pub fingerprint: u32,
}

impl Lost {
    /// Reads a body back; zeros fill it to the size of the damage.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let b = body.first_chunk::<8>()?;
        Some(Lost { count: LE::read_u32(&b[..]), fingerprint: LE::read_u32(&b[4..]) })
    }

    /// The first bytes of the body.
    pub fn encode(self) -> [u8; 8] {
        let mut b = [0; 8];
        LE::write_u32(&mut b, self.count);
        LE::write_u32(&mut b[4..], self.fingerprint);
        b
    }
}

const _: () = assert!(MAX_BATCH_RECORDS == u16::MAX as usize);

#[cfg(test)]
#[path = "frame_tests.rs"]
pub(crate) mod tests;
