//! Every system call that needs `unsafe`, each behind a safe, typed wrapper.
//!
//! This module is the only one of the whole workspace's host part that may say `unsafe`. A wrapper takes borrowed
//! descriptors and C strings, returns owned descriptors, and on failure gives an [`Error`](crate::error::Error) that
//! prints the call and its arguments like strace does. The text is made on failure only, so wrappers allocate nothing
//! on the way that succeeds and can be used between fork and exec.

pub mod bpf;
pub mod btrfs;
pub mod carry;
pub mod file;
pub mod heap;
#[cfg(feature = "isal")]
pub mod igzip;
pub mod loopdev;
pub mod mount;
pub mod net_device;
pub mod netlink;
pub mod process;
pub mod quota;
pub mod socket;
pub mod tty;

use std::os::fd::{FromRawFd, OwnedFd};

use crate::error::{Error, Result};

/// A raw result: -1 means look at errno.
pub(crate) fn check(result: libc::c_long, call: impl FnOnce() -> String) -> Result<libc::c_long> {
    if result < 0 {
        let errno = nix::errno::Errno::last_raw();
        Err(Error::new(call(), errno))
    } else {
        Ok(result)
    }
}

/// A raw result that is a new descriptor.
pub(crate) fn check_fd(result: libc::c_long, call: impl FnOnce() -> String) -> Result<OwnedFd> {
    let fd = check(result, call)?;
    #[allow(clippy::cast_possible_truncation, reason = "the kernel returns descriptors as int")]
    let fd = fd as i32;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Seconds and nanoseconds since the Unix epoch as one number.
pub fn realtime_nanos() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()
        .and_then(|d| u64::try_from(d.as_nanos()).ok())
        .unwrap_or(0)
}
