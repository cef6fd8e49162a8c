//! Unix sockets that carry descriptors.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::{check, check_fd};
use crate::error::{Error, Result};

/// The most descriptors that the kernel takes with one message.
pub const MAX_FDS: usize = 253;

const CONTROL: usize = 1088;

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Two connected SEQPACKET sockets, closed at exec.
pub fn pair(nonblocking: bool) -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1i32; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: room for two descriptors.
    let result = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) };
    check(result.into(), || "socketpair(AF_UNIX, SOCK_SEQPACKET)".into())?;
    let [a, b] = fds;
    // SAFETY: the kernel has just made both for us.
    Ok(unsafe { (OwnedFd::from_raw_fd(a), OwnedFd::from_raw_fd(b)) })
}

/// Whether the other end of a connected unix socket has taken all that was written so far.
pub fn taken(socket: BorrowedFd<'_>) -> Result<bool> {
    let mut unread: i32 = 0;
    // SAFETY: the kernel writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
    check(result.into(), || format!("ioctl({}, SIOCOUTQ)", socket.as_raw_fd()))?;
    Ok(unread == 0)
}

/// The network namespace that a socket belongs to, whoever holds it.
pub fn network_namespace(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    /// `SIOCGSKNS` of linux/sockios.h.
    const GET_NAMESPACE: libc::c_ulong = 0x894c;
    let raw = socket.as_raw_fd();
    #[allow(clippy::useless_conversion, reason = "the request's type differs between C libraries")]
    // SAFETY: takes no argument and gives a new descriptor.
    let result = unsafe { libc::ioctl(raw, GET_NAMESPACE.try_into().unwrap_or_default()) };
    check_fd(result.into(), || format!("ioctl({raw}, SIOCGSKNS)"))
}

fn address(path: &Path) -> Result<(libc::sockaddr_un, libc::socklen_t)> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: all zeroes are a valid address.
    let mut address: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    #[allow(clippy::cast_possible_truncation, reason = "the constant is 1")]
    {
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    }
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() || bytes.is_empty() {
        return Err(Error::refused(
            format!("bind({})", path.display()),
            libc::ENAMETOOLONG,
            "a socket's path has at most 107 bytes",
        ));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        #[allow(clippy::cast_possible_wrap, reason = "bytes are bytes")]
        {
            *to = *from as libc::c_char;
        }
    }
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, libc::socklen_t::try_from(length).unwrap_or(0)))
}

fn socket(nonblocking: bool) -> Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: plain numbers.
    let result = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    check_fd(result.into(), || "socket(AF_UNIX, SOCK_SEQPACKET)".into())
}

/// A non-blocking SEQPACKET listener at `path`, for the owner only.
pub fn listen(path: &Path) -> Result<OwnedFd> {
    let fd = socket(true)?;
    let raw = fd.as_raw_fd();
    let (address, length) = address(path)?;
    // The mode of the socket file comes from the socket's inode, so it is never open to others, not even briefly.
    // SAFETY: plain numbers.
    check(unsafe { libc::fchmod(raw, 0o600) }.into(), || format!("fchmod({raw}, 0600)"))?;
    // SAFETY: the address is valid for the length given.
    let result = unsafe { libc::bind(raw, std::ptr::from_ref(&address).cast(), length) };
    check(result.into(), || format!("bind({raw}, {})", path.display()))?;
    // SAFETY: plain numbers.
    check(unsafe { libc::listen(raw, 16) }.into(), || format!("listen({raw}, 16)"))?;
    Ok(fd)
}

/// A non-blocking SEQPACKET connection to `path`.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    let fd = socket(true)?;
    let raw = fd.as_raw_fd();
    let (address, length) = address(path)?;
    // SAFETY: the address is valid for the length given.
    let result = unsafe { libc::connect(raw, std::ptr::from_ref(&address).cast(), length) };
    check(result.into(), || format!("connect({raw}, {})", path.display()))?;
    Ok(fd)
}

/// The next connection of a listener.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd> {
    let raw = listener.as_raw_fd();
    // SAFETY: the peer's address is not asked for.
    let result = unsafe {
        libc::accept4(
            raw,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
        )
    };
    check_fd(result.into(), || format!("accept4({raw})"))
}

/// Process and user of the other end at the time it connected.
pub fn peer(socket: BorrowedFd<'_>) -> Result<libc::ucred> {
    let raw = socket.as_raw_fd();
    let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: room for the structure of the length said.
    let result = unsafe {
        libc::getsockopt(
            raw,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut cred).cast(),
            std::ptr::from_mut(&mut length),
        )
    };
    check(result.into(), || format!("getsockopt({raw}, SO_PEERCRED)"))?;
    Ok(cred)
}

/// The supplementary groups of a unix socket's other end, as they were when it connected.
pub fn peer_groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>> {
    let raw = socket.as_raw_fd();
    let mut groups = vec![0u32; 64];
    loop {
        let mut length = libc::socklen_t::try_from(groups.len() * 4).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: `length` says how many bytes there is room for; the kernel writes no more.
        let result = unsafe {
            libc::getsockopt(
                raw,
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                std::ptr::from_mut(&mut length),
            )
        };
        let count = usize::try_from(length).unwrap_or(0) / 4;
        if result < 0 && nix::errno::Errno::last() == nix::errno::Errno::ERANGE && count > groups.len() {
            groups.resize(count, 0);
            continue;
        }
        check(result.into(), || format!("getsockopt({raw}, SO_PEERGROUPS)"))?;
        groups.truncate(count);
        return Ok(groups);
    }
}

/// One message with descriptors. Never raises SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, data: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let raw = socket.as_raw_fd();
    if fds.len() > MAX_FDS {
        return Err(Error::refused(format!("sendmsg({raw})"), libc::EINVAL, "too many descriptors"));
    }
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: all zeroes are a valid empty header.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    let mut control = Control([0; CONTROL]);
    if !fds.is_empty() {
        let bytes = u32::try_from(size_of_val(fds)).unwrap_or(0);
        // SAFETY: the buffer holds CMSG_SPACE of MAX_FDS descriptors and is aligned, so header and data lie within it.
        unsafe {
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(bytes) as _;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(bytes) as _;
            // A borrowed descriptor has the representation of its number.
            std::ptr::copy_nonoverlapping(
                fds.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(message),
                bytes as usize,
            );
        }
    }
    loop {
        // SAFETY: the header describes memory that lives for the call.
        let result = unsafe { libc::sendmsg(raw, &raw const header, libc::MSG_NOSIGNAL) };
        if result < 0 && nix::errno::Errno::last_raw() == libc::EINTR {
            continue;
        }
        #[allow(clippy::unnecessary_cast, reason = "isize and c_long differ on other targets")]
        return check(result as libc::c_long, || {
            format!("sendmsg({raw}, {} bytes, {} descriptors)", data.len(), fds.len())
        })
        .map(drop);
    }
}

/// One message into `buffer`: its length (0: the other end is closed) and the descriptors that came along.
/// A message longer than the buffer or with more descriptors than [`MAX_FDS`] is an error, and what came of it is closed.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize> {
    let raw = socket.as_raw_fd();
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = Control([0; CONTROL]);
    // SAFETY: all zeroes are a valid empty header.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL as _;
    let length = loop {
        // SAFETY: the header describes memory that lives for the call.
        let result = unsafe { libc::recvmsg(raw, &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        if result < 0 && nix::errno::Errno::last_raw() == libc::EINTR {
            continue;
        }
        #[allow(clippy::unnecessary_cast, reason = "isize and c_long differ on other targets")]
        break check(result as libc::c_long, || format!("recvmsg({raw})"))?;
    };
    let first = fds.len();
    // SAFETY: the kernel wrote well-formed control messages; every SCM_RIGHTS number in them is a new descriptor of ours.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(message);
                #[allow(clippy::unnecessary_cast, reason = "the field's type differs between C libraries")]
                let bytes = (*message).cmsg_len as usize - (data as usize - message as usize);
                for index in 0..bytes / size_of::<i32>() {
                    #[allow(clippy::cast_ptr_alignment, reason = "read unaligned")]
                    let number = data.cast::<i32>().add(index).read_unaligned();
                    fds.push(OwnedFd::from_raw_fd(number));
                }
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        fds.truncate(first);
        return Err(Error::refused(format!("recvmsg({raw})"), libc::EMSGSIZE, "the message was cut off"));
    }
    Ok(usize::try_from(length).unwrap_or(0))
}
