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
use crate::fs::{File, Fs, Open, Os};
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, Offset, Position};

use super::Table;
use super::digest::Digest;
use super::manifest::{Manifest, RunEntry};
use super::run::{FOOTER_BYTES, Run, RunId};
use super::store::{RUN, run_path};

/// Ends the names of manifests.
pub(super) const SNAPSHOT: &str = "snapshot";
/// Ends the names of runs that are not complete.
const PART: &str = "part";
/// Bytes copied at a time.
const BLOCK: usize = 1 << 20;

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

/// The name of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    offset: Offset,
    epoch: Epoch,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Epoch { number, nonce } = self.epoch;
        write!(f, "{:020}-{number}-{nonce:016x}", self.offset.0)
    }
}

impl FromStr for Name {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split('-').collect();
        let [offset, number, nonce] = words[..] else { return Err(()) };
        let name = Name {
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
        self.fs.create_dir(&self.dir).map_err(|e| Error::io("create", &self.dir, e))?;
        if let Some(parent) = self.dir.parent() {
            // Closes the crash that forgets the directory with all its snapshots.
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            self.fs.sync_dir(parent).map_err(|e| Error::io("sync", parent, e))?;
        }
        let name =
            Name { offset: manifest.mark.position.offset, epoch: manifest.mark.position.epoch };
        let path = self.path(&name.to_string());
        if let Ok(Some(there)) = Manifest::read(&*self.fs, &path, SNAPSHOT)
            && (there.state.is_some() || !digest)
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
        for part in &view.shown.layers.runs {
            let entry = part.run.entry();
            if names.contains(&format!("{}.{RUN}", entry.id)) {
                continue;
            }
            let from = part.run.path();
            fetch(&*self.fs, from, &self.fs, &self.dir, manifest.log, &entry)?;
            copied += 1;
            copied_bytes += entry.bytes;
        }
        // Closes the crash that leaves a manifest whose runs have no names.
        self.fs.sync_dir(&self.dir).map_err(|e| Error::io("sync", &self.dir, e))?;
        manifest.meta(SNAPSHOT).replace(&*self.fs, &path)?;
        let snapshot = describe(name.to_string(), &manifest);
        Ok(Published { snapshot, copied, copied_bytes })
    }

    /// What is there, oldest first. A manifest that cannot be read is an error.
    pub fn list(&self) -> Result<Vec<Snapshot>> {
        let mut found = Vec::new();
        for name in self.names()? {
            let name = name.strip_suffix(SNAPSHOT).and_then(|name| name.strip_suffix('.'));
            let Some(name) = name.and_then(|name| name.parse::<Name>().ok()) else { continue };
            if let Some(manifest) = self.manifest(&name.to_string())? {
                found.push(describe(name.to_string(), &manifest));
            }
        }
        found.sort_by_key(|snapshot| (snapshot.position.offset, snapshot.position.epoch));
        Ok(found)
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
        let parsed: Name = name.parse().map_err(|()| {
            Error::new(Kind::InvalidInput, format!("expected a snapshot's name, found {name:?}"))
        })?;
        let path = self.path(name);
        let manifest = Manifest::read(&*self.fs, &path, SNAPSHOT)?;
        if let Some(manifest) = &manifest {
            let Position { epoch, offset, .. } = manifest.mark.position;
            if (Name { offset, epoch }) != parsed {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("expected the snapshot that its name says, found one at {offset}"),
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
        bytes: manifest.runs.iter().map(|run| run.bytes).sum(),
        state: manifest.state,
    }
}

/// Copies the run at `from` into `dir`, hashing on the way, and makes it durable under its name
/// (the directory is the caller's to sync). Goes on where an earlier try stopped.
pub(super) fn fetch(
    from_fs: &dyn Fs,
    from: &Path,
    fs: &Arc<dyn Fs>,
    dir: &Path,
    log: Id,
    entry: &RunEntry,
) -> Result<()> {
    let part = dir.join(format!("{}.{PART}", entry.id));
    let source = from_fs.open_plain(from).map_err(|e| Error::io("open", from, e))?;
    let len = source.len().map_err(|e| Error::io("read", from, e))?;
    if len != entry.bytes {
        return Err(Error::new(
            Kind::Corrupt,
            format!("expected a run of {} bytes, found {len}", entry.bytes),
        )
        .in_file(from));
    }
    // What an earlier try left is hashed like the rest; if it is not what should be there, it is
    // thrown away, once.
    let mut resumed = fs.open(&part, Open::Write).ok();
    loop {
        let target = match &resumed {
            Some(file) => Arc::clone(file),
            None => {
                let _ = fs.unlink(&part);
                fs.open(&part, Open::Create).map_err(|e| Error::io("create", &part, e))?
            }
        };
        // The hash does not cover the footer, which has a checksum of its own: what an interrupted
        // copy left may lack just that.
        if copy(&*source, from, &*target, &part, entry)? && is_run(&**fs, &part, log, entry)? {
            if let Err(e) = target.sync_data() {
                // Gone on with, it would be synced without an error, and not be there.
                let _ = fs.unlink(&part);
                return Err(Error::io("sync", &part, e));
            }
            let to = run_path(dir, entry.id);
            return fs.rename(&part, &to).map_err(|e| Error::io("name", &to, e));
        }
        if resumed.take().is_none() {
            let _ = fs.unlink(&part);
            return Err(Error::new(
                Kind::Corrupt,
                format!("expected a run whose content has the hash {}, found another", entry.id),
            )
            .in_file(from)
            .help("take it from another copy; `tidelog verify` says what is damaged"));
        }
    }
}

/// Whether the file opens as the run that a manifest names.
fn is_run(fs: &dyn Fs, path: &Path, log: Id, entry: &RunEntry) -> Result<bool> {
    if mutant::on(Mutant::TrustResumedCopy) {
        return Ok(true);
    }
    match Run::open(fs, path, log, false) {
        Ok(run) => Ok(run.entry() == *entry),
        Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::WrongLog) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Brings `target` up to the content of `source`; whether that has the right hash.
fn copy(
    source: &dyn File,
    from: &Path,
    target: &dyn File,
    to: &Path,
    entry: &RunEntry,
) -> Result<bool> {
    let hashed = entry.bytes.saturating_sub(FOOTER_BYTES as u64);
    let there = target.len().map_err(|e| Error::io("read", to, e))?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; usize::try_from(entry.bytes).map_or(BLOCK, |bytes| bytes.min(BLOCK))];
    let mut byte = 0;
    while byte < entry.bytes {
        let want = (entry.bytes - byte).min(BLOCK as u64);
        let bytes = &mut block[..usize::try_from(want).expect("at most a block")];
        if byte + want <= there {
            target.read_exact_at(bytes, byte).map_err(|e| Error::io("read", to, e))?;
        } else {
            source.read_exact_at(bytes, byte).map_err(|e| Error::io("read", from, e))?;
            target.write_all_at(bytes, byte).map_err(|e| Error::io("write", to, e))?;
        }
        let inside = hashed.saturating_sub(byte).min(want);
        hasher.update(&bytes[..usize::try_from(inside).expect("at most a block")]);
        byte += want;
    }
    Ok(there <= entry.bytes && RunId(*hasher.finalize().as_bytes()) == entry.id)
}
