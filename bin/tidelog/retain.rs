//! `retain`: drops old segments.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tidelog::log::Retention;
use tidelog::ship::Directory;
use tidelog::table::Snapshots;
use tidelog::text::format_bytes;
use tidelog::{Id, Offset};

use crate::args::LogDir;
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::output::{self, count, say};

/// Drop whole segments from the front: print the plan, or with --yes follow it
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog retain mylog --keep-bytes 10GiB --keep-age 7d
  tidelog retain mylog --keep-bytes 10GiB --yes

Both limits keep: a segment goes only when neither needs it. The segment being written stays, and \
what the oldest checkpoint of the table, every named cursor and every live slot still need \
(`tidelog slots list`). Followers of the directory itself hold nothing: those that are known and need what \
goes are named. Once the front is gone, the table cannot be made \
again from the log: name the snapshots that hold it, or accept that.")]
pub(crate) struct Retain {
    #[command(flatten)]
    at: LogDir,
    /// Keep at least so much of the newest segments
    #[arg(long, value_parser = tidelog::text::parse_bytes, value_name = "SIZE")]
    keep_bytes: Option<u64>,
    /// Keep records younger than this
    #[arg(long, value_parser = tidelog::text::parse_duration, value_name = "DURATION")]
    keep_age: Option<Duration>,
    /// A directory of snapshots: what the newest whole one holds may go
    #[arg(long, value_name = "DIR")]
    snapshots: Option<PathBuf>,
    /// Let records go that only the table holds, as rows
    #[arg(long)]
    table_is_only_copy: bool,
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
        let copied_below = match &self.snapshots {
            Some(store) => newest_whole(store, log.id())?,
            None => None,
        };
        let retained = log.retain(&Retention {
            keep_bytes: self.keep_bytes,
            keep_after,
            keep_from: None,
            copied_below,
            table_is_only_copy: self.table_is_only_copy,
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
            "held_by": retained.held_by.as_ref().map(|holder| match &holder.cursor {
                _ if holder.archive => json!({"archive": true, "offset": holder.offset.0}),
                Some(cursor) => json!({"cursor": cursor, "offset": holder.offset.0}),
                None if holder.slot.is_some() => json!({
                    "slot": holder.slot.map(|node| node.to_string()), "offset": holder.offset.0,
                }),
                None => json!({"checkpoint": holder.checkpoint, "offset": holder.offset.0}),
            }),
        }))?;
        if let Some(holder) = retained.held_by {
            say(format_args!("{holder}"));
        }
        // A hint: nobody knows whether they come back.
        for notice in Directory::open(dir)?.notices()? {
            let at = notice.durable.offset;
            if at < retained.start && !files.is_empty() {
                say(format_args!(
                    "note: the follower {} of this directory was at offset {at} when it was last \
                     heard of: it needs what goes",
                    notice.name
                ));
            }
        }
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

/// Behind the last record of the newest snapshot of `log` that is whole.
fn newest_whole(store: &Path, log: Id) -> Result<Option<Offset>, Failure> {
    let snapshots = Snapshots::at(store);
    for snapshot in snapshots.list()?.iter().rev().filter(|snapshot| snapshot.log == log) {
        let problems = snapshots.verify(snapshot)?;
        match problems.first() {
            None => return Ok(Some(snapshot.position.offset)),
            Some(problem) => say(format_args!("snapshot {} is damaged: {problem}", snapshot.name)),
        }
    }
    Ok(None)
}
