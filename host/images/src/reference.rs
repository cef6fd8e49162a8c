//! Image names as Docker reads them.

use crate::error::{Error, Result};

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library/";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A name with a tag or a digest or both, in full: `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`...
    pub domain: String,
    /// `library/busybox`.
    pub path: String,
    /// `latest`.
    pub tag: Option<String>,
    /// `sha256:...`.
    pub digest: Option<String>,
}

/// What a user may write where an image is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyReference {
    /// A name.
    Named(Reference),
    /// 64 hexadecimal characters or `sha256:...`: the id of an image.
    Id(String),
}

fn bad_format() -> Error {
    Error::invalid("invalid reference format")
}

impl AnyReference {
    /// Parses whatever the user wrote.
    pub fn parse(text: &str) -> Result<Self> {
        if is_hex64(text) {
            return Ok(Self::Id(format!("sha256:{text}")));
        }
        if let Some(hex) = text.strip_prefix("sha256:")
            && is_hex64(hex)
        {
            return Ok(Self::Id(text.to_owned()));
        }
        Reference::parse(text).map(Self::Named)
    }
}

impl Reference {
    /// Parses a name, familiar or full. No tag is added.
    pub fn parse(text: &str) -> Result<Self> {
        if is_hex64(text) {
            return Err(Error::invalid(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (domain, rest) = split_domain(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if path.chars().any(char::is_uppercase) {
            return Err(Error::invalid(format!(
                "invalid reference format: repository name ({path}) must be lowercase"
            )));
        }
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        let well_formed = is_domain(&domain)
            && path.split('/').all(is_path_component)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(looks_like_digest);
        if !well_formed {
            return Err(bad_format());
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(Error::invalid(format!(
                "repository name must not be more than {MAX_NAME} characters"
            )));
        }
        if let Some(digest) = digest {
            check_digest(digest)?;
        }
        Ok(Self { domain, path, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
    }

    /// Adds `latest` where neither tag nor digest was given.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".into());
        }
        self
    }

    /// Domain and path: what two tags of one repository share.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The name as users see it: `busybox`, `me/app`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(digest);
        }
        name
    }

    /// With tag and digest, as users see it.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    /// With tag and digest, in full.
    pub fn full(&self) -> String {
        self.suffixed(self.name())
    }
}

/// Splits the registry off, as Docker guesses it.
fn split_domain(text: &str) -> (String, &str) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    if domain == "index.docker.io" { (DEFAULT_DOMAIN.into(), rest) } else { (domain.to_owned(), rest) }
}

/// Whether a text is 64 lowercase hexadecimal digits.
pub fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of a literal IPv6 address are inside brackets.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|label| {
        let bytes = label.as_bytes();
        bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
    })
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = text.as_bytes();
    loop {
        let n = rest.iter().take_while(|b| word(**b)).count();
        if n == 0 {
            return false;
        }
        rest = rest.get(n..).unwrap_or_default();
        if rest.is_empty() {
            return true;
        }
        let n = rest.iter().take_while(|b| !word(**b)).count();
        let (separator, more) = rest.split_at(n);
        if !matches!(separator, b"." | b"_" | b"__") && separator.iter().any(|b| *b != b'-') {
            return false;
        }
        rest = more;
    }
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn looks_like_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let parts_fine = algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    parts_fine && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A digest that this host can verify.
pub fn check_digest(text: &str) -> Result<()> {
    match text.split_once(':') {
        Some(("sha256", hex)) if is_hex64(hex) => Ok(()),
        Some(("sha256", hex)) if hex.len() != 64 => Err(Error::invalid("invalid checksum digest length")),
        Some(("sha256", _)) | None => Err(Error::invalid("invalid checksum digest format")),
        Some(_) => Err(Error::invalid("unsupported digest algorithm")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn familiar(text: &str) -> String {
        Reference::parse(text).unwrap().or_latest().familiar()
    }

    #[test]
    fn normalises_as_docker_does() {
        let full = |t: &str| Reference::parse(t).unwrap().or_latest().full();
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("index.docker.io/busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("me/app:1"), "docker.io/me/app:1");
        assert_eq!(full("localhost/app"), "localhost/app:latest");
        assert_eq!(full("localhost:5000/a/b:x"), "localhost:5000/a/b:x");
        assert_eq!(full("quay.io/a"), "quay.io/a:latest");
        assert_eq!(full("[::1]:80/a"), "[::1]:80/a:latest");
        assert_eq!(full("UPPER/a"), "UPPER/a:latest");
        assert_eq!(familiar("docker.io/library/busybox"), "busybox:latest");
        assert_eq!(familiar("docker.io/library/a/b"), "library/a/b:latest");
        assert_eq!(familiar("docker.io/me/app:2"), "me/app:2");
        let hex = "a".repeat(64);
        assert_eq!(familiar(&format!("busybox@sha256:{hex}")), format!("busybox@sha256:{hex}"));
        assert_eq!(familiar(&format!("busybox:1@sha256:{hex}")), format!("busybox:1@sha256:{hex}"));
        assert_eq!(AnyReference::parse(&hex).unwrap(), AnyReference::Id(format!("sha256:{hex}")));
    }

    #[test]
    fn refuses_as_docker_does() {
        for bad in [
            "",
            ":",
            ":tag",
            "a:",
            "a@",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a b",
            "a:-x",
            "a\nb",
            "é",
            "a@sha256:12",
            "a:tag:tag",
            "a\0b",
            "localhost:/a",
            "a:x@y",
            "...",
            "x/..",
            "../x",
            "%2e",
        ] {
            let error = Reference::parse(bad).unwrap_err();
            assert_eq!(error.to_string(), "invalid reference format", "{bad:?}");
        }
        let text = |t: &str| Reference::parse(t).unwrap_err().to_string();
        assert_eq!(text("Busybox"), "invalid reference format: repository name (Busybox) must be lowercase");
        let hex = "a".repeat(64);
        assert_eq!(
            text(&hex),
            format!("invalid repository name ({hex}), cannot specify 64-byte hexadecimal strings")
        );
        assert_eq!(text(&"a".repeat(300)), "repository name must not be more than 255 characters");
        assert_eq!(text(&format!("a@sha256:{}", "a".repeat(63))), "invalid checksum digest length");
        assert_eq!(text(&format!("a@md6:{}", "a".repeat(64))), "unsupported digest algorithm");
        assert_eq!(text(&format!("a:{}", "t".repeat(129))), "invalid reference format");
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_round_trips(text in "\\PC{0,80}|[a-z0-9./:@_-]{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                let again = Reference::parse(&reference.full()).unwrap();
                proptest::prop_assert_eq!(&again, &reference);
                let short = Reference::parse(&reference.familiar()).unwrap();
                proptest::prop_assert_eq!(&short, &reference);
            }
        }
    }
}
