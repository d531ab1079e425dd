//! `mmap`, header hops and crc32c over what `append` wrote.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use memmap2::{Mmap, MmapOptions};

use super::{header, unframe};
use crate::contestant::{Engine, Reader, Tally, Writer};

/// Bytes of frames per index entry.
const INDEX_STEP_BYTES: usize = 32 << 10;

/// The files, mapped and indexed.
pub(super) struct Mapped {
    files: Vec<Segment>,
}

struct Segment {
    first: u64,
    map: Mmap,
    index: Vec<Entry>,
}

struct Entry {
    /// Relative to the segment's first record.
    record: u32,
    byte: u32,
}

fn log_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<_> =
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// Maps all of a file, with its pages: one call for all of them, not a fault for every few.
fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the file is this run's own, and nobody writes to it while it is read.
    let map = unsafe { MmapOptions::new().populate().map(&file) }
        .with_context(|| format!("map {}", path.display()))?;
    Ok(map)
}

impl Mapped {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let mut first = 0;
        for path in log_files(dir)? {
            let mut segment = Segment { first, map: map(&path)?, index: Vec::new() };
            let (mut at, mut record) = (0, 0);
            while let Some((_, end)) = header(&segment.map, at) {
                if segment.index.last().is_none_or(|e| at - e.byte as usize >= INDEX_STEP_BYTES) {
                    segment.index.push(Entry { record, byte: u32::try_from(at)? });
                }
                record += 1;
                at = end;
            }
            first += u64::from(record);
            files.push(segment);
        }
        Ok(Mapped { files })
    }

    /// Maps every file and checks every frame, in one pass and without an index.
    pub(super) fn open_checked(dir: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let mut first = 0;
        for path in log_files(dir)? {
            let map = map(&path)?;
            let records = verify(&map)?;
            files.push(Segment { first, map, index: Vec::new() });
            first += records;
        }
        Ok(Mapped { files })
    }
}

/// Checks every frame of `bytes`; returns how many there are.
fn verify(bytes: &[u8]) -> Result<u64> {
    let (mut at, mut records) = (0, 0);
    while let Some((_, end)) = unframe(bytes, at) {
        records += 1;
        at = end;
    }
    ensure!(at == bytes.len(), "a frame does not fit its checksum at byte {at}");
    Ok(records)
}

/// What an engine must at least do to trust its active file: maps the last file of `dir` and
/// checks every frame of it. Returns how many there are.
pub fn verify_last_file(dir: &Path) -> Result<u64> {
    let path = log_files(dir)?.pop().context("there is no file")?;
    verify(&map(&path)?)
}

impl Engine for Mapped {
    fn writers(&mut self, _producers: usize) -> Result<Vec<Box<dyn Writer + '_>>> {
        anyhow::bail!("opened for reading")
    }

    fn reader(&self) -> Result<Box<dyn Reader + '_>> {
        Ok(Box::new(Walk(self)))
    }
}

struct Walk<'a>(&'a Mapped);

impl Reader for Walk<'_> {
    fn scan(&mut self, tally: &mut Tally) -> Result<()> {
        let mut n = 0;
        for segment in &self.0.files {
            let bytes = &segment.map[..];
            let mut at = 0;
            while let Some((payload, end)) = unframe(bytes, at) {
                tally.visit(n, payload);
                n += 1;
                at = end;
            }
            ensure!(at == bytes.len(), "a frame does not fit its checksum at byte {at}");
        }
        Ok(())
    }

    fn get(&mut self, n: u64, tally: &mut Tally) -> Result<()> {
        let after = self.0.files.partition_point(|segment| segment.first <= n);
        let segment = &self.0.files[after.checked_sub(1).context("no such record")?];
        let rel = u32::try_from(n - segment.first)?;
        let after = segment.index.partition_point(|entry| entry.record <= rel);
        let entry = &segment.index[after.checked_sub(1).context("no such record")?];
        let mut at = entry.byte as usize;
        for _ in entry.record..rel {
            (_, at) = header(&segment.map, at).context("no such record")?;
        }
        let (payload, _) = unframe(&segment.map, at).context("a frame is damaged")?;
        tally.visit(n, payload);
        Ok(())
    }
}
