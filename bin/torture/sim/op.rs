//! What may happen in a simulated cluster, and how a seed makes a sequence of it.

use crate::dice::Dice;

/// How a cluster is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Followers, the reader of the archive among them.
    pub followers: usize,
    /// Whether there is an archive, and its last follower pulls from that.
    pub archive: bool,
    /// Whether retention may drop segments.
    pub retains: bool,
    /// Whether files of followers rot, where nothing is dropped.
    pub rots: bool,
    /// Of 1,000 calls over the network, how many are harmed in bad weather.
    pub bad_weather: u64,
    /// Of 1,000 calls to the store, how many fail.
    pub shaky_store: u64,
    /// Values are at most this long.
    pub value_bytes: u64,
}

impl Setup {
    /// What the dice say.
    pub fn new(dice: &mut Dice) -> Self {
        let archive = dice.chance(1, 2);
        Setup {
            followers: 2 + usize::from(dice.chance(1, 2)) + usize::from(archive),
            archive,
            retains: dice.chance(1, 2),
            rots: false,
            bad_weather: dice.pick(&[0, 30, 150]),
            shaky_store: dice.pick(&[0, 50, 300]),
            value_bytes: dice.pick(&[40, 400, 6_000]),
        }
    }
}

/// A step, with the seed of what it decides by itself: so that it is the same step when others are
/// taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub op: Op,
    pub seed: u64,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A follower looks, copies, syncs, applies.
    Follow,
    /// A client appends, or tries again what it does not know of.
    Append,
    /// The log is synced, as its worker would.
    Sync,
    /// The leader's log goes to the archive.
    Publish,
    /// The store does not answer for a while.
    Outage,
    /// A leader that was killed, and comes back as it was, publishes.
    Zombie,
    /// Time passes; sometimes enough for a semi-synchronous set to be given up on.
    Wait,
    /// A wall clock is set.
    ClockJump,
    /// The synchronous set becomes another.
    ChangeSet,
    /// A way of a link breaks, or all heal.
    Link,
    /// The weather of the network changes.
    Weather,
    /// An old request arrives once more.
    Duplicate,
    /// A process is killed, or ends properly.
    KillLeader,
    CloseLeader,
    KillFollower,
    CloseFollower,
    /// The power of a machine goes off.
    CutLeader,
    CutFollower,
    /// What is down comes up.
    Start,
    /// Calls to a disk will fail, or it is full.
    Fault,
    /// Disks heal.
    Heal,
    /// Segments are dropped.
    Retain,
    /// A follower that is down loses the end of what it held.
    Rot,
    /// Files and tables are held against each other.
    Compare,
}

/// How often each is taken, of all.
const WEIGHTS: &[(Op, u64)] = &[
    (Op::Follow, 420),
    (Op::Append, 240),
    (Op::Sync, 20),
    (Op::Publish, 50),
    (Op::Outage, 8),
    (Op::Zombie, 5),
    (Op::Wait, 60),
    (Op::ClockJump, 4),
    (Op::ChangeSet, 12),
    (Op::Link, 24),
    (Op::Weather, 6),
    (Op::Duplicate, 20),
    (Op::KillLeader, 5),
    (Op::CloseLeader, 4),
    (Op::KillFollower, 8),
    (Op::CloseFollower, 5),
    (Op::CutLeader, 5),
    (Op::CutFollower, 10),
    (Op::Start, 60),
    (Op::Fault, 10),
    (Op::Heal, 20),
    (Op::Retain, 8),
    (Op::Rot, 3),
    (Op::Compare, 6),
];

impl Op {
    /// A name for the counts.
    pub fn name(self) -> &'static str {
        match self {
            Op::Follow => "follow",
            Op::Append => "append",
            Op::Sync => "sync",
            Op::Publish => "publish",
            Op::Outage => "outage",
            Op::Zombie => "zombie",
            Op::Wait => "wait",
            Op::ClockJump => "clock_jump",
            Op::ChangeSet => "change_set",
            Op::Link => "link",
            Op::Weather => "weather",
            Op::Duplicate => "duplicate",
            Op::KillLeader => "kill_leader",
            Op::CloseLeader => "close_leader",
            Op::KillFollower => "kill_follower",
            Op::CloseFollower => "close_follower",
            Op::CutLeader => "cut_leader",
            Op::CutFollower => "cut_follower",
            Op::Start => "start",
            Op::Fault => "fault",
            Op::Heal => "heal",
            Op::Retain => "retain",
            Op::Rot => "rot",
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
