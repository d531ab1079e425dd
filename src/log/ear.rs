//! Who hears at once that the log has grown: on the thread that made it so, a wake-up less than for who
//! sleeps.
//!
//! Told by `sync`, `refresh` and `commit`, before sleepers are woken; set by `server`, whose long polls
//! wait for nothing else. Invariants:
//! - who hears neither blocks nor comes back to the log: it is called by who has just synced, or commits;
//! - calls may overtake each other: ends only rise, and who hears keeps the highest.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use super::commit::End;

/// Takes the durable and the visible end.
pub(crate) type Hears = dyn Fn(End, End) + Send + Sync;

/// At most one who hears.
#[derive(Default)]
pub(crate) struct Ear(RwLock<Option<Box<Hears>>>);

impl Ear {
    /// Sets who hears, in place of whoever did.
    #[cfg(feature = "server")]
    pub(crate) fn set(&self, hears: Box<Hears>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(hears);
    }

    /// Tells who hears, if anybody does.
    pub(crate) fn tell(&self, ends: impl FnOnce() -> (End, End)) {
        if let Some(hears) = &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            let (durable, visible) = ends();
            hears(durable, visible);
        }
    }
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ear")
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use std::sync::{Arc, Mutex};

    use crate::fs::sim::Sim;
    use crate::log::Log;
    use crate::record::Record;

    #[test]
    fn whoever_makes_the_log_grow_tells_it_before_the_append_returns() {
        let options = Log::options().fs(Sim::new(1).shared()).create(true).worker(false);
        let log = options.open("/log").unwrap();
        let heard: Arc<Mutex<Vec<_>>> = Arc::default();
        let hears = Arc::clone(&heard);
        log.home().set_ear(Box::new(move |durable, visible| {
            hears.lock().unwrap().push((durable.1, visible.1, std::thread::current().id()));
        }));
        for n in 1..4 {
            log.append(&Record::event(b"x")).unwrap();
            let last = heard.lock().unwrap().last().copied().unwrap();
            assert_eq!(last, (log.durable_end(), log.end(), std::thread::current().id()));
            assert_eq!(log.end().0, n);
        }
    }
}
