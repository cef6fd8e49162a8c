//! Which names a container has in its networks, and whom it asks for others.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use wharf_dns::{Place, Presence, Record, Servers, Upstream};

use super::files::{self, Resolver};
use crate::record::{Endpoint, Network};
use crate::registry::Now;

/// Whether the driver of this endpoint's network gives names: then containers find each other by them.
pub(crate) fn has_names(endpoint: &Endpoint) -> bool {
    !endpoint.desired.dns.is_empty()
}

/// What a driver says of the resolver of its containers; of several networks the first one that says something.
pub(crate) fn of_drivers(now: &Now, networks: &[Arc<Network>]) -> Resolver {
    let mut endpoints = networks.iter().filter_map(|network| now.state.endpoints.get(&network.name));
    let said = endpoints.find_map(|endpoint| endpoint.desired.resolver.clone());
    said.map(|r| Resolver { servers: r.servers, search: r.search, options: r.options }).unwrap_or_default()
}

/// All that is to be known of a container that runs. `networks` are those it is in, the one with the way out first; `given`
/// is what it, the daemon's configuration and its networks' drivers say of its resolver, `host` what the host's says.
pub(crate) fn presence(now: &Now, networks: &[Arc<Network>], given: &Resolver, host: &Resolver) -> Presence {
    let attached =
        networks.iter().filter_map(|network| Some((network, now.state.endpoints.get(&network.name)?)));
    let places =
        attached.clone().filter(|(_, endpoint)| has_names(endpoint)).map(|(network, endpoint)| Place {
            network: network.id.clone(),
            name: network.name.clone(),
            records: records(endpoint),
            links: links(now, &network.name),
        });
    let servers: Vec<IpAddr> = given.servers.iter().filter_map(|text| text.parse().ok()).collect();
    let options = if given.options.is_empty() { &host.options } else { &given.options };
    Presence {
        places: places.collect(),
        upstream: if servers.is_empty() { Upstream::Host } else { Upstream::Own(Servers::new(servers)) },
        outside: attached.clone().any(|(network, _)| !network.internal),
        keep_single: files::ndots(options).is_some_and(|ndots| ndots > 0),
    }
}

fn records(endpoint: &Endpoint) -> Vec<Record> {
    let record = |record: &wharf_plan::net::DnsRecord| Record {
        names: std::iter::once(&record.name).chain(&record.aliases).cloned().collect(),
        addresses: record.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
        ttl: record.ttl,
    };
    endpoint.desired.dns.iter().map(record).collect()
}

/// Links of an endpoint: alias, and the name it stands for. An id stands for its first twelve digits, which are a name.
fn links(now: &Now, network: &str) -> Vec<(String, String)> {
    let texts = now.def.networks.get(network).and_then(|settings| settings.links.as_ref());
    let parsed = texts.into_iter().flatten().filter_map(|text| crate::links::parse(text).ok());
    let digits = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    parsed
        .map(|(name, alias)| {
            let name = if digits(name) { super::names::short(name) } else { name };
            (alias.to_owned(), name.to_owned())
        })
        .collect()
}

/// The host's name servers as addresses. `interface` gives the number of an interface: a link-local address is of one.
pub(crate) fn servers(host: &Resolver, interface: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let address = |text: &String| {
        let (ip, zone) = text.split_once('%').map_or((text.as_str(), None), |(ip, zone)| (ip, Some(zone)));
        Some(match ip.parse().ok()? {
            IpAddr::V6(ip) => {
                let scope = match zone {
                    Some(zone) => zone.parse().ok().or_else(|| interface(zone))?,
                    None => 0,
                };
                SocketAddr::V6(SocketAddrV6::new(ip, 53, 0, scope))
            }
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), 53),
        })
    };
    host.servers.iter().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wharf_plan::net::{Desired, DnsRecord};

    use super::*;
    use crate::models::{ContainerConfig, EndpointSettings, HostConfig};
    use crate::planner::run;
    use crate::record::{Definition, State};

    fn network(name: &str, internal: bool) -> Arc<Network> {
        Arc::new(Network { id: format!("{name}-id"), name: name.into(), internal, ..Network::default() })
    }

    fn endpoint(names: &[&str]) -> Endpoint {
        let record = |name: &&str| DnsRecord {
            name: (*name).to_owned(),
            addresses: vec!["10.0.0.2".into(), "fd00::2".into()],
            ttl: 600,
            aliases: vec!["alias".into()],
        };
        let dns = names.iter().map(record).collect();
        Endpoint { desired: Desired { dns, ..Desired::default() }, ..Endpoint::default() }
    }

    fn now(endpoints: &[(&str, Endpoint)], links: &[&str]) -> Now {
        let config = ContainerConfig { cmd: Some(vec!["true".into()]), ..ContainerConfig::default() };
        let blueprint = run::blueprint(&config, &HostConfig::default(), &crate::planner::Facts::default());
        let links = Some(links.iter().map(|l| (*l).to_owned()).collect());
        let def = Definition {
            id: "i".into(),
            name: "n".into(),
            created: 1,
            image: String::new(),
            image_name: String::new(),
            config,
            host: HostConfig::default(),
            mounts: Vec::new(),
            networks: [("net".to_owned(), EndpointSettings { links, ..EndpointSettings::default() })].into(),
            id_maps: Vec::new(),
            driver: String::new(),
            links: Vec::new(),
        };
        let endpoints: BTreeMap<String, Endpoint> =
            endpoints.iter().map(|(name, e)| ((*name).to_owned(), e.clone())).collect();
        let state = State { endpoints, ..State::default() };
        Now { def: Arc::new(def), state: Arc::new(state), blueprint: Arc::new(blueprint.unwrap()) }
    }

    #[test]
    fn names_follow_the_plans() {
        let id = "0123456789abcdef".repeat(4);
        let now = now(
            &[("net", endpoint(&["web"])), ("bridge", endpoint(&[]))],
            &["db:store", &format!("{id}:byid"), "a:b:c"],
        );
        let networks = [network("net", true), network("bridge", false), network("elsewhere", false)];
        let none = Resolver::default();
        let found = presence(&now, &networks, &none, &none);
        let [place] = found.places.as_slice() else { panic!("{found:?}") };
        assert_eq!((place.network.as_str(), place.name.as_str()), ("net-id", "net"));
        assert_eq!(place.records[0].names, ["web", "alias"]);
        assert_eq!(place.records[0].addresses.len(), 2);
        let links = [("store", "db"), ("byid", "0123456789ab")].map(|(a, n)| (a.to_owned(), n.to_owned()));
        assert_eq!(place.links, links);
        assert!(found.outside && !found.keep_single && matches!(found.upstream, Upstream::Host));
        let found = presence(&now, &networks[..1], &none, &none);
        assert!(!found.outside, "its only network is internal");
    }

    #[test]
    fn whom_to_ask() {
        let now = now(&[("net", endpoint(&["web"]))], &[]);
        let networks = [network("net", false)];
        let options = |text: &str| Resolver { options: vec![text.into()], ..Resolver::default() };
        let none = Resolver::default();
        let given = Resolver { servers: vec!["10.9.9.9".into(), "x".into()], ..Resolver::default() };
        let Upstream::Own(servers) = presence(&now, &networks, &given, &none).upstream else { panic!() };
        assert_eq!(servers.addresses(), ["10.9.9.9:53".parse().unwrap()]);
        for (given, host, wanted) in [
            (none.clone(), none.clone(), false),
            (options("ndots:2"), none.clone(), true),
            (options("ndots:0"), options("ndots:3"), false),
            (options("edns0"), options("ndots:3"), false),
            (none.clone(), options("ndots:3"), true),
            (options("ndots:x"), none.clone(), false),
        ] {
            assert_eq!(presence(&now, &networks, &given, &host).keep_single, wanted, "{given:?} {host:?}");
        }
    }

    #[test]
    fn servers_of_the_host() {
        let text = ["127.0.0.53", "fe80::1%eth0", "fe80::2%7", "2001:db8::1", "fe80::3%gone", "x"];
        let host = Resolver { servers: text.map(str::to_owned).into(), ..Resolver::default() };
        let found = servers(&host, |name| (name == "eth0").then_some(3));
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[fe80::1%3]:53", "[fe80::2%7]:53", "[2001:db8::1]:53"]);
    }
}
