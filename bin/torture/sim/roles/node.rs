//! One node: its machine, and what runs there.

use std::path::Path;
use std::sync::Arc;

use tidelog::frame::Mode;
use tidelog::fs::sim::{Crash, Sim};
use tidelog::log::MIN_SEGMENT_BYTES;
use tidelog::replica::failover::{Ask, Promotion, Standing};
use tidelog::replica::leader::Waiting;
use tidelog::replica::{Leader, demote};
use tidelog::ship::archive::Publisher;
use tidelog::ship::shelf::Shelf;
use tidelog::ship::{LeaderAt, Led as LedSource, Source};
use tidelog::{Epoch, Follower, Id, Kind, Log, Options, Result};

use super::super::world::World as Fixed;
use super::net::{Desk, Given, Port, Voice, address};
use super::post::Post;

pub const DIR: &str = "/log";
/// Records that are read once more when a node was opened anew.
const AGAIN: u64 = 64;

/// A node.
pub struct Node {
    pub port: Port,
    pub sim: Sim,
    pub role: Role,
    /// What runs it.
    pub post: Post,
    /// Which node its log is of, once it has one.
    pub id: Option<Id>,
    pub log: Option<Id>,
    /// Whom it follows.
    pub at: LeaderAt,
    /// Whether its disk may fail just now.
    pub troubled: bool,
    /// The highest promise that was seen here.
    pub promise: Given,
    /// Its source said that the histories differ.
    pub diverged: bool,
    /// It would have to cut what was committed.
    pub halted: bool,
    /// What readers were shown since it was opened.
    pub shown: u64,
    /// The most that they were ever shown: under synchronous sets it stays.
    pub sure: u64,
    /// Up to where that was compared.
    pub read: u64,
    /// How fast its clock runs, in thousandths.
    pub rate: u32,
    pub jumped: i64,
    /// When its source answered, by the time that nobody's clock shows, oldest first.
    pub heard: Vec<u64>,
    /// Behind the last record that was seen to be durable here.
    pub held: u64,
}

/// What a node does just now.
#[expect(clippy::large_enum_variant, reason = "a node has one, and few nodes there are")]
pub enum Role {
    Down,
    Follows(Follower),
    /// It stands still, and asks for promises; whether it has enough.
    Asks(Follower, Promotion, bool),
    Leads(Led),
}

/// A leader that runs.
pub struct Led {
    pub log: Arc<Log>,
    pub leader: Arc<Leader>,
    pub epoch: Epoch,
    pub pending: Vec<(usize, Waiting, u64)>,
    /// Batches that have a place in its log and are not known to be durable there: which, and behind what.
    pub placed: Vec<(usize, u64)>,
    /// Who publishes its log, once that has begun.
    pub publisher: Option<Publisher>,
    /// Somebody newer has the archive.
    pub passed: bool,
    /// Up to where a power cut leaves it: what was durable when it was last looked at.
    pub durable: u64,
    /// What the set before the newest asks for, as long as this one changed it; an inherited change says nothing.
    pub before: Option<Mode>,
}

impl Node {
    pub fn new(port: Port, seed: u64, rate: u64, post: Post) -> Self {
        Node {
            port,
            sim: Sim::new(seed),
            role: Role::Down,
            post,
            id: None,
            log: None,
            at: LeaderAt::default(),
            troubled: false,
            promise: None,
            diverged: false,
            halted: false,
            shown: 0,
            sure: 0,
            read: 0,
            rate: u32::try_from(rate).expect("about a thousand"),
            jumped: 0,
            heard: Vec::new(),
            held: 0,
        }
    }

    pub fn number(&self) -> usize {
        self.port.node
    }

    /// Its end of the network, with all that it needs to become leader.
    pub fn port(&mut self) -> Port {
        let archive = self.post.archive.clone().map(|fake| self.post.reach(&fake));
        Port { archive, ..self.port.clone() }
    }

    fn options(&self) -> Options {
        Log::options().fs(self.sim.shared()).worker(false).segment_bytes(MIN_SEGMENT_BYTES)
    }

    /// Makes the log, and leads it.
    pub fn found(&mut self) -> Result<()> {
        let log = self.options().create(true).open(DIR)?;
        self.lead_with(log)
    }

    /// Begins the epoch that it has won.
    pub fn lead(&mut self, epoch: Epoch) -> Result<()> {
        let log = self.options().lead(epoch).open(DIR)?;
        self.lead_with(log)
    }

    fn lead_with(&mut self, log: Log) -> Result<()> {
        let log = Arc::new(log);
        let leader = Arc::new(match self.post.coordinator.is_some() {
            true => Leader::lead_elected(Arc::clone(&log))?,
            false => Leader::lead(Arc::clone(&log))?,
        });
        // Nothing is acknowledged before the seat is known to be held.
        leader.lease(self.post.lease());
        if self.post.archive.is_some() {
            leader.use_archive();
        }
        (self.id, self.log) = (Some(log.node()), Some(log.id()));
        self.at.set(Some(address(self.number())));
        self.diverged = false;
        self.opened_anew();
        self.answer(&log, Voice::Leads(Arc::clone(&leader)));
        let epoch = log.durable_position().epoch;
        let durable = log.durable_end().0;
        self.role = Role::Leads(Led {
            log,
            leader,
            epoch,
            pending: Vec::new(),
            placed: Vec::new(),
            publisher: None,
            passed: false,
            durable,
            before: None,
        });
        Ok(())
    }

    /// Follows whom it is told to, whatever it did before.
    pub fn follow(&mut self) -> Result<()> {
        if self.sim.exists(Path::new(DIR).join("LOG")) {
            demote(&self.sim.shared(), Path::new(DIR), &address(self.number()))?;
        }
        let own = Some(address(self.number()));
        if self.at.get() == own {
            self.at.set(None);
        }
        let port = self.port.clone();
        let source: Box<dyn Source> =
            Box::new(LedSource::new(self.at.clone(), move |address| port.source(address)));
        // An operator has decided, where a mode allows it.
        let options = self.options().accept_loss(std::mem::take(&mut self.halted));
        let follower = Follower::open_from(options, Fixed::rows(), Path::new(DIR), source)?;
        (self.id, self.log) = (Some(follower.node()), Some(follower.log().id()));
        self.opened_anew();
        self.diverged = false;
        let voice = Voice::Follows(follower.gauge(), follower.promises());
        self.answer(&follower.log(), voice);
        self.role = Role::Follows(follower);
        Ok(())
    }

    /// Some of what it shows is read once more.
    fn opened_anew(&mut self) {
        self.shown = 0;
        self.read = self.read.saturating_sub(AGAIN);
    }

    fn answer(&self, log: &Arc<Log>, voice: Voice) {
        let shelf = Shelf::new(Arc::clone(log));
        let may_lead = !self.post.election.policy().never_lead;
        let priority = self.post.election.policy().priority;
        let desk = Desk { shelf, voice, sim: self.sim.clone(), may_lead, priority };
        self.port.net().desks[self.number()] = Some(desk);
    }

    /// A question of this node; `None` of one that has no log.
    pub fn question(&self, epoch: Option<Epoch>) -> Option<Ask> {
        let number = self.number();
        let (log, node) = (self.log?, self.id?);
        Some(Ask { log, node, name: String::new(), address: Some(address(number)), epoch })
    }

    /// What it has promised, as far as it runs.
    pub fn promised(&self) -> Given {
        let net = self.port.net();
        let desk = net.desks[self.number()].as_ref();
        desk.and_then(|desk| desk.voter().promised())
    }

    /// How it stands, as far as it runs.
    pub fn standing(&self) -> Option<Standing> {
        let net = self.port.net();
        net.desks[self.number()].as_ref().map(|desk| desk.standing(self.number()))
    }

    /// What can be read at this node now.
    pub fn readable(&self) -> Option<Arc<Log>> {
        match &self.role {
            Role::Down => None,
            Role::Follows(follower) | Role::Asks(follower, ..) => Some(follower.log()),
            Role::Leads(led) => Some(Arc::clone(&led.log)),
        }
    }

    /// Behind the last record that is durable here.
    pub fn end(&self) -> Option<u64> {
        match &self.role {
            Role::Down => None,
            Role::Follows(follower) | Role::Asks(follower, ..) => Some(follower.end().0),
            Role::Leads(led) => Some(led.log.durable_end().0),
        }
    }

    /// Nobody answers there any more; what was running.
    pub fn stop(&mut self) -> Role {
        self.heard.clear();
        self.port.net().desks[self.number()] = None;
        std::mem::replace(&mut self.role, Role::Down)
    }

    pub fn kill(&mut self) {
        self.sim.kill();
        if let Role::Leads(led) = self.stop() {
            led.leader.stop();
        }
        self.sim = self.sim.process();
        self.post.begin_anew(&self.sim);
    }

    /// Ends properly.
    pub fn close(&mut self) -> Result<()> {
        match self.stop() {
            Role::Down => Ok(()),
            Role::Follows(follower) | Role::Asks(follower, ..) => follower.close(),
            Role::Leads(Led { log, leader, pending, publisher, .. }) => {
                leader.stop();
                drop((leader, pending, publisher));
                match Arc::try_unwrap(log) {
                    Ok(log) => log.close(),
                    Err(_) => Err(tidelog::Error::new(Kind::InvalidInput, "the log is still held")),
                }
            }
        }
    }

    pub fn power_cut(&mut self, crash: &Crash) {
        let left = self.sim.crash(crash);
        self.kill();
        self.sim = left;
        self.post.begin_anew(&self.sim);
        // Another machine: no faults.
        self.troubled = false;
        self.sim.set_capacity(None);
    }

    #[cfg(test)]
    /// An empty machine in its place: another node, whatever its name.
    pub fn replace(&mut self, seed: u64) {
        self.kill();
        self.sim = Sim::new(seed);
        self.post.begin_anew(&self.sim);
        (self.id, self.promise, self.diverged, self.troubled) = (None, None, false, false);
        (self.shown, self.sure, self.read, self.halted, self.held) = (0, 0, 0, false, 0);
    }
}
