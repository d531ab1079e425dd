//! The log: append, group commit, read, tail, recover, retain, verify, repair.
//!
//! Called by users, `table`, `ship` and `replica`; uses `segment`, `frame` and `fs`. A record's
//! way through it: `append` stages a frame, the `writer` puts it into the active segment, `sync`
//! makes it durable, `read` and `tail` hand it out; `scan` and `start` bring a directory back
//! after a crash.
//!
//! Invariants:
//! - durable ≤ written ≤ staged, each a frame boundary; reads see at most the durable end (or the
//!   written one, if the log was opened so);
//! - one process writes, held by a lock; any number read;
//! - what was acknowledged survives what `docs/DURABILITY.md` lists.

mod append;
pub(crate) mod catalog;
mod claims;
pub(crate) mod commit;
pub(crate) mod compress;
mod cursors;
pub(crate) mod cut;
mod ear;
mod ends;
pub(crate) mod files;
mod home;
mod intake;
#[cfg(all(test, loom))]
mod loom_tests;
pub(crate) mod meta;
pub(crate) mod open;
mod options;
mod prepare;
mod primitives;
pub(crate) mod promises;
mod read;
mod refresh;
mod repair;
mod restore;
mod retain;
mod rounds;
pub(crate) mod scan;
mod sets;
mod slots;
mod staging;
mod stamp;
pub(crate) mod start;
mod survey;
mod sync;
mod tail;
mod turns;
mod verify;
pub(crate) mod wake;
pub(crate) mod watch;
mod worker;
mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::{Error, Kind, Result};
use crate::fs::{File, Fs, Lock};
use crate::mutant::{self, Mutant};
use crate::position::{Epoch, Id, LogByte, Offset, Position, Token};
use crate::segment::ProducerState;

use catalog::Catalog;
use claims::Claims;
use ear::Ear;
use ends::Ends;
use files::{CleanEnd, Control, Layout, LogFile};
use intake::Intake;
use prepare::Naming;
use promises::Promises;
use rounds::Rounds;
use staging::Staging;
use stamp::Stamper;
use turns::Turns;
use wake::Wake;
use worker::Worker;
use writer::Writer;

pub use append::Ticket;
pub use claims::Hold;
pub use cursors::{CursorState, MAX_CURSOR_NAME, NamedCursor};
pub(crate) use home::Home;
pub use open::OpenReport;
pub use options::{
    Append, Appended, Compression, DEFAULT_SEGMENT_BYTES, Durability, Expect, Identity, KeyLookup,
    MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, Options, Preallocate, Recovery, Verification, Visibility,
};
pub use read::{Cursor, Entries, Entry, OwnedEntry};
pub use repair::{RepairReport, repair, repair_on};
pub use retain::{Holder, Retained, Retention};
pub use slots::{Claim, MOST_SLOTS, SlotLimits, SlotState, SlotStatus};
pub use tail::Tail;
pub use verify::{Level, Problem, VerifyReport, verify, verify_on};

/// An open log. All methods take `&self`; share it between threads as it is.
///
/// Dropping it closes it; [`close`](Log::close) says whether that went well.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
}

/// What the log, its cursors, its tails and its worker share.
#[derive(Debug)]
pub(crate) struct Shared {
    fs: Arc<dyn Fs>,
    layout: Layout,
    options: Options,
    log: LogFile,
    node: Id,
    /// Whether appends are possible; a follower's or a read-only log takes none.
    refuses: Option<Error>,
    catalog: Catalog,
    staging: Arc<Staging>,
    turns: Turns,
    intake: Mutex<Intake>,
    /// Tells who waits for a free buffer.
    freed: Wake,
    /// Guards what is stamped, and what the frames add up to.
    stamper: Mutex<Stamper>,
    /// Guards everything that is about to be written.
    writer: Mutex<Writer>,
    ends: Ends,
    rounds: Rounds,
    poison: OnceLock<Error>,
    /// A full disk holds bytes back.
    stalled: AtomicBool,
    /// A full disk kept what recovery found from being made durable: less than what this log had
    /// is called durable until that is done.
    unsettled: AtomicBool,
    /// Where the segment begins whose file waits for its name; `u64::MAX` if none does.
    unnamed_from: AtomicU64,
    /// A segment was given its name, and that is not synced yet.
    names_unsynced: AtomicBool,
    /// Bytes of a durable group, lately. A hint.
    group_bytes: AtomicU64,
    visible_wake: Wake,
    /// Who hears of it before that.
    ear: Ear,
    worker: Worker,
    /// Guards CONTROL and its file.
    control: Mutex<Control>,
    /// Guards PROMISE.
    promises: Promises,
    /// Of a log with an archive: how far that holds it. Nothing behind is dropped.
    archived: Mutex<Option<commit::End>>,
    /// Guards the slots and their file.
    claims: Claims,
    state_file: Mutex<Option<Arc<dyn File>>>,
    state_seq: AtomicU64,
    state_written: AtomicU64,
    state_pending: AtomicBool,
    /// When the last round of group commit was over: nanoseconds since 1970, for comparing.
    round_ended: AtomicI64,
    epoch_number: AtomicU64,
    epoch_nonce: AtomicU64,
    /// Below this, records are proven durable; of a log that is read without its writer, those
    /// above may be lost in a power cut.
    confirmed: AtomicU64,
    report: OpenReport,
    lock: Mutex<Option<Box<dyn Lock>>>,
}

/// Sizes and counters of an open log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The log.
    pub id: Id,
    /// This node.
    pub node: Id,
    /// The epoch that appends, or appended last.
    pub epoch: Epoch,
    /// The earliest offset there is.
    pub start: Offset,
    /// Behind the last record that reads see.
    pub end: Offset,
    /// Behind the last synced record.
    pub durable: Offset,
    /// Behind the last record in the page cache.
    pub written: Offset,
    /// Behind the last frame in the page cache.
    pub log_byte: LogByte,
    /// Segment files.
    pub segments: usize,
    /// Producers remembered for safe retries.
    pub producers: usize,
    /// Whether the log takes no more appends.
    pub poisoned: bool,
    /// Whether a full disk holds records back.
    pub disk_full: bool,
}

/// A segment file of an open log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The file.
    pub path: std::path::PathBuf,
    /// Log byte of its first frame.
    pub base: LogByte,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Behind its last record; `None` while it is being written.
    pub end_offset: Option<Offset>,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Bytes of frames, header and SEAL included; `None` while it is being written.
    pub data_bytes: Option<u64>,
    /// Oldest and newest timestamp of a sealed segment with records.
    pub timestamps: Option<(i64, i64)>,
    /// Seal hash of a sealed segment.
    pub hash: Option<[u8; 32]>,
}

impl Log {
    /// How to open a log.
    ///
    /// ```
    /// use tidelog::{Log, Offset, Record};
    /// # fn main() -> tidelog::Result<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("log");
    /// let log = Log::options().create(true).open(path)?;
    /// let appended = log.append(&Record::put(b"gate", b"open"))?;
    /// assert_eq!(appended.first, Offset(0));
    /// let mut cursor = log.read(Offset(0))?;
    /// assert_eq!(cursor.next()?.unwrap().record.value, b"open");
    /// log.close()
    /// # }
    /// ```
    pub fn options() -> Options {
        Options::default()
    }

    pub(crate) fn open_with(options: Options, path: &Path) -> Result<Self> {
        open::open(options, path).map(|shared| Log { shared })
    }

    /// Makes everything appended so far durable, and says so to readers in other processes at
    /// once; returns the durable end.
    pub fn sync(&self) -> Result<Offset> {
        let shared = &*self.shared;
        let (end, next) = shared.intake().end();
        if end.0 > 0 {
            shared.wait_durable(end, next)?;
        }
        if let Some(error) = shared.poison.get() {
            return Err(error.clone());
        }
        if shared.state_pending.load(Acquire) {
            shared.hint_state(true);
        }
        Ok(self.durable_end())
    }

    /// Reads from `offset` to the visible end, and on as it moves.
    pub fn read(&self, offset: Offset) -> Result<Cursor> {
        Cursor::new(Arc::clone(&self.shared), offset, Offset(u64::MAX))
    }

    /// Reads the records of a range of offsets.
    pub fn read_range(&self, range: Range<Offset>) -> Result<Cursor> {
        Cursor::new(Arc::clone(&self.shared), range.start, range.end)
    }

    /// The record at `offset`, or `None` at or behind the end.
    pub fn get(&self, offset: Offset) -> Result<Option<OwnedEntry>> {
        let mut cursor = self.read_range(offset..offset.plus(1))?;
        Ok(cursor.next()?.map(|entry| entry.to_owned()))
    }

    /// The first offset at or behind which a record is at least as new as `timestamp`
    /// (nanoseconds since the Unix epoch); the end if none is.
    pub fn seek_time(&self, timestamp: i64) -> Result<Offset> {
        Cursor::seek_time(Arc::clone(&self.shared), timestamp)
    }

    /// Reads from `offset` and waits for more.
    pub fn tail(&self, offset: Offset) -> Result<Tail> {
        Tail::new(Arc::clone(&self.shared), offset)
    }

    /// The earliest offset there is.
    pub fn start(&self) -> Offset {
        self.shared.start()
    }

    /// Behind the last record that reads see.
    pub fn end(&self) -> Offset {
        self.shared.visible().1
    }

    /// Behind the last synced record.
    pub fn durable_end(&self) -> Offset {
        self.shared.ends.durable().1
    }

    /// Behind the last record that is proven durable. Below [`end`](Log::end) only when a log is
    /// read whose writer died, or when records are shown that are written and no more: a power cut
    /// may take what lies between.
    pub fn confirmed_end(&self) -> Offset {
        self.shared.confirmed()
    }

    /// The position behind the last synced frame.
    pub fn durable_position(&self) -> Position {
        let (log_byte, offset) = self.shared.ends.durable();
        Position { epoch: self.shared.epoch(), log_byte, offset }
    }

    /// The token of an append: what a client shows to read its own write elsewhere.
    pub fn token(&self, appended: &Appended) -> Token {
        Token { log: self.id(), epoch: appended.epoch, offset: appended.last }
    }

    /// The number of the epoch that appended the record at `offset`; of the newest one behind
    /// the end.
    pub fn epoch_at(&self, offset: Offset) -> u64 {
        self.shared.epoch_at(offset).number
    }

    /// Whether a token's record belongs to this log's history, as far as that is known; an error
    /// of [`Kind::WrongLog`] or [`Kind::NotInHistory`] if not, and of [`Kind::Stale`] if the token
    /// is of an epoch that has not come here yet: then what stands at its offset says nothing.
    pub fn check_token(&self, token: &Token) -> Result<()> {
        if token.log != self.id() {
            return Err(Error::new(
                Kind::WrongLog,
                format!("expected a token of log {}, found one of log {}", self.id(), token.log),
            ));
        }
        if token.offset >= self.end() || token.offset < self.start() {
            // Not here yet, or not here any more: neither says that it never was.
            return Ok(());
        }
        let epoch = self.shared.epoch_at(token.offset);
        let newest = self.shared.epoch_at(Offset(u64::MAX));
        if token.epoch.number > newest.number {
            return Err(Error::new(
                Kind::Stale,
                format!(
                    "offset {} was appended by epoch {epoch}, and epoch {} has not come here yet",
                    token.offset, token.epoch
                ),
            )
            .at_offset(token.offset.0)
            .help("this copy has not met its new leader: ask again, or ask the leader"));
        }
        if epoch != token.epoch {
            return Err(Error::new(
                Kind::NotInHistory,
                format!(
                    "offset {} was appended by epoch {epoch}, not {}",
                    token.offset, token.epoch
                ),
            )
            .at_offset(token.offset.0)
            .help("that write was lost; read the key again and decide"));
        }
        Ok(())
    }

    /// The log's identity.
    pub fn id(&self) -> Id {
        self.shared.log.id
    }

    /// Whether cursors check every body, once at least.
    pub(crate) fn checks_bodies(&self) -> bool {
        self.shared.options.verification != Verification::Never
    }

    /// This node's identity.
    pub fn node(&self) -> Id {
        self.shared.node
    }

    /// Whom this directory copies; a log that follows takes no appends.
    pub fn follows(&self) -> Option<String> {
        self.shared.control().follows.clone()
    }

    /// What opening found.
    pub fn report(&self) -> &OpenReport {
        &self.shared.report
    }

    /// The last batch of a producer, staged ones included: where a retry goes on.
    pub fn producer(&self, id: Id) -> Option<ProducerState> {
        self.shared.writer().producers.get(id).copied()
    }

    /// Sizes and counters.
    pub fn stats(&self) -> Stats {
        let shared = &*self.shared;
        let (log_byte, written) = shared.ends.written();
        Stats {
            id: shared.log.id,
            node: shared.node,
            epoch: shared.epoch(),
            start: self.start(),
            end: self.end(),
            durable: self.durable_end(),
            written,
            log_byte,
            segments: shared.catalog.list().len(),
            producers: shared.writer().producers.len(),
            poisoned: shared.poison.get().is_some(),
            disk_full: shared.stalled.load(Acquire),
        }
    }

    /// The segment files, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let list = self.shared.catalog.list();
        list.iter()
            .map(|segment| {
                let footer = segment.footer.get();
                SegmentInfo {
                    path: segment.path.clone(),
                    base: segment.header.base,
                    base_offset: segment.header.base_offset,
                    end_offset: segment.end.get().map(|end| end.1),
                    epoch: segment.header.epoch,
                    sealed: footer.is_some(),
                    data_bytes: footer.map(|footer| footer.data_end),
                    timestamps: footer
                        .filter(|footer| footer.min_timestamp <= footer.max_timestamp)
                        .map(|footer| (footer.min_timestamp, footer.max_timestamp)),
                    hash: footer.map(|footer| footer.hash),
                }
            })
            .collect()
    }

    /// Drops old segments; see [`Retention`].
    pub fn retain(&self, policy: &Retention) -> Result<Retained> {
        self.shared.retain(policy)
    }

    /// Makes everything durable, notes a clean end, and lets go of the lock. Without it, or with
    /// an error from it, the next open recovers and begins a new epoch.
    pub fn close(self) -> Result<()> {
        self.shared.shut_down()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Best effort: `close` is there for those who want to know.
        let _ = self.shared.shut_down();
    }
}

impl Shared {
    /// The earliest offset there is.
    fn start(&self) -> Offset {
        match self.catalog.list().first() {
            Some(first) => first.header.base_offset,
            None => self.visible().1,
        }
    }

    /// The epoch of the segment that holds an offset.
    fn epoch_at(&self, offset: Offset) -> Epoch {
        let list = self.catalog.list();
        let after = list.partition_point(|segment| segment.header.base_offset <= offset);
        match after.checked_sub(1) {
            Some(i) => list[i].header.epoch,
            None => self.epoch(),
        }
    }

    /// The epoch that appended a record of which this log knows, also when its segment is gone.
    fn epoch_of(&self, offset: Offset) -> Epoch {
        if offset >= self.start() {
            return self.epoch_at(offset);
        }
        let epochs = files::Epochs::read(&*self.fs, &self.layout).unwrap_or_default();
        let before = |entry: &&files::EpochEntry| entry.start_offset <= offset;
        epochs.0.iter().rev().find(before).map_or_else(|| self.epoch(), |entry| entry.epoch)
    }

    fn random_u64(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.fs
            .random(&mut bytes)
            .map_err(|e| Error::io("read randomness for", &self.layout.root, e))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn set_epoch(&self, epoch: Epoch) {
        self.epoch_nonce.store(epoch.nonce, Release);
        self.epoch_number.store(epoch.number, Release);
    }

    fn control(&self) -> std::sync::MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the clean mark away, durably, before anything is written.
    fn clear_clean(&self) -> Result<()> {
        let mut control = self.control();
        if mutant::on(Mutant::KeepCleanMark) {
            return Ok(());
        }
        if control.clean.take().is_some() {
            let mut changed = control.clone();
            changed.write(&*self.fs, &self.layout)?;
            *control = changed;
        }
        Ok(())
    }

    fn shut_down(&self) -> Result<()> {
        let Some(lock) = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let closed = self.close_cleanly();
        self.worker.stop();
        let sealed = if closed.is_ok() { self.worker.seal_all(self) } else { Ok(()) };
        // Best effort: what the file says now asks for more than they need, never for less.
        let _ = self.save_slots();
        drop(lock);
        closed.and(sealed)
    }

    fn close_cleanly(&self) -> Result<()> {
        let (end, next) = self.intake().end();
        if self.writer().current().is_some() {
            self.wait_durable(end, next)?;
        }
        if let Some(error) = self.poison.get() {
            return Err(error.clone());
        }
        self.worker.seal_all(self).or_else(|e| match e.kind() {
            // An unsealed segment is sealed at the next open; nothing is in doubt.
            Kind::DiskFull => Ok(()),
            _ => Err(e),
        })?;
        let mut writer = self.writer();
        writer.closed = true;
        {
            let mut next_file = self.worker.next_file();
            next_file.name(self, Naming::Now)?;
            next_file.discard(self);
        }
        let Some((segment, file)) = writer.current() else { return Ok(()) };
        let tally = self.stamper().tally().expect("the current segment's");
        let io = |what: &'static str| move |e| Error::io(what, &segment.path, e);
        // Zeros ahead were for appends to come.
        let end = tally.end.next_multiple_of(crate::segment::PAGE_BYTES);
        if file.len().map_err(io("read the length of"))? > end {
            file.set_len(end).map_err(io("cut zeros off"))?;
            file.sync_data().map_err(|e| self.poisoned(Error::io("sync", &segment.path, e)))?;
        }
        self.hint_state(true);
        let mut control = self.control();
        let mut clean = control.clone();
        clean.clean = Some(CleanEnd {
            end: LogByte(segment.header.log_byte(tally.end)),
            offset: tally.end_offset(&segment.header),
            nonce: segment.header.epoch.nonce,
            fingerprint: tally.fingerprint,
        });
        clean.write(&*self.fs, &self.layout)?;
        *control = clean;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
