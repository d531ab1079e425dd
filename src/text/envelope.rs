//! The envelope: one record as one line of JSON, without loss.
//!
//! ```text
//! {"offset":42,"epoch":1,"ts":"2026-11-23T04:00:00.123456789Z","op":"put","key":"k","value":"v"}
//! ```
//!
//! Bytes that are not UTF-8 stand as `key_b64` and `value_b64`. A delete has no value; an event
//! may have no key, which is not the same as an empty one.

use std::borrow::Cow;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::log::{Entry, OwnedEntry};
use crate::position::Offset;
use crate::record::{Op, Record};

use super::time::{TimeFormat, format_time, parse_time};

/// A record that owns its bytes, reused from line to line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// What it does.
    pub op: Op,
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Vec<u8>,
    /// Nanoseconds since the Unix epoch, if the input said so.
    pub timestamp: Option<i64>,
}

impl OwnedRecord {
    /// The record, borrowed.
    pub fn as_record(&self) -> Record<'_> {
        Record {
            op: self.op,
            key: self.key.as_deref(),
            value: &self.value,
            timestamp: self.timestamp,
        }
    }
}

/// What is wrong with a line.
pub type EnvelopeError = String;

/// Appends an entry's envelope to `out`, without the newline.
pub fn write_envelope(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let record = &entry.record;
    let _ = write!(
        out,
        "{{\"offset\":{},\"epoch\":{},\"ts\":\"{}\",",
        entry.offset,
        entry.epoch,
        format_time(entry.timestamp),
    );
    write_body(record, out);
}

/// Appends the envelope of a record that is to be appended: without a place, and with a time only if it has
/// one of its own.
pub fn write_record(record: &Record<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    if let Some(timestamp) = record.timestamp {
        let _ = write!(out, "\"ts\":\"{}\",", format_time(timestamp));
    }
    write_body(record, out);
}

/// What every envelope ends with.
fn write_body(record: &Record<'_>, out: &mut Vec<u8>) {
    let _ = write!(out, "\"op\":\"{}\"", record.op.as_str());
    if let Some(key) = record.key {
        write_json_bytes("key", key, out);
    }
    if record.op != Op::Delete {
        write_json_bytes("value", record.value, out);
    }
    out.push(b'}');
}

/// Appends `,"name":"text"`, or `,"name_b64":"…"` for bytes that are no text.
pub fn write_json_bytes(name: &str, bytes: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            let _ = write!(out, ",\"{name}\":");
            // Writing to memory does not fail.
            let _ = serde_json::to_writer(&mut *out, text);
        }
        Err(_) => {
            let _ = write!(out, ",\"{name}_b64\":\"{}\"", STANDARD.encode(bytes));
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    offset: Option<u64>,
    epoch: Option<u64>,
    #[serde(borrow)]
    ts: Option<Cow<'a, str>>,
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key_b64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value_b64: Option<Cow<'a, str>>,
}

/// Reads an envelope. Offset and epoch are the old log's and are not kept.
pub fn parse_envelope(line: &[u8]) -> Result<OwnedRecord, EnvelopeError> {
    record(parse(line)?)
}

/// Reads an envelope together with its place in the log that it came from: what
/// [`write_envelope`] was given.
pub fn parse_entry(line: &[u8]) -> Result<OwnedEntry, EnvelopeError> {
    let line = parse(line)?;
    let lacks = |what: &str| format!("expected an envelope with its {what}, found none");
    let offset = line.offset.ok_or_else(|| lacks("offset"))?;
    let epoch = line.epoch.ok_or_else(|| lacks("epoch"))?;
    let record = record(line)?;
    let timestamp = record.timestamp.ok_or_else(|| lacks("ts"))?;
    let entry = Entry { offset: Offset(offset), epoch, timestamp, record: record.as_record() };
    Ok(entry.to_owned())
}

fn parse(line: &[u8]) -> Result<Line<'_>, EnvelopeError> {
    serde_json::from_slice(line)
        .map_err(|e| format!("expected an envelope, found JSON that is none: {e}"))
}

fn record(line: Line<'_>) -> Result<OwnedRecord, EnvelopeError> {
    let op = match &*line.op {
        "put" => Op::Put,
        "delete" => Op::Delete,
        "event" => Op::Event,
        other => return Err(format!("expected op put, delete or event, found {other:?}")),
    };
    let key = bytes("key", line.key, line.key_b64)?;
    let value = bytes("value", line.value, line.value_b64)?;
    if op != Op::Event && key.is_none() {
        return Err(format!("expected a key in a {}, found none", op.as_str()));
    }
    let value = match (op, value) {
        (Op::Delete, Some(_)) => return Err("expected a delete without a value".into()),
        (Op::Delete, None) => Vec::new(),
        (_, Some(value)) => value,
        (_, None) => return Err(format!("expected a value in a {}, found none", op.as_str())),
    };
    let timestamp = line.ts.map(|ts| parse_time(&ts, TimeFormat::Rfc3339)).transpose()?;
    Ok(OwnedRecord { op, key, value, timestamp })
}

fn bytes(
    name: &str,
    text: Option<Cow<'_, str>>,
    encoded: Option<Cow<'_, str>>,
) -> Result<Option<Vec<u8>>, String> {
    match (text, encoded) {
        (Some(_), Some(_)) => Err(format!("expected {name} or {name}_b64, found both")),
        (Some(text), None) => Ok(Some(text.into_owned().into_bytes())),
        (None, Some(encoded)) => STANDARD
            .decode(encoded.as_bytes())
            .map(Some)
            .map_err(|e| format!("expected base64 in {name}_b64: {e}")),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(record: Record<'_>) -> OwnedRecord {
        let entry = Entry { offset: Offset(42), epoch: 1, timestamp: 1_500_000_007, record };
        let mut line = Vec::new();
        write_envelope(&entry, &mut line);
        let whole = parse_entry(&line).unwrap();
        assert_eq!((whole.offset, whole.epoch), (Offset(42), 1));
        assert_eq!(whole.record(), record.at(1_500_000_007));
        parse_envelope(&line).unwrap()
    }

    #[test]
    fn every_kind_of_record_survives_the_envelope() {
        for record in [
            Record::put(b"k", b"v"),
            Record::put(b"", b""),
            Record::put(b"\xff\x00", b"\xfe"),
            Record::put("\u{1F600}\"\\\n".as_bytes(), b"{\"a\":1}"),
            Record::delete(b"k"),
            Record::event(b""),
            Record::keyed_event(b"", b"x"),
        ] {
            let back = there_and_back(record);
            assert_eq!(back.as_record(), record.at(1_500_000_007));
        }
    }

    #[test]
    fn the_documented_line_is_what_is_written() {
        let mut line = Vec::new();
        let record = Record::put(b"k", b"v");
        let timestamp = parse_time("2026-11-23T04:00:00.123456789Z", TimeFormat::Rfc3339).unwrap();
        write_envelope(&Entry { offset: Offset(42), epoch: 1, timestamp, record }, &mut line);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"{"offset":42,"epoch":1,"ts":"2026-11-23T04:00:00.123456789Z","op":"put","key":"k","value":"v"}"#
        );
    }

    #[test]
    fn bad_envelopes_say_what_was_expected() {
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"op":"put","value":"v"}"#,
            r#"{"op":"put","key":"k"}"#,
            r#"{"op":"delete","key":"k","value":"v"}"#,
            r#"{"op":"shout","value":"v"}"#,
            r#"{"op":"put","key":"k","key_b64":"aw==","value":"v"}"#,
            r#"{"op":"put","key_b64":"?","value":"v"}"#,
            r#"{"op":"event","vaule":"v"}"#,
            r#"{"op":"event","value":"v","ts":"yesterday"}"#,
        ] {
            let error = parse_envelope(bad.as_bytes()).unwrap_err();
            assert!(error.starts_with("expected"), "{bad}: {error}");
        }
        let line = r#"{"offset":1,"epoch":1,"op":"event","value":""}"#;
        assert!(parse_envelope(line.as_bytes()).is_ok());
        for lacking in [line, r#"{"op":"event","value":"","ts":"2020-01-01T00:00:00Z"}"#] {
            let error = parse_entry(lacking.as_bytes()).unwrap_err();
            assert!(error.starts_with("expected"), "{lacking}: {error}");
        }
    }
}
