//! `repair`: the plan, or with `--yes` the work.

use clap::Args;
use serde_json::json;
use tidelog::log::repair;

use crate::args::LogDir;
use crate::exit::{Failure, Outcome};
use crate::output::{self, count, say};
use crate::progress;

/// Save what is whole of a damaged log: print the plan, or with --yes follow it
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog repair mylog
  tidelog repair mylog --yes

First look for a copy: a segment file of a follower or a backup is the same, byte for byte. Damaged \
bytes go to the log's quarantine directory; lost offsets are put on record.")]
pub(crate) struct Repair {
    #[command(flatten)]
    at: LogDir,
    /// Do it
    #[arg(long)]
    yes: bool,
}

impl Repair {
    pub(crate) fn run(self) -> Outcome {
        let spinner = progress::spinner("reading");
        let report = repair(&self.at.dir, !self.yes);
        spinner.finish_and_clear();
        let report = report?;
        for action in &report.actions {
            say(format_args!("{}: {action}", if self.yes { "done" } else { "plan" }));
        }
        let lost: Vec<String> = report.lost.iter().map(|(a, b)| format!("{a}:{b}")).collect();
        let lost_records = report.lost.iter().map(|(a, b)| b - a).sum::<u64>();
        let quarantined: Vec<String> =
            report.quarantined.iter().map(|path| path.display().to_string()).collect();
        output::line(json!({
            "repaired": self.yes && !report.actions.is_empty(),
            "actions": report.actions.len(),
            "lost": lost,
            "lost_records": lost_records,
            "quarantined": quarantined,
        }))?;
        let loss = count(lost_records, "record");
        match (report.actions.is_empty(), self.yes) {
            (true, _) => say("nothing to repair"),
            (false, true) => say(format_args!("repaired; {loss} lost")),
            (false, false) => {
                return Err(Failure::no(format!(
                    "nothing was changed; --yes follows this plan, and {loss} would be lost"
                )));
            }
        }
        Ok(())
    }
}
