//! `verify`: reads everything, changes nothing.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tidelog::log::{Level, verify};

use crate::exit::{Failure, Outcome};

/// Check a log; exit 1 with a list when it is damaged
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog verify mylog
  tidelog verify mylog --quick

Takes no lock and changes nothing; a writer may be at work. One line a problem, then a summary.")]
pub struct Verify {
    dir: PathBuf,
    /// Names, headers, footers, links and the active segment only
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Every byte; the default
    #[arg(long)]
    full: bool,
}

impl Verify {
    pub fn run(self) -> Outcome {
        let level = if self.quick { Level::Quick } else { Level::Full };
        let report = verify(&self.dir, level)?;
        let mut out = std::io::stdout().lock();
        for problem in &report.problems {
            let offsets = problem.offsets.map(|(from, to)| format!("{from}:{to}"));
            let line = json!({
                "file": problem.file.display().to_string(),
                "byte": problem.byte,
                "offsets": offsets,
                "problem": problem.problem,
            });
            writeln!(out, "{line}")?;
        }
        for note in &report.notes {
            anstream::eprintln!("tidelog: note: {note}");
        }
        let lost: Vec<String> = report.lost.iter().map(|(a, b)| format!("{a}:{b}")).collect();
        let summary = json!({
            "problems": report.problems.len(),
            "segments": report.segments,
            "frames": report.frames,
            "records": report.records,
            "bytes": report.bytes,
            "lost_before": lost,
            "level": if self.quick { "quick" } else { "full" },
            "seconds": report.elapsed.as_secs_f64(),
        });
        writeln!(out, "{summary}")?;
        if report.problems.is_empty() {
            return Ok(());
        }
        Err(Failure::no(format!(
            "{} problems; `tidelog repair` says what can be saved",
            report.problems.len()
        )))
    }
}
