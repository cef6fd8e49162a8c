//! Which operation a request is.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK};
use hyper::{Method, Request, StatusCode};
use serde_json::json;

use crate::Shared;
use crate::answer::{Answer, Refusal, with};
use crate::store::is_name;
use crate::{blobs, manifests};

/// Entries of one page at most.
const PAGE: usize = 1000;

/// The parameters of a query.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &Request<Incoming>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        Self(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

pub(crate) async fn serve(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    let head_only = request.method() == Method::HEAD;
    let mut answer = match dispatch(shared, request).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.answer(),
    };
    if head_only {
        // The length stays, the content does not go.
        *answer.body_mut() = crate::answer::whole("");
    }
    let version = hyper::header::HeaderValue::from_static("registry/2.0");
    answer.headers_mut().insert("docker-distribution-api-version", version);
    answer
}

async fn dispatch(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let path = request.uri().path().to_owned();
    let query = Query::of(&request);
    let method = request.method().clone();
    let rest = match path.strip_prefix("/v2") {
        Some("" | "/") => return Ok(with(StatusCode::OK, "{}", &[(CONTENT_TYPE, "application/json")])),
        Some(rest) => rest.trim_start_matches('/'),
        None => return Err(Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", "page not found")),
    };
    let reads = matches!(method, Method::GET | Method::HEAD);
    if shared.read_only && !reads {
        return Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            "this registry is read-only",
        ));
    }
    if rest == "_catalog" && reads {
        let shared = Arc::clone(shared);
        let all = blocking(move || Ok(shared.store.repositories()?)).await?;
        return page(&all, &query, "/v2/_catalog", |page| json!({"repositories": page}));
    }
    if let Some(name) = rest.strip_suffix("/tags/list").filter(|_| reads) {
        named(name)?;
        let (store, repository) = (Arc::clone(shared), name.to_owned());
        let all = blocking(move || store.store.tags(&repository)?.ok_or_else(Refusal::name_unknown)).await?;
        let own = format!("/v2/{name}/tags/list");
        return page(&all, &query, &own, |page| json!({"name": name, "tags": page}));
    }
    // The last word that names a kind splits the path; repositories may be called like one.
    for (word, kind) in [("/blobs/uploads", 0), ("/manifests/", 1), ("/blobs/", 2), ("/referrers/", 3)] {
        let Some(at) = rest.rfind(word) else { continue };
        let (Some(name), Some(last)) = (rest.get(..at), rest.get(at + word.len()..)) else { continue };
        if name.is_empty()
            || (kind != 0 && last.contains('/'))
            || (kind == 0 && !(last.is_empty() || last.starts_with('/')))
        {
            continue;
        }
        named(name)?;
        return match kind {
            0 => blobs::upload(shared, request, name, last.trim_start_matches('/'), &query).await,
            1 => manifests::serve(shared, request, name, last).await,
            2 => blobs::serve(shared, request, name, last).await,
            _ => manifests::referrers(shared, &method, name, last, &query).await,
        };
    }
    Err(Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", "page not found"))
}

fn named(name: &str) -> Result<(), Refusal> {
    if is_name(name) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::BAD_REQUEST, "NAME_INVALID", "invalid repository name"))
}

/// A page of a sorted list, with the way to the next.
fn page(
    all: &[String],
    query: &Query,
    own: &str,
    body: impl FnOnce(&[String]) -> serde_json::Value,
) -> Result<Answer, Refusal> {
    let wanted = match query.get("n") {
        None => PAGE,
        Some(n) => n.parse::<usize>().map_err(|_| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "PAGINATION_NUMBER_INVALID",
                "invalid number of results requested",
            )
        })?,
    };
    let wanted = wanted.min(PAGE);
    let start = query.get("last").map_or(0, |last| all.partition_point(|one| one.as_str() <= last));
    let end = (start + wanted).min(all.len());
    let shown = all.get(start..end).unwrap_or_default();
    let text = body(shown).to_string();
    let length = text.len().to_string();
    let mut headers = vec![(CONTENT_TYPE, "application/json"), (CONTENT_LENGTH, length.as_str())];
    let next;
    if let (true, Some(last)) = (end < all.len() && wanted > 0, shown.last()) {
        next = format!("<{own}?last={last}&n={wanted}>; rel=\"next\"");
        headers.push((LINK, next.as_str()));
    }
    Ok(with(StatusCode::OK, text, &headers))
}

/// Work on the disk, on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(std::io::Error::other(e).into()),
    }
}
