//! `POST /v1/sql`: one statement that reads, its rows as NDJSON.
//!
//! Rows are objects, for people. With `rows=arrays` they come for programs, without loss: a line
//! with the columns' names, then a line for each row. Integers and reals are told apart by the
//! point or the exponent of a real, infinities are ±9e999, blobs `{"b64":"…"}`. What ends such an
//! answer early stands as `{"error":…}` on its last line.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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
    let query = Query::read(uri.query(), &["timeout", "rows", "max_staleness", "consistency"])?;
    let arrays = match query.text("rows")? {
        None | Some("objects") => false,
        Some("arrays") => true,
        Some(other) => {
            return Err(Refusal::bad(format!("expected rows=objects or arrays, found {other:?}")));
        }
    };
    let timeout = query.duration("timeout")?.unwrap_or(MOST_TIME).min(MOST_TIME);
    let bytes = body::read(body, MOST_BODY_BYTES).await?;
    let sql = statement(bytes)?;
    node.check_fresh(&query, &uri, timeout).await?;
    let (view, log) = (node.table.view(), Arc::clone(&node.log));
    let runtime = tokio::runtime::Handle::current();
    let work = move |out: &mut Out| {
        let database = Database::open(view, log)?;
        let stop = database.interrupt_handle();
        let clock = runtime.spawn(async move {
            tokio::time::sleep(timeout).await;
            stop.interrupt();
        });
        let mut begun = false;
        let ran = database.query(&sql, |row| {
            match arrays {
                true => {
                    if !std::mem::replace(&mut begun, true) {
                        names(row.columns(), out.buffer());
                    }
                    array(row, out.buffer());
                }
                false => line(row, out.buffer()),
            }
            out.flush_if_full()
        });
        clock.abort();
        if let (true, false, Ok(columns)) = (arrays, begun, &ran) {
            names(columns, out.buffer());
        }
        let ran = match ran {
            Err(e) if e.kind() == Kind::Interrupted => Err(Error::new(
                Kind::Interrupted,
                format!("expected the statement to end within {timeout:?}"),
            )
            .help("narrow it down, or ask for a longer timeout, at most 60s")),
            ran => ran.map(drop),
        };
        match ran {
            // What came before is true, and told.
            Err(e) if begun && e.kind() != Kind::Interrupted => {
                Refusal::from(e).write_line(out.buffer());
                Ok(())
            }
            ran => ran,
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

/// The columns' names as a JSON array.
fn names(columns: &[String], out: &mut Vec<u8>) {
    out.extend_from_slice(Json::from(columns).to_string().as_bytes());
    out.push(b'\n');
}

/// A row as a JSON array, without loss.
fn array(row: &Row<'_>, out: &mut Vec<u8>) {
    for (i, value) in row.values().enumerate() {
        out.push(if i == 0 { b'[' } else { b',' });
        let text = match value {
            Value::Null => "null".to_owned(),
            Value::Integer(n) => n.to_string(),
            Value::Real(n) if n.is_infinite() => {
                if n > 0.0 {
                    "9e999".into()
                } else {
                    "-9e999".into()
                }
            }
            Value::Real(n) => Json::from(n).to_string(),
            Value::Text(text) => Json::from(text).to_string(),
            Value::Blob(bytes) => format!("{{\"b64\":\"{}\"}}", STANDARD.encode(bytes)),
        };
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(b"]\n");
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
