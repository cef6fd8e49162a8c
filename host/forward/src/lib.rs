//! The forwarder: a program of few rights that carries what comes to published ports where the kernel cannot translate
//! addresses ([`wharf_plan::net::carrier`]): from the host's IPv6 to containers that have only IPv4, and from the host's
//! `::1` and link-local addresses.
//!
//! There is one for a daemon's exec root, started with the first port that needs it. It outlives the daemon, and what it carries
//! goes on; without ports, connections and a daemon it ends. [`serve`] is the program, [`Forwarder`] the daemon's client.
#![forbid(unsafe_code)]

mod client;
mod server;
mod wire;

use std::path::{Path, PathBuf};

pub use client::{Error, Forwarder, Listen};
pub use server::{Settings, relay, serve};
pub use wire::Counts;

/// Where the forwarder of an exec root listens.
pub fn socket_path(exec_root: &Path) -> PathBuf {
    exec_root.join("forward.sock")
}
