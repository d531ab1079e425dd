//! The role of a leader: it holds its seat, hands over when it is told to, and steps down when it is replaced.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::log::Options;
use crate::position::Epoch;
use crate::replica::Leader;
use crate::replica::coordinator::{Lease, Timing};
use crate::replica::failover::{Peer, Peers};
use crate::table::Table;

use super::super::helm::Order;
use super::super::{Bound, Server};
use super::{LOOK, Moment, Next, Role, Run};

/// How long a follower may take to hold everything, while nothing is appended.
const LAST: Duration = Duration::from_secs(3);
/// How long the next leader may take to ask for this one's promise.
const CALL: Duration = Duration::from_secs(5);

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
            bound.lease = Some(match coordinator.renew() {
                Ok(Lease::Held { until }) => before(until, coordinator.ttl()),
                // Nothing is acknowledged before the seat is known to be held.
                _ => 0,
            });
        }
        let server = bound.lead(log, table)?;
        self.helm.leader.set(Some(self.url.clone()));
        if let Some(epoch) = won {
            self.tell(format!("leads by epoch {}", epoch.number));
        }
        (self.tell)(Moment::Serving(&server));
        let next = self.until_replaced(&server);
        if let Some(coordinator) = &mut self.coordinator {
            let _ = coordinator.resign();
        }
        // Nothing more is acknowledged while it closes.
        if let Some(leader) = server.leader() {
            leader.fence(Error::new(Kind::Fenced, "expected a leader, found that it steps down"));
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
            if Instant::now() >= due {
                if let Some(next) = self.hold_seat(leader) {
                    return next;
                }
                let ttl =
                    self.coordinator.as_ref().map_or(Duration::from_secs(1), |known| known.ttl());
                due = Instant::now() + ttl / 3;
            }
            (self.tell)(Moment::Serves(server));
            let Some((number, order)) = self.helm.next(LOOK) else { continue };
            let outcome = match order {
                Order::Demote => {
                    self.helm.done(number, Ok("it leads no more".into()));
                    self.helm.leader.set(None);
                    return Next::Role(Role::Follow);
                }
                Order::Switchover { to } => self.switch_over(server, leader, to.as_deref()),
                Order::Pause(paused) => self.pause(paused),
                Order::Promote { .. } => Err(Error::new(
                    Kind::InvalidInput,
                    "expected a follower, found that this node leads",
                )),
            };
            self.helm.done(number, outcome.map_err(|e| e.to_string()));
        }
    }

    /// Holds the seat for longer. What comes next, if it is lost.
    fn hold_seat(&mut self, leader: &Leader) -> Option<Next> {
        let coordinator = self.coordinator.as_mut()?;
        match coordinator.renew() {
            Ok(Lease::Held { until }) => {
                leader.lease(Some(before(until, coordinator.ttl())));
                self.helm.show(|shown| shown.coordinator_trouble = None);
                None
            }
            Ok(Lease::Lost(seat)) => {
                let holder = seat.holder.as_ref().map(|holder| holder.address.clone());
                leader.fence(
                    Error::new(
                        Kind::Fenced,
                        "expected this node to hold the seat, found that it lost it",
                    )
                    .help("ask the others who leads"),
                );
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
            coordinator.resign()?;
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

/// When a leader stops whose lease ends then: clocks do not run alike.
fn before(until: u64, ttl: Duration) -> u64 {
    let margin = Timing::of(ttl, Duration::ZERO).margin;
    until.saturating_sub(u64::try_from(margin.as_nanos()).unwrap_or(0))
}

fn leader_members(server: &Server) -> Vec<crate::position::Id> {
    let standing = server.leader().map(Leader::standing);
    standing
        .filter(|standing| standing.mode.k() > 0)
        .map(|standing| standing.members)
        .unwrap_or_default()
}
