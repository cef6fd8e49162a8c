//! Containers, networks, volumes and their life.
//!
//! [`Engine`] has one async method per operation. Requests and answers are Docker's own models; what is asked is
//! checked and turned into plans by code that does no input or output (`planner`), and plans are carried out, recorded
//! and undone by the rest.
#![forbid(unsafe_code)]
// Docker's `HostConfig` as one literal has more members than the macro may otherwise take.
#![recursion_limit = "512"]

pub mod auth;
pub mod commit;
pub mod containers;
pub mod copy;
mod create;
mod drivers;
mod endpoints;
pub mod error;
pub mod exec;
mod exit;
mod filesystem;
mod health;
mod host;
pub mod images;
mod inspect;
mod list;
pub mod networks;
mod open;
pub mod options;
pub mod planner;
mod policy;
mod pool;
mod record;
mod recover;
mod registry;
mod remove;
pub mod settings;
mod start;
mod stats;
mod stop;
pub mod system;
pub mod volumes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
pub use bollard_stubs::models;
pub use error::{Error, Kind, Result};
pub use options::{Caller, CreateOptions, Filters, ListOptions, RemoveOptions, WaitCondition};
pub use settings::Settings;
pub use wharf_io as io;

/// Version of the engine, as `docker version` shows it.
pub const VERSION: &str = "29.0.0-wharf.0.1.0";

/// A handle on the running engine; clones share it.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) host: host::Host,
    pub(crate) facts: planner::Facts,
    pub(crate) id: String,
    pub(crate) store: wharf_store::Store,
    pub(crate) plugins: wharf_plugins::Plugins,
    pub(crate) images: wharf_images::Images,
    pub(crate) keeper: wharf_keeper::Keeper,
    pub(crate) streams: io::Streams,
    pub(crate) events: io::events::Bus,
    pub(crate) cgroups: wharf_kernel::cgroup::Cgroups,
    pub(crate) net: wharf_kernel::net::Net,
    /// Puts the packet filter right for as long as the engine lives.
    pub(crate) net_watch: std::sync::OnceLock<wharf_kernel::net::Watch>,
    pub(crate) namespaces: Arc<wharf_kernel::netns::Pool>,
    pub(crate) pool: pool::Pool,
    pub(crate) registry: registry::Registry,
    pub(crate) networks: networks::Networks,
    pub(crate) volumes: volumes::Volumes,
    pub(crate) execs: exec::Execs,
    pub(crate) dirs: filesystem::Dirs,
    /// Seccomp programs of Docker's default profile, by capability set.
    pub(crate) seccomp: Mutex<HashMap<u64, Vec<Vec<u8>>>>,
    /// Set once the daemon is ending: nothing is started any more.
    pub(crate) closing: std::sync::atomic::AtomicBool,
    pub(crate) decisions: auth::Decisions,
    /// What the host's own resolver says, read at start.
    pub(crate) resolver: ArcSwap<planner::files::Resolver>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("data_root", &self.inner.settings.data_root).finish_non_exhaustive()
    }
}

impl Engine {
    /// How it was set up.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Where things that happened are told.
    pub fn events(&self) -> &io::events::Bus {
        &self.inner.events
    }

    /// The plugins of this engine.
    pub fn plugins(&self) -> &wharf_plugins::Plugins {
        &self.inner.plugins
    }
}
