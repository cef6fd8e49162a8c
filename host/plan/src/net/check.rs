//! Whether a plan keeps to what its plugin was granted.
//!
//! Nothing here asks the kernel: the answer depends on the plan, the grants and, for an endpoint, on the plan of its
//! network alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::forward::{Carrier, carrier};
use super::prefix::Prefix;
use super::{Cidr, Desired, Hook, Link, LinkIndex, LinkKind, Name, Publish, Rule, Site};

/// What the administrator granted to a network plugin. Everything absent is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct NetGrants {
    /// Kinds of links it may make: `bridge`, `veth`, `macvlan`, `ipvlan`, `vlan`, `vxlan`, `dummy`, `vrf`.
    pub links: BTreeSet<String>,
    /// Where it may make them. `container` needs no grant.
    pub sites: BTreeSet<Site>,
    /// Prefixes that names of its links on the host must have.
    pub names: BTreeSet<String>,
    /// Whole names beside those: what users choose, call by call. No configuration gives them.
    #[serde(skip)]
    pub exact: BTreeSet<String>,
    /// Links of the host that it may use as a parent or controller.
    pub host_links: BTreeSet<String>,
    /// Address space for what it puts on the host; `None`: any unicast network.
    pub subnets: Option<Vec<Cidr>>,
    /// Host ports it may publish, as inclusive ranges.
    pub publish: Vec<(u16, u16)>,
    /// Source address translation for its networks.
    pub masquerade: bool,
    /// Packet filter rules for its networks.
    pub rules: bool,
    /// Routes on the host beyond those that follow from addresses.
    pub host_routes: bool,
    /// Rate limits on its links.
    pub shapes: bool,
    /// Sysctls of its links, as `ipv4.NAME` or `ipv6.NAME`.
    pub sysctls: BTreeSet<String>,
}

impl NetGrants {
    /// What a driver of bridge networks needs; given to the bundled one unless the administrator says otherwise.
    pub fn bridge_driver() -> Self {
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Self {
            links: set(&["bridge", "veth"]),
            sites: BTreeSet::from([Site::Host]),
            names: set(&["docker", "br-", "veth"]),
            publish: vec![(1, u16::MAX)],
            masquerade: true,
            rules: true,
            sysctls: set(&[
                "ipv4.arp_filter",
                "ipv4.forwarding",
                "ipv4.log_martians",
                "ipv4.route_localnet",
                "ipv4.rp_filter",
                "ipv6.accept_dad",
                "ipv6.accept_ra",
                "ipv6.autoconf",
                "ipv6.disable_ipv6",
                "ipv6.forwarding",
            ]),
            ..Self::default()
        }
    }
}

/// What the plan is for.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// A network on this node.
    Network,
    /// A container's place in a network. Links of the network's own plan may be used as `granted`.
    Endpoint {
        /// The network's state as applied.
        network: &'a Desired,
    },
}

/// A plan that goes beyond its grants or makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Refused {
    /// Where in the plan, such as `links[1].name`.
    pub field: String,
    /// What is wrong with it, and what is allowed.
    pub reason: String,
}

/// Most links, masquerades and shapes of one scope.
const MAX_FEW: usize = 64;
/// Most addresses, rules, ports of a rule, sysctls of a link.
const MAX_SOME: usize = 256;
/// Most routes, names, publish entries.
const MAX_MANY: usize = 4096;
/// Most neighbours and forwarding entries: a large cluster's.
const MAX_PEERS: usize = 16384;
/// Most published ports of one endpoint, each of which costs a socket and an element.
const MAX_PORTS: usize = 65536;
/// Ports among which the host picks when a plan says 0.
const EPHEMERAL: (u16, u16) = (32768, 60999);

type Checked = Result<(), Refused>;

/// Checks a plan before anything of it is done.
pub fn validate(desired: &Desired, scope: Scope<'_>, grants: &NetGrants) -> Checked {
    let check = Check { desired, scope, grants };
    check.sizes()?;
    check.links()?;
    check.addresses()?;
    check.routes()?;
    check.peers()?;
    check.publishes()?;
    check.masquerades()?;
    check.rules()?;
    check.shapes()?;
    check.names()
}

struct Check<'a> {
    desired: &'a Desired,
    scope: Scope<'a>,
    grants: &'a NetGrants,
}

impl<'a> Check<'a> {
    fn sizes(&self) -> Checked {
        let plan = self.desired;
        let limits = [
            ("links", plan.links.len(), MAX_FEW),
            ("addresses", plan.addresses.len(), MAX_SOME),
            ("routes", plan.routes.len(), MAX_MANY),
            ("neighbors", plan.neighbors.len(), MAX_PEERS),
            ("fdb", plan.fdb.len(), MAX_PEERS),
            ("publishes", plan.publishes.len(), MAX_MANY),
            ("masquerades", plan.masquerades.len(), MAX_FEW),
            ("rules", plan.rules.len(), MAX_SOME),
            ("shapes", plan.shapes.len(), MAX_FEW),
            ("dns", plan.dns.len(), MAX_MANY),
        ];
        for (field, count, most) in limits {
            if count > most {
                return refuse(field, format!("{count} entries; {most} are allowed"));
            }
        }
        let ports: usize = plan.publishes.iter().map(|publish| usize::from(publish.count)).sum();
        if ports > MAX_PORTS {
            return refuse("publishes", format!("{ports} ports; {MAX_PORTS} are allowed"));
        }
        if !plan.dynamic.is_empty() {
            return refuse("dynamic", "this host runs no DHCP or SLAAC client");
        }
        Ok(())
    }

    fn links(&self) -> Checked {
        let mut names = BTreeSet::new();
        for (index, link) in self.desired.links.iter().enumerate() {
            let field = |part: &str| format!("links[{index}].{part}");
            self.site(link).map_err(|reason| refused(field("site"), reason))?;
            self.kind(index, link).map_err(|reason| refused(field("kind"), reason))?;
            if let LinkKind::Granted(_) = link.kind {
                if link.mtu.is_some()
                    || link.mac.is_some()
                    || link.controller.is_some()
                    || !link.sysctls.is_empty()
                {
                    return refuse(field("kind"), "a granted link is used as it is, not changed");
                }
                continue;
            }
            self.name(link).map_err(|reason| refused(field("name"), reason))?;
            if let Name::Exact(name) = &link.name
                && !names.insert((link.site, name))
            {
                return refuse(field("name"), format!("{name} is used twice at {}", link.site));
            }
            if let Some(mtu) = link.mtu
                && !(68..=65535).contains(&mtu)
            {
                return refuse(field("mtu"), format!("{mtu} is not within 68-65535"));
            }
            if let Some(text) = &link.mac {
                mac(text).map_err(|reason| refused(field("mac"), reason))?;
            }
            self.controller(index, link).map_err(|reason| refused(field("controller"), reason))?;
            port(link).map_err(|reason| refused(field("port"), reason))?;
            self.sysctls(link).map_err(|reason| refused(field("sysctls"), reason))?;
        }
        Ok(())
    }

    fn site(&self, link: &Link) -> Result<(), String> {
        match (link.site, self.scope) {
            (Site::Hub, _) => Err("this host has no hub namespaces".to_owned()),
            (Site::Container, Scope::Network) => Err("a network has no container".to_owned()),
            (Site::Host, _) if !self.grants.sites.contains(&Site::Host) => {
                Err("host is not granted".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn kind(&self, index: usize, link: &Link) -> Result<(), String> {
        let neighbor =
            |at: Option<usize>| at.and_then(|at| self.desired.links.get(at)).map(|link| &link.kind);
        let word = match &link.kind {
            LinkKind::Bridge(_) if link.site != Site::Host => {
                return Err("a bridge belongs on the host".to_owned());
            }
            LinkKind::Bridge(_) => "bridge",
            LinkKind::Veth if neighbor(Some(index + 1)) != Some(&LinkKind::VethPeer) => {
                return Err("veth must be followed by its veth-peer".to_owned());
            }
            LinkKind::VethPeer if neighbor(index.checked_sub(1)) != Some(&LinkKind::Veth) => {
                return Err("veth-peer must follow its veth".to_owned());
            }
            LinkKind::Veth | LinkKind::VethPeer => "veth",
            LinkKind::Macvlan(child) => {
                self.parent(index, child.parent)?;
                one_of("mode", &child.mode, &["bridge", "private", "vepa", "passthru"])?;
                "macvlan"
            }
            LinkKind::Ipvlan(child) => {
                self.parent(index, child.parent)?;
                one_of("mode", &child.mode, &["l2", "l3", "l3s"])?;
                "ipvlan"
            }
            LinkKind::Vlan(vlan) => {
                self.parent(index, vlan.parent)?;
                if !(1..=4094).contains(&vlan.id) {
                    return Err(format!("VLAN {} is not within 1-4094", vlan.id));
                }
                "vlan"
            }
            LinkKind::Vxlan(vxlan) => {
                if vxlan.vni >= 1 << 24 {
                    return Err(format!("VNI {} is not below 16777216", vxlan.vni));
                }
                if let Some(local) = &vxlan.local {
                    ip(local)?;
                }
                "vxlan"
            }
            LinkKind::Dummy => "dummy",
            LinkKind::Vrf(0 | 253..=255) => return Err("this table is the host's own".to_owned()),
            LinkKind::Vrf(_) => "vrf",
            LinkKind::Granted(name) => {
                return if link.site == Site::Host
                    && (self.is_networks(name) || self.grants.host_links.contains(name))
                {
                    Ok(())
                } else {
                    Err(format!("host link {name} is not granted"))
                };
            }
            LinkKind::Wireguard(_) => return Err("this host makes no wireguard links".to_owned()),
            LinkKind::Tap => return Err("this host makes no tap links".to_owned()),
            LinkKind::Moved(_) => return Err("this host moves no devices".to_owned()),
            LinkKind::Other((kind, _)) => return Err(format!("this host makes no {kind} links")),
        };
        if self.grants.links.contains(word) {
            Ok(())
        } else {
            let granted: Vec<&str> = self.grants.links.iter().map(String::as_str).collect();
            Err(format!("{word} is not granted; granted: {}", granted.join(", ")))
        }
    }

    /// Whether the network of this endpoint made a link of that name.
    fn is_networks(&self, name: &str) -> bool {
        let Scope::Endpoint { network } = self.scope else { return false };
        network.links.iter().any(|link| {
            link.site == Site::Host
                && !matches!(link.kind, LinkKind::Granted(_))
                && matches!(&link.name, Name::Exact(own) if own == name)
        })
    }

    fn parent(&self, index: usize, parent: LinkIndex) -> Result<(), String> {
        match self.link(parent) {
            Some((at, link)) if at < index && link.site == Site::Host => Ok(()),
            _ => Err(format!("parent {parent} is not an earlier link on the host")),
        }
    }

    fn name(&self, link: &Link) -> Result<(), String> {
        let (name, most) = match &link.name {
            Name::Exact(name) => (name, 15),
            Name::Generated(prefix) => (prefix, 9),
        };
        if !interface_name(name, most) {
            return Err(format!("{name:?} is not a name of 1-{most} letters, digits, '-', '_' and '.'"));
        }
        let exact = matches!(&link.name, Name::Exact(name) if self.grants.exact.contains(name));
        if link.site == Site::Host
            && !exact
            && !self.grants.names.iter().any(|prefix| name.starts_with(prefix.as_str()))
        {
            let granted: Vec<&str> = self.grants.names.iter().map(String::as_str).collect();
            return Err(format!("{name} does not begin with a granted prefix ({})", granted.join(", ")));
        }
        if link.site == Site::Container
            && matches!(link.name, Name::Generated(_))
            && !matches!(link.kind, LinkKind::VethPeer)
        {
            return Err("only a veth-peer can have a generated name in the container".to_owned());
        }
        Ok(())
    }

    fn controller(&self, index: usize, link: &Link) -> Result<(), String> {
        let Some(controller) = link.controller else { return Ok(()) };
        match self.link(controller) {
            Some((at, other)) if at < index && other.site == link.site => match other.kind {
                LinkKind::Bridge(_) | LinkKind::Vrf(_) | LinkKind::Granted(_) => Ok(()),
                _ => Err(format!("link {controller} is neither a bridge nor a vrf")),
            },
            _ => Err(format!("{controller} is not an earlier link at {}", link.site)),
        }
    }

    fn sysctls(&self, link: &Link) -> Result<(), String> {
        if link.sysctls.len() > MAX_SOME {
            return Err(format!("{} entries; {MAX_SOME} are allowed", link.sysctls.len()));
        }
        for (key, value) in &link.sysctls {
            let known = key.strip_prefix("ipv4.").or_else(|| key.strip_prefix("ipv6.")).is_some_and(|name| {
                !name.is_empty()
                    && name
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            });
            if !known || !self.grants.sysctls.contains(key) {
                return Err(format!("{key} is not granted"));
            }
            if value.is_empty() || value.len() > 64 || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!("{key}: not a value"));
            }
        }
        Ok(())
    }

    fn addresses(&self) -> Checked {
        for (index, address) in self.desired.addresses.iter().enumerate() {
            let field = format!("addresses[{index}]");
            let link =
                self.own_link(address.link).map_err(|reason| refused(format!("{field}.link"), reason))?;
            let cidr = format!("{field}.cidr");
            let prefix = unicast(&address.cidr).map_err(|reason| refused(cidr.clone(), reason))?;
            let shortest = if prefix.address.is_ipv4() { 8 } else { 16 };
            if prefix.length < shortest {
                return refuse(cidr, format!("{prefix}: a network larger than /{shortest}"));
            }
            if link.site == Site::Host && !self.in_subnets(&prefix) {
                return refuse(cidr, format!("{prefix} is outside the granted address space"));
            }
        }
        Ok(())
    }

    fn in_subnets(&self, prefix: &Prefix) -> bool {
        let Some(subnets) = &self.grants.subnets else { return true };
        subnets.iter().any(|subnet| subnet.parse::<Prefix>().is_ok_and(|subnet| subnet.covers(prefix)))
    }

    fn routes(&self) -> Checked {
        for (index, route) in self.desired.routes.iter().enumerate() {
            let field = |part: &str| format!("routes[{index}].{part}");
            match (route.site, self.scope) {
                (Site::Host, _) if self.grants.host_routes => {}
                (Site::Container, Scope::Endpoint { .. }) => {}
                (site, _) => return refuse(field("site"), format!("routes at {site} are not granted")),
            }
            let destination: Prefix = parse(field("destination"), &route.destination)?;
            if destination.network() != destination.address {
                return refuse(field("destination"), format!("{destination} has bits after its prefix"));
            }
            if route.site == Site::Host && (destination.length == 0 || !self.in_subnets(&destination)) {
                return refuse(
                    field("destination"),
                    format!("{destination} is outside the granted address space"),
                );
            }
            for (part, text) in [("via", &route.via), ("source", &route.source)] {
                if let Some(text) = text {
                    let address = ip(text).map_err(|reason| refused(field(part), reason))?;
                    if address.is_ipv4() != destination.address.is_ipv4() {
                        return refuse(
                            field(part),
                            format!("{address} and {destination} are of two families"),
                        );
                    }
                }
            }
            match route.link.map(|link| (link, self.link(link))) {
                Some((link, found)) if found.is_none_or(|(_, link)| link.site != route.site) => {
                    return refuse(field("link"), format!("{link} is no link at {}", route.site));
                }
                None if route.via.is_none() => return refuse(field("via"), "neither a router nor a link"),
                _ => {}
            }
            if route.site == Site::Host && route.table.is_some_and(|table| table != 254) {
                return refuse(field("table"), "other tables of the host are not granted");
            }
        }
        Ok(())
    }

    fn peers(&self) -> Checked {
        for (index, neighbor) in self.desired.neighbors.iter().enumerate() {
            let field = |part: &str| format!("neighbors[{index}].{part}");
            self.own_link(neighbor.link).map_err(|reason| refused(field("link"), reason))?;
            ip(&neighbor.ip).map_err(|reason| refused(field("ip"), reason))?;
            mac(&neighbor.mac).map_err(|reason| refused(field("mac"), reason))?;
        }
        for (index, entry) in self.desired.fdb.iter().enumerate() {
            let field = |part: &str| format!("fdb[{index}].{part}");
            let link = self.own_link(entry.link).map_err(|reason| refused(field("link"), reason))?;
            if !matches!(link.kind, LinkKind::Vxlan(_)) {
                return refuse(field("link"), "not a vxlan link");
            }
            ip(&entry.destination).map_err(|reason| refused(field("destination"), reason))?;
            // All zeros is the entry for unknown receivers.
            if entry.mac != "00:00:00:00:00:00" {
                mac(&entry.mac).map_err(|reason| refused(field("mac"), reason))?;
            }
        }
        Ok(())
    }

    fn publishes(&self) -> Checked {
        let own: BTreeSet<IpAddr> = self
            .desired
            .addresses
            .iter()
            .filter(|address| self.link(address.link).is_some_and(|(_, link)| link.site == Site::Container))
            .filter_map(|address| address.cidr.parse::<Prefix>().ok())
            .map(|prefix| prefix.address)
            .collect();
        for (index, publish) in self.desired.publishes.iter().enumerate() {
            let field = |part: &str| format!("publishes[{index}].{part}");
            if matches!(self.scope, Scope::Network) {
                return refuse(format!("publishes[{index}]"), "a network publishes no ports");
            }
            let inside =
                ip(&publish.container_ip).map_err(|reason| refused(field("container-ip"), reason))?;
            if !own.contains(&inside) {
                return refuse(field("container-ip"), format!("{inside} is not an address of this endpoint"));
            }
            if let Some(text) = &publish.host_ip {
                let outside = ip(text).map_err(|reason| refused(field("host-ip"), reason))?;
                if outside.is_multicast() || carrier(publish.protocol, outside, inside) == Carrier::Nobody {
                    return refuse(field("host-ip"), format!("{outside} cannot lead to {inside}"));
                }
            }
            self.ports(publish).map_err(|(part, reason)| refused(field(part), reason))?;
        }
        Ok(())
    }

    fn ports(&self, publish: &Publish) -> Result<(), (&'static str, String)> {
        let Some(more) = publish.count.checked_sub(1) else { return Err(("count", "0 ports".to_owned())) };
        if publish.container_port == 0 || publish.container_port.checked_add(more).is_none() {
            return Err((
                "container-port",
                format!("{} is no port, or too many follow it", publish.container_port),
            ));
        }
        let range = match publish.host_port {
            0 => EPHEMERAL,
            first => match first.checked_add(more) {
                Some(last) => (first, last),
                None => return Err(("host-port", format!("{first} and {more} more are too many"))),
            },
        };
        if self.grants.publish.iter().any(|(first, last)| *first <= range.0 && range.1 <= *last) {
            return Ok(());
        }
        let granted: Vec<String> = self.grants.publish.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        let granted = if granted.is_empty() { "none".to_owned() } else { granted.join(", ") };
        Err(("host-port", format!("{}-{} is not granted; granted: {granted}", range.0, range.1)))
    }

    fn masquerades(&self) -> Checked {
        for (index, masquerade) in self.desired.masquerades.iter().enumerate() {
            let field = |part: &str| format!("masquerades[{index}].{part}");
            if !self.grants.masquerade {
                return refuse(format!("masquerades[{index}]"), "masquerading is not granted");
            }
            let from: Prefix = parse(field("from-cidr"), &masquerade.from_cidr)?;
            if !self.own_networks().any(|own| own.covers(&from)) {
                return refuse(field("from-cidr"), format!("{from} is not of a network of this plan"));
            }
            if let Some(out) = masquerade.out
                && self.link(out).is_none_or(|(_, link)| link.site != Site::Host)
            {
                return refuse(field("out"), format!("{out} is no link on the host"));
            }
            if let Some(text) = &masquerade.to_source {
                let to = ip(text).map_err(|reason| refused(field("to-source"), reason))?;
                if to.is_ipv4() != from.address.is_ipv4() || to.is_unspecified() || to.is_multicast() {
                    return refuse(field("to-source"), format!("{to} cannot stand for {from}"));
                }
            }
        }
        Ok(())
    }

    /// The networks of the addresses in this plan, and in that of the endpoint's network.
    fn own_networks(&self) -> impl Iterator<Item = Prefix> + use<'a> {
        let network = match self.scope {
            Scope::Network => None,
            Scope::Endpoint { network } => Some(network),
        };
        let plans = std::iter::once(self.desired).chain(network);
        plans.flat_map(|plan| &plan.addresses).filter_map(|address| address.cidr.parse().ok())
    }

    fn rules(&self) -> Checked {
        for (index, rule) in self.desired.rules.iter().enumerate() {
            if !self.grants.rules {
                return refuse(format!("rules[{index}]"), "rules are not granted");
            }
            self.rule(rule).map_err(|(part, reason)| refused(format!("rules[{index}].{part}"), reason))?;
        }
        Ok(())
    }

    /// A rule must be about a link of the plan's own network: no plugin filters the host's other traffic.
    fn rule(&self, rule: &Rule) -> Result<(), (&'static str, String)> {
        let mut own = false;
        for (part, index) in [("in-link", rule.in_link), ("out-link", rule.out_link)] {
            let Some(index) = index else { continue };
            let Some((_, link)) = self.link(index).filter(|(_, link)| link.site == Site::Host) else {
                return Err((part, format!("{index} is no link on the host")));
            };
            own |= match &link.kind {
                LinkKind::Granted(name) => self.is_networks(name),
                _ => true,
            };
        }
        if !own {
            return Err(("in-link", "the rule is about no link of this network".to_owned()));
        }
        match rule.hook {
            Hook::Input if rule.in_link.is_none() || rule.out_link.is_some() => {
                return Err(("hook", "input has an in-link and no out-link".to_owned()));
            }
            Hook::Output if rule.out_link.is_none() || rule.in_link.is_some() => {
                return Err(("hook", "output has an out-link and no in-link".to_owned()));
            }
            _ => {}
        }
        let mut families = Vec::new();
        for (part, text) in [("source", &rule.source), ("destination", &rule.destination)] {
            if let Some(text) = text {
                let prefix: Prefix = text.parse().map_err(|_| (part, format!("{text:?} is no prefix")))?;
                families.push(prefix.address.is_ipv4());
            }
        }
        if matches!(families.as_slice(), [first, second] if first != second) {
            return Err(("destination", "not of the family of source".to_owned()));
        }
        if !rule.ports.is_empty() && rule.protocol.is_none() {
            return Err(("ports", "ports need a protocol".to_owned()));
        }
        if rule.ports.len() > MAX_SOME || rule.ports.iter().any(|(first, last)| first > last) {
            return Err(("ports", "too many, or a range that ends before it begins".to_owned()));
        }
        if rule.comment.len() > 128 {
            return Err(("comment", "longer than 128 bytes".to_owned()));
        }
        Ok(())
    }

    fn shapes(&self) -> Checked {
        for (index, shape) in self.desired.shapes.iter().enumerate() {
            if !self.grants.shapes {
                return refuse(format!("shapes[{index}]"), "rate limits are not granted");
            }
            self.own_link(shape.link).map_err(|reason| refused(format!("shapes[{index}].link"), reason))?;
            if shape.rate_bps < 8 || shape.burst == 0 || shape.burst > u64::from(u32::MAX) {
                return refuse(format!("shapes[{index}]"), "rate or burst out of range");
            }
        }
        Ok(())
    }

    fn names(&self) -> Checked {
        for (index, record) in self.desired.dns.iter().enumerate() {
            let too_long = |name: &String| name.is_empty() || name.len() > 253;
            if too_long(&record.name) || record.aliases.iter().any(too_long) {
                return refuse(format!("dns[{index}].name"), "not 1-253 bytes");
            }
            if record.addresses.len() > MAX_SOME || record.aliases.len() > MAX_SOME {
                return refuse(format!("dns[{index}]"), format!("more than {MAX_SOME} addresses or aliases"));
            }
            for text in &record.addresses {
                ip(text).map_err(|reason| refused(format!("dns[{index}].addresses"), reason))?;
            }
        }
        if let Some(resolver) = &self.desired.resolver {
            if resolver.servers.len() + resolver.search.len() + resolver.options.len() > MAX_SOME {
                return refuse("resolver", format!("more than {MAX_SOME} entries"));
            }
            for text in &resolver.servers {
                ip(text).map_err(|reason| refused("resolver.servers", reason))?;
            }
            let words = resolver.search.iter().chain(&resolver.options);
            for word in words {
                // They become lines of a file.
                if word.is_empty() || word.len() > 253 || !word.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return refuse("resolver", format!("{word:?} is no word of 1-253 printable letters"));
                }
            }
        }
        Ok(())
    }

    fn link(&self, index: LinkIndex) -> Option<(usize, &'a Link)> {
        let index = usize::try_from(index).ok()?;
        self.desired.links.get(index).map(|link| (index, link))
    }

    /// A link that this very plan makes.
    fn own_link(&self, index: LinkIndex) -> Result<&'a Link, String> {
        match self.link(index) {
            Some((_, Link { kind: LinkKind::Granted(name), .. })) => {
                Err(format!("{name} belongs to the host or network"))
            }
            Some((_, link)) => Ok(link),
            None => Err(format!("there is no link {index}")),
        }
    }
}

fn refused(field: impl Into<String>, reason: impl Into<String>) -> Refused {
    Refused { field: field.into(), reason: reason.into() }
}

fn refuse(field: impl Into<String>, reason: impl Into<String>) -> Checked {
    Err(refused(field, reason))
}

fn parse(field: String, text: &str) -> Result<Prefix, Refused> {
    text.parse().map_err(|error| refused(field, format!("{text:?}: {error}")))
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no IP address"))
}

/// An address that a link can have.
fn unicast(text: &str) -> Result<Prefix, String> {
    let prefix: Prefix = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
    let address = prefix.address;
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast {
        return Err(format!("{address} cannot be the address of a link"));
    }
    Ok(prefix)
}

/// A unicast hardware address.
fn mac(text: &str) -> Result<(), String> {
    match parse_mac(text) {
        Some(bytes) if bytes[0] & 1 == 0 && bytes != [0; 6] => Ok(()),
        _ => Err(format!("{text:?} is no unicast hardware address")),
    }
}

/// `02:42:ac:11:00:02` as bytes.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        // `from_str_radix` takes a sign.
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

fn port(link: &Link) -> Result<(), String> {
    if !link.port.is_empty() && link.controller.is_none() {
        return Err("port options without a controller".to_owned());
    }
    for (key, value) in &link.port {
        one_of("option", key, &["isolated", "hairpin", "learning", "flood"])?;
        one_of(key, value, &["0", "1"])?;
    }
    Ok(())
}

fn one_of(what: &str, word: &str, allowed: &[&str]) -> Result<(), String> {
    if allowed.contains(&word) {
        Ok(())
    } else {
        Err(format!("{what} {word:?} is none of {}", allowed.join(", ")))
    }
}

fn interface_name(name: &str, most: usize) -> bool {
    let reserved = matches!(name, "." | ".." | "lo" | "all" | "default");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= most && !reserved && name.bytes().all(plain)
}
