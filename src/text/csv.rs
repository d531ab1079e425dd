//! CSV rows as JSON objects: the header's names, string values, in order.
//!
//! Parsing is the `csv-core` crate's, fed from a stream, so that a record's own bytes are known
//! (to be shown, to be skipped, to resume behind) and bounded.

use std::io::BufRead;

use csv_core::{ReadRecordResult, Reader};

use super::input::MAX_LINE_BYTES;

/// Reads one record after another from a stream.
pub(super) struct Rows {
    parser: Reader,
    /// The fields' bytes, unquoted, and where each ends.
    fields: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
}

/// What came next.
pub(super) enum Row {
    Record,
    End,
    TooLong,
}

impl Rows {
    pub(super) fn new() -> Self {
        Rows { parser: Reader::new(), fields: vec![0; 1024], ends: vec![0; 64], count: 0 }
    }

    /// Reads the next record; its raw bytes go to `raw`.
    pub(super) fn next(
        &mut self,
        input: &mut dyn BufRead,
        raw: &mut Vec<u8>,
    ) -> std::io::Result<Row> {
        raw.clear();
        let (mut out, mut end) = (0, 0);
        loop {
            let bytes = input.fill_buf()?;
            let at_end = bytes.is_empty();
            let (result, read, wrote, ended) =
                self.parser.read_record(bytes, &mut self.fields[out..], &mut self.ends[end..]);
            raw.extend_from_slice(&bytes[..read]);
            input.consume(read);
            out += wrote;
            end += ended;
            if raw.len() > MAX_LINE_BYTES {
                return Ok(Row::TooLong);
            }
            match result {
                ReadRecordResult::InputEmpty if at_end => {}
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => {
                    let len = self.fields.len() * 2;
                    self.fields.resize(len, 0);
                }
                ReadRecordResult::OutputEndsFull => {
                    let len = self.ends.len() * 2;
                    self.ends.resize(len, 0);
                }
                ReadRecordResult::Record => {
                    self.count = end;
                    return Ok(Row::Record);
                }
                ReadRecordResult::End => return Ok(Row::End),
            }
        }
    }

    /// The current record's fields.
    pub(super) fn fields(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.count).map(|i| {
            let start = if i == 0 { 0 } else { self.ends[i - 1] };
            &self.fields[start..self.ends[i]]
        })
    }
}
