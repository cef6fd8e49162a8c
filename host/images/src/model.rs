//! Images as the rest of the engine sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_plan::platform::Platform;

/// The `config` object of an image: what a container made of it starts with.
///
/// Field names as in the OCI image configuration, which are Docker's. Unknown members are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `USER`.
    #[serde(deserialize_with = "lenient")]
    pub user: String,
    /// `EXPOSE`: the keys are `80/tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Value>>,
    /// `ENV`, as `KEY=value`.
    pub env: Option<Vec<String>>,
    /// `ENTRYPOINT`.
    pub entrypoint: Option<Vec<String>>,
    /// `CMD`.
    pub cmd: Option<Vec<String>>,
    /// `VOLUME`: the keys are paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Value>>,
    /// `WORKDIR`.
    #[serde(deserialize_with = "lenient")]
    pub working_dir: String,
    /// `LABEL`.
    pub labels: Option<BTreeMap<String, String>>,
    /// `STOPSIGNAL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds before a stop becomes a kill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// `SHELL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// `ONBUILD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// `HEALTHCHECK`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// The command is already escaped (Windows only; kept as found).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Whatever else the configuration had.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

fn lenient<'de, D: serde::Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(d)?.unwrap_or_default())
}

/// `HEALTHCHECK` of an image. Durations in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", "..."]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two probes.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one probe.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Grace after the start.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between probes during the grace.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures that make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// One line of an image's history, as in its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// It made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRef {
    /// `sha256:` of the uncompressed tar.
    pub diff_id: String,
    /// `sha256:` that names this layer on top of those below it.
    pub chain_id: String,
    /// Bytes of file content that it adds.
    pub size: u64,
}

/// An image. Values never change; a new tag makes a new value.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// `sha256:` and the hash of the configuration.
    pub id: String,
    /// Names in familiar form: `busybox:latest`. Sorted.
    pub repo_tags: Vec<String>,
    /// Names with the digest of a manifest: `busybox@sha256:...`. Sorted.
    pub repo_digests: Vec<String>,
    /// Digests of the named indexes that it is an image of. Sorted.
    pub indexes: Vec<String>,
    /// RFC 3339, as in the configuration.
    pub created: Option<String>,
    /// The same in seconds since 1970 (0 if absent or unreadable).
    pub created_unix: i64,
    /// `amd64`, `arm64`...
    pub architecture: String,
    /// `v8`...
    pub variant: String,
    /// `linux`.
    pub os: String,
    /// Version of the operating system.
    pub os_version: String,
    /// Who made it.
    pub author: String,
    /// Commit message.
    pub comment: String,
    /// What containers start with.
    pub config: Arc<ImageConfig>,
    /// How it was made.
    pub history: Arc<Vec<History>>,
    /// Layers, lowest first.
    pub layers: Arc<Vec<LayerRef>>,
    /// Sum of the layers' sizes.
    pub size: u64,
    /// Image that it was made from here, if any (`docker commit`, classic builds).
    pub parent: Option<String>,
    /// Nanoseconds since 1970 of the last time a name was given to it; 0 if never.
    pub last_tag_time: i128,
    /// The configuration as it was hashed.
    pub raw_config: Arc<str>,
}

impl Image {
    /// The first twelve characters of its id, without `sha256:`.
    pub fn short_id(&self) -> &str {
        let hex = self.id.strip_prefix("sha256:").unwrap_or(&self.id);
        hex.get(..12).unwrap_or(hex)
    }

    /// No name at all, and no index that has one.
    pub fn is_dangling(&self) -> bool {
        self.repo_tags.is_empty() && self.repo_digests.is_empty() && self.indexes.is_empty()
    }

    /// It is here only as another platform of what a name leads to.
    pub fn is_companion(&self) -> bool {
        self.repo_tags.is_empty() && self.repo_digests.is_empty() && !self.indexes.is_empty()
    }

    /// `sha256:` chain id of its top layer; none if it has no layers.
    pub fn chain_id(&self) -> Option<&str> {
        self.layers.last().map(|l| l.chain_id.as_str())
    }
}

/// How `import` makes an image of one tar stream.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Repository, empty for an image without a name.
    pub repository: String,
    /// Tag, or empty for `latest`.
    pub tag: String,
    /// Commit message.
    pub message: String,
    /// Dockerfile instructions to apply to the configuration.
    pub changes: Vec<String>,
    /// `os[/arch[/variant]]`; empty means the host's.
    pub platform: String,
}

/// How `load` treats an archive.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Only images of these platforms; empty: of all that the archive has.
    pub platforms: Vec<Platform>,
}

/// One step of loading, for a progress display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes of this layer's blob were read.
    Layer {
        /// Short name of the layer.
        id: String,
        /// Bytes so far.
        current: u64,
        /// Bytes altogether.
        total: u64,
    },
}

/// What `load` made.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The image as it is now.
    pub image: Arc<Image>,
    /// Familiar names that the archive gave to it; none: Docker says `Loaded image ID: ...`.
    pub names: Vec<String>,
    /// Names that another image lost, with that image's id.
    pub moved: Vec<(String, String)>,
}

/// One line of the answer to a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deleted {
    /// A name was taken away.
    Untagged {
        /// The name, familiar.
        name: String,
        /// Image that had it.
        image: String,
    },
    /// An image is gone.
    Image(String),
    /// A layer, by its chain id, is gone.
    Layer(String),
}

/// A container that uses an image, as removal needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Full id.
    pub container: String,
    /// Image id, `sha256:...`.
    pub image: String,
    /// It runs now.
    pub running: bool,
}

/// How to remove an image.
#[derive(Debug, Clone, Default)]
pub struct RemoveOptions {
    /// Even if stopped containers use it or it has several names.
    pub force: bool,
    /// Keep parents without a name.
    pub no_prune: bool,
    /// Containers that exist.
    pub uses: Vec<Use>,
}

/// Which images `prune` removes.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Also images that have names.
    pub all: bool,
    /// Only images made before this (seconds since 1970).
    pub until: Option<i64>,
    /// Labels that must be there: name, value.
    pub labels: Vec<(String, Option<String>)>,
    /// Labels that must not be there.
    pub not_labels: Vec<(String, Option<String>)>,
    /// Ids of images that stay whatever else is said.
    pub keep: Vec<String>,
    /// Containers that exist.
    pub uses: Vec<Use>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What `prune` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names and images.
    pub deleted: Vec<Deleted>,
    /// Bytes.
    pub reclaimed: u64,
}

/// Disk use for `system df`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all layers, each counted once.
    pub layers_size: u64,
    /// Per image id: its size and how much of it other images share.
    pub images: BTreeMap<String, ImageUsage>,
}

/// Disk use of one image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageUsage {
    /// Sum of its layers.
    pub size: u64,
    /// Part of it that other images have too.
    pub shared: u64,
    /// The rest.
    pub unique: u64,
}

/// One file of an embedded image.
#[derive(Debug, Clone)]
pub struct EmbeddedFile {
    /// Path in the image, without a leading slash.
    pub path: String,
    /// Content.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}
