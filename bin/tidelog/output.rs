//! stdout and stderr: which format, single lines, tables of named values.
//!
//! stdout is data only. Nothing here panics when a pipe is closed: on stdout that ends the verb
//! quietly, on stderr nobody listens any more.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use serde_json::{Map, Value};

use crate::exit::Outcome;

/// How things are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for eyes
    Table,
    /// One JSON object a line
    Ndjson,
    /// One JSON array
    Json,
    /// Comma-separated, with a header
    Csv,
    /// The values alone
    Raw,
}

/// What is printed when nothing says how.
pub(crate) fn default_format() -> Format {
    if io::stdout().is_terminal() { Format::Table } else { Format::Ndjson }
}

/// One line of data.
pub(crate) fn line(data: impl Display) -> Outcome {
    let mut out = io::stdout().lock();
    writeln!(out, "{data}")?;
    out.flush()?;
    Ok(())
}

/// A remark, a warning or a summary, on stderr.
pub(crate) fn say(remark: impl Display) {
    let _ = writeln!(anstream::stderr(), "tidelog: {remark}");
}

/// A number and what it counts: `1 record`, `1,707 records`.
pub(crate) fn count<N: TryInto<u64>>(number: N, what: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Longer cells are cut in tables.
const CELL_CHARS: usize = 120;

/// Text for a cell: one line, not too long, nothing that moves the cursor.
pub(crate) fn cell(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut cut: String = chars.by_ref().take(CELL_CHARS).collect();
    if chars.next().is_some() {
        cut.push('…');
    }
    cut
}

/// A time without the zeros at its end.
pub(crate) fn short_time(time: &str) -> String {
    match time.strip_suffix('Z') {
        Some(time) => format!("{}Z", time.trim_end_matches('0').trim_end_matches('.')),
        None => time.to_owned(),
    }
}

/// An empty table with a header.
pub(crate) fn new_table(header: &[&str]) -> Table {
    const STYLE: TableStyle =
        TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.to_vec());
    table
}

/// Prints rows of named values, each with the same names.
pub(crate) fn print_rows(format: Format, rows: &[Map<String, Value>]) -> Outcome {
    let mut out = BufWriter::new(io::stdout().lock());
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let header: Vec<&str> = rows.first().map_or(vec![], |r| r.keys().map(String::as_str).collect());
    match format {
        Format::Json => writeln!(out, "{}", Value::from(rows.to_vec()))?,
        _ if rows.is_empty() => {}
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
            writeln!(out, "{}", table.trim_fmt())?;
        }
        Format::Ndjson | Format::Raw => {
            for row in rows {
                writeln!(out, "{}", Value::Object(row.clone()))?;
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

/// Appends a CSV record; fields are quoted only where they must be.
pub(crate) fn csv_line<'a>(fields: impl Iterator<Item = Cow<'a, str>>, out: &mut Vec<u8>) {
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
