//! `follow`: keeps a copy of another log and applies it.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;
use tidelog::replica::Progress;
use tidelog::ship::Directory;
use tidelog::{Follower, Log, Offset};

use crate::exit::{Failure, Outcome};
use crate::progress;
use crate::shell::identity;

/// Keep a byte-identical copy of a log and apply it
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog follow copy --from mylog --once
  tidelog follow copy --from mylog

Every frame is verified before it is kept. Each step is one JSON line on stdout; stop it with Ctrl-C, \
start it again, and it goes on.")]
pub struct Follow {
    /// The copy; made if it is not there
    dir: PathBuf,
    /// The leader's directory
    #[arg(long, value_name = "DIRECTORY")]
    from: PathBuf,
    /// Catch up, then end
    #[arg(long, conflicts_with = "until")]
    once: bool,
    /// End when this offset is copied
    #[arg(long, value_name = "OFFSET")]
    until: Option<u64>,
    /// The directory was copied here: it is a new node
    #[arg(long, conflicts_with = "same_node")]
    new_node: bool,
    /// The directory was moved here: it is the same node
    #[arg(long)]
    same_node: bool,
}

impl Follow {
    pub fn run(self) -> Outcome {
        let text = self.from.to_string_lossy();
        if text.contains("://") && !text.starts_with("file://") {
            return Err(Failure::usage(format!(
                "expected a directory to follow, found {text}: this version pulls from directories"
            )));
        }
        let options = Log::options().identity(identity(self.new_node, self.same_node));
        let source = Directory::open(&self.from)?;
        let mut follower = Follower::open(options, &self.dir, source)?;
        let started = Instant::now();
        if self.once {
            let progress = follower.catch_up()?;
            say(&follower, &progress, started)?;
            follower.close()?;
            return Ok(());
        }
        if self.until.is_some_and(|until| follower.end() >= Offset(until)) {
            follower.close()?;
            return Ok(());
        }
        let stop = progress::interrupt_flag();
        let mut failed = None;
        let (until, mut reached) = (self.until.map(Offset), false);
        follower.run(stop, |step| match step {
            Ok(progress) => {
                if let Err(e) = print_step(progress, started) {
                    failed = Some(e);
                    stop.store(true, std::sync::atomic::Ordering::Release);
                }
                if until.is_some_and(|until| progress.to >= until) {
                    reached = true;
                    stop.store(true, std::sync::atomic::Ordering::Release);
                }
            }
            Err(e) => anstream::eprintln!("tidelog: {e}; trying again"),
        })?;
        follower.close()?;
        match failed {
            Some(failure) => Err(failure),
            None if reached => Ok(()),
            None => Err(Failure::interrupted()),
        }
    }
}

fn print_step(progress: &Progress, started: Instant) -> Outcome {
    use std::io::Write;
    let line = json!({
        "from_offset": progress.from.0,
        "to_offset": progress.to.0,
        "records": progress.to.0 - progress.from.0,
        "bytes": progress.bytes,
        "segments": progress.segments,
        "lag_records": progress.lag.records,
        "lag_bytes": progress.lag.bytes,
        "seconds": started.elapsed().as_secs_f64(),
    });
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(())
}

fn say(follower: &Follower, progress: &Progress, started: Instant) -> Outcome {
    print_step(progress, started)?;
    let report = follower.report();
    if let Some(note) = report_notes(report) {
        anstream::eprintln!("tidelog: {note}");
    }
    Ok(())
}

fn report_notes(report: &tidelog::replica::FollowerReport) -> Option<String> {
    (!report.findings.is_empty()).then(|| report.findings.join("; "))
}
