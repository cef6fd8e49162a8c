//! Named volumes.
//!
//! Values of `wit/deps/volume.wit`; the words there are the specification.

use serde::{Deserialize, Serialize};
#[cfg(feature = "component")]
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::files::{Mount, Op};
use crate::types::{ContainerRef, Cookie, IdMap, Json, Labels};
/// `scope` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// `local`.
    #[cfg_attr(feature = "component", component(name = "local"))]
    Local,
    /// `cluster`.
    #[cfg_attr(feature = "component", component(name = "cluster"))]
    Cluster,
}

flags_type! { Features {
    "attach" ATTACH,
    "expand" EXPAND,
    "snapshot" SNAPSHOT,
    "clone" CLONE,
    "stats" STATS,
    "list-external" LIST_EXTERNAL,
    "read-only-many" READ_ONLY_MANY,
    "topology" TOPOLOGY,
} }

/// `capabilities` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Capabilities {
    /// `scope`.
    pub scope: Scope,
    /// `features`.
    pub features: Features,
    /// `option-schema`.
    #[cfg_attr(feature = "component", component(name = "option-schema"))]
    pub option_schema: Json,
}

/// `content` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// `empty`.
    #[cfg_attr(feature = "component", component(name = "empty"))]
    Empty,
    /// `volume`.
    #[cfg_attr(feature = "component", component(name = "volume"))]
    Volume(String),
    /// `snapshot`.
    #[cfg_attr(feature = "component", component(name = "snapshot"))]
    Snapshot(String),
}

/// `create-request` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct CreateRequest {
    /// `name`.
    pub name: String,
    /// `options`.
    pub options: Labels,
    /// `labels`.
    pub labels: Labels,
    /// `size`.
    pub size: Option<u64>,
    /// `content`.
    pub content: Content,
    /// `topology`.
    pub topology: Labels,
}

/// `volume` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Volume {
    /// `name`.
    pub name: String,
    /// `options`.
    pub options: Labels,
    /// `labels`.
    pub labels: Labels,
    /// `size`.
    pub size: Option<u64>,
    /// `cookie`.
    pub cookie: Cookie,
}

/// `change` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Change {
    /// `ops`.
    pub ops: Vec<Op>,
    /// `cookie`.
    pub cookie: Cookie,
}

/// `mount-request` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct MountRequest {
    /// `volume`.
    pub volume: Volume,
    /// `container`.
    pub container: ContainerRef,
    /// `target`.
    pub target: String,
    /// `read-only`.
    #[cfg_attr(feature = "component", component(name = "read-only"))]
    pub read_only: bool,
    /// `sub-path`.
    #[cfg_attr(feature = "component", component(name = "sub-path"))]
    pub sub_path: Option<String>,
    /// `--mount volume-opt=` given for this container, not at create.
    pub options: Labels,
    /// `id-maps`.
    #[cfg_attr(feature = "component", component(name = "id-maps"))]
    pub id_maps: Vec<IdMap>,
    /// `attachment`.
    pub attachment: Option<Cookie>,
    /// Other containers that have it mounted on this node now.
    pub users: u32,
}

/// `mount-plan` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct MountPlan {
    /// `ops`.
    pub ops: Vec<Op>,
    /// `mounts`.
    pub mounts: Vec<Mount>,
    /// `cookie`.
    pub cookie: Cookie,
}

/// `stats` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Stats {
    /// `total`.
    pub total: Option<u64>,
    /// `used`.
    pub used: Option<u64>,
    /// `inodes-used`.
    #[cfg_attr(feature = "component", component(name = "inodes-used"))]
    pub inodes_used: Option<u64>,
    /// `abnormal`.
    pub abnormal: Option<String>,
}

/// `external` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct External {
    /// `name`.
    pub name: String,
    /// `options`.
    pub options: Labels,
    /// `labels`.
    pub labels: Labels,
    /// `cookie`.
    pub cookie: Cookie,
    /// `status`.
    pub status: Json,
}
