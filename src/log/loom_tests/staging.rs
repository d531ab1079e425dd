//! Staging: reserve, close, publish, hand over, reopen; no byte is two threads' at once.

use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use loom::sync::Mutex;

use super::super::primitives::AtomicU64;
use super::super::staging::{Base, Gate, NoRoom, PAGE, ROOM_BYTES, Staging, Taken};
use super::{bounded, exhaust};

const FRAME: usize = 32;

fn base(log_byte: u64, offset: u64, room: usize) -> Base {
    Base { log_byte, offset, carried: 0, room }
}

/// A frame whose body is its offset.
fn fill(bytes: &mut [u8], offset: u64) {
    bytes.fill(0);
    bytes[..4].copy_from_slice(&32_u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&offset.to_le_bytes());
}

/// The offset in a frame.
fn offset_in(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame[8..16].try_into().unwrap())
}

/// Reserves, fills and publishes one frame, unless there is no room.
fn publish(staging: &Staging) -> Result<u64, NoRoom> {
    let mut room = staging.reserve(FRAME, 1)?;
    let offset = room.offset;
    assert_eq!(room.end, (offset + 1) * FRAME as u64, "the bases are of another generation");
    fill(room.bytes(), offset);
    room.publish();
    Ok(offset)
}

/// Reads all frames of what was taken, as the writer does; returns how many.
fn write(mut taken: Taken, first: u64) -> u64 {
    let (mut at, mut offset) = (taken.origin, first);
    while at < taken.end {
        let frame = taken.frame(at);
        assert_eq!(offset_in(frame), offset, "a frame is missing, or twice");
        at += frame.len();
        offset += 1;
    }
    taken.pad();
    let pages = taken.pages();
    assert!(pages.len().is_multiple_of(PAGE));
    offset - first
}

/// Closes, takes and reopens; the writer's and a full buffer's way, as `Intake::next` goes.
fn advance(gate: &mut Gate, room: usize) -> (Taken, u64) {
    gate.close();
    let (log_byte, offset) = gate.end();
    let first = offset - gate.records();
    assert_eq!(gate.len() as u64, gate.records() * FRAME as u64);
    let taken = gate.advance(base(log_byte, offset, room));
    gate.reopen();
    (taken, first)
}

#[test]
fn two_producers_and_a_writer_that_closes_between_them() {
    exhaust("staging, close", || {
        let (staging, mut gate) = Staging::new();
        gate.start(base(0, 0, ROOM_BYTES));
        gate.reopen();
        let producers = [(); 2].map(|()| {
            let staging = Arc::clone(&staging);
            loom::thread::spawn(move || publish(&staging).ok())
        });
        let (taken, first) = advance(&mut gate, ROOM_BYTES);
        let mut written = write(taken, first);
        let mut offsets: Vec<u64> =
            producers.into_iter().filter_map(|p| p.join().unwrap()).collect();
        let (taken, first) = advance(&mut gate, ROOM_BYTES);
        assert_eq!(first, written);
        written += write(taken, first);
        offsets.sort_unstable();
        assert!(offsets.iter().copied().eq(0..written), "offsets are dense: {offsets:?}");
    });
}

/// What producers and the writer share: the gate behind its lock, and what is lined up.
struct Intake {
    gate: Gate,
    lined_up: Vec<(Taken, u64)>,
    in_flight: usize,
}

#[test]
fn who_finds_a_full_buffer_opens_the_next_and_the_writer_takes_what_is_lined_up() {
    // Room for one frame: the second producer closes, lines up and goes on in the next buffer.
    bounded("staging, full", Some(3), || {
        let (staging, mut gate) = Staging::new();
        gate.start(base(0, 0, FRAME));
        gate.reopen();
        let intake = Arc::new(Mutex::new(Intake { gate, lined_up: Vec::new(), in_flight: 0 }));
        let published = Arc::new(AtomicU64::new(0));
        let producers = [(); 2].map(|()| {
            let (staging, intake) = (Arc::clone(&staging), Arc::clone(&intake));
            let published = Arc::clone(&published);
            loom::thread::spawn(move || {
                while let Err(no_room) = publish(&staging) {
                    if no_room == NoRoom::Full {
                        let mut intake = intake.lock().unwrap();
                        if !staging.fits(FRAME) && intake.in_flight == 0 {
                            let taken = advance(&mut intake.gate, FRAME);
                            intake.lined_up.push(taken);
                            intake.in_flight += 1;
                        }
                    }
                    loom::thread::yield_now();
                }
                published.fetch_add(1, Release);
            })
        });
        let mut written = 0;
        while written < 2 {
            let taken = {
                let mut intake = intake.lock().unwrap();
                if intake.lined_up.is_empty() && published.load(Acquire) == 2 {
                    // The rest is in the open buffer, which nobody fills any more.
                    let taken = advance(&mut intake.gate, FRAME);
                    intake.lined_up.push(taken);
                    intake.in_flight += 1;
                }
                intake.lined_up.pop()
            };
            match taken {
                Some((taken, first)) => {
                    assert_eq!(first, written);
                    written += write(taken, first);
                    intake.lock().unwrap().in_flight -= 1;
                }
                None => loom::thread::yield_now(),
            }
        }
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn a_buffer_that_comes_round_again_holds_only_what_is_new() {
    // Two buffers: the third generation uses the first one's memory, marks and bases.
    bounded("staging, reuse", Some(4), || {
        let (staging, mut gate) = Staging::new();
        gate.start(base(0, 0, ROOM_BYTES));
        gate.reopen();
        let producer = {
            let staging = Arc::clone(&staging);
            loom::thread::spawn(move || {
                // A buffer that is closed just now is not waited for: the model stays finite.
                (0..3).filter(|_| publish(&staging).is_ok()).count() as u64
            })
        };
        let mut written = 0;
        for _ in 0..3 {
            let (taken, first) = advance(&mut gate, ROOM_BYTES);
            written += write(taken, first);
        }
        let published = producer.join().unwrap();
        let (taken, first) = advance(&mut gate, ROOM_BYTES);
        written += write(taken, first);
        assert_eq!(written, published);
    });
}

#[test]
fn a_frame_of_the_writers_own_stands_behind_what_was_reserved() {
    exhaust("staging, place", || {
        let (staging, mut gate) = Staging::new();
        gate.start(base(0, 0, ROOM_BYTES));
        gate.reopen();
        let producers = [(); 2].map(|()| {
            let staging = Arc::clone(&staging);
            loom::thread::spawn(move || publish(&staging).ok())
        });
        gate.close();
        let (_, next) = gate.end();
        gate.place(FRAME, 1, |bytes| fill(bytes, next));
        let (taken, first) = advance(&mut gate, ROOM_BYTES);
        let mut written = write(taken, first);
        assert_eq!(written, next + 1);
        let published = producers.map(|p| p.join().unwrap()).iter().flatten().count() as u64;
        let (taken, first) = advance(&mut gate, ROOM_BYTES);
        written += write(taken, first);
        assert_eq!(written, published + 1);
    });
}
