//! Image layers and container root file systems.
//!
//! Values of `wit/deps/storage.wit`; the words there are the specification.

use serde::{Deserialize, Serialize};
#[cfg(feature = "component")]
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::files::{Mount, Op, Place};
use crate::types::{Cookie, Digest, IdMap, Labels};
/// `kind` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `view`.
    #[cfg_attr(feature = "component", component(name = "view"))]
    View,
    /// `active`.
    #[cfg_attr(feature = "component", component(name = "active"))]
    Active,
    /// `committed`.
    #[cfg_attr(feature = "component", component(name = "committed"))]
    Committed,
}

/// The host owns names, parents, kinds, labels and times; the plugin owns
/// `cookie`. Lineage is oldest ancestor last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Snapshot {
    /// `id`.
    pub id: String,
    /// `kind`.
    pub kind: Kind,
    /// `labels`.
    pub labels: Labels,
    /// `cookie`.
    pub cookie: Cookie,
}

/// `host-facts` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct HostFacts {
    /// `kernel`.
    pub kernel: String,
    /// Of the data directory.
    #[cfg_attr(feature = "component", component(name = "backing-filesystem"))]
    pub backing_filesystem: String,
    /// `filesystems`.
    pub filesystems: Vec<String>,
    /// `user-namespace`.
    #[cfg_attr(feature = "component", component(name = "user-namespace"))]
    pub user_namespace: bool,
    /// `features`.
    pub features: Vec<String>,
}

/// How layer content gets in and out, all done natively by the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum ApplyMode {
    /// Untar into the mounted snapshot.
    #[cfg_attr(feature = "component", component(name = "unpack"))]
    Unpack,
    /// Keep the blob; the driver mounts or indexes it.
    #[cfg_attr(feature = "component", component(name = "keep-blob"))]
    KeepBlob,
    /// Host converts tar to an EROFS image first.
    #[cfg_attr(feature = "component", component(name = "erofs-image"))]
    ErofsImage,
}

/// `diff-mode` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum DiffMode {
    /// Walk the upper directory with overlay whiteouts.
    #[cfg_attr(feature = "component", component(name = "overlay-upper"))]
    OverlayUpper,
    /// Compare two mounted trees.
    #[cfg_attr(feature = "component", component(name = "double-walk"))]
    DoubleWalk,
    /// Ask the file system (btrfs send, zfs diff).
    #[cfg_attr(feature = "component", component(name = "native-changes"))]
    NativeChanges,
}

flags_type! { Features {
    "size-limit" SIZE_LIMIT,
    "id-mapped" ID_MAPPED,
    "rebase-on-commit" REBASE_ON_COMMIT,
    "lazy-layers" LAZY_LAYERS,
    "exact-diffs" EXACT_DIFFS,
} }

/// `capabilities` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Capabilities {
    /// `apply`.
    pub apply: ApplyMode,
    /// `diff`.
    pub diff: DiffMode,
    /// `features`.
    pub features: Features,
    /// `status`.
    pub status: Labels,
}

/// `prepare-request` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct PrepareRequest {
    /// `id`.
    pub id: String,
    /// `kind`.
    pub kind: Kind,
    /// `lineage`.
    pub lineage: Vec<Snapshot>,
    /// `labels`.
    pub labels: Labels,
    /// `options`.
    pub options: Labels,
    /// `size-limit`.
    #[cfg_attr(feature = "component", component(name = "size-limit"))]
    pub size_limit: Option<u64>,
    /// `id-maps`.
    #[cfg_attr(feature = "component", component(name = "id-maps"))]
    pub id_maps: Vec<IdMap>,
    /// `mount-label`.
    #[cfg_attr(feature = "component", component(name = "mount-label"))]
    pub mount_label: Option<String>,
}

/// `prepared` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Prepared {
    /// `ops`.
    pub ops: Vec<Op>,
    /// `cookie`.
    pub cookie: Cookie,
}

/// `purpose` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// `run-container`.
    #[cfg_attr(feature = "component", component(name = "run-container"))]
    RunContainer,
    /// `unpack-layer`.
    #[cfg_attr(feature = "component", component(name = "unpack-layer"))]
    UnpackLayer,
    /// `read-only-inspect`.
    #[cfg_attr(feature = "component", component(name = "read-only-inspect"))]
    ReadOnlyInspect,
    /// `build-step`.
    #[cfg_attr(feature = "component", component(name = "build-step"))]
    BuildStep,
}

/// `stack` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Stack {
    /// Bottom first; the last one is the root file system.
    pub mounts: Vec<Mount>,
    /// Where writes land, for diff and usage; none for views.
    pub upper: Option<Place>,
}

/// `layer` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Layer {
    /// `chain-id`.
    #[cfg_attr(feature = "component", component(name = "chain-id"))]
    pub chain_id: Digest,
    /// `diff-id`.
    #[cfg_attr(feature = "component", component(name = "diff-id"))]
    pub diff_id: Digest,
    /// `blob`.
    pub blob: Digest,
    /// `media-type`.
    #[cfg_attr(feature = "component", component(name = "media-type"))]
    pub media_type: String,
    /// `size`.
    pub size: u64,
    /// `annotations`.
    pub annotations: Labels,
    /// `reference`.
    pub reference: String,
}

/// `claim` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// Fetch and unpack as usual.
    #[cfg_attr(feature = "component", component(name = "decline"))]
    Decline,
    /// Already here, or readable on demand: skip the download.
    #[cfg_attr(feature = "component", component(name = "ready"))]
    Ready(Prepared),
}
