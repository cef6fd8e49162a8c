//! What an operation answers when it does not do what was asked.

use std::fmt::Display;

/// What class of failure it is; the API maps each to one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The object does not exist (404).
    NotFound,
    /// The object's state or another object forbids it (409).
    Conflict,
    /// The request itself is wrong (400).
    Invalid,
    /// Nothing to do (304).
    NotModified,
    /// Not allowed (403).
    Forbidden,
    /// Not known who is asking (401).
    Unauthorized,
    /// A part that is needed does not answer (503).
    Unavailable,
    /// Not built (501).
    Unsupported,
    /// Everything else (500).
    Internal,
}

/// A failure with the text that the client sees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Class.
    pub kind: Kind,
    /// For the user; Docker's own words where Docker has some.
    pub message: String,
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure of the given class.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }
    /// 409.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }
    /// 400.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }
    /// 403.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, message)
    }
    /// 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }
    /// 304.
    pub fn not_modified() -> Self {
        Self::new(Kind::NotModified, "")
    }
    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }
    /// 501, naming the operation.
    pub fn unsupported(what: impl Display) -> Self {
        Self::new(Kind::Unsupported, format!("{what} is not supported by this engine"))
    }
    /// 404 for a container.
    pub fn no_container(reference: &str) -> Self {
        Self::not_found(format!("No such container: {}", reference.trim_start_matches('/')))
    }
    /// The same failure with what was being done in front.
    #[must_use]
    pub fn context(mut self, what: impl Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl From<wharf_store::Error> for Error {
    fn from(e: wharf_store::Error) -> Self {
        let kind = match e {
            wharf_store::Error::Conflict { .. } => Kind::Conflict,
            wharf_store::Error::Closed => Kind::Unavailable,
            wharf_store::Error::Database(_) => Kind::Internal,
        };
        Self::new(kind, e.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Self::internal(e.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Self::internal(format!("a record cannot be read or written: {e}"))
    }
}

/// Says what was being done when something failed.
pub trait Context<T> {
    /// Turns any failure into an internal one that names `what`.
    fn doing(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn doing(self, what: impl Display) -> Result<T> {
        self.map_err(|e| Error::internal(format!("{what}: {e}")))
    }
}
