//! Questions to registries that fetch no image: search, log in, what a name means there.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wharf_images::reference::Reference;
use wharf_registry::{Access, Credential, Document, Platform, Repository, Selector};

use super::{credential, explain};
use crate::error::{Error, Kind, Result};
use crate::{Engine, Filters};

/// Body of `POST /auth`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Login {
    /// Name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Registry; Docker's own if empty.
    pub serveraddress: String,
    /// Instead of name and password.
    pub identitytoken: String,
    /// Instead of everything else.
    pub registrytoken: String,
    /// Ignored, as it has been for years.
    pub email: String,
    /// Name and password in base 64; ignored here.
    pub auth: String,
}

/// Docker's name for its own registry where credentials are concerned.
const HUB: &str = "https://index.docker.io/v1/";
/// Results of a search if nobody says, and at most.
const RESULTS: (usize, usize) = (25, 100);

/// The host of a server address as users and clients write it.
fn host(address: &str) -> String {
    let bare = address.trim().trim_start_matches("https://").trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or_default();
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

impl Engine {
    /// `POST /auth`: whether a registry lets this user in; answers the token to keep instead of the password.
    pub async fn registry_login(&self, config: Login) -> Result<Value> {
        let address = if config.serveraddress.is_empty() { HUB } else { &config.serveraddress };
        let Login { username, password, identitytoken, registrytoken, .. } = &config;
        let own = Credential::of_parts(username, password, identitytoken, registrytoken);
        let repository = Repository { registry: host(address), path: String::new() };
        let session = self.inner.registries.load().session(repository, Access::Push, own, None).await?;
        let token = session.login().await.map_err(|e| {
            let kind = match e.kind() {
                wharf_registry::Kind::Unauthorized | wharf_registry::Kind::Denied => Kind::Unauthorized,
                _ => Kind::Internal,
            };
            Error::new(kind, format!("login attempt to {}/v2/ failed: {e}", address.trim_end_matches('/')))
        })?;
        Ok(json!({"Status": "Login Succeeded", "IdentityToken": token}))
    }

    /// `GET /images/search`.
    pub async fn image_search(
        &self,
        term: &str,
        limit: Option<i64>,
        filters: &Filters,
        headers: &HashMap<String, String>,
    ) -> Result<Value> {
        filters.only(&["is-automated", "is-official", "stars"])?;
        let limit = match limit {
            None | Some(0) => RESULTS.0,
            Some(n) => usize::try_from(n).ok().filter(|n| (1..=RESULTS.1).contains(n)).ok_or_else(|| {
                Error::invalid(format!("limit {n} is outside the range of [1, {}]", RESULTS.1))
            })?,
        };
        let official = filters.flag("is-official")?;
        let automated = filters.flag("is-automated")?;
        let stars = filters
            .get("stars")
            .iter()
            .map(|s| s.parse::<i64>().map_err(|_| Error::invalid(format!("invalid filter 'stars={s}'"))))
            .collect::<Result<Vec<_>>>()?;
        let (registry, words) = match term.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => ("docker.io", term),
        };
        if words.is_empty() || words.len() > 255 || words.chars().any(char::is_control) {
            return Err(Error::invalid("invalid search term"));
        }
        let found = self.inner.registries.load().search(registry, words, limit, credential(headers)?).await?;
        let shown: Vec<Value> = found
            .into_iter()
            .filter(|f| official.is_none_or(|o| o == f.is_official))
            .filter(|f| automated.is_none_or(|a| a == f.is_automated))
            .filter(|f| stars.iter().all(|s| f.star_count >= *s))
            .map(|f| {
                json!({
                    "name": f.name, "description": f.description.unwrap_or_default(), "star_count": f.star_count,
                    "is_official": f.is_official, "is_automated": f.is_automated,
                })
            })
            .collect();
        Ok(Value::Array(shown))
    }

    /// `GET /distribution/{}/json`.
    pub async fn distribution_inspect(&self, name: &str, headers: &HashMap<String, String>) -> Result<Value> {
        let reference = Reference::parse(name)?.or_latest();
        let session = self.remote(&reference, Access::Pull, credential(headers)?).await?;
        let selector = match &reference.digest {
            Some(digest) => Selector::Digest(digest.clone()),
            None => Selector::Tag(reference.tag.clone().unwrap_or_default()),
        };
        let root = session.manifest(&selector, None).await.map_err(|e| explain(e, &reference))?;
        let mut platforms: Vec<Value> = Vec::new();
        match &root.document {
            Document::Index(entries) => {
                for platform in
                    entries.iter().filter(|e| !e.is_statement()).filter_map(|e| e.platform.as_ref())
                {
                    platforms.push(serde_json::to_value(platform)?);
                }
            }
            Document::Image(image) => {
                let config = session.small(&image.config, wharf_registry::manifest::MAX_CONFIG).await?;
                if let Ok(platform) = serde_json::from_slice::<Platform>(&config) {
                    platforms.push(serde_json::to_value(platform)?);
                }
            }
        }
        let descriptor = root.descriptor();
        Ok(json!({
            "Descriptor": {
                "mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size,
            },
            "Platforms": platforms,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn addresses_of_logins() {
        for (address, wanted) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("http://reg.example:80/v2/", "reg.example:80"),
        ] {
            assert_eq!(host(address), wanted);
        }
    }
}
