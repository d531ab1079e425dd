//! `fence`: everything that leadership rests on, raced in real stores, round after round.
//!
//! `contest`: many contenders for one name of the contested sequence. `lead`: an old leader that
//! publishes on while new ones fence it. Both run what publishers run, in a directory and, where its
//! binary is, in a real S3 server; answers get lost on purpose ([`lossy`]), some on the network
//! itself. Before that each store passes the probe that publishers make.

mod contest;
mod lead;
mod lossy;
pub mod weed;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidelog::Kind;
use tidelog::fs::{Fs, Os};
use tidelog::ship::archive::{LocalStore, Store, probe};

use crate::line::{Line, Reproduction};
use crate::proxy::Proxy;
use contest::{RACERS, Racer};
use lossy::Lossy;

/// Names that are raced for at a time in the S3 server.
const LANES: u64 = 8;

/// Race contenders for the archive's names, and old leaders against new ones, in real stores
#[derive(clap::Args)]
pub struct Args {
    /// Where names, losses and delays begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds of 16 contenders for a name, in a directory
    #[arg(long, default_value_t = 1_000)]
    rounds: u64,
    /// The same in each of eight lanes of the S3 server, which takes seconds for a name that 16 want
    #[arg(long, default_value_t = 5)]
    s3_rounds: u64,
    /// Rounds of an old leader and three new ones, in each store
    #[arg(long, default_value_t = 60)]
    leaders: u64,
    /// Only these rounds
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Only the store in a directory
    #[arg(long)]
    local: bool,
    /// Where the logs, the local store and the server's files are made [default: the system's
    /// temporary directory]
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    Contest,
    Leaders,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Line, String> {
    let mut line = Line::new("fence", args.seed);
    line.count("contenders", RACERS);
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let place = Place::new(&parent)?;
    let local = |name: &str| -> Result<Arc<dyn Store>, String> {
        Ok(Arc::new(LocalStore::at(place.0.join(name))))
    };
    if args.only != Some(Only::Leaders) {
        let connect = |_| Ok(racer(local("contest")?, None));
        let racers = (0..RACERS).map(connect).collect::<Result<Vec<_>, String>>()?;
        probed("local", &*racers[0].store, args.seed, &mut line)?;
        contest::race(args.seed, args.rounds, "local", &racers).say("local", &mut line);
    }
    if args.only != Some(Only::Contest) {
        lead::race(args.seed, args.leaders, "local", &place.0, local, &mut line)?;
    }
    if args.local {
        line.skip("s3: left out, as asked");
        return Ok(line);
    }
    let weed = match weed::start(&place.0) {
        Ok(weed) => weed,
        Err(why) => {
            line.skip(why);
            return Ok(line);
        }
    };
    let weed = &weed;
    let remote = |name: &str| weed.store(name, None);
    if args.only != Some(Only::Leaders) {
        probed("s3", &*remote("contest-0")?, args.seed, &mut line)?;
        let sum = std::thread::scope(|scope| {
            let lane = |lane| scope.spawn(move || in_lane(args, weed, lane));
            let lanes: Vec<_> = (0..LANES).map(lane).collect();
            lanes.into_iter().try_fold(contest::Sum::default(), |mut sum, lane| {
                sum.add(lane.join().map_err(|_| "a lane's thread panicked".to_owned())??);
                Ok::<_, String>(sum)
            })
        });
        sum?.say("s3", &mut line);
    }
    if args.only != Some(Only::Contest) {
        lead::race(args.seed, args.leaders, "s3", &place.0, remote, &mut line)?;
    }
    Ok(line)
}

/// The rounds of one lane: contenders and names of its own.
fn in_lane(args: &Args, weed: &weed::Weed, lane: u64) -> Result<contest::Sum, String> {
    let name = format!("contest-{lane}");
    let connect = |_| {
        let proxy = Proxy::new(weed.address());
        let network = weed.store(&name, Some(&proxy.url()))?;
        Ok(racer(weed.store(&name, None)?, Some((network, proxy))))
    };
    let racers = (0..RACERS).map(connect).collect::<Result<Vec<_>, String>>()?;
    let seed = args.seed.wrapping_add(lane << 40);
    Ok(contest::race(seed, args.s3_rounds, &format!("s3, lane {lane}"), &racers))
}

fn racer(store: Arc<dyn Store>, network: Option<(Arc<dyn Store>, Proxy)>) -> Racer {
    Racer { store: Arc::new(Lossy::new(store)), network }
}

/// Makes the probe that publishers make; that it refuses a store is a violation, like any other.
fn probed(name: &str, store: &dyn Store, seed: u64, line: &mut Line) -> Result<(), String> {
    let fs: Arc<dyn Fs> = Os::shared();
    match probe(store, &fs) {
        Err(e) if e.kind() == Kind::StoreNotAtomic => {
            let steps = vec![format!("the probe of {name}")];
            line.violation(Reproduction { seed, steps, found: e.to_string() });
            Ok(())
        }
        other => other.map_err(|e| e.to_string()),
    }
}

/// A directory of our own, removed in the end.
struct Place(PathBuf);

impl Place {
    fn new(parent: &Path) -> Result<Self, String> {
        let path = parent.join(format!("tidelog-fence-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Place(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
