//! What is known of images and layers elsewhere: manifests that named an image, blobs that hold a layer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wharf_store::Transaction;

use crate::Images;
use crate::error::{Error, Result};
use crate::image_index::{Document, IncomingIndex, Target};
use crate::inner::Inner;
use crate::record::{Index, encode};
use crate::reference::Reference;

pub(crate) const MANIFESTS: &str = "image-manifests";
pub(crate) const BLOBS: &str = "layer-blobs";
pub(crate) const PACKED: &str = "packed-layers";
/// Kept of each image or layer; the oldest go.
const MOST: usize = 16;

/// A layer's bytes as a registry has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// `sha256:…` of these bytes.
    pub digest: String,
    /// Their number.
    pub size: u64,
    /// How they are packed.
    pub media_type: String,
    /// Repository in full: `docker.io/library/busybox`.
    pub source: String,
}

/// A manifest that a registry has for an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Repository in full.
    pub source: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// What it is.
    pub media_type: String,
    /// Its text, byte for byte.
    pub content: String,
    /// What the name led to: the manifest itself or an index.
    pub root: String,
    /// What that is.
    pub root_type: String,
    /// Its bytes.
    pub root_size: u64,
    /// This host wrote it, for a push.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
    /// An archive said that the image had it: its configuration is the image's, but nobody has seen the blobs that it names, so
    /// they may be something else than the image's layers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub claimed: bool,
}

/// How a blob comes about that this host makes again, byte for byte, of a layer that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// The layer, by the digest of its tar stream.
    pub diff_id: String,
    /// Bytes of the blob.
    pub size: u64,
    /// What the engine has to do; only it knows what the words mean.
    pub packing: String,
}

fn known<T: for<'de> Deserialize<'de>>(inner: &Inner, table: &str, key: &str) -> Result<Vec<T>> {
    let entry = inner.settings.store.get(table, &inner.key(key))?;
    Ok(entry.and_then(|e| serde_json::from_slice(&e.value).ok()).unwrap_or_default())
}

fn add<T: PartialEq>(list: &mut Vec<T>, one: T, same: impl Fn(&T) -> bool) {
    list.retain(|known| !same(known));
    list.insert(0, one);
    list.truncate(MOST);
}

/// Notes where an image came from or went to. Once for an image in a transaction.
pub(crate) fn remember(
    inner: &Inner,
    transaction: &mut Transaction,
    image: &str,
    all: &[Manifest],
) -> Result<()> {
    let mut list: Vec<Manifest> = known(inner, MANIFESTS, image)?;
    for one in all {
        // Who only says so adds nothing to what is known, and goes when it is.
        if one.claimed && list.iter().any(|m| m.digest == one.digest) {
            continue;
        }
        list.retain(|m| !(m.claimed && m.digest == one.digest));
        let same = |m: &Manifest| m.source == one.source && m.digest == one.digest && m.root == one.root;
        add(&mut list, one.clone(), same);
    }
    transaction.put(MANIFESTS, &inner.key(image), encode(&list)?);
    Ok(())
}

/// The manifest that tells an image's archive where it came from under a name: the one that the name's repository is known
/// to have, else one that others made, else one of this host's.
pub(crate) fn manifest_of(
    inner: &Inner,
    index: &Index,
    image: &str,
    name: &Reference,
) -> Result<Option<Document>> {
    let known: Vec<Manifest> = known(inner, MANIFESTS, image)?;
    let named = |m: &&Manifest| {
        let by_digest = Reference { tag: None, digest: Some(m.digest.clone()), ..name.clone() };
        index.names.get(&by_digest.full()).is_some_and(|target| target.image == image)
    };
    let best = known.iter().find(named).or_else(|| known.iter().find(|m| !m.made)).or_else(|| known.first());
    Ok(best.map(|m| Document { media_type: m.media_type.clone(), content: m.content.clone() }))
}

/// Notes which blob holds a layer.
pub(crate) fn remember_blob(
    inner: &Inner,
    transaction: &mut Transaction,
    diff_id: &str,
    one: &Blob,
) -> Result<()> {
    let mut list: Vec<Blob> = known(inner, BLOBS, diff_id)?;
    add(&mut list, one.clone(), |b| b.source == one.source && b.digest == one.digest);
    transaction.put(BLOBS, &inner.key(diff_id), encode(&list)?);
    Ok(())
}

/// Forgets what belongs to no image or layer any more.
pub(crate) async fn sweep(inner: &Inner, index: &Index) -> Result<()> {
    let mut transaction = Transaction::new();
    let mut any = false;
    let prefix = format!("{}/", inner.plugin);
    let diff_ids: std::collections::HashSet<&str> =
        index.layers.values().map(|l| l.diff_id.as_str()).collect();
    for table in [MANIFESTS, BLOBS, PACKED] {
        for entry in inner.settings.store.scan(table, &prefix, None, usize::MAX)? {
            let key = entry.key.strip_prefix(&prefix).unwrap_or_default();
            let live = match table {
                BLOBS => diff_ids.contains(key),
                PACKED => serde_json::from_slice::<Packed>(&entry.value)
                    .is_ok_and(|packed| diff_ids.contains(packed.diff_id.as_str())),
                _ => index.images.contains_key(key),
            };
            if !live {
                transaction.delete(table, &entry.key);
                any = true;
            }
        }
    }
    if any {
        inner.settings.store.commit(transaction).await?;
    }
    Ok(())
}

impl Images {
    /// Manifests that registries have for an image, the latest first.
    pub fn manifests(&self, image: &str) -> Result<Vec<Manifest>> {
        known(&self.inner, MANIFESTS, image)
    }

    /// Blobs that hold a layer, the latest first.
    pub fn blobs(&self, diff_id: &str) -> Result<Vec<Blob>> {
        known(&self.inner, BLOBS, diff_id)
    }

    /// How the blob with this digest is made again, if that was found to be possible. Its layer may be gone meanwhile.
    pub fn packed(&self, digest: &str) -> Result<Option<Packed>> {
        let entry = self.inner.settings.store.get(PACKED, &self.inner.key(digest))?;
        Ok(entry.and_then(|e| serde_json::from_slice(&e.value).ok()))
    }

    /// Notes how a blob is made again.
    pub async fn remember_packed(&self, digest: &str, packed: &Packed) -> Result<()> {
        let mut transaction = Transaction::new();
        transaction.put(PACKED, &self.inner.key(digest), encode(packed)?);
        Ok(self.inner.settings.store.commit(transaction).await.map(drop)?)
    }

    /// Notes that a registry has an image now: its manifest, its layers' blobs (lowest first), and a name by digest, unless
    /// it is here only as one platform of something else.
    pub async fn pushed(&self, image: &str, manifest: &Manifest, blobs: &[Blob], named: bool) -> Result<()> {
        let inner = &self.inner;
        let _changing = inner.changing.lock().await;
        let mut index = inner.index.load().as_ref().clone();
        let Some(found) = index.images.get(image).cloned() else {
            return Err(Error::not_found(format!("No such image: {image}")));
        };
        let mut transaction = Transaction::new();
        remember(inner, &mut transaction, image, std::slice::from_ref(manifest))?;
        for (layer, blob) in found.layers.iter().zip(blobs) {
            remember_blob(inner, &mut transaction, &layer.diff_id, blob)?;
        }
        if named && !found.is_companion() {
            let name = Reference::parse(&format!("{}@{}", manifest.source, manifest.root))?;
            index.point(inner, &mut transaction, &name, &Target::image(image))?;
        }
        inner.settings.store.commit(transaction).await?;
        inner.index.store(Arc::new(index));
        Ok(())
    }

    /// Lets names lead to an index whose images are here under these manifests: image ids and manifests. The names `instead`
    /// go, as they said of its images what the index says now.
    pub async fn name_index(
        &self,
        names: &[Reference],
        instead: &[Reference],
        incoming: IncomingIndex,
        images: &[(String, Document)],
    ) -> Result<()> {
        let inner = &self.inner;
        let _changing = inner.changing.lock().await;
        let mut index = inner.index.load().as_ref().clone();
        let mut transaction = Transaction::new();
        let digest = index.take_index(inner, &mut transaction, incoming, images)?;
        let target = index.indexes.get(&digest).map(|x| Target::index(x));
        let target = target.ok_or_else(|| Error::internal("a lost index"))?;
        for name in names {
            index.point(inner, &mut transaction, name, &target)?;
        }
        for name in instead.iter().filter(|name| !names.contains(name)) {
            index.unpoint(inner, &mut transaction, name);
        }
        inner.commit_lasting(transaction).await?;
        inner.sweep_blobs(&index);
        inner.index.store(Arc::new(index));
        Ok(())
    }

    /// Bytes of the tar stream of the layer with this chain id.
    pub fn tar_size(&self, chain: &str) -> Option<u64> {
        self.inner.index.load().layers.get(chain).map(|layer| layer.tar_size)
    }

    /// Chain id of a layer with this diff id that an image has.
    pub fn layer_of(&self, diff_id: &str) -> Option<String> {
        let index = self.inner.index.load();
        let mut layers = index.images.values().flat_map(|image| image.layers.iter());
        layers.find(|layer| layer.diff_id == diff_id).map(|layer| layer.chain_id.clone())
    }

    /// A layer's tar stream, byte for byte as it came, and how long it is.
    pub async fn layer_stream(&self, chain: &str) -> Result<(Box<dyn std::io::Read + Send>, u64)> {
        let size = Inner::layer(&self.inner.index.load(), chain)?.tar_size;
        Ok((Box::new(self.inner.export_layer(chain).await?), size))
    }
}
