//! Elections: what a node's runner does with the coordinator, and what the coordinator does to it.
//!
//! | promise | held against |
//! |---|---|
//! | a number that is won is above all that its winner has seen | the claim |
//! | under modes that a lease decides nobody acknowledges beside a later leader | who began to lead when |
//! | no election while failover is paused, by a node that never leads, or too soon behind the last one | time |
//! | none loses more than `max_loss` of what its node knows of | what the leader was heard to have |
//! | none while the leader is heard, by it or by a node that it reaches | whom the leader answered |

use std::time::Duration;

use tidelog::LogByte;
use tidelog::frame::Mode;
use tidelog::fs::Fs;
use tidelog::replica::coordinator::fake::{FakeBackup, FakeFault};
use tidelog::replica::coordinator::{Claim, Seat, Take};
use tidelog::replica::failover::{Move, Promotion, Sight, Standing, archived_epoch, seat, survey};

use crate::dice::Dice;

use super::super::world::Done;
use super::node::{Node, Role};
use super::post::{Seats, client, clock};
use super::{World, net};

/// How often who follows asks the coordinator: while the leader is heard, and while it is not.
const ASK: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(200);
/// What the others said counts for so long, by a clock that runs as differently as may be.
const FRESH: u64 = 1_100_000_000;

/// What is known of the coordinator by who runs the world.
#[derive(Debug, Default)]
pub struct Watch {
    backup: Option<FakeBackup>,
    /// When it last said what was not so.
    lied: Option<u64>,
    /// Since when nobody is to be elected.
    paused: Option<u64>,
    /// Of the last change of leader that anybody at the coordinator could see: when.
    changed: Option<u64>,
    /// When a link, or the weather, was last changed.
    pub stirred: u64,
    /// Whether clocks were set: then nobody knows how far two elections lie apart.
    pub jumped: bool,
}

impl Watch {
    /// The coordinator says what is not so.
    pub fn lied(&mut self, time: u64) {
        self.lied = Some(time);
    }

    /// Somebody else leads who took the seat then. Whose start was never committed changed nothing.
    pub fn changed(&mut self, time: u64) {
        self.changed = Some(time);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("short")
}

impl World {
    pub fn has_coordinator(&self) -> bool {
        !matches!(self.seats, Seats::Nobody)
    }

    /// What a follower's runner does when it looks around: finds out who leads, and whether it should itself.
    pub fn look_around(&mut self, who: usize) -> Done {
        let node = &mut self.nodes[who];
        let Some(own) = node.standing() else { return Ok(()) };
        let now = clock(&node.sim);
        let patience = node.post.election.policy().patience;
        let silent = own.heard_ms.is_none_or(|ago| Duration::from_millis(ago) >= patience);
        let every = nanos(if silent { LOOK } else { ASK });
        let asked = node.post.asked;
        let due = node.post.survey.is_some() || asked.is_none_or(|at| now - at >= every);
        let looks = asked.is_none_or(|at| now - at >= every);
        if !due {
            return Ok(());
        }
        if looks {
            node.post.asked = Some(now);
            let looked = node.post.coordinator.as_mut().map(|known| known.look());
            match looked {
                Some(Ok(seat)) => node.post.seat = Some(seat),
                Some(Err(error)) => {
                    self.note(&format!("node {who} does not reach the coordinator: {error}"));
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
        let node = &mut self.nodes[who];
        let Some(seat) = node.post.seat.clone() else { return Ok(()) };
        if let Some(holder) = seat.holder.as_ref().filter(|holder| holder.node != own.node()) {
            node.post.survey = None;
            node.at.set(Some(holder.address.clone()).filter(|at| !at.is_empty()));
            return Ok(());
        }
        let Role::Follows(follower) = &node.role else { return Ok(()) };
        let shown = follower.gauge().read();
        let others: Vec<Standing> =
            node.post.survey.as_ref().map(|(_, others)| others.clone()).unwrap_or_default();
        let last = seat.last.as_ref().map(|last| last.address.clone()).or_else(|| node.at.get());
        let last = last.and_then(|at| net::at(&at)).filter(|at| *at != who);
        let crashed = last.is_some_and(|at| node.port.net().is_gone(who, at));
        let sight = Sight {
            now,
            wall: node.sim.now(),
            seat: &seat,
            own: &own,
            others: &others,
            asked: node.post.survey.as_ref().map(|(at, _)| *at),
            mode: own.mode(),
            committed: own.report.committed.unwrap_or(LogByte(0)),
            leader_end: shown.durable_offset.0,
            crashed,
        };
        match node.post.election.decide(&sight) {
            Move::Follow => Ok(()),
            Move::Wait(_, why) | Move::Stay(why) => {
                if let Some(leads) = others.iter().find(|other| other.leads) {
                    node.at.set(leads.address.clone());
                }
                self.note(&format!("node {who} does not try to lead: {why}"));
                self.stats.add("elections_waited", 1);
                Ok(())
            }
            Move::Survey => {
                let Some(ask) = node.question(None) else { return Ok(()) };
                let mut port = node.port.clone();
                let answers = survey(&ask, &mut port).into_iter();
                let others = answers.filter_map(|(_, answer)| answer.ok());
                let others = others.filter(|other| other.report.log == Some(ask.log)).collect();
                self.nodes[who].post.survey = Some((now, others));
                Ok(())
            }
            Move::Take => {
                node.post.survey = None;
                node.post.asked = None;
                let known = shown.durable_offset.0;
                let nonce = self.dice.next();
                let seen = own.seen().max(seat.number);
                self.stats.add("elections", 1);
                let Some(epoch) = self.win(who, nonce, seen)? else { return Ok(()) };
                let post = &mut self.nodes[who].post;
                // As a node does: what came between the look and the take is seen behind it.
                let now = post.coordinator.as_mut().and_then(|known| known.look().ok());
                let behind = now.map(|now| Seat {
                    degraded: now.degraded,
                    paused: now.paused,
                    ..seat.clone()
                });
                let why = behind
                    .map(|seat| post.election.withdraws(&Sight { seat: &seat, ..sight.clone() }));
                if why != Some(None) {
                    post.resign();
                    self.stats.add("elections_withdrawn", 1);
                    return Ok(());
                }
                self.elect(who, epoch, &seat, (crashed, known), &others)
            }
        }
    }

    /// A node has taken the seat by itself, and keeps it.
    fn elect(
        &mut self,
        who: usize,
        epoch: tidelog::Epoch,
        seat: &Seat,
        (crashed, known): (bool, u64),
        others: &[Standing],
    ) -> Done {
        let Some(own) = self.nodes[who].standing() else { return Ok(()) };
        self.check_election(who, seat, &own, (crashed, known), others)?;
        self.nodes[who].post.by_itself = true;
        self.stats.add("elections_won", 1);
        self.ask_for(who, epoch)
    }

    /// Takes the seat for a node, by an election or an operator; `None` when it does not get it.
    pub fn win(
        &mut self,
        who: usize,
        nonce: u64,
        seen: u64,
    ) -> Result<Option<tidelog::Epoch>, String> {
        let node = &mut self.nodes[who];
        let (Some(log), Some(id)) = (node.log, node.id) else { return Ok(None) };
        let mut port = node.port();
        let seen = seen.max(archived_epoch(&mut port));
        let claim =
            Claim { log, node: id, name: String::new(), address: net::address(who), nonce, seen };
        let Some(coordinator) = &mut node.post.coordinator else { return Ok(None) };
        match coordinator.take(&claim) {
            Ok(Take::Won(epoch)) if epoch.number > seen => {
                (node.post.renewed, node.post.won) = (Some(clock(&node.sim)), Some(self.time));
                // The coordinator remembers the last take alone, also of one that comes to nothing.
                self.watch.changed = None;
                self.note(&format!("node {who} wins epoch {}", epoch.number));
                Ok(Some(epoch))
            }
            Ok(Take::Won(epoch)) => {
                Err(format!("node {who} has seen epoch {seen}, and wins {}", epoch.number))
            }
            Ok(Take::Held(_)) => Ok(None),
            Err(error) => {
                self.note(&format!("node {who} cannot take the seat: {error}"));
                Ok(None)
            }
        }
    }

    /// Begins to ask for promises of an epoch that was won.
    pub fn ask_for(&mut self, who: usize, epoch: tidelog::Epoch) -> Done {
        let node = &mut self.nodes[who];
        let Some(ask) = node.question(None) else { return Ok(()) };
        let Role::Follows(follower) = std::mem::replace(&mut node.role, Role::Down) else {
            return Err(format!("node {who} is to ask for promises, and does not follow"));
        };
        match Promotion::begin(&follower, epoch, &ask) {
            Ok(promotion) => {
                let promotion = promotion.accept_loss(self.gives_up);
                self.nodes[who].role = Role::Asks(follower, promotion, false);
                self.note(&format!("node {who} asks for epoch {}", epoch.number));
                self.check_promise(who)
            }
            Err(error) => {
                self.nodes[who].role = Role::Follows(follower);
                self.nodes[who].post.resign();
                self.may_fail(who, "is promoted", &error)
            }
        }
    }

    /// A leader, or who is about to be one, holds its seat. `false`: it holds it no more.
    pub fn hold_seat(&mut self, who: usize, dice: &mut Dice) -> bool {
        let node = &mut self.nodes[who];
        let now = clock(&node.sim);
        let Some(coordinator) = &mut node.post.coordinator else { return true };
        if let Role::Leads(led) = &node.role {
            // Its loop looks far more often than it renews.
            let _ = led.leader.register(&mut **coordinator);
        }
        let ttl = coordinator.ttl();
        let asks = matches!(node.role, Role::Asks(..));
        if !asks && node.post.renewed.is_some_and(|at| now - at < nanos(ttl / 3)) {
            return true;
        }
        node.post.renewed = Some(now);
        let Role::Leads(led) = &node.role else {
            // Others must not think it gone while it asks around.
            let _ = coordinator.renew();
            return true;
        };
        match seat::hold(&mut **coordinator, &led.leader) {
            Ok(None) => {
                if !self.heals && dice.chance(1, 12) {
                    // It was long under way.
                    self.wait(ttl / 20 * u32::try_from(dice.below(25)).expect("few"));
                }
                true
            }
            Ok(Some(seat)) => {
                let holder = seat.holder.map(|holder| holder.address);
                self.nodes[who].at.set(holder);
                self.note(&format!("node {who} lost its seat"));
                self.stats.add("seats_lost", 1);
                false
            }
            Err(error) => {
                self.note(&format!("node {who} cannot renew: {error}"));
                true
            }
        }
    }

    /// A leader that hands over lets go of its seat, and says nothing more by that.
    pub fn hand_over_seat(&mut self, who: usize) {
        if !self.has_coordinator() {
            return;
        }
        let node = &mut self.nodes[who];
        if let (Role::Leads(led), Some(coordinator)) = (&node.role, &mut node.post.coordinator) {
            let _ = seat::let_go(&mut **coordinator, &led.leader);
        }
        // Whether it holds it still is found out at once.
        node.post.renewed = None;
    }

    // What the coordinator does.

    pub fn disturb(&mut self, any: usize, dice: &mut Dice) {
        let Seats::Cluster(cluster) = self.seats.clone() else {
            let off = dice.chance(1, 3);
            let mut net = self.net();
            return match off {
                true => net.off[any] = true,
                false => net.off.iter_mut().for_each(|off| *off = false),
            };
        };
        match dice.below(12) {
            0 | 1 => cluster.cut(client(any), true),
            2 => (0..self.nodes.len()).for_each(|who| cluster.cut(client(who), true)),
            3 => {
                let well = usize::try_from(dice.below(3)).expect("few");
                cluster.fail(client(any), well, FakeFault::Lost);
            }
            4 | 5 => {
                let well = usize::try_from(dice.below(3)).expect("few");
                cluster.fail(client(any), well, FakeFault::AnswerLost);
            }
            6 => self.watch.backup = Some(cluster.back_up()),
            7 => {
                if let Some(backup) = &self.watch.backup {
                    cluster.restore(backup, self.setup.ttl);
                    self.watch.lied(self.time);
                    self.watch.paused = cluster.seat().paused.then_some(self.time);
                    self.stats.add("coordinator_restored", 1);
                    self.note("the coordinator is what it was");
                }
            }
            8 => {
                cluster.revoke();
                self.watch.lied(self.time);
                self.stats.add("leases_revoked", 1);
            }
            _ => cluster.heal(),
        }
    }

    pub fn pause(&mut self, any: usize, paused: bool) {
        let Some(coordinator) = &mut self.nodes[any].post.coordinator else { return };
        match coordinator.pause(paused) {
            Ok(()) => self.watch.paused = paused.then_some(self.time),
            // Nobody knows; who pauses asks again.
            Err(_) => self.watch.paused = None,
        }
    }

    /// Everything that has to do with the coordinator is well again.
    pub fn heal_seats(&mut self) {
        if let Seats::Cluster(cluster) = &self.seats {
            cluster.heal();
        }
        {
            let mut net = self.net();
            net.off.iter_mut().for_each(|off| *off = false);
            net.shaky = false;
        }
        self.pause(0, false);
    }

    // What must hold.

    fn lied_lately(&self) -> bool {
        self.watch.lied.is_some_and(|at| self.time < at + 2 * nanos(self.setup.ttl))
    }

    /// An election is by a node that may, when it may, and loses what it may.
    fn check_election(
        &mut self,
        who: usize,
        seat: &Seat,
        own: &Standing,
        (crashed, known): (bool, u64),
        others: &[Standing],
    ) -> Done {
        let policy = *self.nodes[who].post.election.policy();
        let wrong = |what: String| Err(format!("node {who} takes the seat by itself, and {what}"));
        if policy.never_lead {
            return wrong("never leads".into());
        }
        // It may have asked a little before; of a store it reads one object at a time, in turn.
        let looks = if matches!(self.seats, Seats::Store(_)) { 5 } else { 2 };
        if self.watch.paused.is_some_and(|since| since + looks * FRESH < self.time)
            && !self.lied_lately()
        {
            return wrong("elections are paused".into());
        }
        let led_last = seat.last.as_ref().is_some_and(|last| last.node == own.node());
        let led = self.begun.last_key_value().map_or(who == 0, |(_, by)| *by == who);
        if let Some(changed) =
            self.watch.changed.filter(|_| !self.watch.jumped && self.watch.lied.is_none())
        {
            let apart = self.time - changed;
            let least = nanos(policy.gap) / 10 * 9;
            // What it knows of the seat may be a look old.
            if (2 * FRESH..least).contains(&apart) && !crashed && !led_last && !led {
                return wrong(format!("the last election was {} ms ago", apart / 1_000_000));
            }
        }
        // By what stands there, and by its own wall clock, however that was set.
        if let (Some(last), Some(taken)) = (&seat.last, seat.taken)
            && self.begun.contains_key(&last.epoch.number)
        {
            let its = self.nodes.iter().find(|node| node.id == Some(last.node));
            // It has lost what it began, or an operator wants another one; or had not begun it when it
            // was asked, which may be a little ago.
            let told = others.iter().find(|other| other.node() == last.node).cloned();
            let excused = its
                .and_then(Node::standing)
                .into_iter()
                .chain(told)
                .any(|its| its.report.durable.epoch.number < seat.number || !its.may_lead);
            let since = self.nodes[who].sim.now() - taken;
            let least = i64::try_from(nanos(policy.gap) / 10 * 9).unwrap_or(i64::MAX);
            if (0..least).contains(&since) && last.node != own.node() && !crashed && !excused {
                return wrong(format!("the last one took it {} ms ago", since / 1_000_000));
            }
        }
        // By what happened, whatever the coordinator knows.
        let led_last = match self.watch.lied {
            Some(_) => led_last,
            None => led,
        };
        let degraded = match &self.seats {
            Seats::Cluster(cluster) => cluster.seat().degraded.is_some(),
            _ => seat.degraded.is_some(),
        };
        let lesser = self.lesser.is_some_and(|at| at.number == seat.number);
        if lesser && !degraded && self.watch.lied.is_none() && !led_last {
            return wrong("nobody can see there that the last leader acknowledged less".into());
        }
        let loses = match own.mode() {
            Mode::Async => true,
            Mode::Semi { .. } => lesser,
            _ => false,
        } && !led_last;
        let best = self.reached(who).filter_map(|other| self.nodes[other].end());
        let best = best.chain(self.nodes[who].end()).max().unwrap_or(0);
        let lost = known.saturating_sub(best);
        match policy.max_loss {
            _ if !loses => {}
            Some(most) if lost <= most => {}
            // Somebody who was further was there when it asked.
            Some(_) if self.stirred_lately() => {}
            most => {
                return wrong(format!("{lost} records are known to be lost; allowed are {most:?}"));
            }
        }
        if crashed || self.stirred_lately() {
            return Ok(());
        }
        let patience = nanos(policy.patience) / 10 * 9;
        let hears = |other: usize| {
            let heard = self.nodes[other].heard.iter();
            // Who promised a candidate pulls from it: that is no leader.
            self.nodes[other].at.get() != Some(net::address(who))
                && heard.rev().any(|at| *at + FRESH <= self.time && self.time < at + patience)
        };
        match self.reached(who).find(|other| hears(*other)) {
            Some(other) => wrong(format!("node {other}, which it reaches, hears the leader")),
            None => Ok(()),
        }
    }

    /// The nodes that a node reaches, and that reach it.
    fn reached(&self, who: usize) -> impl Iterator<Item = usize> {
        let net = self.net();
        let there = |other: &usize| {
            *other != who
                && net.desks[*other].is_some()
                && !net.cut[who][*other]
                && !net.cut[*other][who]
        };
        let reached: Vec<usize> = (0..self.nodes.len()).filter(there).collect();
        reached.into_iter()
    }

    fn stirred_lately(&self) -> bool {
        self.net().per_mille > 0 || self.time < self.watch.stirred + 2 * FRESH
    }

    /// Under modes that a lease decides nobody acknowledges anything once another one has begun.
    pub fn check_lease(
        &mut self,
        who: usize,
        epoch: tidelog::Epoch,
        mode: Mode,
        degraded: bool,
    ) -> Done {
        let decides = match mode {
            Mode::Async | Mode::Bounded { .. } => true,
            Mode::Semi { .. } => degraded,
            Mode::Sync { .. } | Mode::Archive => false,
        };
        if degraded && matches!(mode, Mode::Semi { .. }) {
            self.lesser = Some(epoch);
        }
        if !decides || !self.has_coordinator() || self.lied_lately() {
            return Ok(());
        }
        match self.begun.last_key_value() {
            Some((number, by)) if *number > epoch.number && *by != who => Err(format!(
                "node {who} acknowledges by epoch {} under {mode}, and node {by} leads epoch {number}",
                epoch.number
            )),
            _ => Ok(()),
        }
    }
}
