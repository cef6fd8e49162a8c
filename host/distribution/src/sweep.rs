//! Giving back what belonged to images that the engine has no more.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use wharf_registry::Document;

use crate::store::{CACHED, Kept, Link, Store, absent_is_none, hex, names};
use crate::{Images, Shared};

/// Blobs of a push that has not come to its manifest are left alone for so long.
const PATIENCE: Duration = Duration::from_hours(1);
/// After an image went, as others often follow.
const SETTLE: Duration = Duration::from_millis(500);
/// Without any sign.
const USUAL: Duration = Duration::from_mins(10);

/// Sweeps whenever an image went, for as long as the registry serves.
pub(crate) async fn run(shared: Arc<Shared>) {
    let Some(images) = shared.images.clone() else { return };
    loop {
        if tokio::time::timeout(USUAL, images.gone()).await.is_ok() {
            tokio::time::sleep(SETTLE).await;
        }
        let (own, engine) = (Arc::clone(&shared), Arc::clone(&images));
        let swept =
            tokio::task::spawn_blocking(move || sweep(&own.store, engine.as_ref(), PATIENCE, own.cache_keep))
                .await;
        match swept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "what belonged to images that are gone could not be removed");
            }
            Err(error) => tracing::error!(%error, "a sweep ended"),
        }
    }
}

/// Blobs that a document names.
fn parts(kept: &Kept) -> Vec<String> {
    match Document::parse(&kept.bytes, &kept.media) {
        Ok((Document::Image(image), _)) => image.blobs().map(|b| b.digest.clone()).collect(),
        _ => Vec::new(),
    }
}

fn is_old(path: &std::path::Path, patience: Duration) -> bool {
    let age = fs::metadata(path)
        .and_then(|m| m.modified())
        .ok()
        .and_then(|t| SystemTime::now().duration_since(t).ok());
    age.is_some_and(|age| age >= patience)
}

/// Removes manifests of images that are gone, what only they needed, blobs that no manifest came for in time, and what is of
/// other registries and nobody asked for in the time `keep`.
pub(crate) fn sweep(
    store: &Store,
    images: &dyn Images,
    patience: Duration,
    keep: Duration,
) -> io::Result<()> {
    let _changing = store.changing();
    let mut pinned: HashSet<String> = HashSet::new();
    for name in store.repositories()? {
        let mut dead: HashSet<String> = HashSet::new();
        // What documents need, and those of them that were pushed here: those have it from nowhere else.
        let (mut live, mut own): (HashSet<String>, HashSet<String>) = (HashSet::new(), HashSet::new());
        for manifest in names(&store.repository(&name).join("_manifests"))? {
            let digest = format!("sha256:{manifest}");
            let Some(kept) = store.document(&name, &digest)? else { continue };
            let outdated = kept.cached && is_old(&store.link(&name, Link::Manifest, &digest), keep);
            if !outdated && kept.image.as_ref().is_none_or(|id| images.image(id).is_some()) {
                let parts = parts(&kept);
                if kept.image.is_none() && !kept.cached {
                    pinned.extend(parts.iter().map(|d| hex(d).to_owned()));
                }
                if !kept.cached {
                    own.extend(parts.iter().cloned());
                }
                live.extend(parts);
                continue;
            }
            dead.extend(parts(&kept));
            store.drop_manifest(&name, &digest, Some(&kept))?;
        }
        for layer in names(&store.repository(&name).join("_layers"))? {
            let digest = format!("sha256:{layer}");
            let path = store.link(&name, Link::Layer, &digest);
            let needed = live.contains(&digest);
            let unneeded = !needed && (dead.contains(&digest) || is_old(&path, patience));
            // Of another registry, whatever its documents there need: they come again, and so does this.
            let outdated = !unneeded
                && !own.contains(&digest)
                && is_old(&path, keep)
                && absent_is_none(fs::read_to_string(&path))?.as_deref() == Some(CACHED);
            if unneeded || outdated {
                store.unlink(&name, Link::Layer, &digest)?;
            }
        }
    }
    for pin in names(&store.pins())? {
        // A pin is older than the manifest that it is for.
        let path = store.pins().join(&pin);
        if !pinned.contains(&pin) && is_old(&path, patience) {
            absent_is_none(fs::remove_file(path))?;
        }
    }
    store.collect()
}
