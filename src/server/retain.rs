//! A leader's own retention: what it is told to keep, and the thread that lets the rest go.
//!
//! Made by `server`; `log::retain` has the rules, and holds what a table's checkpoint, a named cursor
//! and a live slot need. Without a limit nothing is ever dropped, and there is no thread.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::Result;
use crate::log::Retention;

use super::node::{self, Node};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(2);

/// What a leader keeps of its log. A segment goes when neither limit needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// At least so many bytes of the newest segments.
    pub bytes: Option<u64>,
    /// Records younger than this.
    pub age: Option<Duration>,
    /// Whether records may go that nothing but the table holds, as rows.
    pub table_is_only_copy: bool,
}

impl Keep {
    pub(super) fn is_limited(&self) -> bool {
        self.bytes.is_some() || self.age.is_some()
    }

    fn policy(&self, now: i64) -> Retention {
        let before =
            |age: Duration| now.saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
        Retention {
            keep_bytes: self.bytes,
            keep_after: self.age.map(before),
            table_is_only_copy: self.table_is_only_copy,
            ..Retention::default()
        }
    }
}

/// Lets go of what is not kept, until the node stops.
pub(super) fn retain(node: &Arc<Node>, keep: Keep) -> Result<JoinHandle<()>> {
    let node = Arc::clone(node);
    node::spawn("tidelog-retain", move || {
        let mut said = None;
        while !node.is_stopping() {
            match node.log.retain(&keep.policy(node.now())) {
                Ok(retained) => {
                    if !retained.files.is_empty() {
                        let from = retained.start;
                        node.helm
                            .events
                            .note(node.now(), format!("the log begins at offset {from}"));
                    }
                    said = None;
                }
                Err(e) => {
                    let text = format!("retention stopped: {e}");
                    if said.as_ref() != Some(&text) {
                        node.helm.events.note(node.now(), text.clone());
                        said = Some(text);
                    }
                }
            }
            // Who stops the node wakes it.
            std::thread::park_timeout(EVERY);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_becomes_the_time_before_which_records_may_go() {
        let keep = Keep { age: Some(Duration::from_secs(2)), ..Keep::default() };
        assert!(keep.is_limited() && !Keep::default().is_limited());
        let policy = keep.policy(5_000_000_000);
        assert_eq!((policy.keep_after, policy.keep_bytes), (Some(3_000_000_000), None));
        let for_ever = Keep { age: Some(Duration::MAX), ..Keep::default() };
        assert_eq!(for_ever.policy(0).keep_after, Some(-i64::MAX));
    }
}
