//! What can go wrong with images, as a user reads it.

/// Coarse reason, which the API turns into a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No such image, tag or snapshot.
    NotFound,
    /// The request or the data handed in is wrong.
    Invalid,
    /// Something else stands in the way.
    Conflict,
    /// This host, file system or storage driver cannot do that.
    Unsupported,
    /// A limit was reached.
    TooLarge,
    /// The disk, the database or a plugin failed.
    Internal,
}

/// An error with the text that users and clients see.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What sort of error it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(Kind::TooLarge, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// Puts what was being done in front.
    pub(crate) fn at(self, what: impl std::fmt::Display) -> Self {
        Self { kind: self.kind, message: format!("{what}: {}", self.message) }
    }
}

impl From<wharf_store::Error> for Error {
    fn from(e: wharf_store::Error) -> Self {
        let kind = match e {
            wharf_store::Error::Conflict { .. } => Kind::Conflict,
            _ => Kind::Internal,
        };
        Self::new(kind, e.to_string())
    }
}
