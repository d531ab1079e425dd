//! Finding out that nobody else leads, for a linearizable read: members are asked what they have promised.
//!
//! Called by `server`, with whatever carries the questions. Invariants: they are asked after the read began; what
//! counts is the epoch that a node says it promises, with its nonce, and only of a clean one.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::position::Offset;
use crate::replica::leader::{Leader, Reading};

use super::ask::{Ask, Peers};

/// Confirms that `leader` led when `reading` began, asking as few others as it takes; everything before the offset
/// was there then, and nothing more was acknowledged.
pub fn confirm(
    leader: &Leader,
    reading: &Reading,
    ask: &Ask,
    peers: &mut dyn Peers,
) -> Result<Offset> {
    let ask = Ask { epoch: None, ..ask.clone() };
    let (mut promise, mut silent) = (BTreeSet::new(), Vec::new());
    let mut known = peers.known();
    loop {
        let wanted = reading.wanted(ask.node, &promise);
        // Those that are members as far as is known, then those of which it is not.
        let next = known.iter().position(|peer| peer.node.is_some_and(|id| wanted.contains(&id)));
        let next = next.or_else(|| known.iter().position(|peer| peer.node.is_none()));
        let Some(at) = next.filter(|_| !wanted.is_empty()) else { break };
        let peer = known.remove(at);
        match peers.ask(&peer, &ask) {
            Ok(said) if said.report.promise == Some(reading.epoch()) && !said.report.unclean => {
                promise.insert(said.node());
            }
            Ok(said) => silent.push(format!("{} knows epoch {}", peer.address, said.seen())),
            Err(e) => silent.push(e.message().to_owned()),
        }
    }
    leader.end_read(reading, &promise).map_err(|e| match silent.is_empty() {
        true => e,
        false => {
            let text = format!("{} ({})", e.message(), silent.join("; "));
            let help = e.advice().unwrap_or_default().to_owned();
            Error::new(e.kind(), text).help(help)
        }
    })
}
