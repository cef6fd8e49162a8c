//! Compressed layers that this host makes again, byte for byte, so that they need not be kept: what it packed itself, here or
//! on another machine.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use wharf_images::Packed;

use super::pack::{Packing, begins, packing};
use super::progress::Meter;
use crate::Engine;
use crate::error::{Error, Result};

/// Pieces that wait for who reads them.
const QUEUE: usize = 4;

/// What comes out of a packer as a reader.
struct Pieces {
    from: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let part = self.piece.split_to(self.piece.len().min(buffer.len()));
        if let Some(to) = buffer.get_mut(..part.len()) {
            to.copy_from_slice(&part);
        }
        Ok(part.len())
    }
}

impl Engine {
    /// Bytes of a blob that is made again of a layer; none if it is none, or the layer is gone.
    pub(super) fn packed_size(&self, digest: &str) -> Option<u64> {
        let packed = self.inner.images.packed(digest).ok()??;
        Packing::of_recipe(&packed.packing)?;
        self.inner.images.layer_of(&packed.diff_id).map(|_| packed.size)
    }

    /// Makes a blob again of its layer.
    pub(super) async fn packed_layer(&self, digest: &str) -> Result<Box<dyn Read + Send>> {
        let images = &self.inner.images;
        let gone = || Error::not_found("the layer is gone");
        let packed = images.packed(digest)?.ok_or_else(gone)?;
        let how = Packing::of_recipe(&packed.packing).ok_or_else(gone)?;
        let (stream, _) = images.layer_stream(&images.layer_of(&packed.diff_id).ok_or_else(gone)?).await?;
        let (from, _) = packing(stream, how, Meter::nobody(), QUEUE);
        Ok(Box::new(Pieces { from, piece: Bytes::new() }))
    }

    /// Whether this host would pack a layer into the very bytes of a file; it is remembered if so. The first part tells
    /// nearly always, so that what others packed costs next to nothing.
    pub(super) async fn remakes(&self, digest: &str, diff_id: &str, file: &Path) -> Result<bool> {
        let images = &self.inner.images;
        let Some(chain) = images.layer_of(diff_id) else { return Ok(false) };
        let mut usual = vec![self.inner.settings().registry.packing];
        for other in Packing::usual() {
            if !usual.contains(&other) {
                usual.push(other);
            }
        }
        let (stream, _) = images.layer_stream(&chain).await?;
        let path = file.to_owned();
        let candidate = blocking(move || begins(stream, &mut File::open(path)?, &usual)).await?;
        let Some(how) = candidate else { return Ok(false) };
        let (stream, _) = images.layer_stream(&chain).await?;
        let (mut pieces, _) = packing(stream, how, Meter::nobody(), QUEUE);
        let (mut hash, mut size) = (Sha256::new(), 0);
        while let Some(piece) = pieces.recv().await {
            let piece = piece.map_err(|e| Error::internal(e.to_string()))?;
            size += piece.len() as u64;
            hash = blocking(move || {
                hash.update(&piece);
                Ok(hash)
            })
            .await?;
        }
        if wharf_registry::digest::finish(hash) != digest {
            return Ok(false);
        }
        let recipe = how.recipe().map_err(|e| Error::internal(e.to_string()))?;
        let packed = Packed { diff_id: diff_id.to_owned(), size, packing: recipe };
        images.remember_packed(digest, &packed).await?;
        Ok(true)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(e.to_string()))?;
    done.map_err(|e| Error::internal(e.to_string()))
}
