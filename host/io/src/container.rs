//! One container's standard streams over all its runs.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::codec::Codecs;
use crate::error::{Error, Result};
use crate::exec::{ExecIo, ExecSpec};
use crate::reader::Output;
use crate::stdin::Stdin;

/// What does not change while a container lives.
#[derive(Debug, Clone)]
pub struct StreamSpec {
    /// Container id.
    pub id: String,
    /// The container's own directory (0700, made by the caller).
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
    /// Image reference, image id, command, environment, labels and creation time, for codecs and `details`.
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

/// How many lines from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tail {
    /// All lines.
    #[default]
    All,
    /// The last so many.
    Lines(u64),
}

impl Tail {
    /// Docker's `tail` parameter: empty, `all` and what is no number mean all lines.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or(Self::All, Self::Lines)
    }
}

/// What `logs` shall return.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Wait for more until the run ends.
    pub follow: bool,
    /// Lines of stdout.
    pub stdout: bool,
    /// Lines of stderr.
    pub stderr: bool,
    /// Lines at or after this time, in nanoseconds since 1970.
    pub since: Option<u64>,
    /// Lines at or before this time.
    pub until: Option<u64>,
    /// How many from the end.
    pub tail: Tail,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// Each line begins with the attributes that the log options select.
    pub details: bool,
}

/// What `attach` shall do.
#[derive(Debug, Clone, Default)]
pub struct AttachQuery {
    /// Replay what is there.
    pub logs: bool,
    /// Follow what comes.
    pub stream: bool,
    /// Write stdin.
    pub stdin: bool,
    /// Output of stdout (the terminal's output counts as stdout).
    pub stdout: bool,
    /// Output of stderr.
    pub stderr: bool,
    /// Keys that detach; None takes the default.
    pub detach_keys: Option<String>,
}

/// Both directions of an attached client.
#[derive(Debug)]
pub struct Attached {
    /// What the container prints. Ends with the run.
    pub output: Output,
    /// What the container reads, if it was asked for and the container's stdin is open.
    pub stdin: Option<Stdin>,
}

/// The host-wide part: pump threads, log drivers.
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
    pub fn open(codecs: Arc<dyn Codecs>) -> Result<Self> {
        let _ = codecs;
        Err(Error::unsupported("container output"))
    }

    /// Checks driver and options at container create: Docker's texts, nothing changed.
    pub fn check(&self, driver: &str, options: &BTreeMap<String, String>) -> Result<()> {
        let _ = (driver, options);
        Err(Error::unsupported("container output"))
    }

    /// The handle of one container, new or known from the store. Does no input or output.
    pub fn container(&self, spec: StreamSpec) -> Arc<ContainerIo> {
        Arc::new(ContainerIo { spec })
    }

    /// The streams of one exec.
    pub fn exec(&self, spec: ExecSpec) -> ExecIo {
        ExecIo::new(spec)
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

    /// The start failed after [`ContainerIo::start`]; the run's descriptors go and attached clients see the end.
    pub fn abandoned(&self) {}

    /// A daemon that died had started it: these are what the keeper holds (`stdin`, `stdout`, `stderr`, `pty`).
    /// Called too for a container that ended meanwhile, so that its last output is read.
    pub fn adopt(&self, held: Vec<(String, OwnedFd)>) {
        let _ = held;
    }

    /// After the process ended: returns when everything that it wrote is in the spool.
    /// What other processes that hold the pipe write later is not waited for. Attached clients then see the end.
    pub async fn finished(&self) {}

    /// Resolves when the container's stdin was closed for good (StdinOnce): the keeper shall drop its `stdin` too.
    pub async fn stdin_closed(&self) {}

    /// Tells the terminal its size; remembered when there is none yet.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let _ = (rows, columns);
        Err(Error::unsupported("container output"))
    }

    /// Rows and columns wanted before the start.
    pub fn size(&self) -> Option<(u16, u16)> {
        None
    }

    /// The container is removed: attached clients and followers read what is there and see the end. Call before the
    /// directory is deleted; files need not be deleted one by one.
    pub fn removed(&self) {}

    /// `LogPath` of inspect; empty if the driver has no file.
    pub fn log_path(&self) -> String {
        String::new()
    }

    /// The lines of the log.
    pub async fn logs(&self, query: LogQuery) -> Result<Output> {
        let _ = query;
        Err(Error::unsupported("container output"))
    }

    /// A client at the container's streams.
    pub fn attach(&self, query: AttachQuery) -> Result<Attached> {
        let _ = query;
        Err(Error::unsupported("container output"))
    }
}
