//! Taking in archives of images.
//!
//! An archive is one stream whose table of contents comes last, so layers are unpacked as they pass by, each into a
//! snapshot that belongs to nothing yet; when the table is there, those that it names become layers, in order, and
//! the others go. Drivers that must know what a layer lies on get it from a file kept meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Seek};
use std::sync::Arc;
use std::thread::JoinHandle;

use serde::Deserialize;
use wharf_plan::platform::Platform;
use wharf_store::Transaction;

use crate::archive::blocks;
use crate::archive::decompress::{Compression, Peek, decompress_ahead};
use crate::archive::tar::{self, Kind, Reader};
use crate::archive::unpack::{Budget, normal};
use crate::content::Ingest;
use crate::digest::{self, HashReader};
use crate::distribution::{self, Blob, Manifest};
use crate::error::{Error, Result};
use crate::image_index::{Document, Target};
use crate::inner::Inner;
use crate::layers::Unpacked;
use crate::model::{LoadOptions, Loaded, Progress};
use crate::oci::{self, Layout, WantedIndex};
use crate::record::{ConfigFile, IMAGES, ImageRecord, Index, encode};
use crate::reference::Reference;

/// Layers unpacked at the same time.
const PARALLEL: usize = 4;
/// Pieces on their way to a layer's thread.
const QUEUE: usize = 8;

/// An entry of `manifest.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Item {
    pub config: String,
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub layers: Option<Vec<String>>,
    #[serde(default)]
    pub parent: Option<String>,
}

/// A layer's blob as it was found in the archive.
enum Staged {
    Unpacked(Box<Unpacked>),
    /// Waits in a file for its turn.
    Spooled(Ingest, std::fs::File),
    /// Used already, for the layer with this diff id.
    Taken(String),
}

/// An archive's content once it is read.
#[derive(Default)]
pub(crate) struct Archive {
    documents: BTreeMap<Vec<u8>, Vec<u8>>,
    links: HashMap<Vec<u8>, Vec<u8>>,
    staged: HashMap<Vec<u8>, Result<Staged>>,
}

impl Archive {
    /// Follows links inside the archive: `docker save` of old wrote a repeated layer as one.
    fn resolve(&self, name: &str) -> Result<Vec<u8>> {
        let outside = || Error::invalid(format!("the archive refers to {name:?}, which lies outside of it"));
        let mut path = normal(name.as_bytes()).ok_or_else(outside)?;
        for _ in 0..8 {
            match self.links.get(&path) {
                None => return Ok(path),
                Some(next) => path.clone_from(next),
            }
        }
        Err(Error::invalid(format!("too many links at {name:?} in the archive")))
    }

    /// A document by its name.
    pub(crate) fn document(&self, name: &str) -> Result<Option<&[u8]>> {
        Ok(self.documents.get(&self.resolve(name)?).map(Vec::as_slice))
    }

    /// A text document that must be there.
    pub(crate) fn text(&self, name: &str) -> Result<&str> {
        let found =
            self.document(name)?.ok_or_else(|| Error::invalid(format!("the archive has no {name:?}")))?;
        std::str::from_utf8(found).map_err(|_| Error::invalid(format!("{name:?} in the archive is not text")))
    }
}

/// One image of an archive, ready to be made.
pub(crate) struct Wanted {
    pub config: String,
    pub layers: Vec<String>,
    /// The layers' blobs, as a manifest names them; none where the archive has no manifest.
    pub blobs: Vec<Blob>,
    pub names: Vec<Reference>,
    /// Names with the manifests that the image had under them.
    pub manifests: Vec<(Reference, Had)>,
    pub parent: Option<String>,
}

/// A manifest of an image that an archive tells of.
pub(crate) struct Had {
    pub manifest: Document,
    /// What it names is not in the archive.
    pub claimed: bool,
}

/// Layers under way: their names in the archive and their threads.
type Running = Vec<(Vec<u8>, JoinHandle<Result<Unpacked>>)>;

pub(crate) struct Loading<'a> {
    pub inner: Arc<Inner>,
    pub runtime: tokio::runtime::Handle,
    pub budget: Arc<Budget>,
    pub progress: &'a mut dyn FnMut(Progress),
    pub archive: Archive,
}

impl Loading<'_> {
    /// Reads the whole stream. Blocks.
    pub(crate) fn read(&mut self, input: impl Read + Send + 'static) -> Result<()> {
        let mut running = Running::new();
        let read = self.entries(input, &mut running);
        if read.is_err() {
            self.budget.cancel();
        }
        while !running.is_empty() {
            self.finish_one(&mut running);
        }
        read
    }

    fn finish_one(&mut self, running: &mut Running) {
        if running.is_empty() {
            return;
        }
        let (name, thread) = running.remove(0);
        let result = match thread.join() {
            Ok(result) => result.map(|unpacked| Staged::Unpacked(Box::new(unpacked))),
            Err(_) => Err(Error::internal("a thread that unpacks a layer ended")),
        };
        self.archive.staged.insert(name, result);
    }

    fn entries(&mut self, input: impl Read + Send + 'static, running: &mut Running) -> Result<()> {
        let limits = self.inner.settings.limits.clone();
        let mut reader = Reader::new(decompress_ahead(input)?);
        let (mut count, mut documents) = (0u64, 0u64);
        while let Some(header) = reader.next_entry()? {
            count += 1;
            if count > limits.archive_entries {
                return Err(Error::too_large(format!(
                    "the archive has more than {} entries",
                    limits.archive_entries
                )));
            }
            let Some(path) = normal(&header.path) else {
                return Err(Error::invalid(format!(
                    "{} leads outside of the archive",
                    crate::archive::unpack::show(&header.path)
                )));
            };
            match header.kind {
                Kind::Symlink | Kind::HardLink => {
                    let mut target = header.link.clone();
                    if header.kind == Kind::Symlink {
                        // Relative to the link's own directory.
                        target = tree_join(&path, &target);
                    }
                    if let Some(target) = normal(&target) {
                        self.archive.links.insert(path, target);
                    }
                }
                Kind::File => {
                    if self.archive.documents.contains_key(&path) || self.archive.staged.contains_key(&path) {
                        return Err(Error::invalid(format!(
                            "the archive has {} twice",
                            crate::archive::unpack::show(&path)
                        )));
                    }
                    let size = header.size;
                    let expected = blob_digest(&path);
                    let mut entry = Peek::new((&mut reader).take(size))?;
                    if is_layer(entry.start()) {
                        if self.archive.staged.len() + running.len() >= limits.layers * limits.images.min(64)
                        {
                            return Err(Error::too_large("the archive has too many layers"));
                        }
                        self.layer(path, size, expected, entry, running)?;
                    } else if size <= limits.document {
                        documents += size;
                        if documents > limits.documents {
                            return Err(Error::too_large("the archive's documents are too large"));
                        }
                        let mut data = Vec::new();
                        entry.read_to_end(&mut data)?;
                        if let Some(expected) = expected
                            && digest::of(&data) != expected
                        {
                            return Err(Error::invalid(format!("blob {expected} of the archive is damaged")));
                        }
                        self.archive.documents.insert(path, data);
                    }
                    // Anything else large is no part of an image as far as we know; if a manifest names it, that
                    // is said then.
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Hands a layer's bytes to a thread of its own, or keeps them.
    fn layer(
        &mut self,
        path: Vec<u8>,
        size: u64,
        expected: Option<String>,
        mut entry: Peek<impl Read>,
        running: &mut Running,
    ) -> Result<()> {
        let label = label(&path);
        if !self.inner.can_rebase() {
            let (ingest, mut file) = self.inner.content.ingest()?;
            let mut hashed = HashReader::new(&mut entry);
            let mut buffer = vec![0u8; blocks::BLOCK];
            loop {
                let n = hashed.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                self.budget.spend(n as u64)?;
                io::Write::write_all(&mut file, buffer.get(..n).unwrap_or_default())?;
            }
            verify(expected, &hashed.finish().0)?;
            self.archive.staged.insert(path, Ok(Staged::Spooled(ingest, file)));
            return Ok(());
        }
        while running.len() >= PARALLEL {
            self.finish_one(running);
        }
        // What is not compressed is hashed where it is taken apart, and only once.
        let plain = Compression::of(entry.start()) == Compression::None;
        let expected_there = expected.clone().filter(|_| plain);
        let target = self.runtime.block_on(self.inner.layer_target(None))?;
        let (feeder, blocks) = blocks::channel(QUEUE);
        let (inner, runtime, budget) =
            (Arc::clone(&self.inner), self.runtime.clone(), Arc::clone(&self.budget));
        let thread = std::thread::Builder::new().name("unpack".into()).spawn(move || {
            let unpacked = inner.unpack(&runtime, target, blocks, &budget)?;
            if let Err(error) = verify(expected_there, &unpacked.diff_id) {
                runtime.block_on(inner.discard_unpacked(unpacked))?;
                return Err(error);
            }
            Ok(unpacked)
        })?;
        running.push((path, thread));
        let fed = if plain {
            self.feed(&feeder, &mut entry, &label, size).map(|()| None)
        } else {
            let mut hashed = HashReader::new(entry);
            self.feed(&feeder, &mut hashed, &label, size).map(|()| Some(hashed.finish().0))
        };
        // The thread must not take a broken stream for a finished one.
        let copy = |e: &Error| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
        let found = match fed {
            Ok(found) => found,
            Err(e) => {
                feeder.fail(io::Error::new(e.kind(), e.to_string()));
                return Err(e.into());
            }
        };
        match found.map_or(Ok(()), |found| verify(expected, &found)) {
            Ok(()) => feeder.end(),
            Err(error) => {
                feeder.fail(copy(&error));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Passes a layer's bytes on. One that failed no longer listens; the rest of the archive may do without it.
    fn feed(
        &mut self,
        feeder: &blocks::Feeder,
        from: &mut impl Read,
        label: &str,
        size: u64,
    ) -> io::Result<()> {
        let mut current = 0;
        loop {
            let (n, listened) = feeder.pass(from)?;
            if n == 0 {
                return Ok(());
            }
            current += n as u64;
            (self.progress)(Progress::Layer { id: label.to_owned(), current, total: size });
            if !listened {
                return io::copy(from, &mut io::sink()).map(drop);
            }
        }
    }

    /// Removes everything unpacked so far.
    pub(crate) async fn give_up(&mut self) {
        for (_, staged) in self.archive.staged.drain() {
            if let Ok(Staged::Unpacked(unpacked)) = staged
                && let Err(error) = self.inner.discard_unpacked(*unpacked).await
            {
                tracing::error!(%error, "could not remove an unpacked layer; the next start will");
            }
        }
    }

    /// Images that the archive's table of contents asks for.
    fn wanted(&self, options: &LoadOptions) -> Result<Layout> {
        let limits = &self.inner.settings.limits;
        let wanted = if oci::says_more(&self.archive) {
            oci::images(&self.archive, options, limits)?
        } else if let Some(table) = self.archive.document("manifest.json")? {
            let items: Vec<Item> = serde_json::from_slice(table)
                .map_err(|e| Error::invalid(format!("invalid manifest.json in the archive: {e}")))?;
            let images = items.into_iter().map(|item| self.item(item)).collect::<Result<Vec<_>>>()?;
            Layout { images: asked(images, options)?, indexes: Vec::new() }
        } else if self.archive.document("index.json")?.is_some() {
            oci::images(&self.archive, options, limits)?
        } else {
            return Err(Error::invalid(
                "unrecognized image format: the archive has neither manifest.json nor index.json",
            ));
        };
        if wanted.images.is_empty() {
            return Err(Error::invalid("the archive contains no image"));
        }
        if wanted.images.len() > limits.images {
            return Err(Error::too_large(format!("the archive has more than {} images", limits.images)));
        }
        Ok(wanted)
    }

    fn item(&self, item: Item) -> Result<Wanted> {
        let mut names = Vec::new();
        for tag in item.repo_tags.into_iter().flatten() {
            let name = Reference::parse(&tag).map_err(|e| e.at(format!("invalid tag {tag:?}")))?;
            if name.tag.is_none() || name.digest.is_some() {
                return Err(Error::invalid(format!("invalid tag {tag:?}")));
            }
            names.push(name);
        }
        Ok(Wanted {
            config: self.archive.text(&item.config)?.to_owned(),
            layers: item.layers.unwrap_or_default(),
            blobs: Vec::new(),
            names,
            manifests: Vec::new(),
            parent: item.parent.filter(|p| !p.is_empty()),
        })
    }

    /// Makes the images. Whatever of the archive was not needed is removed, also when something fails.
    pub(crate) async fn make(&mut self, options: &LoadOptions) -> Result<Vec<Loaded>> {
        let inner = Arc::clone(&self.inner);
        let _changing = inner.changing.lock().await;
        let mut index = inner.index.load().as_ref().clone();
        let made = match self.wanted(options) {
            Ok(wanted) => self.make_all(&mut index, wanted).await,
            Err(error) => Err(error),
        };
        let mut cleaned = Ok(());
        for (_, staged) in self.archive.staged.drain() {
            if let Ok(Staged::Unpacked(unpacked)) = staged
                && let Err(error) = inner.discard_unpacked(*unpacked).await
            {
                cleaned = Err(error);
            }
        }
        if made.is_err() {
            // Layers committed for an image that was not made.
            index.images.clone_from(&inner.index.load().images);
            if let Err(error) = inner.collect_layers(&mut index).await {
                tracing::error!(%error, "could not remove the layers of an image that was not made");
            }
            index.forget_names(&inner.index.load());
        }
        inner.sweep_blobs(&index);
        inner.index.store(Arc::new(index));
        let made = made?;
        cleaned?;
        Ok(made)
    }

    async fn make_all(&mut self, index: &mut Index, wanted: Layout) -> Result<Vec<Loaded>> {
        let inner = Arc::clone(&self.inner);
        let limits = &inner.settings.limits;
        let mut transaction = Transaction::new();
        let mut loaded = Vec::new();
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let Layout { images, indexes } = wanted;
        let members: BTreeSet<usize> =
            indexes.iter().flat_map(|x| x.members.iter().map(|(at, _)| *at)).collect();
        let mut ids = Vec::new();
        for (number, image) in images.into_iter().enumerate() {
            let file = ConfigFile::parse(&image.config)?;
            let diff_ids = file.rootfs.diff_ids.clone().unwrap_or_default();
            if image.layers.len() != diff_ids.len() {
                return Err(Error::invalid(format!(
                    "invalid manifest, layers length mismatch: expected {}, got {}",
                    image.layers.len(),
                    diff_ids.len()
                )));
            }
            if diff_ids.len() > limits.layers {
                return Err(Error::invalid("max depth exceeded"));
            }
            if !file.os.is_empty() && file.os != "linux" {
                return Err(Error::invalid(format!("cannot load {} image on linux", file.os)));
            }
            let mut below: Option<String> = None;
            // Whether each of its blobs was seen to be the layer.
            let mut seen = true;
            for (position, (name, diff_id)) in image.layers.iter().zip(&diff_ids).enumerate() {
                crate::reference::check_digest(diff_id)
                    .map_err(|e| e.at(format!("layer {position} of the image configuration")))?;
                let looked_at = self.is_fresh(index, below.as_deref(), name, diff_id)?;
                below = Some(self.place(index, below.as_deref(), position, name, diff_id).await?);
                // The blob is what its name says, and the layer what the configuration says: they belong together.
                let packed = image.blobs.get(position).filter(|b| b.digest != *diff_id);
                seen &= looked_at || packed.is_none();
                if let Some(blob) = packed.filter(|_| looked_at) {
                    distribution::remember_blob(&inner, &mut transaction, diff_id, blob)?;
                }
            }
            let id = digest::of(image.config.as_bytes());
            let parent = image.parent.filter(|parent| index.images.contains_key(parent));
            let record = ImageRecord {
                config: image.config,
                parent,
                last_tag_time: if image.names.is_empty() && !members.contains(&number) { 0 } else { now },
            };
            transaction.put(IMAGES, &inner.key(&id), encode(&record)?);
            index.insert(&id, &record)?;
            let target = Target::image(&id);
            let moved = give_names(&inner, index, &mut transaction, &image.names, &target)?;
            let manifests = image.manifests.into_iter();
            let manifests = manifests.map(|(name, had)| (name, Had { claimed: had.claimed || !seen, ..had }));
            keep_manifests(&inner, index, &mut transaction, &id, manifests.collect())?;
            if !image.names.is_empty() || !members.contains(&number) {
                loaded.push((id.clone(), image.names, moved));
            }
            ids.push(id);
        }
        for WantedIndex { incoming, members, names } in indexes {
            let images: Vec<(String, Document)> = members
                .into_iter()
                .filter_map(|(at, manifest)| Some((ids.get(at)?.clone(), manifest)))
                .collect();
            let digest = index.take_index(&inner, &mut transaction, incoming, &images)?;
            let target = index.indexes.get(&digest).map(|x| Target::index(x));
            let target = target.ok_or_else(|| Error::internal("a lost index"))?;
            let moved = give_names(&inner, index, &mut transaction, &names, &target)?;
            // As a pull names it: so it is found by its digest, and keeps a name when another takes its tag.
            let by_digest =
                |n: &Reference| Reference { tag: None, digest: Some(digest.clone()), ..n.clone() };
            let by_digest: Vec<Reference> = names.iter().map(by_digest).collect();
            give_names(&inner, index, &mut transaction, &by_digest, &target)?;
            loaded.push((target.image, names, moved));
        }
        inner.make_durable().await?;
        inner.commit_lasting(transaction).await?;
        let mut result = Vec::new();
        for (id, names, moved) in loaded {
            let image = index.images.get(&id).cloned().ok_or_else(|| Error::internal("a lost image"))?;
            result.push(Loaded { image, names: names.iter().map(Reference::familiar).collect(), moved });
        }
        Ok(result)
    }

    /// Whether placing a blob finds out what is in it, rather than only that there is such a layer.
    fn is_fresh(&self, index: &Index, below: Option<&str>, name: &str, diff_id: &str) -> Result<bool> {
        let known = index.layers.contains_key(&digest::chain(below, diff_id));
        Ok(match self.archive.staged.get(&self.archive.resolve(name)?) {
            Some(Ok(Staged::Unpacked(_) | Staged::Taken(_))) => true,
            Some(Ok(Staged::Spooled(..))) => !known,
            Some(Err(_)) | None => false,
        })
    }

    /// Makes one blob the layer on top of `below`.
    async fn place(
        &mut self,
        index: &mut Index,
        below: Option<&str>,
        position: usize,
        name: &str,
        diff_id: &str,
    ) -> Result<String> {
        let chain_id = digest::chain(below, diff_id);
        let path = self.archive.resolve(name)?;
        let known = index.layers.contains_key(&chain_id);
        let mismatch = |found: &str| {
            Error::invalid(format!(
                "invalid diffID for layer {position}: expected \"{diff_id}\", got \"{found}\""
            ))
        };
        let inner = Arc::clone(&self.inner);
        match self.archive.staged.remove(&path) {
            Some(Ok(Staged::Unpacked(unpacked))) => {
                let found = unpacked.diff_id.clone();
                self.archive.staged.insert(path, Ok(Staged::Taken(found.clone())));
                if found != diff_id {
                    inner.discard_unpacked(*unpacked).await?;
                    return Err(mismatch(&found));
                }
                inner.commit_layer(index, below, *unpacked).await
            }
            Some(Ok(Staged::Spooled(ingest, mut file))) => {
                file.rewind()?;
                let input = file.try_clone()?;
                self.archive.staged.insert(path, Ok(Staged::Spooled(ingest, file)));
                if known {
                    return Ok(chain_id);
                }
                // The driver asks for layers by the index, so it has to know those made so far.
                inner.publish_layers(index);
                let target = inner.layer_target(below).await?;
                let (worker, runtime, budget) =
                    (Arc::clone(&inner), self.runtime.clone(), Arc::clone(&self.budget));
                let unpacked =
                    crate::inner::blocking(move || worker.unpack(&runtime, target, input, &budget)).await?;
                if unpacked.diff_id != diff_id {
                    let found = unpacked.diff_id.clone();
                    inner.discard_unpacked(unpacked).await?;
                    return Err(mismatch(&found));
                }
                inner.commit_layer(index, below, unpacked).await
            }
            Some(Ok(Staged::Taken(found))) => {
                self.archive.staged.insert(path, Ok(Staged::Taken(found.clone())));
                if found != diff_id {
                    return Err(mismatch(&found));
                }
                if known {
                    return Ok(chain_id);
                }
                // The same blob on top of something else: unpack it again from the layer it has become.
                inner.copy_layer(index, &self.runtime, below, diff_id, &self.budget).await
            }
            Some(Err(error)) => {
                let again = error.clone();
                self.archive.staged.insert(path, Err(error));
                Err(again.at(format!("layer {position}")))
            }
            None if known => Ok(chain_id),
            None => Err(Error::invalid(format!("layer {position}: the archive has no layer {name:?}"))),
        }
    }
}

/// Lets names lead to something; answers those that led to another image, with that image's id.
fn give_names(
    inner: &Inner,
    index: &mut Index,
    transaction: &mut Transaction,
    names: &[Reference],
    target: &Target,
) -> Result<Vec<(String, String)>> {
    let mut moved = Vec::new();
    for name in names {
        let old = index.point(inner, transaction, name, target)?;
        moved.extend(old.filter(|old| old.image != target.image).map(|old| (name.familiar(), old.image)));
    }
    Ok(moved)
}

/// Notes the manifests that an image had under its names, and names it by them as a pull does.
fn keep_manifests(
    inner: &Inner,
    index: &mut Index,
    transaction: &mut Transaction,
    image: &str,
    manifests: Vec<(Reference, Had)>,
) -> Result<()> {
    let mut all = Vec::new();
    for (name, Had { manifest, claimed }) in manifests {
        let digest = digest::of(manifest.content.as_bytes());
        index.arrived(inner, transaction, image, &manifest)?;
        let by_digest = Reference { tag: None, digest: Some(digest.clone()), ..name };
        index.point(inner, transaction, &by_digest, &Target::image(image))?;
        all.push(Manifest {
            // An archive says nothing about what registries have.
            source: String::new(),
            digest: digest.clone(),
            root: digest,
            root_type: manifest.media_type.clone(),
            root_size: manifest.content.len() as u64,
            media_type: manifest.media_type,
            content: manifest.content,
            made: false,
            claimed,
        });
    }
    if all.is_empty() { Ok(()) } else { distribution::remember(inner, transaction, image, &all) }
}

/// Of the images of a `manifest.json` those of the platforms that are asked for.
fn asked(images: Vec<Wanted>, options: &LoadOptions) -> Result<Vec<Wanted>> {
    let Some(first) = options.platforms.first() else { return Ok(images) };
    let mut asked = Vec::new();
    for image in images {
        let platform = ConfigFile::parse(&image.config)?.platform();
        if options.platforms.iter().any(|wanted| wanted.fit(&platform).is_some()) {
            asked.push(image);
        }
    }
    if asked.is_empty() {
        return Err(none_of(first));
    }
    Ok(asked)
}

fn verify(expected: Option<String>, found: &str) -> Result<()> {
    match expected {
        Some(expected) if expected != found => {
            Err(Error::invalid(format!("blob {expected} of the archive is damaged: its content is {found}")))
        }
        _ => Ok(()),
    }
}

/// Looks like a layer: a tar stream, or something compressed.
fn is_layer(start: &[u8]) -> bool {
    Compression::of(start) != Compression::None || tar::is_start(start)
}

/// What the name of a blob says its hash is.
fn blob_digest(path: &[u8]) -> Option<String> {
    let hex = std::str::from_utf8(path.strip_prefix(b"blobs/sha256/")?).ok()?;
    crate::reference::is_hex64(hex).then(|| format!("sha256:{hex}"))
}

/// A short name for progress.
fn label(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let text = text.strip_prefix("blobs/sha256/").unwrap_or(&text);
    text.chars().take(12).collect()
}

/// A link's target as a path from the archive's root.
fn tree_join(link: &[u8], target: &[u8]) -> Vec<u8> {
    let (dir, _) = wharf_kernel::files::tree::split(link);
    let mut path = dir.to_vec();
    path.push(b'/');
    path.extend_from_slice(target);
    path
}

/// An archive has nothing for the platform that is asked for.
pub(crate) fn none_of(wanted: &Platform) -> Error {
    Error::not_found(format!("no images providing the requested platform {} found", wanted.text()))
}
