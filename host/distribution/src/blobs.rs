//! Blobs and their uploads.

use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use hyper::{Method, Request, StatusCode};
use wharf_registry::digest;

use crate::answer::{Answer, CONTENT_DIGEST, Refusal, UPLOAD_ID, with};
use crate::route::{Query, blocking};
use crate::store::Link;
use crate::{Shared, cache, content};

/// How often it is noted that an upload goes on.
const NOTED: Duration = Duration::from_secs(1);

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
            let asks = request.method() == Method::HEAD;
            let found = blocking(move || {
                let found = content::find(&store, &repository, &blob)?;
                if asks && found.is_some() {
                    // Who asks for no more is about to push something that needs it.
                    store.store.touch(&repository, Link::Layer, &blob);
                }
                Ok(found)
            })
            .await?;
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
    client: &str,
) -> Result<Answer, Refusal> {
    let digest = query.get("digest").map(str::to_owned);
    if let Some(digest) = &digest {
        checked(digest)?;
    }
    if request.method() == Method::POST && id.is_empty() {
        return begin(shared, request, name, digest, query, client).await;
    }
    let entry = shared.store.uploads.get(id).ok_or_else(Refusal::upload_unknown)?;
    if &*entry.repository != name {
        return Err(Refusal::upload_unknown());
    }
    match *request.method() {
        Method::GET => Ok(progress(StatusCode::NO_CONTENT, name, id, entry.whole.load(Ordering::Acquire))),
        Method::DELETE => {
            shared.store.uploads.forget(id);
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
    client: &str,
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
                    // In this repository it stays, whatever it is in the other.
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
    let Some(id) = shared.store.uploads.begin(name, client)? else {
        return Err(Refusal::too_many());
    };
    if let Some(digest) = digest {
        if let Err(refusal) = append(shared, &id, request).await {
            // Nobody knows it by its name.
            shared.store.uploads.forget(&id);
            return Err(refusal);
        }
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

/// The bytes that a chunk says it has, as `first-last`.
fn chunk(header: &str) -> Option<(u64, u64)> {
    let range = header.trim().trim_start_matches("bytes ").split('/').next()?;
    let (first, last) = range.trim_start_matches("bytes=").split_once('-')?;
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

fn out_of_order() -> Refusal {
    let text = "the chunk does not begin where the upload ends";
    Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", text)
}

/// Adds a request's body to an upload; answers its size then. What breaks off in the middle of a chunk is undone, so
/// that the size is what the client believes.
async fn append(shared: &Arc<Shared>, id: &str, request: Request<Incoming>) -> Result<u64, Refusal> {
    let uploads = &shared.store.uploads;
    let entry = uploads.get(id).ok_or_else(Refusal::upload_unknown)?;
    let mut upload = entry.upload.try_lock_owned().map_err(|_| {
        Refusal::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", "another request is writing to this upload")
    })?;
    uploads.touch(id);
    let mut wanted = None;
    if let Some(range) = request.headers().get(CONTENT_RANGE) {
        let (first, count) = range.to_str().ok().and_then(chunk).ok_or_else(out_of_order)?;
        if first != upload.size {
            return Err(out_of_order());
        }
        wanted = Some(count);
    }
    let said = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let most = shared.max_upload();
    if said.or(wanted).is_some_and(|n| upload.size.saturating_add(n) > most) {
        uploads.forget(id);
        return Err(Refusal::too_large(most));
    }
    let (before, hasher) = (upload.size, upload.hasher.clone());
    let mut body = request.into_body();
    let mut noted = Instant::now();
    let broken = loop {
        let data = match tokio::time::timeout(uploads.idle(), body.frame()).await {
            Err(_) => break "nothing more of it came".to_owned(),
            Ok(None) => match wanted {
                Some(count) if upload.size - before != count => {
                    break format!("the chunk has {} bytes instead of {count}", upload.size - before);
                }
                _ => {
                    entry.whole.store(upload.size, Ordering::Release);
                    uploads.touch(id);
                    return Ok(upload.size);
                }
            },
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Ok(Some(Err(e))) => break e.to_string(),
        };
        if upload.size.saturating_add(data.len() as u64) > most {
            uploads.forget(id);
            return Err(Refusal::too_large(most));
        }
        if noted.elapsed() >= NOTED {
            noted = Instant::now();
            uploads.touch(id);
        }
        upload = blocking(move || {
            upload.add(&data)?;
            Ok(upload)
        })
        .await?;
    };
    upload.file.set_len(before)?;
    upload.file.seek(SeekFrom::Start(before))?;
    (upload.size, upload.hasher) = (before, hasher);
    Err(Refusal::upload_invalid(format!("the upload broke off: {broken}")))
}

async fn finish(shared: &Arc<Shared>, name: &str, id: &str, digest: &str) -> Result<Answer, Refusal> {
    let entry = shared.store.uploads.get(id).ok_or_else(Refusal::upload_unknown)?;
    let upload =
        entry.upload.try_lock_owned().map_err(|_| Refusal::upload_invalid("another request is writing"))?;
    shared.store.uploads.forget(id);
    if wharf_registry::digest::finish(upload.hasher.clone()) != digest {
        return Err(Refusal::digest_invalid("provided digest did not match uploaded content"));
    }
    let (store, wanted) = (Arc::clone(shared), digest.to_owned());
    blocking(move || Ok(store.store.keep(&upload, &wanted, "")?)).await?;
    Ok(created(name, digest))
}

#[cfg(test)]
mod tests {
    use super::{Part, chunk, range};

    #[test]
    fn chunks() {
        assert_eq!(chunk("0-4"), Some((0, 5)));
        assert_eq!(chunk("bytes 5-5/10"), Some((5, 1)));
        for bad in ["", "5", "5-4", "-4", "4-", "a-b", "0-18446744073709551615"] {
            assert_eq!(chunk(bad), None, "{bad}");
        }
    }

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
