//! The rows as readers see them: a consistent view, point reads, and scans in key order.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::Result;
use crate::position::{Offset, Position};

use super::digest::Digest;
use super::layers::Shown;
use super::merge::Merge;
use super::row::{Row, RowRef};
use super::scan::Scan;

/// The table at one applied offset. Owned: apply goes on, and never changes it. What it shows
/// stays in memory, or on disk, as long as it lives.
#[derive(Clone, Debug)]
pub struct View {
    pub(super) shown: Shown,
}

impl View {
    /// The latest record of `key`, unless there is none or it is a delete.
    pub fn get(&self, key: &[u8]) -> Result<Option<Row>> {
        self.shown.get(key)
    }

    /// The same for each of `keys`, in their order.
    pub fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Row>>> {
        self.shown.get_many(keys)
    }

    /// The rows that `scan` asks for, in key order.
    pub fn scan(&self, scan: &Scan) -> Result<Rows> {
        let (start, end) = scan.bounds();
        let mut merge = self.shown.merge(scan.reverse);
        let stop = if scan.reverse {
            merge.seek(end.as_deref())?;
            Some(start)
        } else {
            merge.seek(Some(&start))?;
            end
        };
        Ok(Rows {
            merge,
            stop,
            reverse: scan.reverse,
            left: scan.limit.unwrap_or(usize::MAX),
            fresh: true,
        })
    }

    /// The rows with keys in `keys`, in order.
    pub fn range(&self, keys: Range<&[u8]>) -> Result<Rows> {
        self.scan(&Scan::all().start(keys.start).end(keys.end))
    }

    /// The rows with keys that begin with `prefix`, in order.
    pub fn prefix(&self, prefix: &[u8]) -> Result<Rows> {
        self.scan(&Scan::all().prefix(prefix))
    }

    /// The rows that `scan` asks for, with their keys, copied: for those that fit memory.
    pub fn collect(&self, scan: &Scan) -> Result<Vec<(Vec<u8>, Row)>> {
        let mut rows = self.scan(scan)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push((row.key.to_vec(), row.to_row()));
        }
        Ok(all)
    }

    /// How many keys have a row: a walk over all of them.
    pub fn len(&self) -> Result<u64> {
        let count = |mut rows: Rows| {
            let mut count = 0;
            while rows.next()?.is_some() {
                count += 1;
            }
            Ok(count)
        };
        Ok(self.in_pieces(count)?.into_iter().sum())
    }

    /// Whether no key has a row.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.scan(&Scan::all().limit(1))?.next()?.is_none())
    }

    /// About how many keys have a row, in constant time; never too few. Keys that changed since
    /// the oldest run was written count once in each layer that has them.
    pub fn len_estimate(&self) -> u64 {
        self.shown.rows_at_most()
    }

    /// About how many rows it has at least: those of its largest layer, deleted ones included.
    #[cfg(feature = "server")]
    pub(crate) fn rows_of_largest(&self) -> u64 {
        self.shown.rows_of_largest()
    }

    /// Behind the last record applied; `None` before the first.
    pub fn applied(&self) -> Option<Position> {
        self.shown.applied
    }

    /// Ranges of offsets that were lost to damage in the log: the table may lack what they set
    /// or show what they removed.
    pub fn lost(&self) -> &[Range<Offset>] {
        &self.shown.lost
    }

    /// What tells this view's rows from others, whatever shape they are kept in; see [`Digest`].
    /// A walk over all of them, on all cores.
    pub fn digest(&self) -> Result<Digest> {
        let add = |mut rows: Rows| {
            let mut digest = Digest::default();
            while let Some(row) = rows.next()? {
                digest.add(&row);
            }
            Ok(digest)
        };
        let mut digest = Digest::default();
        for part in self.in_pieces(add)? {
            digest.join(&part);
        }
        Ok(digest)
    }

    /// Does something with all rows, cut where the largest run's sections begin, side by side.
    fn in_pieces<T: Send>(&self, work: impl Fn(Rows) -> Result<T> + Sync) -> Result<Vec<T>> {
        let runs = &self.shown.layers.runs;
        let largest = runs.iter().map(|part| &part.run).max_by_key(|run| run.rows());
        let mut cuts: Vec<Vec<u8>> = vec![Vec::new()];
        if let Some(run) = largest {
            cuts.extend(run.section_keys().skip(1).map(<[u8]>::to_vec));
        }
        let pieces: Vec<Scan> = cuts
            .iter()
            .enumerate()
            .map(|(i, start)| match cuts.get(i + 1) {
                Some(end) => Scan::all().start(start).end(end),
                None => Scan::all().start(start),
            })
            .collect();
        pieces.par_iter().map(|scan| work(self.scan(scan)?)).collect()
    }
}

/// Rows of a [`View`], one after another. Made by [`View::scan`].
#[derive(Debug)]
pub struct Rows {
    merge: Merge,
    /// Forward: the key behind the last. Reverse: the last key itself.
    stop: Option<Vec<u8>>,
    reverse: bool,
    left: usize,
    /// Whether the row that the merge stands on was not handed out yet.
    fresh: bool,
}

impl Rows {
    /// The next row; `None` behind the last. An error names the damage; the scan cannot go on
    /// behind it.
    #[expect(clippy::should_implement_trait, reason = "rows borrow from the scan")]
    pub fn next(&mut self) -> Result<Option<RowRef<'_>>> {
        if self.left == 0 {
            return Ok(None);
        }
        if !self.fresh {
            self.merge.advance()?;
        }
        loop {
            let delete = self.merge.delete();
            if delete.is_none() || self.is_behind_the_last() {
                self.left = 0;
                return Ok(None);
            }
            if delete == Some(false) {
                break;
            }
            self.merge.advance()?;
        }
        self.left -= 1;
        self.fresh = false;
        let (key, version) = self.merge.current().expect("it stands on a row");
        let value = version.value.expect("deletes were passed over");
        Ok(Some(RowRef { key, value, offset: version.offset, timestamp: version.timestamp }))
    }

    #[inline]
    fn is_behind_the_last(&self) -> bool {
        let (Some(stop), Some((key, _))) = (&self.stop, self.merge.current()) else { return false };
        if self.reverse { key < stop.as_slice() } else { key >= stop.as_slice() }
    }
}
