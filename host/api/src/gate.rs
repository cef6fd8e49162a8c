//! The only way from a request to the engine: who is it, may they, and only then the engine.

use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use http_body_util::{BodyExt, BodyStream};
use hyper::body::Frame;
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, UPGRADE,
};
use hyper::{Request, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::AsyncRead;
use tokio::sync::OnceCell;
use tokio_util::io::StreamReader;
use wharf_engine::Caller;
use wharf_plan::auth::{Connection, Evidence, Operation};
use wharf_plan::policy::Origin;
use wharf_plan::types::Identity;

use crate::error::Failure;
use crate::http::conn::{Answer, Handler, Hijacker};
use crate::http::reply;
use crate::http::wire::Socket;
use crate::ops::{self, Op};
use crate::peer::{self, Other};
use crate::query::{self, Query};
use crate::service::Service;
use crate::version::{self, Version};
use crate::{hijack, json};

/// Largest JSON body.
pub(crate) const MAX_BODY: usize = 4 * 1024 * 1024;
/// So much of a body that nobody wants is read, and for so long.
const UNWANTED: usize = 64 << 20;
const UNWANTED_TIME: Duration = Duration::from_secs(2);
/// How long a JSON body may take.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a connection's identity is believed before the plugins are asked again.
const IDENTITY_AGE: Duration = Duration::from_secs(10);

/// Who is at the other end of one connection.
pub(crate) struct Visitor {
    other: Other,
    connection: OnceCell<Connection>,
    identity: Mutex<Option<(Instant, Arc<Identity>)>>,
}

impl Visitor {
    fn new(socket: &Socket) -> Self {
        Self { other: peer::other(socket), connection: OnceCell::new(), identity: Mutex::new(None) }
    }

    /// A browser could have been led here. One that holds a client certificate of this daemon asks its user first.
    fn reachable_by_browsers(&self) -> bool {
        match &self.other {
            Other::Tcp(..) => true,
            Other::Tls(_, _, chain, _) => chain.is_empty(),
            Other::Unix(_) | Other::Unknown => false,
        }
    }

    /// Host names other than this machine's own are an attack on a plain loopback port, and normal where others come in.
    fn names_matter(&self) -> bool {
        matches!(self.other, Other::Tcp(_, _, false))
    }

    /// What the kernel and the user database say, asked once.
    async fn connection(&self) -> Result<&Connection, Failure> {
        self.connection
            .get_or_try_init(|| async {
                let other = self.other.clone();
                tokio::task::spawn_blocking(|| peer::connection(other)).await
            })
            .await
            .map_err(|e| Failure::internal(format!("the caller cannot be looked up: {e}")))
    }

    /// The caller, by the connection and by what the request's head says.
    async fn identify(&self, service: &dyn Service, headers: &HeaderMap) -> Result<Arc<Identity>, Failure> {
        if let Some(extra) = evidence(headers) {
            let mut connection = self.connection().await?.clone();
            connection.evidence.push(extra);
            return Ok(Arc::new(service.authenticate(&connection).await?));
        }
        let known = self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((since, identity)) = known
            && since.elapsed() < IDENTITY_AGE
        {
            return Ok(identity);
        }
        let identity = Arc::new(service.authenticate(self.connection().await?).await?);
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), Arc::clone(&identity)));
        Ok(identity)
    }
}

/// What an `Authorization` header proves.
fn evidence(headers: &HeaderMap) -> Option<Evidence> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Evidence::Bearer(rest.trim().to_owned()));
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let plain = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
        let (user, password) = plain.split_once(':')?;
        return Some(Evidence::Basic((user.to_owned(), password.to_owned())));
    }
    None
}

/// One request on its way to a handler.
pub(crate) struct Call {
    op: &'static Op,
    name: String,
    version: Version,
    query: Query,
    headers: HeaderMap,
    body: Mutex<Option<Body>>,
    hijacker: Option<Hijacker>,
    service: Arc<dyn Service>,
    visitor: Arc<Visitor>,
    identity: Option<Arc<Identity>>,
    passed: Arc<AtomicBool>,
}

/// The engine, for one authorized operation.
pub(crate) struct Granted {
    service: Arc<dyn Service>,
    pub(crate) caller: Caller,
}

impl Deref for Granted {
    type Target = dyn Service;

    fn deref(&self) -> &Self::Target {
        &*self.service
    }
}

impl Call {
    /// The name in the path.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn op(&self) -> &'static Op {
        self.op
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn query(&self) -> &Query {
        &self.query
    }

    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Length of the body as the head says it.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(&CONTENT_LENGTH)?.parse().ok()
    }

    /// The client asks to change the protocol.
    pub(crate) fn wants_upgrade(&self) -> bool {
        self.headers.contains_key(UPGRADE)
    }

    /// The right to take over the connection; HTTP/2 has none to give.
    pub(crate) fn hijacker(&mut self) -> Result<Hijacker, Failure> {
        self.hijacker.take().ok_or_else(|| {
            Failure::invalid(format!(
                "{} {} becomes a raw stream, which HTTP/2 does not have: use HTTP/1.1",
                self.op.noun, self.op.verb
            ))
        })
    }

    /// For operations without a body.
    pub(crate) async fn grant(&self) -> Result<Granted, Failure> {
        self.authorize(None, false).await
    }

    /// For operations whose body is a JSON object: what is authorized is what the handler gets.
    pub(crate) async fn grant_json<T: DeserializeOwned + Serialize>(
        &mut self,
    ) -> Result<(T, Granted), Failure> {
        let bytes = self.bytes().await?;
        let model: T = json::read(&bytes)?;
        let document = json::document(&model)?;
        let granted = self.authorize(Some(&document), false).await?;
        Ok((model, granted))
    }

    /// As [`Self::grant_json`], with fields that the model of today has no more and `merge` puts into their new places.
    pub(crate) async fn grant_json_with<T: DeserializeOwned + Serialize, Old: DeserializeOwned>(
        &mut self,
        merge: impl FnOnce(&mut T, Old) -> Result<(), Failure>,
    ) -> Result<(T, Granted), Failure> {
        let bytes = self.bytes().await?;
        let mut model: T = json::read(&bytes)?;
        merge(&mut model, json::read(&bytes)?)?;
        let document = json::document(&model)?;
        let granted = self.authorize(Some(&document), false).await?;
        Ok((model, granted))
    }

    /// For operations whose body is a stream of bytes.
    pub(crate) async fn grant_stream(
        &mut self,
    ) -> Result<(Box<dyn AsyncRead + Send + Unpin>, Granted), Failure> {
        let granted = self.authorize(None, true).await?;
        let reader: Box<dyn AsyncRead + Send + Unpin> = match self.take_body() {
            Some(body) => {
                let frames = Upload::new(body)
                    .try_filter_map(|frame| async move { Ok(frame.into_data().ok()) })
                    .map_err(std::io::Error::other);
                Box::new(StreamReader::new(Box::pin(frames)))
            }
            None => Box::new(tokio::io::empty()),
        };
        Ok((reader, granted))
    }

    fn take_body(&mut self) -> Option<Body> {
        self.body.get_mut().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The whole body, within limits.
    pub(crate) async fn bytes(&mut self) -> Result<Bytes, Failure> {
        let Some(body) = self.take_body() else {
            return Ok(Bytes::new());
        };
        let too_large = || {
            Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "http: request body too large: at most {} MiB of JSON are read",
                    MAX_BODY / 1024 / 1024
                ),
            )
        };
        if self.content_length().is_some_and(|n| n > MAX_BODY as u64) {
            return Err(too_large());
        }
        tokio::time::timeout(BODY_TIMEOUT, collect(body, too_large)).await.map_err(|_| {
            Failure::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not come in time")
        })?
    }

    async fn authorize(&self, body: Option<&Value>, streaming: bool) -> Result<Granted, Failure> {
        let Some(identity) = self.identity.clone() else {
            return Err(Failure::new(StatusCode::UNAUTHORIZED, "the caller is not known"));
        };
        let operation = Operation {
            noun: self.op.noun.into(),
            verb: self.op.verb.into(),
            api_version: self.version.to_string(),
            mutates: self.op.mutates,
            upgrades: self.op.upgrades,
        };
        let targets = match self.name.as_str() {
            "" => Vec::new(),
            name => self.service.targets(self.op.noun, self.op.names(name).0),
        };
        let query = self.query.pairs().to_vec();
        self.service.authorize(&identity, &operation, &targets, &query, body, streaming).await?;
        self.passed.store(true, Ordering::Release);
        let caller = Caller { identity: Some(Identity::clone(&identity)), origin: Origin::Api };
        Ok(Granted { service: Arc::clone(&self.service), caller })
    }
}

async fn collect(mut body: Body, too_large: impl Fn() -> Failure) -> Result<Bytes, Failure> {
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Failure::invalid(format!("the request's body cannot be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.is_empty() && first.is_none() {
            first = Some(data);
            continue;
        }
        if let Some(data) = first.take() {
            all.extend_from_slice(&data);
        }
        if all.len() + data.len() > MAX_BODY {
            return Err(too_large());
        }
        all.extend_from_slice(&data);
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// Who sent a request and over what, beside it on its way through the router.
#[derive(Clone)]
pub(crate) struct Origins {
    visitor: Arc<Visitor>,
    hijacker: Option<Hijacker>,
}

/// All that can be asked, as one router: what no route matches is looked up in the table of operations, which takes
/// names with slashes in their middle.
pub(crate) fn router(service: Arc<dyn Service>) -> Router {
    Router::new().fallback(operation).with_state(service).layer(axum::middleware::map_response(common))
}

/// Makes the handler of one connection.
pub(crate) fn welcome(router: &Router, socket: &Socket) -> Handler {
    let visitor = Arc::new(Visitor::new(socket));
    let router = router.clone();
    Arc::new(move |request, hijacker| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Origins { visitor: Arc::clone(&visitor), hijacker });
        let answer = tower_service::Service::call(&mut router.clone(), request);
        Box::pin(async move {
            match answer.await {
                Ok(reply) => reply,
                Err(never) => match never {},
            }
        })
    })
}

async fn operation(
    State(service): State<Arc<dyn Service>>,
    Extension(origins): Extension<Origins>,
    request: Request<Body>,
) -> Response {
    answer(&service, &origins.visitor, request, origins.hijacker).await
}

fn answer(
    service: &Arc<dyn Service>,
    visitor: &Arc<Visitor>,
    request: Request<Body>,
    hijacker: Option<Hijacker>,
) -> Answer {
    match prepare(service, visitor, request, hijacker) {
        Ok(mut call) => {
            let (passed, op) = (Arc::clone(&call.passed), call.op);
            // What changes something goes to its end, also when its client goes away meanwhile: half a start is none.
            // A connection that is taken over ends with its client by itself.
            let to_its_end = op.mutates && !op.upgrades;
            let handling = AssertUnwindSafe(async move {
                call.identity = Some(call.visitor.identify(&*call.service, &call.headers).await?);
                (op.handler)(call).await
            })
            .catch_unwind();
            let work = async move {
                let outcome = match handling.await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(Failure::internal(format!(
                        "the engine failed at {} {}; it goes on, and the log has the details",
                        op.noun, op.verb
                    ))),
                };
                let reply = match outcome {
                    Ok(_) if !passed.load(Ordering::Acquire) => reply::failure(&Failure::new(
                        StatusCode::FORBIDDEN,
                        format!("{} {} was not authorized", op.noun, op.verb),
                    )),
                    Ok(reply) => reply,
                    Err(failure) => {
                        if failure.status.is_server_error() {
                            tracing::warn!(noun = op.noun, verb = op.verb, status = failure.status.as_u16(),
                                message = %failure.message, "request failed");
                        }
                        reply::failure(&failure)
                    }
                };
                reply.map(Body::new)
            };
            if !to_its_end {
                return Box::pin(work);
            }
            Box::pin(async move {
                tokio::spawn(work).await.unwrap_or_else(|e| {
                    reply::failure(&Failure::internal(format!("the request was ended: {e}"))).map(Body::new)
                })
            })
        }
        Err(failure) => Box::pin(std::future::ready(reply::failure(&failure).map(Body::new))),
    }
}

/// A body that is read as a stream. Where a handler fails before its end, a part of the rest is read and thrown away:
/// most clients write their body to its end before they look at the answer, and would see a broken connection.
struct Upload {
    frames: Option<BodyStream<Body>>,
    runtime: tokio::runtime::Handle,
}

impl Upload {
    fn new(body: Body) -> Self {
        Self { frames: Some(BodyStream::new(body)), runtime: tokio::runtime::Handle::current() }
    }
}

impl Stream for Upload {
    type Item = Result<Frame<Bytes>, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(frames) = &mut self.frames else { return Poll::Ready(None) };
        let next = Pin::new(frames).poll_next(cx);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            self.frames = None;
        }
        next
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut frames) = self.frames.take() else { return };
        self.runtime.spawn(tokio::time::timeout(UNWANTED_TIME, async move {
            let mut left = UNWANTED;
            while let Some(Ok(frame)) = frames.next().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(length) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        }));
    }
}

/// All that needs no waiting: version, operation, query.
fn prepare(
    service: &Arc<dyn Service>,
    visitor: &Arc<Visitor>,
    request: Request<Body>,
    hijacker: Option<Hijacker>,
) -> Result<Call, Failure> {
    let (head, body) = request.into_parts();
    if visitor.reachable_by_browsers() {
        refuse_browsers(&head.headers, visitor.names_matter())?;
    }
    let path = query::decode(head.uri.path(), false)
        .ok_or_else(|| Failure::invalid(format!("invalid URL escape in path {:?}", head.uri.path())))?;
    let (version, path) = version::split(&path)?;
    let (op, name) = ops::find(&head.method, path).ok_or_else(Failure::page_not_found)?;
    if let (true, Some(hijacker)) = (op.upgrades, &hijacker) {
        hijacker.prepare();
    }
    Ok(Call {
        op,
        name: name.to_owned(),
        version,
        query: Query::parse(head.uri.query().unwrap_or_default())?,
        headers: head.headers,
        body: Mutex::new(Some(body)),
        hijacker,
        service: Arc::clone(service),
        visitor: Arc::clone(visitor),
        identity: None,
        passed: Arc::new(AtomicBool::new(false)),
    })
}

/// A web page must not reach a loopback port: neither by a cross-site request nor by a name that it made resolve here.
fn refuse_browsers(headers: &HeaderMap, names_matter: bool) -> Result<(), Failure> {
    let refused =
        |why: &str| Err(Failure::new(StatusCode::FORBIDDEN, format!("requests {why} are refused on TCP")));
    if headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site") {
        return refused("from web pages");
    }
    if !names_matter {
        return Ok(());
    }
    let host = headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    let local = matches!(name, "" | "localhost" | "docker") || name.ends_with(".localhost");
    if local || name.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    refused("for a host name other than localhost")
}

static COMMON: LazyLock<[(HeaderName, HeaderValue); 4]> = LazyLock::new(|| {
    let server = format!("Docker/{} (linux)", wharf_engine::VERSION);
    [
        (HeaderName::from_static("api-version"), HeaderValue::from_static(version::NEWEST_TEXT)),
        (HeaderName::from_static("docker-experimental"), HeaderValue::from_static("false")),
        (HeaderName::from_static("ostype"), HeaderValue::from_static("linux")),
        (
            HeaderName::from_static("server"),
            HeaderValue::try_from(server).unwrap_or(HeaderValue::from_static("Docker")),
        ),
    ]
});

/// The headers that every answer has.
async fn common(mut reply: Response) -> Response {
    for (name, value) in COMMON.iter() {
        // The answer to a ping knows better whether there is an experimental mode.
        reply.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    std::future::ready(reply).await
}

/// The same headers for an answer that is written by hand.
pub(crate) fn common_head(head: &mut Vec<u8>) {
    for (name, value) in COMMON.iter() {
        hijack::header(head, name.as_str(), value.as_bytes());
    }
}
