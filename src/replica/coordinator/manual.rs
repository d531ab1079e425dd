//! No coordinator: people decide who leads, and say that the old leader is stopped.
//!
//! Nothing is shared, so nothing can be seen here of other nodes. Two operators who promote two nodes
//! get two nonces of one number, and members promise to one of them only. A spell in which less is
//! promised stands in the leader's CONTROL, which is written by whoever leads.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::position::{Epoch, Id, LogByte};

use super::{Claim, Coordinator, Lease, Member, Seat, Take};

/// The coordinator that is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manual;

impl Coordinator for Manual {
    fn place(&self) -> String {
        "manual".to_owned()
    }

    fn ttl(&self) -> Duration {
        Duration::MAX
    }

    fn elects(&self) -> bool {
        false
    }

    /// Nothing is known: an empty seat.
    fn look(&mut self) -> Result<Seat> {
        Ok(Seat::default())
    }

    fn take(&mut self, claim: &Claim) -> Result<Take> {
        claim.check()?;
        Ok(Take::Won(Epoch { number: claim.after(0)?, nonce: claim.nonce }))
    }

    fn renew(&mut self) -> Result<Lease> {
        Ok(Lease::Held { until: u64::MAX })
    }

    fn hand_over(&mut self, to: &Claim) -> Result<Take> {
        self.take(to)
    }

    fn resign(&mut self) -> Result<()> {
        Ok(())
    }

    fn degrade(&mut self, _: Option<LogByte>) -> Result<()> {
        Ok(())
    }

    fn pause(&mut self, _: bool) -> Result<()> {
        Err(Error::new(
            Kind::InvalidInput,
            "expected a coordinator that elects, found none: nobody becomes leader by itself",
        )
        .help("name one, such as etcd://host:2379/cluster, or the archive's URL"))
    }

    fn join(&mut self, me: &Member) -> Result<()> {
        me.check()
    }

    /// Nobody: who there is stands in the nodes' own settings.
    fn members(&mut self) -> Result<Vec<Member>> {
        Ok(Vec::new())
    }

    fn claim_log(&mut self, log: Id) -> Result<Id> {
        Ok(log)
    }
}
