//! Platforms, and which of several fits best.

use serde::{Deserialize, Serialize};

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoPlatform(String);

/// Operating system and processor, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `amd64`, `arm64`...
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v8`...
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Version of the operating system.
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features of the operating system that are needed.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

/// This host's architecture in Go's words.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

impl Platform {
    /// This host.
    pub fn host() -> Self {
        Self { architecture: host_architecture().into(), os: "linux".into(), ..Self::default() }.normal()
    }

    /// `os[/architecture[/variant]]` or just an architecture, as users write it.
    pub fn parse(text: &str) -> Result<Self, NoPlatform> {
        let word = |t: &str| {
            !t.is_empty()
                && t.len() <= 64
                && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if let Some(bad) = parts.iter().find(|p| !word(p)) {
            return Err(NoPlatform(format!(
                "\"{bad}\" is an invalid component of \"{text}\": platform specifier component must match \"^[A-Za-z0-9_.-]+$\""
            )));
        }
        let made = |os: &str, architecture: &str, variant: &str| Self {
            os: os.to_lowercase(),
            architecture: architecture.to_lowercase(),
            variant: variant.to_lowercase(),
            ..Self::default()
        };
        let platform = match parts.as_slice() {
            [one] if matches!(one.to_lowercase().as_str(), "linux" | "windows" | "freebsd" | "darwin") => {
                made(one, host_architecture(), "")
            }
            [one] => made("linux", one, ""),
            [os, architecture] => made(os, architecture, ""),
            [os, architecture, variant] => made(os, architecture, variant),
            _ => return Err(NoPlatform(format!("\"{text}\": cannot parse platform specifier"))),
        };
        Ok(platform.normal())
    }

    /// With the words that mean the same replaced by one of them.
    #[must_use]
    pub fn normal(mut self) -> Self {
        let (architecture, variant) = match (self.architecture.as_str(), self.variant.as_str()) {
            ("x86_64" | "x86-64", v) => ("amd64", v),
            ("i386" | "i686", _) => ("386", ""),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64", v) => ("arm64", v),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            (a, v) => (a, v),
        };
        let variant = if architecture == "amd64" && variant == "v1" { "" } else { variant };
        (self.architecture, self.variant) = (architecture.to_owned(), variant.to_owned());
        self
    }

    /// `os/architecture[/variant]`.
    pub fn text(&self) -> String {
        let Self { os, architecture, variant, .. } = self;
        if variant.is_empty() {
            format!("{os}/{architecture}")
        } else {
            format!("{os}/{architecture}/{variant}")
        }
    }

    /// How well something made for `offered` does where `self` is wanted; None if it does not run, less is better.
    pub fn fit(&self, offered: &Self) -> Option<u8> {
        let (want, have) = (self.clone().normal(), offered.clone().normal());
        if want.os != have.os || want.architecture != have.architecture {
            return None;
        }
        if want.variant == have.variant {
            return Some(0);
        }
        // A newer processor of these families runs what was made for an older one.
        let level = |p: &Self| match p.variant.as_str() {
            "" => Some(if p.architecture == "amd64" { 1 } else { 8 }),
            v => v.strip_prefix('v').and_then(|n| n.parse::<u8>().ok()),
        };
        match want.architecture.as_str() {
            "arm" | "amd64" | "arm64" => match (level(&want), level(&have)) {
                (Some(w), Some(h)) if h <= w => Some(w - h),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Platform {
        Platform::parse(text).unwrap()
    }

    #[test]
    fn words_of_users() {
        for (text, wanted) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("Linux/ARM64/v8", "linux/arm64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(p(text).text(), wanted);
        }
        for bad in ["", "a/", "a/b/c/d", "a b", "a/b;c"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_best_fit_wins() {
        assert_eq!(p("linux/arm/v7").fit(&p("linux/arm/v7")), Some(0));
        assert_eq!(p("linux/arm/v7").fit(&p("linux/arm/v6")), Some(1));
        assert_eq!(p("linux/arm/v6").fit(&p("linux/arm/v7")), None);
        assert_eq!(p("linux/amd64").fit(&p("linux/arm64")), None);
        assert_eq!(p("linux/amd64").fit(&p("linux/amd64/v3")), None);
        assert_eq!(p("linux/amd64/v3").fit(&p("linux/amd64")), Some(2));
        assert_eq!(p("linux/amd64").fit(&p("windows/amd64")), None);
    }
}
