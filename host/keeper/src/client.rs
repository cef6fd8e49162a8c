//! The daemon's side.

use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::sync::{mpsc, watch};
use wharf_plan::run::{ExecPlan, ExitStatus, RunPlan, Stage, StartError};

use crate::{Entry, KeeperError, Started};

/// A connection to the keeper; clones share it. When the keeper dies it is started again and connected to by itself.
#[derive(Clone, Debug)]
pub struct Keeper;

/// Connects to the keeper at `<exec_root>/keeper.sock`, or starts `program keeper …` and connects to that.
pub async fn connect(exec_root: &Path, program: &Path) -> Result<Keeper, KeeperError> {
    let _ = (exec_root, program);
    Err(KeeperError::Unreachable("not supported yet".into()))
}

fn unsupported() -> StartError {
    StartError { stage: Stage::Request, errno: libc::ENOSYS, what: "keeper".into() }
}

impl Keeper {
    /// Starts a container. `fds` are what the plan's numbers mean.
    pub async fn run(&self, _plan: RunPlan, _fds: Vec<OwnedFd>) -> Result<Started, StartError> {
        Err(unsupported())
    }
    /// Starts a further process in a running container.
    pub async fn exec(&self, _plan: ExecPlan, _fds: Vec<OwnedFd>) -> Result<Started, StartError> {
        Err(unsupported())
    }
    /// Everything it has.
    pub async fn list(&self) -> Result<Vec<Entry>, KeeperError> {
        Err(KeeperError::Lost)
    }
    /// Copies of the descriptors held under an id: those of `hold`, `pidfd`, and `pty` where there is a terminal.
    pub async fn fetch(&self, _id: &str) -> Result<Vec<(String, OwnedFd)>, KeeperError> {
        Err(KeeperError::Lost)
    }
    /// Adds descriptors to an entry; one of the same name is replaced.
    pub async fn hold(&self, _id: &str, _fds: Vec<(String, OwnedFd)>) -> Result<(), KeeperError> {
        Err(KeeperError::Lost)
    }
    /// Closes held descriptors by name before the entry is forgotten (`stdin` at its end); unknown names are ignored.
    pub async fn release(&self, _id: &str, _names: Vec<String>) -> Result<(), KeeperError> {
        Err(KeeperError::Lost)
    }
    /// Sends a signal to a process, also to one that is still being set up.
    pub async fn signal(&self, _id: &str, _signal: i32) -> Result<(), KeeperError> {
        Err(KeeperError::Lost)
    }
    /// Drops the entry and what it holds. Refused while the process runs.
    pub async fn forget(&self, _id: &str) -> Result<(), KeeperError> {
        Err(KeeperError::Lost)
    }
    /// Replaces the keeper by `program` in place; children stay its children and nothing is lost.
    pub async fn reload(&self, _program: &Path) -> Result<(), KeeperError> {
        Err(KeeperError::Lost)
    }
    /// Ends the keeper. Containers run on.
    pub async fn shutdown(&self) -> Result<(), KeeperError> {
        Err(KeeperError::Lost)
    }
    /// Exits from now on, by id. What ended before is in [`list`](Self::list); after the keeper was restarted, exits
    /// that were missed are sent again. One receiver at a time: a further call takes over.
    pub fn exits(&self) -> mpsc::UnboundedReceiver<(String, ExitStatus)> {
        mpsc::unbounded_channel().1
    }
    /// Counts how often the keeper was started anew under this client. After a change, call [`hold`](Self::hold)
    /// again for what must outlive the daemon: descriptors died with the old keeper.
    pub fn restarts(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}
