//! Where the bytes of a blob and the text of a manifest come from: the directory, or the engine.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;
use wharf_registry::Document;

use crate::answer::{Body, Refusal, whole};
use crate::cache::Flight;
use crate::images::{Image, Index};
use crate::store::{CACHED, Kept, Link};
use crate::uploads::OWN;
use crate::{Images, Shared};

const PIECE: usize = 256 << 10;
/// Pieces of a layer that wait for the network.
const QUEUE: usize = 4;

/// A blob that is there.
pub(crate) enum Content {
    File(File),
    /// A configuration of the engine.
    Bytes(Bytes),
    /// A layer that the engine makes again, by its diff id or the digest of what it packs it as.
    Layer(String),
    /// It is on its way here.
    Flight(Arc<Flight>),
}

fn is_of(image: &Image, digest: &str) -> bool {
    image.id == digest || image.layers.iter().any(|l| l.diff_id == digest)
}

/// A blob of a repository, and its size.
pub(crate) fn find(shared: &Shared, name: &str, digest: &str) -> io::Result<Option<(Content, u64)>> {
    if let Some((file, size, text)) = shared.store.get(name, Link::Layer, digest)? {
        if text == CACHED {
            shared.store.touch(name, Link::Layer, digest);
        }
        return Ok(Some((Content::File(file), size)));
    }
    let Some(images) = &shared.images else { return Ok(None) };
    let linked = shared.store.link(name, Link::Layer, digest).exists();
    if !linked && !images.of_repository(name).iter().any(|image| is_of(image, digest)) {
        return Ok(None);
    }
    Ok(of_engine(images.as_ref(), digest))
}

/// A blob of the engine, whatever repository it belongs to.
pub(crate) fn of_engine(images: &dyn Images, digest: &str) -> Option<(Content, u64)> {
    if let Some(image) = images.image(digest) {
        let bytes = Bytes::copy_from_slice(image.config.as_bytes());
        let size = bytes.len() as u64;
        return Some((Content::Bytes(bytes), size));
    }
    images.layer_size(digest).map(|size| (Content::Layer(digest.to_owned()), size))
}

/// A manifest of a repository: its digest and what it is.
pub(crate) fn manifest(
    shared: &Shared,
    name: &str,
    wanted: &str,
    tag: bool,
) -> io::Result<Option<(String, Kept)>> {
    let store = &shared.store;
    let digest = if tag { store.tag(name, wanted)? } else { Some(wanted.to_owned()) };
    let kept = match digest {
        Some(digest) => store.document(name, &digest)?.map(|kept| (digest, kept)),
        None => None,
    };
    let Some(images) = &shared.images else { return Ok(kept) };
    if tag {
        // The engine's names count, and the directory knows what they were pushed as.
        if let Some(index) = images.tagged_index(name, wanted) {
            return match (store.document(name, &index.digest)?, index.members.as_slice()) {
                (Some(kept), _) => Ok(Some((index.digest, kept))),
                // Under its own manifest, as any other image.
                (None, [(image, _)]) => Ok(Some(own(kept, image))),
                (None, _) => Ok(Some(made_index(&index))),
            };
        }
        return Ok(match (images.tagged(name, wanted), kept) {
            (Some(image), kept) => Some(own(kept, &image)),
            (None, Some((digest, kept))) if kept.image.is_none() => Some((digest, kept)),
            (None, _) => None,
        });
    }
    match kept {
        Some((digest, kept)) if kept.image.as_ref().is_none_or(|id| images.image(id).is_some()) => {
            Ok(Some((digest, kept)))
        }
        _ => {
            let image = images.of_repository(name).iter().map(made).find(|(digest, _)| digest == wanted);
            let index = || images.indexes(name).iter().map(made_index).find(|(digest, _)| digest == wanted);
            Ok(image.or_else(index))
        }
    }
}

/// An image under the manifest that its tag was pushed or fetched with, if that was this image; else as it is made again.
fn own(kept: Option<(String, Kept)>, image: &Image) -> (String, Kept) {
    match kept {
        Some((digest, kept)) if kept.image.as_ref() == Some(&image.id) || is_cached(&kept, image) => {
            (digest, kept)
        }
        _ => made(image),
    }
}

/// Whether this is a manifest of another registry for the image.
fn is_cached(kept: &Kept, image: &Image) -> bool {
    let parsed = || Document::parse(&kept.bytes, &kept.media).ok();
    kept.cached && matches!(parsed(), Some((Document::Image(of), _)) if of.config.digest == image.id)
}

fn made_index(index: &Index) -> (String, Kept) {
    let (digest, bytes) = index.made();
    let image = index.members.first().map(|(image, _)| image.id.clone());
    (digest, Kept { bytes, media: wharf_registry::manifest::OCI_INDEX.to_owned(), image, cached: false })
}

fn made(image: &Image) -> (String, Kept) {
    let (digest, bytes) = image.manifest();
    let media = wharf_registry::manifest::OCI_MANIFEST.to_owned();
    (digest, Kept { bytes, media, image: Some(image.id.clone()), cached: false })
}

/// Tags of a repository, in order; None if there is no such repository.
pub(crate) fn tags(shared: &Shared, name: &str) -> io::Result<Option<Vec<String>>> {
    let own = shared.store.tags(name)?;
    let Some(images) = &shared.images else { return Ok(own) };
    let mut tags = images.tags(name);
    if tags.is_empty() && own.is_none() {
        return Ok(None);
    }
    for tag in own.unwrap_or_default() {
        if manifest(shared, name, &tag, true)?.is_some() {
            tags.push(tag);
        }
    }
    tags.sort();
    tags.dedup();
    Ok(Some(tags))
}

/// All repositories, in order.
pub(crate) fn repositories(shared: &Shared) -> io::Result<Vec<String>> {
    let mut all = shared.store.repositories()?;
    if let Some(images) = &shared.images {
        // Names with a port are none here.
        all.extend(images.repositories().into_iter().filter(|name| crate::store::is_name(name)));
        all.sort();
        all.dedup();
    }
    Ok(all)
}

/// A part of a blob as the body of an answer.
pub(crate) async fn body(
    shared: &Arc<Shared>,
    content: Content,
    start: u64,
    length: u64,
) -> Result<Body, Refusal> {
    match content {
        Content::File(mut file) => {
            file.seek(SeekFrom::Start(start))?;
            let reader = tokio::fs::File::from_std(file).take(length);
            let stream = ReaderStream::with_capacity(reader, PIECE).map_ok(Frame::data);
            Ok(BodyExt::boxed(StreamBody::new(stream)))
        }
        Content::Bytes(bytes) => {
            let part = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
            Ok(whole(bytes.slice(part(start)..part(start.saturating_add(length)))))
        }
        Content::Flight(flight) => Ok(BodyExt::boxed(StreamBody::new(Box::pin(flight.read(start, length))))),
        Content::Layer(digest) => {
            let mut reader = layer(shared, &digest).await?;
            let (to, from) = mpsc::channel(QUEUE);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = pass(&mut reader, start, length, &to) {
                    tracing::warn!(%error, digest, "a layer could not be made again");
                    // Ends the answer before its length, so that nobody takes it for whole.
                    let _ = to.blocking_send(Err(error));
                }
            });
            let stream =
                futures_util::stream::unfold(from, async |mut from: mpsc::Receiver<io::Result<Bytes>>| {
                    from.recv().await.map(|piece| (piece.map(Frame::data), from))
                });
            Ok(BodyExt::boxed(StreamBody::new(Box::pin(stream))))
        }
    }
}

async fn layer(shared: &Arc<Shared>, digest: &str) -> Result<Box<dyn Read + Send>, Refusal> {
    let images = shared.images.as_ref().ok_or_else(Refusal::blob_unknown)?;
    Ok(images.layer(digest).await?)
}

/// Reads a part and sends it on. Blocks.
fn pass(
    reader: &mut (dyn Read + Send),
    start: u64,
    mut length: u64,
    to: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    if start > 0 && io::copy(&mut reader.take(start), &mut io::sink())? != start {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    while length > 0 {
        let mut piece = Vec::new();
        let n = reader.take(length.min(PIECE as u64)).read_to_end(&mut piece)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        length -= n as u64;
        if to.blocking_send(Ok(piece.into())).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// All bytes of a small blob.
pub(crate) fn bytes(content: Content, limit: u64) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    match content {
        Content::File(file) => file.take(limit).read_to_end(&mut bytes).map(drop)?,
        Content::Bytes(found) => bytes.extend_from_slice(&found),
        Content::Layer(_) | Content::Flight(_) => {
            return Err(Refusal::manifest_invalid("the configuration is a layer"));
        }
    }
    Ok(bytes)
}

/// Puts a blob that only the engine has into a file of its own, for good: it belongs to something that is no image.
pub(crate) async fn settle(shared: &Arc<Shared>, name: &str, digest: &str) -> Result<(), Refusal> {
    shared.store.pin(digest)?;
    if shared.store.blob(digest).exists() {
        return Ok(());
    }
    let (repository, wanted) = (name.to_owned(), digest.to_owned());
    let own = Arc::clone(shared);
    let found = crate::route::blocking(move || Ok(find(&own, &repository, &wanted)?)).await?;
    let (content, _) = found.ok_or_else(Refusal::blob_unknown)?;
    let mut reader: Box<dyn Read + Send> = match content {
        Content::File(_) | Content::Flight(_) => return Ok(()),
        Content::Bytes(bytes) => Box::new(io::Cursor::new(bytes)),
        Content::Layer(digest) => layer(shared, &digest).await?,
    };
    let id = shared.store.uploads.begin(name, OWN)?.ok_or_else(Refusal::too_many)?;
    let entry = shared.store.uploads.get(&id).ok_or_else(Refusal::upload_unknown)?;
    let (own, wanted) = (Arc::clone(shared), digest.to_owned());
    let mut upload = entry.upload.lock_owned().await;
    let kept = crate::route::blocking(move || {
        let mut piece = vec![0; PIECE];
        loop {
            let n = reader.read(&mut piece)?;
            if n == 0 {
                break;
            }
            upload.add(piece.get(..n).unwrap_or_default())?;
        }
        if wharf_registry::digest::finish(upload.hasher.clone()) != wanted {
            return Err(io::Error::other("a layer is not what it was").into());
        }
        Ok(own.store.keep(&upload, &wanted, "")?)
    })
    .await;
    shared.store.uploads.forget(&id);
    kept
}
