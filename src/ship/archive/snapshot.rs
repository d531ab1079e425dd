//! Snapshots in the archive: published beside the log, listed, read, held against their hashes.
//!
//! Called by publishers, by the archive as a source, and by whoever verifies. The order that makes a
//! snapshot: its runs, its manifest, the entry that names the manifest by hash. Invariants:
//! - a snapshot exists for readers once an entry names it: what an interrupted upload left is of no
//!   meaning, and is used by the next one;
//! - a run that is there is not sent again, whichever snapshot it was sent for;
//! - what an entry names lies behind log that the archive holds, of the same history;
//! - a snapshot whose entry is a tombstone was pruned: it may still be in a rollup, and counts no more;
//! - while one is sent a pin is set, so that no prune takes a run that it counts on.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::ship::SnapshotOffer;
use crate::table::{Manifest, OpenSnapshot, RunId, SNAPSHOT, check_run};

use super::entry::{SnapshotRef, What};
use super::epoch::Owner;
use super::name::{Hash, ObjectName};
use super::pin::{drop_pin, set_pin};
use super::publish::{Publisher, Pushed};
use super::state::State;
use super::store::Store;
use super::walk;

/// No manifest is larger.
pub(super) const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// The end of a run that is compared before it is taken to be there: its footer, which holds the hash
/// of the rest.
const COMPARED_BYTES: u64 = 256;

/// A pin of who sends a snapshot ends after this; one that died leaves it until then.
const SENDING: Duration = Duration::from_secs(3600);

/// What publishing a snapshot did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placed {
    /// The snapshot, as its entry names it.
    pub snapshot: SnapshotRef,
    /// Whether it was there already.
    pub known: bool,
    /// Runs that had to be sent; the others were there.
    pub sent: usize,
    /// Their bytes.
    pub sent_bytes: u64,
}

impl Publisher {
    /// Publishes a snapshot of the log that this publisher publishes. The archive must hold that log
    /// up to where the snapshot stands: push first.
    pub fn snapshot(&mut self, snapshot: &OpenSnapshot) -> Result<Placed> {
        let mut pushed = Pushed::default();
        self.settle(&mut pushed)?;
        self.catch_up()?;
        let lead = self.from.leadership()?;
        if snapshot.log() != lead.log {
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected a snapshot of log {}, found one of {}", lead.log, snapshot.log()),
            )
            .in_file(self.from.path()));
        }
        let Some(me) = self.owner(&lead)? else { return Err(self.too_early(snapshot)) };
        self.check_fenced(&me)?;
        let at = snapshot.position();
        let held = self.held.filter(|_| self.state.epoch == me.epoch);
        let here = held.is_some_and(|(byte, offset)| at.log_byte <= byte && at.offset <= offset);
        if !here || at.log_byte < self.state.floor {
            return Err(self.too_early(snapshot));
        }
        let name = snapshot.name();
        if let Some((n, there)) = self.state.snapshots.iter().find(|(_, s)| s.name == name)
            && is_live(&*self.store, *n)?
        {
            return Ok(Placed { snapshot: *there, known: true, sent: 0, sent_bytes: 0 });
        }
        let pinned = set_pin(&*self.store, &**self.from.fs(), "a snapshot on its way", SENDING)?.0;
        let placed = self.place(&me, snapshot, &mut pushed);
        // One that cannot be dropped ends by itself.
        let _ = drop_pin(&*self.store, pinned);
        placed
    }

    /// Sends what is missing, then names it.
    fn place(
        &mut self,
        me: &Owner,
        snapshot: &OpenSnapshot,
        pushed: &mut Pushed,
    ) -> Result<Placed> {
        let (sent, sent_bytes) = send_runs(&*self.store, snapshot)?;
        let (name, bytes) = (snapshot.name(), snapshot.bytes());
        let manifest = Hash::of(snapshot.manifest());
        self.store.put(&ObjectName::Manifest(name, manifest), snapshot.manifest())?;
        let log_byte = snapshot.position().log_byte;
        let placed = SnapshotRef { name, log_byte, bytes, manifest };
        self.append(me, What::Snapshot(placed), &[], pushed)?;
        self.roll_up(me, pushed)?;
        walk::write_hint(&*self.store, self.state.n);
        Ok(Placed { snapshot: placed, known: false, sent, sent_bytes })
    }

    fn too_early(&self, snapshot: &OpenSnapshot) -> Error {
        let state = &self.state;
        Error::new(
            Kind::NotFound,
            format!(
                "expected the archive to hold this log up to offset {}, where the snapshot stands; \
                 it holds offsets {} to {}",
                snapshot.position().offset,
                state.floor_offset,
                state.end_offset
            ),
        )
        .in_file(std::path::Path::new(&self.store.place()))
        .help("publish the log first: `tidelog archive push`")
    }
}

/// Sends the runs of a snapshot that are not there yet; how many, and their bytes. Until an entry
/// names the snapshot they are of no meaning, and a prune may take them.
pub fn send_runs(store: &dyn Store, snapshot: &OpenSnapshot) -> Result<(usize, u64)> {
    let (mut sent, mut sent_bytes) = (0, 0);
    for (run, bytes) in snapshot.runs() {
        if has_run(store, snapshot, run, bytes)? {
            continue;
        }
        let mut read = |byte, part: &mut [u8]| snapshot.read(run, byte, part);
        store.put_from(&ObjectName::Run(Hash(run.0)), bytes, &mut read)?;
        (sent, sent_bytes) = (sent + 1, sent_bytes + bytes);
    }
    Ok((sent, sent_bytes))
}

/// Whether a run is in the archive: objects appear whole, so who finds its end finds all of it.
fn has_run(store: &dyn Store, snapshot: &OpenSnapshot, run: RunId, bytes: u64) -> Result<bool> {
    let at = bytes.saturating_sub(COMPARED_BYTES);
    let mut mine = vec![0; usize::try_from(bytes - at).expect("a few bytes")];
    snapshot.read(run, at, &mut mine)?;
    // One byte more than there may be: an object of another length is another one.
    let there = store.get_range(&ObjectName::Run(Hash(run.0)), at, mine.len() + 1)?;
    Ok(there.as_deref() == Some(&mine[..]))
}

/// Whether the snapshot that entry `n` names was not pruned.
fn is_live(store: &dyn Store, n: u64) -> Result<bool> {
    let head = walk::head(store, n)?;
    Ok(head.is_some_and(|head| matches!(head.what, What::Snapshot(_))))
}

/// The snapshots that were not pruned, oldest entry first. Only those that the newest rollup carries
/// can have been: each of these costs a request.
pub(super) fn live(store: &dyn Store, state: &State) -> Result<Vec<(u64, SnapshotRef)>> {
    let mut live = Vec::new();
    for (n, of) in &state.snapshots {
        if *n >= state.rollup || is_live(store, *n)? {
            live.push((*n, *of));
        }
    }
    Ok(live)
}

/// The manifest of a snapshot that an entry names, held against the entry.
pub(super) fn manifest(store: &dyn Store, state: &State, of: &SnapshotRef) -> Result<Vec<u8>> {
    let name = ObjectName::Manifest(of.name, of.manifest);
    let file = store.file(&name);
    let Some(bytes) = store.get(&name, MAX_MANIFEST_BYTES)? else {
        return Err(Error::new(Kind::NotFound, "expected the manifest that an entry names")
            .in_file(&file)
            .help("run `tidelog archive verify`; another snapshot may do"));
    };
    if Hash::of(&bytes) != of.manifest {
        return Err(Error::new(Kind::Corrupt, "expected the manifest whose hash its entry holds")
            .in_file(&file)
            .help("run `tidelog archive verify`; another snapshot may do"));
    }
    let read = Manifest::parse(&bytes, SNAPSHOT).map_err(|e| e.in_file(&file))?;
    let said = (read.log, read.name(), read.mark.position.log_byte, read.bytes());
    if said != (state.log, of.name, of.log_byte, of.bytes) {
        return Err(
            Error::new(Kind::Corrupt, "expected the snapshot that its entry says").in_file(&file)
        );
    }
    Ok(bytes)
}

/// The runs that a snapshot names.
pub(super) fn runs(store: &dyn Store, state: &State, of: &SnapshotRef) -> Result<Vec<Hash>> {
    let manifest = Manifest::parse(&manifest(store, state, of)?, SNAPSHOT)?;
    Ok(manifest.runs.iter().map(|run| Hash(run.id.0)).collect())
}

/// What the archive offers, oldest first.
pub(super) fn offers(state: &State) -> Vec<SnapshotOffer> {
    let offer = |(_, of): &(u64, SnapshotRef)| SnapshotOffer {
        name: of.name,
        log: state.log,
        log_byte: of.log_byte,
        bytes: of.bytes,
        link: 0,
    };
    state.snapshots.iter().map(offer).collect()
}

/// Reads exactly `buf` of a run.
pub(super) fn read_run(store: &dyn Store, run: RunId, byte: u64, buf: &mut [u8]) -> Result<()> {
    let name = ObjectName::Run(Hash(run.0));
    match store.get_range(&name, byte, buf.len())? {
        Some(bytes) if bytes.len() == buf.len() => {
            buf.copy_from_slice(&bytes);
            Ok(())
        }
        Some(bytes) => Err(Error::new(
            Kind::Corrupt,
            format!("expected {} bytes at {byte}, found {}", buf.len(), bytes.len()),
        )
        .in_file(&store.file(&name))
        .at_byte(byte)
        .help("run `tidelog archive verify`; another snapshot may do")),
        None => Err(Error::new(Kind::NotFound, "expected the run that a manifest names")
            .in_file(&store.file(&name))
            .help("run `tidelog archive verify`; another snapshot may do")),
    }
}

/// What is in the archive, oldest first, and what is wrong with each, in words: every byte is read
/// with `verify`, none but the entries without.
pub fn snapshots(store: &dyn Store, verify: bool) -> Result<Vec<(SnapshotRef, Vec<String>)>> {
    let state = walk::load(store)?;
    let mut checked = Vec::new();
    for (_, of) in &live(store, &state)? {
        let mut problems = Vec::new();
        if verify {
            check(store, &state, of, &mut |name, problem| {
                problems.push(format!("{name}: {problem}"))
            })?;
        }
        checked.push((*of, problems));
    }
    Ok(checked)
}

/// Reads all of a snapshot; tells `say` what is wrong with which object. The number of bytes read.
pub(super) fn check(
    store: &dyn Store,
    state: &State,
    of: &SnapshotRef,
    say: &mut dyn FnMut(ObjectName, &str),
) -> Result<u64> {
    let manifest = match manifest(store, state, of) {
        Ok(bytes) => Manifest::parse(&bytes, SNAPSHOT)?,
        Err(e) if is_damage(&e) => {
            say(ObjectName::Manifest(of.name, of.manifest), e.message());
            return Ok(0);
        }
        Err(e) => return Err(e),
    };
    let mut bytes = 0;
    for entry in &manifest.runs {
        let mut read = |byte, part: &mut [u8]| read_run(store, entry.id, byte, part);
        let wrong = match check_run(&mut read, manifest.log, entry) {
            Ok(wrong) => wrong,
            Err(e) if is_damage(&e) => Some(e.message().to_owned()),
            Err(e) => return Err(e),
        };
        bytes += entry.bytes;
        if let Some(wrong) = wrong {
            say(ObjectName::Run(Hash(entry.id.0)), &wrong);
        }
    }
    Ok(bytes)
}

pub(super) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), Kind::Corrupt | Kind::NotFound | Kind::WrongLog | Kind::NewerVersion)
}
