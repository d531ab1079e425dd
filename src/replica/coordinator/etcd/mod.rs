//! etcd as the coordinator: a leader key with a lease, and transactions that compare first.
//!
//! ```text
//! <prefix>/leader           who holds the seat; it goes with its lease
//! <prefix>/epoch            the highest number handed out, to whom, when
//! <prefix>/sync             the degraded spell
//! <prefix>/members/<node>   where a member is found
//! <prefix>/log, paused      the cluster's log; there while failover is paused
//! ```
//!
//! Called through [`Coordinator`]; asks through the [`Gateway`](gateway). Invariants:
//! - taking is one transaction: no leader key, and the epoch key as it was read;
//! - what only the holder may do compares the leader key with the holder's own, nonce included;
//! - values are JSON, and what cannot be read is damage that is named, never passed over.

mod gateway;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::position::{Epoch, Id, LogByte};
use crate::ship::Credentials;

use super::{
    Claim, Coordinator, Degraded, Holder, Lease, Member, Seat, Take, nanos, not_held, wrong_log,
};
use gateway::{Found, Gateway, User, base64};

/// Another one was quicker so often before a take gives up.
const ATTEMPTS: u32 = 4;
/// What a look reads, in this order.
const KEYS: [&str; 5] = ["leader", "epoch", "sync", "log", "paused"];

/// One node's connection to etcd as the coordinator.
#[derive(Debug)]
pub struct EtcdCoordinator {
    gateway: Gateway,
    fs: Arc<dyn Fs>,
    prefix: String,
    place: String,
    ttl: Duration,
    mine: Option<Mine>,
}

/// The seat that this node holds.
#[derive(Clone, Debug)]
struct Mine {
    epoch: Epoch,
    /// The leader key's value.
    value: String,
    lease: String,
}

/// Who etcd is asked as, and for how long one request may go.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// How long a seat is held without being renewed.
    pub ttl: Duration,
    /// A request is given up after so long, at each endpoint.
    pub request: Duration,
    /// Certificates, where etcd is reached by TLS.
    pub credentials: Credentials,
    /// Name and password, where etcd asks for them.
    pub user: Option<(String, String)>,
}

/// What stands there, as it was read in one transaction.
#[derive(Debug)]
struct There {
    seat: Seat,
    /// The leader key's value.
    leader: Option<String>,
    /// The epoch key's revision; 0 where there is none.
    epoch_revision: String,
}

/// The value of the keys `leader` and `epoch`.
#[derive(Serialize, Deserialize)]
struct Taken {
    log: String,
    node: String,
    name: String,
    address: String,
    number: u64,
    nonce: String,
    taken: i64,
}

/// The value of the key `sync`.
#[derive(Serialize, Deserialize)]
struct Spell {
    number: u64,
    nonce: String,
    from: u64,
}

/// The value of a member's key.
#[derive(Serialize, Deserialize)]
struct Joined {
    node: String,
    name: String,
    address: String,
}

impl EtcdCoordinator {
    /// etcd at these endpoints (`http://host:port`), with its keys under `prefix`. Nothing is asked yet.
    pub fn new(
        endpoints: &[String],
        prefix: &str,
        fs: Arc<dyn Fs>,
        options: EtcdOptions,
    ) -> Result<Self> {
        let place = format!("etcd at {}, under {prefix}", endpoints.join(", "));
        let user = options.user.map(|(name, password)| User { name, password });
        let gateway =
            Gateway::new(endpoints, place.clone(), &options.credentials, user, options.request)?;
        let prefix = prefix.to_owned();
        Ok(EtcdCoordinator { gateway, fs, prefix, place, ttl: options.ttl, mine: None })
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    fn put(&self, name: &str, value: &str) -> Value {
        json!({ "requestPut": { "key": base64(self.key(name)), "value": base64(value) } })
    }

    fn put_leased(&self, name: &str, value: &str, lease: &str) -> Value {
        json!({ "requestPut": {
            "key": base64(self.key(name)), "value": base64(value), "lease": lease,
        } })
    }

    fn delete(&self, name: &str) -> Value {
        json!({ "requestDeleteRange": { "key": base64(self.key(name)) } })
    }

    fn is_absent(&self, name: &str) -> Value {
        json!({
            "key": base64(self.key(name)), "target": "CREATE", "result": "EQUAL",
            "createRevision": "0",
        })
    }

    fn is_of_revision(&self, name: &str, revision: &str) -> Value {
        json!({
            "key": base64(self.key(name)), "target": "MOD", "result": "EQUAL",
            "modRevision": revision,
        })
    }

    fn is(&self, name: &str, value: &str) -> Value {
        json!({
            "key": base64(self.key(name)), "target": "VALUE", "result": "EQUAL",
            "value": base64(value),
        })
    }

    /// What reads everything that a seat is made of.
    fn reads(&self) -> Vec<Value> {
        KEYS.iter()
            .map(|name| json!({ "requestRange": { "key": base64(self.key(name)) } }))
            .collect()
    }

    fn read(&mut self) -> Result<There> {
        let reads = self.reads();
        let outcome = self.gateway.txn(&[], &reads, &[])?;
        self.there(outcome.ranges)
    }

    fn there(&self, ranges: Vec<Vec<Found>>) -> Result<There> {
        let found: Vec<Option<Found>> =
            ranges.into_iter().map(|range| range.into_iter().next()).collect();
        let Ok([leader, epoch, sync, log, paused]) = <[_; 5]>::try_from(found) else {
            return Err(Error::new(
                Kind::Io,
                format!("expected {} keys asked for from {}, found others", KEYS.len(), self.place),
            )
            .help("is that etcd 3.4 or newer, with its gateway on?"));
        };
        let holder = leader.as_ref().map(|found| self.taken("leader", found)).transpose()?;
        let last = epoch.as_ref().map(|found| self.taken("epoch", found)).transpose()?;
        let number = |taken: &Option<(Holder, i64)>| taken.as_ref().map_or(0, |t| t.0.epoch.number);
        let spell = sync.as_ref().map(|found| self.json::<Spell>("sync", found)).transpose()?;
        let degraded = spell.map(|spell| {
            let nonce = self.nonce("sync", &spell.nonce)?;
            let epoch = Epoch { number: spell.number, nonce };
            Ok::<_, Error>(Degraded { epoch, from: LogByte(spell.from) })
        });
        let seat = Seat {
            number: number(&last).max(number(&holder)),
            taken: last.as_ref().map(|(_, taken)| *taken),
            holder: holder.map(|(holder, _)| holder),
            last: last.map(|(last, _)| last),
            degraded: degraded.transpose()?,
            paused: paused.is_some(),
            log: log.map(|found| self.id("log", &self.text("log", &found)?)).transpose()?,
        };
        let leader = leader.map(|found| self.text("leader", &found)).transpose()?;
        let epoch_revision = epoch.map_or_else(|| "0".to_owned(), |found| found.revision);
        Ok(There { seat, leader, epoch_revision })
    }

    fn bad(&self, name: &str) -> Error {
        Error::new(
            Kind::Corrupt,
            format!("expected what tidelog wrote, found something else ({})", self.place),
        )
        .in_file(Path::new(&self.key(name)))
        .help("something other than tidelog wrote there: give the cluster a prefix of its own")
    }

    fn text(&self, name: &str, found: &Found) -> Result<String> {
        String::from_utf8(found.value.clone()).map_err(|_| self.bad(name))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str, found: &Found) -> Result<T> {
        serde_json::from_slice(&found.value).map_err(|_| self.bad(name))
    }

    fn id(&self, name: &str, text: &str) -> Result<Id> {
        text.parse().map_err(|()| self.bad(name))
    }

    fn nonce(&self, name: &str, text: &str) -> Result<u64> {
        u64::from_str_radix(text, 16).map_err(|_| self.bad(name))
    }

    fn taken(&self, name: &str, found: &Found) -> Result<(Holder, i64)> {
        let taken: Taken = self.json(name, found)?;
        let epoch = Epoch { number: taken.number, nonce: self.nonce(name, &taken.nonce)? };
        let node = self.id(name, &taken.node)?;
        Ok((Holder { node, name: taken.name, address: taken.address, epoch }, taken.taken))
    }

    fn value(&self, claim: &Claim, number: u64) -> String {
        json!(Taken {
            log: claim.log.to_string(),
            node: claim.node.to_string(),
            name: claim.name.clone(),
            address: claim.address.clone(),
            number,
            nonce: format!("{:016x}", claim.nonce),
            taken: self.fs.now(),
        })
        .to_string()
    }

    fn seconds(&self) -> u64 {
        self.ttl.as_secs() + u64::from(self.ttl.subsec_nanos() > 0)
    }

    /// Puts a lease of this node's own on a seat that is already the claim's.
    fn adopt(&mut self, epoch: Epoch, value: String) -> Result<Take> {
        let lease = self.gateway.grant(self.seconds())?;
        let compare = [self.is("leader", &value)];
        let success = [self.put_leased("leader", &value, &lease)];
        let reads = self.reads();
        let outcome = self.gateway.txn(&compare, &success, &reads)?;
        if outcome.held {
            self.mine = Some(Mine { epoch, value, lease });
            return Ok(Take::Won(epoch));
        }
        let _ = self.gateway.revoke(&lease);
        Ok(Take::Held(self.there(outcome.ranges)?.seat))
    }

    /// Moves the seat to a claim by the next number, if everything in `compare` is so. `Err` inside: it is
    /// not, and this stands there.
    fn seat_for(
        &mut self,
        claim: &Claim,
        there: &There,
        guard: Value,
    ) -> Result<Result<Mine, There>> {
        let number = claim.after(there.seat.number)?;
        let value = self.value(claim, number);
        let lease = self.gateway.grant(self.seconds())?;
        let mut compare = vec![guard, self.is_of_revision("epoch", &there.epoch_revision)];
        let mut success =
            vec![self.put_leased("leader", &value, &lease), self.put("epoch", &value)];
        if there.seat.log.is_none() {
            compare.push(self.is_absent("log"));
            success.push(self.put("log", &claim.log.to_string()));
        }
        let reads = self.reads();
        let outcome = self.gateway.txn(&compare, &success, &reads)?;
        if outcome.held {
            let epoch = Epoch { number, nonce: claim.nonce };
            return Ok(Ok(Mine { epoch, value, lease }));
        }
        let there = self.there(outcome.ranges)?;
        // Sent a second time, it finds itself.
        if there.leader.as_deref() != Some(&*value) {
            let _ = self.gateway.revoke(&lease);
        }
        Ok(Err(there))
    }

    fn checked(&self, claim: &Claim, there: &There) -> Result<()> {
        match there.seat.log.filter(|log| *log != claim.log) {
            Some(log) => Err(wrong_log(&self.place, claim.log, log)),
            None => Ok(()),
        }
    }
}

impl Coordinator for EtcdCoordinator {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    fn look(&mut self) -> Result<Seat> {
        self.read().map(|there| there.seat)
    }

    fn take(&mut self, claim: &Claim) -> Result<Take> {
        claim.check()?;
        let mut there = self.read()?;
        for _ in 0..ATTEMPTS {
            self.checked(claim, &there)?;
            match (&there.seat.holder, &there.leader) {
                (Some(holder), Some(value)) if holder.is(claim) => {
                    let (epoch, value) = (holder.epoch, value.clone());
                    return self.adopt(epoch, value);
                }
                (Some(_), _) => return Ok(Take::Held(there.seat)),
                (None, _) => {}
            }
            let guard = self.is_absent("leader");
            there = match self.seat_for(claim, &there, guard)? {
                Ok(mine) => {
                    let epoch = mine.epoch;
                    self.mine = Some(mine);
                    return Ok(Take::Won(epoch));
                }
                Err(there) => there,
            };
        }
        Ok(Take::Held(there.seat))
    }

    fn renew(&mut self) -> Result<Lease> {
        let Some(mine) = self.mine.clone() else { return self.look().map(Lease::Lost) };
        let before = self.fs.elapsed();
        let kept = self.gateway.keep_alive(&mine.lease)?;
        // A lease that lasts is not all: somebody may have removed the key, or put back a backup.
        let there = self.read()?;
        match kept.filter(|_| there.leader.as_deref() == Some(&*mine.value)) {
            Some(seconds) => {
                let ttl = self.ttl.min(Duration::from_secs(seconds));
                Ok(Lease::Held { until: before.saturating_add(nanos(ttl)) })
            }
            None => {
                self.mine = None;
                Ok(Lease::Lost(there.seat))
            }
        }
    }

    fn hand_over(&mut self, to: &Claim) -> Result<Take> {
        to.check()?;
        let there = self.read()?;
        self.checked(to, &there)?;
        if let Some(holder) = there.seat.holder.as_ref().filter(|holder| holder.is(to)) {
            let epoch = holder.epoch;
            self.mine = None;
            return Ok(Take::Won(epoch));
        }
        let Some(mine) = self.mine.clone() else { return Ok(Take::Held(there.seat)) };
        let guard = self.is("leader", &mine.value);
        match self.seat_for(to, &there, guard)? {
            Ok(theirs) => {
                self.mine = None;
                // Nothing hangs on it any more.
                let _ = self.gateway.revoke(&mine.lease);
                Ok(Take::Won(theirs.epoch))
            }
            Err(there) => {
                if let Some(holder) = there.seat.holder.as_ref().filter(|holder| holder.is(to)) {
                    let epoch = holder.epoch;
                    self.mine = None;
                    return Ok(Take::Won(epoch));
                }
                if there.leader.as_deref() != Some(&*mine.value) {
                    self.mine = None;
                }
                Ok(Take::Held(there.seat))
            }
        }
    }

    fn resign(&mut self) -> Result<()> {
        let Some(mine) = &self.mine else { return Ok(()) };
        let lease = mine.lease.clone();
        self.gateway.revoke(&lease)?;
        self.mine = None;
        Ok(())
    }

    fn degrade(&mut self, from: Option<LogByte>) -> Result<()> {
        let Some(mine) = self.mine.clone() else {
            return Err(not_held(&self.place.clone(), &self.look()?));
        };
        let change = match from {
            Some(from) => {
                let Epoch { number, nonce } = mine.epoch;
                let spell = Spell { number, nonce: format!("{nonce:016x}"), from: from.0 };
                self.put("sync", &json!(spell).to_string())
            }
            None => self.delete("sync"),
        };
        let compare = [self.is("leader", &mine.value)];
        let reads = self.reads();
        let outcome = self.gateway.txn(&compare, &[change], &reads)?;
        match outcome.held {
            true => Ok(()),
            false => Err(not_held(&self.place, &self.there(outcome.ranges)?.seat)),
        }
    }

    fn pause(&mut self, paused: bool) -> Result<()> {
        let change = match paused {
            true => self.put("paused", "1"),
            false => self.delete("paused"),
        };
        self.gateway.txn(&[], &[change], &[]).map(drop)
    }

    fn join(&mut self, me: &Member) -> Result<()> {
        me.check()?;
        let joined = Joined {
            node: me.node.to_string(),
            name: me.name.clone(),
            address: me.address.clone(),
        };
        let put = self.put(&format!("members/{}", me.node), &json!(joined).to_string());
        self.gateway.txn(&[], &[put], &[]).map(drop)
    }

    fn members(&mut self) -> Result<Vec<Member>> {
        // The byte behind the slash ends the range.
        let (from, to) = (self.key("members/"), self.key("members0"));
        let found = self.gateway.range(&from, &to)?;
        let member = |found: Found| {
            let joined: Joined = self.json("members/", &found)?;
            let node = self.id("members/", &joined.node)?;
            Ok(Member { node, name: joined.name, address: joined.address })
        };
        let mut members = found.into_iter().map(member).collect::<Result<Vec<_>>>()?;
        members.sort_unstable();
        Ok(members)
    }

    fn claim_log(&mut self, log: Id) -> Result<Id> {
        let compare = [self.is_absent("log")];
        let success = [self.put("log", &log.to_string())];
        let reads = self.reads();
        let outcome = self.gateway.txn(&compare, &success, &reads)?;
        if outcome.held {
            return Ok(log);
        }
        let there = self.there(outcome.ranges)?.seat.log;
        there.ok_or_else(|| self.bad("log"))
    }
}
