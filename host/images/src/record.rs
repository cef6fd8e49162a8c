//! What is written into the metadata store, and the index made of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wharf_plan::files::Op;
use wharf_plan::platform::Platform;
use wharf_plan::storage::{Snapshot, Stack};
use wharf_store::Store;

use crate::digest;
use crate::error::{Error, Result};
use crate::image_index::{ImageIndex, Target};
use crate::model::{History, Image, ImageConfig, LayerRef};
use crate::reference::Reference;

pub(crate) const IMAGES: &str = "images";
pub(crate) const NAMES: &str = "image-names";
pub(crate) const LAYERS: &str = "layers";
pub(crate) const SNAPSHOTS: &str = "snapshots";

/// A layer that is complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub chain_id: String,
    pub diff_id: String,
    pub parent: Option<String>,
    pub size: u64,
    /// Bytes of its uncompressed tar stream.
    pub tar_size: u64,
    pub snapshot: Snapshot,
    /// Removes it should the driver not be able to say how.
    pub undo: Vec<Op>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// Its files may be there, partly or whole; nothing uses them.
    Unfinished,
    /// In use.
    Ready,
}

/// A snapshot that is not a layer: of a container, or of a layer in the making or going.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub state: State,
    /// Layer beneath.
    pub chain: Option<String>,
    pub snapshot: Snapshot,
    /// Removes it, whatever state it is in.
    pub undo: Vec<Op>,
    pub stack: Option<Stack>,
    /// Boot in which the driver said how to mount it; after another it is asked again.
    pub boot: String,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub config: String,
    pub parent: Option<String>,
    #[serde(default)]
    pub last_tag_time: i64,
}

/// A name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NameRecord {
    /// Id of the image; empty if none of the index is here.
    pub image: String,
    /// Digest of the index that the name leads to, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
}

impl From<NameRecord> for Target {
    fn from(record: NameRecord) -> Self {
        Self { image: record.image, index: record.index }
    }
}

/// The image configuration as far as it is understood here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigFile {
    pub architecture: String,
    pub variant: String,
    pub os: String,
    #[serde(rename = "os.version")]
    pub os_version: String,
    pub created: Option<String>,
    pub author: String,
    pub comment: String,
    pub config: Option<ImageConfig>,
    pub rootfs: RootFs,
    pub history: Option<Vec<History>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    pub diff_ids: Option<Vec<String>>,
}

impl ConfigFile {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::invalid(format!("invalid image configuration: {e}")))
    }

    /// What it runs on.
    pub(crate) fn platform(self) -> Platform {
        let os = if self.os.is_empty() { "linux".to_owned() } else { self.os };
        Platform { os, architecture: self.architecture, variant: self.variant, ..Platform::default() }
    }

    /// Chain ids, lowest first, with the diff ids.
    pub(crate) fn chain(&self) -> Vec<(String, String)> {
        let mut chain: Vec<(String, String)> = Vec::new();
        for diff_id in self.rootfs.diff_ids.iter().flatten() {
            let id = digest::chain(chain.last().map(|(id, _)| id.as_str()), diff_id);
            chain.push((id, diff_id.clone()));
        }
        chain
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal(format!("metadata: {e}")))
}

fn decode<T: for<'de> Deserialize<'de>>(table: &str, key: &str, value: &[u8]) -> Option<T> {
    match serde_json::from_slice(value) {
        Ok(value) => Some(value),
        // One damaged record must not keep the daemon from starting.
        Err(error) => {
            tracing::error!(table, key, %error, "unreadable record");
            None
        }
    }
}

/// A table's records of one driver, by their key without the driver.
pub(crate) fn load<T: for<'de> Deserialize<'de>>(
    store: &Store,
    table: &str,
    driver: &str,
) -> Result<Vec<(String, T)>> {
    let prefix = format!("{driver}/");
    let entries = store.scan(table, &prefix, None, usize::MAX)?;
    Ok(entries
        .into_iter()
        .filter_map(|entry| {
            let key = entry.key.strip_prefix(&prefix)?.to_owned();
            Some((key, decode(table, &entry.key, &entry.value)?))
        })
        .collect())
}

/// Everything known about images. Readers hold a version of it; writers make the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    pub images: BTreeMap<String, Arc<Image>>,
    /// Where full names lead.
    pub names: BTreeMap<String, Target>,
    /// Image indexes that have a name, by digest.
    pub indexes: BTreeMap<String, Arc<ImageIndex>>,
    pub layers: HashMap<String, Arc<LayerRecord>>,
}

impl Index {
    /// Names that lead to an image where no platform is asked for.
    pub(crate) fn names_of(&self, image: &str) -> Vec<Reference> {
        self.names
            .iter()
            .filter(|(_, target)| target.image == image)
            .filter_map(|(name, _)| Reference::parse(name).ok())
            .collect()
    }

    /// Brings an image's own list of names up to date.
    pub(crate) fn rename(&mut self, image: &str) {
        let (names, indexes) = (self.names_of(image), self.indexes_of(image));
        if let Some(found) = self.images.get_mut(image) {
            let image = Arc::make_mut(found);
            (image.repo_tags, image.repo_digests) = split_names(&names);
            image.indexes = indexes;
        }
    }

    pub(crate) fn insert(&mut self, id: &str, record: &ImageRecord) -> Result<()> {
        let image = build(id, record, self)?;
        self.images.insert(id.to_owned(), Arc::new(image));
        Ok(())
    }
}

/// Tags and digests as they are shown, in the order of their full names: clients call an image by its first one.
pub(crate) fn split_names(names: &[Reference]) -> (Vec<String>, Vec<String>) {
    let mut tags: Vec<String> = Vec::new();
    let mut digests: Vec<String> = Vec::new();
    let mut names: Vec<&Reference> = names.iter().collect();
    names.sort_by_cached_key(|name| name.full());
    for name in names {
        if name.digest.is_some() {
            digests.push(name.familiar());
        } else {
            tags.push(name.familiar());
        }
    }
    (tags, digests)
}

fn build(id: &str, record: &ImageRecord, index: &Index) -> Result<Image> {
    let file = ConfigFile::parse(&record.config)?;
    let mut layers = Vec::new();
    for (chain_id, diff_id) in file.chain() {
        let Some(layer) = index.layers.get(&chain_id) else {
            return Err(Error::internal(format!("image {id}: layer {chain_id} is missing")));
        };
        layers.push(LayerRef { diff_id, chain_id, size: layer.size });
    }
    let (repo_tags, repo_digests) = split_names(&index.names_of(id));
    let created_unix = file
        .created
        .as_deref()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
        .map_or(0, jiff::Timestamp::as_second);
    Ok(Image {
        id: id.to_owned(),
        repo_tags,
        repo_digests,
        indexes: index.indexes_of(id),
        created: file.created,
        created_unix,
        architecture: file.architecture,
        variant: file.variant,
        os: file.os,
        os_version: file.os_version,
        author: file.author,
        comment: file.comment,
        config: Arc::new(file.config.unwrap_or_default()),
        history: Arc::new(file.history.unwrap_or_default()),
        size: layers.iter().map(|l| l.size).sum(),
        layers: Arc::new(layers),
        parent: record.parent.clone(),
        last_tag_time: record.last_tag_time.into(),
        raw_config: record.config.as_str().into(),
    })
}
