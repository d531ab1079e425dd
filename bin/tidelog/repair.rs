//! `repair`: the plan, or with `--yes` the work.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tidelog::log::repair;

use crate::exit::{Failure, Outcome};

/// Save what is whole of a damaged log: print the plan, or with --yes follow it
#[derive(Args)]
#[command(after_help = "Example: tidelog repair mylog

First look for a copy: a segment file of a follower or a backup is the same, byte for byte. Damaged \
bytes go to the log's quarantine directory; lost offsets are put on record.")]
pub struct Repair {
    dir: PathBuf,
    /// Do it
    #[arg(long)]
    yes: bool,
}

impl Repair {
    pub fn run(self) -> Outcome {
        let report = repair(&self.dir, !self.yes)?;
        for action in &report.actions {
            anstream::eprintln!("{} {action}", if self.yes { "done:" } else { "plan:" });
        }
        let lost: Vec<String> = report.lost.iter().map(|(a, b)| format!("{a}:{b}")).collect();
        let quarantined: Vec<String> =
            report.quarantined.iter().map(|path| path.display().to_string()).collect();
        println!(
            "{}",
            json!({
                "repaired": self.yes && !report.actions.is_empty(),
                "actions": report.actions.len(),
                "lost": lost,
                "lost_records": report.lost.iter().map(|(a, b)| b - a).sum::<u64>(),
                "quarantined": quarantined,
            })
        );
        if !self.yes && !report.actions.is_empty() {
            return Err(Failure::no("nothing was changed: this is the plan, --yes follows it"));
        }
        Ok(())
    }
}
