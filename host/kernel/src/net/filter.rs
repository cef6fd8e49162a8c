//! The packet filter: one table, one set or map per purpose, no rule per container.
//!
//! ```text
//! guard        prerouting, raw      127.0.0.0/8 to or from anything but the loopback is dropped
//! prerouting   prerouting, dstnat   what is for this host goes through `published`
//! output       output, dstnat       so does what this host sends to itself
//! published                         ports to containers, by map: first those of one address, then those of all
//! postrouting  postrouting, srcnat  hairpin, loopback, masquerade
//! forward      forward, filter      between bridges and from outside: only what answers or was published
//! ```
//!
//! What is in the kernel is known here, so that a change is the difference, in one transaction. If somebody flushed
//! the table, the change fails as a whole and the table is written anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use wharf_plan::net::{Action, Desired, Hook, Item, Kind, Prefix, Protocol, Rule, Site, items};

use super::nft::{
    self, ACCEPT, At, DROP, Data, Element, IPV4, IPV6, META_IIF, META_IIFGROUP, META_IIFNAME, META_L4PROTO,
    META_OIFGROUP, META_OIFNAME, REG, Shape, TYPE_IFNAME, TYPE_IPV4, TYPE_IPV6, TYPE_PORT, TYPE_PROTOCOL,
    VERDICT, ifname,
};
use super::route::{GROUP, GROUP_MASK, octets};
use super::wire::{Batch, Socket};
use super::{Error, host_name};

const IFNAME: (u32, u32) = (TYPE_IFNAME, 16);
const V4: (u32, u32) = (TYPE_IPV4, 4);
const V6: (u32, u32) = (TYPE_IPV6, 16);
const PROTOCOL: (u32, u32) = (TYPE_PROTOCOL, 1);
const PORT: (u32, u32) = (TYPE_PORT, 2);
const TO4: (u32, u32) = (TYPE_IPV4 << 6 | TYPE_PORT, 8);
const TO6: (u32, u32) = (TYPE_IPV6 << 6 | TYPE_PORT, 20);
const TO_VERDICT: (u32, u32) = (VERDICT, 0);

const fn shape(
    name: &'static str,
    key: &'static [(u32, u32)],
    interval: bool,
    data: Option<(u32, u32)>,
) -> Shape {
    Shape { name, key, interval, data }
}

const PUBLISHED4: Shape = shape("published4", &[PROTOCOL, V4, PORT], false, Some(TO4));
const PUBLISHED4_ANY: Shape = shape("published4-any", &[PROTOCOL, PORT], false, Some(TO4));
const PUBLISHED6: Shape = shape("published6", &[PROTOCOL, V6, PORT], false, Some(TO6));
const PUBLISHED6_ANY: Shape = shape("published6-any", &[PROTOCOL, PORT], false, Some(TO6));
const BRIDGES: Shape = shape("bridges", &[IFNAME], false, None);
const PAIRS: Shape = shape("pairs", &[IFNAME, IFNAME], false, Some(TO_VERDICT));
const FROM: Shape = shape("closed-from", &[IFNAME], false, None);
const TO: Shape = shape("to", &[IFNAME], false, Some(TO_VERDICT));
const LOCAL4: Shape = shape("local4", &[IFNAME, V4], true, None);
const LOCAL6: Shape = shape("local6", &[IFNAME, V6], true, None);
const MASQUERADE4: Shape = shape("masquerade4", &[V4], true, None);
const MASQUERADE6: Shape = shape("masquerade6", &[V6], true, None);
const MASQUERADE_OUT4: Shape = shape("masquerade-out4", &[IFNAME, V4], true, None);
const MASQUERADE_OUT6: Shape = shape("masquerade-out6", &[IFNAME, V6], true, None);
const SNAT4: Shape = shape("snat4", &[V4], true, Some(V4));
const SNAT6: Shape = shape("snat6", &[V6], true, Some(V6));
const SNAT_OUT4: Shape = shape("snat-out4", &[IFNAME, V4], true, Some(V4));
const SNAT_OUT6: Shape = shape("snat-out6", &[IFNAME, V6], true, Some(V6));

const OPEN4: Shape = shape("open4", &[IFNAME, V4, PROTOCOL, PORT], true, None);
const OPEN6: Shape = shape("open6", &[IFNAME, V6, PROTOCOL, PORT], true, None);

const SETS: [&Shape; 20] = [
    &OPEN4,
    &OPEN6,
    &PUBLISHED4,
    &PUBLISHED4_ANY,
    &PUBLISHED6,
    &PUBLISHED6_ANY,
    &BRIDGES,
    &PAIRS,
    &FROM,
    &TO,
    &LOCAL4,
    &LOCAL6,
    &MASQUERADE4,
    &MASQUERADE6,
    &MASQUERADE_OUT4,
    &MASQUERADE_OUT6,
    &SNAT4,
    &SNAT6,
    &SNAT_OUT4,
    &SNAT_OUT6,
];

/// Chains of plans' own rules that fit no set.
const PLANNED: [(&str, Hook, u32); 3] =
    [("plans-input", Hook::Input, 1), ("plans-forward", Hook::Forward, 2), ("plans-output", Hook::Output, 3)];

/// A published port: protocol and the host's side. The unspecified address stands for all of its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) protocol: Protocol,
    pub(super) number: u16,
    pub(super) host: IpAddr,
}

/// What the filter has to know of one network or endpoint beside its ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Part {
    bridges: Vec<String>,
    local: Vec<(String, Prefix)>,
    masquerades: Vec<(Prefix, Option<String>, Option<IpAddr>)>,
    rules: Vec<(Option<String>, Option<String>, Rule)>,
}

impl Part {
    pub(super) fn of(id: &str, desired: &Desired) -> Self {
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

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A network, behind a link or behind any, and what is to be done with it.
type Network<'a> = (Option<&'a str>, Prefix, Data);
/// A plan's rule that needs a rule of its own.
type Planned = (Option<String>, Option<String>, Rule);
/// What the sets other than those of ports hold, and the rules that fit none.
type Small = (BTreeMap<&'static str, Vec<Element>>, Vec<Planned>);

/// The table, as it is in the kernel.
#[derive(Debug)]
pub(super) struct Filter {
    socket: Socket,
    table: Arc<str>,
    there: bool,
    parts: BTreeMap<Arc<str>, Part>,
    ports: BTreeMap<Port, (SocketAddr, Arc<str>)>,
    owned: BTreeMap<Arc<str>, BTreeSet<Port>>,
    written: Small,
    /// Families whose forwarding Wharf switched on: other traffic than that of containers is not routed.
    closed: BTreeSet<u8>,
}

impl Filter {
    pub(super) fn open(table: Arc<str>) -> Result<Self, Error> {
        let mut socket = Socket::open(libc::NETLINK_NETFILTER)?;
        // 65536 ports of one batch need some 8 MiB.
        crate::sys::netlink::set_buffers(std::os::fd::AsFd::as_fd(socket.fd()), 16 << 20)
            .map_err(|error| super::wire::system("make room for the packet filter's messages", &error))?;
        let mut closed = BTreeSet::new();
        for (family, chain) in ROUTERS {
            match nft::has_chain(&mut socket, &table, chain) {
                Ok(true) => drop(closed.insert(family)),
                Ok(false) => {}
                Err(Error::System { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    return Err(Error::Missing(
                        "nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)".to_owned(),
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            socket,
            table,
            there: false,
            parts: BTreeMap::new(),
            ports: BTreeMap::new(),
            owned: BTreeMap::new(),
            written: Small::default(),
            closed,
        })
    }

    /// The netlink port of the socket that makes all changes.
    pub(super) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Who has this port, or one that includes it or that it includes.
    pub(super) fn holder(&self, port: &Port) -> Option<&Arc<str>> {
        let any = |ip: &IpAddr| ip.is_unspecified();
        let first = Port { host: IpAddr::from([0; 4]), ..*port };
        self.ports
            .range(first..)
            .take_while(|(other, _)| (other.protocol, other.number) == (port.protocol, port.number))
            .find(|(other, _)| {
                other.host.is_ipv4() == port.host.is_ipv4()
                    && (other.host == port.host || any(&other.host) || any(&port.host))
            })
            .map(|(_, (_, owner))| owner)
    }

    /// Switches other forwarding of this family off, from the next change on.
    pub(super) fn close(&mut self, family: u8) -> Result<(), Error> {
        if self.closed.insert(family) { self.rewrite() } else { Ok(()) }
    }

    /// Replaces what is known of a scope, removes ports of it and adds some. All or nothing.
    pub(super) fn change(
        &mut self,
        id: &str,
        part: Option<Part>,
        remove: &[Port],
        add: &[(Port, SocketAddr)],
    ) -> Result<(), Error> {
        let owner: Arc<str> = Arc::from(id);
        let part = part.unwrap_or_default();
        let old = self.parts.get(id).cloned().unwrap_or_default();
        self.know(&owner, part.clone());
        let small = (old != part).then(|| small(&self.parts));
        // Only ports that this scope owns: a record that is out of date removes nobody else's.
        let mut removed = Vec::new();
        for port in remove {
            if self.ports.get(port).is_some_and(|(_, holder)| **holder == *id) {
                removed.extend(self.take(port).map(|to| (*port, to)));
            }
        }
        for (port, to) in add {
            self.put(*port, *to, owner.clone());
        }
        let result = if self.there {
            self.write(small.as_ref(), &removed, add)
        } else if self.parts.is_empty() && self.ports.is_empty() {
            Ok(())
        } else {
            self.rewrite()
        };
        match result {
            Ok(()) => Ok(()),
            Err(error) => {
                for (port, _) in add {
                    self.take(port);
                }
                for (port, to) in removed {
                    self.put(port, to, owner.clone());
                }
                self.know(&owner, old);
                Err(error)
            }
        }
    }

    fn know(&mut self, id: &Arc<str>, part: Part) {
        if part.is_empty() {
            self.parts.remove(id);
        } else {
            self.parts.insert(id.clone(), part);
        }
    }

    fn put(&mut self, port: Port, to: SocketAddr, owner: Arc<str>) {
        self.ports.insert(port, (to, owner.clone()));
        self.owned.entry(owner).or_default().insert(port);
    }

    fn take(&mut self, port: &Port) -> Option<SocketAddr> {
        let (to, owner) = self.ports.remove(port)?;
        if let Some(owned) = self.owned.get_mut(&owner) {
            owned.remove(port);
            if owned.is_empty() {
                self.owned.remove(&owner);
            }
        }
        Some(to)
    }

    /// The difference, or if that does not fit what is in the kernel, everything.
    fn write(
        &mut self,
        small: Option<&Small>,
        remove: &[(Port, SocketAddr)],
        add: &[(Port, SocketAddr)],
    ) -> Result<(), Error> {
        let mut batch = nft::begin(&self.table);
        let empty = batch.len();
        write_ports(&mut batch, false, remove.iter().copied());
        if let Some((sets, rules)) = small {
            let (old, old_rules) = &self.written;
            for shape in SETS {
                let none = Vec::new();
                let before = old.get(shape.name).unwrap_or(&none);
                let after = sets.get(shape.name).unwrap_or(&none);
                let only = |these: &[Element], others: &[Element]| -> Vec<Element> {
                    these.iter().filter(|one| !others.contains(one)).cloned().collect()
                };
                nft::elements(&mut batch, false, shape, &only(before, after));
                nft::elements(&mut batch, true, shape, &only(after, before));
            }
            if rules != old_rules {
                write_plans(&mut batch, rules);
            }
        }
        write_ports(&mut batch, true, add.iter().copied());
        if batch.len() == empty {
            return Ok(());
        }
        match nft::commit(&mut self.socket, batch) {
            Ok(()) => {
                if let Some(small) = small {
                    self.written = small.clone();
                }
                Ok(())
            }
            Err(failure) if matches!(failure.errno, libc::ENOENT | libc::EEXIST) => {
                tracing::warn!(error = %failure.error, "the packet filter was changed by somebody else; writing it anew");
                self.rewrite()
            }
            Err(failure) => Err(named(failure.error)),
        }
    }

    /// Writes the whole table, in one transaction, from what is known.
    pub(super) fn rewrite(&mut self) -> Result<(), Error> {
        let small = small(&self.parts);
        let mut batch = nft::begin(&self.table);
        nft::table(&mut batch);
        nft::delete_table(&mut batch);
        if self.parts.is_empty() && self.ports.is_empty() && self.closed.is_empty() {
            nft::commit(&mut self.socket, batch).map_err(|failure| named(failure.error))?;
            (self.there, self.written) = (false, small);
            return Ok(());
        }
        nft::table(&mut batch);
        chains(&mut batch, &self.closed);
        for (number, shape) in (1..).zip(SETS) {
            nft::set(&mut batch, shape, number);
        }
        let (sets, planned) = &small;
        for shape in SETS {
            nft::elements(&mut batch, true, shape, sets.get(shape.name).map_or(&[], Vec::as_slice));
        }
        write_ports(&mut batch, true, self.ports.iter().map(|(port, (to, _))| (*port, *to)));
        rules(&mut batch, &self.closed);
        write_plans(&mut batch, planned);
        nft::commit(&mut self.socket, batch).map_err(|failure| named(failure.error))?;
        (self.there, self.written) = (true, small);
        Ok(())
    }

    /// Forgets everything and takes this instead, then writes the table. The result says how many elements of what was
    /// known before are gone.
    pub(super) fn replace(
        &mut self,
        parts: BTreeMap<Arc<str>, Part>,
        ports: BTreeMap<Port, (SocketAddr, Arc<str>)>,
    ) -> Result<usize, Error> {
        let gone = self.ports.keys().filter(|port| !ports.contains_key(port)).count();
        self.parts = parts.into_iter().filter(|(_, part)| !part.is_empty()).collect();
        (self.ports, self.owned) = (BTreeMap::new(), BTreeMap::new());
        for (port, (to, owner)) in ports {
            self.put(port, to, owner);
        }
        self.rewrite()?;
        Ok(gone)
    }

    /// Drops scopes that are not alive.
    pub(super) fn retain(&mut self, alive: impl Fn(&str) -> bool) -> Result<usize, Error> {
        let parts = self
            .parts
            .iter()
            .filter(|(id, _)| alive(id))
            .map(|(id, part)| (id.clone(), part.clone()))
            .collect();
        let ports =
            self.ports.iter().filter(|(_, (_, id))| alive(id)).map(|(k, v)| (*k, v.clone())).collect();
        if self.parts == parts && self.ports == ports { Ok(0) } else { self.replace(parts, ports) }
    }

    /// The ports of a scope, and where they lead.
    pub(super) fn ports_of(&self, id: &str) -> Vec<(Port, SocketAddr)> {
        let owned = self.owned.get(id).into_iter().flatten();
        owned.filter_map(|port| self.ports.get(port).map(|(to, _)| (*port, *to))).collect()
    }
}

/// What the kernel says when an expression or a kind of set is not built in.
fn named(error: Error) -> Error {
    match &error {
        Error::System { what, source, .. } if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Error::Missing(format!(
                "a part of nftables that is needed to {what} (CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_FIB_INET, CONFIG_NFT_CT)"
            ))
        }
        _ => error,
    }
}

fn protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn write_ports(batch: &mut Batch, add: bool, ports: impl Iterator<Item = (Port, SocketAddr)>) {
    let mut by_set: [Vec<Element>; 4] = Default::default();
    for (port, to) in ports {
        let any = port.host.is_unspecified();
        let mut key = vec![protocol(port.protocol), 0, 0, 0];
        if !any {
            key.extend(octets(port.host));
        }
        key.extend(port.number.to_be_bytes());
        key.extend([0; 2]);
        let mut data = octets(to.ip());
        data.extend(to.port().to_be_bytes());
        data.extend([0; 2]);
        let [v4, v4_any, v6, v6_any] = &mut by_set;
        let set = match (port.host.is_ipv4(), any) {
            (true, false) => v4,
            (true, true) => v4_any,
            (false, false) => v6,
            (false, true) => v6_any,
        };
        set.push(Element { key, last: None, data: Data::Bytes(data) });
    }
    for (shape, elements) in
        [&PUBLISHED4, &PUBLISHED4_ANY, &PUBLISHED6, &PUBLISHED6_ANY].into_iter().zip(by_set)
    {
        nft::elements(batch, add, shape, &elements);
    }
}

/// The sets that follow from all scopes together.
fn small(parts: &BTreeMap<Arc<str>, Part>) -> Small {
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

const ROUTERS: [(u8, &str); 2] = [(IPV4, "router4"), (IPV6, "router6")];

fn chains(batch: &mut Batch, closed: &BTreeSet<u8>) {
    let at = |kind, hook, priority| Some(At { kind, hook, priority });
    nft::chain(batch, "guard", at("filter", 0, -300));
    nft::chain(batch, "published", None);
    nft::chain(batch, "prerouting", at("nat", 0, -100));
    nft::chain(batch, "output", at("nat", 3, -100));
    nft::chain(batch, "postrouting", at("nat", 4, 100));
    nft::chain(batch, "closed", None);
    for (name, hook, number) in PLANNED {
        // The forward chain jumps to its one; the others are of use only with rules, but cost little.
        nft::chain(batch, name, if hook == Hook::Forward { None } else { at("filter", number, 0) });
    }
    nft::chain(batch, "forward", at("filter", 2, 0));
    for (family, name) in ROUTERS {
        if closed.contains(&family) {
            nft::chain(batch, name, at("filter", 2, 10));
        }
    }
}

/// All rules: their number does not depend on that of containers, ports or networks.
fn rules(batch: &mut Batch, closed: &BTreeSet<u8>) {
    let loopback = 1_u32.to_ne_bytes();
    for (offset, what) in [(12, "nobody else is 127.0.0.0/8"), (16, "127.0.0.0/8 is reached from here only")]
    {
        nft::rule(batch, "guard", what, |rule| {
            rule.meta(META_IIF, REG).differs(REG, &loopback).family(IPV4);
            rule.payload(1, offset, 4, REG).mask(REG, &[255, 0, 0, 0]).equals(REG, &[127, 0, 0, 0]).drop();
        });
    }
    // The kernel lets no answer to ::1 in from a bridge, so a connection redirected there would hang. Left alone it
    // finds the port closed, and the client goes on to 127.0.0.1.
    nft::rule(batch, "output", "IPv6 has no route_localnet", |rule| {
        let localhost = octets(IpAddr::from(std::net::Ipv6Addr::LOCALHOST));
        rule.family(IPV6).payload(1, 24, 16, REG).equals(REG, &localhost).accept();
    });
    for chain in ["prerouting", "output"] {
        nft::rule(batch, chain, "only what is for this host", |rule| {
            rule.destination_is_local().jump("published");
        });
    }
    for (family, offset, length, one, any) in
        [(IPV4, 16, 4, &PUBLISHED4, &PUBLISHED4_ANY), (IPV6, 24, 16, &PUBLISHED6, &PUBLISHED6_ANY)]
    {
        let words = length / 4;
        nft::rule(batch, "published", "ports of one address", |rule| {
            rule.family(family).meta(META_L4PROTO, REG).payload(1, offset, length, REG + 1);
            rule.payload(2, 2, 2, REG + 1 + words).map(one.name, REG).dnat(family, REG + words);
        });
        nft::rule(batch, "published", "ports of all addresses", |rule| {
            rule.family(family).meta(META_L4PROTO, REG).payload(2, 2, 2, REG + 1);
            rule.map(any.name, REG).dnat(family, REG + words);
        });
    }
    postrouting(batch);
    forward(batch);
    for (family, name) in ROUTERS {
        if !closed.contains(&family) {
            continue;
        }
        // Also those of another daemon on this host: all links of ours have such a group.
        for key in [META_IIFGROUP, META_OIFGROUP] {
            nft::rule(batch, name, "containers", |rule| {
                let mask = GROUP_MASK.to_ne_bytes();
                rule.meta(key, REG).mask(REG, &mask).equals(REG, &GROUP.to_ne_bytes()).accept();
            });
        }
        nft::rule(batch, name, "this host was no router before", |rule| rule.family(family).drop());
    }
}

fn postrouting(batch: &mut Batch) {
    for (family, offset, length, local, masquerade, masquerade_out, snat, snat_out) in [
        (IPV4, 12, 4, &LOCAL4, &MASQUERADE4, &MASQUERADE_OUT4, &SNAT4, &SNAT_OUT4),
        (IPV6, 8, 16, &LOCAL6, &MASQUERADE6, &MASQUERADE_OUT6, &SNAT6, &SNAT_OUT6),
    ] {
        let out_and_source = |rule: &mut nft::Rule<'_>| {
            rule.family(family).meta(META_OIFNAME, REG).payload(1, offset, length, REG + 4);
        };
        nft::rule(
            batch,
            "postrouting",
            "back into the bridge it came from, through a published port",
            |rule| {
                rule.published();
                out_and_source(rule);
                rule.is_in(local.name).masquerade();
            },
        );
        nft::rule(batch, "postrouting", "within a bridge", |rule| {
            out_and_source(rule);
            rule.is_in(local.name).accept();
        });
        if family == IPV4 {
            nft::rule(batch, "postrouting", "from this host's loopback", |rule| {
                rule.meta(META_OIFNAME, REG).is_in(BRIDGES.name);
                rule.family(family).payload(1, offset, length, REG);
                rule.mask(REG, &[255, 0, 0, 0]).equals(REG, &[127, 0, 0, 0]).masquerade();
            });
        }
        nft::rule(batch, "postrouting", "", |rule| {
            out_and_source(rule);
            rule.map(snat_out.name, REG).snat(family);
        });
        nft::rule(batch, "postrouting", "", |rule| {
            out_and_source(rule);
            rule.is_in(masquerade_out.name).masquerade();
        });
        nft::rule(batch, "postrouting", "", |rule| {
            rule.family(family).payload(1, offset, length, REG).map(snat.name, REG).snat(family);
        });
        nft::rule(batch, "postrouting", "to the world", |rule| {
            rule.family(family).payload(1, offset, length, REG).is_in(masquerade.name).masquerade();
        });
    }
}

fn forward(batch: &mut Batch) {
    nft::rule(batch, "closed", "", |rule| rule.established().accept());
    nft::rule(batch, "closed", "", |rule| rule.published().accept());
    nft::rule(batch, "closed", "", |rule| {
        rule.drop();
    });
    nft::rule(batch, "forward", "within a bridge, and what plans say of two links", |rule| {
        rule.meta(META_IIFNAME, REG).meta(META_OIFNAME, REG + 4).map(PAIRS.name, 0);
    });
    nft::rule(batch, "forward", "networks without a way out", |rule| {
        rule.meta(META_IIFNAME, REG).is_in(FROM.name).drop();
    });
    nft::rule(batch, "forward", "", |rule| rule.jump("plans-forward"));
    let into_bridge = |rule: &mut nft::Rule<'_>| {
        rule.meta(META_OIFNAME, REG).is_in(BRIDGES.name);
    };
    nft::rule(batch, "forward", "answers", |rule| {
        into_bridge(rule);
        rule.established().accept();
    });
    nft::rule(batch, "forward", "published ports", |rule| {
        into_bridge(rule);
        rule.published().accept();
    });
    for (family, length, open) in [(IPV4, 4, &OPEN4), (IPV6, 16, &OPEN6)] {
        let offset = if family == IPV4 { 16 } else { 24 };
        nft::rule(batch, "forward", "ports without translation", |rule| {
            rule.family(family).meta(META_OIFNAME, REG).payload(1, offset, length, REG + 4);
            rule.meta(META_L4PROTO, REG + 4 + length / 4).payload(2, 2, 2, REG + 5 + length / 4);
            rule.is_in(open.name).accept();
        });
    }
    nft::rule(batch, "forward", "what plans say of a bridge", |rule| {
        rule.meta(META_OIFNAME, REG).map(TO.name, 0);
    });
    nft::rule(batch, "forward", "nothing else from outside or from another network", |rule| {
        into_bridge(rule);
        rule.drop();
    });
}

fn write_plans(batch: &mut Batch, rules: &[Planned]) {
    for (chain, hook, _) in PLANNED {
        nft::clear(batch, chain);
        for (input, output, rule) in rules.iter().filter(|(_, _, rule)| rule.hook == hook) {
            if rule.ports.is_empty() {
                nft::rule(batch, chain, &rule.comment, |to| {
                    planned(to, input.as_deref(), output.as_deref(), rule, None);
                });
            }
            for ports in &rule.ports {
                nft::rule(batch, chain, &rule.comment, |to| {
                    planned(to, input.as_deref(), output.as_deref(), rule, Some(*ports));
                });
            }
        }
    }
}

fn planned(
    to: &mut nft::Rule<'_>,
    input: Option<&str>,
    output: Option<&str>,
    rule: &Rule,
    ports: Option<(u16, u16)>,
) {
    for (key, name) in [(META_IIFNAME, input), (META_OIFNAME, output)] {
        if let Some(name) = name {
            to.meta(key, REG).equals(REG, &ifname(name));
        }
    }
    for (v4, v6, text) in [(12, 8, &rule.source), (16, 24, &rule.destination)] {
        let Some(Ok(prefix)) = text.as_ref().map(|text| text.parse::<Prefix>()) else { continue };
        let (family, offset) = if prefix.address.is_ipv4() { (IPV4, v4) } else { (IPV6, v6) };
        let (first, last) = (octets(prefix.network()), octets(prefix.last()));
        let length = u32::try_from(first.len()).unwrap_or(0);
        to.family(family).payload(1, offset, length, REG).within(REG, &first, &last);
    }
    if let Some(number) = rule.protocol {
        to.meta(META_L4PROTO, REG).equals(REG, &[protocol(number)]);
    }
    if let Some((first, last)) = ports {
        to.payload(2, 2, 2, REG).within(REG, &first.to_be_bytes(), &last.to_be_bytes());
    }
    if rule.established_only {
        to.established();
    }
    match rule.action {
        Action::Accept => to.accept(),
        Action::Drop => to.drop(),
        Action::Reject => to.reject(),
    }
}
