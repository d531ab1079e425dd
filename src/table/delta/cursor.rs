//! A cursor over a delta: its keys in order, each with its newest version below an offset.
//!
//! Made by [`Delta::cursor`]; merged with other deltas' and runs' by views and by who writes runs.
//! It owns what it reads. Invariants:
//! - keys without a version below the offset are passed over;
//! - `big` and `small` are the places in the two lists of the order that come next: forward, how
//!   many entries are behind it; reverse, how many are still before it.

use std::sync::Arc;

use super::super::row::Version;
use super::Delta;
use super::arena::Address;
use super::order::{Entry, Order};
use crate::error::Result;
use crate::position::Offset;

/// How many entries ahead the slot is fetched, and the record.
const SLOT_AHEAD: usize = 16;
const RECORD_AHEAD: usize = 8;

/// Walks a delta in the order of keys, or against it.
#[derive(Debug)]
pub(in super::super) struct Cursor {
    delta: Arc<Delta>,
    order: Arc<Order>,
    below: Offset,
    reverse: bool,
    big: usize,
    small: usize,
    /// The record it stands on.
    at: Option<Address>,
}

impl Cursor {
    pub(super) fn new(delta: Arc<Delta>, order: Arc<Order>, below: Offset, reverse: bool) -> Self {
        Cursor { delta, order, below, reverse, big: 0, small: 0, at: None }
    }

    /// Forward: goes to the first key at or behind `key`, or the first of all. Reverse: to the last
    /// key before `key`, or the last of all. A cursor stands nowhere before.
    pub(in super::super) fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        let place = |list: &[Entry]| match key {
            Some(key) => self.order.before(&self.delta.arena, list, key),
            None if self.reverse => list.len(),
            None => 0,
        };
        (self.big, self.small) = (place(&self.order.big), place(&self.order.small));
        self.step();
        Ok(())
    }

    /// Whether it stands on a row, and if so, whether that is a delete.
    pub(in super::super) fn delete(&self) -> Option<bool> {
        Some(self.delta.arena.record(self.at?).version.value.is_none())
    }

    /// The row it stands on; `None` behind the end.
    pub(in super::super) fn current(&self) -> Option<(&[u8], Version<'_>)> {
        let record = self.delta.arena.record(self.at?);
        Some((record.key, record.version))
    }

    /// Goes on by one key.
    pub(in super::super) fn advance(&mut self) -> Result<()> {
        self.step();
        Ok(())
    }

    fn step(&mut self) {
        self.at = None;
        while let Some(slot) = if self.reverse { self.previous() } else { self.next() } {
            let newest = self.delta.arena.newest(slot);
            let newest = newest.expect("a key that is in order has its slot");
            if let Some((at, _)) = self.delta.version(newest, self.below) {
                self.at = Some(at);
                return;
            }
        }
    }

    /// The slot of the next key.
    fn next(&mut self) -> Option<u32> {
        let (big, small) = (&self.order.big[..], &self.order.small[..]);
        let take_big = match (big.get(self.big), small.get(self.small)) {
            (Some(a), Some(b)) => a.compare(b, &self.delta.arena).is_lt(),
            (a, _) => a.is_some(),
        };
        let (list, place) = if take_big { (big, &mut self.big) } else { (small, &mut self.small) };
        let at = *place;
        let entry = list.get(at)?;
        *place += 1;
        self.look_ahead(list.get(at + SLOT_AHEAD), list.get(at + RECORD_AHEAD));
        Some(entry.slot)
    }

    /// The slot of the key before.
    fn previous(&mut self) -> Option<u32> {
        let (big, small) = (&self.order.big[..self.big], &self.order.small[..self.small]);
        let take_big = match (big.last(), small.last()) {
            (Some(a), Some(b)) => a.compare(b, &self.delta.arena).is_gt(),
            (a, _) => a.is_some(),
        };
        let (list, place) = if take_big { (big, &mut self.big) } else { (small, &mut self.small) };
        let entry = list.last()?;
        *place -= 1;
        let at = |ahead: usize| list.len().checked_sub(1 + ahead).map(|at| &list[at]);
        self.look_ahead(at(SLOT_AHEAD), at(RECORD_AHEAD));
        Some(entry.slot)
    }

    fn look_ahead(&self, far: Option<&Entry>, near: Option<&Entry>) {
        let arena = &self.delta.arena;
        if let Some(entry) = far {
            arena.prefetch_slot(entry.slot);
        }
        if let Some(newest) = near.and_then(|entry| arena.newest(entry.slot)) {
            arena.prefetch_record(newest);
        }
    }
}
