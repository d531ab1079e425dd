//! A deliberate cut: a log goes back to where its history and its leader's part.
//!
//! Begun by `replica::rejoin`, which keeps what goes before; finished by it, by every opening for
//! writing, as leader or as follower, and by repair. CONTROL says what is cut (`cut_to`, `cut_nonce`)
//! from before the first step until after the last. The steps, each done again without harm:
//!
//! 1. checkpoints of the table that hold anything above the cut get another name;
//! 2. EPOCHS loses what begins at or above it;
//! 3. segments that begin at or above it go, newest first;
//! 4. the segment that holds it, sealed or not, is replaced by its frames before it;
//! 5. STATE goes: it speaks of what was cut;
//! 6. CONTROL: no cut, no clean end; sets, degraded spells and losses above it are forgotten, and the set that
//!    rules below it does so again.
//!
//! Invariants:
//! - nothing is written behind the cut before step 6 is durable; until then `scan` takes everything
//!   above it for void;
//! - a file that may be mapped is never shortened: another takes its name;
//! - after step 6 nothing is left that speaks of what was cut, so the same epochs may grow again.

use crate::error::{Error, Kind, Result};
use crate::fs::{Fs, Open};
use crate::position::LogByte;
use crate::segment::{Footer, HEADER_BYTES, PAGE_BYTES, SegmentHeader, SegmentName};

use super::files::{ASIDE, Applied, CHECKPOINT, Control, Epochs, Layout, LogFile};
use super::start::copy_prefix;

/// Finishes the cut that CONTROL tells of, if there is one; whether there was. The caller holds the
/// log's lock.
pub(crate) fn finish(fs: &dyn Fs, layout: &Layout, control: &mut Control) -> Result<bool> {
    let Some((at, nonces)) = control.cut.clone() else { return Ok(false) };
    retire_checkpoints(fs, layout, at, &nonces)?;
    let mut epochs = Epochs::read(fs, layout)?;
    let known = epochs.0.len();
    epochs.0.retain(|entry| entry.start < at);
    if epochs.0.len() < known {
        epochs.write(fs, layout)?;
    }
    drop_segments(fs, layout, at, &nonces)?;
    let state = layout.state();
    match fs.unlink(&state) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &state, e));
        }
        _ => {}
    }
    // Closes the crash that brings STATE back when CONTROL no longer says that it is void.
    fs.sync_dir(&layout.root).map_err(|e| Error::io("sync", &layout.root, e))?;
    let mut done = control.clone();
    (done.cut, done.clean) = (None, None);
    done.cut_sets(at);
    done.degraded = done.degraded.filter(|from| *from < at);
    done.lost_below = done.lost_below.map(|lost| lost.min(at));
    done.write(fs, layout)?;
    *control = done;
    Ok(true)
}

/// They hold rows that are no longer in the log.
fn retire_checkpoints(fs: &dyn Fs, layout: &Layout, at: LogByte, nonces: &[u64]) -> Result<()> {
    let log = LogFile::read(fs, layout)?.id;
    let table = layout.table();
    let mut renamed = false;
    for applied in Applied::read_all(fs, layout, log) {
        if applied.end > at && nonces.contains(&applied.epoch.nonce) {
            let name = |ending| table.join(format!("{:020}.{ending}", applied.seq));
            let from = name(CHECKPOINT);
            fs.rename(&from, &name(ASIDE)).map_err(|e| Error::io("set aside", &from, e))?;
            renamed = true;
        }
    }
    match renamed {
        true => fs.sync_dir(&table).map_err(|e| Error::io("sync", &table, e)),
        false => Ok(()),
    }
}

fn drop_segments(fs: &dyn Fs, layout: &Layout, at: LogByte, nonces: &[u64]) -> Result<()> {
    let segments = layout.segments();
    let names = fs.list(&segments).map_err(|e| Error::io("list", &segments, e))?;
    let names: Vec<SegmentName> = names.iter().filter_map(|n| SegmentName::parse(n)).collect();
    for name in names.iter().rev().filter(|name| name.0 >= at) {
        let path = name.path(&segments);
        let file = fs.open(&path, Open::Read).map_err(|e| Error::io("open", &path, e))?;
        let mut page = vec![0; 4096];
        let read = file.read_full_at(&mut page, 0).map_err(|e| Error::io("read", &path, e))?;
        if let Ok(header) = SegmentHeader::decode(&page[..read])
            && !nonces.contains(&header.epoch.nonce)
        {
            return Err(Error::new(
                Kind::Corrupt,
                format!(
                    "expected a segment of the epochs that are being cut back to log byte {at}, \
                     found one of epoch {}",
                    header.epoch
                ),
            )
            .in_file(&path)
            .help("something else put it there: move it out of the segments directory"));
        }
        fs.unlink(&path).map_err(|e| Error::io("remove", &path, e))?;
    }
    if let Some(name) = names.iter().rev().find(|name| name.0 < at) {
        shorten(fs, layout, *name, at)?;
    }
    // Closes the crash that brings segments back when CONTROL no longer says that they are void.
    fs.sync_dir(&segments).map_err(|e| Error::io("sync", &segments, e))
}

/// Replaces the segment by its frames before `at`, unless it ends there.
fn shorten(fs: &dyn Fs, layout: &Layout, name: SegmentName, at: LogByte) -> Result<()> {
    let path = name.path(&layout.segments());
    let io = |what: &'static str| {
        let path = path.clone();
        move |e| Error::io(what, &path, e)
    };
    let file = fs.open(&path, Open::Read).map_err(io("open"))?;
    let footer = Footer::read(&*file).map_err(|e| e.in_file(&path))?;
    if footer.is_some_and(|footer| footer.end() == at) {
        return Ok(());
    }
    let end = HEADER_BYTES + (at.0 - name.0.0);
    let len = file.len().map_err(io("read the length of"))?;
    if footer.is_none() && is_zero(&*file, end, len).map_err(io("read"))? {
        return Ok(());
    }
    if len < end {
        return Err(Error::new(
            Kind::Corrupt,
            format!("expected frames up to byte {end}, where a cut is, found {len} bytes"),
        )
        .in_file(&path)
        .help("see what `tidelog repair` would save"));
    }
    copy_prefix(fs, &*file, &path, end, end.next_multiple_of(PAGE_BYTES))
}

fn is_zero(file: &dyn crate::fs::File, from: u64, to: u64) -> std::io::Result<bool> {
    let mut buffer = vec![0; super::scan::chunk(from, to, 256 << 10)];
    let mut at = from;
    while at < to {
        let read = file.read_full_at(&mut buffer, at)?;
        if read == 0 {
            break;
        }
        if buffer[..read].iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(true)
}
