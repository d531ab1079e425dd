//! The model of the simulated disk, one statement a test.

mod directories;
mod faults;
mod machine;
mod power;
mod random;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::{File, Open};
use super::*;

const A: &str = "/d/a";
const B: &str = "/d/b";

/// A disk with the directory `/d` and in it the empty file `a`, all durable.
fn disk() -> (Sim, Arc<dyn File>) {
    let sim = Sim::new(7);
    sim.write(A, b"");
    let file = open(&sim, A, Open::Write);
    (sim, file)
}

fn open(sim: &Sim, path: &str, how: Open) -> Arc<dyn File> {
    Fs::open(sim, path.as_ref(), how).unwrap()
}

fn rename(sim: &Sim, from: &str, to: &str) {
    Fs::rename(sim, from.as_ref(), to.as_ref()).unwrap();
}

fn sync_dir(sim: &Sim, path: &str) {
    Fs::sync_dir(sim, path.as_ref()).unwrap();
}

/// What a crash leaves of `a`.
fn left(sim: &Sim, crash: Crash) -> Vec<u8> {
    Sim::read(&sim.crash(&crash), A)
}

fn names(sim: &Sim) -> Vec<String> {
    sim.paths().iter().map(|path| path.to_str().unwrap().to_owned()).collect()
}

fn changes(sim: &Sim) -> Vec<PendingChange> {
    sim.pending().into_iter().map(|pending| pending.change).collect()
}
