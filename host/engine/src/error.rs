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
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of the given class.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: in_go_words(message.into()) }
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

/// Rust's text of a failed system call ("No such file or directory (os error 2)") as Go writes it ("no such file or directory"):
/// clients look for such words, the docker command line for its exit codes.
fn in_go_words(mut message: String) -> String {
    const NUMBER: &str = " (os error ";
    while let Some((before, behind)) = message.split_once(NUMBER)
        && let Some((digits, rest)) = behind.split_once(')')
        && digits.bytes().all(|b| b.is_ascii_digit())
    {
        let (doing, what) = before.rsplit_once(": ").map_or(("", before), |(doing, what)| (doing, what));
        let colon = if doing.is_empty() { "" } else { ": " };
        let mut letters = what.chars();
        let first = letters.next().map(|c| c.to_ascii_lowercase());
        message = format!(
            "{doing}{colon}{}{}{rest}",
            first.map(String::from).unwrap_or_default(),
            letters.as_str()
        );
    }
    message
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

impl From<wharf_plan::platform::NoPlatform> for Error {
    fn from(e: wharf_plan::platform::NoPlatform) -> Self {
        Self::invalid(e.to_string())
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

impl From<wharf_io::Error> for Error {
    fn from(e: wharf_io::Error) -> Self {
        let kind = match e.kind() {
            wharf_io::ErrorKind::Invalid => Kind::Invalid,
            wharf_io::ErrorKind::Unsupported => Kind::Unsupported,
            wharf_io::ErrorKind::Conflict => Kind::Conflict,
            wharf_io::ErrorKind::Internal => Kind::Internal,
        };
        Self::new(kind, e.message())
    }
}

impl From<wharf_images::Error> for Error {
    fn from(e: wharf_images::Error) -> Self {
        use wharf_images::Kind as From;
        let kind = match e.kind() {
            From::NotFound => Kind::NotFound,
            From::Invalid | From::TooLarge => Kind::Invalid,
            From::Conflict => Kind::Conflict,
            From::Unsupported => Kind::Unsupported,
            From::Internal => Kind::Internal,
        };
        Self::new(kind, e.to_string())
    }
}

impl From<wharf_plugins::PluginError> for Error {
    fn from(e: wharf_plugins::PluginError) -> Self {
        use wharf_plan::types::Code;
        let kind = match e.code() {
            Code::Invalid => Kind::Invalid,
            Code::NotFound => Kind::NotFound,
            Code::AlreadyExists | Code::Conflict => Kind::Conflict,
            Code::Denied => Kind::Forbidden,
            Code::Unavailable => Kind::Unavailable,
            Code::Unsupported => Kind::Unsupported,
            Code::Exhausted | Code::Internal | Code::Other => Kind::Internal,
        };
        // What a plugin says to the user stands alone; what is wrong with a plugin names it.
        let message = e.plugin_message().map_or_else(|| e.to_string(), str::to_owned);
        Self::new(kind, message)
    }
}

impl From<wharf_kernel::Error> for Error {
    fn from(e: wharf_kernel::Error) -> Self {
        Self::internal(e.to_string())
    }
}

impl From<wharf_kernel::net::Error> for Error {
    fn from(e: wharf_kernel::net::Error) -> Self {
        Self::internal(e.to_string())
    }
}

impl From<wharf_keeper::KeeperError> for Error {
    fn from(e: wharf_keeper::KeeperError) -> Self {
        Self::unavailable(e.to_string())
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

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn system_calls_fail_in_gos_words() {
        for (text, wanted) in [
            ("stat /x: No such file or directory (os error 2)", "stat /x: no such file or directory"),
            ("No such file or directory (os error 2)", "no such file or directory"),
            ("a: Is a directory (os error 21), then b: Bad (os error 1)", "a: is a directory, then b: bad"),
            ("(os error 2)", "(os error 2)"),
            ("odd (os error two)", "odd (os error two)"),
            ("cut (os error 2", "cut (os error 2"),
            ("Conflict. The name", "Conflict. The name"),
        ] {
            assert_eq!(Error::internal(text).message, wanted);
        }
    }
}
