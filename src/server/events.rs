//! What happened to a node lately, for people: the last few lines, each with its time.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

const KEPT: usize = 100;

/// The last events.
#[derive(Debug, Default)]
pub(super) struct Events(Mutex<VecDeque<(i64, String)>>);

impl Events {
    /// Notes what happened at `time` (nanoseconds since 1970).
    pub(super) fn note(&self, time: i64, what: String) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back((time, what));
    }

    /// What is kept, newest first.
    pub(super) fn list(&self) -> Vec<(i64, String)> {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().rev().cloned().collect()
    }
}
