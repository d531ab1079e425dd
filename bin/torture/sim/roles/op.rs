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

/// How often each is taken while things go well: leaders are found, and clients get on.
const CALM: &[(Op, u64)] = &[
    (Op::Follow, 420),
    (Op::Append, 200),
    (Op::Tend, 120),
    (Op::Campaign, 150),
    (Op::Look, 90),
    (Op::Sync, 5),
    (Op::ChangeSet, 10),
    (Op::Wait, 10),
    (Op::Token, 10),
];
/// And while they do not.
const STORM: &[(Op, u64)] = &[
    (Op::Follow, 300),
    (Op::Append, 160),
    (Op::Tend, 90),
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
        }
    }
}

/// A sequence: spells of calm and storm by turns, of lengths that the dice say.
pub fn steps(dice: &mut Dice, count: usize) -> Vec<Step> {
    let (mut calm, mut left) = (false, 0);
    (0..count)
        .map(|_| {
            if left == 0 {
                (calm, left) = (!calm, 1 + dice.below(SPELL));
            }
            left -= 1;
            let op = draw(dice, if calm { CALM } else { STORM });
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
