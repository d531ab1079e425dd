//! The archive: a shared store of sealed segments and tails, ordered by one contested sequence.
//!
//! ```text
//! data/<log byte>-<hash>.seg    immutable, named by content: nobody contends
//! log/<n>                       THE contested namespace: contiguous n, create-if-absent
//! epoch/<number>                one owner each
//! lease/<number>, member/<id>, paused     its counter, who is there, whether failover waits
//! snap/<hash>.run               pieces of snapshots, named by content
//! snap/<offset>-<epoch>/<hash>.snapshot   a manifest, behind what it names
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
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod history;
mod lease;
mod local;
mod name;
mod pin;
mod probe;
mod prune;
mod publish;
#[cfg(feature = "object-store")]
mod remote;
mod rollup;
mod sequence;
mod snapshot;
mod source;
mod state;
mod store;
#[cfg(feature = "wire")]
mod takeover;
#[cfg(test)]
mod tests;
mod walk;

pub use check::{ArchiveProblem, ArchiveReport, verify_archive};
pub use entry::{
    ENTRY_VERSION, EntryHead, HEAD_BYTES, MAX_PAYLOAD_BYTES, Sealed, SnapshotRef, Tail, What,
};
pub use epoch::Owner;
#[cfg(feature = "wire")]
pub(crate) use history::History;
pub use lease::{LeaseMark, Member, encode_paused, read_paused};
pub use local::LocalStore;
pub use name::{Hash, ObjectName, Prefix};
pub use pin::{GRACE, Pin, drop_pin, pins, set_pin};
pub use probe::probe;
pub use prune::{PrunePlan, plan_prune, prune};
pub use publish::{PublishOptions, Publisher, Pushed};
#[cfg(feature = "object-store")]
pub use remote::RemoteStore;
#[cfg(feature = "sim")]
pub use sequence::{Contest, Won, run as run_contest};
pub use snapshot::{Placed, send_runs, snapshots};
pub use source::Archive;
pub use state::{Cut, Held, Piece, State, TailRef};
pub use store::{Create, ReadPart, Store};
#[cfg(feature = "wire")]
pub(crate) use takeover::{fence_behind, take_over};
#[cfg(feature = "sim")]
pub use walk::advance;
pub use walk::load;
#[cfg(feature = "wire")]
pub(crate) use walk::newest_epoch;

use std::sync::Arc;

use crate::error::{Error, Kind, Result};

/// The store that a URL names: `file:///path`, and, with the feature `object-store`,
/// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.
///
/// `settings` are endpoints and credentials, named as the environment variables of the provider's
/// own tools.
pub fn open_store(url: &str, settings: &[(String, String)]) -> Result<Arc<dyn Store>> {
    match url.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => Ok(Arc::new(LocalStore::at(path))),
        Some(_) => Err(Error::new(
            Kind::InvalidInput,
            format!("expected file:// and an absolute path, found {url}"),
        )),
        None => remote(url, settings),
    }
}

#[cfg(feature = "object-store")]
fn remote(url: &str, settings: &[(String, String)]) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(RemoteStore::open(url, settings)?))
}

#[cfg(not(feature = "object-store"))]
fn remote(url: &str, _: &[(String, String)]) -> Result<Arc<dyn Store>> {
    Err(Error::new(Kind::InvalidInput, format!("expected a directory, found {url}")).help(
        "this tidelog was built without object stores: build it with `--features object-store`",
    ))
}
