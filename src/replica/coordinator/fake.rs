//! A coordinator in memory that fails as it is told: for tests, and for the simulation.
//!
//! One mutex guards what stands there, so every request is one transaction, as at etcd. Leases end by
//! the coordinator's own clock, which moves only by [`FakeCluster::advance`]; each client counts on the
//! clock of its own [`Fs`]. Clients can be cut off, lose requests and answers; the coordinator can be
//! put back to what it was yesterday, and lease after lease revoked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::position::{Epoch, Id, LogByte};

use super::{Claim, Coordinator, Degraded, Holder, Lease, Member, Seat, Take, nanos, not_held};

/// What stands at the coordinator, shared by all clients.
#[derive(Clone, Debug, Default)]
pub struct FakeCluster {
    world: Arc<Mutex<World>>,
}

#[derive(Debug, Default)]
struct World {
    now: u64,
    stands: Stands,
    /// Clients that reach nothing.
    cut: BTreeSet<Id>,
    /// How a client's next requests fail; `None` of one that does not.
    faults: BTreeMap<Id, VecDeque<Option<FakeFault>>>,
    requests: BTreeMap<Id, u64>,
}

/// What a backup holds.
#[derive(Clone, Debug, Default)]
struct Stands {
    seat: Seat,
    /// When the seat is over; of meaning while somebody holds it.
    over: u64,
    members: BTreeMap<Id, Member>,
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FakeFault {
    /// It was not carried out.
    Lost,
    /// It was carried out, and the answer was lost.
    AnswerLost,
}

/// Everything that stood there at one moment.
#[derive(Clone, Debug)]
pub struct FakeBackup(Stands);

/// One node's connection.
#[derive(Debug)]
pub struct FakeCoordinator {
    cluster: FakeCluster,
    fs: Arc<dyn Fs>,
    client: Id,
    ttl: Duration,
    mine: Option<Epoch>,
}

impl FakeCluster {
    /// One where nothing stands yet.
    pub fn new() -> Self {
        FakeCluster::default()
    }

    /// A node's connection, which is told apart by the node's id.
    pub fn connect(&self, client: Id, fs: Arc<dyn Fs>, ttl: Duration) -> FakeCoordinator {
        FakeCoordinator { cluster: self.clone(), fs, client, ttl, mine: None }
    }

    /// Moves the coordinator's clock.
    pub fn advance(&self, time: Duration) {
        let mut world = self.world();
        world.now = world.now.saturating_add(nanos(time));
    }

    /// Cuts a client off, or reaches it again.
    pub fn cut(&self, client: Id, cut: bool) {
        let mut world = self.world();
        match cut {
            true => world.cut.insert(client),
            false => world.cut.remove(&client),
        };
    }

    /// Lets a client's request fail: the next one that nothing is planned for, after `well` that do not.
    pub fn fail(&self, client: Id, well: usize, fault: FakeFault) {
        let mut world = self.world();
        let faults = world.faults.entry(client).or_default();
        faults.extend((0..well).map(|_| None));
        faults.push_back(Some(fault));
    }

    /// Nothing is cut off and nothing going to fail any more.
    pub fn heal(&self) {
        let mut world = self.world();
        world.cut.clear();
        world.faults.clear();
    }

    /// Ends the lease that is held, as a coordinator does that was stuck for long.
    pub fn revoke(&self) {
        self.world().stands.seat.holder = None;
    }

    /// Everything that stands there now.
    pub fn back_up(&self) -> FakeBackup {
        FakeBackup(self.world().stands.clone())
    }

    /// Puts back what stood there then. A lease that was held then is held for a ttl from now.
    pub fn restore(&self, backup: &FakeBackup, ttl: Duration) {
        let mut world = self.world();
        world.stands = backup.0.clone();
        world.stands.over = world.now.saturating_add(nanos(ttl));
    }

    /// What everybody would see now.
    pub fn seat(&self) -> Seat {
        let mut world = self.world();
        world.expire();
        world.stands.seat.clone()
    }

    /// How many requests a client has sent.
    pub fn requests(&self, client: Id) -> u64 {
        self.world().requests.get(&client).copied().unwrap_or_default()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    fn expire(&mut self) {
        if self.now >= self.stands.over {
            self.stands.seat.holder = None;
        }
    }

    fn seat_for(&mut self, claim: &Claim, number: u64, ttl: Duration, now: i64) -> Epoch {
        let epoch = Epoch { number, nonce: claim.nonce };
        let holder = Holder {
            node: claim.node,
            name: claim.name.clone(),
            address: claim.address.clone(),
            epoch,
        };
        let seat = &mut self.stands.seat;
        seat.number = number;
        (seat.holder, seat.last) = (Some(holder.clone()), Some(holder));
        seat.taken = Some(now);
        seat.log = Some(claim.log);
        self.stands.over = self.now.saturating_add(nanos(ttl));
        epoch
    }

    fn holds(&self, epoch: Epoch) -> bool {
        self.stands.seat.holder.as_ref().is_some_and(|holder| holder.epoch == epoch)
    }
}

impl FakeCoordinator {
    /// One request: `act` does it, unless it is lost on its way.
    fn request<T>(&self, act: impl FnOnce(&mut World) -> T) -> Result<T> {
        let mut world = self.cluster.world();
        *world.requests.entry(self.client).or_default() += 1;
        let fault = world.faults.get_mut(&self.client).and_then(VecDeque::pop_front).flatten();
        let lost = |how: &str| {
            Err(Error::new(Kind::Io, format!("cannot reach {}: {how}", self.place()))
                .help("ask again: it is found out what became of the request"))
        };
        if world.cut.contains(&self.client) || fault == Some(FakeFault::Lost) {
            return lost("the request was lost");
        }
        world.expire();
        let done = act(&mut world);
        match fault {
            Some(_) => lost("the answer was lost"),
            None => Ok(done),
        }
    }
}

impl Coordinator for FakeCoordinator {
    fn place(&self) -> String {
        "fake://coordinator".to_owned()
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    fn look(&mut self) -> Result<Seat> {
        self.request(|world| world.stands.seat.clone())
    }

    fn take(&mut self, claim: &Claim) -> Result<Take> {
        claim.check()?;
        let (ttl, now) = (self.ttl, self.fs.now());
        let take = self.request(|world| {
            let seat = &world.stands.seat;
            if let Some(log) = seat.log.filter(|log| *log != claim.log) {
                return Err(super::wrong_log(&self.place(), claim.log, log));
            }
            let number = match &seat.holder {
                Some(holder) if holder.is(claim) => holder.epoch.number,
                Some(_) => return Ok(Take::Held(seat.clone())),
                None => claim.after(seat.number)?,
            };
            Ok(Take::Won(world.seat_for(claim, number, ttl, now)))
        })??;
        if let Take::Won(epoch) = &take {
            self.mine = Some(*epoch);
        }
        Ok(take)
    }

    fn renew(&mut self) -> Result<Lease> {
        let before = self.fs.elapsed();
        let (mine, ttl) = (self.mine, nanos(self.ttl));
        let renewed = self.request(|world| match mine.is_some_and(|mine| world.holds(mine)) {
            true => {
                world.stands.over = world.now.saturating_add(ttl);
                None
            }
            false => Some(world.stands.seat.clone()),
        })?;
        Ok(match renewed {
            None => Lease::Held { until: before.saturating_add(ttl) },
            Some(seat) => {
                self.mine = None;
                Lease::Lost(seat)
            }
        })
    }

    fn hand_over(&mut self, to: &Claim) -> Result<Take> {
        to.check()?;
        let (mine, ttl, now) = (self.mine, self.ttl, self.fs.now());
        let take = self.request(|world| {
            let seat = &world.stands.seat;
            if let Some(there) = seat.holder.as_ref().filter(|there| there.is(to)) {
                return Ok(Take::Won(there.epoch));
            }
            if !mine.is_some_and(|mine| world.holds(mine)) {
                return Ok(Take::Held(seat.clone()));
            }
            let number = to.after(seat.number)?;
            Ok(Take::Won(world.seat_for(to, number, ttl, now)))
        })??;
        self.mine = None;
        Ok(take)
    }

    fn resign(&mut self) -> Result<()> {
        let Some(mine) = self.mine else { return Ok(()) };
        self.request(|world| {
            if world.holds(mine) {
                world.stands.seat.holder = None;
            }
        })?;
        self.mine = None;
        Ok(())
    }

    fn degrade(&mut self, from: Option<LogByte>) -> Result<()> {
        let mine = self.mine;
        let refused = self.request(|world| match mine.filter(|mine| world.holds(*mine)) {
            Some(epoch) => {
                world.stands.seat.degraded = from.map(|from| Degraded { epoch, from });
                None
            }
            None => Some(world.stands.seat.clone()),
        })?;
        refused.map_or(Ok(()), |seat| Err(not_held(&self.place(), &seat)))
    }

    fn pause(&mut self, paused: bool) -> Result<()> {
        self.request(|world| world.stands.seat.paused = paused)
    }

    fn join(&mut self, me: &Member) -> Result<()> {
        me.check()?;
        self.request(|world| drop(world.stands.members.insert(me.node, me.clone())))
    }

    fn members(&mut self) -> Result<Vec<Member>> {
        self.request(|world| world.stands.members.values().cloned().collect())
    }

    fn claim_log(&mut self, log: Id) -> Result<Id> {
        self.request(|world| *world.stands.seat.log.get_or_insert(log))
    }
}
