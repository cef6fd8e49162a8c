//! What the kernel says about who is at the other end of a connection.

use std::ffi::CString;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::PoisonError;

use nix::unistd::{Gid, Uid, User, getgrouplist};
use wharf_plan::auth::{Connection, Evidence, Peer};

use crate::http::wire::Socket;

/// Who a user is that the user database does not know.
const NOBODY: u32 = 65534;

/// What is known when a connection is accepted, without waiting for anything.
#[derive(Debug, Clone)]
pub(crate) enum Other {
    /// The kernel's word on the other end of a unix socket.
    Unix(Peer),
    /// Both addresses of a TCP connection, theirs first. True if everyone is let in.
    Tcp(SocketAddr, SocketAddr, bool),
    /// The other end of a TLS connection and its certificates, which were verified. True if everyone is let in.
    Tls(SocketAddr, SocketAddr, Vec<Vec<u8>>, bool),
    /// Nothing.
    Unknown,
}

/// Asks the socket.
pub(crate) fn other(socket: &Socket) -> Other {
    match socket {
        Socket::Unix(stream) => stream.peer_cred().map_or(Other::Unknown, |cred| {
            let groups = wharf_kernel::sys::socket::peer_groups(stream.as_fd());
            Other::Unix(Peer {
                uid: cred.uid(),
                gid: cred.gid(),
                groups: groups.unwrap_or_else(|_| vec![cred.gid()]),
                pid: cred.pid().and_then(|p| u32::try_from(p).ok()).unwrap_or_default(),
                user_name: None,
                executable: None,
            })
        }),
        Socket::Tcp(stream, open) => match (stream.peer_addr(), stream.local_addr()) {
            (Ok(theirs), Ok(ours)) => Other::Tcp(theirs, ours, *open),
            _ => Other::Unknown,
        },
        Socket::Tls(stream, open) => {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            let (tcp, tls) = stream.get_ref();
            let chain = tls.peer_certificates().unwrap_or_default();
            let chain = chain.iter().map(|c| c.as_ref().to_vec()).collect();
            match (tcp.peer_addr(), tcp.local_addr()) {
                (Ok(theirs), Ok(ours)) => Other::Tls(theirs, ours, chain, *open),
                _ => Other::Unknown,
            }
        }
    }
}

/// Evidence for the authenticators. Reads the user database, which may block.
pub(crate) fn connection(other: Other) -> Connection {
    let mut evidence = Vec::new();
    let (transport, remote, peer) = match other {
        Other::Unix(mut peer) => {
            peer.user_name = user(peer.uid).map(|u| u.name);
            ("unix", format!("pid {}", peer.pid), Some(peer))
        }
        Other::Tcp(theirs, ours, open) => {
            let transport = if open { "tcp-open" } else { "tcp" };
            (transport, theirs.to_string(), local_user(theirs, ours).map(member))
        }
        Other::Tls(theirs, ours, chain, open) => {
            // Who shows a certificate is whom it names; the user behind a loopback connection is not asked for then.
            let known = if chain.is_empty() {
                local_user(theirs, ours).map(member)
            } else {
                evidence.push(Evidence::Certificate(chain));
                None
            };
            (if open { "tls-open" } else { "tls" }, theirs.to_string(), known)
        }
        Other::Unknown => ("unknown", String::new(), None),
    };
    evidence.extend(peer.map(Evidence::Peer));
    Connection { transport: transport.into(), remote, evidence }
}

fn user(uid: u32) -> Option<User> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten()
}

/// A user of this host as the user database knows it.
fn member(uid: u32) -> Peer {
    let user = user(uid);
    let gid = user.as_ref().map_or(Gid::from_raw(NOBODY), |u| u.gid);
    let groups = user
        .as_ref()
        .and_then(|u| CString::new(u.name.as_str()).ok())
        .and_then(|name| getgrouplist(&name, gid).ok())
        .unwrap_or_else(|| vec![gid]);
    Peer {
        uid,
        gid: gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
        pid: 0,
        user_name: user.map(|u| u.name),
        executable: None,
    }
}

/// Whose socket is at the other end of a connection that does not leave this host.
fn local_user(theirs: SocketAddr, ours: SocketAddr) -> Option<u32> {
    if !theirs.ip().to_canonical().is_loopback() || !ours.ip().to_canonical().is_loopback() {
        return None;
    }
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .find_map(|table| table.lines().skip(1).find_map(|line| owner(line, theirs, ours)))
}

/// The user of a line of the kernel's table if it is the connection from `theirs` to `ours`.
fn owner(line: &str, theirs: SocketAddr, ours: SocketAddr) -> Option<u32> {
    let mut fields = line.split_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let remote = address(fields.next()?)?;
    (local == canonical(theirs) && remote == canonical(ours)).then_some(())?;
    fields.nth(4)?.parse().ok()
}

fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// `0100007F:1F90`: words of four bytes in the machine's order, and the port.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if !matches!(ip.len(), 8 | 32) {
        return None;
    }
    let mut bytes = Vec::with_capacity(16);
    for word in ip.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some((ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::{address, local_user};

    #[test]
    fn the_kernel_knows_whose_a_loopback_connection_is() {
        for host in ["127.0.0.1", "::1"] {
            let Ok(listener) = TcpListener::bind((host, 0)) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, theirs) = listener.accept().unwrap();
            let me = nix::unistd::getuid().as_raw();
            assert_eq!(local_user(theirs, server.local_addr().unwrap()), Some(me), "{host}");
            // The server's own end is not the client's.
            let mut wrong = theirs;
            wrong.set_port(1);
            assert_eq!(local_user(wrong, server.local_addr().unwrap()), None);
            drop(client);
        }
        let far = "192.0.2.1:5".parse().unwrap();
        assert_eq!(local_user(far, far), None);
    }

    #[test]
    fn addresses_of_the_table() {
        let word = u32::from_ne_bytes([127, 0, 0, 1]);
        assert_eq!(address(&format!("{word:08X}:1F90")), Some(([127, 0, 0, 1].into(), 8080)));
        for bad in ["", "0100007F", "01:1", "xx:1", "0100007F0100007F:1", "0100007F:10000"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }
}
