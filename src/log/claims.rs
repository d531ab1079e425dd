//! Keeps the slots of an open log, and their file `SLOTS`.
//!
//! Called by `server` for each fetch and by the command line; `retain` holds the slots while it
//! decides what goes. `slots` has the rules, and the lines of the file.
//!
//! Invariants:
//! - the process that writes the log keeps the slots in memory, and writes them rarely: when a node
//!   is new, every [`MOVED`] while something moves, and every quarter of the age that ends a slot while
//!   nothing does. What the file says of a follower is at most that old, and asks for more than the
//!   follower needs, never for less;
//! - others read the file;
//! - a file that cannot be read holds everything: retention stops with its error.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::position::Id;

use super::cursors::CursorState;
use super::files::Layout;
use super::meta::Meta;
use super::slots::{Change, Claim, Reach, SlotLimits, SlotState, SlotStatus, Slots};
use super::{Log, Shared};

/// A slot that moved is written this much later, at most.
pub const MOVED: Duration = Duration::from_secs(10);
/// One whose follower was only heard of, at most this much later.
const HEARD: Duration = Duration::from_secs(3600);

/// What holds a log for somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A follower's slot.
    Slot(SlotStatus),
    /// A consumer's named cursor.
    Cursor(CursorState),
}

/// The slots, once somebody has asked for them.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<Option<Kept>>);

/// What the mutex guards: the slots and when they were written.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) slots: Slots,
    /// What the file does not say yet.
    unsaved: Option<Change>,
    /// On the clock that never jumps.
    saved: u64,
}

impl Kept {
    /// Notes how far retention's own limits reach.
    pub(super) fn passed(&mut self, past: crate::position::LogByte) {
        if self.slots.past != past && !self.slots.is_empty() {
            self.unsaved = self.unsaved.max(Some(Change::Moved));
        }
        self.slots.past = past;
    }

    fn is_due(&self, elapsed: u64) -> bool {
        let wait = match self.unsaved {
            None => return false,
            Some(Change::New) => return true,
            Some(Change::Moved) => MOVED,
            Some(Change::Seen) => (self.slots.age / 4).clamp(MOVED, HEARD),
        };
        Duration::from_nanos(elapsed.saturating_sub(self.saved)) >= wait
    }
}

impl Shared {
    /// Runs `work` on the slots. Who does not write the log reads them anew each time.
    pub(super) fn with_slots<T>(&self, work: impl FnOnce(&mut Kept) -> Result<T>) -> Result<T> {
        let mut kept = lock(&self.claims);
        if !self.is_held() {
            *kept = None;
        }
        let kept = match &mut *kept {
            Some(kept) => kept,
            none => none.insert(Kept {
                slots: read_slots(&*self.fs, &self.layout, self.log.id)?,
                unsaved: None,
                saved: self.fs.elapsed(),
            }),
        };
        work(kept)
    }

    /// Whether this process has the log's lock.
    fn is_held(&self) -> bool {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn must_be_held(&self) -> Result<()> {
        if self.is_held() {
            return Ok(());
        }
        let message = "expected a log that is open for writing, found one that is only read";
        Err(Error::new(Kind::InvalidInput, message)
            .in_file(&self.layout.slots())
            .help("open it for writing, or ask the node that serves it"))
    }

    pub(super) fn reach(&self) -> Reach {
        let end = self.ends.durable().0;
        let floor = self.catalog.list().first().map_or(end, |segment| segment.header.base);
        Reach { floor, end, now: self.fs.now() }
    }

    fn save(&self, kept: &mut Kept) -> Result<()> {
        // Also after a failure, which is tried again as if something had moved: a full disk is not
        // asked at each fetch.
        (kept.saved, kept.unsaved) = (self.fs.elapsed(), Some(Change::Moved));
        kept.slots.lines(self.log.id).replace(&*self.fs, &self.layout.slots())?;
        kept.unsaved = None;
        Ok(())
    }

    /// Writes what the file lacks; before segments are dropped.
    pub(super) fn settle_slots(&self, kept: &mut Kept) -> Result<()> {
        if kept.unsaved.is_some() { self.save(kept) } else { Ok(()) }
    }

    /// Writes what the file lacks; before the log's lock is let go of.
    pub(super) fn save_slots(&self) -> Result<()> {
        match &mut *lock(&self.claims) {
            Some(kept) if kept.unsaved.is_some() => self.save(kept),
            _ => Ok(()),
        }
    }
}

/// The slots of a log's directory; none when nobody ever claimed anything.
pub(super) fn read_slots(fs: &dyn Fs, layout: &Layout, log: Id) -> Result<Slots> {
    let path = layout.slots();
    let read = || match Meta::read(fs, &path, "slots")? {
        Some(meta) => Slots::read(&meta, log).map_err(|e| e.in_file(&path)),
        None => Ok(Slots::default()),
    };
    read().map_err(|e| match e.kind() {
        Kind::Corrupt | Kind::WrongLog => {
            e.help("delete it: followers that fetch have a slot again, others hold nothing")
        }
        _ => e,
    })
}

fn lock(claims: &Claims) -> MutexGuard<'_, Option<Kept>> {
    claims.0.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// Takes note of what a follower has and needs; says what has become of that. From then on
    /// retention keeps it, within the limits. A node's first claim is durable when this returns.
    pub fn claim(&self, claim: Claim) -> Result<SlotState> {
        let shared = &self.shared;
        shared.must_be_held()?;
        shared.with_slots(|kept| {
            let (node, reach) = (claim.node, shared.reach());
            let change = kept.slots.claim(claim, &reach);
            kept.unsaved = kept.unsaved.max(Some(change));
            if kept.is_due(shared.fs.elapsed()) {
                shared.save(kept)?;
            }
            Ok(kept.slots.state(node, &reach).unwrap_or(SlotState::Reserved))
        })
    }

    /// Sets how much slots may hold. A node does so when it starts: no slot expires within the
    /// minute that follows, so that followers can be heard of again.
    pub fn limit_slots(&self, limits: &SlotLimits) -> Result<()> {
        let shared = &self.shared;
        shared.must_be_held()?;
        let root = &shared.layout.root;
        let disk = shared.fs.capacity(root).map_err(|e| Error::io("size the disk of", root, e))?;
        let now = shared.fs.now();
        shared.with_slots(|kept| {
            let before = kept.slots.clone();
            kept.slots.limit(limits.most_bytes(disk), limits.age, now);
            if before != kept.slots && !before.is_empty() {
                kept.unsaved = kept.unsaved.max(Some(Change::Moved));
            }
            Ok(())
        })
    }

    /// The slots of those who pull from this log. Of a log that another process writes: as that
    /// process last wrote them down.
    pub fn slots(&self) -> Result<Vec<SlotStatus>> {
        let reach = self.shared.reach();
        self.shared.with_slots(|kept| Ok(kept.slots.list(&reach)))
    }

    /// What holds the log under this name: a follower's slot, by its node id or by what the follower
    /// is called, or a named cursor. `None` when nothing does.
    pub fn hold(&self, name: &str) -> Result<Option<Hold>> {
        let slots = self.slots()?;
        if let Ok(node) = name.parse::<Id>() {
            let slot = slots.into_iter().find(|slot| slot.claim.node == node);
            return Ok(slot.map(Hold::Slot));
        }
        let slots = slots.into_iter().filter(|slot| slot.claim.name == name).map(Hold::Slot);
        let cursors = self.cursors()?.into_iter().filter(|cursor| cursor.name == name);
        let mut holds = slots.chain(cursors.map(Hold::Cursor));
        let (first, more) = (holds.next(), holds.count());
        match more {
            0 => Ok(first),
            _ => Err(Error::new(
                Kind::InvalidInput,
                format!("expected one slot or cursor called {name}, found {}", more + 1),
            )
            .help("name a slot by its node id")),
        }
    }

    /// Lets go of what is held; whether it was still there.
    pub fn release(&self, hold: &Hold) -> Result<bool> {
        match hold {
            Hold::Slot(slot) => self.drop_slot(slot.claim.node),
            Hold::Cursor(cursor) => self.drop_cursor(&cursor.name),
        }
    }

    /// Forgets a node's slot, durably; whether there was one. A node that goes on fetching has one
    /// again.
    pub fn drop_slot(&self, node: Id) -> Result<bool> {
        let shared = &self.shared;
        shared.must_be_held()?;
        shared.with_slots(|kept| {
            let removed = kept.slots.remove(node);
            if removed {
                shared.save(kept)?;
            }
            Ok(removed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{MIN_SEGMENT_BYTES, Retention};
    use crate::position::{LogByte, Position};
    use crate::record::Record;

    fn claim(node: u8, needs: LogByte) -> Claim {
        let position = Position { log_byte: needs, ..Position::default() };
        Claim { node: Id([node; 16]), name: "edge".into(), position, needs }
    }

    fn filled(path: &std::path::Path) -> Log {
        // Without a worker what was rolled is sealed when an append returns.
        let options = Log::options().create(true).segment_bytes(MIN_SEGMENT_BYTES).worker(false);
        let log = options.open(path).unwrap();
        for _ in 0..60 {
            log.append(&Record::event(&[7; 8 << 10])).unwrap();
        }
        log
    }

    fn keep_little(log: &Log) -> crate::log::Retained {
        log.retain(&Retention { keep_bytes: Some(1), ..Retention::default() }).unwrap()
    }

    #[test]
    fn what_a_slot_needs_is_kept_also_by_the_next_process_and_no_further_than_the_cap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = filled(&path);
        assert_eq!(log.slots().unwrap(), []);
        assert_eq!(log.claim(claim(1, LogByte(0))).unwrap(), SlotState::Reserved);
        assert!(path.join("SLOTS").exists(), "a first claim is durable");
        let kept = keep_little(&log);
        assert_eq!((kept.files.len(), kept.held_by.unwrap().slot), (0, Some(Id([1; 16]))));
        assert_eq!(log.slots().unwrap()[0].state, SlotState::Extended);
        let third = log.segments()[2].base;
        assert_eq!(log.claim(claim(1, third)).unwrap(), SlotState::Extended);
        log.close().unwrap();

        // The close wrote where it had got to.
        let log = Log::options().read_only(true).open(&path).unwrap();
        assert_eq!(log.slots().unwrap()[0].claim, claim(1, third));
        assert_eq!(log.claim(claim(2, third)).unwrap_err().kind(), Kind::InvalidInput);
        drop(log);
        let log = Log::options().open(&path).unwrap();
        let dropped = keep_little(&log);
        assert_eq!((dropped.files.len(), log.segments()[0].base), (2, third));

        let limits = SlotLimits { bytes: Some(MIN_SEGMENT_BYTES), ..SlotLimits::default() };
        log.limit_slots(&limits).unwrap();
        assert_eq!(log.slots().unwrap()[0].state, SlotState::Unreserved);
        let dropped = keep_little(&log);
        assert!(!dropped.files.is_empty() && dropped.held_by.is_none(), "{dropped:?}");
        assert_eq!(log.slots().unwrap()[0].state, SlotState::Lost);
        assert!(log.drop_slot(Id([1; 16])).unwrap() && !log.drop_slot(Id([1; 16])).unwrap());
        log.close().unwrap();
        let log = Log::options().read_only(true).open(&path).unwrap();
        assert_eq!(log.slots().unwrap(), []);
    }

    #[test]
    fn an_unreadable_file_holds_everything_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = filled(&path);
        std::fs::write(path.join("SLOTS"), "nonsense").unwrap();
        let policy = Retention { keep_bytes: Some(1), ..Retention::default() };
        let error = log.retain(&policy).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains("SLOTS") && error.to_string().contains("delete it"));
        let named = log.verify(crate::log::Level::Quick).unwrap().problems;
        assert!(named.len() == 1 && named[0].file.ends_with("SLOTS"), "{named:?}");
        log.close().unwrap();
        // Repair keeps what there was, and lets retention go on.
        let report = crate::log::repair(&path, false).unwrap();
        assert_eq!(report.quarantined.len(), 1, "{report:?}");
        assert_eq!(std::fs::read(&report.quarantined[0]).unwrap(), b"nonsense");
        let log = Log::options().open(&path).unwrap();
        assert!(log.verify(crate::log::Level::Quick).unwrap().problems.is_empty());
        assert!(!keep_little(&log).files.is_empty());
    }

    #[test]
    fn what_slots_claim_on_disk_is_still_there_after_retention() {
        // A follower had moved on, its segments behind it were dropped, and the leader was killed:
        // the next one read the old claim, which lay below the floor, called the slot lost, and
        // dropped what the follower needed next.
        let dir = tempfile::tempdir().unwrap();
        let log = filled(&dir.path().join("log"));
        log.claim(claim(1, LogByte(0))).unwrap();
        let third = log.segments()[2].base;
        log.claim(claim(1, third)).unwrap();
        assert_eq!(keep_little(&log).files.len(), 2);
        let slots = read_slots(&*log.shared.fs, &log.shared.layout, log.id()).unwrap();
        assert_eq!(slots.lowest(&log.shared.reach()).map(|claim| claim.needs), Some(third));
    }

    #[test]
    fn polls_that_bring_nothing_new_are_rarely_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = filled(&path);
        log.claim(claim(1, LogByte(0))).unwrap();
        let before = std::fs::read(path.join("SLOTS")).unwrap();
        for needs in 0..100 {
            log.claim(claim(1, LogByte(needs))).unwrap();
        }
        assert_eq!(std::fs::read(path.join("SLOTS")).unwrap(), before);
        let kept = |unsaved| Kept { slots: Slots::default(), unsaved, saved: 0 };
        let second = 1_000_000_000;
        assert!(!kept(None).is_due(u64::MAX));
        assert!(kept(Some(Change::New)).is_due(0));
        assert!(!kept(Some(Change::Moved)).is_due(9 * second));
        assert!(kept(Some(Change::Moved)).is_due(10 * second));
        assert!(!kept(Some(Change::Seen)).is_due(3599 * second));
        assert!(kept(Some(Change::Seen)).is_due(3600 * second));
    }
}
