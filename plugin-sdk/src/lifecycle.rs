//! The optional interface of any plugin: check a configuration, migrate, report health, wake up.

use crate::Result;
use crate::bindings::lifecycle::exports::wharf::plugin::lifecycle::Guest;
use crate::host::{Host, enter};

pub use crate::bindings::lifecycle::exports::wharf::plugin::lifecycle::{Health, Issue};

/// What a plugin may say about itself.
pub trait Lifecycle {
    /// Pure check of a configuration before it is stored. Host services are not there yet.
    fn check_config(&self, _config: &str) -> std::result::Result<(), Vec<Issue>> {
        Ok(())
    }
    /// Rewrites kv of an older release.
    fn migrate(&self, _host: &dyn Host, _from_version: &str) -> Result<()> {
        Ok(())
    }
    /// How it fares.
    fn check_health(&self, _host: &dyn Host) -> Health {
        Health::Ready
    }
    /// An alarm rings.
    fn alarm(&self, _host: &dyn Host, _token: &str) -> Result<()> {
        Ok(())
    }
}

/// A lifecycle as an exported interface; [`crate::export!`] makes it.
#[derive(Debug)]
pub struct Component<D>(std::marker::PhantomData<D>);

impl<D: Lifecycle + Default> Guest for Component<D> {
    fn check_config(config: String) -> std::result::Result<(), Vec<Issue>> {
        D::default().check_config(&config)
    }
    fn migrate(from_version: String) -> Result<()> {
        D::default().migrate(enter(), &from_version)
    }
    fn check_health() -> Health {
        D::default().check_health(enter())
    }
    fn alarm(token: String) -> Result<()> {
        D::default().alarm(enter(), &token)
    }
}
