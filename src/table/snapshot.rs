//! Snapshots: checkpoints published for others, in a directory of their own.
//!
//! ```text
//! <64 hex digits>.run                                       a run, named by its content
//! <offset, 20 digits>-<epoch>-<nonce, 16 hex>.snapshot      a manifest, written last
//! *.part                                                    a run on its way; the next try goes on
//! ```
//!
//! Called by users and `restore`; uses runs and manifests. A run that is there already is not
//! copied again, so a second snapshot costs what changed. Invariants:
//! - a manifest appears after everything it names is durable: whoever sees one sees it whole;
//! - every byte is hashed on its way, and a run gets its name only if it has the content;
//! - names are parsed into numbers and hashes and written anew; nothing else in the directory is
//!   touched.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::fs::{Fs, Os};
use crate::log::files::Layout;
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, Offset, Position};

use super::Table;
use super::arrive::fetch_file;
use super::digest::Digest;
use super::manifest::{Manifest, RunEntry};
use super::opened::{OpenSnapshot, RELOADS};
use super::run::Run;
use super::store::{RUN, run_path};

/// Ends the names of manifests.
pub(crate) const SNAPSHOT: &str = "snapshot";

/// A directory of snapshots.
#[derive(Clone, Debug)]
pub struct Snapshots {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
}

/// A published snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its name, which says where it stands.
    pub name: String,
    /// The log it is of.
    pub log: Id,
    /// Behind the last record in it.
    pub position: Position,
    /// The newest timestamp in the log below that.
    pub newest: i64,
    /// Runs.
    pub runs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The state digest and the number of rows, if they were asked for when it was published.
    pub state: Option<(Digest, u64)>,
}

/// What publishing did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// What is there now.
    pub snapshot: Snapshot,
    /// Runs that had to be copied; the others were there.
    pub copied: usize,
    /// Their bytes.
    pub copied_bytes: u64,
}

/// Where a snapshot stands: its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName {
    /// The offset behind its last record.
    pub offset: Offset,
    /// The epoch of that record.
    pub epoch: Epoch,
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Epoch { number, nonce } = self.epoch;
        write!(f, "{:020}-{number}-{nonce:016x}", self.offset.0)
    }
}

impl FromStr for SnapshotName {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split('-').collect();
        let [offset, number, nonce] = words[..] else { return Err(()) };
        let name = SnapshotName {
            offset: Offset(offset.parse().map_err(drop)?),
            epoch: Epoch {
                number: number.parse().map_err(drop)?,
                nonce: u64::from_str_radix(nonce, 16).map_err(drop)?,
            },
        };
        // One way to write each.
        if name.to_string() == text { Ok(name) } else { Err(()) }
    }
}

impl Snapshots {
    /// The snapshots in the directory `dir`, which need not exist yet.
    pub fn at(dir: impl AsRef<Path>) -> Self {
        Snapshots::at_on(Os::shared(), dir.as_ref())
    }

    /// The same, on another file system.
    pub fn at_on(fs: Arc<dyn Fs>, dir: &Path) -> Self {
        Snapshots { fs, dir: dir.to_path_buf() }
    }

    /// Publishes everything that `table` has applied; with `digest`, its state digest, too (a walk
    /// over all rows). Apply and readers go on meanwhile.
    ///
    /// Interrupted, it leaves nothing that looks like a snapshot; the next try goes on where it
    /// stopped.
    pub fn publish(&self, table: &Table, digest: bool) -> Result<Published> {
        let (mut manifest, view) = table.handle.core.published()?;
        if digest {
            manifest.state = Some((view.digest()?, view.len()?));
        }
        let runs = view.shown.layers.runs.iter();
        self.place(&manifest, runs.map(|part| (part.run.entry(), part.run.path())))
    }

    /// Publishes what the newest checkpoint in the log's directory `dir` holds, which another process
    /// keeps; `None` without one that can be read. What that process has applied since is not in it.
    pub fn publish_newest(&self, dir: impl AsRef<Path>) -> Result<Option<Published>> {
        let layout = Layout::new(dir.as_ref());
        let mut tries = 0;
        loop {
            let Some(newest) = OpenSnapshot::newest(&*self.fs, &layout)? else { return Ok(None) };
            match self.place(newest.named(), newest.paths()) {
                // Merged away meanwhile: there is a newer checkpoint.
                Err(e) if e.kind() == Kind::NotFound && tries < RELOADS => tries += 1,
                placed => return placed.map(Some),
            }
        }
    }

    /// Copies the runs that are not there yet, then puts the manifest beside them.
    fn place<'a>(
        &self,
        manifest: &Manifest,
        runs: impl Iterator<Item = (RunEntry, &'a Path)>,
    ) -> Result<Published> {
        self.fs.create_dir(&self.dir).map_err(|e| Error::io("create", &self.dir, e))?;
        if let Some(parent) = self.dir.parent() {
            // Closes the crash that forgets the directory with all its snapshots.
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            self.fs.sync_dir(parent).map_err(|e| Error::io("sync", parent, e))?;
        }
        let name = manifest.name();
        let path = self.path(&name.to_string());
        if let Ok(Some(there)) = Manifest::read(&*self.fs, &path, SNAPSHOT)
            && (there.state.is_some() || manifest.state.is_none())
            && there.log == manifest.log
        {
            let snapshot = describe(name.to_string(), &there);
            return Ok(Published { snapshot, copied: 0, copied_bytes: 0 });
        }
        if mutant::on(Mutant::ManifestBeforeRuns) {
            manifest.meta(SNAPSHOT).replace(&*self.fs, &path)?;
        }
        let names = self.names()?;
        let (mut copied, mut copied_bytes) = (0, 0);
        for (entry, from) in runs {
            if names.contains(&format!("{}.{RUN}", entry.id)) {
                continue;
            }
            fetch_file(&*self.fs, from, &self.fs, &self.dir, manifest.log, &entry)?;
            copied += 1;
            copied_bytes += entry.bytes;
        }
        // Closes the crash that leaves a manifest whose runs have no names.
        self.fs.sync_dir(&self.dir).map_err(|e| Error::io("sync", &self.dir, e))?;
        manifest.meta(SNAPSHOT).replace(&*self.fs, &path)?;
        let snapshot = describe(name.to_string(), manifest);
        Ok(Published { snapshot, copied, copied_bytes })
    }

    /// What is there, oldest first. A manifest that cannot be read is an error.
    pub fn list(&self) -> Result<Vec<Snapshot>> {
        let mut found = Vec::new();
        for name in self.names()? {
            let name = name.strip_suffix(SNAPSHOT).and_then(|name| name.strip_suffix('.'));
            let Some(name) = name.and_then(|name| name.parse::<SnapshotName>().ok()) else {
                continue;
            };
            if let Some(manifest) = self.manifest(&name.to_string())? {
                found.push(describe(name.to_string(), &manifest));
            }
        }
        found.sort_by_key(|snapshot| (snapshot.position.offset, snapshot.position.epoch));
        Ok(found)
    }

    /// Opens a snapshot's files, to be copied or lent; `None` if there is none of that name.
    pub fn open(&self, name: &str) -> Result<Option<OpenSnapshot>> {
        let Some(manifest) = self.manifest(name)? else { return Ok(None) };
        OpenSnapshot::of(&*self.fs, &self.dir, manifest).map(Some)
    }

    /// Reads all of a snapshot and holds it against its hashes; problems, in words.
    pub fn verify(&self, snapshot: &Snapshot) -> Result<Vec<String>> {
        let Some(manifest) = self.manifest(&snapshot.name)? else {
            return Ok(vec![format!("{} is gone", snapshot.name)]);
        };
        let check = |entry: &RunEntry| -> Result<Vec<String>> {
            let path = run_path(&self.dir, entry.id);
            let run = match Run::open(&*self.fs, &path, manifest.log, false) {
                Ok(run) => run,
                Err(e) => return Ok(vec![e.to_string()]),
            };
            if run.entry() != *entry {
                return Ok(vec![format!("{} is not what the manifest says", path.display())]);
            }
            Ok(run.problems().iter().map(ToString::to_string).collect())
        };
        let problems: Result<Vec<Vec<String>>> = manifest.runs.par_iter().map(check).collect();
        Ok(problems?.concat())
    }

    pub(super) fn manifest(&self, name: &str) -> Result<Option<Manifest>> {
        let parsed: SnapshotName = name.parse().map_err(|()| {
            Error::new(Kind::InvalidInput, format!("expected a snapshot's name, found {name:?}"))
        })?;
        let path = self.path(name);
        let manifest = Manifest::read(&*self.fs, &path, SNAPSHOT)?;
        if let Some(manifest) = &manifest {
            let found = manifest.name();
            if found != parsed {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!(
                        "expected the snapshot that its name says, found one at {}",
                        found.offset
                    ),
                )
                .in_file(&path)
                .help("the file was renamed: give it its own name back"));
            }
        }
        Ok(manifest)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.{SNAPSHOT}"))
    }

    fn names(&self) -> Result<Vec<String>> {
        match self.fs.list(&self.dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|e| Error::io("list", &self.dir, e)),
        }
    }
}

fn describe(name: String, manifest: &Manifest) -> Snapshot {
    Snapshot {
        name,
        log: manifest.log,
        position: manifest.mark.position,
        newest: manifest.mark.newest,
        runs: manifest.runs.len(),
        bytes: manifest.bytes(),
        state: manifest.state,
    }
}
