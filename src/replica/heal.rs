//! Healing: a sealed segment of this copy that has rotted is fetched again, whole.
//!
//! Called when opening meets damage in a sealed file. Its footer names the content by hash, so
//! the source must offer exactly that. The damaged file is kept in quarantine; the fetched one
//! replaces it by rename, so a reader that has the old one mapped keeps what it has.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::fs::Open;
use crate::log::start::quarantine;
use crate::segment::{Footer, SegmentName, Tally, Window, seal, walk};
use crate::ship::Source;

use super::copy::Copy;

const CHUNK_BYTES: usize = 1 << 20;

/// Fetches the segment that `damage` is about again. The error comes back when it is about
/// nothing that can be fetched.
pub(super) fn heal(copy: &Copy, source: &mut dyn Source, damage: Error) -> Result<String> {
    let segments = copy.layout.segments();
    let name = damage
        .file()
        .filter(|path| damage.kind() == Kind::Corrupt && path.parent() == Some(&segments))
        .and_then(|path| SegmentName::parse(path.file_name()?.to_str()?));
    let Some(name) = name else { return Err(damage) };
    let path = name.path(&segments);
    let io = |what: &'static str| {
        let path = path.clone();
        move |e| Error::io(what, &path, e)
    };
    let file = copy.fs.open(&path, Open::Read).map_err(io("open"))?;
    let Some(mine) = Footer::read(&*file).map_err(|e| e.in_file(&path))? else {
        return Err(damage);
    };
    let temporary = path.with_extension("seg.tmp");
    let fetched = fetch(copy, source, name, &mine, &temporary);
    if let Err(why) = fetched {
        let _ = copy.fs.unlink(&temporary);
        return Err(damage.help(format!(
            "this copy cannot be mended from {}: {}; name a source that holds this segment whole",
            source.place(),
            why.message()
        )));
    }
    let bytes = file.len().map_err(io("read the length of"))?;
    let reason = "damaged in a follower: fetched again from its source";
    quarantine(&*copy.fs, &copy.layout, &path, 0, bytes, reason)?;
    copy.fs.rename(&temporary, &path).map_err(io("rename into place"))?;
    copy.fs.sync_dir(&segments).map_err(|e| Error::io("sync", &segments, e))?;
    Ok(format!("{damage}: fetched again from {}", source.place()))
}

/// Fetches header and frames, and seals them here: that must give the footer that this copy has
/// had all along, and with it every byte. The source need not have sealed its own yet.
fn fetch(
    copy: &Copy,
    source: &mut dyn Source,
    name: SegmentName,
    mine: &Footer,
    temporary: &Path,
) -> Result<()> {
    let other = |what: &str| Err(Error::new(Kind::NotInHistory, what));
    let io = |what: &'static str| move |e| Error::io(what, temporary, e);
    let _ = copy.fs.unlink(temporary);
    let header = source.segment(name)?.header;
    let file = copy.fs.open(temporary, Open::Create).map_err(io("create"))?;
    let end = mine.frames_end();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < end {
        let want = usize::try_from(end - at).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let read = source.read(name, at, &mut buffer[..want])?;
        if read == 0 {
            return other("the segment ends earlier there");
        }
        file.write_all_at(&buffer[..read], at).map_err(io("write"))?;
        at += read as u64;
    }
    let mut tally = Tally::default();
    let mut window = Window::file(Arc::clone(&file));
    walk(&mut window, &header, end, &mut tally, |_, _| {}).map_err(io("read back"))?;
    if tally.end != end {
        return other("it is damaged there too");
    }
    match seal(&file, temporary, &header, &tally, mine.previous_hash)?.footer == *mine {
        true => Ok(()),
        false => other("the segment has other content there"),
    }
}
