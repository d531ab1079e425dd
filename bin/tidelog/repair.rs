//! `repair`: the plan, or with `--yes` the work.

use clap::Args;
use serde_json::json;
use tidelog::Kind;
use tidelog::log::repair;
use tidelog::table::{self, TableRepair};

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
bytes go to the log's quarantine directory; lost offsets are put on record. Damaged files of the \
table go there, too; it is made again from an older checkpoint or from the log. Nothing of it is \
moved if that would lose rows.")]
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
        let table = report.as_ref().ok().map(|_| table::repair(&self.at.dir, !self.yes));
        spinner.finish_and_clear();
        let report = report?;
        let table = match table.unwrap_or_else(|| Ok(TableRepair::default())) {
            Err(e) if e.kind() == Kind::Corrupt && !self.yes && !report.actions.is_empty() => {
                say(format_args!("plan: then look at the table ({e})"));
                TableRepair::default()
            }
            table => table?,
        };
        for action in report.actions.iter().chain(&table.actions) {
            say(format_args!("{}: {action}", if self.yes { "done" } else { "plan" }));
        }
        let lost: Vec<String> = report.lost.iter().map(|(a, b)| format!("{a}:{b}")).collect();
        let lost_records = report.lost.iter().map(|(a, b)| b - a).sum::<u64>();
        let quarantined: Vec<String> = (report.quarantined.iter().chain(&table.quarantined))
            .map(|path| path.display().to_string())
            .collect();
        let actions = report.actions.len() + table.actions.len();
        output::line(json!({
            "repaired": self.yes && actions > 0,
            "actions": actions,
            "lost": lost,
            "lost_records": lost_records,
            "lost_keys": table.lost_keys,
            "quarantined": quarantined,
        }))?;
        if !table.actions.is_empty() {
            say(match table.next {
                Some((seq, offset)) => format!(
                    "the next open takes the table's checkpoint {seq}, behind offset {offset}, and \
                     the log from there"
                ),
                None => "the next open makes the table again from the log".to_owned(),
            });
        }
        let loss = count(lost_records, "record");
        match (actions, self.yes) {
            (0, _) if table.lost_keys.is_empty() => say("nothing to repair"),
            (0, _) => {}
            (_, true) => say(format_args!("repaired; {loss} lost")),
            (_, false) => {
                return Err(Failure::no(format!(
                    "nothing was changed; --yes follows this plan, and {loss} would be lost"
                )));
            }
        }
        self.only_copy(&table)
    }

    /// Says what repair does not touch: the table, where it is the only copy of its rows.
    fn only_copy(&self, table: &TableRepair) -> Outcome {
        if table.lost_keys.is_empty() {
            return Ok(());
        }
        for keys in &table.lost_keys {
            say(format_args!("rows would be lost: {keys}"));
        }
        Err(Failure::no(format!(
            "the table is damaged, and the log no longer has what it was made from: its files stay \
             where they are, and keys that are whole can be read; `tidelog restore NEW --from \
             {}` makes a whole one if there is a snapshot in {}, or name another directory of \
             snapshots",
            self.at.dir.display(),
            self.at.dir.join("snapshots").display()
        )))
    }
}
