//! `init`: creates a log.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;

use clap::Args;
use serde_json::json;

use crate::args::LogDir;
use crate::config::{CompressionArg, Config};
use crate::exit::{Failure, Outcome};
use crate::output;

/// Create a log in a new or empty directory
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog init mylog
  tidelog init mylog --segment-bytes 16MiB --compression zstd

What is given here is kept in mylog/tidelog.toml and holds for every later verb.")]
pub(crate) struct Init {
    #[command(flatten)]
    at: LogDir,
    /// Target size of a segment file [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = tidelog::text::parse_bytes)]
    segment_bytes: Option<u64>,
    /// How batches are compressed [default: none]
    #[arg(long, value_enum)]
    compression: Option<CompressionArg>,
}

impl Init {
    pub(crate) fn run(self) -> Outcome {
        let dir = &self.at.dir;
        if dir.join("LOG").exists() {
            return Err(Failure::usage(format!(
                "expected a new directory, found a log in {}",
                dir.display()
            )));
        }
        let config = Config::load(Some(dir))?;
        let log = config.options(self.segment_bytes, self.compression)?.create(true).open(dir)?;
        let mut settings = String::new();
        if let Some(bytes) = self.segment_bytes {
            let _ = writeln!(settings, "segment_bytes = {bytes}");
        }
        if let Some(compression) = self.compression {
            let _ = writeln!(
                settings,
                "compression = {:?}",
                format!("{compression:?}").to_ascii_lowercase()
            );
        }
        if !settings.is_empty() {
            let path = dir.join("tidelog.toml");
            // Its owner's alone, like everything else in a log's directory, whatever the umask.
            std::fs::File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)
                .and_then(|mut file| file.write_all(settings.as_bytes()))
                .map_err(|e| Failure::io(&format!("write {}", path.display()), &e))?;
        }
        let (id, node) = (log.id().to_string(), log.node().to_string());
        log.close()?;
        output::line(json!({ "log": id, "node": node }))
    }
}
