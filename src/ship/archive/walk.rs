//! Reading the sequence: where it ends, what an entry says, what the walk comes to.
//!
//! Called by publishers and readers; uses the store and `state`. Existence is monotone (a name of
//! the sequence is never freed), so the end is found by galloping from a hint, and no list is ever
//! asked for. Invariant: everything that is returned was held against the hash that names it.

use crate::error::{Error, Kind, Result};
#[cfg(feature = "wire")]
use crate::position::Epoch;

use super::entry::{EntryHead, HEAD_BYTES, What};
use super::name::{Hash, ObjectName};
use super::rollup;
use super::state::State;
use super::store::Store;

/// Times that a walk begins anew because pruning passed it.
const RESTARTS: usize = 4;
/// What a hint may be.
const HINT_BYTES: usize = 20;

/// The head of entry `n`; `None` when there is none.
pub fn head(store: &dyn Store, n: u64) -> Result<Option<EntryHead>> {
    let name = ObjectName::Log(n);
    let Some(bytes) = store.get_range(&name, 0, HEAD_BYTES)? else { return Ok(None) };
    let head = EntryHead::decode(&bytes).map_err(|e| e.in_file(&store.file(&name)))?;
    if head.n != n {
        return Err(Error::new(
            Kind::Corrupt,
            format!("expected entry {n}, found entry {}", head.n),
        )
        .in_file(&store.file(&name)));
    }
    Ok(Some(head))
}

/// What an entry carries, held against its hash.
pub fn payload(store: &dyn Store, head: &EntryHead) -> Result<Vec<u8>> {
    let name = head.name();
    let len = usize::try_from(head.payload_bytes).unwrap_or(usize::MAX - 1);
    let bytes = store.get_range(&name, HEAD_BYTES as u64, len.saturating_add(1))?;
    let bytes = bytes.ok_or_else(|| gone(store, head.n))?;
    head.check_payload(&bytes).map_err(|e| e.in_file(&store.file(&name)))?;
    Ok(bytes)
}

/// The entry of this hash with what it carries. Not found, when it was pruned meanwhile.
pub fn entry(store: &dyn Store, n: u64, hash: Hash) -> Result<(EntryHead, Vec<u8>)> {
    let Some(head) = head(store, n)? else { return Err(gone(store, n)) };
    if let What::Tombstone { .. } = head.what {
        return Err(gone(store, n));
    }
    if head.hash() != hash {
        return Err(Error::new(Kind::Corrupt, format!("expected the entry {n} of hash {hash}"))
            .in_file(&store.file(&head.name()))
            .help("the archive is damaged, or something other than tidelog wrote there"));
    }
    let payload = payload(store, &head)?;
    Ok((head, payload))
}

fn gone(store: &dyn Store, n: u64) -> Error {
    Error::new(Kind::NotFound, format!("expected entry {n}, found it gone or pruned"))
        .in_file(&store.file(&ObjectName::Log(n)))
        .help("look again: what replaced it is named further on")
}

/// The last entry, from a hint that may be wrong.
pub fn find_end(hint: u64, mut exists: impl FnMut(u64) -> Result<bool>) -> Result<u64> {
    // Everything up to `low` is there.
    let mut low = match hint > 0 && exists(hint)? {
        true => hint,
        false => 0,
    };
    let mut step = 1u64;
    let mut high = loop {
        let Some(next) = low.checked_add(step) else { break u64::MAX };
        if !exists(next)? {
            break next;
        }
        low = next;
        step = step.saturating_mul(2);
    };
    while high - low > 1 {
        let middle = low.midpoint(high);
        match exists(middle)? {
            true => low = middle,
            false => high = middle,
        }
    }
    Ok(low)
}

/// The hint; 0 if there is none that makes sense.
pub fn hint(store: &dyn Store) -> Result<u64> {
    let bytes = store.get_range(&ObjectName::Head, 0, HINT_BYTES + 1)?.unwrap_or_default();
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let digits = text.len() == HINT_BYTES && text.bytes().all(|b| b.is_ascii_digit());
    Ok(if digits { text.parse().unwrap_or(0) } else { 0 })
}

/// Writes the hint. Only readers that start anew look at it, and a wrong one costs them time
/// alone: failing is no failure.
pub fn write_hint(store: &dyn Store, n: u64) {
    let _ = store.put(&ObjectName::Head, format!("{n:020}").as_bytes());
}

/// The archive as it is now.
pub fn load(store: &dyn Store) -> Result<State> {
    let mut restarts = 0;
    loop {
        let (mut state, end) = beginning(store)?;
        if advance_to(store, &mut state, end)? && advance(store, &mut state)? {
            return Ok(state);
        }
        restarts += 1;
        if restarts == RESTARTS {
            return Err(gone(store, state.n + 1));
        }
    }
}

/// By which epoch the archive was published last, without walking it; `None` when there is none.
#[cfg(feature = "wire")]
pub(crate) fn newest_epoch(store: &dyn Store) -> Result<Option<Epoch>> {
    match end(store)? {
        0 => Ok(None),
        end => Ok(Some(head(store, end)?.ok_or_else(|| gone(store, end))?.epoch)),
    }
}

/// The last entry; 0 when there is none.
fn end(store: &dyn Store) -> Result<u64> {
    find_end(hint(store)?, |n| Ok(store.get_range(&ObjectName::Log(n), 0, 1)?.is_some()))
}

/// Where a walk begins, behind the newest rollup or before the first entry; and an entry that is there, near the end.
fn beginning(store: &dyn Store) -> Result<(State, u64)> {
    let end = end(store)?;
    if end == 0 {
        return Ok((State::default(), end));
    }
    let last = head(store, end)?.ok_or_else(|| gone(store, end))?;
    let at = match last.what {
        What::Rollup => last.n,
        _ => last.rollup,
    };
    if at == 0 {
        return Ok((State::default(), end));
    }
    let head = head(store, at)?.ok_or_else(|| gone(store, at))?;
    if !matches!(head.what, What::Rollup) {
        return Err(Error::new(
            Kind::Corrupt,
            format!("expected a rollup, found a {}", head.what.as_str()),
        )
        .in_file(&store.file(&head.name())));
    }
    let mut state = rollup::decode(&payload(store, &head)?)
        .map_err(|e| e.in_file(&store.file(&head.name())))?;
    state.begin_at(&head)?;
    Ok((state, end))
}

/// Walks to an entry that is there, several heads at a time where the store is quicker by that: one behind the other a
/// thousand answers of a slow store take minutes. `false` as of [`advance`].
fn advance_to(store: &dyn Store, state: &mut State, end: u64) -> Result<bool> {
    let width = u64::try_from(store.width()).unwrap_or(1);
    while width > 1 && state.n < end {
        let next = state.n + 1..=end.min(state.n + width);
        let heads: Vec<Result<Option<EntryHead>>> = std::thread::scope(|scope| {
            let asked: Vec<_> = next.map(|n| scope.spawn(move || head(store, n))).collect();
            let joined = asked.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined
                .map(|head| head.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        for head in heads {
            // What is not there is looked for once more.
            let Some(head) = head? else { return Ok(true) };
            if !take(store, state, &head)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Walks on to the end. `false` when pruning has passed the walk: it must begin anew.
pub fn advance(store: &dyn Store, state: &mut State) -> Result<bool> {
    while let Some(head) = head(store, state.n.saturating_add(1))? {
        if !take(store, state, &head)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn take(store: &dyn Store, state: &mut State, head: &EntryHead) -> Result<bool> {
    if matches!(head.what, What::Tombstone { .. }) {
        return Ok(false);
    }
    state.apply(head).map_err(|e| e.in_file(&store.file(&head.name())))?;
    Ok(true)
}
