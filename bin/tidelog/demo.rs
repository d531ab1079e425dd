//! `demo`: the whole story on a real sample, in a directory that stays to be explored.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use tidelog::ship::Directory;
use tidelog::text::{Fields, Format, Next, Reader, TimeFormat, format_bytes};
use tidelog::{Batch, Durability, Follower, Log, Offset, Table};

use crate::exit::{Failure, Outcome};

/// A week of earthquakes: US Geological Survey, public domain.
const SAMPLE: &[u8] = include_bytes!("../../tests/data/earthquakes.ndjson.gz");
/// Small segments, so that the sample fills a few.
const SEGMENT_BYTES: u64 = 64 << 10;
const BATCH: usize = 50;

/// Ingest a real sample, follow it twice, survive an outage, query, compare
#[derive(Args)]
#[command(after_help = "Example: tidelog demo ./demo")]
pub struct Demo {
    /// A new directory, which stays
    #[arg(default_value = "demo")]
    dir: PathBuf,
}

struct Story {
    started: Instant,
    step: u32,
}

impl Story {
    fn tell(&mut self, text: &str) -> Outcome {
        self.step += 1;
        let mut out = anstream::stdout().lock();
        writeln!(
            out,
            "{:2}. {:6.0} ms  {text}",
            self.step,
            self.started.elapsed().as_secs_f64() * 1e3
        )?;
        Ok(())
    }
}

impl Demo {
    pub fn run(self) -> Outcome {
        let dir = self.dir.as_path();
        if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::usage(format!(
                "expected a new directory for the demo, found files in {}; remove it or name another",
                dir.display()
            )));
        }
        std::fs::create_dir_all(dir)
            .map_err(|e| Failure::io(&format!("create {}", dir.display()), &e))?;
        let (leader_dir, near_dir, far_dir) =
            (dir.join("leader"), dir.join("near"), dir.join("far"));
        let mut story = Story { started: Instant::now(), step: 0 };

        let records = sample()?;
        let half = records.len() / 2;
        let leader = Log::options()
            .create(true)
            .segment_bytes(SEGMENT_BYTES)
            .durability(Durability::Durable)
            .open(&leader_dir)?;
        let rate = ingest(&leader, &records[..half])?;
        story.tell(&format!(
            "the leader has {half} earthquake reports, every batch of {BATCH} synced: {rate}"
        ))?;

        let mut near = follower(&near_dir, &leader_dir)?;
        let mut far = follower(&far_dir, &leader_dir)?;
        for (name, follower) in [("near", &mut near), ("far", &mut far)] {
            let started = Instant::now();
            let progress = follower.catch_up()?;
            story.tell(&format!(
                "follower {name} pulled {} in {} segments, verified every frame, applied {} records: {:.0} records/s",
                format_bytes(progress.bytes),
                progress.segments + 1,
                progress.to.0 - progress.from.0,
                (progress.to.0 - progress.from.0) as f64 / started.elapsed().as_secs_f64()
            ))?;
        }

        far.close()?;
        story.tell("follower far goes away")?;
        let rate = ingest(&leader, &records[half..])?;
        story.tell(&format!("the leader takes {} more: {rate}", records.len() - half))?;
        near.catch_up()?;
        story.tell(&format!("follower near has them: lag {} records", near.lag().records))?;

        let mut far = follower(&far_dir, &leader_dir)?;
        let behind = leader.durable_end().0 - far.end().0;
        let progress = far.catch_up()?;
        story.tell(&format!(
            "follower far is back, {behind} records behind, and caught up {} records: lag {}",
            progress.to.0 - progress.from.0,
            far.lag().records
        ))?;

        let table = Table::from_log(&leader)?;
        let key = strongest(&leader)?;
        let places = [("leader", &table), ("near", near.table()), ("far", far.table())];
        for (name, table) in places {
            let row = table
                .get(key.as_bytes())
                .ok_or_else(|| Failure::no(format!("{name} does not know {key}")))?;
            let what: serde_json::Value = serde_json::from_slice(&row.value)
                .map_err(|e| Failure::no(format!("{name} holds no JSON: {e}")))?;
            story.tell(&format!(
                "the strongest one, asked of {name}: magnitude {}, {}",
                what["mag"],
                what["place"].as_str().unwrap_or("somewhere")
            ))?;
        }
        let digests: Vec<String> =
            places.iter().map(|(_, table)| table.digest().to_string()).collect();
        let rows = table.len();
        if digests.iter().any(|digest| *digest != digests[0]) {
            return Err(Failure::no(format!("the tables differ: {digests:?}")));
        }
        story.tell(&format!("all three tables hold {rows} keys, digest {}…", &digests[0][..16]))?;
        near.close()?;
        far.close()?;
        leader.close()?;
        let files = same_files(&leader_dir, &[&near_dir, &far_dir])?;
        story.tell(&format!(
            "{files} sealed segment files are the same, byte for byte, on all three"
        ))?;
        self.next_steps(&key)
    }

    fn next_steps(&self, key: &str) -> Outcome {
        let dir = self.dir.display();
        let mut out = anstream::stdout().lock();
        writeln!(
            out,
            "\nExplore {dir}:
  tidelog info {dir}/leader
  tidelog segments {dir}/near
  tidelog tail {dir}/leader -n 3
  tidelog get {dir}/far {key}
  tidelog scan {dir}/near --prefix us -n 3
  tidelog append {dir}/leader {key} revised && tidelog follow {dir}/near --from {dir}/leader --once
  tidelog verify {dir}/leader"
        )?;
        Ok(())
    }
}

fn follower(dir: &Path, leader: &Path) -> Result<Follower, Failure> {
    Ok(Follower::open(Log::options(), dir, Directory::open(leader)?)?)
}

/// The sample's records.
fn sample() -> Result<Vec<tidelog::text::OwnedRecord>, Failure> {
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

fn ingest(log: &Log, records: &[tidelog::text::OwnedRecord]) -> Result<String, Failure> {
    let started = Instant::now();
    let mut batch = Batch::new();
    for chunk in records.chunks(BATCH) {
        batch.clear();
        for record in chunk {
            batch.push(&record.as_record())?;
        }
        log.append_batch(&batch)?;
    }
    // Followers look at what the leader has said to be durable.
    log.sync()?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(format!("{:.0} records/s", records.len() as f64 / seconds))
}

/// The key of the record with the highest magnitude.
fn strongest(log: &Log) -> Result<String, Failure> {
    let mut cursor = log.read(Offset(0))?;
    let mut best = (f64::MIN, String::new());
    while let Some(entry) = cursor.next()? {
        let value: serde_json::Value =
            serde_json::from_slice(entry.record.value).unwrap_or_default();
        let magnitude = value["mag"].as_f64().unwrap_or(f64::MIN);
        if magnitude > best.0 {
            let key = entry.record.key.unwrap_or_default();
            best = (magnitude, String::from_utf8_lossy(key).into_owned());
        }
    }
    Ok(best.1)
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
