//! Turns: producers that append without waiting take turns when they get in each other's way.
//!
//! Called by `append` around a reservation. Two producers that reserve in a tight loop change the
//! same few cache lines alternately: each record costs both a transfer between processors, and
//! together they are slower than one alone. So a producer that has met others often, in a short
//! time, pauses for as long as it sees them move on: they run alone for a while, or the writer
//! gets the processor. Invariants:
//! - nobody pauses between reserve and publish, or twice in a row;
//! - one producer pauses at a time, for [`LOOKS`] looks at most (a tenth of a millisecond), and
//!   no longer than the others move on;
//! - all of it is a hint: whatever it decides, records are reserved in the same way.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering::*};

use super::Shared;
use crate::position::LogByte;

/// After so many appends a producer counts its meetings: a record of somebody else right before
/// its own.
const APPENDS: u32 = 16;
/// So many of them are often,
const OFTEN: u32 = APPENDS / 4;
/// and this, in nanoseconds, is soon: slower producers hardly wait for each other.
const SOON_NS: i64 = APPENDS as i64 * 200;
/// How often who pauses looks whether the others move on,
const LOOKS: u32 = 64;
/// and what it spins in between.
const SPINS: u32 = 20;
/// Bytes that the others may append meanwhile.
const TURN_BYTES: u64 = 256 << 10;

/// What a thread remembers of its last append.
#[derive(Clone, Copy)]
struct Turn {
    /// Which log it went to: an address that is compared, never followed.
    log: usize,
    /// Behind its frame.
    end: u64,
    appends: u32,
    meetings: u32,
    /// When they were last counted and often; otherwise 0.
    counted: i64,
}

const NONE: Turn = Turn { log: 0, end: 0, appends: 0, meetings: 0, counted: 0 };

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(NONE) };
}

/// Who pauses.
#[derive(Debug)]
pub(crate) struct Turns {
    pausing: AtomicBool,
}

impl Turns {
    /// For a log that is being opened. Its address may be that of one that was closed: what this
    /// thread remembers of that one is nothing about this, and a run on a simulated disk must
    /// not depend on which memory is free.
    pub(crate) fn new() -> Self {
        TURN.set(NONE);
        Turns { pausing: AtomicBool::new(false) }
    }
}

impl Shared {
    /// Notes an appended frame; pauses if it is time for others.
    #[inline]
    pub(crate) fn turn(&self, len: usize, end: LogByte) {
        let mut turn = TURN.get();
        let log = std::ptr::from_ref(self).addr();
        let start = end.0.wrapping_sub(len as u64);
        turn.meetings += u32::from(turn.end != start && turn.log == log);
        turn.appends += 1;
        (turn.log, turn.end) = (log, end.0);
        if turn.appends == APPENDS {
            turn.counted = if turn.meetings < OFTEN { 0 } else { self.crowded(turn.counted) };
            (turn.appends, turn.meetings) = (0, 0);
        }
        TURN.set(turn);
    }

    /// Pauses if meetings were often before, and not long ago; returns when that was noted.
    #[cold]
    fn crowded(&self, before: i64) -> i64 {
        let now = self.fs.now();
        let pausing = &self.turns.pausing;
        if now.saturating_sub(before) > SOON_NS || pausing.swap(true, AcqRel) {
            return now;
        }
        let first = self.staging.progress();
        let mut last = first;
        for _ in 0..LOOKS {
            for _ in 0..SPINS {
                std::hint::spin_loop();
            }
            std::thread::yield_now();
            let now = self.staging.progress();
            if now == last || now.wrapping_sub(first) > TURN_BYTES {
                break;
            }
            last = now;
        }
        pausing.store(false, Release);
        0
    }
}
