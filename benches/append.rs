//! Appending: lone records and batches, unsynced and durable, against the bare loop.
//!
//! The bare loop frames and checksums into a buffer of 1 MiB and writes that: no log can be faster
//! on one thread. `benches/peers` holds the same work against other logs.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidelog::{Batch, Durability, Log, Record};

const RECORDS: u64 = 100_000;

fn bare(path: &Path, value: &[u8], records: u64) -> Duration {
    let mut file = File::create(path).unwrap();
    let mut buffer = Vec::with_capacity((1 << 20) + value.len() + 8);
    let started = Instant::now();
    for _ in 0..records {
        if buffer.len() + value.len() + 8 > 1 << 20 {
            file.write_all(&buffer).unwrap();
            buffer.clear();
        }
        buffer.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
        buffer.extend_from_slice(&crc32c::crc32c(value).to_le_bytes());
        buffer.extend_from_slice(value);
    }
    file.write_all(&buffer).unwrap();
    started.elapsed()
}

/// Times `work` on a fresh log, opening and closing left out.
fn on_a_log(durability: Durability, mut work: impl FnMut(&Log)) -> Duration {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::options()
        .create(true)
        .durability(durability)
        .open(directory.path().join("log"))
        .unwrap();
    log.append(&Record::event(b"warm")).unwrap();
    let started = Instant::now();
    work(&log);
    started.elapsed()
}

fn append(c: &mut Criterion) {
    for size in [100, 1024] {
        let value = vec![7; size];
        let mut group = c.benchmark_group(format!("append/{size}B"));
        group.sample_size(10).throughput(Throughput::Elements(RECORDS));
        group.bench_function("bare", |b| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("bare");
            b.iter_custom(|n| (0..n).map(|_| bare(&path, black_box(&value), RECORDS)).sum());
        });
        group.bench_function("one by one", |b| {
            b.iter_custom(|n| {
                on_a_log(Durability::Buffered, |log| {
                    for _ in 0..n * RECORDS {
                        log.append(&Record::event(black_box(&value))).unwrap();
                    }
                })
            });
        });
        group.bench_function("by 100", |b| {
            b.iter_custom(|n| {
                on_a_log(Durability::Buffered, |log| {
                    let mut batch = Batch::new();
                    for _ in 0..n * RECORDS / 100 {
                        batch.clear();
                        for _ in 0..100 {
                            batch.push(&Record::event(black_box(&value))).unwrap();
                        }
                        log.append_batch(&batch).unwrap();
                    }
                })
            });
        });
        group.finish();
    }
}

fn durable(c: &mut Criterion) {
    let value = vec![7; 1024];
    for producers in [1, 8, 64] {
        let each = 2048 / producers;
        let mut group = c.benchmark_group(format!("durable/1024B/{producers} producers"));
        group.sample_size(10).throughput(Throughput::Elements(producers * each));
        group.bench_function("tidelog", |b| {
            b.iter_custom(|n| {
                on_a_log(Durability::Durable, |log| {
                    std::thread::scope(|scope| {
                        for _ in 0..producers {
                            scope.spawn(|| {
                                for _ in 0..n * each {
                                    log.append(&Record::event(&value)).unwrap();
                                }
                            });
                        }
                    });
                })
            });
        });
        group.finish();
    }
}

criterion_group!(benches, append, durable);
criterion_main!(benches);
