//! The node behind the interface: a leader's log with its table, or a follower that runs.
//!
//! Made by `server`; shared by all requests. Its threads are `tidelog-pulse` (tells the leader that the
//! log has grown; requests that wait hear it from whoever made it grow); of a leader `tidelog-apply`, and perhaps
//! `tidelog-retain`, `tidelog-archive` and `tidelog-snapshot`; of a follower `tidelog-follow`.
//!
//! Invariants:
//! - requests never block the runtime's threads: what reads, appends or waits for a disk goes
//!   through [`blocking`](Node::blocking);
//! - every thread is joined at the end, but for one whose archive does not answer: it holds nothing
//!   of the node.

use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::error::{Error, Kind, Result};
use crate::log::promises::Promises;
use crate::log::{Home, Log};
use crate::position::{Id, LogByte, Offset, Token};
use crate::replica::{Follower, Gauge, Leader, Pause, Progress};
use crate::ship::shelf::Shelf;
use crate::table::{Applier, Table};

use super::archive::Archiving;
use super::followers::Followers;
use super::fresh::Rounds;
use super::helm::Helm;
use super::metrics::Metrics;
use super::query::Query;
use super::reply::Refusal;
use super::snapshots::Lending;

/// Appends that wait for the disk at a time; more wait in line.
const APPENDS: usize = 256;
/// Short reads at a time.
const READS: usize = 64;
/// Long answers at a time; who asks for more is told to come back.
const LONG_ANSWERS: usize = 64;
/// How often a thread that waits looks whether to stop.
const LOOK: Duration = Duration::from_secs(1);

/// What a node does.
#[derive(Debug)]
pub(super) enum Role {
    Leads(Box<Leader>),
    Follows(Gauge, Pause, Promises),
}

/// A node that is served.
pub(super) struct Node {
    pub(super) log: Arc<Log>,
    pub(super) home: Home,
    pub(super) table: Table,
    pub(super) shelf: Shelf,
    pub(super) name: String,
    /// Of a follower.
    pub(super) gauge: Option<Gauge>,
    /// The same: where it stops applying.
    pub(super) pause: Option<Pause>,
    /// Of a leader.
    pub(super) leader: Option<Leader>,
    /// Of a leader that publishes its log.
    pub(super) archive: Option<Arc<Archiving>>,
    /// Snapshots for followers that begin with one.
    pub(super) lending: Lending,
    pub(super) followers: Followers,
    /// Of a leader: finding out whether it still is, for reads.
    pub(super) rounds: Rounds,
    pub(super) promises: Promises,
    /// What is asked of whoever runs this node.
    pub(super) helm: Arc<Helm>,
    pub(super) metrics: Metrics,
    pub(super) started: Instant,
    /// Where it can be reached; known once it listens.
    pub(super) address: OnceLock<String>,
    /// How far it is durable and may be copied; and how far it is committed and shown.
    pub(super) ends: watch::Sender<Ends>,
    pub(super) applied: watch::Sender<Offset>,
    /// Set while it hands over: long polls end at once, so that followers come back.
    pub(super) hurry: watch::Sender<bool>,
    /// Set when it is to stop: long polls end then.
    pub(super) stopping: watch::Sender<bool>,
    trouble: Mutex<Option<String>>,
    /// Why slots cannot be kept, if they cannot.
    slots_trouble: Mutex<Option<String>>,
    stop: AtomicBool,
    /// Set when it is to follow no more, though it is served on.
    halt: AtomicBool,
    appends: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    rebuilds: Arc<Semaphore>,
    long_answers: Arc<Semaphore>,
}

/// The ends of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) durable: (LogByte, Offset),
    pub(super) visible: (LogByte, Offset),
}

/// What kind of work a request does off the runtime's threads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Append,
    Read,
    /// Takes memory for a whole table: one at a time.
    Rebuild,
}

impl Node {
    pub(super) fn new(
        log: Arc<Log>,
        table: Table,
        name: String,
        role: Role,
        helm: Arc<Helm>,
    ) -> Self {
        let home = log.home();
        let ends = Ends { durable: home.durable(), visible: home.visible() };
        let applied = table.applied().map_or(Offset(0), |position| position.offset);
        let (leader, gauge, pause, promises) = match role {
            Role::Leads(leader) => (Some(*leader), None, None, home.promises().clone()),
            Role::Follows(gauge, pause, promises) => (None, Some(gauge), Some(pause), promises),
        };
        let followers = Followers::default();
        // What is here already was durable now, at the latest: who lacks it is behind since then.
        followers.passed(home.fs().now(), ends.durable.1);
        Node {
            home,
            shelf: Shelf::new(Arc::clone(&log)),
            log,
            table,
            name,
            gauge,
            pause,
            leader,
            archive: None,
            lending: Lending::default(),
            followers,
            rounds: Rounds::default(),
            promises,
            helm,
            metrics: Metrics::default(),
            started: Instant::now(),
            address: OnceLock::new(),
            ends: watch::Sender::new(ends),
            applied: watch::Sender::new(applied),
            hurry: watch::Sender::new(false),
            stopping: watch::Sender::new(false),
            trouble: Mutex::new(None),
            slots_trouble: Mutex::new(None),
            stop: AtomicBool::new(false),
            halt: AtomicBool::new(false),
            appends: Arc::new(Semaphore::new(APPENDS)),
            reads: Arc::new(Semaphore::new(READS)),
            rebuilds: Arc::new(Semaphore::new(1)),
            long_answers: Arc::new(Semaphore::new(LONG_ANSWERS)),
        }
    }

    /// Whether it takes appends.
    pub(super) fn leads(&self) -> bool {
        self.leader.is_some()
    }

    /// The leader's address, as far as this node knows it.
    pub(super) fn leader_address(&self) -> Option<String> {
        let own = || self.address.get().cloned();
        let Some(gauge) = &self.gauge else {
            let replaced = self.leader.as_ref().is_some_and(|leader| leader.fenced().is_some());
            return if replaced { self.helm.leader.get() } else { own() };
        };
        if let Some(leader) = self.helm.leader.get() {
            return Some(leader);
        }
        if self.helm.manned && self.helm.shown().state.is_some() {
            // Nobody leads that it knows of.
            return None;
        }
        let shown = gauge.read();
        shown.leader.or_else(|| Some(shown.source).filter(|source| source.contains("://")))
    }

    /// How old what reads show may be; `None` when nobody knows. A leader's is what there is.
    pub(super) fn staleness(&self) -> Option<Duration> {
        self.gauge.as_ref().map_or(Some(Duration::ZERO), Gauge::staleness)
    }

    /// Refuses a request that asks for fresher data than this node has: `max_staleness`.
    pub(super) fn check_staleness(&self, query: &Query) -> Result<(), Refusal> {
        let (Some(most), Some(gauge)) = (query.max_staleness()?, &self.gauge) else {
            return Ok(());
        };
        gauge.check_staleness(most).map_err(|e| {
            let age = gauge.staleness().map(|age| age.as_secs_f64());
            Refusal::from(e).with("staleness_seconds", age).with("leader", self.leader_address())
        })
    }

    /// The nodes above this one.
    pub(super) fn upstream(&self) -> Vec<Id> {
        self.gauge.as_ref().map(Gauge::chain).unwrap_or_default()
    }

    /// The leader's time: this machine's on the leader, by the last answer on a follower.
    pub(super) fn now(&self) -> i64 {
        self.home.fs().now()
    }

    /// Does `work` on a thread that may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        kind: Work,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let permit = Arc::clone(self.lane(kind)).acquire_owned().await;
        let permit = permit.map_err(|_| stopped())?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|_| {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "io", "the work was not finished")
        })
    }

    /// The same on the thread that asks, whose connections go over to another one meanwhile: for what is
    /// short and waited for by somebody who waits for nothing else. A hand-over there and back costs more.
    pub(super) async fn blocking_here<T>(
        &self,
        kind: Work,
        work: impl FnOnce() -> T,
    ) -> Result<T, Refusal> {
        let permit = Arc::clone(self.lane(kind)).acquire_owned().await;
        let _permit = permit.map_err(|_| stopped())?;
        Ok(tokio::task::block_in_place(work))
    }

    fn lane(&self, kind: Work) -> &Arc<Semaphore> {
        match kind {
            Work::Append => &self.appends,
            Work::Read => &self.reads,
            Work::Rebuild => &self.rebuilds,
        }
    }

    /// A place among the long answers.
    pub(super) async fn long_answer(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let place = Arc::clone(&self.long_answers).acquire_owned();
        match tokio::time::timeout(Duration::from_secs(5), place).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                format!("expected fewer than {LONG_ANSWERS} long answers at a time"),
            )
            .help("try again in a moment")
            .header(axum::http::header::RETRY_AFTER, "1")),
        }
    }

    /// Waits until the ends are as they should, the time is over, or the node stops.
    pub(super) async fn wait_ends(&self, enough: impl Fn(&Ends) -> bool, most: Duration) {
        let mut ends = self.ends.subscribe();
        let mut hurry = self.hurry.subscribe();
        let mut stopping = self.stopping.subscribe();
        let wait = async {
            tokio::select! {
                _ = ends.wait_for(enough) => {}
                _ = hurry.wait_for(|hurry| *hurry) => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        };
        let _ = tokio::time::timeout(most, wait).await;
    }

    /// Waits until everything before `end` is applied; whether it is.
    pub(super) async fn wait_applied(&self, end: Offset, most: Duration) -> bool {
        let mut applied = self.applied.subscribe();
        let mut stopping = self.stopping.subscribe();
        let wait = async {
            tokio::select! {
                _ = applied.wait_for(|applied| *applied >= end) => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        };
        let _ = tokio::time::timeout(most, wait).await;
        *self.applied.borrow() >= end
    }

    /// What a reply stands for that shows everything before `applied`.
    pub(super) fn token(&self, applied: Offset) -> Option<Token> {
        let offset = Offset(applied.0.checked_sub(1)?);
        Some(Token { log: self.log.id(), epoch: self.home.epoch_at(offset), offset })
    }

    /// Sets what is wrong, or that nothing is.
    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        let mut kept = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *kept != trouble {
            match &trouble {
                Some(text) => self.helm.events.note(self.now(), text.clone()),
                None => self.helm.events.note(self.now(), "all is well again".into()),
            }
            *kept = trouble;
        }
    }

    /// Notes once that slots cannot be kept, and that they can be again.
    pub(super) fn slots_troubled(&self, trouble: Option<String>) {
        let mut kept = self.slots_trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *kept != trouble {
            let text = trouble.clone().unwrap_or_else(|| "slots are kept again".into());
            self.helm.events.note(self.now(), text);
            *kept = trouble;
        }
    }

    /// What is wrong, if anything is.
    pub(super) fn trouble(&self) -> Option<String> {
        if let Some(poison) = self.home.poison() {
            return Some(poison.to_string());
        }
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn stop(&self) {
        self.halt();
        self.stop.store(true, Release);
        self.stopping.send_replace(true);
        if let Some(leader) = &self.leader {
            leader.stop();
        }
        if let Some(archive) = &self.archive {
            archive.stop();
        }
        self.home.wake();
    }

    /// Follows no more.
    pub(super) fn halt(&self) {
        self.halt.store(true, Release);
    }

    /// Whether it is to follow no more.
    pub(super) fn is_halted(&self) -> bool {
        self.halt.load(Acquire)
    }

    /// It follows again.
    pub(super) fn go_on(&self) {
        self.halt.store(false, Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Acquire)
    }
}

fn stopped() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Kind::Closed.word(), "this node is stopping")
}

/// Has requests and the leader told that the log has grown.
pub(super) fn pulse(node: &Arc<Node>) -> Result<JoinHandle<()>> {
    let node = Arc::clone(node);
    let tell = {
        let ends = node.ends.clone();
        move |durable, visible| {
            ends.send_if_modified(|ends| {
                let before = *ends;
                ends.durable = ends.durable.max(durable);
                ends.visible = ends.visible.max(visible);
                *ends != before
            });
        }
    };
    // Whoever makes the log grow wakes those who wait over the network by itself.
    node.home.set_ear(Box::new(tell.clone()));
    spawn("tidelog-pulse", move || {
        let mut seen = Ends::default();
        while !node.is_stopping() {
            let (durable, visible) = node.home.wait_change((seen.durable.0, seen.visible.0), LOOK);
            if let Some(leader) = &node.leader {
                // Also when nothing moved: time alone may end a spell or bring a change through.
                leader.grew();
            }
            let ends = Ends { durable, visible };
            if ends != seen {
                tell(durable, visible);
                seen = ends;
                node.followers.passed(node.now(), durable.1);
            }
        }
    })
}

/// Applies a leader's records to its table as they become visible.
pub(super) fn apply(node: &Arc<Node>) -> Result<JoinHandle<()>> {
    let mut applier = Applier::new(&node.log, &node.table)?;
    let mut table = node.table.clone();
    let node = Arc::clone(node);
    spawn("tidelog-apply", move || {
        while !node.is_stopping() {
            let (seen, _) = node.home.visible();
            let started = Instant::now();
            match applier.run(&mut table) {
                Ok(applied) => {
                    if applied.to > applied.from {
                        node.metrics.applied(started.elapsed());
                    }
                    node.applied.send_replace(applied.to);
                    node.set_trouble(None);
                    node.home.wait_beyond(seen, LOOK);
                }
                Err(e) => {
                    node.set_trouble(Some(e.to_string()));
                    std::thread::park_timeout(LOOK);
                }
            }
        }
        if let Err(e) = table.checkpoint() {
            node.set_trouble(Some(e.to_string()));
        }
    })
}

/// What following came to: the follower as it stands, and why it follows no more.
pub(super) type Followed = (Follower, Result<()>);

/// Runs a follower until the node stops, or is to follow no more.
pub(super) fn follow(node: &Arc<Node>, mut follower: Follower) -> Result<JoinHandle<Followed>> {
    let node = Arc::clone(node);
    let run = move || {
        let shown = |node: &Node, result: &Result<Progress>| match result {
            Ok(progress) => {
                node.applied.send_replace(progress.applied);
                node.set_trouble(None);
            }
            Err(e) => node.set_trouble(Some(e.to_string())),
        };
        let ran = follower.run(&node.halt, |result| shown(&node, result));
        if let Err(e) = &ran {
            // What is here is served on; an operator must see to the rest.
            node.set_trouble(Some(format!("it follows no more: {e}")));
        }
        (follower, ran)
    };
    std::thread::Builder::new()
        .name("tidelog-follow".into())
        .spawn(run)
        .map_err(|e| Error::new(Kind::Io, format!("cannot start the thread tidelog-follow: {e}")))
}

pub(super) fn spawn<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|e| Error::new(Kind::Io, format!("cannot start the thread {name}: {e}")))
}
