//! Opening: after a clean close, and after a kill with an active segment to be walked.

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use tidelog::{Batch, Durability, Log, Record};

fn fill(path: &std::path::Path, records: usize) -> Log {
    let log = Log::options().create(true).durability(Durability::Durable).open(path).unwrap();
    let value = vec![7; 100];
    let mut batch = Batch::new();
    for _ in 0..records / 1000 {
        for _ in 0..1000 {
            batch.push(&Record::event(&value)).unwrap();
        }
        log.append_batch(&batch).unwrap();
        batch.clear();
    }
    log
}

fn recover(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut group = c.benchmark_group("open");
    group.sample_size(10);
    let log = fill(&path, 2_000_000);
    group.bench_function("beside a writer, active segment walked", |b| {
        b.iter_custom(|n| {
            let mut total = Duration::ZERO;
            for _ in 0..n {
                let started = Instant::now();
                let reader = Log::options().read_only(true).open(&path).unwrap();
                total += started.elapsed();
                assert_eq!(reader.report().segments, log.segments().len());
            }
            total
        });
    });
    log.close().unwrap();
    group.bench_function("after a clean close", |b| {
        b.iter_custom(|n| {
            let mut total = Duration::ZERO;
            for _ in 0..n {
                let started = Instant::now();
                let log = Log::options().open(&path).unwrap();
                total += started.elapsed();
                log.close().unwrap();
            }
            total
        });
    });
    group.finish();
}

criterion_group!(benches, recover);
criterion_main!(benches);
