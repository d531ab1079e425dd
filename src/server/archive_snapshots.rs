//! Snapshots of a leader's table into its archive: when one is due, sending it, naming it.
//!
//! Driven by the thread that publishes the log (`archive`), which a large table must not keep from it:
//! runs are sent by a thread of their own, `tidelog-snapshot`, one at a time, and only the entry that
//! names the snapshot is appended between two pushes. Invariants:
//! - one is due when the log that a new follower would read behind the newest one has grown both by what
//!   was asked for and by what that snapshot is large: all of them together cost no more than the log;
//! - nothing is named before the archive holds the log up to where it stands;
//! - while runs are sent neither the node nor its log is held, and a node that stops breaks off.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::position::Id;
use crate::ship::archive::{
    Create, ObjectName, Placed, Prefix, Publisher, ReadPart, Store, drop_pin, send_runs, set_pin,
};
use crate::table::OpenSnapshot;

use super::archive::Archiving;
use super::node::{Node, spawn};

/// What failed is tried again after this.
const AGAIN: Duration = Duration::from_secs(60);
/// A pin of who sends one ends after this, whatever becomes of the sender.
const SENDING: Duration = Duration::from_secs(3600);

/// How far the next snapshot is.
pub(super) struct Snapshots {
    /// Log behind the newest one that makes another due; `None` for never.
    every: Option<u64>,
    store: Arc<dyn Store>,
    fs: Arc<dyn Fs>,
    sending: Option<JoinHandle<Result<Sent>>>,
    /// All its runs are there, its name is not.
    sent: Option<Sent>,
    /// Not before then.
    rest: Option<Instant>,
}

/// A snapshot whose runs are in the archive, and the pin that keeps them there.
struct Sent {
    snapshot: OpenSnapshot,
    pin: Id,
}

impl Snapshots {
    pub(super) fn new(
        every: Option<u64>,
        store: Arc<dyn Store>,
        archiving: Arc<Archiving>,
        fs: Arc<dyn Fs>,
    ) -> Self {
        let store = Arc::new(Stopping { store, archiving });
        Snapshots { every, store, fs, sending: None, sent: None, rest: None }
    }

    /// Goes on by what can be done at once, after a push that went well; what people should be told.
    /// Costs the store nothing while none is due.
    pub(super) fn go_on(&mut self, node: &Weak<Node>, publisher: &mut Publisher) -> Option<String> {
        let outcome = self.step(node, publisher);
        match outcome {
            Ok(None) => None,
            Ok(Some(placed)) if placed.known => None,
            Ok(Some(placed)) => Some(format!(
                "the archive has a snapshot before offset {}: {} bytes, {} of them new",
                placed.snapshot.name.offset, placed.snapshot.bytes, placed.sent_bytes
            )),
            // An empty table, or one that another process keeps: there is nothing to send.
            Err(e) if e.kind() == Kind::InvalidInput => self.later(None),
            Err(e) => self.later(Some(format!("a snapshot could not be published: {e}"))),
        }
    }

    fn later(&mut self, what: Option<String>) -> Option<String> {
        self.rest = Instant::now().checked_add(AGAIN);
        self.let_go();
        what
    }

    /// One that cannot be dropped ends by itself.
    fn let_go(&mut self) {
        if let Some(sent) = self.sent.take() {
            let _ = drop_pin(&*self.store, sent.pin);
        }
    }

    fn step(&mut self, node: &Weak<Node>, publisher: &mut Publisher) -> Result<Option<Placed>> {
        if self.sending.as_ref().is_some_and(|thread| thread.is_finished()) {
            let thread = self.sending.take().expect("looked at just now");
            let died = || Error::new(Kind::Io, "the thread that sends snapshots has died");
            self.sent = Some(thread.join().map_err(|_| died())??);
        }
        if let Some(Sent { snapshot, .. }) = &self.sent {
            let at = snapshot.position().log_byte;
            if publisher.held().is_none_or(|(held, _)| held < at) {
                return Ok(None);
            }
            let placed = publisher.snapshot(snapshot)?;
            self.let_go();
            return Ok(Some(placed));
        }
        if self.sending.is_none() && self.is_due(node, publisher) {
            let (node, store, fs) =
                (Weak::clone(node), Arc::clone(&self.store), Arc::clone(&self.fs));
            self.sending = Some(spawn("tidelog-snapshot", move || send(&node, &*store, &*fs))?);
        }
        Ok(None)
    }

    fn is_due(&self, node: &Weak<Node>, publisher: &Publisher) -> bool {
        let Some(every) = self.every else { return false };
        if self.rest.is_some_and(|rest| Instant::now() < rest) {
            return false;
        }
        let Some(node) = node.upgrade() else { return false };
        let Some(applied) = node.table.applied() else { return false };
        let state = publisher.state();
        let newest = state.snapshots.last().map(|(_, newest)| newest);
        let (from, bytes) =
            newest.map_or((state.floor, 0), |newest| (newest.log_byte, newest.bytes));
        applied.log_byte.0.saturating_sub(from.0) >= every.max(bytes).max(1)
    }

    /// Waits for the thread that sends; it breaks off when the node stops.
    pub(super) fn end(&mut self) {
        if let Some(Ok(Ok(sent))) = self.sending.take().map(JoinHandle::join) {
            self.sent = Some(sent);
        }
        self.let_go();
    }
}

/// Takes a snapshot and sends its runs.
fn send(node: &Weak<Node>, store: &dyn Store, fs: &dyn Fs) -> Result<Sent> {
    let snapshot = {
        let gone = || Error::new(Kind::Closed, "this node has stopped");
        let node = node.upgrade().ok_or_else(gone)?;
        OpenSnapshot::take(&node.table, false)?
    };
    let pin = set_pin(store, fs, "a snapshot on its way", SENDING)?.0;
    match send_runs(store, &snapshot) {
        Ok(_) => Ok(Sent { snapshot, pin }),
        Err(error) => {
            let _ = drop_pin(store, pin);
            Err(error)
        }
    }
}

/// A store that is asked nothing more once the node stops, and to which nothing more is sent.
#[derive(Debug)]
struct Stopping {
    store: Arc<dyn Store>,
    archiving: Arc<Archiving>,
}

impl Stopping {
    fn go_on(&self) -> Result<()> {
        match self.archiving.is_stopping() {
            true => Err(Error::new(Kind::Closed, "this node is about to stop")
                .in_file(Path::new(&self.store.place()))),
            false => Ok(()),
        }
    }
}

impl Store for Stopping {
    fn place(&self) -> String {
        self.store.place()
    }

    fn get_range(&self, name: &ObjectName, from: u64, len: usize) -> Result<Option<Vec<u8>>> {
        self.go_on()?;
        self.store.get_range(name, from, len)
    }

    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.go_on()?;
        self.store.put(name, bytes)
    }

    fn put_from(&self, name: &ObjectName, len: u64, read: &mut ReadPart<'_>) -> Result<()> {
        let mut read = |byte, part: &mut [u8]| {
            self.go_on()?;
            read(byte, part)
        };
        self.store.put_from(name, len, &mut read)
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Create {
        match self.go_on() {
            Ok(()) => self.store.create(name, bytes),
            Err(error) => Create::Unknown(error),
        }
    }

    fn list(&self, prefix: Prefix) -> Result<Vec<(ObjectName, u64)>> {
        self.go_on()?;
        self.store.list(prefix)
    }

    fn width(&self) -> usize {
        self.store.width()
    }

    /// A pin is dropped all the same.
    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.store.delete(name)
    }
}
