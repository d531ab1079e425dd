//! Which file stands for which segment: misnamed ones get their names back.
//!
//! Called by repair first of all. A file is what its header says, whatever its name; two files may
//! have been swapped, so they move by way of names that no open touches. Invariants:
//! - no file takes a name before the file that had it is durably out of the way, and no crash in
//!   between loses one: whatever was left under a moving name is taken up again;
//! - strangers and second copies go to quarantine, and nothing else does.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::frame;
use crate::fs::{File, Open};
use crate::mutant::{self, Mutant};
use crate::segment::{Footer, HEADER_BYTES, SegmentHeader, SegmentName, Window, search};

use super::super::restore::readable;
use super::super::survey::bytes;
use super::{Candidate, Repair, Slot};

/// How far a guessed salt is tried.
const MAX_GUESS_BYTES: u64 = 64 << 10;

/// Not `.tmp`: a crash in between must not let the next open sweep them.
pub(in crate::log) const MOVING: &str = "moving";

impl Repair<'_> {
    /// Every segment file at the place it belongs to; strangers and second copies set aside.
    pub(super) fn files(&mut self) -> Result<Vec<Slot>> {
        let segments = self.layout.segments();
        let names = self.fs.list(&segments).map_err(|e| Error::io("list", &segments, e))?;
        let mut slots: Vec<Slot> = Vec::new();
        let mut strays = Vec::new();
        for name in names.iter().filter_map(|name| SegmentName::parse(name)) {
            if name.0 < self.control.floor {
                continue;
            }
            let path = name.path(&segments);
            match self.candidate(name, &path)? {
                Some(found) if found.header.log != self.log => {
                    self.aside(&path, "a segment of another log")?;
                }
                Some(found) if found.header.base != name.0 => strays.push(found),
                candidate => {
                    if candidate.is_none() {
                        self.keep_copy(&path, 0, u64::MAX, "a segment without a readable header")?;
                    }
                    slots.push(Slot { name, candidate });
                }
            }
        }
        // A repair that was cut short left these.
        for name in names.iter().filter(|name| Path::new(name).extension() == Some(MOVING.as_ref()))
        {
            let path = segments.join(name);
            let home = path.with_extension("seg");
            let named = home.file_name().and_then(|name| SegmentName::parse(name.to_str()?));
            if let Some(named) = named
                && let Some(found) = self.candidate(named, &path)?
            {
                strays.push(found);
            }
        }
        for stray in strays {
            let name = SegmentName(stray.header.base);
            let taken = slots.iter().filter(|slot| slot.name == name);
            if let Some(there) = taken.filter_map(|slot| slot.candidate.as_ref()).next() {
                let guessed = !there.header_whole && there.footer.is_none();
                if !guessed || !stray.header_whole {
                    self.aside(&stray.path, "a second copy of a segment")?;
                    continue;
                }
                // What says itself where it belongs comes before what was only guessed.
                let guess = there.path.clone();
                self.aside(&guess, "a segment that only its name put here")?;
            }
            slots.retain(|slot| slot.name != name);
            self.act(format!("give {} its own name back, {name}", stray.path.display()));
            slots.push(Slot { name, candidate: Some(stray) });
        }
        slots.sort_by_key(|slot| slot.name);
        self.rename_home(&mut slots, &segments)?;
        Ok(slots)
    }

    /// Renames misnamed files; by way of temporary names, for two may have been swapped.
    fn rename_home(&mut self, slots: &mut [Slot], segments: &Path) -> Result<()> {
        let mut moved = Vec::new();
        for slot in slots {
            let Some(candidate) = &mut slot.candidate else { continue };
            let home = slot.name.path(segments);
            if candidate.path != home {
                moved.push((std::mem::replace(&mut candidate.path, home.clone()), home));
            }
        }
        if moved.is_empty() || self.dry() {
            return Ok(());
        }
        let rename = |from: &Path, to: &Path| {
            self.fs.rename(from, to).map_err(|e| Error::io("rename", from, e))
        };
        let sync = || self.fs.sync_dir(segments).map_err(|e| Error::io("sync", segments, e));
        for (from, home) in &moved {
            rename(from, &home.with_extension(MOVING))?;
        }
        // Closes the crash in which one file takes a name that another one still has.
        if !mutant::on(Mutant::MoveUnsynced) {
            sync()?;
        }
        for (_, home) in &moved {
            rename(&home.with_extension(MOVING), home)?;
        }
        sync()
    }

    fn candidate(&self, name: SegmentName, path: &Path) -> Result<Option<Candidate>> {
        let io = |e| Error::io("read", path, e);
        let file = self.fs.open(path, Open::Read).map_err(io)?;
        let len = file.len().map_err(io)?;
        let footer = readable(Footer::read(&*file)).map_err(|e| e.in_file(path))?;
        let mut page = vec![0; 4096];
        let read = file.read_full_at(&mut page, 0).map_err(io)?;
        page.truncate(read);
        let (header, header_whole) = match (SegmentHeader::decode(&page), &footer) {
            (Ok(header), _) => (header, true),
            (Err(_), Some(footer)) => (footer.header(), false),
            (Err(_), None) => match self.guess_header(name, &file, &page, len).map_err(io)? {
                Some(header) => (header, false),
                None => return Ok(None),
            },
        };
        Ok(Some(Candidate { path: path.to_path_buf(), file, len, header, header_whole, footer }))
    }

    /// A header whose checksum does not hold, from what is known otherwise. Its salt is tried as
    /// it stands and with each bit turned over: a frame that holds with it proves it.
    fn guess_header(
        &self,
        name: SegmentName,
        file: &Arc<dyn File>,
        page: &[u8],
        len: u64,
    ) -> std::io::Result<Option<SegmentHeader>> {
        let Some(mut header) = SegmentHeader::decode_unchecked(page) else { return Ok(None) };
        (header.log, header.previous) = (self.log, None);
        // Damage to the base leaves the name to go by; a base that is quite another one says that
        // the name is wrong: its frames would hold in any place, and be read at wrong offsets.
        if (header.base.0 ^ name.0.0).count_ones() <= 1 {
            header.base = name.0;
        }
        let salt = header.salt;
        for turned in std::iter::once(0).chain((0..64).map(|bit| 1 << bit)) {
            header.salt = salt ^ turned;
            let until = if turned == 0 { len } else { len.min(HEADER_BYTES + MAX_GUESS_BYTES) };
            if let Some((byte, _)) = search(file, &header, HEADER_BYTES, until)? {
                let mut window = Window::file(Arc::clone(file));
                let guess = window.bytes(byte, bytes(MAX_GUESS_BYTES), len)?;
                if let Ok(frame) = frame::Frame::decode(guess, byte, len, header.seed())
                    && let Some(start) = frame::EpochStart::decode(frame.body)
                {
                    header.epoch = start.epoch;
                }
                return Ok(Some(header));
            }
        }
        Ok(None)
    }
}
