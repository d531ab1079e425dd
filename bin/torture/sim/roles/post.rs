//! What runs a node beside its log: its connection to the coordinator, its election, what it last saw.
//!
//! In production that is `server::run`; what it decides is the engine's own `Election` and `Coordinator`.
//! Invariant: all of it is the process's, and gone with it.

use std::sync::Arc;
use std::time::Duration;

use tidelog::fs::Fs;
use tidelog::fs::sim::Sim;
use tidelog::replica::coordinator::fake::FakeCluster;
use tidelog::replica::coordinator::{Coordinator, Seat, StoreCoordinator};
use tidelog::replica::failover::{Election, Policy, Standing, seat};
use tidelog::ship::archive::fake::{Fake, FakeStore};
use tidelog::ship::archive::{Create, ObjectName, Prefix, Store};
use tidelog::{Error, Id, Kind, Result};

use super::net::Port;

/// What all nodes have in common outside of themselves.
#[derive(Clone, Debug)]
pub enum Seats {
    Nobody,
    Cluster(FakeCluster),
    Store(Fake),
}

/// What runs a node.
#[derive(Debug)]
pub struct Post {
    port: Port,
    seats: Seats,
    ttl: Duration,
    shaky: u64,
    /// Connections that were made so far.
    connections: u64,
    /// The store of the cluster's archive, if it has one.
    pub archive: Option<Fake>,
    pub coordinator: Option<Box<dyn Coordinator>>,
    pub election: Election,
    /// What stood at the coordinator the last time that it answered, and when it was asked.
    pub seat: Option<Seat>,
    pub asked: Option<u64>,
    /// What the others said, and when they were asked.
    pub survey: Option<(u64, Vec<Standing>)>,
    /// When the seat was last renewed.
    pub renewed: Option<u64>,
    /// When it took the seat last, by the world's time.
    pub won: Option<u64>,
    /// Whether it is an election that made it a candidate.
    pub by_itself: bool,
}

/// Who it is to the coordinator.
pub fn client(node: usize) -> Id {
    Id([u8::try_from(node).expect("few") + 100; 16])
}

impl Post {
    pub fn new(
        port: Port,
        seats: Seats,
        (ttl, shaky): (Duration, u64),
        archive: Option<Fake>,
        policy: Policy,
    ) -> Self {
        Post {
            port,
            seats,
            ttl,
            shaky,
            connections: 0,
            archive,
            coordinator: None,
            election: Election::new(policy),
            seat: None,
            asked: None,
            survey: None,
            renewed: None,
            won: None,
            by_itself: false,
        }
    }

    /// Another process: it knows nothing of what it saw.
    pub fn begin_anew(&mut self, sim: &Sim) {
        self.coordinator = self.connect(sim);
        self.election = Election::new(*self.election.policy());
        (self.seat, self.asked, self.survey, self.renewed) = (None, None, None, None);
        self.by_itself = false;
    }

    fn connect(&mut self, sim: &Sim) -> Option<Box<dyn Coordinator>> {
        Some(match self.seats.clone() {
            Seats::Nobody => return None,
            Seats::Cluster(cluster) => {
                Box::new(cluster.connect(client(self.port.node), sim.shared(), self.ttl))
            }
            Seats::Store(fake) => {
                let store = self.reach(&fake);
                Box::new(StoreCoordinator::new(store, sim.shared(), self.ttl).trusted())
            }
        })
    }

    /// A connection to a store, which fails now and then.
    pub fn reach(&mut self, fake: &Fake) -> Arc<dyn Store> {
        self.connections += 1;
        let seed = (self.port.node as u64 + 1) << 40 | self.connections;
        let store = fake.shaky(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), self.shaky);
        Arc::new(Reach { store, calm: fake.client(), port: self.port.clone() })
    }

    /// Until when a new leader may answer.
    pub fn lease(&mut self) -> Option<u64> {
        self.coordinator.as_mut().map(|known| seat::first_lease(&mut **known))
    }

    pub fn resign(&mut self) {
        if let Some(coordinator) = &mut self.coordinator {
            let _ = coordinator.resign();
        }
        self.by_itself = false;
    }
}

/// A store, as far as a node reaches it.
#[derive(Debug)]
struct Reach {
    store: FakeStore,
    /// The same without failures.
    calm: FakeStore,
    port: Port,
}

impl Reach {
    fn there(&self) -> Result<&FakeStore> {
        let net = self.port.net();
        match net.off[self.port.node] {
            false if net.shaky => Ok(&self.store),
            false => Ok(&self.calm),
            true => Err(Error::new(Kind::Io, "the store is not reached from here")),
        }
    }
}

impl Store for Reach {
    fn place(&self) -> String {
        self.store.place()
    }

    fn get_range(&self, name: &ObjectName, from: u64, len: usize) -> Result<Option<Vec<u8>>> {
        self.there()?.get_range(name, from, len)
    }

    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.there()?.put(name, bytes)
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create {
        match self.there() {
            Ok(store) => store.create(name, bytes),
            Err(error) => Create::Unknown(error),
        }
    }

    fn list(&self, prefix: Prefix) -> Result<Vec<(ObjectName, u64)>> {
        self.there()?.list(prefix)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.there()?.delete(name)
    }

    fn back_off(&self, _attempt: u32) {}
}

/// What time it is at a machine, by the clock that does not jump.
pub fn clock(sim: &Sim) -> u64 {
    Fs::elapsed(sim)
}
