//! Fork: a new log that begins where a restore of the old one would end, with the same rows.
//!
//! ```text
//! source log   |== sealed ==|== sealed ==|== the one with the end ==|
//!                                           ▲ target
//! forked       one run with all rows, under the new log's id; an empty log from the target on
//! ```
//!
//! Called by users; uses what `restore` finds of the source, and writes one run. The offsets and
//! timestamps of the rows stay, so the state digest does, too. Invariants:
//! - the log's id is new, and so every token, follower, snapshot and run of the old one is refused;
//! - epochs go on above the old log's: a position of the new one is never one of the old;
//! - `LOG` comes last: a fork that was interrupted is simply done again, under yet another id.

use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::error::{Error, Kind, Result};
use crate::fs::{Fs, Os};
use crate::log::files::{CHECKPOINT, Epochs, Layout};
use crate::log::open;
use crate::position::{Id, Offset};

use super::core::Core;
use super::layers::Part;
use super::manifest::{Manifest, Mark, RunEntry, checkpoint_name};
use super::options::TableOptions;
use super::restore::{RestoreAt, Restored, Source, finished, prepare};
use super::row::Version;
use super::run::{self, Run};
use super::scan::Scan;
use super::store::{TableReport, Taken, run_path};
use super::view::View;
use super::{Handle, Table};

/// Makes `to` a new log with the rows that the log at `from` had at `at`, and nothing before: the
/// log goes on at that offset, under a new id. Takes the same sources as [`super::restore`].
///
/// What the log holds behind the newest snapshot passes through memory.
pub fn fork(from: &Path, to: &Path, at: RestoreAt) -> Result<Restored> {
    fork_on(&Os::shared(), from, to, at)
}

/// The same, on another file system.
pub fn fork_on(fs: &Arc<dyn Fs>, from: &Path, to: &Path, at: RestoreAt) -> Result<Restored> {
    let source = Source::open(fs, from)?;
    let target = source.target(at)?;
    let snapshot = source.snapshot(target)?;
    let start = snapshot.as_ref().map(|(_, manifest)| manifest.mark.position);
    let end = source.pieces(start, target)?.end;
    let mut epochs = source.epochs(&snapshot)?;
    epochs.retain(|entry| entry.start <= end.log_byte);

    let table = rows_of(&source, snapshot.as_ref().map(|(_, manifest)| manifest))?;
    if let Some(log) = &source.log {
        table.catch_up_to(log, end.offset)?;
    }
    let view = table.view();

    let layout = Layout::new(to);
    prepare(&**fs, &layout)?;
    let mut id = [0; 16];
    fs.random(&mut id).map_err(|e| Error::io("read randomness for", to, e))?;
    let id = Id(id);
    let run = write(&**fs, &layout, id, &view)?;
    for dir in [layout.segments(), layout.table()] {
        fs.sync_dir(&dir).map_err(|e| Error::io("sync", &dir, e))?;
    }
    let manifest = Manifest {
        log: id,
        seq: 1,
        // The frame before the position is another log's, and its producers are, too.
        mark: Mark {
            position: end,
            newest: table.handle.core.newest(),
            lost: view.lost().to_vec(),
            ..Mark::default()
        },
        place: None,
        history: epochs.clone(),
        sets: Vec::new(),
        runs: run.into_iter().collect(),
        state: None,
    };
    if end.offset > Offset(0) {
        manifest.meta(CHECKPOINT).replace(&**fs, &layout.table().join(checkpoint_name(1)))?;
    }
    let birth = open::Birth {
        id: Some(id),
        floor: end.log_byte,
        floor_offset: end.offset,
        epochs: Epochs(epochs),
        ..open::Birth::default()
    };
    open::create(&**fs, &layout, birth)?;
    finished(&**fs, &layout);
    Ok(Restored {
        log: id,
        snapshot: snapshot.map(|(name, _)| name),
        end: end.offset,
        bytes: run.map_or(0, |run| run.bytes),
        ..Restored::default()
    })
}

/// The table of a snapshot, in place; an empty one without.
fn rows_of(source: &Source, snapshot: Option<&Manifest>) -> Result<Table> {
    let open = |manifest: &Manifest| -> Result<Taken> {
        let mut runs = Vec::with_capacity(manifest.runs.len());
        for entry in &manifest.runs {
            let path = run_path(&source.snapshots.dir, entry.id);
            let run = Run::open(&*source.fs, &path, manifest.log, false)?;
            if run.entry() != *entry {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("expected a run of {} bytes and {} rows", entry.bytes, entry.rows),
                )
                .in_file(&path)
                .help("run `tidelog snapshot verify`, and take another snapshot"));
            }
            runs.push(Arc::new(Part { run: Arc::new(run), unsynced: Mutex::new(None) }));
        }
        Ok(Taken { mark: manifest.mark.clone(), runs })
    };
    let taken = snapshot.map(open).transpose()?;
    let home = source.log.as_ref().map(crate::log::Log::home);
    let core = Core::new(TableOptions::default(), home, None, taken)?;
    let report = TableReport::default();
    Ok(Table { handle: Arc::new(Handle { core, threads: Vec::new(), report }) })
}

/// Writes all rows as one run of the log `id`, durably but for its name; `None` without rows.
fn write(fs: &dyn Fs, layout: &Layout, id: Id, view: &View) -> Result<Option<RunEntry>> {
    let dir = layout.table();
    let tmp = dir.join("fork.tmp");
    let mut rows = view.scan(&Scan::all())?;
    let mut writer: Option<run::Writer> = None;
    while let Some(row) = rows.next()? {
        let writer = match &mut writer {
            Some(writer) => writer,
            None => {
                // What an interrupted fork left.
                let _ = fs.unlink(&tmp);
                writer.insert(run::Writer::create(fs, &tmp, id, view.len_estimate())?)
            }
        };
        let value = Some(row.value);
        writer.push(row.key, Version { value, offset: row.offset, timestamp: row.timestamp })?;
    }
    let Some(writer) = writer else { return Ok(None) };
    let finished = writer.finish()?;
    finished.file.sync_data().map_err(|e| Error::io("sync", &tmp, e))?;
    let path = run_path(&dir, finished.id);
    fs.rename(&tmp, &path).map_err(|e| Error::io("name", &path, e))?;
    Ok(Some(Run::open(fs, &path, id, false)?.entry()))
}
