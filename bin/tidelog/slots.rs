//! `slots`: what holds a log for followers and consumers, and letting go of it.

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tidelog::log::Hold;
use tidelog::text::{SLOT_COLUMNS, cursor_row, slot_row};
use tidelog::{Kind, Log};

use crate::args::Trial;
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::origin::{At, OriginArgs};
use crate::output::{self, Format, say};

/// Show what holds a log back from retention, or let go of it
#[derive(Args)]
pub(crate) struct Slots {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    List(List),
    Drop(Drop),
}

/// Print the slot of each follower, and each named cursor
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog slots list mylog
  tidelog slots list http://127.0.0.1:7400

A slot is reserved (what it needs is kept anyway), extended (kept for it alone), unreserved (it passed \
a cap and holds nothing any more) or lost (what it needs is gone). A directory shows what its node \
wrote down last.")]
struct List {
    #[command(flatten)]
    at: OriginArgs,
    /// How to print: a table on a terminal, NDJSON when piped
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// Remove a slot or a named cursor
#[derive(Args)]
#[command(
    after_help = "What it held, the next retention may drop. A follower that still fetches has a \
slot again at once; a consumer begins anew. Slots of a log that a node serves are dropped at its address."
)]
struct Drop {
    #[command(flatten)]
    at: OriginArgs,
    /// A node id, what a follower is called, or a cursor's name
    #[arg(value_name = "NODE")]
    name: String,
    #[command(flatten)]
    trial: Trial,
}

impl Slots {
    pub(crate) fn run(self) -> Outcome {
        match self.verb {
            Verb::List(List { at, output }) => {
                let format = at.config()?.format(output)?;
                let rows = match at.at()? {
                    At::Directory(dir) => listed(dir)?,
                    At::Node(client) => {
                        let reply = client.get("/v1/slots", &[], Duration::ZERO)?;
                        rows(reply.ok()?.json()?).ok_or_else(|| strange(client.url()))?
                    }
                };
                if rows.is_empty() {
                    say(format_args!("{at}: no follower has a slot, and there is no named cursor"));
                }
                output::print_rows(format, &rows)
            }
            Verb::Drop(drop) => drop.run(),
        }
    }
}

fn read_only(dir: &Path) -> Result<Log, Failure> {
    Ok(Log::options().read_only(true).open(dir)?)
}

fn listed(dir: &Path) -> Result<Vec<Map<String, Value>>, Failure> {
    let log = read_only(dir)?;
    let slots = log.slots()?;
    let cursors = log.cursors()?;
    Ok(slots.iter().map(slot_row).chain(cursors.iter().map(cursor_row)).collect())
}

fn rows(mut reply: Value) -> Option<Vec<Map<String, Value>>> {
    let rows = match reply.get_mut("slots")?.take() {
        Value::Array(rows) => rows,
        _ => return None,
    };
    let pick = |row: &Value| {
        let value = |name: &&str| row.get(*name).cloned().unwrap_or(Value::Null);
        SLOT_COLUMNS.iter().map(|name| ((*name).to_owned(), value(name))).collect()
    };
    Some(rows.iter().map(pick).collect())
}

fn strange(url: &str) -> Failure {
    let message = format!("expected the slots of a tidelog node from {url}, found something else");
    tidelog::Error::new(Kind::Io, message).into()
}

impl Drop {
    fn run(self) -> Outcome {
        let row = match self.at.at()? {
            At::Directory(dir) => self.in_directory(dir)?,
            At::Node(client) => {
                let body = json!({ "drop": self.name, "dry_run": self.trial.dry_run }).to_string();
                let headers = [("content-type", "application/json")];
                let reply = client.post("/v1/slots", &headers, body.as_bytes(), Duration::ZERO)?;
                match reply.status {
                    404 => None,
                    _ => Some(reply.ok()?.json::<Value>()?),
                }
            }
        };
        let Some(row) = row else {
            return Err(Failure::no(format!(
                "expected a slot or a cursor, found no {:?}; `tidelog slots list` shows them",
                self.name
            )));
        };
        let done = row["done"] == true;
        output::line(row)?;
        match (done, self.trial.dry_run) {
            (true, _) => {
                say(format_args!("dropped {}", self.name));
                Ok(())
            }
            (false, false) => Err(Failure::no(format!("{} is gone already", self.name))),
            (false, true) => Err(Failure::no("nothing was dropped; without --dry-run it is")),
        }
    }

    fn in_directory(&self, dir: &Path) -> Result<Option<Value>, Failure> {
        let log = read_only(dir)?;
        let Some(hold) = log.hold(&self.name)? else { return Ok(None) };
        let done = match &hold {
            _ if self.trial.dry_run => false,
            // Its own lock says whether somebody has it.
            Hold::Cursor(_) => log.release(&hold)?,
            Hold::Slot(_) => {
                let log = Config::load(Some(dir))?.options(None, None)?.open(dir)?;
                let done = log.release(&hold)?;
                log.close()?;
                done
            }
        };
        let mut row = match &hold {
            Hold::Slot(slot) => slot_row(slot),
            Hold::Cursor(cursor) => cursor_row(cursor),
        };
        row.insert("done".into(), done.into());
        Ok(Some(row.into()))
    }
}
