//! `docker push`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use wharf_images::image_index::{Document, Present};
use wharf_images::reference::Reference;
use wharf_images::{Blob, Image, ImageIndex, LayerRef, Manifest, Target};
use wharf_plan::platform::Platform;
use wharf_registry::manifest::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LAYER_TAR, DOCKER_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP,
    OCI_LAYER_TAR, OCI_MANIFEST,
};
use wharf_registry::{Access, Descriptor, Selector, Session};

use super::choose::{Chosen, choose};
use super::progress::Lines;
use super::pull::Own;
use super::push_layer::{Exact, Layer};
use super::relay::Sources;
use super::{credential, short};
use crate::error::{Error, Result};
use crate::images::Progress;
use crate::policy::Subject;
use crate::{Caller, Engine};

/// Of `POST /images/{}/push`.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// Repository.
    pub name: String,
    /// Tag; without one all tags of the repository are meant.
    pub tag: Option<String>,
    /// `os[/arch[/variant]]`: of an index only the image of this platform; what is no index has to be of it.
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
        let mut chosen: Vec<(Reference, What)> = Vec::new();
        for (name, target) in self.inner.images.names() {
            let fits = match &wanted {
                Some(wanted) => name == *wanted,
                None => name.digest.is_none() && name.name() == repository.name(),
            };
            if fits {
                let what = self.what(&name, &target, options.platform.as_deref())?;
                chosen.push((name, what));
            }
        }
        if chosen.is_empty() {
            let name = wanted.as_ref().unwrap_or(&repository).familiar_name();
            return Err(Error::not_found(format!("An image does not exist locally with the tag: {name}")));
        }
        chosen.sort_by(|a, b| a.0.cmp(&b.0));
        let mut sources: Vec<String> = Vec::new();
        for (name, what) in &chosen {
            for image in what.images() {
                self.push_hook(caller, name, image).await?;
                for layer in image.layers.iter() {
                    sources.extend(self.inner.images.blobs(&layer.diff_id)?.into_iter().map(|b| b.source));
                }
            }
        }
        let prefix = format!("{}/", repository.domain);
        sources.retain(|s| *s != repository.name());
        sources.sort();
        sources.dedup();
        let sources = sources.iter().filter_map(|s| s.strip_prefix(&prefix)).take(8).map(str::to_owned);
        let own = credential(&options.headers)?;
        let session = self.remote(&repository, Access::Push, own.clone()).await?.with_sources(sources);
        let own = Own { domain: repository.domain.clone(), credential: own };
        let sources = Arc::new(Sources::new(self.clone(), caller.clone(), own));
        lines.text(format!("The push refers to repository [{}]", repository.name()));
        for (name, what) in chosen {
            let sources = Arc::clone(&sources);
            Push { engine: self, session: &session, sources, name, lines: &lines }.run(what).await?;
        }
        Ok(())
    }

    /// What is to be pushed of what a name leads to.
    fn what(&self, name: &Reference, target: &Target, platform: Option<&str>) -> Result<What> {
        let images = &self.inner.images;
        let Some(index) = target.index.as_ref().and_then(|digest| images.index(digest)) else {
            let image = images.resolve(&target.image)?;
            crate::variants::check_platform(&image, &name.familiar(), platform)?;
            return Ok(What::Image { image, of: None });
        };
        let platform = platform.filter(|p| !p.is_empty()).map(Platform::parse).transpose()?;
        let present = |digest: &str| {
            let present = index.present.get(digest).ok_or_else(|| Error::internal("a lost manifest"))?;
            Ok::<_, Error>((images.resolve(&present.image)?, present.clone()))
        };
        match choose(&index, platform.as_ref(), &name.familiar())? {
            Chosen::Image(digest) => {
                let (image, present) = present(&digest)?;
                let instead = platform.is_none().then(|| Arc::clone(&index));
                Ok(What::Image { image, of: Some(OfIndex { manifest: present.manifest, instead }) })
            }
            Chosen::Index => {
                let all = index.here().map(|(entry, _)| present(&entry.digest)).collect::<Result<_>>()?;
                Ok(What::Index { index, images: all })
            }
        }
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

/// What a name's push sends.
pub(super) enum What {
    /// One image.
    Image { image: Arc<Image>, of: Option<OfIndex> },
    /// An index, and its images with what it says of them.
    Index { index: Arc<ImageIndex>, images: Vec<(Arc<Image>, Present)> },
}

/// An image is sent as one of an index.
pub(super) struct OfIndex {
    /// The manifest that the index has for it.
    manifest: Document,
    /// The index that would have been sent if all of it were here.
    instead: Option<Arc<ImageIndex>>,
}

impl What {
    fn images(&self) -> Vec<&Arc<Image>> {
        match self {
            Self::Image { image, .. } => vec![image],
            Self::Index { images, .. } => images.iter().map(|(image, _)| image).collect(),
        }
    }
}

/// One name on its way.
pub(super) struct Push<'a> {
    pub(super) engine: &'a Engine,
    pub(super) session: &'a Session,
    pub(super) sources: Arc<Sources>,
    pub(super) name: Reference,
    pub(super) lines: &'a Lines,
}

impl Push<'_> {
    async fn run(self, what: What) -> Result<()> {
        let tag = self.name.tag.clone().unwrap_or_else(|| "latest".into());
        let (sent, image) = match what {
            What::Image { image, of } => {
                let manifest = of.as_ref().map(|of| &of.manifest);
                let (sent, _) = self.image(&image, manifest, Some(&tag)).await?;
                if let Some(index) = of.as_ref().and_then(|of| of.instead.as_ref()) {
                    self.tell_instead(index, &sent);
                }
                (sent, image)
            }
            What::Index { index, images } => {
                let sent = self.index(&index, &images, &tag).await?;
                let first = images.into_iter().next().ok_or_else(|| Error::internal("an empty index"))?;
                (sent, first.0)
            }
        };
        self.lines.text(format!("{tag}: digest: {} size: {}", sent.digest, sent.size));
        self.lines.send(json!({
            "progressDetail": {}, "aux": {"Tag": tag, "Digest": sent.digest, "Size": sent.size},
        }));
        let labels = image.config.labels.clone().unwrap_or_default();
        let attributes = labels.into_iter().chain([("name".to_owned(), self.name.familiar_name())]);
        self.engine.inner.events.publish("image", "push", self.name.familiar(), attributes);
        Ok(())
    }

    /// Sends an image: its layers, its configuration, and its manifest, under a tag or by its digest alone. Answers the
    /// manifest's descriptor and its text. `wanted` is the manifest to be preferred if the registry has its blobs.
    pub(super) async fn image(
        &self,
        image: &Arc<Image>,
        wanted: Option<&Document>,
        tag: Option<&str>,
    ) -> Result<(Descriptor, Document)> {
        let images = &self.engine.inner.images;
        for layer in image.layers.iter().rev() {
            self.lines.say(short(&layer.diff_id), "Preparing");
        }
        let kept = self.kept(image, wanted)?;
        let blobs = self.layers(image, kept.first()).await?;
        let config = Bytes::copy_from_slice(image.raw_config.as_bytes());
        if self.session.has_blob(&image.id).await?.is_none() {
            self.session.upload_bytes(config.clone()).await?;
        }
        let same = kept.iter().find(|kept| kept.is_of(&blobs));
        let (made, Document { media_type, content }) = match same {
            Some(kept) => (kept.made, kept.document.clone()),
            None => (true, manifest(image, &blobs, config.len() as u64)?),
        };
        if same.is_none()
            && let Some(former) = kept.iter().find(|kept| !kept.made && !kept.verified)
        {
            self.lines.text(format!(
                "The image came in an archive without its layers as they were compressed elsewhere, so they are sent compressed \
                 again: it is pushed as {}, and not as {}",
                wharf_registry::digest::of(content.as_bytes()),
                former.digest
            ));
        }
        let selector = match tag {
            Some(tag) => Selector::Tag(tag.to_owned()),
            None => Selector::Digest(wharf_registry::digest::of(content.as_bytes())),
        };
        let sent = self.session.put_manifest(&selector, &media_type, content.clone().into()).await?;
        let known = Manifest {
            source: self.name.name(),
            digest: sent.digest.clone(),
            media_type: media_type.clone(),
            content: content.clone(),
            root: sent.digest.clone(),
            root_type: media_type.clone(),
            root_size: sent.size,
            made,
            claimed: false,
        };
        images.pushed(&image.id, &known, &blobs, tag.is_some()).await?;
        Ok((sent, Document { media_type, content }))
    }

    /// Sees to it that the registry has all layers; answers the blobs, lowest first.
    async fn layers(&self, image: &Image, kept: Option<&Kept>) -> Result<Vec<Blob>> {
        let permits =
            Arc::new(Semaphore::new(self.engine.inner.settings().registry.concurrent_uploads.clamp(1, 64)));
        let mut working = tokio::task::JoinSet::new();
        // A layer that comes twice is sent once.
        let unique: BTreeMap<&str, (usize, &LayerRef)> =
            image.layers.iter().enumerate().map(|(at, l)| (l.diff_id.as_str(), (at, l))).collect();
        let mut unique: Vec<(usize, &LayerRef)> = unique.into_values().collect();
        // Large ones first, so that none is left to go alone at the end.
        unique.sort_by_key(|(_, layer)| std::cmp::Reverse(layer.size));
        let packing = self.engine.inner.settings().registry.packing;
        for (at, layer) in unique {
            let one = Layer {
                engine: self.engine.clone(),
                session: self.session.clone(),
                sources: Arc::clone(&self.sources),
                repository: self.name.name(),
                domain: self.name.domain.clone(),
                what: layer.clone(),
                exact: kept.map(|kept| self.exact(kept, at, layer)).transpose()?.flatten(),
                platform: crate::variants::platform(image),
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
        image.layers.iter().map(blob).collect()
    }

    /// Manifests that the image could be sent under, those first that others made: a digest that is known elsewhere counts
    /// for more than one of our own.
    fn kept(&self, image: &Image, wanted: Option<&Document>) -> Result<Vec<Kept>> {
        #[derive(serde::Deserialize)]
        struct Parsed {
            config: Descriptor,
            layers: Vec<Descriptor>,
        }
        let mut known = self.engine.inner.images.manifests(&image.id)?;
        known.sort_by_key(|manifest| manifest.made);
        let of_known = known.iter().map(|m| {
            let document = Document { media_type: m.media_type.clone(), content: m.content.clone() };
            (document, m.made, !m.claimed)
        });
        let wanted = wanted.map(|document| {
            let same = known.iter().find(|m| m.content == document.content);
            (document.clone(), same.is_some_and(|m| m.made), same.is_some_and(|m| !m.claimed))
        });
        let mut all: Vec<Kept> = Vec::new();
        for (document, made, verified) in wanted.into_iter().chain(of_known) {
            let Ok(parsed) = serde_json::from_str::<Parsed>(&document.content) else { continue };
            if parsed.config.digest != image.id || parsed.layers.len() != image.layers.len() {
                continue;
            }
            let digest = wharf_registry::digest::of(document.content.as_bytes());
            if all.iter().any(|kept| kept.digest == digest) {
                continue;
            }
            let sources = known.iter().filter(|m| m.digest == digest).map(|m| m.source.clone()).collect();
            all.push(Kept { document, digest, layers: parsed.layers, sources, made, verified });
        }
        Ok(all)
    }

    /// The bytes that a manifest names for a layer, if it is known that they are the layer's.
    fn exact(&self, kept: &Kept, at: usize, layer: &LayerRef) -> Result<Option<Exact>> {
        let Some(blob) = kept.layers.get(at) else { return Ok(None) };
        let known = self.engine.inner.images.blobs(&layer.diff_id)?;
        let known = known.into_iter().filter(|known| known.digest == blob.digest);
        let mut sources: Vec<String> = known.map(|known| known.source).collect();
        // What an archive said of its images' former manifests nobody has verified.
        if !kept.verified && sources.is_empty() && blob.digest != layer.diff_id {
            return Ok(None);
        }
        for source in &kept.sources {
            if !sources.contains(source) {
                sources.push(source.clone());
            }
        }
        sources.retain(|source| !source.is_empty());
        let blob = blob.clone();
        Ok(Some(Exact { blob, manifest: kept.digest.clone(), sources, fetch: !kept.made }))
    }
}

/// A manifest that an image can be sent under, if its blobs are there.
struct Kept {
    document: Document,
    digest: String,
    layers: Vec<Descriptor>,
    /// Repositories that had it.
    sources: Vec<String>,
    /// This host wrote it.
    made: bool,
    /// It is known that its blobs are the image's layers.
    verified: bool,
}

impl Kept {
    fn is_of(&self, blobs: &[Blob]) -> bool {
        self.layers.len() == blobs.len() && self.layers.iter().zip(blobs).all(|(a, b)| a.digest == b.digest)
    }
}

/// A manifest that names these blobs.
fn manifest(image: &Image, blobs: &[Blob], config_size: u64) -> Result<Document> {
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
        "config": {"mediaType": config_type, "size": config_size, "digest": image.id},
        "layers": layers,
    });
    Ok(Document { media_type: media_type.to_owned(), content: serde_json::to_string_pretty(&manifest)? })
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
