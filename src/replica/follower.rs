//! The follower: a directory that becomes, and stays, a copy of its leader's.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fs::Lock;
use crate::log::files::{Control, Layout, LogFile, State};
use crate::log::{Log, Options, Recovery, open};
use crate::mutant::{self, Mutant};
use crate::position::{Id, LogByte, Offset, Position};
use crate::ship::{Offer, Report, Source};
use crate::table::{Applier, Beginning, RestoreAt, Table, TableOptions};

use super::bootstrap::{self, Bootstrap};
use super::copy::Copy;
use super::create::{Begin, create};
use super::fresh::Fresh;
use super::gauge::Gauge;
use super::heal::heal;
use super::hold::Hold;
use super::pause::{Brake, Limit, Pause};
use super::pull::{self, Moved};
use super::recover::{FollowerReport, recover};
use super::rejoin::{self, Met};
use super::trail::Trail;

/// Looks at a source that has rolled a segment and not sealed it yet.
const PATIENCE: u32 = 200;

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
    source: Box<dyn Source>,
    copy: Copy,
    log: Arc<Log>,
    table: Table,
    applier: Applier,
    /// While apply is to be behind.
    hold: Option<Hold>,
    /// Where it is to stop.
    brake: Brake,
    offered: Option<Offer>,
    /// What is synced here, and so acknowledged.
    pub(super) durable: Position,
    gauge: Gauge,
    trail: Trail,
    leader_time: Option<Clock>,
    fresh: Fresh,
    report: FollowerReport,
    accept_loss: bool,
    poll_every: Duration,
    /// Held as long as this follower writes; the last to go.
    _lock: Box<dyn Lock>,
}

/// The leader's clock, as the last look told it.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// Nanoseconds that it is ahead of this machine's.
    ahead: i64,
}

impl Clock {
    fn at(self, now: i64) -> i64 {
        now.saturating_add(self.ahead)
    }
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
        let mut control = Control::read(&*fs, &layout)?.unwrap_or_default();
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
        // From here on STATE says what is here, not what was lost.
        let state = copy.settle_hint();
        options.create = false;
        options.read_only = true;
        options.recovery = Recovery::ReadOnly;
        let poll_every = options.poll_every;
        let (delay, pause_at) = (table.apply_delay, table.pause_at);
        let (log, table, applier) = loop {
            // Each round mends another file, so it ends.
            match read(&options, table, dir, &state) {
                Ok(read) => break read,
                Err(damage) => {
                    report.findings.push(heal(&copy, &mut *source, damage)?);
                    report.unclean = true;
                }
            }
        };
        let mut follower = Follower {
            source,
            durable: copy.end(),
            gauge: Gauge::new(Arc::clone(&copy.fs)),
            fresh: Fresh::default(),
            trail: Trail::default(),
            leader_time: None,
            hold: (!delay.is_zero()).then(|| Hold::new(delay)),
            brake: Brake::new(pause_at),
            copy,
            log: Arc::new(log),
            table,
            applier,
            offered: None,
            report,
            accept_loss,
            poll_every,
            _lock: lock,
        };
        if pause_at.is_some() && follower.hold.is_none() {
            // Up to there it need not wait for its source.
            follower.apply(true)?;
        }
        follower.gauge.at(follower.acknowledge(), &*follower.source);
        Ok(follower)
    }

    /// Copies until it holds what the source had durable when this was called, makes that durable
    /// and applies it, as far as that is not held back.
    pub fn catch_up(&mut self) -> Result<Progress> {
        let mut progress = self.progress();
        let (mut target, mut ended) = (None, None);
        let (mut failures, mut waited) = (0, 0);
        loop {
            let before = self.copy.end().log_byte;
            let stepped = self.advance(&mut progress);
            let end = self.copy.end().log_byte;
            let until = *target.get_or_insert(self.offered.as_ref().map_or(end, |o| o.durable));
            match stepped {
                Ok(()) => failures = 0,
                // Of several sources, another may help: each is given one chance.
                Err(e) if may_pass(e.kind()) && failures + 1 < self.source.links().len() => {
                    failures += 1;
                    continue;
                }
                Err(e) => return Err(e),
            }
            if end >= until {
                // Of several sources, a preferred one may go on where this one ends.
                let place = Some(self.source.place());
                if self.source.turn_back() && ended != place {
                    (target, ended) = (None, place);
                    continue;
                }
                self.source.acknowledge(&self.acknowledge());
                return Ok(progress);
            }
            if end == before {
                // The source is about to seal what this copy cannot seal by itself.
                if !self.copy.lacks_link() || waited == PATIENCE {
                    return Err(self.stuck(until));
                }
                waited += 1;
                self.source.wait(self.poll_every);
            }
        }
    }

    /// Follows until `stop` is set. Looks when the source's directory changes, and every
    /// [`Options::poll_every`] at least.
    ///
    /// `on_progress` hears of every round that copied or applied something and of the first, and of errors
    /// that may pass (the source is away, the disk is full); they are tried again. It returns
    /// with those that will not pass.
    pub fn run(
        &mut self,
        stop: &AtomicBool,
        mut on_progress: impl FnMut(&Result<Progress>),
    ) -> Result<()> {
        let mut first = true;
        let mut troubled = None;
        while !stop.load(Ordering::Relaxed) {
            let mut progress = self.progress();
            let applied = progress.applied;
            let stepped = self.advance(&mut progress);
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
                self.source.wait(self.poll_every);
            }
        }
        Ok(())
    }

    /// One round of [`run`](Self::run), for who has a loop of their own: looks at the source, copies
    /// some of what is new, makes it durable and applies it. Of an error, [`run`](Self::run) says
    /// which may pass.
    pub fn step(&mut self) -> Result<Progress> {
        let mut progress = self.progress();
        self.advance(&mut progress).map(|()| progress)
    }

    /// One round, and what is shown of it.
    fn advance(&mut self, progress: &mut Progress) -> Result<()> {
        let bytes = progress.bytes;
        let stepped = self.round(progress);
        let now = self.copy.fs.now();
        let behind =
            self.trail.behind(self.end(), self.leader_time.map_or(now, |time| time.at(now)));
        self.fresh.applied(self.applied());
        self.gauge.fresh(self.fresh.since());
        self.gauge.at(self.acknowledge(), &*self.source);
        self.gauge.lags(self.lag(), behind, progress.bytes - bytes);
        self.gauge.trouble(stepped.as_ref().err().map(Error::to_string));
        stepped
    }

    /// Looks, copies some, syncs, says so, applies.
    fn round(&mut self, progress: &mut Progress) -> Result<()> {
        let before = self.copy.fs.elapsed();
        let looked = self.source.look(&self.acknowledge());
        let offer = looked.map_err(|e| self.judged(e))?;
        if let Some(stale) = offer.stale.filter(|_| offer.log == self.copy.log) {
            let nanos = |age: Duration| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            let answered = offer
                .answered
                .map_or(before, |at| self.copy.fs.elapsed().saturating_sub(nanos(at.elapsed())));
            self.fresh.told(answered.saturating_sub(nanos(stale)), offer.committed_offset);
        }
        let now = self.copy.fs.now();
        self.leader_time = offer.time.map(|time| Clock { ahead: time.saturating_sub(now) });
        self.trail.note(offer.time.unwrap_or(now), offer.durable_offset);
        self.gauge.offered(&offer, now);
        let mut moved = Moved::default();
        let pulled = pull::round(&mut self.copy, &mut *self.source, &offer, &mut moved);
        let told = (offer.committed, offer.committed_offset);
        let pulled = pulled.map_err(|e| match e.kind() {
            Kind::Corrupt if self.source.is_remote() => e.with_kind(Kind::Io),
            _ => self.judged(e),
        });
        self.offered = Some(offer);
        // What came before an error came whole: it counts. What the source has committed says
        // something about this copy only once the two histories were found to be one.
        let came = moved.bytes > 0 || moved.segments > 0;
        let matched = pulled.is_ok() || came;
        let shown = matched && self.copy.learn_committed(told);
        if came || shown {
            let state = self.copy.sync()?;
            self.durable = self.copy.end();
            self.log.grow_to(&state)?;
            self.copy.mend()?;
        }
        self.apply(came || shown)?;
        progress.to = self.end();
        progress.bytes += moved.bytes;
        progress.segments += moved.segments;
        progress.shown |= shown;
        progress.applied = self.applied();
        progress.lag = self.lag();
        pulled
    }

    /// Of a source whose history is another: whether this copy may rejoin, or what stands against it.
    fn judged(&mut self, error: Error) -> Error {
        match error.kind() {
            Kind::Diverged => rejoin::judge(&self.copy, &mut *self.source, self.accept_loss, error),
            _ => error,
        }
    }

    /// Applies what has arrived or may be shown now, or as much of it as is not held back.
    fn apply(&mut self, moved: bool) -> Result<()> {
        let due = self.hold.as_mut().map(|hold| {
            let now = self.copy.fs.elapsed();
            hold.arrived(now, self.copy.end().offset);
            hold.due(now)
        });
        let applied = self.applied();
        let mut limit = self.brake.limit(&self.log, applied)?;
        if let Limit::Passed(at) = limit {
            let finding = format!(
                "apply was to stop before offset {at} and has passed it: it holds everything before \
                 {applied}, and goes on"
            );
            self.report.findings.push(finding);
            limit = Limit::None { resumed: true };
        }
        match (due, limit) {
            (None, Limit::None { resumed }) if moved || resumed => {
                self.applier.run(&mut self.table)?;
            }
            (due, limit) => {
                let before = match limit {
                    Limit::Before(at) => Some(at),
                    _ => None,
                };
                let to = due.into_iter().chain(before).min();
                if let Some(to) = to.filter(|to| *to > applied) {
                    self.table.catch_up_to(&self.log, to)?;
                }
            }
        }
        self.gauge.pause(self.brake.pause.at(), self.brake.stands(self.applied()));
        Ok(())
    }

    fn applied(&self) -> Offset {
        self.table.applied().map_or(Offset(0), |position| position.offset)
    }

    /// What is here, for the source to know: only what is synced.
    fn acknowledge(&self) -> Report {
        Report {
            log: Some(self.copy.log),
            node: Some(self.copy.node),
            promise: self.copy.promise.map(|promise| promise.epoch),
            received: self.copy.end(),
            durable: match mutant::on(Mutant::CountReceived) {
                true => self.copy.end(),
                false => self.durable,
            },
            applied: self.table.applied().unwrap_or_default(),
            committed: Some(self.copy.committed.0),
            last: self.copy.last_frame(),
            unclean: self.copy.is_unclean(self.durable.log_byte),
        }
    }

    fn progress(&self) -> Progress {
        let (end, applied) = (self.end(), self.applied());
        Progress { from: end, to: end, applied, lag: self.lag(), ..Progress::default() }
    }

    fn stuck(&self, target: LogByte) -> Error {
        Error::new(
            Kind::NotFound,
            format!(
                "expected durable frames up to log byte {target} at {}, found none behind {}",
                self.source.place(),
                self.copy.end().log_byte
            ),
        )
        .in_file(Path::new(&self.source.place()))
        .help("if a copier fills that directory they may still be coming")
    }

    /// The table of what was copied. A clone goes on showing the newest state.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The same, if what it shows is at most so old; otherwise an error of [`Kind::Stale`]. See
    /// [`Gauge::staleness`].
    pub fn table_within(&self, max_staleness: Duration) -> Result<&Table> {
        self.gauge.check_staleness(max_staleness)?;
        Ok(&self.table)
    }

    /// The copied log, for reading; it grows as this follower copies.
    pub fn log(&self) -> Arc<Log> {
        Arc::clone(&self.log)
    }

    /// Behind the last record that is copied, durable here.
    pub fn end(&self) -> Offset {
        self.copy.end().offset
    }

    /// The position behind the last frame that is copied, durable here.
    pub fn position(&self) -> Position {
        self.copy.end()
    }

    /// How far the copy was behind at the last look; nothing before the first.
    pub fn lag(&self) -> Lag {
        let Some(offer) = &self.offered else { return Lag::default() };
        let end = self.copy.end();
        Lag {
            records: offer.durable_offset.0.saturating_sub(end.offset.0),
            bytes: offer.durable.0.saturating_sub(end.log_byte.0),
        }
    }

    /// What it shows while it runs: a handle for those who serve it or watch it.
    pub fn gauge(&self) -> Gauge {
        self.gauge.clone()
    }

    /// Where it stops applying: a handle to set that, and to let it go on, while it runs.
    pub fn pause(&self) -> Pause {
        self.brake.pause.clone()
    }

    /// What opening found.
    pub fn report(&self) -> &FollowerReport {
        &self.report
    }

    /// This node's identity.
    pub fn node(&self) -> Id {
        self.copy.node
    }

    /// Where it pulls from.
    pub fn source(&self) -> String {
        self.source.place()
    }

    /// Lets go of the directory as it stands; the source may serve another.
    pub(super) fn into_source(self) -> Box<dyn Source> {
        self.source
    }

    /// Notes durably how far copy and table go, and lets go of the lock. Without it nothing is
    /// lost: the next open only has more to look at, and to apply.
    pub fn close(mut self) -> Result<()> {
        self.copy.sync()?;
        self.table.checkpoint()?;
        self.copy.settle_hint();
        self.source.acknowledge(&self.acknowledge());
        Ok(())
    }
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
fn may_pass(kind: Kind) -> bool {
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
