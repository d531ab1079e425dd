//! `archive`: a log in a shared store, and what is there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tidelog::Id;
use tidelog::fs::Os;
use tidelog::ship::Directory;
use tidelog::ship::archive::{
    Archive, Cut, ObjectName, Piece, Pin, PublishOptions, Publisher, State, drop_pin, pins,
    plan_prune, prune, set_pin, verify_archive,
};
use tidelog::text::{format_bytes, format_time};

use crate::args::directory;
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::members;
use crate::output::{self, Format, count, say};
use crate::progress;
use crate::snapshot;
use crate::source::Place;

/// Keep a log in an object store or a shared directory, for any number of readers
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog archive push mylog --to shelf
  tidelog archive list shelf
  tidelog archive verify shelf
  tidelog archive prune shelf --keep-snapshots 3
  tidelog follow copy --from shelf --once

A URL is file:///path (or just a path), s3://bucket/prefix, gs://bucket/prefix or az://container/prefix. \
Endpoint and credentials come from the environment as for the provider's own tools: AWS_ENDPOINT_URL, \
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION; GOOGLE_…; AZURE_…. The store must have conditional \
creates; before the first push it is tried, and refused if two creates of one name can both win.")]
pub(crate) struct ArchiveArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Publish everything that is durable in the log, once
    Push {
        /// The leader's directory; it may be written meanwhile
        #[arg(value_name = "DIR", value_parser = directory())]
        dir: PathBuf,
        /// The archive
        #[arg(long, value_name = "URL", value_parser = Place::parse_archive)]
        to: Place,
        /// If this log has left the archive's history, cut there what it left
        #[arg(long)]
        accept_loss: bool,
        /// Then publish a snapshot of the table, too: a new follower begins with it
        #[arg(long)]
        snapshot: bool,
    },
    /// Print what is there, oldest first
    List {
        /// The archive
        #[arg(value_name = "URL", value_parser = Place::parse_archive)]
        url: Place,
        /// How to print: a table on a terminal, NDJSON when piped
        #[arg(short, long, value_enum)]
        output: Option<Format>,
    },
    /// Read every byte and hold it against its hash; exit 1 with a list when something is damaged
    Verify {
        /// The archive
        #[arg(value_name = "URL", value_parser = Place::parse_archive)]
        url: Place,
    },
    /// Keep everything in it from being pruned, for a while; prints the pin's id
    Pin {
        /// The archive
        #[arg(value_name = "URL", value_parser = Place::parse_archive)]
        url: Place,
        /// Who wants it so: words for people
        #[arg(long, value_name = "WORDS")]
        owner: String,
        /// For how long, such as 12h
        #[arg(long = "for", value_name = "DURATION", value_parser = tidelog::text::parse_duration)]
        during: Duration,
    },
    /// Take a pin away; exit 1 when there is none
    Unpin {
        /// The archive
        #[arg(value_name = "URL", value_parser = Place::parse_archive)]
        url: Place,
        /// Its id
        #[arg(value_name = "ID", value_parser = members::node)]
        id: Id,
    },
    /// Print the pins there are
    Pins {
        /// The archive
        #[arg(value_name = "URL", value_parser = Place::parse_archive)]
        url: Place,
        /// How to print: a table on a terminal, NDJSON when piped
        #[arg(short, long, value_enum)]
        output: Option<Format>,
    },
    /// Print what nobody needs any more; with --yes, free it
    Prune {
        /// The archive
        #[arg(value_name = "URL", value_parser = Place::parse_archive)]
        url: Place,
        /// Let older snapshots go but for so many of the newest; all stay unless given
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        keep_snapshots: Option<u32>,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

impl ArchiveArgs {
    pub(crate) fn run(self) -> Outcome {
        match self.what {
            What::Push { dir, to, accept_loss, snapshot } => push(&dir, &to, accept_loss, snapshot),
            What::List { url, output } => list(&url, output),
            What::Verify { url } => verify(&url),
            What::Pin { url, owner, during } => pin(&url, &owner, during),
            What::Unpin { url, id } => unpin(&url, id),
            What::Pins { url, output } => list_pins(&url, output),
            What::Prune { url, keep_snapshots, yes } => take_away(&url, keep_snapshots, yes),
        }
    }
}

fn push(dir: &std::path::Path, to: &Place, accept_loss: bool, with_snapshot: bool) -> Outcome {
    let started = Instant::now();
    let from = Directory::open(dir)?;
    let mut options = PublishOptions::default();
    options.accept_loss = accept_loss;
    let spinner = progress::spinner("publishing");
    let pushed = Publisher::open(to.store()?, from, options).and_then(|mut to| to.push());
    spinner.finish_and_clear();
    let pushed = pushed?;
    let placed = match with_snapshot {
        true => Some(snapshot::publish(dir, to, false)?.snapshot.name.to_string()),
        false => None,
    };
    let mut line = json!({
        "from_offset": pushed.from.0,
        "end_offset": pushed.end.0,
        "entries": pushed.entries,
        "segments": pushed.segments,
        "tails": pushed.tails,
        "bytes": pushed.bytes,
        "seconds": progress::seconds(started),
    });
    if let Some(name) = placed {
        line["snapshot"] = name.into();
    }
    output::line(line)?;
    say(format_args!(
        "{to} holds everything before offset {}: {} and {} sent, {}",
        pushed.end,
        count(pushed.segments, "segment"),
        count(pushed.tails, "tail"),
        format_bytes(pushed.bytes)
    ));
    Ok(())
}

/// The archive, which must be there.
fn state(url: &Place) -> Result<State, Failure> {
    Ok(Archive::open(url.store()?)?.state().clone())
}

fn list(url: &Place, format: Option<Format>) -> Outcome {
    let state = state(url)?;
    let mut rows = Vec::new();
    for (base, piece) in &state.pieces {
        let (_, end) = piece.end();
        let (what, bytes, object) = match piece {
            Piece::Sealed(held) => {
                let what = if held.whole() { "segment" } else { "part of a segment" };
                (what, held.sealed.file_bytes, held.sealed.name().to_string())
            }
            Piece::Tails(tails) => {
                let bytes = tails.iter().map(|tail| tail.tail.payload_bytes().unwrap_or(0)).sum();
                ("tails", bytes, entries(tails.iter().map(|tail| tail.n)))
            }
        };
        rows.push(row(what, base.0, (piece.base_offset().0, end.0), piece.epoch(), bytes, object));
    }
    for (_, snapshot) in &state.snapshots {
        let (name, offset) = (snapshot.name, snapshot.name.offset.0);
        let object = ObjectName::Manifest(name, snapshot.manifest).to_string();
        let at = (offset, offset);
        rows.push(row("snapshot", snapshot.log_byte.0, at, name.epoch, snapshot.bytes, object));
    }
    for cut in &state.cut {
        let (base, offsets, epoch, bytes, object) = match cut {
            Cut::Sealed(held) => {
                let s = &held.sealed;
                let offsets = (s.base_offset.0, s.end_offset.0);
                (s.base.0, offsets, s.epoch, s.file_bytes, s.name().to_string())
            }
            Cut::Tail(tail) => {
                let t = &tail.tail;
                let bytes = t.payload_bytes().unwrap_or(0);
                let object = ObjectName::Log(tail.n).to_string();
                (t.base.0, (t.base_offset.0, t.to_offset.0), t.epoch, bytes, object)
            }
        };
        rows.push(row("cut by a fence", base, offsets, epoch, bytes, object));
    }
    output::print_rows(Config::load(None)?.format(format)?, &rows)?;
    say(format_args!(
        "log {}, offsets {} to {}, epoch {}, {}",
        state.log,
        state.floor_offset,
        state.end_offset,
        state.epoch.number,
        if state.n == 1 { "1 entry".to_owned() } else { format!("{} entries", state.n) }
    ));
    Ok(())
}

fn row(
    what: &str,
    log_byte: u64,
    (first, end): (u64, u64),
    epoch: tidelog::Epoch,
    bytes: u64,
    object: String,
) -> Map<String, Value> {
    let value = json!({
        "what": what,
        "first_offset": first,
        "end_offset": end,
        "epoch": epoch.number,
        "log_byte": log_byte,
        "bytes": bytes,
        "object": object,
    });
    match value {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

/// The names of entries that follow each other, short.
fn entries(n: impl Iterator<Item = u64>) -> String {
    let all: Vec<u64> = n.collect();
    match (all.first(), all.last()) {
        (Some(first), Some(last)) if first != last => {
            format!("{} to {}", ObjectName::Log(*first), ObjectName::Log(*last))
        }
        (Some(first), _) => ObjectName::Log(*first).to_string(),
        _ => String::new(),
    }
}

fn verify(url: &Place) -> Outcome {
    let started = Instant::now();
    let store = url.store()?;
    let spinner = progress::spinner("verifying");
    // None at all is no damage: it is a wrong name.
    let report = match Archive::open(store.clone()) {
        Err(e)
            if e.kind() == tidelog::Kind::NotFound
                && e.advice().is_some_and(|a| a.contains("push")) =>
        {
            Err(e)
        }
        _ => verify_archive(&*store),
    };
    spinner.finish_and_clear();
    let report = report?;
    for problem in &report.problems {
        output::line(json!({"object": problem.object, "problem": problem.problem}))?;
    }
    output::line(json!({
        "problems": report.problems.len(),
        "entries": report.entries,
        "tombstones": report.tombstones,
        "segments": report.segments,
        "tails": report.tails,
        "snapshots": report.snapshots,
        "bytes": report.bytes,
        "seconds": progress::seconds(started),
    }))?;
    let looked_at = format!(
        "{}, {}, {}",
        if report.entries == 1 {
            "1 entry".to_owned()
        } else {
            format!("{} entries", report.entries)
        },
        count(report.segments, "segment"),
        format_bytes(report.bytes)
    );
    if report.problems.is_empty() {
        say(format_args!("no damage found: {looked_at}"));
        return Ok(());
    }
    let problems = count(report.problems.len(), "problem");
    Err(Failure::no(format!(
        "{problems} found in {looked_at}; the leader's directory, or any follower's, has the same segments"
    )))
}

/// This machine's time.
fn now() -> i64 {
    Os::shared().now()
}

fn told(id: Id, pin: Option<&Pin>) -> Map<String, Value> {
    let value = json!({
        "id": id.to_string(),
        "owner": pin.map(|pin| pin.owner.clone()),
        "made": pin.map(|pin| format_time(pin.made)),
        "expires": pin.map(|pin| format_time(pin.expires)),
        "counts": pin.is_none_or(|pin| !pin.has_ended(now())),
    });
    value.as_object().cloned().unwrap_or_default()
}

fn pin(url: &Place, owner: &str, during: Duration) -> Outcome {
    state(url)?;
    let (id, pin) = set_pin(&*url.store()?, &*Os::shared(), owner, during)?;
    output::line(Value::from(told(id, Some(&pin))))
}

fn unpin(url: &Place, id: Id) -> Outcome {
    match drop_pin(&*url.store()?, id)? {
        true => {
            say(format_args!("the pin {id} is gone"));
            Ok(())
        }
        false => Err(Failure::no(format!("expected a pin {id}, found none"))),
    }
}

fn list_pins(url: &Place, format: Option<Format>) -> Outcome {
    state(url)?;
    let all = pins(&*url.store()?)?;
    let rows: Vec<_> = all.iter().map(|(id, pin)| told(*id, pin.as_ref())).collect();
    output::print_rows(Config::load(None)?.format(format)?, &rows)
}

fn take_away(url: &Place, keep_snapshots: Option<u32>, yes: bool) -> Outcome {
    state(url)?;
    let store = url.store()?;
    let plan = plan_prune(&*store, now(), keep_snapshots.map(|n| n as usize))?;
    if yes {
        prune(&*store, &plan, now())?;
    }
    let objects: Vec<String> = plan.objects().map(|(name, _)| name.to_string()).collect();
    output::line(json!({
        "pruned": yes && !plan.is_empty(),
        "entries": plan.entries.len(),
        "objects": objects,
        "snapshots": plan.snapshots.len(),
        "bytes": plan.bytes(),
        "pins": plan.pins,
        "ended_pins": plan.ended.len(),
    }))?;
    if plan.pins > 0 {
        say(format_args!(
            "nothing goes while there are pins: {} there (`tidelog archive pins`)",
            plan.pins
        ));
        return Ok(());
    }
    let room = format!(
        "{}, {} and {}, {}",
        count(plan.snapshots.len(), "snapshot"),
        match plan.entries.len() {
            1 => "what 1 entry carries".to_owned(),
            n => format!("what {n} entries carry"),
        },
        count(plan.objects().count(), "object"),
        format_bytes(plan.bytes())
    );
    match (plan.is_empty(), yes) {
        (true, _) => say("nothing to prune"),
        (false, true) => say(format_args!("pruned {room}")),
        (false, false) => {
            return Err(Failure::no(format!(
                "{room}, would go; nothing was changed, --yes does it"
            )));
        }
    }
    Ok(())
}
