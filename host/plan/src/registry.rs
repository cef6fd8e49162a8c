//! Credentials and mirrors of registries.
//!
//! Values of `wit/deps/registry.wit`; the words there are the specification.

use serde::{Deserialize, Serialize};
#[cfg(feature = "component")]
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::types::{Digest, Labels, Timestamp};
/// `secret` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Secret {
    /// `password`.
    #[cfg_attr(feature = "component", component(name = "password"))]
    Password((String, String)),
    /// OAuth 2 refresh token.
    #[cfg_attr(feature = "component", component(name = "identity-token"))]
    IdentityToken(String),
    /// Ready to send.
    #[cfg_attr(feature = "component", component(name = "bearer"))]
    Bearer(String),
    /// `anonymous`.
    #[cfg_attr(feature = "component", component(name = "anonymous"))]
    Anonymous,
}

/// `credential` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Credential {
    /// `secret`.
    pub secret: Secret,
    /// `expires`.
    pub expires: Option<Timestamp>,
}

/// `access` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// `pull`.
    #[cfg_attr(feature = "component", component(name = "pull"))]
    Pull,
    /// `push`.
    #[cfg_attr(feature = "component", component(name = "push"))]
    Push,
    /// `delete`.
    #[cfg_attr(feature = "component", component(name = "delete"))]
    Delete,
}

/// `want` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Want {
    /// `registry`.
    pub registry: String,
    /// `repository`.
    pub repository: Option<String>,
    /// `access`.
    pub access: Access,
    /// `challenge`.
    pub challenge: Option<String>,
}

/// `endpoint` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Endpoint {
    /// `url`.
    pub url: String,
    /// `rewrite`.
    pub rewrite: Option<String>,
    /// `headers`.
    pub headers: Labels,
    /// `push`.
    pub push: bool,
}

/// `resolution` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Resolution {
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// `pinned`.
    pub pinned: Option<Digest>,
}
