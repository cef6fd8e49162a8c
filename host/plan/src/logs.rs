//! Container output.
//!
//! Values of `wit/deps/logs.wit`; the words there are the specification.

use serde::{Deserialize, Serialize};
#[cfg(feature = "component")]
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::types::{ContainerRef, Cookie, Labels, Timestamp};
/// `source` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Source {
    /// `container`.
    pub container: ContainerRef,
    /// `options`.
    pub options: Labels,
    /// `command`.
    pub command: Vec<String>,
    /// Only those the options select.
    pub environment: Labels,
    /// `created`.
    pub created: Timestamp,
    /// `daemon`.
    pub daemon: String,
}

/// Many records of one stream as columns: four bulk copies per batch, no
/// per-line call, no per-line allocation. Record i is
/// `data[ends[i-1] .. ends[i]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Chunk {
    /// `cookie`.
    pub cookie: Cookie,
    /// Spool position of the first record; consecutive.
    pub sequence: u64,
    /// `times`.
    pub times: Vec<u64>,
    /// `ends`.
    pub ends: Vec<u32>,
    /// bit 0 stderr, bit 1 partial, bit 2 last partial, bit 3 truncated.
    pub marks: Vec<u8>,
    /// `data`.
    pub data: Vec<u8>,
}

/// `format` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Format {
    /// `extension`.
    pub extension: String,
    /// `cookie`.
    pub cookie: Cookie,
    /// `max-record`.
    #[cfg_attr(feature = "component", component(name = "max-record"))]
    pub max_record: u32,
}

/// `decoded` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Decoded {
    /// `chunk`.
    pub chunk: Chunk,
    /// `consumed`.
    pub consumed: u32,
}

/// `outcome` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Records accepted, counted from the start of the chunk.
    #[cfg_attr(feature = "component", component(name = "accepted"))]
    Accepted(u32),
    /// Keep and retry after so many milliseconds.
    #[cfg_attr(feature = "component", component(name = "later"))]
    Later(u32),
    /// Give up on this chunk; counted and reported.
    #[cfg_attr(feature = "component", component(name = "drop"))]
    Drop(String),
}
