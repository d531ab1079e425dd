//! Sleeping until something happened, and waking who sleeps: an event count.
//!
//! Used by group commit (one per round), by tails and by the worker. The protocol that loses no
//! wake-up: register, look again, sleep; the other side changes what is looked at, then wakes.
//! On Linux a futex word, so that one call wakes a whole round; elsewhere, and in models, a
//! condition variable.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::primitives::AtomicU32;
#[cfg(any(not(target_os = "linux"), all(test, loom)))]
use super::primitives::{Condvar, Mutex};

/// An event that many can wait for.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    /// Rises with every wake; orders "changed, then woke" against "registered, then looked".
    word: AtomicU32,
    /// Registered sleepers, so that waking nobody costs no system call.
    sleepers: AtomicU32,
    #[cfg(any(not(target_os = "linux"), all(test, loom)))]
    fallback: (Mutex<()>, Condvar),
}

/// A registered sleeper that has not slept yet.
#[derive(Debug)]
pub(crate) struct Sleeper<'a> {
    wake: &'a Wake,
    seen: u32,
}

impl Wake {
    /// Registers; look at the condition again before sleeping.
    pub(crate) fn register(&self) -> Sleeper<'_> {
        self.sleepers.fetch_add(1, SeqCst);
        Sleeper { wake: self, seen: self.word.load(SeqCst) }
    }

    /// How many are registered.
    pub(crate) fn sleepers(&self) -> u32 {
        self.sleepers.load(SeqCst)
    }

    /// Wakes everyone who registered before.
    pub(crate) fn all(&self) {
        self.wake(i32::MAX.unsigned_abs());
    }

    /// Wakes one.
    pub(crate) fn one(&self) {
        self.wake(1);
    }

    fn wake(&self, most: u32) {
        self.word.fetch_add(1, SeqCst);
        if self.sleepers.load(SeqCst) == 0 {
            return;
        }
        #[cfg(all(target_os = "linux", not(all(test, loom))))]
        {
            use rustix::thread::futex;
            // Waking fails only for a bad address, which a reference is not.
            let _ = futex::wake(&self.word, futex::Flags::PRIVATE, most);
        }
        #[cfg(any(not(target_os = "linux"), all(test, loom)))]
        {
            let (lock, condition) = &self.fallback;
            drop(lock.lock());
            if most == 1 { condition.notify_one() } else { condition.notify_all() }
        }
    }
}

impl Sleeper<'_> {
    /// Sleeps until a wake since registering, or the time is over. May return early.
    pub(crate) fn sleep(self, timeout: Option<Duration>) {
        #[cfg(all(target_os = "linux", not(all(test, loom))))]
        {
            use rustix::thread::futex;
            let timeout = timeout.and_then(|t| futex::Timespec::try_from(t).ok());
            // Interrupted, timed out, or already woken: the caller looks again in every case.
            let _ =
                futex::wait(&self.wake.word, futex::Flags::PRIVATE, self.seen, timeout.as_ref());
        }
        #[cfg(any(not(target_os = "linux"), all(test, loom)))]
        {
            let (lock, condition) = &self.wake.fallback;
            let guard = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if self.wake.word.load(SeqCst) == self.seen {
                let timeout = timeout.unwrap_or(Duration::from_secs(3600));
                drop(condition.wait_timeout(guard, timeout));
            }
        }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.wake.sleepers.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_wake_between_registering_and_sleeping_is_not_lost() {
        let wake = Wake::default();
        let sleeper = wake.register();
        wake.all();
        sleeper.sleep(None);
        assert_eq!(wake.sleepers(), 0);
    }

    #[test]
    fn one_call_wakes_everyone() {
        let wake = Arc::new((Wake::default(), AtomicU32::new(0)));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let wake = Arc::clone(&wake);
                std::thread::spawn(move || {
                    loop {
                        let sleeper = wake.0.register();
                        if wake.1.load(SeqCst) == 1 {
                            break;
                        }
                        sleeper.sleep(None);
                    }
                })
            })
            .collect();
        wake.1.store(1, SeqCst);
        wake.0.all();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
