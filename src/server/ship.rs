//! `/v1/fetch` and `/v1/segments`: what followers pull.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::position::LogByte;
use crate::ship::protocol::{self, Answer as Fetched, MAX_PART_BYTES, Request};
use crate::ship::range::{Ranged, parse_range};
use crate::ship::shelf::{Book, Speaker};

use super::body;
use super::node::{Ends, Node, Work};
use super::query::Query;
use super::reply::{self, Answer, Refusal};
use super::stream::stream;

/// A fetch waits at most this long.
const MOST_WAIT: Duration = Duration::from_secs(30);
/// Replies smaller than this are sent as they are.
const WORTH_PACKING: usize = 1 << 10;
/// Level of zstd: followers wait for it.
const PACK_LEVEL: i32 = 1;
const CHUNK_BYTES: usize = 256 << 10;

/// `POST /v1/fetch`.
pub(super) async fn fetch(State(node): State<Arc<Node>>, headers: HeaderMap, body: Body) -> Answer {
    let bytes = body::read(body, protocol::MAX_REQUEST_BYTES).await?;
    let (request, report) = Request::decode(&bytes)?;
    if report.node.is_some() && report.node == Some(node.log.node()) {
        return Err(Refusal::from(
            Error::new(Kind::InvalidInput, "a node cannot pull from itself")
                .help("name the leader's address"),
        ));
    }
    let ours = report.log == Some(node.log.id());
    let acknowledges = ours && node.leader.is_some() && report.last.is_some();
    let seen = report.durable.log_byte;
    let wait = Duration::from_millis(request.wait_ms).min(MOST_WAIT);
    let waits = !wait.is_zero() && ours;
    if waits && acknowledges {
        node.blocking_here(Work::Read, || hear(&node, &report)).await?;
    }
    if waits {
        let told = report.committed;
        let enough = |ends: &Ends| {
            // More to copy, or more of what it has that it may show.
            ends.durable.0 > seen || told.is_some_and(|told| ends.visible.0.min(seen) > told)
        };
        node.wait_ends(enough, wait).await;
    }
    let started = Instant::now();
    let packs = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| text.split(',').any(|one| one.trim() == "zstd"));
    let (bytes, packed) = match packs {
        // Packing takes its time.
        true => {
            let worker = Arc::clone(&node);
            let work = move || {
                if acknowledges && !waits {
                    hear(&worker, &report);
                }
                answer(&worker, &request, &report, packs)
            };
            node.blocking(Work::Read, work).await??
        }
        false => {
            let work = || {
                if acknowledges && !waits {
                    hear(&node, &report);
                }
                answer(&node, &request, &report, packs)
            };
            node.blocking_here(Work::Read, work).await??
        }
    };
    node.metrics.fetched(started.elapsed());
    let mut response = reply::bytes(StatusCode::OK, "application/x-tidelog-fetch", bytes);
    if packed {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
    Ok(response)
}

/// The fetch is the acknowledgement: it counts before the answer is made or waited for.
fn hear(node: &Node, report: &crate::ship::Report) {
    let Some(leader) = &node.leader else { return };
    if let Err(e) = leader.heard(report) {
        node.helm.events.note(node.now(), format!("a follower's report could not be checked: {e}"));
    }
}

fn answer(
    node: &Node,
    request: &Request,
    report: &crate::ship::Report,
    packs: bool,
) -> Result<(Vec<u8>, bool)> {
    let served = node.shelf.answer(
        report,
        request.part_bytes,
        node.promises.get().map(|promise| promise.epoch),
    )?;
    let now = node.now();
    let state = match &served.answer {
        Fetched::Offer { .. } if report.unclean => "unclean",
        Fetched::Offer { .. } => "following",
        Fetched::Diverged { .. } => "diverged",
        Fetched::Gone => "gone",
        Fetched::NotLeader => "not_leader",
    };
    if report.log.is_some() {
        let who = (request.name.clone(), request.address.clone());
        let durable = (served.durable.log_byte, served.durable.offset);
        if node.followers.fetched(who, report, state, now, durable) {
            let name = if request.name.is_empty() { "a follower" } else { &request.name };
            node.helm
                .events
                .note(now, format!("{name} pulls from offset {}", report.durable.offset));
        }
    }
    let slot = super::slots::claim(node, request, report, &served.answer);
    node.metrics.shipped(served.bytes.len() as u64);
    let slot = match (slot, &served.answer) {
        (Some(state), _) => state.word(),
        (None, Fetched::Gone) => "lost",
        (None, _) => "none",
    };
    let speaker = Speaker {
        name: node.name.clone(),
        upstream: node.upstream(),
        leader: node.leader_address(),
        time: now,
        stale: node.staleness(),
    };
    let reply = node.shelf.reply(served, speaker, slot);
    if !packs || reply.len() < WORTH_PACKING {
        return Ok((reply, false));
    }
    Ok(match pack(&reply) {
        Some(packed) => (packed, true),
        None => (reply, false),
    })
}

/// Packed bytes, when they are fewer.
fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    zstd::bulk::compress(bytes, PACK_LEVEL).ok().filter(|packed| packed.len() < bytes.len())
}

/// `GET /v1/segments`.
pub(super) async fn list(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let query = Query::read(uri.query(), &["from", "limit"])?;
    let from = LogByte(query.number("from")?.unwrap_or(0));
    let limit = query.number("limit")?.unwrap_or(10_000).min(10_000);
    let (listed, more) = node.shelf.list(from, usize::try_from(limit).unwrap_or(usize::MAX));
    let segments: Vec<_> = listed
        .iter()
        .map(|segment| {
            json!({
                "log_byte": segment.base.0,
                "offset": segment.base_offset.0,
                "epoch": segment.epoch.number,
                "bytes": segment.bytes,
                "sealed": segment.hash.is_some(),
                "hash": segment.hash.map(|hash| crate::log::scan::hex(&hash)),
            })
        })
        .collect();
    Ok(reply::json(StatusCode::OK, &json!({ "segments": segments, "more": more })))
}

/// `GET /v1/segments/{log byte}`: the file, a range of it, or a range packed.
pub(super) async fn segment(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    let query = Query::read(uri.query(), &["from", "bytes", "packed"])?;
    let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    let base =
        name.parse().ok().filter(|_| digits).map(LogByte).ok_or_else(|| {
            Refusal::bad(format!("expected a segment's log byte, found {name:?}"))
        })?;
    let shelf = node.shelf.clone();
    let book = node.blocking(Work::Read, move || shelf.open(base)).await??;
    lend(&node, book, &headers, &query).await
}

/// A file, a range of it, or a range packed, as the request says.
pub(super) async fn lend(
    node: &Arc<Node>,
    book: Book,
    headers: &HeaderMap,
    query: &Query,
) -> Answer {
    let etag = book.hash.map(|hash| format!("\"{}\"", crate::log::scan::hex(&hash)));
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let (Some(etag), Some(known)) = (&etag, text(header::IF_NONE_MATCH))
        && known.split(',').any(|one| one.trim() == etag)
    {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        describe(&mut response, &book, Some(etag.clone()));
        return Ok(response);
    }
    let packed = query.text("packed")?;
    let range = match (query.number("from")?, packed) {
        (None, None) if query.bytes("bytes").is_none() => {
            let same = text(header::IF_RANGE).is_none_or(|asked| Some(asked) == etag.as_deref());
            let asked = text(header::RANGE).filter(|_| same);
            asked.map_or(Ranged::Whole, |range| parse_range(range, book.bytes))
        }
        (from, Some("zstd")) => {
            let (from, bytes) = (from.unwrap_or(0), query.number("bytes")?.unwrap_or(u64::MAX));
            match book.bytes.checked_sub(from) {
                None | Some(0) => Ranged::Outside,
                Some(_) if bytes == 0 => Ranged::Outside,
                Some(left) => Ranged::Part { from, bytes: bytes.min(left) },
            }
        }
        _ => {
            return Err(Refusal::bad(
                "expected packed=zstd with from and bytes, or a range header",
            ));
        }
    };
    let (from, bytes, status) = match range {
        Ranged::Whole => (0, book.bytes, StatusCode::OK),
        Ranged::Part { from, bytes } => (from, bytes, StatusCode::PARTIAL_CONTENT),
        Ranged::Outside => {
            let message = format!("expected a range of the file's {} bytes", book.bytes);
            let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "outside", message)
                .header(header::CONTENT_RANGE, format!("bytes */{}", book.bytes));
            return Err(refusal);
        }
    };
    node.metrics.shipped(bytes);
    if packed.is_some() {
        return packed_range(node, book, from, bytes, etag).await;
    }
    let mut response = match usize::try_from(bytes) {
        // Few enough to be held: then a checksum can stand before them.
        Ok(few) if few <= MAX_PART_BYTES => small(node, &book, from, few).await?,
        _ => long(node, &book, from, bytes).await?,
    };
    *response.status_mut() = status;
    describe(&mut response, &book, etag);
    reply::set(&mut response, header::ACCEPT_RANGES, "bytes");
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {from}-{}/{}", from + bytes - 1, book.bytes);
        reply::set(&mut response, header::CONTENT_RANGE, &range);
    }
    Ok(response)
}

/// What is known of the file itself.
fn describe(response: &mut Response<Body>, book: &Book, etag: Option<String>) {
    if let Some(etag) = etag {
        reply::set(response, header::ETAG, &etag);
    }
    let name = header::HeaderName::from_static;
    reply::set(response, name("x-tidelog-file-bytes"), &book.bytes.to_string());
    let sealed = if book.hash.is_some() { "true" } else { "false" };
    reply::set(response, name("x-tidelog-sealed"), sealed);
}

async fn small(
    node: &Node,
    book: &Book,
    from: u64,
    bytes: usize,
) -> Result<Response<Body>, Refusal> {
    let book = book.clone();
    let range = node.blocking(Work::Read, move || book.range(from, bytes)).await??;
    let mut response = reply::bytes(StatusCode::OK, "application/octet-stream", range.bytes);
    crc_header(&mut response, range.crc);
    Ok(response)
}

async fn packed_range(
    node: &Node,
    book: Book,
    from: u64,
    bytes: u64,
    etag: Option<String>,
) -> Answer {
    let few = usize::try_from(bytes).ok().filter(|few| *few <= MAX_PART_BYTES);
    let few = few.ok_or_else(|| {
        Refusal::bad(format!("expected at most {MAX_PART_BYTES} bytes to be packed at once"))
    })?;
    let file = book.clone();
    let made = node
        .blocking(Work::Read, move || {
            let range = file.range(from, few)?;
            let packed = zstd::bulk::compress(&range.bytes, PACK_LEVEL)
                .map_err(|e| Error::new(Kind::Io, format!("cannot pack: {e}")))?;
            Ok::<_, Error>((range.crc, packed))
        })
        .await??;
    let mut response = reply::bytes(StatusCode::OK, "application/zstd", made.1);
    crc_header(&mut response, made.0);
    describe(&mut response, &book, etag);
    Ok(response)
}

fn crc_header(response: &mut Response<Body>, crc: u32) {
    let name = header::HeaderName::from_static("x-tidelog-crc32c");
    reply::set(response, name, &format!("{crc:08x}"));
}

async fn long(node: &Node, book: &Book, from: u64, bytes: u64) -> Answer {
    let book = book.clone();
    let work = move |out: &mut super::stream::Out| {
        let mut done = 0;
        while done < bytes {
            let take = usize::try_from(bytes - done).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            out.buffer().extend_from_slice(&book.range(from + done, take)?.bytes);
            out.flush_if_full()?;
            done += take as u64;
        }
        Ok(())
    };
    let mut response = stream(node, "application/octet-stream", work).await?;
    // The length is known: then who reads sees a body that broke off.
    reply::set(&mut response, header::CONTENT_LENGTH, &bytes.to_string());
    Ok(response)
}
