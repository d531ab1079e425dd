//! Clients, and what they are told: appends at whoever leads, answers that are long under way, sets that an
//! operator changes.
//!
//! Invariant: a client has one batch at a time, and sends the same again until it knows what became of it.

use std::time::Duration;

use tidelog::frame::{Mode, SyncSet};
use tidelog::replica::{Level, Outcome};
use tidelog::{Appended, Epoch, Error, Id, Kind};

use crate::dice::Dice;

use super::super::world::Done;
use super::World;
use super::node::{Led, Role};

/// Clients at a time.
const CLIENTS: u64 = 4;
/// Steps that a client waits for an acknowledgement at most.
const PATIENCE: u64 = 150;

/// What a leader has decided to answer.
pub struct Told {
    number: usize,
    who: usize,
    epoch: Epoch,
    outcome: Outcome,
    /// Whether the mode promises that no failover takes it back.
    kept: bool,
}

/// An answer that was decided on and is under way for long: its leader may be another one by then.
pub struct HeldUp {
    due: u64,
    told: Told,
}

impl World {
    pub fn append(&mut self, dice: &mut Dice) -> Done {
        let client = dice.below(CLIENTS);
        let Some(who) = self.a_leader(dice) else { return Ok(()) };
        // One at a time: a client that does not know sends the same again, there or elsewhere.
        let last = self.book.open(client);
        let number = match last {
            Some(number) if self.waits(number).is_some_and(|at| at == who || dice.chance(3, 4)) => {
                return Ok(());
            }
            Some(number) => number,
            None => self.book.send(client, dice, self.setup.value_bytes),
        };
        // It waits there no more.
        for node in &mut self.nodes {
            if let Role::Leads(led) = &mut node.role {
                led.pending.retain(|(waiting, ..)| *waiting != number);
            }
        }
        let most = self.nodes.len() as u64 - 1;
        let some = 1 + usize::try_from(dice.below(most)).expect("few");
        let level = match dice.below(11) {
            4 if self.vault.is_some() => Some(Level::Archived),
            0 => Some(Level::Written),
            1 => Some(Level::Durable),
            2 => Some(Level::Replicated(some)),
            3 => Some(Level::Applied(some)),
            _ => None,
        };
        self.append_at(who, number, level)
    }

    /// Where a batch is waited for.
    fn waits(&self, number: usize) -> Option<usize> {
        let waits = |role: &Role| match role {
            Role::Leads(led) => led.pending.iter().any(|(waiting, ..)| *waiting == number),
            _ => false,
        };
        self.nodes.iter().position(|node| waits(&node.role))
    }

    pub fn append_at(&mut self, who: usize, number: usize, level: Option<Level>) -> Done {
        let Role::Leads(led) = &mut self.nodes[who].role else { return Ok(()) };
        let sent = &self.book.sent[number];
        let begun = led.leader.begin(&sent.batch(), &sent.how(), level);
        let epoch = led.epoch;
        self.stats.add("appends", 1);
        match begun {
            Ok(Ok(waiting)) => {
                led.pending.push((number, waiting, self.step));
                led.placed.push((number, waiting.appended.last.0 + 1));
                if !waiting.appended.duplicate {
                    self.kept.appended.insert(number, self.time);
                }
                self.note(&format!("batch {number} waits at {who}: {}", waiting.appended.first));
                Ok(())
            }
            Ok(Err(outcome)) => self.told(Told { number, who, epoch, outcome, kept: false }),
            Err(error) => self.gives_way(who, "appends", &error),
        }
    }

    /// A leader whose disk fails is opened again.
    fn gives_way(&mut self, who: usize, what: &str, error: &Error) -> Done {
        let done = self.may_fail(who, what, error);
        if self.nodes[who].troubled {
            self.nodes[who].kill();
        }
        done
    }

    /// A leader looks at what its clients wait for. Some answers stay under way for long.
    pub fn look(&mut self, who: usize, dice: &mut Dice) -> Done {
        let (step, strict) = (self.step, self.setup.strict);
        let Role::Leads(Led { leader, pending, epoch, before, .. }) = &mut self.nodes[who].role
        else {
            return Ok(());
        };
        let (epoch, mut all, mut leases) = (*epoch, Vec::new(), Vec::new());
        pending.retain(|(number, waiting, since)| match leader.look(waiting) {
            Some(outcome) => {
                let standing = leader.standing();
                let promises = |mode: Mode| match mode {
                    Mode::Sync { .. } | Mode::Archive => true,
                    Mode::Semi { .. } => standing.degraded.is_none(),
                    _ => false,
                };
                // Until a set is committed the one before rules, too, and may promise nothing.
                let both = strict || !standing.changing || before.is_some_and(promises);
                let kept = both && promises(standing.mode);
                let bound = match standing.mode {
                    Mode::Bounded { bytes, within, .. } if !standing.changing => {
                        Some((bytes, within))
                    }
                    _ => None,
                };
                if let Outcome::Acked { appended, .. } = &outcome {
                    self.kept.acked(epoch, bound, *number, appended.last.0 + 1);
                    leases.push((standing.mode, standing.degraded.is_some()));
                }
                all.push(Told { number: *number, who, epoch, outcome, kept });
                false
            }
            None => since + PATIENCE > step,
        });
        for (mode, degraded) in leases {
            self.check_lease(who, epoch, mode, degraded)?;
        }
        for told in all {
            self.check_gate(&told.outcome, who, epoch)?;
            match dice.chance(1, 8) {
                true => {
                    let due = step + dice.below(200);
                    self.held_up.push(HeldUp { due, told });
                    self.stats.add("answers_held_up", 1);
                }
                false => self.told(told)?,
            }
        }
        Ok(())
    }

    /// Answers that were under way arrive; all of them in the end.
    pub fn deliver(&mut self, all: bool) -> Done {
        let step = self.step;
        let (due, later) =
            std::mem::take(&mut self.held_up).into_iter().partition(|held| all || held.due <= step);
        self.held_up = later;
        let due: Vec<HeldUp> = due;
        due.into_iter().try_for_each(|held| self.told(held.told))
    }

    /// Takes in what a client is told.
    fn told(&mut self, told: Told) -> Done {
        let Told { number, who, epoch, outcome, kept } = told;
        match outcome {
            Outcome::Acked { appended, level, copies } => {
                self.note(&format!(
                    "batch {number} acked by {who} at {}: {level}, {copies} copies",
                    appended.first
                ));
                let archived = level == Level::Archived;
                if archived {
                    self.check_archived(number, appended.last.0 + 1)?;
                }
                let kept = kept && level > Level::Durable && (!archived || self.setup.strict);
                self.acked(number, (who, epoch), appended, level, kept)
            }
            Outcome::Unknown { why, .. } => {
                self.note(&format!("batch {number}: unknown: {why}"));
                self.stats.add("unknown", 1);
                if why.kind() == Kind::Poisoned {
                    self.nodes[who].kill();
                }
                Ok(())
            }
            Outcome::Rejected { why } => {
                self.note(&format!("batch {number}: rejected: {why}"));
                self.stats.add("rejected", 1);
                Ok(())
            }
        }
    }

    fn acked(
        &mut self,
        number: usize,
        (who, epoch): (usize, Epoch),
        appended: Appended,
        level: Level,
        kept: bool,
    ) -> Done {
        self.stats.add("acked", 1);
        self.stats.add(if kept { "acked_for_good" } else { "acked_otherwise" }, 1);
        if appended.duplicate {
            self.stats.add("retries_found", 1);
        }
        self.check_ack(number, (who, epoch), &appended, kept)?;
        if let Role::Leads(led) = &self.nodes[who].role
            && led.epoch == epoch
        {
            self.tokens.push((number, led.log.token(&appended)));
        }
        let sent = &mut self.book.sent[number];
        if sent.kept {
            // Told twice: the first answer counts.
            return Ok(());
        }
        sent.kept = kept;
        self.book.acked(number, appended.first, level);
        Ok(())
    }

    pub fn sync(&mut self, who: usize) -> Done {
        let Role::Leads(led) = &self.nodes[who].role else { return Ok(()) };
        let synced = led.log.sync();
        led.leader.grew();
        match synced {
            Ok(_) => Ok(()),
            Err(error) => self.gives_way(who, "syncs", &error),
        }
    }

    pub fn change_set(&mut self, who: usize, dice: &mut Dice) -> Done {
        let own = self.nodes[who].id;
        let mut others: Vec<Id> =
            self.nodes.iter().filter_map(|node| node.id).filter(|id| Some(*id) != own).collect();
        while others.len() > 1 && dice.chance(1, 4) {
            let at = usize::try_from(dice.below(others.len() as u64)).expect("few");
            others.remove(at);
        }
        let k = 1 + u32::try_from(dice.below(others.len() as u64)).expect("few");
        let mode = match dice.below(8) {
            7 if self.vault.is_some() => Mode::Archive,
            _ if self.setup.strict => Mode::Sync { k },
            0 => Mode::Async,
            1 => Mode::Bounded { k, bytes: 40_000, within: Duration::from_secs(2) },
            2 | 3 => Mode::Semi { k, timeout: Duration::from_secs(1) },
            _ => Mode::Sync { k },
        };
        let members: Vec<Id> = others.into_iter().chain(own).collect();
        self.set(who, mode, members)
    }

    /// Gives a leader another set.
    pub fn set(&mut self, who: usize, mode: Mode, members: Vec<Id>) -> Done {
        let Role::Leads(led) = &mut self.nodes[who].role else { return Ok(()) };
        let set = SyncSet::new(mode, members).map_err(|e| format!("a set of {mode}: {e}"))?;
        let before = led.leader.standing().mode;
        match led.leader.change(&set, Duration::ZERO) {
            Ok(done) => {
                let epoch = led.epoch;
                led.before = Some(before);
                self.kept.changed(epoch);
                self.stats.add("sets_changed", 1);
                self.note(&format!("{set} at {who}, committed: {done}"));
                Ok(())
            }
            Err(error) => self.gives_way(who, "changes its set", &error),
        }
    }
}
