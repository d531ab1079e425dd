//! `status`, `check`, `wait`: how nodes are, for people, monitors and scripts.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};
use tidelog::ship::{Client, Directory, Report, Source};
use tidelog::{Id, Kind, Log, Offset, Position, Token};

use crate::exit::{Failure, Outcome};
use crate::origin::{At, OriginArgs};
use crate::output::{self, Format, say};
use crate::progress;
use crate::source;
use crate::watch;

/// How often `--watch` looks when it is not on a terminal.
const WATCH: Duration = Duration::from_secs(1);
/// A node is asked to wait so long at a time.
const STEP: Duration = Duration::from_secs(2);

/// Print each node: role, state, epoch, how far it is and how far behind
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog status mylog
  tidelog status http://127.0.0.1:7400 --watch

`loss_records` is what a failover now would lose, as far as the node that is asked knows, \
`recovery_seconds` how long one takes with its coordinator. A directory shows itself and whoever it knows to pull from it, by their slots and by what followers of the \
directory left in followers/; a node shows everyone who pulls from it, and those that have a slot and have not come back \
(away).")]
pub(crate) struct Status {
    #[command(flatten)]
    at: OriginArgs,
    /// Look again every second, until q or Ctrl-C: a screen on a terminal, otherwise (or with -o) line
    /// after line
    #[arg(long)]
    watch: bool,
    /// How to print: a table on a terminal, NDJSON when piped
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

/// Exit 1 when a node is further behind than allowed
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog check mylog --max-lag 10s,1000
  tidelog check http://127.0.0.1:7400 --max-lag 10s

A node answers for itself and for everyone who pulls from it; a copy's directory is held against the \
directory it was copied from.")]
pub(crate) struct Check {
    #[command(flatten)]
    at: OriginArgs,
    /// The most that is allowed: a duration, a number of records, or both
    #[arg(long, value_name = "LAG", default_value = "10s", value_parser = MaxLag::parse)]
    max_lag: MaxLag,
}

/// Wait until a record is there; exit 1 when it is not in time
#[derive(Args)]
#[command(after_help = "Examples:
  tidelog wait mylog --offset 1
  tidelog wait http://127.0.0.1:7401 --token TOKEN --timeout 30s

A node has the record when its table does.", group = clap::ArgGroup::new("until").required(true))]
pub(crate) struct Wait {
    #[command(flatten)]
    at: OriginArgs,
    /// Until the record at this offset is there
    #[arg(long, value_name = "OFFSET", group = "until")]
    offset: Option<u64>,
    /// Until the write that this token stands for is there; appends print tokens
    #[arg(long = "token", id = "until_token", value_name = "TOKEN", group = "until", value_parser = token)]
    until: Option<Token>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = tidelog::text::parse_duration)]
    timeout: Duration,
}

fn token(text: &str) -> Result<Token, String> {
    text.parse().map_err(|()| "expected a token as `tidelog append` prints it".to_owned())
}

/// A lag that is allowed.
#[derive(Clone, Copy, Debug, Default)]
struct MaxLag {
    seconds: Option<Duration>,
    records: Option<u64>,
}

impl MaxLag {
    fn parse(text: &str) -> Result<Self, String> {
        let mut most = MaxLag::default();
        for part in text.split(',').map(str::trim) {
            if let Ok(records) = part.parse() {
                most.records = Some(records);
            } else if let Ok(duration) = tidelog::text::parse_duration(part) {
                most.seconds = Some(duration);
            } else {
                return Err(format!(
                    "expected a lag such as 10s, 1000 or 10s,1000, found {text:?}"
                ));
            }
        }
        Ok(most)
    }

    /// What of a node's row is over it, in words.
    fn over(self, row: &Map<String, Value>) -> Option<String> {
        let seconds = row.get("lag_seconds").and_then(Value::as_f64).unwrap_or(0.0);
        let records = row.get("lag_records").and_then(Value::as_u64).unwrap_or(0);
        if let Some(most) = self.seconds
            && seconds > most.as_secs_f64()
        {
            return Some(format!("{seconds} s behind, at most {most:?} allowed"));
        }
        let most = self.records.filter(|most| records > *most)?;
        Some(format!("{} behind, at most {most} allowed", output::count(records, "record")))
    }
}

/// The columns of a node, in their order.
const COLUMNS: [&str; 22] = [
    "name",
    "role",
    "state",
    "epoch",
    "received",
    "durable",
    "committed",
    "applied",
    "lag_records",
    "lag_bytes",
    "lag_seconds",
    "last_contact_seconds",
    "node",
    "address",
    "mode",
    "slot",
    "slot_bytes_left",
    "staleness_seconds",
    "pause_at",
    "source",
    "loss_records",
    "recovery_seconds",
];

/// What was found: a row per node.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) rows: Vec<Map<String, Value>>,
    /// What a leader says of its archive; what could not be read.
    pub(crate) remarks: Vec<String>,
    /// By the clock of who was asked.
    pub(crate) time: String,
    /// When, and what; oldest first.
    pub(crate) events: Vec<(String, String)>,
}

impl Found {
    /// Reads what a node says of itself; `None` when that is something else.
    pub(crate) fn read(status: &Value) -> Option<Self> {
        let nodes = status.get("nodes")?.as_array()?;
        // What a failover would lose and take is told of the node that was asked, not of each.
        let failover = |node: &Value| match node.get("node") == status.get("node") {
            true => status.get("failover").cloned().unwrap_or(Value::Null),
            false => Value::Null,
        };
        let row = |node: &Value| {
            let failover = failover(node);
            let pick = |name: &&str| {
                let value = node.get(*name).or_else(|| failover.get(*name));
                ((*name).to_owned(), value.cloned().unwrap_or(Value::Null))
            };
            COLUMNS.iter().map(pick).collect()
        };
        let text = |of: &Value, name: &str| {
            of.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let events = status.get("events").and_then(Value::as_array);
        let events = events.into_iter().flatten();
        Some(Found {
            rows: nodes.iter().map(row).collect(),
            remarks: status.get("archive").map(archive).into_iter().collect(),
            time: text(status, "time"),
            events: events.map(|event| (text(event, "time"), text(event, "what"))).collect(),
        })
    }
}

fn look(at: &OriginArgs) -> Result<Found, Failure> {
    let client = match at.at()? {
        At::Directory(dir) => {
            let time = jiff::Timestamp::now().to_string();
            let log = Log::options().read_only(true).open(dir)?;
            let mut found = Found { time, ..Found::default() };
            found.rows.push(directory(dir, &log)?);
            known(dir, &log, &mut found)?;
            return Ok(found);
        }
        At::Node(client) => client,
    };
    let status: Value = client.get("/v1/status", &[], Duration::ZERO)?.ok()?.json()?;
    let wrong = || {
        Failure::from(tidelog::Error::new(
            Kind::Io,
            format!(
                "expected the status of a tidelog node from {}, found something else",
                client.url()
            ),
        ))
    };
    Found::read(&status).ok_or_else(wrong)
}

/// An archive in a line: its place and state, where it ends, what it lacks.
fn archive(archive: &Value) -> String {
    let text = |name: &str| archive.get(name).and_then(Value::as_str).unwrap_or("?");
    let number = |name: &str| archive.get(name).map_or("?".to_owned(), Value::to_string);
    let mut line = format!("archive {} is {}", text("place"), text("state"));
    if archive.get("archived").is_some_and(Value::is_u64) {
        line += &format!(
            ": it holds everything before offset {}, lacks {} records, {} bytes, {} s",
            number("archived"),
            number("lag_records"),
            number("lag_bytes"),
            number("lag_seconds"),
        );
    }
    line += &format!("; {} requests", number("requests"));
    if let Some(trouble) = archive.get("trouble").and_then(Value::as_str) {
        line += &format!("; {trouble}");
    }
    line
}

/// What a directory says of itself, and of the directory that it was copied from.
fn directory(dir: &Path, log: &Log) -> Result<Map<String, Value>, Failure> {
    let stats = log.stats();
    let follows = log.follows();
    let applied = dir.join("table").is_dir().then(|| {
        let table = tidelog::Table::options().open_at_checkpoint(log).ok()?;
        table.applied().map(|position| position.offset.0)
    });
    let confirmed = log.confirmed_end();
    let (mut records, mut bytes) = (0, 0);
    let mut state = if follows.is_some() { "copy" } else { "log" };
    let mut seconds = Value::from(0.0);
    if let Some(source) = &follows {
        // A node that was pulled from over HTTP is asked for its own status.
        match Directory::open(source).and_then(|mut source| source.look(&Report::default())) {
            Ok(offer) if offer.log == log.id() => {
                records = offer.durable_offset.0.saturating_sub(confirmed.0);
                bytes = offer.durable.0.saturating_sub(stats.log_byte.0);
                if records > 0 {
                    let log = Log::options().read_only(true).open(source).ok();
                    seconds = json!(log.and_then(|log| behind(&log, confirmed)).unwrap_or(0.0));
                }
            }
            _ => {
                state = "source unknown";
                seconds = Value::Null;
            }
        }
    }
    let row = json!({
        "name": source::name(None, dir),
        "role": if follows.is_some() { "follower" } else { "leader" },
        "state": state,
        "epoch": stats.epoch.number,
        "received": stats.written.0,
        "durable": confirmed.0,
        "committed": log.end().0,
        "applied": applied.flatten(),
        "lag_records": records,
        "lag_bytes": bytes,
        "lag_seconds": seconds,
        "last_contact_seconds": null,
        "node": stats.node.to_string(),
        "address": null,
        "mode": null,
        "slot": null,
        "slot_bytes_left": null,
        "staleness_seconds": null,
        "pause_at": null,
        "source": follows,
        "loss_records": null,
        "recovery_seconds": null,
    });
    match row {
        Value::Object(row) => Ok(row),
        _ => unreachable!("an object was made"),
    }
}

/// Those who are known to pull from a directory, by their slots and by what they left there. Whether
/// they run is not known here.
fn known(dir: &Path, log: &Log, found: &mut Found) -> Outcome {
    let now = jiff::Timestamp::now().as_nanosecond();
    let (end, end_byte) = (log.confirmed_end().0, log.stats().log_byte.0);
    let row = |name: &str, node: Id, at: Position, seen: i64| {
        let ago = u64::try_from(now - i128::from(seen)).unwrap_or(0);
        let lag = end.saturating_sub(at.offset.0);
        let mut row: Map<String, Value> =
            COLUMNS.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
        let mut set = |name: &str, value: Value| row.insert(name.to_owned(), value);
        set("name", name.into());
        set("role", "follower".into());
        set("state", "known".into());
        set("epoch", at.epoch.number.into());
        set("durable", at.offset.0.into());
        set("lag_records", lag.into());
        set("lag_bytes", end_byte.saturating_sub(at.log_byte.0).into());
        let seconds = if lag == 0 { Some(0.0) } else { behind(log, at.offset) };
        set("lag_seconds", json!(seconds));
        set("last_contact_seconds", json!(progress::rounded(Duration::from_nanos(ago))));
        set("node", node.to_string().into());
        row
    };
    let mut rows = BTreeMap::new();
    let slots = log.slots().unwrap_or_else(|e| {
        found.remarks.push(format!("the slots are not shown: {e}"));
        Vec::new()
    });
    for slot in slots {
        let claim = &slot.claim;
        let mut row = row(&claim.name, claim.node, claim.position, slot.seen);
        row.insert("slot".into(), slot.state.word().into());
        row.insert("slot_bytes_left".into(), json!(slot.bytes_left));
        rows.insert(claim.node, (slot.seen, row));
    }
    for notice in Directory::open(dir)?.notices()? {
        // Whichever is newer: a follower may have changed from one way to the other.
        if rows.get(&notice.node).is_some_and(|(seen, _)| *seen > notice.time) {
            continue;
        }
        let mut row = row(&notice.name, notice.node, notice.durable, notice.time);
        row.insert("received".into(), notice.received.0.into());
        row.insert("applied".into(), notice.applied.0.into());
        rows.insert(notice.node, (notice.time, row));
    }
    found.rows.extend(rows.into_values().map(|(_, row)| row));
    Ok(())
}

/// How old the first record is that a copy lacks.
fn behind(log: &Log, at: Offset) -> Option<f64> {
    let since = log.get(at).ok()??.timestamp;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    let since = Duration::from_nanos(u64::try_from(since).ok()?);
    Some(progress::rounded(now.saturating_sub(since)))
}

impl Status {
    pub(crate) fn run(self) -> Outcome {
        let config = self.at.config()?;
        if self.watch && self.output.is_none() && std::io::stdout().is_terminal() {
            let at = self.at;
            return watch::run(at.to_string(), move || look(&at));
        }
        let format = config.format(self.output)?;
        loop {
            match look(&self.at) {
                Ok(Found { rows, remarks, .. }) => {
                    output::print_rows(format, &rows)?;
                    remarks.iter().for_each(say);
                }
                // Who watches wants to see it come back.
                Err(failure) if self.watch => {
                    say(failure.message.as_deref().unwrap_or("no answer"));
                }
                Err(failure) => return Err(failure),
            }
            if !self.watch {
                return Ok(());
            }
            let again = Instant::now() + WATCH;
            while Instant::now() < again {
                if progress::interrupted() {
                    return Err(Failure::interrupted());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Check {
    pub(crate) fn run(self) -> Outcome {
        let mut over = Vec::new();
        let mut rows = look(&self.at)?.rows;
        if matches!(self.at.at()?, At::Directory(_)) {
            // What others left there says how they were, not how they are.
            rows.truncate(1);
        }
        for row in rows {
            let name = row.get("name").and_then(Value::as_str).unwrap_or_default();
            let unknown = row.get("state").and_then(Value::as_str) == Some("source unknown");
            let why = match unknown {
                true => Some("its source cannot be read from here; check the node instead".into()),
                false => self.max_lag.over(&row),
            };
            over.extend(why.map(|why| format!("{name}: {why}")));
            output::line(Value::Object(row))?;
        }
        if over.is_empty() { Ok(()) } else { Err(Failure::no(over.join("; "))) }
    }
}

impl Wait {
    pub(crate) fn run(self) -> Outcome {
        // A time too far away to be told is a year.
        let most = self.timeout.min(Duration::from_secs(365 * 24 * 3600));
        let deadline = Instant::now() + most;
        match self.at.at()? {
            At::Node(client) => self.node(&client, deadline),
            At::Directory(dir) => self.directory(dir, deadline),
        }
    }

    fn timed_out(&self) -> Failure {
        let offset = self.until.map_or(self.offset.unwrap_or(0), |token| token.offset.0);
        Failure::no(format!("timed out: expected offset {offset} within {:?}", self.timeout))
    }

    fn node(&self, client: &Client, deadline: Instant) -> Outcome {
        let what = match &self.until {
            Some(token) => format!("token={token}"),
            None => format!("offset={}", self.offset.unwrap_or(0)),
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(STEP);
            let path = format!("/v1/wait?{what}&timeout={}ms", left.as_millis());
            let reply = client.get(&path, &[], left)?;
            if reply.status == 504 {
                if progress::interrupted() {
                    return Err(Failure::interrupted());
                }
                if Instant::now() >= deadline {
                    return Err(self.timed_out());
                }
                continue;
            }
            let body: Value = reply.ok()?.json()?;
            return output::line(body);
        }
    }

    fn directory(&self, dir: &Path, deadline: Instant) -> Outcome {
        let log = Log::options().read_only(true).open(dir)?;
        let offset = Offset(self.until.map_or(self.offset.unwrap_or(0), |token| token.offset.0));
        loop {
            let here = match self.until.as_ref().map_or(Ok(()), |token| log.check_token(token)) {
                // What stands there is another history's: the token's is still to come.
                Err(e) if e.kind() == Kind::Stale => false,
                checked => checked.map(|()| true)?,
            };
            let end = log.end();
            if here && end > offset {
                return output::line(json!({ "applied": end.0 }));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.timed_out());
            }
            if progress::interrupted() {
                return Err(Failure::interrupted());
            }
            match log.tail(end)?.wait_timeout(left.min(Duration::from_millis(500))) {
                Err(e) if e.kind() == Kind::Lost => {}
                more => drop(more?),
            }
        }
    }
}
