//! Taking an archive over before a new leader opens: its fence behind everything that is there.
//!
//! Called by a candidate that has won an epoch. Behind its fence no older leader can append, so what is there then is
//! all that was ever archived. Where the archive decides what was acknowledged the candidate takes it over first,
//! whatever is there, and then fetches what it lacks; elsewhere it fences only behind what it holds. Its publisher
//! finds the fence and goes on behind it. Invariants:
//! - the fence cuts nothing: it stands where the archive ends; where nothing was published yet it is the first entry,
//!   and the archive begins where the candidate's log does;
//! - asked again after an answer was lost, it finds its own fence.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::position::{Id, LogByte, Offset};

use super::entry::{EntryHead, What};
use super::epoch::Owner;
use super::history::{History, common};
use super::name::Hash;
use super::probe::refuses_twice;
use super::sequence::{self, Contest, Won};
use super::state::State;
use super::store::Store;
use super::walk;

/// Claims the epoch and fences off those before it, whatever they append meanwhile; the archive as of then. `floor` is
/// where the candidate's log begins.
pub(crate) fn take_over(
    store: &dyn Store,
    me: &Owner,
    fs: &Arc<dyn Fs>,
    floor: (LogByte, Offset),
) -> Result<State> {
    loop {
        // The old leader was quicker once more: behind that, then.
        if let Some(state) = fence_behind(store, me, fs, floor, walk::load(store)?)? {
            return Ok(state);
        }
    }
}

/// The same, but only behind what `state` is; `None` when something was appended meanwhile.
pub(crate) fn fence_behind(
    store: &dyn Store,
    me: &Owner,
    fs: &Arc<dyn Fs>,
    floor: (LogByte, Offset),
    mut state: State,
) -> Result<Option<State>> {
    if (state.epoch, state.node) == (me.epoch, me.node) {
        return Ok(Some(state));
    }
    let place = store.place();
    match state.n {
        // Its publisher looks closer, before it writes anything itself.
        0 => refuses_twice(store, fs)?,
        _ => check(&state, store, me).map_err(|e| e.in_file(Path::new(&place)))?,
    }
    me.claim(store)?;
    let (head, bytes) = fence(&state, me, fs, floor)?.with_payload(&[]);
    let mut contest = Contest::new(head, bytes);
    match sequence::run(store, &mut contest)? {
        Won::Mine => {
            state.apply(contest.head())?;
            walk::write_hint(store, state.n);
            Ok(Some(state))
        }
        Won::Passed => Ok(None),
    }
}

/// Whether an epoch may follow those that are there.
fn check(state: &State, store: &dyn Store, me: &Owner) -> Result<()> {
    if state.log != me.log {
        return Err(Error::new(
            Kind::WrongLog,
            format!("expected an archive of log {}, found one of {}", me.log, state.log),
        ));
    }
    if state.epoch.number < me.epoch.number {
        return Ok(());
    }
    Err(match walk::head(store, state.n)? {
        Some(head) => sequence::fenced(me.epoch.number, &head),
        None => Error::new(Kind::NotFound, "expected the archive's last entry, found none"),
    })
}

fn fence(
    state: &State,
    me: &Owner,
    fs: &Arc<dyn Fs>,
    floor: (LogByte, Offset),
) -> Result<EntryHead> {
    let mut put_id = [0; 16];
    fs.random(&mut put_id)
        .map_err(|e| Error::io("draw a put id for", Path::new("the archive"), e))?;
    let (fork, fork_offset) = match state.n {
        0 => floor,
        _ => (state.end, state.end_offset),
    };
    Ok(EntryHead {
        log: me.log,
        n: state.n + 1,
        rollup: state.rollup,
        previous: state.hash,
        epoch: me.epoch,
        node: me.node,
        put_id: Id(put_id),
        time: fs.now(),
        payload_bytes: 0,
        payload_hash: Hash::default(),
        what: What::Fence { parent: state.epoch, fork, fork_offset },
    })
}

impl State {
    /// Whether a history has all that is here.
    pub(crate) fn is_within(&self, history: &History<'_>) -> bool {
        self.n == 0 || common(self, history).0 >= self.end
    }
}
