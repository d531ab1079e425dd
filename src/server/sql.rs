//! `POST /v1/sql`: one statement that reads, its rows as NDJSON.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use serde_json::{Map, Value as Json};

use crate::error::{Error, Kind};
use crate::sql::{Database, Row, Value};
use crate::text::write_json_bytes;

use super::body;
use super::node::Node;
use super::query::Query;
use super::reply::{Answer, Refusal};
use super::stream::{Out, stream};

const MOST_BODY_BYTES: usize = 1 << 20;
/// A statement that runs longer is ended.
const MOST_TIME: Duration = Duration::from_secs(60);

/// `POST /v1/sql`: the body is the statement, or `{"sql": "…"}`.
pub(super) async fn query(State(node): State<Arc<Node>>, uri: Uri, body: Body) -> Answer {
    let query = Query::read(uri.query(), &["timeout"])?;
    let timeout = query.duration("timeout")?.unwrap_or(MOST_TIME).min(MOST_TIME);
    let bytes = body::read(body, MOST_BODY_BYTES).await?;
    let sql = statement(bytes)?;
    let (view, log) = (node.table.view(), Arc::clone(&node.log));
    let runtime = tokio::runtime::Handle::current();
    let work = move |out: &mut Out| {
        let database = Database::open(view, log)?;
        let stop = database.interrupt_handle();
        let clock = runtime.spawn(async move {
            tokio::time::sleep(timeout).await;
            stop.interrupt();
        });
        let ran = database.query(&sql, |row| {
            line(row, out.buffer());
            out.flush_if_full()
        });
        clock.abort();
        match ran {
            Err(e) if e.kind() == Kind::Interrupted => Err(Error::new(
                Kind::Interrupted,
                format!("expected the statement to end within {timeout:?}"),
            )
            .help("narrow it down, or ask for a longer timeout, at most 60s")),
            ran => ran.map(drop),
        }
    };
    stream(&node, "application/x-ndjson", work).await
}

fn statement(bytes: Vec<u8>) -> Result<String, Refusal> {
    let text = String::from_utf8(bytes).map_err(|_| Refusal::bad("expected SQL in UTF-8"))?;
    if !text.trim_start().starts_with('{') {
        return Ok(text);
    }
    let wrong = || Refusal::bad("expected {\"sql\": \"SELECT …\"} or the statement itself");
    let body: Map<String, Json> = serde_json::from_str(&text).map_err(|_| wrong())?;
    match body.get("sql") {
        Some(Json::String(sql)) if body.len() == 1 => Ok(sql.clone()),
        _ => Err(wrong()),
    }
}

/// A row as one JSON object; blobs as `name_b64`.
fn line(row: &Row<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    let start = out.len();
    for (name, value) in row.columns().iter().zip(row.values()) {
        let json = match value {
            Value::Null => Json::Null,
            Value::Integer(n) => n.into(),
            // JSON knows no infinity.
            Value::Real(n) => serde_json::Number::from_f64(n).map_or(Json::Null, Json::Number),
            Value::Text(text) => text.into(),
            Value::Blob(bytes) => {
                blob(name, bytes, out);
                continue;
            }
        };
        let pair = format!(",{}:{json}", Json::from(name.as_str()));
        out.extend_from_slice(pair.as_bytes());
    }
    if out.get(start) == Some(&b',') {
        out.remove(start);
    }
    out.extend_from_slice(b"}\n");
}

/// Bytes that are text, as a cast can make them, are told as text.
fn blob(name: &str, bytes: &[u8], out: &mut Vec<u8>) {
    let mut pair = Vec::new();
    write_json_bytes("x", bytes, &mut pair);
    let quoted = Json::from(name).to_string();
    let named = match pair.strip_prefix(b",\"x_b64\":") {
        Some(value) => {
            let name = Json::from(format!("{name}_b64")).to_string();
            [b",", name.as_bytes(), b":", value].concat()
        }
        None => [b",", quoted.as_bytes(), b":", &pair[b",\"x\":".len()..]].concat(),
    };
    out.extend_from_slice(&named);
}
