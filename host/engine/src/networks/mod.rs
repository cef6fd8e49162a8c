//! Operations on networks.

mod members;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use wharf_plan::ipam::{AddressRequest, Family, PoolRequest, Purpose};
use wharf_plan::network as plan;
use wharf_plugins::Call;
use wharf_store::Transaction;

use crate::endpoints::{labels, split_cidr};
use crate::error::{Context, Error, Result};
use crate::models::{Ipam, IpamConfig, NetworkCreateRequest, NetworkCreateResponse, NetworkPruneResponse};
use crate::planner::names;
use crate::record::{NETWORKS, Network, NetworkPool, now, put, rfc3339};
use crate::{Engine, Filters};

/// One network in memory.
pub(crate) struct Object {
    record: ArcSwap<Network>,
    /// Held from asking for an address until the answer is recorded.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
}

impl Object {
    pub(crate) fn new(record: Network) -> Arc<Self> {
        Arc::new(Self { record: ArcSwap::from_pointee(record), turn: Arc::default() })
    }

    pub(crate) fn record(&self) -> Arc<Network> {
        self.record.load_full()
    }
}

/// All networks.
#[derive(Default)]
pub(crate) struct Networks {
    by_id: RwLock<BTreeMap<String, Arc<Object>>>,
    /// One creation or removal at a time: names and pools are given once.
    pub(crate) change: tokio::sync::Mutex<()>,
    /// Held from choosing a host port out of a range until it is applied.
    pub(crate) ranges: Arc<tokio::sync::Mutex<()>>,
}

impl Networks {
    pub(crate) fn insert(&self, object: &Arc<Object>) {
        let id = object.record().id.clone();
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(object));
    }

    pub(crate) fn remove(&self, id: &str) {
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Object>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Finds by id, name, or unique start of an id.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Object>> {
        let all = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(reference) {
            return Ok(Arc::clone(found));
        }
        let name = if reference == "default" { "bridge" } else { reference };
        if let Some(found) = all.values().find(|o| o.record().name == name) {
            return Ok(Arc::clone(found));
        }
        let mut matches = all.iter().filter(|(id, _)| !reference.is_empty() && id.starts_with(reference));
        match (matches.next(), matches.next()) {
            (Some((_, one)), None) => Ok(Arc::clone(one)),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {reference} is ambiguous (2 matches found on ID prefix)"
            ))),
            (None, _) => Err(Error::not_found(format!("network {reference} not found"))),
        }
    }
}

/// A network as plugins see it.
pub(crate) fn view(record: &Network) -> plan::Network {
    plan::Network {
        id: record.id.clone(),
        name: record.name.clone(),
        options: labels(&record.options),
        labels: labels(&record.labels),
        internal: record.internal,
        ipv4: record.ipv4,
        ipv6: record.ipv6,
        pools: record
            .pools
            .iter()
            .map(|p| plan::PoolBinding {
                pool: p.pool.cidr.clone(),
                gateway: p.gateway.as_ref().map(|g| split_cidr(&g.address).0.to_owned()),
                reserved: p
                    .reserved
                    .iter()
                    .map(|(name, lease)| (name.clone(), split_cidr(&lease.address).0.to_owned()))
                    .collect(),
            })
            .collect(),
        cookie: record.cookie.clone(),
    }
}

/// What planning a network came to.
struct Drafted {
    record: Network,
    kv: Transaction,
    said: Vec<(String, String)>,
}

fn sorted(map: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    map.unwrap_or_default().into_iter().collect()
}

/// Docker's word for a driver as plugins call it.
fn plugin_driver(driver: &str) -> &str {
    match driver {
        "" => "bridge",
        "null" => "none",
        other => other,
    }
}

impl Engine {
    /// Works out a network from a request: pools, gateways, plan. Changes nothing.
    async fn draft_network(&self, id: String, body: NetworkCreateRequest, dry_run: bool) -> Result<Drafted> {
        let driver_name = body.driver.unwrap_or_default();
        let driver = self.inner.plugins.network(plugin_driver(&driver_name)).map_err(|_| {
            Error::not_found(format!(
                "could not find plugin {driver_name} in v1 plugin registry: plugin not found"
            ))
        })?;
        let ipam = body.ipam.unwrap_or_default();
        let ipam_driver = ipam.driver.filter(|d| !d.is_empty()).unwrap_or_else(|| "default".into());
        let ipv4 = body.enable_ipv4.unwrap_or(true);
        let ipv6 = body.enable_ipv6.unwrap_or(false);
        let mut record = Network {
            id,
            name: body.name,
            driver: if driver_name.is_empty() { "bridge".into() } else { driver_name },
            created: now(),
            internal: body.internal.unwrap_or(false),
            attachable: body.attachable.unwrap_or(false),
            ipv4,
            ipv6,
            ipam_driver,
            ipam_options: sorted(ipam.options),
            options: sorted(body.options),
            labels: sorted(body.labels),
            ..Network::default()
        };
        let mut call = Call::new(names::id()).dry_run(dry_run).about(record.id.as_str());
        let mut kv = Transaction::new();
        let mut said = Vec::new();
        record.features = driver.capabilities(&call).await?.value.features;
        let need = driver.gateways(&call, &labels(&record.options)).await?;
        said.push(("gateways".to_owned(), need.plugin.to_string()));
        let need = need.value;
        let configs = ipam.config.unwrap_or_default();
        if need.ipv4 || need.ipv6 || !configs.is_empty() {
            let families = wanted_pools(&configs, ipv4 && need.ipv4, ipv6 && need.ipv6)?;
            let plugin = self.inner.plugins.ipam(&record.ipam_driver)?;
            let spaces = plugin.address_spaces(&call).await?.value;
            for (family, config) in families {
                let pool = plugin
                    .request_pool(
                        &call,
                        &PoolRequest {
                            space: spaces.local.clone(),
                            family,
                            pool: config.subnet.clone().filter(|s| !s.is_empty()),
                            sub_pool: config.ip_range.clone().filter(|s| !s.is_empty()),
                            exclude: self.subnets_in_use(),
                            options: labels(&record.ipam_options),
                            network_name: record.name.clone(),
                        },
                    )
                    .await?;
                call.after(&pool);
                kv.merge(pool.kv);
                said.push((format!("subnet {}", pool.value.cidr), pool.plugin.to_string()));
                let pool = pool.value;
                let ask = |purpose, wanted: Option<String>| AddressRequest {
                    pool: pool.clone(),
                    purpose,
                    wanted,
                    mac: None,
                    container: None,
                    sticky_key: None,
                    options: Vec::new(),
                };
                let mut reserved = Vec::new();
                for (name, address) in config.auxiliary_addresses.iter().flatten() {
                    let lease = plugin
                        .request_addresses(&call, &[ask(Purpose::Reserved, Some(address.clone()))])
                        .await?;
                    call.after(&lease);
                    kv.merge(lease.kv);
                    reserved.extend(lease.value.into_iter().map(|l| (name.clone(), l)));
                }
                let wanted = config
                    .gateway
                    .clone()
                    .filter(|g| !g.is_empty())
                    .or_else(|| pool.gateway.as_ref().map(|g| split_cidr(g).0.to_owned()));
                let lease = plugin.request_addresses(&call, &[ask(Purpose::Gateway, wanted)]).await?;
                call.after(&lease);
                kv.merge(lease.kv);
                record.pools.push(NetworkPool {
                    gateway: lease.value.into_iter().next(),
                    pool,
                    reserved,
                    range: config.ip_range.clone().filter(|s| !s.is_empty()),
                });
            }
        }
        // Whoever may make networks may name their links; one that is somebody else's is never taken over.
        let link = record.options.get("com.docker.network.bridge.name").filter(|name| !name.is_empty());
        let call = call.with_link(link.cloned());
        let planned = driver.plan_network(&call, &view(&record), &[]).await?;
        kv.merge(planned.kv);
        said.push(("network".to_owned(), planned.plugin.to_string()));
        record.cookie = planned.value.cookie;
        record.desired = Some(planned.value.state);
        Ok(Drafted { record, kv, said })
    }

    /// Prefixes that this host uses already: other networks' and the routes of the host.
    fn subnets_in_use(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .inner
            .networks
            .all()
            .iter()
            .flat_map(|n| n.record().pools.iter().map(|p| p.pool.cidr.clone()).collect::<Vec<_>>())
            .collect();
        all.extend(host_routes());
        all.sort();
        all.dedup();
        all
    }

    fn check_new_network(&self, body: &NetworkCreateRequest) -> Result<()> {
        names::network(&body.name)?;
        if matches!(body.name.as_str(), "bridge" | "host" | "none" | "default") {
            return Err(Error::forbidden(format!(
                "operation is not permitted on predefined {} network",
                body.name
            )));
        }
        if self.inner.networks.all().iter().any(|n| n.record().name == body.name) {
            return Err(Error::conflict(format!("network with name {} already exists", body.name)));
        }
        if matches!(body.driver.as_deref(), Some("host" | "null" | "none")) {
            let driver = body.driver.as_deref().unwrap_or("");
            return Err(Error::forbidden(format!("only one instance of \"{driver}\" network is allowed")));
        }
        if body.scope.as_deref() == Some("swarm")
            || body.ingress == Some(true)
            || body.config_only == Some(true)
        {
            return Err(Error::unsupported("a network of this scope"));
        }
        Ok(())
    }

    /// Applies a drafted network and writes it down.
    async fn make_network(&self, drafted: Drafted) -> Result<Arc<Object>> {
        let record = drafted.record;
        let mut tx = drafted.kv;
        put(&mut tx, NETWORKS, &record.id, &record)?;
        // Recorded first: what is applied without a record would be nobody's.
        self.inner.store.commit(tx).await?;
        if let Err(e) = self.apply_network(&record).await {
            self.forget_network(&record).await?;
            return Err(e);
        }
        let object = Object::new(record);
        self.inner.networks.insert(&object);
        Ok(object)
    }

    /// Makes the host's side of a network real.
    pub(crate) async fn apply_network(&self, record: &Network) -> Result<()> {
        let Some(desired) = record.desired.clone() else { return Ok(()) };
        let (net, id, name) = (self.inner.net.clone(), record.id.clone(), record.name.clone());
        let applied = self.inner.pool.run(move || net.apply_network(&id, None, &desired)).await?;
        let applied = applied.doing(format_args!("cannot set up network {name}"))?;
        for note in applied.notes {
            tracing::info!(network = record.name, note, "network");
        }
        Ok(())
    }

    /// Takes a network's record, addresses and pools out of the books.
    async fn forget_network(&self, record: &Network) -> Result<()> {
        let mut tx = Transaction::new();
        if let Ok(plugin) = self.inner.plugins.ipam(&record.ipam_driver) {
            let mut call = Call::new(names::id()).about(record.id.as_str());
            for p in &record.pools {
                match plugin.release_pool(&call, &p.pool).await {
                    Ok(answer) => {
                        call.after(&answer);
                        tx.merge(answer.kv);
                    }
                    // Removal never depends on a plugin.
                    Err(error) => tracing::warn!(%error, network = record.name, "pool not released"),
                }
            }
        }
        tx.delete(NETWORKS, &record.id);
        self.inner.store.commit(tx).await?;
        Ok(())
    }

    /// Makes the networks that always exist, those of them that are missing.
    pub(crate) async fn make_predefined(&self) -> Result<()> {
        for (name, driver) in [("bridge", "bridge"), ("host", "host"), ("none", "null")] {
            if let Ok(object) = self.inner.networks.find(name) {
                // The daemon's configuration may have changed since it was made.
                if name != "bridge" || !self.outdated(&object.record())? {
                    continue;
                }
                if self.members(&object.record()).is_empty() {
                    self.drop_network(&object).await?;
                } else {
                    tracing::warn!(
                        "the default network stays as it is until no container that runs is attached to it"
                    );
                    continue;
                }
            }
            if self.inner.plugins.network(plugin_driver(driver)).is_err() {
                tracing::warn!(network = name, "no plugin for this predefined network");
                continue;
            }
            let mut body = NetworkCreateRequest {
                name: name.to_owned(),
                driver: Some(driver.to_owned()),
                ..NetworkCreateRequest::default()
            };
            if name == "bridge" {
                body.options = Some(self.bridge_options());
                body.enable_ipv6 = Some(self.inner.settings().bridge_ipv6);
                body.ipam = Some(Ipam { config: Some(self.bridge_pools()?), ..Ipam::default() });
            } else {
                body.enable_ipv4 = Some(true);
            }
            let mut drafted = self.draft_network(names::id(), body, false).await?;
            drafted.record.predefined = true;
            if let Err(error) = self.make_network(drafted).await {
                tracing::warn!(%error, network = name, "predefined network not available");
            }
        }
        Ok(())
    }

    fn bridge_options(&self) -> HashMap<String, String> {
        let settings = self.inner.settings();
        let mtu = if settings.mtu == 0 { 1500 } else { settings.mtu };
        [
            ("com.docker.network.bridge.default_bridge", "true".to_owned()),
            ("com.docker.network.bridge.enable_icc", settings.icc.to_string()),
            ("com.docker.network.bridge.enable_ip_masquerade", settings.masquerade.to_string()),
            ("com.docker.network.bridge.host_binding_ipv4", settings.publish_address.clone()),
            (
                "com.docker.network.bridge.name",
                settings.bridge_name.clone().unwrap_or_else(|| "docker0".into()),
            ),
            ("com.docker.network.driver.mtu", mtu.to_string()),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect()
    }

    /// The default network's subnets: `--bip`, `--fixed-cidr`, `--default-gateway` and their kin for IPv6.
    fn bridge_pools(&self) -> Result<Vec<IpamConfig>> {
        let settings = self.inner.settings();
        let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        let text = settings.bridge_address.clone().unwrap_or_else(|| match &settings.bridge_range {
            // Docker takes the range's own network where no address of the bridge is said.
            Some(range) => range.clone(),
            None => "172.17.0.1/16".into(),
        });
        let (ip, length) = split_cidr(&text);
        let bad = || Error::invalid(format!("invalid bridge address {text:?}: 172.17.0.1/16 would be one"));
        let address: std::net::Ipv4Addr = ip.parse().map_err(|_| bad())?;
        if !(1..=30).contains(&length) {
            return Err(bad());
        }
        let mask = u32::MAX << (32 - length);
        let network = std::net::Ipv4Addr::from(u32::from(address) & mask);
        let own = (address != network).then(|| ip.to_owned());
        let mut pools = vec![IpamConfig {
            subnet: Some(format!("{network}/{length}")),
            gateway: given(&settings.bridge_gateway).or(own),
            ip_range: given(&settings.bridge_range),
            ..IpamConfig::default()
        }];
        if settings.bridge_ipv6
            && let Some(range) = given(&settings.bridge_range_v6)
        {
            pools.push(IpamConfig {
                subnet: Some(range),
                gateway: given(&settings.bridge_gateway_v6),
                ..IpamConfig::default()
            });
        }
        Ok(pools)
    }

    /// Options of networks of this driver where the request says nothing.
    fn network_defaults(&self, body: &mut NetworkCreateRequest) {
        let settings = self.inner.settings();
        let driver = body.driver.as_deref().filter(|d| !d.is_empty()).unwrap_or("bridge");
        let Some(defaults) = settings.network_options.get(driver) else { return };
        let options = body.options.get_or_insert_default();
        for (key, value) in defaults {
            options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }

    /// Names and endpoints of the containers in a network.
    fn members(&self, record: &Network) -> Vec<(String, String, crate::record::Endpoint)> {
        let mut all = Vec::new();
        for container in self.inner.registry.all() {
            let now = container.now();
            let endpoint = now.state.endpoints.get(&record.name).cloned();
            if let Some(endpoint) = endpoint.or_else(|| crate::bare::endpoint(&now, &record.name)) {
                all.push((now.def.id.clone(), now.def.name.clone(), endpoint));
            }
        }
        all
    }

    fn network_value(&self, record: &Network, with_members: bool) -> Value {
        let config: Vec<Value> = record
            .pools
            .iter()
            .map(|p| {
                let mut one = serde_json::Map::new();
                one.insert("Subnet".into(), json!(p.pool.cidr));
                if let Some(range) = &p.range {
                    one.insert("IPRange".into(), json!(range));
                }
                if let Some(gateway) = &p.gateway {
                    one.insert("Gateway".into(), json!(split_cidr(&gateway.address).0));
                }
                if !p.reserved.is_empty() {
                    let map: BTreeMap<_, _> = p
                        .reserved
                        .iter()
                        .map(|(n, l)| (n.clone(), split_cidr(&l.address).0.to_owned()))
                        .collect();
                    one.insert("AuxiliaryAddresses".into(), json!(map));
                }
                Value::Object(one)
            })
            .collect();
        let mut members = serde_json::Map::new();
        if with_members {
            for (id, name, e) in self.members(record) {
                let full =
                    |v6: bool| e.address(v6).map(|(ip, length)| format!("{ip}/{length}")).unwrap_or_default();
                members.insert(
                    id,
                    json!({
                        "Name": name, "EndpointID": e.id, "MacAddress": e.mac.clone().unwrap_or_default(),
                        "IPv4Address": full(false), "IPv6Address": full(true),
                    }),
                );
            }
        }
        let no_options = record.predefined && record.driver != "bridge";
        let ipam_options =
            if record.ipam_options.is_empty() { Value::Null } else { json!(record.ipam_options) };
        json!({
            "Name": record.name, "Id": record.id, "Created": rfc3339(record.created), "Scope": "local",
            "Driver": record.driver, "EnableIPv4": record.ipv4, "EnableIPv6": record.ipv6,
            "IPAM": {
                "Driver": record.ipam_driver, "Options": ipam_options,
                "Config": if config.is_empty() && no_options { Value::Null } else { json!(config) },
            },
            "Internal": record.internal, "Attachable": record.attachable, "Ingress": false,
            "ConfigFrom": {"Network": ""}, "ConfigOnly": false,
            "Containers": members, "Options": record.options, "Labels": record.labels,
        })
    }

    /// `GET /networks`.
    pub async fn network_list(&self, filters: &Filters) -> Result<Vec<Value>> {
        filters.only(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
        let dangling = filters.flag("dangling")?;
        let names = crate::list::Pattern::all(filters.get("name"));
        let any = |key: &str, test: &dyn Fn(&str) -> bool| {
            filters.get(key).is_empty() || filters.get(key).iter().any(|v| test(v))
        };
        for kind in filters.get("type") {
            if !matches!(kind.as_str(), "builtin" | "custom") {
                return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
            }
        }
        let mut list: Vec<Arc<Network>> = self.inner.networks.all().iter().map(|n| n.record()).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        let found = list
            .iter()
            .filter(|n| {
                any("driver", &|d| n.driver == d)
                    && any("id", &|id| n.id.contains(id))
                    && (names.is_empty() || names.iter().any(|p| p.matches(&n.name)))
                    && any("scope", &|scope| scope == "local")
                    && any("type", &|kind| (kind == "builtin") == n.predefined)
                    && filters.labels("label", |key| n.labels.get(key).map(String::as_str))
                    && dangling.is_none_or(|d| d == (!n.predefined && self.members(n).is_empty()))
            })
            .map(|n| self.network_value(n, false))
            .collect();
        std::future::ready(Ok(found)).await
    }

    /// `GET /networks/{id}`.
    pub async fn network_inspect(&self, reference: &str) -> Result<Value> {
        let record = self.inner.networks.find(reference)?.record();
        let mut value = self.network_value(&record, true);
        if let Some(map) = value.as_object_mut() {
            map.insert("Status".into(), self.network_status(&record));
        }
        std::future::ready(Ok(value)).await
    }

    /// How full a network's subnets are.
    fn network_status(&self, record: &Network) -> Value {
        let members = self.members(record);
        let given =
            || members.iter().flat_map(|(_, _, endpoint)| endpoint.addresses.iter().map(String::as_str));
        let mut subnets = serde_json::Map::new();
        for pool in &record.pools {
            let own = pool.gateway.iter().chain(pool.reserved.iter().map(|(_, lease)| lease));
            let own = own.map(|lease| lease.address.as_str());
            let range = pool.range.as_deref();
            if let Some((used, free)) =
                crate::planner::usage::subnet(&pool.pool.cidr, range, own.chain(given()))
            {
                subnets
                    .insert(pool.pool.cidr.clone(), json!({"IPsInUse": used, "DynamicIPsAvailable": free}));
            }
        }
        json!({"IPAM": {"Subnets": subnets}})
    }

    /// `POST /networks/create`.
    pub async fn network_create(&self, mut body: NetworkCreateRequest) -> Result<NetworkCreateResponse> {
        let _one = self.inner.networks.change.lock().await;
        self.check_new_network(&body)?;
        self.network_defaults(&mut body);
        let drafted = self.draft_network(names::id(), body, false).await?;
        let object = self.make_network(drafted).await?;
        let record = object.record();
        self.network_event(&record, "create", &[]);
        Ok(NetworkCreateResponse { id: record.id.clone(), warning: String::new() })
    }

    /// `POST /networks/create?plan=1`.
    pub async fn network_plan(&self, mut body: NetworkCreateRequest) -> Result<Value> {
        self.check_new_network(&body)?;
        self.network_defaults(&mut body);
        let drafted = self.draft_network(names::id(), body, true).await?;
        let said: Vec<_> =
            drafted.said.iter().map(|(what, plugin)| json!({"What": what, "Plugin": plugin})).collect();
        Ok(json!({
            "Network": self.network_value(&drafted.record, false),
            "State": drafted.record.desired,
            "Decisions": said,
        }))
    }

    pub(crate) fn network_event(&self, record: &Network, action: &str, more: &[(&str, &str)]) {
        let mut attributes: HashMap<String, String> =
            [("name".to_owned(), record.name.clone()), ("type".to_owned(), record.driver.clone())].into();
        attributes.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        self.inner.events.publish("network", action, &record.id, attributes);
    }

    /// `DELETE /networks/{id}`.
    pub async fn network_remove(&self, reference: &str) -> Result<()> {
        let _one = self.inner.networks.change.lock().await;
        let object = self.inner.networks.find(reference)?;
        let record = object.record();
        if record.predefined {
            return Err(Error::forbidden(format!(
                "{} is a pre-defined network and cannot be removed",
                record.name
            )));
        }
        // No start may join while it goes.
        let _turn = object.turn.lock().await;
        if let Some((_, name, endpoint)) = self.members(&record).into_iter().next() {
            return Err(Error::forbidden(format!(
                "error while removing network: network {} has active endpoints (name:\"{name}\" id:\"{}\")",
                record.name,
                names::short(&endpoint.id)
            )));
        }
        self.drop_network(&object).await?;
        self.network_event(&record, "destroy", &[]);
        Ok(())
    }

    /// Takes a network that nobody uses out of the books and off the host.
    async fn drop_network(&self, object: &Object) -> Result<()> {
        let record = object.record();
        self.inner.networks.remove(&record.id);
        self.forget_network(&record).await?;
        if let Some(desired) = record.desired.clone() {
            let (net, id) = (self.inner.net.clone(), record.id.clone());
            if let Err(error) = self.inner.pool.run(move || net.remove_network(&id, &desired)).await? {
                tracing::warn!(%error, network = record.name, "network not fully removed; the next sweep will");
            }
        }
        Ok(())
    }

    /// The default network is not what the configuration wants now.
    fn outdated(&self, record: &Network) -> Result<bool> {
        let options: BTreeMap<String, String> = self.bridge_options().into_iter().collect();
        let wanted = self.bridge_pools()?;
        let same_pools = wanted.iter().all(|w| {
            record.pools.iter().any(|p| {
                let gateway = p.gateway.as_ref().map(|g| split_cidr(&g.address).0);
                w.subnet.as_deref() == Some(p.pool.cidr.as_str())
                    && w.ip_range == p.range
                    && w.gateway.as_deref().is_none_or(|g| gateway == Some(g))
            })
        });
        Ok(record.options != options || record.ipv6 != self.inner.settings().bridge_ipv6 || !same_pools)
    }

    /// `POST /networks/prune`.
    pub async fn network_prune(&self, filters: &Filters) -> Result<NetworkPruneResponse> {
        filters.only(&["label", "label!", "until"])?;
        let until = crate::list::until(filters)?;
        let mut deleted = Vec::new();
        for object in self.inner.networks.all() {
            let record = object.record();
            let find = |key: &str| record.labels.get(key).map(String::as_str);
            let used =
                self.inner.registry.all().iter().any(|c| c.now().def.networks.contains_key(&record.name));
            if record.predefined
                || used
                || !filters.labels("label", find)
                || (!filters.get("label!").is_empty() && filters.labels("label!", find))
                || until.is_some_and(|u| record.created > u)
            {
                continue;
            }
            match self.network_remove(&record.id).await {
                Ok(()) => deleted.push(record.name.clone()),
                Err(error) => tracing::warn!(%error, network = record.name, "not pruned"),
            }
        }
        self.inner.events.publish("network", "prune", "", HashMap::new());
        Ok(NetworkPruneResponse { networks_deleted: Some(deleted) })
    }
}

/// The pools that a request wants, in its order; one of each family that is needed and not given.
fn wanted_pools(configs: &[IpamConfig], ipv4: bool, ipv6: bool) -> Result<Vec<(Family, IpamConfig)>> {
    let mut all = Vec::new();
    for config in configs {
        let subnet = config.subnet.as_deref().unwrap_or("");
        let family = if subnet.contains(':') { Family::Ipv6 } else { Family::Ipv4 };
        if !subnet.is_empty() {
            let (ip, length) = split_cidr(subnet);
            let address = ip.parse::<std::net::IpAddr>();
            let most = if family == Family::Ipv6 { 128 } else { 32 };
            if address.is_err() || !(1..=most).contains(&length) {
                return Err(Error::invalid(format!("invalid subnet {subnet}: invalid CIDR block notation")));
            }
        }
        all.push((family, config.clone()));
    }
    for (family, need) in [(Family::Ipv4, ipv4), (Family::Ipv6, ipv6)] {
        if need && !all.iter().any(|(f, _)| *f == family) {
            all.push((family, IpamConfig::default()));
        }
    }
    Ok(all)
}

/// Destinations of the host's IPv4 routes, so that a new subnet does not hide a network that is in use.
fn host_routes() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let destination = u32::from_str_radix(words.nth(1)?, 16).ok()?.swap_bytes();
            let mask = u32::from_str_radix(words.nth(5)?, 16).ok()?.swap_bytes();
            let length = mask.leading_ones();
            (length > 0).then(|| format!("{}/{length}", std::net::Ipv4Addr::from(destination)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_wanted() {
        let config = |subnet: &str| IpamConfig { subnet: Some(subnet.into()), ..IpamConfig::default() };
        let families = |configs: &[IpamConfig], v4, v6| -> Vec<Family> {
            wanted_pools(configs, v4, v6).unwrap().into_iter().map(|(f, _)| f).collect()
        };
        assert_eq!(families(&[], true, false), [Family::Ipv4]);
        assert_eq!(families(&[config("fd00::/64")], true, true), [Family::Ipv6, Family::Ipv4]);
        for bad in ["x", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/129"] {
            assert!(wanted_pools(&[config(bad)], true, false).is_err(), "{bad}");
        }
    }
}
