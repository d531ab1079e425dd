//! `follow`: keeps a copy of another log and applies it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tidelog::replica::{Gauge, Progress};
use tidelog::text::format_bytes;
use tidelog::{Follower, Log, Offset};

use crate::access::TokenArgs;
use crate::args::{LogDir, NodeArgs};
use crate::exit::{Failure, Outcome};
use crate::output::{self, count, say};
use crate::progress;
use crate::source::{self, Place, SourceArgs};

/// How often progress is shown anew.
const LOOK: Duration = Duration::from_millis(100);

/// Keep a byte-identical copy of a log and apply it
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog follow copy --from mylog --once
  tidelog follow copy --from mylog --until 2
  tidelog follow copy --from mylog
  tidelog follow copy --from http://127.0.0.1:7400 --limit-bytes-per-s 1MiB
  tidelog follow copy --from http://127.0.0.1:7400 --from mylog --once
  tidelog follow copy --from mylog --pause-at 2 --once
  tidelog follow copy --from mylog --rejoin --once

Every frame is verified before it is kept. Each step is one JSON line on stdout. Without --once and \
--until it runs until Ctrl-C; started again, it goes on. Only what is durable at the source is copied. Of several \
sources the first that can help is followed, and those before it are tried again. What this copy has and a \
newer leader does not is kept in diverged/ (`tidelog diverged list`).")]
pub(crate) struct Follow {
    /// The copy's directory; made if it is not there
    #[command(flatten)]
    at: LogDir,
    /// The log to copy, the leader's or another copy's: a directory, a node's address, or an
    /// archive: file:///path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix. Given
    /// several times: in this order, the next when one fails or lacks what the copy needs
    #[arg(long, value_name = "SOURCE", value_parser = Place::parse, required = true)]
    from: Vec<Place>,
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
        let started = Instant::now();
        source::begin_anew(|| self.follow(started))
    }

    fn follow(&self, started: Instant) -> Outcome {
        let mut options = self.source.options(Log::options().identity(self.node.identity()));
        if self.from.iter().any(Place::is_store) {
            // Each look is a request.
            options = options.poll_every(Duration::from_secs(1));
        }
        let name = source::name(self.name.as_deref(), &self.at.dir);
        let token = self.token.token_file.as_deref();
        let source = self.source.open(&self.from, token, &name, None)?;
        let table = self.source.table();
        let mut follower = Follower::open_from(options, table, &self.at.dir, source)?;
        for finding in &follower.report().findings {
            say(format_args!("note: {finding}"));
        }
        let opened = follower.report().findings.len();
        let outcome = if self.once {
            let gauge = follower.gauge();
            shown(&gauge, || follower.catch_up())
                .map_err(|e| match progress::interrupted() {
                    true => Failure::interrupted(),
                    false => Failure::from(e),
                })
                .and_then(|progress| step(&progress, &follower.gauge(), started))
        } else {
            self.keep_on(&mut follower, started)
        };
        for finding in &follower.report().findings[opened..] {
            say(format_args!("note: {finding}"));
        }
        let (end, source) = (follower.end(), follower.source());
        let closed = follower.close();
        if outcome.as_ref().err().is_none_or(|failure| failure.code == 130) {
            say(format_args!(
                "{} and {} hold the same records up to offset {end}",
                self.at.dir.display(),
                source
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
        let gauge = follower.gauge();
        let mut from = follower.source();
        follower.run(stop, |result| match result {
            Ok(progress) => {
                let shown = gauge.read();
                if shown.source != from {
                    let left = shown.sources.iter().find(|link| link.place == from);
                    let why = left.and_then(|link| link.trouble.as_deref());
                    say(format_args!("{}from {} now", why_not(&from, why), shown.source));
                    from = shown.source;
                }
                outcome = step(progress, &gauge, started);
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

/// Shows people how far a copy is while `work` brings it up to its source.
fn shown<T>(gauge: &Gauge, work: impl FnOnce() -> T) -> T {
    /// Ends the thread that looks, also when the work panics.
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    let bar = progress::bytes(Some(0));
    if bar.is_hidden() {
        return work();
    }
    let done = AtomicBool::new(false);
    let look = || {
        while !done.load(Ordering::Acquire) {
            let shown = gauge.read();
            bar.set_length(shown.bytes + shown.lag.bytes);
            bar.set_position(shown.bytes);
            bar.set_message(format!("{} behind", count(shown.lag.records, "record")));
            std::thread::sleep(LOOK);
        }
        bar.finish_and_clear();
    };
    std::thread::scope(|scope| {
        // Without it the work is done all the same.
        let _ = std::thread::Builder::new().name("progress".into()).spawn_scoped(scope, look);
        let _ends = Ends(&done);
        work()
    })
}

/// Why another source is followed, if the one before said anything.
fn why_not(place: &str, why: Option<&str>) -> String {
    why.map_or_else(String::new, |why| format!("{place}: {why}; "))
}

/// Says what one step brought: a line of data, and a line for people.
fn step(progress: &Progress, gauge: &Gauge, started: Instant) -> Outcome {
    let (records, shown) = (progress.to.0 - progress.from.0, gauge.read());
    output::line(json!({
        "from_offset": progress.from.0,
        "to_offset": progress.to.0,
        "applied_offset": progress.applied.0,
        "records": records,
        "bytes": progress.bytes,
        "segments": progress.segments,
        "lag_records": progress.lag.records,
        "lag_bytes": progress.lag.bytes,
        "paused": shown.paused,
        "source": shown.source,
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
