//! Long answers: made by a blocking thread, sent piece by piece, never held whole.
//!
//! ```text
//! blocking thread ── writes ──► Out ── chunks, at most four wait ──► body ──► connection
//! ```
//!
//! Invariants:
//! - a client that reads slowly holds one thread of a bounded number, and the connection's own
//!   time-out ends it; a client that goes away ends the work at the next chunk;
//! - what fails before the first chunk is an ordinary error; what fails later breaks the body off,
//!   so that nobody takes a part for the whole.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::error::{Error, Kind, Result};

use super::node::Node;
use super::reply::{Answer, Refusal};

const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS: usize = 4;

/// Where a blocking thread writes its answer.
pub(super) struct Out {
    buffer: Vec<u8>,
    chunks: Sender<Result<Bytes>>,
}

impl Out {
    /// The buffer, to append to; [`flush_if_full`](Out::flush_if_full) after each line.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    pub(super) fn flush_if_full(&mut self) -> Result<()> {
        if self.buffer.len() >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    /// Sends what there is; from then on the answer is no error any more.
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        self.chunks
            .blocking_send(Ok(chunk))
            .map_err(|_| Error::new(Kind::Interrupted, "nobody reads this answer any more"))
    }
}

/// Answers with what `work` writes.
pub(super) async fn stream(
    node: &Node,
    kind: &'static str,
    work: impl FnOnce(&mut Out) -> Result<()> + Send + 'static,
) -> Answer {
    let permit = node.long_answer().await?;
    let (sender, mut receiver) = channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut out = Out { buffer: Vec::with_capacity(CHUNK_BYTES), chunks: sender };
        let worked = work(&mut out).and_then(|()| out.flush());
        // The end is said: a thread that panics must not look like one that is done. Nobody
        // listens when that is why it failed.
        let _ = out.chunks.blocking_send(worked.map(|()| Bytes::new()));
    });
    let first = match receiver.recv().await {
        Some(Err(e)) => return Err(Refusal::from(e)),
        Some(Ok(chunk)) => Some(chunk),
        None => return Err(Refusal::from(unfinished())),
    };
    let mut response = Response::new(Body::new(Chunks { first, receiver }));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The chunks as a body.
struct Chunks {
    first: Option<Bytes>,
    receiver: Receiver<Result<Bytes>>,
}

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let next = match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.receiver.poll_recv(context),
        };
        next.map(|chunk| match chunk {
            Some(Ok(chunk)) if chunk.is_empty() => None,
            Some(chunk) => Some(chunk.map(Frame::data)),
            None => Some(Err(unfinished())),
        })
    }
}

fn unfinished() -> Error {
    Error::new(Kind::Io, "the answer was not finished")
}
