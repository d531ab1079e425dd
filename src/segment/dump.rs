//! What a segment file holds, line by line: for people who look.
//!
//! Trusts nothing: damage is shown where it stands and the next whole frame is searched for.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::frame::{
    EpochStart, Fault, Frame, FrameKind, HEADER_BYTES as FRAME_HEADER, Header, Lost, Producer,
};
use crate::fs::{File, Fs, Open};

use super::walk::search;
use super::{Footer, HEADER_BYTES, SegmentHeader, Window};

/// One thing found in a segment file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DumpLine {
    /// The header page.
    Header(SegmentHeader),
    /// A valid frame.
    Frame {
        /// Its byte in the file.
        byte: u64,
        /// Its log byte.
        log_byte: u64,
        /// Its first record's offset.
        offset: u64,
        /// Its header.
        header: Header,
        /// The durable log byte that it claims.
        claim: Option<u64>,
        /// The producer's mark.
        producer: Option<Producer>,
        /// The body of an `epoch_start`.
        epoch_start: Option<EpochStart>,
        /// The body of a `lost`.
        lost: Option<Lost>,
    },
    /// Bytes that are no frame.
    Damage {
        /// Where they start.
        byte: u64,
        /// Where the next frame starts, or the search ended.
        end: u64,
        /// What was found.
        fault: Fault,
    },
    /// Where the frames end in a segment that is not sealed.
    End {
        /// The byte behind the last frame.
        byte: u64,
    },
    /// The footer.
    Footer(Footer),
}

/// Hands everything in the segment file at `path` to `visit`, in order.
pub fn dump(fs: &dyn Fs, path: &Path, visit: &mut dyn FnMut(DumpLine) -> Result<()>) -> Result<()> {
    let io = |e| Error::io("read", path, e);
    let file: Arc<dyn File> = fs.open(path, Open::Read).map_err(io)?;
    let len = file.len().map_err(io)?;
    let mut page = vec![0; 4096];
    let read = file.read_full_at(&mut page, 0).map_err(io)?;
    let footer = Footer::read(&*file).map_err(|e| e.in_file(path))?;
    let header = match SegmentHeader::decode(&page[..read]) {
        Ok(header) => {
            visit(DumpLine::Header(header))?;
            header
        }
        Err(e) => match &footer {
            // The footer repeats what frames need to be checked.
            Some(footer) => {
                visit(DumpLine::Damage { byte: 0, end: HEADER_BYTES, fault: Fault::HeadCrc })?;
                footer.header()
            }
            None if e.kind() == Kind::NewerVersion => return Err(e.in_file(path)),
            None => {
                return Err(e
                    .with_kind(Kind::NotALog)
                    .in_file(path)
                    .help("name a segment file, for example one in the log's segments directory"));
            }
        },
    };
    let limit = footer.as_ref().map_or(len, |footer| footer.data_end.min(len));
    let mut window = Window::file(Arc::clone(&file));
    let mut byte = HEADER_BYTES;
    while byte < limit {
        let want = match Header::decode(
            window.bytes(byte, FRAME_HEADER, limit).map_err(io)?,
            byte,
            limit,
            header.seed(),
        ) {
            Ok(head) => head.stride(),
            Err(_) => FRAME_HEADER,
        };
        let bytes = window.bytes(byte, want, limit).map_err(io)?;
        match Frame::decode(bytes, byte, limit, header.seed()) {
            Ok(frame) => {
                let log_byte = header.log_byte(byte);
                let kind = frame.header.kind;
                visit(DumpLine::Frame {
                    byte,
                    log_byte,
                    offset: header.base_offset.0 + u64::from(frame.header.rel_offset),
                    header: frame.header,
                    claim: frame.header.claim(log_byte),
                    producer: frame.producer(),
                    epoch_start: (kind == FrameKind::EpochStart)
                        .then(|| EpochStart::decode(frame.body))
                        .flatten(),
                    lost: (kind == FrameKind::Lost).then(|| Lost::decode(frame.body)).flatten(),
                })?;
                byte += frame.header.stride() as u64;
            }
            Err(fault) => {
                let next = search(&file, &header, byte + 8, limit).map_err(io)?;
                match next {
                    None if fault == Fault::End && footer.is_none() => {
                        visit(DumpLine::End { byte })?;
                    }
                    _ => visit(DumpLine::Damage {
                        byte,
                        end: next.map_or(limit, |(byte, _)| byte),
                        fault,
                    })?,
                }
                match next {
                    Some((next, _)) => byte = next,
                    None => break,
                }
            }
        }
    }
    match footer {
        Some(footer) => visit(DumpLine::Footer(footer)),
        None if byte >= limit => visit(DumpLine::End { byte }),
        None => Ok(()),
    }?;
    Ok(())
}
