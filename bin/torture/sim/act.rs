//! What a step does, and what clients are told by it.

use std::time::Duration;

use tidelog::frame::{Mode, SyncSet};
use tidelog::fs::sim::{Crash, Errno, Fault, OpKind};
use tidelog::log::Retention;
use tidelog::replica::{Level, Outcome};
use tidelog::ship::archive::fake::StoreFault;
use tidelog::{Id, Kind};

use crate::dice::Dice;

use super::op::{Op, Step};
use super::world::{COPY, Done, World};

/// Clients at a time.
const CLIENTS: u64 = 4;
/// Steps that a client waits for an acknowledgement at most.
const PATIENCE: u64 = 120;
/// A wall clock is set by an hour at most, and is never further off than this.
const FURTHEST_JUMP: i64 = 4 * 3600 * 1_000_000_000;

impl World {
    pub fn act(&mut self, step: &Step) -> Done {
        let mut dice = Dice::new(step.seed);
        let dice = &mut dice;
        self.wait(Duration::from_micros(dice.below(8_000)));
        let who = usize::try_from(dice.below(self.mates.len() as u64)).expect("few");
        match step.op {
            Op::Follow => self.follow(who),
            Op::Append => self.append(dice),
            Op::Sync => self.sync(),
            Op::Publish => self.publish(),
            Op::Outage => {
                self.outage(dice);
                Ok(())
            }
            Op::Zombie => self.zombie(),
            Op::Wait => {
                let most = if dice.chance(1, 4) { 900 } else { 30 };
                self.wait(Duration::from_millis(dice.below(most)));
                Ok(())
            }
            Op::ClockJump => {
                let nanos = i64::try_from(dice.below(7_200)).expect("seconds") - 3_600;
                let nanos = nanos * 1_000_000_000;
                if (self.jumped + nanos).abs() < FURTHEST_JUMP {
                    self.jumped += nanos;
                    match dice.chance(1, 2) {
                        true => self.lead.sim.jump(nanos),
                        false => self.mates[who].sim.jump(nanos),
                    }
                }
                Ok(())
            }
            Op::ChangeSet => self.change_set(dice),
            Op::Link => {
                let mut net = self.net();
                match dice.below(4) {
                    0 => net.ways[who].deaf = true,
                    1 => net.ways[who].mute = true,
                    _ => net.ways.iter_mut().for_each(|way| (way.deaf, way.mute) = (false, false)),
                }
                Ok(())
            }
            Op::Weather => {
                let bad = self.setup.bad_weather;
                self.net().per_mille = dice.pick(&[0, bad, bad * 3]);
                Ok(())
            }
            Op::Duplicate => {
                self.net().duplicate(who);
                Ok(())
            }
            Op::KillLeader => {
                self.kill_leader();
                Ok(())
            }
            Op::CloseLeader => self.close_leader(),
            Op::KillFollower => {
                self.kill_follower(who);
                Ok(())
            }
            Op::CloseFollower => self.close_follower(who),
            Op::CutLeader => {
                self.cut_leader(&crash(dice));
                Ok(())
            }
            Op::CutFollower => {
                self.cut_follower(who, &crash(dice));
                Ok(())
            }
            Op::Start => {
                self.start_leader()?;
                (0..self.mates.len()).try_for_each(|who| self.start_follower(who))
            }
            Op::Fault => {
                self.fault(dice, who);
                Ok(())
            }
            Op::Heal => {
                self.heal_disks();
                Ok(())
            }
            Op::Retain => self.retain(dice),
            Op::Rot => self.rot(dice, who),
            Op::Compare => self.compare(dice),
        }
    }

    // Clients.

    fn append(&mut self, dice: &mut Dice) -> Done {
        let client = dice.below(CLIENTS);
        let Some(up) = &self.lead.up else { return Ok(()) };
        // One at a time: a client that does not know sends the same again.
        let last = self.book.open(client);
        let waits = |number: usize| up.pending.iter().any(|(waiting, ..)| *waiting == number);
        let number = match last {
            Some(number) if waits(number) => return Ok(()),
            Some(number) => number,
            None => self.book.send(client, dice, self.setup.value_bytes),
        };
        let others = self.mates.len() - usize::from(self.setup.archive);
        let some = 1 + usize::try_from(dice.below(others as u64)).expect("few");
        let level = match dice.below(10) {
            0 => Some(Level::Written),
            1 => Some(Level::Buffered),
            2 => Some(Level::Replicated(some)),
            3 => Some(Level::Applied(some)),
            4 => Some(Level::Archived),
            5 => Some(Level::Durable),
            _ => None,
        };
        let up = self.lead.up.as_ref().expect("looked at just now");
        let sent = &self.book.sent[number];
        let begun = up.leader.begin(&sent.batch(), &sent.how(), level);
        self.stats.add("appends", 1);
        match begun {
            Ok(Ok(waiting)) => {
                let since = self.step;
                self.note(&format!("batch {number} waits at {}", waiting.appended.first));
                self.lead.up.as_mut().expect("it is up").pending.push((number, waiting, since));
                Ok(())
            }
            Ok(Err(outcome)) => self.told(number, outcome),
            Err(error) => {
                // Tried again: nothing was appended, or nobody knows.
                self.may_fail(
                    self.lead.troubled || error.kind() == Kind::Poisoned,
                    "append",
                    &error,
                )?;
                if error.kind() == Kind::Poisoned {
                    self.kill_leader();
                }
                Ok(())
            }
        }
    }

    /// Takes in what a client is told.
    fn told(&mut self, number: usize, outcome: Outcome) -> Done {
        match outcome {
            Outcome::Acked { appended, level, copies } => {
                self.note(&format!(
                    "batch {number} acked at {}: {level}, {copies} copies",
                    appended.first
                ));
                self.stats.add("acked", 1);
                if appended.duplicate {
                    self.stats.add("retries_found", 1);
                }
                self.check_ack(number, &appended, level, copies)?;
                self.book.acked(number, appended.first, level);
                Ok(())
            }
            Outcome::Unknown { why, .. } => {
                self.note_error("unknown", &why);
                self.stats.add("unknown", 1);
                if why.kind() == Kind::Poisoned || self.lead.troubled {
                    self.kill_leader();
                }
                Ok(())
            }
            Outcome::Rejected { why } => {
                self.note_error("rejected", &why);
                self.stats.add("rejected", 1);
                Ok(())
            }
        }
    }

    /// Looks at what clients wait for.
    pub fn look(&mut self) -> Done {
        let Some(up) = &mut self.lead.up else { return Ok(()) };
        let mut told = Vec::new();
        let (step, leader) = (self.step, &up.leader);
        up.pending.retain(|(number, waiting, since)| match leader.look(waiting) {
            Some(outcome) => {
                told.push((*number, outcome));
                false
            }
            None => since + PATIENCE > step,
        });
        told.into_iter().try_for_each(|(number, outcome)| self.told(number, outcome))
    }

    fn sync(&mut self) -> Done {
        let Some(up) = &self.lead.up else { return Ok(()) };
        let synced = up.log.sync();
        up.leader.grew();
        match synced {
            Ok(_) => Ok(()),
            Err(error) => {
                self.may_fail(self.lead.troubled, "sync", &error)?;
                self.kill_leader();
                Ok(())
            }
        }
    }

    fn change_set(&mut self, dice: &mut Dice) -> Done {
        let Some(up) = &self.lead.up else { return Ok(()) };
        let known: Vec<Id> = (0..self.mates.len())
            .filter(|who| !self.mates[*who].reads_archive)
            .filter_map(|who| self.net().said(who).node)
            .collect();
        if known.is_empty() {
            return Ok(());
        }
        let mut members = known;
        while members.len() > 1 && dice.chance(1, 3) {
            let at = usize::try_from(dice.below(members.len() as u64)).expect("few");
            members.remove(at);
        }
        let k = 1 + u32::try_from(dice.below(members.len() as u64)).expect("few");
        let mode = match dice.below(if self.setup.archive { 9 } else { 8 }) {
            0 => Mode::Async,
            1 => Mode::Bounded { k, bytes: 40_000, within: Duration::from_secs(1) },
            2 | 3 => Mode::Semi { k, timeout: Duration::from_millis(300) },
            8 => Mode::Archive,
            _ => Mode::Sync { k },
        };
        let members = members.into_iter().chain([up.log.node()]);
        let set = SyncSet::new(mode, members).map_err(|e| format!("a set of {mode}: {e}"))?;
        match up.leader.change(&set, Duration::ZERO) {
            Ok(done) => {
                self.stats.add("sets_changed", 1);
                self.note(&format!("{mode}, committed: {done}"));
                Ok(())
            }
            Err(error) => {
                let waits = error.kind() == Kind::Rejected;
                self.note_error("change", &error);
                if waits {
                    return Ok(());
                }
                self.may_fail(self.lead.troubled, "change", &error)?;
                self.kill_leader();
                Ok(())
            }
        }
    }

    // Disks.

    fn fault(&mut self, dice: &mut Dice, who: usize) {
        let leader = dice.chance(1, 2);
        let sim = if leader { &self.lead.sim } else { &self.mates[who].sim };
        match dice.below(4) {
            0 => {
                let room = dice.below(40_000);
                sim.set_capacity(Some(sim.used() + room));
            }
            1 => sim.fail(Fault::on(OpKind::Sync).nth(dice.below(6))),
            2 => {
                // No failing sync of a directory: what that leaves open is not closed by opening again
                // (docs/TESTING.md).
                let kind = dice.pick(&[OpKind::Write, OpKind::Rename, OpKind::Create]);
                let mut fault = Fault::on(kind).nth(dice.below(6));
                if dice.chance(1, 3) {
                    fault = fault.landed();
                }
                sim.fail(fault);
            }
            _ => sim.fail(Fault::on(OpKind::Write).error(Errno::NoSpace).nth(dice.below(6))),
        }
        match leader {
            true => self.lead.troubled = true,
            false => (self.mates[who].troubled, self.mates[who].proves) = (true, false),
        }
        self.stats.add("faults", 1);
    }

    pub fn heal_disks(&mut self) {
        self.lead.sim.heal();
        self.lead.sim.set_capacity(None);
        // What met a fault may stay poisoned: it is opened anew.
        if std::mem::take(&mut self.lead.troubled) {
            self.kill_leader();
        }
        for who in 0..self.mates.len() {
            self.mates[who].sim.heal();
            self.mates[who].sim.set_capacity(None);
            if std::mem::take(&mut self.mates[who].troubled) {
                self.kill_follower(who);
            }
        }
    }

    /// Some calls to the store fail, one behind the other: so many that a publisher stops trying until
    /// it is next asked.
    fn outage(&mut self, dice: &mut Dice) {
        let Some(client) = &self.client else { return };
        let calls = client.calls();
        for call in 1..=4 + dice.below(30) {
            let fault = dice.pick(&[
                StoreFault::TimeoutBefore,
                StoreFault::ServerError,
                StoreFault::Conflict,
                StoreFault::TimeoutAfter,
            ]);
            client.fail_at(calls + call, fault);
        }
        self.stats.add("outages", 1);
    }

    fn retain(&mut self, dice: &mut Dice) -> Done {
        let Some(up) = &self.lead.up else { return Ok(()) };
        let all_came = (0..self.mates.len())
            .all(|who| self.mates[who].reads_archive || self.net().said(who).node.is_some());
        if !self.setup.retains || !all_came || self.net().slots_lost {
            return Ok(());
        }
        let policy = Retention { keep_bytes: Some(dice.below(200_000)), ..Retention::default() };
        match up.log.retain(&policy) {
            Ok(retained) => {
                self.stats.add("segments_dropped", retained.files.len() as u64);
                self.note(&format!("dropped {} segments", retained.files.len()));
                Ok(())
            }
            Err(error) => self.may_fail(self.lead.troubled, "retain", &error),
        }
    }

    /// A follower that is down loses the end of its newest segment, as after a rotten sector.
    fn rot(&mut self, dice: &mut Dice, who: usize) -> Done {
        let mate = &self.mates[who];
        if !self.setup.rots || mate.follower.is_some() || mate.reads_archive || !mate.proves {
            return Ok(());
        }
        // What it holds until now counts as held.
        self.look_up(who)?;
        let mate = &mut self.mates[who];
        let prefix = std::path::Path::new(COPY).join("segments");
        let newest = mate.sim.paths().into_iter().filter(|path| {
            path.starts_with(&prefix) && path.extension().is_some_and(|e| e == "seg")
        });
        let Some(newest) = newest.max() else { return Ok(()) };
        let bytes = mate.sim.read(&newest);
        let last = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64;
        if last <= 4096 {
            return Ok(());
        }
        let byte = last - dice.below((last - 4096).min(600));
        mate.sim.flip(&newest, byte * 8 + dice.below(8));
        mate.rotten = true;
        mate.looked = usize::MAX;
        self.stats.add("rotten", 1);
        Ok(())
    }
}

fn crash(dice: &mut Dice) -> Crash {
    match dice.below(4) {
        0 => Crash::KeepAll,
        1 => Crash::Torn { seed: dice.next() },
        _ => Crash::DropAll,
    }
}
