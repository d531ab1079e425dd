//! Verification: reads everything, changes nothing, lists what is damaged.
//!
//! Takes no lock and works beside a writer: what lies behind the proven durable end is a note, not
//! damage; files that retention removes meanwhile are passed over. Sealed segments are checked in
//! parallel, each against itself; `scan` checks how they hang together. Files are read, never
//! mapped: a bad sector must be an error, not a signal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};
use crate::frame::{Frame, FrameKind, Lost};
use crate::fs::{File, Fs, Open, Os};
use crate::position::Id;
use crate::record::Record;
use crate::segment::{
    Footer, PAGE_BYTES, SEAL_BYTES, SegmentHeader, SegmentName, Tally, Window, hash_of, seal_frame,
    search, walk,
};

use super::claims::read_slots;
use super::files::{Control, Epochs, Layout, LogFile, NodeFile, Promise, State, missing};
use super::scan::{Known, Scan};
use super::{Log, compress};

/// How much is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Names, headers, footers, links and the active segment; no sealed payload.
    Quick,
    /// Everything.
    #[default]
    Full,
}

/// One thing that is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub byte: Option<u64>,
    /// The offsets affected, half-open.
    pub offsets: Option<(u64, u64)>,
    /// What was expected and found.
    pub problem: String,
}

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Segment files looked at.
    pub segments: usize,
    /// Frames whose checksums hold.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes read of segment files.
    pub bytes: u64,
    /// Offsets that earlier repairs recorded as lost, half-open.
    pub lost: Vec<(u64, u64)>,
    /// What is damaged; nothing if all is well.
    pub problems: Vec<Problem>,
    /// What is worth knowing and loses nothing.
    pub notes: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Verifies the log in the directory `path`.
pub fn verify(path: impl AsRef<Path>, level: Level) -> Result<VerifyReport> {
    verify_on(&Os::shared(), path.as_ref(), level)
}

impl Log {
    /// Verifies this log's directory; appends and reads go on meanwhile.
    pub fn verify(&self, level: Level) -> Result<VerifyReport> {
        verify_on(&self.shared.fs, &self.shared.layout.root, level)
    }
}

/// The same on any file system.
pub fn verify_on(fs: &Arc<dyn Fs>, path: &Path, level: Level) -> Result<VerifyReport> {
    let started = Instant::now();
    let layout = Layout::new(path);
    let mut report = VerifyReport::default();
    let log = match LogFile::read(&**fs, &layout) {
        Ok(log) => log,
        Err(e) if e.kind() == Kind::Corrupt => {
            report.problems.push(problem(&e, &layout.log()));
            return Ok(report);
        }
        Err(e) => return Err(e),
    };
    let control = keep(&mut report, &layout.control(), Control::need(&**fs, &layout).map(Some))?;
    let node = keep(&mut report, &layout.node(), NodeFile::read(&**fs, &layout))?;
    let epochs = keep(&mut report, &layout.epochs(), Epochs::read(&**fs, &layout).map(Some))?;
    let promise = keep(&mut report, &layout.promise(), Promise::read(&**fs, &layout))?;
    // Unreadable slots hold everything: retention stops.
    keep(&mut report, &layout.slots(), read_slots(&**fs, &layout, log.id).map(Some))?;
    if State::is_unreadable(&**fs, &layout) {
        // A power cut may tear it; a reader beside the writer may see half of one.
        report.notes.push("STATE cannot be read and is ignored: it is only a hint".into());
    }
    let control = control.unwrap_or_default();
    let epochs = epochs.unwrap_or_default();
    let known = Known {
        fs,
        layout: &layout,
        log,
        node: node.map_or(Id::default(), |node| node.id),
        control: &control,
        epochs: &epochs,
        state: State::read(&**fs, &layout),
        footers: None,
    };
    match known.scan() {
        Ok(scan) => {
            if let Some(corruption) = scan.corruption(&layout) {
                report.problems.push(problem(&corruption, path));
            } else if scan.torn_bytes() > 0 {
                report.notes.push(format!(
                    "{} bytes of a torn tail, never acknowledged, follow offset {}",
                    scan.torn_bytes(),
                    scan.end_offset
                ));
            }
            unsealed(fs, &scan, &mut report);
            report.notes.extend(scan.findings);
        }
        Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::WrongLog) => {
            report.problems.push(problem(&e, path));
        }
        Err(e) => return Err(e),
    }
    let segments = layout.segments();
    let names = fs.list(&segments).map_err(|e| Error::io("list", &segments, e))?;
    let names: Vec<SegmentName> = names
        .iter()
        .filter_map(|name| SegmentName::parse(name))
        .filter(|name| name.0 >= control.floor)
        .collect();
    report.segments = names.len();
    if !names.is_empty() {
        // Both are durable before the first segment of an epoch has its name.
        let complained = |path: &Path| report.problems.iter().any(|p| p.file == path);
        // The first may just have been written, so they are looked at again.
        let no_epochs = epochs.0.is_empty()
            && Epochs::read(&**fs, &layout).is_ok_and(|epochs| epochs.0.is_empty());
        let no_promise = promise.is_none()
            && Promise::read(&**fs, &layout).is_ok_and(|promise| promise.is_none());
        let gone =
            [(layout.epochs(), "EPOCHS", no_epochs), (layout.promise(), "PROMISE", no_promise)];
        let gone: Vec<Problem> = gone
            .iter()
            .filter(|(path, _, gone)| *gone && !complained(path))
            .map(|(path, name, _)| problem(&missing(path, name), path))
            .collect();
        report.problems.extend(gone);
    }
    let checked: Vec<Result<VerifyReport>> = names
        .par_iter()
        .map(|name| match check_segment(fs, &name.path(&segments), level) {
            Err(e) if e.kind() == Kind::NotFound => Ok(VerifyReport::default()),
            other => other,
        })
        .collect();
    for checked in checked {
        let checked = checked?;
        report.frames += checked.frames;
        report.records += checked.records;
        report.bytes += checked.bytes;
        report.lost.extend(checked.lost);
        for problem in checked.problems {
            if !report.problems.iter().any(|p| p.file == problem.file && p.byte == problem.byte) {
                report.problems.push(problem);
            }
        }
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

/// Segments that were sealed once, as what follows them shows, and have no footer any more. The
/// frames are whole; what follows from them is made again by the next open for writing.
fn unsealed(fs: &Arc<dyn Fs>, scan: &Scan, report: &mut VerifyReport) {
    for (i, found) in scan.found.iter().enumerate() {
        let later = &scan.found[i + 1..];
        let file_bytes = match &found.unsealed {
            Some(unsealed) if !later.is_empty() => unsealed.file_bytes,
            _ => continue,
        };
        // Seals are made in order, and all of them before a new epoch begins.
        let epoch = found.header.epoch;
        let was = later.iter().any(|l| l.footer.is_some() || l.header.epoch != epoch);
        // A writer may have sealed it since it was looked at.
        let file = fs.open(&found.path, Open::Read);
        let is = file.is_ok_and(|file| matches!(Footer::read(&*file), Ok(Some(_))));
        if was && !is {
            report.problems.push(Problem {
                file: found.path.clone(),
                byte: Some(file_bytes.saturating_sub(256)),
                offsets: None,
                problem: "expected a footer: the segments behind it show that it was sealed".into(),
            });
        } else if scan.clean && !is {
            let name = SegmentName(found.header.base);
            report.notes.push(format!("{name} is not sealed, though the log was closed cleanly"));
        }
    }
}

/// A small file's content, or its damage put on the list. A file that could not be read is not
/// damaged for all anybody knows: that is an error.
fn keep<T>(report: &mut VerifyReport, path: &Path, read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(e) if e.kind() != Kind::Io => {
            report.problems.push(problem(&e, path));
            Ok(None)
        }
        other => other,
    }
}

fn problem(error: &Error, path: &Path) -> Problem {
    Problem {
        file: error.file().unwrap_or(path).to_path_buf(),
        byte: error.byte(),
        offsets: error.offset().map(|offset| (offset, offset + 1)),
        problem: error.message().to_owned(),
    }
}

/// Checks one segment file against itself.
fn check_segment(fs: &Arc<dyn Fs>, path: &Path, level: Level) -> Result<VerifyReport> {
    let io = |e| Error::io("read", path, e);
    let file = fs.open(path, Open::Read).map_err(io)?;
    let len = file.len().map_err(io)?;
    let mut page = vec![0; 4096];
    let read = file.read_full_at(&mut page, 0).map_err(io)?;
    let mut report = VerifyReport { bytes: len, ..VerifyReport::default() };
    let mut found = |byte: u64, offsets: Option<(u64, u64)>, text: String| {
        report.problems.push(Problem {
            file: path.to_path_buf(),
            byte: Some(byte),
            offsets,
            problem: text,
        });
    };
    let footer = match Footer::read(&*file) {
        Ok(footer) => footer,
        Err(e) if e.kind() == Kind::Io => return Err(e.in_file(path)),
        Err(e) => {
            found(len.saturating_sub(256), None, e.message().to_owned());
            None
        }
    };
    let header = match SegmentHeader::decode(&page[..read]) {
        Ok(header) => header,
        Err(e) => {
            found(0, None, e.message().to_owned());
            match &footer {
                Some(footer) => footer.header(),
                None => return Ok(report),
            }
        }
    };
    let Some(footer) = footer else {
        // Active, or not sealed yet: `scan` walked it and knows what of it must be whole.
        let (frames, records, sealed) = count(&file, &header, len).map_err(io)?;
        let mut tail = [0; 256];
        file.read_full_at(&mut tail, len.saturating_sub(256)).map_err(io)?;
        // While a segment is being sealed, zeros stand where its footer will be.
        if sealed && tail.iter().any(|&b| b != 0) {
            found(len - 256, None, "expected a footer, found one whose checksum fails".into());
        }
        (report.frames, report.records) = (frames, records);
        return Ok(report);
    };
    if header.log != footer.log
        || header.base != footer.base
        || header.base_offset != footer.base_offset
        || header.epoch != footer.epoch
        || header.salt != footer.salt
    {
        found(0, None, "expected a header that says what the footer says".into());
    }
    if level == Level::Quick {
        return Ok(report);
    }
    let mut tally = Tally::default();
    let mut window = Window::file(Arc::clone(&file));
    let (mut records, mut lost, mut bad_bodies) = (0, Vec::new(), Vec::new());
    let mut scratch = Vec::new();
    let end = walk(&mut window, &header, footer.frames_end(), &mut tally, |frame, byte| {
        let first = header.base_offset.0 + u64::from(frame.header.rel_offset);
        records += u64::from(frame.header.count);
        if let Err(text) = check_records(frame, &mut scratch) {
            bad_bodies.push((byte, first, first + u64::from(frame.header.count), text));
        }
        if frame.header.kind == FrameKind::Lost
            && let Some(l) = Lost::decode(frame.body)
        {
            lost.push((first, first + u64::from(l.count)));
        }
    })
    .map_err(io)?;
    for (byte, first, last, text) in bad_bodies {
        found(byte, Some((first, last)), text);
    }
    if let Some(fault) = end.fault.or((end.byte != footer.frames_end()).then_some(
        // The walk came to SEAL, or stepped over the end.
        crate::frame::Fault::Short,
    )) {
        let from = tally.end_offset(&header).0;
        let next = search(&file, &header, end.byte + 8, footer.frames_end()).map_err(io)?;
        let to = next.map_or(footer.end_offset.0, |(_, frame)| {
            header.base_offset.0 + u64::from(frame.rel_offset)
        });
        found(end.byte, Some((from, to)), format!("expected a frame, found {}", fault.as_str()));
    } else {
        let same = tally.end_offset(&header) == footer.end_offset
            && tally.frames == footer.frames
            && tally.fingerprint == footer.fingerprint
            && (tally.min_timestamp, tally.max_timestamp)
                == (footer.min_timestamp, footer.max_timestamp);
        if !same {
            found(footer.frames_end(), None, "expected a footer that sums up its frames".into());
        }
        let mut expected = seal_frame(&header, &tally);
        let to = footer.data_end.next_multiple_of(PAGE_BYTES);
        expected.resize(bytes(to - footer.frames_end()), 0);
        let producers = tally.producers.encode();
        expected.extend_from_slice(&producers);
        expected.extend_from_slice(tally.index.as_bytes());
        let mut stored = vec![0; expected.len()];
        let read = file.read_full_at(&mut stored, footer.frames_end()).map_err(io)?;
        if read < stored.len() || stored != expected {
            let at = stored.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(read) as u64;
            let part = match footer.frames_end() + at {
                byte if at < SEAL_BYTES => (byte, "SEAL frame"),
                byte if byte < to => (byte, "zeros behind SEAL"),
                byte if byte < to + producers.len() as u64 => (byte, "producers block"),
                byte => (byte, "index"),
            };
            found(part.0, None, format!("expected the {} that the frames make", part.1));
        }
    }
    if hash_of(&*file, footer.data_end).map_err(io)? != footer.hash {
        found(0, None, "the seal hash does not hold".into());
    }
    report.frames = tally.frames;
    report.records = records;
    report.lost = lost;
    Ok(report)
}

fn bytes(n: u64) -> usize {
    usize::try_from(n).expect("segment files are far below the address space")
}

/// Every record of a frame must come out of it.
fn check_records(frame: &Frame<'_>, scratch: &mut Vec<u8>) -> std::result::Result<(), String> {
    if frame.header.count == 0 {
        return Ok(());
    }
    let each = |records: crate::frame::Records<'_>| {
        (0..records.len())
            .try_for_each(|i| records.get(i).map(|_: Record<'_>| ()))
            .map_err(|fault| format!("expected records, found {}", fault.as_str()))
    };
    if frame.is_compressed() {
        compress::unpack(frame, scratch).map_err(|e| e.message().to_owned())?;
        let records = crate::frame::Records::new(&frame.header, scratch);
        each(records.map_err(|fault| fault.as_str().to_owned())?)
    } else {
        each(frame.records().map_err(|fault| fault.as_str().to_owned())?)
    }
}

/// Frames, records, and whether a SEAL frame follows them.
fn count(
    file: &Arc<dyn File>,
    header: &SegmentHeader,
    len: u64,
) -> std::io::Result<(u64, u64, bool)> {
    let mut tally = Tally::default();
    let mut window = Window::file(Arc::clone(file));
    let mut records = 0;
    let end = walk(&mut window, header, len, &mut tally, |frame, _| {
        records += u64::from(frame.header.count);
    })?;
    Ok((tally.frames, records, end.fault.is_none() && end.byte < len))
}
