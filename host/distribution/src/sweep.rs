//! Giving back what nothing needs any more: what belonged to images that the engine has no more, blobs that no manifest came for,
//! and of what is of other registries that which nobody asked for lately, or which there is no room for.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use wharf_registry::Document;

use crate::store::{CACHED, Kept, Link, Store, absent_is_none, hex, names};
use crate::{Images, Limits, Shared};

/// Blobs of a push that has not come to its manifest are left alone for so long after the last one of its repository…
pub(crate) const PATIENCE: Duration = Duration::from_hours(1);
/// … but no longer than this, however much else is pushed there.
const MOST_PATIENCE: u32 = 24;
/// After an image went, as others often follow.
const SETTLE: Duration = Duration::from_millis(500);
/// Without any sign.
const USUAL: Duration = Duration::from_mins(10);
/// What is left of other registries' content, of what there is room for, when some of it had to go: so that not each blob that
/// comes makes a sweep. In percent.
const LEFT: u64 = 90;

/// Sweeps whenever an image went or there is too much, for as long as the registry serves.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let gone = async {
            match &shared.images {
                Some(images) => images.gone().await,
                None => std::future::pending().await,
            }
        };
        // A short time to keep things has to be looked at more often.
        let usual = (shared.limits().cache_keep / 4).clamp(Duration::from_secs(1), USUAL);
        tokio::select! {
            () = gone => tokio::time::sleep(SETTLE).await,
            () = shared.full.notified() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(usual) => {}
        }
        let own = Arc::clone(&shared);
        let swept = tokio::task::spawn_blocking(move || {
            let cached = sweep(&own.store, own.images.as_deref(), PATIENCE, &own.limits())?;
            own.cached.store(cached, Ordering::Relaxed);
            Ok::<_, io::Error>(())
        });
        match swept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what nothing needs could not be removed"),
            Err(error) => tracing::error!(%error, "a sweep ended"),
        }
    }
}

/// Gives up uploads that stand still, for as long as the registry serves.
pub(crate) async fn uploads(shared: Arc<Shared>) {
    loop {
        let idle = shared.store.uploads.idle();
        tokio::time::sleep((idle / 4).clamp(Duration::from_millis(250), Duration::from_mins(1))).await;
        let own = Arc::clone(&shared);
        // Removes files.
        let _ = tokio::task::spawn_blocking(move || own.store.uploads.expire()).await;
    }
}

/// Since when nobody changed or asked for something.
fn since(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|m| m.modified()).ok()
}

fn is_old(path: &Path, patience: Duration) -> bool {
    let age = since(path).and_then(|t| SystemTime::now().duration_since(t).ok());
    age.is_some_and(|age| age >= patience)
}

/// What a document names: blobs of an image, manifests of an index.
#[derive(Default)]
struct Parts {
    blobs: Vec<String>,
    manifests: Vec<String>,
}

fn parts(kept: &Kept) -> Parts {
    match Document::parse(&kept.bytes, &kept.media) {
        Ok((Document::Image(image), _)) => {
            Parts { blobs: image.blobs().map(|b| b.digest.clone()).collect(), ..Parts::default() }
        }
        Ok((Document::Index(entries), _)) => {
            Parts { manifests: entries.into_iter().map(|e| e.digest).collect(), ..Parts::default() }
        }
        Err(_) => Parts::default(),
    }
}

/// A document of a repository, without its text.
struct One {
    cached: bool,
    /// It is an engine's image.
    image: bool,
    /// The engine has it no more.
    gone: bool,
    parts: Parts,
}

/// Something of another registry that may go: where it is linked, and since when nobody asked for it.
struct Cached {
    links: Vec<(String, Link)>,
    asked: SystemTime,
    size: u64,
}

/// Removes what nothing needs, and of other registries' content what is too old or too much. Answers the bytes of that which
/// are left.
pub(crate) fn sweep(
    store: &Store,
    images: Option<&dyn Images>,
    patience: Duration,
    limits: &Limits,
) -> io::Result<u64> {
    let _changing = store.changing();
    let mut pinned: HashSet<String> = HashSet::new();
    // By digest, over all repositories; and what must not go, though some repository has it from elsewhere.
    let mut cached: HashMap<String, Cached> = HashMap::new();
    let mut fixed: HashSet<String> = HashSet::new();
    for name in store.repositories()? {
        let mut documents: HashMap<String, One> = HashMap::new();
        for manifest in names(&store.repository(&name).join("_manifests"))? {
            let digest = format!("sha256:{manifest}");
            let Some(kept) = store.document(&name, &digest)? else { continue };
            let gone = kept.image.as_ref().is_some_and(|id| images.is_some_and(|i| i.image(id).is_none()));
            let one = One { cached: kept.cached, image: kept.image.is_some(), gone, parts: parts(&kept) };
            documents.insert(digest, one);
        }
        let held = held(&documents);
        orphans(store, &name, &mut documents)?;
        let mut dead: HashSet<String> = HashSet::new();
        // What documents need, and those of them that were pushed here: those have it from nowhere else.
        let (mut live, mut own): (HashSet<String>, HashSet<String>) = (HashSet::new(), HashSet::new());
        for (digest, one) in &documents {
            let path = store.link(&name, Link::Manifest, digest);
            let may_go = one.cached && !held.contains(digest);
            if one.gone || (may_go && is_old(&path, limits.cache_keep)) {
                dead.extend(one.parts.blobs.iter().cloned());
                let kept = store.document(&name, digest)?;
                store.drop_manifest(&name, digest, kept.as_ref())?;
                continue;
            }
            if !one.image && !one.cached {
                pinned.extend(one.parts.blobs.iter().map(|d| hex(d).to_owned()));
            }
            if may_go {
                note(store, &mut cached, &name, Link::Manifest, digest)?;
            } else {
                fixed.insert(digest.clone());
                own.extend(one.parts.blobs.iter().cloned());
            }
            live.extend(one.parts.blobs.iter().cloned());
        }
        let layers = names(&store.repository(&name).join("_layers"))?;
        let waits = waits(store, &name, &layers, patience);
        for layer in layers {
            let digest = format!("sha256:{layer}");
            let path = store.link(&name, Link::Layer, &digest);
            let Some(text) = absent_is_none(fs::read_to_string(&path))? else { continue };
            let needed = live.contains(&digest);
            if text != CACHED {
                let limit = if waits { patience * MOST_PATIENCE } else { patience };
                if !needed && (dead.contains(&digest) || is_old(&path, limit)) {
                    store.unlink(&name, Link::Layer, &digest)?;
                } else {
                    fixed.insert(digest);
                }
                continue;
            }
            if own.contains(&digest) {
                fixed.insert(digest);
                continue;
            }
            // Of another registry, whatever its documents there need: they come again, and so does this.
            if is_old(&path, limits.cache_keep) || (!needed && dead.contains(&digest)) {
                store.unlink(&name, Link::Layer, &digest)?;
            } else {
                note(store, &mut cached, &name, Link::Layer, &digest)?;
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
    cached.retain(|digest, _| !fixed.contains(digest));
    let left = make_room(store, cached, limits.cache_size)?;
    store.collect()?;
    Ok(left)
}

/// Marks what was only there for an index whose images are gone: statements about them (attestations), which are no images and
/// have no tag.
fn orphans(store: &Store, name: &str, documents: &mut HashMap<String, One>) -> io::Result<()> {
    let named = |gone: bool| -> HashSet<String> {
        let indexes = documents.values().filter(|one| one.gone == gone);
        indexes.flat_map(|one| one.parts.manifests.iter().cloned()).collect()
    };
    let (lost, live) = (named(true), named(false));
    if lost.is_empty() {
        return Ok(());
    }
    let mut tagged: HashSet<String> = HashSet::new();
    for tag in store.tags(name)?.unwrap_or_default() {
        tagged.extend(store.tag(name, &tag)?);
    }
    for (digest, one) in documents.iter_mut() {
        let needed = one.image || live.contains(digest) || tagged.contains(digest);
        one.gone |= lost.contains(digest) && !needed;
    }
    Ok(())
}

/// Manifests that indexes need which were pushed here, and those that they name, however deep.
fn held(documents: &HashMap<String, One>) -> HashSet<String> {
    let mut held: HashSet<String> = HashSet::new();
    let pushed = documents.values().filter(|one| !one.cached && !one.gone);
    let mut open: Vec<&String> = pushed.flat_map(|one| &one.parts.manifests).collect();
    while let Some(digest) = open.pop() {
        if held.insert(digest.clone()) {
            open.extend(documents.get(digest).into_iter().flat_map(|one| &one.parts.manifests));
        }
    }
    held
}

/// Whether a push to a repository may still be under way: its blobs come one by one, and the manifest last.
fn waits(store: &Store, name: &str, layers: &[String], patience: Duration) -> bool {
    let young =
        |layer: &String| !is_old(&store.link(name, Link::Layer, &format!("sha256:{layer}")), patience);
    store.uploads.any_of(name) || layers.iter().any(young)
}

/// Notes something of another registry.
fn note(
    store: &Store,
    cached: &mut HashMap<String, Cached>,
    name: &str,
    link: Link,
    digest: &str,
) -> io::Result<()> {
    let Some(file) = absent_is_none(fs::metadata(store.blob(digest)))? else { return Ok(()) };
    let asked = since(&store.link(name, link, digest)).unwrap_or(SystemTime::UNIX_EPOCH);
    let one = cached.entry(digest.to_owned()).or_insert_with(|| Cached {
        links: Vec::new(),
        asked,
        size: file.len(),
    });
    one.links.push((name.to_owned(), link));
    one.asked = one.asked.max(asked);
    Ok(())
}

/// Takes away what was not asked for longest until the rest has room; answers the bytes of the rest. Whoever reads it just now
/// has it open, and reads it to its end.
fn make_room(store: &Store, cached: HashMap<String, Cached>, most: Option<u64>) -> io::Result<u64> {
    let mut left: u64 = cached.values().map(|one| one.size).sum();
    let Some(most) = most.filter(|most| left > *most) else { return Ok(left) };
    let room = most / 100 * LEFT + most % 100 * LEFT / 100;
    let mut all: Vec<(String, Cached)> = cached.into_iter().collect();
    all.sort_by_key(|(_, one)| one.asked);
    for (digest, one) in all {
        if left <= room {
            break;
        }
        for (name, link) in &one.links {
            match link {
                Link::Layer => store.unlink(name, Link::Layer, &digest).map(drop)?,
                Link::Manifest => {
                    let kept = store.document(name, &digest)?;
                    store.drop_manifest(name, &digest, kept.as_ref()).map(drop)?;
                }
            }
        }
        left -= one.size;
    }
    Ok(left)
}
