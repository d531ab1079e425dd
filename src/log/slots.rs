//! Retention slots: what each follower still needs, for how long that holds, and what has become of it.
//!
//! Pure: `claims` keeps one [`Slots`] per log, tells it the time and how far the log reaches, and
//! stores its lines in `SLOTS`; `retain` asks which slot stands furthest back.
//!
//! ```text
//!            what retention's limits      a cap is passed, or       it was dropped
//!            alone would keep no more     nobody came in time
//! reserved ──────────────────► extended ──────────────► unreserved ──────────► lost
//!    ▲                                                                            │
//!    └───────── the follower has what it needs again: its next fetch says so ─────┘
//! ```
//!
//! Invariants:
//! - a slot that is reserved or extended is live: nothing at or behind the first log byte it needs is
//!   dropped; an unreserved one holds nothing;
//! - a dead follower holds at most the cap, and at most until its slot expires;
//! - the state is computed from where things stand, never stored: it cannot be stale;
//! - there are at most [`MOST_SLOTS`]; live ones are the last to be pushed out.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::position::{Epoch, Id, LogByte, Offset, Position};

use super::meta::Meta;

/// A log has at most so many slots.
pub const MOST_SLOTS: usize = 1000;
/// A name is cut here.
const MOST_NAME_BYTES: usize = 200;
/// What a slot is given at least when the node starts: its follower must first find it again.
const GRACE: Duration = Duration::from_secs(60);

/// How much of the log, and of the disk, slots may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLimits {
    /// A slot that holds more bytes of frames than this holds nothing any more.
    pub bytes: Option<u64>,
    /// Nor does one whose follower was not heard of for so long.
    pub age: Duration,
    /// Nor does one that holds more than this share of the file system, in percent.
    pub disk_percent: u8,
}

impl Default for SlotLimits {
    /// Seven days, and a fifth of the disk.
    fn default() -> Self {
        SlotLimits { bytes: None, age: Duration::from_secs(7 * 24 * 3600), disk_percent: 20 }
    }
}

impl SlotLimits {
    /// The most bytes a slot may hold on a file system of this size.
    pub(super) fn most_bytes(&self, disk: Option<u64>) -> Option<u64> {
        let share = disk.map(|size| size / 100 * u64::from(self.disk_percent.min(100)));
        self.bytes.into_iter().chain(share).min()
    }
}

/// What a follower says when it fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who.
    pub node: Id,
    /// What people call it.
    pub name: String,
    /// Behind what it holds durably.
    pub position: Position,
    /// The first log byte it needs: where the segment begins that it is still writing.
    pub needs: LogByte,
}

/// What has become of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// What it needs would be kept without it, too.
    Reserved,
    /// What it needs is kept for it alone.
    Extended,
    /// It passed a cap, or was silent for too long: the next retention may drop what it needs.
    Unreserved,
    /// What it needs was dropped: its follower goes on from an archive or a snapshot.
    Lost,
}

impl SlotState {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            SlotState::Reserved => "reserved",
            SlotState::Extended => "extended",
            SlotState::Unreserved => "unreserved",
            SlotState::Lost => "lost",
        }
    }

    /// Whether retention respects it.
    pub fn is_live(self) -> bool {
        matches!(self, SlotState::Reserved | SlotState::Extended)
    }
}

/// A slot, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotStatus {
    /// What the follower said last.
    pub claim: Claim,
    /// What has become of it.
    pub state: SlotState,
    /// When the follower was heard of last, in nanoseconds since the Unix epoch.
    pub seen: i64,
    /// Until when it holds anything, unless the follower is heard of before.
    pub expiry: i64,
    /// Bytes of frames from the first it needs to the log's durable end.
    pub held_bytes: u64,
    /// How many more it may hold; `None` when nothing caps it.
    pub bytes_left: Option<u64>,
}

/// How far the log reaches, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Where it begins.
    pub(super) floor: LogByte,
    /// Where it ends durably.
    pub(super) end: LogByte,
    pub(super) now: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    claim: Claim,
    seen: i64,
    expiry: i64,
}

/// What a claim changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// The time alone.
    Seen,
    /// What it needs.
    Moved,
    /// There was no such slot.
    New,
}

/// The slots of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    most_bytes: Option<u64>,
    pub(super) age: Duration,
    /// Retention's own limits would have dropped everything below.
    pub(super) past: LogByte,
    slots: BTreeMap<Id, Slot>,
}

impl Default for Slots {
    fn default() -> Self {
        let SlotLimits { bytes, age, .. } = SlotLimits::default();
        Slots { most_bytes: bytes, age, past: LogByte(0), slots: BTreeMap::new() }
    }
}

impl Slots {
    /// Sets the caps of a node that starts, and gives everybody the time to be heard of again: what
    /// passed while the node itself was away was nobody's silence.
    pub(super) fn limit(&mut self, most_bytes: Option<u64>, age: Duration, now: i64) {
        (self.most_bytes, self.age) = (most_bytes, age);
        let grace = later(now, age.min(GRACE));
        for slot in self.slots.values_mut() {
            slot.expiry = slot.expiry.max(grace);
        }
    }

    /// Takes a claim.
    pub(super) fn claim(&mut self, mut claim: Claim, reach: &Reach) -> Change {
        // A name is a remark: it may not break the file's line.
        claim.name.retain(|c| !c.is_control());
        while claim.name.len() > MOST_NAME_BYTES {
            claim.name.pop();
        }
        let (seen, expiry) = (reach.now, later(reach.now, self.age));
        let before = self.slots.get(&claim.node).map(|slot| slot.claim.needs);
        let change = match before {
            None => Change::New,
            Some(needs) if needs != claim.needs => Change::Moved,
            Some(_) => Change::Seen,
        };
        if before.is_none() && self.slots.len() >= MOST_SLOTS {
            let rank = |slot: &&Slot| (self.judge(slot, reach).is_live(), slot.seen);
            if let Some(node) = self.slots.values().min_by_key(rank).map(|slot| slot.claim.node) {
                self.slots.remove(&node);
            }
        }
        self.slots.insert(claim.node, Slot { claim, seen, expiry });
        change
    }

    fn judge(&self, slot: &Slot, reach: &Reach) -> SlotState {
        let needs = slot.claim.needs;
        let held = reach.end.0.saturating_sub(needs.0);
        if needs < reach.floor {
            SlotState::Lost
        } else if reach.now >= slot.expiry || self.most_bytes.is_some_and(|most| held > most) {
            SlotState::Unreserved
        } else if needs < self.past {
            SlotState::Extended
        } else {
            SlotState::Reserved
        }
    }

    /// What has become of a node's claim.
    pub(super) fn state(&self, node: Id, reach: &Reach) -> Option<SlotState> {
        self.slots.get(&node).map(|slot| self.judge(slot, reach))
    }

    /// The live claim that needs the most.
    pub(super) fn lowest(&self, reach: &Reach) -> Option<&Claim> {
        let live = self.slots.values().filter(|slot| self.judge(slot, reach).is_live());
        live.map(|slot| &slot.claim).min_by_key(|claim| claim.needs)
    }

    /// Whether there was such a slot.
    pub(super) fn remove(&mut self, node: Id) -> bool {
        self.slots.remove(&node).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Every slot, by node.
    pub(super) fn list(&self, reach: &Reach) -> Vec<SlotStatus> {
        let shown = |slot: &Slot| {
            let held_bytes = reach.end.0.saturating_sub(slot.claim.needs.0);
            SlotStatus {
                claim: slot.claim.clone(),
                state: self.judge(slot, reach),
                seen: slot.seen,
                expiry: slot.expiry,
                held_bytes,
                bytes_left: self.most_bytes.map(|most| most.saturating_sub(held_bytes)),
            }
        };
        self.slots.values().map(shown).collect()
    }

    /// The lines of `SLOTS`.
    pub(super) fn lines(&self, log: Id) -> Meta {
        let mut meta = Meta::new("slots");
        meta.set("log", log).set("past", self.past);
        meta.set("age", u64::try_from(self.age.as_nanos()).unwrap_or(u64::MAX));
        if let Some(most) = self.most_bytes {
            meta.set("most_bytes", most);
        }
        for slot in self.slots.values() {
            meta.set("slot", slot);
        }
        meta
    }

    /// Reads them back. A slot that cannot be read must not be taken for none: it holds something.
    pub(super) fn read(meta: &Meta, log: Id) -> Result<Self> {
        let its: Id = meta.need("log")?;
        if its != log {
            let message = format!("expected the slots of log {log}, found those of {its}");
            return Err(Error::new(Kind::WrongLog, message));
        }
        let slots = meta.all::<String>("slot").map(|line| {
            line.parse::<Slot>().map_err(|()| {
                Error::new(Kind::Corrupt, format!("expected a slot in nine words, found {line:?}"))
            })
        });
        let slots = slots.collect::<Result<Vec<Slot>>>()?;
        Ok(Slots {
            most_bytes: meta.get("most_bytes"),
            age: Duration::from_nanos(meta.need("age")?),
            past: LogByte(meta.need("past")?),
            slots: slots.into_iter().map(|slot| (slot.claim.node, slot)).collect(),
        })
    }
}

fn later(now: i64, duration: Duration) -> i64 {
    now.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Claim { node, name, position, needs } = &self.claim;
        let Epoch { number, nonce } = position.epoch;
        let (byte, offset) = (position.log_byte, position.offset);
        write!(f, "{node} {number} {nonce} {byte} {offset} {needs} {} {}", self.seen, self.expiry)?;
        write!(f, " {name}")
    }
}

impl FromStr for Slot {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.splitn(9, ' ');
        let mut word = || words.next().ok_or(());
        let node = word()?.parse()?;
        let mut number = || -> Result<u64, ()> { word()?.parse().map_err(drop) };
        let epoch = Epoch { number: number()?, nonce: number()? };
        let (log_byte, offset) = (LogByte(number()?), Offset(number()?));
        let needs = LogByte(number()?);
        let mut time = || -> Result<i64, ()> { word()?.parse().map_err(drop) };
        let (seen, expiry) = (time()?, time()?);
        let name = word()?.to_owned();
        let claim = Claim { node, name, position: Position { epoch, log_byte, offset }, needs };
        Ok(Slot { claim, seen, expiry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn claim(node: u128, needs: u64) -> Claim {
        let epoch = Epoch { number: 3, nonce: u64::MAX };
        let position = Position { epoch, log_byte: LogByte(needs + 5), offset: Offset(needs) };
        let name = format!("edge {node}");
        Claim { node: Id(node.to_be_bytes()), name, position, needs: LogByte(needs) }
    }

    fn reach(floor: u64, end: u64, seconds: i64) -> Reach {
        Reach { floor: LogByte(floor), end: LogByte(end), now: seconds * SECOND }
    }

    fn slots(most_bytes: Option<u64>, age: u64) -> Slots {
        let mut slots = Slots::default();
        slots.limit(most_bytes, Duration::from_secs(age), 0);
        slots
    }

    #[test]
    fn a_slot_goes_from_reserved_to_lost_and_comes_back() {
        let mut slots = slots(Some(100), 60);
        let node = claim(1, 0).node;
        assert_eq!(slots.claim(claim(1, 10), &reach(0, 20, 0)), Change::New);
        let state = |slots: &Slots, reach: &Reach| slots.state(node, reach).unwrap();
        assert_eq!(state(&slots, &reach(0, 20, 1)), SlotState::Reserved);
        slots.past = LogByte(11);
        assert_eq!(state(&slots, &reach(10, 110, 1)), SlotState::Extended);
        assert_eq!(slots.lowest(&reach(10, 110, 1)).unwrap().needs, LogByte(10));
        // One byte more than the cap, and it holds nothing; nor does it ever again by itself.
        assert_eq!(state(&slots, &reach(10, 111, 1)), SlotState::Unreserved);
        assert_eq!(slots.lowest(&reach(10, 111, 1)), None);
        assert_eq!(state(&slots, &reach(11, 111, 1)), SlotState::Lost);
        let listed = &slots.list(&reach(11, 70, 1))[0];
        assert_eq!((listed.held_bytes, listed.bytes_left), (60, Some(40)));
        // It came back by another way.
        assert_eq!(slots.claim(claim(1, 90), &reach(11, 111, 2)), Change::Moved);
        assert_eq!(state(&slots, &reach(11, 111, 2)), SlotState::Reserved);
        assert_eq!(slots.claim(claim(1, 90), &reach(11, 111, 3)), Change::Seen);
        assert!(slots.remove(node) && !slots.remove(node) && slots.is_empty());
    }

    #[test]
    fn silence_ends_a_slot_but_not_the_silence_of_the_node_itself() {
        let mut slots = slots(None, 300);
        let node = claim(1, 0).node;
        slots.claim(claim(1, 0), &reach(0, 10, 0));
        let state = |slots: &Slots, now| slots.state(node, &reach(0, 10, now)).unwrap();
        assert_eq!(state(&slots, 299), SlotState::Reserved);
        assert_eq!(state(&slots, 300), SlotState::Unreserved);
        slots.limit(None, Duration::from_secs(300), 1000 * SECOND);
        assert_eq!(state(&slots, 1059), SlotState::Reserved);
        assert_eq!(state(&slots, 1060), SlotState::Unreserved);
        assert_eq!(slots.list(&reach(0, 10, 1060))[0].seen, 0, "it was not heard of meanwhile");
    }

    #[test]
    fn the_smaller_of_the_caps_holds() {
        let limits = |bytes, disk_percent| SlotLimits { bytes, disk_percent, ..Default::default() };
        assert_eq!(limits(None, 20).most_bytes(Some(1000)), Some(200));
        assert_eq!(limits(Some(50), 20).most_bytes(Some(1000)), Some(50));
        assert_eq!(limits(Some(500), 20).most_bytes(Some(1000)), Some(200));
        assert_eq!(limits(Some(500), 20).most_bytes(None), Some(500));
        assert_eq!(limits(None, 20).most_bytes(None), None);
        assert_eq!(limits(None, 200).most_bytes(Some(1000)), Some(1000));
    }

    #[test]
    fn the_live_are_the_last_to_be_pushed_out() {
        let mut slots = slots(Some(100), 10_000);
        // The oldest is live; the one of 500 needs too much.
        for i in 0..MOST_SLOTS as u128 {
            let needs = if i == 500 { 10 } else { 200 };
            slots.claim(claim(i, needs), &reach(0, 210, i64::try_from(i).unwrap()));
        }
        slots.claim(claim(5000, 200), &reach(0, 210, 2000));
        assert_eq!(slots.state(claim(500, 0).node, &reach(0, 210, 2000)), None);
        assert!(slots.state(claim(0, 0).node, &reach(0, 210, 2000)).is_some());
        slots.claim(claim(5001, 200), &reach(0, 210, 2000));
        assert_eq!(slots.state(claim(0, 0).node, &reach(0, 210, 2000)), None);
        assert_eq!(slots.list(&reach(0, 210, 2000)).len(), MOST_SLOTS);
    }

    #[test]
    fn the_file_reads_back_and_is_what_the_format_says() {
        let log = Id([0x11; 16]);
        let mut slots = slots(Some(4096), 60);
        slots.past = LogByte(7);
        let mut odd = claim(2, 90);
        odd.name = "a name\nof two lines".into();
        slots.claim(odd, &reach(0, 100, 2));
        let text = String::from_utf8(slots.lines(log).encode()).unwrap();
        let expected = "tidelog slots 1\n\
            log 11111111-1111-1111-1111-111111111111\n\
            past 7\nage 60000000000\nmost_bytes 4096\n\
            slot 00000000-0000-0000-0000-000000000002 3 18446744073709551615 95 90 90 \
            2000000000 62000000000 a nameof two lines\ncrc ";
        assert!(text.starts_with(expected), "{text}");
        let read = |text: &str| {
            Slots::read(&Meta::decode("slots", text.as_bytes()).unwrap(), log).map_err(|e| e.kind())
        };
        assert_eq!(read(&text), Ok(slots));
        let meta = |line: &str| {
            let mut meta = Meta::new("slots");
            meta.set("log", log).set("past", 0).set("age", 1).set("slot", line);
            String::from_utf8(meta.encode()).unwrap()
        };
        for bad in ["", "x", "00000000-0000-0000-0000-000000000002 3 1 95 90 90 1"] {
            assert_eq!(read(&meta(bad)), Err(Kind::Corrupt), "{bad}");
        }
        assert_eq!(
            Slots::read(&Slots::default().lines(Id([2; 16])), log).unwrap_err().kind(),
            Kind::WrongLog
        );
    }
}
