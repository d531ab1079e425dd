//! What a walk over the sequence comes to: which segments, tails and snapshots the archive holds.
//!
//! Called by `walk` with one entry after the other; pure. Invariants, held against every entry:
//! - n rises by one, and each entry names the hash of the one before;
//! - only a fence raises the epoch; every other entry is of the epoch and node of the last fence;
//! - pieces (segments, or the tails of one that is not sealed here yet) follow each other without
//!   a gap from the floor to the end; only a fence takes the end back, and what it cuts is noted.

use std::collections::BTreeMap;

use crate::error::{Error, Kind, Result};
use crate::position::{Epoch, Id, LogByte, Offset};
use crate::segment::SEAL_BYTES;

use super::entry::{EntryHead, Sealed, SnapshotRef, Tail, What};
use super::name::{Hash, ObjectName};

/// The archive as of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The log that it is of; zeros before the first entry.
    pub log: Id,
    /// The last entry; 0 before the first.
    pub n: u64,
    /// Its hash.
    pub hash: Hash,
    /// When it was written.
    pub time: i64,
    /// The newest rollup; 0 if there is none.
    pub rollup: u64,
    /// The epoch that appends.
    pub epoch: Epoch,
    /// Who that is.
    pub node: Id,
    /// Where the archive begins.
    pub floor: LogByte,
    /// The offset there.
    pub floor_offset: Offset,
    /// Behind the last frame in it.
    pub end: LogByte,
    /// The offset there.
    pub end_offset: Offset,
    /// Segments by where they begin.
    pub pieces: BTreeMap<LogByte, Piece>,
    /// Snapshots, oldest entry first.
    pub snapshots: Vec<(u64, SnapshotRef)>,
    /// What fences cut off: kept, to be looked at.
    pub cut: Vec<Cut>,
}

/// What there is of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// All of it.
    Sealed(Held),
    /// Its first frames.
    Tails(Vec<TailRef>),
}

/// A sealed segment, and how much of it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The entry that names it.
    pub n: u64,
    /// What the entry says.
    pub sealed: Sealed,
    /// Behind the last frame that counts: less than the segment when a fence cut it.
    pub to: LogByte,
    /// The offset there.
    pub to_offset: Offset,
}

/// A tail, and how much of it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailRef {
    /// The entry that holds it.
    pub n: u64,
    /// That entry's hash.
    pub hash: Hash,
    /// What it says.
    pub tail: Tail,
    /// Behind the last frame that counts: less than the tail when a fence cut it.
    pub to: LogByte,
    /// The offset there.
    pub to_offset: Offset,
}

/// Something that a fence cut off, in whole or from some log byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Of a segment.
    Sealed(Held),
    /// Of a tail.
    Tail(TailRef),
}

impl Held {
    /// Whether all of it counts.
    pub fn whole(&self) -> bool {
        self.to == self.sealed.end
    }
}

impl Cut {
    /// The entry.
    pub fn n(&self) -> u64 {
        match self {
            Cut::Sealed(held) => held.n,
            Cut::Tail(tail) => tail.n,
        }
    }
}

impl Piece {
    /// The segment's epoch.
    pub fn epoch(&self) -> Epoch {
        match self {
            Piece::Sealed(held) => held.sealed.epoch,
            Piece::Tails(tails) => tails.first().map_or(Epoch::default(), |tail| tail.tail.epoch),
        }
    }

    /// The segment's first offset.
    pub fn base_offset(&self) -> Offset {
        match self {
            Piece::Sealed(held) => held.sealed.base_offset,
            Piece::Tails(tails) => {
                tails.first().map_or(Offset::default(), |tail| tail.tail.base_offset)
            }
        }
    }

    /// Behind what counts of it.
    pub fn end(&self) -> (LogByte, Offset) {
        match self {
            Piece::Sealed(held) => (held.to, held.to_offset),
            Piece::Tails(tails) => {
                tails.last().map_or_else(Default::default, |tail| (tail.to, tail.to_offset))
            }
        }
    }

    /// The sealed segment, if all of it is here.
    pub fn sealed(&self) -> Option<&Sealed> {
        match self {
            Piece::Sealed(held) if held.whole() => Some(&held.sealed),
            _ => None,
        }
    }

    /// Where the next segment begins.
    pub fn next_base(&self) -> LogByte {
        match self.sealed() {
            Some(sealed) => sealed.end,
            None => LogByte(self.end().0.0.saturating_add(SEAL_BYTES)),
        }
    }
}

impl State {
    /// Where the next segment begins.
    pub fn next_base(&self) -> LogByte {
        self.pieces.values().next_back().map_or(self.floor, Piece::next_base)
    }

    /// Takes the next entry.
    pub fn apply(&mut self, head: &EntryHead) -> Result<()> {
        self.check_link(head)?;
        match &head.what {
            What::Fence { parent, fork, fork_offset } => {
                self.fence(head, *parent, *fork, *fork_offset)?;
            }
            What::Tail(tail) => self.tail(head, tail)?,
            What::Segment(sealed) => self.segment(head.n, sealed)?,
            What::Snapshot(snapshot) => {
                if snapshot.log_byte > self.end || snapshot.name.offset > self.end_offset {
                    return Err(bad(head, "a snapshot of what the archive holds"));
                }
                self.snapshots.push((head.n, *snapshot));
            }
            What::Rollup => self.rollup = head.n,
            What::Tombstone { .. } => return Err(bad(head, "an entry that was not pruned")),
        }
        self.seal_link(head);
        Ok(())
    }

    /// Takes a rollup as the beginning: `self` is what it carries.
    pub(super) fn begin_at(&mut self, head: &EntryHead) -> Result<()> {
        if head.log != self.log || head.epoch != self.epoch || head.node != self.node {
            return Err(bad(head, "a rollup of its own log and epoch"));
        }
        self.rollup = head.n;
        self.seal_link(head);
        Ok(())
    }

    fn seal_link(&mut self, head: &EntryHead) {
        (self.n, self.hash, self.time) = (head.n, head.hash(), head.time);
        self.log = head.log;
    }

    fn check_link(&self, head: &EntryHead) -> Result<()> {
        if Some(head.n) != self.n.checked_add(1) || head.previous != self.hash {
            return Err(bad(head, "the entry that follows the one before"));
        }
        if head.rollup != self.rollup {
            return Err(bad(head, "the number of the newest rollup"));
        }
        if self.n > 0 && head.log != self.log {
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected an entry of log {}, found one of {}", self.log, head.log),
            )
            .in_file(std::path::Path::new(&head.name().to_string())));
        }
        let fence = matches!(head.what, What::Fence { .. });
        if !fence && (self.n == 0 || head.epoch != self.epoch || head.node != self.node) {
            return Err(bad(head, "an entry of the epoch that the last fence began"));
        }
        Ok(())
    }

    fn fence(
        &mut self,
        head: &EntryHead,
        parent: Epoch,
        fork: LogByte,
        fork_offset: Offset,
    ) -> Result<()> {
        if head.epoch.number <= self.epoch.number || parent != self.epoch {
            return Err(bad(head, "a fence that raises the epoch before it"));
        }
        if self.n == 0 {
            (self.epoch, self.node) = (head.epoch, head.node);
            (self.floor, self.floor_offset) = (fork, fork_offset);
            (self.end, self.end_offset) = (fork, fork_offset);
            return Ok(());
        }
        if !self.may_fork_at(fork, fork_offset) {
            return Err(bad(head, "a fork inside what the archive holds"));
        }
        (self.epoch, self.node) = (head.epoch, head.node);
        if fork < self.end {
            self.cut_at(fork, fork_offset);
        }
        Ok(())
    }

    /// Whether frames that the archive holds may end there, with that many records before.
    fn may_fork_at(&self, fork: LogByte, fork_offset: Offset) -> bool {
        let Some((_, piece)) = self.pieces.range(..fork).next_back() else {
            return (fork, fork_offset) == (self.floor, self.floor_offset);
        };
        let (before, end) = match piece {
            Piece::Sealed(_) => (piece.base_offset(), piece.end()),
            Piece::Tails(tails) => {
                match &tails[..tails.partition_point(|tail| tail.tail.from < fork)] {
                    [.., before, last] => (before.to_offset, (last.to, last.to_offset)),
                    [last] => (piece.base_offset(), (last.to, last.to_offset)),
                    [] => return false,
                }
            }
        };
        match fork == end.0 {
            true => fork_offset == end.1,
            false => fork < end.0 && before <= fork_offset && fork_offset <= end.1,
        }
    }

    fn cut_at(&mut self, fork: LogByte, fork_offset: Offset) {
        let behind = self.pieces.split_off(&fork);
        for piece in behind.into_values() {
            match piece {
                Piece::Sealed(held) => self.cut.push(Cut::Sealed(held)),
                Piece::Tails(tails) => self.cut.extend(tails.into_iter().map(Cut::Tail)),
            }
        }
        if let Some(mut last) = self.pieces.last_entry() {
            match last.get_mut() {
                Piece::Sealed(held) if held.to > fork => {
                    self.cut.push(Cut::Sealed(*held));
                    (held.to, held.to_offset) = (fork, fork_offset);
                }
                Piece::Sealed(_) => {}
                Piece::Tails(tails) => {
                    while let Some(tail) = tails.last_mut().filter(|tail| tail.to > fork) {
                        self.cut.push(Cut::Tail(*tail));
                        if tail.tail.from < fork {
                            (tail.to, tail.to_offset) = (fork, fork_offset);
                        } else {
                            tails.pop();
                        }
                    }
                }
            }
        }
        self.snapshots.retain(|(_, snapshot)| snapshot.log_byte <= fork);
        (self.end, self.end_offset) = (fork, fork_offset);
    }

    fn tail(&mut self, head: &EntryHead, tail: &Tail) -> Result<()> {
        let next_base = self.next_base();
        let entry = TailRef {
            n: head.n,
            hash: head.hash(),
            tail: *tail,
            to: tail.to,
            to_offset: tail.to_offset,
        };
        if tail.epoch.number > self.epoch.number || tail.to_offset < self.end_offset {
            return Err(bad(head, "a tail of this history"));
        }
        match self.pieces.values_mut().next_back() {
            Some(Piece::Tails(tails))
                if tails.first().is_some_and(|first| first.tail.base == tail.base) =>
            {
                let first = &tails[0].tail;
                let same = first.epoch == tail.epoch && first.base_offset == tail.base_offset;
                if !same || tail.from != self.end {
                    return Err(bad(head, "a tail that goes on where the archive ends"));
                }
                tails.push(entry);
            }
            last => {
                let epoch = last.map_or(Epoch::default(), |piece| piece.epoch());
                let follows = tail.starts()
                    && tail.base == next_base
                    && tail.base_offset == self.end_offset
                    && tail.epoch.number >= epoch.number;
                if !follows {
                    return Err(bad(head, "a tail that begins the next segment"));
                }
                self.pieces.insert(tail.base, Piece::Tails(vec![entry]));
            }
        }
        (self.end, self.end_offset) = (tail.to, tail.to_offset);
        Ok(())
    }

    fn segment(&mut self, n: u64, sealed: &Sealed) -> Result<()> {
        let what = "a segment that stands where the archive lacks it";
        let wrong = || bad_at(n, what);
        let next_base = self.next_base();
        let frames_end = sealed.end.0.checked_sub(SEAL_BYTES).map(LogByte).ok_or_else(wrong)?;
        let last = self.pieces.keys().next_back().is_none_or(|base| *base <= sealed.base);
        let fits = match self.pieces.get(&sealed.base) {
            None => {
                sealed.base == next_base
                    && sealed.base_offset == self.end_offset
                    && sealed.end_offset >= self.end_offset
            }
            Some(piece) if piece.sealed().is_some() => false,
            Some(piece) => {
                let (to, to_offset) = piece.end();
                // One that another follows is known to its last frame; the last one may go on, also where a
                // fence cut it before a SEAL that another history had written.
                let ends = match last {
                    true => to <= frames_end && to_offset <= sealed.end_offset,
                    false => to == frames_end && to_offset == sealed.end_offset,
                };
                ends && piece.epoch() == sealed.epoch && piece.base_offset() == sealed.base_offset
            }
        };
        if !fits || sealed.epoch.number > self.epoch.number {
            return Err(wrong());
        }
        let held = Held { n, sealed: *sealed, to: sealed.end, to_offset: sealed.end_offset };
        self.pieces.insert(sealed.base, Piece::Sealed(held));
        if last {
            (self.end, self.end_offset) = (sealed.end, sealed.end_offset);
        }
        Ok(())
    }

    /// Whether what a rollup said holds together.
    pub(super) fn holds_together(&self) -> bool {
        let mut next = (self.floor, self.floor_offset);
        let mut end = next;
        for (base, piece) in &self.pieces {
            let (to, to_offset) = piece.end();
            let whole = match piece {
                Piece::Sealed(held) => {
                    held.sealed.base == *base
                        && (*base < to && to <= held.sealed.end)
                        && (held.sealed.base_offset..=held.sealed.end_offset).contains(&to_offset)
                }
                Piece::Tails(tails) => {
                    let mut at = (*base, piece.base_offset());
                    !tails.is_empty()
                        && tails.iter().all(|tail| {
                            let fits = tail.tail.base == *base
                                && tail.tail.from == at.0
                                && tail.tail.from < tail.to
                                && tail.to <= tail.tail.to
                                && (at.1..=tail.tail.to_offset).contains(&tail.to_offset);
                            at = (tail.to, tail.to_offset);
                            fits
                        })
                }
            };
            if !whole || (*base, piece.base_offset()) != next || to_offset < next.1 {
                return false;
            }
            end = (to, to_offset);
            next = (piece.next_base(), to_offset);
        }
        end == (self.end, self.end_offset)
    }
}

fn bad(head: &EntryHead, expected: &str) -> Error {
    bad_at(head.n, expected)
}

fn bad_at(n: u64, expected: &str) -> Error {
    let name = ObjectName::Log(n).to_string();
    Error::new(Kind::Corrupt, format!("expected {expected}, found entry {n} with something else"))
        .in_file(std::path::Path::new(&name))
        .help("something other than tidelog wrote there, or the archive is damaged")
}
