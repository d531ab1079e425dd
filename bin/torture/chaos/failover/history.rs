//! What became of every record that clients wrote, held against what they were told.
//!
//! - I1 what was promised stands where it was said to; what was acknowledged and is lost lies in `diverged/`, at
//!   its place, and what was reported as cut is what lies there;
//! - I3 what was shown under a mode that promises all is part of the history;
//! - I4 the log's epochs are those that acknowledged;
//! - I5 who was told that something is lost had lost something;
//! - I10 nothing stands twice; nothing stands anywhere that nobody wrote; what all nodes refused is nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tidelog::replica::diverged;
use tidelog::{Log, Token};

use super::writer::{Name, Told, name};

/// The denominators of what was found.
#[derive(Clone, Copy, Default, Debug)]
pub struct Held {
    /// Records of the final log.
    pub records: u64,
    pub acks: u64,
    /// Of these, under a promise that none is lost.
    pub promised: u64,
    pub promised_lost: u64,
    /// Acknowledged without such a promise, and not in the final log.
    pub lost: u64,
    /// Of these, in `diverged/`.
    pub lost_and_kept: u64,
    /// Records in `diverged/`, acknowledged or not; and those that nodes said they cut.
    pub kept: u64,
    pub reported: u64,
    pub invented: u64,
    pub twice: u64,
}

/// Names and epochs by offset.
struct Records(Vec<(Option<Name>, u64)>);

/// All of a log that its readers may see.
fn records(dir: &Path) -> Result<Records, String> {
    let at = |e: tidelog::Error| format!("{}: {e}", dir.display());
    let log = Log::options().read_only(true).open(dir).map_err(at)?;
    let mut cursor = log.read_range(log.start()..log.end()).map_err(at)?;
    let mut found = Vec::new();
    while let Some(entry) = cursor.next().map_err(at)? {
        if entry.offset.0 != found.len() as u64 {
            let expected = found.len();
            return Err(format!(
                "{}: expected offset {expected}, read {}",
                dir.display(),
                entry.offset
            ));
        }
        found.push((name(entry.record.value), entry.epoch));
    }
    Ok(Records(found))
}

impl Records {
    fn at(&self, offset: u64) -> Option<(Option<Name>, u64)> {
        self.0.get(usize::try_from(offset).ok()?).copied()
    }

    fn holds(&self, token: &Token) -> bool {
        self.at(token.offset.0).is_some_and(|(_, epoch)| epoch == token.epoch.number)
    }
}

/// What lies in `diverged/`: of each record the offset, the epoch, and whose directory it is.
type Kept = BTreeMap<Name, Vec<(u64, u64, usize)>>;

/// Reads what rejoins of all nodes kept; records that nobody wrote are violations.
fn kept(
    dirs: &[(PathBuf, PathBuf)],
    held: &mut Held,
    found: &mut Vec<String>,
) -> Result<Kept, String> {
    let mut all = Kept::new();
    for (node, (dir, said)) in dirs.iter().enumerate() {
        let at = |e: tidelog::Error| format!("{}: {e}", dir.display());
        let mut here = 0;
        for one in diverged::list(dir).map_err(at)? {
            let one = one.map_err(at)?;
            let mut batches = one.batches();
            let mut count = 0;
            while let Some(batch) = batches.next().map_err(at)? {
                for entry in batch {
                    count += 1;
                    let Some(name) = name(entry.record().value) else {
                        held.invented += 1;
                        found.push(format!("{}: holds what nobody wrote", one.dir().display()));
                        continue;
                    };
                    all.entry(name).or_default().push((entry.offset.0, entry.epoch, node));
                }
            }
            if count != one.records() {
                let noted = one.records();
                found.push(format!(
                    "{}: {count} records lie there, its note tells of {noted}",
                    one.dir().display()
                ));
            }
            here += count;
        }
        let told = reported(said);
        if told != here {
            found.push(format!(
                "node{node} said that it cut {told} records, {here} lie in its diverged/"
            ));
        }
        held.kept += here;
        held.reported += told;
    }
    Ok(all)
}

/// How many records a node said it cut.
fn reported(said: &Path) -> u64 {
    let said = std::fs::read_to_string(said).unwrap_or_default();
    let count = |line: &str| {
        let (_, rest) = line.split_once("rejoined: cut ")?;
        rest.split(' ').next()?.parse::<u64>().ok()
    };
    said.lines().filter_map(count).sum()
}

/// Holds the final log, and what was kept aside, against what clients were told. `begun`: how many appends
/// each began.
pub fn hold(
    leader: &Path,
    dirs: &[(PathBuf, PathBuf)],
    begun: &[u64],
    told: &Told,
    found: &mut Vec<String>,
) -> Result<Held, String> {
    let log = records(leader)?;
    let mut held = Held { records: log.0.len() as u64, ..Held::default() };
    let kept = kept(dirs, &mut held, found)?;
    let wrote = |(writer, count): Name| {
        usize::try_from(writer).ok().and_then(|at| begun.get(at)).is_some_and(|last| count <= *last)
    };
    let mut seen = BTreeSet::new();
    for (offset, (name, epoch)) in log.0.iter().enumerate() {
        match name {
            Some(name) if wrote(*name) => {
                if !seen.insert(*name) {
                    held.twice += 1;
                    found.push(format!(
                        "I10: {name:?} stands twice, again at {offset} (epoch {epoch})"
                    ));
                }
            }
            other => {
                held.invented += 1;
                found.push(format!("invented: at {offset} (epoch {epoch}) stands {other:?}"));
            }
        }
    }
    for ack in &told.acks {
        held.acks += 1;
        held.promised += u64::from(ack.promised);
        let (offset, epoch) = (ack.token.offset.0, ack.token.epoch.number);
        if log.at(offset) == Some((Some(ack.name), epoch)) {
            continue;
        }
        let there = log.at(offset);
        if ack.promised {
            held.promised_lost += 1;
            found.push(format!(
                "I1: {:?} was promised at offset {offset} of epoch {epoch}, where stands {there:?}; it is kept at \
                 {:?}",
                ack.name,
                kept.get(&ack.name)
            ));
            continue;
        }
        held.lost += 1;
        let places = kept.get(&ack.name).map_or(&[][..], Vec::as_slice);
        let right: Vec<usize> =
            places.iter().filter(|at| (at.0, at.1) == (offset, epoch)).map(|at| at.2).collect();
        let mut nodes = right.clone();
        nodes.dedup();
        if right.is_empty() || nodes.len() != right.len() {
            found.push(format!(
                "I6: {:?} was acknowledged at offset {offset} of epoch {epoch} and lost (there stands {there:?}); \
                 it is kept at {places:?}",
                ack.name
            ));
        } else if seen.contains(&ack.name) {
            found.push(format!("I1: {:?} stands elsewhere than it was acknowledged", ack.name));
        } else {
            held.lost_and_kept += 1;
        }
    }
    for (offset, name) in &told.shown {
        if log.at(*offset).map(|at| at.0) != Some(Some(*name)) {
            let there = log.at(*offset);
            found
                .push(format!("I3: {name:?} was shown at offset {offset}, where stands {there:?}"));
        }
    }
    for name in &told.refused_for_good {
        if seen.contains(name) || kept.contains_key(name) {
            found.push(format!("every node said that {name:?} was not appended; it was"));
        }
    }
    for tokens in &told.disowned {
        if tokens.iter().all(|token| log.holds(token)) {
            let last = tokens.last();
            found.push(format!(
                "I5: a client was told that what it wrote or read was lost; all of it is there, up to {last:?}"
            ));
        }
    }
    Ok(held)
}
