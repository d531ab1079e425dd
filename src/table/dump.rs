//! A table's files as they are, without opening the table: for people who look.
//!
//! Called by `tidelog info` and `tidelog dump`; reads manifests. Takes no lock and applies nothing.

use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::fs::{Fs, Os};
use crate::log::files::{CHECKPOINT, Layout};
use crate::log::meta::Meta;
use crate::position::{Id, Position};

use super::manifest::{Manifest, checkpoint_name, parse_name};
use super::snapshot::SNAPSHOT;

/// What a log's directory holds of a table, by its newest checkpoint that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// The log that the checkpoint says it is of.
    pub log: Id,
    /// The checkpoint's number.
    pub checkpoint: u64,
    /// Behind the last record in it.
    pub position: Position,
    /// Checkpoints there are.
    pub checkpoints: usize,
    /// Runs that the newest names.
    pub runs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows with a value; a key that several hold counts in each.
    pub rows: u64,
    /// Their rows that are deletes.
    pub deletes: u64,
}

/// What the log's directory `dir` holds of a table; `None` without a checkpoint that can be read.
/// Whether its runs are whole is `verify`'s to say.
pub fn stored(dir: impl AsRef<Path>) -> Result<Option<Stored>> {
    let (fs, dir) = (Os::shared(), Layout::new(dir.as_ref()).table());
    let names = match fs.list(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| Error::io("list", &dir, e))?,
    };
    let mut seqs: Vec<u64> = names.iter().filter_map(|name| parse_name(name, CHECKPOINT)).collect();
    seqs.sort_unstable();
    for &seq in seqs.iter().rev() {
        match Manifest::read(&*fs, &dir.join(checkpoint_name(seq)), CHECKPOINT) {
            Ok(Some(Manifest { log, mark, runs, .. })) => {
                return Ok(Some(Stored {
                    log,
                    checkpoint: seq,
                    position: mark.position,
                    checkpoints: seqs.len(),
                    runs: runs.len(),
                    bytes: runs.iter().map(|run| run.bytes).sum(),
                    rows: runs.iter().map(|run| run.rows).sum(),
                    deletes: runs.iter().map(|run| run.deletes).sum(),
                }));
            }
            Ok(None) => {}
            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NewerVersion) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// The lines of a manifest, as they stand in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestLines {
    /// What it is: `checkpoint` or `snapshot`.
    pub what: &'static str,
    /// Key and value of each line.
    pub lines: Vec<(String, String)>,
}

/// Reads the manifest at `path`; `None` if the file does not begin like one.
pub fn dump_manifest(fs: &dyn Fs, path: &Path) -> Result<Option<ManifestLines>> {
    let file = fs.open_plain(path).map_err(|e| Error::io("open", path, e))?;
    let mut start = [0; 32];
    let read = file.read_full_at(&mut start, 0).map_err(|e| Error::io("read", path, e))?;
    let begins = |what: &&&str| start[..read].starts_with(format!("tidelog {what} ").as_bytes());
    let Some(what) = [CHECKPOINT, SNAPSHOT].iter().find(begins).copied() else {
        return Ok(None);
    };
    // What is no manifest is an error here, not a list of lines.
    Manifest::read(fs, path, what)?;
    let meta = Meta::read(fs, path, what)?;
    Ok(meta.map(|meta| ManifestLines {
        what,
        lines: meta.lines().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
    }))
}
