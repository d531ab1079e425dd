//! `/v1/table`, `/v1/count`, `/v1/hash`, `/v1/wait`: the table's rows, as fresh as a token asks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, Uri};
use serde_json::json;

use crate::error::{Error, Kind};
use crate::log::{Entry, Log};
use crate::position::{Offset, Token};
use crate::record::Record;
use crate::table::{RowRef, Scan, Table, View};
use crate::text::write_envelope;

use super::node::{Node, Work};
use super::query::{DEFAULT_TIMEOUT, Query, percent_decode};
use super::reply::{self, Answer, Refusal};
use super::stream::{Out, stream};

const DEFAULT_ROWS: u64 = 1000;
const MOST_ROWS: u64 = 1_000_000;
/// A table of an earlier moment is made in memory, of no more log than this.
const MOST_REBUILT_BYTES: u64 = 256 << 20;
/// Whoever waits for an epoch that this node has not met yet looks again after this long.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A view that shows what the request's token stands for, or a later state.
async fn view(node: &Arc<Node>, query: &Query, uri: &Uri) -> Result<View, Refusal> {
    let timeout = query.duration("timeout")?.unwrap_or(DEFAULT_TIMEOUT);
    if let Some(text) = query.text("at_least")? {
        reach(node, text, timeout).await?;
    }
    // Before the view is taken: it shows what is known now, or more.
    node.check_fresh(query, uri, timeout).await?;
    Ok(node.table.view())
}

/// Waits until the table shows what a token stands for.
async fn reach(node: &Node, text: &str, timeout: Duration) -> Result<(), Refusal> {
    let token = token(text)?;
    let end = Offset(token.offset.0.saturating_add(1));
    let deadline = Instant::now() + timeout;
    in_history(node, &token, deadline).await?;
    let applied = node.wait_applied(end, deadline - Instant::now()).await;
    // What came meanwhile may be another record at that offset.
    in_history(node, &token, deadline).await?;
    if applied { Ok(()) } else { Err(timed_out(node, token.offset, timeout)) }
}

/// Whether a token's record is of this node's history, as soon as the node has met the token's epoch.
async fn in_history(node: &Node, token: &Token, deadline: Instant) -> Result<(), Refusal> {
    loop {
        match node.log.check_token(token) {
            Err(e) if e.kind() == Kind::Stale && Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(e) if e.kind() == Kind::Stale => return Err(late(e.message().to_owned())),
            checked => return checked.map_err(Refusal::from),
        }
    }
}

/// Waits until the log shows what a token stands for.
pub(super) async fn held(node: &Node, text: &str, timeout: Duration) -> Result<(), Refusal> {
    let token = token(text)?;
    let deadline = Instant::now() + timeout;
    in_history(node, &token, deadline).await?;
    node.wait_ends(|ends| ends.visible.1 > token.offset, deadline - Instant::now()).await;
    in_history(node, &token, deadline).await?;
    let end = node.home.visible().1;
    if end > token.offset {
        return Ok(());
    }
    Err(late(format!(
        "expected offset {} to be shown within {timeout:?}, found {end}",
        token.offset
    )))
}

fn token(text: &str) -> Result<Token, Refusal> {
    text.parse().map_err(|()| {
        Refusal::bad(format!("expected a token as appends and reads return it, found {text:?}"))
    })
}

fn timed_out(node: &Node, offset: Offset, timeout: Duration) -> Refusal {
    let applied = node.applied.borrow().0;
    late(format!("expected offset {offset} to be applied within {timeout:?}, found {applied}"))
        .with("applied", applied)
}

fn late(message: String) -> Refusal {
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, "timed_out", message)
        .help("ask again, or ask the leader")
}

/// `GET /v1/table/{key}`.
pub(super) async fn get(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let query = Query::read(uri.query(), &["at_least", "timeout", "max_staleness", "consistency"])?;
    let path = uri.path().strip_prefix("/v1/table/").unwrap_or_default();
    let key = percent_decode(path, false)?;
    let view = view(&node, &query, &uri).await?;
    let log = Arc::clone(&node.log);
    let applied = applied(&view);
    let found = node
        .blocking(Work::Read, move || {
            let row = view.get(&key)?;
            Ok::<_, Error>(row.map(|row| envelope(&log, &row.as_ref(&key))))
        })
        .await??;
    let token = node.token(applied).map(|token| token.to_string()).unwrap_or_default();
    let Some(mut body) = found else {
        let refusal = Refusal::new(StatusCode::NOT_FOUND, Kind::NotFound.word(), "no such key");
        return Err(refusal.header(reply::TOKEN, token));
    };
    body.push(b'\n');
    let mut response = reply::bytes(StatusCode::OK, "application/json", body);
    shown(&mut response, applied, &token);
    Ok(response)
}

/// `GET /v1/table`.
pub(super) async fn scan(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let known = [
        "prefix",
        "start",
        "end",
        "limit",
        "reverse",
        "at_least",
        "timeout",
        "max_staleness",
        "consistency",
    ];
    let query = Query::read(uri.query(), &known)?;
    let mut scan = Scan::all();
    if let Some(prefix) = query.bytes("prefix") {
        scan = scan.prefix(prefix);
    }
    if let Some(start) = query.bytes("start") {
        scan = scan.start(start);
    }
    if let Some(end) = query.bytes("end") {
        scan = scan.end(end);
    }
    scan = scan.reverse(query.flag("reverse")?);
    let limit = query.number("limit")?.unwrap_or(DEFAULT_ROWS).min(MOST_ROWS);
    scan = scan.limit(usize::try_from(limit).unwrap_or(usize::MAX));
    let view = view(&node, &query, &uri).await?;
    let applied = applied(&view);
    let log = Arc::clone(&node.log);
    let work = move |out: &mut Out| {
        let mut rows = view.scan(&scan)?;
        while let Some(row) = rows.next()? {
            out.buffer().extend_from_slice(&envelope(&log, &row));
            out.buffer().push(b'\n');
            out.flush_if_full()?;
        }
        Ok(())
    };
    let mut response = stream(&node, "application/x-ndjson", work).await?;
    let token = node.token(applied).map(|token| token.to_string()).unwrap_or_default();
    shown(&mut response, applied, &token);
    Ok(response)
}

/// `GET /v1/count`.
pub(super) async fn count(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let query = Query::read(uri.query(), &["at_least", "timeout", "max_staleness", "consistency"])?;
    let view = view(&node, &query, &uri).await?;
    let applied = applied(&view);
    let count = node.blocking(Work::Read, move || view.len()).await??;
    Ok(reply::json(StatusCode::OK, &json!({ "count": count, "applied": applied.0 })))
}

/// `GET /v1/hash`: what tells two tables apart, now or at an offset.
pub(super) async fn hash(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let query =
        Query::read(uri.query(), &["at", "at_least", "timeout", "max_staleness", "consistency"])?;
    let at = query.number("at")?.map(Offset);
    let view = view(&node, &query, &uri).await?;
    let log = Arc::clone(&node.log);
    let kind = if at.is_some() { Work::Rebuild } else { Work::Read };
    let digest = node.blocking(kind, move || {
        let view = match at.filter(|at| *at != applied(&view)) {
            None => view,
            Some(at) => rebuilt(&log, at)?,
        };
        Ok::<_, Error>(json!({
            "offset": applied(&view).0,
            "epoch": view.applied().map(|position| position.epoch.number),
            "rows": view.len()?,
            "digest": view.digest()?.to_string(),
        }))
    });
    Ok(reply::json(StatusCode::OK, &digest.await??))
}

/// The table as it was at `end`, made in memory out of the log.
fn rebuilt(log: &Log, end: Offset) -> crate::error::Result<View> {
    let there = log.durable_end();
    if end > there {
        return Err(Error::new(
            Kind::NotFound,
            format!("expected the log to reach offset {end}, found that it ends at {there}"),
        )
        .help("ask for an earlier offset, or wait for it: `/v1/wait?offset=`"));
    }
    let segments = log.segments();
    let behind = segments.iter().find(|segment| segment.base_offset >= end);
    let log_end = log.durable_position().log_byte;
    let start = segments.first().map_or(log_end, |first| first.base);
    let bytes = behind.map_or(log_end, |segment| segment.base).0.saturating_sub(start.0);
    if bytes > MOST_REBUILT_BYTES {
        return Err(Error::new(
            Kind::InvalidInput,
            format!(
                "expected at most {MOST_REBUILT_BYTES} bytes of log to make a table of, found {bytes}"
            ),
        )
        .help("hash a copy's directory, or the table as it is now"));
    }
    let table = Table::new();
    table.catch_up_to(log, end)?;
    Ok(table.view())
}

/// `GET /v1/wait`: 200 when a record is applied here.
pub(super) async fn wait(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let query = Query::read(uri.query(), &["offset", "token", "timeout"])?;
    let timeout = query.duration("timeout")?.unwrap_or(DEFAULT_TIMEOUT);
    match (query.number("offset")?, query.text("token")?) {
        (Some(offset), None) => {
            let end = Offset(offset.saturating_add(1));
            if !node.wait_applied(end, timeout).await {
                return Err(timed_out(&node, Offset(offset), timeout));
            }
        }
        (None, Some(token)) => reach(&node, token, timeout).await?,
        _ => return Err(Refusal::bad("expected either offset or token")),
    }
    let applied = *node.applied.borrow();
    Ok(reply::json(StatusCode::OK, &json!({ "applied": applied.0 })))
}

fn applied(view: &View) -> Offset {
    view.applied().map_or(Offset(0), |position| position.offset)
}

fn shown(response: &mut axum::http::Response<axum::body::Body>, applied: Offset, token: &str) {
    reply::set(response, HeaderName::from_static("x-tidelog-applied"), &applied.to_string());
    if !token.is_empty() {
        reply::set(response, reply::TOKEN, token);
    }
}

/// A row as the record it came from.
fn envelope(log: &Log, row: &RowRef<'_>) -> Vec<u8> {
    let entry = Entry {
        offset: row.offset,
        epoch: log.epoch_at(row.offset),
        timestamp: row.timestamp,
        record: Record::put(row.key, row.value).at(row.timestamp),
    };
    let mut line = Vec::with_capacity(128 + row.value.len());
    write_envelope(&entry, &mut line);
    line
}
