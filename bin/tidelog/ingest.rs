//! `ingest`: files and streams into a log, in a directory or on nodes. What it asks for is here, the work is in
//! `feed`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tidelog::text::{Fields, Format, TimeFormat};

use crate::args::NodeArgs;
use crate::config::DurabilityArg;
use crate::exit::{Failure, Outcome};
use crate::feed::{Feed, Skipped};
use crate::input;
use crate::leading::LeadingArgs;
use crate::origin::OriginArgs;
use crate::output::say;
use crate::sink::{Here, Sink, There};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum InputFormat {
    /// Each line is the value of an event; with --key-delim of a put
    Lines,
    /// Each line is a JSON object, stored whole
    Ndjson,
    /// Each row becomes a JSON object with the header's names
    Csv,
    /// What `tidelog tail` prints
    Envelope,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TimeArg {
    /// 2026-11-23T04:00:00Z
    Rfc3339,
    /// Seconds since 1970
    S,
    /// Milliseconds
    Ms,
    /// Microseconds
    Us,
    /// Nanoseconds
    Ns,
}

/// Append files or stdin
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog ingest mylog flights.csv.gz --input csv --key-field tailnum --create
  tidelog ingest mylog app.ndjson --input ndjson --key-field id --resume
  tidelog ingest mylog app.ndjson --input ndjson --key-field id --skip-bad bad.ndjson
  tidelog tail mylog | tidelog ingest copy - --input envelope --create
  df | tidelog ingest mylog --input lines
  tidelog ingest http://127.0.0.1:7400 app.ndjson --input ndjson --key-field id --resume

Inputs may be .gz or .zst. Prints one JSON line at the end. A line that is no record stops the ingest \
with exit code 1; what came before it is appended. --resume goes by what the log itself remembers of the \
last ingest of the same file, and appends nothing twice, whenever that was killed; it refuses a file whose \
beginning has changed. Of nodes the leader is looked for, again whenever another one leads; when none does within \
--timeout, the ingest ends with exit code 6, and --resume goes on.")]
pub(crate) struct Ingest {
    #[command(flatten)]
    at: OriginArgs,
    /// Files; - for stdin, also when none is named
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    /// What the inputs are made of
    #[arg(long, value_enum, value_name = "FORMAT")]
    input: InputFormat,
    /// The field that is the key; without one, records are events
    #[arg(long, value_name = "FIELD")]
    key_field: Option<String>,
    /// The field that is the timestamp; without one, the time of the append
    #[arg(long, value_name = "FIELD")]
    ts_field: Option<String>,
    /// How that is written
    #[arg(long, value_enum, default_value = "rfc3339", value_name = "FORMAT")]
    ts_format: TimeArg,
    /// The field that is the operation: put, delete or event
    #[arg(long, value_name = "FIELD")]
    op_field: Option<String>,
    /// Append events, which leave the table alone
    #[arg(long)]
    event: bool,
    /// With --input lines: what separates a key from its value
    #[arg(long, value_name = "TEXT")]
    key_delim: Option<String>,
    /// What to wait for [default: durable; of nodes, what the mode means]
    #[arg(long, value_enum, value_name = "LEVEL")]
    durability: Option<DurabilityArg>,
    #[command(flatten)]
    leading: LeadingArgs,
    /// Records to a batch, each of which is appended whole or not at all [default: 1000]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Create the log if there is none
    #[arg(long)]
    create: bool,
    /// Write bad lines to this file and go on
    #[arg(long, value_name = "FILE")]
    skip_bad: Option<PathBuf>,
    /// Go on where the last ingest of the same inputs ended
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    node: NodeArgs,
}

impl Ingest {
    fn format(&self) -> Result<Format, Failure> {
        let fields = Fields {
            key: self.key_field.clone(),
            ts: self.ts_field.clone(),
            ts_format: match self.ts_format {
                TimeArg::Rfc3339 => TimeFormat::Rfc3339,
                TimeArg::S => TimeFormat::Seconds,
                TimeArg::Ms => TimeFormat::Millis,
                TimeArg::Us => TimeFormat::Micros,
                TimeArg::Ns => TimeFormat::Nanos,
            },
            op: self.op_field.clone(),
            event: self.event,
        };
        let has_fields = self.key_field.is_some()
            || self.ts_field.is_some()
            || self.op_field.is_some()
            || self.event;
        match self.input {
            InputFormat::Lines | InputFormat::Envelope if has_fields => Err(Failure::usage(
                "--key-field, --ts-field, --op-field and --event go with ndjson and csv",
            )),
            InputFormat::Lines => Ok(Format::Lines { key_delim: self.key_delim.clone() }),
            _ if self.key_delim.is_some() => {
                Err(Failure::usage("--key-delim goes with --input lines"))
            }
            InputFormat::Ndjson => Ok(Format::Ndjson(fields)),
            InputFormat::Csv => Ok(Format::Csv(fields)),
            InputFormat::Envelope => Ok(Format::Envelope),
        }
    }

    pub(crate) fn run(self) -> Outcome {
        let format = self.format()?;
        let config = self.at.config()?;
        let batch_records = config.batch(self.batch)?;
        let names = if self.files.is_empty() { vec!["-".to_owned()] } else { self.files.clone() };
        // Before anything is appended: a missing file costs nothing.
        names.iter().try_for_each(|name| input::check(name))?;
        if let Some(cluster) = self.at.cluster()? {
            if self.create || self.node.is_given() {
                return Err(Failure::usage(
                    "--create, --new-node and --same-node go with a directory",
                ));
            }
            let how = self.leading.options(self.durability)?;
            let mut nodes = There::new(cluster, how, self.leading.timeout());
            return self.feed(&mut nodes, format, batch_records, &names);
        }
        self.leading.check_directory()?;
        let durability = config.durability(self.durability)?;
        let Some(dir) = self.at.directory() else { return Ok(()) };
        let log = config
            .options(None, None)?
            .create(self.create)
            .identity(self.node.identity())
            .open(dir)?;
        let outcome = self.feed(&mut Here::new(&log, durability), format, batch_records, &names);
        match log.close() {
            Err(e) if outcome.is_ok() => Err(e.into()),
            _ => outcome,
        }
    }

    fn feed(
        &self,
        sink: &mut dyn Sink,
        format: Format,
        batch_records: usize,
        names: &[String],
    ) -> Outcome {
        if names.iter().any(|name| name == "-") && std::io::stdin().is_terminal() {
            say("reading stdin; Ctrl-D ends it");
        }
        let skipped =
            self.skip_bad.as_deref().map(|path| Skipped::open(path, self.resume)).transpose()?;
        let mut feed = Feed::new(sink, format, batch_records, skipped);
        let outcome = names.iter().try_for_each(|name| feed.input(name, self.resume));
        // What was appended is said, and safe, also when the rest could not be.
        feed.finish(outcome)
    }
}
