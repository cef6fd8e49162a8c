//! Pseudo terminals.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{check, check_fd};
use crate::error::Result;

/// Unlocks the other end of a master.
pub fn unlock(master: BorrowedFd<'_>) -> Result<()> {
    let fd = master.as_raw_fd();
    let lock = 0i32;
    // SAFETY: the ioctl reads one int.
    let result = unsafe { libc::ioctl(fd, libc::TIOCSPTLCK, std::ptr::from_ref(&lock)) };
    check(result.into(), || format!("ioctl({fd}, TIOCSPTLCK, [0])")).map(drop)
}

/// Opens the terminal end of a master without any path.
pub fn peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let fd = master.as_raw_fd();
    // SAFETY: the argument is a flag word.
    let result =
        unsafe { libc::ioctl(fd, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
    check_fd(result.into(), || format!("ioctl({fd}, TIOCGPTPEER)"))
}

/// Makes the terminal the controlling one of this session.
pub fn make_controlling(terminal: BorrowedFd<'_>) -> Result<()> {
    let fd = terminal.as_raw_fd();
    // SAFETY: the argument is a number.
    let result = unsafe { libc::ioctl(fd, libc::TIOCSCTTY, 0) };
    check(result.into(), || format!("ioctl({fd}, TIOCSCTTY, 0)")).map(drop)
}

/// Sets rows and columns; also how the daemon resizes through the master.
pub fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let fd = terminal.as_raw_fd();
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl reads one winsize.
    let result = unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, std::ptr::from_ref(&size)) };
    check(result.into(), || format!("ioctl({fd}, TIOCSWINSZ, {rows}x{columns})")).map(drop)
}

/// Rows and columns of a terminal; None where it is none.
pub fn size(terminal: BorrowedFd<'_>) -> Option<(u16, u16)> {
    // SAFETY: all zeroes are a valid size.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives for the call, which fills it.
    let result =
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, std::ptr::from_mut(&mut size)) };
    (result == 0 && size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
