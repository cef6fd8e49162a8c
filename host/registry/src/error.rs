//! What can go wrong with a registry, as a user reads it.

use serde::Deserialize;

/// Coarse reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The registry does not have it.
    NotFound,
    /// The registry does not let this caller.
    Denied,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// Too many requests.
    Limited,
    /// It could not be reached, broke off or stopped moving; trying again may help.
    Unavailable,
    /// What it said makes no sense, or is not what was asked for.
    Broken,
    /// It is fine, but not made for this client.
    Unsupported,
    /// What the user gave is wrong.
    Invalid,
    /// Something on this side failed.
    Local,
}

/// An error with the text that users see.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    code: Option<String>,
    status: Option<u16>,
    unreached: bool,
    pub(crate) retry_after: Option<std::time::Duration>,
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), code: None, status: None, unreached: false, retry_after: None }
    }

    /// What sort of error it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The registry's own code: `MANIFEST_UNKNOWN`, `DENIED`...
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Status of the answer that said so.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    pub(crate) fn denied() -> Self {
        let mut error = Self::new(Kind::Denied, "denied: requested access to the resource is denied");
        (error.code, error.status) = (Some("DENIED".into()), Some(401));
        error
    }

    pub(crate) fn broken(message: impl Into<String>) -> Self {
        Self::new(Kind::Broken, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// There was no connection at all.
    pub(crate) fn unreached(mut self) -> Self {
        self.unreached = true;
        self
    }

    /// Whether there was no connection at all, so that another address may be tried.
    pub(crate) fn is_unreached(&self) -> bool {
        self.unreached
    }

    /// Whether the same request may do better later.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::Limited)
    }

    /// Puts what was being done in front.
    #[must_use]
    pub fn at(mut self, what: impl std::fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// What an answer with an error status means. The body is the registry's; only so much of it is shown.
    pub(crate) fn of_answer(status: u16, body: &[u8]) -> Self {
        let said = serde_json::from_slice::<Errors>(body).ok().and_then(|e| e.errors.into_iter().next());
        let (code, text) = if let Some(one) = said {
            let code: String = shown(&one.code, 64);
            let words = code.to_lowercase().replace('_', " ");
            let text = match shown(&one.message, 500) {
                message if message.is_empty() => words,
                message => format!("{words}: {message}"),
            };
            (Some(code).filter(|c| !c.is_empty()), text)
        } else {
            // A proxy's or a simpler server's own words.
            let text = shown(&String::from_utf8_lossy(body), 200);
            let plain = !text.is_empty() && !text.starts_with('<') && !text.starts_with('{');
            let says = if plain { format!(": {text}") } else { String::new() };
            let limited = if status == 429 { "toomanyrequests: " } else { "" };
            (None, format!("{limited}received unexpected HTTP status: {}{says}", line(status)))
        };
        let kind = match (code.as_deref(), status) {
            (Some("DENIED"), _) | (_, 403) => Kind::Denied,
            (Some("UNAUTHORIZED"), _) | (_, 401) => Kind::Unauthorized,
            (Some("TOOMANYREQUESTS"), _) | (_, 429) => Kind::Limited,
            (_, 404) => Kind::NotFound,
            (_, 408 | 500..=599) => Kind::Unavailable,
            (Some("UNSUPPORTED"), _) | (_, 405) => Kind::Unsupported,
            _ => Kind::Broken,
        };
        Self { kind, message: text, code, status: Some(status), unreached: false, retry_after: None }
    }
}

fn line(status: u16) -> String {
    let reason =
        hyper::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or_default();
    format!("{status} {reason}").trim_end().to_owned()
}

/// Text of others, in one line and not too long.
fn shown(text: &str, limit: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(limit).collect();
    clean.trim().to_owned()
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_docker_words() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        let error = Error::of_answer(404, body);
        assert_eq!(error.to_string(), "manifest unknown: manifest unknown");
        assert_eq!((error.kind(), error.code()), (Kind::NotFound, Some("MANIFEST_UNKNOWN")));
        let error = Error::of_answer(502, b"<html>bad</html>");
        assert_eq!(error.to_string(), "received unexpected HTTP status: 502 Bad Gateway");
        assert!(error.is_temporary());
        let error = Error::of_answer(401, br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m"}]}"#);
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Denied, "denied: no [31m"));
        assert_eq!(Error::of_answer(429, b"").kind(), Kind::Limited);
        assert_eq!(
            Error::of_answer(418, b"tea").to_string(),
            "received unexpected HTTP status: 418 I'm a teapot: tea"
        );
    }
}
