//! What clients write to a container.

use crate::error::{Error, Result};

/// What the end of a client's input means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdinEnd {
    /// The process sees the end of its input; its output goes on.
    Closed,
    /// The input stays open for others; as in Docker the client's session ends.
    SessionEnds,
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// All is with the process (or it closed its input and does not want more).
    All,
    /// The client typed the detach keys: end the session, the process runs on.
    Detached,
}

/// A client's way to the process's input.
#[derive(Debug)]
pub struct Stdin {
    _private: (),
}

impl Stdin {
    /// Writes all of it, waiting while the process does not read.
    pub async fn write(&mut self, data: &[u8]) -> Result<Written> {
        let _ = data;
        Err(Error::unsupported("container input"))
    }

    /// The client's input is at its end.
    pub async fn close(self) -> StdinEnd {
        StdinEnd::SessionEnds
    }
}
