//! What a follower says of itself whenever it looks: the look is its acknowledgement.
//!
//! Made by `replica` from what is durable here; handed to [`Source::look`](super::Source::look),
//! and by sources that reach a running node to that node. Pure values.

use crate::position::{Epoch, Fingerprint, Id, LogByte, Position};

/// How far a follower is, and in what state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The log it copies; `None` before there is a copy.
    pub log: Option<Id>,
    /// The node; `None` before there is a copy.
    pub node: Option<Id>,
    /// The epoch it is bound to.
    pub promise: Option<Epoch>,
    /// Behind the last frame that arrived whole.
    pub received: Position,
    /// Behind the last frame that is synced here: what this report acknowledges.
    pub durable: Position,
    /// Behind the last record in its table.
    pub applied: Position,
    /// Behind what it knows to be committed: what it shows. `None` from one that does not say.
    pub committed: Option<LogByte>,
    /// Its last frame, unless it has none.
    pub last: Option<LastFrame>,
    /// Whether it has lost something that was durable here and has not fetched it again yet: then
    /// it acknowledges nothing.
    pub unclean: bool,
}

/// The last frame of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastFrame {
    /// The segment that grows, by its log byte; `None` when the copy ends with a sealed one.
    pub growing: Option<LogByte>,
    /// Where the frame starts; of a sealed segment, where that segment starts.
    pub start: LogByte,
    /// Its checksums.
    pub fingerprint: Fingerprint,
}
