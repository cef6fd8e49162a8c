//! Credentials for registries from the daemon's environment.
//!
//! `DOCKER_AUTH_CONFIG` holds the text of a Docker `config.json`; or `REGISTRY_HOST`, `REGISTRY_USERNAME` and
//! `REGISTRY_PASSWORD` are about one registry. The daemon hands these variables over as configuration, and no others.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use std::collections::BTreeMap;

use serde::Deserialize;
use wharf_plugin_sdk::credentials::{Credential, Helper, Secret, Want};
use wharf_plugin_sdk::docker_auths::DockerAuths;
use wharf_plugin_sdk::host::config;
use wharf_plugin_sdk::{Host, Result};

/// The helper.
#[derive(Debug, Default)]
pub struct Environment;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    variables: BTreeMap<String, String>,
}

impl Config {
    fn get(&self, name: &str) -> &str {
        self.variables.get(name).map(String::as_str).unwrap_or_default()
    }
}

impl Helper for Environment {
    fn get(&self, host: &dyn Host, want: &Want) -> Result<Option<Credential>> {
        let config: Config = config(host)?;
        if !config.get("REGISTRY_HOST").is_empty() && config.get("REGISTRY_HOST") == want.registry {
            let pair =
                (config.get("REGISTRY_USERNAME").to_owned(), config.get("REGISTRY_PASSWORD").to_owned());
            return Ok(Some(Credential { secret: Secret::Password(pair), expires: None }));
        }
        DockerAuths::parse(config.get("DOCKER_AUTH_CONFIG"))?.get(&want.registry)
    }

    fn entries(&self, host: &dyn Host) -> Result<Vec<(String, String)>> {
        let config: Config = config(host)?;
        let mut entries = DockerAuths::parse(config.get("DOCKER_AUTH_CONFIG"))?.entries()?;
        if !config.get("REGISTRY_HOST").is_empty() {
            entries
                .push((config.get("REGISTRY_HOST").to_owned(), config.get("REGISTRY_USERNAME").to_owned()));
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use wharf_plugin_sdk::conformance::{self, Subject};
    use wharf_plugin_sdk::credentials::Access;

    use super::*;

    #[test]
    fn conforms() {
        conformance::credentials(&Subject::<dyn Helper>::new(|| Box::new(Environment)));
    }

    #[test]
    fn variables() {
        let config = r#"{"variables": {"REGISTRY_HOST": "a:5000", "REGISTRY_USERNAME": "u", "REGISTRY_PASSWORD": "p",
            "DOCKER_AUTH_CONFIG": "{\"auths\": {\"b\": {\"auth\": \"bWU6c2VjcmV0\"}}}"}}"#;
        let subject = Subject::<dyn Helper>::new(|| Box::new(Environment)).with_config(config);
        for (registry, user) in [("a:5000", Some("u")), ("b", Some("me")), ("c", None)] {
            let want =
                Want { registry: registry.into(), repository: None, access: Access::Pull, challenge: None };
            let found = subject.host().call(|host| Environment.get(host, &want)).unwrap().map(|c| c.secret);
            match (found, user) {
                (Some(Secret::Password((found, _))), Some(user)) => assert_eq!(found, user),
                (None, None) => {}
                (found, _) => panic!("{registry}: {found:?}"),
            }
        }
    }
}

wharf_plugin_sdk::export!(credentials: Environment);
