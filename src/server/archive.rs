//! A leader's log into its archive, all the while it leads: when it is published, and how that goes.
//!
//! Started by `server`; one thread, `tidelog-archive`, drives a `Publisher` and tells the leader what
//! the archive holds. Status and metrics read what it says of itself. Invariants:
//! - nothing here is waited for by an append that did not ask for the archive;
//! - with nothing new the store is asked for nothing;
//! - while the store is asked, the thread holds neither the node nor its log: a store that does not
//!   answer keeps nothing open, and is left alone when the node stops;
//! - who is fenced by a newer leader publishes no more.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::position::{LogByte, Offset};
use crate::replica::leader::Due;
use crate::ship::Directory;
use crate::ship::archive::{
    Create, ObjectName, Prefix, PublishOptions, Publisher, ReadPart, Store,
};

use super::archive_snapshots::Snapshots;
use super::node::{Node, spawn};

/// How often a leader publishes unless told otherwise.
pub const DEFAULT_ARCHIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Log behind the archive's newest snapshot that makes another one due, unless told otherwise.
pub const DEFAULT_ARCHIVE_SNAPSHOT_BYTES: u64 = 256 << 20;
/// How often the thread looks whether anything changed that nobody tells it of.
const LOOK: Duration = Duration::from_secs(1);
/// First and longest wait after a failure.
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);
/// A push that takes longer than this, and longer than the interval, is told as slow.
const SLOW: Duration = Duration::from_secs(10);
/// Requests a day are told from this time on.
const TELLING: Duration = Duration::from_secs(60);

/// Where a leader's log is published, and how often.
#[derive(Clone, Debug)]
pub struct ArchiveOptions {
    pub(super) store: Arc<dyn Store>,
    interval: Duration,
    snapshots: Option<u64>,
}

impl ArchiveOptions {
    /// An archive in this store, with a new entry every ten seconds when there is something new.
    pub fn new(store: Arc<dyn Store>) -> Self {
        ArchiveOptions {
            store,
            interval: DEFAULT_ARCHIVE_INTERVAL,
            snapshots: Some(DEFAULT_ARCHIVE_SNAPSHOT_BYTES),
        }
    }

    /// Where it is.
    pub(super) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// The longest time that something new waits before it is published. Appends that wait for the
    /// archive do not wait for this.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// So many bytes of log in the archive behind its newest snapshot make another one of the table due,
    /// but never fewer than that one is large; `None` for no snapshots. Default: 256 MiB.
    #[must_use]
    pub fn snapshots(mut self, every_bytes: Option<u64>) -> Self {
        self.snapshots = every_bytes;
        self
    }
}

/// What is known of a node's archive.
#[derive(Debug)]
pub(super) struct Archiving {
    place: String,
    interval: Duration,
    requests: AtomicU64,
    /// The node is gone: nothing more is asked of the store.
    abandoned: AtomicBool,
    shown: Mutex<Shown>,
    /// Something in `shown` that the thread, or who stops it, waits for.
    moved: Condvar,
}

#[derive(Debug)]
struct Shown {
    state: State,
    held: Option<(LogByte, Offset)>,
    trouble: Option<String>,
    /// Since when the push under way takes.
    pushing: Option<Instant>,
    stop: bool,
    /// The last push may begin: nothing is appended any more.
    last: bool,
    done: bool,
}

/// How publishing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Publishing,
    /// The store does not answer, or fails.
    Unreachable,
    /// The store, or what is in it, does not let this node publish.
    Refused,
    Fenced,
}

impl State {
    fn of(error: &Error) -> Self {
        match error.kind() {
            Kind::Fenced => State::Fenced,
            Kind::Io | Kind::Unknown | Kind::NotFound | Kind::DiskFull | Kind::Closed => {
                State::Unreachable
            }
            _ => State::Refused,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Publishing => "publishing",
            State::Unreachable => "unreachable",
            State::Refused => "refused",
            State::Fenced => "fenced",
        }
    }
}

/// An archive as the status shows it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct View {
    pub(super) place: String,
    /// `starting`, `publishing`, `slow`, `unreachable`, `refused` or `fenced`.
    pub(super) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trouble: Option<String>,
    /// Everything before is in the archive; `None` before it has said so.
    pub(super) archived: Option<u64>,
    pub(super) lag_records: Option<u64>,
    pub(super) lag_bytes: Option<u64>,
    pub(super) lag_seconds: Option<f64>,
    /// What is younger than this may be missing there while all is well.
    pub(super) interval_seconds: f64,
    pub(super) requests: u64,
    /// At the rate since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) requests_per_day: Option<u64>,
}

impl Archiving {
    pub(super) fn new(options: &ArchiveOptions) -> Self {
        let shown = Shown {
            state: State::Starting,
            held: None,
            trouble: None,
            pushing: None,
            stop: false,
            last: false,
            done: false,
        };
        Archiving {
            place: options.store.place(),
            interval: options.interval,
            requests: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
            shown: Mutex::new(shown),
            moved: Condvar::new(),
        }
    }

    /// Whether a newer leader has taken over.
    pub(super) fn is_fenced(&self) -> bool {
        self.shown().state == State::Fenced
    }

    /// Whether the node is about to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.abandoned.load(Acquire) || self.shown().stop
    }

    /// How it is now; `durable` is the leader's end.
    pub(super) fn view(&self, node: &Node, durable: (u64, u64)) -> View {
        let shown = self.shown();
        let slow = shown.pushing.is_some_and(|since| since.elapsed() > self.interval.max(SLOW));
        let held = shown.held;
        let uptime = node.started.elapsed();
        let requests = self.requests.load(Relaxed);
        let day = 24 * 3600;
        View {
            place: self.place.clone(),
            state: match shown.state {
                State::Starting | State::Publishing if slow => "slow",
                state => state.as_str(),
            },
            trouble: shown.trouble.clone(),
            archived: held.map(|(_, offset)| offset.0),
            lag_records: held.map(|(_, offset)| durable.1.saturating_sub(offset.0)),
            lag_bytes: held.map(|(byte, _)| durable.0.saturating_sub(byte.0)),
            lag_seconds: held.map(|(_, offset)| node.followers.behind(offset, node.now())),
            interval_seconds: self.interval.as_secs_f64(),
            requests,
            requests_per_day: (uptime >= TELLING)
                .then(|| requests.saturating_mul(day) / uptime.as_secs().max(1)),
        }
    }

    /// Ends waiting: of the thread for its time, not yet the thread itself.
    pub(super) fn stop(&self) {
        self.shown().stop = true;
        self.moved.notify_all();
    }

    /// Lets the thread publish what is left, and waits for it at most so long; whether it is done.
    pub(super) fn finish(&self, most: Duration) -> bool {
        let mut shown = self.shown();
        (shown.stop, shown.last) = (true, true);
        self.moved.notify_all();
        let waited = self.moved.wait_timeout_while(shown, most, |shown| !shown.done);
        let done = waited.unwrap_or_else(PoisonError::into_inner).0.done;
        // A request that is under way may still arrive, as one of a killed process may.
        self.abandoned.store(true, Release);
        done
    }

    /// Waits at most so long, less when the node stops.
    fn wait(&self, most: Duration) {
        let _ = self.moved.wait_timeout_while(self.shown(), most, |shown| !shown.stop);
    }

    /// Waits until the last push may begin.
    fn wait_last(&self) {
        let shown = self.shown();
        let waited = self.moved.wait_while(shown, |shown| !shown.last);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes in what became of a push; what people should be told of it.
    fn note(&self, outcome: &Result<()>, held: Option<(LogByte, Offset)>) -> Option<String> {
        let mut shown = self.shown();
        shown.pushing = None;
        // What the archive held it holds: existence is monotone.
        shown.held = shown.held.max(held);
        let state = match outcome {
            Ok(()) => State::Publishing,
            Err(error) => State::of(error),
        };
        let before = std::mem::replace(&mut shown.state, state);
        shown.trouble = outcome.as_ref().err().map(ToString::to_string);
        if before == state {
            return None;
        }
        let place = &self.place;
        Some(match &shown.trouble {
            None if before == State::Starting => format!("it publishes to the archive {place}"),
            None => format!("the archive {place} takes entries again"),
            Some(trouble) => format!("the archive {place} is {}: {trouble}", state.as_str()),
        })
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes the node's log until the node stops, or a newer leader has taken over.
pub(super) fn publish(node: &Arc<Node>, options: ArchiveOptions) -> Result<JoinHandle<()>> {
    let Some(archiving) = node.archive.clone() else {
        return Err(Error::new(
            Kind::InvalidInput,
            "expected a leader with an archive, found none",
        ));
    };
    let fs = Arc::clone(node.home.fs());
    let store: Arc<dyn Store> =
        Arc::new(Counted { store: options.store, archiving: Arc::clone(&archiving) });
    let snapshots = Snapshots::new(
        options.snapshots,
        Arc::clone(&store),
        Arc::clone(&archiving),
        Arc::clone(&fs),
    );
    let publishing = Publishing {
        node: Arc::downgrade(node),
        fs,
        dir: node.home.dir(),
        store,
        snapshots,
        archiving,
        publisher: None,
    };
    spawn("tidelog-archive", move || publishing.run())
}

type End = (LogByte, Offset);

struct Publishing {
    node: Weak<Node>,
    fs: Arc<dyn Fs>,
    dir: std::path::PathBuf,
    store: Arc<dyn Store>,
    archiving: Arc<Archiving>,
    snapshots: Snapshots,
    publisher: Option<Publisher>,
}

impl Publishing {
    fn run(mut self) {
        self.until_stopped();
        self.snapshots.end();
        self.archiving.shown().done = true;
        self.archiving.moved.notify_all();
    }

    fn until_stopped(&mut self) {
        let (mut at, mut back_off) = (Instant::now(), FIRST_BACK_OFF);
        loop {
            let last = self.archiving.shown().stop;
            if last {
                self.archiving.wait_last();
            }
            let Some((end, durable)) = self.due(at, last) else {
                if last {
                    return;
                }
                self.snapshots();
                continue;
            };
            let started = Instant::now();
            self.archiving.shown().pushing = Some(started);
            let outcome = self.push(end, durable);
            at = started + self.archiving.interval;
            let held = self.publisher.as_ref().and_then(Publisher::held);
            let what = self.archiving.note(&outcome, held);
            let Some(node) = self.node.upgrade() else { return };
            if let (Some(leader), Some(held)) = (&node.leader, held) {
                leader.archived(held);
            }
            if let Some(what) = what {
                node.helm.events.note(node.now(), what);
            }
            drop(node);
            if last || self.archiving.is_fenced() {
                return;
            }
            match outcome {
                Ok(()) => {
                    back_off = FIRST_BACK_OFF;
                    self.snapshots();
                    if held.is_none_or(|held| held.0 < end.0) {
                        // The files do not show yet all that the log has: asking on at once
                        // would cost a request each time.
                        self.archiving.wait(FIRST_BACK_OFF);
                    }
                }
                Err(_) => {
                    self.archiving.wait(back_off);
                    back_off = (back_off * 2).min(LONGEST_BACK_OFF);
                    at = Instant::now();
                }
            }
        }
    }

    /// Goes on with snapshots, as far as that keeps nobody from the log.
    fn snapshots(&mut self) {
        let Some(publisher) = &mut self.publisher else { return };
        let Some(what) = self.snapshots.go_on(&self.node, publisher) else { return };
        if let Some(node) = self.node.upgrade() {
            node.helm.events.note(node.now(), what);
        }
    }

    /// Waits for something to publish; up to where, and how far the log is durable.
    fn due(&self, at: Instant, last: bool) -> Option<(End, End)> {
        let node = self.node.upgrade()?;
        let leader = node.leader.as_ref()?;
        let both = |end| (end, node.home.durable());
        let held = self.publisher.as_ref().and_then(Publisher::held);
        let held = held.map_or(LogByte(0), |(byte, _)| byte);
        if last {
            return Some(leader.publishable()).filter(|end| end.0 > held).map(both);
        }
        match leader.wait_due(held, at, LOOK) {
            Due::Wanted | Due::Time => Some(both(leader.publishable())),
            Due::NotYet => None,
        }
    }

    fn push(&mut self, end: End, durable: End) -> Result<()> {
        let publisher = match &mut self.publisher {
            Some(publisher) => publisher,
            none => {
                let from = Directory::open_in(Arc::clone(&self.fs), &self.dir)?;
                let store = Arc::clone(&self.store);
                none.insert(Publisher::open(store, from, PublishOptions::default())?)
            }
        };
        publisher.knows_durable(durable);
        publisher.push_to(end).map(drop)
    }
}

/// Counts what is asked of a store, and asks nothing once the node is gone.
#[derive(Debug)]
struct Counted {
    store: Arc<dyn Store>,
    archiving: Arc<Archiving>,
}

impl Counted {
    fn count(&self) -> Result<&dyn Store> {
        if self.archiving.abandoned.load(Acquire) {
            return Err(Error::new(Kind::Closed, "this node has stopped publishing")
                .in_file(Path::new(&self.archiving.place)));
        }
        self.archiving.requests.fetch_add(1, Relaxed);
        Ok(&*self.store)
    }
}

impl Store for Counted {
    fn place(&self) -> String {
        self.store.place()
    }

    fn get_range(&self, name: &ObjectName, from: u64, len: usize) -> Result<Option<Vec<u8>>> {
        self.count()?.get_range(name, from, len)
    }

    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.count()?.put(name, bytes)
    }

    fn put_from(&self, name: &ObjectName, len: u64, read: &mut ReadPart<'_>) -> Result<()> {
        self.count()?.put_from(name, len, read)
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create {
        match self.count() {
            Ok(store) => store.create(name, bytes),
            Err(error) => Create::Unknown(error),
        }
    }

    fn list(&self, prefix: Prefix) -> Result<Vec<(ObjectName, u64)>> {
        self.count()?.list(prefix)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.count()?.delete(name)
    }

    fn width(&self) -> usize {
        self.store.width()
    }

    fn back_off(&self, attempt: u32) {
        if !self.archiving.abandoned.load(Acquire) && !self.archiving.shown().stop {
            self.store.back_off(attempt);
        }
    }
}
