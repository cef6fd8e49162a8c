//! A model of a host's network: checks plans, keeps what they made, and says which packets would get through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::net::{Action, Desired, Hook, LinkIndex, LinkKind, Name, Protocol, Publish, Rule, Site};

/// Networks and endpoints that plans have made.
#[derive(Debug, Clone, Default)]
pub struct NetModel {
    networks: BTreeMap<String, Desired>,
    endpoints: BTreeMap<String, Attached>,
}

#[derive(Debug, Clone)]
struct Attached {
    network: String,
    state: Desired,
}

/// One side of a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side<'a> {
    /// An endpoint, by the id under which it was attached.
    Endpoint(&'a str),
    /// Somewhere beyond the host.
    World,
}

/// A packet that opens a connection, or an answer to one.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Where it comes from.
    pub from: Side<'a>,
    /// Where it goes.
    pub to: Side<'a>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port it goes to.
    pub port: u16,
    /// Whether it belongs to a connection that got through before.
    pub answer: bool,
}

type Outcome<T> = Result<T, String>;

impl NetModel {
    /// A host without networks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.endpoints.is_empty()
    }

    /// Makes a network what the plan says.
    pub fn apply_network(&mut self, id: &str, state: &Desired) -> Outcome<()> {
        check(state, None)?;
        let names = host_names(state);
        for (other, plan) in self.networks.iter().filter(|(other, _)| *other != id) {
            if let Some(name) = host_names(plan).intersection(&names).next() {
                return Err(format!("{name} belongs to network {other}"));
            }
        }
        self.networks.insert(id.to_owned(), state.clone());
        Ok(())
    }

    /// Makes an endpoint what the plan says.
    pub fn apply_endpoint(&mut self, network: &str, id: &str, state: &Desired) -> Outcome<()> {
        let plan = self.networks.get(network).ok_or_else(|| format!("no network {network}"))?;
        check(state, Some(plan))?;
        let own: BTreeSet<IpAddr> = addresses(state).collect();
        let macs: BTreeSet<&String> = state.links.iter().filter_map(|link| link.mac.as_ref()).collect();
        for (other, attached) in
            self.endpoints.iter().filter(|(other, it)| *other != id && it.network == network)
        {
            if let Some(address) = addresses(&attached.state).find(|address| own.contains(address)) {
                return Err(format!("endpoint {other} has {address} already"));
            }
            if let Some(mac) = attached
                .state
                .links
                .iter()
                .filter_map(|link| link.mac.as_ref())
                .find(|mac| macs.contains(mac))
            {
                return Err(format!("endpoint {other} has {mac} already"));
            }
        }
        self.endpoints.insert(id.to_owned(), Attached { network: network.to_owned(), state: state.clone() });
        Ok(())
    }

    /// Undoes a network, from the record alone.
    pub fn remove_network(&mut self, id: &str) {
        self.networks.remove(id);
    }

    /// Undoes an endpoint, from the record alone.
    pub fn remove_endpoint(&mut self, id: &str) {
        self.endpoints.remove(id);
    }

    /// The published port that a packet from beyond the host meets first, with the endpoint behind it.
    pub fn published(&self, host: IpAddr, protocol: Protocol, port: u16) -> Option<(&str, &Publish)> {
        self.endpoints.iter().find_map(|(id, attached)| {
            let hit = attached.state.publishes.iter().find(|publish| {
                let last = publish.host_port.saturating_add(publish.count.saturating_sub(1));
                let address = publish.host_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
                // An address of the host says its family; without one it is the container's.
                let family = match address {
                    Some(address) => address.is_ipv4() == host.is_ipv4(),
                    None => {
                        publish.container_ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == host.is_ipv4())
                    }
                };
                publish.protocol == protocol
                    && (publish.host_port..=last).contains(&port)
                    && family
                    && address.is_none_or(|address| address.is_unspecified() || address == host)
            })?;
            Some((id.as_str(), hit))
        })
    }

    /// Whether packets of this endpoint that leave the host get another source address.
    pub fn masqueraded(&self, endpoint: &str) -> bool {
        let Some(attached) = self.endpoints.get(endpoint) else { return false };
        let Some(network) = self.networks.get(&attached.network) else { return false };
        let sources: Vec<Cidr> = network
            .masquerades
            .iter()
            .filter_map(|masquerade| Cidr::parse(&masquerade.from_cidr).ok())
            .collect();
        addresses(&attached.state).any(|own| sources.iter().any(|source| source.contains(own)))
    }

    /// Whether the packet arrives: by the links, the routes of the container, and the rules of everybody in order.
    pub fn passes(&self, packet: &Packet<'_>) -> bool {
        let (from, to) = (self.side(packet.from), self.side(packet.to));
        if let (Some(from), Some(to)) = (&from, &to)
            && from.bridge == to.bridge
        {
            // Ports that are both isolated do not see each other; anything else goes from port to port.
            return !(from.isolated && to.isolated);
        }
        let known = |side: Side<'_>, found: &Option<End<'_>>| side == Side::World || found.is_some();
        if !known(packet.from, &from) || !known(packet.to, &to) {
            return false;
        }
        if from.as_ref().is_some_and(|end| !end.way_out) {
            return false;
        }
        let mut rules: Vec<(Stage, i32, Action)> = self
            .networks
            .values()
            .chain(self.endpoints.values().map(|attached| &attached.state))
            .flat_map(|state| state.rules.iter().map(move |rule| (rule, state)))
            .filter(|(rule, state)| {
                rule.hook == Hook::Forward && matches(rule, state, packet, from.as_ref(), to.as_ref())
            })
            .map(|(rule, _)| (stage(rule), rule.priority, rule.action))
            .collect();
        if packet.answer {
            rules.push((Stage::Answers, 0, Action::Accept));
        }
        // Of two about the same the stricter one holds.
        rules.sort_by_key(|(stage, priority, action)| (*stage, *priority, *action == Action::Accept));
        match rules.first() {
            Some((_, _, action)) => *action == Action::Accept,
            // Out of a bridge everything goes, into one nothing.
            None => to.is_none(),
        }
    }

    fn side(&self, side: Side<'_>) -> Option<End<'_>> {
        let Side::Endpoint(id) = side else { return None };
        let state = &self.endpoints.get(id)?.state;
        let port = state.links.iter().find(|link| link.site == Site::Host && link.controller.is_some())?;
        let bridge = host_name(state, port.controller?)?;
        let isolated = port.port.iter().any(|(key, value)| key == "isolated" && value == "1");
        let way_out = state.routes.iter().any(|route| {
            route.site == Site::Container && matches!(route.destination.as_str(), "0.0.0.0/0" | "::/0")
        });
        Some(End { bridge, isolated, way_out, addresses: addresses(state).collect() })
    }
}

/// The order in which the host asks, whatever network a rule is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    TwoLinks,
    Leaving,
    Special,
    Answers,
    Opened,
    Entering,
}

fn stage(rule: &Rule) -> Stage {
    let bare = rule.protocol.is_none()
        && rule.source.is_none()
        && rule.destination.is_none()
        && rule.ports.is_empty()
        && !rule.established_only;
    match (rule.in_link.is_some(), rule.out_link.is_some()) {
        (true, true) if bare => Stage::TwoLinks,
        (true, false) if bare && rule.action != Action::Accept => Stage::Leaving,
        (_, true) | (true, false) if bare => Stage::Entering,
        (false, true)
            if rule.action == Action::Accept
                && rule.source.is_none()
                && !rule.established_only
                && rule.ports.len() <= 1 =>
        {
            Stage::Opened
        }
        _ => Stage::Special,
    }
}

struct End<'a> {
    bridge: &'a str,
    isolated: bool,
    way_out: bool,
    addresses: Vec<IpAddr>,
}

fn matches(
    rule: &Rule,
    state: &Desired,
    packet: &Packet<'_>,
    from: Option<&End<'_>>,
    to: Option<&End<'_>>,
) -> bool {
    let on = |index: Option<LinkIndex>, end: Option<&End<'_>>| {
        index.is_none_or(|index| {
            host_name(state, index).is_some_and(|name| end.is_some_and(|end| end.bridge == name))
        })
    };
    let within = |cidr: &Option<String>, end: Option<&End<'_>>| {
        cidr.as_ref().is_none_or(|cidr| {
            Cidr::parse(cidr)
                .is_ok_and(|cidr| end.is_some_and(|end| end.addresses.iter().any(|own| cidr.contains(*own))))
        })
    };
    on(rule.in_link, from)
        && on(rule.out_link, to)
        && within(&rule.source, from)
        && within(&rule.destination, to)
        && rule.protocol.is_none_or(|protocol| protocol == packet.protocol)
        && (rule.ports.is_empty()
            || rule.ports.iter().any(|(first, last)| (*first..=*last).contains(&packet.port)))
        && (!rule.established_only || packet.answer)
}

fn host_names(state: &Desired) -> BTreeSet<&str> {
    let own = state
        .links
        .iter()
        .filter(|link| link.site == Site::Host && !matches!(link.kind, LinkKind::Granted(_)));
    own.filter_map(|link| match &link.name {
        Name::Exact(name) => Some(name.as_str()),
        Name::Generated(_) => None,
    })
    .collect()
}

fn host_name(state: &Desired, index: LinkIndex) -> Option<&str> {
    let link = state.links.get(usize::try_from(index).ok()?)?;
    match (&link.kind, &link.name) {
        (LinkKind::Granted(name), _) | (_, Name::Exact(name)) => Some(name),
        (_, Name::Generated(_)) => None,
    }
}

fn addresses(state: &Desired) -> impl Iterator<Item = IpAddr> {
    state.addresses.iter().filter_map(|address| Cidr::parse(&address.cidr).ok()).map(|cidr| cidr.address())
}

/// The rules of the real host that do not depend on grants. `network` is there for an endpoint's plan.
pub fn check(state: &Desired, network: Option<&Desired>) -> Outcome<()> {
    let mut names = BTreeSet::new();
    for (index, link) in state.links.iter().enumerate() {
        let wrong = |what: &str| Err(format!("link {index}: {what}"));
        if let LinkKind::Granted(name) = &link.kind {
            if !network.is_some_and(|network| host_names(network).contains(name.as_str())) {
                return wrong("uses a link that its network did not make");
            }
            continue;
        }
        if link.site == Site::Container && network.is_none() {
            return wrong("a network has no container");
        }
        let next = state.links.get(index + 1).map(|link| &link.kind);
        let before = index.checked_sub(1).and_then(|at| state.links.get(at)).map(|link| &link.kind);
        match &link.kind {
            LinkKind::Veth if !matches!(next, Some(LinkKind::VethPeer)) => {
                return wrong("veth without its peer");
            }
            LinkKind::VethPeer if !matches!(before, Some(LinkKind::Veth)) => {
                return wrong("peer without its veth");
            }
            LinkKind::Bridge(_) if link.site != Site::Host => return wrong("a bridge belongs on the host"),
            _ => {}
        }
        let (name, most) = match &link.name {
            Name::Exact(name) => (name, 15),
            Name::Generated(name) => (name, 9),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > most || !name.bytes().all(plain) {
            return wrong(&format!("bad name {name:?}"));
        }
        if matches!(link.name, Name::Exact(_)) && !names.insert((link.site as u8, name)) {
            return wrong(&format!("{name} is used twice"));
        }
        if let Some(mac) = &link.mac
            && !unicast_mac(mac)
        {
            return wrong(&format!("{mac:?} is no unicast hardware address"));
        }
        if link.mtu.is_some_and(|mtu| !(68..=65535).contains(&mtu)) {
            return wrong("bad MTU");
        }
        if let Some(controller) = link.controller {
            let at = usize::try_from(controller).unwrap_or(usize::MAX);
            if at >= index || state.links.get(at).is_none_or(|other| other.site != link.site) {
                return wrong("its controller is not an earlier link at the same site");
            }
        }
    }
    for address in &state.addresses {
        let link = link(state, address.link)?;
        let cidr = Cidr::parse(&address.cidr).map_err(|error| error.message)?;
        if matches!(link.kind, LinkKind::Granted(_)) || cidr.address().is_unspecified() {
            return Err(format!("address {cidr} on a link that is not the plan's, or no address"));
        }
    }
    for route in &state.routes {
        Cidr::parse(&route.destination).map_err(|error| error.message)?;
        let Some(via) = &route.via else { continue };
        let via: IpAddr = via.parse().map_err(|_| format!("route via {via:?}"))?;
        let near = state.addresses.iter().any(|address| {
            route.link.is_none_or(|link| link == address.link)
                && Cidr::parse(&address.cidr).is_ok_and(|cidr| cidr.contains(via) && cidr.address() != via)
        });
        if !near {
            return Err(format!("{via} cannot be reached directly"));
        }
    }
    let own: BTreeSet<IpAddr> = addresses(state).collect();
    for publish in &state.publishes {
        let inside: IpAddr =
            publish.container_ip.parse().map_err(|_| format!("publish to {:?}", publish.container_ip))?;
        if network.is_none() || !own.contains(&inside) {
            return Err(format!("{inside} is no address of this endpoint"));
        }
        if publish.count == 0 || publish.container_port == 0 {
            return Err("publish of no port".to_owned());
        }
        if let Some(text) = &publish.host_ip {
            let outside: IpAddr = text.parse().map_err(|_| format!("publish on {text:?}"))?;
            let across = outside.is_ipv6() && inside.is_ipv4() && publish.protocol != Protocol::Sctp;
            if outside.is_ipv4() != inside.is_ipv4() && !across {
                return Err(format!("{outside} cannot lead to {inside}"));
            }
        }
    }
    let networks: Vec<Cidr> = [Some(state), network]
        .into_iter()
        .flatten()
        .flat_map(|plan| plan.addresses.iter().filter_map(|address| Cidr::parse(&address.cidr).ok()))
        .collect();
    for masquerade in &state.masquerades {
        let from = Cidr::parse(&masquerade.from_cidr).map_err(|error| error.message)?;
        if !networks.iter().any(|own| own.network().covers(&from)) {
            return Err(format!("masquerade of {from}, which is not of this network"));
        }
    }
    for rule in &state.rules {
        for index in [rule.in_link, rule.out_link].into_iter().flatten() {
            if link(state, index)?.site != Site::Host {
                return Err("a rule about a link in the container".to_owned());
            }
        }
        let shape = match rule.hook {
            Hook::Input => rule.in_link.is_some() && rule.out_link.is_none(),
            Hook::Output => rule.out_link.is_some() && rule.in_link.is_none(),
            Hook::Forward => rule.in_link.is_some() || rule.out_link.is_some(),
        };
        if !shape || (!rule.ports.is_empty() && rule.protocol.is_none()) {
            return Err(format!(
                "rule {:?} is about no link of this network, or ports without a protocol",
                rule.comment
            ));
        }
    }
    Ok(())
}

fn link(state: &Desired, index: LinkIndex) -> Outcome<&crate::net::Link> {
    let at = usize::try_from(index).unwrap_or(usize::MAX);
    state.links.get(at).ok_or_else(|| format!("there is no link {index}"))
}

fn unicast_mac(text: &str) -> bool {
    let parts: Vec<u8> = text.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    text.len() == 17
        && parts.len() == 6
        && parts.first().is_some_and(|first| first & 1 == 0)
        && parts.iter().any(|byte| *byte != 0)
}
