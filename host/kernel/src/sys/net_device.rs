//! The one thing done to a network device without netlink: loopback up, in two calls.

use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use super::{check, check_fd};
use crate::error::Result;

/// Brings `lo` of the calling thread's network namespace up.
pub fn loopback_up() -> Result<()> {
    // SAFETY: plain numbers.
    let result = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let socket = check_fd(result.into(), || "socket(AF_INET, SOCK_DGRAM)".into())?;
    let fd = socket.as_raw_fd();
    // SAFETY: all zeroes are a valid request.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        #[allow(clippy::cast_possible_wrap, reason = "bytes are bytes")]
        {
            *to = *from as libc::c_char;
        }
    }
    #[allow(clippy::cast_possible_truncation, reason = "the flags are the two lowest bits and bit 6")]
    {
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    }
    // SAFETY: the ioctl reads one ifreq.
    let result = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, std::ptr::from_ref(&request)) };
    check(result.into(), || format!("ioctl({fd}, SIOCSIFFLAGS, lo up)")).map(drop)
}
