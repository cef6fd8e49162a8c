//! Root file systems of containers.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use serde::Serialize;
use wharf_plan::files::{Mount, Op};

use crate::Images;
use crate::error::{Error, Result};
use crate::model::Image;

/// The service that keeps them; made by [`Images::snapshots`]. Clones share everything.
#[derive(Clone)]
pub struct Snapshots {
    pub(crate) images: Images,
}

/// What a container's root file system is made of, for display (`--plan`) and for `inspect`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SnapshotPlan {
    /// The plugin that said so.
    pub plugin: String,
    /// File operations that prepare it.
    pub ops: Vec<Op>,
    /// Mounts that show it, the last being the root.
    pub mounts: Vec<Mount>,
}

/// Options of a new root file system.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    /// Bytes it may grow to (`--storage-opt size=`).
    pub size_limit: Option<u64>,
    /// Only plan; change nothing.
    pub dry_run: bool,
    /// SELinux mount label.
    pub mount_label: Option<String>,
}

impl Snapshots {
    /// Makes the writable file system of a container on top of an image. With `dry_run` only plans it.
    pub async fn prepare(
        &self,
        _container: &str,
        _image: &Image,
        _options: SnapshotOptions,
    ) -> Result<SnapshotPlan> {
        Err(Error::unsupported("snapshots are not supported yet"))
    }

    /// The root file system as a detached mount; it vanishes with the descriptor unless moved into a namespace.
    pub async fn mount(&self, _container: &str) -> Result<OwnedFd> {
        Err(Error::unsupported("snapshots are not supported yet"))
    }

    /// Removes it. One that does not exist is no error. The disk space is freed in the background.
    pub async fn remove(&self, _container: &str) -> Result<()> {
        Err(Error::unsupported("snapshots are not supported yet"))
    }

    /// Whether the container has one.
    pub fn exists(&self, _container: &str) -> bool {
        false
    }

    /// Bytes that the container wrote (`SizeRw`).
    pub async fn size(&self, _container: &str) -> Result<u64> {
        Err(Error::unsupported("snapshots are not supported yet"))
    }

    /// The driver's facts for `GraphDriver.Data` of `inspect`.
    pub async fn describe(&self, _container: &str) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    /// An image's files, read-only, as a detached mount: for reading `/etc/passwd` before there is a container.
    pub async fn view(&self, _image: &Image) -> Result<OwnedFd> {
        Err(Error::unsupported("snapshots are not supported yet"))
    }

    /// Removes every container file system whose container is not in `live`. Answers their container ids.
    pub async fn sweep(&self, _live: &BTreeSet<String>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}
