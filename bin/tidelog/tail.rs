//! `tail`: reads the log.

use std::collections::VecDeque;
use std::time::Duration;

use clap::Args;
use tidelog::text::{Bound, Range};
use tidelog::{Entry, Kind, Log, Offset, OwnedEntry};

use crate::args::LogDir;
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::output::say;
use crate::printer::{PrintArgs, Printer};
use crate::progress;

/// Read the log
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog tail mylog -n 10
  tidelog tail mylog --range @-1h: -o csv
  tidelog tail mylog --range 0:20 --key gate
  tidelog tail mylog --follow

Ranges: 10:20, :20, 10:, -100 (the last 100), @2026-11-23T04:00:00Z:, @-48h:-24h; the end is not part \
of it. `tidelog tail A | tidelog ingest B - --input envelope` copies records without loss.")]
pub(crate) struct TailArgs {
    #[command(flatten)]
    at: LogDir,
    /// Which records: offsets, a last few, or times
    #[arg(long, allow_hyphen_values = true)]
    range: Option<String>,
    /// Wait for more
    #[arg(short, long)]
    follow: bool,
    /// At most so many; without --range the last ones
    #[arg(short = 'n', value_name = "N")]
    limit: Option<u64>,
    /// Only this key
    #[arg(long, conflicts_with = "prefix")]
    key: Option<String>,
    /// Only keys that start so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    #[command(flatten)]
    print: PrintArgs,
}

/// The range that was asked for; all without one.
pub(crate) fn parse_range(text: Option<&str>) -> Result<Range, Failure> {
    let now = jiff::Timestamp::now().as_nanosecond();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    text.map_or(Ok(Range::ALL), |text| Range::parse(text, now).map_err(Failure::usage))
}

/// The offset that a bound stands for.
pub(crate) fn place(log: &Log, bound: Bound, open: Offset) -> Result<Offset, Failure> {
    Ok(match bound {
        Bound::Open => open,
        Bound::Offset(offset) => Offset(offset),
        Bound::Last(n) => Offset(log.end().0.saturating_sub(n)).max(log.start()),
        Bound::Time(time) => log.seek_time(time)?,
    })
}

/// Says which records a power cut may take.
pub(crate) fn warn_unconfirmed(log: &Log) {
    if log.confirmed_end() < log.end() {
        say(format_args!(
            "records from offset {} on were read from a log whose writer is gone; until it is \
             opened for writing again, a power cut may take them",
            log.confirmed_end()
        ));
    }
}

impl TailArgs {
    fn wants(&self, entry: &Entry<'_>) -> bool {
        let key = entry.record.key;
        match (&self.key, &self.prefix) {
            (Some(wanted), _) => key == Some(wanted.as_bytes()),
            (_, Some(prefix)) => key.is_some_and(|key| key.starts_with(prefix.as_bytes())),
            _ => true,
        }
    }

    pub(crate) fn run(self) -> Outcome {
        let range = parse_range(self.range.as_deref())?;
        let config = Config::load(Some(&self.at.dir))?;
        let log = Log::options().read_only(true).open(&self.at.dir)?;
        let (start, end) = (log.start(), log.end());
        let from = place(&log, range.from, start)?;
        let to = match range.to {
            Bound::Open if self.follow => Offset(u64::MAX),
            bound => place(&log, bound, end)?,
        };
        warn_unconfirmed(&log);
        let mut printer = self.print.printer(&config)?;
        let last_ones = self.limit.filter(|_| self.range.is_none());
        let outcome = match last_ones {
            Some(n) => self.last(&log, from, end, n, &mut printer).and_then(|()| {
                if self.follow {
                    self.follow(&log, end, to, u64::MAX, &mut printer)
                } else {
                    Ok(())
                }
            }),
            None => {
                let limit = self.limit.unwrap_or(u64::MAX);
                if self.follow {
                    self.follow(&log, from, to, limit, &mut printer)
                } else {
                    self.read(&log, from..to, limit, &mut printer)
                }
            }
        };
        match outcome {
            Err(failure) if failure.code == 130 => printer.finish().and(Err(failure)),
            Err(failure) => {
                // What was read before the damage is data all the same.
                let _ = printer.finish();
                Err(failure)
            }
            Ok(()) => printer.finish(),
        }
    }

    fn read(
        &self,
        log: &Log,
        range: std::ops::Range<Offset>,
        limit: u64,
        printer: &mut Printer,
    ) -> Outcome {
        if printer.wants_to_learn() {
            self.pass(log, range.clone(), limit, |entry| {
                printer.learn(entry);
                Ok(())
            })?;
        }
        self.pass(log, range, limit, |entry| printer.print(entry))
    }

    /// Hands the wanted records of a range to `visit`.
    fn pass(
        &self,
        log: &Log,
        range: std::ops::Range<Offset>,
        limit: u64,
        mut visit: impl FnMut(&Entry<'_>) -> Outcome,
    ) -> Outcome {
        let mut cursor = log.read_range(range)?;
        let mut left = limit;
        while left > 0 {
            match cursor.next() {
                Ok(Some(entry)) => {
                    if self.wants(&entry) {
                        visit(&entry)?;
                        left -= 1;
                    }
                }
                Ok(None) => break,
                Err(e) if e.kind() == Kind::Lost => say(e),
                Err(e) => return Err(e.into()),
            }
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
        }
        Ok(())
    }

    /// The last `n` wanted records.
    fn last(
        &self,
        log: &Log,
        start: Offset,
        end: Offset,
        n: u64,
        printer: &mut Printer,
    ) -> Outcome {
        if self.key.is_none() && self.prefix.is_none() {
            let from = Offset(end.0.saturating_sub(n)).max(start);
            return self.read(log, from..end, u64::MAX, printer);
        }
        let keep = usize::try_from(n).unwrap_or(usize::MAX);
        let mut last: VecDeque<OwnedEntry> = VecDeque::new();
        self.pass(log, start..end, u64::MAX, |entry| {
            if last.len() == keep {
                last.pop_front();
            }
            if keep > 0 {
                last.push_back(entry.to_owned());
            }
            Ok(())
        })?;
        let entries: Vec<Entry<'_>> = last.iter().map(OwnedEntry::as_entry).collect();
        if printer.wants_to_learn() {
            entries.iter().for_each(|entry| printer.learn(entry));
        }
        entries.iter().try_for_each(|entry| printer.print(entry))
    }

    fn follow(
        &self,
        log: &Log,
        from: Offset,
        to: Offset,
        limit: u64,
        printer: &mut Printer,
    ) -> Outcome {
        let mut tail = log.tail(from)?;
        let mut left = limit;
        while left > 0 && tail.offset() < to {
            match tail.next_timeout(Duration::ZERO) {
                Ok(Some(entry)) => {
                    if self.wants(&entry) {
                        printer.print(&entry)?;
                        left -= 1;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(e) if e.kind() == Kind::Lost => {
                    say(e);
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            // Nothing more just now: show what there is, then wait.
            printer.flush()?;
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
            tail.wait_timeout(Duration::from_millis(500))?;
        }
        Ok(())
    }
}
