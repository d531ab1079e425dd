//! `sql`: a query over the table and the log, as they are now.

use std::borrow::Cow;
use std::io::{self, BufWriter, Read, StdoutLock, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use tidelog::sql::Value;

use crate::exit::{Failure, Outcome};
use crate::origin::{FreshArgs, OriginArgs};
use crate::output::{self, Format, cell, new_table};

/// Query the table and the log with SQL
///
/// Two tables can be read: kv(key, value, offset, ts), the latest record of every key, and
/// log(offset, epoch, ts, op, key, value), every record. Both show the same moment. Times are
/// nanoseconds since 1970: rfc3339(ts) shows one, ns('2026-11-23T04:00:00Z') makes one. Everything
/// else is SQLite's, json_extract and aggregates included. Keys and values that are not UTF-8 are
/// BLOBs: base64 under name_b64 in JSON, x'…' in tables and CSV, the bytes themselves in raw output.
/// EXPLAIN QUERY PLAN says how a query would read.
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog sql mylog \"SELECT key, rfc3339(ts) AS time FROM kv ORDER BY key LIMIT 10\"
  tidelog sql mylog \"SELECT op, count(*) AS records FROM log GROUP BY op\" -o csv
  tidelog sql mylog \"SELECT * FROM kv WHERE key GLOB 'sensor/*'\"
  tidelog sql mylog \"SELECT key, value ->> '$.carrier' FROM kv WHERE json_valid(value)\"
  tidelog sql mylog \"SELECT offset, key FROM log WHERE ts >= ns('2026-11-23') ORDER BY offset\"
  tidelog sql http://127.0.0.1:7400 \"SELECT count(*) AS keys FROM kv\"
  echo \"SELECT count(*) AS keys FROM kv\" | tidelog sql mylog -")]
pub(crate) struct Sql {
    #[command(flatten)]
    at: OriginArgs,
    /// One statement that reads; `-` takes it from stdin
    #[arg(value_name = "SQL")]
    query: String,
    #[command(flatten)]
    fresh: FreshArgs,
    /// How to print: a table on a terminal, NDJSON when piped
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// Rows gathered before a table is drawn: its columns fit them, and memory stays bounded.
const TABLE_ROWS: usize = 500;

impl Sql {
    pub(crate) fn run(self) -> Outcome {
        let config = self.at.config()?;
        let format = config.format(self.output)?;
        let query = match &*self.query {
            "-" => {
                let mut text = String::new();
                io::stdin()
                    .lock()
                    .read_to_string(&mut text)
                    .map_err(|e| Failure::io("read SQL from stdin", &e))?;
                text
            }
            query => query.to_owned(),
        };
        let origin = self.at.open_fresh(&self.fresh)?;
        let mut printer = Printer::new(format);
        match origin.sql(&query, &mut |columns, values| printer.print(columns, values)) {
            Ok(columns) => printer.finish(&columns),
            Err(failure) => {
                // What came before is true, and shown.
                let _ = printer.flush();
                Err(failure)
            }
        }
    }
}

/// Prints rows.
struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    format: Format,
    line: Vec<u8>,
    /// The columns' names; of two that are the same, the later one with a number.
    names: Vec<String>,
    rows: Vec<Vec<String>>,
    begun: bool,
}

impl Printer {
    fn new(format: Format) -> Self {
        Printer {
            out: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
            format,
            line: Vec::new(),
            names: Vec::new(),
            rows: Vec::new(),
            begun: false,
        }
    }

    /// Learns the names, and prints what comes before the first row.
    fn begin(&mut self, columns: &[String]) -> Outcome {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        for column in columns {
            let mut name = column.clone();
            let mut number = 0;
            while self.names.contains(&name) {
                number += 1;
                name = format!("{column}:{number}");
            }
            self.names.push(name);
        }
        match self.format {
            Format::Json => self.out.write_all(b"[")?,
            Format::Csv => {
                self.line.clear();
                let names = self.names.iter().map(|name| Cow::Borrowed(name.as_str()));
                output::csv_line(names, &mut self.line);
                self.out.write_all(&self.line)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn print(&mut self, columns: &[String], row: &[Value<'_>]) -> Outcome {
        let first = !self.begun;
        self.begin(columns)?;
        self.line.clear();
        match self.format {
            Format::Ndjson => {
                object(&self.names, row, &mut self.line);
                self.line.push(b'\n');
            }
            Format::Json => {
                self.line.extend_from_slice(if first { b"" } else { b",\n" });
                object(&self.names, row, &mut self.line);
            }
            Format::Csv => output::csv_line(row.iter().map(text), &mut self.line),
            Format::Raw => {
                for (i, value) in row.iter().enumerate() {
                    if i > 0 {
                        self.line.push(b'\t');
                    }
                    match value {
                        Value::Blob(bytes) => self.line.extend_from_slice(bytes),
                        value => self.line.extend_from_slice(text(value).as_bytes()),
                    }
                }
                self.line.push(b'\n');
            }
            Format::Table => {
                self.rows.push(row.iter().map(|value| cell(&text(value))).collect());
                if self.rows.len() == TABLE_ROWS {
                    self.draw()?;
                }
            }
        }
        self.out.write_all(&self.line)?;
        Ok(())
    }

    fn draw(&mut self) -> Outcome {
        if self.rows.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let mut table = new_table(&names);
        for row in self.rows.drain(..) {
            table.add_row(row);
        }
        writeln!(self.out, "{}", table.trim_fmt())?;
        Ok(())
    }

    fn flush(&mut self) -> Outcome {
        self.draw()?;
        self.out.flush()?;
        Ok(())
    }

    fn finish(mut self, columns: &[String]) -> Outcome {
        self.begin(columns)?;
        if self.format == Format::Json {
            self.out.write_all(b"]\n")?;
        }
        self.flush()
    }
}

/// Appends a row as a JSON object.
fn object(names: &[String], row: &[Value<'_>], out: &mut Vec<u8>) {
    let start = out.len();
    for (name, value) in names.iter().zip(row) {
        member(name, value, out);
    }
    // Each member begins with a comma.
    match out.get_mut(start) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

/// Appends `,"name":value`; a BLOB as `,"name_b64":"…"`.
fn member(name: &str, value: &Value<'_>, out: &mut Vec<u8>) {
    out.push(b',');
    // Writing to memory does not fail.
    let _ = match value {
        Value::Blob(_) => serde_json::to_writer(&mut *out, &format!("{name}_b64")),
        _ => serde_json::to_writer(&mut *out, name),
    };
    out.push(b':');
    let _ = match *value {
        Value::Null => serde_json::to_writer(out, &()),
        Value::Integer(n) => serde_json::to_writer(out, &n),
        // JSON has no infinity: that becomes null.
        Value::Real(n) => serde_json::to_writer(out, &n),
        Value::Text(text) => serde_json::to_writer(out, text),
        Value::Blob(bytes) => serde_json::to_writer(out, &STANDARD.encode(bytes)),
    };
}

/// A value as text, for columns and lines; a BLOB as SQL writes one.
fn text<'a>(value: &Value<'a>) -> Cow<'a, str> {
    match *value {
        Value::Null => Cow::Borrowed(""),
        Value::Text(text) => Cow::Borrowed(text),
        Value::Integer(n) => Cow::Owned(n.to_string()),
        Value::Real(n) if n.is_finite() => Cow::Owned(serde_json::Value::from(n).to_string()),
        Value::Real(n) => Cow::Owned(n.to_string()),
        Value::Blob(bytes) => {
            let mut hex = String::with_capacity(bytes.len() * 2 + 3);
            hex.push_str("x'");
            for byte in bytes {
                hex.push_str(&format!("{byte:02x}"));
            }
            hex.push('\'');
            Cow::Owned(hex)
        }
    }
}
