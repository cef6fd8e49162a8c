//! The error of a system call, printed the way strace prints it.

use std::fmt;

use nix::errno::Errno;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed system call, or a refusal of ours expressed in the kernel's words.
///
/// It is boxed: results travel through hot code, failures do not.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    call: String,
    errno: i32,
    note: Option<String>,
}

impl Error {
    /// `call` is the call with its arguments, for example `openat2(5, "etc/passwd")`.
    pub fn new(call: impl Into<String>, errno: i32) -> Self {
        Self(Box::new(Inner { call: call.into(), errno, note: None }))
    }

    /// The error the calling thread met last.
    pub fn last(call: impl Into<String>) -> Self {
        let errno = Errno::last_raw();
        Self::new(call, errno)
    }

    /// Something this code refuses although the kernel would do it, with the reason in words.
    pub fn refused(call: impl Into<String>, errno: i32, reason: impl Into<String>) -> Self {
        Self(Box::new(Inner { call: call.into(), errno, note: Some(reason.into()) }))
    }

    /// Adds what the call was good for.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.0.note = Some(note.into());
        self
    }

    /// Linux error number.
    pub fn errno(&self) -> i32 {
        self.0.errno
    }

    /// The call with its arguments.
    pub fn call(&self) -> &str {
        &self.0.call
    }

    /// Whether the error number is this one.
    pub fn is(&self, errno: i32) -> bool {
        self.0.errno == errno
    }

    /// ENOENT.
    pub fn is_not_found(&self) -> bool {
        self.is(libc::ENOENT)
    }

    /// EEXIST.
    pub fn is_exists(&self) -> bool {
        self.is(libc::EEXIST)
    }

    /// The kernel does not know the call or the flag.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.0.errno, libc::ENOSYS | libc::EOPNOTSUPP)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = Errno::from_raw(self.0.errno);
        write!(f, "{} = -1 {errno:?} ({})", self.0.call, errno.desc())?;
        match &self.0.note {
            Some(note) => write!(f, ": {note}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = std::io::Error::from_raw_os_error(error.errno()).kind();
        std::io::Error::new(kind, error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::new(error.to_string(), error.raw_os_error().unwrap_or(libc::EIO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_like_strace() {
        let error = Error::new("openat2(7, \"etc/passwd\")", libc::ENOENT).note("users of the image");
        assert_eq!(
            error.to_string(),
            "openat2(7, \"etc/passwd\") = -1 ENOENT (No such file or directory): users of the image"
        );
        assert!(error.is_not_found());
    }
}
