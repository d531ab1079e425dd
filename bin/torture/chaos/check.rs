//! Whether everything that was promised holds, once everything is healed: the invariants by their names.
//!
//! - I1 every acknowledged record stands where it was said to, in the leader's history and in every
//!   follower's;
//! - I2 segment files are equal, byte for byte, and so are the tables that nodes show;
//! - I3 whatever was shown is part of that history;
//! - I10 what was appended, however often it was tried, stands there at most once.
//!
//! Reads directories as any other process does, while their nodes run or after.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use tidelog::{Kind, Log, Table};

use super::session::Told;

/// Sealing comes a little after rolling, on each node by itself.
const SEALING: Duration = Duration::from_secs(15);

/// Values by offset.
pub struct History(Vec<String>);

/// All of a log that its readers may see.
pub fn history(dir: &Path) -> Result<History, String> {
    let at = |e: tidelog::Error| format!("{}: {e}", dir.display());
    let log = Log::options().read_only(true).open(dir).map_err(at)?;
    let mut cursor = log.read_range(log.start()..log.end()).map_err(at)?;
    let mut values = Vec::new();
    while let Some(entry) = cursor.next().map_err(at)? {
        if entry.offset.0 != values.len() as u64 {
            let expected = values.len();
            return Err(format!(
                "{}: expected offset {expected}, read {}",
                dir.display(),
                entry.offset
            ));
        }
        values.push(String::from_utf8_lossy(entry.record.value).into_owned());
    }
    Ok(History(values))
}

impl History {
    /// Records in it.
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Holds it against what clients were told.
    pub fn hold(&self, told: &Told, found: &mut Vec<String>) {
        let at = |offset: u64| usize::try_from(offset).ok().and_then(|at| self.0.get(at));
        let short = |value: &str| value.split(' ').take(2).collect::<Vec<_>>().join(" ");
        for ack in &told.acks {
            if at(ack.offset) != Some(&ack.value) {
                found.push(format!(
                    "I1: append {:?} was acknowledged at offset {}, where stands {:?}",
                    short(&ack.value),
                    ack.offset,
                    at(ack.offset).map(|value| short(value))
                ));
            }
        }
        for shown in &told.shown {
            if at(shown.offset) != Some(&shown.value) {
                found.push(format!(
                    "I3: {} showed {:?} at offset {}, where stands {:?}",
                    shown.by,
                    short(&shown.value),
                    shown.offset,
                    at(shown.offset).map(|value| short(value))
                ));
            }
        }
        let mut seen = BTreeSet::new();
        for (offset, value) in self.0.iter().enumerate() {
            if !seen.insert(value) {
                found.push(format!("I10: {:?} stands twice, again at {offset}", short(value)));
            }
        }
    }

    /// Holds a follower's history against the leader's.
    pub fn equal(&self, name: &str, follower: &History, found: &mut Vec<String>) {
        if self.0 == follower.0 {
            return;
        }
        let differs = self.0.iter().zip(&follower.0).position(|(mine, theirs)| mine != theirs);
        let (mine, theirs) = (self.0.len(), follower.0.len());
        found.push(format!(
            "I1: {name} holds {theirs} records, the leader {mine}; the first that differs: {differs:?}"
        ));
    }
}

/// How far a directory proves that its node has synced; tries again while files move under it.
pub fn synced(dir: &Path) -> Result<u64, String> {
    let mut last = String::new();
    for _ in 0..20 {
        match Log::options().read_only(true).open(dir) {
            Ok(log) => return Ok(log.durable_end().0),
            Err(e) => last = format!("{}: {e}", dir.display()),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(last)
}

/// The digest of a log's rows, made from the log alone.
pub fn digest(dir: &Path) -> Result<String, String> {
    let at = |e: tidelog::Error| format!("{}: {e}", dir.display());
    let log = Log::options().read_only(true).open(dir).map_err(at)?;
    let table = Table::from_log(&log).map_err(at)?;
    Ok(format!("{:?}", table.digest().map_err(at)?))
}

/// Whether a follower's segment files are the leader's, once both have sealed what they rolled.
pub fn same_files(leader: &Path, follower: &Path) -> Result<(), String> {
    let deadline = Instant::now() + SEALING;
    loop {
        match compare(leader, follower) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            Err(differs) => return Err(format!("I2: {}: {differs}", follower.display())),
            Ok(()) => return Ok(()),
        }
    }
}

/// Sealed segments are equal; one that is not is equal as far as it goes, with zeros behind.
fn compare(leader: &Path, follower: &Path) -> Result<(), String> {
    let (mut theirs, mine) = (segments(leader)?, segments(follower)?);
    // A segment without a frame is not begun.
    theirs
        .retain(|name, bytes| mine.contains_key(name) || bytes.iter().skip(4096).any(|&b| b != 0));
    if !theirs.keys().eq(mine.keys()) {
        let (theirs, mine) = (theirs.len(), mine.len());
        return Err(format!("expected the leader's {theirs} segments, found {mine}"));
    }
    for (name, theirs) in &theirs {
        let mine = &mine[name];
        let shared = theirs.len().min(mine.len());
        let same = match (sealed(theirs), sealed(mine)) {
            (false, false) => {
                theirs[..shared] == mine[..shared]
                    && theirs[shared..].iter().chain(&mine[shared..]).all(|&b| b == 0)
            }
            (true, true) => theirs == mine,
            _ => false,
        };
        if !same {
            return Err(format!("{name} differs"));
        }
    }
    Ok(())
}

fn segments(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let at = |e: std::io::Error| format!("{}: {e}", dir.display());
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir.join("segments")).map_err(at)? {
        let entry = entry.map_err(at)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.len() == 24 && name.ends_with(".seg") {
            files.insert(name, std::fs::read(entry.path()).map_err(at)?);
        }
    }
    Ok(files)
}

fn sealed(file: &[u8]) -> bool {
    let footer = file.len().checked_sub(256).filter(|at| *at > 4096);
    footer.is_some_and(|at| file[at..].starts_with(b"TIDEFOOT"))
}

/// Reads every byte of a directory whose node has ended.
pub fn verified(dir: &Path) -> Result<u64, String> {
    let at = |e: tidelog::Error| format!("{}: {e}", dir.display());
    let report = tidelog::log::verify(dir, tidelog::log::Level::Full);
    let report = match report {
        Err(e) if e.kind() == Kind::Locked => {
            return Err(format!("{} is in use: {e}", dir.display()));
        }
        other => other.map_err(at)?,
    };
    match report.problems.first() {
        Some(problem) => Err(format!("{} is damaged: {problem:?}", dir.display())),
        None => Ok(report.records),
    }
}
