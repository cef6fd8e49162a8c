//! The network driver `bridge`.
//!
//! A network is a bridge on the host with the gateway's addresses. An endpoint is a veth pair, one end a port of the
//! bridge, the other in the container. By itself the host lets containers of a bridge speak to each other and to the
//! world, and into a bridge only answers and what was published; rules say what is different.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod options;

use std::net::{IpAddr, Ipv4Addr};

use wharf_plugin_sdk::cidr::Cidr;
use wharf_plugin_sdk::files::fnv;
use wharf_plugin_sdk::net::{
    Action, Desired, DnsRecord, Link, LinkIndex, LinkKind, Masquerade, Name, Protocol, Publish, Rule, Site,
};
use wharf_plugin_sdk::network::{
    Capabilities, Driver, Endpoint, EndpointPlan, GatewayNeed, Network, NetworkPlan, Peer, Scope,
};
use wharf_plugin_sdk::types::{Cookie, Labels, label};
use wharf_plugin_sdk::{Error, Host, Result};

use options::{GatewayMode, Options};

/// Rules of one kind are looked at in this order; the contract orders the kinds.
const PRIORITY: i32 = 0;

/// The driver.
#[derive(Debug, Default)]
pub struct BridgeDriver;

impl Driver for BridgeDriver {
    fn capabilities(&self, _host: &dyn Host) -> Result<Capabilities> {
        let features =
            ["isolation", "internal", "ipv6", "masquerade", "mtu", "publish", "publish-across", "static-mac"];
        Ok(Capabilities {
            data_scope: Scope::Local,
            connectivity_scope: Scope::Local,
            option_schema: options::SCHEMA.to_owned(),
            features: features.map(str::to_owned).to_vec(),
        })
    }

    fn gateways(&self, _host: &dyn Host, options: &Labels) -> Result<GatewayNeed> {
        let options = Options::read("", options, true)?;
        // An inhibited address is still reserved: containers route through whoever has it.
        Ok(GatewayNeed {
            ipv4: options.mode_v4 != GatewayMode::Isolated,
            ipv6: options.mode_v6 != GatewayMode::Isolated,
        })
    }

    fn plan_network(&self, _host: &dyn Host, network: &Network, _peers: &[Peer]) -> Result<NetworkPlan> {
        let options = Options::read(&network.id, &network.options, network.internal)?;
        let mut state = Desired::empty();
        let mut bridge =
            Link::bridge(options.bridge.clone()).mtu(options.mtu).mac(Some(mac(fnv(network.id.as_bytes())
                .to_le_bytes()
                .first_chunk()
                .copied()
                .unwrap_or_default())));
        bridge = if network.ipv6 {
            bridge.sysctl("ipv6.disable_ipv6", "0").sysctl("ipv6.accept_ra", "0")
        } else {
            bridge.sysctl("ipv6.disable_ipv6", "1")
        };
        if network.ipv4 && !network.internal && options.mode_v4 == GatewayMode::Nat {
            // Ports published on 127.0.0.1: the kernel must take packets from the host's loopback across the bridge.
            bridge = bridge.sysctl("ipv4.route_localnet", "1");
        }
        let bridge = state.link(bridge);
        for binding in &network.pools {
            let pool = Cidr::parse(&binding.pool)?;
            let v4 = pool.is_ipv4();
            if let Some(gateway) = &binding.gateway
                && options.host_address(v4)
            {
                let gateway = address(gateway)?;
                if gateway.is_ipv4() != v4 {
                    return Err(Error::invalid(format!("gateway {gateway} is not of the family of {pool}")));
                }
                state.address(bridge, format!("{gateway}/{}", pool.length()));
            }
            let nat = matches!(options.mode(v4), GatewayMode::Nat | GatewayMode::NatUnprotected);
            if nat && options.masquerade && !network.internal && options.host_address(v4) {
                state.masquerades.push(Masquerade {
                    from_cidr: pool.to_string(),
                    out: None,
                    to_source: options.source(v4).map(|ip| ip.to_string()),
                });
            }
        }
        forwarding(&mut state, bridge, network, &options);
        Ok(NetworkPlan { state, cookie: Cookie::new() })
    }

    fn plan_endpoint(
        &self,
        _host: &dyn Host,
        network: &Network,
        endpoint: &Endpoint,
        _peers: &[Peer],
    ) -> Result<EndpointPlan> {
        let options = Options::read(&network.id, &network.options, network.internal)?;
        let addresses: Vec<Cidr> =
            endpoint.addresses.iter().map(|text| Cidr::parse(text)).collect::<Result<_>>()?;
        let mac = endpoint_mac(endpoint, &addresses)?;

        let mut state = Desired::empty();
        let bridge = state.link(Link::granted(options.bridge.clone()));
        let mut near = Link::new(LinkKind::Veth, Name::Generated("veth".into()), Site::Host)
            .mtu(options.mtu)
            .controlled_by(bridge);
        if !options.icc {
            near = near.port("isolated", "1");
        }
        let far = Link::new(LinkKind::VethPeer, interface(endpoint, &options)?, Site::Container)
            .mtu(options.mtu)
            .mac(Some(mac.clone()));
        let (_, far) = state.veth(near, far);
        for own in &addresses {
            state.address(far, own.to_string());
        }

        let gateway_v4 = gateway(network, &options, &addresses, true)?;
        let gateway_v6 = gateway(network, &options, &addresses, false)?;
        for (is_way_out, via) in [(endpoint.gateway_v4, gateway_v4), (endpoint.gateway_v6, gateway_v6)] {
            if let Some(via) = via
                && is_way_out
                && !network.internal
            {
                state.default_route(Site::Container, via, far);
            }
        }
        if !network.internal {
            publish(&mut state, bridge, endpoint, &addresses, &options)?;
        }
        // Docker's default bridge has no names.
        if !options.default_bridge && !addresses.is_empty() {
            state.dns.push(names(endpoint, &addresses));
        }
        Ok(EndpointPlan {
            state,
            addresses: addresses.iter().map(ToString::to_string).collect(),
            mac: Some(mac),
            gateway_v4: gateway_v4.map(|ip| ip.to_string()),
            gateway_v6: gateway_v6.map(|ip| ip.to_string()),
            facts: Vec::new(),
            cookie: Cookie::new(),
        })
    }
}

/// What is not as the host has it by itself: containers reach each other and the world, nothing else comes in.
fn forwarding(state: &mut Desired, bridge: LinkIndex, network: &Network, options: &Options) {
    if !options.icc {
        let within = Rule::forward(PRIORITY, Action::Drop, "between containers");
        state.rules.push(within.from(bridge).to(bridge));
    }
    if network.internal {
        if options.icc {
            // Else the next rule would separate them as well.
            let within = Rule::forward(PRIORITY, Action::Accept, "between containers");
            state.rules.push(within.from(bridge).to(bridge));
        }
        state.rules.push(Rule::forward(PRIORITY, Action::Drop, "internal").from(bridge));
        state.rules.push(Rule::forward(PRIORITY, Action::Drop, "internal").to(bridge));
        return;
    }
    for binding in &network.pools {
        let Ok(pool) = Cidr::parse(&binding.pool) else { continue };
        if options.mode(pool.is_ipv4()) == GatewayMode::NatUnprotected {
            let mut open = Rule::forward(PRIORITY, Action::Accept, "unprotected").to(bridge);
            open.destination = Some(pool.to_string());
            state.rules.push(open);
        }
    }
}

/// What the engine asked to publish, once per family that the container has and the host's address allows.
fn publish(
    state: &mut Desired,
    bridge: LinkIndex,
    endpoint: &Endpoint,
    addresses: &[Cidr],
    options: &Options,
) -> Result<()> {
    for wanted in &endpoint.publishes {
        let host_ip = match wanted.host_ip.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => Some(address(text)?),
            None => None,
        };
        // The network's own address for publishing stands in for "all of IPv4", the narrower of the two.
        let host_ip = match (host_ip, options.host_binding) {
            (None, Some(binding)) => Some(IpAddr::V4(binding)),
            (Some(IpAddr::V4(ip)), Some(binding)) if ip.is_unspecified() => Some(IpAddr::V4(binding)),
            (host_ip, _) => host_ip,
        };
        // An engine that has chosen the container's address already means this one alone.
        let inside = wanted.container_ip.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified());
        let mut published = false;
        for own in addresses {
            let v4 = own.is_ipv4();
            if inside.is_some_and(|ip| ip != own.address()) {
                continue;
            }
            let is_way_out = if v4 { endpoint.gateway_v4 } else { endpoint.gateway_v6 };
            let across = host_ip.is_some_and(|ip| ip.is_ipv4() != v4);
            if !is_way_out {
                continue;
            }
            if across {
                let carried = carried(wanted, inside, options);
                // What was asked for is "everywhere": where this network cannot, or has an address of its own for
                // publishing, the other family is all there is.
                let everywhere = host_ip.is_some_and(|ip| ip.is_ipv6() && ip.is_unspecified());
                published |= everywhere && inside.is_some();
                if !carried || everywhere && options.host_binding.is_some() {
                    continue;
                }
            }
            published = true;
            if options.mode(v4) == GatewayMode::Routed {
                let mut open = Rule::forward(PRIORITY, Action::Accept, "published").to(bridge);
                open.protocol = Some(wanted.protocol);
                open.destination = Some(own.host().to_string());
                let last = wanted.container_port.saturating_add(wanted.count.saturating_sub(1));
                open.ports = vec![(wanted.container_port, last)];
                state.rules.push(open);
                continue;
            }
            state.publishes.push(Publish {
                protocol: wanted.protocol,
                host_ip: host_ip.map(|ip| ip.to_string()),
                host_port: wanted.host_port,
                count: wanted.count,
                container_ip: own.address().to_string(),
                container_port: wanted.container_port,
            });
        }
        // An endpoint that is not the way out publishes nothing; one that is but lacks the family cannot.
        if let Some(ip) = host_ip
            && !published
            && (endpoint.gateway_v4 || endpoint.gateway_v6)
        {
            return Err(Error::invalid(format!(
                "cannot publish port {} on {ip}: the container has no address of that family in this network",
                wanted.container_port
            )));
        }
    }
    Ok(())
}

/// Whether a port of an IPv6 address of the host may lead to this container's IPv4 address: where the engine asks for just
/// that, and addresses are translated at all.
fn carried(wanted: &Publish, inside: Option<IpAddr>, options: &Options) -> bool {
    inside.is_some_and(|ip| ip.is_ipv4())
        && wanted.protocol != Protocol::Sctp
        && matches!(options.mode(true), GatewayMode::Nat | GatewayMode::NatUnprotected)
}

fn gateway(network: &Network, options: &Options, own: &[Cidr], v4: bool) -> Result<Option<IpAddr>> {
    if options.mode(v4) == GatewayMode::Isolated {
        return Ok(None);
    }
    for binding in &network.pools {
        let pool = Cidr::parse(&binding.pool)?;
        if pool.is_ipv4() == v4
            && own.iter().any(|own| pool.contains(own.address()))
            && let Some(gateway) = &binding.gateway
        {
            return address(gateway).map(Some);
        }
    }
    Ok(None)
}

fn interface(endpoint: &Endpoint, options: &Options) -> Result<Name> {
    let chosen = endpoint
        .interface_name
        .as_deref()
        .or_else(|| label(&endpoint.options, "com.docker.network.endpoint.ifname"))
        .filter(|name| !name.is_empty());
    let Some(name) = chosen else { return Ok(Name::Generated(options.interface_prefix.clone())) };
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':');
    if name.len() > 15 || matches!(name, "." | ".." | "lo") || !name.bytes().all(plain) {
        return Err(Error::invalid(format!("invalid interface name {name:?}")));
    }
    Ok(Name::Exact(name.to_owned()))
}

/// What was asked for, or one that follows from the IPv4 address: after a restart neighbours know it already.
fn endpoint_mac(endpoint: &Endpoint, addresses: &[Cidr]) -> Result<String> {
    if let Some(text) = endpoint.mac.as_deref().filter(|text| !text.is_empty()) {
        let mut bytes = [0_u8; 6];
        let mut parts = text.split([':', '-']);
        let read = bytes.iter_mut().all(|byte| {
            let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'));
            part.and_then(|part| u8::from_str_radix(part, 16).ok()).is_some_and(|value| {
                *byte = value;
                true
            })
        });
        let multicast = bytes.first().is_some_and(|byte| byte & 1 != 0);
        if !read || parts.next().is_some() || multicast || bytes == [0; 6] {
            return Err(Error::invalid(format!("invalid MAC address {text:?}")));
        }
        return Ok(bytes.map(|byte| format!("{byte:02x}")).join(":"));
    }
    let v4 = addresses.iter().find_map(|own| match own.address() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    Ok(mac(match v4 {
        Some(ip) => ip.octets(),
        None => fnv(endpoint.id.as_bytes()).to_le_bytes().first_chunk().copied().unwrap_or_default(),
    }))
}

/// Locally administered, with the prefix by which people recognise Docker's.
fn mac([a, b, c, d]: [u8; 4]) -> String {
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn names(endpoint: &Endpoint, addresses: &[Cidr]) -> DnsRecord {
    let short: String = endpoint.container.id.chars().take(12).collect();
    let mut aliases = endpoint.aliases.clone();
    aliases.push(short);
    aliases.push(endpoint.container.hostname.clone());
    let mut known = vec![endpoint.container.name.clone()];
    aliases.retain(|alias| {
        let new = !alias.is_empty() && alias.len() <= 253 && !known.contains(alias);
        known.push(alias.clone());
        new
    });
    DnsRecord {
        name: endpoint.container.name.clone(),
        addresses: addresses.iter().map(|own| own.address().to_string()).collect(),
        ttl: 600,
        aliases,
    }
}

fn address(text: &str) -> Result<IpAddr> {
    // Engines write IPv6 addresses in brackets here and there.
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare == "0" {
        return Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    }
    bare.parse().map_err(|_| Error::invalid(format!("invalid IP address {text:?}")))
}

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(network: BridgeDriver);
