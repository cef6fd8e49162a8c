//! One connection, from its first byte to its end, or to the moment a handler takes it over.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::wire::{BusyGuard, HEAD_TIMEOUT, Phase, Socket, Tap};

/// What an HTTP/2 client that knows beforehand begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest head of a request; registry credentials of many registries travel in one header.
const MAX_HEAD: usize = 256 * 1024;
const MAX_HEADERS: usize = 128;

pub(crate) type Answer = Pin<Box<dyn Future<Output = axum::response::Response> + Send>>;
/// What answers requests.
pub(crate) type Handler = Arc<dyn Fn(Request<Incoming>, Option<Hijacker>) -> Answer + Send + Sync>;
/// What runs on a connection that was taken over.
pub(crate) type Run = Box<dyn FnOnce(Socket, Bytes) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

struct Slot {
    run: Mutex<Option<(Vec<u8>, Run)>>,
    ready: Notify,
    phase: Arc<Phase>,
}

/// The right to take the connection over from HTTP/1.
#[derive(Clone)]
pub(crate) struct Hijacker(Arc<Slot>);

impl Hijacker {
    /// From here on the client's end of input is no abort. To be called before anything is awaited.
    pub(crate) fn prepare(&self) {
        self.0.phase.keep_half_closed();
    }

    /// Writes `head` to the client, then gives the connection to `run`. The request's body must have been read.
    /// Never returns: the connection drops the request that awaits this.
    pub(crate) async fn take(self, head: Vec<u8>, run: Run) -> Infallible {
        *self.0.run.lock().unwrap_or_else(PoisonError::into_inner) = Some((head, run));
        self.0.ready.notify_one();
        std::future::pending().await
    }
}

/// Time limits; tests have shorter ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) head: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: HEAD_TIMEOUT }
    }
}

/// Serves a connection to its end. `ending` asks for it to end when the current answer is done.
pub(crate) async fn serve(mut socket: Socket, handler: Handler, limits: Limits, ending: CancellationToken) {
    let sniffed = tokio::select! {
        sniffed = sniff(&mut socket, limits) => sniffed,
        () = ending.cancelled() => return,
    };
    match sniffed {
        Some((seen, true)) => http2(socket, seen, handler, limits, ending).await,
        Some((seen, false)) => http1(socket, seen, handler, limits, ending).await,
        None => {}
    }
}

/// Reads until it is clear which HTTP the client speaks.
async fn sniff(socket: &mut Socket, limits: Limits) -> Option<(Bytes, bool)> {
    let mut seen = BytesMut::with_capacity(8 * 1024);
    // A connection may be idle before its first byte, but not within it.
    if socket.read_buf(&mut seen).await.ok()? == 0 {
        return None;
    }
    let rest = async {
        loop {
            let n = seen.len().min(PREFACE.len());
            if seen.get(..n) != PREFACE.get(..n) {
                return Some(false);
            }
            if n == PREFACE.len() {
                return Some(true);
            }
            if socket.read_buf(&mut seen).await.ok()? == 0 {
                return None;
            }
        }
    };
    let http2 = tokio::time::timeout(limits.head, rest).await.ok()??;
    Some((seen.freeze(), http2))
}

async fn http1(socket: Socket, seen: Bytes, handler: Handler, limits: Limits, ending: CancellationToken) {
    let phase = Arc::new(Phase::default());
    let slot = Arc::new(Slot { run: Mutex::new(None), ready: Notify::new(), phase: Arc::clone(&phase) });
    let tap = Tap::new(socket, seen, Arc::clone(&phase), limits.head);
    let front = Front { handler, phase, slot: Arc::clone(&slot) };
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .half_close(false);
    let mut conn = builder.serve_connection(TokioIo::new(tap), front);
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            () = slot.ready.notified() => break,
            result = poll_fn(|cx| conn.poll_without_shutdown(cx)) => {
                if let Err(e) = result {
                    tracing::debug!(error = %e, "connection ended");
                }
                break;
            }
            () = ending.cancelled(), if !told => {
                told = true;
                Pin::new(&mut conn).graceful_shutdown();
            }
        }
    }
    let parts = conn.into_parts();
    let (mut socket, unread) = parts.io.into_inner().into_socket();
    let taken = slot.run.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((head, run)) = taken {
        let mut seen = BytesMut::from(parts.read_buf.as_ref());
        seen.extend_from_slice(&unread);
        if socket.write_all(&head).await.is_ok() {
            run(socket, seen.freeze()).await;
        }
    } else {
        let _ = socket.shutdown().await;
    }
}

/// Takes the first step towards an answer: what goes to its end by itself is under way then. hyper looks for more from the client
/// before it asks for the answer, and forgets both where the client has said all and left.
fn begun(mut answer: Answer) -> Answer {
    match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(reply) => Box::pin(std::future::ready(reply)),
        Poll::Pending => answer,
    }
}

/// The handler as hyper's low-level connection wants it: with a future that can be moved.
struct Front {
    handler: Handler,
    phase: Arc<Phase>,
    slot: Arc<Slot>,
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Guarded>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = self.phase.begin();
        let answer = begun((self.handler)(request, Some(Hijacker(Arc::clone(&self.slot)))));
        Box::pin(async move { Ok(answer.await.map(|body| Guarded { body, _busy: busy })) })
    }
}

/// A body; while it lives, its connection is not idle.
struct Guarded {
    body: Body,
    _busy: BusyGuard,
}

impl hyper::body::Body for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn http2(socket: Socket, seen: Bytes, handler: Handler, limits: Limits, ending: CancellationToken) {
    let phase = Arc::new(Phase::default());
    let tap = Tap::new(socket, seen, Arc::clone(&phase), limits.head);
    // The preface is complete; from here the protocol's own limits hold.
    let _busy = phase.begin();
    let service = service_fn(move |request| {
        let answer = begun(handler(request, None));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_header_list_size(64 * 1024)
        .max_pending_accept_reset_streams(20)
        .max_send_buf_size(256 * 1024)
        .header_table_size(4096)
        .max_local_error_reset_streams(256);
    let mut conn = pin!(builder.serve_connection(TokioIo::new(tap), service));
    tokio::select! {
        result = conn.as_mut() => return log(result),
        () = ending.cancelled() => conn.as_mut().graceful_shutdown(),
    }
    log(conn.await);
}

fn log(result: hyper::Result<()>) {
    if let Err(e) = result {
        tracing::debug!(error = %e, "connection ended");
    }
}
