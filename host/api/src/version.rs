//! API versions.

use crate::error::Failure;

/// A minor version of API 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32);

/// The oldest that is served.
pub(crate) const OLDEST: Version = Version(24);
/// The newest that is served.
pub(crate) const NEWEST: Version = Version(55);
/// [`NEWEST`] as text.
pub(crate) const NEWEST_TEXT: &str = "1.55";
/// [`OLDEST`] as text.
pub(crate) const OLDEST_TEXT: &str = "1.24";

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

/// Splits `/v1.41/rest` into version and `/rest`; a path without version speaks the newest.
pub(crate) fn split(path: &str) -> Result<(Version, &str), Failure> {
    let versioned = path.strip_prefix("/v").and_then(|rest| {
        let end = rest.find('/')?;
        let (text, rest) = rest.split_at(end);
        let digits = text.starts_with(|c: char| c.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        digits.then_some((text, rest))
    });
    let Some((text, rest)) = versioned else {
        return Ok((NEWEST, path));
    };
    let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or(u32::MAX));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if (major, minor) < (1, OLDEST.0) {
        return Err(Failure::invalid(format!(
            "client version {text} is too old. Minimum supported API version is {OLDEST}, please upgrade your \
             client to a newer version"
        )));
    }
    if (major, minor) > (1, NEWEST.0) {
        return Err(Failure::invalid(format!(
            "client version {text} is too new. Maximum supported API version is {NEWEST}"
        )));
    }
    Ok((Version(minor), rest))
}

#[cfg(test)]
mod tests {
    use super::{NEWEST, NEWEST_TEXT, OLDEST, OLDEST_TEXT, Version, split};

    #[test]
    fn versions() {
        assert_eq!(split("/v1.41/info").unwrap(), (Version(41), "/info"));
        assert_eq!(split("/info").unwrap(), (NEWEST, "/info"));
        assert_eq!(split("/version").unwrap(), (NEWEST, "/version"));
        assert_eq!(split("/volumes/v1.2/x").unwrap().1, "/volumes/v1.2/x");
        assert_eq!(
            split("/v1.12/info").unwrap_err().message,
            "client version 1.12 is too old. Minimum supported API version is 1.24, please upgrade your client to \
             a newer version"
        );
        assert_eq!(
            split("/v1.99/info").unwrap_err().message,
            "client version 1.99 is too new. Maximum supported API version is 1.55"
        );
        assert_eq!(split("/v2.0/info").unwrap_err().status, 400);
        assert_eq!(split("/v99999999999.1/info").unwrap_err().status, 400);
        assert_eq!((OLDEST.to_string(), NEWEST.to_string()), (OLDEST_TEXT.into(), NEWEST_TEXT.into()));
    }
}
