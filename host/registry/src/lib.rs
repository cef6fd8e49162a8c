//! A client of image registries: OCI distribution 1.1 and Docker's schema 2.
//!
//! Registries are not trusted. What they send is bounded, hashed and compared before anyone believes it, credentials
//! go to the host they are meant for and to nobody it points at, and a connection that stops moving is given up.
//!
//! Where a reference is to be looked for (`hosts`), what a challenge asks (`challenge`) and which manifest of an index
//! is meant (`manifest`) is decided without input or output.
//!
//! Existing client crates were weighed: they follow redirects with whatever headers the HTTP library keeps, know no
//! mirrors per registry and give a whole blob or nothing, so little of them would have been left.
#![forbid(unsafe_code)]

mod blob;
pub mod challenge;
pub mod credential;
pub mod digest;
mod error;
mod fetch;
pub mod hosts;
pub mod manifest;
mod name;
mod request;
mod search;
mod session;
mod token;
mod transport;
mod upload;

pub use blob::{Blob, Piece};
pub use credential::Credential;
pub use error::{Error, Kind, Result};
pub use fetch::Download;
pub use hosts::{Endpoint, Settings};
pub use manifest::{Descriptor, Document, Image};
pub use name::{Repository, Selector};
pub use search::Found;
pub use session::{Access, Fetched, Finder, Registry, Resolved, Session};
pub use upload::{Source, Upload};
pub use wharf_plan::platform::{self, Platform};
