//! The table itself: its sets, chains and rules. How many there are does not depend on the number of containers, ports
//! or networks.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use wharf_plan::net::{Action, Hook, Prefix, Protocol, Rule};

use super::Port;
use super::sets::Planned;
use crate::net::nft::{
    self, At, Data, Element, IPV4, IPV6, META_IIF, META_IIFGROUP, META_IIFNAME, META_L4PROTO, META_OIFGROUP,
    META_OIFNAME, REG, Shape, TYPE_IFNAME, TYPE_IPV4, TYPE_IPV6, TYPE_PORT, TYPE_PROTOCOL, VERDICT, ifname,
};
use crate::net::route::{GROUP, GROUP_MASK, octets};
use crate::net::wire::Batch;

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

pub(super) const PUBLISHED4: Shape = shape("published4", &[PROTOCOL, V4, PORT], false, Some(TO4));
pub(super) const PUBLISHED4_ANY: Shape = shape("published4-any", &[PROTOCOL, PORT], false, Some(TO4));
pub(super) const PUBLISHED6: Shape = shape("published6", &[PROTOCOL, V6, PORT], false, Some(TO6));
pub(super) const PUBLISHED6_ANY: Shape = shape("published6-any", &[PROTOCOL, PORT], false, Some(TO6));
pub(super) const BRIDGES: Shape = shape("bridges", &[IFNAME], false, None);
pub(super) const PAIRS: Shape = shape("pairs", &[IFNAME, IFNAME], false, Some(TO_VERDICT));
pub(super) const FROM: Shape = shape("closed-from", &[IFNAME], false, None);
pub(super) const TO: Shape = shape("to", &[IFNAME], false, Some(TO_VERDICT));
pub(super) const LOCAL4: Shape = shape("local4", &[IFNAME, V4], true, None);
pub(super) const LOCAL6: Shape = shape("local6", &[IFNAME, V6], true, None);
pub(super) const MASQUERADE4: Shape = shape("masquerade4", &[V4], true, None);
pub(super) const MASQUERADE6: Shape = shape("masquerade6", &[V6], true, None);
pub(super) const MASQUERADE_OUT4: Shape = shape("masquerade-out4", &[IFNAME, V4], true, None);
pub(super) const MASQUERADE_OUT6: Shape = shape("masquerade-out6", &[IFNAME, V6], true, None);
pub(super) const SNAT4: Shape = shape("snat4", &[V4], true, Some(V4));
pub(super) const SNAT6: Shape = shape("snat6", &[V6], true, Some(V6));
pub(super) const SNAT_OUT4: Shape = shape("snat-out4", &[IFNAME, V4], true, Some(V4));
pub(super) const SNAT_OUT6: Shape = shape("snat-out6", &[IFNAME, V6], true, Some(V6));

pub(super) const OPEN4: Shape = shape("open4", &[IFNAME, V4, PROTOCOL, PORT], true, None);
pub(super) const OPEN6: Shape = shape("open6", &[IFNAME, V6, PROTOCOL, PORT], true, None);

pub(super) const SETS: [&Shape; 20] = [
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

pub(super) fn protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

pub(super) fn write_ports(batch: &mut Batch, add: bool, ports: impl Iterator<Item = (Port, SocketAddr)>) {
    let mut by_set: [Vec<Element>; 4] = Default::default();
    for (port, to) in ports {
        // Across families there is no translation: a program carries that.
        if port.host.is_ipv4() != to.is_ipv4() {
            continue;
        }
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

pub(super) const ROUTERS: [(u8, &str); 2] = [(IPV4, "router4"), (IPV6, "router6")];

pub(super) fn chains(batch: &mut Batch, closed: &BTreeSet<u8>) {
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
pub(super) fn rules(batch: &mut Batch, closed: &BTreeSet<u8>) {
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
    // Nor does it route what comes from a link-local address: whoever listens on this host answers.
    nft::rule(batch, "prerouting", "link-local addresses are not routed", |rule| {
        rule.family(IPV6).payload(1, 8, 4, REG).mask(REG, &[0xff, 0xc0, 0, 0]);
        rule.equals(REG, &[0xfe, 0x80, 0, 0]).accept();
    });
    nft::rule(batch, "output", "nor from the host itself", |rule| {
        rule.family(IPV6).payload(1, 24, 4, REG).mask(REG, &[0xff, 0xc0, 0, 0]);
        rule.equals(REG, &[0xfe, 0x80, 0, 0]).accept();
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

pub(super) fn write_plans(batch: &mut Batch, rules: &[Planned]) {
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
