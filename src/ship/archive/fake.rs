//! A store in memory that fails as it is told: for tests, and for the torture programme.
//!
//! One mutex guards all objects, so creates are atomic unless it is told otherwise. Each
//! [`FakeStore`] is one client's connection with faults of its own; clients may take turns in an
//! order that a seed decides. Lists can be made late and out of order.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Kind, Result};

use super::name::{ObjectName, Prefix};
use super::store::{Create, Store};

/// The objects, shared by all clients.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    world: Arc<Mutex<World>>,
}

#[derive(Debug, Default)]
struct World {
    objects: BTreeMap<ObjectName, Vec<u8>>,
    /// Everything that ever was the content of a name of the sequence, to be held against it.
    created: Vec<(ObjectName, Vec<u8>)>,
    /// Creates that were given up on and come all the same, some calls later.
    late: Vec<(u64, ObjectName, Vec<u8>)>,
    /// How often something of the sequence was changed or removed.
    rewritten: u64,
    stale_lists: bool,
    both_win: bool,
    calls: u64,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// 409: somebody else is at it. Nothing was done.
    Conflict,
    /// 412 of one's own write: it was done, tried again on its way, and then refused.
    OwnPrecondition,
    /// It was done, and the reply was lost.
    TimeoutAfter,
    /// It was not done, and there is no reply.
    TimeoutBefore,
    /// No reply; it is done some calls later.
    Late(u64),
    /// 500; the next try is as good as any.
    ServerError,
    /// The client is killed before the call is done: no call of it does anything any more.
    KilledBefore,
    /// The same, after it.
    KilledAfter,
}

impl StoreFault {
    /// Every kind.
    pub const ALL: [StoreFault; 8] = [
        StoreFault::Conflict,
        StoreFault::OwnPrecondition,
        StoreFault::TimeoutAfter,
        StoreFault::TimeoutBefore,
        StoreFault::Late(3),
        StoreFault::ServerError,
        StoreFault::KilledBefore,
        StoreFault::KilledAfter,
    ];
}

/// One client's connection.
#[derive(Debug)]
pub struct FakeStore {
    fake: Fake,
    faults: Mutex<Faults>,
    turns: Option<(Turns, usize)>,
}

#[derive(Debug, Default)]
struct Faults {
    calls: u64,
    at: BTreeMap<u64, StoreFault>,
    /// A seed, and how many of 1,000 calls fail.
    random: Option<(u64, u64)>,
    killed: bool,
}

impl Fake {
    /// An empty store.
    pub fn new() -> Self {
        Fake::default()
    }

    /// A client without faults.
    pub fn client(&self) -> FakeStore {
        FakeStore { fake: self.clone(), faults: Mutex::default(), turns: None }
    }

    /// A client whose `call`th call (from 1) fails.
    pub fn failing(&self, call: u64, fault: StoreFault) -> FakeStore {
        let client = self.client();
        client.faults().at.insert(call, fault);
        client
    }

    /// A client of whose calls about `per_mille` of 1,000 fail, as the seed has it.
    pub fn shaky(&self, seed: u64, per_mille: u64) -> FakeStore {
        let client = self.client();
        client.faults().random = Some((seed, per_mille));
        client
    }

    /// Lists leave out the newest object and come in reverse.
    pub fn make_lists_stale(&self) {
        self.world().stale_lists = true;
    }

    /// Creates overwrite, and say that they were first.
    pub fn let_both_win(&self) {
        self.world().both_win = true;
    }

    /// An object's bytes.
    pub fn object(&self, name: &ObjectName) -> Option<Vec<u8>> {
        self.world().objects.get(name).cloned()
    }

    /// Puts any bytes under a name, or removes it.
    pub fn plant(&self, name: ObjectName, bytes: Option<Vec<u8>>) {
        let mut world = self.world();
        world.rewrite(&name);
        match bytes {
            Some(bytes) => drop(world.objects.insert(name, bytes)),
            None => drop(world.objects.remove(&name)),
        }
    }

    /// The names of all objects.
    pub fn names(&self) -> Vec<ObjectName> {
        self.world().objects.keys().copied().collect()
    }

    /// The number of the last entry of the sequence, 0 if there is none; and whether all before it are there.
    pub fn sequence(&self) -> (u64, bool) {
        let world = self.world();
        let entries = world.objects.range(ObjectName::Log(0)..=ObjectName::Log(u64::MAX));
        let numbers = entries.filter_map(|(name, _)| match name {
            ObjectName::Log(n) => Some(*n),
            _ => None,
        });
        numbers.fold((0, true), |(last, whole), n| (n, whole && n == last + 1))
    }

    /// Whether nothing is on its way any more; and how often an entry of the sequence was changed or removed that
    /// was there. While the one is so and the other the same, who has walked the sequence need not walk it anew.
    pub fn is_quiet(&self) -> (bool, u64) {
        let world = self.world();
        (world.late.is_empty(), world.rewritten)
    }

    /// Every create that took effect, in order.
    pub fn created(&self) -> Vec<(ObjectName, Vec<u8>)> {
        self.world().created.clone()
    }

    /// Lets everything that is still on its way arrive.
    pub fn settle(&self) {
        self.world().arrive(u64::MAX);
    }

    /// An independent copy of what is there.
    #[must_use]
    pub fn deep_copy(&self) -> Self {
        let world = self.world();
        let copy = World {
            objects: world.objects.clone(),
            created: world.created.clone(),
            late: world.late.clone(),
            ..World::default()
        };
        Fake { world: Arc::new(Mutex::new(copy)) }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    fn create(&mut self, name: ObjectName, bytes: &[u8]) -> bool {
        if self.objects.contains_key(&name) && !self.both_win {
            return false;
        }
        self.rewrite(&name);
        self.objects.insert(name, bytes.to_vec());
        self.created.push((name, bytes.to_vec()));
        true
    }

    /// What has this name is about to be something else.
    fn rewrite(&mut self, name: &ObjectName) {
        let there = matches!(name, ObjectName::Log(_)) && self.objects.contains_key(name);
        self.rewritten += u64::from(there);
    }

    fn arrive(&mut self, now: u64) {
        if self.late.is_empty() {
            return;
        }
        let late = std::mem::take(&mut self.late);
        for (due, name, bytes) in late {
            match due <= now {
                true => drop(self.create(name, &bytes)),
                false => self.late.push((due, name, bytes)),
            }
        }
    }
}

impl FakeStore {
    /// The same client, taking turns with others.
    #[must_use]
    pub fn in_turn(mut self, turns: &Turns) -> Self {
        let id = turns.enter();
        self.turns = Some((turns.clone(), id));
        self
    }

    /// The `call`th call fails, too.
    pub fn fail_at(&self, call: u64, fault: StoreFault) {
        self.faults().at.insert(call, fault);
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.faults().calls
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call: `act` does it, unless a fault has it otherwise.
    fn call<T>(&self, act: impl FnOnce(&mut World) -> T) -> (Option<T>, Option<StoreFault>) {
        let _turn = self.turns.as_ref().map(|(turns, id)| turns.take(*id));
        let fault = {
            let mut faults = self.faults();
            if faults.killed {
                return (None, Some(StoreFault::KilledBefore));
            }
            faults.calls += 1;
            let calls = faults.calls;
            let random = faults.random.as_mut().and_then(|(seed, per_mille)| {
                let drawn = draw(seed);
                let which = usize::try_from(drawn / 1000 % 6).unwrap_or(0);
                (drawn % 1000 < *per_mille).then(|| StoreFault::ALL[which])
            });
            let fault = faults.at.get(&calls).copied().or(random);
            faults.killed |=
                matches!(fault, Some(StoreFault::KilledBefore | StoreFault::KilledAfter));
            fault
        };
        let mut world = self.fake.world();
        world.calls += 1;
        let now = world.calls;
        world.arrive(now);
        let done = match fault {
            None
            | Some(
                StoreFault::OwnPrecondition | StoreFault::TimeoutAfter | StoreFault::KilledAfter,
            ) => Some(act(&mut world)),
            _ => None,
        };
        (done, fault)
    }

    fn failed(fault: StoreFault) -> Error {
        Error::new(Kind::Io, format!("the store was told to fail: {fault:?}"))
    }

    fn plain<T>(&self, act: impl FnOnce(&mut World) -> T) -> Result<T> {
        match self.call(act) {
            // Only a create knows conditions; a reply that came is a reply.
            (Some(done), None | Some(StoreFault::OwnPrecondition)) => Ok(done),
            (_, fault) => Err(Self::failed(fault.unwrap_or(StoreFault::ServerError))),
        }
    }
}

impl Store for FakeStore {
    fn place(&self) -> String {
        "fake://archive".into()
    }

    fn get_range(&self, name: &ObjectName, from: u64, len: usize) -> Result<Option<Vec<u8>>> {
        self.plain(|world| {
            let object = world.objects.get(name)?;
            let from = usize::try_from(from).map_or(object.len(), |from| from.min(object.len()));
            Some(object[from..object.len().min(from.saturating_add(len))].to_vec())
        })
    }

    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.plain(|world| {
            world.rewrite(name);
            drop(world.objects.insert(*name, bytes.to_vec()));
        })
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create {
        match self.call(|world| world.create(*name, bytes)) {
            (Some(true), None) => Create::Created,
            (Some(false), None) | (_, Some(StoreFault::OwnPrecondition)) => Create::Exists,
            (_, fault) => {
                if let Some(StoreFault::Late(calls)) = fault {
                    let mut world = self.fake.world();
                    let due = world.calls + calls;
                    world.late.push((due, *name, bytes.to_vec()));
                }
                Create::Unknown(Self::failed(fault.unwrap_or(StoreFault::ServerError)))
            }
        }
    }

    fn list(&self, prefix: Prefix) -> Result<Vec<(ObjectName, u64)>> {
        self.plain(|world| {
            let objects = world.objects.iter().filter(|(name, _)| prefix.holds(name));
            let mut found: Vec<_> =
                objects.map(|(name, bytes)| (*name, bytes.len() as u64)).collect();
            if world.stale_lists {
                found.pop();
                found.reverse();
            }
            found
        })
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.plain(|world| {
            world.rewrite(name);
            drop(world.objects.remove(name));
        })
    }

    fn back_off(&self, _attempt: u32) {}
}

impl Drop for FakeStore {
    fn drop(&mut self) {
        if let Some((turns, id)) = &self.turns {
            turns.leave(*id);
        }
    }
}

/// Decides by a seed whose call comes next, so that a race is the same each time.
#[derive(Clone, Debug)]
pub struct Turns(Arc<(Mutex<Order>, Condvar)>);

#[derive(Debug)]
struct Order {
    seed: u64,
    /// Who takes part; one that has left is `false`.
    live: Vec<bool>,
    /// Whose call is next.
    next: usize,
    expected: usize,
}

impl Turns {
    /// Turns for `clients`, who all take part before the first call is let through.
    pub fn new(seed: u64, clients: usize) -> Self {
        let order = Order { seed, live: Vec::new(), next: 0, expected: clients };
        Turns(Arc::new((Mutex::new(order), Condvar::new())))
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> usize {
        let mut order = self.order();
        order.live.push(true);
        if order.live.len() == order.expected {
            order.pick();
        }
        self.0.1.notify_all();
        order.live.len() - 1
    }

    fn leave(&self, id: usize) {
        let mut order = self.order();
        order.live[id] = false;
        order.pick();
        self.0.1.notify_all();
    }

    /// Waits for this client's turn, which lasts until the call is done.
    fn take(&self, id: usize) -> Turn<'_> {
        let mut order = self.order();
        while order.live.len() < order.expected || order.next != id {
            order = self.0.1.wait(order).unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }
}

struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.order().pick();
        self.0.0.1.notify_all();
    }
}

impl Order {
    fn pick(&mut self) {
        let live: Vec<usize> = (0..self.live.len()).filter(|id| self.live[*id]).collect();
        if let Some(count) = u64::try_from(live.len()).ok().filter(|count| *count > 0) {
            let which = usize::try_from(draw(&mut self.seed) % count).unwrap_or(0);
            self.next = live[which];
        }
    }
}

/// The next number of a seed's sequence (SplitMix64).
fn draw(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_do_what_their_names_say() {
        let name = ObjectName::Log(1);
        for (fault, there, said) in [
            (StoreFault::Conflict, false, "Unknown"),
            (StoreFault::OwnPrecondition, true, "Exists"),
            (StoreFault::TimeoutAfter, true, "Unknown"),
            (StoreFault::TimeoutBefore, false, "Unknown"),
            (StoreFault::Late(3), false, "Unknown"),
            (StoreFault::ServerError, false, "Unknown"),
            (StoreFault::KilledAfter, true, "Unknown"),
        ] {
            let fake = Fake::new();
            let store = fake.failing(1, fault);
            let outcome = store.create(&name, b"x");
            assert!(format!("{outcome:?}").starts_with(said), "{fault:?}: {outcome:?}");
            assert_eq!(fake.object(&name).is_some(), there, "{fault:?}");
            assert_eq!(store.get_range(&name, 0, 1).is_err(), fault == StoreFault::KilledAfter);
            fake.settle();
            assert_eq!(fake.object(&name).is_some(), there || fault == StoreFault::Late(3));
        }
    }

    #[test]
    fn gaps_and_changes_in_the_sequence_are_told() {
        let fake = Fake::new();
        assert_eq!((fake.sequence(), fake.is_quiet()), ((0, true), (true, 0)));
        let client = fake.client();
        for n in 1..=3 {
            assert!(matches!(client.create(&ObjectName::Log(n), b"x"), Create::Created));
        }
        client.put(&ObjectName::Head, b"1").unwrap();
        client.put(&ObjectName::Head, b"2").unwrap();
        assert_eq!((fake.sequence(), fake.is_quiet()), ((3, true), (true, 0)));
        client.put(&ObjectName::Log(2), b"y").unwrap();
        client.delete(&ObjectName::Log(2)).unwrap();
        assert_eq!((fake.sequence(), fake.is_quiet()), ((3, false), (true, 2)));
        let late = fake.failing(1, StoreFault::Late(3));
        assert!(matches!(late.create(&ObjectName::Log(4), b"z"), Create::Unknown(_)));
        assert!(!fake.is_quiet().0);
        fake.settle();
        assert_eq!(fake.is_quiet(), (true, 2), "what arrives is new");
    }
}
