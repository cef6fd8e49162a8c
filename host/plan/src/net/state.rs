//! A desired state without indices: every item says by name which link it belongs to, so that two plans compare.

use std::collections::BTreeMap;

use super::{
    Address, Bridge, Desired, DnsRecord, Dynamic, Fdb, LinkIndex, LinkKind, Masquerade, Name, Neighbor,
    Publish, Resolver, Rule, Shape, Site, Vxlan, Wireguard,
};
use crate::types::Labels;

/// The name of a link, before a generated one got its letters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkName {
    /// As the plan says.
    Exact(String),
    /// The host makes it: at `host` from the scope's id, at `container` the first free number.
    Generated {
        /// What it begins with.
        prefix: String,
        /// Which of the plan's links with this prefix.
        ordinal: u32,
    },
}

/// Which link of a scope is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkRef {
    /// Where it is.
    pub site: Site,
    /// How it is called there.
    pub name: LinkName,
}

/// [`LinkKind`] with names for indices.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A bridge.
    Bridge(Bridge),
    /// One end of a pair.
    Veth {
        /// The other end.
        peer: LinkRef,
    },
    /// The other end of a pair.
    VethPeer {
        /// The first end.
        of: LinkRef,
    },
    /// Own MAC address on a parent.
    Macvlan {
        /// The parent.
        parent: LinkRef,
        /// `bridge`, `private`, `vepa`, `passthru`.
        mode: String,
    },
    /// The parent's MAC address, own IP addresses.
    Ipvlan {
        /// The parent.
        parent: LinkRef,
        /// `l2`, `l3`, `l3s`.
        mode: String,
    },
    /// An 802.1Q tag on a parent.
    Vlan {
        /// The parent.
        parent: LinkRef,
        /// The tag.
        id: u16,
    },
    /// A VXLAN tunnel.
    Vxlan(Vxlan),
    /// A `WireGuard` tunnel.
    Wireguard(Wireguard),
    /// A link to nowhere.
    Dummy,
    /// A link to a process.
    Tap,
    /// A routing domain with its table.
    Vrf(u32),
    /// A link of the host or of the network; used, never removed.
    Granted(String),
    /// A device of the host that moves into the container and back.
    Moved(String),
    /// Anything newer.
    Other(String, Labels),
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkState {
    /// Its identity.
    pub link: LinkRef,
    /// What it is; another kind is another link.
    pub kind: Kind,
    /// Administratively up.
    pub up: bool,
    /// Largest packet.
    pub mtu: Option<u32>,
    /// Hardware address.
    pub mac: Option<String>,
    /// The bridge it is a port of.
    pub controller: Option<LinkRef>,
    /// Options of that port.
    pub port: Labels,
    /// `ipv4.NAME` and `ipv6.NAME`, below `conf/<link>/`.
    pub sysctls: Labels,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteState {
    /// Whose table.
    pub site: Site,
    /// Where to.
    pub destination: String,
    /// Through which router.
    pub via: Option<String>,
    /// Out of which link.
    pub link: Option<LinkRef>,
    /// Preference.
    pub metric: Option<u32>,
    /// Table, if not the main one.
    pub table: Option<u32>,
    /// Preferred source address.
    pub source: Option<String>,
}

/// One thing that a scope wants to exist.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// A link.
    Link(LinkState),
    /// An address of a link.
    Address {
        /// The link.
        link: LinkRef,
        /// Address and prefix length.
        cidr: String,
        /// Without duplicate address detection.
        no_dad: bool,
    },
    /// A DHCP or SLAAC client on a link.
    Dynamic {
        /// The link.
        link: LinkRef,
        /// Which families and as whom; the index in it means nothing.
        client: Dynamic,
    },
    /// A route.
    Route(RouteState),
    /// A fixed neighbour.
    Neighbor {
        /// The link.
        link: LinkRef,
        /// Its address.
        ip: String,
        /// Its hardware address.
        mac: String,
    },
    /// A fixed forwarding entry of a VXLAN link.
    Fdb {
        /// The link.
        link: LinkRef,
        /// Whose.
        mac: String,
        /// The tunnel's other end.
        destination: String,
    },
    /// A published port.
    Publish(Publish),
    /// Source address translation.
    Masquerade {
        /// For packets from here.
        from: String,
        /// That leave through this link; else any but the scope's own bridges.
        out: Option<LinkRef>,
        /// To this address; else to the outgoing link's own.
        to_source: Option<String>,
    },
    /// A packet filter rule; the indices in it mean nothing.
    Rule {
        /// Arriving from.
        input: Option<LinkRef>,
        /// Leaving to.
        output: Option<LinkRef>,
        /// The rest of it.
        rule: Rule,
    },
    /// A limit on a link's rate; the index in it means nothing.
    Shape {
        /// The link.
        link: LinkRef,
        /// The limit.
        shape: Shape,
    },
    /// A name in the network's own zone.
    Dns(DnsRecord),
    /// Where the containers' resolver asks.
    Resolver(Resolver),
}

impl Item {
    /// The link without which this item cannot be: the kernel removes the one with the other.
    pub fn depends_on(&self) -> Option<&LinkRef> {
        match self {
            Item::Address { link, .. }
            | Item::Dynamic { link, .. }
            | Item::Neighbor { link, .. }
            | Item::Fdb { link, .. }
            | Item::Shape { link, .. } => Some(link),
            Item::Route(route) => route.link.as_ref(),
            Item::Link(link) => link.kind.parent(),
            _ => None,
        }
    }
}

impl Kind {
    /// The link that takes this one with it when it goes.
    pub fn parent(&self) -> Option<&LinkRef> {
        match self {
            Kind::Macvlan { parent, .. } | Kind::Ipvlan { parent, .. } | Kind::Vlan { parent, .. } => {
                Some(parent)
            }
            Kind::VethPeer { of } => Some(of),
            _ => None,
        }
    }
}

/// The plan as a list of items, in an order in which they can be made. References that lead nowhere are left out
/// (`validate` refuses such plans), and so is whatever is said twice.
pub fn items(desired: &Desired) -> Vec<Item> {
    let mut ordinals = BTreeMap::<(Site, &str), u32>::new();
    let mut refs = Vec::with_capacity(desired.links.len());
    for link in &desired.links {
        let name = match (&link.kind, &link.name) {
            (LinkKind::Granted(name), _) | (_, Name::Exact(name)) => LinkName::Exact(name.clone()),
            (_, Name::Generated(prefix)) => {
                let next = ordinals.entry((link.site, prefix)).or_default();
                let ordinal = *next;
                *next += 1;
                LinkName::Generated { prefix: prefix.clone(), ordinal }
            }
        };
        refs.push(LinkRef { site: link.site, name });
    }
    let find = |index: LinkIndex| usize::try_from(index).ok().and_then(|index| refs.get(index)).cloned();
    let mut out = Vec::new();
    for (index, (link, own)) in desired.links.iter().zip(&refs).enumerate() {
        let kind = match &link.kind {
            LinkKind::Bridge(bridge) => Some(Kind::Bridge(bridge.clone())),
            LinkKind::Veth => refs.get(index + 1).cloned().map(|peer| Kind::Veth { peer }),
            LinkKind::VethPeer => index
                .checked_sub(1)
                .and_then(|before| refs.get(before))
                .cloned()
                .map(|of| Kind::VethPeer { of }),
            LinkKind::Macvlan(child) => {
                find(child.parent).map(|parent| Kind::Macvlan { parent, mode: child.mode.clone() })
            }
            LinkKind::Ipvlan(child) => {
                find(child.parent).map(|parent| Kind::Ipvlan { parent, mode: child.mode.clone() })
            }
            LinkKind::Vlan(vlan) => find(vlan.parent).map(|parent| Kind::Vlan { parent, id: vlan.id }),
            LinkKind::Vxlan(vxlan) => Some(Kind::Vxlan(vxlan.clone())),
            LinkKind::Wireguard(wireguard) => Some(Kind::Wireguard(wireguard.clone())),
            LinkKind::Dummy => Some(Kind::Dummy),
            LinkKind::Tap => Some(Kind::Tap),
            LinkKind::Vrf(table) => Some(Kind::Vrf(*table)),
            LinkKind::Granted(name) => Some(Kind::Granted(name.clone())),
            LinkKind::Moved(name) => Some(Kind::Moved(name.clone())),
            LinkKind::Other((kind, attributes)) => Some(Kind::Other(kind.clone(), attributes.clone())),
        };
        let Some(kind) = kind else { continue };
        if let Kind::Granted(_) = kind {
            // Used as it is, whatever the plan says of it.
            out.push(Item::Link(LinkState {
                link: own.clone(),
                kind,
                up: true,
                mtu: None,
                mac: None,
                controller: None,
                port: Labels::new(),
                sysctls: Labels::new(),
            }));
            continue;
        }
        out.push(Item::Link(LinkState {
            link: own.clone(),
            kind,
            up: link.up,
            mtu: link.mtu,
            mac: link.mac.clone(),
            controller: link.controller.and_then(find),
            port: link.port.clone(),
            sysctls: link.sysctls.clone(),
        }));
    }
    for Address { link, cidr, no_dad } in &desired.addresses {
        out.extend(find(*link).map(|link| Item::Address { link, cidr: cidr.clone(), no_dad: *no_dad }));
    }
    for client in &desired.dynamic {
        out.extend(
            find(client.link)
                .map(|link| Item::Dynamic { link, client: Dynamic { link: 0, ..client.clone() } }),
        );
    }
    for route in &desired.routes {
        out.push(Item::Route(RouteState {
            site: route.site,
            destination: route.destination.clone(),
            via: route.via.clone(),
            link: route.link.and_then(find),
            metric: route.metric,
            table: route.table,
            source: route.source.clone(),
        }));
    }
    for Neighbor { link, ip, mac } in &desired.neighbors {
        out.extend(find(*link).map(|link| Item::Neighbor { link, ip: ip.clone(), mac: mac.clone() }));
    }
    for Fdb { link, mac, destination } in &desired.fdb {
        let entry = |link| Item::Fdb { link, mac: mac.clone(), destination: destination.clone() };
        out.extend(find(*link).map(entry));
    }
    for Masquerade { from_cidr, out: through, to_source } in &desired.masquerades {
        let out_link = through.and_then(find);
        out.push(Item::Masquerade { from: from_cidr.clone(), out: out_link, to_source: to_source.clone() });
    }
    for rule in &desired.rules {
        out.push(Item::Rule {
            input: rule.in_link.and_then(find),
            output: rule.out_link.and_then(find),
            rule: Rule { in_link: None, out_link: None, ..rule.clone() },
        });
    }
    out.extend(desired.publishes.iter().cloned().map(Item::Publish));
    for shape in &desired.shapes {
        out.extend(
            find(shape.link).map(|link| Item::Shape { link, shape: Shape { link: 0, ..shape.clone() } }),
        );
    }
    out.extend(desired.dns.iter().cloned().map(Item::Dns));
    out.extend(desired.resolver.iter().cloned().map(Item::Resolver));
    let mut seen = std::collections::BTreeSet::new();
    out.retain(|item| seen.insert(item.clone()));
    out
}
