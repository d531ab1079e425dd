//! Bodies of requests: at most so long, and in time.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;

use super::reply::Refusal;

/// A body must be here after this long.
const MOST_TIME: Duration = Duration::from_secs(30);

/// Reads a body of at most `limit` bytes.
pub(super) async fn read(body: Body, limit: usize) -> Result<Vec<u8>, Refusal> {
    let read = tokio::time::timeout(MOST_TIME, axum::body::to_bytes(body, limit));
    match read.await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(e)) => {
            let text = e.to_string();
            if text.contains("length limit") {
                return Err(Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "too_large",
                    format!("expected a body of at most {limit} bytes"),
                ));
            }
            Err(Refusal::bad(format!("the body broke off: {text}")))
        }
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "timed_out",
            format!("expected the body within {MOST_TIME:?}"),
        )),
    }
}
