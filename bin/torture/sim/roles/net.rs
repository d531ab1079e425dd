//! The network between nodes that are all alike: fetches, and what candidates ask.
//!
//! Behind the seams of `ship::Wire` and `failover::Peers`: questions and answers are the real bytes, and
//! what answers them is the engine's own shelf and voter. Each way of each link can be cut by itself; what
//! was asked may arrive again, much later.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidelog::fs::Fs;
use tidelog::fs::sim::Sim;
use tidelog::replica::failover::{Ask, Peer, Peers, Promises, Standing, Voter};
use tidelog::replica::{Gauge, Leader};
use tidelog::ship::archive::Store;
use tidelog::ship::protocol::{MAX_PART_BYTES, Request};
use tidelog::ship::shelf::{Shelf, Speaker};
use tidelog::ship::{Range, Remote, Source, Wire};
use tidelog::{Epoch, Error, Id, Kind, LogByte, Result};

use crate::dice::Dice;

/// What answers at a node while it runs.
#[derive(Debug)]
pub struct Desk {
    pub shelf: Shelf,
    pub voice: Voice,
    pub sim: Sim,
    /// What its operator allows.
    pub may_lead: bool,
    pub priority: u32,
}

/// In which role.
#[derive(Debug)]
pub enum Voice {
    Leads(Arc<Leader>),
    Follows(Gauge, Promises),
}

impl Desk {
    pub fn voter(&self) -> Voter<'_> {
        match &self.voice {
            Voice::Leads(leader) => Voter::Leads(leader),
            Voice::Follows(gauge, promises) => Voter::Follows(gauge, promises),
        }
    }

    /// How the node stands, with what its host adds.
    pub fn standing(&self, at: usize) -> Standing {
        self.signed(self.voter().standing(), at)
    }

    fn signed(&self, mut standing: Standing, at: usize) -> Standing {
        standing.address = Some(address(at));
        (standing.may_lead, standing.priority) = (self.may_lead, self.priority);
        standing
    }
}

/// Everything between the nodes.
#[derive(Debug)]
pub struct Net {
    pub desks: Vec<Option<Desk>>,
    /// `cut[a][b]`: what a sends to b is lost.
    pub cut: Vec<Vec<bool>>,
    pub per_mille: u64,
    pub dice: Dice,
    /// To whom a node has given its promise since it was last looked at.
    pub granted: Vec<Option<usize>>,
    /// Questions that may arrive again: to whom, and what.
    late: Vec<(usize, usize, Vec<u8>)>,
    /// Nodes that reach neither the coordinator nor a store.
    pub off: Vec<bool>,
    /// Whether stores fail now and then.
    pub shaky: bool,
    pub calls: u64,
    pub harmed: u64,
    pub promises: u64,
}

/// What becomes of one call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Harm {
    None,
    RequestLost,
    AnswerLost,
    CutShort,
    Flipped,
    Twice,
}

/// Questions that are kept to arrive again.
const MOST_LATE: usize = 16;

impl Net {
    pub fn new(nodes: usize, seed: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Net {
            desks: (0..nodes).map(|_| None).collect(),
            cut: vec![vec![false; nodes]; nodes],
            per_mille: 0,
            dice: Dice::new(seed),
            granted: vec![None; nodes],
            late: Vec::new(),
            off: vec![false; nodes],
            shaky: true,
            calls: 0,
            harmed: 0,
            promises: 0,
        }))
    }

    /// All links are whole again.
    pub fn heal(&mut self) {
        self.cut.iter_mut().flatten().for_each(|cut| *cut = false);
    }

    /// Whether a node leads.
    pub fn leads(&self, at: usize) -> bool {
        self.desks[at].as_ref().is_some_and(|desk| matches!(desk.voice, Voice::Leads(_)))
    }

    /// Whether nobody listens at a node whose machine answers.
    pub fn is_gone(&self, from: usize, at: usize) -> bool {
        self.desks[at].is_none() && !self.cut[from][at] && !self.cut[at][from]
    }

    /// Lets an old question arrive once more; nobody waits for the answer.
    pub fn late(&mut self, which: u64) {
        if self.late.is_empty() {
            return;
        }
        let at = usize::try_from(which % self.late.len() as u64).expect("an index");
        let (from, to, bytes) = self.late.swap_remove(at);
        let _ = self.vote(from, to, &bytes);
    }

    fn harm(&mut self) -> Harm {
        self.calls += 1;
        let drawn = self.dice.next();
        if drawn % 1000 >= self.per_mille {
            return Harm::None;
        }
        self.harmed += 1;
        match drawn / 1000 % 5 {
            0 => Harm::RequestLost,
            1 => Harm::AnswerLost,
            2 => Harm::CutShort,
            3 => Harm::Flipped,
            _ => Harm::Twice,
        }
    }

    fn desk(&self, at: usize) -> Result<&Desk> {
        self.desks[at].as_ref().ok_or_else(|| away("nobody answers"))
    }

    /// What a node answers to a fetch: what `POST /v1/fetch` does.
    fn fetch(&self, at: usize, bytes: &[u8]) -> Result<Vec<u8>> {
        let (request, report) = Request::decode(bytes)?;
        let desk = self.desk(at)?;
        if let Voice::Leads(leader) = &desk.voice
            && report.last.is_some()
        {
            // What cannot be looked up does not count.
            let _ = leader.heard(&report);
        }
        let bound = desk.voter().promised().map(|(epoch, _)| epoch);
        let answer = desk.shelf.answer(&report, request.part_bytes, bound)?;
        let (stale, upstream) = match &desk.voice {
            Voice::Leads(_) => (Some(Duration::ZERO), Vec::new()),
            Voice::Follows(gauge, _) => (gauge.staleness(), gauge.chain()),
        };
        let speaker = Speaker { time: desk.sim.now(), stale, upstream, ..Speaker::default() };
        Ok(desk.shelf.reply(answer, speaker, "none"))
    }

    /// What a node answers to a candidate: what `POST /v1/promise` does.
    fn vote(&mut self, from: usize, at: usize, bytes: &[u8]) -> Result<Vec<u8>> {
        let ask = Ask::decode(bytes)?;
        let desk = self.desk(at)?;
        let (standing, new) = desk.voter().answer(&ask)?;
        let standing = desk.signed(standing, at);
        if new {
            self.promises += 1;
            self.granted[at] = Some(from);
        }
        Ok(standing.encode())
    }

    /// One call: there, if it gets there; and back.
    fn call<T>(
        &mut self,
        (from, to): (usize, usize),
        ask: impl Fn(&mut Net) -> Result<T>,
        bytes: impl Fn(&mut T) -> &mut Vec<u8>,
    ) -> Result<T> {
        let harm = self.harm();
        if self.cut[from][to] || harm == Harm::RequestLost {
            return Err(away("the request was lost"));
        }
        let mut answer = ask(self)?;
        if harm == Harm::Twice {
            answer = ask(self)?;
        }
        if self.cut[to][from] || harm == Harm::AnswerLost {
            return Err(away("the answer was lost"));
        }
        let place = self.dice.next();
        let body = bytes(&mut answer);
        let at = usize::try_from(place % (body.len().max(1) as u64)).expect("an index");
        match harm {
            Harm::CutShort => body.truncate(at),
            Harm::Flipped if !body.is_empty() => body[at] ^= 1 << (place % 8),
            _ => {}
        }
        Ok(answer)
    }
}

/// Where a node is.
pub fn address(node: usize) -> String {
    format!("sim://{node}")
}

/// Who is at an address.
pub fn at(address: &str) -> Option<usize> {
    address.strip_prefix("sim://")?.parse().ok()
}

/// A node's end of the network.
#[derive(Clone, Debug)]
pub struct Port {
    pub net: Arc<Mutex<Net>>,
    pub node: usize,
    /// What its node publishes to once it leads.
    pub archive: Option<Arc<dyn Store>>,
}

impl Port {
    pub fn net(&self) -> MutexGuard<'_, Net> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is pulled from a node.
    pub fn source(&self, address: &str) -> Result<Box<dyn Source>> {
        let to = at(address).ok_or_else(|| away("no such address"))?;
        let cable = Cable { port: self.clone(), to, place: address.to_owned() };
        Ok(Box::new(Remote::over(cable).name(format!("node {}", self.node))))
    }
}

impl Peers for Port {
    fn known(&self) -> Vec<Peer> {
        let nodes = self.net().desks.len();
        let others = (0..nodes).filter(|other| *other != self.node);
        others.map(|other| Peer { node: None, address: address(other) }).collect()
    }

    fn ask(&mut self, peer: &Peer, ask: &Ask) -> Result<Standing> {
        let to = at(&peer.address).ok_or_else(|| away("no such address"))?;
        let from = self.node;
        let bytes = ask.encode();
        let mut net = self.net();
        if ask.epoch.is_some() {
            if net.late.len() == MOST_LATE {
                net.late.remove(0);
            }
            net.late.push((from, to, bytes.clone()));
        }
        // TCP and JSON do not let altered bytes through unseen; lost ones they do.
        let answer = net.call(
            (from, to),
            |net| Ok((net.vote(from, to, &bytes)?, Vec::new())),
            |a| &mut a.1,
        )?;
        Standing::decode(&answer.0)
    }

    fn source(&mut self, peer: &Peer) -> Result<Box<dyn Source>> {
        Port::source(self, &peer.address)
    }

    fn archive(&mut self) -> Option<Arc<dyn Store>> {
        self.archive.clone()
    }
}

/// A link from a node to another.
#[derive(Clone, Debug)]
struct Cable {
    port: Port,
    to: usize,
    place: String,
}

impl Cable {
    fn ways(&self) -> (usize, usize) {
        (self.port.node, self.to)
    }
}

impl Wire for Cable {
    fn place(&self) -> &str {
        &self.place
    }

    fn fetch(
        &mut self,
        request: &[u8],
        _wait: Duration,
        _limit: usize,
    ) -> Result<(Vec<u8>, Instant)> {
        let to = self.to;
        let answer =
            self.port.net().call(self.ways(), |net| net.fetch(to, request), |bytes| bytes)?;
        Ok((answer, Instant::now()))
    }

    fn range(&mut self, segment: LogByte, byte: u64, bytes: u64) -> Result<Option<Range>> {
        let to = self.to;
        let ask = |net: &mut Net| {
            let book = net.desk(to)?.shelf.open(segment)?;
            let few = bytes.min(book.bytes.saturating_sub(byte)).min(MAX_PART_BYTES as u64);
            if few == 0 {
                return Ok(Err(Vec::new()));
            }
            book.range(byte, usize::try_from(few).expect("at most a part")).map(Ok)
        };
        let answer = self.port.net().call(self.ways(), ask, |answer| match answer {
            Ok(range) => &mut range.bytes,
            Err(nothing) => nothing,
        })?;
        Ok(answer.ok())
    }

    fn list(&mut self, from: LogByte) -> Result<(Vec<u64>, bool)> {
        let to = self.to;
        let ask = |net: &mut Net| {
            let (listed, more) = net.desk(to)?.shelf.list(from, 10_000);
            Ok((listed.iter().map(|one| one.base.0).collect::<Vec<_>>(), more, Vec::new()))
        };
        let (listed, more, _) = self.port.net().call(self.ways(), ask, |(_, _, bytes)| bytes)?;
        Ok((listed, more))
    }
}

/// A promise, as it is seen from outside.
pub type Given = Option<(Epoch, Id)>;

fn away(what: &str) -> Error {
    Error::new(Kind::Io, what)
}
