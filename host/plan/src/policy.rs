//! Admission.
//!
//! Values of `wit/deps/policy.wit`; the words there are the specification.

use serde::{Deserialize, Serialize};
#[cfg(feature = "component")]
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::types::{Identity, Json, Labels};
/// A name, not an enum, so that points can be added; the object given to the
/// hook is in parentheses. `image-resolve` (reference, platform; before any
/// registry request), `image-admit` (manifest, config, referrers; before
/// layers), `image-push`, `image-remove`, `build-start` (request), `build-step`
/// (one vertex), `build-finish` (result manifest), `container-create` (API
/// object), `container-start` (final OCI runtime spec), `container-exec`,
/// `-update`, `-stop`, `-remove`, `-copy`, `-commit`, `network-create`,
/// `network-connect`, `volume-create`, `volume-mount`, `service-create`,
/// `service-update`, `secret-use`, `plugin-install` (manifest, wants, signatures).
pub type Point = String;

/// `origin` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// `api`.
    #[cfg_attr(feature = "component", component(name = "api"))]
    Api,
    /// `restart-policy`.
    #[cfg_attr(feature = "component", component(name = "restart-policy"))]
    RestartPolicy,
    /// `scheduler`.
    #[cfg_attr(feature = "component", component(name = "scheduler"))]
    Scheduler,
    /// `build`.
    #[cfg_attr(feature = "component", component(name = "build"))]
    Build,
    /// `boot`.
    #[cfg_attr(feature = "component", component(name = "boot"))]
    Boot,
}

/// `review` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Review {
    /// `point`.
    pub point: Point,
    /// `identity`.
    pub identity: Option<Identity>,
    /// `origin`.
    pub origin: Origin,
    /// `target`.
    pub target: String,
    /// `labels`.
    pub labels: Labels,
    /// `dry-run`.
    #[cfg_attr(feature = "component", component(name = "dry-run"))]
    pub dry_run: bool,
    /// Existing object re-checked on request or schedule; deny only reports.
    pub audit: bool,
}

/// `edit-kind` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum EditKind {
    /// `add`.
    #[cfg_attr(feature = "component", component(name = "add"))]
    Add,
    /// `replace`.
    #[cfg_attr(feature = "component", component(name = "replace"))]
    Replace,
    /// `remove`.
    #[cfg_attr(feature = "component", component(name = "remove"))]
    Remove,
    /// `test`.
    #[cfg_attr(feature = "component", component(name = "test"))]
    Test,
}

/// `edit` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Edit {
    /// `kind`.
    pub kind: EditKind,
    /// `pointer`.
    pub pointer: String,
    /// `value`.
    pub value: Option<Json>,
    /// `why`.
    pub why: String,
}

/// Which plugin set which pointer, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Authorship {
    /// `pointer`.
    pub pointer: String,
    /// `plugin`.
    pub plugin: String,
}

/// `denial` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Denial {
    /// `message`.
    pub message: String,
    /// `rule`.
    pub rule: String,
    /// `pointer`.
    pub pointer: Option<String>,
    /// `remedy`.
    pub remedy: Option<String>,
}

/// `verdict` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Verdict {
    /// `denials`.
    pub denials: Vec<Denial>,
    /// `warnings`.
    pub warnings: Vec<String>,
    /// `audit`.
    pub audit: Labels,
}
