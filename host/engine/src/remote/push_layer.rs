//! One layer of a push: what the registry has already is not sent, and what has to keep its bytes keeps them.

use std::sync::Arc;

use wharf_images::{Blob, LayerRef, Packed};
use wharf_plan::platform::Platform;
use wharf_registry::{Descriptor, Session};

use super::pack::{self, Packing};
use super::progress::{Lines, Meter};
use super::relay::{Passing, Sources};
use super::short;
use crate::Engine;
use crate::error::{Error, Result};

/// Pieces on their way from the compressor to the network.
const QUEUE: usize = 3;
/// Blobs of a layer that the registry is asked about before it is sent, and sources that are asked for one.
const TRIES: usize = 4;

/// The bytes that a layer should be sent as, because a manifest names them.
#[derive(Debug, Clone)]
pub(super) struct Exact {
    /// As the manifest names it.
    pub(super) blob: Descriptor,
    /// The manifest.
    pub(super) manifest: String,
    /// Repositories in full that had the blob.
    pub(super) sources: Vec<String>,
    /// Whether it may be fetched from there: not if the manifest was made here, as then packing costs less.
    pub(super) fetch: bool,
}

/// One layer on its way.
pub(super) struct Layer {
    pub(super) engine: Engine,
    pub(super) session: Session,
    pub(super) sources: Arc<Sources>,
    pub(super) repository: String,
    pub(super) domain: String,
    pub(super) what: LayerRef,
    pub(super) exact: Option<Exact>,
    pub(super) platform: Platform,
    pub(super) packing: Packing,
    pub(super) lines: Lines,
}

impl Layer {
    pub(super) fn say(&self, status: &str) {
        self.lines.say(short(&self.what.diff_id), status);
    }

    /// Sees to it that the registry has the layer; answers the blob that it has.
    pub(super) async fn run(&self) -> Result<Blob> {
        if let Some(exact) = &self.exact
            && let Some(blob) = self.as_it_was(exact).await?
        {
            return Ok(blob);
        }
        if let Some(blob) = self.there().await? {
            return Ok(blob);
        }
        self.send(self.packing).await
    }

    fn ours(&self, blob: Blob) -> Blob {
        Blob { source: self.repository.clone(), ..blob }
    }

    async fn mounted(&self, digest: &str, source: &str) -> Result<bool> {
        let path = source.strip_prefix(self.domain.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let Some(path) = path.filter(|_| source != self.repository) else { return Ok(false) };
        if !self.session.mount(digest, path).await? {
            return Ok(false);
        }
        self.say(&format!("Mounted from {path}"));
        Ok(true)
    }

    /// The very bytes that a manifest names: there already, made again here, or passed on from where they came from.
    async fn as_it_was(&self, exact: &Exact) -> Result<Option<Blob>> {
        let digest = &exact.blob.digest;
        let blob = Blob {
            digest: digest.clone(),
            size: exact.blob.size,
            media_type: exact.blob.media_type.clone(),
            source: self.repository.clone(),
        };
        if self.session.has_blob(digest).await?.is_some() {
            self.say("Layer already exists");
            return Ok(Some(blob));
        }
        for source in exact.sources.iter().take(TRIES) {
            if self.mounted(digest, source).await? {
                return Ok(Some(blob));
            }
        }
        if let Some(packing) = self.engine.packing_of(digest, &self.what.diff_id)? {
            let sent = self.send(packing).await?;
            // A manifest has its own word for what it is.
            return Ok(Some(if sent.digest == *digest { blob } else { sent }));
        }
        if !exact.fetch {
            return Ok(None);
        }
        let mut failed = None;
        for source in exact.sources.iter().take(TRIES) {
            let passing = Passing {
                blob: &exact.blob,
                source: (source, &exact.manifest),
                platform: &self.platform,
                diff_id: &self.what.diff_id,
            };
            match self.sources.pass(&self.session, &passing, &self.lines).await? {
                None => {
                    self.say("Pushed");
                    return Ok(Some(blob));
                }
                Some(why) => failed = Some((source, why)),
            }
        }
        if let Some((source, why)) = failed {
            self.lines.text(format!(
                "The layer {} is not sent as it was, because {source} does not give it: {why}",
                short(&self.what.diff_id)
            ));
        }
        Ok(None)
    }

    /// The registry may have the layer from an earlier push or pull, here or in another repository.
    async fn there(&self) -> Result<Option<Blob>> {
        let known = self.engine.inner.images.blobs(&self.what.diff_id)?;
        let (mut here, elsewhere): (Vec<Blob>, Vec<Blob>) =
            known.into_iter().partition(|b| b.source == self.repository);
        // Whatever its source, the registry may have the same bytes.
        here.extend(elsewhere.iter().cloned());
        let asked_before = self.exact.as_ref().map(|exact| exact.blob.digest.as_str());
        let mut asked: Vec<&str> = asked_before.into_iter().collect();
        for blob in &here {
            if asked.contains(&blob.digest.as_str()) || asked.len() >= TRIES {
                continue;
            }
            asked.push(&blob.digest);
            if self.session.has_blob(&blob.digest).await?.is_some() {
                self.say("Layer already exists");
                return Ok(Some(self.ours(blob.clone())));
            }
        }
        for blob in elsewhere.iter().filter(|b| Some(b.digest.as_str()) != asked_before).take(TRIES) {
            if self.mounted(&blob.digest, &blob.source).await? {
                return Ok(Some(self.ours(blob.clone())));
            }
        }
        Ok(None)
    }

    async fn send(&self, packing: Packing) -> Result<Blob> {
        let images = &self.engine.inner.images;
        let (stream, size) = images.layer_stream(&self.what.chain_id).await?;
        let meter = Meter::new(&self.lines, short(&self.what.diff_id), "Pushing", size);
        let (from, packed) = pack::packing(stream, packing, meter, QUEUE);
        let sent = self.session.upload(from, |_| ()).await;
        packed.await.map_err(|e| Error::internal(format!("a compressor ended: {e}")))?;
        let sent = sent?;
        self.say("Pushed");
        if sent.digest != self.what.diff_id {
            let recipe = packing.recipe().map_err(|e| Error::internal(e.to_string()))?;
            let packed = Packed { diff_id: self.what.diff_id.clone(), size: sent.size, packing: recipe };
            images.remember_packed(&sent.digest, &packed).await?;
        }
        Ok(Blob {
            digest: sent.digest,
            size: sent.size,
            media_type: packing.media_type().to_owned(),
            source: self.repository.clone(),
        })
    }
}

impl Engine {
    /// How this host makes a blob again, byte for byte, of a layer; none if it does not know.
    pub(super) fn packing_of(&self, blob: &str, diff_id: &str) -> Result<Option<Packing>> {
        if blob == diff_id {
            return Ok(Some(Packing::Uncompressed));
        }
        let packed = self.inner.images.packed(blob)?.filter(|packed| packed.diff_id == diff_id);
        Ok(packed.and_then(|packed| Packing::of_recipe(&packed.packing)))
    }
}
