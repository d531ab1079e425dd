//! Frames into a buffer, the buffer into a growing file.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{HEADER_BYTES, frame};
use crate::contestant::{Engine, Writer};
use crate::payload::Payloads;

const BUFFER_BYTES: usize = 1 << 20;

/// Files that are filled one after the other.
pub(super) struct Files {
    dir: PathBuf,
    file_bytes: u64,
}

impl Files {
    pub(super) fn create(dir: &Path, file_bytes: u64) -> Result<Self> {
        Ok(Files { dir: dir.to_owned(), file_bytes })
    }
}

impl Engine for Files {
    fn writers(&mut self, _producers: usize) -> Result<Vec<Box<dyn Writer + '_>>> {
        let mut writer = Buffered {
            dir: &self.dir,
            file_bytes: self.file_bytes,
            file: None,
            files: 0,
            written: 0,
            buffer: vec![0; BUFFER_BYTES],
        };
        writer.buffer.clear();
        Ok(vec![Box::new(writer)])
    }
}

struct Buffered<'a> {
    dir: &'a Path,
    file_bytes: u64,
    file: Option<File>,
    files: u32,
    /// Bytes of the file, those in the buffer included.
    written: u64,
    buffer: Vec<u8>,
}

impl Buffered<'_> {
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, len: usize) -> Result<()> {
        self.flush()?;
        if self.file.is_none() || self.written + len as u64 > self.file_bytes {
            let name = format!("{:05}.log", self.files);
            self.file = Some(File::create_new(self.dir.join(name))?);
            self.files += 1;
            self.written = 0;
        }
        Ok(())
    }
}

impl Writer for Buffered<'_> {
    #[inline]
    fn append(&mut self, payload: &'static [u8]) -> Result<()> {
        let len = HEADER_BYTES + payload.len();
        let full = self.buffer.len() + len > BUFFER_BYTES;
        if full || self.file.is_none() || self.written + len as u64 > self.file_bytes {
            self.make_room(len)?;
        }
        frame(&mut self.buffer, payload);
        self.written += len as u64;
        Ok(())
    }

    fn append_batch(&mut self, payloads: &Payloads, from: u64, count: u64) -> Result<()> {
        self.append_each(payloads, from, count)
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(&self.buffer)?;
        }
        self.buffer.clear();
        Ok(())
    }
}
