//! Rows as they pass between the parts of the table.

use crate::position::Offset;

/// A key's latest record, owning its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its value.
    pub value: Vec<u8>,
    /// The offset of the record that set it.
    pub offset: Offset,
    /// When, in nanoseconds since the Unix epoch.
    pub timestamp: i64,
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

/// What a record did to its key: as deltas and runs keep it. `value: None` is a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version<'a> {
    pub(super) value: Option<&'a [u8]>,
    pub(super) offset: Offset,
    pub(super) timestamp: i64,
}
