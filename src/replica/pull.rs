//! One round of copying: holds what a source offers against what is here, and takes the rest.
//!
//! Called by the follower; reads the [`Source`], grows the [`Copy`]. It copies up to a bound and
//! returns, so that what came is synced and applied before more is fetched. Everything is checked
//! here; what does not hold is refused before a byte of it is written.

use crate::error::{Error, Kind, Result};
use crate::frame::{EpochStart, Frame, FrameKind, HEADER_BYTES as FRAME_HEADER, Header};
use crate::mutant::{self, Mutant};
use crate::position::LogByte;
use crate::segment::{Footer, HEADER_BYTES, Link, SEAL_BYTES, SegmentHeader, SegmentName};
use crate::ship::{DIVERGED, Offer, Shipped, Source};

use super::ahead::{Stretch, WORTH_A_THREAD, fetch_ahead};
use super::copy::{Active, Copy, Fetched};
use super::fetch::fetch;

/// Bytes that one round fetches, about: what a sync covers.
pub(super) const ROUND_BYTES: u64 = 16 << 20;

/// What a round has copied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    /// Bytes of frames.
    pub(super) bytes: u64,
    /// Segments sealed.
    pub(super) segments: u64,
}

/// Copies about [`ROUND_BYTES`], or all there is. What was copied before an error stays, in
/// `moved` too.
pub(super) fn round(
    copy: &mut Copy,
    source: &mut dyn Source,
    offer: &Offer,
    inherits: bool,
    moved: &mut Moved,
) -> Result<()> {
    if let Some(error) = &copy.failed {
        return Err(error.clone());
    }
    // A source may say anything; sums with it must not overflow.
    let durable = offer.durable.min(LogByte(u64::MAX >> 1));
    let mut round = Round { copy, source, offer, inherits, durable, theirs: None };
    round.check_source()?;
    if round.copy.active.is_none() {
        round.check_sealed()?;
    }
    while moved.bytes < ROUND_BYTES {
        let more = match round.copy.active {
            Some(_) => round.go_on(moved)?,
            None => round.begin(moved)?,
        };
        if !more {
            break;
        }
    }
    Ok(())
}

/// Holds what a source offers against what is here, and copies nothing. `false` when the source has dropped
/// what there is to compare.
pub(super) fn compare(copy: &mut Copy, source: &mut dyn Source, offer: &Offer) -> Result<bool> {
    let durable = offer.durable.min(LogByte(u64::MAX >> 1));
    let mut round = Round { copy, source, offer, inherits: false, durable, theirs: None };
    round.check_source()?;
    let Some(active) = &round.copy.active else {
        round.check_sealed()?;
        let name = SegmentName(round.copy.end().log_byte);
        if round.offers(name) {
            let header = round.source.segment(name)?.header;
            round.check_new(&header)?;
        }
        let last = round.copy.sealed.map(|mine| SegmentName(mine.base));
        return Ok(last.is_none_or(|last| round.offers(last)));
    };
    let (header, end) = (active.header, active.tally.end);
    let sealed_end = LogByte(active.tally.sealed_end(&header));
    let name = SegmentName(header.base);
    if !round.offers(name) {
        return match round.offer.floor {
            floor if floor <= header.base => {
                Err(round.diverged("has no segment that starts there", header.base))
            }
            floor if floor < sealed_end => Err(round.goes_over_the_floor()),
            _ => Ok(false),
        };
    }
    let theirs = round.source.segment(name)?;
    round.check_active(&theirs)?;
    if let Some(footer) = &theirs.footer
        && footer.frames_end() == end
    {
        round.previous_hash(footer)?;
    }
    Ok(true)
}

struct Round<'a> {
    copy: &'a mut Copy,
    source: &'a mut dyn Source,
    offer: &'a Offer,
    /// Whether the source may be of an older epoch than was promised.
    inherits: bool,
    durable: LogByte,
    /// What the source says of the segment that grows here, once that was found to be the same.
    theirs: Option<Shipped>,
}

impl Round<'_> {
    /// The right log, led by nobody older than this node has promised to follow.
    fn check_source(&self) -> Result<()> {
        let offer = self.offer;
        let place = self.source.place();
        if offer.log != self.copy.log {
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected log {} at {place}, found log {}", self.copy.log, offer.log),
            )
            .in_file(&self.copy.layout.root)
            .help("follow it in a directory of its own"));
        }
        // Whoever leads next may still pull from here, and who led last may still be named: for a moment.
        let circle = match self.source.follows_leader() {
            true => Kind::NotLeader,
            false => Kind::InvalidInput,
        };
        if offer.node == Some(self.copy.node) {
            return Err(Error::new(
                circle,
                format!("{place} is this follower itself, or a copy of its directory"),
            )
            .in_file(&self.copy.layout.root)
            .help("name the leader's directory"));
        }
        // A candidate takes what its own follower has: whoever promised it follows it already.
        if offer.upstream.contains(&self.copy.node) && !self.inherits {
            return Err(Error::new(
                circle,
                format!("{place} pulls from this follower, directly or not: that goes in circles"),
            )
            .in_file(&self.copy.layout.root)
            .help("follow the leader, or a follower of its"));
        }
        if let Some(promise) = self.copy.promises.get()
            && !offer.segments.is_empty()
            && !self.inherits
            && !mutant::on(Mutant::FollowOlder)
            && (offer.epoch.number < promise.epoch.number
                || offer.epoch.number == promise.epoch.number && offer.epoch != promise.epoch)
        {
            return Err(Error::new(
                Kind::NotLeader,
                format!(
                    "expected {place} to be in epoch {} or a later one, found it in {}",
                    promise.epoch, offer.epoch
                ),
            )
            .in_file(&self.copy.layout.root)
            .help("follow the leader of the newer epoch; this one was replaced"));
        }
        Ok(())
    }

    /// The newest sealed segment must be the source's, as far as the source still has it.
    fn check_sealed(&mut self) -> Result<()> {
        let Some(mine) = self.copy.sealed else { return Ok(()) };
        let name = SegmentName(mine.base);
        if !self.offers(name) {
            return match self.offer.floor > mine.base {
                true => Ok(()),
                false => Err(self.diverged("has no segment that starts there", mine.base)),
            };
        }
        let theirs = self.source.segment(name)?;
        if !same_segment(&mine.header(), &theirs.header) {
            return Err(self.diverged("has another segment there", mine.base));
        }
        match theirs.footer {
            Some(footer) if footer != mine && !self.repaired(&mine.hash, &footer.hash) => {
                Err(self.diverged("has sealed it with other content", mine.base))
            }
            None if self.goes_on_behind(&mine) => {
                Err(self.diverged("goes on there, where it is sealed here", mine.base))
            }
            _ => Ok(()),
        }
    }

    /// Whether the source, which has not sealed a segment that is sealed here, has more of it.
    fn goes_on_behind(&self, mine: &Footer) -> bool {
        let newest = self.offer.segments.last() == Some(&SegmentName(mine.base));
        newest && self.durable.0 > mine.header().log_byte(mine.frames_end())
    }

    /// The hash of the segment before, as the source's footer names it: this copy's own, unless
    /// the source repaired that segment after it had sealed this one.
    fn previous_hash(&mut self, footer: &Footer) -> Result<[u8; 32]> {
        let mine = self.copy.previous_hash();
        // Of the first segment here: the one before was never here, to be held against it.
        let first = self.copy.sealed.is_none() && self.copy.control.floor > LogByte(0);
        if footer.previous_hash == mine || first {
            return Ok(footer.previous_hash);
        }
        if !self.repaired(&footer.previous_hash, &mine) {
            let base = self.copy.sealed.map_or(footer.base, |sealed| sealed.base);
            return Err(self.diverged("has sealed the segment there with other content", base));
        }
        self.copy.adopt_repairs(&self.offer.repairs)?;
        Ok(footer.previous_hash)
    }

    /// Whether repairs at the source lead from one seal hash to another.
    fn repaired(&self, old: &[u8; 32], new: &[u8; 32]) -> bool {
        let (mut hash, target) = (hex(old), hex(new));
        for _ in 0..=self.offer.repairs.len() {
            if hash == target {
                return true;
            }
            match self.offer.repairs.iter().find(|repair| repair.old == hash) {
                Some(repair) => hash.clone_from(&repair.new),
                None => return false,
            }
        }
        false
    }

    fn offers(&self, name: SegmentName) -> bool {
        self.offer.segments.binary_search(&name).is_ok()
    }

    /// Fetches what the active segment lacks, or seals it. `false` when there is nothing to do.
    fn go_on(&mut self, moved: &mut Moved) -> Result<bool> {
        let active = self.copy.active.as_ref().expect("a segment is open");
        let header = active.header;
        let name = SegmentName(header.base);
        if !self.offers(name) {
            return self.go_on_without(moved);
        }
        if self.theirs.as_ref().is_none_or(|theirs| theirs.header.base != header.base) {
            let theirs = self.source.segment(name)?;
            self.check_active(&theirs)?;
            self.theirs = Some(theirs);
        }
        let sealed = self.theirs.as_ref().and_then(|theirs| theirs.footer);
        let active = self.copy.active.as_ref().expect("a segment is open");
        let end = active.tally.end;
        let after = self.offer.segments.partition_point(|other| *other <= name);
        let next = self.offer.segments.get(after).copied();
        let limit = match (sealed, next) {
            // What is sealed is durable.
            (Some(footer), _) => footer.frames_end(),
            (None, next) => {
                let durable = self.durable.max(header.base);
                let roll = next.map_or(u64::MAX, |next| next.0.0.saturating_sub(SEAL_BYTES));
                header.file_byte(durable.0.min(roll.max(header.base.0)))
            }
        };
        if end < limit {
            let rel = active.tally.records;
            let enough = end.saturating_add(ROUND_BYTES.saturating_sub(moved.bytes));
            if self.copy.threads && limit.min(enough) - end >= WORTH_A_THREAD {
                let stretch = Stretch { at: end, limit, enough, rel_offset: rel };
                let copy = &mut *self.copy;
                let mut spare = std::mem::take(&mut copy.spare);
                let took = |frames: Fetched| {
                    let len = frames.len as u64;
                    copy.append(frames)?;
                    moved.bytes += len;
                    Ok(std::mem::take(&mut copy.buffer))
                };
                let fetched = fetch_ahead(&mut *self.source, &header, stretch, &mut spare, took);
                self.copy.spare = spare;
                return fetched.map(|()| true);
            }
            let buffer = std::mem::take(&mut self.copy.buffer);
            let frames = fetch(&mut *self.source, &header, end, limit, rel, buffer)?;
            let len = frames.len as u64;
            self.copy.append(frames)?;
            moved.bytes += len;
            return Ok(true);
        }
        match (sealed, next) {
            (Some(footer), _) if footer.frames_end() != end => {
                Err(self.diverged("has sealed a shorter segment there", header.base))
            }
            (Some(footer), _) => {
                let previous = self.previous_hash(&footer)?;
                if self.copy.seal(previous)? != footer {
                    return Err(self.diverged("has sealed it with other content", header.base));
                }
                moved.segments += 1;
                Ok(true)
            }
            (None, Some(next)) if header.log_byte(end) + SEAL_BYTES > next.0.0 => {
                Err(self.diverged("has a shorter segment there", header.base))
            }
            // Frames of the next segment are durable, so the source will never go back to this.
            (None, Some(next)) if self.durable > next.0 => self.finish(next, moved),
            (None, _) => Ok(false),
        }
    }

    /// The source has dropped the segment that is being copied: fine if all of it is here.
    fn go_on_without(&mut self, moved: &mut Moved) -> Result<bool> {
        let active = self.copy.active.as_ref().expect("a segment is open");
        let base = active.header.base;
        if self.offer.floor <= base {
            return Err(self.diverged("has no segment that starts there", base));
        }
        let sealed_end = SegmentName(LogByte(active.tally.sealed_end(&active.header)));
        if sealed_end.0 > self.offer.floor {
            return Err(self.goes_over_the_floor());
        }
        let finished = self.offers(sealed_end) && self.finish(sealed_end, moved)?;
        if finished { Ok(true) } else { Err(self.gone()) }
    }

    /// What grows here goes on where the last segment that the source dropped had its SEAL.
    fn goes_over_the_floor(&self) -> Error {
        self.diverged("dropped a segment that ended there", self.offer.floor)
    }

    /// The seal hash of the segment before the active one; `None` when neither this copy nor the source
    /// has that segment: then the source's seal is waited for.
    fn linked_hash(&mut self) -> Result<Option<[u8; 32]>> {
        let active = self.copy.active.as_ref().expect("a segment is open");
        let link = active.header.previous.filter(|_| self.copy.lacks_link());
        let Some(link) = link else { return Ok(Some(self.copy.previous_hash())) };
        let name = SegmentName(link.base);
        if !self.offers(name) {
            return Ok(None);
        }
        let footer = self.source.segment(name)?.footer;
        let its = footer.filter(|f| f.end() == link.end && f.fingerprint == link.fingerprint);
        Ok(its.map(|footer| footer.hash))
    }

    /// Seals the active segment because `next` follows it. `false` when that must wait.
    fn finish(&mut self, next: SegmentName, moved: &mut Moved) -> Result<bool> {
        let link = self.source.segment(next)?.header.previous;
        let active = self.copy.active.as_ref().expect("a segment is open");
        let expected = Link {
            base: active.header.base,
            end: LogByte(active.tally.sealed_end(&active.header)),
            fingerprint: active.tally.fingerprint,
        };
        if expected.end != next.0 || link != Some(expected) {
            return Err(self.diverged("has a next segment that follows another one", next.0));
        }
        let Some(previous) = self.linked_hash()? else { return Ok(false) };
        self.copy.seal(previous)?;
        moved.segments += 1;
        Ok(true)
    }

    /// Begins the segment behind the last sealed one. `false` when it is not there yet.
    fn begin(&mut self, moved: &mut Moved) -> Result<bool> {
        let at = self.copy.end();
        let name = SegmentName(at.log_byte);
        if self.offer.floor > at.log_byte {
            return Err(self.gone());
        }
        if !self.offers(name) {
            if self.durable > at.log_byte {
                return Err(Error::new(
                    Kind::NotFound,
                    format!(
                        "expected a segment at log byte {}, because everything up to {} is said \
                         to be durable; found none",
                        at.log_byte, self.durable
                    ),
                )
                .in_file(&self.source.file(name))
                .help("if a copier fills that directory it may still be coming"));
            }
            return Ok(false);
        }
        let theirs = self.source.segment(name)?;
        let header = theirs.header;
        self.check_new(&header)?;
        let limit = match &theirs.footer {
            Some(footer) => {
                // Before anything is copied, not when it is sealed.
                self.previous_hash(footer)?;
                footer.frames_end()
            }
            None => {
                // Behind a durable end inside this segment the next one cannot begin yet.
                let after = self.offer.segments.partition_point(|other| *other <= name);
                let roll = self.offer.segments.get(after).map_or(u64::MAX, |next| next.0.0);
                let end = self.durable.0.min(roll.saturating_sub(SEAL_BYTES));
                header.file_byte(end.max(header.base.0))
            }
        };
        if limit <= HEADER_BYTES {
            // A segment whose first frame may still be lost is not begun: the leader could come
            // back with another one in its place.
            return Ok(false);
        }
        let buffer = std::mem::take(&mut self.copy.buffer);
        let frames = fetch(&mut *self.source, &header, HEADER_BYTES, limit, 0, buffer)?;
        let starts = self.check_epoch(&header, &frames)?;
        self.copy.begin(header, theirs.page.clone(), &frames, starts.as_ref())?;
        moved.bytes += frames.len as u64;
        self.copy.buffer = frames.buffer;
        self.theirs = Some(theirs);
        Ok(true)
    }

    /// What grows here must be what the source has in its place: the same header, whose salt is
    /// random, and the same last frame.
    fn check_active(&mut self, theirs: &Shipped) -> Result<()> {
        let Active { path, file, page, header, tally, last_frame, .. } =
            self.copy.active.as_ref().expect("a segment is open");
        let base = header.base;
        if theirs.page != *page {
            return Err(self.diverged("has another segment there", base));
        }
        let mut mine = vec![0; index(tally.end - last_frame)];
        file.read_exact_at(&mut mine, *last_frame).map_err(|e| Error::io("read", path, e))?;
        let mut theirs = vec![0; mine.len()];
        let read = self.source.read(SegmentName(base), *last_frame, &mut theirs)?;
        if theirs[..read] != mine[..] {
            return Err(self.diverged("lacks this copy's last frame, or has another there", base));
        }
        Ok(())
    }

    /// A new segment must follow the last one.
    fn check_new(&self, header: &SegmentHeader) -> Result<()> {
        let at = self.copy.end();
        if header.log != self.copy.log {
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected a segment of log {}, found one of {}", self.copy.log, header.log),
            )
            .in_file(&self.source.file(SegmentName(header.base))));
        }
        let expected = self.copy.sealed.map(|footer| Link {
            base: footer.base,
            end: footer.end(),
            fingerprint: footer.fingerprint,
        });
        let first = self.copy.sealed.is_none() && self.copy.control.floor > LogByte(0);
        let follows = match first {
            // The one before was never here; a snapshot stood in its place.
            true => header.previous.is_some_and(|link| link.end == header.base),
            false => header.previous == expected,
        };
        if !follows || header.base_offset != at.offset {
            return Err(self.diverged("has a next segment that follows another one", header.base));
        }
        if header.epoch.number < at.epoch.number
            || header.epoch.number == at.epoch.number && header.epoch != at.epoch
        {
            return Err(self.diverged("goes on there with an older epoch", header.base));
        }
        Ok(())
    }

    /// An epoch's first segment starts with the frame that says so.
    fn check_epoch(&self, header: &SegmentHeader, frames: &Fetched) -> Result<Option<EpochStart>> {
        if header.epoch == self.copy.epoch() {
            return Ok(None);
        }
        let bad = |what: &str| {
            let message = format!("expected the start of epoch {}, found {what}", header.epoch);
            Error::new(Kind::Corrupt, message)
                .in_file(&self.source.file(SegmentName(header.base)))
                .at_byte(HEADER_BYTES)
        };
        let first = frames.bytes().first_chunk::<FRAME_HEADER>().expect("at least one frame");
        let first = Frame::trusted(frames.bytes(), Header::staged(first)).expect("whole frames");
        let start = match first.header.kind {
            FrameKind::EpochStart => EpochStart::decode(first.body),
            _ => None,
        };
        let start = start.ok_or_else(|| bad("another frame"))?;
        if start.epoch != header.epoch {
            return Err(bad(&format!("the start of {}", start.epoch)));
        }
        if start.parent != self.copy.epoch() || start.fork_offset != header.base_offset.0 {
            return Err(bad(&format!(
                "one that leaves epoch {} at offset {}",
                start.parent, start.fork_offset
            )));
        }
        Ok(Some(start))
    }

    fn diverged(&self, what: &str, base: LogByte) -> Error {
        let at = self.copy.end();
        Error::new(
            Kind::Diverged,
            format!(
                "this copy ends at log byte {} of epoch {}, and {} {what}: the two histories differ",
                at.log_byte,
                at.epoch,
                self.source.place()
            ),
        )
        .in_file(&SegmentName(base).path(&self.copy.layout.segments()))
        .at_offset(at.offset.0)
        .help(DIVERGED)
    }

    fn gone(&self) -> Error {
        gone(self.copy, self.offer, &self.source.place())
    }
}

/// What a follower needs and its source has dropped.
pub(super) fn gone(copy: &Copy, offer: &Offer, place: &str) -> Error {
    let at = copy.end();
    Error::new(
        Kind::Gone,
        format!(
            "expected records from offset {} on, but {place} starts at offset {}: retention \
             dropped what lies before",
            at.offset, offer.floor_offset
        ),
    )
    .in_file(&copy.layout.root)
    .at_offset(at.offset.0)
    .help(
        "opened again, a copy takes a snapshot where a source has one; otherwise follow one that still \
         holds them",
    )
}

/// Whether two headers are of one segment; footers repeat all but when it was made and its link.
fn same_segment(a: &SegmentHeader, b: &SegmentHeader) -> bool {
    SegmentHeader { created: 0, previous: None, ..*a }
        == SegmentHeader { created: 0, previous: None, ..*b }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("segment files are far below the address space")
}

fn hex(bytes: &[u8]) -> String {
    crate::log::scan::hex(bytes)
}
