//! `diverged`: what rejoining kept aside: shown, printed, appended anew.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tidelog::frame::Producer;
use tidelog::replica::diverged::{self, Diverged};
use tidelog::text::{format_bytes, format_time, write_envelope};
use tidelog::{Append, Batch, Entry, Id, OwnedEntry};

use crate::access::{NodeAccess, TokenArgs};
use crate::args::LogDir;
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::output::{self, Format, count, say};
use crate::printer::PrintArgs;
use crate::progress;
use crate::source::Place;

/// A batch that is replayed is at least so large, where there is so much.
const GROUP_BYTES: usize = 256 << 10;
const GROUP_RECORDS: usize = 1000;
/// A request waits at most so long for its answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Show what a rejoin kept aside, print it, or append it anew
#[derive(Args)]
pub(crate) struct DivergedArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    List(List),
    Dump(Dump),
    Replay(Replay),
}

/// Print what rejoins kept: how many records, from where, and why
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog diverged list mylog
  tidelog diverged list mylog -o ndjson

When an old leader, or a follower with a longer tail, goes on with another leader, what that one does not \
have is cut and kept in the directory diverged/. tidelog never deletes it.")]
struct List {
    #[command(flatten)]
    at: LogDir,
    /// How to print: a table on a terminal, NDJSON when piped
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// Print the records of one of them, as `tail` prints a log
#[derive(Args)]
struct Dump {
    #[command(flatten)]
    at: LogDir,
    /// Its name, as `diverged list` shows it
    name: String,
    #[command(flatten)]
    print: PrintArgs,
}

/// Append the records of one of them as new ones: print the plan, or with --yes follow it
#[derive(Args)]
#[command(
    after_help = "They get new offsets and keep their timestamps. A put that is replayed replaces what was \
put under its key since: look at them first (`tidelog diverged dump`). Done again, or gone on with after an \
interruption, it appends nothing twice."
)]
struct Replay {
    #[command(flatten)]
    at: LogDir,
    /// Its name, as `diverged list` shows it
    name: String,
    /// Where the records go: the leader's directory, or its address
    #[arg(long, value_name = "DIR|URL", value_parser = Place::parse)]
    to: Place,
    /// Do it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    access: NodeAccess,
    #[command(flatten)]
    token: TokenArgs,
}

impl DivergedArgs {
    pub(crate) fn run(self) -> Outcome {
        match self.verb {
            Verb::List(list) => list.run(),
            Verb::Dump(dump) => dump.run(),
            Verb::Replay(replay) => replay.run(),
        }
    }
}

impl List {
    fn run(self) -> Outcome {
        let format = Config::load(Some(&self.at.dir))?.format(self.output)?;
        let (mut rows, mut failed) = (Vec::new(), None);
        for kept in diverged::list(&self.at.dir)? {
            match kept {
                Ok(kept) => rows.push(row(&kept, format)),
                Err(e) => failed = Some(e),
            }
        }
        if rows.is_empty() && failed.is_none() {
            say(format_args!("{}: no rejoin has kept anything aside", self.at.dir.display()));
        }
        output::print_rows(format, &rows)?;
        match failed {
            Some(e) => Err(e.into()),
            None => Ok(()),
        }
    }
}

fn row(kept: &Diverged, format: Format) -> Map<String, Value> {
    let ((from, first), (to, end)) = (kept.from(), kept.to());
    let mut row = Map::new();
    let mut put = |name: &str, value: Value| row.insert(name.to_owned(), value);
    put("name", kept.name().into());
    put("records", kept.records().into());
    put(
        "bytes",
        match format {
            Format::Table => format_bytes(kept.bytes()).into(),
            _ => kept.bytes().into(),
        },
    );
    put("first_offset", first.0.into());
    put("end_offset", end.0.into());
    put("from_log_byte", from.0.into());
    put("to_log_byte", to.0.into());
    put("oldest", kept.times().map(|(oldest, _)| format_time(oldest)).into());
    put("newest", kept.times().map(|(_, newest)| format_time(newest)).into());
    let epochs: Vec<String> = kept.epochs().iter().map(ToString::to_string).collect();
    put("epochs", epochs.join(" ").into());
    put("node", kept.node().to_string().into());
    put("cut", format_time(kept.time()).into());
    put("why", kept.why().into());
    row
}

/// Hands each batch of what was kept to `visit`.
fn each(kept: &Diverged, mut visit: impl FnMut(&[OwnedEntry]) -> Outcome) -> Outcome {
    let mut batches = kept.batches();
    while let Some(batch) = batches.next()? {
        visit(&batch)?;
        if progress::interrupted() {
            return Err(Failure::interrupted());
        }
    }
    Ok(())
}

impl Dump {
    fn run(self) -> Outcome {
        let config = Config::load(Some(&self.at.dir))?;
        let kept = diverged::open(&self.at.dir, &self.name)?;
        let mut printer = self.print.printer(&config)?;
        if printer.wants_to_learn() {
            each(&kept, |batch| {
                batch.iter().for_each(|entry| printer.learn(&entry.as_entry()));
                Ok(())
            })?;
        }
        let read = each(&kept, |batch| {
            batch.iter().try_for_each(|entry| printer.print(&entry.as_entry()))
        });
        // What was read before damage is data all the same.
        printer.finish().and(read)
    }
}

impl Replay {
    fn run(self) -> Outcome {
        let kept = diverged::open(&self.at.dir, &self.name)?;
        let (mut batches, mut records) = (0u64, 0u64);
        each(&kept, |batch| {
            (batches, records) = (batches + 1, records + batch.len() as u64);
            Ok(())
        })?;
        let mut told = json!({
            "name": kept.name(), "records": records, "batches": batches, "to": self.to.to_string(),
            "first_offset": kept.from().1.0, "end_offset": kept.to().1.0, "done": false,
        });
        if !self.yes {
            output::line(told)?;
            return Err(Failure::no(format!(
                "{} would be appended at {}; nothing was appended, --yes does it",
                count(records, "record"),
                self.to
            )));
        }
        let duplicates = match &self.to {
            Place::Local(dir) => replay_into(&kept, dir)?,
            Place::Node(url) => self.replay_at(&kept, url)?,
            Place::Store(url) => {
                return Err(Failure::usage(format!(
                    "expected a leader's directory or address, found the archive {url}"
                )));
            }
        };
        told["done"] = true.into();
        told["duplicates"] = duplicates.into();
        output::line(told)?;
        say(format_args!(
            "appended {} at {}, {} were there already",
            count(records - duplicates, "record"),
            self.to,
            duplicates
        ));
        Ok(())
    }

    fn replay_at(&self, kept: &Diverged, url: &str) -> Result<u64, Failure> {
        let credentials = self.access.credentials(self.token.token_file.as_deref())?;
        let client = tidelog::ship::Client::new(url, credentials)?;
        let mut duplicates = 0;
        grouped(kept, |batch| {
            let mut body = Vec::new();
            for entry in batch {
                write_envelope(&entry.as_entry(), &mut body);
                body.push(b'\n');
            }
            let key = key(kept, batch);
            let headers = [("content-type", "application/x-ndjson"), ("idempotency-key", &*key)];
            let reply = client.post("/v1/records", &headers, &body, TIMEOUT)?;
            let told: Value = reply.ok()?.json()?;
            if told["duplicate"] == true {
                duplicates += batch.len() as u64;
            }
            Ok(())
        })?;
        Ok(duplicates)
    }
}

/// The same in larger batches, always the same ones: a log remembers a bounded number of producers, and each
/// batch is one.
fn grouped(kept: &Diverged, mut visit: impl FnMut(&[OwnedEntry]) -> Outcome) -> Outcome {
    let (mut group, mut bytes) = (Vec::new(), 0);
    each(kept, |batch| {
        group.extend_from_slice(batch);
        bytes += batch.iter().map(|entry| entry.record().value.len() + 64).sum::<usize>();
        if bytes < GROUP_BYTES && group.len() < GROUP_RECORDS {
            return Ok(());
        }
        bytes = 0;
        visit(&std::mem::take(&mut group))
    })?;
    if group.is_empty() { Ok(()) } else { visit(&group) }
}

/// What names a batch wherever it is appended: log, epoch and place never come again.
fn key(kept: &Diverged, batch: &[OwnedEntry]) -> String {
    let first = batch.first().map_or(0, |entry| entry.offset.0);
    let epochs: Vec<String> = kept.epochs().iter().map(|e| format!("{:016x}", e.nonce)).collect();
    format!("diverged {} {} {first}", kept.log(), epochs.first().map_or("", |e| e))
}

fn replay_into(kept: &Diverged, dir: &PathBuf) -> Result<u64, Failure> {
    let log = Config::load(Some(dir))?.options(None, None)?.open(dir)?;
    if log.id() != kept.log() {
        return Err(Failure::no(format!(
            "expected log {} in {}, found log {}: nothing was appended",
            kept.log(),
            dir.display(),
            log.id()
        )));
    }
    let mut duplicates = 0;
    grouped(kept, |entries| {
        let mut batch = Batch::new();
        for entry in entries {
            let Entry { record, .. } = entry.as_entry();
            batch.push(&record)?;
        }
        // As a node makes it of an Idempotency-Key: whichever way a batch comes, it comes once.
        let hash =
            blake3::derive_key("tidelog 2026 idempotency key", key(kept, entries).as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        let producer = Some(Producer { id: Id(id), sequence: 1 });
        let appended = log.append_with(&batch, &Append { producer, ..Append::default() })?;
        if appended.duplicate {
            duplicates += entries.len() as u64;
        }
        Ok(())
    })?;
    log.close()?;
    Ok(duplicates)
}
