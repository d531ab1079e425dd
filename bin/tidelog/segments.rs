//! `segments`: the files of a log.

use std::path::PathBuf;

use clap::Args;
use serde_json::Map;
use tidelog::Log;
use tidelog::text::format_time;

use crate::exit::Outcome;
use crate::output::{Format, print_rows};

/// List the segment files of a log
#[derive(Args)]
#[command(after_help = "Example: tidelog segments mylog")]
pub(crate) struct Segments {
    dir: PathBuf,
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

impl Segments {
    pub(crate) fn run(self) -> Outcome {
        let log = Log::options().read_only(true).open(&self.dir)?;
        let end = log.end();
        let rows: Vec<_> = log
            .segments()
            .iter()
            .map(|segment| {
                let mut row = Map::new();
                let name = segment.path.file_name().unwrap_or_default().to_string_lossy();
                let bytes = std::fs::metadata(&segment.path).map_or(0, |meta| meta.len());
                row.insert("segment".into(), name.into());
                row.insert("state".into(), if segment.sealed { "sealed" } else { "active" }.into());
                row.insert("epoch".into(), segment.epoch.number.into());
                row.insert("first_offset".into(), segment.base_offset.0.into());
                row.insert("end_offset".into(), segment.end_offset.unwrap_or(end).0.into());
                row.insert("log_byte".into(), segment.base.0.into());
                row.insert("bytes".into(), bytes.into());
                let time = |t: Option<i64>| t.map(format_time).into();
                row.insert("oldest".into(), time(segment.timestamps.map(|t| t.0)));
                row.insert("newest".into(), time(segment.timestamps.map(|t| t.1)));
                let hash =
                    segment.hash.map(|h| h.iter().map(|b| format!("{b:02x}")).collect::<String>());
                row.insert("hash".into(), hash.into());
                row
            })
            .collect();
        print_rows(self.output, &rows)
    }
}
