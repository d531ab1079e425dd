//! The role of a leader: it holds its seat, hands over when it is told to, and steps down when it is replaced.

use std::sync::atomic::Ordering::Release;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::log::Options;
use crate::position::Epoch;
use crate::replica::Leader;
use crate::replica::failover::{Peer, Peers, seat};
use crate::table::Table;

use super::super::helm::{Order, Spell};
use super::super::{Bound, Server};
use super::{LOOK, Moment, Next, Role, Run};

/// How long a follower may take to hold everything, while nothing is appended.
const LAST: Duration = Duration::from_secs(3);
/// How long the next leader may take to ask for this one's promise.
const CALL: Duration = Duration::from_secs(5);
/// What the coordinator did not register is asked for again after this.
const AGAIN: Duration = Duration::from_millis(200);

impl Run<'_> {
    /// Leads until it is told to stop, or was replaced.
    pub(super) fn lead(
        &mut self,
        mut bound: Bound,
        won: Option<Epoch>,
    ) -> Result<(Next, Result<Bound>)> {
        let options = Options { lead: won, ..self.log.clone() };
        let opened = options.open(&self.dir).and_then(|log| {
            let table = self.table.open(&log)?;
            Ok((log, table))
        });
        let (log, table): (_, Table) = match opened {
            Ok(opened) => opened,
            Err(e) if won.is_some() => return Ok(self.cannot(bound, &e)),
            Err(e) => return Err(e),
        };
        if let Some(coordinator) = &mut self.coordinator {
            bound.lease = Some(seat::first_lease(&mut **coordinator));
        }
        let server = bound.lead(log, table)?;
        self.helm.leader.set(Some(self.url.clone()));
        if let Some(leader) = server.leader() {
            self.helm.leads(leader.epoch());
        }
        if let Some(epoch) = won {
            self.tell(format!("leads by epoch {}", epoch.number));
        }
        (self.tell)(Moment::Serving(&server));
        let next = self.until_replaced(&server);
        // Nothing more is acknowledged while it closes, and before another one can have the seat.
        if let Some(leader) = server.leader() {
            leader.fence(Error::new(Kind::Fenced, "expected a leader, found that it steps down"));
        }
        if let Some(coordinator) = &mut self.coordinator {
            let _ = coordinator.resign();
        }
        let (closed, bound) = server.retire();
        match next {
            Next::Stop => closed?,
            Next::Role(_) => {
                if let Err(e) = closed {
                    self.tell(format!("note: the log did not close well: {e}"));
                }
            }
        }
        Ok((next, bound))
    }

    /// The epoch was won and cannot be begun here.
    fn cannot(&mut self, bound: Bound, why: &Error) -> (Next, Result<Bound>) {
        self.tell(format!("it cannot lead: {why}"));
        if let Some(coordinator) = &mut self.coordinator {
            let _ = coordinator.resign();
        }
        self.helm.leader.set(None);
        (Next::Role(Role::Follow), Ok(bound))
    }

    fn until_replaced(&mut self, server: &Server) -> Next {
        let Some(leader) = server.leader() else { return Next::Role(Role::Follow) };
        let mut due = Instant::now();
        let mut again = due;
        loop {
            if self.stops() {
                return Next::Stop;
            }
            if let Some(why) = leader.fenced() {
                let next = self.helm.take_promised().and_then(|(_, _, address)| address);
                self.helm.leader.set(next);
                self.tell(format!("leads no more: {}", why.message()));
                return Next::Role(Role::Follow);
            }
            if let Some(next) = self.look_if_outbid(server, leader) {
                return next;
            }
            if Instant::now() >= due {
                if let Some(next) = self.hold_seat(leader) {
                    return next;
                }
                let ttl =
                    self.coordinator.as_ref().map_or(Duration::from_secs(1), |known| known.ttl());
                due = Instant::now() + ttl / 3;
            }
            if Instant::now() >= again && !self.registers(leader) {
                again = Instant::now() + AGAIN;
            }
            (self.tell)(Moment::Serves(server));
            let Some((number, order)) = self.helm.next(LOOK) else { continue };
            let outcome = match order {
                Order::Demote => match self.may_step_down(server) {
                    Ok(()) => {
                        self.helm.aside.store(self.coordinator.is_some(), Release);
                        self.helm.done(number, Ok("it leads no more".into()));
                        self.helm.leader.set(None);
                        return Next::Role(Role::Follow);
                    }
                    Err(why) => Err(why),
                },
                Order::Switchover { to } => {
                    due = Instant::now();
                    self.switch_over(server, leader, to.as_deref())
                }
                Order::Pause(paused) => self.pause(paused),
                Order::Promote { .. } => Err(Error::new(
                    Kind::InvalidInput,
                    "expected a follower, found that this node leads",
                )),
            };
            self.helm.done(number, outcome);
        }
    }

    /// Carries the mark of a degraded spell to the coordinator, or takes it away there, when that is to be done;
    /// `false` when the coordinator did not.
    fn registers(&mut self, leader: &Leader) -> bool {
        let Some(coordinator) = &mut self.coordinator else { return true };
        let place = coordinator.place();
        match leader.register(&mut **coordinator) {
            Ok(None) => {}
            Ok(Some(mark)) => {
                let epoch = leader.epoch();
                let spell = mark.map(|from| Spell { epoch: epoch.number, from: from.0 });
                let new = self.helm.shown().degraded != spell;
                self.helm.show(|shown| shown.degraded = spell);
                match mark {
                    Some(from) => self.tell(format!(
                        "registered at {place}: from log byte {from} on acknowledgements may say durable only"
                    )),
                    None if new => self.tell(format!("no degraded spell is registered at {place} any more")),
                    None => {}
                }
            }
            Err(e) => {
                self.helm.show(|shown| shown.coordinator_trouble = Some(e.to_string()));
                self.tell(format!("a degraded spell could not be registered: {e}"));
                return false;
            }
        }
        true
    }

    /// Holds the seat for longer. What comes next, if it is lost.
    fn hold_seat(&mut self, leader: &Leader) -> Option<Next> {
        let coordinator = self.coordinator.as_mut()?;
        let asked = Instant::now();
        let held = seat::hold(&mut **coordinator, leader);
        let ttl = coordinator.ttl();
        self.advice.note(asked.elapsed());
        match held {
            Ok(None) => {
                self.advise(ttl);
                self.shows_own_seat(leader.epoch());
                None
            }
            Ok(Some(seat)) => {
                let holder = seat.holder.as_ref().map(|holder| holder.address.clone());
                self.helm.leader.set(holder.clone());
                self.tell(format!(
                    "lost the seat to {}",
                    holder.unwrap_or_else(|| "nobody yet".into())
                ));
                Some(Next::Role(Role::Follow))
            }
            Err(e) => {
                // What the lease decides stops by itself; what members or the archive decide goes on.
                self.helm.show(|shown| shown.coordinator_trouble = Some(e.to_string()));
                self.tell(format!("the coordinator does not answer: {e}"));
                None
            }
        }
    }

    /// A leader looks at nothing but its own renewals: what it found as a follower is over.
    fn shows_own_seat(&self, epoch: Epoch) {
        let held = format!("held by {} for epoch {}", self.url, epoch.number);
        self.helm.show(|shown| shown.seat = Some(held));
    }

    /// Shows what renewals took and what follows for the lease; tells it when the lease is too short for that.
    fn advise(&mut self, ttl: Duration) {
        let (slowest, smallest) = (self.advice.slowest(), self.advice.smallest_ttl());
        self.helm.show(|shown| {
            shown.coordinator_trouble = None;
            shown.renewal_ms =
                slowest.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            shown.smallest_lease_seconds = smallest.map(|ttl| ttl.as_secs());
        });
        if let (Some(slowest), Some(smallest)) =
            (slowest, smallest.filter(|smallest| *smallest > ttl))
        {
            self.tell(format!(
                "renewing the seat took up to {slowest:?}: one that fails may end the leadership; a lease of \
                 {smallest:?} would be long enough (--lease)"
            ));
        }
    }

    /// Whether it may let go of the leadership: where nodes elect by themselves one of them must be able to lead,
    /// unless an operator keeps them from it.
    fn may_step_down(&mut self, server: &Server) -> Result<()> {
        let Some(coordinator) = &mut self.coordinator else { return Ok(()) };
        if coordinator.look()?.paused {
            return Ok(());
        }
        self.next_leader(server, None).map(drop).map_err(|_| {
            Error::new(
                Kind::Rejected,
                "expected another node that can lead and answers, found none: nobody would lead",
            )
            .help("it leads on; start another node, or `tidelog failover pause` first if nobody is to lead")
        })
    }

    /// Hands over: no appends, the next leader holds everything, and is told to lead.
    fn switch_over(
        &mut self,
        server: &Server,
        leader: &Leader,
        to: Option<&str>,
    ) -> Result<String> {
        let peer = self.next_leader(server, to)?;
        let held = leader.hold_appends();
        server.node.hurry.send_replace(true);
        let handed = self.hand_to(&peer, server, leader);
        if handed.is_err() {
            server.node.hurry.send_replace(false);
        }
        drop(held);
        handed.map(|()| format!("handed over to {}", peer.address))
    }

    fn hand_to(&mut self, peer: &Peer, server: &Server, leader: &Leader) -> Result<()> {
        let end = server.log().sync().map(|_| server.node.home.durable())?;
        let ask = self.ask(server);
        let until = Instant::now() + LAST;
        loop {
            let standing = self.book.ask(peer, &ask)?;
            if standing.report.unclean || !standing.may_lead {
                return Err(Error::new(
                    Kind::Rejected,
                    format!("expected {} to be able to lead, found that it is not", peer.address),
                ));
            }
            if standing.report.durable.log_byte >= end.0 {
                break;
            }
            if Instant::now() >= until {
                return Err(Error::new(
                    Kind::Rejected,
                    format!(
                        "expected {} to hold everything before offset {}, found that it is at {}",
                        peer.address, end.1, standing.report.durable.offset
                    ),
                )
                .help("appends go on here; try again when it has caught up"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(coordinator) = &mut self.coordinator {
            // Whether it is held still is found out at once, should the other one not take it.
            seat::let_go(&mut **coordinator, leader)?;
        }
        let body = json!({ "handed_over": true }).to_string();
        let client = self.book.client(&peer.address)?;
        let headers = [("content-type", "application/json")];
        client.post("/v1/promote", &headers, body.as_bytes(), CALL)?.ok()?;
        let until = Instant::now() + CALL;
        while leader.fenced().is_none() {
            if Instant::now() >= until {
                return Err(Error::new(
                    Kind::Rejected,
                    format!(
                        "expected {} to take over in time, found that it did not",
                        peer.address
                    ),
                )
                .help("appends go on here"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Who is to lead next: who was named, or the follower that is furthest and may.
    fn next_leader(&mut self, server: &Server, to: Option<&str>) -> Result<Peer> {
        let ask = self.ask(server);
        let status = server.node.followers.addresses();
        for (node, address) in &status {
            self.book.hear(*node, address);
        }
        let known = self.book.known();
        let named = |peer: &Peer, to: &str| {
            peer.address == to.trim_end_matches('/')
                || peer.node.is_some_and(|id| id.to_string() == to)
        };
        if let Some(to) = to {
            let found = known.into_iter().find(|peer| named(peer, to));
            return found.ok_or_else(|| {
                Error::new(Kind::NotFound, format!("expected a follower {to}, found none"))
                    .help("`tidelog status URL` shows addresses and node ids")
            });
        }
        let members = leader_members(server);
        let answers = known.into_iter().filter_map(|peer| {
            let standing = self.book.ask(&peer, &ask).ok()?;
            let member = members.is_empty() || members.contains(&standing.node());
            let fits = standing.may_lead && !standing.report.unclean && member;
            fits.then_some((standing.report.durable.log_byte, standing.priority, peer))
        });
        let best = answers.max_by_key(|(byte, priority, _)| (*byte, *priority));
        best.map(|(_, _, peer)| peer).ok_or_else(|| {
            Error::new(Kind::NotFound, "expected a follower that can lead and answers, found none")
                .help("name one with --to; it must have an address: run it with `tidelog serve`")
        })
    }
}

fn leader_members(server: &Server) -> Vec<crate::position::Id> {
    let standing = server.leader().map(Leader::standing);
    standing
        .filter(|standing| standing.mode.k() > 0)
        .map(|standing| standing.members)
        .unwrap_or_default()
}
