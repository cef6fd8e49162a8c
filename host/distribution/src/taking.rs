//! What becomes of a manifest beside an engine: images are the engine's, everything else stays here.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use wharf_registry::manifest::{self, MAX_CONFIG};
use wharf_registry::{Document, Platform};

use crate::answer::Refusal;
use crate::content;
use crate::images::{Pushed, PushedIndex, Sent, Text};
use crate::route::blocking;
use crate::store::Kept;
use crate::{Images, Shared};

/// Statements of one index that the engine gets, and bytes of all that they name.
const STATEMENTS: usize = 200;
const STATEMENT_BYTES: u64 = 16 << 20;

/// A manifest that is being put.
pub(crate) struct Put<'a> {
    pub(crate) name: &'a str,
    pub(crate) tag: Option<&'a str>,
    pub(crate) digest: &'a str,
    pub(crate) media: &'a str,
    pub(crate) bytes: &'a [u8],
    pub(crate) user: Option<&'a str>,
}

fn is_layer(media: &str) -> bool {
    let own = [
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
    ];
    own.iter().any(|known| {
        media
            .strip_prefix(known)
            .is_some_and(|packed| matches!(packed, "" | ".gzip" | "+gzip" | ".zstd" | "+zstd"))
    })
}

/// Hands an image to the engine; answers its id, or nothing for what is no image that could run here.
pub(crate) async fn take(
    shared: &Arc<Shared>,
    images: &Arc<dyn Images>,
    put: &Put<'_>,
    document: &Document,
) -> Result<Option<String>, Refusal> {
    let taken = match document {
        Document::Image(image) => self::image(shared, images, put, image).await?,
        Document::Index(entries) => index(shared, images, put, entries).await?,
    };
    if let (None, Some(tag)) = (&taken, put.tag)
        && images.tagged(put.name, tag).is_some()
    {
        // A tag has one meaning.
        images.remove(put.name, tag, put.user).await?;
    }
    if let (None, Document::Image(artifact)) = (&taken, document) {
        for blob in artifact.blobs().filter(|b| b.urls.is_empty()) {
            content::settle(shared, put.name, &blob.digest).await?;
        }
    }
    Ok(taken)
}

async fn image(
    shared: &Arc<Shared>,
    images: &Arc<dyn Images>,
    put: &Put<'_>,
    image: &manifest::Image,
) -> Result<Option<String>, Refusal> {
    let plain = image.artifact_type.is_empty() && image.subject.is_none();
    let config_type = image.config.media_type.as_str();
    if !plain
        || !matches!(config_type, manifest::DOCKER_CONFIG | manifest::OCI_CONFIG)
        || !image.layers.iter().all(|l| l.urls.is_empty() && is_layer(&l.media_type))
    {
        return Ok(None);
    }
    let (own, name, config) = (Arc::clone(shared), put.name.to_owned(), image.config.digest.clone());
    let config = blocking(move || {
        let (found, _) = content::find(&own, &name, &config)?.ok_or_else(Refusal::blob_unknown)?;
        let bytes = content::bytes(found, MAX_CONFIG)?;
        String::from_utf8(bytes).map_err(|_| Refusal::manifest_invalid("the configuration is not text"))
    })
    .await?;
    let parsed: Value = serde_json::from_str(&config)
        .map_err(|e| Refusal::manifest_invalid(format!("the configuration cannot be read: {e}")))?;
    // Images of other systems are kept for those who have them.
    if !matches!(parsed.get("os").and_then(Value::as_str), None | Some("" | "linux")) {
        return Ok(None);
    }
    let file =
        |digest: &str| -> Option<PathBuf> { Some(shared.store.blob(digest)).filter(|path| path.exists()) };
    let layers: Vec<Sent> = image
        .layers
        .iter()
        .map(|l| Sent {
            digest: l.digest.clone(),
            size: l.size,
            media_type: l.media_type.clone(),
            file: file(&l.digest),
        })
        .collect();
    let pushed = Pushed {
        repository: put.name.to_owned(),
        tag: put.tag.map(str::to_owned),
        digest: put.digest.to_owned(),
        media_type: put.media.to_owned(),
        manifest: String::from_utf8_lossy(put.bytes).into_owned(),
        config,
        layers,
        user: put.user.map(str::to_owned),
    };
    let id = images.take(pushed).await?;
    let diff_ids = parsed.pointer("/rootfs/diff_ids").and_then(Value::as_array).cloned().unwrap_or_default();
    let diff_ids = diff_ids.iter().filter_map(Value::as_str).map(str::to_owned);
    let layers = image.layers.iter().map(|layer| layer.digest.clone()).zip(diff_ids).collect();
    release(shared, images, layers).await?;
    Ok(Some(id))
}

/// Gives files of layers back that the engine makes again byte for byte. Whether it does is found out in the background where
/// that takes time: until then there are two of it.
async fn release(
    shared: &Arc<Shared>,
    images: &Arc<dyn Images>,
    layers: Vec<(String, String)>,
) -> Result<(), Refusal> {
    let (own, engine) = (Arc::clone(shared), Arc::clone(images));
    let left = blocking(move || {
        let mut left = Vec::new();
        for (digest, diff_id) in layers {
            if engine.layer_size(&digest).is_some() {
                own.store.release(&digest)?;
            } else if own.store.blob(&digest).exists() {
                left.push((digest, diff_id));
            }
        }
        Ok(left)
    })
    .await?;
    if left.is_empty() {
        return Ok(());
    }
    let (own, engine) = (Arc::clone(shared), Arc::clone(images));
    tokio::spawn(async move {
        // One at a time: it is not urgent.
        let _turn = own.remaking.lock().await;
        for (digest, diff_id) in left {
            if !engine.remakes(&digest, &diff_id, &own.store.blob(&digest)).await {
                continue;
            }
            let (own, digest) = (Arc::clone(&own), digest.clone());
            if let Err(error) = blocking(move || Ok(own.store.release(&digest)?)).await {
                tracing::warn!(%error, "a file that is not needed could not be removed");
            }
        }
    });
    Ok(())
}

/// Hands an index to the engine, which has its images; answers the id of the one that this host would run, or the first.
async fn index(
    shared: &Arc<Shared>,
    images: &Arc<dyn Images>,
    put: &Put<'_>,
    entries: &[manifest::Descriptor],
) -> Result<Option<String>, Refusal> {
    let mut order = manifest::choose(entries, &Platform::host());
    order.extend(entries.iter().filter(|e| !e.is_statement()));
    let wanted: Vec<String> = order.into_iter().map(|e| e.digest.clone()).collect();
    let said: Vec<String> =
        entries.iter().filter(|e| e.is_statement()).map(|e| e.digest.clone()).take(STATEMENTS).collect();
    let (own, name) = (Arc::clone(shared), put.name.to_owned());
    let (members, statements) = blocking(move || {
        let mut members: Vec<(String, Text)> = Vec::new();
        for digest in wanted {
            let Some((_, kept)) = content::manifest(&own, &name, &digest, false)? else { continue };
            let Some(image) = kept.image.clone() else { continue };
            let manifest = text(kept)?;
            if !members.iter().any(|(_, known)| known.content == manifest.content) {
                members.push((image, manifest));
            }
        }
        let (mut statements, mut left) = (Vec::new(), STATEMENT_BYTES);
        for digest in said {
            statements.extend(statement(&own, &name, &digest, &mut left)?);
        }
        Ok((members, statements))
    })
    .await?;
    let Some((first, _)) = members.first().cloned() else { return Ok(None) };
    let content = String::from_utf8(put.bytes.to_vec())
        .map_err(|_| Refusal::manifest_invalid("the index is not text"))?;
    let index = Text { media_type: put.media.to_owned(), content };
    let (repository, tag) = (put.name.to_owned(), put.tag.map(str::to_owned));
    images.take_index(PushedIndex { repository, tag, index, members, statements }).await?;
    Ok(Some(first))
}

fn text(kept: Kept) -> Result<Text, Refusal> {
    let content =
        String::from_utf8(kept.bytes).map_err(|_| Refusal::manifest_invalid("a manifest is not text"))?;
    Ok(Text { media_type: kept.media, content })
}

/// A statement about an image with all blobs that it names, if they are not too large. Blocks.
fn statement(
    shared: &Shared,
    name: &str,
    digest: &str,
    left: &mut u64,
) -> Result<Option<(Text, Vec<Bytes>)>, Refusal> {
    let Some((_, kept)) = content::manifest(shared, name, digest, false)? else { return Ok(None) };
    let Ok((Document::Image(said), _)) = Document::parse(&kept.bytes, &kept.media) else { return Ok(None) };
    let mut blobs = Vec::new();
    for blob in said.blobs() {
        let Some((found, size)) = content::find(shared, name, &blob.digest)? else { return Ok(None) };
        if size > *left {
            return Ok(None);
        }
        *left -= size;
        blobs.push(Bytes::from(content::bytes(found, STATEMENT_BYTES)?));
    }
    Ok(Some((text(kept)?, blobs)))
}
