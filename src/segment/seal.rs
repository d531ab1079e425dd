//! Sealing: an active segment becomes an immutable file that vouches for itself.
//!
//! Called by the log's worker, by recovery, repair, and by followers. Each step closes a crash:
//! 1. SEAL, zeros to the page, producers, index and the final length are written;
//! 2. they and all frames are made durable, through the descriptor that wrote them;
//! 3. only then is the footer written, so that a valid footer never vouches for lost frames;
//! 4. the footer is made durable.
//!
//! A crash in between leaves an unsealed segment, which is walked and sealed again to the same
//! bytes: everything here is a pure function of header and frames.

use std::path::Path;
use std::sync::Arc;

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::frame::{self, FrameKind, NO_CLAIM};
use crate::fs::File;
use crate::mutant::{self, Mutant};

use super::walk::Tally;
use super::{Footer, HEADER_BYTES, PAGE_BYTES, SEAL_BYTES, SegmentHeader};

/// Read at a time while hashing.
const HASH_CHUNK_BYTES: usize = 256 << 10;

/// A sealed segment: what its footer says.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The footer as written.
    pub footer: Footer,
}

/// Seals `file`; `previous_hash` is the seal hash of the segment before, zeros if none.
pub fn seal(
    file: &Arc<dyn File>,
    path: &Path,
    header: &SegmentHeader,
    tally: &Tally,
    previous_hash: [u8; 32],
) -> Result<Sealed> {
    seal_with(file, path, header, tally, previous_hash, None, |file| file.sync_data())
}

/// The seal hash of a segment's file as it is being written, from its first byte on.
#[derive(Clone, Debug)]
pub(crate) struct Hashing {
    hasher: blake3::Hasher,
    end: u64,
}

impl Hashing {
    /// Begins with a header page.
    pub(crate) fn begin(page: &[u8]) -> Self {
        let mut hashing = Hashing { hasher: blake3::Hasher::new(), end: 0 };
        hashing.add(page);
        hashing
    }

    /// Goes on with the bytes behind.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.end += bytes.len() as u64;
    }

    /// The hash of what was added.
    pub(crate) fn finish(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }
}

/// The same; `sync` syncs the file. `hashing` has seen everything before the SEAL, as it was written;
/// without it the file is read back.
pub(crate) fn seal_with(
    file: &Arc<dyn File>,
    path: &Path,
    header: &SegmentHeader,
    tally: &Tally,
    previous_hash: [u8; 32],
    hashing: Option<Hashing>,
    sync: impl Fn(&dyn File) -> std::io::Result<()>,
) -> Result<Sealed> {
    let io = |what: &'static str| move |e| Error::io(what, path, e);
    let data_end = tally.end + SEAL_BYTES;
    let mut tail = seal_frame(header, tally);
    let producers_byte = data_end.next_multiple_of(PAGE_BYTES);
    tail.resize(index(producers_byte - tally.end), 0);
    let producers = tally.producers.encode();
    tail.extend_from_slice(&producers);
    let index_byte = tally.end + tail.len() as u64;
    tail.extend_from_slice(tally.index.as_bytes());
    let footer_byte = tally.end + tail.len() as u64;

    let mut footer = Footer {
        log: header.log,
        base: header.base,
        base_offset: header.base_offset,
        epoch: header.epoch,
        salt: header.salt,
        data_end,
        end_offset: tally.end_offset(header),
        frames: tally.frames,
        min_timestamp: tally.min_timestamp,
        max_timestamp: tally.max_timestamp,
        fingerprint: tally.fingerprint,
        index_byte,
        index_entries: entries(tally.index.as_bytes().len(), 16),
        index_crc: crc::crc32c(tally.index.as_bytes()),
        producers_byte,
        producers_count: entries(producers.len(), 48),
        producers_crc: crc::crc32c(&producers),
        previous_hash,
        hash: [0; 32],
    };

    file.write_all_at(&tail, tally.end).map_err(io("write the seal"))?;
    // Without the footer: 256 zeros stand where it will go, so nothing looks sealed yet.
    file.write_all_at(&[0; super::FOOTER_BYTES], footer_byte).map_err(io("write the seal"))?;
    file.set_len(footer_byte + super::FOOTER_BYTES as u64).map_err(io("set the final length"))?;
    footer.hash = match hashing.filter(|hashing| hashing.end == tally.end) {
        Some(mut hashing) => {
            hashing.add(&tail[..index(SEAL_BYTES)]);
            hashing.finish()
        }
        None => hash(&**file, data_end).map_err(io("read back for the seal hash"))?,
    };
    // A failed sync, for want of space too, leaves pages that never landed marked clean: it is
    // never a reason to try again.
    let synced = || sync(&**file).map_err(|e| io("sync")(e).with_kind(Kind::Io));
    if mutant::on(Mutant::FooterBeforeData) {
        file.write_all_at(&footer.encode(), footer_byte).map_err(io("write the footer"))?;
    }
    // Closes the crash in which a footer persists before the data it vouches for.
    if !mutant::on(Mutant::SkipFirstSealSync) {
        synced()?;
    }
    file.write_all_at(&footer.encode(), footer_byte).map_err(io("write the footer"))?;
    // Closes the crash that would make recovery walk this segment again.
    synced()?;
    Ok(Sealed { footer })
}

/// The SEAL frame behind these frames. Claims nothing: it may be written by any node, any time.
pub(crate) fn seal_frame(header: &SegmentHeader, tally: &Tally) -> Vec<u8> {
    let timestamp = if tally.records > 0 { tally.max_timestamp } else { 0 };
    let body = u64::from(tally.records).to_le_bytes();
    let seal = frame::encode(
        FrameKind::Seal,
        tally.records,
        if mutant::on(Mutant::SealClaims) { 0 } else { NO_CLAIM },
        timestamp,
        &body,
        (header.seed(), tally.end),
    );
    assert_eq!(seal.len() as u64, SEAL_BYTES);
    seal
}

/// blake3 of the first `end` bytes of a file.
pub(crate) fn hash(file: &dyn File, end: u64) -> std::io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; HASH_CHUNK_BYTES.min(index(end))];
    let mut byte = 0;
    while byte < end {
        let want = buffer.len().min(index(end - byte));
        file.read_exact_at(&mut buffer[..want], byte)?;
        hasher.update(&buffer[..want]);
        byte += want as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

fn entries(bytes: usize, each: usize) -> u32 {
    u32::try_from(bytes / each).expect("bounded by the segment's size")
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("segment files are far below the address space")
}

const _: () = assert!(HEADER_BYTES == PAGE_BYTES);
