//! The helm: what is asked of whoever runs a node through its roles, and what they say about that.
//!
//! Shared by requests and by the runner (`run`), over all the roles that a node has in its time. A node that
//! nobody runs so, because a program made it a leader or a follower for good, has one that nobody reads.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Result;
use crate::position::{Epoch, Id};
use crate::ship::LeaderAt;

use super::events::Events;
use super::run::PeerBook;

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Lead, now.
    Promote {
        /// Though records are known to be lost.
        accept_loss: bool,
        /// The leader itself hands over: it will promise.
        handed_over: bool,
    },
    /// Let a follower lead, the best one unless it is named by its address, or by its node.
    Switchover {
        /// Which.
        to: Option<String>,
    },
    /// Lead no more.
    Demote,
    /// Nobody is to become leader by itself; or that is over.
    Pause(bool),
}

impl Order {
    fn word(&self) -> &'static str {
        match self {
            Order::Promote { .. } => "promote",
            Order::Switchover { .. } => "switchover",
            Order::Demote => "demote",
            Order::Pause(true) => "pause",
            Order::Pause(false) => "resume",
        }
    }
}

/// Requests and remarks.
#[derive(Debug, Default)]
pub struct Helm {
    /// Where the leader is.
    pub(super) leader: LeaderAt,
    pub(super) events: Events,
    /// Somebody runs the node, and answers.
    pub(super) manned: bool,
    pub(super) may_lead: bool,
    /// It was demoted, and lets another one lead first.
    pub(super) aside: AtomicBool,
    pub(super) priority: u32,
    /// The other nodes, as far as they are known, and how to ask them.
    pub(super) book: Option<PeerBook>,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    orders: VecDeque<(u64, Order)>,
    /// Orders given so far, and what the last one asks for.
    given: u64,
    word: &'static str,
    /// The last one that is over, and what it came to.
    done: Option<(u64, Result<String>)>,
    /// To whom the newest promise was given, and for what.
    promised: Option<(Epoch, Id, Option<String>)>,
    shown: Shown,
}

/// How the node stands in its cluster, as the status shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Shown {
    /// `undecided` or `candidate`, instead of following; or `outbid`, of a leader that others do not follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<&'static str>,
    /// Why nobody leads, or this node does not try to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
    /// The coordinator's place; none with an operator as coordinator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) coordinator: Option<String>,
    /// Why that does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) coordinator_trouble: Option<String>,
    /// Who holds the seat there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seat: Option<String>,
    /// Whether nobody is to become leader by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) paused: Option<bool>,
    /// The spell registered at the coordinator in which less is promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) degraded: Option<Spell>,
    /// How long the seat is held without being renewed; the slowest renewal lately; the shortest lease that is long
    /// enough for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lease_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) renewal_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) smallest_lease_seconds: Option<u64>,
    /// How long after the leader's death another one leads, about, in seconds: the lease, the patience, and a
    /// survey.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) recovery_seconds: Option<u64>,
}

/// A degraded spell, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Spell {
    /// The number of the epoch whose spell it is.
    pub(super) epoch: u64,
    /// It began behind this log byte.
    pub(super) from: u64,
}

impl Helm {
    /// That of a node which somebody runs.
    pub(super) fn manned(may_lead: bool, priority: u32, book: PeerBook) -> Self {
        Helm { manned: true, may_lead, priority, book: Some(book), ..Helm::default() }
    }

    /// Gives an order; its number.
    pub(super) fn order(&self, order: Order) -> u64 {
        let mut state = self.state();
        state.given += 1;
        let number = state.given;
        state.word = order.word();
        state.orders.push_back((number, order));
        self.moved.notify_all();
        number
    }

    /// Takes the oldest order, waiting for one at most so long.
    pub(super) fn next(&self, most: Duration) -> Option<(u64, Order)> {
        let state = self.state();
        let empty = |state: &mut State| state.orders.is_empty() && state.promised.is_none();
        let waited = self.moved.wait_timeout_while(state, most, empty);
        waited.unwrap_or_else(PoisonError::into_inner).0.orders.pop_front()
    }

    /// What an order came to.
    pub(super) fn done(&self, number: u64, outcome: Result<String>) {
        self.state().done = Some((number, outcome));
        self.moved.notify_all();
    }

    /// Waits until an order is over, at most so long; what it came to.
    pub(super) fn outcome(&self, number: u64, most: Duration) -> Option<Result<String>> {
        let open = |state: &mut State| state.done.as_ref().is_none_or(|(done, _)| *done < number);
        let waited = self.moved.wait_timeout_while(self.state(), most, open);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.done.as_ref().filter(|(done, _)| *done == number).map(|(_, what)| what.clone())
    }

    /// The last order that was given, and what it came to; `None` before the first.
    pub(super) fn last_order(&self) -> Option<Value> {
        let state = self.state();
        let (number, order) = (state.given, state.word);
        let over = state.done.as_ref().filter(|(done, _)| *done >= number).map(|(_, what)| what);
        let mut shown =
            json!({ "number": number, "order": order, "done": over.map(Result::is_ok) });
        match over {
            Some(Ok(what)) => shown["what"] = what.as_str().into(),
            Some(Err(why)) => {
                shown["kind"] = why.kind().word().into();
                shown["why"] = why.message().into();
                shown["help"] = why.advice().into();
            }
            None => {}
        }
        (number > 0).then_some(shown)
    }

    /// An epoch was promised to another node.
    pub(super) fn promised(&self, epoch: Epoch, owner: Id, address: Option<String>) {
        let mut state = self.state();
        if state.promised.as_ref().is_none_or(|(known, ..)| *known < epoch) {
            state.promised = Some((epoch, owner, address));
            self.moved.notify_all();
        }
    }

    /// The newest promise that nobody has looked at.
    pub(super) fn take_promised(&self) -> Option<(Epoch, Id, Option<String>)> {
        self.state().promised.take()
    }

    /// Forgets a promise of an epoch before this one, which the node leads by.
    pub(super) fn leads(&self, epoch: Epoch) {
        self.state().promised.take_if(|(promised, ..)| *promised < epoch);
    }

    pub(super) fn show(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.state().shown);
    }

    pub(super) fn shown(&self) -> Shown {
        self.state().shown.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leader that had once promised an earlier epoch to another node asked for its next order again and again, without a
    /// pause, for as long as it led.
    #[test]
    fn a_promise_that_nobody_took_keeps_no_leader_busy() {
        let helm = Helm::default();
        let epoch = |number| Epoch { number, nonce: 1 };
        helm.promised(epoch(8), Id([1; 16]), None);
        helm.leads(epoch(9));
        assert!(helm.take_promised().is_none());
        // A later one ends the leadership, and says where the next leader is.
        helm.promised(epoch(10), Id([1; 16]), Some("there".to_owned()));
        helm.leads(epoch(9));
        assert_eq!(
            helm.take_promised().and_then(|(.., address)| address).as_deref(),
            Some("there")
        );
    }
}
