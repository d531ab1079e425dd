//! `/v1/apply`: a follower's apply is stopped at a point, and let go on.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;

use crate::error::Kind;
use crate::table::PauseAt;
use crate::text::{Bound, parse_at};

use super::body;
use super::node::Node;
use super::query::Query;
use super::reply::{self, Answer, Refusal};

const MOST_BODY_BYTES: usize = 16 << 10;

/// What a request says: where to stop, or to go on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    pause_at: Option<String>,
    #[serde(default)]
    resume: bool,
}

/// `POST /v1/apply`.
pub(super) async fn change(State(node): State<Arc<Node>>, uri: Uri, body: Body) -> Answer {
    Query::read(uri.query(), &[])?;
    let Some(pause) = &node.pause else {
        let message = "expected a follower: a leader applies what it appends";
        return Err(Refusal::new(StatusCode::CONFLICT, Kind::InvalidInput.word(), message));
    };
    let bytes = body::read(body, MOST_BODY_BYTES).await?;
    let wrong = |e: String| {
        Refusal::bad(format!("expected {{\"pause_at\":\"42\"}} or {{\"resume\":true}}: {e}"))
    };
    let asked: Change = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    let before = pause.at();
    match (asked.pause_at, asked.resume) {
        (Some(text), false) => {
            let at = match parse_at(&text, node.now()).map_err(wrong)? {
                Bound::Time(time) => PauseAt::Time(time),
                Bound::Offset(offset) => PauseAt::Offset(crate::position::Offset(offset)),
                _ => return Err(wrong(format!("found {text:?}"))),
            };
            let applied = *node.applied.borrow();
            if let PauseAt::Offset(offset) = at
                && offset < applied
            {
                let message = format!("expected an offset that is not applied yet, found {offset}");
                let refusal =
                    Refusal::new(StatusCode::CONFLICT, Kind::InvalidInput.word(), message);
                return Err(refusal.with("applied", applied.0));
            }
            pause.set(at);
            node.helm.events.note(node.now(), format!("apply is to stop before {}", shown(at)));
        }
        (None, true) => {
            pause.resume();
            if let Some(before) = before {
                let what = format!("apply goes on, and stops no more before {}", shown(before));
                node.helm.events.note(node.now(), what);
            }
        }
        _ => return Err(wrong("one of the two".into())),
    }
    let answer = json!({
        "was": before.map(shown),
        "pause_at": pause.at().map(shown),
        "applied": node.applied.borrow().0,
    });
    Ok(reply::json(StatusCode::OK, &answer))
}

/// A point as people write it: an offset, or `@` and a time.
pub(super) fn shown(at: PauseAt) -> String {
    match at {
        PauseAt::Offset(offset) => offset.to_string(),
        PauseAt::Time(time) => Bound::Time(time).to_string(),
    }
}
