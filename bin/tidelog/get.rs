//! `get`, `scan`, `count`: the table, built from the log as it is opened.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use tidelog::table::{Row, Scan, Table};
use tidelog::{Entry, Log, Record, Token};

use crate::exit::{Failure, Outcome};
use crate::output::{OutputArgs, Printer};
use crate::progress;

/// Print the latest record of a key; exit 1 when there is none
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog get mylog gate
  tidelog get mylog gate -o raw
  tidelog get mylog gate --at-least TOKEN --timeout 5s")]
pub(crate) struct Get {
    dir: PathBuf,
    key: String,
    /// Wait until the record with this token is there
    #[arg(long, value_name = "TOKEN", value_parser = token)]
    at_least: Option<Token>,
    /// How long to wait for it
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = tidelog::text::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

/// Print the rows of the table in key order
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog scan mylog -n 10
  tidelog scan mylog --prefix sensor/
  tidelog scan mylog --start a --end c -o csv --with key")]
pub(crate) struct ScanArgs {
    dir: PathBuf,
    /// Only keys that start so
    #[arg(long)]
    prefix: Option<String>,
    /// Keys at or behind this one
    #[arg(long)]
    start: Option<String>,
    /// Keys before this one
    #[arg(long)]
    end: Option<String>,
    /// At most so many
    #[arg(short = 'n', value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Print how many keys the table holds
#[derive(Args)]
#[command(after_help = "Example: tidelog count mylog")]
pub(crate) struct Count {
    dir: PathBuf,
}

fn token(text: &str) -> Result<Token, String> {
    text.parse().map_err(|()| format!("expected a token as appends print it, found {text:?}"))
}

fn open(dir: &Path) -> Result<(Log, Table), Failure> {
    let log = Log::options().read_only(true).open(dir)?;
    let table = Table::from_log(&log)?;
    warn_of_loss(&table);
    Ok((log, table))
}

fn warn_of_loss(table: &Table) {
    for lost in table.lost() {
        anstream::eprintln!(
            "tidelog: offsets {} to {} were lost to damage; keys may show older records",
            lost.start,
            lost.end.0 - 1
        );
    }
}

/// A row as the record it came from.
fn print(printer: &mut Printer, log: &Log, key: &[u8], row: &Row) -> Outcome {
    let epoch = log.epoch_at(row.offset);
    printer.print(&Entry {
        offset: row.offset,
        epoch,
        timestamp: row.timestamp,
        record: Record::put(key, &row.value).at(row.timestamp),
    })
}

impl Get {
    pub(crate) fn run(self) -> Outcome {
        let (log, table) = open(&self.dir)?;
        if let Some(token) = &self.at_least {
            self.wait(&log, &table, token)?;
        }
        let key = self.key.as_bytes();
        let Some(row) = table.get(key) else {
            return Err(Failure::no(format!("no record of key {:?}", self.key)));
        };
        let mut printer = Printer::new(&self.output);
        print(&mut printer, &log, key, &row)?;
        printer.finish()
    }

    /// Waits until the table holds what the token stands for.
    fn wait(&self, log: &Log, table: &Table, token: &Token) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let mut tail = log.tail(log.end())?;
        while log.end() <= token.offset {
            log.check_token(token)?;
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::no(format!(
                    "timed out: expected offset {} within {:?}, found the log's end at {}",
                    token.offset,
                    self.timeout,
                    log.end()
                )));
            }
            tail.wait_timeout(left.min(Duration::from_millis(500)))?;
        }
        log.check_token(token)?;
        table.catch_up(log)?;
        Ok(())
    }
}

impl ScanArgs {
    pub(crate) fn run(self) -> Outcome {
        let (log, table) = open(&self.dir)?;
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
        let mut printer = Printer::new(&self.output);
        let rows = table.scan(&scan);
        if printer.wants_to_learn() {
            for (key, row) in &rows {
                let record = Record::put(key, &row.value);
                let (offset, timestamp) = (row.offset, row.timestamp);
                printer.learn(&Entry { offset, epoch: 0, timestamp, record });
            }
        }
        for (key, row) in &rows {
            print(&mut printer, &log, key, row)?;
        }
        printer.finish()
    }
}

impl Count {
    pub(crate) fn run(self) -> Outcome {
        let (_, table) = open(&self.dir)?;
        println!("{}", table.len());
        Ok(())
    }
}
