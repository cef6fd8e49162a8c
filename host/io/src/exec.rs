//! The streams of one exec: no spool. What nobody takes stays in the pipe and holds the process back.

use std::os::fd::OwnedFd;

use crate::container::ChildStdio;
use crate::error::{Error, Result};
use crate::reader::Output;
use crate::stdin::Stdin;

/// What the client asked for.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// A terminal rather than pipes.
    pub tty: bool,
    /// Attach stdin.
    pub stdin: bool,
    /// Attach stdout.
    pub stdout: bool,
    /// Attach stderr.
    pub stderr: bool,
    /// Keys that detach; None takes the default.
    pub detach_keys: Option<String>,
}

/// The streams of one exec.
#[derive(Debug)]
pub struct ExecIo {
    spec: ExecSpec,
}

impl ExecIo {
    pub(crate) fn new(spec: ExecSpec) -> Self {
        Self { spec }
    }

    /// What it was made from.
    pub fn spec(&self) -> &ExecSpec {
        &self.spec
    }

    /// Makes the descriptors of the process (`hold` is empty: an exec's streams end with the daemon).
    pub fn start(&self) -> Result<ChildStdio> {
        Err(Error::unsupported("exec output"))
    }

    /// The process runs: both directions for the client. If the client goes early, drop them: what the process
    /// still prints is thrown away then, so that it does not wait for ever.
    pub fn started(&self, pty: Option<OwnedFd>) -> Result<(Output, Option<Stdin>)> {
        let _ = pty;
        Err(Error::unsupported("exec output"))
    }

    /// Tells the terminal its size; remembered when there is none yet.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let _ = (rows, columns);
        Err(Error::unsupported("exec output"))
    }

    /// Rows and columns wanted before the start.
    pub fn size(&self) -> Option<(u16, u16)> {
        None
    }

    /// The process ended: output ends after what is in the pipe now, even if other processes still hold it.
    pub fn exited(&self) {}
}
