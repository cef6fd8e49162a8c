//! Files that this crate keeps by itself, beside the snapshots: recipes of layers, by the layer's chain id, and blobs of
//! statements about images (attestations), by their own digest. (An image's
//! configuration is part of its record, and a layer's content is in its snapshot; neither is stored a second time.)
//!
//! A file is written under a name of its own in `ingest`, checked while it is written, and renamed into place, so
//! that whatever has its final name is whole after a crash of this process. Against power cuts the whole file system
//! is flushed once before an image's record is written (see `Settings::durable`), instead of every file by itself.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::digest;

/// The directories.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    root: PathBuf,
}

/// A file that is being written; it vanishes unless it is kept.
#[derive(Debug)]
pub(crate) struct Ingest {
    path: PathBuf,
    kept: bool,
}

pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Content {
    pub(crate) fn open(data_root: &Path) -> io::Result<Self> {
        let content = Self { root: data_root.join("content") };
        for dir in ["recipes", "ingest", "blobs"] {
            private_dir(&content.root.join(dir))?;
        }
        // Whatever is here belongs to a process that is gone: the data root has one owner at a time.
        for entry in std::fs::read_dir(content.root.join("ingest"))? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(content)
    }

    pub(crate) fn ingest(&self) -> io::Result<(Ingest, File)> {
        let path = self.root.join("ingest").join(format!("{:032x}", rand::random::<u128>()));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        Ok((Ingest { path, kept: false }, file))
    }

    fn recipe(&self, chain: &str) -> PathBuf {
        self.root.join("recipes").join(digest::hex(chain))
    }

    pub(crate) fn keep_recipe(&self, ingest: Ingest, chain: &str) -> io::Result<()> {
        ingest.keep(&self.recipe(chain))
    }

    pub(crate) fn open_recipe(&self, chain: &str) -> io::Result<File> {
        File::open(self.recipe(chain))
    }

    pub(crate) fn remove_recipe(&self, chain: &str) -> io::Result<()> {
        absent_is_fine(std::fs::remove_file(self.recipe(chain)))
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(digest::hex(digest))
    }

    /// Keeps a blob for good: it is on the disk when this returns.
    pub(crate) fn write_blob(&self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.blob(digest);
        if path.exists() {
            return Ok(());
        }
        let (ingest, mut file) = self.ingest()?;
        file.write_all(bytes)?;
        file.sync_data()?;
        ingest.keep(&path)?;
        File::open(self.root.join("blobs"))?.sync_all()
    }

    /// A blob, if it is still what its name says.
    pub(crate) fn read_blob(&self, digest: &str) -> io::Result<Vec<u8>> {
        let bytes = std::fs::read(self.blob(digest))?;
        if digest::of(&bytes) != digest {
            return Err(io::Error::other(format!("blob {digest} has changed on the disk")));
        }
        Ok(bytes)
    }

    /// Removes blobs that are not needed.
    pub(crate) fn retain_blobs(&self, needed: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in std::fs::read_dir(self.root.join("blobs"))? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if !needed(&format!("sha256:{name}")) {
                absent_is_fine(std::fs::remove_file(self.root.join("blobs").join(&*name)))?;
            }
        }
        Ok(())
    }

    /// Layers that have a recipe.
    pub(crate) fn recipes(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.root.join("recipes"))? {
            found.push(format!("sha256:{}", entry?.file_name().to_string_lossy()));
        }
        Ok(found)
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Ingest {
    fn keep(mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "could not remove an unfinished file; the next start will");
        }
    }
}
