//! A client of one log on a simulated machine on which one fault is armed.
//!
//! It does what a careful service does: it opens the log again after poison, tries again when
//! space returns, and remembers what it was told. Each answer is judged as it comes: is an error
//! of that kind right for this fault, is the log poisoned when it must be and only then, do reads
//! go on. A violation is an `Err`, and ends the run.

use std::collections::{BTreeMap, BTreeSet};

use tidelog::fs::sim::{Crash, Errno, Fault, Op, OpKind, Sim};
use tidelog::{Append, Batch, Durability, Error, Expect, Kind, Log, LogByte, Options, Record};

use super::variants::{Asked, hits_reads, is_full_disk, is_right, loses_names, says_full};
use crate::oracle::{Found, Told, value};
use crate::slots::Slots;

/// Where the log is.
pub const DIR: &str = "/log";

/// What a step comes to: a violation, in words.
pub type Held<T = ()> = Result<T, String>;

/// How a process lets go of its log.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// `close`, which says how it went.
    Close,
    /// Drop, which does what it can.
    Drop,
    /// `kill -9`.
    Kill,
}

/// The client, its machine, and what it knows.
pub struct Client {
    /// The process that has the log open.
    pub sim: Sim,
    pub told: Told,
    /// What followers were told.
    pub slots: Slots,
    /// Errors that were seen, by what was asked and kind.
    pub outcomes: BTreeMap<String, u64>,
    /// Times that the log was opened for writing.
    pub opens: u64,
    /// The disks that power cuts left, by hash.
    pub disks: BTreeSet<u128>,
    /// Records have many keys, for a table.
    pub rows: bool,
    options: fn(&Sim) -> Options,
    log: Option<Log>,
    fault: Fault,
    /// Operations that failed so far, and after how many the fault is taken away.
    trouble: u64,
    heal_after: u64,
    /// An append of this life was acknowledged as durable.
    settled: bool,
    /// How much of the trace has been looked at.
    seen: usize,
    healed: bool,
}

/// Durable appends in small segments, deterministic: no thread, no clock.
pub fn small(sim: &Sim) -> Options {
    Log::options().fs(sim.shared()).create(true).worker(false).segment_bytes(64 << 10)
}

impl Client {
    /// A client on this machine; the fault is armed by [`Client::arm`].
    pub fn new(sim: Sim, options: fn(&Sim) -> Options, fault: Fault) -> Self {
        sim.record(true);
        Client {
            sim,
            told: Told::default(),
            slots: Slots::default(),
            outcomes: BTreeMap::new(),
            opens: 0,
            disks: BTreeSet::new(),
            rows: false,
            options,
            log: None,
            trouble: 0,
            // Once the fault is taken away at once, later only after more calls met it.
            heal_after: 1 + fault.nth % 3,
            fault,
            settled: false,
            seen: 0,
            healed: true,
        }
    }

    /// From here on calls are counted, and the fault strikes.
    pub fn arm(&mut self) {
        self.sim.fail(self.fault.clone());
        self.healed = false;
    }

    /// The fault that is armed, or was.
    pub fn fault(&self) -> Fault {
        self.fault.clone()
    }

    /// Takes the fault away for good.
    pub fn heal(&mut self) {
        self.sim.heal();
        self.healed = true;
    }

    /// The same clients, told the same, beside another machine: after a power cut, say.
    fn beside(&self, sim: Sim) -> Client {
        let mut other = Client::new(sim, self.options, self.fault.clone());
        other.told = self.told.clone();
        other.slots = self.slots.clone();
        other.rows = self.rows;
        other
    }

    /// Judges an error.
    pub fn judge(&mut self, asked: Asked, error: &Error) -> Held {
        *self.outcomes.entry(format!("{asked:?} {:?}", error.kind())).or_default() += 1;
        self.trouble += 1;
        if self.sim.fired() == 0 {
            return Err(format!("{asked:?} failed without a fault: {error}"));
        }
        if !is_right(asked, error.kind(), &self.fault) {
            return Err(format!("{asked:?} says {:?}, the wrong kind: {error}", error.kind()));
        }
        if self.trouble >= self.heal_after {
            self.heal();
        }
        Ok(())
    }

    /// The open log, if it can be opened.
    pub fn log(&mut self) -> Held<Option<&Log>> {
        if self.log.is_none() {
            match (self.options)(&self.sim).open(DIR) {
                Ok(log) => {
                    self.log = Some(log);
                    self.opens += 1;
                    self.settled = false;
                }
                Err(error) => self.judge(Asked::Open, &error)?,
            }
            self.look_at_trace(true)?;
        }
        Ok(self.log.as_ref())
    }

    /// Appends `count` records of about `len` bytes as one batch.
    pub fn append(&mut self, count: u64, len: usize, durability: Durability) -> Held {
        self.append_as(count, len, &Append { durability: Some(durability), ..Append::default() })
    }

    /// The same on condition that the log ends where this client thinks.
    pub fn append_at_end(&mut self, count: u64, len: usize, durability: Durability) -> Held {
        let Some(log) = self.log()? else { return Ok(()) };
        let end = log.durable_end();
        let how = Append {
            durability: Some(durability),
            expect: Some(Expect::End(end)),
            ..Append::default()
        };
        self.append_as(count, len, &how)
    }

    fn append_as(&mut self, count: u64, len: usize, how: &Append) -> Held {
        if self.log()?.is_none() {
            return Ok(());
        }
        let serial = self.told.send(count, 0);
        let mut batch = Batch::new();
        for n in 0..count {
            let value = value(serial + n, len);
            let key = match self.rows {
                true => format!("row/{}", (serial + n) * 7 % 31),
                false => "key".to_owned(),
            };
            batch.push(&Record::put(key.as_bytes(), &value)).map_err(|e| e.to_string())?;
        }
        let mut answer = self.ask(serial, &batch, how)?;
        if let (Some(_), Some(kind)) = (&how.producer, answer)
            && kind != Kind::DiskFull
        {
            // A producer may try again: the batch is there once all the same.
            self.let_go_if_poisoned(kind)?;
            if self.log()?.is_none() {
                return Ok(());
            }
            answer = self.ask(serial, &batch, how)?;
        }
        match answer {
            Some(kind) => self.let_go_if_poisoned(kind),
            None => Ok(()),
        }
    }

    /// Appends as a producer, whose retry is safe.
    pub fn append_once(&mut self, sequence: u64, len: usize) -> Held {
        let producer = tidelog::frame::Producer { id: tidelog::Id([7; 16]), sequence };
        let durability = Some(Durability::Durable);
        let how = Append { durability, producer: Some(producer), expect: None };
        self.append_as(1 + sequence % 3, len, &how)
    }

    /// One append and its answer: nothing when acknowledged, else the error's kind.
    fn ask(&mut self, serial: u64, batch: &Batch, how: &Append) -> Held<Option<Kind>> {
        let log = self.log.as_ref().expect("asked for before");
        let durability = how.durability.unwrap_or_default();
        match log.append_with(batch, how) {
            Ok(appended) => {
                if appended.last.0 + 1 - appended.first.0 != batch.len() as u64 {
                    return Err(format!("{} records got {appended:?}", batch.len()));
                }
                let poisoned = log.stats().poisoned;
                self.told.acknowledge(serial, durability, appended.first.0);
                self.settled |= durability == Durability::Durable;
                self.look_at_trace(poisoned)?;
                Ok(None)
            }
            // Not where the client thought: somebody's record of unknown outcome is there.
            Err(error) if error.kind() == Kind::Rejected && how.expect.is_some() => {
                if self.sim.fired() == 0 {
                    return Err(format!("rejected without a reason: {error}"));
                }
                self.told.refuse(serial);
                Ok(None)
            }
            Err(error) => {
                if error.kind() == Kind::DiskFull && how.producer.is_none() {
                    self.told.refuse(serial);
                }
                self.judge(Asked::Append, &error)?;
                self.look_at_trace(true)?;
                Ok(Some(error.kind()))
            }
        }
    }

    /// Makes everything durable.
    pub fn sync(&mut self) -> Held {
        let Some(log) = self.log()? else { return Ok(()) };
        match log.sync() {
            Ok(end) => {
                let poisoned = log.stats().poisoned;
                self.told.synced(end.0);
                self.look_at_trace(poisoned)
            }
            Err(error) => {
                self.judge(Asked::Append, &error)?;
                self.look_at_trace(true)?;
                self.let_go_if_poisoned(error.kind())
            }
        }
    }

    /// A poisoned log takes nothing more, and can be read; then it is opened again.
    fn let_go_if_poisoned(&mut self, kind: Kind) -> Held {
        let Some(log) = &self.log else { return Ok(()) };
        let poisoned = log.stats().poisoned;
        if poisoned != (kind == Kind::Poisoned) {
            return Err(format!("an append says {kind:?}, the log says poisoned: {poisoned}"));
        }
        if !poisoned {
            return Ok(());
        }
        for again in [log.append(&Record::event(b"")).map(drop), log.sync().map(drop)] {
            match again {
                Err(error) if error.kind() == Kind::Poisoned => {}
                other => return Err(format!("after poison an append or sync says {other:?}")),
            }
        }
        if self.healed || !hits_reads(&self.fault) {
            self.read_all()?;
        }
        self.end(if self.trouble.is_multiple_of(2) { End::Drop } else { End::Kill })
    }

    /// Lets go of the log; the next operation opens it again.
    pub fn end(&mut self, how: End) -> Held {
        let Some(log) = self.log.take() else { return Ok(()) };
        match how {
            End::Close => match log.close() {
                Ok(()) if self.settled => self.told.closed(),
                // What an earlier process left was not brought in order for want of space: the
                // next open does that.
                Ok(()) => self.told.killed(),
                Err(error) => {
                    self.judge(Asked::Close, &error)?;
                    self.told.killed();
                }
            },
            End::Drop => {
                drop(log);
                self.told.killed();
            }
            End::Kill => {
                self.sim.kill();
                drop(log);
                self.sim = self.sim.process();
                self.told.killed();
            }
        }
        self.look_at_trace(true)
    }

    /// The power fails, and comes back.
    pub fn cut(&mut self, crash: &Crash) {
        let disk = self.sim.crash(crash);
        self.sim.kill();
        self.log = None;
        self.told.cut();
        self.sim = disk;
        self.sim.record(true);
        self.seen = 0;
    }

    /// Drops what lies before the newest `keep_bytes`.
    pub fn retain(&mut self, keep_bytes: u64) -> Held {
        let Some(log) = self.log()? else { return Ok(()) };
        let policy = |dry_run| tidelog::log::Retention {
            keep_bytes: Some(keep_bytes),
            dry_run,
            ..Default::default()
        };
        let plan = match log.retain(&policy(true)) {
            Ok(plan) => plan,
            Err(error) => return self.judge(Asked::Upkeep, &error),
        };
        let Some(log) = self.log()? else { return Ok(()) };
        let done = log.retain(&policy(false));
        self.told.may_start = self.told.may_start.max(plan.start.0);
        match done {
            Ok(done) => {
                self.told.must_start = done.start.0;
                Ok(())
            }
            Err(error) => self.judge(Asked::Upkeep, &error),
        }
    }

    /// A follower claims what it needs: the segment that is being written.
    pub fn claim(&mut self, node: u8) -> Held {
        let Some(log) = self.log()? else { return Ok(()) };
        let newest = log.segments().last().map_or(LogByte(0), |segment| segment.base);
        let first = !self.slots.knows(node);
        let claim = self.slots.claim(node, newest);
        match self.log.as_ref().expect("opened above").claim(claim) {
            Ok(_) => {
                self.slots.claimed(node, first);
                Ok(())
            }
            Err(error) => self.judge(Asked::Upkeep, &error),
        }
    }

    /// A follower is let go of.
    pub fn drop_slot(&mut self, node: u8) -> Held {
        if self.log()?.is_none() {
            return Ok(());
        }
        let id = self.slots.drop_soon(node);
        match self.log.as_ref().expect("opened above").drop_slot(id) {
            Ok(_) => {
                self.slots.dropped(node);
                Ok(())
            }
            Err(error) => self.judge(Asked::Upkeep, &error),
        }
    }

    /// The slots are what was claimed.
    pub fn hold_slots(&mut self) -> Held {
        let Some(log) = self.log()? else { return Ok(()) };
        match log.slots() {
            Ok(listed) => self.slots.hold(&listed),
            Err(error) => self.judge(Asked::Upkeep, &error),
        }
    }

    /// Reads everything there is and holds it against what was told. A fault may get in the way;
    /// the cursor then stays where it is.
    pub fn read_all(&mut self) -> Held {
        for _ in 0..4 {
            let Some(log) = self.log()? else { return Ok(()) };
            match read(log) {
                // On a full disk recovery waits for the first append, and reads for recovery:
                // until then they end at what is proven.
                Ok((start, found)) if !self.settled && says_full(&self.fault) => {
                    return self.told.hold_prefix(start, &found);
                }
                Ok((start, found)) => return self.told.hold(start, &found, self.settled),
                Err(Broke::Error(error)) => self.judge(Asked::Read, &error)?,
                Err(Broke::Oracle(what)) => return Err(what),
            }
        }
        Ok(())
    }

    /// Looks at what was done since the last look: after a failed sync of a segment or of the
    /// directory of segments the log must be poisoned, unless the call itself failed, or the
    /// bytes were given another file.
    fn look_at_trace(&mut self, said: bool) -> Held {
        let trace = self.sim.trace();
        let new = &trace[self.seen.min(trace.len())..];
        let rewritten = |op: &Op| {
            new.iter()
                .any(|other| other.kind == OpKind::Rename && other.to.as_ref() == Some(&op.path))
        };
        let broken = new.iter().find(|op| {
            let synced = op.kind == OpKind::Sync && op.path.extension().is_some_and(|e| e == "seg");
            let names = op.kind == OpKind::SyncDir && op.path.ends_with("log/segments");
            op.failed && (synced || names) && !rewritten(op)
        });
        let broken = broken.map(|op| format!("{op:?} failed and was passed over"));
        self.seen = trace.len();
        match broken {
            Some(what) if !said => Err(what),
            _ => Ok(()),
        }
    }

    /// The end of every run: the power fails in several ways, the machine goes on in another.
    pub fn finish(mut self) -> Held<Client> {
        self.heal();
        let mut crashes = Vec::new();
        if !loses_names(&self.fault) {
            crashes.extend([Crash::DropAll, Crash::KeepAll, Crash::Torn { seed: self.fault.nth }]);
        }
        for crash in crashes {
            let mut after = self.beside(self.sim.crash(&crash));
            after.told.cut();
            self.disks.insert(after.sim.durable_hash());
            after.revive().map_err(|e| format!("after a power cut ({crash:?}): {e}"))?;
            self.opens += after.opens;
        }
        if let Some(log) = &self.log
            && is_full_disk(&self.fault)
            && log.stats().poisoned
        {
            return Err("a full disk has poisoned the log".into());
        }
        self.revive().map_err(|e| format!("healed: {e}"))?;
        Ok(self)
    }

    /// Without faults: appends, reads, closes, opens, verifies.
    fn revive(&mut self) -> Held {
        let fired = self.sim.fired();
        for life in 0..2 {
            // The log may still be open and have been poisoned without an answer that said so.
            if self.log.as_ref().is_some_and(|log| log.stats().poisoned) {
                self.end(End::Drop)?;
            }
            let opened = self.log()?.is_some();
            let next = self.told.clone();
            self.append(1, 100, Durability::Durable)?;
            if !opened || !self.settled || self.told.durable() <= next.durable() {
                return Err(format!("life {life}: an append without faults was not acknowledged"));
            }
            self.read_all()?;
            self.hold_slots()?;
            let log = self.log.take().expect("it was appended to");
            log.close().map_err(|e| format!("closing without faults: {e}"))?;
            self.told.closed();
        }
        let report =
            tidelog::log::verify_on(&self.sim.shared(), DIR.as_ref(), tidelog::log::Level::Full)
                .map_err(|e| format!("verify: {e}"))?;
        if let Some(problem) = report.problems.first() {
            return Err(format!("verify finds {problem:?}"));
        }
        if self.sim.fired() != fired {
            return Err("the harness left a fault armed".into());
        }
        Ok(())
    }
}

/// Why a reading ended early.
pub enum Broke {
    /// By an error.
    Error(Error),
    /// By a violation.
    Oracle(String),
}

/// Reads a log from its start to its visible end.
pub fn read(log: &Log) -> Result<(u64, Vec<Found>), Broke> {
    let start = log.start();
    let mut found = Vec::new();
    let mut cursor = log.read(start).map_err(Broke::Error)?;
    loop {
        let at = cursor.offset();
        match cursor.next() {
            Ok(Some(entry)) => found.push((entry.offset.0, entry.record.value.to_vec())),
            Ok(None) => return Ok((start.0, found)),
            Err(error) if error.kind() == Kind::Lost => {}
            Err(error) => {
                if cursor.offset() != at {
                    return Err(Broke::Oracle(format!("a failed read moved the cursor: {error}")));
                }
                return Err(Broke::Error(error));
            }
        }
    }
}

/// A fault that never strikes, for runs that only count.
pub fn none() -> Fault {
    Fault::on(OpKind::Lock).nth(u64::MAX).error(Errno::Io)
}
