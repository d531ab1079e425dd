//! Scenarios of failover that a random run seldom meets, step by step on the simulated cluster.

use std::time::Duration;

use tidelog::frame::Mode;
use tidelog::replica::Level;

use crate::dice::Dice;

use super::node::{DIR, Role};
use super::op::{Says, Setup};
use super::{World, net};

fn world(nodes: usize, k: u32, seed: u64) -> World {
    World::new(calm(nodes, k), seed, false).unwrap()
}

/// Operators alone, and nothing that goes wrong by itself.
pub fn calm(nodes: usize, k: u32) -> Setup {
    Setup {
        says: Says::Operators,
        ttl: Duration::from_secs(3),
        gap: Duration::ZERO,
        max_loss: None,
        never_lead: 0,
        archive: false,
        shaky_store: 0,
        nodes,
        k,
        strict: true,
        bad_weather: 0,
        value_bytes: 40,
        drift: 0,
        retains: false,
    }
}

impl World {
    /// A client's batch, at a node that leads; it is waited for there.
    fn sends(&mut self, who: usize, client: u64) -> usize {
        let mut dice = self.dice.clone();
        let number = self.book.send(client, &mut dice, 40);
        self.append_at(who, number, None).unwrap();
        number
    }

    /// Followers copy, and the leader answers at once.
    fn settles(&mut self, who: usize) {
        self.rounds(4).unwrap();
        let mut dice = self.dice.clone();
        self.look(who, &mut dice).unwrap();
        self.deliver(true).unwrap();
        self.watch().unwrap();
    }

    /// An operator promotes a node; whether it leads then.
    fn promoted(&mut self, who: usize) -> bool {
        let nonce = self.dice.next();
        self.promote(who, nonce).unwrap();
        let mut dice = Dice::new(nonce);
        for _ in 0..40 {
            self.campaign(who, &mut dice).unwrap();
        }
        if self.leads(who) {
            for other in (0..self.nodes.len()).filter(|other| *other != who) {
                self.nodes[other].at.set(Some(net::address(who)));
            }
        }
        self.watch().unwrap();
        self.leads(who)
    }

    fn leads(&self, who: usize) -> bool {
        matches!(self.nodes[who].role, Role::Leads(_))
    }

    fn is_kept(&self, number: usize) -> bool {
        self.book.sent[number].kept
    }

    fn isolate(&mut self, who: usize) {
        let nodes = self.nodes.len();
        let mut net = self.net();
        (0..nodes).for_each(|to| (net.cut[who][to], net.cut[to][who]) = (true, true));
    }
}

#[test]
fn two_operators_promote_two_followers_and_at_most_one_gets_a_commit() {
    for seed in 0..60 {
        let mut world = world(3, 1, seed);
        let kept = world.sends(0, 0);
        world.settles(0);
        assert!(world.is_kept(kept));
        // One says, wrongly, that the old leader is stopped.
        let mut dice = Dice::new(seed);
        world.promote(1, dice.next()).unwrap();
        world.promote(2, dice.next()).unwrap();
        for _ in 0..60 {
            let who = 1 + usize::from(dice.chance(1, 2));
            world.campaign(who, &mut dice).unwrap();
            world.watch().unwrap();
        }
        let mut commits = 0;
        for who in 1..3 {
            if world.leads(who) {
                let number = world.sends(who, 1);
                world.nodes[3 - who].at.set(Some(net::address(who)));
                world.settles(who);
                commits += usize::from(world.is_kept(number));
            }
        }
        assert!(commits <= 1, "seed {seed}");
        world.finish().unwrap();
    }
}

#[test]
fn a_leader_that_was_replaced_unheard_acknowledges_nothing_more() {
    let mut world = world(3, 1, 1);
    world.isolate(0);
    let lost = world.sends(0, 0);
    assert!(world.promoted(1));
    // It comes back as it was, and followers are asked by both.
    world.net().heal();
    world.settles(0);
    assert!(!world.is_kept(lost));
    let kept = world.sends(1, 1);
    world.settles(1);
    assert!(world.is_kept(kept));
    world.finish().unwrap();
}

#[test]
fn an_answer_that_left_before_a_failover_is_true_behind_it() {
    let mut world = world(3, 1, 2);
    let mut seed = 0;
    // Until one answer is held up.
    while world.held_up.is_empty() {
        seed += 1;
        world.sends(0, seed);
        world.rounds(4).unwrap();
        world.look(0, &mut Dice::new(seed)).unwrap();
    }
    world.nodes[0].kill();
    assert!(world.promoted(2));
    world.deliver(true).unwrap();
    world.check_log(2).unwrap();
    world.finish().unwrap();
}

#[test]
fn two_fast_failovers_there_and_back_keep_everything_and_its_tokens() {
    let mut world = world(3, 1, 3);
    let first = world.sends(0, 0);
    world.settles(0);
    assert!(world.promoted(1));
    // What led before copies its successor's log.
    world.step_down(0).unwrap();
    world.nodes[0].at.set(Some(net::address(1)));
    let second = world.sends(1, 1);
    world.settles(1);
    let second_again = world.is_kept(second) || {
        // Its start was not committed yet: nothing was appended.
        world.append_at(1, second, None).unwrap();
        world.settles(1);
        world.is_kept(second)
    };
    assert!(world.is_kept(first) && second_again);
    assert!(world.promoted(0));
    world.step_down(1).unwrap();
    world.nodes[1].at.set(Some(net::address(0)));
    world.settles(0);
    world.check_log(0).unwrap();
    for which in 0..world.tokens.len() as u64 {
        (0..3).for_each(|who| world.check_token(who, which).unwrap());
    }
    assert!(!world.stats.counts.contains_key("tokens_not_in_history"));
    world.finish().unwrap();
}

#[test]
fn an_emptied_member_is_another_node_and_its_promise_counts_for_nothing() {
    let mut world = world(3, 1, 4);
    let kept = world.sends(0, 0);
    // On the leader and on node 2 alone.
    world.isolate(1);
    world.settles(0);
    assert!(world.is_kept(kept));
    world.net().heal();
    world.nodes[0].kill();
    world.nodes[2].replace(99);
    world.nodes[2].at.set(Some(net::address(1)));
    world.start(2).unwrap();
    assert!(!world.promoted(1), "by the promise of a node that was never a member");
    world.give_up(1);
    assert!(!world.promoted(2), "it is no member");
    world.start(0).unwrap();
    world.finish().unwrap();
}

#[test]
fn a_member_that_lost_its_tail_neither_leads_nor_is_counted() {
    let mut world = world(3, 1, 5);
    for client in 0..4 {
        world.sends(0, client);
        world.settles(0);
    }
    world.close(2).unwrap();
    let sim = world.nodes[2].sim.clone();
    let segments = std::path::Path::new(DIR).join("segments");
    let newest = sim.paths().into_iter().rfind(|path| path.starts_with(&segments)).unwrap();
    let last = sim.read(&newest).iter().rposition(|byte| *byte != 0).unwrap() as u64;
    sim.flip(&newest, (last - 20) * 8);
    world.nodes[0].kill();
    world.start(2).unwrap();
    assert!(!world.promoted(2), "it lost what it had acknowledged");
    assert!(!world.promoted(1), "by the promise of one that lost what it had acknowledged");
    world.give_up(1);
    world.start(0).unwrap();
    world.finish().unwrap();
}

#[test]
fn a_retry_at_the_next_leader_is_there_once() {
    let mut world = world(3, 1, 6);
    let number = world.sends(0, 0);
    world.rounds(2).unwrap();
    // Committed, and the client was not told.
    world.nodes[0].kill();
    assert!(world.promoted(1));
    world.settles(1);
    world.append_at(1, number, Some(Level::Replicated(1))).unwrap();
    world.settles(1);
    assert!(world.is_kept(number));
    assert_eq!(world.stats.counts.get("retries_found"), Some(&1));
    world.finish().unwrap();
}

/// A candidate whose own tail is no part of the history of whom it asked held the way for nothing: it tried to fetch
/// what it could not take, until it gave up.
#[test]
fn a_candidate_whose_tail_is_another_history_lets_the_furthest_lead() {
    let mut world = world(3, 1, 7);
    world.isolate(0);
    world.sends(0, 0);
    assert!(world.promoted(1));
    world.settles(1);
    world.net().heal();
    // It comes back, and has not heard of anybody yet.
    world.close(0).unwrap();
    world.nodes[0].at.set(None);
    world.start(0).unwrap();
    world.nodes[1].kill();
    assert!(!world.promoted(0));
    assert_eq!(world.stats.counts.get("promotions_handed_on"), Some(&1));
    let mut dice = Dice::new(7);
    for _ in 0..20 {
        world.campaign(2, &mut dice).unwrap();
    }
    assert!(world.leads(2), "the furthest");
    world.finish().unwrap();
}

/// Found by the simulation (seed 5270): who had another history let the furthest lead, which was no member, and might
/// not; both took the seat in turn, and a member that had everything never got it.
#[test]
fn who_has_another_history_lets_the_furthest_member_lead() {
    for seed in 0..8 {
        let mut world = world(3, 1, seed);
        let members = [0, 1].map(|who| world.nodes[who].id.unwrap()).to_vec();
        world.set(0, Mode::Sync { k: 1 }, members).unwrap();
        world.settles(0);
        world.isolate(0);
        world.sends(0, 0);
        assert!(world.promoted(1));
        world.settles(1);
        world.net().heal();
        // Both come back, and have not heard of anybody yet; the third one has all that the second has.
        for who in [0, 1] {
            world.close(who).unwrap();
            world.nodes[who].at.set(None);
            world.start(who).unwrap();
        }
        assert!(!world.promoted(0));
        let mut dice = Dice::new(seed);
        for _ in 0..20 {
            world.campaign(1, &mut dice).unwrap();
        }
        assert!(world.leads(1), "the member, seed {seed}");
        world.finish().unwrap();
    }
}

/// It knows the set before, by which nobody asks anybody: it led without a word to those who acknowledged.
#[test]
fn a_node_that_is_added_behind_a_set_that_asks_nobody_is_waited_for() {
    let mut world = World::new(Setup { strict: false, ..calm(3, 1) }, 8, false).unwrap();
    let id = |world: &World, who: usize| world.nodes[who].id.unwrap();
    let two = vec![id(&world, 0), id(&world, 1)];
    world.set(0, Mode::Async, two.clone()).unwrap();
    world.settles(0);
    world.isolate(2);
    let three = two.into_iter().chain([id(&world, 2)]).collect();
    world.set(0, Mode::Sync { k: 1 }, three).unwrap();
    let number = world.sends(0, 0);
    world.settles(0);
    assert!(!world.is_kept(number), "node 2 does not know by whom it is to ask");
    assert!(world.promoted(2), "nobody is asked by the set that it knows");
    world.check_log(2).unwrap();
    world.net().heal();
    world.finish().unwrap();
}
