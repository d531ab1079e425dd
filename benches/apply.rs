//! Applying: a log's frames, decoded and checked, into an empty table and into a full one.
//!
//! `benches/peers --rows table` holds the same work against other stores.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidelog::{Batch, Durability, Log, Record, Table, Verification};

const RECORDS: u64 = 200_000;
const KEYS: u64 = 50_000;

/// Appends `RECORDS` puts over `KEYS` keys, in batches of 10,000.
fn append(log: &Log) {
    let (value, mut batch) = (vec![7; 100], Batch::new());
    for n in 0..RECORDS {
        let id = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % KEYS;
        let key = u128::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        batch.push(&Record::put(&key.to_be_bytes(), &value)).unwrap();
        if batch.len() == 10_000 || n + 1 == RECORDS {
            log.append_batch(&batch).unwrap();
            batch.clear();
        }
    }
    // Visible from here on.
    log.sync().unwrap();
}

fn apply(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let options = Log::options()
        .create(true)
        .durability(Durability::Buffered)
        .verification(Verification::Always);
    let log = options.open(directory.path().join("log")).unwrap();
    append(&log);
    let mut group = c.benchmark_group("apply/100B");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    group.bench_function("into an empty table", |b| {
        b.iter_custom(|n| {
            let mut took = Duration::ZERO;
            for _ in 0..n {
                let table = Table::new();
                let started = Instant::now();
                let applied = table.catch_up(&log).unwrap();
                took += started.elapsed();
                assert_eq!(applied.records, RECORDS);
            }
            took
        });
    });
    // The log grows with every turn: few of them.
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    group.bench_function("over rows that are there", |b| {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::options()
            .create(true)
            .durability(Durability::Buffered)
            .verification(Verification::Always)
            .open(directory.path().join("log"))
            .unwrap();
        append(&log);
        let table = Table::new();
        table.catch_up(&log).unwrap();
        b.iter_custom(|n| {
            let mut took = Duration::ZERO;
            for _ in 0..n {
                append(&log);
                let started = Instant::now();
                let applied = table.catch_up(&log).unwrap();
                took += started.elapsed();
                assert_eq!(applied.records, RECORDS);
            }
            took
        });
    });
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);
