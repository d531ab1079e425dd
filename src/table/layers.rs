//! What a table is made of at one moment: a delta, frozen deltas, runs.
//!
//! ```text
//! newest  active delta │ frozen deltas │ run │ run │ … │ oldest run
//! ```
//!
//! Built anew, by copying a few pointers, whenever a delta freezes or a run comes or goes; shared
//! by all views of that moment. Invariant: a key's latest version is in the first layer that has
//! one; a delete in it hides what older layers hold.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::error::Result;
use crate::fs::File;
use crate::position::{Offset, Position};

use super::delta::Delta;
use super::filter;
use super::merge::{Merge, Source};
use super::row::Row;
use super::run::{Ask, Run};

/// Runs whose filters are asked side by side.
const AT_ONCE: usize = 8;

/// A run of this table.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) run: Arc<Run>,
    /// What wrote it, until it is synced: through the descriptor that wrote.
    pub(super) unsynced: Mutex<Option<Arc<dyn File>>>,
}

/// The table's layers, newest first.
#[derive(Debug)]
pub(super) struct Layers {
    pub(super) active: Arc<Delta>,
    pub(super) frozen: Vec<Arc<Delta>>,
    pub(super) runs: Vec<Arc<Part>>,
}

/// Layers, and the one offset they are seen at.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) layers: Arc<Layers>,
    pub(super) applied: Option<Position>,
    pub(super) lost: Arc<[Range<Offset>]>,
}

impl Shown {
    /// Versions at or behind this are not seen.
    pub(super) fn below(&self) -> Offset {
        self.applied.map_or(Offset(0), |position| position.offset)
    }

    /// Deltas with keys, newest first: to look into an empty one costs as much as into another.
    fn deltas(&self) -> impl Iterator<Item = &Arc<Delta>> {
        let layers = &*self.layers;
        let deltas = std::iter::once(&layers.active).chain(&layers.frozen);
        deltas.filter(|delta| delta.keys() > 0)
    }

    /// The row of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Row>> {
        let below = self.below();
        // While deltas' slots are on their way, runs are asked: each look waits for memory.
        self.deltas().for_each(|delta| delta.prefetch(key));
        let asked = self.ask(key);
        for delta in self.deltas() {
            if let Some(version) = delta.get(key, below) {
                return Ok(version.to_row());
            }
        }
        self.get_from_runs(key, asked)
    }

    /// The newest runs' filters on `key`, and its hash.
    #[inline]
    fn ask(&self, key: &[u8]) -> (u64, [Ask<'_>; AT_ONCE]) {
        let mut asks = [Ask::NOWHERE; AT_ONCE];
        if self.layers.runs.is_empty() {
            return (0, asks);
        }
        let hash = filter::hash(key);
        for (ask, part) in asks.iter_mut().zip(&self.layers.runs) {
            *ask = part.run.ask(key, hash);
        }
        (hash, asks)
    }

    #[inline]
    fn get_from_runs(
        &self,
        key: &[u8],
        (hash, mut asks): (u64, [Ask<'_>; AT_ONCE]),
    ) -> Result<Option<Row>> {
        for (i, runs) in self.layers.runs.chunks(AT_ONCE).enumerate() {
            if i > 0 {
                for (ask, part) in asks.iter_mut().zip(runs) {
                    *ask = part.run.ask(key, hash);
                }
            }
            for (ask, part) in asks.into_iter().zip(runs) {
                if let Some(found) = part.run.get_asked(ask, key, hash)? {
                    return Ok(found.version().to_row());
                }
            }
        }
        Ok(None)
    }

    /// The rows of `keys`; in deltas, what several need is fetched together.
    pub(super) fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Row>>> {
        let below = self.below();
        let mut rows = vec![None; keys.len()];
        let mut left: Vec<usize> = (0..keys.len()).collect();
        for delta in self.deltas() {
            let wanted: Vec<&[u8]> = left.iter().map(|&i| keys[i]).collect();
            let mut missing = Vec::new();
            delta.get_many(&wanted, below, |i, version| match version {
                Some(version) => rows[left[i]] = version.to_row(),
                None => missing.push(left[i]),
            });
            left = missing;
        }
        for i in left {
            rows[i] = self.get_from_runs(keys[i], self.ask(keys[i]))?;
        }
        Ok(rows)
    }

    /// All layers in key order, deletes included.
    pub(super) fn merge(&self, reverse: bool) -> Merge {
        let below = self.below();
        let deltas = self.deltas().map(|delta| Source::Delta(delta.cursor(below, reverse)));
        let runs = self.layers.runs.iter().map(|part| Source::Run(part.run.cursor(reverse)));
        Merge::new(deltas.chain(runs).collect(), reverse)
    }

    /// Keys of the layer that has the most; unless some are deleted, the table has at least so many.
    #[cfg(feature = "server")]
    pub(super) fn rows_of_largest(&self) -> u64 {
        let deltas = self.deltas().map(|delta| delta.keys() as u64);
        deltas.chain(self.layers.runs.iter().map(|part| part.run.rows())).max().unwrap_or(0)
    }

    /// Rows there may be at most.
    pub(super) fn rows_at_most(&self) -> u64 {
        self.deltas().map(|delta| delta.keys() as u64).sum::<u64>()
            + self.layers.runs.iter().map(|part| part.run.rows()).sum::<u64>()
    }
}
