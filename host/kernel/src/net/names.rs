//! Sockets for the name server of a container, in the container's own network namespace.
//!
//! Programs ask 127.0.0.11 at port 53. Nothing is bound there: a container that runs a name server of its own binds port 53
//! of all addresses, which the kernel would refuse beside a listener on one of them. So the sockets have another port, and
//! two rules per protocol in a table of the namespace exchange the port numbers in the packets' headers. Unlike redirection
//! by connection tracking this keeps no state and brings none into the namespace: other traffic passes as before.
//!
//! ```text
//! asked      output, before connection tracking    to 127.0.0.11:53   -> the sockets' port
//! answered   output, after it                      from that port     -> port 53
//! ```
//!
//! The order matters only to containers with a stateful filter of their own: it sees question and answer with one port.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Error;
use super::nft::{self, At, IPV4, META_L4PROTO, REG};
use super::wire::Socket;

/// Where the names of a container's networks are asked for, inside of it; Docker's address.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

const PORT: u16 = 53;
/// Ports that are tried, in this order: above those that the kernel gives to clients, where no known service listens.
const PORTS: std::ops::RangeInclusive<u16> = 65_053..=65_153;

/// Both sockets, non-blocking; the second one listens.
#[derive(Debug)]
pub struct NameSockets {
    /// Questions and answers, each a datagram.
    pub udp: OwnedFd,
    /// Connections, for answers that are too long for a datagram.
    pub tcp: OwnedFd,
}

/// In the network namespace of the calling thread.
pub(super) fn open() -> Result<NameSockets, Error> {
    let (udp, tcp, port) = bind_free()?;
    match redirect(port) {
        Ok(()) => sockets(udp, tcp),
        Err(error) => {
            // A kernel without packet filter. Better names, and no name server of the container's own, than none.
            tracing::debug!(%error, "port 53 of 127.0.0.11 is bound itself");
            drop((udp, tcp));
            let (udp, tcp) = bind(PORT).map_err(|source| refused("bind 127.0.0.11:53", source))?;
            sockets(udp, tcp)
        }
    }
}

fn sockets(udp: UdpSocket, tcp: TcpListener) -> Result<NameSockets, Error> {
    let set = udp.set_nonblocking(true).and_then(|()| tcp.set_nonblocking(true));
    set.map_err(|source| refused("prepare the sockets for names", source))?;
    Ok(NameSockets { udp: udp.into(), tcp: tcp.into() })
}

fn refused(what: &str, source: std::io::Error) -> Error {
    Error::System { what: what.to_owned(), detail: String::new(), source }
}

fn bind(port: u16) -> std::io::Result<(UdpSocket, TcpListener)> {
    let address = SocketAddrV4::new(NAME_SERVER, port);
    Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?))
}

/// The same port for both protocols.
fn bind_free() -> Result<(UdpSocket, TcpListener, u16), Error> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    for port in PORTS {
        match bind(port) {
            Ok((udp, tcp)) => return Ok((udp, tcp, port)),
            Err(error) => last = error,
        }
    }
    Err(refused("bind a port of 127.0.0.11 for names", last))
}

/// Writes the rules; those of an earlier call go in the same step.
fn redirect(port: u16) -> Result<(), Error> {
    let table: Arc<str> = Arc::from("wharf-names");
    let mut socket = Socket::open(libc::NETLINK_NETFILTER)?;
    let mut batch = nft::begin(&table);
    nft::table(&mut batch);
    nft::delete_table(&mut batch);
    nft::table(&mut batch);
    for (chain, priority) in [("asked", -300), ("answered", -150)] {
        nft::chain(&mut batch, chain, Some(At { kind: "filter", hook: 3, priority }));
    }
    let ours = |rule: &mut nft::Rule<'_>, protocol: u8, address: u32, place: u32, port: u16| {
        rule.family(IPV4).payload(1, address, 4, REG).equals(REG, &NAME_SERVER.octets());
        rule.meta(META_L4PROTO, REG).equals(REG, &[protocol]);
        rule.payload(2, place, 2, REG).equals(REG, &port.to_be_bytes());
    };
    // The numbers of the protocols, and where their checksums are.
    for (protocol, checksum) in [(6, 16), (17, 6)] {
        nft::rule(&mut batch, "asked", "", |rule| {
            ours(rule, protocol, 16, 2, PORT);
            rule.load(REG, &port.to_be_bytes()).rewrite_transport(2, 2, REG, checksum);
        });
        nft::rule(&mut batch, "answered", "", |rule| {
            ours(rule, protocol, 12, 0, port);
            rule.load(REG, &PORT.to_be_bytes()).rewrite_transport(0, 2, REG, checksum);
        });
    }
    nft::commit(&mut socket, batch).map_err(|failure| failure.error)
}
