//! Errors as the contract has them, made in one line.

use crate::types::{Code, Error};

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident),* $(,)?) => {
        impl Error {
            /// An error of this code. The message is for the user: one line, no secrets.
            pub fn new(code: Code, message: impl Into<String>) -> Self {
                Self { code, message: message.into(), fields: Vec::new(), retry_after_ms: None }
            }
            /// Adds a detail for logs and `--format json`.
            #[must_use]
            pub fn with(mut self, key: &str, value: impl ToString) -> Self {
                self.fields.push((key.to_owned(), value.to_string()));
                self
            }
            $(
                $(#[$doc])*
                pub fn $name(message: impl Into<String>) -> Self {
                    Self::new(Code::$code, message)
                }
            )*
        }
    };
}

constructors! {
    /// The request cannot be right.
    invalid => Invalid,
    /// There is no such thing.
    not_found => NotFound,
    /// It is there already.
    already_exists => AlreadyExists,
    /// It contradicts what is there.
    conflict => Conflict,
    /// The caller may not.
    denied => Denied,
    /// Nothing is left to give.
    exhausted => Exhausted,
    /// Not now.
    unavailable => Unavailable,
    /// Not ever, here.
    unsupported => Unsupported,
    /// The plugin's own fault.
    internal => Internal,
}

/// What the default of an optional function answers.
pub(crate) fn no<T>(function: &str) -> crate::Result<T> {
    Err(Error::unsupported(format!("this driver does not support {function}")))
}
