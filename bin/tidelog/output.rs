//! Records and reports on stdout: a table for eyes, NDJSON for programs, CSV, JSON, raw values.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::value::RawValue;
use tidelog::Entry;
use tidelog::text::{format_time, write_envelope};

use crate::exit::Outcome;

/// How records are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Ndjson,
    Json,
    Csv,
    Raw,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct OutputArgs {
    /// How to print: a table on a terminal, NDJSON when piped
    #[arg(short, long, value_enum, env = "TIDELOG_OUTPUT")]
    pub(crate) output: Option<Format>,
    /// Columns to add in CSV
    #[arg(long, value_delimiter = ',', value_name = "offset,ts,key")]
    pub(crate) with: Vec<With>,
    /// What follows each value in raw output; '' for nothing
    #[arg(long, default_value = "\n", hide_default_value = true)]
    pub(crate) delimiter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum With {
    Offset,
    Ts,
    Key,
}

impl OutputArgs {
    pub(crate) fn format(&self) -> Format {
        self.output.unwrap_or(if io::stdout().is_terminal() {
            Format::Table
        } else {
            Format::Ndjson
        })
    }
}

/// Rows gathered before a table is drawn: its columns fit them, and memory stays bounded.
const TABLE_ROWS: usize = 500;
/// Longer cells are cut in tables.
const CELL_CHARS: usize = 120;

/// Prints entries.
pub(crate) struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    format: Format,
    with: Vec<With>,
    delimiter: Vec<u8>,
    line: Vec<u8>,
    rows: VecDeque<[String; 5]>,
    /// CSV columns in the order in which records showed them.
    columns: Vec<String>,
    /// Whether columns may still be added.
    learning: bool,
    printed: u64,
}

impl Printer {
    pub(crate) fn new(args: &OutputArgs) -> Self {
        Printer {
            out: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
            format: args.format(),
            with: args.with.clone(),
            delimiter: args.delimiter.clone().into_bytes(),
            line: Vec::new(),
            rows: VecDeque::new(),
            columns: Vec::new(),
            learning: true,
            printed: 0,
        }
    }

    /// Whether every record should be shown to [`learn`](Printer::learn) before the first is
    /// printed, so that all columns are known.
    pub(crate) fn wants_to_learn(&self) -> bool {
        self.format == Format::Csv
    }

    /// Notes the columns of a record.
    pub(crate) fn learn(&mut self, entry: &Entry<'_>) {
        for (name, _) in fields(entry.record.value) {
            if !self.columns.iter().any(|column| *column == name) {
                self.columns.push(name.into_owned());
            }
        }
    }

    pub(crate) fn print(&mut self, entry: &Entry<'_>) -> Outcome {
        match self.format {
            Format::Ndjson => {
                self.line.clear();
                write_envelope(entry, &mut self.line);
                self.line.push(b'\n');
                self.out.write_all(&self.line)?;
            }
            Format::Json => {
                self.line.clear();
                self.line.extend_from_slice(if self.printed == 0 { b"[" } else { b",\n" });
                write_envelope(entry, &mut self.line);
                self.out.write_all(&self.line)?;
            }
            Format::Raw => {
                self.out.write_all(entry.record.value)?;
                self.out.write_all(&self.delimiter)?;
            }
            Format::Csv => self.csv(entry)?,
            Format::Table => {
                let text = |bytes: &[u8]| cell(&String::from_utf8_lossy(bytes));
                self.rows.push_back([
                    entry.offset.to_string(),
                    format_time(entry.timestamp),
                    entry.record.op.as_str().to_owned(),
                    entry.record.key.map(text).unwrap_or_default(),
                    text(entry.record.value),
                ]);
                if self.rows.len() == TABLE_ROWS {
                    self.draw()?;
                }
            }
        }
        self.printed += 1;
        Ok(())
    }

    fn csv(&mut self, entry: &Entry<'_>) -> Outcome {
        let found = fields(entry.record.value);
        if self.learning {
            self.learn(entry);
            self.learning = false;
            let with = self.with.iter().map(|with| match with {
                With::Offset => "offset",
                With::Ts => "ts",
                With::Key => "key",
            });
            let names = with.chain(self.columns.iter().map(String::as_str));
            self.line.clear();
            csv_line(names.map(Cow::Borrowed), &mut self.line);
            self.out.write_all(&self.line)?;
        }
        let unknown = found.iter().find(|(name, _)| !self.columns.iter().any(|c| c == name));
        if let Some((name, _)) = unknown {
            return Err(crate::exit::Failure::no(format!(
                "offset {} has a field {name:?} that the header, already printed, does not; \
                 print a range without --follow, which looks at every record first",
                entry.offset
            )));
        }
        let with = self.with.iter().map(|with| match with {
            With::Offset => Cow::Owned(entry.offset.to_string()),
            With::Ts => Cow::Owned(format_time(entry.timestamp)),
            With::Key => String::from_utf8_lossy(entry.record.key.unwrap_or_default()),
        });
        // Most logs repeat the same fields in the same order: then this is one step each.
        let mut next = 0;
        let values = self.columns.iter().map(|column| {
            let at = match found.get(next) {
                Some((name, _)) if name == column => Some(next),
                _ => found.iter().position(|(name, _)| name == column),
            };
            match at {
                Some(at) => {
                    next = at + 1;
                    found[at].1.clone()
                }
                None => Cow::Borrowed(""),
            }
        });
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        csv_line(with.chain(values), &mut line);
        self.out.write_all(&line)?;
        self.line = line;
        Ok(())
    }

    fn draw(&mut self) -> Outcome {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut table = new_table(&["offset", "time", "op", "key", "value"]);
        for row in self.rows.drain(..) {
            table.add_row(row);
        }
        writeln!(self.out, "{table}")?;
        Ok(())
    }

    /// Shows what was printed so far; for a tail that waits.
    pub(crate) fn flush(&mut self) -> Outcome {
        self.draw()?;
        self.out.flush()?;
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Outcome {
        if self.format == Format::Json {
            self.out.write_all(if self.printed == 0 { b"[]\n" } else { b"]\n" })?;
        }
        if self.format == Format::Csv && self.learning && !self.columns.is_empty() {
            csv_line(self.columns.iter().map(|c| Cow::Borrowed(c.as_str())), &mut self.line);
            self.out.write_all(&self.line)?;
        }
        self.flush()
    }
}

/// The fields of a JSON object in their order; anything else is one field, `value`.
fn fields(value: &[u8]) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    struct Pairs;
    impl<'de> serde::de::Visitor<'de> for Pairs {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::with_capacity(24);
            while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                pairs.push((name.0, value));
            }
            Ok(pairs)
        }
    }
    #[derive(serde::Deserialize)]
    struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

    let mut parser = serde_json::Deserializer::from_slice(value);
    let pairs = serde::Deserializer::deserialize_map(&mut parser, Pairs);
    match pairs.and_then(|pairs| parser.end().map(|()| pairs)) {
        Ok(pairs) => pairs
            .into_iter()
            .map(|(name, raw)| {
                let raw = raw.get();
                let text = match raw.as_bytes().first() {
                    Some(b'"') => match serde_json::from_str::<Name<'_>>(raw) {
                        Ok(text) => text.0,
                        Err(_) => Cow::Borrowed(raw),
                    },
                    _ if raw == "null" => Cow::Borrowed(""),
                    _ => Cow::Borrowed(raw),
                };
                (name, text)
            })
            .collect(),
        Err(_) => vec![(Cow::Borrowed("value"), String::from_utf8_lossy(value))],
    }
}

/// Appends a CSV record; fields are quoted only where they must be.
fn csv_line<'a>(fields: impl Iterator<Item = Cow<'a, str>>, out: &mut Vec<u8>) {
    let start = out.len();
    for (i, field) in fields.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        if field.bytes().any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r')) {
            out.push(b'"');
            for byte in field.bytes() {
                if byte == b'"' {
                    out.push(b'"');
                }
                out.push(byte);
            }
            out.push(b'"');
        } else {
            out.extend_from_slice(field.as_bytes());
        }
    }
    if out.len() == start {
        // A record of one empty field would read back as none.
        out.extend_from_slice(b"\"\"");
    }
    out.push(b'\n');
}

/// Text for a cell: one line, not too long, nothing that moves the cursor.
pub(crate) fn cell(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut cut: String = chars.by_ref().take(CELL_CHARS).collect();
    if chars.next().is_some() {
        cut.push('…');
    }
    cut
}

/// An empty table with a header.
pub(crate) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.to_vec());
    table
}

/// Prints rows of named values: a table on a terminal, one JSON object a line otherwise.
pub(crate) fn print_rows(
    output: Option<Format>,
    rows: &[serde_json::Map<String, serde_json::Value>],
) -> Outcome {
    let mut out = BufWriter::new(io::stdout().lock());
    let terminal = io::stdout().is_terminal();
    let format = output.unwrap_or(if terminal { Format::Table } else { Format::Ndjson });
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    };
    let header: Vec<&str> = rows.first().map_or(vec![], |r| r.keys().map(String::as_str).collect());
    match format {
        Format::Table if rows.len() == 1 => {
            let width = header.iter().map(|name| name.len()).max().unwrap_or(0);
            for (name, value) in &rows[0] {
                writeln!(out, "{name:width$}  {}", text(value))?;
            }
        }
        Format::Table => {
            let mut table = new_table(&header);
            for row in rows {
                table.add_row(row.values().map(|value| cell(&text(value))));
            }
            writeln!(out, "{table}")?;
        }
        Format::Json => writeln!(out, "{}", serde_json::Value::from(rows.to_vec()))?,
        Format::Ndjson | Format::Raw => {
            for row in rows {
                writeln!(out, "{}", serde_json::Value::Object(row.clone()))?;
            }
        }
        Format::Csv => {
            let mut line = Vec::new();
            csv_line(header.iter().map(|name| Cow::Borrowed(*name)), &mut line);
            for row in rows {
                csv_line(row.values().map(|value| Cow::Owned(text(value))), &mut line);
            }
            out.write_all(&line)?;
        }
    }
    out.flush()?;
    Ok(())
}
