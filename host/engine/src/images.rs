//! Operations on images, as far as containers and events have a say; the store itself is `wharf-images`.

use std::collections::HashMap;

use serde_json::Value;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use crate::models::{ImageDeleteResponseItem, ImageHistoryResponseItem, ImagePruneResponse, ImageSummary};
use crate::{Engine, Error, Filters, Result};

/// Of `POST /images/create?fromSrc=-`.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Name for the new image.
    pub repo: Option<String>,
    /// Its tag.
    pub tag: Option<String>,
    /// Text for its history.
    pub message: Option<String>,
    /// Dockerfile instructions to apply.
    pub changes: Vec<String>,
    /// `os[/arch[/variant]]`.
    pub platform: Option<String>,
}

/// Lines of a progress answer, each a JSON object.
pub type Progress = mpsc::Sender<Value>;

/// A body that the caller streams in.
pub type Body = Box<dyn AsyncRead + Send + Unpin>;

impl Engine {
    /// `GET /images/json`.
    pub async fn image_list(&self, all: bool, filters: &Filters) -> Result<Vec<ImageSummary>> {
        let _ = (all, filters);
        Err(Error::unsupported("image list"))
    }

    /// `GET /images/{name}/json`, with the fields of older API versions too.
    pub async fn image_inspect(&self, reference: &str) -> Result<Value> {
        let _ = reference;
        Err(Error::unsupported("image inspect"))
    }

    /// `GET /images/{name}/history`.
    pub async fn image_history(&self, reference: &str) -> Result<Vec<ImageHistoryResponseItem>> {
        let _ = reference;
        Err(Error::unsupported("image history"))
    }

    /// `POST /images/{name}/tag`.
    pub async fn image_tag(&self, reference: &str, repo: &str, tag: &str) -> Result<()> {
        let _ = (reference, repo, tag);
        Err(Error::unsupported("image tag"))
    }

    /// `DELETE /images/{name}`.
    pub async fn image_remove(
        &self,
        reference: &str,
        force: bool,
        noprune: bool,
    ) -> Result<Vec<ImageDeleteResponseItem>> {
        let _ = (reference, force, noprune);
        Err(Error::unsupported("image remove"))
    }

    /// `POST /images/create?fromSrc=-`: the new image's id.
    pub async fn image_import(&self, body: Body, options: ImportOptions) -> Result<String> {
        let _ = (body, options);
        Err(Error::unsupported("image import"))
    }

    /// `POST /images/load`; lines such as `{"stream":"Loaded image: x:y\n"}` go to `progress`.
    pub async fn image_load(&self, body: Body, quiet: bool, progress: Progress) -> Result<()> {
        let _ = (body, quiet, progress);
        Err(Error::unsupported("image load"))
    }

    /// `POST /images/prune`.
    pub async fn image_prune(&self, filters: &Filters) -> Result<ImagePruneResponse> {
        let _ = filters;
        Err(Error::unsupported("image prune"))
    }

    /// Whether any registry could be asked for an image; a pull answers so until there is a client.
    pub async fn image_pull(
        &self,
        reference: &str,
        headers: &HashMap<String, String>,
        progress: Progress,
    ) -> Result<()> {
        let _ = (reference, headers, progress);
        Err(Error::unsupported("image pull"))
    }
}
