//! Fetching ahead: a thread that takes pieces from the source while those before them are written.
//!
//! ```text
//! tidelog-fetch   read │ check ── piece ──► written, hashed │ …
//!                      ▲                        │
//!                      └───── its buffer ◄──────┘
//! ```
//!
//! Called by `pull` when much is missing of a segment; reads the [`Source`] through `fetch`. Invariants:
//! - pieces are handed on in order, and what came before an error is handed on before it is told;
//! - at most [`WAITING`] pieces wait, so memory stays bounded;
//! - nothing is fetched any more when this returns: the source is its caller's again.

use std::sync::mpsc::sync_channel;

use crate::error::{Error, Kind, Result};
use crate::segment::SegmentHeader;
use crate::ship::Source;

use super::copy::Fetched;
use super::fetch::fetch;

/// Fewer bytes are fetched by who writes them: starting the thread would cost more.
pub(super) const WORTH_A_THREAD: u64 = 2 << 20;
/// Pieces that wait to be written.
const WAITING: usize = 6;

/// What is to be fetched of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// From this byte of its file on,
    pub(super) at: u64,
    /// to the frame that ends here,
    pub(super) limit: u64,
    /// but no more pieces once this one is reached.
    pub(super) enough: u64,
    /// The offset there, relative to the segment's first.
    pub(super) rel_offset: u32,
}

/// Fetches a stretch piece by piece; `take` hears of each and gives back a buffer for another. What is left
/// of these is `spare`, for the next stretch: memory that was used before is faster.
pub(super) fn fetch_ahead(
    source: &mut dyn Source,
    header: &SegmentHeader,
    stretch: Stretch,
    spare: &mut Vec<Vec<u8>>,
    mut take: impl FnMut(Fetched) -> Result<Vec<u8>>,
) -> Result<()> {
    let (pieces, fetched) = sync_channel(WAITING);
    // One is being fetched, one written: giving one back never waits.
    let (empty, emptied) = sync_channel::<Vec<u8>>(WAITING + 2);
    let mut ready = std::mem::take(spare);
    std::thread::scope(|scope| {
        let run = move || {
            let Stretch { mut at, limit, enough, mut rel_offset } = stretch;
            while at < limit.min(enough) {
                let buffer = emptied.try_recv().ok().or_else(|| ready.pop());
                let buffer = buffer.unwrap_or_default();
                let piece = fetch(source, header, at, limit, rel_offset, buffer);
                let failed = piece.is_err();
                if let Ok(piece) = &piece {
                    at += piece.len as u64;
                    rel_offset = piece.rel_end;
                }
                // Who writes may have failed, and takes no more.
                if pieces.send(piece).is_err() || failed {
                    break;
                }
            }
            drop(pieces);
            ready.extend(emptied.iter().take(WAITING + 2));
            ready.truncate(WAITING + 2);
            ready
        };
        let thread = std::thread::Builder::new().name("tidelog-fetch".into());
        let thread = thread.spawn_scoped(scope, run).map_err(|e| {
            Error::new(Kind::Io, format!("cannot start the thread tidelog-fetch: {e}"))
                .help("a follower opened with `worker(false)` does without")
        })?;
        let taken = fetched.into_iter().try_for_each(|piece| {
            // One too many is dropped.
            let _ = empty.try_send(take(piece?)?);
            Ok(())
        });
        drop(empty);
        *spare = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        taken
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fs::sim::Sim;
    use crate::log::Log;
    use crate::position::LogByte;
    use crate::record::Record;
    use crate::segment::{HEADER_BYTES, SegmentName};
    use crate::ship::Directory;

    const DIR: &str = "/log";

    /// A segment of eight records, most of a piece each; its end.
    fn source(sim: &Sim) -> (Directory, SegmentHeader, Stretch) {
        let log = Log::options().fs(sim.shared()).create(true).worker(false).open(DIR).unwrap();
        for n in 0..8_u8 {
            log.append(&Record::put(&[n], &vec![n; 400 << 10])).unwrap();
        }
        let durable = log.durable_position().log_byte;
        log.close().unwrap();
        let mut source = Directory::open_in(sim.shared(), DIR).unwrap();
        let header = source.segment(SegmentName(LogByte(0))).unwrap().header;
        let limit = header.file_byte(durable.0);
        let stretch = Stretch { at: HEADER_BYTES, limit, enough: u64::MAX, rel_offset: 0 };
        (source, header, stretch)
    }

    /// What is taken, and what it comes to.
    fn taken(
        source: &mut Directory,
        header: &SegmentHeader,
        stretch: Stretch,
        most: usize,
    ) -> (Vec<u8>, Result<()>) {
        let (mut bytes, mut pieces) = (Vec::new(), 0);
        let outcome = fetch_ahead(source, header, stretch, &mut Vec::new(), |piece| {
            if pieces == most {
                return Err(Error::new(Kind::DiskFull, "no more"));
            }
            pieces += 1;
            bytes.extend_from_slice(piece.bytes());
            Ok(piece.buffer)
        });
        (bytes, outcome)
    }

    #[test]
    fn pieces_come_in_order_and_are_all_there_is() {
        let sim = Sim::new(1);
        let (mut source, header, stretch) = source(&sim);
        let file = sim.read(SegmentName(LogByte(0)).path(&Path::new(DIR).join("segments")));
        let frames = |to: usize| &file[4096..4096 + to];
        let all = usize::try_from(stretch.limit).unwrap() - 4096;
        let (bytes, outcome) = taken(&mut source, &header, stretch, usize::MAX);
        outcome.unwrap();
        assert!(bytes == frames(all), "{} bytes of {all}", bytes.len());
        // No more than a piece beyond what is enough.
        let some = Stretch { enough: 1 << 20, ..stretch };
        let (bytes, outcome) = taken(&mut source, &header, some, usize::MAX);
        outcome.unwrap();
        assert!(bytes.len() >= (1 << 20) - 4096 && bytes.len() < 2 << 20, "{}", bytes.len());
        assert!(bytes == frames(bytes.len()));
        // Who takes them may fail: nothing is fetched behind their back, and the next try has it all.
        let (before, outcome) = taken(&mut source, &header, stretch, 1);
        assert_eq!(outcome.unwrap_err().kind(), Kind::DiskFull);
        assert!(!before.is_empty());
        let (bytes, outcome) = taken(&mut source, &header, stretch, usize::MAX);
        outcome.unwrap();
        assert!(bytes == frames(all));
    }

    #[test]
    fn what_comes_before_damage_is_taken_before_it_is_told() {
        let sim = Sim::new(1);
        let (mut source, header, stretch) = source(&sim);
        let path = SegmentName(LogByte(0)).path(&Path::new(DIR).join("segments"));
        // In the sixth record.
        sim.flip(&path, 8 * (4096 + 5 * (400 << 10) + 5000));
        let (bytes, outcome) = taken(&mut source, &header, stretch, usize::MAX);
        assert_eq!(outcome.unwrap_err().kind(), Kind::Corrupt);
        assert!(bytes.len() > 4 * (400 << 10) && bytes.len() < 6 * (400 << 10), "{}", bytes.len());
    }
}
