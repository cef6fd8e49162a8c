//! Host ports of published ports: found, bound, and given to nobody twice.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use wharf_plan::net::{Forward, Protocol, Publish};

use super::filter::{Filter, Port};
use super::{Endpoints, Error};
use crate::sys::netlink::{Hold, hold_port, listen_port};

/// A port that is ours now.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) port: Port,
    pub(super) to: SocketAddr,
    /// Missing where the kernel knows no sockets of the protocol.
    pub(super) socket: Option<OwnedFd>,
    /// The host address as the plan had it.
    pub(super) publish: Publish,
    /// What a program is to take from the socket, which listens then.
    pub(super) carried: Option<Forward>,
}

/// One port of a plan, before it is bound.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) protocol: Protocol,
    /// With port 0: any.
    pub(super) host: SocketAddr,
    pub(super) to: SocketAddr,
    publish: Publish,
}

impl Wanted {
    /// As the filter calls it.
    pub(super) fn port(&self) -> Port {
        Port { protocol: self.protocol, number: self.host.port(), host: self.host.ip() }
    }

    /// As it was published in the end.
    pub(super) fn published(&self, port: u16) -> Publish {
        Publish { host_port: port, ..self.publish.clone() }
    }
}

/// How often another port is tried, when one is free in one family and taken in the other.
const ATTEMPTS: usize = 32;

/// Every single port that a publish entry stands for.
pub(super) fn expand(publish: &Publish) -> Result<Vec<Wanted>, Error> {
    let parse =
        |text: &str| text.parse::<IpAddr>().map_err(|_| Error::Plan(format!("{text}: not an address")));
    let to = parse(&publish.container_ip)?;
    let host = match &publish.host_ip {
        Some(text) => parse(text)?,
        None if to.is_ipv4() => IpAddr::from([0; 4]),
        None => IpAddr::from([0; 16]),
    };
    (0..publish.count)
        .map(|number| {
            let after = |first: u16| {
                first.checked_add(number).ok_or_else(|| Error::Plan(format!("{publish}: beyond port 65535")))
            };
            let host_port = if publish.host_port == 0 { 0 } else { after(publish.host_port)? };
            let container_port = after(publish.container_port)?;
            Ok(Wanted {
                protocol: publish.protocol,
                host: SocketAddr::new(host, host_port),
                to: SocketAddr::new(to, container_port),
                publish: Publish { count: 1, host_port, container_port, ..publish.clone() },
            })
        })
        .collect()
}

/// Binds all of them or none. Where any port will do, both address families of a container's port get the same one.
///
/// `carry`: there is a program that carries what the kernel cannot.
pub(super) fn reserve(filter: Option<&Filter>, carry: bool, wanted: &[Wanted]) -> Result<Vec<Held>, Error> {
    let mut held = Vec::with_capacity(wanted.len());
    let mut any: BTreeMap<(Protocol, u16), Vec<&Wanted>> = BTreeMap::new();
    for one in wanted {
        if one.host.port() == 0 {
            any.entry((one.protocol, one.to.port())).or_default().push(one);
        } else {
            held.push(hold(filter, carry, one, one.host.port())?);
        }
    }
    for group in any.values() {
        held.extend(hold_equal(filter, carry, group)?);
    }
    Ok(held)
}

/// The first port of a range that is free on all of these addresses of the host, and not among `taken`.
pub(super) fn first_free(
    filter: Option<&Filter>,
    protocol: Protocol,
    hosts: &[IpAddr],
    range: std::ops::RangeInclusive<u16>,
    taken: &[u16],
) -> Option<u16> {
    let kind = kind(protocol);
    let is_free = |number: u16, host: IpAddr| {
        let port = Port { protocol, number, host };
        filter.is_none_or(|filter| filter.holder(&port).is_none())
            && hold_port(kind, SocketAddr::new(host, number)).is_ok()
    };
    range
        .filter(|number| *number != 0 && !taken.contains(number))
        .find(|number| hosts.iter().all(|host| is_free(*number, *host)))
}

fn kind(protocol: Protocol) -> Hold {
    match protocol {
        Protocol::Tcp => Hold::Tcp,
        Protocol::Udp => Hold::Udp,
        Protocol::Sctp => Hold::Sctp,
    }
}

fn hold_equal(filter: Option<&Filter>, carry: bool, group: &[&Wanted]) -> Result<Vec<Held>, Error> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut held: Vec<Held> = Vec::with_capacity(group.len());
        let mut failed = None;
        for one in group {
            let port = held.first().map_or(0, |first| first.port.number);
            match hold(filter, carry, one, port) {
                Ok(one) => held.push(one),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            None => return Ok(held),
            Some(error) if attempt == ATTEMPTS => return Err(error),
            Some(_) => {}
        }
    }
}

fn hold(filter: Option<&Filter>, carry: bool, wanted: &Wanted, port: u16) -> Result<Held, Error> {
    let address = SocketAddr::new(wanted.host.ip(), port);
    let taken = Port { protocol: wanted.protocol, number: port, host: address.ip() };
    if port != 0 && filter.is_some_and(|filter| filter.holder(&taken).is_some()) {
        let text = address.to_string();
        let ip = text.rsplit_once(':').map_or(text.as_str(), |(ip, _)| ip);
        return Err(Error::Allocated { address: ip.to_owned(), port });
    }
    let kind = kind(wanted.protocol);
    let forward = |port| {
        let host = SocketAddr::new(address.ip(), port);
        Forward::of(wanted.protocol, host, wanted.to).filter(|_| carry)
    };
    let bound = if forward(port).is_some() { listen_port(kind, address) } else { hold_port(kind, address) };
    let (socket, port) = match bound {
        Ok((socket, port)) => (Some(socket), port),
        // Without SCTP in the kernel no process of the host can take the port either.
        Err(error) if kind == Hold::Sctp && port != 0 && error.is(libc::EPROTONOSUPPORT) => (None, port),
        Err(error) => {
            let endpoints = Endpoints { host: address, container: wanted.to, protocol: wanted.protocol };
            let reason = std::io::Error::from_raw_os_error(error.errno()).to_string();
            // As other engines write it: no error number, no capital letter.
            let reason = reason.split(" (os error").next().unwrap_or_default().to_lowercase();
            return Err(Error::Bind(endpoints, reason));
        }
    };
    Ok(Held {
        port: Port { protocol: wanted.protocol, number: port, host: address.ip() },
        to: wanted.to,
        socket,
        publish: wanted.published(port),
        carried: forward(port),
    })
}

/// A listener for what a program carries, once more: the last one is gone.
pub(super) fn listen(forward: &Forward) -> Result<OwnedFd, Error> {
    let failed = |error: &crate::Error| {
        let endpoints =
            Endpoints { host: forward.host, container: forward.container, protocol: forward.protocol };
        Error::Bind(endpoints, std::io::Error::from_raw_os_error(error.errno()).to_string())
    };
    listen_port(kind(forward.protocol), forward.host).map(|(socket, _)| socket).map_err(|e| failed(&e))
}
