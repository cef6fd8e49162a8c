//! One container's standard streams: what the engine needs of them. Spool, pumps and readers hang below this.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};

/// What does not change while a container lives.
#[derive(Debug, Clone)]
pub struct StreamSpec {
    /// Container id.
    pub id: String,
    /// Name at creation, without the slash.
    pub name: String,
    /// The container's own directory (0700, exists after [`ContainerIo::create`]'s caller made it).
    pub dir: PathBuf,
    /// A terminal rather than three pipes.
    pub tty: bool,
    /// Keep stdin open; otherwise it is /dev/null.
    pub open_stdin: bool,
    /// Close stdin when the first attached client goes.
    pub stdin_once: bool,
    /// Log driver.
    pub log_driver: String,
    /// Its options.
    pub log_options: BTreeMap<String, String>,
    /// Image reference, image id, command, environment, labels and creation time, for codecs.
    pub source: Arc<wharf_plan::logs::Source>,
}

/// What a new process gets, and what the keeper holds for later daemons.
#[derive(Debug, Default)]
pub struct ChildStdio {
    /// 0, 1 and 2; None is /dev/null. All None with a terminal.
    pub child: [Option<OwnedFd>; 3],
    /// Duplicates of the daemon's ends under the keeper's names `stdin`, `stdout`, `stderr`.
    pub hold: Vec<(String, OwnedFd)>,
}

/// The engine-wide part.
#[derive(Clone)]
pub struct Streams {
    _private: (),
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

impl Streams {
    /// Called once, inside the async runtime.
    pub fn open() -> Result<Self> {
        Ok(Self { _private: () })
    }

    /// Checks driver and options at container create: Docker's texts, nothing changed.
    pub fn check(&self, driver: &str, options: &BTreeMap<String, String>) -> Result<()> {
        let _ = (driver, options);
        Ok(())
    }

    /// The handle of one container, new or known from the store. Does no input or output.
    pub fn container(&self, spec: StreamSpec) -> Arc<ContainerIo> {
        Arc::new(ContainerIo { spec })
    }
}

/// One container's streams over all its runs.
#[derive(Debug)]
pub struct ContainerIo {
    spec: StreamSpec,
}

impl ContainerIo {
    /// What it was made from.
    pub fn spec(&self) -> &StreamSpec {
        &self.spec
    }

    /// Makes the descriptors of a new run. Attach clients registered before see everything from the first byte.
    pub fn start(&self) -> Result<ChildStdio> {
        Err(Error::unsupported("container output"))
    }

    /// The process runs; pumping begins. `pty` is the terminal's master.
    pub fn started(&self, pty: Option<OwnedFd>) {
        let _ = pty;
    }

    /// The start failed after [`ContainerIo::start`]; the run's descriptors go.
    pub fn abandoned(&self) {}

    /// A daemon that died had started it: these are what the keeper holds (`stdin`, `stdout`, `stderr`, `pty`).
    /// Called too for a container that ended meanwhile, so that its last output is read.
    pub fn adopt(&self, held: Vec<(String, OwnedFd)>) {
        let _ = held;
    }

    /// After the process ended: returns when everything that it wrote is in the spool and given to attached clients,
    /// or after a bound if another process keeps the pipe open. Attached clients then see the end.
    pub async fn finished(&self) {}

    /// Tells the terminal its size; remembered when there is none yet.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let _ = (rows, columns);
        Ok(())
    }

    /// Rows and columns wanted before the start.
    pub fn size(&self) -> Option<(u16, u16)> {
        None
    }

    /// The container is removed: attached clients and followers see the end, files need not be deleted one by one
    /// (the caller removes the directory).
    pub fn removed(&self) {}

    /// `LogPath` of inspect; empty if the driver has no file.
    pub fn log_path(&self) -> String {
        String::new()
    }
}
