//! The role of a candidate: it wins an epoch, gathers promises and the longest tail, and stands down if it cannot
//! have them. Called by the follower's role; drives [`Promotion`].
//!
//! Invariants:
//! - whoever gives up lets go of the seat, and lets the node lead that turned out to be further;
//! - the seat is held while others are asked.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::frame::Mode;
use crate::position::Epoch;
use crate::replica::Follower;
use crate::replica::coordinator::{Claim, Seat, Take};
use crate::replica::failover::{Promotion, Sight, Stage, Standing, archived_epoch, led_last};

use super::super::Server;
use super::follow::Survey;
use super::{ASK, LOOK, Next, Role, Run};

/// A candidate that lacks promises asks for them again after this, and gives up after that.
const REST: Duration = Duration::from_millis(200);
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How often an operator's candidate tries a higher number.
const TRIES: u32 = 3;

/// What a promotion is allowed.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) accept_loss: bool,
    /// The leader itself hands over.
    pub(super) handed_over: bool,
}

impl Run<'_> {
    /// Takes the seat, and becomes leader if enough others agree.
    pub(super) fn campaign(
        &mut self,
        server: &mut Server,
        sight: &Sight<'_>,
    ) -> Result<Option<Next>> {
        let (own, seat) = (sight.own, sight.seat);
        let claim = Claim {
            log: server.log().id(),
            node: server.log().node(),
            name: self.name.clone(),
            address: self.url.clone(),
            nonce: self.nonce()?,
            seen: own.seen().max(seat.number).max(archived_epoch(&mut self.book)),
        };
        let Some(coordinator) = &mut self.coordinator else { return Ok(None) };
        let epoch = match coordinator.take(&claim) {
            Ok(Take::Won(epoch)) => epoch,
            Ok(Take::Held(_)) => return Ok(None),
            Err(e) => {
                self.tell(format!("the seat could not be taken: {e}"));
                return Ok(None);
            }
        };
        // Between the look and the take who held it last may have registered a spell, and an operator paused
        // failover; not since.
        let why = match coordinator.look() {
            Ok(now) => {
                let seat = Seat { degraded: now.degraded, paused: now.paused, ..seat.clone() };
                self.election.withdraws(&Sight { seat: &seat, ..sight.clone() })
            }
            Err(e) => Some(e.to_string()),
        };
        if let Some(why) = why {
            let _ = coordinator.resign();
            self.tell(format!("it does not lead epoch {}: {why}", epoch.number));
            return Ok(None);
        }
        self.tell(format!("won epoch {}: it asks the others for their promises", epoch.number));
        self.helm.show(|shown| (shown.state, shown.why) = (Some("candidate"), None));
        match self.gather(server, epoch, false)? {
            Ok(()) => Ok(Some(Next::Role(Role::Lead(Some(epoch))))),
            Err(why) => {
                self.tell(format!("it does not lead epoch {}: {why}", epoch.number));
                // Others first: one of them may hold what this one could not get.
                self.rests = Some(Instant::now() + PATIENCE);
                if let Some(coordinator) = &mut self.coordinator {
                    // Whoever is better placed may have it.
                    let _ = coordinator.resign();
                }
                self.hand_on();
                Ok(self.astray.then_some(Next::Role(Role::Follow)))
            }
        }
    }

    /// Leads because an operator, or the leader that hands over, says so. Refused, it follows as before.
    pub(super) fn promote(
        &mut self,
        server: &mut Server,
        terms: Terms,
        number: u64,
    ) -> Result<Result<Epoch>> {
        if self.election.policy().never_lead {
            return Ok(Err(never_leads()));
        }
        // A leader that hangs is let go of while the others are asked, not only after that.
        server.node.halt();
        let outcome = self.promote_halted(server, terms, number);
        if !matches!(outcome, Ok(Ok(_))) {
            server.follow_on()?;
        }
        outcome
    }

    fn promote_halted(
        &mut self,
        server: &mut Server,
        terms: Terms,
        number: u64,
    ) -> Result<Result<Epoch>> {
        let mut tries = TRIES;
        let (mut seen, mut led) = (0, false);
        loop {
            let found = self.survey(server);
            let own = server.node.standing();
            let allowed = allowed(&own, &found, terms, server);
            if let Err(why) = allowed.and_then(|()| self.no_spell(&own, terms, &mut led)) {
                return Ok(Err(why));
            }
            seen = found
                .others
                .iter()
                .map(Standing::seen)
                .chain([own.seen(), archived_epoch(&mut self.book), seen])
                .max()
                .unwrap_or(0);
            let epoch = match self.win(server, seen)? {
                Ok(epoch) => epoch,
                Err(why) => return Ok(Err(why)),
            };
            // Who held the seat may have registered one until this node took it.
            if let Err(why) = self.no_spell(&own, terms, &mut led) {
                if let Some(coordinator) = &mut self.coordinator {
                    let _ = coordinator.resign();
                }
                return Ok(Err(why));
            }
            self.tell(format!("epoch {}: it asks the others for their promises", epoch.number));
            match self.gather(server, epoch, terms.accept_loss)? {
                Ok(()) => {
                    let what = format!("epoch {} is won: this node begins to lead", epoch.number);
                    self.helm.done(number, Ok(what));
                    return Ok(Ok(epoch));
                }
                Err(why) if why.kind() == Kind::Fenced && tries > 1 => {
                    tries -= 1;
                    seen = epoch.number;
                }
                Err(why) => {
                    if let Some(coordinator) = &mut self.coordinator {
                        let _ = coordinator.resign();
                    }
                    return Ok(Err(match self.hand_on() {
                        Some(to) => why.help(format!("{to} was told to lead instead")),
                        None => why,
                    }));
                }
            }
        }
    }

    /// Whether no degraded spell is registered that a promotion which accepts no loss must not pass over. `led` is
    /// set when this node led last, before it takes the seat: it has all that was acknowledged.
    fn no_spell(&mut self, own: &Standing, terms: Terms, led: &mut bool) -> Result<()> {
        let Some(coordinator) = &mut self.coordinator else { return Ok(()) };
        if terms.accept_loss || terms.handed_over || !matches!(own.mode(), Mode::Semi { .. }) {
            return Ok(());
        }
        let seat = coordinator.look()?;
        *led |= led_last(&seat, own);
        let Some(spell) = seat.degraded.filter(|_| !*led) else { return Ok(()) };
        Err(Error::new(
            Kind::Rejected,
            format!(
                "expected no degraded spell to be registered at {}, found one of epoch {} from log byte {} on: \
                 what was acknowledged as durable since then may be on that leader's disk alone",
                coordinator.place(),
                spell.epoch.number,
                spell.from
            ),
        )
        .help("start that leader: it has all of it, and may lead again; or accept that loss with --accept-loss"))
    }

    /// Lets the node lead that was found to be further, by a history that is not this node's: it holds what may have
    /// been acknowledged, and whoever was asked for promises is bound until somebody leads. Where it is.
    fn hand_on(&mut self) -> Option<String> {
        let peer = self.better.take()?;
        self.helm.leader.set(Some(peer.address.clone()));
        let body = json!({ "handed_over": true }).to_string();
        let headers = [("content-type", "application/json")];
        let told = self.book.client(&peer.address).and_then(|client| {
            client.post("/v1/promote", &headers, body.as_bytes(), PATIENCE)?.ok()
        });
        match told {
            Ok(_) => self.tell(format!("{} is further: it was told to lead", peer.address)),
            Err(e) => {
                self.tell(format!(
                    "{} is further, and could not be told to lead: {e}",
                    peer.address
                ));
                return None;
            }
        }
        Some(peer.address)
    }

    /// An epoch number for this node: the coordinator's, or the next one above all that was seen.
    fn win(&mut self, server: &Server, seen: u64) -> Result<Result<Epoch>> {
        let nonce = self.nonce()?;
        let Some(coordinator) = &mut self.coordinator else {
            return Ok(Ok(Epoch { number: seen.saturating_add(1), nonce }));
        };
        let claim = Claim {
            log: server.log().id(),
            node: server.log().node(),
            name: self.name.clone(),
            address: self.url.clone(),
            nonce,
            seen,
        };
        // The leader that hands over lets go of the seat, or the lease of a dead one is over soon.
        let until = Instant::now() + coordinator.ttl() + ASK;
        loop {
            match coordinator.take(&claim) {
                Ok(Take::Won(epoch)) => return Ok(Ok(epoch)),
                Ok(Take::Held(seat)) if Instant::now() >= until => {
                    let holder = seat.holder.map(|holder| holder.address).unwrap_or_default();
                    return Ok(Err(Error::new(
                        Kind::Rejected,
                        format!("expected the seat at the coordinator to be free, found that {holder} holds it"),
                    )
                    .help("it leads; hand over with `tidelog switchover`")));
                }
                Ok(Take::Held(_)) => {}
                Err(e) if Instant::now() >= until => return Ok(Err(e)),
                Err(_) => {}
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Gathers promises for an epoch, and the longest tail. Afterwards the follower stands still, if it may
    /// lead; otherwise it follows again.
    fn gather(
        &mut self,
        server: &mut Server,
        epoch: Epoch,
        accept_loss: bool,
    ) -> Result<Result<()>> {
        let Some((mut follower, ran)) = server.take_follower() else {
            return Ok(Err(Error::new(Kind::Io, "expected a follower that runs, found none")));
        };
        if let Err(e) = ran {
            server.give_follower(follower)?;
            return Ok(Err(e));
        }
        let outcome = self.gather_with(&mut follower, server, epoch, accept_loss);
        match outcome.is_ok() {
            true => server.rest(follower),
            false => server.give_follower(follower)?,
        }
        Ok(outcome)
    }

    /// Does something that takes its time, and holds the seat meanwhile.
    fn holding<T: Send>(&mut self, work: impl FnOnce() -> T + Send) -> T {
        let Some(coordinator) = &mut self.coordinator else { return work() };
        let every = coordinator.ttl() / 3;
        std::thread::scope(|scope| {
            let worker = scope.spawn(work);
            let mut renewed = Instant::now();
            while !worker.is_finished() {
                if renewed.elapsed() >= every {
                    // What is lost meanwhile is noticed once it is led by, or promised elsewhere.
                    let _ = coordinator.renew();
                    renewed = Instant::now();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn gather_with(
        &mut self,
        follower: &mut Follower,
        server: &Server,
        epoch: Epoch,
        accept_loss: bool,
    ) -> Result<()> {
        let ask = self.ask(server);
        let mut promotion = Promotion::begin(follower, epoch, &ask)?.accept_loss(accept_loss);
        let until = Instant::now() + PATIENCE;
        loop {
            // One that stands still takes longer to be given up than a short lease lasts.
            let mut book = self.book.clone();
            let step = self.holding(|| promotion.step(follower, &mut book));
            (self.astray, self.better) = (promotion.is_astray(), promotion.better().cloned());
            match step? {
                Stage::Going => {}
                Stage::Ready => break,
                Stage::Short(why) if Instant::now() >= until || self.stops() => return Err(why),
                Stage::Short(_) => {
                    std::thread::sleep(REST);
                    promotion.again();
                }
            }
            if let Some(coordinator) = &mut self.coordinator {
                // Others must not think it gone while it asks around.
                let _ = coordinator.renew();
            }
        }
        // What opening for writing would have to apply is applied before anybody waits for that.
        follower.table().checkpoint().map(drop)
    }
}

/// Why a node that is run so is not promoted.
pub(in crate::server) fn never_leads() -> Error {
    Error::new(
        Kind::Rejected,
        "expected a node that may lead, found one that is run with --never-lead",
    )
    .help("nothing was changed; promote another node, or run this one without --never-lead")
}

/// Whether a promotion that an operator asks for may go on: what it would lose is said, and must be accepted.
fn allowed(own: &Standing, found: &Survey, terms: Terms, server: &Server) -> Result<()> {
    if terms.accept_loss || terms.handed_over {
        return Ok(());
    }
    if matches!(own.mode(), Mode::Sync { .. } | Mode::Archive) {
        return Ok(());
    }
    let shown = server.node.gauge.as_ref().map(|gauge| gauge.read()).unwrap_or_default();
    let all = found.others.iter().chain([own]);
    let best = all.map(|one| one.report.durable.offset.0).max().unwrap_or(0);
    let lost = shown.durable_offset.0.saturating_sub(best);
    if lost == 0 {
        return Ok(());
    }
    Err(Error::new(
        Kind::Rejected,
        format!("expected nothing to be lost, found that the leader had {lost} records more when it was last heard"),
    )
    .help("promote the node that has them, or accept that with --accept-loss"))
}
