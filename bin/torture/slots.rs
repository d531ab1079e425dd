//! What followers were told of their slots, and the oracle that holds a log's slots against it.
//!
//! Used by `crash` and `iofault`. It knows only which claims were made and which returned.
//! Invariants it checks, whatever happened to the disk between two opens:
//! - slots can be read: no crash and no failed call leaves a file that stops retention;
//! - a node whose first claim returned is there; nobody is there who never claimed;
//! - what a slot asks for lies between the node's first claim and its newest: perhaps more than it
//!   needs, never less;
//! - nothing that a slot needs was dropped.

use std::collections::BTreeMap;

use tidelog::log::{Claim, SlotState, SlotStatus};
use tidelog::{Id, LogByte, Position};

/// The claims that were made.
#[derive(Clone, Debug, Default)]
pub struct Slots(BTreeMap<u8, Claimed>);

#[derive(Clone, Copy, Debug)]
struct Claimed {
    /// Whether it must be there.
    sure: bool,
    first: u64,
    newest: u64,
}

impl Slots {
    /// A claim is about to be made: of what `node` needs, from `needs` on.
    pub fn claim(&mut self, node: u8, needs: LogByte) -> Claim {
        let new = Claimed { sure: false, first: needs.0, newest: needs.0 };
        let claimed = self.0.entry(node).or_insert(new);
        claimed.newest = claimed.newest.max(needs.0);
        let needs = LogByte(claimed.newest);
        let position = Position { log_byte: needs, ..Position::default() };
        Claim { node: Id([node + 1; 16]), name: format!("edge {node}"), position, needs }
    }

    /// Whether a node has claimed anything.
    pub fn knows(&self, node: u8) -> bool {
        self.0.contains_key(&node)
    }

    /// The claim returned; `is_first` if it was the node's first.
    pub fn claimed(&mut self, node: u8, is_first: bool) {
        if let Some(claimed) = self.0.get_mut(&node) {
            claimed.sure |= is_first;
        }
    }

    /// A slot is about to be dropped.
    pub fn drop_soon(&mut self, node: u8) -> Id {
        if let Some(claimed) = self.0.get_mut(&node) {
            claimed.sure = false;
        }
        Id([node + 1; 16])
    }

    /// It was.
    pub fn dropped(&mut self, node: u8) {
        self.0.remove(&node);
    }

    /// Holds what a log lists against it.
    pub fn hold(&self, listed: &[SlotStatus]) -> Result<(), String> {
        let there = |node: u8| listed.iter().find(|slot| slot.claim.node == Id([node + 1; 16]));
        for (node, claimed) in &self.0 {
            match there(*node) {
                None if claimed.sure => {
                    return Err(format!("the slot of node {node} is gone: {listed:?}"));
                }
                None => {}
                Some(slot) if !(claimed.first..=claimed.newest).contains(&slot.claim.needs.0) => {
                    return Err(format!("node {node} claimed {claimed:?}, its slot says {slot:?}"));
                }
                Some(slot) if slot.state == SlotState::Lost => {
                    return Err(format!("what node {node} needs was dropped: {slot:?}"));
                }
                Some(_) => {}
            }
        }
        let known = self.0.keys().filter(|node| there(**node).is_some()).count();
        match known == listed.len() {
            true => Ok(()),
            false => Err(format!("slots of nodes that never claimed: {listed:?}")),
        }
    }

    /// Equal for equal obligations.
    pub fn digest(&self) -> u64 {
        let parts = self.0.iter().flat_map(|(node, claimed)| {
            [u64::from(*node), u64::from(claimed.sure), claimed.first, claimed.newest]
        });
        parts.fold(0, |digest, part| (digest ^ part).wrapping_mul(0x0100_0000_01B3))
    }
}
