//! `history`: every record of one key, out of the log.

use clap::Args;
use tidelog::table::Walked;
use tidelog::{Entry, OwnedEntry};

use crate::exit::{Failure, Outcome};
use crate::origin::{FreshArgs, HistoryOf, Origin, OriginArgs, Seen};
use crate::output::{count, say};
use crate::printer::{PrintArgs, Printer};
use crate::tail::parse_range;

/// Print every record of a key, deletes and events too; exit 1 when there is none
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog history mylog gate
  tidelog history mylog gate -n 2
  tidelog history mylog gate --range @-1h: -o csv --with offset,op
  tidelog history mylog gate --range 0:20 -o raw
  tidelog history http://127.0.0.1:7400 gate

Ranges are those of `tail`. The first history of a log reads all of it and leaves key filters in its \
directory, where it can; later ones read the segments that may hold the key alone.")]
pub(crate) struct History {
    #[command(flatten)]
    at: OriginArgs,
    /// The key
    key: String,
    /// Which records: offsets, a last few of the log, or times
    #[arg(long, allow_hyphen_values = true)]
    range: Option<String>,
    /// Only the last so many
    #[arg(short = 'n', value_name = "N")]
    last: Option<u64>,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    print: PrintArgs,
}

impl History {
    pub(crate) fn run(self) -> Outcome {
        let range = parse_range(self.range.as_deref())?;
        let config = self.at.config()?;
        let log = self.at.open_fresh(&self.fresh)?;
        // Only what was asked for as a range may not begin before the log does.
        let range = self.range.is_some().then_some(range);
        let asked = HistoryOf { key: &self.key, range, last: self.last };
        let mut printer = self.print.printer(&config)?;
        let outcome = show(&*log, asked, &mut printer);
        // What was read before an interruption or damage is data all the same.
        let finished = printer.finish();
        let seen = outcome?;
        finished?;
        for lost in &seen.lost {
            say(format_args!(
                "offsets {} to {} were lost to damage; some may have been of this key",
                lost.start,
                lost.end.0 - 1
            ));
        }
        let Walked { segments_read, segments_skipped, .. } = seen.walked;
        let walked =
            format!("read {}, passed over {segments_skipped}", count(segments_read, "segment"));
        match seen.records {
            0 => Err(Failure::no(format!("no record of key {:?}; {walked}", self.key))),
            n => {
                say(format_args!("{} of key {:?}; {walked}", count(n, "record"), self.key));
                Ok(())
            }
        }
    }
}

/// Prints, oldest first.
fn show(log: &dyn Origin, asked: HistoryOf<'_>, out: &mut Printer) -> Result<Seen, Failure> {
    if asked.last.is_none() {
        if out.wants_to_learn() {
            log.history(asked, &mut |entry| {
                out.learn(entry);
                Ok(())
            })?;
        }
        return log.history(asked, &mut |entry| out.print(entry));
    }
    let mut newest: Vec<OwnedEntry> = Vec::new();
    let seen = log.history(asked, &mut |entry| {
        newest.push(entry.to_owned());
        Ok(())
    });
    let entries: Vec<Entry<'_>> = newest.iter().rev().map(OwnedEntry::as_entry).collect();
    if out.wants_to_learn() {
        entries.iter().for_each(|entry| out.learn(entry));
    }
    entries.iter().try_for_each(|entry| out.print(entry))?;
    seen
}
