//! What may happen to nodes that change roles, and how a seed makes a sequence of it.

use std::time::Duration;

use crate::dice::Dice;

/// Who says when to try to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// Operators alone.
    Operators,
    /// A coordinator with leases by its own clock.
    Coordinator,
    /// An object store, whose leases everybody watches by his own clock.
    Store,
}

/// How a cluster is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub says: Says,
    /// How long a seat is held without being renewed.
    pub ttl: Duration,
    /// Between two elections at least.
    pub gap: Duration,
    /// What an election may lose under modes that may lose records.
    pub max_loss: Option<u64>,
    /// Nodes, from the last one on, that never lead by themselves.
    pub never_lead: usize,
    /// Whether leaders publish to an archive, and somebody follows that.
    pub archive: bool,
    /// Of 1,000 calls to a store, how many fail.
    pub shaky_store: u64,
    /// How many nodes.
    pub nodes: usize,
    /// Copies that the first set asks for.
    pub k: u32,
    /// Whether every set is synchronous: then nothing acknowledged is lost, and nothing shown is taken back.
    pub strict: bool,
    /// Of 1,000 calls over the network, how many are harmed in bad weather.
    pub bad_weather: u64,
    /// Values are at most this long.
    pub value_bytes: u64,
    /// How far clocks run apart, in parts of a thousand.
    pub drift: u64,
    /// Whether leaders drop what every node has.
    pub retains: bool,
}

impl Setup {
    /// What the dice say.
    pub fn new(dice: &mut Dice) -> Self {
        let nodes = dice.pick(&[2, 3, 3, 3, 4, 5]);
        let says = [Says::Operators, Says::Coordinator, Says::Coordinator, Says::Store];
        let mut setup = Setup {
            says: dice.pick(&says),
            ttl: Duration::from_secs(dice.pick(&[2, 3, 10])),
            gap: Duration::from_secs(dice.pick(&[0, 0, 20, 60])),
            max_loss: dice.pick(&[None, Some(0), Some(5), Some(1_000)]),
            never_lead: dice.pick(&[0, 0, 0, 1]),
            archive: dice.chance(1, 2),
            shaky_store: dice.pick(&[0, 20, 120]),
            nodes,
            k: 1 + u32::try_from(dice.below(nodes as u64 - 1)).expect("few"),
            strict: dice.chance(3, 4),
            bad_weather: dice.pick(&[0, 30, 150]),
            value_bytes: dice.pick(&[40, 40, 400, 3_000]),
            drift: dice.pick(&[0, 50]),
            retains: false,
        };
        // Segments fill there.
        setup.retains = setup.strict && setup.value_bytes == 3_000;
        setup
    }
}

/// A step, with the seed of what it decides by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub op: Op,
    pub seed: u64,
}

/// What a step does. Those about a node name it themselves or leave it to the dice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A follower looks, copies, syncs, applies.
    Follow,
    /// A client appends at some leader, or tries again what it does not know of.
    Append,
    /// A node's runner looks around: starts, steps down, finds out whom to follow.
    Tend,
    /// An operator, or an election, makes a follower a candidate: whether anybody leads or not.
    Promote,
    /// A candidate asks one node, fetches a tail, or begins to lead.
    Campaign,
    /// A leader hands over.
    Switchover,
    /// A leader looks at what its clients wait for; its answers may be held up.
    Look,
    /// The log of a leader is synced.
    Sync,
    /// Time passes.
    Wait,
    /// A wall clock is set.
    ClockJump,
    /// The set of a leader becomes another.
    ChangeSet,
    /// A way of a link breaks; a node is cut off; or all heal.
    Link,
    /// The weather of the network changes.
    Weather,
    /// An old question arrives once more.
    Late,
    /// A process is killed, or ends properly.
    Kill,
    Close,
    /// The power of a machine goes off.
    Cut,
    /// Calls to a disk will fail, or it is full.
    Fault,
    /// Disks heal.
    Heal,
    /// A client shows its token to some node.
    Token,
    /// Files are held against each other.
    Compare,
    /// A leader publishes what it may.
    Publish,
    /// Who follows the archive looks there.
    Read,
    /// Calls to the store fail, for some nodes or all of them.
    Outage,
    /// The coordinator is not reached, loses answers, is restored from a backup, revokes leases; or is well again.
    Coordinator,
    /// An operator pauses elections, or lets them go on.
    Pause,
    /// A leader drops what every node has.
    Retain,
}

/// How often each is taken while things go well: leaders are found, and clients get on.
const CALM: &[(Op, u64)] = &[
    (Op::Follow, 420),
    (Op::Append, 200),
    (Op::Tend, 200),
    (Op::Campaign, 150),
    (Op::Look, 90),
    (Op::Sync, 5),
    (Op::ChangeSet, 10),
    (Op::Wait, 10),
    (Op::Token, 10),
    (Op::Publish, 60),
    (Op::Read, 20),
    (Op::Retain, 6),
];
/// And while they do not.
const STORM: &[(Op, u64)] = &[
    (Op::Follow, 300),
    (Op::Append, 160),
    (Op::Tend, 180),
    (Op::Promote, 22),
    (Op::Campaign, 150),
    (Op::Switchover, 6),
    (Op::Look, 70),
    (Op::Sync, 10),
    (Op::Wait, 30),
    (Op::ClockJump, 4),
    (Op::ChangeSet, 16),
    (Op::Link, 24),
    (Op::Weather, 5),
    (Op::Late, 20),
    (Op::Kill, 8),
    (Op::Close, 5),
    (Op::Cut, 9),
    (Op::Fault, 4),
    (Op::Heal, 12),
    (Op::Token, 16),
    (Op::Compare, 5),
    (Op::Publish, 60),
    (Op::Read, 20),
    (Op::Outage, 8),
    (Op::Coordinator, 14),
    (Op::Pause, 3),
    (Op::Retain, 6),
];
/// Steps of a spell of either.
const SPELL: u64 = 120;

impl Op {
    /// A name for the counts.
    pub fn name(self) -> &'static str {
        match self {
            Op::Follow => "follow",
            Op::Append => "append",
            Op::Tend => "tend",
            Op::Promote => "promote",
            Op::Campaign => "campaign",
            Op::Switchover => "switchover",
            Op::Look => "look",
            Op::Sync => "sync",
            Op::Wait => "wait",
            Op::ClockJump => "clock_jump",
            Op::ChangeSet => "change_set",
            Op::Link => "link",
            Op::Weather => "weather",
            Op::Late => "late_question",
            Op::Kill => "kill",
            Op::Close => "close",
            Op::Cut => "power_cut",
            Op::Fault => "fault",
            Op::Heal => "heal",
            Op::Token => "token",
            Op::Compare => "compare",
            Op::Publish => "publish",
            Op::Read => "read_archive",
            Op::Outage => "outage",
            Op::Coordinator => "coordinator_trouble",
            Op::Pause => "pause",
            Op::Retain => "retain",
        }
    }
}

/// Without the last: where nothing is dropped.
fn weights(of: &'static [(Op, u64)], setup: &Setup) -> &'static [(Op, u64)] {
    if setup.retains { of } else { &of[..of.len() - 1] }
}

/// A sequence: spells of calm and storm by turns, of lengths that the dice say.
pub fn steps(setup: &Setup, dice: &mut Dice, count: usize) -> Vec<Step> {
    let (mut calm, mut left) = (false, 0);
    (0..count)
        .map(|_| {
            if left == 0 {
                (calm, left) = (!calm, 1 + dice.below(SPELL));
            }
            left -= 1;
            let op = draw(dice, weights(if calm { CALM } else { STORM }, setup));
            Step { op, seed: dice.next() }
        })
        .collect()
}

fn draw(dice: &mut Dice, weights: &[(Op, u64)]) -> Op {
    let mut left = dice.below(weights.iter().map(|(_, weight)| weight).sum());
    for (op, weight) in weights {
        if left < *weight {
            return *op;
        }
        left -= weight;
    }
    Op::Follow
}
