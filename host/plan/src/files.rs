//! Plans about files, devices and mounts.
//!
//! Values of `wit/deps/plan.wit`; the words there are the specification.

use serde::{Deserialize, Serialize};
#[cfg(feature = "component")]
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::types::IdMap;
/// `root` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// The plugin's own directory tree on persistent storage.
    #[cfg_attr(feature = "component", component(name = "data"))]
    Data,
    /// The plugin's own tmpfs, gone at reboot.
    #[cfg_attr(feature = "component", component(name = "run"))]
    Run,
    /// A directory the administrator granted under this name.
    #[cfg_attr(feature = "component", component(name = "granted"))]
    Granted(String),
    /// Directory of another object of this plugin, by host id.
    #[cfg_attr(feature = "component", component(name = "object"))]
    Object(String),
    /// Result of an earlier mount in the same plan.
    #[cfg_attr(feature = "component", component(name = "mount"))]
    Mount(u32),
}

/// `path` is relative and resolved beneath `root` (`openat2`, `RESOLVE_BENEATH`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Place {
    /// `root`.
    pub root: Root,
    /// `path`.
    pub path: String,
}

/// `device` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// Loop device over a file.
    #[cfg_attr(feature = "component", component(name = "loop"))]
    Loop(Place),
    /// dm-verity over a device made earlier in this plan.
    #[cfg_attr(feature = "component", component(name = "verity"))]
    Verity(Verity),
    /// A block device the administrator granted under this name.
    #[cfg_attr(feature = "component", component(name = "granted"))]
    Granted(String),
    /// A device attached by an `attach` call, matched by /dev/disk/by-id name.
    #[cfg_attr(feature = "component", component(name = "by-id"))]
    ById(String),
}

/// `verity` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Verity {
    /// `data`.
    pub data: u32,
    /// `hash`.
    pub hash: u32,
    /// `root-hash`.
    #[cfg_attr(feature = "component", component(name = "root-hash"))]
    pub root_hash: String,
}

/// `tree-copy` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct TreeCopy {
    /// `source`.
    pub source: Place,
    /// `target`.
    pub target: Place,
    /// `reflink`.
    pub reflink: bool,
}

/// `owner` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Owner {
    /// `at`.
    pub at: Place,
    /// `uid`.
    pub uid: u32,
    /// `gid`.
    pub gid: u32,
    /// `mode`.
    pub mode: u32,
}

/// `xattr` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Xattr {
    /// `at`.
    pub at: Place,
    /// `name`.
    pub name: String,
    /// `value`.
    pub value: Vec<u8>,
}

/// `file` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct File {
    /// `at`.
    pub at: Place,
    /// `content`.
    pub content: Vec<u8>,
    /// `mode`.
    pub mode: u32,
}

/// `sparse` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Sparse {
    /// `at`.
    pub at: Place,
    /// `size`.
    pub size: u64,
}

/// `format` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Format {
    /// `device`.
    pub device: u32,
    /// `fstype`.
    pub fstype: String,
    /// `label`.
    pub label: String,
    /// `options`.
    pub options: Vec<String>,
}

/// `subvolume-copy` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct SubvolumeCopy {
    /// `source`.
    pub source: Place,
    /// `target`.
    pub target: Place,
    /// `read-only`.
    #[cfg_attr(feature = "component", component(name = "read-only"))]
    pub read_only: bool,
}

/// `dataset` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Dataset {
    /// `name`.
    pub name: String,
    /// `origin`.
    pub origin: Option<String>,
    /// `properties`.
    pub properties: Vec<(String, String)>,
}

/// `quota` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Quota {
    /// `at`.
    pub at: Place,
    /// `bytes`.
    pub bytes: Option<u64>,
    /// `inodes`.
    pub inodes: Option<u64>,
}

/// An operation newer than this package; an older host answers `unsupported`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Extension {
    /// `kind`.
    pub kind: String,
    /// `parameters`.
    pub parameters: Vec<(String, OptionValue)>,
}

/// `op` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// `make-dir`.
    #[cfg_attr(feature = "component", component(name = "make-dir"))]
    MakeDir(Owner),
    /// `write-file`.
    #[cfg_attr(feature = "component", component(name = "write-file"))]
    WriteFile(File),
    /// `make-sparse`.
    #[cfg_attr(feature = "component", component(name = "make-sparse"))]
    MakeSparse(Sparse),
    /// `copy-tree`.
    #[cfg_attr(feature = "component", component(name = "copy-tree"))]
    CopyTree(TreeCopy),
    /// `rename`.
    #[cfg_attr(feature = "component", component(name = "rename"))]
    Rename((Place, Place)),
    /// `set-owner`.
    #[cfg_attr(feature = "component", component(name = "set-owner"))]
    SetOwner(Owner),
    /// `set-xattr`.
    #[cfg_attr(feature = "component", component(name = "set-xattr"))]
    SetXattr(Xattr),
    /// `set-quota`.
    #[cfg_attr(feature = "component", component(name = "set-quota"))]
    SetQuota(Quota),
    /// Deferred to the host's reaper; the name is free at once.
    #[cfg_attr(feature = "component", component(name = "remove-tree"))]
    RemoveTree(Place),
    /// `subvolume-create`.
    #[cfg_attr(feature = "component", component(name = "subvolume-create"))]
    SubvolumeCreate(Place),
    /// `subvolume-clone`.
    #[cfg_attr(feature = "component", component(name = "subvolume-clone"))]
    SubvolumeClone(SubvolumeCopy),
    /// `subvolume-remove`.
    #[cfg_attr(feature = "component", component(name = "subvolume-remove"))]
    SubvolumeRemove(Place),
    /// `dataset-create`.
    #[cfg_attr(feature = "component", component(name = "dataset-create"))]
    DatasetCreate(Dataset),
    /// `dataset-snapshot`.
    #[cfg_attr(feature = "component", component(name = "dataset-snapshot"))]
    DatasetSnapshot(String),
    /// `dataset-remove`.
    #[cfg_attr(feature = "component", component(name = "dataset-remove"))]
    DatasetRemove(String),
    /// Devices are numbered in order of appearance.
    #[cfg_attr(feature = "component", component(name = "open-device"))]
    OpenDevice(Device),
    /// `format`.
    #[cfg_attr(feature = "component", component(name = "format"))]
    Format(Format),
    /// `other`.
    #[cfg_attr(feature = "component", component(name = "other"))]
    Other(Extension),
}

flags_type! { MountAttributes {
    "read-only" READ_ONLY,
    "no-suid" NO_SUID,
    "no-dev" NO_DEV,
    "no-exec" NO_EXEC,
    "no-atime" NO_ATIME,
    "recursive-bind" RECURSIVE_BIND,
} }

/// `option-value` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum OptionValue {
    /// `flag`.
    #[cfg_attr(feature = "component", component(name = "flag"))]
    Flag,
    /// `text`.
    #[cfg_attr(feature = "component", component(name = "text"))]
    Text(String),
    /// `place`.
    #[cfg_attr(feature = "component", component(name = "place"))]
    Place(Place),
    /// Given one by one through fsconfig: no length limit, no escaping.
    #[cfg_attr(feature = "component", component(name = "places"))]
    Places(Vec<Place>),
    /// Looked up by the host; never seen by the plugin or by /proc/mounts.
    #[cfg_attr(feature = "component", component(name = "secret"))]
    Secret(String),
}

/// `source` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `none`.
    #[cfg_attr(feature = "component", component(name = "none"))]
    None,
    /// `place`.
    #[cfg_attr(feature = "component", component(name = "place"))]
    Place(Place),
    /// `device`.
    #[cfg_attr(feature = "component", component(name = "device"))]
    Device(u32),
    /// `remote`.
    #[cfg_attr(feature = "component", component(name = "remote"))]
    Remote(String),
}

/// `mount` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Mount {
    /// `fstype`.
    pub fstype: String,
    /// `source`.
    pub source: Source,
    /// `options`.
    pub options: Vec<(String, OptionValue)>,
    /// `attributes`.
    pub attributes: MountAttributes,
    /// Idmapped mount for user namespaces.
    #[cfg_attr(feature = "component", component(name = "id-maps"))]
    pub id_maps: Vec<IdMap>,
}

pub mod check;
mod undo;

pub use check::{FileGrants, IMAGES, OWN_XATTRS, Refused, TRASH, is_own, validate};
pub use undo::undo;

#[cfg(test)]
mod tests;
