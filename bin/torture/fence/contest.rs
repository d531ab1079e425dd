//! Many contenders for one name of the contested sequence at once, round after round.
//!
//! Each drives the contest that a publisher drives, over a connection of its own, as processes would;
//! of some the answer is lost. Contenders are fences and appends of a few epochs and owners, so that
//! every line of the table in `ship/archive/sequence.rs` is met. Invariants of a round:
//! - exactly one is told that the name is its own, and its bytes stand there, whole, for good;
//! - every other is told what the table says of who won;
//! - whoever won is told so though the answer to its create was lost.

use std::sync::{Arc, Barrier};

use tidelog::ship::archive::{
    Contest, Create, EntryHead, Hash, ObjectName, Store, What, Won, run_contest,
};
use tidelog::{Epoch, Id, Kind, LogByte, Offset};

use super::lossy::{Loss, Lossy};
use crate::dice::Dice;
use crate::line::{Line, Reproduction};
use crate::proxy::Proxy;

/// Contenders of a round.
pub const RACERS: usize = 16;
/// Larger than any entry of these contests.
const LIMIT: usize = 4096;
/// Of so many rounds one has a contender whose answer is lost on the network itself.
const OVER_NETWORK: u64 = 3;

/// One contender, and its connections.
pub struct Racer {
    /// Its own.
    pub store: Arc<Lossy>,
    /// Another of its own, through a proxy that loses answers; all contenders have one, or none.
    pub network: Option<(Arc<dyn Store>, Proxy)>,
}

/// What a contender enters a round with.
struct Entry {
    head: EntryHead,
    bytes: Vec<u8>,
    loss: Option<Loss>,
    over_network: bool,
}

/// What it was told, and what it read when all had been told.
struct Told {
    verdict: Result<Won, Kind>,
    read: Result<Option<Vec<u8>>, String>,
    later: Option<Create>,
}

/// What rounds come to.
#[derive(Default)]
pub struct Sum {
    rounds: u64,
    told_mine: u64,
    passed: u64,
    fenced: u64,
    twins: u64,
    strays: u64,
    answers_lost: u64,
    found_by_put_id: u64,
    violations: Vec<Reproduction>,
}

impl Sum {
    /// Takes what others found, too.
    pub fn add(&mut self, other: Sum) {
        self.rounds += other.rounds;
        self.told_mine += other.told_mine;
        self.passed += other.passed;
        self.fenced += other.fenced;
        self.twins += other.twins;
        self.strays += other.strays;
        self.answers_lost += other.answers_lost;
        self.found_by_put_id += other.found_by_put_id;
        self.violations.extend(other.violations);
    }

    /// Says so, for the store of this name.
    pub fn say(self, name: &str, line: &mut Line) {
        for (what, count) in [
            ("rounds", self.rounds),
            ("contests", self.rounds * RACERS as u64),
            ("told_mine", self.told_mine),
            ("told_passed", self.passed),
            ("told_fenced", self.fenced),
            ("told_twin", self.twins),
            ("told_stray", self.strays),
            ("answers_lost", self.answers_lost),
            ("found_by_put_id", self.found_by_put_id),
        ] {
            line.count(&format!("{name}_{what}"), count);
        }
        for violation in self.violations {
            line.violation(violation);
        }
    }
}

/// All rounds in one store.
pub fn race(seed: u64, rounds: u64, name: &str, racers: &[Racer]) -> Sum {
    let barrier = Barrier::new(racers.len());
    let told: Vec<Vec<Told>> = std::thread::scope(|scope| {
        let threads = racers.iter().enumerate().map(|(who, racer)| {
            let barrier = &barrier;
            scope.spawn(move || contend(racer, who, seed, rounds, barrier))
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    });
    let mut sum = Sum { rounds, ..Sum::default() };
    for round in 0..rounds {
        let at = usize::try_from(round).expect("an index");
        let told: Vec<&Told> = told.iter().filter_map(|mine| mine.get(at)).collect();
        let entries = entries(seed, round, racers[0].network.is_some());
        let found = match told.len() == racers.len() {
            true => judge(&entries, &told, &mut sum).err(),
            false => Some(format!("{} of {} contenders ended", told.len(), racers.len())),
        };
        if let Some(found) = found {
            let steps = vec![format!("fence --only contest: {name}, seed {seed}, round {round}")];
            sum.violations.push(Reproduction { seed, steps, found });
        }
    }
    sum
}

/// What everybody enters a round with: the same for who contends and who judges.
fn entries(seed: u64, round: u64, network: bool) -> Vec<Entry> {
    let mut dice = Dice::new(seed.wrapping_mul(0x9E37_79B9).wrapping_add(round));
    let low = 2 + dice.below(100);
    // Some rounds lose no answer, so that the plain race is seen, too.
    let losses = dice.below(3) * 30;
    let mut entries: Vec<Entry> =
        (0..RACERS).map(|_| entry(&mut dice, round, low, losses)).collect();
    if network && (round + 1).is_multiple_of(OVER_NETWORK) {
        let who = usize::try_from(dice.below(RACERS as u64)).expect("an index");
        (entries[who].over_network, entries[who].loss) = (true, None);
    }
    entries
}

fn entry(dice: &mut Dice, round: u64, low: u64, losses: u64) -> Entry {
    let id = |dice: &mut Dice| Id(dice.bytes(16).try_into().expect("sixteen"));
    // Two owners may have chosen one number, and two processes may be one leader.
    let epoch = Epoch { number: low + dice.below(3), nonce: 1 + dice.below(2) };
    let what = match dice.chance(1, 2) {
        true => What::Fence { parent: Epoch::default(), fork: LogByte(0), fork_offset: Offset(0) },
        false => What::Rollup,
    };
    let payload = match what {
        What::Rollup => {
            let len = 1 + dice.below(600);
            dice.bytes(len)
        }
        _ => Vec::new(),
    };
    let head = EntryHead {
        log: Id([7; 16]),
        n: 1 + round,
        rollup: 0,
        previous: if round == 0 { Hash::default() } else { Hash([9; 32]) },
        epoch,
        node: Id([u8::try_from(epoch.nonce).expect("small"); 16]),
        put_id: id(dice),
        time: 0,
        payload_bytes: 0,
        payload_hash: Hash::default(),
        what,
    };
    let (head, bytes) = head.with_payload(&payload);
    let loss = dice.chance(losses, 100).then(|| dice.pick(&Loss::ALL));
    Entry { head, bytes, loss, over_network: false }
}

fn contend(racer: &Racer, who: usize, seed: u64, rounds: u64, barrier: &Barrier) -> Vec<Told> {
    let mut all = Vec::new();
    for round in 0..rounds {
        let entries = entries(seed, round, racer.network.is_some());
        let mine = entries.into_iter().nth(who).expect("one for each");
        let name = ObjectName::Log(mine.head.n);
        let mut contest = Contest::new(mine.head.clone(), mine.bytes.clone());
        racer.store.lose(mine.loss);
        let store: &dyn Store = match (&racer.network, mine.over_network) {
            (Some((store, proxy)), true) => {
                proxy.lose(1);
                &**store
            }
            _ => &*racer.store,
        };
        barrier.wait();
        let verdict = run_contest(store, &mut contest).map_err(|e| e.kind());
        racer.store.settle();
        racer.store.lose(None);
        barrier.wait();
        // One of them comes when all is over.
        let late = who as u64 == round % RACERS as u64;
        let later = late.then(|| racer.store.create(&name, b"late"));
        let read = (&*racer.store as &dyn Store).get(&name, LIMIT).map_err(|e| e.to_string());
        all.push(Told { verdict, read, later });
    }
    all
}

/// Holds what everybody was told against what stands there.
fn judge(entries: &[Entry], told: &[&Told], sum: &mut Sum) -> Result<(), String> {
    let mut stands: Option<&[u8]> = None;
    for (who, told) in told.iter().enumerate() {
        if matches!(told.later, Some(Create::Created)) {
            return Err(format!("contender {who} created the name long after the race"));
        }
        let read = told.read.as_ref().map_err(|e| format!("contender {who} cannot read: {e}"))?;
        let read = read.as_deref().ok_or_else(|| format!("contender {who} finds nothing there"))?;
        if *stands.get_or_insert(read) != read {
            return Err(format!("contender {who} reads other bytes than those before it"));
        }
    }
    let stands = stands.unwrap_or_default();
    let winner = entries.iter().position(|entry| entry.bytes == stands);
    let winner = winner.ok_or("what stands there is nobody's entry, whole")?;
    for (who, (entry, told)) in entries.iter().zip(told).enumerate() {
        let expected = match who == winner {
            true => Ok(Won::Mine),
            false => outcome(&entry.head, &entries[winner].head),
        };
        if told.verdict != expected {
            return Err(format!(
                "contender {winner} won; contender {who} ({} of epoch {}, lost: {:?}, over the \
                 network: {}) expected to be told {expected:?}, was told {:?}",
                entry.head.what.as_str(),
                entry.head.epoch,
                entry.loss,
                entry.over_network,
                told.verdict
            ));
        }
        let lost = entry.loss.is_some() || entry.over_network;
        sum.answers_lost += u64::from(lost);
        match told.verdict {
            Ok(Won::Mine) => {
                sum.told_mine += 1;
                sum.found_by_put_id += u64::from(lost);
            }
            Ok(Won::Passed) => sum.passed += 1,
            Err(Kind::Fenced) => sum.fenced += 1,
            Err(Kind::Locked) => sum.twins += 1,
            Err(_) => sum.strays += 1,
        }
    }
    Ok(())
}

/// What the table says to `mine` when `theirs` stands there: written from docs/REPLICATION.md.
fn outcome(mine: &EntryHead, theirs: &EntryHead) -> Result<Won, Kind> {
    let fencing = matches!(mine.what, What::Fence { .. });
    match (mine.epoch == theirs.epoch, theirs.epoch.number < mine.epoch.number) {
        (true, _) => Err(Kind::Locked),
        (false, false) => Err(Kind::Fenced),
        (false, true) if fencing => Ok(Won::Passed),
        (false, true) => Err(Kind::Corrupt),
    }
}
