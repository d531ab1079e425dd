//! `get`, `scan`, `count`: the table, built from the log as it is opened.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use tidelog::table::{AtLeast, Row, RowRef, Scan, Table};
use tidelog::{Entry, Kind, Log, Record, Token};

use crate::args::LogDir;
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::output::{self, say};
use crate::printer::{PrintArgs, Printer};
use crate::progress;

/// Print the latest record of a key; exit 1 when there is none
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog get mylog gate
  tidelog get mylog gate -o raw
  tidelog get mylog gate --at-least TOKEN --timeout 5s")]
pub(crate) struct Get {
    #[command(flatten)]
    at: LogDir,
    /// The key
    key: String,
    /// Wait until the record with this token is there; appends print tokens
    #[arg(long, value_name = "TOKEN", value_parser = token)]
    at_least: Option<Token>,
    /// How long to wait for it; then exit 1
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = tidelog::text::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    print: PrintArgs,
}

/// Print the rows of the table in key order
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog scan mylog -n 10
  tidelog scan mylog --prefix sensor/
  tidelog scan mylog --start a --end h -o csv --with key")]
pub(crate) struct ScanArgs {
    #[command(flatten)]
    at: LogDir,
    /// Only keys that start so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Keys at or behind this one
    #[arg(long, value_name = "KEY")]
    start: Option<String>,
    /// Keys before this one
    #[arg(long, value_name = "KEY")]
    end: Option<String>,
    /// At most so many
    #[arg(short = 'n', value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    print: PrintArgs,
}

/// Print how many keys the table holds
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog count mylog")]
pub(crate) struct Count {
    #[command(flatten)]
    at: LogDir,
}

fn token(text: &str) -> Result<Token, String> {
    text.parse().map_err(|()| "expected a token as `tidelog append` prints it".to_owned())
}

/// Logs from this size on have a table that is kept on disk: reading less again takes no time.
const KEPT_FROM_BYTES: u64 = 64 << 20;
/// What a table may lack of its log before a checkpoint is worth writing.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// The log, and its table at the log's end. A table is taken from disk where there is one, and
/// kept there when making it anew would take long.
pub(crate) fn open(dir: &Path) -> Result<(Log, Table), Failure> {
    let log = Log::options().read_only(true).open(dir)?;
    let keep = dir.join("table").is_dir() || log.stats().log_byte.0 >= KEPT_FROM_BYTES;
    open_table(log, keep)
}

/// The same, of a table that is kept on disk.
pub(crate) fn open_kept(dir: &Path) -> Result<(Log, Table), Failure> {
    open_table(Log::options().read_only(true).open(dir)?, true)
}

fn open_table(log: Log, keep: bool) -> Result<(Log, Table), Failure> {
    let spinner = progress::spinner("applying");
    let table = Table::options().persist(keep).open(&log);
    spinner.finish_and_clear();
    let table = table?;
    for finding in &table.report().findings {
        say(format_args!("note: {finding}"));
    }
    let kept = table.stats().checkpoint_byte.0;
    let applied = table.applied().map_or(0, |position| position.log_byte.0);
    if keep && applied - kept >= CHECKPOINT_BYTES {
        // The next open is faster by it; the answer to this one is the same without.
        if let Err(e) = table.checkpoint() {
            say(format_args!("note: the table was not kept: {e}"));
        }
    }
    for lost in table.lost() {
        say(format_args!(
            "offsets {} to {} were lost to damage; keys may show older records",
            lost.start,
            lost.end.0 - 1
        ));
    }
    Ok((log, table))
}

/// A row as the record it came from.
fn entry<'a>(log: &Log, row: &RowRef<'a>) -> Entry<'a> {
    Entry {
        offset: row.offset,
        epoch: log.epoch_at(row.offset),
        timestamp: row.timestamp,
        record: Record::put(row.key, row.value).at(row.timestamp),
    }
}

impl Get {
    pub(crate) fn run(self) -> Outcome {
        let config = Config::load(Some(&self.at.dir))?;
        let (log, table) = open(&self.at.dir)?;
        let key = self.key.as_bytes();
        let row = match &self.at_least {
            Some(token) => self.at_least(&log, &table, token)?,
            None => table.get(key)?,
        };
        let Some(row) = row else {
            return Err(Failure::no(format!("no record of key {:?}", self.key)));
        };
        let mut printer: Printer = self.print.printer(&config)?;
        printer.print(&entry(&log, &row.as_ref(key)))?;
        printer.finish()
    }

    /// The row, once the table holds what the token stands for.
    fn at_least(&self, log: &Log, table: &Table, token: &Token) -> Result<Option<Row>, Failure> {
        let deadline = Instant::now() + self.timeout;
        loop {
            // Nobody else applies to this table: what it has not by now, waiting brings not.
            let answer = table.get_at_least(log, self.key.as_bytes(), token, Duration::ZERO);
            let applied = match answer.map_err(|e| match e.kind() {
                Kind::WrongLog => Failure::usage(e.to_string()),
                _ => e.into(),
            })? {
                AtLeast::Found(row) => return Ok(row),
                // The log says it with all it knows.
                AtLeast::NotInHistory => {
                    return Err(log.check_token(token).map_or_else(Failure::from, |()| {
                        Failure::no(format!("the write of token {token} was lost"))
                    }));
                }
                AtLeast::TimedOut { applied } => applied,
            };
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::no(format!(
                    "timed out: expected offset {} within {:?}, found the log's end at {applied}",
                    token.offset, self.timeout
                )));
            }
            // A tail that stands where the table does: one left behind would never wait again.
            match log.tail(applied)?.wait_timeout(left.min(Duration::from_millis(500))) {
                Err(e) if e.kind() == Kind::Lost => {}
                more => {
                    more?;
                }
            }
            table.catch_up(log)?;
        }
    }
}

impl ScanArgs {
    pub(crate) fn run(self) -> Outcome {
        let config = Config::load(Some(&self.at.dir))?;
        let (log, table) = open(&self.at.dir)?;
        let mut scan = Scan::all();
        if let Some(prefix) = &self.prefix {
            scan = scan.prefix(prefix.as_bytes());
        }
        if let Some(start) = &self.start {
            scan = scan.start(start.as_bytes());
        }
        if let Some(end) = &self.end {
            scan = scan.end(end.as_bytes());
        }
        if let Some(limit) = self.limit {
            scan = scan.limit(limit);
        }
        let mut printer = self.print.printer(&config)?;
        let view = table.view();
        if printer.wants_to_learn() {
            let mut rows = view.scan(&scan)?;
            while let Some(row) = rows.next()? {
                printer.learn(&entry(&log, &row));
            }
        }
        let mut rows = view.scan(&scan)?;
        while let Some(row) = rows.next()? {
            printer.print(&entry(&log, &row))?;
        }
        printer.finish()
    }
}

impl Count {
    pub(crate) fn run(self) -> Outcome {
        let (_, table) = open(&self.at.dir)?;
        output::line(table.view().len()?)
    }
}
