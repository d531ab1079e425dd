//! A table's directory: which checkpoint to take, how one becomes durable, what may be removed.
//!
//! ```text
//! table/LOCK                              held by whoever writes here
//! table/<64 hex digits>.run               immutable, named by content
//! table/<20 digits>.checkpoint            a manifest, by number
//! table/<20 digits>.aside                 a checkpoint that is not of this log's history
//! table/*.tmp                             swept at open
//! ```
//!
//! Called by `Table`; uses the file system through the log's. The order that makes a checkpoint:
//! every run's data, the directory (their names), the manifest's data, its name, the directory.
//! Invariants:
//! - a checkpoint is taken only if it is whole, of this log, and its position is in the log's
//!   history; otherwise the one before it is looked at, and in the end the log alone;
//! - a run is removed only after the directory sync of a checkpoint that does not need it, when no
//!   kept checkpoint names it, nor one that was set aside;
//! - a checkpoint of another history is kept under another name with its runs: it may hold rows
//!   that this log has lost.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Kind, Result};
use crate::fs::{Lock, Open};
use crate::log::files::{ASIDE, CHECKPOINT};
use crate::log::{Home, Log};
use crate::mutant::{self, Mutant};
use crate::position::Offset;

use super::layers::Part;
use super::manifest::{Manifest, Mark, RunEntry, checkpoint_name, file_name, parse_name};
use super::run::{Run, RunId};

/// Ends the names of runs.
pub(super) const RUN: &str = "run";
/// How often a reader looks for a newer checkpoint when runs vanish under it.
const RELOADS: usize = 20;

/// The directory of a table.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) home: Home,
    pub(super) dir: PathBuf,
    /// Held by the one who writes; a reader has none.
    lock: Option<Box<dyn Lock>>,
    /// The number of the next checkpoint.
    next_seq: u64,
    /// Checkpoints that are kept, oldest first, and what they name.
    kept: Vec<(u64, Vec<RunId>)>,
    /// Runs that checkpoints which were set aside name.
    aside: Vec<RunId>,
    /// A sync of runs or of their names failed, for want of room or otherwise: the next one would
    /// succeed and prove nothing.
    pub(super) sync_failed: bool,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableReport {
    /// The checkpoint that was taken, and the offset behind its last record; `None` if the table
    /// was made from the log alone.
    pub checkpoint: Option<(u64, Offset)>,
    /// Whether this process keeps the table's files; otherwise it only reads them.
    pub writes: bool,
    /// Checkpoints that could not be taken, and why, in words.
    pub findings: Vec<String>,
}

/// A checkpoint, ready to go on from.
pub(super) struct Taken {
    pub(super) mark: Mark,
    /// Newest first.
    pub(super) runs: Vec<Arc<Part>>,
}

impl Store {
    /// Opens the directory, to write if possible.
    pub(super) fn open(log: &Log, report: &mut TableReport) -> Result<(Self, Option<Taken>)> {
        let home = log.home();
        let dir = home.table();
        let lock = take_lock(&home, &dir)?;
        report.writes = lock.is_some();
        let mut store = Store {
            home,
            dir,
            lock,
            next_seq: 1,
            kept: Vec::new(),
            aside: Vec::new(),
            sync_failed: false,
        };
        for _ in 0..RELOADS {
            match store.load(log, report) {
                // The writer has merged runs away since its manifest was read.
                Err(e) if e.kind() == Kind::NotFound && !report.writes => {}
                other => {
                    let taken = other?;
                    store.sweep(&taken)?;
                    return Ok((store, taken));
                }
            }
        }
        Err(Error::new(Kind::NotFound, "expected the runs of a checkpoint, found them gone")
            .in_file(&store.dir)
            .help("the process that keeps this table is merging fast: try again"))
    }

    /// Takes the newest checkpoint that holds.
    fn load(&mut self, log: &Log, report: &mut TableReport) -> Result<Option<Taken>> {
        let names = self.names()?;
        let numbers = |ending| names.iter().filter_map(move |name| parse_name(name, ending));
        let newest = numbers(CHECKPOINT).chain(numbers(ASIDE)).max();
        self.next_seq = newest.map_or(1, |seq| seq + 1);
        self.aside = Vec::new();
        for seq in numbers(ASIDE) {
            let path = self.dir.join(file_name(seq, ASIDE));
            if let Ok(Some(manifest)) = Manifest::read(&**self.home.fs(), &path, CHECKPOINT) {
                self.aside.extend(manifest.runs.iter().map(|run| run.id));
            }
        }
        let mut seqs: Vec<u64> = numbers(CHECKPOINT).collect();
        seqs.sort_unstable_by(|a, b| b.cmp(a));
        self.kept = Vec::new();
        let mut taken: Option<Taken> = None;
        let mut unusable = Vec::new();
        for seq in seqs {
            let path = self.dir.join(checkpoint_name(seq));
            let manifest = match Manifest::read(&**self.home.fs(), &path, CHECKPOINT) {
                Ok(Some(manifest)) if manifest.seq == seq => manifest,
                Ok(Some(manifest)) => {
                    report.findings.push(format!(
                        "expected checkpoint {seq}, found {} (file {}): the checkpoint before it \
                         is taken",
                        manifest.seq,
                        path.display()
                    ));
                    unusable.push((seq, manifest.runs.iter().map(|run| run.id).collect()));
                    continue;
                }
                Ok(None) => continue,
                Err(e) if e.kind() == Kind::Corrupt => {
                    report.findings.push(format!("{e}: the checkpoint before it is taken"));
                    unusable.push((seq, Vec::new()));
                    continue;
                }
                Err(e) => return Err(e),
            };
            if let Some(why) = self.foreign(log, &manifest)? {
                report.findings.push(format!("checkpoint {seq} is set aside: {why}"));
                self.set_aside(seq, &manifest)?;
                continue;
            }
            let named = manifest.runs.iter().map(|run| run.id).collect();
            if taken.is_some() {
                // One to fall back to; it is looked at when it is needed.
                self.kept.insert(0, (seq, named));
                continue;
            }
            match self.open_runs(&manifest) {
                Ok(runs) => {
                    report.checkpoint = Some((seq, manifest.mark.position.offset));
                    self.kept.insert(0, (seq, named));
                    taken = Some(Taken { mark: manifest.mark, runs });
                }
                Err(e) if e.kind() == Kind::NotFound && self.lock.is_none() => return Err(e),
                Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound | Kind::WrongLog) => {
                    report.findings.push(format!(
                        "checkpoint {seq} lacks a run: {e}; the checkpoint before it is taken"
                    ));
                    unusable.push((seq, Vec::new()));
                }
                Err(e) => return Err(e),
            }
        }
        // First to go, however new they are.
        self.kept.splice(0..0, unusable);
        Ok(taken)
    }

    /// Why a checkpoint is not of this log's history; `None` if it is.
    fn foreign(&self, log: &Log, manifest: &Manifest) -> Result<Option<String>> {
        if mutant::on(Mutant::TrustAnyCheckpoint) {
            return Ok(None);
        }
        if manifest.log != self.home.log() {
            return Ok(Some(format!("it is of log {}", manifest.log)));
        }
        let mark = &manifest.mark;
        let at = mark.position;
        if at.offset > log.end() {
            return Ok(Some(format!(
                "it stands behind offset {}, but the log ends at {}",
                at.offset,
                log.end()
            )));
        }
        if at.offset < log.start() {
            return Ok(Some(format!(
                "it stands behind offset {}, but the log starts at {}",
                at.offset,
                log.start()
            )));
        }
        if at.offset == log.start() {
            // The frame before it is gone, or there is none: the epochs must do.
            let known = self.home.history(at.log_byte)?;
            let same = manifest.history.iter().all(|entry| known.contains(entry));
            return Ok((!same).then(|| "its epochs are not this log's".to_owned()));
        }
        let mut cursor = log.read(Offset(at.offset.0 - 1))?;
        let (found, fingerprint) = match cursor.next_batch() {
            Ok(batch) => (batch.as_ref().map(|b| b.end()), batch.map(|b| b.fingerprint())),
            // Damage took that frame, and a repair put that on record.
            Err(e) if e.kind() == Kind::Lost => (cursor.position(), None),
            Err(e) => return Err(e),
        };
        let same = fingerprint.is_none_or(|is| mark.fingerprint.is_none_or(|was| is == was));
        if found == Some(at) && same {
            return Ok(None);
        }
        Ok(Some(format!("the log has another record before offset {}", at.offset)))
    }

    fn open_runs(&self, manifest: &Manifest) -> Result<Vec<Arc<Part>>> {
        let mut parts = Vec::with_capacity(manifest.runs.len());
        for entry in &manifest.runs {
            let path = self.run_path(entry.id);
            let run = Run::open(&**self.home.fs(), &path, self.home.log(), self.home.maps())?;
            if run.entry() != *entry {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!(
                        "expected a run of {} bytes and {} rows, found {} and {}",
                        entry.bytes,
                        entry.rows,
                        run.entry().bytes,
                        run.entry().rows
                    ),
                )
                .in_file(&path));
            }
            parts.push(Arc::new(Part { run: Arc::new(run), unsynced: Mutex::new(None) }));
        }
        Ok(parts)
    }

    fn names(&self) -> Result<Vec<String>> {
        match self.home.fs().list(&self.dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|e| Error::io("list", &self.dir, e)),
        }
    }

    /// Gives a checkpoint of another history another name.
    fn set_aside(&mut self, seq: u64, manifest: &Manifest) -> Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        let from = self.dir.join(checkpoint_name(seq));
        let to = self.dir.join(file_name(seq, ASIDE));
        let fs = &**self.home.fs();
        fs.rename(&from, &to).map_err(|e| Error::io("set aside", &from, e))?;
        fs.sync_dir(&self.dir).map_err(|e| Error::io("sync", &self.dir, e))?;
        self.aside.extend(manifest.runs.iter().map(|run| run.id));
        Ok(())
    }

    /// Removes what an interrupted run was making, and runs that nothing names.
    fn sweep(&self, taken: &Option<Taken>) -> Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        let taken = taken.iter().flat_map(|taken| &taken.runs).map(|part| part.run.id());
        let taken: Vec<RunId> = taken.collect();
        for name in self.names()? {
            let run = name.strip_suffix(RUN).and_then(|name| name.strip_suffix('.'));
            let unnamed = match run.and_then(|id| id.parse().ok()) {
                Some(id) => !taken.contains(&id) && !self.is_named(id),
                None => name.ends_with(".tmp"),
            };
            if unnamed {
                self.remove(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    pub(super) fn is_named(&self, id: RunId) -> bool {
        self.kept.iter().any(|(_, runs)| runs.contains(&id)) || self.aside.contains(&id)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match self.home.fs().unlink(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
            _ => Ok(()),
        }
    }

    /// Whether this process keeps the files.
    pub(super) fn writes(&self) -> bool {
        self.lock.is_some()
    }

    pub(super) fn run_path(&self, id: RunId) -> PathBuf {
        run_path(&self.dir, id)
    }

    /// Makes a checkpoint of `runs`, newest first, at `mark`; returns its number.
    pub(super) fn checkpoint(
        &mut self,
        mark: &Mark,
        runs: &[Arc<Part>],
        keep: usize,
    ) -> Result<u64> {
        let fs = &**self.home.fs();
        for part in runs {
            let mut unsynced =
                part.unsynced.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(file) = &*unsynced {
                // Closes the crash that leaves a manifest whose rows are not there.
                if !mutant::on(Mutant::SkipRunSync) {
                    file.sync_data().map_err(|e| {
                        self.sync_failed = true;
                        Error::io("sync", part.run.path(), e)
                    })?;
                }
                *unsynced = None;
            }
        }
        // Closes the crash that leaves a manifest whose runs have no names.
        if !mutant::on(Mutant::SkipRunNames) {
            fs.sync_dir(&self.dir).map_err(|e| {
                self.sync_failed = true;
                Error::io("sync", &self.dir, e)
            })?;
        }
        let seq = self.next_seq;
        let manifest = Manifest {
            log: self.home.log(),
            seq,
            mark: mark.clone(),
            place: self.home.place(mark.position.log_byte),
            history: self.home.history(mark.position.log_byte)?,
            sets: self.home.sets_below(mark.position.log_byte)?,
            runs: runs.iter().map(|part| part.run.entry()).collect::<Vec<RunEntry>>(),
            state: None,
        };
        manifest.meta(CHECKPOINT).replace(fs, &self.dir.join(checkpoint_name(seq)))?;
        self.next_seq += 1;
        self.kept.push((seq, manifest.runs.iter().map(|run| run.id).collect()));
        while self.kept.len() > keep {
            let (old, _) = self.kept[0];
            self.remove(&self.dir.join(checkpoint_name(old)))?;
            self.kept.remove(0);
        }
        Ok(seq)
    }

    /// Removes those of `retired` that no checkpoint names and nobody reads.
    pub(super) fn remove_unused(&self, retired: &mut Vec<Arc<Part>>) -> Result<()> {
        let mut failed = Ok(());
        retired.retain(|part| {
            let used = Arc::strong_count(part) > 1 || Arc::strong_count(&part.run) > 1;
            let named = self.is_named(part.run.id()) && !mutant::on(Mutant::UnlinkNamedRun);
            if used || named {
                return true;
            }
            match self.remove(part.run.path()) {
                Ok(()) => false,
                Err(e) => {
                    failed = Err(e);
                    true
                }
            }
        });
        failed
    }
}

/// The file of a run.
pub(crate) fn run_path(dir: &Path, id: RunId) -> PathBuf {
    dir.join(format!("{id}.{RUN}"))
}

/// Makes the directory if need be and takes its lock; `None` when another process has it or
/// nothing may be written there.
fn take_lock(home: &Home, dir: &Path) -> Result<Option<Box<dyn Lock>>> {
    let fs = &**home.fs();
    let path = dir.join("LOCK");
    let take = || -> Result<Option<Box<dyn Lock>>> {
        fs.create_dir(dir).map_err(|e| Error::io("create", dir, e))?;
        match fs.open(&path, Open::Create) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create", &path, e)),
        }
        let lock = fs.lock(&path, true).map_err(|e| Error::io("lock", &path, e))?;
        if lock.is_some() && !mutant::on(Mutant::SkipTableName) {
            // Closes the crash that forgets the directory with all its checkpoints. It may be there
            // and not durable: whoever made it may have died before he came to this.
            let root = dir.parent().expect("a table lies in its log's directory");
            fs.sync_dir(root).map_err(|e| Error::io("sync", root, e))?;
        }
        Ok(lock)
    };
    match take() {
        Err(e) if matches!(e.kind(), Kind::ReadOnly | Kind::DiskFull) => Ok(None),
        other => other,
    }
}
