//! `fence`: many contenders create the same name at once, round after round, in a real store.
//!
//! All of the archive's safety rests on one property of the store: of several creates of a name one
//! wins, and its bytes stay. Contenders have connections of their own, as processes would. `weed` is a
//! real S3 server, where its binary is there. Invariants of a round: exactly one is told that it
//! created; everybody reads that one's bytes; a later create changes nothing.

mod weed;

use std::path::PathBuf;
use std::sync::{Arc, Barrier};

use tidelog::Id;
use tidelog::ship::archive::{Create, LocalStore, ObjectName, Store};

use crate::line::{Line, Reproduction};

/// Contenders of a round.
const CONTENDERS: u8 = 16;

/// Racing conditional creates against real stores.
#[derive(clap::Args)]
pub struct Args {
    /// Where names and bytes begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds in each store.
    #[arg(long, default_value_t = 1_000)]
    rounds: u64,
    /// Where the local store is made, and the server's files.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What a contender of a round was told, and read afterwards.
struct Told {
    created: Create,
    read: Result<Option<Vec<u8>>, String>,
    later: Create,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Line, String> {
    let mut line = Line::new("fence", args.seed);
    line.count("contenders", CONTENDERS);
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let place = Place::new(&parent)?;
    let root = place.0.join("store");
    race(args, "local", |_| Ok(Arc::new(LocalStore::at(&root))), &mut line)?;
    match weed::start(&place.0) {
        Ok(weed) => race(args, "s3", |_| weed.store(), &mut line)?,
        Err(why) => line.skip(why),
    }
    Ok(line)
}

/// A directory of our own, removed in the end.
struct Place(PathBuf);

impl Place {
    fn new(parent: &std::path::Path) -> Result<Self, String> {
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

/// All rounds in one store.
fn race(
    args: &Args,
    name: &str,
    connect: impl Fn(u8) -> Result<Arc<dyn Store>, String>,
    line: &mut Line,
) -> Result<(), String> {
    let stores = (0..CONTENDERS).map(connect).collect::<Result<Vec<_>, _>>()?;
    let barrier = Barrier::new(usize::from(CONTENDERS));
    let rounds = args.rounds;
    let told: Vec<Vec<Told>> = std::thread::scope(|scope| {
        let contenders = stores.iter().zip(0..).map(|(store, who)| {
            let barrier = &barrier;
            scope.spawn(move || contend(&**store, who, args.seed, rounds, barrier))
        });
        let contenders: Vec<_> = contenders.collect();
        contenders.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    });
    let (mut winners, mut unknown) = (0u64, 0u64);
    for round in 0..rounds {
        let at = usize::try_from(round).expect("an index");
        let told: Vec<&Told> = told.iter().filter_map(|mine| mine.get(at)).collect();
        let won = (0..).zip(&told).filter(|(_, told)| matches!(told.created, Create::Created));
        let won: Vec<u8> = won.map(|(who, _)| who).collect();
        winners += won.len() as u64;
        let unsure = told.iter().filter(|told| matches!(told.created, Create::Unknown(_))).count();
        unknown += unsure as u64;
        if let Some(found) = amiss(args.seed, round, &told, &won, unsure) {
            line.violation(Reproduction {
                seed: args.seed,
                steps: vec![format!("{name}: {}, round {round}", object(args.seed, round))],
                found,
            });
        }
    }
    line.count(&format!("{name}_rounds"), rounds);
    line.count(&format!("{name}_creates"), rounds * u64::from(CONTENDERS));
    line.count(&format!("{name}_won"), winners);
    line.count(&format!("{name}_unknown"), unknown);
    Ok(())
}

/// What is wrong with a round.
fn amiss(seed: u64, round: u64, told: &[&Told], won: &[u8], unsure: usize) -> Option<String> {
    if told.len() != usize::from(CONTENDERS) {
        return Some(format!("{} of {CONTENDERS} contenders ended", told.len()));
    }
    if won.len() > 1 || won.is_empty() && unsure == 0 {
        return Some(format!("contenders {won:?} were told that they created it"));
    }
    let mut expected = won.first().map(|winner| bytes(seed, round, *winner));
    for (who, told) in told.iter().enumerate() {
        if matches!(told.later, Create::Created) {
            return Some(format!("contender {who} created it long after the race"));
        }
        match &told.read {
            Ok(Some(read)) if *read == *expected.get_or_insert_with(|| read.clone()) => {}
            Ok(Some(_)) => {
                return Some(format!("contender {who} reads what the winner did not write"));
            }
            Ok(None) => return Some(format!("contender {who} finds nothing there")),
            Err(error) => return Some(format!("contender {who} cannot read it: {error}")),
        }
    }
    None
}

fn object(seed: u64, round: u64) -> ObjectName {
    ObjectName::Log(seed.wrapping_mul(1 << 32).wrapping_add(round) & (u64::MAX >> 1))
}

/// What a contender writes: as long as a small entry, and of nobody else.
fn bytes(seed: u64, round: u64, who: u8) -> Vec<u8> {
    let mut id = [who; 16];
    id[..8].copy_from_slice(&seed.wrapping_add(round).to_le_bytes());
    format!("{} ", Id(id)).repeat(16).into_bytes()
}

fn contend(store: &dyn Store, who: u8, seed: u64, rounds: u64, barrier: &Barrier) -> Vec<Told> {
    (0..rounds)
        .map(|round| {
            let (name, bytes) = (object(seed, round), bytes(seed, round, who));
            barrier.wait();
            let created = store.create(&name, &bytes);
            let read = store.get(&name, 4096).map_err(|e| e.to_string());
            barrier.wait();
            // One of them tries again when the race is over.
            let again = u64::from(who) == round % u64::from(CONTENDERS);
            let later = if again { store.create(&name, b"late") } else { Create::Exists };
            let read = match again {
                true => store.get(&name, 4096).map_err(|e| e.to_string()),
                false => read,
            };
            Told { created, read, later }
        })
        .collect()
}
