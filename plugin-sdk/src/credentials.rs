//! Credentials for registries.

use crate::Result;
use crate::bindings::credentials::exports::wharf::registry::credentials::Guest;
use crate::error::no;
use crate::host::{Host, enter};

pub use crate::bindings::credentials::exports::wharf::registry::credentials::{
    Access, Credential, Secret, Want,
};

/// Finds credentials.
pub trait Helper {
    /// What to show this registry, if anything is known.
    fn get(&self, host: &dyn Host, want: &Want) -> Result<Option<Credential>>;
    /// Keeps a credential.
    fn put(&self, _host: &dyn Host, _registry: &str, _credential: &Credential) -> Result<()> {
        no("put")
    }
    /// Forgets it.
    fn erase(&self, _host: &dyn Host, _registry: &str) -> Result<()> {
        no("erase")
    }
    /// Registries and user names that are known.
    fn entries(&self, _host: &dyn Host) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }
}

/// A helper as an exported interface; [`crate::export!`] makes it.
#[derive(Debug)]
pub struct Component<D>(std::marker::PhantomData<D>);

impl<D: Helper + Default> Guest for Component<D> {
    fn get(want: Want) -> Result<Option<Credential>> {
        D::default().get(enter(), &want)
    }
    fn put(registry: String, credential: Credential) -> Result<()> {
        D::default().put(enter(), &registry, &credential)
    }
    fn erase(registry: String) -> Result<()> {
        D::default().erase(enter(), &registry)
    }
    fn entries() -> Result<Vec<(String, String)>> {
        D::default().entries(enter())
    }
}
