//! `get`, `scan`, `count`: the table.

use std::time::Duration;

use clap::Args;
use tidelog::Token;

use crate::exit::{Failure, Outcome};
use crate::origin::{FreshArgs, Next, OriginArgs, Rows};
use crate::output;
use crate::printer::{PrintArgs, Printer};
use crate::progress;

/// Print the latest record of a key; exit 1 when there is none
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog get mylog gate
  tidelog get mylog gate -o raw
  tidelog get mylog gate --at-least TOKEN --timeout 5s
  tidelog get http://127.0.0.1:7400 gate
  tidelog get http://127.0.0.1:7401 gate --max-staleness 10s")]
pub(crate) struct Get {
    #[command(flatten)]
    at: OriginArgs,
    /// The key
    key: String,
    /// Wait until the record with this token is there; appends print tokens
    #[arg(long, value_name = "TOKEN", value_parser = token)]
    at_least: Option<Token>,
    /// How long to wait for it; then exit 1
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = tidelog::text::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    print: PrintArgs,
}

/// Print the rows of the table in key order
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog scan mylog -n 10
  tidelog scan mylog --prefix sensor/
  tidelog scan mylog --start a --end h -o csv --with key
  tidelog scan http://127.0.0.1:7400 --prefix sensor/")]
pub(crate) struct ScanArgs {
    #[command(flatten)]
    at: OriginArgs,
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
    limit: Option<u64>,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    print: PrintArgs,
}

/// Print how many keys the table holds
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog count mylog
  tidelog count http://127.0.0.1:7400")]
pub(crate) struct Count {
    #[command(flatten)]
    at: OriginArgs,
    #[command(flatten)]
    fresh: FreshArgs,
}

fn token(text: &str) -> Result<Token, String> {
    text.parse().map_err(|()| "expected a token as `tidelog append` prints it".to_owned())
}

impl Get {
    pub(crate) fn run(self) -> Outcome {
        let config = self.at.config()?;
        let at_least = self.at_least.as_ref().map(|token| (token, self.timeout));
        let Some(entry) = self.at.open_fresh(&self.fresh)?.get(&self.key, at_least)? else {
            return Err(Failure::no(format!("no record of key {:?}", self.key)));
        };
        let mut printer: Printer = self.print.printer(&config)?;
        printer.print(&entry.as_entry())?;
        printer.finish()
    }
}

impl ScanArgs {
    pub(crate) fn run(self) -> Outcome {
        let config = self.at.config()?;
        let table = self.at.open_fresh(&self.fresh)?;
        let asked =
            Rows { prefix: self.prefix, start: self.start, end: self.end, limit: self.limit };
        let mut printer = self.print.printer(&config)?;
        if printer.wants_to_learn() {
            let mut rows = table.scan(&asked)?;
            while let Next::Entry(entry) = rows.next()? {
                printer.learn(&entry);
            }
        }
        let mut rows = table.scan(&asked)?;
        while let Next::Entry(entry) = rows.next()? {
            if progress::interrupted() {
                return printer.finish().and(Err(Failure::interrupted()));
            }
            printer.print(&entry)?;
        }
        printer.finish()
    }
}

impl Count {
    pub(crate) fn run(self) -> Outcome {
        output::line(self.at.open_fresh(&self.fresh)?.count()?)
    }
}
