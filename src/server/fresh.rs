//! How fresh a read is to be, as requests ask for it: `max_staleness`, and `consistency=linearizable`.
//!
//! ```text
//! local          what this node shows: the default
//! linearizable   all that was acknowledged before the request: the leader's, once it has found out that it leads
//! ```
//!
//! Called before whatever reads takes its view. Finding out is shared: reads that come while it goes on wait for the
//! next round, and that one is all of theirs. Invariant: a round counts for the reads that came before it began.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{StatusCode, Uri};

use crate::error::{Error, Kind, Result};
use crate::position::Offset;
use crate::replica::failover::{Ask, Peer, Peers, Standing, confirm};
use crate::ship::Source;

use super::node::{Node, Work};
use super::query::Query;
use super::records;
use super::reply::Refusal;

/// Rounds of finding out, one at a time.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    begun: u64,
    ended: u64,
    /// What the last one came to.
    came_to: Option<Result<Offset>>,
}

impl Rounds {
    /// What a round comes to that begins from here on: this caller's own, or another one's.
    fn after_now(&self, round: impl FnOnce() -> Result<Offset>) -> Result<Offset> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = state.begun + 1;
        loop {
            if let Some(came_to) = state.came_to.as_ref().filter(|_| state.ended >= wanted) {
                return came_to.clone();
            }
            if state.begun == state.ended {
                break;
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.begun += 1;
        drop(state);
        let mut running = Running { rounds: self, came_to: Err(no_leader()) };
        running.came_to = round();
        running.came_to.clone()
    }
}

/// A round under way: however it ends, those who wait hear of it.
struct Running<'a> {
    rounds: &'a Rounds,
    came_to: Result<Offset>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.rounds.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.ended, state.came_to) = (state.begun, Some(self.came_to.clone()));
        drop(state);
        self.rounds.moved.notify_all();
    }
}

/// The other nodes of one that a program made a leader for good: none that it could ask.
struct Nobody;

impl Peers for Nobody {
    fn known(&self) -> Vec<Peer> {
        Vec::new()
    }

    fn ask(&mut self, _: &Peer, _: &Ask) -> Result<Standing> {
        Err(no_leader())
    }

    fn source(&mut self, _: &Peer) -> Result<Box<dyn Source>> {
        Err(no_leader())
    }
}

fn no_leader() -> Error {
    Error::new(Kind::NotLeader, "expected a leader that finds out whether it leads, found none")
}

impl Node {
    /// Refuses a request that asks for fresher data than this node has. From then on its table shows what the
    /// request asks for, or more; so do its records.
    pub(super) async fn check_fresh(
        self: &Arc<Self>,
        query: &Query,
        uri: &Uri,
        timeout: Duration,
    ) -> Result<(), Refusal> {
        self.check_staleness(query)?;
        match query.text("consistency")? {
            None | Some("local") => return Ok(()),
            Some("linearizable") => {}
            Some(other) => {
                let message =
                    format!("expected consistency=local or linearizable, found {other:?}");
                return Err(Refusal::bad(message));
            }
        }
        if !self.leads() {
            let why = "this node follows another; only the leader knows all that was acknowledged";
            return Err(records::to_leader(self, uri, why));
        }
        let worker = Arc::clone(self);
        let end = self
            .blocking(Work::Read, move || worker.rounds.after_now(|| worker.confirm()))
            .await??;
        match self.wait_applied(end, timeout).await {
            true => Ok(()),
            false => {
                let message = format!(
                    "expected everything before offset {end} to be applied within {timeout:?}, found {}",
                    *self.applied.borrow()
                );
                Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "timed_out", message)
                    .help("ask again"))
            }
        }
    }

    /// Finds out that this node still leads.
    fn confirm(&self) -> Result<Offset> {
        let Some(leader) = &self.leader else { return Err(no_leader()) };
        let reading = leader.begin_read()?;
        let ask = Ask {
            log: self.log.id(),
            node: self.log.node(),
            name: self.name.clone(),
            address: self.address.get().cloned(),
            epoch: None,
        };
        match &self.helm.book {
            Some(book) => {
                for (node, address) in self.followers.addresses() {
                    book.hear(node, &address);
                }
                confirm(leader, &reading, &ask, &mut book.clone())
            }
            None => confirm(leader, &reading, &ask, &mut Nobody),
        }
    }
}
