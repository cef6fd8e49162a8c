//! Links: names under which a container finds others. The old kind, of the default network, is between containers and follows
//! them when they are renamed; that of an endpoint is a name looked up in its network.
//!
//! The old kind becomes lines of /etc/hosts, and so does the other one where the network's driver gives no names. What else an old link once did, variables about the other container, newer engines have
//! taken away.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wharf_store::Transaction;

use crate::Engine;
use crate::endpoints::split_cidr;
use crate::error::{Error, Result};
use crate::models::HostConfig;
use crate::planner::config;
use crate::planner::modes::NetworkMode;
use crate::planner::resolution::has_names;
use crate::record::{CONTAINERS, Definition, put};
use crate::registry::{Container, Now};

/// The network of old links.
const DEFAULT: &str = "bridge";

/// A link of the default network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Id of the other container.
    pub(crate) container: String,
    /// Its name here.
    pub(crate) alias: String,
}

/// Reads `name:alias`; the alias of a bare name is that name.
pub(crate) fn parse(text: &str) -> Result<(&str, &str)> {
    let bad = || Error::invalid(format!("bad format for links: {text}"));
    let (name, alias) = match text.split_once(':') {
        Some((name, alias)) => (name, alias),
        None => (text, text),
    };
    // As `inspect` shows it: what was inspected makes the same container again.
    let name = name.strip_prefix('/').unwrap_or(name);
    let alias = alias.rsplit('/').next().unwrap_or(alias);
    // It becomes a word of /etc/hosts.
    let word = |w: &str| !w.is_empty() && w.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if name.is_empty() || name.contains(['/', ':']) || !word(alias) {
        return Err(bad());
    }
    Ok((name, alias))
}

impl Engine {
    /// Finds the containers that a create request links to.
    pub(crate) fn wanted_links(&self, host: &HostConfig) -> Result<Vec<Link>> {
        let mut all: Vec<Link> = Vec::new();
        if !matches!(host.network_mode.as_deref(), Some("bridge" | "default" | "")) {
            // In a network of the user's they are the endpoint's, and lead to what may come later.
            return Ok(all);
        }
        for text in host.links.iter().flatten() {
            let (name, alias) = parse(text)?;
            // The request's fault: clients would take a 404 for a missing image.
            let mut other =
                self.inner.registry.find(name).map_err(|e| {
                    Error::invalid(format!("could not get container for {name}: {}", e.message))
                })?;
            // One that lives in another's network is reached there. They cannot go in circles: each needs its other first.
            for _ in 0..64 {
                let NetworkMode::Container(next) = other.now().blueprint.network.clone() else { break };
                other = self.inner.registry.find(&next).map_err(|e| {
                    Error::invalid(format!("could not get container for {next}: {}", e.message))
                })?;
            }
            if other.now().blueprint.network == NetworkMode::Host {
                return Err(Error::invalid(
                    "conflicting options: host type networking can't be used with links. This would result in \
                     undefined behavior",
                ));
            }
            let link = Link { container: other.id.to_string(), alias: alias.to_owned() };
            if all.iter().any(|known| known.alias == link.alias && *known != link) {
                return Err(Error::conflict(format!(
                    "Conflict. The container name \"{alias}\" is already in use by a link of this container"
                )));
            }
            if !all.contains(&link) {
                all.push(link);
            }
        }
        Ok(all)
    }

    /// The old links of a container, with what they lead to as it is now; those to containers that are gone lead nowhere.
    fn links(&self, def: &Definition) -> Vec<(Link, Arc<Now>)> {
        def.links
            .iter()
            .filter_map(|link| Some((link.clone(), self.inner.registry.get(&link.container)?.now())))
            .collect()
    }

    /// Refuses a start whose links lead to what does not run.
    pub(crate) fn check_links(&self, now: &Now) -> Result<()> {
        if !now.def.networks.contains_key(DEFAULT) {
            return Ok(());
        }
        for (link, other) in self.links(&now.def) {
            if !other.state.status.is_alive() {
                return Err(Error::invalid(format!(
                    "Cannot link to a non running container: /{} AS /{}/{}",
                    other.def.name, now.def.name, link.alias
                )));
            }
            if !other.def.networks.contains_key(DEFAULT) {
                return Err(Error::invalid(format!(
                    "Cannot link to /{}, as it does not belong to the default network",
                    other.def.name
                )));
            }
        }
        Ok(())
    }

    /// Lines for a container's /etc/hosts: names and address.
    pub(crate) fn link_hosts(&self, now: &Now) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        let mut add = |other: &Now, network: &str, names: &str| {
            for address in other.state.endpoints.get(network).iter().flat_map(|e| &e.addresses) {
                lines.push((names.to_owned(), split_cidr(address).0.to_owned()));
            }
        };
        if now.state.endpoints.contains_key(DEFAULT) {
            for (link, other) in self.links(&now.def) {
                let mut names =
                    format!("{} {}", link.alias, config::hostname(&other.def.config, &other.def.id));
                if link.alias != other.def.name {
                    names.push(' ');
                    names.push_str(&other.def.name);
                }
                add(&other, DEFAULT, &names);
            }
        }
        for (network, settings) in &now.def.networks {
            // Where containers ask for names, links are names like others.
            if network == DEFAULT || now.state.endpoints.get(network).is_none_or(has_names) {
                continue;
            }
            for (name, alias) in settings.links.iter().flatten().filter_map(|text| parse(text).ok()) {
                if let Ok(other) = self.inner.registry.find(name) {
                    add(&other.now(), network, alias);
                }
            }
        }
        lines
    }

    /// A container has another address, or none any more: those that are linked to it learn that.
    pub(crate) async fn tell_linked(&self, changed: &Now) {
        for container in self.inner.registry.all() {
            let now = container.now();
            let old = now.def.links.iter().any(|link| link.container == changed.def.id);
            let by_name = || {
                let mut texts = now.def.networks.values().flat_map(|s| s.links.iter().flatten());
                texts.any(|text| {
                    parse(text)
                        .is_ok_and(|(name, _)| name == changed.def.name || changed.def.id.starts_with(name))
                })
            };
            if now.state.status.is_alive()
                && (old || by_name())
                && let Err(error) = self.write_hosts(&now).await
            {
                tracing::warn!(%error, id = now.def.id, "links are not up to date");
            }
        }
    }

    /// `Links` of `inspect`, as Docker shows them.
    pub(crate) fn links_shown(&self, def: &Definition) -> Option<Vec<String>> {
        let all: Vec<String> = self
            .links(def)
            .into_iter()
            .map(|(link, other)| format!("/{}:/{}/{}", other.def.name, def.name, link.alias))
            .collect();
        if all.is_empty() { def.host.links.clone() } else { Some(all) }
    }

    /// All names of a container: those that links give it come first.
    pub(crate) fn all_names(&self, def: &Definition) -> Vec<String> {
        let mut names: Vec<String> = self
            .inner
            .registry
            .all()
            .iter()
            .flat_map(|container| {
                let other = container.now();
                let mine = other.def.links.iter().filter(|link| link.container == def.id);
                mine.map(|link| format!("/{}/{}", other.def.name, link.alias)).collect::<Vec<_>>()
            })
            .collect();
        names.push(format!("/{}", def.name));
        names
    }

    /// The container that a name is about; a link's name is about the container that has the link.
    pub(crate) fn linked(&self, name: &str) -> Result<Arc<Container>> {
        self.inner.registry.find(name).or_else(|error| {
            let bare = name.strip_prefix('/').unwrap_or(name);
            match bare.rsplit_once('/') {
                Some((parent, _)) if !parent.is_empty() => self.inner.registry.find(parent),
                _ => Err(error),
            }
        })
    }

    /// The container behind a link's name, so that what it is called in lists can be used.
    fn link(&self, name: &str) -> Result<(Arc<Container>, Link)> {
        let bare = name.strip_prefix('/').unwrap_or(name);
        let Some((parent, alias)) = bare.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) else {
            self.inner.registry.find(name)?;
            return Err(Error::conflict("Conflict, cannot remove the default link name of the container"));
        };
        let container = self.inner.registry.find(parent)?;
        let now = container.now();
        let link = now.def.links.iter().find(|link| link.alias == alias).cloned();
        link.map(|link| (container, link)).ok_or_else(|| Error::no_container(name))
    }

    /// `DELETE /containers/{parent}/{alias}?link=1`.
    pub(crate) async fn remove_link(&self, name: &str) -> Result<()> {
        let (container, link) = self.link(name)?;
        let _held = self.lock_present(&container, name).await?;
        let now = container.now();
        let mut def = (*now.def).clone();
        def.links.retain(|known| *known != link);
        let mut tx = Transaction::new();
        put(&mut tx, CONTAINERS, &def.id, &def)?;
        self.inner.store.commit(tx).await?;
        let new = Now { def: Arc::new(def), ..(*now).clone() };
        self.inner.registry.update(&container, new.clone());
        self.refresh_names(&link);
        if new.state.status.is_alive() {
            self.write_hosts(&new).await?;
        }
        Ok(())
    }

    /// The other end of a link has one name more or less.
    pub(crate) fn refresh_names(&self, link: &Link) {
        if let Some(other) = self.inner.registry.get(&link.container) {
            self.inner.registry.refresh(&other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_as_written() {
        assert_eq!(parse("db").unwrap(), ("db", "db"));
        assert_eq!(parse("db:x").unwrap(), ("db", "x"));
        assert_eq!(parse("/db:/web/x").unwrap(), ("db", "x"));
        for bad in ["", ":", ":x", "db:", "a:b:c", "a/b:x", "db:x y", "db:x\n6.6.6.6"] {
            let e = parse(bad).unwrap_err();
            assert_eq!(e.message, format!("bad format for links: {bad}"));
        }
    }
}
