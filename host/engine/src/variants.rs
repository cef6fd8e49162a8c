//! Platforms of images, and the manifests and origins that are known of them.
//!
//! A name means one image, or an index of several: where a platform is given the image has to be of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use wharf_images::image_index::{Entry, Present};
use wharf_images::{Image, ImageIndex, Manifest, not_provided};
use wharf_plan::platform::Platform;

use crate::Engine;
use crate::error::{Error, Result};
use crate::images::referenced;
use crate::record::rfc3339;

/// What `GET /images/json` shows beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageListOptions {
    /// Also images that only others are made of.
    pub all: bool,
    /// `SharedSize`.
    pub shared_size: bool,
    /// `Manifests`.
    pub manifests: bool,
    /// `Identity` of each manifest.
    pub identity: bool,
}

/// What `GET /images/{}/json` shows beyond the usual.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageInspectOptions {
    /// `os[/arch[/variant]]` that the image has to be of.
    pub platform: Option<String>,
    /// `Manifests`.
    pub manifests: bool,
}

pub(crate) fn platform(image: &Image) -> Platform {
    Platform {
        os: if image.os.is_empty() { "linux".into() } else { image.os.clone() },
        architecture: image.architecture.clone(),
        variant: image.variant.clone(),
        os_version: image.os_version.clone(),
        ..Platform::default()
    }
}

/// Fails if a platform is wanted that the image is not of.
pub(crate) fn check_platform(image: &Image, reference: &str, wanted: Option<&str>) -> Result<()> {
    let Some(text) = wanted.filter(|t| !t.is_empty()) else { return Ok(()) };
    let wanted = Platform::parse(text)?;
    let have = platform(image);
    if wanted.fit(&have).is_some() {
        return Ok(());
    }
    Err(Error::not_found(format!(
        "image with reference {reference} was found but its platform ({}) does not match the specified platform ({})",
        have.text(),
        wanted.text()
    )))
}

/// Where an image came from or went to, if from or to anywhere.
pub(crate) fn identity(known: &[Manifest]) -> Option<Value> {
    let mut sources: Vec<&str> = known.iter().map(|m| m.source.as_str()).filter(|s| !s.is_empty()).collect();
    sources.sort_unstable();
    sources.dedup();
    let pulls: Vec<Value> = sources.iter().map(|s| json!({"Repository": s})).collect();
    (!pulls.is_empty()).then(|| json!({"Pull": pulls}))
}

/// The warning about an image that was not made for this host, if nobody asked for its platform.
pub(crate) fn other_platform(image: &Image) -> Option<String> {
    let (have, host) = (platform(image), Platform::host());
    if image.architecture.is_empty() || host.fit(&have).is_some() {
        return None;
    }
    Some(format!(
        "The requested image's platform ({}) does not match the detected host platform ({}) and no specific platform was \
         requested",
        have.text(),
        host.text()
    ))
}

/// What an index says of one of its images: its descriptor, as it stands there.
fn entry_descriptor(entry: &Entry) -> Value {
    entry.raw.clone()
}

fn index_descriptor(index: &ImageIndex) -> Value {
    json!({
        "mediaType": index.document.media_type, "digest": index.digest, "size": index.document.content.len(),
    })
}

/// What is known of an image and does not depend on how it is asked for.
struct Summaries<'a> {
    engine: &'a Engine,
    uses: &'a BTreeMap<String, Vec<String>>,
    with_identity: bool,
}

impl Summaries<'_> {
    /// An image that is here under this descriptor.
    fn image(&self, image: &Image, descriptor: &Value, of: &Platform) -> Result<Value> {
        let known = self.engine.inner.images.manifests(&image.id)?;
        // Layers are kept unpacked only; what is kept of the content is its documents.
        let content =
            image.raw_config.len() as u64 + descriptor.get("size").and_then(Value::as_u64).unwrap_or(0);
        let mut data = json!({
            "Platform": of,
            "Containers": self.uses.get(&image.id).cloned().unwrap_or_default(),
            "Size": {"Unpacked": image.size},
        });
        if let (true, Some(map), Some(identity)) =
            (self.with_identity, data.as_object_mut(), identity(&known))
        {
            map.insert("Identity".into(), identity);
        }
        Ok(json!({
            "ID": descriptor.get("digest"), "Descriptor": descriptor, "Available": true, "Kind": "image",
            "Size": {"Content": content, "Total": content + image.size}, "ImageData": data,
        }))
    }

    /// An entry of an index, whether it is here or not.
    fn entry(&self, index: &ImageIndex, entry: &Entry) -> Result<Value> {
        let images = &self.engine.inner.images;
        if let Some(Present { image, platform, .. }) = index.present.get(&entry.digest)
            && let Ok(image) = images.resolve(image)
        {
            return self.image(&image, &entry_descriptor(entry), platform);
        }
        let kind = entry.annotations.get(wharf_plan::statement::TYPE).map(String::as_str);
        let mut one = json!({
            "ID": entry.digest, "Descriptor": entry_descriptor(entry), "Available": false,
            "Size": {"Content": 0, "Total": 0},
        });
        let Some(map) = one.as_object_mut() else { return Ok(one) };
        if entry.is_statement() {
            let attestation = kind == Some("attestation-manifest");
            map.insert("Kind".into(), if attestation { "attestation" } else { "unknown" }.into());
            if attestation {
                map.insert("AttestationData".into(), json!({"For": entry.about().unwrap_or_default()}));
            }
            if let Some(manifest) = index.statements.get(&entry.digest) {
                let content = manifest.content.len() as u64 + blobs_size(&manifest.content);
                map.insert("Available".into(), true.into());
                map.insert("Size".into(), json!({"Content": content, "Total": content}));
            }
        } else if let Some(platform) = &entry.platform {
            map.insert("Kind".into(), "image".into());
            let data = json!({"Platform": platform, "Containers": [], "Size": {"Unpacked": 0}});
            map.insert("ImageData".into(), data);
        } else {
            map.insert("Kind".into(), "unknown".into());
        }
        Ok(one)
    }
}

/// Bytes of the blobs that a manifest names, as it says.
fn blobs_size(manifest: &str) -> u64 {
    let value: Value = serde_json::from_str(manifest).unwrap_or_default();
    let size = |blob: &Value| blob.get("size").and_then(Value::as_u64).unwrap_or(0);
    let layers = value.get("layers").and_then(Value::as_array).into_iter().flatten();
    layers.chain(value.get("config")).map(size).fold(0, u64::saturating_add)
}

impl Engine {
    /// The image that a reference means: of an index the one of that platform, or without one the best for this host.
    pub(crate) fn image_for(&self, reference: &str, wanted: Option<&str>) -> Result<Arc<Image>> {
        let found = self.inner.images.find(reference)?;
        let wanted_platform = wanted.filter(|text| !text.is_empty()).map(Platform::parse).transpose()?;
        if let (Some(index), Some(platform)) = (&found.index, &wanted_platform) {
            let Some((_, present)) = index.present_for(platform) else {
                return Err(not_provided(reference, platform).into());
            };
            return Ok(self.inner.images.resolve(&present.image)?);
        }
        let Some(image) = found.image else {
            return Err(Error::not_found(format!(
                "image with reference {reference} was found but does not provide any platform"
            )));
        };
        check_platform(&image, reference, wanted)?;
        Ok(image)
    }

    /// The indexes that names lead to which stand for an image.
    pub(crate) fn indexes_of(&self, image: &str) -> Vec<Arc<ImageIndex>> {
        let images = &self.inner.images;
        if images.resolve(image).is_ok_and(|image| image.indexes.is_empty()) {
            return Vec::new();
        }
        let names = images.names();
        let digests: BTreeSet<String> =
            names.into_iter().filter(|(_, t)| t.image == image).filter_map(|(_, t)| t.index).collect();
        digests.iter().filter_map(|digest| images.index(digest)).collect()
    }

    /// Tags and digests to show for an image that was found as one of an index.
    pub(crate) fn names_shown(
        &self,
        image: &Image,
        index: Option<&ImageIndex>,
    ) -> (Vec<String>, Vec<String>) {
        match index {
            Some(index) if image.is_companion() => self.names_of_index(index),
            _ => (image.repo_tags.clone(), image.repo_digests.clone()),
        }
    }

    fn names_of_index(&self, index: &ImageIndex) -> (Vec<String>, Vec<String>) {
        let names = self.inner.images.names();
        let own = names.into_iter().filter(|(_, t)| t.index.as_ref() == Some(&index.digest)).map(|(n, _)| n);
        let (mut digests, mut tags): (Vec<_>, Vec<_>) = own.partition(|n| n.digest.is_some());
        digests.sort();
        tags.sort();
        let familiar = |names: Vec<wharf_images::reference::Reference>| {
            names.iter().map(wharf_images::reference::Reference::familiar).collect()
        };
        (familiar(tags), familiar(digests))
    }

    /// The descriptor of the manifest that an image is or would be offered under.
    pub(crate) fn manifest_descriptor(&self, image: &Image) -> Option<Value> {
        let images = &self.inner.images;
        for index in image.indexes.iter().filter_map(|digest| images.index(digest)) {
            if let Some((entry, _)) = index.here().find(|(_, present)| present.image == image.id) {
                return Some(entry_descriptor(entry));
            }
        }
        if let Some(m) = images.manifests(&image.id).ok()?.first() {
            return Some(json!({"mediaType": m.media_type, "digest": m.digest, "size": m.content.len()}));
        }
        let shelf = crate::remote::Shelf::new(self.clone(), false);
        let (digest, text) = shelf.shown(image)?.manifest();
        Some(
            json!({"mediaType": wharf_registry::manifest::OCI_MANIFEST, "digest": digest, "size": text.len()}),
        )
    }

    /// The descriptor of what a name leads to.
    pub(crate) fn target_descriptor(&self, image: &Image, index: Option<&Arc<ImageIndex>>) -> Option<Value> {
        match index {
            Some(index) => Some(index_descriptor(index)),
            None => self.manifest_descriptor(image),
        }
    }

    /// The manifests of an image, as summaries: those of its indexes, and the one it came with or would be offered under.
    pub(crate) fn image_manifests(
        &self,
        image: &Image,
        indexes: &[Arc<ImageIndex>],
        with_identity: bool,
        uses: &BTreeMap<String, Vec<String>>,
    ) -> Result<Vec<Value>> {
        let summaries = Summaries { engine: self, uses, with_identity };
        let mut all = Vec::new();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for index in indexes {
            for entry in index.entries.iter() {
                if seen.insert(&entry.digest) {
                    all.push(summaries.entry(index, entry)?);
                }
            }
        }
        let shown = indexes.iter().any(|index| index.present.values().any(|p| p.image == image.id));
        if let (false, Some(descriptor)) = (shown, self.manifest_descriptor(image)) {
            all.push(summaries.image(image, &descriptor, &platform(image))?);
        }
        Ok(all)
    }

    /// Adds to a list the names of indexes of which nothing is here.
    pub(crate) fn list_empty(
        &self,
        list: &mut Vec<Value>,
        patterns: &[String],
        options: ImageListOptions,
    ) -> Result<()> {
        for index in self.inner.images.indexes().iter().filter(|index| index.present.is_empty()) {
            let (mut tags, mut digests) = self.names_of_index(index);
            if !patterns.is_empty() {
                let fits = |name: &String| referenced(patterns, name);
                let fitting = |names: Vec<String>| -> Result<Vec<String>> {
                    names.into_iter().filter_map(|n| fits(&n).map(|f| f.then_some(n)).transpose()).collect()
                };
                (tags, digests) = (fitting(tags)?, fitting(digests)?);
                if tags.is_empty() && digests.is_empty() {
                    continue;
                }
            }
            let mut one = json!({
                "Id": index.digest, "ParentId": "", "RepoTags": tags, "RepoDigests": digests, "Created": 0, "Size": 0,
                "SharedSize": if options.shared_size { 0 } else { -1 }, "Labels": {}, "Containers": 0,
                "Descriptor": index_descriptor(index),
            });
            if let (true, Some(map)) = (options.manifests, one.as_object_mut()) {
                map.insert("Manifests".into(), self.empty_manifests(index)?.into());
            }
            list.push(one);
        }
        Ok(())
    }

    fn empty_manifests(&self, index: &ImageIndex) -> Result<Vec<Value>> {
        let uses = BTreeMap::new();
        let summaries = Summaries { engine: self, uses: &uses, with_identity: false };
        index.entries.iter().map(|entry| summaries.entry(index, entry)).collect()
    }

    /// What is to be said of a name that leads to an index of which nothing is here.
    pub(crate) fn inspect_empty(&self, index: &ImageIndex, manifests: bool) -> Result<Value> {
        let (tags, digests) = self.names_of_index(index);
        let mut answer = json!({
            "Id": index.digest, "RepoTags": tags, "RepoDigests": digests, "Parent": "", "Comment": "",
            "Created": rfc3339(0), "DockerVersion": "", "Author": "", "Config": null, "Architecture": "", "Os": "",
            "Size": 0, "VirtualSize": 0, "GraphDriver": {"Name": self.inner.images.driver(), "Data": null},
            "RootFS": {"Type": "layers", "Layers": []}, "Metadata": {"LastTagTime": rfc3339(0)},
            "Descriptor": index_descriptor(index),
        });
        if let (true, Some(map)) = (manifests, answer.as_object_mut()) {
            map.insert("Manifests".into(), self.empty_manifests(index)?.into());
        }
        Ok(answer)
    }
}
