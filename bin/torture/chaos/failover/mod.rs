//! Real nodes that elect their leader, and everything that makes another one lead.
//!
//! Clusters of three, each with a coordinator: a real etcd, a real S3 server alone, a directory alone. In spells
//! that take turns between the modes the leader is killed, stopped and woken up as a zombie, cut off with and
//! without its clients, its disk filled; operators promote and hand over. Somebody else must lead and acknowledge;
//! who was replaced comes back and rejoins by itself. After each spell everything is healed, must get on, and the
//! whole history is held against what clients were told ([`history`]).

mod history;
mod nodes;
mod seat;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::check;
use crate::dice::Dice;
use crate::line::Reproduction;
use history::Held;
use nodes::{Elected, Leads, NODES, Turn};
pub use seat::Kind;
use seat::Seats;
use writer::{Board, Promise, Told, WRITERS, Writer};

/// How long a next leader may take, and everybody to be where the leader is once everything is healed.
const LONGEST: Duration = Duration::from_secs(60);
/// Failovers of one cluster at most; then another one is made, so that histories stay short enough to be read whole.
const MOST: u64 = 24;
/// Failovers of one spell.
const SPELL: u64 = 3;

/// The modes, by turns.
const MODES: [(&str, Promise); 5] = [
    ("sync:k=1", Promise::All),
    ("async", Promise::Nothing),
    ("archive", Promise::All),
    ("semi:k=1,timeout=700ms", Promise::Replicated),
    ("sync:k=1", Promise::All),
];

/// What a run comes to, summed over its clusters.
#[derive(Default)]
pub struct Sum {
    pub counts: BTreeMap<String, u64>,
    pub violations: Vec<Reproduction>,
    pub skipped: Option<String>,
    /// From each fault to the first acknowledgement by another leader.
    waits: Vec<Duration>,
}

impl Sum {
    fn add(&mut self, name: &str, count: u64) {
        *self.counts.entry(name.to_owned()).or_default() += count;
    }

    /// Adds another one's.
    pub fn merge(&mut self, other: Sum) {
        for (name, count) in &other.counts {
            self.add(name, *count);
        }
        self.violations.extend(other.violations);
        self.skipped = self.skipped.take().or(other.skipped);
        self.waits.extend(other.waits);
    }

    /// The median and the longest wait, in milliseconds, among the counts.
    pub fn finish(&mut self) {
        self.waits.sort();
        let millis = |wait: Option<&Duration>| {
            wait.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
        };
        let (median, longest) = (self.waits.get(self.waits.len() / 2), self.waits.last());
        let (median, longest) = (millis(median), millis(longest));
        self.add("acknowledged_again_after_ms_median", median);
        self.add("acknowledged_again_after_ms_longest", longest);
    }
}

/// What a run is to do.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub failovers: u64,
    /// Clusters at a time.
    pub abreast: usize,
    pub longest: Option<Duration>,
    pub only: Option<Kind>,
    /// How the modes begin that are used; all of them when none is named.
    pub modes: &'a [String],
    pub seed: u64,
    pub place: &'a Path,
    pub binary: &'a Path,
    /// Directories stay, and each step is told.
    pub keep: bool,
}

impl Plan<'_> {
    fn modes(&self) -> Vec<(&'static str, Promise)> {
        let wanted = |(mode, _): &(&str, Promise)| {
            self.modes.is_empty() || self.modes.iter().any(|begin| mode.starts_with(begin.as_str()))
        };
        MODES.into_iter().filter(wanted).collect()
    }

    /// Runs clusters until so many failovers were seen, the time is over, or something is found.
    pub fn run(self) -> Result<Sum, String> {
        let Plan { failovers, abreast, longest, place, .. } = self;
        let (seats, missing) = Seats::start(place);
        let skipped = (!missing.is_empty()).then(|| missing.join("; "));
        let mut sum = Sum { skipped, ..Sum::default() };
        let mut kinds = seats.kinds();
        kinds.retain(|kind| self.only.is_none_or(|only| only == *kind));
        if kinds.is_empty() {
            return Err(format!("no such coordinator here: {}", missing.join("; ")));
        }
        if self.modes().is_empty() {
            return Err(format!("expected modes that begin like {:?}, found none", self.modes));
        }
        let (todo, number) = (Mutex::new(failovers), AtomicU64::new(0));
        let bad = AtomicBool::new(false);
        let deadline = longest.map(|longest| Instant::now() + longest);
        let share = failovers.div_ceil(abreast.max(1) as u64).clamp(1, MOST);
        let work = || -> Result<Sum, String> {
            let mut sum = Sum::default();
            loop {
                let over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                let quota = {
                    let mut todo = todo.lock().map_err(|_| "another cluster panicked")?;
                    let quota = share.min(*todo);
                    *todo -= quota;
                    quota
                };
                if quota == 0 || over || bad.load(SeqCst) {
                    return Ok(sum);
                }
                let number = number.fetch_add(1, SeqCst);
                let kind = kinds[usize::try_from(number).unwrap_or(0) % kinds.len()];
                let here = place.join(format!("cluster-{number}"));
                std::fs::create_dir_all(&here).map_err(|e| format!("{}: {e}", here.display()))?;
                let mut cell = Cell::start(self, &here, &seats, kind, number)?;
                cell.run(quota, deadline)?;
                bad.fetch_or(!cell.sum.violations.is_empty(), SeqCst);
                sum.merge(std::mem::take(&mut cell.sum));
                drop(cell);
                if !self.keep {
                    let _ = std::fs::remove_dir_all(&here);
                }
            }
        };
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..abreast.max(1)).map(|_| scope.spawn(work)).collect();
            running.into_iter().map(|one| one.join()).collect()
        });
        for outcome in outcomes {
            sum.merge(outcome.map_err(|_| "a cluster's thread panicked".to_owned())??);
        }
        sum.finish();
        Ok(sum)
    }
}

/// One cluster, through its spells.
struct Cell {
    seed: u64,
    tells: bool,
    number: u64,
    kind: Kind,
    modes: Vec<(&'static str, Promise)>,
    cluster: Elected,
    board: Arc<Board>,
    writers: Vec<Writer>,
    dice: Dice,
    steps: Vec<String>,
    started: Instant,
    /// The last full check; the end of a cluster is what counts.
    held: Held,
    sum: Sum,
}

impl Cell {
    fn start(
        plan: Plan<'_>,
        place: &Path,
        seats: &Seats,
        kind: Kind,
        number: u64,
    ) -> Result<Self, String> {
        let seed = plan.seed;
        let cluster = Elected::start(place, plan.binary, seats, kind)?;
        let (listed, whose) = cluster.addresses();
        let board = Board {
            listed,
            whose,
            begun: (0..WRITERS).map(|_| AtomicU64::new(0)).collect(),
            newest: AtomicU64::new(0),
            promise: Mutex::new(Promise::Nothing),
            told: Mutex::new(Told::default()),
            finish: AtomicBool::new(false),
            give_up: AtomicBool::new(false),
        };
        let dice = Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let writers = (0..WRITERS)
            .map(|id| Writer::new(id, seed ^ number << 8, &board))
            .collect::<Result<_, _>>()?;
        let skipped = cluster.no_small_disks().map(str::to_owned);
        let sum = Sum { skipped, ..Sum::default() };
        Ok(Cell {
            seed,
            tells: plan.keep,
            number,
            kind,
            modes: plan.modes(),
            cluster,
            board: Arc::new(board),
            writers,
            dice,
            steps: Vec::new(),
            started: Instant::now(),
            held: Held::default(),
            sum,
        })
    }

    fn run(&mut self, quota: u64, deadline: Option<Instant>) -> Result<(), String> {
        let mut left = quota;
        let mut spell = self.number;
        while left > 0
            && self.sum.violations.is_empty()
            && deadline.is_none_or(|deadline| Instant::now() < deadline)
        {
            let count = left.min(SPELL);
            let (mode, promise) =
                self.modes[usize::try_from(spell).unwrap_or(0) % self.modes.len()];
            self.spell(mode, promise, count)?;
            (left, spell) = (left - count, spell + 1);
        }
        if self.sum.violations.is_empty() {
            self.end();
        }
        self.count();
        Ok(())
    }

    fn step(&mut self, what: String) {
        if self.tells {
            eprintln!("cluster {} {:?}: {what}", self.number, self.started.elapsed());
        }
        self.steps.push(format!("{} ms: {what}", self.started.elapsed().as_millis()));
    }

    fn found(&mut self, found: String) {
        let steps = self.steps.clone();
        self.sum.violations.push(Reproduction { seed: self.seed, steps, found });
    }

    /// One spell: a mode, so many failovers, healing, the check.
    fn spell(&mut self, mode: &str, promise: Promise, failovers: u64) -> Result<(), String> {
        let (number, kind) = (self.number, self.kind);
        self.steps.clear();
        self.step(format!("cluster {number}, {kind:?}, {mode}"));
        self.sum.add("spells", 1);
        if let Err(why) = self.cluster.set_mode(mode, LONGEST) {
            self.found(why);
            return Ok(());
        }
        *self.board.promise.lock().map_err(|_| "a client panicked")? = promise;
        self.board.finish.store(false, SeqCst);
        let mut writers = std::mem::take(&mut self.writers);
        let board = Arc::clone(&self.board);
        let outcome = std::thread::scope(|scope| -> Result<(), String> {
            let running: Vec<_> =
                writers.iter_mut().map(|writer| scope.spawn(|| writer.run(&board))).collect();
            let outcome = self.go_wrong(failovers);
            board.finish.store(true, SeqCst);
            let deadline = Instant::now() + LONGEST;
            while running.iter().any(|writer| !writer.is_finished()) {
                let over = Instant::now() > deadline;
                if over || outcome.is_err() || !self.sum.violations.is_empty() {
                    board.give_up.store(true, SeqCst);
                }
                if over && self.sum.violations.is_empty() {
                    self.found(format!(
                        "{LONGEST:?} after everything was healed an append is not acknowledged; {:?}",
                        self.cluster.behind()
                    ));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            outcome
        });
        self.writers = writers;
        outcome?;
        if self.sum.violations.is_empty() {
            self.check();
        }
        Ok(())
    }

    /// So many times somebody else comes to lead. Who was replaced comes back, sometimes before the next turn.
    fn go_wrong(&mut self, failovers: u64) -> Result<(), String> {
        let mut hurt: Option<usize> = None;
        let mut done = 0;
        while done < failovers {
            std::thread::sleep(Duration::from_millis(200 + self.dice.below(600)));
            if self.dice.chance(1, 3) {
                let node = usize::try_from(self.dice.below(NODES as u64)).expect("an index");
                self.cluster.slow(node, &mut self.dice);
                self.sum.add("slowed", 1);
                std::thread::sleep(Duration::from_millis(self.dice.below(500)));
            }
            if let Some(node) = hurt.take() {
                self.step(format!("node{node} is healed"));
                self.cluster.heal(node)?;
            }
            let Some(before) = self.until_led(0)? else { return Ok(()) };
            let turn = Turn::choose(&mut self.dice);
            self.step(format!("node{} leads in epoch {}; {turn:?}", before.node, before.epoch));
            let began = Instant::now();
            let acted = self.cluster.act(turn, before, &mut self.dice);
            if !acted {
                self.step(format!("{turn:?} was refused"));
                self.sum.add("refused_orders", 1);
                continue;
            }
            let Some(after) = self.until_led(before.epoch)? else { return Ok(()) };
            let waited = began.elapsed();
            self.sum.waits.push(waited);
            self.step(format!(
                "node{} leads in epoch {}, after {waited:?}",
                after.node, after.epoch
            ));
            done += 1;
            self.sum.add("failovers", 1);
            self.sum.add(turn.counted(), 1);
            if after.node == before.node {
                self.sum.add("led_again", 1);
            }
            hurt = Some(before.node);
            if self.dice.chance(1, 2) {
                // Some time goes by before it comes back; or none.
                std::thread::sleep(Duration::from_millis(self.dice.below(800)));
                self.step(format!("node{} is healed", before.node));
                self.cluster.heal(before.node)?;
                hurt = None;
            }
        }
        self.step("everything is healed".into());
        for node in 0..NODES {
            self.cluster.heal(node)?;
        }
        Ok(())
    }

    /// Waits until a node leads by a later epoch, and somebody was acknowledged by it; `None`, and a violation,
    /// when that takes too long.
    fn until_led(&mut self, behind: u64) -> Result<Option<Leads>, String> {
        let deadline = Instant::now() + LONGEST;
        loop {
            let ended = self.cluster.ended()?;
            if !ended.is_empty() {
                self.found(ended.join("; "));
                return Ok(None);
            }
            self.cluster.tend();
            let leads = self.cluster.leads().filter(|leads| leads.epoch > behind);
            let acked = self.board.newest.load(SeqCst);
            if let Some(leads) = leads.filter(|leads| acked > behind && acked >= leads.epoch) {
                return Ok(Some(leads));
            }
            if Instant::now() > deadline {
                self.found(format!(
                    "{LONGEST:?} later nobody acknowledges behind epoch {behind}: {leads:?} leads, epoch {acked}                      acknowledged last; {:?}",
                    self.whys()
                ));
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What each node says of who leads.
    fn whys(&self) -> Vec<String> {
        let why = |node: usize| {
            let status = self.cluster.status(node).unwrap_or_default();
            format!(
                "{} of epoch {}: {}, {}, archive {}",
                status["role"],
                status["epoch"],
                status["state"],
                status["failover"],
                status["archive"]
            )
        };
        (0..NODES).map(why).collect()
    }

    /// Everybody must be where the leader is; then everything is held against what clients were told.
    fn check(&mut self) {
        let deadline = Instant::now() + LONGEST;
        loop {
            self.cluster.tend();
            match self.cluster.ended() {
                Ok(ended) if ended.is_empty() => {}
                Ok(ended) => return self.found(ended.join("; ")),
                Err(e) => return self.found(e),
            }
            match self.cluster.behind() {
                None => break,
                Some(what) if Instant::now() > deadline => {
                    let whys = self.whys();
                    return self
                        .found(format!("{LONGEST:?} after all was healed: {what}; {whys:?}"));
                }
                Some(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        let mut found = std::mem::take(&mut self.board.told().found);
        if let Err(error) = self.compare(&mut found) {
            found.push(error);
        }
        self.sum.add("checks", 1);
        for found in found {
            self.found(found);
        }
    }

    fn compare(&mut self, found: &mut Vec<String>) -> Result<(), String> {
        let Some(leads) = self.cluster.leads() else { return Err("nobody leads".into()) };
        let dirs = self.cluster.dirs();
        let leader = dirs[leads.node].0.clone();
        let begun: Vec<u64> = self.board.begun.iter().map(|count| count.load(SeqCst)).collect();
        self.held = history::hold(&leader, &dirs, &begun, &self.board.told(), found)?;
        let rows = |node: usize| self.cluster.nodes[node].ask("/v1/table?limit=100000");
        let shown = rows(leads.node)?;
        for node in (0..NODES).filter(|node| *node != leads.node) {
            let name = &self.cluster.nodes[node].name;
            if rows(node)? != shown {
                found.push(format!("I2: {name} shows another table than the leader"));
            }
            found.extend(check::same_files(&leader, &dirs[node].0).err());
        }
        Ok(())
    }

    /// Ends every node as an operator does, and reads every byte.
    fn end(&mut self) {
        let leads = self.cluster.leads().map_or(0, |leads| leads.node);
        // Whoever leads last: nobody is to be elected meanwhile.
        let order = (0..NODES).filter(|node| *node != leads).chain([leads]);
        for node in order.collect::<Vec<_>>() {
            if let Err(error) = self.cluster.nodes[node].stop() {
                return self.found(error);
            }
        }
        let mut digests = Vec::new();
        for (dir, _) in self.cluster.dirs() {
            match check::verified(&dir).and_then(|_| check::digest(&dir)) {
                Ok(digest) => digests.push(digest),
                Err(error) => return self.found(error),
            }
        }
        if digests.windows(2).any(|pair| pair[0] != pair[1]) {
            self.found(format!("I2: the digests differ: {digests:?}"));
        }
    }

    fn count(&mut self) {
        let board = Arc::clone(&self.board);
        let (told, held) = (board.told(), self.held);
        let begun = board.begun.iter().map(|count| count.load(SeqCst)).sum();
        let epochs = told.led.len() as u64;
        for (name, count) in [
            ("clusters", 1),
            (
                match self.kind {
                    Kind::Etcd => "clusters_with_etcd",
                    Kind::S3 => "clusters_with_s3_alone",
                    Kind::Directory => "clusters_with_a_directory_alone",
                },
                1,
            ),
            ("appends", begun),
            ("acks", told.acks.len() as u64),
            ("unknown", told.unknown),
            ("refused", told.refused),
            ("refused_for_good", told.refused_for_good.len() as u64),
            ("retries_found_there", told.duplicates),
            ("reads", told.reads),
            ("reads_refused", told.reads_refused),
            ("told_of_a_loss", told.disowned.len() as u64),
            ("epochs_that_acknowledged", epochs),
            ("records_checked", held.records),
            ("acks_checked", held.acks),
            ("acks_promised", held.promised),
            ("acks_promised_lost", held.promised_lost),
            ("acks_unpromised_lost", held.lost),
            ("acks_unpromised_lost_and_kept", held.lost_and_kept),
            ("records_kept_in_diverged", held.kept),
            ("records_reported_cut", held.reported),
            ("records_invented", held.invented),
            ("records_twice", held.twice),
        ] {
            self.sum.add(name, count);
        }
    }
}
