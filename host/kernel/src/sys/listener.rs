//! Filters whose answers come from somebody else (`seccomp_unotify(2)`), and their descriptor.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::check_fd;
use super::process::sock_fprog;
use crate::error::Result;

/// Installs a filter of this thread that has a listener, and gives the listener's descriptor, which is closed at exec.
///
/// From here on any call of this thread may wait for whoever reads from the listener.
pub fn install(program: &[u8]) -> Result<OwnedFd> {
    const SECCOMP_FILTER_FLAG_NEW_LISTENER: libc::c_ulong = 1 << 3;
    let filter = sock_fprog(program)?;
    // SAFETY: `filter` describes valid memory of the length said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            SECCOMP_FILTER_FLAG_NEW_LISTENER,
            std::ptr::from_ref(&filter),
        )
    };
    check_fd(result, || "seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER)".into())
}

/// A copy of a descriptor of another process, by its number there. EBADF where it has none of that number.
pub fn fetch(process: BorrowedFd<'_>, number: i32) -> Result<OwnedFd> {
    let raw = process.as_raw_fd();
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_getfd, raw, number, 0) };
    check_fd(result, || format!("pidfd_getfd({raw}, {number}, 0)"))
}
