//! Holding the seat while a node leads: renewals, and what they mean for the gate.
//!
//! Called by whoever runs a leader, each third of the lease; drives a [`Coordinator`] and the leader's gate.
//! Invariants:
//! - the gate is open only until a margin before the lease is over, counted from before the renewal was sent;
//! - who lets go of the seat acknowledges nothing more that a lease decides.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::replica::Leader;
use crate::replica::coordinator::{Coordinator, Lease, Seat, Timing};

/// Until when a leader that begins may answer: not at all before the seat is known to be held.
pub fn first_lease(coordinator: &mut dyn Coordinator) -> u64 {
    match coordinator.renew() {
        Ok(Lease::Held { until }) => before(until, coordinator.ttl()),
        _ => 0,
    }
}

/// Holds the seat for longer; `Some` when it is lost, with what stands there: the gate is shut then. An
/// error changes nothing: what the lease decides stops by itself, and the call may be repeated.
pub fn hold(coordinator: &mut dyn Coordinator, leader: &Leader) -> Result<Option<Seat>> {
    match coordinator.renew()? {
        Lease::Held { until } => {
            leader.lease(Some(before(until, coordinator.ttl())));
            Ok(None)
        }
        Lease::Lost(seat) => {
            let message = "expected this node to hold the seat, found that it lost it";
            leader.fence(Error::new(Kind::Fenced, message).help("ask the others who leads"));
            Ok(Some(seat))
        }
    }
}

/// Lets go of the seat, so that another node can take it at once.
pub fn let_go(coordinator: &mut dyn Coordinator, leader: &Leader) -> Result<()> {
    leader.lease(Some(0));
    coordinator.resign()
}

/// When a leader stops whose lease ends then: clocks do not run alike.
fn before(until: u64, ttl: Duration) -> u64 {
    let margin = Timing::of(ttl, Duration::ZERO).margin;
    until.saturating_sub(u64::try_from(margin.as_nanos()).unwrap_or(0))
}
