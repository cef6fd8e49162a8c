//! The keeper: the process that is the parent of every container process and outlives the daemon.
//!
//! It is single-threaded, knows no network and no plugin, and holds what must survive a daemon: children and their
//! exit statuses, and descriptors by name. [`serve`] is its main loop; [`Keeper`] is the daemon's async client.
#![forbid(unsafe_code)]

mod client;
mod server;
mod wire;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wharf_plan::run::ExitStatus;

pub use client::{Keeper, connect};
pub use server::{Settings, serve};

/// A process that was started.
#[derive(Debug)]
pub struct Started {
    /// Its pid, as the host sees it.
    pub pid: i32,
    /// A descriptor of it.
    pub pidfd: OwnedFd,
    /// Master of its terminal, where the plan asked for one.
    pub pty: Option<OwnedFd>,
    /// Nanoseconds since the Unix epoch.
    pub started_at: u64,
}

/// What the keeper has under one id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Container or exec id.
    pub id: String,
    /// For an exec: its container.
    pub container: Option<String>,
    /// Pid, as the host sees it.
    pub pid: i32,
    /// Nanoseconds since the Unix epoch.
    pub started_at: u64,
    /// Set once it has ended.
    pub exit: Option<ExitStatus>,
    /// Names of the descriptors held for it, `pidfd` among them while it runs.
    pub held: Vec<String>,
}

/// Why a request other than a start failed.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The keeper could not be reached or started.
    #[error("cannot reach the keeper: {0}")]
    Unreachable(String),
    /// The connection broke; the keeper is being started again.
    #[error("the keeper has gone away")]
    Lost,
    /// It holds nothing under this id.
    #[error("the keeper knows no {0}")]
    Unknown(String),
    /// It refused, with its reason.
    #[error("the keeper refused: {0}")]
    Refused(String),
}

/// Where the keeper of an exec root listens.
pub fn socket_path(exec_root: &Path) -> PathBuf {
    exec_root.join("keeper.sock")
}
