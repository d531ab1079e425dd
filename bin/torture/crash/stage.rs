//! The stage: a machine, a process with an open log on it, and what its clients are told.
//!
//! Scripts drive it step by step, in one thread, so that a run is a function of its dice. Every
//! step takes note of what was sent before the call and of what was told after it. Invariant: a
//! call that fails while there is power is a violation, unless the script expects just that.

use tidelog::fs::Fs;
use tidelog::fs::sim::{Crash, Sim};
use tidelog::log::{Level, OpenReport, verify_on};
use tidelog::{
    Append, Appended, Batch, Compression, Durability, Error, Expect, Follower, Id, Kind, Log,
    Offset, Op, Options, Preallocate, Record, Table, Ticket,
};

use tidelog::frame::Producer;

use super::told::{Dice, Newest, Told, index, value};

/// The leader's directory.
pub const DIR: &str = "/log";
/// Segments are as small as may be, so that few records fill one.
pub const SEGMENT_BYTES: u64 = tidelog::log::MIN_SEGMENT_BYTES;

/// Why a script ended early.
#[derive(Debug)]
pub enum Stop {
    /// The power went off: what it is there for.
    Power,
    /// A promise was broken.
    Violation(String),
}

pub type Step<T = ()> = Result<T, Stop>;

/// How a workload's logs are opened.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub preallocate: Preallocate,
    pub compression: Compression,
    pub isolate: bool,
    pub map: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            preallocate: Preallocate::Auto,
            compression: Compression::None,
            isolate: false,
            map: true,
        }
    }
}

/// See the module.
pub struct Stage {
    pub machine: Sim,
    pub process: Sim,
    /// The operation at which the power goes off.
    stop: usize,
    pub told: Told,
    pub plan: Plan,
    pub dice: Dice,
    pub log: Option<Log>,
    pub report: Option<OpenReport>,
    pub follower: Option<Follower>,
    /// Goes before its log.
    pub table: Option<Table>,
    /// Something of it was damaged, beside the cut.
    pub struck: bool,
}

impl Stage {
    /// A machine on which nothing runs yet, without power after `stop` operations.
    pub fn on(machine: Sim, told: Told, plan: Plan, dice: Dice, stop: usize) -> Self {
        machine.stop_after(stop);
        let process = machine.process();
        Stage {
            machine,
            process,
            stop,
            told,
            plan,
            dice,
            log: None,
            report: None,
            follower: None,
            table: None,
            struck: false,
        }
    }

    /// The same machine, with power for good.
    pub fn powered(machine: Sim, told: Told, plan: Plan, dice: Dice) -> Self {
        Stage::on(machine, told, plan, dice, usize::MAX)
    }

    /// What an error means.
    pub fn stopped(&self, what: &str, error: &Error) -> Stop {
        match self.machine.operations() >= self.stop {
            true => Stop::Power,
            false => Stop::Violation(format!("{what}: {error}")),
        }
    }

    /// A promise was broken.
    pub fn violation<T>(&self, what: impl Into<String>) -> Step<T> {
        Err(Stop::Violation(what.into()))
    }

    /// Holds a verdict of the oracle against the power: what fails without it proves nothing.
    pub fn judge<T>(&self, what: &str, verdict: Result<T, String>) -> Step<T> {
        match verdict {
            Ok(value) => Ok(value),
            Err(_) if self.machine.operations() >= self.stop => Err(Stop::Power),
            Err(found) => self.violation(format!("{what}: {found}")),
        }
    }

    pub fn options(&self) -> Options {
        let lookup = std::sync::Arc::new(|_: &[u8]| (Offset(0), None));
        Log::options()
            .fs(self.process.shared())
            .create(true)
            .worker(false)
            .segment_bytes(SEGMENT_BYTES)
            .preallocate(self.plan.preallocate)
            .compression(self.plan.compression)
            .isolate_groups(self.plan.isolate)
            .map(self.plan.map)
            .key_lookup(lookup)
    }

    pub fn log(&self) -> &Log {
        self.log.as_ref().expect("the script opened it")
    }

    /// Opens the log, reads all of it, and takes its word for what is there.
    pub fn open(&mut self) -> Step {
        let log = self.options().open(DIR).map_err(|e| self.stopped("open", &e))?;
        let end = self.judge("after opening", self.told.verify(&log))?;
        self.told.settle(end);
        self.report = Some(log.report().clone());
        self.log = Some(log);
        Ok(())
    }

    /// Appends a batch of `count` records and waits.
    pub fn append(&mut self, count: u32, len: u32, durability: Durability) -> Step {
        let first = self.told.send(count, len, None);
        let batch = self.batch(first, count);
        let how = Append { durability: Some(durability), ..Append::default() };
        let appended =
            self.log().append_with(&batch, &how).map_err(|e| self.stopped("append", &e))?;
        self.acknowledge(first, &appended, durability)
    }

    /// Appends one record by the short way.
    pub fn append_one(&mut self, len: u32) -> Step {
        let first = self.told.send(1, len, None);
        let id = self.told.line[index(first)].id;
        let (op, key, value) = (self.told.op(id), self.told.key(id), value(id, len));
        let len = self.told.line[index(first)].len as usize;
        let record = Record { op, key: Some(&key), value: &value[..len], timestamp: None };
        let appended = self.log().append(&record).map_err(|e| self.stopped("append", &e))?;
        self.acknowledge(first, &appended, Durability::Durable)
    }

    /// Stages a batch without waiting.
    pub fn submit(&mut self, count: u32, len: u32) -> Step<Ticket> {
        let first = self.told.send(count, len, None);
        let batch = self.batch(first, count);
        let ticket = self
            .log()
            .submit(&batch, &Append::default())
            .map_err(|e| self.stopped("submit", &e))?;
        self.acknowledge(first, &ticket.appended, Durability::Buffered)?;
        Ok(ticket)
    }

    /// Waits for what was staged.
    pub fn wait(&mut self, ticket: &Ticket, durability: Durability) -> Step {
        let appended = ticket.wait(durability).map_err(|e| self.stopped("wait", &e))?;
        self.acknowledge(appended.first.0, &appended, durability)
    }

    /// Appends if the log ends where it should, or if the key's last record is where it should.
    pub fn append_if(&mut self, expect: Expect, holds: bool, len: u32) -> Step {
        let first = self.told.send(1, len, None);
        let batch = self.batch(first, 1);
        let how = Append { expect: Some(expect), ..Append::default() };
        match (self.log().append_with(&batch, &how), holds) {
            (Ok(appended), true) => self.acknowledge(first, &appended, Durability::Durable),
            (Ok(_), false) => self.violation("a condition that does not hold was taken"),
            (Err(e), false) if e.kind() == Kind::Rejected => {
                self.told.refused(first);
                Ok(())
            }
            (Err(e), _) => Err(self.stopped("conditional append", &e)),
        }
    }

    /// Appends a producer's next batch.
    pub fn produce(&mut self, producer: u8, count: u32, len: u32, how: Durability) -> Step {
        let sequence = self.told.producers.get(&producer).map_or(1, |newest| newest.sequence + 1);
        let first = self.told.send(count, len, Some((producer, sequence)));
        let first_id = self.told.line[index(first)].id;
        let newest = Newest { sequence, first_id, count, len, acknowledged: None };
        self.told.producers.insert(producer, newest);
        let appended = self.send_as(producer, newest, how)?;
        if appended.duplicate {
            return self.violation("a new batch was called a duplicate");
        }
        if how == Durability::Durable {
            self.told.producers.entry(producer).and_modify(|p| p.acknowledged = Some(first));
        }
        self.acknowledge(first, &appended, how)
    }

    /// Sends every producer's newest batch again, as a client does that does not know its fate.
    pub fn retry_all(&mut self) -> Step {
        let producers: Vec<u8> = self.told.producers.keys().copied().collect();
        for producer in producers {
            let newest = self.told.producers[&producer];
            let there = self.told.find((producer, newest.sequence));
            if there.is_none() {
                // It was lost, so it is appended now: the same records, at the end.
                for i in 0..newest.count {
                    let id = newest.first_id + i;
                    let is_delete = self.told.op(id) == Op::Delete;
                    self.told.line.push(super::told::Sent {
                        id,
                        len: if is_delete { 0 } else { newest.len },
                        last: i + 1 == newest.count,
                        issued: None,
                        producer: Some((producer, newest.sequence)),
                    });
                }
            }
            let end = self.told.line.len() as u64;
            let expected = there.unwrap_or(end - u64::from(newest.count));
            let appended = self.send_as(producer, newest, Durability::Durable)?;
            if appended.duplicate != there.is_some() || appended.first.0 != expected {
                return self.violation(format!(
                    "producer {producer} retried sequence {}: expected offset {expected}, \
                     duplicate {}, got {appended:?}",
                    newest.sequence,
                    there.is_some()
                ));
            }
            self.told.producers.entry(producer).and_modify(|p| p.acknowledged = Some(expected));
            if there.is_none() {
                self.acknowledge(expected, &appended, Durability::Durable)?;
            }
            self.told.durable = self.told.durable.max(appended.last.0 + 1);
        }
        Ok(())
    }

    fn send_as(&mut self, producer: u8, newest: Newest, durability: Durability) -> Step<Appended> {
        let mut batch = Batch::new();
        for id in newest.first_id..newest.first_id + newest.count {
            push(&mut batch, &self.told, id, newest.len);
        }
        let id = Id([producer; 16]);
        let how = Append {
            durability: Some(durability),
            producer: Some(Producer { id, sequence: newest.sequence }),
            expect: None,
        };
        self.log().append_with(&batch, &how).map_err(|e| self.stopped("producer append", &e))
    }

    /// Takes note of an acknowledgement, and of what reads show now.
    pub fn acknowledge(&mut self, first: u64, appended: &Appended, how: Durability) -> Step {
        if appended.first.0 != first {
            return self.violation(format!("expected offset {first}, got {}", appended.first));
        }
        let end = appended.last.0 + 1;
        let issued = self.told.issue(first, appended.last.0, appended.epoch);
        self.judge("append", issued)?;
        if how >= Durability::Written {
            self.told.written = self.told.written.max(end);
        }
        if how == Durability::Durable {
            self.told.durable = self.told.durable.max(end);
        }
        self.observe()
    }

    /// What reads show is durable.
    pub fn observe(&mut self) -> Step {
        let end = self.log().end().0;
        if end > self.told.line.len() as u64 {
            return self.violation(format!("reads see {end} records, more than were sent"));
        }
        self.told.durable = self.told.durable.max(end);
        Ok(())
    }

    /// Makes everything durable.
    pub fn sync(&mut self) -> Step {
        let sent = self.told.line.len() as u64;
        let end = self.log().sync().map_err(|e| self.stopped("sync", &e))?;
        if end.0 < sent {
            return self.violation(format!("sync says {end} of {sent} records are durable"));
        }
        self.observe()
    }

    /// Closes cleanly.
    pub fn close(&mut self) -> Step {
        self.table = None;
        let log = self.log.take().expect("the script opened it");
        log.close().map_err(|e| self.stopped("close", &e))?;
        self.told.durable = self.told.line.len() as u64;
        self.told.written = self.told.durable;
        self.told.closed = true;
        Ok(())
    }

    /// The process dies; the machine goes on, and the page cache with it.
    pub fn kill(&mut self) {
        self.process.kill();
        self.table = None;
        self.log = None;
        self.follower = None;
        self.process = self.machine.process();
    }

    /// The machine loses power and comes back, with nothing but what was durable.
    pub fn cut(&mut self) {
        self.kill();
        self.machine = self.machine.crash(&Crash::DropAll);
        self.process = self.machine.process();
        self.told = self.told.after_cut();
    }

    /// What recovery was to set aside is in quarantine.
    pub fn verify_quarantine(&self) -> Step {
        let there = quarantined(&self.machine);
        // A copy has zeros where the file's beginning stood, and a cut recovery may set aside more:
        // a whole file where an uncut one took its tail.
        let holds = |kept: &[u8]| {
            let bytes = &kept[kept.iter().position(|&byte| byte != 0).unwrap_or(0)..];
            there.iter().any(|file| {
                file.ends_with(bytes) || file.windows(bytes.len()).any(|part| part == bytes)
            })
        };
        match self.told.kept.iter().find(|kept| !holds(kept)) {
            Some(lost) => self.violation(format!(
                "{} bytes that were cut off are not in quarantine, which holds files of {:?} bytes",
                lost.len(),
                there.iter().map(Vec::len).collect::<Vec<_>>()
            )),
            None => Ok(()),
        }
    }

    /// Nothing on the disk is damaged.
    pub fn verify_files(&mut self, dir: &str) -> Step {
        let fs: std::sync::Arc<dyn Fs> = self.process.shared();
        let report = verify_on(&fs, std::path::Path::new(dir), Level::Full)
            .map_err(|e| self.stopped("verify", &e))?;
        match report.problems.first() {
            Some(problem) => self.violation(format!("verify found damage: {problem:?}")),
            None => Ok(()),
        }
    }

    fn batch(&self, first: u64, count: u32) -> Batch {
        let mut batch = Batch::new();
        for sent in &self.told.line[index(first)..][..count as usize] {
            push(&mut batch, &self.told, sent.id, sent.len);
        }
        batch
    }
}

/// What is in quarantine, without the notes.
pub fn quarantined(machine: &Sim) -> Vec<Vec<u8>> {
    let files = machine.paths().into_iter().filter(|path| {
        path.starts_with(format!("{DIR}/quarantine"))
            && path.extension().is_none_or(|e| e != "note")
    });
    files.map(|path| machine.read(path)).collect()
}

fn push(batch: &mut Batch, told: &Told, id: u32, len: u32) {
    let (op, key) = (told.op(id), told.key(id));
    let value = if op == Op::Delete { Vec::new() } else { value(id, len) };
    let record = Record { op, key: Some(&key), value: &value, timestamp: None };
    batch.push(&record).expect("small records are accepted");
}
