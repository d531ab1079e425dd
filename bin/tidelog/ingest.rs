//! `ingest`: files and streams into a log.
//!
//! Every batch carries a producer id that names its input and, as its sequence, the input byte
//! behind its last line. That is what `--resume` goes by: it asks the log how far the last run of
//! this input came. A run without `--resume` takes a new id, so the same file can be ingested
//! twice on purpose.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use tidelog::frame::Producer;
use tidelog::text::{BadLine, Fields, Format, Next, Reader, TimeFormat};
use tidelog::{Append, Appended, Batch, Durability, Id, Log, Ticket};

use crate::config::{Config, DurabilityArg};
use crate::exit::{Failure, Outcome};
use crate::input::{self, Input};
use crate::progress;

/// A batch is closed at this size, whatever its count.
const BATCH_BYTES: usize = 1 << 20;
/// Appends are waited for at least this often.
const WAIT_BYTES: u64 = 8 << 20;
const WAIT_EVERY: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, ValueEnum)]
enum InputFormat {
    Lines,
    Ndjson,
    Csv,
    Envelope,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TimeArg {
    Rfc3339,
    S,
    Ms,
    Us,
    Ns,
}

/// Append files or stdin
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog ingest mylog flights.csv.gz --input csv --key-field tailnum --create
  tidelog tail mylog | tidelog ingest copy - --input envelope --create
  tidelog ingest mylog app.ndjson --input ndjson --key-field id --resume

A line that is no record stops the ingest with exit code 1; what was appended before stays. \
Inputs may be .gz or .zst.")]
pub(crate) struct Ingest {
    dir: PathBuf,
    /// Files; - for stdin, also when none is named
    files: Vec<String>,
    /// What the inputs are made of
    #[arg(long, value_enum)]
    input: InputFormat,
    /// The field that is the key
    #[arg(long, value_name = "FIELD")]
    key_field: Option<String>,
    /// The field that is the timestamp
    #[arg(long, value_name = "FIELD")]
    ts_field: Option<String>,
    /// How timestamps are written
    #[arg(long, value_enum, default_value = "rfc3339")]
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
    /// What to wait for
    #[arg(long, value_enum)]
    durability: Option<DurabilityArg>,
    /// Records to a batch, each of which is appended whole or not at all
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Create the log if there is none
    #[arg(long)]
    create: bool,
    /// Write bad lines to this file and go on
    #[arg(long, value_name = "FILE")]
    skip_bad: Option<PathBuf>,
    /// Go on where the last ingest of the same inputs was interrupted
    #[arg(long)]
    resume: bool,
    /// The directory was copied here: it is a new node
    #[arg(long, conflicts_with = "same_node")]
    new_node: bool,
    /// The directory was moved here: it is the same node
    #[arg(long)]
    same_node: bool,
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
        let config = Config::load(Some(&self.dir))?;
        let durability = config.durability(self.durability)?;
        let batch_records = config.batch(self.batch)?;
        let skipped = match &self.skip_bad {
            None => None,
            Some(path) => Some(BufWriter::new(
                File::create(path)
                    .map_err(|e| Failure::io(&format!("create {}", path.display()), &e))?,
            )),
        };
        let names = if self.files.is_empty() { vec!["-".to_owned()] } else { self.files.clone() };
        // All of them are opened once before anything is appended: a missing file costs nothing.
        for name in names.iter().filter(|name| *name != "-") {
            drop(input::open(name)?);
        }
        let log = config
            .options(None, None)?
            .create(self.create)
            .identity(crate::shell::identity(self.new_node, self.same_node))
            .open(&self.dir)?;
        let mut run = Run {
            log: &log,
            durability,
            batch_records,
            skipped,
            started: Instant::now(),
            records: 0,
            bytes: 0,
            first: None,
            last: None,
            pending: None,
            unwaited: 0,
            waited: Instant::now(),
            bad: 0,
        };
        let outcome = names.iter().try_for_each(|name| {
            let input = input::open(name)?;
            let (producer, from) = producer(&log, name, self.resume)?;
            run.input(input, format.clone(), producer, from)
        });
        // What was appended is said, and safe, also when the rest could not be.
        let outcome = run.settle().and(outcome);
        run.summary();
        let bad = run.bad;
        if let Some(skipped) = &mut run.skipped {
            skipped.flush().map_err(|e| Failure::io("write the bad lines", &e))?;
        }
        match log.close() {
            Ok(()) => {}
            Err(e) if outcome.is_ok() => return Err(e.into()),
            Err(_) => {}
        }
        outcome?;
        if bad > 0 {
            return Err(Failure::no(format!("{bad} bad lines were skipped")));
        }
        Ok(())
    }
}

/// The id of this run's batches from one input, and the input byte to go on from.
fn producer(log: &Log, name: &str, resume: bool) -> Result<(Id, u64), Failure> {
    let path = match name {
        "-" => "-".to_owned(),
        _ => std::fs::canonicalize(name)
            .map_err(|e| Failure::io(&format!("read {name}"), &e))?
            .to_string_lossy()
            .into_owned(),
    };
    let id = |run: u64| {
        let hash = blake3_of(&format!("tidelog ingest\n{path}\n{run}"));
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Id(id)
    };
    // Earlier runs left their ids in the log.
    let mut run = 0;
    while log.producer(id(run)).is_some() {
        run += 1;
    }
    match (resume, run.checked_sub(1)) {
        (true, Some(last)) => {
            let state = log.producer(id(last)).expect("seen above");
            Ok((id(last), state.sequence))
        }
        _ => Ok((id(run), 0)),
    }
}

fn blake3_of(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}

/// An ingest under way.
struct Run<'a> {
    log: &'a Log,
    durability: Durability,
    batch_records: usize,
    skipped: Option<BufWriter<File>>,
    started: Instant,
    records: u64,
    bytes: u64,
    first: Option<Appended>,
    last: Option<Appended>,
    /// The newest batch that was not waited for.
    pending: Option<Ticket>,
    unwaited: u64,
    waited: Instant,
    bad: u64,
}

impl Run<'_> {
    fn input(&mut self, input: Input, format: Format, producer: Id, from: u64) -> Outcome {
        let bar = progress::bytes(input.total);
        let name = input.name.clone();
        let is_csv = matches!(format, Format::Csv(_));
        let mut reader = Reader::new(input.reader, format);
        let mut batch = Batch::new();
        let mut end = from;
        loop {
            if progress::interrupted() {
                self.send(&mut batch, producer, end)?;
                return Err(Failure::interrupted());
            }
            let next = reader.next().map_err(|e| Failure::io(&format!("read {name}"), &e))?;
            match next {
                Next::End => break,
                // Lines that the interrupted run appended.
                _ if reader.byte() <= from => continue,
                Next::Record => {
                    let record = reader.record().as_record();
                    let timed = record.timestamp.is_some();
                    let fits = batch.len() < self.batch_records && batch.bytes() < BATCH_BYTES;
                    let full = !fits || (!batch.is_empty() && batch.is_timed() != timed);
                    if full {
                        self.send(&mut batch, producer, end)?;
                        bar.set_position(input.read.load(std::sync::atomic::Ordering::Relaxed));
                        bar.set_message(self.rate());
                    }
                    match self.push(&mut batch, &record, producer, end)? {
                        Ok(()) => end = reader.byte(),
                        Err(why) => {
                            let bad = BadLine { line: reader.line(), byte: end, why };
                            end =
                                self.bad(&reader, &name, &bad, &mut batch, producer, end, &bar)?;
                        }
                    }
                }
                Next::Bad(bad) => {
                    if is_csv && reader.columns().is_empty() {
                        // A header that lacks a column makes every row bad: a wrong call.
                        return Err(Failure::usage(format!(
                            "{name}, line {}: {}",
                            bad.line, bad.why
                        )));
                    }
                    end = self.bad(&reader, &name, &bad, &mut batch, producer, end, &bar)?;
                }
            }
        }
        self.send(&mut batch, producer, end)?;
        bar.finish_and_clear();
        Ok(())
    }

    /// Adds a record; a batch that is full of bytes goes first. `Ok(Err(…))`: it breaks a limit.
    fn push(
        &mut self,
        batch: &mut Batch,
        record: &tidelog::Record<'_>,
        producer: Id,
        end: u64,
    ) -> Result<Result<(), String>, Failure> {
        if batch.push(record).is_ok() {
            return Ok(Ok(()));
        }
        self.send(batch, producer, end)?;
        Ok(batch.push(record).map_err(|e| e.message().to_owned()))
    }

    /// Stops at a bad line, or puts it aside and goes on; returns the byte behind it.
    #[expect(clippy::too_many_arguments, reason = "one place for what a bad line means")]
    fn bad<R: std::io::BufRead>(
        &mut self,
        reader: &Reader<R>,
        name: &str,
        bad: &BadLine,
        batch: &mut Batch,
        producer: Id,
        end: u64,
        bar: &ProgressBar,
    ) -> Result<u64, Failure> {
        let place = format!("{name}, line {}: {}", bad.line, bad.why);
        self.bad += 1;
        match &mut self.skipped {
            Some(file) => {
                file.write_all(reader.raw()).map_err(|e| Failure::io("write the bad lines", &e))?;
                bar.suspend(|| anstream::eprintln!("tidelog: skipped: {place}"));
                Ok(reader.byte())
            }
            None => {
                self.send(batch, producer, end)?;
                bar.finish_and_clear();
                Err(Failure::no(format!(
                    "{place}; what came before it is appended, --skip-bad FILE goes on"
                )))
            }
        }
    }

    /// Appends the batch; waits for it now and then.
    fn send(&mut self, batch: &mut Batch, producer: Id, sequence: u64) -> Outcome {
        if batch.is_empty() {
            return Ok(());
        }
        let how = Append {
            producer: Some(Producer { id: producer, sequence }),
            durability: Some(Durability::Buffered),
            ..Append::default()
        };
        let ticket = self.log.submit(batch, &how)?;
        self.records += batch.len() as u64;
        self.bytes += batch.bytes() as u64;
        self.unwaited += batch.bytes() as u64;
        self.first.get_or_insert(ticket.appended);
        self.last = Some(ticket.appended);
        self.pending = Some(ticket);
        batch.clear();
        if self.unwaited >= WAIT_BYTES || self.waited.elapsed() >= WAIT_EVERY {
            self.settle()?;
        }
        Ok(())
    }

    /// Waits for everything appended so far.
    fn settle(&mut self) -> Outcome {
        if let Some(ticket) = self.pending.take() {
            ticket.wait(self.durability)?;
        }
        self.unwaited = 0;
        self.waited = Instant::now();
        Ok(())
    }

    fn rate(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-9);
        format!("{} records, {:.0}/s", self.records, self.records as f64 / seconds)
    }

    /// The one line on stdout.
    fn summary(&self) {
        println!(
            "{}",
            serde_json::json!({
                "records": self.records,
                "bytes": self.bytes,
                "first_offset": self.first.map(|appended| appended.first.0),
                "last_offset": self.last.map(|appended| appended.last.0),
                "token": self.last.map(|appended| self.log.token(&appended).to_string()),
                "seconds": (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e6,
            })
        );
    }
}
