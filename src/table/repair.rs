//! Repair of a table's directory: what is damaged goes to quarantine, and the next open takes the
//! checkpoint before, or makes the table again from the log.
//!
//! Called by users, with the log repaired first; uses what `verify` finds. Invariants:
//! - the plan that a dry run prints is the plan that is followed;
//! - nothing is moved unless every row that is damaged comes again from an older checkpoint and
//!   the log behind it, or from the log alone. Otherwise the table is the only copy of its other
//!   rows, and stays where it can be read;
//! - runs go before the checkpoints that name them: a crash in between leaves a checkpoint without
//!   a run, which no open takes, and repairing again moves it. A run without a checkpoint would be
//!   swept at the next open, damaged or not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::fs::{Fs, Lock, Open, Os};
use crate::log::Level;
use crate::log::files::{Control, Epochs, Layout, LogFile};
use crate::log::start::quarantine_whole;
use crate::position::{Id, Offset};

use super::manifest::Manifest;
use super::problem::RunProblem;
use super::run::RunId;
use super::verify::{FoundManifest, Survey};

/// What repair of a table did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableRepair {
    /// Each step, in words, in order.
    pub actions: Vec<String>,
    /// Where damaged files went.
    pub quarantined: Vec<PathBuf>,
    /// The checkpoint that the next open takes, and the offset behind its last record; `None` if
    /// it makes the table from the log alone.
    pub next: Option<(u64, Offset)>,
    /// What rows would be lost for good, in words, with their keys: the log no longer has them,
    /// and no whole checkpoint does. Then nothing is moved, and the rows that are whole can still
    /// be read; a snapshot elsewhere brings all of them back ([`super::restore`]).
    pub lost_keys: Vec<String>,
    /// Whether this was only the plan.
    pub dry_run: bool,
}

/// Repairs the table in the log's directory `dir`; with `dry_run` only says what it would do.
///
/// [`Kind::Locked`] while a process keeps the table. The log's own repair comes first.
pub fn repair(dir: impl AsRef<Path>, dry_run: bool) -> Result<TableRepair> {
    repair_on(&Os::shared(), dir.as_ref(), dry_run)
}

/// The same, on another file system.
pub fn repair_on(fs: &Arc<dyn Fs>, dir: &Path, dry_run: bool) -> Result<TableRepair> {
    let layout = Layout::new(dir);
    let log = LogFile::read(&**fs, &layout)?;
    let mut report = TableRepair { dry_run, ..TableRepair::default() };
    if fs.list(&layout.table()).is_err() {
        return Ok(report);
    }
    let _lock = take_lock(&**fs, &layout, dry_run)?;
    let survey = Survey::take(fs, &layout.table(), Level::Full)?;
    let control = Control::need(&**fs, &layout)?;
    let epochs = Epochs::read(&**fs, &layout)?;
    let usable = |found: &&FoundManifest| {
        !found.aside && is_of(log.id, &control, &epochs, found) && is_whole(&survey, found)
    };
    let best = survey.manifests.iter().rev().find(usable);
    report.next = best.and_then(|found| {
        let manifest = found.manifest.as_ref().ok()?;
        Some((found.seq, manifest.mark.position.offset))
    });
    let damaged: Vec<&FoundManifest> =
        survey.manifests.iter().filter(|found| !is_whole(&survey, found)).collect();
    if best.is_none() && control.floor_offset > Offset(0) && damaged.iter().any(|f| !f.aside) {
        report.lost_keys = lost_keys(&survey, &damaged);
        return Ok(report);
    }
    let mut keep: BTreeSet<RunId> = BTreeSet::new();
    for found in survey.manifests.iter().filter(|found| is_whole(&survey, found)) {
        keep.extend(found.manifest.iter().flat_map(|manifest| manifest.runs.iter().map(|r| r.id)));
    }
    let mut work = Work { fs, layout: &layout, report };
    for found in survey.runs.values().filter(|found| !found.problems.is_empty() && found.is_there) {
        work.aside(&found.path, &in_words(found.problems.iter().map(place)))?;
    }
    // What was set aside holds rows that this log may not have: none of it is swept.
    for found in damaged.iter().filter(|found| found.aside) {
        for entry in found.manifest.iter().flat_map(|manifest| &manifest.runs) {
            let run = &survey.runs.get(&entry.id);
            if let Some(run) = run.filter(|run| run.problems.is_empty())
                && keep.insert(entry.id)
            {
                work.aside(&run.path, "a run of a checkpoint that was set aside and is damaged")?;
            }
        }
    }
    work.sync()?;
    for found in damaged {
        let why = match &found.manifest {
            Err(problem) => place(problem),
            Ok(_) => "it names a run that is damaged or gone".to_owned(),
        };
        work.aside(&found.path, &why)?;
    }
    work.sync()?;
    Ok(work.report)
}

/// The table's lock. A dry run does not make the file, without which nobody holds it.
fn take_lock(fs: &dyn Fs, layout: &Layout, dry_run: bool) -> Result<Option<Box<dyn Lock>>> {
    let path = layout.table().join("LOCK");
    if fs.open(&path, Open::Read).is_err() {
        if dry_run {
            return Ok(None);
        }
        fs.open(&path, Open::Create).map_err(|e| Error::io("create", &path, e))?;
    }
    match fs.lock(&path, true).map_err(|e| Error::io("lock", &path, e))? {
        Some(lock) => Ok(Some(lock)),
        None => Err(Error::new(Kind::Locked, "another process keeps this table")
            .in_file(&path)
            .help("stop it, and repair again")),
    }
}

/// Whether an open of this log may take a checkpoint, as far as the small files say.
fn is_of(log: Id, control: &Control, epochs: &Epochs, found: &FoundManifest) -> bool {
    let Ok(manifest) = &found.manifest else { return false };
    let at = manifest.mark.position;
    manifest.log == log
        && at.offset >= control.floor_offset
        && epochs.0.iter().any(|entry| entry.epoch == at.epoch)
}

fn is_whole(survey: &Survey, found: &FoundManifest) -> bool {
    let whole = |id: &RunId| survey.runs.get(id).is_some_and(|run| run.problems.is_empty());
    let runs = |manifest: &Manifest| manifest.runs.iter().all(|entry| whole(&entry.id));
    found.manifest.as_ref().is_ok_and(runs)
}

/// What is damaged of the newest checkpoint that can be read; of all, if none can.
fn lost_keys(survey: &Survey, damaged: &[&FoundManifest]) -> Vec<String> {
    let newest = damaged.iter().rev().filter(|f| !f.aside).find_map(|f| f.manifest.as_ref().ok());
    let Some(newest) = newest else {
        return vec!["every key: no checkpoint can be read".to_owned()];
    };
    let mut lost = Vec::new();
    for entry in &newest.runs {
        let Some(run) = survey.runs.get(&entry.id) else { continue };
        lost.extend(run.problems.iter().map(ToString::to_string));
    }
    lost
}

/// A problem of a file that is named elsewhere.
fn place(problem: &RunProblem) -> String {
    format!("byte {}: {}", problem.byte, problem.problem)
}

fn in_words(problems: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = problems.collect();
    match all.len() {
        0..4 => all.join("; "),
        n => format!("{}; and {} more", all[..3].join("; "), n - 3),
    }
}

struct Work<'a> {
    fs: &'a Arc<dyn Fs>,
    layout: &'a Layout,
    report: TableRepair,
}

impl Work<'_> {
    fn aside(&mut self, path: &Path, why: &str) -> Result<()> {
        self.report.actions.push(format!("move {} to quarantine: {why}", path.display()));
        if !self.report.dry_run {
            let there = quarantine_whole(&**self.fs, self.layout, path, why)?;
            self.report.quarantined.push(there);
        }
        Ok(())
    }

    /// Makes durable that what was moved is no longer there.
    fn sync(&self) -> Result<()> {
        if self.report.dry_run || self.report.actions.is_empty() {
            return Ok(());
        }
        let dir = self.layout.table();
        self.fs.sync_dir(&dir).map_err(|e| Error::io("sync", &dir, e))
    }
}
