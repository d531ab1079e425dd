//! Feeding a log, here or on nodes, from inputs: batches, waiting, bad lines, and going on after an interruption.
//!
//! Called by `ingest`. Every batch carries a producer id and a sequence. The id names the input:
//! a hash of its canonical path (of `-` for stdin) and of how often that was ingested before, so
//! that the same file can be ingested twice on purpose. The sequence is the input byte behind the
//! batch's last line. Both are in the log itself, in the same frame as the records, so whatever a
//! kill leaves there says exactly where to go on.
//!
//! A path says little about what is in a file. Going on therefore reads the input again up to that
//! byte and holds the last record before it against the one in the log: a file that was rotated,
//! edited or cut, another stdin, or other settings are refused, not skipped over.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::json;
use tidelog::frame::Producer;
use tidelog::text::{BadLine, Format, Next, OwnedRecord, Reader, format_bytes};
use tidelog::{Batch, Id};

use crate::exit::{Failure, Outcome};
use crate::input::{self, Stream};
use crate::output::{self, count, say};
use crate::progress;
use crate::sink::{Placed, Reached, Sink};

/// A batch is closed at this size, whatever its count.
const BATCH_BYTES: usize = 1 << 20;
/// This many bad lines are named; the others are counted.
const NAMED_BAD_LINES: u64 = 10;

/// An ingest under way.
pub(crate) struct Feed<'a> {
    sink: &'a mut dyn Sink,
    format: Format,
    batch_records: usize,
    skipped: Option<Skipped>,
    started: Instant,
    batch: Batch,
    /// The mark of the batch that is being filled.
    producer: Producer,
    records: u64,
    bytes: u64,
    first: Option<u64>,
    last: Option<Placed>,
    bad: u64,
}

/// Where bad lines go.
pub(crate) struct Skipped {
    path: PathBuf,
    file: File,
}

impl Skipped {
    /// Opens the file; what an interrupted ingest put there stays.
    pub(crate) fn open(path: &Path, resume: bool) -> Result<Self, Failure> {
        let mut options = File::options();
        let options = options.create(true).write(true).append(resume).truncate(!resume);
        let file = options
            .open(path)
            .map_err(|e| Failure::io(&format!("write {}", path.display()), &e))?;
        Ok(Skipped { path: path.to_owned(), file })
    }

    fn put(&mut self, line: &[u8]) -> Outcome {
        let newline: &[u8] = if line.ends_with(b"\n") { b"" } else { b"\n" };
        self.file
            .write_all(&[line, newline].concat())
            .map_err(|e| Failure::io(&format!("write {}", self.path.display()), &e))
    }
}

impl<'a> Feed<'a> {
    pub(crate) fn new(
        sink: &'a mut dyn Sink,
        format: Format,
        batch_records: usize,
        skipped: Option<Skipped>,
    ) -> Self {
        Feed {
            sink,
            format,
            batch_records,
            skipped,
            started: Instant::now(),
            batch: Batch::new(),
            producer: Producer { id: Id::default(), sequence: 0 },
            records: 0,
            bytes: 0,
            first: None,
            last: None,
            bad: 0,
        }
    }

    /// Appends what is in the input `name`.
    pub(crate) fn input(&mut self, name: &str, resume: bool) -> Outcome {
        let (id, before) = producer(self.sink, name, resume)?;
        self.producer = Producer { id, sequence: 0 };
        let input = input::open(name)?;
        let mut reader = Reader::new(input.reader, self.format.clone());
        if let Some(before) = before {
            self.go_on(&mut reader, name, &before)?;
        } else if resume {
            say(format_args!("the log remembers no ingest of {name}: starting at its beginning"));
        }
        let bar = progress::bytes(input.total);
        let outcome = loop {
            let show = |feed: &Self| {
                bar.set_position(input.read.load(Relaxed));
                bar.set_message(feed.rate());
            };
            match self.step(&mut reader, name, &bar, &show) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        bar.finish_and_clear();
        // Whatever ended it: the records before that are good.
        self.send().and(outcome)
    }

    /// Takes one line; `false` at the end.
    fn step(
        &mut self,
        reader: &mut Reader<Box<dyn Stream>>,
        name: &str,
        bar: &ProgressBar,
        show: &dyn Fn(&Self),
    ) -> Result<bool, Failure> {
        if progress::interrupted() {
            return Err(Failure::interrupted());
        }
        if !reader.input_mut().is_ready(Duration::ZERO) {
            // Nothing more just now: what there is shall not wait in memory for it.
            self.send()?;
            self.sink.settle()?;
            show(self);
            while !reader.input_mut().is_ready(Duration::from_millis(200)) {
                if progress::interrupted() {
                    return Err(Failure::interrupted());
                }
            }
        }
        match reader.next().map_err(|e| Failure::io(&format!("read {name}"), &e))? {
            Next::End => return Ok(false),
            Next::Record => {
                let start = self.producer.sequence;
                let record = reader.record();
                let timed = record.timestamp.is_some();
                let full = self.batch.len() >= self.batch_records
                    || self.batch.bytes() >= BATCH_BYTES
                    || (!self.batch.is_empty() && self.batch.is_timed() != timed);
                if full {
                    self.send()?;
                    show(self);
                }
                match self.push(record)? {
                    Ok(()) => self.producer.sequence = reader.byte(),
                    Err(why) => {
                        let bad = BadLine { line: reader.line(), byte: start, why };
                        self.bad(reader, name, &bad, bar)?;
                    }
                }
            }
            Next::Bad(bad) => {
                if matches!(self.format, Format::Csv(_)) && reader.columns().is_empty() {
                    // A header that lacks a column makes every row bad: a wrong call.
                    return Err(Failure::usage(format!("{name}, line {}: {}", bad.line, bad.why)));
                }
                self.bad(reader, name, &bad, bar)?;
            }
        }
        Ok(true)
    }

    /// Adds a record; a batch without room for it goes first. `Ok(Err(…))`: it breaks a limit.
    fn push(&mut self, record: &OwnedRecord) -> Result<Result<(), String>, Failure> {
        let record = record.as_record();
        if self.batch.push(&record).is_ok() {
            return Ok(Ok(()));
        }
        self.send()?;
        Ok(self.batch.push(&record).map_err(|e| e.message().to_owned()))
    }

    /// Stops at a bad line, or puts it aside.
    fn bad(
        &mut self,
        reader: &Reader<Box<dyn Stream>>,
        name: &str,
        bad: &BadLine,
        bar: &ProgressBar,
    ) -> Outcome {
        let place = format!("{name}, line {}, byte {}: {}", bad.line, bad.byte, bad.why);
        self.bad += 1;
        let Some(skipped) = &mut self.skipped else {
            return Err(Failure::no(format!(
                "{place}; what came before it is appended. Mend the line and go on with --resume, \
                 or put such lines aside with --skip-bad FILE"
            )));
        };
        skipped.put(reader.raw())?;
        self.producer.sequence = reader.byte();
        if self.bad <= NAMED_BAD_LINES {
            bar.suspend(|| say(format_args!("skipped: {place}")));
        } else if self.bad == NAMED_BAD_LINES + 1 {
            bar.suspend(|| say("skipped: further bad lines are only counted"));
        }
        Ok(())
    }

    /// Reads up to where the last ingest of this input came, and makes sure that it is the same
    /// input.
    fn go_on(
        &mut self,
        reader: &mut Reader<Box<dyn Stream>>,
        name: &str,
        before: &Reached,
    ) -> Outcome {
        let mut last: Option<OwnedRecord> = None;
        let mut reached = 0;
        while reached < before.sequence {
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
            match reader.next().map_err(|e| Failure::io(&format!("read {name}"), &e))? {
                Next::Record => last = Some(reader.record().clone()),
                Next::Bad(_) => {}
                Next::End => break,
            }
            reached = reader.byte();
        }
        let changed = |found: String| {
            Err(Failure::usage(format!(
                "expected {name} to begin with the {} bytes whose last record is at offset {}, \
                 found {found}; without --resume all of it is ingested",
                before.sequence, before.last
            )))
        };
        if reached < before.sequence {
            return changed(format!("only {reached} bytes"));
        }
        if reached > before.sequence {
            return changed("a line across that byte".into());
        }
        if let Some(entry) = self.sink.get(before.last)? {
            let there = entry.record();
            let same = last.is_some_and(|last| {
                let here = last.as_record();
                (here.op, here.key, here.value) == (there.op, there.key, there.value)
                    && here.timestamp.is_none_or(|time| time == entry.timestamp)
            });
            if !same {
                return changed(format!("another record on line {}", reader.line()));
            }
        }
        self.producer.sequence = before.sequence;
        say(format_args!("going on with {name} behind line {}", output::grouped(reader.line())));
        Ok(())
    }

    /// Appends the batch; waits for it now and then.
    fn send(&mut self) -> Outcome {
        if self.batch.is_empty() {
            return Ok(());
        }
        let placed = self.sink.append(&self.batch, self.producer)?;
        self.records += self.batch.len() as u64;
        self.bytes += self.batch.bytes() as u64;
        self.first.get_or_insert(placed.first);
        self.last = Some(placed);
        self.batch.clear();
        Ok(())
    }

    fn rate(&self) -> String {
        let micros = self.started.elapsed().as_micros().max(1);
        let rate = u128::from(self.records) * 1_000_000 / micros;
        let rate = output::grouped(u64::try_from(rate).unwrap_or(u64::MAX));
        format!("{}, {rate}/s", count(self.records, "record"))
    }

    /// Waits for the rest and says what was done: one line of data, one for people.
    pub(crate) fn finish(self, outcome: Outcome) -> Outcome {
        let outcome = self.sink.settle().and(outcome);
        if outcome.as_ref().is_err_and(|failure| failure.code == 2) && self.records == 0 {
            return outcome;
        }
        let printed = output::line(json!({
            "records": self.records,
            "bytes": self.bytes,
            "first_offset": self.first,
            "last_offset": self.last.as_ref().map(|placed| placed.last),
            "token": self.last.as_ref().map(|placed| placed.token.as_str()),
            "seconds": progress::seconds(self.started),
        }));
        say(format_args!(
            "{}, {} in {:.2} s",
            self.rate(),
            format_bytes(self.bytes),
            self.started.elapsed().as_secs_f64()
        ));
        outcome?;
        match (&self.skipped, self.bad) {
            (Some(skipped), bad) if bad > 0 => Err(Failure::no(format!(
                "{} skipped, see {}",
                count(bad, "bad line"),
                skipped.path.display()
            ))),
            _ => printed,
        }
    }
}

/// The id of this run's batches from one input, and how far the last run came if this one goes on.
fn producer(
    sink: &mut dyn Sink,
    name: &str,
    resume: bool,
) -> Result<(Id, Option<Reached>), Failure> {
    let path = match name {
        "-" => PathBuf::from("-"),
        _ => std::fs::canonicalize(name).map_err(|e| Failure::io(&format!("read {name}"), &e))?,
    };
    let id = |run: u64| {
        let hash = blake3::Hasher::new()
            .update(b"tidelog ingest\n")
            .update(path.as_os_str().as_encoded_bytes())
            .update(&run.to_le_bytes())
            .finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        Id(id)
    };
    // Earlier runs left their ids in the log.
    let mut run = 0;
    let mut before = None;
    while let Some(state) = sink.reached(id(run))? {
        before = Some(state);
        run += 1;
    }
    match before {
        Some(state) if resume => Ok((id(run - 1), Some(state))),
        _ => Ok((id(run), None)),
    }
}
