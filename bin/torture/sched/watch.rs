//! The watchdog: who makes no step any more, and what it was doing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Counts;
use super::plan::Plan;
use super::round;

/// A thread under watch, as it shows itself.
#[derive(Debug)]
pub struct Sign {
    name: String,
    steps: AtomicU64,
    doing: Mutex<&'static str>,
    over: AtomicBool,
}

impl Sign {
    /// It begins something.
    pub fn doing(&self, what: &'static str) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = what;
        self.steps.fetch_add(1, Relaxed);
    }
}

/// Marks its thread as over when it ends, by panic too.
#[derive(Debug)]
pub struct Watched(pub Arc<Sign>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.over.store(true, Release);
    }
}

/// All threads of a round.
#[derive(Debug)]
pub struct Watch {
    patience: Duration,
    signs: Mutex<Vec<Arc<Sign>>>,
}

impl Watch {
    pub fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Watch { patience, signs: Mutex::default() })
    }

    /// Another thread comes.
    pub fn sign(&self, name: String) -> Watched {
        let sign = Arc::new(Sign {
            name,
            steps: AtomicU64::new(0),
            doing: Mutex::new("starting"),
            over: AtomicBool::new(false),
        });
        self.signs.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&sign));
        Watched(sign)
    }

    /// Runs a round; returns its violations, and whether some thread hangs.
    pub fn over(self: &Arc<Self>, plan: &Plan, counts: &Arc<Counts>) -> (Vec<String>, bool) {
        let main = self.sign("round".into());
        let (watch, plan, counts) = (Arc::clone(self), plan.clone(), Arc::clone(counts));
        let thread = std::thread::Builder::new()
            .name("round".into())
            .spawn(move || round::run(&plan, &counts, &watch, &main))
            .expect("a thread");
        let mut before = Vec::new();
        let mut since = Instant::now();
        while !thread.is_finished() {
            let now = self.alive();
            if now != before {
                (before, since) = (now, Instant::now());
            } else if since.elapsed() > self.patience {
                let who: Vec<String> =
                    before.iter().map(|(name, _, doing)| format!("{name} ({doing})")).collect();
                let found = format!(
                    "no step for {} s, these threads hang: {}",
                    self.patience.as_secs(),
                    who.join(", ")
                );
                return (vec![found], true);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let found = thread.join().unwrap_or_else(|_| vec!["the round panicked".into()]);
        (found, false)
    }

    /// Name, steps and doing of every thread that is not over. Readers and the like stop by
    /// themselves and take steps without end, so they do not count while others hang.
    fn alive(&self) -> Vec<(String, u64, &'static str)> {
        let signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = signs.iter().filter(|sign| !sign.over.load(Acquire));
        alive
            .filter(|sign| !sign.name.starts_with("side"))
            .map(|sign| {
                let doing = *sign.doing.lock().unwrap_or_else(PoisonError::into_inner);
                (sign.name.clone(), sign.steps.load(Relaxed), doing)
            })
            .collect()
    }
}
