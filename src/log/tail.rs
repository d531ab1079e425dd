//! Tailing: a cursor that waits for more.
//!
//! In the writer's process it sleeps on the event count that every sync wakes. In another
//! process it polls, and file events (feature `notify`) only cut the wait short: polling alone
//! is enough, on mounts that give no events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::position::Offset;

use super::Shared;
use super::read::{Cursor, Entry};
use super::watch::Watch;

/// Reads on as the log grows. Made by [`Log::tail`](super::Log::tail).
#[derive(Debug)]
pub struct Tail {
    shared: Arc<Shared>,
    cursor: Cursor,
    /// Only of a log that another process writes.
    watch: Option<Watch>,
}

impl Tail {
    pub(crate) fn new(shared: Arc<Shared>, offset: Offset) -> Result<Self> {
        let cursor = Cursor::new(Arc::clone(&shared), offset, Offset(u64::MAX))?;
        let watch = shared.options.read_only.then(|| Watch::new(&shared.layout));
        Ok(Tail { shared, cursor, watch })
    }

    /// The offset of the record that comes next.
    pub fn offset(&self) -> Offset {
        self.cursor.offset()
    }

    /// The next record; waits for it as long as it takes.
    #[expect(clippy::should_implement_trait, reason = "entries borrow from the tail")]
    pub fn next(&mut self) -> Result<Entry<'_>> {
        self.wait(None)?;
        Ok(self.cursor.next()?.expect("waited until it was there"))
    }

    /// The next record, or `None` when there is none within `timeout`.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Entry<'_>>> {
        if self.wait(Instant::now().checked_add(timeout))? { self.cursor.next() } else { Ok(None) }
    }

    /// Waits for the next record; `false` when none came within `timeout`.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<bool> {
        self.wait(Instant::now().checked_add(timeout))
    }

    /// Waits until the next record is visible; `false` when `deadline` came first.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<bool> {
        loop {
            let sleeper = self.shared.visible_wake.register();
            if self.cursor.is_ready()? {
                return Ok(true);
            }
            if let Some(error) = self.shared.poison.get() {
                return Err(error.clone());
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            match &mut self.watch {
                None => sleeper.sleep(left),
                Some(watch) => {
                    drop(sleeper);
                    let poll = self.shared.options.poll_every;
                    watch.wait(left.map_or(poll, |left| left.min(poll)));
                    self.shared.refresh()?;
                }
            }
        }
    }
}
