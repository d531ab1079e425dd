//! `verify`: reads everything, changes nothing.

use clap::Args;
use serde_json::json;
use tidelog::log::{Level, verify};
use tidelog::text::format_bytes;

use crate::args::LogDir;
use crate::exit::{Failure, Outcome};
use crate::output::{self, count, say};
use crate::progress;

/// Check a log; exit 1 with a list when it is damaged
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog verify mylog
  tidelog verify mylog --quick

Takes no lock and changes nothing; a writer may be at work. Prints one line a problem, {file, byte, \
offsets, problem}, offsets as a range for `tail --range`; then one line with the totals.")]
pub(crate) struct Verify {
    #[command(flatten)]
    at: LogDir,
    /// Names, headers, footers, links and the active segment only
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Every byte; the default
    #[arg(long)]
    full: bool,
}

impl Verify {
    pub(crate) fn run(self) -> Outcome {
        let level = if self.quick { Level::Quick } else { Level::Full };
        let spinner = progress::spinner("verifying");
        let report = verify(&self.at.dir, level);
        spinner.finish_and_clear();
        let report = report?;
        for problem in &report.problems {
            output::line(json!({
                "file": problem.file.display().to_string(),
                "byte": problem.byte,
                "offsets": problem.offsets.map(|(from, to)| format!("{from}:{to}")),
                "problem": problem.problem,
            }))?;
        }
        let lost: Vec<String> = report.lost.iter().map(|(a, b)| format!("{a}:{b}")).collect();
        output::line(json!({
            "problems": report.problems.len(),
            "segments": report.segments,
            "frames": report.frames,
            "records": report.records,
            "bytes": report.bytes,
            "lost_before": lost,
            "level": if self.quick { "quick" } else { "full" },
            "seconds": progress::rounded(report.elapsed),
        }))?;
        for note in &report.notes {
            say(format_args!("note: {note}"));
        }
        if !lost.is_empty() {
            say(format_args!(
                "an earlier repair put these offsets on record as lost: {}",
                lost.join(", ")
            ));
        }
        let looked_at = format!(
            "{}, {} in {:.2} s",
            count(report.segments, "segment"),
            format_bytes(report.bytes),
            report.elapsed.as_secs_f64()
        );
        if report.problems.is_empty() {
            say(format_args!("no damage found: {looked_at}"));
            return Ok(());
        }
        Err(Failure::no(format!(
            "{} found in {looked_at}; the same segment of a follower or a backup heals it, \
             otherwise `tidelog repair` says what can be saved",
            count(report.problems.len(), "problem")
        )))
    }
}
