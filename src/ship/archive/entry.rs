//! An entry of the contested sequence: a head of 512 bytes, and what it carries.
//!
//! ```text
//!   0 magic "TIDENTRY"     8 u32 version           12 u32 kind             16 log id (16 bytes)
//!  32 u64 n               40 u64 rollup            48 hash of entry n-1    80 u64, u64 epoch
//!  96 node (16 bytes)    112 put id (16 bytes)    128 i64 time            136 u64 payload bytes
//! 144 hash of the payload 176 by kind             508 u32 crc32c of bytes 0..508
//! 512 payload
//! ```
//!
//! Called by whoever walks or appends; pure. The hash of an entry is that of its head, which holds
//! the hash of the payload: a walk reads heads alone. Invariants:
//! - a head has one way to be written: what does not encode to the same bytes is refused;
//! - a payload is at most [`MAX_PAYLOAD_BYTES`], and its length is known before it is fetched.

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::position::{Epoch, Fingerprint, Id, LogByte, Offset};

use crate::table::SnapshotName;

use super::name::{Hash, ObjectName};

/// The version that heads carry.
pub const ENTRY_VERSION: u32 = 1;
/// Bytes of a head.
pub const HEAD_BYTES: usize = 512;
/// The largest payload.
pub const MAX_PAYLOAD_BYTES: u64 = 64 << 20;
const MAGIC: &[u8; 8] = b"TIDENTRY";
const CRC_AT: usize = 508;
/// Where what depends on the kind begins.
const FIELDS_AT: usize = 176;

/// The head of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryHead {
    /// The log that the archive is of.
    pub log: Id,
    /// Its place in the sequence, from 1.
    pub n: u64,
    /// The newest rollup before it; 0 if there is none.
    pub rollup: u64,
    /// Hash of the entry before; zeros for the first.
    pub previous: Hash,
    /// The epoch of whoever appended it.
    pub epoch: Epoch,
    /// Who that was.
    pub node: Id,
    /// Random, new for each entry that somebody wants to append: tells one's own from a stranger's.
    pub put_id: Id,
    /// When, nanoseconds since the Unix epoch.
    pub time: i64,
    /// Bytes behind the head.
    pub payload_bytes: u64,
    /// Their hash; zeros if there are none.
    pub payload_hash: Hash,
    /// What it says.
    pub what: What,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A new epoch begins: from here on entries of older ones count no more.
    Fence {
        /// The epoch of the entries before; zeros for the first.
        parent: Epoch,
        /// What the archive keeps: everything below. The first one says where the archive begins.
        fork: LogByte,
        /// The offset there.
        fork_offset: Offset,
    },
    /// Frames behind the end; the payload is the segment's header page, if it starts one, and the
    /// frames.
    Tail(Tail),
    /// A sealed segment lies under its name in `data/`; replaces its tails.
    Segment(Sealed),
    /// A snapshot lies under its name in `snap/`.
    Snapshot(SnapshotRef),
    /// The payload is the state up to here.
    Rollup,
    /// What was here was pruned; the head is otherwise as it was.
    Tombstone {
        /// Hash of the entry that was here.
        was: Hash,
    },
}

/// Frames of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The segment's first log byte.
    pub base: LogByte,
    /// The segment's first offset.
    pub base_offset: Offset,
    /// The segment's epoch.
    pub epoch: Epoch,
    /// Log byte of the first frame.
    pub from: LogByte,
    /// Log byte behind the last frame.
    pub to: LogByte,
    /// Offset of the first record behind the last frame.
    pub to_offset: Offset,
    /// Of the last frame.
    pub fingerprint: Fingerprint,
}

impl Tail {
    /// Whether it starts its segment, and so carries the header page.
    pub fn starts(&self) -> bool {
        self.from == self.base
    }

    /// Bytes of its payload.
    pub fn payload_bytes(&self) -> Option<u64> {
        let frames = self.to.0.checked_sub(self.from.0)?;
        frames.checked_add(if self.starts() { crate::segment::HEADER_BYTES } else { 0 })
    }
}

/// A sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Log byte of its first frame.
    pub base: LogByte,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Its epoch.
    pub epoch: Epoch,
    /// Log byte behind its SEAL frame.
    pub end: LogByte,
    /// Offset behind its last record.
    pub end_offset: Offset,
    /// Of its last frame before SEAL.
    pub fingerprint: Fingerprint,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Hash of the whole file: its name.
    pub hash: Hash,
    /// The hash in its footer.
    pub seal: Hash,
}

impl Sealed {
    /// The object that holds it.
    pub fn name(&self) -> ObjectName {
        ObjectName::Data(self.base, self.hash)
    }
}

/// A snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRef {
    /// Where it stands; its name.
    pub name: SnapshotName,
    /// The log byte there.
    pub log_byte: LogByte,
    /// Bytes of its runs.
    pub bytes: u64,
    /// Hash of its manifest.
    pub manifest: Hash,
}

impl What {
    fn kind(&self) -> u32 {
        match self {
            What::Fence { .. } => 1,
            What::Tail(_) => 2,
            What::Segment(_) => 3,
            What::Snapshot(_) => 4,
            What::Rollup => 5,
            What::Tombstone { .. } => 6,
        }
    }

    /// The word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            What::Fence { .. } => "fence",
            What::Tail(_) => "tail",
            What::Segment(_) => "segment",
            What::Snapshot(_) => "snapshot",
            What::Rollup => "rollup",
            What::Tombstone { .. } => "tombstone",
        }
    }
}

impl EntryHead {
    /// The object that holds it.
    pub fn name(&self) -> ObjectName {
        ObjectName::Log(self.n)
    }

    /// The hash that the next entry names: of the head, or, of a tombstone, of what was there.
    pub fn hash(&self) -> Hash {
        match self.what {
            What::Tombstone { was } => was,
            _ => Hash::of(&self.encode()),
        }
    }

    /// The tombstone that takes its place.
    #[must_use]
    pub fn tombstone(&self) -> Self {
        EntryHead {
            payload_bytes: 0,
            payload_hash: Hash([0; 32]),
            what: What::Tombstone { was: self.hash() },
            ..self.clone()
        }
    }

    /// The whole object; the payload's length and hash are set here.
    pub fn with_payload(mut self, payload: &[u8]) -> (Self, Vec<u8>) {
        self.payload_bytes = payload.len() as u64;
        self.payload_hash = payload_hash(payload);
        let mut bytes = self.encode().to_vec();
        bytes.extend_from_slice(payload);
        (self, bytes)
    }

    /// The head's bytes.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut b = [0; HEAD_BYTES];
        b[..8].copy_from_slice(MAGIC);
        LE::write_u32(&mut b[8..], ENTRY_VERSION);
        LE::write_u32(&mut b[12..], self.what.kind());
        b[16..32].copy_from_slice(&self.log.0);
        LE::write_u64(&mut b[32..], self.n);
        LE::write_u64(&mut b[40..], self.rollup);
        b[48..80].copy_from_slice(&self.previous.0);
        LE::write_u64(&mut b[80..], self.epoch.number);
        LE::write_u64(&mut b[88..], self.epoch.nonce);
        b[96..112].copy_from_slice(&self.node.0);
        b[112..128].copy_from_slice(&self.put_id.0);
        LE::write_i64(&mut b[128..], self.time);
        LE::write_u64(&mut b[136..], self.payload_bytes);
        b[144..176].copy_from_slice(&self.payload_hash.0);
        let mut put = Put { bytes: &mut b[FIELDS_AT..CRC_AT], at: 0 };
        match &self.what {
            What::Fence { parent, fork, fork_offset } => {
                put.epoch(*parent).number(fork.0).number(fork_offset.0);
            }
            What::Tail(tail) => put.tail(tail),
            What::Segment(sealed) => put.sealed(sealed),
            What::Snapshot(snapshot) => put.snapshot(snapshot),
            What::Rollup => {}
            What::Tombstone { was } => put.hash(*was),
        }
        let crc = crc::crc32c(&b[..CRC_AT]);
        LE::write_u32(&mut b[CRC_AT..], crc);
        b
    }

    /// Reads a head back from the front of an object. Errors say what was expected; the caller
    /// adds the name.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |what: String| Error::new(Kind::Corrupt, what).at_byte(0);
        let Some(b) = bytes.first_chunk::<HEAD_BYTES>() else {
            return Err(corrupt(format!(
                "expected an entry of at least {HEAD_BYTES} bytes, found {}",
                bytes.len()
            )));
        };
        if &b[..8] != MAGIC {
            return Err(corrupt("expected an archive's entry, found something else".into()));
        }
        if crc::crc32c(&b[..CRC_AT]) != LE::read_u32(&b[CRC_AT..]) {
            return Err(corrupt("the checksum of the entry's head does not hold".into()));
        }
        let (version, kind) = (LE::read_u32(&b[8..]), LE::read_u32(&b[12..]));
        if version != ENTRY_VERSION || !(1..=6).contains(&kind) {
            return Err(Error::new(
                Kind::NewerVersion,
                format!("expected an entry of version {ENTRY_VERSION}, found version {version}, kind {kind}"),
            )
            .help("use a tidelog that knows this format"));
        }
        let mut take = Take { bytes: &b[FIELDS_AT..CRC_AT], at: 0 };
        let what = match kind {
            1 => What::Fence {
                parent: take.epoch(),
                fork: LogByte(take.number()),
                fork_offset: Offset(take.number()),
            },
            2 => What::Tail(take.tail()),
            3 => What::Segment(take.sealed()),
            4 => What::Snapshot(take.snapshot()),
            5 => What::Rollup,
            _ => What::Tombstone { was: take.hash() },
        };
        let mut head = Take { bytes: b, at: 16 };
        let head = EntryHead {
            log: head.id(),
            n: head.number(),
            rollup: head.number(),
            previous: head.hash(),
            epoch: head.epoch(),
            node: head.id(),
            put_id: head.id(),
            time: head.number().cast_signed(),
            payload_bytes: head.number(),
            payload_hash: head.hash(),
            what,
        };
        head.check().map_err(|what| corrupt(what.to_owned()))?;
        if head.encode() != *b {
            return Err(corrupt("expected zeros between the fields of an entry".into()));
        }
        Ok(head)
    }

    /// What no checksum proves: that the fields fit each other.
    fn check(&self) -> std::result::Result<(), &'static str> {
        let fits = match &self.what {
            What::Tail(tail) => {
                tail.base <= tail.from
                    && tail.from < tail.to
                    && tail.base_offset <= tail.to_offset
                    && tail.payload_bytes() == Some(self.payload_bytes)
            }
            What::Segment(sealed) => {
                sealed.base < sealed.end
                    && sealed.base_offset <= sealed.end_offset
                    && sealed.file_bytes > sealed.end.0 - sealed.base.0
                    && self.payload_bytes == 0
            }
            What::Rollup => self.payload_bytes > 0,
            _ => self.payload_bytes == 0,
        };
        if !fits || self.payload_bytes > MAX_PAYLOAD_BYTES {
            return Err("expected an entry whose fields fit each other");
        }
        if (self.payload_bytes == 0) != (self.payload_hash == Hash([0; 32])) {
            return Err("expected a hash of the payload exactly if there is one");
        }
        if self.n == 0 || self.rollup >= self.n {
            return Err("expected an entry behind the rollup that it names");
        }
        if (self.n == 1) != (self.previous == Hash([0; 32])) {
            return Err("expected the hash of the entry before");
        }
        Ok(())
    }

    /// Holds a payload against the head.
    pub fn check_payload(&self, payload: &[u8]) -> Result<()> {
        let len = payload.len() as u64;
        if len != self.payload_bytes || payload_hash(payload) != self.payload_hash {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "expected a payload of {} bytes whose hash the head holds, found {len} other ones",
                    self.payload_bytes
                ),
            )
            .at_byte(HEAD_BYTES as u64));
        }
        Ok(())
    }
}

fn payload_hash(payload: &[u8]) -> Hash {
    if payload.is_empty() { Hash([0; 32]) } else { Hash::of(payload) }
}

/// Writes fields one behind the other.
pub(super) struct Put<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) at: usize,
}

impl Put<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    pub(super) fn number(&mut self, n: u64) -> &mut Self {
        self.raw(&n.to_le_bytes());
        self
    }

    pub(super) fn epoch(&mut self, epoch: Epoch) -> &mut Self {
        self.number(epoch.number).number(epoch.nonce)
    }

    pub(super) fn hash(&mut self, hash: Hash) {
        self.raw(&hash.0);
    }

    pub(super) fn id(&mut self, id: Id) {
        self.raw(&id.0);
    }

    fn fingerprint(&mut self, fingerprint: Fingerprint) {
        self.raw(&fingerprint.head_crc.to_le_bytes());
        self.raw(&fingerprint.body_crc.to_le_bytes());
    }

    pub(super) fn tail(&mut self, tail: &Tail) {
        self.number(tail.base.0).number(tail.base_offset.0).epoch(tail.epoch);
        self.number(tail.from.0).number(tail.to.0).number(tail.to_offset.0);
        self.fingerprint(tail.fingerprint);
    }

    pub(super) fn sealed(&mut self, sealed: &Sealed) {
        self.number(sealed.base.0).number(sealed.base_offset.0).epoch(sealed.epoch);
        self.number(sealed.end.0).number(sealed.end_offset.0);
        self.fingerprint(sealed.fingerprint);
        self.number(sealed.file_bytes);
        self.hash(sealed.hash);
        self.hash(sealed.seal);
    }

    pub(super) fn snapshot(&mut self, snapshot: &SnapshotRef) {
        self.number(snapshot.name.offset.0).epoch(snapshot.name.epoch);
        self.number(snapshot.log_byte.0).number(snapshot.bytes);
        self.hash(snapshot.manifest);
    }
}

/// Reads fields one behind the other, of bytes that are known to hold them.
pub(super) struct Take<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl Take<'_> {
    fn raw<const N: usize>(&mut self) -> [u8; N] {
        let mut raw = [0; N];
        raw.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        raw
    }

    pub(super) fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.raw())
    }

    pub(super) fn epoch(&mut self) -> Epoch {
        Epoch { number: self.number(), nonce: self.number() }
    }

    pub(super) fn hash(&mut self) -> Hash {
        Hash(self.raw())
    }

    pub(super) fn id(&mut self) -> Id {
        Id(self.raw())
    }

    fn fingerprint(&mut self) -> Fingerprint {
        Fingerprint {
            head_crc: u32::from_le_bytes(self.raw()),
            body_crc: u32::from_le_bytes(self.raw()),
        }
    }

    pub(super) fn tail(&mut self) -> Tail {
        Tail {
            base: LogByte(self.number()),
            base_offset: Offset(self.number()),
            epoch: self.epoch(),
            from: LogByte(self.number()),
            to: LogByte(self.number()),
            to_offset: Offset(self.number()),
            fingerprint: self.fingerprint(),
        }
    }

    pub(super) fn sealed(&mut self) -> Sealed {
        Sealed {
            base: LogByte(self.number()),
            base_offset: Offset(self.number()),
            epoch: self.epoch(),
            end: LogByte(self.number()),
            end_offset: Offset(self.number()),
            fingerprint: self.fingerprint(),
            file_bytes: self.number(),
            hash: self.hash(),
            seal: self.hash(),
        }
    }

    pub(super) fn snapshot(&mut self) -> SnapshotRef {
        SnapshotRef {
            name: SnapshotName { offset: Offset(self.number()), epoch: self.epoch() },
            log_byte: LogByte(self.number()),
            bytes: self.number(),
            manifest: self.hash(),
        }
    }
}
