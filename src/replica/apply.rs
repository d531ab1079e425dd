//! The applying side of a follower: shows readers what has been received, and applies it to the table.
//!
//! Driven by `follower` in one thread with the receiving side, or by `pipeline` beside it; uses the copied
//! log, as any reader does, and the table. It reads no source and writes no segment.
//!
//! Invariants:
//! - what is applied is durable here and committed: the log shows it no more than that;
//! - nothing is applied before the hold's time is over, or at and behind the brake's point.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::log::Log;
use crate::log::files::State;
use crate::position::{LogByte, Offset};
use crate::table::{Applier, Table};

use super::gauge::Gauge;
use super::hold::Hold;
use super::pause::{Brake, Limit};

/// What applies.
#[derive(Debug)]
pub(super) struct Applying {
    pub(super) log: Arc<Log>,
    pub(super) table: Table,
    pub(super) applier: Applier,
    /// While apply is to be behind.
    pub(super) hold: Option<Hold>,
    /// Where it is to stop.
    pub(super) brake: Brake,
    pub(super) gauge: Gauge,
    pub(super) fs: Arc<dyn Fs>,
    /// Everything before is here, committed or not.
    pub(super) arrived: Offset,
    /// What is durable since the log last grew.
    pub(super) news: Option<State>,
    /// Whether something may be applied that was not.
    pub(super) stale: bool,
    /// For people to read.
    pub(super) findings: Vec<String>,
}

impl Applying {
    /// Takes in what has become durable.
    pub(super) fn hear(&mut self, state: Option<State>) {
        let Some(state) = state else { return };
        self.arrived = state.durable_offset;
        self.note_arrived();
        self.news = Some(state);
    }

    /// The delay counts from when records came, whatever apply is doing then.
    fn note_arrived(&mut self) {
        let (now, end) = (self.fs.elapsed(), self.arrived);
        if let Some(hold) = &mut self.hold {
            hold.arrived(now, end);
        }
    }

    /// Applies what has arrived or may be shown now, or as much of it as is not held back: about `most`
    /// bytes. Whether there is more to be applied at once.
    pub(super) fn go_on(&mut self, most: usize) -> Result<bool> {
        let outcome = self.try_go_on(most);
        self.gauge.applied(self.table.applied().unwrap_or_default());
        self.gauge.pause(self.brake.pause.at(), self.brake.stands(self.applied()));
        self.gauge.trouble_applying(outcome.as_ref().err().map(Error::to_string));
        outcome
    }

    fn try_go_on(&mut self, most: usize) -> Result<bool> {
        if let Some(state) = &self.news {
            self.log.grow_to(state)?;
            (self.news, self.stale) = (None, true);
        }
        self.note_arrived();
        let now = self.fs.elapsed();
        let due = self.hold.as_mut().map(|hold| hold.due(now));
        let applied = self.applied();
        let mut limit = self.brake.limit(&self.log, applied)?;
        if let Limit::Passed(at) = limit {
            let finding = format!(
                "apply was to stop before offset {at} and has passed it: it holds everything before \
                 {applied}, and goes on"
            );
            self.findings.push(finding);
            limit = Limit::None { resumed: true };
        }
        match (due, limit) {
            (None, Limit::None { resumed }) if self.stale || resumed => {
                self.stale = true;
                self.stale = self.applier.run_some(&mut self.table, most)?.1;
                return Ok(self.stale);
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
        Ok(false)
    }

    /// Whether time, or somebody's word, may let more be applied although nothing comes.
    pub(super) fn is_held(&self) -> bool {
        self.hold.is_some() || self.brake.pause.at().is_some()
    }

    /// Everything before is applied.
    pub(super) fn applied(&self) -> Offset {
        self.table.applied().map_or(Offset(0), |position| position.offset)
    }

    /// The same as a byte of the log.
    pub(super) fn applied_byte(&self) -> LogByte {
        self.table.applied().unwrap_or_default().log_byte
    }
}
