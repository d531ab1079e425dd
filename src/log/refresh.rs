//! How a reader in another process follows the writer: looking at the directory again.
//!
//! A look reads STATE, and only when that moved the names in `segments/` and the footers of
//! segments that were not sealed before. Frames are not walked: STATE says what is durable, and
//! the cursor checks every frame that it reads.

use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use crate::error::{Error, Result};
use crate::fs::Open;
use crate::position::{LogByte, Offset};
use crate::segment::{Footer, HEADER_BYTES, Index, SegmentHeader, SegmentName};

use super::catalog::Segment;
use super::files::{Control, State};
use super::read::Cursor;
use super::{Log, Shared};

impl Log {
    /// Looks whether another process has made the log grow; tails do so by themselves. Only a
    /// log opened for reading has anything to look for.
    pub fn refresh(&self) -> Result<()> {
        if self.shared.options.read_only { self.shared.refresh() } else { Ok(()) }
    }

    /// The same, from one who knows: a follower in this process. STATE is only a hint, and may
    /// be missing.
    pub(crate) fn grow_to(&self, state: &State) -> Result<()> {
        self.shared.grow_to(state)
    }
}

impl Shared {
    /// Looks whether the log has grown.
    pub(crate) fn refresh(&self) -> Result<()> {
        match State::read(&*self.fs, &self.layout) {
            Some(state) => self.grow_to(&state),
            None => Ok(()),
        }
    }

    fn grow_to(&self, state: &State) -> Result<()> {
        let seen = self.state_seq.swap(state.seq, AcqRel);
        let (durable, _) = self.ends.durable();
        if seen == state.seq && durable >= state.durable {
            return Ok(());
        }
        let holds = self.look_for_segments(state)?;
        // First what may be shown, then what is there.
        let committed = (state.committed, state.committed_offset);
        self.learn_committed(holds, state.durable, committed);
        if state.durable > durable {
            self.confirmed.store(state.durable_offset.0, Release);
            self.set_epoch(state.epoch);
            self.publish_recovered(state.durable, state.durable_offset);
        }
        // What is committed may have gone on alone.
        self.grew();
        Ok(())
    }

    /// Whether commits are held, as far as CONTROL knows.
    fn look_for_segments(&self, state: &State) -> Result<bool> {
        let directory = self.layout.segments();
        let names = self.fs.list(&directory).map_err(|e| Error::io("list", &directory, e))?;
        let list = self.catalog.list();
        let newest = list.last().map(|segment| segment.header.base);
        let mut added = Vec::new();
        for name in names.iter().filter_map(|name| SegmentName::parse(name)) {
            if newest.is_none_or(|newest| name.0 > newest) && name.0 <= state.durable {
                added.extend(self.open_segment(name)?);
            }
        }
        for segment in list.iter().filter(|segment| segment.footer.get().is_none()) {
            let file = self.fs.open(&segment.path, Open::Read);
            if let Some(footer) = file.ok().and_then(|file| Footer::read(&*file).ok().flatten())
                && footer.log == self.log.id
                && footer.base == segment.header.base
            {
                segment.seal(footer);
            }
        }
        // A segment that is followed by another has its end, sealed or not.
        let mut previous = list.last().cloned();
        for segment in &added {
            if let (Some(before), Some(link)) = (&previous, segment.header.previous)
                && link.base == before.header.base
            {
                let end = before.header.file_byte(link.end.0) - crate::segment::SEAL_BYTES;
                let _ = before.end.set((end, segment.header.base_offset));
            }
            previous = Some(Arc::clone(segment));
        }
        let control = Control::read(&*self.fs, &self.layout)?.unwrap_or_default();
        let floor = control.floor;
        if !added.is_empty() || list.first().is_some_and(|first| first.header.base < floor) {
            self.catalog.update(|segments| {
                segments.extend(added);
                segments.retain(|segment| segment.header.base >= floor);
            });
        }
        Ok(control.holds_commits())
    }

    fn open_segment(&self, name: SegmentName) -> Result<Option<Arc<Segment>>> {
        let path = name.path(&self.layout.segments());
        let file = match self.fs.open(&path, Open::Read) {
            Ok(file) => file,
            // Retention was quicker.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", &path, e)),
        };
        let mut page = vec![0; 4096];
        let read = file.read_full_at(&mut page, 0).map_err(|e| Error::io("read", &path, e))?;
        let header = SegmentHeader::decode(&page[..read]).map_err(|e| e.in_file(&path))?;
        let segment = Segment::unsealed(header, path, Arc::clone(&file));
        if let Some(footer) = Footer::read(&*file)? {
            segment.seal(footer);
        }
        Ok(Some(Arc::new(segment)))
    }

    /// The offset of the first record at or behind a log byte.
    pub(crate) fn offset_at(self: &Arc<Self>, byte: LogByte) -> Result<Offset> {
        let list = self.catalog.list();
        let after = list.partition_point(|segment| segment.header.base <= byte);
        let Some(segment) = after.checked_sub(1).map(|i| &list[i]) else {
            return Ok(self.start());
        };
        if let Some((end, offset)) = segment.end.get()
            && segment.header.file_byte(byte.0) >= *end
        {
            return Ok(*offset);
        }
        let target = segment.header.file_byte(byte.0);
        let window = self.catalog.window(segment)?;
        let entry = self.catalog.find(segment, &window, |block| Index::find_byte(block, target))?;
        let from = entry.map_or(HEADER_BYTES, |entry| entry.byte);
        Cursor::offset_at(segment, window, from, target)
    }
}
