//! Scenarios of failover with a coordinator and an archive, step by step on the simulated cluster. Which number
//! of the design's list each one is stands in docs/TESTING.md.

use std::time::Duration;

use tidelog::frame::Mode;
use tidelog::replica::Level;

use crate::dice::Dice;

use super::node::Role;
use super::op::{Says, Setup};
use super::post::{Seats, client};
use super::scenarios::calm;
use super::{World, net};

const LEASE: u64 = 3;

fn elects(nodes: usize, k: u32) -> Setup {
    Setup { says: Says::Coordinator, ttl: Duration::from_secs(LEASE), ..calm(nodes, k) }
}

fn world(setup: Setup, seed: u64) -> World {
    World::new(setup, seed, false).unwrap()
}

impl World {
    /// Everybody does what he does, for so long.
    fn lives(&mut self, seconds: u64) {
        self.lives_but(seconds, None);
    }

    /// The same while one of them stands still, as a stopped process does.
    fn lives_but(&mut self, seconds: u64, still: Option<usize>) {
        for _ in 0..seconds * 10 {
            self.wait(Duration::from_millis(100));
            for who in (0..self.nodes.len()).filter(|who| Some(*who) != still) {
                let mut dice = Dice::new(self.dice.next());
                self.tend(who, &mut dice).unwrap();
                for _ in 0..8 {
                    self.campaign(who, &mut dice).unwrap();
                }
                self.follow(who).unwrap();
                self.publish(who, false).unwrap();
                self.answers(who);
            }
        }
    }

    /// A leader answers whom it can.
    fn answers(&mut self, who: usize) {
        let mut dice = Dice::new(self.dice.next());
        self.look(who, &mut dice).unwrap();
        self.deliver(true).unwrap();
        self.watch().unwrap();
    }

    fn leader(&self) -> Option<usize> {
        self.newest_leader()
    }

    fn says(&self, who: usize) -> bool {
        matches!(self.nodes[who].role, Role::Leads(_))
    }

    fn count(&self, what: &str) -> u64 {
        self.stats.counts.get(what).copied().unwrap_or(0)
    }

    /// A node reaches no other node.
    fn alone(&mut self, who: usize) {
        self.parts(&[who]);
    }

    /// Nobody of these reaches one of the others.
    fn parts(&mut self, here: &[usize]) {
        let nodes = self.nodes.len();
        let mut net = self.net();
        for a in 0..nodes {
            for b in 0..nodes {
                net.cut[a][b] |= here.contains(&a) != here.contains(&b);
            }
        }
    }

    fn coordinator(&mut self, who: usize, reached: bool) {
        let Seats::Cluster(cluster) = &self.seats else { panic!("no such coordinator") };
        cluster.cut(client(who), !reached);
    }

    /// A client's batch at a node; what became of it at once is not looked at.
    fn asks(&mut self, who: usize, client: u64, level: Option<Level>) -> usize {
        let mut dice = Dice::new(self.dice.next());
        let number = self.book.send(client, &mut dice, 40);
        self.append_at(who, number, level).unwrap();
        number
    }

    fn is_acked(&self, number: usize) -> bool {
        self.book.sent[number].acked.is_some()
    }

    fn kept_for_good(&self, number: usize) -> bool {
        self.book.sent[number].kept
    }

    fn rules(&mut self, who: usize, mode: Mode) {
        let members = self.nodes.iter().filter_map(|node| node.id).collect();
        self.set(who, mode, members).unwrap();
    }

    fn degrades(&self, who: usize) -> bool {
        match &self.nodes[who].role {
            Role::Leads(led) => led.leader.standing().degraded.is_some(),
            _ => false,
        }
    }
}

#[test]
fn a_leader_that_is_cut_from_its_followers_and_holds_its_seat_blocks_and_loses_nothing() {
    let mut world = world(elects(3, 1), 1);
    world.alone(0);
    let number = world.asks(0, 0, None);
    world.lives(4 * LEASE);
    assert!(world.says(0) && !world.is_acked(number));
    assert_eq!(world.count("elections_won"), 0, "the seat is held");
    world.net().heal();
    world.lives(2);
    assert!(world.kept_for_good(number));
    world.finish().unwrap();
}

#[test]
fn a_leader_that_its_followers_hear_goes_on_without_the_coordinator_under_sync_alone() {
    let mut strict = world(elects(3, 1), 2);
    strict.lives(2);
    strict.coordinator(0, false);
    strict.lives(3 * LEASE);
    // Its lease is over, and those who hear it do not take its place.
    let number = strict.asks(0, 0, None);
    strict.lives(1);
    assert!(strict.kept_for_good(number));
    assert_eq!(strict.count("elections_won"), 0);
    strict.finish().unwrap();

    let mut lax = world(Setup { strict: false, ..elects(3, 1) }, 2);
    lax.rules(0, Mode::Async);
    lax.lives(2);
    let before = lax.asks(0, 0, None);
    lax.lives(1);
    assert!(lax.is_acked(before));
    lax.coordinator(0, false);
    lax.lives(3 * LEASE);
    let after = lax.asks(0, 1, None);
    lax.lives(1);
    assert!(!lax.is_acked(after), "another node may lead");
    lax.finish().unwrap();
}

#[test]
fn ten_minutes_without_the_coordinator_stop_nothing_under_sync_and_lose_nothing() {
    let mut world = world(elects(3, 1), 3);
    (0..3).for_each(|who| world.coordinator(who, false));
    for minute in 0..10 {
        world.lives_slowly(60);
        let number = world.asks(0, minute % 4, None);
        world.lives(1);
        assert!(world.kept_for_good(number), "minute {minute}");
    }
    assert!(world.says(0));
    world.heal_seats();
    // Its seat is free by now; it, or another one, takes it.
    world.lives(15);
    let leader = world.leader().expect("somebody leads");
    let number = world.asks(leader, 9, None);
    world.lives(2);
    assert!(world.kept_for_good(number));
    world.finish().unwrap();
}

impl World {
    /// The same with longer breaths: for long times in which little happens.
    fn lives_slowly(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.wait(Duration::from_millis(900));
            self.lives_briefly();
        }
    }

    fn lives_briefly(&mut self) {
        self.wait(Duration::from_millis(100));
        for who in 0..self.nodes.len() {
            let mut dice = Dice::new(self.dice.next());
            self.tend(who, &mut dice).unwrap();
            for _ in 0..8 {
                self.campaign(who, &mut dice).unwrap();
            }
            self.follow(who).unwrap();
            self.answers(who);
        }
    }
}

#[test]
fn a_link_that_works_one_way_commits_nothing_that_is_not_there() {
    for to_leader in [false, true] {
        let mut world = world(elects(3, 2), 4);
        {
            let mut net = world.net();
            let (a, b) = if to_leader { (1, 0) } else { (0, 1) };
            net.cut[a][b] = true;
        }
        let number = world.asks(0, 0, None);
        world.lives(2 * LEASE);
        assert!(!world.is_acked(number), "node 1 is not known to hold it");
        world.net().heal();
        world.lives(2);
        assert!(world.kept_for_good(number));
        world.finish().unwrap();
    }
}

#[test]
fn a_minority_that_holds_the_old_leader_acknowledges_nothing_and_the_others_go_on() {
    let mut world = world(elects(5, 2), 5);
    let before = world.asks(0, 0, None);
    world.lives(1);
    assert!(world.kept_for_good(before));
    world.parts(&[0, 1]);
    world.coordinator(0, false);
    world.coordinator(1, false);
    let lost = world.asks(0, 1, None);
    world.lives(4 * LEASE);
    let leader = world.leader().filter(|who| *who > 1).expect("one of the majority leads");
    assert!(world.says(0), "nobody could tell it");
    let there = world.asks(leader, 2, None);
    world.lives(2);
    assert!(world.kept_for_good(there) && !world.is_acked(lost));
    world.net().heal();
    world.finish().unwrap();
}

#[test]
fn a_leader_that_slept_for_three_leases_acknowledges_nothing_when_it_wakes() {
    let mut world = world(Setup { strict: false, max_loss: Some(1_000), ..elects(3, 1) }, 6);
    world.rules(0, Mode::Async);
    world.lives(2);
    let number = world.asks(0, 0, None);
    // Counted, and not answered: suspended, its clock that counts sleep goes on.
    world.alone(0);
    world.lives_but(3 * LEASE, Some(0));
    assert!(world.leader().is_some_and(|who| who != 0), "another one was elected");
    world.net().heal();
    world.answers(0);
    assert!(!world.is_acked(number));
    world.finish().unwrap();
}

#[test]
fn clocks_that_run_five_per_cent_apart_leave_no_moment_with_two_leaders() {
    for seed in 0..8 {
        let mut world = world(Setup { strict: false, max_loss: Some(1_000), ..elects(3, 1) }, seed);
        world.rules(0, Mode::Async);
        world.lives(2);
        // The leader's lease seems long to it, and is short to the coordinator.
        (world.nodes[0].rate, world.seats_rate) = (950, 1050);
        world.alone(0);
        world.coordinator(0, false);
        let mut client = 0;
        while world.leader().is_none_or(|who| who == 0) {
            // What it acknowledges while another one leads is found by `check_lease`.
            client += 1;
            world.asks(0, client % 4, None);
            world.answers(0);
            world.step += 1;
            world.wait(Duration::from_millis(20));
            for who in 1..3 {
                let mut dice = Dice::new(world.dice.next());
                world.tend(who, &mut dice).unwrap();
                (0..8).for_each(|_| world.campaign(who, &mut dice).unwrap());
            }
            assert!(client < 2_000, "nobody was elected");
        }
        world.asks(0, 9, None);
        world.answers(0);
        world.net().heal();
        world.finish().unwrap();
    }
}

#[test]
fn a_fence_that_loses_to_the_old_leaders_last_entry_takes_that_over() {
    let mut world = world(Setup { archive: true, ..elects(3, 1) }, 7);
    world.rules(0, Mode::Archive);
    world.lives(2);
    world.alone(0);
    world.coordinator(0, false);
    // Only the old leader and the archive will ever hold it.
    let last = world.asks(0, 0, None);
    let mut next = None;
    for _ in 0..20 * LEASE {
        world.wait(Duration::from_millis(100));
        for who in 1..3 {
            let mut dice = Dice::new(world.dice.next());
            world.tend(who, &mut dice).unwrap();
            if matches!(world.nodes[who].role, Role::Asks(..)) && next.is_none() {
                // It has won, and has no fence yet.
                next = Some(who);
                world.publish(0, false).unwrap();
                world.answers(0);
                assert!(world.kept_for_good(last), "nobody has told it, and the archive takes it");
            }
            (0..8).for_each(|_| world.campaign(who, &mut dice).unwrap());
        }
    }
    let next = world.leader().expect("somebody leads");
    assert_ne!(next, 0);
    // And behind the fence nothing of the old leader gets in.
    let late = world.asks(0, 1, None);
    world.publish(0, false).unwrap();
    world.answers(0);
    assert!(!world.is_acked(late));
    assert!(world.count("publishers_fenced") > 0);
    world.net().heal();
    world.finish().unwrap();
}

#[test]
fn a_spell_that_begins_while_others_elect_is_registered_or_nothing_lesser_is_acknowledged() {
    for registered in [true, false] {
        let mut world = world(Setup { strict: false, ..elects(3, 1) }, 8);
        world.rules(0, Mode::Semi { k: 1, timeout: Duration::from_millis(500) });
        world.lives(2);
        world.alone(0);
        world.coordinator(0, registered);
        let number = world.asks(0, 0, None);
        world.lives(2);
        assert_eq!(world.is_acked(number), registered, "it says `durable` only behind the mark");
        assert_eq!(world.degrades(0), registered);
        world.nodes[0].kill();
        // Whoever would lead now knows what may be lost, and must not by itself.
        for _ in 0..4 * LEASE * 10 {
            world.wait(Duration::from_millis(100));
            for who in 1..3 {
                let mut dice = Dice::new(world.dice.next());
                world.tend(who, &mut dice).unwrap();
                (0..8).for_each(|_| world.campaign(who, &mut dice).unwrap());
                world.follow(who).unwrap();
            }
        }
        let led = world.leader().is_some();
        assert_eq!(led, !registered, "an election loses nothing that was acknowledged");
        world.finish().unwrap();
    }
}

#[test]
fn a_link_that_flaps_for_an_hour_changes_the_leader_once_in_a_gap_at_most() {
    let gap = Duration::from_secs(600);
    let mut world = world(Setup { gap, ..elects(3, 1) }, 9);
    let mut dice = Dice::new(9);
    for second in 0..3_600 / 15 {
        let who = world.leader().unwrap_or(0);
        match second % 2 {
            0 => {
                world.alone(who);
                world.coordinator(who, false);
            }
            _ => {
                world.net().heal();
                (0..3).for_each(|who| world.coordinator(who, true));
            }
        }
        world.watch.stirred = world.time;
        world.lives_slowly(10 + dice.below(10));
    }
    let leaders: Vec<usize> = world.begun.values().copied().collect();
    let changes = leaders.windows(2).filter(|two| two[0] != two[1]).count() as u64;
    assert!(changes <= 1 + world.time / 600_000_000_000, "{changes} changes: {leaders:?}");
    world.heal_seats();
    world.finish().unwrap();
}

#[test]
fn a_coordinator_that_is_what_it_was_yesterday_hands_out_nothing_old() {
    let mut world = world(elects(3, 1), 10);
    let Seats::Cluster(cluster) = world.seats.clone() else { unreachable!() };
    let yesterday = cluster.back_up();
    for round in 0..3 {
        let leader = world.leader().expect("somebody leads");
        let number = world.asks(leader, round, None);
        world.lives(2);
        assert!(world.kept_for_good(number));
        world.nodes[leader].kill();
        world.lives_but(3 * LEASE, Some(leader));
    }
    let number = *world.begun.last_key_value().expect("failovers").0;
    assert!(number >= 4, "there were failovers");
    cluster.restore(&yesterday, Duration::from_secs(LEASE));
    world.watch.lied(world.time);
    // The leader's seat is not there: it steps down, and one is elected by a number that nobody has seen.
    world.lives(5 * LEASE);
    let leader = world.leader().expect("no dead end");
    assert!(*world.begun.last_key_value().expect("failovers").0 > number);
    let last = world.asks(leader, 9, None);
    world.lives(2);
    assert!(world.kept_for_good(last));
    world.finish().unwrap();
}

#[test]
fn leases_that_are_revoked_again_and_again_lose_nothing_and_somebody_leads() {
    let mut world = world(elects(3, 1), 11);
    let Seats::Cluster(cluster) = world.seats.clone() else { unreachable!() };
    let mut sent = Vec::new();
    for round in 0..12 {
        cluster.revoke();
        world.watch.lied(world.time);
        world.lives(LEASE);
        if let Some(leader) = world.leader() {
            sent.push(world.asks(leader, round % 4, None));
        }
        world.lives(LEASE);
    }
    assert!(sent.iter().any(|number| world.kept_for_good(*number)));
    world.finish().unwrap();
}

#[test]
fn paused_elections_wait_until_they_are_let_go_on() {
    let mut world = world(elects(3, 1), 12);
    world.pause(1, true);
    world.lives(2);
    world.nodes[0].kill();
    world.lives_but(5 * LEASE, Some(0));
    assert_eq!(world.leader(), None);
    world.pause(2, false);
    // Somebody must be elected then, without an operator.
    world.finish().unwrap();
}

#[test]
fn a_node_that_is_heard_and_does_not_lead_keeps_nobody_from_leading() {
    let mut world = world(elects(3, 1), 14);
    world.lives(2);
    world.nodes[0].kill();
    // Its machine is gone, too: nobody is told that nobody listens there.
    world.alone(0);
    world.nodes[1].at.set(Some(net::address(2)));
    world.lives_but(4 * LEASE, Some(0));
    assert!(world.leader().is_some());
    world.finish().unwrap();
}

#[test]
fn two_nodes_that_take_each_other_for_the_leader_do_not_end() {
    let mut world = world(elects(3, 1), 13);
    world.nodes[0].kill();
    world.nodes[1].at.set(Some(net::address(2)));
    world.nodes[2].at.set(Some(net::address(1)));
    for _ in 0..4 {
        world.follow(1).unwrap();
        world.follow(2).unwrap();
    }
    world.lives_but(4 * LEASE, Some(0));
    assert!(world.leader().is_some());
    world.finish().unwrap();
}
