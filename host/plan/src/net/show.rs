//! Items as a line of text, for `--plan`, logs and golden tests.

use std::fmt;

use super::state::{Item, Kind, LinkName, LinkRef, LinkState};
use super::{Action, Hook, Protocol, Publish, Rule, Site};

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkName::Exact(name) => f.write_str(name),
            LinkName::Generated { prefix, ordinal: 0 } => write!(f, "{prefix}*"),
            LinkName::Generated { prefix, ordinal } => write!(f, "{prefix}*{ordinal}"),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Site::Host => "host",
            Site::Hub => "hub",
            Site::Container => "container",
        })
    }
}

impl fmt::Display for LinkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.name)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Bridge(_) => f.write_str("bridge"),
            Kind::Veth { peer } => write!(f, "veth to {peer}"),
            Kind::VethPeer { of } => write!(f, "veth to {of}"),
            Kind::Macvlan { parent, mode } => write!(f, "macvlan {mode} on {parent}"),
            Kind::Ipvlan { parent, mode } => write!(f, "ipvlan {mode} on {parent}"),
            Kind::Vlan { parent, id } => write!(f, "vlan {id} on {parent}"),
            Kind::Vxlan(vxlan) => write!(f, "vxlan {} port {}", vxlan.vni, vxlan.port),
            Kind::Wireguard(wireguard) => write!(f, "wireguard port {}", wireguard.port),
            Kind::Dummy => f.write_str("dummy"),
            Kind::Tap => f.write_str("tap"),
            Kind::Vrf(table) => write!(f, "vrf table {table}"),
            Kind::Granted(name) => write!(f, "granted {name}"),
            Kind::Moved(name) => write!(f, "moved {name}"),
            Kind::Other(kind, _) => f.write_str(kind),
        }
    }
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {} {}", self.link, self.kind)?;
        if let Some(controller) = &self.controller {
            write!(f, " in {controller}")?;
        }
        if let Some(mac) = &self.mac {
            write!(f, " mac {mac}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        for (key, value) in self.port.iter().chain(&self.sysctls) {
            write!(f, " {key}={value}")?;
        }
        f.write_str(if self.up { " up" } else { " down" })
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Link(link) => link.fmt(f),
            Item::Address { link, cidr, .. } => write!(f, "address {cidr} on {link}"),
            Item::Dynamic { link, client } => {
                write!(f, "dynamic addresses on {link} ipv4={} ipv6={}", client.ipv4, client.ipv6)
            }
            Item::Route(route) => {
                write!(f, "route {} {}", route.site, route.destination)?;
                option(f, "via", route.via.as_ref())?;
                option(f, "out of", route.link.as_ref())?;
                option(f, "from", route.source.as_ref())?;
                option(f, "metric", route.metric.as_ref())?;
                option(f, "table", route.table.as_ref())
            }
            Item::Neighbor { link, ip, mac } => write!(f, "neighbor {ip} is {mac} on {link}"),
            Item::Fdb { link, mac, destination } => write!(f, "fdb {mac} at {destination} on {link}"),
            Item::Publish(publish) => publish.fmt(f),
            Item::Masquerade { from, out, to_source } => {
                write!(f, "masquerade {from}")?;
                option(f, "out of", out.as_ref())?;
                option(f, "as", to_source.as_ref())
            }
            Item::Rule { input, output, rule } => show_rule(f, input.as_ref(), output.as_ref(), rule),
            Item::Shape { link, shape } => write!(f, "limit {link} to {} bit/s", shape.rate_bps),
            Item::Dns(record) => write!(f, "name {} is {}", record.name, record.addresses.join(" ")),
            Item::Resolver(resolver) => write!(f, "resolver {}", resolver.servers.join(" ")),
        }
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host_ip.as_deref().unwrap_or("*");
        write!(f, "publish {host} port {}", self.host_port)?;
        if self.count > 1 {
            write!(f, " and {} more", self.count - 1)?;
        }
        write!(f, " to {} port {}/{}", self.container_ip, self.container_port, self.protocol)
    }
}

fn show_rule(
    f: &mut fmt::Formatter<'_>,
    input: Option<&LinkRef>,
    output: Option<&LinkRef>,
    rule: &Rule,
) -> fmt::Result {
    let action = match rule.action {
        Action::Accept => "accept",
        Action::Drop => "drop",
        Action::Reject => "reject",
    };
    let hook = match rule.hook {
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
    };
    write!(f, "rule {} {hook} {action}", rule.priority)?;
    option(f, "in", input)?;
    option(f, "out", output)?;
    option(f, "from", rule.source.as_ref())?;
    option(f, "to", rule.destination.as_ref())?;
    option(f, "protocol", rule.protocol.as_ref())?;
    for (first, last) in &rule.ports {
        write!(f, " port {first}-{last}")?;
    }
    if rule.established_only {
        f.write_str(" established")?;
    }
    Ok(())
}

fn option<T: fmt::Display>(f: &mut fmt::Formatter<'_>, word: &str, value: Option<&T>) -> fmt::Result {
    value.map_or(Ok(()), |value| write!(f, " {word} {value}"))
}
