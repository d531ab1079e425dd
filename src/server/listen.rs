//! Connections: accepted up to a limit, each with limits of its own, ended politely.
//!
//! Invariants:
//! - a connection that neither reads nor writes for [`IDLE`] is closed, so a slow client holds its
//!   place and nothing else; one that sends its headers slowly is closed sooner;
//! - at the stop nothing is accepted, and answers under way may end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, Kind, Result};

/// Without a byte either way for so long, a connection is closed. Long polls are shorter.
const IDLE: Duration = Duration::from_secs(90);
/// Headers must be here after this long.
const HEADERS: Duration = Duration::from_secs(10);
/// So must a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
const MOST_HEADERS: usize = 64;
const MOST_HEADER_BYTES: usize = 32 << 10;
/// When there are no descriptors left, accepting rests for a moment.
const REST: Duration = Duration::from_millis(100);

/// What every connection is served with.
pub(super) struct Listener {
    pub(super) acceptor: Option<TlsAcceptor>,
    pub(super) routes: Router,
    pub(super) connections: usize,
}

pub(super) fn bind(address: SocketAddr) -> Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address);
    listener.map_err(|e| {
        let error = Error::new(Kind::Io, format!("cannot listen on {address}: {e}"));
        match e.kind() {
            io::ErrorKind::AddrInUse => error
                .help("is another node running there? --listen 127.0.0.1:0 takes any free port"),
            _ => error,
        }
    })
}

/// Accepts until the node stops, then lets answers end. Called inside the runtime.
pub(super) fn accept(
    listener: std::net::TcpListener,
    serve: Listener,
    mut stopping: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()> + Send> {
    let io = |e: io::Error| Error::new(Kind::Io, format!("cannot listen: {e}"));
    listener.set_nonblocking(true).map_err(io)?;
    let listener = TcpListener::from_std(listener).map_err(io)?;
    Ok(async move {
        let places = Arc::new(Semaphore::new(serve.connections));
        let graceful = GracefulShutdown::new();
        loop {
            let place = tokio::select! {
                place = Arc::clone(&places).acquire_owned() => place,
                _ = stopping.wait_for(|stop| *stop) => break,
            };
            let Ok(place) = place else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopping.wait_for(|stop| *stop) => break,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, or the client was gone already.
                tokio::time::sleep(REST).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let routes = serve.routes.clone();
            let watcher = graceful.watcher();
            let acceptor = serve.acceptor.clone();
            tokio::spawn(async move {
                let _place = place;
                match acceptor {
                    None => connection(stream, routes, watcher).await,
                    Some(acceptor) => {
                        let shaken = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
                        if let Ok(Ok(stream)) = shaken.await {
                            connection(stream, routes, watcher).await;
                        }
                    }
                }
            });
        }
        drop(listener);
        graceful.shutdown().await;
    })
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    routes: Router,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_headers(MOST_HEADERS)
        .max_buf_size(MOST_HEADER_BYTES)
        .half_close(false)
        .keep_alive(true);
    let service = TowerToHyperService::new(routes);
    let served = builder.serve_connection(TokioIo::new(Live::new(stream)), service);
    // What goes wrong on a connection is the client's to notice.
    let _ = watcher.watch(served).await;
}

/// A stream that fails when nothing moves for [`IDLE`].
struct Live<S> {
    stream: S,
    idle: Pin<Box<Sleep>>,
}

impl<S> Live<S> {
    fn new(stream: S) -> Self {
        Live { stream, idle: Box::pin(tokio::time::sleep(IDLE)) }
    }

    /// Passes on what came of reading or writing, and looks at the clock when nothing did.
    fn moved<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
            return poll;
        }
        match self.idle.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Live<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(context, buf);
        self.moved(context, poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Live<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.moved(context, poll)
    }

    /// Long bodies go out from where they are.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, bufs);
        self.moved(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        self.moved(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(context);
        self.moved(context, poll)
    }
}
