//! Credentials for registries: those in its configuration, and those it was given to keep.
//!
//! The configuration is what Docker keeps in `config.json`: `{"auths": {"registry": {"auth": "…"}}}`.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use serde_json::{Value, json};
use wharf_plugin_sdk::credentials::{Credential, Helper, Secret, Want};
use wharf_plugin_sdk::docker_auths::DockerAuths;
use wharf_plugin_sdk::{Error, Host, Result};

/// The helper.
#[derive(Debug, Default)]
pub struct Configured;

fn key(registry: &str) -> String {
    format!("auth/{registry}")
}

fn encode(credential: &Credential) -> Result<Vec<u8>> {
    let value = match &credential.secret {
        Secret::Password((user, password)) => json!({"user": user, "password": password}),
        Secret::IdentityToken(token) => json!({"identity": token}),
        Secret::Bearer(token) => json!({"bearer": token}),
        Secret::Anonymous => return Err(Error::invalid("there is nothing to keep")),
    };
    let mut value = value;
    if let (Some(expires), Some(map)) = (credential.expires, value.as_object_mut()) {
        map.insert("expires".to_owned(), expires.into());
    }
    Ok(value.to_string().into_bytes())
}

fn decode(bytes: &[u8]) -> Option<Credential> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let secret = match (text("bearer"), text("identity")) {
        (Some(token), _) => Secret::Bearer(token),
        (None, Some(token)) => Secret::IdentityToken(token),
        (None, None) => Secret::Password((text("user")?, text("password")?)),
    };
    Some(Credential { secret, expires: value.get("expires").and_then(Value::as_u64) })
}

impl Helper for Configured {
    fn get(&self, host: &dyn Host, want: &Want) -> Result<Option<Credential>> {
        if let Some(entry) = host.kv_get(&key(&want.registry))? {
            let now = host.context().now;
            let kept = decode(&entry.value).filter(|c| c.expires.is_none_or(|end| end > now));
            if kept.is_some() {
                return Ok(kept);
            }
        }
        DockerAuths::parse(&host.config())?.get(&want.registry)
    }

    fn put(&self, host: &dyn Host, registry: &str, credential: &Credential) -> Result<()> {
        host.kv_set(&key(registry), &encode(credential)?)
    }

    fn erase(&self, host: &dyn Host, registry: &str) -> Result<()> {
        host.kv_remove(&key(registry))
    }

    fn entries(&self, host: &dyn Host) -> Result<Vec<(String, String)>> {
        let mut entries = Vec::new();
        let mut after = None;
        loop {
            let page = host.kv_scan("auth/", after.as_deref(), 100)?;
            for entry in page.entries {
                let user = match decode(&entry.value).map(|c| c.secret) {
                    Some(Secret::Password((user, _))) => user,
                    _ => String::new(),
                };
                entries.push((entry.key.trim_start_matches("auth/").to_owned(), user));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        for (registry, user) in DockerAuths::parse(&host.config())?.entries()? {
            if !entries.iter().any(|(known, _)| *known == registry) {
                entries.push((registry, user));
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use wharf_plugin_sdk::conformance::{self, Subject};

    use super::*;

    #[test]
    fn conforms() {
        conformance::credentials(&Subject::<dyn Helper>::new(|| Box::new(Configured)));
        let config = r#"{"auths": {"there.example": {"username": "me", "password": "secret"}}}"#;
        conformance::credentials(&Subject::<dyn Helper>::new(|| Box::new(Configured)).with_config(config));
    }
}

wharf_plugin_sdk::export!(credentials: Configured);
