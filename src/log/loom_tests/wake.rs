//! Wake: register, look again, sleep; nobody sleeps on after the change that concerns them.

use std::sync::Arc;
use std::sync::atomic::Ordering::*;

use super::super::primitives::{AtomicBool, AtomicU32};
use super::super::wake::Wake;
use super::bounded;

/// Sleeps until the counter has reached `wanted`.
fn wait_for(shared: &(Wake, AtomicU32), wanted: u32) {
    loop {
        let sleeper = shared.0.register();
        // Acquire alone, as a tail looks at the end: the order comes from the registration.
        if shared.1.load(Acquire) >= wanted {
            return;
        }
        sleeper.sleep(None);
    }
}

#[test]
fn one_wake_reaches_two_sleepers() {
    bounded("wake all", Some(3), || {
        let shared = Arc::new((Wake::default(), AtomicU32::new(0)));
        let sleepers = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || wait_for(&shared, 1))
        });
        shared.1.store(1, Release);
        shared.0.all();
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
        assert_eq!(shared.0.sleepers(), 0);
    });
}

#[test]
fn two_wakers_and_a_sleeper_who_needs_both() {
    bounded("wake twice", Some(3), || {
        let shared = Arc::new((Wake::default(), AtomicU32::new(0)));
        let wakers = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || {
                shared.1.fetch_add(1, Release);
                shared.0.all();
            })
        });
        wait_for(&shared, 2);
        for waker in wakers {
            waker.join().unwrap();
        }
    });
}

#[test]
fn waking_one_passes_a_right_on_among_three() {
    // The way of the baton in `rounds`, with more threads that want it than there.
    bounded("wake one", Some(3), || {
        let shared = Arc::new((Wake::default(), AtomicBool::new(false)));
        let take = |shared: &(Wake, AtomicBool)| {
            while shared.1.swap(true, SeqCst) {
                let sleeper = shared.0.register();
                if shared.1.load(SeqCst) {
                    sleeper.sleep(None);
                }
            }
            shared.1.store(false, SeqCst);
            shared.0.one();
        };
        let others = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || take(&shared))
        });
        take(&shared);
        for other in others {
            other.join().unwrap();
        }
    });
}
