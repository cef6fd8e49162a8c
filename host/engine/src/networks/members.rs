//! Networks of containers: coming into one and leaving it, also while they run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use wharf_store::Transaction;

use super::Object;
use crate::Engine;
use crate::error::{Context, Error, Result};
use crate::models::{EndpointSettings, NetworkConnectRequest, NetworkDisconnectRequest};
use crate::planner::names;
use crate::record::{self, Network, put};

impl Engine {
    /// `POST /networks/{id}/connect`.
    pub async fn network_connect(&self, reference: &str, body: NetworkConnectRequest) -> Result<()> {
        let object = self.inner.networks.find(reference)?;
        let record = object.record();
        let container = self.inner.registry.find(&body.container)?;
        let settings = body.endpoint_config.unwrap_or_default();
        let _held = self.lock_present(&container, &body.container).await?;
        let now = container.now();
        if matches!(record.name.as_str(), "host" | "none") {
            return Err(Error::forbidden(format!(
                "container cannot be connected to {} network",
                record.name
            )));
        }
        if !matches!(now.blueprint.network, crate::planner::modes::NetworkMode::Network(_)) {
            return Err(Error::forbidden(
                "container sharing network namespace with another container or host cannot be connected to any \
                 other network",
            ));
        }
        if now.def.networks.contains_key(&record.name) {
            return Err(Error::forbidden(format!(
                "endpoint with name {} already exists in network {}",
                now.def.name, record.name
            )));
        }
        self.attach_network(&container, &object, settings).await?;
        self.network_event(&record, "connect", &[("container", &container.id)]);
        Ok(())
    }

    /// `POST /networks/{id}/disconnect`.
    pub async fn network_disconnect(&self, reference: &str, body: NetworkDisconnectRequest) -> Result<()> {
        let object = self.inner.networks.find(reference)?;
        let record = object.record();
        let container = self.inner.registry.find(&body.container)?;
        let _held = self.lock_present(&container, &body.container).await?;
        let now = container.now();
        if !now.def.networks.contains_key(&record.name) {
            return Err(Error::forbidden(format!(
                "container {} is not connected to network {}",
                now.def.id, record.name
            )));
        }
        self.detach_network(&container, &record).await?;
        self.network_event(&record, "disconnect", &[("container", &container.id)]);
        Ok(())
    }

    /// The networks that a request names, under their own names.
    pub(crate) fn requested_networks(
        &self,
        mode: &crate::planner::modes::NetworkMode,
        asked: HashMap<String, EndpointSettings>,
    ) -> Result<BTreeMap<String, EndpointSettings>> {
        let mut all = BTreeMap::new();
        let crate::planner::modes::NetworkMode::Network(own) = mode else {
            for (name, settings) in asked {
                if let Ok(network) = self.inner.networks.find(&name) {
                    check_endpoint(&network.record(), &settings)?;
                }
            }
            return Ok(all);
        };
        for (name, settings) in asked {
            // As with Docker a network that is not there is the start's error: at create it would read as a missing image.
            let Ok(network) = self.inner.networks.find(&name) else {
                all.insert(name, settings);
                continue;
            };
            let record = network.record();
            check_endpoint(&record, &settings)?;
            if !matches!(record.driver.as_str(), "host" | "null") {
                all.insert(record.name.clone(), settings);
            }
        }
        let own = self.inner.networks.find(own).map_or_else(|_| own.clone(), |n| n.record().name.clone());
        all.entry(own).or_default();
        Ok(all)
    }

    /// Adds a network to a container; its lock is held. A running one gets its endpoint at once.
    async fn attach_network(
        &self,
        container: &crate::registry::Container,
        object: &Object,
        settings: EndpointSettings,
    ) -> Result<()> {
        let now = container.now();
        let record = object.record();
        check_endpoint(&record, &settings)?;
        let mut def = (*now.def).clone();
        def.networks.insert(record.name.clone(), settings.clone());
        let mut state = (*now.state).clone();
        let mut tx = Transaction::new();
        if state.status.is_alive() {
            let namespace = self.container_netns(&container.id).await?;
            let turn = Arc::clone(&object.turn).lock_owned().await;
            let mut planned = crate::endpoints::Planned::default();
            let at = free_place(&state);
            self.plan_endpoint(&now, object, &settings, at, false, &mut planned).await?;
            let (net, forwarder) = (self.inner.net.clone(), self.inner.forwarder.clone());
            let mut endpoints = planned.endpoints;
            let (endpoints, applied) = self
                .inner
                .pool
                .run(move || {
                    let applied = crate::endpoints::apply(&net, &forwarder, &mut endpoints, &namespace);
                    (endpoints, applied)
                })
                .await?;
            let holders = applied.map_err(|(id, e)| crate::endpoints::failure(&now.def.name, &id, &e))?;
            self.hold_ports(&container.id, holders).await;
            state.endpoints.extend(endpoints.clone());
            tx.merge(planned.kv);
            let written = put(&mut tx, record::STATES, &def.id, &state)
                .and_then(|()| put(&mut tx, record::CONTAINERS, &def.id, &def));
            let written = match written {
                Ok(()) => self.inner.store.commit(tx).await.map_err(Error::from),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                // What is not on record is taken away again: nobody else would.
                for endpoint in endpoints.into_values() {
                    self.take_endpoint(&container.id, endpoint).await.unwrap_or_else(|error| {
                        tracing::warn!(%error, id = %container.id, "an endpoint is not removed; the next sweep will");
                    });
                }
                return Err(error);
            }
            drop(turn);
        } else {
            put(&mut tx, record::CONTAINERS, &def.id, &def)?;
            self.inner.store.commit(tx).await?;
        }
        let new = crate::registry::Now {
            def: Arc::new(def),
            state: Arc::new(state),
            blueprint: Arc::clone(&now.blueprint),
        };
        self.inner.registry.update(container, new.clone());
        self.write_own_hosts(&new).await;
        if new.state.status.is_alive()
            && let Err(error) = self.turn_to_names(&now, &new).await
        {
            tracing::warn!(%error, id = new.def.id, "this container is not served names; it is from its next start on");
        }
        self.tell_linked(&new).await;
        Ok(())
    }

    /// Takes a network from a container; its lock is held.
    async fn detach_network(&self, container: &crate::registry::Container, record: &Network) -> Result<()> {
        let now = container.now();
        let mut def = (*now.def).clone();
        def.networks.remove(&record.name);
        let mut state = (*now.state).clone();
        let mut tx = Transaction::new();
        let mut turns = Vec::new();
        if let Some(endpoint) = state.endpoints.remove(&record.name) {
            let removed = self.take_endpoint(&container.id, endpoint.clone()).await;
            removed.doing(format_args!("cannot disconnect from network {}", record.name))?;
            let (kv, held) = self.release_addresses([&endpoint]).await;
            tx.merge(kv);
            turns = held;
        }
        put(&mut tx, record::STATES, &def.id, &state)?;
        put(&mut tx, record::CONTAINERS, &def.id, &def)?;
        self.inner.store.commit(tx).await?;
        drop(turns);
        let new = crate::registry::Now {
            def: Arc::new(def),
            state: Arc::new(state),
            blueprint: Arc::clone(&now.blueprint),
        };
        self.inner.registry.update(container, new.clone());
        self.write_own_hosts(&new).await;
        Ok(())
    }

    /// Takes an endpoint from a container that runs on.
    async fn take_endpoint(&self, id: &str, endpoint: record::Endpoint) -> Result<()> {
        let namespace = self.container_netns(id).await?;
        let (net, forwarder) = (self.inner.net.clone(), self.inner.forwarder.clone());
        let published = !endpoint.publishes.is_empty();
        let removed = self.inner.pool.run(move || {
            use std::os::fd::AsFd;
            let links = wharf_kernel::net::Links::Delete(namespace.as_fd());
            crate::endpoints::give_up(&forwarder, &endpoint);
            net.remove_endpoint(&endpoint.id, &endpoint.desired, links)
        });
        removed.await??;
        if published {
            self.release_ports(id).await;
        }
        Ok(())
    }

    /// The hosts file of a container whose networks have changed. That is done and on record, whatever becomes of the file.
    async fn write_own_hosts(&self, now: &crate::registry::Now) {
        if let Err(error) = self.write_hosts(now).await {
            tracing::warn!(%error, id = now.def.id, "the hosts file is not written; it is at the next start");
        }
    }

    /// The network namespace of a running container.
    pub(crate) async fn container_netns(&self, id: &str) -> Result<std::os::fd::OwnedFd> {
        let mut held = self.inner.keeper.fetch(id).await?;
        let mut find = |wanted: &str| {
            let at = held.iter().position(|(name, _)| name == wanted)?;
            Some(held.swap_remove(at).1)
        };
        if let Some(namespace) = find("netns") {
            return Ok(namespace);
        }
        // A keeper that took over from one that died holds its process, and no more.
        let pid =
            self.inner.registry.get(id).map(|container| container.now().state.pid).filter(|pid| *pid > 0);
        let found = find("pidfd").zip(pid).and_then(|(process, pid)| {
            let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).ok()?;
            // Its number was not another's when that was opened, as it is still there.
            wharf_kernel::sys::process::pidfd_send_signal(std::os::fd::AsFd::as_fd(&process), 0).ok()?;
            Some(namespace.into())
        });
        found.ok_or_else(|| Error::internal(format!("container {id} has no network namespace of its own")))
    }

    /// Lets go of the sockets that keep a container's ports from others: those of the one network that leads out of it.
    async fn release_ports(&self, id: &str) {
        let held = self.inner.keeper.fetch(id).await.unwrap_or_default();
        let names = held.into_iter().map(|(name, _)| name).filter(|name| name.starts_with("port-")).collect();
        if let Err(error) = self.inner.keeper.release(id, names).await {
            tracing::warn!(%error, id, "the ports of a network that was left are still held");
        }
    }

    /// Lets the keeper hold the sockets that keep a container's ports from others.
    pub(crate) async fn hold_ports(&self, id: &str, holders: Vec<std::os::fd::OwnedFd>) {
        if holders.is_empty() {
            return;
        }
        let named = holders.into_iter().map(|fd| (format!("port-{}", names::id()), fd)).collect();
        if let Err(error) = self.inner.keeper.hold(id, named).await {
            tracing::warn!(%error, id, "the ports of this container are not held by the keeper");
        }
    }
}

/// The first place among a container's networks that is free, by the name that its interface has: where the network with the way
/// out was left, the next one is that.
fn free_place(state: &record::State) -> usize {
    let taken = |at: &usize| {
        let name = format!("eth{at}");
        state.endpoints.values().any(|endpoint| endpoint.interfaces.contains(&name))
    };
    (0..=state.endpoints.len()).find(|at| !taken(at)).unwrap_or(state.endpoints.len())
}

fn check_endpoint(record: &Network, settings: &EndpointSettings) -> Result<()> {
    crate::planner::endpoint::check(settings)?;
    let Some(config) = &settings.ipam_config else { return Ok(()) };
    for (text, what) in [(&config.ipv4_address, "IPv4"), (&config.ipv6_address, "IPv6")] {
        let Some(ip) = text.as_deref().filter(|t| !t.is_empty()) else { continue };
        let good = ip.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_ipv6() == (what == "IPv6"));
        if !good {
            return Err(Error::invalid(format!("invalid {what} address: {ip}")));
        }
        if record.predefined {
            return Err(Error::invalid(format!(
                "invalid config for network {}: invalid endpoint settings:\nuser specified IP address is \
                 supported on user defined networks only",
                record.name
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Endpoint, State};

    #[test]
    fn the_first_place_that_is_free() {
        let with = |names: &[&str]| {
            let endpoint = |name: &&str| {
                (name.to_string(), Endpoint { interfaces: vec![name.to_string()], ..Endpoint::default() })
            };
            State { endpoints: names.iter().map(endpoint).collect(), ..State::default() }
        };
        let cases: [(&[&str], usize); 5] = [
            (&[], 0),
            (&["eth0", "eth1"], 2),
            (&["eth1"], 0),
            (&["eth0", "eth2"], 1),
            // An interface with a name of its own takes no place of that kind.
            (&["eth0", "wan0"], 1),
        ];
        for (names, place) in cases {
            assert_eq!(free_place(&with(names)), place, "{names:?}");
        }
    }
}
