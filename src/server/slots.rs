//! `/v1/slots`: what holds a leader's log; and the claims that fetches make.
//!
//! Only a leader has slots: a follower drops nothing of its copy.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::log::{Hold, SlotState};
use crate::ship::Report;
use crate::ship::protocol::{Answer as Fetched, Request};
use crate::text::{cursor_row, slot_row};

use super::body;
use super::node::{Node, Work};
use super::query::Query;
use super::records::elsewhere;
use super::reply::{self, Answer, Refusal};

const MOST_BODY_BYTES: usize = 16 << 10;

/// What a drop says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drop {
    /// A node id, what a follower is called, or a cursor's name.
    drop: String,
    /// Only say what would go.
    #[serde(default)]
    dry_run: bool,
}

/// Notes what a follower needs; what has become of that, if this node keeps slots.
pub(super) fn claim(
    node: &Node,
    request: &Request,
    report: &Report,
    answer: &Fetched,
) -> Option<SlotState> {
    if !node.leads() {
        return None;
    }
    match node.shelf.claim(&request.name, report, answer) {
        Ok(state) => {
            if state.is_some() {
                node.slots_troubled(None);
            }
            state
        }
        Err(e) => {
            node.slots_troubled(Some(format!("slots cannot be kept: {e}")));
            None
        }
    }
}

/// `GET /v1/slots`.
pub(super) async fn list(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    Query::read(uri.query(), &[])?;
    let worker = Arc::clone(&node);
    let rows = node.blocking(Work::Read, move || -> Result<Vec<Value>, Refusal> {
        let slots = worker.log.slots()?;
        let cursors = worker.log.cursors()?;
        let slots = slots.iter().map(|slot| Value::Object(slot_row(slot)));
        Ok(slots.chain(cursors.iter().map(|cursor| Value::Object(cursor_row(cursor)))).collect())
    });
    Ok(reply::json(StatusCode::OK, &json!({ "slots": rows.await?? })))
}

/// `POST /v1/slots`: drops one, or says which one it would be.
pub(super) async fn change(State(node): State<Arc<Node>>, uri: Uri, body: Body) -> Answer {
    if !node.leads() {
        return Err(elsewhere(&node, &uri));
    }
    let bytes = body::read(body, MOST_BODY_BYTES).await?;
    let asked: Drop = serde_json::from_slice(&bytes)
        .map_err(|e| Refusal::bad(format!("expected {{\"drop\":…,\"dry_run\":…}}: {e}")))?;
    let worker = Arc::clone(&node);
    let made = node.blocking(Work::Append, move || -> Result<(Value, bool), Refusal> {
        let Some(hold) = worker.log.hold(&asked.drop)? else {
            let message = format!("expected a slot or a cursor, found no {:?}", asked.drop);
            return Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", message)
                .help("`tidelog slots list` shows them"));
        };
        let done = !asked.dry_run && worker.log.release(&hold)?;
        if done {
            worker
                .helm
                .events
                .note(worker.now(), format!("the hold of {} was dropped", asked.drop));
        }
        let mut row = match &hold {
            Hold::Slot(slot) => slot_row(slot),
            Hold::Cursor(cursor) => cursor_row(cursor),
        };
        row.insert("done".into(), done.into());
        Ok((Value::Object(row), done))
    });
    let (row, _) = made.await??;
    Ok(reply::json(StatusCode::OK, &row))
}
