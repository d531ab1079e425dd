//! A node as a source, whatever carries the questions: the state of one who pulls from it.
//!
//! Called by `replica`; speaks `protocol` over a [`Wire`], which is HTTP or a simulated network. A
//! look is a fetch, and the fetch acknowledges what is durable here. Frames behind the follower's end
//! come inside the answer; the rest, whole segments, by ranges, block by block. Waiting is a fetch
//! that the other side answers when there is more.
//!
//! Invariants:
//! - what arrives is held against its checksum and length before it is handed on, and `replica`
//!   checks every frame again;
//! - memory is bounded: one answer and one block;
//! - what fails is an error that may pass, and the next block is smaller: a bad link still gets on.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::crc::crc32c;
use crate::error::{Error, Kind, Result};
use crate::log::files::{Repaired, unhex};
use crate::position::{Epoch, Fingerprint, Id, LogByte, Offset, Position};
use crate::segment::{FOOTER_BYTES, Footer, HEADER_BYTES, SegmentHeader, SegmentName};
use crate::table::{RunId, SnapshotName};

use super::protocol::{self, Answer, Head, PROTOCOL_VERSION, Request, WireReport};
use super::report::LastFrame;
use super::{DIVERGED, Offer, Report, Shared, Shipped, SnapshotOffer, Source};

/// How long the other side keeps a fetch that has nothing to say.
const POLL: Duration = Duration::from_secs(1);
/// Bytes of a segment asked for at a time, and the least after failures.
const BLOCK_BYTES: u64 = 4 << 20;
const LEAST_BLOCK_BYTES: u64 = 64 << 10;
/// A source that cannot be reached is tried again after this, then twice that, and so on.
const BACK_OFF: Duration = Duration::from_millis(100);
const MOST_BACK_OFF: Duration = Duration::from_secs(2);
/// A range of a run is tried again so often.
const RUN_TRIES: u32 = 6;
/// A log of more segments than this is no log of ours.
const MOST_SEGMENTS: usize = 4 << 20;

/// What carries questions to a node and its answers back. What arrives may be anything: who asks
/// checks it.
pub trait Wire: Debug + Send {
    /// What the node is called, by people and in errors.
    fn place(&self) -> &str;

    /// Sends a fetch; the answer, unpacked, of at most `limit` bytes, and when it began to come: it was
    /// made before that, and the rest may take long. The other side may take `wait`.
    fn fetch(&mut self, request: &[u8], wait: Duration, limit: usize)
    -> Result<(Vec<u8>, Instant)>;

    /// Bytes of a segment's file, fewer when it ends; `None` when nothing of it is there yet.
    fn range(&mut self, segment: LogByte, byte: u64, bytes: u64) -> Result<Option<Range>>;

    /// Log bytes of segments from the one at `from` on, rising; and whether there are more.
    fn list(&mut self, from: LogByte) -> Result<(Vec<u64>, bool)>;

    /// Snapshots of the table that the node has, one of now among them if it can make one.
    fn snapshots(&mut self) -> Result<Vec<SnapshotOffer>> {
        Ok(Vec::new())
    }

    /// The same; it need not make one that is sure to have more bytes than about so many.
    fn snapshots_within(&mut self, _bytes: u64) -> Result<Vec<SnapshotOffer>> {
        self.snapshots()
    }

    /// The manifest of one of them.
    fn manifest(&mut self, snapshot: SnapshotName) -> Result<Vec<u8>> {
        Err(no_snapshot(snapshot, self.place()))
    }

    /// Bytes of a run that it names, as [`range`](Self::range) has those of a segment.
    fn run(
        &mut self,
        snapshot: SnapshotName,
        _run: RunId,
        _byte: u64,
        _bytes: u64,
    ) -> Result<Option<Range>> {
        Err(no_snapshot(snapshot, self.place()))
    }

    /// A range's bytes are not needed any more: there may be use for their memory.
    fn done_with(&mut self, _bytes: Vec<u8>) {}

    /// The most bytes to ask for at once, of `most`.
    fn block(&self, _least: u64, most: u64) -> u64 {
        most
    }

    /// Waits so long before something is asked again, or less when it is told to stop.
    fn wait(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// A file as a range of it was answered.
#[derive(Clone, Debug)]
pub struct Range {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their checksum, as the other side says.
    pub crc: u32,
    /// How long the file is, as far as it may be read.
    pub total: u64,
    /// Whether the segment is sealed.
    pub sealed: bool,
}

/// Pulls from a node over a wire.
#[derive(Debug)]
pub struct Remote<W> {
    pub(super) wire: W,
    name: String,
    address: Option<String>,
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

impl<W: Wire> Remote<W> {
    /// The node at the other end of `wire`. Nothing is asked yet.
    pub fn over(wire: W) -> Self {
        Remote {
            wire,
            name: String::new(),
            address: None,
            pieces: Vec::new(),
            ahead: None,
            page: None,
            growing: None,
            asked: None,
            waiting: None,
            block: BLOCK_BYTES,
            failures: 0,
        }
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
            // What has arrived and is not synced yet need not come again.
            part_bytes: if report.received.log_byte > report.durable.log_byte {
                0
            } else {
                self.block()
            },
        };
        let limit = protocol::PREFIX_BYTES + protocol::MAX_HEAD_BYTES + protocol::MAX_PART_BYTES;
        let (bytes, answered) = self.wire.fetch(&request.encode(), wait, limit)?;
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

    /// Bytes of a segment's file, fewer when it ends; `None` when nothing of it is there yet.
    fn range(&mut self, segment: SegmentName, byte: u64, bytes: u64) -> Result<Option<Range>> {
        let ranged = self.try_range(segment, byte, bytes);
        self.note(ranged.is_ok());
        ranged
    }

    fn try_range(&mut self, segment: SegmentName, byte: u64, bytes: u64) -> Result<Option<Range>> {
        let range = self.wire.range(segment.0, byte, bytes)?;
        range.map(|range| whole(range, byte, bytes, &self.file(segment))).transpose()
    }

    /// A range of a run, tried again when the network fails: a snapshot is long on its way.
    fn run_range(
        &mut self,
        offer: &SnapshotOffer,
        run: RunId,
        byte: u64,
        bytes: u64,
    ) -> Result<Vec<u8>> {
        let place =
            PathBuf::from(format!("{}/v1/snapshots/{}/{run}", self.wire.place(), offer.name));
        let mut tries = 0;
        loop {
            let want = bytes.min(self.block());
            let range = self
                .wire
                .run(offer.name, run, byte, want)
                .and_then(|range| range.map(|range| whole(range, byte, want, &place)).transpose());
            self.note(range.is_ok());
            match range {
                Ok(Some(range)) if !range.bytes.is_empty() => return Ok(range.bytes),
                Ok(_) => {
                    return Err(Error::new(
                        Kind::Corrupt,
                        format!("expected bytes from {byte} on, found the file's end"),
                    )
                    .in_file(&place));
                }
                Err(e) if e.kind() == Kind::Io && tries < RUN_TRIES => {
                    let back_off = BACK_OFF * 2u32.pow(tries);
                    self.wire.wait(back_off.min(MOST_BACK_OFF));
                    tries += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// How much to ask for.
    fn block(&self) -> u64 {
        self.block.min(self.wire.block(LEAST_BLOCK_BYTES, BLOCK_BYTES))
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
            let place = self.wire.place();
            Error::new(Kind::Io, format!("expected {what} from {place}, found something else"))
        };
        let id = |text: &str| text.parse::<Id>().map_err(|()| lied("ids"));
        let seal = |text: &str| unhex(text).ok_or_else(|| lied("a seal's hash"));
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
            floor_seal: head.floor_seal.as_deref().map(seal).transpose()?,
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
                Kind::Diverged,
                format!(
                    "this copy's last frame is another one at {}: the two histories differ behind \
                     epoch {}, which ends there at offset {}",
                    self.wire.place(),
                    shared.read().unwrap_or_default().number,
                    end.offset
                ),
            )
            .at_offset(report.durable.offset.0)
            .help(DIVERGED)),
            Answer::NotLeader => Err(Error::new(
                Kind::NotLeader,
                format!(
                    "expected {} to know epoch {}, found it in epoch {}",
                    self.wire.place(),
                    report.promise.unwrap_or_default(),
                    offer.epoch
                ),
            )
            .help("follow the leader of the newer epoch; this one was replaced")),
        }
    }

    /// Asks for the names of segments that an answer had no room for.
    fn other_segments(&mut self, segments: &mut Vec<SegmentName>) -> Result<()> {
        loop {
            let from = segments.last().map_or(0, |last| last.0.0.saturating_add(1));
            let (listed, more) = self.wire.list(LogByte(from))?;
            for base in &listed {
                let name = SegmentName(LogByte(*base));
                if segments.last().is_some_and(|last| *last >= name) {
                    return Err(Error::new(
                        Kind::Io,
                        "expected segments in order, found them mixed",
                    ));
                }
                segments.push(name);
            }
            if !more {
                return Ok(());
            }
            if listed.is_empty() || segments.len() > MOST_SEGMENTS {
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

impl<W: Wire> Source for Remote<W> {
    fn place(&self) -> String {
        self.wire.place().to_owned()
    }

    fn file(&self, segment: SegmentName) -> PathBuf {
        PathBuf::from(format!("{}/v1/segments/{}", self.wire.place(), segment.0))
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

    /// The other side says it of a follower whose last frame is another one there, so one is claimed
    /// that is none. A node with repaired segments never does: then their headers must do.
    fn shared(&mut self, report: &Report) -> Result<Shared> {
        let stranger = Report { node: report.node, ..Report::default() };
        let offer = self.look(&stranger)?;
        let epoch = Epoch { number: report.durable.epoch.number, nonce: 0 };
        if let Some(first) = offer.segments.first() {
            let none = Fingerprint { head_crc: u32::MAX, body_crc: u32::MAX };
            let last = LastFrame { growing: Some(first.0), start: first.0, fingerprint: none };
            let durable = Position { epoch, ..Position::default() };
            let asked = Report { durable, last: Some(last), ..stranger };
            let (head, _) = self.fetch(&asked, Duration::ZERO)?;
            if let Answer::Diverged { shared, end } = &head.answer {
                let epoch = shared.read().unwrap_or_default();
                let ended = head.epoch.read() != Some(epoch);
                let end = if ended { *end } else { head.durable };
                let (end, end_offset) = (LogByte(end.log_byte), Offset(end.offset));
                return Ok(Shared { epoch, end, end_offset, ended });
            }
        }
        let number = epoch.number;
        Shared::of(&offer, number, |name| Ok(self.segment(name)?.header))
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
            if let Some(before) = self.ahead.take() {
                self.wire.done_with(before.bytes);
            }
            let Some(range) = self.range(segment, at, self.block())? else { break };
            if range.bytes.is_empty() {
                break;
            }
            self.ahead = Some(Piece { segment, byte: at, bytes: range.bytes, file_bytes: None });
        }
        Ok(done)
    }

    fn snapshots(&mut self) -> Result<Vec<SnapshotOffer>> {
        self.wire.snapshots()
    }

    fn snapshots_within(&mut self, bytes: u64) -> Result<Vec<SnapshotOffer>> {
        self.wire.snapshots_within(bytes)
    }

    fn manifest(&mut self, offer: &SnapshotOffer) -> Result<Vec<u8>> {
        self.wire.manifest(offer.name)
    }

    fn read_run(
        &mut self,
        offer: &SnapshotOffer,
        run: RunId,
        byte: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let left = (buf.len() - done) as u64;
            let bytes = self.run_range(offer, run, byte + done as u64, left)?;
            let take = bytes.len().min(buf.len() - done);
            buf[done..done + take].copy_from_slice(&bytes[..take]);
            done += take;
        }
        Ok(())
    }

    fn wait(&mut self, report: &Report, timeout: Duration) {
        if self.failures > 0 {
            let back_off = BACK_OFF * 2u32.pow(self.failures.min(6) - 1);
            return self.wire.wait(back_off.min(MOST_BACK_OFF));
        }
        if self.asked.is_none() {
            return self.wire.wait(timeout);
        }
        // It says how far this is by now: no look is needed for that.
        self.asked = Some(report.clone());
        // What fails here fails again when it is looked for, where it can be said.
        self.waiting = self.fetch(report, POLL).ok().map(|heard| (report.clone(), heard));
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

/// A range as it was asked for: as long as it must be, and its checksum holds.
fn whole(range: Range, byte: u64, bytes: u64, file: &Path) -> Result<Range> {
    let last = byte.saturating_add(bytes) - 1;
    let lied = |what: &str| {
        Error::new(Kind::Io, format!("expected bytes {byte} to {last}, found {what}"))
            .in_file(file)
            .help("it is asked for again; if this stays, look at what is between the two nodes")
    };
    if range.bytes.len() as u64 != bytes.min(range.total.saturating_sub(byte)) {
        return Err(lied("another number of bytes"));
    }
    if crc32c(&range.bytes) != range.crc {
        return Err(lied("bytes whose checksum does not hold"));
    }
    Ok(range)
}

fn no_snapshot(snapshot: SnapshotName, place: &str) -> Error {
    Error::new(Kind::NotFound, format!("expected snapshot {snapshot} at {place}, found none"))
        .help("ask again which there are")
}

fn page_bytes() -> usize {
    usize::try_from(HEADER_BYTES).expect("a page")
}

fn not_there(path: &Path) -> Error {
    Error::new(Kind::NotFound, "expected a segment with a header, found none yet").in_file(path)
}
