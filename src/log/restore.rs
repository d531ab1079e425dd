//! Restoring the small files beside the segments: what is unreadable or gone is made again from
//! what the segments and the other small files say.
//!
//! The first part of `repair`, which calls it with the lock held. Invariant: a small file of
//! another log is never taken at its word.

use crate::error::{Error, Kind, Result};
use crate::frame::{EpochStart, Frame, FrameKind, SyncSet};
use crate::fs::Open;
use crate::position::{Epoch, Id, LogByte};
use crate::segment::{HEADER_BYTES, SegmentHeader, SegmentName, Tally, Window, walk};

use super::claims::read_slots;
use super::files::{Control, EpochEntry, Epochs, LogFile, NodeFile, Promise, SetLine, UNKNOWN};
use super::open::write_new_node;
use super::repair::Repair;

/// An `epoch_start` frame is shorter.
const START_BYTES: usize = 4 << 10;

/// What a file holds; `None` if it is missing or damaged, so that it is to be made again. A file
/// that could not be read just now may be whole: that is an error, and nothing is overwritten.
pub(super) fn readable<T>(read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotALog | Kind::NotFound) => Ok(None),
        other => other,
    }
}

impl Repair<'_> {
    /// Reads what stands beside the segments, and makes again what is unreadable.
    pub(super) fn small_files(&mut self) -> Result<()> {
        let (fs, layout) = (self.fs, self.layout);
        let headers = self.headers()?;
        match LogFile::read(&**fs, layout) {
            Ok(log) => {
                self.log = log.id;
                self.misled(&headers, log)?;
            }
            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotALog) => {
                let mut ids: Vec<Id> = headers.iter().map(|header| header.log).collect();
                ids.dedup();
                if ids.is_empty() {
                    ids.extend(
                        readable(Control::read(&**fs, layout))?.and_then(|control| control.log),
                    );
                }
                let [id] = ids[..] else {
                    return Err(e.help("the segments do not agree on a log id: sort them first"));
                };
                self.log = id;
                self.act(format!("write LOG with the id {id} that every segment bears"));
                if !self.dry() {
                    LogFile { id, created: fs.now() }.write(&**fs, layout)?;
                }
            }
            Err(e) => return Err(e),
        }
        let written = !headers.is_empty();
        let promise = readable(Promise::read(&**fs, layout).map(Some))?;
        let promised = promise.is_some_and(|promise| !written || promise.is_some());
        let mut knew = true;
        match readable(Control::read(&**fs, layout))? {
            Some(control) if control.belongs_to(self.log) => self.control = control,
            _ => {
                knew = false;
                self.control.log = Some(self.log);
                if let Some(first) = headers.first() {
                    (self.control.floor, self.control.floor_offset) =
                        (first.base, first.base_offset);
                }
                self.sets(&headers)?;
                self.act(format!(
                    "write CONTROL with the floor at {}, and the {} synchronous sets that the segments hold; whom \
                     this directory followed is not known",
                    self.control.floor,
                    self.control.past.len() + self.control.sets.len()
                ));
                self.control_changed = true;
            }
        }
        if !(knew && promised) {
            // What it had promised or lost is not known any more, from before any of it is made again.
            self.control.lost_below = Some(UNKNOWN);
            self.control_changed = true;
            if knew && !self.dry() {
                self.control.write(&**fs, layout)?;
            }
        }
        let node = match readable(NodeFile::read(&**fs, layout))? {
            Some(node) => node.id,
            None => {
                self.act("write NODE: this directory becomes a new node".into());
                if self.dry() { Id::default() } else { write_new_node(&**fs, layout)? }
            }
        };
        self.believe_state(&headers)?;
        let known = readable(Epochs::read(&**fs, layout).map(Some))?;
        let seen = known.iter().flat_map(|known| &known.0).map(|entry| entry.epoch.number);
        let seen = seen.chain(headers.iter().map(|header| header.epoch.number)).max().unwrap_or(0);
        if known.is_none_or(|known| written && known.0.is_empty()) {
            self.act("write EPOCHS from the segments".into());
            let mut epochs = Epochs::default();
            for header in &headers {
                if epochs.0.last().is_none_or(|last| last.epoch != header.epoch) {
                    epochs.push(EpochEntry {
                        epoch: header.epoch,
                        start: header.base,
                        start_offset: header.base_offset,
                        node: self.leader(header)?.unwrap_or(match self.control.follows {
                            None if knew => node,
                            // Somebody else, perhaps; whoever that was.
                            _ => Id::default(),
                        }),
                    });
                }
            }
            if !self.dry() {
                epochs.write(&**fs, layout)?;
            }
        }
        if !promised {
            // What was promised is unknown: promise more than anything that was seen.
            let epoch = Epoch { number: seen.saturating_add(1), nonce: 0 };
            self.act(format!("write PROMISE above every epoch seen, {}", epoch.number));
            if !self.dry() {
                Promise { epoch, owner: node }.write(&**fs, layout)?;
            }
        }
        match read_slots(&**fs, layout, self.log) {
            // They say what others still need, and cannot be made again: who fetches claims anew.
            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::WrongLog) => {
                self.aside(&layout.slots(), "slots that cannot be read")
            }
            read => read.map(drop),
        }
    }

    /// A LOG of another log would have every segment set aside. Where all segments agree on
    /// another id, and this directory's history knows them, it is LOG that is the stranger.
    fn misled(&mut self, headers: &[SegmentHeader], log: LogFile) -> Result<()> {
        let Some(id) = headers.first().map(|first| first.log) else { return Ok(()) };
        if id == log.id || headers.iter().any(|header| header.log != id) {
            return Ok(());
        }
        let history = self.history()?;
        let ours = |header: &SegmentHeader| history.iter().any(|e| e.epoch == header.epoch);
        if !headers.iter().all(ours) {
            return Ok(());
        }
        self.log = id;
        self.keep_copy(&self.layout.log(), 0, u64::MAX, "another log's LOG")?;
        self.act(format!("write LOG with the id {id} that every segment bears"));
        if !self.dry() {
            LogFile { id, ..log }.write(&**self.fs, self.layout)?;
        }
        Ok(())
    }

    /// Forgets a STATE that is of another history: it proves nothing of this one.
    fn believe_state(&mut self, headers: &[SegmentHeader]) -> Result<()> {
        let history = self.history()?;
        self.state = self.state.filter(|state| {
            let known = history.iter().map(|entry| entry.epoch);
            let cut = self.control.cut.as_ref().is_some_and(|(byte, nonces)| {
                state.durable > *byte && nonces.contains(&state.epoch.nonce)
            });
            !cut && known.chain(headers.iter().map(|h| h.epoch)).any(|e| e == state.epoch)
        });
        self.epoch = history.last().map(|entry| entry.epoch).unwrap_or_default();
        Ok(())
    }

    /// The synchronous sets whose frames are here; those of what was dropped are not known any more.
    fn sets(&mut self, headers: &[SegmentHeader]) -> Result<()> {
        let mut found = Vec::new();
        for header in headers {
            let path = SegmentName(header.base).path(&self.layout.segments());
            let io = |e| Error::io("read", &path, e);
            let file = match self.fs.open(&path, Open::Read) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                file => file.map_err(io)?,
            };
            let len = file.len().map_err(io)?;
            let mut tally = Tally::default();
            walk(&mut Window::file(file), header, len, &mut tally, |frame, byte| {
                if frame.header.kind == FrameKind::SyncSet
                    && let Some(set) = SyncSet::decode(frame.body)
                {
                    let end = LogByte(header.log_byte(byte + frame.header.stride() as u64));
                    found.push(SetLine { end, there: true, set });
                }
            })
            .map_err(io)?;
        }
        for line in found {
            self.control.add_set(line);
        }
        Ok(())
    }

    /// Who began the epoch whose first segment this is, if its first frame says so.
    fn leader(&self, header: &SegmentHeader) -> Result<Option<Id>> {
        let path = SegmentName(header.base).path(&self.layout.segments());
        let io = |e| Error::io("read", &path, e);
        let file = match self.fs.open(&path, Open::Read) {
            // Another file's name, for a repair to put right.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io)?,
        };
        let mut bytes = vec![0; START_BYTES];
        let read = file.read_full_at(&mut bytes, HEADER_BYTES).map_err(io)?;
        let limit = HEADER_BYTES + read as u64;
        let frame = Frame::decode(&bytes[..read], HEADER_BYTES, limit, header.seed()).ok();
        let start = frame.filter(|frame| frame.header.kind == FrameKind::EpochStart);
        let start = start.and_then(|frame| EpochStart::decode(frame.body));
        Ok(start.filter(|start| start.epoch == header.epoch).map(|start| start.node))
    }

    /// The epochs that EPOCHS names; none if it is missing or damaged.
    fn history(&self) -> Result<Vec<EpochEntry>> {
        let epochs = readable(Epochs::read(&**self.fs, self.layout).map(Some))?;
        Ok(epochs.unwrap_or_default().0)
    }

    /// The headers that can be read, in order.
    fn headers(&self) -> Result<Vec<SegmentHeader>> {
        let segments = self.layout.segments();
        let names = self.fs.list(&segments).map_err(|e| Error::io("list", &segments, e))?;
        let names = names.iter().filter_map(|name| SegmentName::parse(name));
        let mut headers = Vec::new();
        for path in names.map(|name| name.path(&segments)) {
            let file = self.fs.open(&path, Open::Read).map_err(|e| Error::io("open", &path, e))?;
            let mut page = vec![0; 4096];
            let read = file.read_full_at(&mut page, 0).map_err(|e| Error::io("read", &path, e))?;
            headers.extend(SegmentHeader::decode(&page[..read]).ok());
        }
        Ok(headers)
    }
}
