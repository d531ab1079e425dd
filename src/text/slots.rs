//! What holds the log, as rows: retention slots and named cursors, the same from a directory as from
//! a node.
//!
//! Called by the server and by the command line.

use serde_json::{Map, Value, json};

use crate::log::{CursorState, SlotStatus};

use super::format_time;

/// The columns of a row, in their order.
pub const SLOT_COLUMNS: [&str; 10] = [
    "kind",
    "name",
    "node",
    "state",
    "offset",
    "log_byte",
    "held_bytes",
    "bytes_left",
    "last_seen",
    "expires",
];

fn row(values: [Value; SLOT_COLUMNS.len()]) -> Map<String, Value> {
    SLOT_COLUMNS.iter().map(|name| (*name).to_owned()).zip(values).collect()
}

/// A follower's slot; `log_byte` is the first that it needs, `offset` the next record it lacks.
pub fn slot_row(slot: &SlotStatus) -> Map<String, Value> {
    let claim = &slot.claim;
    row([
        "follower".into(),
        claim.name.clone().into(),
        claim.node.to_string().into(),
        slot.state.word().into(),
        claim.position.offset.0.into(),
        claim.needs.0.into(),
        slot.held_bytes.into(),
        json!(slot.bytes_left),
        format_time(slot.seen).into(),
        format_time(slot.expiry).into(),
    ])
}

/// A consumer's named cursor, which no cap ends.
pub fn cursor_row(cursor: &CursorState) -> Map<String, Value> {
    let (name, seen) = (cursor.name.clone().into(), format_time(cursor.time).into());
    let (offset, none) = (cursor.offset.0.into(), || Value::Null);
    let state = "reserved".into();
    row(["cursor".into(), name, none(), state, offset, none(), none(), none(), seen, none()])
}
