//! Holding a table's directory against itself: every checkpoint, and every run that one names.
//!
//! Called by users and by `repair`; reads manifests and runs. Takes no lock and changes nothing: a
//! writer may merge and make checkpoints meanwhile. Invariants:
//! - what vanishes while it is looked at is no damage: a checkpoint goes before the runs that it
//!   alone names, so a run that is not there is missed only if its checkpoint still is;
//! - a file that could not be read just now is an error, never damage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::fs::{Fs, Os};
use crate::log::Level;
use crate::log::files::{ASIDE, CHECKPOINT, Layout, LogFile};

use super::manifest::{Manifest, RunEntry, checkpoint_name, file_name, parse_name};
use super::problem::RunProblem;
use super::run::{Run, RunId};
use super::store::run_path;

/// What verification of a table found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableVerify {
    /// Checkpoints looked at, those that were set aside included.
    pub checkpoints: usize,
    /// Runs that they name.
    pub runs: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Rows with a value in them: a key that several hold counts in each.
    pub rows: u64,
    /// What is damaged; nothing if all is well.
    pub problems: Vec<RunProblem>,
}

/// Verifies the table in the log's directory `dir`. With [`Level::Quick`], manifests and what runs
/// say of themselves at their ends; otherwise every byte.
///
/// A log without a table on disk has nothing to be damaged.
pub fn verify(dir: impl AsRef<Path>, level: Level) -> Result<TableVerify> {
    verify_on(&Os::shared(), dir.as_ref(), level)
}

/// The same, on another file system.
pub fn verify_on(fs: &Arc<dyn Fs>, dir: &Path, level: Level) -> Result<TableVerify> {
    let layout = Layout::new(dir);
    match LogFile::read(&**fs, &layout) {
        // A damaged LOG is the log's business: runs are held against their manifests.
        Err(e) if e.kind() == Kind::Corrupt => {}
        other => drop(other?),
    }
    let survey = Survey::take(fs, &layout.table(), level)?;
    let mut report = TableVerify { checkpoints: survey.manifests.len(), ..TableVerify::default() };
    for found in &survey.manifests {
        report.problems.extend(found.manifest.as_ref().err().cloned());
    }
    for (_, found) in survey.runs {
        report.runs += 1;
        report.bytes += found.entry.bytes;
        report.rows += found.entry.rows;
        report.problems.extend(found.problems);
    }
    Ok(report)
}

/// A checkpoint's manifest, kept or set aside.
#[derive(Debug)]
pub(super) struct FoundManifest {
    pub(super) path: PathBuf,
    pub(super) seq: u64,
    pub(super) aside: bool,
    pub(super) manifest: std::result::Result<Manifest, RunProblem>,
}

/// A run that a manifest names.
#[derive(Debug)]
pub(super) struct FoundRun {
    pub(super) path: PathBuf,
    pub(super) entry: RunEntry,
    pub(super) is_there: bool,
    pub(super) problems: Vec<RunProblem>,
}

/// Everything that a table's directory says of itself, and whether it holds.
#[derive(Debug)]
pub(super) struct Survey {
    /// Oldest first.
    pub(super) manifests: Vec<FoundManifest>,
    pub(super) runs: BTreeMap<RunId, FoundRun>,
}

impl Survey {
    pub(super) fn take(fs: &Arc<dyn Fs>, dir: &Path, level: Level) -> Result<Self> {
        let names = match fs.list(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|e| Error::io("list", dir, e))?,
        };
        let mut manifests = Vec::new();
        for name in &names {
            let kept = parse_name(name, CHECKPOINT).map(|seq| (seq, false));
            let Some((seq, aside)) = kept.or(parse_name(name, ASIDE).map(|seq| (seq, true))) else {
                continue;
            };
            let ending = if aside { ASIDE } else { CHECKPOINT };
            let path = dir.join(file_name(seq, ending));
            let manifest = match Manifest::read(&**fs, &path, CHECKPOINT) {
                Ok(None) => continue,
                Ok(Some(manifest)) if manifest.seq == seq => Ok(manifest),
                Ok(Some(manifest)) => Err(RunProblem {
                    file: path.clone(),
                    byte: 0,
                    problem: format!("expected checkpoint {seq}, found {}", manifest.seq),
                }),
                Err(e) if e.kind() == Kind::Corrupt => Err(problem(&e, &path)),
                Err(e) => return Err(e),
            };
            manifests.push(FoundManifest { path, seq, aside, manifest });
        }
        manifests.sort_by_key(|found| found.seq);
        let mut named: Vec<(&FoundManifest, &Manifest, &RunEntry)> = Vec::new();
        for found in &manifests {
            let Ok(manifest) = &found.manifest else { continue };
            for entry in &manifest.runs {
                // Two may name one run, and only one of them say so rightly.
                if !named.iter().any(|(_, _, there)| *there == entry) {
                    named.push((found, manifest, entry));
                }
            }
        }
        let checked: Result<Vec<Option<FoundRun>>> = named
            .par_iter()
            .map(|(found, manifest, entry)| check(fs, dir, found, manifest, entry, level))
            .collect();
        let mut runs: BTreeMap<RunId, FoundRun> = BTreeMap::new();
        for run in checked?.into_iter().flatten() {
            match runs.entry(run.entry.id) {
                std::collections::btree_map::Entry::Vacant(place) => drop(place.insert(run)),
                std::collections::btree_map::Entry::Occupied(mut there) => {
                    there.get_mut().problems.extend(run.problems);
                }
            }
        }
        Ok(Survey { manifests, runs })
    }
}

/// Checks one run; `None` when it went with the checkpoint that names it.
fn check(
    fs: &Arc<dyn Fs>,
    dir: &Path,
    found: &FoundManifest,
    manifest: &Manifest,
    entry: &RunEntry,
    level: Level,
) -> Result<Option<FoundRun>> {
    let path = run_path(dir, entry.id);
    let read = || -> Result<Vec<RunProblem>> {
        let run = Run::open(&**fs, &path, manifest.log, false)?;
        let is = run.entry();
        if is != *entry {
            return Ok(vec![RunProblem {
                file: path.clone(),
                byte: is.bytes.saturating_sub(super::run::FOOTER_BYTES as u64),
                problem: format!(
                    "expected a run of {} bytes, {} rows and {} deletes, as {} says, found {}, {} \
                     and {}",
                    entry.bytes,
                    entry.rows,
                    entry.deletes,
                    checkpoint_name(found.seq),
                    is.bytes,
                    is.rows,
                    is.deletes
                ),
            }]);
        }
        match level {
            Level::Quick => Ok(Vec::new()),
            Level::Full => Ok(run.problems()),
        }
    };
    let (is_there, problems) = match read() {
        Ok(problems) => (true, problems),
        Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::WrongLog) => {
            (true, vec![problem(&e, &path)])
        }
        Err(e) if e.kind() == Kind::NotFound => {
            if !matches!(Manifest::read(&**fs, &found.path, CHECKPOINT), Ok(Some(_))) {
                return Ok(None);
            }
            let name = checkpoint_name(found.seq);
            let problem = format!("expected a run that {name} names, found none");
            (false, vec![RunProblem { file: path.clone(), byte: 0, problem }])
        }
        Err(e) => return Err(e),
    };
    Ok(Some(FoundRun { path, entry: *entry, is_there, problems }))
}

fn problem(error: &Error, path: &Path) -> RunProblem {
    RunProblem {
        file: error.file().unwrap_or(path).to_path_buf(),
        byte: error.byte().unwrap_or(0),
        problem: error.message().to_owned(),
    }
}
