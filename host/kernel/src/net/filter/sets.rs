//! What the sets hold that follows from all networks and endpoints together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use wharf_plan::net::{Action, Desired, Hook, Item, Kind, Prefix, Rule, Site, items};

use super::table::{
    BRIDGES, FROM, LOCAL4, LOCAL6, MASQUERADE_OUT4, MASQUERADE_OUT6, MASQUERADE4, MASQUERADE6, OPEN4, OPEN6,
    PAIRS, SNAT_OUT4, SNAT_OUT6, SNAT4, SNAT6, TO, protocol,
};
use crate::net::host_name;
use crate::net::nft::{self, ACCEPT, DROP, Data, Element, ifname};
use crate::net::route::octets;

/// What the filter has to know of one network or endpoint beside its ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::net) struct Part {
    bridges: Vec<String>,
    local: Vec<(String, Prefix)>,
    masquerades: Vec<(Prefix, Option<String>, Option<IpAddr>)>,
    rules: Vec<(Option<String>, Option<String>, Rule)>,
}

impl Part {
    pub(in crate::net) fn of(id: &str, desired: &Desired) -> Self {
        let mut part = Self::default();
        for item in items(desired) {
            match item {
                Item::Link(link) if link.link.site == Site::Host && matches!(link.kind, Kind::Bridge(_)) => {
                    part.bridges.push(host_name(id, &link.link));
                }
                Item::Address { link, cidr, .. } if link.site == Site::Host => {
                    part.local.extend(cidr.parse().ok().map(|prefix| (host_name(id, &link), prefix)));
                }
                Item::Masquerade { from, out, to_source } => {
                    let Ok(from) = from.parse() else { continue };
                    let out = out.map(|out| host_name(id, &out));
                    let to = to_source.and_then(|to| to.parse().ok());
                    part.masquerades.push((from, out, to));
                }
                Item::Rule { input, output, rule } => {
                    let name = |link: Option<_>| link.map(|link| host_name(id, &link));
                    part.rules.push((name(input), name(output), rule));
                }
                _ => {}
            }
        }
        let Self { bridges, local, .. } = &mut part;
        local.retain(|(name, _)| bridges.contains(name));
        part
    }

    pub(in crate::net) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A network, behind a link or behind any, and what is to be done with it.
type Network<'a> = (Option<&'a str>, Prefix, Data);
/// A plan's rule that needs a rule of its own.
pub(super) type Planned = (Option<String>, Option<String>, Rule);
/// What the sets other than those of ports hold, and the rules that fit none.
pub(super) type Small = (BTreeMap<&'static str, Vec<Element>>, Vec<Planned>);

/// The sets that follow from all scopes together.
pub(super) fn small(parts: &BTreeMap<Arc<str>, Part>) -> Small {
    let mut bridges = BTreeSet::<&str>::new();
    let mut pairs = BTreeMap::<(&str, &str), bool>::new();
    let (mut from, mut to) = (BTreeSet::<&str>::new(), BTreeMap::<&str, bool>::new());
    let mut openings: Vec<Opening<'_>> = Vec::new();
    let mut local = Vec::new();
    let mut masquerades = BTreeMap::<&'static str, Vec<Network<'_>>>::new();
    let mut planned = Vec::new();
    // Of two rules about the same, the stricter one holds.
    let strict = |open: &mut bool, accept: bool| *open &= accept;
    for part in parts.values() {
        for bridge in &part.bridges {
            bridges.insert(bridge);
            strict(pairs.entry((bridge, bridge)).or_insert(true), true);
        }
        local.extend(part.local.iter().map(|(bridge, prefix)| (Some(bridge.as_str()), *prefix, Data::None)));
        for (prefix, out, source) in &part.masquerades {
            let shape = match (prefix.address.is_ipv4(), out, source) {
                (true, None, None) => MASQUERADE4,
                (true, Some(_), None) => MASQUERADE_OUT4,
                (true, None, Some(_)) => SNAT4,
                (true, Some(_), Some(_)) => SNAT_OUT4,
                (false, None, None) => MASQUERADE6,
                (false, Some(_), None) => MASQUERADE_OUT6,
                (false, None, Some(_)) => SNAT6,
                (false, Some(_), Some(_)) => SNAT_OUT6,
            };
            let data = source.map_or(Data::None, |source| Data::Bytes(octets(source)));
            masquerades.entry(shape.name).or_default().push((out.as_deref(), *prefix, data));
        }
        for entry @ (input, output, rule) in &part.rules {
            let accept = rule.action == Action::Accept;
            match (input.as_deref(), output.as_deref()) {
                _ if already(rule, output.is_some()) => {}
                (Some(input), Some(output)) if plain(rule) => {
                    strict(pairs.entry((input, output)).or_insert(true), accept);
                }
                // Whatever leaves a bridge may, unless something else is said.
                (Some(_), None) if plain(rule) && accept => {}
                (Some(input), None) if plain(rule) => drop(from.insert(input)),
                (None, Some(output)) if plain(rule) => strict(to.entry(output).or_insert(true), accept),
                (None, Some(output)) if opens(rule) => {
                    let Some(one) = Opening::of(output, rule) else { continue };
                    // The kernel takes no intervals that overlap.
                    let mut same = openings.iter().filter(|other| other.overlaps(&one));
                    match same.next() {
                        None => openings.push(one),
                        Some(other) if *other == one => {}
                        Some(_) => planned.push(entry.clone()),
                    }
                }
                _ => planned.push(entry.clone()),
            }
        }
    }
    planned.sort_by_key(|(_, _, rule)| rule.priority);
    let verdict = |open: bool| if open { ACCEPT } else { DROP };
    let one = |key: &[u8], data| Element { key: key.to_vec(), last: None, data };
    let mut sets = BTreeMap::new();
    sets.insert(BRIDGES.name, bridges.iter().map(|name| one(&ifname(name), Data::None)).collect());
    let pair = |((input, output), open): (&(&str, &str), &bool)| {
        let key = [ifname(input), ifname(output)].concat();
        // Answers and published ports pass even where containers may not speak to each other.
        one(&key, if *open { ACCEPT } else { nft::goto("closed") })
    };
    sets.insert(PAIRS.name, pairs.iter().map(pair).collect());
    sets.insert(FROM.name, from.iter().map(|name| one(&ifname(name), Data::None)).collect());
    sets.insert(TO.name, to.iter().map(|(name, open)| one(&ifname(name), verdict(*open))).collect());
    let (local4, local6): (Vec<_>, Vec<_>) =
        local.into_iter().partition(|(_, prefix, _)| prefix.address.is_ipv4());
    sets.insert(LOCAL4.name, intervals(local4));
    sets.insert(LOCAL6.name, intervals(local6));
    let (open4, open6): (Vec<_>, Vec<_>) = openings.iter().partition(|opening| opening.to.address.is_ipv4());
    sets.insert(OPEN4.name, open4.into_iter().map(Opening::element).collect());
    sets.insert(OPEN6.name, open6.into_iter().map(Opening::element).collect());
    for (name, entries) in masquerades {
        sets.insert(name, intervals(entries));
    }
    (sets, planned)
}

/// A way in from outside that a plan opens: to these addresses and ports behind a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Opening<'a> {
    bridge: &'a str,
    to: Prefix,
    protocols: (u8, u8),
    ports: (u16, u16),
}

impl<'a> Opening<'a> {
    fn of(bridge: &'a str, rule: &Rule) -> Option<Self> {
        let to = rule.destination.as_ref()?.parse().ok()?;
        let protocols = rule.protocol.map(protocol).map_or((0, u8::MAX), |number| (number, number));
        let ports = rule.ports.first().copied().unwrap_or((0, u16::MAX));
        Some(Self { bridge, to, protocols, ports })
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.bridge == other.bridge
            && (self.to.covers(&other.to) || other.to.covers(&self.to))
            && self.protocols.0 <= other.protocols.1
            && other.protocols.0 <= self.protocols.1
            && self.ports.0 <= other.ports.1
            && other.ports.0 <= self.ports.1
    }

    fn element(&self) -> Element {
        let key = |to: IpAddr, protocol: u8, port: u16| {
            let mut key = ifname(self.bridge).to_vec();
            key.extend(octets(to));
            key.extend([protocol, 0, 0, 0]);
            key.extend(port.to_be_bytes());
            key.extend([0; 2]);
            key
        };
        Element {
            key: key(self.to.network(), self.protocols.0, self.ports.0),
            last: Some(key(self.to.last(), self.protocols.1, self.ports.1)),
            data: Data::None,
        }
    }
}

/// Whether a rule opens a way in by destination, protocol and one range of ports alone.
fn opens(rule: &Rule) -> bool {
    rule.hook == Hook::Forward
        && rule.action == Action::Accept
        && rule.source.is_none()
        && rule.destination.is_some()
        && rule.ports.len() <= 1
        && !rule.established_only
}

/// What the table does for every bridge without being told: answers pass, and nobody but this host reaches its
/// loopback.
fn already(rule: &Rule, outgoing: bool) -> bool {
    let bare = rule.protocol.is_none() && rule.source.is_none() && rule.ports.is_empty();
    let loopback = || {
        let to = rule.destination.as_ref().and_then(|text| text.parse::<Prefix>().ok());
        to.is_some_and(|to| to.length >= 8 && to.address.is_ipv4() && to.address.is_loopback())
    };
    match rule.hook {
        Hook::Forward => {
            let answers = rule.action == Action::Accept && rule.established_only;
            bare && answers && outgoing && rule.destination.is_none()
        }
        Hook::Input => bare && rule.action != Action::Reject && loopback(),
        Hook::Output => false,
    }
}

/// Whether a rule says no more than from where and where to.
fn plain(rule: &Rule) -> bool {
    rule.hook == Hook::Forward
        && rule.action != Action::Reject
        && rule.protocol.is_none()
        && rule.source.is_none()
        && rule.destination.is_none()
        && rule.ports.is_empty()
        && !rule.established_only
}

/// Intervals that do not overlap: the kernel takes no others. Of nested ones the widest stays.
fn intervals(entries: Vec<Network<'_>>) -> Vec<Element> {
    let mut kept: Vec<Network<'_>> = Vec::new();
    let mut sorted = entries;
    sorted.sort_by_key(|(name, prefix, _)| (*name, prefix.length));
    for (name, prefix, data) in sorted {
        if !kept.iter().any(|(other, wide, _)| *other == name && wide.covers(&prefix)) {
            kept.push((name, prefix, data));
        }
    }
    kept.into_iter()
        .map(|(name, prefix, data)| {
            let head = name.map(|name| ifname(name).to_vec()).unwrap_or_default();
            Element {
                key: [head.clone(), octets(prefix.network())].concat(),
                last: Some([head, octets(prefix.last())].concat()),
                data,
            }
        })
        .collect()
}
