//! Inputs: streams of lines, NDJSON, CSV or envelopes, as records.
//!
//! A reader hands out records one by one and knows, after each, its line and the input byte
//! behind it: that is what an error names and what an interrupted ingest resumes from. A bad line
//! is told apart from the end and from a failing stream, and reading goes on behind it.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use serde_json::value::RawValue;

use crate::record::{MAX_FRAME_BYTES, Op};

use super::csv::{Row, Rows, newlines};
use super::envelope::{OwnedRecord, parse_envelope};
use super::time::{TimeFormat, parse_time};

/// The longest line, or CSV record: what fits a frame.
pub const MAX_LINE_BYTES: usize = MAX_FRAME_BYTES;

/// What an input is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Each line is the value of an event without a key; with a delimiter, what stands before its
    /// first occurrence is a key, and the line becomes a put.
    Lines {
        /// Splits a key off.
        key_delim: Option<String>,
    },
    /// Each line is a JSON object, stored whole.
    Ndjson(Fields),
    /// A header, then rows; each becomes a JSON object with the header's names.
    Csv(Fields),
    /// Each line is an envelope.
    Envelope,
}

/// Which fields of an object or row mean something to the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// The key; without it records are events.
    pub key: Option<String>,
    /// The timestamp.
    pub ts: Option<String>,
    /// How the timestamp is written.
    pub ts_format: TimeFormat,
    /// The operation: `put`, `delete` or `event`.
    pub op: Option<String>,
    /// Makes every record an event, keyed or not.
    pub event: bool,
}

/// A line that is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: u64,
    /// The input byte at which it starts.
    pub byte: u64,
    /// What was expected and found.
    pub why: String,
}

/// What a reader comes to next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A record: see [`Reader::record`].
    Record,
    /// A bad line: see [`Reader::raw`].
    Bad(BadLine),
    /// The end of the input.
    End,
}

/// Reads records from a stream.
pub struct Reader<R> {
    input: R,
    format: Format,
    rows: Option<Rows>,
    header: Vec<String>,
    raw: Vec<u8>,
    record: OwnedRecord,
    line: u64,
    byte: u64,
}

impl<R: BufRead> Reader<R> {
    /// A reader of `input`.
    pub fn new(input: R, format: Format) -> Self {
        let rows = matches!(format, Format::Csv(_)).then(Rows::new);
        let record = OwnedRecord { op: Op::Event, key: None, value: Vec::new(), timestamp: None };
        Reader {
            input,
            format,
            rows,
            header: Vec::new(),
            raw: Vec::new(),
            record,
            line: 0,
            byte: 0,
        }
    }

    /// The record that was read last.
    pub fn record(&self) -> &OwnedRecord {
        &self.record
    }

    /// The bytes of the line that was read last, with its newline.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The input byte behind the line that was read last.
    pub fn byte(&self) -> u64 {
        self.byte
    }

    /// The number of the line that was read last, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The stream underneath; for one that can say whether it would wait.
    pub fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// The columns of a CSV input, once its header was read.
    pub fn columns(&self) -> &[String] {
        &self.header
    }

    /// Goes to the next line. An error is the stream's own.
    #[expect(clippy::should_implement_trait, reason = "records are lent, not given")]
    pub fn next(&mut self) -> std::io::Result<Next> {
        loop {
            let mut start = self.byte;
            let mut at = self.line + 1;
            let too_long =
                || format!("expected a line of at most {MAX_LINE_BYTES} bytes, found a longer one");
            if let Some(rows) = &mut self.rows {
                let row = rows.next(&mut self.input, &mut self.raw)?;
                let (dropped, dropped_lines) = (rows.dropped, rows.dropped_lines);
                // Blank lines come with the row behind them.
                let blank = self.raw.iter().take_while(|b| matches!(b, b'\n' | b'\r')).count();
                start += blank as u64;
                at += newlines(&self.raw[..blank]);
                self.advance();
                if dropped > 0 {
                    self.byte += dropped;
                    // What was kept does not end its line: `advance` counted one for that.
                    self.line = at - 1 + newlines(&self.raw[blank..]) + dropped_lines;
                }
                match row {
                    Row::End => return Ok(Next::End),
                    Row::TooLong => {
                        return Ok(Next::Bad(BadLine { line: at, byte: start, why: too_long() }));
                    }
                    Row::Record => {}
                }
            } else {
                match self.read_line()? {
                    0 => return Ok(Next::End),
                    n if n > MAX_LINE_BYTES => {
                        self.skip_line()?;
                        self.advance();
                        return Ok(Next::Bad(BadLine { line: at, byte: start, why: too_long() }));
                    }
                    _ => self.advance(),
                }
            }
            match self.parse() {
                Ok(true) => return Ok(Next::Record),
                // A CSV header, or a blank line of NDJSON.
                Ok(false) => {}
                Err(why) => return Ok(Next::Bad(BadLine { line: at, byte: start, why })),
            }
        }
    }

    fn advance(&mut self) {
        self.byte += self.raw.len() as u64;
        let open = self.raw.last().is_some_and(|&b| b != b'\n');
        self.line += newlines(&self.raw) + u64::from(open);
    }

    fn read_line(&mut self) -> std::io::Result<usize> {
        self.raw.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        self.input.by_ref().take(limit).read_until(b'\n', &mut self.raw)
    }

    /// The rest of a line that is too long is counted, not kept.
    fn skip_line(&mut self) -> std::io::Result<()> {
        while self.raw.last() != Some(&b'\n') {
            let bytes = self.input.fill_buf()?;
            if bytes.is_empty() {
                break;
            }
            let end = bytes.iter().position(|&b| b == b'\n');
            let take = end.map_or(bytes.len(), |at| at + 1);
            self.byte += take as u64;
            let done = end.is_some();
            self.input.consume(take);
            if done {
                break;
            }
        }
        Ok(())
    }

    /// Turns the line into a record; `false` when it is none and that is fine.
    fn parse(&mut self) -> Result<bool, String> {
        let line = trim_newline(&self.raw);
        match &self.format {
            Format::Lines { key_delim } => {
                self.record = lines(line, key_delim.as_deref())?;
                Ok(true)
            }
            Format::Envelope | Format::Ndjson(_) if line.trim_ascii().is_empty() => Ok(false),
            Format::Envelope => {
                self.record = parse_envelope(line)?;
                Ok(true)
            }
            Format::Ndjson(fields) => {
                self.record = ndjson(line, fields)?;
                Ok(true)
            }
            Format::Csv(fields) => {
                let rows = self.rows.as_ref().expect("made with the format");
                if self.header.is_empty() {
                    self.header = header(rows, fields)?;
                    return Ok(false);
                }
                row(rows, &self.header, fields, &mut self.record)?;
                Ok(true)
            }
        }
    }
}

fn trim_newline(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn lines(line: &[u8], key_delim: Option<&str>) -> Result<OwnedRecord, String> {
    let event = |value: &[u8]| OwnedRecord {
        op: Op::Event,
        key: None,
        value: value.to_vec(),
        timestamp: None,
    };
    let Some(delim) = key_delim.filter(|delim| !delim.is_empty()) else { return Ok(event(line)) };
    let delim = delim.as_bytes();
    let at = line.windows(delim.len()).position(|window| window == delim);
    let Some(at) = at.filter(|&at| at > 0) else {
        return Err(format!(
            "expected a key before {:?}, found none",
            String::from_utf8_lossy(delim)
        ));
    };
    Ok(OwnedRecord {
        op: Op::Put,
        key: Some(line[..at].to_vec()),
        ..event(&line[at + delim.len()..])
    })
}

fn ndjson(line: &[u8], fields: &Fields) -> Result<OwnedRecord, String> {
    let object: BTreeMap<String, &RawValue> = serde_json::from_slice(line)
        .map_err(|e| format!("expected a JSON object on one line: {e}"))?;
    let mut found = |name: &str| -> Result<Option<String>, String> {
        let Some(raw) = object.get(name).map(|raw| raw.get()) else { return Ok(None) };
        match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw).map(Some).map_err(|e| e.to_string()),
            Some(b'{' | b'[') => {
                Err(format!("expected text or a number in field {name:?}, found {raw}"))
            }
            _ if raw == "null" => Ok(None),
            // A number's or a boolean's own text.
            _ => Ok(Some(raw.to_owned())),
        }
    };
    record(fields, &mut found, line.to_vec())
}

fn record(
    fields: &Fields,
    found: &mut dyn FnMut(&str) -> Result<Option<String>, String>,
    value: Vec<u8>,
) -> Result<OwnedRecord, String> {
    let key = match &fields.key {
        None => None,
        Some(name) => match found(name)? {
            Some(key) if !key.is_empty() => Some(key.into_bytes()),
            Some(_) => return Err(format!("expected a key in field {name:?}, found an empty one")),
            None => return Err(format!("expected a key in field {name:?}, found no such field")),
        },
    };
    let timestamp = match &fields.ts {
        None => None,
        Some(name) => {
            let text = found(name)?
                .ok_or_else(|| format!("expected a time in field {name:?}, found none"))?;
            Some(parse_time(&text, fields.ts_format).map_err(|e| format!("field {name:?}: {e}"))?)
        }
    };
    let op = match &fields.op {
        Some(name) => match found(name)?.as_deref() {
            Some("put") => Op::Put,
            Some("delete") => Op::Delete,
            Some("event") => Op::Event,
            other => {
                return Err(format!(
                    "expected put, delete or event in field {name:?}, found {}",
                    other.map_or("nothing".to_owned(), |text| format!("{text:?}"))
                ));
            }
        },
        None if fields.event || key.is_none() => Op::Event,
        None => Op::Put,
    };
    if op != Op::Event && key.is_none() {
        return Err(format!("expected a key for a {}, found none", op.as_str()));
    }
    let value = if op == Op::Delete { Vec::new() } else { value };
    Ok(OwnedRecord { op, key, value, timestamp })
}

fn header(rows: &Rows, fields: &Fields) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for name in rows.fields() {
        let name = std::str::from_utf8(name)
            .map_err(|_| "expected column names in UTF-8".to_owned())?
            // What some programs put in front of UTF-8.
            .trim_start_matches('\u{feff}');
        if names.iter().any(|other| other == name) {
            return Err(format!("expected different column names, found {name:?} twice"));
        }
        names.push(name.to_owned());
    }
    for wanted in [&fields.key, &fields.ts, &fields.op].into_iter().flatten() {
        if !names.contains(wanted) {
            return Err(format!(
                "expected a column {wanted:?}, found the columns {}",
                names.join(", ")
            ));
        }
    }
    Ok(names)
}

fn row(
    rows: &Rows,
    header: &[String],
    fields: &Fields,
    into: &mut OwnedRecord,
) -> Result<(), String> {
    if rows.fields().len() != header.len() {
        return Err(format!(
            "expected {} fields, as the header has, found {}",
            header.len(),
            rows.fields().len()
        ));
    }
    let mut value = Vec::with_capacity(into.value.len() + 64);
    for (i, (name, field)) in header.iter().zip(rows.fields()).enumerate() {
        let field = std::str::from_utf8(field)
            .map_err(|_| format!("expected UTF-8 in column {name:?}, found other bytes"))?;
        value.push(if i == 0 { b'{' } else { b',' });
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut value, name);
        value.push(b':');
        let _ = serde_json::to_writer(&mut value, field);
    }
    value.push(b'}');
    let mut found = |name: &str| -> Result<Option<String>, String> {
        let at = header.iter().position(|column| column == name);
        let field = at.and_then(|at| rows.fields().nth(at));
        Ok(field.map(|field| String::from_utf8_lossy(field).into_owned()))
    };
    *into = record(fields, &mut found, value)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Seen = (Vec<(Op, Option<String>, String, Option<i64>)>, Vec<BadLine>, u64);

    fn read(text: &str, format: Format) -> Seen {
        let mut reader = Reader::new(text.as_bytes(), format);
        let (mut records, mut bad) = (Vec::new(), Vec::new());
        loop {
            match reader.next().unwrap() {
                Next::Record => {
                    let r = reader.record();
                    let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
                    records.push((r.op, r.key.as_deref().map(text), text(&r.value), r.timestamp));
                }
                Next::Bad(line) => bad.push(line),
                Next::End => return (records, bad, reader.byte()),
            }
        }
    }

    fn fields(key: &str) -> Fields {
        Fields { key: Some(key.into()), ..Fields::default() }
    }

    #[test]
    fn lines_become_events_and_puts_with_a_delimiter() {
        let (records, bad, byte) = read("a\r\n\nb", Format::Lines { key_delim: None });
        let values: Vec<_> = records.iter().map(|r| r.2.as_str()).collect();
        assert_eq!((values, bad.len(), byte), (vec!["a", "", "b"], 0, 5));
        let (records, bad, _) =
            read("k=v=w\n=x\nno\n", Format::Lines { key_delim: Some("=".into()) });
        assert_eq!(records, [(Op::Put, Some("k".into()), "v=w".into(), None)]);
        assert_eq!(bad.iter().map(|b| (b.line, b.byte)).collect::<Vec<_>>(), [(2, 6), (3, 9)]);
    }

    #[test]
    fn ndjson_is_stored_whole_and_keyed_by_a_field() {
        let format = Format::Ndjson(Fields {
            ts: Some("t".into()),
            ts_format: TimeFormat::Millis,
            ..fields("id")
        });
        let text = "{\"id\": \"a\", \"t\": 5}\n\n{\"id\":7,\"t\":6}\n{\"t\":6}\n{\"id\":\"\",\"t\":1}\nnope\n{\"id\":[1],\"t\":1}\n{\"id\":\"z\",\"t\":\"x\"}\n";
        let (records, bad, _) = read(text, format);
        assert_eq!(
            records,
            [
                (Op::Put, Some("a".into()), "{\"id\": \"a\", \"t\": 5}".into(), Some(5_000_000)),
                (Op::Put, Some("7".into()), "{\"id\":7,\"t\":6}".into(), Some(6_000_000)),
            ]
        );
        assert_eq!(bad.iter().map(|b| b.line).collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
        assert!(bad.iter().all(|b| b.why.contains("expected")), "{bad:?}");
    }

    #[test]
    fn csv_rows_become_objects_and_odd_rows_are_bad_lines() {
        let text = "id,note\n1,\"two\nlines, \"\"quoted\"\"\"\n2\n,x\n3,z";
        let (records, bad, byte) = read(text, Format::Csv(fields("id")));
        assert_eq!(
            records,
            [
                (
                    Op::Put,
                    Some("1".into()),
                    r#"{"id":"1","note":"two\nlines, \"quoted\""}"#.into(),
                    None
                ),
                (Op::Put, Some("3".into()), r#"{"id":"3","note":"z"}"#.into(), None),
            ]
        );
        assert_eq!(bad.iter().map(|b| b.line).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(byte, text.len() as u64);
    }

    #[test]
    fn an_unknown_column_is_said_with_those_there_are() {
        let (records, bad, _) = read("a,b\n1,2\n", Format::Csv(fields("id")));
        assert_eq!(records.len(), 0);
        assert!(bad[0].why.contains("a, b"), "{bad:?}");
    }

    #[test]
    fn operations_can_come_from_a_field() {
        let format = Format::Ndjson(Fields { op: Some("op".into()), ..fields("k") });
        let text = "{\"k\":\"a\",\"op\":\"delete\"}\n{\"k\":\"b\",\"op\":\"event\"}\n{\"k\":\"b\",\"op\":\"no\"}\n";
        let (records, bad, _) = read(text, format);
        assert_eq!(records[0], (Op::Delete, Some("a".into()), String::new(), None));
        assert_eq!(records[1].0, Op::Event);
        assert_eq!(bad.len(), 1);
    }

    #[test]
    fn a_line_beyond_the_limit_is_bad_and_the_next_one_is_read() {
        let mut text = vec![b'x'; MAX_LINE_BYTES + 5];
        text.extend_from_slice(b"\nshort\n");
        let mut reader = Reader::new(&text[..], Format::Lines { key_delim: None });
        assert!(matches!(reader.next().unwrap(), Next::Bad(BadLine { line: 1, byte: 0, .. })));
        assert_eq!(reader.next().unwrap(), Next::Record);
        assert_eq!((&reader.record().value[..], reader.line()), (&b"short"[..], 2));
    }

    #[test]
    fn a_csv_record_beyond_the_limit_is_one_bad_line_and_the_next_one_is_read() {
        // Its rest once came back as a row of its own, with as many fields as the header has.
        let mut text = b"a,b\n\n\"".to_vec();
        text.resize(MAX_LINE_BYTES + 100_000, b'x');
        text.extend_from_slice(b"\n\",y,z\n1,2\n");
        let mut reader = Reader::new(&text[..], Format::Csv(Fields::default()));
        assert!(matches!(reader.next().unwrap(), Next::Bad(BadLine { line: 3, byte: 5, .. })));
        assert_eq!(reader.next().unwrap(), Next::Record);
        assert_eq!(reader.record().value, br#"{"a":"1","b":"2"}"#);
        assert_eq!((reader.line(), reader.byte()), (5, text.len() as u64));
        assert_eq!(reader.next().unwrap(), Next::End);
    }
}
