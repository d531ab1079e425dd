//! The other nodes over HTTP: whom to ask, and asking them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Kind, Result};
use crate::position::Id;
use crate::replica::failover::{Ask, Peer, Peers, Standing};
use crate::ship::archive::Store;
use crate::ship::{Client, Credentials, Source};

/// An answer takes at most this long: who does not answer by then is asked again later.
const SILENCE: Duration = Duration::from_secs(2);
/// Who let that pass lately is waited for so long: what hangs holds up a promotion once.
const HUNG: Duration = Duration::from_millis(500);
const LATELY: Duration = Duration::from_secs(10);

/// Makes a source of a node's address.
pub type OpenNode = Arc<dyn Fn(&str) -> Result<Box<dyn Source>> + Send + Sync>;

/// The addresses that are known, and how to reach them.
#[derive(Clone)]
pub(in crate::server) struct PeerBook {
    /// Those that were named.
    pub(super) named: Vec<String>,
    /// Those that were heard of, by node.
    heard: Arc<Mutex<BTreeMap<Id, String>>>,
    /// Those that did not answer a question in time, by address, and when.
    silent: Arc<Mutex<BTreeMap<String, Instant>>>,
    pub(super) credentials: Credentials,
    pub(super) open: OpenNode,
    /// What this node publishes to once it leads.
    archive: Option<Arc<dyn Store>>,
    own: String,
}

impl std::fmt::Debug for PeerBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerBook").field("own", &self.own).finish_non_exhaustive()
    }
}

impl PeerBook {
    pub(super) fn new(
        named: Vec<String>,
        credentials: Credentials,
        open: OpenNode,
        archive: Option<Arc<dyn Store>>,
        own: String,
    ) -> Self {
        let named = named.into_iter().filter(|address| *address != own).collect();
        PeerBook {
            named,
            heard: Arc::default(),
            silent: Arc::default(),
            credentials,
            open,
            archive,
            own,
        }
    }

    /// Notes where a node is.
    pub(in crate::server) fn hear(&self, node: Id, address: &str) {
        if !address.is_empty() && address != self.own {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.insert(node, address.to_owned());
        }
    }

    /// A client of the node at `address`.
    pub(super) fn client(&self, address: &str) -> Result<Client> {
        Ok(Client::new(address, self.credentials.clone())?.silence(SILENCE))
    }
}

impl Peers for PeerBook {
    fn known(&self) -> Vec<Peer> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known: Vec<Peer> = Vec::new();
        let named = self.named.iter().map(|address| (None, address));
        for (node, address) in heard.iter().map(|(id, at)| (Some(*id), at)).chain(named) {
            if !known.iter().any(|peer| peer.address == *address) {
                known.push(Peer { node, address: address.clone() });
            }
        }
        known
    }

    fn ask(&mut self, peer: &Peer, ask: &Ask) -> Result<Standing> {
        let headers = [("content-type", "application/json")];
        let silent = || self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let hung = silent().get(&peer.address).is_some_and(|at| at.elapsed() < LATELY);
        let most = if hung { HUNG } else { SILENCE };
        let client = self.client(&peer.address)?.silence(most);
        let began = Instant::now();
        let reply = client.post("/v1/promise", &headers, &ask.encode(), Duration::ZERO);
        match &reply {
            Ok(_) => drop(silent().remove(&peer.address)),
            Err(_) if began.elapsed() >= most => {
                silent().insert(peer.address.clone(), Instant::now());
            }
            Err(_) => {}
        }
        let reply = reply?;
        let standing = Standing::decode(&reply.ok()?.bytes(super::MOST_ANSWER_BYTES)?)?;
        self.hear(standing.node(), &peer.address);
        Ok(standing)
    }

    fn source(&mut self, peer: &Peer) -> Result<Box<dyn Source>> {
        (self.open)(&peer.address)
    }

    fn archive(&mut self) -> Option<Arc<dyn Store>> {
        self.archive.clone()
    }
}

/// Whether nobody listens at an address whose machine answers: the process there is gone.
pub(super) fn is_gone(address: &str) -> bool {
    use std::net::{TcpStream, ToSocketAddrs};
    let place = address.split_once("://").map_or(address, |(_, rest)| rest).trim_end_matches('/');
    let Some(place) = place.to_socket_addrs().ok().and_then(|mut all| all.next()) else {
        return false;
    };
    let refused = TcpStream::connect_timeout(&place, Duration::from_millis(500));
    refused.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// Whether an error says that the other end is not the leader, or not there, and another may be; or that the disk is full.
pub(super) fn may_pass(kind: Kind) -> bool {
    matches!(kind, Kind::Io | Kind::NotLeader | Kind::NotFound | Kind::Stale | Kind::DiskFull)
}
