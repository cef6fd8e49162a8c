//! Types that every plugin kind shares.
//!
//! Values of `wit/deps/plugin.wit`; the words there are the specification.

use serde::{Deserialize, Serialize};
#[cfg(feature = "component")]
use wasmtime::component::{ComponentType, Lift, Lower};

/// Ordered, unique keys; host sorts before hashing.
pub type Labels = Vec<(String, String)>;

/// UTF-8 JSON text.
pub type Json = String;

/// Nanoseconds since the Unix epoch.
pub type Timestamp = u64;

/// `algorithm:hex`.
pub type Digest = String;

/// Opaque plugin state that the host stores inside the object it belongs to
/// (snapshot, volume, network, endpoint, pool, stream) and gives back on every
/// later call about it. Written, versioned and deleted with that object.
pub type Cookie = Vec<u8>;

/// Coarse and closed: the host maps it to HTTP status, exit code and retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// `invalid`.
    #[cfg_attr(feature = "component", component(name = "invalid"))]
    Invalid,
    /// `not-found`.
    #[cfg_attr(feature = "component", component(name = "not-found"))]
    NotFound,
    /// `already-exists`.
    #[cfg_attr(feature = "component", component(name = "already-exists"))]
    AlreadyExists,
    /// `conflict`.
    #[cfg_attr(feature = "component", component(name = "conflict"))]
    Conflict,
    /// `denied`.
    #[cfg_attr(feature = "component", component(name = "denied"))]
    Denied,
    /// `exhausted`.
    #[cfg_attr(feature = "component", component(name = "exhausted"))]
    Exhausted,
    /// `unavailable`.
    #[cfg_attr(feature = "component", component(name = "unavailable"))]
    Unavailable,
    /// `unsupported`.
    #[cfg_attr(feature = "component", component(name = "unsupported"))]
    Unsupported,
    /// `internal`.
    #[cfg_attr(feature = "component", component(name = "internal"))]
    Internal,
    /// `other`.
    #[cfg_attr(feature = "component", component(name = "other"))]
    Other,
}

/// `error` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Error {
    /// `code`.
    pub code: Code,
    /// For the user. No secrets, one line.
    pub message: String,
    /// Structured detail for logs and `--format json`.
    pub fields: Labels,
    /// Set only with `unavailable` or `exhausted`.
    #[cfg_attr(feature = "component", component(name = "retry-after-ms"))]
    pub retry_after_ms: Option<u32>,
}

/// Who an operation is for. Stable across recreate through `name`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct ContainerRef {
    /// `id`.
    pub id: String,
    /// `name`.
    pub name: String,
    /// `hostname`.
    pub hostname: String,
    /// `image`.
    pub image: String,
    /// `image-digest`.
    #[cfg_attr(feature = "component", component(name = "image-digest"))]
    pub image_digest: Option<Digest>,
    /// `labels`.
    pub labels: Labels,
    /// Compose project, pod or service this container belongs to.
    pub group: Option<String>,
}

/// The authenticated caller behind an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Identity {
    /// `subject`.
    pub subject: String,
    /// `unix`, `tls`, `bearer`, or the authn plugin's own word.
    pub method: String,
    /// `groups`.
    pub groups: Vec<String>,
    /// `claims`.
    pub claims: Labels,
}

/// `id-kind` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum IdKind {
    /// `both`.
    #[default]
    #[cfg_attr(feature = "component", component(name = "both"))]
    Both,
    /// `users`.
    #[cfg_attr(feature = "component", component(name = "users"))]
    Users,
    /// `groups`.
    #[cfg_attr(feature = "component", component(name = "groups"))]
    Groups,
}

/// `id-map` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct IdMap {
    /// `inside`.
    pub inside: u32,
    /// `outside`.
    pub outside: u32,
    /// `size`.
    pub size: u32,
    /// `kind`.
    #[serde(default)]
    pub kind: IdKind,
}

/// `context` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Context {
    /// Same id on every retry of one operation: the idempotency key.
    pub operation: String,
    /// `attempt`.
    pub attempt: u32,
    /// Frozen for the whole call.
    pub now: Timestamp,
    /// `deadline-ms`.
    #[cfg_attr(feature = "component", component(name = "deadline-ms"))]
    pub deadline_ms: u32,
    /// Plan only: nothing will be applied or committed.
    #[cfg_attr(feature = "component", component(name = "dry-run"))]
    pub dry_run: bool,
    /// W3C traceparent.
    #[cfg_attr(feature = "component", component(name = "trace-parent"))]
    pub trace_parent: Option<String>,
    /// `node`.
    pub node: String,
    /// `engine-version`.
    #[cfg_attr(feature = "component", component(name = "engine-version"))]
    pub engine_version: String,
}
