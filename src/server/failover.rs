//! `/v1/promise`, and what an operator asks about who leads: `/v1/failover`, `/v1/promote`, `/v1/switchover`,
//! `/v1/demote`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};
use crate::frame::Mode;
use crate::replica::failover::{Ask, Standing, Voter};

use super::body;
use super::helm::Order;
use super::node::{Node, Work};
use super::query::Query;
use super::reply::{self, Answer, Refusal};

const MOST_BODY_BYTES: usize = 64 << 10;
/// How long an order is waited for before the answer says that it is under way.
const PATIENCE: Duration = Duration::from_secs(2);

impl Node {
    /// How this node is, as it says to candidates.
    pub(super) fn standing(&self) -> Standing {
        self.signed(self.voter().standing())
    }

    /// Answers a candidate: promises, durably, what it asks for unless something later is promised.
    fn promise(&self, ask: &Ask) -> Result<Standing> {
        let (standing, new) = self.voter().answer(ask)?;
        if new && let Some(epoch) = ask.epoch {
            let who = if ask.name.is_empty() { ask.node.to_string() } else { ask.name.clone() };
            self.helm
                .events
                .note(self.now(), format!("epoch {} is promised to {who}", epoch.number));
            self.helm.promised(epoch, ask.node, ask.address.clone());
        }
        Ok(self.signed(standing))
    }

    fn voter(&self) -> Voter<'_> {
        match (&self.leader, &self.gauge) {
            (Some(leader), _) => Voter::Leads(leader),
            (None, Some(gauge)) => Voter::Follows(gauge, &self.promises),
            (None, None) => unreachable!("a node leads or follows"),
        }
    }

    /// What its log does not say: who it is, and what its operator allows.
    fn signed(&self, standing: Standing) -> Standing {
        let mut report = standing.report;
        if self.leader.is_some() {
            report.applied = self.table.applied().unwrap_or_default();
        }
        Standing {
            report,
            name: self.name.clone(),
            address: self.address.get().cloned(),
            leader: self.leader_address(),
            may_lead: self.helm.may_lead && !self.helm.aside.load(Acquire),
            priority: self.helm.priority,
            ..standing
        }
    }
}

/// `POST /v1/promise`: a candidate asks how this node is, or for its promise.
pub(super) async fn promise(State(node): State<Arc<Node>>, uri: Uri, body: Body) -> Answer {
    Query::read(uri.query(), &[])?;
    let ask = Ask::decode(&body::read(body, MOST_BODY_BYTES).await?)?;
    let worker = Arc::clone(&node);
    let standing = node.blocking(Work::Read, move || worker.promise(&ask)).await??;
    Ok(reply::bytes(StatusCode::OK, "application/json", standing.encode()))
}

/// What nobody but the old leader knows without a coordinator.
const UNSEEN: &str = "the mode is semi and there is no coordinator: a degraded spell would stand in the old leader's \
                      CONTROL, which this node cannot see; what was acknowledged as durable alone may be lost";

/// `GET /v1/failover`: how this node stands in its cluster.
pub(super) async fn show(State(node): State<Arc<Node>>, uri: Uri) -> Answer {
    Query::read(uri.query(), &[])?;
    let standing = node.standing();
    let mut shown = serde_json::to_value(node.helm.shown()).unwrap_or_default();
    if let Value::Object(shown) = &mut shown {
        shown.insert("node".into(), standing.node().to_string().into());
        shown.insert("leads".into(), standing.leads.into());
        shown.insert("leader".into(), standing.leader.into());
        let promise = standing.report.promise;
        shown.insert("promised".into(), promise.map(|epoch| epoch.number).into());
        shown.insert("may_lead".into(), standing.may_lead.into());
        shown.insert("priority".into(), standing.priority.into());
        if let Some(order) = node.helm.last_order() {
            shown.insert("order".into(), order);
        }
        let semi =
            standing.sets.last().is_some_and(|line| matches!(line.set.mode, Mode::Semi { .. }));
        if semi && !standing.leads && !shown.contains_key("coordinator") {
            shown.insert("unseen".into(), UNSEEN.into());
        }
    }
    Ok(reply::json(StatusCode::OK, &shown))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Promote {
    #[serde(default)]
    accept_loss: bool,
    #[serde(default)]
    old_leader_is_stopped: bool,
    #[serde(default)]
    handed_over: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Switchover {
    to: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    paused: bool,
}

/// `POST /v1/promote`.
pub(super) async fn promote(State(node): State<Arc<Node>>, uri: Uri, body: Body) -> Answer {
    let asked: Promote = read(&uri, body).await?;
    if node.leads() {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            Kind::InvalidInput.word(),
            "expected a follower to promote, found that this node leads",
        ));
    }
    if node.helm.manned && !node.helm.may_lead {
        return Err(refused(super::run::never_leads()));
    }
    let elects = node.helm.shown().coordinator.is_some();
    if !elects && !asked.old_leader_is_stopped && !asked.handed_over {
        return Err(Refusal::bad(
            "expected it to be said that the old leader is stopped: without a coordinator nobody here can know",
        )
        .help("make sure of it, then say so with --old-leader-is-stopped; or hand over with `tidelog switchover`"));
    }
    let Promote { accept_loss, handed_over, .. } = asked;
    order(node, Order::Promote { accept_loss, handed_over }).await
}

/// `POST /v1/switchover`.
pub(super) async fn switchover(State(node): State<Arc<Node>>, uri: Uri, body: Body) -> Answer {
    let asked: Switchover = read(&uri, body).await?;
    if !node.leads() {
        return Err(super::records::elsewhere(&node, &uri));
    }
    order(node, Order::Switchover { to: asked.to }).await
}

/// `POST /v1/demote`.
pub(super) async fn demote(State(node): State<Arc<Node>>, uri: Uri, body: Body) -> Answer {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    let Nothing {} = read(&uri, body).await?;
    if !node.leads() {
        return Err(super::records::elsewhere(&node, &uri));
    }
    order(node, Order::Demote).await
}

/// `POST /v1/failover`.
pub(super) async fn pause(State(node): State<Arc<Node>>, uri: Uri, body: Body) -> Answer {
    let asked: Pause = read(&uri, body).await?;
    order(node, Order::Pause(asked.paused)).await
}

async fn read<T: DeserializeOwned>(uri: &Uri, body: Body) -> Result<T, Refusal> {
    Query::read(uri.query(), &[])?;
    let bytes = body::read(body, MOST_BODY_BYTES).await?;
    let bytes = if bytes.is_empty() { b"{}".to_vec() } else { bytes.to_vec() };
    serde_json::from_slice(&bytes).map_err(|e| Refusal::bad(format!("expected it in JSON: {e}")))
}

/// What an operator asked for was not done.
fn refused(why: Error) -> Refusal {
    let mut refusal = Refusal::from(why);
    refusal.0.status = StatusCode::CONFLICT;
    refusal.0.help.get_or_insert_with(|| "nothing was changed".into());
    refusal
}

/// Gives the order and waits a moment for what becomes of it: 200 when it is done, 202 while it is under way.
async fn order(node: Arc<Node>, order: Order) -> Answer {
    if !node.helm.manned {
        return Err(Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            "not_supported",
            "expected a node that can change its role, found one that a program leads or follows with for good",
        )
        .help("run it with `tidelog serve`"));
    }
    let helm = Arc::clone(&node.helm);
    let number = helm.order(order);
    let outcome = node.blocking(Work::Read, move || helm.outcome(number, PATIENCE)).await?;
    match outcome {
        Some(Ok(what)) => Ok(reply::json(StatusCode::OK, &json!({ "done": true, "what": what }))),
        Some(Err(why)) => Err(refused(why)),
        None => Ok(reply::json(
            StatusCode::ACCEPTED,
            &json!({
                "done": false,
                "order": number,
                "what": "it is under way; `order` in /v1/failover says what it comes to",
            }),
        )),
    }
}
