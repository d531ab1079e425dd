//! Order: the distinct keys of a delta, sorted, as far as somebody has asked for it.
//!
//! Made by who wants a cursor, never by the writer: walks the records behind those it knows, takes
//! the first of each key, sorts those and merges them in.
//!
//! ```text
//! entry: | prefix 8: the key's bytes behind those that all keys share, padded with zeros |
//!        | first 4: address of the key's first record | slot 4 |
//! lists: | big, sorted …………………………………… |   | small, sorted: newer keys |
//! ```
//!
//! Invariants:
//! - every key of the records walked is in exactly one of the two lists, once;
//! - both lists are sorted by the whole key: by prefix, and where those are equal by the keys;
//! - all keys start with `common`, and prefixes begin behind it; when a key comes that does not,
//!   `common` becomes shorter and every prefix is made anew, which leaves the order as it is;
//! - an order never changes: who holds one may go on with it while others extend it to a new one.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::arena::{Address, Arena};
use crate::position::Offset;

/// New keys are kept in the small list until they are more than this, and than an eighth of the big
/// one. Tests are about few keys, and both lists.
pub(super) const SMALL_KEYS: usize = if cfg!(test) { 8 } else { 4096 };
/// Runs of equal prefixes up to this length are sorted by comparing whole keys.
const FEW: usize = 12;

/// A key in its order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    prefix: u64,
    pub(super) first: Address,
    pub(super) slot: u32,
}

/// Sorted keys; see the module.
pub(in super::super) struct Order {
    common: Box<[u8]>,
    pub(super) big: Arc<Vec<Entry>>,
    pub(super) small: Arc<Vec<Entry>>,
    /// Bytes of records walked.
    walked: usize,
    /// Records below it are walked.
    covered: Offset,
}

/// The latest order of a delta.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Guards nothing: held by who extends, so that others wait for what comes rather than
    /// make the same.
    extending: Mutex<()>,
    /// Held for a moment.
    latest: Mutex<Arc<Order>>,
}

impl Orders {
    /// An order of all keys that have records below `below`, and maybe of more.
    pub(super) fn covering(&self, arena: &Arena, below: Offset) -> Arc<Order> {
        let end = arena.published();
        let enough = |order: &Order| order.covered >= below || order.walked >= end;
        let latest = || Arc::clone(&self.latest.lock().unwrap_or_else(PoisonError::into_inner));
        let order = latest();
        if enough(&order) {
            return order;
        }
        let _one = self.extending.lock().unwrap_or_else(PoisonError::into_inner);
        let order = latest();
        if enough(&order) {
            return order;
        }
        let order = Arc::new(order.extended(arena));
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&order);
        order
    }
}

impl Default for Order {
    fn default() -> Self {
        Order {
            common: Box::default(),
            big: Arc::default(),
            small: Arc::default(),
            walked: Arena::FIRST,
            covered: Offset(0),
        }
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order")
            .field("big", &self.big.len())
            .field("small", &self.small.len())
            .field("covered", &self.covered)
            .finish_non_exhaustive()
    }
}

impl Order {
    /// How many keys it has.
    pub(in super::super) fn len(&self) -> usize {
        self.big.len() + self.small.len()
    }

    /// How many entries of `list`, one of its two, are before `key`.
    pub(super) fn before(&self, arena: &Arena, list: &[Entry], key: &[u8]) -> usize {
        let shared = shared(&self.common, key);
        if shared < self.common.len() {
            let above = key.get(shared).is_some_and(|&byte| byte > self.common[shared]);
            return if above { list.len() } else { 0 };
        }
        let prefix = chunk(key, shared);
        list.partition_point(|entry| {
            entry.prefix.cmp(&prefix).then_with(|| entry.key(arena).cmp(key)).is_lt()
        })
    }

    /// This order with the keys of all records that are published now.
    fn extended(&self, arena: &Arena) -> Order {
        let end = arena.published();
        let (mut at, mut covered) = (self.walked, self.covered);
        let mut common: Option<&[u8]> = (self.len() > 0).then_some(&self.common);
        let mut fresh = Vec::new();
        // Prefixes are taken behind what the keys so far share. If all share less, again.
        let mut longest = 0;
        while let Some((first, record, next)) = arena.walk(at, end) {
            (at, covered) = (next, record.version.offset.plus(1));
            if record.prev.is_some() {
                continue;
            }
            let key = record.key;
            let known = common.unwrap_or(key);
            let skip = shared(known, key);
            common = Some(&known[..skip]);
            longest = longest.max(skip);
            fresh.push(Entry { prefix: chunk(key, skip), first, slot: record.slot });
        }
        let common = common.unwrap_or_default();
        if longest > common.len() {
            for entry in &mut fresh {
                entry.prefix = chunk(entry.key(arena), common.len());
            }
        }
        sort(arena, &mut fresh, common.len());
        let (mut big, mut small) = (Arc::clone(&self.big), Arc::clone(&self.small));
        if common.len() < self.common.len() {
            for list in [&mut big, &mut small] {
                let again = |entry: &Entry| self.with_shorter_common(*entry, common.len());
                *list = Arc::new(list.iter().map(again).collect());
            }
        }
        if !fresh.is_empty() {
            small = Arc::new(merged(arena, &small, fresh));
        }
        if small.len() > SMALL_KEYS.max(big.len() / 8) {
            big = Arc::new(merged(arena, &big, small.to_vec()));
            small = Arc::default();
        }
        Order { common: common.into(), big, small, walked: at, covered }
    }

    /// The entry with a prefix that begins at `skip` already, made without looking at its key: in
    /// between stands what all keys of this order share.
    fn with_shorter_common(&self, entry: Entry, skip: usize) -> Entry {
        let between = self.common.len() - skip;
        let mut prefix = chunk(&self.common, skip);
        if between < 8 {
            prefix |= entry.prefix >> (8 * between);
        }
        Entry { prefix, ..entry }
    }
}

impl Entry {
    pub(super) fn key<'a>(&self, arena: &'a Arena) -> &'a [u8] {
        arena.record(self.first).key
    }

    /// Compares with an entry of the same order.
    #[inline]
    pub(super) fn compare(&self, other: &Entry, arena: &Arena) -> Ordering {
        self.prefix.cmp(&other.prefix).then_with(|| self.key(arena).cmp(other.key(arena)))
    }
}

/// How many bytes from the first on are the same.
fn shared(a: &[u8], b: &[u8]) -> usize {
    if b.starts_with(a) {
        return a.len();
    }
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Eight bytes of `key` from `skip` on, the first the most significant; zeros behind its end.
#[inline]
fn chunk(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    if let Some(bytes) = rest.first_chunk() {
        return u64::from_be_bytes(*bytes);
    }
    let mut bytes = [0; 8];
    bytes[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(bytes)
}

/// Sorts distinct keys whose prefixes are taken at `skip`.
///
/// First by prefix alone. Runs of equal prefixes are then sorted by the next eight bytes behind
/// what the keys of the run share, and so on: a level reads each key once, where comparing whole
/// keys would read two at every comparison.
fn sort(arena: &Arena, entries: &mut [Entry], skip: usize) {
    entries.sort_unstable_by_key(|entry| entry.prefix);
    let mut open: Vec<(Range<usize>, usize)> = Vec::new();
    let mut from = 0;
    while from < entries.len() {
        let prefix = entries[from].prefix;
        let run = equal(entries, from, entries.len());
        from = run.end;
        if run.len() == 1 {
            continue;
        }
        open.push((run.clone(), skip));
        while let Some((part, skip)) = open.pop() {
            sort_equal(arena, entries, part, skip, &mut open);
        }
        entries[run].iter_mut().for_each(|entry| entry.prefix = prefix);
    }
}

/// Sorts a part whose keys have equal chunks at `skip`; leaves in `open` what is still equal.
/// Puts deeper chunks where prefixes were.
fn sort_equal(
    arena: &Arena,
    entries: &mut [Entry],
    part: Range<usize>,
    skip: usize,
    open: &mut Vec<(Range<usize>, usize)>,
) {
    let run = &mut entries[part.clone()];
    if run.len() <= FEW {
        return run.sort_unstable_by(|a, b| a.key(arena).cmp(b.key(arena)));
    }
    let short = run.iter().any(|entry| entry.key(arena).len() < skip + 8);
    if short {
        // Equal to the others by padding: such a key is the beginning of all longer ones, so these,
        // eight at most, come first, by length.
        run.sort_unstable_by_key(|entry| entry.key(arena).len().min(skip + 8));
        let ended = run.partition_point(|entry| entry.key(arena).len() < skip + 8);
        open.push((part.start + ended..part.end, skip));
        return;
    }
    let one = run[0].key(arena);
    let mut deeper = one.len();
    for entry in &run[1..] {
        deeper = deeper.min(shared(&one[..deeper], entry.key(arena)));
    }
    for entry in run.iter_mut() {
        entry.prefix = chunk(entry.key(arena), deeper);
    }
    run.sort_unstable_by_key(|entry| entry.prefix);
    let mut from = part.start;
    while from < part.end {
        let equal = equal(entries, from, part.end);
        from = equal.end;
        if equal.len() > 1 {
            open.push((equal, deeper));
        }
    }
}

/// The entries from `from` on, and before `end`, that have one prefix.
fn equal(entries: &[Entry], from: usize, end: usize) -> Range<usize> {
    let prefix = entries[from].prefix;
    from..from + entries[from..end].iter().take_while(|entry| entry.prefix == prefix).count()
}

/// Both lists, sorted, in one.
fn merged(arena: &Arena, old: &[Entry], new: Vec<Entry>) -> Vec<Entry> {
    if old.is_empty() {
        return new;
    }
    let mut all = Vec::with_capacity(old.len() + new.len());
    let mut old = old.iter().peekable();
    for entry in new {
        while let Some(older) = old.next_if(|older| older.compare(&entry, arena).is_lt()) {
            all.push(*older);
        }
        all.push(entry);
    }
    all.extend(old);
    all
}
