//! `/v1/offsets`, `/v1/history/{key}`: what a range of the log stands for, and every record of
//! one key.
//!
//! A rare key may be far away. While nothing is found, an empty line says from time to time that
//! the work goes on, so that neither side takes the other for dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde_json::json;

use crate::error::{Error, Result};
use crate::log::Log;
use crate::table::{HistoryQuery, history};
use crate::text::{Range, write_envelope};

use super::node::{Node, Work};
use super::query::{DEFAULT_TIMEOUT, Query, percent_decode};
use super::reply::{self, Answer, Refusal};
use super::stream::{Out, stream};

/// An answer that has nothing to say says so this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// The range that a request asks about; everything without one.
fn range(node: &Node, query: &Query) -> Result<Option<Range>, Refusal> {
    let Some(text) = query.text("range")? else { return Ok(None) };
    Range::parse(text, node.now()).map(Some).map_err(Refusal::bad)
}

/// `GET /v1/offsets`.
pub(super) async fn offsets(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let query = Query::read(uri.query(), &["range"])?;
    let range = range(&node, &query)?.unwrap_or(Range::ALL);
    let log = Arc::clone(&node.log);
    let found = node.blocking(Work::Read, move || {
        let (start, end) = (log.start(), log.end());
        let found = range.resolve(&log)?;
        Ok::<_, Error>(json!({
            "start": start.0,
            "end": end.0,
            "from": found.start.0,
            "to": found.end.0,
        }))
    });
    Ok(reply::json(StatusCode::OK, &found.await??))
}

/// `GET /v1/history/{key}`.
pub(super) async fn of_key(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let query = Query::read(
        uri.query(),
        &["range", "limit", "reverse", "timeout", "max_staleness", "consistency"],
    )?;
    let timeout = query.duration("timeout")?.unwrap_or(DEFAULT_TIMEOUT);
    node.check_fresh(&query, &uri, timeout).await?;
    let path = uri.path().strip_prefix("/v1/history/").unwrap_or_default();
    let key = percent_decode(path, false)?;
    let range = range(&node, &query)?;
    let newest_first = query.flag("reverse")?;
    let limit = query.number("limit")?;
    let log = Arc::clone(&node.log);
    let slow = Slow::start();
    let work = move |out: &mut Out| {
        let asked = HistoryQuery { newest_first, limit, ..HistoryQuery::default() };
        write(&log, &key, range, asked, &slow.0, out)
    };
    stream(&node, "application/x-ndjson", work).await
}

/// The records, and what was done for them as the last line.
fn write(
    log: &Log,
    key: &[u8],
    range: Option<Range>,
    mut query: HistoryQuery,
    slow: &AtomicBool,
    out: &mut Out,
) -> Result<()> {
    if let Some(range) = range {
        query.range = range.resolve(log)?;
        (query.from_time, query.to_time) = (range.from_time(), range.to_time());
        // A range that starts before the log does is an error, not an empty answer.
        log.read(query.range.start.min(log.end()))?;
    }
    let mut history = history(log, key, &query)?;
    let mut records = 0;
    loop {
        match history.next_unless(slow)? {
            Some(entry) => {
                records += 1;
                write_envelope(&entry.as_entry(), out.buffer());
                out.buffer().push(b'\n');
                out.flush_if_full()?;
            }
            None if slow.swap(false, Relaxed) => {
                out.buffer().push(b'\n');
                out.flush()?;
            }
            None => break,
        }
    }
    let walked = history.walked();
    let lost: Vec<_> = history.lost().iter().map(|lost| [lost.start.0, lost.end.0]).collect();
    let summary = json!({ "history": {
        "records": records,
        "segments_read": walked.segments_read,
        "segments_skipped": walked.segments_skipped,
        "lost": lost,
    }});
    out.buffer().extend_from_slice(format!("{summary}\n").as_bytes());
    Ok(())
}

/// A flag that is set every [`SIGN_OF_LIFE`], for as long as this lives.
struct Slow(Arc<AtomicBool>, tokio::task::JoinHandle<()>);

impl Slow {
    fn start() -> Self {
        let flag = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&flag);
        let clock = tokio::spawn(async move {
            loop {
                tokio::time::sleep(SIGN_OF_LIFE).await;
                set.store(true, Relaxed);
            }
        });
        Slow(flag, clock)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.1.abort();
    }
}
