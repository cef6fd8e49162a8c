//! Credentials in the form of Docker's `config.json`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::credentials::{Credential, Secret};
use crate::{Error, Result};

/// The part of `config.json` that is about credentials; the rest is not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct DockerAuths {
    auths: BTreeMap<String, Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// A registry by the one name that plugins are asked with: `docker.io`, `host:port`.
fn registry(name: &str) -> &str {
    let bare = name.trim_start_matches("https://").trim_start_matches("http://");
    match bare.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// Base 64 of either alphabet, padded or not.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for c in text.trim().trim_end_matches('=').bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count).to_le_bytes()[0]);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

impl Entry {
    fn password(&self) -> Result<(String, String)> {
        if self.auth.is_empty() {
            return Ok((self.username.clone(), self.password.clone()));
        }
        let wrong = || Error::invalid("\"auth\" must be user:password in base 64");
        let text = decode(&self.auth).and_then(|b| String::from_utf8(b).ok()).ok_or_else(wrong)?;
        let (user, password) = text.split_once(':').ok_or_else(wrong)?;
        Ok((user.to_owned(), password.trim_end_matches('\0').to_owned()))
    }
}

impl DockerAuths {
    /// Reads a `config.json`.
    pub fn parse(text: &str) -> Result<Self> {
        crate::host::parse_config(text)
    }

    /// What it has for a registry.
    pub fn get(&self, wanted: &str) -> Result<Option<Credential>> {
        let found = self.auths.iter().find(|(name, _)| registry(name) == registry(wanted));
        let Some((_, entry)) = found else { return Ok(None) };
        let secret = if !entry.registrytoken.is_empty() {
            Secret::Bearer(entry.registrytoken.clone())
        } else if !entry.identitytoken.is_empty() {
            Secret::IdentityToken(entry.identitytoken.clone())
        } else {
            let (user, password) = entry.password()?;
            if user.is_empty() && password.is_empty() {
                return Ok(None);
            }
            Secret::Password((user, password))
        };
        Ok(Some(Credential { secret, expires: None }))
    }

    /// Registries and user names.
    pub fn entries(&self) -> Result<Vec<(String, String)>> {
        let entry = |(name, entry): (&String, &Entry)| Ok((registry(name).to_owned(), entry.password()?.0));
        self.auths.iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str, registry: &str) -> Option<Secret> {
        DockerAuths::parse(text).unwrap().get(registry).unwrap().map(|c| c.secret)
    }

    #[test]
    fn what_docker_writes() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0"},
            "reg.example:5000": {"username": "a", "password": "b"},
            "http://token.example/v2/": {"identitytoken": "t", "auth": "eDo="},
            "empty": {}
        }, "credsStore": "pass"}"#;
        assert!(
            matches!(secret(text, "docker.io"), Some(Secret::Password((u, p))) if u == "me" && p == "secret")
        );
        assert!(
            matches!(secret(text, "reg.example:5000"), Some(Secret::Password((u, p))) if u == "a" && p == "b")
        );
        assert!(matches!(secret(text, "token.example"), Some(Secret::IdentityToken(t)) if t == "t"));
        assert!(secret(text, "empty").is_none());
        assert!(secret(text, "reg.example").is_none());
        let entries = DockerAuths::parse(text).unwrap().entries().unwrap();
        assert!(entries.contains(&("docker.io".into(), "me".into())));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for bad in ["!", "bm9jb2xvbg==", "/w=="] {
            let text = format!(r#"{{"auths": {{"r": {{"auth": "{bad}"}}}}}}"#);
            assert!(DockerAuths::parse(&text).unwrap().get("r").is_err(), "{bad}");
        }
        assert!(DockerAuths::parse("[").is_err());
    }
}
