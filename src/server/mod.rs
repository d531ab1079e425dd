//! The HTTP interface of a node: append, read, query, pull, watch (feature `server`).
//!
//! Called by the command line and by programs that embed a node; uses everything below it. The
//! only part with a runtime: two threads of its own for connections, while reading, appending and
//! waiting for disks happens on threads that may block.
//!
//! ```text
//! connection ── listen ── routes ── auth ──┬─ records, table, sql ── Log, Table
//!                                          ├─ ship ── Shelf ── segments
//!                                          └─ status, health, metrics, page
//! ```
//!
//! Invariants:
//! - everything a request says is bounded: headers, bodies, time, how much is answered;
//! - off the loopback nobody is served without tokens, client certificates, or having said that it
//!   is to be so;
//! - a follower takes no appends: it names the leader.

mod apply;
mod archive;
mod archive_snapshots;
mod auth;
mod body;
mod events;
mod failover;
mod followers;
mod fresh;
mod health;
mod helm;
mod history;
mod listen;
mod members;
mod metrics;
mod node;
mod page;
mod query;
mod records;
mod reply;
mod retain;
mod routes;
pub mod run;
mod ship;
mod slots;
mod snapshots;
mod sql;
mod status;
mod stream;
mod table;
mod tls;

pub use archive::{ArchiveOptions, DEFAULT_ARCHIVE_INTERVAL, DEFAULT_ARCHIVE_SNAPSHOT_BYTES};
pub use auth::{Role, Tokens};
pub use retain::Keep;
pub use tls::Tls;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::error::{Error, Kind, Result};
use crate::log::{Log, SlotLimits};
use crate::replica::{Follower, Leader};
use crate::ship::archive::Store;
use crate::table::Table;

use archive::Archiving;
use helm::Helm;
use listen::Listener;
use node::{Followed, Node};

/// Threads that talk to connections.
const CONNECTION_THREADS: usize = 2;
/// How long answers under way may take when the server stops.
const FAREWELL: Duration = Duration::from_secs(5);
/// Connections at a time unless told otherwise.
pub const DEFAULT_CONNECTIONS: usize = 1024;

/// How a node is served.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    listen: SocketAddr,
    name: String,
    advertise: Option<String>,
    tokens: Tokens,
    tls: Option<Tls>,
    insecure: bool,
    connections: usize,
    archive: Option<ArchiveOptions>,
    slots: SlotLimits,
    keep: Keep,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            name: "tidelog".into(),
            advertise: None,
            tokens: Tokens::default(),
            tls: None,
            insecure: false,
            connections: DEFAULT_CONNECTIONS,
            archive: None,
            slots: SlotLimits::default(),
            keep: Keep::default(),
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = $name;
            self
        }
    )*};
}

impl ServerOptions {
    setters! {
        /// Where it listens; port 0 for any that is free. Default: 127.0.0.1:7400.
        listen: SocketAddr,
        /// What people call the node. Default: tidelog.
        name: String,
        /// The address that others are told, if it is another than where it listens.
        advertise: Option<String>,
        /// Who may do what. Default: everybody everything.
        tokens: Tokens,
        /// Serves HTTPS. Default: HTTP.
        tls: Option<Tls>,
        /// Serves off the loopback even without tokens and client certificates. Default: no.
        insecure: bool,
        /// Connections at a time; more wait to be accepted. Default: 1024.
        connections: usize,
        /// Where a leader publishes its log all the while. Default: nowhere.
        archive: Option<ArchiveOptions>,
        /// How much of a leader's log those who pull from it may hold. Default: 20 % of the disk, 7
        /// days.
        slots: SlotLimits,
        /// What a leader keeps of its log. Default: everything.
        keep: Keep,
    }

    fn check(&self) -> Result<()> {
        let guarded =
            !self.tokens.is_empty() || self.tls.as_ref().is_some_and(Tls::asks_for_identity);
        if self.listen.ip().is_loopback() || guarded || self.insecure {
            return Ok(());
        }
        Err(Error::new(
            Kind::InvalidInput,
            format!(
                "expected tokens or client certificates for an address that others reach, found {} \
                 without either",
                self.listen
            ),
        )
        .help("name a token file, or listen on 127.0.0.1; `--insecure` serves everybody"))
    }

    /// Binds, without serving yet: so that a follower can tell its source where it will serve.
    pub fn bind(mut self) -> Result<Bound> {
        self.check()?;
        let listener = listen::bind(self.listen)?;
        self.listen = listener
            .local_addr()
            .map_err(|e| Error::new(Kind::Io, format!("cannot learn the address: {e}")))?;
        Ok(Bound { options: self, listener, helm: Arc::default(), lease: None })
    }
}

/// A place where a node will be served.
#[derive(Debug)]
pub struct Bound {
    options: ServerOptions,
    listener: TcpListener,
    helm: Arc<Helm>,
    /// Until when a leader may answer, from its first answer on.
    lease: Option<u64>,
}

impl Bound {
    /// Where it publishes once it leads.
    fn archive_store(&self) -> Option<Arc<dyn Store>> {
        self.options.archive.as_ref().map(ArchiveOptions::store)
    }

    /// Its address, as others are told.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        let here = || format!("{scheme}://{}", self.options.listen);
        self.options.advertise.clone().unwrap_or_else(here)
    }

    /// Serves a leader: its log, open for writing, and that log's table, which is kept up to date.
    /// It acknowledges under the newest synchronous set in the log; [`Leader::change`] makes another.
    pub fn lead(self, log: Log, table: Table) -> Result<Server> {
        if log.follows().is_some() {
            return Err(Error::new(
                Kind::NotLeader,
                "expected a log that leads, found a follower's directory",
            )
            .help("serve it with the source that it follows"));
        }
        let name = self.options.name.clone();
        let log = Arc::new(log);
        // Slots that cannot be read stop retention, not the node.
        let limited = log.limit_slots(&self.options.slots);
        let leader = match self.lease {
            Some(_) => Leader::lead_elected(Arc::clone(&log))?,
            None => Leader::lead(Arc::clone(&log))?,
        };
        leader.lease(self.lease);
        let archive = self.options.archive.clone();
        if archive.is_some() {
            leader.use_archive();
        }
        let mut node = Node::new(
            log,
            table,
            name,
            node::Role::Leads(Box::new(leader)),
            Arc::clone(&self.helm),
        );
        if let Err(e) = limited {
            node.slots_troubled(Some(format!("slots cannot be kept: {e}")));
        }
        node.archive = archive.as_ref().map(|archive| Arc::new(Archiving::new(archive)));
        self.start(node, None, archive)
    }

    /// Serves a follower, and runs it.
    pub fn follow(self, follower: Follower) -> Result<Server> {
        if self.options.archive.is_some() {
            return Err(Error::new(
                Kind::NotLeader,
                "expected a leader to publish to the archive, found a follower",
            )
            .help("publish from the leader; a follower may follow the archive"));
        }
        self.keep_up(follower)
    }

    /// The same, of a node that may publish once it leads.
    fn keep_up(self, follower: Follower) -> Result<Server> {
        let (log, table) = (follower.log(), follower.table().clone());
        let name = self.options.name.clone();
        let role = node::Role::Follows(follower.gauge(), follower.pause(), follower.promises());
        let node = Node::new(log, table, name, role, Arc::clone(&self.helm));
        self.start(node, Some(follower), None)
    }

    fn start(
        self,
        node: Node,
        follower: Option<Follower>,
        archive: Option<ArchiveOptions>,
    ) -> Result<Server> {
        let (url, address) = (self.url(), self.options.listen);
        let _ = node.address.set(url.clone());
        let node = Arc::new(node);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONNECTION_THREADS)
            .thread_name("tidelog-http")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|e| Error::new(Kind::Io, format!("cannot start the runtime: {e}")))?;
        let mut server = Server {
            runtime: Some(runtime),
            listening: None,
            threads: Vec::new(),
            following: None,
            resting: Mutex::default(),
            publishing: None,
            url,
            address,
            node,
            listener: self.listener.try_clone().map_err(cannot_listen)?,
            options: self.options.clone(),
        };
        let listener = Listener {
            acceptor: self.options.tls.as_ref().map(Tls::acceptor),
            routes: routes::routes(&server.node, self.options.tokens.clone()),
            connections: self.options.connections,
        };
        // What fails from here on stops what was started: dropping the server does that.
        server.threads.push(node::pulse(&server.node)?);
        match follower {
            Some(follower) => server.following = Some(node::follow(&server.node, follower)?),
            None => {
                server.threads.push(node::apply(&server.node)?);
                if self.options.keep.is_limited() {
                    server.threads.push(retain::retain(&server.node, self.options.keep)?);
                }
            }
        }
        if let Some(archive) = archive {
            server.publishing = Some(archive::publish(&server.node, archive)?);
        }
        let runtime = server.runtime.as_ref().expect("made above");
        let stopping = server.node.stopping.subscribe();
        let _inside = runtime.enter();
        let accepting = listen::accept(self.listener, listener, stopping)?;
        server.listening = Some(runtime.spawn(accepting));
        Ok(server)
    }
}

/// A node that is served. Dropping it stops it; [`stop`](Server::stop) says whether that went well.
pub struct Server {
    node: Arc<Node>,
    runtime: Option<Runtime>,
    listening: Option<tokio::task::JoinHandle<()>>,
    threads: Vec<JoinHandle<()>>,
    following: Option<JoinHandle<Followed>>,
    /// It follows no more, and is closed at the end.
    resting: Mutex<Option<Follower>>,
    publishing: Option<JoinHandle<()>>,
    url: String,
    address: SocketAddr,
    /// What it listens with: connections wait there while the node changes its role.
    listener: TcpListener,
    options: ServerOptions,
}

fn cannot_listen(e: std::io::Error) -> Error {
    Error::new(Kind::Io, format!("cannot listen: {e}"))
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Server {
    /// Where it can be reached, as others are told.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The log that is served.
    pub fn log(&self) -> &Log {
        &self.node.log
    }

    /// What leads the log; a follower has none.
    pub fn leader(&self) -> Option<&Leader> {
        self.node.leader.as_ref()
    }

    /// The table that is served.
    pub fn table(&self) -> &Table {
        &self.node.table
    }

    /// Whether it follows no more, because of an error that does not pass: [`stop`](Server::stop)
    /// says which. What it has it goes on serving.
    pub fn has_stopped_following(&self) -> bool {
        self.following.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Lets answers under way end, then closes the node.
    pub fn stop(mut self) -> Result<()> {
        let followed = self.end();
        self.close(followed)
    }

    /// Closes what was served, after the end.
    fn close(&mut self, followed: Result<()>) -> Result<()> {
        let Server { node, .. } = self;
        // Requests are over and threads are joined; who else holds the log closes it by dropping.
        let closed = match node.leads() {
            true => node.log.sync().map(drop),
            false => Ok(()),
        };
        followed.and(closed)
    }

    /// Stops following, and goes on serving what is here; the follower as it stands, and why it had stopped
    /// by itself, if it had.
    fn take_follower(&mut self) -> Option<Followed> {
        self.node.halt();
        let followed = self.following.take()?.join().ok();
        self.node.go_on();
        followed
    }

    /// Follows on, if it was only told to halt.
    fn follow_on(&mut self) -> Result<()> {
        if !self.node.is_halted() {
            return Ok(());
        }
        // What it ended by, if it did, it ends by again.
        match self.take_follower() {
            Some((follower, _)) => self.give_follower(follower),
            None => Ok(()),
        }
    }

    /// Takes a follower back that is to follow no more: it is closed at the end.
    fn rest(&mut self, follower: Follower) {
        *self.resting.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(follower);
    }

    /// Follows again.
    fn give_follower(&mut self, follower: Follower) -> Result<()> {
        self.following = Some(node::follow(&self.node, follower)?);
        Ok(())
    }

    /// Ends this role and closes what was served; the place to serve the next one at, where connections wait
    /// meanwhile.
    fn retire(mut self) -> (Result<()>, Result<Bound>) {
        let helm = Arc::clone(&self.node.helm);
        let listener = self.listener.try_clone().map_err(cannot_listen);
        let options = self.options.clone();
        let followed = self.end();
        let closed = self.close(followed);
        (closed, listener.map(|listener| Bound { options, listener, helm, lease: None }))
    }

    fn end(&mut self) -> Result<()> {
        self.node.stop();
        if let (Some(runtime), Some(listening)) = (&self.runtime, self.listening.take()) {
            let _ = runtime.block_on(async { tokio::time::timeout(FAREWELL, listening).await });
        }
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            let _ = thread.join();
        }
        if let (Some(thread), Some(archive)) = (self.publishing.take(), &self.node.archive) {
            // What was appended is to be in the archive, too; of what is not durable `stop` tells.
            let _ = self.node.log.sync();
            if let Some(leader) = &self.node.leader {
                leader.grew();
            }
            if archive.finish(FAREWELL) {
                let _ = thread.join();
            }
        }
        let panicked = || Error::new(Kind::Io, "the thread tidelog-follow panicked");
        let followed = match self.following.take().map(JoinHandle::join) {
            Some(Ok((follower, ran))) => follower.close().and(ran),
            Some(Err(_)) => Err(panicked()),
            None => {
                let resting = self.resting.get_mut().unwrap_or_else(PoisonError::into_inner);
                resting.take().map_or(Ok(()), Follower::stand_down)
            }
        };
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(FAREWELL);
        }
        followed
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Best effort: `stop` is there for those who want to know.
        let _ = self.end();
    }
}
