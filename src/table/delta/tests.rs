use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::*;

type Owned = (Option<Vec<u8>>, u64, i64);
type Model = BTreeMap<Vec<u8>, Vec<Owned>>;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Of a few shapes: shared beginnings, ends in zeros, none, long ones.
    fn key(&mut self, shape: u64) -> Vec<u8> {
        match shape % 6 {
            0 => vec![0; self.below(20)],
            1 => {
                let mut key = vec![b'a'; self.below(3)];
                key.resize(key.len() + self.below(12), 0);
                key
            }
            2 => format!("tenant/{:04}/row/{:03}", self.below(3), self.below(60)).into_bytes(),
            3 => (self.next() % 200).to_be_bytes().to_vec(),
            4 => {
                // Some that share less and less.
                let mut key = b"0123456789abcdefghijklmnopqrstuvwxyz".to_vec();
                key.truncate(36 - self.below(37).min(self.below(37)));
                key.extend((0..self.below(3)).map(|_| 0xff));
                key
            }
            _ => {
                let len = self.below(5);
                (0..len).map(|_| [0, 1, 0x80, 0xff][self.below(4)]).collect()
            }
        }
    }
}

fn owned(version: Version<'_>) -> Owned {
    (version.value.map(<[u8]>::to_vec), version.offset.0, version.timestamp)
}

/// What `model` shows of one key below `below`.
fn shown(versions: &[Owned], below: u64) -> Option<&Owned> {
    versions.iter().rev().find(|(_, offset, _)| *offset < below)
}

fn walk(cursor: &mut Cursor) -> Vec<(Vec<u8>, Owned)> {
    let mut rows = Vec::new();
    while let Some((key, version)) = cursor.current() {
        rows.push((key.to_vec(), owned(version)));
        cursor.advance().unwrap();
    }
    cursor.advance().unwrap();
    assert!(cursor.current().is_none(), "the end stays the end");
    rows
}

fn check(delta: &Arc<Delta>, model: &Model, below: u64, seeks: &[Vec<u8>]) {
    let live: Vec<(Vec<u8>, Owned)> = model
        .iter()
        .filter_map(|(key, versions)| Some((key.clone(), shown(versions, below)?.clone())))
        .collect();
    let below_ = Offset(below);
    for (key, versions) in model {
        let found = delta.get(key, below_).map(owned);
        assert_eq!(found.as_ref(), shown(versions, below), "{key:?} below {below}");
    }
    let keys: Vec<&[u8]> = seeks.iter().map(|key| &key[..]).collect();
    let mut answers = Vec::new();
    delta.get_many(&keys, below_, |i, version| answers.push((i, version.map(owned))));
    let one_by_one = keys.iter().map(|key| delta.get(key, below_).map(owned)).enumerate();
    assert_eq!(answers, one_by_one.collect::<Vec<_>>());
    let (mut forward, mut reverse) = (delta.cursor(below_, false), delta.cursor(below_, true));
    forward.seek(None).unwrap();
    assert_eq!(walk(&mut forward), live);
    reverse.seek(None).unwrap();
    let backward: Vec<_> = live.iter().rev().cloned().collect();
    assert_eq!(walk(&mut reverse), backward);
    for key in seeks {
        let at = live.partition_point(|(k, _)| k < key);
        forward.seek(Some(key)).unwrap();
        assert_eq!(walk(&mut forward), live[at..], "from {key:?}, below {below}");
        reverse.seek(Some(key)).unwrap();
        assert_eq!(walk(&mut reverse), backward[live.len() - at..], "before {key:?}");
    }
}

#[test]
fn every_reader_sees_what_a_plain_map_of_versions_shows() {
    for seed in 0..150 {
        let mut rng = Rng(seed);
        let pool = Pool::new(1 << (8 + seed % 8), seed);
        let (mut writer, mut delta) = Delta::new(&pool, 0, 0);
        let (mut model, mut offset) = (Model::new(), 0);
        for step in 0..12 {
            let rows: Vec<_> = (0..rng.below(40))
                .map(|_| {
                    // Now and then one that shares nothing with those before.
                    let shape = if rng.below(30) == 0 { rng.next() } else { seed };
                    offset += 1 + u64::from(rng.below(5) == 0);
                    let len = rng.below(30);
                    let value = (rng.below(4) > 0).then(|| vec![rng.next() as u8; len]);
                    (rng.key(shape), (value, offset, -5 + step))
                })
                .collect();
            let bytes = |row: &(Vec<u8>, Owned)| row.0.len() + row.1.0.as_ref().map_or(0, Vec::len);
            let bytes = rows.iter().map(bytes).sum();
            if !writer.fits(bytes, rows.len()) {
                (writer, delta) = Delta::new(&pool, bytes, rows.len());
                assert!(writer.fits(bytes, rows.len()));
                model.clear();
            }
            let change = |row: &'_ (Vec<u8>, Owned)| (row.0.clone(), row.1.clone());
            for (key, version) in rows.iter().map(change) {
                model.entry(key).or_default().push(version);
            }
            if step % 2 == 0 {
                writer.insert_all(rows.iter().map(|(key, (value, offset, timestamp))| Change {
                    key,
                    version: Version {
                        value: value.as_deref(),
                        offset: Offset(*offset),
                        timestamp: *timestamp,
                    },
                }));
            } else {
                for (key, (value, offset, timestamp)) in &rows {
                    writer.insert(key, value.as_deref(), Offset(*offset), *timestamp);
                }
            }
            assert_eq!(delta.keys(), model.len());
            assert!(delta.fill() <= 1.0);
            let seeks: Vec<_> = (0..4).map(|_| rng.key(seed)).chain([vec![], vec![255]]).collect();
            check(&delta, &model, rng.next() % (offset + 2), &seeks);
            check(&delta, &model, u64::MAX, &seeks);
        }
        assert_eq!(delta.order().len(), model.len());
        for below in 0..=offset + 1 {
            check(&delta, &model, below, &[]);
        }
    }
}

#[test]
fn keys_that_differ_in_trailing_zeros_alone_stay_apart_and_in_order() {
    let pool = Pool::new(1 << 20, 1);
    let (mut writer, delta) = Delta::new(&pool, 0, 0);
    let mut model = Model::new();
    let mut keys: Vec<Vec<u8>> = (0..40).map(|n| vec![0; n]).collect();
    keys.extend((0..40).map(|n| [b"a".to_vec(), vec![0; n]].concat()));
    keys.extend((0..40).map(|n| [b"a".to_vec(), vec![0; n], b"b".to_vec()].concat()));
    for (offset, key) in (0..).zip(keys.iter().rev()) {
        writer.insert(key, Some(key), Offset(offset), 0);
        model.insert(key.clone(), vec![(Some(key.clone()), offset, 0)]);
    }
    check(&delta, &model, u64::MAX, &keys);
}

#[test]
fn many_keys_with_equal_prefixes_are_sorted_by_what_follows() {
    let pool = Pool::new(8 << 20, 1);
    let (mut writer, delta) = Delta::new(&pool, 0, 0);
    let mut model = Model::new();
    let mut rng = Rng(3);
    for offset in 0..6000 {
        // Long stretches that all share, two ways to branch, and ends of every length.
        let mut key = vec![b'x'; 40];
        key.extend([rng.below(2) as u8; 30]);
        key.extend(vec![0; rng.below(40)]);
        key.extend(offset.to_string().into_bytes());
        key.truncate(40 + rng.below(70));
        writer.insert(&key, None, Offset(offset), 0);
        model.entry(key).or_default().push((None, offset, 0));
        if [1, 2, 10, 100, 4500].contains(&offset) {
            delta.order();
        }
    }
    check(&delta, &model, u64::MAX, &[vec![b'x'; 40], vec![b'x'; 41], vec![b'x'; 70], vec![b'y']]);
    writer.insert(b"xxxy", None, Offset(6000), 0);
    model.insert(b"xxxy".to_vec(), vec![(None, 6000, 0)]);
    check(&delta, &model, u64::MAX, &[vec![b'x'; 3], vec![b'x'; 40]]);
    writer.insert(b"", None, Offset(6001), 0);
    model.insert(Vec::new(), vec![(None, 6001, 0)]);
    check(&delta, &model, 6001, &[vec![], vec![b'x'; 40]]);
    check(&delta, &model, 6002, &[vec![], vec![b'x'; 40]]);
}

#[test]
fn new_keys_join_the_order_when_it_is_asked_for_again() {
    let pool = Pool::new(64 << 20, 1);
    let (mut writer, delta) = Delta::new(&pool, 0, 0);
    let mut rng = Rng(9);
    let mut offset = 0;
    let mut keys = std::collections::BTreeSet::new();
    for round in 0..40 {
        for _ in 0..1500 {
            let mut key = rng.next().to_be_bytes();
            key[0] = 40 - round;
            keys.insert(key);
            writer.insert(&key, Some(b"v"), Offset(offset), 0);
            offset += 1;
        }
        let order = delta.order();
        assert_eq!(order.len(), keys.len());
        assert!(order.small.len() <= order::SMALL_KEYS.max(order.big.len() / 8));
        assert!(Arc::ptr_eq(&order, &delta.order()), "nothing new, nothing made");
    }
    let held = delta.order();
    writer.insert(b"another", None, Offset(offset), 0);
    let mut cursor = delta.cursor(Offset(offset), false);
    assert!(Arc::ptr_eq(&held, &delta.orders.covering(&delta.arena, Offset(offset))));
    cursor.seek(None).unwrap();
    let walked: Vec<_> = walk(&mut cursor).into_iter().map(|(key, _)| key).collect();
    assert_eq!(walked, keys.iter().map(|key| key.to_vec()).collect::<Vec<_>>());
    assert_eq!(delta.order().len(), keys.len() + 1);
}

#[test]
fn a_row_larger_than_the_budget_has_a_delta_of_its_own() {
    let pool = Pool::new(1000, 1);
    let (key, value) = (vec![7; 65_536], vec![9; 16 << 20]);
    let (writer, _) = Delta::new(&pool, 0, 0);
    assert!(!writer.fits(key.len() + value.len(), 1));
    assert!(!writer.fits(usize::MAX, 1) && !writer.fits(0, usize::MAX));
    let (mut writer, delta) = Delta::new(&pool, key.len() + value.len() + 4, 3);
    assert!(writer.fits(key.len() + value.len() + 4, 3));
    writer.insert(&key, Some(&value), Offset(4), 1);
    writer.insert(b"", Some(b""), Offset(5), 1);
    writer.insert(&key[1..5], None, Offset(6), 1);
    assert_eq!(delta.get(&key, Offset(5)).unwrap().value, Some(&value[..]));
    assert_eq!(delta.get(b"", Offset(6)).unwrap().value, Some(&b""[..]));
    assert_eq!(delta.get(b"", Offset(5)), None);
    assert_eq!(delta.get(&key[1..5], Offset(7)).unwrap().value, None);
    assert_eq!(delta.order().len(), 3);
}

#[test]
fn what_fits_is_what_can_be_inserted_and_no_row_more_than_slots_allow() {
    let pool = Pool::new(4096, 1);
    let (mut writer, delta) = Delta::new(&pool, 0, 0);
    let mut offset = 0_u64;
    while writer.fits(8 + 3, 1) {
        writer.insert(&offset.to_le_bytes(), Some(b"abc"), Offset(offset), 0);
        offset += 1;
    }
    assert_eq!(delta.keys(), offset as usize);
    assert!(delta.fill() > 0.9, "{}", delta.fill());
    for n in 0..offset {
        assert_eq!(delta.get(&n.to_le_bytes(), Offset(offset)).unwrap().offset, Offset(n));
    }
    assert!(delta.get(&offset.to_le_bytes(), Offset(offset)).is_none());
}

#[test]
#[should_panic(expected = "expected offset 6 or more")]
fn offsets_that_do_not_rise_are_refused() {
    let (mut writer, _) = Delta::new(&Pool::new(1 << 20, 1), 0, 0);
    writer.insert(b"a", None, Offset(5), 0);
    writer.insert(b"b", None, Offset(5), 0);
}

#[test]
#[should_panic(expected = "expected room")]
fn a_record_behind_the_room_is_refused() {
    let (mut writer, _) = Delta::new(&Pool::new(1 << 12, 1), 0, 0);
    writer.insert(b"a", Some(&[0; 1 << 12]), Offset(5), 0);
}

#[test]
fn memory_comes_back_empty_once_the_last_holder_lets_go() {
    let pool = Pool::new(1 << 20, 1);
    let free = || pool.kept().free.len();
    let mut base = None;
    for round in 0..5_u64 {
        let (mut writer, delta) = Delta::new(&pool, 0, 0);
        assert_eq!(free(), 0);
        assert_eq!((delta.keys(), delta.bytes(), delta.order().len()), (0, 0, 0));
        for n in 0..5000_u64 {
            let key = (n * round).to_le_bytes();
            assert!(n == 0 || round == 0 || delta.get(&key, Offset(u64::MAX)).is_none());
            writer.insert(&key, None, Offset(n), 0);
        }
        let mut cursor = delta.cursor(Offset(9999), true);
        let (_, first, _) = delta.arena.walk(Arena::FIRST, delta.arena.published()).unwrap();
        let here = first.key.as_ptr().addr();
        assert_eq!(*base.get_or_insert(here), here, "the same memory again");
        drop((writer, delta));
        assert_eq!(free(), 0, "the cursor holds it");
        cursor.seek(None).unwrap();
        assert!(cursor.current().is_some());
        drop(cursor);
        assert_eq!(free(), 1);
    }
    let many: Vec<_> = (0..10).map(|_| Delta::new(&pool, 0, 0)).collect();
    drop(many);
    assert_eq!(free(), KEPT);
    drop(Delta::new(&pool, 2 << 20, 1));
    assert_eq!(free(), KEPT, "larger ones are not kept");
}

#[test]
fn keys_whose_hashes_are_the_same_are_told_apart() {
    let mut arena = Arena::new(64, 4096);
    let mut pen = arena.pen();
    // The search starts at the last slot and goes on at the first.
    let hash = u64::MAX;
    for round in 0..2_u64 {
        for n in 0..30_u8 {
            let (slot, prev) = arena.find(hash, &[n]);
            assert_eq!((slot, prev.is_some()), ((63 + u32::from(n)) % 64, round > 0));
            let version = Version { value: Some(&[n]), offset: Offset(round), timestamp: 0 };
            arena.append(&mut pen, hash, &Draft { prev, slot, key: &[n], version });
        }
    }
    for n in 0..30 {
        let record = arena.record(arena.find(hash, &[n]).1.unwrap());
        assert_eq!((record.key, record.version.offset), (&[n][..], Offset(1)));
    }
    assert_eq!(arena.find(hash, b"other"), (29, None));
}

#[test]
fn all_parts_may_go_to_other_threads() {
    fn sent<T: Send>() {}
    fn shared<T: Sync>() {}
    sent::<Writer>();
    sent::<Cursor>();
    shared::<Arc<Delta>>();
    shared::<Arc<Pool>>();
}

#[test]
fn memory_is_made_ready_once() {
    let pool = Pool::new(8 << 20, 1);
    pool.warm();
    pool.warm();
    assert_eq!(pool.kept().free.len(), 1);
    let (mut writer, delta) = Delta::new(&pool, 0, 0);
    assert_eq!(pool.kept().free.len(), 0);
    writer.insert(b"key", Some(b"value"), Offset(0), 0);
    assert_eq!(delta.get(b"key", Offset(1)).unwrap().value, Some(&b"value"[..]));
}

#[test]
fn readers_see_whole_records_and_their_own_offset_alone_while_the_writer_writes() {
    const KEYS: u64 = 500;
    const ROWS: u64 = if cfg!(debug_assertions) { 40_000 } else { 400_000 };
    // Offset n sets key (n * 7919) % KEYS to n repeated; every eleventh is a delete.
    let key_of = |offset: u64| ((offset * 7919) % KEYS).to_be_bytes();
    let pool = Pool::new(256 << 20, 1);
    let (mut writer, delta) = Delta::new(&pool, 0, 0);
    let (visible, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for reader in 0..3_u64 {
            let (delta, visible, stop) = (Arc::clone(&delta), &visible, &stop);
            scope.spawn(move || {
                let mut rng = Rng(reader);
                let latest = |key: u64, below: u64| {
                    // Steps back one period at most: 7919 and KEYS have no common divisor.
                    (below.saturating_sub(KEYS)..below).rev().find(|o| (o * 7919) % KEYS == key)
                };
                let sound = |key: &[u8], version: Version<'_>, below: u64| {
                    let key = u64::from_be_bytes(key.try_into().unwrap());
                    let offset = latest(key, below).expect("not there yet");
                    assert_eq!(version.offset.0, offset);
                    assert_eq!(version.timestamp, offset as i64);
                    let value = offset.to_le_bytes().repeat(1 + (offset % 5) as usize);
                    assert_eq!(version.value, (offset % 11 != 0).then_some(&value[..]));
                };
                loop {
                    let last = stop.load(Acquire);
                    let below = visible.load(Acquire);
                    for _ in 0..50 {
                        let below = below.saturating_sub(rng.next() % 1000);
                        let key = rng.next() % KEYS;
                        match delta.get(&key.to_be_bytes(), Offset(below)) {
                            Some(version) => sound(&key.to_be_bytes(), version, below),
                            None => assert_eq!(latest(key, below), None),
                        }
                    }
                    let mut cursor = delta.cursor(Offset(below), reader == 1);
                    cursor.seek(None).unwrap();
                    let mut rows = 0;
                    while let Some((key, version)) = cursor.current() {
                        sound(key, version, below);
                        rows += 1;
                        cursor.advance().unwrap();
                    }
                    assert_eq!(rows, below.min(KEYS));
                    if last {
                        return;
                    }
                }
            });
        }
        let mut offset = 0;
        while offset < ROWS {
            for _ in 0..100 {
                let value = offset.to_le_bytes().repeat(1 + (offset % 5) as usize);
                let value = (offset % 11 != 0).then_some(&value[..]);
                writer.insert(&key_of(offset), value, Offset(offset), offset as i64);
                offset += 1;
            }
            visible.store(offset, Release);
        }
        stop.store(true, Release);
    });
}

#[test]
fn memory_is_got_ready_for_a_second_delta_and_for_no_third() {
    let pool = Pool::new(1 << 20, 1);
    pool.warm();
    let (_, first) = Delta::new(&pool, 0, 0);
    assert!(!pool.is_ready());
    pool.warm();
    let (_, second) = Delta::new(&pool, 0, 0);
    // The first is being written: a thread that comes too late with this must not take more.
    pool.warm();
    assert!(!pool.is_ready());
    drop(first);
    assert!(pool.is_ready());
    drop(second);
    pool.warm();
    assert_eq!(pool.kept().free.len(), 1);
}
