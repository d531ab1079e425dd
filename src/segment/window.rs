//! A view into a segment file that slides forward: over the map, or over a buffer filled by `pread`.
//!
//! Walks, cursors, verification and shipping all read frames through it. Sealed files of our own
//! directory come mapped; everything else is read, because an I/O error or a truncation under a
//! map kills the process.

use std::io;
use std::sync::Arc;

use crate::fs::{File, Map};

/// Bytes read at first: what an index entry leads to and the record sought lie about so far apart.
const FIRST_CHUNK_BYTES: usize = 32 << 10;
/// Bytes read at a time by who reads on: as much as fits the second-level cache, so that the
/// checksum finds them there.
const CHUNK_BYTES: usize = 256 << 10;

/// A sliding view of one file.
#[derive(Debug)]
pub struct Window {
    source: Source,
    /// Byte of the file at which `buffer` starts.
    start: u64,
    buffer: Vec<u8>,
    /// Bytes of it that were read; what lies behind is room that is used again.
    len: usize,
    /// Bytes to read next time.
    chunk: usize,
}

#[derive(Debug)]
enum Source {
    Map(Map),
    File(Arc<dyn File>),
}

impl Window {
    /// A view of a mapped file.
    pub fn map(map: Map) -> Self {
        Window::new(Source::Map(map))
    }

    /// A view of a file that is read.
    pub fn file(file: Arc<dyn File>) -> Self {
        Window::new(Source::File(file))
    }

    fn new(source: Source) -> Self {
        Window { source, start: 0, buffer: Vec::new(), len: 0, chunk: FIRST_CHUNK_BYTES }
    }

    /// The map underneath, if there is one.
    pub fn mapped(&self) -> Option<&Map> {
        match &self.source {
            Source::Map(map) => Some(map),
            Source::File(_) => None,
        }
    }

    /// The bytes from `byte` on, at least `want` of them unless the file or `limit` ends first.
    #[inline]
    pub fn bytes(&mut self, byte: u64, want: usize, limit: u64) -> io::Result<&[u8]> {
        match &self.source {
            Source::Map(map) => {
                let end = limit.min(map.len() as u64);
                Ok(&map[index(byte.min(end))..index(end)])
            }
            Source::File(file) => {
                let have = self.start + self.len as u64;
                let wanted = (byte + want as u64).min(limit);
                if byte < self.start || wanted > have {
                    let room = index(limit.saturating_sub(byte).min(want.max(self.chunk) as u64));
                    self.chunk = CHUNK_BYTES;
                    // What is here of it need not be read again: the header of a large frame, most often.
                    let skip = byte.checked_sub(self.start).map_or(self.len, index).min(self.len);
                    self.buffer.copy_within(skip..self.len, 0);
                    self.start = byte;
                    self.len = (self.len - skip).min(room);
                    if self.buffer.len() < room {
                        self.buffer.resize(room, 0);
                    }
                    let (kept, rest) = self.buffer[..room].split_at_mut(self.len);
                    let read = file.read_full_at(rest, byte + kept.len() as u64);
                    self.len += *read.as_ref().unwrap_or(&0);
                    read?;
                }
                let end = (limit.saturating_sub(self.start)).min(self.len as u64);
                let from = (byte.saturating_sub(self.start)).min(end);
                Ok(&self.buffer[index(from)..index(end)])
            }
        }
    }

    /// The bytes from `byte` on that need not be read, up to `limit`; `None` if there are none.
    #[inline]
    pub(crate) fn here(&self, byte: u64, limit: u64) -> Option<&[u8]> {
        let (bytes, start) = match &self.source {
            Source::Map(map) => (&map[..], 0),
            Source::File(_) => (&self.buffer[..self.len], self.start),
        };
        let from = usize::try_from(byte.checked_sub(start)?).ok()?;
        let end = usize::try_from(limit.checked_sub(start)?)
            .map_or(bytes.len(), |end| end.min(bytes.len()));
        bytes.get(from..end)
    }

    /// Forgets what was read; for a file that grew.
    pub fn refresh(&mut self) {
        self.len = 0;
    }
}

fn index(byte: u64) -> usize {
    usize::try_from(byte).expect("segment files are far below the address space")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sources_show_the_same_bytes() {
        let data: Vec<u8> = (0..600_000u32).map(|i| (i % 253) as u8).collect();
        let file = tempfile::tempfile().unwrap();
        (&file as &dyn File).write_all_at(&data, 0).unwrap();
        let mut read = Window::file(Arc::new(file));
        let mut mapped = Window::map(Map::memory(data.clone()));
        // Forwards over the end of what was read, back, and to where nothing was.
        for (byte, want, limit) in [
            (0, 10, 600_000),
            (5, 300_000, 600_000),
            (599_990, 32, 700_000),
            (100, 50, 120),
            (110, 100_000, 600_000),
            (90_000, 400_000, 600_000),
            (480_000, 32, 600_000),
            (20, 30, 600_000),
        ] {
            let expected = &data[byte as usize..(limit.min(600_000)) as usize];
            let got = read.bytes(byte, want, limit).unwrap();
            assert!(got.len() >= want.min(expected.len()));
            assert_eq!(got, &expected[..got.len()]);
            assert_eq!(mapped.bytes(byte, want, limit).unwrap(), expected);
            assert!(mapped.here(byte, limit).unwrap() == expected);
            // What was just read is here, and nothing behind the limit.
            let here = read.here(byte, limit).unwrap();
            assert!(here.len() >= want.min(expected.len()));
            assert!(here == &expected[..here.len()]);
        }
        // The last read began at 20.
        for elsewhere in [19, 599_000] {
            assert!(read.here(elsewhere, 600_000).is_none(), "it would have to be read");
        }
        for window in [&read, &mapped] {
            assert!(window.here(90_000, 80_000).is_none(), "behind the limit");
        }
    }
}
