//! Pruning: what an archive no longer needs, and taking it away without freeing a name.
//!
//! Called by the command line. Deleting an entry would let a writer that stalled create it again,
//! so an entry is overwritten by a tombstone, which keeps number, epoch, put id and hash: the chain
//! still holds, and every create of that name still fails. Invariants:
//! - only entries below the newest rollup that no live piece needs are overwritten;
//! - what a fence cut stays: it is for somebody to look at;
//! - a data object goes only when no entry's segment is it and named segments cover its range;
//! - of a snapshot the entry goes first, then the manifest, then runs that no other one names;
//! - while anything is pinned, nothing goes; pins that have ended go first.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::position::Id;

use super::entry::{HEAD_BYTES, SnapshotRef, What};
use super::name::{Hash, ObjectName, Prefix};
use super::pin::pins;
use super::snapshot::MAX_MANIFEST_BYTES;
use super::state::{Cut, Piece, State};
use super::store::Store;
use super::{snapshot, walk};

/// What pruning would take away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunePlan {
    /// Entries that become tombstones, and the bytes they carry.
    pub entries: Vec<(u64, u64)>,
    /// Data objects that go, and their bytes.
    pub data: Vec<(ObjectName, u64)>,
    /// Entries of snapshots that go, older than those that are kept.
    pub snapshots: Vec<u64>,
    /// Manifests and runs that no snapshot needs which is kept, and their bytes.
    pub pieces: Vec<(ObjectName, u64)>,
    /// Pins that count: with any, nothing goes.
    pub pins: usize,
    /// Pins that have ended: they go.
    pub ended: Vec<Id>,
}

impl PrunePlan {
    /// Bytes that would be free.
    pub fn bytes(&self) -> u64 {
        let entries = self.entries.iter().map(|(_, bytes)| bytes);
        entries.chain(self.objects().map(|(_, bytes)| bytes)).sum()
    }

    /// Objects that go, but for pins.
    pub fn objects(&self) -> impl Iterator<Item = &(ObjectName, u64)> {
        self.data.iter().chain(&self.pieces)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.objects().next().is_none()
            && self.snapshots.is_empty()
            && self.ended.is_empty()
    }
}

/// What could go now, at `now` in nanoseconds since the Unix epoch; of snapshots, which only help who
/// begins, all but the newest `keep_snapshots` (one at least), if that is said. Lists may be late: what
/// they leave out stays until the next time.
pub fn plan_prune(store: &dyn Store, now: i64, keep_snapshots: Option<usize>) -> Result<PrunePlan> {
    let state = walk::load(store)?;
    let mut plan = PrunePlan::default();
    (plan.pins, plan.ended) = pinned(store, now)?;
    if plan.pins > 0 {
        return Ok(plan);
    }
    let needed = needed_entries(&state);
    for (name, bytes) in store.list(Prefix::Log)? {
        let ObjectName::Log(n) = name else { continue };
        // What carries nothing takes no room.
        if n < state.rollup && bytes > HEAD_BYTES as u64 && !needed.contains(&n) {
            plan.entries.push((n, bytes - HEAD_BYTES as u64));
        }
    }
    plan.entries.sort_unstable();
    let named = named_data(&state);
    for (name, bytes) in store.list(Prefix::Data)? {
        let ObjectName::Data(base, _) = name else { continue };
        let end = base.0.saturating_add(bytes);
        if !named.contains(&name) && covered(&state, base.0, end) {
            plan.data.push((name, bytes));
        }
    }
    plan.data.sort_unstable();
    let live = snapshot::live(store, &state)?;
    let spare = live.len().saturating_sub(keep_snapshots.unwrap_or(usize::MAX).max(1));
    // A walk that begins at the rollup must not meet a tombstone.
    let old = live.iter().take(spare).filter(|(n, _)| *n < state.rollup);
    plan.snapshots.extend(old.clone().map(|(n, _)| *n));
    for (_, of) in old {
        let name = ObjectName::Manifest(of.name, of.manifest);
        let bytes = store.get(&name, MAX_MANIFEST_BYTES)?.map_or(0, |bytes| bytes.len() as u64);
        plan.pieces.push((name, bytes));
    }
    let needed = needed_runs(store, &state, &live, &plan.snapshots)?;
    for (name, bytes) in store.list(Prefix::Run)? {
        let ObjectName::Run(run) = name else { continue };
        if needed.as_ref().is_some_and(|needed| !needed.contains(&run)) {
            plan.pieces.push((name, bytes));
        }
    }
    plan.pieces.sort_unstable();
    Ok(plan)
}

/// How many pins count, and which have ended.
fn pinned(store: &dyn Store, now: i64) -> Result<(usize, Vec<Id>)> {
    let (mut count, mut ended) = (0, Vec::new());
    for (id, pin) in pins(store)? {
        match pin.is_some_and(|pin| pin.has_ended(now)) {
            true => ended.push(id),
            false => count += 1,
        }
    }
    Ok((count, ended))
}

/// The runs that snapshots name, but for those that go. `None` when a manifest is damaged: what it
/// names must not go, and nobody knows what that is.
fn needed_runs(
    store: &dyn Store,
    state: &State,
    live: &[(u64, SnapshotRef)],
    without: &[u64],
) -> Result<Option<BTreeSet<Hash>>> {
    let mut needed = BTreeSet::new();
    for (_, of) in live.iter().filter(|(n, _)| !without.contains(n)) {
        match snapshot::runs(store, state, of) {
            Ok(runs) => needed.extend(runs),
            Err(e) if snapshot::is_damage(&e) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    Ok(Some(needed))
}

/// Does what the plan says, at `now`, unless something was pinned since.
pub fn prune(store: &dyn Store, plan: &PrunePlan, now: i64) -> Result<()> {
    for id in &plan.ended {
        store.delete(&ObjectName::Pin(*id))?;
    }
    if plan.pins > 0 {
        return Ok(());
    }
    if let (1.., _) = pinned(store, now)? {
        return Err(Error::new(Kind::Locked, "expected no pins, found one that was set meanwhile")
            .in_file(Path::new(&store.place()))
            .help("nothing was taken away; `tidelog archive pins` says whose it is"));
    }
    let state = walk::load(store)?;
    let needed = needed_entries(&state);
    for (n, _) in &plan.entries {
        // Held against the archive as it is now, not as it was planned.
        if *n >= state.rollup || needed.contains(n) {
            continue;
        }
        let head = walk::head(store, *n)?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("expected entry {n}, found none"))
                .in_file(&store.file(&ObjectName::Log(*n)))
        })?;
        if !matches!(head.what, What::Tombstone { .. }) {
            store.put(&head.name(), &head.tombstone().encode())?;
        }
    }
    let named = named_data(&state);
    for (name, bytes) in &plan.data {
        let ObjectName::Data(base, _) = name else { continue };
        if !named.contains(name) && covered(&state, base.0, base.0.saturating_add(*bytes)) {
            store.delete(name)?;
        }
    }
    for n in &plan.snapshots {
        let head = walk::head(store, *n)?.filter(|head| matches!(head.what, What::Snapshot(_)));
        if let Some(head) = head.filter(|_| *n < state.rollup) {
            store.put(&head.name(), &head.tombstone().encode())?;
        }
    }
    // The entries went first: what they named is of no meaning now.
    let live = snapshot::live(store, &state)?;
    let needed = needed_runs(store, &state, &live, &[])?;
    for (name, _) in &plan.pieces {
        let goes = match name {
            ObjectName::Run(run) => needed.as_ref().is_some_and(|needed| !needed.contains(run)),
            name => live.iter().all(|(_, of)| ObjectName::Manifest(of.name, of.manifest) != *name),
        };
        if goes {
            store.delete(name)?;
        }
    }
    Ok(())
}

fn needed_entries(state: &State) -> BTreeSet<u64> {
    let tails = state.pieces.values().flat_map(|piece| match piece {
        Piece::Tails(tails) => tails.as_slice(),
        Piece::Sealed(_) => &[],
    });
    let cut = state.cut.iter().map(Cut::n);
    tails.map(|tail| tail.n).chain(cut).collect()
}

fn named_data(state: &State) -> BTreeSet<ObjectName> {
    let live = state.pieces.values().filter_map(|piece| match piece {
        Piece::Sealed(held) => Some(held.sealed.name()),
        Piece::Tails(_) => None,
    });
    let cut = state.cut.iter().filter_map(|cut| match cut {
        Cut::Sealed(held) => Some(held.sealed.name()),
        Cut::Tail(_) => None,
    });
    live.chain(cut).collect()
}

/// Whether whole named segments, one behind the other, hold everything from `from` to `to`.
fn covered(state: &State, from: u64, to: u64) -> bool {
    let mut at = from;
    for piece in state.pieces.values() {
        let Some(sealed) = piece.sealed() else { continue };
        if sealed.base.0 <= at && at < sealed.end.0 {
            at = sealed.end.0;
        }
    }
    at >= to && from >= state.floor.0
}
