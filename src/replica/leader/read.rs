//! Linearizable reads: what is shown is all that was acknowledged before the read began, by whichever leader.
//!
//! ```text
//! begin: how far it is committed ── members still promise this epoch, or the lease lasts ── end: not fenced
//! ```
//!
//! A leader that was replaced and does not know it would show too little. So each read finds out that nobody else
//! can have committed anything by the time it began. Called by `failover::confirm`, which asks; without I/O here.
//!
//! Invariants:
//! - who is asked answers after the read began;
//! - under `sync` N - k members of each set that rules still promise this epoch, the leader counted: whoever
//!   commits later needs k + 1. Under `bounded` and `semi`, whose leader may commit alone, k + 1 of them do: whoever
//!   leads later needs N - k. Where members promise nothing, and instead of asking under those two, the lease
//!   must last when the read ends;
//! - fences are looked at last.

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};
use crate::frame::{Mode, SyncSet};
use crate::log::commit::End;
use crate::position::{Epoch, Id, Offset};

use super::{Leader, State};

/// A linearizable read that has begun.
#[derive(Clone, Debug)]
pub struct Reading {
    end: End,
    epoch: Epoch,
    /// Of which sets how many members must still promise this epoch.
    asks: Vec<(usize, SyncSet)>,
    /// Whether the lease must last.
    leased: bool,
}

impl Reading {
    /// Members whose word is wanted, the leader left out; none when enough of them have given it.
    pub fn wanted(&self, leader: Id, promise: &BTreeSet<Id>) -> BTreeSet<Id> {
        let short = self.asks.iter().filter(|(need, set)| count(set, leader, promise) < *need);
        let members = short.flat_map(|(_, set)| set.members.iter().copied());
        members.filter(|id| *id != leader && !promise.contains(id)).collect()
    }

    /// The epoch that is to be promised.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

fn count(set: &SyncSet, leader: Id, promise: &BTreeSet<Id>) -> usize {
    set.members.iter().filter(|id| **id == leader || promise.contains(id)).count()
}

impl Leader {
    /// Begins a linearizable read. An error says why there is none here.
    pub fn begin_read(&self) -> Result<Reading> {
        let state = self.state();
        if let Some(why) = &state.fenced {
            return Err(why.clone());
        }
        let rule = &state.rule;
        if !rule.has_started() {
            return Err(Error::new(
                Kind::NotLeader,
                format!(
                    "expected the start of epoch {} to be committed, found that it waits for members or the archive",
                    rule.epoch
                ),
            )
            .help("ask again in a moment"));
        }
        let leased = self.is_leased(&state);
        let mut reading = Reading {
            end: self.home.visible(),
            epoch: rule.epoch,
            asks: Vec::new(),
            leased: false,
        };
        for set in rule.ruling() {
            let k = set.mode.k();
            match set.mode {
                Mode::Sync { .. } => {
                    reading.asks.push((set.members.len().saturating_sub(k), set.clone()))
                }
                Mode::Async | Mode::Archive => reading.leased = true,
                Mode::Bounded { .. } | Mode::Semi { .. } if leased => reading.leased = true,
                Mode::Bounded { .. } | Mode::Semi { .. } => reading.asks.push((k + 1, set.clone())),
            }
        }
        // Without a set it is async.
        reading.leased |= rule.newest.is_none();
        if reading.leased && !leased {
            return Err(match state.lease {
                Some(_) => no_lease(),
                None if rule.before.is_some() => Error::new(
                    Kind::NotLeader,
                    format!("expected one set to rule, found that the set {} waits for members", rule.mode()),
                )
                .help("ask again once they hold it"),
                None => Error::new(
                    Kind::InvalidInput,
                    format!(
                        "expected something that says that this node still leads, found the mode {} and no coordinator",
                        rule.mode()
                    ),
                )
                .help("a linearizable read needs the mode sync, bounded or semi, or a coordinator (serve --coordinator)"),
            });
        }
        Ok(reading)
    }

    /// Ends it: everything before this offset was there when it began, and nothing more was acknowledged by then.
    /// `promise` are the members that were asked since and still promise the epoch.
    pub fn end_read(&self, reading: &Reading, promise: &BTreeSet<Id>) -> Result<Offset> {
        let (node, state) = (self.log.node(), self.state());
        if let Some(why) = &state.fenced {
            return Err(why.clone());
        }
        if state.rule.epoch != reading.epoch || reading.leased && !self.is_leased(&state) {
            return Err(no_lease());
        }
        let short = reading.asks.iter().find(|(need, set)| count(set, node, promise) < *need);
        match short {
            None => Ok(reading.end.1),
            Some((need, set)) => Err(Error::new(
                Kind::NotLeader,
                format!(
                    "expected {need} members of the set {set} to say that they still follow epoch {}, found {}",
                    reading.epoch,
                    count(set, node, promise)
                ),
            )
            .help("another node may lead: ask again, or the others; members need addresses (`tidelog serve`)")),
        }
    }

    fn is_leased(&self, state: &State) -> bool {
        state.lease.is_some_and(|until| self.now() < until)
    }
}

fn no_lease() -> Error {
    Error::new(
        Kind::NotLeader,
        "expected this node's lease to last, found that it is over: another node may lead",
    )
    .help("ask again, or the others: the coordinator does not answer this node")
}
