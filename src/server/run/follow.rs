//! The role of a follower: it follows whoever leads, finds out who that is, and may become a candidate.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::log::files::{Control, Layout, LogFile};
use crate::position::LogByte;
use crate::replica::coordinator::Seat;
use crate::replica::failover::{Move, Peers, Sight, Standing};
use crate::replica::{Follower, demote};
use crate::ship::archive::{Archive, Store};
use crate::ship::{Chain, Led, Source};

use super::super::helm::Order;
use super::super::{Bound, Server};
use super::candidate::Terms;
use super::peers::{is_gone, may_pass};
use super::{AGAIN, ASK, LOOK, Moment, NOBODY, Next, Role, Run};

/// How often a copy that ended by itself is opened again before that is an error; a minute forgives.
const ANEW: u32 = 3;
const SPELL: Duration = Duration::from_secs(60);

/// What the others said, and when they were asked.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) at: Instant,
    /// By the clock that does not jump.
    pub(super) now: u64,
    pub(super) others: Vec<Standing>,
    /// Those that did not answer.
    pub(super) silent: usize,
}

impl Run<'_> {
    /// Follows until it is told to stop, or has won an epoch.
    pub(super) fn follow(&mut self, bound: Bound) -> Result<(Next, Result<Bound>)> {
        let mut place = bound;
        let (mut again, mut began) = (ANEW, Instant::now());
        loop {
            let Some(follower) = self.open(place.archive_store())? else {
                return Ok((Next::Stop, Ok(place)));
            };
            for finding in &follower.report().findings {
                self.tell(format!("note: {finding}"));
            }
            let mut server = place.keep_up(follower)?;
            (self.tell)(Moment::Serving(&server));
            let next = self.until_called(&mut server);
            self.helm.show(|shown| (shown.state, shown.why) = (None, None));
            let (closed, bound) = match next {
                Ok(Some(next)) => {
                    let (closed, bound) = server.retire();
                    if matches!(next, Next::Stop) {
                        closed?;
                    } else if let Err(e) = closed {
                        self.tell(format!("note: the copy did not close well: {e}"));
                    }
                    return Ok((next, bound));
                }
                Ok(None) => server.retire(),
                Err(e) => {
                    let _ = server.retire();
                    return Err(e);
                }
            };
            // It ended by itself: opened again, it begins with a snapshot, or rejoins behind the leader.
            let Err(e) = closed else { return Ok((Next::Stop, bound)) };
            if began.elapsed() > SPELL {
                (again, began) = (ANEW, Instant::now());
            }
            if !crate::replica::heals_by_opening(e.kind()) || again == 0 {
                return Err(e);
            }
            again -= 1;
            self.tell(format!("{e}; it is opened again"));
            place = bound?;
        }
    }

    /// Opens the copy; while there is none and nobody leads, it tries again. `None`: it was told to stop.
    fn open(&mut self, archive: Option<Arc<dyn Store>>) -> Result<Option<Follower>> {
        loop {
            let archive = archive.as_ref().filter(|_| self.astray);
            let opened = self.demoted().and_then(|()| self.source(archive)).and_then(|source| {
                let options = crate::log::Options { create: false, ..self.log.clone() };
                Follower::open_from(options, self.table, &self.dir, source)
            });
            match opened {
                Ok(follower) => return Ok(Some(follower)),
                Err(e) if may_pass(e.kind()) => self.tell(format!("{e}; trying again")),
                Err(e) => return Err(e),
            }
            let until = Instant::now() + AGAIN;
            while Instant::now() < until {
                if self.stops() {
                    return Ok(None);
                }
                std::thread::sleep(LOOK);
            }
            self.find_leader_without_log();
        }
    }

    /// A directory that led is a follower's from here on.
    fn demoted(&self) -> Result<()> {
        let layout = Layout::new(&self.dir);
        let fs = &self.log.fs;
        let leads = Control::read(&**fs, &layout)?.is_some_and(|control| control.follows.is_none());
        if self.gives_way && leads && LogFile::read(&**fs, &layout).is_ok() {
            demote(fs, &self.dir, NOBODY)?;
        }
        Ok(())
    }

    /// Whoever leads; then the archive, where this copy must follow that; or what was named.
    fn source(&self, archive: Option<&Arc<dyn Store>>) -> Result<Box<dyn Source>> {
        let (at, open) = (self.helm.leader.clone(), Arc::clone(&self.book.open));
        let led = move || -> Result<Box<dyn Source>> {
            let open = Arc::clone(&open);
            Ok(Box::new(Led::new(at.clone(), move |address| open(address))))
        };
        let alone = self.coordinator.is_none()
            && self.book.named.is_empty()
            && self.helm.leader.get().is_none();
        match &self.given {
            None if archive.is_some() => {
                let store = archive.map(Arc::clone);
                let chain = Chain::default().link("the leader", led);
                Ok(Box::new(chain.link("the archive", move || {
                    let store = store.clone().ok_or_else(|| {
                        Error::new(Kind::NotFound, "expected an archive, found none")
                    })?;
                    Ok(Box::new(Archive::open(store)?))
                })))
            }
            None => led(),
            // Nothing but an operator's word makes another one lead, and that opens it anew.
            Some(given) if alone => given(),
            Some(given) => {
                let mut first = Some(given()?);
                let chain = Chain::default().link("the leader", led);
                Ok(Box::new(chain.link("as named", move || {
                    first.take().ok_or_else(|| {
                        Error::new(
                            Kind::Io,
                            "expected the named sources to be open, found them closed",
                        )
                    })
                })))
            }
        }
    }

    /// Until there is another role to take; `None` when the follower ended by itself.
    fn until_called(&mut self, server: &mut Server) -> Result<Option<Next>> {
        let mut survey: Option<Survey> = None;
        loop {
            if self.stops() {
                return Ok(Some(Next::Stop));
            }
            if server.has_stopped_following() {
                return Ok(None);
            }
            (self.tell)(Moment::Serves(server));
            if let Some((epoch, owner, address)) = self.helm.take_promised() {
                // Whom it has promised to is whom it follows from here on.
                let known = self.helm.leader.get().is_some();
                if owner != server.log().node() && self.helm.leader.set(address) {
                    self.tell(format!("follows the candidate of epoch {}", epoch.number));
                    if !known && self.given.is_some() {
                        return Ok(Some(Next::Role(Role::Follow)));
                    }
                }
            }
            if let Some((number, order)) = self.helm.next(LOOK)
                && let Some(next) = self.obey(server, number, order)?
            {
                return Ok(Some(next));
            }
            if let Some(next) = self.look_around(server, &mut survey)? {
                return Ok(Some(next));
            }
        }
    }

    /// Does what it is told.
    fn obey(&mut self, server: &mut Server, number: u64, order: Order) -> Result<Option<Next>> {
        let outcome = match order {
            Order::Promote { accept_loss, handed_over } => {
                let terms = Terms { accept_loss, handed_over };
                return match self.promote(server, terms, number)? {
                    Ok(epoch) => {
                        self.undecided = false;
                        self.helm.aside.store(false, Release);
                        Ok(Some(Next::Role(Role::Lead(Some(epoch)))))
                    }
                    Err(why) => {
                        self.tell(format!("it was asked to lead and does not: {why}"));
                        self.helm.done(number, Err(why));
                        Ok(self.astray.then_some(Next::Role(Role::Follow)))
                    }
                };
            }
            Order::Pause(paused) => self.pause(paused),
            Order::Switchover { .. } | Order::Demote => {
                Err(Error::new(Kind::NotLeader, "expected the leader, found a follower"))
            }
        };
        self.helm.done(number, outcome);
        Ok(None)
    }

    pub(super) fn pause(&mut self, paused: bool) -> Result<String> {
        let Some(coordinator) = &mut self.coordinator else {
            return Err(Error::new(
                Kind::InvalidInput,
                "expected a coordinator, found none: nobody becomes leader by itself here",
            ));
        };
        coordinator.pause(paused)?;
        let what = if paused { "failover is paused" } else { "failover goes on" };
        self.tell(what.to_owned());
        Ok(what.to_owned())
    }

    /// Finds out who leads, and whether it should itself.
    fn look_around(
        &mut self,
        server: &mut Server,
        survey: &mut Option<Survey>,
    ) -> Result<Option<Next>> {
        if self.coordinator.is_none() {
            return self.look_for_leader(server, survey);
        }
        // While its leader is heard, once a second; more often once that is silent.
        let heard = server.node.standing().heard_ms;
        let silent =
            heard.is_none_or(|ago| Duration::from_millis(ago) >= self.election.policy().patience);
        let every = if silent { LOOK * 4 } else { ASK };
        let due = self.asked.is_none_or(|at| at.elapsed() >= every) || survey.is_some();
        if !due {
            return Ok(None);
        }
        let Some(seat) = self.look(server, every) else { return Ok(None) };
        let node = server.log().node();
        if let Some(holder) = seat.holder.as_ref().filter(|holder| holder.node != node) {
            *survey = None;
            self.undecided = false;
            self.helm.aside.store(false, Release);
            if self.helm.leader.set(Some(holder.address.clone()).filter(|at| !at.is_empty())) {
                self.tell(format!("follows {} in epoch {}", holder.address, holder.epoch.number));
            }
            self.helm.show(|shown| (shown.state, shown.why) = (None, None));
            return Ok(None);
        }
        if self.helm.aside.load(Acquire) {
            let why = "it was demoted, and another node is to lead first: `tidelog promote` lets it lead again";
            self.helm
                .show(|shown| (shown.state, shown.why) = (Some("undecided"), Some(why.into())));
            self.tell(format!("nobody leads; this node does not try to: {why}"));
            return Ok(None);
        }
        let own = server.node.standing();
        let others = survey.as_ref().map(|survey| survey.others.clone()).unwrap_or_default();
        let shown = server.node.gauge.as_ref().map(|gauge| gauge.read()).unwrap_or_default();
        let last = seat.last.as_ref().map(|last| last.address.clone());
        let crashed = last
            .or_else(|| self.helm.leader.get())
            .is_some_and(|at| at != self.url && is_gone(&at));
        let sight = Sight {
            now: self.log.fs.elapsed(),
            wall: self.log.fs.now(),
            seat: &seat,
            own: &own,
            others: &others,
            asked: survey.as_ref().map(|survey| survey.now),
            mode: own.mode(),
            committed: own.report.committed.unwrap_or(LogByte(0)),
            leader_end: shown.durable_offset.0,
            crashed,
        };
        match self.election.decide(&sight) {
            Move::Follow => Ok(None),
            Move::Wait(_, why) | Move::Stay(why) => {
                self.helm.show(|shown| {
                    (shown.state, shown.why) = (Some("undecided"), Some(why.clone()))
                });
                self.tell(format!("nobody leads; this node does not try to: {why}"));
                if let Some(leads) = others.iter().find(|other| other.leads) {
                    self.helm.leader.set(leads.address.clone());
                }
                Ok(None)
            }
            Move::Survey => {
                *survey = Some(self.survey(server));
                Ok(None)
            }
            Move::Take if self.rests.is_some_and(|until| Instant::now() < until) => Ok(None),
            Move::Take => {
                *survey = None;
                self.asked = None;
                self.campaign(server, &sight)
            }
        }
    }

    /// Without a coordinator: asks those that were named who leads, while that is not known.
    fn look_for_leader(
        &mut self,
        server: &mut Server,
        survey: &mut Option<Survey>,
    ) -> Result<Option<Next>> {
        let heard = server.node.gauge.as_ref().and_then(|gauge| gauge.read().heard);
        let now = self.log.fs.elapsed();
        let lately = heard.is_some_and(|at| now.saturating_sub(at) < 2_000_000_000);
        if lately || self.book.known().is_empty() {
            self.helm.show(|shown| (shown.state, shown.why) = (None, None));
            return Ok(None);
        }
        if survey.as_ref().is_some_and(|survey| survey.at.elapsed() < ASK) {
            return Ok(None);
        }
        let found = self.survey(server);
        let own = server.node.standing();
        let leads =
            found.others.iter().filter(|other| other.leads).max_by_key(|other| other.seen());
        if let Some(leads) = leads.filter(|leads| leads.seen() >= own.seen()) {
            self.undecided = false;
            self.helm.show(|shown| (shown.state, shown.why) = (None, None));
            if self.helm.leader.set(leads.address.clone()) {
                self.tell(format!("follows {}", leads.address.clone().unwrap_or_default()));
            }
        } else if self.undecided {
            let newest = own.report.durable.epoch.number;
            let foreign = found.others.iter().find(|other| other.seen() > newest);
            let why = match (foreign, found.silent) {
                (None, 0) => {
                    *survey = None;
                    self.undecided = false;
                    self.tell(
                        "all nodes answered and none knows a later epoch: it leads again".into(),
                    );
                    let terms = Terms { accept_loss: false, handed_over: true };
                    return Ok(match self.promote(server, terms, 0)? {
                        Ok(epoch) => Some(Next::Role(Role::Lead(Some(epoch)))),
                        Err(why) => {
                            self.undecided = true;
                            self.tell(format!("it cannot lead again: {why}"));
                            None
                        }
                    });
                }
                (Some(other), _) => {
                    format!(
                        "{} knows epoch {}, which is none of this node's",
                        other.name,
                        other.seen()
                    )
                }
                (None, silent) => format!("{silent} of the nodes that were named do not answer"),
            };
            self.helm
                .show(|shown| (shown.state, shown.why) = (Some("undecided"), Some(why.clone())));
            self.tell(format!("undecided who leads: {why}; `tidelog promote` decides it"));
        }
        *survey = Some(found);
        Ok(None)
    }

    /// Before there is a copy: who leads, as the coordinator or the others say.
    fn find_leader_without_log(&mut self) {
        if let Some(coordinator) = &mut self.coordinator
            && let Ok(Seat { holder: Some(holder), .. }) = coordinator.look()
        {
            self.helm.leader.set(Some(holder.address));
            return;
        }
        for peer in self.book.known() {
            let leads = self.book.client(&peer.address).and_then(|client| {
                client.get("/leader", &[], Duration::ZERO).map(|reply| reply.status == 200)
            });
            if leads.unwrap_or(false) {
                self.helm.leader.set(Some(peer.address));
                return;
            }
        }
    }

    pub(super) fn survey(&mut self, server: &Server) -> Survey {
        let ask = self.ask(server);
        let mut others = Vec::new();
        let mut silent = 0;
        // All at once, and the time counts from the last answer: one that does not answer at all must not make
        // what the others say look old.
        let answers: Vec<_> = std::thread::scope(|scope| {
            let asked: Vec<_> = (self.book.known().into_iter())
                .map(|peer| {
                    let (mut book, ask) = (self.book.clone(), &ask);
                    scope.spawn(move || book.ask(&peer, ask))
                })
                .collect();
            asked.into_iter().filter_map(|answer| answer.join().ok()).collect()
        });
        let now = self.log.fs.elapsed();
        for answer in answers {
            match answer {
                Ok(standing) if standing.report.log == Some(ask.log) => others.push(standing),
                Ok(_) => {}
                Err(_) => silent += 1,
            }
        }
        Survey { at: Instant::now(), now, others, silent }
    }
}
