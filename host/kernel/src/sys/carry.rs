//! What carrying traffic from socket to socket asks of the kernel.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SetSockOpt, SockaddrIn6, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags};

use crate::error::{Error, Result};

/// The two ends of a pipe, for reading and for writing: non-blocking, closed at exec, with room for `bytes` where the kernel
/// lets it have that.
pub fn pipe(bytes: usize) -> Result<(OwnedFd, OwnedFd)> {
    let ends = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|e| Error::new("pipe2()", e.raw_os_error()))?;
    // A smaller pipe works as well, with more calls.
    let _ = rustix::pipe::fcntl_setpipe_size(&ends.1, bytes);
    Ok(ends)
}

/// Moves up to `most` bytes between a pipe and a socket without copying them. 0: there will be no more.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> Result<usize> {
    rustix::pipe::splice(from, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE).map_err(|e| {
        Error::new(format!("splice({}, {})", from.as_raw_fd(), to.as_raw_fd()), e.raw_os_error())
    })
}

/// A connection that is closed from now on is cut off: the other end sees a reset, as from a host that knows of none.
pub fn reset_at_close(socket: BorrowedFd<'_>) -> Result<()> {
    set(socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }, "SO_LINGER")
}

/// Has the kernel find out that the other end is gone: after `idle` seconds without a word it asks every `every` seconds, up
/// to `count` times.
pub fn keep_alive(socket: BorrowedFd<'_>, idle: u32, every: u32, count: u32) -> Result<()> {
    set(socket, sockopt::KeepAlive, &true, "SO_KEEPALIVE")?;
    set(socket, sockopt::TcpKeepIdle, &idle, "TCP_KEEPIDLE")?;
    set(socket, sockopt::TcpKeepInterval, &every, "TCP_KEEPINTVL")?;
    set(socket, sockopt::TcpKeepCount, &count, "TCP_KEEPCNT")
}

/// [`receive_from`] tells the address that each datagram was sent to.
pub fn tell_destinations(socket: BorrowedFd<'_>) -> Result<()> {
    set(socket, sockopt::Ipv6RecvPacketInfo, &true, "IPV6_RECVPKTINFO")
}

fn set<O: SetSockOpt>(socket: BorrowedFd<'_>, option: O, value: &O::Val, name: &str) -> Result<()> {
    let failed = |e| Error::new(format!("setsockopt({}, {name})", socket.as_raw_fd()), e as i32);
    nix::sys::socket::setsockopt(&socket, option, value).map_err(failed)
}

/// An address of this host, with the interface where it is needed (0: any).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Local {
    /// The address.
    pub address: Ipv6Addr,
    /// The interface's number.
    pub interface: u32,
}

/// One datagram of an IPv6 socket: its length, who sent it, and to which address of this host. One that is longer than the
/// buffer is an error.
pub fn receive_from(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<(usize, SocketAddrV6, Option<Local>)> {
    let raw = socket.as_raw_fd();
    let call = || format!("recvmsg({raw})");
    let mut parts = [IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let received =
        nix::sys::socket::recvmsg::<SockaddrIn6>(raw, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)
            .map_err(|e| Error::new(call(), e as i32))?;
    if received.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(Error::refused(call(), libc::EMSGSIZE, "the datagram was cut off"));
    }
    let Some(from) = received.address else {
        return Err(Error::refused(call(), libc::EAFNOSUPPORT, "not from IPv6"));
    };
    let told = received.cmsgs().map_err(|e| Error::new(call(), e as i32))?;
    let local = told.into_iter().find_map(|message| match message {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Local {
            address: Ipv6Addr::from(info.ipi6_addr.s6_addr),
            #[allow(clippy::useless_conversion, reason = "the field's type differs between C libraries")]
            interface: u32::try_from(info.ipi6_ifindex).unwrap_or(0),
        }),
        _ => None,
    });
    let from = SocketAddrV6::new(from.ip(), from.port(), 0, from.scope_id());
    Ok((received.bytes, from, local))
}

/// Sends one datagram of an IPv6 socket, from this address of the host where one is given.
pub fn send_to(socket: BorrowedFd<'_>, data: &[u8], to: SocketAddrV6, from: Option<Local>) -> Result<()> {
    let raw = socket.as_raw_fd();
    let info = from.map(|local| libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr { s6_addr: local.address.octets() },
        #[allow(clippy::useless_conversion, reason = "the field's type differs between C libraries")]
        ipi6_ifindex: local.interface.try_into().unwrap_or(0),
    });
    let control: Option<ControlMessage<'_>> = info.as_ref().map(ControlMessage::Ipv6PacketInfo);
    let to_address = SockaddrIn6::from(SocketAddrV6::new(*to.ip(), to.port(), 0, to.scope_id()));
    nix::sys::socket::sendmsg(
        raw,
        &[IoSlice::new(data)],
        control.as_slice(),
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        Some(&to_address),
    )
    .map(drop)
    .map_err(|e| Error::new(format!("sendmsg({raw}, {} bytes to {to})", data.len()), e as i32))
}
