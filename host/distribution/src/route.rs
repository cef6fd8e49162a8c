//! Which operation a request is.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK};
use hyper::{Method, Request, StatusCode};
use serde_json::json;

use crate::Shared;
use crate::access::Wish;
use crate::answer::{Answer, Refusal, with};
use crate::content;
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

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }
}

/// Answers a request of somebody at this address.
pub(crate) async fn serve(shared: &Arc<Shared>, request: Request<Incoming>, peer: IpAddr) -> Answer {
    let head_only = request.method() == Method::HEAD;
    let mut answer = match dispatch(shared, request, peer).await {
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

async fn dispatch(shared: &Arc<Shared>, request: Request<Incoming>, peer: IpAddr) -> Result<Answer, Refusal> {
    let path = request.uri().path().to_owned();
    let query = Query::of(&request);
    let method = request.method().clone();
    let mut user = None;
    if path == "/token"
        && let Some(access) = &shared.access
    {
        return access.token(&method, request.headers(), &query.all("scope")).await;
    }
    if let Some(access) = &shared.access {
        let wish =
            Wish { repository: repository(&path), write: !matches!(method, Method::GET | Method::HEAD) };
        match access.check(request.headers(), &wish).await {
            Ok(found) => user = found,
            Err(question) => return Ok(question),
        }
    }
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
        let all = blocking(move || Ok(content::repositories(&shared)?)).await?;
        return page(&all, &query, "/v2/_catalog", |page| json!({"repositories": page}));
    }
    if let Some(name) = rest.strip_suffix("/tags/list").filter(|_| reads) {
        named(name)?;
        let (store, repository) = (Arc::clone(shared), name.to_owned());
        let all =
            blocking(move || content::tags(&store, &repository)?.ok_or_else(Refusal::name_unknown)).await?;
        let own = format!("/v2/{name}/tags/list");
        return page(&all, &query, &own, |page| json!({"name": name, "tags": page}));
    }
    let Some((name, kind, last)) = split(rest) else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", "page not found"));
    };
    named(name)?;
    match kind {
        0 => {
            // Who is known is one client wherever he comes from; an address is no user's name.
            let client = user.map_or_else(|| peer.to_string(), |user| format!("user {user}"));
            blobs::upload(shared, request, name, last.trim_start_matches('/'), &query, &client).await
        }
        1 => manifests::serve(shared, request, name, last, user.as_deref()).await,
        2 => blobs::serve(shared, request, name, last).await,
        _ => manifests::referrers(shared, &method, name, last, &query).await,
    }
}

/// Words that end a repository's name, with the number of the operation.
const KINDS: [(&str, u8); 4] =
    [("/blobs/uploads", 0), ("/manifests/", 1), ("/blobs/", 2), ("/referrers/", 3)];

/// Repository, kind and the rest of a path below `/v2/`.
fn split(rest: &str) -> Option<(&str, u8, &str)> {
    // The last word that names a kind splits the path; repositories may be called like one.
    KINDS.iter().find_map(|(word, kind)| {
        let at = rest.rfind(word)?;
        let (name, last) = (rest.get(..at)?, rest.get(at + word.len()..)?);
        let fits = if *kind == 0 { last.is_empty() || last.starts_with('/') } else { !last.contains('/') };
        (fits && !name.is_empty()).then_some((name, *kind, last))
    })
}

/// The repository that a path is about; empty if it is about none.
fn repository(path: &str) -> &str {
    let rest = path.strip_prefix("/v2/").unwrap_or_default().trim_start_matches('/');
    rest.strip_suffix("/tags/list").or_else(|| split(rest).map(|(name, ..)| name)).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::{repository, split};

    #[test]
    fn paths_of_operations() {
        for (rest, wanted) in [
            ("a/manifests/x", Some(("a", 1, "x"))),
            ("a/b/blobs/sha256:00", Some(("a/b", 2, "sha256:00"))),
            ("a/blobs/uploads", Some(("a", 0, ""))),
            ("a/blobs/uploads/", Some(("a", 0, "/"))),
            ("a/blobs/uploads/id", Some(("a", 0, "/id"))),
            ("a/blobs/uploadsx/manifests/1", Some(("a/blobs/uploadsx", 1, "1"))),
            ("manifests/manifests/manifests", Some(("manifests", 1, "manifests"))),
            ("a/referrers/sha256:00", Some(("a", 3, "sha256:00"))),
            ("a/manifests/x/y", None),
            ("/manifests/x", None),
            ("a", None),
        ] {
            assert_eq!(split(rest), wanted, "{rest}");
            // Rights are looked at for the repository that the operation is about.
            assert_eq!(repository(&format!("/v2/{rest}")), wanted.map_or("", |w| w.0), "{rest}");
        }
        assert_eq!(repository("/v2/a/b/tags/list"), "a/b");
        assert_eq!(repository("/v2/"), "");
        assert_eq!(repository("/v2//a/manifests/x"), "a");
    }
}
