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

mod ask;
mod election;
mod promotion;
mod quorum;
#[cfg(test)]
mod tests;
mod voter;

pub use ask::{Ask, Peer, Peers, Standing};
pub use election::{Election, Move, Policy, Sight};
pub use promotion::{Promotion, Stage, survey};
pub use quorum::Lacking;
pub use voter::Voter;

pub use crate::log::promises::Promises;
