//! What a command can fail with.

/// A failure as the user sees it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon answered with an error.
    #[error("Error response from daemon: {message}")]
    Daemon {
        /// HTTP status.
        status: u16,
        /// The daemon's text.
        message: String,
    },
    /// No daemon answers there.
    #[error(
        "cannot connect to the daemon at {address}: {cause}. Is it running? Start it with `wharf daemon` or name another with --host"
    )]
    Connect {
        /// Address as given.
        address: String,
        /// Why.
        cause: String,
    },
    /// The command line itself is wrong.
    #[error("{0}")]
    Usage(String),
    /// What was asked for is not there, or a template asks for what is not there.
    #[error("{0}")]
    Missing(String),
    /// Input or output of this process.
    #[error("{}", without_number(.0))]
    Io(#[from] std::io::Error),
    /// The daemon's answer could not be understood.
    #[error("unexpected answer of the daemon: {0}")]
    Protocol(String),
    /// Each object's failure was printed already.
    #[error("one or more of the objects failed")]
    Some,
    /// As `source`, where `run` must end with another code.
    #[error("{source}")]
    WithCode {
        /// Exit code.
        code: u8,
        /// Why.
        source: Box<Error>,
    },
}

/// A system's word for what failed, without the number that Rust adds and in lower case as Docker has it.
pub(crate) fn without_number(error: &std::io::Error) -> String {
    let text = error.to_string();
    let Some((words, _)) = text.split_once(" (os error ") else { return text };
    let mut letters = words.chars();
    let first = letters.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

/// What a file could not be done with, and why: as Docker says it (`open /x: no such file or directory`).
pub(crate) fn doing(what: &str, path: impl AsRef<std::path::Path>, error: &std::io::Error) -> String {
    format!("{what} {}: {}", path.as_ref().display(), without_number(error))
}

/// The same as an error of this process's input or output.
pub(crate) fn file(what: &str, path: impl AsRef<std::path::Path>) -> impl FnOnce(std::io::Error) -> Error {
    move |e| Error::Io(std::io::Error::new(e.kind(), doing(what, path, &e)))
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::WithCode { code, .. } => *code,
            Self::Usage(_) => 125,
            _ => 1,
        }
    }

    /// The same failure with `run`'s code: 127 and 126 where the program is the reason, 125 otherwise.
    #[must_use]
    pub fn for_run(self) -> Self {
        let text = self.to_string();
        let says = |words: &str| text.contains(words);
        let code = if says("executable file not found") || says("no such file or directory") {
            127
        } else if says("permission denied") || says("is a directory") {
            126
        } else {
            125
        };
        Self::WithCode { code, source: Box::new(self) }
    }
}

impl From<hyper::Error> for Error {
    fn from(e: hyper::Error) -> Self {
        Self::Protocol(e.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Self::Protocol(e.to_string())
    }
}
