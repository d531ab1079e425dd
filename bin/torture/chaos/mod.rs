//! `chaos`: real processes, real connections, and a schedule of everything that goes wrong with them.
//!
//! A leader, two members that follow it through proxies of our own, a third follower of its directory
//! or its archive. Sessions append and read all the while. In spells that take turns between `async`
//! and `sync:k=1` nodes are killed and stopped, links cut, slowed, made one-way and lossy, disks filled,
//! as the seed says; then everything is healed, must get on, and is held against what the sessions were
//! told ([`check`]). When the leader is killed under `sync`, what was acknowledged must be on a member's
//! disk that moment: that is what a new leader would have.

mod check;
mod cluster;
mod failover;
mod node;
mod session;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::line::{Line, Reproduction};
use cluster::{Action, Cluster};
use session::{Board, Session, Told};

/// Sessions at a time.
const SESSIONS: u64 = 6;
/// How long one spell goes wrong.
const SPELL: Duration = Duration::from_secs(8);
/// How long sessions may take to see through what they were at, once everything is healed.
const LAST_APPENDS: Duration = Duration::from_secs(40);

/// Kill, stop and cut off real nodes, and hold what they said against what is there
#[derive(clap::Args)]
pub struct Args {
    /// Seed of the schedule
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long things go wrong, in all
    #[arg(long, default_value_t = 48)]
    seconds: u64,
    /// Leaders that are replaced in the part with failover
    #[arg(long, default_value_t = 24)]
    failovers: u64,
    /// The longest that the part with failover goes on [default: until it has seen them all]
    #[arg(long)]
    longest_seconds: Option<u64>,
    /// Clusters with failover at a time
    #[arg(long, default_value_t = 3)]
    abreast: usize,
    /// Only one part: `restarts`, where leaders restart in place, or `failover`
    #[arg(long)]
    only: Option<Part>,
    /// Only clusters with this coordinator in the part with failover
    #[arg(long)]
    coordinator: Option<failover::Kind>,
    /// Only these modes in the part with failover, by how they begin: sync, async, archive, semi
    #[arg(long, value_delimiter = ',')]
    modes: Vec<String>,
    /// Say what is done while it is done, and leave the directories
    #[arg(long)]
    keep: bool,
    /// Where nodes are made [default: the system's temporary directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The binary that nodes run [default: `tidelog` beside this one]
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Restarts,
    Failover,
}

/// One run.
struct Chaos {
    seed: u64,
    cluster: Cluster,
    board: Board,
    found: Vec<String>,
    /// What was done in the spell that runs.
    steps: Vec<String>,
    spells: u64,
    checked: u64,
    held_by_members: u64,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Line, String> {
    let mut line = Line::new("chaos", args.seed);
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => {
            let this =
                std::env::current_exe().map_err(|e| format!("finding this programme: {e}"))?;
            this.with_file_name("tidelog")
        }
    };
    if !binary.is_file() {
        return Err(format!("expected the binary tidelog at {}, found none", binary.display()));
    }
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let place = parent.join(format!("tidelog-chaos-{}", std::process::id()));
    let place = Place(place, args.keep);
    std::fs::create_dir_all(&place.0).map_err(|e| format!("{}: {e}", place.0.display()))?;
    let runs = |part: Part| args.only.is_none_or(|only| only == part);
    // Elections wait more than they work: both parts go on at the same time.
    let (restarts, failovers) = std::thread::scope(|scope| {
        let failovers = runs(Part::Failover).then(|| {
            scope.spawn(|| {
                let plan = failover::Plan {
                    failovers: args.failovers,
                    abreast: args.abreast,
                    longest: args.longest_seconds.map(Duration::from_secs),
                    only: args.coordinator,
                    modes: &args.modes,
                    seed: args.seed,
                    place: &place.0,
                    binary: &binary,
                    keep: args.keep,
                };
                plan.run()
            })
        });
        let mut restarts = Ok(());
        if runs(Part::Restarts) {
            restarts = restart(args, &place.0, &binary, &mut line);
        }
        (restarts, failovers.map(|failovers| failovers.join()))
    });
    restarts?;
    if let Some(failovers) = failovers {
        let sum = failovers.map_err(|_| "the part with failover panicked".to_owned())??;
        // Both parts have kills, appends and the like: these names say whose they are.
        for (name, count) in sum.counts {
            line.count(&format!("failover_{name}"), count);
        }
        sum.violations.into_iter().for_each(|violation| line.violation(violation));
        sum.skipped.into_iter().for_each(|why| line.skip(why));
    }
    Ok(line)
}

/// The part in which leaders restart in place.
fn restart(args: &Args, place: &Path, binary: &Path, line: &mut Line) -> Result<(), String> {
    let cluster = Cluster::start(place, binary)?;
    if let Some(why) = cluster.no_small_disks() {
        line.skip(why);
    }
    let board = Board {
        leader: cluster.sessions(),
        nodes: Mutex::default(),
        told: Mutex::default(),
        finish: AtomicBool::new(false),
        give_up: AtomicBool::new(false),
    };
    let mut chaos = Chaos {
        seed: args.seed,
        cluster,
        board,
        found: Vec::new(),
        steps: Vec::new(),
        spells: 0,
        checked: 0,
        held_by_members: 0,
    };
    let mut dice = Dice::new(args.seed);
    let mut sessions: Vec<Session> = (0..SESSIONS).map(|id| Session::new(id, args.seed)).collect();
    let spells = (args.seconds / SPELL.as_secs()).max(2);
    for spell in 0..spells {
        chaos.spell(spell, &mut sessions, &mut dice)?;
        chaos.report(line);
        if line.violations() > 0 {
            break;
        }
    }
    chaos.end();
    chaos.report(line);
    chaos.count(line);
    Ok(())
}

impl Chaos {
    /// One spell: a mode, what goes wrong, healing, the check.
    fn spell(
        &mut self,
        spell: u64,
        sessions: &mut [Session],
        dice: &mut Dice,
    ) -> Result<(), String> {
        let sync = spell.is_multiple_of(2);
        let mode = if sync { "sync:k=1" } else { "async" };
        self.steps = vec![format!("chaos --seed {}: spell {spell}, {mode}", self.seed)];
        self.spells += 1;
        // The third follower changes what it follows, with every second spell.
        self.cluster.nodes[3].stop()?;
        self.cluster.third_follows(spell % 4 >= 2);
        self.cluster.nodes[3].start()?;
        self.cluster.wait_up()?;
        self.cluster.show(&self.board);
        if let Err(why) = self.cluster.set_mode(mode) {
            self.found.push(why);
            return Ok(());
        }
        // Acknowledged before, perhaps under another mode: not what this spell's members answer for.
        let before = self.board.told().acks.len();
        self.board.finish.store(false, SeqCst);
        let (cluster, board) = (&mut self.cluster, &self.board);
        let (steps, found) = (&mut self.steps, &mut self.found);
        let mut held = 0;
        let outcome = std::thread::scope(|scope| -> Result<(), String> {
            let running: Vec<_> = sessions
                .iter_mut()
                .map(|session| scope.spawn(move || session.run(board)))
                .collect();
            let wrong =
                go_wrong(cluster, board, dice, sync.then_some(before), steps, &mut held, found);
            board.finish.store(true, SeqCst);
            let deadline = Instant::now() + LAST_APPENDS;
            while wrong.is_ok()
                && running.iter().any(|session| !session.is_finished())
                && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            if running.iter().any(|session| !session.is_finished()) {
                board.give_up.store(true, SeqCst);
                found.push(format!(
                    "{LAST_APPENDS:?} after everything was healed an append is not acknowledged"
                ));
            }
            for session in running {
                session.join().map_err(|_| "a session's thread panicked".to_owned())?;
            }
            wrong
        });
        self.held_by_members += held;
        outcome?;
        self.found.extend(self.cluster.ended()?);
        self.check();
        Ok(())
    }

    /// Holds everything against what sessions were told.
    fn check(&mut self) {
        if let Err(behind) = self.cluster.level() {
            self.found.push(behind);
            return;
        }
        let mut told = self.board.told();
        self.found.append(&mut told.found);
        let result = compare(&self.cluster, &told, &mut self.found);
        drop(told);
        match result {
            Ok(checked) => self.checked += checked,
            Err(error) => self.found.push(error),
        }
    }

    /// Ends every node as an operator does, and reads every byte.
    fn end(&mut self) {
        let followers = self.cluster.nodes.len();
        for which in (0..followers).rev() {
            if let Err(error) = self.cluster.nodes[which].stop() {
                self.found.push(error);
                return;
            }
        }
        let mut digests = Vec::new();
        for node in &self.cluster.nodes {
            match check::verified(&node.dir).and_then(|_| check::digest(&node.dir)) {
                Ok(digest) => digests.push((node.name.clone(), digest)),
                Err(error) => self.found.push(error),
            }
        }
        if digests.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            self.found.push(format!("I2: the digests differ: {digests:?}"));
        }
    }

    fn report(&mut self, line: &mut Line) {
        for found in self.found.drain(..) {
            let steps = self.steps.clone();
            line.violation(Reproduction { seed: self.seed, steps, found });
        }
    }

    fn count(&self, line: &mut Line) {
        let (told, done) = (self.board.told(), &self.cluster.done);
        for (name, count) in [
            ("spells", self.spells),
            ("appends", told.appends),
            ("acks", told.acks.len() as u64),
            ("unknown", told.unknown),
            ("refused", told.refused),
            ("retries_found_there", told.duplicates),
            ("reads", told.reads),
            ("reads_refused", told.reads_refused),
            ("kills", done.kills),
            ("restarts", done.restarts),
            ("pauses", done.pauses),
            ("cuts", done.cuts),
            ("one_way", done.one_way),
            ("delays", done.delays),
            ("altered", done.altered),
            ("answers_lost", done.answers_lost),
            ("disks_filled", done.disks_filled),
            ("bytes_through_proxies", self.cluster.passed()),
            ("acks_held_by_members_at_kills", self.held_by_members),
            ("records_checked", self.checked),
        ] {
            line.count(name, count);
        }
    }
}

/// Things go wrong, one or two at a time, and are healed in the end.
#[allow(clippy::too_many_arguments)]
fn go_wrong(
    cluster: &mut Cluster,
    board: &Board,
    dice: &mut Dice,
    sync_from: Option<usize>,
    steps: &mut Vec<String>,
    held: &mut u64,
    found: &mut Vec<String>,
) -> Result<(), String> {
    let started = Instant::now();
    let mut on: Vec<Action> = Vec::new();
    while started.elapsed() < SPELL {
        std::thread::sleep(Duration::from_millis(30 + dice.below(250)));
        cluster.show(board);
        let action = cluster.choose(dice);
        steps.push(format!("{} ms: {action:?}", started.elapsed().as_millis()));
        cluster.act(action, dice);
        if let (Action::Kill(node), Some(from)) = (action, sync_from)
            && node == cluster.leads
        {
            *held += held_by_members(cluster, board, from, found);
        }
        on.push(action);
        std::thread::sleep(Duration::from_millis(50 + dice.below(700)));
        if let (Action::Isolate, Some(from)) = (action, sync_from) {
            // What was acknowledged meanwhile would be on the leader's disk alone.
            let kill = Action::Kill(cluster.leads);
            steps.push(format!("{} ms: {kill:?}", started.elapsed().as_millis()));
            cluster.act(kill, dice);
            *held += held_by_members(cluster, board, from, found);
            on.push(kill);
        }
        if dice.chance(2, 3) {
            for action in on.drain(..) {
                cluster.heal(action, board)?;
            }
        }
    }
    steps.push(format!("{} ms: healed", started.elapsed().as_millis()));
    for action in on.drain(..) {
        cluster.heal(action, board)?;
    }
    cluster.wait_up()?;
    cluster.show(board);
    Ok(())
}

/// The leader is dead: what it acknowledged under `sync` is what the most up-to-date member has.
fn held_by_members(cluster: &Cluster, board: &Board, from: usize, found: &mut Vec<String>) -> u64 {
    let told = board.told();
    let acks = &told.acks[from..];
    let (highest, count) = (acks.iter().map(|ack| ack.offset + 1).max(), acks.len() as u64);
    if let Some(ack) = acks.iter().find(|ack| ack.copies < 2) {
        found.push(format!("under sync:k=1 an append was acknowledged with one copy: {ack:?}"));
    }
    drop(told);
    let ends = cluster.nodes[1..3].iter().map(|node| check::synced(&node.dir));
    let best = ends.filter_map(Result::ok).max();
    if best < highest {
        found.push(format!(
            "I1: the leader was killed, and acknowledged everything below {highest:?} under sync; \
             the best member has {best:?}"
        ));
    }
    count
}

/// Compares all nodes; how many records were held against what sessions were told.
fn compare(cluster: &Cluster, told: &Told, found: &mut Vec<String>) -> Result<u64, String> {
    let leader = check::history(&cluster.leader().dir)?;
    leader.hold(told, found);
    let rows = |node: &node::Node| node.ask("/v1/table?limit=100000");
    let (shown, mut checked) = (rows(cluster.leader())?, leader.len());
    for (which, node) in
        cluster.nodes.iter().enumerate().filter(|(which, _)| *which != cluster.leads)
    {
        let history = check::history(&node.dir)?;
        leader.equal(&node.name, &history, found);
        checked += history.len();
        if rows(node)? != shown {
            found.push(format!("I2: {} shows another table than the leader", node.name));
        }
        let same = check::same_files(&cluster.leader().dir, &cluster.nodes[which].dir);
        found.extend(same.err());
    }
    Ok(checked)
}

/// A directory of our own, removed in the end unless it is kept.
struct Place(PathBuf, bool);

impl Drop for Place {
    fn drop(&mut self) {
        if !self.1 {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
