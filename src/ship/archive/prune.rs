//! Pruning: what an archive no longer needs, and taking it away without freeing a name.
//!
//! Called by the command line. Deleting an entry would let a writer that stalled create it again,
//! so an entry is overwritten by a tombstone, which keeps number, epoch, put id and hash: the chain
//! still holds, and every create of that name still fails. Invariants:
//! - only entries below the newest rollup that no live piece needs are overwritten;
//! - what a fence cut stays: it is for somebody to look at;
//! - a data object goes only when no entry's segment is it and named segments cover its range;
//! - while anything is pinned, nothing goes; pins that have ended go first.

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};
use crate::position::Id;

use super::entry::{HEAD_BYTES, What};
use super::name::{ObjectName, Prefix};
use super::pin::pins;
use super::state::{Cut, Piece, State};
use super::store::Store;
use super::walk;

/// What pruning would take away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunePlan {
    /// Entries that become tombstones, and the bytes they carry.
    pub entries: Vec<(u64, u64)>,
    /// Data objects that go, and their bytes.
    pub data: Vec<(ObjectName, u64)>,
    /// Pins that count: with any, nothing goes.
    pub pins: usize,
    /// Pins that have ended: they go.
    pub ended: Vec<Id>,
}

impl PrunePlan {
    /// Bytes that would be free.
    pub fn bytes(&self) -> u64 {
        let entries = self.entries.iter().map(|(_, bytes)| bytes);
        entries.chain(self.data.iter().map(|(_, bytes)| bytes)).sum()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.data.is_empty() && self.ended.is_empty()
    }
}

/// What could go now, at `now` in nanoseconds since the Unix epoch. Lists may be late: what they leave
/// out stays until the next time.
pub fn plan_prune(store: &dyn Store, now: i64) -> Result<PrunePlan> {
    let state = walk::load(store)?;
    let mut plan = PrunePlan::default();
    for (id, pin) in pins(store)? {
        match pin.is_some_and(|pin| pin.has_ended(now)) {
            true => plan.ended.push(id),
            false => plan.pins += 1,
        }
    }
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
    Ok(plan)
}

/// Does what the plan says.
pub fn prune(store: &dyn Store, plan: &PrunePlan) -> Result<()> {
    for id in &plan.ended {
        store.delete(&ObjectName::Pin(*id))?;
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
