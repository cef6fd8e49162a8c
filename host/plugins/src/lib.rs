//! Plugins: WebAssembly components that decide, in a host that grants, limits, calls and meters them.
//!
//! A component is loaded from its compiled form only; the compiler is another program (`wharf-compile`). A planner is
//! called in a fresh instance, which ends with the call; log formats and judges of callers stay for the next call. What a
//! plugin writes to its own store is handed to the caller with the answer and commits with whatever the answer leads to.
//!
//! A crash, an endless loop, a memory bomb or an answer beyond the grants fails that one call and nothing else.
#![deny(unsafe_code)]

mod breaker;
mod cache;
mod call;
mod counters;
mod document;
mod error;
mod grant;
mod imports;
mod invoke;
mod kinds;
mod kv;
mod limits;
mod load;
mod manifest;
mod meter;
mod plugin;
mod sandbox;
mod settings;
mod state;
mod ticker;
mod trusted;
mod vet;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;

pub use call::{Call, Planned};
pub use counters::Counters;
pub use document::Document;
pub use error::{ErrorKind, PluginError};
pub use grant::{Grant, PolicyGrant, bundled_grants, parse_grants};
pub use kinds::{
    Authn, Authz, Codec, Credentials, Filter, Ipam, Kind, Network, Policy, Resolver, Sink, Storage, Volume,
};
pub use kv::is_conflict;
pub use manifest::{Instrument, Manifest, Match, PolicyWant, Want};
pub use settings::Settings;
pub use state::LogLine;

use invoke::{Handle, Host, Slot};
use plugin::{Failed, Plugin};

/// State of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Takes calls.
    Ready,
    /// Failed too often lately; takes no calls for now.
    Quarantined,
    /// Cannot be used; the text says why.
    Failed(String),
}

/// What is known of one plugin.
#[derive(Debug, Clone)]
pub struct PluginInfo {
    /// Name, which is also its identity for grants, configuration and its own store.
    pub name: Arc<str>,
    /// Its version.
    pub version: String,
    /// One line about it.
    pub description: String,
    /// What it is.
    pub kinds: Vec<Kind>,
    /// Names it answers to.
    pub drivers: Vec<String>,
    /// `sha256:…` of the component.
    pub digest: String,
    /// Its file.
    pub path: PathBuf,
    /// Whether it works.
    pub state: State,
    /// What it may do.
    pub grant: Grant,
    /// How it has done.
    pub counters: Counters,
    /// Sums of the plugin's own instruments, by name.
    pub metrics: Vec<(String, u64)>,
}

/// What is loaded at one moment.
#[derive(Default)]
struct Registry {
    slots: BTreeMap<Arc<str>, Arc<Slot>>,
    drivers: BTreeMap<(Kind, String), Arc<Slot>>,
    failed: Vec<Failed>,
}

struct Inner {
    host: Arc<Host>,
    cache: Arc<cache::Cache>,
    settings: Settings,
    registry: ArcSwap<Registry>,
    /// Loading and reloading happen one at a time.
    loading: tokio::sync::Mutex<()>,
}

/// All plugins of this host; clones share them.
#[derive(Clone)]
pub struct Plugins {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Plugins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.inner.registry.load().slots.keys()).finish()
    }
}

impl Plugins {
    /// All plugins, also those that failed.
    pub fn list(&self) -> Vec<PluginInfo> {
        let registry = self.inner.registry.load();
        let mut list: Vec<PluginInfo> =
            registry.slots.values().map(|slot| info(&slot.current.load())).collect();
        list.extend(registry.failed.iter().map(|failed| {
            let manifest = failed.manifest.as_ref();
            PluginInfo {
                name: failed.name().into(),
                version: manifest.map(|m| m.version.clone()).unwrap_or_default(),
                description: manifest.map(|m| m.description.clone()).unwrap_or_default(),
                kinds: Vec::new(),
                drivers: manifest.map(|m| m.drivers.clone()).unwrap_or_default(),
                digest: format!("sha256:{}", failed.digest),
                path: failed.path.clone(),
                state: State::Failed(failed.reason.clone()),
                grant: Grant::default(),
                counters: Counters::default(),
                metrics: Vec::new(),
            }
        }));
        list
    }

    /// The last lines that a plugin wrote, oldest first.
    pub fn logs(&self, plugin: &str) -> Vec<LogLine> {
        let registry = self.inner.registry.load();
        let Some(slot) = registry.slots.get(plugin) else { return Vec::new() };
        let current = slot.current.load();
        let log = current.identity.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().cloned().collect()
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

    /// The log sink of this name.
    pub fn sink(&self, driver: &str) -> Result<Sink, PluginError> {
        self.driver(driver, Kind::Sink).map(Sink)
    }

    /// The log filter of this name.
    pub fn filter(&self, driver: &str) -> Result<Filter, PluginError> {
        self.driver(driver, Kind::Filter).map(Filter)
    }

    /// Names of the drivers of a kind, one per plugin: the first each answers to.
    pub fn drivers(&self, kind: Kind) -> Vec<String> {
        let mut names: Vec<String> = self
            .of_kind(kind)
            .iter()
            .filter_map(|handle| {
                handle.slot.current.load().identity.manifest.drivers(kind).into_iter().next()
            })
            .collect();
        names.sort();
        names
    }

    /// Authenticators, in the administrator's order.
    pub fn authenticators(&self) -> Vec<Authn> {
        self.of_kind(Kind::Authn).into_iter().map(Authn).collect()
    }

    /// Authorizers, in the administrator's order.
    pub fn authorizers(&self) -> Vec<Authz> {
        self.of_kind(Kind::Authz).into_iter().map(Authz).collect()
    }

    /// Policies that asked for this point and were granted it, in the administrator's order.
    pub fn policies(&self, point: &str) -> Vec<Policy> {
        let mut policies = self.of_kind(Kind::Policy);
        policies.retain(|handle| {
            let plugin = handle.slot.current.load();
            let identity = &plugin.identity;
            identity.switched_on()
                && identity.grant.policy.points.contains(point)
                && identity.manifest.want.policy.points.iter().any(|wanted| wanted == point)
        });
        policies.into_iter().map(Policy).collect()
    }

    /// Credential helpers, in the administrator's order.
    pub fn credentials(&self) -> Vec<Credentials> {
        self.of_kind(Kind::Credentials).into_iter().map(Credentials).collect()
    }

    /// Registry resolvers, in the administrator's order.
    pub fn resolvers(&self) -> Vec<Resolver> {
        self.of_kind(Kind::Resolver).into_iter().map(Resolver).collect()
    }

    fn handle(&self, slot: &Arc<Slot>) -> Handle {
        Handle { host: self.inner.host.clone(), slot: slot.clone() }
    }

    fn of_kind(&self, kind: Kind) -> Vec<Handle> {
        let registry = self.inner.registry.load();
        let mut found: Vec<Handle> = registry
            .slots
            .values()
            .filter(|slot| slot.current.load().exports.contains_key(&kind))
            .map(|slot| self.handle(slot))
            .collect();
        let order = &self.inner.settings.order;
        // Slots come by name already, and the sort keeps that order among equals.
        found.sort_by_key(|handle| {
            order.iter().position(|name| **name == *handle.slot.name).unwrap_or(order.len())
        });
        found
    }

    fn driver(&self, name: &str, kind: Kind) -> Result<Handle, PluginError> {
        let registry = self.inner.registry.load();
        if let Some(slot) = registry.drivers.get(&(kind, name.to_owned())) {
            return Ok(self.handle(slot));
        }
        let broken = registry.failed.iter().find(|failed| match &failed.manifest {
            Some(manifest) => manifest.drivers(kind).iter().any(|driver| driver == name),
            None => failed.name() == name || failed.name().ends_with(&format!("-{name}")),
        });
        if let Some(failed) = broken {
            let text = format!("{} ({})", failed.reason, failed.path.display());
            return Err(PluginError::new(failed.name(), ErrorKind::Damaged(text)));
        }
        Err(PluginError::new(name, ErrorKind::Unknown(self.drivers(kind))))
    }
}

impl Policy {
    /// Whether the plugin's own conditions hold for this object; if not, it need not be asked. Costs no call.
    pub fn applies(&self, object: &Document) -> bool {
        let plugin = self.0.slot.current.load();
        plugin.identity.manifest.want.policy.matches.iter().all(|condition| condition.holds(object.value()))
    }
}

fn info(plugin: &Plugin) -> PluginInfo {
    use std::sync::atomic::Ordering::Relaxed;
    let identity = &plugin.identity;
    let kinds = plugin.kinds();
    let mut drivers: Vec<String> = kinds.iter().flat_map(|kind| identity.manifest.drivers(*kind)).collect();
    drivers.sort();
    drivers.dedup();
    let state = if plugin.breaker.is_open(Instant::now()) { State::Quarantined } else { State::Ready };
    let sums = identity.metrics.iter().map(|sum| sum.load(Relaxed));
    PluginInfo {
        name: identity.name.clone(),
        version: identity.manifest.version.clone(),
        description: identity.manifest.description.clone(),
        kinds,
        drivers,
        digest: format!("sha256:{}", plugin.digest),
        path: plugin.path.clone(),
        state,
        grant: identity.grant.clone(),
        counters: plugin.sums.read(),
        metrics: identity.manifest.metrics.iter().map(|i| i.name.clone()).zip(sums).collect(),
    }
}
