//! Deltas against a plain map that keeps every version.

use std::collections::BTreeMap;

use super::*;

/// Every version of every key: offset, value.
type Model = BTreeMap<Vec<u8>, Vec<(u64, Option<Vec<u8>>)>>;

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

fn key(dice: &mut Dice, shape: u64) -> Vec<u8> {
    let n = dice.below(200);
    match shape {
        0 => vec![0; n as usize % 12],
        1 => format!("user/{n:09}").into_bytes(),
        2 => [&b"a"[..], &n.to_be_bytes(), &vec![b'x'; n as usize]].concat(),
        _ => [&vec![b'p'; 40 - (n as usize % 40)][..], &n.to_le_bytes()].concat(),
    }
}

fn newest(versions: &[(u64, Option<Vec<u8>>)], below: u64) -> Option<&(u64, Option<Vec<u8>>)> {
    versions.iter().rev().find(|(offset, _)| *offset < below)
}

fn check(delta: &Arc<Delta>, model: &Model, below: u64, dice: &mut Dice, what: &str) {
    let expected: Vec<_> = model
        .iter()
        .filter_map(|(key, versions)| Some((key.clone(), newest(versions, below)?.clone())))
        .collect();
    for (key, versions) in model {
        let found = delta.get(key, Offset(below));
        let found = found.map(|v| (v.offset.0, v.value.map(<[u8]>::to_vec)));
        assert_eq!(found.as_ref(), newest(versions, below), "{what} below {below}");
        let absent = [key.as_slice(), &[0]].concat();
        if !model.contains_key(&absent) {
            assert_eq!(delta.get(&absent, Offset(below)), None);
        }
    }
    for reverse in [false, true] {
        let mut starts = vec![None];
        for _ in 0..4 {
            let shape = dice.below(4);
            starts.push(Some(key(dice, shape)));
        }
        for start in starts {
            let mut cursor = delta.cursor(Offset(below), reverse);
            cursor.seek(start.as_deref()).unwrap();
            let mut found = Vec::new();
            while let Some((key, v)) = cursor.current() {
                assert_eq!(v.timestamp, v.offset.0.cast_signed() - 5);
                found.push((key.to_vec(), (v.offset.0, v.value.map(<[u8]>::to_vec))));
                cursor.advance().unwrap();
            }
            let inside = |(key, _): &&(Vec<u8>, _)| match &start {
                None => true,
                Some(start) if reverse => key < start,
                Some(start) => key >= start,
            };
            let mut expected: Vec<_> = expected.iter().filter(inside).cloned().collect();
            if reverse {
                expected.reverse();
            }
            assert_eq!(found, expected, "{what} from {start:?}, reverse {reverse}, below {below}");
        }
    }
}

#[test]
fn a_delta_agrees_with_a_plain_map_below_every_offset() {
    for seed in 0..12u64 {
        let mut dice = Dice(seed);
        let pool = Pool::new(if seed % 2 == 0 { 4 << 20 } else { 64 << 10 });
        for round in 0..3 {
            let (mut writer, delta) = Delta::new(&pool, 0, 0);
            let mut model = Model::new();
            let mut offset = 7;
            let mut ends = vec![0];
            for _ in 0..12 {
                let rows: Vec<_> = (0..dice.below(120))
                    .map(|i| {
                        let shape = if seed < 8 { seed % 4 } else { dice.below(4) };
                        let value = vec![i as u8; dice.below(90) as usize];
                        let value = (dice.below(5) > 0).then_some(value);
                        (key(&mut dice, shape), value, offset + i)
                    })
                    .collect();
                let bytes = rows.iter().map(|r| r.0.len() + r.1.as_ref().map_or(0, Vec::len));
                if !writer.fits(bytes.sum(), rows.len()) {
                    break;
                }
                offset += rows.len() as u64;
                writer.insert(rows.iter().map(|(key, value, offset)| Change {
                    key,
                    value: value.as_deref(),
                    offset: Offset(*offset),
                    timestamp: offset.cast_signed() - 5,
                }));
                for (key, value, offset) in rows {
                    model.entry(key).or_default().push((offset, value));
                }
                ends.push(offset);
                if dice.below(2) == 0 {
                    let below = ends[dice.below(ends.len() as u64) as usize];
                    check(&delta, &model, below, &mut dice, &format!("seed {seed} round {round}"));
                }
            }
            assert_eq!(delta.keys(), model.len() as u64);
            check(&delta, &model, offset, &mut dice, &format!("seed {seed} round {round}, whole"));
        }
    }
}

#[test]
fn a_batch_larger_than_the_budget_gets_a_delta_of_its_own() {
    let pool = Pool::new(16 << 10);
    let value = vec![7; 3 << 20];
    let (writer, _) = Delta::new(&pool, 0, 0);
    assert!(!writer.fits(value.len() + 3, 1));
    let (mut writer, delta) = Delta::new(&pool, value.len() + 3, 1);
    assert!(writer.fits(value.len() + 3, 1));
    let change = Change { key: b"big", value: Some(&value), offset: Offset(0), timestamp: 0 };
    writer.insert([change].into_iter());
    assert_eq!(delta.get(b"big", Offset(1)).unwrap().value.unwrap(), value);
    assert_eq!(delta.get(b"big", Offset(0)), None);
}

#[test]
fn memory_is_used_again_and_shows_nothing_of_before() {
    let pool = Pool::new(1 << 20);
    for round in 0..5u64 {
        let (mut writer, delta) = Delta::new(&pool, 0, 0);
        assert_eq!(delta.keys(), 0);
        for n in 0..2000u64 {
            assert_eq!(delta.get(&n.to_be_bytes(), Offset(u64::MAX)), None, "round {round}");
        }
        let keys: Vec<_> = (0..2000u64).map(|n| (n * (round + 1)).to_be_bytes()).collect();
        writer.insert(keys.iter().enumerate().map(|(i, key)| Change {
            key,
            value: Some(b"v"),
            offset: Offset(i as u64),
            timestamp: 0,
        }));
        assert_eq!(delta.keys(), 2000);
        drop(writer);
        drop(delta);
        assert_eq!(pool.spare.lock().unwrap().len(), 1);
    }
}

#[test]
fn readers_see_whole_versions_below_their_offset_while_a_delta_fills() {
    let pool = Pool::new(8 << 20);
    let (mut writer, delta) = Delta::new(&pool, 0, 0);
    let shown = AtomicU64::new(0);
    let rounds = 300u64;
    std::thread::scope(|scope| {
        for reader in 0..2u64 {
            let (delta, shown) = (&delta, &shown);
            scope.spawn(move || {
                let mut dice = Dice(reader);
                loop {
                    let below = shown.load(Acquire);
                    for _ in 0..20 {
                        let n = dice.below(100);
                        let found = delta.get(&n.to_be_bytes(), Offset(below));
                        // Key n is set by record n of every round of 100.
                        let wanted = (below / 100).checked_sub(1).map(|round| round * 100 + n);
                        assert_eq!(found.map(|v| v.offset.0), wanted);
                        let whole = |v: Version<'_>| v.value == Some(&[v.offset.0 as u8; 50]);
                        assert!(found.is_none_or(whole));
                    }
                    if dice.below(8) == 0 {
                        let mut cursor = delta.cursor(Offset(below), false);
                        cursor.seek(None).unwrap();
                        let mut count = 0;
                        while let Some((key, v)) = cursor.current() {
                            assert_eq!(key, u64::to_be_bytes(count));
                            assert_eq!(v.offset.0 / 100, below / 100 - 1);
                            count += 1;
                            cursor.advance().unwrap();
                        }
                        assert_eq!(count, if below == 0 { 0 } else { 100 });
                    }
                    if below == rounds * 100 {
                        return;
                    }
                }
            });
        }
        for round in 0..rounds {
            let rows: Vec<_> = (0..100u64)
                .map(|n| (n.to_be_bytes(), [(round * 100 + n) as u8; 50], round * 100 + n))
                .collect();
            writer.insert(rows.iter().map(|(key, value, offset)| Change {
                key,
                value: Some(value),
                offset: Offset(*offset),
                timestamp: 0,
            }));
            shown.store((round + 1) * 100, Release);
        }
    });
}

/// `cargo test --release --lib -- --ignored --nocapture how_fast_a_delta_is`
#[test]
#[ignore = "a measurement"]
fn how_fast_a_delta_is() {
    use std::time::Instant;
    let pool = Pool::new(1 << 30);
    let value = [7; 100];
    for round in 0..4 {
        let (mut writer, delta) = Delta::new(&pool, 0, 0);
        let mut dice = Dice(round);
        let keys: Vec<[u8; 16]> = (0..5_000_000)
            .map(|_| {
                let n = dice.below(1_000_000).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let mut key = [0; 16];
                key[..8].copy_from_slice(&n.to_be_bytes());
                key
            })
            .collect();
        let started = Instant::now();
        for (i, batch) in keys.chunks(10_000).enumerate() {
            writer.insert(batch.iter().enumerate().map(|(j, key)| Change {
                key,
                value: Some(&value),
                offset: Offset((i * 10_000 + j) as u64),
                timestamp: 0,
            }));
        }
        let inserted = started.elapsed();
        let started = Instant::now();
        let order = delta.order();
        let ordered = started.elapsed();
        let started = Instant::now();
        let mut found = 0;
        for key in keys.iter().step_by(7) {
            found += u64::from(delta.get(key, Offset(u64::MAX)).is_some());
        }
        let got = started.elapsed() / found as u32;
        let started = Instant::now();
        let mut cursor = delta.cursor(Offset(u64::MAX), false);
        cursor.seek(None).unwrap();
        let mut bytes = 0;
        while let Some((key, v)) = cursor.current() {
            bytes += key.len() + v.value.map_or(0, <[u8]>::len);
            cursor.advance().unwrap();
        }
        println!(
            "{:.1} M rows/s, order of {} in {ordered:?}, get {got:?}, walk {:?} of {bytes} bytes",
            5.0 / inserted.as_secs_f64(),
            order.large.len() + order.small.len(),
            started.elapsed()
        );
    }
}
