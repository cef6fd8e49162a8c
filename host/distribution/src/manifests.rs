//! Manifests, tags, referrers.

use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK, LOCATION};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use wharf_registry::manifest::{MAX_MANIFEST, OCI_INDEX};
use wharf_registry::{Document, digest};

use crate::Shared;
use crate::answer::{Answer, CONTENT_DIGEST, FILTERS, Refusal, SUBJECT, with};
use crate::content;
use crate::route::{Query, blocking};
use crate::store::{Kept, Link};
use crate::taking::{self, Put};
use crate::upstream;
use crate::{Images, Why};

/// Bytes of one page of referrers, about; clients read no more than 4 MiB.
const PAGE: usize = 1 << 20;

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// A tag or a digest.
fn reference(text: &str) -> Result<bool, Refusal> {
    if text.contains(':') {
        digest::check(text).map_err(|e| Refusal::digest_invalid(e.to_string()))?;
        return Ok(false);
    }
    if is_tag(text) {
        return Ok(true);
    }
    Err(Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown: invalid tag"))
}

pub(crate) async fn serve(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    name: &str,
    wanted: &str,
    user: Option<&str>,
) -> Result<Answer, Refusal> {
    let tag = reference(wanted)?;
    match *request.method() {
        Method::GET | Method::HEAD => {
            let (found, kept) = current(shared, name, wanted, tag).await?;
            let length = kept.bytes.len().to_string();
            let headers =
                [(CONTENT_TYPE, kept.media.as_str()), (CONTENT_DIGEST, &found), (CONTENT_LENGTH, &length)];
            Ok(with(StatusCode::OK, kept.bytes, &headers))
        }
        Method::PUT => put(shared, request, name, wanted, tag, user).await,
        Method::DELETE => match &shared.images {
            None => delete(shared, name, wanted, tag).await,
            Some(images) => {
                untake(shared, images, name, wanted, tag, user).await?;
                Ok(with(StatusCode::ACCEPTED, "", &[(CONTENT_LENGTH, "0")]))
            }
        },
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "the operation is unsupported")),
    }
}

/// A manifest that is here, or can be fetched: a tag of another registry as it is there now.
async fn current(
    shared: &Arc<Shared>,
    name: &str,
    wanted: &str,
    tag: bool,
) -> Result<(String, Kept), Refusal> {
    if shared.upstream.is_some() {
        upstream::fetch_manifest(shared, name, wanted, tag).await?;
    } else if tag && let Some(index) = lacking(shared, name, wanted).await? {
        // What the engine has is no less good for that its registry does not answer.
        if let Err(error) = upstream::fetch_manifest(shared, name, &index, false).await {
            tracing::debug!(%error, name, index, "an index is served as the engine makes it");
        }
    }
    let found = find(shared, name, wanted, tag).await?;
    let Some(images) = &shared.images else { return found.ok_or_else(Refusal::manifest_unknown) };
    // A tag of the engine leads where it does here, wherever it leads by now elsewhere; a digest never leads to anything else.
    let own = || images.tagged_index(name, wanted).is_some() || images.tagged(name, wanted).is_some();
    if let Some((digest, kept)) = found
        && (!kept.cached || !tag || own())
    {
        if kept.cached {
            let (shared, name, digest) = (Arc::clone(shared), name.to_owned(), digest.clone());
            blocking(move || {
                shared.store.touch(&name, Link::Manifest, &digest);
                Ok(())
            })
            .await?;
        }
        return Ok((digest, kept));
    }
    upstream::fetch_manifest(shared, name, wanted, tag).await?;
    find(shared, name, wanted, tag).await?.ok_or_else(Refusal::manifest_unknown)
}

/// The index that a tag of the engine leads to, if it came from a registry and is not here as it was there.
async fn lacking(shared: &Arc<Shared>, name: &str, tag: &str) -> Result<Option<String>, Refusal> {
    let Some(images) = shared.images.clone() else { return Ok(None) };
    let (own, name, tag) = (Arc::clone(shared), name.to_owned(), tag.to_owned());
    blocking(move || {
        let index = images.tagged_index(&name, &tag).map(|index| index.digest);
        let index = index.filter(|digest| !own.store.has(&name, Link::Manifest, digest));
        Ok(index.filter(|digest| images.is_pulled(&name, digest)))
    })
    .await
}

async fn find(
    shared: &Arc<Shared>,
    name: &str,
    wanted: &str,
    tag: bool,
) -> Result<Option<(String, Kept)>, Refusal> {
    let (own, name, wanted) = (Arc::clone(shared), name.to_owned(), wanted.to_owned());
    blocking(move || Ok(content::manifest(&own, &name, &wanted, tag)?)).await
}

async fn put(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    name: &str,
    wanted: &str,
    tag: bool,
    user: Option<&str>,
) -> Result<Answer, Refusal> {
    let media =
        request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let limit = usize::try_from(MAX_MANIFEST).unwrap_or(usize::MAX);
    let bytes = Limited::new(request.into_body(), limit).collect().await.map_err(|e| {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "SIZE_INVALID",
            format!("the manifest cannot be read: {e}"),
        )
    })?;
    let bytes = bytes.to_bytes();
    let found = digest::of(&bytes);
    if !tag && found != wanted {
        return Err(Refusal::digest_invalid("provided digest did not match uploaded content"));
    }
    let mut image = None;
    let (document, stated) =
        Document::parse(&bytes, &media).map_err(|e| Refusal::manifest_invalid(e.to_string()))?;
    upstream::complete(shared, name, &document).await?;
    if let Some(images) = &shared.images {
        let media = stated;
        let tag = tag.then_some(wanted);
        let put = Put { name, tag, digest: &found, media: &media, bytes: &bytes, user };
        image = taking::take(shared, images, &put, &document).await?;
    }
    let subject = {
        let (shared, name, wanted, found) =
            (Arc::clone(shared), name.to_owned(), wanted.to_owned(), found.clone());
        blocking(move || {
            let keep = Keep {
                name: &name,
                tag: tag.then_some(wanted.as_str()),
                digest: &found,
                bytes: &bytes,
                media: &media,
                image: image.as_deref(),
                cached: false,
            };
            self::keep(&shared, &keep)
        })
        .await?
    };
    let location = format!("/v2/{name}/manifests/{found}");
    let mut headers = vec![(LOCATION, location.as_str()), (CONTENT_DIGEST, &found), (CONTENT_LENGTH, "0")];
    if let Some(subject) = &subject {
        headers.push((SUBJECT, subject));
    }
    Ok(with(StatusCode::CREATED, "", &headers))
}

/// Fails if something that a document names is not here.
fn complete(shared: &Shared, name: &str, document: &Document) -> Result<(), Refusal> {
    match lacking_parts(shared, name, document)?.first() {
        Some(digest) => Err(Refusal::part_unknown(digest)),
        None => Ok(()),
    }
}

/// What a document names and is not here: manifests of an index, blobs of an image. What is here of other registries stays
/// from now on, as something else than those needs it.
pub(crate) fn lacking_parts(
    shared: &Shared,
    name: &str,
    document: &Document,
) -> Result<Vec<String>, Refusal> {
    let mut lacking = Vec::new();
    match document {
        Document::Index(entries) => {
            for entry in entries {
                match content::manifest(shared, name, &entry.digest, false)? {
                    Some((digest, _)) => shared.store.touch(name, Link::Manifest, &digest),
                    None => lacking.push(entry.digest.clone()),
                }
            }
        }
        Document::Image(image) => {
            for blob in image.blobs().filter(|b| b.urls.is_empty()) {
                let there = content::find(shared, name, &blob.digest)?;
                let lacks = there.is_none();
                if let Some((content::Content::File(_), size)) = there
                    && shared.store.adopt(name, &blob.digest)?
                {
                    shared.cached_less(size);
                }
                if lacks {
                    lacking.push(blob.digest.clone());
                }
            }
        }
    }
    Ok(lacking)
}

/// A manifest that is to be kept.
pub(crate) struct Keep<'a> {
    pub(crate) name: &'a str,
    pub(crate) tag: Option<&'a str>,
    pub(crate) digest: &'a str,
    pub(crate) bytes: &'a [u8],
    pub(crate) media: &'a str,
    /// The engine's image that it is.
    pub(crate) image: Option<&'a str>,
    /// It is of another registry: what it names need not be here, and it may go.
    pub(crate) cached: bool,
}

/// Checks and keeps a manifest; answers what it is about, if it is about another.
pub(crate) fn keep(shared: &Shared, what: &Keep<'_>) -> Result<Option<String>, Refusal> {
    let Keep { name, tag, digest, bytes, media, image, cached } = *what;
    let (document, media) =
        Document::parse(bytes, media).map_err(|e| Refusal::manifest_invalid(e.to_string()))?;
    let store = &shared.store;
    // A cache has only what was asked for so far.
    if !cached {
        complete(shared, name, &document)?;
    }
    let subject = Document::subject(bytes).map_err(|e| Refusal::manifest_invalid(e.to_string()))?;
    let text = Kept::note(&media, image, cached);
    if cached {
        if store.put_cached(name, digest, bytes, &text, tag)? {
            shared.cached_more(bytes.len() as u64);
        }
    } else {
        store.put(name, Link::Manifest, digest, bytes, &text)?;
    }
    if let Some(subject) = &subject {
        store.refer(name, subject, digest)?;
    }
    if let (Some(tag), false) = (tag, cached) {
        store.set_tag(name, tag, digest, false)?;
    }
    Ok(subject)
}

/// Takes names away from the engine, and what was kept of them here.
async fn untake(
    shared: &Arc<Shared>,
    images: &Arc<dyn Images>,
    name: &str,
    wanted: &str,
    tag: bool,
    user: Option<&str>,
) -> Result<(), Refusal> {
    let mut names: Vec<String> = Vec::new();
    if tag {
        names.push(wanted.to_owned());
    } else {
        let (own, repository, digest) = (Arc::clone(shared), name.to_owned(), wanted.to_owned());
        names = blocking(move || {
            let mut names = Vec::new();
            for one in content::tags(&own, &repository)?.unwrap_or_default() {
                if content::manifest(&own, &repository, &one, true)?.is_some_and(|(found, _)| found == digest)
                {
                    names.push(one);
                }
            }
            Ok(names)
        })
        .await?;
    }
    let mut any = false;
    for one in &names {
        if images.tagged(name, one).is_some() {
            images.remove(name, one, user).await?;
            any = true;
        }
    }
    if !tag {
        match images.remove(name, wanted, user).await {
            Ok(()) => any = true,
            Err(trouble) if trouble.why == Why::Absent => {}
            Err(trouble) => return Err(trouble.into()),
        }
    }
    match delete(shared, name, wanted, tag).await {
        Err(refusal) if !any => Err(refusal),
        _ => Ok(()),
    }
}

async fn delete(shared: &Arc<Shared>, name: &str, wanted: &str, tag: bool) -> Result<Answer, Refusal> {
    let (shared, name, wanted) = (Arc::clone(shared), name.to_owned(), wanted.to_owned());
    blocking(move || {
        let store = &shared.store;
        if tag {
            return if store.remove_tag(&name, &wanted)? { Ok(()) } else { Err(Refusal::manifest_unknown()) };
        }
        let kept = store.document(&name, &wanted)?;
        if store.drop_manifest(&name, &wanted, kept.as_ref())? {
            Ok(())
        } else {
            Err(Refusal::manifest_unknown())
        }
    })
    .await?;
    Ok(with(StatusCode::ACCEPTED, "", &[(CONTENT_LENGTH, "0")]))
}

pub(crate) async fn referrers(
    shared: &Arc<Shared>,
    method: &Method,
    name: &str,
    subject: &str,
    query: &Query,
) -> Result<Answer, Refusal> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            "the operation is unsupported",
        ));
    }
    digest::check(subject).map_err(|e| Refusal::digest_invalid(e.to_string()))?;
    let wanted = query.get("artifactType").map(str::to_owned);
    let after = query.get("last").unwrap_or_default().to_owned();
    let filter = wanted.clone();
    let own = format!("/v2/{name}/referrers/{subject}");
    let (shared, name, subject) = (Arc::clone(shared), name.to_owned(), subject.to_owned());
    let (found, more) = blocking(move || {
        let (mut found, mut length): (Vec<Value>, usize) = (Vec::new(), 0);
        let mut all = shared.store.referrers(&name, &subject)?;
        all.retain(|digest| *digest > after);
        let mut last = String::new();
        for digest in all {
            if length > PAGE {
                return Ok((found, Some(last)));
            }
            last.clone_from(&digest);
            let Some((_, Kept { bytes, media, .. })) = content::manifest(&shared, &name, &digest, false)?
            else {
                continue;
            };
            let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let text =
                |pointer: &str| value.pointer(pointer).and_then(Value::as_str).filter(|t| !t.is_empty());
            let kind = text("/artifactType").or_else(|| text("/config/mediaType")).unwrap_or_default();
            if filter.as_deref().is_some_and(|f| f != kind) {
                continue;
            }
            let mut one = json!({
                "mediaType": media, "digest": digest, "size": bytes.len(), "artifactType": kind,
            });
            if let (Some(map), Some(notes)) = (one.as_object_mut(), value.get("annotations")) {
                map.insert("annotations".into(), notes.clone());
            }
            length += one.to_string().len();
            found.push(one);
        }
        Ok((found, None))
    })
    .await?;
    let body = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}).to_string();
    let length = body.len().to_string();
    let mut headers = vec![(CONTENT_TYPE, OCI_INDEX), (CONTENT_LENGTH, length.as_str())];
    if wanted.is_some() {
        headers.push((FILTERS, "artifactType"));
    }
    let next;
    if let Some(last) = more {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("last", &last);
        if let Some(kind) = &wanted {
            query.append_pair("artifactType", kind);
        }
        next = format!("<{own}?{}>; rel=\"next\"", query.finish());
        headers.push((LINK, next.as_str()));
    }
    Ok(with(StatusCode::OK, body, &headers))
}
