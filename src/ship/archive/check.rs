//! Verifying an archive: every entry, every hash, every byte that a reader would get.
//!
//! Called by the command line. Changes nothing. It walks from the first entry, tombstones
//! included, and then reads what the archive holds now.

use std::path::Path;

use crate::error::{Error, Result};
use crate::segment::{FOOTER_BYTES, Footer, SegmentHeader};

use super::entry::{EntryHead, What};
use super::epoch::{OWNER_BYTES, Owner};
use super::name::{Hash, ObjectName};
use super::state::{Held, Piece, State};
use super::store::Store;
use super::{rollup, snapshot, walk};

/// Something wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveProblem {
    /// The object.
    pub object: String,
    /// What is wrong, in words.
    pub problem: String,
}

/// What verifying found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchiveReport {
    /// Entries walked.
    pub entries: u64,
    /// Of these, pruned.
    pub tombstones: u64,
    /// Sealed segments read.
    pub segments: u64,
    /// Tails read.
    pub tails: u64,
    /// Snapshots read.
    pub snapshots: u64,
    /// Bytes read of all these.
    pub bytes: u64,
    /// What is wrong.
    pub problems: Vec<ArchiveProblem>,
}

/// Reads all of an archive. An error is for a store that cannot be read; damage is in the report.
pub fn verify_archive(store: &dyn Store) -> Result<ArchiveReport> {
    let mut report = ArchiveReport::default();
    chain(store, &mut report)?;
    let state = match walk::load(store) {
        Ok(state) => state,
        Err(error) if is_damage(&error) => {
            report.note(Path::new("log"), &error);
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    if state.n < report.entries {
        // More may have been appended since; fewer cannot be.
        report.say(ObjectName::Log(state.n + 1), "the walk from the newest rollup ends before it");
    }
    for piece in state.pieces.values() {
        match piece {
            Piece::Sealed(held) => segment(store, &state, held, &mut report)?,
            Piece::Tails(tails) => {
                for tail in tails {
                    let name = ObjectName::Log(tail.n);
                    match walk::entry(store, tail.n, tail.hash) {
                        Ok((_, payload)) => {
                            report.tails += 1;
                            report.bytes += payload.len() as u64;
                        }
                        Err(error) if is_damage(&error) => report.note_object(name, &error),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
    for (_, of) in &snapshot::live(store, &state)? {
        let mut problems = Vec::new();
        let mut say = |name, problem: &str| problems.push((name, problem.to_owned()));
        report.bytes += snapshot::check(store, &state, of, &mut say)?;
        report.snapshots += 1;
        problems.iter().for_each(|(name, problem)| report.say(*name, problem));
    }
    Ok(report)
}

/// The chain from the first entry; a state beside it, as long as nothing was pruned.
fn chain(store: &dyn Store, report: &mut ArchiveReport) -> Result<()> {
    let mut state = Some(State::default());
    let mut previous = Hash::default();
    loop {
        let n = report.entries + 1;
        let head = match walk::head(store, n) {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(()),
            Err(error) if is_damage(&error) => {
                report.note_object(ObjectName::Log(n), &error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        report.entries = n;
        if head.previous != previous {
            report.say(head.name(), "it does not name the hash of the entry before");
        }
        previous = head.hash();
        match &head.what {
            What::Tombstone { .. } => {
                report.tombstones += 1;
                state = None;
            }
            What::Fence { .. } => owner(store, &head, report)?,
            What::Rollup => rolled(store, &head, state.as_ref(), report)?,
            _ => {}
        }
        if let Some(walked) = &mut state
            && let Err(error) = walked.apply(&head)
        {
            report.note_object(head.name(), &error);
            state = None;
        }
    }
}

fn owner(store: &dyn Store, head: &EntryHead, report: &mut ArchiveReport) -> Result<()> {
    let name = ObjectName::Epoch(head.epoch.number);
    let expected = Owner { log: head.log, epoch: head.epoch, node: head.node };
    let found = store.get_range(&name, 0, OWNER_BYTES + 1)?;
    if found.map(|bytes| Owner::decode(&bytes).ok()) != Some(Some(expected)) {
        report.say(name, "it does not name who fenced with this epoch");
    }
    Ok(())
}

fn rolled(
    store: &dyn Store,
    head: &EntryHead,
    walked: Option<&State>,
    report: &mut ArchiveReport,
) -> Result<()> {
    let said = match walk::payload(store, head).and_then(|payload| rollup::decode(&payload)) {
        Ok(said) => said,
        Err(error) if is_damage(&error) => {
            report.note_object(head.name(), &error);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if walked.is_some_and(|walked| rollup::encode(walked) != rollup::encode(&said)) {
        report.say(head.name(), "the rollup is not what the entries before it come to");
    }
    Ok(())
}

fn segment(
    store: &dyn Store,
    state: &State,
    held: &Held,
    report: &mut ArchiveReport,
) -> Result<()> {
    let sealed = &held.sealed;
    let name = sealed.name();
    let len = usize::try_from(sealed.file_bytes).unwrap_or(usize::MAX - 1);
    let Some(bytes) = store.get_range(&name, 0, len.saturating_add(1))? else {
        report.say(name, "an entry names it, and it is not there");
        return Ok(());
    };
    report.segments += 1;
    report.bytes += bytes.len() as u64;
    if Hash::of(&bytes) != sealed.hash {
        report.say(name, "its content does not have the hash in its name");
        return Ok(());
    }
    let header = SegmentHeader::decode(&bytes);
    let footer = bytes.last_chunk::<FOOTER_BYTES>();
    let footer = footer.map(|footer| Footer::decode(footer, bytes.len() as u64));
    let fits = match (header, footer) {
        (Ok(header), Some(Ok(Some(footer)))) => {
            let data = usize::try_from(footer.data_end).unwrap_or(usize::MAX);
            header.log == state.log
                && header.base == sealed.base
                && footer.end() == sealed.end
                && footer.end_offset == sealed.end_offset
                && footer.hash == sealed.seal.0
                && bytes.get(..data).is_some_and(|data| Hash::of(data) == sealed.seal)
        }
        _ => false,
    };
    if !fits {
        report.say(name, "it is not the sealed segment that its entry says");
    }
    Ok(())
}

fn is_damage(error: &Error) -> bool {
    use crate::error::Kind;
    matches!(error.kind(), Kind::Corrupt | Kind::NotFound | Kind::WrongLog | Kind::NewerVersion)
}

impl ArchiveReport {
    fn say(&mut self, name: ObjectName, problem: &str) {
        self.problems.push(ArchiveProblem { object: name.to_string(), problem: problem.into() });
    }

    fn note_object(&mut self, name: ObjectName, error: &Error) {
        self.say(name, error.message());
    }

    fn note(&mut self, object: &Path, error: &Error) {
        let object = error.file().unwrap_or(object).to_string_lossy().into_owned();
        self.problems.push(ArchiveProblem { object, problem: error.message().to_owned() });
    }
}
