//! An old leader that publishes on and on, and new ones that fence it, each with a log of its own.
//!
//! The publishers of `serve` and `archive push`, on real directories: the new leaders are copies of the
//! old one's directory that were opened as nodes of their own, and chose the same epoch number.
//! Invariants of a round, held against every entry of the archive:
//! - one of the new leaders is told that it leads, the others and the old one that they are fenced;
//! - behind its fence stands nothing of anybody else;
//! - what the old leader was told is archived stands before the fence: never past it;
//! - the sequence is whole: no gap, each entry names the one before, nothing stands twice.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use tidelog::log::Identity;
use tidelog::ship::Directory;
use tidelog::ship::archive::{
    EntryHead, Hash, ObjectName, PublishOptions, Publisher, Store, What, load, verify_archive,
};
use tidelog::{Epoch, Kind, Log, Offset, Record};

use super::lossy::{Loss, Lossy};
use crate::dice::Dice;
use crate::line::{Line, Reproduction};

/// New leaders of a round.
const CANDIDATES: u64 = 3;
/// Publications that the old leader tries at most.
const MOST_PUSHES: u64 = 60;
/// Times that somebody tries again what is unknown.
const TRIES: usize = 20;
/// Larger than any entry of these logs.
const LIMIT: usize = 1 << 20;

/// What the rounds in a store come to.
#[derive(Default)]
struct Sum {
    acked: u64,
    fenced: u64,
    entries: u64,
}

/// What the old leader was told.
struct Old {
    epoch: Epoch,
    /// The highest end that a push told it, and how many did.
    acked_end: Offset,
    acks: u64,
    last: Result<(), Kind>,
}

/// What a new leader was told.
struct New {
    epoch: Epoch,
    outcome: Result<Offset, Kind>,
    end: Offset,
}

/// All rounds in one store; `connect` makes a connection to the archive of this name.
pub fn race(
    seed: u64,
    rounds: u64,
    name: &str,
    place: &Path,
    connect: impl Fn(&str) -> Result<Arc<dyn Store>, String>,
    line: &mut Line,
) -> Result<(), String> {
    let template = place.join(format!("{name}-template"));
    made(&template)?;
    let mut sum = Sum::default();
    for round in 0..rounds {
        let at = place.join(format!("{name}-round"));
        let connect = || connect(&format!("{name}-lead-{round}"));
        let found = play(seed.wrapping_add(round << 20), &template, &at, connect, &mut sum);
        let removed = std::fs::remove_dir_all(&at);
        removed.map_err(|e| format!("cannot remove {}: {e}", at.display()))?;
        if let Err(found) = found? {
            let steps = vec![format!(
                "fence --seed {seed} --leaders {} --only leaders: {name}, round {round}",
                round + 1
            )];
            line.violation(Reproduction { seed, steps, found });
        }
    }
    line.count(&format!("{name}_leader_rounds"), rounds);
    line.count(&format!("{name}_leaders"), rounds * (CANDIDATES + 1));
    line.count(&format!("{name}_publications_acked"), sum.acked);
    line.count(&format!("{name}_leaders_fenced"), sum.fenced);
    line.count(&format!("{name}_entries_walked"), sum.entries);
    Ok(())
}

/// A log with a few records, closed cleanly.
fn made(path: &Path) -> Result<(), String> {
    let log = Log::options().create(true).open(path).map_err(|e| e.to_string())?;
    for i in 0..4u8 {
        log.append(&Record::put(b"before", &[i; 100])).map_err(|e| e.to_string())?;
    }
    log.close().map_err(|e| e.to_string())
}

/// One round: what is wrong with it, or why there is none.
fn play(
    seed: u64,
    template: &Path,
    at: &Path,
    connect: impl Fn() -> Result<Arc<dyn Store>, String>,
    sum: &mut Sum,
) -> Result<Result<(), String>, String> {
    let mut dice = Dice::new(seed);
    let leader = |who: u64, identity| -> Result<(PathBuf, Log), String> {
        let path = at.join(who.to_string());
        copy(template, &path).map_err(|e| format!("cannot copy {}: {e}", path.display()))?;
        let log = Log::options().identity(identity).open(&path).map_err(|e| e.to_string())?;
        log.append(&Record::put(b"led by", &who.to_le_bytes())).map_err(|e| e.to_string())?;
        Ok((path, log))
    };
    let (old_path, old_log) = leader(0, Identity::SameNode)?;
    let mut old = publisher(connect()?, &old_path)?;
    old.push().map_err(|e| format!("the first push: {e}"))?;
    let mut candidates = Vec::new();
    for who in 1..=CANDIDATES {
        let (path, log) = leader(who, Identity::NewNode)?;
        let lossy = Arc::new(Lossy::new(connect()?));
        candidates.push((publisher(Arc::clone(&lossy) as Arc<dyn Store>, &path)?, log, lossy));
    }
    let lossy = Arc::new(Lossy::new(connect()?));
    let mut old = publisher(Arc::clone(&lossy) as Arc<dyn Store>, &old_path)?;
    let barrier = Barrier::new(candidates.len() + 1);
    let seeds: Vec<u64> = candidates.iter().map(|_| dice.next()).collect();
    let old_seed = dice.next();
    let (old_told, new_told) = std::thread::scope(|scope| {
        let threads: Vec<_> = candidates
            .iter_mut()
            .zip(seeds)
            .map(|((publisher, log, lossy), seed)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut dice = Dice::new(seed);
                    barrier.wait();
                    std::thread::park_timeout(Duration::from_micros(dice.below(20_000)));
                    take_over(publisher, log, lossy, &mut dice)
                })
            })
            .collect();
        barrier.wait();
        let old = publish_on(&mut old, &old_log, &lossy, &mut Dice::new(old_seed));
        let new: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        (old, new)
    });
    let old_told = old_told?;
    let mut told = Vec::new();
    for new in new_told {
        told.push(new.map_err(|_| "a candidate's thread panicked".to_owned())??);
    }
    for (_, log, lossy) in candidates {
        lossy.settle();
        log.close().map_err(|e| e.to_string())?;
    }
    lossy.settle();
    // With nothing new to publish it would not ask the store.
    old_log.append(&Record::put(b"old", b"late")).map_err(|e| e.to_string())?;
    let position = old_log.durable_position();
    let zombie = old.push_to((position.log_byte, position.offset));
    let zombie = zombie.map(drop).map_err(|e| e.kind());
    old_log.close().map_err(|e| e.to_string())?;
    sum.acked += old_told.acks;
    Ok(judge(&*connect()?, &old_told, &told, zombie, sum))
}

fn publisher(store: Arc<dyn Store>, path: &Path) -> Result<Publisher, String> {
    let from = Directory::open(path).map_err(|e| e.to_string())?;
    // The store was probed once for all, and cutting what the old leader added is what fences do here.
    let mut options = PublishOptions::default();
    (options.probe, options.accept_loss) = (false, true);
    Publisher::open(store, from, options).map_err(|e| e.to_string())
}

/// Publishes one record after the other, until it is told that it is fenced.
fn publish_on(
    publisher: &mut Publisher,
    log: &Log,
    lossy: &Lossy,
    dice: &mut Dice,
) -> Result<Old, String> {
    let epoch = log.durable_position().epoch;
    let mut old = Old { epoch, acked_end: Offset(0), acks: 0, last: Ok(()) };
    for i in 0..MOST_PUSHES {
        let appended = log.append(&Record::put(b"old", &i.to_le_bytes()));
        appended.map_err(|e| e.to_string())?;
        lossy.lose(dice.chance(1, 4).then(|| dice.pick(&Loss::ALL)));
        let position = log.durable_position();
        match publisher.push_to((position.log_byte, position.offset)) {
            Ok(pushed) => {
                old.acked_end = old.acked_end.max(pushed.end);
                old.acks += 1;
            }
            Err(e) if matches!(e.kind(), Kind::Io | Kind::Unknown) => {}
            Err(e) => {
                old.last = Err(e.kind());
                break;
            }
        }
    }
    Ok(old)
}

fn take_over(
    publisher: &mut Publisher,
    log: &Log,
    lossy: &Lossy,
    dice: &mut Dice,
) -> Result<New, String> {
    let epoch = log.durable_position().epoch;
    let mut outcome = Err(Kind::Unknown);
    for _ in 0..TRIES {
        lossy.lose(dice.chance(1, 2).then(|| dice.pick(&Loss::ALL)));
        let position = log.durable_position();
        outcome = publisher
            .push_to((position.log_byte, position.offset))
            .map(|pushed| pushed.end)
            .map_err(|e| e.kind());
        if !matches!(outcome, Err(Kind::Io | Kind::Unknown)) {
            break;
        }
    }
    Ok(New { epoch, outcome, end: log.durable_end() })
}

/// Holds what everybody was told against every entry.
fn judge(
    store: &dyn Store,
    old: &Old,
    new: &[New],
    zombie: Result<(), Kind>,
    sum: &mut Sum,
) -> Result<(), String> {
    let winners: Vec<&New> = new.iter().filter(|new| new.outcome.is_ok()).collect();
    let [winner] = winners[..] else {
        let outcomes: Vec<_> = new.iter().map(|new| &new.outcome).collect();
        return Err(format!("expected one of the new leaders to lead, found {outcomes:?}"));
    };
    for loser in new.iter().filter(|new| new.outcome.is_err()) {
        if loser.outcome != Err(Kind::Fenced) {
            let found = &loser.outcome;
            return Err(format!("expected the others to be told that they are fenced: {found:?}"));
        }
        sum.fenced += 1;
    }
    if zombie != Err(Kind::Fenced) || old.last != Ok(()) && old.last != Err(Kind::Fenced) {
        let last = &old.last;
        return Err(format!("the old leader expected to be fenced, was told {last:?}, {zombie:?}"));
    }
    sum.fenced += 1;
    let (mut previous, mut put_ids, mut fence) = (Hash::default(), BTreeSet::new(), None);
    let mut held_before = Offset(0);
    for n in 1.. {
        let bytes = store.get(&ObjectName::Log(n), LIMIT).map_err(|e| e.to_string())?;
        let Some(bytes) = bytes else { break };
        let head = EntryHead::decode(&bytes).map_err(|e| format!("entry {n}: {e}"))?;
        sum.entries += 1;
        if head.n != n || head.previous != previous || !put_ids.insert(head.put_id) {
            return Err(format!("entry {n} is not the one that comes there: {head:?}"));
        }
        previous = head.hash();
        match (&head.what, fence) {
            (What::Fence { .. }, None) if head.epoch == winner.epoch => fence = Some(n),
            (_, None) if head.epoch == old.epoch => {
                if let What::Tail(tail) = &head.what {
                    held_before = held_before.max(tail.to_offset);
                }
            }
            (_, Some(_)) if head.epoch == winner.epoch => {}
            _ => {
                return Err(format!(
                    "entry {n}, a {} of epoch {}, stands where nobody of it may append (the fence of \
                     epoch {} is entry {fence:?})",
                    head.what.as_str(),
                    head.epoch,
                    winner.epoch
                ));
            }
        }
    }
    if fence.is_none() {
        return Err("the new leader was told that it leads, and its fence is not there".into());
    }
    if old.acked_end > held_before {
        return Err(format!(
            "the old leader was told that everything below offset {} is archived; before the fence \
             stands what is below {held_before}",
            old.acked_end
        ));
    }
    let state = load(store).map_err(|e| format!("the walk fails: {e}"))?;
    if state.epoch != winner.epoch || state.end_offset != winner.end {
        return Err(format!(
            "expected the archive to end at offset {} of epoch {}, found {} of {}",
            winner.end, winner.epoch, state.end_offset, state.epoch
        ));
    }
    let report = verify_archive(store).map_err(|e| format!("verifying fails: {e}"))?;
    match report.problems.first() {
        Some(problem) => Err(format!("the archive is damaged: {problem:?}")),
        None => Ok(()),
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => drop(std::fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}
