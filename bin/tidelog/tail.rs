//! `tail`: reads the log.

use std::collections::VecDeque;
use std::ops::Range as Offsets;
use std::time::{Duration, Instant};

use clap::Args;
use tidelog::log::NamedCursor;
use tidelog::text::{Bound, Range};
use tidelog::{Entry, Offset, OwnedEntry};

use crate::exit::{Failure, Outcome};
use crate::origin::{Next, Origin, OriginArgs, Span};
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
  tidelog tail mylog --cursor mailer
  tidelog tail http://127.0.0.1:7400 -n 10

Ranges: 10:20, :20, 10:, -100 (the last 100), @2026-11-23T04:00:00Z:, @2026-11-23:, @-48h:-24h; the end is \
not part of it. Of times, all records whose time lies there, wherever they stand. `tidelog tail A | tidelog ingest B - --input envelope` copies records without loss.
A cursor remembers in the directory what was printed, and goes on there the next time; retention keeps \
what it has not read. After a kill the last second may come again.")]
pub(crate) struct TailArgs {
    #[command(flatten)]
    at: OriginArgs,
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
    /// Go on where the cursor of this name stopped, and remember where this stops
    #[arg(long, value_name = "NAME", conflicts_with = "range")]
    cursor: Option<String>,
    #[command(flatten)]
    print: PrintArgs,
    /// What `range` says.
    #[arg(skip = Range::ALL)]
    asked: Range,
}

/// A cursor is remembered at least so often while records are read.
const REMEMBER: Duration = Duration::from_secs(1);

/// The range that was asked for; all without one.
pub(crate) fn parse_range(text: Option<&str>) -> Result<Range, Failure> {
    let now = jiff::Timestamp::now().as_nanosecond();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    text.map_or(Ok(Range::ALL), |text| Range::parse(text, now).map_err(Failure::usage))
}

impl TailArgs {
    fn wants(&self, entry: &Entry<'_>) -> bool {
        let key = entry.record.key;
        self.asked.admits(entry.timestamp)
            && match (&self.key, &self.prefix) {
                (Some(wanted), _) => key == Some(wanted.as_bytes()),
                (_, Some(prefix)) => key.is_some_and(|key| key.starts_with(prefix.as_bytes())),
                _ => true,
            }
    }

    pub(crate) fn run(mut self) -> Outcome {
        let range = parse_range(self.range.as_deref())?;
        self.asked = range;
        let config = self.at.config()?;
        let log = &*self.at.open()?;
        let cursor = self.cursor.as_deref().map(|name| log.cursor(name)).transpose()?;
        let span = log.span(&range)?;
        let from = span.asked.start;
        let to = match range.to {
            Bound::Open if self.follow => Offset(u64::MAX),
            _ => span.asked.end,
        };
        let mut printer = self.print.printer(&config)?;
        let last_ones = self.limit.filter(|_| self.range.is_none());
        let outcome = match (cursor, last_ones) {
            (Some(cursor), _) => self.resume(log, &span, cursor, &mut printer),
            (None, Some(n)) => {
                self.last(log, span.start..span.end, n, &mut printer).and_then(|()| {
                    if self.follow {
                        self.follow(log, span.end..to, u64::MAX, None, &mut printer)
                    } else {
                        Ok(())
                    }
                })
            }
            (None, None) => {
                let limit = self.limit.unwrap_or(u64::MAX);
                if self.follow {
                    self.follow(log, from..to, limit, None, &mut printer)
                } else {
                    self.read(log, from..to, limit, &mut printer)
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
        log: &dyn Origin,
        range: Offsets<Offset>,
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
        log: &dyn Origin,
        range: Offsets<Offset>,
        limit: u64,
        mut visit: impl FnMut(&Entry<'_>) -> Outcome,
    ) -> Outcome {
        let mut entries = log.read(range)?;
        let mut left = limit;
        while left > 0 {
            match entries.next()? {
                Next::Entry(entry) => {
                    if self.wants(&entry) {
                        visit(&entry)?;
                        left -= 1;
                    }
                }
                Next::Lost(lost) => say(lost),
                Next::End => break,
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
        log: &dyn Origin,
        all: Offsets<Offset>,
        n: u64,
        printer: &mut Printer,
    ) -> Outcome {
        if self.key.is_none() && self.prefix.is_none() {
            let from = Offset(all.end.0.saturating_sub(n)).max(all.start);
            return self.read(log, from..all.end, u64::MAX, printer);
        }
        let keep = usize::try_from(n).unwrap_or(usize::MAX);
        let mut last: VecDeque<OwnedEntry> = VecDeque::new();
        self.pass(log, all, u64::MAX, |entry| {
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

    /// From where a cursor stopped; it moves over what was printed.
    fn resume(
        &self,
        log: &dyn Origin,
        span: &Span,
        mut cursor: NamedCursor,
        printer: &mut Printer,
    ) -> Outcome {
        let from = cursor.offset().unwrap_or(span.start);
        // Retention holds from now on what is to be read.
        cursor.save(from)?;
        let to = if self.follow { Offset(u64::MAX) } else { span.end.max(from) };
        let limit = self.limit.unwrap_or(u64::MAX);
        if printer.wants_to_learn() && !self.follow {
            self.pass(log, from..to, limit, |entry| {
                printer.learn(entry);
                Ok(())
            })?;
        }
        self.follow(log, from..to, limit, Some(&mut cursor), printer)
    }

    /// Prints what there is, and with `--follow` what comes; a cursor moves behind what is out.
    fn follow(
        &self,
        log: &dyn Origin,
        range: Offsets<Offset>,
        limit: u64,
        mut cursor: Option<&mut NamedCursor>,
        printer: &mut Printer,
    ) -> Outcome {
        let mut tail = log.tail(range.start)?;
        let mut left = limit;
        let mut settled = Instant::now();
        let mut settle = |at: Offset, printer: &mut Printer| {
            printer.flush()?;
            match &mut cursor {
                Some(cursor) => cursor.save(at).map_err(Failure::from),
                None => Ok(()),
            }
        };
        let outcome = loop {
            if left == 0 || tail.offset() >= range.end {
                break Ok(());
            }
            match tail.next() {
                Ok(Next::Entry(entry)) => {
                    if self.wants(&entry) {
                        printer.print(&entry)?;
                        left -= 1;
                    }
                    if self.cursor.is_none() || settled.elapsed() < REMEMBER {
                        continue;
                    }
                }
                Ok(Next::Lost(lost)) => {
                    say(lost);
                    continue;
                }
                Ok(Next::End) if !self.follow => break Ok(()),
                // Nothing more just now: show what there is, then wait.
                Ok(Next::End) => {
                    settle(tail.offset(), printer)?;
                    if progress::interrupted() {
                        break Err(Failure::interrupted());
                    }
                    tail.wait()?;
                }
                Err(failure) => break Err(failure),
            }
            settle(tail.offset(), printer)?;
            settled = Instant::now();
            if progress::interrupted() {
                break Err(Failure::interrupted());
            }
        };
        // What was printed before an interruption or damage was read all the same.
        settle(tail.offset(), printer)?;
        outcome
    }
}
