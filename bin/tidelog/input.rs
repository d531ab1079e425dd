//! Inputs: files and stdin, `.gz` and `.zst` told by their first bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};

use crate::exit::Failure;

/// An opened input.
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) reader: Box<dyn BufRead>,
    /// Compressed bytes read so far, and in all, for progress.
    pub(crate) read: Arc<AtomicU64>,
    pub(crate) total: Option<u64>,
}

struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.read.fetch_add(read as u64, Relaxed);
        Ok(read)
    }
}

/// Opens `name`; `-` is stdin.
pub(crate) fn open(name: &str) -> Result<Input, Failure> {
    let fail = |e: io::Error| Failure::io(&format!("read {name}"), &e);
    let (raw, total): (Box<dyn Read>, _) = if name == "-" {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(Path::new(name)).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if meta.is_dir() {
            return Err(Failure::usage(format!(
                "expected a file to read, found a directory: {name}"
            )));
        }
        (Box::new(file), meta.is_file().then_some(meta.len()))
    };
    let read = Arc::new(AtomicU64::new(0));
    let mut buffered =
        BufReader::with_capacity(256 << 10, Counted { inner: raw, read: Arc::clone(&read) });
    let magic = buffered.fill_buf().map_err(fail)?;
    let reader: Box<dyn BufRead> = if magic.starts_with(&[0x1f, 0x8b]) {
        let gz = flate2::bufread::MultiGzDecoder::new(buffered);
        Box::new(BufReader::with_capacity(256 << 10, gz))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let zst = zstd::Decoder::with_buffer(buffered).map_err(fail)?;
        Box::new(BufReader::with_capacity(256 << 10, zst))
    } else {
        Box::new(buffered)
    };
    Ok(Input { name: name.to_owned(), reader, read, total })
}
