//! Containers, networks, volumes and their life.
//!
//! [`Engine`] has one async method per operation. Requests and answers are Docker's own models; what is asked is
//! checked and turned into plans by code that does no input or output (`planner`), and plans are carried out, recorded
//! and undone by the rest.
#![forbid(unsafe_code)]
// Docker's `HostConfig` as one literal has more members than the macro may otherwise take.
#![recursion_limit = "512"]

mod apparmor;
pub mod auth;
mod bare;
mod cdi;
pub mod checkpoint;
pub mod commit;
pub mod containers;
pub mod copy;
mod create;
mod criu;
mod drivers;
mod endpoints;
pub mod error;
pub mod exec;
mod exit;
mod filesystem;
mod foreign;
mod health;
mod host;
pub mod image_gc;
pub mod images;
mod inspect;
mod links;
mod list;
pub mod networks;
mod oom;
mod open;
pub mod options;
pub mod planner;
mod policy;
mod pool;
mod record;
mod recover;
mod registry;
pub mod remote;
mod remove;
mod resolution;
mod runtimes;
pub mod settings;
mod shims;
mod start;
mod stats;
mod stop;
pub mod system;
mod top;
mod userns;
pub mod variants;
pub mod volumes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
pub use bollard_stubs::models;
pub use error::{Error, Kind, Result};
pub use options::{Caller, CreateOptions, Filters, ListOptions, RemoveOptions, WaitCondition};
pub use remote::Packing;
pub use settings::Settings;
pub use stats::Sample;
pub use wharf_io as io;

/// Version of the engine, as `docker version` shows it.
pub const VERSION: &str = "29.0.0-wharf.0.1.0";

/// Whether a text is a seccomp profile that can be used; the error says why not.
pub fn check_seccomp(profile: &str) -> std::result::Result<(), String> {
    wharf_kernel::seccomp::from_profile(profile, 0).map(drop).map_err(|e| e.to_string())
}

/// A handle on the running engine; clones share it.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// Changed by a reload of the configuration; [`Inner::settings`] gives those of now.
    live: ArcSwap<Live>,
    pub(crate) host: host::Host,
    pub(crate) id: String,
    pub(crate) store: wharf_store::Store,
    pub(crate) plugins: wharf_plugins::Plugins,
    pub(crate) images: wharf_images::Images,
    pub(crate) keeper: wharf_keeper::Keeper,
    pub(crate) streams: io::Streams,
    pub(crate) events: io::events::Bus,
    pub(crate) cgroups: wharf_kernel::cgroup::Cgroups,
    pub(crate) net: wharf_kernel::net::Net,
    /// Carries what the kernel cannot, to published ports.
    pub(crate) forwarder: wharf_forward::Forwarder,
    /// Puts the packet filter right for as long as the engine lives.
    pub(crate) net_watch: std::sync::OnceLock<wharf_kernel::net::Watch>,
    pub(crate) namespaces: userns::Source,
    pub(crate) ranges: userns::Ranges,
    pub(crate) pool: pool::Pool,
    /// For what all followers of statistics ask at the same tick.
    pub(crate) looks: pool::Batch,
    /// For what touches file systems that may hang.
    pub(crate) foreign: foreign::Foreign,
    pub(crate) registry: registry::Registry,
    /// The client of image registries.
    pub(crate) registries: ArcSwap<wharf_registry::Registry>,
    pub(crate) networks: networks::Networks,
    pub(crate) volumes: volumes::Volumes,
    pub(crate) execs: exec::Execs,
    pub(crate) dirs: filesystem::Dirs,
    pub(crate) profiles: apparmor::Profiles,
    /// Seccomp programs of Docker's default profile, by capability set.
    pub(crate) seccomp: Mutex<HashMap<u64, Vec<Vec<u8>>>>,
    /// Set once the daemon is ending: nothing is started any more.
    pub(crate) closing: std::sync::atomic::AtomicBool,
    /// What an earlier daemon left is adopted or swept: before, a start would be taken for something left.
    pub(crate) recovered: tokio::sync::watch::Sender<bool>,
    /// What follows an answer: taking down what has no part in it. The orderly end waits for it.
    pub(crate) tidying: tokio_util::task::TaskTracker,
    pub(crate) decisions: auth::Decisions,
    /// What the registry beside the engine keeps.
    pub(crate) cache: std::sync::OnceLock<Arc<dyn remote::cache::Cache>>,
    /// Experimental mode.
    pub(crate) experimental: std::sync::atomic::AtomicBool,
    /// What other runtimes said they can do.
    pub(crate) runtime_features: ArcSwap<runtimes::Features>,
    /// What the host's own resolver says.
    pub(crate) resolver: Arc<resolution::HostFile>,
    /// Who has which name in which network; answers containers that ask.
    pub(crate) names: wharf_dns::Names,
}

/// What a reload of the configuration replaces.
pub(crate) struct Live {
    pub(crate) settings: Arc<Settings>,
    pub(crate) facts: Arc<planner::Facts>,
}

impl Inner {
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.live.load().settings)
    }

    pub(crate) fn facts(&self) -> Arc<planner::Facts> {
        Arc::clone(&self.live.load().facts)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("data_root", &self.inner.settings().data_root).finish_non_exhaustive()
    }
}

impl Engine {
    /// How it is set up now.
    pub fn settings(&self) -> Arc<Settings> {
        self.inner.settings()
    }

    /// Takes what can change while the engine runs from `new`; the rest stays as it was opened with. Containers that
    /// exist keep what they were made with.
    pub fn reload(&self, new: Settings) {
        let old = self.inner.settings();
        let settings = settings::reloaded(&old, new);
        if settings.registry != old.registry {
            self.inner.registries.store(Arc::new(remote::client(&settings.registry)));
        }
        let facts = self.inner.host.facts(&settings, self.inner.facts().cgroup_version);
        let runtimes = settings.runtimes != old.runtimes;
        self.inner.experimental.store(settings.experimental, std::sync::atomic::Ordering::Relaxed);
        self.inner.live.store(Arc::new(Live { settings: Arc::new(settings), facts: Arc::new(facts) }));
        if runtimes {
            self.ask_runtimes();
        }
        self.republish_names();
    }

    /// Names of the runtimes that containers may name, and of the one for those that name none.
    pub fn runtime_names(&self) -> (Vec<String>, String) {
        let settings = self.inner.settings();
        let mut names: Vec<String> = settings.runtimes.keys().cloned().collect();
        names.push(planner::run::NATIVE.to_owned());
        names.sort();
        (names, settings.default_runtime.clone())
    }

    /// Its own id, the same over restarts.
    pub fn id(&self) -> String {
        self.inner.id.clone()
    }

    /// Name of the host that it runs on.
    pub fn host_name(&self) -> String {
        self.inner.host.name.clone()
    }

    /// Names of the plugins that judge callers.
    pub fn authorizer_names(&self) -> Vec<String> {
        self.inner.plugins.authorizers().iter().map(|a| a.plugin().to_string()).collect()
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
