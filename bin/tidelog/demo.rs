//! `demo`: the whole story on a real sample, in a directory that stays to be explored.
//!
//! Everything it says is measured or checked while it runs; a claim that does not hold is an error.

mod failover;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use tidelog::frame::{Mode, SyncSet};
use tidelog::log::Append;
use tidelog::replica::{Level, Outcome as Acknowledged};
use tidelog::server::{Server, ServerOptions};
use tidelog::ship::archive::{Archive, PublishOptions, Publisher, open_store};
use tidelog::ship::{Credentials, Directory, Http};
use tidelog::table::Snapshots;
use tidelog::text::{Fields, Format, Next, OwnedRecord, Reader, TimeFormat, format_bytes};
use tidelog::{Batch, Durability, Follower, Log, Offset, Record, Table};

use crate::exit::{Failure, Outcome};
use crate::output::{count, grouped};

/// A week of earthquakes: US Geological Survey, public domain.
const SAMPLE: &[u8] = include_bytes!("../../tests/data/earthquakes.ndjson.gz");
/// Small segments, so that the sample fills a few.
const SEGMENT_BYTES: u64 = 64 << 10;
const BATCH: usize = 50;
/// Longer than any step takes on a slow disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ingest a real sample, follow it three ways, survive an outage, acknowledge on two disks, compare
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog demo
  tidelog demo elsewhere

A leader and three followers, each in a directory of its own: near pulls from the leader's \
directory, far over HTTP from the leader as a node on a free port of this machine, late from an \
archive that the log was pushed to. Takes seconds and no network. The logs stay, to be explored. With --failover: three nodes \
in processes of their own, of which the leader is killed, and comes back.")]
pub(crate) struct Demo {
    /// A new directory, which stays
    #[arg(default_value = "demo")]
    dir: PathBuf,
    /// Kill a leader of three nodes while records come in, instead
    #[arg(long)]
    failover: bool,
}

impl Demo {
    pub(crate) fn run(self) -> Outcome {
        let dir = self.dir.as_path();
        if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::usage(format!(
                "expected a new directory for the demo, found files in {0}; remove it \
                 (rm -r {0}) or name another",
                dir.display()
            )));
        }
        std::fs::create_dir_all(dir)
            .map_err(|e| Failure::io(&format!("create {}", dir.display()), &e))?;
        if self.failover {
            return failover::run(dir);
        }
        let [leader_dir, near_dir, far_dir, late_dir, archive_dir] =
            ["leader", "near", "far", "late", "archive"].map(|name| dir.join(name));
        let records = sample()?;
        let (first, second) = records.split_at(records.len() / 2);
        let mut story = Story { started: Instant::now() };

        story.part("A leader takes records")?;
        let log = Log::options()
            .create(true)
            .segment_bytes(SEGMENT_BYTES)
            .durability(Durability::Durable)
            .open(&leader_dir)?;
        let table = Table::options().open(&log)?;
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let node = ServerOptions::default().listen(anywhere).name("leader".into());
        let node = node.bind()?.lead(log, table)?;
        let leader = node.log();
        story.tell(&format!("leader: serves its log at {}", node.url()))?;
        let rate = append(leader, first)?;
        story.tell(&format!(
            "leader: {} of earthquakes appended, each batch of {BATCH} synced to disk: {rate}",
            count(first.len(), "report")
        ))?;

        story.part("Two followers copy its files")?;
        let mut near = Follower::open(Log::options(), &near_dir, Directory::open(&leader_dir)?)?;
        let mut far = Follower::open(Log::options(), &far_dir, over_http(&node)?)?;
        for (name, how, follower) in
            [("near", "from the directory", &mut near), ("far", "over HTTP", &mut far)]
        {
            let caught_up = catch_up(follower)?;
            story.tell(&format!("{name}, {how}: {caught_up}"))?;
        }
        let snapshot = Snapshots::at(near_dir.join("snapshots")).publish(near.table(), true)?;
        story.tell(&format!(
            "near: a snapshot at offset {}, for whoever starts there",
            snapshot.snapshot.position.offset
        ))?;

        story.part("One of them is away for a while")?;
        far.close()?;
        story.tell("far: stopped")?;
        let near = Live::start(near)?;
        let rate = append(leader, second)?;
        let durable = Instant::now();
        near.wait_for(leader.durable_end())?;
        story.tell(&format!("leader: {} more reports: {rate}", second.len()))?;
        story.tell(&format!(
            "near: followed meanwhile, and had the last one {} after the leader did",
            millis(durable)
        ))?;
        let mut far = Follower::open(Log::options(), &far_dir, over_http(&node)?)?;
        let behind = leader.durable_end().0 - far.end().0;
        story.tell(&format!("far: back, {} behind", count(behind, "record")))?;
        let caught_up = catch_up(&mut far)?;
        story.tell(&format!("far: {caught_up}"))?;
        let far_id = far.node();
        let far = Live::start(far)?;

        story.part("A write is read on both")?;
        let written = Instant::now();
        let note = r#"{"mag":0,"place":"the room this demo ran in"}"#;
        let appended = leader.append(&Record::put(b"demo", note.as_bytes()))?;
        story.tell(&format!(
            "leader: one more record, durable after {}, at offset {}",
            millis(written),
            appended.last
        ))?;
        for (name, follower) in [("near", &near), ("far", &far)] {
            follower.wait_for(appended.last.plus(1))?;
            let row = follower.table.get(b"demo")?;
            let found = row.is_some_and(|row| row.value == note.as_bytes());
            hold(found, || format!("{name} does not have the record"))?;
            story.tell(&format!("{name}: reads it {} after the append began", millis(written)))?;
        }

        story.part("An acknowledgement means two disks")?;
        let leads = node.leader().expect("it was told to lead");
        let members = [leader.node(), far_id];
        let set = SyncSet::new(Mode::Sync { k: 1 }, members)?;
        hold(leads.change(&set, PATIENCE)?, || "far did not become a member in time".into())?;
        story.tell("leader: sync(1), far is a member; nothing counts as done on one disk alone")?;
        let began = Instant::now();
        let mut batch = Batch::new();
        batch.push(&Record::put(b"demo", b"on two disks"))?;
        let outcome = leads.append(&batch, &Append::default(), None, PATIENCE, |_| ())?;
        let Acknowledged::Acked { appended, level, copies } = outcome else {
            return Err(Failure::no(format!("the write was not acknowledged: {outcome:?}")));
        };
        let on_two = copies == 2 && matches!(level, Level::Replicated(_));
        hold(on_two, || format!("expected two copies, found {copies} at level {level}"))?;
        story.tell(&format!(
            "leader: offset {} acknowledged as {level} after {}: {copies} copies, both synced",
            appended.last,
            millis(began)
        ))?;
        hold(leads.change(&SyncSet::default(), PATIENCE)?, || "far could not be let go".into())?;
        story.tell("leader: async again")?;
        leader.sync()?;
        for follower in [&near, &far] {
            follower.wait_for(appended.last.plus(1))?;
        }

        story.part("An archive takes the log, and a newcomer starts from it alone")?;
        let store = || open_store(&format!("file://{}", absolute(&archive_dir)?.display()), &[]);
        let from = Directory::open(&leader_dir)?;
        let pushed = Publisher::open(store()?, from, PublishOptions::default())?.push()?;
        story.tell(&format!(
            "archive: {} and {} pushed, {}",
            count(pushed.segments, "sealed segment"),
            count(pushed.tails, "tail"),
            format_bytes(pushed.bytes)
        ))?;
        let mut late = Follower::open(Log::options(), &late_dir, Archive::open(store()?)?)?;
        let caught_up = catch_up(&mut late)?;
        story.tell(&format!("late, from the archive: {caught_up}"))?;
        let late = Live::start(late)?;

        story.part("The same question, asked of each")?;
        let table = Table::from_log(leader)?;
        let tables =
            [("leader", &table), ("near", &near.table), ("far", &far.table), ("late", &late.table)];
        for (name, table) in tables {
            let (key, magnitude, place) = strongest(table)?;
            story.tell(&format!(
                "{name}: the strongest was {key}, magnitude {magnitude}, {place}"
            ))?;
        }
        let (key, ..) = strongest(&table)?;
        let digest = table.digest()?;
        for (name, other) in tables {
            hold(other.digest()? == digest, || format!("the table of {name} differs"))?;
        }
        story.tell(&format!(
            "all four tables hold the same {}: digest {}…",
            count(table.view().len()?, "key"),
            &digest.to_string()[..16]
        ))?;
        for follower in [near, far, late] {
            follower.stop()?;
        }
        node.stop()?;
        let files = same_files(&leader_dir, &[&near_dir, &far_dir, &late_dir])?;
        story.tell(&format!(
            "all four directories hold the same {}, byte for byte",
            count(files, "sealed segment file")
        ))?;
        self.next_steps(&key)
    }

    fn next_steps(&self, key: &str) -> Outcome {
        let dir = self.dir.display();
        // As it was called: `cargo run` does not put it on the path.
        let tidelog = std::env::args().next().unwrap_or_else(|| "tidelog".to_owned());
        let mut out = anstream::stdout().lock();
        writeln!(
            out,
            "\n\x1b[1mGo on from here\x1b[0m
  {tidelog} info {dir}/leader
  {tidelog} segments {dir}/near
  {tidelog} tail {dir}/leader -n 3
  {tidelog} get {dir}/far {key}
  {tidelog} scan {dir}/near --prefix us -n 3 -o csv
  {tidelog} append {dir}/leader {key} revised
  {tidelog} follow {dir}/near --from {dir}/leader --once
  {tidelog} history {dir}/near {key}
  {tidelog} verify {dir}/far
  {tidelog} archive list {dir}/archive
  {tidelog} serve {dir}/leader"
        )?;
        Ok(())
    }
}

/// Prints what happens, with the time since the start.
struct Story {
    started: Instant,
}

impl Story {
    fn part(&mut self, title: &str) -> Outcome {
        writeln!(anstream::stdout(), "\x1b[1m{title}\x1b[0m")?;
        Ok(())
    }

    fn tell(&mut self, text: &str) -> Outcome {
        let seconds = self.started.elapsed().as_secs_f64();
        writeln!(anstream::stdout(), "{seconds:7.3} s  {text}")?;
        Ok(())
    }
}

/// A follower at work in a thread of its own.
struct Live {
    table: Table,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<tidelog::Result<()>>,
}

impl Live {
    fn start(mut follower: Follower) -> Result<Self, Failure> {
        let (table, stop) = (follower.table().clone(), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("tidelog-follow".into())
            .spawn(move || {
                follower.run(&flag, |_| {})?;
                follower.close()
            })
            .map_err(|e| Failure::io("start a thread", &e))?;
        Ok(Live { table, stop, thread })
    }

    /// Waits until every record before `end` is applied.
    fn wait_for(&self, end: Offset) -> Outcome {
        let started = Instant::now();
        while self.table.applied().is_none_or(|applied| applied.offset < end) {
            hold(started.elapsed() < PATIENCE && !self.thread.is_finished(), || {
                format!("a follower did not come to offset {end}")
            })?;
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(outcome) => Ok(outcome?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// The leader's node as a source.
fn over_http(node: &Server) -> tidelog::Result<Http> {
    Ok(Http::open(node.url(), Credentials::default())?.name("far"))
}

fn absolute(path: &Path) -> tidelog::Result<PathBuf> {
    std::path::absolute(path).map_err(|e| tidelog::Error::io("resolve", path, e))
}

/// What the demo says must be so.
fn hold(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(Failure::no(otherwise())) }
}

fn millis(since: Instant) -> String {
    format!("{:.1} ms", since.elapsed().as_secs_f64() * 1e3)
}

fn rate(records: u64, since: Instant) -> String {
    let micros = since.elapsed().as_micros().max(1);
    let rate = u128::from(records) * 1_000_000 / micros;
    format!("{} records/s", grouped(u64::try_from(rate).unwrap_or(u64::MAX)))
}

/// Lets a follower catch up and says what that took.
fn catch_up(follower: &mut Follower) -> Result<String, Failure> {
    let started = Instant::now();
    let progress = follower.catch_up()?;
    let records = progress.to.0 - progress.from.0;
    Ok(format!(
        "{} ({}) copied, verified, synced, applied: {}; {} behind",
        count(records, "record"),
        format_bytes(progress.bytes),
        rate(records, started),
        count(follower.lag().records, "record")
    ))
}

/// The sample's records.
fn sample() -> Result<Vec<OwnedRecord>, Failure> {
    let input = std::io::BufReader::new(flate2::read::GzDecoder::new(SAMPLE));
    let fields = Fields {
        key: Some("id".into()),
        ts: Some("updated".into()),
        ts_format: TimeFormat::Millis,
        ..Fields::default()
    };
    let mut reader = Reader::new(input, Format::Ndjson(fields));
    let mut records = Vec::new();
    loop {
        match reader.next().map_err(|e| Failure::io("read the sample", &e))? {
            Next::Record => records.push(reader.record().clone()),
            Next::Bad(bad) => {
                return Err(Failure::no(format!("the sample's line {}: {}", bad.line, bad.why)));
            }
            Next::End => return Ok(records),
        }
    }
}

/// Appends records in batches that are waited for one by one, and tells the directory's readers.
fn append(log: &Log, records: &[OwnedRecord]) -> Result<String, Failure> {
    let started = Instant::now();
    let mut batch = Batch::new();
    for chunk in records.chunks(BATCH) {
        batch.clear();
        for record in chunk {
            batch.push(&record.as_record())?;
        }
        log.append_batch(&batch)?;
    }
    let rate = rate(records.len() as u64, started);
    log.sync()?;
    Ok(rate)
}

/// Key, magnitude and place of the row with the highest magnitude.
fn strongest(table: &Table) -> Result<(String, f64, String), Failure> {
    let mut best = (String::new(), f64::MIN, String::new());
    let mut rows = table.view().scan(&tidelog::table::Scan::all())?;
    while let Some(row) = rows.next()? {
        let value: serde_json::Value = serde_json::from_slice(row.value).unwrap_or_default();
        let magnitude = value["mag"].as_f64().unwrap_or(f64::MIN);
        if magnitude > best.1 {
            let place = value["place"].as_str().unwrap_or("somewhere").to_owned();
            best = (String::from_utf8_lossy(row.key).into_owned(), magnitude, place);
        }
    }
    Ok(best)
}

/// How many sealed segment files the copies share with the leader; all of them, or an error.
fn same_files(leader: &Path, copies: &[&Path]) -> Result<usize, Failure> {
    let log = Log::options().read_only(true).open(leader)?;
    let mut same = 0;
    for segment in log.segments().iter().filter(|segment| segment.sealed) {
        let name = segment.path.file_name().unwrap_or_default();
        let read = |path: &Path| {
            std::fs::read(path).map_err(|e| Failure::io(&format!("read {}", path.display()), &e))
        };
        let bytes = read(&segment.path)?;
        for copy in copies {
            if read(&copy.join("segments").join(name))? != bytes {
                return Err(Failure::no(format!(
                    "{} differs in {}",
                    name.display(),
                    copy.display()
                )));
            }
        }
        same += 1;
    }
    Ok(same)
}
