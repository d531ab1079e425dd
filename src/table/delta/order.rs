//! The order of a delta's keys, made by readers when they need it.
//!
//! ```text
//! entry: | the 8 bytes of the key behind what all keys share | address of its first record / 8 |
//! ```
//!
//! New keys are found by walking the arena from where the last walk ended; sorted, they go into a
//! small list, and that into the large one when it has grown. Whoever scans gets both lists as they
//! are. Invariant: every key whose record was there when the order was asked for is in exactly one
//! of the lists.

use std::cmp;
use std::sync::{Arc, PoisonError};

use super::Delta;

/// A small list at least this long goes into the large one, when it is not short beside it.
const MERGE_FROM: usize = 1 << 10;

/// A key's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    prefix: u64,
    pub(super) address: u32,
}

/// Keys in order: all of both lists.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// How many bytes all keys share.
    shared: usize,
    pub(super) large: Arc<Vec<Entry>>,
    pub(super) small: Arc<Vec<Entry>>,
}

/// The order as far as it was made.
#[derive(Debug, Default)]
pub(super) struct Ordering {
    order: Order,
    /// Behind the last record that was looked at; 0 before the first.
    walked: usize,
}

/// The bytes of `key` behind the first `shared`, as a number that orders like them.
fn prefix(key: &[u8], shared: usize) -> u64 {
    let rest = key.get(shared..).unwrap_or_default();
    let mut bytes = [0; 8];
    let len = rest.len().min(8);
    bytes[..len].copy_from_slice(&rest[..len]);
    u64::from_be_bytes(bytes)
}

fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Delta {
    /// All keys there are now, in order.
    pub(super) fn order(&self) -> Order {
        let mut ordering = self.ordering.lock().unwrap_or_else(PoisonError::into_inner);
        let Ordering { order, walked } = &mut *ordering;
        let end = self.arena.end();
        let mut at = (*walked).max(8);
        let mut new: Vec<u32> = Vec::new();
        while at < end {
            let address = u32::try_from(at / 8).expect("a delta is below 32 GiB");
            let record = self.record(address);
            if record.older == 0 {
                new.push(address);
            }
            at = record.end;
        }
        *walked = at;
        if new.is_empty() {
            return order.clone();
        }
        let reference = order.large.first().or(order.small.first()).map(|entry| entry.address);
        let first = self.key(reference.unwrap_or(new[0]));
        let mut shared = if reference.is_some() { order.shared } else { first.len() };
        for &address in &new {
            shared = shared.min(shared_bytes(first, self.key(address)));
        }
        let entry = |address| Entry { prefix: prefix(self.key(address), shared), address };
        if shared < order.shared || reference.is_none() {
            // What all keys share has become less: every prefix starts earlier. The order stays.
            order.shared = shared;
            for list in [&mut order.large, &mut order.small] {
                *list = Arc::new(list.iter().map(|old| entry(old.address)).collect());
            }
        }
        let mut added: Vec<Entry> = new.into_iter().map(entry).collect();
        added.sort_unstable_by(|a, b| self.compare(a, b));
        let small = self.join(&order.small, &added);
        let goes_over = small.len() >= MERGE_FROM.max(order.large.len() / 8);
        if goes_over {
            order.large = Arc::new(self.join(&order.large, &small));
            order.small = Arc::default();
        } else {
            order.small = Arc::new(small);
        }
        order.clone()
    }

    pub(super) fn compare(&self, a: &Entry, b: &Entry) -> cmp::Ordering {
        a.prefix.cmp(&b.prefix).then_with(|| self.key(a.address).cmp(self.key(b.address)))
    }

    /// Two lists as one.
    fn join(&self, a: &[Entry], b: &[Entry]) -> Vec<Entry> {
        let mut joined = Vec::with_capacity(a.len() + b.len());
        let (mut a, mut b) = (a, b);
        while let (Some(x), Some(y)) = (a.first(), b.first()) {
            if self.compare(x, y).is_lt() {
                joined.push(*x);
                a = &a[1..];
            } else {
                joined.push(*y);
                b = &b[1..];
            }
        }
        joined.extend_from_slice(a);
        joined.extend_from_slice(b);
        joined
    }

    /// How many entries of `list` have keys before `key`.
    pub(super) fn before(&self, order: &Order, list: &[Entry], key: &[u8]) -> usize {
        let Some(first) = list.first() else { return 0 };
        let same = shared_bytes(self.key(first.address), key).min(order.shared);
        if same < order.shared {
            // It differs within what all keys share.
            return if self.key(first.address) < key { list.len() } else { 0 };
        }
        let wanted = prefix(key, order.shared);
        list.partition_point(|entry| {
            entry.prefix.cmp(&wanted).then_with(|| self.key(entry.address).cmp(key)).is_lt()
        })
    }
}
