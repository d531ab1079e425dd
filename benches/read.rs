//! Reading: verified scans and random reads, against a bare loop over the same mapped bytes.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidelog::{Batch, Durability, Log, Offset, Options, Record, Verification};

fn filled(size: usize, records: usize) -> (tempfile::TempDir, Options) {
    let directory = tempfile::tempdir().unwrap();
    let options = Log::options().create(true).durability(Durability::Written);
    let log = options.clone().open(directory.path().join("log")).unwrap();
    let value = vec![7; size];
    let mut batch = Batch::new();
    for _ in 0..records {
        batch.push(&Record::event(&value)).unwrap();
        log.append_batch(&batch).unwrap();
        batch.clear();
    }
    log.close().unwrap();
    (directory, options)
}

fn read(c: &mut Criterion) {
    for (size, records) in [(100, 1_000_000), (1024, 200_000)] {
        let (directory, options) = filled(size, records);
        let path = directory.path().join("log");
        let log = options.verification(Verification::Always).open(&path).unwrap();
        let mut group = c.benchmark_group(format!("read/{size}B"));
        group.sample_size(10).throughput(Throughput::Elements(records as u64));
        group.bench_function("scan, verified", |b| {
            b.iter(|| {
                let mut cursor = log.read(Offset(0)).unwrap();
                let mut bytes = 0;
                while let Some(entry) = cursor.next().unwrap() {
                    bytes += entry.record.value.len();
                }
                assert_eq!(black_box(bytes), size * records);
            });
        });
        group.throughput(Throughput::Elements(1));
        let mut state = 1u64;
        group.bench_function("random", |b| {
            b.iter_batched(
                || {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    Offset((state >> 33) % records as u64)
                },
                |offset| {
                    let mut cursor = log.read(offset).unwrap();
                    black_box(cursor.next().unwrap().unwrap().record.value.len())
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, read);
criterion_main!(benches);
