//! rtnetlink: what is said to the kernel about links, addresses, routes and neighbours.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use wharf_plan::net::{Bridge, Kind, LinkState, Prefix, RouteState, Shape, Vxlan, parse_mac};

use super::Error;
use super::wire::{ACK, APPEND, Batch, CREATE, DUMP, EXCL, REPLACE, Socket, attribute, text, u32_at};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const NEWNEIGH: u16 = 28;
const DELNEIGH: u16 = 29;
const NEWQDISC: u16 = 36;
const DELQDISC: u16 = 37;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const IFLA_GROUP: u16 = 27;
const SKIP_STATS: u32 = 8;

/// The groups of all links on the host that Wharf made: these bits, and others that tell its daemons apart.
pub(super) const GROUP: u32 = 0x5700_0000;
/// Which bits those are.
pub(super) const GROUP_MASK: u32 = 0xff00_0000;
/// One bit more for links that are about to go.
pub(super) const DOOMED: u32 = 0x0080_0000;

/// What is known of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: String,
    pub(super) mac: Vec<u8>,
    pub(super) up: bool,
    /// The link at the other end or below.
    pub(super) peer: u32,
    pub(super) controller: u32,
    pub(super) group: u32,
}

fn header(index: u32, up: Option<bool>) -> [u8; 16] {
    let mut bytes = [0; 16];
    // Family, type, then index, flags, and which flags count.
    let words = [0, index, u32::from(up == Some(true)), u32::from(up.is_some())];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// A link to be made: its state with references resolved.
#[derive(Debug)]
pub(super) struct NewLink<'a> {
    pub(super) state: &'a LinkState,
    pub(super) name: &'a str,
    pub(super) group: u32,
    pub(super) up: bool,
    pub(super) controller: Option<u32>,
    pub(super) parent: Option<u32>,
    /// Where it is made, if not here.
    pub(super) namespace: Option<BorrowedFd<'a>>,
    /// Of a veth: the other end's state, name and namespace.
    pub(super) peer: Option<(&'a LinkState, &'a str, Option<BorrowedFd<'a>>)>,
}

fn common(batch: &mut Batch, state: &LinkState, name: &str, namespace: Option<BorrowedFd<'_>>) {
    batch.text(IFLA_IFNAME, name);
    if let Some(mtu) = state.mtu {
        batch.u32(IFLA_MTU, mtu);
    }
    if let Some(mac) = state.mac.as_deref().and_then(parse_mac) {
        batch.attr(IFLA_ADDRESS, &mac);
    }
    if let Some(namespace) = namespace {
        batch.u32(IFLA_NET_NS_FD, namespace.as_raw_fd().cast_unsigned());
    }
}

/// Adds the message that makes a link.
pub(super) fn add_link(batch: &mut Batch, new: &NewLink<'_>) -> Result<(), Error> {
    let kind = match &new.state.kind {
        Kind::Bridge(_) => "bridge",
        Kind::Veth { .. } => "veth",
        Kind::Macvlan { .. } => "macvlan",
        Kind::Ipvlan { .. } => "ipvlan",
        Kind::Vlan { .. } => "vlan",
        Kind::Vxlan(_) => "vxlan",
        Kind::Dummy => "dummy",
        Kind::Vrf(_) => "vrf",
        other => return Err(Error::Unsupported(format!("a link of kind {other}"))),
    };
    let what = format!("make {kind} {}", new.name);
    batch.message(NEWLINK, CREATE | EXCL | ACK, what, &header(0, new.up.then_some(true)), |batch| {
        common(batch, new.state, new.name, new.namespace);
        if new.namespace.is_none() {
            batch.u32(IFLA_GROUP, new.group);
        }
        if let Some(controller) = new.controller {
            batch.u32(IFLA_MASTER, controller);
        }
        if let Some(parent) = new.parent {
            batch.u32(IFLA_LINK, parent);
        }
        batch.nested(IFLA_LINKINFO, |batch| {
            batch.text(INFO_KIND, kind);
            batch.nested(INFO_DATA, |batch| kind_data(batch, new));
        });
    });
    Ok(())
}

fn kind_data(batch: &mut Batch, new: &NewLink<'_>) {
    match &new.state.kind {
        Kind::Bridge(Bridge { vlan_filtering, stp, multicast_snooping }) => {
            // Only what differs from the kernel's own choice: it refuses to hear of what is not built in.
            if *stp {
                batch.u32(5, 1);
            }
            if *vlan_filtering {
                batch.u8(7, 1);
            }
            if !*multicast_snooping {
                batch.u8(23, 0);
            }
        }
        Kind::Veth { .. } => {
            if let Some((state, name, namespace)) = new.peer {
                batch.nested(1, |batch| {
                    batch.raw(&header(0, None));
                    common(batch, state, name, namespace);
                });
            }
        }
        Kind::Macvlan { mode, .. } => {
            let mode = match mode.as_str() {
                "private" => 1,
                "vepa" => 2,
                "passthru" => 8,
                _ => 4,
            };
            batch.u32(1, mode);
        }
        Kind::Ipvlan { mode, .. } => {
            let mode = match mode.as_str() {
                "l3" => 1,
                "l3s" => 2,
                _ => 0,
            };
            batch.u16(1, mode);
        }
        Kind::Vlan { id, .. } => batch.u16(1, *id),
        Kind::Vxlan(Vxlan { vni, port, local, learning }) => {
            batch.u32(1, *vni);
            match local.as_deref().map(str::parse) {
                Some(Ok(IpAddr::V4(local))) => batch.attr(4, &local.octets()),
                Some(Ok(IpAddr::V6(local))) => batch.attr(17, &local.octets()),
                _ => {}
            }
            batch.u8(7, u8::from(*learning));
            batch.attr(15, &port.to_be_bytes());
        }
        Kind::Vrf(table) => batch.u32(1, *table),
        _ => {}
    }
}

/// Adds the message that writes the owner into a link's alias.
pub(super) fn set_alias(batch: &mut Batch, name: &str, alias: &str) {
    batch.message(SETLINK, ACK, format!("name the owner of {name}"), &header(0, None), |batch| {
        batch.text(IFLA_IFNAME, name);
        // The alias is bytes, not text with an end.
        batch.attr(IFLA_IFALIAS, alias.as_bytes());
    });
}

/// What changes of a link that is there.
#[derive(Debug, Default)]
pub(super) struct SetLink<'a> {
    pub(super) up: Option<bool>,
    pub(super) mtu: Option<u32>,
    pub(super) mac: Option<[u8; 6]>,
    /// 0: none.
    pub(super) controller: Option<u32>,
    pub(super) rename: Option<&'a str>,
}

pub(super) fn set_link(batch: &mut Batch, index: u32, name: &str, set: &SetLink<'_>) {
    batch.message(SETLINK, ACK, format!("set up {name}"), &header(index, set.up), |batch| {
        if let Some(mtu) = set.mtu {
            batch.u32(IFLA_MTU, mtu);
        }
        if let Some(mac) = set.mac {
            batch.attr(IFLA_ADDRESS, &mac);
        }
        if let Some(controller) = set.controller {
            batch.u32(IFLA_MASTER, controller);
        }
        if let Some(name) = set.rename {
            batch.text(IFLA_IFNAME, name);
        }
    });
}

/// Options of a bridge's port.
pub(super) fn set_port(batch: &mut Batch, name: &str, options: &[(String, String)]) {
    batch.message(NEWLINK, ACK, format!("set port options of {name}"), &header(0, None), |batch| {
        batch.text(IFLA_IFNAME, name);
        batch.nested(IFLA_LINKINFO, |batch| {
            batch.text(INFO_SLAVE_KIND, "bridge");
            batch.nested(INFO_SLAVE_DATA, |batch| {
                for (option, value) in options {
                    let number = match option.as_str() {
                        "hairpin" => 4,
                        "learning" => 8,
                        "flood" => 9,
                        "isolated" => 33,
                        _ => continue,
                    };
                    batch.u8(number, u8::from(value == "1"));
                }
            });
        });
    });
}

pub(super) fn delete_link(batch: &mut Batch, index: u32, name: &str) {
    batch.message(DELLINK, ACK, format!("remove link {name}"), &header(index, None), |_| {});
}

/// The link of that name, if there is one.
pub(super) fn find(socket: &mut Socket, name: &str) -> Result<Option<Known>, Error> {
    let mut batch = Batch::default();
    batch.message(GETLINK, ACK, format!("look at link {name}"), &header(0, None), |batch| {
        batch.text(IFLA_IFNAME, name);
        batch.u32(IFLA_EXT_MASK, SKIP_STATS);
    });
    one(socket, &batch)
}

/// The link of that number, if there is one.
pub(super) fn find_index(socket: &mut Socket, index: u32) -> Result<Option<Known>, Error> {
    let mut batch = Batch::default();
    batch.message(GETLINK, ACK, format!("look at link {index}"), &header(index, None), |batch| {
        batch.u32(IFLA_EXT_MASK, SKIP_STATS);
    });
    one(socket, &batch)
}

fn one(socket: &mut Socket, batch: &Batch) -> Result<Option<Known>, Error> {
    let mut found = None;
    match socket.ask(batch, |kind, body| {
        if kind == NEWLINK {
            found = known(body);
        }
    }) {
        Ok(()) => Ok(found),
        Err(failure) if failure.errno == libc::ENODEV => Ok(None),
        Err(failure) => Err(failure.error),
    }
}

/// All links.
pub(super) fn links(socket: &mut Socket) -> Result<Vec<Known>, Error> {
    let mut batch = Batch::default();
    batch.message(GETLINK, DUMP, "list links", &header(0, None), |batch| {
        batch.u32(IFLA_EXT_MASK, SKIP_STATS);
    });
    let mut all = Vec::new();
    socket
        .ask(&batch, |kind, body| {
            if kind == NEWLINK {
                all.extend(known(body));
            }
        })
        .map_err(|failure| failure.error)?;
    Ok(all)
}

fn known(body: &[u8]) -> Option<Known> {
    let attributes = body.get(16..)?;
    let number = |kind| attribute(attributes, kind).and_then(|value| u32_at(value, 0)).unwrap_or(0);
    let words = |kind| attribute(attributes, kind).map(text).unwrap_or_default();
    Some(Known {
        index: u32_at(body, 4)?,
        name: words(IFLA_IFNAME),
        alias: words(IFLA_IFALIAS),
        mac: attribute(attributes, IFLA_ADDRESS).unwrap_or_default().to_vec(),
        up: u32_at(body, 8)? & 1 == 1,
        peer: number(IFLA_LINK),
        controller: number(IFLA_MASTER),
        group: number(IFLA_GROUP),
    })
}

/// Adds or removes an address.
pub(super) fn address(batch: &mut Batch, add: bool, index: u32, prefix: &Prefix, no_dad: bool) {
    let family = family(prefix.address);
    let mut fixed = vec![family, prefix.length, 0, 0];
    fixed.extend(index.to_ne_bytes());
    let (kind, flags, verb) =
        if add { (NEWADDR, CREATE | REPLACE | ACK, "add") } else { (DELADDR, ACK, "remove") };
    batch.message(kind, flags, format!("{verb} address {prefix}"), &fixed, |batch| {
        match prefix.address {
            IpAddr::V4(address) => {
                batch.attr(2, &address.octets());
                batch.attr(1, &address.octets());
                if add && prefix.length < 31 {
                    batch.attr(4, &octets(prefix.last()));
                }
            }
            IpAddr::V6(address) => batch.attr(1, &address.octets()),
        }
        if add && no_dad {
            batch.u32(8, 2);
        }
    });
}

/// Adds or removes a route.
pub(super) fn route(
    batch: &mut Batch,
    add: bool,
    route: &RouteState,
    index: Option<u32>,
) -> Result<(), Error> {
    let wrong = |text: &str| Error::Plan(format!("route to {text}: not an address"));
    let destination: Prefix = route.destination.parse().map_err(|_| wrong(&route.destination))?;
    let parse = |text: &Option<String>| match text {
        Some(text) => text.parse::<IpAddr>().map(Some).map_err(|_| wrong(text)),
        None => Ok(None),
    };
    let (via, source) = (parse(&route.via)?, parse(&route.source)?);
    let table = route.table.unwrap_or(254);
    let small = u8::try_from(table).unwrap_or(0);
    // Reached directly: the scope is the link; for IPv6 scopes mean nothing.
    let scope = if via.is_none() && destination.address.is_ipv4() { 253 } else { 0 };
    let (protocol, unicast) = if add { (4, 1) } else { (0, 0) };
    let scope = if add { scope } else { 255 };
    let mut fixed =
        vec![family(destination.address), destination.length, 0, 0, small, protocol, scope, unicast];
    fixed.extend(0_u32.to_ne_bytes());
    let (kind, flags, verb) =
        if add { (NEWROUTE, CREATE | REPLACE | ACK, "add") } else { (DELROUTE, ACK, "remove") };
    batch.message(kind, flags, format!("{verb} route to {destination}"), &fixed, |batch| {
        if destination.length > 0 {
            batch.attr(1, &octets(destination.address));
        }
        if let Some(index) = index {
            batch.u32(4, index);
        }
        if let Some(via) = via {
            batch.attr(5, &octets(via));
        }
        if let Some(metric) = route.metric {
            batch.u32(6, metric);
        }
        if let Some(source) = source {
            batch.attr(7, &octets(source));
        }
        batch.u32(15, table);
    });
    Ok(())
}

/// Adds or removes a fixed neighbour, or with `destination` the place of a hardware address behind a tunnel.
pub(super) fn neighbor(
    batch: &mut Batch,
    add: bool,
    index: u32,
    mac: &str,
    address: &str,
    forwarding: bool,
) -> Result<(), Error> {
    let ip: IpAddr =
        address.parse().map_err(|_| Error::Plan(format!("neighbor {address}: not an address")))?;
    let bytes =
        parse_mac(mac).ok_or_else(|| Error::Plan(format!("neighbor {mac}: not a hardware address")))?;
    let (family, state, flag): (u8, u16, u8) = if forwarding { (7, 0xc0, 2) } else { (family(ip), 0x80, 0) };
    let mut fixed = vec![family, 0, 0, 0];
    fixed.extend(index.to_ne_bytes());
    fixed.extend(state.to_ne_bytes());
    fixed.extend([flag, 0]);
    // Several tunnels may lead to unknown receivers, but only one to a known one.
    let how = if forwarding && bytes == [0; 6] { APPEND } else { REPLACE };
    let (kind, flags, verb) =
        if add { (NEWNEIGH, CREATE | how | ACK, "add") } else { (DELNEIGH, ACK, "remove") };
    batch.message(kind, flags, format!("{verb} neighbor {address} {mac}"), &fixed, |batch| {
        batch.attr(1, &octets(ip));
        batch.attr(2, &bytes);
    });
    Ok(())
}

/// Limits what leaves through a link, or ends the limit.
pub(super) fn shape(batch: &mut Batch, add: bool, index: u32, name: &str, shape: &Shape) {
    let mut fixed = vec![0; 4];
    fixed.extend(index.to_ne_bytes());
    fixed.extend(0_u32.to_ne_bytes());
    fixed.extend(u32::MAX.to_ne_bytes());
    fixed.extend(0_u32.to_ne_bytes());
    let (kind, flags) = if add { (NEWQDISC, CREATE | REPLACE | ACK) } else { (DELQDISC, ACK) };
    batch.message(kind, flags, format!("limit the rate of {name}"), &fixed, |batch| {
        batch.text(1, "tbf");
        if !add {
            return;
        }
        let rate = shape.rate_bps / 8;
        let burst = u32::try_from(shape.burst).unwrap_or(u32::MAX);
        // Link layer Ethernet (1) spares the kernel the old table of rates.
        let mut spec = vec![0_u8, 1, 0, 0, 0, 0, 0, 0];
        spec.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
        spec.extend([0; 12]);
        // At most a quarter of a second waits.
        let limit = u32::try_from(rate / 4).unwrap_or(u32::MAX).max(burst);
        spec.extend(limit.to_ne_bytes());
        spec.extend([0; 8]);
        batch.nested(2, |batch| {
            batch.attr(1, &spec);
            batch.u32(6, burst);
            if rate > u64::from(u32::MAX) {
                batch.attr(4, &rate.to_ne_bytes());
            }
        });
    });
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Puts a link into a group.
pub(super) fn set_group(batch: &mut Batch, index: u32, name: &str, group: u32) {
    batch.message(SETLINK, ACK, format!("mark {name}"), &header(index, None), |batch| {
        batch.u32(IFLA_GROUP, group);
    });
}

/// Deletes all links of a group at once.
pub(super) fn delete_group(batch: &mut Batch, group: u32) {
    batch.message(DELLINK, ACK, "remove links", &header(0, None), |batch| batch.u32(IFLA_GROUP, group));
}
