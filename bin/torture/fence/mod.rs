//! `fence`: everything that leadership rests on, raced in real stores, round after round.
//!
//! `contest`: many contenders for one name of the contested sequence. `lead`: an old leader that
//! publishes on while new ones fence it. Both run what publishers run, in a directory and, where its
//! binary is, in a real S3 server; answers get lost on purpose ([`lossy`]), some on the network
//! itself. Before that each store passes the probe that publishers make.

mod contest;
mod lead;
mod lossy;
mod weed;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidelog::fs::{Fs, Os};
use tidelog::ship::archive::{LocalStore, Store, probe};

use crate::line::Line;
use crate::proxy::Proxy;
use contest::{RACERS, Racer};
use lossy::Lossy;

/// Race contenders for the archive's names, and old leaders against new ones, in real stores
#[derive(clap::Args)]
pub struct Args {
    /// Where names, losses and delays begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds of 16 contenders for a name, in each store
    #[arg(long, default_value_t = 1_000)]
    rounds: u64,
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

/// Makes a connection of its own to the archive of a name.
type Connect<'a> = &'a dyn Fn(&str) -> Result<Arc<dyn Store>, String>;

/// Runs it.
pub fn run(args: &Args) -> Result<Line, String> {
    let mut line = Line::new("fence", args.seed);
    line.count("contenders", RACERS);
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let place = Place::new(&parent)?;
    let local = |name: &str| -> Result<Arc<dyn Store>, String> {
        Ok(Arc::new(LocalStore::at(place.0.join(name))))
    };
    let all = |connect: Connect<'_>| {
        (0..RACERS).map(|_| connect("contest")).collect::<Result<Vec<_>, _>>()
    };
    if args.only != Some(Only::Leaders) {
        let racers: Vec<Racer> = all(&local)?.into_iter().map(|store| racer(store, None)).collect();
        probed(&*racers[0].store)?;
        contest::race(args.seed, args.rounds, "local", &racers, &mut line);
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
    let remote = |name: &str| weed.store(name, None);
    if args.only != Some(Only::Leaders) {
        let mut racers = Vec::new();
        for store in all(&remote)? {
            let proxy = Proxy::new(weed.address());
            let network = weed.store("contest", Some(&proxy.url()))?;
            racers.push(racer(store, Some((network, proxy))));
        }
        probed(&*racers[0].store)?;
        contest::race(args.seed, args.rounds, "s3", &racers, &mut line);
    }
    if args.only != Some(Only::Contest) {
        lead::race(args.seed, args.leaders, "s3", &place.0, remote, &mut line)?;
    }
    Ok(line)
}

fn racer(store: Arc<dyn Store>, network: Option<(Arc<dyn Store>, Proxy)>) -> Racer {
    Racer { store: Arc::new(Lossy::new(store)), network }
}

/// A store that publishers would refuse is no store to race in.
fn probed(store: &dyn Store) -> Result<(), String> {
    let fs: Arc<dyn Fs> = Os::shared();
    probe(store, &fs).map_err(|e| e.to_string())
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
