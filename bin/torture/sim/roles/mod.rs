//! Nodes that are all alike, and change roles: each follows, asks for promises, leads, is replaced, is down.
//!
//! What a node does in each role is the engine's own: `Follower`, `Election`, `Promotion`, `Leader`, `Voter`,
//! `Publisher`. Simulated are disks, clocks, the network, a coordinator or an object store in its place, an
//! archive, and the people who promote, sometimes two nodes at once, and sometimes while the old leader goes on.
//! `node` is one node and `post` what runs it, `act` and `clients` do the steps, `seats` elections, `vault` the
//! archive, `net` is what lies between; `check` and `kept` say what must hold all along, `heal` ends a run.
//! Invariant: a setup, a seed and the steps give the same run to the last bit.

mod act;
mod check;
mod clients;
mod dropped;
#[cfg(test)]
mod elections;
mod heal;
mod kept;
mod net;
mod node;
mod op;
mod post;
#[cfg(test)]
mod scenarios;
mod seats;
mod vault;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidelog::frame::{Mode, SyncSet};
use tidelog::replica::coordinator::fake::FakeCluster;
use tidelog::replica::failover::Policy;
use tidelog::ship::archive::fake::Fake;
use tidelog::{Epoch, Error, Id, Kind, Token};

use crate::dice::Dice;

use super::book::Book;
use super::world::{Done, Failure, Stats};

use dropped::Dropped;
use kept::Kept;
use net::{Net, Port};
use node::{Node, Role};
use op::Says;
pub use op::{Setup, Step, steps};
use post::{Post, Seats};
use seats::Watch;
use vault::Vault;

/// Everything.
pub struct World {
    setup: Setup,
    nodes: Vec<Node>,
    net: Arc<Mutex<Net>>,
    book: Book,
    stats: Stats,
    step: u64,
    /// Of each epoch, by number and nonce or by number alone, who acknowledged something.
    acked_by: BTreeMap<(u64, u64), (Epoch, usize)>,
    /// What readers were shown of strict histories: the batch's timestamp, by offset.
    shown: BTreeMap<u64, i64>,
    /// What clients hold of their writes: which batch, and whether it was promised to stay.
    tokens: Vec<(usize, Token)>,
    /// Answers that a leader had decided on and did not send yet.
    held_up: Vec<clients::HeldUp>,
    /// Nanoseconds since the beginning, by a clock that nobody has.
    time: u64,
    /// Who says when to try to lead; how fast its clock runs, in thousandths; and what was done to it.
    seats: Seats,
    seats_rate: u32,
    watch: Watch,
    /// Who began to lead by which number.
    begun: BTreeMap<u64, usize>,
    /// The last epoch that acknowledged less in a degraded spell.
    lesser: Option<Epoch>,
    vault: Option<Vault>,
    /// Operators give up what only the archive holds.
    gives_up: bool,
    /// Nothing goes wrong any more: the end of a run.
    heals: bool,
    kept: Kept,
    /// What leaders dropped.
    dropped: Dropped,
    aloud: bool,
    dice: Dice,
    trace: DefaultHasher,
}

/// Runs the steps; `aloud` tells of each.
pub fn run(setup: Setup, seed: u64, steps: &[Step], aloud: bool) -> Result<Stats, Failure> {
    let mut world = World::new(setup, seed, aloud).map_err(|found| Failure { step: 0, found })?;
    for (number, step) in steps.iter().enumerate() {
        world.step = number as u64;
        if aloud {
            eprintln!("{number}: {:?}", step.op);
        }
        world
            .act(step)
            .and_then(|()| world.watch())
            .map_err(|found| Failure { step: number, found })?;
        world.stats.add(step.op.name(), 1);
    }
    world.step = steps.len() as u64;
    if aloud {
        eprintln!("{}: heals", steps.len());
    }
    world.finish().map_err(|found| Failure { step: steps.len(), found })?;
    let mut stats = world.stats;
    {
        let net = world.net.lock().unwrap_or_else(PoisonError::into_inner);
        stats.add("calls", net.calls);
        stats.add("calls_harmed", net.harmed);
        stats.add("promises_given", net.promises);
    }
    stats.add(super::SIMULATED, world.time / 1_000_000_000);
    stats.trace = world.trace.finish();
    Ok(stats)
}

impl World {
    /// A cluster whose first set is committed, and known to all.
    fn new(setup: Setup, seed: u64, aloud: bool) -> Result<Self, String> {
        let mut dice = Dice::new(seed ^ 0x0F_A1_10);
        let net = Net::new(setup.nodes, dice.next());
        let vault = setup.archive.then(|| Vault::new(dice.next()));
        let seats = match setup.says {
            Says::Operators => Seats::Nobody,
            Says::Coordinator => Seats::Cluster(FakeCluster::new()),
            // A cluster's archive and its coordinator are one store, where it has both.
            Says::Store => Seats::Store(vault.as_ref().map_or_else(Fake::new, |v| v.store.clone())),
        };
        let rate = |dice: &mut Dice| 1000 - setup.drift + dice.below(2 * setup.drift + 1);
        let seats_rate = u32::try_from(rate(&mut dice)).expect("about a thousand");
        let nodes = (0..setup.nodes).map(|number| {
            let port = Port { net: Arc::clone(&net), node: number, archive: None };
            let policy = Policy {
                priority: u32::try_from(dice.below(3)).expect("few"),
                never_lead: number + setup.never_lead >= setup.nodes,
                max_loss: setup.max_loss,
                gap: setup.gap,
                ..Policy::default()
            };
            let post = Post::new(
                port.clone(),
                seats.clone(),
                (setup.ttl, setup.shaky_store),
                vault.as_ref().map(|vault| vault.store.clone()),
                policy,
            );
            let rate = rate(&mut dice);
            Node::new(port, dice.next(), rate, post)
        });
        let nodes: Vec<_> = nodes.collect();
        let mut world = World {
            setup,
            nodes,
            net,
            book: Book::default(),
            stats: Stats::default(),
            step: 0,
            acked_by: BTreeMap::new(),
            shown: BTreeMap::new(),
            tokens: Vec::new(),
            held_up: Vec::new(),
            time: 0,
            seats,
            seats_rate,
            watch: Watch::default(),
            begun: BTreeMap::new(),
            lesser: None,
            vault,
            gives_up: false,
            heals: false,
            kept: Kept::default(),
            dropped: Dropped::default(),
            aloud,
            dice,
            trace: DefaultHasher::new(),
        };
        world.found()?;
        Ok(world)
    }

    fn found(&mut self) -> Done {
        for node in &mut self.nodes {
            let sim = node.sim.clone();
            node.post.begin_anew(&sim);
        }
        self.nodes[0].found().map_err(|e| format!("the log is made: {e}"))?;
        if self.has_coordinator() {
            self.founder_takes_the_seat()?;
        }
        for who in 1..self.nodes.len() {
            self.nodes[who].at.set(Some(net::address(0)));
            self.start(who)?;
        }
        self.rounds(2)?;
        let members: Vec<Id> = self.nodes.iter().filter_map(|node| node.id).collect();
        let set = SyncSet::new(Mode::Sync { k: self.setup.k }, members)
            .map_err(|e| format!("the first set: {e}"))?;
        let Role::Leads(led) = &self.nodes[0].role else { return Err("nobody leads".into()) };
        led.leader.change(&set, Duration::ZERO).map_err(|e| format!("the first set: {e}"))?;
        self.rounds(4)?;
        let Role::Leads(led) = &self.nodes[0].role else { return Err("nobody leads".into()) };
        let standing = led.leader.standing();
        match standing.started && !standing.changing {
            true => Ok(()),
            false => Err(format!("the first set is not committed: {standing:?}")),
        }
    }

    /// The node that made the log holds the seat from the beginning: by the epoch that it leads.
    fn founder_takes_the_seat(&mut self) -> Done {
        let Role::Leads(led) = &self.nodes[0].role else { return Err("nobody leads".into()) };
        let led = led.epoch;
        for _ in 0..40 {
            if self.win(0, led.nonce, 0)?.is_some() {
                let lease = self.nodes[0].post.lease();
                let Role::Leads(led) = &self.nodes[0].role else { return Ok(()) };
                led.leader.lease(lease);
                return Ok(());
            }
        }
        Err("nobody takes the seat in the beginning".into())
    }

    /// Every follower does so many rounds.
    fn rounds(&mut self, count: u64) -> Done {
        for _ in 0..count {
            for who in 0..self.nodes.len() {
                self.follow(who)?;
            }
        }
        Ok(())
    }

    fn net(&self) -> MutexGuard<'_, Net> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes something that happened into the trace.
    fn note(&mut self, what: &str) {
        if self.aloud {
            eprintln!("    {what}");
        }
        what.hash(&mut self.trace);
    }

    /// Lets time pass everywhere, by each machine's own clock.
    fn wait(&mut self, time: Duration) {
        self.time += u64::try_from(time.as_nanos()).expect("short");
        for node in &self.nodes {
            node.sim.advance(time * node.rate / 1000);
        }
        if let Seats::Cluster(cluster) = &self.seats {
            cluster.advance(time * self.seats_rate / 1000);
        }
    }

    /// An error that a disk in trouble excuses, or that says what may happen to a node.
    fn may_fail(&mut self, who: usize, what: &str, error: &Error) -> Done {
        self.note(&format!("node {who} {what}: {error}"));
        let passes = matches!(
            error.kind(),
            Kind::Io
                | Kind::NotFound
                | Kind::NotLeader
                | Kind::NotALog
                | Kind::Fenced
                | Kind::Rejected
                | Kind::Unclean
        );
        let disk = matches!(
            error.kind(),
            Kind::DiskFull | Kind::Poisoned | Kind::Unknown | Kind::ReadOnly
        );
        // Only under modes that may lose what they have committed.
        let halts = error.kind() == Kind::CommittedDataLoss && !self.setup.strict;
        if halts {
            self.nodes[who].halted = true;
            self.nodes[who].kill();
        }
        match passes || halts || disk && self.nodes[who].troubled {
            true => Ok(()),
            false => Err(format!("node {who} {what}: {error}")),
        }
    }
}
