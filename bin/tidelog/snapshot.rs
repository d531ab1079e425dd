//! `snapshot`: publishing what a table holds, and looking at what is published.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tidelog::Kind;
use tidelog::ship::Directory;
use tidelog::ship::archive::{
    Archive, Placed, PublishOptions, Publisher, SnapshotRef, Store, snapshots,
};
use tidelog::table::{OpenSnapshot, Snapshot, Snapshots};
use tidelog::text::{format_bytes, format_time};

use crate::args::LogDir;
use crate::config::Config;
use crate::exit::{Failure, Outcome};
use crate::origin;
use crate::output::{self, Format, count, say};
use crate::progress;
use crate::source::Place;

/// An archive that somebody else publishes to at the same moment is tried again so often, after this.
const TRIES: u32 = 10;
const AGAIN: Duration = Duration::from_millis(200);

/// Publish what the table holds, list what is published, check it
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog snapshot create mylog
  tidelog snapshot create mylog --to snaps --digest
  tidelog snapshot list snaps
  tidelog snapshot verify snaps
  tidelog archive push mylog --to shelf
  tidelog snapshot create mylog --to shelf
  tidelog snapshot list shelf
  tidelog snapshot verify shelf

A STORE is a directory of snapshots, or an archive: a directory that is one, file:///path, s3://bucket/prefix, \
gs://… or az://…. A snapshot is the table at one exact offset, in files named by their content: the next one costs what \
changed. Writers go on while it is taken. `tidelog restore` makes a log of one.")]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Publish everything that is durable in the log
    Create {
        #[command(flatten)]
        at: LogDir,
        /// Where to: a directory, or an archive of this log, which is brought up to the snapshot first;
        /// DIR/snapshots unless told
        #[arg(long, value_name = "STORE")]
        to: Option<String>,
        /// Add the state digest and the exact number of rows: a walk over all of them
        #[arg(long)]
        digest: bool,
    },
    /// Print what is published, oldest first
    List {
        /// A directory of snapshots, a log's directory, or an archive
        #[arg(value_name = "STORE")]
        store: String,
        /// How to print: a table on a terminal, NDJSON when piped
        #[arg(short, long, value_enum)]
        output: Option<Format>,
    },
    /// Read every byte and hold it against its hash; exit 1 with a list when something is damaged
    Verify {
        /// A directory of snapshots, a log's directory, or an archive
        #[arg(value_name = "STORE")]
        store: String,
        /// One of them; all unless told
        name: Option<String>,
    },
}

/// The snapshots in a directory, or beside a log in it.
fn store(dir: &Path) -> Snapshots {
    match dir.join("LOG").exists() {
        true => Snapshots::at(dir.join("snapshots")),
        false => Snapshots::at(dir),
    }
}

/// Nothing is where snapshots were to be.
fn no_store(at: &Path) -> Failure {
    tidelog::Error::new(
        Kind::NotFound,
        "expected a directory of snapshots, a log's or an archive, found nothing",
    )
    .in_file(at)
    .help("`tidelog snapshot create DIR --to STORE` makes one")
    .into()
}

/// A snapshot as named values.
fn describe(snapshot: &Snapshot) -> Map<String, Value> {
    let value = json!({
        "name": snapshot.name,
        "log": snapshot.log.to_string(),
        "offset": snapshot.position.offset.0,
        "epoch": snapshot.position.epoch.number,
        "newest": format_time(snapshot.newest),
        "runs": snapshot.runs,
        "bytes": snapshot.bytes,
        "rows": snapshot.state.map(|(_, rows)| rows),
        "digest": snapshot.state.map(|(digest, _)| digest.to_string()),
    });
    value.as_object().cloned().unwrap_or_default()
}

impl SnapshotArgs {
    pub(crate) fn run(self) -> Outcome {
        match self.what {
            What::Create { at, to, digest } => match to.as_deref().map(archive).transpose()? {
                Some(Some(place)) => create_in(&at.dir, &place, digest),
                _ => create(&at.dir, to.map(PathBuf::from), digest),
            },
            What::List { store: at, output } => {
                let rows: Vec<_> = match archive(&at)? {
                    Some(place) => {
                        let all = snapshots(&*there(&place)?, false)?;
                        all.iter().map(|(snapshot, _)| row(snapshot)).collect()
                    }
                    None => store(Path::new(&at)).list()?.iter().map(describe).collect(),
                };
                if rows.is_empty() {
                    let at = Path::new(&at);
                    if !at.exists() && !crate::source::is_url(&at.to_string_lossy()) {
                        return Err(no_store(at));
                    }
                    say(format_args!(
                        "{}: no snapshots yet; `tidelog snapshot create` makes one",
                        at.display()
                    ));
                }
                output::print_rows(Config::load(None)?.format(output)?, &rows)
            }
            What::Verify { store: at, name } => match archive(&at)? {
                Some(place) => verify_in(&place, name.as_deref()),
                None => verify(&store(Path::new(&at)), name.as_deref()),
            },
        }
    }
}

/// The archive that a store is, if it is one.
fn archive(text: &str) -> Result<Option<Place>, Failure> {
    let place = Place::parse_archive(text).map_err(Failure::usage)?;
    let named = text.starts_with("file://");
    Ok(Some(place).filter(|place| named || place.is_archive()))
}

/// The store of an archive that is there.
fn there(place: &Place) -> Result<Arc<dyn Store>, Failure> {
    let store = place.store()?;
    Archive::open(Arc::clone(&store))?;
    Ok(store)
}

/// A snapshot in an archive as named values.
fn row(snapshot: &SnapshotRef) -> Map<String, Value> {
    let value = json!({
        "name": snapshot.name.to_string(),
        "offset": snapshot.name.offset.0,
        "epoch": snapshot.name.epoch.number,
        "log_byte": snapshot.log_byte.0,
        "bytes": snapshot.bytes,
    });
    value.as_object().cloned().unwrap_or_default()
}

/// Publishes a snapshot of the table in `dir` to an archive, and the log up to there first.
pub(crate) fn publish(dir: &Path, to: &Place, digest: bool) -> Result<Placed, Failure> {
    let (_log, table) = origin::open_kept(dir)?;
    let spinner = progress::spinner("publishing");
    let take = || match OpenSnapshot::take(&table, digest) {
        // A process that serves the log keeps its table: what that has on disk does.
        Err(e) if matches!(e.kind(), Kind::Locked | Kind::InvalidInput) && !digest => {
            OpenSnapshot::newest_in(dir)?.ok_or(e)
        }
        taken => taken,
    };
    let attempt = || -> tidelog::Result<_> {
        let snapshot = take()?;
        let from = Directory::open(dir)?;
        let mut publisher = Publisher::open(to.store()?, from, PublishOptions::default())?;
        publisher.push()?;
        publisher.snapshot(&snapshot)
    };
    let mut placed = attempt();
    for _ in 0..TRIES {
        match &placed {
            // The node that serves the log has published an entry at the same moment.
            Err(e) if e.kind() == Kind::Locked => {
                std::thread::sleep(AGAIN);
                placed = attempt();
            }
            _ => break,
        }
    }
    spinner.finish_and_clear();
    Ok(placed?)
}

fn create_in(dir: &Path, to: &Place, digest: bool) -> Outcome {
    let started = Instant::now();
    let placed = publish(dir, to, digest)?;
    let mut line = row(&placed.snapshot);
    line.insert("copied_runs".into(), placed.sent.into());
    line.insert("copied_bytes".into(), placed.sent_bytes.into());
    line.insert("seconds".into(), progress::seconds(started).into());
    output::line(Value::from(line))?;
    say(format_args!(
        "{to} has the table before offset {}: {} sent, {}",
        placed.snapshot.name.offset,
        count(placed.sent, "run"),
        format_bytes(placed.sent_bytes)
    ));
    Ok(())
}

fn verify_in(place: &Place, name: Option<&str>) -> Outcome {
    let store = there(place)?;
    let spinner = progress::spinner("verifying");
    let all = snapshots(&*store, true);
    spinner.finish_and_clear();
    let mut all = all?;
    all.retain(|(snapshot, _)| name.is_none_or(|name| name == snapshot.name.to_string()));
    let checked = |(snapshot, problems): (SnapshotRef, Vec<String>)| {
        (snapshot.name.to_string(), snapshot.bytes, problems)
    };
    tell(all.into_iter().map(checked).collect(), name)
}

fn create(dir: &Path, to: Option<PathBuf>, digest: bool) -> Outcome {
    let started = Instant::now();
    let (log, table) = origin::open_kept(dir)?;
    let spinner = progress::spinner("publishing");
    let store = Snapshots::at(to.unwrap_or_else(|| dir.join("snapshots")));
    let mut behind = false;
    let published = match store.publish(&table, digest) {
        // A process that serves the log keeps its table: what that has on disk does.
        Err(e) if e.kind() == Kind::Locked && !digest => {
            behind = true;
            store.publish_newest(dir)?.ok_or(e)
        }
        published => published,
    };
    spinner.finish_and_clear();
    let published = published?;
    let mut line = describe(&published.snapshot);
    line.insert("copied_runs".into(), published.copied.into());
    line.insert("copied_bytes".into(), published.copied_bytes.into());
    line.insert("seconds".into(), progress::seconds(started).into());
    output::line(Value::from(line))?;
    if behind {
        say(format_args!(
            "another process keeps the table: this is its newest checkpoint, {} behind the log's end; the log has the rest",
            count(
                log.confirmed_end().0.saturating_sub(published.snapshot.position.offset.0),
                "record"
            )
        ));
    }
    say(format_args!(
        "published everything before offset {}: {} copied, {}",
        published.snapshot.position.offset,
        count(published.copied, "run"),
        format_bytes(published.copied_bytes)
    ));
    Ok(())
}

fn verify(store: &Snapshots, name: Option<&str>) -> Outcome {
    let mut snapshots = store.list()?;
    snapshots.retain(|snapshot| name.is_none_or(|name| name == snapshot.name));
    let mut checked = Vec::new();
    for snapshot in snapshots {
        let spinner = progress::spinner("verifying");
        let problems = store.verify(&snapshot);
        spinner.finish_and_clear();
        checked.push((snapshot.name, snapshot.bytes, problems?));
    }
    tell(checked, name)
}

/// Says what was found in which snapshot.
fn tell(checked: Vec<(String, u64, Vec<String>)>, name: Option<&str>) -> Outcome {
    if checked.is_empty() {
        return Err(Failure::no(match name {
            Some(name) => format!("expected a snapshot {name}, found none"),
            None => "expected snapshots, found none".to_owned(),
        }));
    }
    let (mut damaged, mut bytes) = (0, 0);
    let snapshots = checked.len();
    for (name, its, problems) in checked {
        bytes += its;
        damaged += usize::from(!problems.is_empty());
        output::line(json!({"name": name, "bytes": its, "problems": problems}))?;
    }
    let looked_at = format!("{}, {}", count(snapshots, "snapshot"), format_bytes(bytes));
    if damaged > 0 {
        return Err(Failure::no(format!("{damaged} of {looked_at}: damaged")));
    }
    say(format_args!("no damage found: {looked_at}"));
    Ok(())
}
