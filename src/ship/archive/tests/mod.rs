//! Publishers and readers over the fake: every fault at every call, kills, races, hostile objects.

mod bytes;
mod hostile;
mod prune;
mod publish;
mod race;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::fake::Fake;
use super::*;
use crate::error::Result;
use crate::fs::Fs;
use crate::fs::sim::Sim;
use crate::log::{Identity, Log, MIN_SEGMENT_BYTES, Options};
use crate::position::Offset;
use crate::record::{Batch, Record};
use crate::replica::Follower;
use crate::ship::Directory;
use crate::table::Table;

const LEADER: &str = "/leader";
const COPY: &str = "/copy";

/// Makes what this machine draws differ from what its copies draw.
fn reseed(sim: &Sim, by: usize) {
    let mut bytes = [0; 16];
    for _ in 0..by * 1000 {
        sim.random(&mut bytes).unwrap();
    }
}

fn options(sim: &Sim) -> Options {
    Log::options().fs(sim.shared()).create(true).worker(false).segment_bytes(MIN_SEGMENT_BYTES)
}

/// A leader's disk at a moment, and how far it was durable.
struct Stage {
    disk: Sim,
    end: Offset,
}

/// Appends batches of three with values of `size` bytes.
fn append(sim: &Sim, log: &Log, batches: u64, size: usize) {
    for i in 0..batches {
        // STATE is rewritten at most every 5 ms, and here no worker does it later.
        sim.advance(Duration::from_millis(6));
        let mut batch = Batch::new();
        for key in 0..3u64 {
            let key = (i * 3 + key).to_le_bytes();
            batch.push(&Record::put(&key, &vec![key[0] ^ size as u8; size])).unwrap();
        }
        log.append_batch(&batch).unwrap();
    }
}

/// The process dies and another opens the log: a new epoch.
fn reopen(sim: &Sim, log: Log, identity: Identity) -> (Sim, Log) {
    sim.kill();
    std::mem::forget(log);
    let sim = sim.process();
    let log = options(&sim).identity(identity).open(LEADER).unwrap();
    (sim, log)
}

/// A short life: small appends, rolls, a crash and a new epoch, rolls again, a clean close.
fn stages() -> Vec<Stage> {
    let sim = Sim::new(7);
    let mut stages = Vec::new();
    let log = options(&sim).open(LEADER).unwrap();
    let mut keep = |sim: &Sim, log: &Log| {
        stages.push(Stage { disk: sim.deep_copy(), end: log.durable_end() });
    };
    append(&sim, &log, 2, 100);
    keep(&sim, &log);
    append(&sim, &log, 2, 300);
    keep(&sim, &log);
    append(&sim, &log, 12, 6000);
    keep(&sim, &log);
    let (sim, log) = reopen(&sim, log, Identity::Expect);
    append(&sim, &log, 2, 200);
    keep(&sim, &log);
    append(&sim, &log, 6, 8000);
    log.close().unwrap();
    let log = options(&sim).read_only(true).create(false).open(LEADER).unwrap();
    keep(&sim, &log);
    stages
}

/// Small tails and rollups, so that a short life has many of both.
fn small() -> PublishOptions {
    PublishOptions { tail_bytes: 4000, rollup_every: 4, probe: false, ..PublishOptions::default() }
}

fn publisher(store: Arc<dyn Store>, disk: &Sim, options: PublishOptions) -> Result<Publisher> {
    Publisher::open(store, Directory::open_in(disk.shared(), LEADER)?, options)
}

fn push(fake: &Fake, stage: &Stage) -> Result<Pushed> {
    publisher(Arc::new(fake.client()), &stage.disk, small())?.push()
}

fn bytes(fs: &dyn Fs, directory: &str, name: &str) -> Vec<u8> {
    let path = Path::new(directory).join("segments").join(name);
    let file = fs.open_plain(&path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Catches a follower up from the archive; its files must be the leader's.
fn follow(fake: &Fake, copy: &Sim, stage: &Stage, what: &str) {
    let archive = Archive::open(Arc::new(fake.client())).unwrap_or_else(|e| panic!("{what}: {e}"));
    let options = Log::options().fs(copy.shared()).worker(false);
    let mut follower = Follower::open_with(options, Table::options().persist(false), COPY, archive)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let progress = follower.catch_up().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(progress.to, stage.end, "{what}");
    follower.close().unwrap();
    let (leader, mine) = (stage.disk.shared(), copy.shared());
    let names = |fs: &dyn Fs, of: &str| {
        let mut names = fs.list(&Path::new(of).join("segments")).unwrap();
        // The leader prepares its next file.
        names.retain(|name| name != "next.tmp");
        names
    };
    let copied = names(&*mine, COPY);
    assert_eq!(copied, names(&*leader, LEADER), "{what}");
    for name in &copied {
        let (theirs, mine) = (bytes(&*leader, LEADER, name), bytes(&*mine, COPY, name));
        assert!(theirs.starts_with(&mine), "{what}: {name} differs");
        assert!(theirs[mine.len()..].iter().all(|&b| b == 0), "{what}: {name} lacks bytes");
    }
}

/// The walk is contiguous, every hash holds, and nothing that was ever created has another content.
fn sound(fake: &Fake, what: &str) -> State {
    let store: Arc<dyn Store> = Arc::new(fake.client());
    let report = verify_archive(&*store).unwrap();
    assert_eq!(report.problems, [], "{what}");
    // What the store was tried with goes again.
    let tried = |name: &ObjectName| matches!(name, ObjectName::Probe(_));
    for (name, bytes) in fake.created().into_iter().filter(|(name, _)| !tried(name)) {
        assert_eq!(fake.object(&name), Some(bytes), "{what}: {name} was replaced");
    }
    let state = load(&*store).unwrap();
    assert_eq!(state.n, report.entries, "{what}");
    state
}
