//! What carrying traffic from socket to socket asks of the kernel.

use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;
use crate::error::{Error, Result};

/// The two ends of a pipe, for reading and for writing: non-blocking, closed at exec, with room for `bytes` where the kernel
/// lets it have that.
pub fn pipe(bytes: i32) -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1_i32; 2];
    // SAFETY: room for two descriptors.
    let result = unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) };
    check(result.into(), || "pipe2()".into())?;
    let [read, write] = fds;
    // SAFETY: the kernel has just made both for us.
    let ends = unsafe { (OwnedFd::from_raw_fd(read), OwnedFd::from_raw_fd(write)) };
    // SAFETY: plain numbers. A smaller pipe works as well, with more calls.
    let _ = unsafe { libc::fcntl(ends.1.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
    Ok(ends)
}

/// Moves up to `most` bytes between a pipe and a socket without copying them. 0: there will be no more.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> Result<usize> {
    let (null, flags) = (std::ptr::null_mut(), libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE);
    // SAFETY: no offsets are given.
    let result = unsafe { libc::splice(from.as_raw_fd(), null, to.as_raw_fd(), null, most, flags) };
    #[allow(clippy::unnecessary_cast, reason = "isize and c_long differ on other targets")]
    let moved =
        check(result as libc::c_long, || format!("splice({}, {})", from.as_raw_fd(), to.as_raw_fd()))?;
    Ok(usize::try_from(moved).unwrap_or(0))
}

/// A connection that is closed from now on is cut off: the other end sees a reset, as from a host that knows of none.
pub fn reset_at_close(socket: BorrowedFd<'_>) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger, "SO_LINGER")
}

/// Has the kernel find out that the other end is gone: after `idle` seconds without a word it asks every `every` seconds, up
/// to `count` times.
pub fn keep_alive(socket: BorrowedFd<'_>, idle: i32, every: i32, count: i32) -> Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1_i32, "SO_KEEPALIVE")?;
    set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &idle, "TCP_KEEPIDLE")?;
    set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, &every, "TCP_KEEPINTVL")?;
    set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, &count, "TCP_KEEPCNT")
}

/// [`receive_from`] tells the address that each datagram was sent to.
pub fn tell_destinations(socket: BorrowedFd<'_>) -> Result<()> {
    set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &1_i32, "IPV6_RECVPKTINFO")
}

fn set<T>(socket: BorrowedFd<'_>, level: i32, option: i32, value: &T, name: &str) -> Result<()> {
    let raw = socket.as_raw_fd();
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the value is valid for the length given.
    let result = unsafe { libc::setsockopt(raw, level, option, std::ptr::from_ref(value).cast(), length) };
    check(result.into(), || format!("setsockopt({raw}, {name})")).map(drop)
}

/// An address of this host, with the interface where it is needed (0: any).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Local {
    /// The address.
    pub address: Ipv6Addr,
    /// The interface's number.
    pub interface: u32,
}

/// Room for one `in6_pktinfo`, and for what a kernel may add.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// One datagram of an IPv6 socket: its length, who sent it, and to which address of this host. One that is longer than the
/// buffer is an error.
pub fn receive_from(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<(usize, SocketAddrV6, Option<Local>)> {
    let raw = socket.as_raw_fd();
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeroes are a valid address and a valid empty header.
    let (mut from, mut header): (libc::sockaddr_in6, libc::msghdr) =
        unsafe { (MaybeUninit::zeroed().assume_init(), MaybeUninit::zeroed().assume_init()) };
    let mut control = Control([0; 128]);
    header.msg_name = (&raw mut from).cast();
    header.msg_namelen = libc::socklen_t::try_from(size_of::<libc::sockaddr_in6>()).unwrap_or(0);
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    // SAFETY: the header describes memory that lives for the call.
    let result = unsafe { libc::recvmsg(raw, &raw mut header, libc::MSG_DONTWAIT) };
    #[allow(clippy::unnecessary_cast, reason = "isize and c_long differ on other targets")]
    let length = check(result as libc::c_long, || format!("recvmsg({raw})"))?;
    if header.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(Error::refused(format!("recvmsg({raw})"), libc::EMSGSIZE, "the datagram was cut off"));
    }
    if i32::from(from.sin6_family) != libc::AF_INET6 {
        return Err(Error::refused(format!("recvmsg({raw})"), libc::EAFNOSUPPORT, "not from IPv6"));
    }
    let mut local = None;
    // SAFETY: the kernel wrote well-formed control messages; each is read within its length.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::IPPROTO_IPV6 && (*message).cmsg_type == libc::IPV6_PKTINFO {
                #[allow(clippy::cast_ptr_alignment, reason = "read unaligned")]
                let info = libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().read_unaligned();
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                #[allow(clippy::useless_conversion, reason = "the field's type differs between C libraries")]
                let interface = u32::try_from(info.ipi6_ifindex).unwrap_or(0);
                local = Some(Local { address, interface });
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    let (ip, port) = (Ipv6Addr::from(from.sin6_addr.s6_addr), u16::from_be(from.sin6_port));
    let from = SocketAddrV6::new(ip, port, 0, from.sin6_scope_id);
    Ok((usize::try_from(length).unwrap_or(0), from, local))
}

/// Sends one datagram of an IPv6 socket, from this address of the host where one is given.
pub fn send_to(socket: BorrowedFd<'_>, data: &[u8], to: SocketAddrV6, from: Option<Local>) -> Result<()> {
    let raw = socket.as_raw_fd();
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: all zeroes are a valid address and a valid empty header.
    let (mut name, mut header): (libc::sockaddr_in6, libc::msghdr) =
        unsafe { (MaybeUninit::zeroed().assume_init(), MaybeUninit::zeroed().assume_init()) };
    name.sin6_family = libc::sa_family_t::try_from(libc::AF_INET6).unwrap_or(0);
    name.sin6_port = to.port().to_be();
    name.sin6_addr.s6_addr = to.ip().octets();
    name.sin6_scope_id = to.scope_id();
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = libc::socklen_t::try_from(size_of::<libc::sockaddr_in6>()).unwrap_or(0);
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    let mut control = Control([0; 128]);
    if let Some(local) = from {
        #[allow(clippy::useless_conversion, reason = "the field's type differs between C libraries")]
        let info = libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr { s6_addr: local.address.octets() },
            ipi6_ifindex: local.interface.try_into().unwrap_or(0),
        };
        let size = u32::try_from(size_of::<libc::in6_pktinfo>()).unwrap_or(0);
        // SAFETY: the buffer is longer than header and structure together, and aligned.
        unsafe {
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(size) as _;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::IPPROTO_IPV6;
            (*message).cmsg_type = libc::IPV6_PKTINFO;
            (*message).cmsg_len = libc::CMSG_LEN(size) as _;
            #[allow(clippy::cast_ptr_alignment, reason = "written unaligned")]
            libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().write_unaligned(info);
        }
    }
    // SAFETY: the header describes memory that lives for the call.
    let result = unsafe { libc::sendmsg(raw, &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    #[allow(clippy::unnecessary_cast, reason = "isize and c_long differ on other targets")]
    check(result as libc::c_long, || format!("sendmsg({raw}, {} bytes to {to})", data.len())).map(drop)
}
