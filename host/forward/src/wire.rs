//! What travels between daemon and forwarder: packets of a SEQPACKET socket in postcard, with the listeners' descriptors.
//! The daemon asks, the forwarder answers, one after the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wharf_kernel::sys::socket;
use wharf_kernel::{Error, Result};
use wharf_plan::net::OwnedForward;

/// Both ends must speak the same; a forwarder of another version is asked to retire.
pub(crate) const VERSION: u32 = 1;

/// The longest packet.
pub(crate) const PACKET: usize = 64 << 10;

/// So many forwards fit into one packet, and their listeners go with it.
pub(crate) const MOST: usize = 200;

/// From the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Takes no more connections and ends with the last one. It stays the first of its kind in every version.
    Retire,
    /// Those after the first so many.
    List(u32),
    /// Listen on these, whose sockets come along in the same order.
    Add(Vec<OwnedForward>),
    /// Give these up, with their connections.
    Remove(Vec<OwnedForward>),
    Count,
}

/// From the forwarder.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The first packet of a connection.
    Hello(u32),
    /// In order; at most [`MOST`].
    List(Vec<OwnedForward>),
    Done,
    Refused(String),
    Counts(Counts),
}

/// What a forwarder has under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Ports.
    pub listeners: usize,
    /// TCP connections.
    pub connections: usize,
    /// Clients of UDP ports.
    pub sessions: usize,
    /// Connections and datagrams turned away because somebody had too many.
    pub refused: u64,
}

/// Sends one packet.
pub(crate) fn send(to: BorrowedFd<'_>, message: &impl Serialize, fds: &[OwnedFd]) -> Result<()> {
    let bytes =
        postcard::to_stdvec(message).map_err(|e| Error::refused("encode", libc::EINVAL, e.to_string()))?;
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    socket::send(to, &bytes, &fds)
}

/// Takes one packet; None at the end of the connection.
pub(crate) fn receive<T: DeserializeOwned>(
    from: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<Option<(T, Vec<OwnedFd>)>> {
    let mut fds = Vec::new();
    let length = match socket::receive(from, buffer, &mut fds) {
        Err(e) if e.is(libc::ECONNRESET) => return Ok(None),
        result => result?,
    };
    if length == 0 {
        return Ok(None);
    }
    let message = postcard::from_bytes(buffer.get(..length).unwrap_or_default())
        .map_err(|e| Error::refused("decode", libc::EPROTO, e.to_string()))?;
    Ok(Some((message, fds)))
}

#[cfg(test)]
mod tests {
    use wharf_plan::net::{Forward, Protocol};

    use super::*;

    fn forward(port: u16) -> OwnedForward {
        let host = format!("[2001:db8:ffff:ffff:ffff:ffff:ffff:{port:x}]:65535").parse().unwrap();
        let container = "255.255.255.255:65535".parse().unwrap();
        ("f".repeat(64), Forward { protocol: Protocol::Udp, host, container })
    }

    #[test]
    fn the_longest_messages_fit() {
        let (ours, theirs) = socket::pair(true).unwrap();
        let all: Vec<_> = (0..MOST).map(|n| forward(u16::try_from(n).unwrap())).collect();
        let fds: Vec<OwnedFd> =
            all.iter().map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
        send(ours.as_fd(), &Request::Add(all.clone()), &fds).unwrap();
        let mut buffer = vec![0; PACKET];
        let (message, got) = receive::<Request>(theirs.as_fd(), &mut buffer).unwrap().unwrap();
        assert!(matches!(message, Request::Add(list) if list == all));
        assert_eq!(got.len(), MOST);
        drop(ours);
        assert!(receive::<Request>(theirs.as_fd(), &mut buffer).unwrap().is_none());
    }

    #[test]
    fn nonsense_is_refused() {
        let (ours, theirs) = socket::pair(true).unwrap();
        for bytes in [&b"\xff\xff"[..], &[2, 255, 255, 255, 255, 15], &[99]] {
            socket::send(ours.as_fd(), bytes, &[]).unwrap();
            assert!(receive::<Request>(theirs.as_fd(), &mut [0; 100]).is_err(), "{bytes:?}");
        }
        assert_eq!(postcard::to_stdvec(&Request::Retire).unwrap(), [0], "as in every version");
    }
}
