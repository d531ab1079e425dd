//! Who may try to lead, as something outside the nodes says it.
//!
//! Called by whoever runs a node; nothing here touches a log. A coordinator says *when to try*, never
//! what is safe: that is decided by the members' durable promises and the archive's sequence, so one
//! that forgets, stalls or lies costs time and loses nothing.
//!
//! ```text
//! free ── take: number + 1 ──► held ── renew … ──► held ── resign, or no renewal for a ttl ──► free
//!                                └── hand over: number + 1 ──► held by another
//! ```
//!
//! Invariants:
//! - a number is handed out once; each is higher than those before it, and than the taker has seen;
//! - an answer that did not come is an error, and the same call again finds out what became of it;
//! - how long a seat is held is counted from before the request for it was sent, on the holder's own
//!   boot-time clock ([`Fs::elapsed`](crate::fs::Fs::elapsed)).

#[cfg(feature = "client")]
mod etcd;
#[cfg(any(test, feature = "sim"))]
pub mod fake;
mod manual;
mod open;
mod store;
mod timing;

pub use crate::ship::archive::Member;
#[cfg(feature = "client")]
pub use etcd::{EtcdCoordinator, EtcdOptions};
pub use manual::Manual;
pub use open::{CoordinatorOptions, CoordinatorUrl, open};
pub use store::StoreCoordinator;
pub use timing::{Advice, MAX_TTL, MIN_TTL, Timing};

use std::fmt::Debug;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, LogByte};

/// Who may lead, as something outside the nodes says it. One node's connection to it.
pub trait Coordinator: Debug + Send {
    /// What it is called, in errors and in the status.
    fn place(&self) -> String;

    /// How long a seat is held without being renewed.
    fn ttl(&self) -> Duration;

    /// Whether anybody may become leader by itself.
    fn elects(&self) -> bool {
        true
    }

    /// What stands there now. One request at most while nothing changes.
    fn look(&mut self) -> Result<Seat>;

    /// Takes the seat if nobody holds it, by the number `max(there, claim.seen) + 1`. The seat that
    /// already stands for this node and nonce is won, too: because the answer to an earlier try was
    /// lost, or because it was handed over. [`renew`](Self::renew) then says until when.
    fn take(&mut self, claim: &Claim) -> Result<Take>;

    /// Holds the seat for longer. An error says nothing about the seat: what was held is held until its
    /// time is over, and the call may be repeated.
    fn renew(&mut self) -> Result<Lease>;

    /// Gives the seat to another node at once, by the next number: for a planned switchover. The other
    /// node finds it by [`take`](Self::take) with the same claim.
    fn hand_over(&mut self, to: &Claim) -> Result<Take>;

    /// Lets go of the seat. Fine if it is held no more.
    fn resign(&mut self) -> Result<()>;

    /// Registers that less is promised from a log byte on, or that this is over. Only the holder can:
    /// otherwise [`Kind::Fenced`], and nothing was registered. It stays when the
    /// holder dies.
    fn degrade(&mut self, from: Option<LogByte>) -> Result<()>;

    /// Asks that nobody becomes leader by itself, or that this is over. All see it in their [`Seat`].
    fn pause(&mut self, paused: bool) -> Result<()>;

    /// Says where a member is found.
    fn join(&mut self, me: &Member) -> Result<()>;

    /// Those who joined, by node.
    fn members(&mut self) -> Result<Vec<Member>>;

    /// Names this cluster's log unless it has a name; returns the name it has.
    fn claim_log(&mut self, log: Id) -> Result<Id>;
}

/// Who wants to lead. The nonce is drawn anew for each try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The log.
    pub log: Id,
    /// The node.
    pub node: Id,
    /// What people call it.
    pub name: String,
    /// Where it serves.
    pub address: String,
    /// Becomes the epoch's nonce.
    pub nonce: u64,
    /// The highest epoch number that the node knows of: in its log, its promise, its archive.
    pub seen: u64,
}

/// Who leads, or led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub node: Id,
    /// What people call it; empty where nothing says so.
    pub name: String,
    /// Where it serves; empty where nothing says so.
    pub address: String,
    /// By which epoch.
    pub epoch: Epoch,
}

impl Holder {
    /// Whether this is what the claim was for.
    pub fn is(&self, claim: &Claim) -> bool {
        (self.node, self.epoch.nonce) == (claim.node, claim.nonce)
    }
}

/// What stands at the coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// The highest number handed out.
    pub number: u64,
    /// Who holds it; `None`: it is free.
    pub holder: Option<Holder>,
    /// Who took it last, if that is known.
    pub last: Option<Holder>,
    /// When that was, nanoseconds since the Unix epoch by the taker's clock.
    pub taken: Option<i64>,
    /// The spell in which less is promised.
    pub degraded: Option<Degraded>,
    /// Whether nobody is to become leader by itself.
    pub paused: bool,
    /// The cluster's log.
    pub log: Option<Id>,
}

/// A spell during which acknowledgements say `durable` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// Whose spell it is.
    pub epoch: Epoch,
    /// It began behind this log byte.
    pub from: LogByte,
}

/// What became of taking the seat.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, once in seconds")]
pub enum Take {
    /// It is the claim's, by this epoch.
    Won(Epoch),
    /// It is not.
    Held(Seat),
}

/// What became of holding the seat for longer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, once in seconds")]
pub enum Lease {
    /// It is held until then, nanoseconds of the caller's [`Fs::elapsed`](crate::fs::Fs::elapsed). A
    /// holder stops a margin before, since clocks do not run alike.
    Held {
        /// The time.
        until: u64,
    },
    /// It is held no more; this stands there.
    Lost(Seat),
}

/// What people call a node, and where it serves, are at most so long.
const MAX_WORDS_BYTES: usize = 256;

impl Claim {
    /// Refuses what cannot be written down.
    pub(crate) fn check(&self) -> Result<()> {
        words(&self.name, &self.address)
    }

    /// The number that follows what is there and what was seen.
    pub(crate) fn after(&self, there: u64) -> Result<u64> {
        let seen = if mutant::on(Mutant::ForgetSeen) { 0 } else { self.seen };
        there.max(seen).checked_add(1).ok_or_else(|| {
            Error::new(
                Kind::InvalidInput,
                "expected an epoch number with one behind it, found none",
            )
            .help("something wrote the highest number there can be: that epoch cannot be followed")
        })
    }
}

impl Member {
    pub(crate) fn check(&self) -> Result<()> {
        words(&self.name, &self.address)
    }
}

fn words(name: &str, address: &str) -> Result<()> {
    for (what, text) in [("name", name), ("address", address)] {
        if text.len() > MAX_WORDS_BYTES || text.chars().any(char::is_control) {
            let message =
                format!("expected a node's {what} of at most {MAX_WORDS_BYTES} bytes on one line");
            return Err(Error::new(Kind::InvalidInput, message));
        }
    }
    Ok(())
}

/// The error of a holder that holds no more.
pub(crate) fn not_held(place: &str, seat: &Seat) -> Error {
    let found = match &seat.holder {
        Some(holder) => format!("epoch {} of node {}", holder.epoch.number, holder.node),
        None => "that nobody holds it".to_owned(),
    };
    Error::new(Kind::Fenced, format!("expected to hold the seat at {place}, found {found}"))
        .help("this node leads no more: nothing was registered; follow the leader")
}

/// The error of a claim for another log than the cluster's.
pub(crate) fn wrong_log(place: &str, claimed: Id, there: Id) -> Error {
    Error::new(
        Kind::WrongLog,
        format!("expected the cluster of log {claimed} at {place}, found that of log {there}"),
    )
    .help("each cluster needs a place of its own: name another one")
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
