//! The logs that are damaged: small ones, each with something the others do not have.
//!
//! | name | what is in it |
//! |---|---|
//! | `closed` | three epochs, two of them sealed after a crash, the last cleanly closed |
//! | `active` | an active segment after a crash, zeros ahead of it, `STATE` proves its end |
//! | `torn` | the same, and behind the proven end a torn frame that nobody was told of |
//! | `residual` | the same, and the last durable group has no evidence behind it |
//! | `tiny` | a sealed segment and an active one, a few records each: small enough for every bit and every length of it |
//! | `rolled` | segments of full size, two index entries each, a retention floor, two followers' slots, cleanly closed |
//!
//! | `table` | a table of several runs and two checkpoints; only its files are damaged |
//! | `snapshot` | two snapshots of it; only theirs are |
//!
//! All have producers, keys, deletes, timestamps, and batches; compression is the seed's choice.
//! Invariant: every record below `acknowledged` was acknowledged as durable, and the undamaged
//! disk gives exactly these records back; [`Fixture::new`] holds itself to that.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidelog::frame::{FrameKind, Producer};
use tidelog::fs::sim::{Crash, Fate, PendingOp, Sim};
use tidelog::fs::{Fs, Open};
use tidelog::log::{Claim, Retention};
use tidelog::segment::{Footer, SegmentHeader, Tally, Window, walk};
use tidelog::{
    Append, Batch, Compression, Durability, Id, Log, Offset, Op, Options, Position, Preallocate,
};

use super::table;
use crate::dice::Dice;
use crate::told::Told;

/// Where every log lies.
pub const DIR: &str = "/log";
const PAGE_BYTES: u64 = 4096;

/// Every kind of fixture.
pub const NAMES: [&str; 8] =
    ["closed", "active", "torn", "residual", "rolled", table::KEPT, table::STORE, TINY];
/// The one that is damaged whole.
pub const TINY: &str = "tiny";

/// A log on a disk, and what clients know of it.
pub struct Fixture {
    pub name: &'static str,
    pub seed: u64,
    /// Nothing on it is pending.
    pub disk: Sim,
    /// Every record sent, by offset.
    pub told: Vec<Told>,
    /// Retention dropped what lies before.
    pub start: u64,
    /// Records acknowledged as durable.
    pub acknowledged: u64,
    /// From this offset on nothing but the frames themselves proves that they were durable.
    pub unproven_from: u64,
    /// Behind the last segment's frames there is a piece of one that nobody was told of.
    pub torn: bool,
    /// Every file, and how long it is.
    pub files: Vec<(PathBuf, u64)>,
    pub segments: Vec<Frames>,
    /// What followers claimed.
    pub slots: Vec<Claim>,
    /// The files of another log of the same kind.
    pub foreign: Vec<(PathBuf, Vec<u8>)>,
}

/// Where the frames of one segment file are.
pub struct Frames {
    pub path: PathBuf,
    pub sealed: bool,
    pub spans: Vec<Span>,
    /// Behind the last frame.
    pub end: u64,
}

/// One frame of records: its bytes in the file, its offsets in the log.
#[derive(Clone, Copy)]
pub struct Span {
    pub from: u64,
    pub to: u64,
    pub first: u64,
    pub count: u64,
}

impl Fixture {
    /// Builds the fixture `name` with the contents that `seed` chooses.
    pub fn new(name: &'static str, seed: u64) -> Result<Self, String> {
        if [table::KEPT, table::STORE].contains(&name) {
            return table::fixture(name, seed);
        }
        let foreign = Self::build(name, seed ^ 0xF0E1_D2C3)?;
        let mut fixture = Self::build(name, seed)?;
        fixture.foreign =
            foreign.files.iter().map(|(path, _)| (path.clone(), foreign.disk.read(path))).collect();
        Ok(fixture)
    }

    fn build(name: &'static str, seed: u64) -> Result<Self, String> {
        let failed = |e: tidelog::Error| format!("fixture {name} of seed {seed}: {e}");
        let number = NAMES.iter().position(|n| *n == name).expect("a known name") as u64;
        let mut builder = Builder::new(seed.wrapping_mul(31).wrapping_add(number));
        let unproven = builder.run(name).map_err(failed)?;
        let Builder { sim, told, acknowledged, start, .. } = builder;
        let disk = sim;
        let files: Vec<(PathBuf, u64)> = disk
            .paths()
            .into_iter()
            .map(|path| (path.clone(), disk.read(&path).len() as u64))
            .collect();
        let mut fixture = Fixture {
            name,
            seed,
            disk,
            told,
            start,
            acknowledged,
            unproven_from: unproven.unwrap_or(acknowledged),
            torn: false,
            files,
            segments: Vec::new(),
            slots: Vec::new(),
            foreign: Vec::new(),
        };
        fixture.learn().map_err(failed)?;
        fixture.map()?;
        Ok(fixture)
    }

    /// How this log is opened.
    pub fn options(disk: &Sim) -> Options {
        Log::options().fs(disk.shared()).worker(false).segment_bytes(64 << 10)
    }

    /// Reads the undamaged log: it must be whole, and says what the log stamped.
    fn learn(&mut self) -> tidelog::Result<()> {
        let disk = self.disk.deep_copy();
        let log = Self::options(&disk).read_only(true).open(DIR)?;
        self.slots = log.slots()?.into_iter().map(|slot| slot.claim).collect();
        let mut cursor = log.read(log.start())?;
        self.torn = log.report().bytes_cut > 0;
        let mut next = self.start;
        while let Some(entry) = cursor.next()? {
            let told = &mut self.told[usize::try_from(next).expect("few")];
            assert!(told.is(&entry) && entry.offset == Offset(next), "offset {next}, undamaged");
            told.timestamp = Some(entry.timestamp);
            next += 1;
        }
        assert!(next >= self.acknowledged, "{next} of {} before any damage", self.acknowledged);
        Ok(())
    }

    /// Notes where frames are.
    fn map(&mut self) -> Result<(), String> {
        let fs = self.disk.shared();
        for (path, len) in &self.files {
            if !is_segment(path) {
                continue;
            }
            self.segments.push(frames(&*fs, path, *len).map_err(|e| format!("{e}"))?);
        }
        let mapped: u64 = self.segments.iter().flat_map(|s| &s.spans).map(|s| s.count).sum();
        assert!(mapped >= self.acknowledged - self.start, "every record has a frame");
        Ok(())
    }
}

/// Whether a path is that of a segment file.
pub fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "seg")
}

fn frames(fs: &dyn Fs, path: &Path, len: u64) -> std::io::Result<Frames> {
    let file = fs.open(path, Open::Read)?;
    let mut page = vec![0; 4096];
    file.read_full_at(&mut page, 0)?;
    let header = SegmentHeader::decode(&page).expect("an undamaged header");
    let sealed = Footer::read(&*file).expect("an undamaged footer").is_some();
    let mut spans = Vec::new();
    let mut tally = Tally::default();
    walk(&mut Window::file(Arc::clone(&file)), &header, len, &mut tally, |frame, byte| {
        if frame.header.kind == FrameKind::Data {
            spans.push(Span {
                from: byte,
                to: byte + frame.header.stride() as u64,
                first: header.base_offset.0 + u64::from(frame.header.rel_offset),
                count: u64::from(frame.header.count),
            });
        }
    })?;
    Ok(Frames { path: path.to_path_buf(), sealed, spans, end: tally.end })
}

struct Builder {
    dice: Dice,
    sim: Sim,
    told: Vec<Told>,
    acknowledged: u64,
    start: u64,
    sequence: u64,
    time: i64,
    compression: Compression,
    long: bool,
}

impl Builder {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let choice = [Compression::None, Compression::Lz4, Compression::None, Compression::Zstd];
        let compression = choice[usize::try_from(seed % 4).expect("small")];
        Builder {
            sim: Sim::new(dice.next()),
            dice,
            told: Vec::new(),
            acknowledged: 0,
            start: 0,
            sequence: 0,
            time: 1_000,
            compression,
            long: false,
        }
    }

    /// Returns the first offset that nothing proves, if that is not the end.
    fn run(&mut self, name: &str) -> tidelog::Result<Option<u64>> {
        let mut unproven = None;
        match name {
            "closed" => {
                self.crashed_session(4)?;
                self.crashed_session(5)?;
                let log = self.open(Preallocate::Grow)?;
                self.fill(&log, 8)?;
                log.close()?;
            }
            "active" => {
                self.crashed_session(4)?;
                let log = self.open(Preallocate::Auto)?;
                self.fill(&log, 10)?;
                self.prove(&log)?;
                self.kill(log);
            }
            TINY => {
                self.crashed_session(0)?;
                let log = self.open(Preallocate::Auto)?;
                self.prove(&log)?;
                self.kill(log);
            }
            "torn" => {
                self.crashed_session(3)?;
                let log = self.open(Preallocate::Auto)?;
                self.fill(&log, 5)?;
                self.prove(&log)?;
                self.long = true;
                self.append(&log, Durability::Written)?;
                self.sim.kill();
                drop(log);
                let torn = Fate::Torn(self.dice.next());
                // A segment's file was opened under another name than it has now.
                let fate = |op: PendingOp| match op.path.starts_with(DIR.to_owned() + "/segments") {
                    true => torn,
                    false => Fate::Kept,
                };
                let fates = self.sim.pending().into_iter().map(fate).collect();
                self.sim = self.sim.crash(&Crash::Fates(fates));
            }
            "residual" => {
                let log = self.open(Preallocate::Auto)?;
                self.fill(&log, 6)?;
                self.prove(&log)?;
                unproven = Some(self.acknowledged);
                self.append(&log, Durability::Durable)?;
                self.kill(log);
            }
            _ => {
                self.long = true;
                let log = self.open(Preallocate::Grow)?;
                while log.segments().len() < 4 {
                    self.append(&log, Durability::Written)?;
                }
                self.fill(&log, 3)?;
                let second = log.segments()[1].base_offset;
                let keep = Retention { keep_from: Some(second), ..Retention::default() };
                self.start = log.retain(&keep)?.start.0;
                let segments = log.segments();
                for (node, needs) in [(1, segments[0].base), (2, segments[1].base)] {
                    let position = Position { log_byte: needs, ..Position::default() };
                    let name = format!("edge {node}");
                    log.claim(Claim { node: Id([node; 16]), name, position, needs })?;
                }
                log.close()?;
            }
        }
        self.sim = self.sim.crash(&Crash::KeepAll);
        // Zeros ahead of the frames are all alike: one page of them is enough.
        let segments = self.sim.paths().into_iter().filter(|path| is_segment(path));
        for path in segments.collect::<Vec<_>>() {
            let bytes = self.sim.read(&path);
            let used = bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last as u64 + 1);
            let end = used.next_multiple_of(PAGE_BYTES) + PAGE_BYTES;
            if end < bytes.len() as u64 {
                self.sim.truncate(&path, end);
            }
        }
        Ok(unproven)
    }

    fn open(&self, preallocate: Preallocate) -> tidelog::Result<Log> {
        Fixture::options(&self.sim)
            .create(true)
            .preallocate(preallocate)
            .compression(self.compression)
            .open(DIR)
    }

    /// An epoch that ends in a crash of the process; the next open seals it.
    fn crashed_session(&mut self, appends: u64) -> tidelog::Result<()> {
        let log = self.open(Preallocate::Grow)?;
        self.fill(&log, appends)?;
        self.prove(&log)?;
        self.kill(log);
        Ok(())
    }

    fn kill(&mut self, log: Log) {
        self.sim.kill();
        drop(log);
        self.sim = self.sim.crash(&Crash::KeepAll);
    }

    /// Has `STATE` written for what is durable now.
    fn prove(&mut self, log: &Log) -> tidelog::Result<()> {
        self.sim.advance(std::time::Duration::from_millis(20));
        self.append(log, Durability::Durable)
    }

    fn fill(&mut self, log: &Log, appends: u64) -> tidelog::Result<()> {
        for _ in 0..appends {
            let durability = self.dice.pick(&[Durability::Durable, Durability::Written]);
            self.append(log, durability)?;
        }
        self.append(log, Durability::Durable)
    }

    /// One batch of what the dice say.
    fn append(&mut self, log: &Log, durability: Durability) -> tidelog::Result<()> {
        let timed = self.dice.chance(1, 2);
        let count = 1 + self.dice.below(4);
        let mut batch = Batch::new();
        for _ in 0..count {
            let told = self.record(timed);
            batch.push(&told.record())?;
            self.told.push(told);
        }
        self.sequence += 1;
        let id = Id([u8::try_from(self.dice.below(3)).expect("small") + 1; 16]);
        let producer = Producer { id, sequence: self.sequence };
        let how = Append {
            durability: Some(durability),
            producer: self.dice.chance(1, 2).then_some(producer),
            expect: None,
        };
        let appended = log.append_with(&batch, &how)?;
        assert_eq!(appended.last.0 + 1, self.told.len() as u64, "offsets are dense");
        if durability == Durability::Durable {
            self.acknowledged = self.told.len() as u64;
        }
        Ok(())
    }

    fn record(&mut self, timed: bool) -> Told {
        self.time += i64::try_from(self.dice.below(50)).expect("small") - 10;
        let timestamp = timed.then_some(self.time);
        let op = self.dice.pick(&[Op::Put, Op::Put, Op::Delete, Op::Event]);
        let key_bytes = self.dice.below(6);
        let key = self.dice.bytes(key_bytes);
        let key = (op != Op::Event || self.dice.chance(1, 2)).then_some(key);
        let most = if self.long { 3000 } else { 60 };
        let bytes = if op == Op::Delete { 0 } else { self.dice.below(most) };
        let value = match self.dice.chance(1, 3) && !self.long {
            true => b"tide ".repeat(usize::try_from(bytes / 5).expect("small")),
            false => self.dice.bytes(bytes),
        };
        Told { op, key, value, timestamp }
    }
}
