//! The container's pseudo terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use wharf_plan::run::{Stage, StartError};

use super::At;
use crate::error::{Error, Result};
use crate::sys::file::{self, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS};
use crate::sys::{mount, tty};

const DEVPTS_MAGIC: libc::c_long = 0x1cd1;

/// Both ends of a terminal.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Opens a terminal of the container's own devpts: of the mount just made, or of what lies at /dev/pts in a running
/// container. The terminal end is opened through the master, so no name in the container is trusted for it.
pub(super) fn open(
    root: BorrowedFd<'_>,
    devpts: Option<BorrowedFd<'_>>,
    size: Option<(u16, u16)>,
) -> Result<Terminal, StartError> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = match devpts {
        Some(mount) => file::openat2(mount, c"ptmx", flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS),
        None => file::openat2(root, c"dev/pts/ptmx", flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS),
    }
    .and_then(verified)
    .at(Stage::Stdio, || "opening a terminal of /dev/pts")?;
    tty::unlock(master.as_fd()).at(Stage::Stdio, || "unlocking the terminal")?;
    let slave = tty::peer(master.as_fd()).at(Stage::Stdio, || "opening the terminal")?;
    if let Some((rows, columns)) = size {
        tty::set_size(master.as_fd(), rows, columns).at(Stage::Stdio, || "sizing the terminal")?;
    }
    Ok(Terminal { master, slave })
}

fn verified(master: OwnedFd) -> Result<OwnedFd> {
    #[allow(clippy::unnecessary_cast, reason = "the field's type differs between architectures")]
    let magic = file::fstatfs(master.as_fd())?.f_type as libc::c_long;
    if magic == DEVPTS_MAGIC {
        Ok(master)
    } else {
        Err(Error::refused("ptmx", libc::ENODEV, "/dev/pts is not a devpts file system"))
    }
}

/// Puts the terminal on /dev/console by descriptor (CVE-2025-52565 was a path swapped in between).
pub(super) fn bind_console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<()> {
    let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    let dev = match file::openat2(root, c"dev", libc::O_PATH | libc::O_DIRECTORY, 0, resolve) {
        // Without /dev there is no console either.
        Err(e) if e.is_not_found() => return Ok(()),
        result => result?,
    };
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
    match file::openat(Some(dev.as_fd()), c"console", flags, 0o600) {
        Ok(_) => {}
        Err(e) if e.is_exists() => {}
        Err(e) => return Err(e),
    }
    let place = file::openat(Some(dev.as_fd()), c"console", libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    if file::fstatat(place.as_fd(), c"")?.st_mode & libc::S_IFMT == libc::S_IFLNK {
        return Err(Error::refused("/dev/console", libc::ELOOP, "is a symbolic link"));
    }
    let tree = mount::open_tree(Some(slave), c"", mount::OPEN_TREE_CLONE)?;
    mount::move_mount(tree.as_fd(), place.as_fd())
}
