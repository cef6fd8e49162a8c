//! Everything that a Wharf plugin is written with.
//!
//! A plugin implements the trait of its kind and names it in [`export!`]. Its logic is a pure function from a request
//! to a plan, so its tests are ordinary native tests with a [`mock::MockHost`]. `README.md` has the tutorial.

pub mod bindings;
mod error;
mod export;
mod flags;
pub mod host;
pub mod network;
pub mod services;

pub use host::Host;
pub use types::Error;

/// What every function of a plugin answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Types that every kind shares.
pub mod types {
    pub use crate::bindings::host::wharf::plugin::types::*;
}

/// The vocabulary of plans about files, devices and mounts.
pub mod files {
    pub use crate::bindings::host::wharf::plan::files::*;
}

/// The vocabulary of plans about the network.
pub mod net {
    pub use crate::bindings::host::wharf::plan::net::*;
}
