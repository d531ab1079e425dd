//! `snapshot`: publishing what a table holds, and looking at what is published.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tidelog::table::{Snapshot, Snapshots};
use tidelog::text::{format_bytes, format_time};

use crate::args::LogDir;
use crate::exit::{Failure, Outcome};
use crate::origin;
use crate::output::{self, Format, count, say};
use crate::progress;

/// Publish what the table holds, list what is published, check it
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog snapshot create mylog
  tidelog snapshot create mylog --to snaps --digest
  tidelog snapshot list snaps
  tidelog snapshot verify snaps

A snapshot is the table at one exact offset, in files named by their content: the next one costs what \
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
        /// Where to; DIR/snapshots unless told
        #[arg(long, value_name = "STORE")]
        to: Option<PathBuf>,
        /// Add the state digest and the exact number of rows: a walk over all of them
        #[arg(long)]
        digest: bool,
    },
    /// Print what is published, oldest first
    List {
        /// A directory of snapshots, or a log's directory
        #[arg(value_name = "STORE")]
        store: PathBuf,
        /// How to print them
        #[arg(short = 'o', value_name = "FORMAT")]
        output: Option<Format>,
    },
    /// Read every byte and hold it against its hash; exit 1 with a list when something is damaged
    Verify {
        /// A directory of snapshots, or a log's directory
        #[arg(value_name = "STORE")]
        store: PathBuf,
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
            What::Create { at, to, digest } => create(&at.dir, to, digest),
            What::List { store: dir, output } => {
                let rows: Vec<_> = store(&dir).list()?.iter().map(describe).collect();
                output::print_rows(output.unwrap_or_else(output::default_format), &rows)
            }
            What::Verify { store: dir, name } => verify(&store(&dir), name.as_deref()),
        }
    }
}

fn create(dir: &Path, to: Option<PathBuf>, digest: bool) -> Outcome {
    let started = Instant::now();
    let (_log, table) = origin::open_kept(dir)?;
    let spinner = progress::spinner("publishing");
    let store = Snapshots::at(to.unwrap_or_else(|| dir.join("snapshots")));
    let published = store.publish(&table, digest);
    spinner.finish_and_clear();
    let published = published?;
    let mut line = describe(&published.snapshot);
    line.insert("copied_runs".into(), published.copied.into());
    line.insert("copied_bytes".into(), published.copied_bytes.into());
    line.insert("seconds".into(), progress::seconds(started).into());
    output::line(Value::from(line))?;
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
    if snapshots.is_empty() {
        return Err(Failure::no(match name {
            Some(name) => format!("expected a snapshot {name}, found none"),
            None => "expected snapshots, found none".to_owned(),
        }));
    }
    let (mut damaged, mut bytes) = (0, 0);
    for snapshot in &snapshots {
        let spinner = progress::spinner("verifying");
        let problems = store.verify(snapshot);
        spinner.finish_and_clear();
        let problems = problems?;
        bytes += snapshot.bytes;
        damaged += usize::from(!problems.is_empty());
        output::line(
            json!({"name": snapshot.name, "bytes": snapshot.bytes, "problems": problems}),
        )?;
    }
    let looked_at = format!("{}, {}", count(snapshots.len(), "snapshot"), format_bytes(bytes));
    if damaged > 0 {
        return Err(Failure::no(format!("{damaged} of {looked_at}: damaged")));
    }
    say(format_args!("no damage found: {looked_at}"));
    Ok(())
}
