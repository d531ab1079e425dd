//! An object store as the coordinator: nothing but objects, and a create that one of several wins.
//!
//! ```text
//! epoch/<number>      the seat: its owner, won by create-if-absent; the newest number counts
//! lease/<number>      its owner's counter, mark of a degraded spell, address
//! epoch/0             the cluster's log, claimed before there was an epoch
//! member/<node>, paused
//! ```
//!
//! Called through [`Coordinator`]; uses the archive's names, so that a log's publisher and its cluster
//! contend for the same numbers. Works as follows:
//! - a lease that stood still for its whole ttl on the challenger's own boot-time clock is over: no
//!   clock is compared with another's;
//! - numbers are taken one by one up to the one that is wanted, so that whoever holds a seat learns of
//!   the next one by a single name: `epoch/<number + 1>`;
//! - the holder writes, then looks for the next number; a challenger creates the next number, then
//!   reads the mark. So of a mark and a takeover at once, one sees the other.
//!
//! A node that leads without a coordinator and publishes owns a number, too, without a lease: its
//! number is passed by once it stood so for a ttl, or its leader is asked to use the coordinator.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::position::{Epoch, Id, LogByte};
use crate::ship::archive::{
    Create, LeaseMark, ObjectName, Owner, Prefix, Store, encode_paused, probe, read_paused,
};

use super::timing::MAX_TTL;
use super::{
    Claim, Coordinator, Degraded, Holder, Lease, Member, Seat, Take, nanos, not_held, wrong_log,
};

/// Numbers that a take fills in at most: more of them were handed out by something else.
const MAX_FILL: u64 = 4096;

/// One node's connection to an archive's store as the coordinator.
#[derive(Debug)]
pub struct StoreCoordinator {
    store: Arc<dyn Store>,
    fs: Arc<dyn Fs>,
    ttl: Duration,
    /// Whether the store was seen to let one of several creates win.
    probed: bool,
    /// What was found; `None` before the first look.
    there: Option<There>,
    paused: bool,
    /// Which of its objects the next look reads.
    turn: u8,
    mine: Option<Mine>,
}

/// The newest number, as far as it is known.
#[derive(Clone, Debug)]
struct There {
    number: u64,
    /// `None` before there is any.
    owner: Option<Owner>,
    /// What its owner last said.
    lease: Option<LeaseMark>,
    /// What the owner before it said last, where its owner has not said anything: its spell, and when it took
    /// the seat.
    inherited: Option<LeaseMark>,
    log: Option<Id>,
    /// Since when its counter stands still, on this node's clock: after it was first read.
    still_since: u64,
    /// Until when it was seen to stand still.
    still_at: u64,
}

/// The seat that this node holds.
#[derive(Clone, Debug)]
struct Mine {
    lease: LeaseMark,
    until: u64,
}

impl StoreCoordinator {
    /// The archive's store as coordinator. Nothing is asked yet.
    pub fn new(store: Arc<dyn Store>, fs: Arc<dyn Fs>, ttl: Duration) -> Self {
        StoreCoordinator {
            store,
            fs,
            ttl,
            probed: false,
            there: None,
            paused: false,
            turn: 0,
            mine: None,
        }
    }

    /// Without trying the store first: for simulated ones, whose calls come in one order.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn trusted(mut self) -> Self {
        self.probed = true;
        self
    }

    /// Finds the newest number: by the list, which may be late, and from there name by name.
    fn discover(&mut self) -> Result<()> {
        self.list()?;
        self.step()?;
        // Before there is a number, the log may have got its name meanwhile.
        if self.there.as_ref().is_some_and(|there| there.number == 0) {
            let owner = self.owner(0)?;
            self.enter(0, owner)?;
        }
        Ok(())
    }

    fn list(&mut self) -> Result<()> {
        let known = self.there.as_ref().map_or(0, |there| there.number);
        let listed = self.store.list(Prefix::Epoch)?;
        let numbers = listed.iter().filter_map(|(name, _)| match name {
            ObjectName::Epoch(number) => Some(*number),
            _ => None,
        });
        let newest = numbers.max().unwrap_or(0).max(known);
        if self.there.is_none() || newest > known {
            let owner = self.owner(newest)?;
            self.enter(newest, owner)?;
        }
        Ok(())
    }

    /// Goes on to the next number, as long as there is one.
    fn step(&mut self) -> Result<()> {
        loop {
            let number = self.there.as_ref().map_or(0, |there| there.number);
            let Some(next) = number.checked_add(1) else { return Ok(()) };
            match self.owner(next)? {
                Some(owner) => self.enter(next, Some(owner))?,
                None => return Ok(()),
            }
        }
    }

    fn owner(&self, number: u64) -> Result<Option<Owner>> {
        let name = ObjectName::Epoch(number);
        let Some(bytes) = self.store.get(&name, 4096)? else { return Ok(None) };
        let in_file = |e: Error| e.in_file(&self.store.file(&name));
        let owner = Owner::decode(&bytes).map_err(in_file)?;
        match owner.epoch.number == number {
            true => Ok(Some(owner)),
            false => Err(in_file(Error::new(
                Kind::Corrupt,
                format!(
                    "expected the owner of epoch {number}, found that of {}",
                    owner.epoch.number
                ),
            ))),
        }
    }

    /// Takes note of a number that is newer than what was known, with all that stands beside it.
    fn enter(&mut self, number: u64, owner: Option<Owner>) -> Result<()> {
        let log = owner.map(|owner| owner.log);
        // Number 0 is nobody's: it names the log.
        let owner = owner.filter(|_| number > 0);
        let lease = LeaseMark::read(&*self.store, number)?;
        let inherited = match &lease {
            Some(_) => None,
            None => self.lease_before(number)?,
        };
        let now = self.fs.elapsed();
        let there = There { number, owner, lease, inherited, log, still_since: now, still_at: now };
        self.there = Some(there);
        Ok(())
    }

    /// The last lease before a number.
    fn lease_before(&self, number: u64) -> Result<Option<LeaseMark>> {
        let listed = self.store.list(Prefix::Lease)?;
        let before = listed.iter().filter_map(|(name, _)| match name {
            ObjectName::Lease(lease) => Some(*lease).filter(|lease| *lease < number),
            _ => None,
        });
        match before.max() {
            Some(before) => LeaseMark::read(&*self.store, before),
            None => Ok(None),
        }
    }

    /// Reads the newest number's lease, and whether it moved.
    fn watch(&mut self) -> Result<()> {
        // What moved is counted from after it was seen to; what stands still, up to before it was read.
        let before = self.fs.elapsed();
        let Some(number) = self.there.as_ref().map(|there| there.number) else { return Ok(()) };
        let lease = LeaseMark::read(&*self.store, number)?;
        let after = self.fs.elapsed();
        if let Some(there) = &mut self.there {
            if lease != there.lease {
                there.lease = lease;
                there.still_since = after;
            }
            there.still_at = before.max(there.still_since);
        }
        Ok(())
    }

    /// Whether nobody holds the newest number.
    fn is_free(&self) -> bool {
        let Some(there) = &self.there else { return false };
        if there.owner.is_none() {
            return true;
        }
        let lease = there.lease.as_ref();
        // The owner's ttl counts: its own clock runs by that.
        let theirs = lease.map_or(0, |lease| lease.ttl_ms);
        let ttl = self.ttl.max(Duration::from_millis(theirs).min(MAX_TTL));
        lease.is_some_and(|lease| lease.free)
            || there.still_at.saturating_sub(there.still_since) >= nanos(ttl)
    }

    fn seat(&self) -> Seat {
        let Some(there) = &self.there else { return Seat::default() };
        let last = there.owner.map(|owner| {
            let said = |of: fn(&LeaseMark) -> &String| there.lease.as_ref().map(of).cloned();
            Holder {
                node: owner.node,
                name: said(|lease| &lease.name).unwrap_or_default(),
                address: said(|lease| &lease.address).unwrap_or_default(),
                epoch: owner.epoch,
            }
        });
        let said = there.lease.as_ref().or(there.inherited.as_ref());
        let spell = said.and_then(|lease| lease.degraded);
        Seat {
            number: there.number,
            holder: last.clone().filter(|_| !self.is_free()),
            last,
            // Who made the number and never held it has changed nothing.
            taken: said.map(|lease| lease.taken),
            degraded: spell.map(|(epoch, from)| Degraded { epoch, from }),
            paused: self.paused,
            log: there.log,
        }
    }

    /// Everything anew.
    fn look_whole(&mut self) -> Result<Seat> {
        self.discover()?;
        self.watch()?;
        self.paused = read_paused(&*self.store)?;
        Ok(self.seat())
    }

    /// Makes every number up to the claim's its own; `None` when another was quicker.
    fn win(&mut self, claim: &Claim) -> Result<Option<Epoch>> {
        let there = self.there.as_ref().map_or(0, |there| there.number);
        let goal = claim.after(there)?;
        if goal - there > MAX_FILL {
            return Err(Error::new(
                Kind::InvalidInput,
                format!(
                    "expected an epoch near {there}, the newest at {}, found {} in the log",
                    self.place(),
                    claim.seen
                ),
            )
            .help(
                "publish this log to the archive once (`archive push`): its epoch is known then",
            ));
        }
        for number in there + 1..=goal {
            let epoch = Epoch { number, nonce: claim.nonce };
            let owner = Owner { log: claim.log, epoch, node: claim.node };
            match owner.claim(&*self.store) {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Fenced => {
                    self.step()?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(Epoch { number: goal, nonce: claim.nonce }))
    }

    fn mark(&self, claim: &Claim, epoch: Epoch, degraded: Option<(Epoch, LogByte)>) -> LeaseMark {
        LeaseMark {
            log: claim.log,
            epoch,
            node: claim.node,
            name: claim.name.clone(),
            address: claim.address.clone(),
            counter: 0,
            taken: self.fs.now(),
            ttl_ms: u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX),
            free: false,
            degraded,
        }
    }

    /// Begins to hold a number that is this claim's.
    fn hold(&mut self, lease: LeaseMark) -> Result<Take> {
        let (epoch, degraded) = (lease.epoch, lease.degraded);
        self.mine = Some(Mine { lease, until: 0 });
        match self.say(false, degraded) {
            Ok(None) => Ok(Take::Won(epoch)),
            Ok(Some(seat)) => Ok(Take::Held(seat)),
            // Whoever asks again finds the number.
            Err(error) => {
                self.mine = None;
                Err(error)
            }
        }
    }

    /// Writes what the holder says, and looks whether it still is that. `None`: it is.
    fn say(&mut self, free: bool, degraded: Option<(Epoch, LogByte)>) -> Result<Option<Seat>> {
        let Some(mine) = &mut self.mine else { return self.look_whole().map(Some) };
        let before = self.fs.elapsed();
        let mut next = LeaseMark { free, degraded, ..mine.lease.clone() };
        next.counter = next.counter.saturating_add(1);
        mine.lease.counter = next.counter;
        // While nobody knows which of the two stands there, renewals say the one that promises less.
        mine.lease.degraded = next.degraded.or(mine.lease.degraded);
        let number = next.epoch.number;
        self.store.put(&ObjectName::Lease(number), &next.encode())?;
        self.step()?;
        match &mut self.there {
            Some(there) if there.number == number => {
                there.lease = Some(next.clone());
                there.still_since = self.fs.elapsed();
                there.still_at = there.still_since;
            }
            _ => {
                self.mine = None;
                return Ok(Some(self.seat()));
            }
        }
        let until = before.saturating_add(nanos(self.ttl));
        self.mine = Some(Mine { lease: next, until });
        Ok(None)
    }
}

impl Coordinator for StoreCoordinator {
    fn place(&self) -> String {
        self.store.place()
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    /// One object each time, in turn: the lease, the next number, whether failover is paused; of a free
    /// seat the list of numbers, too. All of them at first, and before it says that the seat became free.
    fn look(&mut self) -> Result<Seat> {
        if self.there.is_none() {
            return self.look_whole();
        }
        let was_free = self.is_free();
        match self.turn {
            0 => self.watch()?,
            1 => self.step()?,
            2 => self.paused = read_paused(&*self.store)?,
            _ => self.list()?,
        }
        self.turn = (self.turn + 1) % if was_free { 4 } else { 3 };
        match self.is_free() && !was_free {
            true => self.look_whole(),
            false => Ok(self.seat()),
        }
    }

    fn take(&mut self, claim: &Claim) -> Result<Take> {
        claim.check()?;
        if !self.probed {
            probe(&*self.store, &self.fs)?;
            self.probed = true;
        }
        let seat = self.look_whole()?;
        if let Some(log) = seat.log.filter(|log| *log != claim.log) {
            return Err(wrong_log(&self.place(), claim.log, log));
        }
        let let_go =
            self.there.as_ref().and_then(|there| there.lease.as_ref()).is_some_and(|l| l.free);
        let stands = seat.last.as_ref().filter(|last| last.is(claim) && !let_go);
        if let Some(last) = stands.filter(|last| last.epoch.number > claim.seen) {
            let epoch = last.epoch;
            let said = self.there.as_ref().and_then(|there| there.lease.clone());
            let spell = seat.degraded.map(|spell| (spell.epoch, spell.from));
            return self.hold(said.unwrap_or_else(|| self.mark(claim, epoch, spell)));
        }
        if seat.holder.is_some() && stands.is_none() {
            return Ok(Take::Held(seat));
        }
        let Some(epoch) = self.win(claim)? else { return self.look_whole().map(Take::Held) };
        // Behind the create: a mark that its owner was told of is seen here.
        self.watch()?;
        let spell = self.seat().degraded.map(|spell| (spell.epoch, spell.from));
        let owner = Owner { log: claim.log, epoch, node: claim.node };
        self.enter(epoch.number, Some(owner))?;
        self.hold(self.mark(claim, epoch, spell))
    }

    fn renew(&mut self) -> Result<Lease> {
        let degraded = self.mine.as_ref().and_then(|mine| mine.lease.degraded);
        match self.say(false, degraded)? {
            Some(seat) => Ok(Lease::Lost(seat)),
            None => Ok(Lease::Held { until: self.mine.as_ref().map_or(0, |mine| mine.until) }),
        }
    }

    fn hand_over(&mut self, to: &Claim) -> Result<Take> {
        to.check()?;
        self.step()?;
        let number = self.there.as_ref().map_or(0, |there| there.number);
        let held = self.mine.as_ref().filter(|mine| mine.lease.epoch.number == number).cloned();
        // Its answer may have been lost, or it went halfway: what is there goes on.
        let begun = self.there.as_ref().and_then(|there| there.owner);
        let begun = begun.is_some_and(|o| (o.node, o.epoch.nonce) == (to.node, to.nonce));
        if begun && number > to.seen {
            self.mine = None;
            return Ok(Take::Won(Epoch { number, nonce: to.nonce }));
        }
        if held.is_none() && !begun {
            self.mine = None;
            return self.look_whole().map(Take::Held);
        }
        let spell = self.mine.as_ref().and_then(|mine| mine.lease.degraded);
        let Some(epoch) = self.win(to)? else {
            self.mine = None;
            return self.look_whole().map(Take::Held);
        };
        self.mine = None;
        // A kindness: the other one writes it anew, and finds the spell without it, too.
        let lease = self.mark(to, epoch, spell);
        let _ = self.store.create(&ObjectName::Lease(epoch.number), &lease.encode());
        self.step()?;
        Ok(Take::Won(epoch))
    }

    fn resign(&mut self) -> Result<()> {
        let Some(mine) = &self.mine else { return Ok(()) };
        let degraded = mine.lease.degraded;
        self.say(true, degraded)?;
        self.mine = None;
        Ok(())
    }

    fn degrade(&mut self, from: Option<LogByte>) -> Result<()> {
        let Some((epoch, until)) = self.mine.as_ref().map(|mine| (mine.lease.epoch, mine.until))
        else {
            return Err(not_held(&self.place(), &self.look_whole()?));
        };
        if self.fs.elapsed() >= until {
            return Err(Error::new(
                Kind::Fenced,
                format!("expected to hold the seat at {}, found its time over", self.place()),
            )
            .help("nothing was registered: renew the seat first, if it is still there"));
        }
        match self.say(false, from.map(|from| (epoch, from)))? {
            Some(seat) => Err(not_held(&self.place(), &seat)),
            None => Ok(()),
        }
    }

    fn pause(&mut self, paused: bool) -> Result<()> {
        self.store.put(&ObjectName::Paused, &encode_paused(paused))?;
        self.paused = paused;
        Ok(())
    }

    fn join(&mut self, me: &Member) -> Result<()> {
        me.check()?;
        self.store.put(&ObjectName::Member(me.node), &me.encode())
    }

    fn members(&mut self) -> Result<Vec<Member>> {
        let mut found = Vec::new();
        for (name, _) in self.store.list(Prefix::Member)? {
            let ObjectName::Member(node) = name else { continue };
            found.extend(Member::read(&*self.store, node)?);
        }
        found.sort_unstable();
        Ok(found)
    }

    fn claim_log(&mut self, log: Id) -> Result<Id> {
        self.discover()?;
        if let Some(there) = self.there.as_ref().and_then(|there| there.log) {
            return Ok(there);
        }
        let name = ObjectName::Epoch(0);
        let owner = Owner { log, epoch: Epoch::default(), node: Id::default() };
        let created = self.store.create(&name, &owner.encode());
        match (self.owner(0)?, created) {
            (Some(there), _) => {
                if let Some(known) = &mut self.there {
                    known.log = Some(there.log);
                }
                Ok(there.log)
            }
            (None, Create::Unknown(error)) => Err(error),
            (None, _) => Err(Error::new(Kind::Io, "expected the cluster's log, found none")
                .in_file(Path::new(&self.store.file(&name)))
                .help("the store forgot an object: try again")),
        }
    }
}
