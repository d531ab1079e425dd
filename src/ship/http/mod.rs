//! A node as a source: pulling over HTTP, from a leader or from a follower that serves.
//!
//! Called by `replica`; speaks `protocol` through the [`Client`]. A look is a fetch, and the fetch
//! acknowledges what is durable here. Frames behind the follower's end come inside the answer; the
//! rest, whole segments, by ranges, block by block. Waiting is a fetch that the other side answers
//! when there is more.
//!
//! Invariants:
//! - what arrives is held against its checksum and length before it is handed on, and `replica`
//!   checks every frame again;
//! - memory is bounded: one answer and one block;
//! - what fails is an error that may pass, and the next block is smaller: a bad link still gets on.

mod client;
mod throttle;

pub use client::{Client, Credentials, Reply};

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::crc::crc32c;
use crate::error::{Error, Kind, Result};
use crate::log::files::Repaired;
use crate::position::{Id, LogByte, Offset};
use crate::segment::{FOOTER_BYTES, Footer, HEADER_BYTES, SegmentHeader, SegmentName};

use super::protocol::{self, Answer, Head, PROTOCOL_VERSION, Request, WireReport};
use super::{Offer, Report, Shipped, Source};
use throttle::Throttle;

/// How long the other side keeps a fetch that has nothing to say.
const POLL: Duration = Duration::from_secs(1);
/// Bytes of a segment asked for at a time, and the least after failures.
const BLOCK_BYTES: u64 = 4 << 20;
const LEAST_BLOCK_BYTES: u64 = 64 << 10;
/// A source that cannot be reached is tried again after this, then twice that, and so on.
const BACK_OFF: Duration = Duration::from_millis(100);
const MOST_BACK_OFF: Duration = Duration::from_secs(2);
/// A log of more segments than this is no log of ours.
const MOST_SEGMENTS: usize = 4 << 20;

/// Pulls from a node that serves over HTTP.
///
/// ```no_run
/// use tidelog::{Follower, Log, ship};
/// # fn main() -> tidelog::Result<()> {
/// let source = ship::Http::open("http://127.0.0.1:7400", ship::Credentials::default())?;
/// let mut follower = Follower::open(Log::options(), "copy", source)?;
/// follower.catch_up()?;
/// # follower.close()
/// # }
/// ```
#[derive(Debug)]
pub struct Http {
    client: Client,
    name: String,
    address: Option<String>,
    packed: bool,
    throttle: Throttle,
    /// What came with the last answer, and the block that was asked for last.
    pieces: Vec<Piece>,
    ahead: Option<Piece>,
    /// The header page of the segment that grows here: it never changes.
    page: Option<(SegmentName, Vec<u8>)>,
    /// The segment that the follower's copy ends in, when the other side has not sealed it.
    growing: Option<SegmentName>,
    /// The report of the last fetch, and an answer that nobody has looked at yet.
    asked: Option<Report>,
    waiting: Option<(Report, Heard)>,
    block: u64,
    failures: u32,
}

/// An answer, and when it came.
type Heard = (Head, Instant);

/// Bytes of a segment's file.
#[derive(Debug)]
struct Piece {
    segment: SegmentName,
    byte: u64,
    bytes: Vec<u8>,
    /// How long the file is, if the piece is its end.
    file_bytes: Option<u64>,
}

impl Piece {
    /// What it has from `byte` on.
    fn from(&self, segment: SegmentName, byte: u64) -> Option<&[u8]> {
        let skip = byte.checked_sub(self.byte).filter(|_| self.segment == segment)?;
        let rest = self.bytes.get(usize::try_from(skip).ok()?..)?;
        (!rest.is_empty()).then_some(rest)
    }
}

/// A file as a range of it was answered.
struct Range {
    bytes: Vec<u8>,
    /// How long the file is, as far as it may be read.
    total: u64,
    sealed: bool,
}

impl Http {
    /// The node at `url`, such as `http://127.0.0.1:7400`. Nothing is asked yet.
    pub fn open(url: &str, credentials: Credentials) -> Result<Self> {
        let client = Client::new(url, credentials)?;
        Ok(Http {
            // On one machine bytes are cheaper than the work of packing them.
            packed: !client.is_loopback(),
            client,
            name: String::new(),
            address: None,
            throttle: Throttle::default(),
            pieces: Vec::new(),
            ahead: None,
            page: None,
            growing: None,
            asked: None,
            waiting: None,
            block: BLOCK_BYTES,
            failures: 0,
        })
    }

    /// What people call the follower: the other side shows it.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Where the follower serves others, if it does.
    #[must_use]
    pub fn address(mut self, address: Option<String>) -> Self {
        self.address = address;
        self
    }

    /// Takes at most so many bytes per second. Default: no limit.
    #[must_use]
    pub fn limit_bytes_per_s(mut self, limit: Option<u64>) -> Self {
        self.throttle.limit(limit);
        self
    }

    /// Waits no longer once `stop` says so, and breaks off the answer that it is reading, with an
    /// error that may pass: with a small limit that answer takes long. It is asked every 50 ms while
    /// something is waited for.
    #[must_use]
    pub fn stop_when(mut self, stop: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.throttle.stop_when(stop);
        self
    }

    /// Whether frames are compressed on their way. Default: unless the node is on this machine.
    #[must_use]
    pub fn packed(mut self, packed: bool) -> Self {
        self.packed = packed;
        self
    }

    /// Asks, and keeps what comes along.
    fn fetch(&mut self, report: &Report, wait: Duration) -> Result<Heard> {
        self.pieces.clear();
        let fetched = self.try_fetch(report, wait);
        self.note(fetched.is_ok());
        fetched
    }

    fn try_fetch(&mut self, report: &Report, wait: Duration) -> Result<Heard> {
        let request = Request {
            version: PROTOCOL_VERSION,
            name: self.name.clone(),
            address: self.address.clone(),
            report: WireReport::from(report),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            part_bytes: self.block(),
        };
        let mut headers = vec![("content-type", "application/json")];
        if self.packed {
            headers.push(("accept-encoding", "zstd"));
        }
        let reply = self.client.post("/v1/fetch", &headers, &request.encode(), wait)?;
        // The answer was made before its first byte came; the rest may take long.
        let answered = Instant::now();
        // A peer that speaks a later version may be replaced by one that does not.
        let reply = reply.ok().map_err(|e| match e.kind() {
            Kind::NewerVersion => e.with_kind(Kind::Io),
            _ => e,
        })?;
        let limit = protocol::PREFIX_BYTES + protocol::MAX_HEAD_BYTES + protocol::MAX_PART_BYTES;
        let packed = reply.header("content-encoding") == Some("zstd");
        let bytes = self.body(reply, packed, limit)?;
        let (head, mut rest) = protocol::decode_reply(&bytes)?;
        for part in &head.parts {
            let (bytes, behind) = rest.split_at(usize::try_from(part.bytes).unwrap_or(usize::MAX));
            rest = behind;
            self.pieces.push(Piece {
                segment: SegmentName(LogByte(part.segment)),
                byte: part.byte,
                bytes: bytes.to_vec(),
                file_bytes: part.file_bytes,
            });
        }
        Ok((head, answered))
    }

    /// A body, unpacked, at most `limit` bytes of it; never faster than allowed.
    fn body(&mut self, reply: Reply, packed: bool, limit: usize) -> Result<Vec<u8>> {
        let place = self.client.url().to_owned();
        let step = self.throttle.step();
        let paced = Paced { reader: reply.reader(), throttle: &mut self.throttle, step };
        let broke = |e: std::io::Error| client::cut(&place, &e);
        let mut bytes = Vec::new();
        let read = match packed {
            false => paced.take(limit as u64 + 1).read_to_end(&mut bytes),
            true => {
                let mut decoder = zstd::stream::read::Decoder::new(paced).map_err(broke)?;
                decoder.window_log_max(23).map_err(broke)?;
                decoder.take(limit as u64 + 1).read_to_end(&mut bytes)
            }
        };
        read.map_err(broke)?;
        if bytes.len() > limit {
            return Err(Error::new(
                Kind::Io,
                format!("expected at most {limit} bytes from {place}, found more"),
            ));
        }
        Ok(bytes)
    }

    /// Bytes of a segment's file, fewer when it ends; `None` when nothing of it is there yet.
    fn range(&mut self, segment: SegmentName, byte: u64, bytes: u64) -> Result<Option<Range>> {
        let ranged = self.try_range(segment, byte, bytes);
        self.note(ranged.is_ok());
        ranged
    }

    fn try_range(&mut self, segment: SegmentName, byte: u64, bytes: u64) -> Result<Option<Range>> {
        let last = byte.saturating_add(bytes) - 1;
        let base = segment.0;
        let reply = match self.packed {
            true => {
                let path = format!("/v1/segments/{base}?from={byte}&bytes={bytes}&packed=zstd");
                self.client.get(&path, &[], Duration::ZERO)?
            }
            false => {
                let range = format!("bytes={byte}-{last}");
                let path = format!("/v1/segments/{base}");
                self.client.get(&path, &[("range", &range)], Duration::ZERO)?
            }
        };
        if reply.status == 416 {
            return Ok(None);
        }
        let reply = reply.ok()?;
        let lied = |what: &str| {
            Error::new(Kind::Io, format!("expected bytes {byte} to {last}, found {what}"))
                .in_file(&self.file(segment))
                .help("it is asked for again; if this stays, look at what is between the two nodes")
        };
        let number = |name: &str| reply.header(name).and_then(|text| text.parse::<u64>().ok());
        let crc =
            reply.header("x-tidelog-crc32c").and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let (Some(crc), Some(total)) = (crc, number("x-tidelog-file-bytes")) else {
            return Err(lied("an answer without checksum and length"));
        };
        let sealed = reply.header("x-tidelog-sealed") == Some("true");
        let expected = bytes.min(total.saturating_sub(byte));
        let limit = usize::try_from(expected).unwrap_or(usize::MAX);
        let packed = self.packed;
        let body = self.body(reply, packed, limit)?;
        let lied = |what: &str| {
            Error::new(Kind::Io, format!("expected bytes {byte} to {last}, found {what}"))
                .in_file(&self.file(segment))
        };
        if body.len() as u64 != expected {
            return Err(lied("another number of bytes"));
        }
        if crc32c(&body) != crc {
            return Err(lied("bytes whose checksum does not hold"));
        }
        Ok(Some(Range { bytes: body, total, sealed }))
    }

    /// How much to ask for.
    fn block(&self) -> u64 {
        self.block.min(self.throttle.block(LEAST_BLOCK_BYTES, BLOCK_BYTES))
    }

    /// Learns from what a request came to.
    fn note(&mut self, went_well: bool) {
        if went_well {
            self.failures = 0;
            self.block = (self.block * 2).min(BLOCK_BYTES);
        } else {
            self.failures = self.failures.saturating_add(1);
            self.block = (self.block / 4).max(LEAST_BLOCK_BYTES);
        }
    }

    fn offer(&mut self, (head, answered): Heard, report: &Report) -> Result<Offer> {
        let lied = |what: &str| {
            let place = self.client.url();
            Error::new(Kind::Io, format!("expected {what} from {place}, found something else"))
        };
        let id = |text: &str| text.parse::<Id>().map_err(|()| lied("ids"));
        let mut offer = Offer {
            log: id(&head.log)?,
            node: Some(id(&head.node)?),
            upstream: head.upstream.iter().map(|text| id(text)).collect::<Result<_>>()?,
            leader: head.leader,
            time: Some(head.time),
            answered: Some(answered),
            stale: head.stale_ms.map(Duration::from_millis),
            epoch: head.epoch.read().ok_or_else(|| lied("an epoch"))?,
            floor: LogByte(head.floor.log_byte),
            floor_offset: Offset(head.floor.offset),
            durable: LogByte(head.durable.log_byte),
            durable_offset: Offset(head.durable.offset),
            committed: LogByte(head.committed.log_byte),
            committed_offset: Offset(head.committed.offset),
            segments: Vec::new(),
            repairs: Vec::new(),
        };
        self.growing = None;
        match head.answer {
            Answer::Offer { segments, more, growing_sealed, repairs } => {
                if !growing_sealed {
                    let growing = report.last.and_then(|last| last.growing);
                    self.growing = growing.map(SegmentName);
                }
                offer.repairs =
                    repairs.into_iter().map(|(old, new)| Repaired { old, new }).collect();
                offer.segments =
                    segments.into_iter().map(|base| SegmentName(LogByte(base))).collect();
                if more {
                    self.other_segments(&mut offer.segments)?;
                }
                Ok(offer)
            }
            // Its floor says it, and how to go on.
            Answer::Gone => Ok(offer),
            Answer::Diverged { shared, end } => Err(Error::new(
                Kind::NotInHistory,
                format!(
                    "this copy's last frame is another one at {}: the two histories differ behind \
                     epoch {}, which ends there at offset {}",
                    self.client.url(),
                    shared.read().unwrap_or_default().number,
                    end.offset
                ),
            )
            .at_offset(report.durable.offset.0)
            .help(
                "nothing was changed. If the source was restored from an older copy, this \
                 directory holds what it lost; to follow the source as it is, use a new directory",
            )),
            Answer::NotLeader => Err(Error::new(
                Kind::NotLeader,
                format!(
                    "expected {} to know epoch {}, found it in epoch {}",
                    self.client.url(),
                    report.promise.unwrap_or_default(),
                    offer.epoch
                ),
            )
            .help("follow the leader of the newer epoch; this one was replaced")),
        }
    }

    /// Asks for the names of segments that an answer had no room for.
    fn other_segments(&self, segments: &mut Vec<SegmentName>) -> Result<()> {
        #[derive(Deserialize)]
        struct Listed {
            log_byte: u64,
        }
        #[derive(Deserialize)]
        struct Page {
            segments: Vec<Listed>,
            more: bool,
        }
        loop {
            let from = segments.last().map_or(0, |last| last.0.0.saturating_add(1));
            let path = format!("/v1/segments?from={from}&limit=10000");
            let page: Page = self.client.get(&path, &[], Duration::ZERO)?.ok()?.json()?;
            for listed in &page.segments {
                let name = SegmentName(LogByte(listed.log_byte));
                if segments.last().is_some_and(|last| *last >= name) {
                    return Err(Error::new(
                        Kind::Io,
                        "expected segments in order, found them mixed",
                    ));
                }
                segments.push(name);
            }
            if !page.more {
                return Ok(());
            }
            if page.segments.is_empty() || segments.len() > MOST_SEGMENTS {
                return Err(Error::new(Kind::Io, "expected a list of segments that ends"));
            }
        }
    }

    /// What one request or the last answer has of a file from `byte` on.
    fn known(&self, segment: SegmentName, byte: u64) -> Option<&[u8]> {
        let mut pieces = self.ahead.iter().chain(&self.pieces);
        pieces.find_map(|piece| piece.from(segment, byte))
    }
}

impl Source for Http {
    fn place(&self) -> String {
        self.client.url().to_owned()
    }

    fn file(&self, segment: SegmentName) -> PathBuf {
        PathBuf::from(format!("{}/v1/segments/{}", self.client.url(), segment.0))
    }

    fn look(&mut self, report: &Report) -> Result<Offer> {
        self.ahead = None;
        self.asked = Some(report.clone());
        let heard = match self.waiting.take() {
            Some((asked, heard)) if asked == *report => heard,
            _ => self.fetch(report, Duration::ZERO)?,
        };
        self.offer(heard, report)
    }

    fn segment(&mut self, segment: SegmentName) -> Result<Shipped> {
        let path = self.file(segment);
        let whole = self.known(segment, 0).filter(|bytes| bytes.len() as u64 >= HEADER_BYTES);
        let kept = self.page.as_ref().filter(|(name, _)| *name == segment);
        let mut end = self.pieces.iter().find_map(|piece| {
            let bytes = piece.file_bytes.filter(|_| piece.segment == segment)?;
            Some((piece.bytes.last_chunk::<FOOTER_BYTES>().copied()?, bytes))
        });
        let (page, sealed) = match (whole, kept) {
            (Some(bytes), _) => (bytes[..page_bytes()].to_vec(), end.is_some()),
            (None, Some((_, page))) if self.growing == Some(segment) || end.is_some() => {
                (page.clone(), end.is_some())
            }
            _ => {
                let range = self.range(segment, 0, HEADER_BYTES)?;
                let range = range.ok_or_else(|| not_there(&path))?;
                let sealed = range.sealed;
                if sealed && end.is_none() {
                    let byte = range.total.saturating_sub(FOOTER_BYTES as u64);
                    let footer = self.range(segment, byte, FOOTER_BYTES as u64)?;
                    let footer = footer.ok_or_else(|| not_there(&path))?;
                    let bytes = footer.bytes.last_chunk::<FOOTER_BYTES>().copied();
                    end = Some((bytes.ok_or_else(|| not_there(&path))?, range.total));
                }
                (range.bytes, sealed)
            }
        };
        let header = SegmentHeader::decode(&page).map_err(|e| e.in_file(&path))?;
        let other = || {
            Error::new(Kind::Corrupt, "expected the header and footer of the segment asked for")
                .in_file(&path)
        };
        if header.base != segment.0 {
            return Err(other());
        }
        let footer = match end.filter(|_| sealed) {
            None => None,
            Some((bytes, file_bytes)) => {
                let footer = Footer::decode(&bytes, file_bytes).map_err(|e| e.in_file(&path))?;
                let footer = footer.ok_or_else(other)?;
                let said = SegmentHeader {
                    created: header.created,
                    previous: header.previous,
                    ..footer.header()
                };
                if said != header {
                    return Err(other());
                }
                Some(footer)
            }
        };
        self.page = Some((segment, page.clone()));
        Ok(Shipped { header, page, footer })
    }

    fn read(&mut self, segment: SegmentName, byte: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let at = byte.saturating_add(done as u64);
            if let Some(bytes) = self.known(segment, at) {
                let take = bytes.len().min(buf.len() - done);
                buf[done..done + take].copy_from_slice(&bytes[..take]);
                done += take;
                continue;
            }
            let Some(range) = self.range(segment, at, self.block())? else { break };
            if range.bytes.is_empty() {
                break;
            }
            self.ahead = Some(Piece { segment, byte: at, bytes: range.bytes, file_bytes: None });
        }
        Ok(done)
    }

    fn wait(&mut self, timeout: Duration) {
        if self.failures > 0 {
            let back_off = BACK_OFF * 2u32.pow(self.failures.min(6) - 1);
            self.throttle.wait(back_off.min(MOST_BACK_OFF));
            return;
        }
        let Some(report) = self.asked.clone() else { return std::thread::sleep(timeout) };
        // What fails here fails again when it is looked for, where it can be said.
        self.waiting = self.fetch(&report, POLL).ok().map(|heard| (report, heard));
    }

    fn acknowledge(&mut self, report: &Report) {
        if self.failures == 0 && self.asked.as_ref() != Some(report) {
            self.asked = Some(report.clone());
            // It is a courtesy: the other end learns of it in any case when this one comes back.
            let _ = self.fetch(report, Duration::ZERO);
        }
    }

    fn is_remote(&self) -> bool {
        true
    }
}

fn page_bytes() -> usize {
    usize::try_from(HEADER_BYTES).expect("a page")
}

fn not_there(path: &std::path::Path) -> Error {
    Error::new(Kind::NotFound, "expected a segment with a header, found none yet").in_file(path)
}

/// A reader that waits until what it has read is paid for.
struct Paced<'a, R> {
    reader: R,
    throttle: &'a mut Throttle,
    step: usize,
}

impl<R: Read> Read for Paced<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let take = buf.len().min(self.step);
        let read = self.reader.read(&mut buf[..take])?;
        self.throttle.take(read)?;
        Ok(read)
    }
}
