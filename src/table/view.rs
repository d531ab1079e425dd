//! The rows as readers see them: a consistent view, point reads, and scans in key order.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;

use crate::error::Result;
use crate::position::{Offset, Position};

use super::Change;
use super::digest::Digest;
use super::row::{Row, RowRef};
use super::scan::Scan;

/// All rows, and where they stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    rows: Arc<BTreeMap<Box<[u8]>, Row>>,
    applied: Option<Position>,
    lost: Vec<Range<Offset>>,
}

impl Shown {
    /// Makes changes, in order; `reached` is where the table stands afterwards.
    pub(super) fn change(
        &mut self,
        changes: Vec<Change>,
        reached: Option<Position>,
        lost: &[Range<Offset>],
    ) {
        let rows = Arc::make_mut(&mut self.rows);
        for (key, row) in changes {
            match row {
                Some(row) => rows.insert(key, row),
                None => rows.remove(&key),
            };
        }
        let Some(reached) = reached else { return };
        self.lost.extend(lost.iter().filter(|range| range.end <= reached.offset).cloned());
        self.applied = Some(reached);
    }
}

/// The table at one applied offset. Owned: apply goes on, and never changes it.
#[derive(Clone, Debug)]
pub struct View {
    shown: Shown,
}

impl View {
    pub(super) fn new(shown: Shown) -> Self {
        View { shown }
    }

    /// The latest record of `key`, unless there is none or it is a delete.
    pub fn get(&self, key: &[u8]) -> Result<Option<Row>> {
        Ok(self.shown.rows.get(key).cloned())
    }

    /// The same for each of `keys`, in their order.
    pub fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Row>>> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// The rows that `scan` asks for, in key order.
    pub fn scan(&self, scan: &Scan) -> Result<Rows> {
        let (start, end) = scan.bounds();
        let behind = match &end {
            // A map does not take a range that ends before it starts.
            Some(end) => Bound::Excluded(end.as_slice().max(&start)),
            None => Bound::Unbounded,
        };
        let mut rows: Vec<_> = self
            .shown
            .rows
            .range::<[u8], _>((Bound::Included(&*start), behind))
            .map(|(key, row)| (key.to_vec(), row.clone()))
            .collect();
        if scan.reverse {
            rows.reverse();
        }
        rows.truncate(scan.limit.unwrap_or(usize::MAX));
        Ok(Rows { rows: rows.into_iter(), current: None })
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
        Ok(self.shown.rows.len() as u64)
    }

    /// Whether no key has a row.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.scan(&Scan::all().limit(1))?.next()?.is_none())
    }

    /// About how many keys have a row, in constant time.
    pub fn len_estimate(&self) -> u64 {
        self.shown.rows.len() as u64
    }

    /// Behind the last record applied; `None` before the first.
    pub fn applied(&self) -> Option<Position> {
        self.shown.applied
    }

    /// Ranges of offsets that were lost to damage in the log.
    pub fn lost(&self) -> &[Range<Offset>] {
        &self.shown.lost
    }

    /// What tells this view's rows from others.
    pub fn digest(&self) -> Result<Digest> {
        let mut digest = Digest::default();
        let mut rows = self.scan(&Scan::all())?;
        while let Some(row) = rows.next()? {
            digest.add(&row);
        }
        Ok(digest)
    }
}

/// Rows of a [`View`], one after another. Made by [`View::scan`].
#[derive(Debug)]
pub struct Rows {
    rows: std::vec::IntoIter<(Vec<u8>, Row)>,
    current: Option<(Vec<u8>, Row)>,
}

impl Rows {
    /// The next row; `None` behind the last.
    #[expect(clippy::should_implement_trait, reason = "rows borrow from the scan")]
    pub fn next(&mut self) -> Result<Option<RowRef<'_>>> {
        self.current = self.rows.next();
        Ok(self.current.as_ref().map(|(key, row)| row.as_ref(key)))
    }
}
