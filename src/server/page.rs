//! `GET /`: the status page, one HTML file that asks this node alone.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};

use super::reply;

const PAGE: &str = include_str!("page.html");

pub(super) async fn page() -> Response<Body> {
    let mut response =
        reply::bytes(StatusCode::OK, "text/html; charset=utf-8", PAGE.as_bytes().to_vec());
    // The page needs its own script and style, and this node: nothing else, from nowhere else.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                  frame-ancestors 'none'";
    reply::set(&mut response, header::CONTENT_SECURITY_POLICY, policy);
    response
}
