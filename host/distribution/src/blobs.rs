//! Blobs and their uploads.

use std::io::{Seek, SeekFrom};
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use hyper::{Method, Request, StatusCode};
use wharf_registry::digest;

use crate::answer::{Answer, CONTENT_DIGEST, Refusal, UPLOAD_ID, with};
use crate::route::{Query, blocking};
use crate::store::Link;
use crate::{Shared, cache, content};

fn checked(text: &str) -> Result<(), Refusal> {
    digest::check(text).map_err(|e| Refusal::digest_invalid(e.to_string()))
}

/// What part of a blob is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// First byte and number of bytes.
    Of(u64, u64),
    /// It lies outside.
    Outside,
}

/// `bytes=a-b` of a blob of this size; what cannot be read asks for all of it.
fn range(header: &str, size: u64) -> Part {
    let read = || {
        let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
        if first.is_empty() {
            let count = last.parse::<u64>().ok()?.min(size);
            return Some((size - count, count));
        }
        let first = first.parse::<u64>().ok()?;
        let last = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
        (first <= last)
            .then(|| (first, last.min(size.saturating_sub(1)).saturating_sub(first).saturating_add(1)))
    };
    match read() {
        None => Part::Whole,
        Some((first, count)) if first < size && count > 0 => Part::Of(first, count),
        Some(_) => Part::Outside,
    }
}

pub(crate) async fn serve(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    name: &str,
    wanted: &str,
) -> Result<Answer, Refusal> {
    checked(wanted)?;
    let (store, repository, blob) = (Arc::clone(shared), name.to_owned(), wanted.to_owned());
    match *request.method() {
        Method::GET | Method::HEAD => {
            let found = blocking(move || Ok(content::find(&store, &repository, &blob)?)).await?;
            let found = match found {
                Some(found) => Some(found),
                None => cache::blob(shared, name, wanted, request.method() == Method::HEAD).await?,
            };
            let (blob, size) = found.ok_or_else(Refusal::blob_unknown)?;
            let part = request.headers().get(RANGE).and_then(|v| v.to_str().ok());
            let part = part.map_or(Part::Whole, |header| range(header, size));
            let total = size.to_string();
            let mut headers = vec![
                (CONTENT_TYPE, "application/octet-stream"),
                (CONTENT_DIGEST, wanted),
                (ACCEPT_RANGES, "bytes"),
            ];
            let (status, start, length) = match part {
                Part::Whole => (StatusCode::OK, 0, size),
                Part::Of(start, length) => (StatusCode::PARTIAL_CONTENT, start, length),
                Part::Outside => {
                    let whole = format!("bytes */{total}");
                    let headers = [(CONTENT_RANGE, whole.as_str())];
                    return Ok(with(StatusCode::RANGE_NOT_SATISFIABLE, "", &headers));
                }
            };
            let (long, shown) =
                (length.to_string(), format!("bytes {start}-{}/{total}", (start + length).saturating_sub(1)));
            headers.push((CONTENT_LENGTH, long.as_str()));
            if status == StatusCode::PARTIAL_CONTENT {
                headers.push((CONTENT_RANGE, shown.as_str()));
            }
            let mut answer = with(status, "", &headers);
            if request.method() == Method::GET {
                *answer.body_mut() = content::body(shared, blob, start, length).await?;
            }
            Ok(answer)
        }
        Method::DELETE => {
            if blocking(move || Ok(store.store.unlink(&repository, Link::Layer, &blob)?)).await? {
                Ok(with(StatusCode::ACCEPTED, "", &[(CONTENT_LENGTH, "0")]))
            } else {
                Err(Refusal::blob_unknown())
            }
        }
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "the operation is unsupported")),
    }
}

pub(crate) async fn upload(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    name: &str,
    id: &str,
    query: &Query,
) -> Result<Answer, Refusal> {
    let digest = query.get("digest").map(str::to_owned);
    if let Some(digest) = &digest {
        checked(digest)?;
    }
    if request.method() == Method::POST && id.is_empty() {
        return begin(shared, request, name, digest, query).await;
    }
    let upload = shared.store.upload(id).ok_or_else(Refusal::upload_unknown)?;
    if upload.lock().await.repository != name {
        return Err(Refusal::upload_unknown());
    }
    match *request.method() {
        Method::GET => {
            let size = upload.lock().await.size;
            Ok(progress(StatusCode::NO_CONTENT, name, id, size))
        }
        Method::DELETE => {
            shared.store.forget(id);
            Ok(with(StatusCode::NO_CONTENT, "", &[]))
        }
        Method::PATCH => {
            let size = append(shared, id, request).await?;
            Ok(progress(StatusCode::ACCEPTED, name, id, size))
        }
        Method::PUT => {
            let Some(digest) = digest else { return Err(Refusal::digest_invalid("the digest is missing")) };
            append(shared, id, request).await?;
            finish(shared, name, id, &digest).await
        }
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "the operation is unsupported")),
    }
}

async fn begin(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    name: &str,
    digest: Option<String>,
    query: &Query,
) -> Result<Answer, Refusal> {
    if let Some(mounted) = query.get("mount") {
        checked(mounted)?;
        let from = query.get("from").map(str::to_owned);
        if let Some(from) = from.filter(|f| crate::store::is_name(f)) {
            let (store, repository, blob) = (Arc::clone(shared), name.to_owned(), mounted.to_owned());
            let linked = blocking(move || {
                let _changing = store.store.changing();
                let there = content::find(&store, &from, &blob)?.is_some();
                if there {
                    store.store.set_link(&repository, Link::Layer, &blob, "")?;
                }
                Ok(there)
            })
            .await?;
            if linked {
                return Ok(created(name, mounted));
            }
        }
    }
    let Some(id) = shared.store.begin(name)? else {
        return Err(Refusal::too_many());
    };
    if let Some(digest) = digest {
        append(shared, &id, request).await?;
        return finish(shared, name, &id, &digest).await;
    }
    Ok(progress(StatusCode::ACCEPTED, name, &id, 0))
}

fn progress(status: StatusCode, name: &str, id: &str, size: u64) -> Answer {
    let location = format!("/v2/{name}/blobs/uploads/{id}");
    let range = format!("0-{}", size.saturating_sub(1));
    with(status, "", &[(LOCATION, &location), (RANGE, &range), (UPLOAD_ID, id), (CONTENT_LENGTH, "0")])
}

fn created(name: &str, digest: &str) -> Answer {
    let location = format!("/v2/{name}/blobs/{digest}");
    with(StatusCode::CREATED, "", &[(LOCATION, &location), (CONTENT_DIGEST, digest), (CONTENT_LENGTH, "0")])
}

/// Adds a request's body to an upload; answers its size then. What breaks off in the middle of a chunk is undone, so
/// that the size is what the client believes.
async fn append(shared: &Arc<Shared>, id: &str, request: Request<Incoming>) -> Result<u64, Refusal> {
    let upload = shared.store.upload(id).ok_or_else(Refusal::upload_unknown)?;
    let mut upload = upload.try_lock_owned().map_err(|_| {
        Refusal::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", "another request is writing to this upload")
    })?;
    let range = request.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
    if let Some(range) = range {
        let start = range.trim_start_matches("bytes ").split('-').next().and_then(|n| n.parse::<u64>().ok());
        if start != Some(upload.size) {
            return Err(Refusal::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "BLOB_UPLOAD_INVALID",
                "the chunk does not begin where the upload ends",
            ));
        }
    }
    let said = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|n| upload.size.saturating_add(n) > shared.max_upload) {
        shared.store.forget(id);
        return Err(Refusal::too_large(shared.max_upload));
    }
    let (before, hasher) = (upload.size, upload.hasher.clone());
    let mut body = request.into_body();
    loop {
        let data = match body.frame().await {
            None => return Ok(upload.size),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(e)) => {
                upload.file.set_len(before)?;
                upload.file.seek(SeekFrom::Start(before))?;
                (upload.size, upload.hasher) = (before, hasher);
                return Err(Refusal::upload_invalid(format!("the upload broke off: {e}")));
            }
        };
        if upload.size.saturating_add(data.len() as u64) > shared.max_upload {
            shared.store.forget(id);
            return Err(Refusal::too_large(shared.max_upload));
        }
        upload = blocking(move || {
            upload.add(&data)?;
            Ok(upload)
        })
        .await?;
    }
}

async fn finish(shared: &Arc<Shared>, name: &str, id: &str, digest: &str) -> Result<Answer, Refusal> {
    let upload = shared.store.upload(id).ok_or_else(Refusal::upload_unknown)?;
    let upload =
        upload.try_lock_owned().map_err(|_| Refusal::upload_invalid("another request is writing"))?;
    shared.store.forget(id);
    if wharf_registry::digest::finish(upload.hasher.clone()) != digest {
        return Err(Refusal::digest_invalid("provided digest did not match uploaded content"));
    }
    let (store, wanted) = (Arc::clone(shared), digest.to_owned());
    blocking(move || Ok(store.store.keep(&upload, &wanted, "")?)).await?;
    Ok(created(name, digest))
}

#[cfg(test)]
mod tests {
    use super::{Part, range};

    #[test]
    fn ranges() {
        assert_eq!(range("bytes=0-0", 10), Part::Of(0, 1));
        assert_eq!(range("bytes=5-", 10), Part::Of(5, 5));
        assert_eq!(range("bytes=5-99", 10), Part::Of(5, 5));
        assert_eq!(range("bytes=-3", 10), Part::Of(7, 3));
        assert_eq!(range("bytes=10-", 10), Part::Outside);
        assert_eq!(range("bytes=0-", 0), Part::Outside);
        assert_eq!(range("bytes=5-4", 10), Part::Whole);
        assert_eq!(range("items=1-2", 10), Part::Whole);
        assert_eq!(range("bytes=0-18446744073709551615", 10), Part::Of(0, 10));
    }
}
