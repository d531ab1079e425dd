//! The archive: a shared store of sealed segments and tails, ordered by one contested sequence.
//!
//! ```text
//! data/<log byte>-<hash>.seg    immutable, named by content: nobody contends
//! log/<n>                       THE contested namespace: contiguous n, create-if-absent
//! epoch/<number>                one owner each
//! snap/<offset>-<epoch>/…       manifest last
//! pin/<id>, head                retention pins; a hint
//! ```
//!
//! Called by users and the command line; uses `segment`, `log::files` through
//! [`Directory`](super::Directory), and a [`Store`]. Everything is synchronous; the runtime that
//! remote stores need is hidden in `remote`. Invariants:
//! - only a create-if-absent of `log/<n>` decides anything; leases, lists and hints never do;
//! - a data object exists for readers only once an entry names it;
//! - a name under `log/` and `epoch/` is never freed: pruning overwrites;
//! - nothing is published that is not durable at the leader.

mod check;
mod entry;
mod epoch;
#[cfg(any(test, feature = "sim"))]
pub mod fake;
mod frames;
mod history;
mod local;
mod name;
mod probe;
mod prune;
mod publish;
mod rollup;
mod sequence;
mod source;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod walk;

pub use walk::load;
pub use check::{ArchiveProblem, ArchiveReport, verify_archive};
pub use entry::{
    ENTRY_VERSION, EntryHead, HEAD_BYTES, MAX_PAYLOAD_BYTES, Sealed, SnapshotRef, Tail, What,
};
pub use epoch::Owner;
pub use local::LocalStore;
pub use name::{Hash, ObjectName, Prefix, SnapshotName};
pub use probe::probe;
pub use prune::{PrunePlan, plan_prune, prune};
pub use publish::{PublishOptions, Publisher, Pushed};
pub use source::Archive;
pub use state::{Cut, Held, Piece, State, TailRef};
pub use store::{Create, Store};
