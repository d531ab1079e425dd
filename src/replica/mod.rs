//! Replication: a follower pulls its leader's segment files, keeps the same bytes, and applies
//! the records to its table; the leader counts who holds what.
//!
//! Called by users and `server`; uses `ship` (where bytes come from), `log` (recovery, reading) and `table`.
//!
//! ```text
//! Source ── look ──► pull ── whole verified frames ──► copy ── sync, STATE ──► Log ──► Table
//! ```
//!
//! Invariants:
//! - a sealed segment equals the leader's byte for byte, an active one in [0, end);
//! - nothing is written that has not been checked: both checksums of each frame, contiguity, the
//!   link to the segment before, the epoch's start, and in the end the seal;
//! - what was copied is durable here before STATE says so and before it is read or applied;
//! - of a history that differs nothing is overwritten; what is cut from it, when it opens, is kept first
//!   (`rejoin`).

mod ahead;
mod apply;
mod bootstrap;
#[cfg(test)]
mod bootstrap_tests;
#[cfg(test)]
mod bootstrap_tier_tests;
pub mod coordinator;
mod copy;
mod create;
#[cfg(feature = "wire")]
pub mod failover;
mod fetch;
mod follower;
mod fresh;
mod gauge;
mod hashing;
mod heal;
mod hold;
pub mod leader;
mod pause;
mod pipeline;
#[cfg(test)]
mod pipeline_tests;
mod pull;
mod receive;
mod recover;
pub mod rejoin;
mod restore;
#[cfg(test)]
mod tests;
mod trail;
mod writeout;

pub use follower::{Follower, Lag, Progress};
pub use gauge::{Gauge, Shown};
pub use leader::{Leader, Level, Outcome};
pub use pause::Pause;
pub use recover::FollowerReport;
pub use rejoin::{Rejoined, demote, diverged};
pub use restore::restore_from;
pub use trail::Trail;

/// Whether opening a follower again may make good what ended it.
pub fn heals_by_opening(kind: crate::Kind) -> bool {
    matches!(kind, crate::Kind::Gone | crate::Kind::Diverged)
}
