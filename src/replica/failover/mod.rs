//! Another leader: who may become it, what it must have heard before, and who it is asked of (feature
//! `wire`).
//!
//! Called by whoever runs a node (`server`, the simulation); drives a [`Follower`](super::Follower) and the
//! log's small files. Nothing here knows connections, threads or clocks of its own: they are behind
//! [`Peers`] and [`Coordinator`](super::coordinator::Coordinator).
//!
//! ```text
//! election: leader silent, seat free ── take ──► an epoch is won
//! promotion: promise it to oneself ──► ask the others ──► N - k promises? ──► fetch the longest tail
//!                                          ▲─── the tail has a newer set ──┘          │
//!                                                      Leader ◄── epoch_start ◄───────┘
//! ```
//!
//! Invariants:
//! - a candidate counts promises, never the absence of answers; positions are those that came with the
//!   promises;
//! - what is promised is durable before it is said, and binds a node to take frames from nobody older;
//! - a node that lost what it had acknowledged is not counted, and does not lead.

#[cfg(test)]
mod archive_tests;
mod ask;
mod confirm;
mod election;
mod promotion;
mod quorum;
pub mod seat;
#[cfg(test)]
mod tests;
mod voter;

pub use ask::{Ask, Peer, Peers, Standing};
pub use confirm::confirm;
#[cfg(feature = "server")]
pub(crate) use election::led_last;
pub use election::{Election, Move, Policy, Sight};
pub use promotion::{Promotion, Stage, archived_epoch, survey};
pub use quorum::{Lacking, lacks};
pub use voter::Voter;

pub use crate::log::promises::Promises;
