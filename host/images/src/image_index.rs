//! Image indexes (OCI) and manifest lists (Docker): one name for the images of several platforms.
//!
//! Of an index its exact text is kept, and which of its images are here; an image of one platform is an image like any
//! other, with the digest of its configuration as id. A name leads to an index and to that of its images which this host
//! runs best. An index lives as long as a name leads to it.

mod keep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_plan::platform::Platform;
use wharf_plan::statement;

use crate::digest;
use crate::error::{Error, Result};
use crate::model::Image;
use crate::oci::INDEX;
use crate::reference::check_digest;

pub(crate) use keep::INDEXES;

/// Entries of one index, with those of the indexes inside of it.
const MOST_ENTRIES: usize = 2000;
/// Indexes inside of indexes.
const DEPTH: usize = 4;

/// The exact text of a manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// What it is.
    pub media_type: String,
    /// Its text, byte for byte.
    pub content: String,
}

/// An image of an index that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// Its id.
    pub image: String,
    /// The manifest that the index names it by.
    pub manifest: Document,
    /// What it is for, as the index or else its configuration says.
    pub platform: Platform,
}

/// What is written of an index into the metadata store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct IndexRecord {
    #[serde(flatten)]
    document: Document,
    /// Indexes inside of it, by digest.
    #[serde(default)]
    nested: BTreeMap<String, Document>,
    /// Images that are here, by the digest of their manifests.
    #[serde(default)]
    present: BTreeMap<String, Present>,
    /// Manifests of statements (attestations) that are here with all their blobs, by digest.
    #[serde(default)]
    statements: BTreeMap<String, Document>,
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Entry {
    /// What it is.
    #[serde(deserialize_with = "nullable")]
    pub media_type: String,
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// What it runs on.
    pub platform: Option<Platform>,
    /// Free text.
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// The whole entry, as the index has it.
    #[serde(skip)]
    pub raw: Value,
}

pub(crate) fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

impl Entry {
    /// A statement about an image of the index (an attestation), rather than an image.
    pub fn is_statement(&self) -> bool {
        statement::is_statement(&self.annotations, self.platform.as_ref())
    }

    /// Digest of the manifest that a statement is about.
    pub fn about(&self) -> Option<&str> {
        statement::about(&self.annotations)
    }
}

/// An index, and what of it is here. Values never change; what arrives or goes makes a new value.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageIndex {
    /// `sha256:…` of its text.
    pub digest: String,
    /// Its text.
    pub document: Document,
    /// Indexes inside of it, by digest.
    pub nested: BTreeMap<String, Document>,
    /// Its manifests and those of the indexes inside of it, in order.
    pub entries: Arc<Vec<Entry>>,
    /// Images that are here, by the digest of their manifests.
    pub present: BTreeMap<String, Present>,
    /// Manifests of statements that are here with all their blobs, by digest.
    pub statements: BTreeMap<String, Document>,
}

/// An index that arrives.
#[derive(Debug, Clone)]
pub struct IncomingIndex {
    /// Its exact text.
    pub document: Document,
    /// Texts of the indexes inside of it.
    pub nested: Vec<Document>,
    /// Statements about the image that arrives with it.
    pub statements: Vec<Statement>,
}

/// A statement about an image that arrives.
#[derive(Debug, Clone)]
pub struct Statement {
    /// Its manifest.
    pub manifest: Document,
    /// What the manifest names: its configuration and what it calls layers.
    pub blobs: Vec<bytes::Bytes>,
}

fn is_index(media: &str) -> bool {
    INDEX.contains(&media)
}

/// Entries of a document.
fn entries(document: &Document) -> Result<Vec<Entry>> {
    #[derive(Deserialize)]
    struct Raw {
        manifests: Vec<Value>,
    }
    let bad = |e: serde_json::Error| Error::invalid(format!("invalid image index: {e}"));
    let raw: Raw = serde_json::from_str(&document.content).map_err(bad)?;
    let mut entries = Vec::new();
    for raw in raw.manifests {
        let entry: Entry = serde_json::from_value(raw.clone()).map_err(bad)?;
        check_digest(&entry.digest)?;
        entries.push(Entry { raw, ..entry });
    }
    Ok(entries)
}

impl ImageIndex {
    /// Understands an index of which nothing is here yet.
    pub(crate) fn new(document: Document, nested: impl IntoIterator<Item = Document>) -> Result<Self> {
        let nested: BTreeMap<String, Document> =
            nested.into_iter().map(|d| (digest::of(d.content.as_bytes()), d)).collect();
        let mut found: Vec<Entry> = Vec::new();
        // What is still to be looked at, the next one last, with its depth.
        let mut open: Vec<(Entry, usize)> = entries(&document)?.into_iter().rev().map(|e| (e, 1)).collect();
        let mut seen: BTreeSet<String> = BTreeSet::new();
        // Indexes may name one inside many times, which says nothing new at the same depth.
        let mut read: BTreeSet<(String, usize)> = BTreeSet::new();
        while let Some((entry, depth)) = open.pop() {
            if found.len() + open.len() >= MOST_ENTRIES {
                return Err(Error::too_large(format!(
                    "the image index has more than {MOST_ENTRIES} entries"
                )));
            }
            match nested.get(&entry.digest).filter(|_| is_index(&entry.media_type) && depth < DEPTH) {
                Some(inside) if read.insert((entry.digest.clone(), depth)) => {
                    open.extend(entries(inside)?.into_iter().rev().map(|e| (e, depth + 1)));
                }
                None if seen.insert(entry.digest.clone()) => found.push(entry),
                Some(_) | None => {}
            }
        }
        Ok(Self {
            digest: digest::of(document.content.as_bytes()),
            document,
            nested,
            entries: Arc::new(found),
            present: BTreeMap::new(),
            statements: BTreeMap::new(),
        })
    }

    pub(crate) fn read(record: IndexRecord) -> Result<Self> {
        let IndexRecord { document, nested, present, statements } = record;
        Ok(Self { present, statements, ..Self::new(document, nested.into_values())? })
    }

    pub(crate) fn record(&self) -> IndexRecord {
        IndexRecord {
            document: self.document.clone(),
            nested: self.nested.clone(),
            present: self.present.clone(),
            statements: self.statements.clone(),
        }
    }

    /// The entry with this digest.
    pub fn entry(&self, digest: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.digest == digest)
    }

    /// Images of the index, in order, whether they are here or not.
    pub fn images(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|e| !e.is_statement() && !is_index(&e.media_type))
    }

    /// Images of the index that are here, in its order.
    pub fn here(&self) -> impl Iterator<Item = (&Entry, &Present)> {
        self.images().filter_map(|e| Some((e, self.present.get(&e.digest)?)))
    }

    /// Whether every image and every statement of it is here.
    pub fn is_complete(&self) -> bool {
        self.entries.iter().all(|e| {
            self.present.contains_key(&e.digest)
                || (e.is_statement() && self.statements.contains_key(&e.digest))
        })
    }

    /// The entry that does best where `wanted` is asked for, whether it is here or not.
    pub fn best(&self, wanted: &Platform) -> Option<&Entry> {
        let fit = |e: &Entry| match &e.platform {
            Some(platform) => wanted.fit(platform),
            // One that does not say may be anything: after all that do.
            None => Some(u8::MAX),
        };
        self.images().filter_map(|e| Some((fit(e)?, e))).min_by_key(|(fit, _)| *fit).map(|(_, e)| e)
    }

    /// The image, of those here, that does best where `wanted` is asked for.
    pub fn present_for(&self, wanted: &Platform) -> Option<(&Entry, &Present)> {
        self.here()
            .filter_map(|(e, p)| Some((wanted.fit(&p.platform)?, (e, p))))
            .min_by_key(|(fit, _)| *fit)
            .map(|(_, found)| found)
    }

    /// The image that is meant where no platform is asked for: the one that this host runs best, else the first.
    pub fn primary(&self) -> Option<(&Entry, &Present)> {
        self.present_for(&Platform::host()).or_else(|| self.here().next())
    }

    /// Digests of the blobs that its statements need.
    pub(crate) fn blobs(&self) -> BTreeSet<String> {
        self.statements.values().flat_map(|d| statement_blobs(&d.content)).collect()
    }
}

/// Digests of the blobs that the manifest of a statement names, the configuration first.
pub fn statement_blobs(manifest: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Blob {
        digest: String,
    }
    #[derive(Deserialize)]
    struct Raw {
        config: Option<Blob>,
        layers: Option<Vec<Blob>>,
    }
    let Ok(raw) = serde_json::from_str::<Raw>(manifest) else { return Vec::new() };
    raw.config.into_iter().chain(raw.layers.into_iter().flatten()).map(|b| b.digest).collect()
}

/// Digests of the layers that the manifest of an image names, lowest first.
pub(crate) fn layer_digests(manifest: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Layer {
        digest: String,
    }
    #[derive(Deserialize)]
    struct Raw {
        layers: Vec<Layer>,
    }
    let raw = serde_json::from_str::<Raw>(manifest).map(|raw| raw.layers).unwrap_or_default();
    raw.into_iter().map(|layer| layer.digest).collect()
}

/// What a name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Id of the image; empty if none of the index is here.
    pub image: String,
    /// Digest of the index, if it is one.
    pub index: Option<String>,
}

impl Target {
    /// Just an image.
    pub(crate) fn image(id: &str) -> Self {
        Self { image: id.to_owned(), index: None }
    }

    /// An index.
    pub(crate) fn index(index: &ImageIndex) -> Self {
        let image = index.primary().map(|(_, p)| p.image.clone()).unwrap_or_default();
        Self { image, index: Some(index.digest.clone()) }
    }
}

/// The platform of an image, as its configuration says.
pub(crate) fn platform_of(image: &Image) -> Platform {
    Platform {
        os: if image.os.is_empty() { "linux".into() } else { image.os.clone() },
        architecture: image.architecture.clone(),
        variant: image.variant.clone(),
        os_version: image.os_version.clone(),
        ..Platform::default()
    }
}

impl ImageIndex {
    /// Takes an image out of those here, and the statements about it.
    pub(crate) fn forget(&mut self, image: &str) {
        let gone: BTreeSet<String> =
            self.present.iter().filter(|(_, p)| p.image == image).map(|(digest, _)| digest.clone()).collect();
        self.present.retain(|digest, _| !gone.contains(digest));
        let entries = Arc::clone(&self.entries);
        let about = |digest: &String| {
            let entry = entries.iter().find(|e| e.digest == *digest);
            entry.and_then(Entry::about).is_some_and(|about| gone.contains(about))
        };
        self.statements.retain(|digest, _| !about(digest));
    }
}

#[cfg(test)]
mod tests;
