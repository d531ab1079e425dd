//! A node through its roles: it follows, becomes a candidate, leads, is replaced, follows again; in one
//! process, behind one address.
//!
//! ```text
//!             ┌───────── fenced, outbid, demoted, lease lost ────────────┐
//!             ▼                                                         │
//!  start ─► follow ── seat free, or an operator's word ── promotion ─► lead
//!             │ ▲                                            │
//!             │ └──────── too few promises, outbid ──────────┘
//!             └─ undecided: nobody is known to lead
//! ```
//!
//! Called by programs and by the command line; drives [`Follower`](crate::Follower), `replica::failover` and
//! a coordinator. Invariants:
//! - with a coordinator, or with other nodes named, a directory is never led because it led before: it follows
//!   until it has won an epoch;
//! - the place to listen at stays bound from the first role to the last: who connects during a change waits for it;
//! - one thread, the caller's, changes roles; requests only give it orders.

mod candidate;
mod follow;
mod lead;
mod outbid;
mod peers;

pub(super) use candidate::never_leads;
pub use peers::OpenNode;
pub(super) use peers::PeerBook;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::log::files::{Control, Layout, LogFile};
use crate::log::{Log, Options};
use crate::position::{Epoch, Id};
use crate::replica::coordinator::{Advice, Coordinator, Member, Seat};
use crate::replica::failover::{Ask, Election, Peer, Policy};
use crate::ship::{Credentials, Source};
use crate::table::TableOptions;

use super::helm::{Helm, Spell};
use super::{Bound, Server};
/// How often the runner looks around when nobody gives it an order.
const LOOK: Duration = Duration::from_millis(50);
/// How often a coordinator is asked by who follows; and other nodes, while nobody is known to lead.
const ASK: Duration = Duration::from_secs(1);
/// How often a new copy whose leader is not there is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// Answers of other nodes are at most this large.
const MOST_ANSWER_BYTES: usize = 64 << 10;
/// Whom a directory follows before it is known who leads.
const NOBODY: &str = "the leader";
/// Why something failed is told again after this long.
const TELL: Duration = Duration::from_secs(10);

/// Makes the sources that were named.
pub type OpenGiven = Box<dyn Fn() -> Result<Box<dyn Source>> + Send>;

/// What a node is run with.
pub struct RunOptions {
    /// The log's directory.
    pub dir: PathBuf,
    /// How its log is opened; `create` makes it if there is none, and no other node has one.
    pub log: Options,
    /// How its table is opened.
    pub table: TableOptions,
    /// Where it is served, and how.
    pub server: Bound,
    /// The sources that it follows, when any were named: then it does not lead unless it is told to.
    pub given: Option<OpenGiven>,
    /// The other nodes, as far as they were named.
    pub peers: Vec<String>,
    /// What is shown to them.
    pub credentials: Credentials,
    /// A node's address as a source.
    pub open: OpenNode,
    /// Who says when to try to lead; without one an operator does.
    pub coordinator: Option<Box<dyn Coordinator>>,
    /// How it behaves when nobody leads.
    pub policy: Policy,
}

/// What a runner tells.
pub enum Moment<'a> {
    /// It serves in a role from here on.
    Serving(&'a Server),
    /// It still does; told a few times a second.
    Serves(&'a Server),
    /// Something that people want to know.
    Said(String),
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Follow,
    /// By an epoch that was won, or by the next one of a log that nobody else has.
    Lead(Option<Epoch>),
}

enum Next {
    Stop,
    Role(Role),
}

/// A node that is run.
struct Run<'a> {
    dir: PathBuf,
    log: Options,
    table: TableOptions,
    given: Option<OpenGiven>,
    book: PeerBook,
    coordinator: Option<Box<dyn Coordinator>>,
    election: Election,
    helm: Arc<Helm>,
    url: String,
    name: String,
    stop: &'a dyn Fn() -> bool,
    tell: &'a mut dyn FnMut(Moment<'_>),
    /// What was told last, and when.
    told: Option<(String, Instant)>,
    /// Whether a directory that leads is made a follower's: a node of a cluster, and one that was replaced, follows; any
    /// other is led, or refused.
    gives_way: bool,
    /// Whether it may lead again what it led, though others may know better: they are asked first.
    undecided: bool,
    /// It tried in vain to lead, and lets others go first until then.
    rests: Option<Instant>,
    /// Whether the archive's history is another than the copy's: it follows the archive until it leads, or somebody does.
    astray: bool,
    /// Of a leader: whether others are bound to somebody else.
    outbid: outbid::Outbid,
    /// Of a candidate that gave up: who is further, by another history.
    better: Option<Peer>,
    /// What stood at the coordinator the last time that it answered, and when it was asked.
    seat: Option<Seat>,
    asked: Option<Instant>,
    /// What renewing the seat takes.
    advice: Advice,
}

/// Runs a node until `stop` says so. `tell` hears when it serves in a role, and what happens.
pub fn run(
    options: RunOptions,
    stop: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(Moment<'_>),
) -> Result<()> {
    let RunOptions {
        dir,
        log,
        table,
        server,
        given,
        peers,
        credentials,
        open,
        coordinator,
        policy,
    } = options;
    let name = server.options.name.clone();
    let mut bound = server;
    let url = bound.url();
    let gives_way = coordinator.is_some() || !peers.is_empty() || log.rejoin;
    let archive = bound.archive_store();
    let book = PeerBook::new(peers, credentials, open, archive, url.clone());
    let helm = Helm::manned(!policy.never_lead, policy.priority, book.clone());
    let helm = Arc::new(helm);
    bound.helm = Arc::clone(&helm);
    helm.show(|shown| shown.coordinator = coordinator.as_ref().map(|known| known.place()));
    let mut run = Run {
        dir,
        log,
        table,
        given,
        book,
        coordinator,
        election: Election::new(policy),
        helm,
        url,
        name,
        stop,
        tell,
        told: None,
        gives_way,
        undecided: false,
        rests: None,
        astray: false,
        outbid: outbid::Outbid::default(),
        better: None,
        seat: None,
        asked: None,
        advice: Advice::default(),
    };
    let mut role = run.first()?;
    if matches!(role, Role::Lead(_)) && run.election.policy().never_lead {
        return Err(never_leads().in_file(&run.dir));
    }
    loop {
        let (next, place) = match role {
            Role::Follow => run.follow(bound)?,
            Role::Lead(won) => run.lead(bound, won)?,
        };
        match next {
            Next::Stop => return Ok(()),
            Next::Role(next) => {
                run.gives_way |= matches!(role, Role::Lead(_));
                role = next;
            }
        }
        bound = place?;
    }
}

impl Run<'_> {
    /// What it begins as.
    fn first(&mut self) -> Result<Role> {
        let layout = Layout::new(&self.dir);
        let fs = Arc::clone(&self.log.fs);
        let here = match LogFile::read(&*fs, &layout) {
            Ok(log) => Some(log),
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::NotALog) => None,
            Err(e) => return Err(e),
        };
        let control = Control::read(&*fs, &layout)?.unwrap_or_default();
        let leads = here.is_some() && control.follows.is_none();
        let Some(coordinator) = &mut self.coordinator else {
            if self.given.is_some() {
                return Ok(Role::Follow);
            }
            if let (Some(source), true) = (&control.follows, self.book.named.is_empty()) {
                let message = format!("expected a log that leads, found one that follows {source}");
                return Err(Error::new(Kind::NotLeader, message).in_file(&self.dir).help(
                    "serve it with that source (--follow) or with the other nodes (--peer); or let it lead: \
                     `tidelog promote`",
                ));
            }
            if here.is_some() && !leads {
                return Ok(Role::Follow);
            }
            if self.book.named.is_empty() || here.is_none() {
                return Ok(Role::Lead(None));
            }
            self.undecided = true;
            return Ok(Role::Follow);
        };
        if here.is_some() {
            // It may have been replaced while it was away.
            return Ok(Role::Follow);
        }
        if !self.log.create {
            return Ok(Role::Follow);
        }
        // Of several that would make the log, one does.
        let mut id = [0; 16];
        fs.random(&mut id).map_err(|e| Error::io("read randomness for", &self.dir, e))?;
        let ours = Id(id);
        if coordinator.claim_log(ours)? != ours {
            return Ok(Role::Follow);
        }
        let options =
            Options { log_id: Some(ours), follows: Some(NOBODY.to_owned()), ..self.log.clone() };
        drop(Log::open_with(options, &self.dir)?);
        self.tell(format!("made log {ours}"));
        Ok(Role::Follow)
    }

    /// Who asks, and about what.
    fn ask(&self, server: &Server) -> Ask {
        Ask {
            log: server.log().id(),
            node: server.log().node(),
            name: self.name.clone(),
            address: Some(self.url.clone()),
            epoch: None,
        }
    }

    /// Says something once, and again only after a while.
    fn tell(&mut self, what: String) {
        let known = |(text, at): &(String, Instant)| *text == what && at.elapsed() < TELL;
        if self.told.as_ref().is_some_and(known) {
            return;
        }
        let text = what.clone();
        self.helm.events.note(self.log.fs.now(), what);
        (self.tell)(Moment::Said(text.clone()));
        self.told = Some((text, Instant::now()));
    }

    /// Asks the coordinator what stands there, at most so often; what it said last.
    fn look(&mut self, server: &Server, every: Duration) -> Option<Seat> {
        let due = self.asked.is_none_or(|at| at.elapsed() >= every);
        let coordinator = self.coordinator.as_mut()?;
        if !due {
            return self.seat.clone();
        }
        self.asked = Some(Instant::now());
        let me = Member {
            node: server.log().node(),
            name: self.name.clone(),
            address: self.url.clone(),
        };
        let looked = coordinator.look().and_then(|seat| {
            if self.seat.is_none() {
                coordinator.join(&me)?;
            }
            let members = if seat.holder.is_none() || self.seat.is_none() {
                coordinator.members()?
            } else {
                Vec::new()
            };
            Ok((seat, members))
        });
        match looked {
            Ok((seat, members)) => {
                for member in members {
                    self.book.hear(member.node, &member.address);
                }
                if let Some(holder) = &seat.holder {
                    self.book.hear(holder.node, &holder.address);
                }
                self.show(&seat);
                self.seat = Some(seat);
            }
            Err(e) => {
                self.helm.show(|shown| shown.coordinator_trouble = Some(e.to_string()));
                self.tell(format!("the coordinator does not answer: {e}"));
                return None;
            }
        }
        self.seat.clone()
    }

    /// Shows what stands at the coordinator.
    fn show(&self, seat: &Seat) {
        let held = match &seat.holder {
            Some(holder) => format!("held by {} for epoch {}", holder.address, holder.epoch.number),
            None => format!("free, behind epoch {}", seat.number),
        };
        let ttl = self.coordinator.as_ref().map_or(Duration::ZERO, |known| known.ttl());
        let patience = self.election.policy().patience;
        let spell =
            seat.degraded.map(|spell| Spell { epoch: spell.epoch.number, from: spell.from.0 });
        self.helm.show(|shown| {
            shown.coordinator_trouble = None;
            shown.seat = Some(held);
            shown.degraded = spell;
            shown.lease_seconds = Some(ttl.as_secs());
            shown.paused = Some(seat.paused);
            shown.recovery_seconds = Some((ttl.max(patience) + 2 * ASK).as_secs());
        });
    }

    /// A nonce for an epoch.
    fn nonce(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        let drawn = self.log.fs.random(&mut bytes);
        drawn.map_err(|e| Error::io("read randomness for", &self.dir, e))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn stops(&self) -> bool {
        (self.stop)()
    }
}
