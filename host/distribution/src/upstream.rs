//! Fetching what is not here from another registry.

use std::path::PathBuf;
use std::sync::Arc;

use hyper::StatusCode;
use wharf_registry::{
    Access, Credential, Descriptor, Kind, Piece, Registry, Repository, Selector, Session, Settings,
};

use crate::Shared;
use crate::answer::Refusal;
use crate::manifests;
use crate::route::blocking;
use crate::store::Link;

pub(crate) struct Upstream {
    name: String,
    registry: Registry,
}

fn refusal(error: &wharf_registry::Error) -> Refusal {
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

    /// Sees to it that a manifest is here, and that a tag is what it is there. An upstream that cannot be reached is no
    /// failure as long as something is here.
    pub(crate) async fn fetch_manifest(
        &self,
        shared: &Arc<Shared>,
        name: &str,
        wanted: &str,
        tag: bool,
    ) -> Result<(), Refusal> {
        let (store, repository, text) = (Arc::clone(shared), name.to_owned(), wanted.to_owned());
        let known = blocking(move || {
            let digest = if tag { store.store.tag(&repository, &text)? } else { Some(text) };
            Ok(digest.filter(|d| store.store.has(&repository, Link::Manifest, d)))
        })
        .await?;
        if known.is_some() && !tag {
            return Ok(());
        }
        let session = self.session(name).await?;
        let selector =
            if tag { Selector::Tag(wanted.to_owned()) } else { Selector::Digest(wanted.to_owned()) };
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
        let (store, repository, tag) = (Arc::clone(shared), name.to_owned(), tag.then(|| wanted.to_owned()));
        blocking(move || {
            manifests::keep(
                &store,
                &repository,
                tag.as_deref(),
                &fetched.digest,
                &fetched.bytes,
                &fetched.media_type,
                None,
            )
        })
        .await
        .map(drop)
    }

    /// Sees to it that a blob is here.
    pub(crate) async fn fetch_blob(
        &self,
        shared: &Arc<Shared>,
        name: &str,
        digest: &str,
    ) -> Result<(), Refusal> {
        let session = self.session(name).await?;
        let Some(size) = session.blob_size(digest).await.map_err(|e| refusal(&e))? else {
            return Err(Refusal::blob_unknown());
        };
        let descriptor = Descriptor { digest: digest.to_owned(), size, ..Descriptor::default() };
        let mut blob = session.blob(descriptor).map_err(|e| refusal(&e))?;
        let Some(id) = shared.store.begin(name)? else {
            return Err(Refusal::too_many());
        };
        let fetched = async {
            let upload = shared.store.upload(&id).ok_or_else(Refusal::upload_unknown)?;
            let mut upload = upload.lock_owned().await;
            while let Some(piece) = blob.next().await.map_err(|e| refusal(&e))? {
                let Piece::Data(data) = piece else { continue };
                upload = blocking(move || {
                    upload.add(&data)?;
                    Ok(upload)
                })
                .await?;
            }
            let (store, digest) = (Arc::clone(shared), digest.to_owned());
            blocking(move || Ok(store.store.keep(&upload, &digest)?)).await
        };
        let fetched = fetched.await;
        shared.store.forget(&id);
        fetched
    }
}
