//! One request: redirects, credentials, and what its failure means.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, StatusCode};
use url::Url;

use crate::challenge;
use crate::error::{Error, Result};
use crate::hosts::{Endpoint, Tls, is_loopback};
use crate::session::Session;

/// Times that a request is sent again because another one brought something new to show.
const MAX_OVERTAKEN: u32 = 3;
/// Redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Longest wait that a registry can ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Bytes of an answer with an error that are looked at.
const MAX_ERROR: usize = 64 << 10;

/// A request to an endpoint.
#[derive(Clone)]
pub(crate) struct Ask {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Ask {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Result<Self> {
        let value =
            HeaderValue::from_str(value).map_err(|_| Error::invalid(format!("invalid {name} header")))?;
        self.headers.append(name, value);
        Ok(self)
    }
}

/// An answer whose body is still to come.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Incoming,
    /// Where it came from.
    pub url: Url,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The whole body, if it is no longer than that and does not take for ever.
    pub(crate) async fn whole(self, limit: u64, patience: Duration) -> Result<Bytes> {
        let what = self.url.clone();
        match tokio::time::timeout(patience, collect(self.body, limit)).await {
            Ok(Ok(Some(bytes))) => Ok(bytes),
            Ok(Ok(None)) => Err(Error::broken(format!("{what}: the answer is larger than {limit} bytes"))),
            Ok(Err(e)) => Err(Error::unavailable(format!("Get \"{what}\": {e}"))),
            Err(_) => Err(Error::unavailable(format!("Get \"{what}\": the answer does not come to its end"))),
        }
    }
}

async fn collect(mut body: Incoming, limit: u64) -> std::result::Result<Option<Bytes>, hyper::Error> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if (all.len() + data.len()) as u64 > limit {
                return Ok(None);
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(Some(all.freeze()))
}

/// The innermost reason, which is the one that helps.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(next) = at.source() {
        at = next;
    }
    at.to_string()
}

/// What goes into messages: an address without what may be secret in its query.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.query().is_some_and(|q| q.len() > 80) {
        url.set_query(None);
    }
    url.to_string()
}

fn verb(method: &Method) -> String {
    let mut text = method.as_str().to_lowercase();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

/// How long a registry wants to be left alone.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let wait = if let Ok(seconds) = text.trim().parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let then = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        Duration::try_from(then.duration_since(jiff::Timestamp::now())).ok()?
    };
    Some(wait.min(MAX_WAIT))
}

impl Session {
    /// Sends a request to an endpoint and follows where it leads. Answers with an error status are errors, except
    /// those in `fine`.
    pub(crate) async fn send(&self, at: usize, ask: Ask, fine: &[StatusCode]) -> Result<Answer> {
        let endpoint = self.endpoint(at)?;
        let mut url = ask.url.clone();
        let mut redirects = 0;
        let (mut proven, mut overtaken) = (false, 0);
        loop {
            let home = url.origin() == endpoint.base.origin();
            let shown_before = self.authorization(at);
            let answer = self.once(endpoint, at, &ask, &url, home).await?;
            let status = answer.status;
            if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    return Err(Error::broken(format!(
                        "{} \"{}\": stopped after {MAX_REDIRECTS} redirects",
                        verb(&ask.method),
                        shown(&ask.url)
                    )));
                }
                url = next(&ask, endpoint, &url, &answer)?;
                continue;
            }
            if status == StatusCode::UNAUTHORIZED && home && !proven {
                // Only the endpoint itself is answered: nobody that it points at gets to see a credential.
                let challenges: Vec<challenge::Challenge> = answer
                    .headers
                    .get_all(WWW_AUTHENTICATE)
                    .iter()
                    .filter_map(|h| h.to_str().ok())
                    .flat_map(challenge::parse)
                    .collect();
                let error = failure(answer).await;
                // Another request of the conversation found out meanwhile what has to be shown.
                if self.authorization(at) != shown_before && overtaken < MAX_OVERTAKEN {
                    overtaken += 1;
                    continue;
                }
                let what = format!("{} \"{}\"", verb(&ask.method), shown(&url));
                self.prove(at, &challenges, error, &what, shown_before).await?;
                proven = true;
                continue;
            }
            if status.is_success() || fine.contains(&status) {
                return Ok(answer);
            }
            let lacking = answer
                .headers
                .get(WWW_AUTHENTICATE)
                .and_then(|h| h.to_str().ok())
                .is_some_and(|h| h.contains("error=\"insufficient_scope\""));
            if status == StatusCode::UNAUTHORIZED && lacking {
                // A registry that does not tell apart what is not there from what is not for this user.
                return Err(Error::denied());
            }
            return Err(failure(answer).await);
        }
    }

    /// Sends a request to an endpoint as it is.
    pub(crate) async fn raw(&self, at: usize, ask: &Ask) -> Result<Answer> {
        let endpoint = self.endpoint(at)?;
        self.once(endpoint, at, ask, &ask.url, true).await
    }

    async fn once(&self, endpoint: &Endpoint, at: usize, ask: &Ask, url: &Url, home: bool) -> Result<Answer> {
        let registry = &self.registry.inner;
        let settings = &registry.settings;
        let strange = Tls::default();
        let guarded = self.is_guarded(endpoint)
            || (!home && !is_loopback(endpoint.base.host_str().unwrap_or_default()));
        let client = registry.transport.client(if home { &endpoint.tls } else { &strange }, guarded).await?;
        let mut request = Request::new(Full::new(ask.body.clone()));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() =
            url.as_str().parse().map_err(|_| Error::broken(format!("invalid address {url}")))?;
        let headers = request.headers_mut();
        headers.clone_from(&ask.headers);
        headers.insert(
            USER_AGENT,
            HeaderValue::from_str(&settings.user_agent).unwrap_or(HeaderValue::from_static("wharf")),
        );
        if home {
            for (name, value) in &endpoint.headers {
                if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                    headers.append(name, value);
                }
            }
            if let Some(value) = self.authorization(at) {
                headers.insert(AUTHORIZATION, value);
            }
        }
        let what = || format!("{} \"{}\"", verb(&ask.method), shown(url));
        match tokio::time::timeout(settings.stall, client.send(request)).await {
            Ok(Ok(response)) => {
                let (head, body) = response.into_parts();
                Ok(Answer { status: head.status, headers: head.headers, body, url: url.clone() })
            }
            Ok(Err(e)) => {
                let error = Error::unavailable(format!("{}: {}", what(), reason(&e)));
                Err(if e.is_connect() { error.unreached() } else { error })
            }
            Err(_) => Err(Error::unavailable(format!("{}: no answer in {:?}", what(), settings.stall))),
        }
    }
}

/// Where a redirect leads, if it may.
fn next(ask: &Ask, endpoint: &Endpoint, from: &Url, answer: &Answer) -> Result<Url> {
    if !matches!(ask.method, Method::GET | Method::HEAD) {
        return Err(Error::broken(format!("{}: the registry redirects a {}", shown(from), ask.method)));
    }
    let to = answer.headers.get(LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let to = from.join(to).map_err(|_| Error::broken(format!("{}: redirected to nowhere", shown(from))))?;
    let down = to.scheme() == "http" && (from.scheme() == "https" || endpoint.base.scheme() == "https");
    if !matches!(to.scheme(), "http" | "https") || down || to.host_str().is_none_or(str::is_empty) {
        return Err(Error::broken(format!(
            "{}: the registry redirects to {}, which is not as safe",
            shown(from),
            shown(&to)
        )));
    }
    Ok(to)
}

async fn failure(answer: Answer) -> Error {
    let status = answer.status.as_u16();
    let wait = retry_after(&answer.headers);
    let body = answer.whole(MAX_ERROR as u64, Duration::from_secs(5)).await.unwrap_or_default();
    let mut error = Error::of_answer(status, &body);
    error.retry_after = wait;
    error
}

/// How long to wait before the next attempt: longer each time, never all clients at once.
pub(crate) fn pause(attempt: u32, error: &Error) -> Duration {
    if let Some(wait) = error.retry_after {
        return wait;
    }
    let base = Duration::from_millis(500) * 2u32.saturating_pow(attempt.min(5));
    base.mul_f64(rand::random_range(0.5..1.0))
}

/// Tries again while that may help.
pub(crate) async fn retrying<T, F: Future<Output = Result<T>>>(
    attempts: u32,
    mut work: impl FnMut() -> F,
) -> Result<T> {
    let mut attempt = 0;
    loop {
        match work().await {
            Err(error) if error.is_temporary() && !error.is_unreached() && attempt + 1 < attempts.max(1) => {
                tracing::debug!(%error, attempt, "trying again");
                tokio::time::sleep(pause(attempt, &error)).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}
