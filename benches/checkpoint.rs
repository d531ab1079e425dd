//! Checkpoints: a consistent copy of a table, what it does to an apply that goes on beside it, and
//! having the table again after an open.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidelog::table::Scan;
use tidelog::{Batch, Durability, Log, Record, Table};

const ROWS: u64 = 100_000;

fn append(log: &Log, from: u64, count: u64) {
    let (value, mut batch) = (vec![7; 100], Batch::new());
    for id in from..from + count {
        let key = u128::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        batch.push(&Record::put(&key.to_be_bytes(), &value)).unwrap();
        if batch.len() == 10_000 || id + 1 == from + count {
            log.append_batch(&batch).unwrap();
            batch.clear();
        }
    }
    // Visible from here on.
    log.sync().unwrap();
}

/// What is consistent at one offset: every row of a view.
fn copy(table: &Table) -> u64 {
    let (mut rows, mut count) = (table.view().scan(&Scan::all()).unwrap(), 0);
    while rows.next().unwrap().is_some() {
        count += 1;
    }
    count
}

fn checkpoint(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let options = Log::options().create(true).durability(Durability::Buffered);
    let log = options.open(directory.path().join("log")).unwrap();
    append(&log, 0, ROWS);
    let table = Table::from_log(&log).unwrap();
    let mut group = c.benchmark_group("checkpoint/100B");
    group.sample_size(10).throughput(Throughput::Elements(ROWS));
    group.bench_function("copy of all rows", |b| b.iter(|| assert!(copy(&table) >= ROWS)));
    group.bench_function("open again", |b| {
        b.iter(|| Table::from_log(&log).unwrap().get(&[0; 16]).unwrap().unwrap());
    });
    // The log grows with every turn: few of them.
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("apply of 10,000 beside a held view", |b| {
        b.iter_custom(|n| {
            let mut took = Duration::ZERO;
            for _ in 0..n {
                append(&log, 0, 10_000);
                let view = table.view();
                let started = Instant::now();
                table.catch_up(&log).unwrap();
                took += started.elapsed();
                assert_ne!(view.applied(), table.applied());
            }
            took
        });
    });
    group.finish();
}

criterion_group!(benches, checkpoint);
criterion_main!(benches);
