//! `restore`: a log's directory made from a snapshot and the log behind it; `hash`: what tells two
//! tables apart.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;
use tidelog::replica::restore_from;
use tidelog::ship::archive::Archive;
use tidelog::table::{RestoreAt, fork, restore};
use tidelog::text::{Bound, format_bytes};
use tidelog::{Log, Offset};

use crate::args::directory;
use crate::exit::Outcome;
use crate::origin::OriginArgs;
use crate::output::{self, count, say};
use crate::pause::point;
use crate::progress;
use crate::source::Place;

/// Make a log's directory from a snapshot and the log behind it
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog restore back --from mylog
  tidelog restore older --from mylog --at 2
  tidelog restore yesterday --from mylog --at @-24h
  tidelog restore another --from mylog --fork
  tidelog archive push mylog --to shelf
  tidelog restore again --from shelf --at 2

Takes the newest snapshot at or below the point and the log from there; every byte is held against \
its hash on the way. It is the same log, cut there: whoever writes to it begins a new epoch. A batch \
that reaches over the point is left out whole. With --fork, it is a new log: the same rows and an empty log that goes on at that \
offset; tokens, followers and snapshots of the old one do not fit it. What lies in the log behind the \
snapshot passes through memory.")]
pub(crate) struct Restore {
    /// The directory to make
    #[arg(value_name = "DIR", value_parser = directory())]
    dir: PathBuf,
    /// A log's directory, a directory of snapshots, or an archive: one in a directory, file:///path,
    /// s3://bucket/prefix, gs://… or az://…
    #[arg(long, value_name = "SOURCE", value_parser = Place::parse_archive)]
    from: Place,
    /// An offset, or a time: only what lies before it
    #[arg(long, value_name = "OFFSET,TIME", value_parser = point)]
    at: Option<Bound>,
    /// Make it a new log, with a new id, that begins there
    #[arg(long)]
    fork: bool,
}

/// Print the state digest of the table: two copies agree at the same offset
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog hash mylog
  tidelog hash mylog --at 2
  tidelog hash http://127.0.0.1:7400

With --at, the table is made in memory from the log up to there; a node does so for at most 256 MiB of \
log.")]
pub(crate) struct Hash {
    #[command(flatten)]
    origin: OriginArgs,
    /// An offset, or a time: only what lies before it
    #[arg(long, value_name = "OFFSET,TIME", value_parser = point)]
    at: Option<Bound>,
}

impl Restore {
    pub(crate) fn run(self) -> Outcome {
        let started = Instant::now();
        let at = match self.at {
            Some(Bound::Offset(offset)) => RestoreAt::Offset(Offset(offset)),
            Some(Bound::Time(time)) => RestoreAt::Time(time),
            _ => RestoreAt::End,
        };
        let spinner = progress::spinner("restoring");
        let restored = match (self.from.directory(), self.fork) {
            (Some(from), true) => fork(from, &self.dir, at),
            (Some(from), false) => restore(from, &self.dir, at),
            (None, true) => Err(tidelog::Error::new(
                tidelog::Kind::InvalidInput,
                format!("expected --fork with a log's directory, found the archive {}", self.from),
            )
            .help("restore from the archive first, then `restore --fork` from what that made")),
            (None, false) => {
                self.from.store().and_then(Archive::open).and_then(|archive| {
                    restore_from(Log::options(), Box::new(archive), &self.dir, at)
                })
            }
        };
        spinner.finish_and_clear();
        let restored = restored?;
        output::line(json!({
            "log": restored.log.to_string(),
            "snapshot": restored.snapshot,
            "end_offset": restored.end.0,
            "segments": restored.segments,
            "bytes": restored.bytes,
            "seconds": progress::seconds(started),
        }))?;
        say(format_args!(
            "{} holds everything before offset {}: {}, {}",
            self.dir.display(),
            restored.end,
            match &restored.snapshot {
                Some(name) =>
                    format!("snapshot {name} and {}", count(restored.segments, "segment")),
                None => count(restored.segments, "segment"),
            },
            format_bytes(restored.bytes)
        ));
        Ok(())
    }
}

impl Hash {
    pub(crate) fn run(self) -> Outcome {
        let origin = self.origin.open()?;
        let spinner = progress::spinner("hashing");
        let hash = origin.hash(self.at);
        spinner.finish_and_clear();
        let hash = hash?;
        output::line(json!({
            "offset": hash.offset,
            "epoch": hash.epoch,
            "rows": hash.rows,
            "digest": hash.digest,
        }))
    }
}
