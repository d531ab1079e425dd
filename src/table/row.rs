//! A key's latest record, as readers get it and as deltas and runs keep it.

use crate::position::Offset;

/// A key's latest record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its value.
    pub value: Vec<u8>,
    /// The offset of the record that set it.
    pub offset: Offset,
    /// When, in nanoseconds since the Unix epoch.
    pub timestamp: i64,
}

impl Row {
    /// The row, borrowed, with its key.
    pub fn as_ref<'a>(&'a self, key: &'a [u8]) -> RowRef<'a> {
        RowRef { key, value: &self.value, offset: self.offset, timestamp: self.timestamp }
    }
}

/// A row while a scan stands on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRef<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// The offset of the record that set it.
    pub offset: Offset,
    /// When, in nanoseconds since the Unix epoch.
    pub timestamp: i64,
}

impl RowRef<'_> {
    /// A copy without the key.
    pub fn to_row(&self) -> Row {
        Row { value: self.value.to_vec(), offset: self.offset, timestamp: self.timestamp }
    }
}

/// What a record did to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version<'a> {
    /// `None` for a delete.
    pub(super) value: Option<&'a [u8]>,
    pub(super) offset: Offset,
    pub(super) timestamp: i64,
}

impl Version<'_> {
    /// The row it makes; `None` for a delete.
    pub(super) fn to_row(self) -> Option<Row> {
        let value = self.value?.to_vec();
        Some(Row { value, offset: self.offset, timestamp: self.timestamp })
    }
}
