//! A walk over a delta's keys in order, each with its newest version below an offset.
//!
//! Keys lie in memory in the order they came, so every step of the walk would wait for memory
//! several times. Some keys are therefore looked up together, each stage for all of them, so that
//! they wait together.

use std::sync::Arc;

use crate::error::Result;
use crate::position::Offset;

use super::order::{Entry, Order};
use super::{Delta, home, split};
use crate::table::row::Version;

/// Keys looked up together at most; a walk begins with few.
const TOGETHER: usize = 64;

/// Walks in one direction. Made by [`Delta::cursor`].
#[derive(Debug)]
pub(in crate::table) struct Cursor {
    delta: Arc<Delta>,
    order: Order,
    below: Offset,
    reverse: bool,
    /// Entries of the large and the small list that lie before the place of the walk.
    at: [usize; 2],
    /// Versions that come next, by address, and the next one to hand out.
    ready: Vec<u32>,
    next: usize,
    together: usize,
}

impl Delta {
    /// All keys with a version below `below`, in order or backwards.
    pub(in crate::table) fn cursor(self: &Arc<Self>, below: Offset, reverse: bool) -> Cursor {
        Cursor {
            delta: Arc::clone(self),
            order: self.order(),
            below,
            reverse,
            at: [0; 2],
            ready: Vec::new(),
            next: 0,
            together: 1,
        }
    }
}

impl Cursor {
    /// Goes to the first key at or behind `key`; backwards, to the last one before it. `None` is
    /// the first of all, or the last.
    pub(in crate::table) fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        let lists = [&self.order.large, &self.order.small];
        self.at = lists.map(|list| match key {
            Some(key) => self.delta.before(&self.order, list, key),
            None if self.reverse => list.len(),
            None => 0,
        });
        self.together = 1;
        self.fetch();
        Ok(())
    }

    /// The key it stands on, and its version.
    #[inline]
    pub(in crate::table) fn current(&self) -> Option<(&[u8], Version<'_>)> {
        let record = self.delta.record(*self.ready.get(self.next)?);
        Some((record.key, record.version))
    }

    /// Goes on by one key.
    #[inline]
    pub(in crate::table) fn advance(&mut self) -> Result<()> {
        self.next += 1;
        if self.next >= self.ready.len() {
            self.fetch();
        }
        Ok(())
    }

    /// Looks the next keys up, until one has a version to show or there is none left.
    fn fetch(&mut self) {
        let mut first = [0; TOGETHER];
        loop {
            self.ready.clear();
            self.next = 0;
            let mut taken = 0;
            while taken < self.together {
                let Some(entry) = self.take() else { break };
                self.delta.arena.prefetch(entry.address as usize * 8);
                first[taken] = entry.address;
                taken += 1;
            }
            if taken == 0 {
                return;
            }
            self.together = (2 * self.together).min(TOGETHER);
            let delta = &*self.delta;
            let table = delta.table.load(std::sync::atomic::Ordering::Acquire);
            let slots = super::all_tables_before(table);
            for &address in &first[..taken] {
                delta.arena.prefetch_slot(slots + home(delta.record(address).tag, table));
            }
            for &address in &first[..taken] {
                let slot = &delta.slots(table)[home(delta.record(address).tag, table)];
                let (_, newest) = split(slot.load(std::sync::atomic::Ordering::Acquire));
                delta.arena.prefetch(newest as usize * 8);
            }
            for &address in &first[..taken] {
                let record = delta.record(address);
                let newest = delta.find(record.key, record.tag);
                if let Some(shown) = newest.and_then(|newest| self.shown(newest)) {
                    self.ready.push(shown);
                }
            }
            if !self.ready.is_empty() {
                return;
            }
        }
    }

    /// The newest version at or before `address` below the cursor's offset, as an address.
    fn shown(&self, mut address: u32) -> Option<u32> {
        while address != 0 {
            let record = self.delta.record(address);
            if record.version.offset < self.below {
                return Some(address);
            }
            address = record.older;
        }
        None
    }

    /// The next entry of both lists.
    fn take(&mut self) -> Option<Entry> {
        let [large, small] = [&self.order.large, &self.order.small];
        let [a, b] = match self.reverse {
            false => [large.get(self.at[0]), small.get(self.at[1])],
            true => [
                self.at[0].checked_sub(1).map(|i| &large[i]),
                self.at[1].checked_sub(1).map(|i| &small[i]),
            ],
        };
        let list = match (a, b) {
            (None, None) => return None,
            (Some(_), None) => 0,
            (None, Some(_)) => 1,
            (Some(a), Some(b)) => {
                let order = self.delta.compare(a, b);
                usize::from(if self.reverse { order.is_lt() } else { order.is_gt() })
            }
        };
        let entry = if list == 0 { *a? } else { *b? };
        match self.reverse {
            false => self.at[list] += 1,
            true => self.at[list] -= 1,
        }
        Some(entry)
    }
}
