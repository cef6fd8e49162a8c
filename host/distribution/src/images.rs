//! The images of an engine, as the registry beside it sees them.
//!
//! With an engine the registry keeps documents, links and what is no image in its directory, and nothing else: a tag is
//! a name of the engine's image, a layer is made again from the files that the engine has unpacked, and what is pushed
//! is taken in by the engine. Layers are offered as they are made again, uncompressed; an image whose own manifest names
//! blobs that are there is offered under that manifest.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;
use wharf_registry::manifest::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use wharf_registry::{Descriptor, Platform, Session, digest};

use crate::answer::Refusal;

/// Media type of a layer that is a plain tar stream.
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// What an asynchronous question is answered with.
pub type Answered<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why the engine does not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is no such thing.
    Absent,
    /// What was sent is wrong.
    Invalid,
    /// A policy or a rule forbids it.
    Denied,
    /// Something uses it.
    Conflict,
    /// Anything else.
    Failed,
}

/// A failure of the engine, in words for the client.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct Trouble {
    /// Which sort.
    pub why: Why,
    /// For the user.
    pub text: String,
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        let (status, code) = match trouble.why {
            Why::Absent => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Why::Invalid => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            Why::Denied => (StatusCode::FORBIDDEN, "DENIED"),
            Why::Conflict => (StatusCode::CONFLICT, "DENIED"),
            Why::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        };
        Self::new(status, code, trouble.text)
    }
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// `sha256:` of its tar stream.
    pub diff_id: String,
    /// Bytes of that stream.
    pub size: u64,
}

/// An image that the engine has.
#[derive(Debug, Clone)]
pub struct Image {
    /// `sha256:` of its configuration.
    pub id: String,
    /// The configuration.
    pub config: Arc<str>,
    /// Layers, lowest first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// The manifest that it is offered under: its digest and its text. The same image always has the same.
    pub fn manifest(&self) -> (String, Vec<u8>) {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|l| json!({"mediaType": PLAIN, "digest": l.diff_id, "size": l.size}))
            .collect();
        let text = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": self.id, "size": self.config.len()},
            "layers": layers,
        })
        .to_string()
        .into_bytes();
        (digest::of(&text), text)
    }
}

/// An index that a name of the engine leads to.
#[derive(Debug, Clone)]
pub struct Index {
    /// `sha256:` of its text as it came to the engine.
    pub digest: String,
    /// Its images that the engine has, each with its platform as an index writes it.
    pub members: Vec<(Image, serde_json::Value)>,
}

impl Index {
    /// The index that it is offered under where its own names blobs that are not there: its digest and its text.
    pub fn made(&self) -> (String, Vec<u8>) {
        let entry = |(image, platform): &(Image, serde_json::Value)| {
            let (digest, text) = image.manifest();
            json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": text.len(), "platform": platform})
        };
        let entries: Vec<_> = self.members.iter().map(entry).collect();
        let text = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        let text = text.to_string().into_bytes();
        (digest::of(&text), text)
    }
}

/// Where what is not here is fetched from.
pub struct Elsewhere {
    /// A conversation about the repository there.
    pub session: Session,
    /// The only content that its name may lead to, if somebody says so.
    pub pinned: Option<String>,
}

/// A manifest of an image that was fetched for others.
pub struct Fetched<'a> {
    /// Where from.
    pub session: &'a Session,
    /// Repository that it was asked for in.
    pub repository: &'a str,
    /// Tag or digest that it was asked for by.
    pub reference: &'a str,
    /// The index that names it; itself if there is none.
    pub root: Descriptor,
    /// What that index says it is for.
    pub platform: Option<Platform>,
    /// The manifest.
    pub manifest: &'a wharf_registry::Fetched,
}

/// A text that was pushed.
#[derive(Debug, Clone)]
pub struct Text {
    /// What it is.
    pub media_type: String,
    /// Byte for byte.
    pub content: String,
}

/// A pushed index, whose images the engine has.
#[derive(Debug, Clone)]
pub struct PushedIndex {
    /// Repository that it was pushed to.
    pub repository: String,
    /// Tag, if it was pushed under one.
    pub tag: Option<String>,
    /// The index.
    pub index: Text,
    /// Its images: ids and manifests.
    pub members: Vec<(String, Text)>,
    /// What it says about them beside: manifests, each with all blobs that it names.
    pub statements: Vec<(Text, Vec<bytes::Bytes>)>,
}

/// A blob of a pushed image's layer.
#[derive(Debug, Clone)]
pub struct Sent {
    /// `sha256:` of its bytes.
    pub digest: String,
    /// Their number.
    pub size: u64,
    /// How they are packed.
    pub media_type: String,
    /// Where they are; none if the engine has the layer.
    pub file: Option<PathBuf>,
}

/// A pushed image.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Repository that it was pushed to.
    pub repository: String,
    /// Tag, if it was pushed under one.
    pub tag: Option<String>,
    /// Digest of its manifest.
    pub digest: String,
    /// Media type of its manifest.
    pub media_type: String,
    /// Text of its manifest.
    pub manifest: String,
    /// Its configuration.
    pub config: String,
    /// Blobs of its layers, lowest first.
    pub layers: Vec<Sent>,
    /// Who pushed it, where that is known.
    pub user: Option<String>,
}

/// What an engine does for a registry. `repository` is a name as clients of the registry write it.
pub trait Images: Send + Sync {
    /// All repositories that have tags.
    fn repositories(&self) -> Vec<String>;

    /// Tags of a repository.
    fn tags(&self, repository: &str) -> Vec<String>;

    /// The image that a tag is of.
    fn tagged(&self, repository: &str, tag: &str) -> Option<Image>;

    /// The index that a tag leads to, if it is one.
    fn tagged_index(&self, repository: &str, tag: &str) -> Option<Index>;

    /// Whether an index of the engine is what a registry had in this repository.
    fn is_pulled(&self, repository: &str, digest: &str) -> bool;

    /// All indexes with a name, by tag or by digest, in a repository.
    fn indexes(&self, repository: &str) -> Vec<Index>;

    /// All images with a name, by tag or by digest, in a repository.
    fn of_repository(&self, repository: &str) -> Vec<Image>;

    /// An image by its id.
    fn image(&self, id: &str) -> Option<Image>;

    /// Bytes of a layer's tar stream, or of what the engine packs a layer as; none if no image has such a layer.
    fn layer_size(&self, digest: &str) -> Option<u64>;

    /// A layer's tar stream, or what the engine packs a layer as, by the digest of either.
    fn layer<'a>(&'a self, digest: &'a str) -> Answered<'a, Result<Box<dyn Read + Send>, Trouble>>;

    /// Takes in a pushed image; answers its id.
    fn take(&self, pushed: Pushed) -> Answered<'_, Result<String, Trouble>>;

    /// Takes in a pushed index over images that are there.
    fn take_index(&self, pushed: PushedIndex) -> Answered<'_, Result<(), Trouble>>;

    /// Takes a name away: a tag or a digest. With its last name the image goes.
    fn remove<'a>(
        &'a self,
        repository: &'a str,
        reference: &'a str,
        user: Option<&'a str>,
    ) -> Answered<'a, Result<(), Trouble>>;

    /// Sees whether a blob that was pushed for a layer, and is in this file, is what the engine makes of the layer, byte
    /// for byte: `layer` answers it under its own digest from then on.
    fn remakes<'a>(&'a self, digest: &'a str, diff_id: &'a str, file: &'a Path) -> Answered<'a, bool>;

    /// Where a name leads elsewhere, if the engine shall fetch for others and its policies let the name through.
    fn elsewhere<'a>(
        &'a self,
        repository: &'a str,
        reference: &'a str,
    ) -> Answered<'a, Result<Option<Elsewhere>, Trouble>>;

    /// Whether the policies let an image through that was fetched for others.
    fn admit<'a>(&'a self, fetched: Fetched<'a>) -> Answered<'a, Result<(), Trouble>>;

    /// Waits until an image is gone.
    fn gone(&self) -> Answered<'_, ()>;
}
