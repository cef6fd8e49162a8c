//! Fetching what is not here from another registry: a registry's one upstream, or where an engine says that a name leads.

use std::path::PathBuf;
use std::sync::Arc;

use hyper::StatusCode;
use wharf_registry::{Access, Credential, Document, Kind, Registry, Repository, Selector, Session, Settings};

use crate::answer::Refusal;
use crate::images::{Elsewhere, Fetched};
use crate::manifests::{self, Keep};
use crate::route::blocking;
use crate::store::Link;
use crate::{Shared, cache};

/// The one registry whose cache this one is.
pub(crate) struct Upstream {
    name: String,
    registry: Registry,
}

pub(crate) fn refusal(error: &wharf_registry::Error) -> Refusal {
    match error.kind() {
        Kind::NotFound => Refusal::manifest_unknown(),
        _ => Refusal::new(StatusCode::BAD_GATEWAY, "UNKNOWN", format!("upstream: {error}")),
    }
}

impl Upstream {
    pub(crate) fn new(name: String, directories: Vec<PathBuf>) -> Self {
        let settings = Settings { directories, user_agent: "wharf-registry".into(), ..Settings::default() };
        Self { name, registry: Registry::new(settings) }
    }

    async fn session(&self, repository: &str) -> Result<Session, Refusal> {
        let path = if self.name == "docker.io" && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        let repository = Repository::new(&self.name, &path).map_err(|e| refusal(&e))?;
        let session = self.registry.session(repository, Access::Pull, Credential::Anonymous, None).await;
        session.map_err(|e| refusal(&e))
    }
}

/// Where a repository's content that is not here may be; none if nothing is fetched.
pub(crate) async fn source(
    shared: &Shared,
    name: &str,
    reference: &str,
) -> Result<Option<Elsewhere>, Refusal> {
    if let Some(upstream) = &shared.upstream {
        return Ok(Some(Elsewhere { session: upstream.session(name).await?, pinned: None }));
    }
    match &shared.images {
        Some(images) => Ok(images.elsewhere(name, reference).await?),
        None => Ok(None),
    }
}

/// Sees to it that a manifest is here, and that a tag is what it is there. An upstream that cannot be reached is no
/// failure as long as something is here.
pub(crate) async fn fetch_manifest(
    shared: &Arc<Shared>,
    name: &str,
    wanted: &str,
    tag: bool,
) -> Result<(), Refusal> {
    let (store, repository, text) = (Arc::clone(shared), name.to_owned(), wanted.to_owned());
    let (known, own) = blocking(move || {
        let own = tag && store.store.is_own_tag(&repository, &text)?;
        let digest = if tag { store.store.tag(&repository, &text)? } else { Some(text) };
        let known = digest.filter(|d| store.store.has(&repository, Link::Manifest, d));
        if let Some(known) = &known {
            store.store.touch(&repository, Link::Manifest, known);
        }
        Ok((known, own))
    })
    .await?;
    // A tag that was pushed here leads where it does here.
    if known.is_some() && (!tag || own) {
        return Ok(());
    }
    let Some(Elsewhere { session, pinned }) = source(shared, name, wanted).await? else { return Ok(()) };
    let selector = match (tag, pinned) {
        (true, None) => Selector::Tag(wanted.to_owned()),
        (true, Some(pinned)) => Selector::Digest(pinned),
        (false, _) => Selector::Digest(wanted.to_owned()),
    };
    let fetched = async {
        if let (Some(known), Some(now)) = (&known, session.head(&selector).await?)
            && *known == now.digest
        {
            return Ok(None);
        }
        session.manifest(&selector, None).await.map(Some)
    };
    let fetched = match fetched.await {
        Ok(fetched) => fetched,
        Err(error) if known.is_some() && error.kind() != Kind::NotFound => {
            tracing::warn!(%error, name, wanted, "upstream does not answer; what is here is served");
            None
        }
        Err(error) => return Err(refusal(&error)),
    };
    let Some(fetched) = fetched else { return Ok(()) };
    admit(shared, &session, name, wanted, &fetched).await?;
    let (own, repository, tag) = (Arc::clone(shared), name.to_owned(), tag.then(|| wanted.to_owned()));
    blocking(move || {
        let keep = Keep {
            name: &repository,
            tag: tag.as_deref(),
            digest: &fetched.digest,
            bytes: &fetched.bytes,
            media: &fetched.media_type,
            image: None,
            cached: true,
        };
        manifests::keep(&own, &keep)
    })
    .await
    .map(drop)
}

/// Sees to it that all that a pushed document names is here. Clients do not send what they were told is there, and they are told
/// so of what this registry only could fetch: so it is fetched now.
pub(crate) async fn complete(shared: &Arc<Shared>, name: &str, document: &Document) -> Result<(), Refusal> {
    let (own, repository, parts) = (Arc::clone(shared), name.to_owned(), document.clone());
    let lacking = blocking(move || manifests::lacking_parts(&own, &repository, &parts)).await?;
    for digest in lacking {
        let fetched = match document {
            Document::Index(_) => fetch_manifest(shared, name, &digest, false).await,
            Document::Image(_) => cache::obtain(shared, name, &digest).await,
        };
        match fetched {
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => {
                return Err(Refusal::part_unknown(&digest));
            }
            fetched => fetched?,
        }
    }
    Ok(())
}

/// Asks the engine's policies about an image. What is none, as statements about images, is nobody's to run.
async fn admit(
    shared: &Arc<Shared>,
    session: &Session,
    name: &str,
    reference: &str,
    manifest: &wharf_registry::Fetched,
) -> Result<(), Refusal> {
    let Some(images) = &shared.images else { return Ok(()) };
    if !matches!(&manifest.document, Document::Image(image) if image.runs().is_ok()) {
        return Ok(());
    }
    let (own, repository, digest) = (Arc::clone(shared), name.to_owned(), manifest.digest.clone());
    let index = blocking(move || Ok(cache::index_of(&own.store, &repository, &digest)?)).await?;
    let (root, platform) = match index {
        Some((root, entry)) => (root, entry.platform),
        None => (manifest.descriptor(), None),
    };
    let fetched = Fetched { session, repository: name, reference, root, platform, manifest };
    Ok(images.admit(fetched).await?)
}
