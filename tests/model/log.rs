//! Logs of a few frames, small enough to be compared, hashed and copied as one number.

use std::fmt;

/// A leadership: a number and, for the nonce, the node that won it. Ordered by number first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u8);

impl Epoch {
    /// The highest number that fits beside a frame's kind.
    pub const MAX_NUMBER: u8 = 3;

    pub const fn new(number: u8, nonce: u8) -> Epoch {
        assert!(number <= Epoch::MAX_NUMBER && nonce < 4);
        Epoch(number << 2 | nonce)
    }

    pub fn number(self) -> u8 {
        self.0 >> 2
    }

    pub fn nonce(self) -> u8 {
        self.0 & 3
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number(), self.nonce())
    }
}

/// One frame: its epoch in the high half, its kind in the low one. A leader never writes twice at
/// one place, so epoch, nonce and place name the bytes; only `other` says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame(u8);

const START: u8 = 1;
const DATA: u8 = 2;
const SET: u8 = 3;
const OTHER: u8 = 15;

impl Frame {
    pub const fn start(epoch: Epoch) -> Frame {
        Frame(epoch.0 << 4 | START)
    }

    pub const fn data(epoch: Epoch) -> Frame {
        Frame(epoch.0 << 4 | DATA)
    }

    /// Other bytes than `data`: what a restored leader writes where it has already written.
    pub const fn other(epoch: Epoch) -> Frame {
        Frame(epoch.0 << 4 | OTHER)
    }

    /// The synchronous set with this number in the scope's list.
    pub const fn set(epoch: Epoch, set: u8) -> Frame {
        assert!(set < OTHER - SET);
        Frame(epoch.0 << 4 | (SET + set))
    }

    pub fn epoch(self) -> Epoch {
        Epoch(self.0 >> 4)
    }

    pub fn as_set(self) -> Option<u8> {
        (self.0 & 15).checked_sub(SET).filter(|set| *set < OTHER - SET)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 & 15 {
            START => write!(f, "start")?,
            DATA => write!(f, "data")?,
            OTHER => write!(f, "other")?,
            set => write!(f, "set{}", set - SET)?,
        }
        write!(f, "@{:?}", self.epoch())
    }
}

/// Up to eight frames, the first in the lowest byte. No frame is zero, so the length shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Log(u64);

impl Log {
    pub const fn of(frame: Frame) -> Log {
        Log(frame.0 as u64)
    }

    pub fn len(self) -> u8 {
        (0u8..8).rev().find(|at| self.0 >> (8 * at) != 0).map_or(0, |at| at + 1)
    }

    pub fn frame(self, at: u8) -> Option<Frame> {
        let byte = self.0.to_le_bytes()[usize::from(at)];
        (byte != 0).then_some(Frame(byte))
    }

    pub fn last(self) -> Option<Frame> {
        self.len().checked_sub(1).and_then(|at| self.frame(at))
    }

    pub fn push(&mut self, frame: Frame) {
        let len = self.len();
        assert!(len < 8, "the scope's longest log does not fit");
        self.0 |= u64::from(frame.0) << (8 * len);
    }

    pub fn cut(self, len: u8) -> Log {
        if len >= 8 { self } else { Log(self.0 & ((1 << (8 * len)) - 1)) }
    }

    /// How many frames both begin with.
    pub fn common(self, other: Log) -> u8 {
        (0u8..8)
            .find(|at| self.frame(*at).is_none() || self.frame(*at) != other.frame(*at))
            .unwrap_or(8)
    }

    pub fn starts_with(self, other: Log) -> bool {
        self.cut(other.len()) == other
    }

    /// The epochs of this history and where each ends, the latest first.
    pub fn epochs(self) -> impl Iterator<Item = (Epoch, u8)> {
        let frame = move |at: u8| self.frame(at).map(Frame::epoch);
        (1..=self.len())
            .rev()
            .filter(move |end| frame(end - 1) != frame(*end))
            .filter_map(move |end| Some((frame(end - 1)?, end)))
    }

    /// The newest set and where it stands, then the one before it.
    pub fn sets(self) -> ((u8, u8), Option<u8>) {
        let mut sets = (0..self.len()).rev().filter_map(|at| Some((self.frame(at)?.as_set()?, at)));
        let newest = sets.next().expect("every log begins with a set");
        (newest, sets.next().map(|(set, _)| set))
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries((0..self.len()).filter_map(|at| self.frame(at))).finish()
    }
}

/// A synchronous set: its members as a mask of nodes.
#[derive(Clone, Copy, Debug)]
pub struct SyncSet {
    pub members: u8,
    /// A promotion needs N - k promises; k = 0 promises nothing, and nobody is asked.
    pub k: u8,
    /// How many beside the leader must hold what is committed.
    pub waits: u8,
}

impl SyncSet {
    /// What is committed is on k others.
    pub const fn sync(members: u8, k: u8) -> SyncSet {
        SyncSet { members, k, waits: k }
    }

    /// The leader alone commits, as under `bounded` and while `semi` is degraded; or under
    /// `async`, where k is zero as well.
    pub const fn alone(members: u8, k: u8) -> SyncSet {
        SyncSet { members, k, waits: 0 }
    }

    pub fn has(self, node: u8) -> bool {
        self.members >> node & 1 == 1
    }

    /// N.
    pub fn size(self) -> u8 {
        (0..8).map(|node| self.members >> node & 1).sum()
    }
}
