//! Reading a table: keys that are there, keys that are not, many at once, and scans.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidelog::table::Scan;
use tidelog::{Batch, Durability, Log, Record, Table};

const ROWS: u64 = 200_000;

fn key(id: u64) -> [u8; 16] {
    u128::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes()
}

fn filled(log: &Log) -> Table {
    let (value, mut batch) = (vec![7; 100], Batch::new());
    for id in 0..ROWS {
        batch.push(&Record::put(&key(id), &value)).unwrap();
        if batch.len() == 10_000 || id + 1 == ROWS {
            log.append_batch(&batch).unwrap();
            batch.clear();
        }
    }
    // Visible from here on.
    log.sync().unwrap();
    Table::from_log(log).unwrap()
}

fn table_read(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let options = Log::options().create(true).durability(Durability::Buffered);
    let log = options.open(directory.path().join("log")).unwrap();
    let table = filled(&log);
    let view = table.view();
    let mut state = 1_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % ROWS
    };
    let mut group = c.benchmark_group("table/100B");
    group.sample_size(20).throughput(Throughput::Elements(1));
    group.bench_function("get", |b| {
        b.iter_batched(
            || key(next()),
            |key| black_box(view.get(&key).unwrap().unwrap().value.len()),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("get, absent", |b| {
        b.iter_batched(
            || key(ROWS + next()),
            |key| assert!(view.get(&key).unwrap().is_none()),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("a view and a get", |b| {
        b.iter_batched(
            || key(next()),
            |key| black_box(table.get(&key).unwrap().unwrap().value.len()),
            BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(100));
    group.bench_function("get_many, 100 keys", |b| {
        b.iter_batched(
            || (0..100).map(|_| key(next())).collect::<Vec<_>>(),
            |keys| {
                let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
                black_box(view.get_many(&keys).unwrap().len())
            },
            BatchSize::SmallInput,
        );
    });
    group.sample_size(10).throughput(Throughput::Elements(ROWS));
    for (name, scan) in [("scan", Scan::all()), ("scan, reverse", Scan::all().reverse(true))] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let (mut rows, mut bytes) = (view.scan(&scan).unwrap(), 0);
                while let Some(row) = rows.next().unwrap() {
                    bytes += row.value.len() as u64;
                }
                assert_eq!(black_box(bytes), ROWS * 100);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, table_read);
criterion_main!(benches);
