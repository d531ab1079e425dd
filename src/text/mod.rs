//! Records as text: the envelope, what can be ingested, ranges and units; slots as rows (feature `text`).
//!
//! Called by the command line and the fuzz targets; uses only the log, records and positions. Everything
//! here takes bytes from outside: nothing panics, and nothing is allocated beyond a line's limit.

mod csv;
mod envelope;
mod input;
mod range;
mod slots;
mod time;
mod units;

pub use envelope::{
    EnvelopeError, OwnedRecord, parse_entry, parse_envelope, write_envelope, write_json_bytes,
    write_record,
};
pub use input::{BadLine, Fields, Format, MAX_LINE_BYTES, Next, Reader};
pub use range::{Bound, Range, parse_at};
pub use slots::{SLOT_COLUMNS, cursor_row, slot_row};
pub use time::{TimeFormat, format_time, parse_time};
pub use units::{format_bytes, parse_bytes, parse_duration};
