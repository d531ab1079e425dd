//! What a node offers to those who pull from it: the other end of a source.
//!
//! Called by `server`, and by a simulated network; reads an open log, a leader's or a follower's. It
//! answers fetches, names segments, and opens their files as far as they may be read. It knows no
//! connections.
//!
//! Invariants:
//! - nothing above the durable end is handed out, whatever is asked for;
//! - a log that is not in order yet says nothing of its end: copies would take it for a loss;
//! - names and lengths come from the log, never from who asks.

use std::cmp::Ordering::*;
use std::sync::Arc;
use std::time::Duration;

use crate::crc::crc32c;
use crate::error::{Error, Kind, Result};
use crate::frame::{HEADER_BYTES as FRAME_HEADER, Header};
use crate::fs::File;
use crate::log::catalog::{List, Segment};
use crate::log::scan::hex;
use crate::log::{Claim, Home, Log, SlotState};
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, LogByte, Offset};
use crate::segment::{FOOTER_BYTES, HEADER_BYTES, SEAL_BYTES};

use super::protocol::{
    self, Answer, Head, MAX_PART_BYTES, MAX_SEGMENTS, MAX_UPSTREAM, Part, WireEnd,
};
use super::remote::Range;
use super::report::Report;

/// A last frame up to this size comes with every reply, for the follower to compare.
const COMPARED_BYTES: u64 = 64 << 10;

/// An open log, for those who pull from it.
#[derive(Clone, Debug)]
pub struct Shelf {
    log: Arc<Log>,
    home: Home,
}

/// An answer to a fetch.
#[derive(Debug)]
pub struct Served {
    /// The newest epoch here.
    pub epoch: Epoch,
    /// What may be copied.
    pub durable: WireEnd,
    /// What may be shown.
    pub committed: WireEnd,
    /// Where the log begins here.
    pub floor: WireEnd,
    /// The hash in the footer of the segment that ended there, if it is known.
    pub floor_seal: Option<[u8; 32]>,
    /// What it comes to.
    pub answer: Answer,
    /// What the bytes are.
    pub parts: Vec<Part>,
    /// What comes along.
    pub bytes: Vec<u8>,
    /// Their checksum.
    pub crc: u32,
}

/// What a node says of itself with each answer.
#[derive(Clone, Debug, Default)]
pub struct Speaker {
    /// What people call it.
    pub name: String,
    /// The nodes it pulls from, directly or not.
    pub upstream: Vec<Id>,
    /// The leader's address, if it is known.
    pub leader: Option<String>,
    /// Its time, in nanoseconds since the Unix epoch.
    pub time: i64,
    /// How old what it shows may be: nothing at a leader; `None` when nobody knows.
    pub stale: Option<Duration>,
}

/// A segment's file, as far as it may be read.
#[derive(Clone, Debug)]
pub struct Book {
    /// The file.
    pub file: Arc<dyn File>,
    /// Bytes that may be read: all of a sealed file, of another those that are durable.
    pub bytes: u64,
    /// Seal hash of a sealed one.
    pub hash: Option<[u8; 32]>,
}

impl Book {
    /// Bytes of it, with their checksum.
    pub fn range(&self, from: u64, bytes: usize) -> Result<Range> {
        let io = |e| Error::io("read", std::path::Path::new("segment"), e).at_byte(from);
        let read = self.file.read_new(bytes, from).map_err(io)?;
        if read.len() < bytes {
            let found = format!("expected {bytes} bytes at byte {from}, found {}", read.len());
            return Err(io(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, found)));
        }
        let crc = crc32c(&read);
        Ok(Range { bytes: read, crc, total: self.bytes, sealed: self.hash.is_some() })
    }
}

/// What a list of segments says of one.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its log byte.
    pub base: LogByte,
    /// Its first offset.
    pub base_offset: Offset,
    /// Its epoch.
    pub epoch: Epoch,
    /// Bytes that may be read.
    pub bytes: u64,
    /// Seal hash of a sealed one.
    pub hash: Option<[u8; 32]>,
}

/// The durable end, with the segments that hold it.
struct Stock {
    epoch: Epoch,
    durable: (LogByte, Offset),
    list: List,
}

impl Shelf {
    /// What `log` offers.
    pub fn new(log: Arc<Log>) -> Self {
        let home = log.home();
        Shelf { log, home }
    }

    /// The durable end comes first: the segments hold at least that.
    fn stock(&self) -> Stock {
        let durable = self.log.durable_position();
        Stock {
            epoch: durable.epoch,
            durable: (durable.log_byte, durable.offset),
            list: self.home.segments(),
        }
    }

    /// Answers a fetch, with at most `part_bytes` of what the follower lacks. `bound` is what this node has
    /// promised: a candidate that it has promised that to takes what is here, though of an older epoch, and so does
    /// who has promised the same; unless they are further themselves.
    pub fn answer(&self, report: &Report, part_bytes: u64, bound: Option<Epoch>) -> Result<Served> {
        // What this machine's disk is like is no word about the follower's.
        self.home.settle().map_err(|e| e.with_kind(Kind::Io))?;
        let stock = self.stock();
        let floor = stock.floor();
        let epoch = stock.epoch;
        let (durable, offset) = stock.durable;
        let durable_end = WireEnd::new(durable, offset);
        // It was read later: it may be ahead of what the answer is about.
        let committed = self.home.committed();
        let committed = if committed.0 < durable { committed } else { (durable, offset) };
        let mut served = Served {
            epoch,
            durable: durable_end,
            committed: WireEnd::new(committed.0, committed.1),
            floor: WireEnd::new(floor.0, floor.1),
            floor_seal: None,
            answer: Answer::NotLeader,
            parts: Vec::new(),
            bytes: Vec::new(),
            crc: 0,
        };
        if let Some(log) = report.log
            && log != self.log.id()
        {
            return Err(wrong_log(self.log.id(), log));
        }
        let later = report.promise.is_some_and(|promise| {
            promise.number > epoch.number || promise.number == epoch.number && promise != epoch
        });
        let refused = later && report.promise != bound && !mutant::on(Mutant::FollowOlder);
        // Before that epoch has begun here, this node is no judge of who has more than it has.
        let here = (epoch, durable);
        let ahead = later && (report.durable.epoch, report.durable.log_byte) > here;
        if (refused || ahead) && !stock.list.is_empty() {
            return Ok(served);
        }
        let control = self.home.control()?;
        served.floor_seal = control.floor_seal.filter(|_| control.floor == floor.0);
        let repairs = control.repairs;
        if repairs.is_empty() && !self.has_frame(&stock, report)? {
            let (shared, end) = self.shared_epoch(report, durable_end)?;
            served.answer = Answer::Diverged { shared: shared.into(), end };
            return Ok(served);
        }
        let growing = report.last.and_then(|last| last.growing);
        let needs = growing.unwrap_or(report.durable.log_byte);
        if report.log.is_some() && needs < floor.0 {
            // Where its frames end, sealed: all of what was dropped may be there, and then what is needed comes next.
            let sealed = report.durable.log_byte.0.saturating_add(SEAL_BYTES);
            match sealed.cmp(&floor.0.0) {
                Less => {
                    served.answer = Answer::Gone;
                    return Ok(served);
                }
                Equal => {}
                // Its frames go on where the segment that was dropped had its SEAL.
                Greater => {
                    let (shared, end) = self.shared_epoch(report, durable_end)?;
                    served.answer = Answer::Diverged { shared: shared.into(), end };
                    return Ok(served);
                }
            }
        }
        // From the segment before the one it ends in: that is what it compares.
        let from = stock.list.partition_point(|segment| segment.header.base <= needs);
        let from = from.saturating_sub(2);
        let named = stock.list[from..].iter().take(MAX_SEGMENTS);
        let segments: Vec<u64> = named.map(|segment| segment.header.base.0).collect();
        served.answer = Answer::Offer {
            more: from + segments.len() < stock.list.len(),
            growing_sealed: growing
                .and_then(|base| stock.find(base))
                .is_some_and(|segment| segment.footer.get().is_some()),
            segments,
            repairs: repairs.into_iter().map(|repair| (repair.old, repair.new)).collect(),
        };
        let limit = part_bytes.min(MAX_PART_BYTES as u64);
        self.fill(&stock, report, limit, &mut served)?;
        served.crc = crc32c(&served.bytes);
        Ok(served)
    }

    /// Notes what a follower needs; what has become of that. `None` of one that has no copy yet, or
    /// that is bound to an epoch which this node does not know. Only a leader's log takes claims.
    pub fn claim(&self, name: &str, report: &Report, answer: &Answer) -> Result<Option<SlotState>> {
        let Some(node) = report.node.filter(|_| report.log.is_some()) else { return Ok(None) };
        let growing = report.last.and_then(|last| last.growing);
        let needs = growing.unwrap_or(report.durable.log_byte);
        let needs = match answer {
            Answer::NotLeader => return Ok(None),
            // What it has behind the end that both share is of no use to it.
            Answer::Diverged { end, .. } => needs.min(LogByte(end.log_byte)),
            Answer::Offer { .. } | Answer::Gone => needs,
        };
        let claim = Claim { node, name: name.to_owned(), position: report.durable, needs };
        self.log.claim(claim).map(Some)
    }

    /// The bytes of an answer; `slot` is what retention holds for who asked.
    pub fn reply(&self, served: Served, speaker: Speaker, slot: &str) -> Vec<u8> {
        let Served { epoch, durable, committed, floor, floor_seal, answer, parts, bytes, crc } =
            served;
        let upstream = speaker.upstream.iter().take(MAX_UPSTREAM).map(ToString::to_string);
        let head = Head {
            log: self.log.id().to_string(),
            node: self.log.node().to_string(),
            name: speaker.name,
            upstream: upstream.collect(),
            leader: speaker.leader,
            epoch: epoch.into(),
            time: speaker.time,
            stale_ms: speaker.stale.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            committed,
            durable,
            floor,
            floor_seal: floor_seal.map(|seal| hex(&seal)),
            slot: slot.into(),
            answer,
            parts,
        };
        let mut reply = protocol::encode_head(&head, crc);
        reply.extend_from_slice(&bytes);
        reply
    }

    /// Puts the bytes behind the follower's end into the answer.
    fn fill(&self, stock: &Stock, report: &Report, limit: u64, to: &mut Served) -> Result<()> {
        let end = report.durable.log_byte;
        if end > stock.durable.0 {
            return Ok(());
        }
        let (mut segment, mut from) =
            match report.last.and_then(|last| last.growing.zip(Some(last))) {
                Some((base, last)) => {
                    let Some(segment) = stock.find(base) else { return Ok(()) };
                    let size = end.0.saturating_sub(last.start.0);
                    let compared = last.start >= base && last.start < end && size <= COMPARED_BYTES;
                    let from = if compared { last.start } else { end };
                    if from < base {
                        return Ok(());
                    }
                    (segment, segment.header.file_byte(from.0))
                }
                None => match stock.find(end) {
                    Some(segment) => (segment, 0),
                    None => return Ok(()),
                },
            };
        loop {
            let frames_end = stock.frames_end(segment);
            if frames_end <= HEADER_BYTES {
                return Ok(());
            }
            let left = limit.saturating_sub(to.bytes.len() as u64);
            let want = frames_end.saturating_sub(from).min(left);
            self.part(segment, from, want, None, to)?;
            if want < frames_end.saturating_sub(from) || left - want < FOOTER_BYTES as u64 {
                return Ok(());
            }
            let Some(footer) = segment.footer.get() else { return Ok(()) };
            let file_bytes = footer.file_bytes();
            let at = file_bytes - FOOTER_BYTES as u64;
            self.part(segment, at, FOOTER_BYTES as u64, Some(file_bytes), to)?;
            let Some(next) = stock.find(footer.end()) else { return Ok(()) };
            (segment, from) = (next, 0);
        }
    }

    fn part(
        &self,
        segment: &Segment,
        byte: u64,
        bytes: u64,
        file_bytes: Option<u64>,
        to: &mut Served,
    ) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let file = self.open_file(segment)?;
        let at = to.bytes.len();
        let len = usize::try_from(bytes).expect("at most the limit of a reply");
        to.bytes.resize(at + len, 0);
        let read = file.read_full_at(&mut to.bytes[at..], byte);
        let read = read.map_err(|e| Error::io("read", &segment.path, e).at_byte(byte))?;
        to.bytes.truncate(at + read);
        let file_bytes = file_bytes.filter(|_| read == len);
        to.parts.push(Part {
            segment: segment.header.base.0,
            byte,
            bytes: read as u64,
            file_bytes,
        });
        Ok(())
    }

    /// Whether the follower's last frame is here, too, as far as this node goes that far.
    fn has_frame(&self, stock: &Stock, report: &Report) -> Result<bool> {
        let Some(last) = report.last else { return Ok(true) };
        let Some(base) = last.growing else {
            let here = stock.find(last.start).and_then(|segment| segment.footer.get());
            return Ok(here.is_none_or(|footer| {
                footer.end() != report.durable.log_byte || footer.fingerprint == last.fingerprint
            }));
        };
        if last.start >= stock.durable.0 {
            // Behind what this node has there is no frame to compare. Its epoch may have ended here by then.
            return self.goes_on(report, last.start);
        }
        let Some(segment) = stock.find(base) else { return Ok(true) };
        let byte = segment.header.file_byte(last.start.max(base).0);
        if byte + FRAME_HEADER as u64 > stock.frames_end(segment) {
            return Ok(true);
        }
        let mut bytes = [0; FRAME_HEADER];
        let file = self.open_file(segment)?;
        file.read_exact_at(&mut bytes, byte)
            .map_err(|e| Error::io("read", &segment.path, e).at_byte(byte))?;
        // Where another history has a frame this one may have the middle of one.
        let limit = stock.frames_end(segment);
        let header = Header::decode(&bytes, byte, limit, segment.header.seed());
        Ok(header.is_ok_and(|header| header.fingerprint() == last.fingerprint))
    }

    /// Whether the epoch of a follower that is ahead may be the one that goes on here: it has not ended before
    /// the follower's last frame.
    fn goes_on(&self, report: &Report, last: LogByte) -> Result<bool> {
        let history = self.home.history(LogByte(u64::MAX))?;
        let at = history.iter().position(|entry| entry.epoch == report.durable.epoch);
        Ok(at.and_then(|at| history.get(at + 1)).is_none_or(|next| next.start > last))
    }

    /// The newest epoch that the follower may share, and where it ends here. One of the same number may have
    /// another nonce: who asks sees that, and asks for the one before.
    fn shared_epoch(&self, report: &Report, durable: WireEnd) -> Result<(Epoch, WireEnd)> {
        let history = self.home.history(LogByte(u64::MAX))?;
        let after =
            history.partition_point(|entry| entry.epoch.number <= report.durable.epoch.number);
        let shared = after.checked_sub(1).map_or_else(Epoch::default, |i| history[i].epoch);
        let end = match history.get(after) {
            Some(next) => WireEnd::new(next.start, next.start_offset),
            None => durable,
        };
        Ok((shared, end))
    }

    /// Segments from the one at `from` on, at most `limit`; and whether there are more.
    pub fn list(&self, from: LogByte, limit: usize) -> (Vec<Listed>, bool) {
        let stock = self.stock();
        let at = stock.list.partition_point(|segment| segment.header.base < from);
        let listed: Vec<Listed> = stock.list[at..]
            .iter()
            .take(limit)
            .map(|segment| Listed {
                base: segment.header.base,
                base_offset: segment.header.base_offset,
                epoch: segment.header.epoch,
                bytes: stock.readable(segment),
                hash: segment.footer.get().map(|footer| footer.hash),
            })
            .collect();
        let more = at + listed.len() < stock.list.len();
        (listed, more)
    }

    /// Opens a segment's file.
    pub fn open(&self, base: LogByte) -> Result<Book> {
        let stock = self.stock();
        let Some(segment) = stock.find(base) else {
            let (floor, _) = stock.floor();
            let message = format!("expected a segment that starts at log byte {base}, found none");
            return Err(match base < floor {
                true => Error::new(Kind::Gone, message).help("retention dropped it"),
                false => Error::new(Kind::NotFound, message),
            });
        };
        Ok(Book {
            file: self.open_file(segment)?,
            bytes: stock.readable(segment),
            hash: segment.footer.get().map(|footer| footer.hash),
        })
    }

    fn open_file(&self, segment: &Segment) -> Result<Arc<dyn File>> {
        let open = self.home.fs().open_plain(&segment.path);
        open.map_err(|e| Error::io("open", &segment.path, e))
    }
}

impl Stock {
    fn find(&self, base: LogByte) -> Option<&Segment> {
        let found = self.list.binary_search_by_key(&base, |segment| segment.header.base);
        found.ok().map(|i| &*self.list[i])
    }

    /// Where the log begins.
    fn floor(&self) -> (LogByte, Offset) {
        match self.list.first() {
            Some(first) => (first.header.base, first.header.base_offset),
            None => self.durable,
        }
    }

    /// Behind the last durable frame of a segment, as a byte of its file.
    fn frames_end(&self, segment: &Segment) -> u64 {
        if let Some(footer) = segment.footer.get() {
            return footer.frames_end();
        }
        let base = segment.header.base;
        let after = self.list.partition_point(|other| other.header.base <= base);
        let roll = self.list.get(after).map_or(u64::MAX, |next| next.header.base.0 - SEAL_BYTES);
        segment.header.file_byte(self.durable.0.0.min(roll).max(base.0))
    }

    /// How many bytes of its file may be read.
    fn readable(&self, segment: &Segment) -> u64 {
        match segment.footer.get() {
            Some(footer) => footer.file_bytes(),
            None => self.frames_end(segment),
        }
    }
}

fn wrong_log(mine: Id, theirs: Id) -> Error {
    Error::new(Kind::WrongLog, format!("expected a follower of log {mine}, found one of {theirs}"))
        .help("follow this log in a directory of its own")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fs::sim::{Crash, Errno, Fault, OpKind, Sim};
    use crate::log::files::{Control, Layout};
    use crate::position::{Fingerprint, Position};
    use crate::record::Record;
    use crate::ship::LastFrame;

    /// A follower of another history asked about a place in the middle of a frame: the node took what stood
    /// there for a frame, and panicked.
    #[test]
    fn a_report_may_name_any_place_of_a_segment() {
        let options = Log::options().fs(Sim::new(1).shared()).create(true).worker(false);
        let log = Arc::new(options.open("/log").unwrap());
        for _ in 0..3 {
            log.append(&Record::put(b"key", &[0xEE; 100])).unwrap();
        }
        let shelf = Shelf::new(Arc::clone(&log));
        let durable = log.durable_position();
        for byte in 0..durable.log_byte.0 + 40 {
            let last = LastFrame {
                start: LogByte(byte),
                growing: Some(LogByte(0)),
                fingerprint: Fingerprint::default(),
            };
            let position = Position { log_byte: LogByte(byte + 32), ..durable };
            let report = Report {
                log: Some(log.id()),
                durable: position,
                received: position,
                last: Some(last),
                ..Report::default()
            };
            let answer = shelf.answer(&report, 1 << 20, None).unwrap().answer;
            let here = byte + 32 <= durable.log_byte.0;
            assert!(!here || matches!(answer, Answer::Diverged { .. }), "byte {byte}");
        }
    }

    /// Found by the model: a follower whose last frame lies behind this node's end was answered as if it were
    /// only ahead, though its epoch had ended here before that: it counted for nothing, and waited for ever.
    #[test]
    fn who_is_ahead_in_an_epoch_that_has_ended_here_is_told_to_go_back() {
        let sim = Sim::new(1);
        let open = || {
            let options = Log::options().fs(sim.shared()).create(true).worker(false);
            options.open("/log").unwrap()
        };
        let log = open();
        log.append(&Record::put(b"key", b"value")).unwrap();
        let old = log.durable_position();
        drop(log);
        // Another epoch begins behind that.
        let mut control =
            Control::read(&*sim.shared(), &Layout::new(Path::new("/log"))).unwrap().unwrap();
        control.clean = None;
        control.write(&*sim.shared(), &Layout::new(Path::new("/log"))).unwrap();
        let log = Arc::new(open());
        log.append(&Record::put(b"key", b"later")).unwrap();
        let now = log.durable_position();
        assert!(now.epoch.number > old.epoch.number);
        let shelf = Shelf::new(Arc::clone(&log));
        let ahead = now.log_byte.plus(1000);
        for (epoch, gone_back) in [(old.epoch, true), (now.epoch, false)] {
            let position = Position { epoch, log_byte: ahead.plus(40), ..now };
            let last = LastFrame {
                start: ahead,
                growing: Some(LogByte(0)),
                fingerprint: Fingerprint::default(),
            };
            let report = Report {
                log: Some(log.id()),
                durable: position,
                received: position,
                last: Some(last),
                ..Report::default()
            };
            let answer = shelf.answer(&report, 1 << 20, None).unwrap().answer;
            assert_eq!(matches!(answer, Answer::Diverged { .. }), gone_back, "{epoch}: {answer:?}");
        }
    }

    /// Found by the simulation: after a power cut the leader's disk was full, so it could call less durable than
    /// it had; its followers took that for a loss, and halted.
    #[test]
    fn a_leader_whose_disk_is_full_at_its_start_is_not_ready_and_has_lost_nothing() {
        let sim = Sim::new(1);
        let open = |sim: &Sim| {
            let options = Log::options().fs(sim.shared()).create(true).worker(false);
            Arc::new(options.open("/log").unwrap())
        };
        let log = open(&sim);
        log.append(&Record::put(b"key", b"value")).unwrap();
        let had = log.durable_position();
        let mut tried = 0;
        for nth in 0..8 {
            let sim = sim.crash(&Crash::DropAll);
            sim.fail(Fault::on(OpKind::Write).error(Errno::NoSpace).nth(nth).sticky());
            let log = open(&sim);
            let shelf = Shelf::new(Arc::clone(&log));
            let answers = || shelf.answer(&Report::default(), 1 << 20, None);
            match answers() {
                Ok(served) => assert!(served.durable.log_byte >= had.log_byte.0, "write {nth}"),
                Err(error) => {
                    tried += 1;
                    assert_eq!(error.kind(), Kind::Io, "write {nth}: {error}");
                }
            }
            sim.heal();
            // Nobody need append: being asked is enough.
            assert!(answers().unwrap().durable.log_byte >= had.log_byte.0, "write {nth}");
        }
        assert!(tried > 0, "of 8 full disks none came in time");
    }

    /// Found by the simulation: of a follower whose growing segment was dropped only that was looked at, and it was sent to
    /// begin anew: also one that had all of that segment, and one whose frames go on in another history.
    #[test]
    fn whose_growing_segment_was_dropped_is_told_by_where_its_frames_end() {
        let sim = Sim::new(1);
        let options = Log::options().fs(sim.shared()).create(true).worker(false);
        let log =
            Arc::new(options.segment_bytes(crate::log::MIN_SEGMENT_BYTES).open("/log").unwrap());
        while log.stats().segments < 3 {
            log.append(&Record::put(b"key", &[0xEE; 9000])).unwrap();
        }
        let (old, whole) = (log.stats().epoch, log.segments()[1].base);
        let policy = crate::log::Retention {
            keep_from: Some(log.segments()[1].base_offset),
            copied_below: Some(log.durable_end()),
            ..Default::default()
        };
        assert_eq!(log.retain(&policy).unwrap().files.len(), 1);
        let shelf = Shelf::new(Arc::clone(&log));
        let asks = |log_byte: u64| {
            let durable = Position { epoch: old, log_byte: LogByte(log_byte), offset: Offset(1) };
            let last = LastFrame {
                start: LogByte(log_byte - 40),
                growing: Some(LogByte(0)),
                fingerprint: Fingerprint::default(),
            };
            let report = Report {
                log: Some(log.id()),
                durable,
                received: durable,
                last: Some(last),
                ..Report::default()
            };
            let served = shelf.answer(&report, 1 << 20, None).unwrap();
            assert_eq!((served.floor.log_byte, served.floor_seal.is_some()), (whole.0, true));
            served.answer
        };
        assert!(matches!(asks(whole.0 - SEAL_BYTES - 8), Answer::Gone));
        let Answer::Offer { segments, .. } = asks(whole.0 - SEAL_BYTES) else {
            panic!("it has all")
        };
        assert_eq!(segments.first(), Some(&whole.0));
        assert!(matches!(asks(whole.0 - SEAL_BYTES + 8), Answer::Diverged { .. }));
    }

    /// Found by the simulation: a candidate answered another member, which had promised it the same epoch and had
    /// more than itself, that their histories part: that member halted, over frames of a leader that the
    /// candidate had not heard of yet.
    #[test]
    fn who_has_promised_the_same_epoch_and_is_further_is_told_nothing() {
        let options = Log::options().fs(Sim::new(1).shared()).create(true).worker(false);
        let log = Arc::new(options.open("/log").unwrap());
        log.append(&Record::put(b"key", b"value")).unwrap();
        let shelf = Shelf::new(Arc::clone(&log));
        let own = log.durable_position();
        let promise = Some(Epoch { number: own.epoch.number + 5, nonce: 1 });
        let asks = |epoch: Epoch, log_byte: LogByte, promise, bound| {
            let last = LastFrame {
                start: LogByte(0),
                growing: Some(LogByte(0)),
                fingerprint: Fingerprint::default(),
            };
            let durable = Position { epoch, log_byte, ..own };
            let report = Report {
                log: Some(log.id()),
                durable,
                received: durable,
                last: Some(last),
                promise,
                ..Report::default()
            };
            shelf.answer(&report, 1 << 20, bound).unwrap().answer
        };
        let later = Epoch { number: own.epoch.number + 1, nonce: 1 };
        let less = LogByte(own.log_byte.0 - 8);
        // Further by the epoch of its last frame, or in the same epoch.
        assert!(matches!(asks(later, less, promise, promise), Answer::NotLeader));
        assert!(matches!(
            asks(own.epoch, own.log_byte.plus(8), promise, promise),
            Answer::NotLeader
        ));
        // Whoever has less goes back, and the leader of that epoch says so to everybody.
        assert!(matches!(asks(own.epoch, less, promise, promise), Answer::Diverged { .. }));
        assert!(matches!(
            asks(own.epoch, own.log_byte.plus(8), Some(own.epoch), Some(own.epoch)),
            Answer::Diverged { .. }
        ));
        assert!(matches!(asks(own.epoch, less, promise, Some(own.epoch)), Answer::NotLeader));
    }
}
