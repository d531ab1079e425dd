//! The fetch: what a follower and the node it pulls from say to each other, as bytes.
//!
//! Used by the HTTP source and by the server; uses `position` alone. `docs/FORMAT.md` has the
//! same layout in words.
//!
//! ```text
//! request   JSON, at most 64 KiB
//! reply     0 magic "TIDFETCH"   8 u32 version   12 u32 head bytes   16 u64 part bytes
//!          24 u32 crc32c of the parts   28 u32 crc32c of bytes 0..28 and the head
//!          32 head (JSON) | parts, one behind the other as the head lists them
//! ```
//!
//! Invariants:
//! - lengths are held against limits before anything is allocated, and both checksums before
//!   anything is believed: what a network altered is refused as a whole;
//! - a version that is not this one is refused with both numbers.

use serde::{Deserialize, Serialize};

use crate::crc::{crc32c, joined};
use crate::error::{Error, Kind, Result};
use crate::position::{Epoch, Fingerprint, Id, LogByte, Offset, Position};

use super::report::{LastFrame, Report};

/// What both sides must speak.
pub const PROTOCOL_VERSION: u32 = 1;
/// A request is at most this large.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;
/// The head of a reply is at most this large.
pub const MAX_HEAD_BYTES: usize = 1 << 20;
/// The parts of a reply are together at most this large.
pub const MAX_PART_BYTES: usize = 8 << 20;
/// A reply names at most this many segments; `GET /v1/segments` names the others.
pub const MAX_SEGMENTS: usize = 4096;
/// A source is pulled from over at most this many nodes.
pub const MAX_UPSTREAM: usize = 16;
/// Bytes before the head.
pub const PREFIX_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"TIDFETCH";

/// What a follower sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// What people call it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its address, if it serves others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// How far it is.
    #[serde(flatten)]
    pub report: WireReport,
    /// Answer only when there is more, or after this time.
    #[serde(default)]
    pub wait_ms: u64,
    /// At most so many bytes of parts; 0 for none.
    #[serde(default)]
    pub part_bytes: u64,
}

/// A [`Report`] in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireReport {
    log: Option<String>,
    node: Option<String>,
    promise: Option<WireEpoch>,
    received: WirePosition,
    durable: WirePosition,
    applied: WirePosition,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    committed: Option<LogByteNumber>,
    last: Option<WireFrame>,
    #[serde(default)]
    unclean: bool,
}

/// An epoch in JSON; the nonce needs more bits than many readers of JSON keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireEpoch {
    number: u64,
    nonce: String,
}

/// A position in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WirePosition {
    #[serde(flatten)]
    epoch: WireEpoch,
    log_byte: u64,
    offset: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WireFrame {
    growing: Option<u64>,
    start: u64,
    fingerprint: String,
}

/// The head of a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The log.
    pub log: String,
    /// The node that answers.
    pub node: String,
    /// What people call it.
    pub name: String,
    /// The nodes it pulls from, directly or not.
    #[serde(default)]
    pub upstream: Vec<String>,
    /// The leader's address, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The newest epoch of its history.
    pub epoch: WireEpoch,
    /// The leader's time, in nanoseconds since the Unix epoch.
    pub time: i64,
    /// How old what it shows may be, in milliseconds: 0 at a leader, absent when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_ms: Option<u64>,
    /// What is committed: shown to readers.
    pub committed: WireEnd,
    /// What is durable: may be copied.
    pub durable: WireEnd,
    /// Where the log begins.
    pub floor: WireEnd,
    /// The hash in the footer of the segment that ended there, in hexadecimal, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_seal: Option<String>,
    /// What retention holds for this follower.
    pub slot: String,
    /// What the answer is.
    #[serde(flatten)]
    pub answer: Answer,
    /// The bytes that follow, in their order.
    #[serde(default)]
    pub parts: Vec<Part>,
}

/// An end of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireEnd {
    /// In bytes of frames.
    pub log_byte: LogByteNumber,
    /// In records.
    pub offset: u64,
}

/// A log byte in JSON.
pub type LogByteNumber = u64;

/// What a fetch comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Here is what there is.
    Offer {
        /// Segments, by log byte, from the one the follower ends in; rising.
        segments: Vec<u64>,
        /// Whether there are more of them than were named.
        more: bool,
        /// Of the segment that the follower's copy ends in: whether it is sealed.
        growing_sealed: bool,
        /// Segments that a repair replaced: the old seal hash and the new.
        #[serde(default)]
        repairs: Vec<(String, String)>,
    },
    /// The follower's last frame is another one here.
    Diverged {
        /// The newest epoch at or below the follower's that both may share.
        shared: WireEpoch,
        /// Where that epoch ends here.
        end: WireEnd,
    },
    /// What the follower needs next was dropped.
    Gone,
    /// The follower is bound to a later epoch than this node knows.
    NotLeader,
}

/// Bytes of a segment's file that come with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The segment, by log byte.
    pub segment: u64,
    /// Where in the file they start.
    pub byte: u64,
    /// How many.
    pub bytes: u64,
    /// How long the file is, for a part that ends with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
}

impl Request {
    /// The request's bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain values")
    }

    /// Reads a request, and the report in it.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Report)> {
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(invalid(format!(
                "expected a fetch of at most {MAX_REQUEST_BYTES} bytes, found {}",
                bytes.len()
            )));
        }
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let bad = |e: serde_json::Error| invalid(format!("expected a fetch in JSON: {e}"));
        // A later version may say everything else otherwise.
        let Version { version } = serde_json::from_slice(bytes).map_err(bad)?;
        check_version(version)?;
        let request: Request = serde_json::from_slice(bytes).map_err(bad)?;
        if request.name.len() > 200 || request.name.chars().any(char::is_control) {
            return Err(invalid("expected a name of at most 200 bytes without control characters"));
        }
        if request.address.as_ref().is_some_and(|address| address.len() > 500) {
            return Err(invalid("expected an address of at most 500 bytes"));
        }
        let report =
            request.report.read().ok_or_else(|| invalid("expected ids and epochs in hex"))?;
        Ok((request, report))
    }
}

impl From<&Report> for WireReport {
    fn from(report: &Report) -> Self {
        WireReport {
            log: report.log.map(|id| id.to_string()),
            node: report.node.map(|id| id.to_string()),
            promise: report.promise.map(WireEpoch::from),
            received: report.received.into(),
            durable: report.durable.into(),
            applied: report.applied.into(),
            committed: report.committed.map(|end| end.0),
            last: report.last.map(|last| WireFrame {
                growing: last.growing.map(|base| base.0),
                start: last.start.0,
                fingerprint: last.fingerprint.to_string(),
            }),
            unclean: report.unclean,
        }
    }
}

impl WireReport {
    /// The report; `None` unless ids and epochs are as they are written.
    pub fn read(&self) -> Option<Report> {
        let id = |text: &Option<String>| -> Option<Option<Id>> {
            text.as_ref().map(|text| text.parse().ok()).map_or(Some(None), |id| id.map(Some))
        };
        let last = match &self.last {
            None => None,
            Some(last) => Some(LastFrame {
                growing: last.growing.map(LogByte),
                start: LogByte(last.start),
                fingerprint: last.fingerprint.parse::<Fingerprint>().ok()?,
            }),
        };
        let promise = match &self.promise {
            None => None,
            Some(promise) => Some(promise.read()?),
        };
        Some(Report {
            log: id(&self.log)?,
            node: id(&self.node)?,
            promise,
            received: self.received.read()?,
            durable: self.durable.read()?,
            applied: self.applied.read()?,
            committed: self.committed.map(LogByte),
            last,
            unclean: self.unclean,
        })
    }
}

impl From<Epoch> for WireEpoch {
    fn from(epoch: Epoch) -> Self {
        WireEpoch { number: epoch.number, nonce: format!("{:016x}", epoch.nonce) }
    }
}

impl WireEpoch {
    /// The epoch; `None` when the nonce is no 16 hex digits, or the number is so high that hardly any are left above it.
    pub fn read(&self) -> Option<Epoch> {
        if self.nonce.len() != 16 || !self.nonce.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let nonce = u64::from_str_radix(&self.nonce, 16).ok()?;
        (self.number <= u64::MAX / 2).then_some(Epoch { number: self.number, nonce })
    }
}

impl From<Position> for WirePosition {
    fn from(at: Position) -> Self {
        WirePosition { epoch: at.epoch.into(), log_byte: at.log_byte.0, offset: at.offset.0 }
    }
}

impl WirePosition {
    fn read(&self) -> Option<Position> {
        let (log_byte, offset) = (LogByte(self.log_byte), Offset(self.offset));
        Some(Position { epoch: self.epoch.read()?, log_byte, offset })
    }
}

impl WireEnd {
    /// An end.
    pub fn new(log_byte: LogByte, offset: Offset) -> Self {
        WireEnd { log_byte: log_byte.0, offset: offset.0 }
    }
}

/// The prefix and head of a reply, for parts with this checksum.
pub fn encode_head(head: &Head, parts_crc: u32) -> Vec<u8> {
    let json = serde_json::to_vec(head).expect("plain values");
    let part_bytes: u64 = head.parts.iter().map(|part| part.bytes).sum();
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + json.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    let head_bytes = u32::try_from(json.len()).expect("segments and parts are counted");
    bytes.extend_from_slice(&head_bytes.to_le_bytes());
    bytes.extend_from_slice(&part_bytes.to_le_bytes());
    bytes.extend_from_slice(&parts_crc.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&json);
    let crc = head_crc(&bytes);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Of bytes 0..28 and of the head behind the prefix.
fn head_crc(bytes: &[u8]) -> u32 {
    joined(&[&bytes[..28], &bytes[PREFIX_BYTES..]])
}

/// Reads a whole reply; returns its head and its parts' bytes.
pub fn decode_reply(bytes: &[u8]) -> Result<(Head, &[u8])> {
    let lied = |what: &str| {
        Error::new(Kind::Io, format!("expected the reply to a fetch, found {what}"))
            .help("it is asked for again; if this stays, look at what is between the two nodes")
    };
    let Some(prefix) = bytes.get(..PREFIX_BYTES) else { return Err(lied("one that is cut off")) };
    if &prefix[..8] != MAGIC {
        return Err(lied("something else"));
    }
    let number = |at: usize| u32::from_le_bytes(prefix[at..at + 4].try_into().expect("four bytes"));
    check_version(number(8)).map_err(|e| e.with_kind(Kind::Io))?;
    let head_bytes = usize::try_from(number(12)).unwrap_or(usize::MAX);
    let part_bytes = u64::from_le_bytes(prefix[16..24].try_into().expect("eight bytes"));
    if head_bytes > MAX_HEAD_BYTES || part_bytes > MAX_PART_BYTES as u64 {
        return Err(lied("one beyond the limits"));
    }
    let rest = &bytes[PREFIX_BYTES..];
    if rest.len() as u64 != head_bytes as u64 + part_bytes {
        return Err(lied("one of another length than it says"));
    }
    let (json, parts) = rest.split_at(head_bytes);
    if head_crc(&bytes[..PREFIX_BYTES + head_bytes]) != number(28) {
        return Err(lied("a head whose checksum does not hold"));
    }
    if crc32c(parts) != number(24) {
        return Err(lied("frames whose checksum does not hold"));
    }
    let head: Head = serde_json::from_slice(json)
        .map_err(|e| lied(&format!("a head that cannot be read: {e}")))?;
    check_head(&head, part_bytes).ok_or_else(|| lied("a head that contradicts itself"))?;
    Ok((head, parts))
}

fn check_head(head: &Head, part_bytes: u64) -> Option<()> {
    let mut sum = 0u64;
    for part in &head.parts {
        sum = sum.checked_add(part.bytes)?;
        let end = part.byte.checked_add(part.bytes)?;
        if part.file_bytes.is_some_and(|bytes| bytes != end) {
            return None;
        }
    }
    if let Answer::Offer { segments, .. } = &head.answer
        && (segments.len() > MAX_SEGMENTS || !segments.is_sorted_by(|a, b| a < b))
    {
        return None;
    }
    (sum == part_bytes && head.upstream.len() <= MAX_UPSTREAM).then_some(())
}

fn check_version(version: u32) -> Result<()> {
    if version == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(Error::new(
        Kind::NewerVersion,
        format!("expected version {PROTOCOL_VERSION} of the fetch protocol, found {version}"),
    )
    .help("run the same version of tidelog on both nodes"))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, message)
}

#[cfg(test)]
mod tests;
