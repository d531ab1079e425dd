//! What a step does to nodes: their lives, promotions and switchovers, and what goes wrong around them.

use std::time::Duration;

use tidelog::fs::sim::{Crash, Errno, Fault, OpKind};
use tidelog::replica::failover::{Stage, archived_epoch, survey};
use tidelog::{Epoch, Error, Kind};

use crate::dice::Dice;

use super::super::world::Done;
use super::node::{Node, Role};
use super::op::{Op, Step};
use super::{World, net};

/// A wall clock is never further off than this.
const FURTHEST_JUMP: i64 = 4 * 3600 * 1_000_000_000;
/// When a node heard its source is forgotten after so many nanoseconds.
const LONG_AGO: u64 = 4_000_000_000;
/// A step takes so many microseconds at most.
const STRIDE: u64 = 40_000;
/// Steps that a switchover takes at most.
const HASTE: usize = 60;

impl World {
    pub fn act(&mut self, step: &Step) -> Done {
        let mut dice = Dice::new(step.seed);
        let dice = &mut dice;
        self.wait(Duration::from_micros(dice.below(STRIDE)));
        let any = usize::try_from(dice.below(self.nodes.len() as u64)).expect("few");
        match step.op {
            Op::Follow => self.follow(any),
            Op::Append => self.append(dice),
            Op::Tend => self.tend(any, dice),
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
                    self.watch.jumped = true;
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
                self.watch.stirred = self.time;
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
            Op::Publish => match self.a_leader(dice) {
                Some(who) => self.publish(who, false),
                None => Ok(()),
            },
            Op::Read => self.read_vault(),
            Op::Outage => {
                let off = dice.chance(1, 3);
                let mut net = self.net();
                match off {
                    true => net.off[any] = true,
                    false => net.off.iter_mut().for_each(|off| *off = false),
                }
                Ok(())
            }
            Op::Coordinator => {
                self.disturb(any, dice);
                Ok(())
            }
            Op::Pause => {
                self.pause(any, dice.chance(1, 3));
                Ok(())
            }
            Op::Retain => match self.a_leader(dice) {
                Some(who) => self.retain(who),
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
    pub fn a_leader(&self, dice: &mut Dice) -> Option<usize> {
        self.one_of(dice, |role| matches!(role, Role::Leads(_)))
    }

    // A node's life.

    /// What runs a node starts it as a follower, whatever it was.
    pub fn start(&mut self, who: usize) -> Done {
        let held = self.nodes[who].held;
        match self.nodes[who].follow() {
            Ok(()) => {
                let end = self.nodes[who].end().unwrap_or(0);
                self.note(&format!("node {who} follows from {end}"));
                self.nodes[who].held = end;
                if let Role::Follows(follower) = &self.nodes[who].role
                    && let Some(rejoined) = follower.report().rejoined.clone()
                {
                    self.check_rejoined(who, &rejoined, held)?;
                }
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
    pub fn tend(&mut self, who: usize, dice: &mut Dice) -> Done {
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
            Role::Leads(_) | Role::Asks(..) => match self.hold_seat(who, dice) {
                true => Ok(()),
                false => self.step_down(who),
            },
            Role::Follows(_) if self.nodes[who].diverged => self.rejoin(who),
            Role::Follows(_) if self.has_coordinator() => self.look_around(who),
            Role::Follows(_) => {
                self.find_leader(who);
                Ok(())
            }
        }
    }

    /// It leads no more, and follows.
    pub fn step_down(&mut self, who: usize) -> Done {
        self.stats.add("stepped_down", 1);
        // Nothing more is acknowledged while it closes.
        if let Role::Leads(led) = &self.nodes[who].role {
            led.leader
                .fence(Error::new(Kind::Fenced, "expected a leader, found that it steps down"));
        }
        let next = self.nodes[who].at.get().filter(|at| *at != net::address(who));
        self.close(who)?;
        self.nodes[who].at.set(next);
        if !self.has_coordinator() {
            self.find_leader(who);
        }
        self.start(who)
    }

    pub fn close(&mut self, who: usize) -> Done {
        if matches!(self.nodes[who].role, Role::Leads(_)) {
            self.nodes[who].post.resign();
        }
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
        self.start(who)
    }

    /// A round of a follower.
    pub fn follow(&mut self, who: usize) -> Done {
        let Role::Follows(follower) = &mut self.nodes[who].role else { return Ok(()) };
        let stepped = follower.step();
        self.stats.add("rounds", 1);
        match stepped {
            Ok(progress) => {
                self.note(&format!("node {who}: {} to {}", progress.from, progress.to));
                let (time, node) = (self.time, &mut self.nodes[who]);
                node.heard.retain(|at| at + LONG_AGO > time);
                if node
                    .at
                    .get()
                    .and_then(|at| net::at(&at))
                    .is_some_and(|at| node.port.net().leads(at))
                {
                    node.heard.push(time);
                }
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
        // A node that knows no set, or one that promises nothing, knows of no promise: the operator knows who
        // is a member of a later one.
        let own = node.id.unwrap_or_default();
        if node
            .standing()
            .is_some_and(|standing| standing.set().is_none_or(|set| set.mode.k() == 0))
        {
            let foreign = |other: &Node| {
                let there = other.standing();
                let set = there.as_ref().and_then(|standing| standing.set());
                set.is_some_and(|set| set.mode.k() > 0 && !set.has(own))
            };
            if self.nodes.iter().any(foreign) {
                self.stats.add("promotions_refrained", 1);
                return Ok(());
            }
        }
        let node = &self.nodes[who];
        let mut port = node.port.clone();
        let answers = survey(&ask, &mut port);
        let seen = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).map(|o| o.seen());
        let own =
            node.port.net().desks[who].as_ref().map_or(0, |desk| desk.voter().standing().seen());
        let mut seen = seen.max().unwrap_or(0).max(own);
        self.stats.add("promotions_tried", 1);
        if !self.has_coordinator() {
            seen = seen.max(archived_epoch(&mut self.nodes[who].port()));
            return self.ask_for(who, Epoch { number: seen + 1, nonce });
        }
        // While somebody holds the seat there, nobody else leads, whoever says so.
        match self.win(who, nonce, seen)? {
            Some(epoch) => self.ask_for(who, epoch),
            None => Ok(()),
        }
    }

    fn take(&mut self, who: usize) -> Role {
        std::mem::replace(&mut self.nodes[who].role, Role::Down)
    }

    /// A candidate takes a step.
    pub fn campaign(&mut self, who: usize, dice: &mut Dice) -> Done {
        let mut port = self.nodes[who].port();
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
                let better = promotion.better().and_then(|peer| net::at(&peer.address));
                self.give_up(who);
                self.may_fail(who, "asks", &error)?;
                if let Some(better) = better {
                    self.stats.add("promotions_handed_on", 1);
                    self.nodes[who].at.set(Some(net::address(better)));
                    return self.promote(better, dice.next());
                }
            }
        }
        Ok(())
    }

    pub fn give_up(&mut self, who: usize) {
        self.nodes[who].role = match self.take(who) {
            Role::Asks(follower, ..) => Role::Follows(follower),
            other => other,
        };
        // Whoever is better placed may have it.
        self.nodes[who].post.resign();
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
                if self.nodes[who].post.by_itself {
                    self.stats.add("failovers_by_election", 1);
                }
                self.note(&format!("node {who} leads epoch {}", epoch.number));
                self.begun.insert(epoch.number, who);
                let end = self.nodes[who].end().unwrap_or(0);
                self.check_bound(who, epoch, end)?;
                self.check_promise(who)?;
                self.check_beginning(who, epoch)
            }
            Err(error) => {
                self.stats.add("promotions_outbid", 1);
                let done = self.may_fail(who, "begins to lead", &error);
                self.nodes[who].post.resign();
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
        self.hand_over_seat(who);
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

    // What goes wrong.

    fn link(&mut self, any: usize, dice: &mut Dice) {
        let other = usize::try_from(dice.below(self.nodes.len() as u64)).expect("few");
        let nodes = self.nodes.len();
        self.watch.stirred = self.time;
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
