//! The rows as readers see them: a consistent view, point reads, and scans in key order.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, RwLockReadGuard};

use crate::position::{Offset, Position};

use super::Change;
use super::digest::Digest;

/// A key's latest record. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its value.
    pub value: Arc<[u8]>,
    /// The offset of the record that set it.
    pub offset: Offset,
    /// When, in nanoseconds since the Unix epoch.
    pub timestamp: i64,
}

/// All rows, and where they stand.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: BTreeMap<Box<[u8]>, Row>,
    applied: Option<Position>,
    lost: Vec<Range<Offset>>,
}

impl Rows {
    /// Makes changes, in order; `reached` is where the table stands afterwards.
    pub(super) fn change(
        &mut self,
        changes: Vec<Change>,
        reached: Option<Position>,
        lost: &[Range<Offset>],
    ) {
        for (key, row) in changes {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
        let Some(reached) = reached else { return };
        self.lost.extend(lost.iter().filter(|range| range.end <= reached.offset).cloned());
        self.applied = Some(reached);
    }
}

/// Which rows a scan wants. Keys are ordered as bytes.
///
/// ```
/// use tidelog::table::Scan;
/// let scan = Scan::all().prefix(b"sensor/").start(b"sensor/7").limit(100);
/// # let _ = scan;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    prefix: Vec<u8>,
    start: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
    limit: Option<usize>,
}

impl Scan {
    /// Every row.
    pub fn all() -> Self {
        Scan::default()
    }

    /// Only keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(mut self, prefix: &[u8]) -> Self {
        self.prefix = prefix.to_vec();
        self
    }

    /// Only keys at or behind `key`.
    #[must_use]
    pub fn start(mut self, key: &[u8]) -> Self {
        self.start = Some(key.to_vec());
        self
    }

    /// Only keys before `key`.
    #[must_use]
    pub fn end(mut self, key: &[u8]) -> Self {
        self.end = Some(key.to_vec());
        self
    }

    /// At most this many rows, the first in key order.
    #[must_use]
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = Some(rows);
        self
    }

    /// First key, and the key behind the last, if there is one.
    fn bounds(&self) -> (&[u8], Option<Vec<u8>>) {
        let start = self.start.as_deref().unwrap_or_default().max(&self.prefix);
        let mut after = self.prefix.clone();
        while after.pop_if(|last| *last == u8::MAX).is_some() {}
        let behind_prefix = after.last_mut().map(|last| *last += 1).map(|()| after);
        let end = match (self.end.clone(), behind_prefix) {
            (Some(end), Some(behind)) => Some(end.min(behind)),
            (end, behind) => end.or(behind),
        };
        (start, end)
    }
}

/// The table at one applied offset. Apply waits while it is held.
#[derive(Debug)]
pub struct View<'a> {
    rows: RwLockReadGuard<'a, Rows>,
}

impl<'a> View<'a> {
    pub(super) fn new(rows: RwLockReadGuard<'a, Rows>) -> Self {
        View { rows }
    }

    /// The latest record of `key`, unless there is none or it is a delete.
    pub fn get(&self, key: &[u8]) -> Option<Row> {
        self.rows.rows.get(key).cloned()
    }

    /// The rows that `scan` asks for, in key order.
    pub fn scan(&self, scan: &Scan) -> impl Iterator<Item = (&[u8], &Row)> {
        let (start, end) = scan.bounds();
        let behind = match &end {
            // A map does not take a range that ends before it starts.
            Some(end) => Bound::Excluded(end.as_slice().max(start)),
            None => Bound::Unbounded,
        };
        let rows = self.rows.rows.range::<[u8], _>((Bound::Included(start), behind));
        rows.take(scan.limit.unwrap_or(usize::MAX)).map(|(key, row)| (&**key, row))
    }

    /// How many keys have a row.
    pub fn len(&self) -> usize {
        self.rows.rows.len()
    }

    /// Whether no key has a row.
    pub fn is_empty(&self) -> bool {
        self.rows.rows.is_empty()
    }

    /// Behind the last record applied; `None` before the first.
    pub fn applied(&self) -> Option<Position> {
        self.rows.applied
    }

    /// Ranges of offsets that were lost to damage in the log.
    pub fn lost(&self) -> &[Range<Offset>] {
        &self.rows.lost
    }

    /// What tells this view's rows from others.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for (key, row) in &self.rows.rows {
            digest.add(key, row);
        }
        digest
    }
}
