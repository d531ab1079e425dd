//! `retain`: drops old segments.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tidelog::log::Retention;

use crate::config::Config;
use crate::exit::{Failure, Outcome};

/// Drop whole segments from the front: print the plan, or with --yes follow it
#[derive(Args)]
#[command(after_help = "Example: tidelog retain mylog --keep-bytes 10GiB --keep-age 7d

Both limits keep: a segment goes only when neither needs it. The segment being written stays.")]
pub(crate) struct Retain {
    dir: PathBuf,
    /// Keep at least so much of the newest segments
    #[arg(long, value_parser = tidelog::text::parse_bytes, value_name = "SIZE")]
    keep_bytes: Option<u64>,
    /// Keep records younger than this
    #[arg(long, value_parser = tidelog::text::parse_duration, value_name = "DURATION")]
    keep_age: Option<Duration>,
    /// Do it
    #[arg(long)]
    yes: bool,
}

impl Retain {
    pub(crate) fn run(self) -> Outcome {
        if self.keep_bytes.is_none() && self.keep_age.is_none() {
            return Err(Failure::usage("expected --keep-bytes, --keep-age, or both"));
        }
        let now = jiff::Timestamp::now().as_nanosecond();
        let keep_after = self.keep_age.map(|age| {
            let age = i128::try_from(age.as_nanos()).unwrap_or(i128::MAX);
            i64::try_from(now.saturating_sub(age)).unwrap_or(i64::MIN)
        });
        let log = Config::load(Some(&self.dir))?.options(None, None)?.open(&self.dir)?;
        let retained = log.retain(&Retention {
            keep_bytes: self.keep_bytes,
            keep_after,
            keep_from: None,
            dry_run: !self.yes,
        })?;
        let files: Vec<String> = retained
            .files
            .iter()
            .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
            .collect();
        println!(
            "{}",
            serde_json::json!({
                "dropped": self.yes, "segments": files, "bytes": retained.bytes,
                "start_offset": retained.start.0,
            })
        );
        log.close()?;
        if !self.yes && !retained.files.is_empty() {
            return Err(Failure::no("nothing was dropped: this is the plan, --yes follows it"));
        }
        Ok(())
    }
}
