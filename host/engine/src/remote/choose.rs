//! What of an index is pushed, and what becomes of the index when its manifests are others at the registry. No input or
//! output.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wharf_images::image_index::{Document, Entry, Present};
use wharf_images::{ImageIndex, not_provided};
use wharf_plan::platform::Platform;
use wharf_plan::statement::ABOUT;

use crate::error::{Error, Result};

/// What a push sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chosen {
    /// The whole index.
    Index,
    /// One of its images, by the digest of the manifest.
    Image(String),
}

/// Chooses as Docker does: a platform that is asked for; else the index if all of it is here; else the only image here, or
/// this host's.
pub(super) fn choose(index: &ImageIndex, platform: Option<&Platform>, name: &str) -> Result<Chosen> {
    let fitting: Vec<(&Entry, &Present)> = match platform {
        Some(wanted) => index.here().filter(|(_, p)| wanted.fit(&p.platform) == Some(0)).collect(),
        None => index.here().collect(),
    };
    match (fitting.as_slice(), platform) {
        ([], Some(wanted)) => Err(not_provided(name, wanted).into()),
        ([], None) => Err(Error::not_found(format!(
            "image with reference {name} was found but does not provide any platform"
        ))),
        ([(entry, _)], Some(_)) => Ok(Chosen::Image(entry.digest.clone())),
        (_, Some(wanted)) => {
            Err(Error::conflict(format!("multiple manifests found for platform {}", wanted.text())))
        }
        (_, None) if index.is_complete() => Ok(Chosen::Index),
        ([(entry, _)], None) => Ok(Chosen::Image(entry.digest.clone())),
        (_, None) => match index.present_for(&Platform::host()) {
            Some((entry, _)) => Ok(Chosen::Image(entry.digest.clone())),
            None => {
                Err(Error::conflict("multiple matching manifests found but no specific platform requested"))
            }
        },
    }
}

/// What an image's manifest is at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) media_type: String,
}

/// The index that names what was sent, and the indexes inside of it, lowest first. If all manifests are what they were, so
/// is the index, byte for byte. Otherwise statements about what has changed are left out: they are about other bytes.
pub(super) fn rewrite(
    index: &ImageIndex,
    sent: &BTreeMap<String, Sent>,
) -> Result<(Document, Vec<Document>)> {
    let mut nested = Vec::new();
    let root = one(index, &index.document, sent, &mut nested)?;
    Ok((root, nested))
}

fn one(
    index: &ImageIndex,
    document: &Document,
    sent: &BTreeMap<String, Sent>,
    nested: &mut Vec<Document>,
) -> Result<Document> {
    let mut value: Value = serde_json::from_str(&document.content)?;
    let mut changed = false;
    let entries = value.get_mut("manifests").and_then(Value::as_array_mut);
    let mut entries = entries.map(std::mem::take).unwrap_or_default();
    let before = entries.len();
    let other = |digest: &str| sent.get(digest).is_some_and(|now| now.digest != digest);
    entries.retain(|entry| {
        let about = entry.get("annotations").and_then(|notes| notes.get(ABOUT)?.as_str());
        !about.is_some_and(other)
    });
    changed |= entries.len() != before;
    for entry in &mut entries {
        let digest = entry.get("digest").and_then(Value::as_str).unwrap_or_default().to_owned();
        let now = if let Some(inside) = index.nested.get(&digest) {
            let inside = one(index, inside, sent, nested)?;
            let now = Sent {
                digest: wharf_registry::digest::of(inside.content.as_bytes()),
                size: inside.content.len() as u64,
                media_type: inside.media_type.clone(),
            };
            nested.push(inside);
            now
        } else if let Some(now) = sent.get(&digest) {
            now.clone()
        } else {
            continue;
        };
        if let (true, Some(map)) = (now.digest != digest, entry.as_object_mut()) {
            map.insert("digest".into(), json!(now.digest));
            map.insert("size".into(), json!(now.size));
            map.insert("mediaType".into(), json!(now.media_type));
            changed = true;
        }
    }
    if !changed {
        return Ok(document.clone());
    }
    if let Some(map) = value.as_object_mut() {
        map.insert("manifests".into(), Value::Array(entries));
    }
    Ok(Document { media_type: document.media_type.clone(), content: value.to_string() })
}

#[cfg(test)]
mod tests;
