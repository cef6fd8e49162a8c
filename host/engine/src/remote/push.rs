//! `docker push`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use wharf_images::reference::Reference;
use wharf_images::{Blob, Image, LayerRef, Manifest};
use wharf_registry::manifest::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LAYER_TAR, DOCKER_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP,
    OCI_LAYER_TAR, OCI_MANIFEST,
};
use wharf_registry::{Access, Descriptor, Selector, Session};

use super::pack::{Packing, pack};
use super::progress::{Lines, Meter};
use super::{credential, short};
use crate::error::{Error, Result};
use crate::images::Progress;
use crate::policy::Subject;
use crate::{Caller, Engine};

/// Pieces on their way from the compressor to the network.
const QUEUE: usize = 3;
/// Blobs of a layer that the registry is asked about before it is sent.
const TRIES: usize = 4;

/// Of `POST /images/{}/push`.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// Repository.
    pub name: String,
    /// Tag; without one all tags of the repository are meant.
    pub tag: Option<String>,
    /// `os[/arch[/variant]]` that the image has to be of.
    pub platform: Option<String>,
    /// Headers that begin with `x-registry-`.
    pub headers: HashMap<String, String>,
}

impl Engine {
    /// `POST /images/{}/push`.
    pub async fn image_push(&self, options: PushOptions, caller: &Caller, progress: Progress) -> Result<()> {
        let (lines, pass) = Lines::new(progress);
        let work = self.push_all(options, caller, lines);
        let (result, ()) = tokio::join!(work, pass);
        result
    }

    async fn push_all(&self, options: PushOptions, caller: &Caller, lines: Lines) -> Result<()> {
        let repository = Reference::parse(&options.name)?;
        if repository.digest.is_some() {
            return Err(Error::invalid("cannot push a digest reference"));
        }
        let tag = options.tag.clone().filter(|t| !t.is_empty()).or_else(|| repository.tag.clone());
        let wanted = match &tag {
            Some(tag) => Some(Reference::parse(&format!("{}:{tag}", repository.name()))?),
            None => None,
        };
        let mut chosen: Vec<(Reference, Arc<Image>)> = Vec::new();
        for image in self.inner.images.list() {
            for name in image.repo_tags.iter().filter_map(|t| Reference::parse(t).ok()) {
                let fits = match &wanted {
                    Some(wanted) => name == *wanted,
                    None => name.name() == repository.name(),
                };
                if fits {
                    chosen.push((name, Arc::clone(&image)));
                }
            }
        }
        if chosen.is_empty() {
            let name = wanted.as_ref().unwrap_or(&repository).familiar_name();
            return Err(Error::not_found(format!("An image does not exist locally with the tag: {name}")));
        }
        chosen.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, image) in &chosen {
            crate::variants::check_platform(image, &name.familiar(), options.platform.as_deref())?;
        }
        for (name, image) in &chosen {
            self.push_hook(caller, name, image).await?;
        }
        let mut sources: Vec<String> = Vec::new();
        for (_, image) in &chosen {
            for layer in image.layers.iter() {
                sources.extend(self.inner.images.blobs(&layer.diff_id)?.into_iter().map(|b| b.source));
            }
        }
        let prefix = format!("{}/", repository.domain);
        sources.retain(|s| *s != repository.name());
        sources.sort();
        sources.dedup();
        let sources = sources.iter().filter_map(|s| s.strip_prefix(&prefix)).take(8).map(str::to_owned);
        let session = self
            .remote(&repository, Access::Push, credential(&options.headers)?)
            .await?
            .with_sources(sources);
        lines.text(format!("The push refers to repository [{}]", repository.name()));
        for (name, image) in chosen {
            Push { engine: self, session: &session, name, image, lines: &lines }.run().await?;
        }
        Ok(())
    }

    async fn push_hook(&self, caller: &Caller, name: &Reference, image: &Image) -> Result<()> {
        let target = name.full();
        let labels = image.config.labels.clone().unwrap_or_default().into_iter().collect();
        let subject = Subject { point: "image-push", target: &target, labels, dry_run: false };
        let object = || {
            let config = serde_json::from_str::<Value>(&image.raw_config).unwrap_or_default();
            json!({"reference": target, "image": image.id, "config": config})
        };
        if self.review(caller, subject, object).await?.object.is_some() {
            return Err(Error::internal("a policy wants to change an image that is pushed"));
        }
        Ok(())
    }
}

/// One name on its way.
struct Push<'a> {
    engine: &'a Engine,
    session: &'a Session,
    name: Reference,
    image: Arc<Image>,
    lines: &'a Lines,
}

impl Push<'_> {
    async fn run(self) -> Result<()> {
        let images = &self.engine.inner.images;
        for layer in self.image.layers.iter().rev() {
            self.lines.say(short(&layer.diff_id), "Preparing");
        }
        let blobs = self.layers().await?;
        let config = Bytes::copy_from_slice(self.image.raw_config.as_bytes());
        if self.session.has_blob(&self.image.id).await?.is_none() {
            self.session.upload_bytes(config.clone()).await?;
        }
        let (media_type, content) = self.manifest(&blobs, config.len() as u64)?;
        let tag = self.name.tag.clone().unwrap_or_else(|| "latest".into());
        let sent = self
            .session
            .put_manifest(&Selector::Tag(tag.clone()), &media_type, content.clone().into())
            .await?;
        let known = Manifest {
            source: self.name.name(),
            digest: sent.digest.clone(),
            media_type: media_type.clone(),
            content,
            root: sent.digest.clone(),
            root_type: media_type,
            root_size: sent.size,
        };
        images.pushed(&self.image.id, &known, &blobs).await?;
        self.lines.text(format!("{tag}: digest: {} size: {}", sent.digest, sent.size));
        self.lines.send(json!({
            "progressDetail": {}, "aux": {"Tag": tag, "Digest": sent.digest, "Size": sent.size},
        }));
        let labels = self.image.config.labels.clone().unwrap_or_default();
        let attributes = labels.into_iter().chain([("name".to_owned(), self.name.familiar_name())]);
        self.engine.inner.events.publish("image", "push", self.name.familiar(), attributes);
        Ok(())
    }

    /// Sees to it that the registry has all layers; answers the blobs, lowest first.
    async fn layers(&self) -> Result<Vec<Blob>> {
        let permits =
            Arc::new(Semaphore::new(self.engine.inner.settings().registry.concurrent_uploads.clamp(1, 64)));
        let mut working = tokio::task::JoinSet::new();
        // A layer that comes twice is sent once.
        let unique: BTreeMap<&str, &LayerRef> =
            self.image.layers.iter().map(|l| (l.diff_id.as_str(), l)).collect();
        let mut unique: Vec<&LayerRef> = unique.into_values().collect();
        // Large ones first, so that none is left to go alone at the end.
        unique.sort_by_key(|layer| std::cmp::Reverse(layer.size));
        let packing = self.engine.inner.settings().registry.packing;
        for layer in unique {
            let one = Layer {
                engine: self.engine.clone(),
                session: self.session.clone(),
                repository: self.name.name(),
                domain: self.name.domain.clone(),
                what: layer.clone(),
                packing,
                lines: self.lines.clone(),
            };
            let permits = Arc::clone(&permits);
            working.spawn(async move {
                if permits.available_permits() == 0 {
                    one.say("Waiting");
                }
                let _permit = permits.acquire_owned().await.map_err(|e| Error::internal(e.to_string()))?;
                Ok::<_, Error>((one.what.diff_id.clone(), one.run().await?))
            });
        }
        let mut done: HashMap<String, Blob> = HashMap::new();
        while let Some(result) = working.join_next().await {
            let (diff_id, blob) =
                result.map_err(|e| Error::internal(format!("a layer's task ended: {e}")))??;
            done.insert(diff_id, blob);
        }
        let blob = |layer: &LayerRef| {
            done.get(&layer.diff_id).cloned().ok_or_else(|| Error::internal("a layer was not pushed"))
        };
        self.image.layers.iter().map(blob).collect()
    }

    /// A manifest that names these blobs: the one that came with the image if it does, so that its digest stays.
    fn manifest(&self, blobs: &[Blob], config_size: u64) -> Result<(String, String)> {
        #[derive(serde::Deserialize)]
        struct Known {
            config: Descriptor,
            layers: Vec<Descriptor>,
        }
        for known in self.engine.inner.images.manifests(&self.image.id)? {
            if let Ok(parsed) = serde_json::from_str::<Known>(&known.content)
                && parsed.config.digest == self.image.id
                && parsed.layers.len() == blobs.len()
                && parsed.layers.iter().zip(blobs).all(|(a, b)| a.digest == b.digest)
            {
                return Ok((known.media_type, known.content));
            }
        }
        let docker = blobs.iter().all(|b| docker_type(&b.media_type).is_some());
        let layers: Vec<Value> = blobs
            .iter()
            .map(|b| {
                let media = if docker { docker_type(&b.media_type) } else { Some(oci_type(&b.media_type)) };
                json!({"mediaType": media, "size": b.size, "digest": b.digest})
            })
            .collect();
        let (media_type, config_type) =
            if docker { (DOCKER_MANIFEST, DOCKER_CONFIG) } else { (OCI_MANIFEST, OCI_CONFIG) };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": {"mediaType": config_type, "size": config_size, "digest": self.image.id},
            "layers": layers,
        });
        Ok((media_type.to_owned(), serde_json::to_string_pretty(&manifest)?))
    }
}

/// Docker's word for a layer that is packed so; none if it has none.
fn docker_type(media: &str) -> Option<&'static str> {
    match media {
        DOCKER_LAYER | OCI_LAYER_GZIP => Some(DOCKER_LAYER),
        DOCKER_LAYER_TAR | OCI_LAYER_TAR => Some(DOCKER_LAYER_TAR),
        _ => None,
    }
}

fn oci_type(media: &str) -> &str {
    match media {
        DOCKER_LAYER => OCI_LAYER_GZIP,
        DOCKER_LAYER_TAR => OCI_LAYER_TAR,
        other => other,
    }
}

/// One layer on its way.
struct Layer {
    engine: Engine,
    session: Session,
    repository: String,
    domain: String,
    what: LayerRef,
    packing: Packing,
    lines: Lines,
}

impl Layer {
    fn say(&self, status: &str) {
        self.lines.say(short(&self.what.diff_id), status);
    }

    async fn run(&self) -> Result<Blob> {
        if let Some(blob) = self.there().await? {
            return Ok(blob);
        }
        self.send().await
    }

    fn ours(&self, blob: Blob) -> Blob {
        Blob { source: self.repository.clone(), ..blob }
    }

    /// The registry may have the layer from an earlier push or pull, here or in another repository.
    async fn there(&self) -> Result<Option<Blob>> {
        let known = self.engine.inner.images.blobs(&self.what.diff_id)?;
        let (mut here, elsewhere): (Vec<Blob>, Vec<Blob>) =
            known.into_iter().partition(|b| b.source == self.repository);
        // Whatever its source, the registry may have the same bytes.
        here.extend(elsewhere.iter().cloned());
        let mut asked: Vec<&str> = Vec::new();
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
        let prefix = format!("{}/", self.domain);
        for blob in elsewhere.iter().take(TRIES) {
            let Some(path) = blob.source.strip_prefix(&prefix) else { continue };
            if self.session.mount(&blob.digest, path).await? {
                self.say(&format!("Mounted from {path}"));
                return Ok(Some(self.ours(blob.clone())));
            }
        }
        Ok(None)
    }

    async fn send(&self) -> Result<Blob> {
        let (stream, size) = self.engine.inner.images.layer_stream(&self.what.chain_id).await?;
        let meter = Meter::new(&self.lines, short(&self.what.diff_id), "Pushing", size);
        let (to, from) = mpsc::channel(QUEUE);
        let packing = self.packing;
        let packed = tokio::task::spawn_blocking(move || {
            if let Err(error) = pack(stream, packing, &meter, &to) {
                // The other end says what went wrong, unless it is what went wrong.
                let _ = to.blocking_send(Err(error));
            }
        });
        let sent = self.session.upload(from, |_| ()).await;
        packed.await.map_err(|e| Error::internal(format!("a compressor ended: {e}")))?;
        let sent = sent?;
        self.say("Pushed");
        Ok(Blob {
            digest: sent.digest,
            size: sent.size,
            media_type: packing.media_type().to_owned(),
            source: self.repository.clone(),
        })
    }
}
