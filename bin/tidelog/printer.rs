//! Records on stdout: envelopes, a table, CSV with a column per field, or values as they are.
//!
//! CSV wants to know its columns before its first line. A range is therefore read twice, once to
//! [`learn`](Printer::learn) the fields of every record; a tail that waits takes the first
//! record's, and a later one with another field ends it with an error that names both.

use std::borrow::Cow;
use std::io::{self, BufWriter, StdoutLock, Write};

use clap::{Args, ValueEnum};
use serde_json::value::RawValue;
use tidelog::text::{format_time, write_envelope};
use tidelog::{Entry, Op};

use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::output::{self, Format, cell, new_table, short_time};

/// How records are printed.
#[derive(Args, Clone, Debug)]
pub(crate) struct PrintArgs {
    /// How to print: a table on a terminal, NDJSON when piped
    #[arg(short, long, value_enum)]
    output: Option<Format>,
    /// Columns to add in CSV, before the fields
    #[arg(long, value_enum, value_delimiter = ',', value_name = "COLUMN,…")]
    with: Vec<With>,
    /// What follows each value in raw output; '' for nothing, and \n, \t, \r, \0 for what they mean
    /// elsewhere [default: a newline]
    #[arg(long, value_name = "TEXT", default_value = "\n", hide_default_value = true)]
    delimiter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum With {
    Offset,
    Epoch,
    Ts,
    Op,
    Key,
}

/// Rows gathered before a table is drawn: its columns fit them, and memory stays bounded.
const TABLE_ROWS: usize = 500;

/// Prints entries.
pub(crate) struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    format: Format,
    with: Vec<With>,
    delimiter: Vec<u8>,
    line: Vec<u8>,
    rows: Vec<[String; 5]>,
    /// The value of the first record, uncut: alone it is shown so.
    first: String,
    /// CSV columns in the order in which records showed them.
    columns: Vec<String>,
    /// Whether the CSV header was printed: from then on the columns are fixed.
    fixed: bool,
    printed: u64,
}

impl PrintArgs {
    /// A printer to stdout, with what the settings say where no flag does.
    pub(crate) fn printer(&self, config: &Config) -> Result<Printer, Failure> {
        Ok(Printer {
            out: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
            format: config.format(self.output)?,
            with: self.with.clone(),
            delimiter: unescaped(&self.delimiter).into_bytes(),
            line: Vec::new(),
            rows: Vec::new(),
            first: String::new(),
            columns: Vec::new(),
            fixed: false,
            printed: 0,
        })
    }
}

/// A delimiter as it is meant: a shell hands on `\n` as two characters, and can hand on no zero byte.
fn unescaped(text: &str) -> String {
    let known = [("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r"), ("\\0", "\0")];
    known.iter().fold(text.to_owned(), |text, (written, meant)| text.replace(written, meant))
}

impl Printer {
    /// Whether every record should be shown to [`learn`](Printer::learn) before the first is
    /// printed, so that all columns are known.
    pub(crate) fn wants_to_learn(&self) -> bool {
        self.format == Format::Csv
    }

    /// Notes the columns of a record.
    pub(crate) fn learn(&mut self, entry: &Entry<'_>) {
        for (i, (name, _)) in fields(entry).into_iter().enumerate() {
            // Most logs repeat the same fields in the same order: then this is one step each.
            if self.columns.get(i).is_none_or(|column| *column != name)
                && !self.columns.iter().any(|column| *column == name)
            {
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
                if self.printed == 0 {
                    self.first = output::harmless(&String::from_utf8_lossy(entry.record.value));
                }
                self.rows.push([
                    entry.offset.to_string(),
                    short_time(&format_time(entry.timestamp)),
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
        if !self.fixed {
            self.learn(entry);
            self.header()?;
        }
        let found = fields(entry);
        let unknown = found.iter().find(|(name, _)| !self.columns.iter().any(|c| c == name));
        if let Some((name, _)) = unknown {
            return Err(Failure::no(format!(
                "offset {} has a field {name:?} that the header, already printed, does not; \
                 without --follow every record is looked at before the header is printed; a table \
                 that changed in between is printed whole the next time",
                entry.offset
            )));
        }
        let with = self.with.iter().map(|with| match with {
            With::Offset => Cow::Owned(entry.offset.to_string()),
            With::Epoch => Cow::Owned(entry.epoch.to_string()),
            With::Ts => Cow::Owned(format_time(entry.timestamp)),
            With::Op => Cow::Borrowed(entry.record.op.as_str()),
            With::Key => String::from_utf8_lossy(entry.record.key.unwrap_or_default()),
        });
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
        output::csv_line(with.chain(values), &mut line);
        self.out.write_all(&line)?;
        self.line = line;
        Ok(())
    }

    fn header(&mut self) -> Outcome {
        self.fixed = true;
        let with = self.with.iter().map(|with| match with {
            With::Offset => "offset",
            With::Epoch => "epoch",
            With::Ts => "ts",
            With::Op => "op",
            With::Key => "key",
        });
        let names = with.chain(self.columns.iter().map(String::as_str));
        self.line.clear();
        output::csv_line(names.map(Cow::Borrowed), &mut self.line);
        self.out.write_all(&self.line)?;
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
        writeln!(self.out, "{}", table.trim_fmt())?;
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
        match &self.rows[..] {
            [[offset, time, op, key, _]] if self.printed == 1 => {
                let names = ["offset", "time", "op", "key", "value"];
                let values = [offset, time, op, key, &self.first];
                for (name, value) in names.iter().zip(values) {
                    writeln!(self.out, "{name:6}  {value}")?;
                }
                self.rows.clear();
            }
            _ => {}
        }
        self.flush()
    }
}

/// The fields of a JSON object in their order; any other value is one field, `value`. A delete has
/// no value, so no fields.
fn fields<'a>(entry: &Entry<'a>) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
    let value = entry.record.value;
    if entry.record.op == Op::Delete {
        return Vec::new();
    }
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
