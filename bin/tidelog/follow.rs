//! `follow`: keeps a copy of another log and applies it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tidelog::replica::Progress;
use tidelog::text::format_bytes;
use tidelog::{Follower, Log, Offset, Table};

use crate::access::TokenArgs;
use crate::args::{LogDir, NodeArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{self, count, say};
use crate::progress;
use crate::source::{self, Place, SourceArgs};

/// Keep a byte-identical copy of a log and apply it
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog follow copy --from mylog --once
  tidelog follow copy --from mylog --until 2
  tidelog follow copy --from mylog
  tidelog follow copy --from http://127.0.0.1:7400 --limit-bytes-per-s 1MiB

Every frame is verified before it is kept. Each step is one JSON line on stdout. Without --once and \
--until it runs until Ctrl-C; started again, it goes on. Only what is durable at the source is copied.")]
pub(crate) struct Follow {
    /// The copy's directory; made if it is not there
    #[command(flatten)]
    at: LogDir,
    /// The log to copy, the leader's or another copy's: a directory, a node's address, or an
    /// archive: file:///path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix
    #[arg(long, value_name = "SOURCE", value_parser = Place::parse)]
    from: Place,
    /// What the other side calls this follower; its directory's name unless given
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    token: TokenArgs,
    /// Catch up, then end
    #[arg(long, conflicts_with = "until")]
    once: bool,
    /// End when every record before this offset is copied
    #[arg(long, value_name = "OFFSET")]
    until: Option<u64>,
    #[command(flatten)]
    node: NodeArgs,
}

impl Follow {
    pub(crate) fn run(self) -> Outcome {
        let mut options = Log::options().identity(self.node.identity());
        if self.from.is_store() {
            // Each look is a request.
            options = options.poll_every(Duration::from_secs(1));
        }
        let name = source::name(self.name.as_deref(), &self.at.dir);
        let token = self.token.token_file.as_deref();
        let source = self.from.open(&self.source, token, &name, None)?;
        let table = Table::options();
        let mut follower = Follower::open_from(options, table, &self.at.dir, source)?;
        for finding in &follower.report().findings {
            say(format_args!("note: {finding}"));
        }
        let started = Instant::now();
        let outcome = if self.once {
            follower.catch_up().map_err(Failure::from).and_then(|progress| step(&progress, started))
        } else {
            self.keep_on(&mut follower, started)
        };
        let end = follower.end();
        let closed = follower.close();
        if outcome.as_ref().err().is_none_or(|failure| failure.code == 130) {
            say(format_args!(
                "{} and {} hold the same records up to offset {end}",
                self.at.dir.display(),
                self.from
            ));
        }
        outcome.and(closed.map_err(Failure::from))
    }

    fn keep_on(&self, follower: &mut Follower, started: Instant) -> Outcome {
        let until = self.until.map(Offset);
        if until.is_some_and(|until| follower.end() >= until) {
            return Ok(());
        }
        let stop = progress::interrupt_flag();
        let (mut outcome, mut reached) = (Ok(()), false);
        follower.run(stop, |result| match result {
            Ok(progress) => {
                outcome = step(progress, started);
                reached = until.is_some_and(|until| progress.to >= until);
                if reached || outcome.is_err() {
                    stop.store(true, Ordering::Release);
                }
            }
            Err(e) => say(format_args!("{e}; trying again")),
        })?;
        if reached { outcome } else { outcome.and(Err(Failure::interrupted())) }
    }
}

/// Says what one step brought: a line of data, and a line for people.
fn step(progress: &Progress, started: Instant) -> Outcome {
    let records = progress.to.0 - progress.from.0;
    output::line(json!({
        "from_offset": progress.from.0,
        "to_offset": progress.to.0,
        "records": records,
        "bytes": progress.bytes,
        "segments": progress.segments,
        "lag_records": progress.lag.records,
        "lag_bytes": progress.lag.bytes,
        "seconds": progress::seconds(started),
    }))?;
    say(format_args!(
        "copied {}, {}; {} behind",
        count(records, "record"),
        format_bytes(progress.bytes),
        count(progress.lag.records, "record"),
    ));
    Ok(())
}
