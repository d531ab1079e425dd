//! The end of a run: everything heals, and then somebody must lead and everybody must get on.

use std::time::Duration;

use tidelog::frame::Mode;
use tidelog::replica::Level;
use tidelog::table::Digest;
use tidelog::{Id, Table};

use super::super::check::{Alike, hold_files};
use super::super::world::{Done, World as Fixed};
use super::World;
use super::net;
use super::node::{DIR, Role};

/// Rounds in which somebody must lead and everybody have everything.
const ROUNDS: u64 = 120;
/// A leader whose start is not committed by then is not waited for any longer.
const SLOW: u64 = 20;
/// With a coordinator somebody is elected by then.
const ELECTED: u64 = 60;
/// Operators give up what only the archive holds from then on, where a mode may lose it.
const GIVEN_UP: u64 = 90;
/// Steps of one candidate.
const STEPS: usize = 60;

impl World {
    /// Heals everything, waits, and compares.
    pub fn finish(&mut self) -> Done {
        self.heals = true;
        self.heal_disks();
        self.heal_seats();
        // Elections lie apart.
        self.wait(self.setup.gap);
        {
            let mut net = self.net();
            net.per_mille = 0;
            net.heal();
        }
        self.watch.stirred = self.time;
        self.deliver(true)?;
        for who in 0..self.nodes.len() {
            if matches!(self.nodes[who].role, Role::Asks(..)) {
                self.give_up(who);
            }
        }
        let first = self.step;
        let (mut sent, mut waited) = (None, 0);
        for round in 0..ROUNDS {
            self.step = first + round;
            self.wait(Duration::from_millis(400));
            let mut dice = self.dice.clone();
            for who in 0..self.nodes.len() {
                self.tend(who, &mut dice)?;
                self.campaigns(who, &mut dice)?;
            }
            let Some(top) = self.one_leads(round)? else { continue };
            for who in 0..self.nodes.len() {
                if who != top {
                    self.nodes[who].at.set(Some(net::address(top)));
                }
                self.follow(who)?;
                self.follow(who)?;
            }
            self.look(top, &mut dice)?;
            let archived = self.is_archived(top)?;
            self.deliver(true)?;
            self.watch()?;
            if self.is_passed(top) {
                self.stats.add("passed_by_a_promise", 1);
                self.step_down(top)?;
                continue;
            }
            let Role::Leads(led) = &self.nodes[top].role else { continue };
            let standing = led.leader.standing();
            if !standing.started || standing.changing {
                waited += 1;
                if waited > SLOW && !standing.started {
                    waited = 0;
                    // Its own node has the longest log of those that are left.
                    self.step_down(top)?;
                }
                continue;
            }
            let nodes: Vec<Id> = self.nodes.iter().filter_map(|node| node.id).collect();
            if standing.mode.k() == 0
                || standing.members.len() != nodes.len()
                || nodes.iter().any(|id| !standing.members.contains(id))
            {
                self.set(top, Mode::Sync { k: 1 }, nodes)?;
                continue;
            }
            if sent.is_none_or(|number: usize| self.book.sent[number].open) {
                sent = Some(self.send_one(top, sent)?);
                continue;
            }
            if archived && self.is_calm(top) {
                return self.all_alike(top);
            }
        }
        Err(format!("after {ROUNDS} rounds without trouble: {}", self.standing()))
    }

    /// Who leads by the newest epoch; others step down, and if there is nobody, somebody is promoted.
    fn one_leads(&mut self, round: u64) -> Result<Option<usize>, String> {
        let top = self.newest_leader();
        if let Some(top) = top {
            for who in 0..self.nodes.len() {
                if who != top && matches!(self.nodes[who].role, Role::Leads(_)) {
                    self.step_down(who)?;
                }
            }
            return Ok(Some(top));
        }
        if self.has_coordinator() && round < ELECTED {
            return Ok(None);
        }
        if self.elects_surely() && round == ELECTED {
            return Err(format!("in {ELECTED} rounds nobody was elected: {}", self.standing()));
        }
        self.stats.add("operators_needed", 1);
        // First without.
        self.gives_up = !self.setup.strict && round >= GIVEN_UP;
        let place = |who: &usize| match &self.nodes[*who].role {
            Role::Follows(follower) => {
                let at = follower.position();
                Some((at.epoch, at.log_byte))
            }
            _ => None,
        };
        let mut order: Vec<usize> =
            (0..self.nodes.len()).filter(|who| place(who).is_some()).collect();
        order.sort_by_key(place);
        if order.is_empty() {
            return Ok(None);
        }
        // The furthest first; another if that one cannot.
        let back = usize::try_from(round).expect("few") / 2 % order.len();
        let who = order[order.len() - 1 - back];
        let mut dice = crate::dice::Dice::new(self.dice.next());
        self.promote(who, dice.next())?;
        self.campaigns(who, &mut dice)?;
        Ok(None)
    }

    /// A candidate goes on until it leads or gives up.
    fn campaigns(&mut self, who: usize, dice: &mut crate::dice::Dice) -> Done {
        for _ in 0..STEPS {
            if !matches!(self.nodes[who].role, Role::Asks(..)) {
                return Ok(());
            }
            self.campaign(who, dice)?;
        }
        if matches!(self.nodes[who].role, Role::Asks(..)) {
            self.give_up(who);
        }
        Ok(())
    }

    /// Whether somebody must be elected without an operator.
    fn elects_surely(&self) -> bool {
        self.setup.strict && self.setup.never_lead == 0
    }

    /// Whether some node is bound to another epoch that is no earlier one, that of a candidate which gave up:
    /// it follows only who leads by a later one, and an operator must promote somebody.
    fn is_passed(&self, top: usize) -> bool {
        let Role::Leads(led) = &self.nodes[top].role else { return false };
        let bound = self.nodes.iter().filter_map(|node| node.promised());
        bound.into_iter().any(|(epoch, _)| epoch.number >= led.epoch.number && epoch != led.epoch)
    }

    /// Sends one more batch, or that one again.
    fn send_one(&mut self, top: usize, sent: Option<usize>) -> Result<usize, String> {
        let number = match sent {
            Some(number) => number,
            None => {
                let mut dice = self.dice.clone();
                self.book.send(9, &mut dice, 100)
            }
        };
        self.append_at(top, number, Some(Level::Replicated(1)))?;
        Ok(number)
    }

    /// Whether everybody has everything.
    fn is_calm(&self, top: usize) -> bool {
        let Role::Leads(led) = &self.nodes[top].role else { return false };
        let end = led.log.durable_end();
        // A frame without records may come last: the end of a spell.
        let byte = led.log.durable_position().log_byte;
        let others = self.nodes.iter().filter(|node| node.number() != top);
        led.log.end() == end
            && others.into_iter().all(|node| match &node.role {
                Role::Follows(follower) => {
                    let applied = follower.table().applied().is_none_or(|at| at.offset == end);
                    let there = (follower.position().log_byte, follower.end());
                    there == (byte, end) && follower.log().end() == end && applied
                }
                _ => false,
            })
    }

    fn standing(&self) -> String {
        let nodes = self.nodes.iter().map(|node| {
            let role = match &node.role {
                Role::Down => "down".to_owned(),
                Role::Follows(follower) => {
                    format!("follows {:?} from {}", node.at.get(), follower.position().log_byte)
                }
                Role::Asks(..) => "asks".to_owned(),
                Role::Leads(led) => {
                    let fenced = led.leader.fenced().is_some();
                    format!("leads {} (fenced: {fenced}): {:?}", led.epoch, led.leader.standing())
                }
            };
            format!("{} {role}, diverged: {}", node.number(), node.diverged)
        });
        nodes.collect::<Vec<_>>().join("; ")
    }

    /// Of the table of a leader, as its log makes it anew, or as it kept it when it dropped a part of that.
    pub fn digest(&self, top: usize) -> Result<Digest, String> {
        let Role::Leads(led) = &self.nodes[top].role else { return Err("nobody leads".into()) };
        let table = match led.log.start().0 {
            0 => Table::from_log(&led.log),
            _ => Fixed::rows().open(&led.log),
        };
        table.and_then(|table| table.digest()).map_err(|e| format!("the leader's table: {e}"))
    }

    fn all_alike(&mut self, top: usize) -> Done {
        let reading = self.read_log(top)?;
        self.check_kept(&reading)?;
        self.check_fresh(top)?;
        let Role::Leads(led) = &self.nodes[top].role else { return Ok(()) };
        let end = led.log.durable_position().log_byte.0;
        let expected = self.digest(top)?;
        let mut compared = 0;
        for node in &self.nodes {
            let Role::Follows(follower) = &node.role else { continue };
            let who = node.number();
            compared +=
                hold_files((&node.sim, DIR), (&self.nodes[top].sim, DIR), end, &mut Alike::new())
                    .map_err(|e| format!("node {who}: {e}"))?;
            let found = follower.table().digest().map_err(|e| format!("node {who}: {e}"))?;
            if found != expected {
                return Err(format!("node {who}: another digest than the leader's"));
            }
        }
        let records = led.log.durable_end().0;
        for (offset, shown) in self.shown.range(led.log.start().0..) {
            let found =
                led.log.get(tidelog::Offset(*offset)).map_err(|e| format!("{offset}: {e}"))?;
            if found.as_ref().map(|entry| entry.timestamp) != Some(*shown) {
                return Err(format!("batch {} was shown at {offset}, and is lost", shown / 16));
            }
        }
        self.stats.add("segments_compared", compared);
        self.stats.add("records_at_end", records);
        self.stats.state = self
            .nodes
            .iter()
            .fold(0, |sum: u128, node| sum.rotate_left(7) ^ node.sim.durable_hash());
        Ok(())
    }
}
