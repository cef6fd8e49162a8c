//! Images: names, content and layers, and the root file systems that containers get from them.
//!
//! The index (names, images, layers) is held in memory and written through to the metadata store; readers take a
//! snapshot of it and never wait. Layers are unpacked by the host into snapshots that a storage plugin plans.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;
use wharf_plan::platform::Platform;
use wharf_store::Store;

use crate::archive::unpack::Budget;
use crate::image_index::{INDEXES, IndexRecord};
use crate::inner::{Inner, blocking};
use crate::load::{Archive, Loading};
use crate::record::{ImageRecord, Index, LayerRecord, NameRecord};

pub mod archive;
mod changes;
mod commit;
mod content;
mod digest;
mod distribution;
pub mod driver;
mod error;
pub mod gc;
pub mod image_index;
mod import;
mod inner;
mod layers;
mod load;
mod model;
mod oci;
pub mod pull;
mod record;
pub mod reference;
mod remove;
mod save;
pub mod snapshots;

pub use changes::apply_changes;
pub use commit::{Change, Changes, CommitOptions};
pub use distribution::{Blob, Manifest, Packed};
pub use driver::StorageDriver;
pub use error::{Error, Kind, Result};
pub use image_index::{ImageIndex, Target};
pub use model::{
    Deleted, EmbeddedFile, Healthcheck, History, Image, ImageConfig, ImageUsage, ImportOptions, LayerRef,
    LoadOptions, Loaded, Progress, PruneOptions, Pruned, RemoveOptions, Usage, Use,
};
pub use remove::{Found, not_provided};
pub use save::{SaveOptions, Saving};
pub use snapshots::Snapshots;
pub use wharf_plan::platform::host_architecture;

/// Bounds on what an archive may make this host do.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one JSON document (manifest, index, configuration).
    pub document: u64,
    /// Bytes of all JSON documents of one archive together.
    pub documents: u64,
    /// Entries of an image archive (blobs and documents).
    pub archive_entries: u64,
    /// Layers of one image.
    pub layers: usize,
    /// Images of one archive.
    pub images: usize,
    /// Bytes that one archive may unpack to.
    pub unpacked: u64,
    /// Files, directories and other entries of one layer.
    pub layer_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            document: 8 << 20,
            documents: 64 << 20,
            archive_entries: 100_000,
            layers: 125,
            images: 1000,
            unpacked: 256 << 30,
            layer_entries: 4_000_000,
        }
    }
}

/// What [`Images::open`] needs.
#[derive(Clone)]
pub struct Settings {
    /// Metadata.
    pub store: Store,
    /// The storage driver.
    pub storage: Arc<dyn StorageDriver>,
    /// Name that the user gave it: `overlay2`, `vfs`. Images belong to one driver, as with Docker.
    pub driver: String,
    /// Options of the driver (`--storage-opt`).
    pub options: Vec<(String, String)>,
    /// Persistent files; blobs and snapshots live beneath it.
    pub data_root: PathBuf,
    /// Files that a reboot may take.
    pub exec_root: PathBuf,
    /// Directories that the administrator granted to the driver, by name.
    pub granted: BTreeMap<String, PathBuf>,
    /// Bounds for hostile input.
    pub limits: Limits,
    /// Flush layers to the disk before an image is recorded, so that it survives a power cut.
    pub durable: bool,
}

/// The images of this host. Clones share everything.
#[derive(Clone)]
pub struct Images {
    pub(crate) inner: Arc<Inner>,
}

/// Makes whoever works on an archive stop when nobody waits for the result any more.
struct Cancel(Arc<Budget>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Images {
    /// Opens the index and sweeps away what an earlier process left unfinished.
    pub async fn open(settings: Settings) -> Result<Self> {
        let inner = Arc::new(Inner::open(settings).await?);
        let index = read_index(&inner)?;
        inner.index.store(Arc::new(index));
        inner.sweep().await?;
        let images = Self { inner };
        images.sweep_layers().await;
        Ok(images)
    }

    /// Removes layers that no image came to need before an earlier process ended.
    async fn sweep_layers(&self) {
        let _changing = self.inner.changing.lock().await;
        let mut index = self.inner.index.load().as_ref().clone();
        match self.inner.collect_layers(&mut index).await {
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "could not remove layers that nothing needs"),
        }
        self.inner.index.store(Arc::new(index));
        if let Err(error) = distribution::sweep(&self.inner, &self.inner.index.load_full()).await {
            tracing::error!(%error, "could not forget what registries had of images that are gone");
        }
        self.inner.sweep_blobs(&self.inner.index.load());
        if let Err(error) = self.inner.sweep_indexes(&self.inner.index.load_full()).await {
            tracing::error!(%error, "could not forget image indexes without a name");
        }
        if let Err(error) = self.inner.sweep_recipes().await {
            tracing::error!(%error, "could not remove recipes of layers that are gone");
        }
    }

    /// Name of the storage driver.
    pub fn driver(&self) -> &str {
        &self.inner.settings.driver
    }

    /// `DriverStatus` of `info`.
    pub fn status(&self) -> Vec<(String, String)> {
        self.inner.capabilities.status.clone()
    }

    /// Container root file systems.
    pub fn snapshots(&self) -> Snapshots {
        Snapshots { images: self.clone() }
    }

    /// Makes an image of one layer from a tar stream, plain or compressed.
    pub async fn import<R: AsyncRead + Send + Unpin + 'static>(
        &self,
        input: R,
        options: ImportOptions,
    ) -> Result<Arc<Image>> {
        let budget = self.inner.budget();
        let _cancel = Cancel(Arc::clone(&budget));
        self.inner.import(SyncIoBridge::new(input), options, budget).await
    }

    /// Takes in the images of a `docker save` archive or an OCI layout, plain or compressed.
    pub async fn load<R: AsyncRead + Send + Unpin + 'static>(
        &self,
        input: R,
        options: LoadOptions,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Vec<Loaded>> {
        let inner = Arc::clone(&self.inner);
        let budget = inner.budget();
        let _cancel = Cancel(Arc::clone(&budget));
        let input = SyncIoBridge::new(input);
        let runtime = tokio::runtime::Handle::current();
        let working = inner.working.token();
        // On a thread to its end, also when nobody waits for it any more: it must clean up.
        blocking(move || {
            let _working = working;
            let mut loading = Loading {
                inner,
                runtime: runtime.clone(),
                budget,
                progress: &mut progress,
                archive: Archive::default(),
            };
            let read = loading.read(input);
            runtime.block_on(async {
                match read {
                    Ok(()) => loading.make(&options).await,
                    Err(error) => {
                        loading.give_up().await;
                        Err(error)
                    }
                }
            })
        })
        .await
    }

    /// Images as an archive that `load` takes, here and in Docker (`docker save` and OCI layout in one). Names that do
    /// not exist are told at once; if writing fails later the stream ends before the archive does.
    pub fn save(&self, references: &[String], options: &SaveOptions) -> Result<Saving> {
        self.inner.save(references, options)
    }

    /// Makes an image of files given as bytes, if it is not there yet.
    pub async fn create_embedded(
        &self,
        name: &str,
        files: &[EmbeddedFile],
        config: ImageConfig,
    ) -> Result<Arc<Image>> {
        let options = ImportOptions { repository: name.to_owned(), ..ImportOptions::default() };
        let layer = import::archive(files)?;
        // The same bytes give the same image, so that asking again changes nothing.
        let text = import::configuration(&config, &options, "1970-01-01T00:00:00Z", &digest::of(&layer))?;
        let reference = import::name(&options)?;
        if let Some(image) = self.inner.index.load().images.get(&digest::of(text.as_bytes())) {
            let wanted = reference.as_ref().map(reference::Reference::familiar);
            if wanted.is_none_or(|name| image.repo_tags.contains(&name)) {
                return Ok(Arc::clone(image));
            }
        }
        let unpacked = self.inner.unpack_base(std::io::Cursor::new(layer), self.inner.budget()).await?;
        self.inner.record_single(unpacked, reference, text).await
    }

    /// Waits until archives that nobody waits for any more are cleaned up.
    pub async fn idle(&self) {
        self.inner.working.wait().await;
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<Arc<Image>> {
        let mut images: Vec<Arc<Image>> = self.inner.index.load().images.values().cloned().collect();
        images.sort_by(|a, b| b.created_unix.cmp(&a.created_unix).then_with(|| a.id.cmp(&b.id)));
        images
    }

    /// Finds an image by name, digest, id or unique start of an id, as Docker does. Of an index it is the image that this
    /// host runs best.
    pub fn resolve(&self, reference: &str) -> Result<Arc<Image>> {
        remove::resolve(&self.inner.index.load(), reference)
    }

    /// What a name or an id leads to.
    pub fn find(&self, reference: &str) -> Result<Found> {
        remove::find(&self.inner.index.load(), reference)
    }

    /// Removes platforms of an image, and what only they needed. The name stays, also if nothing of it is here any more.
    pub async fn remove_platforms(
        &self,
        reference: &str,
        platforms: &[Platform],
        options: RemoveOptions,
    ) -> Result<Vec<Deleted>> {
        self.inner.remove_platforms(reference, platforms, &options).await
    }

    /// Gives an image another name. Answers the familiar name, and the id of the image that lost it.
    pub async fn tag(&self, reference: &str, target: &str) -> Result<(String, Option<String>)> {
        self.inner.tag(reference, target).await
    }

    /// Removes a name, or an image with all its names, and what only it needed.
    pub async fn remove(&self, reference: &str, options: RemoveOptions) -> Result<Vec<Deleted>> {
        self.inner.remove(reference, &options).await
    }

    /// Removes images that nothing uses.
    pub async fn prune(&self, options: PruneOptions) -> Result<Pruned> {
        self.inner.prune(&options).await
    }

    /// What [`collect_garbage`](Self::collect_garbage) would do; nothing is changed.
    pub fn plan_garbage(&self, policies: &[gc::GcPolicy], uses: &[Use], now: i64) -> Vec<gc::Doomed> {
        remove::plan_garbage(&self.inner.index.load(), policies, uses, now)
    }

    /// Removes one after the other the images that the policies say. `uses` is asked before each, so that what was
    /// put to use meanwhile stays; between two of them others have their turn. `now` is in seconds since 1970.
    pub async fn collect_garbage(
        &self,
        policies: &[gc::GcPolicy],
        uses: impl Fn() -> Vec<Use>,
        now: i64,
    ) -> Result<Pruned> {
        self.inner.collect_garbage(policies, uses, now).await
    }

    /// Bytes of the layers of an image and of the other platforms that its names lead to.
    pub fn size_of(&self, image: &Image) -> u64 {
        self.inner.index.load().layers_of(image).iter().map(|l| l.size).sum()
    }

    /// Ids of an image and of the other platforms that its names lead to.
    pub fn companions(&self, image: &str) -> BTreeSet<String> {
        self.inner.index.load().companions(image)
    }

    /// Disk use, each layer counted once. Platforms of one index are counted with the image that its names stand for.
    pub fn usage(&self) -> Usage {
        let index = self.inner.index.load();
        let mut users: HashMap<String, u32> = HashMap::new();
        let listed: Vec<(&String, Vec<LayerRef>)> = index
            .images
            .iter()
            .filter(|(_, image)| !image.is_companion())
            .map(|(id, image)| (id, index.layers_of(image)))
            .collect();
        for layer in listed.iter().flat_map(|(_, layers)| layers) {
            *users.entry(layer.chain_id.clone()).or_default() += 1;
        }
        let images = listed.iter().map(|(id, layers)| {
            let size = layers.iter().map(|l| l.size).sum();
            let shared = layers
                .iter()
                .filter(|l| users.get(&l.chain_id).is_some_and(|n| *n > 1))
                .map(|l| l.size)
                .sum();
            ((*id).clone(), ImageUsage { size, shared, unique: size - shared })
        });
        Usage { layers_size: index.layers.values().map(|l| l.size).sum(), images: images.collect() }
    }
}

/// Reads everything that was recorded.
fn read_index(inner: &Inner) -> Result<Index> {
    let store = &inner.settings.store;
    let mut index = Index::default();
    for (id, layer) in record::load::<LayerRecord>(store, record::LAYERS, &inner.plugin)? {
        index.layers.insert(id, Arc::new(layer));
    }
    for (name, found) in record::load::<NameRecord>(store, record::NAMES, &inner.plugin)? {
        index.names.insert(name, found.into());
    }
    for (digest, found) in record::load::<IndexRecord>(store, INDEXES, &inner.plugin)? {
        match ImageIndex::read(found) {
            Ok(read) if read.digest == digest => drop(index.indexes.insert(digest, Arc::new(read))),
            Ok(_) => tracing::error!(digest, "a record of an image index is not what its name says"),
            Err(error) => tracing::error!(%error, digest, "an image index is damaged"),
        }
    }
    for (id, image) in record::load::<ImageRecord>(store, record::IMAGES, &inner.plugin)? {
        // An image that lost a layer is told of and left out; the rest works.
        if let Err(error) = index.insert(&id, &image) {
            tracing::error!(%error, "an image is damaged");
        }
    }
    index.repair();
    Ok(index)
}
