//! Applies file plans beneath root descriptors, and builds detached mount trees from mount plans.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use wharf_plan::files::{Mount, Op};

/// The directories that a plan's places start from.
#[derive(Debug)]
pub struct Roots {
    /// The plugin's own directory on persistent storage.
    pub data: OwnedFd,
    /// The plugin's own directory that a reboot may take.
    pub run: OwnedFd,
    /// Directories that the administrator granted, by name.
    pub granted: BTreeMap<String, OwnedFd>,
    /// Directories of other objects of the plugin, by host id.
    pub objects: BTreeMap<String, OwnedFd>,
}

/// Why a plan was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// This host or file system cannot do that.
    #[error("{0} is not supported {1}")]
    Unsupported(String, String),
    /// A system call failed.
    #[error("{what}: {error}")]
    System {
        /// Operation and place.
        what: String,
        /// The kernel's answer.
        error: rustix::io::Errno,
    },
    /// The plan makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// Carries out the operations in order, all or none: when one fails, those before it are undone.
pub fn apply(_roots: &Roots, ops: &[Op]) -> Result<(), Error> {
    match ops.first() {
        None => Ok(()),
        Some(op) => Err(Error::Unsupported(op.kind().to_owned(), "yet".into())),
    }
}

/// Builds the mounts as detached trees and answers the last one. Nothing appears in any mount namespace.
pub fn mount(_roots: &Roots, mounts: &[Mount]) -> Result<OwnedFd, Error> {
    Err(Error::Unsupported(mounts.last().map_or_else(String::new, |m| m.fstype.clone()), "yet".into()))
}
