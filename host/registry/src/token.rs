//! Answering challenges: passwords and tokens.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use serde::Deserialize;
use url::Url;

use crate::challenge::Challenge;
use crate::credential::Credential;
use crate::digest;
use crate::error::{Error, Kind, Result};
use crate::hosts::{Endpoint, Tls, is_loopback};
use crate::request::{Answer, reason};
use crate::session::{Registry, Session};

/// Largest answer of a token server.
const MAX_ANSWER: u64 = 1 << 20;
/// Tokens kept.
const MAX_TOKENS: usize = 1000;
/// How long a token is good for if nobody says.
const USUAL_LIFE: Duration = Duration::from_mins(1);

/// Tokens by what they are for.
#[derive(Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<String, (HeaderValue, Instant)>>,
}

impl Tokens {
    fn get(&self, key: &str) -> Option<HeaderValue> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(_, end)| *end > Instant::now()).map(|(value, _)| value.clone())
    }

    fn put(&self, key: String, value: HeaderValue, life: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if known.len() >= MAX_TOKENS {
            known.retain(|_, (_, end)| *end > now);
        }
        if known.len() < MAX_TOKENS {
            known.insert(key, (value, now + life));
        }
    }

    pub(crate) fn forget(&self, key: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answered {
    token: String,
    access_token: String,
    refresh_token: String,
    expires_in: Option<u64>,
}

fn secret(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Error::invalid("the credential has characters that a header cannot carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

pub(crate) fn basic(user: &str, password: &str) -> Result<HeaderValue> {
    secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

/// A request for a token.
pub(crate) struct Wanted<'a> {
    pub endpoint: &'a Endpoint,
    pub challenge: &'a Challenge,
    pub scopes: &'a [String],
    pub credential: &'a Credential,
    /// Also ask for one that lasts, to be kept instead of the password.
    pub lasting: bool,
}

/// A token for a challenge, and the lasting one if it was asked for and given.
pub(crate) async fn fetch(
    registry: &Registry,
    wanted: &Wanted<'_>,
) -> Result<(HeaderValue, Duration, String)> {
    let Wanted { endpoint, challenge, scopes, credential, lasting } = wanted;
    let realm = challenge.get("realm").unwrap_or_default();
    let mut url = Url::parse(realm).map_err(|_| {
        Error::broken(format!("the registry sends to {realm:?} for a token, which is no address"))
    })?;
    if !matches!(url.scheme(), "http" | "https")
        || (url.scheme() == "http" && endpoint.base.scheme() == "https")
    {
        return Err(Error::broken(format!(
            "the registry sends to {realm:?} for a token, which is not as safe"
        )));
    }
    let service = challenge.get("service").unwrap_or_default();
    let mut request = Request::new(Full::new(Bytes::new()));
    if let Credential::IdentityToken(token) = credential {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token").append_pair("service", service);
        form.append_pair("client_id", "docker").append_pair("refresh_token", token);
        form.append_pair("scope", &scopes.join(" "));
        *request.body_mut() = Full::new(form.finish().into());
        *request.method_mut() = Method::POST;
        request
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    } else {
        let mut query = url.query_pairs_mut();
        if !service.is_empty() {
            query.append_pair("service", service);
        }
        for scope in *scopes {
            query.append_pair("scope", scope);
        }
        if let Credential::Password(user, password) = credential {
            query.append_pair("account", user);
            request.headers_mut().insert(AUTHORIZATION, basic(user, password)?);
        }
        if *lasting {
            query.append_pair("offline_token", "true").append_pair("client_id", "docker");
        }
        drop(query);
    }
    let settings = &registry.inner.settings;
    request.headers_mut().insert(
        USER_AGENT,
        HeaderValue::from_str(&settings.user_agent).unwrap_or(HeaderValue::from_static("wharf")),
    );
    *request.uri_mut() =
        url.as_str().parse().map_err(|_| Error::broken(format!("invalid address {realm:?}")))?;
    let home = url.origin() == endpoint.base.origin();
    let same_host = url.host_str() == endpoint.base.host_str();
    let strange = Tls::default();
    let guarded = !home && !is_loopback(endpoint.base.host_str().unwrap_or_default());
    let client =
        registry.inner.transport.client(if same_host { &endpoint.tls } else { &strange }, guarded).await?;
    let what = format!("cannot get a token from {}", url.host_str().unwrap_or_default());
    let response = match tokio::time::timeout(settings.stall, client.send(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(e)) => return Err(Error::unavailable(format!("{what}: {}", reason(&e)))),
        Err(_) => return Err(Error::unavailable(format!("{what}: no answer in {:?}", settings.stall))),
    };
    let (head, body) = response.into_parts();
    let answer = Answer { status: head.status, headers: head.headers, body, url };
    let status = answer.status;
    let wait = crate::request::retry_after(&answer.headers);
    let body = answer.whole(MAX_ANSWER, settings.stall).await?;
    if !status.is_success() {
        let mut error = Error::of_answer(status.as_u16(), &body);
        error.retry_after = wait;
        return Err(error);
    }
    let found: Answered = serde_json::from_slice(&body).map_err(|e| Error::broken(format!("{what}: {e}")))?;
    let token = if found.token.is_empty() { &found.access_token } else { &found.token };
    if token.is_empty() {
        return Err(Error::broken(format!(
            "{what}: authorization server did not include a token in the response"
        )));
    }
    let life = found.expires_in.map_or(USUAL_LIFE, |s| Duration::from_secs(s.clamp(60, 24 * 3600)));
    // Some time is lost on the way.
    let life = life.saturating_sub(Duration::from_secs(10));
    Ok((secret(&format!("Bearer {token}"))?, life, found.refresh_token))
}

impl Session {
    /// Finds something to answer these challenges with; the next request carries it.
    pub(crate) async fn prove(
        &self,
        at: usize,
        challenges: &[Challenge],
        refused: Error,
        what: &str,
        tried: Option<HeaderValue>,
    ) -> Result<()> {
        let endpoint = self.endpoint(at)?;
        let credential = self.credential(at).await?;
        let by = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        let unauthorized = || match refused.kind() {
            Kind::Unauthorized | Kind::Denied => refused.clone(),
            _ => Error::new(Kind::Unauthorized, "unauthorized: authentication required"),
        };
        if let Some(challenge) = by("bearer") {
            if let Credential::Bearer(token) = &credential {
                return self.authorize(at, secret(&format!("Bearer {token}"))?, tried.as_ref(), unauthorized);
            }
            let mut scopes = self.scopes.clone();
            for scope in challenge.get("scope").unwrap_or_default().split(' ').filter(|s| !s.is_empty()) {
                if !scopes.iter().any(|known| covers(known, scope)) {
                    scopes.push(scope.to_owned());
                }
            }
            let key = key(endpoint, challenge, &scopes, &credential);
            let tokens = &self.registry.inner.tokens;
            if tried.is_some() {
                // The one that was shown was not good enough.
                tokens.forget(&key);
            } else if let Some(known) = tokens.get(&key) {
                return self.authorize(at, known, None, unauthorized);
            }
            let wanted =
                Wanted { endpoint, challenge, scopes: &scopes, credential: &credential, lasting: false };
            let (value, life, _) = fetch(&self.registry, &wanted).await?;
            tokens.put(key, value.clone(), life);
            return self.authorize(at, value, tried.as_ref(), unauthorized);
        }
        if by("basic").is_some() {
            let Credential::Password(user, password) = &credential else {
                return Err(Error::new(Kind::Unauthorized, format!("{what}: no basic auth credentials")));
            };
            return self.authorize(at, basic(user, password)?, tried.as_ref(), unauthorized);
        }
        Err(refused)
    }

    fn authorize(
        &self,
        at: usize,
        value: HeaderValue,
        tried: Option<&HeaderValue>,
        refused: impl FnOnce() -> Error,
    ) -> Result<()> {
        if tried == Some(&value) {
            return Err(refused());
        }
        self.remember(at, value);
        Ok(())
    }
}

/// Whether a scope that is asked for includes another.
fn covers(known: &str, scope: &str) -> bool {
    let (Some((name, actions)), Some((other, wanted))) = (known.rsplit_once(':'), scope.rsplit_once(':'))
    else {
        return known == scope;
    };
    name == other && wanted.split(',').all(|w| actions.split(',').any(|a| a == w))
}

/// What a token is kept under; the credential only as a hash.
fn key(endpoint: &Endpoint, challenge: &Challenge, scopes: &[String], credential: &Credential) -> String {
    let secret = match credential {
        Credential::Anonymous => String::new(),
        Credential::Password(user, password) => format!("p{user}\0{password}"),
        Credential::IdentityToken(token) => format!("i{token}"),
        Credential::Bearer(token) => format!("b{token}"),
    };
    let part = |name: &str| challenge.get(name).unwrap_or_default().to_owned();
    let all =
        [endpoint.base.to_string(), part("realm"), part("service"), scopes.join(" "), secret].join("\0");
    digest::of(all.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn scopes() {
        assert!(covers("repository:a:pull,push", "repository:a:pull"));
        assert!(covers("repository:a:pull,push", "repository:a:push,pull"));
        assert!(!covers("repository:a:pull", "repository:a:pull,push"));
        assert!(!covers("repository:a:pull", "repository:b:pull"));
        assert!(covers("x", "x"));
    }
}
