//! Containers that a shim of containerd's kind makes (runtime v2): kata, gVisor, runc behind its shim.
//!
//! A shim is a program of its own that has the container as its child and is spoken to over a socket. Whoever speaks to it must
//! not lose it, so each container has a *stand-in*: a child of the keeper with one thread, which starts the shim in a mount
//! namespace of its own, has it make the container, waits for the end there and ends with the same exit code. To the keeper the
//! stand-in is the container: it has the container's streams and terminal, and outlives daemons. [`run`] and [`exec`] are the
//! keeper's, [`Task`] is for the daemon's calls that make no process, [`dispose`] clears away.
//!
//! Described by containerd's `core/runtime/v2/README.md` and its definitions of the services.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "nothing here runs in an async thread; the end of somebody else's child is no event to wait for"
)]

mod bootstrap;
mod events;
mod family;
mod flows;
mod launch;
mod metrics;
mod options;
mod record;
mod standin;
mod streams;
mod task;
mod wire;

use std::path::Path;

use wharf_kernel::runtime as kernel;
use wharf_plan::run::Runtime;

pub use bootstrap::program_name;
pub use metrics::Metrics;
pub use options::{message as options, with_owner as options_with_owner};
pub use record::{files_elsewhere, lacked_memory};
pub use standin::{END, exec, run};
pub use task::{KILL_PATIENCE, PATIENCE, Task};
pub use wire::Failure;

/// Clears away what is left of a container that has ended, or that nobody stands in for any more: its shim, and what that had
/// made. The bundle itself is the caller's. Blocks, for some ten seconds at most.
pub fn dispose(runtime: &Runtime, id: &str) -> Result<(), String> {
    let bundle = Path::new(&runtime.bundle);
    let Some(record) = record::Record::read(bundle) else { return Ok(()) };
    family::end(&record.family);
    let deleted = kernel::apart(|| {
        kernel::private_mounts().map_err(|e| e.to_string())?;
        launch::own_state(bundle)?;
        wharf_kernel::sys::process::close_on_exec_from(3).map_err(|e| e.to_string())?;
        launch::delete(runtime, id)
    });
    record::Record::remove(bundle);
    deleted.unwrap_or_else(|| Err("no thread to call the shim from".into()))
}
