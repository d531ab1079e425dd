//! Pins: while there is one, nothing in an archive is pruned; each has an owner, and an end.
//!
//! ```text
//! tidelog pin 1
//! owner <words>          who wants it so, for people
//! made, expires          nanoseconds since the Unix epoch, by the owner's clock
//! crc
//! ```
//!
//! Called by the command line, and by `prune`. Invariants:
//! - a pin that cannot be read counts: it may be of a later version, and keeping costs only room;
//! - a pin ends by the clock of whoever prunes, and [`GRACE`] later, so that clocks may differ.

use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::log::meta::Meta;
use crate::position::Id;

use super::name::{ObjectName, Prefix};
use super::store::Store;

/// A pin counts for so long after its end.
pub const GRACE: Duration = Duration::from_secs(3600);
/// No pin is larger.
const MAX_PIN_BYTES: usize = 4096;
/// An owner is at most so long.
const MAX_OWNER_BYTES: usize = 256;

/// What a pin says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Who wants it so, for people.
    pub owner: String,
    /// When it was made, nanoseconds since the Unix epoch.
    pub made: i64,
    /// When it ends.
    pub expires: i64,
}

impl Pin {
    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut meta = Meta::new("pin");
        meta.set("owner", &self.owner).set("made", self.made).set("expires", self.expires);
        meta.encode()
    }

    /// Reads it back.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let meta = Meta::decode("pin", bytes)?;
        Ok(Pin {
            owner: meta.need("owner")?,
            made: meta.need("made")?,
            expires: meta.need("expires")?,
        })
    }

    /// Whether it has ended, by somebody's clock.
    pub fn has_ended(&self, now: i64) -> bool {
        let grace = i64::try_from(GRACE.as_nanos()).unwrap_or(i64::MAX);
        now > self.expires.saturating_add(grace)
    }
}

/// Sets a pin for a while, from now on by the clock of `fs`; its id is new.
pub fn set_pin(store: &dyn Store, fs: &dyn Fs, owner: &str, during: Duration) -> Result<(Id, Pin)> {
    let plain = !owner.is_empty() && !owner.chars().any(char::is_control);
    if !plain || owner.len() > MAX_OWNER_BYTES {
        return Err(Error::new(
            Kind::InvalidInput,
            format!("expected an owner of 1 to {MAX_OWNER_BYTES} bytes on one line"),
        ));
    }
    let made = fs.now();
    let during = i64::try_from(during.as_nanos()).unwrap_or(i64::MAX);
    let pin = Pin { owner: owner.to_owned(), made, expires: made.saturating_add(during) };
    let mut id = [0; 16];
    let place = store.place();
    let drawn = fs.random(&mut id);
    drawn.map_err(|e| Error::io("draw a pin's id for", Path::new(&place), e))?;
    // A name that was drawn is nobody else's: what is there after a lost answer is this one.
    store.put(&ObjectName::Pin(Id(id)), &pin.encode())?;
    Ok((Id(id), pin))
}

/// Takes a pin away; whether there was one.
pub fn drop_pin(store: &dyn Store, id: Id) -> Result<bool> {
    let name = ObjectName::Pin(id);
    let there = store.get_range(&name, 0, 1)?.is_some();
    store.delete(&name)?;
    Ok(there)
}

/// The pins there are, by id; `None` of one that cannot be read.
pub fn pins(store: &dyn Store) -> Result<Vec<(Id, Option<Pin>)>> {
    let mut found = Vec::new();
    for (name, _) in store.list(Prefix::Pin)? {
        let ObjectName::Pin(id) = name else { continue };
        // Gone since it was listed: dropped.
        let Some(bytes) = store.get_range(&name, 0, MAX_PIN_BYTES)? else { continue };
        found.push((id, Pin::decode(&bytes).ok()));
    }
    found.sort_by_key(|(id, _)| *id);
    Ok(found)
}
