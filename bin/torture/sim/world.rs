//! The cluster: one leader, its followers, their machines, the network and the store.
//!
//! Everything in it is the engine's own code; only what lies under it (disks, clocks, the network,
//! the store) is simulated. Invariant: a run is one thread's, and nothing in it asks the operating
//! system, so that a setup, a seed and the steps give the same run to the last bit.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidelog::fs::sim::{Crash, Sim};
use tidelog::log::MIN_SEGMENT_BYTES;
use tidelog::replica::Leader;
use tidelog::replica::leader::Waiting;
use tidelog::ship::archive::fake::{Fake, FakeStore};
use tidelog::ship::archive::{Archive, PublishOptions, Publisher, Store};
use tidelog::ship::shelf::Shelf;
use tidelog::ship::{Directory, Remote, Source};
use tidelog::table::TableOptions;
use tidelog::{Error, Follower, Kind, Log, LogByte, Offset, Options, Table};

use crate::dice::Dice;

use super::book::Book;
use super::check::Alike;
use super::net::{Cable, Net, Served};
use super::op::{Setup, Step};
use super::walk::Walk;

pub const DIR: &str = "/log";
pub const COPY: &str = "/copy";

/// What a step comes to: a violation, in words.
pub type Done = Result<(), String>;

/// A violation: in which step, and what was found.
#[derive(Debug)]
pub struct Failure {
    pub step: usize,
    pub found: String,
}

/// What a run adds to the denominators.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub counts: BTreeMap<&'static str, u64>,
    /// Of everything that happened, in order.
    pub trace: u64,
    /// Of the disks in the end.
    pub state: u128,
}

impl Stats {
    pub fn add(&mut self, name: &'static str, count: u64) {
        *self.counts.entry(name).or_default() += count;
    }
}

/// The leader's machine.
pub struct Lead {
    pub sim: Sim,
    pub up: Option<Up>,
    /// Whether its disk may fail just now.
    pub troubled: bool,
}

/// A leader that runs.
pub struct Up {
    pub log: Arc<Log>,
    pub leader: Arc<Leader>,
    pub publisher: Option<Publisher>,
    pub pending: Vec<(usize, Waiting, u64)>,
    /// What its readers were shown.
    pub shown: u64,
}

/// A follower's machine.
pub struct Mate {
    pub sim: Sim,
    pub follower: Option<Follower>,
    pub troubled: bool,
    /// Whether it pulls from the archive, and so counts for nothing.
    pub reads_archive: bool,
    /// What was seen to be durable on its disk.
    pub held: u64,
    /// The most it was seen to have applied.
    pub applied: u64,
    pub shown: u64,
    /// The operation count at which `held` was last looked up.
    pub looked: usize,
    /// What a power cut left of it, by what was durable then: where it ended.
    pub recovered: Option<(u64, (LogByte, Offset))>,
    /// What of its files was found to be the leader's.
    pub alike: Alike,
    /// Whether its own STATE is sure to say how far it is: then damage behind that can be told.
    pub proves: bool,
    /// Whether its files were damaged, and it has not caught up since.
    pub rotten: bool,
}

/// Everything.
pub struct World {
    pub setup: Setup,
    pub lead: Lead,
    pub mates: Vec<Mate>,
    pub net: Arc<Mutex<Net>>,
    pub store: Option<Fake>,
    pub walk: Walk,
    /// The leader's connection to it.
    pub client: Option<Arc<FakeStore>>,
    pub book: Book,
    pub stats: Stats,
    pub step: u64,
    /// The leader's machine as it was when it was last killed.
    pub old: Option<Sim>,
    /// The most that readers were ever shown.
    pub shown: u64,
    /// What was visible when holders were last counted.
    pub counted: u64,
    pub jumped: i64,
    pub aloud: bool,
    pub dice: Dice,
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
    stats.trace = world.trace.finish();
    Ok(stats)
}

impl World {
    fn new(setup: Setup, seed: u64, aloud: bool) -> Result<Self, String> {
        let mut dice = Dice::new(seed ^ 0x51_7A_11);
        let lead = Lead { sim: Sim::new(dice.next()), up: None, troubled: false };
        let mates = (0..setup.followers).map(|who| Mate {
            sim: Sim::new(dice.next()),
            follower: None,
            troubled: false,
            reads_archive: setup.archive && who + 1 == setup.followers,
            held: 0,
            applied: 0,
            shown: 0,
            looked: usize::MAX,
            recovered: None,
            alike: Alike::default(),
            proves: false,
            rotten: false,
        });
        let mates: Vec<_> = mates.collect();
        let mut world = World {
            net: Net::new(mates.len(), dice.next()),
            lead,
            mates,
            store: setup.archive.then(Fake::new),
            walk: Walk::default(),
            client: None,
            setup,
            book: Book::default(),
            stats: Stats::default(),
            step: 0,
            old: None,
            shown: 0,
            counted: 0,
            jumped: 0,
            aloud,
            dice,
            trace: DefaultHasher::new(),
        };
        world.start_leader()?;
        for who in 0..world.mates.len() {
            world.start_follower(who)?;
        }
        Ok(world)
    }

    pub fn net(&self) -> MutexGuard<'_, Net> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes something that happened into the trace.
    pub fn note(&mut self, what: &str) {
        if self.aloud {
            eprintln!("    {what}");
        }
        what.hash(&mut self.trace);
    }

    /// Takes an error into the trace, without what may differ: none does.
    pub fn note_error(&mut self, what: &str, error: &Error) {
        self.note(&format!("{what}: {error}"));
    }

    pub fn options(&self, sim: &Sim) -> Options {
        Log::options().fs(sim.shared()).worker(false).segment_bytes(MIN_SEGMENT_BYTES)
    }

    pub fn rows() -> TableOptions {
        Table::options().delta_bytes(8 << 10).checkpoint_bytes(24 << 10)
    }

    /// Lets time pass everywhere.
    pub fn wait(&mut self, time: Duration) {
        self.lead.sim.advance(time);
        for mate in &self.mates {
            mate.sim.advance(time);
        }
    }

    // The leader's life.

    pub fn start_leader(&mut self) -> Done {
        if self.lead.up.is_some() {
            return Ok(());
        }
        let options = self.options(&self.lead.sim).create(true);
        let opened = options.open(DIR).map(Arc::new).and_then(|log| {
            let leader = Arc::new(Leader::lead(Arc::clone(&log))?);
            Ok((log, leader))
        });
        let (log, leader) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.may_fail(self.lead.troubled, "the leader starts", &error),
        };
        if self.store.is_some() {
            leader.use_archive();
        }
        let durable = log.durable_end().0;
        self.note(&format!("the leader leads from {durable}"));
        if durable < self.book.durable {
            return Err(format!(
                "the leader holds {durable} records, {} were acknowledged",
                self.book.durable
            ));
        }
        let shelf = Shelf::new(Arc::clone(&log));
        let served = Served { shelf, leader: Arc::clone(&leader), sim: self.lead.sim.clone() };
        self.net().served = Some(served);
        self.lead.up = Some(Up { log, leader, publisher: None, pending: Vec::new(), shown: 0 });
        self.stats.add("leaderships", 1);
        Ok(())
    }

    /// An error that a disk in trouble excuses.
    pub fn may_fail(&mut self, troubled: bool, what: &str, error: &Error) -> Done {
        self.note_error(what, error);
        let excused = matches!(
            error.kind(),
            Kind::Io
                | Kind::DiskFull
                | Kind::Poisoned
                | Kind::Unknown
                | Kind::NotFound
                | Kind::ReadOnly
        );
        match troubled && excused {
            true => Ok(()),
            false => Err(format!("{what}: {error}")),
        }
    }

    /// The leader is gone: who waits does not know.
    pub fn leader_gone(&mut self) -> Option<Arc<Log>> {
        self.net().served = None;
        let Up { log, leader, publisher, pending, .. } = self.lead.up.take()?;
        leader.stop();
        drop((leader, publisher, pending));
        Some(log)
    }

    pub fn kill_leader(&mut self) {
        self.lead.sim.kill();
        if self.leader_gone().is_some() && self.store.is_some() {
            self.old = Some(self.lead.sim.deep_copy());
        }
        self.lead.sim = self.lead.sim.process();
    }

    pub fn close_leader(&mut self) -> Done {
        let Some(log) = self.leader_gone() else { return Ok(()) };
        let log = Arc::try_unwrap(log).map_err(|_| "the log is still held".to_owned())?;
        match log.close() {
            Ok(()) => Ok(()),
            Err(error) => self.may_fail(self.lead.troubled, "the leader closes", &error),
        }
    }

    pub fn cut_leader(&mut self, crash: &Crash) {
        let left = self.lead.sim.crash(crash);
        self.kill_leader();
        self.lead.sim = left;
        // Another machine: no faults.
        self.lead.troubled = false;
        self.lead.sim.set_capacity(None);
    }

    // A follower's.

    fn source(&self, who: usize) -> tidelog::Result<Box<dyn Source>> {
        if !self.mates[who].reads_archive {
            let cable = Cable { net: Arc::clone(&self.net), who: Some(who) };
            return Ok(Box::new(Remote::over(cable).name(format!("follower {who}"))));
        }
        Ok(Box::new(Archive::open(self.connect(who as u64))?))
    }

    /// A connection to the store.
    fn connect(&self, salt: u64) -> Arc<FakeStore> {
        let fake = self.store.as_ref().expect("a cluster with an archive");
        let mut dice = Dice::new(self.step.wrapping_mul(31) ^ salt);
        Arc::new(fake.shaky(dice.next(), self.setup.shaky_store))
    }

    pub fn start_follower(&mut self, who: usize) -> Done {
        if self.mates[who].follower.is_some() {
            return Ok(());
        }
        let opened = self.source(who).and_then(|source| {
            let options = self.options(&self.mates[who].sim);
            Follower::open_from(options, World::rows(), std::path::Path::new(COPY), source)
        });
        let shaken = self.is_shaken(who);
        match opened {
            Ok(follower) => {
                let end = follower.end().0;
                self.note(&format!("follower {who} starts at {end}"));
                let mate = &mut self.mates[who];
                if !mate.rotten && (follower.report().unclean || end < mate.held) {
                    return Err(format!(
                        "follower {who} held {} records durably; now {end}: {:?}",
                        mate.held,
                        follower.report()
                    ));
                }
                mate.follower = Some(follower);
                mate.shown = 0;
                mate.proves = !mate.troubled;
                Ok(())
            }
            // Damage that only a source can mend.
            Err(error) if self.mates[who].rotten && error.kind() == Kind::Corrupt => {
                self.note_error("a damaged follower starts", &error);
                Ok(())
            }
            Err(error) => self.may_fail(shaken, &format!("follower {who} starts"), &error),
        }
    }

    /// Whether a follower's errors are excused: its disk, its link, or its source is in trouble.
    pub fn is_shaken(&self, who: usize) -> bool {
        let mate = &self.mates[who];
        let net = self.net();
        let link =
            net.per_mille > 0 || net.ways[who].deaf || net.ways[who].mute || net.served.is_none();
        // The leader's disk fails a read for it, too.
        mate.troubled || link || self.lead.troubled || mate.reads_archive
    }

    pub fn kill_follower(&mut self, who: usize) {
        let mate = &mut self.mates[who];
        mate.sim.kill();
        mate.follower = None;
        mate.sim = mate.sim.process();
        mate.looked = usize::MAX;
    }

    pub fn close_follower(&mut self, who: usize) -> Done {
        let shaken = self.is_shaken(who);
        let Some(follower) = self.mates[who].follower.take() else { return Ok(()) };
        match follower.close() {
            Ok(()) => Ok(()),
            Err(error) => self.may_fail(
                shaken || self.mates[who].troubled,
                &format!("follower {who} closes"),
                &error,
            ),
        }
    }

    pub fn cut_follower(&mut self, who: usize, crash: &Crash) {
        if self.mates[who].rotten {
            // Without its STATE nothing tells a rotten end from a torn one (docs/TESTING.md).
            return self.kill_follower(who);
        }
        let left = self.mates[who].sim.crash(crash);
        self.kill_follower(who);
        let mate = &mut self.mates[who];
        // Another disk counts anew.
        (mate.sim, mate.recovered) = (left, None);
        (mate.troubled, mate.proves) = (false, false);
        mate.sim.set_capacity(None);
    }

    /// A round of a follower.
    pub fn follow(&mut self, who: usize) -> Done {
        let Some(follower) = &mut self.mates[who].follower else { return Ok(()) };
        let stepped = follower.step();
        self.stats.add("rounds", 1);
        match stepped {
            Ok(progress) => {
                self.note(&format!("follower {who}: {} to {}", progress.from, progress.to));
                let mate = &mut self.mates[who];
                mate.applied = mate.applied.max(progress.applied.0);
                if progress.to.0 >= mate.held && progress.lag.records == 0 {
                    mate.rotten = false;
                }
                Ok(())
            }
            Err(error) => {
                let shaken = self.is_shaken(who);
                let failed = error.kind() == Kind::Poisoned;
                let done = self.may_fail(shaken || failed, &format!("follower {who}"), &error);
                if failed && self.dice.chance(1, 4) {
                    // Whoever runs it opens it again; not at once.
                    self.kill_follower(who);
                }
                done
            }
        }
    }

    // The archive.

    /// What a leader's node does when it is time to publish.
    pub fn publish(&mut self) -> Done {
        if self.store.is_none() || self.lead.up.is_none() {
            return Ok(());
        }
        let client = self.connect(7_919);
        let (sim, pushing) = (self.lead.sim.clone(), self.lead.up.as_mut().expect("it is up"));
        let end = pushing.leader.publishable();
        let durable = pushing.log.durable_position();
        let durable = (durable.log_byte, durable.offset);
        if pushing.publisher.is_none() {
            let mut options = PublishOptions::default();
            // Racing creates take threads; the store is known to be atomic.
            options.probe = false;
            options.tail_bytes = 16 << 10;
            options.rollup_every = 40;
            self.client = Some(Arc::clone(&client));
            let opened = Directory::open_in(sim.shared(), DIR)
                .and_then(|from| Publisher::open(client, from, options));
            match opened {
                Ok(publisher) => pushing.publisher = Some(publisher),
                Err(error) => return self.may_fail(true, "the publisher starts", &error),
            }
        }
        let pushing = self.lead.up.as_mut().expect("it is up");
        let publisher = pushing.publisher.as_mut().expect("opened just now");
        publisher.knows_durable(durable);
        let pushed = publisher.push_to(end);
        if let Some(held) = publisher.held() {
            pushing.leader.archived(held);
        }
        self.stats.add("pushes", 1);
        match pushed {
            Ok(pushed) => {
                self.note(&format!("published to {}", pushed.end));
                self.check_archive(false)
            }
            // An entry of this very leadership came late: the next push takes it for what it is.
            Err(error) if error.kind() == Kind::Locked && self.setup.shaky_store > 0 => {
                self.note_error("publish", &error);
                self.check_archive(false)
            }
            Err(error) => {
                self.may_fail(true, "publish", &error)?;
                self.check_archive(false)
            }
        }
    }

    /// A leader that was replaced must be told so by the archive, and leave nothing there.
    pub fn zombie(&mut self) -> Done {
        let (Some(old), Some(fake)) = (&self.old, &self.store) else { return Ok(()) };
        let fenced = self.lead.up.as_ref().and_then(|up| up.publisher.as_ref()?.held());
        if fenced.is_none() {
            return Ok(());
        }
        let same = self.lead.up.as_ref().is_some_and(|up| {
            let old = self.options(&old.deep_copy()).read_only(true).open(DIR);
            old.is_ok_and(|old| old.stats().epoch == up.log.stats().epoch)
        });
        let entries = fake.names().len();
        let client: Arc<dyn Store> = Arc::new(fake.client());
        let mut options = PublishOptions::default();
        options.probe = false;
        let pushed = Directory::open_in(old.shared(), DIR)
            .and_then(|from| Publisher::open(client, from, options)?.push());
        self.stats.add("zombies", 1);
        let left = fake.names().len() - entries;
        match pushed {
            _ if left > 0 && !same => {
                Err(format!("a replaced leader left {left} objects in the archive"))
            }
            // It had not led yet.
            Ok(pushed) if pushed.entries == 0 => Ok(()),
            Err(error) if error.kind() == Kind::Fenced => Ok(()),
            // Closed cleanly the epoch goes on, and where the disk is full it is the last one still: to the archive it is
            // this very leader, from an older copy. What it leaves is the leader's, too, which walking on shows.
            Err(error) if error.kind() == Kind::NotInHistory && same => Ok(()),
            Ok(_) if same => self.check_archive(false),
            other => Err(format!("a replaced leader is not told so: {other:?}")),
        }
    }
}
