//! Who owns an epoch number: one object each, made once, never deleted.
//!
//! ```text
//! 0 magic "TIDEPOCH"  8 u32 version  12 u32 0  16 log id  32 u64, u64 epoch  48 node  64 u32 crc
//! ```
//!
//! Called by publishers before their first fence. Two nodes that chose the same number are told
//! apart here, before either appends anything.

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::crc;
use crate::error::{Error, Kind, Result};
use crate::position::{Epoch, Id};

use super::entry::{Put, Take};
use super::name::ObjectName;
use super::sequence::ATTEMPTS;
use super::store::{Create, Store};

/// Bytes of the object.
pub const OWNER_BYTES: usize = 68;
const MAGIC: &[u8; 8] = b"TIDEPOCH";
const VERSION: u32 = 1;

/// Who leads an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The log.
    pub log: Id,
    /// The epoch.
    pub epoch: Epoch,
    /// The node.
    pub node: Id,
}

impl Owner {
    /// The object's bytes.
    pub fn encode(&self) -> [u8; OWNER_BYTES] {
        let mut b = [0; OWNER_BYTES];
        b[..8].copy_from_slice(MAGIC);
        LE::write_u32(&mut b[8..], VERSION);
        let mut put = Put { bytes: &mut b, at: 16 };
        put.id(self.log);
        put.epoch(self.epoch);
        put.id(self.node);
        let crc = crc::crc32c(&b[..64]);
        LE::write_u32(&mut b[64..], crc);
        b
    }

    /// Reads it back; the caller adds the name.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let bad = || {
            let message =
                format!("expected the owner of an epoch, found {} other bytes", bytes.len());
            Error::new(Kind::Corrupt, message)
        };
        let b: &[u8; OWNER_BYTES] = bytes.try_into().map_err(|_| bad())?;
        if &b[..8] != MAGIC || crc::crc32c(&b[..64]) != LE::read_u32(&b[64..]) {
            return Err(bad());
        }
        let mut take = Take { bytes: b, at: 16 };
        let owner = Owner { log: take.id(), epoch: take.epoch(), node: take.id() };
        if owner.encode() == *b { Ok(owner) } else { Err(bad()) }
    }

    /// Makes the epoch's number this owner's, or says whose it is.
    pub fn claim(&self, store: &dyn Store) -> Result<()> {
        let name = ObjectName::Epoch(self.epoch.number);
        let mut trouble = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                store.back_off(attempt);
            }
            match store.create(&name, &self.encode()) {
                Create::Created => return Ok(()),
                Create::Exists => {}
                Create::Unknown(error) => trouble = Some(error),
            }
            let bytes = match store.get(&name, 2 * OWNER_BYTES) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) => {
                    trouble = Some(error);
                    continue;
                }
            };
            let there = Owner::decode(&bytes).map_err(|e| e.in_file(&store.file(&name)))?;
            if there == *self {
                return Ok(());
            }
            if there.log != self.log {
                return Err(Error::new(
                    Kind::WrongLog,
                    format!("expected an archive of log {}, found one of {}", self.log, there.log),
                )
                .in_file(&store.file(&name)));
            }
            return Err(Error::new(
                Kind::Fenced,
                format!(
                    "expected epoch number {} to be free, found it taken by node {} (nonce {:016x})",
                    self.epoch.number, there.node, there.epoch.nonce
                ),
            )
            .in_file(&store.file(&name))
            .help("another node leads by that number: follow it, or open this log for a new epoch"));
        }
        let why = trouble.map_or_else(String::new, |error| format!(": {}", error.message()));
        Err(Error::new(Kind::Unknown, format!("the store did not say who owns the epoch{why}"))
            .in_file(&store.file(&name))
            .help("try again"))
    }
}
