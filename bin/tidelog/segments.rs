//! `segments`: the files of a log.

use std::fmt::Write;

use clap::Args;
use serde_json::Map;
use tidelog::Log;
use tidelog::text::{format_bytes, format_time};

use crate::args::LogDir;
use crate::config::Config;
use crate::exit::Outcome;
use crate::output::{Format, print_rows, short_time};

/// List the segment files of a log
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog segments mylog
  tidelog segments mylog -o csv

`hash` covers everything in a sealed segment: equal hashes, equal files. `oldest` and `newest` are times of \
batches; that of a batch is its newest record's.")]
pub(crate) struct Segments {
    #[command(flatten)]
    at: LogDir,
    /// How to print: a table on a terminal, NDJSON when piped
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

impl Segments {
    pub(crate) fn run(self) -> Outcome {
        let format = Config::load(Some(&self.at.dir))?.format(self.output)?;
        let short = format == Format::Table;
        let log = Log::options().read_only(true).open(&self.at.dir)?;
        let end = log.end();
        let rows: Vec<_> = log
            .segments()
            .iter()
            .map(|segment| {
                let mut row = Map::new();
                let name = segment.path.file_name().unwrap_or_default().to_string_lossy();
                let bytes = std::fs::metadata(&segment.path).map_or(0, |meta| meta.len());
                let time = |t: Option<i64>| match t.map(format_time) {
                    Some(t) if short => Some(short_time(&t)),
                    t => t,
                };
                let hash = segment.hash.map(|hash| {
                    let digits = if short { 6 } else { hash.len() };
                    hash[..digits].iter().fold(String::new(), |mut text, byte| {
                        let _ = write!(text, "{byte:02x}");
                        text
                    })
                });
                row.insert("segment".into(), name.into());
                row.insert("state".into(), if segment.sealed { "sealed" } else { "active" }.into());
                row.insert("epoch".into(), segment.epoch.number.into());
                row.insert("first_offset".into(), segment.base_offset.0.into());
                row.insert("end_offset".into(), segment.end_offset.unwrap_or(end).0.into());
                row.insert("log_byte".into(), segment.base.0.into());
                row.insert(
                    "bytes".into(),
                    if short { format_bytes(bytes).into() } else { bytes.into() },
                );
                row.insert("oldest".into(), time(segment.timestamps.map(|t| t.0)).into());
                row.insert("newest".into(), time(segment.timestamps.map(|t| t.1)).into());
                row.insert("hash".into(), hash.into());
                row
            })
            .collect();
        print_rows(format, &rows)
    }
}
