//! `info`: what is in a log.

use clap::Args;
use serde_json::{Map, Value};
use tidelog::Log;
use tidelog::table::stored;
use tidelog::text::format_bytes;

use crate::args::LogDir;
use crate::config::Config;
use crate::exit::Outcome;
use crate::output::{Format, print_rows};

/// Say what is in a log
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog info mylog
  tidelog info mylog -o json

Where a table is kept on disk, the columns from table_runs on say what its newest checkpoint holds \
(rows count once in each run that has them), and how far it is behind the log's end.")]
pub(crate) struct Info {
    #[command(flatten)]
    at: LogDir,
    /// How to print: a table on a terminal, NDJSON when piped
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

impl Info {
    pub(crate) fn run(self) -> Outcome {
        let format = Config::load(Some(&self.at.dir))?.format(self.output)?;
        let log = Log::options().read_only(true).open(&self.at.dir)?;
        let stats = log.stats();
        let report = log.report();
        let segments = log.segments();
        let bytes: u64 = segments
            .iter()
            .filter_map(|s| std::fs::metadata(&s.path).ok())
            .map(|meta| meta.len())
            .sum();
        let mut row = Map::new();
        let mut put = |name: &str, value: Value| row.insert(name.to_owned(), value);
        put("log", stats.id.to_string().into());
        put("node", stats.node.to_string().into());
        if let Some(source) = log.follows() {
            put("follows", source.into());
        }
        put("epoch", stats.epoch.number.into());
        put("start_offset", stats.start.0.into());
        put("end_offset", stats.end.0.into());
        put("confirmed_offset", log.confirmed_end().0.into());
        put("records", (stats.end.0 - stats.start.0).into());
        put("segments", segments.len().into());
        let size = |bytes: u64| -> Value {
            if format == Format::Table { format_bytes(bytes).into() } else { bytes.into() }
        };
        put("bytes", size(bytes));
        put("log_byte", stats.log_byte.0.into());
        put("producers", stats.producers.into());
        put("clean", report.clean.into());
        if let Some(table) = stored(&self.at.dir)?.filter(|table| table.log == stats.id) {
            let at = table.position;
            put("table_runs", table.runs.into());
            put("table_bytes", size(table.bytes));
            put("table_rows", table.rows.into());
            put("checkpoint_offset", at.offset.0.into());
            put("checkpoint_behind", stats.end.0.saturating_sub(at.offset.0).into());
            put("checkpoint_behind_bytes", size(stats.log_byte.0.saturating_sub(at.log_byte.0)));
        }
        let kept = tidelog::replica::diverged::list(&self.at.dir)?;
        if !kept.is_empty() {
            let records: u64 = kept.iter().flatten().map(|kept| kept.records()).sum();
            put("diverged", kept.len().into());
            put("diverged_records", records.into());
        }
        if report.bytes_cut > 0 {
            put("torn_bytes", report.bytes_cut.into());
        }
        if !report.findings.is_empty() {
            put("findings", report.findings.join("; ").into());
        }
        print_rows(format, &[row])
    }
}
