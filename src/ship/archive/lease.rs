//! What whoever owns an epoch number says while it leads; who is there; whether failover is paused.
//!
//! ```text
//! tidelog lease 1        tidelog member 1       tidelog paused 1
//! log <uuid>             node <uuid>            paused 0 or 1
//! epoch <number>         name <words>           crc
//! nonce <hex>            address <words>
//! node <uuid>            crc
//! name <words>
//! address <words>
//! counter                higher with every renewal
//! taken                  nanoseconds since the Unix epoch, by the owner's clock
//! ttl                    milliseconds
//! free 0 or 1            1: its owner has let go
//! degraded <number> <nonce> <log byte>    while a spell lasts
//! crc
//! ```
//!
//! Called by the coordinator in an object store. Invariant: each lease is written by the owner of its
//! number alone, so nobody's write is ever written over by another's.

use crate::error::{Error, Kind, Result};
use crate::log::meta::Meta;
use crate::position::{Epoch, Id, LogByte};

use super::name::ObjectName;
use super::store::Store;

/// No such object is larger.
const MAX_BYTES: usize = 4096;

/// What the owner of an epoch number says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseMark {
    /// The log.
    pub log: Id,
    /// The epoch; its number is the object's.
    pub epoch: Epoch,
    /// The owner.
    pub node: Id,
    /// What people call it.
    pub name: String,
    /// Where it serves.
    pub address: String,
    /// Higher with every renewal: a lease whose counter stands still is over after its ttl.
    pub counter: u64,
    /// When the epoch was taken, nanoseconds since the Unix epoch by the owner's clock.
    pub taken: i64,
    /// How long it lasts, in milliseconds.
    pub ttl_ms: u64,
    /// Whether the owner has let go of it.
    pub free: bool,
    /// The spell in which less is promised: whose, and behind which log byte it began.
    pub degraded: Option<(Epoch, LogByte)>,
}

impl LeaseMark {
    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut meta = Meta::new("lease");
        meta.set("log", self.log)
            .set("epoch", self.epoch.number)
            .set("nonce", format_args!("{:016x}", self.epoch.nonce))
            .set("node", self.node)
            .set("name", &self.name)
            .set("address", &self.address)
            .set("counter", self.counter)
            .set("taken", self.taken)
            .set("ttl", self.ttl_ms)
            .set("free", u8::from(self.free));
        if let Some((epoch, from)) = self.degraded {
            let Epoch { number, nonce } = epoch;
            meta.set("degraded", format_args!("{number} {nonce:016x} {from}"));
        }
        meta.encode()
    }

    /// Reads it back; the caller adds the name.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let meta = Meta::decode("lease", bytes)?;
        let mark = LeaseMark {
            log: meta.need("log")?,
            epoch: Epoch {
                number: meta.need("epoch")?,
                nonce: nonce(&meta.need::<String>("nonce")?)
                    .ok_or_else(|| bad("lease", "nonce"))?,
            },
            node: meta.need("node")?,
            name: meta.need("name")?,
            address: meta.need("address")?,
            counter: meta.need("counter")?,
            taken: meta.need("taken")?,
            ttl_ms: meta.need("ttl")?,
            free: meta.need::<u8>("free")? == 1,
            degraded: meta
                .get::<String>("degraded")
                .map(|text| spell(&text).ok_or_else(|| bad("lease", "degraded")))
                .transpose()?,
        };
        match mark.encode() == bytes {
            true => Ok(mark),
            false => Err(bad("lease", "order of lines")),
        }
    }

    /// The lease of an epoch number; `None` before its owner has written any.
    pub fn read(store: &dyn Store, number: u64) -> Result<Option<Self>> {
        let name = ObjectName::Lease(number);
        let Some(bytes) = store.get(&name, MAX_BYTES)? else { return Ok(None) };
        let mark = LeaseMark::decode(&bytes).map_err(|e| e.in_file(&store.file(&name)))?;
        match mark.epoch.number == number {
            true => Ok(Some(mark)),
            false => Err(bad("lease", "epoch").in_file(&store.file(&name))),
        }
    }
}

/// A node of a cluster, and where it is found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The node; the object's name, too.
    pub node: Id,
    /// What people call it.
    pub name: String,
    /// Where it serves.
    pub address: String,
}

impl Member {
    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut meta = Meta::new("member");
        meta.set("node", self.node).set("name", &self.name).set("address", &self.address);
        meta.encode()
    }

    /// Reads it back; the caller adds the name.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let meta = Meta::decode("member", bytes)?;
        Ok(Member {
            node: meta.need("node")?,
            name: meta.need("name")?,
            address: meta.need("address")?,
        })
    }

    /// A member; `None` if it is none.
    pub fn read(store: &dyn Store, node: Id) -> Result<Option<Self>> {
        let name = ObjectName::Member(node);
        let Some(bytes) = store.get(&name, MAX_BYTES)? else { return Ok(None) };
        let mark = Member::decode(&bytes).map_err(|e| e.in_file(&store.file(&name)))?;
        match mark.node == node {
            true => Ok(Some(mark)),
            false => Err(bad("member", "node").in_file(&store.file(&name))),
        }
    }
}

/// The object that says whether failover is paused.
pub fn encode_paused(paused: bool) -> Vec<u8> {
    let mut meta = Meta::new("paused");
    meta.set("paused", u8::from(paused));
    meta.encode()
}

/// Whether failover is paused.
pub fn read_paused(store: &dyn Store) -> Result<bool> {
    let Some(bytes) = store.get(&ObjectName::Paused, MAX_BYTES)? else { return Ok(false) };
    let paused = Meta::decode("paused", &bytes).and_then(|meta| meta.need::<u8>("paused"));
    Ok(paused.map_err(|e| e.in_file(&store.file(&ObjectName::Paused)))? == 1)
}

fn nonce(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn spell(text: &str) -> Option<(Epoch, LogByte)> {
    let mut parts = text.split(' ');
    let number = parts.next()?.parse().ok()?;
    let epoch = Epoch { number, nonce: nonce(parts.next()?)? };
    Some((epoch, LogByte(parts.next()?.parse().ok()?)))
}

fn bad(what: &str, key: &str) -> Error {
    Error::new(Kind::Corrupt, format!("expected a {what} with a valid `{key}`, found none"))
}
