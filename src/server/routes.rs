//! Which request is answered by what, and what stands before every answer: tokens, and a count.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, post};

use super::auth::Tokens;
use super::node::Node;
use super::reply::Refusal;
use super::{
    apply, failover, health, history, members, page, records, ship, slots, snapshots, sql, table,
};

/// What the door needs.
#[derive(Clone)]
struct Door {
    node: Arc<Node>,
    tokens: Arc<Tokens>,
}

/// The routes of a node.
pub(super) fn routes(node: &Arc<Node>, tokens: Tokens) -> Router {
    let door = Door { node: Arc::clone(node), tokens: Arc::new(tokens) };
    Router::new()
        .route("/", get(page::page))
        .route("/healthz", get(health::health))
        .route("/readyz", get(health::ready))
        .route("/leader", get(health::leader))
        .route("/replica", get(health::replica))
        .route("/metrics", get(health::metrics))
        .route("/v1/status", get(health::status))
        .route("/v1/records", get(records::read).post(records::append))
        .route("/v1/producer", get(records::producer_of))
        .route("/v1/table", get(table::scan))
        .route("/v1/table/", get(table::get))
        .route("/v1/table/{*key}", get(table::get))
        .route("/v1/count", get(table::count))
        .route("/v1/hash", get(table::hash))
        .route("/v1/offsets", get(history::offsets))
        .route("/v1/history/", get(history::of_key))
        .route("/v1/history/{*key}", get(history::of_key))
        .route("/v1/wait", get(table::wait))
        .route("/v1/members", get(members::list).post(members::change))
        .route("/v1/promise", post(failover::promise))
        .route("/v1/failover", get(failover::show).post(failover::pause))
        .route("/v1/promote", post(failover::promote))
        .route("/v1/switchover", post(failover::switchover))
        .route("/v1/demote", post(failover::demote))
        .route("/v1/slots", get(slots::list).post(slots::change))
        .route("/v1/apply", post(apply::change))
        .route("/v1/sql", post(sql::query))
        .route("/v1/segments", get(ship::list))
        .route("/v1/segments/{base}", get(ship::segment))
        .route("/v1/snapshots", get(snapshots::list))
        .route("/v1/snapshots/{name}", get(snapshots::manifest))
        .route("/v1/snapshots/{name}/{run}", get(snapshots::run))
        .route("/v1/fetch", post(ship::fetch))
        .fallback(unknown)
        .method_not_allowed_fallback(not_so)
        .with_state(Arc::clone(node))
        .layer(from_fn_with_state(door, before))
}

async fn before(State(door): State<Door>, request: Request, next: Next) -> Response<Body> {
    let method = request.method().clone();
    let allowed = door.tokens.check(&method, request.uri().path(), request.headers());
    let response = match allowed {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    // Any word may stand as a method: a label for each would never end.
    let label = match method.as_str() {
        known @ ("GET" | "HEAD" | "POST") => known,
        _ => "other",
    };
    door.node.metrics.answered(label, response.status().as_u16());
    response
}

async fn unknown(uri: Uri) -> Refusal {
    let message = format!("expected a known path, found {}", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, "not_found", message)
        .help("the paths are in docs/OPERATIONS.md; `GET /` is a page for people")
}

async fn not_so(method: axum::http::Method, uri: Uri) -> Refusal {
    let message = format!("expected another method than {method} for {}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", message)
}
