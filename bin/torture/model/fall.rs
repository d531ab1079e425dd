//! The steps that end a process or a machine, and what must be there when the log is opened again.
//!
//! | how it ended | what must be there |
//! |---|---|
//! | a clean close | everything |
//! | the process was killed | everything acknowledged as written |
//! | the power failed | everything acknowledged as durable |
//! | repair of an undamaged log | everything, and not a byte is changed |
//!
//! In every case what is there is what was sent, from the first record on, in whole batches.

use std::path::Path;

use tidelog::fs::sim::{Crash, Sim};
use tidelog::log::repair_on;
use tidelog::{Append, Kind};

use crate::dice::Dice;

use super::op::{Cut, Op};
use super::run::{DIR, Run, read_all, same};

impl Run {
    pub(super) fn fall(&mut self, dice: &mut Dice, op: Op) -> Result<(), String> {
        self.rows.let_go();
        match op {
            Op::Reopen => {
                self.close()?;
                self.reopen(self.book.sent(), true)
            }
            Op::Kill => {
                self.kill();
                self.reopen(self.book.written, false)
            }
            Op::PowerCut { cut } => {
                self.power_cut(dice, cut);
                self.reopen(self.book.durable, false)
            }
            Op::CutInAppend { after, durability, cut } => {
                self.sim.stop_after(self.sim.operations() + after);
                let how = Append { durability: Some(durability), ..Append::default() };
                // What comes of it is unknown, unless it was acknowledged.
                let _ = self.append(dice, false, durability, &how);
                self.power_cut(dice, cut);
                self.reopen(self.book.durable, false)
            }
            Op::CutInClose { after, cut } => {
                self.sim.stop_after(self.sim.operations() + after);
                self.tickets.clear();
                let closed = self.log.take().expect("open between steps").close();
                if closed.is_ok() {
                    self.book.is_durable(self.book.sent());
                }
                self.power_cut(dice, cut);
                self.reopen(self.book.durable, false)
            }
            Op::CutInOpen { after, cut } => {
                self.kill();
                let written = self.book.written;
                self.sim.stop_after(self.sim.operations() + after);
                let opened = self.options().open(DIR);
                let least = if opened.is_ok() { written } else { self.book.durable };
                self.log = opened.ok();
                self.power_cut(dice, cut);
                self.reopen(least, false)
            }
            Op::Repair => self.repair(),
            other => unreachable!("{other:?} ends nothing"),
        }
    }

    /// Opens the log for the first time.
    pub(super) fn open(&mut self) -> Result<(), String> {
        let log = self.options().create(true).open(DIR).map_err(|e| format!("create: {e}"))?;
        same("a new log's end", log.end().0, 0)?;
        self.log = Some(log);
        Ok(())
    }

    /// Ends the sequence: a clean close, a reopen, everything read; notes the state of the disk.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.finish_table()?;
        self.stats.rolled = self.log().segments().len() as u64;
        self.stats.state = self.sim.crash(&Crash::KeepAll).durable_hash();
        self.close()?;
        self.reopen(self.book.sent(), true)
    }

    fn close(&mut self) -> Result<(), String> {
        self.tickets.clear();
        let log = self.log.take().expect("open between steps");
        log.close().map_err(|e| format!("close: {e}"))?;
        self.book.is_durable(self.book.sent());
        Ok(())
    }

    fn kill(&mut self) {
        self.sim.kill();
        self.tickets.clear();
        self.log = None;
        self.sim = self.sim.process();
        self.stats.kills += 1;
    }

    fn power_cut(&mut self, dice: &mut Dice, cut: Cut) {
        let crash = match cut {
            Cut::Nothing => Crash::DropAll,
            Cut::Everything => Crash::KeepAll,
            Cut::Torn => Crash::Torn { seed: dice.next() },
        };
        let left: Sim = self.sim.crash(&crash);
        self.sim.kill();
        self.tickets.clear();
        self.log = None;
        self.sim = left;
        self.stats.crashes += 1;
    }

    /// Opens what is left, of which at least the records below `least` must be there.
    fn reopen(&mut self, least: u64, clean: bool) -> Result<(), String> {
        self.stats.reopens += 1;
        if !clean {
            self.look(least)?;
        }
        let log = self
            .options()
            .create(true)
            .open(DIR)
            .map_err(|e| format!("reopen, {least} acknowledged: {e}"))?;
        if clean && !log.report().clean {
            return Err(format!("reopened after a clean close: {:?}", log.report()));
        }
        let end = log.end().0;
        // An interrupted retention may have come to its end, or not begun.
        same("reopen, start", log.start().0, self.book.start)?;
        self.book.left(end, least)?;
        same("reopen, durable", log.durable_end().0, end)?;
        self.log = Some(log);
        self.read_all()
    }

    /// Reads what a crash has left, before anybody brings it in order: nothing but what was sent,
    /// and everything that was acknowledged.
    fn look(&mut self, least: u64) -> Result<(), String> {
        let reader = self.options().read_only(true).fs(self.sim.process().shared());
        let log = match reader.open(DIR) {
            // The first open may not have come to its end.
            Err(e)
                if self.book.durable == 0 && matches!(e.kind(), Kind::NotFound | Kind::NotALog) =>
            {
                return Ok(());
            }
            opened => opened.map_err(|e| format!("read-only after a crash: {e}"))?,
        };
        if log.end().0 < least {
            return Err(format!("{least} acknowledged, a reader sees {}", log.end()));
        }
        let read = read_all(&log, &mut self.book);
        self.stats.records_checked += read.map_err(|e| format!("read-only after a crash: {e}"))?;
        Ok(())
    }

    fn repair(&mut self) -> Result<(), String> {
        self.close()?;
        let before = self.sim.crash(&Crash::KeepAll).durable_hash();
        let report = repair_on(&self.sim.shared(), Path::new(DIR), false)
            .map_err(|e| format!("repair: {e}"))?;
        let after = self.sim.crash(&Crash::KeepAll).durable_hash();
        if !report.actions.is_empty() || before != after {
            return Err(format!("repair of an undamaged log did {:?}", report.actions));
        }
        self.reopen(self.book.sent(), true)
    }
}
