//! `history`: every record of one key, out of the log.

use clap::Args;
use tidelog::table::{HistoryQuery, Walked, history};
use tidelog::{Entry, Log, Offset, OwnedEntry};

use crate::args::LogDir;
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::output::{count, say};
use crate::printer::{PrintArgs, Printer};
use crate::progress;
use crate::tail::{self, parse_range};

/// Print every record of a key, deletes and events too; exit 1 when there is none
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog history mylog gate
  tidelog history mylog gate -n 2
  tidelog history mylog gate --range @-1h: -o csv --with offset,op
  tidelog history mylog gate --range 0:20 -o raw

Ranges are those of `tail`. The first history of a log reads all of it and leaves key filters in its \
directory, where it can; later ones read the segments that may hold the key alone.")]
pub(crate) struct History {
    #[command(flatten)]
    at: LogDir,
    /// The key
    key: String,
    /// Which records: offsets, a last few of the log, or times
    #[arg(long, allow_hyphen_values = true)]
    range: Option<String>,
    /// Only the last so many
    #[arg(short = 'n', value_name = "N")]
    last: Option<u64>,
    #[command(flatten)]
    print: PrintArgs,
}

/// What came of a walk, for the summary.
struct Seen {
    records: u64,
    lost: Vec<std::ops::Range<Offset>>,
    walked: Walked,
}

impl History {
    pub(crate) fn run(self) -> Outcome {
        let range = parse_range(self.range.as_deref())?;
        let config = Config::load(Some(&self.at.dir))?;
        let log = Log::options().read_only(true).open(&self.at.dir)?;
        tail::warn_unconfirmed(&log);
        let query = match self.range {
            // A range that starts before the log does is an error, as it is to `tail`.
            Some(_) => {
                let (start, end) = (log.start(), log.end());
                let from = tail::place(&log, range.from, start)?;
                let range = from..tail::place(&log, range.to, end)?;
                log.read(from.min(end))?;
                HistoryQuery { range, ..HistoryQuery::default() }
            }
            None => HistoryQuery::default(),
        };
        let mut printer = self.print.printer(&config)?;
        let outcome = self.show(&log, query, &mut printer);
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

    /// Prints, oldest first.
    fn show(&self, log: &Log, query: HistoryQuery, out: &mut Printer) -> Result<Seen, Failure> {
        let Some(last) = self.last else {
            if out.wants_to_learn() {
                self.walk(log, &query, |entry| {
                    out.learn(&entry.as_entry());
                    Ok(())
                })?;
            }
            return self.walk(log, &query, |entry| out.print(&entry.as_entry()));
        };
        let mut newest: Vec<OwnedEntry> = Vec::new();
        let query = HistoryQuery { newest_first: true, limit: Some(last), ..query };
        let walked = self.walk(log, &query, |entry| {
            newest.push(entry);
            Ok(())
        });
        let entries: Vec<Entry<'_>> = newest.iter().rev().map(OwnedEntry::as_entry).collect();
        if out.wants_to_learn() {
            entries.iter().for_each(|entry| out.learn(entry));
        }
        entries.iter().try_for_each(|entry| out.print(entry))?;
        walked
    }

    fn walk(
        &self,
        log: &Log,
        query: &HistoryQuery,
        mut visit: impl FnMut(OwnedEntry) -> Outcome,
    ) -> Result<Seen, Failure> {
        let mut history = history(log, self.key.as_bytes(), query)?;
        let mut records = 0;
        while let Some(entry) = history.next_unless(progress::interrupt_flag())? {
            records += 1;
            visit(entry)?;
        }
        if progress::interrupted() {
            return Err(Failure::interrupted());
        }
        Ok(Seen { records, lost: history.lost().to_vec(), walked: history.walked() })
    }
}
