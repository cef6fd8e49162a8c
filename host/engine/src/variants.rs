//! Platforms of images, and the manifests and origins that are known of them.
//!
//! A name means one image here, as with Docker's classic stores: where a platform is given the image has to be of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wharf_images::{Image, Manifest};
use wharf_registry::Platform;

use crate::Engine;
use crate::error::{Error, Result};

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

fn platform(image: &Image) -> Platform {
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

impl Engine {
    /// The manifests of an image, as summaries: the one it came with, or the one it would be offered under.
    pub(crate) fn image_manifests(
        &self,
        image: &Image,
        with_identity: bool,
        uses: &BTreeMap<String, Vec<String>>,
    ) -> Result<Vec<Value>> {
        let known = self.inner.images.manifests(&image.id)?;
        let descriptor = match known.first() {
            Some(m) => json!({"mediaType": m.media_type, "digest": m.digest, "size": m.content.len()}),
            None => {
                let shelf = crate::remote::Shelf::new(self.clone(), false);
                let Some(shown) = shelf.shown(image) else { return Ok(Vec::new()) };
                let (digest, text) = shown.manifest();
                json!({"mediaType": wharf_registry::manifest::OCI_MANIFEST, "digest": digest, "size": text.len()})
            }
        };
        // Layers are kept unpacked only; what is kept of the content is its documents.
        let content =
            image.raw_config.len() as u64 + descriptor.get("size").and_then(Value::as_u64).unwrap_or(0);
        let mut data = json!({
            "Platform": platform(image),
            "Containers": uses.get(&image.id).cloned().unwrap_or_default(),
            "Size": {"Unpacked": image.size},
        });
        if let (true, Some(map), Some(identity)) = (with_identity, data.as_object_mut(), identity(&known)) {
            map.insert("Identity".into(), identity);
        }
        Ok(vec![json!({
            "ID": descriptor.get("digest"), "Descriptor": descriptor, "Available": true, "Kind": "image",
            "Size": {"Content": content, "Total": content + image.size}, "ImageData": data,
        })])
    }
}
