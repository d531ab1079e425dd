//! What load balancers and monitors ask: 200 or 503, so that they need no JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde_json::{Value, json};

use super::node::{Node, Work};
use super::query::Query;
use super::reply::{self, Answer, Refusal};
use super::status::Status;

/// A lag that a node may have: in seconds, in records, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct MaxLag {
    seconds: Option<Duration>,
    records: Option<u64>,
}

impl MaxLag {
    /// Reads `10s`, `1000` or `10s,1000`.
    fn parse(text: &str) -> Result<Self, Refusal> {
        let mut most = MaxLag::default();
        for part in text.split(',') {
            let part = part.trim();
            if let Ok(records) = part.parse() {
                most.records = Some(records);
            } else if let Ok(duration) = crate::text::parse_duration(part) {
                most.seconds = Some(duration);
            } else {
                let message =
                    format!("expected a lag such as 10s, 1000 or 10s,1000, found {text:?}");
                return Err(Refusal::bad(message));
            }
        }
        Ok(most)
    }

    fn holds(self, records: u64, seconds: f64) -> bool {
        self.records.is_none_or(|most| records <= most)
            && self.seconds.is_none_or(|most| seconds <= most.as_secs_f64())
    }
}

/// `GET /healthz`: the process answers, and its log takes what it should.
pub(super) async fn health(State(node): State<Arc<Node>>) -> Answer {
    match node.home.poison() {
        None => Ok(reply::json(StatusCode::OK, &json!({ "status": "ok" }))),
        Some(e) => Err(Refusal::from(e)),
    }
}

/// `GET /readyz?max_lag=`: reads here are as fresh as asked for.
pub(super) async fn ready(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    let query = Query::read(uri.query(), &["max_lag"])?;
    let most = query.text("max_lag")?.map(MaxLag::parse).transpose()?;
    let worker = Arc::clone(&node);
    let status = node.blocking(Work::Read, move || Status::read(&worker)).await?;
    let own = &status.nodes[0];
    let applies = status.end.saturating_sub(status.applied);
    let records = own.lag_records + applies;
    let body = json!({
        "lag_records": records,
        "lag_seconds": own.lag_seconds,
        "applied": status.applied,
        "end": status.end,
        "trouble": status.trouble,
    });
    let unheard = !node.leads() && own.last_contact_seconds.is_none();
    let fresh = most.unwrap_or_default().holds(records, own.lag_seconds);
    if fresh && !unheard && !status.poisoned {
        return Ok(reply::json(StatusCode::OK, &body));
    }
    let message = if status.poisoned {
        "the log takes no more appends"
    } else if unheard {
        "this follower has not reached its source yet"
    } else {
        "this node is further behind than asked for"
    };
    let mut refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message);
    if let Value::Object(more) = body {
        refusal.0.more = more;
    }
    Err(refusal)
}

/// `GET /leader`: 200 on the leader.
pub(super) async fn leader(State(node): State<Arc<Node>>) -> Answer {
    role(&node, node.leads())
}

/// `GET /replica`: 200 on a follower.
pub(super) async fn replica(State(node): State<Arc<Node>>) -> Answer {
    role(&node, !node.leads())
}

fn role(node: &Node, is: bool) -> Answer {
    let role = if node.leads() { "leader" } else { "follower" };
    if is {
        return Ok(reply::json(
            StatusCode::OK,
            &json!({ "role": role, "leader": node.leader_address() }),
        ));
    }
    let message = format!("this node is a {role}");
    let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "other_role", message);
    Err(refusal.with("role", role).with("leader", node.leader_address()))
}

/// `GET /v1/status`.
pub(super) async fn status(State(node): State<Arc<Node>>) -> Answer {
    let worker = Arc::clone(&node);
    let status = node.blocking(Work::Read, move || Status::read(&worker)).await?;
    let body = serde_json::to_value(&status).expect("plain values");
    Ok(reply::json(StatusCode::OK, &body))
}

/// `GET /metrics`.
pub(super) async fn metrics(State(node): State<Arc<Node>>) -> Answer {
    let worker = Arc::clone(&node);
    let text = node.blocking(Work::Read, move || worker.metrics.text(&worker)).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(reply::bytes(StatusCode::OK, kind, text.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_held_against_seconds_records_or_both() {
        let most = MaxLag::parse("10s,1000").unwrap();
        assert!(most.holds(1000, 10.0) && !most.holds(1001, 0.0) && !most.holds(0, 10.1));
        assert!(MaxLag::parse("5").unwrap().holds(5, f64::MAX));
        assert!(MaxLag::parse("5ms").unwrap().holds(u64::MAX, 0.005));
        for bad in ["", "x", "10s,", "-1", "1.5"] {
            assert!(MaxLag::parse(bad).is_err(), "{bad}");
        }
    }
}
