//! `init`: creates a log.

use std::path::PathBuf;

use clap::Args;

use crate::config::{CompressionArg, Config};
use crate::exit::{Failure, Outcome};

/// Create a log
#[derive(Args)]
#[command(after_help = "Example: tidelog init mylog --segment-bytes 64MiB")]
pub(crate) struct Init {
    /// A new or empty directory
    dir: PathBuf,
    /// Target size of a segment file, for example 64MiB
    #[arg(long, value_parser = tidelog::text::parse_bytes)]
    segment_bytes: Option<u64>,
    /// How batches are compressed
    #[arg(long, value_enum)]
    compression: Option<CompressionArg>,
}

impl Init {
    pub(crate) fn run(self) -> Outcome {
        if self.dir.join("LOG").exists() {
            return Err(Failure::usage(format!(
                "expected a new directory, found a log in {}",
                self.dir.display()
            )));
        }
        let config = Config::load(Some(&self.dir))?;
        let log =
            config.options(self.segment_bytes, self.compression)?.create(true).open(&self.dir)?;
        // What was asked for here holds for every later verb on this directory.
        let mut settings = String::new();
        if let Some(bytes) = self.segment_bytes {
            settings += &format!("segment_bytes = {bytes}\n");
        }
        if let Some(compression) = self.compression {
            settings += &format!("compression = {:?}\n", format!("{compression:?}").to_lowercase());
        }
        if !settings.is_empty() {
            let path = self.dir.join("tidelog.toml");
            std::fs::write(&path, settings)
                .map_err(|e| Failure::io(&format!("write {}", path.display()), &e))?;
        }
        println!(
            "{}",
            serde_json::json!({ "log": log.id().to_string(), "node": log.node().to_string() })
        );
        log.close()?;
        Ok(())
    }
}
