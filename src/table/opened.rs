//! A snapshot whose files are open: what is copied to an archive, or lent to a follower.
//!
//! Made of a table, of a store of snapshots, or of a log's directory that somebody else writes;
//! read by `ship` and `server`. Invariants:
//! - all its files were open at one moment: what merges remove later stays readable here;
//! - bytes come from runs that its manifest names, and from nowhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::fs::{File, Fs, Os};
use crate::log::files::{CHECKPOINT, Layout};
use crate::position::{Id, Position};

use super::Table;
use super::manifest::{Manifest, RunEntry, checkpoint_name, parse_name};
use super::run::RunId;
use super::snapshot::{SNAPSHOT, SnapshotName};
use super::store::run_path;

/// How often a directory is looked at again when runs vanish under the reader.
pub(super) const RELOADS: usize = 20;

/// A snapshot that can be read, file by file.
#[derive(Debug)]
pub struct OpenSnapshot {
    manifest: Manifest,
    text: Vec<u8>,
    runs: Vec<OpenRun>,
}

#[derive(Debug)]
struct OpenRun {
    entry: RunEntry,
    path: PathBuf,
    file: Arc<dyn File>,
}

impl OpenSnapshot {
    /// A snapshot of everything that `table` has applied, without a copy of it anywhere; with
    /// `digest`, its state digest, too (a walk over all rows). Apply and readers go on meanwhile.
    pub fn take(table: &Table, digest: bool) -> Result<Self> {
        let (mut manifest, view) = table.handle.core.published()?;
        if digest {
            manifest.state = Some((view.digest()?, view.len()?));
        }
        let home = table.handle.core.place().1;
        // The view keeps the names until the files are open.
        OpenSnapshot::of(&**home.fs(), &home.table(), manifest)
    }

    /// A snapshot of what the newest checkpoint in the log's directory `dir` holds, which another process
    /// may keep; `None` without one that can be read.
    pub fn newest_in(dir: impl AsRef<Path>) -> Result<Option<Self>> {
        OpenSnapshot::newest(&*Os::shared(), &Layout::new(dir.as_ref()))
    }

    /// The same, on another file system.
    pub(crate) fn newest(fs: &dyn Fs, layout: &Layout) -> Result<Option<Self>> {
        let dir = layout.table();
        for _ in 0..RELOADS {
            let names = match fs.list(&dir) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                other => other.map_err(|e| Error::io("list", &dir, e))?,
            };
            let mut seqs: Vec<u64> =
                names.iter().filter_map(|name| parse_name(name, CHECKPOINT)).collect();
            seqs.sort_unstable();
            let mut vanished = false;
            for seq in seqs.into_iter().rev() {
                let path = dir.join(checkpoint_name(seq));
                let opened = match Manifest::read(fs, &path, CHECKPOINT) {
                    Ok(Some(manifest)) => OpenSnapshot::of(fs, &dir, manifest),
                    Ok(None) => Err(Error::new(Kind::NotFound, "it was replaced meanwhile")),
                    Err(e) => Err(e),
                };
                match opened {
                    Ok(opened) => return Ok(Some(opened)),
                    Err(e) if e.kind() == Kind::NotFound => vanished = true,
                    // The one before may do; who keeps the table will say that this does not.
                    Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NewerVersion) => {}
                    Err(e) => return Err(e),
                }
            }
            if !vanished {
                return Ok(None);
            }
        }
        Ok(None)
    }

    pub(super) fn named(&self) -> &Manifest {
        &self.manifest
    }

    /// Its runs, and where they were when it was opened.
    pub(super) fn paths(&self) -> impl Iterator<Item = (RunEntry, &Path)> {
        self.runs.iter().map(|run| (run.entry, run.path.as_path()))
    }

    /// Opens the runs that a manifest names in `dir`.
    pub(super) fn of(fs: &dyn Fs, dir: &Path, manifest: Manifest) -> Result<Self> {
        // What is handed on is a snapshot, whatever it was made from.
        let manifest = Manifest { seq: 0, ..manifest };
        let mut runs = Vec::with_capacity(manifest.runs.len());
        for entry in &manifest.runs {
            let path = run_path(dir, entry.id);
            let file = fs.open_plain(&path).map_err(|e| Error::io("open", &path, e))?;
            let len = file.len().map_err(|e| Error::io("read", &path, e))?;
            if len != entry.bytes {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("expected a run of {} bytes, found {len}", entry.bytes),
                )
                .in_file(&path));
            }
            runs.push(OpenRun { entry: *entry, path, file });
        }
        let text = manifest.meta(SNAPSHOT).encode();
        Ok(OpenSnapshot { manifest, text, runs })
    }

    /// Its name.
    pub fn name(&self) -> SnapshotName {
        self.manifest.name()
    }

    /// The log it is of.
    pub fn log(&self) -> Id {
        self.manifest.log
    }

    /// Behind the last record in it.
    pub fn position(&self) -> Position {
        self.manifest.mark.position
    }

    /// Bytes of its runs.
    pub fn bytes(&self) -> u64 {
        self.manifest.bytes()
    }

    /// Its manifest, as it is published.
    pub fn manifest(&self) -> &[u8] {
        &self.text
    }

    /// Its runs, with the bytes of each.
    pub fn runs(&self) -> impl Iterator<Item = (RunId, u64)> + '_ {
        self.runs.iter().map(|run| (run.entry.id, run.entry.bytes))
    }

    /// The open file of a run, and its length.
    #[cfg(feature = "server")]
    pub(crate) fn file(&self, run: RunId) -> Option<(Arc<dyn File>, u64)> {
        let run = self.runs.iter().find(|open| open.entry.id == run)?;
        Some((Arc::clone(&run.file), run.entry.bytes))
    }

    /// Reads exactly `buf` of a run, at `byte`.
    pub fn read(&self, run: RunId, byte: u64, buf: &mut [u8]) -> Result<()> {
        let Some(run) = self.runs.iter().find(|open| open.entry.id == run) else {
            return Err(Error::new(
                Kind::NotFound,
                format!("expected a run of snapshot {}, found none named {run}", self.name()),
            ));
        };
        let read = run.file.read_exact_at(buf, byte);
        read.map_err(|e| Error::io("read", &run.path, e).at_byte(byte))
    }
}
