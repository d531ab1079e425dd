//! What a node has promised, while its log is open: one handle, shared by who copies or begins epochs
//! and by who answers candidates.
//!
//! Used by `start` for epochs of this node's own, and by `replica`. Invariants:
//! - a promise only rises, and is durable before anybody hears of it;
//! - a number that was promised under one nonce is promised under no other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id};

use super::files::{Layout, Promise};

/// A handle on the promise of one directory.
#[derive(Clone, Debug)]
pub struct Promises(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fs: Arc<dyn Fs>,
    layout: Layout,
    /// Guards the file, too.
    held: Mutex<Option<Promise>>,
}

impl Promises {
    /// Reads what was promised.
    pub(crate) fn open(fs: &Arc<dyn Fs>, layout: &Layout) -> Result<Self> {
        let held = Mutex::new(Promise::read(&**fs, layout)?);
        Ok(Promises(Arc::new(Inner { fs: Arc::clone(fs), layout: layout.clone(), held })))
    }

    /// What is promised now.
    pub(crate) fn get(&self) -> Option<Promise> {
        *self.lock()
    }

    /// The epoch that is promised now, and whose it is.
    pub fn promised(&self) -> Option<(Epoch, Id)> {
        self.get().map(|promise| (promise.epoch, promise.owner))
    }

    /// Promises an epoch to its owner, durably, unless a later one is promised, or the same number to
    /// somebody else; what is promised then.
    pub(crate) fn raise(&self, promise: Promise) -> Result<Promise> {
        let mut held = self.lock();
        match *held {
            Some(before) if before == promise => Ok(before),
            Some(before)
                if before.epoch.number > promise.epoch.number
                    && !mutant::on(Mutant::ForgetPromise) =>
            {
                Ok(before)
            }
            // The same number to somebody else.
            Some(before)
                if before.epoch.number == promise.epoch.number
                    && !mutant::on(Mutant::PromiseTwice) =>
            {
                Ok(before)
            }
            _ => {
                if !mutant::on(Mutant::PromiseInMemory) {
                    promise.write(&*self.0.fs, &self.0.layout)?;
                }
                *held = Some(promise);
                Ok(promise)
            }
        }
    }

    /// Promises this node the next number above all that was seen; or exactly the epoch that it has won,
    /// if nothing later was promised since.
    pub(super) fn next(
        &self,
        node: Id,
        won: Option<Epoch>,
        seen: u64,
        nonce: u64,
    ) -> Result<Epoch> {
        let mut held = self.lock();
        let before = held.map_or(0, |promise| promise.epoch.number);
        let epoch = match won {
            None => Epoch { number: seen.max(before).saturating_add(1), nonce },
            Some(won) if *held == Some(Promise { epoch: won, owner: node }) => return Ok(won),
            Some(won) => {
                return Err(Error::new(
                    Kind::Fenced,
                    format!("expected this node to be bound to epoch {won}, found that it is bound to {before}"),
                )
                .help("another node leads by now: follow it"));
            }
        };
        let promise = Promise { epoch, owner: node };
        promise.write(&*self.0.fs, &self.0.layout)?;
        *held = Some(promise);
        Ok(epoch)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Promise>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Os;

    #[test]
    fn a_promise_only_rises_and_a_number_is_promised_once() {
        let dir = tempfile::tempdir().unwrap();
        let (fs, layout) = (Os::shared(), Layout::new(dir.path()));
        let (a, b) = (Id([1; 16]), Id([2; 16]));
        let promises = Promises::open(&fs, &layout).unwrap();
        let of = |number, owner: Id| Promise {
            epoch: Epoch { number, nonce: u64::from(owner.0[0]) },
            owner,
        };
        assert_eq!(promises.raise(of(3, a)).unwrap(), of(3, a));
        assert_eq!(promises.raise(of(3, b)).unwrap(), of(3, a), "two owners of one number");
        assert_eq!(promises.raise(of(2, b)).unwrap(), of(3, a), "it fell");
        assert_eq!(Promise::read(&*fs, &layout).unwrap(), Some(of(3, a)));
        assert_eq!(promises.raise(of(5, b)).unwrap(), of(5, b));
        assert_eq!(Promises::open(&fs, &layout).unwrap().get(), Some(of(5, b)));
        // Who has won an epoch begins exactly that one, or none.
        assert_eq!(promises.next(b, Some(of(5, b).epoch), 0, 9).unwrap(), of(5, b).epoch);
        assert_eq!(promises.next(a, Some(of(3, a).epoch), 0, 9).unwrap_err().kind(), Kind::Fenced);
        assert_eq!(promises.next(a, None, 2, 9).unwrap(), Epoch { number: 6, nonce: 9 });
    }
}
