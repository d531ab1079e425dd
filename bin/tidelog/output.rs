//! stdout and stderr: which format, single lines, tables of named values.
//!
//! Verbs that answer with a few objects print each as a line of JSON, on a terminal, too: they are for
//! scripts, and people read the remarks beside them. `-o` has them in the other formats.
//!
//! stdout is data only. Nothing here panics when a pipe is closed: on stdout that ends the verb
//! quietly, on stderr nobody listens any more.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use serde_json::{Map, Value};

use crate::exit::Outcome;

/// How [`line`] prints, and what it has printed. Guards nothing but that.
static LINES: Mutex<Lines> = Mutex::new(Lines { format: None, printed: 0, header: Vec::new() });

struct Lines {
    /// What `-o` said.
    format: Option<Format>,
    printed: u64,
    /// The names in the last CSV header.
    header: Vec<String>,
}

fn lines() -> MutexGuard<'static, Lines> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

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

/// Tells [`line`] what `-o` said.
pub(crate) fn set_format(format: Option<Format>) {
    lines().format = format;
}

/// One line of data: an object, or a number.
pub(crate) fn line(data: impl Into<Value>) -> Outcome {
    let data = data.into();
    let mut lines = lines();
    let mut out = io::stdout().lock();
    match (lines.format, &data) {
        (Some(Format::Json), _) => {
            let before = if lines.printed == 0 { "[" } else { ",\n" };
            write!(out, "{before}{data}")?;
        }
        (Some(Format::Table), Value::Object(row)) => {
            let before = if lines.printed == 0 { "" } else { "\n" };
            write!(out, "{before}{}", named(row))?;
        }
        (Some(Format::Csv), Value::Object(row)) => {
            let mut text = Vec::new();
            if !lines.header.iter().eq(row.keys()) {
                lines.header = row.keys().cloned().collect();
                csv_line(row.keys().map(|name| Cow::Borrowed(name.as_str())), &mut text);
            }
            csv_line(row.values().map(|value| Cow::Owned(plain(value))), &mut text);
            out.write_all(&text)?;
        }
        _ => writeln!(out, "{data}")?,
    }
    lines.printed += 1;
    out.flush()?;
    Ok(())
}

/// Ends what [`line`] began, when the verb is done.
pub(crate) fn end_lines() -> Outcome {
    let lines = lines();
    if lines.format == Some(Format::Json) && lines.printed > 0 {
        let mut out = io::stdout().lock();
        out.write_all(b"]\n")?;
        out.flush()?;
    }
    Ok(())
}

/// A value in a cell.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A value a line behind its name; without those that there are none of.
fn named(row: &Map<String, Value>) -> String {
    let there = || row.iter().filter(|(_, value)| !value.is_null());
    let width = there().map(|(name, _)| name.len()).max().unwrap_or(0);
    there().map(|(name, value)| format!("{name:width$}  {}\n", plain(value))).collect()
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
    let text = harmless(text);
    let mut chars = text.chars();
    let mut cut: String = chars.by_ref().take(CELL_CHARS).collect();
    if chars.next().is_some() {
        cut.push('…');
    }
    cut
}

/// Text in one line, with nothing that moves the cursor.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
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
    let header: Vec<&str> = rows.first().map_or(vec![], |r| r.keys().map(String::as_str).collect());
    match format {
        Format::Json => writeln!(out, "{}", Value::from(rows.to_vec()))?,
        _ if rows.is_empty() => {}
        Format::Table if rows.len() == 1 => out.write_all(named(&rows[0]).as_bytes())?,
        Format::Table => out.write_all(tabled(&header, rows).as_bytes())?,
        Format::Ndjson | Format::Raw => {
            for row in rows {
                writeln!(out, "{}", Value::Object(row.clone()))?;
            }
        }
        Format::Csv => {
            let mut line = Vec::new();
            csv_line(header.iter().map(|name| Cow::Borrowed(*name)), &mut line);
            for row in rows {
                csv_line(row.values().map(|value| Cow::Owned(plain(value))), &mut line);
            }
            out.write_all(&line)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// A table without its empty columns; on a terminal that is too narrow for it, one row below the other.
fn tabled(header: &[&str], rows: &[Map<String, Value>]) -> String {
    let is_there = |name: &&str| {
        rows.iter().any(|row| row.get(*name).is_some_and(|value| !plain(value).is_empty()))
    };
    let header: Vec<&str> = header.iter().copied().filter(is_there).collect();
    let cells = |row: &Map<String, Value>| -> Vec<String> {
        header.iter().map(|name| cell(&row.get(*name).map(plain).unwrap_or_default())).collect()
    };
    let mut table = new_table(&header);
    let mut widths: Vec<usize> = header.iter().map(|name| name.len()).collect();
    for row in rows {
        let cells = cells(row);
        for (width, cell) in widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        table.add_row(cells);
    }
    // A space before each cell, two behind it.
    let width: usize = widths.iter().map(|width| width + 3).sum();
    if table.width().is_some_and(|most| width > usize::from(most)) {
        let rows: Vec<String> = rows.iter().map(named).collect();
        return rows.join("\n");
    }
    format!("{}\n", table.trim_fmt())
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
