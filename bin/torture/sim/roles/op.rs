//! What may happen to nodes that change roles, and how a seed makes a sequence of it.

use crate::dice::Dice;

/// How a cluster is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
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
}

impl Setup {
    /// What the dice say.
    pub fn new(dice: &mut Dice) -> Self {
        let nodes = dice.pick(&[2, 3, 3, 3, 4, 5]);
        Setup {
            nodes,
            k: 1 + u32::try_from(dice.below(nodes as u64 - 1)).expect("few"),
            strict: dice.chance(3, 4),
            bad_weather: dice.pick(&[0, 30, 150]),
            value_bytes: dice.pick(&[40, 40, 400, 3_000]),
            drift: dice.pick(&[0, 50]),
        }
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
}

/// How often each is taken.
const WEIGHTS: &[(Op, u64)] = &[
    (Op::Follow, 380),
    (Op::Append, 200),
    (Op::Tend, 90),
    (Op::Promote, 5),
    (Op::Campaign, 110),
    (Op::Switchover, 3),
    (Op::Look, 80),
    (Op::Sync, 10),
    (Op::Wait, 30),
    (Op::ClockJump, 3),
    (Op::ChangeSet, 8),
    (Op::Link, 14),
    (Op::Weather, 4),
    (Op::Late, 16),
    (Op::Kill, 4),
    (Op::Close, 3),
    (Op::Cut, 5),
    (Op::Fault, 3),
    (Op::Heal, 12),
    (Op::Token, 16),
    (Op::Compare, 3),
];

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
        }
    }
}

/// A sequence.
pub fn steps(dice: &mut Dice, count: usize) -> Vec<Step> {
    let all: u64 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    (0..count)
        .map(|_| {
            let mut left = dice.below(all);
            let mut op = Op::Follow;
            for (candidate, weight) in WEIGHTS {
                if left < *weight {
                    op = *candidate;
                    break;
                }
                left -= weight;
            }
            Step { op, seed: dice.next() }
        })
        .collect()
}
