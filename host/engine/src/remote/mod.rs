//! Images at registries: pull, push, search, log in, and what is known there of an image.

mod ask;
mod attestations;
pub mod cache;
mod choose;
mod pack;
mod progress;
mod pull;
mod push;
mod push_index;
mod push_layer;
mod relay;
mod remake;
mod serve;
mod signatures;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use wharf_images::reference::Reference;
use wharf_registry::{Access, Credential, Endpoint, Finder, Kind as RemoteKind, Repository, Session};

use crate::Engine;
use crate::error::{Error, Kind, Result};
use crate::settings::RegistrySettings;

pub use ask::Login;
pub use pack::Packing;
pub use pull::PullOptions;
pub use push::PushOptions;
pub use serve::Shelf;

impl From<wharf_registry::Error> for Error {
    fn from(e: wharf_registry::Error) -> Self {
        let kind = match e.kind() {
            RemoteKind::NotFound => Kind::NotFound,
            RemoteKind::Denied => Kind::Forbidden,
            // Docker does not answer 401 here: clients take that as a question for a login.
            RemoteKind::Invalid => Kind::Invalid,
            RemoteKind::Unsupported
            | RemoteKind::Unauthorized
            | RemoteKind::Limited
            | RemoteKind::Unavailable
            | RemoteKind::Broken
            | RemoteKind::Local => Kind::Internal,
        };
        Self::new(kind, e.to_string())
    }
}

/// A client with these settings.
pub(crate) fn client(settings: &RegistrySettings) -> wharf_registry::Registry {
    let user_agent = format!("docker/{} os/linux arch/{}", crate::VERSION, wharf_images::host_architecture());
    wharf_registry::Registry::new(wharf_registry::Settings {
        mirrors: settings.mirrors.clone(),
        insecure: settings.insecure.clone(),
        directories: settings.directories.clone(),
        proxy: wharf_registry::hosts::Proxy {
            http: settings.http_proxy.clone(),
            https: settings.https_proxy.clone(),
            none: settings.no_proxy.clone(),
        },
        attempts: u32::try_from(settings.download_attempts).unwrap_or(u32::MAX),
        stall: Duration::from_secs(settings.stall.max(1)),
        user_agent,
    })
}

/// The credential of `X-Registry-Auth`.
pub(crate) fn credential(headers: &HashMap<String, String>) -> Result<Credential> {
    Ok(headers.get("x-registry-auth").map_or(Ok(Credential::Anonymous), |h| Credential::of_header(h))?)
}

/// Twelve digits of a digest, as progress shows them.
pub(crate) fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// What a failure of a pull means, in Docker's words.
pub(crate) fn explain(e: wharf_registry::Error, reference: &Reference) -> Error {
    let text = match (e.code(), e.kind()) {
        (Some("DENIED"), _) => format!(
            "pull access denied for {}, repository does not exist or may require 'docker login': {e}",
            reference.familiar_name()
        ),
        (Some("MANIFEST_UNKNOWN"), _) => format!("manifest for {} not found: {e}", reference.familiar()),
        (Some("NAME_UNKNOWN"), _) => format!("repository {} not found: {e}", reference.familiar_name()),
        (_, RemoteKind::NotFound) if e.status().is_some() => {
            format!("manifest for {} not found: {e}", reference.familiar())
        }
        _ => return e.into(),
    };
    Error::not_found(text)
}

impl Engine {
    /// Begins a conversation about a repository.
    pub(crate) async fn remote(&self, name: &Reference, access: Access, own: Credential) -> Result<Session> {
        let repository = Repository::new(&name.domain, &name.path)?;
        Ok(self.inner.registries.load().session(repository, access, own, Some(self.finder())).await?)
    }

    /// What resolver plugins say of a reference: places to ask before the registry itself, and a digest to keep to.
    pub(crate) async fn places(
        &self,
        name: &Reference,
        platform: &str,
    ) -> Result<(Vec<Endpoint>, Option<String>)> {
        let reference = name.full();
        for resolver in self.inner.plugins.resolvers() {
            let call = wharf_plugins::Call::new(crate::planner::names::id());
            let Some(found) = resolver.resolve(&call, &reference, platform).await?.value else { continue };
            let endpoints = found.endpoints.into_iter().map(|e| {
                wharf_registry::hosts::elsewhere(&e.url, e.rewrite.as_deref(), e.headers, e.push)
                    .map_err(|error| Error::internal(format!("plugin {}: {error}", resolver.plugin())))
            });
            return Ok((endpoints.collect::<Result<_>>()?, found.pinned));
        }
        Ok((Vec::new(), None))
    }

    /// Asks the plugins that keep credentials.
    fn finder(&self) -> Finder {
        let engine = self.clone();
        Arc::new(move |registry, repository, access| {
            let engine = engine.clone();
            Box::pin(async move { Ok(engine.kept_credential(&registry, &repository, access).await) })
        })
    }

    async fn kept_credential(&self, registry: &str, repository: &str, access: Access) -> Option<Credential> {
        use wharf_plan::registry::{Access as Wanted, Secret, Want};
        let want = Want {
            registry: registry.to_owned(),
            repository: Some(repository.to_owned()).filter(|r| !r.is_empty()),
            access: if access == Access::Push { Wanted::Push } else { Wanted::Pull },
            challenge: None,
        };
        for helper in self.inner.plugins.credentials() {
            let call = wharf_plugins::Call::new(crate::planner::names::id());
            match helper.get(&call, &want).await {
                Ok(answer) => {
                    let Some(found) = answer.value else { continue };
                    return Some(match found.secret {
                        Secret::Password((user, password)) => Credential::Password(user, password),
                        Secret::IdentityToken(token) => Credential::IdentityToken(token),
                        Secret::Bearer(token) => Credential::Bearer(token),
                        Secret::Anonymous => Credential::Anonymous,
                    });
                }
                // One helper that fails must not keep public images from being pulled.
                Err(error) => tracing::warn!(%error, plugin = %helper.plugin(), "a credential helper failed"),
            }
        }
        None
    }
}
