//! Retention while roles change: a leader drops what every node and the archive have, as an operator would who looks
//! at all of them, and the oracle remembers what it was.
//!
//! | promise | held against |
//! |---|---|
//! | what two leaders dropped is the same | where each batch began |
//! | what is left goes on behind it | the next reading: no batch twice, none missing |
//! | a node that dropped it has it in its table | its digest in the end |

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelog::log::Retention;
use tidelog::{Log, Offset, Result};

use super::super::book::Reading;
use super::super::world::{Done, World as Fixed};
use super::World;
use super::node::Role;

/// Where the batches began that some leader dropped.
#[derive(Debug, Default)]
pub struct Dropped(BTreeMap<usize, u64>);

impl Dropped {
    /// A reading of a log that begins at `start`.
    pub fn below(&self, start: u64) -> Reading {
        Reading::behind(self.0.iter().map(|(n, at)| (*n, *at)).filter(|(_, at)| *at < start))
    }
}

impl World {
    /// A leader makes a checkpoint of its table, and drops what nobody needs of its log.
    pub fn retain(&mut self, who: usize) -> Done {
        if !self.setup.retains {
            return Ok(());
        }
        let had = self.nodes.iter().map(|node| node.sure).min().unwrap_or(0);
        let keep = had.min(self.archived_to()?);
        let Role::Leads(led) = &self.nodes[who].role else { return Ok(()) };
        let log = Arc::clone(&led.log);
        let start = log.start();
        if keep <= start.0 {
            return Ok(());
        }
        let amiss = |e: tidelog::Error| format!("node {who} is read: {e}");
        let mut reading = self.dropped.below(start.0);
        let mut cursor = log.read_range(start..Offset(keep)).map_err(amiss)?;
        loop {
            match cursor.next() {
                Ok(Some(entry)) => {
                    reading.take(&self.book, &entry).map_err(|e| format!("node {who}: {e}"))?
                }
                Ok(None) => break,
                Err(_) if self.nodes[who].troubled => return Ok(()),
                Err(e) => return Err(amiss(e)),
            }
        }
        match drop_below(&log, keep) {
            Ok(files) => {
                self.stats.add("segments_dropped", files);
                self.note(&format!("node {who} dropped {files} segments"));
            }
            Err(error) => self.may_fail(who, "retains", &error)?,
        }
        // Also when a file could not be removed.
        let start = log.start().0;
        for (number, at) in reading.places().iter().filter(|(_, at)| **at < start) {
            let known = *self.dropped.0.entry(*number).or_insert(*at);
            if known != *at {
                return Err(format!(
                    "node {who} dropped batch {number} at offset {at}, another one at {known}"
                ));
            }
        }
        Ok(())
    }
}

/// How many segments went.
fn drop_below(log: &Log, keep: u64) -> Result<u64> {
    let table = Fixed::rows().open(log)?;
    table.checkpoint()?;
    drop(table);
    let policy = Retention {
        // Behind a node's last record there may be segments that it lacks and that hold none, of epochs that came to nothing.
        keep_from: Some(Offset(keep - 1)),
        table_is_only_copy: true,
        ..Retention::default()
    };
    Ok(log.retain(&policy)?.files.len() as u64)
}
