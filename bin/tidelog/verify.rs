//! `verify`: reads everything, changes nothing.

use std::time::Instant;

use clap::Args;
use serde_json::json;
use tidelog::log::{Level, verify};
use tidelog::table;
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
offsets, problem}, offsets as a range for `tail --range`; then one line with the totals. The table's \
checkpoints and runs are looked at, too; their problems have no offsets.")]
pub(crate) struct Verify {
    #[command(flatten)]
    at: LogDir,
    /// Names, headers, footers, links and the active segment only; of the table, checkpoints and
    /// the runs' footers
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Every byte; the default
    #[arg(long)]
    full: bool,
}

impl Verify {
    pub(crate) fn run(self) -> Outcome {
        let level = if self.quick { Level::Quick } else { Level::Full };
        let started = Instant::now();
        let spinner = progress::spinner("verifying");
        let report = verify(&self.at.dir, level);
        let table = table::verify(&self.at.dir, level);
        spinner.finish_and_clear();
        let report = report?;
        let table = table?;
        for problem in &report.problems {
            output::line(json!({
                "file": problem.file.display().to_string(),
                "byte": problem.byte,
                "offsets": problem.offsets.map(|(from, to)| format!("{from}:{to}")),
                "problem": problem.problem,
            }))?;
        }
        for problem in &table.problems {
            output::line(json!({
                "file": problem.file.display().to_string(),
                "byte": problem.byte,
                "offsets": null,
                "problem": problem.problem,
            }))?;
        }
        let problems = report.problems.len() + table.problems.len();
        let lost: Vec<String> = report.lost.iter().map(|(a, b)| format!("{a}:{b}")).collect();
        output::line(json!({
            "problems": problems,
            "segments": report.segments,
            "frames": report.frames,
            "records": report.records,
            "bytes": report.bytes,
            "checkpoints": table.checkpoints,
            "runs": table.runs,
            "lost_before": lost,
            "level": if self.quick { "quick" } else { "full" },
            "seconds": progress::seconds(started),
        }))?;
        let kept = tidelog::replica::diverged::list(&self.at.dir).unwrap_or_default();
        for kept in &kept {
            match kept {
                Ok(kept) => say(format_args!(
                    "note: a rejoin kept {} in {}",
                    count(kept.records(), "record"),
                    kept.dir().display()
                )),
                Err(e) => say(format_args!("note: what a rejoin kept cannot be read: {e}")),
            }
        }
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
            "{}, {}, {} in {}",
            count(report.segments, "segment"),
            count(table.runs, "run"),
            format_bytes(report.bytes + table.bytes),
            format_args!("{:.2} s", started.elapsed().as_secs_f64())
        );
        if problems == 0 {
            say(format_args!("no damage found: {looked_at}"));
            return Ok(());
        }
        let advice = match report.problems.is_empty() {
            true => "`tidelog repair` puts it aside, and the table is made again",
            false => {
                "the same segment of a follower or a backup heals it, otherwise `tidelog repair` \
                 says what can be saved"
            }
        };
        Err(Failure::no(format!("{} found in {looked_at}; {advice}", count(problems, "problem"))))
    }
}
