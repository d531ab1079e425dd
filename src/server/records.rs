//! `/v1/records`: appending a batch, and reading the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::frame::{MAX_MEMBERS, Producer};
use crate::log::{Append, Appended, Expect};
use crate::position::{Epoch, Id, Offset};
use crate::record::{Batch, MAX_FRAME_BYTES};
use crate::replica::{Leader, Level, Outcome};
use crate::text::{Format, Next, Reader, parse_envelope, write_envelope};

use super::body;
use super::node::{Node, Work};
use super::query::{DEFAULT_TIMEOUT, Query};
use super::reply::{self, Answer, Refusal};
use super::stream::{Out, stream};

/// An envelope may be several times as long as the bytes it holds.
const MOST_BODY_BYTES: usize = 4 * MAX_FRAME_BYTES;
/// How much longer than asked for an answer may take.
const GRACE: Duration = Duration::from_millis(100);
const DEFAULT_RECORDS: u64 = 1000;
const MOST_RECORDS: u64 = 1_000_000;
/// The header that makes a retry safe.
const IDEMPOTENCY: HeaderName = HeaderName::from_static("idempotency-key");
/// The number of a batch among those of one key.
const SEQUENCE: HeaderName = HeaderName::from_static("idempotency-sequence");

/// The log and the newest epoch that a client has seen: `<log>.<number>.<nonce>`.
const SEEN: HeaderName = HeaderName::from_static("x-tidelog-seen");

/// Holds a leader against what its client has seen: another log's, or one that was replaced and does not know
/// it yet, appends nothing for it.
fn seen(node: &Node, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(text) = headers.get(SEEN) else { return Ok(()) };
    let read = || {
        let mut parts = text.to_str().ok()?.split('.');
        let (log, number) = (parts.next()?.parse::<Id>().ok()?, parts.next()?.parse::<u64>().ok()?);
        let nonce = u64::from_str_radix(parts.next()?, 16).ok()?;
        parts.next().is_none().then_some((log, Epoch { number, nonce }))
    };
    let Some((log, epoch)) = read() else {
        return Err(Refusal::bad("expected a log's id and an epoch in X-Tidelog-Seen"));
    };
    let (here, own) = (node.log.id(), node.home.epoch());
    if log != here {
        let message = format!("expected to append to log {log}, found log {here} at this address");
        return Err(Refusal::from(
            Error::new(Kind::WrongLog, message).help("nothing was appended"),
        ));
    }
    if own.number < epoch.number || own.number == epoch.number && own.nonce != epoch.nonce {
        let message =
            format!("expected this node to lead, found that epoch {epoch} does, and this is {own}");
        return Err(Refusal::from(
            Error::new(Kind::Fenced, message)
                .help("nothing was appended; ask the others who leads"),
        )
        .header(header::RETRY_AFTER, "1"));
    }
    Ok(())
}

/// How safe an append is to be before it is answered; `None` for what the mode means.
fn level(
    leader: &Leader,
    text: Option<&str>,
    copies: Option<u64>,
) -> Result<Option<Level>, Refusal> {
    let others = || match copies.map(usize::try_from) {
        None => Ok(leader.copies()),
        Some(Ok(copies)) if (2..=MAX_MEMBERS).contains(&copies) => Ok(copies - 1),
        Some(_) => Err(Refusal::bad(format!(
            "expected 2 to {MAX_MEMBERS} copies, the leader's among them"
        ))),
    };
    let level = match text {
        None => None,
        Some("buffered") => Some(Level::Buffered),
        Some("written") => Some(Level::Written),
        Some("durable") => Some(Level::Durable),
        Some("replicated") => Some(Level::Replicated(others()?)),
        Some("applied") => Some(Level::Applied(others()?)),
        Some("archived") if !leader.has_archive() => {
            return Err(Refusal::new(
                StatusCode::NOT_IMPLEMENTED,
                "not_supported",
                "expected an archive for the level archived, found that this node has none",
            )
            .help(
                "nothing was appended; run the node with one: `tidelog serve DIR --archive URL`",
            ));
        }
        Some("archived") => Some(Level::Archived),
        Some(other) => {
            return Err(Refusal::bad(format!(
                "expected level buffered, written, durable, replicated, applied or archived, \
                 found {other:?}"
            )));
        }
    };
    if copies.is_some() && !matches!(level, Some(Level::Replicated(_) | Level::Applied(_))) {
        return Err(Refusal::bad("expected level replicated or applied beside copies"));
    }
    Ok(level)
}

/// `POST /v1/records`.
pub(super) async fn append(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Answer {
    let query = Query::read(uri.query(), &["level", "timeout", "expect_offset", "copies"])?;
    let timeout = query.duration("timeout")?.unwrap_or(DEFAULT_TIMEOUT);
    let Some(leader) = &node.leader else { return Err(elsewhere(&node, &uri)) };
    seen(&node, &headers)?;
    let level = level(leader, query.text("level")?, query.number("copies")?)?;
    let sequence = headers.get(SEQUENCE).map(|text| sequence(text.as_bytes())).transpose()?;
    let producer = match headers.get(IDEMPOTENCY) {
        Some(key) => Some(producer(key.as_bytes(), sequence.unwrap_or(1))?),
        None if sequence.is_some() => {
            return Err(Refusal::bad("expected an Idempotency-Key beside Idempotency-Sequence"));
        }
        None => None,
    };
    let how = Append {
        durability: None,
        producer,
        expect: query.number("expect_offset")?.map(|offset| Expect::End(Offset(offset))),
    };
    let bytes = body::read(body, MOST_BODY_BYTES).await?;
    let started = Instant::now();
    let (staged, at) = tokio::sync::oneshot::channel();
    let worker = Arc::clone(&node);
    let size = bytes.len() as u64;
    let work = node.blocking(Work::Append, move || -> Result<(Outcome, usize), Refusal> {
        let batch = read_batch(&bytes)?;
        let Some(leader) = &worker.leader else { return Err(stopped()) };
        let left = timeout.saturating_sub(started.elapsed());
        let outcome = leader.append(&batch, &how, level, left, |appended| {
            // From here on the records may survive whatever comes.
            let _ = staged.send(appended);
        })?;
        Ok((outcome, batch.len()))
    });
    // The leader looks at the clock itself; this one is for a disk that does not answer.
    let (outcome, records) = match tokio::time::timeout(timeout + GRACE, work).await {
        Ok(done) => done??,
        Err(_) => {
            return Err(match at.await {
                Ok(appended) => unknown(&node, appended, &format!("it took {timeout:?}")),
                Err(_) => stopped(),
            });
        }
    };
    let (appended, level, copies) = match outcome {
        Outcome::Acked { appended, level, copies } => (appended, level, copies),
        Outcome::Unknown { appended, why } => return Err(unknown(&node, appended, why.message())),
        Outcome::Rejected { why } => {
            // No condition of the request failed, but one of the mode, which passes.
            let mut refusal = Refusal::from(why);
            refusal.0.status = StatusCode::SERVICE_UNAVAILABLE;
            let fenced = node.leader.as_ref().is_some_and(|leader| leader.fenced().is_some());
            if let Some(next) = node.leader_address().filter(|_| fenced) {
                refusal = refusal.with("leader", next);
            }
            return Err(refusal.header(header::RETRY_AFTER, "1"));
        }
    };
    let count = appended.last.0 - appended.first.0 + 1;
    if appended.duplicate && count != records as u64 {
        return Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            Kind::Rejected.word(),
            format!(
                "this Idempotency-Key was used for {count} records at offset {}, found {records}",
                appended.first
            ),
        )
        .help("nothing was appended; use a new key for another batch"));
    }
    let epoch = node.home.epoch();
    node.metrics.appended(started.elapsed(), if appended.duplicate { 0 } else { count }, size);
    Ok(reply::json(
        StatusCode::OK,
        &json!({
            "first_offset": appended.first.0,
            "last_offset": appended.last.0,
            "token": node.log.token(&appended).to_string(),
            "level": level.as_str(),
            "copies": copies,
            "duplicate": appended.duplicate,
            // Of who answers: a retry's token may be of an earlier one.
            "epoch": epoch.number,
            "epoch_nonce": format!("{:016x}", epoch.nonce),
        }),
    ))
}

/// The append was not begun in time.
fn stopped() -> Refusal {
    let message = "expected the append to be begun in time; too many others wait";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Kind::Rejected.word(), message)
        .help("nothing was appended; try again in a moment")
        .header(header::RETRY_AFTER, "1")
}

/// Writes go to the leader.
pub(super) fn elsewhere(node: &Node, uri: &Uri) -> Refusal {
    to_leader(node, uri, "this node follows another; writes go to the leader")
}

/// Sends a request to the leader, as far as this node knows where that is.
pub(super) fn to_leader(node: &Node, uri: &Uri, message: &str) -> Refusal {
    let word = Kind::NotLeader.word();
    let Some(leader) = node.leader_address() else {
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, word, message)
            .help("nobody leads that this node knows the address of; ask again, or ask the others")
            .header(header::RETRY_AFTER, "1");
    };
    let path = uri.path_and_query().map_or("/v1/records", |path| path.as_str());
    Refusal::new(StatusCode::TEMPORARY_REDIRECT, word, message)
        .help(format!("the leader is at {leader}"))
        .with("leader", leader.clone())
        .header(header::LOCATION, format!("{}{path}", leader.trim_end_matches('/')))
}

/// It may yet survive: neither acknowledged nor rejected.
fn unknown(node: &Node, appended: Appended, why: &str) -> Refusal {
    let message = format!("the append has its place, but did not reach its level: {why}");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Kind::Unknown.word(), message)
        .help("it may yet be there: retry with the same Idempotency-Key, or look at the position")
        .with("first_offset", appended.first.0)
        .with("last_offset", appended.last.0)
        .with("token", node.log.token(&appended).to_string())
}

/// A producer for one key: the log remembers what it appended, also in a new epoch.
fn producer(key: &[u8], sequence: u64) -> Result<Producer, Refusal> {
    if key.is_empty() || key.len() > 255 {
        return Err(Refusal::bad("expected an Idempotency-Key of 1 to 255 bytes"));
    }
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::derive_key("tidelog 2026 idempotency key", key)[..16]);
    Ok(Producer { id: Id(id), sequence })
}

fn sequence(text: &[u8]) -> Result<u64, Refusal> {
    let text = std::str::from_utf8(text).ok();
    let number = text.filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    number.and_then(|text| text.parse().ok()).ok_or_else(|| {
        Refusal::bad("expected a number in Idempotency-Sequence, found something else")
    })
}

/// `GET /v1/producer`: how far the appends under a key are, as the leader knows it.
pub(super) async fn producer_of(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let query = Query::read(uri.query(), &["key"])?;
    let key = query.bytes("key").ok_or_else(|| Refusal::bad("expected a key"))?;
    let id = producer(key, 1)?.id;
    let Some(leader) = &node.leader else { return Err(elsewhere(&node, &uri)) };
    if let Some(why) = leader.fenced() {
        return Err(Refusal::from(why).header(header::RETRY_AFTER, "1"));
    }
    let worker = Arc::clone(&node);
    let state = node.blocking(Work::Read, move || worker.log.producer(id)).await?;
    let epoch = node.home.epoch();
    Ok(reply::json(
        StatusCode::OK,
        &json!({
            "sequence": state.map(|state| state.sequence),
            "first_offset": state.map(|state| state.first.0),
            "last_offset": state.map(|state| state.last.0),
            // Whether it is committed: what is not may be lost with its leader.
            "shown": state.map(|state| node.log.end() > state.last),
            "log": node.log.id().to_string(),
            "epoch": epoch.number,
            "epoch_nonce": format!("{:016x}", epoch.nonce),
        }),
    ))
}

/// One envelope, or one a line.
fn read_batch(bytes: &[u8]) -> Result<Batch, Refusal> {
    let mut batch = Batch::new();
    let mut lines = Reader::new(bytes, Format::Envelope);
    loop {
        match lines.next() {
            Ok(Next::Record) => batch.push(&lines.record().as_record())?,
            Ok(Next::End) => break,
            Ok(Next::Bad(bad)) => {
                // One envelope may stand on several lines.
                if let Ok(record) = parse_envelope(bytes) {
                    let mut batch = Batch::new();
                    batch.push(&record.as_record())?;
                    return Ok(batch);
                }
                let refusal = Refusal::bad(format!("line {}: {}", bad.line, bad.why));
                return Err(refusal.with("line", bad.line).help("nothing was appended"));
            }
            Err(e) => return Err(Refusal::bad(format!("the body cannot be read: {e}"))),
        }
    }
    if batch.is_empty() {
        return Err(Refusal::bad("expected at least one envelope, found none"));
    }
    Ok(batch)
}

/// `GET /v1/records`.
pub(super) async fn read(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let query = Query::read(
        uri.query(),
        &["from", "limit", "wait", "max_staleness", "consistency", "at_least", "timeout"],
    )?;
    let from = query.number("from")?.map(Offset);
    let limit = query.number("limit")?.unwrap_or(DEFAULT_RECORDS).min(MOST_RECORDS);
    let timeout = query.duration("timeout")?.unwrap_or(DEFAULT_TIMEOUT);
    if let Some(token) = query.text("at_least")? {
        super::table::held(&node, token, timeout).await?;
    }
    let from = match from {
        Some(from) => from,
        None => node.log.start(),
    };
    if let Some(wait) = query.duration("wait")? {
        node.wait_ends(|ends| ends.visible.1 > from, wait).await;
    }
    node.check_fresh(&query, &uri, timeout).await?;
    let end = node.log.end();
    let log = Arc::clone(&node.log);
    let work = move |out: &mut Out| {
        if from >= end {
            return Ok(());
        }
        let mut cursor = log.read_range(from..end.min(from.plus(limit)))?;
        let mut left = limit;
        while left > 0 {
            let before = cursor.offset();
            match cursor.is_ready() {
                Ok(true) => {}
                Ok(false) => break,
                // A gap that a repair put on record is said, not passed over.
                Err(e) if e.kind() == Kind::Lost && cursor.offset() > before => {
                    let lost = json!({ "lost": { "from": before.0, "to": cursor.offset().0 } });
                    out.buffer().extend_from_slice(format!("{lost}\n").as_bytes());
                    continue;
                }
                Err(e) => return Err(e),
            }
            let Some(entry) = cursor.next()? else { break };
            write_envelope(&entry, out.buffer());
            out.buffer().push(b'\n');
            left -= 1;
            out.flush_if_full()?;
        }
        Ok(())
    };
    let mut response = stream(&node, "application/x-ndjson", work).await?;
    reply::set(&mut response, HeaderName::from_static("x-tidelog-end"), &end.to_string());
    if let Some(token) = node.token(end.min(from.plus(limit))) {
        reply::set(&mut response, reply::TOKEN, &token.to_string());
    }
    Ok(response)
}
