//! Connection tracking, as far as published UDP ports need it.
//!
//! A UDP "connection" lives as long as somebody sends. A client that began before the port was published, or that
//! still speaks to the port's last container, would never reach the new one: its flow keeps the translation that it
//! began with. So such flows are forgotten when ports come or go.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use wharf_plan::net::Protocol;

use super::Error;
use super::filter::Port;
use super::wire::{ACK, Batch, DUMP, Socket, attribute};

const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const UDP: u8 = 17;

/// Both directions of a flow as the kernel tells them: where from and where to.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    original: (SocketAddr, SocketAddr),
    reply: (SocketAddr, SocketAddr),
}

/// Forgets flows to ports that come or go. Where they lead, or led, is the second of each pair.
pub(super) fn forget(added: &[(Port, SocketAddr)], removed: &[(Port, SocketAddr)]) -> Result<(), Error> {
    let udp = |ports: &[(Port, SocketAddr)]| -> Vec<(Port, SocketAddr)> {
        // Across families nothing is translated, so no flow remembers it.
        let translated = |(port, to): &&(Port, SocketAddr)| {
            port.protocol == Protocol::Udp && port.host.is_ipv4() == to.is_ipv4()
        };
        ports.iter().filter(translated).copied().collect()
    };
    let (added, removed) = (udp(added), udp(removed));
    if added.is_empty() && removed.is_empty() {
        return Ok(());
    }
    let targets: BTreeSet<SocketAddr> = removed.iter().map(|(_, to)| *to).collect();
    let numbers: BTreeSet<(bool, u16)> =
        added.iter().map(|(port, _)| (port.host.is_ipv4(), port.number)).collect();
    let stale = |flow: &Flow| {
        let (_, to) = flow.original;
        let translated = flow.reply.0 != to;
        // A flow that is not translated and goes elsewhere is none of ours, but to forget it does it no harm.
        targets.contains(&flow.reply.0)
            || (!translated
                && flow.reply.1 == flow.original.0
                && numbers.contains(&(to.is_ipv4(), to.port())))
    };
    let mut socket = Socket::open(libc::NETLINK_NETFILTER)?;
    let mut doomed: Vec<(u8, Vec<u8>)> = Vec::new();
    for family in [super::nft::IPV4, super::nft::IPV6] {
        let v4 = family == super::nft::IPV4;
        if !added.iter().chain(&removed).any(|(_, to)| to.is_ipv4() == v4) {
            continue;
        }
        let mut question = Batch::default();
        question.message(GET, DUMP, "list flows", &[family, 0, 0, 0], |_| {});
        socket
            .ask(&question, |_, body| {
                let Some(attributes) = body.get(4..) else { return };
                let Some(original) = attribute(attributes, 1) else { return };
                if flow(attributes).is_some_and(|flow| stale(&flow)) {
                    doomed.push((family, original.to_vec()));
                }
            })
            .map_err(|failure| failure.error)?;
    }
    // As many at a time as there is room for answers.
    for part in doomed.chunks(64) {
        let mut batch = Batch::default();
        for (family, original) in part {
            batch.message(DELETE, ACK, "forget a flow", &[*family, 0, 0, 0], |batch| {
                batch.nested(1, |batch| batch.raw(original));
            });
        }
        for failure in socket.exchange(&batch)? {
            // It may have ended by itself meanwhile.
            if failure.errno != libc::ENOENT {
                return Err(failure.error);
            }
        }
    }
    Ok(())
}

/// A UDP flow.
fn flow(attributes: &[u8]) -> Option<Flow> {
    Some(Flow { original: tuple(attribute(attributes, 1)?)?, reply: tuple(attribute(attributes, 2)?)? })
}

fn tuple(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (addresses, protocol) = (attribute(bytes, 1)?, attribute(bytes, 2)?);
    if attribute(protocol, 1)? != [UDP] {
        return None;
    }
    let address = |v4, v6| -> Option<IpAddr> {
        match (attribute(addresses, v4), attribute(addresses, v6)) {
            (Some(bytes), _) => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
            (None, Some(bytes)) => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
            (None, None) => None,
        }
    };
    let port = |kind| Some(u16::from_be_bytes(attribute(protocol, kind)?.try_into().ok()?));
    Some((SocketAddr::new(address(1, 3)?, port(2)?), SocketAddr::new(address(2, 4)?, port(3)?)))
}
