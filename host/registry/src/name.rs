//! What is asked of a registry.

use crate::digest;
use crate::error::{Error, Result};

/// A repository in full.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repository {
    /// `docker.io`, `localhost:5000`...
    pub registry: String,
    /// `library/busybox`.
    pub path: String,
}

/// A manifest in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By a name that can move.
    Tag(String),
    /// By content.
    Digest(String),
}

impl Repository {
    /// A repository whose parts are what they should be; both go into addresses as they are.
    pub fn new(registry: &str, path: &str) -> Result<Self> {
        let host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
        let word =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'/');
        let fine = !registry.is_empty()
            && registry.bytes().all(host)
            && !path.is_empty()
            && path.len() <= 255
            && path.bytes().all(word)
            && path.split('/').all(|part| part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()));
        if !fine {
            return Err(Error::invalid("invalid reference format"));
        }
        Ok(Self { registry: registry.to_owned(), path: path.to_owned() })
    }
}

impl Selector {
    pub(crate) fn check(&self) -> Result<&str> {
        match self {
            Self::Digest(text) => digest::check(text).map(|()| text.as_str()),
            Self::Tag(tag) => {
                let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
                let fine = tag.len() <= 128
                    && tag.bytes().next().is_some_and(word)
                    && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
                if fine { Ok(tag) } else { Err(Error::invalid("invalid tag format")) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_into_an_address_that_could_change_it() {
        assert!(Repository::new("localhost:5000", "a/b").is_ok());
        assert!(Repository::new("[::1]:5000", "a").is_ok());
        for (registry, path) in [
            ("a/b", "c"),
            ("a@b", "c"),
            ("a", "../c"),
            ("a", "b//c"),
            ("a", "b?c"),
            ("a", "b#c"),
            ("a", "b c"),
            ("", "c"),
            ("a", ""),
            ("a", "b/.."),
            ("a", "B"),
            ("a%2f", "b"),
        ] {
            assert!(Repository::new(registry, path).is_err(), "{registry} {path}");
        }
        for tag in ["", ".a", "-a", "a/b", "a?b", "a b", "a\n"] {
            assert!(Selector::Tag(tag.into()).check().is_err(), "{tag:?}");
        }
        assert!(Selector::Digest("sha512:00".into()).check().is_err());
    }
}
