//! What a step does, and what clients are told by it.

use std::time::Duration;

use tidelog::frame::{Mode, SyncSet};
use tidelog::fs::sim::{Crash, Errno, Fault, OpKind};
use tidelog::replica::failover::{Promotion, Stage, survey};
use tidelog::replica::{Level, Outcome};
use tidelog::{Appended, Epoch, Error, Id, Kind};

use crate::dice::Dice;

use super::super::world::Done;
use super::node::{Led, Role};
use super::op::{Op, Step};
use super::{World, net};

/// Clients at a time.
const CLIENTS: u64 = 4;
/// Steps that a client waits for an acknowledgement at most.
const PATIENCE: u64 = 150;
/// A wall clock is never further off than this.
const FURTHEST_JUMP: i64 = 4 * 3600 * 1_000_000_000;
/// Steps that a switchover takes at most.
const HASTE: usize = 60;

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
    pub fn act(&mut self, step: &Step) -> Done {
        let mut dice = Dice::new(step.seed);
        let dice = &mut dice;
        self.wait(Duration::from_micros(dice.below(8_000)));
        let any = usize::try_from(dice.below(self.nodes.len() as u64)).expect("few");
        match step.op {
            Op::Follow => self.follow(any),
            Op::Append => self.append(dice),
            Op::Tend => self.tend(any),
            Op::Promote => self.promote(any, dice.next()),
            Op::Campaign => match self.one_of(dice, |role| matches!(role, Role::Asks(..))) {
                Some(who) => self.campaign(who, dice),
                None => Ok(()),
            },
            Op::Switchover => match self.a_leader(dice) {
                Some(who) => self.switch_over(who, any, dice),
                None => Ok(()),
            },
            Op::Look => match self.a_leader(dice) {
                Some(who) => self.look(who, dice),
                None => Ok(()),
            },
            Op::Sync => match self.a_leader(dice) {
                Some(who) => self.sync(who),
                None => Ok(()),
            },
            Op::Wait => {
                let most = if dice.chance(1, 4) { 900 } else { 30 };
                self.wait(Duration::from_millis(dice.below(most)));
                Ok(())
            }
            Op::ClockJump => {
                let nanos = i64::try_from(dice.below(7_200)).expect("seconds") - 3_600;
                let (nanos, node) = (nanos * 1_000_000_000, &mut self.nodes[any]);
                if (node.jumped + nanos).abs() < FURTHEST_JUMP {
                    node.jumped += nanos;
                    node.sim.jump(nanos);
                }
                Ok(())
            }
            Op::ChangeSet => match self.a_leader(dice) {
                Some(who) => self.change_set(who, dice),
                None => Ok(()),
            },
            Op::Link => {
                self.link(any, dice);
                Ok(())
            }
            Op::Weather => {
                let bad = self.setup.bad_weather;
                self.net().per_mille = dice.pick(&[0, bad, bad * 3]);
                Ok(())
            }
            Op::Late => {
                self.net().late(dice.next());
                Ok(())
            }
            Op::Kill => {
                self.nodes[any].kill();
                Ok(())
            }
            Op::Close => self.close(any),
            Op::Cut => {
                let crash = match dice.below(4) {
                    0 => Crash::KeepAll,
                    1 => Crash::Torn { seed: dice.next() },
                    _ => Crash::DropAll,
                };
                self.nodes[any].power_cut(&crash);
                Ok(())
            }
            Op::Fault => {
                self.fault(any, dice);
                Ok(())
            }
            Op::Heal => {
                self.heal_disks();
                Ok(())
            }
            Op::Token => self.check_token(any, dice.next()),
            Op::Compare => match self.newest_leader() {
                Some(who) => self.check_log(who),
                None => Ok(()),
            },
        }
    }

    fn one_of(&self, dice: &mut Dice, wanted: impl Fn(&Role) -> bool) -> Option<usize> {
        let all: Vec<usize> =
            (0..self.nodes.len()).filter(|who| wanted(&self.nodes[*who].role)).collect();
        (!all.is_empty()).then(|| dice.pick(&all))
    }

    /// Some node that leads, or thinks so.
    fn a_leader(&self, dice: &mut Dice) -> Option<usize> {
        self.one_of(dice, |role| matches!(role, Role::Leads(_)))
    }

    // A node's life.

    /// What runs a node starts it as a follower, whatever it was.
    pub fn start(&mut self, who: usize) -> Done {
        match self.nodes[who].follow() {
            Ok(()) => {
                let end = self.nodes[who].end().unwrap_or(0);
                self.note(&format!("node {who} follows from {end}"));
                self.check_promise(who)
            }
            Err(error) => {
                let done = self.may_fail(who, "starts", &error);
                self.nodes[who].kill();
                done
            }
        }
    }

    /// What a node's runner does when it looks around.
    pub fn tend(&mut self, who: usize) -> Done {
        if let Some(candidate) = self.net().granted[who].take()
            && !matches!(self.nodes[who].role, Role::Leads(_))
        {
            self.nodes[who].at.set(Some(net::address(candidate)));
        }
        match &self.nodes[who].role {
            Role::Down => {
                if self.nodes[who].id.is_none() {
                    self.find_leader(who);
                }
                self.start(who)
            }
            Role::Leads(led) if led.leader.fenced().is_some() => self.step_down(who),
            Role::Leads(_) | Role::Asks(..) => Ok(()),
            Role::Follows(_) if self.nodes[who].diverged => self.rejoin(who),
            Role::Follows(_) => {
                self.find_leader(who);
                Ok(())
            }
        }
    }

    /// It leads no more, and follows.
    pub fn step_down(&mut self, who: usize) -> Done {
        self.stats.add("stepped_down", 1);
        self.close(who)?;
        self.nodes[who].at.set(None);
        self.find_leader(who);
        self.start(who)
    }

    pub fn close(&mut self, who: usize) -> Done {
        match self.nodes[who].close() {
            Ok(()) => Ok(()),
            Err(error) => {
                self.nodes[who].kill();
                self.may_fail(who, "closes", &error)
            }
        }
    }

    /// Asks the others who leads.
    fn find_leader(&mut self, who: usize) {
        let own = self.nodes[who].promised().map_or(0, |(epoch, _)| epoch.number);
        let node = &self.nodes[who];
        let mut port = node.port.clone();
        let found = match node.question(None) {
            Some(ask) => survey(&ask, &mut port)
                .into_iter()
                .filter_map(|(_, answer)| answer.ok())
                .filter(|other| other.leads && other.seen() >= own)
                .max_by_key(tidelog::replica::failover::Standing::seen)
                .and_then(|other| other.address),
            // Without a log there is nothing to ask about: it is told where to look.
            None => self.newest_leader().map(net::address),
        };
        if found.is_some() {
            node.at.set(found);
        }
    }

    /// Its history and the leader's part: opened again, it keeps what differs and goes on.
    fn rejoin(&mut self, who: usize) -> Done {
        self.close(who)?;
        self.start(who)?;
        if let Role::Follows(follower) = &self.nodes[who].role
            && follower.report().rejoined.is_some()
        {
            self.stats.add("rejoins", 1);
        }
        Ok(())
    }

    /// A round of a follower.
    pub fn follow(&mut self, who: usize) -> Done {
        let Role::Follows(follower) = &mut self.nodes[who].role else { return Ok(()) };
        let stepped = follower.step();
        self.stats.add("rounds", 1);
        match stepped {
            Ok(progress) => {
                self.note(&format!("node {who}: {} to {}", progress.from, progress.to));
                Ok(())
            }
            Err(error) if error.kind() == Kind::Diverged => {
                self.note(&format!("node {who} parts: {error}"));
                if !std::mem::replace(&mut self.nodes[who].diverged, true) {
                    self.stats.add("divergences", 1);
                }
                Ok(())
            }
            Err(error) => {
                let poisoned = error.kind() == Kind::Poisoned;
                let done = self.may_fail(who, "follows", &error);
                if poisoned && self.dice.chance(1, 4) {
                    self.nodes[who].kill();
                }
                done
            }
        }
    }

    // Another leader.

    /// An operator promotes a follower.
    pub fn promote(&mut self, who: usize, nonce: u64) -> Done {
        let node = &self.nodes[who];
        if !matches!(node.role, Role::Follows(_)) {
            return Ok(());
        }
        let Some(ask) = node.question(None) else { return Ok(()) };
        let mut port = node.port.clone();
        let answers = survey(&ask, &mut port);
        let seen = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).map(|o| o.seen());
        let own =
            node.port.net().desks[who].as_ref().map_or(0, |desk| desk.voter().standing().seen());
        let epoch = Epoch { number: seen.max().unwrap_or(0).max(own) + 1, nonce };
        self.stats.add("promotions_tried", 1);
        let Role::Follows(follower) = self.take(who) else { unreachable!("looked at just now") };
        let begun = Promotion::begin(&follower, epoch, &ask);
        match begun {
            Ok(promotion) => {
                self.nodes[who].role = Role::Asks(follower, promotion, false);
                self.note(&format!("node {who} asks for epoch {}", epoch.number));
                self.check_promise(who)
            }
            Err(error) => {
                self.nodes[who].role = Role::Follows(follower);
                self.may_fail(who, "is promoted", &error)
            }
        }
    }

    fn take(&mut self, who: usize) -> Role {
        std::mem::replace(&mut self.nodes[who].role, Role::Down)
    }

    /// A candidate takes a step.
    pub fn campaign(&mut self, who: usize, dice: &mut Dice) -> Done {
        let mut port = self.nodes[who].port.clone();
        let Role::Asks(follower, promotion, ready) = &mut self.nodes[who].role else {
            return Ok(());
        };
        if *ready {
            let epoch = promotion.epoch();
            return self.begin(who, epoch, dice);
        }
        match promotion.step(follower, &mut port) {
            Ok(Stage::Going) => {}
            Ok(Stage::Ready) => *ready = true,
            Ok(Stage::Short(why)) => {
                promotion.again();
                self.note(&format!("node {who} is short: {why}"));
                if dice.chance(1, 3) {
                    self.give_up(who);
                }
            }
            Err(error) => {
                self.give_up(who);
                self.may_fail(who, "asks", &error)?;
            }
        }
        Ok(())
    }

    pub fn give_up(&mut self, who: usize) {
        self.nodes[who].role = match self.take(who) {
            Role::Asks(follower, ..) => Role::Follows(follower),
            other => other,
        };
        self.stats.add("promotions_given_up", 1);
    }

    /// A candidate that has what it needs leads.
    fn begin(&mut self, who: usize, epoch: Epoch, dice: &mut Dice) -> Done {
        if let Role::Asks(follower, ..) = self.nodes[who].stop()
            && dice.chance(1, 2)
            && let Err(error) = follower.close()
        {
            self.may_fail(who, "stands down", &error)?;
        }
        match self.nodes[who].lead(epoch) {
            Ok(()) => {
                self.stats.add("failovers", 1);
                self.note(&format!("node {who} leads epoch {}", epoch.number));
                self.check_promise(who)?;
                self.check_beginning(who, epoch)
            }
            Err(error) => {
                self.stats.add("promotions_outbid", 1);
                let done = self.may_fail(who, "begins to lead", &error);
                self.nodes[who].kill();
                done?;
                self.start(who)
            }
        }
    }

    /// A leader lets another node lead: nothing is lost, not even what it alone held.
    fn switch_over(&mut self, who: usize, to: usize, dice: &mut Dice) -> Done {
        let Role::Leads(led) = &self.nodes[who].role else { return Ok(()) };
        if who == to || led.leader.fenced().is_some() || led.log.sync().is_err() {
            return Ok(());
        }
        let leader = std::sync::Arc::clone(&led.leader);
        let end = led.log.durable_end().0;
        let held = leader.hold_appends();
        self.nodes[to].at.set(Some(net::address(who)));
        for _ in 0..3 {
            self.follow(to)?;
        }
        if self.nodes[to].end().is_none_or(|its| its < end) || self.nodes[to].diverged {
            return Ok(());
        }
        self.promote(to, dice.next())?;
        for _ in 0..HASTE {
            if !matches!(self.nodes[to].role, Role::Asks(..)) {
                break;
            }
            self.campaign(to, dice)?;
        }
        drop(held);
        let Role::Leads(next) = &self.nodes[to].role else { return Ok(()) };
        self.stats.add("switchovers", 1);
        match next.log.durable_end().0 >= end {
            true => Ok(()),
            false => Err(format!(
                "node {who} handed {end} records over to node {to}, which leads with {}",
                next.log.durable_end()
            )),
        }
    }

    // Clients.

    fn append(&mut self, dice: &mut Dice) -> Done {
        let client = dice.below(CLIENTS);
        let Some(who) = self.a_leader(dice) else { return Ok(()) };
        let id = Id([u8::try_from(client + 1).expect("few"); 16]);
        // One at a time: a client that does not know sends the same again, there or elsewhere.
        let last = self.book.sent.iter().rposition(|sent| sent.producer.id == id && sent.open);
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
        let level = match dice.below(10) {
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
        let step = self.step;
        let Role::Leads(Led { leader, pending, epoch, .. }) = &mut self.nodes[who].role else {
            return Ok(());
        };
        let (epoch, mut all) = (*epoch, Vec::new());
        pending.retain(|(number, waiting, since)| match leader.look(waiting) {
            Some(outcome) => {
                let standing = leader.standing();
                let kept = match standing.mode {
                    Mode::Sync { .. } => true,
                    Mode::Semi { .. } => standing.degraded.is_none(),
                    _ => false,
                };
                all.push(Told { number: *number, who, epoch, outcome, kept });
                false
            }
            None => since + PATIENCE > step,
        });
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
                let kept = kept && level > Level::Durable && level != Level::Archived;
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

    fn sync(&mut self, who: usize) -> Done {
        let Role::Leads(led) = &self.nodes[who].role else { return Ok(()) };
        let synced = led.log.sync();
        led.leader.grew();
        match synced {
            Ok(_) => Ok(()),
            Err(error) => self.gives_way(who, "syncs", &error),
        }
    }

    fn change_set(&mut self, who: usize, dice: &mut Dice) -> Done {
        let own = self.nodes[who].id;
        let mut others: Vec<Id> =
            self.nodes.iter().filter_map(|node| node.id).filter(|id| Some(*id) != own).collect();
        while others.len() > 1 && dice.chance(1, 4) {
            let at = usize::try_from(dice.below(others.len() as u64)).expect("few");
            others.remove(at);
        }
        let k = 1 + u32::try_from(dice.below(others.len() as u64)).expect("few");
        let mode = match dice.below(8) {
            _ if self.setup.strict => Mode::Sync { k },
            0 => Mode::Async,
            1 => Mode::Bounded { k, bytes: 40_000, within: Duration::from_secs(1) },
            2 | 3 => Mode::Semi { k, timeout: Duration::from_millis(300) },
            _ => Mode::Sync { k },
        };
        let members: Vec<Id> = others.into_iter().chain(own).collect();
        self.set(who, mode, members)
    }

    /// Gives a leader another set.
    pub fn set(&mut self, who: usize, mode: Mode, members: Vec<Id>) -> Done {
        let Role::Leads(led) = &self.nodes[who].role else { return Ok(()) };
        let set = SyncSet::new(mode, members).map_err(|e| format!("a set of {mode}: {e}"))?;
        match led.leader.change(&set, Duration::ZERO) {
            Ok(done) => {
                self.stats.add("sets_changed", 1);
                self.note(&format!("{mode} at {who}, committed: {done}"));
                Ok(())
            }
            Err(error) => self.gives_way(who, "changes its set", &error),
        }
    }

    // What goes wrong.

    fn link(&mut self, any: usize, dice: &mut Dice) {
        let other = usize::try_from(dice.below(self.nodes.len() as u64)).expect("few");
        let nodes = self.nodes.len();
        let mut net = self.net();
        match dice.below(6) {
            0 => net.cut[any][other] = true,
            1 => (net.cut[any][other], net.cut[other][any]) = (true, true),
            2 => (0..nodes).for_each(|to| (net.cut[any][to], net.cut[to][any]) = (true, true)),
            _ => net.heal(),
        }
    }

    fn fault(&mut self, who: usize, dice: &mut Dice) {
        let sim = &self.nodes[who].sim;
        match dice.below(4) {
            0 => sim.set_capacity(Some(sim.used() + dice.below(40_000))),
            1 => sim.fail(Fault::on(OpKind::Sync).nth(dice.below(6))),
            2 => {
                let kind = dice.pick(&[OpKind::Write, OpKind::Rename, OpKind::Create]);
                let mut fault = Fault::on(kind).nth(dice.below(6));
                if dice.chance(1, 3) {
                    fault = fault.landed();
                }
                sim.fail(fault);
            }
            _ => sim.fail(Fault::on(OpKind::Write).error(Errno::NoSpace).nth(dice.below(6))),
        }
        self.nodes[who].troubled = true;
        self.stats.add("faults", 1);
    }

    pub fn heal_disks(&mut self) {
        for node in &mut self.nodes {
            node.sim.heal();
            node.sim.set_capacity(None);
            // What met a fault may stay poisoned: it is opened anew.
            if std::mem::take(&mut node.troubled) {
                node.kill();
            }
        }
    }
}
