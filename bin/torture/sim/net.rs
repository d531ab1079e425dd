//! The network: what followers ask reaches the leader, or does not, or comes back altered.
//!
//! Behind the seam of `ship::Wire`: the questions and answers are the real bytes, answered by the
//! real shelf. It remembers what each follower said of itself, because that is what the leader
//! was told, and holds each report against those before. Invariants, of one node:
//! - the epoch that it is bound to only rises;
//! - a clean report never says less than an earlier clean one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidelog::fs::Fs;
use tidelog::fs::sim::Sim;
use tidelog::replica::Leader;
use tidelog::ship::protocol::{MAX_PART_BYTES, Request};
use tidelog::ship::shelf::{Shelf, Speaker};
use tidelog::ship::{Range, Wire};
use tidelog::{Epoch, Error, Id, Kind, LogByte, Result};

use crate::dice::Dice;

/// The node that answers, while it runs.
#[derive(Debug)]
pub struct Served {
    pub shelf: Shelf,
    pub leader: Arc<Leader>,
    pub sim: Sim,
}

/// A link, and what came over it.
#[derive(Debug, Default)]
pub struct Way {
    /// Whether requests are lost, and whether answers are.
    pub deaf: bool,
    pub mute: bool,
    /// The last request: it may arrive again.
    last: Option<Vec<u8>>,
    said: Said,
}

/// What a follower has said of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    pub node: Option<Id>,
    promise: Epoch,
    /// The most it has called durable in a clean report.
    pub durable: LogByte,
}

/// Everything between the nodes.
#[derive(Debug)]
pub struct Net {
    pub served: Option<Served>,
    pub ways: Vec<Way>,
    pub per_mille: u64,
    pub dice: Dice,
    /// What a report should not have said.
    pub found: Option<String>,
    /// Whether a slot could not be kept: then retention owes nothing.
    pub slots_lost: bool,
    pub calls: u64,
    pub harmed: u64,
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

impl Net {
    pub fn new(followers: usize, seed: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Net {
            served: None,
            ways: (0..followers).map(|_| Way::default()).collect(),
            per_mille: 0,
            dice: Dice::new(seed),
            found: None,
            slots_lost: false,
            calls: 0,
            harmed: 0,
        }))
    }

    /// What a follower has said.
    pub fn said(&self, who: usize) -> Said {
        self.ways[who].said
    }

    /// Lets the last request of a follower arrive once more; nobody waits for the answer.
    pub fn duplicate(&mut self, who: usize) {
        if let Some(bytes) = self.ways[who].last.clone() {
            let _ = self.answer(&bytes);
        }
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

    /// What the node answers to a fetch: what `POST /v1/fetch` does.
    fn answer(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        let (request, report) = Request::decode(bytes)?;
        let Some(served) = &self.served else { return Err(away("nobody answers")) };
        if report.last.is_some() {
            served.leader.heard(&report)?;
        }
        let answer = served.shelf.answer(&report, request.part_bytes, None)?;
        let slot = match served.shelf.claim(&request.name, &report, &answer.answer) {
            Ok(state) => state.map_or("none", |state| state.word()),
            Err(_) => {
                self.slots_lost = true;
                "none"
            }
        };
        let speaker =
            Speaker { time: served.sim.now(), stale: Some(Duration::ZERO), ..Speaker::default() };
        Ok(served.shelf.reply(answer, speaker, slot))
    }

    /// Holds a report against what the same follower said before.
    fn listen(&mut self, who: usize, bytes: &[u8]) {
        let Ok((_, report)) = Request::decode(bytes) else {
            self.found = Some("a follower's request cannot be read".into());
            return;
        };
        let said = &mut self.ways[who].said;
        let Some(node) = report.node.filter(|_| report.log.is_some()) else { return };
        if said.node != Some(node) {
            *said = Said { node: Some(node), ..Said::default() };
        }
        let promise = report.promise.unwrap_or_default();
        if promise < said.promise {
            self.found =
                Some(format!("follower {who} was bound to {}, now to {promise}", said.promise));
        }
        said.promise = promise;
        if report.unclean {
            return;
        }
        let durable = report.durable.log_byte;
        if durable < said.durable {
            self.found = Some(format!(
                "follower {who} had said that log byte {} is durable, and says now, as if nothing were \
                 lost, that {durable} is",
                said.durable
            ));
        }
        said.durable = durable;
    }
}

/// A follower's end of its link.
#[derive(Clone, Debug)]
pub struct Cable {
    pub net: Arc<Mutex<Net>>,
    /// `None` for one that leads nowhere.
    pub who: Option<usize>,
}

impl Cable {
    fn net(&self) -> MutexGuard<'_, Net> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call: there, if it gets there; and back.
    fn call<T>(
        &self,
        ask: impl Fn(&mut Net) -> Result<T>,
        bytes: impl Fn(&mut T) -> &mut Vec<u8>,
    ) -> Result<T> {
        let mut net = self.net();
        let net = &mut *net;
        let who = self.who.ok_or_else(|| away("the link leads nowhere"))?;
        let harm = net.harm();
        if net.ways[who].deaf || harm == Harm::RequestLost {
            return Err(away("the request was lost"));
        }
        let mut answer = ask(net)?;
        if harm == Harm::Twice {
            answer = ask(net)?;
        }
        if net.ways[who].mute || harm == Harm::AnswerLost {
            return Err(away("the answer was lost"));
        }
        let place = net.dice.next();
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

impl Wire for Cable {
    fn place(&self) -> &str {
        "sim://leader"
    }

    fn fetch(
        &mut self,
        request: &[u8],
        _wait: Duration,
        _limit: usize,
    ) -> Result<(Vec<u8>, Instant)> {
        if let Some(who) = self.who {
            let mut net = self.net();
            net.listen(who, request);
            net.ways[who].last = Some(request.to_vec());
        }
        let answer = self.call(|net| net.answer(request), |bytes| bytes)?;
        Ok((answer, Instant::now()))
    }

    fn range(&mut self, segment: LogByte, byte: u64, bytes: u64) -> Result<Option<Range>> {
        let ask = |net: &mut Net| {
            let Some(served) = &net.served else { return Err(away("nobody answers")) };
            let book = served.shelf.open(segment)?;
            let few = bytes.min(book.bytes.saturating_sub(byte)).min(MAX_PART_BYTES as u64);
            if few == 0 {
                return Ok(Err(Vec::new()));
            }
            book.range(byte, usize::try_from(few).expect("at most a part")).map(Ok)
        };
        let answer = self.call(ask, |answer| match answer {
            Ok(range) => &mut range.bytes,
            Err(nothing) => nothing,
        })?;
        Ok(answer.ok())
    }

    fn list(&mut self, from: LogByte) -> Result<(Vec<u64>, bool)> {
        let ask = |net: &mut Net| {
            let Some(served) = &net.served else { return Err(away("nobody answers")) };
            let (listed, more) = served.shelf.list(from, 10_000);
            Ok((listed.iter().map(|one| one.base.0).collect::<Vec<_>>(), more, Vec::new()))
        };
        let (listed, more, _) = self.call(ask, |(_, _, bytes)| bytes)?;
        Ok((listed, more))
    }
}

fn away(what: &str) -> Error {
    Error::new(Kind::Io, what)
}
