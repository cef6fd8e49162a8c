//! Everything that a Wharf plugin is written with.
//!
//! A plugin implements the trait of its kind and names it in [`export!`]. Its logic is a pure function from a request
//! to a plan, so its tests are ordinary native tests with a mock host. `README.md` has the tutorial.

pub mod bindings;
mod error;
mod export;
mod flags;

pub mod authn;
pub mod authz;
pub mod cidr;
pub mod codec;
#[cfg(not(target_arch = "wasm32"))]
pub mod conformance;
pub mod credentials;
pub mod docker_auths;
pub mod files;
pub mod filter;
pub mod host;
pub mod ipam;
pub mod lifecycle;
#[cfg(not(target_arch = "wasm32"))]
pub mod mock;
pub mod net;
pub mod network;
pub mod policy;
pub mod services;
#[cfg(not(target_arch = "wasm32"))]
pub mod simulate;
pub mod sink;
pub mod storage;
pub mod volume;

pub use host::{Document, Host};
pub use types::Error;

/// What every function of a plugin answers.
pub type Result<T> = std::result::Result<T, Error>;

/// Types that every kind shares.
pub mod types {
    pub use crate::bindings::host::wharf::plugin::types::*;

    /// The value of a label or option, if it is there.
    pub fn label<'a>(labels: &'a Labels, key: &str) -> Option<&'a str> {
        labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// Container output as columns.
pub mod logs {
    pub use crate::bindings::host::wharf::logs::types::*;

    /// Bits of [`Chunk::marks`].
    pub mod marks {
        /// Written to standard error.
        pub const STDERR: u8 = 1;
        /// A piece of a line.
        pub const PARTIAL: u8 = 2;
        /// The piece that ends the line.
        pub const LAST_PARTIAL: u8 = 4;
        /// Cut off by the host.
        pub const TRUNCATED: u8 = 8;
    }
}
