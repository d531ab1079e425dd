//! `/v1/snapshots`: snapshots of the table, for followers that begin with one.
//!
//! What was published beside the log, and what is lent: a checkpoint that is made when somebody asks for
//! one. Its files stay open as long as it is asked for, so merges may go on. Invariants:
//! - at most [`MOST`] are lent at a time, and one that nobody asks for ends after [`REST`];
//! - one is made at most every [`YOUNG`], however many ask;
//! - names and lengths come from what is open here, never from who asks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};
use crate::log::files::Layout;
use crate::ship::shelf::Book;
use crate::table::{OpenSnapshot, RunId, SnapshotName, Snapshots};

use super::node::{Node, Work};
use super::query::Query;
use super::reply::{self, Answer, Refusal};
use super::ship::lend;

/// Lent at a time.
const MOST: usize = 4;
/// What was made so recently is lent to others, too.
const YOUNG: Duration = Duration::from_secs(60);
/// What nobody has asked for so long is closed.
const REST: Duration = Duration::from_secs(600);

/// What is lent.
#[derive(Debug, Default)]
pub(super) struct Lending(Mutex<Vec<Lent>>);

#[derive(Debug)]
struct Lent {
    snapshot: Arc<OpenSnapshot>,
    /// When it was made; `None` of one that was published.
    made: Option<Instant>,
    used: Instant,
}

impl Lending {
    fn with<T>(&self, work: impl FnOnce(&mut Vec<Lent>) -> T) -> T {
        let mut lent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lent.retain(|one| one.used.elapsed() < REST);
        work(&mut lent)
    }

    fn find(&self, name: SnapshotName) -> Option<Arc<OpenSnapshot>> {
        self.with(|lent| {
            let one = lent.iter_mut().find(|one| one.snapshot.name() == name)?;
            one.used = Instant::now();
            Some(Arc::clone(&one.snapshot))
        })
    }

    fn add(&self, snapshot: OpenSnapshot, made: Option<Instant>) -> Arc<OpenSnapshot> {
        let snapshot = Arc::new(snapshot);
        self.with(|lent| {
            lent.retain(|one| one.snapshot.name() != snapshot.name());
            if lent.len() == MOST {
                // The longest unused; who still reads it begins with another.
                let oldest = lent.iter().enumerate().min_by_key(|(_, one)| one.used);
                let oldest = oldest.map_or(0, |(i, _)| i);
                lent.remove(oldest);
            }
            let snapshot = Arc::clone(&snapshot);
            lent.push(Lent { snapshot, made, used: Instant::now() });
        });
        snapshot
    }

    /// Makes one of the table as it is now, unless there is a young one, or nothing to make it of, or it would
    /// have more than about `within` bytes: whoever asks has no use for that, and it costs the disk that
    /// appends are synced to.
    fn freshen(&self, node: &Node, within: u64) -> Result<()> {
        if about_bytes(node) > within {
            return Ok(());
        }
        let start = node.log.start();
        // What retention has passed is of no use to those who go on from there.
        let young = |one: &Lent| {
            one.made.is_some_and(|made| made.elapsed() < YOUNG)
                && one.snapshot.position().offset >= start
        };
        if self.with(|lent| lent.iter().any(young)) {
            return Ok(());
        }
        let made = match OpenSnapshot::take(&node.table, false) {
            Ok(snapshot) => Some(snapshot),
            // An empty table, or one that another process keeps.
            Err(e) if e.kind() == Kind::InvalidInput => {
                OpenSnapshot::newest(&**node.home.fs(), &Layout::new(&node.home.dir()))?
            }
            Err(e) => return Err(e),
        };
        if let Some(snapshot) = made {
            self.add(snapshot, Some(Instant::now()));
        }
        Ok(())
    }

    fn list(&self) -> Vec<Value> {
        self.with(|lent| {
            let told = |one: &Lent| {
                let at = one.snapshot.position();
                describe(&one.snapshot.name(), at, one.snapshot.log(), one.snapshot.bytes())
            };
            lent.iter().filter(|one| one.made.is_some()).map(told).collect()
        })
    }
}

fn describe(
    name: &SnapshotName,
    at: crate::position::Position,
    log: crate::position::Id,
    bytes: u64,
) -> Value {
    json!({
        "name": name.to_string(),
        "log": log.to_string(),
        "offset": at.offset.0,
        "epoch": at.epoch.number,
        "log_byte": at.log_byte.0,
        "bytes": bytes,
    })
}

fn published(node: &Node) -> Snapshots {
    Snapshots::at_on(Arc::clone(node.home.fs()), &node.home.dir().join("snapshots"))
}

/// About how many bytes a snapshot has at least: the rows of the table's largest layer, each as long as a
/// record of the log.
fn about_bytes(node: &Node) -> u64 {
    let Some(first) = node.home.segments().first().map(|first| first.header) else { return 0 };
    let (end, offset) = node.home.durable();
    let records = offset.0.saturating_sub(first.base_offset.0).max(1);
    let each = end.0.saturating_sub(first.base.0) / records;
    node.table.view().rows_of_largest().saturating_mul(each)
}

/// `GET /v1/snapshots`: which there are, oldest first; with `fresh`, one of now among them, but if that is
/// sure to have more than about `within` bytes.
pub(super) async fn list(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let query = Query::read(uri.query(), &["fresh", "within"])?;
    let (fresh, within) = (query.flag("fresh")?, query.number("within")?.unwrap_or(u64::MAX));
    let work = if fresh { Work::Rebuild } else { Work::Read };
    let worker = Arc::clone(&node);
    let listed = node.blocking(work, move || -> Result<Vec<Value>> {
        if fresh {
            worker.lending.freshen(&worker, within)?;
        }
        let mut listed = worker.lending.list();
        for one in published(&worker).list()? {
            let Ok(name) = one.name.parse::<SnapshotName>() else { continue };
            if listed.iter().all(|there| there["name"] != one.name) {
                listed.push(describe(&name, one.position, one.log, one.bytes));
            }
        }
        listed.sort_by_key(|one| one["offset"].as_u64());
        Ok(listed)
    });
    Ok(reply::json(StatusCode::OK, &json!({ "snapshots": listed.await?? })))
}

/// The snapshot of this name, opened if need be.
async fn find(node: &Arc<Node>, name: &str) -> Result<Arc<OpenSnapshot>, Refusal> {
    let parsed: SnapshotName = name
        .parse()
        .map_err(|()| Refusal::bad(format!("expected a snapshot's name, found {name:?}")))?;
    if let Some(open) = node.lending.find(parsed) {
        return Ok(open);
    }
    let worker = Arc::clone(node);
    let opened = node.blocking(Work::Read, move || -> Result<Arc<OpenSnapshot>> {
        match published(&worker).open(&parsed.to_string())? {
            Some(open) => Ok(worker.lending.add(open, None)),
            None => {
                Err(Error::new(Kind::NotFound, format!("expected snapshot {parsed}, found none"))
                    .help("one that is lent ends when nobody asks for it: ask which there are"))
            }
        }
    });
    Ok(opened.await??)
}

/// `GET /v1/snapshots/{name}`: the manifest.
pub(super) async fn manifest(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    uri: Uri,
) -> Answer {
    Query::read(uri.query(), &[])?;
    let snapshot = find(&node, &name).await?;
    let bytes = snapshot.manifest().to_vec();
    node.metrics.shipped(bytes.len() as u64);
    let mut response = reply::bytes(StatusCode::OK, "text/plain; charset=utf-8", bytes);
    let etag = format!("\"{}\"", blake3::hash(snapshot.manifest()).to_hex());
    reply::set(&mut response, header::ETAG, &etag);
    Ok(response)
}

/// `GET /v1/snapshots/{name}/{run}`: a run, a range of it, or a range packed.
pub(super) async fn run(
    State(node): State<Arc<Node>>,
    Path((name, run)): Path<(String, String)>,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    let query = Query::read(uri.query(), &["from", "bytes", "packed"])?;
    let id: RunId =
        run.parse().map_err(|()| Refusal::bad(format!("expected a run's name, found {run:?}")))?;
    let snapshot = find(&node, &name).await?;
    let Some((file, bytes)) = snapshot.file(id) else {
        let message = format!("expected a run of snapshot {name}, found none named {run}");
        return Err(Refusal::new(StatusCode::NOT_FOUND, Kind::NotFound.word(), message));
    };
    lend(&node, Book { file, bytes, hash: Some(id.0) }, &headers, &query).await
}
