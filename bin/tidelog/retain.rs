//! `retain`: drops old segments.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tidelog::log::Retention;
use tidelog::text::format_bytes;

use crate::args::LogDir;
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::output::{self, count, say};

/// Drop whole segments from the front: print the plan, or with --yes follow it
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog retain mylog --keep-bytes 10GiB --keep-age 7d
  tidelog retain mylog --keep-bytes 10GiB --yes

Both limits keep: a segment goes only when neither needs it. The segment being written stays. \
A table is made from the whole log: once its front is gone, get, scan and count refuse, and so does \
a new follower.")]
pub(crate) struct Retain {
    #[command(flatten)]
    at: LogDir,
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
        let dir = &self.at.dir;
        if self.keep_bytes.is_none() && self.keep_age.is_none() {
            return Err(Failure::usage("expected --keep-bytes, --keep-age, or both"));
        }
        let now = jiff::Timestamp::now().as_nanosecond();
        let keep_after = self.keep_age.map(|age| {
            let age = i128::try_from(age.as_nanos()).unwrap_or(i128::MAX);
            i64::try_from(now.saturating_sub(age)).unwrap_or(i64::MIN)
        });
        let log = Config::load(Some(dir))?.options(None, None)?.open(dir)?;
        let retained = log.retain(&Retention {
            keep_bytes: self.keep_bytes,
            keep_after,
            keep_from: None,
            dry_run: !self.yes,
        })?;
        log.close()?;
        let files: Vec<String> = retained
            .files
            .iter()
            .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
            .collect();
        output::line(json!({
            "dropped": self.yes && !files.is_empty(), "segments": files, "bytes": retained.bytes,
            "start_offset": retained.start.0,
        }))?;
        let size = format_bytes(retained.bytes);
        match (files.len(), self.yes) {
            (0, _) => say("nothing to drop"),
            (n, true) => say(format_args!("dropped {}, {size}", count(n, "segment"))),
            (n, false) => {
                return Err(Failure::no(format!(
                    "{}, {size}, would go; nothing was dropped, --yes does it",
                    count(n, "segment")
                )));
            }
        }
        Ok(())
    }
}
