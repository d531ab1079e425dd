//! Tables and snapshots whose files are damaged: never a wrong row, and always a word about it.
//!
//! ```text
//! fixture ─ copy, damage ─ open table, every row ─ remove what is named as damaged ─ every row
//!                        └ list, verify, restore each snapshot ─ every row
//! ```
//!
//! The log is whole throughout, and read into a plain map: what the table must show. Invariants: a
//! damaged table opens; a row that it shows is right; once what it names is removed it shows all
//! of them, and goes on.

use std::path::{Path, PathBuf};

use tidelog::fs::sim::{Crash, Sim};
use tidelog::table::{RestoreAt, Snapshots, TableOptions, restore_on};
use tidelog::{Batch, Kind, Log, Offset, Record, Table};

use super::check::Outcome;
use super::damage::Damage;
use super::fixture::{DIR, Fixture};
use super::harmless;
use crate::dice::Dice;
use crate::rows::{self, Amiss};

/// The fixture of a table, and that of snapshots.
pub const KEPT: &str = "table";
pub const STORE: &str = "snapshot";
/// Where snapshots are.
const SNAPSHOTS: &str = "/store";
/// Damaged files that a table names one after the other, at most.
const MOST_NAMED: usize = 20;

/// Whether the damage of this fixture is here.
pub fn is_about(fixture: &Fixture) -> bool {
    [KEPT, STORE].contains(&fixture.name)
}

fn options() -> TableOptions {
    Table::options().delta_bytes(4 << 10).checkpoint_bytes(1 << 30).fan_in(3)
}

/// A log with a table, and what is to be damaged of it.
pub fn fixture(name: &'static str, seed: u64) -> Result<Fixture, String> {
    let failed = |e: tidelog::Error| format!("fixture {name} of seed {seed}: {e}");
    let disk = build(seed).map_err(failed)?;
    let root = if name == KEPT { PathBuf::from(DIR).join("table") } else { SNAPSHOTS.into() };
    let ours = |path: &PathBuf| path.starts_with(&root) && !path.ends_with("LOCK");
    let files = disk.paths().into_iter().filter(ours);
    let files = files.map(|path| (path.clone(), disk.read(&path).len() as u64)).collect();
    Ok(Fixture {
        name,
        seed,
        disk,
        told: Vec::new(),
        start: 0,
        acknowledged: 0,
        unproven_from: 0,
        torn: false,
        files,
        segments: Vec::new(),
        slots: Vec::new(),
        foreign: Vec::new(),
    })
}

fn build(seed: u64) -> tidelog::Result<Sim> {
    let mut dice = Dice::new(seed ^ 0x7AB1E);
    let sim = Sim::new(dice.next());
    let log = Fixture::options(&sim).create(true).open(DIR)?;
    let table = options().open(&log)?;
    let snapshots = Snapshots::at_on(sim.shared(), Path::new(SNAPSHOTS));
    // As many runs as stay side by side, and a checkpoint in the middle.
    for round in 0..8 {
        for _ in 0..6 {
            let mut batch = Batch::new();
            for _ in 0..5 {
                let key = format!("key/{}", dice.below(60));
                let len = dice.below(40);
                let value = dice.bytes(len);
                match dice.below(6) {
                    0 => batch.push(&Record::delete(key.as_bytes()))?,
                    1 => batch.push(&Record::keyed_event(key.as_bytes(), &value))?,
                    _ => batch.push(&Record::put(key.as_bytes(), &value))?,
                };
            }
            log.append_batch(&batch)?;
        }
        table.catch_up(&log)?;
        if round == 4 || round == 7 {
            assert!(table.checkpoint()?, "nothing stands against a checkpoint");
            snapshots.publish(&table, round == 7)?;
        }
    }
    drop(table);
    log.close()?;
    Ok(sim.crash(&Crash::KeepAll))
}

/// Does the damage to a copy, and looks at it from every side.
pub fn check(fixture: &Fixture, damage: &Damage) -> Result<Outcome, String> {
    let disk = fixture.disk.deep_copy();
    damage.apply(&disk, fixture);
    let mut outcome = Outcome { disk: super::check::disk(&disk), ..Outcome::default() };
    let text = damage.to_string();
    let map = text.bytes().map(u64::from).sum::<u64>().is_multiple_of(2);
    let log = Fixture::options(&disk).map(map).open(DIR).map_err(|e| format!("the log: {e}"))?;
    match fixture.name {
        KEPT => kept(&disk, &log, &mut outcome)?,
        _ => store(&disk, &log, &mut outcome)?,
    }
    if !(outcome.by_open || outcome.by_read || outcome.by_verify) {
        outcome.harmless = harmless::reason(fixture, damage).or_else(|| reason(fixture, damage));
        if outcome.harmless.is_none() {
            return Err("nobody reports it, though every row is right".into());
        }
    }
    Ok(outcome)
}

fn kept(disk: &Sim, log: &Log, outcome: &mut Outcome) -> Result<(), String> {
    let expected = rows::of_log(log, log.end()).map_err(|e| format!("the log: {e}"))?;
    for _ in 0..MOST_NAMED {
        let table = options().open(log).map_err(|e| format!("the table does not open: {e}"))?;
        outcome.by_open |= !table.report().findings.is_empty();
        let view = table.view();
        for (key, row) in &expected {
            match rows::hold_key(&view, key, Some(row)) {
                Err(Amiss::Wrong(found)) => return Err(format!("a wrong row: {found}")),
                Err(Amiss::Error(_)) => outcome.by_read = true,
                Ok(()) => outcome.records_read += 1,
            }
        }
        match rows::hold(&view, &expected) {
            Ok(()) => return go_on(log, table),
            Err(Amiss::Wrong(found)) => return Err(format!("wrong rows: {found}")),
            Err(Amiss::Error(error)) => {
                outcome.by_read = true;
                outcome.repaired = true;
                let Some(file) = error.file() else {
                    return Err(format!("an error that names no file: {error}"));
                };
                drop((view, table));
                disk.remove(file);
            }
        }
    }
    Err("it goes on naming damaged files".into())
}

/// The table takes more, makes a checkpoint, and comes back from that.
fn go_on(log: &Log, table: Table) -> Result<(), String> {
    let said = |e: tidelog::Error| format!("going on: {e}");
    log.append(&Record::put(b"more", b"of it")).map_err(said)?;
    table.catch_up(log).map_err(said)?;
    if !table.checkpoint().map_err(said)? {
        return Err("going on, no checkpoint is made".into());
    }
    drop(table);
    let table = options().open(log).map_err(said)?;
    let expected = rows::of_log(log, log.end()).map_err(said)?;
    rows::hold(&table.view(), &expected).map_err(|amiss| format!("going on, {}", amiss.said()))?;
    match table.report().checkpoint {
        Some((_, offset)) if offset == log.end() => Ok(()),
        _ => Err(format!("going on, the new checkpoint is not taken: {:?}", table.report())),
    }
}

fn store(disk: &Sim, log: &Log, outcome: &mut Outcome) -> Result<(), String> {
    let fs = disk.shared();
    let snapshots = Snapshots::at_on(disk.shared(), Path::new(SNAPSHOTS));
    let Ok(listed) = snapshots.list() else {
        outcome.by_open = true;
        return Ok(());
    };
    for (number, snapshot) in listed.iter().enumerate() {
        let whole = snapshots.verify(snapshot).is_ok_and(|problems| problems.is_empty());
        outcome.by_verify |= !whole;
        let offset = snapshot.position.offset;
        let to = PathBuf::from(format!("/out{number}"));
        let restored = restore_on(&fs, Path::new(SNAPSHOTS), &to, RestoreAt::Offset(offset));
        if let Err(error) = restored {
            outcome.by_read = true;
            match whole {
                true => return Err(format!("verified, but not restored: {error}")),
                false => continue,
            }
        }
        let said = |e: tidelog::Error| format!("restored: {e}");
        let copy = Fixture::options(disk).open(&to).map_err(said)?;
        let table = match options().open(&copy) {
            Ok(table) => table,
            Err(_) if !whole => continue,
            Err(error) => return Err(said(error)),
        };
        let expected = rows::of_log(log, Offset(offset.0)).map_err(said)?;
        match rows::hold(&table.view(), &expected) {
            Ok(()) => {}
            Err(Amiss::Error(_)) if !whole => outcome.by_read = true,
            Err(amiss) => {
                let said = amiss.said();
                return Err(format!("snapshot {offset}, verified {whole}: {said}"));
            }
        }
    }
    Ok(())
}

/// Whether a byte is a zero that fills up to the next eight: the hash of the whole file covers it,
/// which reading rows does not look at, and verifying a snapshot does.
fn is_padding(bytes: &[u8], at: u64) -> bool {
    let at = usize::try_from(at).expect("a short file");
    let end = (at + 1).next_multiple_of(8).min(bytes.len());
    bytes[at..end].iter().all(|&byte| byte == 0)
}

/// A table of one branch of history under a log of another: the log's copy went on otherwise.
pub fn branches(seed: u64) -> Result<(), String> {
    let said = |e: tidelog::Error| format!("a branch: {e}");
    let sim = build(seed).map_err(said)?;
    let grow = |value: &[u8], appends: usize| -> tidelog::Result<Sim> {
        let sim = sim.deep_copy();
        let log = Fixture::options(&sim).open(DIR)?;
        for i in 0..appends {
            log.append(&Record::put(format!("key/{i}").as_bytes(), value))?;
        }
        assert!(options().open(&log)?.checkpoint()?, "nothing stands against a checkpoint");
        log.close()?;
        Ok(sim)
    };
    let theirs = grow(b"this way", 9).map_err(said)?;
    for appends in [3, 9, 12] {
        let ours = grow(b"that way", appends).map_err(said)?;
        for path in ours.paths() {
            if path.starts_with(Path::new(DIR).join("table")) {
                ours.remove(&path);
            }
        }
        for path in theirs.paths() {
            if path.starts_with(Path::new(DIR).join("table")) {
                ours.write(&path, &theirs.read(&path));
            }
        }
        let log = match Fixture::options(&ours).open(DIR) {
            // The checkpoint speaks for records that this log never had.
            Err(e) if e.kind() == Kind::Corrupt => continue,
            log => log.map_err(said)?,
        };
        let table = options().open(&log).map_err(said)?;
        let expected = rows::of_log(&log, log.end()).map_err(said)?;
        let held = rows::hold(&table.view(), &expected);
        held.map_err(|amiss| format!("a table of another branch: {}", amiss.said()))?;
        if table.report().findings.is_empty() {
            return Err("nobody reports a table of another branch".into());
        }
    }
    Ok(())
}

/// What may go unreported beside the log's harmless bytes. Every row was right all the same.
fn reason(fixture: &Fixture, damage: &Damage) -> Option<&'static str> {
    let file = damage.file();
    let is_whole_file = matches!(damage, Damage::Remove { .. } | Damage::Rename { .. });
    let manifests = |ending: &str| -> Vec<&PathBuf> {
        let files = fixture.files.iter().map(|(path, _)| path);
        files.filter(|path| path.extension().is_some_and(|e| e == ending)).collect()
    };
    if is_whole_file && manifests("snapshot").iter().any(|path| *path == file) {
        // A list does not know what was on it; who asks for it by name is told.
        return Some("snapshot_missing");
    }
    let newest = manifests("checkpoint").into_iter().max()?;
    if is_whole_file && file == newest {
        // The one before it is taken, and what it lacks comes from the log.
        return Some("checkpoint_missing");
    }
    if let Damage::Flip { bit, .. } = damage
        && file.extension().is_some_and(|e| e == "run")
        && is_padding(&fixture.disk.read(file), bit / 8)
    {
        return Some("run_padding");
    }
    // The one to fall back to is looked at when it is needed, with the runs that it alone names.
    let text = String::from_utf8(fixture.disk.read(newest)).ok()?;
    let id = file.file_stem()?.to_str()?;
    (file != newest && !text.contains(id)).then_some("older_checkpoint")
}
