//! Runs that arrive from elsewhere: hashed on their way, durable before they have their names.
//!
//! Called by snapshots that are published or restored, by followers that begin with one, and by
//! whoever verifies an archive. Where the bytes come from is a closure's business. Invariants:
//! - a run gets its name only if it has the content that the name says, footer included;
//! - what an interrupted copy left is gone on with, and hashed like the rest: it is never trusted.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::fs::{File, Fs, Open};
use crate::mutant::{self, Mutant};
use crate::position::Id;

use super::manifest::RunEntry;
use super::run::{FOOTER_BYTES, Run, RunId, check_footer};
use super::store::run_path;

/// Reads a run at a byte, exactly so many bytes.
pub(crate) type ReadRun<'a> = dyn FnMut(u64, &mut [u8]) -> Result<()> + 'a;

/// Ends the names of runs that are not complete.
const PART: &str = "part";
/// Bytes copied at a time.
const BLOCK: usize = 4 << 20;

/// Copies the run at `from` into `dir`, as [`fetch`] does.
pub(super) fn fetch_file(
    from_fs: &dyn Fs,
    from: &Path,
    fs: &Arc<dyn Fs>,
    dir: &Path,
    log: Id,
    entry: &RunEntry,
) -> Result<()> {
    let source = from_fs.open_plain(from).map_err(|e| Error::io("open", from, e))?;
    let len = source.len().map_err(|e| Error::io("read", from, e))?;
    if len != entry.bytes {
        return Err(Error::new(
            Kind::Corrupt,
            format!("expected a run of {} bytes, found {len}", entry.bytes),
        )
        .in_file(from));
    }
    let mut read = |byte, bytes: &mut [u8]| {
        source.read_exact_at(bytes, byte).map_err(|e| Error::io("read", from, e))
    };
    fetch(from, &mut read, fs, dir, log, entry)
}

/// Brings a run into `dir`, hashing on the way, and makes it durable under its name (the directory
/// is the caller's to sync). Goes on where an earlier try stopped. `from` names it in errors.
pub(crate) fn fetch(
    from: &Path,
    read: &mut ReadRun<'_>,
    fs: &Arc<dyn Fs>,
    dir: &Path,
    log: Id,
    entry: &RunEntry,
) -> Result<()> {
    let part = dir.join(format!("{}.{PART}", entry.id));
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
        if copy(read, &*target, &part, entry)? && is_run(&**fs, &part, log, entry)? {
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

/// Brings `target` up to the content that `read` gives; whether that has the right hash.
fn copy(read: &mut ReadRun<'_>, target: &dyn File, to: &Path, entry: &RunEntry) -> Result<bool> {
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
            read(byte, bytes)?;
            target.write_all_at(bytes, byte).map_err(|e| Error::io("write", to, e))?;
        }
        let inside = hashed.saturating_sub(byte).min(want);
        hasher.update(&bytes[..usize::try_from(inside).expect("at most a block")]);
        byte += want;
    }
    Ok(there <= entry.bytes && RunId(*hasher.finalize().as_bytes()) == entry.id)
}

/// Reads all of a run where it lies, and says what is wrong with it; `None` if nothing is. An error
/// is for what could not be read.
pub(crate) fn check(read: &mut ReadRun<'_>, log: Id, entry: &RunEntry) -> Result<Option<String>> {
    let Some(hashed) = entry.bytes.checked_sub(FOOTER_BYTES as u64) else {
        return Ok(Some("it is too short for a run".into()));
    };
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; usize::try_from(hashed).map_or(BLOCK, |bytes| bytes.min(BLOCK))];
    let mut byte = 0;
    while byte < hashed {
        let want = (hashed - byte).min(BLOCK as u64);
        let bytes = &mut block[..usize::try_from(want).expect("at most a block")];
        read(byte, bytes)?;
        hasher.update(bytes);
        byte += want;
    }
    let mut footer = [0; FOOTER_BYTES];
    read(hashed, &mut footer)?;
    if RunId(*hasher.finalize().as_bytes()) != entry.id {
        return Ok(Some("its content does not have the hash in its name".into()));
    }
    Ok(check_footer(&footer, log, entry).err().map(|e| e.message().to_owned()))
}
