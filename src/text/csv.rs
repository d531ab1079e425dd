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
    /// Bytes and newlines of a record that is too long, beyond those that were kept.
    pub(super) dropped: u64,
    pub(super) dropped_lines: u64,
}

/// What came next.
pub(super) enum Row {
    Record,
    End,
    TooLong,
}

impl Rows {
    pub(super) fn new() -> Self {
        Rows {
            parser: Reader::new(),
            fields: vec![0; 1024],
            ends: vec![0; 64],
            count: 0,
            dropped: 0,
            dropped_lines: 0,
        }
    }

    /// Reads the next record; its raw bytes go to `raw`, as far as they are within the limit.
    pub(super) fn next(
        &mut self,
        input: &mut dyn BufRead,
        raw: &mut Vec<u8>,
    ) -> std::io::Result<Row> {
        raw.clear();
        (self.dropped, self.dropped_lines) = (0, 0);
        let (mut out, mut end) = (0, 0);
        loop {
            let bytes = input.fill_buf()?;
            let (result, read, wrote, ended) =
                self.parser.read_record(bytes, &mut self.fields[out..], &mut self.ends[end..]);
            if self.dropped > 0 || raw.len() + read > MAX_LINE_BYTES {
                // Read to its end all the same: what follows is the next record.
                self.dropped += read as u64;
                self.dropped_lines += newlines(&bytes[..read]);
                (out, end) = (0, 0);
            } else {
                raw.extend_from_slice(&bytes[..read]);
                out += wrote;
                end += ended;
            }
            input.consume(read);
            match result {
                ReadRecordResult::InputEmpty => {}
                // What is dropped goes over what was dropped before.
                ReadRecordResult::OutputFull if out > 0 => {
                    let len = self.fields.len() * 2;
                    self.fields.resize(len, 0);
                }
                ReadRecordResult::OutputEndsFull if end > 0 => {
                    let len = self.ends.len() * 2;
                    self.ends.resize(len, 0);
                }
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {}
                ReadRecordResult::Record if self.dropped > 0 => return Ok(Row::TooLong),
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

pub(super) fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&b| b == b'\n').count() as u64
}
