//! The bare loops: as little as a log could do, the reference for every ratio.
//!
//! A frame is `u32 len, u32 crc32c, payload`, for single records and for each record of a batch.
//! No offsets, no index while writing, no recovery, no roll on the durable path.
//!
//! - `append`: frames into a 1 MiB buffer, one `write` when it is full; 64 MiB files.
//! - `durable`: whole pages over a recycled file, `fdatasync`; a simple group commit for more
//!   than one producer.
//! - `read`: `mmap`, header hops, crc32c; one index entry per 32 KiB for reads by number.

mod append;
mod durable;
mod read;

use anyhow::Result;

use crate::contestant::{Contestant, Engine, Game, Job, Setup};

/// The reference itself.
pub struct Bare;

pub const NAME: &str = "bare";

const HEADER_BYTES: usize = 8;

impl Contestant for Bare {
    fn name(&self) -> &'static str {
        NAME
    }

    fn plays(&self, game: Game) -> bool {
        // With two producers the reference stays the loop of one thread.
        !matches!(game, Game::Append { batches: true, producers: 2.. })
    }

    fn open(&self, setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
        Ok(match setup.job {
            Job::Durable => Box::new(durable::Recycled::create(setup.dir)?),
            Job::Append | Job::Load | Job::Fill => {
                Box::new(append::Files::create(setup.dir, setup.segment_bytes)?)
            }
            Job::Scan | Job::Random => Box::new(read::Mapped::open(setup.dir)?),
            Job::Recover => Box::new(read::Mapped::open_checked(setup.dir)?),
        })
    }
}

pub use read::verify_last_file;

/// Appends the frame of `payload` to `buffer`.
#[inline]
fn frame(buffer: &mut Vec<u8>, payload: &[u8]) {
    buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    buffer.extend_from_slice(payload);
}

/// The payload of the frame at `at` and the byte behind it; `None` at the end of what is valid.
#[inline]
fn unframe(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (len, _) = header(bytes, at)?;
    let end = at + HEADER_BYTES + len;
    let payload = bytes.get(at + HEADER_BYTES..end)?;
    let crc = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().ok()?);
    (crc32c::crc32c(payload) == crc).then_some((payload, end))
}

/// The length of the payload of the frame at `at`, and the byte behind the frame, unchecked.
#[inline]
fn header(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let len = bytes.get(at..at + 4)?;
    let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
    (len > 0).then_some((len, at + HEADER_BYTES + len))
}
