//! Who is calling, and may they.
//!
//! Values of `wit/deps/auth.wit`; the words there are the specification.

use serde::{Deserialize, Serialize};
#[cfg(feature = "component")]
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::types::{Identity, Json, Labels, Timestamp};
/// `peer` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Peer {
    /// `uid`.
    pub uid: u32,
    /// `gid`.
    pub gid: u32,
    /// `groups`.
    pub groups: Vec<u32>,
    /// `pid`.
    pub pid: u32,
    /// `user-name`.
    #[cfg_attr(feature = "component", component(name = "user-name"))]
    pub user_name: Option<String>,
    /// `executable`.
    pub executable: Option<String>,
}

/// `evidence` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// `SO_PEERCRED` and pidfd facts of a UNIX-socket client.
    #[cfg_attr(feature = "component", component(name = "peer"))]
    Peer(Peer),
    /// Verified client chain, leaf first, DER.
    #[cfg_attr(feature = "component", component(name = "certificate"))]
    Certificate(Vec<Vec<u8>>),
    /// `bearer`.
    #[cfg_attr(feature = "component", component(name = "bearer"))]
    Bearer(String),
    /// `basic`.
    #[cfg_attr(feature = "component", component(name = "basic"))]
    Basic((String, String)),
    /// A header the manifest asked for.
    #[cfg_attr(feature = "component", component(name = "header"))]
    Header((String, String)),
}

/// `connection` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Connection {
    /// `transport`.
    pub transport: String,
    /// `remote`.
    pub remote: String,
    /// `evidence`.
    pub evidence: Vec<Evidence>,
}

/// `identified` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Identified {
    /// `identity`.
    pub identity: Identity,
    /// `valid-until`.
    #[cfg_attr(feature = "component", component(name = "valid-until"))]
    pub valid_until: Option<Timestamp>,
}

/// `outcome` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// `identified`.
    #[cfg_attr(feature = "component", component(name = "identified"))]
    Identified(Identified),
    /// Not mine; ask the next one.
    #[cfg_attr(feature = "component", component(name = "abstain"))]
    Abstain,
    /// `rejected`.
    #[cfg_attr(feature = "component", component(name = "rejected"))]
    Rejected(String),
    /// Value for WWW-Authenticate.
    #[cfg_attr(feature = "component", component(name = "challenge"))]
    Challenge(String),
}

/// Derived from the matched route, not from the URL text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Operation {
    /// `container`, `image`, `exec`, `network`, `volume`, `build`, `system`, ...
    pub noun: String,
    /// `create`, `start`, `attach`, `list`, ...
    pub verb: String,
    /// `api-version`.
    #[cfg_attr(feature = "component", component(name = "api-version"))]
    pub api_version: String,
    /// `mutates`.
    pub mutates: bool,
    /// Turns into a raw byte stream after the response head.
    pub upgrades: bool,
}

/// `target` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Target {
    /// `id`.
    pub id: String,
    /// `name`.
    pub name: String,
    /// `labels`.
    pub labels: Labels,
    /// `owner`.
    pub owner: Option<String>,
}

/// `request` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Request {
    /// `identity`.
    pub identity: Option<Identity>,
    /// `operation`.
    pub operation: Operation,
    /// Every object it touches, resolved.
    pub targets: Vec<Target>,
    /// `query`.
    pub query: Labels,
    /// Set when the body is a byte stream and so not in `body`.
    #[cfg_attr(feature = "component", component(name = "streaming-body"))]
    pub streaming_body: bool,
}

/// `allowance` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Allowance {
    /// Host may reuse this answer for the same identity, operation and target.
    #[cfg_attr(feature = "component", component(name = "cache-ms"))]
    pub cache_ms: u32,
    /// Written to the audit log.
    pub reason: Option<String>,
}

/// `denial` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Denial {
    /// `message`.
    pub message: String,
    /// `reason`.
    pub reason: String,
}

/// `decision` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// `allow`.
    #[cfg_attr(feature = "component", component(name = "allow"))]
    Allow(Allowance),
    /// `deny`.
    #[cfg_attr(feature = "component", component(name = "deny"))]
    Deny(Denial),
    /// `abstain`.
    #[cfg_attr(feature = "component", component(name = "abstain"))]
    Abstain,
}

/// Removals and replacements in the response, by JSON pointer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Redaction {
    /// `pointer`.
    pub pointer: String,
    /// `value`.
    pub value: Option<Json>,
}

/// `reply` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// `pass`.
    #[cfg_attr(feature = "component", component(name = "pass"))]
    Pass,
    /// `redact`.
    #[cfg_attr(feature = "component", component(name = "redact"))]
    Redact(Vec<Redaction>),
    /// `deny`.
    #[cfg_attr(feature = "component", component(name = "deny"))]
    Deny(Denial),
}
