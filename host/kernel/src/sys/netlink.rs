//! Netlink sockets, and sockets that only hold a port.

use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{check, check_fd};
use crate::error::{Error, Result};

/// A netlink socket of the calling thread's network namespace, closed at exec, and its port number.
///
/// Acknowledgements come without a copy of the request and with the kernel's own words where it has some.
pub fn open(protocol: i32) -> Result<(OwnedFd, u32)> {
    // SAFETY: plain numbers.
    let result = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    let socket = check_fd(result.into(), || format!("socket(AF_NETLINK, {protocol})"))?;
    let raw = socket.as_raw_fd();
    // SAFETY: all zeroes are a valid address.
    let mut address: libc::sockaddr_nl = unsafe { MaybeUninit::zeroed().assume_init() };
    address.nl_family = family(libc::AF_NETLINK);
    let mut length = size_u32::<libc::sockaddr_nl>();
    // SAFETY: the address is valid for the length given.
    let result = unsafe { libc::bind(raw, std::ptr::from_ref(&address).cast(), length) };
    check(result.into(), || format!("bind({raw}, AF_NETLINK)"))?;
    // SAFETY: room for an address of the length said.
    let result = unsafe {
        libc::getsockname(raw, std::ptr::from_mut(&mut address).cast(), std::ptr::from_mut(&mut length))
    };
    check(result.into(), || format!("getsockname({raw})"))?;
    // Both only make errors shorter and clearer; an old kernel does without.
    let _ = set(raw, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
    let _ = set(raw, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
    Ok((socket, address.nl_pid))
}

/// Room for batches of `bytes` in either direction, beyond the administrator's limit.
pub fn set_buffers(socket: BorrowedFd<'_>, bytes: i32) -> Result<()> {
    let raw = socket.as_raw_fd();
    set(raw, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes)?;
    set(raw, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
}

/// Also receives what the kernel says to a multicast group.
pub fn join(socket: BorrowedFd<'_>, group: i32) -> Result<()> {
    set(socket.as_raw_fd(), libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
}

/// Drops, unseen, all messages that answer to or follow from requests of the netlink port `port`.
pub fn ignore_port(socket: BorrowedFd<'_>, port: u32) -> Result<()> {
    let raw = socket.as_raw_fd();
    let step = |code: u32, jt: u8, jf: u8, k: u32| {
        #[allow(clippy::cast_possible_truncation, reason = "codes of classic BPF have 16 bits")]
        libc::sock_filter { code: code as u16, jt, jf, k }
    };
    let program = [
        // The sender's port is at byte 12 of the header; the filter loads it in network order.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 12),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, port.to_be()),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program lives for the call, which copies it.
    let result = unsafe {
        libc::setsockopt(
            raw,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::from_ref(&filter).cast(),
            size_u32::<libc::sock_fprog>(),
        )
    };
    check(result.into(), || format!("setsockopt({raw}, SO_ATTACH_FILTER)")).map(drop)
}

/// Sends one datagram of any number of messages. The kernel has acted on all of them when this returns.
pub fn send(socket: BorrowedFd<'_>, data: &[u8]) -> Result<()> {
    let raw = socket.as_raw_fd();
    loop {
        // SAFETY: the buffer is valid for its length.
        let result = unsafe { libc::send(raw, data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) };
        if result < 0 && nix::errno::Errno::last_raw() == libc::EINTR {
            continue;
        }
        #[allow(clippy::unnecessary_cast, reason = "isize and c_long differ on other targets")]
        return check(result as libc::c_long, || format!("send({raw}, {} bytes)", data.len())).map(drop);
    }
}

/// Receives one datagram; `None` if none is there and `wait` is false. The length may exceed the buffer's: then it
/// was cut off.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: bool) -> Result<Option<usize>> {
    let raw = socket.as_raw_fd();
    let flags = libc::MSG_TRUNC | if wait { 0 } else { libc::MSG_DONTWAIT };
    loop {
        // SAFETY: the buffer is valid for its length.
        let result = unsafe { libc::recv(raw, buffer.as_mut_ptr().cast(), buffer.len(), flags) };
        if result < 0 {
            match nix::errno::Errno::last_raw() {
                libc::EINTR => continue,
                libc::EAGAIN => return Ok(None),
                _ => {}
            }
        }
        #[allow(clippy::unnecessary_cast, reason = "isize and c_long differ on other targets")]
        let length = check(result as libc::c_long, || format!("recv({raw})"))?;
        return Ok(Some(usize::try_from(length).unwrap_or(0)));
    }
}

/// How a port is to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// A TCP port.
    Tcp,
    /// A UDP port.
    Udp,
    /// An SCTP port.
    Sctp,
}

/// A socket for ports at `address`, bound to nothing yet; one of IPv6 is for that alone.
fn port_socket(kind: Hold, address: SocketAddr, flags: i32) -> Result<OwnedFd> {
    let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let (kind, protocol) = match kind {
        Hold::Tcp => (libc::SOCK_STREAM, libc::IPPROTO_TCP),
        Hold::Udp => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        Hold::Sctp => (libc::SOCK_STREAM, libc::IPPROTO_SCTP),
    };
    // SAFETY: plain numbers.
    let result = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC | flags, protocol) };
    let socket = check_fd(result.into(), || format!("socket({domain}, {kind}, {protocol})"))?;
    if address.is_ipv6() {
        set(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    Ok(socket)
}

/// Binds and listens. Connections of an earlier server in `TIME_WAIT` are no obstacle; whoever listens is.
fn listen(socket: &OwnedFd, address: SocketAddr, waiting: i32) -> Result<()> {
    let raw = socket.as_raw_fd();
    set(raw, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    bind(socket, address)?;
    // SAFETY: plain numbers.
    check(unsafe { libc::listen(raw, waiting) }.into(), || format!("listen({raw}, {waiting})")).map(drop)
}

/// A socket that is bound to `address` and does nothing else. Port 0: the kernel picks one; see the result.
pub fn hold_port(kind: Hold, address: SocketAddr) -> Result<(OwnedFd, u16)> {
    let mut socket = port_socket(kind, address, 0)?;
    match bind(&socket, address) {
        Err(error) if error.is(libc::EADDRINUSE) && kind != Hold::Udp && address.port() != 0 => {
            // Whoever listens is found by listening too; then the socket stops listening and keeps the port.
            socket = port_socket(kind, address, 0)?;
            listen(&socket, address, 0)?;
            let raw = socket.as_raw_fd();
            // SAFETY: plain numbers.
            check(unsafe { libc::shutdown(raw, libc::SHUT_RD) }.into(), || format!("shutdown({raw})"))?;
            set(raw, libc::SOL_SOCKET, libc::SO_REUSEADDR, 0)?;
        }
        other => other?,
    }
    if kind == Hold::Udp {
        // Datagrams that nobody redirects would queue here unread.
        set(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 0)?;
    }
    let port = local_port(&socket)?;
    Ok((socket, port))
}

/// A non-blocking socket that takes connections or datagrams at `address`, and what is of IPv6 only that. Not for SCTP. Port 0:
/// the kernel picks one; see the result.
pub fn listen_port(kind: Hold, address: SocketAddr) -> Result<(OwnedFd, u16)> {
    /// Connections that wait to be taken; what is more the kernel answers with cookies, or not at all.
    const WAITING: i32 = 1024;
    if kind == Hold::Sctp {
        return Err(Error::refused("listen()", libc::EPROTONOSUPPORT, "SCTP is not carried"));
    }
    let socket = port_socket(kind, address, libc::SOCK_NONBLOCK)?;
    match kind {
        Hold::Udp => bind(&socket, address)?,
        Hold::Tcp | Hold::Sctp => listen(&socket, address, WAITING)?,
    }
    let port = local_port(&socket)?;
    Ok((socket, port))
}

/// Whether this host, in the calling thread's network namespace, has IPv6 at all: whether its own loopback does.
pub fn has_ipv6() -> bool {
    hold_port(Hold::Udp, SocketAddr::new(IpAddr::from(std::net::Ipv6Addr::LOCALHOST), 0)).is_ok()
}

fn bind(socket: &OwnedFd, address: SocketAddr) -> Result<()> {
    let raw = socket.as_raw_fd();
    let result = match address {
        SocketAddr::V4(v4) => {
            let address = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the address is valid for the length given.
            unsafe { libc::bind(raw, std::ptr::from_ref(&address).cast(), size_u32::<libc::sockaddr_in>()) }
        }
        SocketAddr::V6(v6) => {
            let address = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: the address is valid for the length given.
            unsafe { libc::bind(raw, std::ptr::from_ref(&address).cast(), size_u32::<libc::sockaddr_in6>()) }
        }
    };
    check(result.into(), || format!("bind({raw}, {address})")).map(drop)
}

fn local_port(socket: &OwnedFd) -> Result<u16> {
    let raw = socket.as_raw_fd();
    // SAFETY: all zeroes are a valid address.
    let mut address: libc::sockaddr_in6 = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut length = size_u32::<libc::sockaddr_in6>();
    // SAFETY: room for an address of the length said.
    let result = unsafe {
        libc::getsockname(raw, std::ptr::from_mut(&mut address).cast(), std::ptr::from_mut(&mut length))
    };
    check(result.into(), || format!("getsockname({raw})"))?;
    // Both families have the port at the same place.
    Ok(u16::from_be(address.sin6_port))
}

fn set(raw: i32, level: i32, option: i32, value: i32) -> Result<()> {
    // SAFETY: the value is valid for the length given.
    let result =
        unsafe { libc::setsockopt(raw, level, option, std::ptr::from_ref(&value).cast(), size_u32::<i32>()) };
    check(result.into(), || format!("setsockopt({raw}, {level}, {option}, {value})")).map(drop)
}

#[allow(clippy::cast_possible_truncation, reason = "structures of a few bytes")]
const fn size_u32<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "families are small numbers")]
const fn family(number: i32) -> libc::sa_family_t {
    number as libc::sa_family_t
}
