//! The follower: a directory that becomes, and stays, a copy of its leader's.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
#[cfg(feature = "wire")]
use crate::fs::Fs;
use crate::fs::Lock;
#[cfg(feature = "wire")]
use crate::log::commit::End;
#[cfg(feature = "wire")]
use crate::log::files::SetLine;
use crate::log::files::{Control, Layout, LogFile, State};
use crate::log::promises::Promises;
use crate::log::{Log, Options, Recovery, open};
use crate::position::{Id, Offset, Position};
#[cfg(feature = "wire")]
use crate::segment::SegmentName;
#[cfg(feature = "wire")]
use crate::ship::archive::History;
use crate::ship::{Report, Source};
use crate::table::{Applier, Beginning, RestoreAt, Table, TableOptions};

use super::apply::Applying;
use super::bootstrap::{self, Bootstrap};
use super::create::{Begin, create};
use super::gauge::Gauge;
use super::heal::heal;
use super::hold::Hold;
use super::pause::{Brake, Pause};
use super::pipeline;
use super::receive::{Received, Receiver};
use super::recover::{FollowerReport, recover};
use super::rejoin::{self, Met};

/// A directory that copies a source's segments, byte for byte, and applies their records.
///
/// It holds the directory's writer lock. Readers in other processes open the directory for
/// reading, as they would beside a leader; those in this process use [`log`](Self::log) and
/// [`table`](Self::table), which go on while it copies.
///
/// A copy starts at the log's beginning, or with a snapshot of the table where the log from there is
/// gone or would cost more ([`TableOptions::begin`]). When a source drops what a copy that runs still
/// needs, [`Kind::Gone`] says so: opened again, it begins anew with a snapshot, if any source has one.
/// What was copied is kept, whatever the source drops later.
///
/// When its history and the source's part, [`Kind::Diverged`] says so and nothing is changed: opened again,
/// it keeps what differs in `diverged/`, cuts it, and goes on ([`FollowerReport::rejoined`]). What was
/// committed is not cut: [`Kind::CommittedDataLoss`], unless [`Options::accept_loss`].
///
/// For an example see [`ship::Directory`](crate::ship::Directory).
#[derive(Debug)]
pub struct Follower {
    pub(super) receiver: Receiver,
    applying: Applying,
    gauge: Gauge,
    report: FollowerReport,
    poll_every: Duration,
    /// Whether apply goes on beside copying.
    threads: bool,
    /// Held as long as this follower writes; the last to go.
    _lock: Box<dyn Lock>,
}

/// What a follower did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Where the copy ended before.
    pub from: Offset,
    /// Where it ends now, durably.
    pub to: Offset,
    /// Everything before is applied: all that the leader has committed, unless apply is held back.
    pub applied: Offset,
    /// Bytes of frames that were copied.
    pub bytes: u64,
    /// Segments that were completed.
    pub segments: u64,
    /// Whether more may be shown than before: the leader has committed it.
    pub shown: bool,
    /// What is still missing.
    pub lag: Lag,
}

/// How far a copy is behind what its source had durable at the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Records.
    pub records: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

impl Follower {
    /// Opens the copy of `source` in `dir`, and makes it if there is none.
    ///
    /// Of `options`, those about reading count, the file system, the identity and how often to
    /// look. Refused: a directory of another log ([`Kind::WrongLog`]), one that leads or is no
    /// log's, and sources that have neither the log that is needed nor a snapshot
    /// ([`Kind::Gone`]). A copy opens without its source; then only pulling fails.
    pub fn open(
        options: Options,
        dir: impl AsRef<Path>,
        source: impl Source + 'static,
    ) -> Result<Self> {
        Follower::open_with(options, Table::options(), dir, source)
    }

    /// The same, with options of the table.
    pub fn open_with(
        options: Options,
        table: TableOptions,
        dir: impl AsRef<Path>,
        source: impl Source + 'static,
    ) -> Result<Self> {
        Follower::open_from(options, table, dir.as_ref(), Box::new(source))
    }

    /// The same, of a source whose kind is known only when the program runs.
    pub fn open_from(
        options: Options,
        table: TableOptions,
        dir: &Path,
        source: Box<dyn Source>,
    ) -> Result<Self> {
        Follower::open_at(options, table, dir, source, RestoreAt::End)
    }

    /// The same; a snapshot that it begins with holds nothing at or behind `at`.
    pub(super) fn open_at(
        mut options: Options,
        table: TableOptions,
        dir: &Path,
        mut source: Box<dyn Source>,
        at: RestoreAt,
    ) -> Result<Self> {
        options.check()?;
        if options.read_only {
            return Err(Error::new(Kind::InvalidInput, "a follower writes: it copies")
                .help("to read beside one, open its directory as a log, for reading"));
        }
        let fs = Arc::clone(&options.fs);
        let layout = Layout::new(dir);
        let exists = match LogFile::read(&*fs, &layout) {
            Ok(log) => Some(log),
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::NotALog) => None,
            Err(e) => return Err(e),
        };
        let begin = Begin { policy: table.begins(), at };
        let mut begun = match exists {
            Some(_) => None,
            None => create(&options, &layout, &mut *source, begin)?,
        };
        let lock = open::take_lock(&*fs, &layout)?;
        let mut control = Control::need(&*fs, &layout)?;
        if control.follows.is_none() && !options.rejoin {
            return Err(Error::new(
                Kind::InvalidInput,
                "expected a follower's directory, found one that leads",
            )
            .in_file(dir)
            .help(
                "name another directory for the copy; if this one led before and is to follow now, say so \
                 (`--rejoin`)",
            ));
        }
        let node = open::identify(&*fs, &layout, options.identity)?;
        let stranger = Report { node: Some(node), ..Report::default() };
        let offer = source.look(&stranger);
        if let (None, Some(_), Err(e)) = (&control.follows, exists, &offer) {
            // A leader gives that up only for a source that is there, and of its log.
            return Err(e.clone());
        }
        if let (Some(log), Ok(offer)) = (exists, offer)
            && log.id != offer.log
        {
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected a copy of log {}, found one of log {}", offer.log, log.id),
            )
            .in_file(dir)
            .help("name another directory for the copy"));
        }
        rejoin::turn(&*fs, &layout, &mut control, &source.place())?;
        let (copy, report) = recover(Arc::clone(&fs), layout.clone(), node, control)?;
        let accept_loss = options.accept_loss;
        let Met { mut copy, mut report, anew } =
            rejoin::meet(copy, report, &mut *source, accept_loss)?;
        if begin.policy != Beginning::Log
            && let Ok(offer) = source.look(&bootstrap::standing(&copy))
            && offer.log == copy.log
            && (anew || bootstrap::is_gone(&copy, &offer) || rejoin::table_is_lost(&copy))
        {
            let begin = Bootstrap {
                fs: &fs,
                layout: &layout,
                follows: source.place(),
                log: copy.log,
                copy: Some(&copy),
                at: RestoreAt::End,
                anew,
            };
            // Without any, pulling says what is gone.
            if let Some(with) = begin.begin(&mut *source)? {
                begun = Some(with);
                let control = Control::read(&*fs, &layout)?.unwrap_or_default();
                let before = std::mem::take(&mut report);
                (copy, report) = recover(fs, layout, node, control)?;
                report.rejoined = before.rejoined;
                report.findings.splice(0..0, before.findings);
            }
        }
        report.findings.extend(begun.iter().map(|begun| bootstrap::told(begun, dir)));
        report.snapshot = begun.map(|begun| begun.name);
        (copy.threads, copy.hasher.allowed) = (options.worker, options.worker);
        // From here on STATE says what is here, not what was lost.
        let state = copy.settle_hint();
        options.create = false;
        options.read_only = true;
        options.recovery = Recovery::ReadOnly;
        options.footers = Some(std::mem::take(&mut copy.footers));
        let (poll_every, threads) = (options.poll_every, options.worker);
        let (delay, pause_at) = (table.apply_delay, table.pause_at);
        let (log, table, applier) = loop {
            // Each round mends another file, so it ends.
            match read(&options, table, dir, &state) {
                Ok(read) => break read,
                Err(damage) => {
                    report.findings.push(heal(&copy, &mut *source, damage)?);
                    report.unclean = true;
                    options.footers = None;
                }
            }
        };
        let gauge = Gauge::new(Arc::clone(&copy.fs));
        let applying = Applying {
            log: Arc::new(log),
            table: table.clone(),
            applier,
            hold: (!delay.is_zero()).then(|| Hold::new(delay)),
            brake: Brake::new(pause_at),
            gauge: gauge.clone(),
            fs: Arc::clone(&copy.fs),
            arrived: copy.end().offset,
            news: None,
            stale: true,
            findings: Vec::new(),
        };
        let receiver = Receiver::new(source, copy, table, gauge.clone(), accept_loss);
        let mut follower =
            Follower { receiver, applying, gauge, report, poll_every, threads, _lock: lock };
        if pause_at.is_some() && follower.applying.hold.is_none() {
            // Up to there it need not wait for its source.
            follower.applying.go_on(usize::MAX)?;
            follower.report.findings.append(&mut follower.applying.findings);
        }
        #[cfg(feature = "wire")]
        follower.gauge.rule(&follower.receiver.copy.control.sets);
        follower.gauge.at(follower.receiver.report(), &*follower.receiver.source);
        Ok(follower)
    }

    /// Copies until it holds what the source had durable when this was called, makes that durable
    /// and applies it, as far as that is not held back.
    pub fn catch_up(&mut self) -> Result<Progress> {
        let mut progress = self.progress();
        let Follower { receiver, applying, poll_every, .. } = self;
        let caught = match self.threads {
            true => pipeline::catch_up(receiver, applying, *poll_every, &mut progress),
            false => receiver
                .catch_up(*poll_every, |receiver| advance(receiver, applying, &mut progress)),
        };
        self.report.findings.append(&mut self.applying.findings);
        caught?;
        self.receiver.acknowledge();
        Ok(progress)
    }

    /// Follows until `stop` is set. Looks when the source's directory changes, and every
    /// [`Options::poll_every`] at least. What comes is acknowledged once it is durable here, and applied
    /// meanwhile; when this returns it is applied, too, unless that is held back.
    ///
    /// `on_progress` hears of every round that copied or applied something and of the first, and of errors
    /// that may pass (the source is away, the disk is full); they are tried again. It returns
    /// with those that will not pass.
    pub fn run(
        &mut self,
        stop: &AtomicBool,
        mut on_progress: impl FnMut(&Result<Progress>),
    ) -> Result<()> {
        let Follower { receiver, applying, poll_every, .. } = self;
        let ran = match self.threads {
            true => pipeline::run(receiver, applying, *poll_every, stop, &mut on_progress),
            false => self.run_alone(stop, &mut on_progress),
        };
        self.report.findings.append(&mut self.applying.findings);
        ran
    }

    /// The same in one thread.
    fn run_alone(
        &mut self,
        stop: &AtomicBool,
        on_progress: &mut dyn FnMut(&Result<Progress>),
    ) -> Result<()> {
        let mut first = true;
        let mut troubled = None;
        while !stop.load(Ordering::Relaxed) {
            let mut progress = self.progress();
            let applied = progress.applied;
            let stepped = advance(&mut self.receiver, &mut self.applying, &mut progress);
            let moved = progress.bytes > 0 || progress.segments > 0 || progress.shown;
            match stepped {
                Ok(()) => {
                    if moved || progress.applied > applied || first || troubled.take().is_some() {
                        on_progress(&Ok(progress));
                    }
                }
                // Whoever stops it may break off what it is reading.
                Err(e) if may_pass(e.kind()) && stop.load(Ordering::Relaxed) => break,
                Err(e) if may_pass(e.kind()) => {
                    // The same trouble is told once, not twenty times a second.
                    let text = e.to_string();
                    if troubled.as_ref() != Some(&text) {
                        troubled = Some(text);
                        on_progress(&Err(e));
                    }
                }
                Err(e) => return Err(e),
            }
            first = false;
            if !moved {
                self.receiver.wait(self.poll_every);
            }
        }
        Ok(())
    }

    /// One round of [`run`](Self::run), for who has a loop of their own: looks at the source, copies
    /// some of what is new, makes it durable and applies it. Of an error, [`run`](Self::run) says
    /// which may pass.
    pub fn step(&mut self) -> Result<Progress> {
        let mut progress = self.progress();
        let stepped = advance(&mut self.receiver, &mut self.applying, &mut progress);
        self.report.findings.append(&mut self.applying.findings);
        stepped.map(|()| progress)
    }

    fn progress(&self) -> Progress {
        let (end, applied) = (self.end(), self.applying.applied());
        Progress { from: end, to: end, applied, lag: self.lag(), ..Progress::default() }
    }

    /// The table of what was copied. A clone goes on showing the newest state.
    pub fn table(&self) -> &Table {
        &self.applying.table
    }

    /// The same, if what it shows is at most so old; otherwise an error of [`Kind::Stale`]. See
    /// [`Gauge::staleness`].
    pub fn table_within(&self, max_staleness: Duration) -> Result<&Table> {
        self.gauge.check_staleness(max_staleness)?;
        Ok(&self.applying.table)
    }

    /// The copied log, for reading; it grows as this follower copies.
    pub fn log(&self) -> Arc<Log> {
        Arc::clone(&self.applying.log)
    }

    /// Behind the last record that is copied, durable here.
    pub fn end(&self) -> Offset {
        self.receiver.copy.end().offset
    }

    /// The position behind the last frame that is copied, durable here.
    pub fn position(&self) -> Position {
        self.receiver.copy.end()
    }

    /// How far the copy was behind at the last look; nothing before the first.
    pub fn lag(&self) -> Lag {
        self.receiver.lag()
    }

    /// What this node has promised: a handle for those who answer candidates while it runs.
    pub fn promises(&self) -> Promises {
        self.receiver.copy.promises.clone()
    }

    /// Behind what is known here to be committed.
    #[cfg(feature = "wire")]
    pub(super) fn committed(&self) -> End {
        self.receiver.copy.committed
    }

    /// The synchronous sets of its log: the newest, behind the one before.
    #[cfg(feature = "wire")]
    pub(crate) fn sets(&self) -> Vec<SetLine> {
        self.receiver.copy.control.sets.clone()
    }

    /// How far it is, as it would say to its source now.
    #[cfg(any(feature = "wire", test))]
    pub(super) fn report_now(&self) -> Report {
        self.receiver.report()
    }

    /// Its log's history, and how far that is durable.
    #[cfg(feature = "wire")]
    pub(super) fn history<'a>(&'a self, segments: &'a [SegmentName]) -> History<'a> {
        let durable = self.receiver.durable.end.log_byte;
        History { epochs: &self.receiver.copy.epochs.0, segments, durable }
    }

    /// The segments that are here, in order.
    #[cfg(feature = "wire")]
    pub(super) fn segments(&self) -> Result<Vec<SegmentName>> {
        let segments = self.receiver.copy.layout.segments();
        let names = self.fs().list(&segments).map_err(|e| Error::io("list", &segments, e))?;
        Ok(names.iter().filter_map(|name| SegmentName::parse(name)).collect())
    }

    /// Where its log begins.
    #[cfg(feature = "wire")]
    pub(super) fn floor(&self) -> End {
        let control = &self.receiver.copy.control;
        (control.floor, control.floor_offset)
    }

    /// Where it lives.
    #[cfg(feature = "wire")]
    pub(super) fn fs(&self) -> &Arc<dyn Fs> {
        &self.receiver.copy.fs
    }

    /// Fetches what a node holds behind this copy that has promised the same candidate's epoch: this node's; or what
    /// the archive holds.
    #[cfg(feature = "wire")]
    pub(super) fn inherit(&mut self, source: Box<dyn Source>) -> Result<()> {
        let before = std::mem::replace(&mut self.receiver.source, source);
        self.receiver.inherits = true;
        let fetched = self.catch_up();
        self.receiver.inherits = false;
        self.receiver.source = before;
        fetched.map(drop)
    }

    /// What it shows while it runs: a handle for those who serve it or watch it.
    pub fn gauge(&self) -> Gauge {
        self.gauge.clone()
    }

    /// Where it stops applying: a handle to set that, and to let it go on, while it runs.
    pub fn pause(&self) -> Pause {
        self.applying.brake.pause.clone()
    }

    /// What opening found.
    pub fn report(&self) -> &FollowerReport {
        &self.report
    }

    /// This node's identity.
    pub fn node(&self) -> Id {
        self.receiver.copy.node
    }

    /// Where it pulls from.
    pub fn source(&self) -> String {
        self.receiver.source.place()
    }

    /// Lets go of the directory as it stands; the source may serve another.
    pub(super) fn into_source(self) -> Box<dyn Source> {
        self.receiver.source
    }

    /// Closes it, as [`close`](Self::close) does, without a word to its source: it is to lead.
    #[cfg(feature = "server")]
    pub(crate) fn stand_down(mut self) -> Result<()> {
        self.receiver.copy.sync()?;
        self.applying.table.checkpoint()?;
        self.receiver.copy.settle_hint();
        Ok(())
    }

    /// Notes durably how far copy and table go, and lets go of the lock. Without it nothing is
    /// lost: the next open only has more to look at, and to apply.
    pub fn close(mut self) -> Result<()> {
        self.receiver.copy.sync()?;
        self.applying.table.checkpoint()?;
        self.receiver.copy.settle_hint();
        self.receiver.acknowledge();
        Ok(())
    }
}

/// One round of both sides, one after the other: looks, copies some, syncs, applies.
fn advance(
    receiver: &mut Receiver,
    applying: &mut Applying,
    progress: &mut Progress,
) -> Result<()> {
    let mut received = Received::default();
    let outcome = receiver.round(&mut received);
    applying.hear(received.state);
    let applied = applying.go_on(usize::MAX);
    progress.to = receiver.copy.end().offset;
    progress.bytes += received.moved.bytes;
    progress.segments += received.moved.segments;
    progress.shown |= received.shown;
    progress.applied = applying.applied();
    progress.lag = receiver.lag();
    applied.and(outcome)
}

/// Opens the copied log and its table, and applies what the table lacks, unless that is held back.
fn read(
    options: &Options,
    table: TableOptions,
    dir: &Path,
    state: &State,
) -> Result<(Log, Table, Applier)> {
    let log = Log::open_with(options.clone(), dir)?;
    log.grow_to(state)?;
    let free = table.apply_delay.is_zero() && table.pause_at.is_none();
    let table = match free {
        true => table.open(&log)?,
        false => table.open_at_checkpoint(&log)?,
    };
    let applier = Applier::new(&log, &table)?;
    Ok((log, table, applier))
}

/// Whether an error may be gone at the next look.
pub(super) fn may_pass(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NotFound
            | Kind::Io
            | Kind::DiskFull
            | Kind::ReadOnly
            | Kind::NotALog
            | Kind::NotLeader
    )
}
