//! Content of other registries: which of it may be fetched, and how it is handed on while it arrives.
//!
//! One transfer of a blob serves all who ask for it meanwhile, and goes to its end though they go away. Bytes are passed on
//! as they come, but for the last ones, which only come when all of them turned out to be what was wanted.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::Frame;
use tokio::sync::watch;
use wharf_registry::{Blob, Descriptor, Document, Piece};

use crate::Shared;
use crate::answer::Refusal;
use crate::content::Content;
use crate::route::blocking;
use crate::store::{CACHED, Link, Store};
use crate::uploads::{OWN, Upload};
use crate::upstream::{self, refusal};

/// Bytes read at a time.
const PIECE: u64 = 256 << 10;

/// What is known of a repository's content elsewhere: the descriptor of a blob that one of its documents names.
fn named(store: &Store, name: &str, digest: &str) -> io::Result<Option<Descriptor>> {
    for (_, kept) in store.cached_documents(name)? {
        let Ok((Document::Image(image), _)) = Document::parse(&kept.bytes, &kept.media) else { continue };
        if let Some(blob) = image.blobs().find(|blob| blob.digest == digest) {
            return Ok(Some(blob.clone()));
        }
    }
    Ok(None)
}

/// The index of a repository that names a manifest: its descriptor, and what it says of the manifest.
pub(crate) fn index_of(
    store: &Store,
    name: &str,
    manifest: &str,
) -> io::Result<Option<(Descriptor, Descriptor)>> {
    for (digest, kept) in store.cached_documents(name)? {
        let Ok((Document::Index(entries), media_type)) = Document::parse(&kept.bytes, &kept.media) else {
            continue;
        };
        if let Some(entry) = entries.into_iter().find(|entry| entry.digest == manifest) {
            let size = kept.bytes.len() as u64;
            return Ok(Some((Descriptor { media_type, digest, size, ..Descriptor::default() }, entry)));
        }
    }
    Ok(None)
}

/// How far a transfer is.
#[derive(Debug, Clone, Default)]
struct Progress {
    written: u64,
    ended: Option<Result<(), Refusal>>,
}

/// A blob on its way from another registry.
pub(crate) struct Flight {
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
}

/// Blobs that are on their way, by digest.
pub(crate) type Flights = Mutex<HashMap<String, Weak<Flight>>>;

impl Flight {
    /// Waits until something of it has come, or it failed.
    async fn begun(&self) -> Result<(), Refusal> {
        let mut progress = self.progress.clone();
        let begun = progress.wait_for(|at| at.written > 0 || at.ended.is_some()).await;
        match begun.map(|at| at.ended.clone()) {
            Ok(Some(Err(refusal))) => Err(refusal),
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::other("a transfer ended").into()),
        }
    }

    /// Waits until all of it is here, or it failed.
    async fn arrived(&self) -> Result<(), Refusal> {
        let mut progress = self.progress.clone();
        let ended = progress.wait_for(|at| at.ended.is_some()).await.map(|at| at.ended.clone());
        ended.ok().flatten().unwrap_or_else(|| Err(io::Error::other("a transfer ended").into()))
    }

    /// A part of it, as it comes.
    pub(crate) fn read(
        self: Arc<Self>,
        start: u64,
        length: u64,
    ) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send + Sync {
        let progress = self.progress.clone();
        let end = start.saturating_add(length);
        futures_util::stream::unfold(Some((self, progress, start)), move |state| async move {
            let (flight, mut progress, at) = state?;
            if at >= end {
                return None;
            }
            let there = progress.wait_for(|now| now.written > at || now.ended.is_some()).await;
            let there = there.map(|now| (now.written, now.ended.clone()));
            let Ok((written, ended)) = there else {
                return Some((Err(io::Error::other("a transfer ended")), None));
            };
            if written <= at {
                let why = ended.and_then(Result::err).map_or("it is shorter".to_owned(), |e| e.to_string());
                return Some((Err(io::Error::other(why)), None));
            }
            let (file, count) = (Arc::clone(&flight.file), (written.min(end) - at).min(PIECE));
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; usize::try_from(count).unwrap_or_default()];
                file.read_exact_at(&mut piece, at).map(|()| Bytes::from(piece))
            });
            match read.await.map_err(io::Error::other).and_then(|read| read) {
                Ok(piece) => {
                    let next = at + piece.len() as u64;
                    Some((Ok(Frame::data(piece)), Some((flight, progress, next))))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

/// A blob that is not here and may be fetched: what there is of it already, and its size. Nothing is fetched if only its
/// size is wanted.
pub(crate) async fn blob(
    shared: &Arc<Shared>,
    name: &str,
    digest: &str,
    only_size: bool,
) -> Result<Option<(Content, u64)>, Refusal> {
    if shared.upstream.is_none() && shared.images.is_none() {
        return Ok(None);
    }
    let (own, repository, wanted) = (Arc::clone(shared), name.to_owned(), digest.to_owned());
    // Beside an engine only what a document names that was let through.
    let (descriptor, there) = blocking(move || {
        let named = named(&own.store, &repository, &wanted)?;
        // Else a sweep could remove the blob before the link says that it is needed.
        let _changing = own.store.changing();
        let there = named.is_some() && own.store.blob(&wanted).exists();
        if there {
            // Another repository has it.
            own.store.set_link(&repository, Link::Layer, &wanted, CACHED)?;
        }
        Ok((named, there))
    })
    .await?;
    if there {
        let (own, repository, wanted) = (Arc::clone(shared), name.to_owned(), digest.to_owned());
        return blocking(move || Ok(crate::content::find(&own, &repository, &wanted)?)).await;
    }
    if descriptor.is_none() && shared.upstream.is_none() {
        return Ok(None);
    }
    if let Some(flight) = under_way(shared, digest)
        && let Some(descriptor) = &descriptor
    {
        flight.begun().await?;
        return Ok(Some((Content::Flight(flight), descriptor.size)));
    }
    let Some(elsewhere) = upstream::source(shared, name, digest).await? else { return Ok(None) };
    let session = elsewhere.session;
    let descriptor = match descriptor {
        Some(descriptor) => descriptor,
        None => match session.blob_size(digest).await.map_err(|e| refusal(&e))? {
            Some(size) => Descriptor { digest: digest.to_owned(), size, ..Descriptor::default() },
            None => return Ok(None),
        },
    };
    let size = descriptor.size;
    let most = shared.max_upload();
    if size > most {
        return Err(Refusal::too_large(most));
    }
    if only_size {
        return Ok(Some((Content::Bytes(Bytes::new()), size)));
    }
    let blob = session.blob(descriptor).map_err(|e| refusal(&e))?;
    let flight = begin(shared, name, digest, blob).await?;
    flight.begun().await?;
    Ok(Some((Content::Flight(flight), size)))
}

/// Fetches a blob that is not here, if it may be fetched and there is such a one, and waits for its end.
pub(crate) async fn obtain(shared: &Arc<Shared>, name: &str, digest: &str) -> Result<(), Refusal> {
    match blob(shared, name, digest, false).await? {
        Some((Content::Flight(flight), _)) => flight.arrived().await?,
        Some(_) => {}
        None => return Err(Refusal::blob_unknown()),
    }
    // Another transfer may have been for another repository, which does not make it this one's.
    let (own, name, digest) = (Arc::clone(shared), name.to_owned(), digest.to_owned());
    blocking(move || {
        let _changing = own.store.changing();
        if own.store.blob(&digest).exists() {
            own.store.set_link(&name, Link::Layer, &digest, CACHED)?;
        }
        Ok(())
    })
    .await
}

fn under_way(shared: &Shared, digest: &str) -> Option<Arc<Flight>> {
    let mut flights = shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
    flights.retain(|_, flight| flight.strong_count() > 0);
    flights.get(digest).and_then(Weak::upgrade)
}

/// Begins a transfer, unless there is one.
async fn begin(shared: &Arc<Shared>, name: &str, digest: &str, blob: Blob) -> Result<Arc<Flight>, Refusal> {
    let id = shared.store.uploads.begin(name, OWN)?.ok_or_else(Refusal::too_many)?;
    let entry = shared.store.uploads.get(&id).ok_or_else(Refusal::upload_unknown)?;
    let upload = entry.upload.lock_owned().await;
    let (tell, progress) = watch::channel(Progress::default());
    let file = upload.file.try_clone().inspect_err(|_| {
        shared.store.uploads.forget(&id);
    })?;
    let flight = Arc::new(Flight { file: Arc::new(file), progress });
    {
        let mut flights = shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = flights.get(digest).and_then(Weak::upgrade) {
            shared.store.uploads.forget(&id);
            return Ok(other);
        }
        flights.insert(digest.to_owned(), Arc::downgrade(&flight));
    }
    let (own, digest, held) = (Arc::clone(shared), digest.to_owned(), Arc::clone(&flight));
    tokio::spawn(async move {
        let result = fetch(&own, upload, &digest, blob, &tell).await;
        if let Err(refusal) = &result {
            tracing::warn!(error = %refusal, digest, "a blob could not be fetched");
        }
        own.store.uploads.forget(&id);
        own.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        tell.send_modify(|now| now.ended = Some(result));
        drop(held);
    });
    Ok(flight)
}

async fn fetch(
    shared: &Arc<Shared>,
    mut upload: tokio::sync::OwnedMutexGuard<Upload>,
    digest: &str,
    mut blob: Blob,
    tell: &watch::Sender<Progress>,
) -> Result<(), Refusal> {
    while let Some(piece) = blob.next().await.map_err(|e| refusal(&e))? {
        let Piece::Data(data) = piece else { continue };
        upload = blocking(move || {
            upload.add(&data)?;
            Ok(upload)
        })
        .await?;
        tell.send_modify(|now| now.written = upload.size);
    }
    let (own, digest, size) = (Arc::clone(shared), digest.to_owned(), upload.size);
    blocking(move || Ok(own.store.keep(&upload, &digest, CACHED)?)).await?;
    shared.cached_more(size);
    Ok(())
}
