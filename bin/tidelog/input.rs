//! Inputs: files and pipes, `.gz` and `.zst` told by their first bytes.
//!
//! A pipe is read by a thread of its own, so that an ingest can tell "nothing more just now" from
//! "the end": it appends what it has before it waits, and Ctrl-C reaches it while it does.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::exit::Failure;
use crate::progress;

/// What one read asks for.
const CHUNK_BYTES: usize = 256 << 10;

/// An opened input.
pub(crate) struct Input {
    pub(crate) reader: Box<dyn Stream>,
    /// Compressed bytes read so far, and in all, for progress.
    pub(crate) read: Arc<AtomicU64>,
    pub(crate) total: Option<u64>,
}

/// A stream that says whether reading on would wait.
pub(crate) trait Stream: BufRead {
    /// Whether a line, or the end, can be read at once; waits for that at most `timeout`.
    fn is_ready(&mut self, _timeout: Duration) -> bool {
        true
    }
}

/// Whether `name` can be opened, as far as that can be told without reading.
pub(crate) fn check(name: &str) -> Result<(), Failure> {
    if name == "-" {
        return Ok(());
    }
    let fail = |e: io::Error| Failure::io(&format!("read {name}"), &e);
    let meta = std::fs::metadata(name).map_err(fail)?;
    if meta.is_dir() {
        return Err(Failure::usage(format!("expected a file to read, found a directory: {name}")));
    }
    if meta.is_file() {
        File::open(name).map_err(fail)?;
    }
    Ok(())
}

/// Opens `name`; `-` is stdin.
pub(crate) fn open(name: &str) -> Result<Input, Failure> {
    let fail = |e: io::Error| Failure::io(&format!("read {name}"), &e);
    let read = Arc::new(AtomicU64::new(0));
    let count = |inner| Counted { inner, read: Arc::clone(&read) };
    let (mut raw, total): (Box<dyn Stream>, _) = if name == "-" {
        (Box::new(Pipe::new(count(Box::new(io::stdin())))?), None)
    } else {
        let file = File::open(Path::new(name)).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        let counted = count(Box::new(file));
        if meta.is_file() {
            (Box::new(BufReader::with_capacity(CHUNK_BYTES, counted)), Some(meta.len()))
        } else {
            (Box::new(Pipe::new(counted)?), None)
        }
    };
    while !raw.is_ready(Duration::from_millis(200)) {
        if progress::interrupted() {
            return Err(Failure::interrupted());
        }
    }
    let magic = raw.fill_buf().map_err(fail)?;
    let reader: Box<dyn Stream> = if magic.starts_with(&[0x1f, 0x8b]) {
        let gz = flate2::bufread::MultiGzDecoder::new(raw);
        Box::new(BufReader::with_capacity(CHUNK_BYTES, gz))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let zst = zstd::Decoder::with_buffer(raw).map_err(fail)?;
        Box::new(BufReader::with_capacity(CHUNK_BYTES, zst))
    } else {
        raw
    };
    Ok(Input { reader, read, total })
}

impl<R: Read> Stream for BufReader<R> {}

/// Counts what was read, for progress.
struct Counted {
    inner: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.read.fetch_add(read as u64, Relaxed);
        Ok(read)
    }
}

/// Something that may keep its reader waiting.
struct Pipe {
    chunks: Receiver<io::Result<Vec<u8>>>,
    /// What came and was not consumed, from `at` on.
    chunk: Vec<u8>,
    at: usize,
    failed: Option<io::Error>,
    ended: bool,
}

impl Pipe {
    fn new(mut inner: Counted) -> Result<Self, Failure> {
        let (sender, chunks) = sync_channel(4);
        std::thread::Builder::new()
            .name("tidelog-input".into())
            // Not joined: it may wait for a pipe for ever, and ends with the process.
            .spawn(move || {
                loop {
                    let mut chunk = vec![0; CHUNK_BYTES];
                    let read = match inner.read(&mut chunk) {
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                        read => read,
                    };
                    let last = !matches!(read, Ok(n) if n > 0);
                    let read = read.map(|n| {
                        chunk.truncate(n);
                        chunk
                    });
                    if sender.send(read).is_err() || last {
                        return;
                    }
                }
            })
            .map_err(|e| Failure::io("start a thread", &e))?;
        Ok(Pipe { chunks, chunk: Vec::new(), at: 0, failed: None, ended: false })
    }

    fn take(&mut self, chunk: io::Result<Vec<u8>>) {
        match chunk {
            Ok(chunk) if chunk.is_empty() => self.ended = true,
            Ok(chunk) if self.at == self.chunk.len() => (self.chunk, self.at) = (chunk, 0),
            Ok(chunk) => {
                self.chunk.drain(..self.at);
                self.at = 0;
                self.chunk.extend_from_slice(&chunk);
            }
            Err(e) => (self.failed, self.ended) = (Some(e), true),
        }
    }
}

impl Stream for Pipe {
    fn is_ready(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let waiting = &self.chunk[self.at..];
            // A line this long is the reader's problem; it need not be gathered here.
            if self.ended || waiting.contains(&b'\n') || waiting.len() >= CHUNK_BYTES {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.chunks.recv_timeout(left) {
                Ok(chunk) => self.take(chunk),
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => self.ended = true,
            }
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let read = bytes.len().min(buf.len());
        buf[..read].copy_from_slice(&bytes[..read]);
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Pipe {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.chunk.len() && !self.ended {
            match self.chunks.recv() {
                Ok(chunk) => self.take(chunk),
                Err(_) => self.ended = true,
            }
        }
        if self.at == self.chunk.len()
            && let Some(e) = self.failed.take()
        {
            return Err(e);
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}
