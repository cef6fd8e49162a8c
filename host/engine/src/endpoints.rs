//! A container's places in networks: planned by plugins, applied by the kernel crate, undone from the record.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use wharf_forward::Forwarder;
use wharf_kernel::net;
use wharf_plan::ipam::{AddressRequest, Purpose};
use wharf_plan::net::{Address, Desired, Forward, Site};
use wharf_plan::network as plan;
use wharf_plan::types::{ContainerRef, Labels};
use wharf_plugins::Call;
use wharf_store::Transaction;

use crate::error::{Error, Kind, Result};
use crate::models::EndpointSettings;
use crate::planner::modes::NetworkMode;
use crate::planner::resolution::has_names;
use crate::planner::{config, names, ports};
use crate::record::{Definition, Endpoint, State};
use crate::registry::Now;
use crate::{Engine, networks};

/// Sorted pairs, as plugins take them.
pub(crate) fn labels<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> Labels {
    let mut all: Labels = map.into_iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    all.sort();
    all
}

/// A container as plugins see it.
pub(crate) fn container_ref(def: &Definition) -> ContainerRef {
    ContainerRef {
        id: def.id.clone(),
        name: def.name.clone(),
        hostname: config::hostname(&def.config, &def.id),
        image: def.image_name.clone(),
        image_digest: Some(def.image.clone()),
        labels: labels(def.config.labels.iter().flatten()),
        group: def.config.labels.as_ref().and_then(|l| l.get("com.docker.compose.project").cloned()),
    }
}

/// Splits `10.0.0.2/16`.
pub(crate) fn split_cidr(cidr: &str) -> (&str, i64) {
    match cidr.split_once('/') {
        Some((ip, length)) => (ip, length.parse().unwrap_or(0)),
        None => (cidr, 0),
    }
}

impl Endpoint {
    /// Its first address of a family.
    pub(crate) fn address(&self, v6: bool) -> Option<(&str, i64)> {
        self.addresses.iter().map(|a| split_cidr(a)).find(|(ip, _)| ip.contains(':') == v6)
    }
}

/// Endpoints of one start, with what the plugins staged.
#[derive(Default)]
pub(crate) struct Planned {
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    pub(crate) kv: Transaction,
    /// Plugin names for reports, in order.
    pub(crate) said: Vec<(String, String)>,
    /// Held until what was staged is committed, so that two starts do not get one address.
    pub(crate) turns: Vec<tokio::sync::OwnedMutexGuard<()>>,
    /// Held until what was planned is applied, so that two starts do not choose one port out of a range.
    pub(crate) ranges: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Engine {
    /// The networks that a start attaches to, the one with the way out first.
    pub(crate) fn wanted_networks(
        &self,
        now: &Now,
    ) -> Result<Vec<(Arc<networks::Object>, EndpointSettings)>> {
        if !matches!(now.blueprint.network, NetworkMode::Network(_)) {
            return Ok(Vec::new());
        }
        let mut wanted = Vec::new();
        for (name, settings) in &now.def.networks {
            wanted.push((self.inner.networks.find(name)?, settings.clone()));
        }
        // Highest priority first; the network of the mode itself wins among equals.
        let NetworkMode::Network(mode) = &now.blueprint.network else { return Ok(wanted) };
        wanted.sort_by_key(|(network, settings)| {
            let record = network.record();
            let own = record.name == *mode || record.id == *mode;
            (std::cmp::Reverse(settings.gw_priority.unwrap_or(0)), !own, record.name.clone())
        });
        // Locks are taken in this order everywhere.
        Ok(wanted)
    }

    /// Asks the plugins for addresses and plans. Nothing is applied or recorded.
    pub(crate) async fn plan_endpoints(&self, now: &Now, dry_run: bool) -> Result<Planned> {
        let wanted = self.wanted_networks(now)?;
        let mut planned = Planned::default();
        if !dry_run {
            let mut order: Vec<_> = wanted.iter().map(|(n, _)| Arc::clone(n)).collect();
            order.sort_by(|a, b| a.record().id.cmp(&b.record().id));
            for network in order {
                planned.turns.push(Arc::clone(&network.turn).lock_owned().await);
            }
        }
        for (at, (network, settings)) in wanted.iter().enumerate() {
            self.plan_endpoint(now, network, settings, at, dry_run, &mut planned).await?;
        }
        Ok(planned)
    }

    /// One endpoint. `at` is its place among the container's, which names its interface.
    pub(crate) async fn plan_endpoint(
        &self,
        now: &Now,
        network: &networks::Object,
        settings: &EndpointSettings,
        at: usize,
        dry_run: bool,
        planned: &mut Planned,
    ) -> Result<()> {
        let record = network.record();
        let who = container_ref(&now.def);
        let mut call = Call::new(names::id()).dry_run(dry_run).about(now.def.id.as_str());
        call.pending.merge(planned.kv.clone());
        // The plan may join the network's own links, and only those.
        call.network = record.desired.clone().map(Arc::new);
        let mac = settings.mac_address.clone().filter(|m| !m.is_empty());
        let wanted = |v6: bool| {
            settings.ipam_config.as_ref().and_then(|c| {
                let ip = if v6 { &c.ipv6_address } else { &c.ipv4_address };
                ip.clone().filter(|ip| !ip.is_empty())
            })
        };
        let requests: Vec<AddressRequest> = record
            .pools
            .iter()
            .map(|p| AddressRequest {
                pool: p.pool.clone(),
                purpose: Purpose::Endpoint,
                wanted: wanted(p.pool.cidr.contains(':')),
                mac: mac.clone(),
                container: Some(who.clone()),
                sticky_key: Some(now.def.name.clone()),
                options: Vec::new(),
            })
            .collect();
        let mut leases = Vec::new();
        if !requests.is_empty() {
            let ipam = self.inner.plugins.ipam(&record.ipam_driver)?;
            let answer = ipam.request_addresses(&call, &requests).await.map_err(|e| {
                Error::from(e).context(format_args!(
                    "no address for container {} in network {}",
                    now.def.name, record.name
                ))
            })?;
            call.after(&answer);
            planned.kv.merge(answer.kv);
            planned.said.push((format!("addresses in {}", record.name), answer.plugin.to_string()));
            leases = record.pools.iter().map(|p| p.pool.clone()).zip(answer.value).collect();
        }
        let addresses: Vec<String> = leases.iter().map(|(_, l)| l.address.clone()).collect();
        let address = |v6: bool| addresses.iter().map(|a| split_cidr(a).0).find(|ip| ip.contains(':') == v6);
        // Ports are published on the way out only.
        let publishes = if at == 0 && !now.blueprint.ports.is_empty() {
            let (v4, v6) = (address(false), address(true));
            let families = self.families(&record, v4.is_some(), v6.is_some());
            let chosen = self.choose_ports(now, families, dry_run, planned).await?;
            ports::publishes(&chosen, families, v4, v6)
        } else {
            Vec::new()
        };
        let asked = Asked { addresses: addresses.clone(), mac, publishes };
        let request = request(now, settings, at, names::id(), asked)?;
        let driver = self.inner.plugins.network(&record.driver)?;
        let answer = driver.plan_endpoint(&call, &networks::view(&record), &request, &[]).await?;
        planned.kv.merge(answer.kv);
        planned.said.push((format!("endpoint in {}", record.name), answer.plugin.to_string()));
        let mut plan = answer.value;
        settle(&mut plan.state, settings)?;
        let endpoint = Endpoint {
            id: request.id,
            network: record.id.clone(),
            plugin: answer.plugin.to_string(),
            addresses: if plan.addresses.is_empty() { addresses } else { plan.addresses },
            mac: plan.mac,
            gateway_v4: plan.gateway_v4,
            gateway_v6: plan.gateway_v6,
            publishes: plan.state.publishes.clone(),
            desired: plan.state,
            leases,
            cookie: plan.cookie,
            interfaces: Vec::new(),
        };
        planned.endpoints.insert(record.name.clone(), endpoint);
        Ok(())
    }

    /// What a container's ports can be published on: its driver has to know of publishing across families, and the
    /// configuration to let a program carry that.
    fn families(&self, record: &crate::record::Network, v4: bool, v6: bool) -> ports::Families {
        let across = record.features.iter().any(|feature| feature == ports::ACROSS);
        ports::Families {
            v4,
            v6,
            across: across && self.inner.settings().userland_proxy,
            host_v6: self.inner.net.has_ipv6(),
        }
    }

    /// Ports of the host for a container's bindings: of each range the first one that is free. No other start chooses from a
    /// range until `planned` is dropped.
    async fn choose_ports(
        &self,
        now: &Now,
        families: ports::Families,
        dry_run: bool,
        planned: &mut Planned,
    ) -> Result<Vec<ports::Binding>> {
        if !ports::has_ranges(&now.blueprint.ports) {
            return Ok(now.blueprint.ports.clone());
        }
        if !dry_run {
            planned.ranges = Some(Arc::clone(&self.inner.networks.ranges).lock_owned().await);
        }
        let (net, blueprint) = (self.inner.net.clone(), Arc::clone(&now.blueprint));
        let choosing = move || {
            ports::choose(&blueprint.ports, families, |protocol, hosts, range, taken| {
                net.first_free_port(protocol, hosts, range, taken)
            })
        };
        self.inner.pool.run(choosing).await
    }

    /// The state of a running container under another name: what the drivers say that its endpoints are called then. None:
    /// as before. Where a driver cannot say it, the container cannot be renamed: it would be one thing to clients and another to
    /// its neighbours.
    pub(crate) async fn renamed(&self, now: &Now) -> Result<Option<State>> {
        if !now.state.status.is_alive() || !now.state.endpoints.values().any(has_names) {
            return Ok(None);
        }
        let mut state = (*now.state).clone();
        for (at, (network, settings)) in self.wanted_networks(now)?.iter().enumerate() {
            let record = network.record();
            let Some(endpoint) = state.endpoints.get_mut(&record.name).filter(|e| has_names(e)) else {
                continue;
            };
            let asked = Asked {
                addresses: endpoint.addresses.clone(),
                mac: endpoint.mac.clone(),
                publishes: endpoint.publishes.clone(),
            };
            let mut call = Call::new(names::id()).dry_run(true).about(now.def.id.as_str());
            call.network = record.desired.clone().map(Arc::new);
            let planned = async {
                let request = request(now, settings, at, endpoint.id.clone(), asked)?;
                let driver = self.inner.plugins.network(&record.driver)?;
                Ok::<_, Error>(driver.plan_endpoint(&call, &networks::view(&record), &request, &[]).await?)
            };
            let answer = planned.await.map_err(|error| {
                error.context(format_args!(
                    "cannot rename container {}: its name in network {} cannot be changed",
                    now.def.id, record.name
                ))
            })?;
            // Nothing but the names: the rest is applied, and has not changed.
            endpoint.desired.dns = answer.value.state.dns;
        }
        Ok(Some(state))
    }

    /// Releases the addresses of endpoints in the plugins' books; the transaction goes with the record that says so.
    pub(crate) async fn release_addresses<'a>(
        &self,
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
    ) -> (Transaction, Vec<tokio::sync::OwnedMutexGuard<()>>) {
        let mut kv = Transaction::new();
        let mut turns = Vec::new();
        let mut endpoints: Vec<&Endpoint> = endpoints.into_iter().filter(|e| !e.leases.is_empty()).collect();
        endpoints.sort_by(|a, b| a.network.cmp(&b.network));
        for endpoint in endpoints {
            let Ok(network) = self.inner.networks.find(&endpoint.network) else { continue };
            turns.push(Arc::clone(&network.turn).lock_owned().await);
            let Ok(ipam) = self.inner.plugins.ipam(&network.record().ipam_driver) else { continue };
            for (pool, lease) in &endpoint.leases {
                let mut call = Call::new(names::id()).about(endpoint.id.as_str());
                call.pending.merge(kv.clone());
                match ipam.release_addresses(&call, pool, std::slice::from_ref(lease)).await {
                    Ok(answer) => {
                        kv.merge(answer.kv);
                    }
                    // A broken plugin never holds up an end; `reconcile` finds the lease later.
                    Err(error) => tracing::warn!(%error, address = lease.address, "address not released"),
                }
            }
        }
        (kv, turns)
    }
}

/// What is known of an endpoint before its driver is asked.
struct Asked {
    addresses: Vec<String>,
    mac: Option<String>,
    publishes: Vec<wharf_plan::net::Publish>,
}

/// What a driver is asked.
fn request(
    now: &Now,
    settings: &EndpointSettings,
    at: usize,
    id: String,
    asked: Asked,
) -> Result<plan::Endpoint> {
    let interface = crate::planner::endpoint::interface(settings)?;
    Ok(plan::Endpoint {
        id,
        container: container_ref(&now.def),
        addresses: asked.addresses,
        mac: asked.mac,
        interface_name: Some(interface.map_or_else(|| format!("eth{at}"), str::to_owned)),
        aliases: settings.aliases.clone().unwrap_or_default(),
        options: labels(settings.driver_opts.iter().flatten()),
        publishes: asked.publishes,
        gateway_v4: at == 0,
        gateway_v6: at == 0,
        cookie: Vec::new(),
    })
}

/// Puts what was asked of any network's interface, whatever its driver, into the plan: kernel parameters and link-local
/// addresses.
fn settle(state: &mut Desired, settings: &EndpointSettings) -> Result<()> {
    let sysctls = crate::planner::endpoint::sysctls(settings)?;
    let local: Vec<&String> = settings.ipam_config.iter().flat_map(|c| &c.link_local_ips).flatten().collect();
    let mut own = None;
    for (index, link) in (0..).zip(&mut state.links) {
        if link.site != Site::Container {
            continue;
        }
        own.get_or_insert(index);
        link.sysctls.retain(|(key, _)| !sysctls.iter().any(|(other, _)| other == key));
        link.sysctls.extend(sysctls.iter().cloned());
    }
    let Some(link) = own else { return Ok(()) };
    for ip in local {
        let length = if ip.contains(':') { 64 } else { 16 };
        state.addresses.push(Address { link, cidr: format!("{ip}/{length}"), no_dad: true });
    }
    Ok(())
}

/// Makes the endpoints real in a namespace. On failure those already made are undone.
pub(crate) fn apply(
    network: &net::Net,
    forwarder: &Forwarder,
    endpoints: &mut BTreeMap<String, Endpoint>,
    namespace: &OwnedFd,
) -> Result<Vec<OwnedFd>, (String, net::Error)> {
    let mut holders = Vec::new();
    let mut done: Vec<String> = Vec::new();
    let mut failed = None;
    for (name, endpoint) in endpoints.iter_mut() {
        match network.apply_endpoint(&endpoint.id, None, &endpoint.desired, namespace.as_fd()) {
            Ok(applied) => {
                done.push(name.clone());
                endpoint.publishes = applied.publishes;
                endpoint.interfaces = applied.interfaces;
                if endpoint.mac.is_none() {
                    endpoint.mac = applied.macs.into_iter().next();
                }
                holders.extend(applied.holders);
                if let Err(e) = carry(forwarder, &endpoint.id, applied.carried) {
                    failed = Some((endpoint.id.clone(), e));
                    break;
                }
            }
            Err(e) => {
                failed = Some((endpoint.id.clone(), e));
                break;
            }
        }
    }
    let Some(failure) = failed else { return Ok(holders) };
    for name in done {
        if let Some(endpoint) = endpoints.get(&name) {
            undo(network, forwarder, endpoint);
        }
    }
    Err(failure)
}

/// Has the forwarder take what comes to these listeners.
fn carry(
    forwarder: &Forwarder,
    id: &str,
    carried: Vec<(Forward, OwnedFd)>,
) -> std::result::Result<(), net::Error> {
    let Some(first) = carried.first().map(|(forward, _)| forward.to_string()) else { return Ok(()) };
    forwarder.add(id, carried).map_err(|e| net::Error::Carry(first, e.to_string()))
}

/// Takes an endpoint away whose namespace goes too.
pub(crate) fn undo(network: &net::Net, forwarder: &Forwarder, endpoint: &Endpoint) {
    give_up(forwarder, endpoint);
    if let Err(error) = network.remove_endpoint(&endpoint.id, &endpoint.desired, net::Links::DieWithNamespace)
    {
        tracing::warn!(%error, endpoint = endpoint.id, "endpoint not fully removed; the next sweep will");
    }
}

/// Ends what is carried for an endpoint. One for which nothing is does not wait for a forwarder that is busy.
pub(crate) fn give_up(forwarder: &Forwarder, endpoint: &Endpoint) {
    if !wharf_plan::net::forwards(&endpoint.publishes).is_empty() {
        forwarder.remove(&endpoint.id);
    }
}

/// What a client is told when an endpoint could not be made.
pub(crate) fn failure(container: &str, endpoint: &str, error: &net::Error) -> Error {
    let ports = matches!(error, net::Error::Bind(..) | net::Error::Allocated { .. } | net::Error::Carry(..));
    let text = if ports {
        format!(
            "failed to set up container networking: driver failed programming external connectivity on endpoint \
             {container} ({endpoint}): {error}"
        )
    } else {
        format!("failed to set up container networking: {error}")
    };
    Error::new(Kind::Internal, text)
}
