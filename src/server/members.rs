//! `/v1/members`: the synchronous set of a leader, and its changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::frame::SyncSet;
use crate::position::Id;
use crate::replica::Leader;

use super::body;
use super::node::{Node, Work};
use super::query::{DEFAULT_TIMEOUT, Query};
use super::records::elsewhere;
use super::reply::{self, Answer, Refusal};

const MOST_BODY_BYTES: usize = 16 << 10;

/// What a change says: what it does not name stays as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    mode: Option<String>,
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    remove: Vec<String>,
}

/// `GET /v1/members`.
pub(super) async fn list(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let Some(leader) = &node.leader else { return Err(elsewhere(&node, &uri)) };
    Ok(reply::json(StatusCode::OK, &shown(leader)))
}

/// `POST /v1/members?timeout=`: 200 once the set is committed, 202 while both sets rule.
pub(super) async fn change(State(node): State<Arc<Node>>, uri: Uri, body: Body) -> Answer {
    let query = Query::read(uri.query(), &["timeout"])?;
    let timeout = query.duration("timeout")?.unwrap_or(DEFAULT_TIMEOUT);
    if node.leader.is_none() {
        return Err(elsewhere(&node, &uri));
    }
    let bytes = body::read(body, MOST_BODY_BYTES).await?;
    let change: Change = serde_json::from_slice(&bytes).map_err(|e| {
        Refusal::bad(format!("expected {{\"mode\":…,\"add\":[…],\"remove\":[…]}}: {e}"))
    })?;
    let worker = Arc::clone(&node);
    let made = node.blocking(Work::Append, move || -> Result<(bool, Value, String), Refusal> {
        let Some(leader) = &worker.leader else { return Err(Refusal::bad("a leader")) };
        let set = changed(leader, worker.log.node(), &change)?;
        let committed = leader.change(&set, timeout)?;
        Ok((committed, shown(leader), set.to_string()))
    });
    let (committed, body, set) = made.await??;
    node.helm.events.note(node.now(), format!("the synchronous set is {set}"));
    let status = if committed { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(reply::json(status, &body))
}

/// The set that a change makes of the one there is. The leader is always a member.
fn changed(leader: &Leader, own: Id, change: &Change) -> Result<SyncSet, Refusal> {
    let standing = leader.standing();
    let mode = match &change.mode {
        Some(mode) => mode.parse()?,
        None => standing.mode,
    };
    let id = |text: &String| {
        text.parse::<Id>().map_err(|()| {
            Refusal::bad(format!("expected a node id as /v1/status shows it, found {text:?}"))
        })
    };
    let mut members: BTreeSet<Id> = standing.members.into_iter().collect();
    members.insert(own);
    for text in &change.add {
        members.insert(id(text)?);
    }
    for text in &change.remove {
        let id = id(text)?;
        if id == own {
            return Err(Refusal::bad(
                "expected another node than the leader, which is always a member",
            )
            .help("hand the leadership over first"));
        }
        if !members.remove(&id) {
            return Err(Refusal::bad(format!("expected a member to remove, found {id} is none")));
        }
    }
    Ok(SyncSet::new(mode, members)?)
}

/// The set as it is shown: here, and in the status.
pub(super) fn shown(leader: &Leader) -> Value {
    let standing = leader.standing();
    json!({
        "mode": standing.mode.to_string(),
        "members": standing.members.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "changing": standing.changing,
        "started": standing.started,
        "degraded_from": standing.degraded.map(|from| from.0),
        "committed": standing.committed.1.0,
    })
}
