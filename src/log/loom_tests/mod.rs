//! Models: the log's own code between threads, in every order of its steps.
//!
//! Only in a test build with `--cfg loom` (docs/TESTING.md). loom runs each closure once for every
//! order of atomic operations and every value a load may see, and fails on an assertion, on two
//! threads that touch the same memory without an order, and on threads that all wait. Each model
//! prints how many executions there were.

mod ends;
mod rounds;
mod staging;
mod wake;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Runs a model through all its executions.
fn exhaust(name: &str, body: impl Fn() + Send + Sync + 'static) {
    bounded(name, None, body);
}

/// The same with at most `preemptions` switches away from a thread that could go on.
fn bounded(name: &str, preemptions: Option<usize>, body: impl Fn() + Send + Sync + 'static) {
    let executions = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&executions);
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.max_branches = 20_000;
    let started = std::time::Instant::now();
    model.check(move || {
        counted.fetch_add(1, Relaxed);
        body();
    });
    let bound = preemptions.map_or("exhaustive".to_owned(), |n| format!("at most {n} preemptions"));
    println!(
        "loom {name}: {} executions, {bound}, {:.1} s",
        executions.load(Relaxed),
        started.elapsed().as_secs_f64()
    );
}
