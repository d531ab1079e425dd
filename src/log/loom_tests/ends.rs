//! Ends and tails: byte and offset of one moment, and no tail that sleeps through a record.

use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use crate::position::{LogByte, Offset};

use super::super::ends::Ends;
use super::super::primitives::Traced;
use super::super::wake::Wake;
use super::{bounded, exhaust};

#[test]
fn byte_and_offset_are_of_the_same_moment() {
    exhaust("ends", || {
        let ends = Arc::new(Ends::default());
        let publisher = {
            let ends = Arc::clone(&ends);
            loom::thread::spawn(move || {
                for n in 1..=2 {
                    ends.set_durable(LogByte(100 * n), Offset(n));
                }
            })
        };
        let mut before = 0;
        for _ in 0..2 {
            let (byte, offset) = ends.durable();
            assert_eq!(byte.0, 100 * offset.0, "a pair that never was");
            assert!(offset.0 >= before, "an end went back");
            before = offset.0;
        }
        publisher.join().unwrap();
        assert_eq!(ends.durable(), (LogByte(200), Offset(2)));
    });
}

/// What a tail shares with whoever commits.
struct Shared {
    ends: Ends,
    visible_wake: Wake,
    frames: Traced,
}

/// What `Tail::wait` does.
fn tail(shared: &Shared, wanted: u64) {
    loop {
        let sleeper = shared.visible_wake.register();
        if shared.ends.durable_byte.load(Acquire) >= wanted {
            shared.frames.look(0, usize::try_from(wanted).unwrap());
            return;
        }
        sleeper.sleep(None);
    }
}

#[test]
fn a_tail_sees_every_end_and_sleeps_through_none() {
    bounded("two tails", Some(3), || {
        let shared = Arc::new(Shared {
            ends: Ends::default(),
            visible_wake: Wake::default(),
            frames: Traced::new(16),
        });
        let tails = [8, 16].map(|wanted| {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || tail(&shared, wanted))
        });
        for n in 1..=2 {
            shared.frames.touch(8 * (n - 1), 8 * n);
            shared.ends.set_durable(LogByte(8 * n as u64), Offset(n as u64));
            shared.visible_wake.all();
        }
        for tail in tails {
            tail.join().unwrap();
        }
    });
}

#[test]
fn one_tail_sees_two_ends() {
    exhaust("one tail", || {
        let shared = Arc::new(Shared {
            ends: Ends::default(),
            visible_wake: Wake::default(),
            frames: Traced::new(16),
        });
        let other = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || tail(&shared, 16))
        };
        for n in 1..=2 {
            shared.frames.touch(8 * (n - 1), 8 * n);
            shared.ends.set_durable(LogByte(8 * n as u64), Offset(n as u64));
            shared.visible_wake.all();
        }
        other.join().unwrap();
    });
}
